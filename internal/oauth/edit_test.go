package oauth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

const deliver = "stores.orders.deliver"

// A user changes a connection without the app asking: keys that are out follow
// (DESIGN, decisions 1 and 5).
func TestEdit_Grant(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		first  []string // stores; all that the app asks for
		in     map[string][]string
		edit   oauth.GrantEdit
		want   string
		reason oauth.Reason
		same   bool
	}{
		"a store is added, and gets what the grant holds": {first: []string{"s1"}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2"}, Scopes: []string{deliver}},
			want: "s1,s2: deliver orders view | deliver orders view me"},
		"a store leaves":                {first: []string{"s1", "s2"}, edit: oauth.GrantEdit{Stores: []string{"s2"}, Scopes: []string{deliver}}, want: "s2: deliver orders view | deliver orders view me"},
		"an optional scope is dropped":  {first: []string{"s1", "s2"}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2"}}, want: "s1,s2: orders view | orders view me"},
		"it stays where it is":          {first: []string{"s1", "s2"}, in: map[string][]string{"s1": {}}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2"}, Stay: []string{deliver}}, same: true, want: "s1: orders view; s2: deliver orders view | orders view me"},
		"and is not given to a new one": {first: []string{"s1", "s2"}, in: map[string][]string{"s1": {}}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2", "s3"}, Stay: []string{deliver}}, want: "s1: orders view; s2: deliver orders view; s3: orders | orders me"},
		"it is given to every store":    {first: []string{"s1", "s2"}, in: map[string][]string{"s1": {}}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2"}, Scopes: []string{deliver}}, want: "s1,s2: deliver orders view | deliver orders view me"},
		"it is taken from every store":  {first: []string{"s1", "s2"}, in: map[string][]string{"s1": {}}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2"}}, want: "s1,s2: orders view | orders view me"},
		"stores swap": {first: []string{"s1"}, in: map[string][]string{"s1": {}}, edit: oauth.GrantEdit{Stores: []string{"s3"}, Scopes: []string{deliver}},
			want: "s3: orders | orders me"}, // deliver is held nowhere any more
		"all stores":            {first: []string{"s1"}, edit: oauth.GrantEdit{Stores: []string{"s1", "s2", "s3"}, AllStores: true, Scopes: []string{deliver}}, want: "s1,s2: deliver orders view; s3: deliver orders | deliver orders me"},
		"all later ones":        {first: []string{"s1"}, edit: oauth.GrantEdit{Stores: []string{"s1"}, AllStores: true, Scopes: []string{deliver}}, want: "s1: deliver orders view | deliver orders view me"},
		"only the account":      {first: []string{"s1"}, edit: oauth.GrantEdit{Scopes: []string{deliver}}, want: "| me"},
		"nothing is changed":    {first: []string{"s1", "s2"}, edit: oauth.GrantEdit{Stores: []string{"s2", "s1", "s1"}, Scopes: []string{deliver, "unknown"}}, same: true, want: "s1,s2: deliver orders view | deliver orders view me"},
		"somebody else's store": {first: []string{"s1"}, edit: oauth.GrantEdit{Stores: []string{"s1", "b1"}}, reason: oauth.StoreForeign, want: "s1: deliver orders view | deliver orders view me"},
		"one not to be opened":  {first: []string{"s1"}, edit: oauth.GrantEdit{Stores: []string{"s1", "s4"}}, reason: oauth.StoreForeign, want: "s1: deliver orders view | deliver orders view me"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key := w.connect(w.exchange, "alice", c.first...)
			for store, scopes := range c.in {
				changed, err := w.EditStore(ctx, alice, key.GrantID, store, w.grant(key.GrantID).Rev, scopes)
				w.must(err)
				if !changed {
					t.Fatal("nothing was changed in " + store)
				}
			}
			before := w.grant(key.GrantID)
			c.edit.Rev = before.Rev
			changed, err := w.EditGrant(ctx, alice, key.GrantID, c.edit)
			if got := oauth.ReasonOf(err); got != c.reason {
				t.Fatalf("%v, want %q", err, c.reason)
			}
			if changed != (c.reason == "" && !c.same) {
				t.Errorf("changed: %v", changed)
			}
			if after := w.grant(key.GrantID).Rev; (after > before.Rev) != changed { // what keys print may be other now
				t.Errorf("rev %d → %d", before.Rev, after)
			}
			if got := w.rights(key.AccessToken); got != c.want {
				t.Errorf("rights %s\nwant   %s", got, c.want)
			}
		})
	}
}

// Required scopes go with the grant alone, a scope that is held nowhere is not to be
// had, and nothing is left with nothing.
func TestEdit_Limits(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	f := form("Reader", oauth.Exchange, oauth.Confidential)
	f.Scopes = []oauth.ClientScope{{Name: "stores.view"}, {Name: deliver}, {Name: "user.view"}}
	c, secret, err := w.CreateClient(ctx, command, f)
	w.must(err)
	reader := app{Client: *c, id: c.ID, secret: secret}
	back, err := w.Decide(ctx, "alice", w.ask(reader), oauth.Decision{Allow: true, Stores: []string{"s1", "s2"}, Scopes: []string{"stores.view", "user.view"}})
	w.must(err)
	key, err := w.redeem(reader, param(t, back, "code"))
	w.must(err)
	edit := func(e oauth.GrantEdit) error {
		e.Rev = w.grant(key.GrantID).Rev
		_, err := w.EditGrant(ctx, alice, key.GrantID, e)
		return err
	}
	if err := edit(oauth.GrantEdit{Stores: []string{"s1", "s2"}, Scopes: []string{"stores.view", deliver, "user.view"}}); err != nil {
		t.Fatal(err)
	}
	if got := w.rights(key.AccessToken); got != "s1,s2: view | view me" {
		t.Errorf("what was declined is there now: %s", got)
	}
	wantReason(t, edit(oauth.GrantEdit{Stores: []string{"s1"}, Scopes: []string{"user.view"}}), oauth.NothingLeft)
	wantReason(t, edit(oauth.GrantEdit{Scopes: []string{"stores.view"}}), oauth.StoreNone)
	wantReason(t, edit(oauth.GrantEdit{AllStores: true, Scopes: []string{"user.view"}}), oauth.NothingLeft)
	_, err = w.EditStore(ctx, alice, key.GrantID, "s1", w.grant(key.GrantID).Rev, nil)
	wantReason(t, err, oauth.NothingLeft)
	for _, store := range []string{"s3", "b1", ""} {
		_, err = w.EditStore(ctx, alice, key.GrantID, store, w.grant(key.GrantID).Rev, []string{"stores.view"})
		wantReason(t, err, oauth.NoSuch)
	}
	// What the app does not register any more can be kept and dropped, not given.
	f.Scopes = []oauth.ClientScope{{Name: "stores.orders.view"}, {Name: "user.view"}}
	if c, err = w.Server.Client(ctx, reader.id); err != nil {
		t.Fatal(err)
	}
	if _, err = w.UpdateClient(ctx, command, c.ID, c.Version, f); err != nil {
		t.Fatal(err)
	}
	wantReason(t, edit(oauth.GrantEdit{Stores: []string{"s1", "s2", "s3"}, Scopes: []string{"stores.view", "user.view"}}), oauth.NothingLeft)
	w.must(edit(oauth.GrantEdit{Stores: []string{"s1"}, Scopes: []string{"stores.view"}}))
	if got := w.rights(key.AccessToken); got != "s1: view | view" {
		t.Errorf("rights %s", got)
	}
	// The last store may be taken out while the account remains, and put back.
	both := w.connect(w.exchange, "alice", "s1")
	key = both
	w.must(edit(oauth.GrantEdit{Scopes: []string{deliver}}))
	w.must(edit(oauth.GrantEdit{Stores: []string{"s2"}, Scopes: []string{deliver}}))
	if got := w.rights(key.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
		t.Errorf("put back: %s", got)
	}
}

// Whoever saves what somebody else changed meanwhile is told, and changes nothing.
func TestEdit_Conflict(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1", "s2")
	seen := w.grant(key.GrantID).Rev
	_, err := w.RemoveStore(ctx, alice, key.GrantID, "s1")
	w.must(err)
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: seen, Stores: []string{"s1", "s2"}, Scopes: []string{deliver}})
	wantReason(t, err, oauth.Changed)
	_, err = w.EditStore(ctx, alice, key.GrantID, "s2", seen, nil)
	wantReason(t, err, oauth.Changed)
	if got := w.rights(key.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
		t.Errorf("rights %s", got)
	}
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s2", Scopes: oauth.Scopes("stores.view"), MayDelegate: true}) // what keys print is other now
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: seen + 1, Stores: []string{"s2"}})
	wantReason(t, err, oauth.Changed)
	w.must(w.RevokeGrant(ctx, alice, key.GrantID))
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: seen + 3})
	wantReason(t, err, oauth.NoSuch)
	_, err = w.Editable(ctx, alice, key.GrantID)
	wantReason(t, err, oauth.NoSuch)
}

