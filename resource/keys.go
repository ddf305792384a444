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

const (
	// searchEvery paces reading a set for the sake of key ids that it did not hold. One reading answers for all of them, so
	// whoever makes key ids up has this API read twice a second, less often than it asks the feed, and keeps nobody out: a
	// token of a signing key that was made a moment ago waits for the next reading, which has it. To ask the issuer about
	// the token instead would cost it a question to its database for each that is made up.
	searchEvery = 500 * time.Millisecond
	// nodeKnows is how much later another node of the issuer may know of a new key than the one that signs with it, and
	// goes on serving the set without it.
	nodeKnows = 100 * time.Millisecond
	// maxMissing bounds the key ids of which it is known that they are not there, times two.
	maxMissing = 512
)

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

func (k *key) same(as *key) bool {
	public, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.id == as.id && k.alg == as.alg && public.Equal(as.public)
}

// keyTable is one reading of a key set.
type keyTable map[string]*key

// keySet is one of the issuer's two sets of keys.
type keySet struct {
	ctx   context.Context // of the Verifier
	now   func() time.Time
	fetch func() (t keyTable, old bool, err error)
	table atomic.Pointer[keyTable]

	waiting atomic.Int64
	missing atomic.Pointer[cache[string, struct{}]] // another one, once what was known was dropped

	mu      sync.Mutex
	reading *reading
	began   time.Time // when the set was last read, or will be
}

type reading struct {
	began time.Time // or will begin
	done  chan struct{}
	old   bool // whoever served it does not know the keys of now
	err   error
}

var errOldKeys = errors.New("who serves the key set does not know the keys of now (Age)")

func (s *keySet) init(ctx context.Context, now func() time.Time, fetch func() (keyTable, bool, error)) {
	s.ctx, s.now, s.fetch = ctx, now, fetch
	s.forget()
}

// forget drops what is known, of what is there and what is not, and reads the set: a backup that was put back brings keys
// with it that were cut off since, and knows nothing of those that were made since, nor of a rule about one that was cut.
func (s *keySet) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing.Store(&cache[string, struct{}]{half: maxMissing})
	if s.table.Load() == nil || s.ctx.Err() != nil {
		return
	}
	s.table.Store(&keyTable{})
	s.began = time.Time{}
	if s.reading == nil {
		s.begin(0)
	}
}

func (s *keySet) find(kid string) *key {
	if t := s.table.Load(); t != nil {
		return (*t)[kid]
	}
	return nil
}

// lookup finds the key that a token names, reading the set again if it is not there, until a reading has begun so much later
// that every node of the issuer knew of it. A set that cannot be read makes no token bad, nor does one that lacks the key
// and says how old it is; what such a one has is gone by, and what it lacks is kept.
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
	missing := s.missing.Load()
	if missing.get(kid) != nil {
		s.search() // for those that come later
		return nil, refused("unknown_key")
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxAsking {
		return nil, unavailable("shed", nil)
	}
	for known := s.now().Add(nodeKnows); ; {
		r := s.search()
		err := r.wait(ctx)
		if k := s.find(kid); k != nil {
			return k, nil
		}
		if err == nil && r.old {
			err = errOldKeys
		}
		if err != nil {
			return nil, unavailable("no_keys", err)
		}
		if !r.began.Before(known) {
			missing.put(kid, &struct{}{})
			return nil, refused("unknown_key")
		}
	}
}

// search reads the set for the sake of a key id that it did not hold, as soon as it may be read.
func (s *keySet) search() *reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading == nil {
		s.begin(max(0, searchEvery-s.now().Sub(s.began)))
	}
	return s.reading
}

// load reads the set now.
func (s *keySet) load(ctx context.Context) error {
	s.mu.Lock()
	if s.reading == nil {
		s.begin(0)
	}
	r := s.reading
	s.mu.Unlock()
	return r.wait(ctx)
}

// begin starts the one reading at a time, which outlives the request that wanted it. The caller holds s.mu.
func (s *keySet) begin(pause time.Duration) {
	r := &reading{began: s.now().Add(pause), done: make(chan struct{})}
	s.reading, s.began = r, r.began
	go func() {
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
		missing := s.missing.Load()
		var table keyTable
		table, r.old, r.err = s.fetch()
		s.mu.Lock()
		if r.err == nil && s.missing.Load() == missing { // nothing was dropped meanwhile
			s.keep(table, r.old)
		}
		s.reading = nil
		s.mu.Unlock()
		close(r.done)
	}()
}

// keep puts a reading in place of the one before. A key that is as it was stays the same one: tokens are remembered as
// verified by it, and whoever makes key ids up must not have all of them verified again. An old reading only adds: whoever
// served it may not know yet of a key that another node has shown. Nor of one that was cut off, which the rule about it ends.
func (s *keySet) keep(table keyTable, old bool) {
	if before := s.table.Load(); before != nil {
		for id, was := range *before {
			if k := table[id]; old || k != nil && was.same(k) {
				table[id] = was
			}
		}
	}
	s.table.Store(&table)
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
