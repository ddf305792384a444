package oauth

import (
	"context"
	"errors"
	"slices"
)

// ConnectedApps lists what a user has connected, newest first.
func (s *Server) ConnectedApps(ctx context.Context, actor Actor) ([]Connection, error) {
	if actor.ID == "" || actor.Kind != AsUser && actor.Kind != AsOperator {
		return nil, refuse(NotSignedIn)
	}
	list, err := s.storage.GrantsOf(ctx, actor.ID)
	for i := range list {
		if c := &list[i]; c.AllStores { // only those that it reaches
			reach := effective(&c.Grant, c.Stores)
			c.Stores = slices.DeleteFunc(c.Stores, func(m Membership) bool { return reach.Stores[m.StoreID] == nil })
		}
	}
	return list, err
}

// Grants lists grants for who runs the platform.
func (s *Server) Grants(ctx context.Context, actor Actor, f GrantFilter) ([]Connection, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Grants(ctx, f)
}

// myGrant reads a grant that the actor may end: his own, or any for who runs the
// platform.
func (s *Server) myGrant(ctx context.Context, actor Actor, id string) (*Standing, error) {
	st, err := s.storage.Standing(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, refuse(NoSuch)
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

// RemoveStore takes one store out of a grant; keys that are out follow. Taking
// the last one ends the grant, unless something on the account remains. revoked
// says which it was.
func (s *Server) RemoveStore(ctx context.Context, actor Actor, id, storeID string) (revoked bool, err error) {
	for range maxTries {
		st, err := s.myGrant(ctx, actor, id)
		if err != nil {
			return false, err
		}
		g := st.Grant
		if !st.has(storeID) || g.Status == GrantIsRevoked {
			return false, refuse(NoSuch)
		}
		if g.AllStores { // all but this one: from now on a list
			g.AllStores, g.Stores = false, nil
			for _, m := range st.Members {
				if m.MayDelegate {
					g.Stores = append(g.Stores, GrantStore{m.StoreID, st.Grant.scopesIn(m.StoreID)})
				}
			}
		}
		before := len(g.Stores)
		g.Stores = slices.DeleteFunc(slices.Clone(g.Stores), func(x GrantStore) bool { return x.StoreID == storeID })
		if len(g.Stores) == before {
			return false, refuse(NoSuch)
		}
		if len(g.Stores) == 0 && len(g.Account) == 0 {
			return true, s.RevokeGrant(ctx, actor, id)
		}
		e, err := s.grantEvent(ctx, EventGrantEdited, actor, &g, map[string]any{"removed_store": storeID, "after": afterOf(&g)})
		if err != nil {
			return false, err
		}
		e.StoreID = storeID
		won, err := s.storage.EditGrant(ctx, &g, st.Grant.Rev, e)
		if err != nil || won {
			return false, err
		}
	}
	return false, refuse(Changed)
}
