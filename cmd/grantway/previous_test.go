package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/sqlstore"
)

// Nodes of the schema before this one go on while the schema is raised beneath them
// (DESIGN, decision 14): a demo of that commit is started, its database migrated by
// this program, and then that commit's own wire suite is run against it. The commit
// stands in internal/sqlstore/PREVIOUS from the second migration on.
func TestPrevious_RunsOnThisSchema(t *testing.T) {
	const file = "../../internal/sqlstore/PREVIOUS"
	text, err := os.ReadFile(file)
	if schemas := len(sqlstore.Migrations()); schemas == 1 {
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("there is one schema version, so %s names nothing: %v", file, err)
		}
		t.Log("there is one schema version, so there is no previous one to run")
		return
	}
	if err != nil {
		t.Fatalf("%s must name the last commit of the schema before this one: %v", file, err)
	}
	runPrevious(t, strings.TrimSpace(string(text)))
}

func runPrevious(t *testing.T, commit string) {
	tree := filepath.Join(t.TempDir(), "tree")
	sh := func(dir string, env []string, name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	sh("../..", nil, "git", "worktree", "add", "--detach", tree, commit)
	t.Cleanup(func() { exec.Command("git", "-C", "../..", "worktree", "remove", "--force", tree).Run() })
	old, database := filepath.Join(tree, "previous"), filepath.Join(t.TempDir(), "demo.db")
	sh(tree, nil, "go", "build", "-o", old, "./cmd/grantway")
	demo := exec.CommandContext(context.WithoutCancel(t.Context()), old, "demo", "--listen", "127.0.0.1:0", "--database", database, "--json")
	demo.Cancel, demo.WaitDelay = func() error { return demo.Process.Signal(syscall.SIGTERM) }, 15*time.Second
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		demo.Process.Signal(syscall.SIGTERM)
		if err := demo.Wait(); err != nil {
			t.Errorf("the previous demo: %v", err)
		}
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	doc := filepath.Join(t.TempDir(), "demo.json")
	if err := os.WriteFile(doc, line, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := store.Schema(t.Context()); err != nil || s.Have != s.Want {
		t.Fatalf("%+v, %v", s, err)
	}
	sh(tree, []string{"GRANTWAY_DEMO_JSON=" + doc}, "go", "test", "-count=1", "-run", "TestWire", "./internal/conformance")
}
