package portal

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// operatorRoutes adds the operator's pages. To users who are not one they do not exist: the answer is that of any unknown
// address.
func (p *Portal) operatorRoutes(mux *http.ServeMux) {
	for pattern, handler := range map[string]operatorHandler{
		"GET /operator":            p.operatorEvents,
		"GET /operator/apps":       p.operatorApps,
		"GET /operator/users":      p.operatorUsers,
		"GET /operator/stores":     p.operatorStores,
		"GET /operator/grants":     p.operatorGrants,
		"GET /operator/followers":  p.operatorFollowers,
		"GET /operator/do/{what}":  p.operatorAsk,
		"POST /operator/do/{what}": p.operatorDo,
		"GET /operator/{$}":        func(w http.ResponseWriter, r *http.Request, _ *operator) { p.goTo(w, "/operator") },
		"POST /operator":           p.operatorWrongMethod,
		"POST /operator/apps":      p.operatorWrongMethod,
		"POST /operator/users":     p.operatorWrongMethod,
		"POST /operator/stores":    p.operatorWrongMethod,
		"POST /operator/grants":    p.operatorWrongMethod,
		"POST /operator/followers": p.operatorWrongMethod,
	} {
		mux.HandleFunc(pattern, p.operates(handler))
	}
}

// operator is a visitor who runs the platform.
type operator struct{ *visitor }

func (o *operator) actor() oauth.Actor { return oauth.Actor{Kind: oauth.AsOperator, ID: o.User.ID} }

type operatorHandler func(http.ResponseWriter, *http.Request, *operator)

func (p *Portal) operates(h operatorHandler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := p.visitor(r)
		switch {
		case err != nil:
			p.fail(w, r, err)
		case v == nil && r.Method == http.MethodGet:
			p.goTo(w, signInPath(r.URL.RequestURI()))
		case v == nil:
			p.goTo(w, signInBecause(whyEnded, "/operator"))
		case !v.User.Operator:
			p.lost(w, r)
		default:
			h(w, r, &operator{v})
		}
	}
}

func (p *Portal) operatorWrongMethod(w http.ResponseWriter, r *http.Request, _ *operator) {
	p.wrongMethod(w, r)
}

func (p *Portal) operatorPage(w http.ResponseWriter, r *http.Request, o *operator, status int, name string, body any) {
	p.pages.render(w, r, status, page{Name: name, Frame: frameWide, Section: "operator", Account: o.account(), Body: body})
}

func operatorRail(current string) railView {
	v := railView{Label: "rail.operator", Items: []railItem{
		{"/operator", "rail.events", false}, {"/operator/apps", "rail.all_apps", false}, {"/operator/users", "rail.users", false},
		{"/operator/stores", "rail.stores", false}, {"/operator/grants", "rail.grants", false}, {"/operator/followers", "rail.followers", false},
	}}
	for i := range v.Items {
		v.Items[i].Current = v.Items[i].Href == current
	}
	return v
}

// with is a link to a list that is limited to one thing.
func with(path, key, value string) string { return path + "?" + url.Values{key: {value}}.Encode() }

// deed is something that an operator does to one thing.
type deed struct {
	section string // where the thing is listed
	asks    bool   // a page asks first
	ends    bool   // it ends something
	do      func(s *oauth.Server, ctx context.Context, a oauth.Actor, id string) error
	// at is set instead of do where it is done to the thing as the page showed it, of that version.
	at func(s *oauth.Server, ctx context.Context, a oauth.Actor, id string, version int64) error
	// facts is what the page that asks says of the thing, and of which version that is; nil: the name says it.
	facts func(p *Portal, r *http.Request, a oauth.Actor, id string) (facts []confirmFact, version int64, err error)
	name  func(p *Portal, ctx context.Context, a oauth.Actor, id string) (string, error)
	// so reports whether it is as the notice after the deed says.
	so func(p *Portal, ctx context.Context, a oauth.Actor, id string) bool
}

