package endpoint

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

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

// BenchmarkExchange is Komerza's exchange on SQLite with every commit on disk, 32
// callers at once.
func BenchmarkExchange(b *testing.B) {
	w := newWorld(b)
	requests := make([]*http.Request, b.N)
	for i := range requests {
		requests[i] = with(httptest.NewRequest(http.MethodGet, "/oauth2/"+w.exchange.id+"/exchange/"+w.code(w.exchange), nil),
			"X-Client-Secret", w.exchange.secret.Reveal(), "User-Agent", "x")
	}
	drive(b, w, requests)
}

// BenchmarkRefresh refreshes a confidential client's chain, which does not rotate,
// so that all callers may use the same token.
func BenchmarkRefresh(b *testing.B) {
	w := newWorld(b)
	_, refresh := w.key(w.standard)
	requests := make([]*http.Request, b.N)
	for i := range requests {
		requests[i] = formRequest("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}},
			"Authorization", basic(w.standard.id, w.standard.secret.Reveal()))
	}
	drive(b, w, requests)
}

// BenchmarkRefreshRotating rotates a chain a caller, one step a chain.
func BenchmarkRefreshRotating(b *testing.B) {
	w := newWorld(b)
	requests := make([]*http.Request, b.N)
	for i := range requests {
		_, refresh := w.key(w.public)
		requests[i] = formRequest("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {w.public.id}})
	}
	drive(b, w, requests)
}

// BenchmarkIntrospect asks about a lasting key.
func BenchmarkIntrospect(b *testing.B) {
	w := newWorld(b)
	key, _ := w.key(w.exchange)
	requests := make([]*http.Request, b.N)
	for i := range requests {
		requests[i] = formRequest("/oauth/introspect", url.Values{"token": {key}}, "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
	}
	drive(b, w, requests)
}
