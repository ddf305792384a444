package oauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// feed is what this node knows of the feed. One reading at a time brings it from the
// database, every pollEvery and whenever an event of this process has moved it.
//
// What is told to followers must be of now. A reading counts from when it was sent.
// Where the database may have been deposed without noticing, the answer to a read
// proves nothing: there it counts only once a beat that was not committed when it was
// sent has been committed, with the durability of a revocation. So what is known is
// as of the last reading that showed the beat of before. A beat that took its time to
// show proves nothing, and the next one does: a server that waits for its standby in
// vain shows what it has not made durable once the wait is cancelled.
type feed struct {
	reading chan struct{} // of one place, held by the one that reads: who waits for it can give up
	last    string        // id of the event that the feed was followed to, "" if it is not known; written under reading and mu

	mu      sync.RWMutex
	log     []entry        // what happened after base, in order
	base    int64          // the log holds everything after it
	rules   map[about]Rule // nil until the feed was begun
	lists   map[int64]*list
	asOf    time.Duration // monotonic, since start: what is known is of then
	beat    int64         // as last read,
	beatAt  time.Duration // by a reading that was sent then
	beatNew time.Duration // when it was first read so
	wanted  time.Duration // when somebody last asked what is known
	beating bool
	began   time.Duration // when the last beat was asked for
	beaten  chan struct{} // sent to when it was committed: the next reading counts
	behind  error         // the database has lost events that were told
	folded  int64
	kept    int64
	changed chan struct{} // closed when the sequence has moved
	movedAt time.Duration // when,
	moves   []move        // and the last times, oldest first
}

// entry is one thing of the feed: a change of an index, or of a rule.
type entry struct {
	seq    int64
	change StatusChange
	rule   *Rule
}

type about struct {
	kind    RuleKind
	subject string
}

const (
	logMax      = 1 << 16                // entries; half of them is kept when it is full
	newsMax     = 1000                   // events that one reading brings
	knownFor    = 100 * time.Millisecond // how old what is told may be
	readAgain   = 60 * time.Millisecond  // before "nothing", a reading older than this is repeated
	beatWithin  = time.Second            // how soon a beat must show to count: less than any event waits for its commit
	wantedFor   = 2 * time.Second        // the beat goes on for so long after the last question
	holdPoll    = 200 * time.Millisecond
	knowTimeout = 300 * time.Millisecond
)

// ErrBehind says that the database has gone back behind what was told of it.
var ErrBehind = errors.New("the database has lost events that it had acknowledged: begin a new epoch (grantway new-epoch) once it is the right one")

// FeedLag says how long ago the state that this node knows was the present one. It
// grows while the database does not answer.
func (s *Server) FeedLag() time.Duration {
	s.feed.mu.RLock()
	defer s.feed.mu.RUnlock()
	return time.Since(start) - s.feed.asOf
}

// FeedSeq is the feed's sequence that this node has followed to.
func (s *Server) FeedSeq() int64 { return s.cache.seq.Load() }

// Position is how far the feed was told to a node. It outlives the process where that
// hands over: nothing but the memory of nodes shows that the database has lost events.
type Position struct {
	Epoch, Seq int64
	Last       string // id of the event at Seq, "" if it is not known
}

// Known is how far the feed was told to this node.
func (s *Server) Known() Position {
	s.feed.mu.RLock()
	defer s.feed.mu.RUnlock()
	return Position{s.cache.epoch.Load(), s.cache.seq.Load(), s.feed.last}
}

// Behind returns [ErrBehind] while the database lacks what this node was told.
func (s *Server) Behind() error {
	s.feed.mu.RLock()
	defer s.feed.mu.RUnlock()
	return s.feed.behind
}

