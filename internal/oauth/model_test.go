package oauth_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

// TestModel walks one user's connections at random and compares the introspected
// rights of every key, at every step, with a model written as naively as the rules
// read: plain maps, no sharing, nothing stored but what people did.
func TestModel(t *testing.T) {
	w := newWorld(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		m := newModel(t, w, fmt.Sprintf("u%d", n), w.exchange, w.public)
		t.Repeat(map[string]func(*rapid.T){
			"":             m.check,
			"consent":      m.consent,
			"redeem":       m.redeem,
			"removeStore":  m.removeStore,
			"edit":         m.edit,
			"editStore":    m.editStore,
			"membership":   m.membership,
			"drop":         m.drop,
			"suspend":      m.suspend,
			"resume":       m.resume,
			"revoke":       m.revoke,
			"revokeKey":    m.revokeKey,
			"suspendUser":  m.suspendUser,
			"suspendStore": m.suspendStore,
			"wait":         func(t *rapid.T) { w.clock.advance(1000) },
		})
	})
}

type set = map[string]bool

// modelGrant is what a person would write down of a connection.
type modelGrant struct {
	id      string
	app     int
	stores  map[string]set // store → scopes granted there
	all     bool
	later   set // scopes of stores that come later, if all
	account set
	status  oauth.GrantStatus
}

type modelKey struct {
	token oauth.Secret
	grant *modelGrant
	cut   bool // with the key that signed it
	lost  bool // it was issued after the backup that was put back
	*modelFamily
}

// modelFamily is a key, or what is refreshed together.
type modelFamily struct {
	narrow  set // nil: everything
	dead    bool
	byRule  bool         // whose bits may not be written yet
	born    int          // how often anything had changed by then, see model.changes
	refresh oauth.Secret // the token of now, "" if there is none
	spent   []oauth.Secret
}

type modelCode struct {
	code   string
	grant  *modelGrant
	narrow set
}

type modelMember struct {
	owner, delegate bool
	scopes          set
}

type model struct {
	w       *world
	user    string
	apps    []app
	stores  []string
	members map[string]modelMember
	closed  set
	grants  []*modelGrant
	keys    []*modelKey
	codes   []modelCode
	onHold  bool
	stopped map[string]bool // apps that are suspended
	resumed []string        // stores, since rules were folded
	changes int             // that grants could notice
}

var (
	storeScopes = []string{"stores.view", "stores.orders.view", "stores.orders.deliver"}
	allScopes   = append([]string{"user.view"}, storeScopes...)
)

func newModel(t *rapid.T, w *world, user string, apps ...app) *model {
	ctx := context.Background()
	m := &model{w: w, user: user, apps: apps, members: map[string]modelMember{}, closed: set{}}
	noErr(t, w.PutUser(ctx, command, oauth.User{ID: user}))
	for i := range 3 {
		id := fmt.Sprintf("%s-%d", user, i)
		m.stores = append(m.stores, id)
		noErr(t, w.PutStore(ctx, command, oauth.Store{ID: id, Name: id}))
		m.set(t, id, modelMember{owner: true, delegate: true})
	}
	return m
}

func noErr(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) set(t *rapid.T, store string, x modelMember) {
	noErr(t, m.w.SetMembership(context.Background(), command, oauth.Membership{UserID: m.user, StoreID: store, Owner: x.owner, MayDelegate: x.delegate, Scopes: oauth.Scopes(names(x.scopes)...)}))
	m.members[store] = x
	m.changes++
}

