package conformance

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// nginx is a real nginx with the configuration that docs/operating.md gives to
// operators, before nodes of ours.
type nginx struct {
	url   string
	log   string // one line a request, as logFormat says
	marks int
}

// hop is what nginx notes of a request: the nodes it tried, in turn, and what each
// answered.
type hop struct{ request, status, nodes, statuses string }

const logFormat = `$request_method $request_uri\t$status\t$upstream_addr\t$upstream_status`

// startNginx runs nginx on l, whose address may have been told to the nodes
// already, in front of nodes (host:port each), taken in turn; it returns when nginx
// answers.
func startNginx(t *testing.T, l *net.TCPListener, nodes ...string) *nginx {
	t.Helper()
	return runNginx(t, l, operatorsConf(t, l.Addr().String(), nodes))
}

// nginxProgram finds nginx. Where it is not installed, t is skipped, saying what to
// install; with TEST_GRANTWAY_ALL=1 it fails.
func nginxProgram(t *testing.T) string {
	t.Helper()
	program := "/usr/sbin/nginx" // not in everybody's PATH
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("nginx"); err != nil {
			if storagetest.All() {
				t.Fatal("nginx is missing: install Debian's package nginx-light")
			}
			t.Skip("LEFT OUT: no test behind a real proxy, because Debian's package nginx-light is not installed")
		}
	}
	return program
}

// runNginx runs nginx on l with what stands in its http block.
func runNginx(t *testing.T, l *net.TCPListener, inHTTP string) *nginx {
	t.Helper()
	program := nginxProgram(t)
	dir := t.TempDir()
	n := &nginx{url: "http://" + l.Addr().String(), log: filepath.Join(dir, "access.log")}
	conf := "daemon off; worker_processes 1; error_log " + dir + "/error.log; pid " + dir + "/pid;\n"
	if os.Geteuid() == 0 {
		conf += "user root;\n" // so that the worker may write here
	}
	conf += "events { worker_connections 1024; }\nhttp {\nlog_format hops escape=none '" + logFormat + "'; access_log " + n.log + " hops;\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += kind + "_temp_path " + filepath.Join(dir, kind) + ";\n"
	}
	conf += inHTTP + "}\n"
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command(program, "-c", file, "-p", dir)
	cmd.Env = []string{"NGINX=3;"} // the socket is open already
	cmd.ExtraFiles = []*os.File{socket}
	client := http.Client{Timeout: time.Second}
	startProxy(t, cmd, conf, func() error {
		resp, err := client.Get(n.url + "/healthz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	return n
}

// startProxy starts a proxy that was given conf, and waits until it answers. It ends
// with the test.
func startProxy(t *testing.T, cmd *exec.Cmd, conf string, answers func() error) {
	t.Helper()
	name := filepath.Base(cmd.Path)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("%s did not stop", name)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(10 * time.Second); ; <-tick.C {
		err := answers()
		if err == nil {
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s: %v\n%s\n%s", name, err, &said, conf)
		default:
		}
		if time.Now().After(limit) {
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

// operatorsConf is the configuration in docs/operating.md, with these addresses and
// without TLS.
func operatorsConf(t *testing.T, listen string, nodes []string) string {
	t.Helper()
	servers := ""
	for _, node := range nodes {
		servers += fmt.Sprintf("    server %s fail_timeout=1s;\n", node)
	}
	return block(t, "docs/operating.md", "nginx",
		`( +server 10\.[0-9.:]+ fail_timeout=1s;\n)+`, servers, `listen 443 ssl;`, "listen "+listen+";", ` +ssl_.*\n`, "")
}

// block is the first block of a language in a paper, in which each pattern was
// replaced by the text after it. A pattern that fits nothing fails the test.
func block(t *testing.T, paper, language string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + paper)
	if err != nil {
		t.Fatal(err)
	}
	_, found, _ := strings.Cut(string(text), "```"+language+"\n")
	found, _, ended := strings.Cut(found, "```\n")
	if !ended {
		t.Fatalf("%s has no block of %s", paper, language)
	}
	for i := 0; i < len(replace); i += 2 {
		re := regexp.MustCompile(replace[i])
		if !re.MatchString(found) {
			t.Fatalf("the block of %s in %s lacks %s", language, paper, replace[i])
		}
		found = re.ReplaceAllLiteralString(found, replace[i+1])
	}
	return found
}

// hops reads the log, of which the last entry is a request of its own: nginx notes a
// request after it has answered, and they are noted in turn.
func (n *nginx) hops(t *testing.T) (all []hop) {
	t.Helper()
	n.marks++
	mark := fmt.Sprintf("/healthz?mark=%d", n.marks)
	resp, err := http.Get(n.url + mark)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		log, err := os.ReadFile(n.log)
		if err != nil {
			t.Fatal(err)
		}
		all = nil
		for entry := range strings.Lines(string(log)) {
			if f := strings.Split(strings.TrimSuffix(entry, "\n"), "\t"); len(f) == 4 {
				all = append(all, hop{f[0], f[1], f[2], f[3]})
			}
		}
		if len(all) > 0 && all[len(all)-1].request == "GET "+mark {
			return all
		}
	}
	t.Fatal("nginx did not note a request")
	return nil
}
