package main

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
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
		`grantway_status_lists_left`:                                             2047,
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
	documented(t, after)
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

// documented demands that whatever docs/operating.md says to watch is there to be
// watched, with the labels that it names. What begins only with its first event has a
// test of its own.
func documented(t *testing.T, page string) {
	t.Helper()
	paper, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(paper)) {
		if !strings.HasPrefix(line, "| `grantway_") {
			continue
		}
		names, _, _ := strings.Cut(line[1:], "|")
		for _, m := range regexp.MustCompile("`([a-z_]+)(\\{[a-z,]+\\})?`").FindAllStringSubmatch(names, -1) {
			n++
			if m[1] == "grantway_effect_seconds" || m[1] == "grantway_connections_rehearsed_total" && sample(page, m[1]) == 0 {
				continue
			}
			var labels string
			for label := range strings.SplitSeq(strings.Trim(m[2], "{}"), ",") {
				if label != "" {
					labels += label + "=\"[^\"]*\".*"
				}
			}
			if !regexp.MustCompile("(?m)^" + m[1] + "(_count|_bucket)?(\\{" + labels + "\\})? ").MatchString(page) {
				t.Errorf("docs/operating.md tells of %s, which is not there", m[0])
			}
		}
	}
	if n < 13 {
		t.Errorf("only %d series read from docs/operating.md", n)
	}
}

// What goes on between a node and a process of an API that follows it: that it is
// there, what it has not heard of yet, how long it took, and how long who waits for a
// revocation waits.
func TestServe_MetricsOfFollowers(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	p := k.serve("--metrics-listen", "127.0.0.1:0", "--shutdown-grace", "1s")
	var epoch, seq any // as the last poll was told
	poll := func() {
		t.Helper()
		query := "?instance=one"
		if epoch != nil {
			query += fmt.Sprintf("&epoch=%.0f&after=%.0f", epoch, seq)
		}
		a, err := send("GET", p.url+"/revocations"+query, k.basic, "")
		if err != nil || a.status != 200 && a.status != 204 {
			t.Fatalf("%v %d %s", err, a.status, a.body)
		}
		if a.status == 204 { // there is nothing new
			return
		}
		epoch, seq = a.doc["epoch"], a.doc["seq"]
	}
	sees := func(series string, what func(v float64) bool) {
		t.Helper()
		if err := until(10*time.Second, func() bool { return what(sample(scraped(t, p), series)) }); err != nil {
			t.Errorf("%s is %v", series, sample(scraped(t, p), series))
		}
	}
	key := k.issue(p)
	poll()
	poll()
	sees("grantway_followers", func(v float64) bool { return v == 1 })
	sees("grantway_followers_behind_events", func(v float64) bool { return v == 0 })
	a, err := send("POST", p.url+"/oauth/revoke", formType, url.Values{"client_id": {k.app.ClientID}, "token": {key.access}, "wait": {"effective"}}.Encode())
	if err != nil || a.status != 200 {
		t.Fatalf("%v %d %s", err, a.status, a.body)
	}
	sees("grantway_effect_seconds", func(v float64) bool { return v >= 0.85 })
	sees("grantway_followers_behind_events", func(v float64) bool { return v >= 1 })
	poll()
	poll()
	sees("grantway_followers_behind_events", func(v float64) bool { return v == 0 })
	sees("grantway_followers_lag_seconds", func(v float64) bool { return v >= 0.5 }) // nobody acknowledged it for 0.85 s, of which the node knew it for most
	k.stop(p)
}

// What waits for a file that another process holds, and what then comes to nothing, is
// counted.
func TestServe_MetricsOfAHeldFile(t *testing.T) {
	slow(t)
	t.Parallel()
	k := newKeyed(t)
	p := k.serve("--metrics-listen", "127.0.0.1:0", "--shutdown-grace", "1s")
	if n := sample(scraped(t, p), "grantway_events_failed_total"); n != 0 {
		t.Fatalf("%v events came to nothing before", n)
	}
	db := past(t, filepath.Join(k.dir, "grantway.db"))
	defer db.Close()
	held, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := p.guestCode(k.app.ClientID)
		answered <- err
	}()
	if err := until(10*time.Second, func() bool { return sample(scraped(t, p), "grantway_events_waiting") > 0 }); err != nil {
		t.Errorf("nothing was seen to wait: %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("an event was done while the file was held")
	}
	if _, err := held.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	page := scraped(t, p)
	if n := sample(page, "grantway_events_failed_total"); n < 1 {
		t.Errorf("%v events came to nothing", n)
	}
	if err := until(10*time.Second, func() bool { return sample(scraped(t, p), "grantway_events_waiting") == 0 }); err != nil {
		t.Errorf("something waits for ever: %v", err)
	}
	k.stop(p)
}
