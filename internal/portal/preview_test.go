package portal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/grantway/grantway/internal/oauth"
)

var (
	noon = time.Date(2026, time.November, 22, 14, 5, 0, 0, time.UTC)
	shop = Brand{Name: "Kaufhaus", Accent: "#0b5a7a", Support: "mailto:help@kaufhaus.example",
		Privacy: "https://kaufhaus.example/privacy", Terms: "https://kaufhaus.example/terms"}
)

// preview is one state of one page.
type preview struct {
	name string
	page page
}

// registered is a Redirect to an address that an app registered just so.
func registered(uri string) oauth.Redirect {
	redirect, _ := (&oauth.Client{Redirects: []oauth.RedirectURI{oauth.RedirectURI(uri)}}).RedirectTo(uri)
	return redirect
}

// longWord is as long as a name may be, without a place to break it.
const longWord = "Donaudampfschifffahrtsgesellschaftskapitänsmützenverkäuferxy"

const longName = "Warenwirtschaftsanbindungsverwaltung für Großhandelsgesellschaften & Söhne GmbH"

func sampleStores(n int) []storeRow {
	names := []string{"Nordlicht Keramik", "Nordlicht Outlet", "Atelier am Hafen", "Tee & Gewürze Lindner"}
	var rows []storeRow
	for i := range n {
		row := storeRow{ID: fmt.Sprintf("s%d", i+1), Name: names[i%len(names)], Domain: fmt.Sprintf("shop-%d.example", i+1)}
		if i >= len(names) {
			row.Name = fmt.Sprintf("%s %d", row.Name, i+1)
		}
		rows = append(rows, row)
	}
	return rows
}

func sampleScopes(language string) []askedScope {
	say := map[string][]string{
		"en": {"See your store’s name, address and settings", "See your products and stock", "See your orders", "Change products, prices and stock", "Refund orders"},
		"de": {"Name, Adresse und Einstellungen Ihres Shops sehen", "Produkte und Bestände sehen", "Bestellungen sehen", "Produkte, Preise und Bestände ändern", "Bestellungen erstatten"},
		"ar": {"الاطلاع على اسم متجرك وعنوانه", "الاطلاع على المنتجات والمخزون", "الاطلاع على الطلبات", "تغيير المنتجات والأسعار", "رد أموال الطلبات"},
	}[language]
	return []askedScope{
		{scopeView{Name: "stores.view", Sentence: say[0]}, "Store", false},
		{scopeView{Name: "stores.products.view", Sentence: say[1]}, "Products", false},
		{scopeView{Name: "stores.orders.view", Sentence: say[2], Risks: []string{"customers"}}, "Orders", false},
		{scopeView{Name: "stores.products.update", Sentence: say[3]}, "Products", true},
		{scopeView{Name: "stores.orders.refund", Sentence: say[4], Risks: []string{"money"}}, "Orders", true},
	}
}

func manyScopes() []askedScope {
	var out []askedScope
	for _, group := range []string{"Store", "Products", "Orders", "Customers", "Marketing", "Tickets"} {
		for _, verb := range []string{"See", "Create", "Update", "Delete"} {
			s := askedScope{scopeView{Name: group + verb, Sentence: verb + " what belongs to " + strings.ToLower(group)}, group, verb != "See"}
			if verb == "Delete" {
				s.Risks = []string{"deletion"}
			}
			out = append(out, s)
		}
		out = append(out, askedScope{scopeView{Name: group + "x", Sentence: "See the figures of " + strings.ToLower(group)}, group, false})
	}
	return out
}

func sampleConsent(language string, stores int, p pick) consentView {
	v := consentView{
		App: newAppView("7d0c6a8e", "Shelfmate", "shelfmate.example", "verified"), Request: "sealed", Next: "/auth/authorize?client_id=7d0c6a8e", Account: "mara@nordlicht.example",
		Sections: sections(sampleScopes(language)), Host: "app.shelfmate.example",
		Privacy: "https://shelfmate.example/privacy", Terms: "https://shelfmate.example/terms",
	}
	if stores > 0 {
		v.Picker = newPicker(sampleStores(stores), p)
	}
	return v
}

