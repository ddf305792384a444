package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/storagetest"
)

// server is a PostgreSQL server of one round, under a supervisor that starts it
// again whenever it ends, as its service would be.
type server struct {
	bin, dir   string
	host, port string
	network    *network // nil: ours

	mu      sync.Mutex
	process *os.Process
	ended   chan struct{}
	stop    context.CancelFunc
	done    chan struct{}
}

// startServer makes a server in dir and starts it. It listens on host only.
func startServer(ctx context.Context, dir, host string, n *network) (*server, error) {
	return makeServer(ctx, dir, host, n, nil)
}

// makeServer makes an empty server, or a standby that follows another one.
func makeServer(ctx context.Context, dir, host string, n *network, from *server) (*server, error) {
	bin, err := storagetest.PostgresBin()
	if err != nil {
		return nil, err
	}
	address, err := storagetest.FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{bin: bin, dir: dir, host: host, port: address[len("127.0.0.1:"):], network: n, done: make(chan struct{})}
	if err := giveToPostgres(dir); err != nil {
		return nil, err
	}
	if from != nil {
		copied, err := asPostgres(ctx, filepath.Join(bin, "pg_basebackup"), "-h", from.host, "-p", from.port, "-U", "postgres", "-D", s.data(),
			"-R", "-X", "stream", "-c", "fast", "--no-sync")
		if err != nil {
			return nil, err
		}
		if out, err := copied.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("pg_basebackup: %w\n%s", err, out)
		}
		return s, s.launch(ctx, s.stands)
	}
	init, err := asPostgres(ctx, filepath.Join(bin, "initdb"), "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
		"--wal-segsize=1", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US")
	if err != nil {
		return nil, err
	}
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := s.trust(); err != nil {
		return nil, err
	}
	return s, s.launch(ctx, func(ctx context.Context) bool { return writes(ctx, s.url()) })
}

// launch starts the server and waits until it is so.
func (s *server) launch(ctx context.Context, so func(context.Context) bool) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	if err := s.begin(running); err != nil {
		stop()
		return err
	}
	go s.supervise(running)
	if err := until(ctx, startWithin, func() bool { return so(ctx) }); err != nil {
		said, _ := os.ReadFile(s.log())
		return errors.Join(fmt.Errorf("PostgreSQL did not start: %w\n%s", err, said), s.close())
	}
	return nil
}

// stands reports whether the server answers as a standby.
func (s *server) stands(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url())
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	var standby bool
	return conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby) == nil && standby
}

// do runs statements, each by itself.
func (s *server) do(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.url())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, q := range statements {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

// trust lets everybody in who reaches the server: it listens on loopback, or in a
// network of its own.
func (s *server) trust() error {
	return os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte("host all all all trust\nhost replication all all trust\n"), 0o600)
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }
func (s *server) log() string  { return filepath.Join(s.dir, "postgres.log") }

func (s *server) url() string {
	return "postgres://postgres@" + s.host + ":" + s.port + "/postgres?sslmode=disable"
}

// settings are those that operators are told of (docs/operating.md), and what makes
// a small server of a test.
func (s *server) settings() (args []string) {
	for _, set := range []string{
		"port=" + s.port, "listen_addresses=" + s.host, "unix_socket_directories=", "max_connections=100", "shared_buffers=32MB",
		"fsync=on", "synchronous_commit=on", "min_wal_size=2MB", "max_wal_size=16MB",
		"tcp_keepalives_idle=5", "tcp_keepalives_interval=2", "tcp_keepalives_count=3",
	} {
		args = append(args, "-c", set)
	}
	return args
}

func (s *server) begin(ctx context.Context) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := asPostgres(ctx, filepath.Join(s.bin, "postgres"), append([]string{"-D", s.data()}, s.settings()...)...)
	if err != nil {
		return err
	}
	if s.network != nil {
		s.network.enter(cmd)
	}
	cmd.Stdout, cmd.Stderr = log, log
	ended := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process, s.ended = cmd.Process, ended
	go func() {
		cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	return nil
}

func (s *server) supervise(ctx context.Context) {
	defer close(s.done)
	for {
		s.mu.Lock()
		ended := s.ended
		s.mu.Unlock()
		<-ended
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartAfter):
		}
		if s.begin(ctx) != nil {
			return // ctx has ended
		}
	}
}

// answers waits until the server takes writes.
func (s *server) answers(ctx context.Context, limit time.Duration) error {
	return until(ctx, limit, func() bool { return writes(ctx, s.url()) })
}

// writes reports whether the server that url leads to takes writes at this moment.
func writes(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return false
	}
	defer conn.Close(ctx)
	var standby bool
	return conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby) == nil && !standby
}

// signal sends a signal to the postmaster alone.
func (s *server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// children lists the processes of the postmaster.
func (s *server) children() ([]int, error) {
	s.mu.Lock()
	parent := s.process.Pid
	s.mu.Unlock()
	return childrenOf(parent)
}

func (s *server) close() error {
	s.stop()
	<-s.done
	return nil
}

// asPostgres returns a command that runs as the user postgres if we are root,
// because PostgreSQL refuses root, and that is killed when ctx or this program ends.
// A postmaster is ended with SIGQUIT, for it takes its children along then.
func asPostgres(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	attr, _, _, err := storagetest.Unprivileged()
	if err != nil {
		return nil, err
	}
	attr.Setsid, attr.Pdeathsig = true, syscall.SIGQUIT
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.SysProcAttr = "/", attr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) }
	cmd.WaitDelay = startWithin
	return cmd, nil
}

func giveToPostgres(dir string) error {
	_, uid, gid, err := storagetest.Unprivileged()
	if err != nil {
		return err
	}
	return os.Chown(dir, uid, gid)
}

// childrenOf lists the processes whose parent is this one.
func childrenOf(parent int) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var pid, above int
		var state string
		// The name of the program stands in parentheses and may hold anything.
		rest := stat[bytes.LastIndexByte(stat, 0x29)+1:] // ")"
		if _, err := fmt.Sscan(string(rest), &state, &above); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if pid, err = strconv.Atoi(filepath.Base(filepath.Dir(name))); err != nil {
			return nil, err
		}
		if above == parent && state != "Z" {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isThere says whether a process runs: one that ended and that nobody has asked about
// does not.
func isThere(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.HasPrefix(stat[bytes.LastIndexByte(stat, 0x29)+1:], []byte(" Z"))
}
