package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pseudoTerminal returns what a person sees and types on, and what a program reads.
func pseudoTerminal(t *testing.T) (screen, in *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	raw, err := screen.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	raw.Control(func(fd uintptr) {
		if number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	screen.SetDeadline(time.Now().Add(30 * time.Second))
	return screen, in
}

func shows(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// asked starts a command at a pseudo-terminal, and returns once it has asked for the password.
func asked(t *testing.T, ctx context.Context, in *os.File, words string) <-chan int {
	t.Helper()
	said, write := io.Pipe()
	t.Cleanup(func() { write.Close() })
	code := make(chan int, 1)
	go func() { code <- run(ctx, strings.Fields(words), terminal{in, io.Discard, write, nil}) }()
	prompt, err := bufio.NewReader(said).ReadString(':')
	if err != nil || prompt != "Password, not shown as you type:" {
		t.Fatalf("%q, %v", prompt, err)
	}
	go io.Copy(io.Discard, said)
	return code
}

// A password that is typed is on no screen and in nobody's scroll-back, and the terminal shows
// again what comes after it.
func TestUnseen_Typed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	screen, in := pseudoTerminal(t)
	code := asked(t, t.Context(), in, "user add --name Mara --email mara@shop.example --config "+filepath.Join(s.dir, "config.yaml"))
	if shows(t, in) {
		t.Error("the terminal shows what is typed")
	}
	io.WriteString(screen, "correct horse battery\n")
	if got := <-code; got != done {
		t.Fatalf("exit code %d", got)
	}
	if !shows(t, in) {
		t.Error("the terminal shows nothing any more")
	}
	io.WriteString(screen, "ls\n")
	seen, err := bufio.NewReader(screen).ReadString('s')
	if err != nil || strings.TrimLeft(seen, "\r\n") != "ls" {
		t.Errorf("on the screen: %q, %v", seen, err)
	}
}

// Ctrl-C at the prompt leaves a terminal that shows what is typed.
func TestUnseen_Interrupted(t *testing.T) {
	t.Parallel()
	_, in := pseudoTerminal(t)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	code := asked(t, ctx, in, "user password someone")
	end()
	if got := <-code; got != failed {
		t.Errorf("exit code %d", got)
	}
	if !shows(t, in) {
		t.Error("the terminal shows nothing any more")
	}
}

// /dev/null is a device and no terminal: nobody is asked there, and it holds no password.
// Nor does a terminal, or a pipe that somebody keeps open.
func TestPiped(t *testing.T) {
	t.Parallel()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var said strings.Builder
	if code := run(t.Context(), strings.Fields("user password someone"), terminal{null, io.Discard, &said, nil}); code != notUnderstood || !strings.HasPrefix(said.String(), "grantway: a password is expected") {
		t.Errorf("exit code %d, %q", code, said.String())
	}
	_, tty := pseudoTerminal(t)
	open, keep, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	defer keep.Close()
	full, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	io.WriteString(write, "pw\n")
	write.Close()
	for _, x := range []struct {
		name string
		in   io.Reader
		want bool
	}{{"/dev/null", null, false}, {"a terminal", tty, false}, {"an open pipe", open, false}, {"a full pipe", full, true}, {"an empty pipe", full, false}} {
		if x.name == "an empty pipe" {
			io.Copy(io.Discard, full)
		}
		if got := piped(x.in); got != x.want {
			t.Errorf("%s: %v", x.name, got)
		}
	}
}

// A password on standard input that nobody could sign in with is not dropped in silence.
func TestUserAdd_DropsNoPassword(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ words, why string }{
		{"user add --name X", "without --email"},
		{"user add --name X --email both@shop.example --no-password", "with --no-password"},
	} {
		var said strings.Builder
		code := run(t.Context(), strings.Fields(x.words), terminal{strings.NewReader("correct horse battery\n"), io.Discard, &said, nil})
		if code != notUnderstood || !strings.HasPrefix(said.String(), "grantway: a password is given, and "+x.why+" nobody can sign in with it: ") {
			t.Errorf("%s: exit code %d, %q", x.words, code, said.String())
		}
	}
}
