package portal

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// allowed connects an app with these optional scopes.
func (b *browser) allowed(c *oauth.Client, user string, scopes []string, stores ...string) {
	b.t.Helper()
	b.open(ask(c))
	if _, values := b.form("Sign in"); values != nil {
		b.signIn(user)
	}
	action, values := b.form("Allow")
	values["scope"] = scopes
	values["store"] = stores
	b.post(action, values, b.site.url)
	b.site.redeem(c, b.returned().Get("code"))
}

// save changes the form with Save, and presses it.
func (b *browser) save(change func(url.Values)) {
	b.t.Helper()
	action, values := b.form("Save changes")
	if values == nil {
		b.t.Fatalf("no form on\n%s", b.body)
	}
	change(values)
	b.post(action, values, b.site.url)
}

func TestChange_StoresAndScopes(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "stores.orders.view?", "user.view?"), "mara", []string{"stores.orders.view", "user.view"}, "mara-1", "mara-2")
	b.open("/connected-apps")
	b.sees(200, "Change")
	g := s.grants("mara")[0]
	b.open(changePath(g.ID, ""))
	b.sees(200, "Change what Shelfmate may do", "2 of 3 ticked", "Shelfmate does not work without these", "Sentence of stores.view.", "Also stores that I add later")
	_, values := b.form("Save changes")
	if !slices.Equal(values["store"], []string{"mara-1", "mara-2"}) || !slices.Equal(values["scope"], []string{"stores.orders.view", "user.view"}) || values.Has("all_stores") {
		t.Errorf("the form begins with %v", values)
	}
	b.save(func(v url.Values) { v["store"], v["scope"] = []string{"mara-2", "mara-3"}, []string{"user.view"} })
	b.sees(200, "Your changes to Shelfmate count from this moment on.", "It can now use Store mara-3.", "It can no longer use Store mara-1.",
		"It may no longer do this: Sentence of stores.orders.view.")
	if b.address.Path != "/connected-apps" { // where a reload and Back repeat nothing
		t.Errorf("after Save the browser is at %s", b.address)
	}
	after := s.grants("mara")[0]
	if len(after.Grant.Stores) != 2 || after.Grant.Stores[0].StoreID != "mara-2" || after.Scopes.Has("stores.orders.view") || !after.Account.Has("user.view") || after.Rev != g.Rev+1 {
		t.Errorf("the grant is %+v", after.Grant)
	}
	// What was taken away is not on the form any more: only the app's asking brings it back.
	b.open(changePath(g.ID, ""))
	if strings.Contains(b.body, `value="stores.orders.view"`) {
		t.Error("it can be ticked again")
	}
	b.save(func(v url.Values) { v.Add("scope", "stores.orders.view") })
	b.sees(200, "Nothing was changed")
	if s.grants("mara")[0].Rev != after.Rev {
		t.Error("a forged tick gave it back")
	}
	b.open(changePath(g.ID, ""))
	b.save(func(v url.Values) { v["store"], v["all_stores"] = []string{"mara-2"}, []string{"1"} })
	b.sees(200, "It can no longer use Store mara-3", "It can also use stores that you add later", "All your stores but those that you took out")
	b.open(changePath(g.ID, ""))
	if _, values := b.form("Save changes"); !values.Has("all_stores") || !slices.Equal(values["store"], []string{"mara-2"}) {
		t.Errorf("the form shows %v", values)
	}
}

// TestChange_EveryStoreIsUnticked: it is said before and after what is left, where something is.
func TestChange_EveryStoreIsUnticked(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "user.view"), "mara", nil, "mara-1", "mara-2")
	b.open(changePath(s.grants("mara")[0].ID, ""))
	b.sees(200, "With no store ticked, Shelfmate may do nothing in a store, and keeps what it may do with your account.")
	b.save(func(v url.Values) { v.Del("store") })
	b.sees(200, "It can no longer use Store mara-1.", "It has no store left, and keeps what it may do with your account.", "Your account only, no store")

	b.allowed(s.app("Ledger", "stores.view"), "mara", nil, "mara-1")
	for _, g := range s.grants("mara") {
		if g.Client.Name == "Ledger" {
			b.open(changePath(g.ID, ""))
		}
	}
	if b.sees(200, "Change what Ledger may do"); strings.Contains(textOf(b.doc), "With no store ticked") {
		t.Error("an app that would have nothing left is said to keep something")
	}
}

