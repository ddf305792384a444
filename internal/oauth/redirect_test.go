package oauth_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

// What is sent is compared with what is registered byte for byte, before anything
// is parsed (RFC 9700, 4.1.3; attack A1).
func TestRedirect_RFC9700_4_1_3(t *testing.T) {
	c := &oauth.Client{Redirects: []oauth.RedirectURI{callback, callback + "?a=1&b=%41", "com.example.app:/cb", "https://[2001:db8::1]/cb"}}
	for _, sent := range c.Redirects {
		if back, ok := c.RedirectTo(string(sent)); !ok || back.URL() != string(sent) {
			t.Errorf("%s does not match itself: %q", sent, back.URL())
		}
	}
	for name, sent := range map[string]string{
		"nothing":             "",
		"prefix":              "https://client.example/callbac",
		"suffix":              callback + "x",
		"subpath":             callback + "/evil",
		"trailing slash":      callback + "/",
		"parent":              "https://client.example/a/../callback",
		"dot-dot after":       callback + "/../evil",
		"semicolon":           callback + "/..;/evil",
		"escaped dots":        callback + "/%2e%2e/evil",
		"escaped letter":      "https://client.example/c%61llback",
		"double slash":        "https://client.example//callback",
		"backslash":           `https://client.example\callback`,
		"backslash host":      `https://evil.example\@client.example/callback`,
		"userinfo":            "https://client.example@evil.example/callback",
		"userinfo before":     "https://user@client.example/callback",
		"extra query":         callback + "?x=1",
		"empty query":         callback + "?",
		"query reordered":     callback + "?b=%41&a=1",
		"query unescaped":     callback + "?a=1&b=A",
		"fragment":            callback + "#x",
		"upper-case host":     "https://Client.example/callback",
		"upper-case scheme":   "HTTPS://client.example/callback",
		"upper-case path":     "https://client.example/Callback",
		"http":                "http://client.example/callback",
		"no scheme":           "//client.example/callback",
		"default port":        "https://client.example:443/callback",
		"another port":        "https://client.example:8443/callback",
		"dot at the end":      "https://client.example./callback",
		"suffix host":         "https://client.example.evil.example/callback",
		"prefix host":         "https://evilclient.example/callback",
		"IDN look-alike":      "https://сlient.example/callback",
		"full-width":          "https://client。example/callback",
		"tab":                 "https://client.example/call\tback",
		"newline":             callback + "\n",
		"leading space":       " " + callback,
		"NUL":                 callback + "\x00",
		"two, joined":         callback + "," + callback,
		"two, by a space":     callback + " https://evil.example/",
		"IPv6, other writing": "https://[2001:0db8::1]/cb",
		"scheme of another":   "com.example.app2:/cb",
		"javascript":          "javascript:alert(1)//" + callback,
		"data":                "data:text/html,x",
		"the URN of direct":   oauth.OutOfBand,
	} {
		t.Run(name, func(t *testing.T) {
			if back, ok := c.RedirectTo(sent); ok || !back.IsZero() {
				t.Errorf("%q matched: %s", sent, back.URL())
			}
		})
	}
}

