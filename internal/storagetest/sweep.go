package storagetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func sweep(w *world) {
	user, app := w.person(), w.app()
	day := 24 * time.Hour
	n := 0
	// One of everything that ends, made so that it ends at end.
	make1 := func(w *world, end time.Time) (code, guest oauth.StoredCode, token *oauth.StoredRefresh, pending string) {
		w.t.Helper()
		n++
		d := w.decision(user, app)
		d.Code.Expires = end
		w.must(oauth.EventGrantMade, w.record(d))
		guest = w.guestCode(app)
		guest.Expires = end
		w.must(oauth.EventCodeIssued, w.issueGuest(guest))
		g, issued := w.granted(user, app)
		r := w.redemption(g, issued)
		r.Refresh.IdleUntil, r.Family.Due = end, end
		w.must(oauth.EventCodeRedeemed, w.redeem(r))
		pending = fmt.Sprint("pending", n)
		w.ok(w.s.PutPending(w.ctx, pending, "authorize", []byte("x"), end))
		return d.Code, guest, r.Refresh, pending
	}
	there := func(w *world, table, selector string) bool {
		w.t.Helper()
		return w.count("SELECT COUNT(*) FROM "+table+" WHERE selector = $1", selector) == 1
	}
	w.test("what is over goes, each in its time", func(w *world) {
		end := w.now.Add(time.Minute)
		code, guest, token, pending := make1(w, end)
		g, first, _ := w.continued(app)
		more := w.guestCode(app)
		more.GrantID, more.FamilyID, more.Expires = g.ID, first.Family.ID, end
		w.must(oauth.EventCodeIssued, w.issueGuest(more))
		events := w.count("SELECT COUNT(*) FROM events")
		for _, at := range []struct {
			now                  time.Time
			code, token, pending bool
		}{
			{end.Add(-time.Microsecond), true, true, true},
			{end.Add(time.Microsecond), true, true, false},
			{end.Add(oauth.CodeMemory), true, true, false},
			{end.Add(oauth.CodeMemory + time.Minute + time.Microsecond), false, true, false},
			{end.Add(day), false, true, false},
			{end.Add(day + time.Microsecond), false, false, false},
		} {
			_, err := w.s.Sweep(w.ctx, at.now, oauth.EventsKept, 1000)
			w.ok(err)
			after := at.now.Sub(end).String()
			w.same("code, after "+after, there(w, "authorization_codes", code.Selector), at.code)
			w.same("guest's code, after "+after, there(w, "authorization_codes", guest.Selector), at.code)
			w.same("code to continue a guest, after "+after, there(w, "authorization_codes", more.Selector), at.code)
			w.same("refresh token, after "+after, there(w, "refresh_tokens", token.Selector), at.token)
			w.same("pending request, after "+after, there(w, "pending_requests", pending), at.pending)
		}
		// The event of a guest's code that nobody redeemed goes with it, and no other.
		w.same("events", w.count("SELECT COUNT(*) FROM events"), events-2)
	})
	w.test("what is needed stays", func(w *world) {
		w.sweepAll()
		g, r := w.live(user, app)
		guest := w.guestCode(app)
		w.must(oauth.EventCodeIssued, w.issueGuest(guest))
		gr := w.guestRedemption(guest)
		w.must(oauth.EventCodeRedeemed, w.redeem(gr))
		code, fresh, token, pending := make1(w, w.now.Add(2*day))
		before := w.dump()
		count, err := w.s.Sweep(w.ctx, w.now.Add(time.Minute), oauth.EventsKept, 1000)
		w.ok(err)
		w.same("removed", count, 0)
		w.same("all tables", w.dump(), before)

		// Long after, families, grants, users and the events of what was redeemed stay.
		events := w.count("SELECT COUNT(*) FROM events")
		_, err = w.s.Sweep(w.ctx, w.now.Add(day), oauth.EventsKept, 1000)
		w.ok(err)
		w.same("events", w.count("SELECT COUNT(*) FROM events"), events)
		for _, c := range []oauth.StoredCode{code, fresh} {
			w.same("code that is not over", there(w, "authorization_codes", c.Selector), true)
		}
		w.same("token", there(w, "refresh_tokens", token.Selector), true)
		w.same("pending request", there(w, "pending_requests", pending), true)
		w.same("redeemed code", there(w, "authorization_codes", guest.Selector), false)
		w.sweepAll()
		w.same("family", w.family(r.Family.ID).Status, oauth.Valid)
		w.same("guest's family", w.family(gr.Family.ID).Status, oauth.Valid)
		w.same("grant", w.grant(g.ID).Status, oauth.Live)
	})
	w.test("a grant that was never taken up stays as long as it has a later code", func(w *world) {
		w.sweepAll()
		user, store := w.person(), w.store("asked again")
		w.member(user, store)
		g, code := w.granted(user, app, store)
		over, _ := w.granted(user, app, store)
		later := w.code(&g)
		later.Expires = code.Expires.Add(2 * day)
		w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: later, Now: w.now}))
		_, err := w.s.Sweep(w.ctx, code.Expires.Add(oauth.CodeMemory+time.Microsecond), oauth.EventsKept, 1000)
		w.ok(err)
		w.same("the code that is over", there(w, "authorization_codes", code.Selector), false)
		w.same("the grant", *w.grant(g.ID), g)
		_, err = w.s.Standing(w.ctx, over.ID)
		w.missing("one without a later code", err)
		w.same("its stores", w.count("SELECT COUNT(*) FROM grant_stores WHERE grant_id = $1", over.ID), 0)
		_, err = w.s.Sweep(w.ctx, later.Expires.Add(oauth.CodeMemory), oauth.EventsKept, 1000)
		w.ok(err)
		w.same("the grant, while its code is remembered", *w.grant(g.ID), g)
		w.sweepAll()
		_, err = w.s.Standing(w.ctx, g.ID)
		w.missing("the grant after that", err)
	})
	w.test("at most limit rows of each kind, oldest first, until nothing is left", func(w *world) {
		w.sweepAll()
		issued := w.count("SELECT COUNT(*) FROM events WHERE kind = 'code.issued'") // of codes that were redeemed
		const made = 7
		for i := range made {
			make1(w, w.now.Add(time.Duration(i)*time.Second))
		}
		now := w.now.Add(time.Minute)
		left := made
		for left > 0 {
			count, err := w.s.Sweep(w.ctx, now, oauth.EventsKept, 3)
			w.ok(err)
			left = max(left-3, 0)
			if now := w.count("SELECT COUNT(*) FROM pending_requests"); now != left || count < 1 {
				w.t.Fatalf("%d pending requests left after removing %d rows, want %d", now, count, left)
			}
		}
		now = now.Add(time.Hour)
		total := 0
		for range 30 {
			before := w.count("SELECT COUNT(*) FROM authorization_codes")
			count, err := w.s.Sweep(w.ctx, now, oauth.EventsKept, 3)
			w.ok(err)
			total += count
			if gone := before - w.count("SELECT COUNT(*) FROM authorization_codes"); gone > 3 {
				w.t.Errorf("%d codes gone at once, want at most 3", gone)
			}
			if count == 0 {
				break
			}
		}
		w.same("codes left", strings.Join(w.column("SELECT selector FROM authorization_codes"), " "), "")
		// 7 codes with their grants, 7 of guests with their events, 7 redeemed ones.
		w.same("removed", total, 5*made)
		w.same("events of guests' codes", w.count("SELECT COUNT(*) FROM events WHERE kind = 'code.issued'"), issued)
	})
}

