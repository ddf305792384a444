package sqlstore

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// grantColumns reads a grant, and of user, client and heads what decides whether it
// counts. The root of the FROM may lack a grant (a guest's code), hence the COALESCE.
const grantColumns = `COALESCE(g.id, ''), COALESCE(g.user_id, ''), COALESCE(g.client_id, ''), COALESCE(g.is_default, FALSE),
	COALESCE(g.scopes, ''), COALESCE(g.account_scopes, ''), COALESCE(g.all_stores, FALSE), COALESCE(g.redirect_host, ''), COALESCE(g.status, ''), COALESCE(g.rev, 0),
	COALESCE(g.created, 0), COALESCE(g.last_used, 0), COALESCE(u.kind, ''), COALESCE(u.status, ''), COALESCE(c.status, ''), h.seq, h.epoch,
	COALESCE(u.members_rev, 0), hs.seq, COALESCE(ca.before, 0)`

const grantJoins = ` LEFT JOIN users u ON u.id = g.user_id
	LEFT JOIN clients c ON c.id = g.client_id
	JOIN heads h ON h.name = 'feed'
	JOIN heads hs ON hs.name = 'stores'
	LEFT JOIN cutoffs ca ON ca.kind = 'all' AND ca.subject = ''`

// storeColumns reads what the grant's user may do in its stores, one row a store.
const storeColumns = `COALESCE(gs.store_id, ''), gs.scopes, m.scopes, COALESCE(m.may_delegate, FALSE), COALESCE(m.is_owner, FALSE),
	COALESCE(st.name, ''), COALESCE(st.domain, ''), COALESCE(st.status, '')`

const storeJoins = ` LEFT JOIN grant_stores gs ON gs.grant_id = g.id
	LEFT JOIN memberships m ON m.user_id = g.user_id AND m.store_id = gs.store_id
	LEFT JOIN stores st ON st.id = gs.store_id`

// standingReader gathers the rows of one standing.
type standingReader struct {
	st              oauth.Standing
	scopes, account string
	created, used   int64
	members, stores int64 // as in basis
}

// basis is what the stores of a standing follow from, and nothing else: whoever has
// read them once needs no more than these numbers to know that they still are so.
// The epoch is part of it, because in a restored database the counts begin where
// they once were.
type basis struct {
	rev     int64 // of the grant
	members int64 // how often the memberships of the user changed
	stores  int64 // how often the state of any store did
	epoch   int64
}

// dest are the destinations of grantColumns.
func (r *standingReader) dest() []any {
	g := &r.st.Grant
	return []any{&g.ID, &g.UserID, &g.ClientID, &g.Default, &r.scopes, &r.account, &g.AllStores, &g.Host, (*string)(&g.Status), &g.Rev, &r.created, &r.used,
		(*string)(&r.st.UserKind), (*string)(&r.st.UserStatus), (*string)(&r.st.ClientStatus), &r.st.Seq, &r.st.Epoch, &r.members, &r.stores, &r.st.Cut}
}

func (r *standingReader) basis() basis {
	return basis{r.st.Grant.Rev, r.members, r.stores, r.st.Epoch}
}

// grant completes the grant once its columns were read.
func (r *standingReader) grant() *oauth.Grant {
	g := &r.st.Grant
	g.Scopes, g.Account = scopes(r.scopes), scopes(r.account)
	g.Created, g.LastUsed = fromMicros(r.created), fromMicros(r.used)
	return g
}

// store adds a store. member is nil if the user is no member of it.
func (r *standingReader) store(id string, own, member *string, m oauth.Membership) {
	r.st.Grant.Stores = append(r.st.Grant.Stores, oauth.GrantStore{StoreID: id, Scopes: scopesFrom(own)})
	if member != nil {
		m.UserID, m.StoreID, m.Scopes = r.st.Grant.UserID, id, scopes(*member)
		r.st.Members = append(r.st.Members, m)
	}
}

// question reads something that hangs off a grant, with the grant's standing.
type question struct {
	full  string // a row a store
	brief string // one row, with what the grant's row says of its stores
}

// asking builds a question. The columns come before those of the standing.
func asking(columns, from, where string) question {
	return question{
		"SELECT " + columns + ", " + grantColumns + ", " + storeColumns + " FROM " + from + grantJoins + storeJoins + " WHERE " + where + " ORDER BY gs.store_id",
		"SELECT " + columns + ", " + grantColumns + ", COALESCE(g.standing, '') FROM " + from + grantJoins + " WHERE " + where,
	}
}

