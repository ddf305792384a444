package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
	"github.com/grantway/grantway/resource"
)

// What the proxy's configuration says is read strictly: what is misspelt, empty or there twice opens no route. What the
// client asked for comes last, and nothing in it is a parameter.
func TestGuard_Need(t *testing.T) {
	for _, c := range []struct {
		query      string
		withTarget bool
		scope      string
		path       []string
		stale      resource.OnStale
		target     string
	}{
		{"scope=a&uri=/x?scope=b&path=/:store", true, "a", nil, 0, "/x?scope=b&path=/:store"},
		{"scope=a&path=%2Fs%2f:store%2F*&uri=", true, "a", []string{"s", ":store", "*"}, 0, ""},
		{"path=%2Fa%20b%2F:store&scope=urn%3Ax%2Fy&uri=/", true, "urn:x/y", []string{"a b", ":store"}, 0, "/"},
		{"scope=urn:x/y&path=/s/:store%2F*", false, "urn:x/y", []string{"s", ":store", "*"}, 0, ""},
		{"scope=a&path=/:store&stale=closed", false, "a", []string{":store"}, resource.Closed, ""},
		{"scope=a&stale=introspect", false, "a", nil, resource.Introspect, ""},
		{"stale=open:1m30s&scope=a&uri=/?stale=closed", true, "a", nil, resource.Open(90 * time.Second), "/?stale=closed"},
		{"scope=a", false, "a", nil, 0, ""},
	} {
		n, target, err := parseNeed(c.query, c.withTarget)
		if err != nil || n.scope != c.scope || !slices.Equal(n.path, c.path) || n.stale != c.stale || target != c.target {
			t.Errorf("%s: %+v, %q, %v", c.query, n, target, err)
		}
	}
	for query, says := range map[string]string{
		"":                                          "scope= is missing",
		"uri=/x&scope=a":                            "scope= is missing", // the client's from uri= on
		"scope=a":                                   "uri= is missing",
		"&uri=/":                                    "parameter 1 is not understood", // an unset variable of nginx
		"scope=&uri=/":                              "must be one scope",
		"scope=a%20b&uri=/":                         "must be one scope",
		"scope=a%zz&uri=/":                          "must be one scope",
		"scope=a&scope=b&uri=/":                     "parameter 2 is not understood",
		"scope&uri=/":                               "parameter 1 is not understood",
		"Scope=a&uri=/":                             "is not understood",
		"scop=a&uri=/":                              "is not understood",
		"scope=a&store=1&uri=/":                     "is not understood",
		"scope=a&path=&uri=/":                       "does not begin with a slash",
		"scope=a&path=%2Fs%2F*&uri=/":               "must have one segment :store",
		"scope=a&path=%2F:store%2F:store&uri=/":     "must have one segment :store",
		"scope=a&path=%2F:stores&uri=/":             "a segment is :store",
		"scope=a&path=%2F*%2F:store&uri=/":          "the last may be *",
		"scope=a&path=%2F:store%2Fa*&uri=/":         "the last may be *",
		"scope=a&path=%2Fs%2F%2F:store&uri=/":       "two slashes",
		"scope=a&path=%2F:store?a&uri=/":            "no query",
		"scope=a&stale=&uri=/":                      "stale= must be",
		"scope=a&stale=open&uri=/":                  "must be introspect, closed",
		"scope=a&stale=open:0&uri=/":                "must be introspect, closed",
		"scope=a&stale=open:-1s&uri=/":              "must be introspect, closed",
		"scope=a&stale=open:30&uri=/":               "must be introspect, closed",
		"scope=a&stale=10s&uri=/":                   "must be introspect, closed",
		"scope=a&stale=closed&stale=open:1s":        "is not understood",
		"scope=a&path=%2F:store&path=%2Fx&uri=/":    "is not understood",
		"scope=a&path=%2Fs%2F..%2F:store%2F*&uri=/": "segment of dots",
		"scope=a;path=:store&uri=/stores/":          "", // ; is no &: a scope that nobody holds
	} {
		n, _, err := parseNeed(query, true)
		if says == "" {
			if err == nil && n.scope == "a" {
				t.Errorf("%s: %+v", query, n)
			}
		} else if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v; want %q", query, n, err, says)
		}
	}
	if _, _, err := parseNeed("scope=a&uri=/x", false); err == nil {
		t.Error("uri= is taken where only X-Forwarded-Uri is the proxy's")
	}
}

