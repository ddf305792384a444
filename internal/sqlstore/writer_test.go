package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// faults are statements that fail on every engine, each in its own way, and those of one.
// In the place of the duplicate there is a row already.
func faults(own map[string]statement) map[string]statement {
	all := map[string]statement{
		"constraint":        do("INSERT INTO used_once (kind, hash, op, expires) VALUES ('k', NULL, 'op', 0)"),
		"duplicate":         put(1000)[0],
		"no statement":      do("SELECT FROM nothing WHERE"),
		"too few arguments": do("INSERT INTO used_once (kind, hash, op, expires) VALUES ($1, $2, 'op', 0)", "k"),
	}
	maps.Copy(all, own)
	return all
}

// One event's failure never touches its neighbours (DESIGN, decision 5), however it
// fails: by a constraint, by a statement that is none, by filling the disk, by ending
// the transaction under all of them.
func TestSQLite_HoweverAnEventFailsItFailsAlone(t *testing.T) {
	for name, fault := range faults(map[string]statement{
		"full disk":            do("INSERT INTO used_once (kind, hash, op, expires) VALUES ('k', zeroblob(3000000), 'op', 0)"),
		"ends the transaction": do("ROLLBACK"),
	}) {
		t.Run(name, func(t *testing.T) {
			s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
			e := s.engine.(*sqlite)
			if _, err := e.conn.run("PRAGMA max_page_count = 400", nil, nil); err != nil {
				t.Fatal(err)
			}
			var group []*job
			for i := range 21 {
				event := put(i)
				if i == 10 {
					event = append(put(1000), fault)
				}
				group = append(group, newJob(event))
			}
			c := &writeConn{conn: e.conn, counters: &counters{}}
			c.commit(group)
			for i, j := range group {
				if err := <-j.err; (err != nil) != (i == 10) || err != nil && !errors.Is(err, oauth.ErrUnavailable) {
					t.Errorf("event %d: error %v", i, err)
				}
			}
			if n := count(t, s, "used_once"); n != 20 {
				t.Errorf("%d rows, want those of the 20 good events", n)
			}
			if got := c.stats(); got.Events != 20 || got.Failed != 1 {
				t.Errorf("counted %d events and %d failures", got.Events, got.Failed)
			}
			if err := e.write(t.Context(), put(2000)); err != nil {
				t.Errorf("the next event: %v", err)
			}
		})
	}
}

// A caller whose context has ended before its event was queued is told so, and
// nothing is done.
func TestWrite_CancelledBefore(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for i := range 50 {
				err := s.engine.write(ctx, put(i))
				if !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
					t.Errorf("error %v, want ErrUnavailable and not ErrUnknown", err)
				}
			}
			if n := count(t, s, "used_once"); n != 0 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// One whose context ends afterwards waits for the outcome.
func TestWrite_CancelledAfterwardsWaitsForTheOutcome(t *testing.T) {
	const writers = 16
	check := func(t *testing.T, s *Store, inFlight func() bool, release func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, writers)
		for i := range writers {
			go func() {
				done <- s.engine.write(ctx, append([]statement{do("UPDATE used_once SET expires = 1 WHERE op = 'held'")}, put(i)...))
			}()
		}
		waitUntil(t, inFlight)
		cancel()
		select {
		case err := <-done:
			t.Errorf("a caller was answered before anything had happened: %v", err)
			done <- err
		case <-time.After(20 * time.Millisecond):
		}
		release()
		for range writers {
			if err := <-done; err != nil {
				t.Errorf("error %v", err)
			}
		}
		if n := count(t, s, "used_once"); n != writers+1 {
			t.Errorf("%d rows of %d events", n, writers+1)
		}
	}
	held := []statement{do("INSERT INTO used_once (kind, hash, op, expires) VALUES ('h', $1, 'held', 0)", []byte("held"))}

	t.Run("SQLite", func(t *testing.T) {
		s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
		e := s.engine.(*sqlite)
		if err := e.write(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		release := lockFile(t, e.path)
		// Who waits is counted before he is in the queue: here each passes by a hand that knows.
		queue, hand := e.writer.queue, make(chan *job)
		var queued atomic.Int64
		e.writer.queue = hand
		go func() {
			for range writers {
				queue <- <-hand
				queued.Add(1)
			}
		}()
		check(t, s, func() bool { return queued.Load() == writers }, func() {
			e.writer.queue = queue
			release()
		})
	})
	t.Run("Postgres", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		s, holder, watch := openAt(t, dsn), direct(t, dsn), direct(t, dsn)
		if err := s.engine.write(t.Context(), held); err != nil {
			t.Fatal(err)
		}
		run(t, holder, "BEGIN")
		run(t, holder, "UPDATE used_once SET expires = 2")
		check(t, s, func() bool {
			return text(t, watch, "SELECT COUNT(*)::TEXT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == fmt.Sprint(writers)
		}, func() { run(t, holder, "COMMIT") })
	})
}

