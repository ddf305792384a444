package storagetest

import (
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"sync"
	"testing"
)

// PgBouncer returns the URL of a fresh, empty database as [Postgres] does, and the
// one that leads to the same database through a PgBouncer in transaction mode, whose
// every transaction may run on another connection of the server. Its configuration
// is the plainest there is, so nothing rests on a setting that an operator would
// have to know of.
func PgBouncer(t testing.TB) (direct, pooled string) {
	t.Helper()
	direct = Postgres(t)
	bouncer.once.Do(func() { bouncer.addr, _, bouncer.err = startPgBouncer(server.addr) })
	needPgBouncer(t, bouncer.err)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = bouncer.addr
	return direct, u.String()
}

// PgBouncerTo starts such a PgBouncer for what listens at addr, and returns its own
// address. It ends with t.
func PgBouncerTo(t testing.TB, addr string) string {
	t.Helper()
	own, keep, err := startPgBouncer(addr)
	needPgBouncer(t, err)
	t.Cleanup(keep.end)
	return own
}

func needPgBouncer(t testing.TB, err error) {
	t.Helper()
	if err == errNoPgBouncer && !All() {
		t.Skip("LEFT OUT: this test needs PgBouncer, which is not installed here; on Debian: apt-get install pgbouncer (or: make test)")
	}
	if err != nil {
		t.Fatalf("PgBouncer for tests (Debian package pgbouncer): %v", err)
	}
}

var bouncer struct {
	once sync.Once
	addr string
	err  error
}

var errNoPgBouncer = fmt.Errorf("there is no pgbouncer in PATH or /usr/sbin")

// bouncerKeeper arguments: the program, its directory, and its port.
// It is ready when it says so: whatever answers at the port for a moment, a listener of
// another test or bash itself, is not it.
const bouncerKeeper = `
cd "$2" || exit 1
"$1" pgbouncer.ini >log 2>&1 &
pid=$!
n=0
until grep -qs "listening on 127.0.0.1:$3" log
do
	n=$((n+1))
	if [ $n = 200 ] || ! kill -0 $pid 2>/dev/null; then tail -n 20 log; echo failed; break; fi
	sleep 0.05
done
echo ready
cat >/dev/null
kill $pid; wait $pid
rm -rf "$2"
`

func startPgBouncer(server string) (addr string, keep *keeper, err error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			return "", nil, errNoPgBouncer
		}
	}
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
	host, serverPort, err := net.SplitHostPort(server)
	if err != nil {
		return "", nil, err
	}
	dir, err := privateDir("grantway-pgbouncer-", map[string]string{
		"users.txt": "\"postgres\" \"\"\n",
		"pgbouncer.ini": fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = trust
auth_file = users.txt
pool_mode = transaction
default_pool_size = 10
max_client_conn = 500
`, host, serverPort, port),
	})
	if err != nil {
		return "", nil, err
	}
	keep, err = keepRunning(bouncerKeeper, program, dir, port)
	return "127.0.0.1:" + port, keep, err
}