func TestChange_OneStoreByItself(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "stores.orders.view?"), "mara", []string{"stores.orders.view"}, "mara-1", "mara-2")
	g := s.grants("mara")[0]
	scopes := func() map[string]string {
		out := map[string]string{}
		g := s.grants("mara")[0].Grant
		for _, x := range g.Stores {
			out[x.StoreID] = g.ScopesIn(x.StoreID).String()
		}
		return out
	}
	want := func(one, two string) {
		t.Helper()
		if got := scopes(); got["mara-1"] != one || got["mara-2"] != two {
			t.Errorf("scopes %v", got)
		}
	}
	b.open(changePath(g.ID, ""))
	if !strings.Contains(b.body, "only=mara-1") {
		t.Errorf("no way to one store:\n%s", b.body)
	}
	b.open(changePath(g.ID, "mara-1"))
	b.sees(200, "Change what Shelfmate may do in Store mara-1", "The other stores stay as they are")
	b.save(func(v url.Values) { v.Del("scope") })
	b.sees(200, "In Store mara-1 it may no longer do this: Sentence of stores.orders.view.")
	want("stores.view", "stores.orders.view stores.view")
	b.open(changePath(g.ID, ""))
	b.sees(200, "Now in 1 of 2 stores", "Every store", "As it is", "No store")
	b.save(func(url.Values) {})
	b.sees(200, "Nothing was changed")
	b.open(changePath(g.ID, "mara-1"))
	b.save(func(v url.Values) { v.Set("scope", "stores.orders.view") })
	b.sees(200, "In Store mara-1 it may now do this")
	want("stores.orders.view stores.view", "stores.orders.view stores.view")
	b.open(changePath(g.ID, "mara-2"))
	b.save(func(v url.Values) { v.Del("scope") })
	b.open(changePath(g.ID, ""))
	b.save(func(v url.Values) { v.Set(mixed("stores.orders.view"), "every") })
	b.sees(200, "It may now do this in every store: Sentence of stores.orders.view.")
	want("stores.orders.view stores.view", "stores.orders.view stores.view")
	for _, path := range []string{changePath(g.ID, "mara-9"), changePath("gr_none", ""), changePath("", ""), "/connected-apps/change"} {
		b.open(path)
		b.sees(http.StatusNotFound)
	}
}

// What somebody else changed meanwhile is said, and what was ticked is not lost.
func TestChange_Conflict(t *testing.T) {
	s := newSite(t)
	s.user("mara", 3)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "stores.orders.view?"), "mara", []string{"stores.orders.view"}, "mara-1", "mara-2")
	g := s.grants("mara")[0]
	b.open(changePath(g.ID, ""))
	if _, err := s.server.RemoveStore(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "mara"}, g.ID, "mara-1"); err != nil {
		t.Fatal(err)
	}
	b.save(func(v url.Values) { v["store"], v["scope"] = []string{"mara-1", "mara-3"}, nil })
	b.sees(http.StatusUnprocessableEntity, "Something changed meanwhile", "Nothing was saved yet")
	if !strings.HasPrefix(titleOf(b.doc), "Error: ") {
		t.Errorf("title %q", titleOf(b.doc))
	}
	_, values := b.form("Save changes")
	if !slices.Equal(values["store"], []string{"mara-1", "mara-3"}) || len(values["scope"]) > 0 {
		t.Errorf("the ticks are lost: %v", values)
	}
	b.sees(http.StatusUnprocessableEntity, "mara-1.exampleNot connected now", "mara-2.exampleConnected now", "mara-3.exampleNot connected now")
	if left := s.grants("mara")[0].Grant.Stores; len(left) != 1 || left[0].StoreID != "mara-2" {
		t.Errorf("something was saved: %+v", left)
	}
	b.save(func(v url.Values) {})
	b.sees(200, "It can now use Store mara-1", "It can now use Store mara-3", "It can no longer use Store mara-2")
}

