package portal

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// changePath is the page on which a visitor changes a connection, or what an app may do in one store of it.
func changePath(grant, store string) string {
	q := url.Values{"grant": {grant}}
	if store != "" {
		q.Set("only", store)
	}
	return "/connected-apps/change?" + q.Encode()
}

// changing is the form of that page as it stands.
type changing struct {
	grant, only string
	rev         string     // of the grant that the visitor saw
	ticks       url.Values // what is ticked; nil: what the grant has
	pick        pick
	problem     string
}

// mixed is the field of a scope that holds in some stores of a grant: "every", "stay" or "none".
func mixed(scope string) string { return "scope:" + scope }

// changes are the fields of the page that a visitor decides by.
func changes(name string) bool {
	return ticks(name) || name == "rev" || strings.HasPrefix(name, mixed(""))
}

func (p *Portal) showChange(w http.ResponseWriter, r *http.Request, v *visitor) {
	q := r.URL.Query()
	c := changing{grant: q.Get("grant"), only: q.Get("only")}
	if f := p.takeForm(w, r, v, changePath(c.grant, c.only)); f != nil {
		c.ticks, c.rev, c.pick.Ticked = f, f.Get("rev"), f["store"]
	}
	p.changePage(w, r, v, http.StatusOK, c)
}

// changePage shows what can be changed of a connection.
func (p *Portal) changePage(w http.ResponseWriter, r *http.Request, v *visitor, status int, c changing) {
	ed, err := p.server.Editable(r.Context(), v.actor(), c.grant)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if c.rev == "" {
		c.rev = strconv.FormatInt(ed.Grant.Rev, 10)
	}
	language := p.pages.language(r)
	view := changeView{App: appOf(ed.Client), Grant: c.grant, Only: c.only, Rev: c.rev, Of: formFor(v, changePath(c.grant, c.only)), Problem: c.problem}
	var stores []storeChip
	var rows []storeRow
	has := map[string]bool{}
	for _, s := range ed.Stores {
		row := storeRow{ID: s.StoreID, Name: s.StoreName, Domain: s.StoreDomain}
		if has[s.StoreID] = s.Ticked; !s.Ticked && !s.May {
			row.Reason = "reason.not_yours"
		}
		if s.Ticked && c.ticks == nil {
			c.pick.Ticked = append(c.pick.Ticked, s.StoreID)
		}
		rows = append(rows, row)
		if s.Ticked {
			stores = append(stores, storeChip{s.StoreID, s.StoreName})
		}
	}
	sortByName(stores, language, func(s storeChip) string { return s.Name })
	if c.only != "" {
		i := slices.IndexFunc(stores, func(s storeChip) bool { return s.ID == c.only })
		if i < 0 {
			p.lost(w, r)
			return
		}
		view.Store = stores[i].Name
	}
	p.changeScopes(&view, ed, language, c)
	name := "change"
	if c.only != "" {
		name = "change_store"
	} else if slices.ContainsFunc(ed.Scopes, func(s oauth.HeldScope) bool { return s.Kind == oauth.StoreScope }) && len(rows) > 0 {
		sortByName(rows, language, func(s storeRow) string { return s.Name })
		view.Picker = newPicker(rows, c.pick)
		for i := range view.Picker.Rows { // the form may be older than the grant
			switch row := &view.Picker.Rows[i]; {
			case has[row.ID] && !row.Ticked:
				row.Note = "stores.has"
			case !has[row.ID] && row.Ticked:
				row.Note = "stores.has_not"
			}
		}
		view.NoStore = slices.ContainsFunc(ed.Scopes, func(s oauth.HeldScope) bool { return s.Kind == oauth.AccountScope })
		view.Picker.Later, view.Picker.Every = "stores.later", ed.Grant.AllStores
		if c.ticks != nil {
			view.Picker.Every = c.ticks.Has("all_stores")
		}
		if len(stores) > 1 && slices.ContainsFunc(ed.Scopes, func(s oauth.HeldScope) bool { return s.Kind == oauth.StoreScope && !s.Required }) {
			view.Each = stores
			if len(stores) > chipsShown {
				view.Each, view.More = stores[:chipsShown], stores[chipsShown:]
			}
		}
	}
	p.pages.render(w, r, status, page{Name: name, TitleOf: []any{"App", view.App.Name, "Store", view.Store}, Section: "connected", Account: v.account(), Body: view})
}

