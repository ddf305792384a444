package sqlstore

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// A file that has moved is restored as a backup of the moment at which it was closed, also
// if that still stands in its log alone, and stays as it is.
func TestRestore_AFileThatHasMoved(t *testing.T) {
	ctx, closed, dsn := t.Context(), installation(t, 1), storagetest.Postgres(t)
	// A reader keeps the closing from being folded in; what a kill would leave is copied.
	reader := openSession(t, openAt(t, closed))
	if err := reader.view(ctx); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Truncate(time.Microsecond)
	moved, err := Move(ctx, closed, dsn, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "killed.db")
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(closed + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+suffix, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	as := func() (all []byte) {
		t.Helper()
		for _, suffix := range []string{"", "-wal"} {
			raw, err := os.ReadFile(file + suffix)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, raw...)
		}
		return all
	}
	was := as()

	a, err := ReadArchive(ctx, file)
	if err != nil || a.Moved != moved.Place || a.Made.Before(before) || a.Made.After(time.Now()) || a.Version != newestMigration() {
		t.Fatalf("%+v, %v", a, err)
	}
	for what, to := range map[string]string{"a file": filepath.Join(t.TempDir(), "new.db"), "a server": storagetest.Postgres(t)} {
		held, err := takeLock(file, syscall.LOCK_SH)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Restore(ctx, file, to, false)
		refused(t, "while somebody has it open", err, "the file "+file+" is in use: stop the server that still runs on it")
		if err := releaseLock(held); err != nil {
			t.Fatal(err)
		}
		r, err := Restore(ctx, file, to, false)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if r.Moved != moved.Place || !r.Made.Equal(a.Made) || r.Epoch != a.Epoch || r.Seq != a.Seq {
			t.Errorf("%s: %+v, want %+v", what, r.Archive, a)
		}
		copied := openSession(t, r.Store)
		all, err := copied.tables(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i, tab := range ours(all) {
			if sum, err := sumTable(ctx, copied, tab, &pace{}); err != nil || sum != moved.Tables[i] {
				t.Errorf("%s: %+v, %v; want %+v", what, sum, err, moved.Tables[i])
			}
		}
		if err := copied.close(); err != nil {
			t.Error(err)
		}
		if _, err := finishNow(t, r); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if !serves(ctx, to) {
			t.Errorf("%s does not serve", what)
		}
	}
	if !bytes.Equal(was, as()) {
		t.Error("the file was touched")
	}
	opens(t, "the file", file, "this file has moved")
}
