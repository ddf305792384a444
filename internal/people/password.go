package people

import (
	"context"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/grantway/grantway/internal/oauth"
)

// params are those of Argon2id (RFC 9106, 3.1).
type params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

// current is what OWASP's password storage sheet asks for at least: 28 ms and 19
// MiB a hash.
var current = params{memory: 19 << 10, time: 2, threads: 1}

const (
	saltLen = 16
	keyLen  = 32
	// What a stored string may ask for, so that a bad one cannot take the machine
	// down.
	maxMemory  = 1 << 20
	maxTime    = 64
	maxThreads = 64
	maxBytes   = 128
)

// phc is a hashed password: $argon2id$v=19$m=…,t=…,p=…$salt$key, in base64 without
// padding.
type phc struct {
	params
	salt, key []byte
}

func (h phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.key))
}

var errPHC = errors.New("people: a stored password is not an Argon2id PHC string")

// parsePHC reads what String wrote, and nothing else.
func parsePHC(s string) (phc, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return phc{}, errPHC
	}
	var h phc
	fields := strings.Split(parts[3], ",")
	if len(fields) != 3 {
		return phc{}, errPHC
	}
	for i, f := range []struct {
		prefix   string
		min, max uint64
	}{{"m=", 8, maxMemory}, {"t=", 1, maxTime}, {"p=", 1, maxThreads}} {
		digits, ok := strings.CutPrefix(fields[i], f.prefix)
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n < f.min || n > f.max {
			return phc{}, errPHC
		}
		switch i {
		case 0:
			h.memory = uint32(n)
		case 1:
			h.time = uint32(n)
		default:
			h.threads = uint8(n)
		}
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > maxBytes {
		return phc{}, errPHC
	}
	if h.key, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.key) < 16 || len(h.key) > maxBytes {
		return phc{}, errPHC
	}
	if h.String() != s {
		return phc{}, errPHC
	}
	return h, nil
}

// hasher hashes passwords, one at a time on each core. Who finds the queue full is
// sent away: memory and waiting time stay bounded whatever comes in.
type hasher struct {
	params params
	derive func(password, salt []byte, p params, length uint32) []byte
	slots  chan struct{}
	queue  *atomic.Int64 // who is inside enter and leave
	room   int64
}

// queuePerCore is about a second of waiting.
const queuePerCore = 32

func newHasher() hasher {
	cores := runtime.GOMAXPROCS(0)
	return hasher{params: current, derive: argon2id, slots: make(chan struct{}, cores), queue: new(atomic.Int64), room: int64(cores * queuePerCore)}
}

func argon2id(password, salt []byte, p params, length uint32) []byte {
	return argon2.IDKey(password, salt, p.time, p.memory, p.threads, length)
}

// enter takes a place in the queue, which leave gives back.
func (h *hasher) enter() (leave func(), err error) {
	if h.queue.Add(1) > h.room {
		h.queue.Add(-1)
		return nil, refuse(ReasonBusy)
	}
	return func() { h.queue.Add(-1) }, nil
}

// Hashing says how many password hashes are being made or waited for now.
func (s *Service) Hashing() int64 { return s.hashes.queue.Load() }

// run hashes when a core is free. For a caller who went away meanwhile it does not.
func (h *hasher) run(ctx context.Context, password string, salt []byte, p params, length int) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, refuse(ReasonBusy)
	}
	defer func() { <-h.slots }()
	return h.derive([]byte(password), salt, p, uint32(length)), nil
}

// hash returns the PHC string of a password.
func (h *hasher) hash(ctx context.Context, password string, random io.Reader) (string, error) {
	salt := make([]byte, saltLen)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("people: reading randomness: %w", err)
	}
	key, err := h.run(ctx, password, salt, h.params, keyLen)
	if err != nil {
		return "", err
	}
	return phc{h.params, salt, key}.String(), nil
}

// verify compares a password with a PHC string; stale says that the string was made
// with other parameters than today's.
func (h *hasher) verify(ctx context.Context, stored, password string) (right, stale bool, err error) {
	p, err := parsePHC(stored)
	if err != nil {
		return false, false, err
	}
	key, err := h.run(ctx, password, p.salt, p.params, len(p.key))
	if err != nil {
		return false, false, err
	}
	return subtle.ConstantTimeCompare(key, p.key) == 1, p.params != h.params || len(p.key) != keyLen, nil
}

// waste takes as long as verify.
func (h *hasher) waste(ctx context.Context, password string) error {
	_, err := h.run(ctx, password, make([]byte, saltLen), h.params, keyLen)
	return err
}

// Limits on what people type, in characters. NIST SP 800-63B, 5.1.1.2: a length,
// a list of the most common ones, and no rules of composition.
const (
	minPassword = 8
	maxPassword = 256
	maxName     = 100
)

//go:embed passwords.txt
var passwordList string

var common = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for line := range strings.Lines(passwordList) {
		m[strings.TrimSpace(line)] = true
	}
	return m
})

// checkPassword refuses what would be guessed first.
func checkPassword(password, email string, errs oauth.FieldErrors) {
	lower := strings.ToLower(strings.TrimSpace(password))
	n := utf8.RuneCountInString(password)
	switch {
	case password == "":
		errs["password"] = oauth.Refuse(oauth.FieldRequired)
	case !utf8.ValidString(password):
		errs["password"] = oauth.Refuse(oauth.FieldUnclean)
	case n < minPassword:
		errs["password"] = refuse(ReasonPasswordShort)
	case n > maxPassword:
		errs["password"] = refuse(ReasonPasswordLong)
	case email != "" && lower == email:
		errs["password"] = refuse(ReasonPasswordEmail)
	case common()[lower]:
		errs["password"] = refuse(ReasonPasswordCommon)
	}
}

// checkName returns a name without the spaces around it.
func checkName(name string, errs oauth.FieldErrors) string {
	name = strings.TrimSpace(name)
	switch {
	case name == "":
		errs["name"] = oauth.Refuse(oauth.FieldRequired)
	case utf8.RuneCountInString(name) > maxName:
		errs["name"] = oauth.Refuse(oauth.FieldTooLong)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, hidden):
		errs["name"] = oauth.Refuse(oauth.FieldUnclean)
	}
	return name
}

// hidden reports characters that a page would not show or that turn its direction.
// The joiners stay: Persian and Indic names are written with them.
func hidden(r rune) bool {
	const nonJoiner, joiner = 0x200c, 0x200d
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp) && r != nonJoiner && r != joiner
}
