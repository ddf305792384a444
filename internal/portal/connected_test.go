package portal

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
)

// connect lets a user connect an app to stores, and the app take its key.
func (b *browser) connect(s *site, user, app string, stores ...string) {
	b.t.Helper()
	c := s.app(app, "stores.view", "stores.orders.refund")
	b.open(ask(c))
	if _, values := b.form("Sign in"); values != nil {
		b.signIn(user)
	}
	b.press("Allow", stores...)
	s.redeem(c, b.returned().Get("code"))
}

func TestConnectedApps_RemoveOneStoreThenRevoke(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	b := s.browser()
	b.connect(s, "mara", "Shelfmate", "mara-1", "mara-2")
	g := s.grants("mara")[0]
	b.open("/connected-apps")
	b.sees(200, "Connected apps", "Shelfmate", "Store mara-1", "Store mara-2", "Sentence of stores.view.", "1 key", "Revoke",
		"Revoking ends the access of Shelfmate at once. What it already copied stays with it.")
	b.press("Remove from this store") // of the first
	b.sees(200, "Shelfmate can no longer use Store mara-1")
	if stores := s.grants("mara")[0].Grant.Stores; len(stores) != 1 || stores[0].StoreID != "mara-2" {
		t.Errorf("left: %+v", stores)
	}
	if strings.Contains(b.body, "Remove<span") {
		t.Error("the only store can be removed, which would be revoking")
	}
	if b.address.Path != "/connected-apps" { // where a reload and Back repeat nothing
		t.Errorf("after Remove the browser is at %s", b.address)
	}
	b.press("Revoke")
	b.sees(200, "Shelfmate has lost its access", "No app is connected")
	if b.address.Path != "/connected-apps" {
		t.Errorf("after Revoke the browser is at %s", b.address)
	}
	if got := s.grants("mara")[0].Status; got != "revoked" {
		t.Errorf("status %s", got)
	}
	b.post("/connected-apps/revoke", url.Values{"grant": {g.ID}}, s.url)
	b.sees(200, "That access had ended already")
}

func TestConnectedApps_OthersGrantsStayOutOfReach_B4(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	s.user("otto", 1)
	s.browser().connect(s, "mara", "Shelfmate", "mara-1", "mara-2")
	g := s.grants("mara")[0]
	b := s.browser()
	b.open("/connected-apps")
	b.sees(200, "Sign in")
	b.signIn("otto")
	b.sees(200, "No app is connected")
	b.post("/connected-apps/revoke", url.Values{"grant": {g.ID}}, s.url)
	b.sees(200, "That access had ended already")
	b.post("/connected-apps/remove-store", url.Values{"grant": {g.ID}, "store": {"mara-1"}}, s.url)
	b.sees(200, "That access had ended already")
	if left := s.grants("mara")[0]; left.Status != "live" || len(left.Grant.Stores) != 2 {
		t.Errorf("changed: %+v", left.Grant)
	}
}

// What waits for a store is not what the app may do; and when it was used is not known sooner than to the hour.
func TestConnectedApps_AccountOnly(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "user.view"), "mara", nil, "mara-1")
	b.open("/connected-apps")
	b.sees(200, "Sentence of stores.view.", "Sentence of user.view.", "No use reported yet", "No use reported yet (reported once an hour)")
	b.press("Remove from this store")
	b.sees(200, "Your account only, no store", "Sentence of user.view.", "It has no store left, and keeps what it may do with your account.")
	if strings.Contains(textOf(b.doc), "other stores") {
		t.Error("the last store was taken, and others are spoken of")
	}
	if strings.Contains(textOf(b.doc), "Sentence of stores.view.") {
		t.Errorf("a scope that holds nowhere:\n%s", textOf(b.doc))
	}
}

// The address that tells what was done may be anybody's: nothing is said of what did not happen, or of other people.
func TestConnectedApps_DoneIsLookedUp(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	s.user("otto", 1)
	b, other := s.browser(), s.browser()
	b.connect(s, "mara", "Shelfmate", "mara-1", "mara-2")
	g := s.grants("mara")[0]
	other.open("/connected-apps")
	other.signIn("otto")
	at := func(done, grant, store string) string {
		return "/connected-apps?" + url.Values{"done": {done}, "app": {g.ClientID}, "grant": {grant}, "store": {store}}.Encode()
	}
	for _, path := range []string{at("revoked", g.ID, ""), at("removed", g.ID, "mara-1"), at("removed", g.ID, "otto-1"), at("removed", g.ID, "<b>canary</b>"),
		at("revoked", "canary", ""), at("<b>canary</b>", g.ID, ""), "/connected-apps?done=canary&done=revoked", "/connected-apps?%zz"} {
		b.open(path)
		if b.sees(200, "Shelfmate"); strings.Contains(b.body, `class="notice`) || strings.Contains(b.body, "canary") {
			t.Errorf("%s says something:\n%s", path, textOf(b.doc))
		}
	}
	b.post("/connected-apps/revoke", url.Values{"grant": {g.ID}}, s.url)
	b.sees(200, "Shelfmate has lost its access")
	told := b.address.RequestURI()
	other.open(told)
	if strings.Contains(other.body, "Shelfmate") {
		t.Error("somebody else reads of the connection")
	}
}