// The port of a plain-http loopback IP literal is free, and nothing else is (RFC
// 8252, 7.3; attack A2).
func TestRedirect_RFC8252_7_3(t *testing.T) {
	for name, c := range map[string]struct {
		registered, sent string
		want             bool
	}{
		"no port":                  {"http://127.0.0.1/cb", "http://127.0.0.1/cb", true},
		"any port":                 {"http://127.0.0.1/cb", "http://127.0.0.1:49152/cb", true},
		"port 1":                   {"http://127.0.0.1/cb", "http://127.0.0.1:1/cb", true},
		"port 65535":               {"http://127.0.0.1/cb", "http://127.0.0.1:65535/cb", true},
		"registered with a port":   {"http://127.0.0.1:8080/cb", "http://127.0.0.1:9/cb", true},
		"registered with, without": {"http://127.0.0.1:8080/cb", "http://127.0.0.1/cb", true},
		"no path":                  {"http://127.0.0.1", "http://127.0.0.1:8000", true},
		"no path but a query":      {"http://127.0.0.1?a=b", "http://127.0.0.1:8000?a=b", true},
		"only the slash":           {"http://127.0.0.1/", "http://127.0.0.1:8000/", true},
		"IPv6":                     {"http://[::1]/cb", "http://[::1]:49152/cb", true},
		"IPv6, no path":            {"http://[::1]", "http://[::1]:3000", true},
		"query":                    {"http://127.0.0.1/cb?a=1", "http://127.0.0.1:7/cb?a=1", true},

		"slash added":           {"http://127.0.0.1", "http://127.0.0.1:8000/", false},
		"slash removed":         {"http://127.0.0.1/", "http://127.0.0.1:8000", false},
		"path changed":          {"http://127.0.0.1/cb", "http://127.0.0.1:8000/cb2", false},
		"path of that length":   {"http://127.0.0.1/cb", "http://127.0.0.1:8000/cx", false},
		"path, dots":            {"http://127.0.0.1/cb", "http://127.0.0.1:8000/x/../cb", false},
		"query added":           {"http://127.0.0.1/cb", "http://127.0.0.1:8000/cb?x", false},
		"fragment":              {"http://127.0.0.1/cb", "http://127.0.0.1:8000/cb#", false},
		"port 0":                {"http://127.0.0.1/cb", "http://127.0.0.1:0/cb", false},
		"port 65536":            {"http://127.0.0.1/cb", "http://127.0.0.1:65536/cb", false},
		"port of six digits":    {"http://127.0.0.1/cb", "http://127.0.0.1:100000/cb", false},
		"leading zero":          {"http://127.0.0.1/cb", "http://127.0.0.1:08000/cb", false},
		"empty port":            {"http://127.0.0.1/cb", "http://127.0.0.1:/cb", false},
		"signed port":           {"http://127.0.0.1/cb", "http://127.0.0.1:+80/cb", false},
		"port, then a name":     {"http://127.0.0.1/cb", "http://127.0.0.1:80.evil.example/cb", false},
		"port, then userinfo":   {"http://127.0.0.1/cb", "http://127.0.0.1:80@evil.example/cb", false},
		"name beginning so":     {"http://127.0.0.1/cb", "http://127.0.0.1.evil.example/cb", false},
		"userinfo":              {"http://127.0.0.1/cb", "http://127.0.0.1@evil.example/cb", false},
		"backslash":             {"http://127.0.0.1/cb", `http://127.0.0.1\evil.example/cb`, false},
		"https":                 {"https://127.0.0.1/cb", "https://127.0.0.1:8443/cb", false},
		"http for https":        {"https://127.0.0.1/cb", "http://127.0.0.1:80/cb", false},
		"localhost":             {"http://localhost/cb", "http://localhost:8000/cb", false},
		"localhost, exactly":    {"http://localhost:8000/cb", "http://localhost:8000/cb", true},
		"localhost for IP":      {"http://127.0.0.1/cb", "http://localhost:8000/cb", false},
		"localhost.evil":        {"http://localhost/cb", "http://localhost.evil.example/cb", false},
		"IPv4 for IPv6":         {"http://[::1]/cb", "http://127.0.0.1:8000/cb", false},
		"mapped":                {"http://127.0.0.1/cb", "http://[::ffff:127.0.0.1]:8000/cb", false},
		"127.1":                 {"http://127.0.0.1/cb", "http://127.1:8000/cb", false},
		"127.0.0.2":             {"http://127.0.0.1/cb", "http://127.0.0.2:8000/cb", false},
		"decimal":               {"http://127.0.0.1/cb", "http://2130706433:8000/cb", false},
		"zone":                  {"http://[::1]/cb", "http://[::1%25lo]:8000/cb", false},
		"long IPv6":             {"http://[::1]/cb", "http://[0:0:0:0:0:0:0:1]:8000/cb", false},
		"upper-case scheme":     {"http://127.0.0.1/cb", "HTTP://127.0.0.1:8000/cb", false},
		"ports of public hosts": {"https://client.example/cb", "https://client.example:8000/cb", false},
	} {
		t.Run(name, func(t *testing.T) {
			client := &oauth.Client{Redirects: []oauth.RedirectURI{oauth.RedirectURI(c.registered)}}
			back, ok := client.RedirectTo(c.sent)
			if ok != c.want || ok && back.URL() != c.sent {
				t.Errorf("%s against %s: %v, goes to %q", c.sent, c.registered, ok, back.URL())
			}
		})
	}
}

