package conformance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// script is one file of testdata/wire.
type script struct {
	source, expect string
	limits         bool // the server must limit requests; others must not
	guard          bool // held with a grantway guard beside the demo
	epoch          bool // another epoch than the first has begun on the server's database
	steps          []step
}

// step is one section: its verb, the words after the verb, its key=value arguments and its text, all not yet expanded.
type step struct {
	verb  string
	words []string
	args  map[string]string
	text  string
}

// verbs lists what a section may be called and which key=value arguments it takes.
var verbs = map[string][]string{
	"request":  {"base", "within"},
	"response": {},
	"open":     {},
	"sign in":  {"password"},
	"press":    {"stores", "near", "header"},
	"back":     {},
	"returned": {},
	"consent":  {"stores", "state", "scope", "pkce", "redirect", "capture", "query"},
	"jwt":      {"keys"},
	"wait":     {"seconds"},
}

// waits reports whether the conversation lets real time pass.
func (s script) waits() bool {
	return slices.ContainsFunc(s.steps, func(st step) bool { return st.verb == "wait" })
}

func parseScript(data []byte) (script, error) {
	archive := txtar.Parse(data)
	var s script
	for line := range strings.Lines(string(archive.Comment)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); {
		case name == "":
		case ok && name == "source" && value != "":
			s.source = value
		case ok && name == "expect" && value != "":
			s.expect = value
		case ok && name == "limits" && value == "on":
			s.limits = true
		case ok && name == "guard" && value == "on":
			s.guard = true
		case ok && name == "epoch" && value == "another":
			s.epoch = true
		default:
			return script{}, fmt.Errorf("the head holds `source:` and `expect:` lines, `limits: on`, `guard: on` and `epoch: another`, not %q", strings.TrimSpace(line))
		}
	}
	if s.source == "" || s.expect == "" {
		return script{}, fmt.Errorf("the head must have a `source:` and an `expect:` line")
	}
	for i, f := range archive.Files {
		st, err := parseStep(f.Name, string(f.Data))
		if err != nil {
			return script{}, fmt.Errorf("section %d: %w", i+1, err)
		}
		if answered := i+1 < len(archive.Files) && archive.Files[i+1].Name == "response"; st.verb == "request" && !answered {
			return script{}, fmt.Errorf("section %d: a request needs a response right after it", i+1)
		}
		s.steps = append(s.steps, st)
	}
	if len(s.steps) == 0 {
		return script{}, fmt.Errorf("no sections")
	}
	switch last := s.steps[len(s.steps)-1].verb; last {
	case "response", "returned", "jwt":
	default:
		return script{}, fmt.Errorf("the last section is %q, which expects nothing", last)
	}
	return s, nil
}

func parseStep(name, text string) (step, error) {
	fields, err := splitFields(name)
	if err != nil {
		return step{}, err
	}
	st := step{verb: fields[0], args: map[string]string{}, text: text}
	fields = fields[1:]
	if st.verb == "sign" && len(fields) > 0 && fields[0] == "in" {
		st.verb, fields = "sign in", fields[1:]
	}
	allowed, ok := verbs[st.verb]
	if !ok {
		return step{}, fmt.Errorf("no section is called %q", st.verb)
	}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case !ok && len(st.args) > 0:
			return step{}, fmt.Errorf("%s: %q comes after an argument", st.verb, f)
		case !ok:
			st.words = append(st.words, f)
		case !slices.Contains(allowed, key):
			return step{}, fmt.Errorf("%s takes no %q", st.verb, key)
		default:
			st.args[key] = value
		}
	}
	return st, nil
}

// splitFields cuts at spaces, except inside {{…}}.
func splitFields(s string) ([]string, error) {
	var fields []string
	var field strings.Builder
	for rest := s; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "{{"):
			end := strings.Index(rest, "}}")
			if end < 0 {
				return nil, fmt.Errorf("{{ without }} in %q", s)
			}
			field.WriteString(rest[:end+2])
			rest = rest[end+2:]
		case rest[0] == ' ':
			if field.Len() > 0 {
				fields = append(fields, field.String())
				field.Reset()
			}
			rest = rest[1:]
		default:
			field.WriteByte(rest[0])
			rest = rest[1:]
		}
	}
	if field.Len() > 0 {
		fields = append(fields, field.String())
	}
	if len(fields) == 0 {
		return nil, fmt.Errorf("a section without a name")
	}
	return fields, nil
}
