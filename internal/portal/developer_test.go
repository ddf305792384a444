package portal

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
)

// developer signs somebody in who has no store, and opens a page.
func (s *site) developer(name, path string) *browser {
	s.t.Helper()
	s.user(name, 0)
	b := s.browser()
	b.open("/sign-in?next=/developer")
	b.signIn(name)
	b.open(path)
	return b
}

// shown is the text of the element with an id, "" if there is none.
func (s *screen) shown(id string) (text string) {
	each(s.doc, func(n *html.Node) {
		if v, _ := attr(n, "id"); v == id {
			text = textOf(n)
		}
	})
	return text
}

// wellFormed is a form that makes an app.
func wellFormed() url.Values {
	return url.Values{"name": {"Shelfmate"}, "kind": {"exchange"}, "redirect_uri": {"https://app.shelfmate.example/cb?a=1&b=2", ""}, "scope:stores.view": {"required"}, "scope:stores.orders.refund": {"optional"}, "scope:user.view": {""}}
}

// submit fills the form of a new app in and posts it.
func (b *browser) submit(form url.Values) {
	b.t.Helper()
	b.open("/developer/new")
	_, fresh := b.form("Create app")
	form.Set("reserved", fresh.Get("reserved"))
	b.post("/developer/new", form, b.site.url)
}

// create makes an app by the form and returns it with its secret.
func (b *browser) create(change ...string) (*oauth.Client, string) {
	b.t.Helper()
	form := wellFormed()
	for i := 0; i < len(change); i += 2 {
		form.Set(change[i], change[i+1])
	}
	b.submit(form)
	if b.status != http.StatusOK {
		b.t.Fatalf("status %d\n%s", b.status, textOf(b.doc))
	}
	c, err := b.site.server.MyClient(context.Background(), system, b.shown("client-id"))
	if err != nil {
		b.t.Fatal(err)
	}
	return c, b.shown("client-secret")
}

func TestDeveloper_StrangerSeesWhatThisPlaceIsFor(t *testing.T) {
	s := newSite(t)
	b := s.browser()
	b.open("/developer")
	b.sees(http.StatusOK, "Build an app for Kaufhaus")
	for _, link := range []string{"/sign-in?next=%2Fdeveloper", "/sign-up?next=%2Fdeveloper"} {
		if !strings.Contains(b.body, `href="`+link+`"`) {
			t.Errorf("no link to %s", link)
		}
	}
	for _, path := range []string{"/developer/new", "/developer/apps/7d0c6a8e-1b52-4c27-9f0a-3f1f6de6a001", "/developer/apps/x/edit"} {
		b.open(path)
		if b.address.Path != "/sign-in" || b.address.Query().Get("next") != path {
			t.Errorf("%s led to %s", path, b.address)
		}
	}
}

func TestDeveloper_CreateShowsTheSecretOnce(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	b.sees(http.StatusOK, "You have no app yet")
	c, secret := b.create()
	if len(secret) != 72 || b.header.Get("Cache-Control") != "no-store" {
		t.Errorf("a secret of %d characters, %q", len(secret), b.header.Get("Cache-Control"))
	}
	b.sees(http.StatusOK, "Shelfmate is ready", "This is the only time you see this secret", secret)
	if !c.Secrets[0].Hash.Matches(oauth.Secret(secret)) {
		t.Error("what is shown is not the secret")
	}
	if c.Owner != "jonas" || c.Profile != oauth.Exchange || c.Type != oauth.Confidential || len(c.Redirects) != 1 || c.Redirects[0] != "https://app.shelfmate.example/cb?a=1&b=2" {
		t.Errorf("stored %+v", c)
	}
	want := []oauth.ClientScope{{Name: "stores.orders.refund"}, {Name: "stores.view", Required: true}}
	if fmt.Sprint(c.Scopes) != fmt.Sprint(want) {
		t.Errorf("scopes %v, want %v", c.Scopes, want)
	}
	for _, path := range []string{"/developer", appHref(c.ID), appHref(c.ID) + "/edit", "/developer/new"} {
		b.open(path)
		if b.status != http.StatusOK || strings.Contains(b.body, secret) {
			t.Errorf("%s: status %d, shows the secret: %t", path, b.status, strings.Contains(b.body, secret))
		}
	}
	b.open(appHref(c.ID))
	b.sees(http.StatusOK, c.ID, "••••"+secret[68:], "Never", "The only one")
}