var deeds = map[string]deed{
	"suspend-app": {section: "/operator/apps", asks: true, ends: true, do: (*oauth.Server).SuspendClient, name: (*Portal).appName,
		so: appIs(func(c *oauth.Client) bool { return c.Status == oauth.Suspended })},
	"resume-app": {section: "/operator/apps", do: (*oauth.Server).ResumeClient, name: (*Portal).appName,
		so: appIs(func(c *oauth.Client) bool { return c.Status == oauth.Active })},
	"verify-app": {section: "/operator/apps", asks: true, name: (*Portal).appName, facts: (*Portal).appFacts, at: func(s *oauth.Server, ctx context.Context, a oauth.Actor, id string, version int64) error {
		return s.VerifyClient(ctx, a, id, version, true)
	}, so: appIs(func(c *oauth.Client) bool { return c.Settings.Verified })},
	"unverify-app": {section: "/operator/apps", name: (*Portal).appName, at: func(s *oauth.Server, ctx context.Context, a oauth.Actor, id string, version int64) error {
		return s.VerifyClient(ctx, a, id, version, false)
	}, so: appIs(func(c *oauth.Client) bool { return !c.Settings.Verified })},
	"suspend-user": {section: "/operator/users", asks: true, ends: true, do: (*oauth.Server).SuspendUser, name: (*Portal).userName, so: userIs(oauth.Suspended)},
	"resume-user":  {section: "/operator/users", do: (*oauth.Server).ResumeUser, name: (*Portal).userName, so: userIs(oauth.Active)},
	"revoke-grant": {section: "/operator/grants", asks: true, ends: true, do: (*oauth.Server).RevokeGrant, name: (*Portal).grantName, facts: (*Portal).grantFacts,
		so: func(p *Portal, ctx context.Context, a oauth.Actor, id string) bool {
			c, _, err := p.grant(ctx, a, id)
			return err == nil && c.Status == oauth.GrantIsRevoked
		}},
}

func appIs(so func(*oauth.Client) bool) func(*Portal, context.Context, oauth.Actor, string) bool {
	return func(p *Portal, ctx context.Context, a oauth.Actor, id string) bool {
		c, err := p.server.MyClient(ctx, a, id)
		return err == nil && so(c)
	}
}

func userIs(status oauth.Status) func(*Portal, context.Context, oauth.Actor, string) bool {
	return func(p *Portal, ctx context.Context, a oauth.Actor, id string) bool {
		u, err := p.server.User(ctx, a, id)
		return err == nil && u.Status == status
	}
}

func (p *Portal) appName(ctx context.Context, a oauth.Actor, id string) (string, error) {
	c, err := p.server.MyClient(ctx, a, id)
	if err != nil {
		return "", err
	}
	return c.Name, nil
}

// appFacts is what the badge of an app stands for, and goes with (attack B5).
func (p *Portal) appFacts(r *http.Request, a oauth.Actor, id string) ([]confirmFact, int64, error) {
	c, err := p.server.MyClient(r.Context(), a, id)
	if err != nil {
		return nil, 0, err
	}
	owner := confirmFact{Label: "list.owner", Say: "list.nobody"}
	if c.Owner != "" {
		name, err := p.userName(r.Context(), a, c.Owner)
		switch {
		case oauth.ReasonOf(err) == oauth.NoSuch:
			name = c.Owner
		case err != nil:
			return nil, 0, err
		}
		owner = confirmFact{Label: "list.owner", Texts: []string{name}}
	}
	facts := []confirmFact{owner}
	for _, link := range []struct{ label, to string }{{"form.homepage", c.Settings.Homepage}, {"form.privacy", c.Settings.Privacy}, {"form.terms", c.Settings.Terms}} {
		f := confirmFact{Label: link.label, Say: "ask.none"}
		if link.to != "" {
			f = confirmFact{Label: link.label, Link: link.to}
		}
		facts = append(facts, f)
	}
	hosts := confirmFact{Label: "ask.hosts"}
	for _, uri := range c.Redirects {
		if to, ok := c.RedirectTo(string(uri)); ok && !slices.Contains(hosts.Texts, to.Host()) {
			hosts.Texts = append(hosts.Texts, to.Host())
		}
	}
	asks := confirmFact{Label: "rail.scopes", Say: "ask.none"}
	for _, s := range describe(p.server.Catalogue(), p.pages.language(r), c.ScopeSet()) {
		asks.Say, asks.Scopes = "", append(asks.Scopes, s.scopeView)
	}
	return append(facts, hosts, asks), c.Version, nil
}

