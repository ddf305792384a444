package oauth_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

// Each rule about the parameters of an authorization request, and where its
// refusal goes: back to the app, or on a page (RFC 6749, 3.1, 4.1.1 and 4.1.2.1;
// RFC 7636, 4.3 and 4.4.1; attacks A3, A8, A10).
func TestAuthorize_RFC6749_4_1_1(t *testing.T) {
	w := newWorld(t)
	type edit func(q url.Values)
	set := func(name string, values ...string) edit { return func(q url.Values) { q[name] = values } }
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		edit  edit
		param string
		want  oauth.Reason // "" for a request in order
		page  bool         // the refusal stays on a page
	}{
		"in order":               {set("state", "xyz"), "", "", false},
		"unknown parameters":     {set("prompt_of_ours", "a", "b"), "", "", false},
		"no client_id":           {set("client_id"), "client_id", oauth.ParamMissing, true},
		"empty client_id":        {set("client_id", ""), "client_id", oauth.ParamMissing, true},
		"client_id twice":        {set("client_id", w.public.id, w.public.id), "client_id", oauth.ParamRepeated, true},
		"client_id huge":         {set("client_id", long(256)), "client_id", oauth.ParamTooLong, true},
		"client_id unknown":      {set("client_id", "nobody"), "client_id", oauth.ClientUnknown, true},
		"no redirect_uri":        {set("redirect_uri"), "redirect_uri", oauth.RedirectMissing, true},
		"redirect_uri twice":     {set("redirect_uri", callback, callback), "redirect_uri", oauth.ParamRepeated, true},
		"redirect_uri foreign":   {set("redirect_uri", "https://evil.example/"), "redirect_uri", oauth.RedirectUnregistered, true},
		"redirect_uri huge":      {set("redirect_uri", callback+"?"+long(2048)), "redirect_uri", oauth.ParamTooLong, true},
		"state twice":            {set("state", "a", "a"), "state", oauth.ParamRepeated, false},
		"state of 2,048 bytes":   {set("state", long(2048)), "", "", false},
		"state of 2,049 bytes":   {set("state", long(2049)), "state", oauth.ParamTooLong, false},
		"state of 1 MB":          {set("state", long(1<<20)), "state", oauth.ParamTooLong, false},
		"no state":               {set("state"), "", "", false},
		"no response_type":       {set("response_type"), "response_type", oauth.ParamMissing, false},
		"empty response_type":    {set("response_type", ""), "response_type", oauth.ParamMissing, false},
		"response_type token":    {set("response_type", "token"), "response_type", oauth.ResponseType, false},
		"response_type twice":    {set("response_type", "code", "token"), "response_type", oauth.ParamRepeated, false},
		"response_type Code":     {set("response_type", "Code"), "response_type", oauth.ResponseType, false},
		"no challenge":           {set("code_challenge"), "code_challenge", oauth.ChallengeMissing, false},
		"challenge twice":        {set("code_challenge", challenge, challenge), "code_challenge", oauth.ParamRepeated, false},
		"challenge too short":    {set("code_challenge", challenge[1:]), "code_challenge", oauth.ChallengeMalformed, false},
		"challenge too long":     {set("code_challenge", challenge+"A"), "code_challenge", oauth.ChallengeMalformed, false},
		"challenge padded":       {set("code_challenge", challenge+"="), "code_challenge", oauth.ChallengeMalformed, false},
		"challenge with newline": {set("code_challenge", challenge+"\n"), "code_challenge", oauth.ChallengeMalformed, false},
		"challenge not URL-safe": {set("code_challenge", "+"+challenge[1:]), "code_challenge", oauth.ChallengeMalformed, false},
		"challenge, loose bits":  {set("code_challenge", challenge[:42]+"N"), "code_challenge", oauth.ChallengeMalformed, false},
		"method plain":           {set("code_challenge_method", "plain"), "code_challenge_method", oauth.ChallengeMethod, false},
		"method missing":         {set("code_challenge_method"), "code_challenge_method", oauth.ChallengeMethod, false},
		"method s256":            {set("code_challenge_method", "s256"), "code_challenge_method", oauth.ChallengeMethod, false},
		"method twice":           {set("code_challenge_method", "S256", "plain"), "code_challenge_method", oauth.ParamRepeated, false},
		"nonce twice":            {set("nonce", "a", "b"), "nonce", oauth.ParamRepeated, false},
		"nonce huge":             {set("nonce", long(513)), "nonce", oauth.ParamTooLong, false},
		"scope of its own":       {set("scope", "stores.view"), "", "", false},
		"scope unknown":          {set("scope", "stores.view launch.rockets"), "scope", oauth.ScopeUnknown, false},
		"scope not registered":   {set("scope", "stores.products.view"), "scope", oauth.ScopeUnknown, false},
		"scope not a list":       {set("scope", "stores.view\"x"), "scope", oauth.ScopeUnknown, false},
		"scope twice":            {set("scope", "stores.view", "stores.view"), "scope", oauth.ParamRepeated, false},
		"scope huge":             {set("scope", long(4097)), "scope", oauth.ParamTooLong, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := w.query(w.public)
			c.edit(q)
			r, back, err := w.Authorize(context.Background(), q)
			switch {
			case c.want == "":
				if err != nil || !back.IsZero() || r == nil || r.ClientID != w.public.id || r.State != q.Get("state") {
					t.Fatalf("request %+v, redirect %q, error %v", r, back.URL(), err)
				}
				return
			case c.page:
				if r != nil || !back.IsZero() {
					t.Fatalf("request %+v, redirect %q: this must stay on a page", r, back.URL())
				}
				wantReason(t, err, c.want)
			default:
				if r != nil || err != nil || back.Refusal() == nil {
					t.Fatalf("request %+v, error %v: this must go back to the app", r, err)
				}
				wantReason(t, back.Refusal(), c.want)
				if got := param(t, back, "error"); got != string(back.Refusal().Code) {
					t.Errorf("error=%s for %s", got, back.Refusal().Code)
				}
				if !strings.HasPrefix(back.URL(), callback+"?") {
					t.Errorf("back to %s", back.URL())
				}
				if len(q["state"]) == 1 && len(q.Get("state")) <= 2048 && param(t, back, "state") != q.Get("state") {
					t.Errorf("the state is lost: %s", back.URL())
				}
				err = back.Refusal()
			}
			if e := oauth.AsError(err); e.Param != c.param {
				t.Errorf("the fault is put on %q, want %q", e.Param, c.param)
			}
		})
	}
}

