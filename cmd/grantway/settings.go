package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// Settings are the flags of a command that reads the configuration: the file, and
// one for each row of the table of options.
type Settings struct {
	Config string `short:"c" placeholder:"FILE" help:"YAML file with the settings. Each can also come from the environment, or from a flag as serve --help lists them."`
	Options
}

// Options are the flags that the table of options makes: all there is for init, which
// reads no file.
type Options struct{ kong.Plugins }

// newCommands gives the command that args name the flags of its Settings. To give
// them to all would be most of the work of every start. Only serve and init show
// them: elsewhere they would hide the command's own.
func newCommands(args []string) *commands {
	c := &commands{}
	addOptionFlags(reflect.ValueOf(c).Elem(), args)
	return c
}

func addOptionFlags(v reflect.Value, args []string) {
	switch c := v.Addr().Interface().(type) {
	case *serveCommand:
		c.Plugins = kong.Plugins{optionFlags(false)}
		return
	case *initCommand:
		c.Plugins = kong.Plugins{optionFlags(false, "key_ring")}
		return
	case *Settings:
		c.Plugins = kong.Plugins{optionFlags(true)}
		return
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		named := slices.ContainsFunc(args, func(arg string) bool {
			return strings.EqualFold(strings.ReplaceAll(arg, "-", ""), field.Name)
		})
		_, unnamed := field.Tag.Lookup("default") // the subcommand of who names none
		if field.IsExported() && field.Type.Kind() == reflect.Struct && (field.Anonymous || named || unnamed) {
			addOptionFlags(v.Field(i), args)
		}
	}
}

// optionFlags returns a pointer to a struct with a *string for each option, named
// and explained by the table.
func optionFlags(hidden bool, without ...string) any {
	var fields []reflect.StructField
	for i, o := range config.Options() {
		tag := fmt.Sprintf(`name:%q help:%q placeholder:%q group:"Settings"`, o.Flag(), o.Help, placeholder(o))
		if hidden {
			tag += ` hidden:""`
		}
		for _, key := range without {
			if key == o.Key {
				tag = `kong:"-"`
			}
		}
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("Option%d", i), Type: reflect.TypeFor[*string](), Tag: reflect.StructTag(tag)})
	}
	return reflect.New(reflect.StructOf(fields)).Interface()
}

func placeholder(o config.Option) string {
	switch o.Kind {
	case config.Path, config.Secret:
		return "FILE"
	case config.Choice:
		return strings.Join(o.Choices, "|")
	}
	return strings.ToUpper(string(o.Kind))
}

// flags returns the options that were given on the command line, by flag.
func (s *Options) flags() map[string]string {
	given := map[string]string{}
	for _, p := range s.Plugins {
		v := reflect.ValueOf(p).Elem()
		for i, o := range config.Options() {
			if text := v.Field(i).Interface().(*string); text != nil {
				given[o.Flag()] = *text
			}
		}
	}
	return given
}

// load reads the configuration and the key ring, and reports all that is wrong.
func (s *Settings) load(t terminal) (config.Config, *oauth.KeyRing, error) {
	c, ring, err := load(s.Config, t.environ, s.flags())
	named := slices.ContainsFunc(t.environ, func(pair string) bool { return strings.HasPrefix(pair, "GRANTWAY_ISSUER=") })
	if err == nil || s.Config != "" || named || s.flags()["issuer"] != "" { // settings came another way
		return c, ring, err
	}
	if _, there := os.Stat(configFile); there == nil {
		return c, nil, misunderstanding{fmt.Errorf("%w\nNo configuration file was named: use --config %s", err, configFile)}
	}
	return c, nil, misunderstanding{fmt.Errorf("%w\nNo configuration file was named: name it with --config FILE, or let grantway init write one", err)}
}

func load(file string, environ []string, flags map[string]string) (config.Config, *oauth.KeyRing, error) {
	c, err := config.Load(file, environ, flags)
	if err != nil {
		return c, nil, wrongConfig(err)
	}
	ring, err := oauth.ParseKeyRing(c.KeyRing.Reveal())
	if err != nil {
		err = about{ringName(c), err}
		if c.KeyRingPath == "" {
			err = fmt.Errorf("%s; GRANTWAY_KEY_RING holds the ring itself, the path of its file belongs into GRANTWAY_KEY_RING_FILE", describe(err))
		}
	}
	name := sqlstore.CheckName(c.Database.Reveal())
	if name != nil {
		name = about{"database", name}
	}
	if err := errors.Join(name, err); err != nil {
		return c, nil, wrongConfig(err)
	}
	return c, ring, nil
}

func wrongConfig(err error) error {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	if len(all) == 1 {
		return misunderstanding{fmt.Errorf("the configuration has one mistake: %s", describe(err))}
	}
	var lines strings.Builder
	for _, e := range all {
		lines.WriteString("\n  " + describe(e))
	}
	return misunderstanding{fmt.Errorf("the configuration has %d mistakes:%s", len(all), &lines)}
}

func ringName(c config.Config) string {
	if c.KeyRingPath == "" {
		return "the key ring in the environment"
	}
	return "the key ring " + c.KeyRingPath
}

// wrongRing names the ring where err says that it lacks a key, and the key. Its
// fingerprint can only be told by who has it.
func wrongRing(c config.Config, ring *oauth.KeyRing, err error) error {
	if wrong, ok := errors.AsType[*oauth.WrongRing](err); ok {
		return fmt.Errorf("%s (%s) does not open this database's signing keys: name the ring that was made with it, whose fingerprint begins with %s", ringName(c), ring.Fingerprints(), cell(wrong.Needs))
	}
	return err
}

// needed is the fingerprint of the ring that belongs to a database; any other is refused,
// and so is another issuer.
func needed(ctx context.Context, c config.Config, ring *oauth.KeyRing, store *sqlstore.Store) (string, error) {
	rows, err := store.SigningKeys(ctx)
	if err != nil {
		return "", err
	}
	fingerprint, err := ring.Fingerprint(rows)
	if err != nil {
		return "", wrongRing(c, ring, err)
	}
	apis, err := store.APIs(ctx)
	if err != nil {
		return "", err
	}
	return fingerprint, oauth.CheckIssuer(apis, c.Issuer)
}
