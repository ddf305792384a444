package oauth_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/grantway/grantway/internal/oauth"
)

// watched is a storage that counts what the cache saves, and can fail to read the
// signing keys and to count wrong secrets.
type watched struct {
	oauth.Storage
	reads    atomic.Int64 // of apps and audiences
	failKeys atomic.Int64 // so many reads of signing keys fail

	failGuesses atomic.Int64 // so many counts of wrong secrets fail
}

var (
	errKeys    = errors.New("the keys cannot be read")
	errGuesses = errors.New("wrong secrets cannot be counted")
)

func (s *watched) CountWrongSecrets(ctx context.Context, now time.Time, counts []oauth.WrongSecrets) ([]time.Time, error) {
	if s.failGuesses.Add(-1) >= 0 {
		return nil, errGuesses
	}
	return s.Storage.CountWrongSecrets(ctx, now, counts)
}

func (s *watched) Client(ctx context.Context, id string) (*oauth.Client, error) {
	s.reads.Add(1)
	return s.Storage.Client(ctx, id)
}

func (s *watched) API(ctx context.Context, id string) (*oauth.API, error) {
	s.reads.Add(1)
	return s.Storage.API(ctx, id)
}

func (s *watched) SigningKeys(ctx context.Context) ([]oauth.StoredKey, error) {
	if s.failKeys.Add(-1) >= 0 {
		return nil, errKeys
	}
	return s.Storage.SigningKeys(ctx)
}

// beside makes a second server on the database of w, as another node would be.
func (w *world) beside() (*world, *watched) {
	w.t.Helper()
	ring, err := oauth.ParseKeyRing(w.ring)
	if err != nil {
		w.t.Fatal(err)
	}
	storage := &watched{Storage: w.db}
	s, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage,
		Ring: ring, Now: w.clock.now, Rand: newRand("beside " + w.t.Name())})
	if err != nil {
		w.t.Fatal(err)
	}
	other := *w
	other.Server = s
	return &other, storage
}

// raw opens the file of a world past the contract, as another program would.
func (w *world) raw() *sql.DB {
	w.t.Helper()
	found, err := filepath.Glob(filepath.Join(filepath.Dir(w.t.(*testing.T).TempDir()), "*", "grantway.db"))
	if err != nil || len(found) != 1 {
		w.t.Fatalf("the world's file: %q, %v", found, err)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: found[0]}).EscapedPath()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { db.Close() })
	return db
}

func exec(t *testing.T, db *sql.DB, text string, args ...any) {
	t.Helper()
	result, err := db.Exec(text, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		t.Fatalf("%s: %d rows, %v", text, n, err)
	}
}

// A secret that was revoked elsewhere is refused by the very next call, however
// warm the cache (DESIGN, decision 14: secrets are never decided from a cache).
func TestChores_SecretsAreNeverDecidedFromTheCache(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.beside()
	added, err := w.AddSecret(ctx, command, w.exchange.id)
	if err != nil {
		t.Fatal(err)
	}
	// Authenticated, so that the code is what is wrong.
	try := func(secret oauth.Secret, want oauth.Reason) {
		t.Helper()
		_, err := node.Token(ctx, oauth.TokenRequest{Auth: oauth.ClientAuth{ID: w.exchange.id, Secret: secret}, GrantType: oauth.GrantAuthorizationCode, Code: "no-code"})
		wantReason(t, err, want)
	}
	w.must(node.Follow(ctx))
	node.KeepWarm(time.Hour)
	try(w.exchange.secret, oauth.CodeUnknown)
	try(added, oauth.CodeUnknown)
	before := storage.reads.Load()
	text := w.exchange.secret.Reveal()
	w.must(w.RevokeSecret(ctx, command, w.exchange.id, text[len(text)-4:]))
	try(w.exchange.secret, oauth.SecretWrong)
	try(added, oauth.CodeUnknown)
	fresh, err := w.AddSecret(ctx, command, w.exchange.id)
	w.must(err)
	try(fresh, oauth.CodeUnknown)

	if storage.reads.Load() != before {
		t.Errorf("the app was read %d times again: the cache was cold and proves nothing", storage.reads.Load()-before)
	}

	key := w.connect(w.standard, "alice", "s1").AccessToken.Reveal()
	if in, err := node.introspection(key); err != nil || in == nil {
		t.Fatalf("%+v, %v", in, err)
	}
	exec(t, w.raw(), "DELETE FROM api_secrets WHERE hash = ?", []byte(oauth.HashOf(w.api.Secret)))
	_, err = node.introspection(key)
	wantReason(t, err, oauth.SecretWrong)
}

