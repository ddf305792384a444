package portal

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

// site is a portal on a database of its own.
type site struct {
	t      *testing.T
	portal *Portal
	server *oauth.Server
	file   string // the database
	url    string
	late   atomic.Int64 // nanoseconds that the clock is ahead
	secret map[string]oauth.Secret
}

var system = oauth.Actor{Kind: oauth.AsSystem}

const password = "correct horse battery"

func newSite(t *testing.T, edit ...func(*oauth.Config)) *site {
	t.Helper()
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "grantway.db")
	db, err := sqlstore.Open(ctx, file)
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
	s := &site{t: t, file: file, secret: map[string]oauth.Secret{}}
	handler := http.NewServeMux()
	listener := httptest.NewServer(handler)
	t.Cleanup(listener.Close)
	s.url = listener.URL
	now := func() time.Time { return time.Now().Add(time.Duration(s.late.Load())) }
	config := oauth.Config{Issuer: s.url, Audience: "https://api.kaufhaus.example", Catalogue: testCatalogue(), Storage: db, Ring: ring, Now: now}
	for _, e := range edit {
		e(&config)
	}
	if s.server, err = oauth.New(ctx, config); err != nil {
		t.Fatal(err)
	}
	if s.portal, err = New(Config{Server: s.server, People: people.New(people.Config{Storage: db, Server: s.server}), Brand: shop}); err != nil {
		t.Fatal(err)
	}
	handler.Handle("/", s.portal)
	handler.HandleFunc("/oauth/authorize", s.portal.Authorize)
	return s
}

func testCatalogue() *oauth.Catalogue {
	scope := func(name string, kind oauth.ScopeKind, verb string, touches ...string) oauth.Scope {
		return oauth.Scope{Name: name, Group: "all", Kind: kind, Verb: verb, Risk: "low", Touches: touches, Text: map[string]string{"en": "Sentence of " + name + "."}}
	}
	return oauth.NewCatalogue([]oauth.Scope{
		scope("stores.view", oauth.StoreScope, "see"), scope("stores.orders.view", oauth.StoreScope, "see", "customers"),
		scope("stores.orders.refund", oauth.StoreScope, "change", "money"), scope("user.view", oauth.AccountScope, "see"),
	}, []oauth.ScopeGroup{{ID: "all", Title: map[string]string{"en": "Everything"}}})
}

// user makes an account with stores named ID-1, ID-2, …
func (s *site) user(id string, stores int) {
	s.t.Helper()
	ctx := context.Background()
	if _, err := s.portal.people.CreateAccount(ctx, system, people.NewAccount{ID: id, Name: id, Email: id + "@nordlicht.example", Password: password}); err != nil {
		s.t.Fatal(err)
	}
	for i := range stores {
		store := fmt.Sprintf("%s-%d", id, i+1)
		if err := s.server.PutStore(ctx, system, oauth.Store{ID: store, Name: "Store " + store, Domain: store + ".example"}); err != nil {
			s.t.Fatal(err)
		}
		s.member(id, store, true)
	}
}

func (s *site) member(user, store string, delegate bool) {
	s.t.Helper()
	if err := s.server.SetMembership(context.Background(), system, oauth.Membership{UserID: user, StoreID: store, Owner: true, MayDelegate: delegate}); err != nil {
		s.t.Fatal(err)
	}
}

const callback = "https://client.example/callback"

// app registers an app of the exchange profile. A scope with a ? is optional.
func (s *site) app(name string, scopes ...string) *oauth.Client {
	s.t.Helper()
	form := oauth.ClientForm{Name: name, Type: oauth.Confidential, Profile: oauth.Exchange, Redirects: []string{callback}, Homepage: "https://client.example/"}
	for _, scope := range scopes {
		bare := strings.TrimSuffix(scope, "?")
		form.Scopes = append(form.Scopes, oauth.ClientScope{Name: bare, Required: bare == scope})
	}
	c, secret, err := s.server.CreateClient(context.Background(), system, form)
	if err != nil {
		s.t.Fatal(err)
	}
	s.secret[c.ID] = secret
	return c
}

// redeem lets an app take its key.
func (s *site) redeem(c *oauth.Client, code string) {
	s.t.Helper()
	if err := s.exchange(c, code); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) exchange(c *oauth.Client, code string) error {
	_, err := s.server.Token(context.Background(), oauth.TokenRequest{Serves: []oauth.ProfileName{oauth.Exchange},
		Auth: oauth.ClientAuth{ID: c.ID, Secret: s.secret[c.ID]}, GrantType: oauth.GrantAuthorizationCode, Code: code})
	return err
}

func ask(c *oauth.Client) string {
	return "/auth/authorize?" + url.Values{"client_id": {c.ID}, "redirect_uri": {callback}, "state": {"a b&c"}}.Encode()
}

// browser is a person without JavaScript. It follows redirects, and fails the test at one that leaves the origin.
type browser struct {
	t      *testing.T
	site   *site
	client *http.Client
	*screen
}

// screen is the page one is on.
type screen struct {
	status  int
	header  http.Header
	address *url.URL
	doc     *html.Node
	body    string
}

