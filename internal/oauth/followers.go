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

// Followed says how far all have come that follow the feed.
type Followed struct {
	All        int
	Epoch, Seq int64 // every one is in this epoch or a later one, and in this one has all up to Seq
}

// has reports whether everybody has all up to seq of an epoch.
func (f Followed) has(epoch, seq int64) bool {
	return f.All == 0 || f.Epoch > epoch || f.Epoch == epoch && f.Seq >= seq
}

// followers are those that asked this node. What they acknowledge is noted in the
// database, because they may ask another node next, and because whoever waits for an
// event to be in effect may wait at another one: at once while somebody might wait,
// that is when the sequence has moved, and else only as often as shows who is there.
type followers struct {
	mu    sync.Mutex
	known map[followerKey]*Follower
	of    map[string]int           // how many of known are of an API
	noted map[followerKey]Follower // as the database has it, or had it before a write that is on its way
	put   chan struct{}            // something is to be noted at once
}

func (fs *followers) init() {
	fs.known, fs.of, fs.noted = map[followerKey]*Follower{}, map[string]int{}, map[followerKey]Follower{}
	fs.put = make(chan struct{}, 1)
}

type followerKey struct{ api, instance string }

const (
	followersMax  = 10_000                 // of one API: what one does costs the others nothing
	presenceEvery = 5 * time.Second        // how often a follower's presence is noted
	followerGone  = time.Minute            // not seen for so long, it does not follow, even where the clocks of nodes differ by most of that
	gather        = 10 * time.Millisecond  // acknowledgements are noted together
	effectWithin  = 850 * time.Millisecond // no follower accepts after this, whatever happens
	effectPoll    = 10 * time.Millisecond
)

// follows notes that a follower has asked, and so has all up to what it asks after.
// One that the database may not count yet, or not any longer, is noted there before
// it is told anything, and what it is told is read after that: whoever waits for an
// event has then counted all that could still accept what it ended.
func (s *Server) follows(ctx context.Context, api *API, q FeedQuery) error {
	fs := &s.followers
	k := followerKey{api.ID, q.Instance}
	now := s.now()
	fs.mu.Lock()
	f := fs.known[k]
	if f == nil {
		if fs.of[k.api] >= followersMax {
			fs.mu.Unlock()
			return refuse(FeedUnknown)
		}
		f = &Follower{API: api.ID, Instance: q.Instance, Node: s.node}
		fs.known[k] = f
		fs.of[k.api]++
	}
	moved := q.Epoch != 0 && (q.Epoch != f.Epoch || q.After > f.Seq)
	if moved && f.Epoch == q.Epoch {
		if lag, known := s.feed.since(q.After); known {
			f.Lag = lag
		}
	}
	if q.Epoch != 0 {
		f.Epoch, f.Seq = q.Epoch, q.After
	}
	f.Seen = now
	// One that begins may have left at another node.
	uncounted := q.Epoch == 0 || now.Sub(fs.noted[k].Seen) > 2*presenceEvery
	news := *f
	news.Epoch, news.Seq = q.Epoch, q.After // of epoch 0 where it begins
	fs.mu.Unlock()
	// One that asks again meanwhile is noted by each of the two.
	if uncounted {
		limited, cancel := context.WithTimeout(ctx, knowTimeout)
		defer cancel()
		left, err := s.storage.PutFollowers(limited, []Follower{news})
		if err != nil {
			return refuseBecause(FeedUnknown, err)
		}
		if len(left) > 0 {
			fs.forget(k)
			return refuse(FeedGone)
		}
		fs.note(news)
		if err := s.followSoon(ctx, time.Since(start)); err != nil {
			return refuseBecause(FeedUnknown, err)
		}
		return nil
	}
	if moved {
		select {
		case fs.put <- struct{}{}:
		default:
		}
	}
	return nil
}

