package resource

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	testAudience = "https://api.example/v1"
	testSecret   = "s3cret+canary/of the=API"
)

type object = map[string]any

// issuer is an authorization server of this test: it publishes two key sets, signs, answers introspection out of a
// table, and serves feed and lists.
type issuer struct {
	*httptest.Server
	handler               http.Handler
	feed                  feed
	accessKey, lastingKey *ecdsa.PrivateKey

	mu         sync.Mutex
	accessJWKs []jose.JSONWebKey
	lastJWKs   []jose.JSONWebKey
	meta       object
	table      map[string]object // token → answer
	fail       http.HandlerFunc  // what introspection does instead
	failKeys   http.HandlerFunc
	dated      bool // introspection prints epoch and iseq

	asked, keysRead, lastingRead atomic.Int64
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := makeIssuer(t)
	i.Server = httptest.NewServer(i.handler)
	t.Cleanup(i.Server.Close)
	i.describe()
	return i
}

// quietIssuer is reached by wires only, so that it may live in a bubble of testing/synctest.
func quietIssuer(t testing.TB) *issuer {
	t.Helper()
	i := makeIssuer(t)
	i.Server = &httptest.Server{URL: "https://auth.example"}
	i.describe()
	return i
}

func (i *issuer) describe() {
	i.meta = object{"issuer": i.URL, "jwks_uri": i.URL + "/oauth/jwks", "introspection_endpoint": i.URL + "/oauth/introspect",
		"revocation_feed_endpoint": i.URL + "/revocations"}
}

func makeIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{accessKey: newKey(t), lastingKey: newKey(t), table: map[string]object{}}
	i.accessJWKs = []jose.JSONWebKey{{Key: &i.accessKey.PublicKey, KeyID: "access-1", Algorithm: "ES256", Use: "sig"}}
	i.lastJWKs = []jose.JSONWebKey{{Key: &i.lastingKey.PublicKey, KeyID: "lasting-1", Algorithm: "ES256", Use: "sig"}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		json.NewEncoder(w).Encode(i.meta)
	})
	mux.HandleFunc("GET /oauth/jwks", func(w http.ResponseWriter, r *http.Request) {
		i.keysRead.Add(1)
		i.serveKeys(w, r, func() []jose.JSONWebKey { return i.accessJWKs })
	})
	mux.HandleFunc("GET /oauth/jwks/lasting", func(w http.ResponseWriter, r *http.Request) {
		i.lastingRead.Add(1)
		i.serveKeys(w, r, func() []jose.JSONWebKey { return i.lastJWKs })
	})
	mux.HandleFunc("POST /oauth/introspect", i.introspect)
	i.feed.init(i, mux)
	i.handler = mux
	return i
}

func (i *issuer) serveKeys(w http.ResponseWriter, r *http.Request, keys func() []jose.JSONWebKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failKeys != nil {
		i.failKeys(w, r)
		return
	}
	json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys()})
}

func (i *issuer) introspect(w http.ResponseWriter, r *http.Request) {
	i.asked.Add(1)
	i.mu.Lock()
	fail, answer, dated := i.fail, i.table[r.PostFormValue("token")], i.dated
	i.mu.Unlock()
	if !i.knows(w, r) {
		return
	}
	if fail != nil {
		fail(w, r)
		return
	}
	if answer == nil {
		answer = object{"active": false}
	}
	if dated && answer["active"] == true {
		epoch, seq := i.feed.now()
		answer = edited(answer, object{"epoch": epoch, "iseq": seq})
	}
	json.NewEncoder(w).Encode(answer)
}

// knows says whether the API's credentials were sent, and refuses if not.
func (i *issuer) knows(w http.ResponseWriter, r *http.Request) bool {
	id, secret, _ := r.BasicAuth()
	id, _ = url.QueryUnescape(id)
	if secret, _ = url.QueryUnescape(secret); id != "store api" || secret != testSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

func (i *issuer) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *issuer) config() Config {
	return Config{Issuer: i.URL, Audience: testAudience, ClientID: "store api", ClientSecret: testSecret}
}

// verifier reaches its issuer by a network in real time, and waits for answers for as long as the machine needs: what must
// come in time is told in bubbles.
func (i *issuer) verifier(t testing.TB, edit ...func(*Config)) *Verifier {
	t.Helper()
	cfg := i.config()
	for _, e := range edit {
		e(&cfg)
	}
	v, err := New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	for began := time.Now(); v.Ready() != nil; passes(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal(v.Ready())
		}
	}
	v.patience = time.Minute
	i.asked.Store(0)
	return v
}

// claims are those of a key for shop 1 (view, update) and shop 2 (view), about which the issuer must be asked.
func (i *issuer) claims() object {
	return object{
		"iss": i.URL, "aud": testAudience, "sub": "user-7", "client_id": "app-1", "iat": time.Now().Unix(),
		"jti": "key-1", "grant_id": "grant-1", "iseq": 12, "scope": "user.view stores.view",
		"rights": []object{
			{"stores": []string{"shop-1"}, "scope": "stores.view stores.products.update"},
			{"stores": []string{"shop-2"}, "scope": "stores.view"},
		},
		"status": object{"status_list": object{"idx": askedIndex, "uri": i.URL + "/status/1-0"}},
	}
}

func edited(o object, edit object) object {
	o = maps.Clone(o)
	for name, value := range edit {
		if o[name] = value; value == nil {
			delete(o, name)
		}
	}
	return o
}

// stand makes introspection call a token active, answering as its claims say, with edits.
func (i *issuer) stand(token string, claims, edit object) {
	answer := edited(edited(claims, object{"active": true, "token_type": "Bearer", "status": nil}), edit)
	i.set(func() { i.table[token] = answer })
}

// lasting issues a standing API key, accessToken a standing access token of ten minutes. Edits are to claims and answer
// alike; nil takes a member out.
func (i *issuer) lasting(t testing.TB, edit object) string {
	claims := edited(i.claims(), edit)
	token := sign(t, i.lastingKey, jose.ES256, "lasting-1", "apikey+jwt", claims)
	i.stand(token, claims, nil)
	return token
}

func (i *issuer) accessToken(t testing.TB, edit object) string {
	claims := edited(edited(i.claims(), object{"exp": time.Now().Add(10 * time.Minute).Unix()}), edit)
	token := sign(t, i.accessKey, jose.ES256, "access-1", "at+jwt", claims)
	i.stand(token, claims, nil)
	return token
}

func sign(t testing.TB, key any, alg jose.SignatureAlgorithm, kid, typ string, claims any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if typ != "" {
		opts = opts.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// forge signs a header and claims exactly as written, for what go-jose would not write.
func forge(t testing.TB, key *ecdsa.PrivateKey, header, claims string) string {
	t.Helper()
	signed := seg(header) + "." + seg(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + seg(string(sig))
}

func seg(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func marshal(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// wantError checks kind and reason, and that no token is in the text.
func wantError(t *testing.T, err error, kind Kind, reason string) {
	t.Helper()
	e := asError(t, err)
	if e.Kind != kind || reason != "" && e.Reason != reason {
		t.Errorf("got kind %d %q, want kind %d %q", e.Kind, e.Error(), kind, reason)
	}
	if strings.Contains(e.Error(), "eyJ") || strings.Contains(e.Error(), testSecret) {
		t.Errorf("a token or secret is in the error: %v", e)
	}
}
