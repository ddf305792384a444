package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// No key leaves before the disk has it: between the request that redeems a code and
// the first byte of its answer, a sync of the write-ahead log begins and ends, as
// strace sees it at a real server (DESIGN, decision 5).
func TestServe_TheAnswerWaitsForTheSync(t *testing.T) {
	t.Parallel()
	strace := storagetest.Strace(t)
	s := newSite(t)
	p := s.serve()
	var guests clientDoc
	s.run("", &guests, "client", "add", "--name", "Style Finder", "--profile", "direct")
	var codes []string
	for range 5 {
		code, err := p.guestCode(guests.ClientID)
		if err != nil {
			t.Fatal(err)
		}
		codes = append(codes, code)
	}

	file := filepath.Join(t.TempDir(), "trace")
	tracer := exec.Command(strace, "-f", "-y", "-s", "40", "-e", "trace=read,write,fsync,fdatasync", "-o", file, "-p", strconv.Itoa(p.cmd.Process.Pid))
	said, err := tracer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "attached") {
	}
	if err := lines.Err(); err != nil || !strings.Contains(lines.Text(), "attached") {
		t.Fatalf("strace is not attached: %q, %v", lines.Text(), err)
	}
	go func() {
		for lines.Scan() { // its threads
		}
	}()
	for _, code := range codes {
		if _, err := p.redeem(guests.ClientID, code); err != nil {
			t.Error(err)
		}
	}
	if err := tracer.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tracer.Wait() // it says that it was told to end

	trace, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	asked, syncing, synced := false, map[string]bool{}, false // by thread
	begins := regexp.MustCompile(`^\d+ +f(data)?sync\(\d+<[^>]*grantway\.db-wal>`)
	ends := regexp.MustCompile(`^\d+ +(<\.\.\. f(data)?sync resumed>\)|f(data)?sync\(.*\)) += 0$`)
	for line := range strings.Lines(string(trace)) {
		line = strings.TrimSpace(line)
		thread, _, _ := strings.Cut(line, " ")
		if begins.MatchString(line) {
			syncing[thread] = asked
		}
		switch {
		case strings.Contains(line, `OST /oauth/token `): // net/http reads the first byte by itself while it waits
			asked, synced = true, false
			clear(syncing)
		case syncing[thread] && ends.MatchString(line):
			synced = true
		case strings.Contains(line, `write(`) && strings.Contains(line, `"HTTP/1.1 200 OK`):
			if answers++; !asked || !synced {
				t.Errorf("answer %d was written before a sync of the log had ended", answers)
			}
			asked = false
		}
	}
	if answers != len(codes) {
		t.Errorf("%d answers in the trace, want %d\n%s", answers, len(codes), trace)
	}
}
