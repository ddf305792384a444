package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// told runs an event of the feed and returns what it says of keys, by family, and of
// rules.
func (w *world) told(kind oauth.Kind, run func(oauth.Event) (bool, error)) (map[string]oauth.StatusValue, []oauth.Rule) {
	w.t.Helper()
	before, _, err := w.s.Head(w.ctx)
	w.ok(err)
	w.wins(feed, kind, run)
	changes, err := w.s.StatusChanges(w.ctx, before, before+1)
	w.ok(err)
	rules, err := w.s.RuleChanges(w.ctx, before, before+1)
	w.ok(err)
	by := map[string]oauth.StatusValue{}
	for _, c := range changes {
		ids := w.column("SELECT id FROM families WHERE status_index = $1", c.Index)
		if len(ids) != 1 || c.API != "api" || c.Seq != before+1 {
			w.t.Errorf("a change %+v of the families %q", c, ids)
			continue
		}
		by[ids[0]] = c.Value
	}
	return by, rules
}

func status(w *world) {
	type said = map[string]oauth.StatusValue
	revoke := func(id string) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, id, e) }
	}
	suspend := func(id string) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, id, e) }
	}
	resume := func(id string) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.ResumeGrant(w.ctx, id, e) }
	}
	edit := func(g *oauth.Grant) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) {
			won, err := w.s.EditGrant(w.ctx, g, g.Rev, nil, e)
			g.Rev++
			return won, err
		}
	}
	// again issues one more key of a live grant.
	again := func(w *world, g oauth.Grant) oauth.Redemption {
		code := w.code(&g)
		w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Unchanged: true, Code: code, Now: w.now}))
		r := w.redemption(g, code)
		w.must(oauth.EventCodeRedeemed, w.redeem(r))
		return r
	}
	w.test("the status of a key is computed from its grant", func(w *world) {
		user, app := w.person(), w.app()
		a, b := w.store("a"), w.store("b")
		w.member(user, a, b)
		g, r := w.live(user, app, a)
		_, elsewhere := w.live(user, app, b)
		one, other := r.Family.ID, elsewhere.Family.ID
		var got said
		step := func(what string, want said) {
			w.t.Helper()
			w.same(what, got, want)
		}
		got, _ = w.told(oauth.EventGrantSuspended, suspend(g.ID))
		step("suspended", said{one: oauth.StatusSuspended})
		got, _ = w.told(oauth.EventGrantResumed, resume(g.ID))
		step("resumed as it was", said{one: oauth.StatusValid})
		got, _ = w.told(oauth.EventUserSuspended, func(e oauth.Event) (bool, error) { return w.s.SetUserStatus(w.ctx, user, oauth.Suspended, e) })
		step("user suspended", said{one: oauth.StatusSuspended, other: oauth.StatusSuspended})
		got, _ = w.told(oauth.EventGrantSuspended, suspend(g.ID))
		step("both suspended", said{one: oauth.StatusSuspended})
		got, _ = w.told(oauth.EventUserResumed, func(e oauth.Event) (bool, error) { return w.s.SetUserStatus(w.ctx, user, oauth.Active, e) })
		step("user resumed", said{one: oauth.StatusSuspended, other: oauth.StatusValid})
		got, _ = w.told(oauth.EventGrantEdited, edit(&g))
		step("edited while it is suspended", said{one: oauth.StatusSuspended})
		got, _ = w.told(oauth.EventGrantResumed, resume(g.ID))
		step("resumed as another", said{one: oauth.StatusAsk})
		second := again(w, g)
		got, _ = w.told(oauth.EventGrantEdited, edit(&g))
		step("edited, and edited again", said{one: oauth.StatusAsk, second.Family.ID: oauth.StatusAsk})
		all := w.decision(user, app)
		all.Grant.AllStores = true
		w.must(oauth.EventGrantMade, w.record(all))
		wide := w.redemption(all.Grant, all.Code)
		w.must(oauth.EventCodeRedeemed, w.redeem(wide))
		got, _ = w.told(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
			return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: b, Scopes: oauth.Scopes("orders.read")}, e)
		})
		step("a membership of the other's store", said{other: oauth.StatusAsk, wide.Family.ID: oauth.StatusAsk})
		got, _ = w.told(oauth.EventMembershipDropped, func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, b, e) })
		step("that is dropped", said{other: oauth.StatusAsk, wide.Family.ID: oauth.StatusAsk})
		w.loses("dropped again", func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, b, e) })
		got, _ = w.told(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, one, e) })
		step("one key revoked", said{one: oauth.StatusInvalid})
		got, _ = w.told(oauth.EventGrantRevoked, revoke(g.ID))
		step("the grant revoked; a key that was dead is not told again", said{second.Family.ID: oauth.StatusInvalid})

		next := *w.grant(elsewhere.GrantID)
		code := w.code(&next)
		got, _ = w.told(oauth.EventGrantEdited, w.record(oauth.DecisionRecord{Grant: next, ClientVersion: 1, Rev: next.Rev, Code: code, Now: w.now}))
		step("a repeat decision that changes the grant", said{other: oauth.StatusAsk})
	})
	w.test("a key that cannot print its rights is asked about from the first", func(w *world) {
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		r.Family.Status = oauth.Ask
		got, _ := w.told(oauth.EventCodeRedeemed, w.redeem(r))
		w.same("told", got, said{r.Family.ID: oauth.StatusAsk})
		w.loses("again", w.redeem(r))
		got, _ = w.told(oauth.EventGrantSuspended, suspend(g.ID))
		w.same("suspended", got, said{r.Family.ID: oauth.StatusSuspended})
		got, _ = w.told(oauth.EventGrantResumed, resume(g.ID))
		w.same("resumed", got, said{r.Family.ID: oauth.StatusAsk})
	})
	w.test("an app's suspension is a rule, and so is its end, under which its grants end", func(w *world) {
		app := w.app()
		early := w.newApp() // whose rule sorts before
		early.ID = "!" + app
		w.must(oauth.EventClientCreated, w.create(early))
		w.setApp(early.ID, oauth.Suspended)
		gone, dead := w.live(w.person(), app)
		w.must(oauth.EventGrantRevoked, revoke(gone.ID))
		buried := w.column("SELECT COALESCE(CAST(due AS TEXT), '') || op FROM grants WHERE id = $1", gone.ID)
		g, r := w.live(w.person(), app)
		var revs []string
		for range 5 {
			other, _ := w.live(w.person(), app)
			revs = append(revs, other.ID)
		}
		stranger, _ := w.live(w.person(), w.app())
		set := func(to oauth.Status) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.SetClientStatus(w.ctx, app, to, e) }
		}
		seq, _, err := w.s.Head(w.ctx)
		w.ok(err)
		_, rules := w.told(oauth.EventClientSuspended, set(oauth.Suspended))
		w.same("suspended", rules, []oauth.Rule{{Seq: seq + 1, Kind: oauth.RuleClient, Subject: app, Before: seq + 1, Value: oauth.StatusSuspended}})
		now, err := w.s.Rules(w.ctx)
		w.ok(err)
		w.same("the rules of now", slices.DeleteFunc(now, func(r oauth.Rule) bool { return r.Subject == early.ID }), rules)
		w.same("what is to be written", w.foldings(), 0)
		_, rules = w.told(oauth.EventClientResumed, set(oauth.Active))
		w.same("resumed", rules, []oauth.Rule{{Seq: seq + 2, Kind: oauth.RuleClient, Subject: app, Before: seq + 2, Value: oauth.StatusValid}})
		now, err = w.s.Rules(w.ctx)
		w.ok(err)
		w.same("the rules of now", len(now), 1)

		_, rules = w.told(oauth.EventClientDeleted, set(oauth.Deleted))
		w.same("deleted", rules, []oauth.Rule{{Seq: seq + 3, Kind: oauth.RuleClient, Subject: app, Before: seq + 3, Value: oauth.StatusInvalid}})
		// Of 6 grants, and one that has ended, 4 at once: two batches, then the one that
		// finds nothing.
		ended := 0
		for _, want := range []int{3, 3, 0} {
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			if len(list) != 1 {
				w.t.Fatalf("what is to be written: %+v", list)
			}
			got, lifted := w.told(oauth.EventRuleFolded, func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 4, e) })
			w.same("keys that ended", len(got), want)
			for id, v := range got {
				w.same("key "+id, v, oauth.StatusInvalid)
			}
			if _, again := got[dead.Family.ID]; again {
				w.t.Error("a key that was dead is told again")
			}
			w.same("lifted", len(lifted), 0)
			ended += len(got)
			w.loses("the same again", func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 4, e) })
		}
		w.same("all that ended", ended, 6)
		list, err := w.s.Foldings(w.ctx)
		w.ok(err)
		w.same("left", list, []oauth.Folding{{Kind: oauth.RuleClient, Subject: app, Before: seq + 3, Done: true}})
		lift := func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 4, e) }
		got, lifted := w.told(oauth.EventRuleFolded, lift)
		w.same("keys", len(got), 0)
		w.same("lifted", len(lifted) == 1 && lifted[0].Subject == app && lifted[0].Value == oauth.StatusValid, true)
		w.loses("again", lift)
		now, err = w.s.Rules(w.ctx)
		w.ok(err)
		w.same("the rules of now", len(slices.DeleteFunc(now, func(r oauth.Rule) bool { return r.Subject == early.ID })), 0)
		w.same("a grant that had ended", w.column("SELECT COALESCE(CAST(due AS TEXT), '') || op FROM grants WHERE id = $1", gone.ID), buried)
		w.setApp(early.ID, oauth.Active)
		for _, id := range append(revs, g.ID) {
			w.same("grant "+id, w.grant(id).Status, oauth.GrantIsRevoked)
		}
		w.same("its key", w.family(r.Family.ID).Status, oauth.Invalid)
		w.same("another app's", w.grant(stranger.ID).Status, oauth.Live)
	})
	w.test("the rule about a deleted app of guests goes when nothing of the app is left", func(w *world) {
		w.everybody = true
		direct := func() string {
			c := w.newApp()
			c.Profile = oauth.Direct
			w.must(oauth.EventClientCreated, w.create(c))
			return c.ID
		}
		bare, used, suspended := direct(), direct(), direct()
		g, r := w.live(w.person(), used)
		w.setApp(suspended, oauth.Suspended)
		w.setApp(bare, oauth.Deleted)
		w.setApp(used, oauth.Deleted)
		for w.foldings() > 0 {
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			w.told(oauth.EventRuleFolded, func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 10, e) })
		}
		ours := func(subject string) bool { return slices.Contains([]string{bare, used, suspended}, subject) }
		ruled := func() (apps []string) {
			w.t.Helper()
			rules, err := w.s.Rules(w.ctx)
			w.ok(err)
			for _, r := range rules {
				if ours(r.Subject) {
					apps = append(apps, r.Subject)
				}
			}
			return apps
		}
		needless := func() (apps []string) {
			w.t.Helper()
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			for _, f := range list {
				if ours(f.Subject) {
					apps = append(apps, f.Subject)
				}
			}
			return apps
		}
		w.same("ruled", ruled(), []string{bare, used, suspended})
		rules, err := w.s.Rules(w.ctx)
		w.ok(err)
		lift := func(app string) func(oauth.Event) (bool, error) {
			i := slices.IndexFunc(rules, func(r oauth.Rule) bool { return r.Subject == app })
			return func(e oauth.Event) (bool, error) {
				return w.s.FoldRule(w.ctx, oauth.Folding{Kind: oauth.RuleClient, Subject: app, Before: rules[i].Before, Done: true}, 10, e)
			}
		}
		w.loses("a redemption of before may still be committed", lift(bare))
		pass := func(d time.Duration) {
			w.t.Helper()
			p, err := w.s.Present(w.ctx)
			w.ok(err)
			_, err = w.s.FoldChunks(w.ctx, p.Folded, p.Seq, nil)
			w.ok(err)
			for n := 250; n >= 250; {
				n, err = w.s.Sweep(w.ctx, w.now.Add(d), oauth.EventsKept, 1000)
				w.ok(err)
			}
		}
		pass(oauth.FeedKept + time.Microsecond)
		w.loses("a grant is left", lift(used))
		w.loses("it is suspended", lift(suspended))
		w.same("what can be lifted", needless(), []string{bare})
		_, lifted := w.told(oauth.EventRuleFolded, lift(bare))
		w.same("lifted", len(lifted) == 1 && lifted[0].Subject == bare && lifted[0].Value == oauth.StatusValid, true)
		w.loses("again", lift(bare))
		w.same("ruled", ruled(), []string{used, suspended})

		pass(oauth.EventsKept + 48*time.Hour)
		_, _, err = w.s.Family(w.ctx, r.Family.ID)
		w.missing("its key's row", err)
		_, err = w.s.Standing(w.ctx, g.ID)
		w.missing("its grant", err)
		w.same("what can be lifted", needless(), []string{used})
		w.told(oauth.EventRuleFolded, lift(used))
		w.same("ruled", ruled(), []string{suspended})
		w.loses("it is suspended", lift(suspended))
	})
	w.test("a store's state is a rule, until every key that prints it is asked about", func(w *world) {
		user, app, a, elsewhere := w.person(), w.app(), w.store("a"), w.store("elsewhere")
		w.member(user, a, elsewhere)
		// One on all stores prints none, and what was answered about it is of before.
		d := w.decision(user, app)
		d.Grant.AllStores = true
		w.must(oauth.EventGrantMade, w.record(d))
		all := w.redemption(d.Grant, d.Code)
		all.Family.Status = oauth.Ask
		w.must(oauth.EventCodeRedeemed, w.redeem(all))
		not, _ := w.live(user, app, elsewhere)
		var keys []string
		grants := []oauth.Grant{d.Grant}
		for range 3 {
			g, r := w.live(user, app, a)
			keys, grants = append(keys, r.Family.ID), append(grants, g)
		}
		dead := again(w, grants[1])
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, dead.Family.ID, e) })
		stranger, b := w.person(), w.store("b")
		w.member(stranger, b)
		w.live(stranger, app, b)
		put := func(name string, to oauth.Status) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) {
				return true, w.s.PutStore(w.ctx, &oauth.Store{ID: a, Name: name, Status: to}, e)
			}
		}
		for _, c := range []struct {
			name  string
			to    oauth.Status
			value oauth.StatusValue
			rule  bool
		}{
			{"renamed", oauth.Active, 0, false},
			{"renamed", oauth.Suspended, oauth.StatusInvalid, true},
			{"again", oauth.Suspended, 0, false},
			{"again", oauth.Deleted, oauth.StatusInvalid, true},
			{"again", oauth.Active, oauth.StatusAsk, true},
		} {
			before := w.count("SELECT seq FROM heads WHERE name = 'stores'")
			got, rules := w.told(oauth.EventStorePut, put(c.name, c.to))
			w.same("keys", len(got), 0)
			w.same(fmt.Sprintf("what grants allow is read again for %v", c), w.count("SELECT seq FROM heads WHERE name = 'stores'") > before, c.rule)
			w.same(fmt.Sprintf("a rule for %v", c), len(rules) == 1, c.rule)
			if c.rule {
				w.same("rule", rules[0], oauth.Rule{Seq: rules[0].Seq, Kind: oauth.RuleStore, Subject: a, Before: rules[0].Seq, Value: c.value})
			}
		}
		was, err := w.s.Foldings(w.ctx)
		w.ok(err)
		for _, to := range []oauth.Status{oauth.Suspended, oauth.Active} {
			w.must(oauth.EventStorePut, put("again", to))
		}
		w.loses("a rule that was made anew since", func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, was[0], 2, e) })
		told := said{}
		for w.foldings() > 0 {
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			got, _ := w.told(oauth.EventRuleFolded, func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 2, e) })
			for id, v := range got {
				if _, twice := told[id]; twice {
					w.t.Errorf("key %s is told twice", id)
				}
				told[id] = v
			}
		}
		rules, err := w.s.Rules(w.ctx)
		w.ok(err)
		w.same("the rule is lifted", slices.ContainsFunc(rules, func(r oauth.Rule) bool { return r.Subject == a }), false)
		w.same("a grant elsewhere", *w.grant(not.ID), not)
		w.same("keys that are asked about", told, said{keys[0]: oauth.StatusAsk, keys[1]: oauth.StatusAsk, keys[2]: oauth.StatusAsk, all.Family.ID: oauth.StatusAsk})
		for _, g := range grants {
			w.same("rev", w.grant(g.ID).Rev, g.Rev+1)
		}
	})
	w.test("cutting off a signing key", func(w *world) {
		use := oauth.KeyUse(w.id("use"))
		k := oauth.StoredKey{Kid: w.id("kid"), Alg: "ES256", Use: use, Sealed: []byte{1}, Public: []byte{2}, Status: oauth.Active, Created: w.now}
		w.must(oauth.EventKeyAdded, func(e oauth.Event) (bool, error) { return w.s.AddSigningKey(w.ctx, k, e) })
		ways, uses := w.ways(), w.chain()
		cut := func(e oauth.Event) (bool, error) { return w.s.CutOff(w.ctx, oauth.RuleKey, k.Kid, e) }
		_, rules := w.told(oauth.EventKeyCut, cut)
		if len(rules) != 1 || rules[0].Kind != oauth.RuleKey || rules[0].Subject != k.Kid || rules[0].Value != oauth.StatusInvalid || rules[0].Before != rules[0].Seq {
			w.t.Errorf("rules %+v", rules)
		}
		w.same("what is to be written", w.foldings(), 0)
		w.loses("again", cut)
		w.loses("unknown", func(e oauth.Event) (bool, error) { return w.s.CutOff(w.ctx, oauth.RuleKey, "unknown", e) })
		for how, r := range ways {
			r.Kid = k.Kid
			w.loses("issuing what it signed, "+how, w.redeem(r))
		}
		for how, r := range uses {
			r.Kid = k.Kid
			w.loses("refreshing with what it signed, "+how, w.rotate(r))
		}
		for _, r := range ways { // what another key signed
			w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
		}
		w.useful(uses)
	})
	w.test("cutting off everything", func(w *world) {
		w.everybody = true
		app := w.app()
		g, r := w.live(w.person(), app)
		_, dead := w.live(w.person(), app)
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, dead.Family.ID, e) })
		other, code := w.granted(w.person(), app)
		ways, uses := w.ways(), w.chain()
		_, rules := w.told(oauth.EventEverythingCut, func(e oauth.Event) (bool, error) { return w.s.CutOff(w.ctx, oauth.RuleAll, "", e) })
		if len(rules) != 1 || rules[0].Kind != oauth.RuleAll || rules[0].Before != rules[0].Seq {
			w.t.Fatalf("rules %+v", rules)
		}
		for how, early := range ways {
			w.loses("a key whose sequence was read before, "+how, w.redeem(early))
			early.ISeq = rules[0].Seq
			if early.Continue {
				w.loses("a chain of before, "+how, w.redeem(early))
			} else {
				w.wins(issue, oauth.EventCodeRedeemed, w.redeem(early))
			}
		}
		for how, next := range uses {
			next.ISeq = rules[0].Seq
			w.loses("a token of a chain of before, "+how, w.rotate(next))
		}
		// Since is from the very event on.
		since, continued := w.chain(), w.ways()["of a guest who continues"]
		for _, family := range []string{since["rotating"].Family, continued.Family.ID} {
			w.changed("UPDATE families SET iseq = $1 WHERE id = $2", rules[0].Seq, family)
		}
		continued.ISeq = rules[0].Seq
		for how, next := range since {
			next.ISeq = rules[0].Seq - 1
			w.loses("a key whose sequence was read before, "+how, w.rotate(next))
			next.ISeq = rules[0].Seq
			since[how] = next
		}
		w.useful(since)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(continued))
		_, st, err := w.s.Family(w.ctx, r.Family.ID)
		w.ok(err)
		w.same("where everything was cut", st.Cut, rules[0].Seq)
		late := w.redemption(other, code)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(late))
		was, err := w.s.Foldings(w.ctx)
		w.ok(err)
		last := w.redemption(w.granted(w.person(), app))
		w.must(oauth.EventCodeRedeemed, w.redeem(last))
		w.must(oauth.EventEverythingCut, func(e oauth.Event) (bool, error) { return w.s.CutOff(w.ctx, oauth.RuleAll, "", e) })
		w.loses("a cut that another has followed", func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, was[0], 3, e) })
		late = w.redemption(w.granted(w.person(), app))
		w.must(oauth.EventCodeRedeemed, w.redeem(late))
		told := said{}
		for w.foldings() > 0 {
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			got, _ := w.told(oauth.EventRuleFolded, func(e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 3, e) })
			for id, v := range got {
				told[id] = v
			}
		}
		w.same("a key of before", told[r.Family.ID], oauth.StatusInvalid)
		w.same("a key between the two", told[last.Family.ID], oauth.StatusInvalid)
		if _, again := told[dead.Family.ID]; again {
			w.t.Error("a key that was dead is told again")
		}
		if _, there := told[late.Family.ID]; there || w.family(late.Family.ID).Status != oauth.Valid {
			w.t.Error("a key that was issued since has ended")
		}
		w.same("the grant", w.grant(g.ID).Status, oauth.Live)
	})
	w.test("lists", func(w *world) {
		first, err := w.s.AllotIndices(w.ctx, "lists", "key", 8192, w.now)
		w.ok(err)
		number := first >> oauth.IndexBits
		if _, err := w.s.StatusList(w.ctx, number+1000, 0); !errors.Is(err, oauth.ErrNotFound) {
			w.t.Errorf("a list that is not there: %v", err)
		}
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		r.Family.StatusIndex = first + 4097
		w.must(oauth.EventCodeRedeemed, w.redeem(r))
		p, err := w.s.Present(w.ctx)
		w.ok(err)
		head, epoch, err := w.s.Head(w.ctx)
		w.ok(err)
		w.same("present", [2]int64{p.Seq, p.Epoch}, [2]int64{head, epoch})
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
		events, err := w.s.FeedAfter(w.ctx, head, 1)
		w.ok(err)
		now, err := w.s.Present(w.ctx)
		w.ok(err)
		w.same("its last event", now.Last, events[0].ID)
		l, err := w.s.StatusList(w.ctx, number, p.Folded)
		w.ok(err)
		w.same("list", *l, oauth.StoredList{Number: number, API: "lists", Kind: "key",
			Changes: []oauth.StatusChange{{Seq: p.Seq + 1, Index: first + 4097, API: "api", Value: oauth.StatusInvalid}}})
		_, err = w.s.Chunk(w.ctx, number, 1)
		w.missing("a chunk that is all valid", err)
		beside, err := w.s.AllotIndices(w.ctx, "lists", "family", 8192, w.now)
		w.ok(err)
		bits := bytes.Repeat([]byte{4}, oauth.ChunkValues/4)
		chunk := oauth.StatusChunk{List: number, Chunk: 1, Bits: bits, Seq: p.Seq + 1}
		fold := func(from, upto int64, chunks ...oauth.StatusChunk) bool {
			w.t.Helper()
			won, err := w.s.FoldChunks(w.ctx, from, upto, chunks)
			w.ok(err)
			return won
		}
		heads := w.heads("folded")
		w.same("folding", fold(p.Folded, p.Seq+1, chunk), true)
		w.same("how far the rest is", w.heads("folded"), heads)
		other := chunk
		other.Bits = bytes.Repeat([]byte{9}, oauth.ChunkValues/4)
		w.same("folding what was folded", fold(p.Folded, p.Seq+1, other), false)
		w.store("another") // the feed goes on
		other.Chunk, other.Seq = 2, p.Seq+2
		w.same("folding further, from where nobody is", fold(p.Folded, p.Seq+2, other), false)
		got, err := w.s.Chunk(w.ctx, number, 1)
		w.ok(err)
		w.same("chunk", got, bits)
		_, err = w.s.Chunk(w.ctx, number, 2)
		w.missing("another chunk of the list", err)
		_, err = w.s.Chunk(w.ctx, beside>>oauth.IndexBits, 1)
		w.missing("that chunk of another list", err)
		l, err = w.s.StatusList(w.ctx, beside>>oauth.IndexBits, p.Folded)
		w.ok(err)
		w.same("another list", *l, oauth.StoredList{Number: beside >> oauth.IndexBits, API: "lists", Kind: "family"})
		l, err = w.s.StatusList(w.ctx, number, p.Seq+1)
		w.ok(err)
		w.same("list", *l, oauth.StoredList{Number: number, API: "lists", Kind: "key", Chunks: []oauth.StatusChunk{chunk}})
		p2, err := w.s.Present(w.ctx)
		w.ok(err)
		w.same("folded", p2.Folded, p.Seq+1)
	})
	w.test("news are what the feed holds, of so many events", func(w *world) {
		w.changed("UPDATE heads SET seq = seq + 1000000 WHERE name = 'stores'") // further than the feed is
		start, _, err := w.s.Head(w.ctx)
		w.ok(err)
		app, person := w.app(), w.person()
		g, code := w.granted(person, app)
		w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(g, code)))
		again(w, g)
		w.must(oauth.EventGrantSuspended, suspend(g.ID))
		w.must(oauth.EventClientSuspended, func(e oauth.Event) (bool, error) { return w.s.SetClientStatus(w.ctx, app, oauth.Suspended, e) })
		w.must(oauth.EventGrantRevoked, revoke(g.ID))
		w.must(oauth.EventClientResumed, func(e oauth.Event) (bool, error) { return w.s.SetClientStatus(w.ctx, app, oauth.Active, e) })
		head, _, err := w.s.Head(w.ctx)
		w.ok(err)
		var changes, rules int
		for after := start; after <= head+1; after++ {
			for _, limit := range []int{1, 3, 1000} {
				var want oauth.News
				want.Present, err = w.s.Present(w.ctx)
				w.ok(err)
				seen, err := w.s.FeedAfter(w.ctx, after-1, 1)
				w.ok(err)
				if len(seen) == 1 && seen[0].Seq == after {
					want.Seen = seen[0].ID
				}
				events, err := w.s.FeedAfter(w.ctx, after, limit)
				w.ok(err)
				for _, e := range events {
					want.Events = append(want.Events, oauth.FeedEvent{Seq: e.Seq, ID: e.ID, Kind: e.Kind, ClientID: e.ClientID})
				}
				want.Changes, err = w.s.StatusChanges(w.ctx, after, after+int64(limit))
				w.ok(err)
				want.Rules, err = w.s.RuleChanges(w.ctx, after, after+int64(limit))
				w.ok(err)
				got, err := w.s.News(w.ctx, after, limit)
				w.ok(err)
				w.same(fmt.Sprintf("%d after %d", limit, after-start), got, want)
				changes, rules = changes+len(got.Changes), rules+len(got.Rules)
				for api, all := range map[string][]oauth.StatusChange{"api": want.Changes, "another": nil} {
					for most := range len(all) + 2 {
						some, err := w.s.ChangesFor(w.ctx, api, after, after+int64(limit), most)
						w.ok(err)
						w.same(fmt.Sprintf("%d of the changes by %d after %d, for the API %q", most, limit, after-start, api), slices.Concat(some), slices.Concat(all[:min(most, len(all))]))
					}
				}
			}
		}
		if changes == 0 || rules == 0 {
			w.t.Errorf("%d changes and %d rules were compared", changes, rules)
		}
	})
	w.test("the beat moves once from where it was seen", func(w *world) {
		p, err := w.s.Present(w.ctx)
		w.ok(err)
		w.changed("UPDATE heads SET seq = $1 WHERE name = 'kept'", p.Beat)
		w.ok(w.s.Beat(w.ctx, p.Beat))
		w.ok(w.s.Beat(w.ctx, p.Beat))
		w.same("another head that is as far", w.count("SELECT COUNT(*) FROM heads WHERE name = 'kept' AND seq = $1", p.Beat), 1)
		w.changed("UPDATE heads SET seq = $1 WHERE name = 'kept'", p.Kept)
		after, err := w.s.Present(w.ctx)
		w.ok(err)
		w.same("beat", after.Beat, p.Beat+1)
	})
	w.test("no follower goes back", func(w *world) {
		at := func(api, instance string, epoch, seq int64, seen time.Duration) oauth.Follower {
			return oauth.Follower{API: api, Instance: instance, Epoch: epoch, Seq: seq, Seen: w.now.Add(seen), Node: "n", Lag: time.Millisecond}
		}
		w.follow(at("a", "x", 1, 5, 0), at("a", "y", 1, 7, time.Second), at("b", "x", 1, 1, -time.Hour))
		w.follow(at("a", "x", 1, 4, time.Minute), at("a", "y", 1, 7, time.Minute))
		list, err := w.s.Followers(w.ctx, w.now)
		w.ok(err)
		w.same("followers", list, []oauth.Follower{at("a", "x", 1, 5, 0), at("a", "y", 1, 7, time.Minute)})
		w.follow(at("a", "x", 2, 1, 2*time.Second))
		w.follow(at("a", "x", 1, 9, 3*time.Second))
		list, err = w.s.Followers(w.ctx, w.now)
		w.ok(err)
		w.same("followers", list, []oauth.Follower{at("a", "x", 2, 1, 2*time.Second), at("a", "y", 1, 7, time.Minute)})
		w.follow(at("a", "x", 0, 0, 4*time.Second)) // it asks, and says not how far it has come
		list, err = w.s.Followers(w.ctx, w.now)
		w.ok(err)
		w.same("one that says nothing", list[0], at("a", "x", 2, 1, 4*time.Second))
	})
	w.test("a follower that left is gone, and no other", func(w *world) {
		f := oauth.Follower{API: "left", Instance: "x", Epoch: 1, Seq: 5, Seen: w.now.Add(10 * time.Minute), Node: "n"}
		beside, namesake := f, f
		beside.Instance, namesake.API = "y", "left-not"
		w.same("left", len(w.follow(f, beside, namesake)), 0)
		stand := func(want ...oauth.Follower) {
			w.t.Helper()
			list, err := w.s.Followers(w.ctx, beside.Seen)
			w.ok(err)
			w.same("followers", list, want)
		}
		for range 2 {
			w.ok(w.s.RemoveFollower(w.ctx, f.API, f.Instance, f.Seen.Add(time.Second)))
			w.same("left", w.follow(beside, f, namesake), []oauth.Follower{f}) // by a node that it asked before
			stand(beside, namesake)
		}
		f.Seq, f.Seen = 6, f.Seen.Add(time.Hour) // it goes on, as what it asked last may do that is read after it left
		w.same("left", w.follow(f), []oauth.Follower{f})
		stand(beside, namesake)
		f.Epoch, f.Seq, f.Seen = 0, 0, beside.Seen // it begins anew, where a clock is behind that of the node where it left
		w.same("left", len(w.follow(f)), 0)
		f.Epoch, f.Seq = 2, 1
		w.same("left", len(w.follow(f)), 0)
		stand(f, beside, namesake)
		behind := f
		behind.Seq = 0 // is not taken, and has not left
		w.same("left", len(w.follow(behind)), 0)
		stand(f, beside, namesake)
		w.ok(w.s.RemoveFollower(w.ctx, "left", "never there", w.now))
	})
	w.test("followers are counted by how far they have come", func(w *world) {
		hour := w.now.Add(time.Hour)
		for i, f := range []oauth.Followed{{Epoch: 7, Seq: 5}, {Epoch: 6, Seq: 11}, {Epoch: 6, Seq: 9}, {Epoch: 8, Seq: 3}, {Epoch: 8, Seq: 1}} {
			seen := hour
			if f.Epoch == 8 {
				seen = hour.Add(time.Hour)
			}
			w.follow(oauth.Follower{API: "counted", Instance: fmt.Sprint(i), Epoch: f.Epoch, Seq: f.Seq, Seen: seen, Node: "n"})
		}
		for since, want := range map[time.Time]oauth.Followed{
			hour:                       {All: 5, Epoch: 6, Seq: 9},
			hour.Add(time.Microsecond): {All: 2, Epoch: 8, Seq: 1},
			hour.Add(2 * time.Hour):    {},
		} {
			got, err := w.s.CountFollowers(w.ctx, since)
			w.ok(err)
			w.same("followed", got, want)
		}
	})
	w.test("an API touches only the grants that it has keys of", func(w *world) {
		g, _ := w.live(w.person(), w.app())
		other, code := w.granted(w.person(), w.app())
		theirs := w.redemption(other, code)
		theirs.Family.API = "another"
		w.must(oauth.EventCodeRedeemed, w.redeem(theirs))
		w.ok(w.s.TouchSeen(w.ctx, w.now, w.now, "another", []string{g.ID, "unknown", "\x00"}))
		w.same("last used", w.grant(g.ID).LastUsed, time.Time{})
		w.ok(w.s.TouchSeen(w.ctx, w.now, w.now, "api", []string{"unknown", g.ID, g.ID}))
		w.same("last used", w.grant(g.ID).LastUsed, w.now)
		w.ok(w.s.TouchSeen(w.ctx, w.now.Add(-time.Hour), w.now.Add(-time.Hour), "api", []string{g.ID}))
		w.same("last used", w.grant(g.ID).LastUsed, w.now)
		later := w.now.Add(time.Minute)
		w.ok(w.s.TouchSeen(w.ctx, later, w.now, "api", []string{g.ID}))
		w.same("noted since", w.grant(g.ID).LastUsed, w.now)
		w.ok(w.s.TouchSeen(w.ctx, later, w.now.Add(time.Microsecond), "api", []string{g.ID}))
		w.same("noted before", w.grant(g.ID).LastUsed, later)
	})
	w.test("changes are kept until they are folded, and then for an hour", func(w *world) {
		w.everybody = true
		app, late := w.app(), w.app()
		g, _ := w.live(w.person(), app)
		next, _ := w.live(w.person(), late)
		before, _, err := w.s.Head(w.ctx)
		w.ok(err)
		suspend := func(app string, at time.Time) {
			w.t.Helper()
			w.must(oauth.EventClientSuspended, func(e oauth.Event) (bool, error) {
				e.At = at
				return w.s.SetClientStatus(w.ctx, app, oauth.Suspended, e)
			})
		}
		suspend(app, w.now)
		w.must(oauth.EventGrantRevoked, revoke(g.ID))
		first, err := w.s.Present(w.ctx)
		w.ok(err)
		suspend(late, w.now.Add(time.Minute))
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) {
			e.At = w.now.Add(time.Minute)
			return w.s.RevokeGrant(w.ctx, next.ID, e)
		})
		p, err := w.s.Present(w.ctx)
		w.ok(err)
		kept := func(now time.Time) (int, int64) {
			w.t.Helper()
			const limit = 1000
			for n := limit; n >= limit/4; { // until little is left
				var err error
				n, err = w.s.Sweep(w.ctx, now, oauth.EventsKept, limit)
				w.ok(err)
			}
			list, err := w.s.StatusChanges(w.ctx, before, p.Seq)
			w.ok(err)
			rules, err := w.s.RuleChanges(w.ctx, before, p.Seq)
			w.ok(err)
			w.same("rules are kept as changes are", len(rules), len(list))
			after, err := w.s.Present(w.ctx)
			w.ok(err)
			return len(list), after.Kept
		}
		n, _ := kept(w.now.Add(2 * oauth.FeedKept))
		w.same("before they are folded", n, 2)
		won, err := w.s.FoldChunks(w.ctx, p.Folded, p.Seq, nil)
		w.ok(err)
		w.same("folded", won, true)
		n, _ = kept(w.now.Add(oauth.FeedKept))
		w.same("within the hour", n, 2)
		n, mark := kept(w.now.Add(oauth.FeedKept + time.Microsecond))
		w.same("after it", n, 1)
		w.same("what is kept begins after", mark, first.Seq)
		n, mark = kept(w.now.Add(oauth.FeedKept + time.Minute + time.Microsecond))
		w.same("after the hour of the later ones", n, 0)
		w.same("what is kept begins after", mark, p.Seq)
	})
	w.test("a list of refresh chains goes when all of them are over, and no node may go on with it", func(w *world) {
		w.everybody = true
		const list = 1 << oauth.IndexBits
		used, err := w.s.AllotIndices(w.ctx, "used", "family", list, w.now)
		w.ok(err)
		_, alive := w.live(w.person(), w.app())
		w.changed("UPDATE families SET status_index = $1 WHERE id = $2", used+5, alive.Family.ID) // it has no end
		part, err := w.s.AllotIndices(w.ctx, "part", "family", 1, w.now)
		w.ok(err)
		first, err := w.s.AllotIndices(w.ctx, "over", "family", list, w.now)
		w.ok(err)
		lasting, err := w.s.AllotIndices(w.ctx, "over", "key", list, w.now)
		w.ok(err)
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		r.Family.StatusIndex, r.Family.Due, r.Refresh.IdleUntil = first+5, w.now, w.now
		w.must(oauth.EventCodeRedeemed, w.redeem(r))
		gone := func(now time.Time) bool {
			w.t.Helper()
			for range 3 {
				_, err := w.s.Sweep(w.ctx, now, oauth.EventsKept, 1000)
				w.ok(err)
			}
			_, err := w.s.StatusList(w.ctx, first>>oauth.IndexBits, 0)
			if err != nil && !errors.Is(err, oauth.ErrNotFound) {
				w.t.Fatal(err)
			}
			list, listed := w.s.GoneLists(w.ctx)
			w.ok(listed)
			w.same("it is among those that are gone", slices.Contains(list, first>>oauth.IndexBits), err != nil)
			w.same("the other is", slices.Contains(list, lasting>>oauth.IndexBits), false)
			return err != nil
		}
		end := w.now.Add(24 * time.Hour)
		w.same("while the family is there", gone(end), false)
		w.same("while a node may hold a block of it", gone(end.Add(time.Microsecond)), false)
		w.same("then", gone(w.now.Add(oauth.BlockKept+24*time.Hour+time.Microsecond)), true)
		for what, index := range map[string]int64{"lasting keys": lasting, "a family that is there": used, "room left": part} {
			if _, err = w.s.StatusList(w.ctx, index>>oauth.IndexBits, 0); err != nil {
				w.t.Errorf("a list with %s: %v", what, err)
			}
		}
		next, err := w.s.AllotIndices(w.ctx, "over", "family", 1, w.now)
		w.ok(err)
		if next>>oauth.IndexBits <= lasting>>oauth.IndexBits {
			w.t.Errorf("list %d was given again", next>>oauth.IndexBits)
		}
		w.changed("UPDATE heads SET epoch = epoch + 1 WHERE name = 'feed'")
		gone(w.now.Add(oauth.BlockKept + 24*time.Hour + time.Microsecond))
		_, err = w.s.StatusList(w.ctx, part>>oauth.IndexBits, 0)
		w.missing("a list with room left, of an older epoch", err)
		_, err = w.s.StatusList(w.ctx, used>>oauth.IndexBits, 0)
		w.ok(err)
		w.changed("UPDATE heads SET epoch = epoch - 1 WHERE name = 'feed'")
	})
}

