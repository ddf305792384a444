package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a server under measurement, in a process of its own.
type process struct {
	cmd   *exec.Cmd
	addr  string
	ready time.Duration // from its start to the first answer 200 of its probe
	ended chan error
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// start runs a program that prints "… listening on ADDRESS …" when it does, with
// its standard error in the file log, and waits until it answers probe with 200.
func start(log, probe, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), ended: make(chan error, 1)}
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	p.cmd.Stderr = stderr
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	// Should this program be killed, so is what it started.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { p.ended <- p.cmd.Wait() }()
	_, rest, found := strings.Cut(line, "listening on ")
	p.addr, _, _ = strings.Cut(rest, " ")
	if err != nil || !found {
		p.cmd.Process.Kill()
		said, _ := os.ReadFile(log)
		return nil, fmt.Errorf("%s said %q instead of where it listens (%v)\n%s", filepath.Base(program), line, err, said)
	}
	for {
		resp, err := http.Get("http://" + p.addr + probe)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				p.ready = time.Since(began)
				return p, nil
			}
			err = errors.New(resp.Status)
		}
		if time.Since(began) > 30*time.Second {
			p.stop()
			return nil, fmt.Errorf("%s does not become ready: %w", filepath.Base(program), err)
		}
		time.Sleep(time.Millisecond)
	}
}

// stop ends the process as an operator would, and waits for it.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		return err
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		return errors.New("it did not stop within a minute of SIGTERM")
	}
}

// build compiles our server and the floor into dir.
func build(ctx context.Context, dir string) (server, floor string, err error) {
	server, floor = filepath.Join(dir, "grantway"), filepath.Join(dir, "floor")
	for program, source := range map[string]string{server: "cmd/grantway", floor: "internal/bench/floor"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/grantway/grantway/"+source)
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("building %s: %w\n%s", source, err, said)
		}
	}
	return server, floor, nil
}
