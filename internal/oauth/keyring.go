package oauth

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// KeyRing holds the keys that seal signing keys at rest and forms in flight. It
// lives in a file or an environment variable, never in the database: a backup is
// two things. Its text is one line a key, "id:base64url of 32 bytes", the first
// being the one that seals; the others only open.
type KeyRing struct {
	keys []ringKey
}

type ringKey struct {
	id   string
	seal cipher.AEAD
	raw  []byte
}

// NewKeyRing makes a ring of one fresh key and returns its text.
func NewKeyRing(random io.Reader) (string, error) {
	var key [32]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return "", fmt.Errorf("oauth: reading randomness: %w", err)
	}
	sum := sha256.Sum256(key[:])
	return fmt.Sprintf("k%x:%s\n", sum[:4], base64.RawURLEncoding.EncodeToString(key[:])), nil
}

// ParseKeyRing reads the text of a ring. Blank lines and lines that start with #
// are passed over. Errors name the line, never its content.
func ParseKeyRing(text string) (*KeyRing, error) {
	ring := &KeyRing{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, encoded, ok := strings.Cut(line, ":")
		raw, err := base64.RawURLEncoding.DecodeString(encoded)
		if !ok || id == "" || len(id) > 64 || err != nil || len(raw) != 32 {
			return nil, fmt.Errorf("key ring, line %d: want id:key with a key of 32 bytes in base64url", n)
		}
		seal, err := aead(raw)
		if err != nil {
			return nil, err
		}
		for _, k := range ring.keys {
			if k.id == id {
				return nil, fmt.Errorf("key ring, line %d: the id stands twice", n)
			}
		}
		ring.keys = append(ring.keys, ringKey{id, seal, raw})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("key ring: %w", err)
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("key ring: no key in it")
	}
	return ring, nil
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// WrongRing says that a sealed value was sealed by a key that the ring lacks.
type WrongRing struct {
	Needs string // its id, with which its fingerprint begins
}

// Error leaves the id out: that of a form is what its sender says.
func (*WrongRing) Error() string { return "sealed by a key that is not in the key ring" }

// seal encrypts plain for a purpose; open needs the same purpose.
func (r *KeyRing) seal(purpose string, plain []byte) []byte {
	k := r.keys[0]
	return k.seal.Seal(append([]byte{byte(len(k.id))}, k.id...), nil, plain, []byte(purpose))
}

func (r *KeyRing) open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < 1 || len(sealed) < 1+int(sealed[0]) {
		return nil, errors.New("sealed value cut short")
	}
	id, box := string(sealed[1:1+sealed[0]]), sealed[1+sealed[0]:]
	for _, k := range r.keys {
		if k.id == id {
			return k.seal.Open(nil, nil, box, []byte(purpose))
		}
	}
	return nil, &WrongRing{id}
}

// Fingerprint says which keys of the ring open the active signing keys among rows,
// without telling them: id and 12 hexadecimal digits of each. It fails with
// [WrongRing] if the ring lacks one.
func (r *KeyRing) Fingerprint(rows []StoredKey) (string, error) {
	var used []string
	for _, row := range rows {
		if row.Status != Active {
			continue
		}
		if _, err := r.open(sealKeyPurpose, row.Sealed); err != nil {
			return "", err
		}
		if text := r.fingerprint(string(row.Sealed[1 : 1+row.Sealed[0]])); !slices.Contains(used, text) {
			used = append(used, text)
		}
	}
	return strings.Join(used, " "), nil
}

// Fingerprints lists the keys of the ring as [KeyRing.Fingerprint] writes them.
func (r *KeyRing) Fingerprints() string {
	all := make([]string, len(r.keys))
	for i, k := range r.keys {
		all[i] = r.fingerprint(k.id)
	}
	return strings.Join(all, " ")
}

func (r *KeyRing) fingerprint(id string) string {
	for _, k := range r.keys {
		if k.id == id {
			return fmt.Sprintf("%s/%x", id, derive(k.raw, "fingerprint")[:6])
		}
	}
	return ""
}

// deriveAll returns 32 bytes for one purpose from each key, in their order.
func (r *KeyRing) deriveAll(purpose string) (all [][]byte) {
	for _, k := range r.keys {
		all = append(all, derive(k.raw, purpose))
	}
	return all
}

func derive(raw []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, raw, nil, "grantway "+purpose, 32)
	if err != nil {
		panic("oauth: hkdf: " + err.Error()) // only for lengths beyond 255 hashes
	}
	return key
}
