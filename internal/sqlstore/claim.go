package sqlstore

import (
	"context"
	"errors"
	"slices"
)

// errTaken says that of two restores into one database this is not the one that goes on.
var errTaken = errors.New("another grantway restore works on this database, and goes on: this one has not restored")

// claim is what a restore says in copy_state of the database it fills, in the row
// "restore": who fills it. One that was cut off cannot be told from one that is at work,
// so the next one takes the row, and the one before finds out at its next transaction.
// nil is a claim to what nobody else knows of.
type claim struct {
	holder string
	cut    bool // the mark of an earlier one was there
}

// take empties the tables. The row comes first, so that of two who begin or end one
// waits for the other: after that the mark says whether what is here is whole already,
// and a copy that has begun here is seen, as that waits for the same row (see move.mark).
// Where no restore had the row before, nothing is removed but what the schema begins
// with: whoever looked before the mark stood may have put the first rows in, and has
// the database then.
func (c *claim) take(ctx context.Context, target session, tables []table) error {
	occupied := false
	err := transact(ctx, target, "BEGIN", func() error {
		remove := tables
		if c != nil {
			var before int64 // restores that had begun to fill it
			if c.cut {
				var err error
				if before, err = target.exec(ctx, "UPDATE copy_state SET holder = $1 WHERE role = 'restore'", c.holder); err != nil {
					return err
				}
			}
			if before == 0 {
				if err := taken(target.exec(ctx, "INSERT INTO copy_state (role, id, place, holder, applied) VALUES ('restore', '', '', $1, 0) ON CONFLICT (role) DO NOTHING", c.holder)); err != nil {
					return err
				}
			}
			there, err := target.tables(ctx)
			if err != nil {
				return err
			}
			if !hasTable(there, markTable) {
				return ErrOccupied
			}
			copying, err := readState(ctx, target)
			if err != nil {
				return err
			}
			_, occupied = copying["target"]
			if before == 0 {
				remove = slices.DeleteFunc(slices.Clone(tables), func(t table) bool { return !t.seeded() })
				rows, err := countRows(ctx, target, unseeded(tables))
				if err != nil {
					return err
				}
				occupied = occupied || rows > 0
			}
			switch {
			case occupied && c.cut: // the mark is another's
				return ErrOccupied
			case occupied:
				return c.end(ctx, target)
			}
		}
		for _, t := range remove {
			if _, err := target.exec(ctx, "DELETE FROM "+t.name); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && occupied {
		err = ErrOccupied
	}
	return err
}

// fence fails if another restore has the database.
func (c *claim) fence(ctx context.Context, target session) error {
	if c == nil {
		return nil
	}
	return taken(target.exec(ctx, "UPDATE copy_state SET applied = applied + 1 WHERE role = 'restore' AND holder = $1", c.holder))
}

// end gives the database to whoever comes.
func (c *claim) end(ctx context.Context, target session) error {
	err := taken(target.exec(ctx, "DELETE FROM copy_state WHERE role = 'restore' AND holder = $1", c.holder))
	if err == nil {
		_, err = target.exec(ctx, "DROP TABLE "+markTable)
	}
	return err
}

func taken(rows int64, err error) error {
	if err == nil && rows != 1 {
		err = errTaken
	}
	return err
}
