package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/demo"
	"github.com/grantway/grantway/internal/endpoint"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

func testFront(t *testing.T, pages http.HandlerFunc) (*front, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	return &front{
		machines: pages, people: pages, busy: func(w http.ResponseWriter, r *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) },
		intake: newIntake(), ready: func(context.Context) (string, error) { return "database", nil }, seen: newMetrics().request,
		log: slog.New(named{Handler: slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})}),
	}, log
}

const canary = "canary-2b7e151628aed2a6abf7158809cf4f3c"

// A panic is a 500 that names the request, and its log line holds neither the path
// nor the value, which may quote it.
func TestFront_Panic(t *testing.T) {
	for name, value := range map[string]any{"text": canary, "error": fmt.Errorf("bad code %s", canary), "nil map": nil} {
		t.Run(name, func(t *testing.T) {
			f, log := testFront(t, func(w http.ResponseWriter, r *http.Request) {
				if value == nil {
					_ = []string{}[len(canary)-len(r.Method)] // a run-time error
				}
				panic(value)
			})
			for _, target := range []string{"/oauth2/a/exchange/" + canary, "/page/" + canary + "?code=" + canary, "/oauth/" + canary} {
				log.Reset()
				w := httptest.NewRecorder()
				f.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
				id := w.Header().Get("X-Request-Id")
				if w.Code != http.StatusInternalServerError || id == "" || !strings.Contains(w.Body.String(), id) {
					t.Errorf("%d, id %q, %s", w.Code, id, w.Body)
				}
				if strings.Contains(w.Body.String(), canary) || strings.Contains(log.String(), canary) {
					t.Errorf("the path or the value came out:\n%s\n%s", w.Body, log)
				}
				if strings.Count(log.String(), id) != 2 || !strings.Contains(log.String(), `"msg":"panic"`) || !strings.Contains(log.String(), `"status":500`) {
					t.Errorf("the log does not tell of it: %s", log)
				}
			}
		})
	}
}

// What front says itself nobody keeps, under whatever address: that of a base URL that ends
// in a slash holds a code.
func TestFront_NoStore(t *testing.T) {
	f, _ := testFront(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=3600")
		w.Header().Set("Content-Length", "1000000")
		panic("it")
	})
	for target, status := range map[string]int{
		"//oauth2/a/exchange/c": 404, "/page/../oauth2/a/exchange/c": 404, "/page": 500, "/oauth/token": 500, "/oauth2/a/exchange/c": 500, "/healthz": 200, "/readyz": 200,
	} {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
		got := w.Result().Header
		for name, want := range map[string]string{"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			"Content-Type": "text/plain; charset=utf-8", "Content-Length": ""} {
			if got.Get(name) != want {
				t.Errorf("%s: %s %q, want %q", target, name, got.Get(name), want)
			}
		}
		if w.Code != status {
			t.Errorf("%s: %d, want %d", target, w.Code, status)
		}
	}
}

// What followers are told again and again is told to the log where it looks closely;
// what they are refused, and every other answer, always.
func TestFront_FollowersAreNoNoise(t *testing.T) {
	for _, c := range []struct {
		path   string
		status int
		level  string
	}{
		{endpoint.FeedPath, http.StatusOK, "DEBUG"}, {endpoint.FeedPath, http.StatusNoContent, "DEBUG"},
		{endpoint.FeedPath, http.StatusGone, "INFO"}, {endpoint.FeedPath, http.StatusServiceUnavailable, "INFO"}, {"/oauth/token", http.StatusOK, "INFO"},
	} {
		f, log := testFront(t, func(w http.ResponseWriter, r *http.Request) {
			r.Pattern = r.URL.Path
			w.WriteHeader(c.status)
		})
		f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", c.path, nil))
		if !strings.Contains(log.String(), `"level":"`+c.level+`","msg":"request"`) {
			t.Errorf("%s %d: %s", c.path, c.status, log)
		}
	}
}