func (p *Portal) userName(ctx context.Context, a oauth.Actor, id string) (string, error) {
	u, err := p.server.User(ctx, a, id)
	if err != nil {
		return "", err
	}
	return personName(u), nil
}

// personName is what is known of a user, at least the id.
func personName(u *oauth.User) string { return cmp.Or(u.Email, u.Name, u.ID) }

// grantName is whose app and whose account: a grant has no name of its own.
func (p *Portal) grantName(ctx context.Context, a oauth.Actor, id string) (string, error) {
	c, person, err := p.grant(ctx, a, id)
	if err != nil {
		return "", err
	}
	return c.Client.Name + ", " + person, nil
}

// grant reads a connection and the name of its person.
func (p *Portal) grant(ctx context.Context, a oauth.Actor, id string) (*oauth.Connection, string, error) {
	found, err := p.server.Grants(ctx, a, oauth.GrantFilter{ID: id, Page: oauth.Page{Limit: 1}})
	switch {
	case err != nil:
		return nil, "", err
	case id == "" || len(found) == 0:
		return nil, "", oauth.Refuse(oauth.NoSuch)
	}
	person, err := p.userName(ctx, a, found[0].UserID)
	return &found[0], person, err
}

// grantFacts says what a connection is before it ends.
func (p *Portal) grantFacts(r *http.Request, a oauth.Actor, id string) ([]confirmFact, int64, error) {
	c, person, err := p.grant(r.Context(), a, id)
	if err != nil {
		return nil, 0, err
	}
	facts := []confirmFact{{Label: "events.app", Texts: []string{c.Client.Name}}, {Label: "events.user", Texts: []string{person}}}
	stores := confirmFact{Label: "rail.stores"}
	switch {
	case c.AllStores:
		stores.Say = "grants.all_stores"
	case len(c.Stores) == 0:
		stores.Say = "grants.account_only"
	default:
		for _, s := range c.Stores {
			stores.Texts = append(stores.Texts, s.StoreName)
		}
	}
	return append(facts, stores), c.Rev, nil
}

// inID is the part of a message id that stands for a deed.
func inID(what string) string { return strings.ReplaceAll(what, "-", "_") }

// pressApp makes the button of a deed that is done to an app, of the version shown where that counts.
func pressApp(what string, c *oauth.Client) pressView {
	v := press(what, c.ID, c.Name)
	if d := deeds[what]; d.at != nil && !d.asks {
		v.Fields = append(v.Fields, formField{"version", strconv.FormatInt(c.Version, 10)})
	}
	return v
}

// press makes the button of a deed.
func press(what, id, of string) pressView {
	d := deeds[what]
	v := pressView{Label: "do." + inID(what), For: of, Bad: d.ends}
	if d.asks {
		v.Href = with("/operator/do/"+what, "id", id)
	} else {
		v.Action, v.Fields = "/operator/do/"+what, []formField{{"id", id}}
	}
	return v
}

