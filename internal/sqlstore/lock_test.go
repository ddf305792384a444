package sqlstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
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
