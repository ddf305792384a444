package oauth_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// What a user may post, and what it gets (attacks B3, B9; seed-contracts K10, K16).
func TestConsent_Stores(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		user   string
		stores []string
		want   oauth.Reason
		rights string
	}{
		"one":                        {"alice", []string{"s1"}, "", "s1: deliver orders view | deliver orders view me"},
		"two of three":               {"alice", []string{"s2", "s1"}, "", "s1,s2: deliver orders view | deliver orders view me"},
		"twice the same":             {"alice", []string{"s1", "s1", "s1"}, "", "s1: deliver orders view | deliver orders view me"},
		"shared with an owner":       {"bob", []string{"s1"}, "", "s1: orders view | orders view me"},
		"none ticked":                {"alice", nil, oauth.StoreNone, ""},
		"of another user":            {"alice", []string{"b1"}, oauth.StoreForeign, ""},
		"own and of another":         {"alice", []string{"s1", "b1"}, oauth.StoreForeign, ""},
		"not there":                  {"alice", []string{"s1", "nowhere"}, oauth.StoreForeign, ""},
		"empty id":                   {"alice", []string{""}, oauth.StoreForeign, ""},
		"not to be opened":           {"alice", []string{"s4"}, oauth.StoreForeign, ""},
		"own and not to be opened":   {"alice", []string{"s1", "s4"}, oauth.StoreForeign, ""},
		"a user without stores":      {"carol", nil, oauth.NothingToGrant, ""},
		"of others, without any":     {"carol", []string{"s1"}, oauth.NothingToGrant, ""},
		"nobody":                     {"mallory", []string{"s1"}, oauth.NotSignedIn, ""},
		"not signed in":              {"", []string{"s1"}, oauth.NotSignedIn, ""},
		"id with a quote":            {"alice", []string{"s1' OR '1'='1"}, oauth.StoreForeign, ""},
		"ids joined into one":        {"alice", []string{"s1,s2"}, oauth.StoreForeign, ""},
		"an upper-case id":           {"alice", []string{"S1"}, oauth.StoreForeign, ""},
		"a space behind":             {"alice", []string{"s1 "}, oauth.StoreForeign, ""},
		"three of which two foreign": {"bob", []string{"s1", "s2", "s3"}, oauth.StoreForeign, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			back, err := w.decide(c.user, w.ask(w.exchange), c.stores...)
			if c.want != "" {
				wantReason(t, err, c.want)
				if !back.IsZero() {
					t.Errorf("refused, and yet back to %s", back.URL())
				}
				if list, _ := w.Grants(ctx, command, oauth.GrantFilter{Page: oauth.Page{Limit: 9}}); len(list) != 0 {
					t.Error("refused, and yet there is a grant")
				}
				return
			}
			w.must(err)
			resp, err := w.redeem(w.exchange, param(t, back, "code"))
			w.must(err)
			if got := w.rights(resp.AccessToken); got != c.rights {
				t.Errorf("rights %s, want %s", got, c.rights)
			}
		})
	}
}

// What changes between page and POST counts as it is at the POST (attack B3).
func TestConsent_ChangedMeanwhile(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		change func(w *world) error
		want   oauth.Reason
	}{
		"store lost": {func(w *world) error { return w.DropMembership(ctx, command, "alice", "s1") }, oauth.StoreForeign},
		"may not open it": {func(w *world) error {
			return w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Owner: true})
		}, oauth.StoreForeign},
		"store gone": {func(w *world) error {
			return w.PutStore(ctx, command, oauth.Store{ID: "s1", Name: "x", Status: oauth.Deleted})
		}, oauth.StoreForeign},
		"user suspended": {func(w *world) error { return w.SuspendUser(ctx, command, "alice") }, oauth.UserSuspended},
		"app suspended":  {func(w *world) error { return w.SuspendClient(ctx, command, w.exchange.id) }, oauth.ClientSuspended},
		"app deleted":    {func(w *world) error { return w.DeleteClient(ctx, command, w.exchange.id, "Exporter") }, oauth.ClientUnknown},
		"redirect removed": {func(w *world) error {
			return update(w, w.exchange, func(f *oauth.ClientForm) { f.Redirects = []string{loopback} })
		}, oauth.RedirectUnregistered},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			sealed, err := w.Seal(w.ask(w.exchange), "s")
			w.must(err)
			w.must(c.change(w))
			r, err := w.Open(sealed, "s")
			w.must(err)
			back, err := w.decide("alice", r, "s1", "s2")
			wantReason(t, err, c.want)
			if !back.IsZero() {
				t.Errorf("and yet back to %s", back.URL())
			}
			if c.want != oauth.StoreForeign {
				back, err := w.Decide(ctx, "alice", r, oauth.Decision{})
				wantReason(t, err, c.want)
				if !back.IsZero() {
					t.Errorf("Cancel went to %s", back.URL())
				}
			}
		})
	}
}

