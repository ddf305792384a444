package main

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/demo"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// With pages and API on hosts of their own, the metadata names each endpoint where
// it is served (RFC 8414, 2; DESIGN, URLs).
func TestAssemble_MetadataNamesTheHosts(t *testing.T) {
	store, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := oauth.NewKeyRing(strings.NewReader(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := oauth.ParseKeyRing(text)
	if err != nil {
		t.Fatal(err)
	}
	catalogue, err := config.ParseCatalogue(demo.Catalogue)
	if err != nil {
		t.Fatal(err)
	}
	const id, dashboard, api = "https://id.shop.example", "https://dashboard.shop.example", "https://api.shop.example"
	n, err := assemble(t.Context(), parts{store: store, issuer: id, pagesURL: dashboard, apiURL: api, audience: "urn:shop", ring: ring, catalogue: catalogue, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"oauth-authorization-server", "openid-configuration"} {
		r := httptest.NewRequest("GET", "/.well-known/"+name, nil)
		r.Host = "evil.example" // decides nothing
		w := httptest.NewRecorder()
		n.front.ServeHTTP(w, r)
		var doc map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		got := map[string]any{}
		for key, v := range doc {
			if at, ok := v.(string); ok && strings.HasPrefix(at, "http") {
				got[key] = at
			}
		}
		want := map[string]any{
			"issuer": id, "authorization_endpoint": dashboard + "/oauth/authorize", "token_endpoint": id + "/oauth/token", "jwks_uri": id + "/oauth/jwks",
			"revocation_endpoint": id + "/oauth/revoke", "introspection_endpoint": id + "/oauth/introspect",
			"grant_management_endpoint": id + "/oauth/grants", "revocation_feed_endpoint": id + "/revocations",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
