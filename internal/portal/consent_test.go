package portal

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
)

func TestConsent_TwoOfThreeStores(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	c := s.app("Shelfmate", "stores.view", "stores.orders.refund")
	b := s.browser()
	b.open(ask(c))
	b.sees(200, "Sign in", "Shelfmate")
	b.signIn("mara")
	b.sees(200, "Shelfmate wants access to your Kaufhaus account", "Signed in as mara@nordlicht.example", "Store mara-2", "mara-2.example",
		"Sentence of stores.view.", "Sentence of stores.orders.refund. Money", "Next you go to client.example", "Access lasts until you revoke it")
	if len(b.ticked()) != 0 {
		t.Errorf("ticked beforehand: %v", b.ticked())
	}
	b.press("Allow", "mara-1", "mara-3")
	q := b.returned()
	if q.Get("code") == "" || q.Get("state") != "a b&c" || q.Get("error") != "" {
		t.Errorf("back to the app: %v", q)
	}
	g := s.grants("mara")
	if len(g) != 1 || len(g[0].Grant.Stores) != 2 || g[0].Grant.Stores[0].StoreID != "mara-1" || g[0].Grant.Stores[1].StoreID != "mara-3" {
		t.Errorf("granted: %+v", g)
	}
}

func TestConsent_Cancel_RFC6749_4_1_2_1(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	b.press("Cancel")
	b.sees(200, "You allowed nothing")
	if q := b.returned(); q.Get("error") != "access_denied" || q.Get("state") != "a b&c" || q.Has("code") {
		t.Errorf("back to the app: %v", q)
	}
	if len(s.grants("mara")) != 0 {
		t.Error("Cancel granted something")
	}
}

func TestConsent_NoStoreTicked_TicksAreKept(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	c := s.app("Shelfmate", "stores.view", "user.view?", "stores.orders.view?")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	action, values := b.form("Allow")
	values["scope"] = []string{"user.view"}
	b.post(action, values, s.url)
	b.sees(http.StatusUnprocessableEntity, "You ticked no store", "Store mara-1")
	if b.address.RequestURI() != ask(c) {
		t.Errorf("who goes Back to this page finds the answer of a form that no browser kept: %s", b.address)
	}
	if _, v := b.form("Allow"); !slices.Equal(v["scope"], []string{"user.view"}) {
		t.Errorf("ticks: %v", v)
	}
	b.press("Allow", "mara-2")
	b.returned()
	if g := s.grants("mara"); !g[0].Account.Has("user.view") || g[0].Scopes.Has("stores.orders.view") {
		t.Errorf("granted: %+v", g[0].Grant)
	}
}

func TestConsent_UserWithoutStores(t *testing.T) {
	s := newSite(t)
	s.user("nora", 0)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("nora")
	b.sees(200, "You have no store to connect", "nora@nordlicht.example", "Use another account")
	b.press("Go back to Shelfmate")
	if q := b.returned(); q.Get("error") != "access_denied" {
		t.Errorf("back to the app: %v", q)
	}

	s.user("mara", 1)
	s.member("nora", "mara-1", false) // one that she may not open to apps
	b.open(ask(c))
	b.sees(200, "You have no store to connect", "Store mara-1", "You may not connect apps to this store")
}

