package storagetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func decisions(w *world) {
	w.test("a new grant and its code are kept as given", func(w *world) {
		user, app := w.person(), w.app()
		a, b := w.store("a"), w.store("b")
		w.member(user, a, b)
		d := w.decision(user, app, a, b)
		d.Grant.Default = true
		d.Grant.Stores = []oauth.GrantStore{{StoreID: a}, {StoreID: b, Scopes: oauth.Scopes("orders.read")}}
		d.Grant.Created = w.now.Add(time.Microsecond)
		d.Code.Narrowing = oauth.Scopes("orders.read")
		w.wins(issue, oauth.EventGrantMade, w.record(d))

		seq, epoch, err := w.s.Head(w.ctx)
		w.ok(err)
		want := &oauth.Standing{Grant: d.Grant, UserKind: oauth.Person, UserStatus: oauth.Active, ClientStatus: oauth.Active, Seq: seq, Epoch: epoch, Members: []oauth.Membership{
			{UserID: user, StoreID: a, StoreName: "a", StoreStatus: oauth.Active, Owner: true, MayDelegate: true},
			{UserID: user, StoreID: b, StoreName: "b", StoreStatus: oauth.Active, Owner: true, MayDelegate: true},
		}}
		st, err := w.s.Standing(w.ctx, d.Grant.ID)
		w.ok(err)
		w.same("standing", st, want)
		code, st, err := w.s.Code(w.ctx, d.Code.Selector)
		w.ok(err)
		w.same("code", *code, d.Code)
		w.same("standing of the code", unnamed(st), unnamed(want))
		code, err = w.s.CodeOfRequest(w.ctx, d.Code.Request)
		w.ok(err)
		w.same("code of the request", *code, d.Code)
		id, err := w.s.DefaultGrant(w.ctx, user, app)
		w.ok(err)
		w.same("default grant", id, d.Grant.ID)
	})
	w.test("NULL, empty and some scopes stay apart", func(w *world) {
		user, app := w.person(), w.app()
		a, b, c := w.store("a"), w.store("b"), w.store("c")
		w.member(user, a, b, c)
		for _, narrowing := range []oauth.ScopeSet{nil, {}, oauth.Scopes("x", "y")} {
			d := w.decision(user, app, a, b, c)
			d.Grant.Scopes, d.Grant.Account = nil, nil
			d.Grant.Stores = []oauth.GrantStore{{StoreID: a}, {StoreID: b, Scopes: oauth.ScopeSet{}}, {StoreID: c, Scopes: oauth.Scopes("x", "y")}}
			d.Code.Narrowing = narrowing
			w.must(oauth.EventGrantMade, w.record(d))
			code, st, err := w.s.Code(w.ctx, d.Code.Selector)
			w.ok(err)
			w.same("narrowing", code.Narrowing, narrowing)
			w.same("grant", st.Grant, d.Grant)
		}
	})
	w.test("a decision read while the grant was pending loses once it is live", func(w *world) {
		user, app := w.person(), w.app()
		g, code := w.granted(user, app)
		w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(g, code)))
		d := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Code: w.code(&g), Now: w.now} // as it was read before
		w.loses("a decision on a pending grant", w.record(d))
		d.Grant.Status = oauth.Live
		w.wins(feed, oauth.EventGrantEdited, w.record(d))
	})
	w.test("what every decision asks, whatever it does and whatever stores it connects", func(w *world) {
		for why, c := range map[string]struct {
			create bool // a new grant is about it, too
			change func(*oauth.DecisionRecord)
		}{
			"client suspended": {true, func(d *oauth.DecisionRecord) { w.setApp(d.Grant.ClientID, oauth.Suspended); d.ClientVersion++ }},
			"client deleted":   {true, func(d *oauth.DecisionRecord) { w.setApp(d.Grant.ClientID, oauth.Deleted); d.ClientVersion++ }},
			"user suspended":   {true, func(d *oauth.DecisionRecord) { w.setUser(d.Grant.UserID, oauth.Suspended) }},
			"user deleted":     {true, func(d *oauth.DecisionRecord) { w.setUser(d.Grant.UserID, oauth.Deleted) }},
			"unknown client":   {true, func(d *oauth.DecisionRecord) { d.Grant.ClientID = "nobody" }},
			"unknown user":     {true, func(d *oauth.DecisionRecord) { d.Grant.UserID = "nobody" }},
			"request redeemed": {true, func(d *oauth.DecisionRecord) {
				g, code := w.granted(d.Grant.UserID, d.Grant.ClientID)
				w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(g, code)))
				d.Code.Request = code.Request
			}},
			"request over": {true, func(d *oauth.DecisionRecord) {
				_, code := w.granted(d.Grant.UserID, d.Grant.ClientID)
				d.Code.Request, d.Now = code.Request, code.Expires
			}},
			"a store of somebody else": {true, func(d *oauth.DecisionRecord) {
				if len(d.Connecting) == 0 {
					d.Connecting = []string{""}
				}
				last := len(d.Connecting) - 1
				d.Connecting[last] = w.store("another")
				w.member(w.person(), d.Connecting[last])
			}},
			"a store that he may not open to apps": {true, func(d *oauth.DecisionRecord) {
				if len(d.Connecting) == 0 {
					d.Connecting = []string{w.store("another")}
				}
				w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
					return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: d.Grant.UserID, StoreID: d.Connecting[len(d.Connecting)-1], Owner: true}, e)
				})
				if !d.Create {
					d.Rev = w.grant(d.Grant.ID).Rev
				}
			}},
			"another status": {false, func(d *oauth.DecisionRecord) { d.Grant.Status = oauth.Live }}, // what an edit rests on
			"another rev":    {false, func(d *oauth.DecisionRecord) { d.Rev++ }},
			"unknown":        {false, func(d *oauth.DecisionRecord) { d.Grant.ID = "nothing" }},
			"revoked": {false, func(d *oauth.DecisionRecord) {
				w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, d.Grant.ID, e) })
				d.Grant.Status = oauth.GrantIsRevoked
			}},
			"": {true, func(*oauth.DecisionRecord) {}},
		} {
			for _, n := range []int{0, 2} {
				for _, how := range []string{"create", "edit", "unchanged"} {
					if (how != "create" || c.create) && (how == "edit" || why != "another status") {
						user, app := w.person(), w.app()
						ids := []string{w.store("a"), w.store("b")}[:n]
						w.member(user, ids...)
						d := w.decision(user, app, ids...)
						if how != "create" {
							w.must(oauth.EventGrantMade, w.record(d))
							d = oauth.DecisionRecord{Grant: d.Grant, ClientVersion: 1, Rev: 1, Unchanged: how == "unchanged", Connecting: ids, Code: w.code(&d.Grant), Now: w.now}
						}
						if c.change(&d); why != "" {
							w.loses(fmt.Sprintf("%s, %s, %d stores", why, how, n), w.record(d))
						} else {
							w.wins(how == "edit", oauth.EventGrantMade, w.record(d))
						}
					}
				}
			}
		}
	})
	w.test("nothing is written unless the app is as it was decided on", func(w *world) {
		user := w.person()
		c := w.newApp()
		w.must(oauth.EventClientCreated, w.create(c))
		g, _ := w.live(user, c.ID)
		w.must(oauth.EventClientUpdated, func(e oauth.Event) (bool, error) { return w.s.UpdateClient(w.ctx, c, e) })
		for what, d := range map[string]oauth.DecisionRecord{
			"create":    w.decision(user, c.ID),
			"update":    {Grant: g, Rev: g.Rev, Code: w.code(&g), Now: w.now},
			"unchanged": {Grant: g, Rev: g.Rev, Unchanged: true, Code: w.code(&g), Now: w.now},
		} {
			for _, version := range []int64{0, 1, 3} {
				d.ClientVersion = version
				w.loses(fmt.Sprintf("%s, of version %d", what, version), w.record(d))
			}
		}
		d := w.decision(user, c.ID)
		d.ClientVersion = 2
		w.wins(issue, oauth.EventGrantMade, w.record(d))
	})
	w.test("nothing is written unless the user may still connect each store", func(w *world) {
		user, app := w.person(), w.app()
		mine, foreign, gone, held := w.store("mine"), w.store("foreign"), w.store("gone"), w.store("held")
		w.member(user, mine, gone, held)
		w.member(w.person(), foreign)
		w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
			return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: held, Owner: true}, e)
		})
		w.setStore(gone, oauth.Deleted)
		g, _ := w.granted(user, app, mine)
		for why, ids := range map[string][]string{
			"foreign": {mine, foreign}, "removed": {gone}, "may not delegate": {mine, held}, "unknown": {"nowhere", mine},
		} {
			w.loses("create, "+why, w.record(w.decision(user, app, ids...)))
			d := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Connecting: ids, Code: w.code(&g), Now: w.now}
			w.loses("update, "+why, w.record(d))
		}
		w.setStore(mine, oauth.Suspended)
		w.loses("suspended", w.record(w.decision(user, app, mine)))
		// A store that the grant has already is not asked about again.
		d := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Code: w.code(&g), Now: w.now}
		w.wins(feed, oauth.EventGrantEdited, w.record(d))
	})
	w.test("a grant's id is taken once, and a default grant is the only one", func(w *world) {
		user, app := w.person(), w.app()
		_, err := w.s.DefaultGrant(w.ctx, user, app)
		w.missing("default grant", err)
		first := w.decision(user, app)
		first.Grant.Default = true
		w.wins(issue, oauth.EventGrantMade, w.record(first))
		again := first
		again.Code = w.code(&first.Grant)
		w.loses("the same id", w.record(again))
		again.Grant.Default = false
		w.loses("the same id, not the default", w.record(again))
		second := w.decision(user, app)
		second.Grant.Default = true
		w.loses("a second default", w.record(second))
		second.Grant.Default = false
		w.wins(issue, oauth.EventGrantMade, w.record(second))
		other := w.decision(w.person(), app)
		other.Grant.Default = true
		w.wins(issue, oauth.EventGrantMade, w.record(other))
		for range 2 { // of one user for two apps
			d := w.decision(user, w.app())
			d.Grant.Default = true
			w.wins(issue, oauth.EventGrantMade, w.record(d))
			for _, g := range []oauth.Grant{first.Grant, d.Grant, other.Grant} {
				id, err := w.s.DefaultGrant(w.ctx, g.UserID, g.ClientID)
				w.ok(err)
				w.same("default grant", id, g.ID)
			}
		}

		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, first.Grant.ID, e) })
		_, err = w.s.DefaultGrant(w.ctx, user, app)
		w.missing("default grant after its end", err)
		third := w.decision(user, app)
		third.Grant.Default = true
		w.wins(issue, oauth.EventGrantMade, w.record(third))
	})
	w.test("a repeat decision replaces the grant at its rev, and its status stays", func(w *world) {
		user, app := w.person(), w.app()
		a, b := w.store("a"), w.store("b")
		w.member(user, a, b)
		g, _ := w.granted(user, app, a)
		for i, status := range []oauth.GrantStatus{oauth.Pending, oauth.Live, oauth.GrantOnHold} {
			switch status {
			case oauth.Live:
				code := w.code(&g)
				w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Unchanged: true, Code: code, Now: w.now}))
				w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(g, code)))
			case oauth.GrantOnHold:
				w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, g.ID, e) })
			}
			g.Status = status
			next := g
			next.Scopes, next.Account = oauth.Scopes(fmt.Sprint("scope", i)), oauth.Scopes("user.email")
			next.Stores = []oauth.GrantStore{{StoreID: []string{a, b}[i%2], Scopes: oauth.Scopes("own")}}
			next.Host = fmt.Sprintf("host-%d.example", i)
			d := oauth.DecisionRecord{Grant: next, ClientVersion: 1, Rev: g.Rev, Connecting: []string{b}, Code: w.code(&next), Now: w.now}
			for _, off := range []int64{-1, 1} {
				d.Rev = g.Rev + off
				w.loses(fmt.Sprintf("rev off by %d", off), w.record(d))
			}
			d.Rev = g.Rev
			w.wins(feed, oauth.EventGrantEdited, w.record(d))
			next.Rev = g.Rev + 1
			w.same("grant", *w.grant(g.ID), next)
			g = next
		}
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
		for _, unchanged := range []bool{false, true} {
			d := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev + 1, Unchanged: unchanged, Code: w.code(&g), Now: w.now}
			w.loses("revoked", w.record(d))
			d.Grant.ID = "nothing"
			w.loses("unknown", w.record(d))
		}
	})
	w.test("a decision that changes nothing issues a code and leaves the grant, but for its host", func(w *world) {
		user, app := w.person(), w.app()
		a := w.store("a")
		w.member(user, a)
		g, _ := w.live(user, app, a)
		other := g
		other.Scopes, other.Stores, other.Host = nil, nil, "other.example"
		d := oauth.DecisionRecord{Grant: other, ClientVersion: 1, Rev: 1, Unchanged: true, Code: w.code(&g), Now: w.now}
		w.wins(issue, oauth.EventCodeIssued, w.record(d))
		g.Host = other.Host
		w.same("grant", *w.grant(g.ID), g)
		code, _, err := w.s.Code(w.ctx, d.Code.Selector)
		w.ok(err)
		w.same("code", *code, d.Code)
		d.Code, d.Rev = w.code(&g), 2
		w.loses("rev", w.record(d))
	})
	w.test("a user connects as many stores as he has", func(w *world) {
		user, app := w.person(), w.app()
		const many = 20_000
		numbers := fmt.Sprintf("(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT 'many-' || CAST(i AS TEXT) AS id FROM n) x", many)
		for _, sql := range []string{
			"INSERT INTO stores (id, name, domain, status, created) SELECT id, id, '', 'active', 0 FROM " + numbers,
			"INSERT INTO memberships (user_id, store_id, scopes, may_delegate, is_owner, op) SELECT '" + user + "', id, '', TRUE, TRUE, '' FROM " + numbers,
		} {
			_, err := w.db.ExecContext(w.ctx, sql)
			w.ok(err)
		}
		defer func() { // for the tests that follow, which look at every row
			for _, sql := range []string{"DELETE FROM stores WHERE id LIKE 'many-%'", "DELETE FROM memberships WHERE store_id LIKE 'many-%'", "DELETE FROM grant_stores WHERE store_id LIKE 'many-%'"} {
				_, err := w.db.ExecContext(w.ctx, sql)
				w.ok(err)
			}
		}()
		ids := make([]string, many)
		for i := range ids {
			ids[i] = fmt.Sprintf("many-%d", i+1)
		}
		d := w.decision(user, app, ids...)
		w.changed("UPDATE memberships SET may_delegate = FALSE WHERE store_id = $1", ids[many-1])
		w.loses("but for one", w.record(d))
		w.changed("UPDATE memberships SET may_delegate = TRUE WHERE store_id = $1", ids[many-1])
		w.wins(issue, oauth.EventGrantMade, w.record(d))
		w.same("stores", w.count("SELECT COUNT(*) FROM grant_stores WHERE grant_id = $1", d.Grant.ID), many)
		g := *w.grant(d.Grant.ID)
		w.wins(feed, oauth.EventGrantEdited, func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, g.Rev, ids, e) })
	})
	w.test("where nobody was asked the host is the one to which the user last let the app go", func(w *world) {
		g, _ := w.live(w.person(), w.app())
		silent := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Unasked: true, Code: w.code(&g), Now: w.now}
		w.wins(issue, oauth.EventCodeIssued, w.record(silent))
		asked := silent
		asked.Unasked, asked.Grant.Host, asked.Code = false, "other.example", w.code(&g)
		w.wins(issue, oauth.EventCodeIssued, w.record(asked)) // raises no rev
		silent.Code = w.code(&g)
		w.loses("to the host of before", w.record(silent))
		g.Host = "other.example"
		w.same("grant", *w.grant(g.ID), g)
		silent.Grant.Host = g.Host
		w.wins(issue, oauth.EventCodeIssued, w.record(silent))
	})
	w.test("a second Allow replaces the unredeemed code, which keeps its deadline", func(w *world) {
		user, app := w.person(), w.app()
		g, first := w.granted(user, app)
		second := w.code(&g)
		second.Request, second.Expires = first.Request, first.Expires.Add(time.Hour)
		again := oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: second, Now: first.Expires}
		w.loses("at its deadline", w.record(again))
		again.Now = first.Expires.Add(-time.Microsecond)
		w.wins(issue, oauth.EventCodeIssued, w.record(again))
		_, _, err := w.s.Code(w.ctx, first.Selector)
		w.missing("the replaced code", err)
		w.loses("redeeming the replaced code", w.redeem(w.redemption(g, first)))
		got, _, err := w.s.Code(w.ctx, second.Selector)
		w.ok(err)
		second.Expires = first.Expires
		w.same("the new code", *got, second)

		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(w.redemption(g, second)))
		again.Code = w.code(&g)
		again.Code.Request = first.Request
		w.loses("after redemption", w.record(again))
		again.Unchanged = false
		w.loses("after redemption, editing", w.record(again))
		fresh := w.decision(user, app)
		fresh.Code.Request = first.Request
		w.loses("after redemption, with a grant of its own", w.record(fresh))
	})
	w.test("a denial takes back an Allow of which nothing came, and no other", func(w *world) {
		user, app := w.person(), w.app()
		for _, of := range []oauth.Allowance{{}, {Of: w.id("allowance"), Most: oauth.Bucket{Size: 100, Refill: 1, Every: time.Hour}}} {
			deny := func(request string) func(oauth.Event) (bool, error) {
				return func(e oauth.Event) (bool, error) { return w.s.NoteDenial(w.ctx, of, request, e) }
			}
			again := func(g oauth.Grant, request string) oauth.DecisionRecord {
				code := w.code(&g)
				if request != "" {
					code.Request = request
				}
				return oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Unchanged: true, Code: code, Now: w.now}
			}
			void := func(code oauth.StoredCode) {
				w.t.Helper()
				w.wins(issue, oauth.EventConsentDenied, deny(code.Request))
				_, _, err := w.s.Code(w.ctx, code.Selector)
				w.missing("the void code", err)
			}
			w.wins(issue, oauth.EventConsentDenied, deny(w.id("rq_"))) // never allowed

			g, first := w.granted(user, app)
			other := again(g, "") // of another request, about the same grant
			w.wins(issue, oauth.EventCodeIssued, w.record(other))
			void(first)
			w.loses("redeeming the void code", w.redeem(w.redemption(g, first)))
			void(first) // pressed again
			second := again(g, first.Request)
			w.wins(issue, oauth.EventCodeIssued, w.record(second))
			got, err := w.s.CodeOfRequest(w.ctx, first.Request)
			w.ok(err)
			w.same("the code after another Allow", *got, second.Code)
			w.wins(issue, oauth.EventCodeRedeemed, w.redeem(w.redemption(g, other.Code)))
			w.loses("one whose grant was taken up by another code", deny(first.Request))

			g, code := w.granted(user, app)
			w.wins(issue, oauth.EventCodeRedeemed, w.redeem(w.redemption(g, code)))
			w.loses("one that was redeemed", deny(code.Request))
			g.Status = oauth.Live
			for _, status := range []oauth.GrantStatus{oauth.Live, oauth.GrantOnHold} {
				repeat := again(g, "")
				w.wins(issue, oauth.EventCodeIssued, w.record(repeat))
				if status == oauth.GrantOnHold {
					w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, g.ID, e) })
				}
				w.loses("one about a grant that is "+string(status), deny(repeat.Code.Request))
				if status == oauth.Live {
					w.wins(issue, oauth.EventCodeRedeemed, w.redeem(w.redemption(g, repeat.Code)))
				}
			}
			w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
			w.loses("one that was redeemed, and revoked", deny(code.Request))
			g, code = w.granted(user, app)
			w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
			void(code)
		}
	})
	w.test("an allowance lets so many decisions pass, whatever about, and more as time passes", func(w *world) {
		user, app := w.person(), w.app()
		of := oauth.Allowance{Of: w.id("allowance"), Most: oauth.Bucket{Size: 3, Refill: 2, Every: time.Minute}}
		g, _ := w.granted(user, app)
		at := w.now
		decide := func(d oauth.DecisionRecord) func(oauth.Event) (bool, error) {
			d.Of, d.Now = of, at
			return w.record(d)
		}
		again := func() oauth.DecisionRecord {
			g := *w.grant(g.ID)
			return oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Unchanged: true, Code: w.code(&g)}
		}
		deny := func(e oauth.Event) (bool, error) {
			e.UserID, e.At = user, at
			return w.s.NoteDenial(w.ctx, of, w.id("rq_"), e)
		}
		next := func(want time.Time) {
			w.t.Helper()
			got, err := w.s.NextDecision(w.ctx, of)
			w.ok(err)
			if !got.Equal(want) {
				w.t.Errorf("the next at %v, want %v", got, want)
			}
		}
		next(time.Time{})
		w.wins(issue, oauth.EventGrantMade, decide(w.decision(user, app)))
		edit := again()
		edit.Unchanged = false
		edit.Rev++
		w.loses("one that loses for another reason", decide(edit))
		edit.Rev--
		w.wins(feed, oauth.EventGrantEdited, decide(edit))
		w.must(oauth.EventConsentDenied, deny)
		next(at.Add(30 * time.Second))
		for what, d := range map[string]oauth.DecisionRecord{"a new grant": w.decision(user, app), "a code": again()} {
			w.loses(what, decide(d))
		}
		edit = again()
		edit.Unchanged = false
		w.loses("a change", decide(edit))
		w.loses("a denial", deny)
		other := w.decision(w.person(), app)
		other.Of = oauth.Allowance{Of: w.id("allowance"), Most: of.Most}
		w.wins(issue, oauth.EventGrantMade, w.record(other))
		w.wins(issue, oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: *w.grant(g.ID), ClientVersion: 1, Rev: w.grant(g.ID).Rev, Unchanged: true, Code: w.code(&g), Now: at}))
		at = w.now.Add(30*time.Second - time.Microsecond)
		w.loses("a moment too early", decide(again()))
		at = w.now.Add(30 * time.Second)
		w.wins(issue, oauth.EventCodeIssued, decide(again()))
		w.loses("and no other", deny)
		at = w.now.Add(time.Hour) // no more than there may be have gathered
		for range 3 {
			w.must(oauth.EventConsentDenied, deny)
		}
		w.loses("a fourth at once", decide(again()))
		next(at.Add(30 * time.Second))
	})
	w.test("5,000 stores", func(w *world) {
		user, app := w.person(), w.app()
		ids := make([]string, 5000)
		for i := range ids {
			ids[i] = fmt.Sprintf("many-%04d", i)
		}
		w.bulkStores(user, ids)
		d := w.decision(user, app, ids...)
		w.wins(issue, oauth.EventGrantMade, w.record(d))
		st, err := w.s.Standing(w.ctx, d.Grant.ID)
		w.ok(err)
		if len(st.Members) != 5000 || len(st.Grant.Stores) != 5000 {
			w.t.Errorf("%d members and %d stores, want 5,000 of each", len(st.Members), len(st.Grant.Stores))
		}
		d = w.decision(user, app, append(ids, "foreign")...)
		w.loses("one of them foreign", w.record(d))
	})
}

