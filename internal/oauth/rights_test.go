package oauth_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Rights are granted scopes ∩ chosen stores ∩ membership, per store; the flat
// scope never lets anybody read a cross product (DESIGN, decision 2; K16).
func TestRights_PerStore(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	key := w.connect(w.exchange, "alice", "s1", "s3").AccessToken
	const issued = "s1: deliver orders view; s3: deliver orders | deliver orders me"
	if got := printed(t, key); got != issued {
		t.Errorf("printed %s, want %s", got, issued)
	}
	for _, step := range []struct {
		what   string
		change func() error
		want   string
	}{
		{"nothing", func() error { return nil }, issued},
		{"alice may only see orders of s1", func() error {
			return w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Scopes: oauth.Scopes("stores.orders.view", "stores.tax.view"), MayDelegate: true})
		}, "s1: orders; s3: deliver orders | orders me"},
		{"s3 is lost", func() error { return w.DropMembership(ctx, command, "alice", "s3") }, "s1: orders | orders me"},
		{"s3 comes back, with another scope", func() error {
			return w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s3", Scopes: oauth.Scopes("stores.view"), MayDelegate: true})
		}, "s1: orders; s3: view | me"},
		{"s3 closes", func() error {
			return w.PutStore(ctx, command, oauth.Store{ID: "s3", Name: "x", Status: oauth.Suspended})
		}, "s1: orders | orders me"},
		{"s1 no longer hers to open", func() error {
			return w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Owner: true})
		}, "s1: deliver orders view | deliver orders view me"},
		{"s1 is lost", func() error { return w.DropMembership(ctx, command, "alice", "s1") }, "| me"},
	} {
		w.must(step.change())
		if got := w.rights(key); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
	}
	if got := printed(t, key); got != issued {
		t.Errorf("the key itself changed: %s", got)
	}
	// The same user's other stores and another user's keys never come in.
	if got := w.rights(w.connect(w.exchange, "bob", "s1").AccessToken); got != "s1: orders view | orders view me" {
		t.Errorf("bob's key: %s", got)
	}
}

// More than fifty stores cannot be printed: the key is born "ask" and says only
// what holds on the account (DESIGN, decision 2).
func TestRights_Printable(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var stores []string
	for i := range 51 {
		id := fmt.Sprintf("m%02d", i)
		stores = append(stores, id)
		w.must(w.PutStore(ctx, command, oauth.Store{ID: id, Name: id}))
		w.membership(oauth.Membership{UserID: "carol", StoreID: id, Owner: true, MayDelegate: true})
	}
	for _, n := range []int{50, 51} {
		resp := w.connect(w.exchange, "carol", stores[:n]...)
		c, in := claims(t, resp.AccessToken), w.introspect(resp.AccessToken)
		if len(in.Rights) != 1 || len(in.Rights[0].Stores) != n || in.Scope != "stores.orders.deliver stores.orders.view stores.view user.view" {
			t.Fatalf("%d stores: introspection says %v %q", n, in.Rights, in.Scope)
		}
		f, _, err := w.db.Family(ctx, family(c))
		w.must(err)
		want := oauth.Family{Status: oauth.Valid}
		if n > oauth.MaxPrinted {
			want.Status = oauth.Ask
			if c.Rights != nil || c.Scope != "user.view" {
				t.Errorf("%d stores are printed: %v %q", n, c.Rights, c.Scope)
			}
		} else if len(c.Rights) != 1 || len(c.Rights[0].Stores) != n || c.Scope != in.Scope {
			t.Errorf("%d stores: printed %v %q", n, c.Rights, c.Scope)
		}
		if f.Status != want.Status {
			t.Errorf("%d stores: status %s, want %s", n, f.Status, want.Status)
		}
	}
}