// Whoever holds a secret that was revoked a moment ago, and everything else that it
// takes, gets no key, learns nothing of the code, burns nothing and ends nothing,
// while the cache still knows the secret.
func TestChores_ARevokedSecretDoesNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, _ := w.beside()
	_, err := w.AddSecret(ctx, command, w.exchange.id)
	w.must(err)
	_, err = w.AddSecret(ctx, command, w.standard.id)
	w.must(err)
	w.must(node.Follow(ctx))
	node.KeepWarm(time.Hour)
	live, used := w.code(w.exchange, "alice", "s1"), w.code(w.exchange, "alice", "s1")
	key, err := node.Token(ctx, redemption(w.exchange, used)) // warms the cache
	w.must(err)
	chain := w.connect(w.standard, "alice", "s1")
	_, err = node.Token(ctx, refresh(w.standard, chain.RefreshToken.Reveal()))
	w.must(err)
	for _, a := range []app{w.exchange, w.standard} {
		text := a.secret.Reveal()
		w.must(w.RevokeSecret(ctx, command, a.id, text[len(text)-4:]))
	}
	w.clock.advance(11 * time.Second) // a replay would now end what the code issued
	for what, request := range map[string]oauth.TokenRequest{
		"a live code": redemption(w.exchange, live), "a used code": redemption(w.exchange, used), "an unknown code": redemption(w.exchange, "no-code"),
		"a refresh token": refresh(w.standard, chain.RefreshToken.Reveal()), "an unknown grant type": {Auth: w.exchange.auth(), GrantType: "x"},
	} {
		resp, err := node.Token(ctx, request)
		if resp != nil || oauth.ReasonOf(err) != oauth.SecretWrong {
			t.Errorf("%s: %v, %v", what, resp, err)
		}
	}
	if err := node.Revoke(ctx, w.standard.auth(), chain.AccessToken.Reveal()); oauth.ReasonOf(err) != oauth.SecretWrong {
		t.Errorf("revocation: %v", err)
	}
	if w.rights(key.AccessToken) == "inactive" || w.rights(chain.AccessToken) == "inactive" {
		t.Error("a dead secret has ended something")
	}
	if a, _ := oauth.ParseArtefact(live); true {
		code, _, err := w.db.Code(ctx, a.Selector)
		w.must(err)
		if code.RedeemedFamily != "" {
			t.Error("a dead secret has burnt a code")
		}
	}
}

// What another process does to an app is known within 100 ms of real time, though
// the app is kept between requests (docs/operating.md, Many nodes).
func TestChores_AnotherProcessIsSeenWithin100ms(t *testing.T) {
	w := newWorld(t)
	node, storage := w.beside()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { node.Run(ctx) })
	defer running.Wait()
	defer stop()
	status := func() oauth.Status {
		t.Helper()
		c, err := node.Client(ctx, w.standard.id)
		if err != nil {
			t.Fatal(err)
		}
		return c.Status
	}
	for round := range 6 {
		// Warm: asked a hundred times, it reads the app no more.
		for end := time.Now().Add(10 * time.Second); ; {
			before := storage.reads.Load()
			for range 100 {
				status()
			}
			if storage.reads.Load() == before {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the cache never got warm")
			}
		}
		want, change := oauth.Suspended, w.SuspendClient
		if round%2 == 1 {
			want, change = oauth.Active, w.ResumeClient
		}
		w.must(change(ctx, command, w.standard.id))
		changed := time.Now()
		for {
			asked := time.Since(changed) // before the question is put
			if status() == want {
				break
			}
			if asked > 100*time.Millisecond {
				t.Fatalf("round %d: the app was still not %s when asked %v after the change", round, want, asked)
			}
		}
	}
}

// A server whose follower is stuck keeps nothing for longer than 100 ms of real
// time: then it asks the database each time.
func TestChores_WithoutTheFollowerTheCacheEndsWithin100ms(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.beside()
	w.must(node.Follow(ctx))
	followed := time.Now()
	if _, err := node.Client(ctx, w.standard.id); err != nil {
		t.Fatal(err)
	}
	w.must(w.SuspendClient(ctx, command, w.standard.id))
	for {
		asked := time.Since(followed)
		c, err := node.Client(ctx, w.standard.id)
		if err != nil {
			t.Fatal(err)
		}
		if c.Status == oauth.Suspended {
			break
		}
		if asked > 100*time.Millisecond {
			t.Fatalf("the app was still active when asked %v after the feed was last read", asked)
		}
	}
	before := storage.reads.Load()
	for range 10 {
		if _, err := node.Client(ctx, w.standard.id); err != nil {
			t.Fatal(err)
		}
	}
	if n := storage.reads.Load() - before; n != 10 {
		t.Errorf("asked ten times, it read the app %d times", n)
	}
}

