package conformance

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/grantway/grantway/internal/demo"
)

// echo is an API behind a proxy: it answers with the request that reached it.
type echo struct {
	Method, Target string
	Header         http.Header
	Body           int
}

// guarded is an API behind a proxy that asks a guard, each of them a program of its own but for the API.
type guarded struct {
	*testing.T
	Demo
	url     string        // of the proxy
	komerza bool          // the form of the guard's refusals
	reached *atomic.Int64 // requests that got to the API
	down    int           // the proxy's answer while there is no guard
	retries bool          // and whether it has Retry-After
}

// TestGuard guards an API by nginx and by Caddy, with the configurations of docs/guard.md, and holds the conversations
// headed `guard: on`, in which Traefik and Envoy ask. Then the issuer freezes, and at last the guard ends.
func TestGuard(t *testing.T) {
	if Live() {
		t.Skip("LEFT OUT: this test freezes the issuer, so it needs a demo of its own")
	}
	binary := build(t)
	d, issuer := startDemoProcess(t, binary)
	narrow, key := d.key(t, "stores.view"), d.key(t, "")
	var reached atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Errorf("%s %s: the body: %v", r.Method, r.RequestURI, err)
		}
		json.NewEncoder(w).Encode(echo{r.Method, r.RequestURI, r.Header, int(n)})
	}))
	defer api.Close()
	var fronts []guarded
	var guards []*guardProcess
	for _, style := range []string{"rfc6750", "komerza"} {
		g := startGuard(t, binary, d, "--errors", style)
		guards = append(guards, g)
		for name, start := range map[string]func(t *testing.T, guard, api string) guarded{"nginx": guardedByNginx, "Caddy": guardedByCaddy} {
			t.Run(name+" "+style, func(sub *testing.T) {
				if name == "nginx" {
					nginxProgram(sub)
				} else {
					needs(sub, "caddy")
				}
				at := start(t, g.address, strings.TrimPrefix(api.URL, "http://"))
				at.T, at.Demo, at.komerza, at.reached = sub, d, style == "komerza", &reached
				at.passes(key, narrow)
				at.preflights(narrow)
				at.refuses(narrow)
				fronts = append(fronts, at)
			})
		}
	}
	one, bearer := "/stores/"+d.Stores[0].ID, "Bearer "+narrow
	for name, read := range map[string]func(*testing.T) []way{"Traefik": waysOfTraefik, "Envoy": waysOfEnvoy} {
		t.Run("the questions of "+name, func(t *testing.T) {
			for _, w := range read(t) {
				w.asks(t, "http://"+guards[0].address, one, bearer)
			}
		})
	}
	scripts, _ := conversations(t)
	d.Guard = "http://" + guards[1].address
	held := 0
	for name, s := range scripts {
		if s.guard {
			held++
			t.Run(name, func(t *testing.T) {
				if err := s.run(t.Context(), d); err != nil {
					t.Errorf("source: %s\nexpect: %s\n%v", s.source, s.expect, err)
				}
			})
		}
	}
	if held == 0 {
		t.Error("no conversation is headed guard: on")
	}
	// What is revoked passes nobody any more, by any way: within the bound of revocation.
	app, _ := d.App("exchange")
	revoke := rawRequest{method: "POST", target: "/oauth/revoke", header: formType, body: url.Values{"token": {narrow}, "client_id": {app.ClientID}, "client_secret": {app.ClientSecret}}.Encode()}
	if a, err := revoke.send(t.Context(), d.Issuer); err != nil || a.status != http.StatusOK {
		t.Fatalf("revoke: %v, %v", a, err)
	}
	revoked := time.Now()
	for _, at := range fronts {
		at.T = t
		if late := at.until(http.StatusUnauthorized, "/stores", "Bearer "+narrow).Sub(revoked); late > 850*time.Millisecond {
			t.Errorf("%s: a revoked key passed %v after its revocation", at.url, late)
		}
	}
	// The conversations have edited the grant, so the keys from before are asked about. A new one each guard
	// judges for itself.
	bearer = "Bearer " + d.key(t, "")
	for _, at := range fronts {
		at.T = t
		at.until(http.StatusOK, one, bearer)
	}
	// A frozen issuer keeps its connections open and answers nothing.
	if err := issuer.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer issuer.Signal(syscall.SIGCONT)
	t.Run("issuer frozen", func(t *testing.T) {
		for _, at := range fronts {
			t.Run(at.Name(), func(t *testing.T) {
				t.Parallel()
				at.T = t
				at.until(http.StatusServiceUnavailable, one, bearer) // the lease is good for 0.7 s more
				at.refused(http.StatusServiceUnavailable, "temporarily_unavailable", "InternalServerError", "GET", one, "Authorization", bearer)
			})
		}
	})
	for stale, status := range map[string]int{"open:1m": http.StatusOK, "closed": http.StatusServiceUnavailable, "open:1ms": http.StatusServiceUnavailable} {
		r := rawRequest{method: "GET", target: "/check?scope=stores.view&stale=" + stale + "&uri=/stores", header: [][2]string{{"Authorization", bearer}}}
		if a, err := r.send(t.Context(), "http://"+guards[0].address); err != nil || a.status != status {
			t.Errorf("stale=%s while the issuer is frozen: %v, %v, want %d", stale, a, err, status)
		}
	}
	issuer.Signal(syscall.SIGCONT)
	for _, at := range fronts {
		at.T = t
		at.until(http.StatusOK, one, bearer)
	}
	for _, g := range guards {
		g.Process.Signal(syscall.SIGTERM)
	}
	for _, g := range guards {
		g.ended(t)
	}
	for _, at := range fronts {
		at.T = t
		a := at.ask("GET", one, "", "Authorization", bearer)
		if a.status != at.down || (a.header.Get("Retry-After") != "") != at.retries {
			t.Errorf("%s without a guard: %s", at.url, a)
		}
	}
}

