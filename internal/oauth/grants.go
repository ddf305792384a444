package oauth

import (
	"context"
	"errors"
	"slices"
	"time"
)

// ConnectedApps lists what a user has connected, newest first.
func (s *Server) ConnectedApps(ctx context.Context, actor Actor, p Page) ([]Connection, error) {
	if actor.ID == "" || actor.Kind != AsUser && actor.Kind != AsOperator {
		return nil, refuse(NotSignedIn)
	}
	list, err := s.storage.GrantsOf(ctx, actor.ID, p)
	for i := range list {
		list[i].reached()
	}
	return list, err
}

// ConnectedApp reads what a user connected once, whether it has ended or not.
func (s *Server) ConnectedApp(ctx context.Context, actor Actor, id string) (*Connection, error) {
	if actor.ID == "" || actor.Kind != AsUser && actor.Kind != AsOperator {
		return nil, refuse(NotSignedIn)
	}
	c, err := s.storage.GrantOf(ctx, actor.ID, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, refuse(NoSuch)
	case err != nil:
		return nil, err
	}
	c.reached()
	return c, nil
}

// reached leaves of all stores only those that the grant reaches.
func (c *Connection) reached() {
	if c.AllStores {
		reach := effective(&c.Grant, c.Stores)
		c.Stores = slices.DeleteFunc(c.Stores, func(m Membership) bool { return reach.Stores[m.StoreID] == nil })
	}
}

// Grants lists grants for who runs the platform.
func (s *Server) Grants(ctx context.Context, actor Actor, f GrantFilter) ([]Connection, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Grants(ctx, f)
}

// anyGrant reads a grant, whoever asks.
func (s *Server) anyGrant(ctx context.Context, id string) (*Standing, error) {
	st, err := s.storage.Standing(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(NoSuch)
	}
	return st, err
}

// myGrant reads a grant that the actor may end: his own, or any for who runs the
// platform.
func (s *Server) myGrant(ctx context.Context, actor Actor, id string) (*Standing, error) {
	st, err := s.anyGrant(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case !actor.runs() && (actor.Kind != AsUser || actor.ID != st.Grant.UserID):
		return nil, refuse(NotPermitted)
	}
	return st, nil
}

// RevokeGrant ends a grant and everything under it, for ever.
func (s *Server) RevokeGrant(ctx context.Context, actor Actor, id string) error {
	return s.changeGrant(ctx, actor, id, EventGrantRevoked, s.storage.RevokeGrant)
}

// SuspendGrant refuses the keys of a grant until it is resumed. Both are the
// operator's: what he stopped, its owner cannot start again.
func (s *Server) SuspendGrant(ctx context.Context, actor Actor, id string) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	return s.changeGrant(ctx, actor, id, EventGrantSuspended, s.storage.SuspendGrant)
}

// ResumeGrant lets a suspended grant go on.
func (s *Server) ResumeGrant(ctx context.Context, actor Actor, id string) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	return s.changeGrant(ctx, actor, id, EventGrantResumed, s.storage.ResumeGrant)
}

func (s *Server) changeGrant(ctx context.Context, actor Actor, id string, kind Kind, event func(context.Context, string, Event) (bool, error)) error {
	st, err := s.myGrant(ctx, actor, id)
	if err != nil {
		return err
	}
	e, err := s.grantEvent(ctx, kind, actor, &st.Grant, map[string]string{"before": string(st.Grant.Status)})
	if err != nil {
		return err
	}
	won, err := event(ctx, id, e)
	if err == nil && !won {
		return refuse(Changed)
	}
	return err
}

func (s *Server) grantEvent(ctx context.Context, kind Kind, actor Actor, g *Grant, payload any) (Event, error) {
	e, err := s.NewEvent(ctx, kind, actor, payload)
	e.ClientID, e.UserID, e.GrantID = g.ClientID, g.UserID, g.ID
	return e, err
}

// tooManyKeys is why a key ended, in its event. It is no refusal, so it has no row in the
// table of reasons.
const tooManyKeys Reason = "too_many_keys"

// makeRoom makes room under a grant for the key of a code that was just issued: of
// [MaxKeys] that are alive the one longest unused ends, a lasting key by its age, as at
// Google, whose limit it is, too. A change of a grant tells of every key under it in one
// event of the feed, which must not grow beyond what a follower takes, whoever scripts his
// own app.
//
// Any website can send a browser to an app's sign-in again and again, and an app may begin a
// chain at each and forget it: these make room for each other, not in the place of a chain
// that is refreshed. Half of the places are for those alone; the rest go by last use
// whatever it was, so that who has just signed in is not the first to go where all others
// were refreshed once, long ago.
//
// The code is handed out afterwards, so what is alive is MaxKeys - 1 and the codes that
// were issued meanwhile or in the minute before, of which a user's limit lets
// [Config.Decisions] pass. Nothing is asked when a code is redeemed.
//
// The user waits for this, and the decision stands whatever becomes of it: of a grant that
// has far too many, the next decisions end the rest.
func (s *Server) makeRoom(ctx context.Context, g *Grant) {
	ending, err := s.storage.LeastUsedFamilies(ctx, g.ID, MaxKeys-1)
	for i := 0; i < min(len(ending), MaxKeys) && err == nil; i++ {
		var e Event
		if e, err = s.grantEvent(ctx, EventFamilyRevoked, Actor{Kind: AsSystem}, g, ofFamily{Family: ending[i], Why: tooManyKeys}); err == nil {
			_, err = s.storage.RevokeFamily(ctx, ending[i], e) // it may have ended meanwhile
		}
	}
	if err != nil {
		s.log.Error("the keys that a connection has too many of were not ended", "grant", g.ID, "error", err)
	}
}