func names(s set) (out []string) {
	for name := range s {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func of(list ...string) set {
	s := set{}
	for _, x := range list {
		s[x] = true
	}
	return s
}

// expect is the rights of a key as the rules read.
func (m *model) expect(k *modelKey) string {
	g := k.grant
	if k.dead || m.onHold || g.status != oauth.Live || m.stopped[m.apps[g.app].id] {
		return "inactive"
	}
	wanted := func(scope string) bool { return k.narrow == nil || k.narrow[scope] }
	rows := map[string][]string{}
	var everywhere set
	for _, store := range m.stores {
		member, is := m.members[store]
		granted, ticked := g.stores[store]
		if !is || m.closed[store] || g.all && !member.delegate {
			continue
		}
		if !ticked {
			if !g.all {
				continue
			}
			granted = g.later
		}
		may := set{}
		for scope := range granted {
			if (member.owner || member.scopes[scope]) && wanted(scope) {
				may[scope] = true
			}
		}
		if len(may) == 0 {
			continue
		}
		text := strings.Join(names(may), " ")
		rows[text] = append(rows[text], store)
		if everywhere == nil {
			everywhere = may
		}
		for scope := range everywhere {
			if !may[scope] {
				everywhere = of(slices.DeleteFunc(names(everywhere), func(s string) bool { return s == scope })...)
			}
		}
	}
	flat := set{}
	for scope := range everywhere {
		flat[scope] = true
	}
	for scope := range g.account {
		if wanted(scope) {
			flat[scope] = true
		}
	}
	var rights []oauth.Right
	for scope, stores := range rows {
		rights = append(rights, oauth.Right{Stores: stores, Scope: scope})
	}
	slices.SortFunc(rights, func(a, b oauth.Right) int { return strings.Compare(a.Stores[0], b.Stores[0]) })
	return line(rights, strings.Join(names(flat), " "))
}

func (m *model) check(t *rapid.T) {
	for i, k := range m.keys {
		if got, want := m.w.rights(k.token), m.expect(k); got != want {
			t.Fatalf("key %d of %s: introspection says %s, the model %s", i, k.grant.id, got, want)
		}
	}
}

// consent presses Allow on a request of one of the apps.
func (m *model) consent(t *rapid.T) {
	i := rapid.IntRange(0, len(m.apps)-1).Draw(t, "app")
	scope := rapid.SampledFrom([]string{"", "stores.view", "user.view", "stores.orders.deliver user.view", "stores.orders.view stores.orders.deliver", "stores.view user.view"}).Draw(t, "scope")
	deliver := rapid.Bool().Draw(t, "deliver")
	all := rapid.IntRange(0, 4).Draw(t, "all") == 0
	stores := func(what string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(m.stores), rapid.ID[string]).Draw(t, what)
	}
	m.decide(t, i, scope, deliver, all, stores("stores"), stores("except")...)
}

func (m *model) decide(t *rapid.T, i int, scope string, deliver, all bool, ticked []string, except ...string) {
	a := m.apps[i]
	d := oauth.Decision{Allow: true, Stores: ticked, AllStores: all, Except: except}
	if deliver {
		d.Scopes = []string{"stores.orders.deliver"}
	}
	back, err := m.w.Decide(context.Background(), m.user, m.w.ask(a, "scope", scope), d)

	approved, storeOnes, needsStore, aboutStores := set{}, set{}, set{}, false
	was := m.held(i)
	asked := allScopes
	if scope != "" {
		asked = strings.Fields(scope)
	}
	for _, s := range asked {
		aboutStores = aboutStores || s != "user.view"
		given := s != "stores.orders.deliver" || deliver
		if given || was != nil && was.holds(s) { // what it has it is not asked for again
			approved[s] = true
			if s != "user.view" {
				storeOnes[s] = true
				needsStore[s] = given
			}
		}
	}
	if want := m.refusal(approved, needsStore, aboutStores, ticked, all); want != "" || err != nil {
		if got := oauth.ReasonOf(err); got != want {
			t.Fatalf("consent: %v, the model says %q", err, want)
		}
		return
	}
	g := m.held(i)
	if g == nil {
		g = &modelGrant{app: i, stores: map[string]set{}, account: set{}, status: oauth.Pending}
		m.grants = append(m.grants, g)
	}
	if g.status == oauth.Pending { // nothing came of what was decided before
		g.account, g.stores, g.all, g.later = set{}, map[string]set{}, false, nil
	}
	if approved["user.view"] {
		g.account["user.view"] = true
	}
	if aboutStores {
		m.merge(g, storeOnes, ticked, all, except)
	}
	m.changes++
	c := modelCode{code: param(t, back, "code"), grant: g}
	if scope != "" {
		c.narrow = approved
	}
	m.codes = append(m.codes, c)
}

// holds: an optional scope that holds in every store of a grant that is taken up.
func (g *modelGrant) holds(scope string) bool {
	if g.status == oauth.Pending || g.all && !g.later[scope] {
		return false
	}
	in := g.all
	for _, s := range g.stores {
		if len(s) > 0 && !s[scope] {
			return false
		}
		in = in || len(s) > 0
	}
	return in
}

func (m *model) refusal(approved, needsStore set, aboutStores bool, ticked []string, all bool) oauth.Reason {
	may := 0
	for store, x := range m.members {
		if x.delegate && !m.closed[store] {
			may++
		}
	}
	switch {
	case m.onHold:
		return oauth.UserSuspended
	case len(approved) == 0:
		return oauth.NothingToGrant
	case !slices.Contains(slices.Collect(maps.Values(needsStore)), true) && (!aboutStores || len(ticked) == 0 && !all):
		return ""
	case may == 0:
		return oauth.NothingToGrant
	case len(ticked) == 0 && !all:
		return oauth.StoreNone
	}
	for _, store := range ticked {
		if x, is := m.members[store]; !is || !x.delegate || m.closed[store] {
			return oauth.StoreForeign
		}
	}
	return ""
}

// held is the grant that a repeat consent updates: of an app that authenticates.
func (m *model) held(i int) *modelGrant {
	for _, g := range m.grants {
		if g.app == i && m.apps[i].Type == oauth.Confidential && g.status != oauth.GrantIsRevoked {
			return g
		}
	}
	return nil
}

// merge: kept stores keep and gain, new ones get what is approved now, others go; those
// that could not be ticked stay, if they were not of all.
func (m *model) merge(g *modelGrant, approved set, ticked []string, all bool, except []string) {
	had := func(store string) set {
		if s, ok := g.stores[store]; ok {
			return s
		}
		if g.all {
			return g.later
		}
		return nil
	}
	offered := func(store string) bool {
		x, is := m.members[store]
		return is && x.delegate && !m.closed[store]
	}
	next := map[string]set{}
	for store, s := range g.stores { // no tick was about it
		if !offered(store) && (g.all && all || !g.all && len(s) > 0) {
			next[store] = s
		}
	}
	again := ticked
	if all {
		ticked = nil
		for store, s := range g.stores {
			if !offered(store) {
				continue
			}
			if g.all && len(s) == 0 && !slices.Contains(again, store) {
				next[store] = s // taken out of all
				continue
			}
			ticked = append(ticked, store)
		}
	}
	for _, store := range ticked {
		if s := of(append(names(had(store)), names(approved)...)...); len(s) > 0 || all && g.all {
			next[store] = s
		}
	}
	for _, store := range except {
		if _, is := m.members[store]; is && all && !slices.Contains(again, store) {
			delete(next, store)
			if g.all || len(approved) > 0 {
				next[store] = set{}
			}
		}
	}
	later := set{}
	if all {
		later = of(names(approved)...)
		if g.all {
			later = of(append(names(g.later), names(approved)...)...)
		}
	}
	if len(approved) == 0 && !g.all { // nothing that later stores could have
		all, later = false, nil
	}
	g.stores, g.all, g.later = next, all, later
}

func (m *model) redeem(t *rapid.T) {
	if len(m.codes) == 0 {
		t.Skip("no code")
	}
	i := rapid.IntRange(0, len(m.codes)-1).Draw(t, "code")
	c := m.codes[i]
	resp, err := m.w.redeem(m.apps[c.grant.app], c.code)
	k := &modelKey{grant: c.grant, modelFamily: &modelFamily{narrow: c.narrow, born: m.changes}}
	was := c.grant.status
	c.grant.status = oauth.Live
	rights := m.expect(k)
	c.grant.status = was
	switch {
	case was == oauth.GrantOnHold && !m.onHold:
		wantReason(t, err, oauth.GrantSuspended)
		return
	case was != oauth.Live && was != oauth.Pending || m.onHold:
		wantReason(t, err, oauth.GrantDead)
		return
	case rights == "|":
		wantReason(t, err, oauth.NoRights)
		return
	}
	noErr(t, err)
	k.token, k.refresh, c.grant.id, c.grant.status = resp.AccessToken, resp.RefreshToken, resp.GrantID, oauth.Live
	m.keys = append(m.keys, k)
	m.codes = slices.Delete(m.codes, i, i+1)
	m.printed(t, k, rights)
}

// printed holds what a new key prints against the rights that it was issued with.
func (m *model) printed(t *rapid.T, k *modelKey, rights string) {
	got, tooMuch := claims(m.w.t, k.token), k.grant.all || reached(rights) > oauth.MaxPrinted
	if tooMuch != (got.Rights == nil) {
		t.Fatalf("printed %v of %s; for a grant of all stores: %v", got.Rights, rights, k.grant.all)
	}
	if !tooMuch && line(got.Rights, got.Scope) != rights {
		t.Fatalf("printed %s, the model %s", line(got.Rights, got.Scope), rights)
	}
}

// reached counts the stores in a line of rights.
func reached(rights string) int {
	stores, _, _ := strings.Cut(rights, "|")
	return strings.Count(stores, ",") + strings.Count(stores, ":")
}

// pick draws one of the grants that have an id, or skips.
func (m *model) pick(t *rapid.T) *modelGrant {
	var known []*modelGrant
	for _, g := range m.grants {
		if g.id != "" {
			known = append(known, g)
		}
	}
	if len(known) == 0 {
		t.Skip("no grant")
	}
	return known[rapid.IntRange(0, len(known)-1).Draw(t, "grant")]
}

func (m *model) removeStore(t *rapid.T) {
	g, store := m.pick(t), rapid.SampledFrom(m.stores).Draw(t, "store")
	m.changes++
	revoked, err := m.w.RemoveStore(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: m.user}, g.id, store)
	in, rest := len(g.stores[store]) > 0, 0
	for s := range g.stores {
		if s != store {
			rest++
		}
	}
	if g.all {
		rest = 0
		for s, x := range m.members {
			own, listed := g.stores[s]
			if reached := x.delegate && (!listed || len(own) > 0); s == store {
				in = reached
			} else if reached {
				rest++
			}
		}
		if !m.members[store].delegate {
			in = false
		}
	}
	if !in || g.status == oauth.GrantIsRevoked {
		wantReason(t, err, oauth.NoSuch)
		return
	}
	noErr(t, err)
	last := rest == 0 && len(g.account) == 0
	if revoked != last {
		t.Fatalf("revoked %v, the model %v", revoked, last)
	}
	if last {
		g.status = oauth.GrantIsRevoked
		return
	}
	if delete(g.stores, store); g.all {
		g.stores[store] = set{}
	}
}