func TestFront_RequestID(t *testing.T) {
	f, log := testFront(t, func(w http.ResponseWriter, r *http.Request) {
		if oauth.RequestID(r.Context()) != w.Header().Get("X-Request-Id") {
			t.Error("events would carry another id than the answer")
		}
		w.WriteHeader(http.StatusTeapot)
	})
	seen := map[string]bool{}
	for _, target := range []string{"/", "/healthz", "/readyz", "/a//b", "/oauth/token", "/oauth2/a/exchange/c", "/page"} {
		r := httptest.NewRequest("GET", target, nil)
		r.Header.Set("X-Request-Id", canary) // of a stranger: not taken over
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		id := w.Header().Get("X-Request-Id")
		if len(id) != 16 || seen[id] {
			t.Errorf("%s: id %q", target, id)
		}
		seen[id] = true
		if !strings.Contains(log.String(), `"request_id":"`+id+`"`) {
			t.Errorf("%s: not in the log", target)
		}
	}
	if strings.Contains(log.String(), canary) {
		t.Error("a client's header is in the log")
	}
}

func TestFront_StrictTransportSecurity_RFC6797_7_2(t *testing.T) {
	f, _ := testFront(t, func(w http.ResponseWriter, r *http.Request) {})
	for _, https := range []bool{true, false} {
		f.https = https
		for _, target := range []string{"/", "/healthz", "/a//b", "/oauth2/a/exchange/c"} {
			w := httptest.NewRecorder()
			f.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
			if got := w.Header().Get("Strict-Transport-Security") != ""; got != https {
				t.Errorf("%s with https %v: header %v", target, https, got)
			}
		}
	}
}

func TestFront_Health(t *testing.T) {
	f, log := testFront(t, func(http.ResponseWriter, *http.Request) {})
	check := func(path string, status int, text string) {
		t.Helper()
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != status || strings.TrimSpace(w.Body.String()) != text {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	check("/healthz", 200, "ok")
	check("/readyz", 200, "ready")
	f.ready = func(context.Context) (string, error) { return "database", errors.New("disk gone") }
	check("/healthz", 200, "ok")
	check("/readyz", 503, "database")
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "disk gone") != strings.Contains(line, `"not ready"`) || !strings.Contains(line, `"request_id":"`) {
			t.Errorf("the operator is told %s", line)
		}
	}
	if !strings.Contains(log.String(), "disk gone") {
		t.Error("the operator is not told why")
	}
	f.draining.Store(true)
	check("/healthz", 200, "ok")
	check("/readyz", 503, "draining")
}

