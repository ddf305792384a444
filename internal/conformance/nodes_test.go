package conformance

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/demo"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
	"github.com/grantway/grantway/resource"
)

// node is a grantway serve, and after a hand-over its successor.
type node struct {
	address string
	pid     int
	log     string
}

// cluster is three nodes on one PostgreSQL database behind nginx, with the demo's
// data, and a store API that asks the nodes.
type cluster struct {
	Demo
	proxy *nginx
	nodes []*node
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	binary := build(t)
	l := listenLoopback(t)
	c := &cluster{}
	var dir string
	c.Demo, dir = seed(t, binary, storagetest.Postgres(t), "http://"+l.Addr().String(),
		"trusted_proxies: 127.0.0.1\nlimits: {anonymous: \"off\", client: \"off\"}\nshutdown_grace: 3s\n")
	var addresses, urls []string
	for i := range 3 {
		c.nodes = append(c.nodes, startNode(t, binary, dir, fmt.Sprintf("node%d.log", i)))
		addresses = append(addresses, c.nodes[i].address)
		urls = append(urls, "http://"+c.nodes[i].address)
	}
	c.proxy = startNginx(t, l, addresses...)
	verifier, err := resource.New(t.Context(), resource.Config{Issuer: c.Issuer, Audience: demo.Audience,
		ClientID: c.ResourceServer.ClientID, ClientSecret: c.ResourceServer.ClientSecret, Errors: resource.Komerza,
		Nodes: urls}) // its polls between them would take the turns of what apps and people ask
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { verifier.Close() })
	api := httptest.NewServer(demo.StoreAPI(verifier))
	t.Cleanup(api.Close)
	c.StoreAPI = api.URL
	return c
}

// seed puts the demo's data into a database, and returns a folder for startNode
// whose configuration says settings besides.
func seed(t *testing.T, binary, database, issuer, settings string) (d Demo, dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Run("seed", func(t *testing.T) { d = startDemo(t, binary, "--database", database) })
	store, err := sqlstore.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	state, err := demo.Load(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	// The demo was the issuer of its own database, and here nginx stands before the nodes.
	driver := "sqlite"
	if sqlstore.IsPostgres(database) {
		driver = "pgx"
	}
	db, err := sql.Open(driver, database)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), "UPDATE apis SET issuer = $1", issuer)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	d.Issuer = issuer
	config := fmt.Sprintf("issuer: %s\napi_audience: %s\ndatabase: %s\nkey_ring: ring\ncatalogue: catalogue.yaml\nbrand: {name: %s}\n", issuer, demo.Audience, database, demo.Brand)
	for name, text := range map[string]string{"grantway.yaml": config + settings, "ring": state.KeyRing, "catalogue.yaml": string(demo.Catalogue)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d, dir
}

func startNode(t *testing.T, binary, dir, log string) *node {
	t.Helper()
	n := &node{log: filepath.Join(dir, log)}
	file, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	cmd := exec.Command(binary, "serve", "--config", "grantway.yaml", "--listen", "127.0.0.1:0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, in, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	n.pid = cmd.Process.Pid
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // and its successors, which are of its group
		cmd.Wait()
	})
	ready, err := bufio.NewReader(out).ReadString('\n')
	_, rest, found := strings.Cut(ready, "listening on ")
	if !found {
		said, _ := os.ReadFile(n.log)
		t.Fatalf("%q, %v\n%s", ready, err, said)
	}
	n.address, _, _ = strings.Cut(rest, " ")
	return n
}

// atNginx are the conversations that nginx itself answers, with 400: an escape that
// is none, or that stands for NUL, reaches no node.
var atNginx = []string{"komerza/path-other-characters", "komerza/exchange-app-malformed-escapes"}

// Whole flows whose every request lands on another node than the one before, and
// then each node restarted in turn while they go on (docs/operating.md, Many nodes).
func TestNodes(t *testing.T) {
	scripts, _ := conversations(t)
	c := startCluster(t)
	t.Run("every request on another node", func(t *testing.T) {
		before, held := len(c.proxy.hops(t)), 0
		for name, s := range scripts {
			if s.waits() || s.limits || s.guard || s.epoch || slices.Contains(atNginx, name) {
				continue
			}
			if err := s.run(t.Context(), c.Demo); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			held++
		}
		hops := c.proxy.hops(t)[before:]
		answered := map[string]int{}
		for i, h := range hops {
			answered[h.nodes]++
			if i > 0 && h.nodes == hops[i-1].nodes || h.status != h.statuses {
				t.Errorf("%+v after %+v", h, hops[max(i-1, 0)])
			}
		}
		if len(answered) != len(c.nodes) {
			t.Errorf("answered by %v, want %d nodes", answered, len(c.nodes))
		}
		t.Logf("%d requests in %d conversations: %v", len(hops), held, answered)
	})
	t.Run("an app suspended on one node", c.suspended)
	t.Run("restarted in turn", func(t *testing.T) { c.restartInTurn(t, scripts) })
}