func TestChange_NothingLeftAndForeignStores(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	s.user("otto", 1)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "stores.orders.view?"), "mara", []string{"stores.orders.view"}, "mara-1")
	b.allowed(s.app("Ledger", "stores.view?"), "mara", []string{"stores.view"}, "mara-2")
	before := s.grants("mara")
	for _, g := range before {
		b.open(changePath(g.ID, ""))
		b.save(func(v url.Values) { v.Del("store") })
		b.sees(http.StatusUnprocessableEntity, "You ticked no store. Tick one, or go back and press Revoke")
		b.open(changePath(g.ID, ""))
		b.save(func(v url.Values) { v.Add("store", "otto-1") })
		b.sees(http.StatusUnprocessableEntity, "Nothing was saved yet")
		if g.Client.Name == "Ledger" {
			b.open(changePath(g.ID, ""))
			b.save(func(v url.Values) { v.Del("scope") })
			b.sees(http.StatusUnprocessableEntity, "Ledger could do nothing any more")
		}
	}
	for i, g := range s.grants("mara") {
		if g.Rev != before[i].Rev {
			t.Errorf("%s was changed", g.Client.Name)
		}
	}
	// Another's connection is not there at all, and stays as it is (attack B4).
	other := s.browser()
	other.open("/sign-in")
	other.signIn("otto")
	other.open(changePath(before[0].ID, ""))
	other.sees(http.StatusNotFound)
	other.post("/connected-apps/change", url.Values{"grant": {before[0].ID}, "rev": {"1"}, "save": {"1"}, "store": {"mara-1"}}, s.url)
	other.sees(http.StatusNotFound)
	other.open("/connected-apps?" + url.Values{"done": {"changed"}, "grant": {before[0].ID}, "left": {"mara-1"}}.Encode())
	if strings.Contains(other.body, "Ledger") || strings.Contains(other.body, "Shelfmate") || strings.Contains(other.body, "mara") {
		t.Error("somebody else reads of the connection")
	}
	// Nothing is said that is not so.
	b.open("/connected-apps?" + url.Values{"done": {"changed"}, "grant": {before[0].ID}, "left": {"mara-2", "otto-1"}, "added": {"mara-1", "<b>"}, "dropped": {"stores.view", "canary"}, "later": {"true"}, "more": {"1"}}.Encode())
	if b.sees(200, "Connected apps"); strings.Contains(b.body, `class="notice`) || strings.Contains(b.body, "canary") {
		t.Errorf("it says something:\n%s", textOf(b.doc))
	}
}

// A turn of a long list and the end of the session keep what is ticked.
func TestChange_LongListAndLostSession(t *testing.T) {
	s := newSite(t)
	s.user("mara", 60)
	b := s.browser()
	b.allowed(s.app("Shelfmate", "stores.view", "stores.orders.view?"), "mara", []string{"stores.orders.view"}, "mara-1", "mara-2")
	g := s.grants("mara")[0]
	b.open(changePath(g.ID, ""))
	b.sees(200, "Page 1 of 2", "2 of 60 ticked")
	action, values := b.form("Next")
	values["store"], values["scope"] = []string{"mara-2", "mara-5"}, nil
	b.post(action, values, s.url)
	b.sees(200, "Page 2 of 2", "2 of 60 ticked")
	at := b.screen
	b.post("/sign-out", nil, s.url)
	b.screen = at
	b.save(func(v url.Values) { v.Add("store", "mara-60") })
	b.sees(200, "You were signed out. What you filled in is kept")
	b.signIn("mara")
	b.sees(200, "Change what Shelfmate may do", "3 of 60 ticked")
	b.save(func(v url.Values) {})
	b.sees(200, "It can now use Store mara-5", "It can now use Store mara-60", "It can no longer use Store mara-1", "It may no longer do this")
}

