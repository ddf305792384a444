package oauth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// What introspection says, and of what it says nothing at all (RFC 7662, 2.2;
// attack C14).
func TestIntrospect_RFC7662(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for name, a := range map[string]app{"exchange": w.exchange, "standard": w.standard, "public": w.public, "direct": w.direct} {
		t.Run(name, func(t *testing.T) {
			resp := w.connect(a, "alice", "s1")
			in, c := w.introspect(resp.AccessToken), claims(t, resp.AccessToken)
			if in == nil {
				t.Fatal("inactive")
			}
			if in.Issuer != issuer || in.Audience != audience || in.ClientID != a.id || in.Subject != c.Subject || in.GrantID != resp.GrantID || in.ID != c.ID || in.IssuedAt != start.Unix() {
				t.Errorf("%+v", in)
			}
			if in.Scope != resp.Scope || in.Scope != c.Scope {
				t.Errorf("scope %q, answer %q, key %q", in.Scope, resp.Scope, c.Scope)
			}
			if lasting := a.Profile == oauth.Exchange; (in.Expires == 0) != lasting || (resp.ExpiresIn == 0) != lasting {
				t.Errorf("exp %d, expires_in %s", in.Expires, resp.ExpiresIn)
			}
			if a.Profile != oauth.Direct && c.Subject != "alice" {
				t.Errorf("sub %s", c.Subject)
			}
			if !strings.HasPrefix(c.Status.List.URI, issuer+"/status/1-") || c.ISeq == 0 {
				t.Errorf("status %+v, iseq %d", c.Status, c.ISeq)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		w := newWorld(t)
		resp := w.connect(w.standard, "alice", "s1")
		w.clock.advance(time.Unix(claims(t, resp.AccessToken).Expires, 0).Sub(w.Now()) - time.Microsecond)
		if w.rights(resp.AccessToken) == "inactive" {
			t.Error("dead before its time")
		}
		w.clock.advance(time.Microsecond)
		if w.rights(resp.AccessToken) != "inactive" {
			t.Error("alive at exp")
		}
	})
	t.Run("lasting keys last", func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1").AccessToken
		w.clock.advance(10 * 365 * 24 * time.Hour)
		if w.rights(key) == "inactive" {
			t.Error("dead")
		}
	})
	t.Run("another audience", func(t *testing.T) {
		key := w.connect(w.exchange, "alice", "s1").AccessToken
		e, err := w.NewEvent(ctx, oauth.EventAPIPut, command, nil)
		w.must(err)
		other := oauth.ClientAuth{ID: "api_x", Secret: "of another API"}
		_, err = w.db.CreateAPI(ctx, &oauth.API{ID: other.ID, URI: "https://other.example",
			Secrets: []oauth.ClientSecret{{Hash: oauth.HashOf(other.Secret), Created: w.Now()}}}, e)
		w.must(err)
		in, err := w.Introspect(ctx, other, key.Reveal())
		if in != nil || err != nil {
			t.Errorf("%+v %v", in, err)
		}
	})
	t.Run("suspended and resumed", func(t *testing.T) {
		w := newWorld(t)
		resp := w.connect(w.exchange, "alice", "s1")
		for what, pair := range map[string][2]func() error{
			"grant": {func() error { return w.SuspendGrant(ctx, command, resp.GrantID) }, func() error { return w.ResumeGrant(ctx, command, resp.GrantID) }},
			"user":  {func() error { return w.SuspendUser(ctx, command, "alice") }, func() error { return w.ResumeUser(ctx, command, "alice") }},
			"app":   {func() error { return w.SuspendClient(ctx, command, w.exchange.id) }, func() error { return w.ResumeClient(ctx, command, w.exchange.id) }},
		} {
			w.must(pair[0]())
			if w.rights(resp.AccessToken) != "inactive" {
				t.Errorf("%s suspended: the key works", what)
			}
			w.must(pair[1]())
			if w.rights(resp.AccessToken) == "inactive" {
				t.Errorf("%s resumed: the key is dead", what)
			}
		}
		w.must(w.DeleteClient(ctx, command, w.exchange.id, "Exporter"))
		if w.rights(resp.AccessToken) != "inactive" {
			t.Error("app deleted: the key works")
		}
	})
	t.Run("who asks", func(t *testing.T) {
		key := w.connect(w.exchange, "alice", "s1").AccessToken
		for _, auth := range []oauth.ClientAuth{{}, {ID: w.api.ID}, {Secret: w.api.Secret}} {
			_, err := w.Introspect(ctx, auth, key.Reveal())
			wantReason(t, err, oauth.ClientAuthMissing)
		}
		_, err := w.Introspect(ctx, oauth.ClientAuth{ID: w.api.ID, Secret: w.exchange.secret}, key.Reveal())
		wantReason(t, err, oauth.SecretWrong)
		_, err = w.Introspect(ctx, w.exchange.auth(), key.Reveal())
		wantReason(t, err, oauth.APIUnknown)
	})
}

// forge makes a JWS of a header and claims with a signing function.
func forge(header map[string]any, payload any, sign func(input []byte) []byte) string {
	h, _ := json.Marshal(header)
	p, _ := json.Marshal(payload)
	input := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(p)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

func es256(key *ecdsa.PrivateKey) func([]byte) []byte {
	return func(input []byte) []byte {
		digest := sha256.Sum256(input)
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
}

// The server's own keys, out of its database: what a forger who had one could make
// must still be of the right kind.
func (w *world) signer(use oauth.KeyUse) (kid string, key *ecdsa.PrivateKey) {
	w.t.Helper()
	rows, err := w.db.SigningKeys(context.Background())
	w.must(err)
	for _, row := range rows {
		if row.Use == use && row.Status == oauth.Active {
			der, err := w.Unseal(row)
			w.must(err)
			private, err := x509.ParsePKCS8PrivateKey(der)
			w.must(err)
			return row.Kid, private.(*ecdsa.PrivateKey)
		}
	}
	w.t.Fatalf("no key for %s", use)
	return "", nil
}

// A JWT that is not exactly one of the two kinds, signed by a key of that kind, is
// nothing (RFC 8725; RFC 9068, 4; attacks D1 to D8).
func TestIntrospect_RFC8725(t *testing.T) {
	w := newWorld(t)
	real := w.connect(w.exchange, "alice", "s1").AccessToken.Reveal()
	short := w.connect(w.standard, "alice", "s1").AccessToken.Reveal()
	lastingKid, lastingKey := w.signer(oauth.ForLasting)
	accessKid, accessKey := w.signer(oauth.ForAccess)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	c, s := claims(t, oauth.Secret(real)), claims(t, oauth.Secret(short))
	public, err := x509.MarshalPKIXPublicKey(&lastingKey.PublicKey)
	w.must(err)
	hs := func(key []byte) func([]byte) []byte {
		return func(in []byte) []byte { m := hmac.New(sha256.New, key); m.Write(in); return m.Sum(nil) }
	}
	head := func(kid, typ string, more ...any) map[string]any {
		h := map[string]any{"alg": "ES256", "kid": kid, "typ": typ}
		for i := 0; i < len(more); i += 2 {
			h[more[i].(string)] = more[i+1]
		}
		return h
	}
	with := func(c oauth.Claims, change func(*oauth.Claims)) oauth.Claims { change(&c); return c }
	segment := func(s string, n int) string { return strings.Split(s, ".")[n] }
	n := elliptic.P256().Params().N
	none := func([]byte) []byte { return nil }

	// The forge itself is right: what follows is refused for its one fault, and not
	// because another text was issued.
	exec(t, w.raw(), "UPDATE families SET token = NULL WHERE token IS NOT NULL")
	for _, ok := range []string{real, short, forge(head(lastingKid, "apikey+jwt"), c, es256(lastingKey)), forge(head(accessKid, "at+jwt"), s, es256(accessKey))} {
		if w.rights(oauth.Secret(ok)) == "inactive" {
			t.Fatal("a right token is refused")
		}
	}
	for name, token := range map[string]string{
		"empty":                      "",
		"three dots":                 "...",
		"alg none":                   forge(head(lastingKid, "apikey+jwt", "alg", "none"), c, none),
		"alg None":                   forge(head(lastingKid, "apikey+jwt", "alg", "None"), c, none),
		"alg empty":                  forge(head(lastingKid, "apikey+jwt", "alg", ""), c, none),
		"no signature":               segment(real, 0) + "." + segment(real, 1) + ".",
		"HS256 with the public key":  forge(head(lastingKid, "apikey+jwt", "alg", "HS256"), c, hs(public)),
		"HS256 named ES256":          forge(head(lastingKid, "apikey+jwt"), c, hs(public)),
		"ES384 named":                forge(head(lastingKid, "apikey+jwt", "alg", "ES384"), c, es256(lastingKey)),
		"another's key":              forge(head(lastingKid, "apikey+jwt"), c, es256(stranger)),
		"another's key, embedded":    forge(head(lastingKid, "apikey+jwt", "jwk", jose.JSONWebKey{Key: &stranger.PublicKey}), c, es256(stranger)),
		"key from an address":        forge(head("x", "apikey+jwt", "jku", "https://evil.example/jwks"), c, es256(stranger)),
		"kid unknown":                forge(head("../../dev/null", "apikey+jwt"), c, es256(lastingKey)),
		"kid empty":                  forge(head("", "apikey+jwt"), c, es256(lastingKey)),
		"kid huge":                   forge(head(strings.Repeat("k", 20_000), "apikey+jwt"), c, es256(lastingKey)),
		"kid of the other set":       forge(head(accessKid, "apikey+jwt"), c, es256(accessKey)),
		"lasting kid, at+jwt":        forge(head(lastingKid, "at+jwt"), s, es256(lastingKey)),
		"lasting key as at+jwt":      forge(head(accessKid, "at+jwt"), c, es256(accessKey)),
		"access token as apikey+jwt": forge(head(lastingKid, "apikey+jwt"), s, es256(lastingKey)),
		"typ JWT":                    forge(head(lastingKid, "JWT"), c, es256(lastingKey)),
		"typ missing":                forge(map[string]any{"alg": "ES256", "kid": lastingKid}, c, es256(lastingKey)),
		"typ with application/":      forge(head(lastingKid, "application/apikey+jwt"), c, es256(lastingKey)),
		"crit unknown":               forge(head(lastingKid, "apikey+jwt", "crit", []string{"x"}, "x", 1), c, es256(lastingKey)),
		"payload altered":            segment(real, 0) + "." + segment(forge(nil, with(c, func(c *oauth.Claims) { c.Subject = "bob" }), none), 1) + "." + segment(real, 2),
		"header altered":             segment(forge(head(lastingKid, "apikey+jwt", "x", 1), c, none), 0) + "." + segment(real, 1) + "." + segment(real, 2),
		"signature of another":       segment(real, 0) + "." + segment(real, 1) + "." + segment(short, 2),
		"signature altered":          segment(real, 0) + "." + segment(real, 1) + "." + flipLast(segment(real, 2)),
		"signature of zeros":         forge(head(lastingKid, "apikey+jwt"), c, func([]byte) []byte { return make([]byte, 64) }),
		"r and s of n":               forge(head(lastingKid, "apikey+jwt"), c, func([]byte) []byte { return append(n.Bytes(), n.Bytes()...) }),
		"s too long by n":            forge(head(lastingKid, "apikey+jwt"), c, func(in []byte) []byte { return plusN(es256(lastingKey)(in), n) }),
		"signature cut":              forge(head(lastingKid, "apikey+jwt"), c, func(in []byte) []byte { return es256(lastingKey)(in)[:63] }),
		"signature in DER": forge(head(lastingKid, "apikey+jwt"), c, func(in []byte) []byte {
			d := sha256.Sum256(in)
			b, _ := ecdsa.SignASN1(rand.Reader, lastingKey, d[:])
			return b
		}),
		"padded":                      real + "=",
		"space before":                " " + real,
		"newline in the claims":       strings.Replace(real, ".", ".\n", 1),
		"carriage return in the head": real[:9] + "\r" + real[9:],
		"loose bits":                  loosen(real),
		"newline behind":              real + "\n",
		"JSON serialisation":          fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, segment(real, 1), segment(real, 0), segment(real, 2)),
		"five parts":                  real + ".a.b",
		"another issuer":              forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.Issuer = "https://other.example" }), es256(lastingKey)),
		"issuer with a slash":         forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.Issuer += "/" }), es256(lastingKey)),
		"another audience":            forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.Audience += "/" }), es256(lastingKey)),
		"another subject":             forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.Subject = "bob" }), es256(lastingKey)),
		"another app":                 forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.ClientID = w.other.id }), es256(lastingKey)),
		"a family that is not there":  forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.ID = "fm_x.y" }), es256(lastingKey)),
		"no family":                   forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.ID = "x" }), es256(lastingKey)),
		"expired":                     forge(head(accessKid, "at+jwt"), with(s, func(c *oauth.Claims) { c.Expires = w.Now().Unix() }), es256(accessKey)),
		"exp negative":                forge(head(accessKid, "at+jwt"), with(s, func(c *oauth.Claims) { c.Expires = -1 }), es256(accessKey)),
		"exp as text":                 forge(head(accessKid, "at+jwt"), map[string]any{"iss": issuer, "aud": audience, "exp": "9999999999", "jti": s.ID}, es256(accessKey)),
		"claims that are not JSON":    forge(head(lastingKid, "apikey+jwt"), "x", es256(lastingKey)),
		"claims beyond 32 KiB":        forge(head(lastingKid, "apikey+jwt"), with(c, func(c *oauth.Claims) { c.Scope = strings.Repeat("a", 32<<10) }), es256(lastingKey)),
		"a refresh token":             w.connect(w.standard, "alice", "s1").RefreshToken.Reveal(),
		"a code":                      w.code(w.exchange, "alice", "s1"),
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.rights(oauth.Secret(token)); got != "inactive" {
				t.Errorf("it is taken: %s", got)
			}
		})
	}
}

