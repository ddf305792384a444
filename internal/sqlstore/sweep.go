package sqlstore

import (
	"context"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Sweep implements oauth.EventStorage. Each kind is an event of its own, so that no
// lock is held for long.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	n := micros(now)
	const day = 24 * time.Hour
	total := 0
	for _, e := range []ended{
		s.endedCodes(n-oauth.CodeMemory.Microseconds(), limit),
		{remove: one(do("DELETE FROM refresh_tokens WHERE selector IN (SELECT selector FROM refresh_tokens WHERE idle_until < $1 ORDER BY idle_until LIMIT $2)", n-day.Microseconds(), limit))},
		{remove: one(do("DELETE FROM sessions WHERE selector IN (SELECT selector FROM sessions WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit))},
		{remove: one(do("DELETE FROM throttles WHERE key IN (SELECT key FROM throttles WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit))},
		{remove: one(do("DELETE FROM pending_requests WHERE selector IN (SELECT selector FROM pending_requests WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit))},
		{remove: one(do("DELETE FROM used_once WHERE hash IN (SELECT hash FROM used_once WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit))},
	} {
		counts := make([]int64, len(e.remove))
		for i := range e.remove {
			e.remove[i].rows = &counts[i]
		}
		// Sweepers exclude each other, so that all statements of one see the same rows.
		steps := slices.Concat(s.engine.lock("SELECT name FROM leases WHERE name = 'sweep'"), e.lock, e.remove)
		if err := s.engine.write(ctx, steps); err != nil {
			return total, err
		}
		for _, c := range counts {
			total += int(c)
		}
	}
	return total, nil
}

// ended is how rows of one kind go.
type ended struct{ lock, remove []statement }

// endedCodes removes codes, CodeMemory after their end, and what hangs off nothing
// else: the event of a guest's code that nobody redeemed, and a grant that was
// never taken up and has no later code.
func (s *Store) endedCodes(before int64, limit int) ended {
	const codes = "(SELECT selector, grant_id, op, redeemed_family FROM authorization_codes WHERE expires < $1 ORDER BY expires, selector LIMIT $2) c"
	const grants = "SELECT g.id FROM " + codes + ` JOIN grants g ON g.id = c.grant_id
		WHERE g.status = 'pending' AND NOT EXISTS (SELECT 1 FROM authorization_codes a WHERE a.grant_id = g.id AND a.expires >= $1)`
	e := ended{lock: s.engine.lock("SELECT id FROM grants WHERE id IN ("+grants+") ORDER BY id", before, limit)}
	for _, sql := range []string{
		"DELETE FROM events WHERE id IN (SELECT c.op FROM " + codes + " WHERE c.grant_id IS NULL AND c.redeemed_family IS NULL)",
		"DELETE FROM grant_stores WHERE grant_id IN (" + grants + ")",
		"DELETE FROM grants WHERE id IN (" + grants + ")",
		"DELETE FROM authorization_codes WHERE selector IN (SELECT c.selector FROM " + codes + ")",
	} {
		e.remove = append(e.remove, do(sql, before, limit))
	}
	return e
}
