package portal

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/grantway/grantway/internal/oauth"
)

// developerRoutes adds the developer's pages. Every one of them acts as the user who is signed in, operators included: what
// an operator may do beyond that has pages of its own.
func (p *Portal) developerRoutes(mux *http.ServeMux) {
	const app = "/developer/apps/{id}"
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /developer":                 p.developer,
		"GET /developer/new":             p.signedIn(p.newApp),
		"POST /developer/new":            p.posted(p.createApp),
		"GET " + app:                     p.signedIn(p.oneApp),
		"GET " + app + "/edit":           p.signedIn(p.editApp),
		"POST " + app + "/edit":          p.posted(p.saveApp),
		"POST " + app + "/secrets":       p.posted(p.addSecret),
		"GET " + app + "/revoke-secret":  p.signedIn(p.askRevokeSecret),
		"POST " + app + "/revoke-secret": p.posted(p.revokeSecret),
		"POST " + app + "/delete":        p.posted(p.deleteApp),
		"GET /developer/{$}":             func(w http.ResponseWriter, r *http.Request) { p.goTo(w, "/developer") },
		"/developer":                     p.wrongMethod,
		"/developer/new":                 p.wrongMethod,
		app:                              p.wrongMethod,
		app + "/edit":                    p.wrongMethod,
		app + "/secrets":                 p.wrongMethod,
		app + "/revoke-secret":           p.wrongMethod,
		app + "/delete":                  p.wrongMethod,
	} {
		mux.HandleFunc(pattern, handler)
	}
}

func appHref(id string) string { return "/developer/apps/" + url.PathEscape(id) }

// developerRail is the menu of pages that belong to no app.
func developerRail(current string) railView {
	v := railView{Label: "rail.developer", Items: []railItem{{"/developer", "rail.apps", false}, {"/developer/new", "rail.new", false}}}
	for i := range v.Items {
		v.Items[i].Current = v.Items[i].Href == current
	}
	return v
}

// appRail is the menu of an app's pages.
func appRail(c *oauth.Client) railView {
	app, href := appOf(c), appHref(c.ID)
	v := railView{Label: "rail.app", App: &app, Items: []railItem{{"/developer", "rail.apps", false}, {href + "#identity", "rail.identity", false}, {href + "#redirects", "rail.redirects", false}}}
	if len(c.Scopes) > 0 {
		v.Items = append(v.Items, railItem{href + "#scopes", "rail.scopes", false})
	}
	if c.AuthMethod == oauth.BySecret {
		v.Items = append(v.Items, railItem{href + "#secrets", "rail.secrets", false})
	}
	v.Items = append(v.Items, railItem{href + "#code", "rail.code", false})
	if len(c.Scopes) > 0 {
		v.Items = append(v.Items, railItem{href + "#preview", "rail.preview", false})
	}
	v.Items = append(v.Items, railItem{href + "#delete", "rail.delete", false})
	return v
}

// says reports whether there is a message.
func (r *renderer) says(id string) bool {
	_, err := r.catalogue.words[0].text(id)
	return err == nil
}

func (p *Portal) developerPage(w http.ResponseWriter, r *http.Request, v *visitor, status int, name string, body any, titleOf ...any) {
	p.pages.render(w, r, status, page{Name: name, TitleOf: titleOf, Frame: frameWide, Section: "developer", Account: v.account(), Body: body})
}

// resultOf is the notice of what the last press did. It travels in the address, which anybody may have made, so only what
// is listed is said, and nothing of it is untrue if nothing was pressed.
func resultOf(r *http.Request, of string, known ...string) *resultView {
	done := r.URL.Query().Get("done")
	kind := "good"
	if done == "made_already" || done == "secret_already" || done == "signed_out" { // nothing was done
		kind = "warn"
	}
	for _, k := range known {
		if done == k {
			return &resultView{kind, "result." + done, of}
		}
	}
	return nil
}

