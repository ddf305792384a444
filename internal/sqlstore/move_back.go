package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

const movedPrefix = "moved_" // before the name of each table of a file that has moved

// readMoved reads what a file that has moved says about itself, as readArchive does of a
// backup: it is one, of the moment at which it was closed, for which the new database may
// be lost before there is another.
func readMoved(ctx context.Context, db *sql.DB) (a Archive, err error) {
	var there int
	if err := db.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name IN ('copy_state', 'goose_db_version', '"+movedPrefix+"heads')").Scan(&there); err != nil {
		return a, err
	}
	if there != 3 {
		return a, ErrNoArchive
	}
	var at int64
	err = db.QueryRowContext(ctx, `SELECT c.place, c.applied, h.epoch, h.seq, (SELECT MAX(version_id) FROM goose_db_version WHERE is_applied)
		FROM copy_state c JOIN `+movedPrefix+`heads h ON h.name = 'feed' WHERE c.role = 'moved'`).Scan(&a.Moved, &at, &a.Epoch, &a.Seq, &a.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return a, ErrNoArchive
	}
	a.Made = fromMicros(at)
	return a, err
}

// copyMoved makes, in the empty file part, the backup that a file which has moved is. The
// file stays as it is, and so does its log, in which the closing itself may be: nobody may
// have it open meanwhile, and fold that in.
func copyMoved(ctx context.Context, file, part string, a Archive) (err error) {
	if file, err = resolve(file); err != nil {
		return err
	}
	lock, err := takeLock(file, syscall.LOCK_EX)
	if errors.Is(err, ErrInUse) {
		return fmt.Errorf("the file %s is in use: stop the server that still runs on it, and whatever else has it open, first", file)
	}
	if err != nil {
		return err
	}
	err = copyFile(ctx, file, part)
	if _, unlogged := os.Stat(file + "-wal"); err == nil && unlogged == nil {
		var log *os.File
		if log, err = os.OpenFile(part+"-wal", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = errors.Join(log.Close(), copyFile(ctx, file+"-wal", part+"-wal"))
		}
	}
	if err := errors.Join(err, releaseLock(lock)); err != nil {
		return err
	}
	if err := renameBack(ctx, part); err != nil {
		return judge(a, err)
	}
	_, err = markArchive(ctx, part, a)
	return judge(a, err)
}

// renameBack gives the tables of a copy of a file that has moved the names that they had.
func renameBack(ctx context.Context, file string) (err error) {
	own, err := (&sqlite{path: file}).session(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	return transact(ctx, own, "BEGIN IMMEDIATE", func() error {
		now, err := readState(ctx, own)
		if err == nil && now["moved"].id == "" { // another file is there since it was read
			err = ErrNoArchive
		}
		if err == nil {
			err = forgetMove(ctx, own)
		}
		if err != nil {
			return err
		}
		all, err := own.tables(ctx)
		if err != nil {
			return err
		}
		for _, t := range all {
			if name, moved := strings.CutPrefix(t.name, movedPrefix); moved && isOurs(name) {
				if _, err := own.exec(ctx, "ALTER TABLE "+t.name+" RENAME TO "+name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
