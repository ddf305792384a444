package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grantway/grantway/resource"
)

// policy is what an API does while it does not know what was revoked lately.
type policy struct {
	name    string
	onStale resource.OnStale
	bound   time.Duration // from a revocation's commit to the last check that admits the key
}

const (
	bound   = 850 * time.Millisecond
	openFor = time.Second
)

// policies are tried beside each other, by the same followers.
var policies = []policy{
	{"Introspect", resource.Introspect, bound},
	{"Closed", resource.Closed, bound},
	{"Open(1s)", resource.Open(openFor), bound + openFor}, // breaks the promise for as long as it says
}

// mark is a key that is revoked under the eyes of a crowd.
type mark struct {
	key string
	// When the revocation was sent and when it was acknowledged; 0: not yet. It was
	// committed between the two.
	sent, done atomic.Int64
	begun      chan struct{} // closed when it is sent
	stolen     atomic.Int64  // ticks that other guests of the host had in the window behind that
	seen       []sighting    // by policy and follower
}

// window is for how long a revocation is looked at for what others had of the machine
// meanwhile: three times what nearly all take.
const window = 60 * time.Millisecond

// sighting is what one follower made of a mark under one policy.
type sighting struct {
	last  atomic.Int64 // when the last check began that admitted it after it was sent
	first atomic.Int64 // when the first check ended that began after it was sent and did not admit it
	bad   atomic.Int64 // when the first one ended that called it bad: a 503 does not
}

// tally counts checks of keys that stand.
type tally struct {
	checked, refused atomic.Int64
	time, without    atomic.Int64 // of all callers together, and of it that in which they were refused: who waits for a refusal asks less often
	stretch          atomic.Int64 // the longest time for which one follower refused one
}

// crowd are API servers that follow the feed, all in this process, and callers who
// show them keys all the time: one that stands, and the one that is revoked next.
type crowd struct {
	site      *site
	start     time.Time
	verifiers []*resource.Verifier
	trying    []policy
	fast      time.Duration // between two checks of a key that is revoked and not refused yet
	sweeping  time.Duration // between two rounds of one caller who makes them at all followers in turn; 0: there is none
	slow      time.Duration // between two other checks
	good      []string
	mark      atomic.Pointer[mark]
	tally     []tally // by policy
	checks    atomic.Int64
	late      atomic.Int64 // checks that admitted a key that had been revoked for longer than the bound

	running context.Context // of callers
	stop    context.CancelFunc
	group   sync.WaitGroup
}

func (c *crowd) now() int64 { return int64(time.Since(c.start)) + 1 }