func TestConnectedApps_NotUsedFor90Days(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	s.browser().connect(s, "mara", "Shelfmate", "mara-1")
	s.late.Add(int64(91 * 24 * time.Hour))
	b := s.browser()
	b.open("/connected-apps")
	b.signIn("mara")
	b.sees(200, "Not used for 90 days")
}

func TestSite_EveryFormIsRefusedFromAnotherOrigin(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	b := s.browser()
	b.connect(s, "mara", "Shelfmate", "mara-1", "mara-2")
	g := s.grants("mara")[0]
	s.user("otto", 1)
	s.member("otto", "mara-1", true)
	s.browser().connect(s, "otto", "Otter", "otto-1", "mara-1")
	theirs := s.grants("otto")[0]
	b.open(ask(s.app("Ledger", "stores.view")))
	_, consent := b.form("Allow")
	consent.Add("store", "mara-1")
	for path, form := range map[string]url.Values{
		"/consent":                      consent,
		"/connected-apps/revoke":        {"grant": {g.ID}},
		"/connected-apps/remove-store":  {"grant": {g.ID}, "store": {"mara-1"}},
		"/connected-apps/change":        {"grant": {g.ID}, "rev": {strconv.FormatInt(g.Rev, 10)}, "store": {"mara-1"}, "save": {"1"}},
		"/connected-apps/others/remove": {"grant": {theirs.ID}, "store": {"mara-1"}},
		"/sign-in":                      {"email": {"mara@nordlicht.example"}, "password": {password}},
		"/sign-up":                      {"email": {"new@nordlicht.example"}, "password": {password}},
		"/sign-out":                     {},
	} {
		for _, origin := range []string{"https://evil.example", "null", "http://127.0.0.1:9"} {
			b.post(path, form, origin)
			b.sees(http.StatusForbidden, "This form came from another site", "Nothing was changed")
			if len(b.header["Set-Cookie"]) > 0 {
				t.Errorf("%s: a cookie was set", path)
			}
		}
	}
	if left := s.grants("mara"); len(left) != 1 || left[0].Status != "live" || len(left[0].Grant.Stores) != 2 {
		t.Errorf("changed: %+v", left)
	}
	if left := s.grants("otto"); len(left[0].Grant.Stores) != 2 {
		t.Errorf("changed: %+v", left)
	}
	b.open("/connected-apps")
	b.sees(200, "Shelfmate") // still signed in
}

func TestSite_PagesThatAreNotThere(t *testing.T) {
	s := newSite(t)
	b := s.browser()
	b.open("/nowhere/canary")
	b.sees(http.StatusNotFound, "There is nothing at this address")
	if strings.Contains(b.body, "canary") {
		t.Error("the page repeats the path")
	}
	s.user("mara", 1)
	s.user("otto", 0)
	b.open("/connected-apps")
	b.signIn("otto")
	b.open("/operator/users?q=mara")
	b.sees(http.StatusNotFound, "There is nothing at this address", "Or it is for another account: you are signed in as otto@nordlicht.example.")
	b.press("Use another account")
	b.sees(200, "You are signed out.")
	if _, values := b.form("Sign in"); values.Get("next") != "/operator/users?q=mara" {
		t.Errorf("the other account is led to %q", values.Get("next"))
	}
	link := func() (href string) {
		each(b.doc, func(n *html.Node) {
			if class, _ := attr(n, "class"); n.Data == "a" && class == "button" {
				href, _ = attr(n, "href")
			}
		})
		return href
	}
	for path, section := range map[string]string{"/sign-out": "/connected-apps", "/connected-apps/revoke": "/connected-apps",
		"/developer/apps/x/delete": "/developer"} {
		b.open(path)
		b.sees(http.StatusMethodNotAllowed)
		if link() != section {
			t.Errorf("%s leads to %s", path, link())
		}
	}
	b.open("/consent")
	b.sees(http.StatusBadRequest, "This page is too old")
	if link() != "/connected-apps" {
		t.Errorf("a page that is too old leads to %q", link())
	}
	b.post("/sign-in", url.Values{"email": {strings.Repeat("a", smallForm)}}, s.url)
	b.sees(http.StatusRequestEntityTooLarge, "This form is too large")
}

