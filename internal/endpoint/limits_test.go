package endpoint

import (
	"cmp"
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
)

// published is what Komerza writes about its own API (seed-contracts 1.3).
var published = Limits{Anonymous: oauth.Bucket{Size: 10, Refill: 4, Every: 7 * time.Second}, Client: oauth.Bucket{Size: 12, Refill: 4, Every: 2 * time.Second}}

func newLimitedWorld(t testing.TB, l Limits) *world {
	w := newWorld(t)
	w.Handler = New(Config{Server: w.server, Authorize: http.HandlerFunc(portal), Limits: l})
	return w
}

// flush writes what is counted, as at the end of a process.
func (w *world) flush() {
	ctx, end := context.WithCancel(context.Background())
	end()
	w.server.Run(ctx)
}

// exchangeFrom asks for a key, from an address of 203.0.113.0/24.
func (w *world) exchangeFrom(host int, a app, secret oauth.Secret, code string) answer {
	r := with(httptest.NewRequest(http.MethodGet, "/oauth2/"+a.id+"/exchange/"+code, nil), "User-Agent", "Exporter/1.0")
	if secret != "" {
		r.Header.Set("X-Client-Secret", secret.Reveal())
	}
	r.RemoteAddr = fmt.Sprintf("203.0.113.%d:4711", host)
	return w.do(r)
}