func TestConsent_AccountScopesOnly_NoPicker(t *testing.T) {
	s := newSite(t)
	s.user("nora", 0)
	c := s.app("Greeter", "user.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("nora")
	b.sees(200, "Sentence of user.view.")
	if strings.Contains(b.body, `name="store"`) || strings.Contains(b.body, "Which stores") {
		t.Error("a picker without a store scope")
	}
	b.press("Allow")
	b.returned()
}

func TestConsent_OneStore_ShownAndChosen(t *testing.T) {
	s := newSite(t)
	s.user("otto", 1)
	b := s.browser()
	b.open(ask(s.app("Shelfmate", "stores.view")))
	b.signIn("otto")
	b.sees(200, "Store otto-1")
	if !slices.Equal(b.ticked(), []string{"otto-1"}) {
		t.Errorf("ticked: %v", b.ticked())
	}
	b.press("Allow")
	b.returned()
}

// TestConsent_OneStore_NotChosen: that the app gets the store is not said of one without a tick.
func TestConsent_OneStore_NotChosen(t *testing.T) {
	s := newSite(t)
	s.user("otto", 1)
	c := s.app("Greeter", "user.view", "stores.view?")
	b := s.browser()
	b.open(ask(c))
	b.signIn("otto")
	b.sees(200, "The app gets access to this store.")
	action, values := b.form("Allow")
	values.Del("store")
	b.post(action, values, s.url)
	s.redeem(c, b.returned().Get("code"))
	b.open(ask(c))
	b.sees(200, "0 of 1 ticked")
	if strings.Contains(textOf(b.doc), "The app gets access to this store.") {
		t.Error("the page says that the app gets a store without a tick")
	}
}

func TestConsent_ThousandsOfStores_WithoutJavaScript(t *testing.T) {
	s := newSite(t)
	const stores = 300 // six pages; the picker's own test has 5,000
	s.user("rita", stores)
	b := s.browser()
	b.open(ask(s.app("Shelfmate", "stores.view")))
	b.signIn("rita")
	b.sees(200, "Page 1 of 6", "0 of 300 ticked", "Store rita-50")
	if strings.Contains(b.body, "Store rita-100") {
		t.Error("100 stands before 51")
	}
	b.press("Next", "rita-1")
	b.sees(200, "Page 2 of 6", "1 of 300 ticked")
	action, values := b.form("Search")
	values.Set("q", "rita-277")
	b.post(action, values, s.url)
	b.sees(200, "1 store found", "Store rita-277", "1 of 300 ticked")
	b.press("Tick all found")
	b.sees(200, "2 of 300 ticked")
	b.press("Allow")
	b.returned()
	if g := s.grants("rita")[0].Grant; len(g.Stores) != 2 || g.Stores[0].StoreID != "rita-1" || g.Stores[1].StoreID != "rita-277" {
		t.Errorf("granted: %+v", g.Stores)
	}
	b.open(ask(s.app("Ledger", "stores.view")))
	b.press("Tick all")
	b.press("Allow")
	b.returned()
	for _, g := range s.grants("rita") {
		if g.Client.Name == "Ledger" && len(g.Grant.Stores) != stores {
			t.Errorf("Ledger has %d stores", len(g.Grant.Stores))
		}
	}
}

// TestConsent_ForeignStores_B3: an id that is not the user's is refused, not dropped, and nothing is granted.
func TestConsent_ForeignStores_B3(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	s.user("otto", 1)
	s.member("mara", "otto-1", false)
	b := s.browser()
	b.open(ask(s.app("Shelfmate", "stores.view")))
	b.signIn("mara")
	for _, foreign := range []string{"otto-1", "nowhere"} {
		b.press("Allow", "mara-1", foreign)
		b.sees(http.StatusUnprocessableEntity, "Your stores have changed meanwhile")
		if !slices.Equal(b.ticked(), []string{"mara-1"}) {
			t.Errorf("ticked: %v", b.ticked())
		}
	}
	if len(s.grants("mara")) != 0 {
		t.Error("something was granted")
	}
}

func TestConsent_SignInEndsHalfway_RequestSurvives(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	s.user("otto", 1)
	c := s.app("Shelfmate", "stores.view", "user.view?")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	page := b.screen
	says := "You were signed out. What you filled in is kept"
	lose := func(tick ...string) {
		b.client.Jar, _ = cookiejar.New(nil)
		b.screen = page
		action, values := b.form("Allow")
		values["store"], values["scope"], values["all_stores"] = tick, []string{"user.view"}, []string{"1"}
		b.post(action, values, s.url)
		b.sees(200, "Sign in", "Shelfmate", says)
		if len(s.grants("mara")) != 0 {
			t.Error("something was granted")
		}
	}
	lose("mara-1", "mara-3", "otto-1", "<b>canary</b>")
	b.signIn("mara")
	b.sees(200, "Shelfmate wants access", "2 of 3 ticked")
	if _, values := b.form("Allow"); !slices.Equal(b.ticked(), []string{"mara-1", "mara-3"}) || !slices.Equal(values["scope"], []string{"user.view"}) || !values.Has("all_stores") {
		t.Errorf("what was ticked became %v", values)
	}
	b.open(ask(c)) // once only
	if len(b.ticked()) != 0 {
		t.Errorf("ticked for another question: %v", b.ticked())
	}
	lose("mara-1")
	s.member("otto", "mara-1", true)
	b.signIn("otto")
	if _, values := b.form("Allow"); len(values["store"])+len(values["scope"]) > 0 || values.Has("all_stores") {
		t.Errorf("somebody else finds ticked: %v", values)
	}
	lose("mara-1")
	b.post("/sign-in", url.Values{"email": {"mara@nordlicht.example"}, "password": {password}}, s.url)
	b.open(ask(s.app("Ledger", "stores.view")))
	if len(b.ticked()) != 0 {
		t.Errorf("ticked for another app: %v", b.ticked())
	}
	says = "You were signed out. Nothing was changed."
	lose(append(strings.Split(strings.Repeat("m ", mostForm/8), " "), "mara-1")...) // more than a browser keeps
	b.signIn("mara")
	b.sees(200, "0 of 3 ticked")
	b.press("Allow", "mara-2")
	if q := b.returned(); q.Get("state") != "a b&c" || q.Get("code") == "" {
		t.Errorf("back to the app: %v", q)
	}
}

func TestConsent_UseAnotherAccount_RequestSurvives(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	s.user("otto", 1)
	b := s.browser()
	b.open(ask(s.app("Shelfmate", "stores.view")))
	b.signIn("mara")
	before := b.screen
	b.press("Use another account")
	b.sees(200, "Sign in", "Shelfmate")
	b.signIn("otto")
	b.sees(200, "Signed in as otto@nordlicht.example", "Store otto-1")
	if strings.Contains(b.body, "mara") {
		t.Error("the other account is still on the page")
	}
	// The first page is still open in another tab: its request was sealed for a session that is over. Nothing is
	// decided, and the question is put to who is signed in now.
	b.screen = before
	b.press("Allow", "mara-1")
	b.sees(200, "Signed in as otto@nordlicht.example", "Shelfmate wants access", "This page is from another sign-in: you are otto@nordlicht.example now. Nothing was allowed yet.")
	if !slices.Equal(b.ticked(), []string{"otto-1"}) { // the only one
		t.Errorf("ticked: %v", b.ticked())
	}
	if len(s.grants("mara"))+len(s.grants("otto")) != 0 {
		t.Error("something was granted")
	}
}

func TestConsent_ReplayedSecondTabAndAllowTwice(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	first := b.screen
	b.press("Allow", "mara-1")
	one := b.returned().Get("code")
	b.screen = first
	b.press("Allow", "mara-1")
	two := b.returned().Get("code")
	if one == two || two == "" {
		t.Errorf("codes %q and %q", one, two)
	}
	s.redeem(c, two)
	b.screen = first
	b.press("Allow", "mara-1")
	b.sees(200, "Shelfmate is connected already", "Nothing was changed")
	if title := titleOf(b.doc); !strings.HasPrefix(title, "Already connected to Shelfmate") {
		t.Errorf("title %q", title)
	}
	if n := len(s.grants("mara")); n != 1 {
		t.Errorf("%d grants", n)
	}
	// A code that nobody took within its minute leaves the request over, and the question is put afresh.
	b.open(ask(c))
	late := b.screen
	b.press("Allow", "mara-1")
	s.late.Add(int64(61 * time.Second))
	b.screen = late
	b.press("Allow", "mara-1")
	b.sees(http.StatusUnprocessableEntity, "This page was too old", "1 of 2 ticked")
	b.press("Allow")
	if b.returned().Get("code") == "" {
		t.Error("no code after the question was put afresh")
	}
}

// TestConsent_CancelAfterAllow_B12: a page that is pressed again, in another tab or after Back, says what is true, whatever
// is pressed on it.
func TestConsent_CancelAfterAllow_B12(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	noted := func() (n int) {
		list, err := s.server.Events(context.Background(), system, oauth.EventFilter{ClientID: c.ID, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Kind == oauth.EventConsentDenied {
				n++
			}
		}
		return n
	}
	b.open(ask(c))
	b.signIn("mara")
	first := b.screen
	again := func(label string, tick ...string) {
		t.Helper()
		b.screen = first
		b.press(label, tick...)
	}
	again("Allow", "mara-1")
	void := b.returned().Get("code")
	for n := range 2 {
		again("Cancel")
		b.sees(200, "You allowed nothing")
		if q := b.returned(); q.Get("error") != "access_denied" || noted() != n+1 {
			t.Errorf("back to the app: %v, and %d denials", q, noted())
		}
	}
	if err := s.exchange(c, void); oauth.ReasonOf(err) != oauth.CodeUnknown {
		t.Errorf("the code that was taken back: %v", err)
	}
	again("Allow", "mara-2")
	s.redeem(c, b.returned().Get("code"))
	again("Cancel")
	b.sees(200, "Shelfmate is connected already", "Nothing was changed")
	if g := s.grants("mara"); len(g) != 1 || g[0].Status != oauth.Live || noted() != 2 {
		t.Errorf("%d denials, and granted: %+v", noted(), g)
	}
	b.open("/connected-apps")
	b.sees(200, "Shelfmate")

	b.open(ask(c)) // more than before
	first = b.screen
	again("Allow", "mara-1")
	again("Cancel")
	b.sees(200, "Shelfmate is connected already", "Nothing was changed")

	if err := s.server.RevokeGrant(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "mara"}, s.grants("mara")[0].ID); err != nil {
		t.Fatal(err)
	}
	again("Cancel")
	b.sees(200, "You allowed nothing")
}

// TestConsent_PressedAfterAChange_B12: between the page and the press the world goes on.
func TestConsent_PressedAfterAChange_B12(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		allowed bool // and its code is out
		change  func(s *site, c *oauth.Client) error
		press   string
		status  int
		says    string
	}{
		"app suspended, Allow":      {false, func(s *site, c *oauth.Client) error { return s.server.SuspendClient(ctx, system, c.ID) }, "Allow", 400, "paused"},
		"app suspended, Cancel":     {true, func(s *site, c *oauth.Client) error { return s.server.SuspendClient(ctx, system, c.ID) }, "Cancel", 400, "paused"},
		"app deleted, Cancel":       {true, func(s *site, c *oauth.Client) error { return s.server.DeleteClient(ctx, system, c.ID, c.Name) }, "Cancel", 400, ""},
		"user suspended, Allow":     {false, func(s *site, c *oauth.Client) error { return s.server.SuspendUser(ctx, system, "mara") }, "Allow", 200, "Sign in"},
		"user suspended, Cancel":    {true, func(s *site, c *oauth.Client) error { return s.server.SuspendUser(ctx, system, "mara") }, "Cancel", 200, "Sign in"},
		"store lost, Allow":         {false, func(s *site, c *oauth.Client) error { return s.server.DropMembership(ctx, system, "mara", "mara-1") }, "Allow", 422, "changed"},
		"store lost, Cancel":        {true, func(s *site, c *oauth.Client) error { return s.server.DropMembership(ctx, system, "mara", "mara-1") }, "Cancel", 200, "You allowed nothing"},
		"grant revoked, Cancel":     {true, func(s *site, c *oauth.Client) error { return s.server.RevokeGrant(ctx, system, s.grants("mara")[0].ID) }, "Cancel", 200, "You allowed nothing"},
		"grant revoked, Allow":      {true, func(s *site, c *oauth.Client) error { return s.server.RevokeGrant(ctx, system, s.grants("mara")[0].ID) }, "Allow", 400, "You answered this request before"},
		"a minute later, Cancel":    {true, func(s *site, c *oauth.Client) error { s.late.Add(int64(oauth.CodeLife)); return nil }, "Cancel", 200, "You allowed nothing"},
		"ten minutes later, Cancel": {true, func(s *site, c *oauth.Client) error { s.late.Add(int64(oauth.RequestLife)); return nil }, "Cancel", 422, "what you pressed changed nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.user("mara", 2)
			app := s.app("Shelfmate", "stores.view")
			b := s.browser()
			b.open(ask(app))
			b.signIn("mara")
			first, code := b.screen, ""
			if c.allowed {
				b.press("Allow", "mara-1")
				code = b.returned().Get("code")
				b.screen = first
			}
			if err := c.change(s, app); err != nil {
				t.Fatal(err)
			}
			b.press(c.press, "mara-1")
			b.sees(c.status, c.says)
			if err := s.exchange(app, code); err == nil {
				t.Error("the code is redeemed")
			}
			for _, g := range s.grants("mara") {
				if g.Status == oauth.Live {
					t.Errorf("granted: %+v", g)
				}
			}
		})
	}
}

