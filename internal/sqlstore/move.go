package sqlstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// A move carries the installation in a SQLite file to PostgreSQL while serve goes
// on with the file. Triggers in the file note the key of each row that changes.
// Every pass looks at the file as it is at one moment: in one transaction it makes
// the copy forget the rows that changed since the pass before and takes them as
// they are now, as far as the copy had come; then it goes on in the order of the
// keys. So the copy always holds what the file held at one moment, up to some key,
// and a pass may be cut off anywhere: the next one goes on from there. The last
// pass holds the file's write lock, has little left to do, and ends with the file
// closed to everybody: its tables are given other names, so nobody can read there
// what is no longer true, nor write what nobody would see.
//
// The table copy_state holds the row "source" in the file from the first moment,
// "moved" once it is closed, and "target" in the copy until that is whole: no
// program opens a database with one of the last two, but a restore reads a file that has
// moved as a backup. (What the row "restore" is for, see claim.) The two rows of one copy have one id, which is made anew for every
// database that a copy begins in: a half copy with another id has missed what the file
// noted for others, so it is never gone on with, and never the installation.
const (
	fewChanges = 500 // so many may be left for the last pass
	passesMax  = 20  // under a load that a pass cannot get ahead of
)

// Moved says what a finished move did.
type Moved struct {
	Place   string        // host, port and database that the installation is in now
	Tables  []TableSum    // equal on both sides; nil if only the last step was left to do
	Pause   time.Duration // from the file's last write until the copy was whole
	Changed int           // rows that were looked at in the pause
}

// usable refuses a file that has moved and a copy that is not whole.
func (s *Store) usable(ctx context.Context) error {
	all, err := s.engine.tables(ctx)
	if err != nil || !slices.Contains(all, "copy_state") {
		return err
	}
	return s.engine.query(ctx, "SELECT role, place FROM copy_state", nil, func(scan func(...any) error) error {
		var role, place string
		if err := scan(&role, &place); err != nil {
			return unavailable(err)
		}
		switch role {
		case "moved":
			return movedTo(place)
		case "target":
			return fmt.Errorf("this database holds a half-finished copy of %s: finish it with grantway copy --from %s, drop it with grantway copy --cancel, or, if that file is gone or has moved elsewhere, drop the database", place, place)
		}
		return nil
	})
}

func movedTo(place string) error {
	return fmt.Errorf("this file has moved to PostgreSQL: set database to the address of %s, with the same key ring", place)
}

// Move moves the installation in file to the PostgreSQL database at dsn, which must
// be empty, or hold what an earlier, unfinished Move of this file left: that is
// then finished. serve may use the file until it is closed (ErrLastStep). opens, if it is
// not nil, is shown the signing keys before anything is touched. report may be nil.
func Move(ctx context.Context, file, dsn string, opens func([]oauth.StoredKey) error, report func(Progress)) (done *Moved, err error) {
	m, err := openMove(ctx, file, dsn, report)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	return m.run(ctx, opens)
}

func (m *move) run(ctx context.Context, opens func([]oauth.StoredKey) error) (*Moved, error) {
	if _, err := m.stand(ctx); err != nil {
		return nil, err
	}
	if m.id = m.state["moved"].id; m.id != "" { // only the last step was left
		return &Moved{Place: m.place}, m.finish(ctx)
	}
	paused, err := m.carry(ctx, opens)
	if err != nil {
		return nil, m.lost(ctx, err)
	}
	if err := m.finish(ctx); err != nil {
		return nil, err
	}
	return &Moved{m.place, m.sums, time.Since(paused), m.changed}, nil
}

// carry does all but the last step, and tells when the file took its last write.
func (m *move) carry(ctx context.Context, opens func([]oauth.StoredKey) error) (paused time.Time, err error) {
	if err := m.begin(ctx, opens); err != nil {
		return paused, err
	}
	if err := m.inView(ctx, m.pass); err != nil {
		return paused, err
	}
	if err := m.inView(ctx, m.verify); err != nil {
		return paused, err
	}
	if err := analyze(ctx, m.target, m.sums); err != nil {
		return paused, err
	}
	for n := 0; n == 0 || m.changed > fewChanges && n < passesMax; n++ {
		if err := m.inView(ctx, m.pass); err != nil {
			return paused, err
		}
	}
	err = transact(ctx, m.source, "BEGIN IMMEDIATE", func() error {
		paused = time.Now()
		if err := m.pass(ctx); err != nil {
			return err
		}
		if err := m.unrestored(ctx); err != nil {
			return err
		}
		err := m.shut(ctx, paused)
		m.shutting = err == nil
		return err
	})
	return paused, err
}

