package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
	"github.com/grantway/grantway/resource"
)

// The tables of the report.
const (
	isHealthy  = "Nothing is broken"
	isBroken   = "Something is broken"
	isReplaced = "Servers are replaced"
)

const (
	audience = 10 // followers where something breaks
	repeated = 4  // times that it does
	// breather is what nginx needs between two nodes that end, by docs/operating.md, or
	// somewhat less.
	breather = 1200 * time.Millisecond
)

// situations lists all that the report tells of.
func situations() []situation {
	asks := policies[:1]
	return []situation{
		{"1 follower", sqlite, isHealthy, healthy(1, 20, asks)},
		{"1 follower", postgres, isHealthy, healthy(1, 20, asks)},
		{"100 followers", sqlite, isHealthy, healthy(crowdFor, 100, asks)},
		{"100 followers", postgres, isHealthy, healthy(crowdFor, 100, asks)},
		{"1,000 followers", sqlite, isHealthy, healthy(1000, 6, asks)},
		{"list rollover", sqlite, isHealthy, rollover},
		{"a buffering proxy", sqlite, isHealthy, buffering},

		{"packets dropped: cable down", sqlite, isBroken, cableDown},
		{"packets dropped: one-way loss", sqlite, isBroken, oneWay},
		{"a proxy that holds answers, 0.1 to 1 s", sqlite, isBroken, holding},
		{"server frozen (SIGSTOP)", postgres, isBroken, frozen},
		{"database cut from the server", postgres, isBroken, databaseCut},
		{"a lagging node", postgres, isBroken, lagging(false)},
		{"a lagging node, and another", postgres, isBroken, lagging(true)},
		{"a deposed primary", postgres, isBroken, deposed},
		{"follower's clock ±1 h", sqlite, isBroken, clock},
		{"server killed (kill -9)", sqlite, isBroken, killed},
		{"leader killed, failover by Patroni", postgres, isBroken, failover},

		{"hand-over of a single node under load", sqlite, isReplaced, handOver},
		{"rolling restart of three behind nginx", postgres, isReplaced, rolling},
	}
}

// healthy revokes keys while nothing is wrong.
func healthy(followers, revocations int, trying []policy) func(context.Context, *stage) error {
	return func(ctx context.Context, st *stage) error {
		database := st.file()
		if st.result.Engine == postgres {
			s, err := st.postgres(ctx, "postgres", nil)
			if err != nil {
				return err
			}
			database = s.url()
		}
		n := st.some(revocations)
		if err := st.open(ctx, database, 1); err != nil {
			return err
		}
		if err := st.follow(ctx, followers, n, trying); err != nil {
			return err
		}
		for range n {
			if err := st.revoke(ctx, trial{on: st.home()}); err != nil {
				return err
			}
		}
		return nil
	}
}

