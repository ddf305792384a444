package sqlstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
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
	h, err := s.heads.ask(ctx, s.head)
	return h.seq, h.epoch, err
}

// head is how far the feed is.
type head struct{ seq, epoch int64 }

func (s *Store) head(ctx context.Context) (h head, err error) {
	err = s.row(forFeed.of(ctx), "SELECT seq, epoch FROM heads WHERE name = 'feed'", nil, &h.seq, &h.epoch)
	return h, err
}

// FeedAfter implements oauth.EventStorage.
func (s *Store) FeedAfter(ctx context.Context, seq int64, limit int) ([]oauth.Event, error) {
	return s.events(ctx, "seq > $1 ORDER BY seq LIMIT $2", seq, limit)
}

// EventsOutside implements oauth.EventStorage.
func (s *Store) EventsOutside(ctx context.Context, id string, limit int) ([]oauth.Event, error) {
	return s.events(ctx, "seq IS NULL AND id > $1 ORDER BY id LIMIT $2", id, limit)
}

// restores asks for what stands in an index of its own.
const restores = "kind = 'database.restored' ORDER BY id"

// Restores implements oauth.EventStorage.
func (s *Store) Restores(ctx context.Context) ([]oauth.Event, error) { return s.events(ctx, restores) }

// behindAll is a text that comes after every id.
const behindAll = "\U0010FFFF"

// Events are found by reading them, from the newest on: an index for each filter would
// cost every exchange a page. What reads for long on a server is cut off, so each
// question is about so many events at most: few at first, as most lists want the newest.
const (
	eventsFirst  = 1000
	eventsWindow = 20_000
	windowEnd    = "SELECT id FROM events WHERE id < $1 ORDER BY id DESC LIMIT 1 OFFSET $2"
	inWindow     = `id < $4 AND id >= $7 AND ($1 = '' OR client_id = $1) AND ($2 = '' OR user_id = $2) AND ($3 = '' OR grant_id = $3)
		AND ($5 = '' OR kind = $5 OR substr(kind, 1, length($5) + 1) = $5 || '.')
		ORDER BY id DESC LIMIT $6`
)

// Events implements oauth.EventStorage.
func (s *Store) Events(ctx context.Context, f oauth.EventFilter) (found []oauth.Event, err error) {
	before := cmp.Or(f.Before, behindAll)
	for window := eventsFirst; ; window = min(4*window, eventsWindow) {
		var end string
		err := s.row(ctx, windowEnd, []any{before, window - 1}, &end)
		last := errors.Is(err, oauth.ErrNotFound)
		if err != nil && !last {
			return nil, err
		}
		list, err := s.events(ctx, inWindow, f.ClientID, f.UserID, f.GrantID, before, string(f.Kind), f.Limit-len(found), end)
		if err != nil {
			return nil, err
		}
		found = append(found, list...)
		if last || len(found) >= f.Limit {
			return found, nil
		}
		before = end
	}
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
