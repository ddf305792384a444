package endpoint

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A code lives for 60 seconds, in every dialect: 59.9 s after it was issued it is
// good, at 60.0 s it has expired (seed komerza-exchange; seed-contracts 4.3).
func TestExchange_CodeLife(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		of      app
		age     time.Duration
		status  int
		refusal string
	}{
		{"exchange, 59.9 s", w.exchange, 59_900 * time.Millisecond, 200, ""},
		{"exchange, 60.0 s", w.exchange, 60 * time.Second, 403, "code_expired"},
		{"exchange, 9 min", w.exchange, 9 * time.Minute, 403, "code_expired"},
		{"standard, 59.9 s", w.standard, 59_900 * time.Millisecond, 200, ""},
		{"standard, 60.0 s", w.standard, 60 * time.Second, 400, "invalid_grant"},
		{"direct, 59.9 s", w.direct, 59_900 * time.Millisecond, 200, ""},
		{"direct, 60.0 s", w.direct, 60 * time.Second, 400, "invalid_grant"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			code := w.code(c.of)
			w.advance(c.age)
			if got := w.redeem(c.of, code); got.status != c.status || got.refusal() != c.refusal {
				t.Errorf("%d %s, want %d %q", got.status, got.body, c.status, c.refusal)
			}
		})
	}
}

// A used code is invalid_code, also after its minute: "used" outranks "expired".
// Within ten seconds that is taken for a retry by the network; later the key that
// the code issued is revoked, and no other (DESIGN, decision 4).
func TestExchange_Replay(t *testing.T) {
	for _, c := range []struct {
		after  time.Duration
		active bool
	}{
		{0, true},
		{10*time.Second - time.Microsecond, true},
		{10 * time.Second, false},
		{2 * time.Minute, false},
	} {
		t.Run(c.after.String(), func(t *testing.T) {
			w := newWorld(t)
			before, _ := w.key(w.exchange)
			code := w.code(w.exchange)
			var won struct{ Data string }
			w.redeem(w.exchange, code).json(t, &won)
			w.advance(c.after)
			got := w.redeem(w.exchange, code)
			if got.status != http.StatusForbidden || got.refusal() != "invalid_code" {
				t.Errorf("%d %s", got.status, got.body)
			}
			if w.active(won.Data) != c.active {
				t.Errorf("the key is active: %v, want %v", !c.active, c.active)
			}
			if !w.active(before) {
				t.Error("a key of another code was revoked")
			}
		})
	}
}

// A hundred exchanges of one code at once, over real connections: one wins,
// ninety-nine are told invalid_code, and the winner's key works (attack C2).
func TestExchange_Race(t *testing.T) {
	for name, dsn := range map[string]func(testing.TB) string{
		"SQLite":     func(testing.TB) string { return "" },
		"PostgreSQL": storagetest.Postgres,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldAt(t, issuer, dsn(t))
			code := w.code(w.exchange)
			srv := httptest.NewServer(w)
			defer srv.Close()
			const n = 100
			gate := make(chan struct{})
			answers := make([]answer, n)
			var ready, done sync.WaitGroup
			for i := range n {
				ready.Add(1)
				done.Go(func() {
					r, _ := http.NewRequest(http.MethodGet, srv.URL+"/oauth2/"+w.exchange.id+"/exchange/"+code, nil)
					r.Header.Set("X-Client-Secret", w.exchange.secret.Reveal())
					ready.Done()
					<-gate
					answers[i] = send(t, r)
				})
			}
			ready.Wait()
			close(gate)
			done.Wait()
			keys, lost := []string{}, 0
			for _, a := range answers {
				var body struct{ Data string }
				switch a.json(t, &body); {
				case a.status == http.StatusOK && body.Data != "":
					keys = append(keys, body.Data)
				case a.status == http.StatusForbidden && a.refusal() == "invalid_code":
					lost++
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
			if len(keys) != 1 || lost != n-1 {
				t.Fatalf("%d won and %d were told invalid_code", len(keys), lost)
			}
			if !w.active(keys[0]) {
				t.Error("the winner's key does not work")
			}
		})
	}
}