// insist makes every scope of an app a required one.
func insist(f *oauth.ClientForm) {
	f.Scopes = slices.Clone(f.Scopes)
	for i := range f.Scopes {
		f.Scopes[i].Required = true
	}
}

// Allow is for what was shown (attack B2): if the app says or asks for something else by
// then, nothing is granted, the page comes again, and the next Allow is for that.
func TestConsent_AllowIsForWhatWasShown(t *testing.T) {
	ctx := context.Background()
	const all = "s1: deliver orders view | deliver orders view me"
	for name, c := range map[string]struct {
		change func(f *oauth.ClientForm)
		scope  string // that the request names
		rights string // of the second Allow, with nothing optional ticked
	}{
		"another scope is required": {func(f *oauth.ClientForm) {
			f.Scopes = append(slices.Clone(f.Scopes), oauth.ClientScope{Name: "stores.tax.update", Required: true})
		}, "", "s1: orders stores.tax.update view | orders stores.tax.update view me"},
		"an optional one becomes required":   {insist, "", all},
		"the same, and the request names it": {insist, "stores.view stores.orders.deliver", "s1: deliver view | deliver view"},
		"a scope is taken back":              {func(f *oauth.ClientForm) { f.Scopes = []oauth.ClientScope{{Name: "stores.view", Required: true}} }, "", "s1: view | view"},
		"another name":                       {func(f *oauth.ClientForm) { f.Name = "Harbour Support" }, "", "s1: orders view | orders view me"},
		"another home":                       {func(f *oauth.ClientForm) { f.Homepage = "https://bank.example/" }, "", "s1: orders view | orders view me"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			asks := func(r *oauth.AuthorizationRequest) *oauth.Consent {
				q, _, err := w.Ask(ctx, r, "alice", w.Now())
				w.must(err)
				sealed, err := w.Seal(q.Request, "s")
				w.must(err)
				q.Request, err = w.Open(sealed, "s")
				w.must(err)
				return q
			}
			press := oauth.Decision{Allow: true, Stores: []string{"s1"}}
			q := asks(w.ask(w.exchange, "scope", c.scope))
			if q.Changed {
				t.Error("the first page says that something has changed")
			}
			w.must(update(w, w.exchange, c.change))
			for range 2 {
				back, err := w.Decide(ctx, "alice", q.Request, press)
				wantReason(t, err, oauth.Changed)
				if !back.IsZero() {
					t.Fatalf("and yet back to %s", back.URL())
				}
			}
			if list, _ := w.Grants(ctx, command, oauth.GrantFilter{Page: oauth.Page{Limit: 9}}); len(list) != 0 {
				t.Fatalf("granted: %+v", list)
			}
			again := asks(q.Request)
			if !again.Changed || again.Request.ID != q.Request.ID {
				t.Errorf("the page that comes again: %+v", again)
			}
			back, err := w.Decide(ctx, "alice", again.Request, press)
			w.must(err)
			resp, err := w.redeem(w.exchange, param(t, back, "code"))
			w.must(err)
			if got := w.rights(resp.AccessToken); got != c.rights {
				t.Errorf("rights %s, want %s", got, c.rights)
			}
		})
	}
	t.Run("what no page shows is nobody's question", func(t *testing.T) {
		w := newWorld(t)
		r := w.ask(w.exchange)
		w.must(update(w, w.exchange, func(f *oauth.ClientForm) { f.Redirects = append(f.Redirects, "https://client.example/other") }))
		w.allow("alice", r, "s1")
	})
}

// editing is a storage in which an app is edited after a decision was made ready, and
// before it is written.
type editing struct {
	oauth.Storage
	edit func()
}

func (e *editing) RecordDecision(ctx context.Context, d oauth.DecisionRecord) (bool, error) {
	happen(&e.edit)
	return e.Storage.RecordDecision(ctx, d)
}

