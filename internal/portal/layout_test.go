package portal

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdp "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// patience is how long a test waits for Chromium, which starts and answers when the machine lets it.
const patience = 2 * time.Minute

// tab is a tab of a real Chromium on the previews: /PREVIEW, or /PREVIEW?language=de.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string
}

func openTab(t *testing.T) *tab {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		if os.Getenv("TEST_GRANTWAY_ALL") != "" {
			t.Fatal("Chromium is missing: install Debian's package chromium")
		}
		t.Skip("LEFT OUT: no page is laid out by a real browser, because Debian's package chromium is not installed")
	}
	render := sampleRenderer(t, shop)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			render.assets.ServeHTTP(w, r)
			return
		}
		language := r.URL.Query().Get("language")
		if language == "" {
			language = "en"
		}
		for _, p := range previews(language) {
			if "/"+p.name == r.URL.Path {
				r.Header.Set("Accept-Language", language)
				render.render(w, r, http.StatusOK, p.page)
				return
			}
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.WSURLReadTimeout(patience), chromedp.Flag("no-sandbox", true), chromedp.Flag("disable-gpu", true))
	parent, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // a tab lives as long as the context it began with
		t.Fatal(err)
	}
	return &tab{t, ctx, server.URL}
}

// open shows a preview in a window of this width.
func (p *tab) open(preview, scheme string, width int64) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
		p.t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900), chromedp.Navigate(p.url+"/"+preview)); err != nil {
		p.t.Fatal(preview, err)
	}
}

// read evaluates an expression of JavaScript on the page.
func read[T any](p *tab, script string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		p.t.Fatal(script, err)
	}
	return v
}

// TestLayout_Targets: links in tables can be hit (WCAG 2.2, 2.5.8), a list of stores scrolls with the page on a phone, and
// links in notices are as readable as the words around them.
func TestLayout_Targets(t *testing.T) {
	p := openTab(t)
	p.open("operator-users", "light", 360)
	if least := read[float64](p, `Math.min(...[...document.querySelectorAll(".links a")].map(a => a.getBoundingClientRect().height))`); least < 24 {
		t.Errorf("a link is %.1f px high", least)
	}
	for width, inner := range map[int64]bool{360: false, 519: false, 768: true} {
		p.open("consent-40", "light", width)
		if got := read[bool](p, `(e => e.scrollHeight > e.clientHeight + 1)(document.querySelector(".stores.long"))`); got != inner {
			t.Errorf("at %d px the list scrolls by itself: %v", width, got)
		}
	}
	p.open("developer-wrong", "dark", 768)
	if got := read[[]string](p, `[...document.querySelectorAll(".notice.bad, .notice.bad a")].map(e => getComputedStyle(e).color)`); len(got) < 2 || got[1] != got[0] {
		t.Errorf("a link in the notice is %v, and the words around it %v", got[1:], got[:1])
	}
	p.open("consent-again", "light", 360) // the words of a disclosure stand beside its arrow
	if indent := read[float64](p, `(s => {
		const words = document.createRange();
		words.selectNodeContents(s);
		return words.getBoundingClientRect().left - s.getBoundingClientRect().left;
	})(document.querySelector(".can > details > summary"))`); indent < 7 {
		t.Errorf("the words of a disclosure stand %.0f px from its edge, below the arrow", indent)
	}
	p.open("consent-1", "light", 768) // the app's name stands out of its sentence
	if got := read[[]float64](p, `[".ask h1", ".ask h1 strong"].map(s => Number(getComputedStyle(document.querySelector(s)).fontWeight))`); got[1] < got[0]+200 {
		t.Errorf("weights of the question and of the name: %v", got)
	}
}

// TestLayout_TickAllAndUntickAll: with a script, each stands there while it would do something, and the keyboard stays
// on one of them.
func TestLayout_TickAllAndUntickAll(t *testing.T) {
	p := openTab(t)
	p.open("consent-3", "light", 360)
	const state = `[...document.querySelectorAll("#stores input:checked")].length + " ticked, " +
		[...document.querySelectorAll("button[data-tick]")].filter(b => b.checkVisibility()).map(b => b.value) + ", " +
		document.getElementById("stores-hint").textContent + ", on " + (document.activeElement.value || "no button")`
	for _, step := range []struct{ do, want string }{
		{`0`, "0 ticked, all, 0 of 3 ticked, on no button"},
		{`{const b = document.querySelector("button[value=all]"); b.focus(); b.click()}`, "3 ticked, none, 3 of 3 ticked, on none"},
		{`document.querySelector("button[value=none]").click()`, "0 ticked, all, 0 of 3 ticked, on all"},
		{`document.querySelector("#stores input").click()`, "1 ticked, all,none, 1 of 3 ticked, on all"},
	} {
		if got := read[string](p, step.do+";"+state); got != step.want {
			t.Errorf("%s: %s, want %s", step.do, got, step.want)
		}
	}
}

