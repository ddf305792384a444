package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// committedBy runs f beside a gatherer that answers at once, and returns what it committed:
// the arguments of the first statement of each event, by group.
func committedBy(t *testing.T, f func(t *testing.T, g *gatherer)) (groups [][]any) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := newGatherer(&counters{}, writeLimit)
		go g.run(func(questions []*job) {
			for _, j := range questions {
				if j.begin() && j.sql != nowhere {
					j.row(nil)
				}
				j.err <- nil
			}
		}, func(events []*job) {
			var group []any
			for _, j := range events {
				group = append(group, j.event[0].args...)
				j.err <- nil
			}
			groups = append(groups, group)
		})
		f(t, g)
		g.close()
	})
	return groups
}

const nowhere = "SELECT what is not there"

// visitor is a visit at a gatherer.
type visitor struct {
	t   *testing.T
	g   *gatherer
	v   *visit
	ctx context.Context
}

func visiting(t *testing.T, g *gatherer) visitor {
	v := &visit{}
	return visitor{t, g, v, context.WithValue(t.Context(), shareKey{}, v)}
}

func (v visitor) asks() visitor {
	if err := v.g.ask(v.ctx, "SELECT", nil, func(func(...any) error) error { return nil }); err != nil {
		v.t.Error(err)
	}
	return v
}

func (v visitor) writes(n int) {
	if err := v.g.write(v.ctx, one(do("", n))); err != nil {
		v.t.Error(err)
	}
	if v.v.asked {
		v.t.Errorf("who has written %d has to say that he leaves", n)
	}
}

// atOnce begins a case in which nobody waits.
func atOnce(t *testing.T) (end func()) {
	began := time.Now()
	return func() {
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	}
}