// An edit of the app between the reading and the writing of a decision is not missed
// either (attack B2), also where nobody is asked: what it leaves as it was shown goes
// on, and nothing else does.
func TestConsent_AnEditBesideTheDecision(t *testing.T) {
	ctx := context.Background()
	edits := map[string]struct {
		change func(f *oauth.ClientForm)
		want   oauth.Reason
	}{
		"of a redirect": {func(f *oauth.ClientForm) { f.Redirects = append(f.Redirects, "https://client.example/other") }, ""},
		"of a scope":    {insist, oauth.Changed},
	}
	for name, c := range edits {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			storage := &editing{Storage: w.db}
			office := w.office(storage)
			r := w.ask(w.exchange)
			storage.edit = func() { w.must(update(w, w.exchange, c.change)) }
			_, err := office.Decide(ctx, "alice", r, oauth.Decision{Allow: true, Stores: []string{"s1"}})
			wantReason(t, err, c.want)
			list, _ := w.Grants(ctx, command, oauth.GrantFilter{Page: oauth.Page{Limit: 9}})
			if granted := len(list) == 1; granted != (c.want == "") {
				t.Errorf("granted: %+v", list)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		w := newWorld(t)
		w.connect(w.standard, "alice", "s1")
		storage := &editing{Storage: w.db}
		office := w.office(storage)
		storage.edit = func() {
			w.must(update(w, w.standard, func(f *oauth.ClientForm) {
				f.Scopes = append(slices.Clone(f.Scopes), oauth.ClientScope{Name: "stores.tax.update", Required: true})
			}))
		}
		_, back, err := office.Ask(ctx, w.ask(w.standard), "alice", w.Now())
		wantReason(t, err, oauth.Changed)
		if !back.IsZero() {
			t.Errorf("back to %s", back.URL())
		}
	})
}

// A silent consent to one host beside the user's Allow for another does not win back the
// host that he has left (attack B10).
func TestConsent_AnAllowForAnotherHostBesideASilentOne(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.connect(w.standard, "alice", "s1")
	storage := &editing{Storage: w.db}
	office := w.office(storage)
	storage.edit = func() {
		w.allow("alice", w.ask(w.standard, "redirect_uri", loopback), "s1")
	}
	_, back, err := office.Ask(ctx, w.ask(w.standard), "alice", w.Now())
	wantReason(t, err, oauth.Changed)
	if !back.IsZero() {
		t.Errorf("back to %s", back.URL())
	}
	if got := w.grant(w.connected("alice", w.standard)).Host; got != "http://127.0.0.1" {
		t.Errorf("the grant's host is %s", got)
	}
}

// update edits an app as its operator would.
func update(w *world, a app, change func(f *oauth.ClientForm)) error {
	c, err := w.MyClient(context.Background(), command, a.id)
	if err != nil {
		return err
	}
	f := oauth.ClientForm{Name: c.Name, Scopes: c.Scopes, Settings: c.Settings}
	for _, r := range c.Redirects {
		f.Redirects = append(f.Redirects, string(r))
	}
	change(&f)
	_, err = w.UpdateClient(context.Background(), command, a.id, c.Version, f)
	return err
}

// Scopes are approved as they were asked for: all that is required, what is ticked
// of the rest, and never more than the request named.
func TestConsent_Scopes(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		scope  string
		ticked []string
		stores []string
		want   oauth.Reason
		rights string
	}{
		"required only":              {"", nil, []string{"s1"}, "", "s1: orders view | orders view me"},
		"optional ticked":            {"", []string{"stores.orders.deliver"}, []string{"s1"}, "", "s1: deliver orders view | deliver orders view me"},
		"ticked, but never asked":    {"stores.view", []string{"stores.orders.deliver", "stores.tax.update"}, []string{"s1"}, "", "s1: view | view"},
		"ticked, but not registered": {"", []string{"stores.tax.update"}, []string{"s1"}, "", "s1: orders view | orders view me"},
		"optional only, declined":    {"stores.orders.deliver", nil, []string{"s1"}, oauth.NothingToGrant, ""},
		"account scopes only":        {"user.view", nil, nil, "", "| me"},
		"account only, store posted": {"user.view", nil, []string{"b1"}, "", "| me"},
		"store scopes declined":      {"user.view stores.orders.deliver", nil, nil, "", "| me"},
		"store scopes need a store":  {"user.view stores.orders.deliver", []string{"stores.orders.deliver"}, nil, oauth.StoreNone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.ask(w.exchange, "scope", c.scope)
			back, err := w.Decide(ctx, "alice", r, oauth.Decision{Allow: true, Stores: c.stores, Scopes: c.ticked})
			wantReason(t, err, c.want)
			if c.want != "" {
				return
			}
			resp, err := w.redeem(w.exchange, param(t, back, "code"))
			w.must(err)
			if got := w.rights(resp.AccessToken); got != c.rights {
				t.Errorf("rights %s, want %s", got, c.rights)
			}
			if got := printed(t, resp.AccessToken); got != c.rights {
				t.Errorf("printed %s, want %s", got, c.rights)
			}
		})
	}
	t.Run("account scopes need no store to own", func(t *testing.T) {
		w := newWorld(t)
		resp, err := w.redeem(w.exchange, w.allow("carol", w.ask(w.exchange, "scope", "user.view")))
		w.must(err)
		if got := w.rights(resp.AccessToken); got != "| me" {
			t.Errorf("rights %s", got)
		}
	})
}

