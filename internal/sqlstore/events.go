package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

const eventColumns = "id, COALESCE(seq, 0), at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload"

func (s *Store) events(ctx context.Context, where string, args ...any) ([]oauth.Event, error) {
	var list []oauth.Event
	err := s.engine.query(ctx, "SELECT "+eventColumns+" FROM events WHERE "+where, args, func(scan func(...any) error) error {
		var e oauth.Event
		var at int64
		var payload string
		if err := scan(&e.ID, &e.Seq, &at, (*string)(&e.Kind), &e.Actor, &e.ClientID, &e.UserID, &e.GrantID, &e.StoreID, &e.Request, &payload); err != nil {
			return unavailable(err)
		}
		e.At = fromMicros(at)
		if payload != "" {
			e.Payload = json.RawMessage(payload)
		}
		list = append(list, e)
		return nil
	})
	return list, err
}

// Head implements oauth.EventStorage.
func (s *Store) Head(ctx context.Context) (seq, epoch int64, err error) {
	err = s.row(ctx, "SELECT seq, epoch FROM heads WHERE name = 'feed'", nil, &seq, &epoch)
	return seq, epoch, err
}

// FeedAfter implements oauth.EventStorage.
func (s *Store) FeedAfter(ctx context.Context, seq int64, limit int) ([]oauth.Event, error) {
	return s.events(ctx, "seq > $1 ORDER BY seq LIMIT $2", seq, limit)
}

// EventsOutside implements oauth.EventStorage.
func (s *Store) EventsOutside(ctx context.Context, id string, limit int) ([]oauth.Event, error) {
	return s.events(ctx, "seq IS NULL AND id > $1 ORDER BY id LIMIT $2", id, limit)
}

// Events implements oauth.EventStorage.
func (s *Store) Events(ctx context.Context, f oauth.EventFilter) ([]oauth.Event, error) {
	return s.events(ctx, `($1 = '' OR client_id = $1) AND ($2 = '' OR user_id = $2) AND ($3 = '' OR grant_id = $3) AND ($4 = '' OR id < $4)
		AND ($5 = '' OR kind = $5 OR substr(kind, 1, length($5) + 1) = $5 || '.')
		ORDER BY id DESC LIMIT $6`, f.ClientID, f.UserID, f.GrantID, f.Before, string(f.Kind), f.Limit)
}

// NoteEvent implements oauth.EventStorage.
func (s *Store) NoteEvent(ctx context.Context, e oauth.Event) error {
	return s.engine.write(ctx, note(e, false, mark{"heads", "name", "name", "feed", "feed"}))
}

// PutPending implements oauth.EventStorage.
func (s *Store) PutPending(ctx context.Context, selector, kind string, sealed []byte, expires time.Time) error {
	return s.engine.write(ctx, one(do("INSERT INTO pending_requests (selector, kind, sealed, expires) VALUES ($1, $2, $3, $4)", selector, kind, sealed, micros(expires))))
}

// Pending implements oauth.EventStorage.
func (s *Store) Pending(ctx context.Context, selector, kind string, now time.Time) (sealed []byte, err error) {
	err = s.row(ctx, "SELECT sealed FROM pending_requests WHERE selector = $1 AND kind = $2 AND expires > $3", []any{selector, kind, micros(now)}, &sealed)
	return sealed, err
}

// Sweep implements oauth.EventStorage. Codes go CodeMemory after their end, and
// refresh tokens a day after theirs, so that a late client is still told why. The
// event of a guest's code that nobody redeemed goes with it, and a grant whose code
// nobody redeemed within a day goes too, for nothing hangs off it. The rows of
// families stay: their status index outlives them.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	n := micros(now)
	memory := n - oauth.CodeMemory.Microseconds()
	const day = 24 * time.Hour
	counts := make([]int64, 9)
	ev := []statement{
		counted(&counts[0], `DELETE FROM events WHERE id IN (SELECT c.op FROM
			(SELECT op, grant_id, redeemed_family FROM authorization_codes WHERE expires < $1 ORDER BY expires, selector LIMIT $2) c
			WHERE c.grant_id IS NULL AND c.redeemed_family IS NULL)`, memory, limit),
		counted(&counts[1], "DELETE FROM authorization_codes WHERE selector IN (SELECT selector FROM authorization_codes WHERE expires < $1 ORDER BY expires, selector LIMIT $2)", memory, limit),
		counted(&counts[2], "DELETE FROM refresh_tokens WHERE selector IN (SELECT selector FROM refresh_tokens WHERE idle_until < $1 ORDER BY idle_until LIMIT $2)", n-day.Microseconds(), limit),
		counted(&counts[3], "DELETE FROM sessions WHERE selector IN (SELECT selector FROM sessions WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit),
		counted(&counts[4], "DELETE FROM throttles WHERE key IN (SELECT key FROM throttles WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit),
		counted(&counts[5], "DELETE FROM pending_requests WHERE selector IN (SELECT selector FROM pending_requests WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit),
		counted(&counts[6], "DELETE FROM used_once WHERE hash IN (SELECT hash FROM used_once WHERE expires < $1 ORDER BY expires LIMIT $2)", n, limit),
	}
	// A grant may be taken up while it is being looked for, so it is marked first, if
	// it still is pending, and only what is marked goes.
	mark := fmt.Sprintf("sweep-%d", n)
	ev = append(ev,
		do(`UPDATE grants SET op = $1, status = 'revoked' WHERE status = 'pending' AND id IN (SELECT g.id FROM grants g
			WHERE g.status = 'pending' AND g.created < $2 AND NOT EXISTS (SELECT 1 FROM authorization_codes a WHERE a.grant_id = g.id)
			ORDER BY g.created, g.id LIMIT $3)`, mark, n-day.Microseconds(), limit),
		do("DELETE FROM grant_stores WHERE grant_id IN (SELECT id FROM grants WHERE op = $1 AND status = 'revoked' AND created < $2)", mark, n-day.Microseconds()),
		counted(&counts[7], "DELETE FROM grants WHERE op = $1 AND status = 'revoked' AND created < $2", mark, n-day.Microseconds()))
	// Each kind is an event of its own, so that no lock is held for long.
	total := 0
	for i := range ev {
		var batch []statement
		switch i {
		case 0, 7, 8:
			continue // goes with what the last of its kind removes
		case 1:
			batch = ev[0:2]
		case 9:
			batch = ev[7:10]
		default:
			batch = ev[i : i+1]
		}
		if err := s.engine.write(ctx, batch); err != nil {
			return total, err
		}
	}
	for _, c := range counts {
		total += int(c)
	}
	return total, nil
}