// RemoveStore takes one store out of a grant; keys that are out follow. Besides the
// grant's user, who owns the store may do it, and touches nothing else of the grant.
// Taking the last one ends the grant, unless something on the account remains.
// revoked says which it was.
func (s *Server) RemoveStore(ctx context.Context, actor Actor, id, storeID string) (revoked bool, err error) {
	for range maxTries {
		st, err := s.grantIn(ctx, actor, id, storeID)
		if err != nil {
			return false, err
		}
		g := st.Grant
		rest := 0
		for _, m := range st.Members {
			if m.StoreID != storeID && g.has(m.StoreID) && (m.MayDelegate || !g.AllStores) {
				rest++
			}
		}
		g.Stores = slices.DeleteFunc(slices.Clone(g.Stores), func(x GrantStore) bool { return x.StoreID == storeID })
		if g.AllStores {
			g.Stores = append(g.Stores, GrantStore{storeID, ScopeSet{}})
		} else {
			rest = len(g.Stores)
		}
		if rest == 0 && len(g.Account) == 0 {
			e, err := s.grantEvent(ctx, EventGrantRevoked, actor, &g, map[string]string{"before": string(g.Status)})
			if err != nil {
				return false, err
			}
			e.StoreID = storeID
			won, err := s.storage.RevokeGrantAt(ctx, id, st.Grant.Rev, e) // what its user adds meanwhile stays
			if err != nil || won {
				return won, err
			}
			continue
		}
		e, err := s.grantEvent(ctx, EventGrantEdited, actor, &g, map[string]any{"removed_store": storeID, "after": afterOf(&g)})
		if err != nil {
			return false, err
		}
		e.StoreID = storeID
		won, err := s.storage.EditGrant(ctx, &g, st.Grant.Rev, nil, e)
		if err != nil || won {
			return false, err
		}
	}
	return false, refuse(Changed)
}

// grantIn reads a grant out of which the actor may take a store that it reaches: his
// own, any for who runs the platform, and anybody's for who owns the store.
func (s *Server) grantIn(ctx context.Context, actor Actor, id, storeID string) (*Standing, error) {
	st, err := s.anyGrant(ctx, id)
	if err != nil {
		return nil, err
	}
	mine := actor.runs() || actor.Kind == AsUser && actor.ID == st.Grant.UserID
	if !mine {
		owns, err := s.owns(ctx, actor, storeID)
		switch {
		case err != nil:
			return nil, err
		case !owns || st.Grant.Status == Pending:
			return nil, refuse(NotPermitted)
		}
	}
	if !st.Grant.has(storeID) || st.Grant.Status == GrantIsRevoked {
		return nil, refuse(NoSuch)
	}
	// All stores are those that the user may open to apps.
	if st.Grant.AllStores && !slices.ContainsFunc(st.Members, func(m Membership) bool { return m.StoreID == storeID && m.MayDelegate }) {
		return nil, refuse(NoSuch)
	}
	return st, nil
}

// owns reports whether the actor is a user who owns a store.
func (s *Server) owns(ctx context.Context, actor Actor, storeID string) (bool, error) {
	if actor.Kind != AsUser || actor.ID == "" {
		return false, nil
	}
	members, err := s.storage.Memberships(ctx, actor.ID)
	return slices.ContainsFunc(members, func(m Membership) bool { return m.StoreID == storeID && m.Owner }), err
}

// AppInStore is what one app may do in one store because somebody connected it, and
// nothing of what else he connected.
type AppInStore struct {
	GrantID string
	Store   Store
	Client  Client // without redirects, scopes and secrets
	Person  string // who connected it; "" if no name is known
	Since   time.Time
	Scopes  ScopeSet // what it may do there now
	Paused  bool     // it, its app or who connected it is suspended: it may come back
}

// AppsOfOthers lists, for the owner of stores, the apps that other people connected to
// them, by store; storeID "" is all of his stores. A store that is not his is missing.
func (s *Server) AppsOfOthers(ctx context.Context, actor Actor, storeID string, p Page) ([]AppInStore, error) {
	if actor.Kind != AsUser || actor.ID == "" {
		return nil, refuse(NotSignedIn)
	}
	if storeID != "" {
		switch owns, err := s.owns(ctx, actor, storeID); {
		case err != nil:
			return nil, err
		case !owns:
			return nil, refuse(NotPermitted)
		}
	}
	rows, err := s.storage.GrantsOfOthers(ctx, actor.ID, storeID, p)
	if err != nil {
		return nil, err
	}
	list := make([]AppInStore, 0, len(rows))
	for _, r := range rows {
		m := r.Stores[0]
		list = append(list, AppInStore{
			GrantID: r.ID, Store: Store{ID: m.StoreID, Name: m.StoreName, Domain: m.StoreDomain, Status: m.StoreStatus}, Client: r.Client, Person: r.Person,
			Since: r.Created, Scopes: effective(&r.Grant, r.Stores).Stores[m.StoreID], Paused: r.Status == GrantOnHold || r.Client.Status == Suspended || r.UserStatus == Suspended,
		})
	}
	return list, nil
}
