// Package node holds the tests of the verifier for Node: its own, by Node, and an API that it guards against the demo.
package node

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/conformance"
	"github.com/grantway/grantway/internal/demo"
)

// bound is how long after a revocation was answered a key may still be accepted.
const bound = 850 * time.Millisecond

func TestMain(m *testing.M) { conformance.Main(m) }

func TestNode(t *testing.T) {
	dir := conformance.Node(t, ".", "*.json", ".npmrc", "README.md", "src/*.ts", "test/*.mjs")
	vectors, err := filepath.Abs("../../resource/testdata/vectors")
	if err != nil {
		t.Fatal(err)
	}
	blocks := readme(t)
	for _, line := range strings.Split(strings.TrimSpace(blocks["sh"]), "\n") {
		if line == "npm ci" {
			continue // Node did
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "VECTORS="+vectors, "NO_COLOR=1", "NODE_OPTIONS=--test-reporter=tap")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		if line == "npm test" {
			ran := regexp.MustCompile(`(?m)^# pass (\d+)$`).FindSubmatch(out)
			if ran == nil {
				t.Fatalf("%s: %s", line, out)
			}
			if n, _ := strconv.Atoi(string(ran[1])); n < 60 {
				t.Errorf("%d tests ran, want 60 or more", n)
			}
		}
	}
	t.Run("guards an API", func(t *testing.T) { guardsAnAPI(t, dir, blocks["js"]) })
}

// readme returns the first block of each language in README.md.
func readme(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		if blocks[m[1]] == "" {
			blocks[m[1]] = m[2]
		}
	}
	return blocks
}

// guardsAnAPI runs the API of README.md against the demo: its key is accepted, and refused in time once it is revoked.
func guardsAnAPI(t *testing.T, dir, program string) {
	d := conformance.Start(t)
	key := lastingKey(t, d)
	api := startAPI(t, dir, program, d)

	ask := func(store string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api+"/stores/"+store, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		return resp.StatusCode
	}
	// On a busy machine neither the feed nor the issuer may answer in time, and then the API does not know for a moment.
	status := func(store string) int {
		for began := time.Now(); ; {
			if got := ask(store); got != http.StatusServiceUnavailable || time.Since(began) > 20*time.Second {
				return got
			}
		}
	}
	for store, want := range map[string]int{d.Stores[0].ID: 200, d.Stores[0].ID + "?page=2": 200, d.Stores[1].ID + "/orders": 200, d.Stores[2].ID: 403,
		d.Stores[2].ID + "?" + d.Stores[0].ID: 403, "nowhere": 403, "?" + d.Stores[0].ID: 403} {
		if got := status(store); got != want {
			t.Errorf("store %s: %d, want %d", store, got, want)
		}
	}

	revoke(t, d, key)
	revoked := time.Now()
	for {
		asked := time.Now()
		got := ask(d.Stores[0].ID)
		if got == 401 {
			t.Logf("refused %v after the revocation was answered", time.Since(revoked))
			return
		}
		if late := asked.Sub(revoked); late > bound && got != http.StatusServiceUnavailable || late > 20*time.Second {
			t.Fatalf("%d, %v after the revocation was answered", got, late)
		}
	}
}

func startAPI(t *testing.T, dir, program string, d conformance.Demo) string {
	t.Helper()
	const listen = "server.listen(process.env.PORT ?? 3000)"
	if !strings.Contains(program, listen) {
		t.Fatalf("README.md has no %q", listen)
	}
	program = strings.Replace(program, listen, "server.listen(0, '127.0.0.1', () => console.log(server.address().port))", 1) +
		"process.on('exit', () => console.log(JSON.stringify(verifier.counters)))\n"
	file := filepath.Join(t.TempDir(), "api.mjs")
	if dir, err := os.MkdirTemp(dir, "api"); err == nil { // beneath the package, which finds itself by its name
		t.Cleanup(func() { os.RemoveAll(dir) })
		file = filepath.Join(dir, "api.mjs")
	}
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", file)
	cmd.Env = append(os.Environ(), "ISSUER="+d.Issuer, "AUDIENCE="+demo.Audience, "CLIENT_ID="+d.ResourceServer.ClientID, "CLIENT_SECRET="+d.ResourceServer.ClientSecret)
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	lines := bufio.NewReader(stdout)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cmd.Process.Signal(syscall.SIGTERM)
		var n struct{ Accepted, Asked, Stale, ListsRead int }
		if err := json.NewDecoder(lines).Decode(&n); err != nil || n.Accepted == 0 || n.Asked > n.Stale && n.ListsRead == 1 {
			t.Errorf("it asked though it knew: %+v (%v)", n, err)
		}
		t.Logf("%+v", n)
		if err := cmd.Wait(); err != nil || log.Len() > 0 {
			t.Errorf("the API: %v\n%s", err, log.String())
		}
		kill.Stop()
	})
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the API does not start: %v\n%s", err, log.String())
	}
	return "http://127.0.0.1:" + strings.TrimSpace(line)
}

func lastingKey(t *testing.T, d conformance.Demo) string {
	t.Helper()
	a, _ := d.App("exchange")
	link := d.Issuer + "/auth/authorize?" + url.Values{"client_id": {a.ClientID}, "redirect_uri": {"https://client.example/callback"}}.Encode()
	back, err := d.Allow(t.Context(), link, d.Stores[0].ID, d.Stores[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.Issuer+"/oauth2/"+a.ClientID+"/exchange/"+back.Query().Get("code"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Client-Secret", a.ClientSecret)
	var answer struct{ Data string }
	if err := json.Unmarshal(do(t, req), &answer); err != nil || answer.Data == "" {
		t.Fatal(err)
	}
	return answer.Data
}

func revoke(t *testing.T, d conformance.Demo, key string) {
	t.Helper()
	a, _ := d.App("exchange")
	form := url.Values{"token": {key}, "client_id": {a.ClientID}, "client_secret": {a.ClientSecret}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.Issuer+"/oauth/revoke", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	do(t, req)
}

func do(t *testing.T, req *http.Request) []byte {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s (%v)", req.URL.Path, resp.StatusCode, body, err)
	}
	return body
}
