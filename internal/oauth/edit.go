package oauth

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// Editable is a connection as the user sees it who wants to change it.
type Editable struct {
	Grant  Grant
	Client *Client
	Stores []StoreChoice // those that it has, ticked, and those that it could have
	Scopes []HeldScope
}

// HeldScope is a scope that a grant holds somewhere. There is no way to a scope that
// it holds nowhere but to be asked for it: what a user once took away does not come
// back by itself, and the app cannot take it.
type HeldScope struct {
	Scope
	Required bool // it goes with the whole grant alone
	Gone     bool // the app registers it no longer: it can be taken away, not given
	In, Of   int  // in how many stores of the grant it is held; 1 of 1 on the account
	Always   bool // it is held in each of them, and in those that come later
}

// GrantEdit is what a user wants of a connection. Ids and names come from a form:
// none is trusted.
type GrantEdit struct {
	Rev       int64 // of the grant that he saw
	Stores    []string
	AllStores bool     // also stores that come later
	Scopes    []string // optional ones that shall hold on the account, or in every store
	Stay      []string // optional ones that shall hold where they do now
}

// Editable reads a connection that the actor may change.
func (s *Server) Editable(ctx context.Context, actor Actor, id string) (*Editable, error) {
	ed, err := s.editing(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	view := &Editable{Grant: ed.st.Grant, Client: ed.client}
	for _, m := range ed.members {
		if m.StoreStatus == Active {
			view.Stores = append(view.Stores, StoreChoice{Membership: m, May: m.MayDelegate, Ticked: ed.has(m)})
		}
	}
	g := &ed.st.Grant
	for _, sc := range s.catalogue.Scopes {
		h := HeldScope{Scope: sc, Required: ed.required.Has(sc.Name), Gone: !ed.registered.Has(sc.Name)}
		switch {
		case sc.Kind == AccountScope && g.Account.Has(sc.Name):
			h.In, h.Of, h.Always = 1, 1, true
		case sc.Kind == StoreScope && ed.held.Has(sc.Name):
			for _, m := range ed.members {
				if ed.has(m) && m.StoreStatus == Active {
					h.Of++
					if g.ScopesIn(m.StoreID).Has(sc.Name) {
						h.In++
					}
				}
			}
			h.Always = g.holds(sc.Name) || !g.AllStores && len(g.Stores) == 0
		default:
			continue
		}
		view.Scopes = append(view.Scopes, h)
	}
	return view, nil
}

// EditGrant makes of a connection what its user wants; keys that are out follow. A
// store that is added gets what the grant holds (DESIGN, decision 1). It is refused as
// Changed if the grant is not the one that he saw any more, and as Incorrect if
// nothing would be left in a store, or of the grant: that is revoking. changed is false
// if it was so already.
func (s *Server) EditGrant(ctx context.Context, actor Actor, id string, e GrantEdit) (changed bool, err error) {
	ed, err := s.editing(ctx, actor, id)
	if err != nil {
		return false, err
	}
	if ed.st.Grant.Rev != e.Rev {
		return false, refuse(Changed)
	}
	g, refusal := ed.apply(e)
	if refusal != nil {
		return false, refusal
	}
	return s.replaceGrant(ctx, actor, &ed.st.Grant, g, "")
}

// EditStore says which optional scopes the app shall have in one store of a
// connection. Otherwise it is as [Server.EditGrant].
func (s *Server) EditStore(ctx context.Context, actor Actor, id, storeID string, rev int64, scopes []string) (changed bool, err error) {
	ed, err := s.editing(ctx, actor, id)
	if err != nil {
		return false, err
	}
	g := ed.st.Grant
	i := slices.IndexFunc(ed.members, func(m Membership) bool { return m.StoreID == storeID })
	switch {
	case i < 0 || !ed.shown(ed.members[i]) || !ed.has(ed.members[i]):
		return false, refuse(NoSuch)
	case g.Rev != rev:
		return false, refuse(Changed)
	}
	set := ed.scopes(g.ScopesIn(storeID), true, GrantEdit{Scopes: scopes})
	if len(set) == 0 {
		return false, refuse(NothingLeft)
	}
	g.Stores = slices.DeleteFunc(slices.Clone(g.Stores), func(x GrantStore) bool { return x.StoreID == storeID })
	if !g.AllStores || !set.Equal(g.Scopes) {
		g.Stores = append(g.Stores, GrantStore{storeID, set})
	}
	g.tidy()
	return s.replaceGrant(ctx, actor, &ed.st.Grant, &g, storeID)
}

// replaceGrant stores what an edit made of a grant.
func (s *Server) replaceGrant(ctx context.Context, actor Actor, was, is *Grant, storeID string) (changed bool, err error) {
	if was.same(is) {
		return false, nil
	}
	e, err := s.grantEvent(ctx, EventGrantEdited, actor, is, map[string]any{"before": afterOf(was), "after": afterOf(is)})
	if err != nil {
		return false, err
	}
	e.StoreID = storeID
	var connecting []string
	for _, x := range is.Stores {
		if is.has(x.StoreID) && !was.has(x.StoreID) {
			connecting = append(connecting, x.StoreID)
		}
	}
	won, err := s.storage.EditGrant(ctx, is, was.Rev, connecting, e)
	if err == nil && !won {
		return false, refuse(Changed)
	}
	return won, err
}

// editing is a grant with what decides how it may be changed.
type editing struct {
	st         *Standing
	client     *Client
	members    []Membership
	required   ScopeSet // of the app
	registered ScopeSet
	held       ScopeSet // store scopes that the grant holds in some store
	known      func(string) bool
}

func (s *Server) editing(ctx context.Context, actor Actor, id string) (*editing, error) {
	st, err := s.myGrant(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	if st.Grant.Status != Live && st.Grant.Status != GrantOnHold {
		return nil, refuse(NoSuch)
	}
	c, err := s.storage.Client(ctx, st.Grant.ClientID) // as it is now
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(NoSuch)
	}
	if err != nil {
		return nil, err
	}
	members, err := s.storage.Memberships(ctx, st.Grant.UserID)
	if err != nil {
		return nil, err
	}
	ed := &editing{st: st, client: c, members: members, required: c.required(), registered: c.ScopeSet(),
		known: func(name string) bool { return s.catalogue.Scope(name) != nil }}
	if g := &st.Grant; g.AllStores || len(g.Stores) == 0 { // the last store may have been taken out
		ed.held = g.Scopes
	}
	for _, x := range st.Grant.Stores {
		ed.held = ed.held.Or(st.Grant.ScopesIn(x.StoreID))
	}
	return ed, nil
}

// has reports whether the grant reaches a store of its user, whatever he may do there.
func (ed *editing) has(m Membership) bool {
	return ed.st.Grant.has(m.StoreID) && (m.MayDelegate || !ed.st.Grant.AllStores)
}

// shown reports whether the user decides about a store: the others stay as they are.
func (ed *editing) shown(m Membership) bool {
	return m.StoreStatus == Active && (m.MayDelegate || ed.has(m))
}

// scopes is what a store shall have that has before. connected is false for one that
// is new.
func (ed *editing) scopes(before ScopeSet, connected bool, e GrantEdit) ScopeSet {
	return ed.held.filter(func(name string) bool {
		in := before.Has(name)
		switch {
		case !ed.known(name): // nobody was shown it
			return in
		case slices.Contains(e.Scopes, name):
			return in || ed.registered.Has(name)
		case ed.required.Has(name):
			return in || !connected
		}
		return in && slices.Contains(e.Stay, name)
	})
}

// apply makes a grant out of what a user ticked.
func (ed *editing) apply(e GrantEdit) (*Grant, *Error) {
	was := &ed.st.Grant
	g := *was
	g.Account = was.Account.filter(func(name string) bool {
		return !ed.known(name) || ed.required.Has(name) || slices.Contains(e.Scopes, name)
	})
	later := ed.scopes(nil, false, e)
	if was.AllStores {
		later = ed.scopes(was.Scopes, true, e)
	}
	g.AllStores, g.Stores = e.AllStores, nil
	shown, ticked := map[string]bool{}, map[string]bool{}
	for _, m := range ed.members {
		if ed.shown(m) {
			shown[m.StoreID] = true
		}
	}
	for _, id := range e.Stores {
		if !shown[id] {
			return nil, refuse(StoreForeign)
		}
		ticked[id] = true
	}
	for _, m := range ed.members {
		if !shown[m.StoreID] {
			continue
		}
		if !ticked[m.StoreID] {
			if g.AllStores {
				g.Stores = append(g.Stores, GrantStore{m.StoreID, ScopeSet{}})
			}
			continue
		}
		set := later
		if ed.has(m) {
			set = ed.scopes(was.ScopesIn(m.StoreID), true, e)
		}
		if len(set) == 0 {
			return nil, refuse(NothingLeft)
		}
		if !g.AllStores || !set.Equal(later) {
			g.Stores = append(g.Stores, GrantStore{m.StoreID, set})
		}
	}
	for _, x := range was.Stores {
		if shown[x.StoreID] {
			continue
		}
		set := was.ScopesIn(x.StoreID)
		if len(set) > 0 {
			set = ed.scopes(set, true, e)
		}
		// What only "all" gave ends with it: of a list it would be reached where the user may
		// connect nothing, and of "all" it is not.
		if g.AllStores || !was.AllStores && len(set) > 0 {
			g.Stores = append(g.Stores, GrantStore{x.StoreID, append(ScopeSet{}, set...)})
		}
	}
	switch {
	case g.AllStores && len(later) == 0:
		return nil, refuse(NothingLeft)
	case len(ticked) == 0 && !g.AllStores && len(g.Account) == 0 && len(ed.held) > 0:
		return nil, refuse(StoreNone)
	case len(ticked) == 0 && !g.AllStores && len(g.Account) == 0:
		return nil, refuse(NothingLeft)
	}
	g.Scopes = later
	g.tidy()
	return &g, nil
}

// tidy lets stores with equal scopes share those of the grant, and takes out of these,
// where the grant is a list, what no store has any more.
func (g *Grant) tidy() {
	if g.AllStores {
		return
	}
	if len(g.Stores) > 0 {
		var somewhere ScopeSet
		for _, x := range g.Stores {
			somewhere = somewhere.Or(g.ScopesIn(x.StoreID))
		}
		g.Scopes = g.Scopes.And(somewhere)
	}
	g.normalise()
}

// same reports whether two states of a grant allow the same, now and later.
func (g *Grant) same(h *Grant) bool {
	if g.AllStores != h.AllStores || !g.Account.Equal(h.Account) || (g.AllStores || len(g.Stores) == 0) && !g.Scopes.Equal(h.Scopes) {
		return false
	}
	rows := map[string]bool{}
	for _, x := range slices.Concat(g.Stores, h.Stores) {
		rows[x.StoreID] = true
	}
	for id := range maps.Keys(rows) {
		if g.has(id) != h.has(id) || !g.ScopesIn(id).Equal(h.ScopesIn(id)) {
			return false
		}
	}
	return true
}