func TestOwnPath_NeverLeavesTheOrigin(t *testing.T) {
	for _, own := range []string{"/connected-apps", "/developer", "/developer/apps/1?x=1", "/oauth/authorize?client_id=a&state=b\\c%20d", "/auth/authorize?redirect_uri=https://client.example/cb"} {
		if ownPath(own) != own {
			t.Errorf("%s was refused", own)
		}
	}
	for _, foreign := range []string{"", "//evil.example", "/\\evil.example", "https://evil.example/connected-apps", "/connected-apps/../../evil", "/connected-appsx",
		"/%2fevil.example", "/connected-apps\n", "/sign-out", "javascript:alert(1)", "/connected-apps/%2e%2e/x", "/developer//evil.example", " /developer", "/\t/evil.example"} {
		if got := ownPath(foreign); got != "" {
			t.Errorf("%q was taken as %q", foreign, got)
		}
	}
}

func TestCookieName_DistinctPerProgramOnOneHost(t *testing.T) {
	names := map[string]string{}
	for _, base := range []string{"http://127.0.0.1:8080", "http://127.0.0.1:9090", "http://[::1]:8080", "https://auth.example", "https://auth.example:8443"} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		name := cookieName(u)
		if strings.HasPrefix(name, "__Host-") != (u.Scheme == "https") {
			t.Errorf("%s: %s", base, name)
		}
		if u.Hostname() != "::1" && names[name] != "" {
			t.Errorf("%s and %s share %s", base, names[name], name)
		}
		names[name] = base
	}
}

func TestConnectedApps_RevokeEndsTheOneAppOnly(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	b := s.browser()
	b.connect(s, "mara", "Shelfmate", "mara-1")
	b.connect(s, "mara", "Ledger", "mara-1", "mara-2")
	for _, g := range s.grants("mara") {
		if g.Client.Name == "Shelfmate" {
			b.post("/connected-apps/revoke", url.Values{"grant": {g.ID}}, s.url)
			b.sees(200, "Shelfmate has lost its access", "Ledger")
		}
	}
	for _, g := range s.grants("mara") {
		if want := map[string]oauth.GrantStatus{"Shelfmate": oauth.GrantIsRevoked, "Ledger": oauth.Live}[g.Client.Name]; g.Status != want {
			t.Errorf("%s is %s", g.Client.Name, g.Status)
		}
	}
}

