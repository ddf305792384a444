package oauth_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

func (w *world) authorizeDirect(q url.Values, guest string) (oauth.DirectCode, error) {
	return w.AuthorizeDirect(context.Background(), oauth.DirectRequest{Query: q, Guest: guest})
}

// The parameters of a direct app's authorization request, and the state that an
// error may echo (seed-contracts 1.6, D5).
func TestGuest_Dressipi_authorize(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		pairs []string
		want  oauth.Reason
	}{
		"in order":             {nil, ""},
		"unknown parameters":   {[]string{"utm_source", "x"}, ""},
		"no client_id":         {[]string{"client_id", ""}, oauth.ClientIDMissing},
		"unknown client_id":    {[]string{"client_id", "nobody"}, oauth.ClientUnknown},
		"another kind of app":  {[]string{"client_id", w.public.id}, oauth.ProfileMismatch},
		"no redirect_uri":      {[]string{"redirect_uri", ""}, oauth.RedirectMissing},
		"another redirect_uri": {[]string{"redirect_uri", "urn:ietf:wg:oauth:2.0:oob"}, oauth.RedirectUnregistered},
		"a web address":        {[]string{"redirect_uri", callback}, oauth.RedirectUnregistered},
		"no state":             {[]string{"state", ""}, oauth.ParamMissing},
		"state of 2,049 bytes": {[]string{"state", strings.Repeat("x", 2049)}, oauth.ParamTooLong},
		"no response_type":     {[]string{"response_type", ""}, oauth.ParamMissing},
		"response_type token":  {[]string{"response_type", "token"}, oauth.ResponseType},
		"no challenge":         {[]string{"code_challenge", ""}, oauth.ChallengeMissing},
		"no method":            {[]string{"code_challenge_method", ""}, oauth.ChallengeMethod},
		"plain":                {[]string{"code_challenge_method", "plain"}, oauth.ChallengeMethod},
		"challenge malformed":  {[]string{"code_challenge", verifier + "="}, oauth.ChallengeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			q := w.query(w.direct, c.pairs...)
			d, err := w.authorizeDirect(q, "")
			wantReason(t, err, c.want)
			if (d.Code == "") != (c.want != "") {
				t.Errorf("code %q", d.Code.Reveal())
			}
			if state := q.Get("state"); len(state) <= 2048 && d.State != state {
				t.Errorf("state %q, want %q", d.State, state)
			}
		})
	}
	for _, name := range []string{"client_id", "redirect_uri", "state", "response_type", "code_challenge", "code_challenge_method"} {
		q := w.query(w.direct)
		q.Add(name, q.Get(name))
		_, err := w.authorizeDirect(q, "")
		wantReason(t, err, oauth.ParamRepeated)
	}
	w.must(w.SuspendClient(context.Background(), command, w.direct.id))
	_, err := w.authorizeDirect(w.query(w.direct), "")
	wantReason(t, err, oauth.ClientSuspended)
}

// An unredeemed code leaves no guest; each redemption makes one of its own; swept,
// nothing remains of a code that nobody redeemed (seed-contracts D10).
func TestGuest_Dressipi_lifecycle(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	guests := func() (ids []string) {
		t.Helper()
		list, err := w.Grants(ctx, command, oauth.GrantFilter{ClientID: w.direct.id, Page: oauth.Page{Limit: 100}})
		w.must(err)
		for _, g := range list {
			ids = append(ids, g.UserID)
		}
		return ids
	}
	w.guestCode(w.direct)
	if len(guests()) != 0 {
		t.Fatal("a code alone made a guest")
	}
	a, b := w.connect(w.direct, ""), w.connect(w.direct, "")
	ca, cb := claims(t, a.AccessToken), claims(t, b.AccessToken)
	if ca.Subject == cb.Subject || !strings.HasPrefix(ca.Subject, "gst_") || len(guests()) != 2 {
		t.Errorf("guests %s and %s, %v", ca.Subject, cb.Subject, guests())
	}
	if a.ExpiresIn != 86_400*time.Second || ca.Expires-ca.IssuedAt != 86_400 || ca.IssuedAt != start.Unix() || a.RefreshToken == "" {
		t.Errorf("%+v %+v", a, ca)
	}
	// A guest is nobody who could sign in, or whom an operator would list.
	_, err := w.decide(ca.Subject, w.ask(w.exchange), "s1")
	wantReason(t, err, oauth.UserSuspended)
	if users, _ := w.Users(ctx, command, "", oauth.Page{Limit: 100}); len(users) != 3 {
		t.Errorf("%d users are listed", len(users))
	}
	if got := w.rights(a.AccessToken); got != "|" {
		t.Errorf("rights %s", got)
	}
	w.must(w.RevokeGrant(ctx, command, a.GrantID))
	if w.rights(a.AccessToken) != "inactive" || w.rights(b.AccessToken) == "inactive" {
		t.Error("revoking one guest's grant")
	}

	guest := w.connect(w.rotating, "")
	events := func() int {
		return len(w.kinds(oauth.EventFilter{ClientID: w.direct.id})) + len(w.kinds(oauth.EventFilter{ClientID: w.rotating.id}))
	}
	before := events() // of them one is of a code that nobody redeemed
	w.guestCode(w.direct)
	_, err = w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
	w.must(err)
	w.clock.advance(oauth.CodeLife + oauth.CodeMemory + time.Second)
	w.sweep()
	if after := events(); after != before-1 {
		t.Errorf("%d events before, %d after: those of unredeemed codes go with them", before, after)
	}
}

