package oauth_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// A code is redeemed by its client, with its proofs, once. Whatever is refused
// burns nothing: afterwards the right request still succeeds (RFC 6749, 4.1.3 and
// 5.2; attacks C3, C11, G3).
func TestToken_RFC6749_4_1_3(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		of     app // whose code it is
		change func(r *oauth.TokenRequest)
		want   oauth.Reason
	}{
		"no client":             {w.standard, func(r *oauth.TokenRequest) { r.Auth.ID = "" }, oauth.ClientIDMissing},
		"unknown client":        {w.standard, func(r *oauth.TokenRequest) { r.Auth.ID = "nobody" }, oauth.ClientUnknown},
		"no secret":             {w.standard, func(r *oauth.TokenRequest) { r.Auth.Secret = "" }, oauth.ClientAuthMissing},
		"wrong secret":          {w.standard, func(r *oauth.TokenRequest) { r.Auth.Secret = r.Auth.Secret[1:] + "x" }, oauth.SecretWrong},
		"another app's secret":  {w.standard, func(r *oauth.TokenRequest) { r.Auth.Secret = w.exchange.secret }, oauth.SecretWrong},
		"secret of a public":    {w.public, func(r *oauth.TokenRequest) { r.Auth.Secret = "x" }, oauth.ClientAuthMethod},
		"no grant_type":         {w.standard, func(r *oauth.TokenRequest) { r.GrantType = "" }, oauth.ParamMissing},
		"unknown grant_type":    {w.standard, func(r *oauth.TokenRequest) { r.GrantType = "password" }, oauth.GrantTypeUnknown},
		"no code":               {w.standard, func(r *oauth.TokenRequest) { r.Code = "" }, oauth.ParamMissing},
		"code of another form":  {w.standard, func(r *oauth.TokenRequest) { r.Code += "a" }, oauth.CodeUnknown},
		"selector of another":   {w.standard, func(r *oauth.TokenRequest) { r.Code = "_" + r.Code[1:] }, oauth.CodeUnknown},
		"verifier altered":      {w.standard, func(r *oauth.TokenRequest) { r.Code = flipLast(r.Code) }, oauth.CodeUnknown},
		"code of another app":   {w.exchange, func(r *oauth.TokenRequest) { r.Auth = w.other.auth() }, oauth.CodeForeign},
		"of another profile":    {w.exchange, func(r *oauth.TokenRequest) { r.Auth = w.nopkce.auth() }, oauth.CodeForeign},
		"guest code by another": {w.direct, func(r *oauth.TokenRequest) { r.Auth = w.rotating.auth() }, oauth.CodeForeign},
		"guest code at public":  {w.direct, func(r *oauth.TokenRequest) { r.Auth = w.public.auth() }, oauth.CodeForeign},
		"public code at direct": {w.public, func(r *oauth.TokenRequest) { r.Auth = w.direct.auth() }, oauth.CodeForeign},
		"another redirect":      {w.standard, func(r *oauth.TokenRequest) { r.RedirectURI = loopback }, oauth.CodeRedirect},
		"redirect altered":      {w.standard, func(r *oauth.TokenRequest) { r.RedirectURI += "/" }, oauth.CodeRedirect},
		"URN altered":           {w.direct, func(r *oauth.TokenRequest) { r.RedirectURI = "urn:ietf:wg:oauth:2.0:oob" }, oauth.CodeRedirect},
		"URN missing":           {w.direct, func(r *oauth.TokenRequest) { r.RedirectURI = "" }, oauth.ParamMissing},
		"endpoint of others":    {w.standard, func(r *oauth.TokenRequest) { r.Serves = []oauth.ProfileName{oauth.Exchange} }, oauth.ProfileMismatch},
		"refresh at exchange":   {w.exchange, func(r *oauth.TokenRequest) { r.GrantType, r.RefreshToken = oauth.GrantRefreshToken, r.Code }, oauth.GrantTypeNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			code := w.code(c.of, "alice", "s1")
			wrong := redemption(c.of, code)
			c.change(&wrong)
			_, err := w.Token(context.Background(), wrong)
			wantReason(t, err, c.want)
			resp, err := w.redeem(c.of, code)
			if err != nil {
				t.Fatalf("the code was burnt: %v", err)
			}
			if w.rights(resp.AccessToken) == "inactive" {
				t.Error("the key of the code is dead")
			}
		})
	}
}

