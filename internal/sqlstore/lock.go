package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Whoever has a SQLite file open holds a shared lock on a file beside it, and a
// restore, which puts another file in its place, holds an exclusive one. The lock
// goes by the path, as a lock on the database itself would not: a server that
// started while the files changed places would be left with the old one. So a path is
// resolved first, that all who mean one file go by one name. It ends with the process;
// whoever closes last removes the file.
const lockSuffix = "-lock"

// ErrInUse says that the lock of a SQLite file is held by somebody else.
var ErrInUse = errors.New("in use")

// resolve is the path of a file without symbolic links, also of one that is not there.
// What cannot be followed is left as it is: it cannot be opened either, and that says why.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for range 40 { // as many as the system follows
		if whole, err := filepath.EvalSymlinks(abs); err == nil {
			return whole, nil
		}
		dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			break
		}
		abs = filepath.Join(dir, filepath.Base(abs))
		to, err := os.Readlink(abs)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		abs = to
	}
	return abs, nil
}

func takeLock(path string, how int) (*os.File, error) {
	name := path + lockSuffix
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the database: %w%s", err, remedy(err))
		}
		if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, fmt.Errorf("locking the database: %w", err)
		}
		// Whoever was last may have removed the file between the two calls: then this
		// is a lock on nothing.
		ours, err := f.Stat()
		if err == nil {
			if there, err := os.Stat(name); err == nil && os.SameFile(ours, there) {
				giveAway(name, path)
				return f, nil
			}
		}
		f.Close()
	}
}

// giveAway makes a file that root has made the property of whoever owns the database beside
// it, or the folder where there is none yet: what a command of root's leaves, also when it is
// killed, must not keep the server out. Where that cannot be, whoever opens it is told.
func giveAway(name, database string) {
	if os.Geteuid() != 0 {
		return
	}
	beside, err := os.Stat(database)
	if err != nil {
		if beside, err = os.Stat(filepath.Dir(database)); err != nil {
			return
		}
	}
	owner, ok := beside.Sys().(*syscall.Stat_t)
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	// The folder is that user's, who may have put another file of root's under the name.
	if info, err := f.Stat(); err == nil && links(info) == 1 && ok {
		f.Chown(int(owner.Uid), int(owner.Gid))
	}
}

func releaseLock(f *os.File) error {
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		os.Remove(f.Name()) // nobody else has it; one that stays can be taken again
	}
	return f.Close()
}

// sole demands that a file whose lock is held has one name: by another, a hard link, it
// has another lock and another log. A restore that was killed while the names changed may
// have left one: that is removed, and a log that it had put aside comes back.
func sole(path string) error {
	info, err := os.Lstat(path)
	if err != nil || links(info) < 2 {
		return nil // what is not there has no other name
	}
	dir := filepath.Dir(path)
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range all {
		aside := filepath.Join(dir, entry.Name())
		if other, err := os.Lstat(aside); err != nil || !strings.HasPrefix(aside, path+replacedSuffix) || !os.SameFile(info, other) {
			continue
		}
		for _, suffix := range logSuffixes {
			if _, err := os.Lstat(path + suffix); errors.Is(err, os.ErrNotExist) {
				if err := os.Rename(aside+suffix, path+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
		}
		if err := os.Remove(aside); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if info, err := os.Lstat(path); err == nil && links(info) > 1 {
		return fmt.Errorf("the file %s has %d names (hard links), and what is written by one is lost to who reads by another: remove all but one (find FOLDER -samefile %s lists them)", path, links(info), path)
	}
	return nil
}

func links(info os.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}

// openShared opens a SQLite file that others may have open, too.
func openShared(ctx context.Context, path string) (*sqlite, error) {
	abs, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if err := touch(abs); err != nil { // first, for the error that names it
		return nil, err
	}
	lock, err := takeLock(abs, syscall.LOCK_SH)
	if errors.Is(err, ErrInUse) {
		return nil, fmt.Errorf("the database %s is being replaced by a restore: wait until it has ended", path)
	}
	if err != nil {
		return nil, err
	}
	if err := sole(abs); err != nil {
		return nil, errors.Join(err, releaseLock(lock))
	}
	s, err := openSQLite(abs)
	if err != nil {
		return nil, errors.Join(err, releaseLock(lock))
	}
	s.shared = lock
	return s, nil
}

// touch makes the file, if it is not there: SQLite would make it readable to all.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the database: %w%s", err, remedy(err))
	}
	return f.Close()
}
