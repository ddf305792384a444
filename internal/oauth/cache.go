package oauth

import (
	"context"
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
}

const (
	pollEvery    = 40 * time.Millisecond
	pollPatience = 2 * time.Second // a connection that went silent must not end the following
	staleAfter   = 100 * time.Millisecond
	cacheMax     = 10_000 // beyond it the shelf is cleared
)

var start = time.Now()

func (c *clientCache) fresh() bool {
	sent := c.read.Load()
	return sent != 0 && time.Since(start)-time.Duration(sent) < staleAfter
}

// FeedLag says how long ago the feed's sequence was last read, counted from before
// the question was sent. It grows while the database does not answer.
func (s *Server) FeedLag() time.Duration {
	return time.Since(start) - time.Duration(s.cache.read.Load())
}

// FeedSeq is the feed's sequence that this node has followed to.
func (s *Server) FeedSeq() int64 { return s.cache.seq.Load() }

// Client reads an app that is not deleted: from the cache or, if it cannot be
// trusted to be of now, from the database. The value is shared: do not change it.
func (s *Server) Client(ctx context.Context, id string) (*Client, error) {
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

// follow reads the feed once and drops what its events are about.
func (s *Server) follow(ctx context.Context) error {
	c := &s.cache
	sent := time.Since(start)
	ctx, cancel := context.WithTimeout(ctx, pollPatience)
	defer cancel()
	seq, epoch, err := s.storage.Head(ctx)
	if err != nil {
		return err
	}
	// The database has lost its last events: a restored backup, a standby that was not
	// in step. Numbers seen before may now stand for other events.
	if epoch != c.epoch.Load() || seq < c.seq.Load() {
		c.forget(seq, epoch)
	}
	for before := c.seq.Load(); before < seq; {
		events, err := s.storage.FeedAfter(ctx, before, 1000)
		if err != nil {
			return err
		}
		if len(events) == 0 || events[0].Seq != before+1 { // some were removed unread
			c.forget(seq, epoch)
			break
		}
		s.apply(events)
		before = events[len(events)-1].Seq
	}
	if c.keys.Load() { // also those whose reading failed before
		if err := s.loadKeys(ctx); err != nil {
			return err
		}
		c.keys.Store(false)
	}
	c.read.Store(int64(sent))
	return nil
}

// forget drops all that was kept and begins anew at seq.
func (c *clientCache) forget(seq, epoch int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.clients)
	c.keys.Store(true)
	c.epoch.Store(epoch)
	c.seq.Store(seq)
}

// apply moves the mark under the lock under which entries are put, so that no
// entry read before these events is put after them.
func (s *Server) apply(events []Event) {
	c := &s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		if e.ClientID != "" {
			delete(c.clients, e.ClientID)
		}
		if e.Kind == EventKeyAdded {
			c.keys.Store(true)
		}
	}
	c.seq.Store(events[len(events)-1].Seq)
}

const (
	flushEvery = 15 * time.Second
	sweepEvery = 30 * time.Second
	sweepBatch = 100 // rows: what is removed at once must not keep others waiting for 10 ms
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
			err := s.follow(ctx)
			if err != nil && ctx.Err() == nil && !failing {
				s.log.Error("the feed cannot be read; caches are not used until it can", "error", err)
			}
			failing = err != nil
		}
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
	flush, sweep := time.NewTicker(flushEvery), time.NewTicker(sweepEvery)
	defer flush.Stop()
	defer sweep.Stop()
	var following sync.WaitGroup
	following.Go(func() { s.followUntil(ctx) }) // a long sweep must not keep it from the feed
	defer following.Wait()
	failing := false
	chore := func(what string, err error) {
		if err != nil && !errors.Is(err, context.Canceled) && !failing {
			s.log.Error("a chore failed; it is tried again", "chore", what, "error", err)
		}
		failing = err != nil
	}
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
		case <-sweep.C:
			chore("sweep", s.sweep(ctx))
		}
	}
}
