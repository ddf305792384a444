package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A backup is of one moment, though every step of it sees new writes, and it ends
// (docs/operating.md, Backup and restore). Each event writes two rows: no backup has one without the other.
func TestBackup_IsOfOneMoment(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			ballast := make([]byte, 64<<10)
			for i := range 160 { // 10 MiB: a few steps
				if err := s.engine.write(t.Context(), append(put(-i-1), do("INSERT INTO pending_requests (selector, kind, sealed, expires) VALUES ($1, 'pair', $2, 0)", fmt.Sprint(-i-1), ballast))); err != nil {
					t.Fatal(err)
				}
			}
			var written atomic.Int64
			stop, stopped := make(chan struct{}), make(chan error, 1)
			go func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						stopped <- nil
						return
					default:
					}
					if err := s.engine.write(context.Background(), append(put(n), do("INSERT INTO pending_requests (selector, kind, sealed, expires) VALUES ($1, 'pair', $2, 0)", fmt.Sprint(n), []byte{1}))); err != nil {
						stopped <- err
						return
					}
					written.Add(1)
				}
			}()
			file := filepath.Join(t.TempDir(), "backup")
			steps, began := 0, int64(0)
			var last Progress
			_, err := s.Backup(t.Context(), file, Archive{Made: time.Now(), Issuer: "https://id.example"}, func(p Progress) {
				if p.Step == "checking" {
					return
				}
				if steps, last = steps+1, p; steps > 20 { // PostgreSQL tells of every small batch
					return
				}
				if steps == 1 {
					began = written.Load()
				}
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				for from := written.Load(); written.Load() < from+3; <-tick.C {
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			close(stop)
			if err := <-stopped; err != nil {
				t.Fatal(err)
			}
			if steps < 3 || last.Rows != last.Of {
				t.Errorf("%d steps, the last %+v", steps, last)
			}
			db, err := sql.Open("sqlite", sqliteDSN(file, "&mode=ro"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var verdict string
			var once, pairs int64
			if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
				t.Errorf("%s, %v", verdict, err)
			}
			if err := db.QueryRow("SELECT (SELECT COUNT(*) FROM used_once), (SELECT COUNT(*) FROM pending_requests)").Scan(&once, &pairs); err != nil {
				t.Fatal(err)
			}
			if once != pairs || once < 160 || once > 160+began+1 { // one was written and not yet counted
				t.Errorf("%d and %d rows in the backup, %d were there after its first step, %d in the end", once, pairs, 160+began, 160+written.Load())
			}
			for _, suffix := range []string{"-wal", "-shm", "-journal"} {
				if _, err := os.Stat(file + suffix); err == nil {
					t.Errorf("the backup is more than one file: %s", suffix)
				}
			}
		})
	}
}

// A backup that fails leaves nothing, and one never replaces a file, also one that
// comes there meanwhile.
func TestBackup_AllOrNothing(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Backup(ctx, file, Archive{}, func(Progress) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("a cancelled backup left %v", left)
	}
	_, err := s.Backup(t.Context(), file, Archive{}, func(Progress) {
		if err := os.WriteFile(file, []byte("somebody else's"), 0o600); err != nil {
			t.Error(err)
		}
	})
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("a file came between: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "somebody else's" {
		t.Errorf("%q, %v", text, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it left %v", left)
	}
}

// A disk that gives back other bytes than it was given is not told of as a damaged database.
func TestBackup_OntoAFaultyDisk(t *testing.T) {
	for engine, dsn := range dsns() {
		for what, from := range map[string]int64{"a page": 4096, "the first": 0} {
			t.Run(engine+", "+what, func(t *testing.T) {
				s, dir := openAt(t, dsn(t)), t.TempDir()
				_, err := s.Backup(t.Context(), filepath.Join(dir, "one.backup"), Archive{Made: time.Now()}, func(p Progress) {
					if p.Step != "checking" {
						return
					}
					parts, err := filepath.Glob(filepath.Join(dir, "*.part-*"))
					if err != nil || len(parts) != 1 {
						t.Fatal(parts, err)
					}
					f, err := os.OpenFile(parts[0], os.O_WRONLY, 0)
					if err == nil {
						_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, 4<<12), from)
					}
					if err := errors.Join(err, f.Close()); err != nil {
						t.Fatal(err)
					}
				})
				refused(t, "the backup", err, "the database is sound, but its copy could not be read back, so no backup was made: write it to another disk")
				if left, _ := os.ReadDir(dir); len(left) != 0 {
					t.Errorf("it left %v", left)
				}
			})
		}
	}
}