// x-api-key is required of the apps that have one, at both endpoints (D1).
func TestGuest_Dressipi_api_key(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	f := form("Keyed", oauth.Direct, oauth.Public)
	f.Settings.APIKeyHash = oauth.HashOf("the key")
	c, _, err := w.CreateClient(ctx, command, f)
	w.must(err)
	a := app{c.ID, "", *c}
	for key, want := range map[oauth.Secret]oauth.Reason{"": oauth.APIKeyWrong, "the keY": oauth.APIKeyWrong, "the key": ""} {
		d, err := w.AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(a), APIKey: key})
		wantReason(t, err, want)
		if want != "" {
			continue
		}
		r := redemption(a, d.Code.Reveal())
		_, err = w.Token(ctx, r)
		wantReason(t, err, oauth.APIKeyWrong)
		r.Auth.APIKey = key
		resp, err := w.Token(ctx, r)
		w.must(err)
		_, err = w.Token(ctx, refresh(a, resp.RefreshToken.Reveal()))
		wantReason(t, err, oauth.APIKeyWrong)
	}
	// Without one, whatever is sent is ignored.
	_, err = w.AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(w.direct), APIKey: "anything"})
	w.must(err)
}

// rekeying is a storage in which an app gets another key after the old one was looked at,
// and before what rests on that is written.
type rekeying struct {
	oauth.Storage
	rekey func()
}

func (r *rekeying) IssueGuestCode(ctx context.Context, c *oauth.StoredCode, p oauth.Proof, e oauth.Event) (bool, error) {
	happen(&r.rekey)
	return r.Storage.IssueGuestCode(ctx, c, p, e)
}

func (r *rekeying) RedeemCode(ctx context.Context, d oauth.Redemption) (bool, error) {
	happen(&r.rekey)
	return r.Storage.RedeemCode(ctx, d)
}

func (r *rekeying) RotateRefreshToken(ctx context.Context, d oauth.Rotation) (bool, error) {
	happen(&r.rekey)
	return r.Storage.RotateRefreshToken(ctx, d)
}

func (r *rekeying) RevokeOwn(ctx context.Context, clientID string, p oauth.Proof, family string, e oauth.Event) (bool, error) {
	happen(&r.rekey)
	return r.Storage.RevokeOwn(ctx, clientID, p, family, e)
}

