package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// fault is one way to break an installation, on one engine.
type fault struct {
	name, engine string
	// within is how soon everything must be ready again after the fault's end.
	within time.Duration
	nodes  int
	slow   bool // left to make chaos
	// lay makes what the installation stands on. dir is removed after the round.
	lay func(ctx context.Context, dir string) (ground, error)
}

// ground is a database, and a way to break what lies under or around it.
type ground interface {
	// database is what the configuration names.
	database() string
	// strike breaks something under load and mends it. It returns when that was.
	strike(ctx context.Context, s *site, rng *rand.Rand) (mended time.Time, err error)
	close() error
}

// healer is ground of which something is still to be given back, under load, once
// the service is ready without it.
type healer interface {
	heal(ctx context.Context, s *site) error
}

// result is what a round showed.
type result struct {
	Build      string        `json:"build"` // of the server
	Fault      string        `json:"fault"`
	Engine     string        `json:"engine"`
	Seed       uint64        `json:"seed"`
	Requests   int           `json:"requests"`
	Done       int           `json:"done"`       // acknowledged
	Refused    int           `json:"refused"`    // cleanly
	Away       int           `json:"away"`       // 503, or nobody there: nothing was done
	Unknown    int           `json:"unknown"`    // the answer was lost
	Failover   time.Duration `json:"failover"`   // until another database took over, if one did
	Gap        time.Duration `json:"gap"`        // the longest time without any answer but 503
	Ready      time.Duration `json:"ready"`      // from the fault's end until every node was ready and wrote
	Violations []string      `json:"violations"` // broken promises
}

// load is everybody who uses an installation in a round.
type load struct {
	site    *site
	workers []*worker
	keeper  *keeper
}

const (
	strangers = 24                      // more than a node has connections to its database
	before    = 1500 * time.Millisecond // of load, until something breaks
	after     = 1500 * time.Millisecond // of load, once all is ready again
)

// run plays one round in dir, which must be empty. An error means that the round
// could not be played; what the server did wrong is in the result.
func (f fault) run(ctx context.Context, binary, dir string, seed uint64) (r result, err error) {
	r = result{Fault: f.name, Engine: f.engine, Seed: seed}
	g, err := f.lay(ctx, dir)
	if err != nil {
		return r, fmt.Errorf("preparing: %w", err)
	}
	defer func() { err = errors.Join(err, g.close()) }()
	s, err := newSite(ctx, binary, dir, g.database(), max(1, f.nodes))
	if err != nil {
		return r, fmt.Errorf("setting up: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	rng := rand.New(rand.NewPCG(seed, 2))
	l := newLoad(s, rng)
	settle := l.start(ctx)
	wait(ctx, before)
	mended, err := g.strike(ctx, s, rng)
	if err != nil {
		settle()
		return r, fmt.Errorf("striking: %w", err)
	}
	for _, n := range s.nodes {
		if err := until(ctx, time.Minute, func() bool { return n.ready(ctx) }); err != nil {
			s.ledger.violation("node %d is not ready: %v", n.number, err)
		}
	}
	r.Ready = time.Since(mended)
	if r.Ready > f.within {
		s.ledger.violation("ready %v after the fault's end, not within %v", r.Ready.Round(time.Millisecond), f.within)
	}
	if h, ok := g.(healer); ok {
		if err := h.heal(ctx, s); err != nil {
			settle()
			return r, fmt.Errorf("healing: %w", err)
		}
	}
	wait(ctx, after)
	settle()
	if err := l.check(ctx); err != nil {
		return r, fmt.Errorf("checking: %w", err)
	}
	count := s.ledger.count
	r.Done, r.Refused, r.Away, r.Unknown = count[acknowledged], count[refused], count[unavailable], count[unknown]
	r.Requests = r.Done + r.Refused + r.Away + r.Unknown + count[failed]
	r.Failover, r.Gap, r.Violations = s.ledger.failover, s.ledger.gap, s.ledger.violations
	return r, r.shows()
}

// shows says why a round shows nothing: nobody was served, or nobody met the fault. One
// that found something wrong shows that, whoever met the fault.
func (r result) shows() error {
	switch {
	case len(r.Violations) > 0:
		return nil
	case r.Done < 100:
		return fmt.Errorf("only %d requests were acknowledged: the round shows nothing", r.Done)
	case r.Away+r.Unknown == 0:
		return fmt.Errorf("%s on %s: it met nobody: the round shows nothing", r.Fault, r.Engine)
	}
	return nil
}

func newLoad(s *site, rng *rand.Rand) *load {
	l := &load{site: s}
	for i := range s.people {
		l.workers = append(l.workers, newWorker(s, s.people[i].id, rng.Uint64(), &s.people[i]))
	}
	for i := range strangers {
		l.workers = append(l.workers, newWorker(s, fmt.Sprintf("stranger-%d", i), rng.Uint64(), nil))
	}
	l.keeper = &keeper{client: client{site: s, name: "keeper", rng: rand.New(rand.NewPCG(rng.Uint64(), 0))}, app: &s.secretive,
		secrets: []*secret{{text: s.secretive.secret}}}
	return l
}

// start lets everybody act until the returned function is called, which waits for
// the answers to what they asked last.
func (l *load) start(ctx context.Context) (settle func()) {
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, w := range l.workers {
		group.Go(func() { w.run(ctx, stop) })
	}
	group.Go(func() { l.keeper.run(ctx, stop) })
	return func() {
		close(stop)
		group.Wait()
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// between returns a duration from low to high.
func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)+1))
}
