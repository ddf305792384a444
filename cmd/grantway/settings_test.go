package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/grantway/grantway/internal/config"
)

// A command gets the flags of its settings when it is named, also by the words before
// it alone where it is what they mean.
func TestSettings_EveryCommandHasItsFlags(t *testing.T) {
	tree := func(args ...string) *kong.Application {
		k, err := kong.New(newCommands(args), kong.Name("grantway"))
		if err != nil {
			t.Fatal(err)
		}
		return k.Model
	}
	flags := func(app *kong.Application, path string) map[string]bool {
		names := map[string]bool{}
		for _, leaf := range app.Leaves(false) {
			for _, f := range leaf.Flags {
				names[f.Name] = names[f.Name] || leaf.FullPath() == path
			}
		}
		return names
	}
	commands := 0
	for _, leaf := range tree().Leaves(false) {
		if !leaf.Target.FieldByName("Options").IsValid() {
			continue
		}
		commands++
		words := strings.Fields(leaf.FullPath())[1:]
		calls := [][]string{words}
		if leaf.Parent.DefaultCmd == leaf {
			calls = append(calls, words[:len(words)-1])
		}
		for _, call := range calls {
			has := flags(tree(call...), leaf.FullPath())
			for _, o := range config.Options() {
				if !has[o.Flag()] && !(words[0] == "init" && o.Key == "key_ring") {
					t.Errorf("grantway %s has no flag --%s", strings.Join(call, " "), o.Flag())
				}
			}
		}
	}
	if commands < 20 {
		t.Errorf("only %d commands with settings were found", commands)
	}
}
