package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// api guards a few routes as a store API would.
func api(v *Verifier) http.Handler {
	store := func(r *http.Request) string { return r.PathValue("storeId") }
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, FromContext(r.Context()).Subject)
	})
	mux := http.NewServeMux()
	mux.Handle("GET /stores", v.Require(Access{Scope: "stores.view"})(hello))
	mux.Handle("GET /stores/{storeId}", v.Require(Access{Scope: "stores.view", Store: store})(hello))
	mux.Handle("PUT /stores/{storeId}/products", v.Require(Access{Scope: "stores.products.update", Store: store})(hello))
	mux.Handle("GET /user", v.Require(Access{Scope: "user.view"})(hello))
	mux.Handle("DELETE /user", v.Require(Access{Scope: "user.delete"})(hello))
	mux.Handle("GET /any", v.Require(Access{})(hello))
	return mux
}

func call(h http.Handler, method, path string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for n := 0; n < len(headers); n += 2 {
		r.Header.Add(headers[n], headers[n+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// DESIGN, decision 2: write on store A, read on store B, the same key; a write on B is 403.
func TestRequire_rightsPerStore(t *testing.T) {
	i := newIssuer(t)
	h := api(i.verifier(t))
	// The flat scope names the write as well. It must count for nothing where a store is asked for.
	for name, token := range map[string]string{
		"lasting": i.lasting(t, object{"scope": "user.view stores.view stores.products.update"}),
		"access":  i.accessToken(t, nil),
	} {
		for _, c := range []struct {
			method, path string
			status       int
		}{
			{"GET", "/stores", 200},
			{"GET", "/stores/shop-1", 200},
			{"PUT", "/stores/shop-1/products", 200},
			{"GET", "/stores/shop-2", 200},
			{"PUT", "/stores/shop-2/products", 403},
			{"GET", "/stores/shop-3", 403},
			{"PUT", "/stores/shop-3/products", 403},
			{"GET", "/stores/SHOP-1", 403},
			{"GET", "/stores/shop-1%20", 403},
			{"GET", "/stores/shop-1%20shop-2", 403},
			{"GET", "/user", 200},
			{"DELETE", "/user", 403},
			{"GET", "/any", 200},
			{"HEAD", "/stores/shop-1", 200},
			{"HEAD", "/stores/shop-3", 403},
		} {
			r := call(h, c.method, c.path, "Authorization", "Bearer "+token)
			if r.StatusCode != c.status {
				t.Errorf("%s %s %s: %d, want %d", name, c.method, c.path, r.StatusCode, c.status)
			}
			if text := body(t, r); c.status == 200 && text != "user-7" {
				t.Errorf("%s %s %s: the handler saw %q", name, c.method, c.path, text)
			}
		}
	}
}

// Rights are those of now: what the key printed when it was issued counts for nothing.
func TestRequire_rightsOfNow(t *testing.T) {
	i := newIssuer(t)
	h := api(i.verifier(t))
	token := i.lasting(t, nil)
	auth := "Bearer " + token
	i.stand(token, i.claims(), object{"scope": "", "rights": []object{{"stores": []string{"shop-3"}, "scope": "stores.view"}}})
	for path, status := range map[string]int{"/stores/shop-1": 403, "/stores/shop-3": 200, "/user": 403, "/stores": 200} {
		if r := call(h, "GET", path, "Authorization", auth); r.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, r.StatusCode, status)
		}
	}
	for name, edit := range map[string]object{
		"no rights": {"rights": nil, "scope": "stores.view"}, "rights null": {"rights": []object(nil), "scope": "stores.view"},
		"no stores": {"rights": []object{{"scope": "stores.view"}}, "scope": nil},
	} {
		i.stand(token, i.claims(), edit)
		if r := call(h, "GET", "/stores/shop-1", "Authorization", auth); r.StatusCode != 403 {
			t.Errorf("%s: %d, want 403", name, r.StatusCode)
		}
	}
	// A scope held in no store is held nowhere.
	i.stand(token, i.claims(), object{"rights": []object{{"scope": "stores.view"}}, "scope": nil})
	if r := call(h, "GET", "/stores", "Authorization", auth); r.StatusCode != 403 {
		t.Errorf("a right without stores: %d, want 403", r.StatusCode)
	}
}

func TestCaller(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, object{"rights": []object{
		{"stores": []string{"a", "b"}, "scope": "view update"}, {"stores": []string{"c", "b"}, "scope": "view"}, {"stores": []string{}, "scope": "delete"},
	}, "scope": "view user.view"})
	c, err := v.Check(context.Background(), token, Access{})
	if err != nil {
		t.Fatal(err)
	}
	for scope, want := range map[string][]string{"view": {"a", "b", "c"}, "update": {"a", "b"}, "delete": nil, "user.view": nil, "": {"a", "b", "c"}} {
		if got := c.Stores(scope); !slices.Equal(got, want) {
			t.Errorf("Stores(%q) = %q, want %q", scope, got, want)
		}
	}
	for _, x := range []struct {
		store, scope string
		want         bool
	}{{"a", "update", true}, {"c", "update", false}, {"c", "view", true}, {"d", "view", false}, {"a", "user.view", false}, {"", "view", false}, {"a", "", false}, {"a", "upd", false}} {
		if got := c.HasIn(x.store, x.scope); got != x.want {
			t.Errorf("HasIn(%q, %q) = %v", x.store, x.scope, got)
		}
	}
	if !c.Has("view") || c.Has("update") || c.Has("") || c.Has("view user.view") {
		t.Errorf("Has goes wrong on %q", c.Scopes)
	}
	// Requests that share an answer do not share a Caller.
	shared, err := v.introspect(token)
	if err != nil {
		t.Fatal(err)
	}
	v.asking.do = func(string) (*answer, error) { return shared, nil }
	for range 2 {
		c, err := v.Check(context.Background(), token, Access{})
		if err != nil || c.Scopes[0] != "view" {
			t.Fatalf("scopes %q, %v", c.Scopes, err)
		}
		c.Scopes[0] = "changed by one handler"
	}
	none := FromContext(context.Background())
	if none.Subject != "" || none.Has("view") || none.HasIn("a", "view") || none.Stores("view") != nil {
		t.Errorf("outside a request: %+v", none)
	}
}

func TestCheck_access(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, nil)
	in := func(id string) func(*http.Request) string { return func(*http.Request) string { return id } }
	for _, c := range []struct {
		access Access
		reason string
	}{
		{Access{}, ""},
		{Access{Scope: "user.view"}, ""},
		{Access{Scope: "stores.products.update"}, ""}, // in one store: the handler filters
		{Access{Scope: "stores.delete"}, "scope"},
		{Access{Scope: "stores.view stores.products.update"}, "scope"},
		{Access{Scope: "stores.products.update", Store: in("shop-1")}, ""},
		{Access{Scope: "stores.products.update", Store: in("shop-2")}, "other_store"},
		{Access{Scope: "stores.delete", Store: in("shop-2")}, "scope"},
		{Access{Scope: "user.view", Store: in("shop-1")}, "scope"},
		{Access{Scope: "stores.view", Store: in("")}, "other_store"},
		{Access{Store: in("shop-2")}, ""},
		{Access{Store: in("shop-3")}, "store"},
		{Access{Store: in("")}, "store"},
	} {
		caller, err := v.Check(context.Background(), token, c.access)
		if caller.Subject != "user-7" {
			t.Errorf("%q: caller %+v", c.access.Scope, caller)
		}
		if c.reason == "" {
			if err != nil {
				t.Errorf("%q: %v", c.access.Scope, err)
			}
			continue
		}
		wantError(t, err, Denied, c.reason)
		if e := asError(t, err); e.Scope != c.access.Scope {
			t.Errorf("the error names scope %q, want %q", e.Scope, c.access.Scope)
		}
	}
}