// TestConsent_AllowAgainAfterRevoke: a page of before the access ended does not say that the app has it.
func TestConsent_AllowAgainAfterRevoke(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	for _, what := range []string{"the first connection", "a second key of it"} {
		b := s.browser()
		if what != "the first connection" {
			b.allowed(c, "mara", nil, "mara-1")
		}
		b.open(ask(c) + "&scope=") // asks, whatever the app has
		if _, values := b.form("Sign in"); values != nil {
			b.signIn("mara")
		}
		page := b.screen
		b.press("Allow", "mara-1")
		s.redeem(c, b.returned().Get("code"))
		b.open("/connected-apps")
		b.press("Revoke")
		b.sees(200, "Shelfmate has lost its access")
		b.screen = page
		b.press("Allow", "mara-1")
		b.sees(http.StatusBadRequest, "You answered this request before", "has ended since", "Start again from Shelfmate")
		if title := titleOf(b.doc); !strings.HasPrefix(title, "You answered") {
			t.Errorf("%s: title %q", what, title)
		}
	}
}

// TestConsent_RequestIsTooOld: nobody has to be quick (WCAG 2.2.1). Who presses too late is asked afresh, with what he ticked;
// where nobody can tell what a page was about, it is over.
func TestConsent_RequestIsTooOld(t *testing.T) {
	for name, more := range map[string][]string{"": nil, "more than a cookie holds": strings.Split(strings.Repeat("m ", mostForm/8), " ")} {
		s := newSite(t)
		s.user("mara", 3)
		b := s.browser()
		b.open(ask(s.app("Shelfmate", "stores.view", "user.view?")))
		b.signIn("mara")
		press := func(button string) {
			t.Helper()
			action, values := b.form("Allow")
			values["scope"], values["store"] = []string{"user.view"}, append([]string{"mara-1", "mara-3"}, more...)
			if button != "decision" {
				values.Del("decision")
				values.Set(button, "1")
			}
			b.post(action, values, s.url)
		}
		s.late.Add(int64(9 * time.Minute))
		press("refresh")
		b.sees(200, "2 of 3 ticked")
		s.late.Add(int64(2 * time.Minute))
		press("decision")
		b.sees(http.StatusUnprocessableEntity, "This page was too old", "Shelfmate wants access", "2 of 3 ticked")
		if _, values := b.form("Allow"); !slices.Equal(b.ticked(), []string{"mara-1", "mara-3"}) || !slices.Equal(values["scope"], []string{"user.view"}) {
			t.Errorf("%s: what was ticked became %v", name, values)
		}
		if inPlace := b.address.Path == "/consent"; inPlace != (more != nil) {
			t.Errorf("%s: the page is at %s", name, b.address)
		}
		if len(s.grants("mara")) != 0 {
			t.Errorf("%s: something was granted", name)
		}
		fresh := b.screen
		b.press("Allow")
		if q := b.returned(); q.Get("code") == "" || q.Get("state") != "a b&c" {
			t.Errorf("%s: back to the app: %v", name, q)
		}
		b.screen = fresh
		s.late.Add(int64(11 * time.Minute))
		action, values := b.form("Allow")
		values.Del("next")
		b.post(action, values, s.url)
		b.sees(http.StatusBadRequest, "This page is too old")
		for _, sealed := range []string{"", "x", strings.Repeat("A", 100)} {
			b.post("/consent", url.Values{"request": {sealed}, "decision": {"allow"}, "store": {"mara-1"}}, s.url)
			b.sees(http.StatusBadRequest, "This page is too old")
		}
	}
}

