package oauth_test

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

const (
	issuer   = "https://id.example"
	audience = "https://api.example"

	// The pair of RFC 7636, appendix B.
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

	callback = "https://client.example/callback"
	loopback = "http://127.0.0.1/callback"
)

var (
	command = oauth.Actor{Kind: oauth.AsCommand}
	alice   = oauth.Actor{Kind: oauth.AsUser, ID: "alice"}
	bob     = oauth.Actor{Kind: oauth.AsUser, ID: "bob"}
	start   = time.Date(2026, 3, 2, 9, 30, 0, 123_456_000, time.UTC)
)

// world is one server on a SQLite file of its own. Everybody in it:
//
//	alice   owns s1, s2 and s4; may see and deliver orders in s3; may not open s4 to apps
//	bob     owns b1 and shares s1 with alice, where he may see it and its orders
//	carol   has no store
//
// and one app of each kind. Each asks for stores.view, stores.orders.view and
// user.view; stores.orders.deliver is optional.
type world struct {
	*oauth.Server
	t     testing.TB
	db    *sqlstore.Store
	clock *clock
	rand  *source
	house
}

// house is what every world begins with.
type house struct {
	ring     string
	api      oauth.ClientAuth
	exchange app // confidential, lasting keys
	other    app // a second one of that kind
	standard app // confidential
	public   app // standard, public
	nopkce   app // standard, confidential, without PKCE
	direct   app // fixed refresh token
	rotating app // direct, rotates
}

type app struct {
	id     string
	secret oauth.Secret
	oauth.Client
}

func (a app) auth() oauth.ClientAuth { return oauth.ClientAuth{ID: a.id, Secret: a.secret} }

// clock stands still until a test moves it.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// newRand is randomness that is the same in every run.
func newRand(seed string) io.Reader { return rand.NewChaCha8(sha256.Sum256([]byte(seed))) }

// source is randomness that can fail: reads after the next n fail while armed.
type source struct {
	mu    sync.Mutex
	from  io.Reader
	armed bool
	left  int
}

var errRand = errors.New("no randomness")

func (s *source) Read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed {
		if s.left == 0 {
			return 0, errRand
		}
		s.left--
	}
	return s.from.Read(b)
}

func (s *source) failAfter(n int) { s.armed, s.left = true, n }
func (s *source) heal()           { s.armed = false }

var first struct {
	sync.Once
	path string
	house
	err error
}

var workDir string

func TestMain(m *testing.M) {
	var err error
	if workDir, err = os.MkdirTemp("", "oauth"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(workDir)
	os.Exit(code)
}

func makeFirst() { first.path, first.house, first.err = build("house") }

func newWorld(t testing.TB) *world {
	t.Helper()
	first.Do(makeFirst)
	if first.err != nil {
		t.Fatal(first.err)
	}
	return worldOf(t, first.path, first.house)
}

// bubbled runs a test in a bubble of testing/synctest: whatever the machine does meanwhile,
// no time passes but what the test waits for. What is about how old a reading may be, or
// how long anybody waits, is tested there.
func bubbled(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	first.Do(makeFirst)
	synctest.Test(t, func(t *testing.T) {
		<-time.After(oauth.UntilStart()) // a server counts from there
		do(t)
	})
}

// newInstallation is a world with keys of its own: those of newWorld are copies of one.
func newInstallation(t testing.TB) *world {
	t.Helper()
	path, h, err := build(cryptorand.Text())
	if err != nil {
		t.Fatal(err)
	}
	return worldOf(t, path, h)
}

func worldOf(t testing.TB, first string, h house) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "grantway.db")
	for _, part := range []string{"", "-wal"} {
		data, err := os.ReadFile(first + part)
		if errors.Is(err, fs.ErrNotExist) && part != "" {
			continue
		}
		if err == nil {
			err = os.WriteFile(path+part, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, clock: &clock{at: start}, house: h}
	w.open(path)
	return w
}

func (w *world) open(path string) {
	w.t.Helper()
	ctx := context.Background()
	var err error
	if w.db, err = sqlstore.Open(ctx, path); err != nil {
		w.t.Fatal(err)
	}
	db := w.db
	w.t.Cleanup(func() {
		replayable(w.t, db)
		db.Close()
	})
	w.rand = &source{from: newRand("world")}
	if w.Server, err = newServer(ctx, w.db, w.house, w.clock.now, w.rand); err != nil {
		w.t.Fatal(err)
	}
}

// replayable demands that a replay knows the kind of every event that has a place in
// the feed: a log with one that it does not know cannot be used for a restore.
func replayable(t testing.TB, db *sqlstore.Store) {
	const page = 1000
	unknown := map[oauth.Kind]bool{}
	for seq := int64(0); ; {
		list, err := db.FeedAfter(context.Background(), seq, page)
		if err != nil { // the test has closed it
			return
		}
		for _, e := range list {
			if seq = e.Seq; !oauth.Replayed(e.Kind) && !unknown[e.Kind] {
				unknown[e.Kind] = true
				t.Errorf("%s has a place in the feed and is not in replays", e.Kind)
			}
		}
		if len(list) < page {
			return
		}
	}
}

func newServer(ctx context.Context, db *sqlstore.Store, h house, now func() time.Time, random io.Reader, most ...oauth.Bucket) (*oauth.Server, error) {
	ring, err := oauth.ParseKeyRing(h.ring)
	if err != nil {
		return nil, err
	}
	c := oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: db, Ring: ring, Now: now, Rand: random}
	for _, b := range most {
		c.Decisions = b
	}
	return oauth.New(ctx, c)
}

