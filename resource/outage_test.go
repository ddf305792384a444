package resource

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

// Whatever the issuer does but answer: 503 with Retry-After, never 401, and the key works again afterwards.
func TestRequire_outageIs503Never401(t *testing.T) {
	i := newIssuer(t)
	verifiers := map[string]*Verifier{
		"RFC6750": i.verifier(t), "Komerza": i.verifier(t, func(c *Config) { c.Errors = Komerza }),
	}
	token := i.lasting(t, nil)
	redirected := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		redirected = true
		fmt.Fprint(w, `{"active":false}`)
	}))
	defer elsewhere.Close()
	for name, fail := range map[string]http.HandlerFunc{
		"500": status(500), "503": status(503), "502": status(502), "429": status(429), "401": status(401), "403": status(403),
		"404": status(404), "204": status(204), "400": status(400),
		"HTML": says("<html>sign in to the network</html>"), "empty": says(""), "array": says("[]"), "null": says("null"),
		"no active": says(`{}`), "active text": says(`{"active":"false"}`), "active null": says(`{"active":null}`),
		"twice": says(`{"active":false,"active":true}`), "cut": says(`{"active":fal`), "and more": says(`{"active":false}{}`),
		"rights text":   says(`{"active":true,"rights":"all"}`),
		"endless":       says(`{"active":false,"x":"` + strings.Repeat("x", maxBody) + `"}`),
		"endless space": says(`{"active":false}` + strings.Repeat(" ", maxBody)),
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
		"other case": says(`{"Active":true}`),
		"hangs up":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"hangs up late": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			fmt.Fprint(w, "{")
		},
	} {
		i.set(func() { i.fail = fail })
		for style, v := range verifiers {
			r := call(api(v), "GET", "/any", "Authorization", "Bearer "+token)
			if r.StatusCode != 503 || r.Header.Get("Retry-After") != "1" || r.Header.Get("WWW-Authenticate") != "" || r.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: %d %v", name, style, r.StatusCode, r.Header)
			}
			_, err := v.Check(context.Background(), token, Access{})
			wantError(t, err, Unavailable, "no_answer")
		}
		i.set(func() { i.fail = nil })
		for style, v := range verifiers {
			if r := call(api(v), "GET", "/any", "Authorization", "Bearer "+token); r.StatusCode != 200 {
				t.Errorf("after %s, %s: %d", name, style, r.StatusCode)
			}
		}
	}
	if redirected {
		t.Error("a redirect was followed, with the token")
	}
	i.Close()
	for style, v := range verifiers {
		if r := call(api(v), "GET", "/any", "Authorization", "Bearer "+token); r.StatusCode != 503 {
			t.Errorf("issuer gone, %s: %d", style, r.StatusCode)
		}
		// What is bad without asking stays bad.
		if r := call(api(v), "GET", "/any", "Authorization", "Bearer "+token+"x"); r.StatusCode != 401 {
			t.Errorf("issuer gone, bad token, %s: %d", style, r.StatusCode)
		}
		if err := v.Ready(); err != nil {
			t.Errorf("issuer gone, %s: not ready: %v", style, err)
		}
	}
}

// An answer about another token admits nobody, and makes no key bad either.
func TestCheck_RFC7662_answerMustBeAboutThisToken(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, nil)
	for _, name := range []string{"iss", "aud", "sub", "client_id", "grant_id", "jti"} {
		for _, value := range []any{"another", "", nil} {
			if name == "jti" && value != "another" {
				continue // optional in an answer
			}
			i.stand(token, i.claims(), object{name: value})
			_, err := v.Check(context.Background(), token, Access{})
			t.Run(fmt.Sprint(name, "=", value), func(t *testing.T) { wantError(t, err, Unavailable, "bad_answer") })
		}
	}
}

// The caller's patience ends a wait, and ours, which TestIntrospect_timeout measures.
func TestCheck_waitsNoLongerThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, w := i.wired(t)
		defer v.Close()
		token := i.lasting(t, nil)
		w.set(func() { w.silent["auth.example"] = true })
		ctx, cancel := context.WithCancel(t.Context())
		const patience = introspectTimeout / 3
		time.AfterFunc(patience, cancel)
		var err error
		if took := elapsed(func() { _, err = v.Check(ctx, token, Access{}) }); took != patience {
			t.Errorf("waited %v", took)
		}
		wantError(t, err, Unavailable, "no_answer")
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the cause is lost: %v", err)
		}
	})
}

