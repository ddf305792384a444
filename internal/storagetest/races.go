package storagetest

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/grantway/grantway/internal/oauth"
)

const racers = 8

// race runs f from several goroutines at once and counts who won. Losers must lose
// without an error.
func (w *world) race(f func(racer int, e oauth.Event) (bool, error)) (won, lost int) {
	w.t.Helper()
	var wins, losses atomic.Int64
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range racers {
		e := w.event("race")
		all.Go(func() {
			<-begin
			ok, err := f(i, e)
			switch {
			case err != nil:
				w.t.Errorf("a racer met an error: %v", err)
			case ok:
				wins.Add(1)
			default:
				losses.Add(1)
			}
		})
	}
	close(begin)
	all.Wait()
	return int(wins.Load()), int(losses.Load())
}

// one demands exactly one winner.
func (w *world) one(what string, f func(racer int, e oauth.Event) (bool, error)) {
	w.t.Helper()
	if won, lost := w.race(f); won != 1 || lost != racers-1 {
		w.t.Errorf("%s: %d won and %d lost, want 1 and %d", what, won, lost, racers-1)
	}
}

// rounds is n on SQLite and half of it on PostgreSQL, where they cost more, if the whole
// suite was asked for. A tenth of it is enough through PgBouncer, which decides nothing, and
// for the race detector, which sees at once what two goroutines share: make test runs the
// suite with it and without.
func (w *world) rounds(n int) int {
	switch {
	case !All() || Racing || w.pooled:
		return n / 10
	case w.pg:
		return n / 2
	}
	return n
}