var catalogue = sync.OnceValue(func() *oauth.Catalogue {
	data, err := os.ReadFile("../demo/catalogue.yaml")
	if err != nil {
		panic(err)
	}
	c, err := config.ParseCatalogue(data)
	if err != nil {
		panic(err)
	}
	return c
})

// build makes the file that every world is copied from.
func build(name string) (path string, h house, err error) {
	ctx := context.Background()
	path = filepath.Join(workDir, name+".db")
	random := newRand(name)
	if h.ring, err = oauth.NewKeyRing(random); err != nil {
		return "", h, err
	}
	db, err := sqlstore.Open(ctx, path)
	if err != nil {
		return "", h, err
	}
	defer func() { err = cmp.Or(db.Close(), err) }()
	if err = db.Migrate(ctx); err != nil {
		return "", h, err
	}
	s, err := newServer(ctx, db, h, func() time.Time { return start.Add(-time.Hour) }, random)
	if err != nil {
		return "", h, err
	}
	try := func(e error) { err = cmp.Or(err, e) }
	for _, u := range []string{"alice", "bob", "carol"} {
		try(s.PutUser(ctx, command, oauth.User{ID: u, Name: strings.ToUpper(u[:1]) + u[1:], Email: u + "@example.com"}))
	}
	for _, st := range []string{"s1", "s2", "s3", "s4", "b1"} {
		try(s.PutStore(ctx, command, oauth.Store{ID: st, Name: "Store " + st}))
	}
	for _, m := range []oauth.Membership{
		{UserID: "alice", StoreID: "s1", Owner: true, MayDelegate: true},
		{UserID: "alice", StoreID: "s2", Owner: true, MayDelegate: true},
		{UserID: "alice", StoreID: "s3", Scopes: oauth.Scopes("stores.orders.view", "stores.orders.deliver"), MayDelegate: true},
		{UserID: "alice", StoreID: "s4", Owner: true},
		{UserID: "bob", StoreID: "b1", Owner: true, MayDelegate: true},
		{UserID: "bob", StoreID: "s1", Scopes: oauth.Scopes("stores.view", "stores.orders.view"), MayDelegate: true},
	} {
		try(s.SetMembership(ctx, command, m))
	}
	make := func(to *app, f oauth.ClientForm) {
		c, secret, e := s.CreateClient(ctx, command, f)
		if try(e); e == nil {
			*to = app{c.ID, secret, *c}
		}
	}
	make(&h.exchange, form("Exporter", oauth.Exchange, oauth.Confidential))
	make(&h.other, form("Other", oauth.Exchange, oauth.Confidential))
	make(&h.standard, form("Books", oauth.Standard, oauth.Confidential))
	make(&h.public, form("Pocket", oauth.Standard, oauth.Public))
	old := form("Old", oauth.Standard, oauth.Confidential)
	old.Settings.NoPKCE = true
	make(&h.nopkce, old)
	make(&h.direct, form("Stylist", oauth.Direct, oauth.Public))
	rotating := form("Wardrobe", oauth.Direct, oauth.Public)
	rotating.Settings.RotateRefresh, rotating.Settings.ContinueGuest = true, true
	make(&h.rotating, rotating)
	id, secret, e := s.AddAPISecret(ctx, command)
	try(e)
	h.api = oauth.ClientAuth{ID: id, Secret: secret}
	return path, h, err
}

