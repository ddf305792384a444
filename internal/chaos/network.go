package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// network is a network namespace with one cable to ours. A process holds it open;
// with that process it goes, and the cable with it.
type network struct {
	holder *exec.Cmd
	cable  string // its end there; here it is called the same with an h
	host   string // the address there
}

const farEnd = "02:00:00:00:00:02" // the hardware address there

// newNetwork needs root, and the programs of iproute2 and util-linux.
func newNetwork(ctx context.Context, rng *rand.Rand) (*network, error) {
	n := &network{holder: exec.Command("unshare", "--net", "sleep", "infinity")}
	n.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.holder.Start(); err != nil {
		return nil, fmt.Errorf("making a network, which needs root: %w", err)
	}
	pid := strconv.Itoa(n.holder.Process.Pid)
	// Addresses for tests of networks (RFC 2544, appendix C.2.2).
	prefix := fmt.Sprintf("198.%d.%d.", 18+rng.IntN(2), rng.IntN(256))
	n.cable, n.host = "gw"+pid, prefix+"2"
	// The namespace is there once unshare has become the other program.
	comm := "/proc/" + pid + "/comm"
	if err := until(ctx, startWithin, func() bool { name, err := os.ReadFile(comm); return err == nil && string(name) == "sleep\n" }); err != nil {
		return nil, errors.Join(err, n.close())
	}
	err := run(ctx, "ip", "link", "add", n.cable+"h", "type", "veth", "peer", "name", n.cable, "address", farEnd, "netns", pid)
	for _, step := range [][]string{
		{"ip", "addr", "add", prefix + "1/30", "dev", n.cable + "h"},
		{"ip", "link", "set", n.cable + "h", "up"},
		// Known for good: the kernel would ask for it once a second, and the fault would
		// last for up to a second after its end.
		{"ip", "neigh", "replace", n.host, "lladdr", farEnd, "dev", n.cable + "h", "nud", "permanent"},
	} {
		if err == nil {
			err = run(ctx, step...)
		}
	}
	for _, step := range [][]string{
		{"ip", "addr", "add", n.host + "/30", "dev", n.cable},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "set", n.cable, "up"},
	} {
		if err == nil {
			err = n.inside(ctx, step...)
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func run(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

func (n *network) nsenter() []string {
	return []string{"nsenter", "--net=/proc/" + strconv.Itoa(n.holder.Process.Pid) + "/ns/net"}
}

func (n *network) inside(ctx context.Context, args ...string) error {
	return run(ctx, append(n.nsenter(), args...)...)
}

// enter makes cmd run there, as whoever it was to run as: only root may enter.
func (n *network) enter(cmd *exec.Cmd) {
	who := cmd.SysProcAttr.Credential
	cmd.SysProcAttr.Credential = nil
	cmd.Args = append(append(n.nsenter(), "--setuid", fmt.Sprint(who.Uid), "--setgid", fmt.Sprint(who.Gid), cmd.Path), cmd.Args[1:]...)
	cmd.Path = "/usr/bin/nsenter"
}

func (n *network) close() error {
	err := n.holder.Process.Kill()
	n.holder.Wait() // it was killed
	return err
}

// farServer is a PostgreSQL server at the other end of a cable.
type farServer struct{ *onServer }

func layNetwork(ctx context.Context, dir string) (ground, error) {
	n, err := newNetwork(ctx, rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)))
	if err != nil {
		return nil, err
	}
	data, err := serverDir(dir)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	s, err := startServer(ctx, data, n.host, n)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return farServer{&onServer{server: s}}, nil
}

// strike takes the far end of the cable down: packets go out and nothing comes back,
// not even that nobody is there.
func (f farServer) strike(ctx context.Context, _ *site, rng *rand.Rand) (mended time.Time, err error) {
	n := f.network
	if err := n.inside(ctx, "ip", "link", "set", n.cable, "down"); err != nil {
		return mended, err
	}
	wait(ctx, between(rng, 2*time.Second, 8*time.Second))
	err = n.inside(ctx, "ip", "link", "set", n.cable, "up")
	return time.Now(), err
}

func (f farServer) close() error { return errors.Join(f.server.close(), f.network.close()) }