// The owner of a store sees what others connected to it, and nothing beside it.
func TestOthers_OwnerTakesAStore(t *testing.T) {
	s := newSite(t)
	s.user("mara", 2)
	s.user("otto", 1)
	if err := s.server.SetMembership(context.Background(), system, oauth.Membership{UserID: "otto", StoreID: "mara-1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true}); err != nil {
		t.Fatal(err)
	}
	member, b := s.browser(), s.browser()
	c := s.app("Shelfmate", "stores.view", "stores.orders.refund")
	b.open("/sign-in")
	b.signIn("mara")
	if b.sees(200, "No app is connected"); strings.Contains(b.body, "/connected-apps/others") {
		t.Error("a link to nothing")
	}
	b.open("/connected-apps/others")
	b.sees(200, "Nobody else connected an app to your stores")
	member.allowed(c, "otto", nil, "otto-1", "mara-1")
	g := s.grants("otto")[0]
	b.open("/connected-apps")
	b.sees(200, "Apps that other people connected to your stores")
	b.open("/connected-apps/others")
	b.sees(200, "Store mara-1", "Shelfmate", "otto connected the app on", "Sentence of stores.view.")
	if strings.Contains(b.body, "paused") {
		t.Error("nobody is suspended, and the page says paused")
	}
	if strings.Contains(b.body, "otto-1") || strings.Contains(b.body, "refund") || strings.Contains(b.body, "otto@") {
		t.Errorf("the owner reads of more than her store:\n%s", b.body)
	}
	b.open("/connected-apps/others?store=mara-1")
	b.sees(200, "Shelfmate")
	remove := "/connected-apps/others/remove?" + url.Values{"grant": {g.ID}, "store": {"mara-1"}}.Encode()
	b.open(remove)
	b.sees(200, "Take Store mara-1 from Shelfmate?", "Nothing else of what otto connected is touched")
	for _, path := range []string{"/connected-apps/others?store=otto-1", "/connected-apps/others?store=none",
		"/connected-apps/others/remove?grant=" + g.ID + "&store=otto-1", "/connected-apps/others/remove?grant=gr_none&store=mara-1", "/connected-apps/others/remove?grant=" + g.ID} {
		b.open(path)
		b.sees(http.StatusNotFound)
	}
	// The member does not own the store, so that the page is not there for him, also not for what is his.
	for _, path := range []string{"/connected-apps/others?store=mara-1", remove} {
		member.open(path)
		member.sees(http.StatusNotFound)
	}
	member.post("/connected-apps/others/remove", url.Values{"grant": {g.ID}, "store": {"mara-1"}}, s.url)
	member.sees(http.StatusNotFound)
	b.post("/connected-apps/others/remove", url.Values{"grant": {g.ID}, "store": {"otto-1"}}, s.url)
	b.sees(http.StatusNotFound)
	if left := s.grants("otto")[0]; len(left.Grant.Stores) != 2 {
		t.Fatalf("changed: %+v", left.Grant)
	}
	b.open(remove)
	b.press("Remove")
	b.sees(200, "That connection cannot use Store mara-1, from this moment on.", "Nobody else connected an app")
	if left := s.grants("otto")[0]; len(left.Grant.Stores) != 1 || left.Grant.Stores[0].StoreID != "otto-1" || left.Status != oauth.Live {
		t.Errorf("left: %+v", left.Grant)
	}
	b.post("/connected-apps/others/remove", url.Values{"grant": {g.ID}, "store": {"mara-1"}}, s.url)
	b.sees(200, "Nothing was changed")
	member.open("/connected-apps")
	if member.sees(200, "Shelfmate", "Store otto-1"); strings.Contains(member.body, "mara-1") {
		t.Error("the member's page still shows the store")
	}
	events, err := s.server.Events(context.Background(), system, oauth.EventFilter{GrantID: g.ID, Limit: 1})
	if err != nil || events[0].Actor != "user:mara" || events[0].StoreID != "mara-1" || events[0].UserID != "otto" {
		t.Errorf("event %+v %v", events, err)
	}
}

// While a member is suspended, what he connected rests and comes back with him: the owner sees it, and takes it out.
func TestOthers_OfASuspendedMember(t *testing.T) {
	ctx := context.Background()
	s := newSite(t)
	s.user("mara", 1)
	s.user("otto", 1)
	err := s.server.SetMembership(ctx, system, oauth.Membership{UserID: "otto", StoreID: "mara-1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true})
	if err != nil {
		t.Fatal(err)
	}
	s.browser().allowed(s.app("Shelfmate", "stores.view"), "otto", nil, "otto-1", "mara-1")
	g := s.grants("otto")[0]
	if err := s.server.SuspendUser(ctx, system, "otto"); err != nil {
		t.Fatal(err)
	}
	b := s.browser()
	b.open("/sign-in")
	b.signIn("mara")
	b.sees(200, "Apps that other people connected to your stores")
	b.open("/connected-apps/others")
	b.sees(200, "otto connected the app on", "Shelfmate is paused. It has no access until that is lifted.")
	b.open("/connected-apps/others/remove?" + url.Values{"grant": {g.ID}, "store": {"mara-1"}}.Encode())
	b.sees(200, "Take Store mara-1 from Shelfmate?")
	b.open("/connected-apps/others?" + url.Values{"done": {"removed"}, "app": {g.ClientID}, "grant": {g.ID}, "at": {"mara-1"}}.Encode())
	if strings.Contains(b.body, "from this moment on") {
		t.Error("an address says that the store was taken out")
	}
	b.open("/connected-apps/others?" + url.Values{"done": {"removed"}, "app": {g.ClientID}, "grant": {"none"}, "at": {"mara-1"}}.Encode())
	if strings.Contains(textOf(b.doc), "Shelfmate cannot") || strings.Contains(textOf(b.doc), "Shelfmate can no longer") {
		t.Error("an address says of an app what is not so")
	}
	b.open("/connected-apps/others/remove?" + url.Values{"grant": {g.ID}, "store": {"mara-1"}}.Encode())
	b.press("Remove")
	b.sees(200, "That connection cannot use Store mara-1, from this moment on.", "Nobody else connected an app")
	if err := s.server.ResumeUser(ctx, system, "otto"); err != nil {
		t.Fatal(err)
	}
	if left := s.grants("otto")[0]; len(left.Grant.Stores) != 1 || left.Grant.Stores[0].StoreID != "otto-1" {
		t.Errorf("the member is back, and the app in the store: %+v", left.Grant)
	}
	b.open("/connected-apps/others")
	b.sees(200, "Nobody else connected an app to your stores")
}
