package oauth_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// A grant has at most MaxKeys keys that are alive: the one too many ends the first, which
// the feed tells and the audit log says why. What is refreshed counts like a lasting key,
// and an app that is not asked again like one that is.
func TestKeys_MaxKeysTheOldestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		app  func(*world) app
	}{
		{"lasting keys", func(w *world) app { return w.exchange }},
		{"refresh chains, issued without asking", func(w *world) app { return w.standard }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			ctx := context.Background()
			a := c.app(w)
			var keys []*oauth.TokenResponse
			next := func() {
				t.Helper()
				w.clock.advance(time.Second)
				if a.Profile == oauth.Standard && len(keys) > 0 {
					keys = append(keys, w.silently(a))
				} else {
					keys = append(keys, w.connect(a, "alice", "s1"))
				}
			}
			for range oauth.MaxKeys {
				next()
			}
			grant := keys[0].GrantID
			if n := w.grant(grant).Keys; n != oauth.MaxKeys {
				t.Fatalf("%d keys are alive, want %d", n, oauth.MaxKeys)
			}
			// That a code was issued costs the first its place, before the code is redeemed.
			seq, _, err := w.db.Head(ctx)
			w.must(err)
			next()
			told, err := w.db.StatusChanges(ctx, seq, seq+10)
			w.must(err)
			status := claims(t, keys[0].AccessToken).Status.List
			if len(told) != 1 || told[0].Value != oauth.StatusInvalid || status.Index != told[0].Index%(1<<oauth.IndexBits) {
				t.Errorf("the feed tells %+v of the key at %+v", told, status)
			}
			feed, err := w.db.FeedAfter(ctx, seq, 10)
			w.must(err)
			var p struct{ Family, Why string }
			if len(feed) != 1 || json.Unmarshal(feed[0].Payload, &p) != nil {
				t.Fatalf("events %+v", feed)
			}
			if e := feed[0]; e.Kind != oauth.EventFamilyRevoked || e.Actor != "system" || e.GrantID != grant || e.UserID != "alice" || e.ClientID != a.id ||
				p.Why != "too_many_keys" || p.Family != family(claims(t, keys[0].AccessToken)) {
				t.Errorf("event %+v of %+v", e, p)
			}
			for i, k := range keys {
				if dead := w.introspect(k.AccessToken) == nil; dead != (i == 0) {
					t.Errorf("key %d: inactive %v", i, dead)
				}
			}
			if a.Profile == oauth.Standard {
				_, err := w.Token(ctx, refresh(a, keys[0].RefreshToken.Reveal()))
				wantReason(t, err, oauth.RefreshUnknown)
				if _, err := w.Token(ctx, refresh(a, keys[1].RefreshToken.Reveal())); err != nil {
					t.Errorf("the second chain: %v", err)
				}
			}
		})
	}
}

