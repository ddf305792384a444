package oauth_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

// TestModel_Followed is the model with several people, two nodes that start again,
// backups that are put back, and the ends of apps and keys and of everything; and
// what a key may do is asked of a verifier that follows the feed. After every step
// each key that was ever issued is checked: no check that begins [promised] after the step
// admits a key to what the model denies it, and once the verifier has followed, within
// [comesBack], it says what the model says, neither more nor less, and the bits bear it out.
// Within [promised], too, it is to have followed and to know of every key, after all steps
// but one in [seldomLate].
//
// Every case makes a backup, puts it back and starts a node again, beside those that
// chance makes. TEST_GRANTWAY_MODEL=5000 is how many steps to make on each engine, with
// -rapid.checks=1000000.
func TestModel_Followed(t *testing.T) {
	budget := 40
	if storagetest.All() {
		budget = 150
	}
	if text := os.Getenv("TEST_GRANTWAY_MODEL"); text != "" {
		var err error
		if budget, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newFollowed(t, dsn)
			c := &crowd{followed: x, apps: []app{x.exchange, x.other, x.standard, x.public, x.rotating}, stopped: map[string]bool{}, late: map[int]time.Duration{}}
			c.furnish()
			shortest := false // a case failed, and the shortest way there is looked for
			rapid.Check(t, func(t *rapid.T) {
				if c.steps >= budget && !shortest {
					return
				}
				whole := false
				defer func() { shortest = shortest || !whole }()
				c.begin(t)
				part := func() {
					left := perPart
					actions := c.actions()
					for name, act := range actions {
						actions[name] = func(t *rapid.T) {
							if left == 0 {
								return
							}
							act(t)
							if name != "" {
								left--
								c.stepped()
							}
						}
					}
					t.Repeat(actions)
				}
				part()
				if c.backup == nil {
					c.makeBackup(t)
				}
				part()
				if c.backup == nil { // chance put it back
					c.makeBackup(t)
				}
				c.putBack(t)
				c.stepped()
				part()
				c.restart(t)
				c.stepped()
				c.check(t)
				whole = true
			})
			t.Logf("%d steps in %d cases, %d backups put back, %d restarts; the last wrong admission began %v after its step; after %d steps the verifier did not know %v later, the longest %v; the verifier: %+v",
				c.steps, c.cases, c.restores, c.restarts, c.latest, len(c.late), promised, slices.Max(append(slices.Collect(maps.Values(c.late)), 0)), x.verifier.Counters())
			if len(c.late) > max(1, c.steps/seldomLate) {
				t.Errorf("after %d of %d steps the verifier did not know the present %v later: %v", len(c.late), c.steps, promised, c.late)
			}
			if c.steps < budget || c.restores == 0 || c.restarts == 0 {
				t.Errorf("that is too little: %d steps, a restore and a restart were to be", budget)
			}
		})
	}
}

// perPart is how many steps at most a case makes between its backup, its restore and
// its restart: whatever chance makes of it, a case is over within so many seconds.
const perPart = 20

// seldomLate is of how many steps one may be followed late; one may in any case. On a
// machine that many share a few are, when all that runs here waits for its turn. A verifier
// that hears of news late as a rule is late after a third of them and more.
const seldomLate = 4

// crowd is the people of a run, and what they share.
type crowd struct {
	*followed
	cases   int
	apps    []app
	stopped map[string]bool
	people  []*model // and guests, who have no stores
	wide    []string // stores that some are members of, so many that no key prints them
	used    []usedCode
	backup  *saved
	// A store was suspended or resumed, and the bits under the rule were not written yet.
	unfolded bool

	done                      time.Time // when the last step was acknowledged
	steps, restores, restarts int
	latest                    time.Duration         // from a step to the last check that began then and admitted a key to what it may not
	late                      map[int]time.Duration // steps after which the verifier did not know in time, and how long that was seen
}

func (c *crowd) stepped() {
	c.steps++
	c.done = time.Now()
}

// usedCode is a code that was redeemed.
type usedCode struct {
	modelCode
	app    int
	family *modelFamily
}

