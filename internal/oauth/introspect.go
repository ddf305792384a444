package oauth

import (
	"context"
	"errors"
)

// Introspection is what a key may do at this moment (RFC 7662, 2.2). Scope and
// Rights are those of now, not those printed in the key.
type Introspection struct {
	Claims
}

// Introspect answers an authenticated API. It returns nil for a token that is
// unknown, expired, revoked or not meant for this API: the caller cannot tell
// which (RFC 7662, 2.2). An error means that the server cannot know.
func (s *Server) Introspect(ctx context.Context, api *API, token string) (*Introspection, error) {
	answer, err := s.introspect(ctx, api, token)
	o := Outcome{Grant: "introspection"}
	switch {
	case err != nil:
		o.Reason = AsError(err).Reason
	case answer == nil:
		o.Reason = inactive
	}
	s.observe(o)
	return answer, err
}

func (s *Server) introspect(ctx context.Context, api *API, token string) (*Introspection, error) {
	v, ok := s.verifyOwn(token)
	if !ok || v.Audience != api.URI || v.Expires != 0 && v.Expires <= s.now().Unix() {
		return nil, nil
	}
	f, st, err := s.storage.Family(ctx, v.family)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if f.Status == Invalid || st == nil || st.usable() != nil || f.ClientID != v.ClientID || f.UserID != v.Subject {
		return nil, nil
	}
	rights := st.rights().narrow(f.Narrowing)
	if v.Narrowed != "" {
		limit, _ := ParseScope(v.Narrowed)
		rights = rights.narrow(limit)
	}
	s.usedGrant(f.GrantID)
	now := &Introspection{Claims: v.Claims}
	now.Scope, now.Rights, now.ISeq = rights.Flat().String(), rights.Claim(), st.Seq
	return now, nil
}