// follow reads the feed once, unless another reading that was sent after since has
// done it meanwhile.
func (s *Server) follow(ctx context.Context, since time.Duration) error {
	f := &s.feed
	select {
	case f.reading <- struct{}{}:
		defer func() { <-f.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c := &s.cache
	if time.Duration(c.read.Load()) > since {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pollPatience)
	defer cancel()
	for {
		sent := time.Since(start)
		n, err := s.storage.News(ctx, c.seq.Load(), newsMax)
		if err != nil {
			return err
		}
		if err := s.hear(ctx, n); err != nil {
			return err
		}
		if c.seq.Load() < n.Seq { // there is more
			continue
		}
		if c.keys.Load() { // also those whose reading failed before
			if err := s.loadKeys(ctx); err != nil {
				return err
			}
			c.keys.Store(false)
		}
		c.read.Store(int64(sent))
		s.known(ctx, n.Present, sent)
		return nil
	}
}

// hear takes in what a reading has brought.
func (s *Server) hear(ctx context.Context, n News) error {
	f, c := &s.feed, &s.cache
	seq, epoch := c.seq.Load(), c.epoch.Load()
	switch {
	case n.Epoch < epoch || n.Epoch == epoch && (n.Seq < seq || f.last != "" && n.Seen != "" && n.Seen != f.last):
		// Numbers that were told will be, or have been, given again to other events.
		f.mu.Lock()
		f.behind = ErrBehind
		f.mu.Unlock()
		return ErrBehind
	case n.Epoch > epoch || f.rules == nil:
		return s.beginFeed(ctx, n.Present)
	case n.Seq == seq:
		return nil
	case len(n.Events) == 0 || n.Events[0].Seq != seq+1: // some were removed unread
		return s.beginFeed(ctx, n.Present)
	}
	s.apply(n)
	return nil
}

// beginFeed drops all that was kept and begins anew at p.
func (s *Server) beginFeed(ctx context.Context, p Present) error {
	rules, err := s.storage.Rules(ctx)
	if err != nil {
		return err
	}
	f, c := &s.feed, &s.cache
	f.mu.Lock()
	defer f.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.clients)
	c.shown = new(Recent[showing, *API])
	c.keys.Store(true)
	c.epoch.Store(p.Epoch)
	c.seq.Store(p.Seq)
	f.log, f.base, f.behind, f.last, f.moves = nil, p.Seq, nil, p.Last, nil
	f.rules, f.lists = map[about]Rule{}, map[int64]*list{}
	for _, r := range rules {
		f.rules[about{r.Kind, r.Subject}] = r
	}
	f.wake()
	return nil
}

// apply moves the mark under the locks under which entries are put, so that nothing
// read before these events is put after them.
func (s *Server) apply(n News) {
	f, c := &s.feed, &s.cache
	f.mu.Lock()
	defer f.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range n.Events {
		if e.ClientID != "" {
			delete(c.clients, e.ClientID)
		}
		switch e.Kind {
		case EventKeyAdded, EventKeyCut:
			c.keys.Store(true)
		case EventAPIPut, EventAPISecretAdded, EventAPISecretRevoked:
			c.shown = new(Recent[showing, *API])
		}
	}
	for _, ch := range n.Changes {
		if l := f.lists[ch.Index>>IndexBits]; l != nil {
			l.apply(ch)
		}
	}
	for _, r := range n.Rules {
		if r.Value == StatusValid {
			delete(f.rules, about{r.Kind, r.Subject})
		} else {
			f.rules[about{r.Kind, r.Subject}] = r
		}
	}
	f.log = append(f.log, entries(n.Changes, n.Rules)...)
	if n := len(f.log) - logMax/2; len(f.log) > logMax {
		f.base = f.log[n-1].seq // an event is told whole or not at all: no more of this one
		f.log = slices.Clone(f.log[n:])
	}
	newest := n.Events[len(n.Events)-1]
	c.seq.Store(newest.Seq)
	f.last = newest.ID
	f.movedAt = time.Since(start)
	f.moves = append(f.moves, move{newest.Seq, f.movedAt})
	if len(f.moves) >= 2*movesKept {
		f.moves = append(f.moves[:0], f.moves[len(f.moves)-movesKept:]...)
	}
	f.wake()
}

// entries puts changes and rules in one order, of an event changes first.
func entries(changes []StatusChange, rules []Rule) []entry {
	list := make([]entry, 0, len(changes)+len(rules))
	for _, ch := range changes {
		list = append(list, entry{seq: ch.Seq, change: ch})
	}
	for _, r := range rules {
		list = append(list, entry{seq: r.Seq, rule: &r})
	}
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// after is where in the log what happened after a sequence begins. The caller holds mu.
func (f *feed) after(seq int64) int {
	first, _ := slices.BinarySearchFunc(f.log, seq+1, func(e entry, seq int64) int { return cmp.Compare(e.seq, seq) })
	return first
}

// wake tells whoever waits for the feed. The caller holds mu.
func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// known notes what a reading has shown, and lets the beat go on while somebody asks.
func (s *Server) known(ctx context.Context, p Present, sent time.Duration) {
	f := &s.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind, f.folded, f.kept = nil, p.Folded, p.Kept
	if !p.Beats {
		f.asOf = sent
		return
	}
	if p.Beat != f.beat {
		if f.beatAt > 0 && sent-f.beatNew <= beatWithin {
			f.asOf = max(f.asOf, f.beatAt)
		}
		f.beat, f.beatNew = p.Beat, sent
	}
	f.beatAt = sent
	now := time.Since(start)
	if f.beating || now-f.wanted > wantedFor || now-f.began < pollEvery*3/4 {
		return
	}
	f.beating, f.began = true, now
	go func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollPatience)
		defer cancel()
		err := s.storage.Beat(limited, p.Beat)
		f.mu.Lock()
		f.beating = false
		f.mu.Unlock()
		if err != nil {
			s.log.Debug("the beat was not committed", "error", err)
			return
		}
		select {
		case f.beaten <- struct{}{}:
		default:
		}
	}()
}

