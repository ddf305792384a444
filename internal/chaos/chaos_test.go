package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// What make revocation-report plays, a few times each: no revoked key is admitted past the bound, and no key that stands is
// called bad, or refused at all while a server is replaced.
func TestRevocations_WithinASecond(t *testing.T) {
	if !storagetest.All() {
		t.Skip("LEFT OUT: revocations under the eyes of followers keep the machine busy for 20 s and need PostgreSQL (make test)")
	}
	binary := filepath.Join(folder(t), "grantway")
	if _, err := buildServer(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	play := func(alone bool, names ...string) {
		for _, o := range situations() {
			i := slices.Index(names, o.engine+"/"+o.name)
			if i < 0 {
				continue
			}
			names = slices.Delete(names, i, i+1)
			t.Run(o.engine+"/"+o.name, func(t *testing.T) {
				if !alone {
					t.Parallel() // they wait, for the most part
				}
				r, err := o.run(t.Context(), &stage{binary: binary, dir: folder(t), rounds: 2, share: 10, busy: true})
				if err != nil {
					t.Fatal(err)
				}
				t.Log(r.row())
				for _, what := range r.broken() {
					t.Error(what)
				}
				if r.Revocations == 0 || len(r.First) == 0 {
					t.Error("no key was revoked and seen refused")
				}
			})
		}
		if len(names) > 0 {
			t.Errorf("there is no %v", names)
		}
	}
	play(true, sqlite+"/100 followers", sqlite+"/hand-over of a single node under load")
	play(false, sqlite+"/1 follower", sqlite+"/packets dropped: one-way loss", postgres+"/server frozen (SIGSTOP)", postgres+"/a deposed primary", sqlite+"/follower's clock ±1 h")
}

// The report judges: a late check, a refused key that stands and a slow crowd are told.
func TestReachReport(t *testing.T) {
	good := &reached{Name: "100 followers", Engine: sqlite, Title: isHealthy, Followers: crowdFor, Revocations: 1, Checks: 10, Policies: []string{"Introspect"},
		Least: []time.Duration{2 * time.Millisecond}, Most: []time.Duration{5 * time.Millisecond}, First: []time.Duration{6 * time.Millisecond},
		Trip: []time.Duration{4 * time.Millisecond, 3 * time.Millisecond, time.Millisecond}, Good: []int64{5}, Refused: []int64{0}, Without: []float64{0}, Stretch: []time.Duration{0}}
	if text := reachReport([]*reached{good}, time.Now(), "this", "", 20); strings.Contains(text, "not met") || !strings.Contains(text, "| 100 followers | SQLite | 1 | 3.0 / 4.0 / 4.0 ms | 6.0 / 6.0 / 6.0 ms | 2.0–5.0 ms | 0 | 0 of 5 |") {
		t.Error(text)
	}
	alone := *good
	alone.Alone = []time.Duration{4 * time.Millisecond}
	if text := reachReport([]*reached{&alone}, time.Now(), "this", "", 20); !strings.Contains(text, "| 6.0 ms, the revoking call included; 4.0 ms where the kernel could tell of no other guest") {
		t.Error(text)
	}
	unsure := *good
	unsure.Most = []time.Duration{bound + time.Millisecond}
	if text := reachReport([]*reached{&unsure}, time.Now(), "this", "", 20); !strings.Contains(text, "0 late; the last one at most 851 ms after, counted from the revoking call | **not shown** |") {
		t.Error(text)
	}
	replaced := &reached{Title: isReplaced, Revocations: 1, Policies: []string{"Introspect", "Closed"}, Good: []int64{5, 5}, Refused: []int64{0, 1},
		Without: []float64{0, 0.1}, Stretch: []time.Duration{0, 1}, Requests: 9, Cut: 2, Disk: "The disk stood still."}
	if text := reachReport([]*reached{replaced}, time.Now(), "this", "", 20); !strings.Contains(text, "The disk stood still.") || !strings.Contains(text, "| 1 checks under any policy, and 2 of 9 requests of apps and customers, in 1 rounds | **not met** |") {
		t.Error(text)
	}
	bad := *good
	bad.Late, bad.First, bad.Violations = 1, []time.Duration{30 * time.Millisecond}, []string{"a key that stands was refused as if it were bad"}
	if text := reachReport([]*reached{&bad}, time.Now(), "this", "", 20); strings.Count(text, "**not met**") != 2 || !strings.Contains(text, "as if it were bad") || len(bad.broken()) != 2 || !bad.slow() || good.slow() {
		t.Error(text)
	}
}

// How long the disk took is told, and that it could not be tried.
func TestSyncs(t *testing.T) {
	dir := t.TempDir()
	got := watchSyncs(t.Context(), dir)()
	if got.n == 0 || got.longest <= 0 || !strings.HasPrefix(got.String(), fmt.Sprintf("The longest of %d bare syncs of one page beside it took ", got.n)) {
		t.Errorf("%+v: %s", got, got)
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("%v is left, %v", left, err)
	}
	if got := watchSyncs(t.Context(), filepath.Join(dir, "not there"))(); got.n != 0 || !strings.Contains(got.String(), "is not known: open ") {
		t.Errorf("%+v: %s", got, got)
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
	at := time.Date(2026, 11, 27, 4, 39, 0, 0, time.UTC)
	if text := report(s.results, at, "`da05e74`"); !strings.Contains(text, "on 27 November 2026, 04:39, at commit `da05e74`.") || !strings.Contains(text, "| "+f.name+" | "+f.engine+" | 1 | 1234 |") || !strings.Contains(text, "1.50 / 1.50 s | 1 |") {
		t.Error(text)
	}
	if s, err = openProgress(path, "another build"); err != nil || len(s.results) != 0 {
		t.Errorf("rounds of another server count: %v %+v", err, s.results)
	}
}

// A round that nobody was served in, or whose fault nobody met, shows nothing.
func TestRound_ThatShowsNothing(t *testing.T) {
	for want, r := range map[string]result{
		"only 99 requests":                       {Done: 99, Away: 1},
		"full disk on PostgreSQL: it met nobody": {Done: 100, Refused: 7},
		"<nil>":                                  {Done: 100, Away: 1},
		"<nil> ":                                 {Done: 100, Unknown: 1},
		"<nil>  ":                                {Done: 99, Violations: []string{"a key that ended is alive"}}, // which is what it shows
	} {
		r.Fault, r.Engine = "full disk", postgres
		if got := fmt.Sprint(r.shows()) + "  "; !strings.HasPrefix(got, want) {
			t.Errorf("%+v: %s; want %s", r, got, want)
		}
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

// 99 of 100 are within the 99th percentile, and 98 would not be enough.
func TestPercentile(t *testing.T) {
	var all []time.Duration
	for n := 200; n > 0; n-- {
		all = append(all, time.Duration(n))
	}
	for of100, want := range map[int]time.Duration{0: 1, 1: 2, 50: 100, 99: 198, 100: 200} {
		if got := percentile(all, of100); got != want {
			t.Errorf("%d: %d, want %d", of100, got, want)
		}
	}
	if got := percentile(all[:1], 99); got != 200 {
		t.Errorf("of one: %d", got)
	}
	if got := percentile(nil, 99); got != 0 {
		t.Errorf("of none: %d", got)
	}
}
