package portal

import (
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/grantway/grantway/internal/oauth"
)

// others lists what other people connected to stores that the visitor owns: of all of them, or of one.
func (p *Portal) others(w http.ResponseWriter, r *http.Request, v *visitor) {
	q := r.URL.Query()
	number, store := pageOf(q.Get("page")), q.Get("store")
	list, err := p.server.AppsOfOthers(r.Context(), v.actor(), store, oauth.Page{Offset: (number - 1) * rowsPerPage, Limit: rowsPerPage + 1})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	view := othersView{}
	if view.Done, err = p.othersDone(r, v); err != nil {
		p.fail(w, r, err)
		return
	}
	links := url.Values{}
	if store != "" {
		links.Set("store", store)
	}
	view.Pager, list = pageLinks(list, number, "/connected-apps/others", links)
	last := ""
	for _, a := range list {
		if a.Store.ID != last {
			view.Stores = append(view.Stores, othersStore{Name: a.Store.Name, Domain: a.Store.Domain})
			last = a.Store.ID
		}
		s := &view.Stores[len(view.Stores)-1]
		s.Apps = append(s.Apps, p.othersApp(r, a))
	}
	p.pages.render(w, r, http.StatusOK, page{Name: "others", Section: "connected", Account: v.account(), Body: view})
}

func (p *Portal) othersApp(r *http.Request, a oauth.AppInStore) othersApp {
	return othersApp{Grant: a.GrantID, Store: a.Store.ID, App: appOf(&a.Client), Person: a.Person, Since: a.Since, Paused: a.Paused,
		Sections: sections(describe(p.server.Catalogue(), p.pages.language(r), a.Scopes))}
}

// inStore finds an app that somebody else connected to a store of the visitor, or nil.
func (p *Portal) inStore(r *http.Request, v *visitor, grant, store string) (*oauth.AppInStore, error) {
	if store == "" { // which is all of them
		return nil, oauth.Refuse(oauth.NoSuch)
	}
	for at := 0; ; at += rowsPerPage {
		list, err := p.server.AppsOfOthers(r.Context(), v.actor(), store, oauth.Page{Offset: at, Limit: rowsPerPage})
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(list, func(a oauth.AppInStore) bool { return a.GrantID == grant }); i >= 0 {
			return &list[i], nil
		}
		if len(list) < rowsPerPage {
			return nil, nil
		}
	}
}

// askRemoveOthers asks before the visitor takes his store from an app that somebody else uses.
func (p *Portal) askRemoveOthers(w http.ResponseWriter, r *http.Request, v *visitor) {
	a, err := p.inStore(r, v, r.URL.Query().Get("grant"), r.URL.Query().Get("store"))
	switch {
	case err != nil:
		p.fail(w, r, err)
		return
	case a == nil:
		p.lost(w, r)
		return
	}
	p.pages.render(w, r, http.StatusOK, page{Name: "others_remove", TitleOf: []any{"App", a.Client.Name, "Store", a.Store.Name}, Section: "connected",
		Account: v.account(), Body: othersRemoveView{p.othersApp(r, *a), a.Store.Name}})
}

// removeOthers takes the visitor's store from an app that somebody else connected. Whether anything remains of that
// connection is not the visitor's to know.
func (p *Portal) removeOthers(w http.ResponseWriter, r *http.Request, v *visitor) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	grant, store := f.Get("grant"), f.Get("store")
	a, err := p.inStore(r, v, grant, store)
	if err == nil && a != nil {
		_, err = p.server.RemoveStore(r.Context(), v.actor(), grant, store)
	}
	q := url.Values{"done": {doneGone}}
	switch {
	case errors.Is(err, &oauth.Error{Reason: oauth.NoSuch}) && a != nil: // somebody was quicker
	case err != nil:
		p.fail(w, r, err)
		return
	case a != nil:
		q = url.Values{"done": {doneRemoved}, "grant": {grant}, "at": {store}}
	}
	if err == nil {
		p.settle(w, r)
	}
	p.goTo(w, "/connected-apps/others?"+q.Encode())
}

// othersDone says what the last press did, as far as it is so: anybody may have made the address. Whose connection it was
// cannot be looked up, since it is none of the visitor's any more.
func (p *Portal) othersDone(r *http.Request, v *visitor) (*doneView, error) {
	q := r.URL.Query()
	switch q.Get("done") {
	case doneGone:
		return &doneView{ID: "done.gone"}, nil
	case doneRemoved:
		switch a, err := p.inStore(r, v, q.Get("grant"), q.Get("at")); {
		case oauth.AsError(err).Code == oauth.NotFound && err != nil, a != nil:
			return nil, nil
		case err != nil:
			return nil, err
		}
		stores, err := p.server.Memberships(r.Context(), v.actor(), v.User.ID)
		if err != nil {
			return nil, err
		}
		for _, s := range stores {
			if s.StoreID == q.Get("at") {
				return &doneView{ID: "done.others", Store: s.StoreName}, nil
			}
		}
	}
	return nil, nil
}
