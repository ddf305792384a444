package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"

	"github.com/grantway/grantway/internal/oauth"
)

// setting is one value as given, with its origin.
type setting struct {
	option Option
	value  string
	origin string // for messages and Print: file and line, environment name, flag, default
	path   string // of the file that held the value; empty if it was given itself
	dir    string // what a relative path is relative to
}

// Load reads settings from a YAML file (none if the name is empty), from the
// environment in the form of os.Environ, and from flags by name without hyphens.
// It reads the files that settings name as well, so that whatever is wrong is
// wrong now. On error the Config is empty and the error joins every mistake, one
// line each.
func Load(file string, environ []string, flags map[string]string) (Config, error) {
	l := loader{given: map[string]setting{}, reported: map[string]bool{}}
	if file != "" {
		l.readFile(file)
	}
	l.readEnvironment(environ)
	l.readFlags(flags)

	c := Config{Catalogue: oauth.NewCatalogue(nil, nil)}
	for _, o := range Options() {
		l.apply(&c, o)
	}
	l.add("", checkTogether(&c))
	if len(l.errs) > 0 {
		return Config{}, errors.Join(l.errs...)
	}
	return c, nil
}

// Named is a setting in the environment.
type Named struct {
	Name  string // such as GRANTWAY_DATABASE, or GRANTWAY_DATABASE_FILE
	Value string // as it stands there: of a name in _FILE it is a path
}

// Environment returns what environ sets, by the key of the option. What is wrong there
// is for [Load] to say.
func Environment(environ []string) map[string]Named {
	l := loader{given: map[string]setting{}, reported: map[string]bool{}}
	l.readEnvironment(environ)
	named := map[string]Named{}
	for key, s := range l.given {
		named[key] = Named{s.origin, s.value + s.path} // one of the two is empty
	}
	return named
}

type loader struct {
	given    map[string]setting // by key; a later source overwrites an earlier one
	reported map[string]bool    // keys given in a way that is an error already
	unread   bool               // the file could not be read, so nothing is known to be missing
	errs     []error
}

// add notes err under its origin, a line for each error joined in it.
func (l *loader) add(origin string, err error) {
	if own, ok := err.(located); ok {
		origin, err = "", own.error
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			l.add(origin, e)
		}
		return
	}
	if err != nil && origin != "" {
		err = fmt.Errorf("%s: %w", origin, err)
	}
	if err != nil {
		l.errs = append(l.errs, err)
	}
}

func (l *loader) readFile(file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		l.unread = true
		l.add("", unreadable(err))
		return
	}
	d := &document{file: file}
	entries := d.root(data)
	l.unread = entries == nil && len(d.errs) > 0
	l.readSection(d, entries, "")
	l.errs = append(l.errs, d.errs...)
}

// readSection reads the pairs below a key, which ends in a dot unless it is the top.
func (l *loader) readSection(d *document, entries []entry, above string) {
	var known []string // names that may stand here
	for _, o := range Options() {
		if below, ok := strings.CutPrefix(o.Key, above); ok {
			name, _, _ := strings.Cut(below, ".")
			if !slices.Contains(known, name) {
				known = append(known, name)
			}
		}
	}
	for _, e := range entries {
		key := above + e.key
		i := slices.IndexFunc(Options(), func(o Option) bool { return o.Key == key })
		section, name, dotted := strings.Cut(e.key, ".")
		switch {
		case dotted && i >= 0:
			d.errorAt(e.line, "%s is not written with a dot; write %s: in a line of its own below %s:", key, name, section)
		case !slices.Contains(known, e.key):
			d.errorAt(e.line, "%s is not a setting; %s", key, meant(e.key, known))
		case i < 0:
			if _, empty := e.value.(*ast.NullNode); !empty { // a section whose lines are all commented out
				l.readSection(d, d.mapping(e.value, key), key+".")
			}
		default:
			if _, list := e.value.(*ast.SequenceNode); list && key == "trusted_proxies" {
				d.errorAt(e.line, "%s is a list; write one value with commas between, such as 10.0.0.7, 10.0.1.0/24", key)
				l.reported[key] = true
			} else if v, ok := d.text(entry{key, e.line, e.value}); ok {
				l.given[key] = setting{option: Options()[i], value: v, origin: d.at(e.line), dir: filepath.Dir(d.file)}
			} else {
				l.reported[key] = true
			}
		}
	}
}