// coded is an error of SQLite's.
type coded int

func (c coded) Error() string { return fmt.Sprint("code ", int(c)) }
func (c coded) Code() int     { return int(c) }

// What could not be read for a fault of the disk, or for want of memory, is not known to be
// corrupt.
func TestRestore_WhatIsCorrupt(t *testing.T) {
	for code, corrupt := range map[int]bool{
		sqlite3.SQLITE_CORRUPT: true, sqlite3.SQLITE_ERROR: true, sqlite3.SQLITE_IOERR: false, sqlite3.SQLITE_IOERR_READ: false,
		sqlite3.SQLITE_FULL: false, sqlite3.SQLITE_NOMEM: false, sqlite3.SQLITE_CANTOPEN: false, sqlite3.SQLITE_NOTADB: false,
	} {
		if err := judge(Archive{}, coded(code)); errors.Is(err, ErrCorrupt) != corrupt {
			t.Errorf("code %d: %v", code, err)
		}
	}
}

// without makes names as a file system does that lacks some way to.
func without(t *testing.T, rename, link bool) {
	t.Helper()
	lacks := func(err error) func(string, string) error {
		return func(from, to string) error { return &os.LinkError{Op: "name", Old: from, New: to, Err: err} }
	}
	before, linkBefore := renameNew, hardLink
	t.Cleanup(func() { renameNew, hardLink = before, linkBefore })
	if rename {
		renameNew = lacks(syscall.EINVAL) // as the kernel says
	}
	if link {
		hardLink = lacks(syscall.EPERM)
	}
}

// A backup gets its name by a rename or by a link, whichever the file system knows, and
// replaces nothing by either (docs/operating.md, Backup and restore).
func TestBackup_OntoADiskThatLacks(t *testing.T) {
	for what, lacks := range map[string]struct{ rename, link bool }{"links": {false, true}, "renames": {true, false}, "both": {true, true}} {
		t.Run(what, func(t *testing.T) {
			s, dir := openAt(t, filepath.Join(t.TempDir(), "g.db")), t.TempDir()
			file := filepath.Join(dir, "one.backup")
			without(t, lacks.rename, lacks.link)
			_, err := s.Backup(t.Context(), file, Archive{Made: time.Now()}, nil)
			left, _ := os.ReadDir(dir)
			if lacks.rename && lacks.link {
				refused(t, "a backup", err, "the disk of "+dir+" cannot give a file a name without replacing another: write the backup to another disk, and copy it there")
				if len(left) != 0 {
					t.Errorf("it left %v", left)
				}
				return
			}
			if err != nil || len(left) != 1 {
				t.Fatalf("%v, there are %v", err, left)
			}
			if _, err := ReadArchive(t.Context(), file); err != nil {
				t.Error(err)
			}
			other := filepath.Join(dir, "two.backup")
			_, err = s.Backup(t.Context(), other, Archive{}, func(Progress) {
				if err := os.WriteFile(other, []byte("somebody else's"), 0o600); err != nil {
					t.Error(err)
				}
			})
			if text, unread := os.ReadFile(other); !errors.Is(err, os.ErrExist) || unread != nil || string(text) != "somebody else's" {
				t.Errorf("a file came between: %v, %q, %v", err, text, unread)
			}
		})
	}
}

