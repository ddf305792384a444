package sqlstore

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

const clientColumns = "id, owner, name, type, profile, origin, auth_method, settings, status, version, created"

// clientParts reads an app's redirects and scopes, a line each, in the question that
// reads the app. Neither holds a line break.
const clientParts = `, COALESCE((SELECT string_agg(r.uri, ` + "'\n'" + ` ORDER BY r.position) FROM client_redirects r WHERE r.client_id = clients.id), ''),
	COALESCE((SELECT string_agg(CASE WHEN p.required THEN '!' ELSE '?' END || p.scope, ` + "'\n'" + ` ORDER BY p.scope) FROM client_scopes p WHERE p.client_id = clients.id), '')`

func scanClient(scan func(...any) error) (*oauth.Client, error) {
	var c oauth.Client
	var settings, redirects, scopes string
	var created int64
	if err := scan(&c.ID, &c.Owner, &c.Name, (*string)(&c.Type), (*string)(&c.Profile), &c.Origin, (*string)(&c.AuthMethod), &settings,
		(*string)(&c.Status), &c.Version, &created, &redirects, &scopes); err != nil {
		return nil, unavailable(err)
	}
	c.Created = fromMicros(created)
	for uri := range strings.Lines(redirects) {
		c.Redirects = append(c.Redirects, oauth.RedirectURI(strings.TrimSuffix(uri, "\n")))
	}
	for scope := range strings.Lines(scopes) {
		name, required := strings.CutPrefix(strings.TrimSuffix(scope, "\n"), "!")
		c.Scopes = append(c.Scopes, oauth.ClientScope{Name: strings.TrimPrefix(name, "?"), Required: required})
	}
	var err error
	c.Settings, err = parseSettings(settings)
	return &c, err
}

func parseSettings(text string) (s oauth.ClientSettings, err error) {
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("settings of a client in the database: %w", err)
	}
	return s, nil
}

// Client implements oauth.ClientStorage.
func (s *Store) Client(ctx context.Context, id string) (*oauth.Client, error) {
	list, err := s.clients(ctx, "id = $1", []any{id})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, oauth.ErrNotFound
	}
	return list[0], nil
}

// Clients implements oauth.ClientStorage.
func (s *Store) Clients(ctx context.Context, owner string, p oauth.Page) ([]*oauth.Client, error) {
	return s.clients(ctx, "($1 = '' OR owner = $1)", []any{owner, p.Limit, p.Offset}, "ORDER BY name, id LIMIT $2 OFFSET $3")
}

