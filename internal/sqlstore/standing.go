package sqlstore

import (
	"context"

	"github.com/grantway/grantway/internal/oauth"
)

// standingColumns reads a grant with all that decides what its keys may print, one
// row a store. The root of the FROM may lack a grant (a guest's code), hence the
// COALESCE.
const standingColumns = `COALESCE(g.id, ''), COALESCE(g.user_id, ''), COALESCE(g.client_id, ''), COALESCE(g.is_default, FALSE),
	COALESCE(g.scopes, ''), COALESCE(g.account_scopes, ''), COALESCE(g.all_stores, FALSE), COALESCE(g.status, ''), COALESCE(g.rev, 0),
	COALESCE(g.created, 0), COALESCE(g.last_used, 0), COALESCE(u.kind, ''), COALESCE(u.status, ''), COALESCE(c.status, ''), h.seq,
	COALESCE(gs.store_id, ''), gs.scopes, m.scopes, COALESCE(m.may_delegate, FALSE), COALESCE(m.is_owner, FALSE),
	COALESCE(st.name, ''), COALESCE(st.domain, ''), COALESCE(st.status, '')`

const standingJoins = ` LEFT JOIN users u ON u.id = g.user_id
	LEFT JOIN clients c ON c.id = g.client_id
	JOIN heads h ON h.name = 'feed'
	LEFT JOIN grant_stores gs ON gs.grant_id = g.id
	LEFT JOIN memberships m ON m.user_id = g.user_id AND m.store_id = gs.store_id
	LEFT JOIN stores st ON st.id = gs.store_id`

// standingReader gathers the rows of one standing.
type standingReader struct {
	st      oauth.Standing
	found   bool
	created int64
	used    int64
}

// scan reads one row; root are the destinations before the standing's columns.
func (r *standingReader) scan(scan func(...any) error, root ...any) error {
	g := &r.st.Grant
	var grantScopes, accountScopes, storeID, name, domain, status string
	var own, member *string
	var delegate, owner bool
	err := scan(append(root, &g.ID, &g.UserID, &g.ClientID, &g.Default, &grantScopes, &accountScopes, &g.AllStores,
		(*string)(&g.Status), &g.Rev, &r.created, &r.used, (*string)(&r.st.UserKind), (*string)(&r.st.UserStatus), (*string)(&r.st.ClientStatus),
		&r.st.Seq, &storeID, &own, &member, &delegate, &owner, &name, &domain, &status)...)
	if err != nil {
		return unavailable(err)
	}
	if !r.found {
		r.found = true
		g.Scopes, g.Account = scopes(grantScopes), scopes(accountScopes)
		g.Created, g.LastUsed = fromMicros(r.created), fromMicros(r.used)
	}
	if storeID != "" {
		g.Stores = append(g.Stores, oauth.GrantStore{StoreID: storeID, Scopes: scopesFrom(own)})
		if member != nil {
			r.st.Members = append(r.st.Members, oauth.Membership{
				UserID: g.UserID, StoreID: storeID, StoreName: name, StoreDomain: domain, StoreStatus: oauth.Status(status),
				Owner: owner, Scopes: scopes(*member), MayDelegate: delegate,
			})
		}
	}
	return nil
}

// standing runs a query whose rows start with root and go on with
// standingColumns. It returns nil if the root has no grant.
func (s *Store) standing(ctx context.Context, sql string, args []any, root ...any) (*oauth.Standing, error) {
	var r standingReader
	if err := s.engine.query(ctx, sql, args, func(scan func(...any) error) error { return r.scan(scan, root...) }); err != nil {
		return nil, err
	}
	if !r.found {
		return nil, oauth.ErrNotFound
	}
	if r.st.Grant.ID == "" {
		return nil, nil
	}
	if r.st.Grant.AllStores {
		all, err := s.Memberships(ctx, r.st.Grant.UserID)
		if err != nil {
			return nil, err
		}
		r.st.Members = all
	}
	return &r.st, nil
}

// Standing implements oauth.GrantStorage.
func (s *Store) Standing(ctx context.Context, grantID string) (*oauth.Standing, error) {
	return s.standing(ctx, "SELECT "+standingColumns+" FROM grants g"+standingJoins+" WHERE g.id = $1 ORDER BY gs.store_id", []any{grantID})
}