func previews(language string) []preview {
	consent := func(name string, v consentView) preview {
		return preview{"consent-" + name, page{Name: "consent", TitleOf: []any{"App", v.App.Name}, Frame: framePlain, Body: v}}
	}
	account := &accountView{Email: "mara@nordlicht.example"}

	hostile := sampleConsent(language, 3, pick{})
	hostile.App = newAppView("9", "<script>alert(1)</script><b>", "evil.example", "unverified")
	long := sampleConsent(language, 3, pick{})
	long.App = newAppView("4", longName, "sehr-langer-name.warenwirtschaft-anbindung.example", "verified")
	long.Account = "buchhaltung-und-einkauf@warenwirtschaftsanbindungsverwaltung.example"
	long.Picker = newPicker([]storeRow{{ID: "a", Name: longName, Domain: "sehr-langer-name.warenwirtschaft-anbindung.example"}, {ID: "b", Name: "متجر الأواني", Domain: "pottery.example"}, {ID: "c", Name: "Atelier am Hafen", Reason: "reason.not_yours"}}, pick{})
	word := sampleConsent(language, 40, pick{Query: "zzz"})
	word.App = newAppView("5", longWord, "", "unverified")
	none := sampleConsent(language, 3, pick{})
	none.Problem = "problem.no_store"
	account1 := sampleConsent(language, 0, pick{})
	wide := sampleConsent(language, 3, pick{Ticked: []string{"s1", "s3"}})
	wide.Sections = sections(manyScopes())
	wide.Optional = []scopeView{{Name: "o1", Sentence: "See your customers’ names and addresses", Risks: []string{"customers"}}, {Name: "o2", Sentence: "Delete coupons", Risks: []string{"deletion"}, Ticked: true}}
	again := sampleConsent(language, 3, pick{Ticked: []string{"s1"}})
	stays := sampleStores(4)
	stays[2].Reason, stays[2].Note = "reason.not_yours", "stores.has"
	again.Picker = newPicker(stays, pick{Ticked: []string{"s1"}})
	again.Picker.Later = "stores.every_mine"
	again.Sections, again.Held, again.HeldCount = sections(sampleScopes(language)[3:]), sections(sampleScopes(language)[:3]), 3
	again.Days = 180
	again.Optional = []scopeView{{Name: "o1", Sentence: sampleScopes(language)[2].Sentence, Risks: []string{"customers"}, Partly: true}}
	again.Picker.Rows[0].Note = "stores.has"
	all := sampleConsent(language, 3, pick{Ticked: []string{"s1", "s3"}, But: true})
	all.Picker.Every = true
	one := sampleConsent(language, 1, pick{Ticked: []string{"s1"}})

	shelfmate := newAppView("7d0c6a8e", "Shelfmate", "shelfmate.example", "verified")
	chips := func(n int) (out []storeChip) {
		for _, s := range sampleStores(n) {
			out = append(out, storeChip{s.ID, s.Name})
		}
		return out
	}
	apps := []connectedApp{
		{Grant: "g1", App: shelfmate, Stores: chips(2), Sections: sections(sampleScopes(language)), Since: noon.AddDate(0, -2, 0), LastUsed: noon.Add(-26 * time.Hour), Keys: 1},
		{Grant: "g2", App: newAppView("4", longName, "warenwirtschaft.example", "unverified"), Stores: chips(40), Sections: sections(manyScopes()), Since: noon.AddDate(-1, 0, 0), LastUsed: noon.AddDate(0, -5, 0), Stale: true, Keys: 12},
		{Grant: "g3", App: newAppView("9", "<b>", "", ""), Sections: sections(sampleScopes(language)[:1]), Since: noon},
		{Grant: "g4", App: newAppView("12", "Ledger Line", "ledger.example", "suspended"), Stores: chips(1), Alone: true, Sections: sections(sampleScopes(language)[2:3]), Since: noon, Paused: true, Keys: 3},
	}
	for i := range apps {
		apps[i].fold()
	}
	every := connectedApp{Grant: "g5", App: newAppView("21", "Tidy Taxes", "tidy.example", "verified"), AllStores: true, But: true, Stores: chips(2), Sections: sections(sampleScopes(language)[:2]), Since: noon, Keys: 1}
	edited := &doneView{ID: "done.changed", App: "Shelfmate", Lines: []doneLine{{"done.added", "Atelier am Hafen", ""}, {"done.left", longName, ""}, {"done.dropped", "", sampleScopes(language)[4].Sentence}, {"done.more", "", ""}}}

	change := changeView{App: shelfmate, Grant: "g1", Rev: "7", Picker: newPicker(sampleStores(3), pick{Ticked: []string{"s1", "s2"}}), Fixed: sections(sampleScopes(language)[:2]), Each: chips(2)}
	change.Picker.Later, change.NoStore = "stores.later", true
	for _, s := range sampleScopes(language)[2:4] {
		s.Ticked = true
		change.Optional = append(change.Optional, s.scopeView)
	}
	change.Mixed = []mixedScope{{scopeView: sampleScopes(language)[4].scopeView, Field: mixed("stores.orders.refund"), In: 1, Of: 2, Choice: "stay"}}
	conflict := change
	conflict.App, conflict.Problem, conflict.Picker = newAppView("4", longName, "warenwirtschaft.example", "unverified"), "change.conflict", newPicker(append(sampleStores(14),
		storeRow{ID: "x", Name: longName, Domain: "sehr-langer-name.warenwirtschaft-anbindung.example"}, storeRow{ID: "y", Name: "Atelier Süd", Reason: "reason.not_yours"}), pick{Ticked: []string{"s1", "x"}})
	conflict.Picker.Later, conflict.Picker.Rows[0].Note, conflict.Picker.Rows[1].Note = "stores.later", "stores.has_not", "stores.has"
	conflict.Each, conflict.More = chips(40)[:8], chips(40)[8:]
	least := changeView{App: shelfmate, Grant: "g4", Rev: "1", Picker: newPicker(sampleStores(1), pick{Ticked: []string{"s1"}}), Fixed: sections(sampleScopes(language)[:1])}
	least.Picker.Later = "stores.later"
	inStore := changeView{App: shelfmate, Grant: "g1", Rev: "7", Only: "s1", Store: longName, Optional: change.Optional, Fixed: change.Fixed}

	foreign := othersApp{Grant: "g9", Store: "s1", App: shelfmate, Person: "Otto Brandt", Since: noon.AddDate(0, -1, -3), Sections: sections(sampleScopes(language)[:3])}
	foreign2 := othersApp{Grant: "g10", Store: "s1", App: newAppView("4", longName, "warenwirtschaft.example", "unverified"), Since: noon, Paused: true}
	foreign3 := othersApp{Grant: "g9", Store: "s2", App: newAppView("9", "<b>", "", ""), Person: "<b>" + longName, Since: noon, Sections: sections(manyScopes())}
	others := othersView{Done: &doneView{ID: "done.others", Store: "Atelier am Hafen"}, Pager: pagerView{Older: "/connected-apps/others?page=2"}, Stores: []othersStore{
		{Name: "Nordlicht Keramik", Domain: "keramik.nordlicht.example", Apps: []othersApp{foreign, foreign2}}, {Name: longName, Apps: []othersApp{foreign3}}}}
	column := func(name, of string, body any) preview {
		return preview{name, page{Name: of, TitleOf: []any{"App", "Shelfmate", "Store", "Nordlicht Keramik"}, Section: "connected", Account: account, Body: body}}
	}
	return append(consolePreviews(language), []preview{
		column("change", "change", change),
		column("change-conflict", "change", conflict),
		column("change-least", "change", least),
		column("change-store", "change_store", inStore),
		column("others", "others", others),
		column("others-empty", "others", othersView{}),
		column("others-remove", "others_remove", othersRemoveView{foreign, "Nordlicht Keramik"}),
		column("connected-changed", "connected", connectedView{Apps: []connectedApp{every}, Done: edited, Others: true}),
		{"sign-in", page{Name: "sign_in", Frame: framePlain, Body: signView{Next: "/auth/authorize?client_id=7d0c6a8e", App: "Shelfmate", Other: "/sign-up"}}},
		{"sign-in-ended", page{Name: "sign_in", Frame: framePlain, Body: signView{Next: "/connected-apps", Why: "sign_in.kept", Other: "/sign-up"}}},
		{"sign-in-wrong", page{Name: "sign_in", Frame: framePlain, Body: signView{Email: "mara@nordlicht.example", Problem: "problem.sign_in", Other: "/sign-up"}}},
		{"sign-in-locked", page{Name: "sign_in", Frame: framePlain, Body: signView{Email: "mara@nordlicht.example", Problem: "problem.too_many", Minutes: 10, Other: "/sign-up"}}},
		{"sign-up-errors", page{Name: "sign_up", Frame: framePlain, Body: signView{Email: "mara", Errors: map[string]string{"email": "problem.email_form", "password": "problem.password_short"}, Other: "/sign-in"}}},
		consent("1", one),
		consent("3", sampleConsent(language, 3, pick{})),
		consent("40", sampleConsent(language, 40, pick{Ticked: []string{"s2"}})),
		consent("5000", sampleConsent(language, 5000, pick{Ticked: []string{"s2", "s4000"}, Page: 3})),
		consent("5000-search", sampleConsent(language, 5000, pick{Ticked: []string{"s4000"}, Query: "lindner 40", Page: 1})),
		consent("account", account1),
		consent("no-tick", none),
		consent("hostile", hostile),
		consent("long", long),
		consent("word", word),
		consent("scopes", wide),
		consent("again", again),
		consent("all", all),
		{"no-stores", page{Name: "no_stores", Frame: framePlain, Body: noStoresView{App: shelfmate, Request: "sealed", Next: "/auth/authorize?client_id=7d0c6a8e", Account: "mara@nordlicht.example", Stores: []storeRow{{ID: "c", Name: "Atelier am Hafen", Reason: "reason.not_yours"}}}}},
		{"returning", returningPage(shelfmate, registered("https://app.shelfmate.example/callback?code=c&state=a%26b"), 0)},
		{"already", page{Name: "already", TitleOf: []any{"App", "Shelfmate"}, Frame: framePlain, Body: alreadyView{shelfmate}}},
		{"expired", page{Name: "expired", Title: "expired.heading", Frame: framePlain, Body: expiredView{Why: "expired", App: "Shelfmate", Home: "https://shelfmate.example/"}}},
		{"expired-word", page{Name: "expired", Title: "expired.heading", Frame: framePlain, Body: expiredView{Why: "expired", App: longWord, Home: "https://shelfmate.example/"}}},
		{"answered", page{Name: "expired", Title: "answered.heading", Frame: framePlain, Body: expiredView{Why: "answered", App: "Shelfmate", Home: "https://shelfmate.example/"}}},
		{"refused", page{Name: "refused", Frame: framePlain, Body: refusedView{App: "Shelfmate", Why: "refused.why_redirect",
			Compare: compare("https://app.shelfmate.example/callback/", []string{"https://app.shelfmate.example/callback", "http://127.0.0.1/cb"})}}},
		{"refused-stranger", page{Name: "refused", Frame: framePlain, Body: refusedView{App: "Shelfmate", Why: "refused.why_redirect", SignIn: "/sign-in?next=%2Fauth%2Fauthorize%3Fclient_id%3D7d0c6a8e"}}},
		{"refused-detail", page{Name: "refused", Frame: framePlain, Body: refusedView{App: "Shelfmate", Why: "refused.why_request", Detail: "fault.param_repeated", Param: "redirect_uri"}}},
		{"unknown-app", page{Name: "refused", Frame: framePlain, Body: refusedView{Why: "refused.why_app"}}},
		{"connected", page{Name: "connected", Section: "connected", Account: account, Body: connectedView{Apps: apps, Done: &doneView{ID: "done.removed", App: "Shelfmate", Store: "Atelier am Hafen"}}}},
		{"connected-empty", page{Name: "connected", Section: "connected", Account: &accountView{Email: "mara@nordlicht.example", Operator: true}, Body: connectedView{}}},
		{"lost", page{Name: "lost", Title: "lost.heading", Frame: framePlain, Body: lostView{Account: "mara@nordlicht.example", Next: "/operator"}}},
		{"failed", page{Name: "notice", Title: failedView.Heading, Frame: framePlain, Body: failedView}},
	}...)
}