func TestGather(t *testing.T) {
	check := func(what string, want [][]any, f func(*testing.T, *gatherer)) {
		t.Run(what, func(t *testing.T) {
			t.Helper()
			got := committedBy(t, f)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("committed %v, want %v", got, want)
			}
		})
	}
	check("a group waits for who has asked, and is one", [][]any{{1, 2, 3}}, func(t *testing.T, g *gatherer) {
		var all sync.WaitGroup
		a, b, c := visiting(t, g).asks(), visiting(t, g).asks(), visiting(t, g).asks()
		all.Go(func() { a.writes(1) })
		synctest.Wait()
		all.Go(func() { b.writes(2) })
		synctest.Wait()
		<-time.After(gatherLimit / 2) // it signs
		c.writes(3)
		all.Wait()
	})
	check("not for who has left", [][]any{{1}}, func(t *testing.T, g *gatherer) {
		defer atOnce(t)()
		a, b, c := visiting(t, g).asks(), visiting(t, g).asks(), visiting(t, g).asks()
		b.g.leave(b.v)
		var all sync.WaitGroup
		all.Go(func() { a.writes(1) })
		synctest.Wait()
		c.g.leave(c.v) // also while it waits
		all.Wait()
	})
	check("not for whose client hung up while he signed", [][]any{{1}}, func(t *testing.T, g *gatherer) {
		defer atOnce(t)()
		gone := visiting(t, g).asks()
		ctx, cancel := context.WithCancel(gone.ctx)
		cancel()
		if err := g.write(ctx, one(do("", 0))); !errors.Is(err, context.Canceled) {
			t.Errorf("an event of who has gone: %v", err)
		}
		g.leave(gone.v)
		visiting(t, g).asks().writes(1)
	})
	check("not for who has never asked", [][]any{{1}, {2}}, func(t *testing.T, g *gatherer) {
		visiting(t, g).writes(1)
		a, b := visiting(t, g), visiting(t, g)
		g.leave(b.v)
		a.asks().writes(2)
	})
	check("no longer than its limit, and once for each visit", [][]any{{1}, {2}, {3}}, func(t *testing.T, g *gatherer) {
		late := visiting(t, g).asks()
		for n, want := range []time.Duration{gatherLimit, 0} {
			began := time.Now()
			visiting(t, g).asks().writes(n + 1)
			if took := time.Since(began); took != want {
				t.Errorf("event %d took %v, want %v", n+1, took, want)
			}
		}
		late.writes(3)
	})
	check("what is no visit's takes all that are there along, at once", [][]any{{1, 2}, {3}}, func(t *testing.T, g *gatherer) {
		defer atOnce(t)()
		a, b := visiting(t, g).asks(), visiting(t, g).asks()
		var all sync.WaitGroup
		all.Go(func() { a.writes(1) })
		synctest.Wait()
		if err := g.write(t.Context(), one(do("", 2))); err != nil {
			t.Error(err)
		}
		all.Wait()
		b.writes(3)
	})
	check("who asks about nothing that is there writes nothing", [][]any{{1}}, func(t *testing.T, g *gatherer) {
		defer atOnce(t)()
		stranger := visiting(t, g)
		if err := g.ask(stranger.ctx, nowhere, nil, nil); err != nil {
			t.Error(err)
		}
		visiting(t, g).asks().writes(1)
	})
	check("newcomers do not prolong it", [][]any{{1}, {2}}, func(t *testing.T, g *gatherer) {
		a, _ := visiting(t, g).asks(), visiting(t, g).asks()
		var all sync.WaitGroup
		began := time.Now()
		all.Go(func() {
			a.writes(1)
			if took := time.Since(began); took != gatherLimit {
				t.Errorf("it waited %v", took)
			}
		})
		var late visitor
		for range 4 {
			<-time.After(gatherLimit / 4)
			late = visiting(t, g).asks()
		}
		all.Wait()
		late.writes(2)
	})
	check("who asks while a group waits is answered, and waited for", [][]any{{1, 2, 3}}, func(t *testing.T, g *gatherer) {
		a, b := visiting(t, g).asks(), visiting(t, g).asks()
		var all sync.WaitGroup
		all.Go(func() { a.writes(1) })
		synctest.Wait()
		c := visiting(t, g).asks()
		all.Go(func() { b.writes(2) })
		synctest.Wait()
		c.writes(3)
		all.Wait()
	})
	check("a group that is full does not wait", slices.Concat([][]any{make([]any, groupMax)}, [][]any{{7}}), func(t *testing.T, g *gatherer) {
		late := visiting(t, g).asks()
		var all sync.WaitGroup
		visitors := make([]visitor, groupMax)
		for i := range visitors {
			visitors[i] = visiting(t, g).asks()
		}
		defer atOnce(t)()
		for _, v := range visitors {
			all.Go(func() { v.g.write(v.ctx, one(do("", nil))) })
		}
		all.Wait()
		late.writes(7)
	})
	check("closing waits for no visit", [][]any{{1}}, func(t *testing.T, g *gatherer) {
		defer atOnce(t)()
		a, b := visiting(t, g).asks(), visiting(t, g).asks()
		var all sync.WaitGroup
		all.Go(func() { a.writes(1) })
		synctest.Wait()
		g.close()
		all.Wait()
		if err := b.g.write(b.ctx, one(do("", 2))); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
			t.Errorf("an event afterwards: %v", err)
		}
		b.isRefused()
		g.leave(b.v)
	})
}

func (v visitor) isRefused() {
	if err := v.g.ask(v.ctx, "SELECT", nil, nil); !errors.Is(err, oauth.ErrUnavailable) {
		v.t.Errorf("a question to what is closed: %v", err)
	}
}