// What a profile relaxes (seed-contracts 1.1, K10; RFC 6749, 3.1.2.3; OAuth 2.1,
// 7.5.1).
func TestAuthorize_Profiles(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	one := form("One", oauth.Standard, oauth.Public)
	one.Redirects = one.Redirects[:1]
	created, _, err := w.CreateClient(ctx, command, one)
	w.must(err)
	single := app{created.ID, "", *created}
	one.Profile, one.Type = oauth.Exchange, oauth.Confidential
	created, secret, err := w.CreateClient(ctx, command, one)
	w.must(err)
	exchange := app{created.ID, secret, *created}
	for name, c := range map[string]struct {
		of    app
		pairs []string
		want  oauth.Reason
	}{
		"exchange, the three documented":      {w.exchange, nil, ""},
		"exchange, no state":                  {w.exchange, []string{"state", ""}, ""},
		"exchange, response_type=code":        {w.exchange, []string{"response_type", "code"}, ""},
		"exchange, response_type=token":       {w.exchange, []string{"response_type", "token"}, oauth.ResponseType},
		"exchange, challenge":                 {w.exchange, []string{"code_challenge", challenge, "code_challenge_method", "S256"}, ""},
		"exchange, challenge without method":  {w.exchange, []string{"code_challenge", challenge}, oauth.ChallengeMethod},
		"exchange, plain":                     {w.exchange, []string{"code_challenge", challenge, "code_challenge_method", "plain"}, oauth.ChallengeMethod},
		"exchange, method without challenge":  {w.exchange, []string{"code_challenge_method", "S256"}, oauth.ChallengeMissing},
		"exchange, subset":                    {w.exchange, []string{"scope", "stores.view"}, ""},
		"exchange, superset":                  {w.exchange, []string{"scope", "stores.view stores.tax.view"}, oauth.ScopeUnknown},
		"confidential without PKCE":           {w.standard, []string{"code_challenge", "", "code_challenge_method", ""}, oauth.ChallengeMissing},
		"confidential, PKCE waived":           {w.nopkce, []string{"code_challenge", "", "code_challenge_method", ""}, ""},
		"standard with two, none named":       {w.public, []string{"redirect_uri", ""}, oauth.RedirectMissing},
		"standard with one, none named":       {single, []string{"redirect_uri", ""}, ""},
		"exchange must name its redirect_uri": {exchange, []string{"redirect_uri", ""}, oauth.RedirectMissing},
	} {
		t.Run(name, func(t *testing.T) {
			r, back, err := w.Authorize(ctx, w.query(c.of, c.pairs...))
			if back.Refusal() != nil {
				err = back.Refusal()
			}
			wantReason(t, err, c.want)
			if c.want == "" && r == nil {
				t.Error("no request")
			}
		})
	}
	w.must(w.SuspendClient(ctx, command, w.public.id))
	_, back, err := w.Authorize(ctx, w.query(w.public, "response_type", "token"))
	wantReason(t, err, oauth.ClientSuspended)
	if !back.IsZero() {
		t.Errorf("a suspended app gets the browser: %s", back.URL())
	}
	// Nobody is asked in a direct app's name: it has no page to come from.
	_, back, err = w.Authorize(ctx, w.query(w.direct))
	wantReason(t, err, oauth.ProfileMismatch)
	if !back.IsZero() {
		t.Errorf("a direct app gets the browser: %s", back.URL())
	}
	r := w.ask(w.exchange)
	r.ClientID, r.RedirectURI = w.direct.id, oauth.OutOfBand
	_, _, err = w.Ask(ctx, r, "alice", w.Now())
	wantReason(t, err, oauth.ProfileMismatch)
	_, err = w.decide("alice", r, "s1")
	wantReason(t, err, oauth.ProfileMismatch)
}