// A server that runs sees an event at its next poll, not only when what it keeps
// gets old.
func TestChores_FollowDropsWhatAnEventIsAbout(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.beside()
	w.must(node.Follow(ctx))
	node.KeepWarm(time.Hour)
	for _, a := range []app{w.standard, w.public} {
		if _, err := node.Client(ctx, a.id); err != nil {
			t.Fatal(err)
		}
	}
	w.must(w.SuspendClient(ctx, command, w.standard.id))
	w.must(node.Follow(ctx))
	node.KeepWarm(time.Hour)
	before := storage.reads.Load()
	if c, err := node.Client(ctx, w.standard.id); err != nil || c.Status != oauth.Suspended {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := node.Client(ctx, w.public.id); err != nil || c.Status != oauth.Active {
		t.Errorf("%+v, %v", c, err)
	}
	if n := storage.reads.Load() - before; n != 1 {
		t.Errorf("%d reads, want the one of the app that was changed", n)
	}
}

// A signing key that another process added is read again until that works.
func TestChores_AKeyReloadThatFailedIsTriedAgain(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.beside()
	raw := w.raw()
	exec(t, raw, "UPDATE signing_keys SET status = 'retired' WHERE use = 'lasting'")
	newer, _ := w.beside() // finds no key for lasting keys and makes one
	key := newer.connect(w.exchange, "alice", "s1").AccessToken
	if node.VerifyOwn(key.Reveal()) {
		t.Fatal("the key is verified before its signing key was read")
	}
	storage.failKeys.Store(1)
	if err := node.Follow(ctx); !errors.Is(err, errKeys) {
		t.Fatalf("the reload failed, but not this chore: %v", err)
	}
	if node.VerifyOwn(key.Reveal()) {
		t.Fatal("the key is verified though its signing key could not be read")
	}
	w.must(node.Follow(ctx))
	if !node.VerifyOwn(key.Reveal()) {
		t.Error("the signing key was not read again")
	}
	if old := w.connect(w.exchange, "alice", "s2").AccessToken; !node.VerifyOwn(old.Reveal()) {
		t.Error("the retired key verifies no more")
	}
	storage.failKeys.Store(1)
	w.must(node.Follow(ctx))
	if storage.failKeys.Load() != 1 {
		t.Error("the keys are read though nothing says that they changed")
	}
}

// A node that has heard that a key was cut, and could not read the keys since, calls
// nothing active.
func TestChores_ACutKeyThatIsNotReadYet(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1").AccessToken
	node, storage := w.beside()
	w.must(w.CutKey(ctx, command, kidOf(t, key)))
	storage.failKeys.Store(1)
	if err := node.Follow(ctx); !errors.Is(err, errKeys) {
		t.Fatalf("the reload failed, but not this chore: %v", err)
	}
	node.KeepWarm(time.Hour)
	in, err := node.Introspect(ctx, w.api, key.Reveal())
	if oauth.ReasonOf(err) != oauth.FeedUnknown {
		t.Errorf("%+v, %v", in, err)
	}
}

// Last used is written by the flush, at most once an hour for each thing.
func TestChores_LastUsedIsWrittenOnceAnHourByTheFlush(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	resp := w.connect(w.exchange, "alice", "s1")
	used := func() [2]time.Time {
		t.Helper()
		secrets, err := w.db.ClientSecrets(ctx, w.exchange.id)
		if err != nil || len(secrets) != 1 {
			t.Fatalf("%d secrets, %v", len(secrets), err)
		}
		return [2]time.Time{w.grant(resp.GrantID).LastUsed, secrets[0].LastUsed}
	}
	use := func() {
		t.Helper()
		if w.rights(resp.AccessToken) == "inactive" {
			t.Fatal("the key is dead")
		}
		_, err := w.redeem(w.exchange, "no-code")
		wantReason(t, err, oauth.CodeUnknown)
	}
	expect := func(what string, want time.Time) {
		t.Helper()
		if got := used(); !got[0].Equal(want) || !got[1].Equal(want) {
			t.Errorf("%s: the grant was last used at %v, the secret at %v, want %v", what, got[0], got[1], want)
		}
	}
	expect("redeemed", time.Time{})
	use()
	expect("used", time.Time{})
	w.must(w.Flush(ctx))
	first := w.Now()
	expect("flushed", first)

	w.clock.advance(time.Hour - time.Microsecond)
	use()
	w.must(w.Flush(ctx))
	expect("within the hour", first)

	w.clock.advance(time.Microsecond)
	w.must(w.Flush(ctx))
	expect("not used since", first)
	use()
	expect("used again", first)
	w.must(w.Flush(ctx))
	expect("an hour later", w.Now())
}

// When a server stops, what it still had to note is written.
func TestChores_RunNotesUseWhenItEnds(t *testing.T) {
	w := newWorld(t)
	resp := w.connect(w.exchange, "alice", "s1")
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	stop()
	running.Wait()
	if got := w.grant(resp.GrantID).LastUsed; !got.Equal(w.Now()) {
		t.Errorf("last used %v, want %v", got, w.Now())
	}
}

// One round of the sweeper goes on, batch after batch, until little is left.
func TestChores_OneSweepRemovesManyExpiredGuestCodes(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	raw := w.raw()
	count := func(query string) (n int) {
		t.Helper()
		if err := raw.QueryRow(query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	events := count("SELECT COUNT(*) FROM events")
	const codes = 1200
	var all sync.WaitGroup
	var failed atomic.Int64
	for range 40 {
		all.Go(func() {
			for range codes / 40 {
				if _, err := w.AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(w.direct)}); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := count("SELECT COUNT(*) FROM authorization_codes"); failed.Load() > 0 || n != codes {
		t.Fatalf("%d codes, %d failed", n, failed.Load())
	}
	w.must(w.SweepRound(ctx))
	if n := count("SELECT COUNT(*) FROM authorization_codes"); n != codes {
		t.Fatalf("%d codes are left though none is over", n)
	}
	w.clock.advance(oauth.CodeMemory + time.Hour)
	w.must(w.SweepRound(ctx))
	if n := count("SELECT COUNT(*) FROM authorization_codes"); n != 0 {
		t.Errorf("%d codes are left", n)
	}
	if n := count("SELECT COUNT(*) FROM events"); n != events {
		t.Errorf("%d events are left of codes that nobody redeemed", n-events)
	}
}

// dump reads every row of every table.
func dump(t *testing.T, db *sql.DB) map[string][]string {
	t.Helper()
	tables := column(t, db, "SELECT name FROM sqlite_master WHERE type = 'table'")
	if len(tables) < 10 {
		t.Fatalf("the dump sees only the tables %q", tables)
	}
	all := map[string][]string{}
	for _, table := range tables {
		rows, err := db.Query(`SELECT * FROM "` + table + `" ORDER BY 1, 2`)
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		for err == nil && rows.Next() {
			values, dest := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				dest[i] = &values[i]
			}
			if err = rows.Scan(dest...); err == nil {
				var line strings.Builder
				for i, v := range values {
					fmt.Fprintf(&line, "%s=%#v ", names[i], v)
				}
				all[table] = append(all[table], line.String())
			}
		}
		if err = cmp.Or(err, rows.Err()); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return all
}

func column(t *testing.T, db *sql.DB, query string) (list []string) {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

// Of two nodes the one that holds the lease removes what is over; when it is heard
// of no more, the other does. What is kept is what the operator says.
func TestChores_OneNodeSweeps(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	other, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: w.Catalogue(), Storage: w.db, Ring: ring, Now: w.Now, EventsKept: 10 * 24 * time.Hour})
	w.must(err)
	raw := w.raw()
	count := func(table string) (n int) {
		t.Helper()
		w.must(raw.QueryRow("SELECT COUNT(*) FROM " + table).Scan(&n))
		return n
	}
	w.must(w.SweepRound(ctx)) // this node has the lease
	w.code(w.exchange, "alice", "s1")
	w.clock.advance(time.Minute - time.Second)
	w.must(w.SweepRound(ctx)) // and keeps it
	w.clock.advance(oauth.CodeLife + oauth.CodeMemory)
	w.must(w.SweepRound(ctx))
	if n := count("authorization_codes"); n != 0 {
		t.Fatalf("%d codes after the holder swept", n)
	}
	w.code(w.exchange, "alice", "s1")
	w.clock.advance(time.Minute - time.Microsecond)
	w.must(other.SweepRound(ctx))
	w.must(w.db.PutPending(ctx, "over", "authorize", []byte("x"), w.Now().Add(-time.Second)))
	w.must(other.SweepRound(ctx))
	if n := count("pending_requests"); n != 1 {
		t.Fatal("the other node swept beside the holder")
	}
	w.clock.advance(time.Microsecond) // the lease ends
	w.must(other.SweepRound(ctx))
	if n := count("pending_requests"); n != 0 {
		t.Error("nobody took over from a holder that is heard of no more")
	}
	w.must(w.db.PutPending(ctx, "over", "authorize", []byte("x"), w.Now().Add(-time.Second)))
	w.must(w.SweepRound(ctx))
	if n := count("pending_requests"); n != 1 {
		t.Error("the node that lost the lease swept")
	}
	w.code(w.exchange, "alice", "s1")
	w.clock.advance(10 * 24 * time.Hour)
	w.must(other.SweepRound(ctx))
	if n := count("events"); n == 0 {
		t.Error("events of what is kept are gone")
	}
	w.clock.advance(time.Microsecond)
	w.must(other.SweepRound(ctx))
	if n := count("events"); n != 0 {
		t.Errorf("%d events are left of what is not kept", n)
	}
}