func flipLast(s string) string {
	if strings.HasSuffix(s, "A") {
		return s[:len(s)-1] + "E"
	}
	return s[:len(s)-1] + "A"
}

// Without a challenge the redirect binds the code, so its absence is refused; with
// one it is tolerated, since OAuth 2.1 has dropped the parameter.
func TestToken_RedirectEcho(t *testing.T) {
	w := newWorld(t)
	plain := w.allow("alice", w.ask(w.nopkce, "code_challenge", "", "code_challenge_method", ""), "s1")
	r := redemption(w.nopkce, plain)
	r.Verifier, r.RedirectURI = "", ""
	_, err := w.Token(context.Background(), r)
	wantReason(t, err, oauth.ParamMissing)
	r.RedirectURI = callback
	_, err = w.Token(context.Background(), r)
	w.must(err)

	r = redemption(w.standard, w.code(w.standard, "alice", "s1"))
	r.RedirectURI = ""
	_, err = w.Token(context.Background(), r)
	w.must(err)
}

// The life of a code, to the microsecond; "used" outranks "expired", and both are
// told from "unknown" for ten minutes (DESIGN, decision 4; seed-contracts K4).
func TestExchange_Komerza_codes(t *testing.T) {
	t.Run("59.9 s redeems", func(t *testing.T) {
		w := newWorld(t)
		code := w.code(w.exchange, "alice", "s1")
		w.clock.advance(59*time.Second + 900*time.Millisecond)
		_, err := w.redeem(w.exchange, code)
		w.must(err)
	})
	t.Run("one microsecond before the end redeems", func(t *testing.T) {
		w := newWorld(t)
		code := w.code(w.exchange, "alice", "s1")
		w.clock.advance(time.Minute - time.Microsecond)
		_, err := w.redeem(w.exchange, code)
		w.must(err)
	})
	for _, a := range []string{"exchange", "standard", "public", "direct"} {
		t.Run("60.0 s is expired for "+a, func(t *testing.T) {
			w := newWorld(t)
			of := map[string]app{"exchange": w.exchange, "standard": w.standard, "public": w.public, "direct": w.direct}[a]
			code := w.code(of, "alice", "s1")
			w.clock.advance(time.Minute)
			_, err := w.redeem(of, code)
			wantReason(t, err, oauth.CodeExpired)
		})
	}
	t.Run("only who proves himself learns that it expired", func(t *testing.T) {
		w := newWorld(t)
		code := w.code(w.exchange, "alice", "s1")
		w.clock.advance(time.Hour)
		for want, auth := range map[oauth.Reason]oauth.ClientAuth{
			oauth.SecretWrong: {ID: w.exchange.id, Secret: "wrong"}, oauth.CodeForeign: w.other.auth(), oauth.CodeExpired: w.exchange.auth()} {
			r := redemption(w.exchange, code)
			r.Auth = auth
			_, err := w.Token(context.Background(), r)
			wantReason(t, err, want)
		}
	})
	t.Run("used outranks expired", func(t *testing.T) {
		w := newWorld(t)
		code := w.code(w.exchange, "alice", "s1")
		_, err := w.redeem(w.exchange, code)
		w.must(err)
		w.clock.advance(2 * time.Minute)
		_, err = w.redeem(w.exchange, code)
		wantReason(t, err, oauth.CodeUsed)
	})
	t.Run("remembered for ten minutes", func(t *testing.T) {
		w := newWorld(t)
		used, late := w.code(w.exchange, "alice", "s1"), w.code(w.other, "alice", "s1")
		_, err := w.redeem(w.exchange, used)
		w.must(err)
		w.clock.advance(oauth.CodeLife + oauth.CodeMemory)
		w.sweep()
		_, err = w.redeem(w.exchange, used)
		wantReason(t, err, oauth.CodeUsed)
		_, err = w.redeem(w.other, late)
		wantReason(t, err, oauth.CodeExpired)
		w.clock.advance(time.Microsecond)
		w.sweep()
		_, err = w.redeem(w.exchange, used)
		wantReason(t, err, oauth.CodeUnknown)
		_, err = w.redeem(w.other, late)
		wantReason(t, err, oauth.CodeUnknown)
	})
}

