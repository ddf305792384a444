package storagetest

import (
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// How many indices a status list holds, and how many lists an epoch (contract of
// AllotIndices).
const (
	listSize = 1 << oauth.IndexBits
	listsMax = 1 << oauth.ListBits
)

func families(w *world) {
	w.test("RevokeFamily ends one family, once", func(w *world) {
		user, app := w.person(), w.app()
		g, r := w.live(user, app)
		code := w.code(&g)
		w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now}))
		sibling := w.redemption(g, code)
		sibling.Family.Status = oauth.Ask
		w.must(oauth.EventCodeRedeemed, w.redeem(sibling))
		revoke := func(id string) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, id, e) }
		}
		w.wins(feed, oauth.EventFamilyRevoked, revoke(r.Family.ID))
		w.same("family", w.family(r.Family.ID).Status, oauth.Invalid)
		w.same("sibling", w.family(sibling.Family.ID).Status, oauth.Ask)
		w.same("grant", *w.grant(g.ID), g)
		w.loses("again", revoke(r.Family.ID))
		w.loses("unknown", revoke("unknown"))
		w.wins(feed, oauth.EventFamilyRevoked, revoke(sibling.Family.ID))
	})
	w.test("LeastUsedFamilies lists those of a grant that are alive but for some, keys by age", func(w *world) {
		user, app := w.person(), w.app()
		g, code := w.granted(user, app)
		var all []string
		for i := range 6 {
			if i > 0 {
				code = w.code(&g)
				w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now}))
			}
			r := w.redemption(g, code)
			r.Family.ID = w.id(string(rune('z'-i)) + "_") // ids say nothing of the order, but among those of one moment
			r.Refresh = nil
			r.Family.Created = w.now.Add(time.Duration(i) * time.Microsecond)
			if i == 2 {
				r.Family.Status = oauth.Ask
			}
			w.must(oauth.EventCodeRedeemed, w.redeem(r))
			all = append(all, r.Family.ID)
		}
		w.live(user, app) // another grant
		w.same("keeping none", w.leastUsed(g.ID, 0), all)
		w.same("keeping four", w.leastUsed(g.ID, 4), all[:2])
		w.same("keeping all", w.leastUsed(g.ID, 6), []string(nil))
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, all[1], e) })
		w.same("of those that are alive", w.leastUsed(g.ID, 3), []string{all[0], all[2]})
		w.same("of nothing", w.leastUsed("nothing", 0), []string(nil))
	})
	w.test("LeastUsedFamilies lists chains by last use, and those that were never refreshed push out half of the others at most", func(w *world) {
		g, first := w.live(w.person(), w.app())
		const idle = 30 * 24 * time.Hour
		chains := []oauth.Redemption{first}
		begin := func(after time.Duration) {
			w.t.Helper()
			code := w.code(&g)
			w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now}))
			r := w.redemption(g, code)
			r.Family.Created, r.Refresh.IdleUntil = w.now.Add(after), w.now.Add(after+idle)
			w.must(oauth.EventCodeRedeemed, w.redeem(r))
			chains = append(chains, r)
		}
		use := func(i int, after time.Duration, rotate bool) {
			w.t.Helper()
			r := w.rotation(g, chains[i].Refresh)
			r.IdleUntil = w.now.Add(after + idle)
			if !rotate {
				r.Successor = nil
			}
			w.must(oauth.EventTokenRefreshed, w.rotate(r))
		}
		ids := func(of ...int) (list []string) {
			for _, i := range of {
				list = append(list, chains[i].Family.ID)
			}
			return list
		}
		for i := 1; i < 6; i++ {
			begin(time.Duration(i) * time.Hour)
		}
		w.same("none was used", w.leastUsed(g.ID, 4), ids(0, 1))
		use(0, 10*time.Hour, false)
		use(2, 8*time.Hour, true)
		use(1, 9*time.Hour, true)
		w.same("by last use", w.leastUsed(g.ID, 0), ids(3, 4, 5, 2, 1, 0))
		w.same("of which some stay", w.leastUsed(g.ID, 4), ids(3, 4))
		for i := 6; i < 10; i++ {
			begin(time.Duration(i+5) * time.Hour)
		}
		w.same("newer ones that were never refreshed", w.leastUsed(g.ID, 4), ids(3, 4, 5, 2, 6, 7))
		for i := 3; i < 9; i++ {
			use(i, time.Duration(i+15)*time.Hour, true)
		}
		// All but one were refreshed, and that one is not the first to go for it.
		w.same("all but the newest were used", w.leastUsed(g.ID, 8), ids(2, 1))
	})
	w.test("RevokeOwn ends a family for its client alone", func(w *world) {
		app, other := w.newApp(), w.newApp()
		for _, c := range []*oauth.Client{app, other} {
			w.must(oauth.EventClientCreated, w.create(c))
		}
		user := w.person()
		_, r := w.live(user, app.ID)
		_, beside := w.live(user, app.ID)
		prove := func(family, client string, p oauth.Proof) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeOwn(w.ctx, client, p, family, e) }
		}
		revoke := func(family, client string, secret oauth.Hash) func(oauth.Event) (bool, error) {
			return prove(family, client, oauth.Proof{Secret: secret})
		}
		w.loses("another's", revoke(r.Family.ID, other.ID, other.Secrets[0].Hash))
		w.loses("another's, which has no secret", revoke(r.Family.ID, other.ID, nil))
		w.loses("with another's secret", revoke(r.Family.ID, app.ID, other.Secrets[0].Hash))
		w.loses("unknown", revoke("unknown", app.ID, app.Secrets[0].Hash))
		w.same("so far", w.family(r.Family.ID).Status, r.Family.Status)
		w.wins(feed, oauth.EventFamilyRevoked, revoke(r.Family.ID, app.ID, app.Secrets[0].Hash))
		w.same("family", w.family(r.Family.ID).Status, oauth.Invalid)
		w.loses("again", revoke(r.Family.ID, app.ID, app.Secrets[0].Hash))
		_, r = w.live(w.person(), app.ID)
		w.wins(feed, oauth.EventFamilyRevoked, revoke(r.Family.ID, app.ID, nil))
		w.loses("again, without a secret", revoke(r.Family.ID, app.ID, nil))
		w.same("another family of the client", w.family(beside.Family.ID).Status, oauth.Valid)
		_, r = w.live(w.person(), app.ID)
		w.edited(app.ID)
		w.loses("edited since its key was compared", prove(r.Family.ID, app.ID, oauth.Proof{ClientVersion: 1}))
		w.wins(feed, oauth.EventFamilyRevoked, prove(r.Family.ID, app.ID, oauth.Proof{ClientVersion: 2}))
	})
	w.test("AllotIndices goes on where it was, for each API and kind apart", func(w *world) {
		allot := func(api, kind string, n int64) int64 {
			w.t.Helper()
			first, err := w.s.AllotIndices(w.ctx, api, kind, n, w.now)
			w.ok(err)
			return first
		}
		a := allot("a", "key", 1024)
		w.same("the next block", allot("a", "key", 1), a+1024)
		w.same("the block after", allot("a", "key", 10), a+1025)
		lists := map[int64]bool{a / listSize: true}
		for _, of := range [][2]string{{"a", "family"}, {"b", "key"}, {"b", "family"}} {
			lists[allot(of[0], of[1], 5)/listSize] = true
		}
		w.same("lists", len(lists), 4)
	})
	w.test("a list that has no room is left and a new one begun", func(w *world) {
		taken := map[int64]bool{}
		take := func(n int64) int64 {
			w.t.Helper()
			first, err := w.s.AllotIndices(w.ctx, "full", "key", n, w.now)
			w.ok(err)
			if first/listSize != (first+n-1)/listSize {
				w.t.Errorf("%d indices from %d lie in two lists", n, first)
			}
			for i := first; i < first+n; i++ {
				if taken[i] {
					w.t.Fatalf("index %d twice", i)
				}
				taken[i] = true
			}
			return first / listSize
		}
		first := take(listSize - 10)
		if second := take(11); second == first {
			w.t.Error("11 indices out of a list with room for 10")
		}
		take(10)
		take(listSize) // a whole list
		take(1)
		take(1)
	})
	w.test("a new epoch begins lists of its own, and never goes on with an older one", func(w *world) {
		const last int64 = 1<<oauth.EpochBits - 2 // of all that a restore may begin
		_, epoch, err := w.s.Head(w.ctx)
		w.ok(err)
		allot := func(kind string) int64 {
			w.t.Helper()
			first, err := w.s.AllotIndices(w.ctx, "restored", kind, 16, w.now)
			w.ok(err)
			return first
		}
		set := func(to int64) {
			w.t.Helper()
			_, err := w.db.ExecContext(w.ctx, "UPDATE heads SET epoch = $1 WHERE name = 'feed'", to)
			w.ok(err)
		}
		old := allot("key")
		set(last)
		defer func() { // for the tests that follow: epochs only rise
			_, err := w.db.ExecContext(w.ctx, "DELETE FROM status_lists WHERE number >= $1", (epoch+1)*listsMax)
			w.ok(err)
			set(epoch)
		}()
		w.same("old epoch", old/listSize/listsMax, epoch)
		for range 2 { // also the second time, when the new epoch has a list with room
			w.same("new epoch", allot("key")/listSize/listsMax, last)
		}
		w.same("the new epoch's lists", []int64{allot("key") / listSize % listsMax, allot("family") / listSize % listsMax}, []int64{0, 1})
		// An epoch that is full refuses; it never runs into the next.
		_, err = w.db.ExecContext(w.ctx, "UPDATE status_lists SET next = $1 WHERE api = 'restored'", listSize)
		w.ok(err)
		for n := range listsMax - 2 {
			_, err = w.db.ExecContext(w.ctx, "INSERT INTO status_lists (number, api, kind, next, allotted) VALUES ($1, 'x', 'key', $2, 0)", last*listsMax+int64(n)+2, listSize)
			w.ok(err)
		}
		if first, err := w.s.AllotIndices(w.ctx, "restored", "key", 16, w.now); !errors.Is(err, oauth.ErrUnavailable) || !strings.Contains(err.Error(), "run grantway new-epoch") {
			w.t.Errorf("a full epoch gave index %d, error %v", first, err)
		}
	})
	w.test("TouchUsed moves last use forward only, and nothing else", func(w *world) {
		user := w.person()
		c := w.newApp()
		w.must(oauth.EventClientCreated, w.create(c))
		g, _ := w.live(user, c.ID)
		untouched, _ := w.live(user, c.ID)
		later := w.now.Add(time.Hour + time.Microsecond)
		for _, at := range []time.Time{later, w.now} {
			w.ok(w.s.TouchUsed(w.ctx, at, []string{g.ID, "unknown"}, []oauth.Hash{c.Secrets[0].Hash, w.hash()}))
			want := g
			want.LastUsed = later
			w.same("grant", *w.grant(g.ID), want)
			got, err := w.s.Client(w.ctx, c.ID)
			w.ok(err)
			w.same("secret", got.Secrets[0].LastUsed, later)
		}
		w.same("another grant", *w.grant(untouched.ID), untouched)
		w.ok(w.s.TouchUsed(w.ctx, later, nil, nil))
	})
	w.test("reads of what is not there", func(w *world) {
		_, _, err := w.s.Family(w.ctx, "unknown")
		w.missing("Family", err)
		_, _, _, err = w.s.Refresh(w.ctx, "unknown")
		w.missing("Refresh", err)
	})
}