// way is one route through Traefik or Envoy as docs/guard.md configures them, which no test runs: for which methods it is,
// and what happens to a request on it, in order.
type way struct {
	name   string
	takes  func(method string) bool
	stages []stage
}

// stage takes headers away, or asks the guard and sets those that its answer has.
type stage struct {
	removes, sets []string
	question      string
}

// TestGuard_OtherProxies reads the configurations of docs/guard.md that are not run. Whatever a client says of himself gets to
// the API by no route, one for preflights or without the guard included; what the guard says does, and the key does not.
// Reading and writing need different scopes, and any other method has no route.
func TestGuard_OtherProxies(t *testing.T) {
	for name, c := range map[string]struct {
		read    func(*testing.T) []way
		options []string // the scopes for OPTIONS, "" of a route that asks nothing
	}{
		"Traefik": {waysOfTraefik, []string{""}},
		"Envoy":   {waysOfEnvoy, []string{"stores.update"}}, // but preflights, which Envoy answers itself
	} {
		t.Run(name, func(t *testing.T) {
			scopes, unguarded := map[string][]string{}, false
			for _, w := range c.read(t) {
				header, scope := http.Header{}, ""
				for _, name := range append([]string{"Authorization"}, unsaid...) {
					header.Set(name, "the client")
				}
				for _, s := range w.stages {
					for _, name := range s.removes {
						header.Del(name)
					}
					if s.question == "" {
						continue
					}
					if header.Get("Authorization") == "" || header.Get("X-Dressipi-Jwt") == "" {
						t.Errorf("%s: the key is gone before the guard is asked", w.name)
					}
					u, err := url.Parse(s.question)
					if err != nil || scope != "" {
						t.Fatalf("%s: a second question, or none: %q, %v", w.name, s.question, err)
					}
					scope = u.Query().Get("scope")
					for _, name := range s.sets {
						header.Set(name, "the guard")
					}
				}
				unguarded = unguarded || scope == ""
				for name, values := range header {
					if values[0] != "the guard" {
						t.Errorf("%s: the API gets a client's %s", w.name, name)
					}
				}
				for _, name := range told {
					if scope != "" && header.Get(name) != "the guard" {
						t.Errorf("%s: the API does not get the guard's %s", w.name, name)
					}
				}
				for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "get"} {
					if w.takes(method) {
						scopes[method] = append(scopes[method], scope)
					}
				}
			}
			read, write := []string{"stores.view"}, []string{"stores.update"}
			want := map[string][]string{"GET": read, "HEAD": read, "POST": write, "PUT": write, "PATCH": write, "DELETE": write, "OPTIONS": c.options}
			if !maps.EqualFunc(scopes, want, slices.Equal) {
				t.Errorf("the scopes that methods need are %q, want %q", scopes, want)
			}
			if !unguarded {
				t.Error("no route without the guard was looked at")
			}
		})
	}
}