// Rights that are too long are not printed, so that no key is longer than its readers
// take; one of fifty stores with the longest ids is read by all.
func TestRights_PrintableLength(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	user := strings.Repeat(`"`, 255) // twice as long in JSON
	w.must(w.PutUser(ctx, command, oauth.User{ID: user, Name: "Eve", Email: "eve@example.com"}))
	stores := func(prefix, letter string) (ids []string) {
		for i := range oauth.MaxPrinted {
			id := fmt.Sprintf("%s%02d", prefix, i)
			id += strings.Repeat(letter, 255-len(id))
			ids = append(ids, id)
			w.must(w.PutStore(ctx, command, oauth.Store{ID: id, Name: prefix}))
			w.membership(oauth.Membership{UserID: user, StoreID: id, Owner: true, MayDelegate: true})
		}
		return ids
	}
	long, twice := stores("l", "x"), stores("t", `"`)
	for _, c := range []struct {
		name    string
		stores  []string
		printed bool
	}{
		{"fifty of the longest", long, true},
		{"31 of twice as long", twice[:31], true},
		{"32 of twice as long", twice[:32], false},
		{"fifty of twice as long", twice, false},
	} {
		for _, a := range []app{w.exchange, w.standard} {
			resp := w.connect(a, user, c.stores...)
			if n := len(resp.AccessToken); n > 32<<10 || c.printed && n < 16<<10 {
				t.Errorf("%s: a key of %d bytes", c.name, n)
			}
			key, in := claims(t, resp.AccessToken), w.introspect(resp.AccessToken)
			if in == nil || len(in.Rights) != 1 || len(in.Rights[0].Stores) != len(c.stores) {
				t.Fatalf("%s: introspection says %v", c.name, in)
			}
			f, _, err := w.db.Family(ctx, family(key))
			w.must(err)
			if (key.Rights != nil) != c.printed || (f.Status == oauth.Valid) != c.printed || !c.printed && key.Scope != "user.view" {
				t.Errorf("%s: status %s, printed %t, scope %q", c.name, f.Status, key.Rights != nil, key.Scope)
			}
			w.must(w.Revoke(ctx, a.auth(), resp.AccessToken.Reveal()))
			if w.introspect(resp.AccessToken) != nil {
				t.Errorf("%s: active when it was revoked", c.name)
			}
		}
	}
}

// However many scopes an operator has, a key is no longer than its readers take.
func TestRights_LongCatalogue(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	scopes, f := []oauth.Scope{}, form("Everything", oauth.Exchange, oauth.Confidential)
	f.Scopes = nil
	for i := range 400 {
		name := fmt.Sprintf("s%099d", i)
		scopes = append(scopes, oauth.Scope{Name: name, Kind: []oauth.ScopeKind{oauth.StoreScope, oauth.AccountScope}[i%2]})
		f.Scopes = append(f.Scopes, oauth.ClientScope{Name: name, Required: true})
	}
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	w.Server, err = oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: oauth.NewCatalogue(scopes, nil), Storage: w.db, Ring: ring, Now: w.clock.now})
	w.must(err)
	c, secret, err := w.CreateClient(ctx, command, f)
	w.must(err)
	key := w.connect(app{c.ID, secret, *c}, "alice", "s1").AccessToken
	in := w.introspect(key)
	if in == nil || len(oauth.Scopes(strings.Fields(in.Scope)...)) != 400 || len(in.Rights) != 1 {
		t.Fatalf("introspection says %v", in)
	}
	if c := claims(t, key); c.Rights != nil || c.Scope != "" {
		t.Errorf("it prints %d bytes", len(key))
	}
}

func family(c oauth.Claims) string { return c.ID[:len("fm_")+26] }

// A grant for all stores follows the user's memberships, as far as he may open
// stores to apps.
func TestRights_AllStores(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true})
	w.must(err)
	resp, err := w.redeem(w.exchange, param(t, back, "code"))
	w.must(err)
	key := resp.AccessToken
	if c := claims(t, key); c.Rights != nil || c.Scope != "user.view" {
		t.Errorf("a key for future stores prints %v %q", c.Rights, c.Scope)
	}
	want := func(line string) {
		t.Helper()
		if got := w.rights(key); got != line {
			t.Errorf("rights %s, want %s", got, line)
		}
	}
	want("s1,s2: orders view; s3: orders | orders me") // not s4, which she may not open
	w.must(w.PutStore(ctx, command, oauth.Store{ID: "s5", Name: "new"}))
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s5", Owner: true, MayDelegate: true})
	want("s1,s2,s5: orders view; s3: orders | orders me")
	w.must(w.DropMembership(ctx, command, "alice", "s3"))
	want("s1,s2,s5: orders view | orders view me")
	revoked, err := w.RemoveStore(ctx, alice, resp.GrantID, "s2")
	w.must(err)
	if revoked {
		t.Error("removing one store ended the grant")
	}
	want("s1,s5: orders view | orders view me")
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s4", Owner: true, MayDelegate: true})
	want("s1,s4,s5: orders view | orders view me") // all but that one
	for _, store := range []string{"s2", "s3", "b1"} {
		if _, err := w.RemoveStore(ctx, alice, resp.GrantID, store); oauth.ReasonOf(err) != oauth.NoSuch {
			t.Errorf("removing %s, which it does not reach: %v", store, err)
		}
	}
	// Asked again, what is unticked leaves, and what was taken out stays out until it is
	// ticked. A store that was on no page is one of all.
	again := func(except []string, scopes []string, ticked ...string) {
		t.Helper()
		_, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true, Stores: ticked, Except: except, Scopes: scopes})
		w.must(err)
	}
	again([]string{"s2"}, nil, "s1", "s4", "s5")
	want("s1,s4,s5: orders view | orders view me")
	again([]string{"s2", "s4", "b1", "nowhere"}, []string{deliver}, "s1")
	want("s1,s5: deliver orders view | deliver orders view me")
	again([]string{"s4"}, nil, "s1", "s2", "s5")
	want("s1,s2,s5: deliver orders view | deliver orders view me")
	again(nil, nil, "s1", "s2", "s5")
	want("s1,s2,s5: deliver orders view | deliver orders view me")
	again([]string{"s1", "s2", "s4", "s5"}, nil)
	want("| me")
}

