package oauth

import (
	"cmp"
	"context"
	"errors"
)

// Revoke ends the key or the refresh chain that token belongs to (RFC 7009). It
// takes access tokens and refresh tokens of every profile; a token that is
// unknown, or another client's, changes nothing and is no error (2.2). So is an expired
// one of a client that proved nothing: whoever finds it in an old log, beside the client
// id, which is no secret, ends no chain with it.
func (s *Server) Revoke(ctx context.Context, auth ClientAuth, token string) error {
	c, proof, err := s.authenticate(ctx, auth, nil)
	if err != nil {
		return err
	}
	if token == "" {
		return cmp.Or(s.confirm(ctx, c, proof), error(refuseParam(ParamMissing, "token")))
	}
	k, err := s.keyOf(ctx, token, proof.Secret != nil)
	if err != nil || k == nil || k.client != c.ID {
		return cmp.Or(s.confirm(ctx, c, proof), err)
	}
	e, err := s.NewEvent(ctx, EventFamilyRevoked, Actor{AsClient, c.ID}, ofFamily{Family: k.family})
	if err != nil {
		return err
	}
	e.ClientID, e.UserID, e.GrantID = c.ID, k.user, k.grant
	won, err := s.storage.RevokeOwn(ctx, c.ID, proof, k.family, e)
	if err == nil && !won { // it is over already, or whoever asks is not the client
		err = s.unproved(ctx, c, proof)
	}
	return err
}

// named are the ids that a token of ours stands for.
type named struct{ family, client, user, grant string }

// keyOf reads whose a token is, nil if it is not ours, or a JWT that has expired where those
// do not count. Of a JWT that says the text itself: whoever revokes a key waits for one
// question of the database, which asks for the secret, too.
func (s *Server) keyOf(ctx context.Context, token string, expired bool) (*named, error) {
	v, err := s.verifyOwn(ctx, token)
	if err != nil {
		return nil, err
	}
	if v != nil && !expired && v.expired(s.now()) {
		return nil, nil
	}
	if v != nil {
		return &named{v.family, v.ClientID, v.Subject, v.GrantID}, nil
	}
	a, ok := ParseArtefact(token)
	if !ok {
		return nil, nil
	}
	t, f, _, err := s.storage.Refresh(ctx, a.Selector)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !s.inChain(t, a):
		return nil, nil
	}
	return &named{f.ID, f.ClientID, f.UserID, f.GrantID}, nil
}
