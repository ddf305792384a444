package oauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Wrong secrets come together in the database, whichever node met them: a network
// that sent too many is closed on each node that hears from it, one event says so,
// and the right secret works all the while.
func TestGuesses_CountOverAllNodes(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, _ := w.beside()
	flush := func() {
		t.Helper()
		w.must(w.FlushGuesses(ctx))
		w.must(node.FlushGuesses(ctx))
	}
	closed := func(s *world, ip string, want time.Duration) {
		t.Helper()
		if got := s.GuessesEnd(w.exchange.id, ip); got != want {
			t.Errorf("%s is closed for %v, want %v", ip, got, want)
		}
	}
	for i := range oauth.GuessesMax / 2 {
		w.CountWrongSecret(w.exchange.id, fmt.Sprintf("203.0.113.%d", i))
		node.CountWrongSecret(w.exchange.id, "203.0.113.200")
	}
	closed(w, "203.0.113.1", 0) // nothing is written on the way
	flush()
	closed(w, "203.0.113.1", 0) // it counted before the other did
	closed(node, "203.0.113.1", oauth.GuessesClosed)
	closed(node, "203.0.114.1", 0)
	if got := node.GuessesEnd(w.other.id, "203.0.113.1"); got != 0 {
		t.Errorf("another app's secrets are closed for %v", got)
	}
	w.CountWrongSecret(w.exchange.id, "203.0.113.1")
	w.clock.advance(time.Minute)
	flush()
	closed(w, "203.0.113.255", oauth.GuessesClosed-time.Minute)
	if _, err := w.Token(ctx, oauth.TokenRequest{Auth: w.exchange.auth(), GrantType: oauth.GrantAuthorizationCode, Code: "x"}); oauth.ReasonOf(err) != oauth.CodeUnknown {
		t.Errorf("the right secret: %v", err)
	}
	events, err := w.db.Events(ctx, oauth.EventFilter{Kind: oauth.EventSecretsRefused, Limit: 10})
	if err != nil || len(events) != 1 {
		t.Fatalf("%v, %v", events, err)
	}
	var payload map[string]string
	if e := events[0]; e.ClientID != w.exchange.id || json.Unmarshal(e.Payload, &payload) != nil || payload["network"] != "203.0.113.0/24" {
		t.Errorf("%+v %s", e, e.Payload)
	}
	w.clock.advance(oauth.GuessesClosed)
	closed(w, "203.0.113.1", 0)
	closed(node, "203.0.113.1", 0)
}

// However many networks guess, memory is bounded; what cannot be counted now is
// counted later.
func TestGuesses_BoundedAndKept(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.beside()
	for i := range 12_000 {
		node.CountWrongSecret(w.exchange.id, fmt.Sprintf("10.%d.%d.1", i>>8, i&255))
	}
	for range oauth.GuessesMax - 1 {
		node.CountWrongSecret(w.exchange.id, "10.0.0.2")
	}
	storage.failGuesses.Store(1)
	if err := node.FlushGuesses(ctx); !errors.Is(err, errGuesses) {
		t.Fatal(err)
	}
	w.must(node.FlushGuesses(ctx))
	if got := node.GuessesEnd(w.exchange.id, "10.0.0.9"); got != oauth.GuessesClosed {
		t.Errorf("closed for %v: some were lost", got)
	}
	var kept int
	if err := w.raw().QueryRow("SELECT COUNT(*) FROM throttles").Scan(&kept); err != nil || kept != 10_000 {
		t.Errorf("%d networks were kept, %v", kept, err)
	}
}
