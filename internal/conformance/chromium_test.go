package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"

	"github.com/grantway/grantway/internal/storagetest"
)

// tab is a tab of a real Chromium, with the complaints of its console.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

// chromium opens a tab. Every step may take ten seconds.
func chromium(t *testing.T) *tab {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		if storagetest.All() {
			t.Fatal("Chromium is missing: install Debian's package chromium")
		}
		t.Skip("LEFT OUT: no test in a real browser, because Debian's package chromium is not installed")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.Flag("no-sandbox", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.WindowSize(1024, 900))
	parent, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*log.EventEntryAdded); ok && e.Entry.Level == log.EntryLevelError {
			p.mu.Lock()
			p.complaints = append(p.complaints, e.Entry.Text)
			p.mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.Navigate("about:blank"))
	return p
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	err := chromedp.Do(ctx, steps...)
	// A page that is being left may be found and then be gone. Nothing was done to it.
	for err != nil && strings.Contains(err.Error(), "Could not find node with given id") && ctx.Err() == nil {
		err = chromedp.Do(ctx, steps...)
	}
	if err != nil {
		where, _ := chromedp.Run(p.ctx, chromedp.Location())
		text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
		p.t.Fatalf("%v\nat %s\n%s", err, where, text)
	}
}

func (p *tab) open(url string) { p.t.Helper(); p.do(chromedp.Navigate(url)) }

// openUntil opens a page again until it shows what a change has to bring it within 850 ms.
func (p *tab) openUntil(url string, shows func() bool) {
	for changed := time.Now(); ; {
		late := time.Since(changed) > 850*time.Millisecond
		if p.open(url); late || shows() {
			return
		}
	}
}

// press clicks the button or link with this text, as a person would.
func (p *tab) press(text string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.Search(fmt.Sprintf(`//*[self::button or self::a][normalize-space(.)=%q][not(@aria-disabled)]`, text)), chromedp.NodeVisible))
}

func (p *tab) fill(kind, value string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS("input[type="+kind+"]"), value))
}

func (p *tab) tick(value string) {
	p.t.Helper()
	p.do(chromedp.Click(chromedp.CSS(`input[type=checkbox][value="` + value + `"]`)))
}

// heading waits until the page has this heading.
func (p *tab) heading(text string) {
	p.t.Helper()
	p.do(chromedp.WaitVisible(chromedp.Search(fmt.Sprintf(`//h1[normalize-space(.)=%q]`, text))))
}

func (p *tab) text(selector string) []string {
	p.t.Helper()
	list, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](fmt.Sprintf("[...document.querySelectorAll(%q)].map(e => e.innerText)", selector)))
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

func (p *tab) location() string {
	p.t.Helper()
	where, err := chromedp.Run(p.ctx, chromedp.Location())
	if err != nil {
		p.t.Fatal(err)
	}
	return where
}

// quiet fails on what the console complained of: a blocked form or style shows
// there and nowhere else.
func (p *tab) quiet() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.complaints {
		if !strings.Contains(c, "favicon") {
			p.t.Errorf("Chromium complains: %s", c)
		}
	}
}

func (p *tab) signIn(who Person) {
	p.t.Helper()
	p.fill("email", who.Email)
	p.fill("password", who.Password)
	p.press("Sign in")
}

// The whole way in a real browser: connect two of three stores, see them in the
// app, revoke, and be refused at the next call.
func TestPages_ClickThrough(t *testing.T) {
	onEachDatabase(t, func(t *testing.T, _ string, d Demo) { clickThrough(t, d) })
}

func clickThrough(t *testing.T, d Demo) {
	p := chromium(t)
	p.open(d.ExampleApp)
	p.press("Connect with Harbour")
	p.signIn(d.User)
	app, _ := d.App("exchange")
	p.heading(app.Name + " wants access to your Harbour account")
	p.tick(d.Stores[0].ID)
	p.tick(d.Stores[2].ID)
	p.press("Allow")
	p.heading("Connected to Harbour")
	if want, got := []string{d.Stores[0].Name, d.Stores[2].Name}, p.text(".stores strong"); !slices.Equal(got, want) {
		t.Errorf("the app shows %q, want %q", got, want)
	}
	if where := p.location(); where != d.ExampleApp+"/" {
		t.Errorf("the way ends at %s", where)
	}

	// The same app once more: it is asked again, and Cancel leaves everything.
	p.press("Change stores")
	p.press("Cancel")
	p.heading("Connected to Harbour")
	if got := p.text("[role=status]"); !slices.Equal(got, []string{"You chose not to connect. Nothing new was shared."}) || len(p.text(".stores strong")) != 2 {
		t.Errorf("after Cancel the app shows %q and the stores %q", got, p.text(".stores strong"))
	}

	p.open(d.Issuer + "/connected-apps")
	p.heading("Connected apps")
	p.press("Revoke")
	p.do(chromedp.WaitVisible(chromedp.CSS("[role=status]")))
	p.openUntil(d.ExampleApp, func() bool { return len(p.text("[role=status]")) == 1 })
	p.heading("Labels printed before the kettle boils")
	if got := p.text("[role=status]"); len(got) != 1 || !strings.Contains(got[0], "401 BadToken") {
		t.Errorf("after Revoke the app shows %q", got)
	}
	p.quiet()
}

