package oauth_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

// kidOf reads which key signed a token.
func kidOf(t testing.TB, token oauth.Secret) string {
	t.Helper()
	head, _, _ := strings.Cut(token.Reveal(), ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var h struct{ Kid string }
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.Kid
}

func published(s *oauth.Server, use oauth.KeyUse, kid string) bool {
	set := s.PublicKeys(use)
	return len(set.Key(kid)) > 0
}

// What a signing key signed ends with it, on every node, which signs with another from
// then on; what other keys signed, and refresh chains, go on.
func TestCutKey(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		w.runs(w.Server)
		lasting, books := w.connect(w.exchange, "alice", "s1"), w.connect(w.standard, "alice", "s1")
		office := w.office(w.db)
		for _, actor := range []oauth.Actor{alice, {}, {Kind: oauth.AsClient, ID: w.standard.id}} {
			wantReason(t, office.CutKey(ctx, actor, kidOf(t, books.AccessToken)), oauth.NotPermitted)
			wantReason(t, office.CutEverything(ctx, actor), oauth.NotPermitted)
			_, err := office.SigningKeys(ctx, actor)
			wantReason(t, err, oauth.NotPermitted)
		}
		wantReason(t, office.CutKey(ctx, command, "nothing"), oauth.NoSuch)
		for use, token := range map[oauth.KeyUse]oauth.Secret{oauth.ForAccess: books.AccessToken, oauth.ForLasting: lasting.AccessToken} {
			kid := kidOf(t, token)
			if w.introspect(token) == nil || !published(w.Server, use, kid) {
				t.Fatalf("%s: not trusted before", use)
			}
			began := time.Now()
			w.must(office.CutKey(ctx, command, kid))
			if took := time.Since(began); took > 500*time.Millisecond {
				t.Errorf("%s: cut within %v", use, took)
			}
			if published(office, use, kid) || len(office.PublicKeys(use).Keys) != 1 {
				t.Errorf("%s: who cut it publishes %+v", use, office.PublicKeys(use).Keys)
			}
			if published(w.Server, use, kid) || w.introspect(token) != nil {
				t.Errorf("%s: a node publishes the key, or what it signed is active", use)
			}
			wantReason(t, office.CutKey(ctx, command, kid), oauth.Changed)
		}
		again, err := w.Token(ctx, refresh(w.standard, books.RefreshToken.Reveal()))
		w.must(err)
		fresh := w.connect(w.exchange, "alice", "s1")
		for use, token := range map[oauth.KeyUse]oauth.Secret{oauth.ForAccess: again.AccessToken, oauth.ForLasting: fresh.AccessToken} {
			if w.introspect(token) == nil || !published(w.Server, use, kidOf(t, token)) {
				t.Errorf("%s: what the new key signed does not count", use)
			}
		}
		keys, err := office.SigningKeys(ctx, command)
		w.must(err)
		states := map[oauth.Status]int{}
		for _, k := range keys {
			states[k.Status]++
			if k.Sealed != nil {
				t.Error("a private key is shown")
			}
		}
		if states[oauth.Active] != 2 || states[oauth.KeyCut] != 2 {
			t.Errorf("keys: %v", states)
		}
	})
}

// A node that has not read of a new signing key yet does so before it calls a token of it
// unknown, to an API, to an app that revokes it and to one that goes on with it.
func TestCutKey_TheNewOneCountsOnEveryNode(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, _ := w.askingNode()
	for name, a := range map[string]app{"lasting": w.exchange, "access": w.standard, "guest": w.rotating} {
		t.Run(name, func(t *testing.T) {
			// cut returns what a new key has signed, of which the node reads when it must.
			cut := func() oauth.Secret {
				w.must(w.CutKey(ctx, command, kidOf(t, w.connect(a, "alice", "s1").AccessToken)))
				token := w.connect(a, "alice", "s1").AccessToken
				node.KeepWarm(0)
				return token
			}
			token := cut()
			if node.introspect(token) == nil {
				t.Error("an API is told that it is not active")
			}
			token = cut()
			w.must(node.Revoke(ctx, a.auth(), token.Reveal()))
			if w.introspect(token) != nil {
				t.Error("it is active once it was revoked")
			}
			if a.Profile != oauth.Direct {
				return
			}
			token = cut()
			if _, err := node.AuthorizeDirect(ctx, oauth.DirectRequest{Query: w.query(a), Guest: token.Reveal()}); err != nil {
				t.Errorf("a guest cannot go on: %v", err)
			}
		})
	}
}

