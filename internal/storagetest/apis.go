package storagetest

import (
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

func apis(w *world) {
	create := func(a oauth.API) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.CreateAPI(w.ctx, &a, e) }
	}
	w.test("an API is kept as given; its id and its URI are taken once", func(w *world) {
		a := oauth.API{ID: "api-1", URI: "https://api.example/", Issuer: "https://id.example", Name: "API 😀", Status: oauth.Active, Secrets: []oauth.ClientSecret{w.secret()}}
		w.wins(feed, oauth.EventAPIPut, create(a))
		bare := oauth.API{ID: "api-2", URI: "https://other.example/", Status: oauth.Active}
		w.wins(feed, oauth.EventAPIPut, create(bare))
		got, err := w.s.API(w.ctx, a.ID)
		w.ok(err)
		w.same("by id", *got, a)
		got, err = w.s.APIByURI(w.ctx, a.URI)
		w.ok(err)
		w.same("by URI", *got, a)
		list, err := w.s.APIs(w.ctx)
		w.ok(err)
		w.same("all", slices.DeleteFunc(list, func(a *oauth.API) bool { return strings.Contains(a.ID, bystander) }), []*oauth.API{&a, &bare})
		w.loses("the same id", create(oauth.API{ID: a.ID, URI: "https://third.example/", Secrets: []oauth.ClientSecret{w.secret()}}))
		w.loses("the same URI", create(oauth.API{ID: "api-3", URI: a.URI, Secrets: []oauth.ClientSecret{w.secret()}}))
		_, err = w.s.API(w.ctx, "unknown")
		w.missing("API", err)
		_, err = w.s.APIByURI(w.ctx, "https://unknown.example/")
		w.missing("APIByURI", err)
	})
	w.test("two secrets of an API at most, and never none once it has one", func(w *world) {
		a := oauth.API{ID: "api-4", URI: "https://four.example/"}
		w.must(oauth.EventAPIPut, create(a))
		add := func(id string, s oauth.ClientSecret) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.AddAPISecret(w.ctx, id, s, e) }
		}
		first, second := w.secret(), w.secret()
		w.wins(feed, oauth.EventAPISecretAdded, add(a.ID, first))
		w.wins(feed, oauth.EventAPISecretAdded, add(a.ID, second))
		w.loses("a third", add(a.ID, w.secret()))
		w.loses("unknown", add("unknown", w.secret()))
		got, err := w.s.API(w.ctx, a.ID)
		w.ok(err)
		w.same("secrets, oldest first", got.Secrets, []oauth.ClientSecret{first, second})

		other := oauth.API{ID: "api-4b", URI: "https://four-b.example/", Secrets: []oauth.ClientSecret{w.secret()}}
		w.must(oauth.EventAPIPut, create(other))
		revoke := func(id string, h oauth.Hash) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeAPISecret(w.ctx, id, h, e) }
		}
		w.loses("revoking what is not there", revoke(a.ID, w.hash()))
		w.loses("revoking another API's", revoke(a.ID, other.Secrets[0].Hash))
		w.loses("the only one", revoke(other.ID, other.Secrets[0].Hash))
		w.loses("of an unknown API", revoke("unknown", first.Hash))
		w.wins(feed, oauth.EventAPISecretRevoked, revoke(a.ID, first.Hash))
		_, _, _, err = w.s.Asked(w.ctx, a.ID, first.Hash, "any")
		w.missing("who shows it", err)
		w.loses("again", revoke(a.ID, first.Hash))
		w.loses("the last", revoke(a.ID, second.Hash))
		third := w.secret()
		w.wins(feed, oauth.EventAPISecretAdded, add(a.ID, third))
		got, err = w.s.API(w.ctx, a.ID)
		w.ok(err)
		w.same("secrets", got.Secrets, []oauth.ClientSecret{second, third})
		got, err = w.s.API(w.ctx, other.ID)
		w.ok(err)
		w.same("another API's", got.Secrets, other.Secrets)
	})
	w.test("an API that asks is proved by the same question that reads the family", func(w *world) {
		a, b := oauth.API{ID: "api-5", URI: "https://five.example/", Name: "Five", Secrets: []oauth.ClientSecret{w.secret(), w.secret()}},
			oauth.API{ID: "api-6", URI: "https://six.example/", Secrets: []oauth.ClientSecret{w.secret()}}
		w.must(oauth.EventAPIPut, create(a))
		w.must(oauth.EventAPIPut, create(b))
		g, r := w.live(w.person(), w.app())
		for _, sec := range a.Secrets {
			api, f, st, err := w.s.Asked(w.ctx, a.ID, sec.Hash, r.Family.ID)
			w.ok(err)
			w.same("API", api, &oauth.API{ID: a.ID, URI: a.URI, Name: a.Name, Status: oauth.Active})
			w.same("family", *f, r.Family)
			w.same("grant", st.Grant, g)
		}
		api, f, st, err := w.s.Asked(w.ctx, a.ID, a.Secrets[0].Hash, "unknown")
		w.ok(err)
		if api.ID != a.ID || f != nil || st != nil {
			w.t.Errorf("an unknown family: %+v, %+v, %+v", api, f, st)
		}
		for _, ask := range [][2]any{{a.ID, b.Secrets[0].Hash}, {b.ID, a.Secrets[0].Hash}, {a.ID, w.hash()}, {"unknown", a.Secrets[0].Hash}, {a.ID, oauth.Hash{}}} {
			_, f, st, err := w.s.Asked(w.ctx, ask[0].(string), ask[1].(oauth.Hash), r.Family.ID)
			w.missing("Asked", err)
			if f != nil || st != nil {
				w.t.Error("a family is shown to nobody known")
			}
		}
		w.changed("UPDATE apis SET status = 'suspended' WHERE id = $1", b.ID)
		_, _, _, err = w.s.Asked(w.ctx, b.ID, b.Secrets[0].Hash, r.Family.ID)
		w.missing("a suspended API", err)
	})
	w.test("what was read of a grant before never stands for what is so now", func(w *world) {
		user, app, store, other := w.person(), w.app(), w.store("One"), w.store("Other")
		api := oauth.API{ID: w.id("api-"), URI: "https://" + w.id("api") + ".example/", Secrets: []oauth.ClientSecret{w.secret()}}
		w.must(oauth.EventAPIPut, create(api))
		w.member(user, store)
		w.member(user, other)
		w.member(w.person(), store, other)
		g, r := w.live(user, app, store, other)
		event := func(kind oauth.Kind, run func(oauth.Event) (bool, error)) func() { return func() { w.must(kind, run) } }
		edit := func() {
			g = *w.grant(g.ID)
			g.Stores, g.Account = g.Stores[:1], oauth.Scopes("user.view")
			w.must(oauth.EventGrantEdited, func(e oauth.Event) (bool, error) { return w.s.EditGrant(w.ctx, &g, g.Rev, nil, e) })
		}
		put := func(to oauth.Status) func() {
			return func() {
				w.ok(w.s.PutStore(w.ctx, &oauth.Store{ID: store, Name: "Other name", Status: to}, w.event(oauth.EventStorePut)))
			}
		}
		set := func(m oauth.Membership) func() {
			m.UserID, m.StoreID = user, store
			return event(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) { return w.s.SetMembership(w.ctx, &m, e) })
		}
		for _, step := range []struct {
			what string
			do   func()
		}{
			{"at first", func() {}},
			{"a membership narrowed", set(oauth.Membership{Scopes: oauth.Scopes("a")})},
			{"may not delegate", set(oauth.Membership{Scopes: oauth.Scopes("a", "b")})},
			{"a store suspended", put(oauth.Suspended)},
			{"a store active", put(oauth.Active)},
			{"a store renamed", put(oauth.Active)},
			{"a membership dropped", event(oauth.EventMembershipDropped, func(e oauth.Event) (bool, error) { return w.s.DropMembership(w.ctx, user, other, e) })},
			{"a membership come back", set(oauth.Membership{Owner: true})},
			{"the grant edited", edit},
			{"an owner no more", set(oauth.Membership{Scopes: oauth.Scopes("a"), MayDelegate: true})},
			{"the grant edited again", edit},
			{"the grant suspended", event(oauth.EventGrantSuspended, func(e oauth.Event) (bool, error) { return w.s.SuspendGrant(w.ctx, g.ID, e) })},
			{"the grant resumed", event(oauth.EventGrantResumed, func(e oauth.Event) (bool, error) { return w.s.ResumeGrant(w.ctx, g.ID, e) })},
			{"the user suspended", func() { w.setUser(user, oauth.Suspended) }},
			{"the user resumed", func() { w.setUser(user, oauth.Active) }},
			{"the app suspended", func() { w.setApp(app, oauth.Suspended) }},
			{"the app resumed", func() { w.setApp(app, oauth.Active) }},
			{"a backup restored, in which the grant of this revision is another", func() {
				w.changed("UPDATE heads SET epoch = epoch + 1 WHERE name = 'feed'")
				w.changed("UPDATE grants SET account_scopes = '' WHERE id = $1", g.ID)
			}},
			{"the epoch of before", func() { w.changed("UPDATE heads SET epoch = epoch - 1 WHERE name = 'feed'") }},
			{"the grant revoked", event(oauth.EventGrantRevoked, func(e oauth.Event) (bool, error) { return w.s.RevokeGrant(w.ctx, g.ID, e) })},
		} {
			step.do()
			for range 2 { // the second time it is known
				_, byFamily, err := w.s.Family(w.ctx, r.Family.ID)
				w.ok(err)
				_, _, asked, err := w.s.Asked(w.ctx, api.ID, api.Secrets[0].Hash, r.Family.ID)
				w.ok(err)
				_, _, byToken, err := w.s.Refresh(w.ctx, r.Refresh.Selector)
				w.ok(err)
				_, byCode, err := w.s.Code(w.ctx, r.Selector)
				w.ok(err)
				want, err := w.s.Standing(w.ctx, g.ID)
				w.ok(err)
				for how, got := range map[string]*oauth.Standing{"Family": byFamily, "Asked": asked, "Refresh": byToken, "Code": byCode} {
					w.same(step.what+", "+how, unnamed(got), unnamed(want))
				}
			}
		}
	})
	w.test("a signing key is kept as given, one active of each use", func(w *world) {
		key := func(kid string, use oauth.KeyUse) oauth.StoredKey {
			return oauth.StoredKey{Kid: kid, Alg: "ES256", Use: use, Sealed: []byte{0, 1, 255}, Public: []byte{0, 2, 254}, Status: oauth.Active, Created: w.now}
		}
		add := func(k oauth.StoredKey) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.AddSigningKey(w.ctx, k, e) }
		}
		list := func() []oauth.StoredKey {
			w.t.Helper()
			got, err := w.s.SigningKeys(w.ctx)
			w.ok(err)
			return slices.DeleteFunc(got, func(k oauth.StoredKey) bool { return strings.Contains(k.Kid, bystander) })
		}
		w.same("at first", len(list()), 0)
		access, lasting := key("k1", oauth.ForAccess), key("k2", oauth.ForLasting)
		w.wins(feed, oauth.EventKeyAdded, add(access))
		w.loses("a second of the use", add(key("k3", oauth.ForAccess)))
		w.loses("the same kid", add(key("k1", oauth.ForLasting)))
		w.wins(feed, oauth.EventKeyAdded, add(lasting))
		w.same("keys", list(), []oauth.StoredKey{access, lasting})
	})
}

// unnamed leaves out what no key rests on.
func unnamed(st *oauth.Standing) oauth.Standing {
	out := *st
	out.Members = nil
	for _, m := range st.Members {
		m.StoreName, m.StoreDomain = "", ""
		out.Members = append(out.Members, m)
	}
	return out
}