// limitedFor checks a 429 and returns what its Retry-After says.
func limitedFor(t *testing.T, a answer, refusal string) time.Duration {
	t.Helper()
	seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != http.StatusTooManyRequests || a.refusal() != refusal || err != nil || seconds < 1 {
		t.Fatalf("%d %s, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	return time.Duration(seconds) * time.Second
}

// The anonymous bucket as published: ten at once, then four every seven seconds; and
// who waits as long as Retry-After says is heard.
func TestLimits_AnonymousBucket(t *testing.T) {
	w := newLimitedWorld(t, published)
	wrong := func() answer { return w.exchangeFrom(1, w.exchange, "wrong", "code") }
	heard := func(n int) {
		t.Helper()
		for i := range n {
			if a := wrong(); a.status != http.StatusUnauthorized || a.refusal() != "invalid_client_secret" {
				t.Fatalf("%d of %d: %d %s", i+1, n, a.status, a.body)
			}
		}
	}
	heard(10)
	if wait := limitedFor(t, wrong(), "RateLimited"); wait != 2*time.Second { // 7 s / 4, rounded up
		t.Errorf("Retry-After %v", wait)
	}
	w.advance(7 * time.Second)
	heard(4)
	w.advance(limitedFor(t, wrong(), "RateLimited"))
	heard(1)
	limitedFor(t, wrong(), "RateLimited")
	w.advance(time.Hour) // it never holds more than ten
	heard(10)
	limitedFor(t, wrong(), "RateLimited")
	if a := w.exchangeFrom(2, w.exchange, "wrong", "code"); a.status != http.StatusUnauthorized {
		t.Errorf("another address: %d %s", a.status, a.body)
	}
}

// Whatever is refused before anybody has proved who asks is charged, in every
// dialect, to one bucket of the address.
func TestLimits_WhatIsAnonymous(t *testing.T) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {"x"}}
	for name, ask := range map[string]func(w *world) answer{
		"no secret": func(w *world) answer { return w.get("/oauth2/"+w.exchange.id+"/exchange/x", "User-Agent", "x") },
		"no such app": func(w *world) answer {
			return w.get("/oauth2/"+w.api.ID+"/exchange/x", "User-Agent", "x", "X-Client-Secret", "s")
		},
		"another profile": func(w *world) answer {
			return w.get("/oauth2/"+w.standard.id+"/exchange/x", "User-Agent", "x", "X-Client-Secret", "s")
		},
		"no user agent":  func(w *world) answer { return w.get("/oauth2/" + w.exchange.id + "/exchange/x") },
		"no exchange":    func(w *world) answer { return w.get("/oauth2/"+w.exchange.id, "User-Agent", "x") },
		"another method": func(w *world) answer { return w.post("/oauth2/"+w.exchange.id+"/exchange/x", form) },
		"a prefetch": func(w *world) answer {
			return w.get("/oauth2/"+w.exchange.id+"/exchange/x", "User-Agent", "x", "Purpose", "prefetch")
		},
		"two secrets": func(w *world) answer {
			return w.get("/oauth2/"+w.exchange.id+"/exchange/x", "User-Agent", "x", "X-Client-Secret", "s", "X-Client-Secret", "s")
		},
		"token": func(w *world) answer {
			return w.post("/oauth/token", form, "Authorization", basic(w.standard.id, "wrong"))
		},
		"token, two ways": func(w *world) answer {
			return w.post("/oauth/token", url.Values{"client_id": {"other"}}, "Authorization", basic("one", "x"))
		},
		"token, no such":    func(w *world) answer { return w.post("/api/oauth/token", url.Values{"client_id": {"nobody"}}) },
		"token, in a query": func(w *world) answer { return w.post("/oauth/token?code=x&client_id="+w.standard.id, form) },
		"revoke": func(w *world) answer {
			return w.post("/oauth/revoke", form, "Authorization", basic(w.standard.id, "wrong"))
		},
		"introspect": func(w *world) answer {
			return w.post("/oauth/introspect", form, "Authorization", basic(w.api.ID, "wrong"))
		},
		"grant": func(w *world) answer {
			return w.get("/oauth/grants/gr_x", "Authorization", basic(w.standard.id, "wrong"))
		},
		"direct authorize, no such app": func(w *world) answer { return w.get("/api/oauth/authorize?client_id=nobody") },
		"direct authorize, wrong key": func(w *world) answer {
			return w.get("/oauth/authorize?client_id="+w.keyed.id, "X-Api-Key", "wrong")
		},
		"direct authorize, no key": func(w *world) answer { return w.get("/oauth/authorize?client_id=" + w.keyed.id) },
		"direct authorize, unread": func(w *world) answer { return w.get("/oauth/authorize?x=%zz&client_id=" + w.direct.id) },
		"direct authorize, two apps": func(w *world) answer {
			return w.get("/oauth/authorize?client_id=" + w.direct.id + "&client_id=x&state=s")
		},
		"direct authorize, two states": func(w *world) answer {
			return w.get("/oauth/authorize?client_id=" + w.direct.id + "&state=s&state=t")
		},
		"direct authorize, prefetch": func(w *world) answer { return w.get("/oauth/authorize?client_id="+w.direct.id, "Purpose", "prefetch") },
		"a list that is not there":   func(w *world) answer { return w.get("/status/1-2000") },
		"introspect, none":           func(w *world) answer { return w.post("/oauth/introspect", form) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 3, Refill: 1, Every: time.Minute}})
			for range 2 {
				if a := ask(w); a.status < 400 || a.status >= 429 {
					t.Fatalf("%d %s", a.status, a.body)
				}
			}
			// The third token goes to somebody else behind this address.
			if a := w.get("/oauth2/"+w.other.id+"/exchange/x", "User-Agent", "x", "X-Client-Secret", "wrong"); a.status != http.StatusUnauthorized {
				t.Fatalf("%d %s", a.status, a.body)
			}
			a := ask(w)
			if wait := limitedFor(t, a, cmp.Or(map[bool]string{true: "RateLimited"}[a.header.Get("X-Robots-Tag") != ""], "temporarily_unavailable")); wait != time.Minute {
				t.Errorf("Retry-After %v", wait)
			}
			if a.header.Get("WWW-Authenticate") != "" {
				t.Error("a 429 asks for other credentials")
			}
		})
	}
}

// Whoever has the right secret is never hurt by those who share his address; what he
// gets wrong after that is charged to his app.
func TestLimits_RightSecretPassesAnEmptyBucket(t *testing.T) {
	w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}, Client: oauth.Bucket{Size: 2, Refill: 1, Every: time.Hour}})
	code, other := w.code(w.exchange), w.code(w.other)
	for range 5 {
		w.exchangeFrom(1, w.exchange, "wrong", "x")
	}
	limitedFor(t, w.exchangeFrom(1, w.exchange, "wrong", code), "RateLimited")
	if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, code); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, "unknown"); a.refusal() != "invalid_code" {
		t.Errorf("%d %s", a.status, a.body)
	}
	limitedFor(t, w.exchangeFrom(9, w.exchange, w.exchange.secret, "unknown"), "RateLimited") // from anywhere
	if a := w.exchangeFrom(1, w.other, w.other.secret, other); a.status != http.StatusOK {
		t.Errorf("another app: %d %s", a.status, a.body)
	}
	for range 20 {
		_, refresh := w.key(w.standard)
		if a := w.post("/oauth/revoke", url.Values{"token": {refresh}}, "Authorization", basic(w.standard.id, w.standard.secret.Reveal())); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

// An API's questions are its customers': right credentials are never limited.
func TestLimits_IntrospectionIsFree(t *testing.T) {
	w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}, Client: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}})
	key, _ := w.key(w.exchange)
	for range 3 {
		w.post("/oauth/introspect", url.Values{"token": {key}}, "Authorization", basic(w.api.ID, "wrong"))
	}
	for range 100 {
		if !w.active(key) {
			t.Fatal("not active")
		}
	}
}

