package storagetest_test

import (
	"path/filepath"
	"testing"

	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

func TestPeople_SQLite(t *testing.T) {
	storagetest.People(t, func(t *testing.T) storagetest.Opened {
		at := filepath.Join(t.TempDir(), "grantway.db")
		return storagetest.Opened{Storage: migrated(t, at), DSN: at}
	})
}

func TestPeople_PostgreSQL(t *testing.T) {
	storagetest.People(t, func(t *testing.T) storagetest.Opened {
		at := storagetest.Postgres(t)
		return storagetest.Opened{Storage: migrated(t, at), DSN: at}
	})
}

func TestPeople_PgBouncer(t *testing.T) {
	storagetest.People(t, func(t *testing.T) storagetest.Opened {
		direct, pooled := storagetest.PgBouncer(t)
		return storagetest.Opened{Storage: migrated(t, pooled), DSN: direct, Pooled: true}
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
