package oauth_test

import (
	"context"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// A client ends its own keys and chains, by any token of them; what is unknown or
// another's changes nothing and is no error (RFC 7009, 2.1 and 2.2; attack C13).
func TestRevoke_RFC7009(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		of    func(w *world) app
		token func(r *oauth.TokenResponse) oauth.Secret
	}{
		"lasting key":        {func(w *world) app { return w.exchange }, func(r *oauth.TokenResponse) oauth.Secret { return r.AccessToken }},
		"access, standard":   {func(w *world) app { return w.standard }, func(r *oauth.TokenResponse) oauth.Secret { return r.AccessToken }},
		"refresh, standard":  {func(w *world) app { return w.standard }, func(r *oauth.TokenResponse) oauth.Secret { return r.RefreshToken }},
		"refresh, public":    {func(w *world) app { return w.public }, func(r *oauth.TokenResponse) oauth.Secret { return r.RefreshToken }},
		"refresh, direct":    {func(w *world) app { return w.direct }, func(r *oauth.TokenResponse) oauth.Secret { return r.RefreshToken }},
		"access, direct":     {func(w *world) app { return w.direct }, func(r *oauth.TokenResponse) oauth.Secret { return r.AccessToken }},
		"refresh, rotating":  {func(w *world) app { return w.rotating }, func(r *oauth.TokenResponse) oauth.Secret { return r.RefreshToken }},
		"expired access":     {func(w *world) app { return w.standard }, func(r *oauth.TokenResponse) oauth.Secret { return r.AccessToken }},
		"rotated away, then": {func(w *world) app { return w.public }, func(r *oauth.TokenResponse) oauth.Secret { return r.RefreshToken }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := c.of(w)
			bystander, resp := w.connect(a, "alice", "s1"), w.connect(a, "alice", "s1")
			token := c.token(resp).Reveal()
			switch name {
			case "expired access":
				w.clock.advance(resp.ExpiresIn)
				r, err := w.refresh(a, resp.RefreshToken)
				w.must(err)
				resp.AccessToken = r.AccessToken
				b, err := w.refresh(a, bystander.RefreshToken)
				w.must(err)
				bystander.AccessToken = b.AccessToken
			case "rotated away, then":
				r, err := w.refresh(a, resp.RefreshToken)
				w.must(err)
				resp = r
			}
			for _, thief := range []app{w.other, w.nopkce, w.direct, w.public} {
				if thief.id == a.id {
					continue
				}
				w.must(w.Revoke(ctx, thief.auth(), token))
			}
			if w.rights(resp.AccessToken) == "inactive" {
				t.Fatal("another client's revocation took effect")
			}
			auth := a.auth()
			auth.Secret += "x"
			if err := w.Revoke(ctx, auth, token); oauth.AsError(err).Code != oauth.InvalidClient {
				t.Errorf("with a wrong secret: %v", err)
			}
			w.must(w.Revoke(ctx, a.auth(), token))
			if got := w.rights(resp.AccessToken); got != "inactive" {
				t.Errorf("afterwards the key is %s", got)
			}
			if resp.RefreshToken != "" {
				_, err := w.refresh(a, resp.RefreshToken)
				wantReason(t, err, oauth.RefreshUnknown)
			}
			if w.rights(bystander.AccessToken) == "inactive" {
				t.Error("another key died with it")
			}
			w.must(w.Revoke(ctx, a.auth(), token)) // again: no error
		})
	}
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1")
	for _, token := range []string{"x", "a.b.c", flipLast(key.AccessToken.Reveal()), w.code(w.exchange, "alice", "s1")} {
		w.must(w.Revoke(ctx, w.exchange.auth(), token))
	}
	if w.rights(key.AccessToken) == "inactive" {
		t.Error("an altered token revoked the key")
	}
	wantReason(t, w.Revoke(ctx, w.exchange.auth(), ""), oauth.ParamMissing)
	wantReason(t, w.Revoke(ctx, oauth.ClientAuth{}, "x"), oauth.ClientIDMissing)
}

// An expired access token is good for nothing, so nobody guards it: with a client id that
// everybody knows it must not end the chain (RFC 7009, 2.2).
func TestRevoke_ExpiredAndUnproved(t *testing.T) {
	ctx := context.Background()
	for name, of := range map[string]func(w *world) app{
		"public": func(w *world) app { return w.public }, "direct": func(w *world) app { return w.direct }, "rotating": func(w *world) app { return w.rotating },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := of(w)
			first := w.connect(a, "alice", "s1")
			w.clock.advance(first.ExpiresIn - time.Second) // a claim counts whole seconds
			again, err := w.refresh(a, first.RefreshToken)
			w.must(err)
			w.clock.advance(time.Second)
			w.must(w.Revoke(ctx, a.auth(), first.AccessToken.Reveal()))
			if w.introspect(again.AccessToken) == nil {
				t.Fatal("an expired token ended the chain")
			}
			w.must(w.Revoke(ctx, a.auth(), again.AccessToken.Reveal()))
			if w.introspect(again.AccessToken) != nil {
				t.Error("one that has not expired did not")
			}
		})
	}
}

// A revoked key leaves the grant; its app gets the next one without asking anew.
func TestRevoke_KeyLeavesGrant(t *testing.T) {
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1")
	w.must(w.Revoke(context.Background(), w.exchange.auth(), key.AccessToken.Reveal()))
	g := w.grant(key.GrantID)
	if g.Grant.Status != oauth.Live || g.Keys != 0 {
		t.Errorf("grant %s with %d keys", g.Grant.Status, g.Keys)
	}
}
