package oauth

// ScopeKind says what a scope acts on.
type ScopeKind string

// A store scope intersects with the stores of a grant; an account scope acts on
// the user's account and needs no store (seed-contracts 1.5).
const (
	StoreScope   ScopeKind = "store"
	AccountScope ScopeKind = "account"
)

// Scope is one entry of the catalogue that the operator configures.
type Scope struct {
	Name    string            // scope-token of RFC 6749, 3.3
	Group   string            // id of a ScopeGroup
	Kind    ScopeKind         // what it acts on
	Verb    string            // "see" or "change": under which heading consent lists it
	Risk    string            // "low", "elevated" or "high"
	Touches []string          // of "money", "customers", "deletion": what consent marks
	Text    map[string]string // one sentence per language, for people; "en" is always there
}

// ScopeGroup is a heading under which the developer portal lists scopes.
type ScopeGroup struct {
	ID    string
	Title map[string]string // per language; "en" is always there
}

// Catalogue is every scope there is, in the operator's order.
type Catalogue struct {
	Scopes []Scope
	Groups []ScopeGroup

	byName map[string]*Scope
}

// NewCatalogue indexes scopes and groups. The caller has validated them.
func NewCatalogue(scopes []Scope, groups []ScopeGroup) *Catalogue {
	c := &Catalogue{Scopes: scopes, Groups: groups, byName: make(map[string]*Scope, len(scopes))}
	for i := range scopes {
		c.byName[scopes[i].Name] = &scopes[i]
	}
	return c
}

// Scope returns the entry called name, or nil.
func (c *Catalogue) Scope(name string) *Scope { return c.byName[name] }

// split parts a set into store scopes and account scopes. A name that the
// catalogue no longer has counts for nothing.
func (c *Catalogue) split(s ScopeSet) (store, account ScopeSet) {
	of := func(k ScopeKind) ScopeSet {
		return s.filter(func(name string) bool { e := c.byName[name]; return e != nil && e.Kind == k })
	}
	return of(StoreScope), of(AccountScope)
}
