package sqlstore

import (
	"context"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

const userColumns = "id, kind, name, email, operator, status, created"

func scanUser(scan func(...any) error) (*oauth.User, error) {
	var u oauth.User
	var created int64
	if err := scan(&u.ID, (*string)(&u.Kind), &u.Name, &u.Email, &u.Operator, (*string)(&u.Status), &created); err != nil {
		return nil, unavailable(err)
	}
	u.Created = fromMicros(created)
	return &u, nil
}

// User implements oauth.PeopleStorage.
func (s *Store) User(ctx context.Context, id string) (*oauth.User, error) {
	return only(s.users(ctx, "id = $1", id))
}

// Users implements oauth.PeopleStorage.
func (s *Store) Users(ctx context.Context, query string, p oauth.Page) ([]*oauth.User, error) {
	return s.users(ctx, "kind <> 'guest' AND ($1 = '' OR "+begins("id", "name", "email")+") ORDER BY created DESC, id DESC LIMIT $3 OFFSET $4",
		startsWith(strings.ToLower(query)), startsWith(query), p.Limit, p.Offset)
}

func (s *Store) users(ctx context.Context, where string, args ...any) ([]*oauth.User, error) {
	var list []*oauth.User
	err := s.engine.query(ctx, "SELECT "+userColumns+" FROM users WHERE "+where, args, func(scan func(...any) error) error {
		u, err := scanUser(scan)
		list = append(list, u)
		return err
	})
	return list, err
}

// only returns the one thing that a read by key found.
func only[T any](list []*T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, oauth.ErrNotFound
	}
	return list[0], nil
}

