package oauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// clientCache keeps apps between requests. It follows the feed:
// whoever changes an app, also the command line in another process, moves the
// feed's sequence, and the follower reads it every pollEvery. Entries count only
// while the last good read is younger than staleAfter; a node that cannot read
// asks the database each time. Grants, tokens and sessions are never cached.
type clientCache struct {
	read  atomic.Int64 // monotonic time since start at which the last good read was sent
	seq   atomic.Int64 // how far the feed was followed
	epoch atomic.Int64 // of that feed: a restored backup begins another
	keys  atomic.Bool  // signing keys have changed and were not read yet

	mu      sync.RWMutex
	clients map[string]*Client
	shown   *Recent[showing, *API]
}

const (
	pollEvery    = 40 * time.Millisecond
	pollPatience = 2 * time.Second        // a connection that went silent must not end the following
	staleAfter   = 100 * time.Millisecond // of a reading, whether a beat has proved it or not; knownFor is what followers are promised, of one that is proved
	cacheMax     = 10_000                 // beyond it the shelf is cleared
)

var start = time.Now()

func (c *clientCache) fresh() bool {
	sent := c.read.Load()
	return sent != 0 && time.Since(start)-time.Duration(sent) < staleAfter
}

// showing is what an API is remembered by once it has proved itself.
type showing [sha256.Size]byte

func (a ClientAuth) showing() showing {
	return sha256.Sum256([]byte(a.ID + "\x00" + a.Secret.Reveal()))
}

// showed returns the API that has shown these credentials since anything about an API
// last changed, as far as the feed was followed.
func (c *clientCache) showed(s showing) (*API, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.shown.Get(s)
}

// show remembers an API as it was at seq, unless the feed was followed further, which may
// have told of it.
func (c *clientCache) show(s showing, api *API, seq int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.seq.Load() == seq {
		c.shown.Put(s, api)
	}
}

// Client reads an app that is not deleted: from the cache or, if it cannot be
// trusted to be of now, from the database. The value is shared: do not change it.
func (s *Server) Client(ctx context.Context, id string) (*Client, error) {
	l, _ := ctx.Value(lookKey{}).(*look)
	if l != nil && l.done && l.id == id {
		return l.client, l.err
	}
	client, err := s.lookUp(ctx, id)
	if l != nil && (err == nil || errors.Is(err, ErrNotFound)) {
		*l = look{id, client, err, true}
	}
	return client, err
}

// look is what a request was told of the app that it named.
type look struct {
	id     string
	client *Client
	err    error
	done   bool
}

type lookKey struct{}

// WithLook returns a context for one request, which runs in one goroutine: the app that
// it names is looked up once, and so is one that there is not, which is in no cache.
func WithLook(ctx context.Context) context.Context {
	return context.WithValue(ctx, lookKey{}, new(look))
}

func (s *Server) lookUp(ctx context.Context, id string) (*Client, error) {
	c := &s.cache
	if c.fresh() {
		c.mu.RLock()
		found := c.clients[id]
		c.mu.RUnlock()
		if found != nil {
			return found, nil
		}
	}
	seq := c.seq.Load()
	client, err := s.storage.Client(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// What was read before an event that the follower has seen since may be older
	// than that event.
	if c.fresh() && c.seq.Load() == seq {
		if len(c.clients) >= cacheMax {
			clear(c.clients)
		}
		c.clients[id] = client
	}
	return client, nil
}

const (
	flushEvery = 15 * time.Second
	sweepEvery = 30 * time.Second
	sweepBatch = 2000 // rows of a kind between two looks at the lease and the time
	sweepLease = 2 * sweepEvery
)

// followUntil reads the feed every pollEvery until ctx ends.
func (s *Server) followUntil(ctx context.Context) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-s.storage.Moved():
		case <-s.feed.beaten:
		}
		err := s.follow(ctx, time.Since(start))
		if err != nil && ctx.Err() == nil && !failing {
			s.log.Error("the feed cannot be followed; nothing is told to followers, and no cache is used, until it can", "error", err)
		}
		failing = err != nil
	}
}

// sweep removes what is over, batch after batch, until a batch finds little, or the
// time of this round is up. Of several nodes the one that holds the lease does it;
// when it dies, another follows by time. A node whose lease runs out half way does
// no harm: what is over can only be removed once.
func (s *Server) sweep(ctx context.Context) error {
	for began := time.Now(); time.Since(began) < sweepEvery/2; {
		now := s.now()
		held, err := s.storage.Lease(ctx, "sweep", s.node, now, now.Add(sweepLease))
		if err != nil || !held {
			return err
		}
		n, err := s.storage.Sweep(ctx, now, s.eventsKept, sweepBatch)
		if err != nil || n < sweepBatch/4 {
			return err
		}
	}
	return nil
}

// Run does the server's chores until ctx ends: it follows the feed, notes when
// things were last used, and removes what is over. It returns when all is still.
func (s *Server) Run(ctx context.Context) {
	flush, fold := time.NewTicker(flushEvery), time.NewTicker(foldEvery)
	defer flush.Stop()
	defer fold.Stop()
	var beside sync.WaitGroup // a long sweep must not keep the node from the feed, nor from what it counts
	beside.Go(func() { s.followUntil(ctx) })
	beside.Go(func() { s.noteFollowers(ctx) })
	beside.Go(func() { s.sweepUntil(ctx) })
	defer beside.Wait()
	chore := s.chore()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			chore("note use", s.flushUsage(last))
			chore("count wrong secrets", s.flushGuesses(last))
			return
		case <-flush.C:
			chore("note use", s.flushUsage(ctx))
			chore("count wrong secrets", s.flushGuesses(ctx))
		case <-fold.C:
			chore("write status lists", s.fold(ctx))
		}
	}
}

func (s *Server) sweepUntil(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	chore := s.chore()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			chore("sweep", s.sweep(ctx))
			chore("forget status lists", s.forgetLists(ctx))
		}
	}
}

// chore returns what logs that a chore failed, once until that one succeeds.
func (s *Server) chore() func(what string, err error) {
	failing := map[string]bool{}
	return func(what string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) && !failing[what] {
			s.log.Error("a chore failed; it is tried again", "chore", what, "error", err)
		}
		failing[what] = err != nil
	}
}