// One store taken out of a connection is gone from the app at its next call.
func TestPages_RemoveOneStore(t *testing.T) {
	d := Start(t)
	p := chromium(t)
	p.open(d.ExampleApp)
	p.press("Connect with Harbour")
	p.signIn(d.User)
	p.tick(d.Stores[0].ID)
	p.tick(d.Stores[1].ID)
	p.press("Allow")
	p.heading("Connected to Harbour")
	p.open(d.Issuer + "/connected-apps")
	p.do(chromedp.Click(chromedp.CSS(`form[action$="remove-store"]:has(input[value="` + d.Stores[0].ID + `"]) button`)))
	p.do(chromedp.WaitVisible(chromedp.CSS("[role=status]")))
	p.openUntil(d.ExampleApp, func() bool { return len(p.text(".stores strong")) == 1 })
	p.heading("Connected to Harbour")
	if got := p.text(".stores strong"); !slices.Equal(got, []string{d.Stores[1].Name}) {
		t.Errorf("the app shows %q", got)
	}
	p.quiet()
}

// A user gives an app another store and takes one from it, and the key that the app has follows.
func TestPages_ChangeStores(t *testing.T) {
	d := Start(t)
	p := chromium(t)
	p.open(d.ExampleApp)
	p.press("Connect with Harbour")
	p.signIn(d.User)
	p.tick(d.Stores[0].ID)
	p.press("Allow")
	p.heading("Connected to Harbour")
	p.open(d.Issuer + "/connected-apps")
	p.do(chromedp.Click(chromedp.CSS(`.app-foot a[href*="/connected-apps/change"]`)))
	p.tick(d.Stores[0].ID) // off
	p.tick(d.Stores[1].ID)
	p.press("Save changes")
	p.do(chromedp.WaitVisible(chromedp.CSS("[role=status] .did")))
	said := strings.Join(p.text("[role=status]"), " ")
	for _, want := range []string{"It can now use " + d.Stores[1].Name, "It can no longer use " + d.Stores[0].Name} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not said: %s", want, said)
		}
	}
	p.openUntil(d.ExampleApp, func() bool { return slices.Equal(p.text(".stores strong"), []string{d.Stores[1].Name}) })
	p.heading("Connected to Harbour")
	if got := p.text(".stores strong"); !slices.Equal(got, []string{d.Stores[1].Name}) {
		t.Errorf("the app shows %q", got)
	}
	p.quiet()
}

// The owner of a store sees what somebody who works there connected to it, and takes the store from it.
func TestPages_OwnerTakesAStore(t *testing.T) {
	d := Start(t)
	p, owner := chromium(t), chromium(t)
	p.open(d.ExampleApp)
	p.press("Connect with Harbour")
	p.signIn(d.Developer)
	p.press("Allow") // of the one store in which he works
	p.heading("Connected to Harbour")

	owner.open(d.Issuer + "/connected-apps")
	owner.signIn(d.User)
	owner.press("Apps that other people connected to your stores")
	owner.heading("Apps of other people")
	owner.press("Remove from this store")
	owner.press("Remove")
	owner.do(chromedp.WaitVisible(chromedp.CSS("[role=status]")))
	if got := owner.text("[role=status]"); len(got) != 1 || !strings.Contains(got[0], "That connection cannot use "+d.Stores[0].Name) {
		t.Errorf("the owner is told %q", got)
	}
	p.openUntil(d.ExampleApp, func() bool { return len(p.text(".stores strong")) == 0 })
	if got := p.text("[role=status]"); len(got) != 1 || !strings.Contains(got[0], "403 AccessDenied") || len(p.text(".stores strong")) != 0 {
		t.Errorf("the app shows %q and the stores %q", got, p.text(".stores strong"))
	}
	p.quiet()
	owner.quiet()
}