// What an API that has proved itself gets wrong is charged to nobody: many that follow
// behind one address hear together that they must begin anew. A wrong secret is charged.
func TestLimits_AProvedAPIIsNotCharged(t *testing.T) {
	tooMany := `{"grants":["gr_x"` + strings.Repeat(`,"gr_x"`, oauth.SeenMax) + `]}`
	for name, c := range map[string]struct {
		method, target, body string
		status               int
	}{
		"an old epoch":     {http.MethodGet, "/revocations?instance=x&after=1&epoch=1", "", http.StatusGone},
		"no such question": {http.MethodGet, "/revocations?instance=x&after=x&epoch=1", "", http.StatusBadRequest},
		"too many grants":  {http.MethodPost, "/revocations/seen", tooMany, http.StatusBadRequest},
		"no list":          {http.MethodPost, "/revocations/seen", "grants=gr_x", http.StatusBadRequest},
		"no token":         {http.MethodPost, "/oauth/introspect", "", http.StatusBadRequest},
		"no form":          {http.MethodPost, "/oauth/introspect", `{"token":"x"}`, http.StatusBadRequest},
		"in the query":     {http.MethodPost, "/oauth/introspect?token=x", "", http.StatusBadRequest},
		"too large":        {http.MethodPost, "/oauth/introspect", strings.Repeat("x", 70<<10), http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 2, Refill: 1, Every: time.Hour}})
			ask := func(secret string) answer {
				return known(func() answer {
					return w.do(with(httptest.NewRequest(c.method, c.target, strings.NewReader(c.body)), "Authorization", basic(w.api.ID, secret)))
				})
			}
			if err := w.db.NewEpoch(context.Background(), 2, func(from, at int64) (oauth.Event, error) {
				return oauth.NewRestored(w.now(), rand.Reader, oauth.Restored{Epoch: 2, FromEpoch: from, FromSeq: at, Made: w.now()})
			}); err != nil {
				t.Fatal(err)
			}
			begins := func() answer {
				return w.get("/revocations?instance=y", "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
			}
			if a := known(begins); !strings.HasPrefix(a.body, `{"epoch":2,`) {
				t.Fatalf("%d %s", a.status, a.body)
			}
			for n := range 5 {
				if a := ask(w.api.Secret.Reveal()); a.status != c.status {
					t.Fatalf("%d: %d %s", n+1, a.status, a.body)
				}
			}
			for range 2 {
				if a := ask("wrong"); a.status != http.StatusUnauthorized {
					t.Fatalf("a wrong secret: %d %s", a.status, a.body)
				}
			}
			limitedFor(t, ask("wrong"), "temporarily_unavailable")
			if a := ask(w.api.Secret.Reveal()); a.status != c.status {
				t.Errorf("when the bucket is empty: %d %s", a.status, a.body)
			}
		})
	}
}

