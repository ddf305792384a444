package oauth_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

func (w *world) refresh(a app, token oauth.Secret, scope ...string) (*oauth.TokenResponse, error) {
	return w.Token(context.Background(), refresh(a, token.Reveal(), scope...))
}

// Public apps rotate, and a client whose answer was lost gets the same successor
// again for ten seconds; anything older ends the family (DESIGN, decision 8; RFC
// 9700, 4.14.2; attack C4).
func TestRefresh_RFC9700_4_14(t *testing.T) {
	for _, kind := range []string{"public", "direct, rotating"} {
		setup := func(t *testing.T) (*world, app, *oauth.TokenResponse) {
			w := newWorld(t)
			a := map[string]app{"public": w.public, "direct, rotating": w.rotating}[kind]
			return w, a, w.connect(a, "alice", "s1")
		}
		use := func(t *testing.T, w *world, a app, token oauth.Secret) *oauth.TokenResponse {
			t.Helper()
			resp, err := w.refresh(a, token)
			if err != nil {
				t.Fatalf("Token: %v", err)
			}
			if w.rights(resp.AccessToken) == "inactive" {
				t.Fatal("the new access token is dead")
			}
			return resp
		}
		replay := func(t *testing.T, w *world, a app, old oauth.Secret, newest *oauth.TokenResponse) {
			t.Helper()
			_, err := w.refresh(a, old)
			wantReason(t, err, oauth.RefreshReplayed)
			if w.rights(newest.AccessToken) != "inactive" {
				t.Error("a replay left the access token alive")
			}
			_, err = w.refresh(a, newest.RefreshToken)
			wantReason(t, err, oauth.RefreshUnknown)
			if !slices.Contains(w.kinds(oauth.EventFilter{ClientID: a.id}), oauth.EventRefreshReplay) {
				t.Error("no event tells of the replay")
			}
		}
		t.Run(kind+": each use gives another", func(t *testing.T) {
			w, a, r0 := setup(t)
			seen := []oauth.Secret{r0.RefreshToken}
			resp := r0
			for range 5 {
				resp = use(t, w, a, resp.RefreshToken)
				if slices.Contains(seen, resp.RefreshToken) {
					t.Fatal("a token came again")
				}
				seen = append(seen, resp.RefreshToken)
				w.clock.advance(time.Hour)
			}
		})
		t.Run(kind+": lost answer, the same successor", func(t *testing.T) {
			w, a, r0 := setup(t)
			r1 := use(t, w, a, r0.RefreshToken)
			w.clock.advance(oauth.RotateGrace - time.Microsecond)
			again := use(t, w, a, r0.RefreshToken)
			if again.RefreshToken != r1.RefreshToken {
				t.Error("another successor")
			}
			if again.AccessToken == r1.AccessToken {
				t.Error("the same access token twice")
			}
			use(t, w, a, again.RefreshToken)
		})
		t.Run(kind+": at ten seconds it is a replay", func(t *testing.T) {
			w, a, r0 := setup(t)
			r1 := use(t, w, a, r0.RefreshToken)
			w.clock.advance(oauth.RotateGrace)
			replay(t, w, a, r0.RefreshToken, r1)
		})
		t.Run(kind+": the successor was used", func(t *testing.T) {
			w, a, r0 := setup(t)
			r1 := use(t, w, a, r0.RefreshToken)
			r2 := use(t, w, a, r1.RefreshToken)
			replay(t, w, a, r0.RefreshToken, r2)
		})
		t.Run(kind+": older than the predecessor", func(t *testing.T) {
			w, a, r0 := setup(t)
			r1 := use(t, w, a, r0.RefreshToken)
			r2 := use(t, w, a, r1.RefreshToken)
			r3 := use(t, w, a, r2.RefreshToken)
			w.clock.advance(time.Hour)
			replay(t, w, a, r0.RefreshToken, r3)
		})
		t.Run(kind+": thirty at once", func(t *testing.T) {
			w, a, r0 := setup(t)
			got := make([]oauth.Secret, 30)
			var done sync.WaitGroup
			for i := range got {
				done.Go(func() {
					if resp, err := w.refresh(a, r0.RefreshToken); err == nil {
						got[i] = resp.RefreshToken
					}
				})
			}
			done.Wait()
			for _, token := range got {
				if token == "" || token != got[0] {
					t.Fatal("two providers that refresh at once must get one successor (seed-contracts 1.8, trap 5)")
				}
			}
		})
		t.Run(kind+": a replay by another client revokes nothing", func(t *testing.T) {
			w, a, r0 := setup(t)
			r1 := use(t, w, a, r0.RefreshToken)
			w.clock.advance(time.Hour)
			thief := w.direct
			if a.Profile == oauth.Direct {
				thief = w.public
			}
			_, err := w.refresh(thief, r0.RefreshToken)
			wantReason(t, err, oauth.RefreshForeign)
			_, err = w.refresh(a, oauth.Secret(flipLast(r0.RefreshToken.Reveal())))
			wantReason(t, err, oauth.RefreshUnknown)
			use(t, w, a, r1.RefreshToken)
		})
	}
	t.Run("months old, and known by its tag alone", func(t *testing.T) {
		w := newWorld(t)
		r0 := w.connect(w.public, "alice", "s1")
		token := r0.RefreshToken
		for range 5 {
			resp, err := w.refresh(w.public, token)
			w.must(err)
			token = resp.RefreshToken
			w.clock.advance(29 * 24 * time.Hour)
		}
		if n := len(column(t, w.raw(), "SELECT selector FROM refresh_tokens")); n != 1 {
			t.Errorf("%d rows of one chain", n)
		}
		forged := func(at int) oauth.Secret {
			b := []byte(r0.RefreshToken.Reveal())
			if b[at]++; b[at] == 'Z'+1 || b[at] == 'z'+1 || b[at] == '9'+1 || b[at] == '.' || b[at] == '`' {
				b[at] = 'Q'
			}
			return oauth.Secret(b)
		}
		for at := 22; at < 64; at++ { // behind the selector; the last letter holds spare bits
			_, err := w.refresh(w.public, forged(at))
			wantReason(t, err, oauth.RefreshUnknown)
		}
		w.must(w.Revoke(context.Background(), oauth.ClientAuth{ID: w.public.id}, forged(30).Reveal()))
		resp, err := w.refresh(w.public, token)
		w.must(err)
		_, err = w.refresh(w.public, r0.RefreshToken)
		wantReason(t, err, oauth.RefreshReplayed)
		_, err = w.refresh(w.public, resp.RefreshToken)
		wantReason(t, err, oauth.RefreshUnknown)
	})
	t.Run("a replay ends one family, not the grant's others", func(t *testing.T) {
		w := newWorld(t)
		a, b := w.connect(w.public, "alice", "s1"), w.connect(w.public, "alice", "s1")
		r1, err := w.refresh(w.public, a.RefreshToken)
		w.must(err)
		w.clock.advance(time.Minute)
		_, err = w.refresh(w.public, a.RefreshToken)
		wantReason(t, err, oauth.RefreshReplayed)
		if w.rights(r1.AccessToken) != "inactive" || w.rights(b.AccessToken) == "inactive" {
			t.Error("the wrong family died")
		}
	})
}