// TestAuthorize_RedirectUnregistered_RFC6749_4_1_2_1: a page, never a redirect, and it shows the difference to the app's
// developer and to operators; anybody else gets a short text, and reads no address that the app has registered.
func TestAuthorize_RedirectUnregistered_RFC6749_4_1_2_1(t *testing.T) {
	s := newSite(t)
	dev := s.developer("jonas", "/developer")
	c, _ := dev.create("redirect_uri", callback)
	s.user("mara", 1)
	mara, stranger, boss := s.browser(), s.browser(), s.operator()
	mara.open("/sign-in")
	mara.signIn("mara")
	wrong := "/auth/authorize?" + url.Values{"client_id": {c.ID}, "redirect_uri": {callback + "/"}, "state": {"s"}}.Encode()
	twice := "/auth/authorize?client_id=" + c.ID + "&redirect_uri=a&redirect_uri=b"
	for name, b := range map[string]*browser{"somebody else": mara, "a stranger": stranger} {
		for _, path := range []string{wrong, twice, "/auth/authorize?client_id=" + c.ID, "/auth/authorize?redirect_uri=x", "/auth/authorize?client_id=nobody"} {
			b.open(path)
			b.sees(http.StatusBadRequest, "Nothing was shared")
			if page := textOf(b.doc); strings.Contains(page, callback) || strings.Contains(page, "For the developer") || strings.Contains(page, "differ") {
				t.Errorf("%s reads:\n%s", name, page)
			}
		}
	}
	stranger.open(wrong)
	stranger.sees(http.StatusBadRequest, "This is your app?")
	signIn := ""
	each(stranger.doc, func(n *html.Node) {
		if n.Data == "a" && textOf(n) == "Sign in to see what is wrong" {
			signIn, _ = attr(n, "href")
		}
	})
	stranger.open(signIn)
	stranger.signIn("jonas")
	boss.open(twice)
	boss.sees(http.StatusBadRequest, "may be sent only once")
	boss.open(wrong)
	for _, b := range []*browser{stranger, boss} {
		b.sees(http.StatusBadRequest, "They differ in the last slash", callback)
	}
	b := dev
	for sent, says := range map[string]string{
		callback + "/":                   "They differ in the last slash",
		"http://client.example/callback": "The scheme differs",
		"javascript:alert(1)":            "differs",
		"https://evil.example/<script>":  "The host differs",
	} {
		b.open("/auth/authorize?" + url.Values{"client_id": {c.ID}, "redirect_uri": {sent}, "state": {"s"}}.Encode())
		b.sees(http.StatusBadRequest, "Shelfmate sent us a request we cannot answer", "Nothing was shared", says, callback)
		if b.header.Get("Location") != "" || strings.Contains(b.body, "http-equiv") || strings.Contains(b.body, `href="`+sent) {
			t.Errorf("%s: the page leads away", sent)
		}
	}
	b.open("/auth/authorize?client_id=" + c.ID)
	b.sees(http.StatusBadRequest, "does not say where you should go")
	for _, q := range []string{"client_id=nobody&redirect_uri=" + callback, "redirect_uri=" + callback, "client_id=" + c.ID + "&client_id=" + c.ID, "client_id=%zz", "a;b"} {
		b.open("/auth/authorize?" + q)
		b.sees(http.StatusBadRequest, "Nothing was shared")
	}
}