func TestDeveloper_PublicAppHasNoSecret(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	form := wellFormed()
	form.Set("kind", "public")
	form["redirect_uri"] = []string{"com.shelfmate.app:/cb"}
	b.submit(form)
	b.sees(http.StatusOK, "Shelfmate is ready. Its client id is below.", "This app has no secret")
	if !strings.HasPrefix(b.address.Path, "/developer/apps/") || b.shown("secrets") != "" {
		t.Errorf("at %s, secrets %q", b.address, b.shown("secrets"))
	}
	action, _ := b.form("Add a second secret")
	if action != "" {
		t.Error("a public app is offered a secret")
	}
	b.post(b.address.Path+"/secrets", nil, s.url)
	if b.status != http.StatusNotFound {
		t.Errorf("a secret for a public app: %d", b.status)
	}
}

// TestDeveloper_EveryMistakeStandsBesideItsField posts one mistake at a time and all of it comes back.
func TestDeveloper_EveryMistakeStandsBesideItsField(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer/new")
	long := "https://app.example/" + strings.Repeat("a", 2048)
	eleven := make([]string, 11)
	for i := range eleven {
		eleven[i] = fmt.Sprintf("https://app.example/%d", i)
	}
	for _, tc := range []struct {
		field  string
		values []string
		id     string
		says   string
	}{
		{"name", []string{""}, "name", "Give your app a name."},
		{"name", []string{strings.Repeat("x", 61)}, "name", "Use at most 60 characters."},
		{"name", []string{"Shelf\u202emate"}, "name", "Use letters of one alphabet"},
		{"name", []string{"Раypal"}, "name", "Use letters of one alphabet"},
		{"kind", []string{""}, "kind", "Choose a type."},
		{"kind", []string{"direct"}, "kind", "Choose a type."},
		{"redirect_uri", []string{"", " "}, "redirect-0", "Enter at least one redirect URL."},
		{"redirect_uri", []string{"app.example/cb"}, "redirect-0", "Write the whole address"},
		{"redirect_uri", []string{"https://app.example/#x"}, "redirect-0", "Remove the #"},
		{"redirect_uri", []string{"https://a.example/", "https://me@app.example/"}, "redirect-1", "Remove the user name"},
		{"redirect_uri", []string{"https://*.app.example/"}, "redirect-0", "Write out each address"},
		{"redirect_uri", []string{"http://app.example/"}, "redirect-0", "Use https. Plain http works only for 127.0.0.1"},
		{"redirect_uri", []string{"javascript:alert(1)"}, "redirect-0", "Use https, or for an installed app"},
		{"redirect_uri", []string{"com.example.app:/cb"}, "redirect-0", "Use https, or for an installed app"},
		{"redirect_uri", []string{"https://äpp.example/"}, "redirect-0", "Remove spaces, quotes, backslashes"},
		{"redirect_uri", []string{"https://app.example/", "", "https://app.example/"}, "redirect-1", "This address is listed already."},
		{"redirect_uri", eleven, "redirect-10", "10 addresses are the most."},
		{"redirect_uri", []string{long}, "redirect-0", "Use at most 2,048 characters."},
		{"scope:stores.nothing", []string{"required"}, "scope", "One of the permissions does not exist any more."},
		{"homepage", []string{"shelfmate.example"}, "homepage", "Write the whole address, starting with https://."},
		{"privacy", []string{"http://shelfmate.example/"}, "privacy", "Write the whole address, starting with https://."},
		{"terms", []string{"javascript:alert(1)"}, "terms", "Write the whole address, starting with https://."},
	} {
		form := wellFormed()
		form[tc.field] = tc.values
		b.submit(form)
		b.sees(http.StatusUnprocessableEntity, "1 thing needs another look.")
		if got := b.shown(tc.id + "-error"); !strings.HasPrefix(got, tc.says) {
			t.Errorf("%s %q: beside %s stands %q, want %q", tc.field, tc.values, tc.id, got, tc.says)
		}
		if b.shown(tc.id) == "" && !strings.Contains(b.body, `href="#`+tc.id+`"`) {
			t.Errorf("the summary does not lead to %s", tc.id)
		}
		_, kept := b.form("Create app")
		for field, values := range form {
			var sent []string
			for _, v := range values {
				if v = strings.TrimSpace(v); v != "" {
					sent = append(sent, v)
				}
			}
			var back []string
			for _, v := range kept[field] {
				if v != "" {
					back = append(back, v)
				}
			}
			if field != "kind" && field != "scope:stores.nothing" && fmt.Sprint(sent) != fmt.Sprint(back) {
				t.Errorf("%s %q: %s was %q and is %q", tc.field, tc.values, field, sent, back)
			}
		}
	}
	form := url.Values{"redirect_uri": {"https://app.example/#x", "http://app.example/"}}
	b.submit(form)
	b.sees(http.StatusUnprocessableEntity, "5 things need another look.", "Redirect URL 2: Use https.")
	b.open("/developer")
	b.sees(http.StatusOK, "You have no app yet")
}