// Once a key was replaced nothing is issued, or ended, by the old one, however little
// before it was looked at: who comes again is told so.
func TestGuest_KeyReplacedBesideTheWrite(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	f := form("Keyed", oauth.Direct, oauth.Public)
	f.Settings.APIKeyHash = oauth.HashOf("old")
	c, _, err := w.CreateClient(ctx, command, f)
	w.must(err)
	a, auth := app{c.ID, "", *c}, oauth.ClientAuth{ID: c.ID, APIKey: "old"}
	storage := &rekeying{Storage: w.db}
	office := w.office(storage)
	direct := oauth.DirectRequest{Query: w.query(a), APIKey: "old"}
	code := func() string {
		t.Helper()
		d, err := office.AuthorizeDirect(ctx, direct)
		w.must(err)
		return d.Code.Reveal()
	}
	redeem := redemption(a, code())
	redeem.Auth = auth
	guest, err := office.Token(ctx, redeem)
	w.must(err)
	redeem.Code = code()
	use := refresh(a, guest.RefreshToken.Reveal())
	use.Auth = auth
	for what, try := range map[string]func() error{
		"authorize": func() error { _, err := office.AuthorizeDirect(ctx, direct); return err },
		"redeem":    func() error { _, err := office.Token(ctx, redeem); return err },
		"refresh":   func() error { _, err := office.Token(ctx, use); return err },
		"revoke":    func() error { return office.Revoke(ctx, auth, guest.AccessToken.Reveal()) },
	} {
		t.Run(what, func(t *testing.T) {
			w.must(w.SetRules(ctx, command, a.id, oauth.ClientSettings{APIKeyHash: oauth.HashOf("old")}))
			storage.rekey = func() {
				w.must(w.SetRules(ctx, command, a.id, oauth.ClientSettings{APIKeyHash: oauth.HashOf("new")}))
			}
			wantReason(t, try(), oauth.Changed)
			wantReason(t, try(), oauth.APIKeyWrong)
			if w.introspect(guest.AccessToken) == nil {
				t.Error("the guest's key has ended")
			}
		})
	}
}

// deleting is a storage in which an app is deleted after the cache has read it, and before
// it is read for the sake of its key.
type deleting struct {
	oauth.Storage
	reads  int
	delete func()
}

func (d *deleting) Client(ctx context.Context, id string) (*oauth.Client, error) {
	if d.reads++; d.reads == 2 {
		d.delete()
	}
	return d.Storage.Client(ctx, id)
}

// An app that was deleted a moment ago is one that there is not, whatever the cache says
// (RFC 6749, 5.2).
func TestGuest_AppDeletedBesideItsKey(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	f := form("Keyed", oauth.Direct, oauth.Public)
	f.Settings.APIKeyHash = oauth.HashOf("key")
	c, _, err := w.CreateClient(ctx, command, f)
	w.must(err)
	storage := &deleting{Storage: w.db, delete: func() { w.must(w.DeleteClient(ctx, command, c.ID, c.Name)) }}
	_, err = w.office(storage).AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(app{c.ID, "", *c}), APIKey: "key"})
	wantReason(t, err, oauth.ClientUnknown)
	if storage.reads != 2 {
		t.Errorf("read %d times", storage.reads)
	}
}

