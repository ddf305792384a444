package storagetest

import (
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/oauth"
)

// bystander is in every id of the bystanders.
const bystander = "-beside-"

// beside fills the database with what no test is about: of everything one whose id
// sorts before all that the tests make, and one behind it. What an event does to it
// although nobody asked for it is found by [world.test].
func (w *world) beside() {
	w.t.Helper()
	for _, at := range []string{"!" + bystander, "~" + bystander} {
		user, app, store := at+"user", at+"app", at+"store"
		w.must(oauth.EventUserCreated, func(e oauth.Event) (bool, error) {
			return w.s.CreateUser(w.ctx, &oauth.User{ID: user, Kind: oauth.Person, Name: at, Email: at, Status: oauth.Active}, e)
		})
		w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: store, Name: at, Domain: at, Status: oauth.Active}, w.event(oauth.EventStorePut)))
		w.member(user, store)
		c := w.newApp()
		c.ID, c.Owner, c.Name = app, user, at
		c.Redirects, c.Scopes = []oauth.RedirectURI{oauth.RedirectURI("https://" + at)}, []oauth.ClientScope{{Name: at}}
		c.Secrets = append(c.Secrets, w.secret())
		w.must(oauth.EventClientCreated, w.create(c))
		a := oauth.API{ID: at + "api", URI: "https://" + at, Status: oauth.Active, Secrets: []oauth.ClientSecret{w.secret(), w.secret()}}
		w.must(oauth.EventAPIPut, func(e oauth.Event) (bool, error) { return w.s.CreateAPI(w.ctx, &a, e) })
		k := oauth.StoredKey{Kid: at + "key", Alg: "ES256", Use: oauth.KeyUse(at), Sealed: []byte{1}, Public: []byte{2}, Status: oauth.Active, Created: w.now}
		w.must(oauth.EventKeyAdded, func(e oauth.Event) (bool, error) { return w.s.AddSigningKey(w.ctx, k, e) })

		for _, which := range []string{"pending", "of-one", "of-all", "on-hold"} {
			var stores []string
			if which != "of-all" {
				stores = []string{store}
			}
			d := w.decision(user, app, stores...)
			d.Grant.ID, d.Grant.AllStores = at+which, which == "of-all"
			d.Code = w.code(&d.Grant)
			d.Code.Selector, d.Code.Request = at+which, at+which
			w.must(oauth.EventGrantMade, w.record(d))
			if which == "pending" {
				continue
			}
			r := w.redemption(d.Grant, d.Code)
			r.Family.ID, r.Refresh.Selector, r.Refresh.Family = at+which, at+which, at+which
			w.must(oauth.EventCodeRedeemed, w.redeem(r))
			w.must(oauth.EventTokenRefreshed, w.rotate(w.rotation(d.Grant, r.Refresh)))
			if which == "on-hold" {
				w.must(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, d.Grant.ID, e) })
			}
		}
		w.wrong(at, 1, w.now)
		w.ok(w.s.PutPending(w.ctx, at, "authorize", []byte{1}, w.now.Add(time.Hour)))
		w.follow(oauth.Follower{API: a.ID, Instance: at, Epoch: 1, Seq: 1, Seen: w.now.Add(-100 * time.Hour), Node: at})
	}
}

// untouched demands, when what it returns is called, that nothing happened to the
// bystanders since.
func (w *world) untouched() func() {
	w.t.Helper()
	rows := func() []string {
		var list []string
		for table, all := range w.dump() {
			for _, row := range all {
				if strings.Contains(row, bystander) {
					list = append(list, table+": "+row)
				}
			}
		}
		slices.Sort(list)
		return list
	}
	before := rows()
	return func() {
		w.t.Helper()
		if d := cmp.Diff(before, rows()); d != "" {
			w.t.Errorf("what nobody asked for was changed (-before +after):\n%s", d)
		}
	}
}