// TestAuthorize_RefusedInTheReadersLanguage: what is wrong with a request is told in the language of the page around it.
func TestAuthorize_RefusedInTheReadersLanguage(t *testing.T) {
	s := newSite(t)
	c := s.app("Shelfmate", "stores.view")
	guests, _, err := s.server.CreateClient(context.Background(), system, oauth.ClientForm{Name: "Guests", Type: oauth.Public, Profile: oauth.Direct,
		Redirects: []string{oauth.OutOfBand}, Scopes: []oauth.ClientScope{{Name: "user.view", Required: true}}})
	if err != nil {
		t.Fatal(err)
	}
	boss := s.operator()
	long := strings.Repeat("x", 4<<10)
	for query, says := range map[string]string{
		"client_id=%zz":                               "Die Abfrage dieser Adresse ist nicht wohlgeformt.",
		"redirect_uri=x":                              "Der Parameter client_id fehlt.",
		"client_id=a&client_id=b":                     "Der Parameter client_id darf nur einmal geschickt werden.",
		"client_id=" + long:                           "Der Parameter client_id ist zu lang.",
		"client_id=" + c.ID + "&redirect_uri=" + long: "Der Parameter redirect_uri ist zu lang.",
		"client_id=nobody":                            "Keine App hat diese client_id.",
		"client_id=" + guests.ID:                      "Diese App nutzt einen anderen Endpunkt.",
	} {
		r, err := http.NewRequest("GET", s.url+"/auth/authorize?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Language", "de")
		boss.send(r)
		boss.sees(http.StatusBadRequest, "Für die Entwickler dieser App"+says)
	}
	for _, reason := range []oauth.Reason{oauth.UserDenied, oauth.FieldRequired} { // that have no sentence here
		if got, _ := s.portal.fault(oauth.Refuse(reason)); got != "fault.other" {
			t.Errorf("%s: %s", reason, got)
		}
	}
}

func TestAuthorize_ErrorsForTheAppGoByThePage(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c) + "&scope=stores.orders.view")
	if q := b.returned(); q.Get("error") != "invalid_scope" || q.Get("state") != "a b&c" {
		t.Errorf("back to the app: %v", q)
	}
	// A stranger sees where the link leads before the browser goes there (attack A4, RFC 9700, 4.11.2); whoever is signed
	// in, or comes by an app that the operator vouches for, does not wait.
	leaves := func(b *browser, after string) {
		t.Helper()
		if b.sees(200, "client.example"); !strings.Contains(b.body, `http-equiv="refresh" content="`+after+`;url=`) {
			t.Errorf("the browser does not leave after %s s:\n%s", after, b.body)
		}
	}
	leaves(b, "5")
	known := s.browser()
	known.open("/sign-in")
	known.signIn("mara")
	known.open(ask(c) + "&scope=stores.orders.view")
	leaves(known, "0")
	if err := s.server.VerifyClient(context.Background(), system, c.ID, c.Version, true); err != nil {
		t.Fatal(err)
	}
	b.open(ask(c) + "&scope=stores.orders.view")
	leaves(b, "0")
	if err := s.server.SuspendClient(context.Background(), system, c.ID); err != nil {
		t.Fatal(err)
	}
	b.open(ask(c))
	b.sees(http.StatusBadRequest, "This app is paused")
}

