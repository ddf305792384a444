package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type initCommand struct {
	Dir  string `default:"." type:"path" help:"Folder for config.yaml, catalogue.yaml, keyring and, with SQLite, the database."`
	JSON bool   `name:"json" help:"Print one JSON document."`
	Options
}

// Help says what the flags cannot: what stands for one that is not given.
func (*initCommand) Help() string {
	return "Without --issuer the server is for this machine alone: its issuer, which every key carries for ever, is then http:// and the address of --listen. " +
		"What the environment sets (GRANTWAY_ISSUER and so on) is set up and written down, too; a database and a key ring from there stay there, and the file says so."
}

// initDoc is what init made, in JSON.
type initDoc struct {
	Config       string  `json:"config"`
	Catalogue    string  `json:"catalogue"`
	KeyRing      string  `json:"key_ring,omitempty"` // the file, if the environment holds none
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

// Run sets up a new server. If something fails, no file and no folder is left behind.
func (c *initCommand) Run(ctx context.Context, t terminal) (err error) {
	in, err := c.settings(t.environ)
	if err != nil {
		return err
	}
	remains := "nothing is left of it"
	defer func() { err = interrupted(ctx, err, remains) }()
	doc := initDoc{Config: filepath.Join(c.Dir, configFile), Catalogue: in.values["catalogue"]}
	files := []newFile{{doc.Config, configText(in)}}
	if doc.Catalogue == scopesFile {
		doc.Catalogue = filepath.Join(c.Dir, scopesFile)
		files = append(files, newFile{doc.Catalogue, exampleCatalogue})
	}
	if in.values["key_ring"] != "" {
		doc.KeyRing = filepath.Join(c.Dir, keyRingFile)
		ring, err := oauth.NewKeyRing(rand.Reader)
		if err != nil {
			return err
		}
		files = append(files, newFile{doc.KeyRing,
			"# Seals the signing keys in the database. Without this file they are lost: keep a copy apart from the database's.\n" + ring})
	}
	absent := func(name, otherwise string) error {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s is there already: init makes a new server and never overwrites one; name another %s", name, otherwise)
		}
		return nil
	}
	var names []string
	for _, f := range files {
		if err := absent(f.name, "folder with --dir"); err != nil {
			return err
		}
		names = append(names, f.name)
	}
	var made []string
	defer func() {
		if err != nil {
			for _, name := range slices.Backward(made) {
				os.Remove(name) // a folder only if it is empty
			}
		}
	}()
	for dir := c.Dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		made = append([]string{dir}, made...)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		if err := writeNew(f.name, f.text); err != nil {
			return err
		}
		made = append(made, f.name)
	}
	// With the flags, so that what is wrong with one is said of it, and not of a file
	// that is about to go.
	cfg, parsed, err := load(doc.Config, t.environ, c.flags())
	if err != nil {
		return err
	}
	if sqlstore.IsPostgres(cfg.Database.Reveal()) {
		remains = "no file is left, but tables may be in the database: make it anew if init refuses it"
	} else {
		doc.Database = absolute(cfg.Database.Reveal())
		if err := absent(doc.Database, "database, or another folder with --dir"); err != nil {
			return err
		}
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
	if keys, err := store.SigningKeys(ctx); err != nil {
		return err
	} else if len(keys) > 0 {
		return errors.New("the database is set up already, and init makes a new server: name an empty database, or start another node with the configuration and the key ring of that one")
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
	if in.values["catalogue"] == scopesFile {
		scopes += ": three examples, for you to replace"
	}
	wrote := names[0]
	if last := len(names) - 1; last > 0 {
		wrote = strings.Join(names[:last], ", ") + " and " + names[last]
	}
	start := shellWord(os.Args[0]) + " serve --config " + shellWord(doc.Config) // it need not be on the path
	if elsewhere := in.elsewhere(); len(elsewhere) > 0 {
		start += "\n   (with " + strings.Join(elsewhere, " and ") + " set as here: that is not in the file)"
	}
	ring := "the key ring"
	if doc.KeyRing == "" {
		ring = "what " + in.environ["key_ring"].Name + " holds, the key ring,"
	}
	return o.show(doc, `Wrote %s, and set up the database.

1. Start it:             %s
2. Become its operator:  %s
   (once, before %s; grantway operator-link makes another)
3. Name your platform:   pages call it %s (brand.name in the configuration, or init --brand-name)
4. List your scopes:     %s %s
5. Keep a copy of %s apart from copies of the database: neither is of use alone.`,
		wrote, start, doc.OperatorLink.URL, doc.OperatorLink.until(), cfg.Brand.Name, doc.Catalogue, scopes, ring)
}

// initSettings is what a new server is set up by.
type initSettings struct {
	values  map[string]string       // what the file says, by key
	environ map[string]config.Named // what the environment says, by key
}

// elsewhere names the variables that hold what the file does not.
func (in initSettings) elsewhere() (names []string) {
	for _, o := range config.Options() {
		if n, ok := in.environ[o.Key]; ok && in.values[o.Key] == "" {
			names = append(names, n.Name)
		}
	}
	return names
}

// settings finds what to set up by: flags, the environment, and what a server cannot do
// without. All of it goes into the file, except what the environment says of a setting
// that may hold a secret: who put it there may want it in no file.
func (c *initCommand) settings(environ []string) (initSettings, error) {
	in := initSettings{map[string]string{}, config.Environment(environ)}
	given := c.flags()
	for _, o := range config.Options() {
		v, flag := given[o.Flag()]
		n, env := in.environ[o.Key]
		switch {
		case flag && v == "":
			return in, misunderstanding{fmt.Errorf("--%s is empty: give it a value or leave it out", o.Flag())}
		case flag && env && v != n.Value:
			return in, misunderstanding{fmt.Errorf("%s is set, and would win over what --%s writes into the file: unset it, or leave the flag out", n.Name, o.Flag())}
		case env && o.EnvFile() != "":
			continue
		case env:
			v = n.Value
		case !flag:
			continue
		}
		// A path on the command line is relative to here, one in the file to the file.
		if o.Kind == config.Path || o.Kind == config.Database && !strings.Contains(v, "://") {
			v = absolute(v)
		}
		in.values[o.Key] = v
	}
	for key, file := range map[string]string{"key_ring": keyRingFile, "database": databaseFile, "catalogue": scopesFile} {
		if _, env := in.environ[key]; !env && in.values[key] == "" {
			in.values[key] = file
		}
	}
	if issuer := in.values["issuer"]; issuer != "" {
		// An issuer without TLS is on this machine, and where it says it is, one listens.
		if u, err := url.Parse(issuer); err == nil && u.Scheme == "http" && u.Port() != "" && in.values["listen"] == "" {
			in.values["listen"] = u.Host
		}
		return in, nil
	}
	listen := in.values["listen"]
	host, port, err := net.SplitHostPort(listen)
	if err != nil { // missing, or wrong, which is said once the file is read
		i := slices.IndexFunc(config.Options(), func(o config.Option) bool { return o.Key == "listen" })
		listen, host = config.Options()[i].Default, "localhost"
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return in, misunderstanding{errors.New("--issuer is missing: the https URL under which this server will be reached, such as https://id.example.com")}
	}
	if port == "0" {
		return in, misunderstanding{fmt.Errorf("--issuer is missing: every key carries it for ever, and with --listen %s its port is not known: write it, or a port there", listen)}
	}
	in.values["issuer"] = "http://" + listen
	return in, nil
}

type newFile struct{ name, text string }

// writeNew writes a file that must not be there, readable by its owner alone.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name)) // or the next init would not go over it
	}
	return nil
}

// configText writes the table of options as YAML: what is set, and the rest as
// comments.
func configText(in initSettings) string {
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
		v, set := in.values[o.Key]
		n, elsewhere := in.environ[o.Key]
		switch {
		case elsewhere && !set:
			fmt.Fprintf(&b, "%s# %s held it when this was set up, and it is not copied here: set that wherever this file is used.\n%s# %s:\n", indent, n.Name, indent, name)
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

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._][A-Za-z0-9/._:-]*$`)

// shellWord quotes a path for a POSIX shell where it must.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
