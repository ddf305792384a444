package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// familyColumns reads a family. The root of the FROM may lack one, hence the
// COALESCE.
const familyColumns = `COALESCE(f.id, ''), COALESCE(f.grant_id, ''), COALESCE(f.client_id, ''), COALESCE(f.user_id, ''), COALESCE(f.api, ''),
	COALESCE(f.status_index, 0), f.narrowing, COALESCE(f.status, ''), COALESCE(f.rev, 0), COALESCE(f.iseq, 0), COALESCE(f.created, 0), COALESCE(f.due, 0), f.token`

type familyReader struct {
	family       oauth.Family
	narrowing    *string
	created, due int64
}

func (r *familyReader) dest() []any {
	f := &r.family
	return []any{&f.ID, &f.GrantID, &f.ClientID, &f.UserID, &f.API, &f.StatusIndex, &r.narrowing, (*string)(&f.Status), &f.Rev, &f.ISeq, &r.created, &r.due, (*[]byte)(&f.Token)}
}

func (r *familyReader) result() *oauth.Family {
	r.family.Narrowing = scopesFrom(r.narrowing)
	r.family.Created, r.family.Due = fromMicros(r.created), fromMicros(r.due)
	return &r.family
}

var (
	familyOf = asking(familyColumns, "families f JOIN grants g ON g.id = f.grant_id", "f.id = $1")
	askedOf  = asking("p.id, p.uri, p.name, p.status, "+familyColumns,
		"api_secrets k JOIN apis p ON p.id = k.api_id LEFT JOIN families f ON f.id = $3 LEFT JOIN grants g ON g.id = f.grant_id",
		"k.hash = $1 AND k.api_id = $2 AND p.status = 'active'")
	tokenOf = asking("t.selector, t.family, t.hash, t.previous, COALESCE(t.rotated, 0), t.idle_until, COALESCE(t.absolute_until, 0), "+familyColumns,
		"refresh_tokens t JOIN families f ON f.id = t.family JOIN grants g ON g.id = f.grant_id", "t.selector = $1")
)

// Family implements oauth.FamilyStorage.
func (s *Store) Family(ctx context.Context, id string) (*oauth.Family, *oauth.Standing, error) {
	var r familyReader
	st, err := s.lately(ctx, familyOf, []any{id}, r.dest()...)
	if err != nil {
		return nil, nil, err
	}
	return r.result(), st, nil
}

// LeastUsedFamilies implements oauth.FamilyStorage. All chains of a grant are of one
// profile, so whichever idles last was used last; its absolute limit says nothing of that.
// One that nobody refreshed was last written by the event that made its family. SQLite
// takes no OFFSET without a LIMIT.
func (s *Store) LeastUsedFamilies(ctx context.Context, grantID string, keep int) ([]string, error) {
	var list []string
	err := s.engine.query(ctx, `SELECT id FROM (
			SELECT id, used, last, ROW_NUMBER() OVER (PARTITION BY used ORDER BY last DESC, id DESC) AS place FROM (
				SELECT f.id, EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.family = f.id AND t.op <> f.op) AS used,
					COALESCE((SELECT MAX(t.idle_until) FROM refresh_tokens t WHERE t.family = f.id), f.created) AS last
				FROM families f WHERE f.grant_id = $1 AND f.status <> 'invalid') alive) ranked
		ORDER BY (used AND place <= $4) DESC, last DESC, id DESC LIMIT $2 OFFSET $3`,
		[]any{grantID, math.MaxInt32, keep, keep / 2}, func(scan func(...any) error) error {
			var id string
			if err := scan(&id); err != nil {
				return unavailable(err)
			}
			list = append(list, id)
			return nil
		})
	slices.Reverse(list)
	return list, err
}