// TestAuthorize_POST_OnlyLeadsToOurOwnGET_OIDC_3_1_2_1: it may come from any origin, so it decides nothing.
func TestAuthorize_POST_OnlyLeadsToOurOwnGET_OIDC_3_1_2_1(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view")
	for _, path := range []string{"/auth/authorize", "/oauth/authorize"} {
		b := s.browser()
		asked := url.Values{"client_id": {c.ID}, "redirect_uri": {callback}, "state": {strings.Repeat("%", 2<<10)}, "nonce": {strings.Repeat("é", 256)}} // as much as there may be
		sent := maps.Clone(asked)
		sent.Set("pad", strings.Repeat("x", 32<<10)) // nobody reads it
		b.post(path, sent, "https://client.example")
		b.sees(200, "Sign in", "Shelfmate")
		b.signIn("mara")
		b.sees(200, "Shelfmate wants access")
		if b.address.Path != path || b.address.RawQuery != asked.Encode() {
			t.Errorf("the page is at %.200s", b.address)
		}
		b.press("Allow")
		if q := b.returned(); q.Get("state") != asked.Get("state") {
			t.Errorf("back to the app: %v", q)
		}
	}
}

// TestAuthorize_POST_WritesNothing_G8: anybody may post any number of them.
func TestAuthorize_POST_WritesNothing_G8(t *testing.T) {
	s := newSite(t)
	c := s.app("Shelfmate", "stores.view")
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: s.file}).EscapedPath())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	writes := func() (n int64) { // by anybody else (SQLite, PRAGMA data_version)
		if err := db.QueryRow("PRAGMA data_version").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := writes()
	for _, path := range []string{"/auth/authorize", "/oauth/authorize"} {
		for _, redirect := range []string{callback, "https://evil.example/"} {
			s.browser().post(path, url.Values{"client_id": {c.ID}, "redirect_uri": {redirect}}, "https://client.example")
		}
	}
	if after := writes(); after != before {
		t.Errorf("%d commits", after-before)
	}
	s.user("mara", 0)
	if writes() == before {
		t.Error("what is written is not seen")
	}
}

// A repeat consent shows what is new and no more: what the app has is one line, and no tick. Where nothing is new, all of
// it is shown again.
func TestConsent_Repeat_AnOfferIsNew(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	c := s.app("Shelfmate", "stores.view", "stores.orders.view?", "user.view?")
	b := s.browser()
	allow := func(scopes ...string) {
		t.Helper()
		action, values := b.form("Allow")
		values["scope"] = scopes
		b.post(action, values, s.url)
		s.redeem(c, b.returned().Get("code"))
	}
	offered := func() (names []string) {
		each(b.doc, func(n *html.Node) {
			if name, _ := attr(n, "name"); name == "scope" {
				value, _ := attr(n, "value")
				names = append(names, value)
			}
		})
		return names
	}
	b.open(ask(c))
	b.signIn("mara")
	allow("stores.orders.view")
	b.open(ask(c))
	b.sees(200, "What is new", "Only if you tick it Sentence of user.view.", "2 permissions that you gave before and that stay")
	if got := offered(); !slices.Equal(got, []string{"user.view"}) {
		t.Errorf("ticks for %v", got)
	}
	allow("user.view")
	if g := s.grants("mara"); len(g) != 1 || !g[0].Scopes.Has("stores.orders.view") || !g[0].Account.Has("user.view") {
		t.Errorf("the grant has %+v", g)
	}
	b.open(ask(c))
	b.sees(200, "What Shelfmate may do", "Sentence of stores.view.", "Sentence of user.view.")
	if page := textOf(b.doc); strings.Contains(page, "What is new") || strings.Contains(page, "gave before") || len(offered()) > 0 {
		t.Errorf("something looks new:\n%s", page)
	}
	b.press("Allow")
	s.redeem(c, b.returned().Get("code"))
	// What the user took away since is a question again, and is not ticked.
	g := s.grants("mara")[0]
	if _, err := s.server.EditGrant(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "mara"}, g.ID,
		oauth.GrantEdit{Rev: g.Rev, Stores: []string{"mara-1"}, Scopes: []string{"user.view"}}); err != nil {
		t.Fatal(err)
	}
	b.open(ask(c))
	b.sees(200, "What is new", "Only if you tick it Sentence of stores.orders.view.")
	b.press("Allow")
	b.returned()
	if s.grants("mara")[0].Scopes.Has("stores.orders.view") {
		t.Error("it came back without a tick")
	}
}

// An app that nobody has checked says so before anything else is read of it.
func TestConsent_UnverifiedAppWarnsFirst(t *testing.T) {
	r := sampleRenderer(t, shop)
	for badge, want := range map[string]bool{"unverified": true, "verified": false} {
		v := sampleConsent("en", 1, pick{})
		v.App.Badge = badge
		_, _, body := drawn(t, r, "en", page{Name: "consent", TitleOf: []any{"App", v.App.Name}, Body: v})
		facts, warning, account := strings.Index(body, `class="facts"`), strings.Index(body, `class="notice warn"`), strings.Index(body, `class="signed"`)
		if got := facts < warning && warning < account; got != want || want == (warning < 0) {
			t.Errorf("%s: facts at %d, warning at %d, account at %d", badge, facts, warning, account)
		}
	}
}

