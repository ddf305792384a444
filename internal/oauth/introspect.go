package oauth

import (
	"context"
	"errors"
)

// Introspection is what a key may do at this moment (RFC 7662, 2.2). Scope and
// Rights are those of now, not those printed in the key.
type Introspection struct {
	Claims
	Epoch int64 // of the feed whose sequence ISeq is
}

// Introspect answers an API that has the credentials auth. It returns nil for a
// token that is unknown, expired, revoked or not meant for this API: the caller
// cannot tell which (RFC 7662, 2.2). An error means that the API is not who it says
// it is, or that the server cannot know. One question to the database proves the
// API and says what the token may do now.
func (s *Server) Introspect(ctx context.Context, auth ClientAuth, token string) (*Introspection, error) {
	answer, err := s.introspect(ctx, auth, token)
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

func (s *Server) introspect(ctx context.Context, auth ClientAuth, token string) (*Introspection, error) {
	if auth.ID == "" || auth.Secret == "" {
		return nil, refuse(ClientAuthMissing)
	}
	if err := s.knowWithin(ctx, pollPatience); err != nil { // who does not want to wait does not
		return nil, err
	}
	epoch, followed := s.cache.epoch.Load(), s.cache.seq.Load() // which keys are trusted is as of then
	v, ours := s.verifyOwn(token)
	if !ours || v.Expires != 0 && v.Expires <= s.now().Unix() {
		v = &verified{} // the API is proved all the same
	}
	api, f, st, err := s.storage.Asked(ctx, auth.ID, HashOf(auth.Secret), v.family)
	if errors.Is(err, ErrNotFound) {
		return nil, s.whyNotAPI(ctx, auth.ID)
	}
	if err != nil {
		return nil, err
	}
	if st != nil && st.Epoch == epoch && st.Seq < followed { // a server that was deposed answered
		return nil, refuse(FeedUnknown)
	}
	if f == nil || v.Audience != api.URI || st == nil || f.over(st) || st.usable() != nil || f.ClientID != v.ClientID || f.UserID != v.Subject {
		return nil, nil
	}
	rights := st.rights().narrow(f.Narrowing)
	if v.Narrowed != "" {
		limit, _ := ParseScope(v.Narrowed)
		rights = rights.narrow(limit)
	}
	s.usedGrant(f.GrantID)
	now := &Introspection{Claims: v.Claims, Epoch: st.Epoch}
	now.Scope, now.Rights, now.ISeq = rights.Flat().String(), rights.Claim(), min(st.Seq, followed)
	return now, nil
}

// whyNotAPI tells an API that there is not from a secret that is wrong, for the log.
// Both are invalid_client, and a secret is found by its hash, so that the time
// taken tells nothing of it.
func (s *Server) whyNotAPI(ctx context.Context, id string) error {
	_, err := s.storage.API(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return refuse(ClientUnknown)
	case err != nil:
		return err
	}
	return refuse(SecretWrong)
}
