package sqlstore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// direct is a connection of its own, past the store.
func direct(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.PgConn().Close(t.Context()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, text string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// stumbling makes the function stumble(code, n), whose first n calls fail with that
// SQLSTATE. Sequences are not rolled back, so last counts the calls.
func stumbling(t *testing.T, conn *pgx.Conn) (last func() int64) {
	t.Helper()
	run(t, conn, "CREATE SEQUENCE calls")
	run(t, conn, `CREATE FUNCTION stumble(code TEXT, n BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('calls') <= n THEN RAISE EXCEPTION 'stumbled' USING ERRCODE = code; END IF; RETURN 1; END $$`)
	return func() (n int64) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT last_value FROM calls").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func stumble(n int, code string, times int) []statement {
	return append(put(n), do("SELECT stumble($1, $2)", code, int64(times)))
}

// What the server gave up for the sake of another transaction is done again, whole;
// anything else that it refuses is not (DESIGN, decision 5).
func TestPostgres_GivenUpEventsAreRetried(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, conn := openAt(t, dsn), direct(t, dsn)
	last := stumbling(t, conn)
	for _, tc := range []struct {
		code     string
		fails    int
		calls    int64
		succeeds bool
	}{
		{"40001", 3, 4, true},
		{"40P01", 3, 4, true},
		{"40001", 1000, retriesMax + 1, false},
		{"23514", 1, 1, false},
		{"40002", 1, 1, false},
	} {
		t.Run(fmt.Sprintf("%s, %d times", tc.code, tc.fails), func(t *testing.T) {
			run(t, conn, "ALTER SEQUENCE calls RESTART")
			run(t, conn, "DELETE FROM used_once")
			err := s.engine.write(t.Context(), stumble(1, tc.code, tc.fails))
			if (err == nil) != tc.succeeds {
				t.Errorf("error %v", err)
			}
			if err != nil && (!errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown)) {
				t.Errorf("the server refused, but the error is %v", err)
			}
			if n := last(); n != tc.calls {
				t.Errorf("%d tries, want %d", n, tc.calls)
			}
			want := 0
			if tc.succeeds {
				want = 1
			}
			if n := count(t, s, "used_once"); n != want {
				t.Errorf("%d rows, want %d", n, want)
			}
		})
	}
}

// A real deadlock: the event holds one row and waits for another, which somebody
// holds who then asks for the first.
func TestPostgres_ADeadlockEndsForBoth(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, other := openAt(t, dsn), direct(t, dsn)
	for i := range 2 {
		if err := s.engine.write(t.Context(), put(i)); err != nil {
			t.Fatal(err)
		}
	}
	raise := func(n int) statement {
		return do("UPDATE used_once SET expires = expires + 1 WHERE kind = 'k' AND hash = $1", []byte(fmt.Sprint(n)))
	}
	run(t, other, "BEGIN")
	run(t, other, raise(1).sql, raise(1).args...)
	done := make(chan error, 1)
	go func() { done <- s.engine.write(t.Context(), []statement{raise(0), raise(1)}) }()
	awaitLock(t, dsn)
	_, lost := other.Exec(t.Context(), raise(0).sql, raise(0).args...)
	end := "COMMIT"
	if lost != nil { // the server chose this one; the event goes on
		end = "ROLLBACK"
	}
	run(t, other, end)
	if err := <-done; err != nil {
		t.Errorf("the event: %v", err)
	}
	var sum, want int64 = 0, 2
	if lost == nil {
		want = 4
	}
	if err := s.row(t.Context(), "SELECT CAST(SUM(expires) AS BIGINT) FROM used_once", nil, &sum); err != nil || sum != want {
		t.Errorf("the rows add up to %d, %v, want %d", sum, err, want)
	}
}

// newEpochOf begins an epoch on a database that nodes work on.
func newEpochOf(t *testing.T, s *Store) error {
	return s.NewEpoch(t.Context(), 100, func(int64, int64) (oauth.Event, error) {
		return oauth.Event{ID: "ev_epoch", Kind: oauth.EventRestored}, nil
	})
}

// Whoever begins an epoch takes rows in the order in which the events of running nodes
// do: while he waits for one of them, he holds nothing that it needs yet.
func TestPostgres_AnEpochWaitsForEvents(t *testing.T) {
	for name, event := range map[string]struct{ holds, wants, does string }{
		"FoldRule": {"UPDATE cutoffs SET op = 'x'", "SELECT 1 FROM families FOR UPDATE NOWAIT", "UPDATE families SET status = 'invalid'"},
		"Sweep":    {"UPDATE heads SET seq = seq WHERE name = 'kept'", "SELECT 1 FROM status_changes FOR UPDATE NOWAIT", "DELETE FROM status_changes"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := storagetest.Postgres(t)
			s, other := openAt(t, dsn), direct(t, dsn)
			run(t, other, "INSERT INTO cutoffs (kind, subject, before, value, fold, op) VALUES ('all', '', 1, 1, '', '')")
			run(t, other, `INSERT INTO families (id, grant_id, client_id, user_id, api, status_index, status, rev, iseq, op, created, due)
				VALUES ('fm', 'gr', 'c', 'u', 'api', 1, 'valid', 1, 0, '', 0, 1)`)
			run(t, other, "INSERT INTO status_changes (seq, status_index, api, value, at) VALUES (1, 1, 'api', 1, 0)")
			run(t, other, "BEGIN")
			run(t, other, event.holds)
			done := make(chan error, 1)
			go func() { done <- newEpochOf(t, s) }()
			awaitLock(t, dsn)
			run(t, other, event.wants)
			run(t, other, event.does)
			run(t, other, "COMMIT")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, epoch, err := s.Head(t.Context()); err != nil || epoch != 100 {
				t.Errorf("the epoch %d, %v", epoch, err)
			}
		})
	}
}