// A visit asks on the writer's connection, whose pages its own commits leave in memory.
func TestSQLite_VisitsNeedNoReader(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	for range readerConns {
		c, err := e.reader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer e.readers.back(c)
	}
	ctx, leave := s.Visit(t.Context())
	defer leave()
	var n int
	if err := s.row(ctx, "SELECT COUNT(*) FROM used_once", nil, &n); err != nil {
		t.Fatal(err)
	}
	if err := s.engine.write(ctx, put(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.row(ctx, "SELECT COUNT(*) FROM used_once", nil, &n); err != nil || n != 1 {
		t.Errorf("a visit sees %d rows of 1, error %v", n, err)
	}
	if err := s.row(ctx, "SELECT nothing FROM nowhere", nil, &n); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("a question that is none: %v", err)
	}
	limited, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.row(limited, "SELECT COUNT(*) FROM used_once", nil, &n); err == nil {
		t.Error("a reader was free, so that this shows nothing")
	}
}

// Other visits wait for the indices that one of them has allotted, so no group that these
// are in waits for those.
func TestGather_AnAllotmentIsNobodys(t *testing.T) {
	g := newGatherer(&counters{}, writeLimit)
	s := &Store{engine: &sqlite{writer: g}}
	ctx, _ := s.Visit(t.Context())
	visitOf(ctx).asked = true
	go s.AllotIndices(ctx, "api", "key", 1, time.Now())
	if j := <-g.queue; j.of != nil {
		t.Error("it is a visit's event")
	} else {
		j.err <- errClosed
	}
	if !visitOf(ctx).asked {
		t.Error("the visit is not waited for any more")
	}
}

// Whatever the writer hangs in, nobody waits for it longer than he has to: not to say that
// a visit is over, and not with a question that he has given up.
func TestGather_NobodyHangsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGatherer(&counters{}, writeLimit) // nobody runs it
		for range cap(g.queue) {
			v := visiting(t, g)
			v.v.asked = true
			g.leave(v.v)
		}
		began := time.Now()
		last := visiting(t, g)
		if err := g.ask(last.ctx, "SELECT", nil, nil); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
			t.Errorf("a question without an answer: %v", err)
		}
		g.leave(last.v)
		if took := time.Since(began); took != readLimit {
			t.Errorf("a question, and the end of its visit, took %v", took)
		}
		<-g.queue // there is room for one now
		ctx, cancel := context.WithCancel(last.ctx)
		time.AfterFunc(time.Second, cancel)
		if err := g.ask(ctx, "SELECT", nil, nil); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
			t.Errorf("a question that was given up: %v", err)
		}
		if took := time.Since(began); took != readLimit+time.Second {
			t.Errorf("with the one that was given up it took %v", took)
		}
	})
}

