package sqlstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/grantway/grantway/internal/oauth"
)

// Restoration is a backup on its way into the place of a SQLite database, or into
// an empty PostgreSQL database. Until [Restoration.Finish] the place is as it was,
// and a file that is there is locked.
type Restoration struct {
	Archive
	Store *Store // the copy, at this program's schema and with the mark in it

	Target *Target // what is there now; nil: nothing

	part string // the copy
	path string // its place, or
	into *Store // the empty database
	lock *os.File
}

// Target is a database that a restore replaces.
type Target struct {
	Epoch, Seq int64
	Kids       []string // of its signing keys, which no other installation has
	Outside    string   // id of the newest event that a replay acts on and the feed does not number
	Unreadable error    // why nothing of this is known
}

// The errors of a restore that cannot begin.
var (
	ErrNewerSchema = errors.New("it was made by a newer grantway")
	ErrCorrupt     = errors.New("it is corrupt")
	ErrOccupied    = errors.New("there is a database already")
	ErrRestoring   = errors.New("it is being restored already")
)

// Restore begins to put the archive in file in the place that dsn names; file may also be
// one that has moved, and stays as it is. A file
// that is there is refused with ErrOccupied unless replace, and with ErrInUse if
// somebody has it open; a PostgreSQL database is ErrOccupied unless it is empty, or
// holds a restore that was cut off. Nothing there changes before Finish. The caller
// ends with Finish or Abandon.
func Restore(ctx context.Context, file, dsn string, replace bool) (r *Restoration, err error) {
	r = &Restoration{}
	defer func() {
		if err != nil {
			err = errors.Join(r.roomless(err), r.Abandon())
			r = nil
		}
	}()
	if IsPostgres(dsn) {
		err = r.takeDatabase(ctx, dsn, file)
	} else {
		err = r.takeFile(ctx, dsn, replace)
	}
	if err != nil {
		return r, err
	}
	read, err := ReadArchive(ctx, file)
	switch {
	case err != nil:
	case read.Moved != "":
		err = copyMoved(ctx, file, r.part, read)
	default:
		err = copyFile(ctx, file, r.part)
	}
	if err != nil {
		return r, err
	}
	if r.Archive, err = verify(ctx, r.part); err != nil {
		return r, err
	}
	r.Archive.Moved = read.Moved
	e, err := openSQLite(r.part, unsynced)
	if err != nil {
		return r, err
	}
	r.Store = &Store{engine: e}
	if err := r.Store.Migrate(ctx); err != nil {
		return r, err
	}
	// A copy to PostgreSQL that was under way is of what came after the backup, too.
	own, err := e.session(ctx)
	if err != nil {
		return r, err
	}
	err = transact(ctx, own, "BEGIN IMMEDIATE", func() error { return forgetMove(ctx, own) })
	return r, errors.Join(err, own.close())
}

func (r *Restoration) takeFile(ctx context.Context, path string, replace bool) (err error) {
	if r.path, err = resolve(path); err != nil {
		return err
	}
	if r.lock, err = takeLock(r.path, syscall.LOCK_EX); err != nil {
		return err
	}
	if err := sole(r.path); err != nil {
		return err
	}
	if r.Target, err = inspect(ctx, r.path); err != nil {
		return err
	}
	if r.Target != nil && !replace {
		return ErrOccupied
	}
	r.part, err = partBeside(r.path)
	return err
}

func (r *Restoration) takeDatabase(ctx context.Context, dsn, backup string) (err error) {
	if r.into, err = open(ctx, dsn); err != nil {
		return err
	}
	if _, err := vacant(ctx, r.into); err != nil {
		return err
	}
	return r.takePart(backup)
}

