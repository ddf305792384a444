package oauth_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// withRing starts a server of its own on the database of w, with another ring.
func (w *world) withRing(text string) (*world, error) {
	w.t.Helper()
	other := *w
	other.ring = text
	var err error
	other.Server, err = newServer(context.Background(), w.db, other.house, w.clock.now, newRand("another ring"))
	return &other, err
}

// newer is the ring of w with a fresh key put on top, and that key alone.
func (w *world) newer() (both, alone string) {
	w.t.Helper()
	alone, err := oauth.NewKeyRing(newRand("a newer key"))
	if err != nil {
		w.t.Fatal(err)
	}
	return "# the newer key seals\n" + alone + "\n" + w.ring, alone
}

func wrongRing(err error) bool {
	_, is := errors.AsType[*oauth.WrongRing](err)
	return is
}

// A new first key is put on top and the one below goes on opening what it sealed:
// signing keys and forms.
func TestKeyRing_TheKeysBelowTheFirstStillOpen(t *testing.T) {
	w := newWorld(t)
	lasting := w.connect(w.exchange, "alice", "s1").AccessToken
	access := w.connect(w.standard, "alice", "s1").AccessToken
	form, err := w.Seal(w.ask(w.exchange), "session")
	w.must(err)
	reserved, err := w.ReserveID("alice")
	w.must(err)

	both, alone := w.newer()
	next, err := w.withRing(both)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]oauth.Secret{"lasting key": lasting, "access token": access} {
		if next.rights(key) == "inactive" {
			t.Errorf("the %s from before is dead", name)
		}
	}
	if got := next.connect(w.exchange, "alice", "s2").AccessToken; !w.VerifyOwn(got.Reveal()) {
		t.Error("the signing key changed with the ring")
	}
	r, err := next.Open(form, "session")
	if err != nil || r.ClientID != w.exchange.id {
		t.Errorf("the form from before: %+v, %v", r, err)
	}
	_, err = next.Open(form, "another session")
	wantReason(t, err, oauth.RequestForeign)
	if wrongRing(err) {
		t.Error("a form of another session is taken for one of another ring")
	}
	if _, err := next.OpenReserved(reserved, "alice"); err != nil {
		t.Errorf("the reserved id from before: %v", err)
	}

	// The first key seals: only who has it opens what is made from now on.
	form, err = next.Seal(w.ask(w.exchange), "session")
	w.must(err)
	if _, err := next.Open(form, "session"); err != nil {
		t.Error(err)
	}
	_, err = w.Open(form, "session")
	wantReason(t, err, oauth.RequestForeign)
	if !wrongRing(err) {
		t.Errorf("without the newer key, a form sealed by it: %v", err)
	}

	// Without the older key the signing keys stay shut, and the server does not start.
	if _, err := w.withRing(alone); !wrongRing(err) || strings.Contains(err.Error(), strings.TrimSpace(alone)) {
		t.Errorf("with the newer key alone: %v, want WrongRing", err)
	}
}

// Refresh tokens are made by the first key, and known by each. So a change of that
// key costs no client its grace and hides no replay (DESIGN, decision 8).
func TestKeyRing_RefreshTokensAfterTheFirstKeyChanged(t *testing.T) {
	for name, of := range map[string]func(*world) app{"public": func(w *world) app { return w.public }, "direct, rotating": func(w *world) app { return w.rotating }} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := of(w)
			first := w.connect(a, "alice", "s1")
			second, err := w.refresh(a, first.RefreshToken)
			w.must(err)
			both, _ := w.newer()
			next, err := w.withRing(both)
			w.must(err)

			w.clock.advance(oauth.RotateGrace - time.Microsecond)
			again, err := next.refresh(a, first.RefreshToken)
			if err != nil || again.RefreshToken != second.RefreshToken {
				t.Errorf("within the grace: %v", err)
			}
			third, err := next.refresh(a, second.RefreshToken)
			if err != nil {
				t.Fatalf("the successor from before the change: %v", err)
			}
			if third.RefreshToken == second.RefreshToken || next.rights(third.AccessToken) == "inactive" {
				t.Error("the chain does not go on")
			}
			again, err = next.refresh(a, second.RefreshToken)
			if err != nil || again.RefreshToken != third.RefreshToken {
				t.Errorf("within the grace of the newer key: %v", err)
			}
			_, err = next.refresh(a, first.RefreshToken)
			wantReason(t, err, oauth.RefreshReplayed)
			if next.rights(third.AccessToken) != "inactive" {
				t.Error("a replay of a token of the older key left the family alive")
			}
		})
	}
}
