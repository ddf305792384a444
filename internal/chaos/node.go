package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// node is one "grantway serve" under a supervisor that starts it again whenever it
// ends, as systemd would.
type node struct {
	site    *site
	number  int
	address string             // where it listens
	door    string             // where it is reached, if not there
	flags   []string           // more of them for serve
	network *network           // nil: ours
	stop    context.CancelFunc // ends the supervisor; nil: the site's does
	wire    *http.Transport    // to this node, whatever host a URL names

	handing sync.Mutex // held while a successor is started

	mu      sync.Mutex
	pid     int // of the process that serves
	started int
	ended   chan struct{} // closed when that is gone
	done    chan struct{} // closed when the supervisor is
}

const restartAfter = 100 * time.Millisecond // RestartSec of systemd

func newNode(s *site, number int) (*node, error) {
	address, err := storagetest.FreeAddress()
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	n := &node{site: s, number: number, address: address, done: make(chan struct{})}
	n.wire = &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", cmp.Or(n.door, n.address))
	}}
	return n, nil
}

func (n *node) log() string { return filepath.Join(n.site.dir, fmt.Sprintf("serve-%d.log", n.number)) }

// supervise runs the server until ctx ends; then it is killed.
func (n *node) supervise(ctx context.Context) {
	defer close(n.done)
	for ctx.Err() == nil {
		if err := n.once(ctx); err != nil {
			n.site.ledger.violation("node %d cannot be started: %v", n.number, err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
}

func (n *node) once(ctx context.Context) error {
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{n.site.binary, "serve", "--config", "config.yaml", "--listen", n.address,
		"--limits-anonymous", "off", "--limits-client", "off", "--limits-user", "off"}, n.flags...)
	if n.network != nil {
		args = append(n.network.nsenter(), args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = n.site.dir, n.site.environ(), log, log
	ended := make(chan struct{})
	n.mu.Lock()
	if err := cmd.Start(); err != nil {
		n.mu.Unlock()
		return err
	}
	n.pid, n.ended = cmd.Process.Pid, ended
	n.started++
	n.mu.Unlock()
	cmd.Wait() // how it ended is in its log
	for last := cmd.Process.Pid; ; {
		n.handing.Lock()
		pid := n.running()
		n.handing.Unlock()
		if pid == last {
			break
		}
		outlive(ctx, pid)
		last = pid
	}
	n.wire.CloseIdleConnections()
	close(ended)
	return nil
}

// outlive waits until a process that is not our child is gone, and kills it when ctx
// ends.
func outlive(ctx context.Context, pid int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; isThere(pid); <-tick.C {
		if ctx.Err() != nil {
			syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
		}
	}
}

func (n *node) running() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pid
}

func (n *node) signal(sig syscall.Signal) error {
	if err := syscall.Kill(n.running(), sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

// kill ends the running process as a crash would, and waits until it is gone.
func (n *node) kill() error { return n.end(syscall.SIGKILL) }

func (n *node) end(sig syscall.Signal) error {
	n.mu.Lock()
	pid, ended := n.pid, n.ended
	n.mu.Unlock()
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	<-ended
	return nil
}

var successor = regexp.MustCompile(`"msg":"handed over","successor":(\d+)`)

// handOver has the running process hand its socket to a successor, and waits until
// that serves.
func (n *node) handOver(ctx context.Context) error {
	n.handing.Lock()
	defer n.handing.Unlock()
	said := func() [][]string {
		log, _ := os.ReadFile(n.log())
		return successor.FindAllStringSubmatch(string(log), -1)
	}
	before := len(said())
	if err := n.signal(syscall.SIGUSR2); err != nil {
		return err
	}
	if err := until(ctx, startWithin, func() bool { return len(said()) > before }); err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	pid, err := strconv.Atoi(said()[before][1])
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.pid = pid
	n.mu.Unlock()
	return nil
}

// ready reports whether the node says that it is ready, and gives a code when it is
// asked for one: that is one write.
func (n *node) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return n.get(ctx, "/readyz") == http.StatusOK && n.get(ctx, n.site.guestPath()) == http.StatusOK
}

func (n *node) get(ctx context.Context, path string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.site.issuer+path, nil)
	if err != nil {
		return 0
	}
	resp, err := n.wire.RoundTrip(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// complaints are the lines of the log that no fault excuses.
func (n *node) complaints() ([]string, error) {
	log, err := os.ReadFile(n.log())
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.SplitSeq(string(log), "\n") {
		if strings.Contains(line, `"msg":"panic"`) || strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "fatal error:") || strings.HasPrefix(line, "panic:") {
			found = append(found, line)
		}
	}
	return found, nil
}

// until asks every few milliseconds until it is so, or the time is over.
func until(ctx context.Context, limit time.Duration, so func() bool) error {
	end := time.Now().Add(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", limit)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
