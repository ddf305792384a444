package oauth

import (
	"maps"
	"slices"
	"time"
)

// GrantStatus is where a grant is in its life: pending until the first
// redemption, then live, then suspended or revoked. A revoked grant is never
// revived.
type GrantStatus string

// The states of a grant.
const (
	Pending        GrantStatus = "pending"
	Live           GrantStatus = "live"
	GrantOnHold    GrantStatus = "suspended"
	GrantIsRevoked GrantStatus = "revoked"
)

// Grant is what a user allowed an app: the root of its codes, keys and refresh
// chains (DESIGN, decision 1).
type Grant struct {
	ID        string
	UserID    string
	ClientID  string
	Default   bool     // the one that a repeat consent of an authenticating client updates
	Scopes    ScopeSet // store scopes, for every store that names none of its own
	Account   ScopeSet // account scopes
	AllStores bool     // all stores of the user, also future ones
	Stores    []GrantStore
	Host      string // where the browser went with the last decision: [Redirect.place]
	Status    GrantStatus
	Rev       int64 // raised by whatever changes what a key of this grant may print
	Created   time.Time
	LastUsed  time.Time // zero: never; written at most once an hour
}

// ScopesIn returns the store scopes granted for a store, nil if it is not in the
// grant.
func (g *Grant) ScopesIn(storeID string) ScopeSet {
	i := slices.IndexFunc(g.Stores, func(s GrantStore) bool { return s.StoreID == storeID })
	switch {
	case i >= 0 && g.Stores[i].Scopes != nil:
		return g.Stores[i].Scopes
	case i >= 0 || g.AllStores:
		return g.Scopes
	}
	return nil
}

// has reports whether a store is in the grant. One that stands in it without a scope
// was taken out of "all".
func (g *Grant) has(storeID string) bool { return len(g.ScopesIn(storeID)) > 0 }

// Held returns the scopes that hold anywhere: on the account, in a store, or in those
// that come later. Of a grant that names no store the others wait for one.
func (g *Grant) Held() ScopeSet {
	set := g.Account
	if g.AllStores {
		set = set.Or(g.Scopes)
	}
	for _, x := range g.Stores {
		set = set.Or(g.ScopesIn(x.StoreID))
	}
	return set
}

// holds reports whether a scope holds on the account, or in every store of the grant.
func (g *Grant) holds(scope string) bool {
	if g.Account.Has(scope) {
		return true
	}
	if g.AllStores && !g.Scopes.Has(scope) {
		return false
	}
	in := g.AllStores
	for _, x := range g.Stores {
		if !g.has(x.StoreID) {
			continue
		}
		if !g.ScopesIn(x.StoreID).Has(scope) {
			return false
		}
		in = true
	}
	return in
}

// normalise lets stores that all have the same scopes share the grant's.
func (g *Grant) normalise() {
	for _, s := range g.Stores {
		if s.Scopes == nil || !s.Scopes.Equal(g.Stores[0].Scopes) {
			return
		}
	}
	if len(g.Stores) > 0 {
		g.Scopes = g.Stores[0].Scopes
	}
	for i := range g.Stores {
		g.Stores[i].Scopes = nil
	}
}

// GrantStore is one store of a grant.
type GrantStore struct {
	StoreID string
	Scopes  ScopeSet // nil: the grant's; empty: this one is not among all stores
}

// Membership is what a user may do in a store, as the platform last said.
type Membership struct {
	UserID      string
	StoreID     string
	StoreName   string
	StoreDomain string
	StoreStatus Status
	Owner       bool     // may do everything in it
	Scopes      ScopeSet // what else he may do
	MayDelegate bool     // may connect apps to it
}

// offered reports whether a user may connect an app to the store now.
func (m Membership) offered() bool { return m.MayDelegate && m.StoreStatus == Active }

func (m Membership) may(s ScopeSet) ScopeSet {
	switch {
	case m.StoreStatus != Active:
		return nil
	case m.Owner:
		return s
	default:
		return s.And(m.Scopes)
	}
}

// Rights are what a key may do: account scopes, and scopes per store.
type Rights struct {
	Account ScopeSet
	Stores  map[string]ScopeSet // only stores where something is allowed
}

// effective is the one function that says what a grant allows now: granted
// scopes ∩ chosen stores ∩ the user's membership, per store (DESIGN, decision 2).
func effective(g *Grant, members []Membership) Rights {
	r := Rights{Account: g.Account, Stores: map[string]ScopeSet{}}
	for _, m := range members {
		if g.AllStores && !m.MayDelegate {
			continue // "all" is all that he may open to apps
		}
		if s := m.may(g.ScopesIn(m.StoreID)); len(s) > 0 {
			r.Stores[m.StoreID] = s
		}
	}
	return r
}

