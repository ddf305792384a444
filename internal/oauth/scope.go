package oauth

import (
	"slices"
	"strings"
)

// ScopeSet is a set of scope names, sorted and without duplicates. The zero value
// is the empty set. A ScopeSet is never changed in place.
type ScopeSet []string

// Scopes returns the set of names.
func Scopes(names ...string) ScopeSet {
	if len(names) == 0 {
		return nil
	}
	s := slices.Clone(names)
	slices.Sort(s)
	return slices.Compact(s)
}

// ParseScope splits a scope parameter (RFC 6749, 3.3). It reports false if the
// text is not a list of scope-tokens.
func ParseScope(s string) (ScopeSet, bool) {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return nil, false
		}
	}
	return Scopes(strings.Fields(s)...), true
}

// length is that of String, or one more.
func (s ScopeSet) length() int {
	n := len(s)
	for _, name := range s {
		n += len(name)
	}
	return n
}

// String joins the set with spaces, as the scope parameter and claim have it.
func (s ScopeSet) String() string { return strings.Join(s, " ") }

// Has reports whether name is in the set.
func (s ScopeSet) Has(name string) bool {
	_, ok := slices.BinarySearch(s, name)
	return ok
}

// Contains reports whether every scope of t is in s.
func (s ScopeSet) Contains(t ScopeSet) bool {
	for _, name := range t {
		if !s.Has(name) {
			return false
		}
	}
	return true
}

// Equal reports whether the two sets are the same.
func (s ScopeSet) Equal(t ScopeSet) bool { return slices.Equal(s, t) }

// And returns the intersection.
func (s ScopeSet) And(t ScopeSet) ScopeSet {
	return s.filter(t.Has)
}

// Without returns what is in s and not in t.
func (s ScopeSet) Without(t ScopeSet) ScopeSet {
	return s.filter(func(name string) bool { return !t.Has(name) })
}

// Or returns the union.
func (s ScopeSet) Or(t ScopeSet) ScopeSet {
	if len(t) == 0 {
		return s
	}
	return Scopes(append(slices.Clone([]string(s)), t...)...)
}

func (s ScopeSet) filter(keep func(string) bool) ScopeSet {
	var out ScopeSet
	for _, name := range s {
		if keep(name) {
			out = append(out, name)
		}
	}
	return out
}
