package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/storagetest"
)

// A node whose every connection for strangers waits, behind a lock that somebody holds,
// tells a verifier round after round that nothing happened, which it may only say of the
// present, and what keys may do that it was never asked about before; and it is ready.
func TestServe_StrangersEndNoLease(t *testing.T) {
	slow(t)
	database := storagetest.Postgres(t)
	s := newSite(t)
	on := []string{"--database", database}
	s.run("", nil, append([]string{"migrate", "up"}, on...)...)
	var guests, app clientDoc
	s.run("", &guests, append([]string{"client", "add", "--name", "Style Finder", "--profile", "direct"}, on...)...)
	s.run("", &app, append([]string{"client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view"}, on...)...)
	p := s.serve(on...)
	// Made after the start: nothing that the node read then knows it.
	var api credentials
	s.run("", &api, append([]string{"api", "secret"}, on...)...)
	basic := map[string]string{"Content-Type": formType["Content-Type"],
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(api.ClientID+":"+api.ClientSecret))}
	introspect := func(token string) string {
		a, err := send("POST", p.url+"/oauth/introspect", basic, url.Values{"token": {token}}.Encode())
		if err != nil || a.status != http.StatusOK || a.doc["active"] != true {
			return fmt.Sprintf("introspection: %v %d %s", err, a.status, a.body)
		}
		return ""
	}
	const rounds = 10
	tokens := make([]string, 3*rounds)
	for i := range tokens {
		code, err := p.guestCode(guests.ClientID)
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.redeem(guests.ClientID, code)
		if err != nil {
			t.Fatal(err)
		}
		tokens[i] = a.text("access_token")
	}
	if wrong := introspect(tokens[0]); wrong != "" {
		t.Fatal(wrong)
	}
	from := ""
	poll := func() string {
		a, err := send("GET", p.url+"/revocations?instance=one"+from, basic, "")
		switch {
		case err != nil || a.status != http.StatusOK && a.status != http.StatusNoContent:
			return fmt.Sprintf("poll: %v %d %s", err, a.status, a.body)
		case a.status == http.StatusOK:
			from = fmt.Sprintf("&epoch=%.0f&after=%.0f", a.doc["epoch"], a.doc["seq"])
		}
		return ""
	}

	holder, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(context.Background())
	// Who shows a secret has it compared with what is in this table; neither the feed nor an API does.
	if _, err := holder.Exec(t.Context(), "BEGIN; LOCK TABLE client_secrets IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var strangers sync.WaitGroup
	defer strangers.Wait()
	defer stop()
	for range 200 {
		strangers.Go(func() {
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(ctx, "GET", p.url+"/oauth2/"+app.ClientID+"/exchange/not-a-code", nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header = http.Header{"X-Client-Secret": {"a guess"}, "User-Agent": {"test"}}
				if resp, err := client.Do(r); err == nil {
					resp.Body.Close()
				}
			}
		})
	}
	crowded := func() {
		t.Helper()
		if err := until(30*time.Second, func() bool {
			var wait int
			if err := holder.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = CAST('client_secrets' AS REGCLASS)").Scan(&wait); err != nil {
				t.Fatal(err)
			}
			return wait >= 16
		}); err != nil {
			t.Fatalf("strangers do not have all that they may: %v", err)
		}
	}
	crowded()
	// On a machine that does something else meanwhile a round may fail; while nothing is
	// kept for the feed, no round is good but by chance.
	good, wrong := 0, ""
	err = until(time.Minute, func() bool {
		if good == rounds {
			return true
		}
		if wrong = poll(); wrong == "" {
			tokens = tokens[min(1, len(tokens)-1):] // while they last, one that is new
			wrong = introspect(tokens[0])
		}
		if good++; wrong != "" {
			good = 0
		}
		return good == rounds
	})
	if err != nil {
		t.Errorf("%d rounds in succession were good, want %d: %s", good, rounds, wrong)
	}
	if err := until(10*time.Second, func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK }); err != nil {
		status, said := p.get("/readyz")
		t.Errorf("readiness: %d %s", status, said)
	}
	crowded()
}
