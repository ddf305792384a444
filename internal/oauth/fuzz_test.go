package oauth_test

import (
	"context"
	"encoding/base64"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

// The registration against which redirects are tried.
var registered = []oauth.RedirectURI{callback, callback + "?a=1&b=2", loopback, "http://[::1]", "http://127.0.0.1?x", "http://localhost:8000/cb", "com.example.app:/cb"}

// leadsTo reports whether an address may be where something registered leads: the
// rule of RFC 8252, 7.3, in words of its own.
func leadsTo(address, sent string) bool {
	if address == sent && slices.Contains(registered, oauth.RedirectURI(sent)) {
		return true
	}
	for _, r := range registered {
		u, err := url.Parse(string(r))
		if err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" && u.Hostname() != "::1" {
			continue
		}
		v, err := url.Parse(address)
		if err != nil || v.User != nil || v.Fragment != "" || v.Hostname() != u.Hostname() {
			continue
		}
		u.Host, v.Host = "", ""
		if u.String() == v.String() {
			return true
		}
	}
	return false
}

// FuzzMatch: what matches goes exactly where it was sent, and that is a registered
// place but for the port of a loopback address (attacks A1, A2). What is shown of it is
// plain, whatever was registered (B6).
func FuzzMatch(f *testing.F) {
	for _, r := range registered {
		f.Add(string(r))
	}
	for _, s := range []string{"http://127.0.0.1:80/callback", "http://127.0.0.1:80@evil.example/callback", "http://127.0.0.1:080/callback", "http://[::1]:9", "http://[::1]:9#", callback + "\x00", callback + "#",
		"https://paypal.com%E2%81%84secure.evil.example/cb", "https://%D1%80aypal.com", "http://[::1%25lo]/", "рaypal:/"} {
		f.Add(s)
	}
	c := &oauth.Client{Redirects: registered}
	shown := regexp.MustCompile(`^[-a-zA-Z0-9._:\[\]%]*$`)
	f.Fuzz(func(t *testing.T, sent string) {
		if it, ok := (&oauth.Client{Redirects: []oauth.RedirectURI{oauth.RedirectURI(sent)}}).RedirectTo(sent); !ok || !shown.MatchString(it.Host()) || !shown.MatchString(oauth.HostOf(sent)) {
			t.Errorf("%q is shown as %q and %q", sent, it.Host(), oauth.HostOf(sent))
		}
		back, ok := c.RedirectTo(sent)
		if ok && (back.URL() != sent || !leadsTo(back.URL(), sent)) {
			t.Errorf("%q leads to %q", sent, back.URL())
		}
		if !ok && (!back.IsZero() || slices.Contains(registered, oauth.RedirectURI(sent))) {
			t.Errorf("%q does not match, and leads to %q", sent, back.URL())
		}
	})
}

// FuzzParseScope: what is parsed is a set of scope-tokens that prints as it parses
// (RFC 6749, 3.3).
func FuzzParseScope(f *testing.F) {
	for _, s := range []string{"", " ", "a", "b a", "a a", "stores.view user.view", "a\tb", "a\"b", `a\b`, "ä", "a\x7f", strings.Repeat("x ", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, ok := oauth.ParseScope(s)
		if !ok {
			if set != nil {
				t.Errorf("%q: refused, and yet %q", s, set)
			}
			return
		}
		again, ok := oauth.ParseScope(set.String())
		if !ok || !again.Equal(set) || !slices.IsSorted(set) || len(slices.Compact(slices.Clone(set))) != len(set) {
			t.Errorf("%q became %q, then %q", s, set, again)
		}
		for _, name := range set {
			if name == "" || strings.Trim(name, "!#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~") != "" {
				t.Errorf("%q is not a scope-token", name)
			}
			if !set.Has(name) || !strings.Contains(s, name) {
				t.Errorf("%q is not of %q", name, s)
			}
		}
		if !set.Contains(set.And(set)) || len(set.Without(set)) != 0 || !set.Or(set).Equal(set) {
			t.Errorf("%q: the arithmetic of sets", s)
		}
	})
}

// FuzzVerifyOwn: of all texts, only those that the server signed are its own.
func FuzzVerifyOwn(f *testing.F) {
	w := newWorld(f)
	lasting, access := w.connect(w.exchange, "alice", "s1").AccessToken.Reveal(), w.connect(w.direct, "").AccessToken.Reveal()
	own := []string{lasting, access}
	for _, token := range own {
		parts := strings.Split(token, ".")
		f.Add(token)
		f.Add(parts[0] + "." + parts[1] + ".")
		f.Add(token + "=")
		f.Add(flipLast(token))
		f.Add(parts[0] + ".e30." + parts[2])
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".")
		f.Add(`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`)
	}
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if got := w.VerifyOwn(token); got != slices.Contains(own, token) {
			t.Errorf("%q is our own: %v", token, got)
		}
	})
}

