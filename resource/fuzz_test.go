package resource

import (
	"context"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"crypto/elliptic"
)

// No text but the very ones that the issuer signed is admitted.
func FuzzCheck(f *testing.F) {
	i := newIssuer(f)
	v := i.verifier(f)
	good := map[string]bool{i.lasting(f, nil): true, i.accessToken(f, nil): true}
	claims := marshal(f, i.claims())
	for token := range good {
		f.Add(token)
		f.Add(token + "=")
		f.Add(token[:len(token)-1])
		f.Add(strings.Replace(token, ".", "..", 1))
		f.Add(strings.ToLower(token))
	}
	for _, head := range []string{
		`{"alg":"none"}`, `{"alg":"ES256","kid":"lasting-1","typ":"apikey+jwt","crit":["x"]}`, `{"alg":"ES256","alg":"none"}`,
		`{"alg":"HS256","kid":"lasting-1","typ":"apikey+jwt"}`, `{"alg":"ES256","kid":"\ud83d\ude00","typ":"at+jwt"}`, `[[[[[[[[[[`, `{"":`,
	} {
		f.Add(forge(f, i.lastingKey, head, claims))
		f.Add(forge(f, newKey(f), head, `{"exp":1e400,"iat":-0.0,"x":"\u12"}`))
	}
	f.Add("..")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Check(context.Background(), token, Access{})
		if err == nil && !good[token] && !good[otherHalf(token)] {
			t.Fatalf("%q admits %+v", token, c)
		}
		if err != nil {
			asError(t, err)
			if len(token) > 40 && strings.Contains(err.Error(), token) {
				t.Fatalf("the token is in the error %q", err)
			}
		}
	})
}

// otherHalf returns the one other ES256 signature that anybody can make of a good one, (r, n-s).
func otherHalf(token string) string {
	dot := strings.LastIndexByte(token, '.')
	sig, err := b64.DecodeString(token[dot+1:])
	if dot < 0 || err != nil || len(sig) != 64 {
		return ""
	}
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	if s.Sign() <= 0 {
		return ""
	}
	s.FillBytes(sig[32:])
	return token[:dot+1] + b64.EncodeToString(sig)
}

// What the strict reader takes, encoding/json takes too, and both read the same strings out of it.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":"b"}`, `{"a":1,"a":2}`, `{"a":{"b":[1,-2.5e+3,null,true,false,"\u00e9\ud83d\ude00\n"]}}`, ` { "a" : [ ] } `, `{"a":01}`,
		`{"a":"\ud800"}`, `{"a":1}x`, `{"a":}`, `{,}`, `{"a":1,}`, `[1]`, `{"a":"\x"}`, "{\"a\":\"\xff\"}", `{"A":1,"a":2}`, `{"a":tru}`, `{"a`, `{"a":"\`,
		`{"a":"\u`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":9007199254740991}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := map[string]string{}
		r := jsonReader{b: b}
		err := r.document(func(name []byte) error {
			if r.next() != '"' {
				return r.skip()
			}
			s, err := r.str()
			got[string(name)] = s
			return err
		})
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%q was taken: %v", b, err)
		}
		for name, s := range got {
			if want[name] != s {
				t.Fatalf("%q: %q is %q, encoding/json says %q", b, name, s, want[name])
			}
		}
	})
}

func TestJSON_integer(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "7": 7, "1700000000": 1700000000, "9007199254740991": 1<<53 - 1,
		"9007199254740992": -1, "-1": -1, "-0": -1, "01": -1, "1.0": -1, "1e3": -1, `"1"`: -1, "": -1, "null": -1, "0x1": -1, "1_0": -1, "+1": -1, "Infinity": -1,
	} {
		got := int64(-1)
		r := jsonReader{b: []byte(`{"n":` + text + `}`)}
		if err := r.document(func([]byte) (err error) { got, err = r.integer(); return err }); err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%s reads as %d, want %d", text, got, want)
		}
	}
}
