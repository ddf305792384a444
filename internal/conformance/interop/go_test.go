package interop

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
)

// xOAuth2 is golang.org/x/oauth2 on the standard path.
func (w *world) xOAuth2(t *testing.T) {
	m := w.metadata(t)
	for _, c := range []struct {
		name, kind string
		style      oauth2.AuthStyle
	}{
		{"confidential, auto-detect", "standard", oauth2.AuthStyleAutoDetect},
		{"confidential, Basic", "standard", oauth2.AuthStyleInHeader},
		{"confidential, in the body", "standard", oauth2.AuthStyleInParams},
		{"public", "public", oauth2.AuthStyleInParams},
		{"public, auto-detect", "public", oauth2.AuthStyleAutoDetect},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, a := t.Context(), w.app(c.kind)
			conf := &oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, RedirectURL: callback, Scopes: []string{"stores.view"},
				Endpoint: oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token, AuthStyle: c.style}}
			verifier := oauth2.GenerateVerifier()
			back, err := w.allow(ctx, conf.AuthCodeURL("state-1", oauth2.S256ChallengeOption(verifier)))
			if err != nil {
				t.Fatal(err)
			}
			q := back.Query()
			if q.Get("state") != "state-1" || q.Get("iss") != m.Issuer {
				t.Fatalf("called back at %s", back)
			}

			// A wrong verifier and a wrong code are told by their code, and burn nothing.
			for name, try := range map[string]func() (*oauth2.Token, error){
				"wrong verifier": func() (*oauth2.Token, error) {
					return conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier()))
				},
				"no such code": func() (*oauth2.Token, error) {
					return conf.Exchange(ctx, strings.Repeat("x", 65), oauth2.VerifierOption(verifier))
				},
			} {
				_, err := try()
				refusal, ok := errors.AsType[*oauth2.RetrieveError](err)
				if !ok || refusal.ErrorCode != "invalid_grant" || refusal.Response.StatusCode != http.StatusBadRequest || refusal.ErrorDescription == "" {
					t.Errorf("%s: %v", name, err)
				}
			}
			tok, err := conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(tok.Expiry); tok.TokenType != "Bearer" || !tok.Valid() || left < 9*time.Minute || left > 10*time.Minute || tok.RefreshToken == "" || tok.Extra("scope") != "stores.view" {
				t.Errorf("type %s, valid %v, %s left, scope %v", tok.TokenType, tok.Valid(), left, tok.Extra("scope"))
			}

			// The token opens the first two stores to the app's own HTTP client.
			resp, err := conf.Client(ctx, tok).Get(w.StoreAPI + "/stores/" + w.Stores[0].ID)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the store API answers %d", resp.StatusCode)
			}

			// An expired token refreshes itself.
			old := *tok
			old.Expiry = time.Now().Add(-time.Second)
			fresh, err := conf.TokenSource(ctx, &old).Token()
			if err != nil {
				t.Fatal(err)
			}
			if fresh.AccessToken == tok.AccessToken || fresh.RefreshToken == "" || !fresh.Valid() {
				t.Error("refreshed, but to the same or to nothing")
			}
			if rotated := fresh.RefreshToken != tok.RefreshToken; rotated != (c.kind == "public") {
				t.Errorf("rotated: %v", rotated)
			}
			_, err = conf.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
			if refusal, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refusal.ErrorCode != "invalid_grant" {
				t.Errorf("the code twice: %v", err)
			}
		})
	}
	t.Run("a wrong secret", func(t *testing.T) {
		conf := &oauth2.Config{ClientID: w.app("standard").ClientID, ClientSecret: "wrong", Endpoint: oauth2.Endpoint{TokenURL: m.Token, AuthStyle: oauth2.AuthStyleInHeader}}
		_, err := conf.Exchange(t.Context(), "x", oauth2.VerifierOption(oauth2.GenerateVerifier()))
		if refusal, ok := errors.AsType[*oauth2.RetrieveError](err); !ok || refusal.ErrorCode != "invalid_client" || refusal.Response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%v", err)
		}
	})
}

// accessToken is an at+jwt of the standard app, got by golang.org/x/oauth2.
func (w *world) accessToken(t *testing.T) string {
	t.Helper()
	m, a := w.metadata(t), w.app("standard")
	conf := &oauth2.Config{ClientID: a.ClientID, ClientSecret: a.ClientSecret, RedirectURL: callback, Scopes: []string{"stores.view"}, Endpoint: oauth2.Endpoint{AuthURL: m.Authorization, TokenURL: m.Token}}
	verifier := oauth2.GenerateVerifier()
	back, err := w.allow(t.Context(), conf.AuthCodeURL("x", oauth2.S256ChallengeOption(verifier)))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := conf.Exchange(t.Context(), back.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	return tok.AccessToken
}

// golangJWT sets golang-jwt up from discovery, as an API server's author does. It takes any typ and a missing exp, so a
// lasting key must fail for want of its key (DESIGN, decision 7); with the set of lasting keys it would be accepted, which
// shows that this test can fail.
func (w *world) golangJWT(t *testing.T) {
	m := w.metadata(t)
	verify := func(token, jwks string) (jwt.MapClaims, error) {
		claims := jwt.MapClaims{}
		_, err := jwt.ParseWithClaims(token, claims, func(parsed *jwt.Token) (any, error) {
			var set jose.JSONWebKeySet
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, jwks, nil)
			if err != nil {
				return nil, err
			}
			get(t, req, &set)
			kid, _ := parsed.Header["kid"].(string)
			if keys := set.Key(kid); len(keys) == 1 {
				return keys[0].Key, nil
			}
			return nil, fmt.Errorf("no key %q", kid)
		}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(m.Issuer), jwt.WithAudience(audience))
		return claims, err
	}
	lasting, access := w.lastingKey(t), w.accessToken(t)
	if claims, err := verify(access, m.JWKS); err != nil || claims["client_id"] != w.app("standard").ClientID {
		t.Errorf("an access token: %v", err)
	}
	if _, err := verify(lasting, m.JWKS); !errors.Is(err, jwt.ErrTokenUnverifiable) || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a lasting key: %v, want it refused for want of its key", err)
	}
	lastingSet, err := url.JoinPath(m.Issuer, "oauth/jwks/lasting")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(lasting, lastingSet); err != nil {
		t.Errorf("a lasting key with its own set: %v", err)
	}
	if _, err := verify(access, lastingSet); err == nil {
		t.Error("an access token was accepted with the set of lasting keys")
	}
}