var serviceName = regexp.MustCompile(`^GRANTWAY(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// serviceLink reports whether Kubernetes set a variable: it puts the address of
// every service in a pod's namespace into the pod's environment, under the
// service's name, and a service of ours is likely called grantway. A person's
// GRANTWAY_PORT=8080 is still a mistake worth telling; theirs is tcp://10.0.0.1:8080.
func serviceLink(name, value string) bool {
	return serviceName.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

func (l *loader) readEnvironment(environ []string) {
	type named struct {
		option Option
		file   bool
	}
	known := map[string]named{}
	var names []string
	for _, o := range Options() {
		known[o.Env()] = named{o, false}
		names = append(names, o.Env())
		if f := o.EnvFile(); f != "" {
			known[f] = named{o, true}
			names = append(names, f)
		}
	}
	seen := map[string]string{} // key of an option to the name it was given by
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, envPrefix) || serviceLink(name, value) {
			continue
		}
		n, ok := known[name]
		first, twice := seen[n.option.Key]
		switch {
		case !ok:
			l.add("", fmt.Errorf("%s is not a setting; %s", name, meant(name, names)))
		case twice && first == name:
			l.add("", fmt.Errorf("%s is set twice; keep one of the two", name))
		case twice:
			l.add("", fmt.Errorf("%s and %s are both set; keep one of the two", first, name))
		case value == "":
			l.reported[n.option.Key] = true
			l.add("", fmt.Errorf("%s is empty; give it a value or unset it", name))
		default:
			s := setting{option: n.option, value: value, origin: name}
			if n.file {
				s.value, s.path = "", value
			}
			l.given[n.option.Key] = s
		}
		if ok && !twice {
			seen[n.option.Key] = name
		}
	}
}

func (l *loader) readFlags(flags map[string]string) {
	byFlag := map[string]Option{}
	var names []string
	for _, o := range Options() {
		byFlag[o.Flag()] = o
		names = append(names, o.Flag())
	}
	given := make([]string, 0, len(flags))
	for name := range flags {
		given = append(given, name)
	}
	slices.Sort(given)
	for _, name := range given {
		o, ok := byFlag[name]
		switch {
		case !ok:
			l.add("--"+name, fmt.Errorf("not a setting; %s", meant(name, names)))
		case flags[name] == "":
			l.reported[o.Key] = true
			l.add("--"+name, errors.New("empty; give it a value or leave it out"))
		default:
			l.given[o.Key] = setting{option: o, value: flags[name], origin: "--" + name}
		}
	}
}

// apply sets one option from what was given for it, or from its default.
func (l *loader) apply(c *Config, o Option) {
	s, ok := l.given[o.Key]
	switch {
	case ok:
	case l.reported[o.Key], o.Required && l.unread:
		return
	case o.Default != "":
		s = setting{option: o, value: o.Default, origin: "default"}
	case o.derive != nil && c.Issuer != "":
		s = setting{option: o, value: o.derive(c), origin: "default: " + o.Derived}
	case o.Required:
		env := o.Env()
		if o.Kind == Secret { // as in the file and in the flag, a path
			env = o.EnvFile()
		}
		l.add("", fmt.Errorf("%s is not set; write it in the file, or set %s or --%s: %s", o.Key, env, o.Flag(), o.Help))
		return
	default:
		c.settings = append(c.settings, setting{option: o, origin: "default: " + o.Derived})
		return
	}
	if ok {
		if err := s.resolve(); err != nil {
			l.add(s.where(), err)
			return
		}
	}
	if len(o.Choices) > 0 && !slices.Contains(o.Choices, s.value) {
		l.add(s.where(), fmt.Errorf("%q is not one of the choices; write %s", s.value, either(o.Choices)))
		return
	}
	if err := o.set(c, s.value); err != nil {
		l.add(s.where(), err)
		return
	}
	if o.Kind == Secret {
		c.KeyRingPath = s.path
	}
	c.settings = append(c.settings, s)
}

// where is the origin for messages: it names the setting, and the file that holds it.
func (s *setting) where() string {
	if strings.HasPrefix(s.origin, envPrefix) || strings.HasPrefix(s.origin, "--") {
		return s.origin
	}
	return s.origin + ": " + s.option.Key
}

// resolve makes relative paths absolute in meaning and reads the value out of the
// file that holds it.
func (s *setting) resolve() error {
	inFile := s.path != ""
	switch k := s.option.Kind; {
	case inFile:
	case k == Secret && s.origin != s.option.Env():
		s.path, s.value = s.under(s.value), ""
		inFile = true
	case k == Path, k == Database && !strings.Contains(s.value, "://") && !keywordDSN.MatchString(s.value):
		s.value = s.under(s.value)
	}
	if inFile {
		data, err := os.ReadFile(s.path)
		if err != nil {
			return unreadable(err)
		}
		s.value = strings.TrimRight(string(data), "\r\n")
		if s.value == "" {
			return fmt.Errorf("%s is empty", s.path)
		}
		if !utf8.ValidString(s.value) {
			return fmt.Errorf("%s holds no text; name the file that holds %s", s.path, s.option.Key)
		}
	}
	return nil
}

func (s *setting) under(path string) string {
	if s.dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(s.dir, path)
}