// Asked implements oauth.FamilyStorage. That a secret was right when it was last read
// decides nothing but for whom this asks: strangers who try secrets wait for each other,
// and an API for none of them. A node reads those of all APIs when it starts.
func (s *Store) Asked(ctx context.Context, apiID string, secret oauth.Hash, family string) (*oauth.API, *oauth.Family, *oauth.Standing, error) {
	shown := apiSecret{apiID, string(secret)}
	_, known := s.apiSecrets.Load(shown)
	if known {
		ctx = forKeys.of(ctx)
	}
	var r familyReader
	var a oauth.API
	st, err := s.lately(ctx, askedOf, []any{[]byte(secret), apiID, family}, append([]any{&a.ID, &a.URI, &a.Name, (*string)(&a.Status)}, r.dest()...)...)
	switch {
	case err == nil && !known:
		s.proves(apiID, secret)
	case errors.Is(err, oauth.ErrNotFound):
		s.apiSecrets.Delete(shown)
	}
	if err != nil || r.family.ID == "" {
		return &a, nil, nil, err
	}
	return &a, r.result(), st, nil
}

// Refresh implements oauth.FamilyStorage.
func (s *Store) Refresh(ctx context.Context, selector string) (*oauth.StoredRefresh, *oauth.Family, *oauth.Standing, error) {
	var r familyReader
	var t oauth.StoredRefresh
	var rotated, idle, absolute int64
	root := append([]any{&t.Selector, &t.Family, (*[]byte)(&t.Hash), (*[]byte)(&t.Previous), &rotated, &idle, &absolute}, r.dest()...)
	st, err := s.lately(ctx, tokenOf, []any{selector}, root...)
	if err != nil {
		return nil, nil, nil, err
	}
	t.RotatedAt, t.IdleUntil, t.AbsoluteUntil = fromMicros(rotated), fromMicros(idle), fromMicros(absolute)
	return &t, r.result(), st, nil
}

// RotateRefreshToken implements oauth.FamilyStorage. It writes one row, and none of
// its indexes.
func (s *Store) RotateRefreshToken(ctx context.Context, r oauth.Rotation) (bool, error) {
	var n int64
	op, now := r.Event.ID, micros(r.Now)
	// What every use asks. Arguments $1 to $7.
	ask := `selector = $1 AND family = $2 AND idle_until > $3 AND (absolute_until IS NULL OR absolute_until > $3)
		AND EXISTS (SELECT 1 FROM families f WHERE f.id = $2 AND f.status <> 'invalid' AND NOT EXISTS
			(SELECT 1 FROM cutoffs WHERE kind = 'all' AND subject = '' AND before > f.iseq))
		AND EXISTS (SELECT 1 FROM grants g JOIN users u ON u.id = g.user_id JOIN clients c ON c.id = g.client_id
			WHERE g.id = $4 AND g.rev = $5 AND g.status IN ('pending', 'live') AND u.status = 'active' AND c.status = 'active')`
	args := []any{r.Selector, r.Family, now, r.GrantID, r.Rev, op, []byte(r.Presented)}
	use := "UPDATE refresh_tokens SET op = $6"
	switch {
	case r.Again:
		ask += " AND previous = $7 AND rotated > $8"
		args = append(args, now-oauth.RotateGrace.Microseconds())
	case r.Successor != nil:
		use += ", previous = hash, hash = $9, rotated = $3, idle_until = $8"
		ask += " AND hash = $7"
		args = append(args, micros(r.IdleUntil), []byte(r.Successor))
	default: // the token is its own successor; one that it replaced while the app still rotated is old now
		use += ", previous = NULL, idle_until = $8"
		ask += " AND hash = $7"
		args = append(args, micros(r.IdleUntil))
	}
	proof, more := proven(len(args), r.ClientID, r.Proof)
	ask, args = ask+proof, append(args, more...)
	ask += uncut(len(args))
	args = append(args, r.ISeq, r.Kid)
	guard := counted(&n, use+" WHERE "+ask, args...)
	return s.won(ctx, &n, s.lockGrant(r.GrantID), one(guard), note(r.Event, false, mark{"refresh_tokens", "selector", "op", r.Selector, op}))
}

// EndChain implements oauth.CodeStorage. Compared with a limit of zero, whatever time a
// use beside it was given comes too late.
func (s *Store) EndChain(ctx context.Context, selector string, e oauth.Event) (bool, error) {
	var n int64
	lock := s.engine.lock("SELECT id FROM grants WHERE id = (SELECT f.grant_id FROM refresh_tokens t JOIN families f ON f.id = t.family WHERE t.selector = $1)", selector)
	guard := counted(&n, "UPDATE refresh_tokens SET idle_until = 0, op = $1 WHERE selector = $2 AND idle_until > $3 AND (absolute_until IS NULL OR absolute_until > $3)",
		e.ID, selector, micros(e.At))
	return s.won(ctx, &n, lock, one(guard), note(e, false, mark{"refresh_tokens", "selector", "op", selector, e.ID}))
}