// changeScopes fills in what the app may do: what can be taken away, what differs between stores, what stays.
func (p *Portal) changeScopes(view *changeView, ed *oauth.Editable, language string, c changing) {
	held := map[string]oauth.HeldScope{}
	var names []string
	for _, s := range ed.Scopes {
		if c.only == "" || s.Kind == oauth.StoreScope {
			held[s.Name] = s
			names = append(names, s.Name)
		}
	}
	var fixed []askedScope
	for _, s := range describe(p.server.Catalogue(), language, oauth.Scopes(names...)) {
		h := held[s.Name]
		in := ed.Grant.ScopesIn(c.only).Has(s.Name)
		switch {
		case h.Required && (h.Always || c.only != "" && in):
			fixed = append(fixed, s)
		case c.only != "" && h.Gone && !in:
		case h.Always || c.only != "":
			s.Ticked = h.Always || in
			if c.ticks != nil {
				s.Ticked = slices.Contains(c.ticks["scope"], s.Name)
			}
			view.Optional = append(view.Optional, s.scopeView)
		default:
			m := mixedScope{scopeView: s.scopeView, Field: mixed(s.Name), In: h.In, Of: h.Of, Required: h.Required, Gone: h.Gone, Choice: "stay"}
			if chosen := c.ticks.Get(m.Field); chosen == "every" || chosen == "none" {
				m.Choice = chosen
			}
			view.Mixed = append(view.Mixed, m)
		}
	}
	view.Fixed = sections(fixed)
}

// change takes the form: a turn of the store list, which keeps what is ticked, or Save.
func (p *Portal) change(w http.ResponseWriter, r *http.Request) {
	f, ok := p.form(w, r, storeForm)
	if !ok {
		return
	}
	c := changing{grant: f.Get("grant"), only: f.Get("only"), rev: f.Get("rev"), ticks: f, pick: readPick(f)}
	v, err := p.visitor(r)
	switch {
	case err != nil:
		p.fail(w, r, err)
		return
	case v == nil: // signed out halfway: sign in, and what is ticked is there again
		p.goTo(w, signInBecause(p.keepForm(w, f, changes), changePath(c.grant, c.only)))
		return
	case !f.Has("save"):
		p.changePage(w, r, v, http.StatusOK, c)
		return
	}
	before, err := p.server.Editable(r.Context(), v.actor(), c.grant)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	changed, err := p.saveChange(r, v, c)
	switch oauth.ReasonOf(err) {
	case oauth.Changed, oauth.StoreForeign:
		c.problem, c.rev = "change.conflict", "" // what is ticked stays, and the next Save is of the grant as it is now
	case oauth.StoreNone:
		c.problem = "change.no_store"
	case oauth.NothingLeft:
		c.problem = "change.nothing_left"
	default:
		q := url.Values{}
		if err == nil && changed {
			q, err = p.whatChanged(r, v, before, c)
		}
		message := doneChanged
		if !changed {
			message = doneSame
		}
		p.done(w, r, &oauth.Connection{Grant: before.Grant}, message, q, err)
		return
	}
	p.changePage(w, r, v, http.StatusUnprocessableEntity, c)
}

func (p *Portal) saveChange(r *http.Request, v *visitor, c changing) (bool, error) {
	rev, err := strconv.ParseInt(c.rev, 10, 64)
	if err != nil {
		return false, oauth.Refuse(oauth.Changed)
	}
	e := oauth.GrantEdit{Rev: rev, Stores: c.ticks["store"], AllStores: c.ticks.Has("all_stores"), Scopes: slices.Clone(c.ticks["scope"])}
	if c.only != "" {
		return p.server.EditStore(r.Context(), v.actor(), c.grant, c.only, rev, e.Scopes)
	}
	for field := range c.ticks {
		name, ok := strings.CutPrefix(field, mixed(""))
		switch {
		case ok && c.ticks.Get(field) == "every":
			e.Scopes = append(e.Scopes, name)
		case ok && c.ticks.Get(field) == "stay":
			e.Stay = append(e.Stay, name)
		}
	}
	return p.server.EditGrant(r.Context(), v.actor(), c.grant, e)
}

// mostChanges is how many changes of a kind are named after Save.
const mostChanges = 8