// reaches: the store is in the grant, and shown: its user decides about it.
func (m *model) reaches(g *modelGrant, store string) bool {
	own, listed := g.stores[store]
	if g.all && !listed {
		return m.members[store].delegate
	}
	return len(own) > 0 && (!g.all || m.members[store].delegate)
}

func (m *model) shown(g *modelGrant, store string) bool {
	x, is := m.members[store]
	return is && !m.closed[store] && (x.delegate || m.reaches(g, store))
}

func (g *modelGrant) in(store string) set {
	if own, listed := g.stores[store]; listed {
		return own
	}
	return g.later
}

// kept is what a store shall have; how says what becomes of the optional scope.
func (g *modelGrant) kept(before set, connected bool, how string) set {
	out, held := set{}, of(names(g.later)...)
	for _, s := range g.stores {
		for scope := range s {
			held[scope] = true
		}
	}
	for scope := range held {
		if scope != deliver && (before[scope] || !connected) || scope == deliver && (how == "every" || how == "stay" && before[scope]) {
			out[scope] = true
		}
	}
	return out
}

// edit saves the page on which a connection is changed.
func (m *model) edit(t *rapid.T) {
	g := m.pick(t)
	if !g.all && len(g.stores) == 0 {
		t.Skip("what it would give to a store is not written down here")
	}
	how := rapid.SampledFrom([]string{"every", "stay", "none"}).Draw(t, "how")
	all := rapid.IntRange(0, 3).Draw(t, "all") == 0
	ticked := rapid.SliceOfDistinct(rapid.SampledFrom(m.stores), rapid.ID[string]).Draw(t, "stores")
	e := oauth.GrantEdit{Rev: m.w.grant(g.id).Rev, Stores: ticked, AllStores: all}
	switch how {
	case "every":
		e.Scopes = []string{deliver}
	case "stay":
		e.Stay = []string{deliver}
	}
	_, err := m.w.EditGrant(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: m.user}, g.id, e)

	later := g.kept(g.later, g.all, how)
	next, want := map[string]set{}, oauth.Reason("")
	for _, store := range m.stores {
		on := slices.Contains(ticked, store)
		_, listed := g.stores[store]
		switch {
		case on && !m.shown(g, store):
			want = oauth.StoreForeign
		case on && m.reaches(g, store):
			next[store] = g.kept(g.in(store), true, how)
		case on:
			next[store] = later
		case m.shown(g, store) && all:
			next[store] = set{}
		case !m.shown(g, store) && listed:
			if s := g.kept(g.stores[store], true, how); len(g.stores[store]) == 0 && all {
				next[store] = set{}
			} else if len(g.stores[store]) > 0 && (all || !g.all && len(s) > 0) {
				next[store] = s
			}
		}
		if on && want == "" && len(next[store]) == 0 {
			want = oauth.NothingLeft
		}
		if on && all && maps.Equal(next[store], later) { // one of all
			delete(next, store)
		}
	}
	switch {
	case g.status == oauth.GrantIsRevoked:
		want = oauth.NoSuch
	case want == oauth.StoreForeign:
	case want == "" && all && len(later) == 0:
		want = oauth.NothingLeft
	case want == "" && len(ticked) == 0 && !all && len(g.account) == 0:
		want = oauth.StoreNone
	}
	if got := oauth.ReasonOf(err); got != want || err != nil && want == "" {
		t.Fatalf("edit: %v, the model says %q", err, want)
	}
	if want != "" {
		return
	}
	if !all {
		later = nil
	}
	g.stores, g.all, g.later = next, all, later
	m.changes++
}

