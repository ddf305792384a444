package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// shuffle changes a table of the file as nothing in Grantway would dare: rows come
// and go at both ends and in between, move to other keys, and swap what only one of
// them may have.
// It ends with the error that the closed file gives.
func shuffle(s session, r *rand.Rand) error {
	for {
		a, b := r.IntN(600), r.IntN(600)
		text := []string{
			"INSERT INTO families SELECT 'x' || $1, grant_id, client_id, user_id, api, $1 + 1000000, narrowing, status, rev, iseq, op, created, due, token FROM families WHERE status_index >= $2 LIMIT 1 ON CONFLICT DO NOTHING",
			"DELETE FROM families WHERE status_index > $1 AND status_index < $1 + 3 + $2 * 0",
			"UPDATE OR IGNORE families SET id = 'y' || $1 || id WHERE status_index = $2",
			"UPDATE OR IGNORE families SET status_index = -status_index WHERE status_index IN ($1, $2) AND status_index > 0",
			"UPDATE OR IGNORE families SET status_index = $1 WHERE status_index = (SELECT MIN(status_index) FROM families) AND NOT EXISTS (SELECT 1 FROM families WHERE status_index = $1) AND $2 > 0",
			"UPDATE used_once SET op = op || $1 WHERE hash > CAST($2 AS BLOB) AND length(op) % 2 = 0",
			"DELETE FROM heads WHERE $1 < $2",
			"INSERT INTO heads (name, seq, epoch) VALUES ('feed', $1, $2) ON CONFLICT (name) DO UPDATE SET seq = heads.seq + 1",
		}[r.IntN(8)]
		if _, err := s.exec(context.Background(), text, a, b); err != nil {
			return err
		}
	}
}

// A move that is cut off anywhere, again and again, and whose file changes all the
// while, ends with what the file held last.
func TestMove_CutOffAndResumed(t *testing.T) {
	batches(t, 60)
	r := rand.New(rand.NewPCG(3, 3))
	file, dsn := filepath.Join(t.TempDir(), "a.db"), storagetest.Postgres(t)
	s := openAt(t, file)
	fill(t, s, r, 250)
	live := openSession(t, s)
	if _, err := live.exec(t.Context(), "UPDATE OR IGNORE families SET status_index = (SELECT COUNT(*) FROM families f WHERE f.id <= families.id)"); err != nil {
		t.Fatal(err)
	}
	shuffled := make(chan error, 1)
	go func() { shuffled <- shuffle(live, rand.New(rand.NewPCG(4, 4))) }()
	cut := errors.New("cut off")
	cuts := 0
	var moved *Moved
	for moved == nil {
		ctx, stop := context.WithCancelCause(t.Context())
		left := r.IntN(60) // the whole way takes about 250
		if cuts == 6 {
			left = 1 << 30
		}
		var err error
		moved, err = Move(ctx, file, dsn, nil, func(Progress) {
			if left--; left < 0 {
				stop(cut)
			}
		})
		if err != nil && context.Cause(ctx) != cut {
			t.Fatal(err)
		}
		if err != nil {
			cuts++
			if _, err := Open(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "half-finished copy") {
				t.Fatalf("after %d cuts a half copy opens: %v", cuts, err)
			}
		}
		stop(nil)
	}
	if err := <-shuffled; err == nil || !strings.Contains(err.Error(), "no such table") {
		t.Fatalf("the file went on until: %v", err)
	}
	if cuts < 5 || moved.Changed == 0 {
		t.Errorf("cut off %d times, %d changes in the pause", cuts, moved.Changed)
	}
	// The file under its old names, as it was last.
	for _, sum := range moved.Tables {
		if _, err := live.exec(t.Context(), fmt.Sprintf("ALTER TABLE moved_%s RENAME TO %s", sum.Table, sum.Table)); err != nil {
			t.Fatal(err)
		}
	}
	target := openSession(t, openAt(t, dsn))
	tables, err := sameTables(t.Context(), live, target)
	if err != nil {
		t.Fatal(err)
	}
	sums, err := compare(t.Context(), tables, live, target, &pace{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range sums {
		if sums[i] != moved.Tables[i] {
			t.Errorf("%+v, and Move said %+v", sums[i], moved.Tables[i])
		}
	}
	uncounted, err := texts(t.Context(), openAt(t, dsn).engine, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND reltuples < 0 AND relname NOT IN ('goose_db_version', 'goose_lock', 'copy_state')")
	if err != nil || len(uncounted) > 0 {
		t.Errorf("queries are planned for empty tables of %q: %v", uncounted, err)
	}
	t.Logf("cut off %d times; %d changes and %v in the pause", cuts, moved.Changed, moved.Pause)
}