// suspended shows that what one node does to an app, the others know within 100 ms,
// though each keeps the app in its cache: no question that was put later than that
// gets the old answer.
func (c *cluster) suspended(t *testing.T) {
	app, _ := c.App("exchange")
	web, err := newBrowser(c.Issuer, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The page on which the operator is asked, or presses the button.
	for _, do := range []struct {
		what, page string
		begins     bool // whether the app can be connected afterwards
	}{
		{"suspend-app", "/operator/do/suspend-app?id=" + app.ClientID, false},
		{"resume-app", "/operator/apps?q=" + url.QueryEscape(app.Name), true},
	} {
		if err := errors.Join(web.open(t.Context(), do.page), web.signIn(t.Context(), c.Operator)); err != nil {
			t.Fatal(err)
		}
		p, err := web.page()
		if err != nil {
			t.Fatal(err)
		}
		f := p.form(func(f *form) bool {
			return strings.HasSuffix(attr(f.node, "action"), do.what) && f.field("value", app.ClientID) != nil
		})
		if f == nil {
			t.Fatalf("no form to %s:\n%s", do.what, p)
		}
		last := make([]time.Time, len(c.nodes)) // when the last question was put that got the old answer
		var asking sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		warm := make(chan bool, 2*len(c.nodes))
		for i, n := range c.nodes {
			asking.Go(func() {
				for asked := 0; ; asked++ {
					put := time.Now()
					begins, err := n.begins(ctx, app)
					if asked == 20 || err != nil {
						warm <- true
					}
					if err != nil {
						t.Error(err)
					}
					if err != nil || begins == do.begins {
						return
					}
					last[i] = put
				}
			})
		}
		for range c.nodes {
			<-warm
		}
		if err := web.submit(t.Context(), p, f, f.buttons[0], f.values(f.buttons[0]), ""); err != nil {
			t.Error(err)
		}
		answered := time.Now()
		asking.Wait()
		for i, at := range last {
			if late := at.Sub(answered); late > 100*time.Millisecond {
				t.Errorf("%s: node %d gave the old answer to a question put %v later", do.what, i, late)
			}
		}
	}
}

// begins asks a node itself whether a person could be asked to connect the app, which
// the node answers from its cache: 303 to the sign-in, or the page that says why not.
func (n *node) begins(ctx context.Context, app App) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.address+"/auth/authorize?client_id="+app.ClientID+"&redirect_uri="+url.QueryEscape(callback), nil)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusSeeOther, err
}

// restartInTurn hands each node over to a successor while flows of every kind go on
// through nginx. Nothing is sent twice: nginx's log shows one node a request.
func (c *cluster) restartInTurn(t *testing.T, scripts map[string]script) {
	// One user's consents to an app that authenticates are one grant, so such a flow
	// goes on once; those of the other apps side by side.
	flows := []string{"resource/revoked-on-the-page", "standard/refresh-confidential-stays", "standard/refresh-public-rotates", "standard/introspect-active",
		"dressipi/refresh-rotates", "dressipi/refresh-rotates", "dressipi/refresh-rotates", "dressipi/refresh-same-guest"}
	before := len(c.proxy.hops(t))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	held := make([]atomic.Int64, len(flows))
	for i, name := range flows {
		s, known := scripts[name]
		if !known {
			t.Fatalf("there is no conversation %s", name)
		}
		load.Go(func() {
			for ctx.Err() == nil {
				if err := s.run(t.Context(), c.Demo); err != nil {
					t.Errorf("%s, after %d times: %v", name, held[i].Load(), err)
					return
				}
				held[i].Add(1)
			}
		})
	}
	// once waits until every flow was held once more.
	once := func() {
		t.Helper()
		for i := range held {
			now := held[i].Load()
			eventually(t, 30*time.Second, flows[i], func() bool { return held[i].Load() > now || t.Failed() })
		}
	}
	once()
	for _, n := range c.nodes {
		n.handOver(t)
		once()
	}
	for _, n := range c.nodes {
		eventually(t, 30*time.Second, "the end of the node that handed over", func() bool { return n.logged("stopped") == 1 })
	}
	stop()
	load.Wait()
	hops := c.proxy.hops(t)[before:]
	for _, h := range hops {
		if h.status >= "500" || h.status == "499" || h.status != h.statuses || strings.Contains(h.nodes, ",") {
			t.Errorf("%+v", h)
		}
	}
	for i := range held {
		t.Logf("%s: %d times", flows[i], held[i].Load())
	}
	t.Logf("%d requests, none failed and none sent twice, while three nodes were restarted", len(hops))
}

// handOver tells the node to hand over and waits until it did.
func (n *node) handOver(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(n.pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the hand-over", func() bool { return n.logged("handed over") == 1 })
}

// logged counts the entries of one message in the node's log.
func (n *node) logged(message string) int {
	log, _ := os.ReadFile(n.log)
	return strings.Count(string(log), `"msg":"`+message+`"`)
}

// Requests go to the nodes in turn, with the client's address, as the configuration
// for operators says.
func TestNginx_InTurn(t *testing.T) {
	var nodes []string
	forwarded := make(chan string, 100)
	for range 3 {
		node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { forwarded <- r.Header.Get("X-Forwarded-For") }))
		t.Cleanup(node.Close)
		nodes = append(nodes, strings.TrimPrefix(node.URL, "http://"))
	}
	proxy := startNginx(t, listenLoopback(t), nodes...)
	before := len(proxy.hops(t))
	for len(forwarded) > 0 {
		<-forwarded
	}
	for range 6 {
		req, err := http.NewRequest("GET", proxy.url+"/oauth2/x/exchange/y", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "192.0.2.1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if by := <-forwarded; by != "192.0.2.1, 127.0.0.1" {
			t.Errorf("X-Forwarded-For: %s", by)
		}
	}
	last := ""
	for _, h := range proxy.hops(t)[before:] {
		if h.nodes == last || h.status != "200" {
			t.Errorf("%+v after %s", h, last)
		}
		last = h.nodes
	}
}

func listenLoopback(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// eventually waits until it is so.
func eventually(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, limit)
		}
	}
}