// Requests with one token share questions, but none takes an answer to a question that was out before it came: that
// answer may be older than a revocation.
func TestCheck_coalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, _ := i.wired(t)
		defer v.Close()
		token := i.lasting(t, nil)
		arrived, release := i.holdAnswer(t, token)
		var wg sync.WaitGroup
		check := func(want bool) {
			wg.Go(func() {
				if _, err := v.Check(t.Context(), token, Access{}); want != (err == nil) {
					t.Errorf("got %v, want admitted: %v", err, want)
				}
			})
		}
		check(true)
		<-arrived
		i.set(func() { i.table[token] = object{"active": false} }) // revoked while the first question is out
		for range 20 {
			check(false)
		}
		synctest.Wait() // they all wait for the second question before the first is answered
		close(release)
		wg.Wait()
		if n := i.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
		if v.asking.mu.Lock(); len(v.asking.out) != 0 {
			t.Errorf("%d questions are left over", len(v.asking.out))
		}
		v.asking.mu.Unlock()
	})
}

// Many requests that come while one question is out cost one more, not one each.
func TestAsker_sharesTheNextQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a asker
		asked, release := 0, make(chan struct{})
		a.init(func(string) (*answer, error) {
			asked++
			<-release
			return &answer{active: true}, nil
		})
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				if _, err := a.ask(t.Context(), digest{1}, "t"); err != nil {
					t.Error(err)
				}
			})
		}
		ask()
		synctest.Wait() // the first question is out
		for range 50 {
			ask()
		}
		synctest.Wait() // and all fifty wait for the one after it
		if asked != 1 {
			t.Errorf("%d questions are out at once", asked)
		}
		release <- struct{}{}
		release <- struct{}{}
		wg.Wait()
		if asked != 2 {
			t.Errorf("51 requests cost %d questions", asked)
		}
	})
}

// D9: made-up key ids make us read a set twice a second at most and keep nobody out: a token of a new signing key waits for
// the next reading, and no other token waits at all.
func TestCheck_D9_unknownKeys(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, known string) {
		ctx := context.Background()
		i.lastingRead.Store(0)
		i.keysRead.Store(0)
		fresh := newKey(t)
		signed := func(kid string) string {
			token := sign(t, fresh, jose.ES256, kid, "apikey+jwt", i.claims())
			i.stand(token, i.claims(), nil)
			return token
		}
		publish := func(kid string) {
			i.set(func() {
				i.lastJWKs = append(i.lastJWKs, jose.JSONWebKey{Key: &fresh.PublicKey, KeyID: kid, Algorithm: "ES256"})
			})
		}
		publish("lasting-2")
		took := elapsed(func() { check(t, v, signed("lasting-2"), 0, "") })
		if n := i.lastingRead.Load(); n != 1 || took != 0 {
			t.Errorf("a new key took %v and %d readings", took, n)
		}

		var flood sync.WaitGroup
		const each, rounds = 10, 100 // every 50 ms
		for n := range rounds {
			for m := range each {
				token := signed(fmt.Sprintf("made-up-%d-%d", n, m))
				flood.Go(func() {
					took := elapsed(func() { check(t, v, token, BadToken, "unknown_key") })
					if took > 2*searchEvery {
						t.Errorf("a made-up key id is refused after %v", took)
					}
				})
			}
			if n == rounds/2 {
				publish("lasting-3")
				token := signed("lasting-3")
				flood.Go(func() {
					if took := elapsed(func() { check(t, v, token, 0, "") }); took > searchEvery {
						t.Errorf("a new key amid made-up ones took %v", took)
					}
				})
			}
			if took := elapsed(func() { check(t, v, known, 0, "") }); took != 0 {
				t.Errorf("a key that is known took %v", took)
			}
			passes(50 * time.Millisecond)
		}
		flood.Wait()
		if n := i.lastingRead.Load(); n > 1+rounds/10+2 {
			t.Errorf("%d readings in five seconds", n)
		}
		if n := i.keysRead.Load(); n != 0 {
			t.Errorf("read the other set %d times", n)
		}

		// One that is known not to be there is refused at once, and still looked for.
		if took := elapsed(func() { check(t, v, signed("made-up-0-0"), BadToken, "unknown_key") }); took != 0 {
			t.Errorf("refused again after %v", took)
		}
		publish("made-up-0-0")
		settled(searchEvery)
		check(t, v, signed("made-up-0-0"), 0, "")

		// Tokens for somebody else cost nothing.
		passes(time.Second)
		read := i.lastingRead.Load()
		for _, edit := range []object{{"iss": "https://evil.example"}, {"aud": "https://other.example"}} {
			_, err := v.Check(ctx, sign(t, fresh, jose.ES256, "x", "apikey+jwt", edited(i.claims(), edit)), Access{})
			wantError(t, err, BadToken, "")
		}
		if n := i.lastingRead.Load(); n != read {
			t.Errorf("read the set %d times", n-read)
		}
		// A set that cannot be read makes no token bad, nor does it lose the keys that are known.
		i.set(func() { i.failKeys = status(500) })
		check(t, v, signed("x"), Unavailable, "no_keys")
		check(t, v, known, 0, "")
		i.set(func() { i.failKeys = nil })
		check(t, v, signed("x"), BadToken, "unknown_key")
	})
}

