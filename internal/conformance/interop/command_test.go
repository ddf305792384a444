package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	dir := nodeFolder(t)
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

// nodeFolder returns a folder with the scripts and their packages: this one if the packages are installed here, or a copy in
// which npm installs exactly what the lock pins.
func nodeFolder(t *testing.T) string {
	t.Helper()
	const what = "jose, jsonwebtoken, openid-client, oauth4webapi and the published JavaScript against the demo"
	version, err := exec.CommandContext(t.Context(), "node", "-p", `const [a, b] = process.versions.node.split('.'); Number(a) > 20 || Number(a) == 20 && Number(b) >= 19`).Output()
	if err != nil {
		leftOut(t, "%s need Node 20.19 or later, which is not installed here", what)
	}
	if strings.TrimSpace(string(version)) != "true" {
		leftOut(t, "%s need Node 20.19 or later; the one here is older", what)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(here, "node_modules", ".package-lock.json")); err == nil {
		return here
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		leftOut(t, "%s need npm, which is not installed here", what)
	}
	dir := t.TempDir()
	for _, pattern := range []string{"*.mjs", "*.json", ".npmrc"} {
		files, err := fs.Glob(os.DirFS(here), pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1")
	install.Dir = dir
	install.WaitDelay = time.Second
	if out, err := install.CombinedOutput(); err != nil {
		leftOut(t, "%s: npm ci failed, which needs the package registry once: %v\n%s", what, err, out)
	}
	return dir
}

// TestLockfile: what is installed is pinned by digest, and the lock names no host.
func TestLockfile(t *testing.T) {
	data, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct{ Version, Resolved, Integrity string }
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		t.Fatal(err)
	}
	if len(lock.Packages) < 6 {
		t.Fatalf("%d packages", len(lock.Packages))
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" || name != "" && !strings.HasPrefix(p.Integrity, "sha512-") {
			t.Errorf("%s: resolved %q, integrity %q", name, p.Resolved, p.Integrity)
		}
	}
}