// saved is a backup, and what the model was when it was made.
type saved struct {
	file    string
	people  []*model
	keys    map[*modelKey]bool            // that there were
	to      map[*modelFamily]*modelFamily // which of people's are which of those who go on
	apps    []app
	stopped map[string]bool
	used    []usedCode
}

// furnish makes the stores that many share.
func (c *crowd) furnish() {
	for i := range oauth.MaxPrinted + 1 {
		id := fmt.Sprintf("wide-%02d", i)
		c.must(c.PutStore(context.Background(), command, oauth.Store{ID: id, Name: id}))
		c.wide = append(c.wide, id)
	}
}

// begin forgets everybody and makes new people, one of them with many stores now and
// then.
func (c *crowd) begin(t *rapid.T) {
	ctx := context.Background()
	c.cases++
	for i, a := range c.apps {
		if c.stopped[a.id] {
			noErr(t, c.ResumeClient(ctx, command, a.id))
			delete(c.stopped, a.id)
		}
		c.apps[i] = a
	}
	for _, id := range c.wide {
		if slices.ContainsFunc(c.people, func(m *model) bool { return m.closed[id] }) {
			noErr(t, c.PutStore(ctx, command, oauth.Store{ID: id, Name: id}))
		}
	}
	c.people, c.used, c.backup, c.unfolded = nil, nil, nil, false
	for i := range 2 {
		m := c.person(t, fmt.Sprintf("f%d-%d", c.cases, i))
		if i == 0 && rapid.IntRange(0, 4).Draw(t, "wide") == 0 {
			m.stores = append(m.stores, c.wide...)
			for _, id := range c.wide {
				m.set(t, id, modelMember{owner: true, delegate: true})
			}
			m.decide(t, 0, "", true, false, m.stores)
			c.redeem(m, t)
		}
		m.decide(t, 1+i, "", true, rapid.Bool().Draw(t, "all"), m.stores[:2])
		c.redeem(m, t)
	}
	c.done = time.Now()
}

func (c *crowd) person(t *rapid.T, user string) *model {
	m := newModel(t, &c.world, user, c.apps[:4]...)
	m.stopped = c.stopped
	c.people = append(c.people, m)
	return m
}

func (c *crowd) actions() map[string]func(*rapid.T) {
	anyone := func(act func(*model, *rapid.T)) func(*rapid.T) {
		return func(t *rapid.T) {
			c.node(t)
			act(c.people[rapid.IntRange(0, len(c.people)-1).Draw(t, "who")], t)
		}
	}
	all := func(act func(*rapid.T)) func(*rapid.T) {
		return func(t *rapid.T) { c.node(t); act(t) }
	}
	return map[string]func(*rapid.T){
		"":             c.check,
		"consent":      anyone(c.consent),
		"consentWide":  anyone(c.consentWide),
		"redeem":       anyone(c.redeem),
		"issue":        anyone(c.issue), // keys are what it is about
		"issue again":  anyone(c.issue),
		"guest":        all(c.guest),
		"refresh":      anyone(c.refresh),
		"replayToken":  anyone(c.replayToken),
		"replayCode":   all(c.replayCode),
		"removeStore":  anyone(member((*model).removeStore)),
		"edit":         anyone(member((*model).edit)),
		"editStore":    anyone(member((*model).editStore)),
		"membership":   anyone(member((*model).membership)),
		"asItWas":      anyone(member(asItWas)),
		"drop":         anyone(member((*model).drop)),
		"suspendStore": anyone(member(c.suspendStore)),
		"suspend":      anyone((*model).suspend),
		"resume":       anyone((*model).resume),
		"revoke":       anyone((*model).revoke),
		"revokeKey":    anyone(c.revokeKey),
		"suspendUser":  anyone((*model).suspendUser),
		"suspendApp":   all(c.suspendApp),
		"deleteApp":    all(c.deleteApp),
		"cutKey":       all(c.cutKey),
		"cutAll":       all(c.cutAll),
		"fold":         c.fold,
		"wait":         all(c.wait),
		"restart":      func(t *rapid.T) { seldom(t, 2); c.restart(t) },
		"nodeDown":     c.nodeDown,
		"backup":       func(t *rapid.T) { seldom(t, 5); c.makeBackup(t) },
		"restore":      all(c.putBack),
	}
}

