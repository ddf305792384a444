package endpoint

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

const (
	issuer   = "https://id.example"
	audience = "https://api.example"
	callback = "https://client.example/callback"

	// The pair of RFC 7636, appendix B.
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

var (
	command = oauth.Actor{Kind: oauth.AsCommand}
	start   = time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC)
)

// world is the endpoints on a database of their own, with alice, who owns s1 and
// s2, and an app of each kind.
type world struct {
	http.Handler
	t      testing.TB
	server *oauth.Server
	db     *sqlstore.Store
	log    *sink
	random *source

	hold atomic.Pointer[func(context.Context)] // if set, called after a client was read, before the answer is given

	mu   sync.Mutex
	at   time.Time
	slow time.Time // if set, a clock a hundred times slower than the wall's has run since then

	api                                                      oauth.ClientAuth
	exchange, other, standard, nopkce, public, direct, keyed app
}

type app struct {
	id     string
	secret oauth.Secret
	client *oauth.Client
}

// held is a storage whose answers about a client can be held up.
type held struct {
	oauth.Storage
	hold *atomic.Pointer[func(context.Context)]
}

func (s held) Client(ctx context.Context, id string) (*oauth.Client, error) {
	c, err := s.Storage.Client(ctx, id)
	if hold := s.hold.Load(); hold != nil {
		(*hold)(ctx)
	}
	return c, err
}

func newWorld(t testing.TB) *world { return newWorldAt(t, issuer, "") }

// newWorldAt is a world of another issuer or, if dsn is not "", database.
func newWorldAt(t testing.TB, issuer, dsn string) *world {
	t.Helper()
	ctx := context.Background()
	random := &source{from: rand.NewChaCha8(sha256.Sum256([]byte("endpoint")))}
	w := &world{t: t, at: start, log: &sink{}, random: random}
	var err error
	must := func(e error) {
		t.Helper()
		if err = cmp.Or(err, e); err != nil {
			t.Fatal(err)
		}
	}
	w.db, err = sqlstore.Open(ctx, cmp.Or(dsn, filepath.Join(t.TempDir(), "grantway.db")))
	must(err)
	t.Cleanup(func() { w.db.Close() })
	must(w.db.Migrate(ctx))
	text, err := oauth.NewKeyRing(random)
	must(err)
	ring, err := oauth.ParseKeyRing(text)
	must(err)
	scopes := []oauth.ClientScope{{Name: "stores.view", Required: true}, {Name: "stores.orders.view", Required: true}}
	w.server, err = oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Storage: held{w.db, &w.hold}, Ring: ring, Now: w.now, Rand: random,
		Catalogue: oauth.NewCatalogue([]oauth.Scope{{Name: "stores.view", Kind: oauth.StoreScope}, {Name: "stores.orders.view", Kind: oauth.StoreScope}}, nil)})
	must(err)
	must(w.server.PutUser(ctx, command, oauth.User{ID: "alice", Name: "Alice", Email: "alice@example.com"}))
	for _, id := range []string{"s1", "s2"} {
		must(w.server.PutStore(ctx, command, oauth.Store{ID: id, Name: "Store " + id}))
		must(w.server.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: id, Owner: true, MayDelegate: true}))
	}
	register := func(name string, p oauth.ProfileName, typ oauth.ClientType, more oauth.ClientSettings) app {
		f := oauth.ClientForm{Name: name, Profile: p, Type: typ, Redirects: []string{callback, "http://127.0.0.1/callback"}, Scopes: scopes, Settings: more}
		if p == oauth.Direct {
			f.Redirects, f.Scopes = []string{oauth.OutOfBand}, nil
		}
		c, secret, err := w.server.CreateClient(ctx, command, f)
		must(err)
		return app{c.ID, secret, c}
	}
	w.exchange = register("Exporter", oauth.Exchange, oauth.Confidential, oauth.ClientSettings{})
	w.other = register("Other", oauth.Exchange, oauth.Confidential, oauth.ClientSettings{})
	w.standard = register("Books", oauth.Standard, oauth.Confidential, oauth.ClientSettings{})
	w.nopkce = register("Old", oauth.Standard, oauth.Confidential, oauth.ClientSettings{NoPKCE: true})
	w.public = register("Pocket", oauth.Standard, oauth.Public, oauth.ClientSettings{})
	w.direct = register("Stylist", oauth.Direct, oauth.Public, oauth.ClientSettings{})
	w.keyed = register("Wardrobe", oauth.Direct, oauth.Public, oauth.ClientSettings{APIKeyHash: oauth.HashOf("right")})
	w.api.ID, w.api.Secret, err = w.server.AddAPISecret(ctx, command)
	must(err)
	w.Handler = New(Config{Server: w.server, Authorize: http.HandlerFunc(portal), Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	return w
}

// portal stands where cmd puts the pages.
func portal(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, "a page for people")
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.slow.IsZero() {
		return w.at.Add(time.Since(w.slow) / 100)
	}
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// source is randomness that is the same in every run and fails while fail is set.
type source struct {
	mu   sync.Mutex
	from io.Reader
	fail error
}

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return 0, s.fail
	}
	return s.from.Read(b)
}

