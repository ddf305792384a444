package endpoint

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

const formType, jsonType = "application/x-www-form-urlencoded", "application/json"

// How a client proves itself, and what it is told when it does not: 401 when it
// sent an Authorization header or is a standard client, or unknown under /oauth;
// else 400. A challenge comes with every 401 (RFC 6749, 2.3.1 and 5.2; RFC 9110,
// 15.5.2; DESIGN, decision 3; attacks C7, C8, C12).
func TestToken_RFC6749_2_3_1(t *testing.T) {
	w := newWorld(t)
	id, secret := w.standard.id, w.standard.secret.Reveal()
	raw := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	_, refresh := w.key(w.standard)
	_, publicRefresh := w.key(w.public)
	_, directRefresh := w.key(w.direct)
	for _, c := range []struct {
		name, path string
		refresh    string
		form       url.Values
		header     []string
		status     int
		refusal    string
	}{
		{"Basic", "/oauth/token", refresh, nil, []string{"Authorization", basic(id, secret)}, 200, ""},
		{"basic, in small letters, two spaces", "/oauth/token", refresh, nil, []string{"Authorization", strings.Replace(basic(id, secret), "Basic ", "basic  ", 1)}, 200, ""},
		{"Basic, every byte percent-encoded", "/oauth/token", refresh, nil, []string{"Authorization", raw(encodeAll(id) + ":" + encodeAll(secret))}, 200, ""},
		{"Basic and the same client_id", "/oauth/token", refresh, url.Values{"client_id": {id}}, []string{"Authorization", basic(id, secret)}, 200, ""},
		{"in the body", "/oauth/token", refresh, url.Values{"client_id": {id}, "client_secret": {secret}}, nil, 200, ""},
		{"under /api too", "/api/oauth/token", refresh, nil, []string{"Authorization", basic(id, secret)}, 200, ""},
		{"Bearer says nothing here", "/oauth/token", refresh, url.Values{"client_id": {id}, "client_secret": {secret}}, []string{"Authorization", "Bearer x"}, 200, ""},
		{"Basic and a secret", "/oauth/token", refresh, url.Values{"client_secret": {secret}}, []string{"Authorization", basic(id, secret)}, 400, "invalid_request"},
		{"Basic and another client_id", "/oauth/token", refresh, url.Values{"client_id": {w.nopkce.id}}, []string{"Authorization", basic(id, secret)}, 400, "invalid_request"},
		{"Basic twice", "/oauth/token", refresh, nil, []string{"Authorization", basic(id, secret), "Authorization", basic(id, secret)}, 400, "invalid_request"},
		{"Basic, wrong secret", "/oauth/token", refresh, nil, []string{"Authorization", basic(id, "wrong")}, 401, "invalid_client"},
		{"Basic, unknown client", "/oauth/token", refresh, nil, []string{"Authorization", basic("nobody", "x")}, 401, "invalid_client"},
		{"Basic, unknown client, under /api", "/api/oauth/token", refresh, nil, []string{"Authorization", basic("nobody", "x")}, 401, "invalid_client"},
		{"Basic, no colon", "/oauth/token", refresh, nil, []string{"Authorization", raw(id)}, 401, "invalid_client"},
		{"Basic, no base64", "/oauth/token", refresh, nil, []string{"Authorization", "Basic %%%"}, 401, "invalid_client"},
		{"Basic, base64url without padding", "/oauth/token", refresh, nil, []string{"Authorization", "Basic " + base64.RawURLEncoding.EncodeToString([]byte("\xff\xff\xff:a"))}, 401, "invalid_client"},
		{"Basic, 5 KiB", "/oauth/token", refresh, nil, []string{"Authorization", basic(id, strings.Repeat("x", 5<<10))}, 401, "invalid_client"},
		{"Basic, a bare percent sign", "/oauth/token", refresh, nil, []string{"Authorization", raw(id + ":100%")}, 401, "invalid_client"},
		{"in the body, wrong", "/oauth/token", refresh, url.Values{"client_id": {id}, "client_secret": {"wrong"}}, nil, 401, "invalid_client"},
		{"no secret", "/oauth/token", refresh, url.Values{"client_id": {id}}, nil, 401, "invalid_client"},
		{"nothing", "/oauth/token", refresh, nil, nil, 401, "invalid_client"},
		{"unknown client", "/oauth/token", refresh, url.Values{"client_id": {"nobody"}}, nil, 401, "invalid_client"},
		{"unknown client under /api", "/api/oauth/token", refresh, url.Values{"client_id": {"nobody"}}, nil, 400, "invalid_client"},
		{"public", "/oauth/token", publicRefresh, url.Values{"client_id": {w.public.id}}, nil, 200, ""},
		{"public, with a secret", "/oauth/token", publicRefresh, url.Values{"client_id": {w.public.id}, "client_secret": {"x"}}, nil, 401, "invalid_client"},
		{"direct", "/oauth/token", directRefresh, url.Values{"client_id": {w.direct.id}}, nil, 200, ""},
		{"direct, with a secret", "/oauth/token", directRefresh, url.Values{"client_id": {w.direct.id}, "client_secret": {"x"}}, nil, 400, "invalid_client"},
		{"an exchange app", "/oauth/token", refresh, url.Values{"client_id": {w.exchange.id}, "client_secret": {w.exchange.secret.Reveal()}}, nil, 400, "unauthorized_client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {c.refresh}}
			for name, v := range c.form {
				form[name] = v
			}
			got := w.post(c.path, form, c.header...)
			if got.status != c.status || got.refusal() != c.refusal {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.refusal)
			}
			if (got.header.Get("WWW-Authenticate") != "") != (c.status == http.StatusUnauthorized) {
				t.Errorf("WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
			}
		})
	}
}

