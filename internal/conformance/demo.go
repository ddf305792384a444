package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Demo is what `grantway demo --json` prints once it is ready.
type Demo struct {
	Issuer         string       `json:"issuer"`
	StoreAPI       string       `json:"store_api"`
	ExampleApp     string       `json:"example_app"`
	User           Person       `json:"user"`
	Developer      Person       `json:"developer"`
	Operator       Person       `json:"operator"`
	APIToken       string       `json:"api_token"`
	Stores         []Store      `json:"stores"`
	Apps           []App        `json:"apps"`
	ResourceServer Confidential `json:"resource_server"`
	Guard          string       `json:"-"` // address of a guard that a test has started for the store API
}

// Person is a demo account.
type Person struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// Store is one of the demo user's stores. The last one may not be opened to apps.
type Store struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Delegable bool   `json:"delegable"`
}

// App is a registered app of the demo. A public one has an empty secret.
type App struct {
	Name         string   `json:"name"`
	Profile      string   `json:"profile"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	RedirectURIs []string `json:"redirect_uris"`
}

// Confidential is the pair with which an API server asks for introspection.
type Confidential struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// Callbacks that every demo app except the direct one has registered; the loopback one on any port. Nobody listens
// there: the conversations read the address and never follow it.
const (
	callback         = "https://client.example/callback"
	loopbackCallback = "http://127.0.0.1:53682/callback"
)

// ReadDemo parses the demo's line and refuses one that lacks what the contract promises.
func ReadDemo(line []byte) (Demo, error) {
	var d Demo
	if err := json.Unmarshal(line, &d); err != nil {
		return Demo{}, fmt.Errorf("the demo's line is not JSON: %w", err)
	}
	for _, kind := range []string{"exchange", "direct", "standard", "public"} {
		if _, ok := d.App(kind); !ok {
			return Demo{}, fmt.Errorf("the demo has no %s app", kind)
		}
	}
	delegable := 0
	for delegable < len(d.Stores) && d.Stores[delegable].Delegable {
		delegable++
	}
	if n := len(d.Stores); delegable < 3 || delegable != n-1 {
		return Demo{}, fmt.Errorf("the demo lists %d stores, the first %d delegable; at least three and then one that is not are promised", n, delegable)
	}
	if d.Issuer == "" || d.StoreAPI == "" || d.User.Email == "" || d.ResourceServer.ClientSecret == "" {
		return Demo{}, fmt.Errorf("the demo's line lacks issuer, store_api, user or resource_server")
	}
	return d, nil
}

// App returns the demo's app of a kind: exchange, direct, standard (confidential) or public (standard without secret).
func (d Demo) App(kind string) (App, bool) {
	for _, a := range d.Apps {
		k := a.Profile
		if k == "standard" && a.ClientSecret == "" {
			k = "public"
		}
		if k == kind {
			return a, true
		}
	}
	return App{}, false
}

// variables are the names that a conversation starts with.
func (d Demo) variables() map[string]string {
	v := map[string]string{
		"issuer":                 d.Issuer,
		"store_api":              d.StoreAPI,
		"example_app":            d.ExampleApp,
		"api_token":              d.APIToken,
		"redirect_uri":           callback,
		"loopback":               loopbackCallback,
		"resource.client_id":     d.ResourceServer.ClientID,
		"resource.client_secret": d.ResourceServer.ClientSecret,
	}
	for name, p := range map[string]Person{"user": d.User, "developer": d.Developer, "operator": d.Operator} {
		v[name+".email"], v[name+".password"] = p.Email, p.Password
	}
	for _, kind := range []string{"exchange", "direct", "standard", "public"} {
		a, _ := d.App(kind)
		v[kind+".name"], v[kind+".client_id"], v[kind+".client_secret"] = a.Name, a.ClientID, a.ClientSecret
	}
	for i, s := range d.Stores {
		v["store."+strconv.Itoa(i)], v["store."+strconv.Itoa(i)+".name"] = s.ID, s.Name
		v["store.last"], v["store.last.name"] = s.ID, s.Name
	}
	return v
}

// Live reports whether the tests are held against a demo that runs already: GRANTWAY_DEMO_JSON names the file with its
// line.
func Live() bool { return os.Getenv("GRANTWAY_DEMO_JSON") != "" }

// Start returns a running demo: the one that runs already, if Live, or one built and started for this test, which is told
// to stop when the test ends and must then leave with status 0 and with nothing but its one line on standard output.
func Start(t *testing.T) Demo {
	t.Helper()
	if Live() {
		line, err := os.ReadFile(os.Getenv("GRANTWAY_DEMO_JSON"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := ReadDemo(line)
		if err != nil {
			t.Fatal(err)
		}
		if url := os.Getenv("GRANTWAY_URL"); url != "" {
			d.Issuer = strings.TrimSuffix(url, "/")
		}
		return d
	}
	return startDemo(t, build(t))
}

// built is the binary that all tests of one process run, and its folder.
var built struct {
	once    sync.Once
	dir     string
	failure error
}

// build builds the binary, once: linking it takes seconds.
func build(t *testing.T) string {
	t.Helper()
	b := &built
	b.once.Do(func() {
		if b.dir, b.failure = os.MkdirTemp("", "grantway"); b.failure != nil {
			return
		}
		out, err := exec.Command("go", "build", "-o", filepath.Join(b.dir, "grantway"), "github.com/grantway/grantway/cmd/grantway").CombinedOutput()
		if err != nil {
			b.failure = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if b.failure != nil {
		t.Fatal(b.failure)
	}
	return filepath.Join(b.dir, "grantway")
}

// Main runs the tests of a package that starts demos, and removes the binary.
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func startDemo(t *testing.T, binary string, flags ...string) Demo {
	t.Helper()
	d, _ := startDemoProcess(t, binary, flags...)
	return d
}

// startDemoProcess is startDemo for a test that ends the demo itself.
func startDemoProcess(t *testing.T, binary string, flags ...string) (Demo, *os.Process) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, append([]string{"demo", "--listen", "127.0.0.1:0", "--json"}, flags...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	var log bytes.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, rest := make(chan []byte, 1), make(chan []byte, 1)
	go func() {
		r := bufio.NewReader(stdout)
		line, _ := r.ReadBytes('\n')
		first <- line
		more, _ := io.ReadAll(r)
		rest <- more
	}()
	t.Cleanup(func() {
		more := <-rest
		err := cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("after SIGTERM the demo left with status %d (%v)\n%s", code, err, log.String())
		}
		if len(more) > 0 {
			t.Errorf("more than one line on standard output: %q", more)
		}
	})
	select {
	case line := <-first:
		d, err := ReadDemo(line)
		if err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		return d, cmd.Process
	case <-time.After(time.Minute):
		t.Fatal("the demo was not ready within a minute")
		return Demo{}, nil
	}
}
