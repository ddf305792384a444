package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// The events of the token path alone, every one durable, 32 callers at once, each
// on a grant of its own.

// stock is a database with codes of one public client.
type stock struct {
	*Store
	indices atomic.Int64
}

func on(b *testing.B, run func(b *testing.B, s *stock)) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		b.Run(engine, func(b *testing.B) {
			dsn := filepath.Join(b.TempDir(), "grantway.db")
			if engine == "PostgreSQL" {
				dsn = storagetest.Postgres(b)
			}
			store, err := Open(b.Context(), dsn)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			s := &stock{Store: store}
			if err := store.Migrate(b.Context()); err != nil {
				b.Fatal(err)
			}
			s.won(b)(store.CreateUser(b.Context(), &oauth.User{ID: "user", Kind: oauth.Person, Status: oauth.Active}, s.event(oauth.EventUserCreated)))
			s.won(b)(store.CreateClient(b.Context(), &oauth.Client{ID: "client", Name: "App", Type: oauth.Public, Profile: oauth.Standard, AuthMethod: oauth.ByNone,
				Status: oauth.Active, Version: 1}, 1, s.event(oauth.EventClientCreated)))
			run(b, s)
		})
	}
}

// won returns what demands that an event wins.
func (s *stock) won(b *testing.B) func(bool, error) {
	return func(won bool, err error) {
		if !won && err == nil {
			err = errors.New("the event lost")
		}
		if err != nil {
			b.Error(err)
		}
	}
}