// An event without statements is an event.
func TestGather_AnEmptyEvent(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			ctx, leave := s.Visit(t.Context())
			defer leave()
			for _, ctx := range []context.Context{t.Context(), ctx} {
				if err := s.engine.write(ctx, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What may be thousands of rows is not read while others wait: an exchange for a grant on
// all stores reads them like anybody.
func TestSQLite_VisitsReadMuchByThemselves(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	d := newWriter(t, s).decide(1)[0]
	if err := s.engine.write(t.Context(), one(do("UPDATE grants SET all_stores = TRUE, standing = NULL"))); err != nil {
		t.Fatal(err)
	}
	ask := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		ctx, leave := s.Visit(ctx)
		defer leave()
		_, _, err := s.Code(ctx, d.Code.Selector)
		return err
	}
	lent := make(chan *sqliteConn, readerConns)
	for range readerConns {
		c, err := e.reader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lent <- c
	}
	defer func() {
		close(lent)
		for c := range lent {
			e.readers.back(c)
		}
	}()
	if err := ask(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with all readers taken: %v", err)
	}
	e.readers.back(<-lent)
	if err := ask(readLimit); err != nil {
		t.Errorf("with one that is free: %v", err)
	}
}

// restingOn is an event that rests on a grant and writes one row.
func restingOn(s *Store, grant string, n int, more ...statement) []statement {
	return slices.Concat(s.lockGrant(grant), put(n), more)
}

// grants makes n grants, and returns their ids.
func grants(t *testing.T, dsn string, n int) (ids []string) {
	t.Helper()
	conn := direct(t, dsn)
	for i := range n {
		ids = append(ids, fmt.Sprintf("gr_%02d", i))
		run(t, conn, `INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
			VALUES ($1, 'usr', 'app', FALSE, '', '', FALSE, 'live', 1, '', 0, 0)`, ids[i])
	}
	return ids
}

// inCompany is a store whose groups wait for as long as it takes, and say how large they
// are.
func inCompany(t *testing.T, dsn string) (s *Store, groups chan int) {
	t.Helper()
	s, groups = openAt(t, dsn), make(chan int, 10)
	p := s.engine.(*postgres)
	p.visits.close()
	p.visits = newGatherer(&p.counters, acquireLimit)
	p.visits.ends, p.visits.waits = true, time.Hour
	go p.visits.run(func(questions []*job) { p.answer(context.Background(), questions) }, func(group []*job) {
		groups <- len(group)
		p.commit(group)
	})
	return s, groups
}

// visits has n visits ask, and then all of them write, in one group.
func visits(t *testing.T, s *Store, groups chan int, n int, event func(i int) []statement) (outcomes []chan error) {
	t.Helper()
	var asked, all sync.WaitGroup
	asked.Add(n)
	for i := range n {
		outcome := make(chan error, 1)
		outcomes = append(outcomes, outcome)
		all.Go(func() {
			ctx, leave := s.Visit(context.Background())
			defer leave()
			var one int
			err := s.row(ctx, "SELECT 1", nil, &one)
			asked.Done()
			if err == nil {
				asked.Wait()
				err = s.engine.write(ctx, event(i))
			}
			outcome <- err
		})
	}
	t.Cleanup(all.Wait)
	if got := <-groups; got != n {
		t.Errorf("a group of %d, want %d", got, n)
	}
	return outcomes
}

// What was said of a file's groups holds on a server, too: however an event fails, it
// fails alone, and what the server gave up is done again.
func TestPostgres_HoweverAnEventFailsItFailsAlone(t *testing.T) {
	for name, fault := range faults(map[string]statement{
		"no text":              do("INSERT INTO used_once (kind, hash, op, expires) VALUES ($1, 'x', 'op', 0)", "a\x00b"),
		"ends the transaction": do("ROLLBACK AND CHAIN"),
	}) {
		t.Run(name, func(t *testing.T) {
			dsn := storagetest.Postgres(t)
			s, groups := inCompany(t, dsn)
			ids := grants(t, dsn, 7)
			if err := s.engine.write(t.Context(), put(1000)); err != nil {
				t.Fatal(err)
			}
			for i, outcome := range visits(t, s, groups, len(ids), func(i int) []statement {
				if i == 3 {
					return restingOn(s, ids[i], i, fault)
				}
				return restingOn(s, ids[i], i)
			}) {
				if err := <-outcome; (err != nil) != (i == 3) || errors.Is(err, oauth.ErrUnknown) {
					t.Errorf("event %d: error %v", i, err)
				}
			}
			if n := count(t, s, "used_once"); n != len(ids) {
				t.Errorf("%d rows, want that of before and those of the %d good events", n, len(ids)-1)
			}
		})
	}
	t.Run("given up", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		s, groups := inCompany(t, dsn)
		stumbling(t, direct(t, dsn))
		ids := grants(t, dsn, 7)
		for i, outcome := range visits(t, s, groups, len(ids), func(i int) []statement {
			return restingOn(s, ids[i], i, do("SELECT stumble($1, $2)", "40001", int64(3)))
		}) {
			if err := <-outcome; err != nil {
				t.Errorf("event %d: error %v", i, err)
			}
		}
		if n := count(t, s, "used_once"); n != len(ids) {
			t.Errorf("%d rows of %d", n, len(ids))
		}
	})
}

// Events of visits share a transaction, and those of one grant see each other in it.
func TestPostgres_VisitsShareATransaction(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s := openAt(t, dsn)
	p := s.engine.(*postgres)
	ids := grants(t, dsn, 2)
	before := p.stats()
	var group []*job
	for i := range 6 {
		group = append(group, newJob(restingOn(s, ids[i%2], i, do("UPDATE grants SET rev = rev + 1 WHERE id = $1", ids[i%2]))))
	}
	taken := newJob(restingOn(s, ids[0], 1000))
	taken.withdraw()
	p.commit(append(group, taken))
	for i, j := range group {
		if err := <-j.err; err != nil {
			t.Errorf("event %d: %v", i, err)
		}
	}
	after := p.stats()
	if commits, events := after.Commits-before.Commits, after.Events-before.Events; commits != 1 || events != 6 {
		t.Errorf("%d events in %d commits", events, commits)
	}
	if n := count(t, s, "used_once"); n != 6 {
		t.Errorf("%d rows, want 6: the seventh event was taken back", n)
	}
	var rev int
	if err := s.row(t.Context(), "SELECT MIN(rev) FROM grants", nil, &rev); err != nil || rev != 4 {
		t.Errorf("rev %d, want 4 after three events each; error %v", rev, err)
	}
}

// An event whose grant or code somebody holds waits, and nobody with it: that may take
// seconds, where somebody is given thousands of stores, or a new epoch begins.
func TestPostgres_WhoWaitsForALockKeepsNobody(t *testing.T) {
	for what, lock := range map[string]string{
		"grant": "SELECT id FROM grants WHERE id = 'gr_02' FOR UPDATE",
		"code":  "SELECT selector FROM authorization_codes WHERE selector = 'code_02' FOR UPDATE",
	} {
		t.Run(what, func(t *testing.T) {
			dsn := storagetest.Postgres(t)
			s, groups := inCompany(t, dsn)
			holder := direct(t, dsn)
			ids := grants(t, dsn, 5)
			for i, id := range ids {
				run(t, holder, `INSERT INTO authorization_codes (selector, hash, request, client_id, grant_id, profile, api, redirect, redirect_sent, challenge, nonce, auth_time, expires, op)
					VALUES ($1, '', $1, 'app', $2, 'exchange', 'api', '', FALSE, '', '', 0, 0, '')`, fmt.Sprintf("code_%02d", i), id)
			}
			event := func(i, n int) []statement {
				code := fmt.Sprintf("code_%02d", i)
				return restingOn(s, ids[i], n, do("UPDATE authorization_codes SET op = 'redeemed' WHERE selector = $1", code))
			}
			run(t, holder, "BEGIN")
			run(t, holder, lock)
			outcomes := visits(t, s, groups, len(ids), func(i int) []statement { return event(i, i) })
			for i, outcome := range outcomes {
				if i == 2 {
					continue
				}
				if err := <-outcome; err != nil {
					t.Errorf("event %d: %v", i, err)
				}
			}
			awaitLock(t, dsn)
			select {
			case err := <-outcomes[2]:
				t.Fatalf("the event did not wait: %v", err)
			default:
			}
			// Nor does whoever comes after.
			for i, outcome := range visits(t, s, groups, 4, func(i int) []statement { return event(i%2, 100+i) }) {
				if err := <-outcome; err != nil {
					t.Errorf("event %d of later: %v", i, err)
				}
			}
			run(t, holder, "COMMIT")
			if err := <-outcomes[2]; err != nil {
				t.Errorf("the event that waited: %v", err)
			}
			if n := count(t, s, "used_once"); n != 9 {
				t.Errorf("%d rows of 9 events", n)
			}
			if n := s.Stats().Retries; n != uint64(len(ids)) {
				t.Errorf("%d events were sent again, want the %d of the first group", n, len(ids))
			}
		})
	}
}

// What rests on no grant, or on several, or moves the feed, goes by itself.
func TestPostgres_WhatMayShareATransaction(t *testing.T) {
	s := &Store{engine: &postgres{}}
	for what, tc := range map[string]struct {
		event []statement
		may   bool
	}{
		"of one grant":    {restingOn(s, "gr", 1), true},
		"of none":         {put(1), false},
		"of a user's":     {append(s.lockGrantsOf("usr"), put(1)...), false},
		"moving the feed": {append(s.lockGrant("gr"), note(oauth.Event{}, true, opOf("grants", "gr", "op"))...), false},
		"noted outside":   {append(s.lockGrant("gr"), note(oauth.Event{}, false, opOf("grants", "gr", "op"))...), true},
	} {
		if may := groupable(tc.event); may != tc.may {
			t.Errorf("an event %s may: %v", what, may)
		}
	}
}

// Who is told to ask, or to write, by himself does so, and his caller hears of it only what
// became of that.
func TestPostgres_ByHimself(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s := openAt(t, dsn)
	id := grants(t, dsn, 1)[0]
	visit, leave := s.Visit(t.Context())
	defer leave()
	for what, ctx := range map[string]context.Context{"a visit": visit, "an API": forKeys.of(t.Context())} {
		var n int
		if err := s.row(ctx, "SELECT FROM nothing WHERE", nil, &n); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, errAlone) {
			t.Errorf("a question of %s that is none: %v", what, err)
		}
		if err := s.row(ctx, "SELECT 7", nil, &n); err != nil || n != 7 {
			t.Errorf("%s is told %d, %v", what, n, err)
		}
	}
	ctx, cancel := context.WithCancel(visit)
	defer cancel()
	p := s.engine.(*postgres)
	p.visits.close()
	p.visits = newGatherer(&p.counters, acquireLimit)
	go p.visits.run(nil, func(group []*job) {
		cancel() // an event that was queued is done, whoever goes away
		for _, j := range group {
			j.err <- errAlone
		}
	})
	if err := s.engine.write(ctx, restingOn(s, id, 1)); err != nil {
		t.Error(err)
	}
	if n := count(t, s, "used_once"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// recorded keeps the event that is written.
type recorded struct {
	engine
	event []statement
}

func (r *recorded) write(_ context.Context, event []statement) error {
	r.event = event
	return nil
}

// The events of token requests are such.
func TestPostgres_TokenRequestsShareATransaction(t *testing.T) {
	e := &recorded{engine: &postgres{}}
	s := &Store{engine: e}
	if _, err := s.RedeemCode(t.Context(), oauth.Redemption{Selector: "code", GrantID: "gr", Family: oauth.Family{GrantID: "gr"}}); err != nil {
		t.Fatal(err)
	}
	if !groupable(e.event) || e.event[0].grant != "gr" {
		t.Errorf("a redemption waits for %q", e.event[0].grant)
	}
	if _, err := s.RotateRefreshToken(t.Context(), oauth.Rotation{Selector: "token", GrantID: "gr"}); err != nil {
		t.Fatal(err)
	}
	if !groupable(e.event) || e.event[0].grant != "gr" {
		t.Errorf("a rotation waits for %q", e.event[0].grant)
	}
}

// The outcome of a commit whose connection ends is unknown to each of the group, and what
// was sent is not sent again.
func TestPostgres_TheOutcomeOfAGroupIsUnknown(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, conn := openAt(t, dsn), direct(t, dsn)
	ids := grants(t, dsn, 4)
	run(t, conn, `CREATE FUNCTION dies() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$`)
	run(t, conn, "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON used_once DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dies()")
	var group []*job
	for i, id := range ids {
		group = append(group, newJob(restingOn(s, id, i)))
	}
	p := s.engine.(*postgres)
	before := p.stats().Failed
	p.commit(group)
	for i, j := range group {
		if err := <-j.err; !errors.Is(err, oauth.ErrUnknown) {
			t.Errorf("event %d: %v, want ErrUnknown", i, err)
		}
	}
	if failed := p.stats().Failed - before; failed != uint64(len(ids)) {
		t.Errorf("%d counted as failed, want %d", failed, len(ids))
	}
}

// A question that fails takes nobody along, whether it fails before its first row or
// after it.
func TestPostgres_HoweverAQuestionFailsItFailsAlone(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s := openAt(t, dsn)
	p := s.engine.(*postgres)
	for what, faulty := range map[string]string{
		"no question":       "SELECT FROM nothing WHERE",
		"fails at its end":  "SELECT 1 / (3 - n) FROM generate_series(1, 3) n",
		"refused by caller": "SELECT NULL::INT",
	} {
		t.Run(what, func(t *testing.T) {
			var jobs []*job
			rows := make([]int, 5)
			for i := range rows {
				j := &job{sql: "SELECT n FROM generate_series(1, 2) n", err: make(chan error, 1)}
				if i == 2 {
					j.sql = faulty
				}
				j.row = func(scan func(...any) error) error {
					rows[i]++
					var n int
					return scan(&n)
				}
				jobs = append(jobs, j)
			}
			p.answer(t.Context(), slices.Clone(jobs))
			for i, j := range jobs {
				err := <-j.err
				if errors.Is(err, errAlone) {
					if rows[i] != 0 {
						t.Errorf("question %d is asked again, and has had %d rows", i, rows[i])
					}
					err = p.query(t.Context(), j.sql, j.args, j.row)
				}
				if (err != nil) != (i == 2) {
					t.Errorf("question %d: error %v", i, err)
				}
				if i != 2 && rows[i] != 2 {
					t.Errorf("question %d: %d rows of 2", i, rows[i])
				}
			}
		})
	}
}
