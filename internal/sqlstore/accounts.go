package sqlstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

var (
	_ oauth.Storage  = (*Store)(nil)
	_ people.Storage = (*Store)(nil)
)

// Login implements people.Storage.
func (s *Store) Login(ctx context.Context, issuer, subject string) (*people.Login, *oauth.User, error) {
	var u userReader
	l := people.Login{Issuer: issuer, Subject: subject}
	err := s.row(ctx, "SELECT l.credential, l.op, "+accountColumns+" FROM logins l JOIN users u ON u.id = l.user_id WHERE l.issuer = $1 AND l.subject = $2",
		[]any{issuer, subject}, append([]any{&l.Credential, &l.Set}, u.dest()...)...)
	if err != nil {
		return nil, nil, err
	}
	l.UserID = u.user.ID
	return &l, u.result(), nil
}

// LoginOf implements people.Storage.
func (s *Store) LoginOf(ctx context.Context, issuer, userID string) (*people.Login, error) {
	l := people.Login{Issuer: issuer, UserID: userID}
	err := s.row(ctx, "SELECT subject, credential, op FROM logins WHERE issuer = $1 AND user_id = $2", []any{issuer, userID}, &l.Subject, &l.Credential, &l.Set)
	if err != nil {
		return nil, err
	}
	return &l, nil
}

// SetPassword implements people.Storage.
func (s *Store) SetPassword(ctx context.Context, was *people.Login, credential string, e oauth.Event) (bool, error) {
	return s.setPassword(ctx, was.UserID, e, "credential = $3 WHERE user_id = $1 AND issuer = $4 AND subject = $5 AND op = $6", credential, was.Issuer, was.Subject, was.Set)
}

// EndPassword implements oauth.PeopleStorage.
func (s *Store) EndPassword(ctx context.Context, userID string, e oauth.Event) (bool, error) {
	return s.setPassword(ctx, userID, e, "credential = '' WHERE user_id = $1 AND issuer = $3", people.ByPassword)
}

// setPassword sets what set says, whose arguments begin at $3, in the login of a user.
// The user is locked, as he is by who starts a session.
func (s *Store) setPassword(ctx context.Context, userID string, e oauth.Event, set string, args ...any) (bool, error) {
	var n int64
	m := mark{"logins", "user_id", "op", userID, e.ID}
	return s.won(ctx, &n, s.lockUser(userID),
		one(counted(&n, "UPDATE logins SET op = $2, "+set, append([]any{userID, e.ID}, args...)...)),
		one(do("DELETE FROM sessions WHERE user_id = $1 AND "+m.where(2), m.args(userID)...)),
		note(e, false, m))
}

const accountColumns = "u.id, u.kind, u.name, u.email, u.operator, u.status, u.created"

type userReader struct {
	user    oauth.User
	created int64
}

func (r *userReader) dest() []any {
	u := &r.user
	return []any{&u.ID, (*string)(&u.Kind), &u.Name, &u.Email, &u.Operator, (*string)(&u.Status), &r.created}
}

func (r *userReader) result() *oauth.User {
	r.user.Created = fromMicros(r.created)
	return &r.user
}

// CreateAccount implements people.Storage. The login is the guard, if there is one:
// two forms with one address are likelier than two with one id. An invite's row is
// locked, so that of two logins for one invite the second sees it spent.
func (s *Store) CreateAccount(ctx context.Context, a *people.Account) (bool, error) {
	u := &a.User
	if a.Login == nil {
		return s.CreateUser(ctx, u, a.Created)
	}
	var n int64
	op := a.Created.ID
	m := mark{"logins", "subject", "op", a.Login.Subject, op}
	guard := `INSERT INTO logins (issuer, subject, user_id, credential, op)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT)
		WHERE NOT EXISTS (SELECT 1 FROM users WHERE id = $3)`
	args := []any{a.Login.Issuer, a.Login.Subject, u.ID, a.Login.Credential, op}
	steps := []statement{do(`INSERT INTO users (id, kind, name, email, operator, status, members_rev, op, created)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS BOOLEAN), 'active', 0, CAST($6 AS TEXT), CAST($7 AS BIGINT)
		WHERE `+m.where(8), m.args(userArgs(u, a.Created)...)...)}
	var lock []statement
	if i := a.Invite; i != nil {
		lock = s.engine.lock("SELECT selector FROM pending_requests WHERE selector = $1", i.Selector)
		guard += ` AND EXISTS (SELECT 1 FROM pending_requests WHERE selector = $6 AND kind = '` + inviteKind + `' AND expires > $7)
			AND NOT EXISTS (SELECT 1 FROM used_once WHERE kind = '` + inviteKind + `' AND hash = $8)`
		args = append(args, i.Selector, micros(a.Now), []byte(i.Hash))
		steps = append(steps, do(`INSERT INTO used_once (kind, hash, op, expires)
			SELECT '`+inviteKind+`', $1, CAST($2 AS TEXT), CAST($3 AS BIGINT) WHERE `+m.where(4), m.args([]byte(i.Hash), op, micros(i.Expires))...))
	}
	steps = append(steps, note(a.Created, false, m)...)
	if a.Session != nil {
		steps = append(steps, insertSession(a.Session, op, m.where(8), m.args()...))
		steps = append(steps, remember(a.Familiar, m)...)
		steps = append(steps, note(a.SignedIn, false, m)...)
	}
	return s.won(ctx, &n, lock, one(counted(&n, guard+" ON CONFLICT DO NOTHING", args...)), steps)
}