// An API may report what it saw for a thousand processes an hour, whatever other
// limits there are, and an API that does hurts no other.
func TestLimits_Reports(t *testing.T) {
	w := newLimitedWorld(t, Limits{})
	report := func() answer {
		r := with(httptest.NewRequest(http.MethodPost, "/revocations/seen", strings.NewReader(`{"grants":[]}`)), "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
		return w.do(r)
	}
	for n := range 1000 {
		if a := report(); a.status != http.StatusNoContent {
			t.Fatalf("%d: %d %s", n+1, a.status, a.body)
		}
	}
	wait := limitedFor(t, report(), "temporarily_unavailable")
	if wait != 4*time.Second { // 3.6
		t.Errorf("Retry-After %v", wait)
	}
	w.advance(wait)
	if a := report(); a.status != http.StatusNoContent {
		t.Errorf("after that: %d %s", a.status, a.body)
	}
	limitedFor(t, report(), "temporarily_unavailable")
	begins := func() answer {
		return w.get("/revocations?instance=x", "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
	}
	if a := known(begins); a.status != http.StatusOK {
		t.Errorf("it follows no longer: %d %s", a.status, a.body)
	}
}

// refresh asks for another access token, as an app does.
func (w *world) refresh(a app, token string) answer {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {a.id}}
	if a.secret != "" {
		form.Set("client_secret", a.secret.Reveal())
	}
	return w.post("/oauth/token", form)
}

// refreshing refreshes one chain again and again.
func (w *world) refreshing(a app, token string) func() answer {
	return func() answer {
		got := w.refresh(a, token)
		if got.status == http.StatusOK {
			var next struct {
				Refresh string `json:"refresh_token"`
			}
			got.json(w.t, &next)
			token = next.Refresh
		}
		return got
	}
}

// noted counts the events of a kind.
func (w *world) noted(kind oauth.Kind) int {
	w.t.Helper()
	list, err := w.db.Events(context.Background(), oauth.EventFilter{Kind: kind, Limit: 10_000})
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list)
}

// Each access token after the first leaves a row that is kept for long, so a family has as many
// at once as all workers of its app ask for, and one more each five seconds. Nobody but who holds
// the right token pays; what is refused burns and writes nothing.
func TestLimits_AccessTokensOfAFamily(t *testing.T) {
	for name, of := range map[string]func(w *world) app{
		"of a client with a secret": func(w *world) app { return w.standard },
		"of a public client":        func(w *world) app { return w.public },
		"of a guest":                func(w *world) app { return w.direct },
	} {
		t.Run(name, func(t *testing.T) {
			w := newLimitedWorld(t, published)
			a := of(w)
			_, token := w.key(a)
			_, other := w.key(a)
			for range 2 * families.Size {
				if got := w.refresh(a, token[:len(token)-4]+"____"); got.refusal() != "invalid_grant" {
					t.Fatalf("%d %s", got.status, got.body)
				}
			}
			again := w.refreshing(a, token)
			heard := func(n int) {
				t.Helper()
				for i := range n {
					if got := again(); got.status != http.StatusOK {
						t.Fatalf("%d of %d: %d %s", i+1, n, got.status, got.body)
					}
				}
			}
			heard(families.Size)
			before := w.noted(oauth.EventTokenRefreshed)
			wait := limitedFor(t, again(), "temporarily_unavailable")
			if wait != oauth.RotateGrace/2 {
				t.Errorf("Retry-After %v", wait)
			}
			if after := w.noted(oauth.EventTokenRefreshed); after != before {
				t.Errorf("%d events, and before what was refused %d", after, before)
			}
			if got := w.refresh(a, other); got.status != http.StatusOK {
				t.Errorf("another family: %d %s", got.status, got.body)
			}
			w.advance(wait)
			heard(1)
			limitedFor(t, again(), "temporarily_unavailable")
		})
	}
}

// A guest who continues gets refresh tokens and not only access tokens, all in one family.
func TestLimits_AGuestWhoContinues(t *testing.T) {
	w := newLimitedWorld(t, published)
	c, _, err := w.server.CreateClient(context.Background(), command, oauth.ClientForm{Name: "Mirror", Profile: oauth.Direct, Type: oauth.Public,
		Redirects: []string{oauth.OutOfBand}, Settings: oauth.ClientSettings{ContinueGuest: true}})
	if err != nil {
		t.Fatal(err)
	}
	a := app{c.ID, "", c}
	access, refresh := w.key(a)
	again := func() answer { return w.redeem(a, w.code(a, "X-Dressipi-Jwt", access)) }
	for i := range families.Size {
		if got := again(); got.status != http.StatusOK {
			t.Fatalf("%d: %d %s", i+1, got.status, got.body)
		}
	}
	before := w.noted(oauth.EventCodeRedeemed)
	wait := limitedFor(t, again(), "temporarily_unavailable")
	limitedFor(t, w.refresh(a, refresh), "temporarily_unavailable")
	if after := w.noted(oauth.EventCodeRedeemed); after != before {
		t.Errorf("%d events, and before what was refused %d", after, before)
	}
	w.advance(wait)
	if got := again(); got.status != http.StatusOK {
		t.Errorf("after Retry-After: %d %s", got.status, got.body)
	}
}