// strike plays a fault again and again: by turns the fault comes first, and the key is
// revoked under it, or it comes at once behind the revocation.
func (st *stage) strike(ctx context.Context, n int, strike func(int) error, mend func(int) error) error {
	for i := range n {
		t := trial{on: st.home(), patient: true, mend: func(context.Context) error { return mend(i) }}
		hit := func(context.Context) error { return strike(i) }
		if i%2 == 0 {
			t.before, t.pause = hit, 60*time.Millisecond
		} else {
			t.at = hit
		}
		if err := st.revoke(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// cableDown has the followers ask a node at the far end of a cable. Plain HTTP is for
// loopback alone: there nginx stands before the node, and here a relay.
func cableDown(ctx context.Context, st *stage) error {
	n, err := newNetwork(ctx, rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)))
	if err != nil {
		return err
	}
	st.onClose(n.close)
	door, err := st.nginx(ctx, n, net.JoinHostPort(n.host, "8080"), "", "127.0.0.1:8081")
	if err != nil {
		return err
	}
	if err := st.open(ctx, st.file(), 2, func(s *site) {
		s.nodes[0].network, s.nodes[0].address, s.nodes[0].door = n, "127.0.0.1:8081", door
	}); err != nil {
		return err
	}
	relay, err := storagetest.NewProxy(door)
	if err != nil {
		return err
	}
	st.onClose(relay.Close)
	times := st.some(repeated)
	if err := st.follow(ctx, audience, times, policies, relay.Addr()); err != nil {
		return err
	}
	set := func(way string) error { return n.inside(ctx, "ip", "link", "set", n.cable, way) }
	return st.strike(ctx, times, func(int) error { return set("down") }, func(int) error { return set("up") })
}

// behindProxy has the followers ask a node through a proxy.
func behindProxy(ctx context.Context, st *stage, keys int) (*storagetest.Proxy, error) {
	if err := st.open(ctx, st.file(), 2); err != nil {
		return nil, err
	}
	p, err := storagetest.NewProxy(st.site.nodes[0].address)
	if err != nil {
		return nil, err
	}
	st.onClose(p.Close)
	return p, st.follow(ctx, audience, keys, policies, p.Addr())
}

func oneWay(ctx context.Context, st *stage) error {
	times := st.some(repeated)
	p, err := behindProxy(ctx, st, times)
	if err != nil {
		return err
	}
	lose := func(i int, lost bool) error {
		p.Lose(storagetest.Way(i/2%2), lost)
		return nil
	}
	return st.strike(ctx, times, func(i int) error { return lose(i, true) }, func(i int) error { return lose(i, false) })
}

// holding is a proxy that keeps each answer for a while.
func holding(ctx context.Context, st *stage) error {
	times := st.some(repeated)
	p, err := behindProxy(ctx, st, times)
	if err != nil {
		return err
	}
	held := []time.Duration{time.Second, 100 * time.Millisecond, 400 * time.Millisecond, 250 * time.Millisecond}
	return st.strike(ctx, times, func(i int) error { p.Delay(storagetest.Answers, held[i%len(held)]); return nil },
		func(int) error { p.Delay(storagetest.Answers, 0); return nil })
}

// buffering is nginx as it comes, which keeps an answer until it has all of it.
func buffering(ctx context.Context, st *stage) error {
	if err := st.open(ctx, st.file(), 1); err != nil {
		return err
	}
	proxy, err := st.nginx(ctx, nil, "", "proxy_buffering on;", st.home().address)
	if err != nil {
		return err
	}
	n := st.some(2 * repeated)
	if err := st.follow(ctx, audience, n, policies, proxy); err != nil {
		return err
	}
	for range n {
		if err := st.revoke(ctx, trial{on: st.home()}); err != nil {
			return err
		}
	}
	return nil
}

func frozen(ctx context.Context, st *stage) error {
	db, err := st.postgres(ctx, "postgres", nil)
	if err != nil {
		return err
	}
	if err := st.open(ctx, db.url(), 2); err != nil {
		return err
	}
	n, times := st.site.nodes[0], st.some(repeated)
	if err := st.follow(ctx, audience, times, policies, n.address); err != nil {
		return err
	}
	st.onClose(func() error { return n.signal(syscall.SIGCONT) })
	return st.strike(ctx, times, func(int) error { return n.signal(syscall.SIGSTOP) }, func(int) error { return n.signal(syscall.SIGCONT) })
}

// farDatabase has the node that is followed reach the database through a proxy.
func farDatabase(ctx context.Context, st *stage) (*storagetest.Proxy, error) {
	db, err := st.postgres(ctx, "postgres", nil)
	if err != nil {
		return nil, err
	}
	p, err := storagetest.NewProxy(net.JoinHostPort(db.host, db.port))
	if err != nil {
		return nil, err
	}
	st.onClose(p.Close)
	return p, st.open(ctx, db.url(), 2, func(s *site) {
		s.nodes[0].flags = []string{"--database", "postgres://postgres@" + p.Addr() + "/postgres?sslmode=disable"}
	})
}

func databaseCut(ctx context.Context, st *stage) error {
	p, err := farDatabase(ctx, st)
	if err != nil {
		return err
	}
	times := st.some(repeated)
	if err := st.follow(ctx, audience, times, policies, st.site.nodes[0].address); err != nil {
		return err
	}
	cut := func(i int, lost bool) error { // answers, requests, both
		if i%3 != 1 {
			p.Lose(storagetest.Answers, lost)
		}
		if i%3 != 0 {
			p.Lose(storagetest.Requests, lost)
		}
		return nil
	}
	return st.strike(ctx, times, func(i int) error { return cut(i, true) }, func(i int) error { return cut(i, false) })
}

// lagging has the node that is followed far from its database. Whoever knows another
// node, too, goes to that.
func lagging(another bool) func(context.Context, *stage) error {
	return func(ctx context.Context, st *stage) error {
		p, err := farDatabase(ctx, st)
		if err != nil {
			return err
		}
		times := st.some(repeated)
		nodes := []string{st.site.nodes[0].address}
		if another {
			nodes = append(nodes, st.home().address)
		}
		if err := st.follow(ctx, audience, times, policies, nodes...); err != nil {
			return err
		}
		lag := func(d time.Duration) error {
			p.Delay(storagetest.Requests, d)
			p.Delay(storagetest.Answers, d)
			return nil
		}
		by := []time.Duration{40 * time.Millisecond, 15 * time.Millisecond, 5 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}
		return st.strike(ctx, times, func(i int) error { return lag(by[i%len(by)]) }, func(int) error { return lag(0) })
	}
}

// deposed promotes the standby of a primary that goes on running, without hearing of
// it, and so do the nodes on it. A node on the new primary revokes the key.
func deposed(ctx context.Context, st *stage) error {
	old, err := st.postgres(ctx, "old", nil)
	if err != nil {
		return err
	}
	if err := st.open(ctx, old.url(), 2); err != nil {
		return err
	}
	standby, err := st.postgres(ctx, "standby", old)
	if err != nil {
		return err
	}
	if err := old.do(ctx, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	if err := st.follow(ctx, audience, 1, policies, st.site.nodes[0].address); err != nil {
		return err
	}
	successor, err := newNode(st.site, len(st.site.nodes))
	if err != nil {
		return err
	}
	successor.flags = []string{"--database", standby.url()}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	st.onClose(func() error { stop(); <-successor.done; return nil })
	go successor.supervise(running) // it starts again and again, until its server is the primary
	k := st.keys[0]
	m := st.crowd.present(k)
	wait(ctx, between(st.rng, 500*time.Millisecond, 700*time.Millisecond))
	promoted := time.Now()
	if err := standby.do(ctx, "SELECT pg_promote()"); err != nil {
		return err
	}
	if err := st.crowd.revoke(ctx, m, k, successor); err != nil {
		return err
	}
	st.note("a deposed primary: the key was revoked on the new primary %v after its promotion began; the old one ran on and could be read", short(time.Since(promoted)))
	wait(ctx, bound+openFor+200*time.Millisecond)
	for _, v := range st.crowd.verifiers {
		if _, err := v.Check(ctx, st.crowd.good[0], resource.Access{}); err == nil {
			st.site.ledger.violation("a node on a deposed primary still tells the present")
		}
	}
	st.conclude(m)
	return nil
}

// clock sets the followers' clocks by an hour, by turns forward and back, with the
// network silent in every other pair of rounds.
func clock(ctx context.Context, st *stage) error {
	times := st.some(2 * repeated)
	p, err := behindProxy(ctx, st, times)
	if err != nil {
		return err
	}
	var ahead atomic.Int64
	for _, v := range st.crowd.verifiers {
		if err := setClock(v, &ahead); err != nil {
			return err
		}
	}
	return st.strike(ctx, times, func(i int) error {
		p.Lose(storagetest.Answers, i/2%2 == 1)
		ahead.Store(int64(time.Hour) * int64(1-2*(i/4%2)))
		return nil
	}, func(int) error {
		p.Lose(storagetest.Answers, false)
		ahead.Store(0)
		return nil
	})
}

// killed kills the only node.
func killed(ctx context.Context, st *stage) error {
	if err := st.open(ctx, st.file(), 1); err != nil {
		return err
	}
	times := st.some(2 * repeated)
	if err := st.follow(ctx, audience, times, policies); err != nil {
		return err
	}
	return st.strike(ctx, times, func(int) error { return st.home().kill() }, func(int) error { return nil })
}

// failover kills the leader of a cluster at once after a revocation.
func failover(ctx context.Context, st *stage) error {
	dir := filepath.Join(st.dir, "cluster")
	if err := errors.Join(os.Chmod(st.dir, 0o711), os.Mkdir(dir, 0o711)); err != nil {
		return err
	}
	c, err := newCluster(ctx, dir, false)
	if err != nil {
		return err
	}
	st.onClose(c.close)
	if err := st.open(ctx, c.database(), 2); err != nil {
		return err
	}
	if err := st.follow(ctx, audience, 2, policies, st.site.nodes[0].address, st.site.nodes[1].address); err != nil {
		return err
	}
	if c.old = c.leader(ctx); c.old == nil {
		return errors.New("the cluster has no leader")
	}
	if err := st.revoke(ctx, trial{on: st.home(), patient: true,
		at: func(ctx context.Context) error { _, err := c.failOver(ctx, st.site); return err }, mend: func(context.Context) error { return nil }}); err != nil {
		return err
	}
	st.note("leader killed: another server took writes after %v", short(st.site.ledger.failover))
	return st.revoke(ctx, trial{on: st.home()})
}

// rollover begins a new list for each key: it is shown at once, when nobody has read
// the list, and revoked soon.
func rollover(ctx context.Context, st *stage) error {
	if err := st.open(ctx, st.file(), 2); err != nil {
		return err
	}
	if err := st.follow(ctx, audience, 1, policies, st.site.nodes[0].address); err != nil {
		return err
	}
	lists := map[string]bool{}
	for range st.some(repeated) {
		if err := st.fill(ctx); err != nil {
			return err
		}
		keys, err := st.issue(ctx, 1, st.home())
		if err != nil {
			return err
		}
		m := st.crowd.present(keys[0])
		wait(ctx, between(st.rng, 0, 60*time.Millisecond))
		if err := st.revokeMark(ctx, trial{on: st.home()}, m, keys[0]); err != nil {
			return err
		}
		lists[listOf(keys[0].access)] = true
	}
	st.note("list rollover: %d keys in %d new lists", st.result.Revocations, len(lists))
	if len(lists) != st.result.Revocations {
		return errors.New("no new list was begun")
	}
	return nil
}

// fill makes every list full, and has the node that issues forget what it was allotted.
func (st *stage) fill(ctx context.Context) (err error) {
	db, err := sql.Open("sqlite", "file:"+st.site.database+"?_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, "UPDATE status_lists SET next = ?", 1<<20); err != nil {
		return err
	}
	if err := st.home().kill(); err != nil {
		return err
	}
	return until(ctx, startWithin, func() bool { return st.home().ready(ctx) })
}

// handOver replaces the only node again and again.
func handOver(ctx context.Context, st *stage) error {
	if err := st.open(ctx, st.file(), 1, func(s *site) { s.nodes[0].flags = []string{"--shutdown-grace", "3s"} }); err != nil {
		return err
	}
	if err := st.follow(ctx, audience, st.rounds, policies); err != nil {
		return err
	}
	settle := st.used(ctx)
	err := st.replace(ctx, st.home(), func(ctx context.Context) error { return st.home().handOver(ctx) })
	settle()
	st.note("hand-over: %d times; apps and customers sent %d requests meanwhile, of which %d met nobody, were cut or got 503", st.rounds, st.result.Requests, st.result.Cut)
	return err
}

// rolling replaces three nodes behind nginx, one after the other, again and again. Apps
// and customers are left out: what comes to a node at the moment at which it takes no
// more connections may be reset, and nginx sends no POST twice. TestNodes replaces three
// under their load, by hand-over, which has no such moment.
func rolling(ctx context.Context, st *stage) error {
	db, err := st.postgres(ctx, "postgres", nil)
	if err != nil {
		return err
	}
	var front *node
	if err := st.open(ctx, db.url(), 3, func(s *site) {
		for _, n := range s.nodes {
			n.flags = []string{"--shutdown-grace", "3s"}
		}
		s.nodes[2].address, err = storagetest.FreeAddress()
	}); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	issuer := strings.TrimPrefix(st.site.issuer, "http://")
	if _, err := st.nginx(ctx, nil, issuer, "", st.site.nodes[0].address, st.site.nodes[1].address, st.site.nodes[2].address); err != nil {
		return err
	}
	if front, err = newNode(st.site, 3); err != nil {
		return err
	}
	front.address = issuer
	if err := st.follow(ctx, audience, st.rounds, policies); err != nil {
		return err
	}
	st.note("rolling restart: %d times, each of three nodes ended with SIGTERM and started again", st.rounds)
	return st.replace(ctx, front, func(ctx context.Context) error {
		for _, n := range st.site.nodes {
			if err := n.end(syscall.SIGTERM); err != nil {
				return err
			}
			if err := until(ctx, startWithin, func() bool { return n.ready(ctx) }); err != nil {
				return fmt.Errorf("node %d is not ready again: %w", n.number, err)
			}
			wait(ctx, breather)
		}
		return nil
	})
}

// used has apps and customers use the only node until what it returns is called. Nobody
// gives up early: what comes to nothing is the servers' doing.
func (st *stage) used(ctx context.Context) (settle func()) {
	l, everybody := st.site.ledger, newLoad(st.site, st.rng)
	for _, w := range everybody.workers {
		w.patient = true
	}
	everybody.keeper.patient = true
	before := l.requests()
	l.judge(true)
	rest := everybody.start(ctx)
	return func() {
		rest()
		l.judge(false)
		st.result.Requests, st.result.Cut = l.requests()-before, l.cut
	}
}

// replace replaces servers round after round, and revokes a key at a node at some moment
// of each round.
func (st *stage) replace(ctx context.Context, at *node, do func(context.Context) error) error {
	for range st.rounds {
		var failure error
		var doing sync.WaitGroup
		if err := st.revoke(ctx, trial{on: at, pause: 400 * time.Millisecond,
			before: func(ctx context.Context) error { doing.Go(func() { failure = do(ctx) }); return nil },
			mend:   func(context.Context) error { doing.Wait(); return failure },
		}); err != nil {
			doing.Wait()
			return errors.Join(err, failure)
		}
	}
	for p, t := range st.crowd.trying {
		if n := st.crowd.tally[p].refused.Load(); n > 0 && (!st.busy || t.onStale == resource.Introspect) {
			st.site.ledger.violation("%d checks of keys that stand were refused under %s", n, t.name)
		}
	}
	return nil
}

// listOf names the list of a key.
func listOf(token string) string {
	status, _ := claimOf(token, "status").(map[string]any)
	list, _ := status["status_list"].(map[string]any)
	uri, _ := list["uri"].(string)
	return uri
}