func TestConsent_Repeat_ShowsWhatIsNew(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	b.press("Allow", "mara-2")
	code := b.returned().Get("code")
	b.open(ask(c)) // allowed, and never taken up by the app: nothing was given yet
	b.sees(200, "What Shelfmate may do", "Sentence of stores.view.")
	if len(b.ticked()) != 0 || strings.Contains(textOf(b.doc), "gave before") {
		t.Errorf("an unredeemed consent counts: %v ticked", b.ticked())
	}
	s.redeem(c, code)
	c, err := s.server.UpdateClient(context.Background(), system, c.ID, c.Version, oauth.ClientForm{Name: c.Name, Redirects: []string{callback},
		Scopes: []oauth.ClientScope{{Name: "stores.view", Required: true}, {Name: "stores.orders.view", Required: true}}})
	if err != nil {
		t.Fatal(err)
	}
	b.open(ask(c))
	b.sees(200, "What is new", "1 permission that you gave before and that stays")
	if !slices.Equal(b.ticked(), []string{"mara-2"}) {
		t.Errorf("ticked: %v", b.ticked())
	}
	_, after, _ := strings.Cut(b.body, `id="can"`)
	fresh, folded, _ := strings.Cut(after, "<details>")
	if !strings.Contains(fresh, "stores.orders.view") || strings.Contains(fresh, "stores.view.") || !strings.Contains(folded, "stores.view.") {
		t.Error("what is new does not stand apart from what is held")
	}
}

// All stores, also future ones, is a choice of its own (DESIGN, decision 1): it is kept when the page comes back, shown on
// the next visit, and reaches a store that comes later.
func TestConsent_AllStoresAlsoLaterOnes(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	c := s.app("Shelfmate", "stores.view")
	b := s.browser()
	b.open(ask(c))
	b.signIn("mara")
	action, values := b.form("Allow")
	if values.Has("all_stores") {
		t.Error("all stores are ticked unasked")
	}
	values.Set("all_stores", "1")
	values.Set("search", "1")
	values.Del("decision")
	b.post(action, values, s.url)
	if _, kept := b.form("Allow"); !kept.Has("all_stores") {
		t.Error("the tick is lost when the page comes back")
	}
	b.press("Allow")
	s.redeem(c, b.returned().Get("code"))
	if !s.grants("mara")[0].AllStores {
		t.Error("the grant is of a list")
	}
	b.open(ask(c))
	if _, again := b.form("Allow"); !again.Has("all_stores") {
		t.Error("the next visit does not show it")
	}
	b.open("/connected-apps")
	b.sees(200, "All your stores, also those you add later")
	if err := s.server.PutStore(context.Background(), system, oauth.Store{ID: "late", Name: "Late"}); err != nil {
		t.Fatal(err)
	}
	s.member("mara", "late", true)
	if got := s.grants("mara")[0].Stores; !slices.ContainsFunc(got, func(m oauth.Membership) bool { return m.StoreID == "late" }) {
		t.Errorf("the app reaches %+v", got)
	}
}