// lost says what another run did, if that is why this one failed: the file's tables, and
// its notes, go away under whoever reads them. If it failed as it closed the file, this
// may be closed all the same: so it is read also if ctx has ended.
func (m *move) lost(ctx context.Context, err error) error {
	now, unread := readState(context.WithoutCancel(ctx), m.source)
	switch {
	case unread != nil:
		return err
	case m.shutting && now["moved"].id == m.id:
		return fmt.Errorf("%w (%w)", ErrLastStep, err)
	case now["moved"].id != "":
		return fmt.Errorf("another grantway copy has finished: %w", m.gone(now["moved"]))
	case m.id != "" && now["source"].id != m.id:
		return fmt.Errorf("this copy of %s was given up meanwhile, with grantway copy --cancel", m.file)
	}
	return err
}

// gone refuses a file that has moved.
func (m *move) gone(moved state) error {
	return fmt.Errorf("%s has moved to %s already: start grantway serve there", m.file, moved.place)
}

// CancelMove gives an unfinished Move up: it drops every table of the copy at dsn, and
// nobody else's, and the file notes its changes no more. dsn is "" if the copy is gone
// already.
func CancelMove(ctx context.Context, file, dsn string) (err error) {
	m, err := openMove(ctx, file, dsn, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	return m.cancel(ctx)
}

// cancel may be beside a run that is just finishing. That is fenced off at its next
// transaction on the target; if it is past its last one, it holds the file's write lock
// until the file is closed. So who has this lock once, then, and finds the file open,
// knows that nobody closes it but a run that has taken over since.
func (m *move) cancel(ctx context.Context) error {
	there, err := m.read(ctx)
	if err != nil {
		return err
	}
	if m.half.id != "" && !m.unfinished() {
		return m.abandoned()
	}
	if err := m.cancellable(); err != nil {
		return err
	}
	if source := m.state["source"]; m.half.id == "" && m.target != nil && source.place != m.place {
		return fmt.Errorf("the copy of %s under way goes to %s: name that database, or none if it is gone", m.file, source.place)
	}
	if m.unfinished() {
		m.id = m.state["source"].id
		if err := m.takeOver(ctx); err != nil {
			return err
		}
		if err := m.whileOpen(ctx, func() error { return nil }); err != nil {
			return err
		}
		err := transact(ctx, m.target, "BEGIN", func() error {
			if err := m.fence(ctx); err != nil {
				return err
			}
			for _, t := range there {
				if !isOurs(t.name) {
					continue
				}
				if _, err := m.target.exec(ctx, "DROP TABLE "+t.name); err != nil {
					return fmt.Errorf("dropping the table %s: %w", t.name, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return m.whileOpen(ctx, func() error { return forgetMove(ctx, m.source) })
}

// cancellable refuses what is not under way.
func (m *move) cancellable() error {
	switch moved := m.state["moved"]; {
	case moved.id != "":
		return fmt.Errorf("%s has moved to %s: there is nothing to cancel", m.file, moved.place)
	case m.state["source"].id == "":
		return fmt.Errorf("no copy of %s is under way: there is nothing to cancel", m.file)
	}
	return nil
}

// whileOpen does f under the file's write lock, unless the file is closed.
func (m *move) whileOpen(ctx context.Context, f func() error) error {
	return transact(ctx, m.source, "BEGIN IMMEDIATE", func() (err error) {
		if m.state, err = readState(ctx, m.source); err == nil {
			err = m.cancellable()
		}
		if err != nil {
			return err
		}
		return f()
	})
}

// forgetMove makes a file note its changes no more, within a transaction.
func forgetMove(ctx context.Context, file session) error {
	forget := []string{"DROP TABLE IF EXISTS copy_changes", "DELETE FROM copy_state"}
	err := file.query(ctx, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'copy\\_%' ESCAPE '\\'", nil, func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		forget = append(forget, "DROP TRIGGER "+name)
		return err
	})
	if err != nil {
		return err
	}
	for _, text := range forget {
		if _, err := file.exec(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

type move struct {
	file, place    string // as people are told of them
	from, to       *Store
	source, target session
	tables         []table
	state          map[string]state // rows of the file's copy_state by role, as last read
	half           state            // the target's mark, as last read
	id             string           // of this copy, whoever runs it
	holder         string           // of this run of it
	applied        int64            // changes that the copy has
	sums           []TableSum       // by table, once they were compared
	changed        int              // how many changes the last pass looked at
	shutting       bool             // but for the commit, the file is closed
	report         func(Progress)
}

type state struct {
	id, place string
	applied   int64
}

func openMove(ctx context.Context, file, dsn string, report func(Progress)) (m *move, err error) {
	if IsPostgres(file) || dsn != "" && !IsPostgres(dsn) {
		return nil, errors.New("a copy goes from a SQLite file to a postgres:// address")
	}
	if file, err = filepath.Abs(file); err != nil {
		return nil, err
	}
	if info, err := os.Stat(file); err != nil || info.IsDir() {
		return nil, fmt.Errorf("there is no file %s to copy", file)
	}
	m = &move{file: file, holder: rand.Text(), report: report}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.from, err = open(ctx, file); err != nil {
		return m, err
	}
	if m.source, err = m.from.engine.session(ctx); err != nil {
		return m, err
	}
	schema, err := m.from.Schema(ctx)
	if err == nil {
		err = movable(file, schema)
	}
	if err != nil {
		return m, err
	}
	if dsn == "" {
		return m, nil
	}
	if m.to, err = open(ctx, dsn); err != nil {
		return m, err
	}
	m.place = m.to.engine.(*postgres).place()
	m.target, err = m.to.engine.session(ctx)
	return m, err
}

func (m *move) close() (err error) {
	for _, s := range []session{m.source, m.target} {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	for _, s := range []*Store{m.from, m.to} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// movable refuses a file that is no installation of this program's schema.
func movable(file string, s Schema) error {
	switch {
	case s.Unready:
		return fmt.Errorf("%s is a backup, or a restore that was cut off: grantway restore makes a database of a backup", file)
	case s.Have == 0:
		return fmt.Errorf("%s is no grantway database", file)
	case s.Have < s.Want:
		return fmt.Errorf("%s has schema %d and this program knows %d: let this version's grantway serve bring it up to date first", file, s.Have, s.Want)
	case s.Have > s.Want:
		return fmt.Errorf("%s has schema %d and this program knows only %d: use the grantway that serves it", file, s.Have, s.Want)
	}
	return nil
}

func hasTable(all []table, name string) bool {
	for _, t := range all {
		if t.name == name {
			return true
		}
	}
	return false
}

// begin makes the file note its changes, and takes the copy over from whoever worked
// on it.
func (m *move) begin(ctx context.Context, opens func([]oauth.StoredKey) error) error {
	if opens != nil {
		keys, err := m.from.SigningKeys(ctx)
		if err := errors.Join(err, opens(keys)); err != nil {
			return err
		}
	}
	// The file is touched last: a target that takes no tables, or has others, leaves
	// it as it is.
	schema, err := m.to.Schema(ctx)
	switch {
	case err != nil:
		return err
	case schema.Have > schema.Want:
		return fmt.Errorf("%s has schema %d and this program knows only %d: name an empty database", m.place, schema.Have, schema.Want)
	case schema.Have < schema.Want: // else there is no need to wait for a lock that a killed run left
		if err := m.to.Migrate(ctx); err != nil {
			return err
		}
	}
	if m.tables, err = sameTables(ctx, m.source, m.target); err != nil {
		return err
	}
	if err := m.noteChanges(ctx); err != nil {
		return err
	}
	return m.takeOver(ctx)
}

// stand finds out where the move stands, and refuses what is none, or another's.
func (m *move) stand(ctx context.Context) (unfinished bool, err error) {
	there, err := m.read(ctx)
	moved := m.state["moved"]
	if err == nil && moved.id == "" {
		err = m.unrestored(ctx)
	}
	if err != nil || m.unfinished() {
		return err == nil, err
	}
	fresh := moved.id == ""
	if fresh && len(there) > 0 {
		if fresh, err = m.fresh(ctx, there); err != nil {
			return false, err
		}
	}
	switch {
	case !fresh && m.half.id != "":
		return false, m.abandoned()
	case moved.id != "":
		return false, m.gone(moved)
	case !fresh:
		return false, m.occupied()
	}
	// The address does not tell that this is the target noted, but that it may be: one that
	// is empty again is begun in anew.
	if source := m.state["source"]; source.id != "" && source.place != m.place {
		return false, fmt.Errorf("a copy of %s to %s is under way: finish it, or give it up with grantway copy --cancel", m.file, source.place)
	}
	return false, nil
}

// read reads what both sides say of a copy.
func (m *move) read(ctx context.Context) (there []table, err error) {
	m.half = state{}
	if m.state, err = readState(ctx, m.source); err != nil || m.target == nil {
		return nil, err
	}
	if there, err = m.target.tables(ctx); err != nil || !hasTable(there, "copy_state") {
		return there, err
	}
	theirs, err := readState(ctx, m.target)
	m.half = theirs["target"]
	return there, err
}

// unfinished reports whether the target is what the file's notes are for, or what the
// file was closed for.
func (m *move) unfinished() bool {
	return m.half.id != "" && m.half.id == cmp.Or(m.state["source"].id, m.state["moved"].id)
}

// abandoned refuses a half copy that nothing is noted for.
func (m *move) abandoned() error {
	if m.half.place != m.file {
		return fmt.Errorf("%s holds a half-finished copy of another file, %s: finish that one, or drop the database", m.place, m.half.place)
	}
	why := fmt.Sprintf("no copy of %s is under way", m.file)
	if source, moved := m.state["source"], m.state["moved"]; moved.id != "" {
		why = fmt.Sprintf("%s has moved to %s", m.file, moved.place)
	} else if source.id != "" {
		why = fmt.Sprintf("a copy of %s to %s is under way", m.file, source.place)
	}
	return fmt.Errorf("%s, and %s is an abandoned half copy of it: drop that database", why, m.place)
}

func readState(ctx context.Context, s session) (map[string]state, error) {
	all := map[string]state{}
	err := s.query(ctx, "SELECT role, id, place, applied FROM copy_state", nil, func(scan func(...any) error) error {
		var role string
		var st state
		err := scan(&role, &st.id, &st.place, &st.applied)
		all[role] = st
		return err
	})
	return all, err
}

// fresh reports whether the target has our tables as a migration leaves them:
// nothing in them but the rows that the schema itself begins with.
func (m *move) fresh(ctx context.Context, there []table) (bool, error) {
	if slices.ContainsFunc(there, func(t table) bool { return !isOurs(t.name) }) {
		return false, nil
	}
	n, err := countRows(ctx, m.target, unseeded(ours(there)))
	return n == 0, err
}

// noteChanges sets the triggers. What is there from an earlier run stays. A new target is
// marked under the file's lock, so that of two that begin at once the second sees the
// first; and before the file has its id, so that one cut off in between has no row yet,
// and is as good as an empty one.
func (m *move) noteChanges(ctx context.Context) error {
	widest := 0
	for _, t := range m.tables {
		widest = max(widest, len(t.key()))
	}
	var id string
	err := transact(ctx, m.source, "BEGIN IMMEDIATE", func() error {
		unfinished, err := m.stand(ctx)
		if err != nil {
			return err
		}
		steps := []string{"CREATE TABLE IF NOT EXISTS copy_changes (n INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL" + list(widest, ", k%d") + ")"}
		for _, t := range m.tables {
			steps = append(steps, noting(t)...)
		}
		for _, text := range steps {
			if _, err := m.source.exec(ctx, text); err != nil {
				return err
			}
		}
		if id = m.state["source"].id; unfinished {
			return nil
		}
		id = rand.Text()
		_, err = m.source.exec(ctx, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('source', $1, $2, '', 0) ON CONFLICT (role) DO UPDATE SET id = excluded.id, place = excluded.place", id, m.place)
		if err != nil {
			return err
		}
		return m.mark(ctx, id)
	})
	if err == nil {
		m.id = id
	}
	return err
}

// mark makes an empty target the copy with this id. The row of a restore comes first, and
// goes at the end: a restore that begins here at the same moment waits for it, and then
// finds the copy (see claim.take); one that has begun is found by its row, or its mark.
// Then comes the copy's own: whoever began here from another file has lost the target with
// it, and adds no more rows to those that go. Rows that no copy has put there stay.
func (m *move) mark(ctx context.Context, id string) error {
	return transact(ctx, m.target, "BEGIN", func() error {
		free, err := m.target.exec(ctx, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('restore', '', '', $1, 0) ON CONFLICT (role) DO NOTHING", m.holder)
		if err == nil && free == 0 {
			err = m.restoring()
		}
		if err == nil {
			err = m.unrestored(ctx)
		}
		if err != nil {
			return err
		}
		there, err := readState(ctx, m.target)
		if err != nil {
			return err
		}
		if _, half := there["target"]; !half {
			rows, err := countRows(ctx, m.target, unseeded(m.tables))
			if err == nil && rows > 0 {
				err = m.occupied()
			}
			if err != nil {
				return err
			}
		}
		_, err = m.target.exec(ctx, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('target', $1, $2, $3, 0) ON CONFLICT (role) DO UPDATE SET id = excluded.id, place = excluded.place, holder = excluded.holder, applied = 0", id, m.file, m.holder)
		if err != nil {
			return err
		}
		for _, t := range m.tables {
			if _, err := m.target.exec(ctx, "DELETE FROM "+t.name); err != nil {
				return err
			}
		}
		_, err = m.target.exec(ctx, "DELETE FROM copy_state WHERE role = 'restore'")
		return err
	})
}

// unrestored refuses a target with the mark of a restore, from before its first table
// until it is whole; and one with a table of the mark's name, for nobody would open it.
func (m *move) unrestored(ctx context.Context) error {
	schema, err := m.to.Schema(ctx)
	switch {
	case err == nil && schema.Unready:
		err = m.restoring()
	case err == nil && schema.Clash:
		err = fmt.Errorf("%s has a table named %s that grantway did not make, and grantway needs the name: drop that table, or rename it", m.place, markTable)
	}
	return err
}

var errRestoring = errors.New("was cut off, or is at work: finish it, or name an empty database")

func (m *move) restoring() error { return fmt.Errorf("a restore into %s %w", m.place, errRestoring) }

func (m *move) occupied() error {
	return fmt.Errorf("%s is not empty: name an empty database", m.place)
}

// list writes a pattern n times, for 1 to n.
func list(n int, pattern string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, pattern, i+1)
	}
	return b.String()
}

// noting makes the triggers of a table. An update that moves a row to another key
// notes both keys; UNION makes one of two equal ones.
func noting(t table) []string {
	key := columnNames(t.key())
	keyOf := func(row string) string { return "SELECT '" + t.name + "', " + row + strings.Join(key, ", "+row) }
	into := "INSERT INTO copy_changes (name" + list(len(key), ", k%d") + ") "
	var all []string
	for event, keys := range map[string]string{"INSERT": keyOf("NEW."), "DELETE": keyOf("OLD."), "UPDATE": keyOf("OLD.") + " UNION " + keyOf("NEW.")} {
		all = append(all, fmt.Sprintf("CREATE TRIGGER IF NOT EXISTS copy_%s_%s AFTER %s ON %s BEGIN %s; END", t.name, strings.ToLower(event), event, t.name, into+keys))
	}
	return all
}

// takeOver notes in the copy that this run works on it. Another run that is still at it
// finds out at its next transaction.
func (m *move) takeOver(ctx context.Context) error {
	err := transact(ctx, m.target, "BEGIN", func() error {
		_, err := m.target.exec(ctx, "UPDATE copy_state SET holder = $1 WHERE role = 'target' AND id = $2", m.holder, m.id)
		return err
	})
	if err != nil {
		return err
	}
	// Read after the other run was shut out, for it may have gone on since.
	state, err := readState(ctx, m.target)
	m.applied = state["target"].applied
	return err
}

// fence notes in the copy how far it has come, and fails if another run has it.
func (m *move) fence(ctx context.Context) error {
	n, err := m.target.exec(ctx, "UPDATE copy_state SET applied = $1 WHERE role = 'target' AND id = $2 AND holder = $3", m.applied, m.id, m.holder)
	if err == nil && n != 1 {
		err = errors.New("another grantway copy of this file has taken over")
	}
	return err
}
