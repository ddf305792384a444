package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// sockets are what a process listens on, by name. They are opened here, or come
// from systemd or from the process that hands over to this one: both give open
// files and say in LISTEN_FDS and LISTEN_FDNAMES which they are (sd_listen_fds(3)).
// So the port stays open while one process follows another.
type sockets struct {
	environ   []string            // of this process, without what speaks of inherited files
	inherited map[string]*os.File // not yet claimed
	tell      *os.File            // where the process that hands over waits for a word; nil if nobody does
	open      []socket
	told      string                // by the process that hands over: what it knows
	knows     func() oauth.Position // what is told to a successor; nil: nothing
}

type socket struct {
	name string
	net.Listener
}

const (
	firstFile = 3 // after standard input, output and error
	// knownName is the variable with what the predecessor knows, in JSON. A predecessor
	// that sets none is an older one.
	knownName = "HANDOVER_FEED"
	// tellName is the one file handed over that is no socket.
	tellName = "ready"
	// successorPatience bounds how long a successor may take until it is ready,
	// migrations included. The predecessor serves all the while.
	successorPatience = time.Minute
)

// errHandedOver is the cause why a process stops serving after its successor serves.
var errHandedOver = errors.New("handed over")

// inherit takes what environ says was handed to this process.
func inherit(environ []string) (*sockets, error) {
	s := &sockets{inherited: map[string]*os.File{}}
	var pid, count, names, told string
	for _, pair := range environ {
		switch name, value, _ := strings.Cut(pair, "="); name {
		case "LISTEN_PID":
			pid = value
		case "LISTEN_FDS":
			count = value
		case "LISTEN_FDNAMES":
			names = value
		case knownName:
			told = value
		default:
			s.environ = append(s.environ, pair)
		}
	}
	// A process that hands over cannot know the pid of its successor beforehand.
	if count == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s, nil
	}
	list := strings.Split(names, ":")
	if n, err := strconv.Atoi(count); err != nil || n != len(list) {
		return nil, fmt.Errorf("LISTEN_FDS=%s and LISTEN_FDNAMES=%s do not fit: give each socket a name (systemd: FileDescriptorName=listen)", count, names)
	}
	for i, name := range list {
		syscall.CloseOnExec(firstFile + i)
		s.inherited[name] = os.NewFile(uintptr(firstFile+i), name)
	}
	if s.tell = s.inherited[tellName]; s.tell != nil {
		s.told = told
	}
	delete(s.inherited, tellName)
	return s, nil
}

// known is what the predecessor was told of the feed, nothing if there is none.
func (s *sockets) known() (p oauth.Position, err error) {
	if s.told == "" {
		return p, nil
	}
	if err := json.Unmarshal([]byte(s.told), &p); err != nil {
		return p, fmt.Errorf("%s, from the process that hands over: %w; stop that one and start this one in its place", knownName, err)
	}
	return p, nil
}

// listen returns the socket of a name: the inherited one if it listens on address,
// else a new one.
func (s *sockets) listen(name, address string) (net.Listener, error) {
	l, err := s.claim(name, address)
	if l == nil && err == nil {
		l, err = net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%s: another process listens on %s: end it, or set another address", name, address)
		}
	}
	if err != nil {
		for other := range s.inherited {
			err = fmt.Errorf("%w; a socket called %s was handed to this process, for systemd's say FileDescriptorName=%s", err, other, name)
		}
		return nil, err
	}
	s.open = append(s.open, socket{name, l})
	return l, nil
}

func (s *sockets) claim(name, address string) (net.Listener, error) {
	f := s.inherited[name]
	if f == nil {
		return nil, nil
	}
	delete(s.inherited, name)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the inherited socket %s: %w", name, err)
	}
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	got, _ := l.Addr().(*net.TCPAddr)
	switch {
	case got != nil && (want.Port == 0 || want.Port == got.Port) && (want.IP.Equal(got.IP) || got.IP.IsUnspecified() && (want.IP == nil || want.IP.IsUnspecified())):
		return l, nil
	case s.tell != nil: // the setting was changed since the predecessor read it
		return nil, l.Close()
	}
	return nil, errors.Join(fmt.Errorf("systemd's socket %s listens on %s, but the setting says %s: make them equal", name, l.Addr(), address), l.Close())
}