// TestConsent_AllowIsForWhatWasShown_B2: an app that changes while its page is open gets nothing by that page. The page
// comes again with what is new and what was ticked, and the Allow on it counts.
func TestConsent_AllowIsForWhatWasShown_B2(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	c := s.app("Shelfmate", "stores.view", "stores.orders.view?", "user.view?")
	become := func(name string, scopes ...oauth.ClientScope) {
		t.Helper()
		now, err := s.server.MyClient(context.Background(), system, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.server.UpdateClient(context.Background(), system, c.ID, now.Version,
			oauth.ClientForm{Name: name, Redirects: []string{callback}, Homepage: "https://client.example/", Scopes: scopes}); err != nil {
			t.Fatal(err)
		}
	}
	view := oauth.ClientScope{Name: "stores.view", Required: true}
	refund := oauth.ClientScope{Name: "stores.orders.refund", Required: true}
	orders := oauth.ClientScope{Name: "stores.orders.view"}
	user := oauth.ClientScope{Name: "user.view"}
	b := s.browser()
	refused := func(texts ...string) {
		t.Helper()
		b.sees(http.StatusUnprocessableEntity, append(texts, "has changed what it says or asks for while this page was open")...)
		if len(s.grants("mara")) != 0 {
			t.Fatalf("granted: %+v", s.grants("mara"))
		}
		if !slices.Equal(b.ticked(), []string{"mara-2"}) {
			t.Errorf("ticked: %v", b.ticked())
		}
	}
	b.open(ask(c))
	b.signIn("mara")
	become("Shelfmate", view, orders, user, refund)
	b.press("Allow", "mara-2")
	refused("Sentence of stores.orders.refund.")
	orders.Required = true
	become("Shelfmate", view, orders, user, refund)
	b.press("Allow")
	refused()
	become("Harbour Support", view, orders, user, refund)
	before := b.screen
	b.press("Allow")
	refused("Harbour Support wants access")

	b.screen = before // where the list was turned instead, its answer says the same
	action, values := b.form("Allow")
	values.Del("decision")
	values.Set("refresh", "1")
	b.post(action, values, s.url)
	b.sees(http.StatusOK, "Harbour Support wants access", "has changed what it says or asks for while this page was open")

	newest := b.screen
	b.screen = before // Cancel is Cancel, whatever was shown
	b.press("Cancel")
	if q := b.returned(); q.Get("error") != "access_denied" {
		t.Errorf("back to the app: %v", q)
	}

	b.screen = newest
	b.press("Allow")
	s.redeem(c, b.returned().Get("code"))
	if g := s.grants("mara"); len(g) != 1 || !g[0].Scopes.Equal(oauth.Scopes("stores.view", "stores.orders.view", "stores.orders.refund")) || len(g[0].Account) != 0 {
		t.Errorf("granted: %+v", g)
	}
}

// TestConsent_Repeat_StoresThatCannotBeTicked: a store that the app has stays when the page could not offer it, and the page
// says that it is connected.
func TestConsent_Repeat_StoresThatCannotBeTicked(t *testing.T) {
	ctx := context.Background()
	connected := func(s *site) (ids []string) {
		for _, x := range s.grants("mara")[0].Grant.Stores {
			ids = append(ids, x.StoreID)
		}
		slices.Sort(ids)
		return ids
	}
	t.Run("beside others", func(t *testing.T) {
		s := newSite(t)
		s.user("mara", 4)
		c := s.app("Shelfmate", "stores.view")
		b := s.browser()
		b.open(ask(c))
		b.signIn("mara")
		b.press("Allow", "mara-1", "mara-2", "mara-3")
		s.redeem(c, b.returned().Get("code"))
		s.member("mara", "mara-2", false)
		if err := s.server.PutStore(ctx, system, oauth.Store{ID: "mara-3", Name: "x", Status: oauth.Suspended}); err != nil {
			t.Fatal(err)
		}
		b.open(ask(c))
		b.sees(200, "You may not connect apps to this store. Ask its owner.Connected now", "1 of 2 ticked",
			"The app loses the others.")
		if !slices.Equal(b.ticked(), []string{"mara-1"}) {
			t.Errorf("ticked: %v", b.ticked())
		}
		b.press("Allow")
		b.returned()
		if got := connected(s); !slices.Equal(got, []string{"mara-1", "mara-2", "mara-3"}) {
			t.Errorf("connected: %v", got)
		}
	})
	t.Run("none that can, and the app could do without", func(t *testing.T) {
		s := newSite(t)
		s.user("mara", 1)
		c := s.app("Shelfmate", "user.view", "stores.view?")
		b := s.browser()
		b.open(ask(c))
		b.signIn("mara")
		action, values := b.form("Allow")
		values["scope"] = []string{"stores.view"}
		b.post(action, values, s.url)
		s.redeem(c, b.returned().Get("code"))
		s.member("mara", "mara-1", false)
		b.open(ask(c))
		b.sees(200, "Sentence of stores.view.")
		b.press("Allow")
		b.returned()
		if got := connected(s); !slices.Equal(got, []string{"mara-1"}) {
			t.Errorf("connected: %v", got)
		}
	})
}

// TestConsent_Repeat_AllButThoseWithoutATick: where an app has all stores, a store that is unticked leaves, on whichever page
// of the list it stood; one that came after the page was drawn is one of all.
func TestConsent_Repeat_AllButThoseWithoutATick(t *testing.T) {
	const stores = 120 // three pages
	s := newSite(t)
	s.user("mara", stores)
	c := s.app("Shelfmate", "stores.view", "stores.orders.refund?")
	b := s.browser()
	all := func(unticked ...string) (action string, values url.Values) {
		action, values = b.form("Allow")
		values["store"] = without(values["store"], unticked)
		return action, values
	}
	rights := func() (in, refund int, out []string) {
		g := s.grants("mara")[0].Grant
		for i := range stores + 2 {
			id := fmt.Sprintf("mara-%d", i+1)
			switch set := g.ScopesIn(id); {
			case len(set) == 0:
				out = append(out, id)
			case set.Has("stores.orders.refund"):
				in, refund = in+1, refund+1
			default:
				in++
			}
		}
		return in, refund, out
	}
	comes := func(id string) {
		if err := s.server.PutStore(context.Background(), system, oauth.Store{ID: id, Name: "Store " + id}); err != nil {
			t.Fatal(err)
		}
		s.member("mara", id, true)
	}
	b.open(ask(c))
	b.signIn("mara")
	b.sees(200, "All my stores, also those that I add later")
	action, values := all()
	values.Set("all_stores", "1")
	b.post(action, values, s.url)
	s.redeem(c, b.returned().Get("code"))

	b.open(ask(c))
	b.sees(200, "120 of 120 ticked", "All my stores but those that are not ticked, also those that I add later")
	comes("mara-121") // it is on no page that was drawn
	action, values = all("mara-2")
	if n := len(values["store"]) + len(values["shown"]); n > stores+storesPerPage {
		t.Errorf("%d fields for %d stores", n, stores)
	}
	values["scope"] = []string{"stores.orders.refund"}
	b.post(action, values, s.url)
	s.redeem(c, b.returned().Get("code"))
	if in, refund, out := rights(); !slices.Equal(out, []string{"mara-2"}) || in != stores+1 || refund != in {
		t.Errorf("%d stores, %d with refunds, without %v", in, refund, out)
	}

	b.open(ask(c))
	b.sees(200, "120 of 121 ticked", "All my stores but those that are not ticked")
	comes("mara-122")
	action, values = all("mara-3")
	values.Del("decision")
	values.Set("page", "3")
	b.post(action, values, s.url)
	b.sees(200, "Page 3 of 3", "120 of 122 ticked")
	action, values = all("mara-120")
	b.post(action, values, s.url)
	s.redeem(c, b.returned().Get("code"))
	if in, _, out := rights(); !slices.Equal(out, []string{"mara-2", "mara-3", "mara-120"}) || in != stores-1 {
		t.Errorf("%d stores, without %v", in, out)
	}
}
