package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// state is what a worker knows of a thing that it made.
type state int

const (
	alive state = iota
	dead
	unsure // an answer was lost, so it may be either
)

func (s state) String() string { return [...]string{"alive", "dead", "unsure"}[s] }

// code is an authorization code that was acknowledged.
type code struct {
	app   *app
	value string
	state state // alive: not redeemed
	until time.Time
	grant *grant // nil: not known before the code is redeemed
	shaky bool   // its grant may be one whose revocation nobody knows the end of
}

// grant is what a customer, or nobody, allowed.
type grant struct {
	id    string
	state state
}

// key is a lasting key, or a chain of refresh tokens with its latest access token.
type key struct {
	app     *app
	grant   *grant
	access  string
	refresh string
	state   state
	lost    time.Time // when the rotation was sent whose answer was lost; zero: none
}

// expected is what introspection must say.
func (k *key) expected() state {
	switch {
	case k.state == dead || k.grant.state == dead:
		return dead
	case k.state == unsure || k.grant.state == unsure:
		return unsure
	}
	return alive
}

// worker is a customer with their apps, or a stranger who only uses guests' apps.
type worker struct {
	client
	who     *person   // nil: a stranger
	session string    // cookie
	state   state     // of the session
	tried   time.Time // to sign in
	ended   string    // cookie of a session that was signed out

	codes  []*code
	keys   []*key
	grants map[string]*grant // by id, as their first key said it
	held   *grant            // the customer's grant of the exchange app; nil: none, or not known
}

func newWorker(s *site, name string, seed uint64, who *person) *worker {
	return &worker{client: client{site: s, name: name, rng: rand.New(rand.NewPCG(seed, 0))}, who: who, state: dead, grants: map[string]*grant{}}
}

const (
	pace      = 20 * time.Millisecond // between two actions of one customer
	humanPace = time.Second           // between two attempts to sign in
)

// run acts until stop ends, and then finishes what it is at.
func (w *worker) run(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(w.pace())
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			w.act(ctx)
		}
	}
}

// pace is slower for strangers, who are many.
func (w *worker) pace() time.Duration {
	if w.who == nil {
		return 4 * pace
	}
	return pace
}

func (w *worker) act(ctx context.Context) {
	if w.who != nil && w.state != alive {
		if time.Since(w.tried) > humanPace { // five wrong passwords close an account for a while
			w.tried = time.Now()
			w.signIn(ctx)
		}
		return
	}
	switch n := w.rng.IntN(100); {
	case n < 14:
		w.authorizeGuest(ctx)
	case n < 24 && w.who != nil:
		w.consent(ctx, &w.site.exchange)
	case n < 30 && w.who != nil:
		w.consent(ctx, &w.site.public)
	case n < 48:
		w.redeemOne(ctx)
	case n < 62:
		if k := w.some(func(k *key) bool { return k.refresh != "" }); k != nil {
			w.rotate(ctx, k)
		}
	case n < 67:
		if k := w.some(nil); k != nil {
			w.revoke(ctx, k)
		}
	case n < 69 && w.who != nil:
		w.revokeGrant(ctx)
	case n < 70 && w.who != nil:
		w.signOut(ctx)
	case n < 73 && w.who != nil:
		w.look(ctx)
	default:
		if k := w.some(nil); k != nil {
			w.introspect(ctx, k)
		}
	}
}

// some returns one of the keys that fit, new ones more often than old ones.
func (w *worker) some(fits func(*key) bool) *key {
	for range 8 {
		if len(w.keys) == 0 {
			return nil
		}
		i := w.rng.IntN(len(w.keys))
		if w.rng.IntN(2) == 0 {
			i = max(i, len(w.keys)-1-w.rng.IntN(20))
		}
		if k := w.keys[i]; fits == nil || fits(k) {
			return k
		}
	}
	return nil
}

func (w *worker) violation(format string, args ...any) {
	w.site.ledger.violation("%s: %s", w.name, fmt.Sprintf(format, args...))
}
