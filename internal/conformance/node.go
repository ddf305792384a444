package conformance

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Node returns a folder with the files of dir that match the patterns, and the packages that its lock pins: dir itself if
// they are installed there, or a copy in which npm installs them. Where Node 20.19 or npm is missing, or npm cannot
// install, t is skipped, saying what to do; with TEST_GRANTWAY_ALL it fails.
func Node(t *testing.T, dir string, patterns ...string) string {
	t.Helper()
	leftOut := func(format string, args ...any) {
		t.Helper()
		reason := "LEFT OUT: this test needs " + fmt.Sprintf(format, args...)
		if os.Getenv("TEST_GRANTWAY_ALL") != "" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	version, err := exec.CommandContext(t.Context(), "node", "-p", `const [a, b] = process.versions.node.split('.'); Number(a) > 20 || Number(a) == 20 && Number(b) >= 19`).Output()
	if err != nil || strings.TrimSpace(string(version)) != "true" {
		leftOut("Node 20.19 or later")
	}
	here, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(here, "node_modules", ".package-lock.json")); err == nil {
		return here
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		leftOut("npm")
	}
	copied := t.TempDir()
	for _, pattern := range patterns {
		files, err := fs.Glob(os.DirFS(here), pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range files {
			to := filepath.Join(copied, name)
			data, err := os.ReadFile(filepath.Join(here, name))
			if err == nil {
				err = os.MkdirAll(filepath.Dir(to), 0o700)
			}
			if err == nil {
				err = os.WriteFile(to, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1")
	install.Dir = copied
	install.WaitDelay = time.Second
	if out, err := install.CombinedOutput(); err != nil {
		leftOut("the package registry once, and npm ci failed: %v\n%s", err, out)
	}
	return copied
}
