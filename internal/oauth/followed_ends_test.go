package oauth_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
	"github.com/grantway/grantway/resource"
)

// asked is the status that an API answers to a key.
func (x *followed) asked(key oauth.Secret) int {
	status, _ := x.answers(key)
	return status
}

// answers is what an API answers to a key, and what its handler learns, once its verifier
// knows: it may not for a moment, and then the answer is 503.
func (x *followed) answers(key oauth.Secret) (status int, caller resource.Caller) {
	api := x.verifier.Require(resource.Access{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller = resource.FromContext(r.Context())
		w.WriteHeader(http.StatusNoContent)
	}))
	again := looks()
	defer again.Stop()
	for began := time.Now(); ; <-again.C {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+key.Reveal())
		rec := httptest.NewRecorder()
		if api.ServeHTTP(rec, r); rec.Code != http.StatusServiceUnavailable || time.Since(began) > comesBack {
			return rec.Code, caller
		}
	}
}

// A backup is put back beneath an API that goes on: what was issued since is refused,
// and what was revoked since, if the log says so; nothing has to start again.
func TestFollowed_ABackupIsPutBack(t *testing.T) {
	ctx := context.Background()
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			x := newFollowed(t, dsn)
			kept, before, since := x.connect(x.exchange, "alice", "s1"), x.connect(x.other, "alice", "s2"), x.connect(x.other, "bob", "b1")
			x.must(x.RevokeGrant(ctx, command, before.GrantID))
			file := x.backup()
			lost := x.connect(x.exchange, "alice", "s2")
			another := x.connect(x.other, "alice", "s1") // of a grant that the backup does not have
			x.must(x.RevokeGrant(ctx, command, since.GrantID))
			log := x.export()
			all := map[string]oauth.Secret{"a key that the backup has": kept.AccessToken, "revoked before it": before.AccessToken,
				"revoked after it": since.AccessToken, "issued after it": lost.AccessToken, "issued after it, of another grant": another.AccessToken}
			want := func(when string, alive ...string) {
				t.Helper()
				x.settle()
				for what, key := range all {
					status := http.StatusUnauthorized
					for _, one := range alive {
						if one == what {
							status = http.StatusNoContent
						}
					}
					if got := x.asked(key); got != status {
						t.Errorf("%s, %s: the API answers %d, want %d", when, what, got, status)
					}
				}
				if c := x.verifier.Counters(); c.Epoch != x.epoch {
					t.Errorf("%s: the verifier is in epoch %d, the database in %d", when, c.Epoch, x.epoch)
				}
			}
			want("at first", "a key that the backup has", "issued after it", "issued after it, of another grant")
			x.restore(file, log)
			want("put back with the log", "a key that the backup has")
			x.restore(file, nil)
			want("put back without", "a key that the backup has", "revoked after it")
		})
	}
}

// A backup is put back that has a signing key that was cut off since: what it signed counts again, at once, though the API
// has found out meanwhile that there is no such key.
func TestFollowed_ASigningKeyComesBack(t *testing.T) {
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			x := newFollowed(t, dsn)
			old := x.connect(x.exchange, "alice", "s1").AccessToken
			file := x.backup()
			x.must(x.CutKey(context.Background(), command, kidOf(t, old)))
			next := x.connect(x.exchange, "alice", "s2").AccessToken
			want := func(when string, key oauth.Secret, status int) {
				t.Helper()
				if got := x.asked(key); got != status {
					t.Errorf("%s the API answers %d, want %d", when, got, status)
				}
			}
			x.settle()
			want("its successor's:", next, http.StatusNoContent)
			want("cut off:", old, http.StatusUnauthorized)
			want("cut off, and known not to be there:", old, http.StatusUnauthorized)
			x.restore(file, nil)
			x.settle()
			want("put back:", old, http.StatusNoContent)
			want("issued since:", next, http.StatusUnauthorized)
		})
	}
}