func TestDeveloper_SecondSecretThirdAndLast(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, first := b.create()
	page := appHref(c.ID)
	b.open(page)
	_, again := b.form("Add a second secret")

	b.open(page + "/revoke-secret?last4=" + url.QueryEscape(first[68:]))
	if b.status != http.StatusNotFound {
		t.Errorf("the only secret may be revoked: %d", b.status)
	}
	b.post(page+"/revoke-secret", url.Values{"last4": {first[68:]}}, s.url)
	b.sees(http.StatusConflict, "This is the only secret. Add a new one first")

	b.open(page)
	b.press("Add a second secret")
	second := b.shown("client-secret")
	b.sees(http.StatusOK, "A second secret for Shelfmate", "Both secrets work from now on.")
	if len(second) != 72 || second == first {
		t.Fatalf("the second secret is %q", second)
	}
	b.open(page)
	if strings.Contains(b.body, second) {
		t.Error("the second secret is shown again")
	}
	b.sees(http.StatusOK, "••••"+first[68:], "••••"+second[68:], "Two secrets are the most.")
	if action, _ := b.form("Add a second secret"); action != "" {
		t.Error("a third secret is offered")
	}
	b.post(page+"/secrets", url.Values{"beside": {first[68:]}}, s.url)
	b.sees(http.StatusOK, "A second secret was made already. It was shown once.")

	b.open(page + "?done=secret_revoked")
	if strings.Contains(b.body, `class="result"`) {
		t.Error("an address says that a secret is revoked")
	}
	b.open(page + "/revoke-secret?last4=" + url.QueryEscape(first[68:]))
	b.sees(http.StatusOK, "Revoke the secret that ends in "+first[68:]+"?", "Keys that are out go on working.")
	b.press("Revoke this secret")
	b.sees(http.StatusOK, "One secret is left, which ends in "+second[68:], "••••"+second[68:])
	if b.address.Fragment != "" {
		t.Errorf("what was done stands above where the page comes up: %s", b.address)
	}
	stored, err := s.server.MyClient(context.Background(), system, c.ID)
	if err != nil || len(stored.Secrets) != 1 || !stored.Secrets[0].Hash.Matches(oauth.Secret(second)) {
		t.Errorf("left: %v, %v", stored.Secrets, err)
	}
	b.post(page+"/secrets", again, s.url) // the page of long ago
	b.sees(http.StatusConflict, "Somebody changed this meanwhile.")
	b.open(page + "?done=secret_already")
	if strings.Contains(b.body, `class="result"`) {
		t.Error("an address says that there are two secrets")
	}
	if c, err := s.server.MyClient(context.Background(), system, c.ID); err != nil || len(c.Secrets) != 1 {
		t.Errorf("an old page made a secret: %v, %v", c.Secrets, err)
	}
	b.post(page+"/revoke-secret", url.Values{"last4": {"none"}}, s.url)
	b.sees(http.StatusConflict, "That secret is revoked already.")
}