func (w *world) leastUsed(grant string, keep int) []string {
	w.t.Helper()
	list, err := w.s.LeastUsedFamilies(w.ctx, grant, keep)
	w.ok(err)
	return list
}

// rotation makes the record that exchanges token for a successor.
func (w *world) rotation(g oauth.Grant, token *oauth.StoredRefresh) oauth.Rotation {
	return oauth.Rotation{Selector: token.Selector, Family: token.Family, GrantID: g.ID, Rev: g.Rev, Presented: token.Hash, Successor: w.hash(),
		IdleUntil: w.now.Add(31 * 24 * time.Hour), Now: w.now}
}

// uses makes, for the chain of first, the record of each way to use it, with and
// without the client's secret, and with its key. It rotates the chain, so that there is something to
// repeat.
func (w *world) uses(g oauth.Grant, first *oauth.StoredRefresh, secret oauth.Hash) map[string]oauth.Rotation {
	w.t.Helper()
	st, err := w.s.Standing(w.ctx, g.ID)
	w.ok(err)
	was := w.rotation(g, first)
	was.ISeq, was.ClientID, was.Kid = st.Seq, g.ClientID, "kid"
	w.must(oauth.EventTokenRefreshed, w.rotate(was))
	next, fixed, again := was, was, was
	next.Presented, next.Successor = was.Successor, w.hash()
	fixed.Presented, fixed.Successor = was.Successor, nil
	again.Successor, again.Again = nil, true
	all := map[string]oauth.Rotation{"repeating": again, "rotating": next, "not rotating": fixed}
	for how, r := range maps.Clone(all) {
		for by, proof := range map[string]oauth.Proof{"secret": {Secret: secret}, "key": {ClientVersion: 1}} {
			if r.Proof = proof; r.Successor != nil {
				r.Successor = w.hash()
			}
			all[how+", by "+by] = r
		}
	}
	return all
}

