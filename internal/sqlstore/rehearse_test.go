package sqlstore

import (
	"context"
	"errors"
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
	// use uses a connection, and waits for what comes of that; used returns it then.
	use := func() int64 {
		t.Helper()
		seq, _, err := s.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p.rehearsing.Lock()
		defer p.rehearsing.Unlock()
		return seq
	}
	used := func() *pgxpool.Conn {
		t.Helper()
		use()
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
	const all = 15
	conn := used()
	if n := count(conn, planned); n < all {
		t.Errorf("%d statements are planned for good", n)
	}
	before := count(conn, prepared)
	on := &Store{engine: stage{p, conn}, moved: make(chan struct{}, 1)}
	e := oauth.Event{ID: "x", Kind: oauth.EventFamilyRevoked}
	for _, proof := range []oauth.Proof{{Secret: oauth.HashOf("x")}, {ClientVersion: 1}, {}} {
		if _, err := on.RevokeOwn(ctx, "app", proof, "fam_x", e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := on.RevokeGrant(ctx, "grant_x", e); err != nil {
		t.Fatal(err)
	}
	if n := count(conn, prepared); n != before {
		t.Errorf("a revocation prepares %d statements that were not rehearsed", n-before)
	}
	if now := use(); now != seq || count(conn, "SELECT COUNT(*) FROM events") != 0 {
		t.Errorf("the rehearsal moved the feed from %d to %d, or left events", seq, now)
	}
	if n := count(used(), planned); n < all {
		t.Errorf("%d statements are planned for good on the next connection", n)
	}

	// While one rehearses another goes back at once, and has its turn behind a later use.
	p.rehearsing.Lock()
	if _, _, err := s.Head(ctx); err != nil {
		t.Fatal(err)
	}
	if st := p.pool.Stat(); st.IdleConns() != 1 || s.Stats().Rehearsed != 2 {
		t.Errorf("%d connections are there and %d have rehearsed, want 1 and 2", st.IdleConns(), s.Stats().Rehearsed)
	}
	p.rehearsing.Unlock()
	if used(); s.Stats().Rehearsed != 3 {
		t.Errorf("%d connections have rehearsed, want 3", s.Stats().Rehearsed)
	}
}

// Whoever closes the database waits for a rehearsal that is under way, and one whose
// connection is lost ends with it.
func TestPostgres_RehearsalIsInNobodysWay(t *testing.T) {
	ctx := context.Background()
	dsn := storagetest.Postgres(t)
	s := openAt(t, dsn)
	if err := s.Migrate(ctx); err != nil {
		t.Fatal(err)
	}
	p := s.engine.(*postgres)
	s.Rehearse()
	for range 20 {
		if _, _, err := s.Head(ctx); err != nil {
			t.Fatal(err)
		}
		p.line.cut() // every connection, in use or not
		if err := s.engine.write(ctx, put(int(s.Stats().Events))); err != nil && !errors.Is(err, oauth.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	second, err := Open(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	second.Rehearse()
	if _, _, err := second.Head(ctx); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if n := second.Stats().Rehearsed; n != 1 {
		t.Errorf("closed during a rehearsal, and %d are over", n)
	}
}

// Without a server process to itself a connection has nothing to rehearse for, and who
// opens the database for one command does not pay for it.
func TestPostgres_RehearsesOnlyWhereAsked(t *testing.T) {
	dsn, pooled := storagetest.PgBouncer(t)
	behind, unasked := openAt(t, pooled), openAt(t, dsn)
	behind.Rehearse()
	for what, s := range map[string]*Store{"behind a pooler": behind, "unasked": unasked} {
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Head(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := s.engine.(*postgres)
		p.rehearsing.Lock()
		if n := s.Stats().Rehearsed; n != 0 {
			t.Errorf("%s: %d connections have rehearsed", what, n)
		}
		p.rehearsing.Unlock()
	}
}