// TestDeveloper_SoManyAppsADay: one app too many is refused with nothing lost of what was typed, until the day is over.
func TestDeveloper_SoManyAppsADay(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	b.create()
	for range oauth.MaxApps - 1 {
		if _, _, err := s.server.CreateClient(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, oauth.ClientForm{Name: "Another", Type: oauth.Confidential, Profile: oauth.Exchange,
			Redirects: []string{"https://app.shelfmate.example/cb"}, Scopes: []oauth.ClientScope{{Name: "stores.view", Required: true}}}); err != nil {
			t.Fatal(err)
		}
	}
	form := wellFormed()
	form.Set("name", "Harbour & Co")
	b.submit(form)
	b.sees(http.StatusTooManyRequests, "You made 100 apps within a day, and that is the most.", "This one is not made.")
	if wait, err := strconv.Atoi(b.header.Get("Retry-After")); err != nil || wait < 23*3600 || wait > 24*3600 {
		t.Errorf("Retry-After %q", b.header.Get("Retry-After"))
	}
	if _, kept := b.form("Create app"); kept.Get("name") != "Harbour & Co" || kept.Get("redirect_uri") != form.Get("redirect_uri") {
		t.Errorf("kept %v", kept)
	}
	s.late.Add(int64(24*time.Hour + time.Second))
	b.submit(form)
	b.sees(http.StatusOK, "This is the only time you see this secret")
}

// TestDeveloper_SecretLastUsedToTheDay: what is known to the hour would read earlier than a secret made in that hour.
func TestDeveloper_SecretLastUsedToTheDay(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, secret := b.create()
	s.server.Token(context.Background(), oauth.TokenRequest{Serves: []oauth.ProfileName{oauth.Exchange}, Auth: oauth.ClientAuth{ID: c.ID, Secret: oauth.Secret(secret)},
		GrantType: oauth.GrantAuthorizationCode, Code: "x"})
	stopped, stop := context.WithCancel(context.Background())
	stop()
	s.server.Run(stopped) // notes what was used, last of all
	b.open(appHref(c.ID))
	b.sees(http.StatusOK, "Last used", "UTC today The only one")
}

