package resource

import (
	"bytes"
	"compress/zlib"
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

// FuzzFeed: an answer of the feed that is taken says nothing but what encoding/json reads in it, keeps to what was asked, and
// can be put into effect.
func FuzzFeed(f *testing.F) {
	for _, s := range []string{
		`{"epoch":1,"seq":9,"more":false,"changes":[],"rules":[]}`,
		`{"epoch":1,"seq":9,"more":true,"changes":[{"seq":7,"list":"1-0","idx":5,"value":1},{"seq":8,"list":"1-0","idx":1048575,"value":3}],"rules":[{"seq":9,"kind":"client","id":"a","before":9,"value":2},{"seq":9,"kind":"all","id":"","before":9,"value":1}]}`,
		`{"epoch":1,"seq":9,"more":false,"changes":[],"rules":[{"seq":9,"kind":"store","id":"s","before":9,"value":3},{"seq":9,"kind":"key","id":"k","before":9,"value":0}]}`,
		`{"epoch":1,"seq":9,"more":false,"changes":[{"seq":7,"list":"1-0","idx":1048576,"value":1}],"rules":[]}`,
		`{"epoch":1,"seq":9,"more":false,"changes":[{"seq":7,"list":"1-0","idx":4294967296,"value":1}],"rules":[]}`,
		`{"epoch":1,"seq":9,"more":false,"changes":[{"seq":7,"list":"../x","idx":1,"value":4}],"rules":[]}`,
		`{"epoch":1,"epoch":2,"seq":9,"more":false,"changes":[],"rules":[]}`,
		`{"epoch":1,"seq":1,"more":false,"changes":null,"rules":[]}`, `[]`, `{"`,
	} {
		f.Add([]byte(s), int64(5))
		f.Add([]byte(s), int64(0))
	}
	type told struct {
		Epoch, Seq int64
		More       bool
		Changes    []struct {
			Seq   int64
			List  string
			Idx   int64
			Value int64
		}
		Rules []struct {
			Seq, Before, Value int64
			Kind, ID           string
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, after int64) {
		at := position{after > 0, 1, max(after, 0)}
		e, err := parseEvents(body, at)
		if err != nil {
			return
		}
		var want told
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("%q was taken: %v", body, err)
		}
		if e.epoch != want.Epoch || e.seq != want.Seq || e.more != want.More || len(e.changes) != len(want.Changes) || len(e.rules) != len(want.Rules) {
			t.Fatalf("%q is read as %+v", body, e)
		}
		if e.seq < at.seq || at.known && e.epoch != at.epoch || !at.known && len(e.changes) > 0 {
			t.Fatalf("%q is taken after %+v", body, at)
		}
		l := &list{}
		for k, c := range e.changes {
			w := want.Changes[k]
			if c.seq != w.Seq || c.list != w.List || int64(c.idx) != w.Idx || int64(c.value) != w.Value || c.seq <= at.seq || c.seq > e.seq {
				t.Fatalf("%q: change %d is read as %+v", body, k, c)
			}
			if l.set(c.idx, c.value); l.value(c.idx) != c.value {
				t.Fatalf("%q: change %d has no effect", body, k)
			}
		}
		for k, c := range e.rules {
			w := want.Rules[k]
			if c.seq != w.Seq || c.before != w.Before || int64(c.value) != w.Value || string(c.kind) != w.Kind || c.id != w.ID || c.seq > e.seq || !c.kind.known(c.value) {
				t.Fatalf("%q: rule %d is read as %+v", body, k, c)
			}
		}
		new(rules).with(e.rules)
	})
}

// FuzzList: whatever the issuer signs as a list, what is taken has 2^20 entries of two bits and every claim, each as
// encoding/json reads it.
func FuzzList(f *testing.F) {
	pack := func(n int) string {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(make([]byte, n))
		z.Close()
		return b64.EncodeToString(b.Bytes())
	}
	for _, lst := range []string{pack(listBytes), pack(listBytes - 1), pack(listBytes + 1), pack(4 * listBytes), "", "eJw", pack(listBytes)[:40]} {
		f.Add([]byte(`{"iss":"i","sub":"s","iat":1,"exp":9,"ttl":60,"status_list":{"bits":2,"lst":"` + lst + `"},"epoch":1,"seq":7}`))
		f.Add([]byte(`{"iss":"i","sub":"s","exp":9,"status_list":{"lst":"` + lst + `","bits":1,"aggregation_uri":[{}]},"epoch":1,"seq":7}`))
	}
	for _, s := range []string{`{"status_list":{}}`, `{"status_list":7}`, `{"seq":"7"}`, `{"seq":-1}`, `{"iss":"a","iss":"b"}`, `{}`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		l := &signedList{}
		if l.read(claims) != nil || l.has != wholeList {
			return
		}
		var want struct {
			Iss, Sub        string
			Exp, Epoch, Seq int64
			List            struct{ Bits int } `json:"status_list"`
		}
		if err := json.Unmarshal(claims, &want); err != nil {
			t.Fatalf("%q was taken: %v", claims, err)
		}
		if len(l.bits) != listBytes || want.List.Bits != 2 || l.iss != want.Iss || l.sub != want.Sub || l.exp != want.Exp || l.epoch != want.Epoch || l.seq != want.Seq {
			t.Fatalf("%q is read as %q, %q, %d, %d, %d", claims, l.iss, l.sub, l.exp, l.epoch, l.seq)
		}
		newList(l.seq, l.bits)
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
