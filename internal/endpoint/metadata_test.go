package endpoint

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/grantway/grantway/internal/oauth"
)

func (w *world) metadata(path string) (m metadata) {
	w.t.Helper()
	got := w.get(path)
	if got.status != http.StatusOK {
		w.t.Fatalf("%s: %d %s", path, got.status, got.body)
	}
	got.json(w.t, &m)
	return m
}

// Whatever discovery names is there and works, and it names nothing of the dialects
// (RFC 8414, 2 and 3; standards, sections 5.9 and 10).
func TestMetadata_RFC8414(t *testing.T) {
	w := newWorld(t)
	m := w.metadata("/.well-known/oauth-authorization-server")
	if m.Issuer != issuer {
		t.Errorf("issuer %q", m.Issuer)
	}
	if oidc := w.metadata("/.well-known/openid-configuration"); !reflect.DeepEqual(m, oidc) {
		t.Errorf("the OpenID path tells otherwise: %v", oidc)
	}
	body := w.get("/.well-known/oauth-authorization-server").body
	for _, word := range []string{"oauth2/", "/exchange", "/auth/authorize", "lasting", "urn:ietf", "/api/", "direct", "implicit", "plain", "null", "[]"} {
		if strings.Contains(body, word) {
			t.Errorf("%q stands in the metadata", word)
		}
	}

	// Every endpoint answers.
	for name, address := range map[string]string{"authorization": m.Authorization, "token": m.Token, "jwks": m.JWKS, "revocation": m.Revocation, "introspection": m.Introspection, "grants": m.Grants + "/gr_x"} {
		path, ok := strings.CutPrefix(address, issuer+"/")
		if !ok || strings.ContainsAny(path, "?#") {
			t.Errorf("%s: %s", name, address)
			continue
		}
		for _, method := range []string{"GET", "POST"} {
			if got := w.do(httptest.NewRequest(method, "/"+path, nil)); got.status == http.StatusNotFound {
				t.Errorf("%s %s: nothing is there", method, address)
			}
		}
	}

	// Every way to authenticate works, and every grant.
	present := map[string]func(a oauth.ClientAuth, form url.Values) []string{
		"client_secret_basic": func(a oauth.ClientAuth, form url.Values) []string {
			return []string{"Authorization", basic(a.ID, a.Secret.Reveal())}
		},
		"client_secret_post": func(a oauth.ClientAuth, form url.Values) []string {
			form.Set("client_id", a.ID)
			form.Set("client_secret", a.Secret.Reveal())
			return nil
		},
		"none": func(a oauth.ClientAuth, form url.Values) []string {
			form.Set("client_id", a.ID)
			return nil
		},
	}
	of := func(method string) app {
		if method == "none" {
			return w.public
		}
		return w.standard
	}
	path := func(address string) string { return strings.TrimPrefix(address, issuer) }
	grants := map[string]func(a app) url.Values{
		"authorization_code": func(a app) url.Values {
			return url.Values{"code": {w.code(a)}, "redirect_uri": {callback}, "code_verifier": {verifier}}
		},
		"refresh_token": func(a app) url.Values {
			_, refresh := w.key(a)
			return url.Values{"refresh_token": {refresh}}
		},
	}
	if len(m.TokenAuth) != 3 || len(m.GrantTypes) != 2 || len(m.RevocationAuth) != 3 || len(m.IntrospectionAuth) != 2 {
		t.Errorf("methods and grants: %+v", m)
	}
	for _, method := range m.TokenAuth {
		for _, grant := range m.GrantTypes {
			a, ask := of(method), grants[grant]
			if ask == nil || present[method] == nil {
				t.Errorf("%s by %s: unknown to this test", grant, method)
				continue
			}
			form := ask(a)
			form.Set("grant_type", grant)
			header := present[method](oauth.ClientAuth{ID: a.id, Secret: a.secret}, form)
			if got := w.post(path(m.Token), form, header...); got.status != http.StatusOK {
				t.Errorf("%s by %s: %d %s", grant, method, got.status, got.body)
			}
		}
	}
	for _, method := range m.RevocationAuth {
		a := of(method)
		access, _ := w.key(a)
		form := url.Values{"token": {access}}
		header := present[method](oauth.ClientAuth{ID: a.id, Secret: a.secret}, form)
		if got := w.post(path(m.Revocation), form, header...); got.status != http.StatusOK || w.active(access) {
			t.Errorf("revocation by %s: %d %s", method, got.status, got.body)
		}
	}
	access, _ := w.key(w.standard)
	for _, method := range m.IntrospectionAuth {
		form := url.Values{"token": {access}}
		header := present[method](w.api, form)
		if got := w.post(path(m.Introspection), form, header...); !strings.Contains(got.body, `"active":true`) {
			t.Errorf("introspection by %s: %d %s", method, got.status, got.body)
		}
	}

	// What is not advertised does not work.
	for _, grant := range []string{"client_credentials", "password", "implicit", "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange",
		"urn:ietf:params:oauth:grant-type:jwt-bearer"} {
		got := w.post("/oauth/token", url.Values{"grant_type": {grant}}, "Authorization", basic(w.standard.id, w.standard.secret.Reveal()))
		if got.status != 400 || got.refusal() != "unsupported_grant_type" {
			t.Errorf("%s: %d %s", grant, got.status, got.body)
		}
	}
	r, _, err := w.server.Authorize(t.Context(), url.Values{"client_id": {w.standard.id}, "redirect_uri": {callback}, "response_type": {"code"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}})
	if err != nil || !m.IssuerInResponse || !reflect.DeepEqual(m.CodeChallengeMethods, []string{"S256"}) || !reflect.DeepEqual(m.ResponseTypes, []string{"code"}) {
		t.Errorf("%v, %+v", err, m)
	}
	back, err := w.server.Decide(t.Context(), "alice", r, oauth.Decision{AuthTime: w.now()})
	if u, _ := url.Parse(back.URL()); err != nil || u.Query().Get("iss") != m.Issuer {
		t.Errorf("iss is promised, but the answer is %s (%v)", back.URL(), err)
	}
	for i, sc := range w.server.Catalogue().Scopes {
		if i >= len(m.Scopes) || m.Scopes[i] != sc.Name {
			t.Errorf("scopes_supported: %v", m.Scopes)
			break
		}
	}
}

