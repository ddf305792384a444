package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/resource"
)

type guardCommand struct {
	Listen     string   `default:"127.0.0.1:9091" help:"Address at which the proxy asks."`
	Issuer     string   `required:"" placeholder:"URL" help:"The issuer, byte for byte as its tokens and its metadata name it."`
	Audience   string   `required:"" placeholder:"URI" help:"This API's URI, as the issuer knows it."`
	ID         string   `required:"" name:"id" help:"This API's client id, which grantway api secret prints."`
	Node       []string `placeholder:"URL" help:"A node of the issuer, where its nodes can be reached one by one; repeat it for each. The feed of revocations is then taken from another one as soon as one fails."`
	SecretFile string   `placeholder:"FILE" help:"File with this API's secret. Without it the secret comes from the environment, in GRANTWAY_API_SECRET."`
	Errors     string   `enum:"rfc6750,komerza" default:"rfc6750" help:"Form of refusals: rfc6750 (the default) or komerza."`
	LogFormat  string   `enum:"json,text" default:"json" help:"Form of the log: json (the default) or text."`
}

const (
	// secretName is where the secret is in the environment: an argument could be read by everybody on the machine.
	secretName = "GRANTWAY_API_SECRET"
	// guardGrace is short: no check takes longer than a few seconds.
	guardGrace = 10 * time.Second
	// guardHead bounds the head of a question in bytes: two tokens of 32 KiB, and what else a client sent along.
	guardHead = 128 << 10
	// passedMost bounds what is handed on in headers, in bytes. Behind the proxy there are servers that take 8 KiB in one
	// field (gunicorn) or 16 KiB in all (Node).
	passedMost = 8000
)

// guard answers a reverse proxy that asks, before each request, whether it may pass. Whom it believes:
//
// The query, up to uri, is written by the operator in the proxy's configuration: which scope the route needs, where its
// path has the store's id, and how long it may do without news. What the client asked for comes last in it, as it is (nginx, Envoy), or in X-Forwarded-Uri, which
// the proxy writes itself (Caddy, Traefik); which of the two is said by the path of the question, so that the one is never
// read where only the other is set by the proxy. Everything else in a question is the client's, and only his token is read.
type guard struct {
	verifier *resource.Verifier
	komerza  bool
	log      *slog.Logger
}

// Run guards until ctx ends and every question under way is answered.
func (c *guardCommand) Run(ctx context.Context, t terminal) error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return misunderstanding{fmt.Errorf("--listen %s: write an address and a port, such as 127.0.0.1:9091", c.Listen)}
	}
	secret, err := c.secret(t)
	if err != nil {
		return misunderstanding{err}
	}
	log, flush := newLogger(t.err, config.Config{LogFormat: c.LogFormat})
	defer flush()
	slog.SetDefault(log) // where the verifier writes
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR2)
	defer signal.Stop(again)
	sockets, err := inherit(t.environ)
	if err != nil {
		return err
	}
	settings := resource.Config{Issuer: c.Issuer, Audience: c.Audience, ClientID: c.ID, ClientSecret: secret, Nodes: c.Node}
	if c.Errors == "komerza" {
		settings.Errors = resource.Komerza
	}
	v, err := resource.New(ctx, settings)
	if err != nil {
		return err
	}
	defer v.Close()
	l, err := sockets.listen("listen", c.Listen)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		log.Warn("other machines can reach the guard: keys travel to it in the clear, and whoever reaches it may try keys", "listen", l.Addr().String())
	}
	g := &guard{verifier: v, komerza: settings.Errors == resource.Komerza, log: log}
	front := g.front(newMetrics())
	server := httpServer(withoutBody(front), log)
	server.MaxHeaderBytes = guardHead
	log.Info("guarding", "version", version().Version, "listen", l.Addr().String(), "issuer", c.Issuer, "audience", c.Audience)
	if v.Ready() == nil {
		fmt.Fprintf(t.out, "Ready: listening on %s for %s\n", l.Addr(), c.Audience)
	} else { // the log says more
		fmt.Fprintf(t.out, "Listening on %s for %s, not ready: the issuer does not answer\n", l.Addr(), c.Audience)
	}
	if err := sockets.ready(); err != nil {
		return err
	}
	serving, end := context.WithCancelCause(ctx)
	defer end(nil)
	var succession sync.WaitGroup
	succession.Go(func() { succeed(serving, end, again, sockets, log) })
	err = serve(serving, server, front.intake, l, guardGrace, func() { front.draining.Store(true) })
	end(nil)
	succession.Wait()
	log.Info("stopped")
	return err
}

