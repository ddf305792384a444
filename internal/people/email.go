package people

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/grantway/grantway/internal/oauth"
)

const maxEmail = 254 // bytes: RFC 5321, 4.5.3.1.3, less the angle brackets

// checkEmail returns the normalised address.
func checkEmail(email string, errs oauth.FieldErrors) string {
	normal, ok := normaliseEmail(email)
	switch {
	case ok:
	case strings.TrimSpace(email) == "":
		errs["email"] = oauth.Refuse(oauth.FieldRequired)
	default:
		errs["email"] = refuse(ReasonEmailMalformed)
	}
	return normal
}

// normaliseEmail returns the form under which an address is one account: without
// the spaces around it, its ASCII letters in lower case. It refuses what cannot
// receive mail, and nothing more.
func normaliseEmail(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if len(s) > maxEmail || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs)
	}) {
		return "", false
	}
	s = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || strings.Contains(domain, "@") {
		return "", false
	}
	if domain == "localhost" {
		return s, true
	}
	labels := strings.Split(domain, ".")
	if len(labels) < 2 {
		return "", false
	}
	for _, l := range labels {
		if l == "" || strings.ContainsFunc(l, func(r rune) bool {
			return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
		}) {
			return "", false
		}
	}
	return s, true
}