// Confidential apps do not rotate, nor do direct ones whose switch is off: the same
// value in every answer (DESIGN, decision 8; seed-contracts 1.8, trap 1, and D8).
func TestRefresh_Fixed(t *testing.T) {
	w := newWorld(t)
	for name, a := range map[string]app{"confidential": w.standard, "direct": w.direct} {
		t.Run(name, func(t *testing.T) {
			r0 := w.connect(a, "alice", "s1")
			for range 3 {
				w.clock.advance(time.Hour)
				resp, err := w.refresh(a, r0.RefreshToken)
				w.must(err)
				if resp.RefreshToken != r0.RefreshToken {
					t.Error("another refresh token")
				}
				c, c0 := claims(t, resp.AccessToken), claims(t, r0.AccessToken)
				if c.ID == c0.ID || family(c) != family(c0) || c.Subject != c0.Subject || c.Status != c0.Status {
					t.Errorf("%+v after %+v", c, c0)
				}
			}
		})
	}
	t.Run("the switch turned on begins to rotate", func(t *testing.T) {
		r0 := w.connect(w.direct, "")
		w.must(w.SetRules(context.Background(), command, w.direct.id, oauth.ClientSettings{RotateRefresh: true}))
		r1, err := w.refresh(w.direct, r0.RefreshToken)
		w.must(err)
		if r1.RefreshToken == r0.RefreshToken {
			t.Error("it did not rotate")
		}
		w.must(w.SetRules(context.Background(), command, w.direct.id, oauth.ClientSettings{}))
		r2, err := w.refresh(w.direct, r1.RefreshToken)
		w.must(err)
		if r2.RefreshToken != r1.RefreshToken {
			t.Error("it still rotates")
		}
	})
}