// remember keeps what is familiar, in a row of the counters that is never counted: the
// sweeper ends it.
func remember(f people.Familiar, m mark) []statement {
	if f.Key == "" {
		return nil
	}
	return one(do("INSERT INTO throttles (key, count, until, expires, op) SELECT CAST($1 AS TEXT), 0, 0, CAST($2 AS BIGINT), '' WHERE "+m.where(3)+
		" ON CONFLICT (key) DO UPDATE SET expires = excluded.expires", m.args(f.Key, micros(f.Until))...))
}

// insertSession stores a session under a condition whose arguments begin at $8. The
// hash is not cast: SQLite takes BYTEA for a number, and would make it one.
func insertSession(t *people.StoredSession, op, where string, args ...any) statement {
	return do(`INSERT INTO sessions (selector, hash, user_id, auth_time, amr, expires, op)
		SELECT CAST($1 AS TEXT), $2, CAST($3 AS TEXT), CAST($4 AS BIGINT), CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS TEXT) WHERE `+where,
		append([]any{t.Selector, []byte(t.Hash), t.UserID, micros(t.AuthTime), t.AMR, micros(t.Expires), op}, args...)...)
}

// StartSession implements people.Storage.
func (s *Store) StartSession(ctx context.Context, r *people.SignInRecord) (bool, error) {
	var n int64
	t, op := &r.Session, r.Event.ID
	m := mark{"sessions", "selector", "op", t.Selector, op}
	guard := insertSession(t, op, "EXISTS (SELECT 1 FROM users WHERE id = $3 AND status = 'active') AND EXISTS (SELECT 1 FROM logins WHERE issuer = $8 AND subject = $9 AND op = $10)",
		r.Login.Issuer, r.Login.Subject, r.Login.Set)
	guard.rows = &n
	var steps []statement
	for _, key := range r.Clear {
		steps = append(steps, do("DELETE FROM throttles WHERE key = $1 AND "+m.where(2), m.args(key)...))
	}
	for _, key := range r.Uncount {
		// Whatever closes the key now is this attempt: nobody was admitted after it.
		steps = append(steps, do("UPDATE throttles SET count = count - 1, until = 0 WHERE key = $1 AND count > 0 AND "+m.where(2), m.args(key)...))
	}
	steps = append(steps, remember(r.Familiar, m)...)
	if r.Credential != "" {
		steps = append(steps, do("UPDATE logins SET credential = $1 WHERE issuer = $2 AND subject = $3 AND credential = $4 AND "+m.where(5),
			m.args(r.Credential, r.Login.Issuer, r.Login.Subject, r.Login.Credential)...))
	}
	// The user is locked, so that no session is started beside what ends his others, his
	// suspension or another password, and outlives it.
	return s.won(ctx, &n, s.lockUser(t.UserID), s.lockThrottles(slices.Concat(r.Clear, r.Uncount)), one(guard), steps, note(r.Event, false, m))
}

// Session implements people.Storage.
func (s *Store) Session(ctx context.Context, selector string) (*people.StoredSession, *oauth.User, error) {
	var u userReader
	var auth, expires int64
	t := people.StoredSession{Selector: selector}
	err := s.row(ctx, "SELECT t.hash, t.auth_time, t.amr, t.expires, "+accountColumns+" FROM sessions t JOIN users u ON u.id = t.user_id WHERE t.selector = $1",
		[]any{selector}, append([]any{(*[]byte)(&t.Hash), &auth, &t.AMR, &expires}, u.dest()...)...)
	if err != nil {
		return nil, nil, err
	}
	t.UserID, t.AuthTime, t.Expires = u.user.ID, fromMicros(auth), fromMicros(expires)
	return &t, u.result(), nil
}

// EndSession implements people.Storage.
func (s *Store) EndSession(ctx context.Context, selector string, e oauth.Event) (bool, error) {
	return s.endSessions(ctx, "selector", selector, e)
}

// EndSessions implements people.Storage.
func (s *Store) EndSessions(ctx context.Context, userID string, e oauth.Event) (bool, error) {
	return s.endSessions(ctx, "user_id", userID, e)
}

// endSessions marks the rows first and removes them last, so that the steps between
// can ask for the mark.
func (s *Store) endSessions(ctx context.Context, column, value string, e oauth.Event) (bool, error) {
	var n int64
	m := mark{"sessions", column, "op", value, e.ID}
	return s.won(ctx, &n,
		one(counted(&n, "UPDATE sessions SET op = $1 WHERE "+column+" = $2", e.ID, value)),
		note(e, false, m),
		one(do("DELETE FROM sessions WHERE "+column+" = $1 AND op = $2", value, e.ID)))
}

