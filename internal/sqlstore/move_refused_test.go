package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// alter runs statements on a database, past the store.
func alter(t *testing.T, dsn string, texts ...string) {
	t.Helper()
	s, err := open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := s.engine.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, text := range texts {
		if n, err := c.exec(t.Context(), text); err != nil || n == 0 && strings.HasPrefix(text, "UPDATE") {
			t.Fatalf("%s: %d rows, %v", text, n, err)
		}
	}
}

// installation makes a file with something in every table.
func installation(t *testing.T, seed uint64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a.db")
	s := openAt(t, file)
	fill(t, s, rand.New(rand.NewPCG(seed, seed)), 90)
	return file
}

// cutMove begins a move and cuts it off in the middle.
func cutMove(t *testing.T, file, dsn string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	left := 12
	_, err := Move(ctx, file, dsn, nil, func(Progress) {
		if left--; left == 0 {
			stop()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("not cut off: %v", err)
	}
}

// refused demands one line that holds want.
func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %v; want %q", what, err, want)
	}
}

// untouched demands that a file notes no changes.
func untouched(t *testing.T, file string) {
	t.Helper()
	s, err := open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var n int
	if err := s.row(t.Context(), "SELECT (SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger' OR name = 'copy_changes') + (SELECT COUNT(*) FROM copy_state)", nil, &n); err != nil || n != 0 {
		t.Errorf("%s was touched: %d, %v", file, n, err)
	}
}

// migrated is a database with our tables and nothing in them.
func migrated(t *testing.T) (dsn string) {
	t.Helper()
	dsn = storagetest.Postgres(t)
	openAt(t, dsn)
	return dsn
}

