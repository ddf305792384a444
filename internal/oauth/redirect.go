package oauth

import (
	"fmt"
	"net/url"
	"strings"
)

// RedirectURI is a URL that an app registered, byte for byte as it was written.
type RedirectURI string

// Redirect is a validated place to send the browser. Only matching against a
// client's registration builds one, so an open redirect does not compile
// (DESIGN, decision 10).
type Redirect struct {
	uri     string
	params  string
	app     string
	refusal *Error
}

// App returns the name of the app that the browser goes to.
func (r Redirect) App() string { return r.app }

// Refusal returns the error that the redirect carries, or nil.
func (r Redirect) Refusal() *Error { return r.refusal }

// URL returns the address with the answer's parameters. Whatever query the app
// registered stays as it is.
func (r Redirect) URL() string {
	switch {
	case r.params == "":
		return r.uri
	case strings.Contains(r.uri, "?"):
		return r.uri + "&" + r.params
	default:
		return r.uri + "?" + r.params
	}
}

// Host returns what a person should see of the address: its host, or the scheme
// of an installed app.
func (r Redirect) Host() string {
	if u := r.web(); u != nil {
		return escaped(u.Host)
	}
	scheme, _, _ := strings.Cut(r.uri, ":")
	return escaped(scheme)
}

// place says where an address leads, to be compared: an app's scheme is no host, whatever
// it is called, and on this machine every port is the same (RFC 8252, 7.3).
func (r Redirect) place() string {
	u := r.web()
	switch {
	case u == nil:
		return r.Host() + ":"
	case isLoopback(u.Hostname()):
		return u.Scheme + "://" + u.Hostname()
	}
	return u.Scheme + "://" + u.Host
}

// web reads the address of a website; nil if it is an installed app's.
func (r Redirect) web() *url.URL {
	u, err := url.Parse(r.uri)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil
	}
	return u
}

// HostOf returns the host of a link as a person should see it; "" if there is none.
func HostOf(link string) string {
	u, err := url.Parse(link)
	if err != nil {
		return ""
	}
	return escaped(u.Host)
}

// plain reports whether what stands in a host is what a person reads there. url.Parse
// undoes the escapes in a host, so that %E2%81%84 would be shown as a slash that is
// none, and %D1%80 as a letter that looks like p (attack B6). Another script is
// written as the browser asks for it: xn--….
func plain(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("-._:[]", b) >= 0
}

func plainHost(host string) bool {
	for i := range len(host) {
		if !plain(host[i]) {
			return false
		}
	}
	return true
}

// escaped shows the bytes that are not plain by their numbers: what was registered
// before they were refused deceives nobody either.
func escaped(host string) string {
	var b strings.Builder
	for i := range len(host) {
		if plain(host[i]) {
			b.WriteByte(host[i])
		} else {
			fmt.Fprintf(&b, "%%%02X", host[i])
		}
	}
	return b.String()
}

// IsZero reports whether r leads nowhere.
func (r Redirect) IsZero() bool { return r.uri == "" }

func (r Redirect) with(kv ...string) Redirect {
	var b strings.Builder
	b.WriteString(r.params)
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(kv[i]) + "=" + url.QueryEscape(kv[i+1]))
	}
	r.params = b.String()
	return r
}

// match finds what was sent among the registered URIs: byte for byte, except
// that the port of a plain-http loopback IP literal is free (RFC 8252, 7.3;
// RFC 9700, 4.1.3). Nothing is parsed or normalised first.
func match(registered []RedirectURI, sent string) (Redirect, bool) {
	for _, r := range registered {
		if string(r) == sent {
			return Redirect{uri: sent}, true
		}
	}
	host, rest, ok := cutLoopback(sent)
	if !ok {
		return Redirect{}, false
	}
	for _, r := range registered {
		if h, tail, ok := cutLoopback(string(r)); ok && h == host && tail == rest {
			return Redirect{uri: sent}, true
		}
	}
	return Redirect{}, false
}

// cutLoopback takes the port out of http://127.0.0.1[:port]… and http://[::1]….
// localhost is a name, which a hosts file may point anywhere, so it is not among
// them.
func cutLoopback(s string) (host, rest string, ok bool) {
	for _, h := range [...]string{"http://127.0.0.1", "http://[::1]"} {
		rest, found := strings.CutPrefix(s, h)
		if !found {
			continue
		}
		if port, found := strings.CutPrefix(rest, ":"); found {
			n := 0
			for n < len(port) && port[n] >= '0' && port[n] <= '9' {
				n++
			}
			if n == 0 || n > 5 || port[0] == '0' || n == 5 && port[:5] > "65535" {
				return "", "", false
			}
			rest = port[n:]
		}
		if rest != "" && rest[0] != '/' && rest[0] != '?' {
			return "", "", false // 127.0.0.1.evil.example, 127.0.0.1@evil.example
		}
		return h, rest, true
	}
	return "", "", false
}

const maxRedirectLen = 2048

// checkRedirect says what is wrong with a URL that an app wants to register: one
// reason for each mistake, the first that its author should mend.
func checkRedirect(c *Client, raw string, before []RedirectURI) *Error {
	if c.Profile == Direct {
		if raw != OutOfBand {
			return refuse(RedirectURNOnly)
		}
		return nil
	}
	if len(raw) > maxRedirectLen {
		return refuse(RedirectTooLong)
	}
	for i := range len(raw) {
		if b := raw[i]; b <= 0x20 || b >= 0x7f || b == '\\' || b == '"' || b == '<' || b == '>' {
			return refuse(RedirectUnclean)
		}
	}
	if strings.Contains(raw, "*") {
		return refuse(RedirectWildcard)
	}
	if strings.Contains(raw, "#") {
		return refuse(RedirectFragment)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return refuse(RedirectNotAbsolute)
	}
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme == "https" || scheme == "http":
		if u.User != nil || strings.Contains(u.Host, "@") {
			return refuse(RedirectUserinfo)
		}
		if u.Hostname() == "" || !strings.HasPrefix(raw, scheme+"://") {
			return refuse(RedirectNotAbsolute)
		}
		if scheme == "http" && !isLoopback(u.Hostname()) {
			return refuse(RedirectNotHTTPS)
		}
	// A private-use scheme must be a reversed domain name (RFC 8252, 7.1), which
	// also keeps out javascript:, data:, vbscript:, file:, blob: and mailto:. A
	// confidential client is a web server and has no such scheme.
	case c.Type == Public && strings.Contains(scheme, ".") && u.User == nil:
	default:
		return refuse(RedirectScheme)
	}
	if !plainHost(u.Host) {
		return refuse(RedirectUnclean)
	}
	for _, r := range before {
		if string(r) == raw {
			return refuse(RedirectDuplicate)
		}
	}
	if len(before) >= MaxRedirects {
		return refuse(RedirectTooMany)
	}
	return nil
}

func isLoopback(host string) bool {
	return host == "127.0.0.1" || host == "::1" || host == "localhost"
}