func send(t testing.TB, r *http.Request) answer {
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// App, then secret, then code: nothing is said about a code before the secret is
// right, and what is refused burns nothing (seed-contracts K3, K4, K21; attacks
// C3, G3, G4).
func TestExchange_OrderOfChecks(t *testing.T) {
	w := newWorld(t)
	const ua = "Exporter/1.0"
	const nobody = "7d9f0e5c-4b1a-4c1e-9a55-0f6a3f1d2b7c"
	secret := w.exchange.secret.Reveal()
	// Three codes of different fates.
	used := w.code(w.exchange)
	w.redeem(w.exchange, used)
	expired := w.code(w.other)
	w.advance(61 * time.Second)
	good := w.code(w.exchange)

	for _, c := range []struct {
		name, app, code, secret string
		status                  int
		refusal                 string
	}{
		{"unknown app", nobody, good, secret, 404, "app_not_found"},
		{"unknown app, no secret", nobody, good, "", 404, "app_not_found"},
		{"an app id that is no UUID", "..%2f..", good, secret, 404, "app_not_found"},
		{"no app id", "", good, secret, 404, "app_not_found"},
		{"a standard app", w.standard.id, good, w.standard.secret.Reveal(), 404, "app_not_found"},
		{"a direct app", w.direct.id, good, "", 404, "app_not_found"},
		{"no secret, good code", w.exchange.id, good, "", 401, "invalid_client_secret"},
		{"no secret, unknown code", w.exchange.id, "nonsense", "", 401, "invalid_client_secret"},
		{"wrong secret, used code", w.exchange.id, used, "wrong", 401, "invalid_client_secret"},
		{"wrong secret, code outside its alphabet", w.exchange.id, "a%2fb", "wrong", 401, "invalid_client_secret"},
		{"wrong secret, expired code", w.other.id, expired, "wrong", 401, "invalid_client_secret"},
		{"another app's secret", w.exchange.id, good, w.other.secret.Reveal(), 401, "invalid_client_secret"},
		{"another app's code", w.other.id, good, w.other.secret.Reveal(), 403, "invalid_code"},
		{"another app's expired code", w.exchange.id, expired, secret, 403, "invalid_code"},
		{"expired code", w.other.id, expired, w.other.secret.Reveal(), 403, "code_expired"},
		{"used code, a minute old", w.exchange.id, used, secret, 403, "invalid_code"},
		{"a standard app's code", w.exchange.id, w.code(w.standard), secret, 403, "invalid_code"},
		{"a direct app's code", w.exchange.id, w.code(w.direct), secret, 403, "invalid_code"},
		{"no code", w.exchange.id, "", secret, 403, "invalid_code"},
		{"a last character altered", w.exchange.id, flip(good), secret, 403, "invalid_code"},
		{"a code in capitals", w.exchange.id, strings.ToUpper(good), secret, 403, "invalid_code"},
		{"an encoded slash", w.exchange.id, good + "%2f", secret, 403, "invalid_code"},
		{"a slash", w.exchange.id, good + "/", secret, 403, "invalid_code"},
		{"two slashes", w.exchange.id, "/" + good, secret, 403, "invalid_code"},
		{"dot segments", w.exchange.id, "../exchange/" + good, secret, 403, "invalid_code"},
		{"a path parameter", w.exchange.id, good + ";v=1", secret, 403, "invalid_code"},
		{"percent-encoded letters", w.exchange.id, "%41" + good[1:], secret, 403, "invalid_code"},
		{"a megabyte", w.exchange.id, strings.Repeat("a", 1<<20), secret, 403, "invalid_code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{"User-Agent", ua}
			if c.secret != "" {
				header = append(header, "X-Client-Secret", c.secret)
			}
			got := w.get("/oauth2/"+c.app+"/exchange/"+c.code, header...)
			if got.status != c.status || got.refusal() != c.refusal {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.refusal)
			}
			if got.header.Get("Location") != "" {
				t.Error("a redirect")
			}
		})
	}
	if got := w.redeem(w.exchange, good); got.status != http.StatusOK {
		t.Errorf("what was refused burned the code: %s", got.body)
	}
}