// seldom skips a step, but for one time of so many and one.
func seldom(t *rapid.T, n int) {
	if rapid.IntRange(0, n).Draw(t, "really") != n {
		t.Skip("not now")
	}
}

// node takes one of the nodes for the step.
func (c *crowd) node(t *rapid.T) {
	n := c.nodes[rapid.IntRange(0, 1).Draw(t, "node")]
	c.Server, c.db = n.server, n.db
}

func member(act func(*model, *rapid.T)) func(*model, *rapid.T) {
	return func(m *model, t *rapid.T) {
		if len(m.stores) == 0 {
			t.Skip("a guest")
		}
		act(m, t)
	}
}

func (c *crowd) suspendStore(m *model, t *rapid.T) {
	was := maps.Clone(m.closed)
	m.suspendStore(t)
	c.unfolded = true
	m.resumed = slices.DeleteFunc(m.resumed, func(store string) bool { return m.closed[store] })
	for store := range was {
		if was[store] && !m.closed[store] {
			m.resumed = append(m.resumed, store)
		}
	}
}

func (c *crowd) consent(m *model, t *rapid.T) {
	if len(m.stores) == 0 || slices.ContainsFunc(m.apps, func(a app) bool { return c.stopped[a.id] }) {
		t.Skip("a guest, or an app is suspended")
	}
	m.consent(t)
}

func (c *crowd) issue(m *model, t *rapid.T) {
	had := len(m.codes)
	c.consent(m, t)
	if len(m.codes) > had {
		c.redeem(m, t)
	}
}

// consentWide ticks every store there is.
func (c *crowd) consentWide(m *model, t *rapid.T) {
	i := rapid.IntRange(0, len(m.apps)-1).Draw(t, "app")
	if len(m.stores) <= oauth.MaxPrinted || c.stopped[m.apps[i].id] {
		t.Skip("not so many stores, or the app is suspended")
	}
	m.decide(t, i, "", true, false, m.stores)
	c.redeem(m, t)
}

func (c *crowd) redeem(m *model, t *rapid.T) {
	m.codes = slices.DeleteFunc(m.codes, func(code modelCode) bool { return c.stopped[m.apps[code.grant.app].id] })
	had, codes := len(m.keys), slices.Clone(m.codes)
	m.redeem(t)
	if len(m.keys) > had {
		i := slices.IndexFunc(codes, func(code modelCode) bool {
			return !slices.ContainsFunc(m.codes, func(left modelCode) bool { return left.code == code.code })
		})
		c.used = append(c.used, usedCode{codes[i], codes[i].grant.app, m.keys[had].modelFamily})
	}
}

// guest is somebody whom an app brings, without a word to anybody.
func (c *crowd) guest(t *rapid.T) {
	const direct = 4
	if c.stopped[c.apps[direct].id] || len(c.people) > 3 {
		t.Skip("the app is suspended, or there are guests enough")
	}
	resp := c.connect(c.apps[direct], "")
	m := &model{w: &c.world, user: claims(c.t, resp.AccessToken).Subject, apps: c.apps, stopped: c.stopped}
	g := &modelGrant{id: resp.GrantID, app: direct, status: oauth.Live}
	m.grants = []*modelGrant{g}
	m.keys = []*modelKey{{token: resp.AccessToken, grant: g, modelFamily: &modelFamily{refresh: resp.RefreshToken}}}
	c.people = append(c.people, m)
}

// usable reports whether a family's refresh token is taken.
func (m *model) usable(k *modelKey) bool { return k.refresh != "" && m.expect(k) != "inactive" }

func (m *model) pickKey(t *rapid.T, which func(*modelKey) bool) *modelKey {
	var some []*modelKey
	for _, k := range m.keys {
		if which(k) {
			some = append(some, k)
		}
	}
	if len(some) == 0 {
		t.Skip("no such key")
	}
	return some[rapid.IntRange(0, len(some)-1).Draw(t, "key")]
}

