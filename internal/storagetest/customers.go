package storagetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func customers(w *world) {
	create := func(u *oauth.User) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.CreateUser(w.ctx, u, e) }
	}
	w.test("a user is kept as given, and the id taken once", func(w *world) {
		u := &oauth.User{ID: w.id("usr_"), Kind: oauth.Person, Name: "Ünï 😀", Email: "a@b.example", Operator: true, Status: oauth.Active, Created: w.now}
		w.wins(issue, oauth.EventUserCreated, create(u))
		got, err := w.s.User(w.ctx, u.ID)
		w.ok(err)
		w.same("user", got, u)
		w.loses("the same id", create(&oauth.User{ID: u.ID, Kind: oauth.Person, Name: "Other"}))
		_, err = w.s.User(w.ctx, "unknown")
		w.missing("User", err)
	})
	w.test("suspending a user leaves what his grants allow as it is", func(w *world) {
		user, app := w.person(), w.app()
		g, r := w.live(user, app)
		pending, _ := w.granted(user, app)
		ended, _ := w.live(user, app)
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, ended.ID, e) })
		other, _ := w.live(w.person(), app)
		set := func(to oauth.Status) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.SetUserStatus(w.ctx, user, to, e) }
		}
		w.loses("to the same state", set(oauth.Active))
		w.wins(feed, oauth.EventUserSuspended, set(oauth.Suspended))
		w.loses("again", set(oauth.Suspended))
		st, err := w.s.Standing(w.ctx, g.ID)
		w.ok(err)
		w.same("user", st.UserStatus, oauth.Suspended)
		w.same("live grant", [2]any{st.Grant.Rev, st.Grant.Status}, [2]any{int64(1), oauth.Live})
		w.same("pending grant", w.grant(pending.ID).Rev, int64(1))
		w.same("ended grant", w.grant(ended.ID).Rev, int64(1))
		w.same("another user's", w.grant(other.ID).Rev, int64(1))
		w.same("the key", w.family(r.Family.ID).Status, oauth.Valid)
		w.wins(feed, oauth.EventUserResumed, set(oauth.Active))
		w.same("live grant", w.grant(g.ID).Rev, int64(1))
		user = "unknown"
		w.loses("unknown", set(oauth.Suspended))
	})
	w.test("users are found by the start of id, name or e-mail, newest first", func(w *world) {
		made := map[string]string{}
		for i, u := range []oauth.User{
			{ID: "Find-1", Name: "Anna 100% Muster", Email: "first@x.example"},
			{ID: "find-2", Name: "ANNA_B", Email: "second@x.example"},
			{ID: "find-3", Name: "Élodie", Email: "ANNA@x.example"},
			{ID: "find-4", Name: `back\slash`, Email: "under_score@x.example"},
			{ID: "find-5", Name: "Hanna", Email: "x-anna@x.example"},
		} {
			u.Kind = oauth.Person
			made[u.ID] = u.Name
			w.must(oauth.EventUserCreated, func(e oauth.Event) (bool, error) {
				e.At = w.now.Add(time.Hour + time.Duration(i)*time.Microsecond)
				return w.s.CreateUser(w.ctx, &u, e)
			})
		}
		w.must(oauth.EventUserCreated, create(&oauth.User{ID: "find-guest", Kind: oauth.Guest}))
		find := func(query string, p oauth.Page) string {
			w.t.Helper()
			list, err := w.s.Users(w.ctx, query, p)
			w.ok(err)
			var ids []string
			for _, u := range list {
				ids = append(ids, u.ID)
			}
			return strings.Join(ids, " ")
		}
		all := oauth.Page{Limit: 100}
		for query, want := range map[string]string{
			"anna": "find-3 find-2 Find-1", "ANNA": "find-3 find-2 Find-1", "anna 100%": "Find-1", "100%": "Find-1", "00%": "", "anna%": "", "anna_": "find-2", "annaxb": "",
			"find-": "find-5 find-4 find-3 find-2 Find-1", "FIND-1": "Find-1", "Élo": "find-3", `back\`: "find-4", "under_": "find-4", "under-": "",
			"nothing": "", "'": "", "%": "", "_": "", `\`: "",
		} {
			w.same("query "+query, find(query, all), want)
		}
		w.same("a page", find("find-", oauth.Page{Offset: 1, Limit: 2}), "find-4 find-3")
		w.same("everybody", strings.HasPrefix(find("", all), "find-5 find-4 find-3 find-2 Find-1 "), true)
		if strings.Contains(find("", all), "guest") {
			w.t.Error("a guest is in the list")
		}
	})
	w.test("a store is kept as given, and changed in place", func(w *world) {
		s := &oauth.Store{ID: w.id("st_"), Name: "Shop 😀", Domain: "shop.example", Status: oauth.Active, Created: w.now}
		put := func(s oauth.Store) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return true, w.s.PutStore(w.ctx, &s, e) }
		}
		w.wins(feed, oauth.EventStorePut, put(*s))
		got, err := w.s.Store(w.ctx, s.ID)
		w.ok(err)
		w.same("store", got, s)
		next := oauth.Store{ID: s.ID, Name: "New", Status: oauth.Deleted, Created: s.Created}
		w.wins(feed, oauth.EventStoreRemoved, put(next))
		got, err = w.s.Store(w.ctx, s.ID)
		w.ok(err)
		w.same("store", got, &next)
		_, err = w.s.Store(w.ctx, "unknown")
		w.missing("Store", err)
	})
	w.test("stores are found by the start of id, name or domain, by name", func(w *world) {
		var names []string
		for _, s := range []oauth.Store{
			{ID: "Shop-1", Name: "Zebra", Domain: "Find.example"}, {ID: "shop-2", Name: "apple"}, {ID: "shop-3", Name: "Äpfel"}, {ID: "shop-4", Name: "Apple"},
			{ID: "shop-5", Name: "10"}, {ID: "shop-6", Name: "9"}, {ID: "shop-7", Name: "Apple"},
		} {
			s.Status = oauth.Active
			w.ok(w.s.PutStore(w.ctx, &s, w.event(oauth.EventStorePut)))
			names = append(names, s.Name+" "+s.ID)
		}
		slices.Sort(names)
		find := func(query string, p oauth.Page) (got []string) {
			w.t.Helper()
			list, err := w.s.Stores(w.ctx, query, p)
			w.ok(err)
			for _, s := range list {
				got = append(got, s.Name+" "+s.ID)
			}
			return got
		}
		all := oauth.Page{Limit: 100}
		w.same("by id", find("shop-", all), names)
		w.same("a page", find("SHOP-", oauth.Page{Offset: 1, Limit: 2}), names[1:3])
		w.same("by name", find("appl", all), []string{"Apple shop-4", "Apple shop-7", "apple shop-2"})
		w.same("by domain", find("fiND.", all), []string{"Zebra Shop-1"})
		w.same("by a capital that is not ASCII", find("Äpf", all), []string{"Äpfel shop-3"})
		w.same("all", slices.Contains(find("", all), "Zebra Shop-1"), true)
		w.same("percent", len(find("%", all)), 0)
	})
	w.test("a membership is kept as given and raises the rev of the user's grants in that store", func(w *world) {
		user, app := w.person(), w.app()
		b, a := w.store("b"), w.store("a")
		with := func(user string, stores ...string) oauth.Grant {
			d := w.decision(user, app, stores...)
			d.Connecting = nil // his membership comes later
			w.must(oauth.EventGrantMade, w.record(d))
			return d.Grant
		}
		g, elsewhere, ended := with(user, a, b), with(user), with(user, a)
		all := w.decision(user, app)
		all.Grant.AllStores = true
		w.must(oauth.EventGrantMade, w.record(all))
		w.must(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, ended.ID, e) })
		other := with(w.person(), a)
		set := func(m oauth.Membership) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.SetMembership(w.ctx, &m, e) }
		}
		list := func() []oauth.Membership {
			w.t.Helper()
			got, err := w.s.Memberships(w.ctx, user)
			w.ok(err)
			return got
		}
		w.same("at first", len(list()), 0)
		mb := oauth.Membership{UserID: user, StoreID: b, StoreName: "b", StoreStatus: oauth.Active, Owner: true}
		ma := oauth.Membership{UserID: user, StoreID: a, StoreName: "a", StoreStatus: oauth.Active, Scopes: oauth.Scopes("x", "y"), MayDelegate: true}
		w.wins(feed, oauth.EventMembershipSet, set(mb))
		w.wins(feed, oauth.EventMembershipSet, set(ma))
		w.same("by store name", list(), []oauth.Membership{ma, mb})
		ma.Scopes, ma.Owner, ma.MayDelegate = nil, true, false
		w.wins(feed, oauth.EventMembershipSet, set(ma))
		w.same("changed", list(), []oauth.Membership{ma, mb})
		one, err := w.s.Membership(w.ctx, user, a)
		w.ok(err)
		w.same("one", *one, ma)
		for _, of := range [][2]string{{user, "nowhere"}, {w.person(), a}} {
			if _, err := w.s.Membership(w.ctx, of[0], of[1]); !errors.Is(err, oauth.ErrNotFound) {
				w.t.Errorf("a membership of %v that there is not: %v", of, err)
			}
		}
		w.same("rev", w.grant(g.ID).Rev, int64(4))
		w.same("rev of a grant on all stores", w.grant(all.Grant.ID).Rev, int64(4))
		w.same("rev of an ended grant", w.grant(ended.ID).Rev, int64(1))
		w.same("rev of a grant elsewhere", w.grant(elsewhere.ID).Rev, int64(1))
		w.same("rev of another user's", w.grant(other.ID).Rev, int64(1))
		w.loses("unknown user", set(oauth.Membership{UserID: "nobody", StoreID: a}))
		w.loses("unknown store", set(oauth.Membership{UserID: user, StoreID: "nowhere"}))

		drop := func(store string) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, store, e) }
		}
		w.wins(feed, oauth.EventMembershipDropped, drop(a))
		w.same("what is left", list(), []oauth.Membership{mb})
		w.member(other.UserID, a) // in which another is a member
		w.same("rev", w.grant(g.ID).Rev, int64(5))
		w.loses("again", drop(a))
		w.loses("unknown", drop("nowhere"))
		w.same("rev", w.grant(g.ID).Rev, int64(5))
	})
}
