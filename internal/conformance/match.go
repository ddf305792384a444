package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// matchText holds a value against `text`, `~regex~` (of the whole value; named groups capture) or `!absent`.
func (v variables) matchText(want, got string, present bool) error {
	switch {
	case want == "!absent":
		if present {
			return fmt.Errorf("is %q, must be absent", got)
		}
		return nil
	case len(want) >= 2 && want[0] == '~' && want[len(want)-1] == '~':
		return v.matchRegexp(`\A(?:`+want[1:len(want)-1]+`)\z`, got)
	case !present:
		return fmt.Errorf("is absent, want %q", want)
	case got != want:
		return fmt.Errorf("is %q, want %q", got, want)
	}
	return nil
}

func (v variables) matchRegexp(expr, got string) error {
	re, err := regexp.Compile(expr)
	if err != nil {
		return err
	}
	m := re.FindStringSubmatch(got)
	if m == nil {
		return fmt.Errorf("%q does not match %s", got, expr)
	}
	for i, name := range re.SubexpNames() {
		if name != "" {
			v[name] = m[i]
		}
	}
	return nil
}

// decodeJSON reads one value with its numbers as written and nothing behind it.
func decodeJSON(text string) (any, error) {
	values, err := decodeAllJSON(text)
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("%d JSON values, want one", len(values))
	}
	if err != nil {
		return nil, err
	}
	return values[0], nil
}

func decodeAllJSON(text string) ([]any, error) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var values []any
	for {
		var value any
		switch err := d.Decode(&value); err {
		case nil:
			values = append(values, value)
		case io.EOF:
			return values, nil
		default:
			return nil, err
		}
	}
}

var placeholder = regexp.MustCompile(`\A<<(?:(any|string|number|jwt|absent)(?::([A-Za-z0-9_]+))?|~(.*)~|(not) (.*))>>\z`)

// matchJSON holds a decoded value against a decoded expectation; path names the place in errors. Objects and arrays
// must match exactly unless "..." in them allows more.
func (v variables) matchJSON(want, got any, path string) error {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %s, want an object", path, show(got))
		}
		return v.matchObject(want, object, path)
	case []any:
		array, ok := got.([]any)
		if !ok {
			return fmt.Errorf("%s is %s, want an array", path, show(got))
		}
		return v.matchArray(want, array, path)
	case string:
		if m := placeholder.FindStringSubmatch(want); m != nil {
			if text, ok := got.(string); m[4] != "" {
				if !ok || text == m[5] {
					return fmt.Errorf("%s is %s, want a string other than %q", path, show(got), m[5])
				}
				return nil
			}
			return v.matchPlaceholder(m[1], m[2], m[3], got, path)
		}
	}
	if want != got {
		return fmt.Errorf("%s is %s, want %s", path, show(got), show(want))
	}
	return nil
}

func (v variables) matchObject(want, got map[string]any, path string) error {
	_, more := want["..."]
	for name, w := range want {
		g, present := got[name]
		switch {
		case name == "...":
		case w == "<<absent>>":
			if present {
				return fmt.Errorf("%s.%s is %s, must be absent", path, name, show(g))
			}
		case !present:
			return fmt.Errorf("%s.%s is absent, want %s", path, name, show(w))
		default:
			if err := v.matchJSON(w, g, path+"."+name); err != nil {
				return err
			}
		}
	}
	for name, g := range got {
		if _, named := want[name]; !named && !more {
			return fmt.Errorf("%s.%s is %s, which nothing expects", path, name, show(g))
		}
	}
	return nil
}

// matchArray compares element by element; with "..." among the wanted ones, each of the others must be found somewhere
// and more are allowed; with "<<unordered>>", each must be found somewhere and no more.
func (v variables) matchArray(want, got []any, path string) error {
	more, unordered := slices.Contains(want, any("...")), slices.Contains(want, any("<<unordered>>"))
	wanted := make([]any, 0, len(want))
	for _, w := range want {
		if w != "..." && w != "<<unordered>>" {
			wanted = append(wanted, w)
		}
	}
	if !more && len(wanted) != len(got) {
		return fmt.Errorf("%s has %d elements, want %d: %s", path, len(got), len(wanted), show(got))
	}
	if !more && !unordered {
		for i, w := range wanted {
			if err := v.matchJSON(w, got[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	left := slices.Clone(got)
	for _, w := range wanted {
		i := slices.IndexFunc(left, func(g any) bool { return v.matchJSON(w, g, path) == nil })
		if i < 0 {
			return fmt.Errorf("%s lacks %s: %s", path, show(w), show(got))
		}
		left = slices.Delete(left, i, i+1)
	}
	return nil
}

func (v variables) matchPlaceholder(kind, name, expr string, got any, path string) error {
	var text string
	switch value := got.(type) {
	case string:
		text = value
	case json.Number:
		text = value.String()
	}
	_, isString := got.(string)
	_, isNumber := got.(json.Number)
	switch {
	case kind == "string" && !isString, kind == "jwt" && !isString, kind == "" && !isString, kind == "number" && !isNumber:
		if kind == "" {
			kind = "string"
		}
		return fmt.Errorf("%s is %s, want a %s", path, show(got), kind)
	case kind == "absent":
		return fmt.Errorf("%s is %s, must be absent", path, show(got))
	case kind == "jwt":
		if _, _, err := splitJWT(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case kind == "":
		if err := v.matchRegexp(`\A(?:`+expr+`)\z`, text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if name != "" {
		v[name] = text
	}
	return nil
}

func show(value any) string {
	b, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(b)
}