// Allow pressed twice replaces the code by one of the same deadline; after the
// redemption the app is connected already (DESIGN, decision 4; attack B12).
func TestConsent_AllowTwice(t *testing.T) {
	for _, kind := range []string{"confidential", "public"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			a := map[string]app{"confidential": w.exchange, "public": w.public}[kind]
			r := w.ask(a)
			old := w.allow("alice", r, "s1")
			w.clock.advance(40 * time.Second)
			code := w.allow("alice", r, "s2")
			_, err := w.redeem(a, old)
			wantReason(t, err, oauth.CodeUnknown)
			w.clock.advance(20*time.Second - time.Microsecond)
			resp, err := w.redeem(a, code)
			w.must(err)
			if got := w.rights(resp.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
				t.Errorf("rights %s", got)
			}
			if list, _ := w.ConnectedApps(context.Background(), alice, oauth.Page{Limit: 9}); len(list) != 1 {
				t.Errorf("%d connections", len(list))
			}
			_, err = w.decide("alice", r, "s1")
			wantReason(t, err, oauth.RequestSpent)
			if got := w.rights(resp.AccessToken); got != "s2: deliver orders view | deliver orders view me" {
				t.Errorf("the spent request changed the rights: %s", got)
			}
		})
	}
	t.Run("the deadline is the first one's", func(t *testing.T) {
		w := newWorld(t)
		r := w.ask(w.exchange)
		w.allow("alice", r, "s1")
		w.clock.advance(59 * time.Second)
		code := w.allow("alice", r, "s1")
		w.clock.advance(time.Second)
		_, err := w.redeem(w.exchange, code)
		wantReason(t, err, oauth.CodeExpired)
		_, err = w.decide("alice", r, "s1")
		wantReason(t, err, oauth.RequestExpired)
	})
}

// Cancel tells the app, and nothing else happens.
func TestConsent_Cancel(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Stores: []string{"b1"}})
	w.must(err)
	if got, want := back.URL(), callback+"?error=access_denied&error_description=The+user+declined.&state=xyz"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if list, _ := w.Grants(ctx, command, oauth.GrantFilter{Page: oauth.Page{Limit: 9}}); len(list) != 0 {
		t.Error("there is a grant")
	}
	if got := w.kinds(oauth.EventFilter{UserID: "alice", ClientID: w.exchange.id}); len(got) != 1 || got[0] != oauth.EventConsentDenied {
		t.Errorf("events %v", got)
	}
}

// Cancel on a form whose Allow was pressed before takes that back, as often as it is
// pressed; what has taken effect stands, and nobody is told otherwise (attack B12).
func TestConsent_CancelAfterAllow(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []string{"confidential", "public"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			a := map[string]app{"confidential": w.exchange, "public": w.public}[kind]
			denials := func() (n int) {
				for _, k := range w.kinds(oauth.EventFilter{UserID: "alice", ClientID: a.id}) {
					if k == oauth.EventConsentDenied {
						n++
					}
				}
				return n
			}
			cancel := func(r *oauth.AuthorizationRequest) error {
				t.Helper()
				before := denials()
				back, err := w.Decide(ctx, "alice", r, oauth.Decision{Stores: []string{"s1"}})
				if told := err == nil && param(t, back, "error") == "access_denied"; told != (err == nil) || (denials() > before) != told {
					t.Errorf("back to %q, %v, and %d denials are noted, %d before", back.URL(), err, denials(), before)
				}
				return err
			}
			r := w.ask(a)
			code := w.allow("alice", r, "s1")
			for range 2 {
				w.must(cancel(r))
			}
			_, err := w.redeem(a, code)
			wantReason(t, err, oauth.CodeUnknown)
			w.clock.advance(59 * time.Second) // Allow again is as if Cancel had not been
			resp, err := w.redeem(a, w.allow("alice", r, "s2"))
			w.must(err)
			wantReason(t, cancel(r), oauth.RequestSpent)
			if w.introspect(resp.AccessToken) == nil {
				t.Error("Cancel ended a key")
			}
			late := w.ask(w.other)
			w.allow("alice", late, "s1")
			w.clock.advance(time.Minute)
			if _, err := w.Decide(ctx, "alice", late, oauth.Decision{}); err != nil {
				t.Errorf("Cancel, where nobody took the code: %v", err)
			}

			// What has ended since is not said to be connected.
			w.must(w.RevokeGrant(ctx, alice, resp.GrantID))
			wantReason(t, cancel(r), oauth.RequestOver)
			_, err = w.decide("alice", r, "s1")
			wantReason(t, err, oauth.RequestOver)
		})
	}
	t.Run("of an app that is connected", func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		r := w.ask(w.exchange)
		w.must(errOf(w.Decide(ctx, "alice", r, oauth.Decision{})))
		w.allow("alice", r, "s1", "s2")
		_, err := w.Decide(ctx, "alice", r, oauth.Decision{})
		wantReason(t, err, oauth.RequestSpent) // it has s2 from the moment of the Allow
		if got := w.rights(key.AccessToken); !strings.HasPrefix(got, "s1,s2:") {
			t.Errorf("the key has %s", got)
		}
		w.must(w.RevokeGrant(ctx, alice, key.GrantID))
		w.must(errOf(w.Decide(ctx, "alice", r, oauth.Decision{}))) // and nothing is left
		// One that another request connected, and that ended.
		r = w.ask(w.exchange)
		first := w.connect(w.exchange, "alice", "s1")
		_, err = w.redeem(w.exchange, w.allow("alice", r, "s1"))
		w.must(err)
		w.must(w.RevokeGrant(ctx, alice, first.GrantID))
		_, err = w.decide("alice", r, "s1")
		wantReason(t, err, oauth.RequestOver)
	})
}