// sweepAll removes whatever can be.
func (w *world) sweepAll() {
	w.t.Helper()
	for {
		n, err := w.s.Sweep(w.ctx, w.now.Add(1000*24*time.Hour), 10*oauth.EventsKept, 1000)
		w.ok(err)
		if n == 0 {
			return
		}
	}
}

// lease proves who may do a chore that one node does for all.
func lease(w *world) {
	w.test("a lease is its holder's until it ends, and he may renew it", func(w *world) {
		end := w.now.Add(time.Minute)
		for _, try := range []struct {
			holder     string
			now, until time.Time
			want       bool
		}{
			{"a", w.now, end, true},
			{"b", w.now, end, false},
			{"a", w.now, end, true},
			{"b", end.Add(-time.Microsecond), end.Add(time.Hour), false},
			{"b", end, end.Add(time.Hour), true},
			{"a", end.Add(time.Minute), end.Add(2 * time.Hour), false},
			{"a", end.Add(time.Hour), end.Add(2 * time.Hour), true},
		} {
			won, err := w.s.Lease(w.ctx, "chore", try.holder, try.now, try.until)
			w.ok(err)
			w.same(fmt.Sprintf("%s at %v", try.holder, try.now.Sub(w.now)), won, try.want)
		}
		won, err := w.s.Lease(w.ctx, "another", "b", w.now, end)
		w.ok(err)
		w.same("another lease", won, true)
	})
	w.test("a lease that ended is taken over by one of 8", func(w *world) {
		now := w.now
		for range w.rounds(50) {
			until := now.Add(time.Minute)
			w.one("the lease", func(i int, _ oauth.Event) (bool, error) {
				return w.s.Lease(w.ctx, "raced", fmt.Sprint("node", i), now, until)
			})
			now = until
		}
	})
	w.test("eight who sweep at once remove what is over, once, and nothing else", func(w *world) {
		w.sweepAll()
		user, app := w.person(), w.app()
		g, r := w.live(user, app)
		const made = 60
		for i := range made {
			w.ok(w.s.PutPending(w.ctx, fmt.Sprint("all", i), "authorize", []byte("x"), w.now))
			c := w.guestCode(app)
			w.must(oauth.EventCodeIssued, w.issueGuest(c))
			w.granted(user, app)
		}
		events := w.count("SELECT COUNT(*) FROM events")
		now := w.now.Add(time.Hour)
		total := make([]int, racers)
		w.race(func(i int, _ oauth.Event) (bool, error) {
			for {
				n, err := w.s.Sweep(w.ctx, now, oauth.EventsKept, 7)
				if total[i] += n; err != nil || n == 0 {
					return err == nil, err
				}
			}
		})
		sum := 0
		for _, n := range total {
			sum += n
		}
		// The code of the live grant, and of each round a request, a guest's code with its
		// event, and a code with its grant.
		w.same("removed", sum, 1+5*made)
		w.same("events", w.count("SELECT COUNT(*) FROM events"), events-made)
		w.same("codes", w.count("SELECT COUNT(*) FROM authorization_codes"), 0)
		w.same("pending grants", w.count("SELECT COUNT(*) FROM grants WHERE status = 'pending'"), 0)
		w.same("family", w.family(r.Family.ID).Status, oauth.Valid)
		w.same("grant", w.grant(g.ID).Status, oauth.Live)
	})
}