// The app id is a UUID, which is read in either case (RFC 9562, 4). One that was imported
// in capitals is found by these alone, before any that differs in nothing else.
func TestExchange_RFC9562_4(t *testing.T) {
	w := newWorld(t)
	register := func(id string) app {
		c, secret, err := w.server.CreateClient(t.Context(), command, oauth.ClientForm{ID: id, Name: "App " + id, Profile: oauth.Exchange, Type: oauth.Confidential,
			Redirects: []string{callback}, Scopes: w.exchange.client.Scopes})
		if err != nil {
			t.Fatal(err)
		}
		return app{c.ID, secret, c}
	}
	const twin = "7d9f0e5c-4b1a-4c1e-9a55-0f6a3f1d2b7c"
	small, capital := register(twin), register(strings.ToUpper(twin))
	alone := register("9B2E0C5F-6D1A-4E3B-8C77-1A2B3C4D5E6F")
	for what, c := range map[string]struct {
		of     app
		sent   string
		status int
	}{
		"capitals":                  {w.exchange, strings.ToUpper(w.exchange.id), http.StatusOK},
		"mixed":                     {w.exchange, strings.ToUpper(w.exchange.id[:20]) + w.exchange.id[20:], http.StatusOK},
		"imported, as it is":        {alone, alone.id, http.StatusOK},
		"imported, other letters":   {alone, strings.ToLower(alone.id), http.StatusNotFound},
		"of twins the small one":    {small, small.id, http.StatusOK},
		"of twins the capital one":  {capital, capital.id, http.StatusOK},
		"of twins the small, mixed": {small, strings.ToUpper(twin[:20]) + twin[20:], http.StatusOK},
	} {
		code, posted := w.code(c.of), w.code(c.of)
		for how, got := range map[string]answer{
			"GET":  w.get("/oauth2/"+c.sent+"/exchange/"+code, "User-Agent", "x", "X-Client-Secret", c.of.secret.Reveal()),
			"POST": w.post("/oauth2/"+c.sent+"/exchange", url.Values{"code": {posted}}, "User-Agent", "x", "X-Client-Secret", c.of.secret.Reveal()),
		} {
			if got.status != c.status {
				t.Errorf("%s, %s: %d %s", what, how, got.status, got.body)
			}
		}
	}
}

// flip alters the last character of a code.
func flip(code string) string {
	last := "A"
	if strings.HasSuffix(code, last) {
		last = "Q"
	}
	return code[:len(code)-1] + last
}

// What is not a server's request redeems nothing: HEAD and other methods, a missing
// User-Agent, a prefetch, a link that was opened, a header sent twice (seed-
// contracts K7, K22; standards 5, item 2; attack G2).
func TestExchange_NotARequestOfAServer(t *testing.T) {
	w := newWorld(t)
	code := w.code(w.exchange)
	path := "/oauth2/" + w.exchange.id + "/exchange"
	secret := []string{"X-Client-Secret", w.exchange.secret.Reveal()}
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		refusal, allow     string
	}{
		{"HEAD", "HEAD", path + "/" + code, []string{"User-Agent", "x"}, 405, "UnsupportedRequest", "GET"},
		{"POST with the code in the path", "POST", path + "/" + code, []string{"User-Agent", "x"}, 405, "UnsupportedRequest", "GET"},
		{"OPTIONS", "OPTIONS", path + "/" + code, []string{"User-Agent", "x", "Origin", "https://client.example"}, 405, "UnsupportedRequest", "GET"},
		{"GET of the POST address", "GET", path, []string{"User-Agent", "x"}, 405, "UnsupportedRequest", "POST"},
		{"no User-Agent", "GET", path + "/" + code, nil, 403, "AccessDenied", ""},
		{"Purpose: prefetch", "GET", path + "/" + code, []string{"User-Agent", "x", "Purpose", "prefetch"}, 403, "AccessDenied", ""},
		{"Sec-Purpose: prefetch;prerender", "GET", path + "/" + code, []string{"User-Agent", "x", "Sec-Purpose", "prefetch;prerender"}, 403, "AccessDenied", ""},
		{"X-Purpose: preview", "GET", path + "/" + code, []string{"User-Agent", "x", "X-Purpose", "preview"}, 403, "AccessDenied", ""},
		{"a link that was opened", "GET", path + "/" + code, []string{"User-Agent", "x", "Sec-Fetch-Mode", "navigate"}, 403, "AccessDenied", ""},
		{"the secret twice", "GET", path + "/" + code, []string{"User-Agent", "x", "X-Client-Secret", "y"}, 400, "ValidationError", ""},
		{"the verifier twice", "GET", path + "/" + code, []string{"User-Agent", "x", "X-Code-Verifier", verifier, "X-Code-Verifier", verifier}, 400, "ValidationError", ""},
		{"below the code", "GET", path + "x/" + code, []string{"User-Agent", "x"}, 404, "NotFound", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := w.do(with(httptest.NewRequest(c.method, c.path, nil), append(secret, c.header...)...))
			if got.status != c.status || got.refusal() != c.refusal || got.header.Get("Allow") != c.allow {
				t.Errorf("%d %s, Allow %q; want %d %s, %q", got.status, got.body, got.header.Get("Allow"), c.status, c.refusal, c.allow)
			}
		})
	}
	if got := w.redeem(w.exchange, code); got.status != http.StatusOK {
		t.Errorf("one of them redeemed the code: %s", got.body)
	}
}