// A token of a key that was made up costs one number more than any other text.
func TestIntrospect_KeysThatWereMadeUp(t *testing.T) {
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1").AccessToken
	node, storage := w.askingNode()
	_, rest, _ := strings.Cut(key.Reveal(), ".")
	with := func(header string) string { return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest }
	for token, heads := range map[string]int64{
		with(`{"alg":"ES256","kid":"made-up","typ":"at+jwt"}`):     1,
		with(`{"alg":"ES256","kid":"made-up","typ":"apikey+jwt"}`): 1,
		with(`{"alg":"ES256","kid":"made-up","typ":"JWT"}`):        0,
		with(`{"kid":"made-up","alg":"ES256","typ":"at+jwt"}`):     0,
		with(`{"alg":"ES256","typ":"at+jwt"}`):                     0,
		"x." + rest:                                                0,
		"x":                                                        0,
	} {
		storage.read()
		if in := node.introspect(oauth.Secret(token)); in != nil {
			t.Errorf("%s is active", token)
		}
		if got := storage.read(); got != [2]int64{1, heads} {
			t.Errorf("%s: %d reads of a key and %d of the sequence, want 1 and %d", token, got[0], got[1], heads)
		}
	}
}

// Every key and every refresh chain ends, and what comes by a new code counts.
func TestCutEverything(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	w.runs(w.Server)
	lasting, books, guest := w.connect(w.exchange, "alice", "s1"), w.connect(w.standard, "alice", "s1"), w.connect(w.direct, "")
	// A guest who goes on: once with a code that is under way, once not yet.
	goesOn := w.connect(w.rotating, "")
	underWay, err := w.authorizeDirect(w.query(w.rotating), goesOn.AccessToken.Reveal())
	w.must(err)
	w.must(w.office(w.db).CutEverything(ctx, command))
	_, err = w.redeem(w.rotating, underWay.Code.Reveal())
	wantReason(t, err, oauth.GrantDead)
	_, err = w.authorizeDirect(w.query(w.rotating), goesOn.AccessToken.Reveal())
	wantReason(t, err, oauth.GuestTokenWrong)
	for name, token := range map[string]oauth.Secret{"lasting": lasting.AccessToken, "access": books.AccessToken, "guest": guest.AccessToken} {
		if w.introspect(token) != nil {
			t.Errorf("%s: active", name)
		}
	}
	for a, token := range map[*app]oauth.Secret{&w.standard: books.RefreshToken, &w.direct: guest.RefreshToken} {
		if _, err := w.Token(ctx, refresh(*a, token.Reveal())); oauth.AsError(err).Code != oauth.InvalidGrant {
			t.Errorf("%s refreshed: %v", a.Name, err)
		}
	}
	if got := w.grant(claims(t, lasting.AccessToken).GrantID).Status; got != oauth.Live {
		t.Errorf("the grant is %s", got)
	}
	if fresh := w.connect(w.exchange, "alice", "s1"); w.introspect(fresh.AccessToken) == nil {
		t.Error("a key by a new code does not count")
	}
}

