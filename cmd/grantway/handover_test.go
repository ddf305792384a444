package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A single node restarted under load by socket hand-over: no request fails, on busy
// connections and on those that are idle for a while, and nothing acknowledged is
// lost (docs/operating.md, Restart without closing the port).
func TestHandOver_UnderLoad(t *testing.T) {
	slow(t)
	t.Parallel()
	const restarts, busy, slow = 5, 8, 8
	s := newSite(t)
	p := s.serve("--shutdown-grace", "4s")
	var app clientDoc
	s.run("", &app, "client", "add", "--name", "Style Finder", "--profile", "direct")
	var api credentials
	s.run("", &api, "api", "secret")
	basic := map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(api.ClientID)+":"+api.ClientSecret))}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var failed atomic.Int64
	var load sync.WaitGroup
	shoppers := make([]*shopper, busy+slow)
	var came sync.WaitGroup // each of them has been there once before the first restart
	for i := range shoppers {
		one := &shopper{line: line{address: strings.TrimPrefix(p.url, "http://")}, app: app.ClientID, basic: basic}
		shoppers[i] = one
		pause := func() {}
		if i >= busy { // its connection is idle most of the time
			tick := time.NewTicker(time.Duration(50+20*i) * time.Millisecond)
			t.Cleanup(tick.Stop)
			pause = func() { <-tick.C }
		}
		came.Add(1)
		once := sync.OnceFunc(came.Done)
		load.Go(func() {
			defer once()
			for ; ctx.Err() == nil; once() {
				if err := one.visit(pause); err != nil {
					failed.Add(1)
					t.Errorf("shopper %d, after %d answers: %v", i, one.answered, err)
					one.hangUp()
					return
				}
			}
		})
	}
	came.Wait()
	for n := range restarts {
		if err := p.handOver(); err != nil {
			t.Fatalf("restart %d: %v", n+1, err)
		}
	}
	if err := until(20*time.Second, func() bool { return p.logged("stopped") == restarts }); err != nil {
		t.Errorf("%d of %d processes stopped: %v", p.logged("stopped"), restarts, err)
	}
	stop()
	load.Wait()
	answered, dialled, slowest := 0, 0, time.Duration(0)
	for i, one := range shoppers {
		answered, dialled, slowest = answered+one.answered, dialled+one.dialled, max(slowest, one.slowest)
		for _, key := range one.keys {
			if err := one.alive(key); err != nil {
				t.Errorf("shopper %d: an acknowledged key: %v", i, err)
			}
		}
		if one.refresh != "" {
			if _, err := one.renew(); err != nil {
				t.Errorf("shopper %d: the last acknowledged refresh token: %v", i, err)
			}
		}
		if len(one.codes) == 0 {
			t.Errorf("shopper %d got no key", i)
			continue
		}
		if a, err := one.redeem(one.codes[0]); err != nil || a.status == http.StatusOK {
			t.Errorf("shopper %d: a used code: %v %d", i, err, a.status)
		}
		one.hangUp()
	}
	t.Logf("%d restarts, %d requests on %d connections, the slowest took %v, %d shoppers met a failure", restarts, answered, dialled, slowest, failed.Load())
	if p.logged("panic") > 0 || p.logged("not handed over: this process serves on") > 0 || strings.Contains(p.said(), `"level":"ERROR"`) {
		t.Error(p.said())
	}
}

// handOver tells the process that serves to hand over, and waits until it did.
func (p *process) handOver() error {
	if p.pid == 0 {
		p.pid = p.cmd.Process.Pid
	}
	before := p.logged("handed over")
	if err := syscall.Kill(p.pid, syscall.SIGUSR2); err != nil {
		return err
	}
	if err := until(20*time.Second, func() bool { return p.logged("handed over") > before }); err != nil {
		return fmt.Errorf("%w\n%s", err, p.said())
	}
	var entry struct{ Successor int }
	for text := range strings.Lines(p.said()) {
		if strings.Contains(text, `"msg":"handed over"`) {
			if err := json.Unmarshal([]byte(text), &entry); err != nil {
				return err
			}
		}
	}
	if entry.Successor == 0 {
		return errors.New("the successor is not named")
	}
	p.pid = entry.Successor
	return nil
}

func (p *process) said() string {
	log, _ := os.ReadFile(p.log)
	return string(log)
}

// logged counts the log's entries of one message.
func (p *process) logged(message string) int {
	return strings.Count(p.said(), `"msg":"`+message+`"`)
}