// What cannot be moved is refused in one line, and neither side is touched.
func TestMove_Refused(t *testing.T) {
	dir := t.TempDir()
	good := installation(t, 1)
	other := func(name string, texts ...string) string {
		t.Helper()
		raw, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		alter(t, file, texts...)
		return file
	}
	if err := func() error { s, err := Open(t.Context(), good); return errors.Join(err, s.Close()) }(); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("This is a text and no database. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := storagetest.Postgres(t)
	used := storagetest.Postgres(t)
	fill(t, openAt(t, used), rand.New(rand.NewPCG(5, 5)), 1)
	foreign := storagetest.Postgres(t)
	alter(t, foreign, "CREATE TABLE theirs (id TEXT PRIMARY KEY)")
	// With the same columns, and with one more: either is a database that this program
	// would not serve.
	newer, wider := migrated(t), migrated(t)
	alter(t, newer, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, TRUE)")
	alter(t, wider, "ALTER TABLE grants ADD COLUMN mood TEXT")
	mayNot := storagetest.Postgres(t)
	alter(t, mayNot, "DROP ROLE IF EXISTS may_not", "CREATE ROLE may_not LOGIN")
	for _, tc := range []struct{ what, file, dsn, want string }{
		{"a file that is not there", filepath.Join(dir, "nowhere.db"), empty, "there is no file " + dir + "/nowhere.db"},
		{"a folder", dir, empty, "there is no file " + dir},
		{"a text", text, empty, "/text: file is not a database"},
		{"a server to copy from", empty, empty, "from a SQLite file to a postgres:// address"},
		{"a file to copy to", good, filepath.Join(dir, "x.db"), "from a SQLite file to a postgres:// address"},
		{"somebody's database", other("theirs.db", "DROP TABLE goose_db_version"), empty, "theirs.db is no grantway database"},
		{"a newer schema", other("new.db", "UPDATE goose_db_version SET version_id = 99 WHERE version_id > 0"), empty, "has schema 99 and this program knows only"},
		{"a backup", other("backup.db", markSchema), empty, "is a backup"},
		{"nobody there", good, "postgres://someone:hunter2@127.0.0.1:1/x?connect_timeout=2", "reaching the database"},
		{"a target in use", good, used, "is not empty: name an empty database"},
		{"a role that may make no tables", good, strings.Replace(mayNot, "postgres@", "may_not@", 1), "must own the database"},
		{"a target of a newer schema", good, newer, "has schema 99 and this program knows only"},
		{"a target with one more column", good, wider, "the table grants has other columns here than there"},
		{"a target of others", good, foreign, "is not empty: name an empty database"},
	} {
		_, err := Move(t.Context(), tc.file, tc.dsn, nil, nil)
		refused(t, tc.what, err, tc.want)
		if tc.file == good {
			untouched(t, good)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("the password is shown: %v", err)
		}
	}
	refused(t, "an older schema", movable("old.db", Schema{Have: 1, Want: 2}), "old.db has schema 1 and this program knows 2: let this version's grantway serve bring it up to date first")
	wrong := errors.New("the ring does not open them")
	_, err := Move(t.Context(), good, empty, func(keys []oauth.StoredKey) error {
		if len(keys) != 90 {
			t.Errorf("%d keys are shown", len(keys))
		}
		return wrong
	}, nil)
	refused(t, "the wrong ring", err, wrong.Error())
	untouched(t, good)
	for _, dsn := range []string{empty} {
		s, err := Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if none, err := s.Empty(t.Context()); err != nil || !none {
			t.Errorf("the target was touched: %v", err)
		}
	}
}

// A half copy is nobody's but its own file's; a copy that was spoilt is found, and
// can be given up; and a file that has moved is closed for good.
func TestMove_HalfAndMoved(t *testing.T) {
	batches(t, 40)
	file, another, dsn := installation(t, 1), installation(t, 2), storagetest.Postgres(t)
	cutMove(t, file, dsn)
	_, err := Open(t.Context(), dsn)
	refused(t, "serve on a half copy", err, "a half-finished copy of "+file+": finish it with grantway copy --from "+file)
	_, err = Move(t.Context(), another, dsn, nil, nil)
	refused(t, "another file", err, "holds a half-finished copy of another file, "+file)
	refused(t, "cancelling another's", CancelMove(t.Context(), another, dsn), "holds a half-finished copy of another file, "+file)
	untouched(t, another)

	alter(t, dsn, "UPDATE api_secrets SET last4 = 'spoilt' WHERE hash = (SELECT hash FROM api_secrets LIMIT 1)")
	_, err = Move(t.Context(), file, dsn, nil, nil)
	refused(t, "a spoilt copy", err, "the table api_secrets differs: 90 rows with checksum")
	if s, err := Open(t.Context(), file); err != nil {
		t.Errorf("the file does not open any more: %v", err)
	} else if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := CancelMove(t.Context(), file, dsn); err != nil {
		t.Fatal(err)
	}
	untouched(t, file)
	refused(t, "cancelling again", CancelMove(t.Context(), file, dsn), "no copy of "+file+" is under way")

	// A database that was only migrated is as good as an empty one.
	openAt(t, dsn)
	moved, err := Move(t.Context(), file, dsn, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	place := moved.Place
	_, err = Open(t.Context(), file)
	refused(t, "serve on a file that has moved", err, "this file has moved to PostgreSQL: set database to the address of "+place)
	for _, to := range []string{dsn, storagetest.Postgres(t)} {
		_, err = Move(t.Context(), file, to, nil, nil)
		refused(t, "moving again", err, "has moved to "+place+" already: start grantway serve there")
	}
	refused(t, "cancelling too late", CancelMove(t.Context(), file, dsn), "has moved to "+place+": there is nothing to cancel")

	// Killed when the file was closed and the copy not yet opened.
	alter(t, dsn, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('target', '"+idOf(t, file)+"', '"+file+"', 'dead', 0)")
	if moved, err = Move(t.Context(), file, dsn, nil, nil); err != nil || moved.Place != place {
		t.Errorf("the last step alone: %+v, %v", moved, err)
	}
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func idOf(t *testing.T, file string) (id string) {
	t.Helper()
	s, err := open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.row(t.Context(), "SELECT id FROM copy_state", nil, &id); err != nil {
		t.Fatal(err)
	}
	return id
}

// Of two runs of one move the later has it, and the copy is right. The earlier ends at
// its next transaction, wherever it stood, and says whether the file has moved.
func TestMove_TwoAtOnce(t *testing.T) {
	batches(t, 40)
	// try lets the earlier stand still before its nth step, of those at which the later
	// need not wait, and returns how many it had.
	try := func(t *testing.T, n int) (steps int) {
		file, dsn := installation(t, 1), storagetest.Postgres(t)
		earlier, at := newParty(), ""
		earlier.other = newParty()
		earlier.stopsAt = func(next string) bool {
			if earlier.holds[0].Load() || earlier.holds[1].Load() { // the later would wait
				return false
			}
			steps, at = steps+1, next
			return steps == n
		}
		ended := make(chan error, 1)
		go func() {
			err := earlier.as(t.Context(), file, dsn, func(m *move) error { _, err := m.run(t.Context(), nil); return err })
			earlier.halt()
			ended <- err
		}()
		<-earlier.halts
		if steps == n {
			if _, err := Move(t.Context(), file, dsn, nil, nil); err != nil {
				t.Errorf("the later one, at %q: %v", at, err)
			}
		}
		close(earlier.goesOn)
		if err := <-ended; steps == n {
			refused(t, fmt.Sprintf("the earlier one, before its step %d, %q", n, at), err, file+" has moved to "+placeOf(t, dsn)+" already: start grantway serve there")
		} else if err != nil {
			t.Errorf("alone: %v", err)
		}
		if !serves(t.Context(), dsn) {
			t.Errorf("the copy is not right after step %d, %q", n, at)
		}
		return steps
	}
	each := 200 // each takes seconds, and there are about 700
	if storagetest.All() {
		each = 20
	}
	const never = 0
	steps := 0
	t.Run("alone", func(t *testing.T) { steps = try(t, never) })
	if steps <= 2*each {
		t.Errorf("a copy had only %d steps to stand still before", steps)
	}
	for n := 1; n <= steps; n += each {
		t.Run(fmt.Sprint("before step ", n), func(t *testing.T) {
			t.Parallel()
			if met := try(t, n); met != n {
				t.Errorf("it had %d steps", met)
			}
		})
	}

	file, dsn := installation(t, 1), storagetest.Postgres(t)
	n := 0
	_, err := Move(t.Context(), file, dsn, nil, func(Progress) {
		if n++; n == 12 {
			cutAt(t, file, dsn, "copy: BEGIN ", 5)
		}
	})
	refused(t, "the earlier one, and the later is not done", err, "another grantway copy of this file has taken over")
}

// interfering is a session that does something before or after one of its statements.
type interfering struct {
	session
	before, after func(text string) error
}

func (i *interfering) exec(ctx context.Context, text string, args ...any) (int64, error) {
	if err := i.before(text); err != nil {
		return 0, err
	}
	n, err := i.session.exec(ctx, text, args...)
	return n, errors.Join(err, i.after(text))
}

// From the moment the file is closed a copy that fails says that only its last step is
// left, whatever it failed of, and the same words end it.
func TestMove_FailsWhenTheFileIsClosed(t *testing.T) {
	nothing := func(string) error { return nil }
	for what, interfere := range map[string]func(t *testing.T, dsn string, stop func(), closed func() bool) (file, copy *interfering){
		"the server ends the connection": func(t *testing.T, dsn string, _ func(), _ func() bool) (file, copy *interfering) {
			return nil, &interfering{before: func(text string) error {
				if strings.HasPrefix(text, "DELETE FROM copy_state WHERE role = 'target'") {
					alter(t, dsn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
				}
				return nil
			}, after: nothing}
		},
		"it is stopped": func(_ *testing.T, _ string, stop func(), closed func() bool) (file, copy *interfering) {
			return &interfering{before: nothing, after: func(text string) error {
				if text == "COMMIT" && closed() {
					stop()
				}
				return nil
			}}, nil
		},
		"the commit does not say that it was one": func(_ *testing.T, _ string, stop func(), closed func() bool) (file, copy *interfering) {
			return &interfering{before: nothing, after: func(text string) error {
				if text == "COMMIT" && closed() {
					stop()
					return context.Canceled
				}
				return nil
			}}, nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			file, dsn := installation(t, 1), storagetest.Postgres(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			m, err := openMove(ctx, file, dsn, nil)
			if err != nil {
				t.Fatal(err)
			}
			here, there := interfere(t, dsn, stop, func() bool { return m.shutting })
			if here != nil {
				here.session, m.source = m.source, here
			}
			if there != nil {
				there.session, m.target = m.target, there
			}
			_, err = m.run(ctx, nil)
			if !errors.Is(err, ErrLastStep) {
				t.Error("it does not say that the file is closed")
			}
			refused(t, what, err, ErrLastStep.Error())
			if err := m.close(); err != nil {
				t.Logf("closing: %v", err)
			}
			opens(t, "serve on the file", file, "this file has moved")
			opens(t, "serve on the copy", dsn, half)
			refused(t, "cancelling", CancelMove(t.Context(), file, dsn), "there is nothing to cancel")
			if moved, err := Move(t.Context(), file, dsn, nil, nil); err != nil || moved.Tables != nil {
				t.Errorf("%+v, %v", moved, err)
			}
			if !serves(t.Context(), dsn) {
				t.Error("it does not serve")
			}
		})
	}
}