// lists proves that a list does not go all at once, and is no list from the
// first chunk that does.
func lists(w *world) {
	w.test("a list goes in batches, and is read no more from the first one on", func(w *world) {
		const list, limit = 1 << oauth.IndexBits, 40
		const perList = list / oauth.ChunkValues
		w.sweepAll()
		var chunks []oauth.StatusChunk
		var numbers []int64
		lasting, err := w.s.AllotIndices(w.ctx, "chunks", "key", list, w.now)
		w.ok(err)
		for i := range int64(3) {
			chunks = append(chunks, oauth.StatusChunk{List: lasting >> oauth.IndexBits, Chunk: i, Bits: make([]byte, oauth.ChunkValues/4)})
		}
		for range 2 {
			first, err := w.s.AllotIndices(w.ctx, "chunks", "family", list, w.now)
			w.ok(err)
			numbers = append(numbers, first>>oauth.IndexBits)
			for i := range int64(perList) {
				chunks = append(chunks, oauth.StatusChunk{List: first >> oauth.IndexBits, Chunk: i, Bits: make([]byte, oauth.ChunkValues/4)})
			}
		}
		p, err := w.s.Present(w.ctx)
		w.ok(err)
		won, err := w.s.FoldChunks(w.ctx, p.Folded, p.Seq, chunks)
		w.ok(err)
		w.same("folded", won, true)
		left := func(number int64) int {
			return w.count("SELECT COUNT(*) FROM status_chunks WHERE list = $1", number)
		}
		had := 2 * perList
		for n := limit; n >= limit/4; {
			n, err = w.s.Sweep(w.ctx, w.now.Add(oauth.BlockKept+25*time.Hour), oauth.EventsKept, limit)
			w.ok(err)
			have := left(numbers[0]) + left(numbers[1])
			w.same("chunks of a list that stays", left(lasting>>oauth.IndexBits), 3)
			if had-have > limit {
				w.t.Fatalf("%d chunks went at once, want at most %d", had-have, limit)
			}
			had = have
			gone, err := w.s.GoneLists(w.ctx)
			w.ok(err)
			for _, number := range numbers {
				_, err := w.s.StatusList(w.ctx, number, 0)
				if left(number) < perList && !errors.Is(err, oauth.ErrNotFound) {
					w.t.Fatalf("a list of which %d chunks are left is read: %v", left(number), err)
				}
				w.same("it is among those that are gone", slices.Contains(gone, number), err != nil)
				if ended := w.count("SELECT COUNT(*) FROM status_lists WHERE number = $1 AND kind = 'gone'", number); left(number) > 0 && ended > 0 {
					w.t.Fatalf("%d chunks are left of a list that is gone, for ever", left(number))
				}
			}
		}
		w.same("chunks left when little is", had, 0)
		w.same("lists that are gone", w.count("SELECT COUNT(*) FROM status_lists WHERE kind = 'gone' AND number IN ($1, $2)", numbers[0], numbers[1]), 2)
	})
}

func (w *world) foldings() int {
	w.t.Helper()
	list, err := w.s.Foldings(w.ctx)
	w.ok(err)
	return len(list)
}