// Where `&uri=` was forgotten, Envoy writes what the client asks for behind the operator's last value. Whatever that is, it
// opens nothing, and the log gets none of it. Where it was not forgotten, it says nothing of what is needed.
func FuzzGuardNeed(f *testing.F) {
	for _, target := range []string{"/x&uri=/stores/mine/x", "/*&uri=/stores/mine", "/x&scope=a&path=%2F:store&stale=closed&uri=/", "/&scope=a&uri=/?" + canary, "/x?" + canary + "=" + canary + "&" + canary + "&uri=/", "/"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if !strings.HasPrefix(target, "/") {
			return // Envoy lets no such request in
		}
		for _, parameters := range []string{"", "scope=a", "path=%2Fstores%2F:store", "path=/stores/:store", "scope=a&path=%2Fstores%2F:store", "scope=a&path=/stores/:store",
			"path=/stores/:store/*&scope=a", "scope=a&path=%2F:store&stale=open:30s", "scope=", "scope=a&"} {
			n, _, err := parseNeed(parameters+target, true)
			if err == nil {
				t.Errorf("%s without uri= and behind it %q: %+v", parameters, target, n)
			} else if strings.Contains(err.Error(), canary) {
				t.Errorf("what the client asked for would be logged: %v", err)
			}
		}
		n, got, err := parseNeed("scope=a&path=%2Fstores%2F:store&uri="+target, true)
		if err != nil || got != target || n.scope != "a" || !slices.Equal(n.path, []string{"stores", ":store"}) || n.stale != 0 {
			t.Errorf("%q became %q, %+v, %v", target, got, n, err)
		}
	})
}

// The store is read from paths that all read alike, and from no others.
func TestGuard_Paths(t *testing.T) {
	for _, c := range []struct{ pattern, target, store string }{
		{"/stores/:store", "/stores/7", "7"},
		{"/stores/:store", "/stores/7?store=8#x", "7"},
		{"/stores/:store", "/stores/7/", ""},
		{"/stores/:store", "/stores/7/x", ""},
		{"/stores/:store", "/stores/", ""},
		{"/stores/:store", "/stores", ""},
		{"/stores/:store", "/Stores/7", ""},
		{"/stores/:store/", "/stores/7/", "7"},
		{"/stores/:store/*", "/stores/7", "7"},
		{"/stores/:store/*", "/stores/7/", "7"},
		{"/stores/:store/*", "/stores/7/a/b", "7"},
		{"/stores/:store/*", "/stores/", ""},
		{"/stores/:store/*", "/stores", ""},
		{"/:store/*", "/", ""},
		{"/v1/:store/orders", "/v1/a%20%C3%BC+~/orders", "a ü+~"},
		{"/v1/:store/orders", "/v1/:store/orders", ":store"},
		{"/%73tores/:store", "/stores/%37", "7"},
	} {
		pattern, err := parsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		p, err := readPath(c.target)
		if got := storeIn(pattern, p); err != nil || got != c.store {
			t.Errorf("%s in %s: %q, %v; want %q", c.pattern, c.target, got, err, c.store)
		}
	}
	for _, target := range []string{"", "x", "http://h/stores/7", "*", "//stores/7", "/stores//7", "/stores/7//", "/stores/./7", "/stores/..", "/stores/%2e%2E/7", "/stores/.%2e",
		"/stores/7%2f8", "/stores/7%2F", "/stores/7%5c8", `/stores/7\8`, "/stores/7;a=b", "/stores/7%3ba", "/stores/7%253b", "/stores/7%25", "/stores/7%3F", "/stores/7%23", "/stores/7#a",
		"/stores/7%00", "/stores/7%0d%0a", "/stores/7%7f", "/stores/%c0%af", "/stores/%ff", "/stores/%C2%85", "/stores/ü", "/stores/7%", "/stores/7%4", "/stores/7%zz"} {
		if p, err := readPath(target); err == nil {
			t.Errorf("%q is read as %q", target, p)
		}
	}
}