// An issuer with a path has its metadata where RFC 8414, 3.1 inserts the name and
// where OpenID Discovery appends it, with one issuer and everything below it. The
// Host header decides nothing (attack G12).
func TestMetadata_IssuerWithPath(t *testing.T) {
	const issuer = "https://platform.example/connect/eu"
	w := newWorldAt(t, issuer, "")
	for _, path := range []string{"/.well-known/oauth-authorization-server/connect/eu", "/.well-known/openid-configuration/connect/eu",
		"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} { // the last two as a proxy that takes the path away sends them
		m := w.metadata(path)
		if m.Issuer != issuer || m.Token != issuer+"/oauth/token" || m.JWKS != issuer+"/oauth/jwks" || m.Authorization != issuer+"/oauth/authorize" {
			t.Errorf("%s: %+v", path, m)
		}
	}
	if got := w.get("/.well-known/oauth-authorization-server/connect/us"); got.status != http.StatusNotFound {
		t.Errorf("another path: %d", got.status)
	}
	r := httptest.NewRequest(http.MethodGet, "/.well-known/oauth-authorization-server", nil)
	r.Host = "evil.example"
	r.Header.Set("X-Forwarded-Host", "evil.example")
	if got := w.do(r); strings.Contains(got.body, "evil") {
		t.Error("the Host header stands in the metadata")
	}
	key, _ := w.key(w.standard)
	if c := claims(t, key); c.Issuer != issuer || !strings.HasPrefix(c.Status.List.URI, issuer+"/status/") {
		t.Errorf("%+v", c)
	}
}

