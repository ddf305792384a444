package portal

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// staleAfter is when an app that nobody uses is marked, so that it can be cleared away.
const staleAfter = 90 * 24 * time.Hour

// connectedApps lists what the visitor has connected, below what the last press did.
func (p *Portal) connectedApps(w http.ResponseWriter, r *http.Request, v *visitor) {
	number := pageOf(r.URL.Query().Get("page"))
	connections, err := p.server.ConnectedApps(r.Context(), v.actor(), oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if len(connections) == 0 && number > 1 { // what stood here has ended
		p.goTo(w, "/connected-apps")
		return
	}
	view := connectedView{}
	if view.Done, err = p.whatWasDone(r, v); err != nil {
		p.fail(w, r, err)
		return
	}
	view.Pager, connections = pageLinks(connections, number, "/connected-apps", url.Values{})
	language := p.pages.language(r)
	for i := range connections {
		view.Apps = append(view.Apps, p.connectedApp(&connections[i], language))
	}
	others, err := p.server.AppsOfOthers(r.Context(), v.actor(), "", oauth.Page{Limit: 1})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view.Others = len(others) > 0
	p.pages.render(w, r, http.StatusOK, page{Name: "connected", Section: "connected", Account: v.account(), Body: view})
}

func (p *Portal) connectedApp(c *oauth.Connection, language string) connectedApp {
	app := connectedApp{
		Grant: c.ID, App: appOf(&c.Client), AllStores: c.AllStores, Sections: sections(describe(p.server.Catalogue(), language, c.Held())),
		Since: c.Created, LastUsed: c.LastUsed, Keys: c.Keys,
		Paused: c.Status == oauth.GrantOnHold || c.Client.Status == oauth.Suspended,
	}
	// What was never used is stale from the day it was connected on.
	used := c.LastUsed
	if used.IsZero() {
		used = c.Created
	}
	app.Stale = p.server.Now().Sub(used) > staleAfter
	for _, s := range c.Stores {
		app.Stores = append(app.Stores, storeChip{s.StoreID, s.StoreName})
	}
	sortByName(app.Stores, language, func(s storeChip) string { return s.Name })
	app.But = slices.ContainsFunc(c.Grant.Stores, func(s oauth.GrantStore) bool { return s.Scopes != nil && len(s.Scopes) == 0 })
	app.Alone = len(app.Stores) == 1 && len(c.Account) == 0
	app.fold()
	return app
}

// mine finds a connection of the visitor that has not ended, or nil.
func (p *Portal) mine(r *http.Request, v *visitor, grant string) (*oauth.Connection, error) {
	c, err := p.once(r, v, grant)
	if c == nil || c.Status != oauth.Live && c.Status != oauth.GrantOnHold || c.Client.Status == oauth.Deleted {
		return nil, err
	}
	return c, nil
}

// once finds a connection of the visitor, also one that has ended, or nil.
func (p *Portal) once(r *http.Request, v *visitor, grant string) (*oauth.Connection, error) {
	c, err := p.server.ConnectedApp(r.Context(), v.actor(), grant)
	if oauth.ReasonOf(err) == oauth.NoSuch {
		return nil, nil
	}
	return c, err
}

// revokeApp ends a connection. Pressed again, in another tab or by a reload, it says that nothing was left to end.
func (p *Portal) revokeApp(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c, err := p.mine(r, v, f.Get("grant"))
	if err == nil && c != nil {
		err = p.server.RevokeGrant(r.Context(), v.actor(), c.ID)
	}
	p.done(w, r, c, doneRevoked, url.Values{}, err)
}

// removeStore takes one store from a connection.
func (p *Portal) removeStore(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c, err := p.mine(r, v, f.Get("grant"))
	message := doneRemoved
	if err == nil && c != nil {
		var revoked bool
		if revoked, err = p.server.RemoveStore(r.Context(), v.actor(), c.ID, f.Get("store")); revoked {
			message = doneRevoked
		}
	}
	q := url.Values{}
	if message == doneRemoved {
		q.Set("store", f.Get("store"))
	}
	p.done(w, r, c, message, q, err)
}

// done leads from a press back to the list, whatever was pressed: every change of a connection by its user comes through
// here. The address carries ids alone: the list looks up whether it happened, and the names.
func (p *Portal) done(w http.ResponseWriter, r *http.Request, c *oauth.Connection, message string, q url.Values, err error) {
	gone := err == nil && c == nil || errors.Is(err, &oauth.Error{Reason: oauth.NoSuch}) || errors.Is(err, &oauth.Error{Reason: oauth.Changed})
	switch {
	case err != nil && !gone:
		p.fail(w, r, err)
		return
	case gone:
		q = url.Values{"done": {doneGone}}
	default:
		p.settle(w, r)
		q.Set("done", message)
		q.Set("grant", c.ID)
	}
	p.goTo(w, "/connected-apps?"+q.Encode())
}

// settle waits until every API server goes by what was just done, because the page that comes says "from this moment on".
// What was done is done if it cannot: then nobody is left to read that page.
func (p *Portal) settle(w http.ResponseWriter, r *http.Request) {
	if room, ok := w.(interface{ Holding() }); ok {
		room.Holding()
	}
	_, _ = p.server.Effective(r.Context())
}

// What a press on connected apps did, as the address of the list says it.
const (
	doneRevoked = "revoked"
	doneRemoved = "removed"
	doneChanged = "changed"
	doneSame    = "same"
	doneGone    = "gone"
)

// whatWasDone reads what the last press did. Anybody may have made the address, so that nothing is said of what is not
// so; nil says nothing.
func (p *Portal) whatWasDone(r *http.Request, v *visitor) (*doneView, error) {
	q := r.URL.Query()
	switch q.Get("done") {
	case doneGone:
		return &doneView{ID: "done.gone"}, nil
	case doneSame:
		return &doneView{ID: "done.same"}, nil
	case doneChanged:
		return p.changesDone(r, v, q.Get("grant"))
	case doneRevoked:
		c, err := p.once(r, v, q.Get("grant"))
		if err != nil || c == nil || c.Status != oauth.GrantIsRevoked {
			return nil, err
		}
		return &doneView{ID: "done.revoked", App: c.Client.Name}, nil
	case doneRemoved:
		c, err := p.mine(r, v, q.Get("grant"))
		if err != nil || c == nil || slices.ContainsFunc(c.Stores, func(s oauth.Membership) bool { return s.StoreID == q.Get("store") }) {
			return nil, err
		}
		stores, err := p.server.Memberships(r.Context(), v.actor(), v.User.ID)
		if err != nil {
			return nil, err
		}
		for _, s := range stores {
			if s.StoreID == q.Get("store") {
				done := &doneView{ID: "done.removed", App: c.Client.Name, Store: s.StoreName}
				if len(c.Stores) == 0 {
					done.ID = "done.removed_last"
				}
				return done, nil
			}
		}
	}
	return nil, nil
}
