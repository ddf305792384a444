package sqlstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func (m *move) inView(ctx context.Context, f func(context.Context) error) error {
	if err := m.source.view(ctx); err != nil {
		return err
	}
	err := f(ctx)
	_, end := m.source.exec(context.WithoutCancel(ctx), "ROLLBACK")
	return errors.Join(err, end)
}

// verify brings the copy up to the present view of the file, and compares all.
func (m *move) verify(ctx context.Context) error {
	if err := m.pass(ctx); err != nil {
		return err
	}
	of, err := countRows(ctx, m.source, m.tables)
	if err != nil {
		return err
	}
	m.sums, err = compare(ctx, m.tables, m.source, m.target, &pace{tell: m.report, step: "comparing", of: of})
	return m.told(err)
}

func (m *move) told(err error) error {
	if d, ok := errors.AsType[*differs](err); ok {
		return fmt.Errorf("%w; nothing was switched: grantway copy --cancel drops the copy, then copy again", d)
	}
	return err
}

// pass brings the copy up to what the source session sees.
func (m *move) pass(ctx context.Context) error {
	upTo, changes, err := m.changes(ctx)
	if err != nil {
		return err
	}
	removed := make([]TableSum, len(m.tables))
	err = transact(ctx, m.target, "BEGIN", func() error {
		m.applied = upTo
		if err := m.fence(ctx); err != nil {
			return err
		}
		for i, t := range m.tables {
			if err := m.renew(ctx, t, changes[t.name], &removed[i]); err != nil {
				return fmt.Errorf("copying the table %s: %w", t.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.goOn(ctx); err != nil {
		return err
	}
	if m.sums == nil { // all is compared later
		return nil
	}
	for i, t := range m.tables {
		here, there := TableSum{Table: t.name}, TableSum{Table: t.name}
		if err := errors.Join(byKeys(ctx, m.source, t, changes[t.name], here.add), byKeys(ctx, m.target, t, changes[t.name], there.add)); err != nil {
			return err
		}
		if here != there {
			return m.told(&differs{here, there})
		}
		m.sums[i].less(removed[i])
		m.sums[i].plus(there)
	}
	return nil
}

// changes lists the keys that changed since the last pass, by table.
func (m *move) changes(ctx context.Context) (upTo int64, keys map[string][][]any, err error) {
	upTo, keys, m.changed = m.applied, map[string][][]any{}, 0
	err = m.source.query(ctx, "SELECT COALESCE(MAX(n), 0) FROM copy_changes", nil, func(scan func(...any) error) error { return scan(&upTo) })
	if err != nil {
		return 0, nil, err
	}
	for _, t := range m.tables {
		key := table{t.name, t.key()}
		text := "SELECT DISTINCT k1" + list(len(key.columns), ", k%d")[len(", k1"):] + " FROM copy_changes WHERE n > $1 AND n <= $2 AND name = $3"
		err := m.source.query(ctx, text, []any{m.applied, upTo, t.name}, func(scan func(...any) error) error {
			k, err := key.scan(scan)
			keys[t.name] = append(keys[t.name], k)
			return err
		})
		if err != nil {
			return 0, nil, err
		}
		m.changed += len(keys[t.name])
	}
	return upTo, keys, nil
}

// renew takes the rows of the keys out of the copy, and puts in what the file has
// for them: as far as the copy had come, for what is beyond comes with the rest.
// Since all that changed goes before anything comes, no two rows ever claim what
// only one may have.
func (m *move) renew(ctx context.Context, t table, keys [][]any, removed *TableSum) error {
	last, err := lastKey(ctx, m.target, t)
	if err != nil || last == nil {
		return err
	}
	var rows [][]any
	if err := byKeys(ctx, m.target, t, keys, removed.add); err != nil {
		return err
	}
	err = byKeys(ctx, m.source, t, keys, func(row []any) {
		if compareKeys(t.keyOf(row), last) <= 0 {
			rows = append(rows, row)
		}
	})
	if err != nil {
		return err
	}
	err = inChunks(t, keys, func(where string, args []any) error {
		_, err := m.target.exec(ctx, "DELETE FROM "+t.name+where, args...)
		return err
	})
	if err != nil {
		return err
	}
	return m.target.insert(ctx, t, rows)
}

// goOn copies what comes after the last key of each table.
func (m *move) goOn(ctx context.Context) error {
	p := &pace{}
	if m.sums == nil { // the long way; later there is little
		of, err := countRows(ctx, m.source, m.tables)
		if err != nil {
			return err
		}
		rows, err := countRows(ctx, m.target, m.tables)
		if err != nil {
			return err
		}
		p = &pace{tell: m.report, step: "copying", rows: rows, of: of}
	}
	for _, t := range m.tables {
		if err := copyRows(ctx, t, m.source, m.target, func() error { return m.fence(ctx) }, p); err != nil {
			return err
		}
	}
	return nil
}

// shut closes the file: within the transaction that holds its write lock, since when it is
// as it is. The row says so, for who restores it.
func (m *move) shut(ctx context.Context, since time.Time) error {
	for _, t := range m.tables {
		if _, err := m.source.exec(ctx, "ALTER TABLE "+t.name+" RENAME TO "+movedPrefix+t.name); err != nil {
			return err
		}
	}
	n, err := m.source.exec(ctx, "UPDATE copy_state SET role = 'moved', place = $1, applied = $2 WHERE role = 'source' AND id = $3", m.place, micros(since), m.id)
	if err == nil && n != 1 { // the notes that the copy goes by are another's
		err = errors.New("another grantway copy of this file has taken over")
	}
	return err
}

// ErrLastStep says that a file is closed, and that its copy is not yet the installation.
var ErrLastStep = errors.New("the file is closed, and nobody is served: run the same command again, only the last step is left")

// finish makes the copy the installation. A mark that came beside it is of a restore that
// found the copy and has put nothing there: it cannot serve with it.
func (m *move) finish(ctx context.Context) error {
	err := m.unrestored(ctx)
	if err == nil {
		_, err = m.target.exec(ctx, "DELETE FROM copy_state WHERE role = 'target' AND id = $1", m.id)
	} else if errors.Is(err, errRestoring) {
		err = fmt.Errorf("first drop the table %s in %s: a restore into it was refused, and left it", markTable, m.place)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrLastStep, err)
	}
	return nil
}

func compareKeys(a, b []any) int {
	for i := range a {
		c := 0
		switch v := a[i].(type) {
		case string:
			c = strings.Compare(v, b[i].(string))
		case int64:
			c = cmp.Compare(v, b[i].(int64))
		case []byte:
			c = bytes.Compare(v, b[i].([]byte))
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// byKeys reads the rows of some keys.
func byKeys(ctx context.Context, s session, t table, keys [][]any, row func([]any)) error {
	return inChunks(t, keys, func(where string, args []any) error {
		return s.query(ctx, "SELECT "+t.names()+" FROM "+t.name+where, args, func(scan func(...any) error) error {
			r, err := t.scan(scan)
			if err == nil {
				row(r)
			}
			return err
		})
	})
}

// inChunks renders conditions that the keys fulfil, some hundred in each.
func inChunks(t table, keys [][]any, f func(where string, args []any) error) error {
	const chunk = 200
	names := columnNames(t.key())
	for len(keys) > 0 {
		some := keys[:min(chunk, len(keys))]
		keys = keys[len(some):]
		var args []any
		var alternatives []string
		for _, key := range some {
			var all []string
			for i, v := range key {
				args = append(args, v)
				all = append(all, fmt.Sprintf("%s = $%d", names[i], len(args)))
			}
			alternatives = append(alternatives, "("+strings.Join(all, " AND ")+")")
		}
		if err := f(" WHERE "+strings.Join(alternatives, " OR "), args); err != nil {
			return err
		}
	}
	return nil
}
