package oauth_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// One exchange of a code for a lasting key: one read, one signature, one durable
// event. The consent before it is not counted.
func BenchmarkRedeemCode(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		code := w.code(w.exchange, "alice", "s1", "s2")
		b.StartTimer()
		if _, err := w.redeem(w.exchange, code); err != nil {
			b.Fatal(err)
		}
	}
}

// The same from many callers, whose events share their flushes.
func BenchmarkRedeemCode_Parallel(b *testing.B) {
	w := newWorld(b)
	codes := make(chan string, b.N)
	for range b.N {
		codes <- w.code(w.exchange, "alice", "s1", "s2")
	}
	b.ReportAllocs()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.redeem(w.exchange, <-codes); err != nil {
				b.Error(err)
			}
		}
	})
}

// Rights, claims and signature of one key, with the read of its standing.
func BenchmarkMint(b *testing.B) {
	w := newWorld(b)
	f := family(claims(b, w.connect(w.exchange, "alice", "s1", "s2", "s3").AccessToken))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Mint(context.Background(), f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyOwn(b *testing.B) {
	w := newWorld(b)
	token := w.connect(w.exchange, "alice", "s1", "s2", "s3").AccessToken.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		if !w.VerifyOwn(token) {
			b.Fatal("not our own")
		}
	}
}

func BenchmarkIntrospect(b *testing.B) {
	w := newWorld(b)
	token := w.connect(w.exchange, "alice", "s1", "s2", "s3").AccessToken.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		if in, err := w.Introspect(context.Background(), w.api, token); in == nil || err != nil {
			b.Fatal(in, err)
		}
	}
}

// What one key may do, from a grant of two stores and one of fifty, with the claim
// that prints it.
func BenchmarkEffective(b *testing.B) {
	scopes := oauth.Scopes("stores.view", "stores.orders.view", "stores.orders.deliver")
	for _, stores := range []int{2, oauth.MaxPrinted} {
		g := &oauth.Grant{Scopes: scopes, Account: oauth.Scopes("user.view")}
		var members []oauth.Membership
		for i := range stores {
			id := fmt.Sprint("s", i)
			g.Stores = append(g.Stores, oauth.GrantStore{StoreID: id})
			members = append(members, oauth.Membership{StoreID: id, StoreStatus: oauth.Active, Owner: i%2 == 0, Scopes: scopes, MayDelegate: true})
		}
		b.Run(fmt.Sprint(stores), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := oauth.Effective(g, members)
				if len(r.Claim()) != 1 || len(r.Flat()) != 4 {
					b.Fatal(r)
				}
			}
		})
	}
}

// Matching a redirect_uri: byte for byte, and on loopback with a free port.
func BenchmarkRedirectTo(b *testing.B) {
	c := &oauth.Client{Profile: oauth.Standard, Redirects: []oauth.RedirectURI{"https://client.example/one", "https://client.example/two", loopback, callback}}
	for name, sent := range map[string]string{"exact": callback, "loopback": "http://127.0.0.1:49152/callback"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := c.RedirectTo(sent); !ok {
					b.Fatal("no match")
				}
			}
		})
	}
}

// One repeat decision, on a grant with one key and on one with as many as there may be.
func BenchmarkDecide(b *testing.B) {
	for _, keys := range []int{1, oauth.MaxKeys - 1} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			w := newWorld(b)
			for range keys {
				w.connect(w.exchange, "alice", "s1", "s2")
			}
			b.ReportAllocs()
			for b.Loop() {
				w.code(w.exchange, "alice", "s1", "s2")
			}
		})
	}
}