// gather starts n followers who ask the nodes at these addresses, none: the issuer.
func gather(ctx context.Context, s *site, n int, trying []policy, good []*key, nodes ...string) (*crowd, error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &crowd{site: s, start: time.Now(), verifiers: make([]*resource.Verifier, n), trying: trying, tally: make([]tally, len(trying)), running: running, stop: stop,
		// The callers of a thousand would need more than the machine has, and those of a hundred took a fifth of it.
		fast: max(time.Millisecond, time.Duration(n)*100*time.Microsecond), slow: max(10, time.Duration(n)) * time.Millisecond}
	if n >= crowdFor {
		c.sweeping = time.Duration(n) * 20 * time.Microsecond
	}
	for _, k := range good {
		c.good = append(c.good, k.access)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "followers.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	config := resource.Config{Issuer: s.issuer, Audience: claim(c.good[0], "aud"), ClientID: s.api.id, ClientSecret: s.api.secret}
	for _, address := range nodes {
		config.Nodes = append(config.Nodes, "http://"+address)
	}
	var starting sync.WaitGroup
	var failure atomic.Pointer[error]
	room := make(chan struct{}, 16)
	for i := range c.verifiers {
		room <- struct{}{}
		starting.Go(func() {
			defer func() { <-room }()
			v, err := resource.New(ctx, config)
			if err != nil {
				failure.Store(&err)
			}
			c.verifiers[i] = v
		})
	}
	starting.Wait()
	if err := failure.Load(); err != nil {
		return nil, *err
	}
	for i := range c.verifiers {
		for p := range c.trying {
			c.group.Go(func() { c.show(running, p, i) })
			c.group.Go(func() { c.use(running, p, i) })
		}
	}
	return c, nil
}

func (c *crowd) leave() {
	c.stop()
	c.group.Wait()
	var closing sync.WaitGroup
	for _, v := range c.verifiers {
		closing.Go(v.Close)
	}
	closing.Wait()
}

// check shows a key to a follower.
func (c *crowd) check(ctx context.Context, i int, key string, onStale resource.OnStale) (began, ended int64, err error) {
	c.checks.Add(1)
	began = c.now()
	_, err = c.verifiers[i].Check(ctx, key, resource.Access{Scope: "orders.view", OnStale: onStale})
	ended = c.now()
	return began, ended, err
}

// use shows a key that stands until ctx ends.
func (c *crowd) use(ctx context.Context, p, i int) {
	tick := time.NewTicker(c.slow)
	defer tick.Stop()
	key, before, since := c.good[i%len(c.good)], c.now(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began, ended, err := c.check(ctx, i, key, c.trying[p].onStale)
		if ctx.Err() != nil {
			return
		}
		t := &c.tally[p]
		t.note(err)
		t.time.Add(ended - before)
		if err == nil {
			since = 0
		} else {
			t.without.Add(ended - before)
			if since == 0 {
				since = began
			}
			most(&t.stretch, ended-since)
		}
		before = ended
		c.strict(err, "a key that stands")
	}
}

func (t *tally) note(err error) {
	t.checked.Add(1)
	if err != nil {
		t.refused.Add(1)
	}
}

// strict holds a refusal to the promise that a key that stands is never called bad:
// apps throw away a key after a 401.
func (c *crowd) strict(err error, what string) {
	var e *resource.Error
	if errors.As(err, &e) && e.Kind != resource.Unavailable {
		c.site.ledger.violation("%s was refused as if it were bad: %v", what, err)
	}
}

// show shows the key that is revoked next until ctx ends: slowly while it stands, and
// fast when its revocation was sent, until it is refused; at once, unless one sweeps.
func (c *crowd) show(ctx context.Context, p, i int) {
	next := time.NewTimer(0)
	defer next.Stop()
	for begun := (chan struct{})(nil); ; {
		select {
		case <-ctx.Done():
			return
		case <-begun:
		case <-next.C:
		}
		begun = nil
		pause := c.slow
		if m := c.mark.Load(); m != nil {
			c.look(ctx, m, p, i)
			switch {
			case m.sent.Load() == 0:
				if c.sweeping == 0 {
					begun = m.begun
				}
			case m.seen[p*len(c.verifiers)+i].first.Load() == 0:
				pause = c.fast
			}
		}
		next.Reset(pause)
	}
}

// look shows a mark once.
func (c *crowd) look(ctx context.Context, m *mark, p, i int) {
	began, ended, err := c.check(ctx, i, m.key, c.trying[p].onStale)
	if ctx.Err() == nil {
		c.saw(m, p, i, began, ended, err)
	}
}

// sweep shows a mark to every follower in turn, from when its revocation is sent until
// all have refused it. A hundred callers who did so, each with a timer, took two fifths of
// a core from those whom they watched (measured in a revocation that was slow). It goes by
// Closed, so as not to wait for those whose lease has lapsed: what that admits is admitted
// under any policy, and what it knows to be bad is refused under any; its 503 says nothing
// of the others.
func (c *crowd) sweep(ctx context.Context, m *mark) {
	tick := time.NewTicker(c.sweeping)
	defer tick.Stop()
	for left := true; left; {
		left = false
		for i := range c.verifiers {
			for p := range c.trying {
				if m.seen[p*len(c.verifiers)+i].bad.Load() != 0 {
					continue
				}
				left = true
				if began, ended, err := c.check(ctx, i, m.key, resource.Closed); err == nil || known(err) {
					c.saw(m, p, i, began, ended, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// saw notes what came of a check of a mark.
func (c *crowd) saw(m *mark, p, i int, began, ended int64, err error) {
	sent, done := m.sent.Load(), m.done.Load()
	seen := &m.seen[p*len(c.verifiers)+i]
	switch {
	case sent == 0: // it stood all the while
		c.tally[p].note(err)
		c.strict(err, "a key that was not revoked yet")
	case began < sent: // it may have been revoked meanwhile
	case err != nil:
		seen.first.CompareAndSwap(0, ended)
		if known(err) {
			seen.bad.CompareAndSwap(0, ended)
		}
	default:
		most(&seen.last, began)
		if done != 0 && began-done > int64(c.trying[p].bound) {
			c.late.Add(1)
			c.site.ledger.violation("%s: a key was admitted by a check that began %v after its revocation was acknowledged", c.trying[p].name, time.Duration(began-done))
		}
	}
}

// present has everybody shown another key that will be revoked.
func (c *crowd) present(k *key) *mark {
	m := &mark{key: k.access, begun: make(chan struct{}), seen: make([]sighting, len(c.trying)*len(c.verifiers))}
	c.mark.Store(m)
	return m
}

// revoke revokes the key at a node, which may need more than one attempt.
func (c *crowd) revoke(ctx context.Context, m *mark, k *key, on *node) error {
	before := processorTime()
	time.AfterFunc(window, func() { m.stolen.Store(processorTime().stolen - before.stolen) })
	m.sent.Store(c.now())
	close(m.begun)
	if c.sweeping > 0 {
		c.group.Go(func() { c.sweep(c.running, m) })
	}
	var r reply
	err := until(ctx, time.Minute, func() bool {
		r = reply{}
		sent := time.Now()
		err := r.exchange(ctx, on, request{method: http.MethodPost, path: "/oauth/revoke",
			form: map[string][]string{"token": {k.access}}, header: basic(k.app)}, 5*time.Second)
		e := entry{At: sent, Took: time.Since(sent), Worker: "revoker", Node: on.number, What: "revocation of the key that followers watch", Status: r.status}
		switch {
		case err != nil:
			e.Outcome, e.Detail = unknown, err.Error()
		case r.status == http.StatusOK:
			e.Outcome = acknowledged
		default:
			e.Outcome, e.Detail = unavailable, r.body
		}
		c.site.ledger.note(e)
		return e.Outcome == acknowledged
	})
	if err != nil {
		return fmt.Errorf("a key is not revoked: %w: %d %s", err, r.status, r.body)
	}
	m.done.Store(c.now())
	return nil
}

// tooMany says that one machine cannot serve them all beside what they do themselves:
// then nothing is waited for, and late acceptances count all the same.
func (c *crowd) tooMany() bool { return len(c.verifiers) > crowdFor }

// each waits until every follower has made of a key what so asks for, going only by what
// it has been told.
func (c *crowd) each(ctx context.Context, key string, so func(error) bool) error {
	n := 0
	err := until(ctx, time.Minute, func() bool {
		for ; n < len(c.verifiers); n++ {
			if _, err := c.verifiers[n].Check(ctx, key, resource.Access{OnStale: resource.Closed}); !so(err) {
				return false
			}
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("follower %d does not come to know the present: %w", n, err)
	}
	return nil
}

func admitted(err error) bool { return err == nil }

func known(err error) bool {
	var e *resource.Error
	return errors.As(err, &e) && e.Kind == resource.BadToken
}

// calm waits until every follower hears the feed.
func (c *crowd) calm(ctx context.Context, k *key) error {
	if err := c.each(ctx, k.access, admitted); err != nil {
		return err
	}
	return c.each(ctx, c.good[0], admitted)
}

// asked counts questions to the issuer, and refusals for want of room.
func (c *crowd) asked() (questions, shed uint64) {
	for _, v := range c.verifiers {
		n := v.Counters()
		for _, asked := range n.Introspections {
			questions += asked
		}
		shed += n.Shed
	}
	return questions, shed
}

// most raises a to n.
func most(a *atomic.Int64, n int64) {
	for {
		was := a.Load()
		if n <= was || a.CompareAndSwap(was, n) {
			return
		}
	}
}
