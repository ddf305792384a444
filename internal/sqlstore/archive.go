package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// An archive is a SQLite file with every table, whatever engine they came from,
// and one more: its mark, which says where it came from. A database that has the
// mark is no database to work on. A restore removes it in the transaction that
// begins the new epoch, so what is half restored is never taken for the whole.
const (
	markTable  = "backup"
	markSchema = "CREATE TABLE backup (made BIGINT PRIMARY KEY, issuer TEXT NOT NULL, audience TEXT NOT NULL, ring TEXT NOT NULL)"
)

// markColumns tell the mark from a table that somebody else gave its name.
var markColumns = []column{{name: "made", kind: "bigint", key: 1}, {name: "issuer", kind: "text"}, {name: "audience", kind: "text"}, {name: "ring", kind: "text"}}

// Archive is what a backup says about itself.
type Archive struct {
	Made     time.Time // no event of before is missing
	Issuer   string
	Audience string
	Ring     string // fingerprint of the key ring that belongs to it

	Epoch, Seq int64 // the feed's, as they were
	Version    int64 // of the schema

	// Where the installation is, if this is no backup but a file that has moved there:
	// then it names neither issuer, nor audience, nor ring.
	Moved string
}

// backupPages is how much of a file is copied between two looks at the context: 4
// MiB of pages of 4 KiB.
const backupPages = 1024

// Backup writes an archive of the database, as it is at one moment, into a new
// file, while others go on writing. about says where it comes from; Backup fills in
// the rest. The file appears when it is whole, sound and synced, or not at all; one that
// is there is never replaced (fs.ErrExist). progress, if not nil, is told how far it is.
func (s *Store) Backup(ctx context.Context, file string, about Archive, progress func(Progress)) (made Archive, err error) {
	if _, err := os.Lstat(file); err == nil {
		return made, &os.PathError{Op: "backup to", Path: file, Err: os.ErrExist}
	}
	part, err := partBeside(file)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, removeDatabase(part)) }()
	if made, err = s.writeArchive(ctx, part, about, progress); err != nil {
		return made, err
	}
	if err := syncFile(part); err != nil {
		return made, err
	}
	if err := appear(part, file); err != nil {
		return made, err
	}
	return made, syncFile(filepath.Dir(file))
}

// writeArchive makes the copy and reads it back: a damaged page is copied like any
// other, and would be found by who restores.
func (s *Store) writeArchive(ctx context.Context, part string, about Archive, progress func(Progress)) (made Archive, err error) {
	step := "writing"
	if err = s.engine.archive(ctx, part, progress); err == nil {
		made, err = markArchive(ctx, part, about)
	}
	if err == nil {
		step = "checking"
		if progress != nil {
			progress(Progress{Step: step, Of: 1})
		}
		_, err = verify(ctx, part)
	}
	code := sqliteCode(err)
	switch {
	case err == nil:
		return made, nil
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrNoArchive), code == sqlite3.SQLITE_CORRUPT, code == sqlite3.SQLITE_NOTADB:
		return made, s.unreadable(ctx, err)
	}
	return made, fmt.Errorf("%s the backup: %w%s", step, err, remedy(err))
}

// unreadable says why a copy cannot be read: what it was made of may be damaged, and
// else the disk is that it was written to.
func (s *Store) unreadable(ctx context.Context, copied error) error {
	if file, ok := s.engine.(*sqlite); ok {
		if err := integrity(ctx, file.path); errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("the database is damaged, so no backup was made: restore the last good one (%w)", err)
		} else if err != nil {
			return fmt.Errorf("checking the database: %w%s", err, remedy(err))
		}
	}
	return fmt.Errorf("the database is sound, but its copy could not be read back, so no backup was made: write it to another disk (%w)", copied)
}

