package sqlstore

import (
	"path/filepath"
	"testing"

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
			return openAt(t, at), at
		}
	}
	return all
}

func TestOAuthStorage(t *testing.T) {
	for engine, open := range opened() {
		t.Run(engine, func(t *testing.T) {
			storagetest.OAuth(t, func(t *testing.T) storagetest.Opened {
				s, at := open(t)
				return storagetest.Opened{Storage: s, DSN: at}
			})
		})
	}
}
