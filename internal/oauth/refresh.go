package oauth

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A refresh token is a selector, which all tokens of one chain share, and 32 bytes:
// 24 that are secret, and a tag over them and the selector, by which a token that
// was replaced long ago is known as one of ours though nothing of it is kept. The
// row of a chain holds the hashes of its newest token and the one before.
const secretLen = 24

// newRefresh begins the chain of a code. It has the selector of the code, by which a
// replay finds what that code issued.
func (s *Server) newRefresh(selector string) (Artefact, error) {
	var secret [secretLen]byte
	if _, err := io.ReadFull(s.rand, secret[:]); err != nil {
		return Artefact{}, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	return chained(s.refresh[0], selector, secret[:]), nil
}

// successor derives the token that replaces the presented one. It can be made
// again for a client whose first answer was lost, though only hashes are kept
// (DESIGN, decision 8).
func successor(key []byte, presented Artefact) Artefact {
	return chained(key, presented.Selector, keyed(key, "next", presented.Secret.Reveal())[:secretLen])
}

// chained appends the tag to a secret.
func chained(key []byte, selector string, secret []byte) Artefact {
	tag := keyed(key, "tag", selector+string(secret))[:32-secretLen]
	return Artefact{selector, Secret(selector + base64.RawURLEncoding.EncodeToString(append(secret, tag...)))}
}

// issued reports whether a is a token of some chain that a key of the ring made.
func (s *Server) issued(a Artefact) bool {
	raw, err := base64.RawURLEncoding.DecodeString(a.Secret.Reveal()[selectorLen:])
	return err == nil && slices.ContainsFunc(s.refresh, func(key []byte) bool {
		made := chained(key, a.Selector, raw[:secretLen:secretLen])
		return hmac.Equal([]byte(made.Secret), []byte(a.Secret))
	})
}

// keyed returns 32 bytes.
func keyed(key []byte, purpose, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(purpose + " "))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// refreshToken answers grant_type=refresh_token (RFC 6749, 6; RFC 9700, 4.14.2).
func (s *Server) refreshToken(ctx context.Context, c *Client, proof Proof, r TokenRequest) (*TokenResponse, error) {
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
	for range maxTries {
		t, f, st, err := s.storage.Refresh(ctx, a.Selector)
		if errors.Is(err, ErrNotFound) {
			return nil, refuse(RefreshUnknown)
		}
		if err != nil {
			return nil, err
		}
		now := s.now()
		switch {
		case !s.inChain(t, a):
			return nil, refuse(RefreshUnknown)
		case f.ClientID != c.ID:
			return nil, refuse(RefreshForeign)
		case f.over(st), t.IdleUntil.IsZero(): // the latter is EndChain's
			return nil, refuse(RefreshUnknown)
		case !now.Before(t.IdleUntil), !t.AbsoluteUntil.IsZero() && !now.Before(t.AbsoluteUntil):
			return nil, refuse(RefreshExpired)
		}
		if refusal := st.usable(); refusal != nil {
			return nil, refusal
		}
		presented := HashOf(a.Secret)
		rot := Rotation{Selector: t.Selector, Family: f.ID, ClientID: c.ID, Proof: proof, GrantID: f.GrantID, Rev: st.Grant.Rev, Presented: presented, Now: now, IdleUntil: now.Add(p.RefreshIdle)}
		handed := a.Secret
		switch current := bytes.Equal(t.Hash, presented); {
		case !current && (!bytes.Equal(t.Previous, presented) || now.Sub(t.RotatedAt) >= RotateGrace):
			if err := s.confirm(ctx, c, proof); err != nil {
				return nil, err
			}
			return nil, s.refreshReplayed(ctx, c, f)
		case !current: // its successor is the newest, and so was not used
			rot.Again = true
			i := slices.IndexFunc(s.refresh, func(key []byte) bool { return t.Hash.Matches(successor(key, a).Secret) })
			if i < 0 { // made by a key that the ring has lost since
				return nil, refuse(RefreshUnknown)
			}
			handed = successor(s.refresh[i], a).Secret
		case c.rotates():
			handed = successor(s.refresh[0], a).Secret
			rot.Successor = HashOf(handed)
		}
		rights, narrowed, err := narrowTo(st.rights().narrow(f.Narrowing), r.Scope)
		if err != nil {
			return nil, err
		}
		if rights.empty() && !p.Guest {
			return nil, refuse(NoRights)
		}
		if err := r.admitFamily(f.ID); err != nil {
			return nil, err
		}
		rot.ISeq = st.Seq
		var access string
		if access, rot.Kid, err = s.mint(p, f, st, rights, narrowed); err != nil {
			return nil, err
		}
		if rot.Event, err = s.NewEvent(ctx, EventTokenRefreshed, Actor{AsClient, c.ID}, ofFamily{Family: f.ID, Rotated: rot.Successor != nil}); err != nil {
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
		if err := s.again(ctx, c, proof); err != nil {
			return nil, err
		}
	}
	return nil, refuse(Changed)
}

// inChain reports whether a is a token, new or old, of the chain that t keeps.
func (s *Server) inChain(t *StoredRefresh, a Artefact) bool {
	return t.Hash.Matches(a.Secret) || t.Previous.Matches(a.Secret) || s.issued(a)
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