// archive copies the file page by page. The view of the database is held over all
// steps: without it the copy would begin anew after every write.
func (s *sqlite) archive(ctx context.Context, to string, progress func(Progress)) (err error) {
	db, err := sql.Open("sqlite", sqliteDSN(s.path, ""))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	view := &sqliteSession{db, conn}
	if err := view.view(ctx); err != nil {
		return err
	}
	return conn.Raw(func(raw any) error {
		copying, err := raw.(interface {
			NewBackup(uri string) (*driver.Backup, error)
		}).NewBackup(sqliteDSN(to, ""))
		if err != nil {
			return err
		}
		for more := true; more && err == nil; {
			if more, err = copying.Step(backupPages); err == nil {
				err = ctx.Err()
			}
			if progress != nil {
				all := int64(copying.PageCount())
				progress(Progress{Step: "copying", Rows: all - int64(copying.Remaining()), Of: all})
			}
		}
		return cmp.Or(err, copying.Finish()) // which would say the same again
	})
}

// markArchive makes the copy one file, with the mark in it.
func markArchive(ctx context.Context, file string, a Archive) (Archive, error) {
	db, err := sql.Open("sqlite", sqliteDSN(file, "&_pragma=journal_mode(DELETE)"))
	if err != nil {
		return a, err
	}
	db.SetMaxOpenConns(1)
	a.Made = a.Made.Truncate(time.Microsecond)
	err = errors.Join(
		func() error { _, err := db.ExecContext(ctx, markSchema); return err }(),
		func() error {
			_, err := db.ExecContext(ctx, "INSERT INTO backup (made, issuer, audience, ring) VALUES ($1, $2, $3, $4)", micros(a.Made), a.Issuer, a.Audience, a.Ring)
			return err
		}())
	if err == nil {
		a, err = readArchive(ctx, db)
	}
	return a, errors.Join(err, db.Close())
}

// ErrNoArchive says that a file is no backup made by [Store.Backup].
var ErrNoArchive = errors.New("it is no backup that grantway made")

func readArchive(ctx context.Context, db *sql.DB) (a Archive, err error) {
	var marked int
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ('backup', 'goose_db_version', 'heads')").Scan(&marked); err != nil {
		return a, err
	}
	if marked != 3 {
		return a, ErrNoArchive
	}
	var at int64
	err = db.QueryRowContext(ctx, `SELECT b.made, b.issuer, b.audience, b.ring, h.epoch, h.seq, (SELECT MAX(version_id) FROM goose_db_version WHERE is_applied)
		FROM backup b JOIN heads h ON h.name = 'feed'`).Scan(&at, &a.Issuer, &a.Audience, &a.Ring, &a.Epoch, &a.Seq, &a.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return a, ErrNoArchive
	}
	a.Made = fromMicros(at)
	return a, err
}

// How a file gets a name without replacing what has it. Not every file system knows
// both, and a test has none that does not.
var renameNew, hardLink = renameNoReplace, os.Link

// appear gives a whole copy its name, unless a file has come there meanwhile.
func appear(part, file string) error {
	err := renameNew(part, file)
	if err != nil && !errors.Is(err, os.ErrExist) {
		err = hardLink(part, file)
	}
	if unnameable(err) {
		err = fmt.Errorf("%w: the disk of %s cannot give a file a name without replacing another: write the backup to another disk, and copy it there", err, filepath.Dir(file))
	}
	return err
}

// unnameable reports whether a file system refused what it does not know.
func unnameable(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL)
}

// partBeside makes an empty file beside another, for a copy in the making.
func partBeside(file string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".part-*") // 0600
	if err != nil {
		return "", fmt.Errorf("a file cannot be made in %s: %w: name a folder that is there, and that this user may write to", filepath.Dir(file), errors.Unwrap(err))
	}
	return f.Name(), f.Close()
}

// removeDatabase removes a SQLite file and what stands beside it.
func removeDatabase(path string) (err error) {
	for _, suffix := range []string{"", "-journal", "-wal", "-shm"} {
		if e := os.Remove(path + suffix); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// syncFile brings a file, or the names in a folder, to the disk.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