func (c *guardCommand) secret(t terminal) (string, error) {
	from, secret := secretName, ""
	if c.SecretFile != "" {
		data, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return "", fmt.Errorf("--secret-file: %w", err)
		}
		from, secret = c.SecretFile, strings.TrimRight(string(data), "\r\n")
	} else {
		for _, pair := range t.environ {
			if name, value, _ := strings.Cut(pair, "="); name == secretName {
				secret = value
			}
		}
	}
	if secret == "" {
		return "", fmt.Errorf("%s holds no secret; grantway api secret prints one for --secret-file or %s", from, secretName)
	}
	return secret, nil
}

// front puts request ids, the log, bounds and health before the guard, as before the server.
func (g *guard) front(m *metrics) *front {
	mux := http.NewServeMux()
	mux.HandleFunc("/check", g.check)
	mux.HandleFunc("/forward-auth", g.forwardAuth)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	f := &front{machines: mux, people: mux, intake: newIntake(), busy: g.busy,
		ready: func(context.Context) (string, error) { return "issuer", g.verifier.Ready() }, seen: m.request, log: g.log}
	m.counter("grantway_shed_total", "Questions and connections for which there was no room.", f.intake.shed.Load)
	m.registry.MustRegister(following{g.verifier})
	return f
}

// withoutBody keeps a question from waiting for the body of the request that it is about: some proxies say how long that is
// and send none of it.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			r.Body = http.NoBody
		}
		next.ServeHTTP(w, r)
	})
}

// check answers nginx and Envoy. nginx passes on neither the body of a refusal nor its status, but headers it can keep: so
// the body is in one, too, and docs/guard.md has the lines that send it.
func (g *guard) check(w http.ResponseWriter, r *http.Request) {
	need, target, err := parseNeed(r.URL.RawQuery, true)
	k := &kept{ResponseWriter: w, status: http.StatusOK}
	g.answer(k, r, need, target, err)
	k.send()
}

// forwardAuth answers Caddy and Traefik, which send the client a refusal as it is.
func (g *guard) forwardAuth(w http.ResponseWriter, r *http.Request) {
	need, _, err := parseNeed(r.URL.RawQuery, false)
	targets := r.Header.Values("X-Forwarded-Uri")
	if err == nil && len(targets) != 1 {
		err = errors.New("the proxy must set X-Forwarded-Uri, once")
	}
	if err != nil {
		targets = []string{""}
	}
	g.answer(w, r, need, targets[0], err)
}

// answer decides about a request for target that needs need, unless wrong says that the question is none.
func (g *guard) answer(w http.ResponseWriter, r *http.Request, need need, target string, wrong error) {
	w.Header().Set("Cache-Control", "no-store")
	if wrong != nil {
		g.log.ErrorContext(r.Context(), "the proxy's question is wrong", "route", template(r), "error", wrong)
		g.refuse(w, http.StatusInternalServerError, "server_error", "InternalServerError", "This address is not set up yet: its operator finds the reason in a log")
		return
	}
	path, err := readPath(target)
	if err != nil {
		g.refuse(w, http.StatusBadRequest, "invalid_request", "ValidationError", "The path of this address could be read in two ways: "+err.Error())
		return
	}
	access, store := resource.Access{Scope: need.scope, OnStale: need.stale}, ""
	if need.path != nil {
		store = storeIn(need.path, path)
		access.Store = func(*http.Request) string { return store }
	}
	g.verifier.Require(access)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := resource.FromContext(r.Context())
		if need.path == nil {
			g.pass(w, r, caller, caller.Stores(need.scope))
		} else {
			g.pass(w, r, caller, []string{store})
		}
	})).ServeHTTP(w, r)
}

