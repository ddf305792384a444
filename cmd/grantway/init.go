package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type initCommand struct {
	Dir  string `default:"." type:"path" help:"Folder for config.yaml, catalogue.yaml, keyring and, with SQLite, the database."`
	JSON bool   `name:"json" help:"Print one JSON document."`
	Settings
}

// initDoc is what init made, in JSON.
type initDoc struct {
	Config       string  `json:"config"`
	Catalogue    string  `json:"catalogue"`
	KeyRing      string  `json:"key_ring"`
	Database     string  `json:"database,omitempty"` // of SQLite; an address may hold a password
	Issuer       string  `json:"issuer"`
	OperatorLink linkDoc `json:"operator_link"`
}

// The files that init makes.
const (
	configFile   = "config.yaml"
	scopesFile   = "catalogue.yaml"
	keyRingFile  = "keyring"
	databaseFile = "grantway.db"
)

// exampleCatalogue is what a new server begins with: without a scope no app can be
// registered.
//
//go:embed catalogue.yaml
var exampleCatalogue string

// Run sets up a new server. If something fails, no file is left behind.
func (c *initCommand) Run(ctx context.Context, t terminal) (err error) {
	if c.Config != "" {
		return misunderstanding{errors.New("init writes a configuration and reads none; leave out --config")}
	}
	values, err := c.values()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	doc := initDoc{Config: filepath.Join(c.Dir, configFile), KeyRing: filepath.Join(c.Dir, keyRingFile)}
	if !sqlstore.IsPostgres(values["database"]) {
		doc.Database = values["database"]
		if !filepath.IsAbs(doc.Database) {
			doc.Database = filepath.Join(c.Dir, doc.Database)
		}
	}
	files := []newFile{{doc.Config, configText(values)}}
	if doc.Catalogue = values["catalogue"]; doc.Catalogue == scopesFile {
		doc.Catalogue = filepath.Join(c.Dir, scopesFile)
		files = append(files, newFile{doc.Catalogue, exampleCatalogue})
	}
	there := []string{doc.Config, doc.KeyRing, doc.Database}
	if len(files) > 1 {
		there = append(there, doc.Catalogue)
	}
	for _, name := range there {
		if _, err := os.Lstat(name); name != "" && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already: init makes a new server and never overwrites one; name another folder with --dir", name)
		}
	}
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				os.Remove(name)
			}
		}
	}()
	ring, err := oauth.NewKeyRing(rand.Reader)
	if err != nil {
		return err
	}
	files = append(files, newFile{doc.KeyRing,
		"# Seals the signing keys in the database. Without this file they are lost: keep a copy apart from the database's.\n" + ring})
	for _, f := range files {
		if err := writeNew(f.name, f.text); err != nil {
			return err
		}
		made = append(made, f.name)
	}
	cfg, parsed, err := load(doc.Config, t.environ, nil)
	if err != nil {
		return err
	}
	if doc.Database != "" {
		made = append(made, doc.Database, doc.Database+"-wal", doc.Database+"-shm")
	}
	store, err := sqlstore.Open(ctx, cfg.Database.Reveal())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := begin(ctx, store); err != nil {
		return err
	}
	o, err := newOffice(ctx, cfg, parsed, store)
	if err != nil {
		return err
	}
	if doc.OperatorLink, err = o.operatorLink(ctx); err != nil {
		return err
	}
	doc.Issuer = cfg.Issuer
	o.json, o.out = c.JSON, t.out
	scopes := "holds what apps may ask people for"
	if values["catalogue"] == scopesFile {
		scopes += ": three examples, for you to replace"
	}
	var names []string
	for _, f := range files {
		names = append(names, f.name)
	}
	last := len(names) - 1
	return o.show(doc, `Wrote %s and %s, and set up the database.

1. Start it:             grantway serve --config %s
2. Become its operator:  %s
   (once, before %s; grantway operator-link makes another)
3. Name your platform:   pages call it %s (brand.name in the configuration, or init --brand-name)
4. List your scopes:     %s %s
5. Keep a copy of the key ring apart from copies of the database: neither is of use alone.`,
		strings.Join(names[:last], ", "), names[last], shellWord(doc.Config), doc.OperatorLink.URL, doc.OperatorLink.Expires.Local().Format("2 January 15:04"),
		cfg.Brand.Name, doc.Catalogue, scopes)
}

// values are the settings to write, by key: those given as flags, and what a
// server cannot do without.
func (c *initCommand) values() (map[string]string, error) {
	values := map[string]string{"key_ring": keyRingFile, "database": databaseFile, "catalogue": scopesFile}
	given := c.flags()
	for _, o := range config.Options() {
		v, ok := given[o.Flag()]
		if !ok {
			continue
		}
		// A path on the command line is relative to here, one in the file to the file.
		if o.Kind == config.Path || o.Kind == config.Database && !strings.Contains(v, "://") {
			abs, err := filepath.Abs(v)
			if err != nil {
				return nil, err
			}
			v = abs
		}
		values[o.Key] = v
	}
	if values["issuer"] == "" {
		listen := values["listen"]
		for _, o := range config.Options() {
			if o.Key == "listen" && listen == "" {
				listen = o.Default
			}
		}
		host, _, err := net.SplitHostPort(listen)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, misunderstanding{errors.New("--issuer is missing: the https URL under which this server will be reached, such as https://id.example.com")}
		}
		values["issuer"] = "http://" + listen
	}
	return values, nil
}

type newFile struct{ name, text string }

// writeNew writes a file that must not be there, readable by its owner alone.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// configText writes the table of options as YAML: what is set, and the rest as
// comments.
func configText(values map[string]string) string {
	var b strings.Builder
	b.WriteString(`# The configuration of Grantway. A setting can also come from the environment or
# from a flag: a flag wins over the environment, the environment over this file.
# Remove the # before a setting to change it. Paths are relative to this file.
`)
	section := ""
	for _, o := range config.Options() {
		name, indent := o.Key, ""
		if above, below, ok := strings.Cut(o.Key, "."); ok {
			if above != section {
				section = above
				fmt.Fprintf(&b, "\n%s:\n", section)
			} else {
				b.WriteString("\n")
			}
			name, indent = below, "  "
		} else {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s# %s\n", indent, o.Help)
		if len(o.Choices) > 0 {
			fmt.Fprintf(&b, "%s# One of: %s.\n", indent, strings.Join(o.Choices, ", "))
		}
		v, set := values[o.Key]
		switch {
		case set:
			fmt.Fprintf(&b, "%s%s: %s\n", indent, name, yamlText(v))
		case o.Default != "":
			fmt.Fprintf(&b, "%s# %s: %s\n", indent, name, yamlText(o.Default))
		default:
			fmt.Fprintf(&b, "%s# Without it: %s.\n%s# %s:\n", indent, o.Derived, indent, name)
		}
	}
	return b.String()
}

var plainYAML = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9/._:-]*[A-Za-z0-9/]$`)

// yamlText writes a value as YAML: JSON strings are YAML too (YAML 1.2, 1.2).
func yamlText(v string) string {
	if plainYAML.MatchString(v) {
		return v
	}
	quoted, err := json.Marshal(v)
	if err != nil {
		panic(err) // a string always marshals
	}
	return string(quoted)
}

// shellWord quotes a path for a POSIX shell where it must.
func shellWord(s string) string {
	if plainYAML.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
