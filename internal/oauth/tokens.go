package oauth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync/atomic"
	"time"
)

// The typ headers. Kinds of JWT from one issuer are mutually exclusive (RFC
// 8725bis, 3.12).
const (
	TypAccess  = "at+jwt"     // RFC 9068
	TypLasting = "apikey+jwt" // ours: no exp, so that a stock at+jwt verifier refuses it
)

// Claims is the payload of a key.
type Claims struct {
	Issuer   string      `json:"iss"`
	Audience string      `json:"aud"`
	Subject  string      `json:"sub"`
	ClientID string      `json:"client_id"`
	IssuedAt int64       `json:"iat"`
	Expires  int64       `json:"exp,omitempty"` // absent in a lasting key
	ID       string      `json:"jti"`
	Scope    string      `json:"scope,omitempty"`
	Rights   []Right     `json:"rights,omitzero"` // absent, and not empty, when they cannot be printed
	GrantID  string      `json:"grant_id"`
	ISeq     int64       `json:"iseq"` // the feed's sequence as read before signing
	Status   StatusClaim `json:"status"`
	Narrowed string      `json:"narrowed,omitempty"` // a refresh asked for no more than this
}

// expired is never true of a lasting key.
func (c *Claims) expired(now time.Time) bool { return c.Expires != 0 && c.Expires <= now.Unix() }

// StatusClaim is the status claim of the Token Status List draft, section 6.
type StatusClaim struct {
	List StatusRef `json:"status_list"`
}

// StatusRef names a place in a status list.
type StatusRef struct {
	Index int64  `json:"idx"`
	URI   string `json:"uri"`
}

// An index of the database is epoch, list and place in one number. A family keeps
// the list that it was born with; the epoch is part of the list's name, and a
// restored database begins a new one, so what it hands out was never handed out
// before.
const (
	IndexBits = 20                        // 2^20 places in one status list
	ListBits  = 11                        // 2^11 lists in one epoch
	EpochBits = 63 - IndexBits - ListBits // seconds until 2106
)

// statusOf renders a family's index.
func (s *Server) statusOf(index int64) StatusClaim {
	return StatusClaim{StatusRef{Index: index & (1<<IndexBits - 1), URI: s.statusURI(index >> IndexBits)}}
}

// maxToken bounds the text of a key in bytes. Verifiers go by the same number: what we
// sign is no longer, and what is longer is not ours.
const maxToken = 32 << 10

// mint signs an access token of a family. rights are what it may do now; st says
// when that was read; narrowed, if not nil, limits this one token for its life.
// kid is that of the key that signed it.
func (s *Server) mint(p Profile, f *Family, st *Standing, rights Rights, narrowed ScopeSet) (token, kid string, err error) {
	now := s.now()
	var jti [16]byte
	if _, err := io.ReadFull(s.rand, jti[:]); err != nil {
		return "", "", fmt.Errorf("oauth: reading randomness: %w", err)
	}
	c := Claims{
		Issuer: s.issuer, Audience: s.api.URI, Subject: f.UserID, ClientID: f.ClientID, IssuedAt: at(now),
		ID:    f.ID + "." + base64.RawURLEncoding.EncodeToString(jti[:]),
		Scope: rights.Flat().String(), GrantID: f.GrantID, ISeq: st.Seq, Status: s.statusOf(f.StatusIndex),
		Narrowed: narrowed.String(),
	}
	if rights.printable(&st.Grant) {
		c.Rights = rights.Claim()
	} else if c.Scope = rights.Account.String(); len(c.Scope) > maxRights {
		c.Scope = "" // who asks is told
	}
	use, typ := ForLasting, TypLasting
	if !p.Lasting {
		use, typ = ForAccess, TypAccess
		c.Expires = at(now.Add(p.AccessLife))
	}
	payload, err := marshalClaims(&c)
	if err != nil {
		return "", "", err
	}
	k := s.keys.current.Load().sign[use]
	token, err = k.sign(typ, payload, s.rand)
	return token, k.kid, err
}