// What the page shows: stores that may be ticked, those that are ticked already,
// scopes in the catalogue's order.
func TestConsent_Ask(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	show := func(user string, r *oauth.AuthorizationRequest) *oauth.Consent {
		t.Helper()
		q, back, err := w.Ask(ctx, r, user, w.Now())
		if err != nil || !back.IsZero() {
			t.Fatalf("no page: %v %s", err, back.URL())
		}
		return q
	}
	ticks := func(q *oauth.Consent) (s string) {
		for _, c := range q.Stores {
			s += c.StoreID
			if c.Ticked {
				s += "+"
			}
			if !c.May {
				s += "-"
			}
			s += " "
		}
		return s
	}
	q := show("alice", w.ask(w.exchange))
	if got := ticks(q); got != "s1 s2 s3 s4- " || q.Delegable() != 3 || q.Repeat || !q.NeedsStore || !q.Lasting {
		t.Errorf("alice, first: %s %+v", got, q)
	}
	if len(q.Scopes) != 4 || q.Scopes[0].Name != "stores.view" || !q.Scopes[0].Required || q.Scopes[0].Held {
		t.Errorf("scopes %+v", q.Scopes)
	}
	if list, _ := w.Grants(ctx, command, oauth.GrantFilter{Page: oauth.Page{Limit: 9}}); len(list) != 0 {
		t.Error("looking at the page made a grant")
	}
	w.must(w.DropMembership(ctx, command, "bob", "b1"))
	if got := ticks(show("bob", w.ask(w.exchange))); got != "s1+ " {
		t.Errorf("one store is shown and chosen: %s", got)
	}
	w.connect(w.exchange, "alice", "s2")
	if q := show("alice", w.ask(w.exchange)); ticks(q) != "s1 s2+ s3 s4- " || !q.Repeat || !q.Scopes[0].Held {
		t.Errorf("alice, again: %s", ticks(q))
	}
	if q := show("alice", w.ask(w.exchange, "scope", "user.view")); q.NeedsStore {
		t.Error("an account scope alone asks for a store")
	}
	if q := show("carol", w.ask(w.exchange)); len(q.Stores) != 0 || q.Delegable() != 0 {
		t.Errorf("carol: %s", ticks(q))
	}
	_, _, err := w.Ask(ctx, w.ask(w.exchange), "mallory", w.Now())
	wantReason(t, err, oauth.NotSignedIn)
}