// If the server gives it up all the same, at a statement or at its commit, it is begun
// anew, like an event.
func TestPostgres_AGivenUpEpochIsRetried(t *testing.T) {
	for name, trigger := range map[string]string{
		"a statement": "CREATE TRIGGER stumbles BEFORE DELETE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION stumbles()",
		"the commit":  "CREATE CONSTRAINT TRIGGER stumbles AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stumbles()",
	} {
		for _, tc := range []struct {
			code     string
			fails    int
			calls    int64
			succeeds bool
		}{
			{"40001", 3, 4, true},
			{"40P01", 3, 4, true},
			{"40P01", 1000, retriesMax + 1, false},
			{"23514", 1, 1, false},
		} {
			t.Run(fmt.Sprintf("%s: %s, %d times", name, tc.code, tc.fails), func(t *testing.T) {
				dsn := storagetest.Postgres(t)
				s, conn := openAt(t, dsn), direct(t, dsn)
				last := stumbling(t, conn)
				run(t, conn, fmt.Sprintf("CREATE FUNCTION stumbles() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN PERFORM stumble('%s', %d); RETURN NULL; END $$", tc.code, tc.fails))
				run(t, conn, trigger)
				err := newEpochOf(t, s)
				if (err == nil) != tc.succeeds {
					t.Errorf("error %v", err)
				}
				if n := last(); n != tc.calls {
					t.Errorf("%d tries, want %d", n, tc.calls)
				}
				if _, epoch, err := s.Head(t.Context()); err != nil || (epoch == 100) != tc.succeeds {
					t.Errorf("the epoch %d, %v", epoch, err)
				}
			})
		}
	}
}

// awaitLock returns when a backend of this database waits for a lock, and tells
// its process id.
func awaitLock(t *testing.T, dsn string) (pid int32) {
	t.Helper()
	watch := direct(t, dsn)
	for end := time.Now().Add(20 * time.Second); ; {
		err := watch.QueryRow(t.Context(), "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&pid)
		if err == nil {
			return pid
		}
		if !errors.Is(err, pgx.ErrNoRows) || time.Now().After(end) {
			t.Fatalf("nothing waits for a lock: %v", err)
		}
	}
}

// proxy stands between store and server, and can be cut.
type proxy struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	conns    []net.Conn
}

