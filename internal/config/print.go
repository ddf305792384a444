package config

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"
)

// Row is one setting of a loaded Config.
type Row struct {
	Key    string `json:"key"`
	Value  string `json:"value"`  // "" where there is none
	Origin string `json:"origin"` // file and line, name in the environment, flag, or default
}

// Rows lists every setting of a loaded Config in the order of the table. With
// redact the password in a database's address is left out. A key ring is never
// shown, only its file.
func (c Config) Rows(redact bool) []Row {
	var rows []Row
	for _, s := range c.settings {
		value := s.value
		switch {
		case s.option.Kind == Secret && s.path != "":
			value = s.path
		case s.option.Kind == Secret:
			value = "(not shown)"
		case s.option.Kind == Database && redact:
			value = redactDSN(value)
		}
		origin := s.origin
		if s.path != "" && s.option.Kind != Secret {
			origin += ", " + s.path
		}
		rows = append(rows, Row{s.option.Key, value, origin})
	}
	return rows
}

// Print writes the rows as a table.
func (c Config) Print(w io.Writer, redact bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range c.Rows(redact) {
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Key, cmp.Or(r.Value, "-"), r.Origin)
	}
	return t.Flush()
}

var passwordParameter = regexp.MustCompile(`(?i)(password=)[^&]*`)

// redactDSN hides the passwords of a postgres:// address: the one before the last
// @, since one in the password may be unescaped, and those among the parameters.
func redactDSN(v string) string {
	scheme, rest, isURL := strings.Cut(v, "://")
	if !isURL {
		return v
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if user, _, has := strings.Cut(rest[:at], ":"); has {
			rest = user + ":***" + rest[at:]
		}
	}
	return scheme + "://" + passwordParameter.ReplaceAllString(rest, "${1}***")
}

// Reference returns the table of settings as Markdown, for the documentation.
func Reference() string {
	var b strings.Builder
	b.WriteString("| YAML key | environment | flag | default | what it is |\n|---|---|---|---|---|\n")
	for _, o := range Options() {
		env := "`" + o.Env() + "`"
		if f := o.EnvFile(); f != "" {
			env += ", or `" + f + "` with the path of a file that holds it"
		}
		fallback := o.Derived
		switch {
		case o.Default != "":
			fallback = "`" + o.Default + "`"
		case o.Required:
			fallback = "required"
		}
		help := o.Help
		if len(o.Choices) > 0 {
			help += " One of " + either(o.Choices) + "."
		}
		fmt.Fprintf(&b, "| `%s` | %s | `--%s` | %s | %s |\n", o.Key, env, o.Flag(), fallback, help)
	}
	return b.String()
}