// pass lets a request go on with what the API must know of its caller. Every header is always there: what an answer lacks,
// some proxies take from the client.
func (g *guard) pass(w http.ResponseWriter, r *http.Request, caller resource.Caller, stores []string) {
	passed := map[string]string{
		"Grantway-User":   escape(caller.Subject),
		"Grantway-App":    escape(caller.ClientID),
		"Grantway-Grant":  escape(caller.GrantID),
		"Grantway-Scopes": escape(caller.Scopes...),
		"Grantway-Stores": escape(stores...),
	}
	size := 0
	for name, value := range passed {
		size += len(name) + len(value)
	}
	if size > passedMost {
		g.log.WarnContext(r.Context(), "what a caller may do does not fit into headers", "grant", caller.GrantID, "stores", len(stores), "bytes", size)
		g.refuse(w, http.StatusForbidden, "too_many_stores", "AccessDenied", "This address cannot serve a key for so many stores: use one for fewer, or an address that names the store")
		return
	}
	for name, value := range passed {
		w.Header().Set(name, value)
	}
	w.WriteHeader(http.StatusOK)
}

// refuse is the guard's own refusal, in the form of the verifier's.
func (g *guard) refuse(w http.ResponseWriter, status int, code, komerza, message string) {
	var body any = struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, message}
	if g.komerza {
		body = struct {
			Success bool    `json:"success"`
			Message string  `json:"message"`
			Code    string  `json:"code"`
			Data    *string `json:"data"`
		}{Message: message, Code: komerza}
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(text)
}

func (g *guard) busy(w http.ResponseWriter, r *http.Request) {
	k := &kept{ResponseWriter: w}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Retry-After", "1")
	g.refuse(k, http.StatusServiceUnavailable, "temporarily_unavailable", "InternalServerError", "Too much is asked of us right now. Try again in a moment")
	k.send()
}

// following collects what the verifier counts.
type following struct{ verifier *resource.Verifier }

var (
	leaseAge       = prometheus.NewDesc("grantway_verifier_lease_age_seconds", "Time since the moment up to which everything revoked is in effect here; -1 before the first. A lease is good for 0.7 s.", nil, nil)
	leaseLapses    = prometheus.NewDesc("grantway_verifier_lapses_total", "Leases that ended before the next one began.", nil, nil)
	feedSeq        = prometheus.NewDesc("grantway_verifier_feed_seq", "The feed's sequence that was followed to.", nil, nil)
	feedEvents     = prometheus.NewDesc("grantway_verifier_feed_events_total", "Changes and rules that the feed brought.", nil, nil)
	listsHeld      = prometheus.NewDesc("grantway_verifier_lists", "Status lists held, 256 KiB each at most.", nil, nil)
	introspections = prometheus.NewDesc("grantway_verifier_introspections_total", "Checks for which the issuer was asked, by why.", []string{"why"}, nil)
	refusals       = prometheus.NewDesc("grantway_verifier_refusals_total", "Checks that did not admit, by reason.", []string{"reason"}, nil)
	openAdmitted   = prometheus.NewDesc("grantway_verifier_open_total", "Requests that stale=open admitted by the last known state.", nil, nil)
)

// Describe names the series.
func (following) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{leaseAge, leaseLapses, feedSeq, feedEvents, listsHeld, introspections, refusals, openAdmitted} {
		c <- d
	}
}

