package portal

import (
	"net/url"
	"slices"
	"strings"
)

// comparison sets the address an app sent against the nearest one it registered.
type comparison struct {
	Sent    marked
	Nearest *marked // nil when none is registered
	Hint    string  // message id: what differs
}

// marked is an address with the part that differs in the middle.
type marked struct{ Before, Differs, After string }

// compare finds the registered address that differs least from what was sent. Addresses of unknown length come from
// outside: what is shown is cut to 500 characters.
func compare(sent string, registered []string) *comparison {
	const longest = 500
	show := func(s string) string {
		s = strings.ToValidUTF8(s, "�")
		if r := []rune(s); len(r) > longest {
			return string(r[:longest]) + "…"
		}
		return s
	}
	a := []rune(show(sent))
	if len(registered) == 0 {
		return &comparison{Sent: marked{Before: string(a)}, Hint: "differs.none"}
	}
	best, bestDistance := "", -1
	for _, r := range registered {
		if d := distance(a, []rune(show(r))); bestDistance < 0 || d < bestDistance {
			best, bestDistance = r, d
		}
	}
	b := []rune(show(best))
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	cut := func(s []rune) marked {
		return marked{string(s[:start]), string(s[start : len(s)-end]), string(s[len(s)-end:])}
	}
	nearest := cut(b)
	return &comparison{Sent: cut(a), Nearest: &nearest, Hint: hint(sent, best)}
}

// hint names the first part in which two addresses differ.
func hint(sent, registered string) string {
	if sent == "" {
		return "differs.empty"
	}
	a, errA := url.Parse(sent)
	b, errB := url.Parse(registered)
	switch {
	case errA != nil || errB != nil || a.Scheme == "":
		return "differs.unreadable"
	case a.Scheme != b.Scheme:
		return "differs.scheme"
	case a.Hostname() != b.Hostname():
		return "differs.host"
	case a.Port() != b.Port():
		return "differs.port"
	case strings.TrimSuffix(a.EscapedPath(), "/") == strings.TrimSuffix(b.EscapedPath(), "/") && a.EscapedPath() != b.EscapedPath():
		return "differs.slash"
	case strings.EqualFold(a.EscapedPath(), b.EscapedPath()) && a.EscapedPath() != b.EscapedPath():
		return "differs.case"
	case a.EscapedPath() != b.EscapedPath():
		return "differs.path"
	case a.RawQuery != b.RawQuery:
		return "differs.query"
	case a.Fragment != b.Fragment:
		return "differs.fragment"
	}
	return "differs.other"
}

// distance is Levenshtein's.
func distance(a, b []rune) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i, x := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, y := range b {
			cost := diagonal
			if x != y {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = slices.Min([]int{cost, row[j] + 1, row[j+1] + 1})
		}
	}
	return row[len(b)]
}