// Where a database can have no second name, nothing is replaced, and it is said what to do.
func TestRestore_OnADiskWithoutLinks(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "g.db"), filepath.Join(t.TempDir(), "backup")
	s := backedUp(t, path, file)
	if err := errors.Join(s.engine.write(t.Context(), put(1)), s.Close()); err != nil {
		t.Fatal(err)
	}
	without(t, true, true)
	r, err := Restore(t.Context(), file, path, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = finishNow(t, r)
	refused(t, "a restore", err, "move it away, with "+path+"-wal if there is one, and restore without --replace")
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it left %v", left)
	}
	if n := count(t, openAt(t, path), "used_once"); n != 1 {
		t.Errorf("%d rows", n)
	}
	if r, err = Restore(t.Context(), file, filepath.Join(dir, "new.db"), false); err != nil {
		t.Fatal(err)
	}
	if _, err := finishNow(t, r); err != nil {
		t.Error(err)
	}
}

// backedUp makes a database at path, and a backup of it as it is at first.
func backedUp(t *testing.T, path, file string) *Store {
	t.Helper()
	s := openAt(t, path)
	if _, err := s.Backup(t.Context(), file, Archive{Made: time.Now()}, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// finishNow ends a restore in an epoch of this moment.
func finishNow(t *testing.T, r *Restoration) (aside string, err error) {
	now := time.Now()
	return r.Finish(t.Context(), now.Unix(), false, oauth.Event{ID: "ev_", At: now, Kind: oauth.EventRestored}, nil)
}

// Until it is finished a restore has touched nothing, keeps everybody away, and what
// it has made is no database to work on.
func TestRestore_IsWholeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "g.db"), filepath.Join(dir, "backup")
	s := backedUp(t, path, file)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), file, path, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil {
		t.Error("the database could be opened while it was being replaced")
	}
	if _, err := Restore(t.Context(), file, path, true); !errors.Is(err, ErrInUse) {
		t.Errorf("a second restore: %v", err)
	}
	half, err := r.Store.Schema(t.Context())
	if err != nil || !half.Unready {
		t.Errorf("half restored: %+v, %v", half, err)
	}
	if err := r.Abandon(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(before) != string(after) {
		t.Errorf("the database was touched: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("an abandoned restore left %v", left)
	}
	// A clock that is behind would make an epoch that was there already.
	if r, err = Restore(t.Context(), file, path, true); err != nil {
		t.Fatal(err)
	}
	defer r.Abandon()
	if _, err := r.Begin(r.Made.Add(-time.Second)); err == nil {
		t.Error("a clock that is behind was taken")
	}
	// One that was ahead once is no reason to refuse now that it is right. Two restores of
	// one backup still differ.
	ahead := r.Made.Add(20 * 365 * 24 * time.Hour).Unix()
	r.Target.Epoch = ahead
	first, err := r.Begin(r.Made.Add(time.Minute))
	if err != nil || first <= ahead {
		t.Errorf("after the epoch %d comes %d, %v", ahead, first, err)
	}
	if second, err := r.Begin(r.Made.Add(time.Minute + time.Second)); err != nil || second <= ahead || second == first {
		t.Errorf("a second later: %d after %d, %v", second, first, err)
	}
	r.Target.Epoch = 1<<oauth.EpochBits - 2
	for _, now := range []time.Time{time.Now(), time.Unix(1<<oauth.EpochBits-1, 0)} {
		if epoch, err := r.Begin(now); err == nil {
			t.Errorf("an epoch that no list can name: %d", epoch)
		}
	}
	r.Target.Epoch = ahead
	began := time.Now()
	if _, err := r.Finish(t.Context(), first, false, oauth.Event{ID: "ev_ahead", At: began, Kind: oauth.EventRestored}, nil); err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("a restore into an epoch that lies in the future: %v after %v", err, time.Since(began))
	}
}