// RevokeFamily implements oauth.FamilyStorage.
func (s *Store) RevokeFamily(ctx context.Context, family string, e oauth.Event) (bool, error) {
	return s.revokeFamily(ctx, family, "", nil, e)
}

// RevokeOwn implements oauth.FamilyStorage.
func (s *Store) RevokeOwn(ctx context.Context, clientID string, p oauth.Proof, family string, e oauth.Event) (bool, error) {
	proof, more := proven(4, clientID, p)
	return s.revokeFamily(ctx, family, " AND client_id = $4"+proof, append([]any{clientID}, more...), e)
}

// revokeFamily ends a family if ask holds, whose arguments are $4 and on.
func (s *Store) revokeFamily(ctx context.Context, family, ask string, args []any, e oauth.Event) (bool, error) {
	var n int64
	lock := s.engine.lock("SELECT id FROM grants WHERE id = (SELECT grant_id FROM families WHERE id = $1)", family)
	guard := counted(&n, "UPDATE families SET status = 'invalid', op = $1, due = $3 WHERE id = $2 AND status <> 'invalid'"+ask,
		append([]any{e.ID, family, micros(e.At)}, args...)...)
	return s.won(ctx, &n, lock, one(guard), tell(e, opOf("families", family, e.ID), "f.id = $5", family))
}

const (
	listSize = 1 << oauth.IndexBits // places in one status list
	listsMax = 1 << oauth.ListBits  // lists in one epoch
)

// ListsLeft is how many more lists can be begun in this epoch.
func (s *Store) ListsLeft(ctx context.Context) (int64, error) {
	var begun int64
	err := s.row(ctx, "SELECT COUNT(*) FROM status_lists WHERE number >= (SELECT epoch * $1 FROM heads WHERE name = 'feed')", []any{listsMax}, &begun)
	return listsMax - begun, err
}

// AllotIndices implements oauth.FamilyStorage. Other visits wait for what one of them was
// allotted. The lease row serialises nodes, so that the number of a new list is free. Lists
// are numbered from epoch × listsMax on: those of an older epoch have smaller numbers and
// are never gone on with.
func (s *Store) AllotIndices(ctx context.Context, api, kind string, n int64, now time.Time) (int64, error) {
	var number, next int64
	number = -1
	ev := []statement{
		do("UPDATE leases SET until = until WHERE name = 'status_lists'"),
		do(`INSERT INTO status_lists (number, api, kind, next, allotted)
			SELECT h.epoch * $5 + (SELECT COUNT(*) FROM status_lists WHERE number >= h.epoch * $5), CAST($1 AS TEXT), CAST($2 AS TEXT), 0, 0 FROM heads h
			WHERE h.name = 'feed' AND (SELECT COUNT(*) FROM status_lists WHERE number >= h.epoch * $5) < $5
				AND NOT EXISTS (SELECT 1 FROM status_lists WHERE number >= h.epoch * $5 AND api = $1 AND kind = $2 AND next + $3 <= $4)`, api, kind, n, listSize, listsMax),
		{sql: `UPDATE status_lists SET next = next + $3, allotted = $6 WHERE number = (SELECT MIN(l.number) FROM status_lists l JOIN heads h ON h.name = 'feed'
				WHERE l.number >= h.epoch * $5 AND l.api = $1 AND l.kind = $2 AND l.next + $3 <= $4)
			RETURNING number, next`, args: []any{api, kind, n, listSize, listsMax, micros(now)}, scan: []any{&number, &next}},
	}
	if err := s.engine.write(apart(ctx), ev); err != nil {
		return 0, err
	}
	if number < 0 {
		return 0, unavailable(fmt.Errorf("all %d status lists of this epoch are given out: run grantway new-epoch, which begins others", listsMax))
	}
	return number*listSize + next - n, nil
}
