package main

import (
	"database/sql"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// While its file moves, serve goes on; then it is not ready, and answers 503 to
// everybody, whatever was asked; and what it had given is good on PostgreSQL.
func TestCopy_TheRunningServerClosesWithItsFile(t *testing.T) {
	t.Parallel()
	database := storagetest.Postgres(t)
	s := newSite(t)
	p := s.serve()
	var guests, exchange, api clientDoc
	s.run("", &guests, "client", "add", "--name", "Style Finder", "--profile", "direct", "--rotate-refresh")
	s.run("", &exchange, "client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view")
	s.run("", &api, "api", "secret")
	code, err := p.guestCode(guests.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := p.redeem(guests.ClientID, code)
	if err != nil {
		t.Fatal(err)
	}
	flying, err := p.guestCode(guests.ClientID)
	if err != nil {
		t.Fatal(err)
	}

	out, err := grantway(s.dir, "", "copy", "--from", "grantway.db", "--to", database, "--json")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var done copyDoc
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &done); err != nil || !done.Done || len(done.Tables) < 20 {
		t.Fatalf("%v in %s", err, out)
	}
	var first progressDoc
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Step != "copying" {
		t.Errorf("%v in %s", err, lines[0])
	}

	form := func(path, body string) func() (answer, error) {
		return func() (answer, error) { return send("POST", p.url+path, formType, body) }
	}
	get := func(path string) func() (answer, error) {
		return func() (answer, error) { return send("GET", p.url+path, nil, "") }
	}
	for what, ask := range map[string]func() (answer, error){
		"readyz":     get("/readyz"),
		"exchange":   func() (answer, error) { return p.exchange(exchange.ClientID, exchange.ClientSecret) },
		"redeem":     form("/oauth/token", "grant_type=authorization_code&client_id="+guests.ClientID+"&code="+flying+"&code_verifier="+verifier+"&redirect_uri=urn:ietf:wg:oauth:2.0:oob:auto"),
		"refresh":    form("/oauth/token", "grant_type=refresh_token&client_id="+guests.ClientID+"&refresh_token="+key.text("refresh_token")),
		"authorize":  get("/oauth/authorize?response_type=code&state=s&code_challenge_method=S256&code_challenge=" + challenge + "&redirect_uri=urn:ietf:wg:oauth:2.0:oob:auto&client_id=" + guests.ClientID),
		"introspect": form("/oauth/introspect", "client_id="+api.ClientID+"&client_secret="+api.ClientSecret+"&token="+key.text("access_token")),
		"revoke":     form("/oauth/revoke", "client_id="+guests.ClientID+"&token="+key.text("refresh_token")),
		"sign-in":    form("/sign-in", "email=mara@shop.example&password=whatever-it-was"),
	} {
		if a, err := ask(); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("%s on the closed file: %v, %d %s", what, err, a.status, a.body)
		}
	}
	p.kill()

	p = s.serve("--database", database)
	if a, err := p.redeem(guests.ClientID, flying); err != nil {
		t.Errorf("the code that was under way: %v %s", err, a.body)
	}
	a, err := send("POST", p.url+"/oauth/introspect", formType, "client_id="+api.ClientID+"&client_secret="+api.ClientSecret+"&token="+key.text("access_token"))
	if err != nil || a.doc["active"] != true {
		t.Errorf("introspection: %v, %s", err, a.body)
	}
	a, err = send("POST", p.url+"/oauth/token", formType, "grant_type=refresh_token&client_id="+guests.ClientID+"&refresh_token="+key.text("refresh_token"))
	if err != nil || a.status != http.StatusOK {
		t.Errorf("refresh: %v, %s", err, a.body)
	}

	// The feed goes on, and no node will be allotted what another had.
	heads := func(driver, dsn, prefix string) (seq, epoch, next int64) {
		t.Helper()
		db, err := sql.Open(driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow("SELECT seq, epoch FROM "+prefix+"heads WHERE name = 'feed'").Scan(&seq, &epoch); err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow("SELECT SUM(next) FROM " + prefix + "status_lists").Scan(&next); err != nil {
			t.Fatal(err)
		}
		return seq, epoch, next
	}
	seq, epoch, next := heads("sqlite", filepath.Join(s.dir, "grantway.db"), "moved_")
	seq2, epoch2, next2 := heads("pgx", database, "")
	if seq < 2 || seq2 < seq || epoch2 != epoch || next2 <= next {
		t.Errorf("the feed was at %d of epoch %d and is at %d of %d; %d indices were allotted, now %d", seq, epoch, seq2, epoch2, next, next2)
	}
}
