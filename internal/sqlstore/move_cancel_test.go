package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// party is a copy or a cancel that stands still at one of its steps, until the other
// has ended or waits for it.
type party struct {
	stopsAt func(step string) bool // asked before each statement, until it says yes
	fails   string                 // a step that never happens
	goesOn  chan struct{}          // closed when it may
	halts   chan struct{}          // closed when it stands still, waits for the other, or has ended
	other   *party
	holds   [2]atomic.Bool // the file's write lock, and the row of the copy
	stopped bool
}

func newParty() *party { return &party{goesOn: make(chan struct{}), halts: make(chan struct{})} }

func (p *party) halt() {
	if !p.stopped {
		p.stopped = true
		close(p.halts)
	}
}

// watched is a session of a party.
type watched struct {
	session
	p    *party
	side int
}

var errNever = errors.New("the connection is lost")

func (w *watched) before(text string) error {
	words := append(strings.Fields(text), "")
	step := []string{"file: ", "copy: "}[w.side] + words[0] + " " + words[1]
	if !w.p.stopped && w.p.stopsAt(step) {
		w.p.halt()
		<-w.p.goesOn
	}
	if step == w.p.fails {
		return errNever
	}
	if locks(text, w.side) && w.p.other.holds[w.side].Load() {
		w.p.halt()
	}
	return nil
}

// locks reports whether a statement waits for whoever has the file's write lock, or
// the row of the copy.
func locks(text string, side int) bool {
	if side == 0 {
		return text == "BEGIN IMMEDIATE"
	}
	return strings.HasPrefix(text, "INSERT INTO copy_state") || strings.HasPrefix(text, "UPDATE copy_state") || strings.HasPrefix(text, "DROP TABLE") || strings.HasPrefix(text, "DELETE FROM copy_state")
}

func (w *watched) exec(ctx context.Context, text string, args ...any) (int64, error) {
	if err := w.before(text); err != nil {
		return 0, err
	}
	n, err := w.session.exec(ctx, text, args...)
	if text == "COMMIT" || text == "ROLLBACK" {
		w.p.holds[w.side].Store(false)
	} else if err == nil && locks(text, w.side) && !strings.HasPrefix(text, "DELETE") {
		w.p.holds[w.side].Store(true)
	}
	return n, err
}

func (w *watched) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	if err := w.before(text); err != nil {
		return err
	}
	return w.session.query(ctx, text, args, row)
}