// Whoever sends a user's browser to an app's sign-in again and again begins chains that
// nobody refreshes: they end each other, and none that is refreshed. Nor is the newest of a
// user's sign-ins the first to end because all others were refreshed once.
func TestKeys_WhatIsRefreshedOutlastsSignIns(t *testing.T) {
	w := newWorld(t)
	a := w.standard
	working := w.connect(a, "alice", "s1")
	use := func(what string, k *oauth.TokenResponse) {
		t.Helper()
		if _, err := w.refresh(a, k.RefreshToken); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	w.clock.advance(time.Hour)
	use("soon", working)
	var signIns []*oauth.TokenResponse
	for range 150 {
		w.clock.advance(time.Second)
		signIns = append(signIns, w.silently(a))
	}
	use("after 150 at once", working)
	_, err := w.refresh(a, signIns[0].RefreshToken)
	wantReason(t, err, oauth.RefreshUnknown)
	for range 150 {
		w.clock.advance(7 * time.Hour)
		use("every so often", working)
		use("signed in", w.silently(a))
	}
	phone := w.silently(a)
	w.clock.advance(time.Minute)
	w.silently(a)
	use("signed in a minute before another", phone)
	if n := w.grant(working.GrantID).Keys; n != oauth.MaxKeys {
		t.Errorf("%d keys are alive", n)
	}
}

// silently connects an app that has all it asks for.
func (w *world) silently(a app) *oauth.TokenResponse {
	w.t.Helper()
	q, back, err := w.Ask(context.Background(), w.ask(a), "alice", w.Now())
	if err != nil || q != nil {
		w.t.Fatalf("asked again: %v", err)
	}
	resp, err := w.redeem(a, param(w.t, back, "code"))
	w.must(err)
	return resp
}

// Codes that are not redeemed yet count for nothing: however many are, and however many
// decisions come at once, no more keys are alive than MaxKeys and the codes of a minute;
// and the next decision brings them down.
func TestKeys_MaxKeysAndTheCodesOfAMinute(t *testing.T) {
	w := newWorld(t)
	a := w.exchange
	const codes = 40
	for range oauth.MaxKeys {
		w.connect(a, "alice", "s1")
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var waiting []string
	for range codes {
		r := w.ask(a)
		all.Go(func() {
			back, err := w.decide("alice", r, "s1")
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			waiting = append(waiting, param(t, back, "code"))
		})
	}
	all.Wait()
	grant := w.connected("alice", a)
	if n := w.grant(grant).Keys; n != oauth.MaxKeys-1 {
		t.Errorf("%d keys are alive while %d codes wait", n, codes)
	}
	for _, code := range waiting {
		if _, err := w.redeem(a, code); err != nil {
			t.Error(err)
		}
	}
	if n := w.grant(grant).Keys; n != oauth.MaxKeys-1+codes {
		t.Errorf("%d keys are alive, want %d and the codes", n, oauth.MaxKeys-1)
	}
	w.connect(a, "alice", "s1")
	if n := w.grant(grant).Keys; n != oauth.MaxKeys {
		t.Errorf("%d keys are alive after the next", n)
	}
}

// connected returns the id of the grant by which a user connected an app.
func (w *world) connected(user string, a app) string {
	w.t.Helper()
	id, err := w.db.DefaultGrant(context.Background(), user, a.id)
	w.must(err)
	return id
}

// A user decides so often and no more, by Allow and Cancel; what is refused writes nothing and
// says when to come again. Where he is not asked each app has as much of its own, and when it is
// used up he is asked: what he presses is counted apart. Others, and what was decided before, are
// as they were.
func TestDecisions_AsManyAsAUserMay(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	var err error
	if w.Server, err = newServer(ctx, w.db, w.house, w.clock.now, w.rand, oauth.Bucket{Size: 4, Refill: 1, Every: time.Minute}); err != nil {
		t.Fatal(err)
	}
	key := w.connect(w.standard, "alice", "s1")
	cancel := func() error {
		_, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{})
		return err
	}
	allow := func(user, store string) error {
		_, err := w.decide(user, w.ask(w.public), store)
		return err
	}
	page := func() *oauth.Consent {
		t.Helper()
		q, back, err := w.Ask(ctx, w.ask(w.standard), "alice", w.Now())
		if err != nil || q == nil {
			t.Fatalf("no page but %v %s", err, back.URL())
		}
		return q
	}
	// Whoever sends her browser to an app of hers again and again uses up that app's, and
	// keeps her from nothing, not even from that app.
	for range 4 {
		w.silently(w.standard)
	}
	shown := page()
	if !shown.Repeat || len(shown.Scopes) == 0 || !shown.Scopes[0].Held {
		t.Errorf("the page does not show what the app has: %+v", shown)
	}
	back, err := w.Decide(ctx, "alice", shown.Request, oauth.Decision{Allow: true, Stores: []string{"s1"}, AuthTime: w.Now()})
	w.must(err)
	if resp, err := w.redeem(w.standard, param(t, back, "code")); err != nil || resp.GrantID != key.GrantID {
		t.Errorf("Allow on that page: %v, %v", resp, err)
	}
	w.must(allow("alice", "s1"))
	w.must(cancel())
	before := w.kinds(oauth.EventFilter{})
	for what, press := range map[string]func() error{"Cancel": cancel, "Allow": func() error { return allow("alice", "s1") }} {
		err := press()
		if oauth.ReasonOf(err) != oauth.DecidedTooOften || oauth.AsError(err).RetryAfter != time.Minute {
			t.Errorf("%s: %v, again after %v", what, err, oauth.AsError(err).RetryAfter)
		}
	}
	if after := w.kinds(oauth.EventFilter{}); len(after) != len(before) {
		t.Errorf("what was refused wrote %v", after[:len(after)-len(before)])
	}
	late := page()
	if after := w.kinds(oauth.EventFilter{}); len(after) != len(before) {
		t.Errorf("a page wrote %v", after[:len(after)-len(before)])
	}
	if w.introspect(key.AccessToken) == nil {
		t.Error("a key that is out does not work")
	}
	w.must(allow("bob", "b1"))
	w.clock.advance(time.Minute - time.Microsecond)
	wantReason(t, cancel(), oauth.DecidedTooOften)
	w.clock.advance(time.Microsecond)
	w.must(cancel())
	wantReason(t, cancel(), oauth.DecidedTooOften)
	// Who was shown a page is not passed by: she may be about to press Cancel.
	if q, back, err := w.Ask(ctx, late.Request, "alice", w.Now()); err != nil || q == nil {
		t.Errorf("no page any longer, but %v %s", err, back.URL())
	}
	w.silently(w.standard)
	page()
}