func form(name string, p oauth.ProfileName, t oauth.ClientType) oauth.ClientForm {
	f := oauth.ClientForm{Name: name, Profile: p, Type: t, Redirects: []string{callback, loopback}, Scopes: []oauth.ClientScope{
		{Name: "stores.view", Required: true}, {Name: "stores.orders.view", Required: true},
		{Name: "stores.orders.deliver"}, {Name: "user.view", Required: true}}}
	if p == oauth.Direct {
		f.Redirects, f.Scopes = []string{oauth.OutOfBand}, nil
	}
	return f
}

// query is a right authorization request of an app; pairs replace parameters, and
// "" removes one.
func (w *world) query(a app, pairs ...string) url.Values {
	q := url.Values{"client_id": {a.id}, "redirect_uri": {string(a.Redirects[0])}, "state": {"xyz"}}
	if a.Profile != oauth.Exchange {
		q.Set("response_type", "code")
		q.Set("code_challenge", challenge)
		q.Set("code_challenge_method", "S256")
	}
	for i := 0; i < len(pairs); i += 2 {
		if q.Set(pairs[i], pairs[i+1]); pairs[i+1] == "" {
			q.Del(pairs[i])
		}
	}
	return q
}

// ask validates a request that must be in order.
func (w *world) ask(a app, pairs ...string) *oauth.AuthorizationRequest {
	w.t.Helper()
	r, back, err := w.Authorize(context.Background(), w.query(a, pairs...))
	if err != nil || r == nil {
		w.t.Fatalf("Authorize: %v %s", err, back.URL())
	}
	return r
}

// decide presses Allow with every optional scope ticked.
func (w *world) decide(user string, r *oauth.AuthorizationRequest, stores ...string) (oauth.Redirect, error) {
	return w.Decide(context.Background(), user, r, oauth.Decision{Allow: true, Stores: stores, Scopes: []string{"stores.orders.deliver"}, AuthTime: w.Now()})
}

// allow decides a request that must succeed and returns the code.
func (w *world) allow(user string, r *oauth.AuthorizationRequest, stores ...string) string {
	w.t.Helper()
	back, err := w.decide(user, r, stores...)
	if err != nil {
		w.t.Fatalf("Decide: %v", err)
	}
	return param(w.t, back, "code")
}

func (w *world) code(a app, user string, stores ...string) string {
	w.t.Helper()
	if a.Profile == oauth.Direct {
		return w.guestCode(a)
	}
	return w.allow(user, w.ask(a), stores...)
}

func (w *world) guestCode(a app) string {
	w.t.Helper()
	d, err := w.AuthorizeDirect(context.Background(), oauth.DirectRequest{Query: w.query(a)})
	if err != nil {
		w.t.Fatalf("AuthorizeDirect: %v", err)
	}
	return d.Code.Reveal()
}

// redemption is the token request that redeems a code of the app.
func redemption(a app, code string) oauth.TokenRequest {
	r := oauth.TokenRequest{Auth: a.auth(), GrantType: oauth.GrantAuthorizationCode, Code: code}
	if a.Profile != oauth.Exchange {
		r.RedirectURI, r.Verifier = string(a.Redirects[0]), verifier
	}
	return r
}

