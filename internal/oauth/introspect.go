package oauth

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// Introspection is what a key may do at this moment (RFC 7662, 2.2). Scope and
// Rights are those of now, not those printed in the key.
type Introspection struct {
	Claims
	Epoch int64 // of the feed whose sequence ISeq is
	text  atomic.Pointer[[]byte]
}

// Printed returns what print makes of it, and keeps that: what is answered again as it
// was need not be printed again.
func (i *Introspection) Printed(print func(*Introspection) []byte) []byte {
	if text := i.text.Load(); text != nil {
		return *text
	}
	text := print(i)
	i.text.Store(&text)
	return text
}

// Introspect answers an API that has the credentials auth. It returns nil for a
// token that is unknown, expired, revoked or not meant for this API: the caller
// cannot tell which (RFC 7662, 2.2). An error means that the API is not who it says
// it is, or that the server cannot know. One question to the database proves the
// API and says what the token may do now, or that it may do what it could before.
// The value is shared: do not change it.
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
	asked := time.Since(start)
	if err := s.knowWithin(ctx, pollPatience); err != nil { // who does not want to wait does not
		return nil, err
	}
	if err := s.knowKeyOf(ctx, token, asked); err != nil {
		return nil, err
	}
	v, epoch, followed := s.unexpired(token)
	if last := v.answer.Load(); last != nil {
		if now, err := s.repeat(ctx, auth, last, asked); now != nil || err != nil {
			return now, err
		}
		v, epoch, followed = s.unexpired(token) // more is known now
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
	// The answer is as old as what is known of the keys, and a follower that another node
	// has told more keeps none that is older than that. A key that was cut counts here until
	// the keys are read that the feed told of.
	if st != nil && (followed < st.Seq || s.cache.keys.Load()) {
		err := s.followSoon(ctx, time.Since(start))
		if errors.Is(err, ErrBehind) || s.cache.keys.Load() {
			return nil, refuseBecause(FeedUnknown, err)
		}
		if err == nil {
			v, _, followed = s.unexpired(token)
		}
	}
	if f == nil || v.Audience != api.URI || st == nil || f.over(st) || st.usable() != nil || f.ClientID != v.ClientID || f.UserID != v.Subject || !v.genuine(f.Token) {
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
	said := &answer{api: api.ID, index: f.StatusIndex}
	said.now.Store(now)
	said.upto.Store(st.Seq)
	v.answer.Store(said)
	s.cache.show(auth.showing(), api, st.Seq)
	return now, nil
}

// unexpired reads a token that says it is ours and has not expired; any other reads as
// one of no family, for the API is proved all the same. Which keys are trusted is as of
// the sequence followed in that epoch, or of later.
func (s *Server) unexpired(token string) (p presented, epoch, followed int64) {
	epoch, followed = s.cache.epoch.Load(), s.cache.seq.Load()
	p, ok := s.present(token)
	if !ok || p.expired(s.now()) {
		p = presented{verified: &verified{}}
	}
	return p, epoch, followed
}

// answer is what a token may do, as an introspection has said it. It holds until an
// event names the place of its family, or a rule comes or goes: whatever changes what
// a key may do tells the feed one or the other. That none has is looked for anew each
// time, up to what the database says at that time; nothing is decided from it alone.
type answer struct {
	now   atomic.Pointer[Introspection]
	api   string
	index int64
	upto  atomic.Int64 // the feed's sequence up to which it is known to hold
}

// repeat gives the answer of before to an API that has the credentials auth, if it
// still holds: nil says that it may not.
func (s *Server) repeat(ctx context.Context, auth ClientAuth, last *answer, asked time.Duration) (*Introspection, error) {
	if err := s.catchUp(ctx, asked); err != nil {
		return nil, err
	}
	c := &s.cache
	if api, ok := c.showed(auth.showing()); !ok || api.ID != last.api {
		return nil, nil
	}
	upto, ok := s.feed.silent(c, last)
	if !ok {
		return nil, nil
	}
	last.upto.Store(upto)
	now := last.now.Load()
	s.usedGrant(now.GrantID)
	if now.ISeq != upto {
		now = &Introspection{Claims: now.Claims, Epoch: now.Epoch}
		now.ISeq = upto
		last.now.Store(now)
	}
	return now, nil
}

// silentMost is how many entries of the feed are looked through for one that an answer
// may have changed by: that many cost about what it does to ask again.
const silentMost = 1000

// silent reports whether nothing that the feed has told since an answer was given may
// have changed it, and up to where that is so.
func (f *feed) silent(c *clientCache, a *answer) (upto int64, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	was, now := a.upto.Load(), c.seq.Load()
	if a.now.Load().Epoch != c.epoch.Load() || was > now || was < f.base {
		return 0, false
	}
	since := f.log[f.after(was):]
	if len(since) > silentMost {
		return 0, false
	}
	for i := range since {
		if since[i].rule != nil || since[i].change.Index == a.index {
			return 0, false
		}
	}
	return now, true
}

// whyNotAPI tells an API that there is not from a secret that is wrong, for the log.
// Both are invalid_client, and a secret is found by its hash, so that the time
// taken tells nothing of it.
func (s *Server) whyNotAPI(ctx context.Context, id string) error {
	_, err := s.storage.API(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return refuse(APIUnknown)
	case err != nil:
		return err
	}
	return refuse(SecretWrong)
}
