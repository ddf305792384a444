package sqlstore

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A connection that was used once knows every statement of a revocation and has planned it
// for good, and nothing was written for that.
func TestPostgres_Rehearsal(t *testing.T) {
	ctx := context.Background()
	s := openAt(t, storagetest.Postgres(t))
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	p := s.engine.(*postgres)
	seq, _, err := s.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.Rehearse()
	// used returns a connection that was used, behind all that came of it.
	used := func() *pgxpool.Conn {
		if _, _, err := s.Head(ctx); err != nil {
			t.Fatal(err)
		}
		p.rehearsing.Lock()
		defer p.rehearsing.Unlock()
		conn, err := p.pool.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Release)
		return conn
	}
	count := func(conn *pgxpool.Conn, sql string) (n int64) {
		t.Helper()
		if err := conn.QueryRow(ctx, sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const prepared = "SELECT COUNT(*) FROM pg_prepared_statements"
	const planned = prepared + " WHERE generic_plans > 0"
	const most = 15
	conn := used()
	if n := count(conn, planned); n < most {
		t.Errorf("%d statements are planned for good", n)
	}
	before := count(conn, prepared)
	on := &Store{engine: stage{p, conn}, moved: make(chan struct{}, 1)}
	if _, err := on.RevokeOwn(ctx, "app", oauth.HashOf("x"), "fam_x", oauth.Event{ID: "x", Kind: oauth.EventFamilyRevoked}); err != nil {
		t.Fatal(err)
	}
	if n := count(conn, prepared); n != before {
		t.Errorf("a revocation prepares %d statements that were not rehearsed", n-before)
	}
	if now, _, err := s.Head(ctx); err != nil || now != seq || count(conn, "SELECT COUNT(*) FROM events") != 0 {
		t.Errorf("the rehearsal moved the feed from %d to %d, or left events (%v)", seq, now, err)
	}
	if n := count(used(), planned); n < most {
		t.Errorf("%d statements are planned for good on the next connection", n)
	}

	// A connection is not kept from its next user while another rehearses.
	p.rehearsing.Lock()
	if _, _, err := s.Head(ctx); err != nil {
		t.Fatal(err)
	}
	p.rehearsing.Unlock()
}

// Without a server process to itself a connection has nothing to rehearse for, and who
// opens the database for one command does not pay for it.
func TestPostgres_RehearsesOnlyWhereAsked(t *testing.T) {
	dsn, pooled := storagetest.PgBouncer(t)
	behind := openAt(t, pooled)
	behind.Rehearse()
	if behind.engine.(*postgres).rehearses.Load() {
		t.Error("behind a pooler")
	}
	if openAt(t, dsn).engine.(*postgres).rehearses.Load() {
		t.Error("unasked")
	}
}
