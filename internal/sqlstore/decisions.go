package sqlstore

import (
	"context"
	"errors"
	"fmt"
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
func (s *Store) NoteDenial(ctx context.Context, of oauth.Allowance, e oauth.Event) (bool, error) {
	a := allowanceAt(of, e.At)
	if a.Most == (oauth.Bucket{}) {
		return true, s.NoteEvent(ctx, e)
	}
	var n int64
	return s.won(ctx, &n, a.take(&n, e.ID, "TRUE"), note(e, false, mark{"throttles", "key", "op", a.Of, e.ID}))
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
