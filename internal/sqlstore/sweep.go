package sqlstore

import (
	"context"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Lease implements oauth.EventStorage.
func (s *Store) Lease(ctx context.Context, name, holder string, now, until time.Time) (bool, error) {
	var n int64
	return s.won(ctx, &n, one(counted(&n, `INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until WHERE leases.holder = excluded.holder OR leases.until <= $4`,
		name, holder, micros(until), micros(now))))
}

// ended is how the rows of one kind go: each statement asks $1, the time before
// which they were over, and $2, how many may go.
type ended struct {
	before int64
	share  int      // of the limit, one part in so many: a row from which much hangs takes longer
	lock   []string // SELECTs
	remove []string
}

const (
	day        = 24 * time.Hour
	sweepShare = 4   // the smallest share of the limit that a kind has: contract of Sweep
	sweepEvent = 100 // rows: what one event removes must not keep others waiting for 10 ms
)

// Sweep implements oauth.EventStorage. Each kind goes in events of its own, one after
// the other until one finds less than it may remove: a kind of which little is over
// is not asked again because of another.
func (s *Store) Sweep(ctx context.Context, now time.Time, kept time.Duration, limit int) (int, error) {
	total := 0
	for _, e := range sweeps(now, kept) {
		for left := max(limit/e.share, 1); left > 0; {
			rows := min(left, sweepEvent/e.share)
			n, err := s.remove(ctx, e, rows)
			if total += n; err != nil {
				return total, err
			}
			if left -= rows; n < rows {
				break
			}
		}
	}
	return total, nil
}

// remove is one event.
func (s *Store) remove(ctx context.Context, e ended, limit int) (total int, err error) {
	// Sweepers exclude each other, so that all statements of one see the same rows.
	steps := s.engine.lock("SELECT name FROM leases WHERE name = 'sweep'")
	for _, sql := range e.lock {
		steps = append(steps, s.engine.lock(sql, e.before, limit)...)
	}
	counts := make([]int64, len(e.remove))
	for i, sql := range e.remove {
		steps = append(steps, counted(&counts[i], sql, e.before, limit))
	}
	if err := s.engine.write(ctx, steps); err != nil {
		return 0, err // an event whose outcome is unknown may still write the counts
	}
	for _, n := range counts {
		total += int(n)
	}
	return total, nil
}

// sweeps lists what ends. The order is that of the locks, where it matters: what
// one removes, the next may find to hang off nothing.
func sweeps(now time.Time, kept time.Duration) []ended {
	list := []ended{endedCodes(now), endedFamilies(now), endedGrants(now, kept)}
	for _, t := range []struct{ name, key string }{{"sessions", "selector"}, {"throttles", "key"}, {"pending_requests", "selector"}, {"used_once", "kind, hash"}} {
		list = append(list, ended{before: micros(now), share: 1, remove: []string{
			"DELETE FROM " + t.name + " WHERE expires < $1 AND (" + t.key + ") IN (SELECT " + t.key + " FROM " + t.name + " WHERE expires < $1 ORDER BY expires LIMIT $2)"}})
	}
	list = append(list, endedChanges(now), endedLists(now), ended{before: micros(now.Add(-oauth.FollowerKept)), share: 1, remove: []string{
		"DELETE FROM followers WHERE seen < $1 AND (api, instance) IN (SELECT api, instance FROM followers WHERE seen < $1 ORDER BY seen LIMIT $2)"}})
	// Ids sort by time, so the oldest events lie together at the start of their key.
	return append(list, ended{before: micros(now.Add(-kept)), share: 1, remove: []string{
		"DELETE FROM events WHERE at < $1 AND id IN (SELECT id FROM events ORDER BY id LIMIT $2)"}})
}

// endedCodes removes codes, CodeMemory after their end, and what hangs off nothing
// else: the event of a guest's code that nobody redeemed, whether it would have made the
// guest or continued him (it names a family), and a grant that was
// never taken up and has no later code.
func endedCodes(now time.Time) ended {
	const codes = "(SELECT selector, grant_id, family, op, redeemed_family FROM authorization_codes WHERE expires < $1 ORDER BY expires, selector LIMIT $2) c"
	const grants = "SELECT g.id FROM " + codes + ` JOIN grants g ON g.id = c.grant_id
		WHERE g.status = 'pending' AND NOT EXISTS (SELECT 1 FROM authorization_codes a WHERE a.grant_id = g.id AND a.expires >= $1)`
	return ended{micros(now.Add(-oauth.CodeMemory)), 2, []string{"SELECT id FROM grants WHERE id IN (" + grants + ") ORDER BY id"}, []string{
		"DELETE FROM events WHERE id IN (SELECT c.op FROM " + codes + " WHERE (c.grant_id IS NULL OR c.family IS NOT NULL) AND c.redeemed_family IS NULL)",
		"DELETE FROM grant_stores WHERE grant_id IN (" + grants + ")",
		"DELETE FROM grants WHERE id IN (" + grants + ")",
		"DELETE FROM authorization_codes WHERE selector IN (SELECT c.selector FROM " + codes + ")",
	}}
}

// endedFamilies removes families a day after their end, with their refresh tokens,
// and puts off those that are alive. Their status index outlives them. A grant that
// consent does not come back to is due once its family is gone.
func endedFamilies(now time.Time) ended {
	const due = "(SELECT id, grant_id FROM families WHERE due < $1 ORDER BY due, id LIMIT $2) f"
	const chain = "EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.family = families.id)"
	const over = due + " WHERE NOT EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.family = f.id)"
	return ended{micros(now.Add(-day)), sweepShare, []string{"SELECT id FROM grants WHERE id IN (SELECT f.grant_id FROM " + due + ") ORDER BY id"}, []string{
		"DELETE FROM refresh_tokens WHERE family IN (SELECT f.id FROM " + due + `) AND (idle_until < $1 OR absolute_until < $1
			OR EXISTS (SELECT 1 FROM families x WHERE x.id = refresh_tokens.family AND x.status = 'invalid'))`,
		"UPDATE families SET due = (SELECT MAX(CASE WHEN t.absolute_until < t.idle_until THEN t.absolute_until ELSE t.idle_until END)" +
			" FROM refresh_tokens t WHERE t.family = families.id) WHERE id IN (SELECT f.id FROM " + due + ") AND " + chain,
		"UPDATE grants SET due = 0 WHERE status <> 'revoked' AND NOT is_default AND id IN (SELECT f.grant_id FROM " + over + ")",
		"DELETE FROM families WHERE id IN (SELECT f.id FROM " + over + ")",
	}}
}

// endedGrants removes grants without a family that were revoked before what is kept
// begins, or that nobody can use again, with a guest who has no other.
func endedGrants(now time.Time, kept time.Duration) ended {
	// What is not over is passed over inside the window of the limit: looked for beyond
	// it, a batch would grow with the table.
	const due = "(SELECT id, user_id FROM grants WHERE due < $1 ORDER BY due, id LIMIT $2) g"
	const over = due + ` WHERE NOT EXISTS (SELECT 1 FROM families f WHERE f.grant_id = g.id)
		AND NOT EXISTS (SELECT 1 FROM authorization_codes a WHERE a.grant_id = g.id)`
	return ended{micros(now.Add(-kept)), sweepShare, []string{
		"SELECT id FROM users WHERE kind = 'guest' AND id IN (SELECT g.user_id FROM " + over + ") ORDER BY id",
		"SELECT id FROM grants WHERE id IN (SELECT g.id FROM " + over + ") ORDER BY id",
	}, []string{
		"DELETE FROM users WHERE kind = 'guest' AND id IN (SELECT g.user_id FROM " + over + `)
			AND NOT EXISTS (SELECT 1 FROM grants o WHERE o.user_id = users.id AND o.id NOT IN (SELECT g.id FROM ` + over + "))",
		"DELETE FROM grant_stores WHERE grant_id IN (SELECT g.id FROM " + over + ")",
		"DELETE FROM grants WHERE id IN (SELECT g.id FROM " + over + ")",
		"UPDATE grants SET due = NULL WHERE status <> 'revoked' AND id IN (SELECT g.id FROM " + due + `)
			AND EXISTS (SELECT 1 FROM families f WHERE f.grant_id = grants.id)`,
	}}
}

// endedChanges removes what was folded into chunks and is older than any follower
// that does not begin anew. What is kept is whole from a sequence on.
func endedChanges(now time.Time) ended {
	const upto = `(SELECT COALESCE(MAX(seq), 0) FROM (SELECT seq, at FROM (SELECT seq, at FROM status_changes UNION ALL SELECT seq, at FROM rule_changes) c
		WHERE seq <= (SELECT seq FROM heads WHERE name = 'folded') ORDER BY seq LIMIT $2) o WHERE at < $1)`
	const kept = "(SELECT seq FROM heads WHERE name = 'kept')"
	return ended{before: micros(now.Add(-oauth.FeedKept)), share: 1, remove: []string{
		"UPDATE heads SET seq = " + upto + " WHERE name = 'kept' AND seq < " + upto,
		"DELETE FROM status_changes WHERE (seq, status_index) IN (SELECT seq, status_index FROM status_changes WHERE at < $1 AND seq <= " + kept + " ORDER BY seq, status_index LIMIT $2)",
		"DELETE FROM rule_changes WHERE seq IN (SELECT seq FROM rule_changes WHERE at < $1 AND seq <= " + kept + " ORDER BY seq LIMIT $2)",
	}}
}

// endedLists drops the bits of lists of refresh chains that are full, or of an older
// epoch, once no family of theirs is left: a family goes a day after its end, when
// the last of its tokens has long expired. The number stays, so that it is never
// given again. A node may still hold indices of a list that it was allotted of late.
// Lists of lasting keys stay, because a key of theirs has no end.
//
// A list has many chunks, and goes over as many batches as they need. It is "going"
// from before the first is removed until after the last, so that nobody reads what is
// left of it, in which an index without a chunk would be valid.
func endedLists(now time.Time) ended {
	over := fmt.Sprintf(`(SELECT number FROM status_lists l WHERE l.kind = 'family' AND l.allotted < $1
		AND (l.next >= %[1]d - %[2]d OR l.number < (SELECT epoch FROM heads WHERE name = 'feed') * %[3]d)
		AND NOT EXISTS (SELECT 1 FROM families f WHERE f.status_index >= l.number * %[1]d AND f.status_index < (l.number + 1) * %[1]d)
		ORDER BY l.number LIMIT $2)`, listSize, oauth.BlockSize, listsMax)
	const going = "(SELECT l.number FROM status_lists l WHERE l.kind = 'going' AND l.allotted < $1 ORDER BY l.number LIMIT $2) g"
	return ended{before: micros(now.Add(-oauth.BlockKept - day)), share: 1, remove: []string{
		"UPDATE status_lists SET kind = 'going' WHERE number IN " + over,
		"DELETE FROM status_chunks WHERE (list, chunk) IN (SELECT c.list, c.chunk FROM " + going + " JOIN status_chunks c ON c.list = g.number LIMIT $2)",
		"UPDATE status_lists SET kind = 'gone' WHERE number IN (SELECT g.number FROM " + going +
			" WHERE NOT EXISTS (SELECT 1 FROM status_chunks c WHERE c.list = g.number))",
	}}
}