// developer is "My apps", and for strangers what this place is for.
func (p *Portal) developer(w http.ResponseWriter, r *http.Request) {
	v, err := p.visitor(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if v == nil {
		p.pages.render(w, r, http.StatusOK, page{Name: "developer_landing"})
		return
	}
	number := pageOf(r.URL.Query().Get("page"))
	apps, err := p.server.Clients(r.Context(), v.actor(), false, oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := appsView{Rail: developerRail("/developer"), Result: resultOf(r, "", "deleted", "made_already")}
	view.Pager, apps = pageLinks(apps, number, "/developer", url.Values{})
	for _, c := range apps {
		row := appRow{ID: c.ID, Href: appHref(c.ID), App: appOf(c), Type: kindOf(c), Status: c.Status, Created: c.Created}
		if row.Connections, _, err = p.server.Reach(r.Context(), v.actor(), c.ID); err != nil {
			p.fail(w, r, err)
			return
		}
		view.Apps = append(view.Apps, row)
	}
	p.developerPage(w, r, v, http.StatusOK, "developer_apps", view)
}

// pageLinks cuts a list that was read one row longer than a page, and links to its neighbours.
func pageLinks[T any](rows []T, number int, path string, q url.Values) (pagerView, []T) {
	var v pagerView
	to := func(n int) string {
		q.Set("page", strconv.Itoa(n))
		return path + "?" + q.Encode()
	}
	if number > 1 {
		v.Newer = to(number - 1)
	}
	if len(rows) > rowsPerPage {
		rows = rows[:rowsPerPage]
		v.Older = to(number + 1)
	}
	return v, rows
}

func (p *Portal) newApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	if q := p.takeForm(w, r, v, "/developer/new"); q != nil {
		p.showNewApp(w, r, v, http.StatusOK, q, &resultView{"warn", "result.kept", ""}, nil)
		return
	}
	p.showNewApp(w, r, v, http.StatusOK, url.Values{"kind": {kindExchange}}, resultOf(r, "", "signed_out"), nil)
}

// showNewApp shows the form of a new app as it was filled in: f.
func (p *Portal) showNewApp(w http.ResponseWriter, r *http.Request, v *visitor, status int, f url.Values, result *resultView, errs map[string]string) {
	sealed, kind := f.Get("reserved"), f.Get("kind")
	if errs == nil {
		var err error
		if sealed, err = p.server.ReserveID(v.User.ID); err != nil {
			p.fail(w, r, err)
			return
		}
	}
	view := appFormView{Rail: developerRail("/developer/new"), Result: result, Action: "/developer/new", Back: "/developer", Listed: true, Reserved: sealed, Of: formFor(v, "/developer/new")}
	for _, k := range []string{kindExchange, kindServer, kindPublic} {
		view.Kinds = append(view.Kinds, kindChoice{k, k == kind})
	}
	view.fill(p.server.Catalogue(), p.pages.language(r), readApp(f, kind), errs)
	view.Nothing = len(view.Groups) == 0
	p.developerPage(w, r, v, status, "developer_form", view)
}

func (p *Portal) createApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	form := readApp(f, f.Get("kind"))
	var err error
	if form.Reserved, err = p.server.OpenReserved(f.Get("reserved"), v.User.ID); err != nil {
		p.showNewApp(w, r, v, http.StatusConflict, f, &resultView{"warn", "result.press_again", ""}, nil)
		return
	}
	c, secret, err := p.server.CreateClient(r.Context(), v.actor(), form)
	if fields, ok := errors.AsType[oauth.FieldErrors](err); ok && fields["id"] != nil && fields["id"].Reason == oauth.IDTaken {
		p.madeAlready(w, r, v, form.Reserved.ClientID())
		return
	}
	if e, ok := errors.AsType[*oauth.Error](err); ok && e.Reason == oauth.AppTooMany {
		retryAfter(w, e.RetryAfter)
		p.showNewApp(w, r, v, http.StatusTooManyRequests, f, &resultView{"bad", "result.too_many_apps", strconv.Itoa(oauth.MaxApps)}, nil)
		return
	}
	if errs := mistakes(err, p.pages.says); errs != nil {
		p.showNewApp(w, r, v, http.StatusUnprocessableEntity, f, nil, errs)
		return
	}
	switch {
	case err != nil:
		p.fail(w, r, err)
	case secret != "":
		p.showSecret(w, r, v, c, secret, false)
	default:
		p.goTo(w, appHref(c.ID)+"?done=created")
	}
}

// madeAlready answers a form that was posted again, as a reload of the page with the secret does.
func (p *Portal) madeAlready(w http.ResponseWriter, r *http.Request, v *visitor, id string) {
	_, err := p.server.MyClient(r.Context(), v.actor(), id)
	switch {
	case errors.Is(err, &oauth.Error{Code: oauth.NotFound}): // deleted since
		p.goTo(w, "/developer?done=made_already")
	case err != nil:
		p.fail(w, r, err)
	default:
		p.goTo(w, appHref(id)+"?done=made_already")
	}
}

// showSecret is the answer to the POST that made the secret, which no cache keeps and no address leads back to.
func (p *Portal) showSecret(w http.ResponseWriter, r *http.Request, v *visitor, c *oauth.Client, secret oauth.Secret, second bool) {
	p.developerPage(w, r, v, http.StatusOK, "developer_secret", secretView{
		Rail: developerRail(""), App: appOf(c), Href: appHref(c.ID), Second: second,
		Client: copyView{"client-id", c.ID, "app.client_id"}, Secret: copyView{"client-secret", secret.Reveal(), "secret.label"},
	}, "App", c.Name)
}

