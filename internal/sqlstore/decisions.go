package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// allowance is a bucket of decisions at a moment: one row, whose until is when it is full
// again. Each decision moves that by what one takes to come back, and there is one left
// while it lies no further ahead than all but one of them take.
type allowance struct {
	oauth.Allowance
	now, last int64 // until may be last at most
}

func allowanceAt(a oauth.Allowance, now time.Time) allowance {
	return allowance{a, micros(now), micros(now.Add(a.Most.Lasts()))}
}

// ask adds to a guard that something is left.
func (a allowance) ask(ask string, args []any) (string, []any) {
	if a.Most == (oauth.Bucket{}) {
		return ask, args
	}
	ask += fmt.Sprintf(" AND NOT EXISTS (SELECT 1 FROM throttles WHERE key = $%d AND until > $%d)", len(args)+1, len(args)+2)
	return ask, append(args, a.Of, a.last)
}

// take takes one decision out, if the condition when holds, whose arguments are $7 and
// on, and if something is left.
func (a allowance) take(n *int64, op, when string, args ...any) []statement {
	if a.Most == (oauth.Bucket{}) {
		return nil
	}
	each := a.Most.Each().Microseconds()
	return one(counted(n, `INSERT INTO throttles (key, count, until, expires, op)
		SELECT CAST($1 AS TEXT), 0, CAST($2 AS BIGINT), CAST($2 AS BIGINT), CAST($3 AS TEXT) WHERE `+when+`
		ON CONFLICT (key) DO UPDATE SET op = excluded.op,
			until = CASE WHEN throttles.until < $4 THEN excluded.until ELSE throttles.until + $5 END,
			expires = CASE WHEN throttles.until < $4 THEN excluded.until ELSE throttles.until + $5 END
		WHERE throttles.until <= $6`, append([]any{a.Of, a.now + each, op, a.now, each, a.last}, args...)...))
}

// NoteDenial implements oauth.GrantStorage.
func (s *Store) NoteDenial(ctx context.Context, of oauth.Allowance, request string, e oauth.Event) (bool, error) {
	// The grant first, like whoever decides or redeems. It may be another one by then, so
	// the code as well: the guard must not find one unredeemed that is being redeemed.
	lock := slices.Concat(s.engine.lock("SELECT id FROM grants WHERE id = (SELECT grant_id FROM authorization_codes WHERE request = $1)", request),
		s.engine.lock("SELECT key FROM throttles WHERE key = $1", of.Of), // which comes before codes
		s.engine.lock("SELECT selector FROM authorization_codes WHERE request = $1", request))
	a, m := allowanceAt(of, e.At), mark{"throttles", "key", "op", of.Of, e.ID}
	var n int64
	taken, noted := a.take(&n, e.ID, untaken(7), request), note(e, false, m)
	if taken == nil { // nothing is counted: the event's row is the guard
		guard := noteIf(e, untaken(11), request)
		guard.rows = &n
		noted, m = one(guard), mark{"events", "id", "id", e.ID, e.ID}
	}
	// A code is void under a name that nobody has, as where another Allow replaces it. By
	// its time it would not be: a redemption brings the time at which it began. It asks
	// again, because an Allow that the guard did not see may be seen by now: that one came
	// after the denial, and stands.
	void := do("UPDATE authorization_codes SET selector = $1, op = $1 WHERE request = $2 AND redeemed_family IS NULL AND "+untaken(2)+" AND "+m.where(3),
		m.args(e.ID, request)...)
	return s.won(ctx, &n, lock, taken, noted, one(void))
}

// untaken asks that nothing has come of a request, argument $n: its code, if there is
// one, is unredeemed, and was not given for a connection that there is.
func untaken(n int) string {
	return fmt.Sprintf(`NOT EXISTS (SELECT 1 FROM authorization_codes a JOIN grants g ON g.id = a.grant_id
		WHERE a.request = $%d AND (a.redeemed_family IS NOT NULL OR g.status IN ('live', 'suspended')))`, n)
}

// NextDecision implements oauth.GrantStorage.
func (s *Store) NextDecision(ctx context.Context, a oauth.Allowance) (at time.Time, err error) {
	var until int64
	err = s.row(ctx, "SELECT until FROM throttles WHERE key = $1", []any{a.Of}, &until)
	if errors.Is(err, oauth.ErrNotFound) {
		return time.Time{}, nil
	}
	return fromMicros(until).Add(-a.Most.Lasts()), err
}