// testNode is everything but the process, with an https issuer.
func testNode(t *testing.T, log io.Writer) *node {
	t.Helper()
	store, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := oauth.NewKeyRing(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := oauth.ParseKeyRing(text)
	if err != nil {
		t.Fatal(err)
	}
	catalogue, err := config.ParseCatalogue(demo.Catalogue)
	if err != nil {
		t.Fatal(err)
	}
	n, err := assemble(t.Context(), parts{store: store, issuer: "https://id.example.com", audience: "https://api.example.com", ring: ring, catalogue: catalogue,
		log: slog.New(slog.NewJSONHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A redirect that repeats a path would repeat a credential in it, and one to a
// path that starts with two slashes would leave the origin (attack G1, DESIGN:
// URLs).
func TestFront_PathsNeverRedirect(t *testing.T) {
	log := &bytes.Buffer{}
	server := httptest.NewServer(testNode(t, log).front)
	t.Cleanup(server.Close)
	const app = "/oauth2/11111111-2222-4333-8444-555555555555/exchange"
	for _, path := range []string{
		"//", "//evil.example/", "//evil.example/%2e%2e", "/..", "/../", "/../x", "/a/../b", "/a//b", "/./a", "/a/.", "/%2e%2e/x", "/a%2f%2fb", "/a%2f..%2fb", "/%2f", "/%2f/evil.example",
		"/oauth//token", "/oauth/../sign-in", "/oauth/token/", "/oauth/./token", "/.well-known//openid-configuration", "/sign-in/", "/developer//", "/operator/../", "/assets/../x",
		app + "/" + canary + "/", app + "//" + canary, app + "/../" + canary, app + "/%2e%2e/" + canary, app + "/%2f" + canary, app + "/a%2fb;" + canary, "/oauth2//exchange/" + canary, "/oauth2/../x/" + canary,
		"/oauth2", "/oauth2/", "//oauth2/x/exchange/" + canary, "/x/../oauth2/a/exchange/" + canary, "/%6fauth2/a/exchange/" + canary, "/auth/authorize/", "/auth//authorize", "/;" + canary, "/connected-apps;" + canary,
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: evil.example\r\nUser-Agent: test\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		resp.Body.Close()
		conn.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 || resp.Header.Get("Location") != "" {
			t.Errorf("%s: %d, Location %q", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	server.Close()
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), "evil") {
		t.Errorf("a path is in the log:\n%s", log)
	}
	if !strings.Contains(log.String(), `"route":"/oauth2/{appId}/exchange/{code}"`) {
		t.Error("the exchange is not named by its template")
	}
}

// What net/http itself has to say may quote a request: of it only the fact is kept.
func TestHTTPServer_OwnMessagesAreQuiet(t *testing.T) {
	log := &bytes.Buffer{}
	s := httpServer(http.NotFoundHandler(), slog.New(slog.NewJSONHandler(log, nil)))
	s.ErrorLog.Printf("http: panic serving 127.0.0.1:1: bad code %s", canary)
	if strings.Contains(log.String(), canary) || !strings.Contains(log.String(), `"level":"WARN","msg":"http server: http"`) {
		t.Error(log)
	}
}

// Two clients behind one proxy have two addresses; a forged header has none
// (attack G11).
func TestFront_G11_ClientBehindProxies(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.9:1", nil, "203.0.113.9:1"},
		{"forged", "203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9:1"},
		{"one", "10.0.0.7:1", []string{"198.51.100.1"}, "198.51.100.1:0"},
		{"another", "10.0.0.7:1", []string{"198.51.100.2"}, "198.51.100.2:0"},
		{"forged before the proxy", "10.0.0.7:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1:0"},
		{"in two headers", "10.0.0.7:1", []string{"1.1.1.1", "198.51.100.1"}, "198.51.100.1:0"},
		{"two proxies", "[::1]:1", []string{"198.51.100.1, 10.0.0.8"}, "198.51.100.1:0"},
		{"mapped", "[::ffff:10.0.0.7]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1:0"},
		{"IPv6", "10.0.0.7:1", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		{"with a port", "10.0.0.7:1", []string{"198.51.100.1:5123"}, "198.51.100.1:0"},
		{"IPv6 with a port", "10.0.0.7:1", []string{"[2001:db8::7]:443"}, "[2001:db8::7]:0"},
		{"IPv6 in brackets", "10.0.0.7:1", []string{"[2001:db8::7]"}, "[2001:db8::7]:0"},
		{"no address", "10.0.0.7:1", []string{"unknown"}, "10.0.0.7:1"},
		{"nothing", "10.0.0.7:1", nil, "10.0.0.7:1"},
		{"proxies alone", "10.0.0.7:1", []string{"10.0.0.9"}, "10.0.0.7:1"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.peer
		for _, f := range c.forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		if got := clientAddr(r, proxies); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := clientAddr(r, nil); got != c.peer {
			t.Errorf("%s, nobody trusted: %s", c.name, got)
		}
	}
}

// A client may send a megabyte of the header, which the proxy passes on with its own
// word at the end: it costs no more than that word.
func TestClientAddr_OfAHugeHeader(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.0.0.7:1"
	r.Header.Set("X-Forwarded-For", strings.Repeat(",", 1<<20)+"198.51.100.1, 10.0.0.8")
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	if got := clientAddr(r, proxies); got != "198.51.100.1:0" {
		t.Error(got)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		clientAddr(r, proxies)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 64<<10 {
		t.Errorf("%d bytes", each)
	}
}