func claims(t testing.TB, token string) (c oauth.Claims) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err == nil {
		err = json.Unmarshal(payload, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The keys of access tokens and of lasting keys are two sets that share nothing,
// and no private part stands in either (RFC 7517, 5; RFC 7638; DESIGN, decision 7).
func TestKeys_LastingKeysApart(t *testing.T) {
	w := newWorld(t)
	set := func(path string) (s jose.JSONWebKeySet) {
		got := w.get(path)
		if got.header.Get("Cache-Control") != "no-cache" || strings.Contains(got.body, `"d"`) {
			t.Errorf("%s: %v", path, got)
		}
		got.json(t, &s)
		for _, k := range s.Keys {
			thumb, err := k.Thumbprint(crypto.SHA256)
			if err != nil || k.KeyID != base64.RawURLEncoding.EncodeToString(thumb) || k.Algorithm != "ES256" || k.Use != "sig" || !k.IsPublic() || !k.Valid() {
				t.Errorf("%s: %+v (%v)", path, k, err)
			}
		}
		if head := w.do(httptest.NewRequest(http.MethodHead, path, nil)); head.status != http.StatusOK {
			t.Errorf("HEAD %s: %d", path, head.status)
		}
		return s
	}
	access, lasting := set("/oauth/jwks"), set("/oauth/jwks/lasting")
	if len(access.Keys) != 1 || len(lasting.Keys) != 1 {
		t.Fatalf("%d and %d keys", len(access.Keys), len(lasting.Keys))
	}
	for _, c := range []struct {
		of       app
		typ      string
		in, away jose.JSONWebKeySet
	}{
		{w.exchange, "apikey+jwt", lasting, access},
		{w.standard, "at+jwt", access, lasting},
		{w.direct, "at+jwt", access, lasting},
	} {
		key, _ := w.key(c.of)
		jws, err := jose.ParseSignedCompact(key, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		kid := jws.Signatures[0].Protected.KeyID
		if typ := jws.Signatures[0].Protected.ExtraHeaders["typ"]; typ != c.typ {
			t.Errorf("%s: typ %v", c.of.client.Profile, typ)
		}
		if len(c.in.Key(kid)) != 1 || len(c.away.Key(kid)) != 0 {
			t.Fatalf("%s: kid %s is in the wrong set", c.of.client.Profile, kid)
		}
		if _, err := jws.Verify(c.in.Key(kid)[0]); err != nil {
			t.Errorf("%s: %v", c.of.client.Profile, err)
		}
		if (claims(t, key).Expires == 0) != (c.typ == "apikey+jwt") {
			t.Errorf("%s: exp %d", c.of.client.Profile, claims(t, key).Expires)
		}
	}
}

// A node that does not know the present serves the keys that it has, for what they have signed is to be verified all the
// same, and says how old they are: that it has no other proves nothing.
func TestKeys_SayHowOldTheyAre(t *testing.T) {
	w := newWorld(t)
	get := func(path string, aged bool) answer { // however busy the machine is
		got := w.get(path)
		for late := time.Now().Add(20 * time.Second); aged != (got.header.Get("Age") != "") && time.Now().Before(late); {
			got = w.get(path)
		}
		return got
	}
	paths := []string{"/oauth/jwks", "/oauth/jwks/lasting"}
	before := map[string]string{}
	for _, path := range paths {
		got := get(path, false)
		if age := got.header.Values("Age"); got.status != http.StatusOK || len(age) > 0 {
			t.Errorf("%s: %d, Age %q", path, got.status, age)
		}
		before[path] = got.body
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		got := get(path, true)
		if age, err := strconv.Atoi(got.header.Get("Age")); err != nil || age < 1 || age > 60 {
			t.Errorf("%s: Age %q", path, got.header.Get("Age"))
		}
		if got.status != http.StatusOK || got.body != before[path] || got.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
}
