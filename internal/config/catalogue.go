package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"golang.org/x/text/language"

	"github.com/grantway/grantway/internal/oauth"
)

// A scope's name is lower-camel segments joined by dots (seed-contracts.md 1.5),
// which is a part of the scope-tokens of RFC 6749, 3.3: neither spaces nor quotes
// nor anything that needs escaping on the way.
var (
	scopeName = regexp.MustCompile(`^[a-z][A-Za-z0-9]*(\.[a-z][A-Za-z0-9]*)*$`)
	groupID   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

const (
	longestName     = 100 // bytes: names are printed in every key
	longestSentence = 200 // characters: more is no longer one line of a list
)

// ParseCatalogue reads a scope catalogue from YAML: the groups in the order in
// which pages show them, and the scopes. The error joins every mistake, each with
// its line and what to write instead.
//
//	groups:
//	  orders: {en: Orders, de: Bestellungen}
//	scopes:
//	  - name: orders.view
//	    group: orders
//	    kind: store               # or account
//	    verb: see                 # or change
//	    risk: elevated            # or low, high
//	    touches: [customers]      # any of money, customers, deletion; may be left out
//	    text: {en: See your orders., de: Deine Bestellungen ansehen.}
func ParseCatalogue(data []byte) (*oauth.Catalogue, error) {
	return parseCatalogue("", data)
}

func parseCatalogue(file string, data []byte) (*oauth.Catalogue, error) {
	c := &catalogueReader{document: document{file: file}}
	for _, e := range c.root(data) {
		switch e.key {
		case "groups":
			c.groups = c.readGroups(e)
		case "scopes":
			c.readScopes(e)
		default:
			c.errorAt(e.line, "%s is not a part of a catalogue; %s", e.key, meant(e.key, []string{"groups", "scopes"}))
		}
	}
	// Groups may stand below the scopes that name them.
	for _, s := range c.scopes {
		if s.groupLine != 0 && !slices.ContainsFunc(c.groups, func(g oauth.ScopeGroup) bool { return g.ID == s.Group }) {
			c.errorAt(s.groupLine, "%s: there is no group %s; add it under groups", s.Name, s.Group)
		}
	}
	if len(c.errs) == 0 && len(c.scopes) == 0 {
		c.errorAt(1, "there are no scopes; list them under scopes:")
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	scopes := make([]oauth.Scope, len(c.scopes))
	for i, s := range c.scopes {
		scopes[i] = s.Scope
	}
	return oauth.NewCatalogue(scopes, c.groups), nil
}

type catalogueReader struct {
	document
	groups []oauth.ScopeGroup
	scopes []readScope
}

type readScope struct {
	oauth.Scope
	groupLine int // where the group is named
}

func (c *catalogueReader) readGroups(e entry) (groups []oauth.ScopeGroup) {
	for _, g := range c.mapping(e.value, "groups") {
		if !groupID.MatchString(g.key) {
			c.errorAt(g.line, "group %q: write its id in small letters, digits and hyphens, such as orders", g.key)
		}
		groups = append(groups, oauth.ScopeGroup{ID: g.key, Title: c.readText(g, "group "+g.key)})
	}
	return groups
}

func (c *catalogueReader) readScopes(e entry) {
	seen := map[string]int{}
	for i, item := range c.list(e) {
		what := fmt.Sprintf("scope %d", i+1)
		line := lineOf(item)
		fields := c.mapping(item, what)
		if fields == nil {
			continue
		}
		if j := slices.IndexFunc(fields, func(f entry) bool { return f.key == "name" }); j >= 0 {
			if name, ok := fields[j].value.(*ast.StringNode); ok && scopeName.MatchString(name.Value) {
				what = name.Value
			}
		}
		s := c.readScope(fields, what, line)
		if first, dup := seen[s.Name]; dup && s.Name != "" {
			c.errorAt(line, "%s is listed twice, first in line %d; remove one of the two", s.Name, first)
			continue
		}
		seen[s.Name] = line
		c.scopes = append(c.scopes, s)
	}
}

var scopeFields = []string{"name", "group", "kind", "verb", "risk", "touches", "text"}

func (c *catalogueReader) readScope(fields []entry, what string, line int) (s readScope) {
	given := map[string]bool{}
	for _, f := range fields {
		given[f.key] = true
		switch f.key {
		case "name":
			s.Name, _ = c.text(f)
			if s.Name != "" && (!scopeName.MatchString(s.Name) || len(s.Name) > longestName) {
				c.errorAt(f.line, "%q is not a scope name; write words joined by dots, each beginning with a small letter, such as orders.view, at most %d characters", s.Name, longestName)
			}
		case "group":
			if group, ok := c.text(f); ok {
				s.Group, s.groupLine = group, f.line
			}
		case "kind":
			s.Kind = oauth.ScopeKind(c.oneOf(f, what, string(oauth.StoreScope), string(oauth.AccountScope)))
		case "verb":
			s.Verb = c.oneOf(f, what, "see", "change")
		case "risk":
			s.Risk = c.oneOf(f, what, "low", "elevated", "high")
		case "touches":
			s.Touches = c.readTouches(f, what)
		case "text":
			s.Text = c.readText(f, what)
		default:
			c.errorAt(f.line, "%s: %s is not a part of a scope; %s", what, f.key, meant(f.key, scopeFields))
		}
	}
	for _, name := range scopeFields {
		if !given[name] && name != "touches" {
			c.errorAt(line, "%s has no %s; add it", what, name)
		}
	}
	return s
}

// oneOf returns the value of f if it is one of choices.
func (c *catalogueReader) oneOf(f entry, what string, choices ...string) string {
	v, ok := c.text(f)
	if ok && !slices.Contains(choices, v) {
		c.errorAt(f.line, "%s: %s is %q; write %s", what, f.key, v, either(choices))
		return ""
	}
	return v
}

func (c *catalogueReader) readTouches(f entry, what string) (marks []string) {
	for _, item := range c.list(f) {
		mark := c.oneOf(entry{"touches", lineOf(item), item}, what, "money", "customers", "deletion")
		if mark != "" && slices.Contains(marks, mark) {
			c.errorAt(lineOf(item), "%s touches %s twice; keep one of the two", what, mark)
			continue
		}
		if mark != "" {
			marks = append(marks, mark)
		}
	}
	return marks
}

// readText reads one line of text per language. English must be there: it is what
// a reader sees whose language is not.
func (c *catalogueReader) readText(f entry, what string) map[string]string {
	texts := map[string]string{}
	entries := c.mapping(f.value, what+" in words")
	for _, e := range entries {
		tag, err := language.Parse(e.key)
		if err != nil {
			c.errorAt(e.line, "%s: %q is not a language; write its code, such as en, de or pt-BR", what, e.key)
		} else if tag.String() != e.key {
			c.errorAt(e.line, "%s: write the language %s as %s", what, e.key, tag)
		}
		text, ok := c.text(e)
		if !ok {
			continue
		}
		texts[e.key] = text
		switch {
		case strings.TrimSpace(text) != text || strings.ContainsFunc(text, unprintable):
			c.errorAt(e.line, "%s: the text in %s holds a line break, a control character or a space at an end; write one plain line", what, e.key)
		case utf8.RuneCountInString(text) > longestSentence:
			c.errorAt(e.line, "%s: the text in %s is longer than %d characters; write one short sentence", what, e.key, longestSentence)
		}
	}
	if entries != nil && !slices.ContainsFunc(entries, func(e entry) bool { return e.key == "en" }) {
		c.errorAt(f.line, "%s has no text in English; add en:", what)
	}
	return texts
}

// unprintable reports what no line of a page holds: line breaks, other controls,
// and bytes that are no text.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == utf8.RuneError || r == '\u2028' || r == '\u2029'
}

// either joins words as "a, b or c".
func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