// What ends keys meets what issues them, on two nodes, in both orders: once the feed
// is followed nothing counts that had to end.
func TestFollowed_IssueAgainstEnd(t *testing.T) {
	ctx := context.Background()
	rounds := 6
	if storagetest.All() {
		rounds = 14
	}
	// An end returns what tells a key that was issued before it.
	any := func(oauth.Secret) bool { return true }
	ends := map[string]func(x *followed, s *oauth.Server, a app) func(oauth.Secret) bool{
		"the app is deleted": func(x *followed, s *oauth.Server, a app) func(oauth.Secret) bool {
			x.must(s.DeleteClient(ctx, command, a.id, a.Name))
			return any
		},
		"the app is suspended": func(x *followed, s *oauth.Server, a app) func(oauth.Secret) bool {
			x.must(s.SuspendClient(ctx, command, a.id))
			return any
		},
		"the user is suspended": func(x *followed, s *oauth.Server, _ app) func(oauth.Secret) bool {
			x.must(s.SuspendUser(ctx, command, "alice"))
			return any
		},
		"the store is suspended": func(x *followed, s *oauth.Server, _ app) func(oauth.Secret) bool {
			x.must(s.PutStore(ctx, command, oauth.Store{ID: "s1", Name: "s1", Status: oauth.Suspended}))
			return func(key oauth.Secret) bool { return len(claims(x.t, key).Rights) > 0 }
		},
		"the key is cut off": func(x *followed, s *oauth.Server, a app) func(oauth.Secret) bool {
			use := oauth.ForAccess
			if a.Profile == oauth.Exchange {
				use = oauth.ForLasting
			}
			kid := x.PublicKeys(use).Keys[0].KeyID
			x.must(s.CutKey(ctx, command, kid))
			return func(key oauth.Secret) bool { return kidOf(x.t, key) == kid }
		},
		"everything is cut off": func(x *followed, s *oauth.Server, _ app) func(oauth.Secret) bool {
			x.must(s.CutEverything(ctx, command))
			rules, err := x.db.Rules(ctx)
			x.must(err)
			return func(key oauth.Secret) bool {
				for _, r := range rules {
					if r.Kind == oauth.RuleAll {
						return claims(x.t, key).ISeq < r.Before
					}
				}
				x.t.Fatal("no rule about everything")
				return true
			}
		},
	}
	for name, dsn := range engines {
		t.Run(name, func(t *testing.T) {
			x := newFollowed(t, dsn)
			for what, end := range ends {
				t.Run(what, func(t *testing.T) {
					x.t = t
					x.follow() // it knows the keys of now
					before, after := 0, 0
					for n := range rounds {
						f := form(fmt.Sprintf("App %s %d", what, n), oauth.Standard, oauth.Confidential)
						if n/2%2 == 0 {
							f = form(f.Name, oauth.Exchange, oauth.Confidential)
						}
						made, secret, err := x.CreateClient(ctx, command, f)
						x.must(err)
						a := app{made.ID, secret, *made}
						x.settleNodes()
						code := x.code(a, "alice", "s1")
						issue := func() (*oauth.TokenResponse, error) { return x.nodes[0].server.Token(ctx, redemption(a, code)) }
						if a.Profile == oauth.Standard && n/4%2 == 0 { // a refresh token instead
							chain, err := issue()
							x.must(err)
							issue = func() (*oauth.TokenResponse, error) {
								return x.nodes[0].server.Token(ctx, refresh(a, chain.RefreshToken.Reveal()))
							}
						}
						var resp *oauth.TokenResponse
						var first func(oauth.Secret) bool
						var both sync.WaitGroup
						done := make(chan struct{}) // of the first of the two, in the first two rounds
						wait := func(mine int) {
							if n < 2 && n != mine {
								<-done
							}
						}
						leave := func(mine int) {
							if n == mine {
								close(done)
							}
						}
						both.Go(func() {
							wait(0)
							resp, err = issue()
							leave(0)
						})
						both.Go(func() {
							wait(1)
							for range n % 2 * n { // now and then it comes a little later
								_, _, err := x.nodes[1].db.Head(ctx)
								x.must(err)
							}
							first = end(x, x.nodes[1].server, a)
							leave(1)
						})
						both.Wait()
						x.settle()
						switch {
						case err != nil:
							after++
						case !first(resp.AccessToken):
							after++
							if got := x.asked(resp.AccessToken); got != http.StatusNoContent {
								t.Errorf("round %d: a key that was issued after it is answered %d", n, got)
							}
						case what == "the store is suspended":
							before++
							if status, c := x.answers(resp.AccessToken); status != http.StatusNoContent || len(c.Stores("")) > 0 {
								t.Errorf("round %d: a key that was issued before it is answered %d, and reaches %v", n, status, c.Stores(""))
							}
						default:
							before++
							if got := x.asked(resp.AccessToken); got != http.StatusUnauthorized {
								t.Errorf("round %d: a key that was issued before it is answered %d", n, got)
							}
						}
						x.mend()
					}
					if t.Logf("%d issued before, %d after or not at all", before, after); before == 0 || after == 0 {
						t.Error("only one of the two orders came about")
					}
				})
			}
		})
	}
}

// mend takes back what a test has done to alice and her store.
func (x *followed) mend() {
	ctx := context.Background()
	x.must(x.PutStore(ctx, command, oauth.Store{ID: "s1", Name: "Store s1"}))
	if u, err := x.User(ctx, command, "alice"); err != nil || u.Status != oauth.Active {
		x.must(x.ResumeUser(ctx, command, "alice"))
	}
}