// A node that died while it held the lock of the migration keeps the others away
// only until its lease has run out.
func TestMigrate_AfterADeadNode(t *testing.T) {
	dsn := storagetest.Postgres(t)
	conn := direct(t, dsn)
	run(t, conn, `CREATE TABLE goose_lock (lock_id bigint NOT NULL PRIMARY KEY, locked boolean NOT NULL DEFAULT false, locked_at timestamptz NULL,
		locked_by text NULL, lease_expires_at timestamptz NULL, updated_at timestamptz NULL)`)
	began := time.Now()
	run(t, conn, `INSERT INTO goose_lock (lock_id, locked, locked_at, locked_by, lease_expires_at, updated_at)
		VALUES (4097083626, TRUE, now(), 'dead', now() + interval '2 seconds', now())`)
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("migrated after %v, the lease had 2 s to go", took)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// Two restores of one backup that know nothing of each other are of two epochs,
// however fast they come.
func TestRestore_EpochsDiffer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	if _, err := openAt(t, filepath.Join(dir, "g.db")).Backup(t.Context(), file, Archive{Made: time.Now()}, nil); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for n := range 3 {
		r, err := Restore(t.Context(), file, filepath.Join(dir, fmt.Sprint(n)), false)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		epoch, err := r.Begin(now)
		if err != nil {
			t.Fatal(err)
		}
		if seen[epoch] {
			t.Errorf("the epoch %d twice", epoch)
		}
		seen[epoch] = true
		if _, err := r.Finish(t.Context(), epoch, false, oauth.Event{ID: fmt.Sprint("ev_", n), At: now, Kind: oauth.EventRestored}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// A log that is left of a database that is gone is not taken for that of the one which
// is restored in its place.
func TestRestore_BesideALogOfWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "g.db"), filepath.Join(dir, "backup")
	s := backedUp(t, path, file)
	for n := range 100 {
		if err := s.engine.write(t.Context(), put(n)); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.ReadFile(path + "-wal")
	if err != nil || len(log) == 0 {
		t.Fatal(len(log), err)
	}
	if err := errors.Join(s.Close(), os.Remove(path), os.WriteFile(path+"-wal", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), file, path, false)
	if err != nil {
		t.Fatal(err)
	}
	aside, err := finishNow(t, r)
	if err != nil || aside != "" {
		t.Fatal(aside, err)
	}
	restored := openAt(t, path)
	if n := count(t, restored, "used_once"); n != 0 {
		t.Errorf("%d rows of a database that is gone", n)
	}
	if kept, err := filepath.Glob(path + ".replaced-*-wal"); len(kept) != 1 {
		t.Errorf("of the log there is %v, %v", kept, err)
	}
}

// A database that a restore put aside is as good as before when it is put back, also
// one that was left without its log; what is not at work is opened as it is.
func TestRestore_WhatIsPutAsideKeepsItsLog(t *testing.T) {
	dir := t.TempDir()
	path, file := filepath.Join(dir, "g.db"), filepath.Join(dir, "backup")
	s := backedUp(t, path, file)
	if err := errors.Join(s.engine.write(t.Context(), put(1)), s.Close()); err != nil {
		t.Fatal(err)
	}
	mode := func(path, set string) (mode string) {
		t.Helper()
		db, err := sql.Open("sqlite", sqliteDSN(path, ""))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow("PRAGMA journal_mode" + set).Scan(&mode); err != nil {
			t.Fatal(err)
		}
		return mode
	}
	r, err := Restore(t.Context(), file, path, true)
	if err != nil {
		t.Fatal(err)
	}
	aside, err := finishNow(t, r)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Errorf("it left %v", left)
	}
	if is := mode(aside, ""); is != "wal" {
		t.Errorf("put aside in the mode %s", is)
	}
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"", "=DELETE"} {
		mode(path, set)
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if n := count(t, s, "used_once"); n != 1 {
			t.Errorf("%d rows", n)
		}
		if is := mode(path, ""); is != "wal" {
			t.Errorf("after journal_mode%s it is opened in the mode %s", set, is)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s, err = Open(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if is := mode(file, ""); is != "delete" {
		t.Errorf("a backup that was opened is in the mode %s", is)
	}
}

// A database in which somebody else has a table of the mark's name is not taken for
// a restore that was cut off.
func TestRestore_IntoSomebodyElsesDatabase(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	if _, err := openAt(t, filepath.Join(dir, "g.db")).Backup(t.Context(), file, Archive{Made: time.Now()}, nil); err != nil {
		t.Fatal(err)
	}
	for name, theirs := range map[string][]string{
		"beside others":      {"CREATE TABLE backup (at BIGINT)", "CREATE TABLE jobs (id BIGINT)"},
		"alone, with a row":  {"CREATE TABLE backup (at BIGINT)", "INSERT INTO backup VALUES (1)"},
		"another name, only": {"CREATE TABLE jobs (id BIGINT)"},
	} {
		t.Run(name, func(t *testing.T) {
			dsn := storagetest.Postgres(t)
			conn := direct(t, dsn)
			for _, sql := range theirs {
				run(t, conn, sql)
			}
			if r, err := Restore(t.Context(), file, dsn, false); !errors.Is(err, ErrOccupied) {
				t.Errorf("error %v", err)
				if r != nil {
					r.Abandon()
				}
			}
		})
	}
}

// A live database is not emptied by a restore, whatever table of the mark's name stands in
// it; one that a restore was filling when it was cut off is filled by the next.
func TestRestore_IntoALiveDatabase(t *testing.T) {
	const note = "CREATE TABLE backup (note TEXT)"
	for name, test := range map[string]struct {
		theirs string
		claim  bool
	}{
		"another table of the name":  {note, false},
		"a claim beside another":     {note, true},
		"an empty one like the mark": {markSchema, false},
		"a restore that was cut off": {markSchema, true},
	} {
		t.Run(name, func(t *testing.T) {
			file, dsn := filepath.Join(t.TempDir(), "backup"), storagetest.Postgres(t)
			backedUp(t, filepath.Join(t.TempDir(), "g.db"), file)
			s := openAt(t, dsn)
			if err := s.engine.write(t.Context(), append(put(1), do(test.theirs))); err != nil {
				t.Fatal(err)
			}
			if test.claim {
				if err := s.engine.write(t.Context(), one(do("INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('restore', '', '', 'killed', 0)"))); err != nil {
					t.Fatal(err)
				}
			}
			left, cut := 1, test.theirs == markSchema && test.claim
			r, err := Restore(t.Context(), file, dsn, false)
			switch {
			case err == nil && cut:
				if _, err := finishNow(t, r); err != nil {
					t.Error(err)
				}
				left = 0
			case err == nil:
				t.Errorf("it was taken for a restore that was cut off; %v", r.Abandon())
			case cut, !errors.Is(err, ErrOccupied):
				t.Errorf("error %v", err)
			}
			if n := count(t, s, "used_once"); n != left {
				t.Errorf("%d rows are left, want %d", n, left)
			}
			if schema, err := s.Schema(t.Context()); err != nil || schema.Clash != (test.theirs == note) || schema.Foreign {
				t.Errorf("%+v, %v", schema, err)
			}
		})
	}
	t.Run("that began to work since the restore looked", func(t *testing.T) {
		s, from := openAt(t, storagetest.Postgres(t)), openAt(t, filepath.Join(t.TempDir(), "g.db"))
		if err := s.engine.write(t.Context(), append(put(1), do(markSchema))); err != nil {
			t.Fatal(err)
		}
		if _, err := copyTables(t.Context(), from, s, &claim{holder: "me", cut: true}, nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("error %v", err)
		}
		if n := count(t, s, "used_once"); n != 1 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// A table of the mark's name that somebody else made is told from the mark on either engine.
func TestSchema_TheNameOfTheMark(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			is := func(theirs string, unready, clash bool) {
				t.Helper()
				if err := s.engine.write(t.Context(), one(do(theirs))); err != nil {
					t.Fatal(err)
				}
				schema, err := s.Schema(t.Context())
				if err != nil || schema.Unready != unready || schema.Clash != clash || schema.Foreign {
					t.Errorf("after %s: %+v, %v", theirs, schema, err)
				}
			}
			is("CREATE TABLE backup (made BIGINT PRIMARY KEY, issuer TEXT NOT NULL, audience TEXT NOT NULL, ring TEXT)", false, true)
			is("DROP TABLE backup", false, false)
			is(markSchema, true, false)
		})
	}
}

// In the place of a file that has moved to PostgreSQL a restore would make a second
// installation, in which lives what was revoked in the first (docs/operating.md, Backup and
// restore).
func TestRestore_OverAFileThatHasMoved(t *testing.T) {
	path, dsn, file := filepath.Join(t.TempDir(), "g.db"), storagetest.Postgres(t), filepath.Join(t.TempDir(), "backup")
	if err := backedUp(t, path, file).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Move(t.Context(), path, dsn, nil, nil); err != nil {
		t.Fatal(err)
	}
	for _, replace := range []bool{true, false} {
		r, err := Restore(t.Context(), file, path, replace)
		if err == nil {
			r.Abandon()
		}
		refused(t, fmt.Sprintf("with replace %v", replace), err, "has moved to PostgreSQL, and only "+placeOf(t, dsn)+" knows what was revoked since: restore into a new database there, or move this file away first")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("it left %v", left)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), file, path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Abandon(); err != nil {
		t.Error(err)
	}
}

// taking is a restore into the database at dsn that has not begun to fill it, of a
// backup with so many rows.
func taking(t *testing.T, dsn string, rows int) (finish func(progress func(Progress)) error) {
	t.Helper()
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "g.db"))
	for n := range rows {
		if err := s.engine.write(t.Context(), put(n)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "backup")
	if _, err := s.Backup(t.Context(), file, Archive{Made: time.Now()}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), file, dsn, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Abandon() })
	return func(progress func(Progress)) error {
		now := time.Now()
		_, err := r.Finish(t.Context(), now.Unix(), false, oauth.Event{ID: "ev_", At: now, Kind: oauth.EventRestored}, progress)
		return err
	}
}