// whatChanged says by ids what Save did, as the address of the list has it.
func (p *Portal) whatChanged(r *http.Request, v *visitor, before *oauth.Editable, c changing) (url.Values, error) {
	after, err := p.server.Editable(r.Context(), v.actor(), c.grant)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	add := func(kind, id string) {
		if len(q[kind]) < mostChanges {
			q.Add(kind, id)
		} else {
			q.Set("more", "1")
		}
	}
	if c.only != "" {
		q.Set("only", c.only)
		was, is := before.Grant.ScopesIn(c.only), after.Grant.ScopesIn(c.only)
		for _, name := range was.Without(is) {
			add("dropped", name)
		}
		for _, name := range is.Without(was) {
			add("given", name)
		}
		return q, nil
	}
	for _, s := range before.Stores {
		i := slices.IndexFunc(after.Stores, func(x oauth.StoreChoice) bool { return x.StoreID == s.StoreID })
		switch {
		case i >= 0 && after.Stores[i].Ticked && !s.Ticked:
			add("added", s.StoreID)
		case i >= 0 && !after.Stores[i].Ticked && s.Ticked:
			add("left", s.StoreID)
		}
	}
	for _, s := range before.Scopes {
		i := slices.IndexFunc(after.Scopes, func(x oauth.HeldScope) bool { return x.Name == s.Name })
		switch {
		case i < 0:
			add("dropped", s.Name)
		case after.Scopes[i].Always && !s.Always:
			add("given", s.Name)
		}
	}
	if was, is := before.Grant.AllStores, after.Grant.AllStores; was != is {
		q.Set("later", strconv.FormatBool(is))
	}
	return q, nil
}

// changesDone puts into words what the address says that Save did. Anybody may have made the address: what is not so is
// left out.
func (p *Portal) changesDone(r *http.Request, v *visitor, grant string) (*doneView, error) {
	q := r.URL.Query()
	ed, err := p.server.Editable(r.Context(), v.actor(), grant)
	if oauth.AsError(err).Code == oauth.NotFound && err != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	done := &doneView{ID: "done.changed", App: ed.Client.Name}
	say := func(id, store, what string) { done.Lines = append(done.Lines, doneLine{id, store, what}) }
	store := func(id string) *oauth.StoreChoice {
		for i := range ed.Stores {
			if ed.Stores[i].StoreID == id {
				return &ed.Stores[i]
			}
		}
		return nil
	}
	for _, id := range first(q["added"]) {
		if s := store(id); s != nil && s.Ticked {
			say("done.added", s.StoreName, "")
		}
	}
	for _, id := range first(q["left"]) {
		if s := store(id); s != nil && !s.Ticked {
			say("done.left", s.StoreName, "")
		}
	}
	if q.Has("left") && !slices.ContainsFunc(ed.Stores, func(s oauth.StoreChoice) bool { return s.Ticked }) {
		say("done.no_store", "", "")
	}
	only, in := store(q.Get("only")), oauth.ScopeSet(nil)
	if only != nil {
		in = ed.Grant.ScopesIn(only.StoreID)
	}
	sentences := func(names []string, id string, so func(*oauth.HeldScope) bool) {
		for _, s := range describe(p.server.Catalogue(), p.pages.language(r), oauth.Scopes(first(names)...)) {
			var held *oauth.HeldScope
			if i := slices.IndexFunc(ed.Scopes, func(h oauth.HeldScope) bool { return h.Name == s.Name }); i >= 0 {
				held = &ed.Scopes[i]
			}
			switch {
			case only != nil && only.Ticked && in.Has(s.Name) == (id == "done.given"):
				say(strings.Replace(id, "done.", "done.in_", 1), only.StoreName, s.Sentence)
			case !q.Has("only") && so(held):
				say(id, "", s.Sentence)
			}
		}
	}
	sentences(q["dropped"], "done.dropped", func(h *oauth.HeldScope) bool { return h == nil })
	sentences(q["given"], "done.given", func(h *oauth.HeldScope) bool { return h != nil && h.Always })
	if later := q.Get("later"); later == strconv.FormatBool(ed.Grant.AllStores) {
		say("done.later_"+later, "", "")
	}
	if len(done.Lines) == 0 {
		return nil, nil
	}
	if q.Has("more") {
		say("done.more", "", "")
	}
	return done, nil
}

func first(list []string) []string { return list[:min(len(list), mostChanges)] }