// Unfollow forgets a follower that has ended: it accepts nothing any more, and who waits
// for an event to be in effect need not wait for it, until it begins anew. A beginning
// that it gave up and that is read after this counts for a minute still, as one that ends
// without a word.
func (s *Server) Unfollow(ctx context.Context, auth ClientAuth, instance string) error {
	api, err := s.apiOf(ctx, auth)
	if err != nil {
		return err
	}
	now := s.now()
	s.followers.forget(followerKey{api.ID, instance})
	return s.storage.RemoveFollower(ctx, api.ID, instance, now)
}

func (fs *followers) forget(k followerKey) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.known[k] != nil {
		fs.drop(k)
	}
}

// drop is called with mu held.
func (fs *followers) drop(k followerKey) {
	delete(fs.known, k)
	fs.of[k.api]--
	delete(fs.noted, k)
}

// note remembers that the database has these. Of two writes the older may end last.
func (fs *followers) note(list ...Follower) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range list {
		k := followerKey{f.API, f.Instance}
		if fs.known[k] != nil && !f.Seen.Before(fs.noted[k].Seen) {
			fs.noted[k] = f
		}
	}
}

// move is one reading that moved the feed.
type move struct {
	to int64
	at time.Duration
}

// movesKept are those of some seconds at least, however many events there are.
const movesKept = 256

// since says how long ago this node saw the sequence reach seq, or, if that was before
// the moves that it remembers, at least how long; false if it has not seen it.
func (f *feed) since(seq int64) (time.Duration, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	i, _ := slices.BinarySearchFunc(f.moves, seq, func(m move, seq int64) int { return cmp.Compare(m.to, seq) })
	if i == len(f.moves) {
		return 0, false
	}
	return time.Since(start) - f.moves[i].at, true
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
			fs.drop(k)
		case f.Seq != was.Seq || f.Epoch != was.Epoch || f.Seen.Sub(was.Seen) > presenceEvery/2: // at each tick, though polls come a little before it or after
			news = append(news, *f)
		}
	}
	fs.mu.Unlock()
	slices.SortFunc(news, func(a, b Follower) int { // two batches never wait for each other in a ring
		return cmp.Or(strings.Compare(a.API, b.API), strings.Compare(a.Instance, b.Instance))
	})
	for batch := range slices.Chunk(news, 100) {
		left, err := s.storage.PutFollowers(ctx, batch)
		if err != nil {
			return err
		}
		fs.note(batch...)
		for _, f := range left { // at another node: if it goes on, it is asked to begin
			fs.forget(followerKey{f.API, f.Instance})
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
	Everywhere bool          // every follower has acknowledged it; if not, the time has passed after which none accepts
	Followers  int           // how many were counted
	After      time.Duration // how long that took
}

// Effective waits until every follower has acknowledged all that has happened until
// now, as it shows by asking for what comes after. Where one does not, or where the
// database does not say so, it waits for as long as a follower that hears nothing may
// go on accepting, 850 ms: after that nothing is accepted that was revoked before. So
// either way it is in effect when Effective returns without an error, which is only
// ctx's. A follower that its API has set to stay open without a lease is none of this.
// It needs no chores: the followers are those that the nodes noted in the database. All
// who wait ask at the same moments, so that they share what they ask: however many they
// are, they are never in the way of the feed, by which the others hear.
func (s *Server) Effective(ctx context.Context) (Effect, error) {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, effectWithin)
	defer cancel()
	var e Effect
	var seq, epoch int64
	for limited.Err() == nil && !e.Everywhere {
		var err error
		if epoch == 0 {
			seq, epoch, err = s.storage.Head(limited)
		}
		if err == nil {
			var f Followed
			if f, err = s.storage.CountFollowers(limited, s.now().Add(-followerGone)); err == nil {
				e.Followers, e.Everywhere = f.All, f.has(epoch, seq)
			}
		}
		if !e.Everywhere {
			again := time.NewTimer(effectPoll - time.Since(start)%effectPoll)
			select {
			case <-again.C:
			case <-limited.Done():
				again.Stop()
			}
		}
	}
	if err := ctx.Err(); err != nil && !e.Everywhere {
		return e, err
	}
	e.After = time.Since(began)
	s.effects.note(e)
	return e, nil
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
