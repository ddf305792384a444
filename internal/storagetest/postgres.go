// Package storagetest states the storage contracts of oauth and people as suites
// of tests that every engine runs, and starts the PostgreSQL server that they
// need.
package storagetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// All reports whether the whole suite was asked for (TEST_GRANTWAY_ALL=1, as
// "make test" sets it): then nothing may be left out, and the races run in full.
func All() bool { return os.Getenv("TEST_GRANTWAY_ALL") == "1" }

// Postgres returns the URL of a fresh, empty database on a real PostgreSQL server
// that this test process runs. The database is dropped after t has ended. Where
// PostgreSQL is not installed, t is skipped, saying what to install; if [All], it
// fails.
//
// The server syncs what it commits, as durability is among the promises, and its
// databases sort by language (en-US), which is the harder case.
func Postgres(t testing.TB) string {
	t.Helper()
	_, err := StartPostgres()
	needPostgres(t, err)
	server.mu.Lock()
	server.made++
	name := fmt.Sprintf("t%d", server.made)
	server.mu.Unlock()
	administer(t, "CREATE DATABASE "+name)
	t.Cleanup(func() { dropLater(t, name) })
	return server.url + name + "?sslmode=disable"
}

// StartPostgres starts that server, if this process has not yet, and returns its
// URL up to and with the slash before the database's name.
func StartPostgres() (string, error) {
	server.once.Do(func() {
		s, err := startPostgres(Setup{})
		if server.err = err; err == nil {
			server.url, server.addr = s.URL, s.Addr
		}
	})
	return server.url, server.err
}

var server struct {
	once sync.Once
	url  string // up to and with the slash before the database's name
	addr string
	err  error
	mu   sync.Mutex
	made int
	done []string // databases to drop
}

// dropLater drops databases many at a time: each drop is a checkpoint, which writes out
// what the tests beside it have changed meanwhile. The last ones go with their server.
func dropLater(t testing.TB, name string) {
	t.Helper()
	server.mu.Lock()
	defer server.mu.Unlock()
	if server.done = append(server.done, name); len(server.done) < 32 {
		return
	}
	var drops []string
	for _, name := range server.done {
		drops = append(drops, "DROP DATABASE "+name+" WITH (FORCE)")
	}
	server.done = nil
	administer(t, drops...)
}

var errNoPostgres = fmt.Errorf("initdb is neither in PATH nor under /usr/lib/postgresql")

func administer(t testing.TB, texts ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.url+"postgres?sslmode=disable")
	if err != nil {
		t.Fatalf("reaching PostgreSQL for tests: %v", err)
	}
	defer conn.Close(ctx)
	for _, sql := range texts {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func needPostgres(t testing.TB, err error) {
	t.Helper()
	if err == errNoPostgres && !All() {
		t.Skip("LEFT OUT: this test needs PostgreSQL, which is not installed here; on Debian: apt-get install postgresql (or: make test)")
	}
	if err != nil {
		t.Fatalf("PostgreSQL for tests (Debian package postgresql, 15 or later): %v", err)
	}
}

// Setup says how a server of one test differs from the one that all share.
type Setup struct {
	Options []string          // of postgres: name=value
	Files   map[string]string // written beside the data before it starts, readable to the server alone
	Standby *Server           // if not nil: it is a hot standby that follows this one
}

// Server is a PostgreSQL server that one test may stop, promote and reconfigure.
type Server struct {
	URL  string // up to and with the slash before the database's name
	Addr string // host:port
	Dir  string // of the Files; the data lies in data below
	bin  string
	keep *keeper
}

// StartServer starts a server that ends with t. If PostgreSQL is not installed it
// does what [Postgres] does.
func StartServer(t testing.TB, setup Setup) *Server {
	t.Helper()
	s, err := startPostgres(setup)
	needPostgres(t, err)
	t.Cleanup(s.keep.end)
	return s
}

// Control runs pg_ctl on the server's data and waits: "promote", "stop", "restart".
func (s *Server) Control(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, "pg_ctl"), append([]string{"-D", filepath.Join(s.Dir, "data"), "-l", filepath.Join(s.Dir, "log"), "-w"}, args...)...)
	attr, _, _, err := Unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr, cmd.Dir = attr, "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_ctl %v: %v\n%s", args, err, out)
	}
}

// postgresKeeper arguments: the directory of the programs, the one of the data, the
// port, the options of the server, and the port of the server to follow, if any.
const postgresKeeper = `
cd "$2" || exit 1
if [ -n "$5" ]
then "$1/pg_basebackup" -D "$2/data" -h 127.0.0.1 -p "$5" -U postgres -R -c fast --no-sync >"$2/log" 2>&1
else "$1/initdb" -D "$2/data" -U postgres -A trust -E UTF8 --no-sync --locale=C --locale-provider=icu --icu-locale=en-US >"$2/log" 2>&1
fi &&
"$1/pg_ctl" -D "$2/data" -w -t 60 -l "$2/log" -o "-p $3 -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 -c fsync=on -c synchronous_commit=on -c shared_buffers=64MB $4" start >>"$2/log" 2>&1 &&
echo ready || { tail -n 20 "$2/log"; echo failed; }
cat >/dev/null
"$1/pg_ctl" -D "$2/data" -m immediate -w stop >/dev/null 2>&1
rm -rf "$2"
`

func startPostgres(setup Setup) (*Server, error) {
	bin, err := PostgresBin()
	if err != nil {
		return nil, err
	}
	dir, err := privateDir("grantway-postgres-", setup.Files)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	options := ""
	for _, o := range setup.Options {
		options += " -c " + o
	}
	follow := ""
	if setup.Standby != nil {
		_, follow, _ = net.SplitHostPort(setup.Standby.Addr)
	}
	keep, err := keepRunning(postgresKeeper, bin, dir, port, options, follow)
	if err != nil {
		return nil, err
	}
	addr := "127.0.0.1:" + port
	return &Server{URL: "postgres://postgres@" + addr + "/", Addr: addr, Dir: dir, bin: bin, keep: keep}, nil
}

// PostgresBin finds the newest server installed. Debian keeps the programs of each
// version in a directory outside PATH.
func PostgresBin() (string, error) {
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

// FreeAddress is an address of this machine on which nobody listens, for a program that
// is told where to. It is none of those that the kernel gives to connections on their way
// out (net.ipv4.ip_local_port_range: 32768 and above): one of them could take it before
// the program does.
func FreeAddress() (address string, err error) {
	for range 100 {
		address = net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(22_768)))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", err
}

func freePort() (string, error) {
	address, err := FreeAddress()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(address)
	return port, err
}
