package endpoint

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// The app that a request names is looked up once, whether there is one or not, whoever
// asks from wherever.
func TestClient_IsLookedUpOnce(t *testing.T) {
	w := newWorld(t)
	reads := 0
	count := func(context.Context) { reads++ }
	w.hold.Store(&count)
	refresh := func(id string) url.Values {
		return url.Values{"grant_type": {"refresh_token"}, "client_id": {id}, "refresh_token": {"nothing"}}
	}
	for what, ask := range map[string]struct {
		status int
		send   func() answer
	}{
		"token, unknown":            {http.StatusUnauthorized, func() answer { return w.post("/oauth/token", refresh("nobody")) }},
		"token, unknown, of a page": {http.StatusUnauthorized, func() answer { return w.post("/oauth/token", refresh("nobody"), "Origin", "https://client.example") }},
		"token, unknown, /api":      {http.StatusBadRequest, func() answer { return w.post("/api/oauth/token", refresh("nobody")) }},
		"token, known, of a page":   {http.StatusBadRequest, func() answer { return w.post("/oauth/token", refresh(w.public.id), "Origin", "https://client.example") }},
		"revoke, unknown":           {http.StatusUnauthorized, func() answer { return w.post("/oauth/revoke", url.Values{"client_id": {"nobody"}, "token": {"x"}}) }},
		"authorize, unknown, /api":  {http.StatusBadRequest, func() answer { return w.get("/api/oauth/authorize?client_id=nobody") }},
		"grant, unknown": {http.StatusUnauthorized, func() answer {
			r := httptest.NewRequest(http.MethodGet, "/oauth/grants/x", nil)
			r.SetBasicAuth("nobody", "x")
			return w.do(r)
		}},
		"exchange, unknown": {http.StatusNotFound, func() answer {
			return w.get("/oauth2/11111111-2222-4333-8444-555555555555/exchange/x", "User-Agent", "x", "X-Client-Secret", "x")
		}},
	} {
		reads = 0
		if a := ask.send(); a.status != ask.status || reads != 1 {
			t.Errorf("%s: %d %s after %d reads", what, a.status, a.body, reads)
		}
	}
}