// All stores but one, with scopes of its own in another, is a grant as any other.
func TestEdit_AllStores(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true, Scopes: []string{deliver}})
	w.must(err)
	key, err := w.redeem(w.exchange, param(t, back, "code"))
	w.must(err)
	rev := func() int64 { return w.grant(key.GrantID).Rev }
	want := func(what, line string) {
		t.Helper()
		if got := w.rights(key.AccessToken); got != line {
			t.Errorf("%s: %s, want %s", what, got, line)
		}
	}
	_, err = w.EditStore(ctx, alice, key.GrantID, "s1", rev(), nil)
	w.must(err)
	want("less in one", "s1: orders view; s2: deliver orders view; s3: deliver orders | orders me")
	ed, err := w.Editable(ctx, alice, key.GrantID)
	w.must(err)
	if i := slices.IndexFunc(ed.Scopes, func(h oauth.HeldScope) bool { return h.Name == deliver }); ed.Scopes[i].In != 2 || ed.Scopes[i].Of != 3 || ed.Scopes[i].Always || ed.Scopes[i].Required {
		t.Errorf("deliver: %+v", ed.Scopes[i])
	}
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: rev(), AllStores: true, Stores: []string{"s1", "s3"}, Stay: []string{deliver}})
	w.must(err)
	want("without s2", "s1: orders view; s3: deliver orders | orders me")
	w.must(w.PutStore(ctx, command, oauth.Store{ID: "s5", Name: "new"}))
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s5", Owner: true, MayDelegate: true})
	want("one that came later", "s1: orders view; s3: deliver orders; s5: deliver orders view | orders me")
	if !ticks(t, w, key.GrantID, "s1+ s2 s3+ s4- s5+") {
		return
	}
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: rev(), Stores: []string{"s1", "s2", "s5"}, Scopes: []string{deliver}})
	w.must(err)
	want("a list", "s1,s2,s5: deliver orders view | deliver orders view me")
	if revoked, err := w.RemoveStore(ctx, alice, key.GrantID, "s3"); revoked || oauth.ReasonOf(err) != oauth.NoSuch {
		t.Errorf("removed what is not there: %v %v", revoked, err)
	}
}