// newProxy returns a proxy and the DSN that leads through it.
func newProxy(t *testing.T, dsn string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: u.Host}
	t.Cleanup(p.cut)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.target)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go io.Copy(in, out)
			go io.Copy(out, in)
		}
	}()
	u.Host = l.Addr().String()
	return p, u.String()
}

// cut ends every connection and takes no new one.
func (p *proxy) cut() {
	p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
}

// held starts an event that waits for a row that holder has locked.
func held(t *testing.T, s *Store, holder *pgx.Conn) chan error {
	t.Helper()
	if err := s.engine.write(t.Context(), put(0)); err != nil {
		t.Fatal(err)
	}
	run(t, holder, "BEGIN")
	run(t, holder, "SELECT 1 FROM used_once FOR UPDATE")
	done := make(chan error, 1)
	go func() {
		done <- s.engine.write(t.Context(), append([]statement{do("SELECT 1 FROM used_once WHERE kind = 'k' FOR UPDATE")}, put(1)...))
	}()
	return done
}

// A connection that is lost while an event is under way leaves its outcome open:
// here it takes effect after all, and whoever was told "no" would have been told
// wrong.
func TestPostgres_ALostConnectionIsAnUnknownOutcome(t *testing.T) {
	dsn := storagetest.Postgres(t)
	p, through := newProxy(t, dsn)
	s, holder := openAt(t, through), direct(t, dsn)
	done := held(t, s, holder)
	awaitLock(t, dsn)
	p.cut()
	err := <-done
	if !errors.Is(err, oauth.ErrUnknown) || !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("error %v, want ErrUnknown", err)
	}
	run(t, holder, "COMMIT")
	n := 0
	for end := time.Now().Add(20 * time.Second); n != 2 && time.Now().Before(end); {
		if err := holder.QueryRow(t.Context(), "SELECT COUNT(*) FROM used_once").Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
	if n != 2 {
		t.Errorf("%d rows: the event did not take effect, so this test shows nothing", n)
	}
	// From here on nothing can be sent, and that is known.
	s.engine.(*postgres).pool.Reset()
	err = s.engine.write(t.Context(), put(2))
	if !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("with nobody listening: %v, want ErrUnavailable and not ErrUnknown", err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("a read: %v, want ErrUnavailable", err)
	}
}

// A backend that is told to end says so before it goes, and keeps nothing of what
// it was doing: that outcome is known.
func TestPostgres_AnEndedBackendKeptNothing(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, holder := openAt(t, dsn), direct(t, dsn)
	done := held(t, s, holder)
	var ended bool
	if err := holder.QueryRow(t.Context(), "SELECT pg_terminate_backend($1)", awaitLock(t, dsn)).Scan(&ended); err != nil || !ended {
		t.Fatal(ended, err)
	}
	err := <-done
	if !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("error %v, want ErrUnavailable and not ErrUnknown", err)
	}
	run(t, holder, "COMMIT")
	if n := count(t, s, "used_once"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	if err := s.engine.write(t.Context(), put(2)); err != nil {
		t.Errorf("the next event: %v", err)
	}
}

// Every text is compared byte by byte, whatever language the database sorts by.
func TestPostgres_TextColumnsAreComparedBytewise(t *testing.T) {
	dsn := storagetest.Postgres(t)
	openAt(t, dsn)
	rows, err := direct(t, dsn).Query(t.Context(), `SELECT table_name || '.' || column_name, data_type, COALESCE(collation_name, 'the database''s')
		FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'goose%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	texts := 0
	for rows.Next() {
		var name, kind, collation string
		if err := rows.Scan(&name, &kind, &collation); err != nil {
			t.Fatal(err)
		}
		switch {
		case kind == "text":
			if texts++; collation != "C" {
				t.Errorf("%s has collation %s", name, collation)
			}
		case strings.HasPrefix(kind, "char"):
			t.Errorf("%s is %s; texts are TEXT", name, kind)
		}
	}
	if err := rows.Err(); err != nil || texts < 50 {
		t.Errorf("%d text columns, %v", texts, err)
	}
}