// editStore saves the page of one store.
func (m *model) editStore(t *rapid.T) {
	g, store := m.pick(t), rapid.SampledFrom(m.stores).Draw(t, "store")
	how, ticked := "none", []string(nil)
	if rapid.Bool().Draw(t, "deliver") {
		how, ticked = "every", []string{deliver}
	}
	_, err := m.w.EditStore(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: m.user}, g.id, store, m.w.grant(g.id).Rev, ticked)
	if g.status == oauth.GrantIsRevoked || !m.shown(g, store) || !m.reaches(g, store) {
		wantReason(t, err, oauth.NoSuch)
		return
	}
	s := g.kept(g.in(store), true, how)
	if len(s) == 0 {
		wantReason(t, err, oauth.NothingLeft)
		return
	}
	noErr(t, err)
	m.changes++
	if g.stores[store] = s; g.all && maps.Equal(s, g.later) { // one of all
		delete(g.stores, store)
	}
}

func (m *model) membership(t *rapid.T) {
	m.set(t, rapid.SampledFrom(m.stores).Draw(t, "store"), modelMember{
		owner: rapid.Bool().Draw(t, "owner"), delegate: rapid.IntRange(0, 3).Draw(t, "delegate") > 0,
		scopes: of(rapid.SliceOfDistinct(rapid.SampledFrom(storeScopes), rapid.ID[string]).Draw(t, "scopes")...)})
}