// own reads an app of the visitor; on nil the answer has been given.
func (p *Portal) own(w http.ResponseWriter, r *http.Request, v *visitor) *oauth.Client {
	c, err := p.server.MyClient(r.Context(), v.actor(), r.PathValue("id"))
	if err != nil {
		p.fail(w, r, err)
		return nil
	}
	return c
}

func (p *Portal) oneApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	result := resultOf(r, c.Name, "created", "saved", "made_already", "signed_out")
	switch len(c.Secrets) {
	case 0:
	case 1:
		result = cmp.Or(result, resultOf(r, c.Secrets[0].Last4, "secret_revoked"))
	default:
		result = cmp.Or(result, resultOf(r, "", "secret_already"))
	}
	p.showApp(w, r, v, http.StatusOK, c, result, "", nil)
}

func (p *Portal) showApp(w http.ResponseWriter, r *http.Request, v *visitor, status int, c *oauth.Client, result *resultView, typed string, errs map[string]string) {
	view := appPage(p.server.Catalogue(), p.pages.language(r), p.samplesAt, c)
	view.Result, view.Typed, view.Errors = result, typed, errs
	var err error
	if view.Grants, view.Users, err = p.server.Reach(r.Context(), v.actor(), c.ID); err != nil {
		p.fail(w, r, err)
		return
	}
	p.developerPage(w, r, v, status, "developer_app", view, "App", c.Name)
}

// appPage lays out what an app's registration says.
func appPage(catalogue *oauth.Catalogue, language string, at addresses, c *oauth.Client) appPageView {
	view := appPageView{
		Rail: appRail(c), App: appOf(c), Href: appHref(c.ID), Client: copyView{"client-id", c.ID, "app.client_id"},
		Kind: kindOf(c), Status: c.Status, Created: c.Created, Homepage: c.Settings.Homepage, Privacy: c.Settings.Privacy, Terms: c.Settings.Terms,
		Iss: c.Profile == oauth.Exchange && c.Settings.Iss, Scopes: scopeRows(catalogue, language, c.Scopes, false),
		HasSecret: c.AuthMethod == oauth.BySecret, Room: len(c.Secrets) < oauth.MaxSecrets, Samples: samples(at, c),
	}
	for _, uri := range c.Redirects {
		view.Redirects = append(view.Redirects, string(uri))
	}
	if len(c.Redirects) > 0 {
		if to, ok := c.RedirectTo(string(c.Redirects[0])); ok {
			view.Host = to.Host()
		}
	}
	for _, s := range c.Secrets {
		row := secretRow{Last4: s.Last4, Created: s.Created, LastUsed: s.LastUsed}
		if len(c.Secrets) > 1 {
			row.Revoke = view.Href + "/revoke-secret?last4=" + url.QueryEscape(s.Last4)
		}
		view.Secrets = append(view.Secrets, row)
	}
	view.preview(catalogue, language, c)
	return view
}

// preview is what consent says of an app that asks for everything it registered.
func (v *appPageView) preview(c *oauth.Catalogue, language string, app *oauth.Client) {
	var required []askedScope
	for _, asked := range describe(c, language, app.ScopeSet()) {
		v.StoreAsk = v.StoreAsk || c.Scope(asked.Name).Kind == oauth.StoreScope
		optional := false
		for _, s := range app.Scopes {
			optional = optional || s.Name == asked.Name && !s.Required
		}
		if optional {
			v.Optional = append(v.Optional, asked.scopeView)
		} else {
			required = append(required, asked)
		}
	}
	v.Sections = sections(required)
}

func (p *Portal) editApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	if c := p.own(w, r, v); c != nil {
		p.showEdit(w, r, v, http.StatusOK, c, c.Version, formOf(c), false, resultOf(r, "", "signed_out"), nil)
	}
}

func (p *Portal) showEdit(w http.ResponseWriter, r *http.Request, v *visitor, status int, c *oauth.Client, version int64, form oauth.ClientForm, conflict bool, result *resultView, errs map[string]string) {
	app := appOf(c)
	view := appFormView{
		Rail: appRail(c), Result: result, App: &app, Action: appHref(c.ID) + "/edit", Back: appHref(c.ID), Version: version, Conflict: conflict,
		Fixed: kindOf(c), Listed: c.Profile != oauth.Direct, IssShown: c.Profile == oauth.Exchange,
	}
	view.fill(p.server.Catalogue(), p.pages.language(r), form, errs)
	p.pages.render(w, r, status, page{Name: "developer_form", Title: "title.developer_edit", TitleOf: []any{"App", c.Name}, Frame: frameWide, Section: "developer", Account: v.account(), Body: view})
}

