package conformance

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// variables holds what {{…}} may name: the demo's facts and what the conversation captured.
type variables map[string]string

var braces = regexp.MustCompile(`\{\{[^{}]*\}\}`)

// expand replaces every {{…}}. An unknown name is an error, so that a typing mistake cannot pass as an empty value.
func (v variables) expand(s string) (string, error) {
	var failed error
	out := braces.ReplaceAllStringFunc(s, func(m string) string {
		value, err := v.eval(strings.Fields(m[2 : len(m)-2]))
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", m, err)
		}
		return value
	})
	return out, failed
}

func (v variables) eval(words []string) (string, error) {
	if len(words) == 1 {
		return v.get(words[0])
	}
	if len(words) == 0 {
		return "", fmt.Errorf("nothing named")
	}
	name, args := words[0], words[1:]
	switch {
	case name == "pkce_verifier" && len(args) == 1:
		return v.verifier(args[0]), nil
	case name == "pkce_challenge" && len(args) == 1:
		return s256(v.verifier(args[0])), nil
	case name == "repeat" && len(args) == 2:
		n, err := strconv.Atoi(args[1])
		return strings.Repeat(args[0], max(n, 0)), err
	}
	for i, a := range args {
		if n, err := strconv.Atoi(a); err == nil && name == "add" && i == 1 {
			args[i] = strconv.Itoa(n)
			continue
		}
		value, err := v.get(a)
		if err != nil {
			return "", err
		}
		args[i] = value
	}
	switch {
	case name == "urlencode" && len(args) == 1:
		return url.QueryEscape(args[0]), nil
	case name == "basic" && len(args) == 2:
		// RFC 6749 2.3.1: both halves are form-encoded before they are joined.
		pair := url.QueryEscape(args[0]) + ":" + url.QueryEscape(args[1])
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)), nil
	case name == "mutate" && len(args) == 1:
		return mutate(args[0])
	case name == "add" && len(args) == 2:
		a, err1 := strconv.Atoi(args[0])
		b, err2 := strconv.Atoi(args[1])
		if err1 != nil || err2 != nil {
			return "", fmt.Errorf("add wants whole numbers")
		}
		return strconv.Itoa(a + b), nil
	}
	return "", fmt.Errorf("no such function with %d arguments", len(args))
}

func (v variables) get(name string) (string, error) {
	value, ok := v[name]
	if !ok {
		return "", fmt.Errorf("%q is not known here", name)
	}
	return value, nil
}

// verifier returns the conversation's PKCE verifier of that name, made when first asked for.
func (v variables) verifier(name string) string {
	key := "pkce_verifier " + name
	if v[key] == "" {
		b := make([]byte, 32)
		rand.Read(b)
		v[key] = base64.RawURLEncoding.EncodeToString(b)
	}
	return v[key]
}

func s256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// mutate changes one character three quarters in: past a selector or a JWT's header, and before the last character,
// whose low bits base64 may not carry.
func mutate(s string) (string, error) {
	if len(s) < 4 {
		return "", fmt.Errorf("too short to mutate")
	}
	b := []byte(s)
	i := len(b) * 3 / 4
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b), nil
}
