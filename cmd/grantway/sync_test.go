package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
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

// A replay syncs nothing, event by event, in a file that is nobody's database yet; that
// all of it is on the disk before it gets its name is seen at a real restore.
func TestRestore_SyncsOnce(t *testing.T) {
	t.Parallel()
	const events = 60
	strace := storagetest.Strace(t)
	k := newKeyed(t)
	k.run("", nil, "backup", "one")
	store, err := sqlstore.Open(t.Context(), filepath.Join(k.dir, "grantway.db"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		e := oauth.Event{At: time.Now(), Kind: oauth.EventClientSuspended, Actor: "command", ClientID: k.app.ClientID}
		to := oauth.Suspended
		if i%2 == 1 {
			e.Kind, to = oauth.EventClientResumed, oauth.Active
		}
		if e.ID, err = oauth.NewID("ev_", e.At, rand.Reader); err != nil {
			t.Fatal(err)
		}
		if won, err := store.SetClientStatus(t.Context(), e.ClientID, to, e); err != nil || !won {
			t.Fatal(won, err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	k.run("", nil, "events", "export", "log")

	file := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-y", "-s", "0", "-e", "trace=write,pwrite64,ftruncate,fsync,fdatasync,/^rename", "-o", file,
		"grantway", "restore", "one", "--replace", "--revoked-since", "log", "--config", "config.yaml", "--json")
	cmd.Dir, cmd.Env = k.dir, []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	var doc restoreDoc
	if err := errors.Join(err, json.Unmarshal(out, &doc)); err != nil || doc.Replayed != events {
		t.Fatalf("%v: %s", err, out)
	}
	trace, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const part = `<[^>]*grantway\.db\.part-[^>]*`
	syncs, last, named := 0, "", false // last: what was done last to the copy, or to the folder once it has its name
	of := func(pattern string) *regexp.Regexp { return regexp.MustCompile(`^\d+ +` + pattern) }
	synced, wrote, renamed, folder := of(`f(data)?sync\(\d+`+part+`>`), of(`(write|pwrite64|ftruncate)\(\d+`+part+`>`), of(`rename.*\.part-.*grantway\.db"`), of(`f(data)?sync\(\d+<`+regexp.QuoteMeta(k.dir)+`>`)
	for line := range strings.Lines(string(trace)) {
		switch {
		case synced.MatchString(line):
			syncs++
			last = "synced"
		case wrote.MatchString(line):
			last = "written"
		case renamed.MatchString(line):
			if last != "synced" {
				t.Errorf("the copy got its name when it was %s last", last)
			}
			named, last = true, "named"
		case named && folder.MatchString(line):
			last = "in the folder for good"
		}
	}
	if last != "in the folder for good" {
		t.Errorf("the copy was %s last", last)
	}
	if syncs >= events/2 {
		t.Errorf("%d syncs of the copy for %d events", syncs, events)
	}
	t.Logf("%d syncs of the copy", syncs)
}