// saveApp changes an app. Whoever saves a form that was opened before somebody else's change is told, keeps what was typed,
// and may save it again over the other's.
func (p *Portal) saveApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	form := readApp(f, kindOf(c))
	if c.Profile == oauth.Direct { // its form has neither addresses nor scopes
		old := formOf(c)
		form.Redirects, form.Scopes = old.Redirects, old.Scopes
	}
	if c.Profile != oauth.Exchange {
		form.Settings.Iss = c.Settings.Iss
	}
	version, _ := strconv.ParseInt(f.Get("version"), 10, 64)
	_, err := p.server.UpdateClient(r.Context(), v.actor(), c.ID, version, form)
	if errs := mistakes(err, p.pages.says); errs != nil {
		p.showEdit(w, r, v, http.StatusUnprocessableEntity, c, version, form, false, nil, errs)
		return
	}
	switch {
	case oauth.ReasonOf(err) == oauth.Changed:
		if c = p.own(w, r, v); c != nil {
			p.showEdit(w, r, v, http.StatusConflict, c, c.Version, form, true, nil, nil)
		}
	case err != nil:
		p.fail(w, r, err)
	default:
		p.goTo(w, appHref(c.ID)+"?done=saved")
	}
}

func (p *Portal) addSecret(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	// The form names the secret that the new one stands beside, so a second post of it makes no third.
	switch {
	case c.AuthMethod != oauth.BySecret:
	case len(c.Secrets) > 1:
		p.goTo(w, appHref(c.ID)+"?done=secret_already")
		return
	case len(c.Secrets) == 1 && c.Secrets[0].Last4 != f.Get("beside"): // which has been revoked since
		p.showApp(w, r, v, http.StatusConflict, c, &resultView{"bad", "result.changed", ""}, "", nil)
		return
	}
	secret, err := p.server.AddSecret(r.Context(), v.actor(), c.ID)
	switch {
	case oauth.ReasonOf(err) == oauth.TooMany:
		p.showApp(w, r, v, http.StatusConflict, c, &resultView{"bad", "result.secret_full", ""}, "", nil)
	case err != nil:
		p.fail(w, r, err)
	default:
		p.showSecret(w, r, v, c, secret, true)
	}
}

func (p *Portal) askRevokeSecret(w http.ResponseWriter, r *http.Request, v *visitor) {
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	last4 := r.URL.Query().Get("last4")
	for _, s := range c.Secrets {
		if s.Last4 != last4 || len(c.Secrets) < 2 {
			continue
		}
		p.developerPage(w, r, v, http.StatusOK, "developer_confirm", confirmView{
			Rail: appRail(c), Heading: "confirm.secret", What: "confirm.secret_what", Of: c.Name, Detail: last4, When: s.LastUsed,
			Action: appHref(c.ID) + "/revoke-secret", Back: appHref(c.ID) + "#secrets", Fields: []formField{{"last4", last4}}, Button: "confirm.secret_button", Bad: true,
		}, "App", c.Name)
		return
	}
	p.lost(w, r)
}

func (p *Portal) revokeSecret(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	err := p.server.RevokeSecret(r.Context(), v.actor(), c.ID, f.Get("last4"))
	problem := map[oauth.Reason]string{oauth.LastSecret: "result.secret_last", oauth.NoSuch: "result.secret_gone", oauth.Changed: "result.changed"}[oauth.ReasonOf(err)]
	switch {
	case err == nil:
		p.goTo(w, appHref(c.ID)+"?done=secret_revoked")
	case problem != "":
		p.showApp(w, r, v, http.StatusConflict, c, &resultView{"bad", problem, ""}, "", nil)
	default:
		p.fail(w, r, err)
	}
}

func (p *Portal) deleteApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c := p.own(w, r, v)
	if c == nil {
		return
	}
	err := p.server.DeleteClient(r.Context(), v.actor(), c.ID, f.Get("name"))
	_, mistyped := errors.AsType[oauth.FieldErrors](err)
	switch {
	case mistyped:
		p.showApp(w, r, v, http.StatusUnprocessableEntity, c, nil, f.Get("name"), map[string]string{"typed": "mistake.typed"})
	case err != nil:
		p.fail(w, r, err)
	default:
		p.settle(w, r)
		p.goTo(w, "/developer?done=deleted")
	}
}
