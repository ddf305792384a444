package resource

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads JSON from left to right, as strictly as a signed statement deserves (RFC 8259, RFC 7515 section 4).
// encoding/json takes the last of two members of one name, matches names without regard to case and mends broken UTF-8;
// each of these lets two readers of one token disagree.
type jsonReader struct {
	b     []byte
	i     int
	depth int
}

const (
	maxDepth   = 8
	maxMembers = 64
)

var errJSON = errors.New("not strict JSON")

// document reads one object and nothing after it. member must read the value of the name it is given.
func (r *jsonReader) document(member func(name []byte) error) error {
	if err := r.object(member); err != nil {
		return err
	}
	if r.next() != 0 || r.i != len(r.b) {
		return errJSON
	}
	return nil
}

func (r *jsonReader) object(member func(name []byte) error) error {
	var few [16][]byte
	seen := few[:0]
	return r.list('{', '}', func() error {
		name, err := r.bytes()
		if err != nil {
			return err
		}
		for _, s := range seen {
			if string(s) == string(name) {
				return errJSON
			}
		}
		if seen = append(seen, name); len(seen) > maxMembers || r.next() != ':' {
			return errJSON
		}
		r.i++
		return member(name)
	})
}

func (r *jsonReader) array(element func() error) error { return r.list('[', ']', element) }

func (r *jsonReader) list(open, end byte, item func() error) error {
	if r.depth++; r.next() != open || r.depth > maxDepth {
		return errJSON
	}
	r.i++
	if r.next() == end {
		r.i++
		r.depth--
		return nil
	}
	for {
		if err := item(); err != nil {
			return err
		}
		switch r.next() {
		case ',':
			r.i++
		case end:
			r.i++
			r.depth--
			return nil
		default:
			return errJSON
		}
	}
}

// next skips white space and returns the byte that follows, 0 at the end.
func (r *jsonReader) next() byte {
	for r.i < len(r.b) {
		switch c := r.b[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

func (r *jsonReader) str() (string, error) {
	b, err := r.bytes()
	return string(b), err
}

// bytes reads a string. The result may share memory with the input.
func (r *jsonReader) bytes() ([]byte, error) {
	if r.next() != '"' {
		return nil, errJSON
	}
	r.i++
	start, plain := r.i, true
	for ; r.i < len(r.b); r.i++ {
		switch c := r.b[r.i]; {
		case c == '"':
			raw := r.b[start:r.i]
			r.i++
			if !utf8.Valid(raw) {
				return nil, errJSON
			}
			if plain {
				return raw, nil
			}
			return unescape(raw)
		case c == '\\':
			plain = false
			r.i++
		case c < ' ':
			return nil, errJSON
		}
	}
	return nil, errJSON
}

func unescape(raw []byte) ([]byte, error) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; i == len(raw) {
			return nil, errJSON
		}
		switch raw[i] {
		case '"', '\\', '/':
			out = append(out, raw[i])
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			c, ok := hex4(raw[i+1:])
			if !ok {
				return nil, errJSON
			}
			i += 4
			if utf16.IsSurrogate(c) {
				// Half a pair has no meaning, and readers disagree on what to make of it.
				if len(raw) < i+3 || raw[i+1] != '\\' || raw[i+2] != 'u' {
					return nil, errJSON
				}
				low, ok := hex4(raw[i+3:])
				if c = utf16.DecodeRune(c, low); !ok || c == utf8.RuneError {
					return nil, errJSON
				}
				i += 6
			}
			out = utf8.AppendRune(out, c)
		default:
			return nil, errJSON
		}
	}
	return out, nil
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var v rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		v = v<<4 | rune(c)
	}
	return v, true
}

// integer reads a whole number from 0 to 2^53-1 written in plain digits. Whatever else JSON can write, such as a sign, a
// fraction or an exponent, readers of other languages round differently.
func (r *jsonReader) integer() (int64, error) {
	first := r.next()
	start, n := r.i, int64(0)
	for r.i < len(r.b) && r.b[r.i] >= '0' && r.b[r.i] <= '9' {
		if n = n*10 + int64(r.b[r.i]-'0'); n > 1<<53-1 {
			return 0, errJSON
		}
		r.i++
	}
	if r.i == start || first == '0' && r.i > start+1 {
		return 0, errJSON
	}
	return n, nil
}

func (r *jsonReader) boolean() (bool, error) {
	switch {
	case r.word("true"):
		return true, nil
	case r.word("false"):
		return false, nil
	}
	return false, errJSON
}

func (r *jsonReader) word(w string) bool {
	if r.next(); len(r.b)-r.i < len(w) || string(r.b[r.i:r.i+len(w)]) != w {
		return false
	}
	r.i += len(w)
	return true
}

// skip reads a value of any kind, with the same strictness.
func (r *jsonReader) skip() error {
	switch c := r.next(); {
	case c == '{':
		return r.object(func([]byte) error { return r.skip() })
	case c == '[':
		return r.array(r.skip)
	case c == '"':
		_, err := r.bytes()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return r.number()
	case r.word("true"), r.word("false"), r.word("null"):
		return nil
	}
	return errJSON
}

func (r *jsonReader) number() error {
	if r.b[r.i] == '-' {
		r.i++
	}
	zero := r.i < len(r.b) && r.b[r.i] == '0'
	if n := r.digits(); n == 0 || zero && n > 1 {
		return errJSON
	}
	if r.i < len(r.b) && r.b[r.i] == '.' {
		r.i++
		if r.digits() == 0 {
			return errJSON
		}
	}
	if r.i < len(r.b) && r.b[r.i]|0x20 == 'e' {
		r.i++
		if r.i < len(r.b) && (r.b[r.i] == '+' || r.b[r.i] == '-') {
			r.i++
		}
		if r.digits() == 0 {
			return errJSON
		}
	}
	return nil
}

func (r *jsonReader) digits() (n int) {
	for r.i < len(r.b) && r.b[r.i] >= '0' && r.b[r.i] <= '9' {
		r.i++
		n++
	}
	return n
}