// ready tells whoever waits for this process that it serves: the predecessor, or
// systemd. What was inherited and is not wanted any more is closed.
func (s *sockets) ready() error {
	for _, f := range s.inherited {
		f.Close()
	}
	if s.tell == nil {
		return s.notify("READY=1")
	}
	defer s.tell.Close()
	if _, err := s.tell.Write([]byte{1}); err != nil {
		return fmt.Errorf("telling the predecessor: %w", err)
	}
	return nil
}

// notify sends a message to systemd, if that started us (sd_notify(3)).
func (s *sockets) notify(message string) error {
	for _, pair := range s.environ {
		if name, ok := strings.CutPrefix(pair, "NOTIFY_SOCKET="); ok && name != "" {
			conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
			if err != nil {
				return fmt.Errorf("telling systemd: %w", err)
			}
			defer conn.Close()
			_, err = conn.Write([]byte(message))
			return err
		}
	}
	return nil
}

// succeed waits for the signal to hand over, and ends the serving when a successor
// serves. Until then this process serves, whatever becomes of the successor.
func succeed(ctx context.Context, end context.CancelCauseFunc, again <-chan os.Signal, s *sockets, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
		log.Info("starting a successor")
		pid, err := s.handOver(ctx, os.Args[0], os.Args[1:], successorPatience)
		if err != nil {
			log.Error("not handed over: this process serves on", "error", err)
			continue
		}
		log.Info("handed over", "successor", pid)
		if err := s.notify("MAINPID=" + strconv.Itoa(pid)); err != nil {
			log.Warn("the supervisor does not know the successor", "error", err)
		}
		end(errHandedOver)
		return
	}
}

// handOver starts program with args, hands it every open socket, and waits until
// it says that it is ready. If it ends before, takes longer than patience, or ctx
// ends, it is ended, and nothing has changed for this process. It returns the
// successor's pid.
func (s *sockets) handOver(ctx context.Context, program string, args []string, patience time.Duration) (pid int, err error) {
	hear, tell, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer hear.Close()
	files, names := []*os.File{tell}, tellName
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, l := range s.open {
		f, err := duplicate(l)
		if err != nil {
			return 0, fmt.Errorf("the socket %s: %w", l.name, err)
		}
		files, names = append(files, f), names+":"+l.name
	}
	// The program is looked for anew, so a file that was replaced is the one taken.
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(slices.Clone(s.environ), "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+names)
	if s.knows != nil {
		known, err := json.Marshal(s.knows())
		if err != nil {
			return 0, err
		}
		cmd.Env = append(cmd.Env, knownName+"="+string(known))
	}
	cmd.ExtraFiles = files
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	go func() {
		if n, _ := hear.Read(make([]byte, 1)); n == 1 {
			close(ready)
		}
	}()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-ready:
		return cmd.Process.Pid, nil
	case err := <-ended:
		return 0, fmt.Errorf("it ended before it was ready: %w", cmp.Or(err, errors.New("exit status 0")))
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = fmt.Errorf("it was not ready within %v", patience)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	<-ended
	return 0, err
}

// duplicate returns a file of the same socket. TCPListener.File would not do: its
// descriptor turns blocking when it is given to a child, and with it ours, since
// the two share that flag; then Accept hangs and Close with it.
func duplicate(l socket) (f *os.File, err error) {
	sc, ok := l.Listener.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no file", l.Listener)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlled := raw.Control(func(fd uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		var n int
		if n, err = syscall.Dup(int(fd)); err == nil {
			syscall.CloseOnExec(n)
			f = os.NewFile(uintptr(n), l.name)
		}
	})
	return f, errors.Join(controlled, err)
}
