package storagetest

import (
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func codes(w *world) {
	w.test("redeeming keeps family and refresh token as given and makes the grant live", func(w *world) {
		for _, c := range []struct {
			narrowing oauth.ScopeSet
			status    oauth.FamilyStatus
			due       time.Time
			refresh   bool
			absolute  bool
		}{
			{nil, oauth.Valid, time.Time{}, true, true},
			{oauth.ScopeSet{}, oauth.Ask, w.now.Add(time.Hour), true, false},
			{oauth.Scopes("a", "b"), oauth.Valid, w.now.Add(time.Microsecond), false, false},
		} {
			g, code := w.granted(w.person(), w.app())
			r := w.redemption(g, code)
			r.Family.Narrowing, r.Family.Status, r.Family.Due = c.narrowing, c.status, c.due
			r.Family.Created = w.now.Add(7 * time.Microsecond)
			if !c.absolute {
				r.Refresh.AbsoluteUntil = time.Time{}
			}
			token := r.Refresh
			if !c.refresh {
				r.Refresh = nil
			}
			// One that is asked about from the first says so in the feed.
			w.wins(c.status == oauth.Ask, oauth.EventCodeRedeemed, w.redeem(r))

			g.Status = oauth.Live
			f, st, err := w.s.Family(w.ctx, r.Family.ID)
			w.ok(err)
			w.same("family", *f, r.Family)
			w.same("grant", st.Grant, g)
			code.RedeemedFamily, code.RedeemedAt = f.ID, r.Now
			got, _, err := w.s.Code(w.ctx, code.Selector)
			w.ok(err)
			w.same("code", *got, code)
			stored, f, st, err := w.s.Refresh(w.ctx, token.Selector)
			if !c.refresh {
				w.missing("refresh token", err)
				continue
			}
			w.ok(err)
			w.same("refresh token", stored, token)
			w.same("its family", *f, r.Family)
			w.same("its grant", st.Grant, g)
		}
	})
	w.test("a code is redeemed once, and never again under the winner's name", func(w *world) {
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
		w.loses("another family", w.redeem(w.redemption(g, code)))
		w.loses("the same family", w.redeem(r))
		unknown := w.redemption(g, code)
		unknown.Selector = "unknown"
		w.loses("unknown", w.redeem(unknown))
	})
	w.test("a code is over exactly at its deadline", func(w *world) {
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		for _, after := range []time.Duration{0, 1, time.Microsecond, time.Hour} {
			r.Now = code.Expires.Add(after)
			w.loses("after "+after.String(), w.redeem(r))
		}
		r.Now = code.Expires.Add(-time.Microsecond)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
	})
	w.test("an index that was allotted in an older epoch is good for nothing", func(w *world) {
		g, code := w.granted(w.person(), w.app())
		r := w.redemption(g, code)
		w.changed("UPDATE heads SET epoch = epoch + 1 WHERE name = 'feed'")
		w.loses("in the next epoch", w.redeem(r))
		w.changed("UPDATE heads SET epoch = epoch - 1 WHERE name = 'feed'")
		first := int64(w.count("SELECT epoch FROM heads WHERE name = 'feed'")) * listsMax * listSize
		r.Family.StatusIndex = first - 1
		w.loses("the last of the epoch before", w.redeem(r))
		r.Family.StatusIndex = first
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
	})
	w.test("redeeming loses when the world has changed", func(w *world) {
		event := func(kind oauth.Kind, run func(oauth.Event) (bool, error)) func() {
			return func() { w.must(kind, run) }
		}
		user, app := w.person(), w.app()
		store := w.store("a")
		g, code := w.granted(user, app)
		r := w.redemption(g, code)
		id := g.ID
		// rev is what the caller would read after the change.
		for why, change := range map[string]func(){
			"client suspended": func() { w.setApp(app, oauth.Suspended) },
			"client deleted":   func() { w.setApp(app, oauth.Deleted) },
			"user suspended":   func() { w.setUser(user, oauth.Suspended) },
			"grant suspended":  event(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, id, e) }),
			"grant revoked":    event(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, id, e) }),
		} {
			user, app = w.person(), w.app()
			g, code = w.granted(user, app)
			id = g.ID
			change()
			r = w.redemption(g, code)
			w.loses(why+", at the rev before", w.redeem(r))
			r.Rev = w.grant(id).Rev
			w.loses(why+", at the rev of now", w.redeem(r))
			r.Activate = false
			w.loses(why+", taken to be live", w.redeem(r))
		}
		for why, change := range map[string]func(){
			"grant edited": event(oauth.EventGrantEdited, func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, 1, nil, e) }),
			"membership set": event(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
				return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: store}, e)
			}),
			"membership dropped": event(oauth.EventMembershipDropped, func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, store, e) }),
		} {
			user, app = w.person(), w.app()
			w.member(user, store)
			g, code = w.granted(user, app, store)
			change()
			r = w.redemption(g, code)
			w.loses(why+", at the rev before", w.redeem(r))
			r.Rev = w.grant(g.ID).Rev
			w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
		}
		// What concerns no store of the grant is nothing to it: a platform that tells all
		// day who may do what keeps no code from being redeemed.
		user, app = w.person(), w.app()
		w.member(user, store)
		g, code = w.granted(user, app, store)
		r = w.redemption(g, code)
		w.member(user, w.store("another"))
		w.setUser(user, oauth.Suspended)
		w.setUser(user, oauth.Active)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
	})
	w.test("what every redemption asks, of whatever kind it is", func(w *world) {
		const guests, continued, chosen, keyed = 1, 2, 4, 8 // what a change is about, beside persons
		for why, c := range map[string]struct {
			of     int
			change func(*oauth.Redemption)
		}{
			"client suspended": {guests | continued, func(r *oauth.Redemption) { w.setApp(r.ClientID, oauth.Suspended) }},
			"client deleted":   {guests | continued, func(r *oauth.Redemption) { w.setApp(r.ClientID, oauth.Deleted) }},
			"user suspended":   {continued, func(r *oauth.Redemption) { w.setUser(r.Family.UserID, oauth.Suspended) }},
			"grant revoked": {continued, func(r *oauth.Redemption) {
				w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, r.GrantID, e) })
				if r.Continue {
					w.changed("UPDATE families SET status = 'valid' WHERE grant_id = $1", r.GrantID) // the grant alone is enough
				}
			}},
			"another rev":                       {continued, func(r *oauth.Redemption) { r.Rev++ }},
			"another grant":                     {continued, func(r *oauth.Redemption) { r.GrantID = "unknown" }},
			"over":                              {guests | continued, func(r *oauth.Redemption) { r.Now = w.now.Add(time.Minute) }},
			"unknown":                           {guests | continued, func(r *oauth.Redemption) { r.Selector = "unknown" }},
			"edited since its key was compared": {guests | continued | keyed, func(r *oauth.Redemption) { w.edited(r.ClientID) }},
			"an index of before":                {guests, func(r *oauth.Redemption) { r.Family.StatusIndex = 1 }},
			"nobody's secret":                   {guests | continued | chosen, func(r *oauth.Redemption) { r.Secret = w.hash() }},
			"another's secret": {guests | continued | chosen, func(r *oauth.Redemption) {
				other := w.newApp()
				w.must(oauth.EventClientCreated, w.create(other))
				r.Secret = other.Secrets[0].Hash
			}},
		} {
			for how, r := range w.ways() {
				if r.Guest != nil && c.of&guests == 0 || r.Continue && c.of&continued == 0 ||
					r.Secret == nil && c.of&chosen != 0 || r.ClientVersion == 0 && c.of&keyed != 0 {
					continue
				}
				c.change(&r)
				w.loses(why+", "+how, w.redeem(r))
			}
		}
		for how, r := range w.ways() {
			w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))
			w.loses("again, "+how, w.redeem(r))
		}
	})
	w.test("the secret that proved the client is asked for once more", func(w *world) {
		user, c := w.person(), w.newApp()
		w.must(oauth.EventClientCreated, w.create(c))
		g, code := w.granted(user, c.ID)
		r := w.redemption(g, code)
		r.Secret = w.hash()
		w.loses("a secret that is nobody's", w.redeem(r))
		other := w.newApp()
		w.must(oauth.EventClientCreated, w.create(other))
		r.Secret = other.Secrets[0].Hash
		w.loses("a secret of another client", w.redeem(r))
		second := w.secret()
		w.must(oauth.EventSecretAdded, func(e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, c.ID, second, e) })
		w.must(oauth.EventSecretRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeSecret(w.ctx, c.ID, c.Secrets[0].Hash, e) })
		r.Secret = c.Secrets[0].Hash
		w.loses("a revoked secret", w.redeem(r))
		r.Secret = second.Hash
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))

		g.Status = oauth.Live
		rotating := w.rotation(g, r.Refresh)
		rotating.ClientID, rotating.Secret = c.ID, c.Secrets[0].Hash
		using := rotating
		using.Successor = nil
		w.loses("using a token with a revoked secret", w.rotate(using))
		w.loses("rotating it", w.rotate(rotating))
		using.Secret, rotating.Secret = second.Hash, second.Hash
		using.IdleUntil = w.now.Add(time.Hour)
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(using))
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(rotating))
		repeating := rotating
		repeating.Again, repeating.Successor, repeating.Secret = true, nil, c.Secrets[0].Hash
		w.loses("repeating it", w.rotate(repeating))
		repeating.Secret = second.Hash
		w.wins(issue, oauth.EventTokenRefreshed, w.rotate(repeating))
	})
	w.test("a guest's code carries no grant; redeeming makes user, grant and family", func(w *world) {
		app := w.app()
		c := w.guestCode(app)
		w.wins(issue, oauth.EventCodeIssued, w.issueGuest(c))
		got, st, err := w.s.Code(w.ctx, c.Selector)
		w.ok(err)
		w.same("code", *got, c)
		if st != nil {
			w.t.Errorf("a guest's code has the standing %+v", st)
		}
		r := w.guestRedemption(c)
		r.Now = c.Expires
		w.loses("at its deadline", w.redeem(r))
		r.Now = w.now
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(r))

		f, st, err := w.s.Family(w.ctx, r.Family.ID)
		w.ok(err)
		w.same("family", *f, r.Family)
		want := oauth.Grant{ID: r.Guest.ID, UserID: r.Guest.UserID, ClientID: app, Account: r.Guest.Account, Status: oauth.Live, Rev: 1, Created: r.Now}
		w.same("grant", st.Grant, want)
		w.same("kind of user", st.UserKind, oauth.Guest)
		u, err := w.s.User(w.ctx, r.Guest.UserID)
		w.ok(err)
		w.same("user", u, &oauth.User{ID: r.Guest.UserID, Kind: oauth.Guest, Status: oauth.Active, Created: r.Now})
		_, _, _, err = w.s.Refresh(w.ctx, r.Refresh.Selector)
		w.ok(err)
		w.loses("again", w.redeem(w.guestRedemption(c)))

		for _, to := range []oauth.Status{oauth.Suspended, oauth.Deleted} {
			app := w.app()
			c := w.guestCode(app)
			w.must(oauth.EventCodeIssued, w.issueGuest(c))
			w.setApp(app, to)
			w.loses("redeeming, client "+string(to), w.redeem(w.guestRedemption(c)))
			w.loses("issuing, client "+string(to), w.issueGuest(w.guestCode(app)))
		}
		w.loses("issuing to an unknown client", w.issueGuest(w.guestCode("nobody")))

		keyed := w.newApp()
		w.must(oauth.EventClientCreated, w.create(keyed))
		proved := func(p oauth.Proof) func(oauth.Event) (bool, error) {
			c := w.guestCode(keyed.ID)
			return func(e oauth.Event) (bool, error) { return w.s.IssueGuestCode(w.ctx, &c, p, e) }
		}
		w.wins(issue, oauth.EventCodeIssued, proved(oauth.Proof{ClientVersion: 1}))
		w.edited(keyed.ID)
		w.loses("issuing to who was edited since its key was compared", proved(oauth.Proof{ClientVersion: 1}))
		w.wins(issue, oauth.EventCodeIssued, proved(oauth.Proof{ClientVersion: 2}))
		w.loses("issuing by nobody's secret", proved(oauth.Proof{Secret: w.hash()}))
		w.wins(issue, oauth.EventCodeIssued, proved(oauth.Proof{Secret: keyed.Secrets[0].Hash}))
	})
	w.test("a continued guest joins the family that is live", func(w *world) {
		app := w.app()
		first := w.guestCode(app)
		w.must(oauth.EventCodeIssued, w.issueGuest(first))
		r := w.guestRedemption(first)
		w.must(oauth.EventCodeRedeemed, w.redeem(r))

		c, late := w.guestCode(app), w.guestCode(app)
		c.FamilyID, late.FamilyID = r.Family.ID, r.Family.ID
		foreign := w.guestCode(w.app())
		foreign.FamilyID = r.Family.ID
		w.loses("a family of another client", w.issueGuest(foreign))
		unknown := w.guestCode(app)
		unknown.FamilyID = "unknown"
		w.loses("a family that is not there", w.issueGuest(unknown))
		w.wins(issue, oauth.EventCodeIssued, w.issueGuest(c))
		w.must(oauth.EventCodeIssued, w.issueGuest(late))
		got, _, err := w.s.Code(w.ctx, c.Selector)
		w.ok(err)
		w.same("code", *got, c)

		more := func(c oauth.StoredCode) oauth.Redemption {
			return oauth.Redemption{Selector: c.Selector, ClientID: app, GrantID: r.Guest.ID, Rev: 1, Family: r.Family, Continue: true,
				Refresh: w.refreshOf(r.Family.ID), Now: w.now}
		}
		next := more(c)
		w.wins(issue, oauth.EventCodeRedeemed, w.redeem(next))
		_, f, _, err := w.s.Refresh(w.ctx, next.Refresh.Selector)
		w.ok(err)
		w.same("family of the new token", *f, r.Family)
		w.same("families of the grant", w.count("SELECT COUNT(*) FROM families WHERE grant_id = $1", r.Guest.ID), 1)
		w.loses("again", w.redeem(more(c)))

		w.must(oauth.EventFamilyRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeFamily(w.ctx, r.Family.ID, e) })
		w.loses("redeeming for a dead family", w.redeem(more(late)))
		dead := w.guestCode(app)
		dead.FamilyID = r.Family.ID
		w.loses("issuing for a dead family", w.issueGuest(dead))
	})
	w.test("a replay revokes what is alive, and one that does not is noted once", func(w *world) {
		user, app := w.person(), w.app()
		g, r := w.live(user, app)
		_, other := w.live(user, app)
		replay := func(r oauth.Redemption, family string) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeReplayed(w.ctx, r.Selector, family, e) }
		}
		noted := func(r oauth.Redemption, family string) {
			w.t.Helper()
			before, _, err := w.s.Head(w.ctx)
			w.ok(err)
			e := w.event(oauth.EventCodeReplayed)
			won, err := replay(r, family)(e)
			w.ok(err)
			w.same(fmt.Sprintf("revoking %q", family), won, false)
			w.noted(issue, e, before)
		}
		w.wins(feed, oauth.EventCodeReplayed, replay(r, r.Family.ID))
		w.same("the family", w.family(r.Family.ID).Status, oauth.Invalid)
		w.same("the grant", w.grant(g.ID).Status, oauth.Live)
		w.same("another family", w.family(other.Family.ID).Status, oauth.Valid)
		noted(r, r.Family.ID)
		for _, family := range []string{r.Family.ID, "", "unknown"} {
			w.loses("another replay", replay(r, family))
		}
		noted(other, "")
		w.loses("another that revokes nothing", replay(other, ""))
		w.wins(feed, oauth.EventCodeReplayed, replay(other, other.Family.ID))
		w.loses("another of what is dead", replay(other, other.Family.ID))
	})
	w.test("the end of a chain leaves its family, and the other chains of that", func(w *world) {
		app := w.app()
		g, first, second := w.continued(app)
		end := func(selector string) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.EndChain(w.ctx, selector, e) }
		}
		w.loses("a chain that is not there", end("unknown"))
		w.wins(issue, oauth.EventCodeReplayed, end(second.Refresh.Selector))
		w.loses("a chain that has ended", end(second.Refresh.Selector))
		over := w.rotation(g, second.Refresh)
		over.Now = time.UnixMicro(1) // by the clock of whoever is behind
		w.loses("using what has ended", w.rotate(over))
		chain, _, _, err := w.s.Refresh(w.ctx, second.Refresh.Selector)
		w.ok(err)
		w.same("its idle limit", chain.IdleUntil, time.Time{})
		w.same("the family", w.family(first.Family.ID).Status, oauth.Valid)
		w.same("the grant", w.grant(g.ID).Status, oauth.Live)
		w.must(oauth.EventTokenRefreshed, w.rotate(w.rotation(g, first.Refresh)))

		for _, limit := range []string{"idle_until", "absolute_until"} {
			_, _, idle := w.continued(app)
			w.changed("UPDATE refresh_tokens SET "+limit+" = $1 WHERE selector = $2", w.event("").At.UnixMicro(), idle.Refresh.Selector)
			w.loses("a chain that is over by "+limit, end(idle.Refresh.Selector))
		}
	})
	w.test("reads of what is not there", func(w *world) {
		_, _, err := w.s.Code(w.ctx, "unknown")
		w.missing("Code", err)
		_, err = w.s.CodeOfRequest(w.ctx, "unknown")
		w.missing("CodeOfRequest", err)
	})
}

