package oauth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Secret is a credential in the clear. It never prints itself: every format verb
// and encoder gives "[secret]". Reveal is the one way out.
type Secret string

func (Secret) String() string               { return "[secret]" }
func (Secret) GoString() string             { return "[secret]" }
func (Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, "[secret]") }
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Reveal returns the credential itself, to be sent to its owner or compared.
func (s Secret) Reveal() string { return string(s) }

// Hash is the SHA-256 of a high-entropy secret: what is kept at rest. A slow hash
// would protect nothing here, since there are at least 160 random bits to guess.
type Hash []byte

// HashOf returns the hash of s.
func HashOf(s Secret) Hash {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

// Matches reports in constant time whether h is the hash of s.
func (h Hash) Matches(s Secret) bool {
	other := sha256.Sum256([]byte(s))
	return subtle.ConstantTimeCompare(h, other[:]) == 1
}

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// ordered returns 16 bytes that sort by time: 48 bits of milliseconds, then 80
// random bits. Rows made together then lie together in an index, which is what
// keeps the bytes written per event low.
func ordered(now time.Time, random io.Reader) ([16]byte, error) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	if _, err := io.ReadFull(random, b[6:]); err != nil {
		return b, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	return b, nil
}

// NewID returns a fresh id that sorts by time, after a prefix such as "usr_".
func NewID(prefix string, now time.Time, random io.Reader) (string, error) {
	b, err := ordered(now, random)
	if err != nil {
		return "", err
	}
	return prefix + idEncoding.EncodeToString(b[:]), nil
}

func (s *Server) newID(prefix string) (string, error) { return NewID(prefix, s.now(), s.rand) }

// newUUID returns a random UUID (RFC 9562, 5.4), the form of a client id that
// Komerza's appId demands.
func (s *Server) newUUID() (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(s.rand, b[:]); err != nil {
		return "", fmt.Errorf("oauth: reading randomness: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// NewClientSecret returns 54 random bytes as base64url: exactly 72 characters
// (seed komerza-exchange: "72-character client secret").
func NewClientSecret(random io.Reader) (Secret, error) {
	var b [54]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("oauth: reading randomness: %w", err)
	}
	return Secret(base64.RawURLEncoding.EncodeToString(b[:])), nil
}

const (
	selectorLen = 22 // 16 bytes in base64url: the row's key
	verifierLen = 43 // 32 bytes in base64url: proven by its hash
	artefactLen = selectorLen + verifierLen
)

// Artefact is a one-time or refreshable credential that the server made: a
// selector, by which its row is found, and a verifier, of which only a hash is
// kept. In the clear it is 65 characters of [A-Za-z0-9_-], so that it survives a
// path, a query and a form unescaped (seed-contracts K6).
type Artefact struct {
	Selector string
	Secret   Secret // the whole credential, selector included
}

// NewArtefact makes a fresh credential.
func NewArtefact(now time.Time, random io.Reader) (Artefact, error) {
	id, err := ordered(now, random)
	if err != nil {
		return Artefact{}, err
	}
	var v [32]byte
	if _, err := io.ReadFull(random, v[:]); err != nil {
		return Artefact{}, fmt.Errorf("oauth: reading randomness: %w", err)
	}
	return artefactOf(id[:], v[:]), nil
}

func (s *Server) newArtefact() (Artefact, error) { return NewArtefact(s.now(), s.rand) }

func artefactOf(selector, verifier []byte) Artefact {
	sel := base64.RawURLEncoding.EncodeToString(selector)
	return Artefact{sel, Secret(sel + base64.RawURLEncoding.EncodeToString(verifier))}
}

// ParseArtefact splits a credential that a client sent. A string of any other
// form cannot be one of ours.
func ParseArtefact(s string) (Artefact, bool) {
	if len(s) != artefactLen {
		return Artefact{}, false
	}
	for i := range len(s) {
		if !isURLSafe(s[i]) {
			return Artefact{}, false
		}
	}
	return Artefact{s[:selectorLen], Secret(s)}, true
}

func isURLSafe(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}