// A database that was put back to an earlier moment tells nobody anything until a new
// epoch is begun, while its nodes work; then what was issued in what was lost is dead,
// what was there before lives, and no key is given a place that the lists call dead.
func TestNewEpoch(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		testNewEpoch(w, w.raw())
	})
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		ctx := context.Background()
		w, dsn := newWorld(t), storagetest.Postgres(t)
		r, err := sqlstore.Restore(ctx, w.backup(), dsn, false)
		w.must(err)
		e, err := oauth.NewRestored(w.Now(), newRand("restored"), oauth.Restored{Epoch: 2, FromEpoch: r.Epoch, FromSeq: r.Seq, Made: r.Made})
		w.must(err)
		_, err = r.Finish(ctx, 2, false, e, nil)
		w.must(err)
		back := &world{t: t, clock: w.clock, house: w.house}
		back.open(dsn)
		raw, err := sql.Open("pgx", dsn)
		w.must(err)
		t.Cleanup(func() { raw.Close() })
		testNewEpoch(back, raw)
	})
}

func testNewEpoch(w *world, raw *sql.DB) {
	t, ctx := w.t.(*testing.T), context.Background()
	w.runs(w.Server)
	old := w.connect(w.exchange, "alice", "s1")
	code := w.code(w.other, "alice", "s1")
	poll := func(q oauth.FeedQuery) (*oauth.FeedPage, error) {
		q.Instance = "one"
		return w.Revocations(ctx, w.api, q)
	}
	p, err := known(func() (*oauth.FeedPage, error) { return poll(oauth.FeedQuery{}) })
	w.must(err)
	seq, epoch := p.Seq, p.Epoch
	exec(t, raw, "UPDATE heads SET seq = seq - 3 WHERE name = 'feed'")
	for began := time.Now(); ; {
		if _, err = poll(oauth.FeedQuery{}); oauth.ReasonOf(err) == oauth.FeedUnknown {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("nothing is missed: %v", err)
		}
	}
	begin := func(next int64) error {
		return w.db.NewEpoch(ctx, next, func(from, at int64) (oauth.Event, error) {
			if from != epoch || at != seq-3 {
				t.Errorf("from %d, %d", from, at)
			}
			return oauth.NewRestored(w.Now(), newRand("epoch"), oauth.Restored{Epoch: next, FromEpoch: from, FromSeq: at, Made: w.Now()})
		})
	}
	if err := begin(epoch); err == nil {
		t.Error("the epoch that it has was begun anew")
	}
	w.must(begin(100))
	for began := time.Now(); ; {
		if p, err = poll(oauth.FeedQuery{}); err == nil && p.Epoch == 100 {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("no new epoch: %+v, %v", p, err)
		}
	}
	if _, err := known(func() (*oauth.FeedPage, error) { return poll(oauth.FeedQuery{After: seq, Epoch: epoch}) }); oauth.ReasonOf(err) != oauth.FeedGone {
		t.Errorf("a follower of before: %v", err)
	}
	if _, err := w.redeem(w.other, code); oauth.AsError(err).Code != oauth.InvalidGrant && oauth.AsError(err).Reason != oauth.CodeExpired {
		t.Errorf("a code of before: %v", err)
	}
	if w.introspect(old.AccessToken) == nil {
		t.Error("a key of before does not count")
	}
	fresh := w.connect(w.exchange, "alice", "s1")
	if got := claims(t, fresh.AccessToken); !strings.Contains(statusURI(t, fresh.AccessToken), "/status/100-") || got.ISeq <= seq {
		t.Errorf("a new key is in %s, of %d", statusURI(t, fresh.AccessToken), got.ISeq)
	}
	if got := w.kinds(oauth.EventFilter{Kind: oauth.EventRestored}); len(got) != int(epoch) { // one more than it began with
		t.Errorf("events: %v", got)
	}
}

// statusURI reads in which list a key stands.
func statusURI(t testing.TB, token oauth.Secret) string {
	t.Helper()
	raw, err := rawURL(strings.Split(token.Reveal(), ".")[1])
	var c struct {
		Status struct {
			List struct{ URI string } `json:"status_list"`
		}
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Status.List.URI
}
