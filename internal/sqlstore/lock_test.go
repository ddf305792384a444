package sqlstore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// By whichever path a file is named, over symbolic links of the file or of a folder, it has
// one lock, and a restore replaces the file and not the link (docs/operating.md, Backup and
// restore).
func TestRestore_BySymbolicLinks(t *testing.T) {
	for what, make := range map[string]func(t *testing.T, dir string) (by, real string){
		"of the file": func(t *testing.T, dir string) (string, string) {
			symlink(t, "data/g.db", filepath.Join(dir, "g.db"))
			return filepath.Join(dir, "g.db"), filepath.Join(dir, "data", "g.db")
		},
		"of a link": func(t *testing.T, dir string) (string, string) {
			symlink(t, "data/g.db", filepath.Join(dir, "one"))
			symlink(t, filepath.Join(dir, "one"), filepath.Join(dir, "two"))
			return filepath.Join(dir, "two"), filepath.Join(dir, "data", "g.db")
		},
		"of the folder": func(t *testing.T, dir string) (string, string) {
			symlink(t, "data", filepath.Join(dir, "current"))
			return filepath.Join(dir, "current", "g.db"), filepath.Join(dir, "data", "g.db")
		},
	} {
		for _, there := range []bool{true, false} {
			t.Run(map[bool]string{true: what, false: what + ", which is not there"}[there], func(t *testing.T) {
				dir, file := t.TempDir(), filepath.Join(t.TempDir(), "backup")
				backedUp(t, filepath.Join(t.TempDir(), "g.db"), file)
				if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
					t.Fatal(err)
				}
				by, real := make(t, dir)
				if there {
					s := openAt(t, by)
					if err := s.engine.write(t.Context(), put(1)); err != nil {
						t.Fatal(err)
					}
					for _, path := range []string{by, real} {
						if r, err := Restore(t.Context(), file, path, true); !errors.Is(err, ErrInUse) {
							t.Errorf("a restore to %s, while it is at work by %s: %v", path, by, err)
							if r != nil {
								r.Abandon()
							}
						}
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
				r, err := Restore(t.Context(), file, by, true)
				if err != nil {
					t.Fatal(err)
				}
				if s, err := Open(t.Context(), real); err == nil {
					s.Close()
					t.Errorf("%s could be opened while it was being replaced by %s", real, by)
				}
				aside, err := finishNow(t, r)
				if err != nil {
					t.Fatal(err)
				}
				if info, err := os.Lstat(real); err != nil || !info.Mode().IsRegular() {
					t.Errorf("what was restored: %v, %v", info, err)
				}
				if n := count(t, openAt(t, by), "used_once"); n != 0 {
					t.Errorf("%d rows by the link, which were not in the backup", n)
				}
				if !there {
					return
				}
				if info, err := os.Lstat(aside); err != nil || !info.Mode().IsRegular() || filepath.Dir(aside) != filepath.Join(dir, "data") {
					t.Errorf("kept as %s: %v, %v", aside, info, err)
				}
				if n := count(t, openAt(t, aside), "used_once"); n != 1 {
					t.Errorf("%d rows in what was put aside", n)
				}
			})
		}
	}
}

func symlink(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

// Two names of one backup are one: of two restores of it one waits for the other.
func TestRestore_OneBackupByTwoNames(t *testing.T) {
	dir := t.TempDir()
	file, by := filepath.Join(dir, "backup"), filepath.Join(dir, "latest")
	backedUp(t, filepath.Join(dir, "g.db"), file)
	symlink(t, "backup", by)
	r := &Restoration{}
	defer func() { r.Abandon() }()
	if err := r.takePart(file); err != nil {
		t.Fatal(err)
	}
	other := &Restoration{}
	defer func() { other.Abandon() }()
	if err := other.takePart(by); !errors.Is(err, ErrRestoring) {
		t.Errorf("by another name: %v", err)
	}
}

// A restore that was killed while the names changed leaves what was there with two names,
// or with its log put aside: by the second name it is not opened, since its log and its lock
// go by the first, and who opens it by that one makes it what it was.
func TestOpen_TheNamesOfOneFile(t *testing.T) {
	database := func(t *testing.T) (path, backup string) {
		t.Helper()
		dir := t.TempDir()
		path, backup = filepath.Join(dir, "g [*].db"), filepath.Join(t.TempDir(), "backup")
		s := backedUp(t, path, backup)
		if err := errors.Join(s.engine.write(t.Context(), put(1)), s.Close()); err != nil {
			t.Fatal(err)
		}
		return path, backup
	}
	named := func(t *testing.T, path, name string) {
		t.Helper()
		if err := os.Link(path, name); err != nil {
			t.Fatal(err)
		}
	}
	shut := func(t *testing.T, path, backup string) {
		t.Helper()
		s, err := Open(t.Context(), path)
		if err == nil {
			s.Close()
		}
		refused(t, "opening "+path, err, "the file "+path+" has 2 names (hard links)")
		r, err := Restore(t.Context(), backup, path, true)
		if err == nil {
			r.Abandon()
		}
		refused(t, "a restore to "+path, err, "the file "+path+" has 2 names (hard links)")
	}
	alone := func(t *testing.T, path string) {
		t.Helper()
		if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(left) != 1 {
			t.Errorf("there are %q, %v", left, err)
		}
	}
	t.Run("opened after a killed restore", func(t *testing.T) {
		path, backup := database(t)
		aside := path + ".replaced-20260101T000000Z"
		named(t, path, aside)
		shut(t, aside, backup)
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		n := count(t, s, "used_once")
		if err := s.Close(); err != nil || n != 1 {
			t.Errorf("%d rows, %v", n, err)
		}
		alone(t, path)
	})
	t.Run("restored again", func(t *testing.T) {
		path, backup := database(t)
		named(t, path, path+".replaced-20260101T000000Z")
		r, err := Restore(t.Context(), backup, path, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Abandon(); err != nil {
			t.Fatal(err)
		}
		alone(t, path)
	})
	t.Run("with its log aside", func(t *testing.T) {
		path, _ := database(t)
		aside := path + ".replaced-20260101T000000Z"
		s := openAt(t, path)
		if err := s.engine.write(t.Context(), put(2)); err != nil {
			t.Fatal(err)
		}
		log, err := os.ReadFile(path + "-wal") // the second row is only here
		if err != nil || len(log) == 0 {
			t.Fatal(len(log), err)
		}
		whole, err := os.ReadFile(path)
		if err := errors.Join(err, s.Close(), os.WriteFile(path, whole, 0o600), os.WriteFile(aside+"-wal", log, 0o600)); err != nil {
			t.Fatal(err)
		}
		named(t, path, aside)
		if n := count(t, openAt(t, path), "used_once"); n != 2 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("somebody's hard link", func(t *testing.T) {
		path, backup := database(t)
		other := filepath.Join(t.TempDir(), "other.db")
		named(t, path, other)
		shut(t, path, backup)
		shut(t, other, backup)
	})
	t.Run("what an earlier restore kept", func(t *testing.T) {
		path, backup := database(t)
		r, err := Restore(t.Context(), backup, path, true)
		if err != nil {
			t.Fatal(err)
		}
		aside, err := finishNow(t, r)
		if err != nil {
			t.Fatal(err)
		}
		openAt(t, path)
		if n := count(t, openAt(t, aside), "used_once"); n != 1 {
			t.Errorf("%d rows in what was kept", n)
		}
	})
}

// What root opens or restores stays the property of the user whose server works on it, so
// that nothing keeps that one out (docs/operating.md, Restart without closing the port).
func TestOpen_ByRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		if storagetest.All() {
			t.Fatal("giving a file to another user needs root: run make test as root, or in a container")
		}
		t.Skip("LEFT OUT: giving a file to another user needs root")
	}
	const service = 65534
	dir := t.TempDir()
	path, file := filepath.Join(dir, "g.db"), filepath.Join(t.TempDir(), "backup")
	backedUp(t, filepath.Join(t.TempDir(), "g.db"), file)
	if err := openAt(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, dir} {
		if err := os.Chown(name, service, service); err != nil {
			t.Fatal(err)
		}
	}
	owned := func(name string) {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != service || owner.Gid != service || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is of %d:%d, %v", name, owner.Uid, owner.Gid, info.Mode())
		}
	}
	s := openAt(t, path)
	owned(path + lockSuffix)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{true, false} { // then it is the folder's owner that counts
		r, err := Restore(t.Context(), file, path, true)
		if err != nil {
			t.Fatal(err)
		}
		owned(path + lockSuffix)
		if _, err := finishNow(t, r); err != nil {
			t.Fatal(err)
		}
		owned(path)
		if !there {
			continue
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}

	// The name may stand for another file of root's, which is not given away.
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, make := range map[string]func(old, new string) error{"a symbolic link": os.Symlink, "a hard link": os.Link} {
		name := filepath.Join(t.TempDir(), "name")
		if err := make(other, name); err != nil {
			t.Fatal(err)
		}
		giveAway(name, path)
		info, err := os.Stat(other)
		if err != nil {
			t.Fatal(err)
		}
		if info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%s to it gave it away", what)
		}
	}
}