// asks puts the way's question about target to a guard, as a proxy does, with a key that may read. A proxy that writes the
// target behind its question chooses nothing by it, also where uri= was forgotten.
func (w way) asks(t *testing.T, guard, target, bearer string) {
	t.Helper()
	for _, s := range w.stages {
		if s.question == "" {
			continue
		}
		status := http.StatusForbidden
		if strings.Contains(s.question, "scope=stores.view&") {
			status = http.StatusOK
		}
		question, header := strings.TrimPrefix(s.question, "http://127.0.0.1:9091"), [][2]string{{"Authorization", bearer}}
		asks := map[string]int{question: status}
		if strings.HasPrefix(question, "/check?") {
			forgotten := strings.TrimSuffix(question, "&uri=")
			asks = map[string]int{question + target: status, forgotten + target: 500, forgotten + "/*&uri=" + target: 500, forgotten + "&uri" + target: 500}
		} else {
			header = append(header, [2]string{"X-Forwarded-Uri", target})
		}
		for q, status := range asks {
			r := rawRequest{method: "GET", target: q, header: header}
			if a, err := r.send(t.Context(), guard); err != nil || a.status != status {
				t.Errorf("%s: %s: %v, %v, want %d", w.name, q, a, err, status)
			}
		}
	}
}

// configuration reads the block of YAML in a section of docs/guard.md.
func configuration(t *testing.T, section string, into any) {
	t.Helper()
	text, err := os.ReadFile("../../docs/guard.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n## "+section+"\n")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	conf, _, found := strings.Cut(rest, "```\n")
	if err := yaml.Unmarshal([]byte(conf), into); !found || err != nil {
		t.Fatalf("the configuration of %s: %v", section, err)
	}
}

// waysOfTraefik are its routers. Each runs its middlewares in the order of the list (pkg/server/middleware, BuildChain);
// headers removes what has an empty value, forwardAuth sets authResponseHeaders (pkg/middlewares).
func waysOfTraefik(t *testing.T) (all []way) {
	t.Helper()
	var conf struct {
		HTTP struct {
			Routers map[string]struct {
				Rule        string
				Middlewares []string
			}
			Middlewares map[string]struct {
				Headers struct {
					CustomRequestHeaders map[string]string `yaml:"customRequestHeaders"`
				}
				ForwardAuth struct {
					Address             string
					AuthResponseHeaders []string `yaml:"authResponseHeaders"`
				} `yaml:"forwardAuth"`
			}
		}
	}
	configuration(t, "Traefik", &conf)
	for name, r := range conf.HTTP.Routers {
		methods := regexp.MustCompile("Method\\(`([A-Z]+)`\\)").FindAllStringSubmatch(r.Rule, -1)
		w := way{name: name, takes: func(method string) bool {
			return methods == nil || slices.ContainsFunc(methods, func(m []string) bool { return m[1] == method })
		}}
		for _, name := range r.Middlewares {
			m, ok := conf.HTTP.Middlewares[name]
			if !ok {
				t.Fatalf("there is no middleware %s", name)
			}
			s := stage{question: m.ForwardAuth.Address, sets: m.ForwardAuth.AuthResponseHeaders}
			for name, value := range m.Headers.CustomRequestHeaders {
				if value == "" {
					s.removes = append(s.removes, name)
				}
			}
			w.stages = append(w.stages, s)
		}
		all = append(all, w)
	}
	return all
}

