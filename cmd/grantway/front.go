package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grantway/grantway/internal/endpoint"
	"github.com/grantway/grantway/internal/oauth"
)

// front stands before every handler: it gives each request an id, writes the
// access log, catches panics, and decides which package answers. A path, a query
// and a header may hold credentials, so only the route's template is logged.
type front struct {
	machines http.Handler // endpoint
	people   http.Handler // portal
	intake   *intake
	busy     http.HandlerFunc                                // the page of who finds no room
	ready    func(context.Context) (needs string, err error) // /readyz names what the node needs where err says that it lacks it
	draining atomic.Bool
	https    bool
	proxies  []netip.Prefix // whose X-Forwarded-For is believed
	seen     func(route string, status int, took time.Duration)
	log      *slog.Logger
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	id := rand.Text()[:16]
	r = r.WithContext(oauth.WithRequestID(r.Context(), id))
	r.RemoteAddr = clientAddr(r, f.proxies)
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set("X-Request-Id", id)
	if f.https {
		rec.Header().Set("Strict-Transport-Security", "max-age=31536000")
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			f.log.ErrorContext(r.Context(), "panic", "route", template(r), "panic", said(p), "stack", string(debug.Stack()))
			if rec.status == 0 {
				rec.Header().Del("Content-Length") // of what was to be said
				say(rec, http.StatusInternalServerError, "The server met an error of its own. Request id: "+id)
			}
		}
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		took := time.Since(began)
		f.seen(template(r), rec.status, took)
		level := slog.LevelInfo
		if rec.status < http.StatusBadRequest && template(r) == endpoint.FeedPath { // each follower hears something five times a second
			level = slog.LevelDebug
		}
		if h := requestLog(f.log); h.Enabled(r.Context(), level) {
			line := slog.NewRecord(began.Add(took), level, "request", 0) // a Logger would find out from where it is called
			line.AddAttrs(slog.String("method", method(r)), slog.String("route", template(r)), slog.Int("status", rec.status),
				slog.Int64("bytes", rec.bytes), slog.Int64("us", took.Microseconds()), slog.String("remote", host))
			h.Handle(r.Context(), line) // a log that cannot be written to is no reason not to answer
		}
	}()
	f.serve(rec, r)
}

// serve answers a request if there is room for it. Whoever asks how the node is
// must always hear.
func (f *front) serve(w *recorder, r *http.Request) {
	defer w.turn.end()
	switch p := r.URL.Path; {
	case p == "/healthz", p == "/readyz":
		f.intake.attend(r, &w.turn)
		f.route(w, r)
	case f.intake.admit(r, &w.turn, endpoint.ForVerifiers(p)):
		f.route(w, r)
	case endpoint.IsExchange(r):
		r.Pattern = endpoint.ExchangePattern
		endpoint.Busy(w, r)
	case endpoint.Owns(p):
		endpoint.Busy(w, r)
	default:
		f.busy(w, r)
	}
}

// clientAddr returns the address of whoever asks. Behind a trusted proxy that is the
// last one in X-Forwarded-For that is not a trusted proxy itself; what stands
// before it the client may have written. From anybody else the header is ignored
// (attack G11).
func clientAddr(r *http.Request, proxies []netip.Prefix) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	trusted := func(a netip.Addr) bool {
		return slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	}
	if err != nil || !trusted(peer.Addr()) {
		return r.RemoteAddr
	}
	// Read from its end, and no further than needed: the client may have sent a
	// megabyte of commas.
	for _, hops := range slices.Backward(r.Header.Values("X-Forwarded-For")) {
		for more := true; more; {
			var hop string
			at := strings.LastIndexByte(hops, ',')
			hop, more = strings.TrimSpace(hops[at+1:]), at >= 0
			hops = hops[:max(at, 0)]
			a, err := netip.ParseAddr(strings.Trim(hop, "[]"))
			if err != nil { // some proxies add the port
				var with netip.AddrPort
				with, err = netip.ParseAddrPort(hop)
				a = with.Addr()
			}
			switch {
			case err != nil:
				return r.RemoteAddr // no address: the proxy is the last one we know
			case !trusted(a):
				return netip.AddrPortFrom(a.Unmap(), 0).String()
			}
		}
	}
	return r.RemoteAddr
}

func (f *front) route(w http.ResponseWriter, r *http.Request) {
	switch p := r.URL.Path; {
	case endpoint.IsExchange(r):
		r.Pattern = endpoint.ExchangePattern
		f.machines.ServeHTTP(w, r)
	// A ServeMux would answer with a redirect that repeats the path, and with it
	// whatever credential somebody put there.
	case !clean(p):
		say(w, http.StatusNotFound, "There is nothing at this address.")
	case p == "/healthz":
		r.Pattern = p
		say(w, http.StatusOK, "ok")
	case p == "/readyz":
		r.Pattern = p
		f.readyz(w, r)
	case endpoint.Owns(p):
		f.machines.ServeHTTP(w, r)
	default:
		f.people.ServeHTTP(w, r)
	}
}

// clean reports whether p is a path as a ServeMux would leave it.
func clean(p string) bool {
	c := path.Clean(p)
	return strings.HasPrefix(p, "/") && (p == c || c != "/" && p == c+"/")
}

// readyz says whether requests should be sent here: not while draining, and not
// while what the node needs does not answer.
func (f *front) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	switch needs, err := f.ready(ctx); {
	case f.draining.Load():
		say(w, http.StatusServiceUnavailable, "draining")
	case err != nil:
		f.log.WarnContext(r.Context(), "not ready", "error", err)
		say(w, http.StatusServiceUnavailable, needs)
	default:
		say(w, http.StatusOK, "ready")
	}
}

// say answers in plain text. The address may hold a credential, so nobody keeps the answer
// or passes the address on.
func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(status)
	w.Write([]byte(text + "\n"))
}

// said describes a panic: in the words of the runtime, else by its type alone, for
// a value may quote what a client sent.
func said(p any) string {
	if e, ok := p.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("%T", p)
}

// template names the route of a request without what was in its path.
func template(r *http.Request) string {
	if r.Pattern == "" {
		return "(none)"
	}
	_, route, found := strings.Cut(r.Pattern, " ")
	if !found {
		route = r.Pattern
	}
	return route
}

// method keeps what a client invented out of the log.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	turn   turn
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
		r.turn.answer()
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
		r.turn.answer()
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Holding says that the request is understood and nothing is done for it until there
// is something to answer: it needs no place in work meanwhile.
func (r *recorder) Holding() { r.turn.answer() }

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