func (c *crowd) refresh(m *model, t *rapid.T) {
	k := m.pickKey(t, func(k *modelKey) bool { return k.refresh != "" })
	rights, usable := m.expect(&modelKey{grant: k.grant, modelFamily: k.modelFamily}), m.usable(&modelKey{grant: k.grant, modelFamily: k.modelFamily})
	resp, err := m.w.Token(context.Background(), refresh(m.apps[k.grant.app], k.refresh.Reveal()))
	if !usable {
		if err == nil {
			t.Fatalf("a token of %s was refreshed, the model says inactive", k.grant.id)
		}
		return
	}
	if rights == "|" && len(m.stores) > 0 {
		wantReason(t, err, oauth.NoRights)
		return
	}
	noErr(t, err)
	if resp.RefreshToken != k.refresh {
		k.spent = append(k.spent, k.refresh)
		k.refresh = resp.RefreshToken
	}
	next := &modelKey{token: resp.AccessToken, grant: k.grant, modelFamily: k.modelFamily}
	m.keys = append(m.keys, next)
	m.printed(t, next, rights)
}

// replayToken uses a refresh token that was replaced twice.
func (c *crowd) replayToken(m *model, t *rapid.T) {
	k := m.pickKey(t, func(k *modelKey) bool {
		return len(k.spent) > 1 && m.usable(&modelKey{grant: k.grant, modelFamily: k.modelFamily})
	})
	_, err := m.w.Token(context.Background(), refresh(m.apps[k.grant.app], k.spent[0].Reveal()))
	wantReason(t, err, oauth.RefreshReplayed)
	k.dead = true
}

// replayCode uses a code twice, later than a network would.
func (c *crowd) replayCode(t *rapid.T) {
	if len(c.used) == 0 {
		t.Skip("no code was used")
	}
	u := c.used[rapid.IntRange(0, len(c.used)-1).Draw(t, "code")]
	if a := c.apps[u.app]; !c.stopped[a.id] {
		c.pass(11 * time.Second)
		if _, err := c.world.redeem(a, u.code); err == nil {
			t.Fatal("a code was redeemed twice")
		} else if oauth.ReasonOf(err) == oauth.CodeUsed {
			u.family.dead = true
		}
	}
}

func asItWas(m *model, t *rapid.T) {
	store := rapid.SampledFrom(m.stores).Draw(t, "store")
	if x, is := m.members[store]; is {
		changes := m.changes
		m.set(t, store, x)
		m.changes = changes
	}
}

func (c *crowd) revokeKey(m *model, t *rapid.T) {
	if slices.ContainsFunc(m.keys, func(k *modelKey) bool { return m.stopped[m.apps[k.grant.app].id] }) {
		t.Skip("an app is suspended")
	}
	k := m.pickKey(t, func(k *modelKey) bool { return !k.cut && !c.over(k) })
	noErr(t, m.w.Revoke(context.Background(), m.apps[k.grant.app].auth(), k.token.Reveal()))
	k.dead = true
}

func (c *crowd) suspendApp(t *rapid.T) {
	a := c.apps[rapid.IntRange(0, len(c.apps)-1).Draw(t, "app")]
	if c.stopped[a.id] {
		noErr(t, c.ResumeClient(context.Background(), command, a.id))
		delete(c.stopped, a.id)
		return
	}
	noErr(t, c.SuspendClient(context.Background(), command, a.id))
	c.stopped[a.id] = true
}