// waysOfEnvoy are its routes, and one that has no filter of ours: headers are first removed early, then each filter that the
// route does not switch off asks, and the router removes those that the routes' configuration says.
func waysOfEnvoy(t *testing.T) (all []way) {
	t.Helper()
	var conf struct {
		Early []struct {
			Config struct{ Mutations []struct{ Remove string } } `yaml:"typed_config"`
		} `yaml:"early_header_mutation_extensions"`
		RouteConfig struct {
			Remove []string `yaml:"request_headers_to_remove"`
			Hosts  []struct {
				Routes []struct {
					Match struct {
						Headers []struct {
							Name  string
							Match struct {
								Regex struct{ Regex string } `yaml:"safe_regex"`
							} `yaml:"string_match"`
						}
					}
					Filters map[string]struct{ Disabled bool } `yaml:"typed_per_filter_config"`
				}
			} `yaml:"virtual_hosts"`
		} `yaml:"route_config"`
		Filters []struct {
			Name   string
			Config struct {
				Service struct {
					Prefix string `yaml:"path_prefix"`
					Answer struct {
						Upstream struct{ Patterns []struct{ Exact string } } `yaml:"allowed_upstream_headers"`
					} `yaml:"authorization_response"`
				} `yaml:"http_service"`
			} `yaml:"typed_config"`
		} `yaml:"http_filters"`
	}
	configuration(t, "Envoy", &conf)
	var early stage
	for _, e := range conf.Early {
		for _, m := range e.Config.Mutations {
			early.removes = append(early.removes, m.Remove)
		}
	}
	last := stage{removes: conf.RouteConfig.Remove}
	all = []way{{"a route without filters", func(string) bool { return false }, []stage{early, last}}}
	for _, host := range conf.RouteConfig.Hosts {
		for _, r := range host.Routes {
			regex := ".*"
			for _, h := range r.Match.Headers {
				if h.Name == ":method" {
					regex = h.Match.Regex.Regex
				}
			}
			w := way{regex, regexp.MustCompile("^(?:" + regex + ")$").MatchString, []stage{early}}
			for _, f := range conf.Filters {
				s := stage{question: f.Config.Service.Prefix}
				for _, p := range f.Config.Service.Answer.Upstream.Patterns {
					s.sets = append(s.sets, p.Exact)
				}
				if !r.Filters[f.Name].Disabled {
					w.stages = append(w.stages, s)
				}
			}
			w.stages = append(w.stages, last)
			all = append(all, w)
		}
	}
	return all
}

var formType = [][2]string{{"Content-Type", "application/x-www-form-urlencoded"}}

