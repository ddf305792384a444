package sqlstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Progress says how far a copy is. Rows may pass Of where rows are added meanwhile.
type Progress struct {
	Step     string // what is being done: copying, comparing, checking
	Table    string
	Rows, Of int64 // over all tables of this step
}

// TableSum is what a table holds: how many rows, and a checksum over every column
// of each that does not depend on their order, nor on the engine.
type TableSum struct {
	Table string
	Rows  int64
	sum   [4]uint64
}

// Checksum is the checksum in 64 hexadecimal digits.
func (s TableSum) Checksum() string {
	return fmt.Sprintf("%016x%016x%016x%016x", s.sum[0], s.sum[1], s.sum[2], s.sum[3])
}

// add counts a row in. The hashes of the rows are added up, so that they can come
// in any order, and one can be taken out again.
func (s *TableSum) add(row []any) {
	s.Rows++
	for i, part := range rowHash(row) {
		s.sum[i] += part
	}
}

func (s *TableSum) plus(o TableSum) {
	s.Rows += o.Rows
	for i := range s.sum {
		s.sum[i] += o.sum[i]
	}
}

func (s *TableSum) less(o TableSum) {
	s.Rows -= o.Rows
	for i := range s.sum {
		s.sum[i] -= o.sum[i]
	}
}

// rowHash writes each value so that no two rows write the same: NULL, empty and
// zero differ, and a text cannot run into its neighbour.
func rowHash(row []any) (parts [4]uint64) {
	b := make([]byte, 0, 512)
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case bool:
			b = append(b, map[bool]byte{false: 'f', true: 't'}[v])
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
		case string:
			b = append(binary.AppendUvarint(append(b, 's'), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, 'b'), uint64(len(v))), v...)
		}
	}
	sum := sha256.Sum256(b)
	for i := range parts {
		parts[i] = binary.BigEndian.Uint64(sum[8*i:])
	}
	return parts
}

// copyBatch is how many rows go into one transaction of the target; a test that
// cuts copies off makes it smaller.
var copyBatch = 2000

// copyTables copies every row of every table, as from holds them at one moment,
// into to, whose schema must be the same and whose rows are removed first, as far as
// the claim allows. Then it compares counts and checksums, and returns them. progress
// may be nil.
func copyTables(ctx context.Context, from, to *Store, c *claim, progress func(Progress)) (sums []TableSum, err error) {
	source, err := from.engine.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	target, err := to.engine.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.close()) }()
	tables, err := sameTables(ctx, source, target)
	if err != nil {
		return nil, err
	}
	if err := c.take(ctx, target, tables); err != nil {
		return nil, err
	}
	if err := source.view(ctx); err != nil {
		return nil, err
	}
	defer source.exec(context.WithoutCancel(ctx), "ROLLBACK")
	of, err := countRows(ctx, source, tables)
	if err != nil {
		return nil, err
	}
	p := &pace{tell: progress, step: "copying", of: of}
	for _, t := range tables {
		if err := copyRows(ctx, t, source, target, func() error { return c.fence(ctx, target) }, p); err != nil {
			return nil, err
		}
	}
	return compare(ctx, tables, source, target, &pace{tell: progress, step: "comparing", of: of})
}

// analyze counts what was copied: the first queries would be planned for empty
// tables else. Table by table, as CockroachDB knows no other way.
func analyze(ctx context.Context, target session, copied []TableSum) error {
	for _, t := range copied {
		if _, err := target.exec(ctx, "ANALYZE "+t.Table); err != nil {
			return err
		}
	}
	return nil
}

// pace tells how far a step is.
type pace struct {
	tell     func(Progress)
	step     string
	rows, of int64
}

func (p *pace) add(t table, rows int64) {
	p.rows += rows
	if p.tell != nil {
		p.tell(Progress{p.step, t.name, p.rows, p.of})
	}
}

// sameTables lists the tables to copy, which must be the same on both sides. What
// somebody else has beside them is passed over.
func sameTables(ctx context.Context, source, target session) ([]table, error) {
	a, err := source.tables(ctx)
	if err != nil {
		return nil, err
	}
	b, err := target.tables(ctx)
	if err != nil {
		return nil, err
	}
	a, b = ours(a), ours(b)
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(b) || i < len(a) && a[i].name < b[i].name:
			return nil, fmt.Errorf("the table %s is on one side only", a[i].name)
		case i >= len(a) || b[i].name < a[i].name:
			return nil, fmt.Errorf("the table %s is on one side only", b[i].name)
		case !slices.Equal(a[i].columns, b[i].columns):
			return nil, fmt.Errorf("the table %s has other columns here than there", a[i].name)
		case len(a[i].key()) == 0:
			return nil, fmt.Errorf("the table %s has no primary key", a[i].name)
		}
	}
	return a, nil
}

