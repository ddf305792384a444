package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// cluster is three PostgreSQL servers under Patroni, whose agreement etcd keeps.
type cluster struct {
	etcd    *exec.Cmd
	members []*member
	running context.Context // of etcd and the members
	stop    context.CancelFunc
	frozen  bool // the leader will be, rather than killed

	old   *member // that was struck
	alone *node   // that knows only the server that was struck
}

// member is one server of the cluster, and the Patroni that runs it.
type member struct {
	name, dir     string
	address, rest string // of PostgreSQL, and of Patroni
	patroni       *exec.Cmd
	ended         chan struct{}
}

// patroniSettings is the configuration of a member. What all share is told to
// operators in docs/operating.md.
//
//go:embed patroni.yml
var patroniSettings string

const (
	clusterSize  = 3
	clusterStart = time.Minute
	clusterHeal  = 3 * time.Minute // copying the new leader's changes included
)

// layCluster makes a cluster whose leader will be killed, or frozen.
func layCluster(frozen bool) func(context.Context, string) (ground, error) {
	return func(ctx context.Context, dir string) (ground, error) { return newCluster(ctx, dir, frozen) }
}

func newCluster(ctx context.Context, dir string, frozen bool) (*cluster, error) {
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &cluster{running: running, stop: stop, frozen: frozen}
	if err := c.start(ctx, dir); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) start(ctx context.Context, dir string) error {
	bin, err := storagetest.PostgresBin()
	if err != nil {
		return err
	}
	client, err := storagetest.FreeAddress()
	if err != nil {
		return err
	}
	peer, err := storagetest.FreeAddress()
	if err != nil {
		return err
	}
	home := filepath.Join(dir, "etcd")
	if err := errors.Join(os.Mkdir(home, 0o700), giveToPostgres(home)); err != nil {
		return err
	}
	if c.etcd, err = asPostgres(c.running, "etcd", "--name", "etcd", "--data-dir", filepath.Join(home, "data"), "--logger", "zap",
		"--listen-client-urls", "http://"+client, "--advertise-client-urls", "http://"+client,
		"--listen-peer-urls", "http://"+peer, "--initial-advertise-peer-urls", "http://"+peer, "--initial-cluster", "etcd=http://"+peer); err != nil {
		return err
	}
	if err := startLogged(c.etcd, filepath.Join(dir, "etcd.log")); err != nil {
		return fmt.Errorf("etcd (Debian package etcd-server): %w", err)
	}
	for i := range clusterSize {
		m := &member{name: fmt.Sprintf("pg%d", i), dir: filepath.Join(dir, fmt.Sprintf("pg%d", i))}
		if m.address, err = storagetest.FreeAddress(); err != nil {
			return err
		}
		if m.rest, err = storagetest.FreeAddress(); err != nil {
			return err
		}
		if err := m.configure(bin, client); err != nil {
			return err
		}
		c.members = append(c.members, m)
		if err := m.run(c.running); err != nil {
			return err
		}
		// One after another, so that the first one founds the cluster.
		if i == 0 {
			if err := until(ctx, clusterStart, func() bool { return c.leader(ctx) == m }); err != nil {
				return fmt.Errorf("the cluster has no leader: %w", err)
			}
		}
	}
	if err := until(ctx, clusterStart, func() bool { return c.whole(ctx) }); err != nil {
		return fmt.Errorf("the cluster is not whole: %w", err)
	}
	return nil
}

func (m *member) configure(bin, etcd string) error {
	if err := errors.Join(os.Mkdir(m.dir, 0o700), giveToPostgres(m.dir)); err != nil {
		return err
	}
	t, err := template.New("patroni.yml").Parse(patroniSettings)
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := t.Execute(&text, map[string]string{"Name": m.name, "Etcd": etcd, "REST": m.rest, "Address": m.address, "Dir": m.dir, "Bin": bin}); err != nil {
		return err
	}
	file := filepath.Join(m.dir, "patroni.yml")
	return errors.Join(os.WriteFile(file, []byte(text.String()), 0o600), giveToPostgres(file))
}

// run starts Patroni, which starts the server.
func (m *member) run(ctx context.Context) (err error) {
	if m.patroni, err = asPostgres(ctx, "patroni", filepath.Join(m.dir, "patroni.yml")); err != nil {
		return err
	}
	// It ends its server before itself.
	m.patroni.SysProcAttr.Pdeathsig = syscall.SIGTERM
	m.patroni.Cancel = func() error { return m.patroni.Process.Signal(syscall.SIGTERM) }
	m.patroni.WaitDelay = clusterStart
	if err := startLogged(m.patroni, filepath.Join(m.dir, "patroni.log")); err != nil {
		return fmt.Errorf("patroni (Debian package patroni): %w", err)
	}
	m.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait() // how it ended is in its log
		close(ended)
	}(m.patroni, m.ended)
	return nil
}

// startLogged starts a program whose output goes to a file.
func startLogged(cmd *exec.Cmd, path string) error {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Start()
}

// database names every server.
func (c *cluster) database() string {
	var all []string
	for _, m := range c.members {
		all = append(all, m.address)
	}
	return "postgres://postgres@" + strings.Join(all, ",") + "/postgres?sslmode=disable&target_session_attrs=read-write"
}