// begins is the condition that a word of one of the columns starts with what somebody typed:
// $1 in small letters, whatever the case, or $2 as it was typed, because SQLite
// knows the case of ASCII letters alone.
func begins(columns ...string) string {
	var parts []string
	for _, c := range columns {
		for _, from := range []string{"", "'% ' || "} {
			parts = append(parts, "LOWER("+c+") LIKE "+from+`$1 ESCAPE '\'`, c+" LIKE "+from+`$2 ESCAPE '\'`)
		}
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}

// startsWith makes a LIKE pattern of what somebody typed; "" stays "".
func startsWith(query string) string {
	if query == "" {
		return ""
	}
	return strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`).Replace(query) + "%"
}

// CreateUser implements oauth.PeopleStorage.
func (s *Store) CreateUser(ctx context.Context, u *oauth.User, e oauth.Event) (bool, error) {
	var n int64
	return s.won(ctx, &n, one(counted(&n, insertUser+" ON CONFLICT DO NOTHING", userArgs(u, e)...)), note(e, false, opOf("users", u.ID, e.ID)))
}

const insertUser = `INSERT INTO users (id, kind, name, email, operator, status, members_rev, op, created) VALUES ($1, $2, $3, $4, $5, 'active', 0, $6, $7)`

func userArgs(u *oauth.User, e oauth.Event) []any {
	return []any{u.ID, string(u.Kind), u.Name, u.Email, u.Operator, e.ID, micros(e.At)}
}

// SetUserStatus implements oauth.PeopleStorage.
func (s *Store) SetUserStatus(ctx context.Context, id string, to oauth.Status, e oauth.Event) (bool, error) {
	var n int64
	m := opOf("users", id, e.ID)
	return s.won(ctx, &n, s.lockGrantsOf(id),
		one(counted(&n, "UPDATE users SET status = $1, op = $2 WHERE id = $3 AND status <> $1", string(to), e.ID, id)),
		one(do("DELETE FROM sessions WHERE user_id = $1 AND "+m.where(2), m.args(id)...)),
		tell(e, m, "g.user_id = $5", id))
}

// reaches selects, for [tell], the families of a user's grants that reach a store.
const reaches = "g.user_id = $5 AND (g.all_stores OR EXISTS (SELECT 1 FROM grant_stores x WHERE x.grant_id = g.id AND x.store_id = $6))"

// raiseRevs makes what the user's grants in a store allow count as new: every issuing
// event under way reads again, and every key is asked about. There is no grant that this
// cannot see: who makes one locks the user, and who edits one the grant.
func raiseRevs(userID, storeID string, m mark) []statement {
	return []statement{
		do(`UPDATE grants SET rev = rev + 1 WHERE user_id = $1 AND status <> 'revoked' AND (all_stores OR EXISTS
			(SELECT 1 FROM grant_stores x WHERE x.grant_id = grants.id AND x.store_id = $2)) AND `+m.where(3), m.args(userID, storeID)...),
		do("UPDATE users SET members_rev = members_rev + 1 WHERE id = $1 AND "+m.where(2), m.args(userID)...),
	}
}

// Store implements oauth.PeopleStorage.
func (s *Store) Store(ctx context.Context, id string) (*oauth.Store, error) {
	return only(s.stores(ctx, "id = $1", id))
}

// Stores implements oauth.PeopleStorage.
func (s *Store) Stores(ctx context.Context, query string, p oauth.Page) ([]*oauth.Store, error) {
	return s.stores(ctx, "($1 = '' OR "+begins("id", "name", "domain")+") ORDER BY name, id LIMIT $3 OFFSET $4",
		startsWith(strings.ToLower(query)), startsWith(query), p.Limit, p.Offset)
}

func (s *Store) stores(ctx context.Context, where string, args ...any) ([]*oauth.Store, error) {
	var list []*oauth.Store
	err := s.engine.query(ctx, "SELECT id, name, domain, status, created FROM stores WHERE "+where, args, func(scan func(...any) error) error {
		var st oauth.Store
		var created int64
		if err := scan(&st.ID, &st.Name, &st.Domain, (*string)(&st.Status), &created); err != nil {
			return unavailable(err)
		}
		st.Created = fromMicros(created)
		list = append(list, &st)
		return nil
	})
	return list, err
}

// PutStore implements oauth.PeopleStorage.
func (s *Store) PutStore(ctx context.Context, st *oauth.Store, e oauth.Event) error {
	var n int64
	// Whoever knows what grants allow reads them again, but not for a new name. Of two
	// that put one store at once, the second must see what the first made of it.
	lock := s.engine.lock("SELECT name FROM heads WHERE name = 'stores'")
	state := do("UPDATE heads SET seq = seq + 1 WHERE name = 'stores' AND EXISTS (SELECT 1 FROM stores WHERE id = $1 AND status <> $2)", st.ID, string(st.Status))
	r := rule{kind: oauth.RuleStore, subject: st.ID, value: oauth.StatusAsk, fold: true}
	if st.Status != oauth.Active {
		r.value = oauth.StatusInvalid
	}
	changed := r.make(e, "EXISTS (SELECT 1 FROM stores WHERE id = $2 AND status <> $6)", string(st.Status))
	_, err := s.won(ctx, &n, lock, []statement{state, changed}, one(counted(&n, `INSERT INTO stores (id, name, domain, status, created) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, domain = excluded.domain, status = excluded.status`,
		st.ID, st.Name, st.Domain, string(st.Status), micros(e.At))), note(e, true, mark{"stores", "id", "id", st.ID, st.ID}), r.tell(e))
	return err
}

// Memberships implements oauth.PeopleStorage.
func (s *Store) Memberships(ctx context.Context, userID string) ([]oauth.Membership, error) {
	return s.memberships(ctx, "m.user_id = $1", userID)
}

// Membership implements oauth.PeopleStorage.
func (s *Store) Membership(ctx context.Context, userID, storeID string) (*oauth.Membership, error) {
	list, err := s.memberships(ctx, "m.user_id = $1 AND m.store_id = $2", userID, storeID)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, oauth.ErrNotFound
	}
	return &list[0], nil
}

func (s *Store) memberships(ctx context.Context, where string, args ...any) ([]oauth.Membership, error) {
	var list []oauth.Membership
	err := s.engine.query(ctx, `SELECT m.user_id, m.store_id, st.name, st.domain, st.status, m.is_owner, m.scopes, m.may_delegate
		FROM memberships m JOIN stores st ON st.id = m.store_id WHERE `+where+" ORDER BY st.name, st.id", args, func(scan func(...any) error) error {
		var m oauth.Membership
		var scopeText string
		if err := scan(&m.UserID, &m.StoreID, &m.StoreName, &m.StoreDomain, (*string)(&m.StoreStatus), &m.Owner, &scopeText, &m.MayDelegate); err != nil {
			return unavailable(err)
		}
		m.Scopes = scopes(scopeText)
		list = append(list, m)
		return nil
	})
	return list, err
}

// SetMembership implements oauth.PeopleStorage.
func (s *Store) SetMembership(ctx context.Context, m *oauth.Membership, e oauth.Event) (bool, error) {
	var n int64
	k := memberMark(m.UserID, e.ID)
	guard := counted(&n, `INSERT INTO memberships (user_id, store_id, scopes, may_delegate, is_owner, op)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS BOOLEAN), CAST($5 AS BOOLEAN), CAST($6 AS TEXT)
		WHERE EXISTS (SELECT 1 FROM users WHERE id = $1) AND EXISTS (SELECT 1 FROM stores WHERE id = $2)
		ON CONFLICT (user_id, store_id) DO UPDATE SET scopes = excluded.scopes, may_delegate = excluded.may_delegate, is_owner = excluded.is_owner, op = excluded.op`,
		m.UserID, m.StoreID, m.Scopes.String(), m.MayDelegate, m.Owner, e.ID)
	return s.won(ctx, &n, s.lockGrantsOf(m.UserID), one(guard), raiseRevs(m.UserID, m.StoreID, k), tell(e, k, reaches, m.UserID, m.StoreID))
}

// DropMembership implements oauth.PeopleStorage. The row is marked first and
// removed last, so that the steps between can ask for the mark.
func (s *Store) DropMembership(ctx context.Context, userID, storeID string, e oauth.Event) (bool, error) {
	var n int64
	k := memberMark(userID, e.ID)
	return s.won(ctx, &n, s.lockGrantsOf(userID),
		one(counted(&n, "UPDATE memberships SET op = $1 WHERE user_id = $2 AND store_id = $3", e.ID, userID, storeID)),
		raiseRevs(userID, storeID, k), tell(e, k, reaches, userID, storeID),
		one(do("DELETE FROM memberships WHERE user_id = $1 AND store_id = $2 AND op = $3", userID, storeID, e.ID)))
}

// memberMark asks for the event's id among the user's memberships; an event
// writes only one of them.
func memberMark(userID, op string) mark {
	return mark{"memberships", "user_id", "op", userID, op}
}