func TestDeveloper_EditAndStaleVersion(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, _ := b.create("homepage", "https://shelfmate.example/")
	if err := s.server.VerifyClient(context.Background(), system, c.ID, c.Version, true); err != nil {
		t.Fatal(err)
	}
	b.open(appHref(c.ID) + "/edit")
	action, mine := b.form("Save changes")
	_, theirs := b.form("Save changes")
	theirs.Set("privacy", "https://shelfmate.example/privacy")
	theirs.Set("iss", "1")
	b.post(action, theirs, s.url)
	b.sees(http.StatusOK, "What you see here is saved", "Verified", "Add iss to the callback")

	mine["redirect_uri"] = []string{"https://new.shelfmate.example/cb"}
	b.post(action, mine, s.url)
	b.sees(http.StatusConflict, "Somebody changed this app after you opened this form.")
	stored := func() *oauth.Client {
		c, err := s.server.MyClient(context.Background(), system, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if got := stored(); got.Redirects[0] != c.Redirects[0] || got.Settings.Privacy == "" {
		t.Errorf("a stale form was saved: %+v", got)
	}
	_, again := b.form("Save changes")
	if again.Get("redirect_uri") != "https://new.shelfmate.example/cb" || again.Get("version") == mine.Get("version") {
		t.Errorf("kept %v", again)
	}
	again.Set("name", "Shelfmate Pro")
	b.post(action, again, s.url)
	b.sees(http.StatusOK, "What you see here is saved", "Not verified")
	if got := stored(); got.Redirects[0] != "https://new.shelfmate.example/cb" || got.Settings.Privacy != "" || got.Settings.Iss || got.Name != "Shelfmate Pro" || got.Profile != oauth.Exchange {
		t.Errorf("saved %+v", got)
	}

	again.Set("version", strconv.FormatInt(stored().Version, 10))
	again.Set("homepage", "shelfmate")
	b.post(action, again, s.url)
	b.sees(http.StatusUnprocessableEntity, "Home page: Write the whole address")
}

func TestDeveloper_DeleteTakesTheNameAndEndsConnections(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, secret := b.create("redirect_uri", callback)
	s.secret[c.ID] = oauth.Secret(secret)
	s.user("mara", 1)
	customer := s.browser()
	customer.open(ask(c))
	customer.signIn("mara")
	customer.press("Allow")
	s.redeem(c, customer.returned().Get("code"))

	b.open(appHref(c.ID))
	b.sees(http.StatusOK, "1 connection ends at once")
	action, form := b.form("Delete for ever")
	for _, name := range []string{"", "shelfmate", "Shelfmate2"} {
		form.Set("name", name)
		b.post(action, form, s.url)
		b.sees(http.StatusUnprocessableEntity, "Type the name exactly as it stands above.")
		if _, kept := b.form("Delete for ever"); kept.Get("name") != name {
			t.Errorf("typed %q, kept %q", name, kept.Get("name"))
		}
	}
	if len(s.grants("mara")) != 1 {
		t.Fatal("the connection is gone before its app")
	}
	form.Set("name", "Shelfmate")
	s.follower()
	s.waits(func() {
		b.post(action, form, s.url)
		b.sees(http.StatusOK, "An app that you deleted is gone for good, and its keys are refused.", "You have no app yet")
	})
	b.open(appHref(c.ID))
	if b.status != http.StatusNotFound {
		t.Errorf("a deleted app: %d", b.status)
	}
	if _, err := s.server.MyClient(context.Background(), system, c.ID); oauth.ReasonOf(err) != oauth.NoSuch {
		t.Errorf("the server still knows it: %v", err)
	}
}

// TestDeveloper_OthersAppsAreNotThere_B4: an id of somebody else's app answers like one that does not exist, to operators
// too, who have pages of their own.
func TestDeveloper_OthersAppsAreNotThere_B4(t *testing.T) {
	s := newSite(t)
	jonas := s.developer("jonas", "/developer")
	c, secret := jonas.create()
	mallory := s.developer("mallory", "/developer")
	mallory.sees(http.StatusOK, "You have no app yet")
	boss := s.operator()
	const none = "7d0c6a8e-1b52-4c27-9f0a-3f1f6de6a001"
	for _, b := range []*browser{mallory, boss} {
		for _, path := range []string{"", "/edit", "/revoke-secret?last4=" + url.QueryEscape(secret[68:])} {
			b.open(appHref(c.ID) + path)
			theirs := strings.ReplaceAll(b.body, c.ID, none)
			b.open(appHref(none) + path)
			if b.status != http.StatusNotFound || b.body != theirs {
				t.Errorf("%s: %d; the answer tells an app of somebody else from none: %t", path, b.status, b.body != theirs)
			}
		}
		for _, path := range []string{"/edit", "/secrets", "/revoke-secret", "/delete"} {
			form := wellFormed()
			form.Set("version", "1")
			form.Set("last4", secret[68:])
			b.post(appHref(c.ID)+path, form, s.url)
			if b.status != http.StatusNotFound {
				t.Errorf("POST %s: %d", path, b.status)
			}
		}
	}
	if got, err := s.server.MyClient(context.Background(), system, c.ID); err != nil || got.Version != c.Version || len(got.Secrets) != 1 {
		t.Errorf("it was changed: %+v, %v", got, err)
	}
}

func TestDeveloper_FormsFromAnotherOrigin(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, secret := b.create()
	page := appHref(c.ID)
	form := wellFormed()
	form.Set("version", strconv.FormatInt(c.Version, 10))
	form.Set("last4", secret[68:])
	for _, path := range []string{"/developer/new", page + "/edit", page + "/secrets", page + "/revoke-secret", page + "/delete"} {
		b.post(path, form, "https://evil.example")
		b.sees(http.StatusForbidden, "This form came from another site")
	}
	apps, err := s.server.Clients(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, false, oauth.Page{Limit: 10})
	if err != nil || len(apps) != 1 || len(apps[0].Secrets) != 1 || apps[0].Version != c.Version {
		t.Errorf("something was done: %+v, %v", apps, err)
	}
}

func TestDeveloper_MethodsAndAddresses(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer/")
	if b.address.Path != "/developer" {
		t.Errorf("/developer/ leads to %s", b.address.Path)
	}
	for path, status := range map[string]int{"/developer": 405, "/developer/apps/x": 405, "/developer/other": 404} {
		b.post(path, nil, s.url)
		if b.status != status {
			t.Errorf("POST %s: %d, want %d", path, b.status, status)
		}
	}
	for path, status := range map[string]int{"/developer/apps/x/secrets": 405, "/developer/apps/x/delete": 405, "/developer/apps": 404, "/developer/apps/x/other": 404, "/developer?page=-1": 200, "/developer?page=9": 200} {
		b.open(path)
		if b.status != status {
			t.Errorf("GET %s: %d, want %d", path, b.status, status)
		}
	}
}

func TestDeveloper_AppsComeInPages(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	for i := range rowsPerPage + 1 {
		f := oauth.ClientForm{Name: fmt.Sprintf("App %03d", i), Type: oauth.Confidential, Profile: oauth.Exchange, Redirects: []string{callback}, Scopes: []oauth.ClientScope{{Name: "user.view"}}}
		if _, _, err := s.server.CreateClient(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, f); err != nil {
			t.Fatal(err)
		}
	}
	b.open("/developer")
	b.sees(http.StatusOK, "App 000", "App 049")
	if strings.Contains(b.body, "App 050") || !strings.Contains(b.body, `href="/developer?page=2"`) {
		t.Error("the first page has no end")
	}
	b.open("/developer?page=2")
	b.sees(http.StatusOK, "App 050")
	if !strings.Contains(b.body, `href="/developer?page=1"`) || strings.Contains(b.body, "page=3") {
		t.Error("the second page leads elsewhere")
	}
}

// TestDeveloper_PreviewSaysWhatConsentSays: required sentences under See and Change, optional ones apart.
func TestDeveloper_PreviewSaysWhatConsentSays(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, _ := b.create("redirect_uri", callback)
	s.user("mara", 2)
	customer := s.browser()
	customer.open(ask(c))
	customer.signIn("mara")
	b.open(appHref(c.ID))
	preview := b.shown("preview")
	for _, say := range []string{"Shelfmate wants access to your Kaufhaus account", "Sentence of stores.view.", "Only if you tick it", "Sentence of stores.orders.refund. Money", "Next you go to client.example."} {
		if !strings.Contains(preview, say) || !strings.Contains(textOf(customer.doc), say) {
			t.Errorf("%q is not on both pages:\n%s\n%s", say, preview, textOf(customer.doc))
		}
	}
}