// A store in which the user may connect nothing any more is none of all. Who takes all
// back gives the app nothing there that it could not do before, though it once had less
// there than elsewhere.
func TestEdit_AllTakenBackOpensNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true, Scopes: []string{deliver}})
	w.must(err)
	key, err := w.redeem(w.exchange, param(t, back, "code"))
	w.must(err)
	rev := func() int64 { return w.grant(key.GrantID).Rev }
	_, err = w.EditStore(ctx, alice, key.GrantID, "s2", rev(), nil)
	w.must(err)
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s2", Owner: true})
	_, err = w.EditGrant(ctx, alice, key.GrantID, oauth.GrantEdit{Rev: rev(), Stores: []string{"s1"}, Scopes: []string{deliver}})
	w.must(err)
	if got := w.rights(key.AccessToken); got != "s1: deliver orders view | deliver orders view me" {
		t.Errorf("the key has %s", got)
	}
}

// ticks compares what an edit page would show.
func ticks(t *testing.T, w *world, grant, want string) bool {
	t.Helper()
	ed, err := w.Editable(context.Background(), alice, grant)
	w.must(err)
	var got []string
	for _, s := range ed.Stores {
		line := s.StoreID
		if s.Ticked {
			line += "+"
		}
		if !s.May {
			line += "-"
		}
		got = append(got, line)
	}
	slices.Sort(got)
	if strings.Join(got, " ") != want {
		t.Errorf("ticks %v, want %s", got, want)
	}
	return !t.Failed()
}