// as does f with a move whose sessions are this party's.
func (p *party) as(ctx context.Context, file, dsn string, f func(*move) error) (err error) {
	m, err := openMove(ctx, file, dsn, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	m.source, m.target = &watched{m.source, p, 0}, &watched{m.target, p, 1}
	return f(m)
}

// serves reports whether the installation is in a database.
func serves(ctx context.Context, dsn string) bool {
	s, err := Open(ctx, dsn)
	if err != nil {
		return false
	}
	defer s.Close()
	var n int
	return s.row(ctx, "SELECT COUNT(*) FROM grants", nil, &n) == nil && n == 90
}

// A cancel beside a copy that is just finishing, at whichever step of the one the other
// comes, also if the copy's last step fails, leaves the installation in one of the two
// databases: there, if it is refused, and else in the file.
func TestMove_CancelledWhileItFinishes(t *testing.T) {
	const lock, last, atEnd = "file: BEGIN IMMEDIATE", "copy: DELETE FROM", "its end"
	// try lets the copy get to its step, of those from where it takes the file's lock for
	// good, then the cancel to its step, then the copy go on, and then the cancel. It
	// returns how many steps the cancel had until it stood still.
	try := func(t *testing.T, copyStops string, cancelStops int, fails string) (steps int) {
		ctx := t.Context()
		file, dsn := installation(t, 1), storagetest.Postgres(t)
		mover, canceller := newParty(), newParty()
		mover.other, canceller.other = canceller, mover
		taken := 0
		mover.stopsAt = func(step string) bool {
			if step == lock {
				taken++ // the first time to note the changes
			}
			if taken == 2 {
				mover.fails = fails
			}
			return taken == 2 && step == copyStops
		}
		at := ""
		canceller.stopsAt = func(step string) bool {
			if step != at { // many of one kind are one step
				steps, at = steps+1, step
			}
			return steps == cancelStops+1
		}
		ended := make(chan error, 1)
		go func() {
			err := mover.as(ctx, file, dsn, func(m *move) error { _, err := m.run(ctx, nil); return err })
			mover.halt()
			ended <- err
		}()
		<-mover.halts
		mover.stopped, mover.halts = false, make(chan struct{})
		mover.stopsAt = func(string) bool { return false }
		if copyStops == atEnd {
			mover.halt()
		}
		cancelled := make(chan error, 1)
		go func() {
			err := canceller.as(ctx, file, dsn, func(m *move) error { return m.cancel(ctx) })
			canceller.halt()
			cancelled <- err
		}()
		<-canceller.halts
		close(mover.goesOn)
		<-mover.halts
		close(canceller.goesOn)
		err := <-cancelled
		of := <-ended
		what := fmt.Sprintf("the copy at %q, the cancel at its step %d (%s), the copy ends with %v, the cancel with %v", copyStops, cancelStops, at, of, err)
		inFile, inTarget := serves(ctx, file), serves(ctx, dsn)
		if err == nil {
			if !inFile || inTarget || of == nil {
				t.Errorf("%s: file %v, target %v", what, inFile, inTarget)
			}
			untouched(t, file)
			return steps
		}
		refused(t, what, err, file+" has moved to ")
		if of != nil { // then it is finished by the same words
			if inFile || inTarget {
				t.Errorf("%s: file %v, target %v", what, inFile, inTarget)
			}
			if _, err := Move(ctx, file, dsn, nil, nil); err != nil {
				t.Errorf("%s: it cannot be finished: %v", what, err)
			}
			inTarget = serves(ctx, dsn)
		}
		if inFile || !inTarget {
			t.Errorf("%s: file %v, target %v", what, inFile, inTarget)
		}
		return steps
	}
	const never = -1
	for _, step := range []string{lock, "copy: UPDATE copy_state", "copy: COMMIT ", "file: ALTER TABLE", "file: COMMIT ", last, atEnd} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			try(t, step, never, last)
		})
	}
	each := 4 // each step takes a second
	if storagetest.All() {
		each = 1
	}
	steps := 0
	t.Run("the cancel first", func(t *testing.T) { steps = try(t, lock, never, "") })
	if steps < 19 {
		t.Errorf("a cancel had only %d steps to stop at", steps)
	}
	for n := 2; n < steps; n += each { // first both sides are read
		t.Run(fmt.Sprint("cancel ", n), func(t *testing.T) {
			t.Parallel()
			if met := try(t, lock, n, ""); met != n+1 {
				t.Errorf("it had %d steps", met)
			}
		})
	}
}

// What somebody else made beside a copy under way, as an extension makes its views, keeps
// no copy from its end, and no cancel; and neither touches it.
func TestMove_BesideWhatIsSomebodyElses(t *testing.T) {
	batches(t, 40)
	file, dsn := installation(t, 1), storagetest.Postgres(t)
	theirs := func(what string) {
		t.Helper()
		conn := direct(t, dsn)
		for _, name := range []string{"notes", "stat_x", "copy_of_theirs"} {
			if n := text(t, conn, "SELECT COUNT(*)::text FROM "+name); n != "1" {
				t.Errorf("%s: %s has %s rows", what, name, n)
			}
		}
	}
	cutMove(t, file, dsn)
	alter(t, dsn, "CREATE TABLE notes (id TEXT)", "INSERT INTO notes VALUES ('a')", "CREATE VIEW stat_x AS SELECT 1 AS calls", "CREATE TABLE copy_of_theirs AS SELECT 1 AS id")
	if err := CancelMove(t.Context(), file, dsn); err != nil {
		t.Fatal(err)
	}
	untouched(t, file)
	theirs("cancelled")
	if left := text(t, direct(t, dsn), "SELECT COUNT(*)::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"); left != "2" {
		t.Errorf("%s tables are left", left)
	}
	_, err := Move(t.Context(), file, dsn, nil, nil)
	refused(t, "a new copy", err, "is not empty: name an empty database")

	alter(t, dsn, "DROP TABLE notes, copy_of_theirs", "DROP VIEW stat_x")
	cutMove(t, file, dsn)
	alter(t, dsn, "CREATE TABLE notes (id TEXT)", "INSERT INTO notes VALUES ('a')", "CREATE VIEW stat_x AS SELECT 1 AS calls", "CREATE TABLE copy_of_theirs AS SELECT 1 AS id")
	if _, err := Move(t.Context(), file, dsn, nil, nil); err != nil {
		t.Fatal(err)
	}
	theirs("moved")
	if !serves(t.Context(), dsn) {
		t.Error("it does not serve")
	}
}