func (m *member) url() string {
	return "postgres://postgres@" + m.address + "/postgres?sslmode=disable"
}

// says asks a member's Patroni.
func (m *member) says(ctx context.Context, path string) (status int, doc map[string]any) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.rest+path, nil)
	if err != nil {
		return 0, nil
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	if json.NewDecoder(resp.Body).Decode(&doc) != nil {
		return 0, nil
	}
	return resp.StatusCode, doc
}

// leader returns the member that takes writes, or nil.
func (c *cluster) leader(ctx context.Context) *member {
	for _, m := range c.members {
		if status, _ := m.says(ctx, "/primary"); status == http.StatusOK && writes(ctx, m.url()) {
			return m
		}
	}
	return nil
}

// whole reports whether there is a leader, and every other member follows it, one of
// them so closely that a commit waits for it.
func (c *cluster) whole(ctx context.Context) bool {
	followers, synchronous := 0, 0
	for _, m := range c.members {
		if status, _ := m.says(ctx, "/replica"); status == http.StatusOK {
			followers++
		}
		if status, _ := m.says(ctx, "/synchronous"); status == http.StatusOK {
			synchronous++
		}
	}
	return followers == clusterSize-1 && synchronous == 1 && c.leader(ctx) != nil
}

// processes lists the server's processes, the postmaster first.
func (m *member) processes() ([]int, error) {
	lock, err := os.ReadFile(filepath.Join(m.dir, "data", "postmaster.pid"))
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(lock), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return nil, err
	}
	children, err := childrenOf(pid)
	return append([]int{pid}, children...), err
}

// signal sends a signal to the member's server, and to its Patroni if both.
func (m *member) signal(sig syscall.Signal, both bool) error {
	all, err := m.processes()
	if err != nil {
		return err
	}
	if both {
		all = append([]int{m.patroni.Process.Pid}, all...)
	}
	for _, pid := range all {
		if e := syscall.Kill(pid, sig); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// strike takes the leader away under load and gives it back once another one leads.
// A fault ends when a server takes writes again, as asked by ourselves.
func (c *cluster) strike(ctx context.Context, s *site, rng *rand.Rand) (mended time.Time, err error) {
	if c.old = c.leader(ctx); c.old == nil {
		return mended, errors.New("the cluster has no leader")
	}
	wait(ctx, between(rng, 0, time.Second))
	alone, err := newNode(s, len(s.nodes))
	if err != nil {
		return mended, err
	}
	alone.flags = []string{"--database", c.old.url()}
	running, stop := context.WithCancel(c.running)
	alone.stop = stop
	c.alone = alone
	go alone.supervise(running)
	if err := until(ctx, startWithin, func() bool { return alone.ready(ctx) }); err != nil {
		return mended, fmt.Errorf("a node on the leader alone: %w", err)
	}
	return c.failOver(ctx, s)
}

// failOver kills the leader and its Patroni, as when a machine dies, or stops both.
func (c *cluster) failOver(ctx context.Context, s *site) (mended time.Time, err error) {
	sig := syscall.SIGKILL
	if c.frozen {
		sig = syscall.SIGSTOP
	}
	struck := time.Now()
	if err := c.old.signal(sig, true); err != nil {
		return mended, err
	}
	if err := until(ctx, clusterStart, func() bool {
		return slices.ContainsFunc(c.members, func(m *member) bool { return m != c.old && writes(ctx, m.url()) })
	}); err != nil {
		return mended, fmt.Errorf("nobody took over: %w", err)
	}
	mended = time.Now()
	s.ledger.failover = mended.Sub(struck)
	return mended, nil
}

// heal gives the old leader back, under load. It must end as a standby, and the node
// that knows no other server must not be ready then. One that was frozen is ended
// first, as its watchdog would have: Patroni 3.0 without one, thawed, took the lock
// back from its successor (seen).
func (c *cluster) heal(ctx context.Context, s *site) error {
	defer func() { c.alone.stop(); <-c.alone.done }()
	if c.frozen {
		if err := c.old.signal(syscall.SIGKILL, true); err != nil {
			return err
		}
	}
	<-c.old.ended
	if err := c.old.run(c.running); err != nil {
		return err
	}
	if err := until(ctx, clusterHeal, func() bool { return c.whole(ctx) }); err != nil {
		said, _ := os.ReadFile(filepath.Join(c.old.dir, "patroni.log"))
		return fmt.Errorf("the old leader does not follow the new one: %w\n%s", err, said[max(0, len(said)-4000):])
	}
	if status := c.alone.get(ctx, "/readyz"); status != http.StatusServiceUnavailable {
		s.ledger.violation("the server of a node is a standby, and it says that it is ready: %d", status)
	}
	return nil
}

func (c *cluster) close() (err error) {
	var left []chan struct{}
	for _, m := range c.members { // first these, or they would start their servers again
		if m.ended != nil {
			if e := m.patroni.Process.Kill(); e != nil && !errors.Is(e, os.ErrProcessDone) {
				err = errors.Join(err, e)
			}
			left = append(left, m.ended)
		}
	}
	for _, ended := range left {
		<-ended
	}
	for _, m := range c.members {
		if e := m.signal(syscall.SIGKILL, false); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	c.stop()
	if c.etcd != nil && c.etcd.Process != nil {
		c.etcd.Wait() // it was ended
	}
	return err
}
