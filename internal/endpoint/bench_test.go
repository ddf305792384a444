package endpoint

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// These measure everything behind the listener but the access log, on both
// databases with every commit on disk, 32 callers at once. For a profile:
//
//	go test -run '^$' -bench Exchange/SQLite -benchtime 5000x -cpuprofile cpu.out ./internal/endpoint
//
// Part of it is what made the requests; internal/bench measures the real server.

// on runs a benchmark on each database. The clock moves, so that ids come in order
// as they do in service, but slowly, so that no code expires before its turn.
func on(b *testing.B, run func(b *testing.B, w *world)) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		b.Run(engine, func(b *testing.B) {
			dsn := ""
			if engine == "PostgreSQL" {
				dsn = storagetest.Postgres(b)
			}
			w := newWorldAt(b, issuer, dsn)
			w.slow = time.Now()
			w.random.from = rand.Reader
			run(b, w)
		})
	}
}

// each calls f once for every i below n, for one customer after another: each has a
// grant of his own, as callers do not wait for each other in service.
func (w *world) each(n int, f func(i int, user string)) {
	w.t.Helper()
	const many = 256
	var all sync.WaitGroup
	for first := range min(n, many) {
		user := "customer" + strconv.Itoa(first)
		if err := w.server.PutUser(w.t.Context(), command, oauth.User{ID: user, Name: "Customer", Email: user + "@example.com"}); err != nil {
			w.t.Fatal(err)
		}
		for _, id := range []string{"s1", "s2"} {
			if err := w.server.SetMembership(w.t.Context(), command, oauth.Membership{UserID: user, StoreID: id, Owner: true, MayDelegate: true}); err != nil {
				w.t.Fatal(err)
			}
		}
		all.Go(func() {
			for i := first; i < n; i += many {
				f(i, user)
			}
		})
	}
	all.Wait()
}

// drive sends requests from many callers at once, as a server does, and counts what
// was not 200. The chores run too, so that caches are as they are in service.
func drive(b *testing.B, w *world, requests []*http.Request) {
	ctx, stop := context.WithCancel(context.Background())
	still := make(chan struct{})
	go func() { w.server.Run(ctx); close(still) }()
	defer func() { stop(); <-still }()
	var next, failed atomic.Int64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, requests[next.Add(1)-1])
			if rec.Code != http.StatusOK {
				failed.Add(1)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(failed.Load()), "errors")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	if failed.Load() > 0 {
		b.Errorf("%d of %d were refused", failed.Load(), b.N)
	}
}

func formRequest(target string, form url.Values, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", formType)
	return with(r, header...)
}

// BenchmarkExchange is Komerza's exchange.
func BenchmarkExchange(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		requests := make([]*http.Request, b.N)
		w.each(b.N, func(i int, user string) {
			requests[i] = with(httptest.NewRequest(http.MethodGet, "/oauth2/"+w.exchange.id+"/exchange/"+w.codeOf(user, w.exchange), nil),
				"X-Client-Secret", w.exchange.secret.Reveal(), "User-Agent", "x")
		})
		drive(b, w, requests)
	})
}

// BenchmarkStandardExchange is a confidential client's, for an access token and a
// refresh token.
func BenchmarkStandardExchange(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		requests := make([]*http.Request, b.N)
		w.each(b.N, func(i int, user string) {
			requests[i] = formRequest("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "code": {w.codeOf(user, w.standard)},
				"redirect_uri": {callback}, "code_verifier": {verifier}}, "Authorization", basic(w.standard.id, w.standard.secret.Reveal()))
		})
		drive(b, w, requests)
	})
}

// BenchmarkRefresh refreshes chains of a confidential client, which do not rotate,
// each again and again.
func BenchmarkRefresh(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		const chains = 64
		tokens := make([]string, chains)
		w.each(chains, func(i int, user string) { _, tokens[i] = w.keyOf(user, w.standard) })
		requests := make([]*http.Request, b.N)
		for i := range requests {
			requests[i] = formRequest("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens[i%chains]}},
				"Authorization", basic(w.standard.id, w.standard.secret.Reveal()))
		}
		drive(b, w, requests)
	})
}

// BenchmarkRefreshRotating rotates chains of a public client, one step a chain.
func BenchmarkRefreshRotating(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		requests := make([]*http.Request, b.N)
		w.each(b.N, func(i int, user string) {
			_, refresh := w.keyOf(user, w.public)
			requests[i] = formRequest("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {w.public.id}})
		})
		drive(b, w, requests)
	})
}

// BenchmarkRevocations is what all followers of an API ask after an event.
func BenchmarkRevocations(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		w.key(w.exchange)
		ctx := b.Context()
		auth := basic(w.api.ID, w.api.Secret.Reveal())
		begin, err := w.server.Revocations(ctx, w.api, oauth.FeedQuery{Instance: "bench"})
		if err == nil {
			err = w.server.SuspendClient(ctx, command, w.exchange.id)
		}
		if err != nil {
			b.Fatal(err)
		}
		requests := make([]*http.Request, b.N)
		for i := range requests {
			requests[i] = httptest.NewRequest(http.MethodGet, fmt.Sprintf("/revocations?instance=bench&epoch=%d&after=%d", begin.Epoch, begin.Seq), nil)
			requests[i].Header.Set("Authorization", auth)
		}
		drive(b, w, requests)
	})
}

// BenchmarkIntrospect asks about lasting keys, each again and again.
func BenchmarkIntrospect(b *testing.B) {
	on(b, func(b *testing.B, w *world) {
		const many = 64
		keys := make([]string, many)
		w.each(many, func(i int, user string) { keys[i], _ = w.keyOf(user, w.exchange) })
		requests := make([]*http.Request, b.N)
		for i := range requests {
			requests[i] = formRequest("/oauth/introspect", url.Values{"token": {keys[i%many]}}, "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
		}
		drive(b, w, requests)
	})
}
