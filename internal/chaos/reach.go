package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// situation is one in which keys are revoked under the eyes of followers.
type situation struct {
	name, engine string
	title        string // of its table
	play         func(ctx context.Context, st *stage) error
}

// reached is what a situation showed.
type reached struct {
	Name, Engine, Title string
	Followers           int
	Revocations         int
	Checks              int64
	Questions, Shed     uint64
	Trip                []time.Duration // of revoking calls: the commit is in it
	Least, Most         []time.Duration // by policy: the last check that admitted, after the acknowledgement and after the call was sent
	First               []time.Duration // from when the call was sent until a follower first called it bad, or, where something is broken, did not admit it; Introspect and Closed
	Requests, Cut       int             // of apps and customers while servers were replaced, and of them those that met nobody, were cut or turned away
	Policies            []string
	Good, Refused       []int64         // by policy: checks of keys that stand
	Without             []float64       // by policy: the share of the time in which these were refused
	Stretch             []time.Duration // by policy: how long one was refused at a stretch
	Late                int64
	Took                string          // how much of the machine others had
	Disk                string          // how long the disk took for the least
	Undisturbed         int             // revocations in whose window they had none of it,
	Alone               []time.Duration // and First of these
	Notes               []string
	Violations          []string
}

// stage is what a situation plays on.
type stage struct {
	binary, dir string
	rounds      int  // of restarts
	share       int  // one in so many repetitions is made
	busy        bool // the machine has more to do than this: a policy that refuses rather than ask may have to
	rng         *rand.Rand
	site        *site
	crowd       *crowd
	keys        []*key // to be revoked
	result      *reached
	closing     []func() error // last first
}

// some returns how often to do what is done n times, if there is time for all.
func (st *stage) some(n int) int { return max(1, n/st.share) }

func (st *stage) onClose(f func() error) { st.closing = append(st.closing, f) }

func (st *stage) note(format string, args ...any) {
	st.result.Notes = append(st.result.Notes, fmt.Sprintf(format, args...))
}

// reach plays every situation once and writes the report.
func reach(ctx context.Context, rounds int, quick bool, only, out string) (broken bool, err error) {
	began, of, before := time.Now(), commit(), processorTime()
	dir, err := os.MkdirTemp("", "grantway-chaos-")
	if err != nil {
		return false, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // the user postgres passes through
		return false, err
	}
	defer func() {
		if broken || err != nil {
			fmt.Fprintln(os.Stderr, "what happened is in", dir)
		} else {
			err = os.RemoveAll(dir)
		}
	}()
	binary := filepath.Join(dir, "grantway")
	if _, err := buildServer(ctx, binary); err != nil {
		return false, err
	}
	share := 1
	if quick {
		share, of = 4, of+", with a quarter of the repetitions"
	}
	var all []*reached
	for n, o := range situations() {
		if !strings.Contains(o.name, only) {
			continue
		}
		st := &stage{binary: binary, dir: filepath.Join(dir, fmt.Sprintf("%02d", n)), rounds: rounds, share: share}
		if err := os.Mkdir(st.dir, 0o711); err != nil {
			return false, err
		}
		meanwhile, disk := processorTime(), watchSyncs(ctx, dir)
		r, err := o.run(ctx, st)
		r.Took, r.Disk = meanwhile.since(), disk().String()
		if ctx.Err() != nil {
			return broken, ctx.Err()
		}
		if err != nil { // the others tell something all the same
			r.Violations = append(r.Violations, "not played: "+err.Error())
		}
		fmt.Fprintf(os.Stderr, "%4.0f s  %s. %s %s\n", time.Since(began).Seconds(), r.row(), r.Took, r.Disk)
		for _, v := range r.broken() {
			fmt.Fprintln(os.Stderr, "  ", v)
			broken = true
		}
		if r.slow() && !quick {
			fmt.Fprintf(os.Stderr, "   99 of 100 refuse within %s ms, which is over %s\n", ms(percentile(r.First, 99)), ms(crowdBar))
			broken = true
		}
		all = append(all, r)
	}
	text := reachReport(all, began, of, before.since(), rounds)
	fmt.Print(text)
	if out != "" {
		err = os.WriteFile(out, []byte(text), 0o644)
	}
	return broken, err
}