// A request for fewer scopes limits the one key that is issued (decision 1).
func TestRights_Narrowing(t *testing.T) {
	w := newWorld(t)
	wide := w.connect(w.exchange, "alice", "s1")
	resp, err := w.redeem(w.exchange, w.allow("alice", w.ask(w.exchange, "scope", "stores.view"), "s1", "s3"))
	w.must(err)
	for what, c := range map[string]struct {
		key  oauth.Secret
		want string
	}{
		"the narrow key": {resp.AccessToken, "s1: view | view"},
		"the wide one":   {wide.AccessToken, "s1: deliver orders view | deliver orders view me"},
	} {
		if got := w.rights(c.key); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	if resp.GrantID != wide.GrantID {
		t.Error("the narrow key made a grant of its own")
	}
	// What the grant gains later never widens a narrow key.
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s3", Owner: true, MayDelegate: true})
	w.connect(w.exchange, "alice", "s1", "s2", "s3")
	if got := w.rights(resp.AccessToken); got != "s1,s2,s3: view | view" {
		t.Errorf("later: %s", got)
	}
}

// A repeat consent of an app that authenticates updates its grant: kept stores keep
// what they have and gain what is approved now, new ones get only that, others
// leave; keys that are out follow (decision 1; K17).
func TestRights_RepeatConsent(t *testing.T) {
	ctx := context.Background()
	consent := func(w *world, scope string, ticked []string, stores ...string) *oauth.TokenResponse {
		w.t.Helper()
		back, err := w.Decide(ctx, "alice", w.ask(w.exchange, "scope", scope), oauth.Decision{Allow: true, Scopes: ticked, Stores: stores})
		w.must(err)
		resp, err := w.redeem(w.exchange, param(w.t, back, "code"))
		w.must(err)
		return resp
	}
	deliver := []string{"stores.orders.deliver"}
	t.Run("kept, added, removed", func(t *testing.T) {
		w := newWorld(t)
		first := consent(w, "stores.view user.view", nil, "s1", "s2")
		second := consent(w, "stores.orders.view stores.orders.deliver", deliver, "s2", "s3")
		if first.GrantID != second.GrantID {
			t.Fatal("a second grant")
		}
		wide := w.connect(w.exchange, "alice", "s2", "s3")
		if got := w.rights(wide.AccessToken); got != "s2: deliver orders view; s3: deliver orders | deliver orders me" {
			t.Errorf("a key of everything: %s", got)
		}
		if got := w.rights(first.AccessToken); got != "s2: view | view me" {
			t.Errorf("the first key: %s", got)
		}
		if got := w.rights(second.AccessToken); got != "s2,s3: deliver orders | deliver orders" {
			t.Errorf("the second key: %s", got)
		}
	})
	t.Run("a new store gets only what is approved now", func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		consent(w, "stores.orders.view", nil, "s1", "s2")
		if got := w.rights(key.AccessToken); got != "s1: deliver orders view; s2: orders | orders me" {
			t.Errorf("rights %s", got)
		}
		consent(w, "stores.view", nil, "s2")
		if got := w.rights(key.AccessToken); got != "s2: orders view | orders view me" {
			t.Errorf("rights %s", got)
		}
		consent(w, "stores.view", nil, "s1") // s1 was away: it begins anew
		if got := w.rights(key.AccessToken); got != "s1: view | view me" {
			t.Errorf("rights %s", got)
		}
	})
	t.Run("account scopes alone leave the stores", func(t *testing.T) {
		w := newWorld(t)
		key := consent(w, "", nil, "s1", "s2")
		consent(w, "user.view", nil)
		if got := w.rights(key.AccessToken); got != "s1,s2: orders view | orders view me" {
			t.Errorf("rights %s", got)
		}
	})
	t.Run("all stores: those that were ticked keep what they have", func(t *testing.T) {
		w := newWorld(t)
		key := consent(w, "", deliver, "s1")
		back, err := w.Decide(ctx, "alice", w.ask(w.exchange, "scope", "stores.orders.view"), oauth.Decision{Allow: true, AllStores: true})
		w.must(err)
		_, err = w.redeem(w.exchange, param(t, back, "code"))
		w.must(err)
		if got := w.rights(key.AccessToken); got != "s1: deliver orders view; s2,s3: orders | orders me" {
			t.Errorf("rights %s", got)
		}
		consent(w, "stores.view", nil, "s1", "s2")
		if got := w.rights(key.AccessToken); got != "s1: deliver orders view; s2: orders view | orders view me" {
			t.Errorf("back to a list: %s", got)
		}
	})
	t.Run("suspended stays suspended", func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		w.must(w.SuspendGrant(ctx, command, key.GrantID))
		code := w.code(w.exchange, "alice", "s1", "s2")
		_, err := w.redeem(w.exchange, code)
		wantReason(t, err, oauth.GrantSuspended)
		if got := w.grant(key.GrantID).Grant.Status; got != oauth.GrantOnHold {
			t.Errorf("the grant is %s", got)
		}
		if got := w.rights(key.AccessToken); got != "inactive" {
			t.Errorf("the key: %s", got)
		}
		w.must(w.ResumeGrant(ctx, command, key.GrantID))
		if got := w.rights(key.AccessToken); got != "s1,s2: deliver orders view | deliver orders view me" {
			t.Errorf("resumed: %s", got)
		}
	})
	t.Run("revoked is never revived", func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		w.must(w.RevokeGrant(ctx, alice, key.GrantID))
		again := w.connect(w.exchange, "alice", "s2")
		if again.GrantID == key.GrantID {
			t.Fatal("the revoked grant lives again")
		}
		if got := w.rights(key.AccessToken); got != "inactive" {
			t.Errorf("the old key: %s", got)
		}
		for _, err := range []error{w.ResumeGrant(ctx, command, key.GrantID), w.SuspendGrant(ctx, command, key.GrantID), w.RevokeGrant(ctx, command, key.GrantID)} {
			wantReason(t, err, oauth.Changed)
		}
		if got := w.rights(again.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
			t.Errorf("the new key: %s", got)
		}
	})
	t.Run("public: always a grant of its own", func(t *testing.T) {
		w := newWorld(t)
		first := w.connect(w.public, "alice", "s1")
		second := w.connect(w.public, "alice", "s2")
		if first.GrantID == second.GrantID {
			t.Fatal("one grant")
		}
		if got := w.rights(first.AccessToken); got != "s1: deliver orders view | deliver orders view me" {
			t.Errorf("rights flowed to an earlier token: %s", got)
		}
		w.must(w.RevokeGrant(ctx, alice, second.GrantID))
		if got := w.rights(first.AccessToken); got == "inactive" {
			t.Error("revoking one grant ended the other")
		}
	})
}