// Whoever has lost the answer to a rotation, and then waits as long as he is told, is still in
// time to repeat it: he is not taken for a thief.
func TestLimits_ALostRotationOutlastsTheWait(t *testing.T) {
	w := newLimitedWorld(t, published)
	_, token := w.key(w.public)
	again := w.refreshing(w.public, token)
	for range families.Size - 1 {
		again()
	}
	var last struct {
		Refresh string `json:"refresh_token"`
	}
	again().json(t, &last)
	w.advance(oauth.RotateGrace / 2)
	if got := w.refresh(w.public, last.Refresh); got.status != http.StatusOK { // and it never arrives
		t.Fatalf("%d %s", got.status, got.body)
	}
	w.advance(limitedFor(t, w.refresh(w.public, last.Refresh), "temporarily_unavailable"))
	if got := w.refresh(w.public, last.Refresh); got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// A suspended app that sends its secret without end is charged like any other.
func TestLimits_SuspendedClient(t *testing.T) {
	w := newLimitedWorld(t, Limits{Client: oauth.Bucket{Size: 2, Refill: 1, Every: time.Hour}})
	if err := w.server.SuspendClient(context.Background(), command, w.exchange.id); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, "x"); a.refusal() != "AccessDenied" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	limitedFor(t, w.exchangeFrom(1, w.exchange, w.exchange.secret, "x"), "RateLimited")
}

// A 429 burns nothing and reveals nothing: the code that was sent with it is good
// afterwards, and whether it was good is not said.
func TestLimits_429BurnsNothing(t *testing.T) {
	w := newLimitedWorld(t, Limits{Client: oauth.Bucket{Size: 1, Refill: 1, Every: 10 * time.Second}})
	first, second := w.code(w.exchange), w.code(w.exchange)
	if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, first); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	good := w.exchangeFrom(1, w.exchange, w.exchange.secret, second)
	for _, code := range []string{first, "unknown", "-"} {
		if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, code); a.status != good.status || a.body != good.body {
			t.Errorf("%q: %d %s, and with a good code %d %s", code, a.status, a.body, good.status, good.body)
		}
	}
	w.advance(limitedFor(t, good, "RateLimited"))
	if a := w.exchangeFrom(1, w.exchange, w.exchange.secret, second); a.status != http.StatusOK {
		t.Errorf("after Retry-After: %d %s", a.status, a.body)
	}
}

// Wrong secrets are counted in the database, but only as many as the bucket had
// tokens for; a network that sent too many hears how long that is, from every
// dialect, and the right secret still passes.
func TestLimits_WrongSecretsAreCounted(t *testing.T) {
	w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: oauth.GuessesMax - 1, Refill: 1, Every: time.Second}})
	for range 3 * oauth.GuessesMax {
		w.exchangeFrom(1, w.exchange, "wrong", "x")
	}
	w.flush()
	if wait := limitedFor(t, w.exchangeFrom(1, w.exchange, "wrong", "x"), "RateLimited"); wait > time.Second {
		t.Fatalf("closed for %v by what found no token", wait)
	}
	w.advance(time.Second)
	capitals := w.exchange
	capitals.id = strings.ToUpper(capitals.id)
	w.exchangeFrom(1, capitals, "wrong", "x") // the hundredth, of the same app
	w.flush()
	if wait := limitedFor(t, w.exchangeFrom(2, w.exchange, "wrong", "x"), "RateLimited"); wait != oauth.GuessesClosed {
		t.Errorf("Retry-After %v", wait)
	}
	code := w.code(w.exchange)
	if a := w.exchangeFrom(2, w.exchange, w.exchange.secret, code); a.status != http.StatusOK {
		t.Errorf("the right secret: %d %s", a.status, a.body)
	}
	if a := w.exchangeFrom(2, w.other, "wrong", "x"); a.refusal() != "invalid_client_secret" {
		t.Errorf("another app: %d %s", a.status, a.body)
	}
	for range oauth.GuessesMax { // httptest's address is 192.0.2.1
		w.post("/oauth/token", url.Values{}, "Authorization", basic(w.standard.id, "wrong"))
		w.post("/oauth/introspect", url.Values{}, "Authorization", basic(w.api.ID, "wrong"))
		w.advance(2 * time.Second)
	}
	w.flush()
	for target, id := range map[string]string{"/oauth/token": w.standard.id, "/oauth/revoke": w.standard.id, "/oauth/introspect": w.api.ID} {
		if wait := limitedFor(t, w.post(target, url.Values{}, "Authorization", basic(id, "wrong")), "temporarily_unavailable"); wait < oauth.GuessesClosed/2 {
			t.Errorf("%s: Retry-After %v", target, wait)
		}
	}
	key, _ := w.key(w.standard)
	if !w.active(key) {
		t.Error("the API's right secret does not pass")
	}
}

