package resource

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The policy of a route, where it has one, holds against the Verifier's.
func TestOnStale_byRoute(t *testing.T) {
	for _, verifier := range []OnStale{0, Introspect, Closed, Open(time.Second)} {
		in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
			last := v.follow.lease.Load
			i.feed.set(func() { i.feed.fail = status(503) })
			settled(time.Second) // lapsed about 500 ms ago
			ends := last().sent.mono + leaseLife
			status := func(route OnStale) int {
				h := v.Require(Access{OnStale: route})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				r := call(h, "GET", "/", "Authorization", "Bearer "+token)
				if r.StatusCode == 503 && (r.Header.Get("Retry-After") == "" || r.Header.Get("WWW-Authenticate") != "") {
					t.Errorf("503 with %v", r.Header)
				}
				return r.StatusCode
			}
			want := map[OnStale]int{Introspect: 200, Closed: 503, Open(10 * time.Millisecond): 503, Open(time.Second): 200, Open(time.Hour): 200}
			want[0] = map[OnStale]int{0: 200, Introspect: 200, Closed: 503, Open(time.Second): 200}[verifier]
			for route, code := range want {
				if got := status(route); got != code {
					t.Errorf("Verifier %d, route %d: %d, want %d", verifier, route, got, code)
				}
			}
			passes(ends + time.Second - v.clock().mono)
			if got := status(Open(time.Second)); got != 200 {
				t.Errorf("at the end of Open: %d", got)
			}
			passes(1)
			if got := status(Open(time.Second)); got != 503 {
				t.Errorf("after the end of Open: %d", got)
			}
			i.asked.Store(0)
			i.feed.set(func() { i.feed.fail = nil })
			settled(time.Second)
			i.feed.mark(9, invalid)
			settled(time.Second)
			for route := range want {
				if got := status(route); got != 401 {
					t.Errorf("revoked, route %d: %d", route, got)
				}
			}
		}, func(c *Config) { c.OnStale = verifier })
	}
}

// Open is loud, counted, goes by the last known state, and by none that was dropped.
func TestOnStale_open(t *testing.T) {
	log := logged(t)
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		log.Reset()
		dead, edited := i.held(t, 10, nil), i.held(t, 11, nil)
		i.feed.mark(10, invalid)
		i.feed.mark(11, ask)
		heard()
		check(t, v, edited, 0, "")
		open := Access{OnStale: Open(2 * time.Second)}
		i.feed.set(func() { i.feed.fail = status(503) })
		settled(time.Second)
		log.Reset()
		for range 5 {
			if _, err := v.Check(t.Context(), token, open); err != nil {
				t.Error(err)
			}
			_, err := v.Check(t.Context(), dead, open)
			wantError(t, err, BadToken, "not_active")
		}
		i.asked.Store(0)
		if _, err := v.Check(t.Context(), edited, open); err != nil || i.asked.Load() != 1 {
			t.Errorf("an answer from before the lapse: %v, asked %d times", err, i.asked.Load())
		}
		settled(3 * time.Second)
		for range 5 {
			_, err := v.Check(t.Context(), token, open)
			wantError(t, err, Unavailable, "stale")
		}
		i.feed.set(func() { i.feed.fail = nil })
		settled(time.Second)
		text := log.String()
		if strings.Count(text, "\n") != 3 || strings.Count(text, "Open admits requests") != 1 || strings.Count(text, "time of Open is over") != 1 || strings.Count(text, "admitted=5") != 2 {
			t.Errorf("the log:\n%s", text)
		}
		if c := v.Counters(); c.Open != 5 {
			t.Errorf("%+v", c)
		}
		i.feed.set(func() {
			i.feed.fail = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(map[bool]int{true: 410, false: 503}[r.URL.Query().Has("after")])
			}
		})
		settled(300 * time.Millisecond)
		_, err := v.Check(t.Context(), token, open)
		wantError(t, err, Unavailable, "stale")
	})
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond - 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Open(%v) was taken", d)
				}
			}()
			Open(d)
		}()
	}
}