func (w *world) redeem(a app, code string) (*oauth.TokenResponse, error) {
	return w.Token(context.Background(), redemption(a, code))
}

// connect walks the whole way: request, consent, exchange.
func (w *world) connect(a app, user string, stores ...string) *oauth.TokenResponse {
	w.t.Helper()
	resp, err := w.redeem(a, w.code(a, user, stores...))
	if err != nil {
		w.t.Fatalf("Token: %v", err)
	}
	return resp
}

func refresh(a app, token string, scope ...string) oauth.TokenRequest {
	return oauth.TokenRequest{Auth: a.auth(), GrantType: oauth.GrantRefreshToken, RefreshToken: token, Scope: strings.Join(scope, " ")}
}

func (w *world) introspect(token oauth.Secret) *oauth.Introspection {
	w.t.Helper()
	in, err := w.introspection(token.Reveal())
	if err != nil {
		w.t.Fatalf("Introspect: %v", err)
	}
	return in
}

// patience is how long a test waits for what is to come, whatever else the machine does.
const patience = 20 * time.Second

// known asks a node for what it tells if it knows the present. A busy machine may keep it
// from that for a moment, and then it says so: it is asked again.
func known[T any](ask func() (T, error)) (T, error) {
	for began := time.Now(); ; {
		v, err := ask()
		if oauth.ReasonOf(err) != oauth.FeedUnknown || time.Since(began) > patience {
			return v, err
		}
	}
}

// introspection asks for the API.
func (w *world) introspection(token string) (*oauth.Introspection, error) {
	return known(func() (*oauth.Introspection, error) { return w.Introspect(context.Background(), w.api, token) })
}

// rights is what introspection says of a key, in one line: "s1,s2: a b; s3: a |
// flat", or "inactive".
func (w *world) rights(token oauth.Secret) string {
	w.t.Helper()
	in := w.introspect(token)
	if in == nil {
		return "inactive"
	}
	return line(in.Rights, in.Scope)
}

// printed is the same of what stands in the key itself.
func printed(t testing.TB, token oauth.Secret) string {
	t.Helper()
	c := claims(t, token)
	return line(c.Rights, c.Scope)
}

func line(rights []oauth.Right, scope string) string {
	var rows []string
	for _, r := range rights {
		rows = append(rows, strings.Join(r.Stores, ",")+": "+short(r.Scope))
	}
	return strings.TrimSpace(strings.Join(rows, "; ") + " | " + short(scope))
}

func short(scope string) string {
	return strings.NewReplacer("stores.orders.view", "orders", "stores.orders.deliver", "deliver", "stores.view", "view", "user.view", "me").Replace(scope)
}

// claims decodes a key without verifying it.
func claims(t testing.TB, token oauth.Secret) (c oauth.Claims) {
	t.Helper()
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts in a key", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func param(t rapid.TB, back oauth.Redirect, name string) string {
	t.Helper()
	u, err := url.Parse(back.URL())
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get(name)
}

func wantReason(t rapid.TB, err error, want oauth.Reason) {
	t.Helper()
	if got := oauth.ReasonOf(err); got != want {
		t.Errorf("reason %q (%v), want %q", got, err, want)
	}
}

// kinds lists the kinds of the newest events of a filter, newest first.
func (w *world) kinds(f oauth.EventFilter) []oauth.Kind {
	w.t.Helper()
	f.Limit = 100
	events, err := w.Events(context.Background(), command, f)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []oauth.Kind
	for _, e := range events {
		out = append(out, e.Kind)
	}
	return out
}

func (w *world) grant(id string) oauth.Connection {
	w.t.Helper()
	list, err := w.Grants(context.Background(), command, oauth.GrantFilter{ID: id, Page: oauth.Page{Limit: 1}})
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(c oauth.Connection) bool { return c.ID == id })
	if i < 0 {
		w.t.Fatalf("no grant %s", id)
	}
	return list[i]
}

// membership changes what a user may do.
func (w *world) membership(m oauth.Membership) {
	w.t.Helper()
	if err := w.SetMembership(context.Background(), command, m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func s256(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

var rawURL = base64.RawURLEncoding.DecodeString