// A repeat consent asks for what is new alone: what the app has stays without being
// ticked, and what the user took away does not come back by it.
func TestEdit_RepeatConsentGivesNothingBack(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1", "s2")
	ask := func() oauth.ScopeChoice {
		t.Helper()
		q, _, err := w.Ask(ctx, w.ask(w.exchange), "alice", w.Now())
		w.must(err)
		i := slices.IndexFunc(q.Scopes, func(c oauth.ScopeChoice) bool { return c.Name == deliver })
		return q.Scopes[i]
	}
	again := func(ticked ...string) {
		t.Helper()
		back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, Stores: []string{"s1", "s2"}, Scopes: ticked})
		w.must(err)
		fresh, err := w.redeem(w.exchange, param(t, back, "code"))
		w.must(err)
		if got, want := w.rights(fresh.AccessToken), w.rights(key.AccessToken); got != want {
			t.Errorf("the new key has %s, the old one %s", got, want)
		}
	}
	want := func(line string) {
		t.Helper()
		if got := w.rights(key.AccessToken); got != line {
			t.Errorf("rights %s, want %s", got, line)
		}
	}
	if c := ask(); !c.Held || c.Partly {
		t.Errorf("held: %+v", c)
	}
	again() // not ticked, since it was not asked for
	want("s1,s2: deliver orders view | deliver orders view me")
	_, err := w.EditStore(ctx, alice, key.GrantID, "s1", w.grant(key.GrantID).Rev, nil)
	w.must(err)
	if c := ask(); c.Held || !c.Partly {
		t.Errorf("held in one of two: %+v", c)
	}
	again()
	want("s1: orders view; s2: deliver orders view | orders view me")
	_, err = w.EditStore(ctx, alice, key.GrantID, "s2", w.grant(key.GrantID).Rev, nil)
	w.must(err)
	if c := ask(); c.Held || c.Partly {
		t.Errorf("held nowhere: %+v", c)
	}
	again()
	want("s1,s2: orders view | orders view me")
	again(deliver)
	want("s1,s2: deliver orders view | deliver orders view me")
}