// One message for each mistake at registration (RFC 9700, 4.1.3; RFC 8252, 7.1;
// seed-contracts K14; attack A5).
func TestRedirect_Registration(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		raw    string
		typ    oauth.ClientType
		reason oauth.Reason // "" if it is taken
	}{
		"https":                  {"https://client.example/cb", oauth.Confidential, ""},
		"https with a query":     {"https://client.example/cb?a=1", oauth.Confidential, ""},
		"no path":                {"https://client.example", oauth.Confidential, ""},
		"spaces around":          {"  https://client.example/cb ", oauth.Confidential, ""},
		"loopback":               {"http://127.0.0.1/cb", oauth.Confidential, ""},
		"loopback, no path":      {"http://127.0.0.1", oauth.Public, ""},
		"IPv6 loopback":          {"http://[::1]:3000/cb", oauth.Confidential, ""},
		"localhost":              {"http://localhost:8000/cb", oauth.Confidential, ""},
		"a scheme of its own":    {"com.example.app:/cb", oauth.Public, ""},
		"the same, confidential": {"com.example.app:/cb", oauth.Confidential, oauth.RedirectScheme},
		"scheme without a dot":   {"myapp://cb", oauth.Public, oauth.RedirectScheme},
		"javascript":             {"javascript:alert(1)", oauth.Public, oauth.RedirectScheme},
		"JavaScript":             {"JavaScript:alert(1)", oauth.Public, oauth.RedirectScheme},
		"javascript with //":     {"javascript://client.example/%0aalert(1)", oauth.Confidential, oauth.RedirectScheme},
		"data":                   {"data:text/html,x", oauth.Public, oauth.RedirectScheme},
		"vbscript":               {"vbscript:x", oauth.Public, oauth.RedirectScheme},
		"file":                   {"file:///etc/passwd", oauth.Public, oauth.RedirectScheme},
		"blob":                   {"blob:https://client.example/x", oauth.Public, oauth.RedirectScheme},
		"mailto":                 {"mailto:a@client.example", oauth.Public, oauth.RedirectScheme},
		"about":                  {"about:blank", oauth.Public, oauth.RedirectScheme},
		"ftp":                    {"ftp://client.example/cb", oauth.Confidential, oauth.RedirectScheme},
		"the URN of direct":      {oauth.OutOfBand, oauth.Public, oauth.RedirectScheme},
		"plain http":             {"http://client.example/cb", oauth.Confidential, oauth.RedirectNotHTTPS},
		"name like loopback":     {"http://127.0.0.1.evil.example/", oauth.Confidential, oauth.RedirectNotHTTPS},
		"mapped loopback":        {"http://[::ffff:127.0.0.1]/cb", oauth.Confidential, oauth.RedirectNotHTTPS},
		"any address":            {"http://0.0.0.0/cb", oauth.Confidential, oauth.RedirectNotHTTPS},
		"fragment":               {"https://client.example/cb#x", oauth.Confidential, oauth.RedirectFragment},
		"empty fragment":         {"https://client.example/cb#", oauth.Confidential, oauth.RedirectFragment},
		"user":                   {"https://user@client.example/cb", oauth.Confidential, oauth.RedirectUserinfo},
		"user and password":      {"https://u:p@client.example/cb", oauth.Confidential, oauth.RedirectUserinfo},
		"empty user":             {"https://@client.example/cb", oauth.Confidential, oauth.RedirectUserinfo},
		"user in its own scheme": {"com.example.app://u@x/cb", oauth.Public, oauth.RedirectScheme},
		"wildcard host":          {"https://*.client.example/cb", oauth.Confidential, oauth.RedirectWildcard},
		"wildcard path":          {"https://client.example/*", oauth.Confidential, oauth.RedirectWildcard},
		"relative":               {"/callback", oauth.Confidential, oauth.RedirectNotAbsolute},
		"no scheme":              {"client.example/cb", oauth.Confidential, oauth.RedirectNotAbsolute},
		"no host":                {"https:///cb", oauth.Confidential, oauth.RedirectNotAbsolute},
		"opaque":                 {"https:client.example/cb", oauth.Confidential, oauth.RedirectNotAbsolute},
		"only a port":            {"https://:443/cb", oauth.Confidential, oauth.RedirectNotAbsolute},
		"upper-case scheme":      {"HTTPS://client.example/cb", oauth.Confidential, oauth.RedirectNotAbsolute},
		"bad escape":             {"https://client.example/%zz", oauth.Confidential, oauth.RedirectNotAbsolute},
		"backslash":              {`https://client.example\cb`, oauth.Confidential, oauth.RedirectUnclean},
		"space inside":           {"https://client.example/c b", oauth.Confidential, oauth.RedirectUnclean},
		"newline inside":         {"https://client.example/\ncb", oauth.Confidential, oauth.RedirectUnclean},
		"letters beyond ASCII":   {"https://clïent.example/cb", oauth.Confidential, oauth.RedirectUnclean},
		"quote":                  {`https://client.example/"`, oauth.Confidential, oauth.RedirectUnclean},
		"an escaped slash":       {"https://paypal.com%E2%81%84secure.evil.example/cb", oauth.Confidential, oauth.RedirectUnclean}, // attack B6
		"an escaped look-alike":  {"https://%D1%80aypal.com", oauth.Confidential, oauth.RedirectUnclean},
		"full-width, escaped":    {"https://paypal.com%EF%BC%8Fx.evil.example/", oauth.Confidential, oauth.RedirectUnclean},
		"another point, escaped": {"https://paypal%E3%80%82com/", oauth.Confidential, oauth.RedirectUnclean},
		"escapes, no UTF-8":      {"https://paypal%ff.com/", oauth.Confidential, oauth.RedirectUnclean},
		"escaped in its scheme":  {"com.example.app://%D1%80aypal.com/cb", oauth.Public, oauth.RedirectUnclean},
		"marks in the host":      {"https://paypal.com&x=y.evil.example/", oauth.Confidential, oauth.RedirectUnclean},
		"escaped at sign":        {"https://paypal.com%40evil.example/", oauth.Confidential, oauth.RedirectNotAbsolute},
		"IPv6 with a zone":       {"https://[fe80::1%25en0]/cb", oauth.Confidential, oauth.RedirectUnclean},
		"loopback with a zone":   {"http://[::1%25lo]:3000/cb", oauth.Confidential, oauth.RedirectNotHTTPS},
		"IPv6":                   {"https://[2001:db8::1]:8443/cb", oauth.Confidential, ""},
		"punycode":               {"https://xn--80ak6aa92e.com/cb", oauth.Confidential, ""},
		"an underscore":          {"https://my_shop.client.example/cb", oauth.Confidential, ""},
		"escapes in the path":    {"https://client.example/%D1%80", oauth.Confidential, ""},
		"too long":               {"https://client.example/" + strings.Repeat("a", 2048), oauth.Confidential, oauth.RedirectTooLong},
		"twice":                  {callback, oauth.Confidential, oauth.RedirectDuplicate},
	} {
		t.Run(name, func(t *testing.T) {
			f := form("App", oauth.Standard, c.typ)
			f.Redirects = []string{callback, c.raw}
			created, _, err := w.CreateClient(context.Background(), command, f)
			if c.reason == "" {
				w.must(err)
				if got := string(created.Redirects[1]); got != strings.TrimSpace(c.raw) {
					t.Errorf("%q became %q", c.raw, got)
				}
				return
			}
			wantField(t, err, "redirect_uri[1]", c.reason)
		})
	}
	t.Run("every mistake beside its field", func(t *testing.T) {
		f := form("App", oauth.Exchange, oauth.Confidential)
		f.Redirects = []string{callback, "nothing", "http://client.example", "", callback}
		_, _, err := w.CreateClient(context.Background(), command, f)
		wantField(t, err, "redirect_uri[1]", oauth.RedirectNotAbsolute)
		wantField(t, err, "redirect_uri[2]", oauth.RedirectNotHTTPS)
		wantField(t, err, "redirect_uri[4]", oauth.RedirectDuplicate)
	})
	t.Run("ten, and not eleven", func(t *testing.T) {
		f := form("App", oauth.Exchange, oauth.Confidential)
		f.Redirects = nil
		for i := range 10 {
			f.Redirects = append(f.Redirects, callback+strings.Repeat("/x", i))
		}
		_, _, err := w.CreateClient(context.Background(), command, f)
		w.must(err)
		f.Redirects = append(f.Redirects, "https://client.example/eleven")
		_, _, err = w.CreateClient(context.Background(), command, f)
		wantField(t, err, "redirect_uri[10]", oauth.RedirectTooMany)
	})
	t.Run("none at all", func(t *testing.T) {
		f := form("", oauth.Exchange, oauth.Confidential)
		f.Redirects = []string{" "}
		_, _, err := w.CreateClient(context.Background(), command, f)
		wantField(t, err, "redirect_uri[0]", oauth.FieldRequired)
		wantField(t, err, "name", oauth.FieldRequired)
	})
	t.Run("direct has the URN only", func(t *testing.T) {
		f := form("App", oauth.Direct, oauth.Public)
		f.Redirects = []string{callback}
		_, _, err := w.CreateClient(context.Background(), command, f)
		wantField(t, err, "redirect_uri[0]", oauth.RedirectURNOnly)
	})
}

