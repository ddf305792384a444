package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// batches lets copies go by so many rows, until t and what runs beside each other in it
// have ended.
func batches(t *testing.T, rows int) {
	was := copyBatch
	copyBatch = rows
	t.Cleanup(func() { copyBatch = was })
}

// fill puts n rows into every table that there is, with every kind of value that a
// column can hold.
func fill(t *testing.T, s *Store, r *rand.Rand, n int) {
	t.Helper()
	to := openSession(t, s)
	all, err := to.tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tab := range ours(all) {
		var rows [][]any
		for i := range n {
			row := make([]any, len(tab.columns))
			for j, c := range tab.columns {
				row[j] = c.random(r, i)
			}
			rows = append(rows, row)
		}
		err := transact(t.Context(), to, "BEGIN", func() error { return to.insert(t.Context(), tab, rows) })
		if err != nil {
			t.Fatalf("%s: %v", tab.name, err)
		}
	}
}

// random makes a value that is unique in its column for each i, where it must be.
func (c column) random(r *rand.Rand, i int) any {
	if c.null && r.IntN(3) == 0 {
		return nil
	}
	unique := c.key > 0 || strings.HasPrefix(c.name, "uri") || c.name == "request" || c.name == "user_id"
	switch c.kind {
	case "boolean":
		return r.IntN(2) == 0
	case "bigint":
		if c.name == "seq" || c.name == "status_index" || unique {
			return int64(i) + 1<<40
		}
		return []int64{0, 1, -1, math.MaxInt64, math.MinInt64, r.Int64()}[r.IntN(6)]
	case "bytea":
		if unique {
			return fmt.Appendf([]byte{0, 0xff}, "%d", i)
		}
		return [][]byte{{}, {0}, {0xff, 0xfe}, []byte("text")}[r.IntN(4)]
	}
	if unique || c.name == "use" {
		return fmt.Sprintf("%c%d", []rune("aZé€😀")[i%5], i)
	}
	return []string{"", " ", "n", "Zoë 😀", "a\tb\nc\\d", "pending", "revoked", strings.Repeat("x", 300)}[r.IntN(8)]
}

func openSession(t *testing.T, s *Store) session {
	t.Helper()
	c, err := s.engine.session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.close() })
	return c
}

// Every table of the schema goes from one engine to the other and back, with every
// column as it was: NULL is not empty, bytes are bytes, and each integer fits.
func TestCopy_EveryTableBothWays(t *testing.T) {
	batches(t, 100)
	dir := t.TempDir()
	file, server, back := openAt(t, filepath.Join(dir, "a.db")), openAt(t, storagetest.Postgres(t)), openAt(t, filepath.Join(dir, "b.db"))
	fill(t, file, rand.New(rand.NewPCG(1, 1)), copyBatch+7)
	var told []Progress
	there, err := copyTables(t.Context(), file, server, nil, func(p Progress) { told = append(told, p) })
	if err != nil {
		t.Fatal(err)
	}
	home, err := copyTables(t.Context(), server, back, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(there) < 20 || len(there) != len(home) {
		t.Fatalf("%d tables there, %d back", len(there), len(home))
	}
	for i := range there {
		if there[i] != home[i] || there[i].Rows < int64(copyBatch+7) {
			t.Errorf("%+v there, %+v back", there[i], home[i])
		}
	}
	if last := told[len(told)-1]; last.Step != "comparing" || last.Rows != last.Of || last.Of < int64(len(there)*copyBatch) {
		t.Errorf("the last progress is %+v", last)
	}
	if seq, epoch, err := back.Head(t.Context()); err != nil || seq != 1 || epoch != 1 {
		t.Errorf("head %d, %d, %v", seq, epoch, err)
	}
}

// A value that differs, a row too few and one too many are each found, whatever
// the column.
func TestCopy_ADifferenceIsFound(t *testing.T) {
	dir := t.TempDir()
	a, b := openAt(t, filepath.Join(dir, "a.db")), openAt(t, filepath.Join(dir, "b.db"))
	fill(t, a, rand.New(rand.NewPCG(2, 2)), 40)
	if _, err := copyTables(t.Context(), a, b, nil, nil); err != nil {
		t.Fatal(err)
	}
	source, target := openSession(t, a), openSession(t, b)
	tables, err := sameTables(t.Context(), source, target)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(tab table, text string) {
		t.Helper()
		if _, err := target.exec(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		if n, err := target.exec(t.Context(), text); err != nil || n != 1 {
			t.Fatalf("%s: %d rows, %v", text, n, err)
		}
		_, err := compare(t.Context(), tables, source, target, &pace{})
		if d, ok := errors.AsType[*differs](err); !ok || d.here.Table != tab.name {
			t.Errorf("after %s: %v", text, err)
		}
		if _, err := target.exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	for _, tab := range tables {
		var key []string
		for _, c := range tab.columns {
			if c.key > 0 {
				key = append(key, c.name)
			}
		}
		keys := strings.Join(key, ", ")
		one := fmt.Sprintf(" WHERE (%s) = (SELECT %s FROM %s ORDER BY %s DESC LIMIT 1)", keys, keys, tab.name, keys)
		spoil(tab, "DELETE FROM "+tab.name+one)
		for _, c := range tab.columns {
			changed := map[string]string{"text": c.name + " || 'x'", "bigint": "CASE WHEN " + c.name + " = 5 THEN 6 ELSE 5 END", "boolean": "1 - " + c.name, "bytea": "CAST(COALESCE(" + c.name + ", '') || 'x' AS BLOB)"}[c.kind]
			spoil(tab, fmt.Sprintf("UPDATE %s SET %s = COALESCE(%s, '0')%s", tab.name, c.name, changed, one))
		}
	}
	if _, err := compare(t.Context(), tables, source, target, &pace{}); err != nil {
		t.Errorf("after all was restored: %v", err)
	}
}

// Two databases of different schemas are not copied into each other.
func TestCopy_OtherSchemas(t *testing.T) {
	for text, want := range map[string]string{
		"ALTER TABLE grants ADD COLUMN extra TEXT":    "the table grants has other columns",
		"DROP TABLE leases":                           "the table leases is on one side only",
		"CREATE TABLE notes (id TEXT)":                "", // somebody else's
		"ALTER TABLE sessions RENAME COLUMN amr TO x": "the table sessions has other columns",
	} {
		dir := t.TempDir()
		a, b := openAt(t, filepath.Join(dir, "a.db")), openAt(t, filepath.Join(dir, "b.db"))
		if err := a.engine.write(context.Background(), []statement{do(text)}); err != nil {
			t.Fatal(err)
		}
		for _, try := range [][2]*Store{{a, b}, {b, a}} {
			_, err := copyTables(t.Context(), try[0], try[1], nil, nil)
			if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}