// Whatever is accepted, others read it the same way: as net/url does, cleaned, and decoded once more.
func FuzzGuardPath(f *testing.F) {
	for _, s := range []string{"/stores/7?x", "/a%20b/c/", "/..%2f", "/%252e", "/;", "//", "/a/./b", "/%c3%bc", "/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		segments, err := readPath(target)
		if err != nil {
			return
		}
		joined := "/" + strings.Join(segments, "/")
		raw, _, _ := strings.Cut(target, "?")
		if u, err := url.ParseRequestURI(raw); err != nil || u.Path != joined {
			t.Errorf("%q: %q for us, %v, %v for net/url", target, joined, u, err)
		}
		if c := path.Clean(joined); c != joined && c+"/" != joined {
			t.Errorf("%q: cleaned it is %q", target, c)
		}
		if again, err := url.PathUnescape(joined); err != nil || again != joined {
			t.Errorf("%q: decoded once more %q, %v", target, again, err)
		}
	})
}

// Ids are any text: what is handed on can stand in a header, and comes back as it was.
func TestGuard_Headers(t *testing.T) {
	caller := resource.Caller{Subject: "ü,; \r\n\x00", ClientID: "a b", GrantID: "gr_1", Scopes: []string{"stores.view", "urn:x,y"}}
	stores := []string{"s-1.~_", "a b", "", "100%", strings.Repeat("é", 127)}
	var log bytes.Buffer
	g := &guard{log: slog.New(slog.NewJSONHandler(&log, nil))}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/check", nil)
	g.pass(w, r, caller, stores)
	for name, want := range map[string][]string{"Grantway-User": {caller.Subject}, "Grantway-App": {"a b"}, "Grantway-Grant": {"gr_1"}, "Grantway-Scopes": caller.Scopes, "Grantway-Stores": stores} {
		value := w.Header().Get(name)
		for i, part := range strings.Split(value, " ") {
			if got, err := url.PathUnescape(part); err != nil || got != want[i] {
				t.Errorf("%s %q: %q, %v; want %q", name, part, got, err, want[i])
			}
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`",;`, r) }) {
			t.Errorf("%s: %q", name, value)
		}
	}
	// A caller with nothing still has every header, so that a proxy takes none from the client.
	w = httptest.NewRecorder()
	g.pass(w, r, resource.Caller{Subject: "u", ClientID: "c", GrantID: "g"}, nil)
	for _, name := range []string{"Grantway-Scopes", "Grantway-Stores"} {
		if values := w.Header()[name]; len(values) != 1 || values[0] != "" {
			t.Errorf("%s: %q", name, values)
		}
	}
	// What does not fit is refused, in words, rather than cut.
	w, stores = httptest.NewRecorder(), nil
	for i := range 300 {
		stores = append(stores, fmt.Sprintf("3f1c2a84-6f0e-4b6a-9b57-0a3c5b1de%03d", i))
	}
	g.pass(w, r, caller, stores)
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"error":"too_many_stores"`) || w.Header().Get("Grantway-Stores") != "" || !strings.Contains(log.String(), `"stores":300`) {
		t.Errorf("%d %s\n%s", w.Code, w.Body, &log)
	}
}

// guarding is a grantway guard in a process of its own.
type guarding struct {
	*testing.T
	cmd   *exec.Cmd
	url   string
	log   string // file
	said  *bufio.Reader
	state string // the line in which it said that it listens
}

// startGuard starts a guard for the demo's API with the secret in its environment.
func startGuard(t *testing.T, d *demonstration, flags ...string) *guarding {
	t.Helper()
	g := &guarding{T: t, log: filepath.Join(t.TempDir(), "log")}
	g.cmd = exec.Command("grantway", append([]string{"guard", "--listen", "127.0.0.1:0", "--issuer", d.Issuer, "--audience", "https://api.harbour.example", "--id", d.ResourceServer.ClientID}, flags...)...)
	g.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), secretName + "=" + d.ResourceServer.ClientSecret}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.Create(g.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	g.cmd.Stdout, g.cmd.Stderr = in, log
	err = g.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) // and its successor
		g.cmd.Wait()
	})
	g.said = bufio.NewReader(out)
	g.ready()
	return g
}

// ready waits for a process to say that it listens.
func (g *guarding) ready() {
	g.Helper()
	line, err := g.said.ReadString('\n')
	g.state = strings.TrimSpace(line)
	_, rest, found := strings.Cut(line, "istening on ")
	address, _, _ := strings.Cut(rest, " ")
	if !found {
		g.Fatalf("the guard did not become ready: %q, %v\n%s", line, err, g.logged())
	}
	g.url = "http://" + address
}

func (g *guarding) logged() string {
	text, err := os.ReadFile(g.log)
	if err != nil {
		g.Fatal(err)
	}
	return string(text)
}

func (g *guarding) get(target string, header map[string]string) answer {
	g.Helper()
	a, err := send("GET", g.url+target, header, "")
	if err != nil {
		g.Fatal(err)
	}
	return a
}

// A guard whose secret is wrong says what to do.
func TestGuard_WrongSecret(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--listen", "127.0.0.1:0")
	cmd := exec.Command("grantway", "guard", "--listen", "127.0.0.1:0", "--issuer", d.Issuer, "--audience", "https://api.harbour.example", "--id", d.ResourceServer.ClientID)
	cmd.Env = []string{secretName + "=wrong"}
	out, err := cmd.CombinedOutput()
	if err == nil || string(out) != "grantway: resource: the issuer refuses this API's client id and secret; grantway api secret list shows which there are, and grantway api secret prints a new one\n" {
		t.Errorf("%v, %q", err, out)
	}
}

// A guard as a program: health, counters, bounds, hand-over and end.
func TestGuard_Process(t *testing.T) {
	d := startDemo(t, "--listen", "127.0.0.1:0")
	g := startGuard(t, d, "--errors", "komerza", "--node", d.Issuer)
	if err := until(20*time.Second, func() bool { return g.get("/readyz", nil).status == http.StatusOK }); err != nil { // a busy demo may not have known the present
		t.Fatal(err, g.state)
	}
	for target, want := range map[string]string{"/healthz": "200 ok\n", "/readyz": "200 ready\n"} {
		if a := g.get(target, nil); fmt.Sprint(a.status, " ", a.body) != want {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	a := g.get("/check?scope=stores.view&uri=/stores?"+canary, map[string]string{"Authorization": "Bearer " + canary, "X-Dressipi-Jwt": canary})
	if a.status != http.StatusUnauthorized || a.text("code") != "BadToken" || a.header.Get("Grantway-Refusal") != a.body || a.header.Get("X-Request-Id") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := g.get("/check?scope=stores.view", nil); a.status != http.StatusInternalServerError || a.text("code") != "InternalServerError" || strings.Contains(a.body, "uri") ||
		!strings.Contains(g.logged(), "uri= is missing") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.get("/check?scope=stores.view/x?"+canary+"&"+canary+"&uri=/stores", nil); a.status != http.StatusInternalServerError || !strings.Contains(g.logged(), "parameter 1 has a slash") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.get("/forward-auth?scope=stores.view", nil); a.status != http.StatusInternalServerError || !strings.Contains(g.logged(), "must set X-Forwarded-Uri") {
		t.Errorf("%d %s", a.status, a.body)
	}
	for series, want := range map[string]float64{`grantway_request_seconds_count{route="/check",status="4xx"}`: 1, `grantway_request_seconds_count{route="/check",status="5xx"}`: 2, `grantway_shed_total`: 0,
		`grantway_verifier_refusals_total{reason="not_a_token"}`: 1, `grantway_verifier_lapses_total`: 0} {
		if got := sample(g.get("/metrics", nil).body, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if age := sample(g.get("/metrics", nil).body, "grantway_verifier_lease_age_seconds"); age < 0 {
		t.Errorf("the guard does not follow the feed: the lease is %v s old", age)
	}
	// A body that is announced and does not come keeps nobody waiting.
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, "POST /check?scope=stores.view&uri=/stores HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100000\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusUnauthorized || !resp.Close {
		t.Errorf("%v, %v", resp, err)
	}
	conn.Close()
	if a := g.get("/check?scope=stores.view&uri=/stores", map[string]string{"Cookie": strings.Repeat("x", 2*guardHead)}); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a head of 256 KB: %d", a.status)
	}

	// While one guard follows another nobody is refused.
	stop, asked := make(chan struct{}), 0
	var asking sync.WaitGroup
	asking.Go(func() {
		for ; ; asked++ {
			select {
			case <-stop:
				return
			default:
			}
			// Without a kept connection, so that each depends on the port being open.
			if a, err := send("GET", g.url+"/check?scope=stores.view&uri=/stores", map[string]string{"Connection": "close"}, ""); err != nil || a.status != http.StatusUnauthorized {
				t.Errorf("during the hand-over: %d, %v", a.status, err)
				return
			}
		}
	})
	before := g.url
	client.CloseIdleConnections() // the predecessor would keep them, for as long as it may
	g.cmd.Process.Signal(syscall.SIGUSR2)
	g.ready()
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("the predecessor: %v\n%s", err, g.logged())
	}
	close(stop)
	asking.Wait()
	if g.url != before || asked == 0 {
		t.Errorf("%s became %s while %d asked", before, g.url, asked)
	}
	if log := g.logged(); strings.Contains(log, canary) || strings.Contains(log, d.ResourceServer.ClientSecret) {
		t.Errorf("the log:\n%s", log)
	}
}

// On SIGTERM readiness fails first, the guard leaves with 0, and from then on nobody waits
// for it to hear of a revocation.
func TestGuard_Ends(t *testing.T) {
	database := filepath.Join(t.TempDir(), "demo.db")
	d := startDemo(t, "--listen", "127.0.0.1:0", "--database", database)
	store, err := sqlstore.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	followers := func() int {
		list, err := store.Followers(t.Context(), time.Now().Add(-time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	others := followers() // the demo's own API
	g := startGuard(t, d, "--listen", "0.0.0.0:0", "--log-format", "text")
	if log := g.logged(); !strings.Contains(log, "other machines can reach the guard") {
		t.Errorf("no warning:\n%s", log)
	}
	if n := followers(); n != others+1 {
		t.Errorf("%d follow beside the guard, %d with it", others, n)
	}
	g.url = strings.Replace(g.url, "[::]", "127.0.0.1", 1)
	g.cmd.Process.Signal(syscall.SIGTERM)
	if err := until(20*time.Second, func() bool {
		a, _ := send("GET", g.url+"/readyz", nil, "")
		return a.status == http.StatusServiceUnavailable
	}); err != nil {
		t.Error("/readyz never said that the guard ends:", err)
	}
	if a := g.get("/check?scope=stores.view&uri=/", nil); a.status != http.StatusUnauthorized {
		t.Errorf("while it ends: %d", a.status)
	}
	if err := g.cmd.Wait(); err != nil || strings.Count(g.logged(), "msg=stopped") != 1 {
		t.Errorf("%v\n%s", err, g.logged())
	}
	if n := followers(); n != others {
		t.Errorf("%d follow without the guard, and %d did before", n, others)
	}
}

// An issuer that is not there yet: the guard starts, says so, refuses with 503, and mends by itself.
func TestGuard_IssuerComesLater(t *testing.T) {
	address, err := storagetest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(t.TempDir(), "demo.db")
	d := startDemo(t, "--listen", address, "--database", database)
	d.stop()
	g := startGuard(t, d)
	if !strings.HasPrefix(g.state, "Listening on 127.0.0.1:") || !strings.HasSuffix(g.state, " for https://api.harbour.example, not ready: the issuer does not answer") {
		t.Error(g.state)
	}
	if a := g.get("/readyz", nil); a.status != http.StatusServiceUnavailable || a.body != "issuer\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	// Signed by nobody, and so like a key that no one can judge yet.
	key := "eyJhbGciOiJFUzI1NiIsInR5cCI6ImFwaWtleStqd3QiLCJraWQiOiJrIn0." + claimsOf(t, d.Issuer) + ".AAAA"
	a := g.get("/check?scope=stores.view&uri=/stores", map[string]string{"Authorization": "Bearer " + key})
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.text("error") != "temporarily_unavailable" || a.header.Get("Grantway-Refusal") != a.body {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	startDemo(t, "--listen", address, "--database", database)
	if err := until(10*time.Second, func() bool { return g.get("/readyz", nil).status == http.StatusOK }); err != nil {
		t.Errorf("it did not mend: %v\n%s", err, g.logged())
	}
}

func claimsOf(t *testing.T, issuer string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": issuer, "aud": "https://api.harbour.example", "sub": "u", "client_id": "c", "jti": "j", "grant_id": "g", "iat": 1,
		"scope": "stores.view", "rights": []any{}, "iseq": 1})
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(claims)
}