// operatorAsk asks before something ends, and before the operator vouches for what he has not seen.
func (p *Portal) operatorAsk(w http.ResponseWriter, r *http.Request, o *operator) {
	what, id := r.PathValue("what"), r.URL.Query().Get("id")
	d, ok := deeds[what]
	if !ok || !d.asks || id == "" {
		p.lost(w, r)
		return
	}
	var facts []confirmFact
	var version int64
	var err error
	if d.facts != nil { // before the name, so that the page shows nothing older than its version
		if facts, version, err = d.facts(p, r, o.actor(), id); err != nil {
			p.fail(w, r, err)
			return
		}
	}
	name, err := d.name(p, r.Context(), o.actor(), id)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	fields := []formField{{"id", id}}
	if d.at != nil {
		fields = append(fields, formField{"version", strconv.FormatInt(version, 10)})
	}
	heading := "ask." + inID(what)
	p.pages.render(w, r, http.StatusOK, page{Name: "operator_confirm", Title: heading, TitleOf: []any{"Of", name}, Frame: frameWide, Section: "operator", Account: o.account(), Body: confirmView{
		Facts: facts, Small: id, Rail: operatorRail(d.section), Heading: heading, What: heading + "_what", Of: name, Detail: id,
		Action: "/operator/do/" + what, Back: d.section, Fields: fields, Button: "do." + inID(what), Bad: d.ends,
	}})
}

func (p *Portal) operatorDo(w http.ResponseWriter, r *http.Request, o *operator) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	what, id := r.PathValue("what"), f.Get("id")
	d, ok := deeds[what]
	if !ok {
		p.lost(w, r)
		return
	}
	done := what
	var err error
	if d.at != nil {
		version, _ := strconv.ParseInt(f.Get("version"), 10, 64) // what is no number was shown nowhere
		err = d.at(p.server, r.Context(), o.actor(), id, version)
	} else {
		err = d.do(p.server, r.Context(), o.actor(), id)
	}
	switch {
	case err == nil:
		p.settle(w, r)
	case oauth.ReasonOf(err) == oauth.Changed && d.at != nil:
		done = "changed"
	case oauth.ReasonOf(err) == oauth.Changed: // pressed twice, or somebody else was first
		done = "nothing"
	default:
		p.fail(w, r, err)
		return
	}
	p.goTo(w, d.section+"?"+url.Values{"done": {done}, "of": {id}}.Encode())
}

// operatorResult is the notice after a deed, as far as it is so: anybody may have made the address. The name is looked up
// anew: nothing of the address is shown.
func (p *Portal) operatorResult(r *http.Request, o *operator) *resultView {
	q := r.URL.Query()
	what := q.Get("done")
	switch what {
	case "nothing":
		return &resultView{"warn", "did.nothing", ""}
	case "changed":
		return &resultView{"warn", "result.changed", ""}
	}
	d, ok := deeds[what]
	if !ok || d.section != r.URL.Path || !d.so(p, r.Context(), o.actor(), q.Get("of")) {
		return nil
	}
	name, err := d.name(p, r.Context(), o.actor(), q.Get("of"))
	if err != nil {
		return nil
	}
	return &resultView{"good", "did." + inID(what), name}
}

// names remembers who and what was looked up for one page.
type names struct {
	p     *Portal
	ctx   context.Context
	actor oauth.Actor
	apps  map[string]*oauth.Client
	users map[string]string
}

func (p *Portal) names(r *http.Request, o *operator) *names {
	return &names{p, r.Context(), o.actor(), map[string]*oauth.Client{}, map[string]string{}}
}

// app returns an app, or one that has its id for a name if it is deleted.
func (n *names) app(id string) (*oauth.Client, error) {
	if c, ok := n.apps[id]; ok {
		return c, nil
	}
	c, err := n.p.server.MyClient(n.ctx, n.actor, id)
	if errors.Is(err, &oauth.Error{Code: oauth.NotFound}) {
		c, err = &oauth.Client{ID: id, Name: id, Status: oauth.Deleted}, nil
	}
	n.apps[id] = c
	return c, err
}