// RFC 6750 sections 2.1, 2 ("must not use more than one method"), 3 and 3.1; D12 of the second contract.
func TestRequire_RFC6750_carriersAndChallenges(t *testing.T) {
	i := newIssuer(t)
	h := api(i.verifier(t))
	komerza := api(i.verifier(t, func(c *Config) { c.Errors = Komerza }))
	good, other := i.lasting(t, nil), i.lasting(t, object{"jti": "key-2"})
	const (
		realm   = `Bearer realm="https://api.example/v1"`
		request = realm + `, error="invalid_request"`
		token   = realm + `, error="invalid_token"`
		scope   = realm + `, error="insufficient_scope"`
	)
	for name, c := range map[string]struct {
		headers   []string
		path      string
		status    int
		challenge string
		komerza   int
		code      string
	}{
		"good":                 {[]string{"Authorization", "Bearer " + good}, "/any", 200, "", 200, ""},
		"scheme in lower case": {[]string{"Authorization", "bearer " + good}, "/any", 200, "", 200, ""},
		"three spaces":         {[]string{"Authorization", "BEARER   " + good}, "/any", 200, "", 200, ""},
		"x-dressipi-jwt":       {[]string{"x-dressipi-jwt", good}, "/any", 200, "", 200, ""},
		"both the same":        {[]string{"x-dressipi-jwt", good, "Authorization", "Bearer " + good}, "/any", 200, "", 200, ""},
		"beside Basic":         {[]string{"x-dressipi-jwt", good, "Authorization", "Basic YTpi"}, "/any", 200, "", 200, ""},
		"good, bad query":      {[]string{"Authorization", "Bearer " + good}, "/any?access_token=x", 200, "", 200, ""},

		"none":          {nil, "/any", 401, realm, 401, "BadToken"},
		"only in query": {nil, "/any?access_token=" + good, 401, realm, 401, "BadToken"},
		"Basic":         {[]string{"Authorization", "Basic YTpi"}, "/any", 401, realm, 401, "BadToken"},
		"empty":         {[]string{"Authorization", ""}, "/any", 401, realm, 401, "BadToken"},

		"Bearer and nothing":  {[]string{"Authorization", "Bearer"}, "/any", 400, request, 401, "BadToken"},
		"Bearer and spaces":   {[]string{"Authorization", "Bearer   "}, "/any", 400, request, 401, "BadToken"},
		"two words":           {[]string{"Authorization", "Bearer " + good + " " + good}, "/any", 400, request, 401, "BadToken"},
		"a comma":             {[]string{"Authorization", "Bearer " + good + "," + good}, "/any", 400, request, 401, "BadToken"},
		"quotes":              {[]string{"Authorization", `Bearer "` + good + `"`}, "/any", 400, request, 401, "BadToken"},
		"only padding":        {[]string{"Authorization", "Bearer ==="}, "/any", 400, request, 401, "BadToken"},
		"empty x-dressipi":    {[]string{"x-dressipi-jwt", ""}, "/any", 400, request, 401, "BadToken"},
		"two headers":         {[]string{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}, "/any", 400, request, 401, "BadToken"},
		"two headers, Basic":  {[]string{"Authorization", "Basic YTpi", "Authorization", "Bearer " + good}, "/any", 400, request, 401, "BadToken"},
		"both, different":     {[]string{"x-dressipi-jwt", other, "Authorization", "Bearer " + good}, "/any", 400, request, 400, "ValidationError"},
		"x-dressipi-jwt, two": {[]string{"x-dressipi-jwt", other, "x-dressipi-jwt", good}, "/any", 400, request, 400, "ValidationError"},

		"not a JWT": {[]string{"Authorization", "Bearer abc"}, "/any", 401, token, 401, "BadToken"},
		"padded":    {[]string{"Authorization", "Bearer " + good + "="}, "/any", 401, token, 401, "BadToken"},
		"unknown":   {[]string{"Authorization", "Bearer " + good[:len(good)-8] + "AAAAAAAA"}, "/any", 401, token, 401, "BadToken"},

		"scope": {[]string{"Authorization", "Bearer " + good}, "/user/x", 404, "", 404, ""},
		"store": {[]string{"Authorization", "Bearer " + good}, "/stores/shop-3", 403, scope, 403, "AccessDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			r := call(h, "GET", c.path, c.headers...)
			got := r.Header.Get("WWW-Authenticate")
			if r.StatusCode != c.status || !strings.HasPrefix(got, c.challenge) || c.challenge == realm && got != realm {
				t.Errorf("%d %q, want %d %q", r.StatusCode, got, c.status, c.challenge)
			}
			if c.status == 401 || c.status == 403 || c.status == 400 {
				if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Vary") != "Authorization" {
					t.Errorf("cacheable: %v", r.Header)
				}
			}
			if text := body(t, r) + got; strings.Contains(text, "eyJ") {
				t.Errorf("the token is in the answer: %s", text)
			}
			k := call(komerza, "GET", c.path, c.headers...)
			if k.StatusCode != c.komerza {
				t.Errorf("Komerza: %d, want %d", k.StatusCode, c.komerza)
			}
			if c.code == "" {
				return
			}
			var e map[string]any
			if err := json.Unmarshal([]byte(body(t, k)), &e); err != nil {
				t.Fatal(err)
			}
			if e["success"] != false || e["code"] != c.code || e["message"] == "" || len(e) != 4 || e["data"] != nil {
				t.Errorf("envelope %v, want %s", e, c.code)
			}
			if k.StatusCode == 401 && !strings.HasPrefix(k.Header.Get("WWW-Authenticate"), realm) {
				t.Errorf("401 without challenge (RFC 9110 section 15.5.2): %v", k.Header)
			}
		})
	}

	r := call(h, "GET", "/stores/shop-3", "Authorization", "Bearer "+good)
	if got := r.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `, scope="stores.view"`) {
		t.Errorf("insufficient_scope without the scope: %s", got)
	}
	i.set(func() { clear(i.table) })
	r = call(h, "GET", "/any", "Authorization", "Bearer "+good)
	if got := r.Header.Get("WWW-Authenticate"); r.StatusCode != 401 || !strings.HasPrefix(got, token) {
		t.Errorf("revoked: %d %s", r.StatusCode, got)
	}
	if k := call(komerza, "GET", "/any", "Authorization", "Bearer "+good); k.StatusCode != 401 || !strings.Contains(body(t, k), `"code":"BadToken"`) {
		t.Errorf("revoked, Komerza: %d", k.StatusCode)
	}
}

