package resource

import (
	"context"
	"fmt"
	"testing"
)

// Everything a check does here, under a lease: a token seen before.
func BenchmarkVerifyCached(b *testing.B) { benchmarkVerify(b, func(*Verifier) {}) }

// The same of a token never seen, dominated by the ES256 signature.
func BenchmarkVerifyFirstSight(b *testing.B) {
	benchmarkVerify(b, func(v *Verifier) { v.verified.new, v.verified.old = nil, nil })
}

func benchmarkVerify(b *testing.B, before func(*Verifier)) {
	i := newIssuer(b)
	v := i.verifier(b)
	token := i.held(b, 9, nil)
	i.loaded(b, v, token)
	b.ReportAllocs()
	for b.Loop() {
		before(v)
		if _, err := v.authenticate(context.Background(), token, Closed); err != nil {
			b.Fatal(err)
		}
	}
}

// The signature alone, of the same token: what the first sight of a key is measured against.
func BenchmarkBareSignature(b *testing.B) {
	i := newIssuer(b)
	_, signed, sig := parseToken(i.lasting(b, nil))
	k := &key{public: &i.lastingKey.PublicKey}
	b.ReportAllocs()
	for b.Loop() {
		if !k.verify(signed, sig) {
			b.Fatal("wrong signature")
		}
	}
}

// Reading alone: what a flood of forged tokens costs before the signature.
func BenchmarkParse(b *testing.B) {
	i := newIssuer(b)
	token := i.lasting(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if t, _, _ := parseToken(token); t == nil {
			b.Fatal("not read")
		}
	}
}

// The whole check, question to the issuer on loopback included: of one token, and of many at once.
func BenchmarkCheck(b *testing.B) {
	i := newIssuer(b)
	v := i.verifier(b)
	tokens := make([]string, 64)
	for n := range tokens {
		tokens[n] = i.lasting(b, object{"jti": fmt.Sprint("key-", n)})
	}
	b.Run("one after another", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Check(context.Background(), tokens[0], Access{Scope: "stores.view"}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("many keys at once", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for n := 0; pb.Next(); n++ {
				if _, err := v.Check(context.Background(), tokens[n%len(tokens)], Access{Scope: "stores.view"}); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