// A redirect_uri that leads nowhere, and one that was cut.
func TestAuthorize_Mismatch(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.Authorize(context.Background(), w.query(w.exchange, "redirect_uri", "https://client.example/callbakc"))
	wantReason(t, err, oauth.RedirectUnregistered)
	// Sent unencoded, a URL with two parameters is cut at the ampersand (K13).
	f := form("Two", oauth.Exchange, oauth.Confidential)
	f.Redirects = []string{callback + "?a=1&b=2"}
	c, _, err := w.CreateClient(context.Background(), command, f)
	w.must(err)
	q, err := url.ParseQuery("client_id=" + c.ID + "&redirect_uri=" + callback + "?a=1&b=2&state=xyz")
	w.must(err)
	_, _, err = w.Authorize(context.Background(), q)
	wantReason(t, err, oauth.RedirectTruncated)
}

// iss is in every answer of a standard app, success and error alike, and by
// opt-in in those of an exchange app (RFC 9207, 2; attack A6).
func TestAuthorize_RFC9207(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	f := form("Strict", oauth.Exchange, oauth.Confidential)
	f.Settings.Iss = true
	c, secret, err := w.CreateClient(ctx, command, f)
	w.must(err)
	for name, x := range map[string]struct {
		of  app
		iss string
	}{
		"standard": {w.standard, issuer}, "public": {w.public, issuer}, "exchange": {w.exchange, ""}, "opted in": {app{c.ID, secret, *c}, issuer},
	} {
		t.Run(name, func(t *testing.T) {
			allowed, err := w.decide("alice", w.ask(x.of), "s1")
			w.must(err)
			denied, err := w.Decide(ctx, "alice", w.ask(x.of), oauth.Decision{})
			w.must(err)
			_, refused, err := w.Authorize(ctx, w.query(x.of, "scope", "nothing"))
			w.must(err)
			for what, back := range map[string]oauth.Redirect{"code": allowed, "denial": denied, "error": refused} {
				if got := param(t, back, "iss"); got != x.iss {
					t.Errorf("%s: iss=%q, want %q", what, got, x.iss)
				}
				if got := param(t, back, "state"); got != "xyz" {
					t.Errorf("%s: state=%q", what, got)
				}
			}
			if denied.Refusal() == nil || param(t, denied, "error") != "access_denied" || param(t, denied, "code") != "" {
				t.Errorf("Cancel: %s", denied.URL())
			}
		})
	}
}

