package oauth

import (
	"cmp"
	"context"
	"errors"
)

// Revoke ends the key or the refresh chain that token belongs to (RFC 7009). It
// takes access tokens and refresh tokens of every profile; a token that is
// unknown, or another client's, changes nothing and is no error (2.2).
func (s *Server) Revoke(ctx context.Context, auth ClientAuth, token string) error {
	c, secret, err := s.authenticate(ctx, auth, nil, nil)
	if err != nil {
		return err
	}
	if token == "" {
		return cmp.Or(s.confirm(ctx, c, secret), error(refuseParam(ParamMissing, "token")))
	}
	family, err := s.familyOf(ctx, token)
	if err != nil || family == "" {
		return cmp.Or(s.confirm(ctx, c, secret), err)
	}
	f, err := s.own(ctx, c, secret, family)
	if err != nil || f == nil {
		return err
	}
	e, err := s.NewEvent(ctx, EventFamilyRevoked, Actor{AsClient, c.ID}, ofFamily{Family: f.ID})
	if err != nil {
		return err
	}
	e.ClientID, e.UserID, e.GrantID = c.ID, f.UserID, f.GrantID
	_, err = s.storage.RevokeFamily(ctx, f.ID, e)
	return err
}

// own is [Server.confirm], and reads a family of the client in the same question: whoever
// revokes waits for as few as can be. It is nil if the client has none of this id.
func (s *Server) own(ctx context.Context, c *Client, secret Hash, family string) (*Family, error) {
	if secret == nil {
		f, _, err := s.storage.Family(ctx, family)
		if errors.Is(err, ErrNotFound) || err == nil && f.ClientID != c.ID {
			return nil, nil
		}
		return f, err
	}
	f, err := s.storage.Shown(ctx, c.ID, secret, family)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(SecretWrong)
	}
	return f, err
}

func (s *Server) familyOf(ctx context.Context, token string) (string, error) {
	if v, ok := s.verifyOwn(token); ok {
		return v.family, nil
	}
	a, ok := ParseArtefact(token)
	if !ok {
		return "", nil
	}
	t, _, _, err := s.storage.Refresh(ctx, a.Selector)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil
	case err != nil:
		return "", err
	case !s.inChain(t, a):
		return "", nil
	}
	return t.Family, nil
}
