package storagetest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// keeper runs a server for as long as its standard input stays open. The other end
// of that pipe is held by the test process alone, so the server stops and its files
// go however that process ends: by returning, a panic, a time-out or kill -9. It is
// a session of its own, so that what is typed at the terminal does not end it before
// it has cleaned up.
type keeper struct {
	cmd  *exec.Cmd
	open io.Closer
}

// kept refers for ever to every keeper that was started, so that its pipes are never
// finalised.
var kept sync.Map

// keepRunning runs a shell script that starts a server, prints "ready" or what went
// wrong and "failed", waits for the end of its standard input, and cleans up.
func keepRunning(script string, args ...string) (*keeper, error) {
	attr, _, _, err := Unprivileged()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/bash", append([]string{"-c", script, "sh"}, args...)...)
	attr.Setsid = true
	cmd.SysProcAttr, cmd.Dir = attr, "/"
	// Held open until the process ends; close-on-exec, so no other child has it.
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k := &keeper{cmd, in}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch lines.Text() {
		case "ready":
			kept.Store(k, true)
			return k, nil
		case "failed":
			k.end()
			return nil, fmt.Errorf("it did not start:\n%s", strings.Join(said, "\n"))
		}
		said = append(said, lines.Text())
	}
	k.end()
	return nil, fmt.Errorf("its keeper ended: %s", strings.Join(said, "\n"))
}

// end stops the server and waits until its files are gone.
func (k *keeper) end() {
	k.open.Close()
	k.cmd.Wait()
	kept.Delete(k)
}

// Unprivileged is how a server is run: PostgreSQL and PgBouncer refuse to run as
// root, so there it is the user postgres, whom Debian's packages make.
func Unprivileged() (attr *syscall.SysProcAttr, uid, gid int, err error) {
	attr = &syscall.SysProcAttr{}
	uid, gid = os.Getuid(), os.Getgid()
	if uid == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			return nil, 0, 0, fmt.Errorf("tests run as root, so PostgreSQL must run as the user postgres: %w", err)
		}
		uid, _ = strconv.Atoi(owner.Uid)
		gid, _ = strconv.Atoi(owner.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return attr, uid, gid, nil
}

// privateDir makes a directory of the user that runs servers, with these files.
func privateDir(pattern string, files map[string]string) (string, error) {
	_, uid, gid, err := Unprivileged()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return "", err
		}
	}
	return dir, os.Chown(dir, uid, gid)
}

// Strace returns the path of strace. Where it is not installed t is skipped, saying
// what to install; if [All], it fails.
func Strace(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err == nil {
		return path
	}
	if All() {
		t.Fatal("strace is missing: install Debian's package strace")
	}
	t.Skip("LEFT OUT: this test needs strace, which is not installed here; on Debian: apt-get install strace (or: make test)")
	return ""
}