// races proves that of several who want the same at once exactly one gets it.
func races(w *world) {
	w.test("200 codes, each wanted by 8", func(w *world) {
		user, app := w.person(), w.app()
		for range w.rounds(200) {
			g, code := w.granted(user, app)
			records := make([]oauth.Redemption, racers)
			for i := range records {
				records[i] = w.redemption(g, code)
			}
			w.one("a code", func(i int, e oauth.Event) (bool, error) {
				r := records[i]
				r.Event = e
				return w.redeems(r)
			})
			if n := w.count("SELECT COUNT(*) FROM families WHERE grant_id = $1", g.ID); n != 1 {
				w.t.Errorf("%d families of one code", n)
			}
			if n := w.count("SELECT COUNT(*) FROM refresh_tokens t JOIN families f ON f.id = t.family WHERE f.grant_id = $1", g.ID); n != 1 {
				w.t.Errorf("%d refresh tokens of one code", n)
			}
		}
	})
	w.test("100 refresh tokens, each used by 8", func(w *world) {
		user, app := w.person(), w.app()
		for range w.rounds(100) {
			g, r := w.live(user, app)
			next := w.rotation(g, r.Refresh)
			w.one("a refresh token", func(_ int, e oauth.Event) (bool, error) {
				mine := next
				mine.Event = e
				return w.rotates(mine)
			})
			if n := w.count("SELECT COUNT(*) FROM refresh_tokens WHERE family = $1 AND hash = $2 AND previous = $3", r.Family.ID, []byte(next.Successor), []byte(next.Presented)); n != 1 {
				w.t.Errorf("%d chains that were rotated once", n)
			}
		}
	})
	w.test("one default grant of a user and an app", func(w *world) {
		for range w.rounds(50) {
			user, app := w.person(), w.app()
			records := make([]oauth.DecisionRecord, racers)
			for i := range records {
				records[i] = w.decision(user, app)
				records[i].Grant.Default = true
			}
			w.one("a default grant", func(i int, e oauth.Event) (bool, error) { return w.record(records[i])(e) })
			if n := w.count("SELECT COUNT(*) FROM authorization_codes WHERE client_id = $1", app); n != 1 {
				w.t.Errorf("%d codes of one decision", n)
			}
		}
	})
	w.test("a code is redeemed or taken back", func(w *world) {
		user, app := w.person(), w.app()
		for n := range w.rounds(200) {
			g, code := w.granted(user, app)
			r := w.redemption(g, code)
			r.Event = w.event(oauth.EventCodeRedeemed)
			denied := w.event(oauth.EventConsentDenied)
			var redeemed, declined bool
			redeem := func() (err error) { redeemed, err = w.redeems(r); return err }
			deny := func() (err error) {
				declined, err = w.s.NoteDenial(w.ctx, oauth.Allowance{}, code.Request, denied)
				return err
			}
			first, second := redeem, deny
			if n%2 == 0 {
				first, second = deny, redeem
			}
			if n%4 < 2 {
				w.ok(first())
				w.ok(second())
				if declined != (n%2 == 0) {
					w.t.Errorf("one after the other: redeemed %v, declined %v", redeemed, declined)
				}
			} else {
				var both sync.WaitGroup
				for _, run := range []func() error{first, second} {
					both.Go(func() {
						if err := run(); err != nil {
							w.t.Error(err)
						}
					})
				}
				both.Wait()
			}
			if redeemed == declined {
				w.t.Errorf("redeemed %v, declined %v: want one of the two", redeemed, declined)
			}
			keys := w.count("SELECT COUNT(*) FROM families WHERE grant_id = $1", g.ID)
			denials := w.count("SELECT COUNT(*) FROM events WHERE id = $1", denied.ID)
			if (keys == 1) != redeemed || (denials == 1) != declined {
				w.t.Errorf("redeemed %v, declined %v; %d keys and %d denials", redeemed, declined, keys, denials)
			}
		}
	})
	w.test("one edit of a grant at one rev", func(w *world) {
		user, app := w.person(), w.app()
		for range w.rounds(50) {
			g, _ := w.live(user, app)
			w.one("an edit", func(_ int, e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, g.Rev, nil, e) })
		}
	})
	w.test("one second secret, one app of an id, one key of a use", func(w *world) {
		for range w.rounds(50) {
			app := w.app()
			w.one("a second secret", func(_ int, e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, app, w.secret(), e) })
			fresh := make([]*oauth.Client, racers)
			for i := range fresh {
				fresh[i] = w.newApp()
				fresh[i].ID = fresh[0].ID
			}
			w.one("an id", func(i int, e oauth.Event) (bool, error) { return w.create(fresh[i])(e) })
			if n := w.count("SELECT COUNT(*) FROM client_secrets WHERE client_id = $1", fresh[0].ID); n != 1 {
				w.t.Errorf("%d secrets of a new app", n)
			}
		}
		use := oauth.KeyUse(w.id("use"))
		kids := make([]string, racers)
		for i := range kids {
			kids[i] = w.id("kid")
		}
		w.one("a signing key", func(i int, e oauth.Event) (bool, error) {
			return w.s.AddSigningKey(w.ctx, oauth.StoredKey{Kid: kids[i], Alg: "ES256", Use: use, Sealed: []byte{1}, Public: []byte{2}, Status: oauth.Active, Created: w.now}, e)
		})
	})
	w.test("the feed has no gap and no twin", func(w *world) {
		before, _, err := w.s.Head(w.ctx)
		w.ok(err)
		user, app := w.person(), w.app()
		start, _, err := w.s.Head(w.ctx)
		w.ok(err)
		const grants = 5
		var list [grants]oauth.Grant
		for i := range list {
			list[i], _ = w.live(user, app)
		}
		won, _ := w.race(func(i int, e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, list[i%grants].ID, e) })
		if won != grants {
			w.t.Errorf("%d of %d grants revoked", won, grants)
		}
		follow, err := w.s.FeedAfter(w.ctx, start, 100)
		w.ok(err)
		for i, e := range follow {
			if e.Seq != start+int64(i)+1 {
				w.t.Errorf("event %d of the feed has the sequence %d; it began after %d", i, e.Seq, start)
			}
		}
		if len(follow) != grants || start <= before {
			w.t.Errorf("%d events in the feed, want %d", len(follow), grants)
		}
	})
}