// TestLayout_TheOnlyStore: that the app gets it is said while it is ticked.
func TestLayout_TheOnlyStore(t *testing.T) {
	p := openTab(t)
	p.open("consent-1", "light", 360)
	for _, step := range []struct{ do, want string }{
		{`0`, "The app gets access to this store."},
		{`document.querySelector("#stores input").click()`, "0 of 1 ticked"},
		{`document.querySelector("#stores input").click()`, "The app gets access to this store."},
	} {
		if got := read[string](p, step.do+`;document.getElementById("stores-hint").textContent`); got != step.want {
			t.Errorf("%s: %q, want %q", step.do, got, step.want)
		}
	}
}

// TestLayout_FormsAreSentOnce: the second press of a double click is dropped, and a form that was stopped on its way can be
// sent again.
func TestLayout_FormsAreSentOnce(t *testing.T) {
	p := openTab(t)
	for _, name := range []string{"sign-in", "sign-up-errors", "connected", "operator-users", "developer-new"} {
		p.open(name, "light", 768)
		got := read[string](p, `(() => {
			let sent = 0, later = [];
			window.setTimeout = f => later.push(f);
			addEventListener("submit", event => {
				if (!event.defaultPrevented) sent++;
				event.preventDefault();
			});
			const forms = [...document.querySelectorAll("form[method=post]:not([action='/sign-out'])")];
			return [...new Set(forms.map(form => {
				const count = () => { sent = 0; form.requestSubmit(); form.requestSubmit(); return sent; };
				const first = count();
				later.splice(0).forEach(f => f());
				return first + " " + count();
			}))].join();
		})()`)
		if got != "1 1" {
			t.Errorf("%s: presses that are sent, and those after a while: %s", name, got)
		}
	}
}

// TestLayout_AllowWaits_B13: with a script, Allow does nothing until the page has been in view for half a second, neither
// when it is first shown nor when its window comes to the front, so that the second press of a double click on another page
// decides nothing. Then it does, and nothing has moved.
func TestLayout_AllowWaits_B13(t *testing.T) {
	p := openTab(t)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	// The script of the page has run by then. A form that is sent is counted, and stays.
	early := cdp.AddScriptToEvaluateOnNewDocumentParams{Source: `addEventListener("DOMContentLoaded", () => {
		window.sent = 0;
		window.allow = document.querySelector("button[value=allow]");
		window.place = () => JSON.stringify(allow.getBoundingClientRect());
		window.began = performance.now();
		window.ready = new Promise(done => new MutationObserver(() => {
			if (!allow.hasAttribute("aria-disabled")) done(performance.now() - began);
		}).observe(allow, {attributes: true}));
		addEventListener("submit", event => {
			if (!event.defaultPrevented) sent++;
			event.preventDefault();
		});
		window.before = place();
		allow.click();
		window.soon = sent;
	})`}
	if _, err := chromedp.Call(ctx, cdp.AddScriptToEvaluateOnNewDocument, early); err != nil {
		t.Fatal(err)
	}
	p.open("consent-3", "light", 768)
	if sent := read[int](p, "soon"); sent != 0 {
		t.Error("a press on the page as it comes up is sent")
	}
	wait := func(script string) float64 {
		t.Helper()
		after, err := chromedp.Run(ctx, chromedp.Evaluate[float64](script, chromedp.EvalAwaitPromise))
		if err != nil {
			t.Fatal(err)
		}
		return after
	}
	if after := wait("ready"); after < 490 { // the clock is coarse
		t.Errorf("ready %.0f ms after the page was there", after)
	}
	if moved := read[bool](p, "place() != before"); moved {
		t.Error("Allow moves when it is ready")
	}
	// Each line is one task of the browser: no time passes within it.
	for what, comesBack := range map[string]string{
		"focus":             `dispatchEvent(new Event("focus"))`,
		"page shown again":  `dispatchEvent(new Event("pageshow"))`,
		"tab shown again":   `document.dispatchEvent(new Event("visibilitychange"))`,
		"press before any":  `dispatchEvent(new Event("blur")); allow.click()`,
		"focus, then shown": `dispatchEvent(new Event("blur")); dispatchEvent(new Event("focus")); document.dispatchEvent(new Event("visibilitychange"))`,
	} {
		after := wait(`new Promise(done => {
			const began = performance.now();
			new MutationObserver((_, seen) => {
				if (allow.hasAttribute("aria-disabled")) return;
				seen.disconnect();
				done(sent ? -1 : performance.now() - began);
			}).observe(allow, {attributes: true});
			sent = 0; ` + comesBack + `; allow.click();
		})`)
		if after < 490 { // the clock is coarse
			t.Errorf("%s: ready after %.0f ms (-1: a press was sent)", what, after)
		}
	}
	if sent := read[int](p, "allow.click(); allow.click(); sent"); sent != 1 {
		t.Errorf("then two presses are sent %d times", sent)
	}
}

