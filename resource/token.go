package resource

import (
	"context"
	"encoding/base64"
	"strings"
	"sync/atomic"
	"time"
)

// maxToken bounds a token's text in bytes: fifty stores with ids of 255 bytes, and room.
const maxToken = 32 << 10

// maxKeyID bounds `kid`. It is only ever looked up in a map (RFC 8725 section 3.10).
const maxKeyID = 128

// token is what a signed token says, and which key said it. What it may do counts where its value is valid.
type token struct {
	alg, kid, typ string

	iss, aud, sub, clientID, jti, grantID string
	iat, exp, nbf                         int64
	has                                   claim
	powers

	// iseq is the feed's sequence from before the token was signed.
	iseq int64
	// uri and place say where its bits are. A place without a list is none that we may go by.
	uri string
	place

	key  *key
	seen atomic.Int64 // the report that has its grant, see sightings
}

// claim is a set of claims that were present.
type claim uint

const (
	hasIss claim = 1 << iota
	hasAud
	hasSub
	hasClientID
	hasJTI
	hasGrantID
	hasIat
	hasExp
	hasISeq
	hasRights
	hasStatus
	hasIndex
	hasList

	wholeStatus = hasStatus | hasIndex | hasList

	always = hasIss | hasAud | hasSub | hasClientID | hasJTI | hasGrantID | hasIat
)