// The key of a direct app may be a short one, so it is guarded like a secret wherever it
// is shown.
func TestLimits_WrongAPIKeysAreCounted(t *testing.T) {
	w := newLimitedWorld(t, published)
	for name, ask := range map[string]func(key string) answer{
		"authorize": func(key string) answer { return w.get("/oauth/authorize?client_id="+w.keyed.id, "X-Api-Key", key) },
		"token": func(key string) answer {
			return w.post("/oauth/token", url.Values{"client_id": {w.keyed.id}}, "X-Api-Key", key)
		},
		"revoke": func(key string) answer {
			return w.post("/oauth/revoke", url.Values{"client_id": {w.keyed.id}}, "X-Api-Key", key)
		},
	} {
		right, wrong := ask("right"), ask("wrong")
		if right.refusal() == wrong.refusal() || wrong.status == http.StatusTooManyRequests {
			t.Fatalf("%s: %d %s, and wrong %d %s", name, right.status, right.body, wrong.status, wrong.body)
		}
		for range published.Anonymous.Size {
			ask("wrong")
		}
		// Nobody tells the right one by it.
		limitedFor(t, ask("right"), "temporarily_unavailable")
		if a := w.get("/oauth/grants/gr_x", "Authorization", basic(w.standard.id, w.standard.secret.Reveal()), "X-Api-Key", "of a gateway"); a.status != http.StatusNotFound {
			t.Errorf("grants, by a secret: %d %s", a.status, a.body)
		}
		w.advance(2 * time.Second)
		if a := ask("right"); a.refusal() != right.refusal() {
			t.Errorf("%s, with a token again: %d %s", name, a.status, a.body)
		}
		for range oauth.GuessesMax {
			ask("wrong")
			w.advance(2 * time.Second)
		}
		w.flush()
		for _, key := range []string{"wrong", "right"} {
			if wait := limitedFor(t, ask(key), "temporarily_unavailable"); wait < oauth.GuessesClosed/2 {
				t.Errorf("%s, %s: Retry-After %v", name, key, wait)
			}
		}
		for _, key := range []string{"wrong", "right"} { // where no key is asked for, nobody tells it either
			if wait := limitedFor(t, w.get("/oauth/grants/gr_x", "Authorization", basic(w.keyed.id, ""), "X-Api-Key", key), "temporarily_unavailable"); wait < oauth.GuessesClosed/2 {
				t.Errorf("grants, %s: Retry-After %v", key, wait)
			}
		}
		w.advance(2 * oauth.GuessesWindow)
		if a := ask("right"); a.refusal() != right.refusal() {
			t.Errorf("%s, open again: %d %s", name, a.status, a.body)
		}
	}
}