func (w *world) sweep() {
	w.t.Helper()
	_, err := w.db.Sweep(context.Background(), w.Now(), oauth.EventsKept, 1000)
	w.must(err)
}

// A second use of a code that is otherwise right: refused always. Whether what the
// code issued is revoked depends on the profile (DESIGN, decision 4; RFC 6749,
// 4.1.2; attack C1). The rest of the grant always lives on.
func TestToken_Replay(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		of    app
		after time.Duration
		dies  bool
	}{
		"exchange at once":            {w.exchange, 0, false},
		"exchange, just within 10 s":  {w.exchange, 10*time.Second - time.Microsecond, false},
		"exchange, after 10 s":        {w.exchange, 10 * time.Second, true},
		"exchange, long after expiry": {w.exchange, 9 * time.Minute, true},
		"standard at once":            {w.standard, 0, true},
		"public at once":              {w.public, 0, true},
		"direct at once":              {w.direct, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.connect(c.of, "alice", "s1")
			code := w.code(c.of, "alice", "s1")
			resp, err := w.redeem(c.of, code)
			w.must(err)
			w.clock.advance(c.after)

			// Replays that prove nothing revoke nothing.
			for _, change := range []func(r *oauth.TokenRequest){
				func(r *oauth.TokenRequest) { r.Auth.Secret = "wrong" },
				func(r *oauth.TokenRequest) { r.Code = flipLast(r.Code) },
				func(r *oauth.TokenRequest) { r.Verifier = strings.Repeat("v", 43) },
				func(r *oauth.TokenRequest) { r.RedirectURI = "https://evil.example/" },
			} {
				r := redemption(c.of, code)
				change(&r)
				if r.Auth.Secret == "wrong" && c.of.secret == "" || c.of.Profile == oauth.Exchange && r.RedirectURI != "" {
					continue
				}
				_, err := w.Token(context.Background(), r)
				if err == nil || oauth.ReasonOf(err) == oauth.CodeUsed {
					t.Errorf("a replay without proof: %v", err)
				}
			}
			if w.rights(resp.AccessToken) == "inactive" {
				t.Fatal("a replay without proof revoked the key")
			}

			_, err = w.redeem(c.of, code)
			wantReason(t, err, oauth.CodeUsed)
			if dead := w.rights(resp.AccessToken) == "inactive"; dead != c.dies {
				t.Errorf("key dead: %v, want %v", dead, c.dies)
			}
			if w.rights(before.AccessToken) == "inactive" {
				t.Error("the replay reached a key of another code")
			}
			if c.of.Profile != oauth.Exchange {
				_, err := w.Token(context.Background(), refresh(c.of, resp.RefreshToken.Reveal()))
				wantReason(t, err, oauth.RefreshUnknown)
			}
			// The grant of a guest is that one sign-in; all others go on.
			if c.of.Profile != oauth.Direct {
				again := w.connect(c.of, "alice", "s1")
				if c.of.Type == oauth.Confidential && again.GrantID != resp.GrantID {
					t.Error("the replay ended the grant")
				}
			}
			events := func() int { return len(w.kinds(oauth.EventFilter{ClientID: c.of.id, Kind: oauth.EventCodeReplayed})) }
			if n := events(); n != 1 {
				t.Errorf("%d events tell of the replay", n)
			}
			// Whoever goes on is refused likewise, and noted once more at most.
			for range 10 {
				_, err = w.redeem(c.of, code)
				wantReason(t, err, oauth.CodeUsed)
			}
			if n := events(); c.dies && n != 2 || !c.dies && n != 1 {
				t.Errorf("%d events tell of eleven replays", n)
			}
		})
	}
}

