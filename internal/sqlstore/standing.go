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
	COALESCE(g.created, 0), COALESCE(g.last_used, 0), COALESCE(u.kind, ''), COALESCE(u.status, ''), COALESCE(c.status, ''), h.seq, h.epoch,
	COALESCE(u.members_rev, 0), hs.seq, COALESCE(gs.store_id, ''), gs.scopes, m.scopes, COALESCE(m.may_delegate, FALSE), COALESCE(m.is_owner, FALSE),
	COALESCE(st.name, ''), COALESCE(st.domain, ''), COALESCE(st.status, '')`

const standingJoins = ` LEFT JOIN users u ON u.id = g.user_id
	LEFT JOIN clients c ON c.id = g.client_id
	JOIN heads h ON h.name = 'feed'
	JOIN heads hs ON hs.name = 'stores'
	LEFT JOIN grant_stores gs ON gs.grant_id = g.id
	LEFT JOIN memberships m ON m.user_id = g.user_id AND m.store_id = gs.store_id
	LEFT JOIN stores st ON st.id = gs.store_id`

// standingReader gathers the rows of one standing.
type standingReader struct {
	st            oauth.Standing
	found         bool
	created, used int64
	basis
}

// basis is what a standing follows from, beside its grant's revision. The epoch is
// part of it, because in a restored database the counts begin where they once were.
type basis struct {
	epoch   int64
	members int64 // how often the memberships of the user changed
	stores  int64 // how often the state of any store did
}

// scan reads one row; root are the destinations before the standing's columns.
func (r *standingReader) scan(scan func(...any) error, root ...any) error {
	g := &r.st.Grant
	var grantScopes, accountScopes, storeID, name, domain, status string
	var own, member *string
	var delegate, owner bool
	err := scan(append(root, &g.ID, &g.UserID, &g.ClientID, &g.Default, &grantScopes, &accountScopes, &g.AllStores,
		(*string)(&g.Status), &g.Rev, &r.created, &r.used, (*string)(&r.st.UserKind), (*string)(&r.st.UserStatus), (*string)(&r.st.ClientStatus),
		&r.st.Seq, &r.epoch, &r.members, &r.stores, &storeID, &own, &member, &delegate, &owner, &name, &domain, &status)...)
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

// question reads something that hangs off a grant, with the grant's standing.
type question struct {
	full  string // a row a store
	brief string // one row: whether what is known of the grant is of now
}

// asking builds a question. The columns come before those of the standing.
func asking(columns, from, where string) question {
	return question{
		"SELECT " + columns + ", " + standingColumns + " FROM " + from + standingJoins + " WHERE " + where + " ORDER BY gs.store_id",
		"SELECT " + columns + ", " + briefColumns + " FROM " + from + briefJoins + " WHERE " + where,
	}
}

// What a grant allows follows from its revision, from that of its user's
// memberships and from that of all stores' states, and from nothing else: whoever
// has read it once needs no more than these numbers to know that it still is so,
// and they are read anew each time. So nothing is decided from a cache, and
// most questions cost a row in the place of three a store.
const (
	briefColumns = `COALESCE(g.id, ''), COALESCE(g.status, ''), COALESCE(g.rev, 0), COALESCE(u.status, ''), COALESCE(u.members_rev, 0), COALESCE(c.status, ''),
	h.seq, h.epoch, hs.seq`
	briefJoins = ` LEFT JOIN users u ON u.id = g.user_id
	LEFT JOIN clients c ON c.id = g.client_id
	JOIN heads h ON h.name = 'feed'
	JOIN heads hs ON hs.name = 'stores'`
)

// known is a standing as it was read, and what it follows from.
type known struct {
	st *oauth.Standing
	basis
}

// knownMax is of how many stores a grant, and its user, may be for its standing to
// be kept in memory: it is they that take the room.
const knownMax = 100

// lately answers a question that may have been asked before: the last argument says
// about what. It is one read, but for what has changed since, and a grant on all
// stores at first sight.
func (s *Store) lately(ctx context.Context, q question, args []any, root ...any) (*oauth.Standing, error) {
	about := args[len(args)-1].(string)
	was, ok := s.known.Get(about)
	if !ok {
		return s.learn(ctx, about, q, args, root...)
	}
	var now oauth.Standing
	var on basis
	g := &now.Grant
	err := s.row(ctx, q.brief, args, append(root, &g.ID, (*string)(&g.Status), &g.Rev, (*string)(&now.UserStatus), &on.members,
		(*string)(&now.ClientStatus), &now.Seq, &on.epoch, &on.stores)...)
	if err != nil || g.ID == "" {
		return nil, err
	}
	if was.st.Grant.ID != g.ID || was.st.Grant.Rev != g.Rev || was.basis != on {
		return s.learn(ctx, about, q, args, root...)
	}
	st := *was.st
	st.Grant.Status, st.UserStatus, st.ClientStatus, st.Seq = g.Status, now.UserStatus, now.ClientStatus, now.Seq
	return &st, nil
}

func (s *Store) learn(ctx context.Context, about string, q question, args []any, root ...any) (*oauth.Standing, error) {
	is, err := s.standing(ctx, q, args, root...)
	if is.st == nil || err != nil {
		return nil, err
	}
	if max(len(is.st.Grant.Stores), len(is.st.Members)) <= knownMax {
		s.known.Put(about, is)
	}
	st := *is.st
	return &st, nil
}

// standing answers a question. What it returns holds nil if the root has no grant.
func (s *Store) standing(ctx context.Context, q question, args []any, root ...any) (known, error) {
	var r standingReader
	if err := s.engine.query(ctx, q.full, args, func(scan func(...any) error) error { return r.scan(scan, root...) }); err != nil {
		return known{}, err
	}
	if !r.found {
		return known{}, oauth.ErrNotFound
	}
	if r.st.Grant.ID == "" {
		return known{}, nil
	}
	if r.st.Grant.AllStores {
		all, err := s.Memberships(ctx, r.st.Grant.UserID)
		if err != nil {
			return known{}, err
		}
		r.st.Members = all
	}
	return known{&r.st, r.basis}, nil
}

var standingOf = asking("1", "grants g", "g.id = $1")

// Standing implements oauth.GrantStorage.
func (s *Store) Standing(ctx context.Context, grantID string) (*oauth.Standing, error) {
	var one int
	is, err := s.standing(ctx, standingOf, []any{grantID}, &one)
	return is.st, err
}