// Reading the set again has no token verified again whose key is as it was: made-up key ids would have all of them verified
// twice a second. A key that is another under the same id verifies nothing of the former's.
func TestCheck_D9_knownTokensStayKnown(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, known string) {
		remembered := func() (*token, *key) {
			return v.verified.get(sha256.Sum256([]byte(known))), v.lasting.find("lasting-1")
		}
		wasToken, wasKey := remembered()
		if wasToken == nil || wasKey == nil {
			t.Fatal("the token is not remembered")
		}
		read := i.lastingRead.Load()
		check(t, v, sign(t, newKey(t), jose.ES256, "made-up", "apikey+jwt", i.claims()), BadToken, "unknown_key")
		check(t, v, known, 0, "")
		if n := i.lastingRead.Load() - read; n != 2 {
			t.Errorf("%d readings", n)
		}
		if token, key := remembered(); token != wasToken || key != wasKey {
			t.Error("a reading that brings nothing new has a known token verified again")
		}
		another := newKey(t)
		i.set(func() { i.lastJWKs[0].Key = &another.PublicKey })
		if err := v.lasting.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(t, v, known, BadToken, "bad_signature")
	})
}

// So many may wait for a key set, and more are refused as Unavailable: at once, and until the next reading.
func TestCheck_D9_waitingIsBounded(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		fresh := newKey(t)
		made := func(kid string) string { return sign(t, fresh, jose.ES256, kid, "apikey+jwt", i.claims()) }
		check(t, v, made("up"), BadToken, "unknown_key")
		var flood sync.WaitGroup
		for n := range maxAsking {
			token := made(fmt.Sprint("up-", n))
			flood.Go(func() { check(t, v, token, BadToken, "unknown_key") })
		}
		synctest.Wait()
		i.set(func() { i.lastJWKs = append(i.lastJWKs, jose.JSONWebKey{Key: &fresh.PublicKey, KeyID: "lasting-2"}) })
		token := made("lasting-2")
		i.stand(token, i.claims(), nil)
		if took := elapsed(func() { check(t, v, token, Unavailable, "shed") }); took != 0 {
			t.Errorf("that took %v", took)
		}
		settled(searchEvery)
		check(t, v, token, 0, "")
		flood.Wait()
	})
}

func elapsed(do func()) time.Duration {
	began := time.Now()
	do()
	return time.Since(began)
}