// loosen sets the last bit of the signature's text, which stands for nothing.
func loosen(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	return token[:last] + string(alphabet[strings.IndexByte(alphabet, token[last])|1])
}

// plusN adds the order of the group to s, where the sum still fits.
func plusN(sig []byte, n *big.Int) []byte {
	s := new(big.Int).Add(new(big.Int).SetBytes(sig[32:]), n)
	return append(sig[:32:32], s.Bytes()...)
}

// A token of another server with the same issuer name, and one of this server
// after another ring: neither is ours.
func TestIntrospect_AnotherServer(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "other.db"))
	w.must(err)
	t.Cleanup(func() { db.Close() })
	w.must(db.Migrate(ctx))
	twin, err := newServer(ctx, db, w.house, w.Now, newRand("twin"))
	w.must(err)
	for _, use := range []oauth.KeyUse{oauth.ForAccess, oauth.ForLasting} {
		if a, b := w.PublicKeys(use).Keys, twin.PublicKeys(use).Keys; len(a) != 1 || len(b) != 1 || a[0].KeyID == b[0].KeyID {
			t.Errorf("%s: keys %d and %d", use, len(a), len(b))
		}
	}
	if twin.VerifyOwn(w.connect(w.exchange, "alice", "s1").AccessToken.Reveal()) {
		t.Error("a key of another server is taken")
	}
	if w.PublicKeys(oauth.ForAccess).Keys[0].KeyID == w.PublicKeys(oauth.ForLasting).Keys[0].KeyID {
		t.Error("the two sets share a key")
	}
	// The wrong ring stops the start; it never signs with something else.
	h := w.house
	h.ring, err = oauth.NewKeyRing(newRand("another ring"))
	w.must(err)
	if _, err := newServer(ctx, db, h, w.Now, newRand("x")); err == nil {
		t.Error("a server with the wrong ring starts")
	}
}

