package oauth

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// FeedQuery is the question of a follower.
type FeedQuery struct {
	After, Epoch int64  // what it has; Epoch 0: nothing, so begin
	Instance     string // which process asks
	Holding      func() // if not nil: called once the answer is held
}

// FeedPage is an answer to it: what happened after the question's sequence up to Seq.
// A page that begins holds every rule and no changes, because lists are read whole.
type FeedPage struct {
	Epoch, Seq int64
	More       bool // Seq is not the present yet
	Changes    []StatusChange
	Rules      []Rule
}

// pageMax bounds what a page tells, some 2.5 MB of changes: verifiers refuse an answer
// of more than 8 MiB. A page ends where an event does, because an event is told whole. One
// that has more than this is not told: a follower that has not got it begins anew after it.
const pageMax = 50_000

// Revocations tells an API what happened to its keys. The answer is held for up to
// 200 ms while nothing does; nil says that nothing has, as of now. An error is a
// refusal: [FeedGone] if the follower must begin anew, [FeedUnknown] if this node
// does not know the present, so that silence is never taken for peace.
func (s *Server) Revocations(ctx context.Context, auth ClientAuth, q FeedQuery) (*FeedPage, error) {
	page, err := s.revocations(ctx, auth, q)
	o := Outcome{Grant: "feed"}
	switch {
	case err != nil:
		o.Reason = AsError(err).Reason
	case page == nil:
		o.Reason = nothing
	}
	s.observe(o)
	return page, err
}

// nothing is the Outcome of a poll in which nothing has happened. It is no refusal, so
// it has no row in the table of reasons.
const nothing Reason = "nothing"

func (s *Server) revocations(ctx context.Context, auth ClientAuth, q FeedQuery) (*FeedPage, error) {
	api, err := s.apiOf(ctx, auth)
	if err != nil {
		return nil, err
	}
	if err := s.follows(ctx, api, q); err != nil {
		return nil, err
	}
	if q.Epoch == 0 {
		if err := s.know(ctx); err != nil {
			return nil, err
		}
		return s.beginning(), nil
	}
	hold := time.NewTimer(s.feed.hold())
	defer hold.Stop()
	for held := false; ; {
		f := &s.feed
		f.mu.RLock()
		seq, epoch, changed := s.cache.seq.Load(), s.cache.epoch.Load(), f.changed
		f.mu.RUnlock()
		switch {
		case q.Epoch > epoch || q.Epoch == epoch && q.After > seq:
			// The follower is ahead of this node, which may catch up.
			if held {
				return nil, refuse(FeedUnknown)
			}
		case q.Epoch < epoch:
			return nil, refuse(FeedGone)
		case q.After < seq:
			return s.page(ctx, api, q.After)
		case held:
			// Nothing, then: as of a reading that is new enough.
			if err := s.followSoon(ctx, time.Since(start)-readAgain); err != nil {
				return nil, refuseBecause(FeedUnknown, err)
			}
			if err := s.know(ctx); err != nil {
				return nil, err
			}
			if s.cache.seq.Load() == seq && s.cache.epoch.Load() == epoch {
				return nil, nil
			}
			continue
		}
		if _, err := f.age(); err != nil { // also keeps the beat going
			return nil, refuseBecause(FeedUnknown, err)
		}
		if q.Holding != nil {
			q.Holding()
			q.Holding = nil
		}
		select {
		case <-changed:
		case <-hold.C:
			held = true
		case <-ctx.Done():
			return nil, refuseBecause(FeedUnknown, ctx.Err())
		}
	}
}

// hold is for how long a poll is held. Those who were told of an event come back at the
// same moment, and from then on would all be answered at the same moment, in the way of
// the next event. One hold of any length spreads them.
func (f *feed) hold() time.Duration {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if time.Since(start)-f.movedAt < holdPoll {
		return rand.N(holdPoll)
	}
	return holdPoll
}

// beginning is all rules there are, as of now.
func (s *Server) beginning() *FeedPage {
	f := &s.feed
	f.mu.RLock()
	defer f.mu.RUnlock()
	p := &FeedPage{Epoch: s.cache.epoch.Load(), Seq: s.cache.seq.Load()}
	for _, r := range f.rules {
		p.Rules = append(p.Rules, r)
	}
	return p
}

