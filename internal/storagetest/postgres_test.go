package storagetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestPostgres_diesWithItsTest kills a test process with SIGKILL and sees that its
// server stops answering and its files are gone.
func TestPostgres_diesWithItsTest(t *testing.T) {
	if os.Getenv("TEST_GRANTWAY_VICTIM") == "1" {
		url := Postgres(t)
		fmt.Println("URL " + url)
		select {} // until killed
	}
	Postgres(t) // skips where there is none
	tmp := t.TempDir()
	// The server may run as another user, who must be able to remove its directory
	// as it is in /tmp.
	if err := os.Chmod(filepath.Dir(tmp), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(os.Args[0], "-test.run=^TestPostgres_diesWithItsTest$", "-test.v")
	victim.Env = append(os.Environ(), "TEST_GRANTWAY_VICTIM=1", "TMPDIR="+tmp)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var url string
	for lines := bufio.NewScanner(out); url == "" && lines.Scan(); {
		if after, ok := strings.CutPrefix(lines.Text(), "URL "); ok {
			url = after
		}
	}
	answers := func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return false
		}
		conn.Close(ctx)
		return true
	}
	if !answers() {
		t.Fatalf("the victim's server does not answer at %q", url)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	victim.Wait()
	deadline := time.After(20 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		left, _ := filepath.Glob(filepath.Join(tmp, "grantway-postgres-*"))
		if len(left) == 0 && !answers() {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("20 s after its test was killed: server answers %v, files left %v", answers(), left)
		}
	}
}
