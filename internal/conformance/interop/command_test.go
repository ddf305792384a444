package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/conformance"
)

// curl runs the published curl lines, with the host names and placeholders filled in.
func (w *world) curl(t *testing.T) {
	path, err := exec.LookPath("curl")
	if err != nil {
		leftOut(t, "the published curl lines need curl; on Debian: apt-get install curl")
	}
	a, code := w.app("exchange"), w.code(t)
	run := func(t *testing.T, args ...string) (status, body string) {
		t.Helper()
		args = append([]string{"--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"}, args...)
		out, err := exec.CommandContext(t.Context(), path, args...).Output()
		if err != nil {
			t.Fatalf("curl: %v %s", err, out)
		}
		i := strings.LastIndex(string(out), "\n")
		return string(out[i+1:]), string(out[:i])
	}
	type envelope struct {
		Success bool
		Code    string
		Data    json.RawMessage
	}
	read := func(t *testing.T, body string) (e envelope) {
		t.Helper()
		if err := json.Unmarshal([]byte(body), &e); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		return e
	}
	exchange := w.Issuer + "/oauth2/" + a.ClientID + "/exchange/" + code

	// The page's generated block asks for a bearer, which its own text contradicts: the secret is missing.
	t.Run("the generated block", func(t *testing.T) {
		status, body := run(t, "--request", "GET", "--url", exchange, "--header", "Authorization: Bearer <token>")
		if e := read(t, body); status != "401" || e.Success || e.Code != "invalid_client_secret" {
			t.Errorf("%s %s", status, body)
		}
	})
	var key string
	t.Run("the exchange as its text has it", func(t *testing.T) {
		status, body := run(t, "-X", "GET", exchange, "-H", "X-Client-Secret: "+a.ClientSecret, "-H", "User-Agent: MyApp/1.0")
		e := read(t, body)
		if json.Unmarshal(e.Data, &key); status != "200" || !e.Success || key == "" {
			t.Fatalf("%s %s", status, body)
		}
	})
	t.Run("using the API key", func(t *testing.T) {
		for i, want := range []string{"200", "200", "403"} {
			status, body := run(t, "-X", "GET", w.StoreAPI+"/stores/"+w.Stores[i].ID, "-H", "Authorization: Bearer "+key, "-H", "User-Agent: MyApp/1.0")
			if e := read(t, body); status != want || e.Success != (want == "200") {
				t.Errorf("store %d: %s %s", i, status, body)
			}
		}
	})
	t.Run("the same code again", func(t *testing.T) {
		status, body := run(t, "-X", "GET", exchange, "-H", "X-Client-Secret: "+a.ClientSecret, "-H", "User-Agent: MyApp/1.0")
		if e := read(t, body); status != "403" || e.Code != "invalid_code" {
			t.Errorf("%s %s", status, body)
		}
	})
}

// scripts are the Node programs beside this file, and how many cases each must tell of: fewer means that it broke off.
var scripts = []struct {
	file  string
	cases int
}{
	{"verifiers.mjs", 7},
	{"clients.mjs", 8},
	{"direct.mjs", 4},
	{"exchange.mjs", 1},
}

// node runs the Node scripts and reports each of their cases as a test of its own.
func (w *world) node(t *testing.T) {
	dir := conformance.Node(t, ".", "*.mjs", "*.json", ".npmrc")
	line, err := json.Marshal(w.Demo)
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "DEMO="+string(line), "PERSON="+w.person(t), "AUDIENCE="+audience,
		"LASTING="+w.lastingKey(t), "ACCESS="+w.accessToken(t), "NO_COLOR=1")
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(script.file, ".mjs"), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", script.file)
			cmd.Dir = dir
			cmd.Env = env
			if script.file == "exchange.mjs" {
				cmd.Env = append(env[:len(env):len(env)], "CODE="+w.code(t)) // fresh: it lives for a minute
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Errorf("node: %v\n%s", err, stderr.String())
			}
			told := 0
			for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
				var c struct {
					Case  string
					Error *string
				}
				if err := json.Unmarshal(lines.Bytes(), &c); err != nil || c.Case == "" {
					t.Errorf("on standard output: %q", lines.Text())
					continue
				}
				told++
				t.Run(c.Case, func(t *testing.T) {
					if c.Error != nil {
						t.Error(*c.Error)
					}
				})
			}
			if told != script.cases {
				t.Errorf("%d cases, want %d", told, script.cases)
			}
		})
	}
}

// TestLockfile: what is installed is pinned by digest, and no lock names a host.
func TestLockfile(t *testing.T) {
	for _, file := range []string{"package-lock.json", "../../../verifiers/node/package-lock.json"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var lock struct {
			Packages map[string]struct{ Version, Resolved, Integrity string }
		}
		if err := json.Unmarshal(data, &lock); err != nil {
			t.Fatal(err)
		}
		if len(lock.Packages) < 5 {
			t.Fatalf("%s: %d packages", file, len(lock.Packages))
		}
		for name, p := range lock.Packages {
			if p.Resolved != "" || name != "" && !strings.HasPrefix(p.Integrity, "sha512-") {
				t.Errorf("%s: %s: resolved %q, integrity %q", file, name, p.Resolved, p.Integrity)
			}
		}
	}
}
