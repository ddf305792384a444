package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// unseen reads a line of standard input. A terminal is asked for it, and does not show it;
// whatever ends the reading, it shows again what comes next.
func unseen(ctx context.Context, t terminal, prompt string) (line string, err error) {
	if f, ok := t.in.(*os.File); ok {
		fd := int(f.Fd())
		if before, no := unix.IoctlGetTermios(fd, getTermios); no == nil { // /dev/null is a device, and no terminal
			silent := *before
			silent.Lflag &^= unix.ECHO
			if err := unix.IoctlSetTermios(fd, setTermios, &silent); err != nil {
				return "", err
			}
			defer func() {
				fmt.Fprintln(t.err)
				err = errors.Join(err, unix.IoctlSetTermios(fd, setTermios, before))
			}()
			fmt.Fprint(t.err, prompt)
		}
	}
	return typed(ctx, t.in)
}

// typed reads a line, until ctx ends: a signal ends the waiting for who does not type.
func typed(ctx context.Context, in io.Reader) (string, error) {
	type outcome struct {
		line string
		err  error
	}
	read := make(chan outcome, 1)
	go func() { // which nothing can interrupt
		line, err := bufio.NewReader(in).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		read <- outcome{line, err}
	}()
	select {
	case r := <-read:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// pipeTime is how long piped waits for who writes into a pipe and was started beside this
// program. A pipe that stays open and silent, as a script's may, costs this much.
const pipeTime = 200 * time.Millisecond

// piped says whether something stands on standard input, where that is no terminal.
func piped(in io.Reader) bool {
	if f, ok := in.(*os.File); ok {
		fd := int(f.Fd())
		if _, err := unix.IoctlGetTermios(fd, getTermios); err == nil {
			return false
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := 0, error(unix.EINTR)
		for end := time.Now().Add(pipeTime); errors.Is(err, unix.EINTR); { // signals, which the runtime sends itself, cut it short
			n, err = unix.Poll(ready, int(max(0, time.Until(end).Milliseconds())))
		}
		if n == 0 || err != nil {
			return false
		}
	}
	n, _ := in.Read(make([]byte, 1))
	return n > 0
}
