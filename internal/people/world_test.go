package people_test

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

var (
	command = oauth.Actor{Kind: oauth.AsCommand}
	morning = time.Date(2026, 3, 2, 9, 30, 0, 123_456_000, time.UTC)
)

const (
	home    = "192.0.2.7"
	good    = "correct horse battery"
	address = "ada@example.com"
)

// world is a service on a SQLite file of its own, with a clock that stands still.
type world struct {
	*people.Service
	t     *testing.T
	db    *sqlstore.Store
	path  string
	house *oauth.Server

	mu  sync.Mutex
	now time.Time
}

// newWorld makes the world, with cheap hashes.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "grantway.db"), now: morning}
	ctx := t.Context()
	var err error
	if w.db, err = sqlstore.Open(ctx, w.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	if err := w.db.Migrate(ctx); err != nil {
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
	w.house, err = oauth.New(ctx, oauth.Config{Issuer: "https://id.example", Audience: "https://api.example", Catalogue: oauth.NewCatalogue(nil, nil),
		Storage: w.db, Ring: ring, Now: w.time})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = people.New(people.Config{Storage: w.db, Server: w.house})
	w.Cheap(8)
	return w
}

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// ada creates the account that most tests are about.
func (w *world) ada() *oauth.User {
	w.t.Helper()
	return w.account(people.NewAccount{Name: "Ada", Email: address, Password: good})
}

func (w *world) account(f people.NewAccount) *oauth.User {
	w.t.Helper()
	u, err := w.CreateAccount(w.t.Context(), command, f)
	if err != nil {
		w.t.Fatalf("CreateAccount: %v", err)
	}
	return u
}

// try signs in and returns the refusal's reason, "" for a success.
func (w *world) try(email, password, ip string) oauth.Reason {
	w.t.Helper()
	_, _, err := w.SignIn(w.t.Context(), people.SignIn{Email: email, Password: password, IP: ip})
	if err != nil && oauth.ReasonOf(err) == "" {
		w.t.Fatalf("SignIn: %v", err)
	}
	return oauth.ReasonOf(err)
}

func (w *world) want(email, password, ip string, reason oauth.Reason) {
	w.t.Helper()
	if got := w.try(email, password, ip); got != reason {
		w.t.Fatalf("sign-in of %s from %s: %q, want %q", email, ip, got, reason)
	}
}

// wantLocked signs in with the right password and wants to be told to wait.
func (w *world) wantLocked(email, ip string, wait time.Duration) {
	w.t.Helper()
	_, _, err := w.SignIn(w.t.Context(), people.SignIn{Email: email, Password: good, IP: ip})
	locked, ok := errors.AsType[people.Locked](err)
	if !ok || !locked.Until.Equal(w.time().Add(wait)) {
		w.t.Fatalf("sign-in of %s from %s: %v until %v, want to wait %v", email, ip, err, locked.Until, wait)
	}
	if oauth.ReasonOf(err) != people.ReasonLocked {
		w.t.Fatalf("reason %q, want %q", oauth.ReasonOf(err), people.ReasonLocked)
	}
}

func (w *world) signedIn(email string) (*people.Session, string) {
	w.t.Helper()
	s, secret, err := w.SignIn(w.t.Context(), people.SignIn{Email: email, Password: good, IP: home})
	if err != nil {
		w.t.Fatalf("SignIn: %v", err)
	}
	return s, secret.Reveal()
}

func (w *world) events(kind oauth.Kind) (list []oauth.Event) {
	w.t.Helper()
	all, err := w.db.Events(w.t.Context(), oauth.EventFilter{Limit: 10_000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range all {
		if kind == "" || e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}

func (w *world) context() context.Context { return w.t.Context() }
