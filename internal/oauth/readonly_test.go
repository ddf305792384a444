package oauth_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/oauth"
)

// No GET of somebody unknown writes, and no introspection (DESIGN, decisions 4 and
// 5): every row of every table is as it was.
func TestReadOnly_GetsAndIntrospectionWriteNothing(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	live := w.connect(w.exchange, "alice", "s1", "s2")
	short := w.connect(w.standard, "alice", "s1")
	dead := w.connect(w.exchange, "bob", "b1")
	w.must(w.RevokeGrant(ctx, command, dead.GrantID))
	raw := w.raw()

	authorize := func(a app, leads bool, pairs ...string) func() {
		return func() {
			t.Helper()
			r, _, err := w.Authorize(ctx, w.query(a, pairs...))
			if (r != nil) != leads {
				t.Errorf("a request %v, error %v", r, err)
			}
		}
	}
	introspect := func(token oauth.Secret, active bool) func() {
		return func() {
			t.Helper()
			in, err := w.introspection(token.Reveal())
			if err != nil || (in != nil) != active {
				t.Errorf("%+v, %v", in, err)
			}
		}
	}
	direct := func(want oauth.Reason, pairs ...string) func() {
		return func() {
			t.Helper()
			_, err := w.AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(w.direct, pairs...)})
			wantReason(t, err, want)
		}
	}
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"authorize, exchange", authorize(w.exchange, true)},
		{"authorize, standard", authorize(w.standard, true)},
		{"authorize, public", authorize(w.public, true)},
		{"authorize, app unknown", authorize(w.standard, false, "client_id", "nobody")},
		{"authorize, redirect elsewhere", authorize(w.standard, false, "redirect_uri", "https://evil.example/")},
		{"authorize, error that goes back", authorize(w.standard, false, "code_challenge_method", "plain")},
		{"authorize, a direct app on the pages", authorize(w.direct, false)},
		{"direct, no challenge", direct(oauth.ChallengeMissing, "code_challenge", "")},
		{"direct, app unknown", direct(oauth.ClientUnknown, "client_id", "nobody")},
		{"direct, another profile's app", direct(oauth.ProfileMismatch, "client_id", w.standard.id)},
		{"consent page", func() {
			t.Helper()
			r := w.ask(w.exchange)
			if _, _, err := w.Ask(ctx, r, "alice", w.Now()); err != nil {
				t.Error(err)
			}
			sealed, err := w.Seal(r, "session")
			if err != nil {
				t.Error(err)
			}
			if _, err := w.Open(sealed, "session"); err != nil {
				t.Error(err)
			}
		}},
		{"introspect, live lasting key", introspect(live.AccessToken, true)},
		{"introspect, live access token", introspect(short.AccessToken, true)},
		{"introspect, dead", introspect(dead.AccessToken, false)},
		{"introspect, a refresh token", introspect(short.RefreshToken, false)},
		{"introspect, unknown", introspect(live.AccessToken[:len(live.AccessToken)-8]+"AAAAAAAA", false)},
		{"introspect, no token at all", introspect("", false)},
		{"authenticate an API", func() {
			t.Helper()
			_, err := w.Introspect(ctx, oauth.ClientAuth{ID: w.api.ID, Secret: "wrong"}, live.AccessToken.Reveal())
			wantReason(t, err, oauth.SecretWrong)
		}},
		{"read an app", func() {
			t.Helper()
			if c, err := w.Client(ctx, w.public.id); err != nil || c.Name != "Pocket" {
				t.Errorf("%+v, %v", c, err)
			}
			if _, err := w.Client(ctx, "nobody"); err == nil {
				t.Error("nobody is an app")
			}
			if p, err := w.ProfileOf(ctx, w.direct.id); err != nil || p != oauth.Direct {
				t.Errorf("profile %s, %v", p, err)
			}
		}},
		{"follow the feed", func() { w.must(w.Follow(ctx)) }},
	} {
		// So that a time that was written would show.
		w.clock.advance(time.Second)
		before := dump(t, raw)
		step.do()
		if d := cmp.Diff(before, dump(t, raw)); d != "" {
			t.Errorf("%s wrote (-before +after):\n%s", step.what, d)
		}
		if t.Failed() {
			t.Fatalf("at %s", step.what)
		}
	}
}

// A direct authorize is the one GET that writes: the row of its code and the event.
func TestReadOnly_ADirectAuthorizeWritesItsCodeAndItsEvent(t *testing.T) {
	w := newWorld(t)
	raw := w.raw()
	before := dump(t, raw)
	code := w.guestCode(w.direct)
	after := dump(t, raw)
	if len(after["authorization_codes"]) != 1 || after["events"] == nil {
		t.Fatalf("%d codes, %d events", len(after["authorization_codes"]), len(after["events"]))
	}
	for _, table := range slices.Concat(slices.Collect(maps.Keys(before)), []string{"authorization_codes"}) {
		rows := after[table]
		var fresh []string
		for _, row := range rows {
			if !slices.Contains(before[table], row) {
				fresh = append(fresh, row)
			}
		}
		want := 0
		if table == "authorization_codes" || table == "events" {
			want = 1
		}
		if len(fresh) != want || len(rows) != len(before[table])+want {
			t.Errorf("%s: from %d to %d rows, new or changed are %q", table, len(before[table]), len(rows), fresh)
			continue
		}
		if want == 1 && !strings.Contains(fresh[0], w.direct.id) {
			t.Errorf("%s: the row is not of this app: %s", table, fresh[0])
		}
		for _, row := range fresh {
			if strings.Contains(row, code[len(code)-43:]) {
				t.Errorf("%s: the code is in its row", table)
			}
		}
	}
}