// Collect reads the verifier's counters.
func (f following) Collect(c chan<- prometheus.Metric) {
	n := f.verifier.Counters()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, label ...string) {
		c <- prometheus.MustNewConstMetric(d, kind, value, label...)
	}
	age := -1.0
	if n.LeaseAge >= 0 {
		age = n.LeaseAge.Seconds()
	}
	send(leaseAge, prometheus.GaugeValue, age)
	send(leaseLapses, prometheus.CounterValue, float64(n.Lapses))
	send(feedSeq, prometheus.GaugeValue, float64(n.Seq))
	send(feedEvents, prometheus.CounterValue, float64(n.Events))
	send(listsHeld, prometheus.GaugeValue, float64(n.Lists))
	send(openAdmitted, prometheus.CounterValue, float64(n.Open))
	for why, times := range n.Introspections {
		send(introspections, prometheus.CounterValue, float64(times), why)
	}
	for reason, times := range n.Refusals {
		send(refusals, prometheus.CounterValue, float64(times), reason)
	}
}

// kept is an answer whose body, if it refuses, is in a header as well.
type kept struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (k *kept) WriteHeader(status int) { k.status = status }

func (k *kept) Write(b []byte) (int, error) {
	k.body = append(k.body, b...)
	return len(b), nil
}

func (k *kept) send() {
	if k.status != http.StatusOK {
		k.Header().Set("Grantway-Refusal", strings.Map(func(r rune) rune {
			if r < ' ' || r > '~' {
				return '?'
			}
			return r
		}, string(k.body)))
	}
	k.ResponseWriter.WriteHeader(k.status)
	k.ResponseWriter.Write(k.body)
}

// need is what a route needs: a scope, where its path has the store's id (nil if it is about no one store), and what
// happens while it is not known what was revoked (0 if nothing was said).
type need struct {
	scope string
	path  []string
	stale resource.OnStale
}

// storeSegment stands in a pattern for the store's id. Braces or a dollar sign would mean something to one proxy or another.
const storeSegment = ":store"

// slashes undoes how slashes are written in a question that ends with what the client asked for.
var slashes = strings.NewReplacer("%2F", "/", "%2f", "/")

// parseNeed reads `scope=…[&path=…][&stale=…]` and, if the question holds it, `&uri=` with the request's target. Nothing that is
// misspelt, empty or written twice may open a route.
//
// Envoy puts the target behind whatever its configuration says. Were `&uri=` forgotten there, the target would go on with the
// last value and could bring a `&uri=` of its own, and then no byte tells the client's pattern from the operator's. But every
// target begins with a slash, and so none may stand before `uri=`: a pattern has %2F for it. For the same reason no error
// holds what was read, which may be a target with credentials, and all of them go into the log.
func parseNeed(query string, withTarget bool) (n need, target string, err error) {
	found := false
	for i, rest := 1, query; rest != "" && !found; i++ {
		var pair string
		name, after, _ := strings.Cut(rest, "=")
		if name == "uri" && withTarget {
			target, found = after, true // whatever it contains, also & and =
			continue
		}
		pair, rest, _ = strings.Cut(rest, "&")
		_, value, _ := strings.Cut(pair, "=")
		switch {
		case withTarget && strings.Contains(pair, "/"):
			return need{}, "", fmt.Errorf("parameter %d has a slash: before uri= write %%2F for it, so that what a client asked for is never taken for a part of the question", i)
		case name == "scope" && n.scope == "":
			if n.scope, err = url.PathUnescape(value); err != nil || !isScope(n.scope) {
				return need{}, "", errors.New("scope= must be one scope")
			}
		case name == "path" && n.path == nil:
			if n.path, err = parsePattern(slashes.Replace(value)); err != nil {
				return need{}, "", err
			}
		case name == "stale" && n.stale == 0:
			if n.stale, err = parseStale(value); err != nil {
				return need{}, "", err
			}
		default:
			return need{}, "", fmt.Errorf("parameter %d is not understood: ask with scope=, path=, stale= and, last, uri= (or, at /forward-auth, X-Forwarded-Uri), each once", i)
		}
	}
	switch {
	case n.scope == "":
		return need{}, "", errors.New("scope= is missing")
	case withTarget && !found:
		return need{}, "", errors.New("uri= is missing: it comes last and holds what the client asked for, as it is")
	}
	return n, target, nil
}

