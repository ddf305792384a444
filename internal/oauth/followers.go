package oauth

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// Follower is an API server that follows the feed.
type Follower struct {
	API      string
	Instance string
	Epoch    int64
	Seq      int64 // everything up to here is in effect there
	Seen     time.Time
	Node     string        // the node that it asked last
	Lag      time.Duration // from when an event was known here until it was acknowledged, of late
}

// followers are those that asked this node. What they acknowledge is noted in the
// database, because they may ask another node next, and because whoever waits for an
// event to be in effect may wait at another one: at once while somebody might wait,
// that is when the sequence has moved, and else only as often as shows who is there.
type followers struct {
	mu    sync.Mutex
	known map[followerKey]*Follower
	noted map[followerKey]Follower // as the database has it
	put   chan struct{}            // something is to be noted at once
}

type followerKey struct{ api, instance string }

const (
	followersMax  = 100_000
	presenceEvery = 5 * time.Second        // how often a follower's presence is noted
	followerGone  = 3 * presenceEvery      // not seen for so long, it does not follow
	gather        = 10 * time.Millisecond  // acknowledgements are noted together
	effectWithin  = 850 * time.Millisecond // no follower accepts after this, whatever happens
	effectPoll    = 10 * time.Millisecond
)

// follows notes that a follower has asked, and so has all up to what it asks after.
func (s *Server) follows(api *API, q FeedQuery) {
	if q.Instance == "" || q.Epoch == 0 {
		return
	}
	fs := &s.followers
	k := followerKey{api.ID, q.Instance}
	now := s.now()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.known[k]
	if f == nil {
		if len(fs.known) >= followersMax {
			return
		}
		f = &Follower{API: api.ID, Instance: q.Instance, Node: s.node}
		fs.known[k] = f
	}
	moved := q.Epoch != f.Epoch || q.After > f.Seq
	if moved && f.Epoch == q.Epoch {
		f.Lag = s.feed.since(q.After)
	}
	f.Epoch, f.Seq, f.Seen = q.Epoch, q.After, now
	if moved {
		select {
		case fs.put <- struct{}{}:
		default:
		}
	}
}

// since says how long ago this node saw the sequence move to seq; 0 if it is not known.
func (f *feed) since(seq int64) time.Duration {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if seq != f.movedTo {
		return 0
	}
	return time.Since(start) - f.movedAt
}

// noteFollowers writes what is new about followers until ctx ends.
func (s *Server) noteFollowers(ctx context.Context) {
	presence := time.NewTicker(presenceEvery)
	defer presence.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-presence.C:
		case <-s.followers.put:
			wait := time.NewTimer(gather)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
			}
		}
		if err := s.putFollowers(ctx); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Debug("followers were not noted", "error", err)
		}
	}
}

func (s *Server) putFollowers(ctx context.Context) error {
	fs := &s.followers
	now := s.now()
	var news []Follower
	fs.mu.Lock()
	for k, f := range fs.known {
		was := fs.noted[k]
		switch {
		case now.Sub(f.Seen) > followerGone:
			delete(fs.known, k)
			delete(fs.noted, k)
		case f.Seq != was.Seq || f.Epoch != was.Epoch || f.Seen.Sub(was.Seen) >= presenceEvery:
			news = append(news, *f)
			fs.noted[k] = *f
		}
	}
	fs.mu.Unlock()
	slices.SortFunc(news, func(a, b Follower) int { // two batches never wait for each other in a ring
		return cmp.Or(strings.Compare(a.API, b.API), strings.Compare(a.Instance, b.Instance))
	})
	for batch := range slices.Chunk(news, 100) {
		if err := s.storage.PutFollowers(ctx, batch); err != nil {
			fs.mu.Lock()
			for _, f := range batch { // to be tried again
				delete(fs.noted, followerKey{f.API, f.Instance})
			}
			fs.mu.Unlock()
			return err
		}
	}
	return nil
}

// Followers lists the API servers that follow the feed, for who runs the platform.
func (s *Server) Followers(ctx context.Context, actor Actor) ([]Follower, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Followers(ctx, s.now().Add(-followerGone))
}

// Effect says how an event came into effect.
type Effect struct {
	Everywhere bool          // every follower has acknowledged it
	Followers  int           // how many there were
	After      time.Duration // how long that took, or was waited for
}

// Effective waits until every follower has acknowledged all that has happened until
// now, as it shows by asking for what comes after. Where one does not, it waits for
// as long as a follower that hears nothing may go on accepting, 850 ms: after that
// nothing is accepted that was revoked before, so either way it is in effect when
// Effective returns without an error.
func (s *Server) Effective(ctx context.Context) (Effect, error) {
	began := time.Now()
	seq, epoch, err := s.storage.Head(ctx)
	if err != nil {
		return Effect{}, err
	}
	limit := time.NewTimer(effectWithin)
	defer limit.Stop()
	poll := time.NewTicker(effectPoll)
	defer poll.Stop()
	for {
		list, err := s.storage.Followers(ctx, s.now().Add(-followerGone))
		if err != nil {
			return Effect{}, err
		}
		e := Effect{Everywhere: true, Followers: len(list), After: time.Since(began)}
		for _, f := range list {
			if f.Epoch < epoch || f.Epoch == epoch && f.Seq < seq {
				e.Everywhere = false
			}
		}
		if e.Everywhere {
			s.effects.note(e)
			return e, nil
		}
		select {
		case <-poll.C:
		case <-limit.C:
			e.After = time.Since(began)
			s.effects.note(e)
			return e, nil
		case <-ctx.Done():
			return e, ctx.Err()
		}
	}
}

// effects remembers the last event that was waited for.
type effects struct {
	mu   sync.Mutex
	last Effect
	at   time.Time
}

func (x *effects) note(e Effect) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last, x.at = e, time.Now()
}

// LastEffect is the last event that somebody waited for on this node, and when that
// was; the zero time if there was none.
func (s *Server) LastEffect() (Effect, time.Time) {
	s.effects.mu.Lock()
	defer s.effects.mu.Unlock()
	return s.effects.last, s.effects.at
}
