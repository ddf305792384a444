package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// sample finds the value of a series on a page of metrics; -1 if it is not there.
func sample(page, series string) float64 {
	for line := range strings.Lines(page) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), series+" "); found {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				return n
			}
		}
	}
	return -1
}

// scraped is what a server's metrics say, wherever its log says that they are.
func scraped(t *testing.T, p *process) string {
	t.Helper()
	log, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`"msg":"metrics","listen":"(127\.0\.0\.1:[0-9]+)"`).FindSubmatch(log)
	if found == nil {
		t.Fatalf("the log does not say where: %s", log)
	}
	a, err := send("GET", "http://"+string(found[1])+"/metrics", nil, "")
	if err != nil || a.status != 200 {
		t.Fatalf("%v, %d", err, a.status)
	}
	return a.body
}

// A server on PostgreSQL has its connections rehearse before anybody revokes anything.
func TestServe_Rehearses(t *testing.T) {
	database := storagetest.Postgres(t)
	s := newSite(t)
	s.run("", nil, "migrate", "up", "--database", database)
	p := s.serve("--database", database, "--metrics-listen", "127.0.0.1:0")
	if err := until(10*time.Second, func() bool { return sample(scraped(t, p), "grantway_connections_rehearsed_total") > 0 }); err != nil {
		t.Fatalf("no connection has rehearsed: %v", err)
	}
}

// What a node did is counted by grant and reason, on a listener of its own, and no
// label holds what a client sent.
func TestServe_Metrics(t *testing.T) {
	s := newSite(t)
	var app clientDoc
	s.run("", &app, "client", "add", "--name", "Stylist", "--profile", "direct")
	p := s.serve("--metrics-listen", "127.0.0.1:0")
	scrape := func() string { return scraped(t, p) }
	before := scrape()
	code, err := p.guestCode(app.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // one redeems, two are replays
		p.redeem(app.ClientID, code)
	}
	if _, err := send("POST", p.url+"/oauth/token", formType, "grant_type="+canary+"&client_id="+app.ClientID); err != nil {
		t.Fatal(err)
	}
	after := scrape()
	for series, want := range map[string]float64{
		`grantway_outcomes_total{grant="authorization_code",reason="ok"}`:        1,
		`grantway_outcomes_total{grant="authorization_code",reason="code_used"}`: 2,
		`grantway_outcomes_total{grant="other",reason="grant_type_unknown"}`:     1,
		`grantway_request_seconds_count{route="/oauth/token",status="2xx"}`:      1,
		`grantway_request_seconds_count{route="/oauth/token",status="4xx"}`:      3,
		`grantway_request_seconds_count{route="/oauth/authorize",status="2xx"}`:  1,
		`grantway_events_failed_total`:                                           0,
		`grantway_events_retried_total`:                                          0,
		`grantway_events_waiting`:                                                0,
		`grantway_password_hashes`:                                               0,
		`grantway_followers`:                                                     0,
		`grantway_followers_behind_events`:                                       0,
		`grantway_followers_lag_seconds`:                                         0,
		`grantway_build_info{version="` + version().Version + `"}`:               1,
	} {
		if got := sample(after, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	events := sample(after, "grantway_commit_events_sum") - max(0, sample(before, "grantway_commit_events_sum"))
	if commits := sample(after, "grantway_commit_events_count"); events < 4 || commits < 1 || commits > sample(after, "grantway_commit_events_sum") {
		t.Errorf("%v events in %v commits", events, commits)
	}
	if lag := sample(after, "grantway_feed_lag_seconds"); lag < 0 || lag > 1 {
		t.Errorf("the feed was read %v s ago", lag)
	}
	if seq := sample(after, "grantway_feed_seq"); seq < 2 {
		t.Errorf("the feed is at %v", seq)
	}
	if strings.Contains(after, canary) || strings.Contains(after, app.ClientID) {
		t.Error("a label holds what a client sent")
	}
	if a, err := send("GET", p.url+"/metrics", nil, ""); err != nil || a.status != 404 || strings.Contains(a.body, "grantway_") {
		t.Errorf("/metrics on the public listener: %v, %d", err, a.status)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}
