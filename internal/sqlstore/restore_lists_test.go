package sqlstore

import (
	"path/filepath"
	"testing"
)

// A restore writes the lists anew in a few statements, however many there are: in one
// transaction there is no time for each of their chunks.
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