// ways makes a redemption of each kind there is, each of an app of its own.
func (w *world) ways() map[string]oauth.Redemption {
	w.t.Helper()
	all := map[string]oauth.Redemption{}
	guest := func(app, family string) oauth.StoredCode {
		code := w.guestCode(app)
		code.FamilyID = family
		w.must(oauth.EventCodeIssued, w.issueGuest(code))
		return code
	}
	for _, proof := range []string{"", ", by secret", ", by key"} {
		for _, how := range []string{"of a person", "of a guest", "of a guest who continues"} {
			c := w.newApp()
			w.must(oauth.EventClientCreated, w.create(c))
			var r oauth.Redemption
			switch how {
			case "of a person":
				r = w.redemption(w.granted(w.person(), c.ID))
			case "of a guest":
				r = w.guestRedemption(guest(c.ID, ""))
			default:
				first := w.guestRedemption(guest(c.ID, ""))
				w.must(oauth.EventCodeRedeemed, w.redeem(first))
				r = oauth.Redemption{Selector: guest(c.ID, first.Family.ID).Selector, ClientID: c.ID, GrantID: first.Guest.ID, Rev: 1, ISeq: first.ISeq, Kid: "kid",
					Family: first.Family, Continue: true, Refresh: w.refreshOf(first.Family.ID), Now: w.now}
			}
			switch proof {
			case ", by secret":
				r.Secret = c.Secrets[0].Hash
			case ", by key":
				r.ClientVersion = 1
			}
			all[how+proof] = r
		}
	}
	return all
}

