package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// readme returns the shell blocks of README.md, in order.
func readme(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) != 7 {
		t.Fatalf("%d shell blocks in README.md; this test knows 7", len(blocks))
	}
	return blocks
}

// with replaces the value of each assignment, as a reader would.
func with(t *testing.T, block string, values map[string]string) string {
	t.Helper()
	for name, value := range values {
		line := regexp.MustCompile(`(?m)^` + name + `=.*$`)
		if !line.MatchString(block) {
			t.Fatalf("no %s= in\n%s", name, block)
		}
		block = line.ReplaceAllLiteralString(block, name+"='"+value+"'")
	}
	return block
}

func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", script)
	cmd.Dir = dir
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s\n%v\n%s%s", script, err, out, errOut.String())
	}
	return string(out)
}

// What steps 1 and 3 of "The first key in five minutes" tell the reader to press and to choose stands on the pages under this
// name, and the type is the one whose app the other steps run. Whoever did step 1 is signed in as the developer.
func TestReadme_PortalWords(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	say := map[string]any{}
	for _, file := range []string{"en.json", "developer.en.json"} {
		words, err := os.ReadFile("../portal/messages/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(words, &say); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []struct{ step, before, id string }{
		{"1", "press", "apps.create"}, {"1", "the type", "kind.exchange"}, {"3", "the developer still: press", "consent.other_account"}, {"3", "stores, press", "consent.allow"},
	} {
		_, step, _ := strings.Cut(string(text), "\n"+w.step+". ")
		step, _, _ = strings.Cut(step, "\n```")
		m := regexp.MustCompile(w.before + `\s+\*([^*]+)\*`).FindStringSubmatch(step)
		if m == nil {
			t.Errorf("step %s does not say %q", w.step, w.before)
		} else if named := strings.Join(strings.Fields(m[1]), " "); named != say[w.id] {
			t.Errorf("step %s says %s %q; the portal says %q", w.step, w.before, named, say[w.id])
		}
	}
}

// Every command of "The first key in five minutes", with the values that a reader
// would put in.
func TestReadme_FirstKey(t *testing.T) {
	needs(t, "bash", "curl")
	blocks := readme(t)
	if strings.TrimSpace(blocks[0]) != "go run ./cmd/grantway demo" {
		t.Fatalf("the demo is started by %q", blocks[0])
	}
	d := Start(t) // the same command, with a free port and --json
	app, _ := d.App("exchange")
	set := with(t, blocks[1], map[string]string{"ISSUER": d.Issuer, "STORE_API": d.StoreAPI, "CLIENT_ID": app.ClientID, "CLIENT_SECRET": app.ClientSecret})
	link := strings.TrimSpace(shell(t, "", set+blocks[2]))
	back, err := d.Allow(context.Background(), link, d.Stores[0].ID, d.Stores[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	if back.Query().Get("state") != "random123" || back.Host != "client.example" {
		t.Fatalf("the way back is %s", back)
	}
	var key struct {
		Success bool
		Data    string
	}
	exchange := with(t, blocks[3], map[string]string{"CODE": back.Query().Get("code")})
	if err := json.Unmarshal([]byte(shell(t, "", set+exchange)), &key); err != nil || !key.Success {
		t.Fatalf("%+v, %v", key, err)
	}
	var stores struct {
		Success bool
		Data    []struct{ ID string }
	}
	call := with(t, blocks[4], map[string]string{"KEY": key.Data})
	if err := json.Unmarshal([]byte(shell(t, "", set+call)), &stores); err != nil || len(stores.Data) != 2 {
		t.Fatalf("%+v, %v", stores, err)
	}
}

// Every command of "Run it for real", in an empty folder and on a free port.
func TestReadme_ForReal(t *testing.T) {
	needs(t, "bash")
	blocks := readme(t)
	at, err := storagetest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(blocks[5], "127.0.0.1:8080", at)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "go build") {
		t.Fatalf("the block is %q", lines)
	}
	shell(t, root, strings.Replace(lines[0], "-o grantway", fmt.Sprintf("-o '%s/grantway'", dir), 1))
	said := shell(t, dir, lines[1])
	if !regexp.MustCompile(`/sign-up\?invite=[A-Za-z0-9_-]{65}`).MatchString(said) {
		t.Errorf("init prints no link for the operator:\n%s", said)
	}
	// As a reader's shell would run it; listen follows the issuer's free port.
	serve := exec.CommandContext(t.Context(), "bash", "-euc", "exec "+lines[2])
	serve.Dir, serve.Env = dir, append(os.Environ(), "GRANTWAY_LISTEN="+at)
	serve.Cancel = func() error { return serve.Process.Signal(syscall.SIGTERM) }
	serve.WaitDelay = 20 * time.Second
	var log bytes.Buffer
	serve.Stderr = &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for ready := false; !ready; {
		if time.Now().After(deadline) {
			t.Fatalf("serve is not ready\n%s", log.String())
		}
		resp, err := http.Get("http://" + at + "/readyz")
		ready = err == nil && resp.StatusCode == http.StatusOK
		if err == nil {
			resp.Body.Close()
		}
	}
	shell(t, dir, blocks[6]) // on the running server
	if err := serve.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := serve.Wait(); err != nil {
		t.Errorf("serve: %v\n%s", err, log.String())
	}
	// And on the stopped one.
	last := strings.Split(strings.TrimSpace(blocks[6]), "\n")
	if out := shell(t, dir, last[len(last)-1]); !json.Valid([]byte(out)) {
		t.Errorf("no JSON: %s", out)
	}
}

// Links in every paper lead to a file that is there, and to a heading that is there.
func TestReadme_Links(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	// What is not in the repository (somebody's notes, a module's papers) is nobody's here.
	list, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "ls-files", "-z", "*.md").Output()
	if err != nil && !storagetest.All() {
		t.Skipf("LEFT OUT: which papers there are says git, in a clone (%v)", err)
	} else if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	papers := strings.FieldsFunc(string(list), func(r rune) bool { return r == 0 })
	for _, name := range papers {
		paper := filepath.Join("../..", name)
		text, err := os.ReadFile(paper)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %v", paper, err)
				continue
			}
			if u.IsAbs() {
				continue
			}
			to := paper
			if u.Path != "" {
				to = filepath.Join(filepath.Dir(paper), u.Path)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", paper, err)
			} else if u.Fragment != "" && !slices.Contains(anchors(t, to), u.Fragment) {
				t.Errorf("%s links to %s, which has no heading #%s", paper, to, u.Fragment)
			}
		}
	}
	if len(papers) < 10 {
		t.Errorf("only %d papers found", len(papers))
	}
}

// anchors are the fragments that a paper's headings have where it is read.
func anchors(t *testing.T, paper string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(paper)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^#+ (.+)$").FindAllStringSubmatch(string(text), -1) {
		heading := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(m[1])), "")
		all = append(all, strings.ReplaceAll(heading, " ", "-"))
	}
	return all
}

// needs leaves a test out, loudly, where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if storagetest.All() {
				t.Fatalf("%s is missing", p)
			}
			t.Skipf("LEFT OUT: this test needs %s, which is not installed here", p)
		}
	}
}