// ended proves that what lasts long ends, too, and what hangs off it.
func ended(w *world) {
	day := 24 * time.Hour
	const kept = 40 * 24 * time.Hour
	sweep := func(w *world, at time.Time) {
		w.t.Helper()
		for range 1000 {
			n, err := w.s.Sweep(w.ctx, at, kept, 2)
			w.ok(err)
			if n == 0 {
				return
			}
		}
		w.t.Fatal("the sweep finds no end")
	}
	there := func(w *world, table, id string) bool {
		w.t.Helper()
		return w.count("SELECT COUNT(*) FROM "+table+" WHERE id = $1", id) == 1
	}
	chain := func(w *world, r oauth.Redemption) bool {
		w.t.Helper()
		return w.count("SELECT COUNT(*) FROM refresh_tokens WHERE family = $1", r.Family.ID) > 0
	}
	refreshing := func(w *world, standard bool) (oauth.Grant, oauth.Redemption) {
		w.t.Helper()
		d := w.decision(w.person(), w.app(), w.store("ended"))
		d.Grant.Default, d.Connecting = standard, nil
		w.must(oauth.EventGrantMade, w.record(d))
		r := w.redemption(d.Grant, d.Code)
		r.Family.Due = r.Refresh.IdleUntil
		w.must(oauth.EventCodeRedeemed, w.redeem(r))
		return d.Grant, r
	}
	w.test("a chain that is idle goes after a day, with its family and a grant that nobody comes back to", func(w *world) {
		g, r := refreshing(w, false)
		def, other := refreshing(w, true)
		late := w.decision(w.person(), w.app()) // a code that is out is that of its grant alone
		late.Code.Expires = r.Refresh.IdleUntil.Add(10 * day)
		w.must(oauth.EventGrantMade, w.record(late))
		idle := r.Refresh.IdleUntil
		sweep(w, idle.Add(day))
		w.same("family, on its last day", there(w, "families", r.Family.ID), true)
		sweep(w, idle.Add(day+time.Microsecond))
		w.same("family", there(w, "families", r.Family.ID), false)
		w.same("chain", chain(w, r), false)
		w.same("grant", there(w, "grants", g.ID), false)
		w.same("its stores", w.count("SELECT COUNT(*) FROM grant_stores WHERE grant_id = $1", g.ID), 0)
		w.same("the default's family", there(w, "families", other.Family.ID), false)
		w.same("the default grant", w.grant(def.ID).Status, oauth.Live)
		w.same("its stores", w.count("SELECT COUNT(*) FROM grant_stores WHERE grant_id = $1", def.ID), 1)
	})
	w.test("a chain in use is put off, and ends when it is idle", func(w *world) {
		g, r := refreshing(w, false)
		use := w.rotation(g, r.Refresh)
		use.Now = r.Refresh.IdleUntil.Add(-time.Hour)
		use.IdleUntil = use.Now.Add(30 * day)
		w.must(oauth.EventTokenRefreshed, w.rotate(use))
		_, dead := refreshing(w, false)
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, dead.Family.ID, e) })
		other, code := w.granted(w.person(), w.app())
		longer := w.redemption(other, code)
		longer.Refresh.IdleUntil = longer.Refresh.AbsoluteUntil
		w.must(oauth.EventCodeRedeemed, w.redeem(longer))
		_, err := w.s.Sweep(w.ctx, r.Refresh.IdleUntil.Add(2*day), kept, 1000) // both in one event
		w.ok(err)
		w.same("a chain that was revoked", chain(w, dead), false)
		w.same("chain in use", chain(w, r), true)
		w.same("family", w.family(r.Family.ID).Due, use.IdleUntil)
		sweep(w, use.IdleUntil.Add(day))
		w.same("on its last day", there(w, "families", r.Family.ID), true)
		sweep(w, use.IdleUntil.Add(day+time.Microsecond))
		w.same("chain", chain(w, r), false)
		w.same("grant", there(w, "grants", g.ID), false)
	})
	w.test("a chain at its absolute limit goes, however lately it was used", func(w *world) {
		g, r := refreshing(w, true)
		use := w.rotation(g, r.Refresh)
		use.Now = r.Refresh.AbsoluteUntil.Add(-time.Hour)
		use.IdleUntil = use.Now.Add(30 * day)
		for late := r.Refresh.IdleUntil; late.Before(use.Now); late = late.Add(20 * day) { // used all the time
			step := use
			step.Now, step.IdleUntil, step.Successor = late.Add(-time.Hour), late.Add(30*day), nil
			w.must(oauth.EventTokenRefreshed, w.rotate(step))
		}
		w.must(oauth.EventTokenRefreshed, w.rotate(use))
		sweep(w, r.Refresh.AbsoluteUntil.Add(day))
		w.same("on its last day", chain(w, r), true)
		sweep(w, r.Refresh.AbsoluteUntil.Add(day+time.Microsecond))
		w.same("chain", chain(w, r), false)
	})
	w.test("a revoked family goes after a day, a revoked grant when events of its time do", func(w *world) {
		g, r := w.live(w.person(), w.app())
		_, alive := w.live(w.person(), w.app())
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })
		one, single := w.live(w.person(), w.app())
		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, single.Family.ID, e) })
		sweep(w, w.now.Add(day))
		w.same("family", w.family(r.Family.ID).Status, oauth.Invalid)
		sweep(w, w.now.Add(day+time.Microsecond))
		for _, f := range []oauth.Redemption{r, single} {
			w.same("family", there(w, "families", f.Family.ID), false)
			w.same("chain", chain(w, f), false)
		}
		w.same("the grant of a single key", there(w, "grants", one.ID), false)
		sweep(w, w.now.Add(kept))
		w.same("revoked grant", w.grant(g.ID).Status, oauth.GrantIsRevoked)
		sweep(w, w.now.Add(kept+time.Microsecond))
		w.same("revoked grant, later", there(w, "grants", g.ID), false)
		w.same("a lasting key", w.family(alive.Family.ID).Status, oauth.Valid)
		sweep(w, w.now.Add(100*kept))
		w.same("a lasting key, for ever", w.family(alive.Family.ID).Status, oauth.Valid)
	})
	w.test("a guest goes with his last key, and not before", func(w *world) {
		app := w.app()
		guest := func() oauth.Redemption {
			c := w.guestCode(app)
			w.must(oauth.EventCodeIssued, w.issueGuest(c))
			r := w.guestRedemption(c)
			r.Family.Due = r.Refresh.IdleUntil
			w.must(oauth.EventCodeRedeemed, w.redeem(r))
			return r
		}
		first, second, third := guest(), guest(), guest()
		d := w.decision(third.Guest.UserID, app)
		w.must(oauth.EventGrantMade, w.record(d))
		w.must(oauth.EventCodeRedeemed, w.redeem(w.redemption(d.Grant, d.Code))) // a lasting key
		// The second one's family goes on with another chain.
		c := w.guestCode(app)
		c.GrantID, c.FamilyID = second.Guest.ID, second.Family.ID
		w.must(oauth.EventCodeIssued, w.issueGuest(c))
		more := oauth.Redemption{Selector: c.Selector, ClientID: app, GrantID: second.Guest.ID, Rev: 1, Family: second.Family, Continue: true, Refresh: w.refreshOf(second.Family.ID), Now: w.now}
		more.Refresh.IdleUntil = second.Refresh.IdleUntil.Add(10 * day)
		w.must(oauth.EventCodeRedeemed, w.redeem(more))
		sweep(w, first.Refresh.IdleUntil.Add(2*day))
		w.same("first guest", there(w, "users", first.Guest.UserID), false)
		w.same("his grant", there(w, "grants", first.Guest.ID), false)
		w.same("second guest", there(w, "users", second.Guest.UserID), true)
		w.same("the third one's first grant", there(w, "grants", third.Guest.ID), false)
		w.same("third guest, who has another", there(w, "users", third.Guest.UserID), true)
		w.same("his chains", w.count("SELECT COUNT(*) FROM refresh_tokens WHERE family = $1", second.Family.ID), 1)
		sweep(w, more.Refresh.IdleUntil.Add(day+time.Microsecond))
		w.same("second guest, later", there(w, "users", second.Guest.UserID), false)
		w.same("his chains, later", chain(w, second), false)
	})
	w.test("a grant that is used again meanwhile stays", func(w *world) {
		user, store := w.person(), w.store("again")
		w.member(user, store)
		out := func() (oauth.Grant, oauth.StoredCode) {
			g, r := w.live(user, w.app(), store)
			code := w.code(&g)
			code.Expires = w.now.Add(10 * day)
			w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, r.Family.ID, e) })
			w.must(oauth.EventCodeIssued, w.record(oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now}))
			return g, code
		}
		g, code := out()
		unused, _ := out()
		sweep(w, w.now.Add(2*day))
		w.same("with a code out", *w.grant(g.ID), g)
		again := w.redemption(g, code)
		w.must(oauth.EventCodeRedeemed, w.redeem(again))
		sweep(w, w.now.Add(2*kept))
		w.same("with a key", *w.grant(g.ID), g)
		w.same("the key", w.family(again.Family.ID).Status, oauth.Valid)
		w.same("one whose code nobody redeemed", there(w, "grants", unused.ID), false)
		w.same("its stores", w.count("SELECT COUNT(*) FROM grant_stores WHERE grant_id = $1", unused.ID), 0)
	})
	w.test("events go when they are older than what is kept, the oldest first", func(w *world) {
		start, _, err := w.s.Head(w.ctx)
		w.ok(err)
		later := *w
		later.now = w.now.Add(10 * day)
		for range 5 {
			w.ok(w.s.NoteEvent(w.ctx, w.event(oauth.EventSignedIn)))
		}
		w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: "kept", Status: oauth.Active}, later.event(oauth.EventStorePut)))
		fresh := later.event(oauth.EventSignedIn)
		w.ok(w.s.NoteEvent(w.ctx, fresh))
		old := w.count("SELECT COUNT(*) FROM events") - 2
		n, err := w.s.Sweep(w.ctx, w.now.Add(kept), kept, old)
		w.ok(err)
		if left := w.count("SELECT COUNT(*) FROM events"); left != old+2 {
			w.t.Errorf("%d of %d events gone at the end of what is kept, %d rows in all", old+2-left, old, n)
		}
		_, err = w.s.Sweep(w.ctx, later.now.Add(kept), kept, 3)
		w.ok(err)
		w.same("events, three of them gone", w.count("SELECT COUNT(*) FROM events"), old-1)
		sweep(w, later.now.Add(kept))
		w.same("events", w.count("SELECT COUNT(*) FROM events"), 2)
		feed, err := w.s.FeedAfter(w.ctx, start, 10)
		w.ok(err)
		w.same("feed", len(feed), 1)
		sweep(w, later.now.Add(kept+time.Microsecond))
		w.same("all", w.count("SELECT COUNT(*) FROM events"), 0)
		_, _, err = w.s.Head(w.ctx)
		w.ok(err)
	})
}