// TestLayout_NamesInTablesStayReadable: whatever the width, a name of 60 characters and more has room, and no page is
// wider than its window.
func TestLayout_NamesInTablesStayReadable(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"developer-apps", "operator-apps", "operator-users", "operator-stores", "operator-grants"} {
		for _, width := range []int64{360, 768, 900, 1024, 1100} {
			p.open(preview, "light", width)
			if narrowest := read[float64](p, `Math.min(...[...document.querySelectorAll("tbody th.lead")].map(th => {
				const style = getComputedStyle(th);
				return th.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
			}))`); narrowest < 140 {
				t.Errorf("%s at %d px: a name has %.0f px", preview, width, narrowest)
			}
			if wide := read[[]string](p, `[document.documentElement, ...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).map(e => e.className || e.tagName)`); len(wide) > 0 {
				t.Errorf("%s at %d px: too wide: %v", preview, width, wide)
			}
		}
	}
}

// TestLayout_BadgesStandOnOneLine in tables that have room for them.
func TestLayout_BadgesStandOnOneLine(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"operator-apps", "operator-apps?language=de", "developer-apps", "operator-users"} {
		for _, width := range []int64{1100, 1280} {
			p.open(preview, "light", width)
			if broken := read[[]string](p, `[...document.querySelectorAll("td .badge")].filter(e => e.getBoundingClientRect().height > 30).map(e => e.textContent)`); len(broken) > 0 {
				t.Errorf("%s at %d px: %q", preview, width, broken)
			}
		}
	}
}

// TestLayout_WhereOneIs: the entry of the page that stands open is in sight, however narrow the window and long the words.
func TestLayout_WhereOneIs(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"operator-followers", "operator-events", "developer-apps", "operator-followers?language=de", "operator-followers?language=ar"} {
		for _, width := range []int64{360, 768, 1280} {
			p.open(preview, "light", width)
			if seen := read[bool](p, `(r => r.width > 0 && r.left >= 0 && r.right <= innerWidth)(document.querySelector(".rail [aria-current]").getBoundingClientRect())`); !seen {
				t.Errorf("%s at %d px: the current entry is out of sight", preview, width)
			}
		}
	}
}

// TestLayout_ChangePagesFit: the pages on which connections are changed are never wider than the window, what can be
// pressed on them can be hit, and Save is in sight.
func TestLayout_ChangePagesFit(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"change", "change-conflict", "change-store", "others", "others-remove", "connected-changed", "change?language=de", "change?language=ar"} {
		for _, width := range []int64{360, 768} {
			p.open(preview, "light", width)
			if over := read[float64](p, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
				t.Errorf("%s at %d px is %.0f px too wide", preview, width, over)
			}
			if small := read[[]string](p, `[...document.querySelectorAll("main .chip a, main a.button, main button:not(.hidden):not(.plain-link)")].filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.textContent)`); len(small) > 0 {
				t.Errorf("%s at %d px: too low to hit: %q", preview, width, small)
			}
			if seen := read[bool](p, `[...document.querySelectorAll("[name=save]")].every(e => e.getBoundingClientRect().bottom <= innerHeight)`); !seen {
				t.Errorf("%s at %d px: Save is out of sight", preview, width)
			}
		}
	}
}