func (s *site) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	b := &browser{t: s.t, site: s}
	b.client = &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if "http://"+r.URL.Host != s.url {
			b.t.Errorf("a redirect leaves the origin: %s", r.URL)
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return b
}

func (b *browser) send(r *http.Request) {
	b.t.Helper()
	resp, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	doc, err := html.Parse(strings.NewReader(string(body)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.screen = &screen{resp.StatusCode, resp.Header, resp.Request.URL, doc, string(body)}
	if strings.Contains(b.body, "ZgotmplZ") || resp.StatusCode >= 500 {
		b.t.Fatalf("%s: %d\n%s", b.address, b.status, b.body)
	}
}

func (b *browser) open(path string) {
	b.t.Helper()
	r, err := http.NewRequest("GET", b.site.url+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.send(r)
}

// post sends a form as a page of origin would.
func (b *browser) post(path string, form url.Values, origin string) {
	b.t.Helper()
	r, err := http.NewRequest("POST", b.site.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", origin)
	if origin == b.site.url {
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	} else {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}
	b.send(r)
}

// form is what would be sent if the button with this label were pressed, and where.
func (s *screen) form(label string) (action string, values url.Values) {
	each(s.doc, func(f *html.Node) {
		if f.Data != "form" || action != "" {
			return
		}
		var found *html.Node
		v := url.Values{}
		each(f, func(n *html.Node) {
			name, _ := attr(n, "name")
			value, _ := attr(n, "value")
			switch n.Data {
			case "button":
				if textOf(n) == label && found == nil {
					found = n
				}
			case "input":
				_, checked := attr(n, "checked")
				_, disabled := attr(n, "disabled")
				if kind, _ := attr(n, "type"); !disabled && (kind != "checkbox" && kind != "radio" || checked) {
					v.Add(name, value)
				}
			}
		})
		if found != nil {
			action, _ = attr(f, "action")
			if name, _ := attr(found, "name"); name != "" {
				value, _ := attr(found, "value")
				v.Add(name, value)
			}
			values = v
		}
	})
	return action, values
}

// press presses a button; tick adds to what is ticked.
func (b *browser) press(label string, tick ...string) {
	b.t.Helper()
	action, values := b.form(label)
	if action == "" {
		b.t.Fatalf("no button %q on\n%s", label, b.body)
	}
	for _, id := range tick {
		if !slices.Contains(values["store"], id) {
			values.Add("store", id)
		}
	}
	b.post(action, values, b.site.url)
}

func (b *browser) signIn(user string) {
	b.t.Helper()
	_, values := b.form("Sign in")
	if values == nil {
		b.t.Fatalf("no sign-in on\n%s", b.body)
	}
	values.Set("email", user+"@nordlicht.example")
	values.Set("password", password)
	b.post("/sign-in", values, b.site.url)
}

// ticked lists the ids that pressing Allow would send.
func (s *screen) ticked() []string {
	_, values := s.form("Allow")
	return values["store"]
}

// returned is where the page "Returning you to APP" leads.
func (b *browser) returned() url.Values {
	b.t.Helper()
	target := ""
	each(b.doc, func(n *html.Node) {
		if v, _ := attr(n, "http-equiv"); v == "refresh" {
			content, _ := attr(n, "content")
			_, target, _ = strings.Cut(content, "url=")
		}
	})
	u, err := url.Parse(target)
	if err != nil || !strings.HasPrefix(target, callback) {
		b.t.Fatalf("the page leads to %q\n%s", target, b.body)
	}
	if b.status != http.StatusOK || b.header.Get("Referrer-Policy") != "no-referrer" || b.header.Get("Cache-Control") != "no-store" {
		b.t.Errorf("returning: %d %v", b.status, b.header)
	}
	return u.Query()
}

func (b *browser) sees(status int, texts ...string) {
	b.t.Helper()
	if b.status != status {
		b.t.Errorf("status %d, want %d", b.status, status)
	}
	page := textOf(b.doc)
	for _, text := range texts {
		if !strings.Contains(page, text) {
			b.t.Errorf("the page does not say %q:\n%s", text, page)
		}
	}
}

func (s *site) grants(user string) []oauth.Connection {
	s.t.Helper()
	list, err := s.server.Grants(context.Background(), system, oauth.GrantFilter{UserID: user, Page: oauth.Page{Limit: 50}})
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// follower is an API server that asks once and never acknowledges anything. It returns who asked.
func (s *site) follower() string {
	s.t.Helper()
	ctx := context.Background()
	id, secret, err := s.server.AddAPISecret(ctx, system)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.server.Revocations(ctx, oauth.ClientAuth{ID: id, Secret: secret}, oauth.FeedQuery{Instance: "process-of-the-api"}); err != nil {
		s.t.Fatal(err)
	}
	return id
}

// waits holds that what is done waits until no follower can go by what was before, though none has acknowledged it.
func (s *site) waits(does func()) {
	s.t.Helper()
	began := time.Now()
	does()
	if took := time.Since(began); took < 850*time.Millisecond {
		s.t.Errorf("in effect after %v, and nobody has acknowledged it", took)
	}
}