// encodeAll is application/x-www-form-urlencoded with nothing left as it is, which
// RFC 6749, appendix B allows.
func encodeAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		const hex = "0123456789abcdef"
		b.WriteString("%" + string(hex[s[i]>>4]) + string(hex[s[i]&15]))
	}
	return b.String()
}

// Where parameters may stand. For a direct client in query, form or JSON, each in
// one place; for everybody else in a form alone. Unknown parameters are ignored,
// empty ones count as omitted (RFC 6749, 3.2; DESIGN, decision 3; attacks D7, C12).
func TestToken_Places(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name             string
		of               app
		kind             string
		query, body      string
		status           int
		refusal, mention string
	}{
		{"direct, query", w.direct, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", "", 200, "", ""},
		{"direct, query and an empty JSON body", w.direct, jsonType, "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", "", 200, "", ""},
		{"direct, form", w.direct, formType, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 200, "", ""},
		{"direct, form with a charset", w.direct, formType + "; charset=UTF-8", "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 200, "", ""},
		{"direct, JSON", w.direct, jsonType, "", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"@RT","scope":null}`, 200, "", ""},
		{"direct, query and form, different parameters", w.direct, formType, "client_id=@ID&grant_type=refresh_token", "refresh_token=@RT", 200, "", ""},
		{"direct, query and JSON, different parameters", w.direct, jsonType, "refresh_token=@RT", `{"client_id":"@ID","grant_type":"refresh_token"}`, 200, "", ""},
		{"direct, one parameter in both", w.direct, formType, "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", "refresh_token=@RT", 400, "invalid_request", "refresh_token"},
		{"direct, twice in the query", w.direct, "", "client_id=@ID&client_id=@ID&grant_type=refresh_token&refresh_token=@RT", "", 400, "invalid_request", "client_id"},
		{"direct, twice, once empty", w.direct, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT&refresh_token=", "", 400, "invalid_request", "refresh_token"},
		{"direct, twice in JSON", w.direct, jsonType, "", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"x","refresh_token":"@RT"}`, 400, "invalid_request", ""},
		{"direct, twice in JSON, escaped", w.direct, jsonType, "", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"x","refresh\u005ftoken":"@RT"}`, 400, "invalid_request", ""},
		{"direct, a number in JSON", w.direct, jsonType, "", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":1}`, 400, "invalid_request", ""},
		{"direct, a list in JSON", w.direct, jsonType, "", `{"client_id":["@ID"]}`, 400, "invalid_request", ""},
		{"direct, two JSON values", w.direct, jsonType, "", `{"client_id":"@ID"}{}`, 400, "invalid_request", ""},
		{"direct, an unknown parameter twice", w.direct, formType, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT&x=1&x=2", 200, "", ""},
		{"direct, a body without a type", w.direct, "", "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 400, "invalid_request", ""},
		{"direct, multipart", w.direct, "multipart/form-data; boundary=x", "", "--x--", 400, "invalid_request", ""},
		{"direct, a query that cannot be read", w.direct, "", "client_id=@ID&grant_type=refresh_token&refresh_token=%zz", "", 400, "invalid_request", ""},
		{"direct, semicolons", w.direct, "", "client_id=@ID;grant_type=refresh_token;refresh_token=@RT", "", 400, "invalid_request", ""},
		{"direct, no grant_type", w.direct, formType, "", "client_id=@ID&refresh_token=@RT", 400, "invalid_request", "grant_type"},
		{"direct, an empty grant_type", w.direct, formType, "", "client_id=@ID&grant_type=&refresh_token=@RT", 400, "invalid_request", "grant_type"},
		{"direct, another grant", w.direct, formType, "", "client_id=@ID&grant_type=client_credentials", 400, "unsupported_grant_type", ""},
		{"public, form", w.public, formType, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 200, "", ""},
		{"public, query", w.public, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", "", 400, "invalid_request", "form"},
		{"public, one in the query", w.public, formType, "refresh_token=@RT", "client_id=@ID&grant_type=refresh_token", 400, "invalid_request", "refresh_token"},
		{"public, an empty one in the query", w.public, formType, "scope=", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 400, "invalid_request", "scope"},
		{"public, something else in the query", w.public, formType, "utm=1", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 200, "", ""},
		{"public, JSON", w.public, jsonType, "", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"@RT"}`, 400, "invalid_request", "form"},
		{"public, twice", w.public, formType, "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT&refresh_token=@RT", 400, "invalid_request", "refresh_token"},
		{"a direct client named in the query, another in the form", w.public, formType, "client_id=" + w.direct.id, "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 400, "invalid_request", "client_id"},
		{"a type without end", w.direct, formType + strings.Repeat("; a=b", 60), "", "client_id=@ID&grant_type=refresh_token&refresh_token=@RT", 400, "invalid_request", "Content-Type"},
		{"65 KiB", w.direct, formType, "", "client_id=@ID&x=" + strings.Repeat("x", 64<<10), 413, "invalid_request", ""},
		{"17 KiB of JSON", w.direct, jsonType, "", `{"client_id":"@ID","x":"` + strings.Repeat("x", 16<<10) + `"}`, 413, "invalid_request", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			_, refresh := w.key(c.of)
			fill := strings.NewReplacer("@ID", c.of.id, "@RT", refresh)
			r := httptest.NewRequest(http.MethodPost, "/oauth/token?"+fill.Replace(c.query), strings.NewReader(fill.Replace(c.body)))
			if c.kind != "" {
				r.Header.Set("Content-Type", c.kind)
			}
			got := w.do(r)
			if got.status != c.status || got.refusal() != c.refusal || !strings.Contains(got.body, c.mention) {
				t.Errorf("%d %s, want %d %s that speaks of %q", got.status, got.body, c.status, c.refusal, c.mention)
			}
		})
	}
}

// The answers of RFC 6749, 5.1: a standard client's names the scope, a direct
// client's has exactly the four members of its seed, and both always have a
// refresh token (seed dressipi-token; seed-contracts 1.8, trap 1).
func TestToken_RFC6749_5_1(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		of      app
		expires float64
		members int
		scope   any
	}{
		{w.standard, 600, 6, "stores.orders.view stores.view"},
		{w.public, 600, 6, "stores.orders.view stores.view"},
		{w.direct, 86_400, 4, nil},
	} {
		_, refresh := w.key(c.of)
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {c.of.id}}
		if c.of.secret != "" {
			form.Set("client_secret", c.of.secret.Reveal())
		}
		for name, got := range map[string]answer{"code": w.redeem(c.of, w.code(c.of)), "refresh": w.post("/oauth/token", form)} {
			var m map[string]any
			got.json(t, &m)
			if len(m) != c.members || m["token_type"] != "Bearer" || m["expires_in"] != c.expires || m["scope"] != c.scope || m["refresh_token"] == "" || m["access_token"] == "" {
				t.Errorf("%s, %s: %v", c.of.client.Name, name, m)
			}
			if id, _ := m["grant_id"].(string); (id != "") != (c.scope != nil) {
				t.Errorf("%s, %s: grant_id %q", c.of.client.Name, name, id)
			}
		}
	}
}

// Where no scope holds in every store of a key there is no scope that could be printed
// without a cross product, and an empty one has no syntax (RFC 6749, 3.3): the member is
// left out, and the key says what it may do (docs/divergences.md).
func TestToken_RFC6749_5_1_NoScopeInEveryStore(t *testing.T) {
	w := newWorld(t)
	for store, scope := range map[string]string{"s1": "stores.view", "s2": "stores.orders.view"} {
		if err := w.server.SetMembership(t.Context(), command, oauth.Membership{UserID: "alice", StoreID: store, MayDelegate: true, Scopes: oauth.Scopes(scope)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []app{w.standard, w.public} {
		_, refresh := w.key(a)
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "client_id": {a.id}}
		if a.secret != "" {
			form.Set("client_secret", a.secret.Reveal())
		}
		for name, got := range map[string]answer{"code": w.redeem(a, w.code(a)), "refresh": w.post("/oauth/token", form)} {
			var m map[string]any
			got.json(t, &m)
			if _, there := m["scope"]; there || len(m) != 5 {
				t.Errorf("%s, %s: %v", a.client.Name, name, m)
			}
			token, _ := m["access_token"].(string)
			c := claims(t, token)
			if rights := fmt.Sprint(c.Rights); c.Scope != "" || !strings.Contains(rights, "stores.view") || !strings.Contains(rights, "stores.orders.view") {
				t.Errorf("%s, %s: scope %q, rights %s", a.client.Name, name, c.Scope, rights)
			}
		}
	}
}

// Revocation answers {} for its own tokens, unknown ones and other clients', which
// it leaves alone; it takes access and refresh tokens of every profile, whatever
// the hint says (RFC 7009, 2.1 and 2.2; attack C13).
func TestRevoke_RFC7009(t *testing.T) {
	w := newWorld(t)
	for _, a := range []app{w.exchange, w.standard, w.public, w.direct} {
		auth := url.Values{"client_id": {a.id}}
		if a.secret != "" {
			auth.Set("client_secret", a.secret.Reveal())
		}
		for _, kind := range []string{"access_token", "refresh_token"} {
			for _, hint := range []string{"", "access_token", "refresh_token", "nonsense"} {
				access, refresh := w.key(a)
				token := access
				if kind == "refresh_token" {
					token = refresh
				}
				if token == "" {
					continue // a lasting key has no refresh token
				}
				foreign := w.post("/oauth/revoke", url.Values{"token": {token}}, "Authorization", basic(w.other.id, w.other.secret.Reveal()))
				if foreign.status != http.StatusOK || foreign.body != "{}\n" || !w.active(access) {
					t.Errorf("%s: another client's revocation: %d %s", a.client.Name, foreign.status, foreign.body)
				}
				form := url.Values{"token": {token}, "token_type_hint": {hint}}
				for name, v := range auth {
					form[name] = v
				}
				for range 2 { // the second time it is unknown
					if got := w.post("/oauth/revoke", form); got.status != http.StatusOK || got.body != "{}\n" {
						t.Errorf("%s, %s, hint %q: %d %s", a.client.Name, kind, hint, got.status, got.body)
					}
				}
				if w.active(access) {
					t.Errorf("%s, %s, hint %q: the access token is active", a.client.Name, kind, hint)
				}
			}
		}
	}
	header := []string{"Authorization", basic(w.standard.id, w.standard.secret.Reveal())}
	if got := w.post("/oauth/revoke", url.Values{}, header...); got.status != 400 || got.refusal() != "invalid_request" {
		t.Errorf("no token: %d %s", got.status, got.body)
	}
	if got := w.post("/oauth/revoke", url.Values{"token": {"x"}}); got.status != 401 || got.refusal() != "invalid_client" {
		t.Errorf("no client: %d %s", got.status, got.body)
	}
	if got := w.post("/oauth/revoke?token=x", nil, header...); got.status != 400 || got.refusal() != "invalid_request" {
		t.Errorf("a token in the query: %d %s", got.status, got.body)
	}
}

// A key of as many stores as one prints, with the longest ids, is introspected and
// revoked like any other.
func TestRevoke_TheLongestKey(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var stores []string
	for i := range oauth.MaxPrinted {
		id := fmt.Sprintf("%0255d", i)
		stores = append(stores, id)
		if err := errors.Join(w.server.PutStore(ctx, command, oauth.Store{ID: id, Name: id[250:]}),
			w.server.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: id, Owner: true, MayDelegate: true})); err != nil {
			t.Fatal(err)
		}
	}
	r, _, err := w.server.Authorize(ctx, url.Values{"client_id": {w.standard.id}, "response_type": {"code"}, "redirect_uri": {callback},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}})
	if err != nil || r == nil {
		t.Fatal(err)
	}
	var key struct {
		Access string `json:"access_token"`
	}
	w.redeem(w.standard, w.allow("alice", r, stores...)).json(t, &key)
	if n := len(key.Access); n < 16<<10 || n > 32<<10 {
		t.Errorf("%d bytes", n)
	}
	if !w.active(key.Access) {
		t.Error("inactive")
	}
	if a := w.post("/oauth/revoke", url.Values{"token": {key.Access}}, "Authorization", basic(w.standard.id, w.standard.secret.Reveal())); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if w.active(key.Access) {
		t.Error("active when it was revoked")
	}
	var c oauth.Claims
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(key.Access, ".")[1])
	if err = errors.Join(err, json.Unmarshal(payload, &c)); err != nil || len(c.Rights) != 1 || len(c.Rights[0].Stores) != len(stores) {
		t.Fatalf("printed %d, %v", len(c.Rights), err)
	}
	id, _, _ := strings.Cut(c.ID, ".")
	if f, _, err := w.db.Family(ctx, id); err != nil || f.Status != oauth.Invalid {
		t.Errorf("family %+v, %v", f, err)
	}
}

// Introspection is for APIs, and says of a token that is not active nothing else
// (RFC 7662, 2.1 to 2.3; attack C14).
func TestIntrospect_RFC7662(t *testing.T) {
	w := newWorld(t)
	lasting, _ := w.key(w.exchange)
	access, refresh := w.key(w.standard)
	api := []string{"Authorization", basic(w.api.ID, w.api.Secret.Reveal())}
	ask := func(token string, header ...string) answer {
		return w.post("/oauth/introspect", url.Values{"token": {token}}, header...)
	}
	var in map[string]any
	ask(lasting, api...).json(t, &in)
	if _, invented := in["exp"]; invented || in["active"] != true || in["token_type"] != "Bearer" || in["iss"] != issuer || in["aud"] != audience || in["sub"] != "alice" ||
		in["client_id"] != w.exchange.id || in["scope"] != "stores.orders.view stores.view" || len(in["rights"].([]any)) != 1 {
		t.Errorf("a lasting key: %v", in)
	}
	ask(access, api...).json(t, &in)
	if in["exp"] != float64(start.Unix()+600) || in["iat"] != float64(start.Unix()) {
		t.Errorf("an access token: %v", in)
	}
	w.advance(10 * 60 * 1e9)
	for name, token := range map[string]string{"expired": access, "a refresh token": refresh, "unknown": "x", "a key of another issuer": lasting[:len(lasting)-8] + "AAAAAAAA",
		"an unsigned one": "eyJhbGciOiJub25lIn0.e30."} {
		if got := ask(token, api...); got.status != 200 || got.body != `{"active":false}`+"\n" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	for name, header := range map[string][]string{"nobody": nil, "a wrong secret": {"Authorization", basic(w.api.ID, "wrong")},
		"a client": {"Authorization", basic(w.standard.id, w.standard.secret.Reveal())}, "a bearer": {"Authorization", "Bearer " + lasting}} {
		if got := ask(lasting, header...); got.status != 401 || got.refusal() != "invalid_client" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	post := url.Values{"token": {lasting}, "client_id": {w.api.ID}, "client_secret": {w.api.Secret.Reveal()}}
	if got := w.post("/oauth/introspect", post); got.status != 200 || !strings.HasPrefix(got.body, `{"active":true`) {
		t.Errorf("client_secret_post: %d %s", got.status, got.body)
	}
	for name, got := range map[string]answer{
		"no token":             ask("", api...),
		"a token in the query": w.post("/oauth/introspect?token="+lasting, nil, api...),
		"a token twice":        w.post("/oauth/introspect", url.Values{"token": {lasting, lasting}}, api...),
	} {
		if got.status != 400 || got.refusal() != "invalid_request" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

// What is answered again is what is true now, to the byte.
func TestIntrospect_PrintsWhatIsTrueNow(t *testing.T) {
	w := newWorld(t)
	lasting, _ := w.key(w.exchange)
	w.key(w.standard)
	ask := func() (text string, in map[string]any) {
		got := w.post("/oauth/introspect", url.Values{"token": {lasting}}, "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
		got.json(t, &in)
		if got.status != 200 || got.header.Get("Content-Type") != "application/json" || in["active"] != true {
			t.Fatalf("%d %s %s", got.status, got.header, got.body)
		}
		return got.body, in
	}
	first, in := ask()
	if again, _ := ask(); again != first {
		t.Errorf("again %s, before %s", again, first)
	}
	if err := w.server.RevokeGrant(t.Context(), command, w.grantOf("alice", w.standard)); err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(first, fmt.Sprintf(`"iseq":%.0f`, in["iseq"]), fmt.Sprintf(`"iseq":%.0f`, in["iseq"].(float64)+1), 1)
	if again, _ := ask(); again != moved {
		t.Errorf("after an event about another key %s, want %s", again, moved)
	}
	if err := w.server.DropMembership(t.Context(), command, "alice", "s1"); err != nil {
		t.Fatal(err)
	}
	if again, _ := ask(); strings.Contains(again, "s1") || !strings.Contains(first, "s1") {
		t.Errorf("after a store is lost %s, before %s", again, first)
	}
}

// A page of another origin may read no answer; a public client's own page may, at
// token and revocation, without cookies, and nowhere else (RFC 9700, 2.6; RFC
// 10017; attack C16).
func TestCORS(t *testing.T) {
	w := newWorld(t)
	own := "https://client.example"
	token := func(a app) url.Values {
		v := url.Values{"client_id": {a.id}, "grant_type": {"authorization_code"}, "code": {"x"}, "token": {"x"}, "code_verifier": {verifier}}
		if a.secret != "" {
			v.Set("client_secret", a.secret.Reveal())
		}
		return v
	}
	for _, c := range []struct {
		name, path string
		of         app
		origin     string
		allowed    bool
	}{
		{"token, own", "/oauth/token", w.public, own, true},
		{"revoke, own", "/oauth/revoke", w.public, own, true},
		{"token, loopback", "/oauth/token", w.public, "http://127.0.0.1", true},
		{"token, another", "/oauth/token", w.public, "https://evil.example", false},
		{"token, own without TLS", "/oauth/token", w.public, "http://client.example", false},
		{"token, own on another port", "/oauth/token", w.public, "https://client.example:8443", false},
		{"token, below own", "/oauth/token", w.public, "https://x.client.example", false},
		{"token, own as a prefix", "/oauth/token", w.public, "https://client.example.evil.example", false},
		{"token, null", "/oauth/token", w.public, "null", false},
		{"token, a confidential client", "/oauth/token", w.standard, own, false},
		{"revoke, a confidential client", "/oauth/revoke", w.standard, own, false},
		{"token, a direct client", "/oauth/token", w.direct, "urn://", false},
		{"introspect", "/oauth/introspect", w.public, own, false},
	} {
		got := w.post(c.path, token(c.of), "Origin", c.origin)
		want := ""
		if c.allowed {
			want = c.origin
		}
		if allowed := got.header.Get("Access-Control-Allow-Origin"); allowed != want || got.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: Access-Control-Allow-Origin %q, want %q", c.name, allowed, want)
		}
		if !strings.HasSuffix(c.path, "introspect") && !strings.Contains(got.header.Get("Vary"), "Origin") {
			t.Errorf("%s: Vary %q", c.name, got.header.Get("Vary"))
		}
	}
	// What is refused before anybody has proved who asks, is read by the app's own page as well, and by no other.
	limited := newLimitedWorld(t, Limits{Anonymous: oauth.Bucket{Size: 1, Refill: 1, Every: time.Hour}})
	for name, refused := range map[string]struct {
		of     *world
		reason string
		ask    func(w *world, id, origin string) answer
	}{
		"in the query": {w, "invalid_request", func(w *world, id, origin string) answer {
			return w.post("/oauth/token?code=x", url.Values{"client_id": {id}}, "Origin", origin)
		}},
		"as JSON": {w, "invalid_request", func(w *world, id, origin string) answer {
			return w.do(with(httptest.NewRequest("POST", "/oauth/token", strings.NewReader(`{"client_id":"`+id+`"}`)), "Content-Type", "application/json", "Origin", origin))
		}},
		"twice": {w, "invalid_request", func(w *world, id, origin string) answer {
			return w.post("/oauth/revoke", url.Values{"client_id": {id}, "token": {"x", "y"}}, "Origin", origin)
		}},
		"two API keys": {w, "invalid_request", func(w *world, id, origin string) answer {
			return w.post("/oauth/token", url.Values{"client_id": {id}}, "X-Api-Key", "a", "X-Api-Key", "b", "Origin", origin)
		}},
		"unread Basic": {w, "invalid_client", func(w *world, id, origin string) answer {
			return w.post("/oauth/token", url.Values{"client_id": {id}}, "Authorization", "Basic x", "Origin", origin)
		}},
		"limited": {limited, "temporarily_unavailable", func(w *world, id, origin string) answer {
			w.post("/oauth/token", url.Values{"client_id": {"nobody"}})
			return w.post("/oauth/token?code=x", url.Values{"client_id": {id}}, "Origin", origin)
		}},
	} {
		for origin, want := range map[string]string{own: own, "https://evil.example": ""} {
			got := refused.ask(refused.of, refused.of.public.id, origin)
			if allowed := got.header.Get("Access-Control-Allow-Origin"); allowed != want || got.refusal() != refused.reason || got.header.Get("Vary") != "Origin" {
				t.Errorf("%s, from %s: Access-Control-Allow-Origin %q, Vary %q, %d %s", name, origin, allowed, got.header.Get("Vary"), got.status, got.body)
			}
		}
	}
	for name, got := range map[string]answer{
		"exchange":          w.get("/oauth2/"+w.exchange.id+"/exchange/"+w.code(w.exchange), "Origin", own, "X-Client-Secret", w.exchange.secret.Reveal(), "User-Agent", "x"),
		"exchange, refused": w.get("/oauth2/"+w.exchange.id+"/exchange/x", "Origin", own, "User-Agent", "x"),
		"authorize":         w.get("/oauth/authorize?client_id="+w.public.id, "Origin", own),
		"direct authorize":  w.get("/api/oauth/authorize?client_id="+w.direct.id, "Origin", own),
		"a preflight":       w.do(with(httptest.NewRequest("OPTIONS", "/oauth/token", nil), "Origin", own, "Access-Control-Request-Method", "POST")),
	} {
		for header := range got.header {
			if strings.HasPrefix(header, "Access-Control-") {
				t.Errorf("%s: %s", name, header)
			}
		}
	}
	// Documents that everybody may read, a browser's page may read as well.
	if got := w.get("/.well-known/oauth-authorization-server", "Origin", "https://anybody.example"); got.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("metadata cannot be read by a page")
	}
}

// What a direct client's authorize hands to the portal and what it answers itself
// (seed-contracts 1.6, D3, D5; DESIGN, URLs).
func TestAuthorize_WhoAnswers(t *testing.T) {
	w := newWorld(t)
	const page = "a page for people"
	var posted string
	w.Handler = New(Config{Server: w.server, Authorize: http.HandlerFunc(func(rec http.ResponseWriter, r *http.Request) {
		all, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		posted = string(all)
		portal(rec, r)
	})})
	for _, c := range []struct {
		name, method, target string
		status               int
		refusal, state       string
	}{
		{"a standard client", "GET", "/oauth/authorize?client_id=" + w.standard.id, 200, page, ""},
		{"a standard client under /api", "GET", "/api/oauth/authorize?client_id=" + w.standard.id, 200, page, ""},
		{"an exchange client", "GET", "/oauth/authorize?client_id=" + w.exchange.id, 200, page, ""},
		{"unknown", "GET", "/oauth/authorize?client_id=nobody", 200, page, ""},
		{"nobody", "GET", "/oauth/authorize", 200, page, ""},
		{"a standard client, POST", "POST", "/oauth/authorize?client_id=" + w.standard.id, 200, page, ""},
		{"a standard client, a form", "POST", "/oauth/authorize client_id=" + w.standard.id + "&state=s", 200, page, ""},
		{"nobody, POST", "POST", "/oauth/authorize", 200, page, ""},
		{"direct, POST", "POST", "/oauth/authorize?client_id=" + w.direct.id, 405, "invalid_request", ""},
		{"direct, a form", "POST", "/oauth/authorize state=s&client_id=" + w.direct.id, 405, "invalid_request", ""},
		{"direct, HEAD", "HEAD", "/oauth/authorize?client_id=" + w.direct.id, 405, "invalid_request", ""},
		{"unknown under /api, a form", "POST", "/api/oauth/authorize client_id=nobody", 405, "invalid_request", ""},
		{"unknown under /api", "GET", "/api/oauth/authorize?client_id=nobody&state=a%22b", 400, "invalid_client", `a"b`},
		{"direct, incomplete", "GET", "/oauth/authorize?client_id=" + w.direct.id + "&state=xyz", 400, "invalid_request", "xyz"},
		{"direct, a query that cannot be read", "GET", "/oauth/authorize?client_id=" + w.direct.id + "&x=%zz", 400, "invalid_request", ""},
		{"direct, two states", "GET", "/oauth/authorize?client_id=" + w.direct.id + "&state=1&state=2", 400, "invalid_request", ""},
	} {
		target, form, _ := strings.Cut(c.target, " ")
		posted = ""
		got := w.do(httptest.NewRequest(c.method, target, strings.NewReader(form)))
		if got.body == page && posted != form {
			t.Errorf("%s: of %q the page reads %q", c.name, form, posted)
		}
		if got.status == http.StatusMethodNotAllowed && got.header.Get("Allow") != "GET" {
			t.Errorf("%s: Allow %q", c.name, got.header.Get("Allow"))
		}
		var e struct{ State string }
		refusal := got.refusal()
		if got.body == page {
			refusal = page
		} else {
			got.json(t, &e)
		}
		if got.status != c.status || refusal != c.refusal || e.State != c.state {
			t.Errorf("%s: %d %s", c.name, got.status, got.body)
		}
	}
	for _, header := range [][]string{{"Sec-Purpose", "prefetch"}, {"Sec-Fetch-Mode", "navigate"}} {
		q := url.Values{"client_id": {w.direct.id}, "redirect_uri": {oauth.OutOfBand}, "response_type": {"code"}, "state": {"xyz"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}
		if got := w.get("/oauth/authorize?"+q.Encode(), header...); got.status != 400 || strings.Contains(got.body, `"code"`) {
			t.Errorf("%v: %d %s", header, got.status, got.body)
		}
	}
}

// wait=effective, ours, answers when no API server accepts the key any longer, and says
// which way it came: acknowledged by all, or by the time that bounds it.
func TestRevoke_WaitsForEffect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	header := []string{"Authorization", basic(w.standard.id, w.standard.secret.Reveal())}
	access, _ := w.key(w.standard)
	if got := w.post("/oauth/revoke", url.Values{"token": {access}, "wait": {"forever"}}, header...); got.status != 400 || got.refusal() != "invalid_request" || !w.active(access) {
		t.Errorf("wait=forever: %d %s", got.status, got.body)
	}
	if got := w.post("/oauth/revoke?wait=effective", url.Values{"token": {access}}, header...); got.status != 400 || !w.active(access) {
		t.Errorf("wait in the query: %d %s", got.status, got.body)
	}
	type effect struct {
		Effective struct {
			Everywhere bool
			Followers  int
			MS         int64
		}
	}
	var e effect
	got := w.post("/oauth/revoke", url.Values{"token": {access}, "wait": {"effective"}}, header...)
	got.json(t, &e)
	if got.status != http.StatusOK || !e.Effective.Everywhere || e.Effective.Followers != 0 || w.active(access) {
		t.Errorf("nobody follows: %d %s", got.status, got.body)
	}
	begins := func() answer {
		return w.get("/revocations?instance=one", "Authorization", basic(w.api.ID, w.api.Secret.Reveal()))
	}
	if got := known(begins); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	access, _ = w.key(w.standard)
	began := time.Now()
	got = w.post("/oauth/revoke", url.Values{"token": {access}, "wait": {"effective"}}, header...)
	got.json(t, &e)
	if took := time.Since(began); got.status != http.StatusOK || e.Effective.Everywhere || e.Effective.Followers != 1 || e.Effective.MS < 850 || took < 850*time.Millisecond || w.active(access) {
		t.Errorf("one follower, and it does not ask on: %d %s, after %v", got.status, got.body, took)
	}
}
