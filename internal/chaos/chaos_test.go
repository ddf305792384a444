package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// Every fault once, but for the slow ones: nothing acknowledged is lost, nothing that ended is alive, and
// the service is back by itself (DESIGN, tests, 7).
func TestChaos_OneOfEach(t *testing.T) {
	if !storagetest.All() {
		t.Skip("LEFT OUT: faults take three minutes and need root, PostgreSQL, Patroni, etcd and iproute2 (make test)")
	}
	if os.Getuid() != 0 {
		t.Fatal("a small disk and a network of its own need root: run make test as root, or in a container")
	}
	binary := filepath.Join(folder(t), "grantway")
	if _, err := buildServer(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	for _, f := range faults() {
		if f.slow {
			continue
		}
		t.Run(f.engine+"/"+f.name, func(t *testing.T) {
			r, err := f.run(t.Context(), binary, folder(t), 1)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r.row())
			for _, v := range r.Violations {
				t.Error(v)
			}
		})
	}
}

// A campaign that was stopped goes on where it was, with the rounds of the same
// server, and a round that was not written whole is played again.
func TestProgress_GoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s, err := openProgress(path, "build")
	if err != nil {
		t.Fatal(err)
	}
	f, other := faults()[0], faults()[1]
	played := result{Fault: f.name, Engine: f.engine, Seed: 3, Requests: 1234, Ready: 1500 * time.Millisecond, Violations: []string{"lost"}}
	if err := s.add(played); err != nil {
		t.Fatal(err)
	}
	if _, err := s.file.WriteString(`{"build":"build","fault":"` + other.name); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openProgress(path, "build"); err != nil {
		t.Fatal(err)
	}
	if !s.has(f, 3) || s.has(f, 4) || s.has(other, 3) || len(s.results) != 1 {
		t.Errorf("%+v", s.results)
	}
	if text := report(s.results); !strings.Contains(text, "| "+f.name+" | "+f.engine+" | 1 | 1234 |") || !strings.Contains(text, "1.50 / 1.50 s | 1 |") {
		t.Error(text)
	}
	if s, err = openProgress(path, "another build"); err != nil || len(s.results) != 0 {
		t.Errorf("rounds of another server count: %v %+v", err, s.results)
	}
}

// Operators are told to use what was tried.
func TestDocs_ClusterIsTheOneThatIsTried(t *testing.T) {
	guide, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(guide), "```yaml\nbootstrap:\n")
	told, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("docs/operating.md shows no bootstrap section")
	}
	if !strings.Contains(patroniSettings, "bootstrap:\n"+told) {
		t.Errorf("docs/operating.md tells of\n%s\nwhich patroni.yml does not have", told)
	}
}

// folder is where a round plays. It stays there if the round went wrong.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "grantway-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // the user postgres passes through
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what happened is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