func (n *names) user(id string) (personView, error) {
	v := personView{Href: with("/operator/users", "q", id)}
	if name, ok := n.users[id]; ok {
		v.Text = name
		return v, nil
	}
	u, err := n.p.server.User(n.ctx, n.actor, id)
	switch {
	case oauth.ReasonOf(err) == oauth.NoSuch:
		v.Text = id
	case err != nil:
		return v, err
	default:
		v.Text = personName(u)
	}
	n.users[id] = v.Text
	return v, nil
}

// operatorApps lists apps by name. Search matches any part of the name, or a whole id or owner id.
func (p *Portal) operatorApps(w http.ResponseWriter, r *http.Request, o *operator) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	number := pageOf(r.URL.Query().Get("page"))
	apps, err := p.findApps(r.Context(), o.actor(), q, (number-1)*rowsPerPage, rowsPerPage+1)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := operatorAppsView{Rail: operatorRail("/operator/apps"), Result: p.operatorResult(r, o), Search: searchView{Action: "/operator/apps", Label: "find.apps", Query: q}}
	view.Pager, apps = pageLinks(apps, number, "/operator/apps", queryOf("q", q))
	names := p.names(r, o)
	for _, c := range apps {
		row := operatorApp{ID: c.ID, App: appOf(c), Type: kindOf(c), Status: c.Status, Created: c.Created,
			Grants: with("/operator/grants", "app", c.ID), Events: with("/operator", "app", c.ID)}
		if c.Owner != "" {
			if row.Owner, err = names.user(c.Owner); err != nil {
				p.fail(w, r, err)
				return
			}
		}
		what := []string{"verify-app", "suspend-app"}
		if c.Settings.Verified {
			what[0] = "unverify-app"
		}
		if c.Status == oauth.Suspended {
			what[1] = "resume-app"
		}
		for _, w := range what {
			row.Presses = append(row.Presses, pressApp(w, c))
		}
		view.Rows = append(view.Rows, row)
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_apps", view)
}

// findApps returns the apps that match from offset on, at most limit. The list is read in pages and no further than needed.
func (p *Portal) findApps(ctx context.Context, a oauth.Actor, q string, offset, limit int) ([]*oauth.Client, error) {
	if q == "" {
		return p.server.Clients(ctx, a, true, oauth.Page{Offset: offset, Limit: limit})
	}
	wanted := strings.ToLower(q)
	const batch = 500
	var found []*oauth.Client
	for from := 0; ; from += batch {
		apps, err := p.server.Clients(ctx, a, true, oauth.Page{Offset: from, Limit: batch})
		if err != nil {
			return nil, err
		}
		for _, c := range apps {
			if c.ID == q || c.Owner == q || strings.Contains(strings.ToLower(c.Name), wanted) {
				found = append(found, c)
			}
		}
		if len(found) >= offset+limit || len(apps) < batch {
			break
		}
	}
	return found[min(offset, len(found)):min(offset+limit, len(found))], nil
}