// key is what the exchange app gets for the first two stores, with one scope or with all that it asks for by itself.
func (d Demo) key(t *testing.T, scope string) string {
	t.Helper()
	app, _ := d.App("exchange")
	link := d.Issuer + "/auth/authorize?" + url.Values{"client_id": {app.ClientID}, "redirect_uri": {callback}, "scope": {scope}}.Encode()
	back, err := d.Allow(t.Context(), strings.TrimSuffix(link, "&scope="), d.Stores[0].ID, d.Stores[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	r := rawRequest{method: "GET", target: "/oauth2/" + app.ClientID + "/exchange/" + back.Query().Get("code"), header: [][2]string{{"X-Client-Secret", app.ClientSecret}}}
	a, err := r.send(t.Context(), d.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	var key struct{ Data string }
	if err := json.Unmarshal(a.body, &key); err != nil || key.Data == "" {
		t.Fatalf("no key: %s", a)
	}
	return key.Data
}

// told is what the guard says of a caller.
var told = []string{"Grantway-User", "Grantway-App", "Grantway-Grant", "Grantway-Scopes", "Grantway-Stores"}

// unsaid is what no client says to an API behind a guard: who calls, and that the request is another.
var unsaid = append(slices.Clone(told), "X-Dressipi-Jwt",
	"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL")

// folded undoes what CGI, WSGI and Rack make of a name, and PHP of a dot.
var folded = strings.NewReplacer("_", "-", ".", "-")

func isUnsaid(name string) bool {
	return slices.ContainsFunc(unsaid, func(u string) bool { return strings.EqualFold(u, folded.Replace(name)) })
}

// writings are the ways to write a header's name that become one name to those.
func writings(name string) []string {
	before, after, more := strings.Cut(name, "-")
	if !more {
		return []string{name}
	}
	var all []string
	for _, rest := range writings(after) {
		all = append(all, before+"-"+rest, before+"_"+rest, before+"."+rest)
	}
	return all
}

// passes shows what reaches the API, and what does not.
func (at guarded) passes(key, narrow string) {
	at.Helper()
	app, _ := at.App("exchange")
	_, claims, err := splitJWT(narrow)
	if err != nil {
		at.Fatal(err)
	}
	claim := func(name string) string { return fmt.Sprint(claims.(map[string]any)[name]) }
	one, two := at.Stores[0].ID, at.Stores[1].ID
	for _, c := range []struct {
		method, target, carrier, scopes, stores string
		body                                    int
	}{
		{"GET", "/stores/" + one + "?page=2&scope=user.view", "Authorization", "stores.view", one, 0},
		{"GET", "/stores/" + two + "/orders/a%20b/?q=//../%2f", "Authorization", "stores.view", two, 0},
		{"HEAD", "/stores/" + one, "Authorization", "stores.view", one, 0},
		{"GET", "/stores", "X-Dressipi-Jwt", "stores.view", one + " " + two, 0},
		{"POST", "/stores", "x-dressipi-jwt", "stores.view", one + " " + two, 200_000},
	} {
		value := narrow
		if c.carrier == "Authorization" {
			value = "Bearer " + narrow
		}
		// What a client may not say, in every writing that an API could take for ours.
		header := []string{c.carrier, value, "Grantway-Scopes", "stores.create", "Connection", "Grantway-Stores, close", "X-Forwarded-Uri", "/stores/" + two, "X-Original-Uri", "/stores/" + two}
		for _, name := range []string{"grantway-user", "GRANTWAY-STORES", "grantway_stores", "GRANTWAY_GRANT"} {
			header = append(header, name, "forged")
		}
		for _, name := range unsaid {
			for _, written := range writings(name) {
				if strings.ToLower(written) != "x-dressipi-jwt" { // where a key is read
					header = append(header, written, "forged")
				}
			}
		}
		before := at.reached.Load()
		a := at.ask(c.method, c.target, strings.Repeat("x", c.body), header...)
		if a.status != http.StatusOK || at.reached.Load() != before+1 {
			at.Errorf("%s %s: %s", c.method, c.target, a)
			continue
		}
		if c.method == "HEAD" {
			continue
		}
		var got echo
		if err := json.Unmarshal(a.body, &got); err != nil {
			at.Fatal(err)
		}
		if got.Method != c.method || got.Target != c.target || got.Body != c.body {
			at.Errorf("%s %s with %d bytes became %s %s with %d", c.method, c.target, c.body, got.Method, got.Target, got.Body)
		}
		ours := map[string]string{"Grantway-User": claim("sub"), "Grantway-App": app.ClientID, "Grantway-Grant": claim("grant_id"), "Grantway-Scopes": c.scopes, "Grantway-Stores": c.stores}
		names := map[string]bool{}
		for name := range ours {
			names[strings.ToLower(name)] = true
		}
		for name, values := range got.Header {
			plain := strings.ToLower(folded.Replace(name))
			if want := ours[name]; names[plain] && (len(values) != 1 || sorted(values[0]) != sorted(want) || want == "") {
				at.Errorf("%s %s: the API got %s: %q, want %q", c.method, c.target, name, values, want)
			}
			if plain == "authorization" {
				at.Errorf("%s %s: the API got the key", c.method, c.target)
			}
			if !names[plain] && isUnsaid(name) {
				at.Errorf("%s %s: the API got %s, by which it may take the request for another", c.method, c.target, name)
			}
		}
		for name := range ours {
			if got.Header[name] == nil {
				at.Errorf("%s %s: the API got no %s", c.method, c.target, name)
			}
		}
	}
	// A body of which nobody says how long it is.
	a := at.ask("POST", "/stores", "5\r\nhello\r\n0\r\n\r\n", "Authorization", "Bearer "+narrow, "Transfer-Encoding", "chunked", "Content-Length", "!absent")
	if got := (echo{}); json.Unmarshal(a.body, &got) != nil || got.Body != len("hello") {
		at.Errorf("a chunked body: %s", a)
	}
	// Another scope for another method, and the account's.
	for _, target := range []string{"/stores/" + one, "/user"} {
		method := "GET"
		if target != "/user" {
			method = "DELETE"
		}
		if a := at.ask(method, target, "", "Authorization", "Bearer "+key); a.status != http.StatusOK {
			at.Errorf("%s %s: %s", method, target, a)
		}
	}
}

// preflights shows that a browser's question before a request gets to the API, as OPTIONS without a caller, and that
// nothing else does by looking like one.
func (at guarded) preflights(narrow string) {
	at.Helper()
	one := "/stores/" + at.Stores[0].ID
	asks := []string{"Origin", "https://app.example", "Access-Control-Request-Method", "PATCH"}
	for _, target := range []string{one + "?page=2", "/stores", "/user"} {
		header := append([]string{"Access-Control-Request-Headers", "authorization", "Authorization", "Bearer " + narrow}, asks...)
		for _, name := range unsaid {
			for _, written := range writings(name) {
				header = append(header, written, "forged")
			}
		}
		a := at.ask("OPTIONS", target, "", header...)
		var got echo
		if a.status != http.StatusOK || json.Unmarshal(a.body, &got) != nil {
			at.Errorf("a preflight of %s: %s", target, a)
			continue
		}
		if got.Method != "OPTIONS" || got.Target != target || got.Header.Get("Origin") != asks[1] || got.Header.Get("Access-Control-Request-Method") != asks[3] ||
			got.Header.Get("Access-Control-Request-Headers") != "authorization" {
			at.Errorf("a preflight of %s became %+v", target, got)
		}
		for name := range got.Header {
			if name == "Authorization" || isUnsaid(name) {
				at.Errorf("with a preflight of %s the API got %s", target, name)
			}
		}
	}
	before := at.reached.Load()
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "PATCH", "options", "OPTIONSX"} {
		if a := at.ask(method, one, "", append([]string{"X-Http-Method-Override", "OPTIONS", "X-Forwarded-Method", "OPTIONS"}, asks...)...); a.status < 400 {
			at.Errorf("%s as a preflight: %s", method, a)
		}
	}
	at.refused(401, "", "BadToken", "OPTIONS", one, asks[:2]...)
	at.refused(401, "", "BadToken", "OPTIONS", one, asks[2:]...)
	if n := at.reached.Load() - before; n != 0 {
		at.Errorf("%d requests that are no preflight reached the API", n)
	}
}

func sorted(list string) string {
	words := strings.Fields(list)
	slices.Sort(words)
	return strings.Join(words, " ")
}

// refuses shows who is refused, and that the API hears nothing of it.
func (at guarded) refuses(narrow string) {
	at.Helper()
	one, other := at.Stores[0].ID, at.Stores[2].ID
	good := "Bearer " + narrow
	changed, err := mutate(narrow)
	if err != nil {
		at.Fatal(err)
	}
	before := at.reached.Load()
	at.refused(401, "", "BadToken", "GET", "/stores/"+one)
	at.refused(401, "", "BadToken", "OPTIONS", "/stores/"+one)
	at.refused(401, "", "BadToken", "GET", "/stores?access_token="+narrow)
	at.refused(401, "invalid_token", "BadToken", "GET", "/stores/"+one, "Authorization", "Bearer "+changed)
	at.refused(401, "invalid_token", "BadToken", "POST", "/stores/"+one, "X-Dressipi-Jwt", changed)
	at.refused(403, "insufficient_scope", "AccessDenied", "GET", "/stores/"+other, "Authorization", good)
	at.refused(403, "insufficient_scope", "AccessDenied", "GET", "/stores/", "Authorization", good)
	at.refused(403, "insufficient_scope", "AccessDenied", "GET", "/user", "Authorization", good)
	at.refused(403, "insufficient_scope", "AccessDenied", "POST", "/stores/"+one, "Authorization", good)
	at.refused(403, "insufficient_scope", "AccessDenied", "GET", "/stores/"+other, "Authorization", good, "X-Forwarded-Uri", "/stores/"+one,
		"X-Original-Uri", "/stores/"+one, "X-Forwarded-Method", "GET", "X-Forwarded-Host", "h", "X-Rewrite-Url", "/stores/"+one)
	at.refused(400, "invalid_request", "ValidationError", "GET", "/stores/"+one, "Authorization", good, "X-Dressipi-Jwt", changed)
	for _, rest := range []string{"/../" + other, "/%2e%2e/" + other, "/%2E./" + other, "/./x", "/a//b", "%2f..%2f" + other, "%2F" + other, "%5c..%5c" + other,
		"%252f", ";x", "%3b/..%3b/" + other, "/a%23b", "/a%3fb", "/%c0%ae", "/%ff", "/a%0a", "/a%7f"} {
		at.refused(400, "invalid_request", "ValidationError", "GET", "/stores/"+one+rest, "Authorization", good)
	}
	// What one proxy refuses itself, another takes for something else: nobody gets to the API.
	for _, target := range []string{"//stores/" + one, "/stores/" + one + `\..\` + other, "/stores/" + one + "%00", "/stores/" + one + "/%zz",
		"http://api.example.com/stores/" + other, "/x/../stores/" + other, "/stores/" + one + "/../../../stores/" + one, "/%73tores//" + one, "/STORES/" + other, "/_grantway", "/_grantway?scope=x", "/check"} {
		if a := at.ask("GET", target, "", "Authorization", good); a.status < 400 && len(a.body) > 0 {
			at.Errorf("%q: %s", target, a)
		}
	}
	if n := at.reached.Load() - before; n != 0 {
		at.Errorf("%d requests that were refused reached the API", n)
	}
}

// refused asks for target and demands a refusal, in the guard's form.
func (at guarded) refused(status int, rfc, komerza, method, target string, header ...string) {
	at.Helper()
	a := at.ask(method, target, "", header...)
	challenges := a.header.Values("WWW-Authenticate")
	var got struct {
		Error, Code string
		Description string `json:"error_description"`
		Message     string
		Success     *bool
	}
	err := json.Unmarshal(a.body, &got)
	ok := err == nil && got.Error == rfc && got.Description != "" && got.Success == nil
	if at.komerza {
		ok = err == nil && got.Code == komerza && got.Message != "" && got.Success != nil && !*got.Success
	}
	switch {
	case a.status != status, !ok, a.header.Get("Content-Type") != "application/json", a.header.Get("Cache-Control") != "no-store",
		len(a.header.Values("Content-Type")) != 1, (a.header.Get("Retry-After") == "1") != (status == 503), status >= 401 && status < 404 && len(challenges) != 1,
		len(challenges) > 0 && (!strings.HasPrefix(challenges[0], "Bearer realm=") || strings.Contains(challenges[0], "error=") != (rfc != "") || !strings.Contains(challenges[0], rfc)):
		at.Errorf("%s %s %s, want %d %s:\n%s", at.url, method, target, status, cmp.Or(rfc, komerza), a)
	}
}

// until asks until the answer has a status, for twenty seconds at most, and returns when it put the last question that was
// answered otherwise.
func (at guarded) until(status int, target, bearer string) (last time.Time) {
	at.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(20 * time.Second); ; <-tick.C {
		asked := time.Now()
		a := at.ask("GET", target, "", "Authorization", bearer)
		if a.status == status {
			return last
		}
		last = asked
		if time.Now().After(limit) {
			at.Fatalf("%s %s is not %d within 20 s: %s", at.url, target, status, a)
		}
	}
}

func (at guarded) ask(method, target, body string, header ...string) *answer {
	at.Helper()
	r := rawRequest{method: method, target: target, body: body, header: [][2]string{{"Content-Type", "text/plain"}}}
	for i := 0; i < len(header); i += 2 {
		r.header = append(r.header, [2]string{header[i], header[i+1]})
	}
	a, err := r.send(at.Context(), at.url)
	if err != nil {
		at.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

// guardProcess is a grantway guard.
type guardProcess struct {
	*exec.Cmd
	address string
	log     bytes.Buffer
}

// startGuard runs the command of docs/guard.md against the demo, and waits until it is ready.
func startGuard(t *testing.T, binary string, d Demo, flags ...string) *guardProcess {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(d.ResourceServer.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := strings.Fields(block(t, "docs/guard.md", "sh", `https://id\.example\.com`, d.Issuer, `https://api\.example\.com`, demo.Audience,
		`\bapi_1\b`, d.ResourceServer.ClientID, `/etc/grantway/api-secret`, secret))
	if command[0] != "grantway" {
		t.Fatalf("the guard is started by %q", command)
	}
	g := &guardProcess{Cmd: exec.Command(binary, append(append(command[1:], "--listen", "127.0.0.1:0"), flags...)...)}
	g.Stderr = &g.log
	out, err := g.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.ProcessState == nil {
			g.Process.Kill()
			g.Wait()
		}
	})
	ready, err := bufio.NewReader(out).ReadString('\n')
	_, rest, _ := strings.Cut(ready, "istening on ") // it says whether it is ready, too
	g.address, _, _ = strings.Cut(rest, " ")
	if g.address == "" {
		g.Process.Kill()
		g.Wait()
		t.Fatalf("the guard did not become ready: %q, %v\n%s", ready, err, &g.log)
	}
	return g
}

