package storagetest_test

import (
	"path/filepath"
	"testing"

	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

func TestPeople_SQLite(t *testing.T) {
	storagetest.People(t, func(t *testing.T) people.Storage {
		return migrated(t, filepath.Join(t.TempDir(), "grantway.db"))
	})
}

func TestPeople_PostgreSQL(t *testing.T) {
	storagetest.People(t, func(t *testing.T) people.Storage { return migrated(t, storagetest.Postgres(t)) })
}

func TestPeople_PgBouncer(t *testing.T) {
	storagetest.People(t, func(t *testing.T) people.Storage {
		_, pooled := storagetest.PgBouncer(t)
		return migrated(t, pooled)
	})
}

func migrated(t *testing.T, dsn string) *sqlstore.Store {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}