// met counts how an event came out that met the end of what it rests on.
type met struct{ won, lost atomic.Int64 }

// ends proves that nothing outlives the end of its grant, in whatever order the
// end and an issuing event meet: 10,000 times (DESIGN, tests, 2); see [world.rounds].
func ends(w *world) {
	w.test("a user suspended while a redemption waits is not missed", func(w *world) {
		user, app := w.person(), w.app()
		g, code := w.granted(user, app)
		r := w.redemption(g, code)
		r.Event = w.event(oauth.EventCodeRedeemed)
		commit := w.suspending(user)
		won := w.waits("the redemption", func() (bool, error) { return w.redeems(r) })
		commit()
		if won() {
			w.t.Error("the code was redeemed for a user who was suspended before")
		}
	})
	w.test("a user suspended while a grant is being made is not missed", func(w *world) {
		user, app := w.person(), w.app()
		d := w.decision(user, app)
		d.Event = w.event(oauth.EventGrantMade)
		commit := w.suspending(user)
		won := w.waits("the decision", func() (bool, error) { return w.s.RecordDecision(w.ctx, d) })
		commit()
		if won() {
			w.t.Error("a grant was made for a user who was suspended before")
		}
	})
	w.test("a redemption that a denial waited for is not missed", func(w *world) {
		g, code := w.granted(w.person(), w.app())
		e := w.event(oauth.EventConsentDenied)
		commit := w.uncommitted(g.ID, []string{"SELECT id FROM grants WHERE id = $1"},
			"UPDATE authorization_codes SET redeemed_family = 'family', redeemed_at = 1 WHERE grant_id = $1", "UPDATE grants SET status = 'live' WHERE id = $1")
		won := w.waits("the denial", func() (bool, error) { return w.s.NoteDenial(w.ctx, oauth.Allowance{}, code.Request, e) })
		commit()
		if won() {
			w.t.Error("a request was declined whose code was redeemed before")
		}
		if n := w.count("SELECT COUNT(*) FROM authorization_codes WHERE selector = $1", code.Selector); n != 1 {
			w.t.Error("the redeemed code is gone")
		}
	})
	w.test("a key that is redeemed beside its app's deletion ends, though the rule goes", func(w *world) {
		const apps = 64
		var all sync.WaitGroup
		var taken atomic.Int64
		gone := make([]string, apps)
		for n := range apps {
			app := w.app()
			gone[n] = app
			g, code := w.granted(w.person(), app)
			r := w.redemption(g, code)
			r.Event = w.event(oauth.EventCodeRedeemed)
			deleted := w.event(oauth.EventClientDeleted)
			// Left to themselves, the same one comes first on each engine nearly always. So one
			// waits until the other begins, or has done it: then the rule goes beside him.
			redeeming, redeemed, deleting, isDeleted := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
			all.Go(func() {
				switch n % 4 {
				case 0:
					<-deleting
				case 1:
					<-isDeleted
				}
				close(redeeming)
				won, err := w.redeems(r)
				close(redeemed)
				switch {
				case err != nil:
					w.t.Error(err)
				case won && n%4 == 1, !won && n%4 == 3:
					w.t.Errorf("redeemed %v, though the app's deletion came %s", won, map[bool]string{true: "before", false: "after"}[won])
				case won:
					taken.Add(1)
				}
			})
			all.Go(func() {
				switch n % 4 {
				case 2:
					<-redeeming
				case 3:
					<-redeemed
				}
				close(deleting)
				won, err := w.s.SetClientStatus(w.ctx, app, oauth.Deleted, deleted)
				close(isDeleted)
				if err != nil || !won {
					w.t.Errorf("deleting: won %v, error %v", won, err)
				}
				for left := true; left; {
					list, err := w.s.Foldings(w.ctx)
					if err != nil {
						w.t.Error(err)
						return
					}
					left = false
					for _, f := range list {
						if f.Subject == app {
							left = true
							if _, err := w.s.FoldRule(w.ctx, f, 10, w.event(oauth.EventRuleFolded)); err != nil {
								w.t.Error(err)
								return
							}
						}
					}
				}
			})
			if n%8 == 7 {
				all.Wait()
			}
		}
		all.Wait()
		w.t.Logf("%d of %d redemptions came first", taken.Load(), apps)
		rules, err := w.s.Rules(w.ctx)
		w.ok(err)
		for _, r := range rules {
			if slices.Contains(gone, r.Subject) {
				w.t.Errorf("the rule about %s is left", r.Subject)
			}
		}
		for _, app := range gone {
			w.same("keys that live", w.count("SELECT COUNT(*) FROM families WHERE client_id = $1 AND status <> 'invalid'", app), 0)
		}
	})
	w.test("nobody's grant is taken up beside the end of what it rests on", func(w *world) {
		// How the two meet: the end comes beside both events of the grant, beside the
		// redemption, beside its write alone, or, for sure, after or before that write.
		// Chance decides the first three; the last two hold both orders for every kind.
		const (
			besideBoth = iota
			besideRedemption
			besideWrite
			afterWrite
			beforeWrite
			meetings
		)
		const kinds, ends, times, atOnce = 3, 2, 8, 16
		app, store := w.app(), w.store("a")
		var all sync.WaitGroup
		var taken [meetings]atomic.Int64
		for n := range kinds * ends * meetings * times {
			kind, end, meeting := n%kinds, n/kinds%ends, n/kinds/ends%meetings
			user := w.person()
			w.member(user, store)
			d := w.decision(user, app, store)
			switch kind {
			case 1: // on whatever stores there are when the key is made
				d = w.decision(user, app)
				d.Grant.AllStores = true
			case 2: // there already, without the store
				g, _ := w.granted(user, app)
				g.Stores = []oauth.GrantStore{{StoreID: store}}
				d = oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: g.Rev, Connecting: []string{store}, Code: w.code(&g), Now: w.now}
			}
			d.Event = w.event(oauth.EventGrantMade)
			redeemed, ended := w.event(oauth.EventCodeRedeemed), w.event(oauth.EventMembershipDropped)
			decided, read, written, isEnded := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
			all.Go(func() {
				defer close(written)
				won, err := w.s.RecordDecision(w.ctx, d)
				close(decided)
				if err != nil {
					w.t.Error(err)
				}
				var st *oauth.Standing
				if won {
					_, st, err = w.s.Code(w.ctx, d.Code.Selector)
				}
				close(read)
				if err != nil {
					w.t.Error(err)
				}
				if !won || err != nil || len(st.Members) == 0 {
					return // he has lost it, and is told so
				}
				if meeting == beforeWrite {
					<-isEnded
				}
				r := w.redemption(d.Grant, d.Code)
				r.Rev, r.ISeq, r.Family.Rev, r.Family.ISeq = st.Grant.Rev, st.Seq, st.Grant.Rev, st.Seq
				r.Event = redeemed
				if won, err = w.redeems(r); err != nil {
					w.t.Error(err)
				} else if won {
					taken[meeting].Add(1)
				}
			})
			all.Go(func() {
				defer close(isEnded)
				switch meeting {
				case besideRedemption:
					<-decided
				case besideWrite, beforeWrite:
					<-read
				case afterWrite:
					<-written
				}
				var err error
				if end == 0 {
					_, err = w.s.DropMembership(w.ctx, user, store, ended)
				} else {
					ended.Kind = oauth.EventUserSuspended
					_, err = w.s.SetUserStatus(w.ctx, user, oauth.Suspended, ended)
				}
				if err != nil {
					w.t.Error(err)
				}
			})
			if n%atOnce == atOnce-1 {
				all.Wait()
			}
		}
		all.Wait()
		const each = kinds * ends * times
		w.t.Logf("of %d each, taken up beside both %d, beside the redemption %d, beside its write %d", each,
			taken[besideBoth].Load(), taken[besideRedemption].Load(), taken[besideWrite].Load())
		w.same("taken up before the end", taken[afterWrite].Load(), int64(each))
		w.same("taken up after the end", taken[beforeWrite].Load(), int64(0))
		if n := w.count(`SELECT COUNT(*) FROM families f JOIN users u ON u.id = f.user_id JOIN grants g ON g.id = f.grant_id WHERE f.client_id = $1
			AND (u.status = 'suspended' OR f.rev <> g.rev) AND f.status_index NOT IN (SELECT status_index FROM status_changes WHERE value <> 0)`, app); n != 0 {
			w.t.Errorf("%d keys are valid of users who are suspended, or have lost the store", n)
		}
		if n := w.count(`SELECT COUNT(*) FROM families f JOIN grants g ON g.id = f.grant_id WHERE f.client_id = $1 AND f.rev = g.rev
			AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = f.user_id)`, app); n != 0 {
			w.t.Errorf("%d keys print a store that their user had lost before", n)
		}
	})
	// Last: it leaves many rows, and each test reads them all.
	w.test("RevokeGrant against RedeemCode and RotateRefreshToken", func(w *world) {
		user, app := w.person(), w.app()
		const workers = 16
		var left atomic.Int64
		left.Store(int64(w.rounds(10_000)))
		var redeemed, rotated met
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for n := left.Add(-1); n >= 0; n = left.Add(-1) {
					w.revokeAgainst(user, app, n, &redeemed, &rotated)
				}
			})
		}
		all.Wait()
		for what, m := range map[string]*met{"redemptions": &redeemed, "rotations": &rotated} {
			w.t.Logf("%s before the end: %d, refused after it: %d", what, m.won.Load(), m.lost.Load())
		}
		if n := w.count("SELECT COUNT(*) FROM families f JOIN grants g ON g.id = f.grant_id WHERE g.status = 'revoked' AND f.status <> 'invalid'"); n != 0 {
			w.t.Errorf("%d families are alive under a revoked grant", n)
		}
		if n := w.count(`SELECT COUNT(*) FROM families f JOIN grants g ON g.id = f.grant_id WHERE g.status = 'revoked' AND f.status_index NOT IN
			(SELECT status_index FROM status_changes WHERE value = 1)`); n != 0 {
			w.t.Errorf("%d families under a revoked grant have a valid bit", n)
		}
		if n := w.count("SELECT COUNT(*) FROM grants WHERE client_id = $1 AND status <> 'revoked'", app); n != 0 {
			w.t.Errorf("%d grants were not revoked", n)
		}
		// What was acknowledged is there: each redemption has its family and chain, also
		// those that came before a rotation, and each rotation the successor in the first
		// token's place.
		families := w.count("SELECT COUNT(*) FROM families WHERE client_id = $1", app)
		chains := w.count("SELECT COUNT(*) FROM refresh_tokens t JOIN families f ON f.id = t.family WHERE f.client_id = $1", app)
		successors := w.count("SELECT COUNT(*) FROM refresh_tokens t JOIN families f ON f.id = t.family WHERE f.client_id = $1 AND t.previous IS NOT NULL", app)
		if want := int(redeemed.won.Load() + rotated.won.Load() + rotated.lost.Load()); families != want {
			w.t.Errorf("%d families, %d redemptions were acknowledged", families, want)
		}
		if chains != families || successors != int(rotated.won.Load()) {
			w.t.Errorf("%d chains and %d successors; %d families and %d rotations were acknowledged", chains, successors, families, rotated.won.Load())
		}
	})
}