// The owner of a store sees what others connected to it, in this store alone, and can
// take it out; nobody else can.
func TestEdit_StoreOwner(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "bob", "b1", "s1")
	w.connect(w.standard, "bob", "b1")
	w.connect(w.standard, "alice", "s1")
	w.code(w.other, "bob", "s1") // never taken up
	list, err := w.AppsOfOthers(ctx, alice, "", oauth.Page{Limit: 10})
	w.must(err)
	if len(list) != 1 || list[0].GrantID != key.GrantID || list[0].Store.ID != "s1" || list[0].Client.Name != "Exporter" || list[0].Person == "" || list[0].Since.IsZero() ||
		short(list[0].Scopes.String()) != "orders view" {
		t.Fatalf("alice sees %+v", list)
	}
	if text, err := json.Marshal(list); err != nil || strings.Contains(string(text), "b1") {
		t.Errorf("alice sees bob's own store: %s", text)
	}
	for _, store := range []string{"b1", "s3", "nowhere"} { // not hers, or not hers alone
		_, err := w.AppsOfOthers(ctx, alice, store, oauth.Page{Limit: 10})
		wantReason(t, err, oauth.NotPermitted)
	}
	if list, err := w.AppsOfOthers(ctx, bob, "", oauth.Page{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("bob, who owns b1 alone, sees %+v %v", list, err)
	}
	_, err = w.AppsOfOthers(ctx, bob, "s1", oauth.Page{Limit: 10})
	wantReason(t, err, oauth.NotPermitted)

	alices := w.connect(w.exchange, "alice", "s1")
	for what, call := range map[string]func() (bool, error){
		"a store that she does not own":          func() (bool, error) { return w.RemoveStore(ctx, alice, key.GrantID, "b1") },
		"a member, of what the owner connected":  func() (bool, error) { return w.RemoveStore(ctx, bob, alices.GrantID, "s1") },
		"an owner, of a grant that is not there": func() (bool, error) { return w.RemoveStore(ctx, alice, "gr_nothing", "s1") },
		"an owner of a store that it is not for": func() (bool, error) { return w.RemoveStore(ctx, alice, key.GrantID, "s2") },
		"the app, which is none of the two": func() (bool, error) {
			return w.RemoveStore(ctx, oauth.Actor{Kind: oauth.AsClient, ID: "alice"}, key.GrantID, "s1")
		},
		"nobody, whose id is empty as is no name": func() (bool, error) { return w.RemoveStore(ctx, oauth.Actor{Kind: oauth.AsUser}, key.GrantID, "s1") },
	} {
		if _, err := call(); oauth.AsError(err).Code != oauth.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	before := w.grant(key.GrantID).Rev
	if revoked, err := w.RemoveStore(ctx, alice, key.GrantID, "s1"); err != nil || revoked {
		t.Fatalf("%v %v", revoked, err)
	}
	if got := w.rights(key.AccessToken); got != "b1: deliver orders view | deliver orders view me" {
		t.Errorf("the rest of the grant: %s", got)
	}
	if after := w.grant(key.GrantID).Rev; after != before+1 {
		t.Errorf("rev %d → %d", before, after)
	}
	events, err := w.Events(ctx, command, oauth.EventFilter{GrantID: key.GrantID, Kind: oauth.EventGrantEdited, Limit: 1})
	w.must(err)
	if e := events[0]; e.Actor != "user:alice" || e.UserID != "bob" || e.StoreID != "s1" || e.Seq == 0 {
		t.Errorf("event %+v", e)
	}
	if list, _ := w.AppsOfOthers(ctx, alice, "s1", oauth.Page{Limit: 10}); len(list) != 0 {
		t.Errorf("alice still sees %+v", list)
	}
}

// From a grant for all stores the owner takes his own, and the member keeps the others
// and those that come; where it was the last, and nothing on the account, it ends.
func TestEdit_StoreOwnerAndAllStores(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	back, err := w.Decide(ctx, "bob", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true})
	w.must(err)
	key, err := w.redeem(w.exchange, param(t, back, "code"))
	w.must(err)
	if list, err := w.AppsOfOthers(ctx, alice, "s1", oauth.Page{Limit: 10}); err != nil || len(list) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	if revoked, err := w.RemoveStore(ctx, alice, key.GrantID, "s1"); err != nil || revoked {
		t.Fatalf("%v %v", revoked, err)
	}
	w.must(w.PutStore(ctx, command, oauth.Store{ID: "b2", Name: "later"}))
	w.membership(oauth.Membership{UserID: "bob", StoreID: "b2", Owner: true, MayDelegate: true})
	if got := w.rights(key.AccessToken); got != "b1,b2: orders view | orders view me" {
		t.Errorf("rights %s", got)
	}
	if list, err := w.AppsOfOthers(ctx, alice, "s1", oauth.Page{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
	narrow := form("Narrow", oauth.Exchange, oauth.Confidential)
	narrow.Scopes = narrow.Scopes[:1]
	c, secret, err := w.CreateClient(ctx, command, narrow)
	w.must(err)
	last := w.connect(app{c.ID, secret, *c}, "bob", "s1")
	if revoked, err := w.RemoveStore(ctx, alice, last.GrantID, "s1"); err != nil || !revoked {
		t.Errorf("the last store: %v %v", revoked, err)
	}
	if got := w.rights(last.AccessToken); got != "inactive" {
		t.Errorf("rights %s", got)
	}
	if got := fmt.Sprint(w.grant(last.GrantID).Status); got != "revoked" {
		t.Errorf("the grant is %s", got)
	}
}

// between is a storage in which something comes in before the first grant is ended.
type between struct {
	oauth.Storage
	do func()
}

func (b *between) comesIn() {
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
}

func (b *between) RevokeGrant(ctx context.Context, id string, e oauth.Event) (bool, error) {
	b.comesIn()
	return b.Storage.RevokeGrant(ctx, id, e)
}

func (b *between) RevokeGrantAt(ctx context.Context, id string, rev int64, e oauth.Event) (bool, error) {
	b.comesIn()
	return b.Storage.RevokeGrantAt(ctx, id, rev, e)
}

// An owner who takes his store out of a grant, as the last one, leaves it what its user
// adds at that moment; and finds it ended if that is what comes in.
func TestEdit_StoreOwnerAndAnEditAtOnce(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	narrow := form("Narrow", oauth.Exchange, oauth.Confidential)
	narrow.Scopes = narrow.Scopes[:1]
	c, secret, err := w.CreateClient(ctx, command, narrow)
	w.must(err)
	key := w.connect(app{c.ID, secret, *c}, "bob", "s1")
	storage := &between{Storage: w.db}
	office := w.office(storage)
	storage.do = func() {
		_, err := w.EditGrant(ctx, bob, key.GrantID, oauth.GrantEdit{Rev: w.grant(key.GrantID).Rev, Stores: []string{"s1", "b1"}})
		w.must(err)
	}
	if revoked, err := office.RemoveStore(ctx, alice, key.GrantID, "s1"); err != nil || revoked {
		t.Errorf("%v %v", revoked, err)
	}
	if got := w.rights(key.AccessToken); got != "b1: view | view" {
		t.Errorf("rights %s", got)
	}
	storage.do = func() { w.must(w.RevokeGrant(ctx, bob, key.GrantID)) }
	if revoked, err := office.RemoveStore(ctx, bob, key.GrantID, "b1"); revoked || oauth.ReasonOf(err) != oauth.NoSuch {
		t.Errorf("%v %v", revoked, err)
	}
}