// Silent reuse is for a standard app that authenticates and has it all already
// (DESIGN, decision 1; attack B10).
func TestConsent_Silent(t *testing.T) {
	ctx := context.Background()
	setup := func(t *testing.T) (*world, func(of app, pairs ...string) oauth.Redirect) {
		w := newWorld(t)
		return w, func(of app, pairs ...string) oauth.Redirect {
			t.Helper()
			_, back, err := w.Ask(ctx, w.ask(of, pairs...), "alice", w.Now())
			w.must(err)
			return back
		}
	}
	t.Run("standard, confidential", func(t *testing.T) {
		w, ask := setup(t)
		if back := ask(w.standard); !back.IsZero() {
			t.Fatalf("the first time without a page: %s", back.URL())
		}
		before := w.connect(w.standard, "alice", "s1")
		back := ask(w.standard)
		if back.IsZero() {
			t.Fatal("a page, though all is granted")
		}
		if param(t, back, "iss") != issuer || param(t, back, "state") != "xyz" {
			t.Errorf("answer %s", back.URL())
		}
		resp, err := w.redeem(w.standard, param(t, back, "code"))
		w.must(err)
		if resp.GrantID != before.GrantID || w.rights(resp.AccessToken) != w.rights(before.AccessToken) {
			t.Error("the silent key is of another grant or has other rights")
		}
		back = ask(w.standard, "scope", "stores.view")
		if resp, err = w.redeem(w.standard, param(t, back, "code")); err != nil || w.rights(resp.AccessToken) != "s1: view | view" {
			t.Errorf("narrowed and silent: %v", err)
		}
		w.must(w.SuspendGrant(ctx, command, before.GrantID))
		if back := ask(w.standard); !back.IsZero() {
			t.Error("silent, though suspended")
		}
		w.must(w.ResumeGrant(ctx, command, before.GrantID))
		w.must(w.RevokeGrant(ctx, alice, before.GrantID))
		if back := ask(w.standard); !back.IsZero() {
			t.Error("silent, though revoked")
		}
	})
	t.Run("something was declined", func(t *testing.T) {
		w, ask := setup(t)
		back, err := w.Decide(ctx, "alice", w.ask(w.standard), oauth.Decision{Allow: true, Stores: []string{"s1"}})
		w.must(err)
		_, err = w.redeem(w.standard, param(t, back, "code"))
		w.must(err)
		if back := ask(w.standard); !back.IsZero() {
			t.Error("silent, though a scope that was declined is asked for")
		}
	})
	t.Run("a store that is not the user's to tick is no question", func(t *testing.T) {
		paused := func(w *world) error {
			return w.PutStore(ctx, command, oauth.Store{ID: "s2", Name: "x", Status: oauth.Suspended})
		}
		member := func(m oauth.Membership) func(w *world) error {
			m.UserID, m.StoreID = "alice", "s2"
			return func(w *world) error { return w.SetMembership(ctx, command, m) }
		}
		for name, c := range map[string]struct {
			change func(w *world) error
			silent bool
		}{
			"paused":                 {paused, true},
			"left":                   {func(w *world) error { return w.DropMembership(ctx, command, "alice", "s2") }, true},
			"not to be opened":       {member(oauth.Membership{Scopes: oauth.Scopes("stores.view")}), true},
			"less may be done in it": {member(oauth.Membership{Scopes: oauth.Scopes("stores.view"), MayDelegate: true}), false},
			"nothing, any more":      {member(oauth.Membership{MayDelegate: true}), false},
		} {
			w, ask := setup(t)
			w.connect(w.standard, "alice", "s1", "s2")
			w.must(c.change(w))
			if back := ask(w.standard); back.IsZero() == c.silent {
				t.Errorf("%s: silent %t", name, !back.IsZero())
			}
		}
		w, ask := setup(t)
		w.connect(w.standard, "alice", "s2")
		w.must(paused(w))
		if back := ask(w.standard); !back.IsZero() {
			t.Error("silent, though no store is left")
		}
	})
	t.Run("never redeemed", func(t *testing.T) {
		w, ask := setup(t)
		w.code(w.standard, "alice", "s1")
		if back := ask(w.standard); !back.IsZero() {
			t.Error("silent, though no code was ever redeemed")
		}
	})
	t.Run("public and lasting always ask", func(t *testing.T) {
		w, ask := setup(t)
		for _, a := range []app{w.public, w.exchange} {
			w.connect(a, "alice", "s1")
			if back := ask(a); !back.IsZero() {
				t.Errorf("%s: no page", a.Name)
			}
		}
	})
}

