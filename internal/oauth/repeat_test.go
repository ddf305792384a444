package oauth_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// asking is a storage that counts what introspection reads.
type asking struct {
	oauth.Storage
	asked, heads atomic.Int64
	gone         atomic.Bool // the sequence cannot be read
	then         func()      // once, when a key has been read
}

var errGone = errors.New("the database does not answer")

func (a *asking) Asked(ctx context.Context, api string, secret oauth.Hash, family string) (*oauth.API, *oauth.Family, *oauth.Standing, error) {
	a.asked.Add(1)
	if then := a.then; then != nil {
		a.then = nil
		defer then()
	}
	return a.Storage.Asked(ctx, api, secret, family)
}

func (a *asking) Head(ctx context.Context) (int64, int64, error) {
	a.heads.Add(1)
	if a.gone.Load() {
		return 0, 0, errGone
	}
	return a.Storage.Head(ctx)
}

// read says what was read since it was last asked.
func (a *asking) read() [2]int64 { return [2]int64{a.asked.Swap(0), a.heads.Swap(0)} }

// askingNode is another node of w, which counts its questions.
func (w *world) askingNode() (*world, *asking) {
	w.t.Helper()
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	storage := &asking{Storage: w.db}
	node, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage,
		Ring: ring, Now: w.clock.now, Rand: newRand("asking " + w.t.Name())})
	w.must(err)
	other := *w
	other.Server = node
	return &other, storage
}

// A key is read whole once, and then one number for each question, until something
// happens to it; what happens to others only moves the sequence of the answer.
func TestIntrospect_RepeatsByOneNumber(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		key, another := w.connect(w.exchange, "alice", "s1", "s2"), w.connect(w.other, "alice", "s1")
		node, storage := w.askingNode()
		first := node.introspect(key.AccessToken)
		if got := storage.read(); got != [2]int64{1, 0} {
			t.Fatalf("at first %d reads of a key and %d of the sequence", got[0], got[1])
		}
		same := func(what string, want [2]int64) *oauth.Introspection {
			t.Helper()
			in := node.introspect(key.AccessToken)
			if got := storage.read(); got != want {
				t.Errorf("%s: %d reads of a key and %d of the sequence, want %d and %d", what, got[0], got[1], want[0], want[1])
			}
			if in == nil || line(in.Rights, in.Scope) != line(first.Rights, first.Scope) || in.ID != first.ID || in.Epoch != first.Epoch {
				t.Errorf("%s: %+v, want %+v", what, in, first)
				in = first
			}
			return in
		}
		printings := 0
		print := func(in *oauth.Introspection) []byte { printings++; return fmt.Append(nil, in.ISeq) }
		first.Printed(print)
		if in := same("again", [2]int64{0, 1}); in.ISeq != first.ISeq || string(in.Printed(print)) != fmt.Sprint(first.ISeq) || printings != 1 {
			t.Errorf("the sequence went from %d to %d, in %d printings", first.ISeq, in.ISeq, printings)
		}
		w.must(w.RevokeGrant(ctx, command, another.GrantID))
		if in := same("after an event about another", [2]int64{0, 1}); in.ISeq != first.ISeq+1 || string(in.Printed(print)) != fmt.Sprint(in.ISeq) {
			t.Errorf("the sequence went from %d to %d at one event; printed %s", first.ISeq, in.ISeq, in.Printed(print))
		}
		_, err := node.Introspect(ctx, oauth.ClientAuth{ID: w.api.ID, Secret: "a guess"}, key.AccessToken.Reveal())
		wantReason(t, err, oauth.SecretWrong)
		storage.read()
		storage.gone.Store(true)
		if in, err := node.Introspect(ctx, w.api, key.AccessToken.Reveal()); in != nil || err == nil {
			t.Errorf("without the database: %+v, %v", in, err)
		}
		storage.gone.Store(false)
		storage.read()
		w.must(w.SuspendGrant(ctx, command, key.GrantID))
		if in := node.introspect(key.AccessToken); in != nil {
			t.Errorf("suspended: %+v", in)
		}
		w.must(w.ResumeGrant(ctx, command, key.GrantID))
		storage.read()
		same("resumed", [2]int64{1, 1})
		same("and again", [2]int64{0, 1})
		w.clock.advance(365 * 24 * time.Hour)
		same("a year later", [2]int64{0, 1})
		w.must(w.CutKey(ctx, command, kidOf(t, key.AccessToken)))
		if in := node.introspect(key.AccessToken); in != nil {
			t.Errorf("once its signing key was cut: %+v", in)
		}
	})
}

