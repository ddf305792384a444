package chaos

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/grantway/grantway/internal/storagetest"
)

// Every fault once: nothing acknowledged is lost, nothing that ended is alive, and
// the service is back by itself (issue of scale, "Faults").
func TestChaos_OneOfEach(t *testing.T) {
	if !storagetest.All() {
		t.Skip("LEFT OUT: faults take three minutes and need root, PostgreSQL, Patroni and etcd (make test)")
	}
	binary := build(t)
	for i, f := range Faults() {
		t.Run(f.Engine+"/"+f.Name, func(t *testing.T) {
			r, err := f.Run(t.Context(), binary, folder(t), uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r.Row())
			for _, v := range r.Violations {
				t.Error(v)
			}
		})
	}
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "grantway")
	out, err := exec.Command("go", "build", "-o", binary, "../../cmd/grantway").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

// folder is where a round plays. It stays there if the round went wrong.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "grantway-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() || os.Getenv("KEEP") != "" {
			t.Logf("what happened is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