// page is what happened after a sequence: from memory or, if that is too long ago,
// from the database.
func (s *Server) page(ctx context.Context, api *API, after int64) (*FeedPage, error) {
	f := &s.feed
	f.mu.RLock()
	p := &FeedPage{Epoch: s.cache.epoch.Load(), Seq: s.cache.seq.Load()}
	// A reading notes of when it was after all that it brought is in, and the sequence
	// moves under this lock alone: all that was so at asOf is up to Seq. A reading that
	// comes in while the rest is made moves the node on, but not this page.
	known, kept, asOf := after >= f.base, f.kept, f.asOf
	var err error
	if known {
		err = p.fill(api, after, f.log[f.after(after):])
	}
	f.mu.RUnlock()
	switch {
	case known:
	case after < kept:
		err = refuse(FeedGone)
	default:
		err = s.pageFrom(ctx, api, after, p)
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.age(); err != nil { // also keeps the beat going
		return nil, refuseBecause(FeedUnknown, err)
	}
	if asOf == 0 || time.Since(start)-asOf > knownFor {
		p.More = true // it did happen, but there may be more
	}
	return p, nil
}

// fill puts in what an API is told of entries, of all that follow a sequence in order: of
// as many events as are told whole.
func (p *FeedPage) fill(api *API, after int64, entries []entry) error {
	told := 0
	for _, e := range entries {
		if e.rule == nil && e.change.API != api.ID {
			continue
		}
		if told >= pageMax {
			if p.Seq, p.More = e.seq-1, true; p.Seq == after {
				return refuse(FeedGone)
			}
			break
		}
		if told++; e.rule != nil {
			told += len(e.rule.Subject) / 16 // a change takes 51 bytes, a rule 100 and its id, which may be escaped
			p.Rules = append(p.Rules, *e.rule)
		} else {
			p.Changes = append(p.Changes, e.change)
		}
	}
	// Of the event that the page ends before, some may be in: changes, which come before its rule.
	for n := len(p.Changes); n > 0 && p.Changes[n-1].Seq > p.Seq; n-- {
		p.Changes = p.Changes[:n-1]
	}
	return nil
}

// pageFrom reads a page from the database, some hundred events of it.
func (s *Server) pageFrom(ctx context.Context, api *API, after int64, p *FeedPage) error {
	const events = 500
	if p.Seq > after+events {
		p.Seq, p.More = after+events, true
	}
	changes, err := s.storage.ChangesFor(ctx, api.ID, after, p.Seq, pageMax+1)
	if err != nil {
		return err
	}
	rules, err := s.storage.RuleChanges(ctx, after, p.Seq)
	if err != nil {
		return err
	}
	// Some may have been removed while this was read.
	now, err := s.storage.Present(ctx)
	if err != nil {
		return err
	}
	if now.Kept > after || now.Epoch != p.Epoch {
		return refuse(FeedGone)
	}
	return p.fill(api, after, entries(changes, rules))
}

// ProveAPI returns an error unless the credentials are an API's.
func (s *Server) ProveAPI(ctx context.Context, auth ClientAuth) error {
	_, err := s.apiOf(ctx, auth)
	return err
}

// apiOf proves an API. Who was proved is remembered until the feed says that
// something about an API changed, while the feed is followed.
func (s *Server) apiOf(ctx context.Context, auth ClientAuth) (*API, error) {
	if auth.ID == "" || auth.Secret == "" {
		return nil, refuse(ClientAuthMissing)
	}
	shown := auth.showing()
	c := &s.cache
	if c.fresh() {
		if api, ok := c.showed(shown); ok {
			return api, nil
		}
	}
	seq := c.seq.Load()
	api, _, _, err := s.storage.Asked(ctx, auth.ID, HashOf(auth.Secret), "")
	if errors.Is(err, ErrNotFound) {
		return nil, s.whyNotAPI(ctx, auth.ID)
	}
	if err != nil {
		return nil, err
	}
	c.show(shown, api, seq)
	return api, nil
}

// Seen notes when the grants whose keys an API saw were last used: to the hour, as its
// processes report no more often than that. What another reported lately says it too,
// and is not written again. Grants that have no key for this API are passed over.
func (s *Server) Seen(ctx context.Context, auth ClientAuth, grants []string) error {
	api, err := s.apiOf(ctx, auth)
	if err != nil {
		return err
	}
	if len(grants) > SeenMax {
		return refuseParam(ParamTooLong, "grants")
	}
	now := s.now()
	// Half an hour, so that a report that comes a moment early counts.
	return s.storage.TouchSeen(ctx, now, now.Add(-usagePrecision/2), api.ID, grants)
}

// SeenMax is how many grants one report may name.
const SeenMax = 10_000