func TestNew_config(t *testing.T) {
	i := newIssuer(t)
	ok := i.config()
	for name, edit := range map[string]func(*Config){
		"no issuer":              func(c *Config) { c.Issuer = "" },
		"relative issuer":        func(c *Config) { c.Issuer = "/oauth" },
		"plain http":             func(c *Config) { c.Issuer = "http://auth.example" },
		"plain http, lookalike":  func(c *Config) { c.Issuer = "http://127.0.0.1.example" },
		"plain http, localhost.": func(c *Config) { c.Issuer = "http://localhost.example" },
		"other scheme":           func(c *Config) { c.Issuer = "file:///etc/issuer" },
		"query":                  func(c *Config) { c.Issuer += "?x" },
		"empty query":            func(c *Config) { c.Issuer += "?" },
		"fragment":               func(c *Config) { c.Issuer += "#x" },
		"user":                   func(c *Config) { c.Issuer = "https://a:b@auth.example" },
		"no audience":            func(c *Config) { c.Audience = "" },
		"audience with quotes":   func(c *Config) { c.Audience = `a"b` },
		"audience, new line":     func(c *Config) { c.Audience = "a\nb" },
		"no id":                  func(c *Config) { c.ClientID = "" },
		"no secret":              func(c *Config) { c.ClientSecret = "" },
		"wrong secret":           func(c *Config) { c.ClientSecret = "wrong" },
		"OnStale":                func(c *Config) { c.OnStale = 7 },
		"Errors":                 func(c *Config) { c.Errors = -1 },
		"issuer with a slash":    func(c *Config) { c.Issuer += "/" },
		"a node by plain http":   func(c *Config) { c.Nodes = []string{"http://node.example"} },
	} {
		cfg := ok
		edit(&cfg)
		if v, err := New(context.Background(), cfg); err == nil {
			v.Close()
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), testSecret) {
			t.Errorf("%s: the secret is in the error", name)
		} else if regexp.MustCompile(`ClientID|ClientSecret|Audience|Issuer|Nodes`).MatchString(err.Error()) {
			t.Errorf("%s: who runs the guard set no field of Go: %v", name, err)
		}
	}
	for name, edit := range map[string]object{
		"RFC 8414 section 3.3, other issuer": {"issuer": "https://evil.example"}, "no issuer": {"issuer": nil}, "no keys": {"jwks_uri": nil},
		"plain http keys": {"jwks_uri": "http://auth.example/jwks"}, "no introspection": {"introspection_endpoint": nil},
		"plain http introspection": {"introspection_endpoint": "http://auth.example/introspect"},
	} {
		right := i.meta
		i.set(func() { i.meta = edited(right, edit) })
		if v, err := New(context.Background(), ok); err == nil {
			v.Close()
			t.Errorf("metadata, %s: taken", name)
		}
		i.set(func() { i.meta = right })
	}
	if err := checkURL("http://127.0.0.1/jwks", false); err == nil {
		t.Error("an https issuer may send us to plain http")
	}
	for _, s := range []string{"https://auth.example", "https://auth.example/path", "http://localhost:80", "http://[::1]:1", "http://127.0.0.9"} {
		if err := checkURL(s, true); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %s", ok, ok, ok, marshal(t, ok)); strings.Contains(s, testSecret) {
		t.Errorf("a printed configuration shows its secret: %s", s)
	}
}

// An API may start while the issuer is down: it is not ready, answers 503, and mends by itself.
func TestNew_issuerComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		w := &wire{hosts: map[string]http.Handler{"auth.example": i.handler}, silent: map[string]bool{}, refused: map[string]bool{"auth.example": true}}
		v := i.over(t, w, newClock())
		defer v.Close()
		if v.Ready() == nil {
			t.Error("ready without an issuer")
		}
		token := i.lasting(t, nil)
		want := func(when string, status int) {
			t.Helper()
			if r := call(api(v), "GET", "/any", "Authorization", "Bearer "+token); r.StatusCode != status {
				t.Errorf("%s: %d, want %d", when, r.StatusCode, status)
			}
		}
		want("at first", 503)
		w.set(func() { delete(w.refused, "auth.example") })
		settled(retryEvery + pauseLast)
		if err := v.Ready(); err != nil {
			t.Error(err)
		}
		want("when it is there", 200)
		v.Close()
		want("after Close", 503)
	})
}

// An issuer of an earlier version has no feed: it is asked about every token, whatever the policy.
func TestNew_issuerWithoutFeed(t *testing.T) {
	i := newIssuer(t)
	delete(i.meta, "revocation_feed_endpoint")
	v := i.verifier(t, func(c *Config) { c.OnStale = Closed })
	token := i.held(t, 9, nil)
	for range 3 {
		if _, err := v.Check(context.Background(), token, Access{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.asked.Load(); n != 3 || i.feed.polls.Load() > 0 || i.feed.lists.Load() > 0 {
		t.Errorf("asked %d times, polled %d, read %d lists", n, i.feed.polls.Load(), i.feed.lists.Load())
	}
	i.set(func() { delete(i.table, token) })
	_, err := v.Check(context.Background(), token, Access{})
	wantError(t, err, BadToken, "not_active")
}

// An issuer that closes kept connections, as on every upgrade, costs no request.
func TestCheck_keptConnectionsClosed(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, nil)
	for range 50 {
		if _, err := v.Check(context.Background(), token, Access{}); err != nil {
			t.Fatal(err)
		}
		i.CloseClientConnections()
	}
}

// What goes wrong is logged once when it begins and once when it ends, without token or secret.
func TestLog_outageWithoutSecrets(t *testing.T) {
	log := logged(t)
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		log.Reset()
		token := i.lasting(t, nil)
		i.set(func() { i.fail = status(500) })
		for range 5 {
			v.Check(t.Context(), token, Access{})
		}
		i.set(func() { i.fail = nil })
		for range 5 {
			v.Check(t.Context(), token, Access{})
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines, want 2:\n%s", n, log)
		}
		if strings.Contains(log.String(), "eyJ") || strings.Contains(log.String(), testSecret) {
			t.Errorf("a secret is in the log:\n%s", log)
		}
	})
}