// age says how old what this node knows is. Asking keeps the beat going.
func (f *feed) age() (time.Duration, error) {
	now := time.Since(start)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = now
	if f.behind != nil {
		return 0, f.behind
	}
	if f.asOf == 0 {
		return knownFor + 1, nil
	}
	return now - f.asOf, nil
}

// know makes sure that this node knows the present state of the database, or refuses:
// it reads until it does, for a moment.
func (s *Server) know(ctx context.Context) error { return s.knowWithin(ctx, knowTimeout) }

func (s *Server) knowWithin(ctx context.Context, patience time.Duration) error {
	began := time.Since(start)
	for {
		age, err := s.feed.age()
		if err != nil {
			return refuseBecause(FeedUnknown, err)
		}
		if age <= knownFor {
			return nil
		}
		if time.Since(start)-began > patience {
			return refuseBecause(FeedUnknown, fmt.Errorf("what is known is %v old", age))
		}
		if err = s.followSoon(ctx, time.Since(start)); err == nil {
			err = s.feed.pause(ctx)
		}
		slow := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
		if err != nil && !(slow && time.Since(start)-began < patience) {
			return refuseBecause(FeedUnknown, err)
		}
	}
}

// followSoon is follow for somebody who waits.
func (s *Server) followSoon(ctx context.Context, since time.Duration) error {
	if time.Duration(s.cache.read.Load()) > since { // mostly: the wait below need not be made
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, knowTimeout)
	defer cancel()
	return s.follow(ctx, since)
}

// catchUp makes sure that this node knows what had happened when somebody asked. That
// anything has is read by one number, the feed's sequence; what it was, by following.
func (s *Server) catchUp(ctx context.Context, asked time.Duration) error {
	seq, epoch, err := s.storage.Head(ctx)
	if err != nil {
		return err
	}
	c := &s.cache
	if seq == c.seq.Load() && epoch == c.epoch.Load() && !c.keys.Load() {
		return nil
	}
	if err := s.followSoon(ctx, asked); err != nil {
		return refuseBecause(FeedUnknown, err)
	}
	return nil
}

// pause waits a moment for a beat, unless what is known is new enough.
func (f *feed) pause(ctx context.Context) error {
	if age, err := f.age(); err != nil || age <= knownFor {
		return err
	}
	moment := time.NewTimer(5 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-moment.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
