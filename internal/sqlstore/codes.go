package sqlstore

import (
	"context"
	"fmt"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

const codeColumns = `a.selector, a.hash, a.request, a.client_id, COALESCE(a.grant_id, ''), COALESCE(a.family, ''), a.profile, a.api, a.narrowing,
	a.redirect, a.redirect_sent, a.challenge, a.nonce, a.auth_time, a.expires, COALESCE(a.redeemed_family, ''), COALESCE(a.redeemed_at, 0)`

type codeReader struct {
	code                oauth.StoredCode
	narrowing           *string
	auth, expires, used int64
}

func (r *codeReader) dest() []any {
	c := &r.code
	return []any{&c.Selector, (*[]byte)(&c.Hash), &c.Request, &c.ClientID, &c.GrantID, &c.FamilyID, (*string)(&c.Profile), &c.API, &r.narrowing,
		&c.Redirect, &c.RedirectSent, &c.Challenge, &c.Nonce, &r.auth, &r.expires, &c.RedeemedFamily, &r.used}
}

func (r *codeReader) result() *oauth.StoredCode {
	r.code.Narrowing = scopesFrom(r.narrowing)
	r.code.AuthTime, r.code.Expires, r.code.RedeemedAt = fromMicros(r.auth), fromMicros(r.expires), fromMicros(r.used)
	return &r.code
}

var codeOf = asking(codeColumns, "authorization_codes a LEFT JOIN grants g ON g.id = a.grant_id", "a.selector = $1")

// Code implements oauth.CodeStorage.
func (s *Store) Code(ctx context.Context, selector string) (*oauth.StoredCode, *oauth.Standing, error) {
	var r codeReader
	st, err := s.lately(ctx, codeOf, []any{selector}, r.dest()...)
	if err != nil {
		return nil, nil, err
	}
	return r.result(), st, nil
}

// CodeOfRequest implements oauth.CodeStorage.
func (s *Store) CodeOfRequest(ctx context.Context, request string) (*oauth.StoredCode, error) {
	var r codeReader
	if err := s.row(ctx, "SELECT "+codeColumns+" FROM authorization_codes a WHERE a.request = $1", []any{request}, r.dest()...); err != nil {
		return nil, err
	}
	return r.result(), nil
}

// IssueGuestCode implements oauth.CodeStorage.
func (s *Store) IssueGuestCode(ctx context.Context, c *oauth.StoredCode, p oauth.Proof, e oauth.Event) (bool, error) {
	var n int64
	proof, more := proven(13, c.ClientID, p)
	guard := counted(&n, `INSERT INTO authorization_codes (selector, hash, request, client_id, grant_id, family, profile, api, narrowing, redirect,
			redirect_sent, challenge, nonce, auth_time, expires, op)
		SELECT CAST($1 AS TEXT), $2, CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS TEXT), CAST($7 AS TEXT), CAST($8 AS TEXT),
		       NULL, CAST($9 AS TEXT), TRUE, CAST($10 AS TEXT), '', CAST($11 AS BIGINT), CAST($12 AS BIGINT), CAST($13 AS TEXT)
		WHERE EXISTS (SELECT 1 FROM clients WHERE id = $4 AND status = 'active')
		  AND (CAST($6 AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM families WHERE id = $6 AND client_id = $4 AND status <> 'invalid'))`+proof,
		append([]any{c.Selector, []byte(c.Hash), c.Request, c.ClientID, textOrNull(c.GrantID), textOrNull(c.FamilyID), string(c.Profile), c.API, c.Redirect,
			c.Challenge, micros(c.AuthTime), micros(c.Expires), e.ID}, more...)...)
	return s.won(ctx, &n, one(guard), note(e, false, mark{"authorization_codes", "selector", "op", c.Selector, e.ID}))
}

// RedeemCode implements oauth.CodeStorage.
func (s *Store) RedeemCode(ctx context.Context, r oauth.Redemption) (bool, error) {
	var n int64
	f := &r.Family
	m := mark{"authorization_codes", "selector", "op", r.Selector, r.Event.ID}
	guard := append(make([]string, 0, 8), "UPDATE authorization_codes SET redeemed_family = $1, redeemed_at = $2, op = $3 WHERE selector = $4 AND redeemed_family IS NULL AND expires > $2")
	args := append(make([]any, 0, 16), f.ID, micros(r.Now), r.Event.ID, r.Selector)
	var steps []statement
	if r.Guest != nil {
		guard = append(guard, " AND EXISTS (SELECT 1 FROM clients WHERE id = $5 AND status = 'active')")
		args = append(args, r.ClientID)
		g := r.Guest
		steps = append(steps,
			do(`INSERT INTO users (id, kind, name, email, operator, status, members_rev, op, created)
				SELECT CAST($1 AS TEXT), 'guest', '', '', FALSE, 'active', 0, CAST($2 AS TEXT), CAST($3 AS BIGINT) WHERE `+m.where(4),
				m.args(g.UserID, r.Event.ID, micros(r.Now))...),
			do(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
				SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), FALSE, '', CAST($4 AS TEXT), FALSE, 'live', 1, CAST($5 AS TEXT), CAST($6 AS BIGINT), 0 WHERE `+m.where(7),
				m.args(g.ID, g.UserID, g.ClientID, g.Account.String(), r.Event.ID, micros(r.Now))...))
	} else {
		guard = append(guard, ` AND EXISTS (SELECT 1 FROM grants g JOIN users u ON u.id = g.user_id JOIN clients c ON c.id = g.client_id
			WHERE g.id = $5 AND g.rev = $6 AND g.status IN ('pending', 'live') AND u.status = 'active' AND c.status = 'active')`)
		args = append(args, r.GrantID, r.Rev)
	}
	guard = append(guard, uncut(len(args)))
	args = append(args, r.ISeq, r.Kid)
	proof, more := proven(len(args), r.ClientID, r.Proof)
	guard, args = append(guard, proof), append(args, more...)
	switch {
	case r.Continue:
		guard = append(guard, " AND EXISTS (SELECT 1 FROM families f WHERE f.id = $1 AND f.status <> 'invalid' AND NOT EXISTS (SELECT 1 FROM cutoffs WHERE kind = 'all' AND subject = '' AND before > f.iseq))")
	default:
		guard = append(guard, fmt.Sprintf(" AND NOT EXISTS (SELECT 1 FROM heads WHERE name = 'feed' AND epoch * $%d > $%d)", len(args)+1, len(args)+2))
		args = append(args, int64(listsMax*listSize), f.StatusIndex)
		steps = append(steps, do(`INSERT INTO families (id, grant_id, client_id, user_id, api, status_index, narrowing, status, rev, iseq, op, created, due, token)
			SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS TEXT),
			       CAST($8 AS TEXT), CAST($9 AS BIGINT), CAST($10 AS BIGINT), CAST($11 AS TEXT), CAST($12 AS BIGINT), CAST($13 AS BIGINT), $14 WHERE `+m.where(15),
			m.args(f.ID, f.GrantID, f.ClientID, f.UserID, f.API, f.StatusIndex, scopesOrNull(f.Narrowing), string(f.Status), f.Rev, f.ISeq, r.Event.ID,
				micros(f.Created), orNull(f.Due), []byte(f.Token))...))
	}
	if r.Refresh != nil {
		steps = append(steps, insertRefresh(r.Refresh, r.Event.ID, m))
	}
	if r.Activate {
		steps = append(steps, do("UPDATE grants SET status = 'live' WHERE id = $1 AND status = 'pending' AND "+m.where(2), m.args(r.GrantID)...))
	}
	var lock []statement
	if r.GrantID != "" {
		lock = s.lockGrant(r.GrantID)
	}
	noted := note(r.Event, false, m)
	if f.Status == oauth.Ask && !r.Continue { // its index is not valid from the first
		noted = tell(r.Event, m, "f.id = $5", f.ID)
	}
	return s.won(ctx, &n, lock, one(counted(&n, strings.Join(guard, ""), args...)), steps, noted)
}

// proven asks that what proved a client still does. Its arguments are $n+1 and on.
func proven(n int, clientID string, p oauth.Proof) (ask string, args []any) {
	if p.Secret != nil {
		ask = fmt.Sprintf(" AND EXISTS (SELECT 1 FROM client_secrets WHERE hash = $%d AND client_id = $%d)", n+1, n+2)
		args = append(args, []byte(p.Secret), clientID)
	}
	if p.ClientVersion != 0 {
		ask += fmt.Sprintf(" AND EXISTS (SELECT 1 FROM clients WHERE id = $%d AND version = $%d)", n+len(args)+1, n+len(args)+2)
		args = append(args, clientID, p.ClientVersion)
	}
	return ask, args
}

func insertRefresh(t *oauth.StoredRefresh, op string, m mark) statement {
	return do(`INSERT INTO refresh_tokens (selector, family, hash, op, idle_until, absolute_until)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), $3, CAST($4 AS TEXT), CAST($5 AS BIGINT), CAST($6 AS BIGINT) WHERE `+m.where(7),
		m.args(t.Selector, t.Family, []byte(t.Hash), op, micros(t.IdleUntil), orNull(t.AbsoluteUntil))...)
}

// RevokeReplayed implements oauth.CodeStorage. A family that was dead already
// leaves only the note, in an event of its own, whose id the code has from then on.
func (s *Store) RevokeReplayed(ctx context.Context, code, family string, e oauth.Event) (bool, error) {
	if family != "" {
		if won, err := s.RevokeFamily(ctx, family, e); won || err != nil {
			return won, err
		}
	}
	var n int64
	lock := s.engine.lock("SELECT selector FROM authorization_codes WHERE selector = $1", code)
	guard := counted(&n, `UPDATE authorization_codes SET op = $1 WHERE selector = $2 AND redeemed_family IS NOT NULL
		AND NOT EXISTS (SELECT 1 FROM events e WHERE e.id = authorization_codes.op AND e.kind = $3)`, e.ID, code, string(oauth.EventCodeReplayed))
	_, err := s.won(ctx, &n, lock, one(guard), note(e, false, mark{"authorization_codes", "selector", "op", code, e.ID}))
	return false, err
}
