package sqlstore

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A database that a restore has marked, however far it came, is no place for a copy: the
// file stays in use, and the restore is finished as if nobody had tried.
func TestMove_IntoARestore(t *testing.T) {
	for what, left := range map[string][]string{
		"its mark alone":    nil,
		"with the tables":   {"migrate"},
		"as it took them":   {"migrate", "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('restore', '', '', 'dead', 0)"},
		"as it filled them": {"migrate", "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('restore', '', '', 'dead', 1)", "INSERT INTO used_once (hash, kind, op, expires) VALUES ('a', '', 'b', 1)"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			file, dsn := installation(t, 1), storagetest.Postgres(t)
			finish := taking(t, dsn, 3)
			if left != nil {
				openAt(t, dsn)
				left = left[1:]
			}
			alter(t, dsn, append([]string{markSchema}, left...)...)
			_, err := Move(t.Context(), file, dsn, nil, nil)
			refused(t, what, err, "a restore into "+placeOf(t, dsn)+" was cut off, or is at work: finish it, or name an empty database")
			untouched(t, file)
			if err := finish(nil); err != nil {
				t.Errorf("the restore: %v", err)
			}
			if n := count(t, openAt(t, dsn), "used_once"); n != 3 {
				t.Errorf("%d rows are restored", n)
			}
		})
	}
}