// lockFile holds the write lock of a SQLite file until it is released.
func lockFile(t *testing.T, path string) (release func()) {
	t.Helper()
	other, err := sql.Open("sqlite", sqliteDSN(path, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	holder, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := holder.ExecContext(t.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
		holder.Close()
	}
}

// No caller waits for ever. What was not begun in time is taken back, which is an
// outcome that is known: it is not done later, either.
func TestSQLite_WhatIsNotBegunInTimeIsTakenBack(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	e.writer.limit = 30 * time.Millisecond
	release := lockFile(t, e.path)
	for i := range 20 {
		err := e.write(t.Context(), put(i))
		if !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
			t.Errorf("error %v, want ErrUnavailable and not ErrUnknown", err)
		}
	}
	release()
	e.writer.limit = writeLimit
	if err := e.write(t.Context(), put(1000)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "used_once"); n != 1 {
		t.Errorf("%d rows: an event was done whose caller had been told that it was not", n)
	}
	if got := e.stats(); got.Failed != 20 {
		t.Errorf("%d failures counted, want 20", got.Failed)
	}
}

// A full queue is no reason to wait for ever, either.
func TestSQLite_AFullQueueAnswers(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	release := lockFile(t, e.path)
	var jobs []*job
	for i := 0; len(e.writer.queue) < cap(e.writer.queue); i++ {
		jobs = append(jobs, newJob(put(i)))
		e.writer.queue <- jobs[i]
		if i == 0 {
			waitUntil(t, func() bool { return len(e.writer.queue) == 0 })
		}
	}
	e.writer.limit = 30 * time.Millisecond
	if err := e.write(t.Context(), put(100000)); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
		t.Errorf("error %v, want ErrUnavailable and not ErrUnknown", err)
	}
	release()
	for _, j := range jobs {
		if err := <-j.err; err != nil {
			t.Error(err)
		}
	}
	if n := count(t, s, "used_once"); n != len(jobs) {
		t.Errorf("%d rows, want %d", n, len(jobs))
	}
}

// Faults of the disk at the moment of the commit, made by strace in a process of its
// own: what the caller is told, and what would be found if the machine stopped now.
func TestSQLite_FaultsAtTheCommit(t *testing.T) {
	strace := storagetest.Strace(t)
	for _, tc := range []struct {
		name, inject, act, told string
		rows                    int
	}{
		{"a failed sync leaves the outcome open", "fsync,fdatasync:error=EIO", "write", "unknown", 1},
		{"a full disk keeps nothing", "pwrite64:error=ENOSPC", "write", "unavailable", 0},
		{"cancelled during the commit", "fsync,fdatasync:delay_enter=300000", "cancel", "done", 1},
		{"a disk that does not answer", "fsync,fdatasync:delay_enter=4000000", "hurry", "unknown", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "g.db")
			s := openAt(t, path)
			if err := s.engine.write(t.Context(), put(0)); err != nil { // the log is begun
				t.Fatal(err)
			}
			trace := filepath.Join(t.TempDir(), "trace")
			cmd := exec.Command(strace, "-f", "-o", trace, "-P", path+"-wal", "-e", "trace=fsync,fdatasync,pwrite64", "-e", "inject="+tc.inject, os.Args[0])
			cmd.Env = append(os.Environ(), writerHelper+"="+path, writerHelper+"_ACT="+tc.act)
			out, err := cmd.Output()
			if told := strings.TrimSpace(string(out)); err != nil || told != tc.told {
				seen, _ := os.ReadFile(trace)
				t.Fatalf("told %q, want %q (%v)\n%s", told, tc.told, err, seen)
			}
			if n := found(t, path); n != 1+tc.rows {
				t.Errorf("%d rows would be found, want %d", n, 1+tc.rows)
			}
			// The next event settles it: what was not acknowledged and is not visible is
			// written over.
			settled := 2
			if tc.told != "unavailable" && !strings.Contains(tc.inject, "error") {
				settled = 3
			}
			if err := s.engine.write(t.Context(), put(2)); err != nil {
				t.Fatal(err)
			}
			if n, visible := found(t, path), count(t, s, "used_once"); n != settled || visible != settled {
				t.Errorf("after the next event %d rows are visible and %d would be found, want %d", visible, n, settled)
			}
		})
	}
}