// noteStanding writes into the grant's row what its user may do in its stores, with
// the basis, all as one statement sees it: what changes beside it makes the basis
// another. A line is a store; neither ids nor scopes hold tabs or newlines. Of a
// grant on all stores, or on more than a key prints, nothing is written. Argument:
// $1, the grant.
var noteStanding = `UPDATE grants SET standing = (
		SELECT CAST(g.rev AS TEXT) || ' ' || CAST(u.members_rev AS TEXT) || ' ' || CAST(hs.seq AS TEXT) || ' ' || CAST(h.epoch AS TEXT) || COALESCE((
			SELECT string_agg(` + "'\n' || gs.store_id || '\t' || COALESCE('=' || gs.scopes, '') || '\t' || COALESCE('=' || m.scopes, '') || '\t'" + ` ||
					CASE WHEN m.may_delegate THEN 'd' ELSE '' END || CASE WHEN m.is_owner THEN 'o' ELSE '' END || ` + "'\t'" + ` || COALESCE(st.status, ''),
				'' ORDER BY gs.store_id)
			FROM grant_stores gs LEFT JOIN memberships m ON m.user_id = g.user_id AND m.store_id = gs.store_id LEFT JOIN stores st ON st.id = gs.store_id
			WHERE gs.grant_id = g.id), '')
		FROM grants g JOIN users u ON u.id = g.user_id JOIN heads h ON h.name = 'feed' JOIN heads hs ON hs.name = 'stores'
		WHERE g.id = $1 AND NOT g.all_stores AND (SELECT COUNT(*) FROM grant_stores gs WHERE gs.grant_id = g.id) <= ` + strconv.Itoa(oauth.MaxPrinted) + `)
	WHERE id = $1`

// recall takes the stores from what noteStanding has written, if it is of now.
func (r *standingReader) recall(noted string) bool {
	var digits [4 * 20]byte
	now, on := digits[:0], r.basis()
	for i, n := range [...]int64{on.rev, on.members, on.stores, on.epoch} {
		if i > 0 {
			now = append(now, ' ')
		}
		now = strconv.AppendInt(now, n, 10)
	}
	of, lines, more := strings.Cut(noted, "\n")
	if of != string(now) || r.st.Grant.AllStores {
		return false
	}
	for more {
		var line string
		line, lines, more = strings.Cut(lines, "\n")
		id, line, _ := strings.Cut(line, "\t")
		own, line, _ := strings.Cut(line, "\t")
		member, line, _ := strings.Cut(line, "\t")
		flags, status, whole := strings.Cut(line, "\t")
		if id == "" || !whole || strings.Contains(status, "\t") {
			r.st.Grant.Stores, r.st.Members = nil, nil
			return false
		}
		r.store(id, textFrom(own), textFrom(member), oauth.Membership{
			StoreStatus: oauth.Status(status), MayDelegate: strings.Contains(flags, "d"), Owner: strings.Contains(flags, "o"),
		})
	}
	return true
}

// textFrom reads a text that may be NULL.
func textFrom(noted string) *string {
	text, is := strings.CutPrefix(noted, "=")
	if !is {
		return nil
	}
	return &text
}

// known is what was read of a grant's stores because its row did not say it, and
// what it follows from.
type known struct {
	stores  []oauth.GrantStore
	members []oauth.Membership
	basis   basis
}

// knownMax is of how many stores a grant, and its user, may be for its stores to be
// kept in memory: it is they that take the room.
const knownMax = 100

// lately answers a question for somebody to whom the names of stores mean nothing.
// What it returns is nil if the root has no grant. It is one read; only if somebody's
// stores have changed since the grant's row was written, or if they are too many to
// stand in it, and nothing is remembered, there is a second one. Nothing is decided
// from what was kept: the basis is read anew each time.
func (s *Store) lately(ctx context.Context, q question, args []any, root ...any) (*oauth.Standing, error) {
	var r standingReader
	var noted string
	if err := s.row(ctx, q.brief, args, slices.Concat(root, r.dest(), []any{&noted})...); err != nil || r.st.Grant.ID == "" {
		return nil, err
	}
	g := r.grant()
	if r.recall(noted) {
		return &r.st, nil
	}
	if was, ok := s.known.Get(g.ID); ok && was.basis == r.basis() {
		g.Stores, r.st.Members = was.stores, was.members
		return &r.st, nil
	}
	st, on, err := s.standing(apart(ctx), q, args, root...) // it may be thousands of rows
	if st == nil || err != nil {
		return nil, err
	}
	if max(len(st.Grant.Stores), len(st.Members)) <= knownMax {
		s.known.Put(g.ID, known{st.Grant.Stores, st.Members, on})
	}
	return st, nil
}

// standing answers a question in full. What it returns is nil if the root has no
// grant.
func (s *Store) standing(ctx context.Context, q question, args []any, root ...any) (*oauth.Standing, basis, error) {
	var r standingReader
	found := false
	err := s.engine.query(ctx, q.full, args, func(scan func(...any) error) error {
		var id string
		var own, member *string
		var m oauth.Membership
		if err := scan(append(append(root, r.dest()...), &id, &own, &member, &m.MayDelegate, &m.Owner, &m.StoreName, &m.StoreDomain, (*string)(&m.StoreStatus))...); err != nil {
			return unavailable(err)
		}
		if !found {
			found = true
			r.grant()
		}
		if id != "" {
			r.store(id, own, member, m)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, basis{}, err
	case !found:
		return nil, basis{}, oauth.ErrNotFound
	case r.st.Grant.ID == "":
		return nil, basis{}, nil
	}
	if r.st.Grant.AllStores {
		if r.st.Members, err = s.Memberships(ctx, r.st.Grant.UserID); err != nil {
			return nil, basis{}, err
		}
	}
	return &r.st, r.basis(), nil
}

var standingOf = asking("1", "grants g", "g.id = $1")

// Standing implements oauth.GrantStorage.
func (s *Store) Standing(ctx context.Context, grantID string) (*oauth.Standing, error) {
	var one int
	st, _, err := s.standing(ctx, standingOf, []any{grantID}, &one)
	return st, err
}
