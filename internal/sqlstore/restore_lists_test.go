package sqlstore

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// A restore writes the lists anew in a few statements, however many there are, and not
// in one for each of their chunks.
func TestRestore_ManyLists(t *testing.T) {
	ctx := t.Context()
	s := openAt(t, filepath.Join(t.TempDir(), "grantway.db"))
	write := func(ev []statement) {
		t.Helper()
		if err := s.engine.write(ctx, ev); err != nil {
			t.Fatal(err)
		}
	}
	const lists = 100
	for n := range lists {
		write(one(do("INSERT INTO status_lists (number, api, kind, next, allotted) VALUES ($1, 'a', 'key', 0, 0)", int64(2048+n))))
	}
	ev, err := listsOfNow(ctx, s.engine.query, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(ev) > 2 {
		t.Errorf("%d statements for lists without a key", len(ev))
	}
	write(ev)
	if n := count(t, s, "status_chunks"); n != lists*256 {
		t.Errorf("%d chunks", n)
	}
}

// What a restore writes grows with the database, so it has as long as it takes: no
// limit of an event.
func TestRestore_TakesAsLongAsItTakes(t *testing.T) {
	for _, endAll := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends all: %v", endAll), func(t *testing.T) {
			ctx, dir := t.Context(), t.TempDir()
			s := openAt(t, filepath.Join(dir, "g.db"))
			w := newWriter(t, s)
			const keys = 3
			inGroups(t, s, w.exchanges(keys, false), 64)
			if _, err := s.Backup(ctx, filepath.Join(dir, "backup"), Archive{Made: w.now}, nil); err != nil {
				t.Fatal(err)
			}
			r, err := Restore(ctx, filepath.Join(dir, "backup"), filepath.Join(dir, "back.db"), false)
			if err != nil {
				t.Fatal(err)
			}
			r.Store.engine.(*sqlite).writer.limit = time.Nanosecond
			const epoch = 100 // long over, so Finish need not wait for its end
			if _, err := r.Finish(ctx, epoch, endAll, w.event(oauth.EventRestored), nil); err != nil {
				t.Fatal(err)
			}
			back := openAt(t, filepath.Join(dir, "back.db"))
			if _, now, err := back.Head(ctx); err != nil || now != epoch {
				t.Errorf("the epoch %d, %v", now, err)
			}
			over := 0
			if err := back.row(ctx, "SELECT COUNT(*) FROM families WHERE status = 'invalid'", nil, &over); err != nil || over > 0 != endAll || endAll && over != keys {
				t.Errorf("%d of %d keys have ended, %v", over, keys, err)
			}
		})
	}
}
