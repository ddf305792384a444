package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// operation is one row of the table, with its bar.
type operation struct {
	name, how string
	route     string  // of the floor
	bar       float64 // what the ratio may be
	both      bool    // and the ratio with the database's processor time, too
	must      string  // what our answer holds
}

const (
	opExchange = "Komerza exchange"
	opStandard = "standard exchange with refresh token"
	opRotate   = "refresh rotation"
	opFirst    = "introspection, first sight"
	opAgain    = "introspection, signature cached"
)

// isActive is in the answer about a key that stands: another is shorter and cheaper.
const isActive = `"active":true`

var operations = []operation{
	{opExchange, "GET, client secret, lasting key of a new connection with two stores", "/exchange", 1.5, true, ""},
	{opStandard, "confidential client, HTTP Basic and PKCE; access token and refresh token of a new connection", "/exchange", 1.8, true, ""},
	{opRotate, "public client, every token used once", "/exchange", 1.6, true, ""},
	{opFirst, "keys never asked about before", "/json", 4, false, isActive},
	{opAgain, "64 keys, asked about again and again, ten times as often as what else is measured, since it is over so soon", "/json", 2, false, isActive},
}

// point is where a figure stands: which operation, database, and concurrency.
type point struct {
	op, engine string
	conns      int
}

// result is everything that was measured.
type result struct {
	plan         plan
	began        time.Time
	of           string // the commit that was built
	ours, floor  map[point][]sample
	crowd        map[point]sample
	signed       map[int][]sample           // of the floor: one signature without the store, by connections
	ready        map[string][]time.Duration // engine → starts on an existing schema
	idle         map[string]float64         // engine → MiB
	loaded       map[string][2]float64      // engine → MiB after the load, and most
	one, three   []sample                   // of the exchange on PostgreSQL, by nodes
	small, large map[point][]sample         // by size
	sizes        map[string][2]float64      // engine → MiB after, of the small and the large
	verifier     map[string]cost            // of package resource, by benchmark
}

func (p plan) run(ctx context.Context, dir string, say func(string, ...any)) (*result, error) {
	r := &result{plan: p, began: time.Now(), of: commit(), ours: map[point][]sample{}, floor: map[point][]sample{}, signed: map[int][]sample{}, crowd: map[point]sample{},
		ready: map[string][]time.Duration{}, idle: map[string]float64{}, loaded: map[string][2]float64{},
		small: map[point][]sample{}, large: map[point][]sample{}, sizes: map[string][2]float64{}}
	server, floor, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	if r.verifier, err = verifying(ctx, p.times, p.benchtime); err != nil {
		return nil, err
	}
	for _, engine := range p.engines {
		b := &bench{result: r, say: say, engine: engine, dir: filepath.Join(dir, engine), server: server, program: floor}
		if err := b.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", engine, err)
		}
	}
	return r, nil
}

// bench is the run on one database.
type bench struct {
	*result
	say             func(string, ...any)
	engine, dir     string
	server, program string // ours and the floor's
}

// site makes a place for a server: a directory, and a database in it or beside it.
func (b *bench) site(ctx context.Context, name string) (dir, dsn string, db database, err error) {
	dir = filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", nil, err
	}
	switch b.engine {
	case "sqlite":
		dsn, db = sqliteIn(dir)
	case "postgres":
		dsn, db, err = postgresNamed(ctx, name)
	default:
		err = fmt.Errorf("there is no database %q: say sqlite or postgres", b.engine)
	}
	return dir, dsn, db, err
}