// deleteApp deletes an app and registers another in its place.
func (c *crowd) deleteApp(t *rapid.T) {
	seldom(t, 2)
	i := rapid.IntRange(0, len(c.apps)-1).Draw(t, "app")
	a := c.apps[i]
	noErr(t, c.DeleteClient(context.Background(), command, a.id, a.Name))
	delete(c.stopped, a.id)
	f := oauth.ClientForm{Name: a.Name, Profile: a.Profile, Type: a.Type, Scopes: a.Scopes, Settings: a.Settings}
	for _, r := range a.Redirects {
		f.Redirects = append(f.Redirects, string(r))
	}
	made, secret, err := c.CreateClient(context.Background(), command, f)
	noErr(t, err)
	c.apps[i] = app{made.ID, secret, *made}
	for _, m := range c.people {
		of := func(g *modelGrant) bool { return g.app == i }
		m.codes = slices.DeleteFunc(m.codes, func(code modelCode) bool { return of(code.grant) })
		m.grants = slices.DeleteFunc(m.grants, of)
		for _, k := range m.keys {
			if of(k.grant) {
				k.dead, k.byRule = true, true
			}
		}
	}
	c.used = slices.DeleteFunc(c.used, func(u usedCode) bool { return u.app == i })
}

// cutKey cuts off a signing key.
func (c *crowd) cutKey(t *rapid.T) {
	m := c.people[rapid.IntRange(0, len(c.people)-1).Draw(t, "who")]
	k := m.pickKey(t, func(k *modelKey) bool { return !k.cut && c.signs(kidOf(c.t, k.token)) })
	kid := kidOf(c.t, k.token)
	noErr(t, c.CutKey(context.Background(), command, kid))
	for _, m := range c.people {
		for _, k := range m.keys {
			k.cut = k.cut || kidOf(c.t, k.token) == kid
		}
	}
}

func (c *crowd) cutAll(t *rapid.T) {
	seldom(t, 2)
	noErr(t, c.CutEverything(context.Background(), command))
	for _, m := range c.people {
		for _, k := range m.keys {
			if !k.dead {
				k.dead, k.byRule = true, true
			}
		}
	}
}

// pass lets time go by for the nodes.
func (c *crowd) pass(d time.Duration) {
	c.clock.advance(d)
	for _, m := range c.people {
		m.codes = nil // not all are over, but some
	}
}

// fold does all that is to be done at leisure, so that nothing rests on rules about
// apps and stores any more.
func (c *crowd) fold(t *rapid.T) {
	ctx := context.Background()
	c.pass(21 * time.Second) // another may hold the lease
	n := c.nodes[rapid.IntRange(0, 1).Draw(t, "node")]
	noErr(t, n.server.Fold(ctx))
	noErr(t, n.server.SweepRound(ctx))
	noErr(t, n.server.Flush(ctx))
	for _, m := range c.people {
		m.resumed = nil
		if c.unfolded { // also keys that were born since a store changed are asked about
			m.changes++
		}
		for _, k := range m.keys {
			k.byRule = false
		}
	}
	c.unfolded = false
}

// wait lets access tokens run out, and what followers could have missed be removed.
func (c *crowd) wait(t *rapid.T) {
	seldom(t, 3)
	c.pass(2 * time.Hour)
}

func (c *crowd) restart(t *rapid.T) {
	n := c.nodes[rapid.IntRange(0, 1).Draw(t, "node")]
	n.stop()
	c.up(n)
	c.restarts++
}

// nodeDown lets a node answer nothing, or again.
func (c *crowd) nodeDown(t *rapid.T) {
	n := c.nodes[rapid.IntRange(0, 1).Draw(t, "node")]
	down := !n.down.Load()
	for _, other := range c.nodes {
		other.down.Store(false)
	}
	n.down.Store(down)
}

func (c *crowd) makeBackup(t *rapid.T) {
	c.node(t)
	s := &saved{file: filepath.Join(c.t.TempDir(), "backup"), apps: slices.Clone(c.apps), stopped: maps.Clone(c.stopped)}
	_, err := c.db.Backup(context.Background(), s.file, sqlstore.Archive{Made: c.Now()}, nil)
	noErr(t, err)
	s.to, s.people, s.used = copied(c.people, c.used)
	s.keys = map[*modelKey]bool{}
	for _, m := range c.people {
		for _, k := range m.keys {
			s.keys[k] = true
		}
	}
	c.backup = s
}