// sink keeps what is logged.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// code has alice connect both stores and returns the code. The header is a direct app's.
func (w *world) code(a app, header ...string) string { return w.codeOf("alice", a, header...) }

func (w *world) codeOf(user string, a app, header ...string) string {
	w.t.Helper()
	q := url.Values{"client_id": {a.id}, "redirect_uri": {string(a.client.Redirects[0])}, "state": {"xyz"}}
	if a.client.Profile != oauth.Exchange {
		q.Set("response_type", "code")
	}
	if a.client.Profile != oauth.Exchange && a.id != w.nopkce.id {
		q.Set("code_challenge", challenge)
		q.Set("code_challenge_method", "S256")
	}
	if a.client.Profile == oauth.Direct {
		var answer struct{ Code string }
		w.get("/oauth/authorize?"+q.Encode(), header...).json(w.t, &answer)
		return answer.Code
	}
	r, back, err := w.server.Authorize(context.Background(), q)
	if err != nil || r == nil {
		w.t.Fatalf("Authorize: %v %s", err, back.URL())
	}
	return w.allow(user, r)
}

// allow has a user connect stores; none: s1 and s2.
func (w *world) allow(user string, r *oauth.AuthorizationRequest, stores ...string) string {
	w.t.Helper()
	if stores == nil {
		stores = []string{"s1", "s2"}
	}
	back, err := w.server.Decide(context.Background(), user, r, oauth.Decision{Allow: true, Stores: stores, AuthTime: w.now()})
	if err != nil {
		w.t.Fatalf("Decide: %v", err)
	}
	u, err := url.Parse(back.URL())
	if err != nil {
		w.t.Fatal(err)
	}
	return u.Query().Get("code")
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
}

// refusal is the wire code of either dialect's refusal, "" if there is none.
func (a answer) refusal() string {
	var e struct{ Error, Code string }
	json.Unmarshal([]byte(a.body), &e)
	return cmp.Or(e.Error, e.Code)
}

// do asks, and demands that whatever is told keeps to the characters of RFC 6749, 5.2.
func (w *world) do(r *http.Request) answer {
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	got := answer{rec.Code, rec.Header(), rec.Body.String()}
	if text := description(got); strings.ContainsFunc(text, outsideDescription) {
		w.t.Errorf("%s: error_description %q (RFC 6749, 5.2)", r.URL.Path, text)
	}
	return got
}

func (w *world) get(target string, header ...string) answer {
	return w.do(with(httptest.NewRequest(http.MethodGet, target, nil), header...))
}

func (w *world) post(target string, form url.Values, header ...string) answer {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.do(with(r, header...))
}

func with(r *http.Request, header ...string) *http.Request {
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// redeem exchanges a code as its app does.
func (w *world) redeem(a app, code string) answer {
	switch {
	case a.client.Profile == oauth.Exchange:
		return w.get("/oauth2/"+a.id+"/exchange/"+code, "X-Client-Secret", a.secret.Reveal(), "User-Agent", "Exporter/1.0")
	case a.client.Type == oauth.Public:
		return w.post("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "client_id": {a.id}, "code": {code},
			"code_verifier": {verifier}, "redirect_uri": {string(a.client.Redirects[0])}})
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}}
	if a.id != w.nopkce.id {
		form.Set("code_verifier", verifier)
	}
	return w.post("/oauth/token", form, "Authorization", basic(a.id, a.secret.Reveal()))
}

// key redeems a fresh code and returns the access token and the refresh token.
func (w *world) key(a app) (access, refresh string) { return w.keyOf("alice", a) }

func (w *world) keyOf(user string, a app) (access, refresh string) {
	w.t.Helper()
	got := w.redeem(a, w.codeOf(user, a))
	if got.status != http.StatusOK {
		w.t.Fatalf("%d %s", got.status, got.body)
	}
	var ok struct {
		Data    string
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	got.json(w.t, &ok)
	return cmp.Or(ok.Data, ok.Access), ok.Refresh
}

func basic(id, secret string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return r.Header.Get("Authorization")
}

// known asks again while the answer is that the node does not know the present, as a busy machine may keep it from that
// for a moment.
func known(ask func() answer) answer {
	for began := time.Now(); ; {
		if got := ask(); got.status != http.StatusServiceUnavailable || time.Since(began) > 20*time.Second {
			return got
		}
	}
}

func (w *world) active(token string) bool {
	w.t.Helper()
	got := known(func() answer {
		return w.post("/oauth/introspect", url.Values{"token": {token}}, "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
	})
	if got.status != http.StatusOK {
		w.t.Fatalf("introspection: %d %s", got.status, got.body)
	}
	var in struct{ Active bool }
	got.json(w.t, &in)
	return in.Active
}
