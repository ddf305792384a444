package oauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Secrets are 72 characters, shown once, two at most, and never none (DESIGN,
// decision 9; seed komerza-exchange).
func TestClient_Secrets(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	works := func(s oauth.Secret) bool {
		_, err := w.Token(ctx, oauth.TokenRequest{Auth: oauth.ClientAuth{ID: w.exchange.id, Secret: s}, GrantType: oauth.GrantAuthorizationCode, Code: "x"})
		return oauth.ReasonOf(err) == oauth.CodeUnknown
	}
	first := w.exchange.secret
	if n := len(first.Reveal()); n != 72 || strings.Trim(first.Reveal(), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Errorf("%d characters", n)
	}
	w.clock.advance(1000)
	second, err := w.AddSecret(ctx, command, w.exchange.id)
	w.must(err)
	if second == first || !works(first) || !works(second) {
		t.Error("both must work")
	}
	_, err = w.AddSecret(ctx, command, w.exchange.id)
	wantReason(t, err, oauth.TooMany)
	last4 := func(s oauth.Secret) string { return s.Reveal()[68:] }
	c, err := w.MyClient(ctx, command, w.exchange.id)
	w.must(err)
	if len(c.Secrets) != 2 || c.Secrets[0].Last4 != last4(first) || c.Secrets[1].Last4 != last4(second) {
		t.Errorf("%+v", c.Secrets)
	}
	wantReason(t, w.RevokeSecret(ctx, command, w.exchange.id, "????"), oauth.NoSuch)
	w.must(w.RevokeSecret(ctx, command, w.exchange.id, last4(first)))
	if works(first) || !works(second) {
		t.Error("the wrong secret was revoked")
	}
	wantReason(t, w.RevokeSecret(ctx, command, w.exchange.id, last4(second)), oauth.LastSecret)
	if !works(second) {
		t.Error("the only secret is gone")
	}
	for _, near := range []oauth.Secret{second[:71], second + "A", oauth.Secret(strings.ToUpper(second.Reveal())), oauth.Secret(oauth.HashOf(second))} {
		if works(near) {
			t.Errorf("%q works", near.Reveal())
		}
	}
	_, err = w.AddSecret(ctx, command, w.public.id)
	wantReason(t, err, oauth.NoSuch)
}

// The API's secrets can be replaced like an app's. One that is revoked is refused at
// once, by the introspection and by the feed, though the node remembers who showed it.
func TestAPI_Secrets(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		key := w.connect(w.exchange, "alice", "s1").AccessToken
		first := w.api
		w.clock.advance(1000)
		id, secret, err := w.AddAPISecret(ctx, command)
		w.must(err)
		second := oauth.ClientAuth{ID: id, Secret: secret}
		for _, a := range []oauth.ClientAuth{first, second} {
			w.api = a
			w.begin(w.Server)
			if w.rights(key) == "inactive" {
				t.Fatal("both must work")
			}
		}
		last4 := func(a oauth.ClientAuth) string { return a.Secret.Reveal()[68:] }
		wantReason(t, w.RevokeAPISecret(ctx, alice, last4(first)), oauth.NotPermitted)
		wantReason(t, w.RevokeAPISecret(ctx, command, "????"), oauth.NoSuch)
		w.must(w.RevokeAPISecret(ctx, command, last4(first)))
		w.must(w.Follow(ctx))
		w.api = first
		_, err = w.introspection(key.Reveal())
		wantReason(t, err, oauth.SecretWrong)
		_, err = w.poll(w.Server, 0, 0)
		wantReason(t, err, oauth.SecretWrong)
		w.api = second
		w.begin(w.Server)
		if w.rights(key) == "inactive" {
			t.Error("the wrong secret was revoked")
		}
		wantReason(t, w.RevokeAPISecret(ctx, command, last4(second)), oauth.LastSecret)
		_, _, err = w.AddAPISecret(ctx, command)
		w.must(err)
	})
}