// run plays a situation in dir, which must be empty. An error means that it could not
// be played; what the server or a follower did wrong is in the result.
func (o situation) run(ctx context.Context, st *stage) (r *reached, err error) {
	r = &reached{Name: o.name, Engine: o.engine, Title: o.title}
	st.result, st.rng = r, rand.New(rand.NewPCG(1, uint64(len(o.name))))
	defer func() {
		for i := len(st.closing) - 1; i >= 0; i-- {
			err = errors.Join(err, st.closing[i]())
		}
		st.closing = nil
	}()
	err = o.play(ctx, st)
	if c := st.crowd; c != nil {
		r.Late, r.Checks, r.Followers = c.late.Load(), c.checks.Load(), len(c.verifiers)
		r.Questions, r.Shed = c.asked()
		for p := range c.trying {
			t := &c.tally[p]
			r.Policies, r.Good, r.Refused = append(r.Policies, c.trying[p].name), append(r.Good, t.checked.Load()), append(r.Refused, t.refused.Load())
			r.Without = append(r.Without, float64(t.without.Load())/float64(max(1, t.time.Load())))
			r.Stretch = append(r.Stretch, time.Duration(t.stretch.Load()))
		}
	}
	if st.site == nil || err != nil {
		return r, err
	}
	for _, n := range st.site.nodes {
		lines, err := n.complaints()
		if err != nil {
			return r, err
		}
		for _, line := range lines {
			st.site.ledger.violation("node %d: %s", n.number, line)
		}
	}
	r.Violations = st.site.ledger.violations
	return r, nil
}

// open sets up an installation of some nodes. The last one stands at the issuer's own
// address, so that what followers read beside the feed is always to be had, and keys
// are revoked there; the others are there to be followed.
func (st *stage) open(ctx context.Context, database string, nodes int, prepare ...func(*site)) error {
	s, err := newSite(ctx, st.binary, st.dir, database, nodes, append([]func(*site){func(s *site) {
		s.nodes[nodes-1].address = strings.TrimPrefix(s.issuer, "http://")
	}}, prepare...)...)
	if err != nil {
		return err
	}
	st.site = s
	st.onClose(s.close)
	return nil
}

func (st *stage) home() *node { return st.site.nodes[len(st.site.nodes)-1] }

func (st *stage) file() string { return filepath.Join(st.dir, "grantway.db") }