// RemoveStore takes one store from keys that are out; the last one ends the grant
// unless the account remains.
func TestGrant_RemoveStore(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	key := w.connect(w.exchange, "alice", "s1", "s2")
	remove := func(id string) (bool, error) { return w.RemoveStore(ctx, alice, key.GrantID, id) }
	if revoked, err := remove("s1"); err != nil || revoked {
		t.Fatalf("%v %v", revoked, err)
	}
	if got := w.rights(key.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
		t.Errorf("rights %s", got)
	}
	_, err := remove("s1")
	wantReason(t, err, oauth.NoSuch)
	if revoked, err := remove("s2"); err != nil || revoked {
		t.Errorf("the account remains: %v %v", revoked, err)
	}
	if got := w.rights(key.AccessToken); got != "| me" {
		t.Errorf("rights %s", got)
	}
	narrow := form("Narrow", oauth.Exchange, oauth.Confidential)
	narrow.Scopes = narrow.Scopes[:1]
	c, secret, err := w.CreateClient(ctx, command, narrow)
	w.must(err)
	key = w.connect(app{c.ID, secret, *c}, "alice", "s1")
	if revoked, err := remove("s1"); err != nil || !revoked {
		t.Errorf("the last store: %v %v", revoked, err)
	}
	if got := w.rights(key.AccessToken); got != "inactive" {
		t.Errorf("rights %s", got)
	}
	_, err = remove("s1")
	wantReason(t, err, oauth.NoSuch)
}

// What a user sees of his connections, and what an operator counts.
func TestGrant_Lists(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.code(w.other, "alice", "s1") // never redeemed: not a connection
	w.connect(w.exchange, "alice", "s1", "s3")
	w.clock.advance(time.Microsecond)
	w.connect(w.standard, "alice", "s2")
	w.connect(w.exchange, "alice", "s1", "s3")
	w.connect(w.exchange, "bob", "b1")
	list, err := w.ConnectedApps(ctx, alice, oauth.Page{Limit: 9})
	w.must(err)
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprintf("%s %d stores %d keys", c.Client.Name, len(c.Stores), c.Keys))
	}
	if want := []string{"Books 1 stores 1 keys", "Exporter 2 stores 2 keys"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if grants, users, err := w.Reach(ctx, command, w.exchange.id); err != nil || grants != 2 || users != 2 {
		t.Errorf("reach %d grants of %d users, %v", grants, users, err)
	}
}
