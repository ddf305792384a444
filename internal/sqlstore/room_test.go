package sqlstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// However long strangers hold every connection that they may have, the feed is read, an
// API that has shown its secret is answered, and the load balancer hears that the node is
// well. One that tries secrets is a stranger, and what APIs hold is not the feed's.
func TestPostgres_StrangersLeaveRoom(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, storagetest.Postgres(t))
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, s)
	d := w.decide(1)[0]
	r := w.redemption(&d, true)
	secret, second := oauth.HashOf("the secret of an API"), oauth.HashOf("another secret of it")
	api := oauth.API{ID: d.Code.API, URI: "https://api.example/", Name: "API", Status: oauth.Active, Secrets: []oauth.ClientSecret{{Hash: secret, Created: w.now}, {Hash: second, Created: w.now}}}
	for _, done := range []func() (bool, error){
		func() (bool, error) { return s.RedeemCode(ctx, r) },
		func() (bool, error) { return s.CreateAPI(ctx, &api, w.event(oauth.EventAPIPut)) },
	} {
		if ok, err := done(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	asked := func(ctx context.Context, secret oauth.Hash) error {
		_, f, _, err := s.Asked(ctx, api.ID, secret, r.Family.ID)
		if err == nil && f == nil {
			err = errors.New("the family is not there")
		}
		return err
	}
	if _, err := s.APIs(ctx); err != nil { // as a node does that starts
		t.Fatal(err)
	}
	p := s.engine.(*postgres)
	hold := func(ctx context.Context, n int) {
		t.Helper()
		for range n {
			c, err := p.acquire(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Release)
		}
	}
	shortly := func(ask func(context.Context) error) error {
		limited, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		return ask(limited)
	}
	answers := func(asks map[string]func() error) {
		t.Helper()
		for what, ask := range asks {
			if err := ask(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	f := []oauth.Follower{{API: api.ID, Instance: "one", Epoch: 1, Seq: 1, Seen: w.now}}
	feed := map[string]func() error{
		"News":           func() error { _, err := s.News(ctx, 0, 100); return err },
		"Rules":          func() error { _, err := s.Rules(ctx); return err },
		"SigningKeys":    func() error { _, err := s.SigningKeys(ctx); return err },
		"Head":           func() error { _, _, err := s.Head(ctx); return err },
		"CountFollowers": func() error { _, err := s.CountFollowers(ctx, w.now); return err },
		"Beat":           func() error { return s.Beat(ctx, 0) },
		"Ping":           func() error { return s.Ping(ctx) },
	}
	apis := map[string]func() error{
		"Asked":                func() error { return asked(ctx, secret) },
		"Asked, second secret": func() error { return asked(ctx, second) },
		"PutFollowers":         func() error { _, err := s.PutFollowers(ctx, f); return err },
		"RemoveFollower":       func() error { return s.RemoveFollower(ctx, api.ID, "one", w.now) },
		"ChangesFor":           func() error { _, err := s.ChangesFor(ctx, api.ID, 0, 1, 10); return err },
		"RuleChanges":          func() error { _, err := s.RuleChanges(ctx, 0, 1); return err },
		"Present":              func() error { _, err := s.Present(ctx); return err },
	}

	// Each connection is open before, for to open one takes as long as the machine needs.
	var open []placed
	for of, n := range map[context.Context]int{forFeed.of(ctx): feedMost, forAPIs.of(ctx): apisMost, ctx: allMost} {
		for range n {
			c, err := p.acquire(of)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
	}
	for _, c := range open {
		c.Release()
	}

	hold(ctx, allMost)
	if err := shortly(func(ctx context.Context) error { _, err := s.Client(ctx, "nobody"); return err }); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("one more stranger: %v", err)
	}
	if err := shortly(func(ctx context.Context) error { return asked(ctx, oauth.HashOf("a guess")) }); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("one who guesses: %v", err)
	}
	answers(feed)
	answers(apis)
	hold(forAPIs.of(ctx), apisMost)
	if err := shortly(func(ctx context.Context) error { return asked(ctx, secret) }); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("one more API: %v", err)
	}
	answers(feed)
	if n := p.pool.Stat().TotalConns(); n > poolMax {
		t.Errorf("%d connections", n)
	}
}

// A secret that is revoked has no share any more once that was noticed, and who has a
// share goes beyond it where there is room.
func TestPostgres_WhoHasAShare(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, storagetest.Postgres(t))
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, s)
	first, second := oauth.HashOf("first"), oauth.HashOf("second")
	api := oauth.API{ID: "api-x", URI: "https://x.example/", Status: oauth.Active, Secrets: []oauth.ClientSecret{{Hash: first, Created: w.now}, {Hash: second, Created: w.now}}}
	if ok, err := s.CreateAPI(ctx, &api, w.event(oauth.EventAPIPut)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	known := func() (n int) {
		s.apiSecrets.Range(func(any, any) bool { n++; return true })
		return n
	}
	ask := func(secret oauth.Hash, want error, n int) {
		t.Helper()
		if _, _, _, err := s.Asked(ctx, api.ID, secret, ""); !errors.Is(err, want) || known() != n {
			t.Errorf("%v, and %d secrets are known, want %d", err, known(), n)
		}
	}
	ask(oauth.HashOf("a guess"), oauth.ErrNotFound, 0)
	ask(first, nil, 1)
	ask(second, nil, 2)
	if ok, err := s.RevokeAPISecret(ctx, api.ID, first, w.event(oauth.EventAPISecretRevoked)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	ask(first, oauth.ErrNotFound, 1)

	p := s.engine.(*postgres)
	for n := range apisMost + allMost {
		c, err := p.acquire(forAPIs.of(ctx))
		if err != nil {
			t.Fatalf("connection %d: %v", n+1, err)
		}
		defer c.Release()
	}
	if _, _, err := s.Head(ctx); err != nil {
		t.Errorf("APIs have all that they may have, and the feed nothing: %v", err)
	}
}