// A mark that comes beside a copy under way, of a restore that had looked before and was
// killed, does not let the file be closed; one that comes later yet is to be dropped.
func TestMove_AMarkComesBeside(t *testing.T) {
	marked := func(t *testing.T, when func(m *move, text string) bool) (file, dsn string, err error) {
		file, dsn = installation(t, 1), storagetest.Postgres(t)
		m, err := openMove(t.Context(), file, dsn, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := false
		m.source = &interfering{session: m.source, before: func(string) error { return nil }, after: func(text string) error {
			if !done && when(m, text) {
				done = true
				alter(t, dsn, markSchema)
			}
			return nil
		}}
		_, err = m.run(t.Context(), nil)
		return file, dsn, errors.Join(err, m.close())
	}
	file, dsn, err := marked(t, func(m *move, text string) bool { return m.sums != nil })
	refused(t, "before the file is closed", err, "a restore into "+placeOf(t, dsn)+" was cut off, or is at work: finish it, or name an empty database")
	opens(t, "the file", file, "")
	_, err = Move(t.Context(), file, dsn, nil, nil)
	refused(t, "again", err, "a restore into "+placeOf(t, dsn)+" was cut off")
	if err := CancelMove(t.Context(), file, dsn); err != nil {
		t.Error(err)
	}
	untouched(t, file)

	dsn = storagetest.Postgres(t)
	cutMove(t, file, dsn)
	alter(t, dsn, "CREATE TABLE backup (id TEXT)")
	_, err = Move(t.Context(), file, dsn, nil, nil)
	refused(t, "a table of that name", err, placeOf(t, dsn)+" has a table named backup that grantway did not make, and grantway needs the name: drop that table, or rename it")
	alter(t, dsn, "DROP TABLE backup")
	if _, err := Move(t.Context(), file, dsn, nil, nil); err != nil {
		t.Errorf("without it: %v", err)
	}

	file, dsn, err = marked(t, func(m *move, text string) bool { return m.shutting && text == "COMMIT" })
	refused(t, "after it", err, ErrLastStep.Error()+" (first drop the table backup in "+placeOf(t, dsn))
	alter(t, dsn, "DROP TABLE backup")
	if _, err := Move(t.Context(), file, dsn, nil, nil); err != nil || !serves(t.Context(), dsn) {
		t.Errorf("the last step: %v", err)
	}
}

// watchedEngine is a database whose sessions are a party's.
type watchedEngine struct {
	engine
	p *party
}

func (e *watchedEngine) session(ctx context.Context) (session, error) {
	s, err := e.engine.session(ctx)
	return &watched{s, e.p, 1}, err
}

// Of a copy and a restore into one database at once one has it, whichever step of the one
// the other comes at; the other says why it has not, and the file it was to copy is in use.
func TestMove_BesideARestore(t *testing.T) {
	const atEnd, looked = "its end", "copy: CREATE TABLE"
	stopAt := func(p *party, at string) {
		p.stopsAt = func(step string) bool { return step == at }
	}
	// try lets the restore get to its step, then the copy to its step, then the restore go
	// on, and then the copy.
	try := func(t *testing.T, restoreStops, copyStops string) {
		ctx, file, dsn := t.Context(), installation(t, 1), storagetest.Postgres(t)
		backup := filepath.Join(t.TempDir(), "backup")
		s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
		for n := range 3 {
			if err := s.engine.write(ctx, put(n)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Backup(ctx, backup, Archive{Made: time.Now()}, nil); err != nil {
			t.Fatal(err)
		}
		r, err := Restore(ctx, backup, dsn, false)
		if err != nil {
			t.Fatal(err)
		}
		restorer, mover := newParty(), newParty()
		restorer.other, mover.other = mover, restorer
		r.into.engine = &watchedEngine{r.into.engine, restorer}
		stopAt(restorer, restoreStops)
		stopAt(mover, copyStops)
		restored, moved := make(chan error, 1), make(chan error, 1)
		go func() {
			now := time.Now()
			_, err := r.Finish(ctx, now.Unix(), false, oauth.Event{ID: "ev_", At: now, Kind: oauth.EventRestored}, nil)
			restorer.halt()
			restored <- err
		}()
		<-restorer.halts
		restorer.stopped, restorer.halts = false, make(chan struct{})
		stopAt(restorer, "")
		go func() {
			err := mover.as(ctx, file, dsn, func(m *move) error { _, err := m.run(ctx, nil); return err })
			mover.halt()
			moved <- err
		}()
		<-mover.halts
		close(restorer.goesOn)
		<-restorer.halts
		close(mover.goesOn)
		ofCopy, ofRestore := <-moved, <-restored
		t.Logf("the copy ends with %v, the restore with %v", ofCopy, ofRestore)
		if (ofCopy == nil) == (ofRestore == nil) {
			t.Error("not one of them has the database")
		}
		if serves(ctx, file) == (ofCopy == nil) || serves(ctx, dsn) != (ofCopy == nil) {
			t.Errorf("the installation: in the file %v, in the database %v", serves(ctx, file), serves(ctx, dsn))
		}
		rows := map[bool]int{true: 90, false: 3}[ofCopy == nil]
		to := openAt(t, dsn)
		if n, left := count(t, to, "used_once"), count(t, to, "copy_state"); n != rows || left != 0 {
			t.Errorf("%d rows, want %d, and %d of copy_state", n, rows, left)
		}
		if schema, err := to.Schema(ctx); err != nil || schema.Unready {
			t.Errorf("%+v, %v", schema, err)
		}
		if ofCopy != nil {
			untouched(t, file)
		} else if !errors.Is(ofRestore, ErrOccupied) && !errors.Is(ofRestore, errTaken) {
			t.Errorf("the restore: %v", ofRestore)
		}
	}
	for i, step := range []string{"copy: INSERT INTO", "copy: DELETE FROM", "copy: COMMIT ", "file: BEGIN IMMEDIATE", "file: COMMIT ", "copy: UPDATE copy_state", atEnd} {
		if i < 3 || storagetest.All() { // each takes seconds
			t.Run("the copy at "+step, func(t *testing.T) {
				t.Parallel()
				try(t, looked, step)
			})
		}
	}
	for i, step := range []string{"copy: INSERT INTO", "copy: DELETE FROM", "copy: COMMIT ", "copy: UPDATE copy_state", "copy: DROP TABLE"} {
		if i < 2 || storagetest.All() {
			t.Run("the restore at "+step, func(t *testing.T) {
				t.Parallel()
				try(t, step, atEnd)
			})
		}
	}
}
