package people

import (
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// The reference implementation's own vector (github.com/P-H-C/phc-winner-argon2,
// src/test.c): what others hashed is read, and what is written others read.
func TestPassword_RFC9106_PHC(t *testing.T) {
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	h := newHasher()
	for password, want := range map[string]bool{"password": true, "Password": false, "": false} {
		right, stale, err := h.verify(t.Context(), reference, password)
		if err != nil || right != want || !stale {
			t.Errorf("%q: right %v, stale %v, %v", password, right, stale, err)
		}
	}
}

// The parameters are those that OWASP asks for at least.
func TestPassword_Parameters(t *testing.T) {
	h := newHasher()
	a, err := h.hash(t.Context(), "correct horse battery", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hashed as %s", a)
	}
	b, err := h.hash(t.Context(), "correct horse battery", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("two hashes of one password share their salt")
	}
	if right, stale, err := h.verify(t.Context(), a, "correct horse battery"); !right || stale || err != nil {
		t.Errorf("right %v, stale %v, %v", right, stale, err)
	}
}

func TestPassword_RefusesStrings(t *testing.T) {
	const tail = "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, s := range []string{
		"", "$", "password", "$2a$10$abcdefghijklmnopqrstuv",
		"$argon2i$v=19$m=65536,t=2,p=1" + tail,
		"$argon2id$v=16$m=65536,t=2,p=1" + tail,
		"$argon2id$v=19$m=65536,t=2" + tail,
		"$argon2id$v=19$t=2,m=65536,p=1" + tail,
		"$argon2id$v=19$m=065536,t=2,p=1" + tail,
		"$argon2id$v=19$m=4294967295,t=2,p=1" + tail,
		"$argon2id$v=19$m=65536,t=0,p=1" + tail,
		"$argon2id$v=19$m=65536,t=2,p=0" + tail,
		"$argon2id$v=19$m=65536,t=2,p=256" + tail,
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$",
		"$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ=$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$argon2id$v=19$m=65536,t=2,p=1" + tail + "$",
	} {
		if _, err := parsePHC(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

// The list holds what passes every other rule, one a line, in lower case.
func TestPassword_List(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(passwordList, "\n"), "\n")
	if len(lines) > 200 || len(common()) != len(lines) {
		t.Errorf("%d lines, %d passwords", len(lines), len(common()))
	}
	for _, l := range lines {
		if len([]rune(l)) < minPassword || l != strings.ToLower(strings.TrimSpace(l)) {
			t.Errorf("%q is refused without the list, or never found in it", l)
		}
	}
}

func FuzzPHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c")
	f.Add("$argon2id$v=19$m=,t=,p=$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parsePHC(s)
		if err != nil {
			return
		}
		if h.String() != s {
			t.Errorf("%q is written as %q", s, h)
		}
		if h.memory > maxMemory || h.time > maxTime || h.threads > maxThreads || h.time == 0 || h.threads == 0 {
			t.Errorf("%q asks for too much or too little", s)
		}
	})
}

func TestEmail(t *testing.T) {
	for in, want := range map[string]string{
		"ada@example.com":                         "ada@example.com",
		" Ada@Example.COM\t":                      "ada@example.com",
		"a+tag@sub.example.de":                    "a+tag@sub.example.de",
		"demo@localhost":                          "demo@localhost",
		"jörg@bücher.example":                     "jörg@bücher.example",
		"É@example.com":                           "É@example.com", // only ASCII is folded
		"o'neil@example.com":                      "o'neil@example.com",
		strings.Repeat("a", 242) + "@example.com": strings.Repeat("a", 242) + "@example.com",
		strings.Repeat("a", 243) + "@example.com": "",
		"":                        "",
		"@":                       "",
		"ada":                     "",
		"ada@":                    "",
		"@example.com":            "",
		"ada@example":             "",
		"ada@.com":                "",
		"ada@example.":            "",
		"ada@a..com":              "",
		"a@b@example.com":         "",
		"a da@example.com":        "",
		"ada@exa mple.com":        "",
		"ada@example.com\nBcc: x": "",
		"ada\x00@example.com":     "",
		"ada\u200b@example.com":   "",
		"ada\u202e@example.com":   "",
		"ada@example.com\xff":     "",
		"ada@exam/ple.com":        "",
	} {
		got, ok := normaliseEmail(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", in, got, ok, want)
		}
	}
}

func FuzzEmail(f *testing.F) {
	f.Add(" Ada@Example.COM ")
	f.Add("demo@localhost")
	f.Add("a@b@c.d")
	f.Add("\u2028a@b.c")
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := normaliseEmail(s)
		if !ok {
			if n != "" {
				t.Errorf("%q is refused and gives %q", s, n)
			}
			return
		}
		if again, ok := normaliseEmail(n); !ok || again != n {
			t.Errorf("%q gives %q, and that %q, %v", s, n, again, ok)
		}
		if len(n) > maxEmail || strings.Count(n, "@") != 1 || strings.ContainsAny(n, "ABCDEFGHIJKLMNOPQRSTUVWXYZ \r\n\t\x00") {
			t.Errorf("%q gives %q", s, n)
		}
	})
}

// For who goes away while he waits for a core nothing is hashed, and nobody waits.
func TestHasher_CallerGoesAway(t *testing.T) {
	h := newHasher()
	for range cap(h.slots) {
		h.slots <- struct{}{}
	}
	h.derive = func([]byte, []byte, params, uint32) []byte {
		t.Error("hashed all the same")
		return nil
	}
	stored := phc{current, make([]byte, saltLen), make([]byte, keyLen)}.String()
	ctx, away := context.WithCancel(t.Context())
	ends := make(chan error, 3)
	go func() { _, err := h.hash(ctx, "a password", rand.Reader); ends <- err }()
	go func() { _, _, err := h.verify(ctx, stored, "a password"); ends <- err }()
	go func() { ends <- h.waste(ctx, "a password") }()
	away()
	for range cap(ends) {
		select {
		case err := <-ends:
			if oauth.ReasonOf(err) != ReasonBusy {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("one waits on, though nobody would read the answer")
		}
	}
}