// What came into the database after a restore found it empty stays as it is.
func TestRestore_TheDatabaseIsSetUpMeanwhile(t *testing.T) {
	stays := func(t *testing.T, s *Store) {
		t.Helper()
		if n := count(t, s, "used_once"); n != 1 {
			t.Errorf("%d rows are left", n)
		}
		if n := count(t, s, "heads"); n == 0 {
			t.Error("no feed is left")
		}
		if schema, err := s.Schema(t.Context()); err != nil || schema.Unready {
			t.Errorf("%+v, %v", schema, err)
		}
	}
	t.Run("before it is filled", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		finish := taking(t, dsn, 3)
		s := openAt(t, dsn)
		if err := s.engine.write(t.Context(), put(1)); err != nil {
			t.Fatal(err)
		}
		if err := finish(nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("error %v", err)
		}
		stays(t, s)
	})
	t.Run("by another program", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		finish := taking(t, dsn, 3)
		conn := direct(t, dsn)
		run(t, conn, "CREATE TABLE jobs (id BIGINT)")
		if err := finish(nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("error %v", err)
		}
		run(t, conn, "CREATE TABLE backup (id BIGINT)") // and no table of ours has come
		run(t, conn, "CREATE TABLE heads (id BIGINT)")
	})
	t.Run("by one who looked before the mark stood", func(t *testing.T) {
		s := openAt(t, storagetest.Postgres(t))
		if err := s.engine.write(t.Context(), append(put(1), do(markSchema))); err != nil {
			t.Fatal(err)
		}
		from := openAt(t, filepath.Join(t.TempDir(), "g.db"))
		if _, err := copyTables(t.Context(), from, s, &claim{holder: "me"}, nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("error %v", err)
		}
		stays(t, s)
		if n := count(t, s, "copy_state"); n != 0 {
			t.Errorf("%d rows in copy_state", n)
		}
	})
}

