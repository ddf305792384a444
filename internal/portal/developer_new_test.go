package portal

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// TestDeveloper_ReloadMakesNoSecondApp: the page with a secret answers a POST, so a reload posts the form again.
func TestDeveloper_ReloadMakesNoSecondApp(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer/new")
	form := wellFormed()
	_, fresh := b.form("Create app")
	form.Set("reserved", fresh.Get("reserved"))
	b.post("/developer/new", form, s.url)
	b.sees(http.StatusOK, "This is the only time you see this secret")
	id, secret := b.shown("client-id"), b.shown("client-secret")
	for range 2 {
		b.post("/developer/new", form, s.url)
		b.sees(http.StatusOK, "This app was made already. Its secret was shown once.", "••••"+secret[68:])
		if b.address.Path != appHref(id) {
			t.Errorf("a reload leads to %s", b.address)
		}
	}
	if apps, err := s.server.Clients(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "jonas"}, false, oauth.Page{Limit: 10}); err != nil || len(apps) != 1 {
		t.Fatalf("%d apps, %v", len(apps), err)
	}

	// Another form makes another app, a form of somebody else's none.
	mallory := s.developer("mallory", "/developer")
	mallory.post("/developer/new", form, s.url)
	mallory.sees(http.StatusConflict, "The app is not made yet")
	if _, kept := mallory.form("Create app"); kept.Get("name") != "Shelfmate" || kept.Get("reserved") == form.Get("reserved") {
		t.Errorf("kept %v", kept)
	}
	mallory.press("Create app")
	mallory.sees(http.StatusOK, "This is the only time you see this secret")

	if err := s.server.DeleteClient(context.Background(), system, id, "Shelfmate"); err != nil {
		t.Fatal(err)
	}
	b.post("/developer/new", form, s.url)
	b.sees(http.StatusOK, "This app was made already", "You have no app yet")
}

// TestDeveloper_EndedSessionLosesNothing: what was typed is there after the sign-in, or it is said that nothing was changed.
func TestDeveloper_EndedSessionLosesNothing(t *testing.T) {
	s := newSite(t)
	b := s.developer("jonas", "/developer")
	c, first := b.create()
	says := "You were signed out. What you filled in is kept"
	lose := func(path string, form url.Values) {
		t.Helper()
		b.open("/developer/new")
		_, shown := b.form("Create app")
		form.Set("of", shown.Get("of"))
		b.post("/sign-out", nil, s.url)
		b.post(path, form, s.url)
		if b.address.Path != "/sign-in" {
			t.Fatalf("POST %s led to %s", path, b.address)
		}
		b.sees(http.StatusOK, says)
	}
	again := func(path string, form url.Values) {
		t.Helper()
		lose(path, form)
		b.signIn("jonas")
	}
	form := wellFormed()
	form.Set("name", "Harbour & Co")
	form.Set("kind", "server")
	again("/developer/new", form)
	b.sees(http.StatusOK, "You were signed out, and the app is not made yet.")
	b.press("Create app")
	b.sees(http.StatusOK, "Harbour & Co is ready")
	made, err := s.server.MyClient(context.Background(), system, b.shown("client-id"))
	if err != nil || made.Profile != oauth.Standard || len(made.Scopes) != 2 || len(made.Redirects) != 1 || string(made.Redirects[0]) != form.Get("redirect_uri") {
		t.Errorf("made %+v, %v", made, err)
	}

	// Whoever else signs in in that browser finds a form that nobody has filled in.
	s.user("mallory", 0)
	b.open("/developer/new")
	_, blank := b.form("Create app")
	lose("/developer/new", form)
	b.signIn("mallory")
	_, shown := b.form("Create app")
	for _, v := range []url.Values{blank, shown} {
		v.Del("of")
		v.Del("reserved")
	}
	if b.address.Path != "/developer/new" || shown.Encode() != blank.Encode() || strings.Contains(b.body, "Harbour") || strings.Contains(textOf(b.doc), "signed out") {
		t.Errorf("somebody else finds %v at %s:\n%s", shown, b.address, textOf(b.doc))
	}
	b.post("/sign-out", nil, s.url)
	b.open("/sign-in")
	b.signIn("jonas")

	form.Set("homepage", "https://"+strings.Repeat("long.", 700))
	says = "You were signed out. Nothing was changed."
	again("/developer/new", form)
	b.sees(http.StatusOK, "You were signed out. Nothing was changed.")
	for path, place := range map[string]string{"/edit": "/edit", "/secrets": "", "/revoke-secret": "", "/delete": ""} {
		again(appHref(c.ID)+path, url.Values{"name": {"Shelfmate"}, "last4": {first[68:]}, "beside": {first[68:]}, "version": {"1"}})
		b.sees(http.StatusOK, "You were signed out. Nothing was changed.")
		if b.address.Path != appHref(c.ID)+place {
			t.Errorf("%s leads to %s", path, b.address)
		}
	}
	if now, err := s.server.MyClient(context.Background(), system, c.ID); err != nil || now.Version != c.Version || len(now.Secrets) != 1 {
		t.Errorf("it was changed: %+v, %v", now, err)
	}
}

func TestDeveloper_NoCatalogueNoForm(t *testing.T) {
	s := newSite(t)
	*s.server.Catalogue() = *oauth.NewCatalogue(nil, nil)
	b := s.developer("jonas", "/developer/new")
	b.sees(http.StatusOK, "This platform has no permissions set up yet")
	if action, _ := b.form("Create app"); action != "" {
		t.Error("a form that nobody can fill in is shown")
	}
	form := wellFormed()
	sealed, err := s.server.ReserveID("jonas")
	if err != nil {
		t.Fatal(err)
	}
	form.Set("reserved", sealed)
	b.post("/developer/new", form, s.url)
	b.sees(http.StatusUnprocessableEntity, "This platform has no permissions set up yet")
}