// A sealed request opens for its session, for ten minutes, and as it was sealed
// (attacks B2, B8).
func TestSeal(t *testing.T) {
	w := newWorld(t)
	r := w.ask(w.standard, "state", "a \x00\xff&=#", "nonce", "n", "scope", "stores.view")
	sealed, err := w.Seal(r, "session")
	w.must(err)
	opened, err := w.Open(sealed, "session")
	w.must(err)
	if opened.ID != r.ID || opened.Challenge != challenge || !opened.Scope.Equal(r.Scope) || opened.Nonce != "n" {
		t.Errorf("%+v", opened)
	}
	again, err := w.Seal(r, "session")
	w.must(err)
	box, err := base64.RawURLEncoding.DecodeString(sealed)
	w.must(err)
	if sealed == again || bytes.Contains(box, []byte(r.ClientID)) {
		t.Error("a sealed request is the same each time, or can be read")
	}
	_, err = w.Open(sealed, "another session")
	wantReason(t, err, oauth.RequestForeign)
	for i := 0; i < len(sealed); i += 7 {
		c := byte('A')
		if sealed[i] == 'A' {
			c = 'Q'
		}
		_, err := w.Open(sealed[:i]+string(c)+sealed[i+1:], "session")
		wantReason(t, err, oauth.RequestForeign)
	}
	for _, s := range []string{"", "A", sealed[:len(sealed)/2], sealed + "A", "!"} {
		_, err := w.Open(s, "session")
		wantReason(t, err, oauth.RequestForeign)
	}
	w.clock.advance(oauth.RequestLife - time.Microsecond)
	_, err = w.Open(sealed, "session")
	w.must(err)
	w.clock.advance(time.Microsecond)
	_, err = w.Open(sealed, "session")
	wantReason(t, err, oauth.RequestExpired)
}

// The state comes back byte for byte, whatever is in it.
func TestSeal_StateBytes(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		state := string(rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "state"))
		r, _, err := w.Authorize(context.Background(), w.query(w.exchange, "state", state))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := w.Seal(r, "s")
		if err != nil {
			t.Fatal(err)
		}
		if r, err = w.Open(sealed, "s"); err != nil {
			t.Fatal(err)
		}
		if r.State != state {
			t.Fatalf("%q became %q", state, r.State)
		}
	})
}

// Of a POSTed request what is read goes on, as it was sent, and nothing else (attack G5).
func TestAuthorizationParams(t *testing.T) {
	q := url.Values{"client_id": {"a", "b"}, "state": {"\x00 +&"}, "code_challenge": {""}}
	sent := maps.Clone(q)
	sent.Set("pad", strings.Repeat("x", 1<<20))
	sent.Set("kept", "x")
	if got := oauth.AuthorizationParams(sent); got.Encode() != q.Encode() {
		t.Errorf("%v became %v", q, got)
	}
}
