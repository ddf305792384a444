package sqlstore

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	sqlite3 "modernc.org/sqlite/lib"
	zombiezen "zombiezen.com/go/sqlite"

	"github.com/grantway/grantway/internal/storagetest"
)

func openAt(t testing.TB, dsn string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func dsns() map[string]func(t testing.TB) string {
	return map[string]func(t testing.TB) string{
		"SQLite":   func(t testing.TB) string { return filepath.Join(t.TempDir(), "grantway.db") },
		"Postgres": func(t testing.TB) string { return storagetest.Postgres(t) },
	}
}

// opened returns how the suites open a database of each engine. Through PgBouncer
// the suite's own look at the tables goes past it.
func opened() map[string]func(t *testing.T) (*Store, string) {
	all := map[string]func(t *testing.T) (*Store, string){
		"PgBouncer": func(t *testing.T) (*Store, string) {
			direct, pooled := storagetest.PgBouncer(t)
			return openAt(t, pooled), direct
		},
	}
	for engine, dsn := range dsns() {
		all[engine] = func(t *testing.T) (*Store, string) {
			at := dsn(t)
			s := openAt(t, at)
			if e, ok := s.engine.(*sqlite); ok {
				t.Cleanup(func() { parsedOnce(t, e) })
			}
			return s, at
		}
	}
	return all
}

// parsed holds the statements that parsedOnce has tried.
var parsed sync.Map

// parsedOnce proves of every statement that a suite has run on a file that SQLite
// parses it once, whatever is bound to it later.
func parsedOnce(t *testing.T, s *sqlite) {
	s.readers.mu.Lock()
	conns := append(slices.Clone(s.readers.idle), s.conn)
	s.readers.mu.Unlock()
	looks := 0
	again := openConn(t)
	if err := again.SetAuthorizer(zombiezen.AuthorizeFunc(func(zombiezen.Action) zombiezen.AuthResult { looks++; return zombiezen.AuthResultOK })); err != nil {
		t.Fatal(err)
	}
	if _, err := again.run("ATTACH DATABASE $1 AS suite", []any{s.path}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		for text := range c.stmts {
			if _, was := parsed.LoadOrStore(text, true); was || !strings.Contains(text, "$") {
				continue
			}
			stmt, err := again.prepare(text)
			if err != nil {
				t.Fatal(err)
			}
			run := func(n int64) {
				_, err := again.run(text, slices.Repeat([]any{n}, len(stmt.params)+20), nil)
				if code := sqliteCode(err); err != nil && code != sqlite3.SQLITE_CONSTRAINT {
					t.Errorf("%s: %v", text, err)
				}
			}
			run(1)
			looks = 0
			run(2)
			if looks > 0 {
				t.Errorf("it is parsed again whenever something else is bound to it: %s", text)
			}
		}
	}
}

func TestOAuthStorage(t *testing.T) {
	for engine, open := range opened() {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			storagetest.OAuth(t, func(t *testing.T) storagetest.Opened {
				s, at := open(t)
				return storagetest.Opened{Storage: s, DSN: at, Pooled: engine == "PgBouncer"}
			})
		})
	}
}