// chain makes the uses of a chain of its own.
func (w *world) chain() map[string]oauth.Rotation {
	w.t.Helper()
	c := w.newApp()
	w.must(oauth.EventClientCreated, w.create(c))
	g, first := w.live(w.person(), c.ID)
	return w.uses(g, first.Refresh, c.Secrets[0].Hash)
}

// useful demands that each way to use a chain wins, in the order in which none of them
// ends another.
func (w *world) useful(uses map[string]oauth.Rotation) {
	w.t.Helper()
	for _, how := range []string{"repeating, by secret", "repeating, by key", "repeating", "not rotating, by secret", "not rotating, by key", "not rotating", "rotating"} {
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(uses[how]))
	}
	next, last := uses["rotating, by secret"], uses["rotating, by key"]
	next.Presented, last.Presented = uses["rotating"].Successor, next.Successor
	w.wins(issue, oauth.EventTokenRefreshed, w.rotate(next))
	w.wins(issue, oauth.EventTokenRefreshed, w.rotate(last))
}

func (w *world) rotate(r oauth.Rotation) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) {
		r.Event = e
		return w.rotates(r)
	}
}

func refresh(w *world) {
	read := func(w *world, selector string) *oauth.StoredRefresh {
		w.t.Helper()
		chain, _, _, err := w.s.Refresh(w.ctx, selector)
		w.ok(err)
		return chain
	}
	w.test("rotating puts the successor in the token's place, and remembers the token", func(w *world) {
		g, first := w.live(w.person(), w.app())
		r := w.rotation(g, first.Refresh)
		chain := *first.Refresh
		w.same("before", *read(w, r.Selector), chain)
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(r))
		chain.Hash, chain.Previous, chain.RotatedAt, chain.IdleUntil = r.Successor, r.Presented, r.Now, r.IdleUntil
		w.same("rotated", *read(w, r.Selector), chain)
		w.loses("a second use", w.rotate(w.rotation(g, first.Refresh)))
		fixed := r
		fixed.Successor = nil
		w.loses("a second use that does not rotate", w.rotate(fixed))

		again := r
		again.Successor, again.Again = nil, true
		again.Now = r.Now.Add(oauth.RotateGrace)
		w.loses("repeated at the end of the grace", w.rotate(again))
		again.Now = again.Now.Add(-time.Microsecond)
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(again))
		w.same("repeated", *read(w, r.Selector), chain)
		again.Presented = r.Successor
		w.loses("repeating what was never used", w.rotate(again))

		next := w.rotation(g, &chain)
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(next))
		again.Presented = r.Presented
		w.loses("repeated after the successor was used", w.rotate(again))
		chain.Hash, chain.Previous = next.Successor, next.Presented
		w.same("rotated twice", *read(w, r.Selector), chain)
		w.same("rows", w.count("SELECT COUNT(*) FROM refresh_tokens WHERE family = $1", r.Family), 1)
		w.loses("repeated before there was anything to repeat", w.rotate(func() oauth.Rotation {
			g, first := w.live(w.person(), w.app())
			r := w.rotation(g, first.Refresh)
			r.Successor, r.Again = nil, true
			return r
		}()))
	})
	w.test("a token that does not rotate only moves its idle limit", func(w *world) {
		g, first := w.live(w.person(), w.app())
		r := w.rotation(g, first.Refresh)
		r.Successor, r.IdleUntil = nil, w.now.Add(400*24*time.Hour)
		want := *first.Refresh
		for range 3 {
			w.wins(issue, oauth.EventTokenRefreshed, w.rotate(r))
			want.IdleUntil = r.IdleUntil
			w.same("token", *read(w, r.Selector), want)
			r.IdleUntil = r.IdleUntil.Add(time.Microsecond)
		}
		r.Now = want.IdleUntil
		w.loses("idle", w.rotate(r))
	})
	w.test("a token that rotated until now is used: the one before it has no grace left", func(w *world) {
		g, first := w.live(w.person(), w.app())
		r := w.rotation(g, first.Refresh)
		w.must(oauth.EventTokenRefreshed, w.rotate(r))
		fixed := r
		fixed.Presented, fixed.Successor = r.Successor, nil
		w.must(oauth.EventTokenRefreshed, w.rotate(fixed))
		again := r
		again.Successor, again.Again = nil, true
		w.loses("its predecessor", w.rotate(again))
	})
	w.test("a token is over exactly at its limits", func(w *world) {
		for _, limit := range []string{"idle", "absolute"} {
			c := w.newApp()
			w.must(oauth.EventClientCreated, w.create(c))
			g, code := w.granted(w.person(), c.ID)
			redemption := w.redemption(g, code)
			end := w.now.Add(oauth.RotateGrace - time.Microsecond)
			if limit == "idle" {
				redemption.Refresh.AbsoluteUntil = time.Time{}
			} else {
				redemption.Refresh.AbsoluteUntil = end
			}
			w.must(oauth.EventCodeRedeemed, w.redeem(redemption))
			uses := w.uses(g, redemption.Refresh, c.Secrets[0].Hash)
			if limit == "idle" {
				w.changed("UPDATE refresh_tokens SET idle_until = $1 WHERE selector = $2", end.UnixMicro(), redemption.Refresh.Selector)
			}
			for how, r := range uses {
				r.Now, r.IdleUntil = end, end.Add(time.Hour)
				w.loses(limit+" limit, "+how, w.rotate(r))
				r.Now = end.Add(-time.Microsecond)
				uses[how] = r
			}
			w.useful(uses)
		}
	})
	w.test("a use loses when the world has changed", func(w *world) {
		for why, change := range map[string]func(user, app, family string, g *oauth.Grant){
			"client suspended": func(_, app, _ string, _ *oauth.Grant) { w.setApp(app, oauth.Suspended) },
			"client deleted":   func(_, app, _ string, _ *oauth.Grant) { w.setApp(app, oauth.Deleted) },
			"user suspended":   func(user, _, _ string, _ *oauth.Grant) { w.setUser(user, oauth.Suspended) },
			"grant suspended": func(_, _, _ string, g *oauth.Grant) {
				w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, g.ID, e) })
			},
			"grant revoked": func(_, _, _ string, g *oauth.Grant) {
				w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
				w.changed("UPDATE families SET status = 'valid' WHERE grant_id = $1", g.ID) // the grant alone is enough
			},
			"grant edited": func(_, _, _ string, g *oauth.Grant) {
				w.must(oauth.EventGrantEdited, func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, g, 1, nil, e) })
			},
			"family revoked": func(_, _, family string, _ *oauth.Grant) {
				w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, family, e) })
			},
			"app edited": func(_, app, _ string, _ *oauth.Grant) { w.edited(app) },
			"secret revoked": func(_, app, _ string, _ *oauth.Grant) {
				w.must(oauth.EventSecretAdded, func(e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, app, w.secret(), e) })
				c, err := w.s.Client(w.ctx, app)
				w.ok(err)
				w.must(oauth.EventSecretRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeSecret(w.ctx, app, c.Secrets[0].Hash, e) })
			},
		} {
			user, c := w.person(), w.newApp()
			w.must(oauth.EventClientCreated, w.create(c))
			g, first := w.live(user, c.ID)
			uses := w.uses(g, first.Refresh, c.Secrets[0].Hash)
			change(user, c.ID, first.Family.ID, &g)
			for how, r := range uses {
				if why == "secret revoked" && r.Secret == nil || why == "app edited" && r.ClientVersion == 0 {
					delete(uses, how)
					continue
				}
				w.loses(why+", "+how, w.rotate(r))
				if why == "grant edited" {
					r.Rev = 2
					uses[how] = r
				}
			}
			if why == "grant edited" {
				w.useful(uses)
			}
		}
	})
	w.test("a secret proves its own client", func(w *world) {
		c, other := w.newApp(), w.newApp()
		w.must(oauth.EventClientCreated, w.create(c))
		w.must(oauth.EventClientCreated, w.create(other))
		g, first := w.live(w.person(), c.ID)
		uses := w.uses(g, first.Refresh, other.Secrets[0].Hash)
		for how, r := range uses {
			if r.Secret != nil {
				w.loses(how+" of another", w.rotate(r))
				r.Secret = c.Secrets[0].Hash
				uses[how] = r
			}
		}
		w.useful(uses)
	})
	w.test("a token belongs to its family, and that to its grant", func(w *world) {
		user, c := w.person(), w.newApp()
		w.must(oauth.EventClientCreated, w.create(c))
		g, first := w.live(user, c.ID)
		_, other := w.live(user, c.ID)
		_, dead := w.live(user, c.ID)
		uses := w.uses(g, first.Refresh, c.Secrets[0].Hash)
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, dead.GrantID, e) })
		for how, r := range uses {
			forged := r
			forged.Presented = w.hash()
			w.loses("a token that is not the chain's, "+how, w.rotate(forged))
			r.Family = other.Family.ID
			w.loses("another family, "+how, w.rotate(r))
			r.Family, r.Selector = first.Family.ID, "unknown"
			w.loses("unknown, "+how, w.rotate(r))
			r.Selector, r.GrantID = first.Refresh.Selector, dead.GrantID
			w.loses("a grant that has ended, "+how, w.rotate(r))
		}
		w.useful(uses)
	})
}
