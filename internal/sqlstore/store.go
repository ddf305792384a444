// Package sqlstore is the one implementation of the storage contracts of oauth
// and people, on SQLite and on PostgreSQL, with one SQL text and one list of
// migrations.
//
// An event is an ordered list of statements with arguments and no Go code between
// them. The first locks the grant's row (PostgreSQL; SQLite has one writer). The
// second is the guard: it makes every check and writes this event's id into op.
// Every later one asks for that id, so a lost race is zero rows, never an error.
// On PostgreSQL the lock must be a statement of its own, because a statement that
// waited for a lock sees other tables as they were before it waited. Lock order:
// clients → users → grants → sessions, cutoffs, throttles → codes → families → refresh
// tokens → heads, the feed's the last of these → the changes and chunks of status lists. Whoever makes a
// grant, and whoever changes what all grants of a user allow, locks the user: a grant
// that the latter cannot see yet would be taken up beside the change.
//
// The differences of the two engines live in engine.go, sqlite.go, sqliteconn.go and
// postgres.go, and for the copying of whole tables in session.go.
package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Store implements oauth.Storage and people.Storage.
type Store struct {
	engine engine
	known  oauth.Recent[string, known] // by grant
	moved  chan struct{}               // an event of this process moved the feed
	heads  shared[head]
	follow shared[oauth.Followed]
	writes shared[struct{}] // whether it takes any

	apiSecrets sync.Map // of apiSecret: those that were an API's when they were last read
}

// Open opens the database that dsn names: a postgres:// URL, or the path of a
// SQLite file, which is made if it is not there. It does not migrate. A file that
// has moved, and a copy that is not whole, are refused.
func Open(ctx context.Context, dsn string) (*Store, error) {
	s, err := open(ctx, dsn)
	if err != nil {
		return nil, err
	}
	if err = s.usable(ctx); err != nil {
		err = fmt.Errorf("%w%s", err, remedy(err))
	} else {
		err = s.logsAhead(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func open(ctx context.Context, dsn string) (*Store, error) {
	var e engine
	var err error
	if IsPostgres(dsn) {
		e, err = openPostgres(ctx, dsn)
	} else {
		e, err = openShared(ctx, dsn)
	}
	if err != nil {
		return nil, err
	}
	return &Store{engine: e, moved: make(chan struct{}, 1)}, nil
}

// IsPostgres reports whether dsn names a PostgreSQL server.
func IsPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// Close waits for the events under way and closes the database.
func (s *Store) Close() error { return s.engine.close() }

// Ping reads one row, to show that the database answers, and asks whether it takes
// writes. Anybody may ask, so all who do at about the same time share both questions.
func (s *Store) Ping(ctx context.Context) error {
	if _, _, err := s.Head(ctx); err != nil {
		return err
	}
	_, err := s.writes.ask(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.engine.writable(forFeed.of(ctx))
	})
	return err
}

// Empty reports whether the database has no table at all, ours or anybody's.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	all, err := s.engine.tables(ctx)
	return len(all) == 0, err
}

// statement is one step of an event.
type statement struct {
	sql   string
	args  []any
	rows  *int64 // if not nil: receives how many rows it changed
	scan  []any  // if not nil: destinations for the one row of a RETURNING
	feed  bool   // moves the feed
	grant string // what it locks, if that is the row of one grant and nothing else
}

func do(sql string, args ...any) statement { return statement{sql: sql, args: args} }

func counted(n *int64, sql string, args ...any) statement {
	return statement{sql: sql, args: args, rows: n}
}

// lockGrant, lockUser and lockGrantsOf begin events that rest on grants.
func (s *Store) lockGrant(id string) []statement {
	lock := s.engine.lock("SELECT id FROM grants WHERE id = $1", id)
	for i := range lock {
		lock[i].grant = id
	}
	return lock
}

func (s *Store) lockUser(id string) []statement {
	return s.engine.lock("SELECT id FROM users WHERE id = $1", id)
}

func (s *Store) lockGrantsOf(userID string) []statement {
	return append(s.lockUser(userID), s.engine.lock("SELECT id FROM grants WHERE user_id = $1 ORDER BY id", userID)...)
}

// mark is what an event's guard left behind: later statements ask for it.
type mark struct {
	table, key, op string // op: the column that holds the event's id
	id, value      string
}

func opOf(table, id, op string) mark { return mark{table, "id", "op", id, op} }

// where renders the mark as a condition whose arguments are $n and $n+1.
func (m mark) where(n int) string {
	return "EXISTS (SELECT 1 FROM " + m.table + " WHERE " + m.key + " = $" + strconv.Itoa(n) + " AND " + m.op + " = $" + strconv.Itoa(n+1) + ")"
}

func (m mark) args(before ...any) []any { return slices.Concat(before, []any{m.id, m.value}) }

// note writes the event's row, and moves the feed first if feed is set: last of
// all, so that the row of the feed is locked for as short as can be.
func note(e oauth.Event, feed bool, m mark) []statement {
	if !feed {
		return one(noteIf(e, m.where(11), m.args()...))
	}
	return []statement{
		{sql: "UPDATE heads SET seq = seq + 1 WHERE name = 'feed' AND " + m.where(1), args: m.args(), feed: true},
		do(`INSERT INTO events (id, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload, seq)
			SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT),
			       CAST($7 AS TEXT), CAST($8 AS TEXT), CAST($9 AS TEXT), CAST($10 AS TEXT), h.seq
			FROM heads h WHERE h.name = 'feed' AND `+m.where(11), m.args(eventRow(e)...)...),
	}
}

// noteIf writes the event's row, without a place in the feed, if the condition when
// holds, whose arguments are $11 and on.
func noteIf(e oauth.Event, when string, args ...any) statement {
	return do(`INSERT INTO events (id, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload)
		SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT),
		       CAST($7 AS TEXT), CAST($8 AS TEXT), CAST($9 AS TEXT), CAST($10 AS TEXT)
		WHERE `+when, append(eventRow(e), args...)...)
}

func eventRow(e oauth.Event) []any {
	return []any{e.ID, micros(e.At), string(e.Kind), e.Actor, e.ClientID, e.UserID, e.GrantID, e.StoreID, e.Request, payload(e)}
}

func payload(e oauth.Event) string { return string(e.Payload) }

// won runs an event and reports whether its guard held.
func (s *Store) won(ctx context.Context, n *int64, steps ...[]statement) (bool, error) {
	ev := slices.Concat(steps...)
	if err := s.engine.write(ctx, ev); err != nil {
		return false, err
	}
	for i := range ev {
		if ev[i].feed {
			select {
			case s.moved <- struct{}{}:
			default: // the last one was not noticed yet
			}
			break
		}
	}
	return *n > 0, nil
}

func one(st statement) []statement { return []statement{st} }

// unavailable wraps a failure of the database, which is never the caller's fault.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", oauth.ErrUnavailable, err)
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

// orNull maps the zero time and the nil set to NULL.
func orNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func scopesOrNull(s oauth.ScopeSet) any {
	if s == nil {
		return nil
	}
	return s.String()
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func scopes(s string) oauth.ScopeSet { return oauth.Scopes(strings.Fields(s)...) }

// scopesFrom keeps NULL and the empty set apart.
func scopesFrom(s *string) oauth.ScopeSet {
	if s == nil {
		return nil
	}
	if set := scopes(*s); set != nil {
		return set
	}
	return oauth.ScopeSet{}
}
