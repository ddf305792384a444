package resource

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// refetchEvery paces reading a set for the sake of a key id that it did not hold: whoever invents key ids makes this API
// read twice a minute at most. An issuer that publishes a key so long before it signs with it has no token refused.
const refetchEvery = 30 * time.Second

// key is a public key of the issuer, with the one algorithm it may be used for.
type key struct {
	id, alg string
	public  crypto.PublicKey
}

// verify checks a signature by the key's own algorithm (RFC 7518 section 3.4, RFC 8037 section 3.1).
func (k *key) verify(signed, sig []byte) bool {
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		if len(sig) != 64 {
			return false
		}
		sum := sha256.Sum256(signed)
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		if r.Sign() == 0 || s.Sign() == 0 {
			return false
		}
		return ecdsa.Verify(public, sum[:], r, s)
	case *rsa.PublicKey:
		sum := sha256.Sum256(signed)
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(public, signed, sig)
	}
	return false
}

// keyTable is one reading of a key set.
type keyTable map[string]*key

// keySet is one of the issuer's two sets of keys.
type keySet struct {
	now   func() time.Time
	fetch func() (keyTable, error)
	table atomic.Pointer[keyTable]

	mu      sync.Mutex
	reading *reading
	// searched is when an unknown key id last made us read, and err what came of it.
	searched time.Time
	err      error
}

type reading struct {
	done chan struct{}
	err  error
}

func (s *keySet) init(now func() time.Time, fetch func() (keyTable, error)) {
	s.now, s.fetch = now, fetch
}

func (s *keySet) find(kid string) *key {
	if t := s.table.Load(); t != nil {
		return (*t)[kid]
	}
	return nil
}

// lookup finds the key that a token names, reading the set again if it is not there. A set that cannot be read makes no
// token bad.
func (s *keySet) lookup(ctx context.Context, kid string) (*key, error) {
	if k := s.find(kid); k != nil {
		return k, nil
	}
	if kid == "" {
		return nil, refused("unknown_key")
	}
	if s.table.Load() == nil {
		return nil, unavailable("no_keys", nil)
	}
	err := s.search(ctx)
	if k := s.find(kid); k != nil {
		return k, nil
	}
	if err != nil {
		return nil, unavailable("no_keys", err)
	}
	return nil, refused("unknown_key")
}

// search reads the set for a key id that it did not hold. Too soon after the last search it repeats its result instead.
func (s *keySet) search(ctx context.Context) error {
	s.mu.Lock()
	r := s.reading
	if r == nil {
		pause := refetchEvery
		if s.err != nil {
			pause = retryEvery
		}
		if !s.searched.IsZero() && s.now().Sub(s.searched) < pause {
			defer s.mu.Unlock()
			return s.err
		}
		s.searched = s.now()
		r = s.begin()
	}
	s.mu.Unlock()
	return r.wait(ctx)
}

// load reads the set now.
func (s *keySet) load(ctx context.Context) error {
	s.mu.Lock()
	r := s.reading
	if r == nil {
		r = s.begin()
	}
	s.mu.Unlock()
	return r.wait(ctx)
}

// begin starts the one reading at a time, which outlives the request that wanted it. The caller holds s.mu.
func (s *keySet) begin() *reading {
	r := &reading{done: make(chan struct{})}
	s.reading = r
	go func() {
		table, err := s.fetch()
		if err == nil {
			s.table.Store(&table)
		}
		s.mu.Lock()
		s.reading, s.err, r.err = nil, err, err
		s.mu.Unlock()
		close(r.done)
	}()
	return r
}

func (r *reading) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parseKeys reads a JWK set (RFC 7517 section 5) and keeps the keys that a token may be verified with: public, named,
// meant for signatures, with one algorithm. A key is ES256 unless the set says otherwise. The rest is left out, as
// section 5 asks, and so is a name that two keys share.
func parseKeys(body []byte) (keyTable, error) {
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errors.New("the answer is not a key set")
	}
	t := keyTable{}
	shared := map[string]bool{}
	for _, raw := range set.Keys {
		var j jose.JSONWebKey
		if j.UnmarshalJSON(raw) != nil || !j.IsPublic() || j.KeyID == "" || len(j.KeyID) > maxKeyID || j.Use != "" && j.Use != "sig" {
			continue
		}
		k := &key{id: j.KeyID, alg: j.Algorithm, public: j.Key}
		shared[k.id] = shared[k.id] || t[k.id] != nil
		switch public := j.Key.(type) {
		case *ecdsa.PublicKey:
			if k.alg == "" {
				k.alg = "ES256"
			}
			if k.alg != "ES256" || public.Curve != elliptic.P256() {
				continue
			}
		case *rsa.PublicKey:
			if n := public.N.BitLen(); k.alg != "RS256" || n < 2048 || n > 8192 {
				continue
			}
		case ed25519.PublicKey:
			if k.alg != "EdDSA" {
				continue
			}
		default:
			continue
		}
		t[k.id] = k
	}
	for id, twice := range shared {
		if twice {
			delete(t, id)
		}
	}
	return t, nil
}