func wantField(t testing.TB, err error, field string, want oauth.Reason) {
	t.Helper()
	errs, _ := errors.AsType[oauth.FieldErrors](err)
	if got := errs[field]; got == nil || got.Reason != want {
		t.Errorf("%s: %v, want %s", field, err, want)
	}
}

// The answer is put after whatever query the app registered, which stays as it is;
// the state comes back byte for byte (RFC 6749, 3.1.2; attack A17).
func TestRedirect_Answer(t *testing.T) {
	w := newWorld(t)
	f := form("Query", oauth.Exchange, oauth.Confidential)
	registered := []string{callback, callback + "?a=1&b=%41+x", "http://127.0.0.1?x"}
	f.Redirects = registered
	c, secret, err := w.CreateClient(context.Background(), command, f)
	w.must(err)
	a := app{c.ID, secret, *c}
	for _, to := range registered {
		back, err := w.decide("alice", w.ask(a, "redirect_uri", to), "s1")
		w.must(err)
		join := "?"
		if strings.Contains(to, "?") {
			join = "&"
		}
		if !strings.HasPrefix(back.URL(), to+join+"code=") {
			t.Errorf("%s became %s", to, back.URL())
		}
		if back.App() != "Query" {
			t.Errorf("the page would name %q", back.App())
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		state := string(rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "state"))
		back, err := w.Decide(context.Background(), "alice", w.ask(a, "redirect_uri", registered[1], "state", state), oauth.Decision{})
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(back.URL(), "\r\n\x00 <>\"") {
			t.Fatalf("raw bytes in %q", back.URL())
		}
		u, err := url.Parse(back.URL())
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		if got := q.Get("state"); got != state || len(q["state"]) != 1 || q.Get("a") != "1" || q.Get("b") != "A x" {
			t.Fatalf("state %q became %q in %s", state, got, back.URL())
		}
	})
}

