package sqlstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// beginEpoch makes a database of a restored archive. What was used once after the
// backup could be used again now, so all that is short-lived ends: codes, sessions,
// links. The codes are left to the sweeper, who also removes what hangs off nothing
// else. Status lists of older epochs are not gone on with ([Store.AllotIndices]).
func (s *Store) beginEpoch(ctx context.Context, epoch int64, endAll bool, e oauth.Event) error {
	return s.whole(ctx, func(own session) error {
		ev := moveEpoch(epoch)
		if endAll {
			ev = append(ev,
				do("UPDATE grants SET status = 'revoked', is_default = FALSE, due = $2, rev = rev + 1, op = $1 WHERE status <> 'revoked'", e.ID, micros(e.At)),
				do("UPDATE families SET status = 'invalid', op = $1, due = $2 WHERE status <> 'invalid'", e.ID, micros(e.At)))
		}
		if err := carryOut(ctx, own, ev); err != nil {
			return err
		}
		if err := tellEpoch(ctx, own, endAll, e); err != nil {
			return err
		}
		return carryOut(ctx, own, one(do("DROP TABLE "+markTable)))
	})
}

// NextEpoch names the epoch that follows one that was seen. It goes by the clock, in
// seconds. Where that epoch lies in the future, a clock was wrong when it was begun, or
// is now; the next is behind it by as much as passed since then, as far as that is known,
// so that it is none that somebody else may begin in another second.
//
// None is the last one that has a number: an index behind the last of a list has one, too.
func NextEpoch(now time.Time, seen int64, since time.Duration) (int64, error) {
	next := now.Unix()
	if seen >= next {
		next = seen + max(1, int64(since/time.Second))
	}
	const end = 1<<oauth.EpochBits - 1
	switch {
	case now.Unix() >= end:
		return 0, fmt.Errorf("the clock of this machine says %s: set it right first", now.UTC().Format(time.DateTime+" UTC"))
	case next >= end:
		return 0, fmt.Errorf("the epoch %d is the last one that there can be: begin with a new database", seen)
	}
	return next, nil
}

// moveEpoch begins the epoch, after all that ends with the one before: in the lock
// order, the row of the feed last. Rows whose new values are known only then are
// locked where their turn is, so that nobody who holds one waits for us.
func moveEpoch(epoch int64) []statement {
	return []statement{
		do("UPDATE cutoffs SET before = before"),
		do("UPDATE authorization_codes SET expires = 0 WHERE redeemed_family IS NULL"),
		do("DELETE FROM sessions"),
		do("DELETE FROM pending_requests"),
		// A token that a chain issued in what was lost prints what its grant was then.
		do("UPDATE families SET status = 'ask' WHERE status = 'valid' AND due IS NOT NULL"),
		do("UPDATE heads SET seq = seq WHERE name IN ('folded', 'kept')"),
		do("UPDATE heads SET epoch = $1, seq = seq + $2 WHERE name = 'feed' AND epoch < $1", epoch, int64(lostMost)),
		do("DELETE FROM status_changes"),
		do("DELETE FROM rule_changes"),
		do("UPDATE heads SET seq = (SELECT h.seq FROM heads h WHERE h.name = 'feed') WHERE name IN ('folded', 'kept')"),
		// Whatever an app had while it was suspended, it has it no longer.
		do("UPDATE cutoffs SET before = (SELECT h.seq FROM heads h WHERE h.name = 'feed') WHERE kind <> 'all'"),
	}
}

// NewEpoch begins an epoch on the database as it is, which may be at work: after it
// was recovered to an earlier moment, or failed over to a standby that lacked the last
// events, so that what nodes and followers know goes beyond it. event makes the event,
// of where the feed stood.
//
// What moves the feed has committed before the lists are read, or comes after them.
// Whoever issues does not wait for that: a key that is on its way in the moment of the
// commit (PostgreSQL alone) is refused for ever. Later ones have a place in new lists.
func (s *Store) NewEpoch(ctx context.Context, epoch int64, event func(fromEpoch, fromSeq int64) (oauth.Event, error)) error {
	if err := s.askOfChains(ctx); err != nil {
		return err
	}
	return s.whole(ctx, func(own session) error {
		var from, seq int64
		read := func(to ...any) error {
			return own.query(ctx, "SELECT epoch, seq FROM heads WHERE name = 'feed'", nil, func(scan func(...any) error) error { return scan(to...) })
		}
		if err := read(&from, &seq); err != nil {
			return unavailable(err)
		}
		if epoch <= from {
			return fmt.Errorf("another epoch, %d, has been begun meanwhile", from)
		}
		if err := carryOut(ctx, own, moveEpoch(epoch)); err != nil {
			return err
		}
		var now int64
		if err := read(&now, &seq); err != nil {
			return unavailable(err)
		}
		if now != epoch {
			return fmt.Errorf("another epoch, %d, was begun at the same time", now)
		}
		e, err := event(from, seq-lostMost)
		if err != nil {
			return err
		}
		return tellEpoch(ctx, own, false, e)
	})
}

