package main

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// A small run on both databases: no request fails at 8, 64 and 512 connections, and
// the table is complete. What the figures are is for "make bench".
func TestBench_CompletesWithoutErrors(t *testing.T) {
	if !storagetest.All() {
		t.Skip("LEFT OUT: a small run of the bench, which needs PostgreSQL and half a minute; make test has it")
	}
	p := plan{ops: 300, rounds: 1, grants: 100, conns: []int{8, 64}, crowd: 512, engines: []string{"sqlite", "postgres"}, starts: 1, times: 1, benchtime: "100x"}
	r, err := p.run(t.Context(), t.TempDir(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	finite := func(what string, figures ...float64) {
		t.Helper()
		for _, f := range figures {
			if math.IsNaN(f) || math.IsInf(f, 0) || f <= 0 {
				t.Errorf("%s: %v", what, figures)
			}
		}
	}
	rows := 0
	r.each(func(op operation, engine string, at point) {
		rows++
		if len(r.ours[at]) != 1 || len(r.floor[at]) != 1 {
			t.Errorf("%v was measured %d times, and the floor %d times", at, len(r.ours[at]), len(r.floor[at]))
			return
		}
		server, both := r.ratios(at)
		ours := r.ours[at][0]
		finite(op.name, server, both, ours.rate, float64(ours.p50), float64(ours.p99))
		if op.route != "/exchange" {
			return // a few hundred questions take less of a database than a tick of its clock
		}
		finite(op.name+": bytes", ours.bytes)
		if engine == "postgres" {
			finite(op.name+": the database", ours.database)
		}
	})
	if rows != 20 || len(r.crowd) != 10 {
		t.Errorf("%d rows and %d of the crowd; want 20 and 10", rows, len(r.crowd))
	}
	if n, first := r.errors(); n > 0 {
		t.Errorf("%d requests failed, such as: %v", n, first)
	}
	if n := median(r.three).errors + median(r.one).errors; n > 0 {
		t.Errorf("%d requests to three nodes or one failed: %v", n, median(r.three).first)
	}
	for _, engine := range p.engines {
		finite(engine, r.idle[engine], r.loaded[engine][0], float64(r.readyIn(engine)))
	}
	finite("verifying", r.verifier[benchCached].ns, r.verifier[benchFirst].ns, r.verifier[benchBare].ns)
	text := r.markdown()
	for _, v := range r.verdicts() {
		if !strings.Contains(text, "| "+v.must+" |") || v.aside == "" && v.measured == "" {
			t.Errorf("the report says nothing of %q", v.must)
		}
	}
}

// An answer that says something else than it must is an error, though it is a 200;
// and so is one of the floor.
func TestBench_CountsWrongAnswers(t *testing.T) {
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		fmt.Fprintf(w, `{"active":%v}`, n%2 == 0)
	}))
	defer s.Close()
	d, err := dial(1, s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	requests := slices.Repeat([][]byte{[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")}, 10)
	for must, errors := range map[string]int{isActive: 5, "": 0} {
		if o := d.run(requests, false, must); o.errors != errors || (o.first != nil) != (errors > 0) {
			t.Errorf("where an answer must hold %q: %d errors, such as %v", must, o.errors, o.first)
		}
	}
	for _, op := range operations {
		if got, want := op.must == isActive, strings.HasPrefix(op.name, "introspection"); got != want {
			t.Errorf("%s asks for %q", op.name, op.must)
		}
	}
	at, bad := point{opFirst, "sqlite", 8}, sample{errors: 1, first: errors.New("refused")}
	for what, r := range map[string]*result{
		"ours": {ours: map[point][]sample{at: {bad}}}, "the floor's": {floor: map[point][]sample{at: {bad}}},
		"a signature's": {signed: map[int][]sample{8: {bad}}}, "the crowd's": {crowd: map[point]sample{at: bad}},
	} {
		if n, first := r.errors(); n != 1 || first != bad.first {
			t.Errorf("%s: %d errors, such as %v", what, n, first)
		}
	}
}

// The processor time of children counts while they run and once they have ended.
func TestProc_CPUOfTree(t *testing.T) {
	// A shell that waits for one child that has worked, for a second of processor time, and
	// then keeps another working.
	cmd := exec.Command("/bin/sh", "-c", `sh -c 'ulimit -t 1; while :; do :; done'; echo ended; sh -c 'while :; do :; done'; :`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	ended, err := cpuOfTree(cmd.Process.Pid)
	if err != nil || ended < 3*tick {
		t.Fatalf("with a child that has ended: %v, %v", ended, err)
	}
	rises := time.NewTicker(tick)
	defer rises.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-rises.C {
		now, err := cpuOfTree(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if now >= ended+3*tick {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with a child at work it stays at %v", now)
		}
	}
	if own, err := cpuOf(cmd.Process.Pid); err != nil || own >= ended {
		t.Errorf("the shell alone: %v, %v; with its children %v", own, err, ended)
	}
}