func (m *model) drop(t *rapid.T) {
	store := rapid.SampledFrom(m.stores).Draw(t, "store")
	err := m.w.DropMembership(context.Background(), command, m.user, store)
	if _, is := m.members[store]; !is {
		wantReason(t, err, oauth.NoSuch)
		return
	}
	noErr(t, err)
	delete(m.members, store)
	m.changes++
}

func (m *model) suspendStore(t *rapid.T) {
	store := rapid.SampledFrom(m.stores).Draw(t, "store")
	status := oauth.Suspended
	if m.closed[store] {
		status = oauth.Active
	}
	noErr(t, m.w.PutStore(context.Background(), command, oauth.Store{ID: store, Name: store, Status: status}))
	m.closed[store] = !m.closed[store]
	m.changes++
}

func (m *model) change(t *rapid.T, do func(context.Context, oauth.Actor, string) error, to oauth.GrantStatus, from ...oauth.GrantStatus) {
	g := m.pick(t)
	err := do(context.Background(), command, g.id)
	if !slices.Contains(from, g.status) {
		wantReason(t, err, oauth.Changed)
		return
	}
	noErr(t, err)
	g.status = to
}

func (m *model) suspend(t *rapid.T) { m.change(t, m.w.SuspendGrant, oauth.GrantOnHold, oauth.Live) }
func (m *model) resume(t *rapid.T)  { m.change(t, m.w.ResumeGrant, oauth.Live, oauth.GrantOnHold) }
func (m *model) revoke(t *rapid.T) {
	m.change(t, m.w.RevokeGrant, oauth.GrantIsRevoked, oauth.Live, oauth.GrantOnHold)
}

func (m *model) revokeKey(t *rapid.T) {
	if len(m.keys) == 0 {
		t.Skip("no key")
	}
	k := m.keys[rapid.IntRange(0, len(m.keys)-1).Draw(t, "key")]
	noErr(t, m.w.Revoke(context.Background(), m.apps[k.grant.app].auth(), k.token.Reveal()))
	k.dead = true
}

func (m *model) suspendUser(t *rapid.T) {
	if m.onHold {
		noErr(t, m.w.ResumeUser(context.Background(), command, m.user))
	} else if rapid.IntRange(0, 2).Draw(t, "really") == 0 {
		noErr(t, m.w.SuspendUser(context.Background(), command, m.user))
	} else {
		t.Skip("not now")
	}
	m.onHold = !m.onHold
}