// What an answer was given of before is never told again once anything has changed it,
// whoever changed it: a node that has answered before says what one says that has not.
func TestIntrospect_RepeatsNothingThatChanged(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	keys := map[string]oauth.Secret{
		"lasting": w.connect(w.exchange, "alice", "s1", "s2", "s3").AccessToken,
		"other":   w.connect(w.other, "bob", "b1", "s1").AccessToken,
		"access":  w.connect(w.standard, "alice", "s2", "s3").AccessToken,
	}
	back, err := w.Decide(ctx, "alice", w.ask(w.other), oauth.Decision{Allow: true, AllStores: true, Scopes: []string{deliver}})
	w.must(err)
	all, err := w.redeem(w.other, param(t, back, "code"))
	w.must(err)
	keys["on all stores"] = all.AccessToken
	chain := w.connect(w.public, "alice", "s1", "s2")
	narrowed, err := w.Token(ctx, refresh(w.public, chain.RefreshToken.Reveal(), "stores.view"))
	w.must(err)
	keys["narrowed"] = narrowed.AccessToken
	grant := func(name string) string { return claims(t, keys[name]).GrantID }
	rev := func(name string) int64 { return w.grant(grant(name)).Rev }
	member := func(m oauth.Membership) error { return w.SetMembership(ctx, command, m) }
	store := func(id string, s oauth.Status) error {
		return w.PutStore(ctx, command, oauth.Store{ID: id, Name: "Store " + id, Status: s})
	}
	changes := []struct {
		what string
		do   func() error
	}{
		{"a scope is dropped", func() error {
			_, err := w.EditGrant(ctx, alice, grant("lasting"), oauth.GrantEdit{Rev: rev("lasting"), Stores: []string{"s1", "s2", "s3"}})
			return err
		}},
		{"a store is taken out", func() error { _, err := w.RemoveStore(ctx, alice, grant("lasting"), "s2"); return err }},
		{"a membership is narrowed", func() error {
			return member(oauth.Membership{UserID: "alice", StoreID: "s3", Scopes: oauth.Scopes("stores.orders.view"), MayDelegate: true})
		}},
		{"a membership is lost", func() error { return w.DropMembership(ctx, command, "alice", "s3") }},
		{"a membership is new", func() error {
			return member(oauth.Membership{UserID: "alice", StoreID: "b1", Owner: true, MayDelegate: true})
		}},
		{"a store is suspended", func() error { return store("s1", oauth.Suspended) }},
		{"and resumed", func() error { return store("s1", oauth.Active) }},
		{"a grant is suspended", func() error { return w.SuspendGrant(ctx, command, grant("access")) }},
		{"and resumed", func() error { return w.ResumeGrant(ctx, command, grant("access")) }},
		{"a user is suspended", func() error { return w.SuspendUser(ctx, command, "alice") }},
		{"and resumed", func() error { return w.ResumeUser(ctx, command, "alice") }},
		{"an app is suspended", func() error { return w.SuspendClient(ctx, command, w.other.id) }},
		{"and resumed", func() error { return w.ResumeClient(ctx, command, w.other.id) }},
		{"a key is revoked", func() error { return w.Revoke(ctx, w.exchange.auth(), keys["lasting"].Reveal()) }},
		{"an app is deleted", func() error { return w.DeleteClient(ctx, command, w.standard.id, "Books") }},
		{"a signing key is cut", func() error { return w.CutKey(ctx, command, kidOf(t, keys["narrowed"])) }},
		{"everything is revoked", func() error { return w.CutEverything(ctx, command) }},
	}
	node, _ := w.askingNode()
	before := map[string]string{}
	for name, key := range keys {
		before[name] = node.rights(key)
	}
	moved := map[string]bool{}
	for _, c := range changes {
		w.must(c.do())
		fresh, _ := w.askingNode()
		for name, key := range keys {
			got, want := node.rights(key), fresh.rights(key)
			if got != want {
				t.Errorf("%s: %s: %s, want %s", c.what, name, got, want)
			}
			if got != before[name] {
				moved[c.what], before[name] = true, got
			}
		}
		if !moved[c.what] {
			t.Errorf("%s: no key is other than before", c.what)
		}
	}
	for name, last := range before {
		if last != "inactive" {
			t.Errorf("%s at the end: %s", name, last)
		}
	}
}

// A node that lags says what is so now, as of now: a follower that another node has told
// of it keeps the answer. What it reads of a key that was cut meanwhile counts, too.
func TestIntrospect_AnswersAsOfNow(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key, another := w.connect(w.exchange, "alice", "s1"), w.connect(w.other, "alice", "s1")
	node, _ := w.askingNode()
	w.must(w.RevokeGrant(ctx, command, another.GrantID))
	w.must(w.Follow(ctx))
	node.KeepWarm(0) // its last reading was just before
	if in := node.introspect(key.AccessToken); in == nil || in.ISeq != w.FeedSeq() {
		t.Errorf("%+v, want it as of %d", in, w.FeedSeq())
	}
	lags, _ := w.beside()
	w.must(w.CutKey(ctx, command, kidOf(t, key.AccessToken)))
	lags.KeepWarm(0)
	if in := lags.introspect(key.AccessToken); in != nil {
		t.Errorf("its signing key was cut: %+v", in)
	}
}

// What a node reads once a key was answered for may be that the API's secret was revoked:
// the secret does not count again for having been good.
func TestIntrospect_ASecretThatIsRevokedMeanwhile(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key, another := w.connect(w.exchange, "alice", "s1"), w.connect(w.other, "alice", "s1")
	_, _, err := w.AddAPISecret(ctx, command)
	w.must(err)
	node, storage := w.askingNode()
	w.must(w.RevokeGrant(ctx, command, another.GrantID))
	secret := w.api.Secret.Reveal()
	storage.then = func() { w.must(w.RevokeAPISecret(ctx, command, secret[len(secret)-4:])) }
	node.KeepWarm(0)
	if in := node.introspect(key.AccessToken); in == nil {
		t.Error("it was good when it was asked for")
	}
	_, err = node.introspection(key.AccessToken.Reveal())
	wantReason(t, err, oauth.SecretWrong)
}