// Of two restores into one database one restores it whole, whatever the other was at,
// and the other says why it has not.
func TestRestore_TwoIntoOneDatabase(t *testing.T) {
	whole := func(t *testing.T, dsn string, rows int) {
		t.Helper()
		s := openAt(t, dsn)
		if n := count(t, s, "used_once"); n != rows {
			t.Errorf("%d rows, want %d", n, rows)
		}
		if schema, err := s.Schema(t.Context()); err != nil || schema.Unready {
			t.Errorf("%+v, %v", schema, err)
		}
		if n := count(t, s, "copy_state"); n != 0 {
			t.Errorf("%d rows in copy_state", n)
		}
	}
	for _, step := range []string{"copying", "comparing"} {
		t.Run(step, func(t *testing.T) {
			dsn := storagetest.Postgres(t)
			first, second := taking(t, dsn, 5), taking(t, dsn, 3)
			var once sync.Once
			err := first(func(p Progress) {
				if p.Step == step {
					once.Do(func() {
						if err := second(nil); err != nil {
							t.Errorf("the second: %v", err)
						}
					})
				}
			})
			if !errors.Is(err, errTaken) {
				t.Errorf("the first: %v", err)
			}
			whole(t, dsn, 3)
		})
	}
	t.Run("finished before the other takes it", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		first, second := taking(t, dsn, 3), taking(t, dsn, 5)
		if err := first(nil); err != nil {
			t.Fatal(err)
		}
		if err := second(nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("the second: %v", err)
		}
		whole(t, dsn, 3)
		// It may have looked while the mark of the other stood.
		from := openAt(t, filepath.Join(t.TempDir(), "g.db"))
		if _, err := copyTables(t.Context(), from, openAt(t, dsn), &claim{holder: "me", cut: true}, nil); !errors.Is(err, ErrOccupied) {
			t.Errorf("the second: %v", err)
		}
		whole(t, dsn, 3)
	})
	t.Run("taken before the other ends", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		s, from := openAt(t, dsn), openAt(t, filepath.Join(t.TempDir(), "g.db"))
		if err := s.engine.write(t.Context(), []statement{do(markSchema)}); err != nil {
			t.Fatal(err)
		}
		own, err := s.engine.session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer own.close()
		first, second := &claim{holder: "first"}, &claim{holder: "second", cut: true}
		for _, c := range []*claim{first, second} {
			if _, err := copyTables(t.Context(), from, s, c, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := first.end(t.Context(), own); !errors.Is(err, errTaken) {
			t.Errorf("the first: %v", err)
		}
		if err := second.end(t.Context(), own); err != nil {
			t.Errorf("the second: %v", err)
		}
		whole(t, dsn, 0)
	})
	t.Run("at once", func(t *testing.T) {
		dsn := storagetest.Postgres(t)
		rows := []int{3, 5}
		finish := []func(func(Progress)) error{taking(t, dsn, rows[0]), taking(t, dsn, rows[1])}
		errs := make([]error, 2)
		var both sync.WaitGroup
		for i := range finish {
			both.Go(func() { errs[i] = finish[i](nil) })
		}
		both.Wait()
		won := slices.Index(errs, nil)
		if won < 0 || errs[1-won] == nil || !errors.Is(errs[1-won], errTaken) && !errors.Is(errs[1-won], ErrOccupied) {
			t.Fatalf("%v", errs)
		}
		whole(t, dsn, rows[won])
	})
}