// Admit implements people.Storage. Every row is there and locked, always in the
// same order, before the guard looks at them.
func (s *Store) Admit(ctx context.Context, op string, limits []people.Limit, now time.Time) (bool, error) {
	keys := make([]string, len(limits))
	var steps []statement
	for i, l := range limits {
		keys[i] = l.Key
	}
	at := micros(now)
	for _, l := range slices.SortedFunc(slices.Values(limits), func(a, b people.Limit) int { return strings.Compare(a.Key, b.Key) }) {
		steps = append(steps, do("INSERT INTO throttles (key, count, until, expires, op) VALUES ($1, 0, 0, $2, '') ON CONFLICT DO NOTHING", l.Key, at+l.Window.Microseconds()))
	}
	steps = append(steps, s.lockThrottles(keys)...)
	var n int64
	m := mark{"throttles", "key", "op", keys[0], op}
	in, args := among(keys, 4)
	steps = append(steps, counted(&n, "UPDATE throttles SET op = $1 WHERE key = $2 AND NOT EXISTS (SELECT 1 FROM throttles WHERE until > $3 AND key IN ("+in+
		")) AND (SELECT COUNT(*) FROM throttles WHERE key IN ("+in+")) = "+fmt.Sprint(len(keys)), append([]any{op, keys[0], at}, args...)...))
	for _, l := range limits {
		steps = append(steps,
			do(`UPDATE throttles SET until = 0, count = CASE WHEN expires <= $1 THEN 1 ELSE count + 1 END, expires = CASE WHEN expires <= $1 THEN $2 ELSE expires END
				WHERE key = $3 AND `+m.where(4), m.args(at, at+l.Window.Microseconds(), l.Key)...),
			do(`UPDATE throttles SET until = CAST($1 AS BIGINT) + CASE WHEN count - CAST($2 AS BIGINT) >= $3 THEN CAST($4 AS BIGINT)
					ELSE CAST($5 AS BIGINT) << CAST(count - CAST($2 AS BIGINT) AS INTEGER) END
				WHERE key = $6 AND count >= CAST($2 AS BIGINT) AND `+m.where(7),
				m.args(at, l.Free, l.Doublings(), l.Max.Microseconds(), l.First.Microseconds(), l.Key)...),
			do("UPDATE throttles SET expires = until WHERE key = $1 AND expires < until AND "+m.where(2), m.args(l.Key)...))
	}
	return s.won(ctx, &n, steps)
}

// lockThrottles locks counters in the order of their keys.
func (s *Store) lockThrottles(keys []string) []statement {
	if len(keys) == 0 {
		return nil
	}
	in, args := among(keys, 1)
	return s.engine.lock("SELECT key FROM throttles WHERE key IN ("+in+") ORDER BY key", args...)
}

// among renders the inside of an IN whose arguments begin at $n.
func among(keys []string, n int) (string, []any) {
	places, args := make([]string, len(keys)), make([]any, len(keys))
	for i, k := range keys {
		places[i], args[i] = fmt.Sprintf("$%d", n+i), k
	}
	return strings.Join(places, ", "), args
}

// ClosedUntil implements people.Storage.
func (s *Store) ClosedUntil(ctx context.Context, keys []string) (time.Time, error) {
	var until int64
	in, args := among(keys, 1)
	err := s.row(ctx, "SELECT COALESCE(MAX(until), 0) FROM throttles WHERE key IN ("+in+")", args, &until)
	return fromMicros(until), err
}

// Familiar implements people.Storage.
func (s *Store) Familiar(ctx context.Context, key string, now time.Time) (bool, error) {
	var is bool
	err := s.row(ctx, "SELECT EXISTS (SELECT 1 FROM throttles WHERE key = $1 AND expires > $2)", []any{key, micros(now)}, &is)
	return is, err
}

const inviteKind = "operator"

// PutInvite implements people.Storage.
func (s *Store) PutInvite(ctx context.Context, selector string, h oauth.Hash, expires time.Time, e oauth.Event) error {
	put := do("INSERT INTO pending_requests (selector, kind, sealed, expires) VALUES ($1, $2, $3, $4)", selector, inviteKind, []byte(h), micros(expires))
	return s.engine.write(ctx, append(one(put), note(e, false, mark{"pending_requests", "selector", "kind", selector, inviteKind})...))
}

// Invite implements people.Storage.
func (s *Store) Invite(ctx context.Context, selector string) (*people.Invite, error) {
	i := people.Invite{Selector: selector}
	var expires int64
	err := s.row(ctx, `SELECT p.sealed, p.expires, o.hash IS NOT NULL FROM pending_requests p LEFT JOIN used_once o ON o.kind = p.kind AND o.hash = p.sealed
		WHERE p.selector = $1 AND p.kind = $2`, []any{selector, inviteKind}, (*[]byte)(&i.Hash), &expires, &i.Used)
	if err != nil {
		return nil, err
	}
	i.Expires = fromMicros(expires)
	return &i, nil
}
