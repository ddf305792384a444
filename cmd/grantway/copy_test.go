package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
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
	// The log tells why, and not for each request.
	var log []byte
	if err := until(10*time.Second, func() bool {
		log, err = os.ReadFile(p.log)
		return err != nil || bytes.Contains(log, []byte("the feed cannot be followed"))
	}); err != nil {
		t.Fatal(err)
	}
	said := map[string]int{}
	for line := range strings.Lines(string(log)) {
		var entry struct{ Level, Msg, Chore, Error string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if entry.Level != "ERROR" {
			continue
		}
		if said[entry.Msg+entry.Chore]++; !strings.Contains(entry.Error, "this file has moved to PostgreSQL: set database to the address of 127.0.0.1:") || entry.Msg == "refused" || entry.Msg == "storage" {
			t.Error(line)
		}
	}
	if n := slices.Max(append(slices.Collect(maps.Values(said)), 0)); n != 1 || strings.Contains(string(log), "no such table") {
		t.Errorf("errors in the log, each once: %v\n%s", said, log)
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

// The commands of docs/operating.md, "Grow out of the file", as they stand there.
func TestCopy_OperatingCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	database := storagetest.Postgres(t)
	doc, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "## Grow out of the file\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for i, part := range strings.Split(section, "```") {
		if i%2 == 1 {
			lines = append(lines, strings.Split(strings.TrimSpace(strings.TrimPrefix(part, "sh\n")), "\n")...)
		}
	}
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "export DATABASE='postgres://") {
		t.Fatalf("the commands are %q", lines)
	}
	shell := func(line string) (string, error) {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = s.dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DATABASE=" + database}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	copying, serving, giving := lines[1], lines[2], lines[3]

	ring, err := os.ReadFile(filepath.Join(s.dir, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	s.swap("keyring", newRing(t))
	if out, err := shell(copying); err == nil || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "grantway: the key ring keyring (k") || !strings.Contains(out, ") does not open this database's signing keys: name the ring that was made with it, ") {
		t.Errorf("the wrong ring: %v, %s", err, out)
	}
	s.swap("keyring", string(ring))
	to, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	alter(t, filepath.Join(s.dir, "grantway.db"), "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('source', 'cut off at once', '"+to.Host+to.Path+"', '', 0)")
	if out, err := shell(giving); err != nil || out != "The copy is given up; grantway.db is as if there had been none.\n" {
		t.Errorf("%v, %s", err, out)
	}
	if out, err := shell(giving); err == nil || !regexp.MustCompile(`^grantway: no copy of \S+grantway.db is under way: there is nothing to cancel\n$`).MatchString(out) {
		t.Errorf("%v, %s", err, out)
	}
	out, err := shell(copying)
	if err != nil || !regexp.MustCompile(`(?s)copying: 100 % \(\d+ of \d+ rows\)\n.*comparing: 100 %.*TABLE +ROWS +CHECKSUM.*\nsigning_keys +2 +[0-9a-f]{16}\n.*The pause began \d+ ms ago .*key ring did not move`).MatchString(out) {
		t.Fatalf("%v, %s", err, out)
	}
	if out, err := shell(copying); err == nil || !strings.Contains(out, "has moved to") || strings.Count(out, "\n") != 1 {
		t.Errorf("once more: %v, %s", err, out)
	}
	p := s.serve("--database", database)
	if want := "grantway serve --config config.yaml --database \"$DATABASE\""; serving != want {
		t.Errorf("the line is %q, and this test runs %q", serving, want)
	}
	if status, _ := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("/readyz: %d", status)
	}
	for _, args := range [][]string{{"serve", "--config", "config.yaml", "--listen", "127.0.0.1:0"}, {"user", "list", "--config", "config.yaml"}} {
		if _, err := grantway(s.dir, "", args...); err == nil || !strings.Contains(err.Error(), "this file has moved to PostgreSQL: set database to the address of 127.0.0.1:") {
			t.Errorf("%v on the file: %v", args, err)
		}
	}
}

func (s *site) swap(name, text string) {
	s.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
}

func newRing(t *testing.T) string {
	t.Helper()
	ring, err := oauth.NewKeyRing(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// A run that had only the last step to do knows neither figures nor how long the pause is.
func TestCopy_TheLastStepAlone(t *testing.T) {
	var out bytes.Buffer
	if err := (copyDoc{Done: true, From: "a.db", To: "db.example:5432/a"}).print(terminal{out: &out}); err != nil {
		t.Fatal(err)
	}
	if said := out.String(); !strings.HasPrefix(said, "a.db has moved to db.example:5432/a: only the last step was left. The pause lasts until you have\n1. set database") {
		t.Error(said)
	}
}

// A copy that is stopped, or loses its server, when the file is closed does not speak of
// giving it up, for that is refused by then (docs/operating.md, Grow out of the file).
func TestCopy_CutOffAtItsLastStep(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	database := storagetest.Postgres(t)
	s.run("", nil, "user", "list")
	command := copyCommand{From: filepath.Join(s.dir, "grantway.db"), To: database}
	if err := command.Run(t.Context(), terminal{out: io.Discard, err: io.Discard}); err != nil {
		t.Fatal(err)
	}
	file := past(t, command.From)
	id := rows(t, file, "SELECT id FROM copy_state")[0]
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	alter(t, database, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('target', '"+id+"', '"+command.From+"', 'dead', 0)")

	db := past(t, database)
	defer db.Close()
	const left = "the file is closed, and nobody is served: run the same command again, only the last step is left"
	for want, end := range map[string]func(stop func()) error{
		"interrupted: " + left: func(stop func()) error { stop(); return nil },
		left + " (": func(func()) error {
			_, err := db.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
			return err
		},
	} {
		held, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := held.Exec("UPDATE copy_state SET applied = 0"); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- command.Run(ctx, terminal{out: io.Discard, err: io.Discard}) }()
		err = until(time.Minute, func() bool {
			return len(rows(t, db, "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")) > 0
		})
		if err := errors.Join(err, end(stop)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v; want %q", err, want)
		}
		stop()
		if err := held.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := command.Run(t.Context(), terminal{out: &out, err: io.Discard}); err != nil || !strings.Contains(out.String(), "only the last step was left") {
		t.Errorf("%v, %s", err, out.String())
	}
}

// A file that has moved is a backup of that moment, should the new database be lost before
// there is another, with all that is asked at a restore (docs/operating.md, Backup and restore).
func TestRestore_OfAMovedFile(t *testing.T) {
	t.Parallel()
	database := storagetest.Postgres(t)
	k := newKeyed(t)
	p := k.start()
	old, revoked := k.issue(p), k.issue(p)
	k.run("", nil, "events", "export", "log")
	if _, err := grantway(k.dir, "", "copy", "--from", "grantway.db", "--to", database); err != nil {
		t.Fatal(err)
	}
	k.fails([]string{"grantway.db is in use: stop the server that still runs on it"}, "restore", "grantway.db", "--database", "new.db", "--accept-revived-keys")
	k.stop(p)
	whole := func() []byte {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(k.dir, "grantway.db"))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	file := whole()
	p = k.serve("--database", database, "--shutdown-grace", "1s")
	k.run("", nil, "grant", "revoke", revoked.grant, "--database", database)
	k.run("", nil, "events", "export", "log", "--database", database)
	late := k.issue(p)
	k.stop(p)

	k.fails([]string{"grantway.db moved to 127.0.0.1:", "UTC", "would be alive again", "--revoked-since", "--revoke-all-before-restore", "--accept-revived-keys"}, "restore", "grantway.db", "--database", "new.db")
	k.fails([]string{"grantway.db: the database was made for the issuer ", "here issuer is http://127.0.0.1:9999"}, "restore", "grantway.db", "--database", "new.db", "--accept-revived-keys", "--issuer", "http://127.0.0.1:9999")
	k.fails([]string{"log is complete until", "UTC", "would be alive again"}, "restore", "grantway.db", "--database", "new.db", "--revoked-since", "log")
	ring, err := os.ReadFile(filepath.Join(k.dir, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	k.swap("keyring", newRing(t))
	k.fails([]string{"the key ring keyring does not open this backup's signing keys: sealed by a key that is not in the key ring"}, "restore", "grantway.db", "--database", "new.db", "--accept-revived-keys")
	k.swap("keyring", string(ring))
	var epoch int64
	for to, tc := range map[string]struct {
		flags []string
		alive [2]bool // old, revoked
	}{
		"logged.db":             {[]string{"--revoked-since", "log", "--accept-revived-keys"}, [2]bool{true, false}},
		"revived.db":            {[]string{"--accept-revived-keys"}, [2]bool{true, true}},
		storagetest.Postgres(t): {[]string{"--revoke-all-before-restore"}, [2]bool{false, false}},
	} {
		var doc restoreDoc
		if k.run("", &doc, append([]string{"restore", "grantway.db", "--database", to}, tc.flags...)...); doc.Epoch < 2 || doc.Epoch == epoch || time.Since(doc.Made) > time.Hour {
			t.Errorf("%+v after the epoch %d", doc, epoch)
		}
		epoch = doc.Epoch
		p := k.serve("--database", to, "--shutdown-grace", "1s")
		k.alive(p, "the old key", old, tc.alive[0])
		k.alive(p, "the revoked key", revoked, tc.alive[1])
		k.alive(p, "a late key", late, false)
		k.stop(p)
	}
	if !bytes.Equal(file, whole()) {
		t.Error("the file was touched")
	}
	k.fails([]string{"this file has moved to PostgreSQL"}, "serve", "--listen", "127.0.0.1:0")
}

// Whoever looks at a terminal sees one line that grows; a log gets a line for each
// tenth, but none of a backup; a program a document for each percent.
func TestProgress(t *testing.T) {
	const n = 1000
	for what, tc := range map[string]struct {
		terminal, json, backup bool
		last                   string
		lines                  int
	}{
		"terminal":            {true, false, false, "\rcomparing: 100 % (1000 of 1000 rows)\x1b[K\n", 2},
		"log":                 {false, false, false, "comparing: 100 % (1000 of 1000 rows)\n", 22},
		"json":                {false, true, false, `{"step":"comparing","rows":1000,"of":1000,"percent":100}` + "\n", 202},
		"backup, terminal":    {true, false, true, "\rcomparing: 100 %\x1b[K\n", 2},
		"backup, at no one's": {false, false, true, "", 0},
	} {
		var out, errs bytes.Buffer
		p := newProgress(terminal{out: &out, err: &errs}, tc.json)
		if tc.backup {
			p = watched(terminal{out: &out, err: &errs})
		}
		p.terminal = tc.terminal
		for _, step := range []string{"copying", "comparing"} {
			for rows := int64(0); rows <= n; rows++ {
				p.show(sqlstore.Progress{Step: step, Rows: rows, Of: n})
			}
		}
		p.end()
		said, silent := errs.String(), out.String()
		if tc.json {
			said, silent = silent, said
		}
		if !strings.HasSuffix(said, tc.last) || strings.Count(said, "\n") != tc.lines || silent != "" {
			t.Errorf("%s: %d lines, and %q: %q", what, strings.Count(said, "\n"), silent, said)
		}
	}
}
