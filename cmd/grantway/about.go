package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/grantway/grantway/internal/config"
)

type configCommands struct {
	Check     configCheck     `cmd:"" help:"Report every mistake in the configuration at once."`
	Print     configPrint     `cmd:"" help:"Print every setting with its value and where it comes from."`
	Reference configReference `cmd:"" help:"Print the table of all settings as Markdown."`
}

type configCheck struct {
	Settings
	JSON bool `name:"json" help:"Print one JSON document."`
}

// Run reads the configuration as serve would.
func (c *configCheck) Run(t terminal) error {
	cfg, _, err := c.load(t)
	if err != nil {
		return err
	}
	if err := thereIs(cfg); err != nil {
		return err
	}
	o := office{json: c.JSON, out: t.out}
	return o.show(map[string]bool{"ok": true}, "The configuration is in order.")
}

type configPrint struct {
	Settings
	ShowPassword bool `help:"Show the password in a database's address."`
	JSON         bool `name:"json" help:"Print one JSON document."`
}

// Run prints the settings; a key ring only by its file.
func (c *configPrint) Run(t terminal) error {
	cfg, _, err := c.load(t)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(t.out, cfg.Rows(!c.ShowPassword))
	}
	return cfg.Print(t.out, !c.ShowPassword)
}

type configReference struct {
	JSON bool `name:"json" help:"Print one JSON document."`
}

// optionDoc is a row of the table of settings in JSON. default is null where there
// is none; derived says in words what is taken then.
type optionDoc struct {
	Key      string      `json:"key"`
	Env      string      `json:"env"`
	EnvFile  string      `json:"env_file,omitempty"`
	Flag     string      `json:"flag"`
	Kind     config.Kind `json:"kind"`
	Choices  []string    `json:"choices,omitempty"`
	Required bool        `json:"required"`
	Default  *string     `json:"default"`
	Derived  string      `json:"derived,omitempty"`
	Help     string      `json:"help"`
}

// Run prints the reference.
func (c *configReference) Run(t terminal) error {
	if c.JSON {
		var docs []optionDoc
		for _, o := range config.Options() {
			d := optionDoc{Key: o.Key, Env: o.Env(), EnvFile: o.EnvFile(), Flag: "--" + o.Flag(), Kind: o.Kind, Choices: o.Choices, Required: o.Required, Derived: o.Derived, Help: o.Help}
			if o.Default != "" {
				d.Default = &o.Default
			}
			docs = append(docs, d)
		}
		return printJSON(t.out, docs)
	}
	_, err := io.WriteString(t.out, config.Reference())
	return err
}

type versionCommand struct {
	JSON bool `name:"json" help:"Print one JSON document."`
}

// versionDoc is what the toolchain wrote into the binary.
type versionDoc struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func version() versionDoc {
	v := versionDoc{Version: "(devel)", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

// Run prints the version.
func (c *versionCommand) Run(t terminal) error {
	v := version()
	if c.JSON {
		return printJSON(t.out, v)
	}
	_, err := fmt.Fprintf(t.out, "grantway %s, %s\n", v.Version, v.Go)
	return err
}
