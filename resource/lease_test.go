package resource

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLease_live(t *testing.T) {
	const day = 24 * time.Hour
	l := &lease{instant{mono: time.Minute, wall: day}}
	at := func(mono, wall time.Duration) instant { return instant{time.Minute + mono, day + wall} }
	for name, c := range map[string]struct {
		now  instant
		live bool
	}{
		"at once":                   {at(0, 0), true},
		"at its end":                {at(leaseLife, leaseLife), true},
		"a nanosecond later":        {at(leaseLife+1, leaseLife+1), false},
		"the wall clock stood":      {at(leaseLife+1, 0), false},
		"slewed by 0.05 %":          {at(leaseLife-leaseLife/2000, leaseLife), true},
		"slewed back":               {at(leaseLife, leaseLife-leaseLife/2000), true},
		"set by 100 ms":             {at(0, maxJump), true},
		"set by more":               {at(0, maxJump+1), false},
		"a short suspension":        {at(leaseLife-maxJump/2, leaseLife+1), false},
		"set back":                  {at(0, -maxJump-1), false},
		"an hour on":                {at(time.Millisecond, time.Hour), false},
		"an hour back":              {at(time.Millisecond, -time.Hour), false},
		"suspended for two seconds": {at(time.Millisecond, 2*time.Second), false},
	} {
		if got := l.live(c.now); got != c.live {
			t.Errorf("%s: live is %v", name, got)
		}
	}
	if (*lease)(nil).live(at(0, 0)) {
		t.Error("no lease is live")
	}
	if d := l.lapsed(at(time.Second, time.Hour)); d != time.Hour-leaseLife {
		t.Errorf("lapsed %v ago", d)
	}
}

// bound is what is promised: no check admits later than so long after the commit.
const bound = 850 * time.Millisecond

// passes lets time pass, in a bubble all at once.
func passes(d time.Duration) { <-time.After(d) }

// settled lets a Verifier in a bubble follow for a while.
func settled(d time.Duration) { passes(d); synctest.Wait() }

// heard waits for what has just happened, which the follower may ask for a moment after the last one.
func heard() { settled(pollEvery) }

// A cut network: the key is admitted by the lease, to the nanosecond, and by the issuer's word alone from then on.
func TestLease_endsToTheNanosecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, w := i.wired(t, func(c *Config) { c.OnStale = Closed })
		defer v.Close()
		token := i.held(t, 9, nil)
		i.loaded(t, v, token)
		settled(time.Second)
		w.set(func() { w.silent["auth.example"] = true })
		began := v.follow.lease.Load().sent.mono
		passes(began + leaseLife - v.clock().mono)
		if _, err := v.Check(t.Context(), token, Access{}); err != nil {
			t.Errorf("at the end of the lease: %v", err)
		}
		passes(1)
		_, err := v.Check(t.Context(), token, Access{})
		wantError(t, err, Unavailable, "stale")
		if n := i.asked.Load(); n != 0 {
			t.Errorf("asked %d times", n)
		}
		w.set(func() { w.silent["auth.example"] = false })
		settled(time.Second)
		if _, err := v.Check(t.Context(), token, Access{}); err != nil {
			t.Errorf("the network is back: %v", err)
		}
	})
}

// A slow answer extends the lease from before its question was sent.
func TestLease_countsFromBeforeThePollWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, w := i.wired(t, func(c *Config) { c.OnStale = Closed })
		defer v.Close()
		token := i.held(t, 9, nil)
		i.loaded(t, v, token)
		i.feed.set(func() { i.feed.hold = 0 })
		w.set(func() { w.there, w.back = 100*time.Millisecond, 100*time.Millisecond })
		settled(2 * time.Second)
		for range 50 {
			if age := v.clock().mono - v.follow.lease.Load().sent.mono; age < 200*time.Millisecond || age > 400*time.Millisecond {
				t.Fatalf("a lease whose poll takes 200 ms is %v old", age)
			}
			settled(7 * time.Millisecond)
		}
	})
}