// A chain ends when it is idle, or 180 days after the sign-in; rotation extends
// only the first (RFC 9700, 4.14.2; decision 8).
func TestRefresh_Ends(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		of       func(w *world) app
		idle     time.Duration
		absolute bool
	}{
		"confidential":     {func(w *world) app { return w.standard }, 30 * day, true},
		"public":           {func(w *world) app { return w.public }, 30 * day, true},
		"direct":           {func(w *world) app { return w.direct }, 400 * day, false},
		"direct, rotating": {func(w *world) app { return w.rotating }, 400 * day, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := c.of(w)
			token := w.connect(a, "alice", "s1").RefreshToken
			steps := 5 // five times almost idle: 150 days
			for range steps {
				w.clock.advance(c.idle - time.Microsecond)
				resp, err := w.refresh(a, token)
				w.must(err)
				token = resp.RefreshToken
			}
			if c.absolute {
				w.clock.advance(30*day - 2*time.Microsecond) // 180 days less 7 µs
				resp, err := w.refresh(a, token)
				w.must(err)
				w.clock.advance(7 * time.Microsecond)
				_, err = w.refresh(a, resp.RefreshToken)
				wantReason(t, err, oauth.RefreshExpired)
				return
			}
			w.clock.advance(c.idle)
			_, err := w.refresh(a, token)
			wantReason(t, err, oauth.RefreshExpired)
		})
	}
	t.Run("idle, to the microsecond", func(t *testing.T) {
		w := newWorld(t)
		token := w.connect(w.standard, "alice", "s1").RefreshToken
		w.clock.advance(30 * day)
		_, err := w.refresh(w.standard, token)
		wantReason(t, err, oauth.RefreshExpired)
	})
}