// An app without a key is heard whatever it shows: there is nothing to be guessed.
func TestLimits_AKeyThatNobodyAskedFor(t *testing.T) {
	w := newLimitedWorld(t, published)
	direct := url.Values{"client_id": {w.direct.id}, "redirect_uri": {oauth.OutOfBand}, "response_type": {"code"}, "state": {"s"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	_, stays := w.key(w.direct)
	_, rotates := w.key(w.public)
	key := []string{"X-Api-Key", "of a gateway"}
	refresh := func(a app, token string) answer {
		return w.post("/oauth/token", url.Values{"client_id": {a.id}, "grant_type": {"refresh_token"}, "refresh_token": {token}}, key...)
	}
	for w.post("/oauth/token", url.Values{"client_id": {"nobody"}}).status != http.StatusTooManyRequests {
	}
	for what, a := range map[string]answer{
		"authorize":      w.get("/oauth/authorize?"+direct.Encode(), key...),
		"token":          refresh(w.direct, stays),
		"token, another": refresh(w.public, rotates),
		"revoke":         w.post("/oauth/revoke", url.Values{"client_id": {w.public.id}, "token": {"x"}}, key...),
	} {
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	limitedFor(t, w.post("/oauth/token", url.Values{"client_id": {w.keyed.id}}, key...), "temporarily_unavailable")
	limitedFor(t, w.post("/oauth/token", url.Values{"client_id": {"nobody"}}, key...), "temporarily_unavailable")
}

// Many guesses that come at once are all looked at before the first of them has paid. No
// more are told apart than the bucket had tokens, and each of them counts.
func TestLimits_APIKeysAtOnce(t *testing.T) {
	for name, ask := range map[string]func(w *world, key string) *http.Request{
		"authorize": func(w *world, key string) *http.Request {
			return with(httptest.NewRequest(http.MethodGet, "/oauth/authorize?client_id="+w.keyed.id, nil), "X-Api-Key", key)
		},
		"token": func(w *world, key string) *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader("client_id="+w.keyed.id))
			return with(r, "Content-Type", "application/x-www-form-urlencoded", "X-Api-Key", key)
		},
		"revoke": func(w *world, key string) *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/oauth/revoke", strings.NewReader("client_id="+w.keyed.id))
			return with(r, "Content-Type", "application/x-www-form-urlencoded", "X-Api-Key", key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLimitedWorld(t, published)
			const wrong = oauth.GuessesMax
			// What a request reads last is what the key is compared with.
			type asking struct {
				reads int
				gate  chan struct{}
			}
			type isAsking struct{}
			came, last := make(chan struct{}, wrong+1), 0
			hold := func(ctx context.Context) {
				a := ctx.Value(isAsking{}).(*asking)
				if a.reads++; a.reads == last {
					came <- struct{}{}
					<-a.gate
				}
			}
			w.hold.Store(&hold)
			send := func(key string, a *asking) answer {
				r := ask(w, key)
				return w.do(r.WithContext(context.WithValue(r.Context(), isAsking{}, a)))
			}
			var alone asking
			right := send("right", &alone)
			for range 3 * published.Anonymous.Size {
				if a := send("right", &asking{}); a.status != right.status || a.body != right.body {
					t.Fatalf("the right one is charged: %d %s", a.status, a.body)
				}
			}
			last = alone.reads
			first, then := make(chan struct{}), make(chan struct{})
			answered, found := make(chan answer, wrong), make(chan answer, 1)
			for n := range wrong {
				go func() { answered <- send(fmt.Sprint("wrong ", n), &asking{gate: first}) }()
			}
			go func() { found <- send("right", &asking{gate: then}) }()
			for n := range wrong + 1 {
				select {
				case <-came:
				case <-time.After(20 * time.Second):
					t.Fatalf("only %d came", n)
				}
			}
			close(first)
			told := 0
			var over answer
			for range wrong {
				if a := <-answered; a.status == http.StatusTooManyRequests {
					over = a
				} else {
					told++
				}
			}
			if told != published.Anonymous.Size {
				t.Errorf("%d wrong keys were told so, with %d tokens", told, published.Anonymous.Size)
			}
			close(then)
			if a := <-found; a.status != over.status || a.body != over.body || a.header.Get("Retry-After") != over.header.Get("Retry-After") {
				t.Errorf("the right one is told apart: %d %s", a.status, a.body)
			}
			w.hold.Store(nil)
			w.flush()
			if wait := limitedFor(t, w.do(ask(w, "right")), "temporarily_unavailable"); wait != oauth.GuessesClosed {
				t.Errorf("after %d wrong ones: Retry-After %v", wrong, wait)
			}
		})
	}
}

// Who sets no limit of his own has a proxy for that. Secrets are guarded all the same.
func TestLimits_OffStillCountsWrongSecrets(t *testing.T) {
	w := newLimitedWorld(t, Limits{})
	for range oauth.GuessesMax {
		w.exchangeFrom(1, w.exchange, "wrong", "x")
	}
	w.flush()
	if wait := limitedFor(t, w.exchangeFrom(2, w.exchange, "wrong", "x"), "RateLimited"); wait < oauth.GuessesClosed/2 {
		t.Errorf("Retry-After %v", wait)
	}
	if a := w.exchangeFrom(2, w.other, "wrong", "x"); a.refusal() != "invalid_client_secret" {
		t.Errorf("another app: %d %s", a.status, a.body)
	}
}