// disk is a small file system of its own, which goes when t ends.
func disk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
		if storagetest.All() {
			t.Fatal(err)
		}
		t.Skipf("LEFT OUT: mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast leaves so many bytes free on a disk.
func ballast(t *testing.T, dir string, free int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err := errors.Join(err, f.Truncate(max(0, at-free))); err != nil {
		t.Fatal(err)
	}
}

// What a restore wrote last may have had room in the log, and none in the file: then it
// has not restored, and the database that was there is as it was.
func TestRestore_ALogThatCannotBeFolded(t *testing.T) {
	const large = 2 << 20
	dir := disk(t)
	path, file := filepath.Join(dir, "g.db"), filepath.Join(t.TempDir(), "backup")
	s := backedUp(t, path, file)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), file, path, true)
	if err != nil {
		t.Fatal(err)
	}
	ballast(t, dir, large*3/2)
	now := time.Now()
	_, err = r.Finish(t.Context(), now.Unix(), false, oauth.Event{ID: "ev_", At: now, Kind: oauth.EventRestored, Payload: bytes.Repeat([]byte{' '}, large)}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "make room in "+dir+", ") {
		t.Errorf("error %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(before) != string(after) {
		t.Errorf("the database was touched: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 { // it and the ballast
		t.Errorf("it left %v", left)
	}
	// Nor is one put aside whose log cannot be folded in any more, though it could be read.
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if r, err = Restore(t.Context(), file, path, true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("no database any more"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if aside, err := finishNow(t, r); err == nil || aside != "" {
		t.Errorf("it was put aside as %q, %v", aside, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("it left %v", left)
	}
}

// A restore into PostgreSQL makes its copy beside the backup, or in the temporary
// folder where that cannot be written; says which has no room; and removes what one
// that was killed has left.
func TestRestore_WhereItsCopyIs(t *testing.T) {
	noRoom := func(t *testing.T, dir string, err error) {
		t.Helper()
		if err == nil || !strings.HasPrefix(err.Error(), "make room in "+dir+", where a copy of the backup is made, or take the backup to a disk that has some: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("a full disk: %v", err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 2 { // backup and ballast
			t.Errorf("it left %v", left)
		}
	}
	restore := func(t *testing.T, file string) (*Restoration, error) {
		t.Helper()
		return Restore(t.Context(), file, storagetest.Postgres(t), false)
	}
	for name, test := range map[string]func(t *testing.T, dir, file string){
		"beside the backup": func(t *testing.T, dir, file string) {
			r, err := restore(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Dir(r.part) != dir {
				t.Errorf("the copy is %s", r.part)
			}
			if _, err := restore(t, file); !errors.Is(err, ErrRestoring) {
				t.Errorf("a second restore of it: %v", err)
			}
			if err := r.Abandon(); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("it left %v", left)
			}
		},
		"a folder that cannot be written": func(t *testing.T, dir, file string) {
			if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			r, err := restore(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Dir(r.part) != tmp {
				t.Errorf("the copy is %s", r.part)
			}
			if err := r.Abandon(); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(tmp); len(left) != 0 {
				t.Errorf("it left %v", left)
			}
		},
		"what a killed one left": func(t *testing.T, dir, file string) {
			killed, err := restore(t, file)
			if err != nil {
				t.Fatal(err)
			}
			// As a process ends: what it held is let go of, and nothing is removed.
			if err := errors.Join(killed.Store.Close(), killed.lock.Close(), killed.into.Close()); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(killed.part+"-wal", []byte("not the log of the next one"), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := restore(t, file)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Abandon(); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("%v are left", left)
			}
		},
		"no room from the start": func(t *testing.T, dir, file string) {
			ballast(t, dir, 0)
			_, err := restore(t, file)
			noRoom(t, dir, err)
		},
		"no room at the end": func(t *testing.T, dir, file string) {
			r, err := restore(t, file)
			if err != nil {
				t.Fatal(err)
			}
			ballast(t, dir, 0)
			_, err = finishNow(t, r)
			noRoom(t, dir, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := disk(t)
			file := filepath.Join(dir, "backup")
			if _, err := openAt(t, filepath.Join(t.TempDir(), "g.db")).Backup(t.Context(), file, Archive{Made: time.Now()}, nil); err != nil {
				t.Fatal(err)
			}
			test(t, dir, file)
		})
	}
}

// A full disk is said so once, with what to do, and nothing of the backup is left on it.
func TestBackup_OntoAFullDisk(t *testing.T) {
	dir := disk(t)
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	ballast(t, dir, 64<<10)
	_, err := s.Backup(t.Context(), filepath.Join(dir, "one.backup"), Archive{}, nil)
	if err == nil || !strings.HasSuffix(err.Error(), ": make room on that disk") || strings.Contains(err.Error(), "\n") {
		t.Errorf("said %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A database on a full disk has no room for what stands beside it while it is open.
func TestOpen_OnAFullDisk(t *testing.T) {
	dir := disk(t)
	path := filepath.Join(dir, "g.db")
	if err := backedUp(t, path, filepath.Join(t.TempDir(), "backup")).Close(); err != nil {
		t.Fatal(err)
	}
	ballast(t, dir, 0)
	s, err := Open(t.Context(), path)
	if err == nil {
		s.Close()
		t.Fatal("it is open")
	}
	if !strings.Contains(err.Error(), "make room on") || strings.Contains(err.Error(), "\n") {
		t.Errorf("said %v", err)
	}
}