// A secret prints itself nowhere.
func TestSecret_NeverPrints(t *testing.T) {
	s := oauth.Secret("canary")
	type holder struct{ S oauth.Secret }
	j, err := json.Marshal(holder{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %X %d", s, s, s, s, s, s, s, s), fmt.Sprintf("%+v %#v", holder{s}, holder{s}), string(j)} {
		if strings.Contains(out, "canary") || strings.Contains(out, "63616e617279") {
			t.Errorf("it prints itself: %s", out)
		}
	}
}

// No event holds a credential (decision 6).
func TestEvents_HoldNoCredential(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	code := w.code(w.standard, "alice", "s1")
	resp, err := w.redeem(w.standard, code)
	w.must(err)
	next, err := w.refresh(w.standard, resp.RefreshToken)
	w.must(err)
	key := w.connect(w.exchange, "alice", "s1")
	secret, err := w.AddSecret(ctx, command, w.exchange.id)
	w.must(err)
	_, err = w.redeem(w.standard, code)
	wantReason(t, err, oauth.CodeUsed)
	guest := w.connect(w.direct, "")
	f := form("Keyed", oauth.Direct, oauth.Public)
	f.Settings.APIKeyHash = oauth.HashOf("api key")
	_, _, err = w.CreateClient(ctx, command, f)
	w.must(err)
	events, err := w.Events(ctx, command, oauth.EventFilter{Limit: 1000})
	w.must(err)
	all, err := json.Marshal(events)
	w.must(err)
	for _, s := range []oauth.Secret{oauth.Secret(code), resp.AccessToken, resp.RefreshToken, next.AccessToken, key.AccessToken, secret, guest.AccessToken, guest.RefreshToken, w.exchange.secret} {
		for _, part := range []string{s.Reveal(), s.Reveal()[len(s)-20:]} {
			if strings.Contains(string(all), part) {
				t.Errorf("an event holds %s", part)
			}
		}
	}
	if len(events) < 20 {
		t.Errorf("only %d events", len(events))
	}
}

// What is another's is answered like what is not there, word for word (attack B4).
func TestActor_OthersThingsAreMissing(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	f := form("Bobs", oauth.Exchange, oauth.Confidential)
	theirs, _, err := w.CreateClient(ctx, bob, f)
	w.must(err)
	grant := w.connect(w.exchange, "bob", "b1").GrantID
	client := oauth.Actor{Kind: oauth.AsClient, ID: w.exchange.id}
	for name, call := range map[string]func(a oauth.Actor, id string) error{
		"MyClient":      func(a oauth.Actor, id string) error { _, err := w.MyClient(ctx, a, id); return err },
		"UpdateClient":  func(a oauth.Actor, id string) error { _, err := w.UpdateClient(ctx, a, id, 1, f); return err },
		"DeleteClient":  func(a oauth.Actor, id string) error { return w.DeleteClient(ctx, a, id, "Bobs") },
		"AddSecret":     func(a oauth.Actor, id string) error { _, err := w.AddSecret(ctx, a, id); return err },
		"RevokeSecret":  func(a oauth.Actor, id string) error { return w.RevokeSecret(ctx, a, id, "abcd") },
		"Reach":         func(a oauth.Actor, id string) error { _, _, err := w.Reach(ctx, a, id); return err },
		"SuspendClient": func(a oauth.Actor, id string) error { return w.SuspendClient(ctx, a, id) },
		"RevokeGrant":   func(a oauth.Actor, id string) error { return w.RevokeGrant(ctx, a, id) },
		"SuspendGrant":  func(a oauth.Actor, id string) error { return w.SuspendGrant(ctx, a, id) },
		"ResumeGrant":   func(a oauth.Actor, id string) error { return w.ResumeGrant(ctx, a, id) },
		"RemoveStore":   func(a oauth.Actor, id string) error { _, err := w.RemoveStore(ctx, a, id, "b1"); return err },
		"EditGrant":     func(a oauth.Actor, id string) error { _, err := w.EditGrant(ctx, a, id, oauth.GrantEdit{}); return err },
		"Editable":      func(a oauth.Actor, id string) error { _, err := w.Editable(ctx, a, id); return err },
		"EditStore":     func(a oauth.Actor, id string) error { _, err := w.EditStore(ctx, a, id, "b1", 1, nil); return err },
		"User":          func(a oauth.Actor, id string) error { _, err := w.User(ctx, a, id); return err },
	} {
		t.Run(name, func(t *testing.T) {
			id := theirs.ID
			switch {
			case strings.HasSuffix(name, "Grant") || strings.HasPrefix(name, "Edit") || name == "RemoveStore":
				id = grant
			case name == "User":
				id = "bob"
			}
			for _, who := range []oauth.Actor{alice, client, {}, {Kind: oauth.AsUser}, {Kind: oauth.AsNobody, ID: "bob"}} {
				e, missing := oauth.AsError(call(who, id)), oauth.AsError(call(who, "not-there"))
				if e.Code != oauth.NotFound || e.Code != missing.Code || e.Description != missing.Description || e.Param != missing.Param {
					t.Errorf("as %s: %v, a missing one: %v", who, e, missing)
				}
				if id == theirs.ID { // nor has anybody the apps that no developer owns
					wantReason(t, call(who, w.exchange.id), oauth.NotPermitted)
				}
			}
		})
	}
	for name, err := range map[string]error{
		"Grants":            errOf(w.Grants(ctx, alice, oauth.GrantFilter{})),
		"Users":             errOf(w.Users(ctx, alice, "", oauth.Page{Limit: 1})),
		"Stores":            errOf(w.Stores(ctx, alice, "", oauth.Page{Limit: 1})),
		"Events":            errOf(w.Events(ctx, alice, oauth.EventFilter{Limit: 1})),
		"APIs":              errOf(w.APIs(ctx, alice)),
		"Memberships":       errOf(w.Memberships(ctx, alice, "bob")),
		"PutUser":           w.PutUser(ctx, alice, oauth.User{ID: "x"}),
		"PutStore":          w.PutStore(ctx, alice, oauth.Store{ID: "x", Name: "x"}),
		"SetMembership":     w.SetMembership(ctx, alice, oauth.Membership{UserID: "alice", StoreID: "b1", Owner: true}),
		"DropMembership":    w.DropMembership(ctx, alice, "bob", "b1"),
		"SuspendUser":       w.SuspendUser(ctx, alice, "bob"),
		"VerifyClient":      w.VerifyClient(ctx, bob, theirs.ID, theirs.Version, true),
		"suspending itself": w.SuspendUser(ctx, oauth.Actor{Kind: oauth.AsOperator, ID: "alice"}, "alice"),
	} {
		if oauth.ReasonOf(err) != oauth.NotPermitted {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, err = w.AddAPISecret(ctx, alice)
	wantReason(t, err, oauth.NotPermitted)
	list, err := w.Clients(ctx, bob, true, oauth.Page{Limit: 10})
	w.must(err)
	if len(list) != 1 || list[0].ID != theirs.ID {
		t.Errorf("bob sees %d apps", len(list))
	}
	if w.grant(grant).Grant.Status != oauth.Live {
		t.Error("bob's grant changed")
	}
}

func errOf[T any](_ T, err error) error { return err }

// A name is what pages show of it: white space is one space. Who deletes an app types what
// he sees, also where it was registered before that.
func TestClient_NameAsShown(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	f := form("  Twin \u00a0 Space ", oauth.Standard, oauth.Confidential)
	c, _, err := w.CreateClient(ctx, alice, f)
	w.must(err)
	if c.Name != "Twin Space" {
		t.Errorf("it is called %q", c.Name)
	}
	old := *c
	old.Name = "Twin  Space"
	old.Settings.Verified = true
	e, err := w.NewEvent(ctx, oauth.EventClientUpdated, command, nil)
	w.must(err)
	e.ClientID = c.ID
	if won, err := w.db.UpdateClient(ctx, &old, e); !won || err != nil {
		t.Fatal(won, err)
	}
	wantField(t, w.DeleteClient(ctx, alice, c.ID, "TwinSpace"), "name", oauth.FieldRequired)
	f.Name = old.Name
	now, err := w.UpdateClient(ctx, alice, c.ID, c.Version+1, f)
	w.must(err)
	if now.Name != "Twin Space" || !now.Settings.Verified {
		t.Errorf("saved as it was: %q, verified %v", now.Name, now.Settings.Verified)
	}
	old.Version += 2
	if e, err = w.NewEvent(ctx, oauth.EventClientUpdated, command, nil); err != nil {
		t.Fatal(err)
	}
	e.ClientID = c.ID
	if won, err := w.db.UpdateClient(ctx, &old, e); !won || err != nil {
		t.Fatal(won, err)
	}
	w.must(w.DeleteClient(ctx, alice, c.ID, "Twin Space"))
}

// What only the operator may give an app.
func TestClient_OperatorsOnly(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.CreateClient(ctx, alice, form("Guests", oauth.Direct, oauth.Public))
	wantField(t, err, "type", oauth.NotPermitted)
	f := form("Mine", oauth.Standard, oauth.Confidential)
	f.ID = "my-own-id"
	_, _, err = w.CreateClient(ctx, alice, f)
	wantField(t, err, "id", oauth.NotPermitted)
	f.ID = ""
	f.Settings = oauth.ClientSettings{NoPKCE: true, Verified: true, RotateRefresh: true, ContinueGuest: true, APIKeyHash: oauth.HashOf("x")}
	c, _, err := w.CreateClient(ctx, alice, f)
	w.must(err)
	if s := c.Settings; s.NoPKCE || s.Verified || s.RotateRefresh || s.ContinueGuest || s.APIKeyHash != nil {
		t.Errorf("a developer set %+v", s)
	}
	// Another name is another app: the badge is not carried over.
	w.must(w.VerifyClient(ctx, command, c.ID, c.Version, true))
	c, err = w.MyClient(ctx, alice, c.ID)
	w.must(err)
	_, err = w.UpdateClient(ctx, alice, c.ID, c.Version, f)
	w.must(err)
	c, _ = w.MyClient(ctx, alice, c.ID)
	if !c.Settings.Verified {
		t.Error("the badge went without reason")
	}
	f.Name = "The Platform"
	_, err = w.UpdateClient(ctx, alice, c.ID, c.Version-1, f)
	wantReason(t, err, oauth.Changed)
	_, err = w.UpdateClient(ctx, alice, c.ID, c.Version, f)
	w.must(err)
	if c, _ = w.MyClient(ctx, alice, c.ID); c.Settings.Verified || c.Name != "The Platform" {
		t.Errorf("%s, verified %v", c.Name, c.Settings.Verified)
	}
	if wantField(t, w.DeleteClient(ctx, alice, c.ID, "the platform"), "name", oauth.FieldRequired); t.Failed() {
		return
	}
	w.must(w.DeleteClient(ctx, alice, c.ID, " The Platform "))
	_, err = w.MyClient(ctx, alice, c.ID)
	wantReason(t, err, oauth.NoSuch)

	for id, reason := range map[string]oauth.Reason{"not-a-uuid": oauth.IDNotUUID, "https://client.example/": oauth.IDIsURL, "a b": oauth.IDMalformed,
		strings.Repeat("x", 256): oauth.IDMalformed, w.other.id: oauth.IDTaken} {
		f := form("Imported", oauth.Exchange, oauth.Confidential)
		f.ID = id
		_, _, err := w.CreateClient(ctx, command, f)
		wantField(t, err, "id", reason)
	}
}

// The badge goes to what the operator saw, and stays with no host that he did not see
// (attack B5).
func TestClient_B5_Badge(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	f := form("Mine", oauth.Standard, oauth.Public)
	f.Redirects = []string{"https://mine.example/cb", "https://mine.example/other", "http://127.0.0.1/cb", "com.example.mine:/cb"}
	asking := func(f *oauth.ClientForm, scope string) {
		f.Scopes = append(slices.Clone(f.Scopes), oauth.ClientScope{Name: scope})
	}
	asking(&f, "stores.tax.update") // a high risk
	f.Homepage, f.Terms = "https://mine.example", "https://lawyer.example/terms"
	c, _, err := w.CreateClient(ctx, alice, f)
	w.must(err)
	read := func() *oauth.Client {
		t.Helper()
		c, err := w.MyClient(ctx, alice, c.ID)
		w.must(err)
		return c
	}
	update := func(by oauth.Actor, f oauth.ClientForm) {
		t.Helper()
		_, err := w.UpdateClient(ctx, by, c.ID, read().Version, f)
		w.must(err)
	}
	seen := read().Version
	f.Name = "The Platform"
	update(alice, f)
	wantReason(t, w.VerifyClient(ctx, command, c.ID, seen, true), oauth.Changed)
	if read().Settings.Verified {
		t.Error("a name was verified that the operator did not see")
	}
	// It is taken from what he has not seen, too: or who goes on saving would keep it.
	w.must(w.VerifyClient(ctx, command, c.ID, read().Version, true))
	w.must(w.VerifyClient(ctx, command, c.ID, seen, false))
	if read().Settings.Verified {
		t.Error("the badge was not taken")
	}
	for name, tc := range map[string]struct {
		change func(*oauth.ClientForm)
		keeps  bool
	}{
		"nothing":                {func(*oauth.ClientForm) {}, true},
		"a path":                 {func(f *oauth.ClientForm) { f.Redirects[1] = "https://mine.example/new" }, true},
		"a redirect less":        {func(f *oauth.ClientForm) { f.Redirects = f.Redirects[:1] }, true},
		"a page of the home":     {func(f *oauth.ClientForm) { f.Homepage = "https://mine.example/de" }, true},
		"no home page":           {func(f *oauth.ClientForm) { f.Homepage = "" }, true},
		"papers at home":         {func(f *oauth.ClientForm) { f.Terms, f.Privacy = "https://mine.example/t", "https://mine.example/p" }, true},
		"papers at the lawyer's": {func(f *oauth.ClientForm) { f.Terms, f.Privacy = "", "https://lawyer.example/p" }, true},
		"no papers":              {func(f *oauth.ClientForm) { f.Terms = "" }, true},
		"terms elsewhere":        {func(f *oauth.ClientForm) { f.Terms = "https://evil.example" }, false},
		"privacy elsewhere":      {func(f *oauth.ClientForm) { f.Privacy = "https://mine.example.evil.example" }, false},
		"the lawyer as home":     {func(f *oauth.ClientForm) { f.Homepage = "https://lawyer.example" }, false},
		"a scope less":           {func(f *oauth.ClientForm) { f.Scopes = f.Scopes[:2] }, true},
		"a scope":                {func(f *oauth.ClientForm) { asking(f, "stores.products.view") }, true},
		"a risk that was there": {func(f *oauth.ClientForm) {
			f.Scopes = slices.Clone(f.Scopes)
			f.Scopes[len(f.Scopes)-1].Required = true
		}, true},
		"a risk":                   {func(f *oauth.ClientForm) { asking(f, "stores.orders.refund") }, false},
		"another home":             {func(f *oauth.ClientForm) { f.Homepage = "https://evil.example" }, false},
		"a redirect elsewhere":     {func(f *oauth.ClientForm) { f.Redirects = append(f.Redirects, "https://evil.example/cb") }, false},
		"one instead":              {func(f *oauth.ClientForm) { f.Redirects[1] = "https://mine.example.evil.example/cb" }, false},
		"a redirect host, as home": {func(f *oauth.ClientForm) { f.Homepage = "https://mine.example:8443" }, false},
		"another port":             {func(f *oauth.ClientForm) { f.Redirects[1] = "https://mine.example:8443/cb" }, false},
		"a host named as a scheme": {func(f *oauth.ClientForm) { f.Redirects[1] = "https://com.example.mine/cb" }, false},
		"another scheme":           {func(f *oauth.ClientForm) { f.Redirects[3] = "com.evil.mine:/cb" }, false},
	} {
		for who, by := range map[string]oauth.Actor{"developer": alice, "operator": command} {
			update(command, f)
			w.must(w.VerifyClient(ctx, command, c.ID, read().Version, true))
			next := f
			next.Redirects = slices.Clone(f.Redirects)
			tc.change(&next)
			update(by, next)
			if got := read().Settings.Verified; got != (tc.keeps || by == command) {
				t.Errorf("%s, by the %s: verified %v", name, who, got)
			}
		}
	}
}

// A user makes so many apps within a day, deleted or not, and is told when he may make
// the next one. A form that was posted already is still told that it was.
func TestClient_SoManyADay(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	make := func(actor oauth.Actor, r oauth.ReservedID) (*oauth.Client, error) {
		f := form("Another", oauth.Exchange, oauth.Confidential)
		f.Reserved = r
		c, _, err := w.CreateClient(ctx, actor, f)
		return c, err
	}
	sealed, err := w.ReserveID(alice.ID)
	w.must(err)
	reserved, err := w.OpenReserved(sealed, alice.ID)
	w.must(err)
	first, err := make(alice, reserved)
	w.must(err)
	w.clock.advance(time.Hour)
	for range oauth.MaxApps - 1 {
		c, err := make(alice, oauth.ReservedID{})
		w.must(err)
		w.must(w.DeleteClient(ctx, alice, c.ID, c.Name))
	}
	_, err = make(alice, oauth.ReservedID{})
	wantReason(t, err, oauth.AppTooMany)
	if wait := oauth.AsError(err).RetryAfter; wait != 23*time.Hour {
		t.Errorf("the next one in %v", wait)
	}
	_, err = make(alice, reserved)
	wantField(t, err, "id", oauth.IDTaken)
	w.must(errOf(make(bob, oauth.ReservedID{})))
	w.must(w.DeleteClient(ctx, alice, first.ID, first.Name))
	w.clock.advance(23*time.Hour - time.Microsecond)
	_, err = make(alice, oauth.ReservedID{})
	wantReason(t, err, oauth.AppTooMany)
	w.clock.advance(time.Microsecond)
	w.must(errOf(make(alice, oauth.ReservedID{})))
	_, err = make(alice, oauth.ReservedID{})
	wantReason(t, err, oauth.AppTooMany)
	w.must(errOf(make(oauth.Actor{Kind: oauth.AsOperator, ID: alice.ID}, oauth.ReservedID{})))
}

// Names that could deceive on the consent page are refused (attack B6).
func TestClient_Names(t *testing.T) {
	w := newWorld(t)
	for name, reason := range map[string]oauth.Reason{
		"Exporter":                             "",
		"O'Reilly & Söhne 24/7":                "",
		"Лавка":                                "",
		"日本のストア":                               "",
		"متجر":                                 "",
		"":                                     oauth.FieldRequired,
		" \t ":                                 oauth.FieldRequired,
		strings.Repeat("ä", 60):                "",
		strings.Repeat("a", 61):                oauth.FieldTooLong,
		"Shορ":                                 oauth.FieldUnclean, // Greek in Latin
		"Pаypal":                               oauth.FieldUnclean, // Cyrillic а
		"Shop\u202eetucexe":                    oauth.FieldUnclean, // right-to-left override
		"Sh\u200bop":                           oauth.FieldUnclean, // zero-width space
		"Sh\u00adop":                           oauth.FieldUnclean, // soft hyphen
		"Sh\u2060op":                           oauth.FieldUnclean, // word joiner
		"Shop\ufe0f":                           oauth.FieldUnclean, // variation selector
		"\u3164":                               oauth.FieldUnclean, // Hangul filler: a letter that shows nothing
		"Shop ✓":                               oauth.FieldUnclean,
		"Shop ✅":                               oauth.FieldUnclean,
		"Shop 🛡":                               oauth.FieldUnclean,
		"Shop\nVerified":                       oauth.FieldUnclean,
		"Shop\x00":                             oauth.FieldUnclean,
		"Shop\xff":                             oauth.FieldUnclean,
		"Shop\ue000":                           oauth.FieldUnclean, // private use
		"PayPaⅼ":                               oauth.FieldUnclean, // a Roman numeral
		"Shop②":                                oauth.FieldUnclean,
		"Shop²":                                oauth.FieldUnclean,
		"Oﬃce":                                 oauth.FieldUnclean, // a ligature
		"Fĳi":                                  oauth.FieldUnclean, // and another
		"ᴾaypal":                               oauth.FieldUnclean, // raised
		"Ηellas 24":                            oauth.FieldUnclean, // Greek Η in Latin
		"Ελλάδα":                               "",
		"МАРКЕТ 24":                            "",
		"Shop\u2028x":                          oauth.FieldUnclean, // line separator
		"A+B = 24":                             "",
		"Parcel Pilot √":                       oauth.FieldUnclean,
		"Ok\u20dd":                             oauth.FieldUnclean, // in a circle
		"24\u20dd":                             oauth.FieldUnclean, // and round digits
		"\u0301":                               oauth.FieldUnclean,
		"-":                                    oauth.FieldUnclean,
		"…!":                                   oauth.FieldUnclean,
		"24/7":                                 "",
		"Shop \u0301":                          oauth.FieldUnclean, // on a space
		"Ye\u0302\u0323n":                      "",                 // Vietnamese, taken apart
		"Ye\u0302\u0323\u0331n":                oauth.FieldUnclean,
		"a\u0331\u0331":                        oauth.FieldUnclean, // twice the same
		"Pilot" + strings.Repeat("\u0331", 48): oauth.FieldUnclean,
		"Pilot" + strings.Repeat("\u0331\u0332", 2): oauth.FieldUnclean,
		"ร้านที่ดี":                                 "", // Thai, two marks on a letter
		"တို့ဆိုင်":                                 "", // Burmese, three
		"བསྒྲུབས":                                   "", // Tibetan, three
		"क्षत्रिय दुकान":                            "",
		"חֲנוּת":                                    "",
		"مَتْجَرٌ":                                  "",
		"Shop\u0e31":                                oauth.FieldUnclean, // a Thai mark in Latin
		"\u0e01\u0e34\u0e48\u0e34\u0e48\u0e34":      oauth.FieldUnclean, // five
	} {
		_, _, err := w.CreateClient(context.Background(), alice, form(name, oauth.Exchange, oauth.Confidential))
		if reason == "" {
			if err != nil {
				t.Errorf("%q: %v", name, err)
			}
			continue
		}
		t.Run(fmt.Sprintf("%+q", name), func(t *testing.T) { wantField(t, err, "name", reason) })
	}
}

// The text of every refusal is plain (RFC 6749, 5.2) and names no value that was
// sent (attack G10).
func TestReasons(t *testing.T) {
	w := newWorld(t)
	if len(oauth.Reasons()) < 70 {
		t.Fatalf("%d reasons", len(oauth.Reasons()))
	}
	for r, code := range oauth.Reasons() {
		e := oauth.Refuse(r)
		if e.Code != code || code == "" || e.Description == "" {
			t.Errorf("%s: %+v", r, e)
		}
		for _, b := range []byte(e.Description) {
			if b < 0x20 || b > 0x7e || b == '"' || b == '\\' {
				t.Errorf("%s: %q may not stand in error_description", r, b)
			}
		}
		for _, word := range []string{"invalid", "please", "oops", "!"} {
			if strings.Contains(strings.ToLower(e.Description), word) {
				t.Errorf("%s: %s", r, e.Description)
			}
		}
	}
	for _, name := range []string{"state", "scope", "code_challenge", "response_type"} {
		_, back, err := w.Authorize(context.Background(), w.query(w.public, name, "canary\""+strings.Repeat("canary", 800)))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(param(t, back, "error_description"), "canary") {
			t.Errorf("what was sent comes back: %s", back.URL())
		}
	}
}

// A name that has the operator's in it could be taken for the platform itself
// (attack B6), however it is spaced; the operator's own apps may, and stay as he named
// them when their developer edits them.
func TestClient_B6_PlatformsName(t *testing.T) {
	w := newWorld(t)
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	s, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Platform: "Nord Licht", Catalogue: w.Catalogue(), Storage: w.db, Ring: ring})
	w.must(err)
	for name, refused := range map[string]bool{
		"Nord Licht": true, "NORDLICHT Support": true, "nord-licht": true, "N o r d l i c h t": true, "Labels for Nord Licht": true, "The (Nordlicht)": true,
		"OfficialNordLicht": true, "24Nordlicht": true, "Nordlich": false, "Nord": false, "Lichtnord": false, "Innordlichten": false,
	} {
		f := form(name, oauth.Exchange, oauth.Confidential)
		_, _, err := s.CreateClient(context.Background(), oauth.Actor{Kind: oauth.AsUser, ID: "alice"}, f)
		var fields oauth.FieldErrors
		if errors.As(err, &fields) != refused || refused && oauth.ReasonOf(fields["name"]) != oauth.NameReserved {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := s.CreateClient(context.Background(), command, f); err != nil {
			t.Errorf("%s, by the operator: %v", name, err)
		}
	}
	boss := oauth.Actor{Kind: oauth.AsOperator, ID: "alice"}
	f := form("Nord Licht", oauth.Exchange, oauth.Confidential)
	c, _, err := s.CreateClient(context.Background(), boss, f)
	w.must(err)
	_, err = s.UpdateClient(context.Background(), alice, c.ID, c.Version, f)
	w.must(err)
	f.Name = "Nord Licht 2"
	_, err = s.UpdateClient(context.Background(), alice, c.ID, c.Version+1, f)
	wantField(t, err, "name", oauth.NameReserved)
}

// Nor does a developer take the name of an app that carries the badge and is somebody
// else's (attack B6). Other names are anybody's, and his own he keeps.
func TestClient_B6_VerifiedName(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	make := func(by oauth.Actor, name string) (*oauth.Client, error) {
		c, _, err := w.CreateClient(ctx, by, form(name, oauth.Standard, oauth.Confidential))
		return c, err
	}
	known, err := make(alice, "Parcel Pilot")
	w.must(err)
	before, err := make(bob, "Parcel Pilot")
	w.must(err)
	w.must(w.VerifyClient(ctx, command, known.ID, known.Version, true))
	for _, name := range []string{"Parcel Pilot", "parcel-pilot", "ParceI Pílot"} {
		_, err := make(bob, name)
		wantField(t, err, "name", oauth.NameTaken)
		w.must(errOf(make(alice, name)))
		w.must(errOf(make(command, name)))
	}
	w.must(errOf(make(bob, "Parcel Pilots")))
	f := form("Parcel Pilot", oauth.Standard, oauth.Confidential)
	_, err = w.UpdateClient(ctx, bob, before.ID, before.Version, f)
	w.must(err)
	f.Name = "Parcel-Pilot"
	_, err = w.UpdateClient(ctx, bob, before.ID, before.Version+1, f)
	wantField(t, err, "name", oauth.NameTaken)
	imported, err := make(command, "राम")
	w.must(err)
	w.must(w.VerifyClient(ctx, command, imported.ID, imported.Version, true))
	w.must(errOf(make(bob, "रीमा"))) // its vowels are marks
	w.must(w.DeleteClient(ctx, alice, known.ID, known.Name))
	w.must(errOf(make(bob, "Parcel Pilot")))
}

// Consent shows the host of an app's links beneath its name, so only the operator gives
// it one of the platform's sites (attack B6).
func TestClient_B6_PlatformsSites(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	s, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Sites: []string{"harbour.example"}, Catalogue: w.Catalogue(), Storage: w.db, Ring: ring})
	w.must(err)
	for link, refused := range map[string]bool{
		"https://harbour.example": true, "https://www.harbour.example/": true, "https://WWW.Harbour.Example:8443/x": true, "https://harbour.example./": true,
		"https://yourharbour.example": false, "https://harbour.example.org": false, "https://example/harbour.example": false,
	} {
		for _, field := range []string{"homepage", "terms", "privacy"} {
			f := form("App", oauth.Standard, oauth.Confidential)
			at := map[string]*string{"homepage": &f.Homepage, "terms": &f.Terms, "privacy": &f.Privacy}[field]
			*at = link
			_, _, err := s.CreateClient(ctx, bob, f)
			if refused {
				wantField(t, err, field, oauth.LinkReserved)
			} else {
				w.must(err)
			}
			c, _, err := s.CreateClient(ctx, oauth.Actor{Kind: oauth.AsOperator, ID: "alice"}, f)
			w.must(err)
			_, err = s.UpdateClient(ctx, alice, c.ID, c.Version, f) // what the operator wrote may stay
			w.must(err)
			if *at += "/x"; refused {
				_, err = s.UpdateClient(ctx, alice, c.ID, c.Version+1, f)
				wantField(t, err, field, oauth.LinkReserved)
			}
		}
	}
}