// TestLayout_AMistakeIsInSight: the page that says a typed name is wrong comes up where it says so, with the cursor there.
// Its app has a hundred permissions above that.
func TestLayout_AMistakeIsInSight(t *testing.T) {
	p := openTab(t)
	p.open("developer-app-public", "light", 768)
	_, fragment, _ := strings.Cut(read[string](p, `document.querySelector(".danger form").getAttribute("action")`), "#")
	p.open("developer-app-public?answer#"+fragment, "light", 768)
	if got := read[string](p, `document.activeElement.id + " " + [...document.querySelectorAll("#typed, #typed-error")].map(e => {
		const r = e.getBoundingClientRect();
		return r.top >= 0 && r.bottom <= innerHeight;
	})`); got != "typed true,true" {
		t.Errorf("with the cursor in and in sight: %s", got)
	}
}

// TestLayout_NothingSpills: whatever the words, each stands within the box that it is in, on a phone and on a desk.
func TestLayout_NothingSpills(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"consent-word", "expired-word", "developer-new", "developer-new?language=de", "developer-app", "developer-app?language=de", "developer-app-public", "operator-apps?language=de", "lost?language=de"} {
		for _, width := range []int64{320, 360, 1280} {
			p.open(preview, "light", width)
			if over := read[[]string](p, `(() => {
				document.querySelectorAll("details").forEach(e => { e.open = true; });
				const spills = [];
				for (const e of document.querySelectorAll("main :is(p, li, dd, dt, td, th, span, time, bdi, a, button, code, legend, h1, h2, h3)")) {
					const box = e.closest(".card, .scroll, .picker, .samples, .lines, .notice") || document.querySelector("main");
					if (!e.checkVisibility() || e.closest(".hidden, pre, thead")) continue;
					if (e.getBoundingClientRect().right > box.getBoundingClientRect().right + 0.5 || e.matches("time") && e.scrollWidth > e.clientWidth) spills.push(e.tagName + " " + e.textContent.slice(0, 30));
				}
				return spills;
			})()`); len(over) > 0 {
				t.Errorf("%s at %d px: %q", preview, width, over)
			}
		}
	}
}

// TestLayout_ATurnOfTheListStaysThere: what the buttons of a long list of stores answer with comes up at the list, with what
// is wrong, if something is.
func TestLayout_ATurnOfTheListStaysThere(t *testing.T) {
	p := openTab(t)
	for preview, first := range map[string]string{"consent-5000": "legend", "consent-no-tick": "legend, #stores-error", "change-conflict": ".notice"} {
		p.open(preview, "light", 360)
		_, fragment, _ := strings.Cut(read[string](p, `document.querySelector("button.main").form.getAttribute("action")`), "#")
		p.open(preview+"?answer#"+fragment, "light", 360)
		if got := read[string](p, `scrollY > 0 && [...document.querySelectorAll(`+strconv.Quote(first)+`)].map(e => e.getBoundingClientRect()).every(r => r.top >= 0 && r.bottom < 400) ? "" : "scrolled by " + scrollY`); got != "" {
			t.Errorf("%s: %s is out of sight: %s", preview, first, got)
		}
	}
	p.open("consent-word", "light", 360)
	if read[bool](p, `document.querySelector("button[data-tick]") !== null`) {
		t.Error("there is nothing to tick, and buttons that do it")
	}
}

// TestLayout_TheBarHidesNoFocus: whatever the keyboard comes to stands above the bar with Allow, or Save.
func TestLayout_TheBarHidesNoFocus(t *testing.T) {
	p := openTab(t)
	for _, preview := range []string{"consent-scopes", "consent-40", "change"} {
		for _, width := range []int64{360, 768} {
			p.open(preview, "light", width)
			if hidden := read[[]string](p, `(() => {
				const bar = document.querySelector(".decide"), hidden = [];
				for (const e of document.querySelectorAll("main :is(a, button, input, summary)")) {
					if (e.closest(".decide, .hidden, .stores.long") || e.matches(".hidden, [type=hidden]") || !e.checkVisibility()) continue;
					e.focus();
					if (e.getBoundingClientRect().bottom > bar.getBoundingClientRect().top - 8) hidden.push(e.textContent || e.value);
				}
				return hidden;
			})()`); len(hidden) > 0 {
				t.Errorf("%s at %d px: under the bar: %q", preview, width, hidden)
			}
		}
	}
}
