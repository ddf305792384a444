package endpoint

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// grantOf is the grant that a key hangs off.
func (w *world) grantOf(user string, a app) string {
	w.t.Helper()
	list, err := w.server.Grants(w.t.Context(), oauth.Actor{Kind: oauth.AsSystem}, oauth.GrantFilter{UserID: user, ClientID: a.id, OnlyLive: true, Page: oauth.Page{Limit: 1}})
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%d grants, %v", len(list), err)
	}
	return list[0].ID
}

// An app reads and ends its own grants, by Basic alone; anybody else's are as those
// that there are not, and nothing of its user's other apps is in the answer (Grant
// Management for OAuth 2.0, a draft).
func TestGrants(t *testing.T) {
	w := newWorld(t)
	for _, a := range []app{w.exchange, w.standard} {
		access, _ := w.key(a)
		w.key(w.other)
		mine := []string{"Authorization", basic(a.id, a.secret.Reveal())}
		path := "/oauth/grants/" + w.grantOf("alice", a)
		send := func(method, target string, header ...string) answer {
			return w.do(with(httptest.NewRequest(method, target, nil), header...))
		}
		var g struct {
			ID      string `json:"grant_id"`
			Status  string
			Sub     string
			Scopes  []struct{ Scope string }
			Rights  []oauth.Right
			All     bool  `json:"all_stores"`
			Created int64 `json:"created_at"`
		}
		got := send("GET", path, mine...)
		got.json(t, &g)
		if got.status != http.StatusOK || g.Status != "live" || g.Sub != "alice" || !strings.HasSuffix(path, g.ID) || len(g.Rights) != 1 || len(g.Scopes) != 1 || g.All || time.Unix(g.Created, 0).IsZero() {
			t.Errorf("%s: %d %s", a.client.Name, got.status, got.body)
		}
		if strings.Contains(got.body, w.other.id) || got.header.Get("Cache-Control") != "no-store" || got.header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %v %s", a.client.Name, got.header, got.body)
		}
		missing := send("GET", "/oauth/grants/gr_nothing", mine...)
		if missing.status != http.StatusNotFound || missing.refusal() != "invalid_grant_id" {
			t.Errorf("unknown: %d %s", missing.status, missing.body)
		}
		theirs := []string{"Authorization", basic(w.other.id, w.other.secret.Reveal())}
		for _, method := range []string{"GET", "DELETE"} {
			for what, target := range map[string]string{"another app's": path, "no id at all": "/oauth/grants/%00", "an id that is long": "/oauth/grants/" + strings.Repeat("x", 4000)} {
				if got := send(method, target, theirs...); got.status != http.StatusNotFound || got.body != missing.body {
					t.Errorf("%s %s: %d %s", method, what, got.status, got.body)
				}
			}
			for what, header := range map[string][]string{"nobody": nil, "a wrong secret": {"Authorization", basic(a.id, w.other.secret.Reveal())},
				"a public app": {"Authorization", basic(w.public.id, "")}, "an API": {"Authorization", basic(w.api.ID, w.api.Secret.Reveal())}, "its key": {"Authorization", "Bearer " + access}} {
				if got := send(method, path, header...); got.status != http.StatusUnauthorized || got.refusal() != "invalid_client" || got.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s as %s: %d %s", method, what, got.status, got.body)
				}
			}
			if got := send(method, path+"?client_id="+a.id, mine...); got.status != http.StatusBadRequest || got.refusal() != "invalid_request" {
				t.Errorf("%s with a query: %d %s", method, got.status, got.body)
			}
		}
		for _, method := range []string{"POST", "PUT", "HEAD", "OPTIONS"} {
			if got := send(method, path, mine...); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "GET, DELETE" {
				t.Errorf("%s: %d", method, got.status)
			}
		}
		if !w.active(access) {
			t.Fatalf("%s: something ended the grant", a.client.Name)
		}
		for range 2 {
			if got := send("DELETE", path, mine...); got.status != http.StatusNoContent || got.body != "" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("DELETE: %d %s", got.status, got.body)
			}
		}
		if w.active(access) {
			t.Errorf("%s: its key works", a.client.Name)
		}
		if got := send("GET", path, mine...); got.status != http.StatusNotFound || got.body != missing.body {
			t.Errorf("ended: %d %s", got.status, got.body)
		}
		events, err := w.server.Events(t.Context(), oauth.Actor{Kind: oauth.AsSystem}, oauth.EventFilter{ClientID: a.id, Kind: oauth.EventGrantRevoked, Limit: 9})
		if err != nil || len(events) != 1 || events[0].Actor != "client:"+a.id || events[0].UserID != "alice" {
			t.Errorf("events %+v %v", events, err)
		}
	}
	// wait=effective as at /oauth/revoke; anywhere else it is no parameter.
	access, _ := w.key(w.standard)
	path := "/oauth/grants/" + w.grantOf("alice", w.standard)
	mine := []string{"Authorization", basic(w.standard.id, w.standard.secret.Reveal())}
	for method, query := range map[string]string{"GET": "wait=effective", "DELETE": "wait=forever"} {
		if got := w.do(with(httptest.NewRequest(method, path+"?"+query, nil), mine...)); got.status != http.StatusBadRequest || !w.active(access) {
			t.Errorf("%s with %s: %d %s", method, query, got.status, got.body)
		}
	}
	if got := w.do(with(httptest.NewRequest("DELETE", path+"?wait=effective", nil), mine...)); got.status != http.StatusOK || !strings.Contains(got.body, `"everywhere":true`) || w.active(access) {
		t.Errorf("wait=effective: %d %s", got.status, got.body)
	}
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "DELETE"} {
		r := with(httptest.NewRequest(method, "/oauth/grants/gr_x", nil), "Authorization", basic(w.exchange.id, w.exchange.secret.Reveal()))
		if got := w.do(r); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
			t.Errorf("%s without a database: %d %s", method, got.status, got.body)
		}
	}
}