// wellFormed checks one outcome of Authorize: exactly one result, and never a
// browser sent to a place that is not registered (attack A3).
func wellFormed(t rapid.TB, w *world, q url.Values) {
	t.Helper()
	r, back, err := w.Authorize(context.Background(), q)
	n := 0
	for _, has := range []bool{r != nil, !back.IsZero(), err != nil} {
		if has {
			n++
		}
	}
	switch {
	case n != 1:
		t.Fatalf("%d results of %q: %+v, %q, %v", n, q.Encode(), r, back.URL(), err)
	case r != nil:
		if !leadsTo(r.RedirectURI, q.Get("redirect_uri")) && q.Get("redirect_uri") != "" || len(q["state"]) > 1 || len(r.State) > 2048 {
			t.Fatalf("%q became %+v", q.Encode(), r)
		}
	case !back.IsZero():
		target, params := back.URL(), "error="+string(back.Refusal().Code)
		at := strings.LastIndex(target, params)
		if at < 1 || back.Refusal() == nil || !leadsTo(target[:at-1], q.Get("redirect_uri")) {
			t.Fatalf("%q leads to %q", q.Encode(), target)
		}
		if strings.ContainsAny(target, "\r\n\t \x00") {
			t.Fatalf("raw bytes in %q", target)
		}
	case oauth.AsError(err).Code == oauth.ServerError || oauth.AsError(err).Code == oauth.TemporarilyUnavailable:
		t.Fatalf("%q: %v", q.Encode(), err)
	}
}

func (w *world) everyRedirect() app {
	w.t.Helper()
	f := form("Every", oauth.Standard, oauth.Public)
	f.Redirects = nil
	for _, r := range registered {
		f.Redirects = append(f.Redirects, string(r))
	}
	c, _, err := w.CreateClient(context.Background(), command, f)
	w.must(err)
	return app{c.ID, "", *c}
}

// FuzzAuthorize: no query sends a browser to a place that is not registered.
func FuzzAuthorize(f *testing.F) {
	w := newWorld(f)
	a := w.everyRedirect()
	for _, q := range []url.Values{w.query(a), w.query(a, "response_type", "token"), w.query(a, "scope", "x"), w.query(a, "code_challenge_method", "plain"),
		w.query(a, "redirect_uri", "http://127.0.0.1:8000/callback", "response_type", ""), w.query(a, "redirect_uri", "https://evil.example", "response_type", ""), w.query(w.exchange)} {
		f.Add(q.Encode())
	}
	f.Add("client_id=" + a.id + "&client_id=" + a.id)
	f.Fuzz(func(t *testing.T, raw string) {
		if q, err := url.ParseQuery(raw); err == nil && len(q["client_id"]) > 0 && q["client_id"][0] == a.id {
			wellFormed(t, w, q)
		}
	})
}

// TestAuthorize_NeverElsewhere is the same for queries put together of right, wrong
// and hostile parts.
func TestAuthorize_NeverElsewhere(t *testing.T) {
	w := newWorld(t)
	a := w.everyRedirect()
	targets := []string{"", "https://evil.example/", callback + "@evil.example", callback + "#", "http://127.0.0.1:8000/callback", "http://127.0.0.1:8000@evil.example/callback",
		"http://127.0.0.1.evil.example/callback", "http://[::1]:1", "http://[::1]:1.evil.example", "//evil.example", "javascript:alert(1)", "http://127.0.0.1:65536/callback"}
	for _, r := range registered {
		targets = append(targets, string(r))
	}
	parts := map[string][]string{
		"client_id": {a.id, a.id, a.id, "nobody", ""}, "redirect_uri": targets, "state": {"", "s", "\r\nLocation: https://evil.example", strings.Repeat("x", 3000)},
		"response_type": {"code", "code", "token", ""}, "scope": {"", "stores.view", "nothing", "\""}, "nonce": {"", "n", strings.Repeat("n", 600)},
		"code_challenge": {challenge, challenge, "", "short"}, "code_challenge_method": {"S256", "S256", "plain", ""},
	}
	var order []string
	for name := range parts {
		order = append(order, name)
	}
	slices.Sort(order)
	rapid.Check(t, func(t *rapid.T) {
		q := url.Values{}
		for _, name := range order {
			for range rapid.SampledFrom([]int{1, 1, 1, 1, 0, 2}).Draw(t, name+" times") {
				q.Add(name, rapid.OneOf(rapid.SampledFrom(parts[name]), rapid.SampledFrom(parts[name]), rapid.String()).Draw(t, name))
			}
		}
		wellFormed(t, w, q)
	})
}

// Epochs are named by the clock: lists have names for as long as an index has bits.
func TestListID_LastsUntil2106(t *testing.T) {
	for id, want := range map[string]bool{"2147483647-0": true, "2147483648-0": true, "4294967295-2047": true, "4294967296-0": false} {
		if _, ok := oauth.ParseListID(id); ok != want {
			t.Errorf("%s: %v", id, ok)
		}
	}
}

// FuzzListID: a list has one name, and whatever is no name of one is none.
func FuzzListID(f *testing.F) {
	for _, s := range []string{"1-0", "1-2047", "1-2048", "0-0", "4398046511103-2047", "2147483648-1", "4294967295-2047", "4294967296-0", "-1-0", "1--0", "01-0", "+1-0", "1-0 ", "1", "-", "", "9223372036854775808-0", "1e3-0", "١-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		number, ok := oauth.ParseListID(id)
		if !ok {
			return
		}
		if number < 0 || number<<oauth.IndexBits>>oauth.IndexBits != number {
			t.Fatalf("%q is list %d, which has no indices", id, number)
		}
		if got := oauth.ListID(number << oauth.IndexBits); got != id {
			t.Fatalf("%q is list %d, whose name is %q", id, number, got)
		}
	})
}