// ended waits for the guard, which was sent SIGTERM: it must exit with 0 and have logged no key.
func (g *guardProcess) ended(t *testing.T) {
	t.Helper()
	if err := g.Wait(); err != nil {
		t.Errorf("after SIGTERM the guard: %v", err)
	}
	if log := g.log.String(); strings.Contains(log, "eyJ") || !strings.Contains(log, `"route":"/check","status":401`) || !strings.Contains(log, `"request_id":"`) {
		t.Errorf("the guard's log:\n%s", log)
	}
}

// writes is what the demo's exchange app may do in place of writing: of its two keys only one has it.
const writes = "stores.orders.view"

func guardedByNginx(t *testing.T, guard, api string) guarded {
	t.Helper()
	l := listenLoopback(t)
	n := runNginx(t, l, block(t, "docs/guard.md", "nginx", `127\.0\.0\.1:9091`, guard, `127\.0\.0\.1:3000`, api,
		`listen 443 ssl;`, "listen "+l.Addr().String()+";", ` +ssl_.*\n`, "", `stores\.update`, writes))
	return guarded{url: n.url, down: http.StatusServiceUnavailable, retries: true}
}

func guardedByCaddy(t *testing.T, guard, api string) guarded {
	t.Helper()
	dir := t.TempDir()
	l := listenLoopback(t)
	at := guarded{url: "http://" + l.Addr().String(), down: http.StatusBadGateway}
	l.Close() // Caddy opens its port itself
	conf := "{\n\tadmin off\n\tauto_https off\n}\n" + block(t, "docs/guard.md", "caddyfile", `127\.0\.0\.1:9091`, guard, `127\.0\.0\.1:3000`, api, `\bapi\.example\.com`, at.url, `stores\.update`, writes)
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("caddy", "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}
	startProxy(t, cmd, conf, func() error {
		conn, err := net.Dial("tcp", strings.TrimPrefix(at.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err
	})
	return at
}