// putBack puts the backup in the place of the database. What was issued since is no
// key any more; tokens of chains that the backup has may do what the chain may.
func (c *crowd) putBack(t *rapid.T) {
	if c.backup == nil {
		t.Skip("no backup")
	}
	b := c.backup
	for i, m := range c.people {
		for _, k := range m.keys {
			if b.keys[k] {
				continue
			}
			at := b.people[min(i, len(b.people)-1)]
			lost := &modelKey{token: k.token, grant: &modelGrant{status: oauth.GrantIsRevoked}, modelFamily: &modelFamily{dead: true}}
			for _, old := range at.keys {
				if old.modelFamily == b.to[k.modelFamily] {
					lost = &modelKey{token: k.token, grant: old.grant, modelFamily: old.modelFamily, lost: true}
				}
			}
			at.keys = append(at.keys, lost)
		}
	}
	c.restore(b.file, nil)
	c.restores++
	copy(c.apps, b.apps)
	clear(c.stopped)
	maps.Copy(c.stopped, b.stopped)
	c.people, c.used, c.backup, c.unfolded = b.people, b.used, nil, true
	for _, m := range c.people {
		m.codes = nil
		for _, k := range m.keys { // signed by a key that was made since, and is lost
			k.cut = k.cut || k.lost && !c.signs(kidOf(c.t, k.token))
		}
	}
}

func (c *crowd) signs(kid string) bool {
	access, lasting := c.PublicKeys(oauth.ForAccess), c.PublicKeys(oauth.ForLasting)
	return len(access.Key(kid))+len(lasting.Key(kid)) > 0
}

// copied is what somebody wrote down of a crowd, apart from it, and what became of the
// families in it.
func copied(people []*model, used []usedCode) (to map[*modelFamily]*modelFamily, then []*model, codes []usedCode) {
	to = map[*modelFamily]*modelFamily{}
	for _, m := range people {
		n := *m
		n.members, n.closed, n.resumed, n.grants, n.keys, n.codes = maps.Clone(m.members), maps.Clone(m.closed), slices.Clone(m.resumed), nil, nil, nil
		grants := map[*modelGrant]*modelGrant{}
		grant := func(g *modelGrant) *modelGrant {
			if grants[g] == nil {
				own := *g
				own.stores, own.later, own.account = maps.Clone(g.stores), maps.Clone(g.later), maps.Clone(g.account)
				grants[g] = &own
			}
			return grants[g]
		}
		for _, g := range m.grants {
			n.grants = append(n.grants, grant(g))
		}
		for _, k := range m.keys {
			if to[k.modelFamily] == nil {
				own := *k.modelFamily
				own.spent = slices.Clone(own.spent)
				to[k.modelFamily] = &own
			}
			own := *k
			own.grant, own.modelFamily = grant(k.grant), to[k.modelFamily]
			n.keys = append(n.keys, &own)
		}
		then = append(then, &n)
	}
	for _, u := range used {
		u.family = to[u.family]
		codes = append(codes, u)
	}
	return to, then, codes
}

// check is what holds after every step.
func (c *crowd) check(t *rapid.T) {
	c.inTime(t)
	c.settle()
	again := looks()
	defer again.Stop()
	from := lists{}
	for _, m := range c.people {
		for i, k := range m.keys {
			asked := time.Now()
			got, knows := c.ask(k.token, m.stores)
			for ; !knows && asked.Sub(c.done) < comesBack; got, knows = c.ask(k.token, m.stores) {
				c.behind = asked
				<-again.C
				asked = time.Now()
			}
			if c.wrong(m, k, got) {
				t.Fatalf("%s: the verifier says %s, the model %s; the bits %d, introspection %s, printed %s", m.name(i), got, c.may(m, k),
					c.bit(from, k.token), m.w.rights(k.token), printed(c.t, k.token))
			}
			c.checkBit(t, m.name(i), m, k, c.bit(from, k.token))
		}
	}
	// What the checks themselves take is not the verifier's: only what was seen counts.
	if late := c.behind.Sub(c.done); late > promised {
		c.late[c.steps] = max(c.late[c.steps], late)
	}
}

