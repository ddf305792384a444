package sqlstore

import (
	"path/filepath"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

func openAt(t *testing.T, dsn string) *Store {
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

func dsns() map[string]func(t *testing.T) string {
	return map[string]func(t *testing.T) string{
		"SQLite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "grantway.db") },
		"Postgres": func(t *testing.T) string { return storagetest.Postgres(t) },
	}
}

func TestOAuthStorage(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			storagetest.OAuth(t, func(t *testing.T) storagetest.Opened {
				at := dsn(t)
				return storagetest.Opened{Storage: openAt(t, at), DSN: at}
			})
		})
	}
}