// bulkStores makes stores of which user is an owner, past the contract.
func (w *world) bulkStores(user string, ids []string) {
	w.t.Helper()
	tx, err := w.db.BeginTx(w.ctx, nil)
	w.ok(err)
	defer tx.Rollback()
	for _, id := range ids {
		_, err := tx.ExecContext(w.ctx, "INSERT INTO stores (id, name, domain, status, created) VALUES ($1, $1, '', 'active', 1)", id)
		w.ok(err)
		_, err = tx.ExecContext(w.ctx, "INSERT INTO memberships (user_id, store_id, scopes, may_delegate, is_owner, op) VALUES ($1, $2, '', TRUE, TRUE, '')", user, id)
		w.ok(err)
	}
	w.ok(tx.Commit())
}

func grants(w *world) {
	w.test("EditGrant replaces scopes and stores at its rev and raises it", func(w *world) {
		user, app := w.person(), w.app()
		a, b := w.store("a"), w.store("b")
		g, r := w.live(user, app)
		edited := g
		edited.Scopes, edited.Account, edited.AllStores = oauth.Scopes("x"), nil, false
		edited.Stores = []oauth.GrantStore{{StoreID: a, Scopes: oauth.Scopes("y")}, {StoreID: b}}
		edit := func(g oauth.Grant, rev int64) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, rev, nil, e) }
		}
		w.loses("rev too low", edit(edited, 0))
		w.loses("rev too high", edit(edited, 2))
		w.wins(feed, oauth.EventGrantEdited, edit(edited, 1))
		edited.Rev = 2
		w.same("grant", *w.grant(g.ID), edited)
		w.loses("the same rev again", edit(edited, 1))
		edited.Stores, edited.AllStores = nil, true
		w.wins(feed, oauth.EventGrantEdited, edit(edited, 2))
		edited.Rev = 3
		w.same("grant", *w.grant(g.ID), edited)
		w.same("the key that is out", w.family(r.Family.ID).Status, oauth.Valid)
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
		w.loses("revoked", edit(edited, 4))
	})
	w.test("EditGrant adds a store only while the user may connect it", func(w *world) {
		user, other, app := w.person(), w.person(), w.app()
		a, b, c, third := w.store("a"), w.store("b"), w.store("c"), w.store("third")
		w.member(user, a, b, third)
		w.member(other, c)
		g, _ := w.live(user, app, a)
		twin, _ := w.live(user, app, a)
		ended, _ := w.live(user, app, a)
		g.Stores = append(g.Stores, oauth.GrantStore{StoreID: b})
		at := func(g oauth.Grant, off int64, stores []string) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, w.grant(g.ID).Rev+off, stores, e) }
		}
		edit := func(stores ...string) func(oauth.Event) (bool, error) { return at(g, 0, stores) }
		// One, two, and so many that what is asked repeats the last.
		for _, with := range [][]string{{b}, {a, b}, {third, b, a}} {
			theirs := slices.Clone(with)
			theirs[slices.Index(with, b)] = c
			w.loses("somebody else's", edit(theirs...))
			theirs[slices.Index(with, b)] = "nothing"
			w.loses("one that there is not", edit(theirs...))
			w.setStore(b, oauth.Suspended)
			w.loses("a store that is closed", edit(with...))
			w.setStore(b, oauth.Active)
			w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
				return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: b, Owner: true}, e)
			})
			w.loses("one that he may not open to apps", edit(with...))
			w.must(oauth.EventMembershipDropped, func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, b, e) })
			w.loses("one that he has no more", edit(with...))
			w.member(user, b)
			w.loses("at a rev that was", at(g, -1, with))
			w.loses("at one that is to come", at(g, 1, with))
		}
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, ended.ID, e) })
		for _, with := range [][]string{{b}, {a, b}} {
			w.loses("a grant that has ended", at(ended, 0, with))
			before, same := w.grant(g.ID), w.grant(twin.ID)
			w.same("two grants at one rev", before.Rev == same.Rev, true)
			w.wins(feed, oauth.EventGrantEdited, edit(with...))
			w.same("its rev", w.grant(g.ID).Rev, before.Rev+1)
			w.same("the other", *w.grant(twin.ID), *same)
			w.wins(feed, oauth.EventGrantEdited, at(*same, 0, nil)) // so that they are at one again
		}
	})
	w.test("a grant of all stores stands in every store of the user", func(w *world) {
		user, app := w.person(), w.app()
		a := w.store("a")
		w.member(user, a)
		d := w.decision(user, app)
		d.Grant.AllStores = true
		w.must(oauth.EventGrantMade, w.record(d))
		b := w.store("b")
		w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
			return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: b, Scopes: oauth.Scopes("x")}, e)
		})
		st, err := w.s.Standing(w.ctx, d.Grant.ID)
		w.ok(err)
		w.same("members", st.Members, []oauth.Membership{
			{UserID: user, StoreID: a, StoreName: "a", StoreStatus: oauth.Active, Owner: true, MayDelegate: true},
			{UserID: user, StoreID: b, StoreName: "b", StoreStatus: oauth.Active, Scopes: oauth.Scopes("x")},
		})
	})
	w.test("RevokeGrant ends the grant and every family under it, once", func(w *world) {
		user, app := w.person(), w.app()
		g, r := w.live(user, app)
		code := w.code(&g)
		w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now}))
		r2 := w.redemption(g, code)
		r2.Family.Status = oauth.Ask
		w.must(oauth.EventCodeRedeemed, w.redeem(r2))
		_, stranger := w.live(user, app)
		revoke := func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) }
		w.wins(feed, oauth.EventGrantRevoked, revoke)
		got := w.grant(g.ID)
		w.same("status", got.Status, oauth.GrantIsRevoked)
		w.same("rev", got.Rev, int64(1))
		w.same("first key", w.family(r.Family.ID).Status, oauth.Invalid)
		w.same("second key", w.family(r2.Family.ID).Status, oauth.Invalid)
		w.same("key of another grant", w.family(stranger.Family.ID).Status, oauth.Valid)
		w.loses("again", revoke)
		w.loses("unknown", func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, "nothing", e) })
		w.loses("suspending it", func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, g.ID, e) })
		w.loses("resuming it", func(e oauth.Event) (bool, error) { return w.s.ResumeGrant(w.ctx, g.ID, e) })

		pending, _ := w.granted(user, app)
		w.wins(feed, oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, pending.ID, e) })
	})
	w.test("RevokeGrantAt does so at its rev alone", func(w *world) {
		g, r := w.live(w.person(), w.app())
		at := func(rev int64) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeGrantAt(w.ctx, g.ID, rev, e) }
		}
		w.must(oauth.EventGrantEdited, func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, 1, nil, e) })
		w.loses("a rev that was", at(1))
		w.loses("one that is to come", at(3))
		w.wins(feed, oauth.EventGrantRevoked, at(2))
		w.same("status", w.grant(g.ID).Status, oauth.GrantIsRevoked)
		w.same("key", w.family(r.Family.ID).Status, oauth.Invalid)
		w.loses("again", at(2))
	})
	w.test("SuspendGrant and ResumeGrant turn about", func(w *world) {
		user, app := w.person(), w.app()
		pending, _ := w.granted(user, app)
		live, r := w.live(user, app)
		for _, id := range []string{pending.ID, live.ID} {
			suspend := func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, id, e) }
			resume := func(e oauth.Event) (bool, error) { return w.s.ResumeGrant(w.ctx, id, e) }
			w.loses("resuming what is not suspended", resume)
			w.wins(feed, oauth.EventGrantSuspended, suspend)
			w.same("status", w.grant(id).Status, oauth.GrantOnHold)
			w.loses("suspending twice", suspend)
			w.wins(feed, oauth.EventGrantResumed, resume)
			got := w.grant(id)
			w.same("status", got.Status, oauth.Live)
			w.same("rev", got.Rev, int64(1))
			w.same("it is over", w.count("SELECT COUNT(*) FROM grants WHERE id = $1 AND due IS NOT NULL", id), 0)
		}
		w.same("its key", w.family(r.Family.ID).Status, oauth.Valid)
		w.loses("unknown", func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, "nothing", e) })
		w.loses("unknown", func(e oauth.Event) (bool, error) { return w.s.ResumeGrant(w.ctx, "nothing", e) })
		w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, live.ID, e) })
		w.wins(feed, oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, live.ID, e) })
	})
	w.test("lists of grants", func(w *world) {
		user, other := w.person(), w.person()
		app, app2 := w.app(), w.app()
		a, b := w.store("a"), w.store("b")
		w.member(user, a, b)
		at := func(n int, user, app string, stores ...string) oauth.Grant {
			d := w.decision(user, app, stores...)
			d.Grant.Created = w.now.Add(time.Duration(n) * time.Microsecond)
			w.must(oauth.EventGrantMade, w.record(d))
			if n > 1 {
				w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(d.Grant, d.Code)))
				d.Grant.Status = oauth.Live
			}
			return d.Grant
		}
		pending := at(1, user, app)
		one, two, three := at(2, user, app, a, b), at(3, user, app2, b), at(4, user, app)
		foreign := at(5, other, app2)
		w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, two.ID, e) })
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, three.ID, e) })
		ids := func(list []oauth.Connection, err error) []string {
			w.t.Helper()
			w.ok(err)
			out := []string{}
			for _, c := range list {
				out = append(out, c.ID)
			}
			return out
		}
		w.same("of the user: live and suspended, newest first", ids(w.s.GrantsOf(w.ctx, user, oauth.Page{Limit: 9})), []string{two.ID, one.ID})
		w.same("a page of them", ids(w.s.GrantsOf(w.ctx, user, oauth.Page{Offset: 1, Limit: 1})), []string{one.ID})
		w.same("of nobody", ids(w.s.GrantsOf(w.ctx, "nobody", oauth.Page{Limit: 9})), []string{})
		list, err := w.s.GrantsOf(w.ctx, user, oauth.Page{Limit: 9})
		w.ok(err)
		w.same("its grant", list[1].Grant, one)
		w.same("its keys", list[1].Keys, 1)
		w.same("its app", list[1].Client.ID+list[1].Client.Name, app+"App")
		w.same("its stores", len(list[1].Stores), 2)
		lone, err := w.s.GrantOf(w.ctx, user, one.ID)
		w.ok(err)
		w.same("it alone", *lone, list[1])
		lone, err = w.s.GrantOf(w.ctx, user, three.ID)
		w.ok(err)
		w.same("one that has ended", lone.Status, oauth.GrantIsRevoked)
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) {
			return w.s.RevokeFamily(w.ctx, w.column("SELECT id FROM families WHERE grant_id = $1", one.ID)[0], e)
		})
		for _, f := range []oauth.GrantFilter{{ID: one.ID}, {ID: two.ID}} {
			f.Page.Limit = 1
			got, err := w.s.Grants(w.ctx, f)
			w.ok(err)
			w.same("keys that are out", got[0].Keys == 1, f.ID == two.ID)
			mine, err := w.s.GrantsOf(w.ctx, user, oauth.Page{Limit: 10})
			w.ok(err)
			w.same("keys that are out, to their user", mine[slices.IndexFunc(mine, func(c oauth.Connection) bool { return c.ID == f.ID })].Keys, got[0].Keys)
		}
		for _, id := range []string{foreign.ID, "nothing"} {
			_, err = w.s.GrantOf(w.ctx, user, id)
			w.missing("another's, or none", err)
		}

		all := oauth.Page{Limit: 100}
		for _, c := range []struct {
			f    oauth.GrantFilter
			want []string
		}{
			{oauth.GrantFilter{UserID: user, Page: all}, []string{three.ID, two.ID, one.ID, pending.ID}},
			{oauth.GrantFilter{ClientID: app2, Page: all}, []string{foreign.ID, two.ID}},
			{oauth.GrantFilter{ID: two.ID, Page: all}, []string{two.ID}},
			{oauth.GrantFilter{ID: two.ID, StoreID: a, Page: all}, []string{}},
			{oauth.GrantFilter{StoreID: b, Page: all}, []string{two.ID, one.ID}},
			{oauth.GrantFilter{UserID: user, ClientID: app, StoreID: a, Page: all}, []string{one.ID}},
			{oauth.GrantFilter{UserID: user, Page: oauth.Page{Offset: 1, Limit: 2}}, []string{two.ID, one.ID}},
			{oauth.GrantFilter{UserID: user, Page: oauth.Page{Offset: 4, Limit: 2}}, []string{}},
			{oauth.GrantFilter{UserID: "nobody", Page: all}, []string{}},
		} {
			w.same(fmt.Sprintf("%+v", c.f), ids(w.s.Grants(w.ctx, c.f)), c.want)
		}
		w.same("of a user, the live ones", ids(w.s.Grants(w.ctx, oauth.GrantFilter{UserID: user, OnlyLive: true, Page: all})), []string{two.ID, one.ID})
		less := w.decision(user, app)
		less.Grant.AllStores, less.Grant.Stores = true, []oauth.GrantStore{{StoreID: a}, {StoreID: b, Scopes: oauth.ScopeSet{}}}
		less.Grant.Created = w.now.Add(time.Second)
		w.must(oauth.EventGrantMade, w.record(less))
		w.same("of a store that one leaves out", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: b, Page: all})), []string{two.ID, one.ID})
		w.same("of one that it does not", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: a, Page: all})), []string{less.Grant.ID, one.ID})
		member := w.person()
		every := w.decision(member, app)
		every.Grant.AllStores, every.Grant.Created = true, w.now.Add(2*time.Second)
		w.must(oauth.EventGrantMade, w.record(every))
		w.same("a store of another's, who has all of his", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: a, Page: all})), []string{less.Grant.ID, one.ID})
		w.member(member, a)
		w.same("one of all stores, which names none", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: a, Page: all})), []string{every.Grant.ID, less.Grant.ID, one.ID})
		w.same("and of no other", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: b, Page: all})), []string{two.ID, one.ID})
		w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
			return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: member, StoreID: a}, e)
		})
		w.same("of all that he may open to apps", ids(w.s.Grants(w.ctx, oauth.GrantFilter{StoreID: a, Page: all})), []string{less.Grant.ID, one.ID})
		// A pending grant holds nothing yet, a revoked one nothing any more.
		grants, users, err := w.s.CountGrants(w.ctx, app)
		w.ok(err)
		w.same("grants and users of the app", [2]int{grants, users}, [2]int{1, 1})
		grants, users, err = w.s.CountGrants(w.ctx, app2)
		w.ok(err)
		w.same("grants and users of the other app", [2]int{grants, users}, [2]int{2, 2})
		w.setApp(app2, oauth.Deleted)
		w.same("of the user: not of an app that is gone", ids(w.s.GrantsOf(w.ctx, user, oauth.Page{Limit: 10})), []string{one.ID})
	})
	w.test("what others connected to a store is its owner's to see, and nothing else of theirs", func(w *world) {
		owner, member, app := w.person(), w.person(), w.app()
		a, b, theirs := w.store("a"), w.store("b"), w.store("c")
		w.member(owner, a, b)
		join := func(store string, delegate bool) {
			w.t.Helper()
			w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
				return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: member, StoreID: store, Scopes: oauth.Scopes("x"), MayDelegate: delegate}, e)
			})
		}
		join(a, true)
		join(b, true)
		w.member(member, theirs)
		at := func(n int, edit func(*oauth.Grant)) oauth.Grant {
			d := w.decision(member, app)
			d.Grant.Created, d.Grant.Default = w.now.Add(time.Duration(n)*time.Microsecond), false
			edit(&d.Grant)
			w.must(oauth.EventGrantMade, w.record(d))
			w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(d.Grant, d.Code)))
			return d.Grant
		}
		in := func(stores ...oauth.GrantStore) func(*oauth.Grant) {
			return func(g *oauth.Grant) { g.Stores = stores }
		}
		own := oauth.GrantStore{StoreID: b, Scopes: oauth.Scopes("x", "y")}
		list := at(1, in(oauth.GrantStore{StoreID: a}, own, oauth.GrantStore{StoreID: theirs}))
		at(2, in(oauth.GrantStore{StoreID: theirs}))
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) {
			return w.s.RevokeGrant(w.ctx, at(3, in(oauth.GrantStore{StoreID: a})).ID, e)
		})
		all := at(4, func(g *oauth.Grant) {
			g.AllStores, g.Stores = true, []oauth.GrantStore{{StoreID: b, Scopes: oauth.ScopeSet{}}}
		}) // all but b
		w.must(oauth.EventGrantMade, w.record(w.decision(member, w.app(), a))) // not taken up
		owns := w.decision(owner, app, a)
		w.must(oauth.EventGrantMade, w.record(owns))
		w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(owns.Grant, owns.Code)))

		see := func(user, store string, p oauth.Page) (out []string) {
			w.t.Helper()
			rows, err := w.s.GrantsOfOthers(w.ctx, user, store, p)
			w.ok(err)
			for _, c := range rows {
				if len(c.Stores) != 1 || len(c.Grant.Stores) != 1 || c.Account != nil || c.Scopes != nil || c.Person == "" || c.Client.Name == "" || c.Client.ID != app || c.UserID != member {
					w.t.Errorf("row %+v", c)
				}
				out = append(out, c.ID+" "+c.Stores[0].StoreName+" "+c.Grant.Stores[0].Scopes.String())
			}
			return out
		}
		whole := oauth.Page{Limit: 10}
		rows := []string{all.ID + " a " + all.Scopes.String(), list.ID + " a " + list.Scopes.String(), list.ID + " b x y"}
		w.same("by store, newest first", see(owner, "", whole), rows)
		w.same("one store", see(owner, b, whole), rows[2:])
		w.same("a page", see(owner, "", oauth.Page{Offset: 1, Limit: 1}), rows[1:2])
		w.changed("UPDATE clients SET status = 'deleted' WHERE id = $1", app)
		w.same("of an app that is gone", see(owner, "", whole), []string(nil))
		w.changed("UPDATE clients SET status = 'active' WHERE id = $1", app)
		w.same("a store that is not the owner's", see(owner, theirs, whole), []string(nil))
		w.same("a member who owns neither", see(member, "", whole), []string(nil))
		w.setUser(member, oauth.Suspended) // what he connected is there again when he is
		w.same("of a member who is suspended", see(owner, "", whole), rows)
		resting, err := w.s.GrantsOfOthers(w.ctx, owner, b, whole)
		w.ok(err)
		w.same("his status", resting[0].UserStatus, oauth.Suspended)
		w.setUser(member, oauth.Active)
		join(a, false) // all stores are those that he may open to apps
		w.same("no more among all", see(owner, a, whole), rows[1:2])
		w.must(oauth.EventMembershipDropped, func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, member, a, e) })
		w.same("not a member any more", see(owner, "", whole), rows[2:])
		w.setStore(b, oauth.Suspended)
		w.same("a store that is closed", see(owner, "", whole), []string(nil))
	})
	w.test("reads of what is not there", func(w *world) {
		_, err := w.s.Standing(w.ctx, "nothing")
		w.missing("Standing", err)
		_, err = w.s.DefaultGrant(w.ctx, "nobody", "nothing")
		w.missing("DefaultGrant", err)
	})
}
