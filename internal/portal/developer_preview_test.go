package portal

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
)

var sampleAddresses = addresses{"https://id.kaufhaus.example", "https://dashboard.kaufhaus.example", "https://api.kaufhaus.example", "https://api.kaufhaus.example"}

func demoCatalogue() *oauth.Catalogue {
	text, err := os.ReadFile("../demo/catalogue.yaml")
	if err != nil {
		panic(err)
	}
	c, err := config.ParseCatalogue(text)
	if err != nil {
		panic(err)
	}
	return c
}

func sampleClient() *oauth.Client {
	return &oauth.Client{
		ID: "7d0c6a8e-1b52-4c27-9f0a-3f1f6de6a001", Owner: "usr_1", Name: "Shelfmate", Type: oauth.Confidential, Profile: oauth.Exchange, AuthMethod: oauth.BySecret,
		Status: oauth.Active, Version: 3, Created: noon.AddDate(0, -2, 0),
		Settings:  oauth.ClientSettings{Homepage: "https://shelfmate.example/", Privacy: "https://shelfmate.example/privacy", Terms: "https://shelfmate.example/terms", Verified: true},
		Redirects: []oauth.RedirectURI{"https://app.shelfmate.example/callback?lang=en&from=shop", "http://127.0.0.1/callback"},
		Scopes: []oauth.ClientScope{{Name: "stores.view", Required: true}, {Name: "stores.products.view", Required: true}, {Name: "stores.orders.view", Required: true},
			{Name: "stores.products.update", Required: true}, {Name: "stores.orders.refund"}, {Name: "user.view"}},
		Secrets: []oauth.ClientSecret{{Last4: "k3Qz", Created: noon.AddDate(0, -2, 0), LastUsed: noon.Add(-26 * time.Hour)}, {Last4: "_9dA", Created: noon.Add(-time.Hour)}},
	}
}

const sampleSecret = "q7mHk2Zt0vJYc8rXw5nLb3Dg6sPaEuFf1iTzRyWo4KjNxMdVhQeGlSpUBACIOk_-93Zq71hT"