// countRows asks once: who begins a copy does it while others wait.
func countRows(ctx context.Context, s session, tables []table) (total int64, err error) {
	text := "SELECT 0"
	for _, t := range tables {
		text += " + (SELECT COUNT(*) FROM " + t.name + ")"
	}
	err = s.query(ctx, text, nil, func(scan func(...any) error) error { return scan(&total) })
	return total, err
}

// copyRows copies, in the order of the key, the rows whose keys come after the last
// one that target has, a batch in a transaction. So a copy that was cut off goes on
// where it stood. fence runs in each of those transactions, before the rows.
func copyRows(ctx context.Context, t table, source, target session, fence func() error, p *pace) error {
	last, err := lastKey(ctx, target, t)
	if err != nil {
		return err
	}
	text, order := "SELECT "+t.names()+" FROM "+t.name, strings.Join(columnNames(t.key()), ", ")
	if last != nil {
		text += fmt.Sprintf(" WHERE (%s) > (%s)", order, places(1, len(last)))
	}
	batch := make([][]any, 0, copyBatch)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := transact(ctx, target, "BEGIN", func() error {
			if err := fence(); err != nil {
				return err
			}
			return target.insert(ctx, t, batch)
		})
		if err != nil {
			return fmt.Errorf("copying the table %s: %w", t.name, err)
		}
		p.add(t, int64(len(batch)))
		batch = batch[:0]
		return nil
	}
	err = source.query(ctx, text+" ORDER BY "+order, last, func(scan func(...any) error) error {
		row, err := t.scan(scan)
		if err != nil {
			return err
		}
		if batch = append(batch, row); len(batch) < copyBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// lastKey is the greatest key of a table, or nil if it is empty.
func lastKey(ctx context.Context, s session, t table) (last []any, err error) {
	key := table{t.name, t.key()}
	down := strings.Join(columnNames(key.columns), " DESC, ") + " DESC"
	err = s.query(ctx, "SELECT "+key.names()+" FROM "+t.name+" ORDER BY "+down+" LIMIT 1", nil, func(scan func(...any) error) error {
		last, err = key.scan(scan)
		return err
	})
	return last, err
}

// transact runs f in a transaction, and undoes what it did if it fails.
func transact(ctx context.Context, s session, begin string, f func() error) error {
	if _, err := s.exec(ctx, begin); err != nil {
		return err
	}
	err := f()
	if err == nil {
		_, err = s.exec(ctx, "COMMIT")
	}
	if err != nil {
		s.exec(context.WithoutCancel(ctx), "ROLLBACK") // best effort: the session may be lost
	}
	return err
}

// sumTable reads a whole table.
func sumTable(ctx context.Context, s session, t table, p *pace) (TableSum, error) {
	sum := TableSum{Table: t.name}
	err := s.query(ctx, "SELECT "+t.names()+" FROM "+t.name, nil, func(scan func(...any) error) error {
		row, err := t.scan(scan)
		if err != nil {
			return err
		}
		if sum.add(row); sum.Rows%int64(copyBatch) == 0 {
			p.add(t, int64(copyBatch))
		}
		return nil
	})
	p.add(t, sum.Rows%int64(copyBatch))
	return sum, err
}

// compare reads every table on both sides, at once, and fails if one differs.
func compare(ctx context.Context, tables []table, source, target session, p *pace) ([]TableSum, error) {
	sums := make([]TableSum, 0, len(tables))
	for _, t := range tables {
		var there TableSum
		failed := make(chan error, 1)
		go func() {
			var err error
			there, err = sumTable(ctx, target, t, &pace{})
			failed <- err
		}()
		here, err := sumTable(ctx, source, t, p)
		if err := errors.Join(err, <-failed); err != nil {
			return nil, fmt.Errorf("comparing the table %s: %w", t.name, err)
		}
		if here != there {
			return nil, &differs{here, there}
		}
		sums = append(sums, here)
	}
	return sums, nil
}

// differs says that a table is not the same on both sides.
type differs struct{ here, there TableSum }

func (d *differs) Error() string {
	return fmt.Sprintf("the table %s differs: %d rows with checksum %.16s here, %d rows with %.16s in the copy",
		d.here.Table, d.here.Rows, d.here.Checksum(), d.there.Rows, d.there.Checksum())
}