// A developer signs up, makes an app, sees id and secret once.
func TestPages_DeveloperMakesAnApp(t *testing.T) {
	d := Start(t)
	p := chromium(t)
	p.open(d.Issuer + "/sign-up?next=/developer")
	p.fill("email", "ida@shoptools.example")
	p.fill("password", "a long way to tipperary")
	p.press("Create account")
	p.press("Create an app")
	p.do(chromedp.SendKeys(chromedp.CSS("input[name=name]"), "Shop Tools"))
	p.do(chromedp.SendKeys(chromedp.CSS("[name=redirect_uri]"), "https://shoptools.example/callback"))
	p.do(chromedp.Click(chromedp.CSS(`[name=kind][value=exchange]`)))
	p.do(chromedp.Click(chromedp.CSS(`details:has([name="scope:stores.view"]) > summary`)))
	p.do(chromedp.Click(chromedp.CSS(`label:has([name="scope:stores.view"][value=required])`), chromedp.NodeVisible))
	p.press("Create app")
	p.do(chromedp.WaitVisible(chromedp.CSS(".the-secret")))
	body := strings.Join(p.text("main"), "\n")
	if !uuidPattern.MatchString(body) || !secretPattern.MatchString(body) {
		t.Errorf("id and secret of 72 characters are not on the page:\n%s", body)
	}
	p.do(chromedp.Click(chromedp.CSS("main p > a.main")))
	p.heading("Shop Tools")
	if secretPattern.MatchString(strings.Join(p.text("main"), "\n")) {
		t.Error("the secret is shown a second time")
	}
	p.quiet()
}

// TestPages_FormActionInChromium shows the facts on which DESIGN, decision 11
// rests, with the policy that our own pages carry: Chromium applies form-action to
// the whole redirect chain after a form, so no form may end in a redirect that
// leaves the origin, and a 200 page with a refresh is the way out.
func TestPages_FormActionInChromium(t *testing.T) {
	d := Start(t)
	resp, err := http.Get(d.Issuer + "/sign-in")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "form-action 'self'") {
		t.Fatalf("the policy of our pages is %q", policy)
	}
	p := chromium(t)

	third := httptest.NewServer(say("third"))
	t.Cleanup(third.Close)
	app := http.NewServeMux()
	app.Handle("/plain", say("app"))
	app.Handle("/onwards", redirect(third.URL+"/"))
	appServer := httptest.NewServer(app)
	t.Cleanup(appServer.Close)

	rows := []struct {
		name   string
		action string // of form-action
		post   http.Handler
		next   http.Handler // at /next
		want   string       // the page that is reached
	}{
		{"self, POST to 303 to the app", "'self'", redirect(appServer.URL + "/plain"), nil, "form"},
		{"the app's origin added", "'self' " + appServer.URL, redirect(appServer.URL + "/plain"), nil, "app"},
		{"sign-in: POST to 303 to own authorize to 303 to the app", "'self'", redirect("/next"), redirect(appServer.URL + "/plain"), "form"},
		{"the app's origin added, and the app goes on to a third", "'self' " + appServer.URL, redirect(appServer.URL + "/onwards"), nil, "form"},
		{"self, POST to a page with a refresh", "'self'", refresh(appServer.URL + "/plain"), nil, "app"},
		{"the same, and the app goes on to a third", "'self'", refresh(appServer.URL + "/onwards"), nil, "third"},
		{"self, POST to 303 to own page with a refresh", "'self'", redirect("/next"), refresh(appServer.URL + "/plain"), "app"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			ours := http.NewServeMux()
			ours.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Security-Policy", strings.Replace(policy, "form-action 'self'", "form-action "+row.action, 1))
				fmt.Fprint(w, "<!doctype html><title>form</title><form method=post action=/post><button>Go</button></form>")
			})
			ours.Handle("POST /post", row.post)
			if row.next != nil {
				ours.Handle("GET /next", row.next)
			}
			server := httptest.NewServer(ours)
			defer server.Close()
			p := &tab{t: t, ctx: p.ctx}
			p.open(server.URL + "/")
			p.press("Go")
			if got := p.settle(row.want); got != row.want {
				t.Errorf("Chromium ends at the page %q, want %q", got, row.want)
			}
		})
	}
}

// settle returns the title of the page where the browser comes to rest. A blocked
// form leaves no event to wait for, so "form" is taken as the end only after the
// others have had time to come.
func (p *tab) settle(want string) string {
	p.t.Helper()
	limit := 20 * time.Second
	if want == "form" {
		limit = 1500 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	err := chromedp.Do(ctx, chromedp.WaitReady(chromedp.CSS("main#app, main#third")))
	if want == "form" && errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	if err != nil && want == "form" {
		p.t.Fatal(err)
	}
	title, err := chromedp.Run(p.ctx, chromedp.Title())
	if err != nil {
		p.t.Fatal(err)
	}
	return title
}

func say(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<!doctype html><title>%s</title><main id=%s>%s</main>", name, name, name)
	})
}

func redirect(to string) http.Handler { return http.RedirectHandler(to, http.StatusSeeOther) }

func refresh(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>returning</title><meta http-equiv=refresh content="0; url=%s"><a href="%s">Continue</a>`, to, to)
	})
}

var (
	uuidPattern   = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	secretPattern = regexp.MustCompile(`(^|[^A-Za-z0-9_-])[A-Za-z0-9_-]{72}($|[^A-Za-z0-9_-])`)
)