// A refresh may ask for less, never for more, and rests on the rights of now (RFC
// 6749, 6; attacks C5, C6).
func TestRefresh_RFC6749_6(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	r0 := w.connect(w.standard, "alice", "s1", "s3")
	narrow, err := w.refresh(w.standard, r0.RefreshToken, "stores.view", "user.view")
	w.must(err)
	const want = "s1: view | view me"
	for what, got := range map[string]string{"printed": printed(t, narrow.AccessToken), "introspected": w.rights(narrow.AccessToken)} {
		if got != want {
			t.Errorf("%s %s, want %s", what, got, want)
		}
	}
	if narrow.Scope != "stores.view user.view" {
		t.Errorf("scope %q", narrow.Scope)
	}
	// The narrow token stays so when rights grow; the next refresh has them all.
	w.membership(oauth.Membership{UserID: "alice", StoreID: "s3", Owner: true, MayDelegate: true})
	if got := w.rights(narrow.AccessToken); got != "s1,s3: view | view me" {
		t.Errorf("later %s", got)
	}
	wide, err := w.refresh(w.standard, r0.RefreshToken)
	w.must(err)
	if got := w.rights(wide.AccessToken); got != "s1,s3: deliver orders view | deliver orders view me" {
		t.Errorf("without scope: %s", got)
	}
	for scope, want := range map[string]oauth.Reason{
		"stores.tax.view": oauth.ScopeWidened, "stores.view stores.tax.view": oauth.ScopeWidened, "nonsense": oauth.ScopeWidened,
		"stores.view\x00": oauth.ParamMalformed, " ": oauth.ParamMalformed, strings.Repeat("a ", 4096): oauth.ParamMalformed,
	} {
		_, err := w.refresh(w.standard, r0.RefreshToken, scope)
		wantReason(t, err, want)
	}
	// A code that was narrowed bounds its chain.
	resp, err := w.redeem(w.standard, w.allow("alice", w.ask(w.standard, "scope", "stores.view"), "s1", "s3"))
	w.must(err)
	_, err = w.refresh(w.standard, resp.RefreshToken, "user.view")
	wantReason(t, err, oauth.ScopeWidened)

	for what, c := range map[string]struct {
		end  func() error
		want oauth.Reason
		undo func() error
	}{
		"suspended grant": {func() error { return w.SuspendGrant(ctx, command, r0.GrantID) }, oauth.GrantSuspended, func() error { return w.ResumeGrant(ctx, command, r0.GrantID) }},
		"suspended user":  {func() error { return w.SuspendUser(ctx, command, "alice") }, oauth.GrantDead, func() error { return w.ResumeUser(ctx, command, "alice") }},
		"suspended app":   {func() error { return w.SuspendClient(ctx, command, w.standard.id) }, oauth.ClientSuspended, func() error { return w.ResumeClient(ctx, command, w.standard.id) }},
	} {
		w.must(c.end())
		if _, err := w.refresh(w.standard, r0.RefreshToken); oauth.ReasonOf(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
		w.must(c.undo())
		if _, err := w.refresh(w.standard, r0.RefreshToken); err != nil {
			t.Errorf("%s, undone: %v", what, err)
		}
	}
	for _, st := range []string{"s1", "s3"} {
		w.must(w.DropMembership(ctx, command, "alice", st))
	}
	_, err = w.refresh(w.standard, resp.RefreshToken)
	wantReason(t, err, oauth.NoRights)
	w.must(w.RevokeGrant(ctx, alice, r0.GrantID))
	_, err = w.refresh(w.standard, r0.RefreshToken)
	wantReason(t, err, oauth.RefreshUnknown)
}

// Who asks, and with what.
func TestRefresh_Refused(t *testing.T) {
	w := newWorld(t)
	r0, guest := w.connect(w.standard, "alice", "s1"), w.connect(w.direct, "")
	for name, c := range map[string]struct {
		of     app
		token  oauth.Secret
		change func(r *oauth.TokenRequest)
		want   oauth.Reason
	}{
		"none":                    {w.standard, "", nil, oauth.ParamMissing},
		"undefined":               {w.direct, "undefined", nil, oauth.RefreshUnknown}, // what Dressipi's client sends once it lost it
		"an access token":         {w.standard, r0.AccessToken, nil, oauth.RefreshUnknown},
		"a code":                  {w.standard, oauth.Secret(w.code(w.standard, "alice", "s1")), nil, oauth.RefreshUnknown},
		"of another app":          {w.nopkce, r0.RefreshToken, nil, oauth.RefreshForeign},
		"of another profile":      {w.standard, guest.RefreshToken, nil, oauth.RefreshForeign},
		"wrong secret":            {w.standard, r0.RefreshToken, func(r *oauth.TokenRequest) { r.Auth.Secret = "x" }, oauth.SecretWrong},
		"exchange has none":       {w.exchange, r0.RefreshToken, nil, oauth.GrantTypeNotAllowed},
		"direct, another URN":     {w.direct, guest.RefreshToken, func(r *oauth.TokenRequest) { r.RedirectURI = callback }, oauth.CodeRedirect},
		"direct, the URN":         {w.direct, guest.RefreshToken, func(r *oauth.TokenRequest) { r.RedirectURI = oauth.OutOfBand }, ""},
		"direct, none (D7)":       {w.direct, guest.RefreshToken, nil, ""},
		"direct, another's codes": {w.direct, guest.RefreshToken, func(r *oauth.TokenRequest) { r.Code, r.Verifier = "x", "y" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := refresh(c.of, c.token.Reveal())
			if c.change != nil {
				c.change(&r)
			}
			_, err := w.Token(context.Background(), r)
			wantReason(t, err, c.want)
		})
	}
}

// What a request leaves behind is asked about once, also where the world changes meanwhile and it
// begins anew; and not at all where it is refused.
func TestRefresh_AdmittedOnce(t *testing.T) {
	w := newWorld(t)
	r0 := w.connect(w.standard, "alice", "s1")
	asked := 0
	r := refresh(w.standard, r0.RefreshToken.Reveal())
	r.AdmitFamily = func(string) error {
		asked++
		w.membership(oauth.Membership{UserID: "alice", StoreID: "s1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true})
		return nil
	}
	resp, err := w.Token(context.Background(), r)
	w.must(err)
	if asked != 1 || resp.Scope != "stores.view user.view" {
		t.Errorf("asked %d times, for %q", asked, resp.Scope)
	}
	r.Scope = "stores.orders.view"
	_, err = w.Token(context.Background(), r)
	wantReason(t, err, oauth.ScopeWidened)
	if asked != 1 {
		t.Error("asked about what is refused")
	}
}
