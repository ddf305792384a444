package oauth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keySet is what the server signs and verifies with. It is replaced whole when an
// event says that a key was added.
type keySet struct {
	current atomic.Pointer[keys]
}

type keys struct {
	sign  map[KeyUse]*signingKey
	heads map[string]verifyingKey // by the encoded header of what it signed
	sets  map[KeyUse]jose.JSONWebKeySet
	// seen are JWTs whose signature held, by their hash; whether they still count is
	// asked anew each time. Only what verified enters, so nobody without a key can push others
	// out; what these keys have signed goes when they do.
	seen Recent[[sha256.Size]byte, *verified]
}

type verifyingKey struct {
	key *ecdsa.PublicKey
	typ string
}

// typeOf is what a key signs for clients.
var typeOf = map[KeyUse]string{ForAccess: TypAccess, ForLasting: TypLasting}

type signingKey struct {
	kid    string
	key    *ecdsa.PrivateKey
	header map[string]string // typ → encoded protected header
}

const sealKeyPurpose = "signing key"

// loadKeys reads the signing keys, and makes those that are missing.
func (s *Server) loadKeys(ctx context.Context) error {
	for _, use := range []KeyUse{ForAccess, ForLasting} {
		if err := s.ensureKey(ctx, use); err != nil {
			return err
		}
	}
	stored, err := s.storage.SigningKeys(ctx)
	if err != nil {
		return err
	}
	k := &keys{sign: map[KeyUse]*signingKey{}, sets: map[KeyUse]jose.JSONWebKeySet{}, heads: map[string]verifyingKey{}}
	for _, row := range stored {
		public, err := x509.ParsePKIXPublicKey(row.Public)
		if err != nil {
			return fmt.Errorf("oauth: signing key %s: %w", row.Kid, err)
		}
		ec, ok := public.(*ecdsa.PublicKey)
		if !ok || row.Alg != string(jose.ES256) {
			return fmt.Errorf("oauth: signing key %s: algorithm %s is not known to this program", row.Kid, row.Alg)
		}
		if row.Status == KeyCut { // nothing that it signed counts
			continue
		}
		k.heads[headerOf(row.Kid, typeOf[row.Use])] = verifyingKey{ec, typeOf[row.Use]}
		set := k.sets[row.Use]
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: ec, KeyID: row.Kid, Algorithm: row.Alg, Use: "sig"})
		k.sets[row.Use] = set
		if row.Status != Active {
			continue
		}
		der, err := s.ring.open(sealKeyPurpose, row.Sealed)
		if err != nil {
			return fmt.Errorf("oauth: signing key %s: %w", row.Kid, err)
		}
		private, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return fmt.Errorf("oauth: signing key %s: %w", row.Kid, err)
		}
		k.sign[row.Use] = newSigningKey(row.Kid, private.(*ecdsa.PrivateKey))
	}
	s.keys.current.Store(k)
	return nil
}

func newSigningKey(kid string, key *ecdsa.PrivateKey) *signingKey {
	k := &signingKey{kid: kid, key: key, header: map[string]string{}}
	for _, typ := range []string{TypAccess, TypLasting, typStatusList} {
		k.header[typ] = headerOf(kid, typ)
	}
	return k
}

// headerOf is the protected header of a JWS, encoded.
func headerOf(kid, typ string) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":"ES256","kid":%q,"typ":%q}`, kid, typ))
}

// makeKey makes a key and its id, which is its thumbprint (RFC 7638). One whose id
// begins with a dash is passed over: operators type ids, and there it would be a flag.
func makeKey(random io.Reader) (private *ecdsa.PrivateKey, kid string, err error) {
	for kid == "" || kid[0] == '-' {
		if private, err = ecdsa.GenerateKey(elliptic.P256(), random); err != nil {
			return nil, "", err
		}
		thumb, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, "", err
		}
		kid = base64.RawURLEncoding.EncodeToString(thumb)
	}
	return private, kid, nil
}

func (s *Server) ensureKey(ctx context.Context, use KeyUse) error {
	stored, err := s.storage.SigningKeys(ctx)
	if err != nil {
		return err
	}
	for _, k := range stored {
		if k.Use == use && k.Status == Active {
			return nil
		}
	}
	private, kid, err := makeKey(s.rand)
	if err != nil {
		return fmt.Errorf("oauth: making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return err
	}
	e, err := s.NewEvent(ctx, EventKeyAdded, Actor{Kind: AsSystem}, ofKey{kid, use})
	if err != nil {
		return err
	}
	// A node that loses finds the winner's key when it reads again.
	_, err = s.storage.AddSigningKey(ctx, StoredKey{Kid: kid, Alg: string(jose.ES256), Use: use, Sealed: s.ring.seal(sealKeyPurpose, der), Public: public, Created: e.At}, e)
	return err
}

// PublicKeys returns the key set of a use, for JWKS documents. The set of
// [ForLasting] must never be served as jwks_uri (DESIGN, decision 7).
func (s *Server) PublicKeys(use KeyUse) jose.JSONWebKeySet { return s.keys.current.Load().sets[use] }

// KeysAge makes sure that [Server.PublicKeys] are those of now and returns 0, or says
// how long ago they were known to be, where this node does not know the present.
func (s *Server) KeysAge(ctx context.Context) time.Duration {
	if s.know(ctx) == nil {
		return 0
	}
	return s.FeedLag()
}

// sign makes a JWS in compact serialisation (RFC 7515, 7.1). The header of a key
// never changes, so it is encoded once; what is left is one hash and one
// signature, with the r and s of fixed length that RFC 7518, 3.4 demands.
func (k *signingKey) sign(typ string, payload []byte, random interface{ Read([]byte) (int, error) }) (string, error) {
	header := k.header[typ]
	buf := make([]byte, 0, len(header)+2+base64.RawURLEncoding.EncodedLen(len(payload))+86)
	buf = append(buf, header...)
	buf = append(buf, '.')
	buf = base64.RawURLEncoding.AppendEncode(buf, payload)
	digest := sha256.Sum256(buf)
	r, sig, err := ecdsa.Sign(random, k.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("oauth: signing: %w", err)
	}
	var fixed [64]byte
	r.FillBytes(fixed[:32])
	sig.FillBytes(fixed[32:])
	buf = append(buf, '.')
	buf = base64.RawURLEncoding.AppendEncode(buf, fixed[:])
	return string(buf), nil
}

// at truncates a time to the second, as JWT claims have it.
func at(t time.Time) int64 { return t.Unix() }