// inTime shows the verifier every key until it admits none to what the model denies. A
// slow machine makes a check begin late, but none that began late may admit. A verifier
// that does not know does not admit.
func (c *crowd) inTime(t *rapid.T) {
	again := looks()
	defer again.Stop()
	for _, m := range c.people {
		for i, k := range m.keys {
			for {
				began := time.Since(c.done)
				got, knows := c.ask(k.token, m.stores)
				if !knows || strings.HasPrefix(got, "refused") || !c.wrong(m, k, got) {
					break
				}
				if c.latest = max(c.latest, began); began > promised {
					t.Fatalf("%s: a check that began %v after it ended admitted it to %s, the model says %s", m.name(i), began, got, c.may(m, k))
				}
				<-again.C
			}
		}
	}
}

func (m *model) name(i int) string {
	return fmt.Sprintf("key %d of %s (%s)", i, m.user, m.apps[m.keys[i].grant.app].Name)
}

// may is what the model lets a key do, as the verifier would say it.
func (c *crowd) may(m *model, k *modelKey) string {
	if k.cut {
		return "inactive"
	}
	return c.inStores(m.expect(k))
}

func (c *crowd) wrong(m *model, k *modelKey, got string) bool {
	got, want := c.inStores(got), c.may(m, k)
	refused := strings.HasPrefix(got, "refused")
	return got != want && !(refused && (want == "inactive" || c.over(k))) && !c.notYet(m, k, got)
}

// inStores leaves out of a line which scopes hold in every store, as long as a store
// may be denied by rule: of the others' scopes the verifier says then only what held
// in that one, too.
func (c *crowd) inStores(line string) string {
	rights, flat, ok := strings.Cut(line, "|")
	if !ok || !c.unfolded {
		return line
	}
	if strings.HasSuffix(flat, " me") {
		return rights + "| … me"
	}
	return rights + "| …"
}

// notYet reports whether a key lacks nothing but stores that were resumed lately and
// that it does not print: its rights were asked for while they were suspended, and are
// asked for again once the bits are written.
func (c *crowd) notYet(m *model, k *modelKey, got string) bool {
	if claims(c.t, k.token).Rights == nil {
		return false
	}
	defer func(closed set) { m.closed = closed }(m.closed)
	for some := range 1 << len(m.resumed) {
		m.closed = maps.Clone(m.closed)
		for i, store := range m.resumed {
			m.closed[store] = some>>i&1 == 1
		}
		if c.inStores(m.expect(k)) == got {
			return true
		}
	}
	return false
}

// checkBit holds a key's bits against the model: what a verifier goes by that knows
// nothing of rules and of asking.
func (c *crowd) checkBit(t *rapid.T, name string, m *model, k *modelKey, bit oauth.StatusValue) {
	wrong := func(what string) { t.Fatalf("%s: the bits are %d, and %s", name, bit, what) }
	got := claims(c.t, k.token)
	switch {
	case c.over(k) || k.byRule:
	case k.dead || k.grant.status == oauth.GrantIsRevoked:
		if bit != oauth.StatusInvalid {
			wrong("it is over")
		}
	case m.onHold || k.grant.status == oauth.GrantOnHold:
		if bit != oauth.StatusSuspended {
			wrong("it is suspended")
		}
	case bit == oauth.StatusInvalid || bit == oauth.StatusSuspended:
		wrong("it is not over")
	case bit == oauth.StatusAsk:
		if got.Rights != nil && k.born == m.changes && !k.lost && !c.unfolded {
			wrong("nothing has changed since it was born")
		}
	case got.Rights != nil && !c.unfolded:
		if now := m.expect(k); now != "inactive" && line(got.Rights, got.Scope) != now {
			wrong("it prints " + line(got.Rights, got.Scope) + " where it may " + now)
		}
	}
}

// over reports whether a key has run out by the clock of the nodes.
func (c *crowd) over(k *modelKey) bool {
	at := claims(c.t, k.token).Expires
	return at != 0 && at <= c.clock.now().Unix()
}