func sampleRenderer(t *testing.T, brand Brand) *renderer {
	t.Helper()
	r, err := newRenderer(brand, func() time.Time { return noon }, slog.New(slog.NewTextHandler(io.Discard, nil)), files, testMessages(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestShots draws every page in Chromium for people to look at:
//
//	GRANTWAY_SHOTS=/tmp/shots go test ./internal/portal -run TestShots
//
// GRANTWAY_SHOTS_ONLY keeps the pages whose name contains it.
func TestShots(t *testing.T) {
	folder := os.Getenv("GRANTWAY_SHOTS")
	if folder == "" {
		t.Skip("draws screenshots for people; set GRANTWAY_SHOTS to a folder to get them")
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	pages := map[string]page{}
	for _, p := range previews("en") {
		pages["en/"+p.name] = p.page
	}
	for _, language := range []string{"de", "ar"} {
		for _, p := range previews(language) {
			if p.name == "consent-3" || p.name == "connected" || p.name == "consent-long" || p.name == "change" {
				pages[language+"/"+p.name] = p.page
			}
		}
	}
	render := sampleRenderer(t, shop)
	yellow := shop
	yellow.Accent = "#ffd400"
	bright := sampleRenderer(t, yellow)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			if _, ok := render.assets.body[r.URL.Path]; ok {
				render.assets.ServeHTTP(w, r)
			} else {
				bright.assets.ServeHTTP(w, r)
			}
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		p := pages[strings.TrimPrefix(name, "yellow/")]
		p.Refresh = ""
		language, _, _ := strings.Cut(strings.TrimPrefix(name, "yellow/"), "/")
		r.Header.Set("Accept-Language", language)
		if strings.HasPrefix(name, "yellow/") {
			bright.render(w, r, 200, p)
			return
		}
		render.render(w, r, 200, p)
	}))
	defer server.Close()

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.Flag("no-sandbox", true), chromedp.Flag("disable-gpu", true))
	parent, stop := chromedp.NewExecAllocator(context.Background(), options...)
	defer stop()
	ctx, cancel := chromedp.NewContext(parent)
	defer cancel()

	shot := func(name, scheme string, width, height int64, whole bool) {
		if !strings.Contains(name, os.Getenv("GRANTWAY_SHOTS_ONLY")) {
			return
		}
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
			t.Fatal(err)
		}
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height), chromedp.Navigate(server.URL+"/"+name)); err != nil {
			t.Fatal(err)
		}
		var png []byte
		var err error
		if whole {
			png, err = chromedp.Run(ctx, chromedp.FullScreenshot(100))
		} else {
			png, err = chromedp.Run(ctx, chromedp.CaptureScreenshot())
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(folder, fmt.Sprintf("%s-%d-%s.png", strings.ReplaceAll(name, "/", "_"), width, scheme))
		if err := os.WriteFile(file, png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name := range pages {
		if slices.ContainsFunc([]string{"developer-", "operator-", "change", "others", "connected-changed"}, func(long string) bool { return strings.HasPrefix(name, "en/"+long) }) { // whole pages
			for _, width := range []int64{360, 768, 1440} {
				shot(name, "light", width, 900, true)
				shot(name, "dark", width, 900, true)
			}
			continue
		}
		shot(name, "light", 360, 740, false)
		if strings.HasPrefix(name, "en/") {
			shot(name, "dark", 360, 740, false)
			shot(name, "light", 1440, 900, false)
		}
	}
	for _, name := range []string{"en/consent-3", "en/connected", "en/consent-40", "en/consent-scopes", "en/consent-5000"} {
		shot(name, "light", 768, 1024, true)
		shot(name, "dark", 768, 1024, true)
	}
	shot("yellow/en/consent-3", "light", 360, 740, false)
	shot("yellow/en/consent-3", "dark", 360, 740, false)
}