// A host that is new since the user last decided is a question, once: whoever takes over
// a developer's account gets no code unseen (attack B10). Another path is none.
func TestConsent_SilentToTheSameHost(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	const path, evil, here, port = "https://client.example/other", "https://evil.example/callback", "http://127.0.0.1:8001/cb", "http://127.0.0.1:8002/cb"
	w.connect(w.standard, "alice", "s1")
	w.must(update(w, w.standard, func(f *oauth.ClientForm) { f.Redirects = append(f.Redirects, path, evil, "http://127.0.0.1/cb") }))
	silent := func(to string) bool {
		t.Helper()
		_, back, err := w.Ask(ctx, w.ask(w.standard, "redirect_uri", to), "alice", w.Now())
		w.must(err)
		return !back.IsZero()
	}
	for _, step := range []struct {
		to     string
		silent bool
	}{{callback, true}, {path, true}, {evil, false}, {evil, false}, {callback, true}} {
		if got := silent(step.to); got != step.silent {
			t.Errorf("%s: silent %v", step.to, got)
		}
	}
	// Allowed as it is, or with another store: either is a decision on the host.
	for _, store := range []string{"s1", "s2"} {
		w.allow("alice", w.ask(w.standard, "redirect_uri", evil), store)
		if !silent(evil) || silent(callback) {
			t.Errorf("after Allow of %s: silent to %v, and to where one went before: %v", store, silent(evil), silent(callback))
		}
		w.allow("alice", w.ask(w.standard), store)
	}
	// Whatever the port, it is this machine (RFC 8252, 7.3).
	w.allow("alice", w.ask(w.standard, "redirect_uri", here), "s1")
	if !silent(port) {
		t.Error("asked because of a port of loopback")
	}
	w.allow("alice", w.ask(w.standard), "s1")
	_, err := w.Decide(ctx, "alice", w.ask(w.standard, "redirect_uri", evil), oauth.Decision{})
	w.must(err)
	if silent(evil) || !silent(callback) {
		t.Error("Cancel let the app go to another host")
	}
}

// Nothing hangs off a grant that was never taken up: the next decision replaces it
// whole, also where it allows less.
func TestConsent_PendingIsReplaced(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	first := w.ask(w.exchange)
	_, err := w.Decide(ctx, "alice", first, oauth.Decision{Allow: true, Stores: []string{"s1", "s2"}, Scopes: []string{"stores.orders.deliver"}})
	w.must(err)
	q, _, err := w.Ask(ctx, w.ask(w.exchange), "alice", w.Now())
	w.must(err)
	if q.Repeat {
		t.Error("an app that is not connected is shown as if it were")
	}
	for _, s := range q.Stores {
		if s.Ticked {
			t.Errorf("%s is ticked", s.StoreID)
		}
	}
	for _, again := range []*oauth.AuthorizationRequest{first, w.ask(w.exchange)} {
		back, err := w.Decide(ctx, "alice", again, oauth.Decision{Allow: true, Stores: []string{"s2"}})
		w.must(err)
		if again == first {
			continue
		}
		key, err := w.redeem(w.exchange, param(t, back, "code"))
		w.must(err)
		if got := w.rights(key.AccessToken); got != "s2: orders view | orders view me" {
			t.Errorf("the key has %s", got)
		}
	}
}

