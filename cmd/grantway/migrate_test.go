package main

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

// past opens a database past grantway.
func past(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	driver := "pgx"
	if !sqlstore.IsPostgres(dsn) {
		driver, dsn = "sqlite", "file:"+(&url.URL{Path: dsn}).EscapedPath()
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// alter runs SQL on a database past grantway.
func alter(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	db := past(t, dsn)
	defer db.Close()
	for _, text := range statements {
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
}

// A schema that this program does not know is refused by every command, in one
// line, and nothing is touched (docs/operating.md, Upgrade).
func TestSchema_UnknownIsRefused(t *testing.T) {
	t.Parallel()
	engines := map[string]func(t *testing.T, dir string) string{
		"SQLite":   func(t *testing.T, dir string) string { return filepath.Join(dir, "grantway.db") },
		"Postgres": func(t *testing.T, dir string) string { return storagetest.Postgres(t) },
	}
	for engine, dsn := range engines {
		t.Run(engine, func(t *testing.T) {
			k := &keyed{site: newSite(t)}
			at := dsn(t, k.dir)
			if engine == "Postgres" {
				k.run("", nil, "migrate", "up", "--database", at)
			}
			refused := func(words string) {
				t.Helper()
				before := dump(t, at)
				for _, command := range []string{"serve --listen 127.0.0.1:0", "user list", "backup new", "events export new", "migrate up"} {
					k.fails([]string{words}, append(strings.Fields(command), "--database", at)...)
				}
				if _, err := os.Stat(filepath.Join(k.dir, "new")); err == nil {
					t.Error("a refused command left a file")
				}
				if d := cmp.Diff(before, dump(t, at)); d != "" {
					t.Errorf("refused, and yet touched (-before +after):\n%s", d)
				}
			}
			alter(t, at, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, TRUE)")
			refused("made by a newer grantway (schema 99, this one knows 1): use that one, or restore a backup")
			alter(t, at, "DELETE FROM goose_db_version WHERE version_id = 99", "CREATE TABLE backup (made BIGINT PRIMARY KEY, issuer TEXT NOT NULL, audience TEXT NOT NULL, ring TEXT NOT NULL)")
			refused("a backup, or a restore that was cut off")
		})
	}
}

// dump reads every row of every table.
func dump(t *testing.T, dsn string) map[string][]string {
	t.Helper()
	db := past(t, dsn)
	defer db.Close()
	names := "SELECT name FROM sqlite_master WHERE type = 'table'"
	if sqlstore.IsPostgres(dsn) {
		names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
	}
	all := map[string][]string{}
	for _, name := range rows(t, db, names) {
		all[name] = rows(t, db, "SELECT * FROM "+name)
		slices.Sort(all[name])
	}
	if len(all["signing_keys"]) == 0 && len(all["heads"]) == 0 {
		t.Fatalf("nothing to compare in %d tables", len(all))
	}
	return all
}

// rows writes what a query finds, a line each.
func rows(t *testing.T, db *sql.DB, query string) (lines []string) {
	t.Helper()
	found, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer found.Close()
	columns, err := found.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, at := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		at[i] = &values[i]
	}
	for found.Next() {
		if err := found.Scan(at...); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSuffix(fmt.Sprintln(values...), "\n"))
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// serve never migrates PostgreSQL; grantway migrate does, and two at once do no
// harm, as processes of their own.
func TestMigrate_Commands(t *testing.T) {
	t.Parallel()
	k := &keyed{site: newSite(t)}
	at := storagetest.Postgres(t)
	k.fails([]string{"the database has no tables of grantway: run grantway migrate up"}, "user", "list", "--database", at)
	k.fails([]string{"the database has no tables of grantway: run grantway migrate up"}, "serve", "--listen", "127.0.0.1:0", "--database", at)
	var doc schemaDoc
	if k.run("", &doc, "migrate", "status", "--database", at); doc.Schema != 0 || doc.Known != 1 || doc.Migrations[0] != (migrationDoc{1, "house", false}) {
		t.Errorf("before: %+v", doc)
	}
	var both sync.WaitGroup
	for range 3 {
		both.Go(func() {
			if _, err := grantway(k.dir, "", "migrate", "up", "--config", "config.yaml", "--database", at); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if k.run("", &doc, "migrate", "status", "--database", at); doc.Schema != 1 || doc.Migrations[0] != (migrationDoc{1, "house", true}) {
		t.Errorf("after: %+v", doc)
	}
	if said, err := grantway(k.dir, "", "migrate", "up", "--config", "config.yaml", "--database", at); err != nil || said != "The database is at schema 1 already.\n" {
		t.Errorf("again: %q %v", said, err)
	}
	p := k.serve("--database", at, "--shutdown-grace", "1s")
	k.stop(p)
}

// Before a file is migrated its old state is put beside it, as a backup that can be
// restored; a wrong key ring is refused before (docs/operating.md, Upgrade). There is one
// schema, so the older one is made up.
func TestMigrate_KeepsTheOldState(t *testing.T) {
	t.Parallel()
	k := &keyed{site: newSite(t)}
	cfg, ring, err := load(filepath.Join(k.dir, "config.yaml"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlstore.Open(t.Context(), cfg.Database.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	old := sqlstore.Schema{Have: 1, Want: 2}
	kept := func() []string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(k.dir, "grantway.db.schema-1.*.backup"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	var said strings.Builder
	for n := range 2 {
		said.Reset()
		if err := upgrade(t.Context(), store, old, cfg, ring, terminal{err: &said}); err != nil {
			t.Fatal(err)
		}
		if names := kept(); len(names) != n+1 || !strings.Contains(said.String(), names[n]) || strings.Count(said.String(), "\n") != 1 {
			t.Fatalf("%q: %q", said.String(), names)
		}
	}
	info, err := os.Stat(kept()[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	a, err := sqlstore.ReadArchive(t.Context(), kept()[0])
	if err != nil || a.Issuer != cfg.Issuer || a.Version != 1 || a.Ring != ring.Fingerprints() {
		t.Errorf("%+v, %v", a, err)
	}
	text, err := oauth.NewKeyRing(strings.NewReader(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := oauth.ParseKeyRing(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := upgrade(t.Context(), store, old, cfg, wrong, terminal{err: &said}); err == nil || !strings.Contains(err.Error(), "does not open this database's signing keys") || len(kept()) != 2 {
		t.Errorf("a wrong ring: %v, %d backups", err, len(kept()))
	}
	// The old state is there before anything of the new schema is tried: this time that
	// cannot be done.
	alter(t, cfg.Database.Reveal(), "DELETE FROM goose_db_version WHERE version_id = 1", "CREATE TABLE legacy (said TEXT)")
	before := dump(t, cfg.Database.Reveal())
	if err := upgrade(t.Context(), store, old, cfg, ring, terminal{err: &said}); err == nil || strings.Contains(err.Error(), "before the upgrade") || len(kept()) != 3 {
		t.Fatalf("a migration that fails: %v, %d backups", err, len(kept()))
	}
	after := dump(t, kept()[2])
	delete(after, "backup")
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the file as it was and its backup (-file +backup):\n%s", d)
	}
	// PostgreSQL is only told what to do, whatever the age of its schema.
	for have, want := range map[int64]string{0: "has no tables of grantway: run grantway migrate up", 1: "schema 1, this one needs 2): run grantway migrate up"} {
		err := usable(sqlstore.Schema{Have: have, Want: 2}, config.Config{Database: "postgres://nowhere/x"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("PostgreSQL at schema %d: %v", have, err)
		}
	}
}