// VerifiedClients implements oauth.ClientStorage.
func (s *Store) VerifiedClients(ctx context.Context) ([]*oauth.Client, error) {
	var list []*oauth.Client
	// In a text of JSON there are no such quotes, so what matches is the member itself.
	err := s.engine.query(ctx, `SELECT id, owner, name FROM clients WHERE status <> 'deleted' AND settings LIKE '%"verified":true%' ORDER BY id`, nil, func(scan func(...any) error) error {
		c := new(oauth.Client)
		if err := scan(&c.ID, &c.Owner, &c.Name); err != nil {
			return unavailable(err)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

func (s *Store) clients(ctx context.Context, where string, args []any, tail ...string) ([]*oauth.Client, error) {
	sql := "SELECT " + clientColumns + clientParts + " FROM clients WHERE status <> 'deleted' AND " + where
	for _, t := range tail {
		sql += " " + t
	}
	var list []*oauth.Client
	err := s.engine.query(ctx, sql, args, func(scan func(...any) error) error {
		c, err := scanClient(scan)
		list = append(list, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.Secrets, err = s.ClientSecrets(ctx, c.ID); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// ClientSecrets implements oauth.ClientStorage.
func (s *Store) ClientSecrets(ctx context.Context, clientID string) ([]oauth.ClientSecret, error) {
	return s.secrets(ctx, "client_secrets", "client_id", clientID)
}

func (s *Store) secrets(ctx context.Context, table, key, id string) ([]oauth.ClientSecret, error) {
	var list []oauth.ClientSecret
	err := s.engine.query(ctx, "SELECT hash, last4, created, last_used FROM "+table+" WHERE "+key+" = $1 ORDER BY created, hash", []any{id}, func(scan func(...any) error) error {
		var sec oauth.ClientSecret
		var created, used int64
		err := scan((*[]byte)(&sec.Hash), &sec.Last4, &created, &used)
		sec.Created, sec.LastUsed = fromMicros(created), fromMicros(used)
		list = append(list, sec)
		return err
	})
	return list, err
}

// CreateClient implements oauth.ClientStorage.
func (s *Store) CreateClient(ctx context.Context, c *oauth.Client, most int, e oauth.Event) (bool, error) {
	settings, err := json.Marshal(c.Settings)
	if err != nil {
		return false, err
	}
	var n int64
	m := opOf("clients", c.ID, e.ID)
	guard := counted(&n, `INSERT INTO clients (id, owner, name, type, profile, origin, auth_method, settings, status, version, op, created)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS TEXT), CAST($8 AS TEXT),
			'active', 1, CAST($9 AS TEXT), CAST($10 AS BIGINT)
		WHERE (SELECT COUNT(*) FROM clients WHERE owner = $2 AND created > $11) < $12 ON CONFLICT DO NOTHING`,
		c.ID, c.Owner, c.Name, string(c.Type), string(c.Profile), c.Origin, string(c.AuthMethod), string(settings), e.ID, micros(e.At),
		micros(e.At.Add(-oauth.AppsWithin)), most)
	steps := s.replaceParts(c, m)
	for _, sec := range c.Secrets {
		steps = append(steps, insertSecret("client_secrets", "client_id", c.ID, sec, e, m))
	}
	// Its owner is locked, so that of several at once each counts those before it. The app
	// itself is locked by nobody: it is not there yet.
	return s.won(ctx, &n, s.lockUser(c.Owner), one(guard), steps, note(e, true, m))
}

// CountClients implements oauth.ClientStorage.
func (s *Store) CountClients(ctx context.Context, owner string, since time.Time) (n int, first time.Time, err error) {
	var at int64
	err = s.row(ctx, "SELECT COUNT(*), COALESCE(MIN(created), 0) FROM clients WHERE owner = $1 AND created > $2", []any{owner, micros(since)}, &n, &at)
	return n, fromMicros(at), err
}

// replaceParts writes redirects and scopes anew.
func (s *Store) replaceParts(c *oauth.Client, m mark) []statement {
	steps := []statement{
		do("DELETE FROM client_redirects WHERE client_id = $1 AND "+m.where(2), m.args(c.ID)...),
		do("DELETE FROM client_scopes WHERE client_id = $1 AND "+m.where(2), m.args(c.ID)...),
	}
	for i, r := range c.Redirects {
		steps = append(steps, do("INSERT INTO client_redirects (client_id, position, uri) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS TEXT) WHERE "+m.where(4),
			m.args(c.ID, i, string(r))...))
	}
	for _, sc := range c.Scopes {
		steps = append(steps, do("INSERT INTO client_scopes (client_id, scope, required) SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BOOLEAN) WHERE "+m.where(4),
			m.args(c.ID, sc.Name, sc.Required)...))
	}
	return steps
}

func insertSecret(table, key, id string, sec oauth.ClientSecret, e oauth.Event, m mark) statement {
	return do("INSERT INTO "+table+" (hash, "+key+`, last4, op, created, last_used)
		SELECT $1, CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS BIGINT), 0 WHERE `+m.where(6),
		m.args([]byte(sec.Hash), id, sec.Last4, e.ID, micros(sec.Created))...)
}

// UpdateClient implements oauth.ClientStorage.
func (s *Store) UpdateClient(ctx context.Context, c *oauth.Client, e oauth.Event) (bool, error) {
	settings, err := json.Marshal(c.Settings)
	if err != nil {
		return false, err
	}
	var n int64
	m := opOf("clients", c.ID, e.ID)
	guard := counted(&n, `UPDATE clients SET owner = $1, name = $2, settings = $3, version = version + 1, op = $4
		WHERE id = $5 AND version = $6 AND status <> 'deleted'`, c.Owner, c.Name, string(settings), e.ID, c.ID, c.Version)
	return s.won(ctx, &n, s.lockClient(c.ID), one(guard), s.replaceParts(c, m), note(e, true, m))
}

func (s *Store) lockClient(id string) []statement {
	return s.engine.lock("SELECT id FROM clients WHERE id = $1", id)
}

// SetClientStatus implements oauth.ClientStorage.
func (s *Store) SetClientStatus(ctx context.Context, id string, to oauth.Status, e oauth.Event) (bool, error) {
	var n int64
	guard := counted(&n, "UPDATE clients SET status = $1, version = version + 1, op = $2 WHERE id = $3 AND status <> 'deleted' AND status <> $1", string(to), e.ID, id)
	m := opOf("clients", id, e.ID)
	r := rule{kind: oauth.RuleClient, subject: id}
	switch to {
	case oauth.Suspended:
		r.value = oauth.StatusSuspended
	case oauth.Deleted: // its grants end, too
		r.value, r.fold = oauth.StatusInvalid, true
	}
	return s.won(ctx, &n, s.lockClient(id), one(guard), one(r.make(e, m.where(6), m.args()...)), note(e, true, m), r.tell(e))
}

// AddSecret implements oauth.ClientStorage.
func (s *Store) AddSecret(ctx context.Context, clientID string, sec oauth.ClientSecret, e oauth.Event) (bool, error) {
	var n int64
	m := opOf("clients", clientID, e.ID)
	guard := counted(&n, `UPDATE clients SET op = $1 WHERE id = $2 AND status <> 'deleted'
		AND (SELECT COUNT(*) FROM client_secrets WHERE client_id = $2) < $3`, e.ID, clientID, oauth.MaxSecrets)
	return s.won(ctx, &n, s.lockClient(clientID), one(guard), one(insertSecret("client_secrets", "client_id", clientID, sec, e, m)), note(e, true, m))
}

// RevokeSecret implements oauth.ClientStorage.
func (s *Store) RevokeSecret(ctx context.Context, clientID string, h oauth.Hash, e oauth.Event) (bool, error) {
	return s.dropSecret(ctx, "clients", s.lockClient(clientID), "client_secrets", "client_id", clientID, h, e)
}

// dropSecret removes a secret, from table, of the row id of owners, if it has another.
func (s *Store) dropSecret(ctx context.Context, owners string, lock []statement, table, key, id string, h oauth.Hash, e oauth.Event) (bool, error) {
	var n int64
	m := opOf(owners, id, e.ID)
	theirs := "EXISTS (SELECT 1 FROM " + table + " WHERE " + key + " = $2 AND hash "
	guard := counted(&n, "UPDATE "+owners+" SET op = $1 WHERE id = $2 AND "+theirs+"= $3) AND "+theirs+"<> $3)", e.ID, id, []byte(h))
	return s.won(ctx, &n, lock, one(guard),
		one(do("DELETE FROM "+table+" WHERE "+key+" = $1 AND hash = $2 AND "+m.where(3), m.args(id, []byte(h))...)), note(e, true, m))
}

// CountGrants implements oauth.ClientStorage.
func (s *Store) CountGrants(ctx context.Context, clientID string) (grants, users int, err error) {
	err = s.row(ctx, "SELECT COUNT(*), COUNT(DISTINCT user_id) FROM grants WHERE client_id = $1 AND status IN ('live', 'suspended')", []any{clientID}, &grants, &users)
	return grants, users, err
}

// CountWrongSecrets implements oauth.ClientStorage. The rows are those of Admit.
func (s *Store) CountWrongSecrets(ctx context.Context, now time.Time, counts []oauth.WrongSecrets) ([]time.Time, error) {
	at := micros(now)
	keys, until := make([]string, len(counts)), make([]int64, len(counts))
	var ev []statement
	for i, c := range counts {
		keys[i] = c.Key
		ev = append(ev, do("INSERT INTO throttles (key, count, until, expires, op) VALUES ($1, 0, 0, $2, '') ON CONFLICT DO NOTHING", c.Key, at+oauth.GuessesWindow.Microseconds()))
	}
	ev = append(ev, s.lockThrottles(keys)...)
	for i, c := range counts {
		ev = append(ev,
			do(`UPDATE throttles SET count = CASE WHEN expires <= $1 THEN CAST($2 AS BIGINT) ELSE count + CAST($2 AS BIGINT) END,
				expires = CASE WHEN expires <= $1 THEN CAST($3 AS BIGINT) ELSE expires END WHERE key = $4`, at, c.N, at+oauth.GuessesWindow.Microseconds(), c.Key),
			do("UPDATE throttles SET until = $1, op = $2 WHERE key = $3 AND count >= $4 AND until <= $5",
				at+oauth.GuessesClosed.Microseconds(), c.Event.ID, c.Key, oauth.GuessesMax, at),
			do("UPDATE throttles SET expires = until WHERE key = $1 AND expires < until", c.Key))
		ev = append(ev, note(c.Event, false, mark{"throttles", "key", "op", c.Key, c.Event.ID})...)
		ev = append(ev, statement{sql: "SELECT until FROM throttles WHERE key = $1", args: []any{c.Key}, scan: []any{&until[i]}})
	}
	if err := s.engine.write(ctx, ev); err != nil {
		return nil, err
	}
	closed := make([]time.Time, len(counts))
	for i := range until {
		if until[i] > at {
			closed[i] = fromMicros(until[i])
		}
	}
	return closed, nil
}