func consolePreviews(language string) []preview {
	developer := &accountView{Email: "jonas@shelfmate.example"}
	boss := &accountView{Email: "op@kaufhaus.example", Operator: true}
	catalogue := demoCatalogue()
	dev := func(name, template string, body any, titleOf ...any) preview {
		return preview{"developer-" + name, page{Name: template, TitleOf: titleOf, Frame: frameWide, Section: "developer", Account: developer, Body: body}}
	}
	op := func(name, template string, body any) preview {
		return preview{"operator-" + name, page{Name: template, Frame: frameWide, Section: "operator", Account: boss, Body: body}}
	}
	app := sampleClient()
	long := sampleClient()
	long.ID, long.Name, long.Status, long.Settings.Verified = "other", longName, oauth.Suspended, false
	long.Type, long.AuthMethod, long.Profile, long.Secrets = oauth.Public, oauth.ByNone, oauth.Standard, nil
	long.Redirects = []oauth.RedirectURI{"de.warenwirtschaft.anbindung:/rueckkehr"}
	hostile := sampleClient()
	hostile.ID, hostile.Name, hostile.Profile, hostile.Secrets = "9", "<b>", oauth.Standard, hostile.Secrets[:1]
	hostile.Settings = oauth.ClientSettings{}
	for _, s := range catalogue.Scopes {
		long.Scopes = append(long.Scopes, oauth.ClientScope{Name: s.Name, Required: true})
	}
	row := func(c *oauth.Client, n int) appRow {
		return appRow{ID: c.ID, Href: appHref(c.ID), App: appOf(c), Type: kindOf(c), Status: c.Status, Created: c.Created, Connections: n}
	}
	apps := appsView{Rail: developerRail("/developer"), Apps: []appRow{row(hostile, 0), row(app, 5120), row(long, 1)}, Result: &resultView{"good", "result.deleted", ""}}
	form := func(f oauth.ClientForm, kind string, errs map[string]string) appFormView {
		v := appFormView{Rail: developerRail("/developer/new"), Action: "/developer/new", Back: "/developer", Listed: true}
		for _, k := range []string{kindExchange, kindServer, kindPublic} {
			v.Kinds = append(v.Kinds, kindChoice{k, k == kind})
		}
		v.fill(catalogue, language, f, errs)
		return v
	}
	wrong := form(oauth.ClientForm{Name: "Shelf☃mate", Redirects: []string{"https://app.shelfmate.example/cb#x", "http://shelfmate.example/", "https://*.shelfmate.example/"},
		Homepage: "shelfmate.example", Scopes: app.Scopes}, kindServer, map[string]string{"name": "mistake.field_unclean", "redirect-0": "mistake.redirect_fragment",
		"redirect-1": "mistake.redirect_not_https", "redirect-2": "mistake.redirect_wildcard", "homepage": "mistake.link_not_https", "scope": "mistake.scope_empty"})
	view := appOf(app)
	edit := appFormView{Rail: appRail(app), App: &view, Action: appHref(app.ID) + "/edit", Back: appHref(app.ID), Version: 4, Conflict: true, Fixed: kindExchange, Listed: true, IssShown: true}
	edit.fill(catalogue, language, formOf(app), nil)
	one := appPage(catalogue, language, sampleAddresses, app)
	one.Grants, one.Users, one.Result = 5120, 4987, &resultView{"good", "result.saved", ""}
	public := appPage(catalogue, language, sampleAddresses, long)
	public.Grants, public.Users, public.Typed, public.Errors = 1, 1, "Waren", map[string]string{"typed": "mistake.typed"}
	plain := appPage(catalogue, language, sampleAddresses, hostile)
	secret := secretView{Rail: developerRail(""), App: view, Href: appHref(app.ID), Client: copyView{"client-id", app.ID, "app.client_id"}, Secret: copyView{"client-secret", sampleSecret, "secret.label"}}
	second := secret
	second.Second = true
	revoke := confirmView{Rail: appRail(app), Heading: "confirm.secret", What: "confirm.secret_what", Of: app.Name, Detail: "k3Qz", When: noon.Add(-26 * time.Hour),
		Action: "/developer/apps/x/revoke-secret", Back: "/developer/apps/x#secrets", Fields: []formField{{"last4", "k3Qz"}}, Button: "confirm.secret_button", Bad: true}

	opApps := operatorAppsView{Rail: operatorRail("/operator/apps"), Search: searchView{Action: "/operator/apps", Label: "find.apps", Query: "shelf"}, Result: &resultView{"good", "did.suspend_app", longName}, Pager: pagerView{Older: "/operator/apps?page=2"}}
	for _, c := range []*oauth.Client{app, long, hostile} {
		r := operatorApp{ID: c.ID, App: appOf(c), Owner: personView{"jonas@shelfmate.example", "/operator/users?q=usr_1"}, Type: kindOf(c), Status: c.Status, Created: c.Created, Grants: "/operator/grants?app=x", Events: "/operator?app=x",
			Presses: []pressView{pressApp("verify-app", c), pressApp("suspend-app", c)}}
		if c == hostile {
			r.Owner = personView{}
		}
		opApps.Rows = append(opApps.Rows, r)
	}
	users := operatorUsersView{Rail: operatorRail("/operator/users"), Search: searchView{Action: "/operator/users", Label: "find.users"}, Rows: []operatorUser{
		{ID: "usr_01jd3c5m8", Email: "op@kaufhaus.example", Operator: true, Self: true, Status: oauth.Active, Created: noon, Grants: "/g", Events: "/e"},
		{ID: "usr_01jd3c5m9", Email: "mara@nordlicht.example", Name: "Mara Lindqvist", Status: oauth.Active, Created: noon, Grants: "/g", Events: "/e", Presses: []pressView{press("suspend-user", "usr_01jd3c5m9", "mara@nordlicht.example")}},
		{ID: "4711", Name: longName, Status: oauth.Suspended, Created: noon, Grants: "/g", Events: "/e", Presses: []pressView{press("resume-user", "4711", longName)}},
	}}
	stores := operatorStoresView{Rail: operatorRail("/operator/stores"), Search: searchView{Action: "/operator/stores", Label: "find.stores"}, Rows: []operatorStore{
		{"3f1c2a84", "Nordlicht Keramik", "nordlicht.example", oauth.Active, noon, "/operator/grants?store=3f1c2a84"}, {"x", "متجر الأواني", "", oauth.Suspended, noon, "/operator/grants?store=x"}}}
	grants := operatorGrantsView{Rail: operatorRail("/operator/grants"), Live: true, Toggle: "/operator/grants?all=1", Search: searchView{Action: "/operator/grants", Clear: "/operator/grants",
		Narrowed: []narrowed{{"filter.app", "app", app.ID}, {"filter.user", "user", ""}, {"filter.store", "store", ""}}}, Rows: []operatorGrant{
		{ID: "gr_06d8q1", App: appOf(app), AppHref: "/a", User: personView{"mara@nordlicht.example", "/u"}, Stores: []string{"Nordlicht Keramik", "Atelier am Hafen", "Fjord & Pine"}, More: 37, Scopes: 5, Keys: 2, Status: oauth.Live, Created: noon.AddDate(0, -1, 0), LastUsed: noon.Add(-30 * time.Hour), Events: "/e", Presses: []pressView{press("revoke-grant", "gr_06d8q1", "Shelfmate")}},
		{ID: "gr_06d8q2", App: appOf(long), AppHref: "/a", User: personView{"usr_01jd3c5m9", "/u"}, All: true, Scopes: 53, Keys: 0, Status: oauth.GrantIsRevoked, Created: noon, Events: "/e"},
		{ID: "gr_06d8q3", App: appOf(hostile), AppHref: "/a", User: personView{"<b>", "/u"}, Scopes: 1, Keys: 1, Status: oauth.Pending, Created: noon, Events: "/e", Presses: []pressView{press("revoke-grant", "gr_06d8q3", "<b>")}}}}
	events := operatorEventsView{Rail: operatorRail("/operator"), Pager: pagerView{Older: "/operator?before=ev_1"}, Search: searchView{Action: "/operator", Clear: "/operator", Narrowed: []narrowed{{"filter.app", "app", ""}, {"filter.user", "user", ""}, {"filter.grant", "grant", ""}, {"filter.kind", "kind", "grant"}}}}
	for i, kind := range []string{"grant.revoked", "code.redeemed", "grant.made", "client.updated", "user.sign_in_refused", "store.put"} {
		e := operatorEvent{ID: fmt.Sprint("ev_", i), At: noon.Add(-time.Duration(i) * time.Hour), Words: "event." + kind, Kind: kind, Bad: strings.HasSuffix(kind, "d") && i%4 == 0, Request: "req_4f1a9c",
			Who: subjectView{"actor.user", "mara@nordlicht.example", "/u", "u"}, Subjects: []subjectView{{"events.app", "Shelfmate", "/a", "a"}, {"events.user", "mara@nordlicht.example", "/u", "u"}, {"events.grant", "gr_06d8q1jvm5x7e2k9", "/g", "g"}}}
		if i == 3 {
			e.Payload = "{\n  \"before\": {\n    \"Name\": \"<b>\"\n  }\n}"
		}
		if i == 5 {
			e.Who, e.Actor, e.Subjects = subjectView{}, "actor.command", []subjectView{{"events.store", "3f1c2a84", "/s", "s"}}
		}
		events.Rows = append(events.Rows, e)
	}
	ask := confirmView{Facts: []confirmFact{{Label: "events.app", Texts: []string{"Shelfmate"}}, {Label: "events.user", Texts: []string{"<b>"}}, {Label: "rail.stores", Texts: []string{"Nordlicht Berlin", "<i>"}}, {Label: "rail.stores", Say: "grants.all_stores"}}, Small: "u",
		Rail: operatorRail("/operator/users"), Heading: "ask.suspend_user", What: "ask.suspend_user_what", Of: "mara@nordlicht.example", Detail: "u", Action: "/operator/do/suspend-user", Back: "/operator/users", Fields: []formField{{"id", "u"}}, Button: "do.suspend_user", Bad: true}
	verify := confirmView{Facts: []confirmFact{{Label: "list.owner", Texts: []string{"mara@nordlicht.example"}}, {Label: "form.homepage", Link: "https://shelfmate.example/"}, {Label: "form.privacy", Link: "https://shelfmate.example/privacy"}, {Label: "form.terms", Say: "ask.none"},
		{Label: "ask.hosts", Texts: []string{"shelfmate.example", "127.0.0.1"}}, {Label: "rail.scopes", Scopes: []scopeView{{Name: "stores.view", Sentence: "See the store"}, {Name: "stores.orders.refund", Sentence: "<b>Refund</b> orders", Risks: []string{"high"}}}}}, Small: app.ID,
		Rail: operatorRail("/operator/apps"), Heading: "ask.verify_app", What: "ask.verify_app_what", Of: app.Name, Action: "/operator/do/verify-app", Back: "/operator/apps", Fields: []formField{{"id", app.ID}, {"version", "3"}}, Button: "do.verify_app"}

	editPage := dev("edit", "developer_form", edit)
	editPage.page.Title, editPage.page.TitleOf = "title.developer_edit", []any{"App", app.Name}
	askPage := op("confirm", "operator_confirm", ask)
	askPage.page.Title, askPage.page.TitleOf = ask.Heading, []any{"Of", ask.Of}
	verifyPage := op("verify", "operator_confirm", verify)
	verifyPage.page.Title, verifyPage.page.TitleOf = verify.Heading, []any{"Of", verify.Of}
	return []preview{
		{"developer-landing", page{Name: "developer_landing"}},
		dev("apps", "developer_apps", apps),
		dev("apps-empty", "developer_apps", appsView{Rail: developerRail("/developer")}),
		dev("new", "developer_form", form(oauth.ClientForm{}, kindExchange, nil)),
		dev("new-nothing", "developer_form", appFormView{Rail: developerRail("/developer/new"), Back: "/developer", Nothing: true}),
		dev("wrong", "developer_form", wrong),
		editPage,
		dev("app", "developer_app", one, "App", app.Name),
		dev("app-public", "developer_app", public, "App", long.Name),
		dev("app-server", "developer_app", plain, "App", hostile.Name),
		dev("secret", "developer_secret", secret, "App", app.Name),
		dev("secret-second", "developer_secret", second, "App", app.Name),
		dev("revoke", "developer_confirm", revoke, "App", app.Name),
		op("apps", "operator_apps", opApps),
		op("users", "operator_users", users),
		op("stores", "operator_stores", stores),
		op("grants", "operator_grants", grants),
		op("grants-none", "operator_grants", operatorGrantsView{Rail: operatorRail("/operator/grants"), Search: searchView{Action: "/operator/grants"}}),
		op("events", "operator_events", events),
		op("followers", "operator_followers", operatorFollowersView{Rail: operatorRail("/operator/followers"), Effect: effectOf(oauth.Effect{Everywhere: true, Followers: 2, After: 12 * time.Millisecond}, noon), Rows: []operatorFollower{
			{"api_06d8q1jvm5x7e2k9", "…Q9z_x-3a", "…k2mv8c1d", 0, 9, noon, 0}, {"api_06d8q1jvm5x7e2k9", "b", "…k2mv8c1d", 12_345, 410, noon.Add(-14 * time.Second), 14}}}),
		op("followers-none", "operator_followers", operatorFollowersView{Rail: operatorRail("/operator/followers"), Effect: effectOf(oauth.Effect{After: 850 * time.Millisecond}, noon)}),
		askPage,
		verifyPage,
	}
}
