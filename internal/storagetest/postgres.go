// Package storagetest states the storage contracts of oauth and people as suites
// of tests that every engine runs, and starts the PostgreSQL server that they
// need.
package storagetest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// All reports whether the whole suite was asked for (TEST_GRANTWAY_ALL=1, as
// "make test" sets it): then nothing may be left out, and the races run in full.
func All() bool { return os.Getenv("TEST_GRANTWAY_ALL") == "1" }

// Postgres returns the URL of a fresh, empty database on a real PostgreSQL server
// that this test process runs. The database is dropped when t ends. Where
// PostgreSQL is not installed, t is skipped, saying what to install; if [All], it
// fails.
//
// The server syncs what it commits, as durability is among the promises, and its
// databases sort by language (en-US), which is the harder case.
func Postgres(t testing.TB) string {
	t.Helper()
	server.once.Do(func() { server.url, server.err = startPostgres() })
	if server.err == errNoPostgres && !All() {
		t.Skip("LEFT OUT: this test needs PostgreSQL, which is not installed here; on Debian: apt-get install postgresql (or: make test)")
	}
	if server.err != nil {
		t.Fatalf("PostgreSQL for tests (Debian package postgresql, 15 or later): %v", server.err)
	}
	server.mu.Lock()
	server.made++
	name := fmt.Sprintf("t%d", server.made)
	server.mu.Unlock()
	administer(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { administer(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return server.url + name + "?sslmode=disable"
}

var server struct {
	once   sync.Once
	url    string // up to and with the slash before the database's name
	err    error
	keeper *exec.Cmd // referred to for ever, so that its pipes are never finalised
	mu     sync.Mutex
	made   int
}

var errNoPostgres = fmt.Errorf("initdb is neither in PATH nor under /usr/lib/postgresql")

func administer(t testing.TB, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.url+"postgres?sslmode=disable")
	if err != nil {
		t.Fatalf("reaching PostgreSQL for tests: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// keeper runs the server for as long as its standard input stays open. The other
// end of that pipe is held by the test process alone, so the server stops and its
// files go however that process ends: by returning, a panic, a time-out or
// kill -9. It is a session of its own, so that what is typed at the terminal does
// not end it before it has cleaned up.
//
// Arguments: the directory of the programs, the one of the data, the port.
const keeper = `
cd "$2" || exit 1
"$1/initdb" -D "$2/data" -U postgres -A trust -E UTF8 --no-sync --locale=C --locale-provider=icu --icu-locale=en-US >"$2/log" 2>&1 &&
"$1/pg_ctl" -D "$2/data" -w -t 60 -l "$2/log" -o "-p $3 -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c fsync=on -c synchronous_commit=on -c shared_buffers=64MB" start >>"$2/log" 2>&1 &&
echo ready || { tail -n 20 "$2/log"; echo failed; }
cat >/dev/null
"$1/pg_ctl" -D "$2/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$2"
`

func startPostgres() (string, error) {
	bin, err := postgresBin()
	if err != nil {
		return "", err
	}
	// initdb refuses to run as root.
	attr := &syscall.SysProcAttr{Setsid: true}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			return "", fmt.Errorf("tests run as root, so PostgreSQL must run as the user postgres: %w", err)
		}
		uid, _ = strconv.Atoi(owner.Uid)
		gid, _ = strconv.Atoi(owner.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	dir, err := os.MkdirTemp("", "grantway-postgres-")
	if err != nil {
		return "", err
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		return "", err
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/sh", "-c", keeper, "sh", bin, dir, port)
	cmd.SysProcAttr = attr
	cmd.Dir = "/"
	// Held open until the process ends; close-on-exec, so no other child has it.
	if _, err := cmd.StdinPipe(); err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch lines.Text() {
		case "ready":
			server.keeper = cmd
			return "postgres://postgres@127.0.0.1:" + port + "/", nil
		case "failed":
			return "", fmt.Errorf("it did not start:\n%s", strings.Join(said, "\n"))
		}
		said = append(said, lines.Text())
	}
	return "", fmt.Errorf("its keeper ended: %s", strings.Join(said, "\n"))
}

// postgresBin finds the newest server installed. Debian keeps the programs of each
// version in a directory outside PATH.
func postgresBin() (string, error) {
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errNoPostgres
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