func id(prefix string) string {
	id, err := oauth.NewID(prefix, time.Now(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return id
}

func artefact() (selector string, hash oauth.Hash) {
	a, err := oauth.NewArtefact(time.Now(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return a.Selector, oauth.HashOf(a.Secret)
}

func (s *stock) event(kind oauth.Kind) oauth.Event {
	return oauth.Event{ID: id("ev_"), At: time.Now(), Kind: kind, Actor: "client:client", ClientID: "client", UserID: "user", Request: "0123456789abcdef",
		Payload: json.RawMessage(`{"family":"fm_06fq1t0z2r8d5k7x9w3y4v6n8m","profile":"standard"}`)}
}

// redemptions makes n pending grants with a code each.
func (s *stock) redemptions(b *testing.B, n int) []oauth.Redemption {
	made := make([]oauth.Redemption, n)
	s.atOnce(n, func(i int) {
		now := time.Now()
		selector, hash := artefact()
		g := oauth.Grant{ID: id("gr_"), UserID: "user", ClientID: "client", Scopes: oauth.Scopes("orders.view"), Stores: []oauth.GrantStore{{StoreID: "s1"}, {StoreID: "s2"}},
			Status: oauth.Pending, Rev: 1, Created: now}
		c := oauth.StoredCode{Selector: selector, Hash: hash, Request: id("rq_"), ClientID: "client", GrantID: g.ID, Profile: oauth.Standard, API: "api",
			Redirect: "https://client.example/callback", AuthTime: now, Expires: now.Add(time.Hour)}
		s.won(b)(s.RecordDecision(context.Background(), oauth.DecisionRecord{Grant: g, ClientVersion: 1, Create: true, Code: c, Now: now, Event: s.event(oauth.EventGrantMade)}))
		f := oauth.Family{ID: id("fm_"), GrantID: g.ID, ClientID: "client", UserID: "user", API: "api", StatusIndex: listsMax*listSize + s.indices.Add(1), Status: oauth.Valid, Created: now, Token: hash}
		made[i] = oauth.Redemption{Selector: selector, ClientID: "client", GrantID: g.ID, Rev: 1, Activate: true, Family: f, Now: now}
	})
	return made
}

func (s *stock) redeem(b *testing.B, r *oauth.Redemption) {
	r.Event = s.event(oauth.EventCodeRedeemed)
	s.won(b)(s.RedeemCode(context.Background(), *r))
}

func refreshOf(family string) *oauth.StoredRefresh {
	selector, hash := artefact()
	now := time.Now()
	return &oauth.StoredRefresh{Selector: selector, Family: family, Hash: hash, IdleUntil: now.Add(time.Hour), AbsoluteUntil: now.Add(time.Hour)}
}

const callers = 32

// atOnce calls f for every i below n, from many callers.
func (s *stock) atOnce(n int, f func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	all.Wait()
}

func (s *stock) timed(b *testing.B, f func(i int)) {
	b.ReportAllocs()
	b.ResetTimer()
	s.atOnce(b.N, f)
	b.StopTimer()
}

// The exchange of a lasting key: no refresh token.
func BenchmarkRedeemCode(b *testing.B) {
	on(b, func(b *testing.B, s *stock) {
		all := s.redemptions(b, b.N)
		s.timed(b, func(i int) { s.redeem(b, &all[i]) })
	})
}

func BenchmarkRedeemCode_WithRefreshToken(b *testing.B) {
	on(b, func(b *testing.B, s *stock) {
		all := s.redemptions(b, b.N)
		for i := range all {
			all[i].Refresh = refreshOf(all[i].Family.ID)
		}
		s.timed(b, func(i int) { s.redeem(b, &all[i]) })
	})
}

func BenchmarkRotateRefreshToken(b *testing.B) {
	on(b, func(b *testing.B, s *stock) {
		all := s.redemptions(b, b.N)
		rotations := make([]oauth.Rotation, b.N)
		s.atOnce(b.N, func(i int) {
			r := &all[i]
			r.Refresh = refreshOf(r.Family.ID)
			s.redeem(b, r)
			rotations[i] = oauth.Rotation{Selector: r.Refresh.Selector, Family: r.Family.ID, GrantID: r.GrantID, Rev: 1, Now: time.Now(),
				Presented: r.Refresh.Hash, Successor: refreshOf(r.Family.ID).Hash, IdleUntil: r.Refresh.IdleUntil}
		})
		s.timed(b, func(i int) {
			rotations[i].Event = s.event(oauth.EventTokenRefreshed)
			s.won(b)(s.RotateRefreshToken(context.Background(), rotations[i]))
		})
	})
}

// The read behind every introspection.
func BenchmarkFamily(b *testing.B) {
	on(b, func(b *testing.B, s *stock) {
		all := s.redemptions(b, 256)
		s.atOnce(len(all), func(i int) { s.redeem(b, &all[i]) })
		s.timed(b, func(i int) {
			if _, _, err := s.Family(context.Background(), all[i%len(all)].Family.ID); err != nil {
				b.Error(err)
			}
		})
	})
}

// One small row an event, by how many callers wait at once: what the group saves.
func BenchmarkGroupCommit(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			store, err := Open(b.Context(), filepath.Join(b.TempDir(), "grantway.db"))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			if err := store.Migrate(b.Context()); err != nil {
				b.Fatal(err)
			}
			var next atomic.Int64
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				all.Go(func() {
					for i := int(next.Add(1)); i <= b.N; i = int(next.Add(1)) {
						if err := store.engine.write(context.Background(), put(i)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/float64(store.Stats().Commits), "events/commit")
		})
	}
}

// A hundred of the grants that reach a suspended store, of which there are many: what
// is left behind them costs nothing.
func BenchmarkFoldRule_Store(b *testing.B) {
	for _, grants := range []int{1_000, 20_000} {
		b.Run(fmt.Sprint("grants=", grants), func(b *testing.B) {
			on(b, func(b *testing.B, s *stock) {
				put := func(to oauth.Status) {
					if err := s.PutStore(b.Context(), &oauth.Store{ID: "store", Name: "Store", Status: to}, s.event(oauth.EventStorePut)); err != nil {
						b.Fatal(err)
					}
				}
				put(oauth.Active)
				var ev []statement
				for i := range grants {
					id := fmt.Sprintf("gr_%06d", i)
					ev = append(ev, do(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
						VALUES ($1, 'user', 'client', FALSE, '', '', FALSE, 'live', 1, '', 0, 0)`, id),
						do("INSERT INTO grant_stores (grant_id, store_id) VALUES ($1, 'store')", id))
				}
				if err := s.inBatches(b.Context(), ev); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					list, err := s.Foldings(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					if len(list) == 0 || list[0].Done {
						b.StopTimer()
						put(oauth.Active)
						put(oauth.Suspended)
						if list, err = s.Foldings(b.Context()); err != nil || len(list) != 1 {
							b.Fatal(list, err)
						}
						b.StartTimer()
					}
					s.won(b)(s.FoldRule(b.Context(), list[0], 100, s.event(oauth.EventRuleFolded)))
				}
			})
		})
	}
}