// marshalClaims leaves &, < and > as they are: as \u0026 they would only be longer.
func marshalClaims(c any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// verified are the claims of a JWT of ours that is genuine.
type verified struct {
	Claims
	typ    string
	family string
	answer atomic.Pointer[answer] // of the last introspection that said that it is active
}

// presented is a JWT that says it is ours, by the header of a key that is trusted.
type presented struct {
	*verified
	keys  *keys
	hash  [sha256.Size]byte // of the whole text
	token string
	by    *ecdsa.PublicKey // nil: it is remembered, and genuine
}

// present reads a JWT in the one text that we give it. We write one header for each
// key and kind, so every other one is not ours, whatever it says (attacks D1 to D6).
// Whether we signed it says [presented.genuine]; expiry is left to the caller.
func (s *Server) present(token string) (p presented, ok bool) {
	if len(token) > maxToken {
		return p, false
	}
	var room [1 << 10]byte // of most tokens: a copy on the heap would be garbage at once
	p = presented{keys: s.keys.current.Load(), hash: sha256.Sum256(append(room[:0], token...)), token: token}
	if p.verified, ok = p.keys.seen.Get(p.hash); ok {
		return p, true
	}
	head, rest, _ := strings.Cut(token, ".")
	by, ok := p.keys.heads[head]
	if !ok {
		return p, false
	}
	body, _, _ := strings.Cut(rest, ".")
	payload, ok := decode(body)
	if !ok {
		return p, false
	}
	v := &verified{typ: by.typ}
	if err := json.Unmarshal(payload, &v.Claims); err != nil || v.Issuer != s.issuer || (v.typ == TypLasting) != (v.Expires == 0) {
		return p, false
	}
	v.family, _, ok = strings.Cut(v.ID, ".")
	p.verified, p.by = v, by.key
	return p, ok
}

// genuine reports whether we made the token: it is the one that was issued, if its
// family has but one, or else its signature holds. issued is the hash of that one. It
// answers for every bit of the text, those of the signature too, for a small part of
// what checking that costs.
func (p *presented) genuine(issued Hash) bool {
	switch {
	case p.by == nil:
		return true
	case issued != nil && subtle.ConstantTimeCompare(issued, p.hash[:]) != 1, issued == nil && !p.signed():
		return false
	}
	p.keys.seen.Put(p.hash, p.verified)
	p.by = nil
	return true
}

func (p *presented) signed() bool {
	cut := strings.LastIndexByte(p.token, '.')
	signature, ok := decode(p.token[cut+1:])
	if !ok || len(signature) != 64 || strings.Count(p.token, ".") != 2 {
		return false
	}
	digest := sha256.Sum256([]byte(p.token[:cut]))
	return ecdsa.Verify(p.by, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
}

// verifyOwn checks a JWT that somebody says is ours: one of our two kinds, signed
// by a key of that kind. It is nil for any other. Expiry is left to the caller. The
// value is shared: do not change it, but for its answer.
func (s *Server) verifyOwn(ctx context.Context, token string) (*verified, error) {
	if err := s.knowKeyOf(ctx, token, time.Since(start)); err != nil {
		return nil, err
	}
	p, ok := s.present(token)
	if !ok || !p.genuine(nil) {
		return nil, nil
	}
	return p.verified, nil
}

// knowKeyOf makes sure that the key of a token is not merely younger than what this node
// has read: another node signs with a new one from the moment that it is there. Who makes
// such tokens up has one number read for them, not the feed.
func (s *Server) knowKeyOf(ctx context.Context, token string, asked time.Duration) error {
	if !s.keys.current.Load().stranger(token) {
		return nil
	}
	return s.catchUp(ctx, asked)
}

// stranger reports whether a token has a header that we write, and of a key that is not
// among these.
func (k *keys) stranger(token string) bool {
	head, _, ok := strings.Cut(token, ".")
	if _, known := k.heads[head]; known || !ok || len(token) > maxToken {
		return false
	}
	text, ok := decode(head)
	var h struct{ Kid, Typ string }
	return ok && json.Unmarshal(text, &h) == nil && (h.Typ == TypAccess || h.Typ == TypLasting) && head == headerOf(h.Kid, h.Typ)
}

var strict = base64.RawURLEncoding.Strict()

// decode reads base64url in its one text: the decoder passes over line breaks.
func decode(text string) ([]byte, bool) {
	b, err := strict.DecodeString(text)
	return b, err == nil && strict.EncodedLen(len(b)) == len(text)
}