// A hundred exchanges of one code at once: one wins, the others are told that it
// is used, and the winner's key works afterwards (attack C2).
func TestExchange_Race(t *testing.T) {
	w := newWorld(t)
	code := w.code(w.exchange, "alice", "s1", "s2")
	const n = 100
	type result struct {
		resp *oauth.TokenResponse
		err  error
	}
	results := make([]result, n)
	gate := make(chan struct{})
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			<-gate
			resp, err := w.redeem(w.exchange, code)
			results[i] = result{resp, err}
		})
	}
	close(gate)
	done.Wait()
	var winner *oauth.TokenResponse
	losers := 0
	for _, r := range results {
		switch {
		case r.err == nil && winner != nil:
			t.Fatal("two winners")
		case r.err == nil:
			winner = r.resp
		case oauth.ReasonOf(r.err) == oauth.CodeUsed:
			losers++
		default:
			t.Errorf("a loser was told %v", r.err)
		}
	}
	if winner == nil || losers != n-1 {
		t.Fatalf("winner %v, losers %d", winner != nil, losers)
	}
	if got, want := w.rights(winner.AccessToken), "s1,s2: deliver orders view | deliver orders view me"; got != want {
		t.Errorf("the winner's key: %s, want %s", got, want)
	}
	if keys := w.grant(winner.GrantID).Keys; keys != 1 {
		t.Errorf("%d keys of one code", keys)
	}
}

// syncing is a storage in which the platform says anew what a user may do whenever a token
// is about to be issued.
type syncing struct {
	oauth.Storage
	sync func()
}

func (s *syncing) RedeemCode(ctx context.Context, r oauth.Redemption) (bool, error) {
	s.sync()
	return s.Storage.RedeemCode(ctx, r)
}

func (s *syncing) RotateRefreshToken(ctx context.Context, r oauth.Rotation) (bool, error) {
	s.sync()
	return s.Storage.RotateRefreshToken(ctx, r)
}

// Who lost against one change after the other is told to come again, not that his code,
// or his token, is good for nothing: it is as good as it was. What changes in a store that
// he did not get is nothing to him.
func TestToken_AmongMembershipsThatChange(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	storage := &syncing{Storage: w.db}
	office := w.office(storage)
	tries := 0
	tell := func(store string) func() {
		m := oauth.Membership{UserID: "alice", StoreID: store, Owner: true, MayDelegate: true}
		return func() {
			tries++
			if m.Scopes == nil { // an owner may do everything anyway
				m.Scopes = oauth.Scopes("stores.view")
			} else {
				m.Scopes = nil
			}
			w.membership(m)
		}
	}
	mine, another := tell("s1"), tell("s2")
	for _, a := range []app{w.exchange, w.standard, w.public} {
		requests := []oauth.TokenRequest{redemption(a, w.code(a, "alice", "s1"))}
		if a.Profile == oauth.Standard {
			requests = append(requests, refresh(a, w.connect(a, "alice", "s1").RefreshToken.Reveal()))
		}
		for _, r := range requests {
			t.Run(a.Name+" "+string(r.GrantType), func(t *testing.T) {
				storage.sync = mine
				_, err := office.Token(ctx, r)
				wantReason(t, err, oauth.Changed)
				storage.sync, tries = another, 0
				if _, err := office.Token(ctx, r); err != nil || tries != 1 {
					t.Errorf("among changes that are nothing to it: %v, after %d tries", err, tries)
				}
			})
		}
	}
}

// Randomness that fails anywhere on the way to a key burns and issues nothing
// (DESIGN, decision 4).
func TestToken_SignerFails(t *testing.T) {
	w := newWorld(t)
	for name, a := range map[string]app{"exchange": w.exchange, "standard": w.standard, "direct": w.direct} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			code := w.code(a, "alice", "s1")
			for n := 0; ; n++ {
				w.rand.failAfter(n)
				resp, err := w.redeem(a, code)
				w.rand.heal()
				if err == nil {
					if n < 3 {
						t.Fatalf("only %d reads of randomness: nothing was tested", n)
					}
					if w.rights(resp.AccessToken) == "inactive" {
						t.Error("the key is dead")
					}
					break
				}
				if oauth.AsError(err).Code != oauth.ServerError {
					t.Errorf("read %d: %v", n, err)
				}
				if grants, _ := w.Grants(context.Background(), command, oauth.GrantFilter{OnlyLive: true, Page: oauth.Page{Limit: 10}}); len(grants) != 0 {
					t.Fatalf("read %d: a failed exchange left %d live grants", n, len(grants))
				}
			}
		})
	}
}