// found counts the rows that whoever opens the file finds if all processes end now.
func found(t *testing.T, path string) int {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy.db")
	for _, ending := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + ending)
		if err == nil {
			err = os.WriteFile(copied+ending, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return count(t, openAt(t, copied), "used_once")
}

const writerHelper = "TEST_GRANTWAY_WRITER"

func TestMain(m *testing.M) {
	if path := os.Getenv(writerHelper); path != "" {
		fmt.Println(oneEvent(path, os.Getenv(writerHelper+"_ACT")))
		os.Exit(0) // without closing: like a crash
	}
	os.Exit(m.Run())
}

// oneEvent runs one event and says in a word what its caller was told.
func oneEvent(path, act string) string {
	s, err := Open(context.Background(), path)
	if err != nil {
		return err.Error()
	}
	if act == "migrate" {
		if err := s.Migrate(context.Background()); err != nil {
			return err.Error()
		}
		return "done"
	}
	e := s.engine.(*sqlite)
	if act == "hurry" {
		e.writer.limit = time.Second // to begin takes no time, but the writer must get some
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	begin := make(chan bool, 2)
	go func() { <-begin; done <- e.write(ctx, put(1)) }()
	if act == "cancel" {
		tick := time.NewTicker(time.Millisecond)
		size := func() int64 {
			info, _ := os.Stat(path + "-wal")
			return info.Size()
		}
		before := size()
		begin <- true
		for ; size() == before; <-tick.C { // the frames are written before the sync
		}
		cancel()
	}
	begin <- true
	err = <-done
	if act == "hurry" {
		e.writer.limit = writeLimit
		e.write(context.Background(), nil)
	}
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, oauth.ErrUnknown):
		return "unknown"
	case errors.Is(err, oauth.ErrUnavailable):
		return "unavailable"
	}
	return err.Error()
}

// What the server says of a failed event, and what that shows. A panic is a server
// that could not write its log: the record of the commit may be in it. When the
// session is ended at the commit, or a pooler says that it has lost its server, the
// commit may have been done.
func TestPostgres_WhatARefusalShows(t *testing.T) {
	for _, tc := range []struct {
		err        pgconn.PgError
		committing bool
		nothing    bool
	}{
		{pgconn.PgError{SeverityUnlocalized: "ERROR", Severity: "FEHLER", Code: "23505"}, false, true},
		{pgconn.PgError{SeverityUnlocalized: "ERROR", Code: "40001"}, true, true},
		{pgconn.PgError{SeverityUnlocalized: "FATAL", Code: "57P01"}, false, true},
		{pgconn.PgError{SeverityUnlocalized: "FATAL", Code: "57P01"}, true, false},
		{pgconn.PgError{SeverityUnlocalized: "PANIC", Code: "53100"}, false, false},
		{pgconn.PgError{SeverityUnlocalized: "PANIC", Code: "53100"}, true, false},
		{pgconn.PgError{Severity: "FATAL", Code: "08P01"}, false, false},
		{pgconn.PgError{Severity: "ERROR", Code: "08P01"}, false, false},
		{pgconn.PgError{Severity: "ERROR", Code: "40003"}, true, false},
	} {
		if got := keptNothing(&tc.err, tc.committing); got != tc.nothing {
			t.Errorf("%+v, committing %t: %t", tc.err, tc.committing, got)
		}
	}
}
