package resource

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a *resource.Error", err)
	}
	return e
}

func TestCheck_admitsBothKinds(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	for name, token := range map[string]string{
		"at+jwt":     i.accessToken(t, nil),
		"apikey+jwt": i.lasting(t, nil),
		// RFC 9068 section 4: either form of the type.
		"application/at+jwt": func() string {
			claims := edited(i.claims(), object{"exp": time.Now().Add(time.Hour).Unix()})
			token := sign(t, i.accessKey, jose.ES256, "access-1", "application/at+jwt", claims)
			i.stand(token, claims, nil)
			return token
		}(),
	} {
		for range 2 {
			c, err := v.Check(context.Background(), token, Access{Scope: "stores.view"})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if c.Subject != "user-7" || c.ClientID != "app-1" || c.GrantID != "grant-1" || !c.Has("user.view") {
				t.Errorf("%s: caller %+v", name, c)
			}
		}
	}
}

// A key whose rights are not those it prints is asked about on every check, as long as no answer may be kept, also where
// its signature is known.
func TestCheck_D13_revocationCountsFromTheNextCheck(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, nil)
	for range 3 {
		if _, err := v.Check(context.Background(), token, Access{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.asked.Load(); n != 3 {
		t.Errorf("asked %d times about 3 checks", n)
	}
	i.set(func() { delete(i.table, token) })
	_, err := v.Check(context.Background(), token, Access{})
	wantError(t, err, BadToken, "not_active")
}

// Every kind of JWT of this issuer, and every key, against every other (standards 3.23).
func TestCheck_D5_kindsNeverMix(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	// The sets know each other's key ids, so that only the key itself can tell.
	i.accessJWKs = append(i.accessJWKs, jose.JSONWebKey{Key: &newKey(t).PublicKey, KeyID: "lasting-1", Algorithm: "ES256"})
	v := i.verifier(t)
	withExp := edited(i.claims(), object{"exp": time.Now().Add(time.Hour).Unix()})
	type kase struct {
		key    *ecdsa.PrivateKey
		kid    string
		typ    string
		claims object
		reason string
	}
	cases := map[string]kase{
		"at+jwt of the lasting key":             {i.lastingKey, "lasting-1", "at+jwt", withExp, "bad_signature"},
		"at+jwt of the lasting key, other name": {i.lastingKey, "access-1", "at+jwt", withExp, "bad_signature"},
		"apikey+jwt of the access key":          {i.accessKey, "access-1", "apikey+jwt", i.claims(), "unknown_key"},
		"apikey+jwt of the access key, named":   {i.accessKey, "lasting-1", "apikey+jwt", i.claims(), "bad_signature"},
		"at+jwt without exp":                    {i.accessKey, "access-1", "at+jwt", i.claims(), "wrong_claims"},
		"apikey+jwt with exp":                   {i.lastingKey, "lasting-1", "apikey+jwt", withExp, "wrong_claims"},
	}
	for _, typ := range []string{
		"", "JWT", "jwt", "AT+JWT", "at+JWT", "APIKEY+JWT", "application/apikey+jwt", "application/jwt", "at+jwt ", "logout+jwt",
		"statuslist+jwt", "secevent+jwt", "token-introspection+jwt", "oauth-authz-req+jwt", "client-authentication+jwt",
		"dpop+jwt", "oauth-client-attestation+jwt", "oauth-client-attestation-pop+jwt", "oauth-id-jag+jwt",
	} {
		cases["access key, typ "+typ] = kase{i.accessKey, "access-1", typ, withExp, "wrong_type"}
		cases["lasting key, typ "+typ] = kase{i.lastingKey, "lasting-1", typ, i.claims(), "wrong_type"}
	}
	for name, c := range cases {
		token := sign(t, c.key, jose.ES256, c.kid, c.typ, c.claims)
		i.stand(token, c.claims, nil)
		_, err := v.Check(context.Background(), token, Access{})
		t.Run(name, func(t *testing.T) { wantError(t, err, BadToken, c.reason) })
	}
	if n := i.asked.Load(); n != 0 {
		t.Errorf("%d such tokens were sent to the issuer", n)
	}
}

func TestCheck_D1_D2_algorithms(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	claims := marshal(t, i.claims())
	der, err := x509.MarshalPKIXPublicKey(&i.lastingKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	point, err := i.lastingKey.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, token, reason string) {
		t.Run(name, func(t *testing.T) {
			i.stand(token, i.claims(), nil)
			_, err := v.Check(context.Background(), token, Access{})
			wantError(t, err, BadToken, reason)
		})
	}
	for _, alg := range []string{"none", "None", "NONE", "", "es256", "ES256 ", "ES384", "HS256", "RS256", "EdDSA"} {
		head := `{"alg":"` + alg + `","kid":"lasting-1","typ":"apikey+jwt"}`
		check("alg "+alg, forge(t, i.lastingKey, head, claims), "wrong_algorithm")
	}
	check("no alg", forge(t, i.lastingKey, `{"kid":"lasting-1","typ":"apikey+jwt"}`, claims), "wrong_algorithm")
	check("alg none without signature", seg(`{"alg":"none","kid":"lasting-1","typ":"apikey+jwt"}`)+"."+seg(claims)+".", "not_a_token")
	for name, secret := range map[string][]byte{"PEM": text, "DER": der, "point": point} {
		check("HS256 with the public key as secret, "+name,
			sign(t, secret, jose.HS256, "lasting-1", "apikey+jwt", i.claims()), "wrong_algorithm")
	}
}

// RS256 and EdDSA only for keys that the set says so of, and one algorithm per key.
func TestCheck_RFC8725_3_1_oneAlgorithmPerKey(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	twice := newKey(t)
	i.lastJWKs = append(i.lastJWKs,
		jose.JSONWebKey{Key: &rsaKey.PublicKey, KeyID: "rsa", Algorithm: "RS256"},
		jose.JSONWebKey{Key: edPublic, KeyID: "ed", Algorithm: "EdDSA"},
		jose.JSONWebKey{Key: &rsaKey.PublicKey, KeyID: "rsa-unsaid"},
		jose.JSONWebKey{Key: edPublic, KeyID: "ed-unsaid"},
		jose.JSONWebKey{Key: &twice.PublicKey, KeyID: "ec-unsaid"},
		jose.JSONWebKey{Key: &rsaKey.PublicKey, KeyID: "rsa-pss", Algorithm: "PS256"},
		jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384", Algorithm: "ES384"},
		jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384-as-es256", Algorithm: "ES256"},
		jose.JSONWebKey{Key: &twice.PublicKey, KeyID: "enc", Algorithm: "ES256", Use: "enc"},
		jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "secret", Algorithm: "HS256"},
		jose.JSONWebKey{Key: &twice.PublicKey, KeyID: "twice", Algorithm: "ES256"},
		jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "twice", Algorithm: "ES384"},
	)
	v := i.verifier(t)
	for _, c := range []struct {
		key    any
		alg    jose.SignatureAlgorithm
		kid    string
		reason string
	}{
		{rsaKey, jose.RS256, "rsa", ""},
		{edKey, jose.EdDSA, "ed", ""},
		{twice, jose.ES256, "ec-unsaid", ""},
		{rsaKey, jose.PS256, "rsa", "wrong_algorithm"},
		{rsaKey, jose.RS512, "rsa", "wrong_algorithm"},
		{rsaKey, jose.RS256, "lasting-1", "wrong_algorithm"},
		{rsaKey, jose.RS256, "rsa-unsaid", "unknown_key"},
		{edKey, jose.EdDSA, "ed-unsaid", "unknown_key"},
		{rsaKey, jose.PS256, "rsa-pss", "wrong_algorithm"},
		{p384, jose.ES384, "p384", "wrong_algorithm"},
		{p384, jose.ES384, "p384-as-es256", "wrong_algorithm"},
		{twice, jose.ES256, "enc", "unknown_key"},
		{twice, jose.ES256, "twice", "unknown_key"},
		{[]byte("0123456789abcdef0123456789abcdef"), jose.HS256, "secret", "wrong_algorithm"},
	} {
		claims := i.claims()
		token := sign(t, c.key, c.alg, c.kid, "apikey+jwt", claims)
		i.stand(token, claims, nil)
		t.Run(c.kid+" "+string(c.alg), func(t *testing.T) {
			t.Parallel()
			_, err := v.Check(context.Background(), token, Access{})
			if c.reason != "" {
				wantError(t, err, BadToken, c.reason)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// A key on another curve is no ES256 key, whatever the set calls it (RFC 7518 section 3.4).
func TestCheck_D8_curveMismatch(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.lastJWKs = append(i.lastJWKs, jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384", Algorithm: "ES256"}, jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384-unsaid"})
	v := i.verifier(t)
	for _, kid := range []string{"p384", "p384-unsaid"} {
		token := forge(t, i.lastingKey, `{"alg":"ES256","typ":"apikey+jwt","kid":"`+kid+`"}`, marshal(t, i.claims()))
		t.Run(kid, func(t *testing.T) {
			t.Parallel()
			check(t, v, token, BadToken, "unknown_key")
		})
	}
}

func TestCheck_D3_keyIDs(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v := i.verifier(t)
	old := marshal(t, i.claims())
	for kid, reason := range map[string]string{
		`../../dev/null`:               "unknown_key",
		`' OR 1=1 --`:                  "not_a_token", // spaces
		`x'||(select(1))||'`:           "unknown_key",
		`lasting-1\u0000`:              "not_a_token",
		`lasting-1\n`:                  "not_a_token",
		`LASTING-1`:                    "unknown_key",
		``:                             "not_a_token",
		strings.Repeat("k", 128):       "unknown_key",
		strings.Repeat("k", 129):       "not_a_token",
		strings.Repeat("lasting", 999): "not_a_token",
	} {
		token := forge(t, i.lastingKey, `{"alg":"ES256","typ":"apikey+jwt","kid":"`+kid+`"}`, old)
		i.stand(token, i.claims(), nil)
		t.Run(kid, func(t *testing.T) {
			t.Parallel()
			check(t, v, token, BadToken, reason)
		})
	}
	token := forge(t, i.lastingKey, `{"alg":"ES256","typ":"apikey+jwt"}`, old)
	_, err := v.Check(context.Background(), token, Access{})
	wantError(t, err, BadToken, "unknown_key")
}

// D4, D6, D7: what must not be read at all, though the right key signed it.
func TestCheck_D4_D6_D7_strictForm(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	head := `{"alg":"ES256","kid":"lasting-1","typ":"apikey+jwt"}`
	claims := marshal(t, i.claims())
	jwk := marshal(t, jose.JSONWebKey{Key: &i.lastingKey.PublicKey, KeyID: "lasting-1"})
	with := func(o, member string) string { return strings.TrimSuffix(o, "}") + "," + member + "}" }
	good := forge(t, i.lastingKey, head, claims)
	parts := strings.Split(good, ".")

	cases := map[string]string{}
	for _, m := range []string{
		`"jwk":` + jwk, `"jku":"https://evil.example/keys"`, `"x5u":"https://evil.example/x"`, `"x5c":["AAAA"]`,
		`"crit":["exp"]`, `"crit":[]`, `"b64":false`, `"b64":true`, `"alg":"ES256"`, `"kid":"lasting-1"`, `"x":1,"x":1`,
		`"\u0061lg":"none"`, `"deep":[[[[[[[[[1]]]]]]]]]`, `"x":nan`, `"x":01`, `"x":1.`, `"x":"\ud800"`, `"x":"\ud800\u0041"`, `"x":"\udc00\ud800"`, `"x":"` + "\xff" + `"`,
		`"x":"` + "\t" + `"`, `"x":tru`, `"x":'a'`,
	} {
		cases["header "+m] = forge(t, i.lastingKey, with(head, m), claims)
	}
	cases["header typ number"] = forge(t, i.lastingKey, `{"alg":"ES256","kid":"lasting-1","typ":1}`, claims)
	cases["header kid number"] = forge(t, i.lastingKey, `{"alg":"ES256","kid":1,"typ":"apikey+jwt"}`, claims)
	cases["header array"] = forge(t, i.lastingKey, `[]`, claims)
	cases["header empty"] = forge(t, i.lastingKey, ``, claims)
	cases["header and more"] = forge(t, i.lastingKey, head+"{}", claims)
	cases["header with byte order mark"] = forge(t, i.lastingKey, "\ufeff"+head, claims)
	for _, m := range []string{`"sub":"somebody-else"`, `"s\u0075b":"somebody-else"`, `"x":{"a":1,"a":2}`, `"x":[`, `"nbf":"1"`, `"x":+1`} {
		cases["claims "+m] = forge(t, i.lastingKey, head, with(claims, m))
	}
	for name, edit := range map[string]object{
		"iat text": {"iat": "1700000000"}, "iat float": {"iat": 1.5}, "iat negative": {"iat": -1},
		"sub number": {"sub": 7}, "aud array": {"aud": []string{testAudience}}, "iss null": {"iss": []any{nil}[0:1]},
		"iseq text": {"iseq": "12"}, "jti object": {"jti": object{}}, "scope array": {"scope": []string{"stores.view"}},
	} {
		cases["claims "+name] = forge(t, i.lastingKey, head, marshal(t, edited(i.claims(), edit)))
	}
	noIat := strings.TrimSuffix(marshal(t, edited(i.claims(), object{"iat": nil})), "}")
	for _, n := range []string{`1e9`, `1.0`, `-0`, `00`, `NaN`, `9007199254740992`, `99999999999999999999999`, `null`, `true`} {
		cases["iat "+n] = forge(t, i.lastingKey, head, noIat+`,"iat":`+n+`}`)
	}
	for _, c := range []string{" ", "\n", "\r", "\t", "=", "+", "/", "%", "\x00", "é"} {
		cases["inside the header "+c] = parts[0][:4] + c + parts[0][4:] + "." + parts[1] + "." + parts[2]
		cases["behind the signature "+c] = good + c
		cases["before "+c] = c + good
	}
	cases["two parts"] = parts[0] + "." + parts[1]
	cases["four parts"] = good + "." + parts[2]
	cases["five parts, JWE"] = good + ".." + parts[2]
	cases["no signature"] = parts[0] + "." + parts[1] + "."
	cases["JSON serialisation"] = `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`
	cases["empty"] = ""
	cases["dots"] = ".."
	cases["trailing bits"] = good[:len(good)-1] + nextLetter(good[len(good)-1])
	cases["too long"] = forge(t, i.lastingKey, head, with(claims, `"x":"`+strings.Repeat("x", maxToken)+`"`))

	for name, token := range cases {
		i.stand(token, i.claims(), nil)
		_, err := v.Check(context.Background(), token, Access{})
		t.Run(name, func(t *testing.T) { wantError(t, err, BadToken, "not_a_token") })
	}
	if n := i.asked.Load(); n != 0 {
		t.Errorf("%d such tokens were sent to the issuer", n)
	}
	// The same claims pass, also with what must be ignored.
	for _, token := range []string{good, forge(t, i.lastingKey, with(head, `"x-new":{"a":[1,-2.5e3,null,"\u00e9\ud83d\ude00"]}`), " "+claims+"\n")} {
		i.stand(token, i.claims(), nil)
		if _, err := v.Check(context.Background(), token, Access{}); err != nil {
			t.Error(err)
		}
	}
}

// nextLetter changes the lowest of the four bits that stand behind the last byte of a 64 byte signature.
func nextLetter(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)|1])
}

func TestCheck_D8_signatures(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	good := i.lasting(t, nil)
	dot := strings.LastIndexByte(good, '.')
	sig, err := base64.RawURLEncoding.DecodeString(good[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N.FillBytes(make([]byte, 32))
	zero := make([]byte, 32)
	der := []byte{0x30, 68, 2, 32}
	der = append(append(append(der, sig[:32]...), 2, 32), sig[32:]...)
	for name, bad := range map[string][]byte{
		"all zero":           make([]byte, 64),
		"r zero":             slices.Concat(zero, sig[32:]),
		"s zero":             slices.Concat(sig[:32], zero),
		"r = n":              slices.Concat(n, sig[32:]),
		"s = n":              slices.Concat(sig[:32], n),
		"all ones":           slices.Repeat([]byte{0xff}, 64),
		"63 bytes":           sig[:63],
		"65 bytes":           append(slices.Clone(sig), 0),
		"leading zero":       append([]byte{0}, sig...),
		"zero before s":      slices.Concat(sig[:32], []byte{0}, sig[32:]),
		"128 bytes":          slices.Concat(sig, sig),
		"96 bytes as ES384":  slices.Concat(sig, zero),
		"DER":                der,
		"one bit":            append(slices.Clone(sig[:63]), sig[63]^1),
		"halves swapped":     slices.Concat(sig[32:], sig[:32]),
		"s + n in 33 bytes":  slices.Concat(sig[:32], new(big.Int).Add(new(big.Int).SetBytes(sig[32:]), elliptic.P256().Params().N).Bytes()),
		"one byte":           {1},
		"of another message": must(base64.RawURLEncoding.DecodeString(i.lasting(t, object{"jti": "key-2"})[dot+1:])),
	} {
		token := good[:dot+1] + base64.RawURLEncoding.EncodeToString(bad)
		i.stand(token, i.claims(), nil)
		_, err := v.Check(context.Background(), token, Access{})
		t.Run(name, func(t *testing.T) { wantError(t, err, BadToken, "bad_signature") })
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestCheck_RFC9068_4_claims(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	soon := time.Now().Add(time.Minute).Unix()
	for name, c := range map[string]struct {
		edit   object
		reason string
	}{
		"other issuer":        {object{"iss": "https://evil.example"}, "wrong_issuer"},
		"issuer with a slash": {object{"iss": i.URL + "/"}, "wrong_issuer"},
		"issuer upper case":   {object{"iss": strings.ToUpper(i.URL)}, "wrong_issuer"},
		"other audience":      {object{"aud": "https://api.example/v2"}, "wrong_audience"},
		"longer audience":     {object{"aud": testAudience + "/"}, "wrong_audience"},
		"no issuer":           {object{"iss": nil}, "wrong_claims"},
		"no audience":         {object{"aud": nil}, "wrong_claims"},
		"no subject":          {object{"sub": nil}, "wrong_claims"},
		"empty subject":       {object{"sub": ""}, "wrong_claims"},
		"no client":           {object{"client_id": nil}, "wrong_claims"},
		"no id":               {object{"jti": nil}, "wrong_claims"},
		"no iat":              {object{"iat": nil}, "wrong_claims"},
		"no grant":            {object{"grant_id": nil}, "wrong_claims"},
		"not yet":             {object{"nbf": soon}, "not_yet"},
	} {
		for _, token := range []string{i.lasting(t, c.edit), i.accessToken(t, c.edit)} {
			_, err := v.Check(context.Background(), token, Access{})
			t.Run(name, func(t *testing.T) { wantError(t, err, BadToken, c.reason) })
		}
	}
	if n := i.asked.Load(); n != 0 {
		t.Errorf("%d such tokens were sent to the issuer", n)
	}
}

// exp is enforced to the second, also where the signature is remembered and the issuer still says active.
func TestCheck_RFC9068_4_exp(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	var now time.Time
	v.now = func() time.Time { return now }
	exp := time.Now().Add(10 * time.Minute).Truncate(time.Second)
	token := i.accessToken(t, object{"exp": exp.Unix()})
	for _, c := range []struct {
		at time.Time
		ok bool
	}{{exp.Add(-time.Nanosecond), true}, {exp, false}, {exp.Add(time.Hour), false}, {exp.Add(-time.Second), true}} {
		now = c.at
		_, err := v.Check(context.Background(), token, Access{})
		if c.ok != (err == nil) {
			t.Errorf("at exp%+v: %v", c.at.Sub(exp), err)
		}
		if !c.ok {
			wantError(t, err, BadToken, "expired")
		}
	}
	now = exp
	other := i.accessToken(t, object{"exp": exp.Unix(), "jti": "first seen when expired"})
	_, err := v.Check(context.Background(), other, Access{})
	wantError(t, err, BadToken, "expired")
}

// A key that the issuer withdraws takes the tokens remembered under it along.
func TestCheck_withdrawnKeyForgetsItsTokens(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v := i.verifier(t)
	token := i.lasting(t, nil)
	if _, err := v.Check(context.Background(), token, Access{}); err != nil {
		t.Fatal(err)
	}
	i.set(func() { i.lastJWKs = i.lastJWKs[:0] })
	if err := v.lasting.load(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := v.Check(context.Background(), token, Access{})
	wantError(t, err, BadToken, "unknown_key")
}

func TestCache_bounded(t *testing.T) {
	c := cache[digest, token]{half: cacheHalf}
	keep := digest{1}
	c.put(keep, &token{jti: "keep"})
	for n := range 3 * cacheHalf {
		c.put(digest{2, byte(n), byte(n >> 8), byte(n >> 16)}, &token{})
		if n%(cacheHalf/2) == 0 && c.get(keep) == nil {
			t.Fatalf("a token in use was dropped after %d others", n)
		}
	}
	if n := len(c.new) + len(c.old); n > 2*cacheHalf {
		t.Errorf("the cache holds %d", n)
	}
	if c.get(digest{2}) != nil {
		t.Error("the first of many others is still there")
	}
}