// A database that does not say whose a connection is has not said that it is gone: who
// presses Revoke then must not believe that it happened.
func TestConnected_AnOutageIsNoEnd(t *testing.T) {
	s := newSite(t)
	w := httptest.NewRecorder()
	s.portal.done(w, httptest.NewRequest("POST", "/connected-apps/revoke", nil), nil, doneRevoked, url.Values{}, fmt.Errorf("reading: %w", oauth.ErrUnavailable))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Location") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// remembers connects an app that does not ask twice, as the user who is signed in, and returns where it sends him.
func (b *browser) remembers(s *site, store string) string {
	b.t.Helper()
	form := oauth.ClientForm{Name: "Books", Type: oauth.Confidential, Profile: oauth.Standard, Settings: oauth.ClientSettings{NoPKCE: true}, Redirects: []string{callback}, Scopes: []oauth.ClientScope{{Name: "stores.view", Required: true}}}
	books, secret, err := s.server.CreateClient(b.t.Context(), system, form)
	if err != nil {
		b.t.Fatal(err)
	}
	at := "/oauth/authorize?" + url.Values{"client_id": {books.ID}, "redirect_uri": {callback}, "state": {"x"}, "response_type": {"code"}}.Encode()
	b.open(at)
	b.press("Allow", store)
	if _, err := s.server.Token(b.t.Context(), oauth.TokenRequest{Auth: oauth.ClientAuth{ID: books.ID, Secret: secret}, GrantType: oauth.GrantAuthorizationCode,
		Code: b.returned().Get("code"), RedirectURI: callback}); err != nil {
		b.t.Fatal(err)
	}
	return at
}

// A user who decides as often as nobody does is told so, on the page that he pressed on and
// with what he ticked. An app that does not ask him is not kept from him, but asks.
func TestConsent_TooManyDecisions(t *testing.T) {
	s := newSite(t, func(c *oauth.Config) { c.Decisions = oauth.Bucket{Size: 3, Refill: 1, Every: time.Minute} })
	s.user("mara", 2)
	b := s.browser()
	c := s.app("Shelfmate", "stores.view")
	b.open(ask(c))
	b.signIn("mara")
	b.press("Cancel")
	at := b.remembers(s, "mara-1")
	for range 3 {
		b.open(at)
		if b.returned().Get("code") == "" {
			t.Fatal("asked again")
		}
	}
	refused := func(say string) {
		t.Helper()
		b.sees(http.StatusTooManyRequests, say, "Nothing was changed")
		if wait, err := strconv.Atoi(b.header.Get("Retry-After")); err != nil || wait < 50 || wait > 60 {
			t.Errorf("Retry-After %q", b.header.Get("Retry-After"))
		}
	}
	// Whoever sends a browser there again and again does not keep its user from signing in: he
	// is asked, and what he presses is counted apart.
	b.open(at)
	b.sees(http.StatusOK, "Books")
	b.press("Allow", "mara-1")
	if b.returned().Get("code") == "" {
		t.Error("the page leads nowhere")
	}
	for _, button := range []string{"Cancel", "Allow"} {
		b.open(ask(c))
		b.press(button, "mara-2")
		refused("very often in a short time")
		if _, values := b.form("Allow"); !slices.Equal(values["store"], []string{"mara-2"}) {
			t.Errorf("after %s %q is ticked", button, values["store"])
		}
	}
	s.late.Add(int64(time.Minute))
	b.press("Allow", "mara-2")
	if b.returned().Get("code") == "" {
		t.Error("no code a minute later")
	}
}

// Who has a page before him decides on it, though he need not have been asked any longer: neither a turn of that page nor
// signing in again lets the app through.
func TestConsent_WhoSeesThePageDecides(t *testing.T) {
	s := newSite(t, func(c *oauth.Config) { c.Decisions = oauth.Bucket{Size: 1, Refill: 1, Every: time.Minute} })
	s.user("mara", 2)
	b := s.browser()
	b.open("/connected-apps")
	b.signIn("mara")
	at := b.remembers(s, "mara-1")
	b.open(at)
	if b.returned().Get("code") == "" {
		t.Fatal("asked again")
	}
	b.open(at)
	s.late.Add(int64(time.Minute))
	action, values := b.form("Allow")
	values.Set("page", "1")
	values.Del("decision")
	b.post(action, values, s.url)
	b.sees(200, "Books wants access", "1 of 2 ticked")
	b.client.Jar, _ = cookiejar.New(nil)
	b.press("Allow", "mara-2")
	b.sees(200, "Sign in", "What you filled in is kept")
	b.signIn("mara")
	b.sees(200, "Books wants access", "2 of 2 ticked")
	b.client.Jar, _ = cookiejar.New(nil)
	action, values = b.form("Cancel")
	values["store"] = strings.Split(strings.Repeat("m ", mostForm/8), " ")[1:] // more than a browser keeps
	values.Add("store", "mara-1")
	b.post(action, values, s.url)
	b.sees(200, "Sign in", "Nothing was changed")
	b.signIn("mara")
	b.sees(200, "Books wants access", "1 of 2 ticked")
	b.open(at)
	if b.returned().Get("code") == "" {
		t.Error("asked, though there is no page")
	}
}

// However many connections there are, all are listed, page by page, and each can be revoked.
func TestConnectedApps_ComeInPages(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	for i := range rowsPerPage + 1 {
		b.connect(s, "mara", fmt.Sprintf("App %03d", i), "mara-1")
	}
	b.open("/connected-apps")
	b.sees(200, "App 050", "App 001")
	if strings.Contains(b.body, "App 000") || !strings.Contains(b.body, `href="/connected-apps?page=2"`) {
		t.Error("the first page has no end")
	}
	b.open("/connected-apps?page=2")
	b.sees(200, "App 000")
	if strings.Contains(b.body, "App 001") || !strings.Contains(b.body, `href="/connected-apps?page=1"`) || strings.Contains(b.body, "page=3") {
		t.Error("the second page leads elsewhere")
	}
	b.press("Revoke")
	b.sees(200, "App 000 has lost its access")
	b.open("/connected-apps?page=2") // where nothing is left
	b.sees(200, "App 050", "App 001")
	if b.address.RequestURI() != "/connected-apps" {
		t.Errorf("at %s", b.address)
	}
}

// Of an app with many stores so many stand here as a page bears; the way to the rest is the page where it is changed.
func TestConnectedApps_G8_AsManyStoresAsAPageBears(t *testing.T) {
	s := newSite(t)
	const stores = chipsMost + 20
	s.user("rita", stores)
	b := s.browser()
	app := s.app("Shelfmate", "stores.view")
	b.open(ask(app))
	b.signIn("rita")
	b.press("Tick all")
	b.press("Allow")
	s.redeem(app, b.returned().Get("code"))
	b.open("/connected-apps")
	b.sees(200, fmt.Sprintf("%d more stores", stores-chipsShown))
	if !strings.Contains(b.body, ">20 more stores</a>") {
		t.Error("nothing leads to the rest")
	}
	if n := strings.Count(b.body, `action="/connected-apps/remove-store"`); n != chipsMost {
		t.Errorf("%d stores can be taken out on the page, want %d", n, chipsMost)
	}
	b.open("/connected-apps/change?grant=" + s.grants("rita")[0].ID)
	b.sees(200, fmt.Sprintf("%d of %d ticked", stores, stores))
}