// continued makes a guest who was continued: his grant, and how either of the two chains
// of his family began.
func (w *world) continued(app string) (g oauth.Grant, first, second oauth.Redemption) {
	w.t.Helper()
	code := w.guestCode(app)
	w.must(oauth.EventCodeIssued, w.issueGuest(code))
	first = w.guestRedemption(code)
	w.must(oauth.EventCodeRedeemed, w.redeem(first))
	code = w.guestCode(app)
	code.GrantID, code.FamilyID = first.Guest.ID, first.Family.ID
	w.must(oauth.EventCodeIssued, w.issueGuest(code))
	second = oauth.Redemption{Selector: code.Selector, ClientID: app, GrantID: first.Guest.ID, Rev: 1, Family: first.Family, Continue: true,
		Refresh: w.refreshOf(first.Family.ID), Now: w.now}
	w.must(oauth.EventCodeRedeemed, w.redeem(second))
	return *first.Guest, first, second
}

func (w *world) guestCode(app string) oauth.StoredCode {
	c := w.code(&oauth.Grant{ClientID: app})
	c.Profile, c.Redirect, c.Nonce, c.AuthTime = "direct", "urn:ietf:wg:oauth:2.0:oob:auto", "", time.Time{}
	return c
}

func (w *world) issueGuest(c oauth.StoredCode) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) { return w.s.IssueGuestCode(w.ctx, &c, oauth.Proof{}, e) }
}

func (w *world) guestRedemption(c oauth.StoredCode) oauth.Redemption {
	g := oauth.Grant{ID: w.id("gr_"), UserID: w.id("guest_"), ClientID: c.ClientID, Account: oauth.Scopes("user.guest"), Status: oauth.Live, Rev: 1}
	r := w.redemption(g, c)
	r.GrantID, r.Rev, r.Guest = "", 0, &g
	return r
}