// A successor that cannot serve changes nothing: not with a broken configuration,
// not with a program that fails or is not there. A file that was replaced is the
// program taken, and the sockets keep their addresses.
func TestHandOver_BrokenSuccessor(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--shutdown-grace", "1s", "--metrics-listen", "127.0.0.1:0")
	config := filepath.Join(s.dir, "config.yaml")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(s.dir, "bin", "grantway") // found before the real one
	real, err := exec.LookPath("grantway")
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file+".new", []byte(text), mode), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	const refused = "not handed over: this process serves on"
	refuses := func(what, why string) {
		t.Helper()
		before := p.logged(refused)
		if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		if err := until(10*time.Second, func() bool { return p.logged(refused) > before }); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, p.said())
		}
		if !strings.Contains(p.said(), why) {
			t.Errorf("%s: the log lacks %q:\n%s", what, why, p.said())
		}
		if status, text := p.get("/readyz"); status != http.StatusOK {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	write(config, string(good)+"\nnonsense: 1\n", 0o600)
	refuses("a broken configuration", "nonsense")
	write(config, string(good), 0o600)
	write(program, "#!/bin/sh\nexit 3\n", 0o700)
	refuses("a program that fails", "it ended before it was ready: exit status 3")
	write(program, "no program at all", 0o700)
	refuses("a file that is no program", "exec format error")

	write(program, "#!/bin/sh\ntouch taken\nexec "+real+" \"$@\"\n", 0o700)
	metrics := regexp.MustCompile(`"msg":"metrics","listen":"([^"]+)"`).FindStringSubmatch(p.said())[1]
	if err := p.handOver(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		p.exited <- err
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the process did not end after it handed over")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "taken")); err != nil {
		t.Error("the replaced file was not the one taken:", err)
	}
	if status, text := p.get("/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	if a, err := send("GET", "http://"+metrics+"/metrics", nil, ""); err != nil || a.status != http.StatusOK {
		t.Errorf("metrics: %v %d", err, a.status)
	}
}

