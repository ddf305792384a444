package storagetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func clients(w *world) {
	full := func() *oauth.Client {
		c := w.newApp()
		c.Owner, c.Name, c.Origin = "usr_owner", "Ünïcode 😀", "file"
		c.Settings = oauth.ClientSettings{Homepage: "https://a.example/?a=b&c=<d>", Verified: true, NoPKCE: true, Iss: true, APIKeyHash: w.hash()}
		c.Redirects = []oauth.RedirectURI{"https://z.example/", "https://a.example/cb?x=%20", "http://127.0.0.1/"}
		c.Scopes = []oauth.ClientScope{{Name: "a.read", Required: true}, {Name: "b.write"}}
		c.Secrets = []oauth.ClientSecret{w.secret()}
		return c
	}
	read := func(w *world, id string) *oauth.Client {
		w.t.Helper()
		c, err := w.s.Client(w.ctx, id)
		w.ok(err)
		return c
	}
	w.test("a client is kept as given, and its id taken once", func(w *world) {
		c := full()
		w.wins(feed, oauth.EventClientCreated, w.create(c))
		w.same("client", read(w, c.ID), c)
		other := full()
		other.ID = c.ID
		w.loses("the same id", w.create(other))
		list, err := w.s.Clients(w.ctx, c.Owner, oauth.Page{Limit: 1})
		w.ok(err)
		w.same("as a list shows it", list, []*oauth.Client{c})
		bare := &oauth.Client{ID: w.id("public-"), Name: "Bare", Type: oauth.Public, Profile: "direct", Origin: "command", AuthMethod: oauth.ByNone,
			Status: oauth.Active, Version: 1, Created: w.now}
		w.wins(feed, oauth.EventClientCreated, w.create(bare))
		w.same("a client without parts", read(w, bare.ID), bare)
		_, err = w.s.Client(w.ctx, "unknown")
		w.missing("Client", err)
	})
	w.test("UpdateClient replaces at its version, and keeps status and secrets", func(w *world) {
		c := full()
		w.must(oauth.EventClientCreated, w.create(c))
		w.setApp(c.ID, oauth.Suspended)
		next := *c
		next.Version, next.Name, next.Owner = 2, "New", "usr_other"
		next.Settings = oauth.ClientSettings{Terms: "https://t.example/"}
		next.Redirects = []oauth.RedirectURI{"https://new.example/"}
		next.Scopes = []oauth.ClientScope{{Name: "c"}}
		next.Secrets, next.Status = nil, oauth.Active
		update := func(c oauth.Client) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.UpdateClient(w.ctx, &c, e) }
		}
		stale := next
		for _, v := range []int64{0, 1, 3} {
			stale.Version = v
			w.loses(fmt.Sprintf("version %d", v), update(stale))
		}
		w.wins(feed, oauth.EventClientUpdated, update(next))
		next.Version, next.Status, next.Secrets = 3, oauth.Suspended, c.Secrets
		w.same("client", read(w, c.ID), &next)
		next.Redirects, next.Scopes = nil, nil
		w.wins(feed, oauth.EventClientUpdated, update(next))
		next.Version = 4
		w.same("without parts", read(w, c.ID), &next)
		w.setApp(c.ID, oauth.Deleted)
		next.Version = 5
		w.loses("deleted", update(next))
		next.ID = "unknown"
		w.loses("unknown", update(next))
	})
	w.test("a deleted client is gone for good", func(w *world) {
		id := w.app()
		set := func(to oauth.Status) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.SetClientStatus(w.ctx, id, to, e) }
		}
		w.wins(feed, oauth.EventClientSuspended, set(oauth.Suspended))
		w.same("status", read(w, id).Status, oauth.Suspended)
		w.store("another") // the feed goes on: what loses does not move a rule to where it is now
		w.loses("again", set(oauth.Suspended))
		w.wins(feed, oauth.EventClientResumed, set(oauth.Active))
		w.wins(feed, oauth.EventClientDeleted, set(oauth.Deleted))
		_, err := w.s.Client(w.ctx, id)
		w.missing("Client", err)
		w.store("another")
		for _, to := range []oauth.Status{oauth.Active, oauth.Suspended, oauth.Deleted} {
			w.loses("deleted, to "+string(to), set(to))
		}
		w.loses("a secret", func(e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, id, w.secret(), e) })
		again := w.newApp()
		again.ID = id
		w.loses("its id again", w.create(again))
		id = "unknown"
		w.loses("unknown", set(oauth.Suspended))
	})
	w.test("an owner makes so many apps within a day, those that were deleted among them", func(w *world) {
		owner, day := w.id("usr_"), w.now
		make := func(most int) (string, func(oauth.Event) (bool, error)) {
			c := w.newApp()
			c.Owner = owner
			return c.ID, func(e oauth.Event) (bool, error) { return w.s.CreateClient(w.ctx, c, most, e) }
		}
		another := func(most int) string {
			w.t.Helper()
			id, run := make(most)
			w.wins(feed, oauth.EventClientCreated, run)
			return id
		}
		tooMany := func(most int) {
			w.t.Helper()
			_, run := make(most)
			w.loses(fmt.Sprintf("%v later, one more than %d", w.now.Sub(day), most), run)
		}
		made := func(since time.Time, n int, first time.Time) {
			w.t.Helper()
			got, at, err := w.s.CountClients(w.ctx, owner, since)
			w.ok(err)
			w.same(fmt.Sprintf("made from %v on", since.Sub(day)), got, n)
			w.same("the first of them", at, first)
		}
		made(day.Add(-time.Hour), 0, time.Time{})
		tooMany(0)
		first := another(2)
		w.now = day.Add(time.Hour)
		w.setApp(another(2), oauth.Deleted)
		w.setApp(first, oauth.Deleted)
		w.now = day.Add(oauth.AppsWithin - time.Microsecond)
		tooMany(2)
		w.app() // somebody else's
		made(day.Add(-time.Microsecond), 2, day)
		made(day, 1, day.Add(time.Hour))
		w.now = day.Add(oauth.AppsWithin)
		another(2)
		tooMany(2)
		another(3)
	})
	w.test("two secrets at most, and never none", func(w *world) {
		c := full()
		w.must(oauth.EventClientCreated, w.create(c))
		other := w.newApp()
		w.must(oauth.EventClientCreated, w.create(other))
		add := func(s oauth.ClientSecret) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, c.ID, s, e) }
		}
		revoke := func(h oauth.Hash) func(oauth.Event) (bool, error) {
			return func(e oauth.Event) (bool, error) { return w.s.RevokeSecret(w.ctx, c.ID, h, e) }
		}
		first, second := c.Secrets[0], w.secret()
		w.loses("the only one", revoke(first.Hash))
		w.wins(feed, oauth.EventSecretAdded, add(second))
		w.same("secrets, oldest first", read(w, c.ID).Secrets, []oauth.ClientSecret{first, second})
		w.loses("a third", add(w.secret()))
		w.loses("revoking what is not there", revoke(w.hash()))
		w.loses("revoking another client's", revoke(other.Secrets[0].Hash))
		w.wins(feed, oauth.EventSecretRevoked, revoke(first.Hash))
		w.same("secrets", read(w, c.ID).Secrets, []oauth.ClientSecret{second})
		w.loses("again", revoke(first.Hash))
		w.loses("the last", revoke(second.Hash))
		w.wins(feed, oauth.EventSecretAdded, add(w.secret()))
		w.same("another client's", read(w, other.ID).Secrets, other.Secrets)
		w.loses("for an unknown client", func(e oauth.Event) (bool, error) { return w.s.AddSecret(w.ctx, "unknown", w.secret(), e) })
		w.loses("of an unknown client", func(e oauth.Event) (bool, error) { return w.s.RevokeSecret(w.ctx, "unknown", second.Hash, e) })
	})
	w.test("lists of clients go by name, in pages", func(w *world) {
		owner := w.id("usr_")
		var want []string
		for _, name := range []string{"b", "B", "a", "é", "Z", "_", "10", "9", "a b", "a"} {
			c := w.newApp()
			c.Owner, c.Name = owner, name
			c.Secrets = nil
			w.must(oauth.EventClientCreated, w.create(c))
			if name == "Z" {
				w.setApp(c.ID, oauth.Deleted)
				continue
			}
			want = append(want, name+"\x00"+c.ID)
		}
		slices.Sort(want) // byte by byte, on every engine
		list := func(owner string, p oauth.Page) (got []string) {
			w.t.Helper()
			all, err := w.s.Clients(w.ctx, owner, p)
			w.ok(err)
			for _, c := range all {
				got = append(got, c.Name+"\x00"+c.ID)
			}
			return got
		}
		w.same("all of an owner's", list(owner, oauth.Page{Limit: 100}), want)
		w.same("a page", list(owner, oauth.Page{Offset: 2, Limit: 3}), want[2:5])
		w.same("past the end", len(list(owner, oauth.Page{Offset: 9, Limit: 3})), 0)
		if n := len(list("", oauth.Page{Limit: 100})); n <= len(want) {
			w.t.Errorf("without an owner there are %d clients", n)
		}
	})
	w.test("the apps that carry the badge", func(w *world) {
		owner := w.id("usr_")
		var want []string
		for i, settings := range []oauth.ClientSettings{{Verified: true}, {}, {Terms: `"verified":true`}, {Verified: true, Homepage: "https://x.example"}, {Verified: true}} {
			c := w.newApp()
			c.Owner, c.Name, c.Settings = owner, "App "+c.ID, settings
			w.must(oauth.EventClientCreated, w.create(c))
			switch {
			case i == 4:
				w.setApp(c.ID, oauth.Deleted)
			case settings.Verified:
				want = append(want, c.ID+" "+c.Name)
			}
		}
		slices.Sort(want)
		var got []string
		list, err := w.s.VerifiedClients(w.ctx)
		w.ok(err)
		for _, c := range list {
			if c.Owner == owner {
				got = append(got, c.ID+" "+c.Name)
			}
		}
		slices.Sort(got)
		w.same("those of an owner", got, want)
	})
	w.test("times are kept to the microsecond", func(w *world) {
		for _, at := range []time.Time{time.UnixMicro(1), time.UnixMicro(1<<53 + 1), w.now.Add(999 * time.Nanosecond)} {
			c := w.newApp()
			w.must(oauth.EventClientCreated, func(e oauth.Event) (bool, error) {
				e.At = at
				return w.create(c)(e)
			})
			w.same("created", read(w, c.ID).Created, at.Truncate(time.Microsecond).UTC())
		}
	})
}