// vacant refuses a database that a restore may not fill. cut: it holds a restore that
// was cut off. The mark alone does not say so, for that empties the tables: either the
// restore had begun to fill them, and claimed them, or there is nothing in them.
func vacant(ctx context.Context, s *Store) (cut bool, err error) {
	schema, err := s.Schema(ctx)
	switch {
	case err != nil:
		return false, err
	case schema.Foreign, schema.Clash, schema.Have > 0 && !schema.Unready:
		return false, ErrOccupied
	case !schema.Unready:
		return false, nil
	}
	own, err := s.engine.session(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	there, err := own.tables(ctx)
	if err != nil {
		return false, err
	}
	claimed := map[string]state{}
	if hasTable(there, "copy_state") {
		if claimed, err = readState(ctx, own); err != nil {
			return false, err
		}
	}
	full := []table{{name: markTable}} // a backup's has a row
	if _, ok := claimed["restore"]; !ok {
		full = append(full, unseeded(ours(there))...)
	}
	rows, err := countRows(ctx, own, full)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusal.Code == "42P01" {
		return false, ErrOccupied // whole since we looked
	}
	if err == nil && rows > 0 {
		err = ErrOccupied
	}
	return err == nil, err
}

// takePart makes the copy of a restore into PostgreSQL: beside the backup, whose disk
// is one for things of that size, or else in the temporary folder. Its lock says
// whether a copy that is beside the backup already is at work, or was left by a
// restore that was killed, and goes: all hashes and sealed keys are in it.
func (r *Restoration) takePart(backup string) error {
	abs, err := resolve(backup)
	if err != nil {
		return err
	}
	part := abs + ".restoring"
	r.lock, err = takeLock(part, syscall.LOCK_EX)
	if errors.Is(err, ErrInUse) {
		return ErrRestoring
	}
	if err == nil {
		err = removeDatabase(part)
	}
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			r.part = part
			return f.Close()
		}
	}
	r.part, err = partBeside(filepath.Join(os.TempDir(), "grantway-restore")) // it cannot be written there, or not be locked
	return err
}

// roomless names the folder in which a copy found no room.
func (r *Restoration) roomless(err error) error {
	if err == nil || r.part == "" {
		return err
	}
	dir := filepath.Dir(r.part)
	full := sqliteCode(err) == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC)
	if sqliteCode(err) == sqlite3.SQLITE_IOERR { // also what SQLite says if the index of its log cannot grow
		var disk syscall.Statfs_t
		full = syscall.Statfs(dir, &disk) == nil && disk.Bavail == 0
	}
	if full {
		return fmt.Errorf("make room in %s, where a copy of the backup is made, or take the backup to a disk that has some: %w", dir, err)
	}
	return err
}

// ReadArchive reads what a backup, or a file that has moved, says about itself. It does not read the whole:
// [Restore] does.
func ReadArchive(ctx context.Context, file string) (a Archive, err error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return a, err
	}
	f, err := openFile(abs)
	if err != nil {
		return a, err
	}
	f.Close()
	db, err := sql.Open("sqlite", sqliteDSN(abs, "&mode=ro"))
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	a, err = readArchive(ctx, db)
	if errors.Is(err, ErrNoArchive) {
		a, err = readMoved(ctx, db)
	}
	return a, judge(a, err)
}