// installed makes an installation with live grants, of both kinds in equal parts.
func (b *bench) installed(ctx context.Context, name string, grants int) (*installation, error) {
	dir, dsn, db, err := b.site(ctx, name)
	if err != nil {
		return nil, err
	}
	in, err := install(ctx, b.server, dir, dsn, db)
	if err != nil {
		return nil, err
	}
	b.say("%s: loading %d live grants", b.engine, grants)
	const year = 365 * 24 * time.Hour
	for _, k := range []kind{liveKey, liveChain} {
		if _, err := in.load(ctx, k, grants/2, year/time.Duration(max(grants/2, 1))); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// stock are requests that work once each.
type stock struct {
	exchange, standard, rotate [][]byte
}

func take(from *[][]byte, n int) [][]byte {
	taken := (*from)[:n]
	*from = (*from)[n:]
	return taken
}

// stocked loads n requests of each of the kinds that op asks for.
func (in *installation) stocked(ctx context.Context, exchanges, others int) (*stock, error) {
	s := &stock{}
	for _, of := range []struct {
		kind    kind
		n       int
		into    *[][]byte
		request func(oauth.Secret) []byte
	}{
		{keyCode, exchanges, &s.exchange, in.exchange},
		{booksCode, others, &s.standard, in.standard},
		{liveChain, others, &s.rotate, in.rotate},
	} {
		credentials, err := in.load(ctx, of.kind, of.n, 10*time.Millisecond)
		if err != nil {
			return nil, err
		}
		for _, c := range credentials {
			*of.into = append(*of.into, of.request(c))
		}
	}
	return s, in.db.settle(ctx)
}

// crowded is how many operations are sent by so many connections that only errors
// count.
func (p plan) crowded() int { return max(p.ops, p.crowd+p.crowd/4) }

func (b *bench) run(ctx context.Context) error {
	p := b.plan
	in, err := b.installed(ctx, "ours", p.grants)
	if err != nil {
		return err
	}
	defer in.db.close()
	runs := p.rounds * len(p.conns)
	nodes := 0
	if b.engine == "postgres" {
		nodes = 2 * p.rounds * p.ops
	}
	s, err := in.stocked(ctx, runs*p.ops+p.crowded()+nodes, runs*p.ops+p.crowded())
	if err != nil {
		return err
	}
	ours := target{db: in.db}
	for i := range p.starts {
		if ours.process, err = in.serve(); err != nil {
			return err
		}
		b.ready[b.engine] = append(b.ready[b.engine], ours.ready)
		if i < p.starts-1 {
			if err := ours.stop(); err != nil {
				return err
			}
		}
	}
	defer ours.stop()
	time.Sleep(p.idle)
	if b.idle[b.engine], _, err = resident(ours.pid()); err != nil {
		return err
	}
	floor, err := b.startFloor(ctx, (runs*3+1)*p.ops)
	if err != nil {
		return err
	}
	defer floor.db.close()
	defer floor.stop()
	for round := range p.rounds {
		for _, conns := range p.conns {
			b.say("%s: round %d of %d, %d connections", b.engine, round+1, p.rounds, conns)
			if err := b.round(in, s, ours, floor, conns); err != nil {
				return err
			}
		}
	}
	if err := b.crowding(in, s, ours); err != nil {
		return err
	}
	now, most, err := resident(ours.pid())
	if err != nil {
		return err
	}
	b.loaded[b.engine] = [2]float64{now, most}
	if b.engine == "postgres" {
		if err := b.nodes(in, s, ours); err != nil {
			return err
		}
	}
	if p.large > 0 {
		return b.compare(ctx)
	}
	return nil
}

func (b *bench) startFloor(ctx context.Context, rows int) (t target, err error) {
	dir, dsn, db, err := b.site(ctx, "floor")
	if err != nil {
		return t, err
	}
	t.db = db
	t.process, err = start(filepath.Join(dir, "floor.log"), "/json", b.program, "-db", dsn, "-rows", fmt.Sprint(rows))
	return t, err
}

// round measures every operation once, the floor before ours each time.
func (b *bench) round(in *installation, s *stock, ours, floor target, conns int) error {
	var keys []string
	for _, op := range operations {
		at := point{op.name, b.engine, conns}
		requests := b.requests(in, s, op.name, b.plan.ops, keys)
		got, err := floor.measure(conns, aimed(requests, op.route), false, "")
		if err != nil {
			return err
		}
		b.floor[at] = append(b.floor[at], got)
		if op.name == opAgain { // which may be said again, so that it gets what the floor got
			requests = slices.Repeat(requests, cheap)
		}
		if got, err = ours.measure(conns, requests, op.name == opExchange, op.must); err != nil {
			return err
		}
		if op.name == opExchange {
			if keys, err = keysIn(got); err != nil {
				return err
			}
		}
		got.bodies = nil
		b.ours[at] = append(b.ours[at], got)
	}
	signed, err := floor.measure(conns, aimed(slices.Repeat([][]byte{[]byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")}, b.plan.ops/2), "/sign"), false, "")
	b.signed[conns] = append(b.signed[conns], signed)
	return err
}

// cheap is how often requests are sent that cost so little that they would be over
// before they said much.
const cheap = 10

// aimed sends the same requests to a route of the floor.
func aimed(requests [][]byte, route string) [][]byte {
	all := make([][]byte, len(requests))
	for i, r := range requests {
		method, rest, _ := bytes.Cut(r, []byte(" "))
		_, rest, _ = bytes.Cut(rest, []byte(" "))
		all[i] = fmt.Appendf(nil, "%s %s %s", method, route, rest)
	}
	if route != "/exchange" {
		all = slices.Repeat(all, cheap)
	}
	return all
}

// requests are n requests of an operation. keys are keys that are out, for
// introspection.
func (b *bench) requests(in *installation, s *stock, op string, n int, keys []string) [][]byte {
	switch op {
	case opExchange:
		return take(&s.exchange, n)
	case opStandard:
		return take(&s.standard, n)
	case opRotate:
		return take(&s.rotate, n)
	case opAgain: // after opFirst
		keys = keys[len(keys)-min(64, len(keys)):]
	}
	requests := make([][]byte, n)
	for i := range requests {
		requests[i] = in.introspect(keys[i%len(keys)])
	}
	return requests
}

// crowding sends everything over so many connections that there is a crowd before
// the writer, and counts the errors.
func (b *bench) crowding(in *installation, s *stock, ours target) error {
	b.say("%s: %d connections", b.engine, b.plan.crowd)
	var keys []string
	for _, op := range operations {
		got, err := ours.measure(b.plan.crowd, b.requests(in, s, op.name, b.plan.crowded(), keys), op.name == opExchange, op.must)
		if err != nil {
			return err
		}
		if op.name == opExchange {
			if keys, err = keysIn(got); err != nil {
				return err
			}
		}
		got.bodies = nil
		b.crowd[point{op.name, b.engine, b.plan.crowd}] = got
	}
	return nil
}

// nodes measures the exchange on one node and spread over three, in turn, on the
// same PostgreSQL server and the same cores.
func (b *bench) nodes(in *installation, s *stock, first target) error {
	addrs := []string{first.addr}
	for range 2 {
		more, err := in.serve()
		if err != nil {
			return err
		}
		defer more.stop()
		addrs = append(addrs, more.addr)
	}
	b.say("%s: three nodes", b.engine)
	conns := slices.Max(b.plan.conns)
	for range b.plan.rounds {
		for _, n := range []int{1, len(addrs)} {
			d, err := dial(conns, addrs[:n]...)
			if err != nil {
				return err
			}
			requests := take(&s.exchange, b.plan.ops)
			warm := d.run(requests[:len(requests)/warmup], false, "")
			o := d.run(requests[len(requests)/warmup:], false, "")
			d.close()
			got := sample{rate: float64(len(o.latencies)) / o.took.Seconds(), p50: o.quantile(0.50), p99: o.quantile(0.99),
				errors: o.errors + warm.errors, first: o.first}
			if n == 1 {
				b.one = append(b.one, got)
			} else {
				b.three = append(b.three, got)
			}
		}
	}
	return nil
}

// compare measures the exchange with few and with many live grants, in turn.
func (b *bench) compare(ctx context.Context) error {
	p := b.plan
	var targets [2]target
	var stocks [2]*stock
	for i, grants := range []int{standardSize, p.large} {
		in, err := b.installed(ctx, []string{"small", "large"}[i], grants)
		if err != nil {
			return err
		}
		defer in.db.close()
		if stocks[i], err = in.stocked(ctx, p.rounds*len(p.conns)*p.ops, 0); err != nil {
			return err
		}
		targets[i].db = in.db
		if targets[i].process, err = in.serve(); err != nil {
			return err
		}
		defer targets[i].stop()
	}
	b.say("%s: %d live grants against %d", b.engine, p.large, standardSize)
	for range p.rounds {
		for _, conns := range p.conns {
			at := point{opExchange, b.engine, conns}
			for i, into := range []map[point][]sample{b.small, b.large} {
				got, err := targets[i].measure(conns, take(&stocks[i].exchange, p.ops), false, "")
				if err != nil {
					return err
				}
				into[at] = append(into[at], got)
			}
		}
	}
	var memory [2]float64
	for i, t := range targets {
		var err error
		if memory[i], _, err = resident(t.pid()); err != nil {
			return err
		}
	}
	b.sizes[b.engine] = memory
	return nil
}