// The verifier is 43 to 128 characters of [A-Za-z0-9-._~], and the one that makes
// the challenge (RFC 7636, 4.1 and 4.6; appendix B; attacks A7, A8).
func TestPKCE_RFC7636(t *testing.T) {
	w := newWorld(t)
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	for name, c := range map[string]struct {
		verifier, challenge string
		want                oauth.Reason
	}{
		"appendix B":          {verifier, challenge, ""},
		"Dressipi's example":  {"1tBnEmtSImyCykPHxHYBdzpSFhKEj0Q1LuiHd4fdDlY", "p7CN1Zi4o5ARn1mYNvNFvj2r5cKkr2k6y7a573eHJXQ", ""},
		"the whole alphabet":  {alphabet, s256(alphabet), ""},
		"128 characters":      {strings.Repeat("~", 128), s256(strings.Repeat("~", 128)), ""},
		"129 characters":      {strings.Repeat("~", 129), s256(strings.Repeat("~", 129)), oauth.VerifierWrong},
		"42 characters":       {verifier[:42], s256(verifier[:42]), oauth.VerifierWrong},
		"a character outside": {verifier[:42] + "+", s256(verifier[:42] + "+"), oauth.VerifierWrong},
		"none":                {"", challenge, oauth.VerifierMissing},
		"another":             {strings.Repeat("a", 43), challenge, oauth.VerifierWrong},
		"the challenge":       {challenge, challenge, oauth.VerifierWrong},
	} {
		t.Run(name, func(t *testing.T) {
			for _, a := range []app{w.public, w.standard, w.direct, w.exchange} {
				q := w.query(a, "code_challenge", c.challenge, "code_challenge_method", "S256")
				var code string
				if a.Profile == oauth.Direct {
					d, err := w.AuthorizeDirect(context.Background(), oauth.DirectRequest{Query: q})
					w.must(err)
					code = d.Code.Reveal()
				} else {
					r, _, err := w.Authorize(context.Background(), q)
					w.must(err)
					code = w.allow("alice", r, "s1")
				}
				r := redemption(a, code)
				r.Verifier = c.verifier
				_, err := w.Token(context.Background(), r)
				if oauth.ReasonOf(err) != c.want || (err == nil) != (c.want == "") {
					t.Errorf("%s: %v, want %q", a.Profile, err, c.want)
				}
			}
		})
	}

	// RFC 9700, 4.8.2: a verifier for a code without a challenge is a downgrade.
	for _, a := range []app{w.exchange, w.nopkce} {
		code := w.allow("alice", w.ask(a, "code_challenge", "", "code_challenge_method", ""), "s1")
		r := redemption(a, code)
		r.Verifier = verifier
		_, err := w.Token(context.Background(), r)
		wantReason(t, err, oauth.VerifierUnexpected)
		r.Verifier = ""
		_, err = w.Token(context.Background(), r)
		w.must(err)
	}
}

// What ends between code and exchange ends the code too (attacks C6, F4).
func TestToken_EndedMeanwhile(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		end  func(w *world, grant string) error
		want oauth.Reason
	}{
		"grant revoked":   {func(w *world, g string) error { return w.RevokeGrant(ctx, alice, g) }, oauth.GrantDead},
		"grant suspended": {func(w *world, g string) error { return w.SuspendGrant(ctx, command, g) }, oauth.GrantSuspended},
		"user suspended":  {func(w *world, g string) error { return w.SuspendUser(ctx, command, "alice") }, oauth.GrantDead},
		"app suspended":   {func(w *world, g string) error { return w.SuspendClient(ctx, command, w.exchange.id) }, oauth.ClientSuspended},
		"app deleted":     {func(w *world, g string) error { return w.DeleteClient(ctx, command, w.exchange.id, "Exporter") }, oauth.ClientUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key := w.connect(w.exchange, "alice", "s1")
			code := w.code(w.exchange, "alice", "s1")
			w.must(c.end(w, key.GrantID))
			_, err := w.redeem(w.exchange, code)
			wantReason(t, err, c.want)
			if got := w.rights(key.AccessToken); got != "inactive" {
				t.Errorf("the key that was out is %s", got)
			}
		})
	}
	t.Run("every store lost", func(t *testing.T) {
		w := newWorld(t)
		code := w.allow("alice", w.ask(w.exchange, "scope", "stores.view"), "s1")
		w.must(w.DropMembership(ctx, command, "alice", "s1"))
		_, err := w.redeem(w.exchange, code)
		wantReason(t, err, oauth.NoRights)
	})
}