// POST takes code and verifier from a form or flat JSON, from one place each, and
// answers as GET does (DESIGN, URLs).
func TestExchange_Post(t *testing.T) {
	w := newWorld(t)
	path := "/oauth2/" + w.exchange.id + "/exchange"
	header := []string{"X-Client-Secret", w.exchange.secret.Reveal(), "User-Agent", "x"}
	form, jsonType := "application/x-www-form-urlencoded", "application/json"
	code := w.code(w.exchange)
	for _, c := range []struct {
		name, kind, body string
		more             []string
		status           int
		refusal          string
	}{
		{"code twice", form, "code=" + code + "&code=" + code, nil, 400, "ValidationError"},
		{"code twice in JSON", jsonType, `{"code":"` + code + `","code":"` + code + `"}`, nil, 400, "ValidationError"},
		{"nested JSON", jsonType, `{"code":{"code":"` + code + `"}}`, nil, 400, "ValidationError"},
		{"verifier in two places", form, "code=" + code + "&code_verifier=" + verifier, []string{"X-Code-Verifier", verifier}, 400, "ValidationError"},
		{"a verifier that nobody asked for", form, "code=" + code + "&code_verifier=" + verifier, nil, 400, "ValidationError"},
		{"no code", form, "", nil, 403, "invalid_code"},
		{"another type", "text/plain", "code=" + code, nil, 400, "ValidationError"},
		{"17 KiB of JSON", jsonType, `{"code":"` + strings.Repeat("a", 17<<10) + `"}`, nil, 413, "ValidationError"},
		{"65 KiB of form", form, "code=" + strings.Repeat("a", 65<<10), nil, 413, "ValidationError"},
		{"a form", form, "code=" + code, nil, 200, ""},
		{"JSON", jsonType, `{"code":"` + w.code(w.exchange) + `","code_verifier":null}`, nil, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(c.body))
			got := w.do(with(r, append(append(header, "Content-Type", c.kind), c.more...)...))
			if got.status != c.status || got.refusal() != c.refusal {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.refusal)
			}
		})
	}
}

// The envelope has its four members in the seed's order, and the key is the only
// data there ever is (seed komerza-exchange).
func TestExchange_Envelope(t *testing.T) {
	w := newWorld(t)
	got := w.redeem(w.exchange, w.code(w.exchange))
	if !strings.HasPrefix(got.body, `{"success":true,"message":null,"code":null,"data":"eyJ`) {
		t.Error(got.body)
	}
	got = w.redeem(w.exchange, "x")
	want := `{"success":false,"message":"The code is unknown or was used already.","code":"invalid_code","data":null}` + "\n"
	if got.body != want {
		t.Errorf("%s, want %s", got.body, want)
	}
}

// Behind a challenge the exchange demands the verifier, in a header or in the body
// (standards 5, item 7).
func TestExchange_PKCE(t *testing.T) {
	w := newWorld(t)
	r, _, err := w.server.Authorize(t.Context(), url.Values{"client_id": {w.exchange.id}, "redirect_uri": {callback},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}})
	if err != nil {
		t.Fatal(err)
	}
	code := w.allow("alice", r)
	path, secret := "/oauth2/"+w.exchange.id+"/exchange/"+code, []string{"X-Client-Secret", w.exchange.secret.Reveal(), "User-Agent", "x"}
	for _, c := range []struct {
		verifier string
		status   int
	}{{"", 403}, {strings.Repeat("a", 43), 403}, {verifier, 200}} {
		header := secret
		if c.verifier != "" {
			header = append(header, "X-Code-Verifier", c.verifier)
		}
		if got := w.get(path, header...); got.status != c.status {
			t.Errorf("verifier %q: %d %s, want %d", c.verifier, got.status, got.body, c.status)
		}
	}
}
