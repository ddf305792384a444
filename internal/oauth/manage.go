package oauth

import (
	"context"
	"errors"
	"time"
)

// OwnGrant is what an app is told of a grant of its own: what it may do now, and
// nothing else of its user.
type OwnGrant struct {
	ID        string
	UserID    string
	Status    GrantStatus
	Rights    Rights // those of now: scopes ∩ stores ∩ membership
	AllStores bool
	Audience  string
	Created   time.Time
}

// QueryGrant tells an app that authenticates what a grant of its own allows (Grant
// Management for OAuth 2.0, query). A grant that has ended, another app's and one that
// there is not are the same to it.
func (s *Server) QueryGrant(ctx context.Context, auth ClientAuth, id string) (*OwnGrant, error) {
	st, _, err := s.ownGrant(ctx, auth, id)
	if err != nil {
		return nil, err
	}
	if st.Grant.Status == GrantIsRevoked || st.UserStatus != Active {
		return nil, refuse(GrantUnknown)
	}
	g := &st.Grant
	return &OwnGrant{ID: g.ID, UserID: g.UserID, Status: g.Status, Rights: st.rights(), AllStores: g.AllStores, Audience: s.api.URI, Created: g.Created}, nil
}

// EndGrant ends a grant of the app that asks, with all its keys and refresh tokens
// (Grant Management for OAuth 2.0, revoke). One that has ended already is no error.
func (s *Server) EndGrant(ctx context.Context, auth ClientAuth, id string) error {
	st, c, err := s.ownGrant(ctx, auth, id)
	if err != nil || st.Grant.Status == GrantIsRevoked {
		return err
	}
	e, err := s.grantEvent(ctx, EventGrantRevoked, Actor{AsClient, c.ID}, &st.Grant, map[string]string{"before": string(st.Grant.Status)})
	if err != nil {
		return err
	}
	_, err = s.storage.RevokeGrant(ctx, id, e) // who loses finds it ended
	return err
}

// ownGrant proves an app and reads a grant of its own. Public apps prove nothing.
func (s *Server) ownGrant(ctx context.Context, auth ClientAuth, id string) (*Standing, *Client, error) {
	c, proof, err := s.authenticate(ctx, auth, nil)
	if err != nil {
		return nil, nil, err
	}
	if proof.Secret == nil {
		return nil, nil, refuse(ClientAuthMissing)
	}
	if err := s.confirm(ctx, c, proof); err != nil {
		return nil, nil, err
	}
	st, err := s.storage.Standing(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil, refuse(GrantUnknown)
	case err != nil:
		return nil, nil, err
	case st.Grant.ClientID != c.ID:
		return nil, nil, refuse(GrantUnknown)
	}
	return st, c, nil
}
