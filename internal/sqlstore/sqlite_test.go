package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func put(n int) []statement {
	return []statement{do("INSERT INTO used_once (kind, hash, op, expires) VALUES ($1, $2, 'op', 0)", "k", []byte(fmt.Sprint(n)))}
}

func count(t testing.TB, s *Store, table string) (n int) {
	t.Helper()
	if err := s.row(t.Context(), "SELECT COUNT(*) FROM "+table, nil, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// One event's failure never touches its neighbours (DESIGN, decision 5): the
// faulty one is rolled back whole, also what it did before the fault, and the
// others are kept.
func TestSQLite_AFaultyEventLeavesItsNeighboursAlone(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	var group []*job
	for i := range 51 {
		ev := put(i)
		if i == 25 {
			ev = append(put(1000), do("INSERT INTO used_once (kind, hash, op, expires) VALUES ('k', NULL, 'op', 0)"))
		}
		group = append(group, newJob(ev))
	}
	c := &writeConn{conn: e.conn, counters: &counters{}}
	c.commit(group)
	for i, j := range group {
		if err := <-j.err; (err != nil) != (i == 25) {
			t.Errorf("event %d: error %v", i, err)
		}
	}
	if n := count(t, s, "used_once"); n != 50 {
		t.Errorf("%d rows, want those of the 50 good events", n)
	}
}

// Waiting events share one transaction, so one sync serves them all.
func TestSQLite_WaitingEventsShareATransaction(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	e := s.engine.(*sqlite)
	// While another handle holds the write lock, events gather behind the first.
	other, err := sql.Open("sqlite", sqliteDSN(e.path, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	holder, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if _, err := holder.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	const writers = 64
	var jobs []*job
	for i := range writers { // they are with the writer, which waits for the lock, or behind it
		jobs = append(jobs, newJob(put(i)))
		e.writer.queue <- jobs[i]
	}
	before := walSize(t, e.path)
	if _, err := holder.ExecContext(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs {
		if err := <-j.err; err != nil {
			t.Error(err)
		}
	}
	if n := count(t, s, "used_once"); n != writers {
		t.Errorf("%d rows of %d events", n, writers)
	}
	// A transaction writes each page it changed once: 64 of them would write the
	// table's page and the index's page 64 times.
	pages := (walSize(t, e.path) - before) / 4096
	if pages > 16 {
		t.Errorf("%d pages in the log for %d events: they were not committed together", pages, writers)
	}
}

// waitUntil asks again until it is so, for twenty seconds at most.
func waitUntil(t *testing.T, so func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not within 20 s")
		}
	}
}

func walSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Two that write to one file, as the command line beside a running server: nobody is ever
// told that it is locked. As processes they do it in TestCommand_WritesBesideServe.
func TestSQLite_TwoStoresAtOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "g.db")
	stores := []*Store{openAt(t, path), openAt(t, path)}
	var n atomic.Int64
	var all sync.WaitGroup
	for _, s := range stores {
		for range 4 {
			all.Go(func() {
				for i := n.Add(1); i <= 2000; i = n.Add(1) {
					if err := s.engine.write(t.Context(), put(int(i))); err != nil {
						t.Errorf("event %d: %v", i, err)
					}
				}
			})
		}
	}
	all.Wait()
	if rows := count(t, stores[0], "used_once"); rows != 2000 {
		t.Errorf("%d rows of 2,000 events", rows)
	}
}

func TestSQLite_ClosedIsUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "g.db")
	s := openAt(t, path)
	if err := s.engine.write(t.Context(), put(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.engine.write(t.Context(), put(2)); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("write after Close: %v", err)
	}
	if _, _, err := s.Head(t.Context()); !errors.Is(err, oauth.ErrUnavailable) {
		t.Errorf("read after Close: %v", err)
	}
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the write-ahead log is left behind (%v): a copy of the file alone would miss what is in it", err)
	}
}

// Nobody else on the machine may read hashes and sealed keys.
func TestSQLite_FileIsPrivate(t *testing.T) {
	for _, name := range []string{"plain.db", "with space.db", "what?.db", "50%.db", "ünï#.db"} {
		path := filepath.Join(t.TempDir(), name)
		openAt(t, path)
		info, err := os.Stat(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %o", name, info.Mode().Perm())
		}
	}
}

// Two nodes that start at once both find the schema.
func TestMigrate_TwoNodesAtOnce(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			at := dsn(t)
			var all sync.WaitGroup
			for range 4 {
				s, err := Open(t.Context(), at)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				all.Go(func() {
					if err := s.Migrate(t.Context()); err != nil {
						t.Error(err)
					}
					if err := s.Ping(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
	}
}

// A file cannot turn to a write-ahead log while another process writes it, and SQLite
// does not wait for that; who migrates it does.
func TestMigrate_WhileAnotherWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	other, err := sql.Open("sqlite", sqliteDSN(path, "&_txlock=immediate"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	writing, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	go func() { migrated <- s.Migrate(t.Context()) }()
	select {
	case err := <-migrated:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := writing.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	if schema, err := s.Schema(t.Context()); err != nil || schema.Have != schema.Want {
		t.Errorf("%+v, %v", schema, err)
	}
}
