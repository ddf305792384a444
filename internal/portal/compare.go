package portal

import (
	"net/url"
	"strings"
	"unicode/utf8"
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
	shown := show(sent)
	if len(registered) == 0 {
		return &comparison{Sent: marked{Before: shown}, Hint: "differs.none"}
	}
	best, bestDistance := "", -1
	for _, r := range registered {
		a, b := partsOf(shown), partsOf(show(r))
		freePort(&a, &b)
		if d := distance([]rune(strings.Join(a[:], "")), []rune(strings.Join(b[:], ""))); bestDistance < 0 || d < bestDistance {
			best, bestDistance = r, d
		}
	}
	a, b := mark(shown, show(best))
	return &comparison{Sent: a, Nearest: &b, Hint: hint(sent, best)}
}

// The parts of an address, which joined are the address again: scheme, then host, port, path, query and fragment with
// the character that leads each.
const (
	schemePart = iota
	hostPart
	portPart
	pathPart
	queryPart
	fragmentPart
)

type parts [6]string

// partsOf cuts an address without reading anything into it: addresses match byte for byte. What has no scheme is all path.
func partsOf(s string) (p parts) {
	cut := func(at int) (tail string) {
		if at < 0 {
			return ""
		}
		s, tail = s[:at], s[at:]
		return tail
	}
	p[fragmentPart] = cut(strings.IndexByte(s, '#'))
	p[queryPart] = cut(strings.IndexByte(s, '?'))
	if i := strings.IndexAny(s, ":/"); i > 0 && s[i] == ':' {
		p[schemePart], s = s[:i], s[i:]
		if rest, ok := strings.CutPrefix(s, "://"); ok {
			if i := strings.IndexByte(rest, '/'); i >= 0 {
				p[pathPart] = cut(len("://") + i)
			}
			if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') && i > 0 {
				p[portPart] = cut(i)
			}
		}
		p[hostPart] = strings.TrimRight(s, "/")
		p[pathPart] = s[len(p[hostPart]):] + p[pathPart]
		return p
	}
	p[pathPart] = s
	return p
}

func (p *parts) loopback() bool { return p[hostPart] == "://127.0.0.1" || p[hostPart] == "://[::1]" }

// freePort drops the ports where they are not what differs: those of two loopback addresses are free (RFC 8252, 7.3).
func freePort(sent, registered *parts) {
	if !sent.loopback() || !registered.loopback() || registered[schemePart] != "http" {
		return
	}
	a, b := *sent, *registered
	a[portPart], b[portPart] = "", ""
	if a != b {
		*sent, *registered = a, b
	}
}

// mark puts the difference of two addresses between what is the same before and after it, part by part.
func mark(sent, registered string) (marked, marked) {
	a, b := partsOf(sent), partsOf(registered)
	x, y := a, b
	freePort(&x, &y)
	first, last := len(a), -1
	for i := range x {
		if x[i] != y[i] {
			first, last = min(first, i), i
		}
	}
	if last < 0 {
		return marked{Before: sent}, marked{Before: registered}
	}
	start := 0
	for start < len(a[first]) && start < len(b[first]) && a[first][start] == b[first][start] {
		start++
	}
	for start > 0 && start < len(a[first]) && !utf8.RuneStart(a[first][start]) {
		start--
	}
	end, room := 0, min(len(a[last]), len(b[last]))
	if first == last {
		room -= start
	}
	for end < room && a[last][len(a[last])-1-end] == b[last][len(b[last])-1-end] {
		end++
	}
	for end > 0 && !utf8.RuneStart(a[last][len(a[last])-end]) {
		end--
	}
	cut := func(p parts) marked {
		all := strings.Join(p[:], "")
		from := len(strings.Join(p[:first], "")) + start
		to := len(strings.Join(p[:last+1], "")) - end
		return marked{all[:from], all[from:to], all[to:]}
	}
	return cut(a), cut(b)
}

// hint names the first part in which two addresses differ.
func hint(sent, registered string) string {
	if sent == "" {
		return "differs.empty"
	}
	a, b := partsOf(sent), partsOf(registered)
	if _, err := url.Parse(sent); err != nil || a[schemePart] == "" {
		return "differs.unreadable"
	}
	freePort(&a, &b)
	part := 0
	for part < len(a) && a[part] == b[part] {
		part++
	}
	switch {
	case part == len(a):
		return "differs.other"
	case part <= pathPart && strings.EqualFold(a[part], b[part]):
		return "differs.case"
	case part == pathPart && strings.TrimSuffix(a[part], "/") == strings.TrimSuffix(b[part], "/"):
		return "differs.slash"
	}
	return [...]string{"differs.scheme", "differs.host", "differs.port", "differs.path", "differs.query", "differs.fragment"}[part]
}

// mostCompared is up to how many characters two addresses are compared each with each, from where they begin to differ.
const mostCompared = 64

// differing takes off what two texts begin and end with alike, and of the rest what is beyond mostCompared, whose length is
// beyond: to compare each character with each takes as many steps as their lengths multiplied, and anybody may send long
// ones (attack G5).
func differing(a, b []rune) (_, _ []rune, beyond int) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	beyond = max(len(a), len(b)) - mostCompared
	return a[:min(len(a), mostCompared)], b[:min(len(b), mostCompared)], max(beyond, 0)
}

// distance is Levenshtein's; what is beyond mostCompared counts as if all of it differed.
func distance(a, b []rune) int {
	a, b, beyond := differing(a, b)
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
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)] + beyond
}