// suspending is a user's suspension as it stands just before its commit.
func (w *world) suspending(user string) (commit func()) {
	w.t.Helper()
	return w.uncommitted(user, []string{"SELECT id FROM users WHERE id = $1", "SELECT id FROM grants WHERE user_id = $1 ORDER BY id"},
		"UPDATE users SET status = 'suspended' WHERE id = $1")
}

// uncommitted is an event as it stands just before its commit, in a transaction of its
// own: what it locks and what it writes, each about id. What it returns commits it.
func (w *world) uncommitted(id string, locks []string, writes ...string) (commit func()) {
	w.t.Helper()
	conn, err := w.db.Conn(w.ctx)
	w.ok(err)
	exec := func(sql string, args ...any) {
		w.t.Helper()
		_, err := conn.ExecContext(w.ctx, sql, args...)
		w.ok(err)
	}
	if w.pg {
		exec("BEGIN")
		for _, lock := range locks {
			exec(lock+" FOR UPDATE", id)
		}
	} else {
		exec("BEGIN IMMEDIATE")
	}
	for _, write := range writes {
		exec(write, id)
	}
	return func() {
		exec("COMMIT")
		w.ok(conn.Close())
	}
}

// waits starts an event, and returns when it waits for a lock; on SQLite at once, where
// it cannot have begun. What it returns says whether the event won.
func (w *world) waits(what string, event func() (bool, error)) (won func() bool) {
	w.t.Helper()
	done := make(chan bool, 1)
	go func() {
		won, err := event()
		if err != nil {
			w.t.Error(err)
		}
		done <- won
	}()
	for waiting := !w.pg; !waiting; {
		select {
		case won := <-done:
			w.t.Errorf("%s did not wait (won: %v)", what, won)
			done <- won
			waiting = true
		default:
			waiting = w.count("SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
		}
	}
	return func() bool { return <-done }
}

// revokeAgainst lets the end of a grant and an issuing event meet: beside each other, as
// it comes, but in the last rounds for sure one after the other, so that both orders are
// there. It is round n of those that are left.
func (w *world) revokeAgainst(user, app string, n int64, redeemed, rotated *met) {
	const beside, endsFirst, endsLast, ordered = 0, 1, 2, 64
	d := w.decision(user, app)
	d.Event = w.event(oauth.EventGrantMade)
	if won, err := w.s.RecordDecision(w.ctx, d); err != nil || !won {
		w.t.Errorf("setting up: won %v, error %v", won, err)
		return
	}
	g, r := d.Grant, w.redemption(d.Grant, d.Code)
	r.Event = w.event(oauth.EventCodeRedeemed)
	issue, count := func() (bool, error) { return w.redeems(r) }, redeemed
	if n%2 == 0 {
		if won, err := w.redeems(r); err != nil || !won {
			w.t.Errorf("setting up: won %v, error %v", won, err)
			return
		}
		next := w.rotation(g, r.Refresh)
		next.Event = w.event(oauth.EventTokenRefreshed)
		issue, count = func() (bool, error) { return w.rotates(next) }, rotated
	}
	meeting := beside
	if n < ordered {
		meeting = endsFirst + int(n/2%2)
	}
	end := w.event(oauth.EventGrantRevoked)
	revoke := func() {
		if won, err := w.s.RevokeGrant(w.ctx, g.ID, end); err != nil || !won {
			w.t.Errorf("revoking: won %v, error %v", won, err)
		}
	}
	use := func() {
		won, err := issue()
		switch {
		case err != nil:
			w.t.Errorf("issuing: %v", err)
		case won && meeting == endsFirst, !won && meeting == endsLast:
			w.t.Errorf("issued %v, though the end came %s", won, map[bool]string{true: "before", false: "after"}[won])
		case won:
			count.won.Add(1)
		default:
			count.lost.Add(1)
		}
	}
	// Who is started last tends to run first.
	first, second := revoke, use
	if meeting == endsLast || meeting == beside && n%4 < 2 {
		first, second = use, revoke
	}
	if meeting != beside {
		first()
		second()
		return
	}
	var both sync.WaitGroup
	both.Go(first)
	both.Go(second)
	both.Wait()
}