// Host is what a person should see of an address: never what an escape stands for,
// though it was registered before such were refused (attack B6).
func TestRedirect_Host(t *testing.T) {
	for uri, want := range map[oauth.RedirectURI]string{
		callback: "client.example", "http://127.0.0.1:8000/cb": "127.0.0.1:8000", "http://[::1]:8000/cb": "[::1]:8000",
		"com.example.app:/cb": "com.example.app", "com.example.app://bank.example/cb": "com.example.app", "com.example.app://%D1%80aypal.com/cb": "com.example.app",
		"https://paypal.com%E2%81%84secure.evil.example/cb": "paypal.com%E2%81%84secure.evil.example",
		"https://%D1%80aypal.com":                           "%D1%80aypal.com",
		"https://[fe80::1%25en0]/":                          "[fe80::1%25en0]",
	} {
		back, _ := (&oauth.Client{Redirects: []oauth.RedirectURI{uri}}).RedirectTo(string(uri))
		if back.Host() != want {
			t.Errorf("%s: %s, want %s", uri, back.Host(), want)
		}
		if strings.HasPrefix(string(uri), "http") && oauth.HostOf(string(uri)) != want {
			t.Errorf("%s, as a link: %s, want %s", uri, oauth.HostOf(string(uri)), want)
		}
	}
}

// The home page's host stands beside the badge, so that it is as plain (attack B6).
func TestClient_B6_Links(t *testing.T) {
	w := newWorld(t)
	for link, taken := range map[string]bool{
		"https://client.example": true, "https://client.example:8443/%D1%80": true, "https://xn--80ak6aa92e.com/": true,
		"https://paypal.com%E2%81%84secure.evil.example/": false, "https://%D1%80aypal.com": false, "https://paypal%E3%80%82com/": false,
		"https://u@client.example/": false, "https://client.example;x/": false, "http://client.example/": false,
	} {
		for _, field := range []string{"homepage", "terms", "privacy"} {
			f := form("App", oauth.Standard, oauth.Confidential)
			*map[string]*string{"homepage": &f.Homepage, "terms": &f.Terms, "privacy": &f.Privacy}[field] = link
			_, _, err := w.CreateClient(context.Background(), command, f)
			if taken {
				w.must(err)
			} else {
				wantField(t, err, field, oauth.LinkNotHTTPS)
			}
		}
	}
}