// askOfChains does before an epoch what [moveEpoch] does of chains, in batches: whoever
// ends one meanwhile waits for one batch, not for the whole. What is left to the epoch is
// what was issued since. Alone it does no harm, if no epoch follows: to "ask" about a key
// that is valid is never wrong, and as nobody is told, nobody asks until the next change
// of its grant is told.
func (s *Store) askOfChains(ctx context.Context) error {
	for after, last := "", false; !last; {
		var end string
		err := s.row(ctx, "SELECT id FROM families WHERE id > $1 ORDER BY id LIMIT 1 OFFSET $2", []any{after, askBatch - 1}, &end)
		if last = errors.Is(err, oauth.ErrNotFound); last {
			end = behindAll
		} else if err != nil {
			return err
		}
		if err := s.engine.write(ctx, one(do("UPDATE families SET status = 'ask' WHERE id > $1 AND id <= $2 AND status = 'valid' AND due IS NOT NULL", after, end))); err != nil {
			return err
		}
		after = end
	}
	return nil
}

const askBatch = 1000

// tellEpoch writes the lists of an epoch that was begun, and its event.
func tellEpoch(ctx context.Context, own session, endAll bool, e oauth.Event) error {
	lists, err := listsOfNow(ctx, own.query, endAll)
	if err != nil {
		return err
	}
	return carryOut(ctx, own, append(lists, note(e, true, mark{"heads", "name", "name", "feed", "feed"})...))
}

// whole runs act in one transaction, and anew if the server gave that up for the sake
// of another. It is no event, because what it does grows with the database: it has no
// limit but ctx. What was not committed goes with the session.
func (s *Store) whole(ctx context.Context, act func(own session) error) error {
	for try := 0; ; try++ {
		err := s.attempt(ctx, act)
		if !gaveUp(err) || try == retriesMax || pause(ctx, try) != nil {
			return err
		}
	}
}

func (s *Store) attempt(ctx context.Context, act func(own session) error) (err error) {
	own, err := s.engine.session(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer func() { err = errors.Join(err, own.close()) }()
	if _, err := own.exec(ctx, s.engine.begin()); err != nil {
		return unavailable(err)
	}
	if err := act(own); err != nil {
		return err
	}
	_, err = own.exec(ctx, "COMMIT")
	switch {
	case gaveUp(err):
		return unavailable(err)
	case err != nil:
		return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
	}
	return nil
}

func carryOut(ctx context.Context, own session, steps []statement) error {
	for _, st := range steps {
		if _, err := own.exec(ctx, st.sql, st.args...); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// asks is how rows are read: by the engine, or in a transaction of a session.
type asks func(ctx context.Context, sql string, args []any, row func(scan func(...any) error) error) error

// lostMost is more events than a database can have lost. A token that was issued in
// what was lost has seen a sequence of then; the rules of the new epoch begin behind
// it, so that it falls under them.
const lostMost = 1 << 32

// listsOfNow writes every status list that there is anew: an index that no family
// has which is alive was handed out in what was lost, or is of one that is over, and
// is invalid from now on.
func listsOfNow(ctx context.Context, query asks, endAll bool) ([]statement, error) {
	const perList = listSize / oauth.ChunkValues
	over := bytes.Repeat([]byte{0b01010101}, oauth.ChunkValues/4)
	ev := []statement{
		do("DELETE FROM status_chunks"),
		// In one statement: there may be hundreds of lists, most of them of what is over.
		do(`WITH RECURSIVE places(chunk) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT chunk + 1 FROM places WHERE chunk + 1 < $1)
			INSERT INTO status_chunks (list, chunk, bits, seq)
			SELECT l.number, p.chunk, $2, h.seq FROM status_lists l, places p, heads h WHERE l.kind NOT IN ('going', 'gone') AND h.name = 'feed'`, int64(perList), over),
	}
	if endAll {
		return ev, nil
	}
	chunks := map[int64][]byte{} // of those who live: by list × chunks in a list + chunk
	err := query(ctx, "SELECT f.status_index, "+valueOf+", f.due IS NOT NULL FROM families f JOIN grants g ON g.id = f.grant_id JOIN users u ON u.id = g.user_id", nil,
		func(scan func(...any) error) error {
			var index int64
			var value oauth.StatusValue
			var chain bool
			if err := scan(&index, (*int64)(&value), &chain); err != nil {
				return unavailable(err)
			}
			if chain && value == oauth.StatusValid {
				value = oauth.StatusAsk
			}
			at := index / oauth.ChunkValues
			if value != oauth.StatusInvalid && chunks[at] == nil {
				chunks[at] = bytes.Clone(over)
			}
			if value != oauth.StatusInvalid {
				oauth.SetStatus(chunks[at], index%oauth.ChunkValues, value)
			}
			return nil
		})
	for at, bits := range chunks {
		ev = append(ev, do("UPDATE status_chunks SET bits = $3 WHERE list = $1 AND chunk = $2", at/perList, at%perList, bits))
	}
	return ev, err
}