func parseStale(s string) (resource.OnStale, error) {
	switch s {
	case "introspect":
		return resource.Introspect, nil
	case "closed":
		return resource.Closed, nil
	}
	text, open := strings.CutPrefix(s, "open:")
	d, err := time.ParseDuration(text)
	if !open || err != nil || d < time.Millisecond {
		return 0, errors.New("stale= must be introspect, closed, or open: and a time, such as open:30s")
	}
	return resource.Open(d), nil
}

// isScope is a scope-token of RFC 6749 section 3.3.
func isScope(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return s != ""
}

// parsePattern reads a pattern such as /stores/:store/*: segments as they are, one of them the store's id, and * as the
// last for whatever follows, or nothing.
func parsePattern(s string) ([]string, error) {
	p, err := readPath(s)
	if err == nil && strings.Contains(s, "?") {
		err = errors.New("a pattern has no query")
	}
	if err != nil {
		return nil, fmt.Errorf("path= is no pattern: %w", err)
	}
	stores := 0
	for i, segment := range p {
		switch {
		case segment == storeSegment:
			stores++
		case strings.HasPrefix(segment, ":"), strings.Contains(segment, "*") && (segment != "*" || i < len(p)-1):
			return nil, fmt.Errorf("path= is no pattern: a segment is %s, the last may be *, and all others are taken as they are", storeSegment)
		}
	}
	if stores != 1 {
		return nil, fmt.Errorf("path= must have one segment %s", storeSegment)
	}
	return p, nil
}

// readPath returns the segments of a target's path, decoded. It refuses all that one program behind us may read otherwise
// than another: the proxy, which chose the route, this guard, and the API (empty and dot segments; encoded slashes; what a
// second decoding would make of it; path parameters; bytes that are no text).
func readPath(target string) ([]string, error) {
	raw, _, _ := strings.Cut(target, "?")
	if !strings.HasPrefix(raw, "/") {
		return nil, errors.New("it does not begin with a slash")
	}
	segments := strings.Split(raw[1:], "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		switch {
		case err != nil:
			return nil, errors.New("it has an escape that is none")
		case s == "" && i < len(segments)-1:
			return nil, errors.New("it has two slashes in a row")
		case decoded == "." || decoded == "..":
			return nil, errors.New("it has a segment of dots")
		case strings.ContainsFunc(s, func(r rune) bool { return r > '~' }), !utf8.ValidString(decoded), strings.ContainsFunc(decoded, unicode.IsControl):
			return nil, errors.New("it has bytes that are no text")
		case strings.ContainsAny(decoded, `/\;%?#`):
			return nil, errors.New(`it has one of / \ ; % ? # inside a segment`)
		}
		segments[i] = decoded
	}
	return segments, nil
}

// storeIn returns the store's id in a path that fits the pattern, and "", which no caller has access to, in any other.
func storeIn(pattern, path []string) (store string) {
	if last := len(pattern) - 1; pattern[last] == "*" {
		pattern = pattern[:last]
		path = path[:min(len(path), last)]
	}
	if len(pattern) != len(path) {
		return ""
	}
	for i, segment := range pattern {
		if segment == storeSegment {
			store = path[i]
		} else if segment != path[i] {
			return ""
		}
	}
	return store
}

// escape writes values so that any of them can stand in a header and none can be taken for two: each percent-encoded but for
// the unreserved characters of RFC 3986 section 2.3, with a space between.
func escape(values ...string) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteByte(' ')
		}
		for _, c := range []byte(v) {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || slices.Contains([]byte("-._~"), c) {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
	}
	return b.String()
}