// queryOf makes a query of what is not empty.
func queryOf(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func (p *Portal) operatorUsers(w http.ResponseWriter, r *http.Request, o *operator) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	number := pageOf(r.URL.Query().Get("page"))
	users, err := p.server.Users(r.Context(), o.actor(), q, oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1})
	if err == nil && q != "" && number == 1 {
		// An id in full finds its user, a guest too.
		var one *oauth.User
		one, err = p.server.User(r.Context(), o.actor(), q)
		switch {
		case oauth.ReasonOf(err) == oauth.NoSuch:
			err = nil
		case err == nil && !slices.ContainsFunc(users, func(u *oauth.User) bool { return u.ID == one.ID }):
			users = slices.Insert(users, 0, one)
		}
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := operatorUsersView{Rail: operatorRail("/operator/users"), Result: p.operatorResult(r, o), Search: searchView{Action: "/operator/users", Label: "find.users", Query: q}}
	view.Pager, users = pageLinks(users, number, "/operator/users", queryOf("q", q))
	for _, u := range users {
		row := operatorUser{ID: u.ID, Name: u.Name, Email: u.Email, Operator: u.Operator, Self: u.ID == o.User.ID, Status: u.Status, Created: u.Created,
			Grants: with("/operator/grants", "user", u.ID), Events: with("/operator", "user", u.ID)}
		switch {
		case u.Status == oauth.Suspended:
			row.Presses = []pressView{press("resume-user", u.ID, personName(u))}
		case !row.Self:
			row.Presses = []pressView{press("suspend-user", u.ID, personName(u))}
		}
		view.Rows = append(view.Rows, row)
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_users", view)
}

func (p *Portal) operatorStores(w http.ResponseWriter, r *http.Request, o *operator) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	number := pageOf(r.URL.Query().Get("page"))
	stores, err := p.server.Stores(r.Context(), o.actor(), q, oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := operatorStoresView{Rail: operatorRail("/operator/stores"), Search: searchView{Action: "/operator/stores", Label: "find.stores", Query: q}}
	view.Pager, stores = pageLinks(stores, number, "/operator/stores", queryOf("q", q))
	for _, s := range stores {
		view.Rows = append(view.Rows, operatorStore{s.ID, s.Name, s.Domain, s.Status, s.Created, with("/operator/grants", "store", s.ID)})
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_stores", view)
}

// storesNamed is how many stores of a grant a row names.
const storesNamed = 3

func (p *Portal) operatorGrants(w http.ResponseWriter, r *http.Request, o *operator) {
	q := r.URL.Query()
	number := pageOf(q.Get("page"))
	filter := oauth.GrantFilter{UserID: strings.TrimSpace(q.Get("user")), ClientID: strings.TrimSpace(q.Get("app")), StoreID: strings.TrimSpace(q.Get("store")),
		OnlyLive: q.Get("all") == "", Page: oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1}}
	grants, err := p.server.Grants(r.Context(), o.actor(), filter)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	names := p.names(r, o)
	kept := queryOf("user", filter.UserID, "app", filter.ClientID, "store", filter.StoreID)
	view := operatorGrantsView{Rail: operatorRail("/operator/grants"), Result: p.operatorResult(r, o), Live: filter.OnlyLive, Search: searchView{Action: "/operator/grants", Clear: "/operator/grants"}}
	view.Search.Narrowed = []narrowed{{"filter.app", "app", filter.ClientID}, {"filter.user", "user", filter.UserID}, {"filter.store", "store", filter.StoreID}}
	if filter.OnlyLive {
		toggle := queryOf("user", filter.UserID, "app", filter.ClientID, "store", filter.StoreID, "all", "1")
		view.Toggle = "/operator/grants?" + toggle.Encode()
	} else {
		view.Toggle = strings.TrimSuffix("/operator/grants?"+kept.Encode(), "?")
		kept.Set("all", "1")
	}
	view.Pager, grants = pageLinks(grants, number, "/operator/grants", kept)
	for i := range grants {
		g := &grants[i]
		row := operatorGrant{ID: g.ID, App: appOf(&g.Client), AppHref: with("/operator/apps", "q", g.ClientID), All: g.AllStores, Scopes: len(g.Held()), Keys: g.Keys,
			Status: g.Status, Created: g.Created, LastUsed: g.LastUsed, Events: with("/operator", "grant", g.ID)}
		if row.User, err = names.user(g.UserID); err != nil {
			p.fail(w, r, err)
			return
		}
		for _, s := range g.Stores {
			row.Stores = append(row.Stores, s.StoreName)
		}
		if len(row.Stores) > storesNamed {
			row.More, row.Stores = len(row.Stores)-storesNamed, row.Stores[:storesNamed]
		}
		if g.Status != oauth.GrantIsRevoked {
			row.Presses = []pressView{press("revoke-grant", g.ID, g.Client.Name)}
		}
		view.Rows = append(view.Rows, row)
	}
	p.operatorPage(w, r, o, http.StatusOK, "operator_grants", view)
}
