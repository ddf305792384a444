package endpoint

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// metadata is RFC 8414, 2. Everything here works, and everything that works is
// here, except the dialects, which no discovery may find (standards, section 5).
type metadata struct {
	Issuer               string   `json:"issuer"`
	Authorization        string   `json:"authorization_endpoint"`
	Token                string   `json:"token_endpoint"`
	TokenAuth            []string `json:"token_endpoint_auth_methods_supported"`
	JWKS                 string   `json:"jwks_uri"`
	Revocation           string   `json:"revocation_endpoint"`
	RevocationAuth       []string `json:"revocation_endpoint_auth_methods_supported"`
	Introspection        string   `json:"introspection_endpoint"`
	IntrospectionAuth    []string `json:"introspection_endpoint_auth_methods_supported"`
	Feed                 string   `json:"revocation_feed_endpoint"`  // ours: see docs/revocation.md
	Grants               string   `json:"grant_management_endpoint"` // a draft's: Grant Management for OAuth 2.0
	GrantActions         []string `json:"grant_management_actions_supported"`
	ResponseTypes        []string `json:"response_types_supported"`
	ResponseModes        []string `json:"response_modes_supported"`
	GrantTypes           []string `json:"grant_types_supported"` // explicit: the default includes implicit
	CodeChallengeMethods []string `json:"code_challenge_methods_supported"`
	IssuerInResponse     bool     `json:"authorization_response_iss_parameter_supported"`
	Scopes               []string `json:"scopes_supported"`
	UILocales            []string `json:"ui_locales_supported"`
}

func (h *handler) serveMetadata(mux *http.ServeMux) {
	issuer := h.server.Issuer()
	secret := []string{"client_secret_basic", "client_secret_post"}
	withNone := append(secret[:2:2], "none")
	m := metadata{
		Issuer: issuer, Authorization: h.server.PagesURL() + "/oauth/authorize", Token: issuer + "/oauth/token", TokenAuth: withNone,
		JWKS: issuer + "/oauth/jwks", Revocation: issuer + "/oauth/revoke", RevocationAuth: withNone,
		Introspection: issuer + "/oauth/introspect", IntrospectionAuth: secret,
		Feed:   issuer + FeedPath,
		Grants: issuer + "/oauth/grants", GrantActions: []string{"query", "revoke"},
		ResponseTypes: []string{"code"}, ResponseModes: []string{"query"},
		GrantTypes:           []string{string(oauth.GrantAuthorizationCode), string(oauth.GrantRefreshToken)},
		CodeChallengeMethods: []string{"S256"}, IssuerInResponse: true,
		UILocales: []string{"en", "de"},
	}
	for _, sc := range h.server.Catalogue().Scopes {
		m.Scopes = append(m.Scopes, sc.Name)
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		if public(w, r) {
			writeJSON(w, http.StatusOK, m)
		}
	}
	// RFC 8414, 3.1 inserts the issuer's path; OpenID Discovery appends to it, which
	// comes here without it.
	path := ""
	if u, err := url.Parse(issuer); err == nil {
		path = strings.TrimSuffix(u.Path, "/")
	}
	for _, name := range []string{"oauth-authorization-server", "openid-configuration"} {
		mux.HandleFunc("/.well-known/"+name, serve)
		if path != "" {
			mux.HandleFunc("/.well-known/"+name+path, serve)
		}
	}
}

// public marks a document that everybody may read and keep for five minutes, and
// refuses what is not a read.
func public(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodHead && r.Method != http.MethodGet {
		secure(w)
		return allow(w, r, http.MethodGet)
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("X-Content-Type-Options", "nosniff")
	return true
}

// keys serves a key set (RFC 7517, 5). Those of lasting keys have an address of
// their own: many verifiers ignore typ and accept a missing exp. A node that does not
// know the present serves the set that it has and says how old it is (RFC 9111, 5.1),
// so that nobody takes it for proof that there is no other key.
func (h *handler) keys(use oauth.KeyUse) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if public(w, r) {
			w.Header().Set("Cache-Control", "no-cache") // a key may be cut off at any moment, and another signs
			if age := h.server.KeysAge(r.Context()); age > 0 {
				w.Header().Set("Age", strconv.Itoa(int((age+time.Second-1)/time.Second)))
			}
			writeJSON(w, http.StatusOK, h.server.PublicKeys(use))
		}
	}
}
