package sqlstore

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A cluster's every server stands in the URL. Whichever takes writes is found,
// whatever order they are named in, and found again when the roles change; the one
// that has become a standby is not ready.
func TestPostgres_FollowsTheServerThatTakesWrites(t *testing.T) {
	first := storagetest.StartServer(t, storagetest.Setup{})
	second := storagetest.StartServer(t, storagetest.Setup{Standby: first})
	both := fmt.Sprintf("postgres://postgres@%s,%s/postgres?sslmode=disable&target_session_attrs=read-write", second.Addr, first.Addr)
	s := openAt(t, both)
	if err := s.engine.write(t.Context(), put(1)); err != nil {
		t.Fatal(err)
	}

	// A standby alone is refused, also for reading.
	alone := second.URL + "postgres?sslmode=disable"
	if _, err := Open(t.Context(), alone); err == nil || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("opening a standby: %v", err)
	}

	// The first stops taking writes while connections to it live on; the second
	// becomes the primary.
	conn := direct(t, first.URL+"postgres?sslmode=disable")
	one := openAt(t, first.URL+"postgres?sslmode=disable")
	await(t, direct(t, alone), "SELECT pg_last_wal_replay_lsn() >= '"+text(t, conn, "SELECT pg_current_wal_lsn()::text")+"'")
	run(t, conn, "ALTER SYSTEM SET default_transaction_read_only = on")
	run(t, conn, "SELECT pg_reload_conf()")
	await(t, conn, "SELECT current_setting('transaction_read_only') = 'on'")
	if err := one.Ping(t.Context()); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("readiness of a node whose server takes no writes: %v", err)
	}
	if err := one.engine.write(t.Context(), put(2)); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("an event on it: %v, want ErrUnavailable and not ErrUnknown", err)
	}
	second.Control(t, "promote")
	if err := s.engine.write(t.Context(), put(2)); err != nil {
		t.Errorf("an event after the roles changed: %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("readiness after the roles changed: %v", err)
	}
	if n := count(t, s, "used_once"); n != 2 {
		t.Errorf("%d rows of 2 events", n)
	}

	// Once the server is looked for, which was given up before, one still hears why.
	line := one.engine.(*postgres).line
	for began := time.Now(); time.Since(began) < 20*time.Second && line.lost() != errStandby; {
		one.Ping(t.Context())
	}
	if err := one.Ping(t.Context()); !errors.Is(err, errStandby) {
		t.Errorf("why it is not ready: %v", err)
	}

	// The server dies and the other one is there: nothing but the events under way
	// is lost.
	first.Control(t, "-m", "immediate", "stop")
	for i := 3; i < 20; i++ {
		if err := s.engine.write(t.Context(), put(i)); err != nil {
			t.Errorf("event %d with the old primary gone: %v", i, err)
		}
	}
}

// A server may be told not to wait for its disk. What we acknowledge is on it all
// the same.
func TestPostgres_WaitsForTheSyncWhateverTheDefault(t *testing.T) {
	dsn := storagetest.Postgres(t)
	admin := direct(t, dsn)
	name := text(t, admin, "SELECT current_database()")
	for _, tc := range []struct{ setting, want string }{{"off", "on"}, {"local", "on"}, {"on", "on"}, {"remote_apply", "remote_apply"}} {
		run(t, admin, "ALTER DATABASE "+name+" SET synchronous_commit = "+tc.setting)
		for _, url := range []string{dsn, dsn + "&synchronous_commit=off"} {
			s := openAt(t, url)
			want := tc.want
			if url != dsn {
				want = "on"
			}
			// Said by the client, so no later change of the default reaches the session.
			var got, source string
			if err := s.row(t.Context(), "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'", nil, &got, &source); err != nil || got != want || source != "client" {
				t.Errorf("default %s: sessions run with %q said by the %s, want %s (%v)", tc.setting, got, source, want, err)
			}
		}
	}
}

// Behind a pooler no session is ours, so it cannot be told to wait; then what the
// role or the database says must be right, or nothing is begun.
func TestPgBouncer_RefusesASessionThatDoesNotWait(t *testing.T) {
	dsn, pooled := storagetest.PgBouncer(t)
	admin := direct(t, dsn)
	run(t, admin, "ALTER DATABASE "+text(t, admin, "SELECT current_database()")+" SET synchronous_commit = off")
	_, err := Open(t.Context(), pooled)
	if err == nil || !strings.Contains(err.Error(), `ALTER ROLE "postgres" SET synchronous_commit = on`) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

// With a pooler nothing prepared may be relied on: 16 connections of ours share ten
// of the server's, and no statement ever fails for it.
func TestPgBouncer_NoStatementIsMissed(t *testing.T) {
	_, pooled := storagetest.PgBouncer(t)
	s := openAt(t, pooled)
	if mode := s.engine.(*postgres).pool.Config().ConnConfig.DefaultQueryExecMode; mode == pgx.QueryExecModeCacheStatement {
		t.Errorf("statements are prepared behind a pooler: %v", mode)
	}
	const workers, each = 32, 50
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			var err error
			for i := range each {
				err = errors.Join(err, s.engine.write(t.Context(), put(w*each+i)))
				var n int64
				err = errors.Join(err, s.row(t.Context(), "SELECT COUNT(*) FROM used_once WHERE hash = $1", []any{[]byte(fmt.Sprint(w*each + i))}, &n))
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := count(t, s, "used_once"); n != workers*each {
		t.Errorf("%d rows, want %d", n, workers*each)
	}
}

// A pooler that loses its server says so in the server's manner. It does not know
// what became of the event: here it takes effect after all.
func TestPgBouncer_ALostServerIsAnUnknownOutcome(t *testing.T) {
	dsn := storagetest.Postgres(t)
	p, through := newProxy(t, dsn)
	u, err := url.Parse(through)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = storagetest.PgBouncerTo(t, u.Host)
	s, holder := openAt(t, u.String()), direct(t, dsn)
	done := held(t, s, holder)
	awaitLock(t, dsn)
	p.cut()
	err = <-done
	if _, said := errors.AsType[*pgconn.PgError](err); !said || !errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("error %v, want ErrUnknown out of the pooler's mouth", err)
	}
	run(t, holder, "COMMIT")
	await(t, holder, "SELECT COUNT(*) = 2 FROM used_once")
}

func text(t *testing.T, conn *pgx.Conn, query string) (s string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s
}

// await asks until it is so.
func await(t *testing.T, conn *pgx.Conn, query string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); ; <-tick.C {
		var so bool
		if err := conn.QueryRow(t.Context(), query).Scan(&so); err != nil || time.Now().After(end) {
			t.Fatalf("%s: %v", query, err)
		}
		if so {
			return
		}
	}
}