// Whatever the network does, a revoked key is admitted no later than the bound after its commit.
func TestLease_bound(t *testing.T) {
	for name, fault := range map[string]func(*issuer, *wire){
		"nothing":        func(*issuer, *wire) {},
		"silence":        func(_ *issuer, w *wire) { w.silent["auth.example"] = true },
		"nobody listens": func(_ *issuer, w *wire) { w.refused["auth.example"] = true },
		"503":            func(i *issuer, _ *wire) { i.feed.fail = status(503) },
		"slow":           func(_ *issuer, w *wire) { w.there, w.back = 150*time.Millisecond, 150*time.Millisecond },
		"slower":         func(_ *issuer, w *wire) { w.there, w.back = 10*time.Millisecond, 450*time.Millisecond },
		"500":            func(i *issuer, _ *wire) { i.feed.fail = status(500) },
		"wrong secret":   func(i *issuer, _ *wire) { i.feed.fail = status(401) },
		"a page":         func(i *issuer, _ *wire) { i.feed.fail = says("<html>") },
		"an old 204": func(i *issuer, _ *wire) {
			i.feed.fail = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Age", "1"); w.WriteHeader(204) }
		},
		"a smaller epoch": func(i *issuer, _ *wire) {
			i.feed.fail = says(`{"epoch":0,"seq":999,"more":false,"changes":[],"rules":[]}`)
		},
		"backwards": func(i *issuer, _ *wire) {
			i.feed.fail = says(`{"epoch":1,"seq":3,"more":false,"changes":[],"rules":[]}`)
		},
		"more and more": func(i *issuer, _ *wire) {
			i.feed.fail = says(`{"epoch":1,"seq":101,"more":true,"changes":[],"rules":[]}`)
		},
	} {
		for offset := time.Duration(0); offset < 400*time.Millisecond; offset += 67 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				i := quietIssuer(t)
				v, w := i.wired(t, func(c *Config) { c.OnStale = Closed })
				defer v.Close()
				token := i.held(t, 9, nil)
				i.loaded(t, v, token)
				settled(time.Second + offset)
				i.feed.set(func() { w.set(func() { fault(i, w) }) })
				committed := time.Now()
				i.feed.mark(9, invalid)
				last := time.Duration(-1)
				for d := time.Since(committed); d < 3*time.Second; d = time.Since(committed) {
					if _, err := v.Check(t.Context(), token, Access{}); err == nil {
						last = d
					}
					settled(time.Millisecond)
				}
				if last > bound {
					t.Errorf("%s: admitted %v after the commit", name, last)
				}
				if name == "nothing" && last > 10*time.Millisecond {
					t.Errorf("a healthy feed took %v", last)
				}
			})
		}
	}
}

// Clocks that come apart end the lease: the wall clock was set, or the machine slept.
func TestLease_clocksComeApart(t *testing.T) {
	for name, jump := range map[string]time.Duration{"an hour on": time.Hour, "an hour back": -time.Hour, "slept": 101 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			w := &wire{hosts: map[string]http.Handler{"auth.example": i.handler}, silent: map[string]bool{}, refused: map[string]bool{}}
			c, set := newClock(), atomic.Int64{}
			v := i.over(t, w, func() instant {
				now := c()
				now.wall += time.Duration(set.Load())
				return now
			}, func(c *Config) { c.OnStale = Closed })
			defer v.Close()
			token := i.held(t, 9, nil)
			i.loaded(t, v, token)
			settled(time.Second + time.Millisecond)
			set.Store(int64(jump))
			_, err := v.Check(t.Context(), token, Access{})
			wantError(t, err, Unavailable, "stale")
			settled(450 * time.Millisecond) // the poll that is out counts for nothing; the next one does
			if _, err := v.Check(t.Context(), token, Access{}); err != nil {
				t.Errorf("%s: two polls later: %v", name, err)
			}
			// A slew of 500 ms in a quarter of an hour is none of it.
			for range 2000 {
				set.Add(int64(500 * time.Millisecond / 2000))
				settled(450 * time.Millisecond)
				if !v.follow.lease.Load().live(v.clock()) {
					t.Fatalf("%s: a slow slew ended the lease", name)
				}
			}
		})
	}
}

// Silence of one node costs less than a lease, and so does a node that says it does not know.
func TestFollow_changesNodeWithinALease(t *testing.T) {
	for name, fault := range map[string]func(w *wire, node string){
		"silent":         func(w *wire, n string) { w.silent[n] = true },
		"nobody listens": func(w *wire, n string) { w.refused[n] = true },
		"503":            func(w *wire, n string) { w.hosts[n] = status(503) },
		"500":            func(w *wire, n string) { w.hosts[n] = status(500) },
		"hangs": func(w *wire, n string) {
			w.hosts[n] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			w := &wire{hosts: map[string]http.Handler{"auth.example": i.handler}, silent: map[string]bool{}, refused: map[string]bool{},
				there: 5 * time.Millisecond, back: 5 * time.Millisecond}
			v := i.over(t, w, newClock(), func(c *Config) {
				c.OnStale = Closed
				c.Nodes = []string{"https://one.example", "https://two.example", "https://three.example"}
			})
			defer v.Close()
			token := i.held(t, 9, nil)
			i.loaded(t, v, token)
			for round := range 6 {
				settled(time.Second + time.Duration(round)*41*time.Millisecond)
				node := v.cfg.Nodes[v.follow.current()][len("https://"):]
				right := w.hosts[node]
				w.set(func() { fault(w, node) })
				for range 1500 {
					if _, err := v.Check(t.Context(), token, Access{}); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					settled(time.Millisecond)
				}
				if now := v.cfg.Nodes[v.follow.current()][len("https://"):]; now == node {
					t.Errorf("%s: still asks %s", name, node)
				}
				w.set(func() { delete(w.silent, node); delete(w.refused, node); w.hosts[node] = right })
			}
			if c := v.Counters(); c.Lapses != 0 || c.Introspections["lapsed"] != 0 {
				t.Errorf("%s: %+v", name, c)
			}
		})
	}
}
