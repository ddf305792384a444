package sqlstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// DefaultGrant implements oauth.GrantStorage.
func (s *Store) DefaultGrant(ctx context.Context, userID, clientID string) (string, error) {
	var id string
	err := s.row(ctx, "SELECT id FROM grants WHERE user_id = $1 AND client_id = $2 AND is_default",
		[]any{userID, clientID}, &id)
	return id, err
}

// row reads exactly one row into dest, or returns oauth.ErrNotFound.
func (s *Store) row(ctx context.Context, sql string, args []any, dest ...any) error {
	found := false
	err := s.engine.query(ctx, sql, args, func(scan func(...any) error) error {
		found = true
		if err := scan(dest...); err != nil {
			return unavailable(err)
		}
		return nil
	})
	if err == nil && !found {
		return oauth.ErrNotFound
	}
	return err
}

// GrantsOf implements oauth.GrantStorage.
func (s *Store) GrantsOf(ctx context.Context, userID string, p oauth.Page) ([]oauth.Connection, error) {
	return s.connections(ctx, "g.user_id = $1 AND g.status IN ('live', 'suspended') AND c.status <> 'deleted'", []any{userID}, p)
}

// GrantOf implements oauth.GrantStorage.
func (s *Store) GrantOf(ctx context.Context, userID, grantID string) (*oauth.Connection, error) {
	list, err := s.connections(ctx, "g.id = $1 AND g.user_id = $2", []any{grantID, userID}, oauth.Page{Limit: 1})
	if err == nil && len(list) == 0 {
		err = oauth.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

// Grants implements oauth.GrantStorage.
func (s *Store) Grants(ctx context.Context, f oauth.GrantFilter) ([]oauth.Connection, error) {
	return s.connections(ctx, `($1 = '' OR g.user_id = $1) AND ($2 = '' OR g.client_id = $2)
		AND ($3 = '' OR EXISTS (SELECT 1 FROM grant_stores x WHERE x.grant_id = g.id AND x.store_id = $3 AND COALESCE(x.scopes, '*') <> '')
			OR g.all_stores AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = g.user_id AND m.store_id = $3 AND m.may_delegate)
				AND NOT EXISTS (SELECT 1 FROM grant_stores x WHERE x.grant_id = g.id AND x.store_id = $3 AND x.scopes = ''))
		AND (NOT $4 OR g.status IN ('live', 'suspended')) AND ($5 = '' OR g.id = $5)`, []any{f.UserID, f.ClientID, f.StoreID, f.OnlyLive, f.ID}, f.Page)
}

func (s *Store) connections(ctx context.Context, where string, args []any, p oauth.Page) ([]oauth.Connection, error) {
	var list []oauth.Connection
	n := len(args)
	// Only live families are counted: how many keys are out. Which rows are shown is found
	// first, so that nothing is counted for those of other pages.
	sql := fmt.Sprintf(`SELECT g.id, g.user_id, g.client_id, g.is_default, g.scopes, g.account_scopes, g.all_stores, COALESCE(g.redirect_host, ''), g.status, g.rev, g.created, g.last_used,
			c.name, c.owner, c.type, c.profile, c.settings, c.status,
			(SELECT COUNT(*) FROM families f WHERE f.grant_id = g.id AND f.status <> 'invalid')
		FROM (SELECT g.id FROM grants g JOIN clients c ON c.id = g.client_id WHERE %s ORDER BY g.created DESC, g.id DESC LIMIT $%d OFFSET $%d) shown
		JOIN grants g ON g.id = shown.id JOIN clients c ON c.id = g.client_id ORDER BY g.created DESC, g.id DESC`, where, n+1, n+2)
	err := s.engine.query(ctx, sql, append(args, p.Limit, p.Offset), func(scan func(...any) error) error {
		var c oauth.Connection
		var scopeText, accountText, settings string
		var created, used int64
		if err := scan(&c.ID, &c.UserID, &c.ClientID, &c.Default, &scopeText, &accountText, &c.AllStores, &c.Host, (*string)(&c.Status), &c.Rev, &created, &used,
			&c.Client.Name, &c.Client.Owner, (*string)(&c.Client.Type), (*string)(&c.Client.Profile), &settings, (*string)(&c.Client.Status), &c.Keys); err != nil {
			return unavailable(err)
		}
		c.Client.ID = c.ClientID
		c.Grant.Scopes, c.Account = scopes(scopeText), scopes(accountText)
		c.Created, c.LastUsed = fromMicros(created), fromMicros(used)
		var err error
		c.Client.Settings, err = parseSettings(settings)
		list = append(list, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		st, err := s.Standing(ctx, list[i].ID)
		if errors.Is(err, oauth.ErrNotFound) { // swept meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		list[i].Grant.Stores, list[i].Stores = st.Grant.Stores, st.Members
	}
	return list, nil
}

// RecordDecision implements oauth.GrantStorage.
func (s *Store) RecordDecision(ctx context.Context, d oauth.DecisionRecord) (bool, error) {
	g, op := &d.Grant, d.Event.ID
	var n int64
	// What every decision asks, whatever it does to the grant. Arguments $1 to $5.
	ask := `EXISTS (SELECT 1 FROM clients WHERE id = $1 AND status = 'active' AND version = $5)
		AND EXISTS (SELECT 1 FROM users WHERE id = $2 AND status = 'active')
		AND NOT EXISTS (SELECT 1 FROM authorization_codes WHERE request = $3 AND (redeemed_family IS NOT NULL OR expires <= $4))`
	args := []any{g.ClientID, g.UserID, d.Code.Request, micros(d.Now), d.ClientVersion}
	ask, args = s.connectable(ask, args, "$2", d.Connecting)
	left := allowanceAt(d.Of, d.Now)
	ask, args = left.ask(ask, args)
	more := func(values ...any) ([]any, int) { return append(args, values...), len(args) }

	var guard statement
	switch {
	case d.Create:
		all, at := more(g.ID, g.Default, g.Scopes.String(), g.Account.String(), g.AllStores, g.Host, op, micros(g.Created))
		guard = counted(&n, fmt.Sprintf(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, redirect_host, status, rev, op, created, last_used)
			SELECT CAST($%d AS TEXT), CAST($2 AS TEXT), CAST($1 AS TEXT), CAST($%d AS BOOLEAN), CAST($%d AS TEXT), CAST($%d AS TEXT), CAST($%d AS BOOLEAN),
			       CAST($%d AS TEXT), 'pending', 1, CAST($%d AS TEXT), CAST($%d AS BIGINT), 0
			WHERE %s ON CONFLICT DO NOTHING`, at+1, at+2, at+3, at+4, at+5, at+6, at+7, at+8, ask), all...)
	case d.Unchanged:
		all, at := more(g.Host, op, g.ID, d.Rev)
		if d.Unasked {
			ask += fmt.Sprintf(" AND redirect_host = $%d", at+1)
		}
		guard = counted(&n, fmt.Sprintf("UPDATE grants SET redirect_host = $%d, op = $%d WHERE id = $%d AND rev = $%d AND status IN ('pending', 'live') AND %s", at+1, at+2, at+3, at+4, ask), all...)
	default:
		// A redemption makes the grant live without raising its rev.
		all, at := more(g.Scopes.String(), g.Account.String(), g.AllStores, g.Host, op, g.ID, d.Rev, string(g.Status))
		guard = counted(&n, fmt.Sprintf(`UPDATE grants SET scopes = $%d, account_scopes = $%d, all_stores = $%d, redirect_host = $%d, rev = rev + 1, op = $%d
			WHERE id = $%d AND rev = $%d AND status = $%d AND status <> 'revoked' AND %s`, at+1, at+2, at+3, at+4, at+5, at+6, at+7, at+8, ask), all...)
	}
	m, lock := opOf("grants", g.ID, op), s.lockGrant(g.ID)
	if d.Create {
		lock = s.lockUser(g.UserID)
	}
	var steps []statement
	if !d.Unchanged {
		steps = s.replaceStores(g, m)
	}
	var taken int64
	steps = append(steps, left.take(&taken, op, m.where(7), m.args()...)...)
	c := &d.Code
	steps = append(steps, do(`INSERT INTO authorization_codes (selector, hash, request, client_id, grant_id, family, profile, api, narrowing, redirect,
			redirect_sent, challenge, nonce, auth_time, expires, op)
		SELECT CAST($1 AS TEXT), $2, CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), NULL, CAST($6 AS TEXT), CAST($7 AS TEXT),
		       CAST($8 AS TEXT), CAST($9 AS TEXT), CAST($10 AS BOOLEAN), CAST($11 AS TEXT), CAST($12 AS TEXT), CAST($13 AS BIGINT), CAST($14 AS BIGINT), CAST($15 AS TEXT)
		WHERE `+m.where(16)+`
		ON CONFLICT (request) DO UPDATE SET selector = excluded.selector, hash = excluded.hash, grant_id = excluded.grant_id,
			narrowing = excluded.narrowing, op = excluded.op`,
		m.args(c.Selector, []byte(c.Hash), c.Request, c.ClientID, g.ID, string(c.Profile), c.API, scopesOrNull(c.Narrowing), c.Redirect, c.RedirectSent,
			c.Challenge, c.Nonce, micros(c.AuthTime), micros(c.Expires), op)...))
	noted := note(d.Event, false, m)
	if !d.Create && !d.Unchanged {
		noted = tell(d.Event, m, ofGrant, g.ID)
	}
	return s.won(ctx, &n, lock, one(guard), steps, noted)
}

// ofGrant selects the families of a grant for [tell].
const ofGrant = "f.grant_id = $5"

// connectable adds to a guard that the user may open each of these stores to apps. They are
// one argument, however many: neither engine takes as many arguments as a user may tick.
func (s *Store) connectable(ask string, args []any, user string, stores []string) (string, []any) {
	if len(stores) == 0 {
		return ask, args
	}
	list, _ := json.Marshal(stores) // texts: this cannot fail
	ask += fmt.Sprintf(` AND (SELECT COUNT(*) FROM (%s) x JOIN memberships m ON m.user_id = %s AND m.store_id = x.id JOIN stores st ON st.id = x.id
		WHERE m.may_delegate AND st.status = 'active') = $%d`, s.engine.listed(len(args)+2), user, len(args)+1)
	return ask, append(args, len(stores), string(list))
}

// replaceStores writes the stores of a grant anew, and what follows from them.
func (s *Store) replaceStores(g *oauth.Grant, m mark) []statement {
	steps := []statement{do("DELETE FROM grant_stores WHERE grant_id = $1 AND "+m.where(2), m.args(g.ID)...)}
	// One statement for each set of scopes: the sets are few, however many the stores are.
	for left := g.Stores; len(left) > 0; {
		scopes, ids, others := scopesOrNull(left[0].Scopes), []string(nil), []oauth.GrantStore(nil)
		for _, st := range left {
			if scopesOrNull(st.Scopes) == scopes {
				ids = append(ids, st.StoreID)
			} else {
				others = append(others, st)
			}
		}
		list, _ := json.Marshal(ids) // texts: this cannot fail
		steps = append(steps, do("INSERT INTO grant_stores (grant_id, store_id, scopes) SELECT CAST($1 AS TEXT), x.id, CAST($2 AS TEXT) FROM ("+s.engine.listed(3)+") x WHERE "+m.where(4),
			m.args(g.ID, scopes, string(list))...))
		left = others
	}
	return append(steps, do(noteStanding+" AND "+m.where(2), m.args(g.ID)...))
}

// EditGrant implements oauth.GrantStorage.
func (s *Store) EditGrant(ctx context.Context, g *oauth.Grant, rev int64, connecting []string, e oauth.Event) (bool, error) {
	var n int64
	m := opOf("grants", g.ID, e.ID)
	ask, args := s.connectable("status <> 'revoked'", []any{g.Scopes.String(), g.Account.String(), g.AllStores, e.ID, g.ID, rev}, "grants.user_id", connecting)
	guard := counted(&n, "UPDATE grants SET scopes = $1, account_scopes = $2, all_stores = $3, rev = rev + 1, op = $4 WHERE id = $5 AND rev = $6 AND "+ask, args...)
	return s.won(ctx, &n, s.lockGrant(g.ID), one(guard), s.replaceStores(g, m), tell(e, m, ofGrant, g.ID))
}

// RevokeGrant implements oauth.GrantStorage.
func (s *Store) RevokeGrant(ctx context.Context, grantID string, e oauth.Event) (bool, error) {
	return s.revokeGrant(ctx, grantID, "status <> 'revoked'", e)
}

// RevokeGrantAt implements oauth.GrantStorage.
func (s *Store) RevokeGrantAt(ctx context.Context, grantID string, rev int64, e oauth.Event) (bool, error) {
	return s.revokeGrant(ctx, grantID, "status <> 'revoked' AND rev = $5", e, rev)
}

func (s *Store) revokeGrant(ctx context.Context, grantID, from string, e oauth.Event, args ...any) (bool, error) {
	m := opOf("grants", grantID, e.ID)
	return s.setGrantStatus(ctx, grantID, "revoked", from, args, e,
		do("UPDATE families SET status = 'invalid', op = $1, due = $3 WHERE grant_id = $2 AND status <> 'invalid' AND "+m.where(4), m.args(e.ID, grantID, micros(e.At))...))
}

// SuspendGrant implements oauth.GrantStorage.
func (s *Store) SuspendGrant(ctx context.Context, grantID string, e oauth.Event) (bool, error) {
	return s.setGrantStatus(ctx, grantID, "suspended", "status IN ('pending', 'live')", nil, e)
}

// ResumeGrant implements oauth.GrantStorage.
func (s *Store) ResumeGrant(ctx context.Context, grantID string, e oauth.Event) (bool, error) {
	return s.setGrantStatus(ctx, grantID, "live", "status = 'suspended'", nil, e)
}

// setGrantStatus takes in args what from asks for, $5 and on.
func (s *Store) setGrantStatus(ctx context.Context, grantID, to, from string, args []any, e oauth.Event, then ...statement) (bool, error) {
	var n int64
	// A revoked grant is nobody's default any more. The index asks for that alone: one
	// that asked for the status would be written whenever a grant is taken up.
	guard := counted(&n, `UPDATE grants SET status = $1, is_default = is_default AND $1 <> 'revoked',
		due = CASE WHEN $1 = 'revoked' THEN CAST($4 AS BIGINT) ELSE due END, op = $2 WHERE id = $3 AND `+from, append([]any{to, e.ID, grantID, micros(e.At)}, args...)...)
	return s.won(ctx, &n, s.lockGrant(grantID), one(guard), then, tell(e, opOf("grants", grantID, e.ID), ofGrant, grantID))
}

// TouchUsed implements oauth.FamilyStorage.
func (s *Store) TouchUsed(ctx context.Context, at time.Time, grants []string, secrets []oauth.Hash) error {
	var ev []statement
	// Always in the same order, so that two batches never wait for each other in a ring.
	grants, secrets = slices.Sorted(slices.Values(grants)), slices.Clone(secrets)
	slices.SortFunc(secrets, func(a, b oauth.Hash) int { return bytes.Compare(a, b) })
	for _, id := range grants {
		ev = append(ev, do("UPDATE grants SET last_used = $1 WHERE id = $2 AND last_used < $1", micros(at), id))
		if _, old := s.known.Get(id); old { // what its row said of its stores
			ev = append(ev, do(noteStanding, id))
		}
	}
	for _, h := range secrets {
		ev = append(ev, do("UPDATE client_secrets SET last_used = $1 WHERE hash = $2 AND last_used < $1", micros(at), []byte(h)))
	}
	return s.inBatches(ctx, ev)
}

func (s *Store) inBatches(ctx context.Context, ev []statement) error {
	for batch := range slices.Chunk(ev, touchBatch) {
		if err := s.engine.write(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// TouchSeen implements oauth.FamilyStorage.
func (s *Store) TouchSeen(ctx context.Context, at, before time.Time, api string, grants []string) error {
	var ev []statement
	for _, id := range slices.Compact(slices.Sorted(slices.Values(grants))) {
		if args := []any{micros(at), id, api, micros(before)}; storable(args) {
			ev = append(ev, do("UPDATE grants SET last_used = $1 WHERE id = $2 AND last_used < $4 AND EXISTS (SELECT 1 FROM families WHERE grant_id = $2 AND api = $3)", args...))
		}
	}
	return s.inBatches(ctx, ev)
}

// touchBatch is how many rows one event locks that nobody waits for.
const touchBatch = 100

// places renders $from, $from+1, … for an IN list.
func places(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// GrantsOfOthers implements oauth.GrantStorage.
func (s *Store) GrantsOfOthers(ctx context.Context, ownerID, storeID string, p oauth.Page) ([]oauth.Connection, error) {
	var list []oauth.Connection
	err := s.engine.query(ctx, `SELECT g.id, g.user_id, g.client_id, g.scopes, g.all_stores, g.status, g.created, gs.scopes, u.name, u.status,
			c.name, c.settings, c.status, st.id, st.name, st.domain, st.status, m.scopes, m.is_owner, m.may_delegate
		FROM memberships o
		JOIN stores st ON st.id = o.store_id AND st.status = 'active'
		JOIN memberships m ON m.store_id = o.store_id AND m.user_id <> o.user_id
		JOIN users u ON u.id = m.user_id
		JOIN grants g ON g.user_id = m.user_id AND g.status IN ('live', 'suspended')
		JOIN clients c ON c.id = g.client_id AND c.status <> 'deleted'
		LEFT JOIN grant_stores gs ON gs.grant_id = g.id AND gs.store_id = m.store_id
		WHERE o.user_id = $1 AND o.is_owner AND ($2 = '' OR o.store_id = $2)
			AND (gs.grant_id IS NOT NULL AND COALESCE(gs.scopes, '*') <> '' OR gs.grant_id IS NULL AND g.all_stores)
			AND (m.may_delegate OR NOT g.all_stores)
		ORDER BY st.name, st.id, g.created DESC, g.id DESC LIMIT $3 OFFSET $4`,
		[]any{ownerID, storeID, p.Limit, p.Offset}, func(scan func(...any) error) error {
			var c oauth.Connection
			var m oauth.Membership
			var grantScopes, settings, memberScopes string
			var own *string
			var created int64
			if err := scan(&c.ID, &c.UserID, &c.ClientID, &grantScopes, &c.AllStores, (*string)(&c.Status), &created, &own, &c.Person, (*string)(&c.UserStatus),
				&c.Client.Name, &settings, (*string)(&c.Client.Status), &m.StoreID, &m.StoreName, &m.StoreDomain, (*string)(&m.StoreStatus),
				&memberScopes, &m.Owner, &m.MayDelegate); err != nil {
				return unavailable(err)
			}
			m.UserID, m.Scopes, c.Client.ID, c.Created = c.UserID, scopes(memberScopes), c.ClientID, fromMicros(created)
			set := scopesFrom(own)
			if set == nil {
				set = scopes(grantScopes)
			}
			c.Grant.Stores, c.Stores = []oauth.GrantStore{{StoreID: m.StoreID, Scopes: set}}, []oauth.Membership{m}
			var err error
			c.Client.Settings, err = parseSettings(settings)
			list = append(list, c)
			return err
		})
	return list, err
}
