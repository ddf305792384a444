package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// process is a grantway serve in a process of its own.
type process struct {
	dir, url string
	pid      int // of the process that serves, once one has handed over
	cmd      *exec.Cmd
	log      string   // file with its standard error
	out      *os.File // its standard output, which successors print to as well
	exited   chan error
	once     sync.Once
}

// startServe starts grantway serve on config.yaml in dir and a free port, with more in
// its environment, without limits unless flags set them, and waits until it is ready.
func startServe(dir string, more []string, flags ...string) (*process, error) {
	p := &process{dir: dir, log: filepath.Join(dir, "serve.log"), exited: make(chan error, 1)}
	p.cmd = exec.Command("grantway", append([]string{"serve", "--config", "config.yaml", "--listen", "127.0.0.1:0",
		"--limits-anonymous", "off", "--limits-client", "off", "--limits-user", "off"}, flags...)...)
	p.cmd.Dir = dir
	// A program in dir/bin comes before the one under test.
	p.cmd.Env = append([]string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")}, more...)
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Stderr = log
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out, p.cmd.Stdout = out, in
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		return nil, err
	}
	ready, err := bufio.NewReader(out).ReadString('\n')
	go func() { p.exited <- p.cmd.Wait() }()
	_, rest, found := strings.Cut(ready, "listening on ")
	address, _, _ := strings.Cut(rest, " ")
	if err != nil || !found {
		p.kill()
		said, _ := os.ReadFile(p.log)
		return nil, fmt.Errorf("serve did not become ready: %q, %v\n%s", ready, err, said)
	}
	p.url = "http://" + address
	if err := until(10*time.Second, func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK }); err != nil {
		p.kill()
		return nil, fmt.Errorf("/readyz: %w", err)
	}
	return p, nil
}

// slow leaves a test to make test: it keeps the machine busy for seconds.
func slow(t *testing.T) {
	t.Helper()
	if !storagetest.All() {
		t.Skip("LEFT OUT: this test keeps the machine busy for seconds; make test runs it")
	}
}

// until asks again and again until it is so, or the time is over.
func until(limit time.Duration, so func() bool) error {
	end := time.Now().Add(limit)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", limit)
		}
		<-tick.C
	}
	return nil
}

func (p *process) get(path string) (int, string) {
	resp, err := http.Get(p.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// stop sends SIGTERM and waits for the process to exit with 0.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.exited:
		p.once.Do(func() {})
		return err
	case <-time.After(20 * time.Second):
		return errors.New("serve did not exit")
	}
}

// kill ends the process and its successors, which are of its group.
func (p *process) kill() {
	p.once.Do(func() {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	})
	p.out.Close()
}

// grantway runs a command in dir and returns what it printed.
func grantway(dir, stdin string, args ...string) (string, error) {
	cmd := exec.Command("grantway", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("grantway %s: %w\n%s", strings.Join(args, " "), err, &errs)
	}
	return out.String(), nil
}

// site is a folder that init has filled, with the demo's catalogue.
type site struct {
	*testing.T
	dir string
}

func newSite(t *testing.T) *site {
	s := &site{t, t.TempDir()}
	s.run("", nil, "init", "--dir", s.dir, "--catalogue", catalogueFile(t))
	return s
}

// run runs a command on the site's configuration, and reads its JSON into doc.
func (s *site) run(stdin string, doc any, args ...string) {
	s.Helper()
	if args[0] != "init" {
		flags := len(args)
		if i := slices.Index(args, "--"); i >= 0 {
			flags = i
		}
		args = slices.Insert(args, flags, "--config", "config.yaml", "--json")
	}
	out, err := grantway(s.dir, stdin, args...)
	if err != nil {
		s.Fatal(err)
	}
	if doc == nil {
		return
	}
	if err := json.Unmarshal([]byte(out), doc); err != nil {
		s.Fatalf("%v in %q", err, out)
	}
}

func (s *site) serve(flags ...string) *process {
	s.Helper()
	p, err := startServe(s.dir, nil, flags...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(p.kill)
	return p
}

// answer is what a test looks at in an answer.
type answer struct {
	status int
	header http.Header
	body   string
	doc    map[string]any // nil if the body is no JSON object
}

func (a answer) text(key string) string {
	s, _ := a.doc[key].(string)
	return s
}

// send sends a request. Redirects are not followed.
func send(method, address string, header map[string]string, body string) (answer, error) {
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(data)}
	if json.Unmarshal(data, &a.doc) != nil {
		a.doc = nil
	}
	return a, err
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

var formType = map[string]string{"Content-Type": "application/x-www-form-urlencoded"}

// The PKCE pair of RFC 7636, appendix B.
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

// guestCode asks for a code of a direct app.
func (p *process) guestCode(clientID string) (string, error) {
	a, err := send("GET", p.url+"/oauth/authorize?"+url.Values{"client_id": {clientID}, "redirect_uri": {"urn:ietf:wg:oauth:2.0:oob:auto"},
		"response_type": {"code"}, "state": {"st"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}.Encode(), nil, "")
	if err != nil || a.status != http.StatusOK || a.text("code") == "" {
		return "", fmt.Errorf("authorize: %v, %d %s", err, a.status, a.body)
	}
	return a.text("code"), nil
}

// redeem redeems a guest's code.
func (p *process) redeem(clientID, code string) (answer, error) {
	a, err := send("POST", p.url+"/oauth/token", formType, url.Values{"grant_type": {"authorization_code"}, "client_id": {clientID}, "code": {code},
		"redirect_uri": {"urn:ietf:wg:oauth:2.0:oob:auto"}, "code_verifier": {verifier}}.Encode())
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("token: %d %s", a.status, a.body)
	}
	return a, err
}

// exchange asks for a key with a code that cannot be one.
func (p *process) exchange(appID, secret string) (answer, error) {
	return send("GET", p.url+"/oauth2/"+appID+"/exchange/not-a-code", map[string]string{"X-Client-Secret": secret, "User-Agent": "test"}, "")
}