// narrow limits r to a request for fewer scopes; nil limits nothing. It touches
// the one key that is being issued, never the grant.
func (r Rights) narrow(to ScopeSet) Rights {
	if to == nil {
		return r
	}
	n := Rights{Account: r.Account.And(to), Stores: make(map[string]ScopeSet, len(r.Stores))}
	for id, s := range r.Stores {
		if s = s.And(to); len(s) > 0 {
			n.Stores[id] = s
		}
	}
	return n
}

// empty reports whether nothing at all is allowed.
func (r Rights) empty() bool { return len(r.Account) == 0 && len(r.Stores) == 0 }

// Right is one row of the rights claim: these scopes hold in these stores.
type Right struct {
	Stores []string `json:"stores"`
	Scope  string   `json:"scope"`
}

// Claim prints r per store, stores with equal scopes together, in a stable order.
func (r Rights) Claim() []Right {
	out := []Right{}
	row := map[string]int{} // of out, by scope
	for _, id := range slices.Sorted(maps.Keys(r.Stores)) {
		scope := r.Stores[id].String()
		i, ok := row[scope]
		if !ok {
			i = len(out)
			row[scope] = i
			out = append(out, Right{Scope: scope})
		}
		out[i].Stores = append(out[i].Stores, id)
	}
	return out
}

// Flat is the scope claim: account scopes and those that hold in every store of
// the key, so that nobody can read a cross product (DESIGN, decision 2).
func (r Rights) Flat() ScopeSet {
	var everywhere ScopeSet
	first := true
	for _, s := range r.Stores {
		if first {
			everywhere, first = s, false
			continue
		}
		everywhere = everywhere.And(s)
	}
	return r.Account.Or(everywhere)
}

// maxRights bounds in bytes what a key prints of rights: fifty stores with ids of 255
// bytes, and room. Nothing else bounds it: each store may have scopes of its own, and an
// operator as many scopes as he likes. In base64 it is two thirds of maxToken; the rest
// is for a user and an app of 255 bytes, each of them escaped, a narrowed scope
// (maxScope), and 2 KB of URLs.
const maxRights = 16 << 10

// printable reports whether a key can carry these rights. One that cannot is
// born with status "ask".
func (r Rights) printable(g *Grant) bool {
	if g.AllStores || len(r.Stores) > MaxPrinted {
		return false
	}
	// Mostly it need not be printed to be known to fit: an id takes six times its length
	// if all of it is escaped, a scope never is, and flat it is printed once more.
	atMost := r.Account.length()
	for id, set := range r.Stores {
		atMost += len(`{"stores":[""],"scope":""},`) + 6*len(id) + 2*set.length()
	}
	if atMost <= maxRights {
		return true
	}
	text, err := marshalClaims(r.Claim())
	return err == nil && len(text)+len(r.Flat().String()) <= maxRights
}

// Standing is everything that decides what a key of one grant may print at this
// moment, read in one go.
type Standing struct {
	Grant        Grant
	Members      []Membership // of the grant's user in the grant's stores
	UserKind     UserKind
	UserStatus   Status
	ClientStatus Status
	Seq          int64 // the feed's sequence as it was when this was read
	Epoch        int64 // of that feed
	Cut          int64 // families whose iseq is below are over
}

// usable says why no key of this grant may be issued or accepted, or nil.
func (s *Standing) usable() *Error {
	switch {
	case s.ClientStatus != Active:
		return refuse(ClientSuspended)
	case s.UserStatus != Active:
		return refuse(GrantDead)
	case s.Grant.Status == GrantOnHold:
		return refuse(GrantSuspended)
	case s.Grant.Status != Pending && s.Grant.Status != Live:
		return refuse(GrantDead)
	}
	return nil
}

func (s *Standing) rights() Rights { return effective(&s.Grant, s.Members) }

// FamilyStatus is the two-bit status of a family's index.
type FamilyStatus string

// The values of the status list (RFC-to-be Token Status List, section 7; 3 is
// ours: ask by introspection). Suspension is computed from the grant.
const (
	Valid   FamilyStatus = "valid"
	Invalid FamilyStatus = "invalid"
	Ask     FamilyStatus = "ask"
)

// Family is one key, or one refresh chain with its access tokens: the unit of
// revocation below the grant.
type Family struct {
	ID          string
	GrantID     string
	ClientID    string
	UserID      string
	API         string
	StatusIndex int64    // list number × 2^20 + index in that list; never used twice
	Narrowing   ScopeSet // nil: everything that the grant allows
	Status      FamilyStatus
	Rev         int64 // of the grant: what the key prints is of then
	ISeq        int64 // the feed's sequence as read before it was issued
	Created     time.Time
	Due         time.Time // when the sweeper looks whether it is over; zero: never, as for a lasting key
	Token       Hash      // of the one token of a lasting key; nil where there are many
}

// over reports whether a family has ended: by itself, or with everything.
func (f *Family) over(st *Standing) bool { return f.Status == Invalid || st != nil && f.ISeq < st.Cut }
