package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

// keyed is a site with a direct app, whose keys are asked about by introspection.
type keyed struct {
	*site
	app   clientDoc
	basic map[string]string
}

func newKeyed(t *testing.T) *keyed {
	k := &keyed{site: newSite(t)}
	k.run("", &k.app, "client", "add", "--name", "Style Finder", "--profile", "direct")
	var api credentials
	k.run("", &api, "api", "secret")
	k.basic = map[string]string{"Content-Type": formType["Content-Type"],
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(api.ClientID+":"+api.ClientSecret))}
	return k
}

func (k *keyed) start() *process { return k.serve("--shutdown-grace", "1s") }

// key is what a guest has been given.
type key struct {
	access, refresh string
	grant           string
	place           string // its status list and its place in it
	list            string
}

func keyOf(t *testing.T, a answer) key {
	t.Helper()
	var c oauth.Claims
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(a.text("access_token"), ".")[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return key{a.text("access_token"), a.text("refresh_token"), c.GrantID, fmt.Sprint(c.Status.List.URI, " ", c.Status.List.Index), c.Status.List.URI}
}

func (k *keyed) code(p *process) string {
	k.Helper()
	code, err := p.guestCode(k.app.ClientID)
	if err != nil {
		k.Fatal(err)
	}
	return code
}

func (k *keyed) issue(p *process) key {
	k.Helper()
	a, err := p.redeem(k.app.ClientID, k.code(p))
	if err != nil {
		k.Fatal(err)
	}
	return keyOf(k.T, a)
}

// refresh uses a refresh token.
func (k *keyed) refresh(p *process, with key) answer {
	k.Helper()
	a, err := send("POST", p.url+"/oauth/token", formType, url.Values{"grant_type": {"refresh_token"}, "client_id": {k.app.ClientID}, "refresh_token": {with.refresh},
		"redirect_uri": {"urn:ietf:wg:oauth:2.0:oob:auto"}}.Encode())
	if err != nil {
		k.Fatal(err)
	}
	return a
}

// alive demands what introspection says of a key.
func (k *keyed) alive(p *process, what string, with key, want bool) {
	k.Helper()
	a, err := send("POST", p.url+"/oauth/introspect", k.basic, url.Values{"token": {with.access}}.Encode())
	if err != nil || a.status != http.StatusOK {
		k.Fatalf("introspect: %v %d %s", err, a.status, a.body)
	}
	if a.doc["active"] != want {
		k.Errorf("%s: active is %v, want %v", what, a.doc["active"], want)
	}
}

// fails runs a command that must fail, in one line that has each of these words.
func (k *keyed) fails(words []string, args ...string) {
	k.Helper()
	// A serve that is not refused would run for ever.
	ctx, cancel := context.WithTimeout(k.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "grantway", append(args, "--config", "config.yaml")...)
	cmd.Dir, cmd.Env = k.dir, []string{"PATH=" + os.Getenv("PATH")}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Run(); err == nil || ctx.Err() != nil {
		k.Fatalf("grantway %s was not refused", strings.Join(args, " "))
	}
	said := errs.String()
	for _, w := range words {
		if !strings.Contains(said, w) || strings.Count(said, "\n") != 1 {
			k.Errorf("grantway %s said %q; want one line with %q", strings.Join(args, " "), said, w)
		}
	}
}

func (k *keyed) stop(p *process) {
	k.Helper()
	if err := p.stop(); err != nil {
		k.Fatal(err)
	}
}

// What came into being after the backup is dead after a restore, what was before it
// goes on, and no place in a status list is handed out twice (docs/operating.md, Backup and restore).
func TestRestore_BeginsAnEpoch(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	old := k.issue(p)
	unspent := k.code(p)
	k.run("", nil, "backup", "one") // while serve runs
	late := k.issue(p)
	lateCode := k.code(p)
	k.alive(p, "a late key", late, true)
	k.fails([]string{"grantway.db is in use: stop the server"}, "restore", "one", "--replace", "--accept-revived-keys")
	k.alive(p, "a late key after the refusal", late, true)
	k.stop(p)
	k.fails([]string{"grantway.db already", "--replace"}, "restore", "one", "--accept-revived-keys")

	places := map[string]string{old.place: "old", late.place: "late"}
	lists := map[string]bool{old.list: true}
	var before int64
	for round := range 2 { // the second time neither knows of the first
		var doc restoreDoc
		if round == 1 {
			if err := os.Rename(filepath.Join(k.dir, "grantway.db"), filepath.Join(k.dir, "gone.db")); err != nil {
				t.Fatal(err)
			}
		}
		k.run("", &doc, "restore", "one", "--replace", "--accept-revived-keys")
		if doc.Epoch <= before || (doc.Kept != "") != (round == 0) {
			t.Errorf("round %d: %+v after the epoch %d", round, doc, before)
		}
		before = doc.Epoch
		p = k.start()
		k.alive(p, "the old key", old, true)
		k.alive(p, "a late key", late, false)
		if a := k.refresh(p, late); a.text("error") != "invalid_grant" {
			t.Errorf("a late refresh token: %d %s", a.status, a.body)
		}
		for what, code := range map[string]string{"a late code": lateCode, "a code of before": unspent} {
			if a, err := p.redeem(k.app.ClientID, code); err == nil {
				t.Errorf("%s was redeemed: %s", what, a.body)
			}
		}
		again := k.refresh(p, old)
		if again.status != http.StatusOK {
			t.Fatalf("the old refresh token: %d %s", again.status, again.body)
		}
		if got := keyOf(t, again).place; got != old.place {
			t.Errorf("the old family moved from %s to %s", old.place, got)
		}
		fresh := k.issue(p)
		if lists[fresh.list] {
			t.Errorf("a new key is in %s, a list of an older epoch", fresh.list)
		}
		for range 20 {
			if other := places[fresh.place]; other != "" {
				t.Errorf("round %d: %s was handed out twice: %s", round, fresh.place, other)
			}
			places[fresh.place], lists[fresh.list] = fmt.Sprint("round ", round), true
			fresh = k.issue(p)
		}
		k.stop(p)
	}
}

// refreshed notes that a token was replaced: then the one before must not live again.
func (k *keyed) refreshed() {
	k.Helper()
	id, err := oauth.NewID("ev_", time.Now(), rand.Reader)
	if err != nil {
		k.Fatal(err)
	}
	s, err := sqlstore.Open(k.Context(), filepath.Join(k.dir, "grantway.db"))
	if err != nil {
		k.Fatal(err)
	}
	err = s.NoteEvent(k.Context(), oauth.Event{ID: id, At: time.Now(), Kind: oauth.EventTokenRefreshed, Payload: []byte(`{"family":"fm_x","rotated":true}`)})
	if err := errors.Join(err, s.Close()); err != nil {
		k.Fatal(err)
	}
}

// What was revoked after the backup lives again, unless the log or the operator
// says otherwise; and the operator has to say (docs/operating.md, Backup and restore).
func TestRestore_RevokedSince(t *testing.T) {
	slow(t)
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	kept, revoked, unlogged := k.issue(p), k.issue(p), k.issue(p)
	k.run("correct horse battery", nil, "user", "add", "--id", "olu", "--name", "Olu", "--email", "olu@shop.example")
	k.run("", nil, "events", "export", "log")
	k.run("", nil, "backup", "one")
	k.run("", nil, "grant", "revoke", revoked.grant)
	k.run("", nil, "events", "export", "log")
	k.run("", nil, "grant", "revoke", unlogged.grant)
	k.alive(p, "revoked", revoked, false)
	k.stop(p)

	k.fails([]string{"one was made on", "UTC", "would be alive again", "--revoked-since", "--revoke-all-before-restore", "--accept-revived-keys"}, "restore", "one", "--replace")
	k.fails([]string{"log is complete until", "UTC", "would be alive again", "--accept-revived-keys", "--revoke-all-before-restore"}, "restore", "one", "--replace", "--revoked-since", "log")
	restored := func(kept, revoked, unlogged key, alive [3]bool, flags ...string) restoreDoc {
		t.Helper()
		var doc restoreDoc
		k.run("", &doc, append([]string{"restore", "one", "--replace"}, flags...)...)
		p := k.start()
		k.alive(p, "kept", kept, alive[0])
		k.alive(p, "revoked", revoked, alive[1])
		k.alive(p, "unlogged", unlogged, alive[2])
		k.stop(p)
		return doc
	}
	// The log that reaches as far as the database itself leaves nothing to accept.
	lost := filepath.Join(k.dir, "log")
	short, err := os.ReadFile(lost)
	if err != nil {
		t.Fatal(err)
	}
	k.run("", nil, "events", "export", "log")
	chainEnded := func() { // by a code of a guest's that came again
		id, err := oauth.NewID("ev_", time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		db := past(t, filepath.Join(k.dir, "grantway.db"))
		defer db.Close()
		if _, err := db.Exec(`INSERT INTO events (id, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload)
			SELECT $1, $2, $3, actor, '', '', '', '', '', '{"family":"f","chain":"c","revoked":true}' FROM events LIMIT 1`, id, time.Now().UnixMicro(), string(oauth.EventCodeReplayed)); err != nil {
			t.Fatal(err)
		}
	}
	for _, outside := range []func(){k.refreshed, func() { k.run("another horse battery", nil, "user", "password", "olu") }, chainEnded} {
		outside()
		k.fails([]string{"log is complete until", "--accept-revived-keys"}, "restore", "one", "--replace", "--revoked-since", "log")
		k.run("", nil, "events", "export", "log")
	}
	if doc := restored(kept, revoked, unlogged, [3]bool{true, false, false}, "--revoked-since", "log"); doc.Replayed != 3 || doc.LogUntil == nil || doc.EndedAll {
		t.Errorf("%+v", doc)
	}
	// A log that stops before: what is after it is alive again.
	if err := os.WriteFile(lost, short, 0o600); err != nil {
		t.Fatal(err)
	}
	if doc := restored(kept, revoked, unlogged, [3]bool{true, false, true}, "--revoked-since", "log", "--accept-revived-keys"); doc.Replayed != 1 {
		t.Errorf("%+v", doc)
	}
	live := func() int {
		t.Helper()
		db := past(t, filepath.Join(k.dir, "grantway.db"))
		defer db.Close()
		return len(rows(t, db, "SELECT id FROM grants WHERE status <> 'revoked'"))
	}
	if doc := restored(kept, revoked, unlogged, [3]bool{true, true, true}, "--accept-revived-keys"); doc.LogUntil != nil || live() != 3 {
		t.Errorf("%+v, %d live grants", doc, live())
	}
	if doc := restored(kept, revoked, unlogged, [3]bool{false, false, false}, "--revoke-all-before-restore"); !doc.EndedAll || live() != 0 {
		t.Errorf("%+v, %d live grants", doc, live())
	}
	var apps []clientDoc
	if k.run("", &apps, "client", "list"); len(apps) != 1 || apps[0].Status != oauth.Active {
		t.Errorf("apps after --revoke-all-before-restore: %+v", apps)
	}
	// The log goes on over the restores, and knows that everything has ended.
	k.run("", nil, "events", "export", "log")
	if doc := restored(kept, revoked, unlogged, [3]bool{false, false, false}, "--revoked-since", "log"); !doc.EndedAll {
		t.Errorf("a log that tells of the end of all grants: %+v", doc)
	}
	// One with a hole says so.
	lines := strings.SplitAfter(string(short), "\n")
	for i, l := range lines {
		if strings.Contains(l, `"kind":"grant.revoked"`) {
			lines[i] = ""
		}
	}
	if err := os.WriteFile(lost, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	k.run("", nil, "events", "export", "log")
	k.fails([]string{"log: the log lacks the events"}, "restore", "one", "--replace", "--revoked-since", "log", "--accept-revived-keys")
}

// One format serves both engines: a backup of either is restored on either, while
// the server that it is taken from goes on.
func TestRestore_AcrossEngines(t *testing.T) {
	t.Parallel()
	server := []string{storagetest.Postgres(t), storagetest.Postgres(t)}
	k := newKeyed(t)
	p := k.start()
	old := k.issue(p)
	k.run("", nil, "backup", "one")
	k.stop(p)
	var doc restoreDoc
	if k.run("", &doc, "restore", "one", "--database", server[0], "--accept-revived-keys"); doc.Database != "" || doc.Kept != "" || doc.Epoch < 2 {
		t.Errorf("%+v", doc)
	}
	k.fails([]string{"the PostgreSQL database is not empty: name a new one"}, "restore", "one", "--database", server[0], "--accept-revived-keys", "--replace")

	p = k.serve("--database", server[0], "--shutdown-grace", "1s")
	k.alive(p, "the old key", old, true)
	if a := k.refresh(p, old); a.status != http.StatusOK || keyOf(t, a).place != old.place {
		t.Errorf("the old refresh token: %d %s", a.status, a.body)
	}
	mid := k.issue(p)
	if mid.list == old.list {
		t.Errorf("a new key is in %s, a list of an older epoch", mid.list)
	}
	k.run("", nil, "backup", "two", "--database", server[0])
	late := k.issue(p)
	k.stop(p)

	// A restore that was cut off is gone on with; until then it is no database.
	alter(t, server[1], "CREATE TABLE backup (made BIGINT PRIMARY KEY, issuer TEXT NOT NULL, audience TEXT NOT NULL, ring TEXT NOT NULL)")
	k.fails([]string{"a restore that was cut off"}, "serve", "--listen", "127.0.0.1:0", "--database", server[1])
	for _, to := range []string{server[1], "back.db"} {
		k.run("", nil, "restore", "two", "--database", to, "--accept-revived-keys")
		p := k.serve("--database", to, "--shutdown-grace", "1s")
		k.alive(p, "the old key", old, true)
		k.alive(p, "a key of the second epoch", mid, true)
		k.alive(p, "a late key", late, false)
		if fresh := k.issue(p); fresh.list == mid.list || fresh.list == old.list {
			t.Errorf("a new key is in %s, a list of an older epoch", fresh.list)
		}
		k.stop(p)
	}

	// A table of that name which somebody else made beside ours is no restore that was cut off.
	alter(t, server[0], "CREATE TABLE backup (note TEXT)")
	clash := "the database has a table named backup that grantway did not make, and grantway needs the name: drop that table, or rename it"
	k.fails([]string{clash}, "client", "list", "--database", server[0])
	k.fails([]string{clash}, "migrate", "status", "--database", server[0])
	k.fails([]string{"the PostgreSQL database is not empty: name a new one"}, "restore", "two", "--database", server[0], "--accept-revived-keys")
	alter(t, server[0], "ALTER TABLE backup RENAME TO backups")
	k.run("", nil, "client", "list", "--database", server[0])
}

// A restore that is killed leaves the database as it was, or has put the whole
// backup in its place; never something between. It is killed where somebody else's lock on
// a file holds it, for the ten seconds that it waits for one.
func TestRestore_Killed(t *testing.T) {
	slow(t)
	t.Parallel()
	k := newKeyed(t)
	at := filepath.Join(k.dir, "grantway.db")
	k.run("", nil, "store", "add", "kept", "--name", "Kept")
	k.run("", nil, "backup", "one")
	list := func(database string) (string, error) {
		return grantway(k.dir, "", "store", "list", "--json", "--config", "config.yaml", "--database", database)
	}
	is := func(what, database, want string) {
		t.Helper()
		if got, err := list(database); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", what, got, err, want)
		}
	}
	refused := func(what, database, want string) {
		t.Helper()
		if got, err := list(database); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v; want %q", what, got, err, want)
		}
	}
	whole, err := list(at)
	if err != nil {
		t.Fatal(err)
	}
	k.run("", nil, "store", "add", "later", "--name", "Later")
	was, err := list(at)
	if err != nil || was == whole {
		t.Fatal(was, err)
	}

	var cmd *exec.Cmd
	var said *bytes.Buffer
	start := func() {
		t.Helper()
		cmd, said = exec.Command("grantway", "restore", "one", "--replace", "--accept-revived-keys", "--config", "config.yaml"), new(bytes.Buffer)
		cmd.Dir, cmd.Stderr = k.dir, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	kill := func(at string) {
		t.Helper()
		cmd.Process.Kill()
		cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: it had ended before it was killed: %v, %s", at, cmd.ProcessState, said)
		}
	}
	on := func(file, text string) (conn *sql.Conn, letGo func()) {
		t.Helper()
		db := past(t, file)
		t.Cleanup(func() { db.Close() })
		conn, err := db.Conn(t.Context())
		for _, text := range []string{"PRAGMA busy_timeout = 10000", text} {
			if err == nil {
				_, err = conn.ExecContext(t.Context(), text)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn, func() {
			conn.ExecContext(t.Context(), "ROLLBACK") // if there is something to
			if err := errors.Join(conn.Close(), db.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	marks := func(conn *sql.Conn) (n int) {
		t.Helper()
		if err := conn.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM sqlite_master WHERE name = 'backup'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	old := map[string]bool{} // parts that those before have left
	// caught starts a restore and holds it before it begins the epoch, by the lock of who writes.
	caught := func() (part string, lock *sql.Conn, letGo func()) {
		t.Helper()
		for range 30 {
			start()
			err := until(time.Minute, func() bool {
				parts, _ := filepath.Glob(filepath.Join(k.dir, "*.part-*"))
				for _, part = range parts {
					if strings.HasSuffix(part, "-wal") || strings.HasSuffix(part, "-shm") || strings.HasSuffix(part, "-journal") {
						continue
					}
					head := make([]byte, 20)
					if f, err := os.Open(part); err == nil {
						f.Read(head)
						f.Close()
					}
					if !old[part] && head[18] == 2 { // it has a log, so it was copied and checked
						return true
					}
				}
				return false
			})
			if err != nil {
				t.Fatal(err, said)
			}
			old[part] = true
			if lock, letGo = on(part, "BEGIN IMMEDIATE"); marks(lock) == 1 {
				return part, lock, letGo
			}
			letGo() // it was faster: once more
			if err := cmd.Wait(); err != nil {
				t.Fatal(err, said)
			}
			kept, _ := filepath.Glob(at + ".replaced-*")
			if len(kept) != 1 {
				t.Fatalf("it kept %v", kept)
			}
			if err := os.Rename(kept[0], at); err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("every restore was faster")
		return "", nil, nil
	}

	part, _, letGo := caught()
	kill("the copy is made")
	letGo()
	is("the copy is made", at, was)
	refused("the copy", part, "a restore that was cut off")

	part, lock, letGo := caught()
	reader, noReader := on(part, "BEGIN")
	marks(reader) // as long as it reads this the log is not folded in
	if _, err := lock.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := until(9*time.Second, func() bool { return marks(lock) == 0 }); err != nil {
		t.Fatal(err, said)
	}
	kill("the epoch has begun")
	noReader()
	letGo()
	is("the epoch has begun", at, was)
	is("the copy", part, whole)
	if aside, _ := filepath.Glob(at + ".replaced-*"); len(aside) != 0 {
		t.Errorf("%v before the change", aside)
	}

	_, letGo = on(at, "CREATE TABLE something (n BIGINT)") // for the log to hold
	reader, noReader = on(at, "BEGIN")
	marks(reader)
	start()
	var aside []string
	if err := until(time.Minute, func() bool { aside, _ = filepath.Glob(at + ".replaced-*"); return len(aside) > 0 }); err != nil {
		t.Fatal(err, said)
	}
	kill("the names change")
	noReader()
	letGo()
	one, err := os.Stat(at)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.Stat(aside[0]); err != nil || !os.SameFile(one, other) {
		t.Fatalf("what was put aside is not what is there: %v", err)
	}
	refused("by the other name", aside[0], "has 2 names")
	is("the names change", at, was)
	if _, err := os.Stat(aside[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the other name is left: %v", err)
	}

	var doc restoreDoc
	k.run("", &doc, "restore", "one", "--replace", "--accept-revived-keys")
	is("restored", at, whole)
	is("what was kept", doc.Kept, was)
}

// A file with a damaged page is served: who needs that page is told to come again, and
// everybody else is served as ever. Nothing that rests on the page is done, and no
// backup is made of it.
func TestServe_ADamagedPage(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	key, unspent := k.issue(p), k.code(p)
	k.stop(p)
	at := filepath.Join(k.dir, "grantway.db")
	db := past(t, at)
	root := rows(t, db, "SELECT rootpage FROM sqlite_master WHERE name = 'authorization_codes'")
	size := rows(t, db, "PRAGMA page_size")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	page, err := strconv.Atoi(root[0])
	if err != nil {
		t.Fatal(err)
	}
	bytesOf, err := strconv.Atoi(size[0])
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[(page-1)*bytesOf:], bytes.Repeat([]byte{0xff}, bytesOf))
	if err := os.WriteFile(at, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p = k.start()
	k.alive(p, "a key that was issued before", key, true)
	if code, err := p.guestCode(k.app.ClientID); err == nil || !strings.Contains(err.Error(), " 503 ") {
		t.Errorf("a new code: %q, %v", code, err)
	}
	if a, err := p.redeem(k.app.ClientID, unspent); err == nil || a.status != http.StatusServiceUnavailable {
		t.Errorf("a code that was issued before: %v %d %s", err, a.status, a.body)
	}
	if a := k.refresh(p, key); a.status != http.StatusOK {
		t.Errorf("a refresh: %d %s", a.status, a.body)
	}
	k.stop(p)
	k.fails([]string{"the database is damaged, so no backup was made: restore the last good one"}, "backup", "one")
	if _, err := os.Stat(filepath.Join(k.dir, "one")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the backup: %v", err)
	}
}

// The log of a followed export loses nothing that happened before it ended, also
// when it is killed in the middle of a line, and knows until when it is complete.
func TestExport_Follow(t *testing.T) {
	slow(t)
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	follow := func() *exec.Cmd {
		cmd := exec.Command("grantway", "events", "export", "log", "--follow", "--config", "config.yaml")
		cmd.Dir, cmd.Stderr = k.dir, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	log := filepath.Join(k.dir, "log")
	holds := func(text string) func() bool {
		return func() bool { data, _ := os.ReadFile(log); return strings.Contains(string(data), text) }
	}
	var last key
	for range 3 {
		cmd := follow()
		for range 20 {
			last = k.issue(p)
		}
		k.run("", nil, "grant", "revoke", last.grant)
		if err := until(10*time.Second, holds(`"kind":"grant.revoked","actor":"command","client_id":"`+k.app.ClientID+`","user_id":"`)); err != nil {
			t.Fatal(err)
		}
		if err := until(10*time.Second, holds(`"grant_id":"`+last.grant+`","payload":{"before"`)); err != nil {
			t.Fatal(err)
		}
		k.fails([]string{"log: another export is writing to it"}, "events", "export", "log")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, append(data, `{"epoch":1,"seq":9,"id":"ev_cut`...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := follow()
	fresh := k.issue(p)
	if err := until(10*time.Second, holds(fresh.grant)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	k.stop(p)
	var all []eventDoc
	k.run("", &all, "events", "--limit", "0")
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	times := map[string]int{}
	end, err := oauth.ReadLog(f, func(e oauth.LogEntry) error { times[e.ID]++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if times[e.ID] != 1 {
			t.Errorf("%s %s stands %d times in the log", e.Kind, e.ID, times[e.ID])
		}
	}
	if len(all) < 60 || end.Until.Before(all[0].At) {
		t.Errorf("%d events; complete until %s, the last is of %s", len(all), end.Until, all[0].At)
	}
}

// An export that is followed says once that the database has lost events, writes
// nothing, and goes on by itself in the next epoch.
func TestExport_FollowsIntoTheNextEpoch(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	said := filepath.Join(k.dir, "said")
	errs, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer errs.Close()
	cmd := exec.Command("grantway", "events", "export", "log", "--follow", "--config", "config.yaml")
	cmd.Dir, cmd.Stderr = k.dir, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	read := func(name string) string { data, _ := os.ReadFile(filepath.Join(k.dir, name)); return string(data) }
	holds := func(name, text string) {
		t.Helper()
		if err := until(10*time.Second, func() bool { return strings.Contains(read(name), text) }); err != nil {
			t.Fatalf("%s holds no %s: %v\n%s", name, text, err, read(name))
		}
	}
	holds("log", "complete_until")
	before := read("log")
	db, err := sql.Open("sqlite", filepath.Join(k.dir, "grantway.db")+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec("BEGIN IMMEDIATE; DELETE FROM events WHERE seq = (SELECT seq FROM heads WHERE name = 'feed'); UPDATE heads SET seq = seq - 1 WHERE name = 'feed'; COMMIT")
	if err != nil {
		t.Fatal(err)
	}
	const behind = "grantway: the database has lost events that it had acknowledged: begin a new epoch (grantway new-epoch) once it is the right one; trying again\n"
	holds("said", behind)
	k.refreshed() // an event outside the feed
	k.fails([]string{"log: another export"}, "events", "export", "log")
	if got := read("log"); got != before {
		t.Errorf("over the loss it wrote %s", strings.TrimPrefix(got, before))
	}
	k.run("", nil, "new-epoch", "--yes")
	holds("log", `"kind":"database.restored"`)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	holds("log", `"kind":"token.refreshed"`)
	if got := read("said"); got != behind {
		t.Errorf("it said %s", got)
	}
}

// The lines of the operator's guide are run as they stand, but for the folders.
func TestOperating_UpgradeAndBackup(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, head := range []string{"## Upgrade\n", "## Backup and restore\n"} {
		_, section, _ := strings.Cut(string(text), head)
		section, _, _ = strings.Cut(section, "\n## ")
		for _, line := range strings.Split(section, "\n") {
			command, found := strings.CutPrefix(line, "    grantway ")
			if !found {
				continue
			}
			args := strings.Fields(strings.NewReplacer("/backups/", "", "/log/", "").Replace(command))
			cmd := exec.Command("grantway", args...)
			cmd.Dir = k.dir
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(args, "--follow") {
				err := until(10*time.Second, func() bool {
					log, _ := os.ReadFile(filepath.Join(k.dir, "events.jsonl"))
					return bytes.Contains(log, []byte("complete_until"))
				})
				if err := errors.Join(err, cmd.Process.Signal(syscall.SIGTERM)); err != nil {
					t.Error(err)
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v\n%s", line, err, &out)
			}
			ran++
		}
	}
	if ran != 5 {
		t.Errorf("%d commands found", ran)
	}
}

// The sections about lost events and stolen secrets, line by line, while a node runs.
func TestOperating_CutOff(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	var keys []keyDoc
	k.run("", &keys, "key", "list")
	i := slices.IndexFunc(keys, func(d keyDoc) bool { return d.Use == oauth.ForAccess })
	if len(keys) != 2 || i < 0 {
		t.Fatalf("keys: %+v", keys)
	}
	old := k.issue(p)
	ran := 0
	for _, head := range []string{"## When a secret may be in other hands\n", "## A database that has lost events\n"} {
		_, section, _ := strings.Cut(string(text), head)
		section, _, _ = strings.Cut(section, "\n## ")
		for line := range strings.Lines(section) {
			command, found := strings.CutPrefix(line, "    grantway ")
			if !found {
				continue
			}
			args := strings.Fields(strings.Replace(command, "KID", keys[i].Kid, 1))
			var out, asked bytes.Buffer
			try := func(answer string) error {
				cmd := exec.Command("grantway", args...)
				cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = k.dir, strings.NewReader(answer), &out, &asked
				return cmd.Run()
			}
			if !slices.Contains(args, "list") {
				if err := try("y\n"); err == nil || !strings.Contains(asked.String(), "cannot be taken back") || !strings.Contains(asked.String(), "nothing was done") {
					t.Errorf("%s: not asked: %v, %s%s", line, err, &out, &asked)
				}
				k.alive(p, "before "+line, old, true)
			}
			if err := try("yes\n"); err != nil {
				t.Errorf("%s: %v\n%s%s", line, err, &out, &asked)
			}
			if slices.Contains(args, "--wait") && !strings.Contains(out.String(), "In effect now: no API server follows") {
				t.Errorf("%s: %s", line, &out)
			}
			if len(args) > 2 && args[1] == "cut" || args[0] == "revoke-everything" {
				k.alive(p, line, old, false)
				old = k.issue(p)
			}
			k.alive(p, "after "+line, old, true)
			ran++
		}
	}
	if ran != 4 {
		t.Errorf("%d commands found", ran)
	}
	k.alive(p, "by a new code", k.issue(p), true)
	k.fails([]string{"no signing key", "not cut off yet"}, "key", "cut", keys[i].Kid, "--yes")
	k.stop(p)
}

// How far the replay of a log is, in an outage and for minutes, is told as it is read.
func TestRestore_TellsHowFarTheReplayIs(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlstore.Open(t.Context(), filepath.Join(dir, "grantway.db"))
	if err == nil {
		err = s.Migrate(t.Context())
	}
	if err == nil {
		_, err = s.Backup(t.Context(), filepath.Join(dir, "one"), sqlstore.Archive{Made: time.Now()}, nil)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	marks := strings.Repeat(`{"epoch":1,"seq":1,"complete_until":"2026-03-01T12:00:00Z"}`+"\n", 5000)
	if err := os.WriteFile(log, []byte(marks), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := sqlstore.Restore(t.Context(), filepath.Join(dir, "one"), filepath.Join(dir, "two.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Abandon()
	var told []sqlstore.Progress
	c := restoreCommand{RevokedSince: log, AcceptRevivedKeys: true}
	if _, err := c.recover(t.Context(), r, time.Now(), func(p sqlstore.Progress) { told = append(told, p) }); err != nil {
		t.Fatal(err)
	}
	size := int64(len(marks))
	if last := (sqlstore.Progress{Step: "replaying", Rows: size, Of: size}); len(told) < 3 || told[0].Rows >= size || told[len(told)-1] != last {
		t.Errorf("told %+v, at last not %+v", told, last)
	}
}

// An epoch that a clock which was ahead has begun keeps nobody from the next one when
// the clock is right: it is named after that one, and who runs the command is told.
func TestNewEpoch_AfterOneThatLiesInTheFuture(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	ahead := time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	db := past(t, filepath.Join(k.dir, "grantway.db"))
	if _, err := db.Exec("UPDATE heads SET epoch = ? WHERE name = 'feed'", ahead); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	k.run("", nil, "backup", "one")
	for _, args := range [][]string{{"new-epoch", "--yes"}, {"restore", "one", "--replace", "--accept-revived-keys"}} {
		cmd := exec.Command("grantway", append(args, "--config", "config.yaml", "--json")...)
		cmd.Dir, cmd.Env = k.dir, []string{"PATH=" + os.Getenv("PATH")}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, &errs)
		}
		var doc struct{ Epoch int64 }
		if err := json.Unmarshal(out, &doc); err != nil || doc.Epoch <= ahead {
			t.Errorf("%v: %s, not behind %d", args, out, ahead)
		}
		if say := fmt.Sprintf("the epoch %d lies in the future", doc.Epoch); !strings.Contains(errs.String(), say) {
			t.Errorf("%v: said %q, not %q", args, &errs, say)
		}
		ahead = doc.Epoch
	}
	p := k.start()
	if fresh := k.issue(p); !strings.Contains(fresh.list, fmt.Sprintf("/status/%d-", ahead)) {
		t.Errorf("a key is in %s, not in the epoch %d", fresh.list, ahead)
	}
}