// However many ask at once, no more get through than the bucket holds.
func TestLimits_AtOnce(t *testing.T) {
	w := newLimitedWorld(t, published)
	var heard, sent atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			switch a := w.exchangeFrom(1, w.exchange, w.exchange.secret, "unknown"); a.status {
			case http.StatusForbidden:
				heard.Add(1)
			case http.StatusTooManyRequests:
				sent.Add(1)
			default:
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	group.Wait()
	if heard.Load() != 12 || sent.Load() != 52 {
		t.Errorf("%d heard, %d sent away", heard.Load(), sent.Load())
	}
}

// A fault of ours is charged to nobody.
func TestLimits_OurFaultsAreFree(t *testing.T) {
	w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}})
	w.db.Close()
	for range 5 {
		if a := w.exchangeFrom(1, w.exchange, "wrong", "x"); a.status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", a.status, a.body)
		}
		for target, id := range map[string]string{"/oauth/token": w.standard.id, "/oauth/introspect": w.api.ID} {
			if a := w.post(target, url.Values{"client_id": {id}, "client_secret": {"wrong"}, "token": {"x"}}); a.status != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", target, a.status, a.body)
			}
		}
	}
}

// A household's IPv6 addresses are one; an address that cannot be read is limited
// too.
func TestLimits_Addresses(t *testing.T) {
	w := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}})
	for _, c := range []struct {
		remote  string
		limited bool
	}{
		{"[2001:db8:1:2::1]:1", false}, {"[2001:db8:1:2:ffff::9]:2", true}, {"[2001:db8:1:ff::1]:1", true}, {"[2001:db8:1:100::1]:1", false},
		{"[::ffff:203.0.113.1]:1", false}, {"203.0.113.1:2", true}, {"203.0.113.2:2", false},
		{"pipe", false}, {"", true},
	} {
		r := with(httptest.NewRequest(http.MethodGet, "/oauth2/"+w.exchange.id+"/exchange/x", nil), "User-Agent", "x", "X-Client-Secret", "wrong")
		r.RemoteAddr = c.remote
		if a := w.do(r); (a.status == http.StatusTooManyRequests) != c.limited {
			t.Errorf("%q: %d, limited %v", c.remote, a.status, c.limited)
		}
	}
}

// Very many addresses cost a bounded memory, and an address that comes again and
// again is not forgotten among them.
func TestLimits_ManyAddresses(t *testing.T) {
	b := newBuckets(published.Anonymous, func() time.Time { return start })
	regular := "198.51.100.1/32"
	for range 11 {
		b.take(regular)
	}
	for i := range 300_000 {
		b.take(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255))
		if i%1000 == 0 {
			if _, ok := b.take(regular); ok {
				t.Fatalf("after %d others the regular's bucket is full again", i)
			}
		}
	}
	b.used.CleanUp()
	if n := b.used.EstimatedSize(); n > bucketsMax {
		t.Errorf("%d buckets are kept", n)
	}
}

// A bucket that is full is forgotten.
func TestLimits_FullBucketsAreForgotten(t *testing.T) {
	var passed atomic.Int64 // the cache asks for the time in goroutines of its own, too
	b := newBuckets(published.Anonymous, func() time.Time { return start.Add(time.Duration(passed.Load())) })
	b.take("a")
	passed.Add(int64(17500*time.Millisecond - 1)) // 10 × 7 s / 4
	if _, found := b.used.GetIfPresent("a"); !found {
		t.Error("forgotten before it was full")
	}
	passed.Add(int64(17500 * time.Millisecond))
	if _, found := b.used.GetIfPresent("a"); found {
		t.Error("still there when it was full")
	}
}

// BenchmarkLimit is what the limits add to an exchange.
func BenchmarkLimit(b *testing.B) {
	h := &handler{clients: newBuckets(oauth.Bucket{Size: 1e9, Refill: 1e9, Every: time.Millisecond}, time.Now)}
	admit := h.admit
	clients := make([]*oauth.Client, 1000)
	for i := range clients {
		clients[i] = &oauth.Client{ID: fmt.Sprintf("11111111-2222-4333-8444-%012d", i)}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := admit(clients[i%len(clients)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
