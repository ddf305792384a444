package portal

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

// The three hosts of a platform that had them before (DESIGN, URLs).
const (
	splitIssuer = "https://id.kaufhaus.example"
	splitPages  = "https://dashboard.kaufhaus.example"
	splitAPI    = "https://api.kaufhaus.example"
)

// newSplitSite is a portal behind a proxy that ends TLS and rewrites Host.
func newSplitSite(t *testing.T, issuer, pages, api string) *site {
	t.Helper()
	ctx := context.Background()
	db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "grantway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	text, err := oauth.NewKeyRing(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := oauth.ParseKeyRing(text)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, url: pages, secret: map[string]oauth.Secret{}}
	if s.server, err = oauth.New(ctx, oauth.Config{Issuer: issuer, PagesURL: pages, APIURL: api, Audience: "urn:kaufhaus", Catalogue: testCatalogue(), Storage: db, Ring: ring}); err != nil {
		t.Fatal(err)
	}
	if s.portal, err = New(Config{Server: s.server, People: people.New(people.Config{Storage: db, Server: s.server}), Brand: shop}); err != nil {
		t.Fatal(err)
	}
	return s
}

// behind sends a request as that proxy does. origin "" is a GET of the address bar.
func (s *site) behind(path, origin string, form url.Values, cookies ...*http.Cookie) *http.Response {
	s.t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	if origin != "" {
		r = httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", origin)
	}
	r.Host = "10.0.0.7:8080"
	for _, c := range cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	w := httptest.NewRecorder()
	s.portal.ServeHTTP(w, r)
	return w.Result()
}

// signInAs posts the sign-in form from a page of origin.
func (s *site) signInAs(user, origin string) *http.Response {
	s.t.Helper()
	return s.behind("/sign-in", origin, url.Values{"email": {user + "@nordlicht.example"}, "password": {password}, "next": {"/connected-apps"}})
}

// With https, the cookie is bound to its host and never leaves over http (DESIGN,
// decision 11).
func TestURLs_CookieWithAnHTTPSIssuer(t *testing.T) {
	for _, tc := range []struct{ issuer, pages, name string }{
		{"https://id.kaufhaus.example", "", "__Host-grantway"},
		{"https://id.kaufhaus.example:8443", "", "__Host-grantway-8443"},
		{splitIssuer, splitPages, "__Host-grantway"},
		{splitIssuer, splitPages + ":9443", "__Host-grantway-9443"},
		{"http://127.0.0.1:8080", "", "grantway-8080"},
	} {
		s := newSplitSite(t, tc.issuer, tc.pages, "")
		s.user("mara", 1)
		https := strings.HasPrefix(tc.issuer, "https:")
		resp := s.signInAs("mara", s.server.PagesURL())
		if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
			t.Fatalf("%s: %d %v", tc.issuer, resp.StatusCode, resp.Header)
		}
		c := resp.Cookies()[0]
		if c.Name != tc.name || c.Secure != https || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s, pages at %q: %s", tc.issuer, tc.pages, c)
		}
		if resp := s.behind("/connected-apps", "", nil, c); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: signed in, the page answers %d", tc.issuer, resp.StatusCode)
		}
		// What any host beside ours could plant is not read.
		plain := &http.Cookie{Name: strings.TrimPrefix(c.Name, "__Host-"), Value: c.Value}
		if resp := s.behind("/connected-apps", "", nil, plain); https && resp.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: the cookie %s answers %d", tc.issuer, plain.Name, resp.StatusCode)
		}
	}
}

// The forms of pages_url are ours though Host says otherwise, and nobody else's are,
// the issuer's and the API's host included.
func TestURLs_FormsAreTrustedFromThePagesAlone(t *testing.T) {
	s := newSplitSite(t, splitIssuer, splitPages, splitAPI)
	s.user("mara", 1)
	if resp := s.signInAs("mara", splitPages); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/sign-in?next=%2Fconnected-apps&why=signed_in" {
		t.Errorf("from the pages: %d %v", resp.StatusCode, resp.Header)
	}
	for _, origin := range []string{splitIssuer, splitAPI, "http://dashboard.kaufhaus.example", splitPages + ":8443", "https://kaufhaus.example", "https://evil.example", "null"} {
		if resp := s.signInAs("mara", origin); resp.StatusCode != http.StatusForbidden || len(resp.Cookies()) > 0 {
			t.Errorf("from %s: %d %v", origin, resp.StatusCode, resp.Cookies())
		}
	}
}