// Nor is it the platform's own name in letters that only look like its own; names of
// every script that look like nobody's are taken (UTS 39; attack B6).
func TestClient_B6_LookAlikes(t *testing.T) {
	w := newWorld(t)
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	for platform, names := range map[string]map[string]bool{
		"Harbour": {
			"Harbour Support": true, "Ha\u0301rbour": true, "Hárbour": true, "HÁRBOUR": true, "Harboụr Support": true, "Ḫąřƀøůŗ": true, "The Harbour": true,
			"Official Hárbour": true, "TheHarbour": true, "Ҭһе һагьоиг": false, "Haven": false, "Har": false,
		},
		"Æther":    {"Ǽther": true, "Aether": false},
		"Lidl":     {"The |idl": true, "Łidl": true},
		"Grantway": {"ɡrantway": true, "ɢʀᴀɴᴛᴡᴀʏ": true, "Grantway Support": true, "Grant": false, "Гранит": false},
		"Paypal": {
			"paypaI": true, "PayPa1": true, "раураӏ": true, "РАУРАӀ": true, "ꓑꓮꓬꓑꓮꓡ": true, "ᏢᎪᎩᏢᎪᏞ": true, "ᏢᎪᎽᏢᎪᏞ 24": true,
			"PayPa|": true, "|Paypal": true, "PayPa١": true, "Pay|al": false,
			"Платёж": false, "Παύλος": false, "Paypoint": false, "पेपैल": false,
		},
		"Bolt 10": {"BOIT lO": true, "ВОӀТ 10": true, "Bolt ١٠": true, "B०lt 1०": true, "Bolt 12": false, "Bold 10": false},
		"Лавка":   {"ЛАВКА": true, "лавка 24": true, "Лавр": false, "Labka": false},
		"ΝΙΚΗ":    {"νικη": true, "NIKH": true, "Νίτσα": false},
	} {
		s, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Platform: platform, Catalogue: w.Catalogue(), Storage: w.db, Ring: ring})
		w.must(err)
		for name, refused := range names {
			f := form(name, oauth.Exchange, oauth.Confidential)
			_, _, err := s.CreateClient(context.Background(), alice, f)
			if refused {
				wantField(t, err, "name", oauth.NameReserved)
			}
			if (err != nil) != refused {
				t.Errorf("%s beside %s: %v", name, platform, err)
			}
			_, _, err = s.CreateClient(context.Background(), command, f)
			w.must(err)
		}
	}
}