// Unticking every store of an app whose store scopes are all optional closes them
// (decision 1: an unticked one leaves the grant).
func TestConsent_EveryStoreUnticked(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	f := form("Reader", oauth.Exchange, oauth.Confidential)
	f.Scopes = []oauth.ClientScope{{Name: "user.view", Required: true}, {Name: "stores.view"}}
	c, secret, err := w.CreateClient(ctx, command, f)
	w.must(err)
	reader := app{Client: *c, id: c.ID, secret: secret}
	allow := func(d oauth.Decision) string {
		t.Helper()
		d.Allow = true
		back, err := w.Decide(ctx, "alice", w.ask(reader), d)
		w.must(err)
		key, err := w.redeem(reader, param(t, back, "code"))
		w.must(err)
		return key.AccessToken.Reveal()
	}
	old := allow(oauth.Decision{Stores: []string{"s1", "s2"}, Scopes: []string{"stores.view"}})
	fresh := allow(oauth.Decision{})
	for name, key := range map[string]string{"the key that was out": old, "the new key": fresh} {
		if got := w.rights(oauth.Secret(key)); got != "| me" {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// The sweep takes grants that nobody took up within a day, but never one that a
// code still hangs off: that user would else be taken for a guest.
func TestConsent_PendingWithACodeIsNotSwept(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	w.code(w.exchange, "alice", "s1")
	w.clock.advance(24*time.Hour - 5*time.Second)
	code := w.code(w.exchange, "alice", "s1", "s2") // the same grant, a day old in a moment
	w.clock.advance(10 * time.Second)
	if _, err := w.db.Sweep(ctx, w.Now(), oauth.EventsKept, 100); err != nil {
		t.Fatal(err)
	}
	key, err := w.redeem(w.exchange, code)
	w.must(err)
	if c := claims(t, key.AccessToken); c.Subject != "alice" {
		t.Errorf("the key is %s's", c.Subject)
	}
	// One without a code goes, with its stores, and nothing of it is left in the way.
	w.code(w.other, "alice", "s1")
	w.clock.advance(25 * time.Hour)
	for range 2 { // first the code, then the grant
		if _, err := w.db.Sweep(ctx, w.Now(), oauth.EventsKept, 100); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.db.DefaultGrant(ctx, "alice", w.other.id); !errors.Is(err, oauth.ErrNotFound) {
		t.Errorf("the abandoned grant: %v", err)
	}
	w.connect(w.other, "alice", "s2")
	if got := w.rights(key.AccessToken); !strings.HasPrefix(got, "s1,s2:") {
		t.Errorf("the live key has %s", got)
	}
}

// Who declines an extra that the app asks for leaves what is ticked as it is
// (decision 1: a store that stays ticked keeps its scopes).
func TestConsent_DecliningAnExtraKeepsWhatIsTicked(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1", "s2")
	r := w.ask(w.exchange, "scope", "stores.orders.deliver user.view")
	_, err := w.Decide(ctx, "alice", r, oauth.Decision{Allow: true, Stores: []string{"s1"}})
	w.must(err)
	if got := w.rights(key.AccessToken); !strings.HasPrefix(got, "s1: ") || strings.Contains(got, "s2") {
		t.Errorf("the key has %s", got)
	}
	if _, err := w.Decide(ctx, "alice", w.ask(w.exchange, "scope", "stores.orders.deliver user.view"), oauth.Decision{Allow: true, Stores: []string{"b1"}}); oauth.ReasonOf(err) != oauth.StoreForeign {
		t.Errorf("somebody else's store: %v", err)
	}
}

// What no tick is about a repeat consent leaves as it is: a store that is paused, one
// that the user has left, one that he may connect nothing to any more.
func TestConsent_StoresThatAreNotOfferedStay(t *testing.T) {
	ctx := context.Background()
	pause := func(w *world, status oauth.Status) {
		w.must(w.PutStore(ctx, command, oauth.Store{ID: "s2", Name: "x", Status: status}))
	}
	owner := oauth.Membership{UserID: "alice", StoreID: "s2", Owner: true}
	opened := owner
	opened.MayDelegate = true
	for name, c := range map[string]struct{ lose, regain func(w *world) }{
		"paused":           {func(w *world) { pause(w, oauth.Suspended) }, func(w *world) { pause(w, oauth.Active) }},
		"left":             {func(w *world) { w.must(w.DropMembership(ctx, command, "alice", "s2")) }, func(w *world) { w.membership(opened) }},
		"not to be opened": {func(w *world) { w.membership(owner) }, func(w *world) { w.membership(opened) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key := w.connect(w.exchange, "alice", "s1", "s2")
			want := func(what, line string) {
				t.Helper()
				if got := w.rights(key.AccessToken); got != line {
					t.Errorf("%s: %s, want %s", what, got, line)
				}
			}
			decide := func(d oauth.Decision) {
				t.Helper()
				d.Allow = true
				_, err := w.Decide(ctx, "alice", w.ask(w.exchange), d)
				w.must(err)
			}
			c.lose(w)
			q, _, err := w.Ask(ctx, w.ask(w.exchange), "alice", w.Now())
			w.must(err)
			for _, s := range q.Stores {
				if s.StoreID == "s2" && (s.Ticked || !s.Stays) || s.StoreID != "s2" && s.Stays {
					t.Errorf("the page: %+v", s)
				}
			}
			decide(oauth.Decision{Stores: []string{"s3"}})
			c.regain(w)
			want("one for another", "s2: deliver orders view; s3: deliver orders | deliver orders me")
			c.lose(w)
			decide(oauth.Decision{AllStores: true})
			c.regain(w)
			want("a list becomes all", "s1,s2: deliver orders view; s3: deliver orders | deliver orders me")
			_, err = w.RemoveStore(ctx, alice, key.GrantID, "s2")
			w.must(err)
			c.lose(w)
			decide(oauth.Decision{AllStores: true})
			c.regain(w)
			want("taken out of all", "s1: deliver orders view; s3: deliver orders | deliver orders me")
		})
	}
	t.Run("what only all gave ends with it", func(t *testing.T) {
		w := newWorld(t)
		back, err := w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, AllStores: true, Scopes: []string{deliver}})
		w.must(err)
		key, err := w.redeem(w.exchange, param(t, back, "code"))
		w.must(err)
		_, err = w.EditStore(ctx, alice, key.GrantID, "s2", w.grant(key.GrantID).Rev, nil)
		w.must(err)
		w.membership(owner) // of "all" it is none any more, and none of a list either
		_, err = w.Decide(ctx, "alice", w.ask(w.exchange), oauth.Decision{Allow: true, Stores: []string{"s1"}})
		w.must(err)
		if got := w.rights(key.AccessToken); got != "s1: deliver orders view | deliver orders view me" {
			t.Errorf("the key has %s", got)
		}
	})
}