// Of a lasting key the family's row has the hash, so that no signature need be checked:
// the text that was issued counts, and no other, however well it is signed. An access
// token, of which a family has many, and a key without a hash count by their signature.
func TestIntrospect_LastingKeysByHash(t *testing.T) {
	w := newWorld(t)
	db := w.raw()
	active := func(what, token string, want bool) {
		t.Helper()
		fresh, _ := w.beside() // remembers nothing
		if in := fresh.introspect(oauth.Secret(token)); (in != nil) != want {
			t.Errorf("%s: %+v", what, in)
		}
	}
	key, access := w.connect(w.exchange, "alice", "s1").AccessToken, w.connect(w.standard, "alice", "s1").AccessToken
	id := family(claims(t, key))
	set := func(hash []byte) { exec(t, db, "UPDATE families SET token = $1 WHERE id = $2", hash, id) }
	signed := key.Reveal()[:strings.LastIndexByte(key.Reveal(), '.')+1]
	sig, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(key.Reveal(), signed))
	w.must(err)
	twin := append(sig[:32:32], new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:])).FillBytes(make([]byte, 32))...)
	other := signed + base64.RawURLEncoding.EncodeToString(twin) // a signature of the same that holds as well
	broken := signed + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	active("as issued", key.Reveal(), true)
	active("an access token", access.Reveal(), true)
	active("with the other signature", other, false)
	active("with none", broken, false)
	set(oauth.HashOf(oauth.Secret(broken)))
	active("another than was issued", key.Reveal(), false)
	active("what the row says was issued", broken, true)
	set(nil)
	active("without a hash", key.Reveal(), true)
	active("without a hash, with a broken signature", broken, false)
	set(oauth.HashOf(key))
	w.must(w.CutKey(context.Background(), command, kidOf(t, key)))
	active("as issued by a key that was cut", key.Reveal(), false)
}

// What was verified once is remembered, and nothing else; that it still counts is asked
// of the database each time.
func TestIntrospect_RemembersWhatVerified(t *testing.T) {
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1")
	w.introspect(key.AccessToken)
	before := w.Remembered()
	w.introspect(key.AccessToken)
	if n := w.Remembered(); n != before || n == 0 {
		t.Errorf("%d remembered, then %d", before, n)
	}
	for _, wrong := range []string{key.AccessToken.Reveal() + "A", "x", key.AccessToken.Reveal()[:100]} {
		if w.introspect(oauth.Secret(wrong)) != nil {
			t.Error("active")
		}
	}
	if n := w.Remembered(); n != before {
		t.Errorf("%d remembered: what did not verify is among them", n)
	}
	w.must(w.RevokeGrant(context.Background(), command, key.GrantID))
	if w.rights(key.AccessToken) != "inactive" {
		t.Error("a revoked key that was remembered is active")
	}
}