// While a successor makes itself ready, this process serves; one that takes too
// long is ended, and so is one whose predecessor is told to stop.
func TestHandOver_SlowSuccessor(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"too long", "told to stop"} {
		s, err := inherit([]string{"PATH=" + os.Getenv("PATH")})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.listen("listen", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pidFile := filepath.Join(t.TempDir(), "pid")
		started := func() string { // the successor's process, once it has said so
			pid, _ := os.ReadFile(pidFile)
			return strings.TrimSpace(string(pid))
		}
		try := func(ctx context.Context, patience time.Duration) {
			t.Helper()
			if _, err := s.handOver(ctx, "sh", []string{"-c", "echo $$ >" + pidFile + "; exec sleep 100"}, patience); err == nil {
				t.Errorf("%s: handed over to a program that never was ready", name)
			}
		}
		if name == "too long" {
			for patience := 50 * time.Millisecond; started() == "" && patience < time.Minute; patience *= 2 { // or it had not begun
				try(t.Context(), patience)
			}
		} else {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				defer cancel()
				until(20*time.Second, func() bool { return started() != "" })
			}()
			try(ctx, time.Minute)
		}
		pid := started()
		if pid == "" {
			t.Fatalf("%s: the successor never began", name)
		}
		if _, err := os.Stat("/proc/" + pid); !os.IsNotExist(err) {
			t.Errorf("%s: the successor is still there: %v", name, err)
		}
		// The listener works as before, and a waiting Accept ends when it is closed.
		accepted := make(chan error, 2)
		go func() {
			for {
				conn, err := l.Accept()
				accepted <- err
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := <-accepted; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		go l.Close() // it waits for Accept
		select {
		case err := <-accepted:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: Accept hangs on a closed listener", name)
		}
	}
}

// systemd's protocols: the socket comes from it, and it is told when the server is
// ready and which process is the service's after a hand-over.
func TestHandOver_Systemd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inbox, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(s.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer inbox.Close()
	heard := func() string {
		t.Helper()
		inbox.SetReadDeadline(time.Now().Add(20 * time.Second))
		message := make([]byte, 200)
		n, err := inbox.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		return string(message[:n])
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := duplicate(socket{"listen", l})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	start := func(name, address string) (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		// Only the process itself knows the pid that systemd writes into LISTEN_PID.
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec grantway serve --config config.yaml --shutdown-grace 1s --listen `+address)
		cmd.Dir = s.dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LISTEN_FDS=1", "LISTEN_FDNAMES=" + name, "NOTIFY_SOCKET=" + filepath.Join(s.dir, "notify")}
		cmd.ExtraFiles = []*os.File{socket}
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &said
	}
	address := l.Addr().String()
	for _, wrong := range []struct{ name, address, says string }{
		{"grantway.socket", address, "a socket called grantway.socket was handed to this process, for systemd's say FileDescriptorName=listen"},
		{"listen", "127.0.0.1:1", "systemd's socket listen listens on " + address + ", but the setting says 127.0.0.1:1: make them equal"},
		{"listen:more", address, "LISTEN_FDS=1 and LISTEN_FDNAMES=listen:more do not fit"},
	} {
		cmd, said := start(wrong.name, wrong.address)
		if err := cmd.Wait(); err == nil || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), wrong.says) {
			t.Errorf("%s at %s: %v %s", wrong.name, wrong.address, err, said)
		}
	}
	cmd, said := start("listen", address)
	if m := heard(); m != "READY=1" {
		t.Errorf("first %q", m)
	}
	if a, err := send("GET", "http://"+address+"/readyz", nil, ""); err != nil || a.status != http.StatusOK {
		t.Errorf("%v %d", err, a.status)
	}
	reload := exec.Command("sh", "-c", paper(t, `ExecReload=(.+)`))
	reload.Env = []string{fmt.Sprint("MAINPID=", cmd.Process.Pid)}
	if out, err := reload.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	var successor int
	if _, err := fmt.Sscanf(heard(), "MAINPID=%d", &successor); err != nil || successor == cmd.Process.Pid {
		t.Errorf("after the hand-over: %d, %v", successor, err)
	}
	if err := syscall.Kill(successor, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil { // when both have closed the standard error that they share
		t.Errorf("%v\n%s", err, said)
	}
}

// A node whose database has lost events is not ready and says so, and so is the one that
// it hands over to, which has never read them; until a new epoch is begun.
func TestHandOver_TheDatabaseHasLostEvents(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	p := k.start()
	kept, revoked := k.issue(p), k.issue(p)
	k.run("", nil, "grant", "revoke", revoked.grant)
	k.alive(p, "revoked", revoked, false)
	db := past(t, filepath.Join(k.dir, "grantway.db"))
	defer db.Close()
	_, err := db.Exec("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE; DELETE FROM events WHERE seq = (SELECT seq FROM heads WHERE name = 'feed'); UPDATE heads SET seq = seq - 1 WHERE name = 'feed'; COMMIT")
	if err != nil {
		t.Fatal(err)
	}
	missed := func(who string) {
		t.Helper()
		var status int
		var said string
		if err := until(20*time.Second, func() bool { status, said = p.get("/readyz"); return status == http.StatusServiceUnavailable }); err != nil || said != "database: it has lost events\n" {
			t.Errorf("%s is ready: %v %d %s", who, err, status, said)
		}
		a, err := send("POST", p.url+"/oauth/introspect", k.basic, url.Values{"token": {kept.access}}.Encode())
		if err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("%s answers: %v %d %s", who, err, a.status, a.body)
		}
	}
	missed("the node")
	for n, who := range []string{"its successor", "the successor of that"} {
		if err := p.handOver(); err != nil {
			t.Fatal(err)
		}
		if err := until(20*time.Second, func() bool { return p.logged("stopped") == n+1 }); err != nil {
			t.Fatal(err)
		}
		missed(who)
	}
	k.run("", nil, "new-epoch", "--yes")
	if err := until(20*time.Second, func() bool { status, _ := p.get("/readyz"); return status == http.StatusOK }); err != nil {
		t.Fatal(err)
	}
	k.alive(p, "kept", kept, true)
	k.alive(p, "revoked", revoked, false)
}

// A connection that was idle for long when the process hands over is answered once more:
// whoever is told that the newer ones are closed writes to it next.
func TestHandOver_KeepsIdleConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const grace = 10 * time.Second // so the question has nine
	p := s.serve("--shutdown-grace", grace.String())
	l := line{address: strings.TrimPrefix(p.url, "http://")}
	if a, err := l.ask("GET", "/healthz", nil, ""); err != nil || a.status != http.StatusOK || l.conn == nil {
		t.Fatalf("%v %d", err, a.status)
	}
	idle := time.Now()
	if err := until(time.Minute, func() bool { return time.Since(idle) > grace }); err != nil {
		t.Fatal(err)
	}
	if err := p.handOver(); err != nil {
		t.Fatal(err)
	}
	if a, err := l.ask("GET", "/healthz", nil, ""); err != nil || a.status != http.StatusOK || l.conn != nil || l.dialled != 1 {
		t.Errorf("on an idle connection: %v %d, %d dialled", err, a.status, l.dialled)
	}
	if err := until(20*time.Second, func() bool { return p.logged("stopped") == 1 }); err != nil {
		t.Error("the process did not end:", err)
	}
}

// paper returns what docs/operating.md tells the operator.
func paper(t *testing.T, pattern string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		t.Fatalf("docs/operating.md lacks %s", pattern)
	}
	return string(m[1])
}

// SIGTERM: a connection that was idle is answered once more, and told that it was
// the last time; one that stays idle is closed before the grace is over.
func TestServe_DrainKeepsIdleConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--shutdown-grace", "50s") // so readiness fails for 5 s
	lines := make([]line, 2)
	for i := range lines {
		lines[i].address = strings.TrimPrefix(p.url, "http://")
		if a, err := lines[i].ask("GET", "/healthz", nil, ""); err != nil || a.status != http.StatusOK || lines[i].conn == nil {
			t.Fatalf("%v %d", err, a.status)
		}
	}
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := until(20*time.Second, func() bool { status, _ := p.get("/readyz"); return status == http.StatusServiceUnavailable }); err != nil {
		t.Fatal(err)
	}
	a, err := lines[0].post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"nobody"}}, nil)
	if err != nil || a.status != http.StatusUnauthorized {
		t.Errorf("on an idle connection: %v %d", err, a.status)
	}
	if lines[0].conn != nil {
		t.Error("the answer did not say that the connection is closed")
	}
	lines[1].conn.SetReadDeadline(time.Now().Add(40 * time.Second))
	if _, err := lines[1].r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the idle connection: %v", err)
	}
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("closed %v after the signal: a client may have been writing to it", took)
	}
	select {
	case err := <-p.exited:
		p.once.Do(func() {})
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the process did not end")
	}
}