// x-dressipi-jwt continues a guest only where the app has it switched on, and only
// with a live guest token of that app (DESIGN, decision 3).
func TestGuest_Dressipi_continue(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	guest := w.connect(w.rotating, "")
	sub := claims(t, guest.AccessToken).Subject
	next := func() *oauth.TokenResponse {
		t.Helper()
		d, err := w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
		w.must(err)
		resp, err := w.redeem(w.rotating, d.Code.Reveal())
		w.must(err)
		return resp
	}
	joined := next()
	c := claims(t, joined.AccessToken)
	if c.Subject != sub || joined.GrantID != guest.GrantID || family(c) != family(claims(t, guest.AccessToken)) {
		t.Errorf("continued as %+v", c)
	}
	// The switch is off: the header is ignored.
	fixed := w.connect(w.direct, "")
	d, err := w.authorizeDirect(w.query(w.direct), fixed.AccessToken.Reveal())
	w.must(err)
	resp, err := w.redeem(w.direct, d.Code.Reveal())
	w.must(err)
	if resp.GrantID == fixed.GrantID {
		t.Error("continued, though the switch is off")
	}

	key := w.connect(w.exchange, "alice", "s1")
	for what, token := range map[string]string{
		"nonsense": "x", "of another app": fixed.AccessToken.Reveal(), "a lasting key": key.AccessToken.Reveal(),
		"a person's": w.connect(w.public, "alice", "s1").AccessToken.Reveal(), "altered": flipLast(guest.AccessToken.Reveal()),
	} {
		if _, err := w.authorizeDirect(w.query(w.rotating), token); oauth.ReasonOf(err) != oauth.GuestTokenWrong {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Revoked between authorize and token: the code is dead.
	d, err = w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
	w.must(err)
	w.must(w.Revoke(ctx, w.rotating.auth(), guest.AccessToken.Reveal()))
	_, err = w.redeem(w.rotating, d.Code.Reveal())
	wantReason(t, err, oauth.GrantDead)
	_, err = w.authorizeDirect(w.query(w.rotating), joined.AccessToken.Reveal())
	wantReason(t, err, oauth.GuestTokenWrong)

	guest = w.connect(w.rotating, "")
	w.clock.advance(86_400 * time.Second)
	_, err = w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
	wantReason(t, err, oauth.GuestTokenWrong)
}

// Whoever lost the answer to the code that continues a guest asks again. That is a replay,
// which ends what that code issued: not the guest, who has no other way to sign in. So it
// is of many at once (DESIGN, decision 4; RFC 6749, 4.1.2).
func TestGuest_Dressipi_continue_replayed(t *testing.T) {
	ctx := context.Background()
	for name, requests := range map[string]int{"an answer that was lost": 1, "many at once": 20} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			guest := w.connect(w.rotating, "")
			continued := func() string {
				t.Helper()
				d, err := w.authorizeDirect(w.query(w.rotating), guest.AccessToken.Reveal())
				w.must(err)
				return d.Code.Reveal()
			}
			code := continued()
			var all sync.WaitGroup
			answers := make(chan *oauth.TokenResponse, requests)
			for range requests {
				all.Go(func() {
					resp, err := w.redeem(w.rotating, code)
					switch {
					case err == nil:
						answers <- resp
					case oauth.ReasonOf(err) != oauth.CodeUsed:
						t.Errorf("at once: %v", err)
					}
				})
			}
			all.Wait()
			close(answers)
			resp := <-answers
			if resp == nil || len(answers) > 0 {
				t.Fatalf("%v and %d more won", resp, len(answers))
			}
			for range 5 {
				_, err := w.redeem(w.rotating, code)
				wantReason(t, err, oauth.CodeUsed)
			}
			_, err := w.Token(ctx, refresh(w.rotating, resp.RefreshToken.Reveal()))
			wantReason(t, err, oauth.RefreshUnknown)
			for what, token := range map[string]oauth.Secret{"old": guest.AccessToken, "new": resp.AccessToken} {
				if w.introspect(token) == nil {
					t.Errorf("the guest's %s key has ended", what)
				}
			}
			if n := len(w.kinds(oauth.EventFilter{ClientID: w.rotating.id, Kind: oauth.EventCodeReplayed})); n < 1 || n > 2 {
				t.Errorf("%d events tell of the replays", n)
			}
			again, err := w.redeem(w.rotating, continued())
			w.must(err)
			if again.GrantID != guest.GrantID {
				t.Error("somebody else was continued")
			}
			for what, token := range map[string]oauth.Secret{"first": guest.RefreshToken, "last": again.RefreshToken} {
				if _, err := w.Token(ctx, refresh(w.rotating, token.Reveal())); err != nil {
					t.Errorf("the %s refresh token: %v", what, err)
				}
			}
		})
	}
}

// A direct token's payload is read with atob() on the raw base64url text: neither
// "-" nor "_" may be in it, whatever time it is and however often it is issued
// (seed-contracts 1.8, trap 2). exp is a number (trap 3).
func TestGuest_Dressipi_atob(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		w.clock.advance(time.Duration(rapid.Int64Range(1, int64(20*time.Hour)).Draw(t, "later")))
		resp, err := w.redeem(w.direct, w.guestCode(w.direct))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			payload := strings.Split(resp.AccessToken.Reveal(), ".")[1]
			if strings.ContainsAny(payload, "-_=") {
				t.Fatalf("atob would throw on %s", payload)
			}
			if resp, err = w.Token(context.Background(), refresh(w.direct, resp.RefreshToken.Reveal())); err != nil {
				t.Fatal(err)
			}
		}
	})
	payload := strings.Split(w.connect(w.direct, "").AccessToken.Reveal(), ".")[1]
	var all map[string]any
	decodeSegment(t, payload, &all)
	if _, ok := all["exp"].(float64); !ok {
		t.Errorf("exp is %T", all["exp"])
	}
	want := []string{"aud", "client_id", "exp", "grant_id", "iat", "iseq", "iss", "jti", "rights", "status", "sub"}
	if got := slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		t.Errorf("claims %v, want %v", got, want)
	}
}

func decodeSegment(t testing.TB, segment string, to any) {
	t.Helper()
	b, err := rawURL(segment)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
