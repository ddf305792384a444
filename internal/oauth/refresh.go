package oauth

import (
	"context"
	"crypto/hmac"
	"crypto/sha512"
	"errors"
)

// successor derives the token that replaces the presented one. It can be made
// again for a client whose first answer was lost, though only hashes are kept
// (DESIGN, decision 8).
func (s *Server) successor(presented Secret) Artefact {
	mac := hmac.New(sha512.New, s.refresh)
	mac.Write([]byte(presented))
	sum := mac.Sum(nil)
	return artefactOf(sum[:16], sum[16:48])
}

// refreshToken answers grant_type=refresh_token (RFC 6749, 6; RFC 9700, 4.14.2).
func (s *Server) refreshToken(ctx context.Context, c *Client, secret Hash, r TokenRequest) (*TokenResponse, error) {
	p := c.profile()
	switch {
	case !p.Refresh:
		return nil, refuse(GrantTypeNotAllowed)
	case r.RefreshToken == "":
		return nil, refuseParam(ParamMissing, "refresh_token")
	case p.Guest && r.RedirectURI != "" && r.RedirectURI != OutOfBand:
		return nil, refuse(CodeRedirect) // seed dressipi-token; its absence is tolerated (D7)
	}
	a, ok := ParseArtefact(r.RefreshToken)
	if !ok {
		return nil, refuse(RefreshUnknown)
	}
	next := s.successor(a.Secret)
	for range maxTries {
		t, f, st, err := s.storage.Refresh(ctx, a.Selector, next.Selector)
		if errors.Is(err, ErrNotFound) {
			return nil, refuse(RefreshUnknown)
		}
		if err != nil {
			return nil, err
		}
		now := s.now()
		switch {
		case !t.Hash.Matches(a.Secret):
			return nil, refuse(RefreshUnknown)
		case f.ClientID != c.ID:
			return nil, refuse(RefreshForeign)
		case f.Status == Invalid:
			return nil, refuse(RefreshUnknown)
		case !now.Before(t.IdleUntil), !t.AbsoluteUntil.IsZero() && !now.Before(t.AbsoluteUntil):
			return nil, refuse(RefreshExpired)
		}
		if refusal := st.usable(); refusal != nil {
			return nil, refusal
		}
		rot := Rotation{Selector: t.Selector, Family: f.ID, ClientID: c.ID, Secret: secret, GrantID: f.GrantID, Rev: st.Grant.Rev, Now: now, IdleUntil: now.Add(p.RefreshIdle)}
		handed := a.Secret
		switch {
		case !t.UsedAt.IsZero():
			if now.Sub(t.UsedAt) >= RotateGrace || t.SuccessorUsed {
				if err := s.confirm(ctx, c, secret); err != nil {
					return nil, err
				}
				return nil, s.refreshReplayed(ctx, c, f)
			}
			if !t.SuccessorThere { // the ring's first key has changed since
				return nil, refuse(RefreshUnknown)
			}
			rot.Again, handed = next.Selector, next.Secret
		case c.rotates():
			rot.Successor = &StoredRefresh{Selector: next.Selector, Family: f.ID, Hash: HashOf(next.Secret), IdleUntil: rot.IdleUntil, AbsoluteUntil: t.AbsoluteUntil}
			handed = next.Secret
		}
		rights, narrowed, err := narrowTo(st.rights().narrow(f.Narrowing), r.Scope)
		if err != nil {
			return nil, err
		}
		if rights.empty() && !p.Guest {
			return nil, refuse(NoRights)
		}
		access, err := s.mint(p, f, st, rights, narrowed)
		if err != nil {
			return nil, err
		}
		if rot.Event, err = s.NewEvent(ctx, EventTokenRefreshed, Actor{AsClient, c.ID}, ofFamily{f.ID, rot.Successor != nil}); err != nil {
			return nil, err
		}
		rot.Event.ClientID, rot.Event.UserID, rot.Event.GrantID = c.ID, f.UserID, f.GrantID
		won, err := s.storage.RotateRefreshToken(ctx, rot)
		if err != nil {
			return nil, err
		}
		if won {
			s.usedGrant(f.GrantID)
			return &TokenResponse{AccessToken: Secret(access), ExpiresIn: p.AccessLife, RefreshToken: handed, Scope: rights.Flat().String(),
				Profile: p.Name, ClientID: c.ID, GrantID: f.GrantID}, nil
		}
		if err := s.confirm(ctx, c, secret); err != nil {
			return nil, err
		}
	}
	return nil, refuse(Changed)
}

// narrowTo limits a refreshed access token to the scope parameter, which must not
// exceed what the chain has (RFC 6749, 6).
func narrowTo(have Rights, scope string) (Rights, ScopeSet, error) {
	if scope == "" {
		return have, nil, nil
	}
	want, ok := ParseScope(scope)
	if !ok || len(scope) > maxScope || len(want) == 0 {
		return Rights{}, nil, refuseParam(ParamMalformed, "scope")
	}
	all := have.Account
	for _, set := range have.Stores {
		all = all.Or(set)
	}
	if !all.Contains(want) {
		return Rights{}, nil, refuse(ScopeWidened)
	}
	return have.narrow(want), want, nil
}

// refreshReplayed revokes the family of a token that was used after its successor
// was, or long after it was replaced: one of two holders is a thief.
func (s *Server) refreshReplayed(ctx context.Context, c *Client, f *Family) error {
	e, err := s.NewEvent(ctx, EventRefreshReplay, Actor{AsClient, c.ID}, ofFamily{Family: f.ID})
	if err != nil {
		return err
	}
	e.ClientID, e.UserID, e.GrantID = c.ID, f.UserID, f.GrantID
	if _, err := s.storage.RevokeFamily(ctx, f.ID, e); err != nil {
		return err
	}
	return refuse(RefreshReplayed)
}