// The published example: "Your API key does not have permission to update products".
func TestRequire_KomerzaMessages(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t, func(c *Config) { c.Errors = Komerza })
	token := i.lasting(t, object{"rights": []object{{"stores": []string{"shop-9"}, "scope": "stores.orders.refund"}}})
	for scope, want := range map[string]string{
		"stores.products.update":        "Your API key does not have permission to update products",
		"stores.update":                 "Your API key does not have permission to update stores",
		"stores.reviews.flagged.create": "Your API key does not have permission to create flagged reviews",
		"user.crypto.viewEnabled":       "Your API key does not have permission to view enabled crypto",
		"user.webhooks.delete":          "Your API key does not have permission to delete webhooks",
		"user.delete":                   "Your API key does not have permission to delete user",
		"email":                         "Your API key does not have permission to use email",
		"stores.orders.refund":          "Your API key does not have permission to refund orders in this store",
		"":                              "Your API key does not have access to this store",
	} {
		h := v.Require(Access{Scope: scope, Store: func(*http.Request) string { return "shop-1" }})(http.NotFoundHandler())
		r := call(h, "GET", "/", "Authorization", "Bearer "+token)
		if r.StatusCode != 403 {
			t.Errorf("%s: %d", scope, r.StatusCode)
		}
		if got := body(t, r); got != `{"success":false,"message":"`+want+`","code":"AccessDenied","data":null}` {
			t.Errorf("%s: %s", scope, got)
		}
	}
}

func TestRequire_refusesScopesThatCannotBe(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	for _, scope := range []string{"a b", `a"`, `a\`, "a\n", "é"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%q was taken", scope)
				}
			}()
			v.Require(Access{Scope: scope})
		}()
	}
}
