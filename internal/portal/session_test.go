package portal

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// cookie is the one that the last answer set, or nil.
func (b *browser) cookie() *http.Cookie {
	for _, line := range b.header["Set-Cookie"] {
		if c, err := http.ParseSetCookie(line); err == nil {
			return c
		}
	}
	return nil
}

// stay makes the browser show redirects instead of following them.
func (b *browser) stay() {
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

func TestSignIn_CookieIsBoundAndNewEachTime(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.stay()
	form := url.Values{"email": {" Mara@Nordlicht.example "}, "password": {password}, "next": {"/developer"}}
	b.post("/sign-in", form, s.url)
	first := b.cookie()
	if b.status != http.StatusSeeOther || b.header.Get("Location") != "/sign-in?next=%2Fdeveloper&why=signed_in" || b.header.Get("Cache-Control") != "no-store" {
		t.Errorf("signed in: %d %v", b.status, b.header)
	}
	if first == nil || !first.HttpOnly || first.SameSite != http.SameSiteLaxMode || first.Path != "/" || first.Domain != "" || first.Secure || first.MaxAge <= 0 {
		t.Fatalf("cookie %+v", first)
	}
	b.post("/sign-in", form, s.url)
	if second := b.cookie(); second.Value == first.Value {
		t.Error("the session was not renewed")
	}
	if _, err := s.portal.people.Session(context.Background(), first.Value); err == nil {
		t.Error("the session before it still works")
	}
	b.post("/sign-in", url.Values{"email": form["email"], "password": form["password"], "next": {"//evil.example"}}, s.url)
	if to := b.header.Get("Location"); to != "/sign-in?next=%2Fconnected-apps&why=signed_in" {
		t.Errorf("led to %s", to)
	}
}

// TestSignIn_CookiesAreOff: the right password of somebody whose browser keeps no cookie leads to the reason, not back to an
// empty form; elsewhere the stop on the way is not seen.
func TestSignIn_CookiesAreOff(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.open("/developer/new")
	b.signIn("mara")
	if b.sees(http.StatusOK, "New app"); b.address.String() != s.url+"/developer/new" {
		t.Errorf("led to %s", b.address)
	}
	b = s.browser()
	b.client.Jar = nil
	for range 2 {
		b.open("/developer/new")
		b.sees(http.StatusOK, "Sign in")
		if strings.Contains(b.body, "cookie") {
			t.Error("cookies are spoken of before anybody signed in")
		}
		b.signIn("mara")
		b.sees(http.StatusOK, "Sign in", "Your browser did not keep our cookie. Allow cookies for this site")
	}
	if _, values := b.form("Sign in"); values.Get("next") != "/developer/new" {
		t.Errorf("leads to %q", values.Get("next"))
	}
}

func TestSignIn_WrongPassword(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	for _, tc := range []struct{ email, password, says string }{
		{"mara@nordlicht.example", "wrong canary", "We could not sign you in. Check the e-mail and password."},
		{"nobody@nordlicht.example", "wrong canary", "We could not sign you in. Check the e-mail and password."},
		{"", "wrong canary", "Enter your e-mail address."},
		{"mara@nordlicht.example", "", "Enter your password."},
	} {
		b.post("/sign-in", url.Values{"email": {tc.email}, "password": {tc.password}, "next": {"/developer"}}, s.url)
		b.sees(http.StatusUnprocessableEntity, tc.says)
		if title := titleOf(b.doc); title != "Error: Sign in · Kaufhaus" {
			t.Errorf("the title is %q", title)
		}
		if _, values := b.form("Sign in"); values.Get("email") != tc.email || values.Get("next") != "/developer" {
			t.Errorf("the form forgot %v", values)
		}
		if strings.Contains(b.body, "canary") || b.cookie() != nil {
			t.Error("the password is on the page, or a session was given")
		}
	}
}

func TestSignIn_GuessingIsSlowedAndTheOwnerGetsInLater(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	guess := url.Values{"email": {"mara@nordlicht.example"}, "password": {"a wrong guess"}}
	for range 5 {
		b.post("/sign-in", guess, s.url)
	}
	guess.Set("password", password)
	b.post("/sign-in", guess, s.url)
	b.sees(http.StatusTooManyRequests, "Too many tries. Wait 1 minute, then try again.", "You do not know your password any more? Ask for help")
	if b.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	s.late.Add(int64(16 * time.Minute))
	b.post("/sign-in", guess, s.url)
	b.sees(200, "Connected apps")
}

func TestSignUp_ErrorsStandBesideTheirFields(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.open("/sign-up?next=/developer")
	b.sees(200, "Create your Kaufhaus account")
	_, form := b.form("Create account")
	for _, tc := range []struct{ email, password, field, says string }{
		{"", "", "email", "Enter your e-mail address."},
		{"mara", password, "email", "Enter an e-mail address such as name@example.com."},
		{"mara@nordlicht.example", password, "email", "There is an account with this e-mail. Sign in instead."},
		{"new@nordlicht.example", "short", "password", "Use at least 8 characters."},
		{"new@nordlicht.example", "password", "password", "This would be guessed first."},
		{"new@nordlicht.example", strings.Repeat("x", 300), "password", "Use at most 256 characters."},
	} {
		form.Set("email", tc.email)
		form.Set("password", tc.password)
		b.post("/sign-up", form, s.url)
		b.sees(http.StatusUnprocessableEntity)
		beside, focused := "", ""
		each(b.doc, func(n *html.Node) {
			if _, ok := attr(n, "autofocus"); ok {
				id, _ := attr(n, "id")
				focused += id
			}
			if id, _ := attr(n, "id"); id == tc.field+"-error" {
				beside = textOf(n)
			}
			if id, _ := attr(n, "id"); id == tc.field {
				if v, _ := attr(n, "aria-invalid"); v != "true" {
					t.Errorf("%s is not marked", tc.field)
				}
			}
		})
		if focused != tc.field {
			t.Errorf("%s, %s: the cursor is in %q", tc.email, tc.field, focused)
		}
		if !strings.HasPrefix(beside, tc.says) {
			t.Errorf("%s, %s: beside the field stands %q", tc.email, tc.field, beside)
		}
	}
	if strings.Contains(b.body, "run the platform") {
		t.Error("a customer is told that the account will run the platform")
	}
	form.Set("email", "new@nordlicht.example")
	form.Set("password", password)
	b.stay()
	b.post("/sign-up", form, s.url)
	if b.status != http.StatusSeeOther || b.header.Get("Location") != "/sign-in?next=%2Fdeveloper&why=signed_in" || b.cookie() == nil {
		t.Errorf("signed up: %d %v", b.status, b.header)
	}
}

func TestSignUp_OperatorLinkWorksOnce(t *testing.T) {
	s := newSite(t)
	link, err := s.portal.people.OperatorLink(context.Background(), oauth.Actor{Kind: oauth.AsCommand})
	if err != nil {
		t.Fatal(err)
	}
	opened := "/sign-up?invite=" + url.QueryEscape(link.Reveal())
	late := s.browser()
	late.open(opened)
	s.user("mara", 0)
	member := s.browser()
	member.open(opened)
	_, form := member.form("Create account")
	form.Set("email", "mara@nordlicht.example")
	form.Set("password", password)
	member.post("/sign-up", form, s.url)
	member.sees(http.StatusUnprocessableEntity, "This e-mail has an account already, and this link makes a new account. Use another e-mail.")
	for i, email := range []string{"boss@nordlicht.example", "late@nordlicht.example"} {
		b := s.browser()
		if i == 0 {
			b.open(opened) // the second look: looking spends nothing
		} else {
			b = late // whose page stood open meanwhile
		}
		b.sees(200, "This account will run the platform.")
		_, form := b.form("Create account")
		form.Set("email", email)
		form.Set("password", password)
		b.post("/sign-up", form, s.url)
		if i == 0 {
			b.sees(200, "Recent events", "Operator")
			if b.address.Path != "/operator" {
				t.Errorf("the first operator lands on %s", b.address)
			}
		} else {
			b.sees(http.StatusUnprocessableEntity, "This link was used or has expired.")
		}
	}
	// A link that makes no operator says so before anything is filled in.
	says := func(what, path string) {
		t.Helper()
		b := s.browser()
		b.open(path)
		b.sees(http.StatusGone, "This link was used or has expired.")
		if _, form := b.form("Create account"); form != nil {
			t.Errorf("%s: there is a form", what)
		}
	}
	says("used", opened)
	says("unknown", "/sign-up?invite=garbage")
	says("altered", opened[:len(opened)-3]+"xyz")
	if link, err = s.portal.people.OperatorLink(context.Background(), oauth.Actor{Kind: oauth.AsCommand}); err != nil {
		t.Fatal(err)
	}
	s.late.Add(int64(people.InviteLife + time.Minute))
	says("expired", "/sign-up?invite="+url.QueryEscape(link.Reveal()))
}

func TestSignOut_EndsTheSessionOnTheServer(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.open("/connected-apps")
	b.signIn("mara")
	b.press("Sign out")
	b.sees(http.StatusOK, "Sign in", "You are signed out.")
	b.open("/connected-apps")
	if b.sees(http.StatusOK, "Sign in"); strings.Contains(textOf(b.doc), "signed out") {
		t.Error("somebody who opens a page is told so again")
	}
	b.signIn("mara")
	home := b.screen
	b.stay()
	b.press("Sign out")
	if c := b.cookie(); c == nil || c.MaxAge >= 0 {
		t.Errorf("cookie %+v", c)
	}
	b.screen = home
	b.press("Sign out") // again: no error
	if b.status != http.StatusSeeOther || b.header.Get("Location") != "/sign-in?why=out" {
		t.Errorf("again: %d %s", b.status, b.header.Get("Location"))
	}
}

// A form that comes after the session is over says so; a page that is opened asks to sign in, and no more.
func TestSignIn_SaysWhyAfterAForm(t *testing.T) {
	s := newSite(t)
	b := s.browser()
	b.post("/connected-apps/revoke", url.Values{"grant": {"x"}}, s.url)
	b.sees(200, "Sign in", "You were signed out. Nothing was changed.")
	if _, values := b.form("Sign in"); values.Get("next") != "/connected-apps" {
		t.Errorf("leads to %q", values.Get("next"))
	}
	b.open("/connected-apps")
	b.sees(200, "Sign in")
	if strings.Contains(b.body, "signed out") {
		t.Error("somebody who was not signed in is told so")
	}
}

func TestSession_SuspendedAccount(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b := s.browser()
	b.open("/connected-apps")
	b.signIn("mara")
	if err := s.server.SuspendUser(context.Background(), system, "mara"); err != nil {
		t.Fatal(err)
	}
	b.open("/connected-apps")
	b.sees(200, "Sign in") // the session ended with it
	b.signIn("mara")
	b.sees(http.StatusForbidden, "This account is suspended", "Use another account")
}

// Who forgot his password is given another: whoever was signed in is out, nobody gets in by the
// one of before, and the owner does at once, though he guessed himself out. His apps stay connected.
func TestSetPassword_ThroughThePages(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	b, elsewhere := s.browser(), s.browser()
	app := s.app("Shelfmate", "stores.view")
	b.allowed(app, "mara", nil, "mara-1")
	elsewhere.open("/sign-in")
	signIn := func(password string) {
		elsewhere.post("/sign-in", url.Values{"email": {"mara@nordlicht.example"}, "password": {password}, "next": {"/connected-apps"}}, s.url)
	}
	for range 5 {
		signIn("a wrong guess")
	}
	signIn(password)
	elsewhere.sees(http.StatusTooManyRequests, "Too many tries.")
	b.open("/connected-apps")
	b.sees(200, "Shelfmate")
	const fresh = "another horse battery"
	if _, err := s.portal.people.SetPassword(context.Background(), oauth.Actor{Kind: oauth.AsCommand}, "mara", fresh); err != nil {
		t.Fatal(err)
	}
	b.post("/connected-apps/sign-out", nil, s.url) // a form of before
	b.sees(200, "You were signed out")
	b.open("/connected-apps")
	if b.sees(200, "Sign in"); strings.Contains(b.body, "Shelfmate") {
		t.Error("still signed in")
	}
	signIn(password)
	elsewhere.sees(http.StatusUnprocessableEntity, "We could not sign you in. Check the e-mail and password.")
	signIn(fresh)
	elsewhere.sees(200, "Shelfmate")
}

// Who fears that somebody else is signed in puts everybody out, also himself. Whatever
// other people have, and what apps may do, stays.
func TestSignOutEverywhere(t *testing.T) {
	s := newSite(t)
	s.user("mara", 1)
	s.user("otto", 1)
	b, thief, other := s.browser(), s.browser(), s.browser()
	b.allowed(s.app("Shelfmate", "stores.view"), "mara", nil, "mara-1")
	thief.open("/connected-apps")
	thief.signIn("mara")
	other.open("/connected-apps")
	other.signIn("otto")
	b.open("/connected-apps")
	b.sees(200, "Shelfmate", "Sign out everywhere", "Ends every sign-in to this account")
	b.post("/connected-apps/sign-out", nil, "https://evil.example")
	b.sees(http.StatusForbidden)
	thief.open("/connected-apps")
	thief.sees(200, "Shelfmate")
	b.open("/connected-apps")
	b.press("Sign out everywhere")
	b.sees(200, "Sign in", "You are signed out, on every device.")
	for _, who := range []*browser{b, thief} {
		who.open("/connected-apps")
		if who.sees(200, "Sign in"); strings.Contains(who.body, "Shelfmate") {
			t.Error("still signed in")
		}
	}
	thief.post("/connected-apps/sign-out", nil, s.url) // a form of before
	thief.sees(200, "You were signed out")
	other.open("/connected-apps")
	other.sees(200, "Connected apps")
	b.open("/connected-apps")
	b.signIn("mara")
	b.sees(200, "Shelfmate")
}