// verify checks all that can be checked without asking: form, type, issuer, audience, claims, key, algorithm, signature
// and times. The two types never share a key: an access token is looked up in one set, an API key in the other.
func (v *Verifier) verify(ctx context.Context, id digest, text string) (*token, error) {
	if t := v.verified.get(id); t != nil && v.keysOf(t).find(t.kid) == t.key {
		if err := t.inTime(v.now()); err != nil {
			return nil, err
		}
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	t, signed, sig := parseToken(text)
	if t == nil {
		return nil, refused("not_a_token")
	}
	set := v.keysOf(t)
	if set == nil {
		return nil, refused("wrong_type")
	}
	// An access token must expire (RFC 9068 section 2.2). An API key must not: one that does is not ours.
	if t.has&always != always || t.sub == "" || (t.has&hasExp != 0) != (set == &v.access) {
		return nil, refused("wrong_claims")
	}
	// One that does not say where it stands is to be refused (Token Status List, section 8.3), and an index that is not
	// there is not 0, which is another key's.
	if s := t.has & wholeStatus; s != 0 && s != wholeStatus {
		return nil, refused("wrong_claims")
	}
	// Both before the key is looked up: a token made for somebody else must not make us fetch keys.
	if t.iss != v.cfg.Issuer {
		return nil, refused("wrong_issuer")
	}
	if t.aud != v.cfg.Audience {
		return nil, refused("wrong_audience")
	}
	// Before it too: no key has any other algorithm. Which of them is the key's to say, not the token's (RFC 8725
	// section 3.1).
	if t.alg != "ES256" && t.alg != "RS256" && t.alg != "EdDSA" {
		return nil, refused("wrong_algorithm")
	}
	var err error
	if t.key, err = set.lookup(ctx, t.kid); err != nil {
		return nil, err
	}
	if t.alg != t.key.alg {
		return nil, refused("wrong_algorithm")
	}
	if !t.key.verify(signed, sig) {
		return nil, refused("bad_signature")
	}
	if err := t.inTime(v.now()); err != nil {
		return nil, err
	}
	t.list = listID(t.iss, t.uri)
	v.verified.put(id, t)
	return t, nil
}

// keysOf returns the one key set that signs tokens of t's type, nil for any other kind of JWT (RFC 8725 section 3.12).
// RFC 9068 section 4 lets an access token carry either form of its type.
func (v *Verifier) keysOf(t *token) *keySet {
	switch t.typ {
	case "at+jwt", "application/at+jwt":
		return &v.access
	case "apikey+jwt":
		return &v.lasting
	}
	return nil
}

// inTime has no leeway: the issuer, asked next, would apply its own clock anyway.
func (t *token) inTime(now time.Time) error {
	if t.has&hasExp != 0 && now.Unix() >= t.exp {
		return refused("expired")
	}
	if now.Unix() < t.nbf {
		return refused("not_yet")
	}
	return nil
}

// b64 refuses bits behind the last byte. It skips line breaks, so the alphabet is checked before.
var b64 = base64.RawURLEncoding.Strict()

// jws is a JWS in compact form, read and not believed: signed and sig are what the key must confirm.
type jws struct {
	alg, kid, typ       string
	claims, signed, sig []byte
}

// parseJWS reads the compact form (RFC 7515 section 7.1). There is one text for one token: nothing outside the alphabet,
// no padding, no second way to write a byte.
func parseJWS(text string, most int) (j jws, ok bool) {
	if len(text) > most {
		return j, false
	}
	dots := 0
	for i := range len(text) {
		if c := text[i]; c == '.' {
			dots++
		} else if !isBase64URL(c) {
			return j, false
		}
	}
	if dots != 2 {
		return j, false
	}
	j.signed = []byte(text[:strings.LastIndexByte(text, '.')])
	first := strings.IndexByte(text, '.')
	buf := make([]byte, 0, b64.DecodedLen(len(text))+2)
	header, err1 := b64.AppendDecode(buf, j.signed[:first])
	claims, err2 := b64.AppendDecode(header[len(header):], j.signed[first+1:])
	sig, err3 := b64.AppendDecode(claims[len(claims):], []byte(text[len(j.signed)+1:]))
	if err1 != nil || err2 != nil || err3 != nil || len(sig) == 0 {
		return j, false
	}
	j.claims, j.sig = claims, sig
	return j, j.readHeader(header) == nil
}

func parseToken(text string) (t *token, signed, sig []byte) {
	j, ok := parseJWS(text, maxToken)
	if !ok {
		return nil, nil, nil
	}
	t = &token{alg: j.alg, kid: j.kid, typ: j.typ}
	if t.readClaims(j.claims) != nil {
		return nil, nil, nil
	}
	return t, j.signed, j.sig
}

func isBase64URL(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func (j *jws) readHeader(b []byte) error {
	r := jsonReader{b: b}
	return r.document(func(name []byte) (err error) {
		switch string(name) {
		case "alg":
			j.alg, err = r.str()
		case "typ":
			j.typ, err = r.str()
		case "kid":
			if j.kid, err = r.str(); err == nil && (len(j.kid) > maxKeyID || !quotable(j.kid)) {
				err = errJSON
			}
		case "jwk", "jku", "x5u", "x5c", "crit", "b64":
			// Each would have the token choose its own key or its own rules (RFC 8725 sections 3.1 and 3.10).
			err = errJSON
		default:
			err = r.skip()
		}
		return err
	})
}

func (t *token) readClaims(b []byte) error {
	r := jsonReader{b: b}
	text := func(s *string, c claim) (err error) {
		t.has |= c
		*s, err = r.str()
		return err
	}
	number := func(n *int64, c claim) (err error) {
		t.has |= c
		*n, err = r.integer()
		return err
	}
	return r.document(func(name []byte) error {
		switch string(name) {
		case "iss":
			return text(&t.iss, hasIss)
		case "aud":
			return text(&t.aud, hasAud)
		case "sub":
			return text(&t.sub, hasSub)
		case "client_id":
			return text(&t.clientID, hasClientID)
		case "jti":
			return text(&t.jti, hasJTI)
		case "grant_id":
			return text(&t.grantID, hasGrantID)
		case "iat":
			return number(&t.iat, hasIat)
		case "exp":
			return number(&t.exp, hasExp)
		case "nbf":
			return number(&t.nbf, 0)
		case "scope":
			return r.scopes(&t.scopes)
		case "rights":
			t.has |= hasRights
			return r.rights(&t.rights)
		case "iseq":
			return number(&t.iseq, hasISeq)
		case "status":
			t.has |= hasStatus
			return t.readStatus(&r)
		}
		return r.skip()
	})
}

// readStatus reads the status claim (Token Status List, section 6).
func (t *token) readStatus(r *jsonReader) error {
	return r.object(func(name []byte) error {
		if string(name) != "status_list" {
			return r.skip()
		}
		return r.object(func(name []byte) (err error) {
			switch string(name) {
			case "idx":
				var n int64
				if n, err = r.integer(); n >= listEntries {
					err = errJSON
				}
				t.has |= hasIndex
				t.idx = int32(n)
			case "uri":
				t.has |= hasList
				t.uri, err = r.str()
			default:
				err = r.skip()
			}
			return err
		})
	})
}