func (st *stage) postgres(ctx context.Context, name string, from *server) (*server, error) {
	dir := filepath.Join(st.dir, name)
	if err := errors.Join(os.Chmod(st.dir, 0o711), os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	s, err := makeServer(ctx, dir, "127.0.0.1", nil, from)
	if err != nil {
		return nil, err
	}
	st.onClose(s.close)
	return s, nil
}

// issue has a customer allow n apps that get a lasting key each: a second key of one app
// would leave the first one to be asked about.
func (st *stage) issue(ctx context.Context, n int, at ...*node) ([]*key, error) {
	s := *st.site
	if len(at) > 0 {
		s.nodes = at
	}
	w := newWorker(&s, s.people[0].id, st.rng.Uint64(), &s.people[0])
	w.patient = true
	w.signIn(ctx)
	for tries := 0; len(w.keys) < n && tries < n+10; tries++ {
		a := &app{lasting: true}
		if err := s.credentials(ctx, a, "client", "add", "--name", fmt.Sprintf("App %d", st.rng.Uint32()), "--profile", "exchange", "--redirect", callback, "--scope", "orders.view"); err != nil {
			return nil, err
		}
		w.held = nil
		w.consent(ctx, a)
		for _, c := range w.codes {
			w.redeemed(c, w.redeem(ctx, c))
		}
		w.codes = nil
	}
	if len(w.keys) < n {
		return nil, fmt.Errorf("only %d of %d keys were issued: %v", len(w.keys), n, s.ledger.violations)
	}
	return w.keys, nil
}

// follow issues keys and gathers followers, all of whom are in the know when it
// returns.
func (st *stage) follow(ctx context.Context, followers, keys int, trying []policy, nodes ...string) error {
	all, err := st.issue(ctx, keys+2, st.home())
	if err != nil {
		return err
	}
	st.keys = all[2:]
	if st.crowd, err = gather(ctx, st.site, followers, trying, all[:2], nodes...); err != nil {
		return err
	}
	st.onClose(func() error { st.crowd.leave(); return nil })
	if st.crowd.tooMany() {
		wait(ctx, 5*time.Second)
		return nil
	}
	return st.crowd.calm(ctx, st.keys[0])
}

// trial is one revocation.
type trial struct {
	on      *node                       // where the key is revoked
	before  func(context.Context) error // what breaks before that
	pause   time.Duration               // at most, between the two
	at      func(context.Context) error // what breaks at once after it
	mend    func(context.Context) error
	patient bool // what is broken is not mended before the longest bound is over
}

// revoke plays a trial with the next key, and watches until it is refused everywhere,
// and no longer than the bounds allow.
func (st *stage) revoke(ctx context.Context, t trial) error {
	c := st.crowd
	k := st.keys[0]
	st.keys = st.keys[1:]
	if !c.tooMany() {
		if err := c.calm(ctx, k); err != nil {
			return err
		}
	}
	m := c.present(k)
	wait(ctx, between(st.rng, 100*time.Millisecond, 400*time.Millisecond)) // any moment of a poll
	return st.revokeMark(ctx, t, m, k)
}

func (st *stage) revokeMark(ctx context.Context, t trial, m *mark, k *key) error {
	c := st.crowd
	if t.before != nil {
		if err := t.before(ctx); err != nil {
			return err
		}
		wait(ctx, between(st.rng, 0, t.pause))
	}
	if err := c.revoke(ctx, m, k, t.on); err != nil {
		return err
	}
	if t.at != nil {
		if err := t.at(ctx); err != nil {
			return err
		}
	}
	longest := bound
	if t.patient {
		for _, p := range c.trying {
			longest = max(longest, p.bound)
		}
	}
	wait(ctx, longest+100*time.Millisecond-time.Duration(c.now()-m.done.Load()))
	if t.mend != nil {
		if err := t.mend(ctx); err != nil {
			return err
		}
	}
	if !c.tooMany() {
		if err := c.each(ctx, k.access, known); err != nil {
			return err
		}
	}
	if t.mend != nil {
		wait(ctx, 200*time.Millisecond) // it stays refused
	}
	st.conclude(m)
	return nil
}

// conclude takes what was seen of a mark into the result.
func (st *stage) conclude(m *mark) {
	c, r := st.crowd, st.result
	sent, done := m.sent.Load(), m.done.Load()
	r.Revocations++
	alone := m.stolen.Load() == 0
	if alone {
		r.Undisturbed++
	}
	r.Trip = append(r.Trip, time.Duration(done-sent))
	if r.Least == nil {
		r.Least, r.Most = make([]time.Duration, len(c.trying)), make([]time.Duration, len(c.trying))
	}
	for p := range c.trying {
		for i := range c.verifiers {
			seen := &m.seen[p*len(c.verifiers)+i]
			if last := seen.last.Load(); last != 0 {
				r.Least[p], r.Most[p] = max(r.Least[p], time.Duration(last-done)), max(r.Most[p], time.Duration(last-sent))
			}
			first := seen.first.Load()
			if r.Title == isHealthy {
				first = seen.bad.Load()
			}
			if first != 0 && c.trying[p].bound == bound {
				r.First = append(r.First, time.Duration(first-sent))
				if alone {
					r.Alone = append(r.Alone, time.Duration(first-sent))
				}
			}
		}
	}
}