// What the pages print leads to the host that serves it.
func TestURLs_SamplesNameTheHosts(t *testing.T) {
	s := newSplitSite(t, splitIssuer, splitPages, splitAPI)
	c := sampleClient()
	for _, tc := range []struct {
		profile oauth.ProfileName
		leads   []string
		not     []string
	}{
		{oauth.Exchange, []string{splitPages + "/auth/authorize?", splitAPI + "/oauth2/" + c.ID + "/exchange/", splitAPI + "/stores"}, []string{splitIssuer}},
		{oauth.Standard, []string{splitPages + "/oauth/authorize?", splitIssuer + "/oauth/token"}, []string{splitIssuer + "/oauth/authorize"}},
		{oauth.Direct, []string{splitIssuer + "/oauth/authorize", splitIssuer + "/oauth/token"}, []string{splitPages}},
	} {
		app := *c
		app.Profile = tc.profile
		if tc.profile == oauth.Direct {
			app.Type, app.AuthMethod = oauth.Public, oauth.ByNone
		}
		var text strings.Builder
		for _, language := range samples(s.portal.samplesAt, &app) {
			for _, step := range language.Steps {
				text.WriteString(step.Code.Text + "\n")
			}
		}
		for _, want := range tc.leads {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s: the samples do not name %s", tc.profile, want)
			}
		}
		for _, unwanted := range tc.not {
			if strings.Contains(text.String(), unwanted) {
				t.Errorf("%s: the samples name %s", tc.profile, unwanted)
			}
		}
	}
}

// The pages themselves link within their host, whichever that is.
func TestURLs_PagesLinkWithinTheirHost(t *testing.T) {
	s := newSplitSite(t, splitIssuer, splitPages, splitAPI)
	s.user("mara", 1)
	c := s.app("Parcel Pilot", "stores.view")
	cookie := s.signInAs("mara", splitPages).Cookies()[0]
	for _, path := range []string{"/sign-in", "/sign-up", "/connected-apps", "/developer", ask(c), "/lost"} {
		resp := s.behind(path, "", nil, cookie)
		if path[:5] == "/sign" {
			resp = s.behind(path, "", nil)
		}
		doc, err := html.Parse(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		links := 0
		each(doc, func(n *html.Node) {
			for _, key := range []string{"href", "action", "src"} {
				if to, ok := attr(n, key); ok && n.Data != "a" || key == "href" && strings.HasPrefix(to, "/") {
					if links++; ok && (!strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//")) {
						t.Errorf("%s: <%s %s=%q>", path, n.Data, key, to)
					}
				}
			}
		})
		if links < 3 {
			t.Errorf("%s: %d, %d links", path, resp.StatusCode, links)
		}
	}
	if to := s.behind(ask(c), "", nil).Header.Get("Location"); !strings.HasPrefix(to, "/sign-in?next=") {
		t.Errorf("a stranger is sent to %q", to)
	}
}

// A redirect_uri that was sent unencoded ends at its first ampersand: the developer
// is told how to send it (seed-contracts K13).
func TestURLs_ATruncatedRedirectIsToldApart(t *testing.T) {
	s := newSite(t)
	c, _, err := s.server.CreateClient(context.Background(), system, oauth.ClientForm{Name: "Parcel Pilot", Type: oauth.Confidential, Profile: oauth.Exchange,
		Redirects: []string{callback + "?shop=1&lang=en"}, Scopes: []oauth.ClientScope{{Name: "stores.view", Required: true}}})
	if err != nil {
		t.Fatal(err)
	}
	b := s.operator() // the app's developer and operators read what is wrong
	const hint = "What was sent stops at an &. Percent-encode redirect_uri."
	b.open("/auth/authorize?client_id=" + c.ID + "&redirect_uri=" + callback + "?shop=1&lang=en&state=st")
	b.sees(http.StatusBadRequest, "Parcel Pilot", hint, callback+"?shop=1", callback+"?shop=1&lang=en")
	b.open("/auth/authorize?client_id=" + c.ID + "&redirect_uri=" + callback + "?shop=2&lang=en&state=st")
	b.sees(http.StatusBadRequest, "Parcel Pilot")
	if strings.Contains(textOf(b.doc), hint) {
		t.Error("another address is taken for one that was cut off")
	}
	b = s.browser()
	b.open("/auth/authorize?" + url.Values{"client_id": {c.ID}, "redirect_uri": {callback + "?shop=1&lang=en"}, "state": {"st"}}.Encode())
	b.sees(http.StatusOK, "Sign in")
}
