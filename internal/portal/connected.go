package portal

import (
	"errors"
	"net/http"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// staleAfter is when an app that nobody uses is marked, so that it can be cleared away.
const staleAfter = 90 * 24 * time.Hour

func (p *Portal) connectedApps(w http.ResponseWriter, r *http.Request, v *visitor) {
	p.showConnected(w, r, v, nil)
}

func (p *Portal) showConnected(w http.ResponseWriter, r *http.Request, v *visitor, done *doneView) {
	connections, err := p.server.ConnectedApps(r.Context(), v.actor())
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := connectedView{Done: done}
	language := p.pages.language(r)
	for i := range connections {
		view.Apps = append(view.Apps, p.connectedApp(&connections[i], language))
	}
	p.pages.render(w, r, http.StatusOK, page{Name: "connected", Section: "connected", Account: v.account(), Body: view})
}

func (p *Portal) connectedApp(c *oauth.Connection, language string) connectedApp {
	scopes := c.Scopes.Or(c.Account)
	for _, s := range c.Grant.Stores {
		scopes = scopes.Or(s.Scopes)
	}
	app := connectedApp{
		Grant: c.ID, App: appOf(&c.Client), AllStores: c.AllStores, Sections: sections(describe(p.server.Catalogue(), language, scopes)),
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
	app.Alone = len(app.Stores) == 1 && len(c.Account) == 0
	app.fold()
	return app
}

// mine finds a connection of the visitor, so that the answer can name it.
func (p *Portal) mine(r *http.Request, v *visitor, grant string) (*oauth.Connection, error) {
	connections, err := p.server.ConnectedApps(r.Context(), v.actor())
	if err != nil {
		return nil, err
	}
	for i := range connections {
		if connections[i].ID == grant {
			return &connections[i], nil
		}
	}
	return nil, nil
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
	p.done(w, r, v, c, "", "done.revoked", err)
}

// removeStore takes one store from a connection.
func (p *Portal) removeStore(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	c, err := p.mine(r, v, f.Get("grant"))
	name, message := "", "done.removed"
	if err == nil && c != nil {
		for _, s := range c.Stores {
			if s.StoreID == f.Get("store") {
				name = s.StoreName
			}
		}
		var revoked bool
		if revoked, err = p.server.RemoveStore(r.Context(), v.actor(), c.ID, f.Get("store")); revoked {
			message = "done.revoked"
		}
	}
	p.done(w, r, v, c, name, message, err)
}

// done answers a press on connected apps with the list and what has happened. It is the answer to the POST itself: a
// reload repeats a step that then finds nothing to do.
func (p *Portal) done(w http.ResponseWriter, r *http.Request, v *visitor, c *oauth.Connection, store, message string, err error) {
	gone := c == nil || errors.Is(err, &oauth.Error{Reason: oauth.NoSuch}) || errors.Is(err, &oauth.Error{Reason: oauth.Changed})
	switch {
	case err != nil && !gone:
		p.fail(w, r, err)
	case gone:
		p.showConnected(w, r, v, &doneView{ID: "done.gone"})
	default:
		p.showConnected(w, r, v, &doneView{ID: message, App: c.Client.Name, Store: store})
	}
}