// judge says what is wrong with an archive in terms of what to do about it.
func judge(a Archive, err error) error {
	switch {
	case err == nil && a.Version > newestMigration():
		return ErrNewerSchema
	case err == nil, errors.Is(err, ErrNoArchive), errors.Is(err, context.Canceled):
		return err
	}
	switch sqliteCode(err) {
	case sqlite3.SQLITE_NOTADB:
		return ErrNoArchive
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN: // it was not read
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// verify reads the whole copy.
func verify(ctx context.Context, file string) (a Archive, err error) {
	if err := integrity(ctx, file); err != nil {
		return a, err
	}
	return ReadArchive(ctx, file)
}

// integrity reads a whole file, which others may have open.
func integrity(ctx context.Context, file string) (err error) {
	db, err := sql.Open("sqlite", sqliteDSN(file, ""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&verdict); err != nil {
		return judge(Archive{}, err)
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, strings.ReplaceAll(verdict, "\n", " "))
	}
	return nil
}

// inspect reads what a restore would replace, or nil if there is nothing. One that
// cannot be read is what a restore is for: it is only named. One that has moved is
// refused: beside the database that it moved to there would be a second installation.
func inspect(ctx context.Context, path string) (*Target, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && info.Mode().IsRegular() && info.Size() == 0:
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", path)
	}
	t := &Target{}
	e, err := openSQLite(path)
	if err != nil {
		t.Unreadable = err
		return t, nil
	}
	s := &Store{engine: e}
	defer s.Close()
	var moved string // without the table it has not
	if s.row(ctx, "SELECT COALESCE(MAX(place), '') FROM copy_state WHERE role = 'moved'", nil, &moved) == nil && moved != "" {
		return nil, fmt.Errorf("the file %s has moved to PostgreSQL, and only %s knows what was revoked since: restore into a new database there, or move this file away first", path, moved)
	}
	if t.Seq, t.Epoch, err = s.Head(ctx); err == nil {
		t.Kids, err = texts(ctx, e, "SELECT kid FROM signing_keys")
		// The last of these has a place in the feed where it ended a whole family.
		err = errors.Join(err, s.row(ctx, `SELECT COALESCE(MAX(id), '') FROM events WHERE kind IN ($1, $2) OR kind = $3 AND seq IS NULL AND payload LIKE '%"chain":%'`,
			[]any{string(oauth.EventTokenRefreshed), string(oauth.EventPasswordSet), string(oauth.EventCodeReplayed)}, &t.Outside))
	}
	t.Unreadable = err
	return t, nil
}

// openFile opens a file to read. A folder can be opened too, and only then not be read.
func openFile(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, &os.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	return f, nil
}

func copyFile(ctx context.Context, from, to string) (err error) {
	src, err := openFile(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	stop := context.AfterFunc(ctx, func() { src.Close() })
	defer stop()
	_, err = io.Copy(dst, src)
	return errors.Join(ctx.Err(), err)
}

// Abandon leaves everything as it was.
func (r *Restoration) Abandon() (err error) {
	if r.Store != nil {
		err = r.Store.Close()
	}
	if r.part != "" {
		err = errors.Join(err, removeDatabase(r.part))
	}
	if r.lock != nil {
		err = errors.Join(err, releaseLock(r.lock))
	}
	if r.into != nil {
		err = errors.Join(err, r.into.Close())
	}
	r.Store, r.part, r.lock, r.into = nil, "", nil, nil
	return err
}

// Begin is the new epoch, which no database of this installation ever had. Two
// restores of one backup must differ though neither knows of the other, so it hangs on
// the second ([NextEpoch]); [Restoration.Finish] ends in a later one.
func (r *Restoration) Begin(now time.Time) (int64, error) {
	seen := r.Archive.Epoch
	if r.Target != nil {
		seen = max(seen, r.Target.Epoch)
	}
	if now.Before(r.Made) {
		const form = time.DateTime + " UTC"
		return 0, fmt.Errorf("the backup was made at %s, and the clock of this machine says %s: set it right first; if it is right, the other was wrong, so use another backup", r.Made.UTC().Format(form), now.UTC().Format(form))
	}
	return NextEpoch(now, seen, now.Sub(r.Made))
}

// Finish begins the epoch, notes e, and puts the copy in its place. aside is where
// what was there is kept, "" if there was nothing. If endAll, every grant and every
// key ends. progress, if not nil, is told how far the copy to PostgreSQL is. It ends
// with Abandon.
func (r *Restoration) Finish(ctx context.Context, epoch int64, endAll bool, e oauth.Event, progress func(Progress)) (aside string, err error) {
	defer func() { err = errors.Join(r.roomless(err), r.Abandon()) }()
	// The next restore is in another second, and so in another epoch.
	select {
	case <-time.After(min(time.Until(time.Unix(epoch+1, 0)), time.Second)): // it may lie in the future
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err := r.Store.beginEpoch(ctx, epoch, endAll, e); err != nil {
		return "", err
	}
	if r.into != nil {
		return "", r.fill(ctx, progress)
	}
	if err := r.Store.Close(); err != nil {
		return "", err
	}
	r.Store = nil
	// From here on all of it is synced: what a replay wrote was not, event by event.
	// SQLite closes without an error though it could not fold the log.
	if err := fold(ctx, r.part); err != nil {
		return "", err
	}
	giveAway(r.part, r.path)
	if err := syncFile(r.part); err != nil {
		return "", err
	}
	if aside, err = r.putAside(ctx, e.At); err != nil {
		return "", err
	}
	if err := os.Rename(r.part, r.path); err != nil {
		return aside, err
	}
	return aside, syncFile(filepath.Dir(r.path))
}

// fill copies the rows into the empty database. The mark stands there from before
// the first table until counts and checksums agree.
func (r *Restoration) fill(ctx context.Context, progress func(Progress)) (err error) {
	own, err := r.into.engine.session(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	// A large backup was prepared for minutes: somebody may have set the database up.
	cut, err := vacant(ctx, r.into)
	if err != nil {
		return err
	}
	if !cut {
		_, err := own.exec(ctx, markSchema)
		if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && slices.Contains([]string{"42P07", "42710", "23505"}, refusal.Code) {
			return errTaken // it is there, since we looked
		}
		if err != nil {
			return err
		}
	}
	if err := r.into.Migrate(ctx); err != nil {
		return err
	}
	c := &claim{holder: rand.Text(), cut: cut}
	copied, err := copyTables(ctx, r.Store, r.into, c, progress)
	if _, other := errors.AsType[*differs](err); other {
		err = cmp.Or(c.fence(ctx, own), err) // it differs if another restore fills it
	}
	if err != nil {
		return err
	}
	if err := analyze(ctx, own, copied); err != nil {
		return err
	}
	return transact(ctx, own, "BEGIN", func() error { return c.end(ctx, own) })
}

// replacedSuffix and a time are put to the name of a database that was replaced.
const replacedSuffix = ".replaced-"

// logSuffixes are put to the name of a database whose log holds what is not in it yet.
var logSuffixes = []string{"-wal", "-journal"}

// putAside gives the database that is there a second name, and folds its log into it,
// so that the log cannot be taken for that of the file which comes into its place. If
// it is cut off, the next who opens the database removes the second name (see sole).
func (r *Restoration) putAside(ctx context.Context, now time.Time) (string, error) {
	path := r.path
	aside := path + replacedSuffix + now.UTC().Format("20060102T150405Z")
	whole := false
	if r.Target != nil {
		if err := hardLink(path, aside); unnameable(err) {
			return "", fmt.Errorf("%w: the disk of %s cannot give a file a second name, under which it is kept: move it away, with %s-wal if there is one, and restore without --replace", err, path, path)
		} else if err != nil {
			return "", err
		}
		err := fold(ctx, path)
		if err != nil && r.Target.Unreadable == nil {
			return "", errors.Join(err, os.Remove(aside))
		}
		whole = err == nil
	}
	if !whole { // the log goes aside as it is, also one whose database is gone
		for _, suffix := range logSuffixes {
			if err := os.Rename(path+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				return "", err
			}
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} { // of a log that was folded in, nothing is in it
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	if r.Target == nil {
		aside = ""
	}
	return aside, syncFile(filepath.Dir(path))
}

// fold brings all that is in the log of a database into its file, which goes on having
// a log: whoever takes it back into use finds it as it was.
func fold(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", sqliteDSN(path, ""))
	if err != nil {
		return err
	}
	var busy, log, folded int
	err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &log, &folded)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	left, err := os.Stat(path + "-wal")
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err == nil && (busy != 0 || log != folded || left != nil && left.Size() > 0) {
		err = fmt.Errorf("the log of %s cannot be folded in: another program has it open", path)
	}
	return err
}
