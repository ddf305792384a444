package storagetest

import (
	"github.com/grantway/grantway/internal/oauth"
)

func apis(w *world) {
	create := func(a oauth.API) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return w.s.CreateAPI(w.ctx, &a, e) }
	}
	w.test("an API is kept as given; its id and its URI are taken once", func(w *world) {
		a := oauth.API{ID: "api-1", URI: "https://api.example/", Name: "API 😀", Status: oauth.Active, Secrets: []oauth.ClientSecret{w.secret()}}
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
		w.same("all", list, []*oauth.API{&a, &bare})
		w.loses("the same id", create(oauth.API{ID: a.ID, URI: "https://third.example/", Secrets: []oauth.ClientSecret{w.secret()}}))
		w.loses("the same URI", create(oauth.API{ID: "api-3", URI: a.URI, Secrets: []oauth.ClientSecret{w.secret()}}))
		_, err = w.s.API(w.ctx, "unknown")
		w.missing("API", err)
		_, err = w.s.APIByURI(w.ctx, "https://unknown.example/")
		w.missing("APIByURI", err)
	})
	w.test("two secrets of an API at most", func(w *world) {
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
		if _, err := w.db.ExecContext(w.ctx, "UPDATE apis SET status = 'suspended' WHERE id = $1", b.ID); err != nil {
			w.t.Fatal(err)
		}
		_, _, _, err = w.s.Asked(w.ctx, b.ID, b.Secrets[0].Hash, r.Family.ID)
		w.missing("a suspended API", err)
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
			return got
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
