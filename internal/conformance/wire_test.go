package conformance

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// TestWire holds every conversation of testdata/wire with one running server.
//
// All consents of one user to an app that authenticates update one grant, so a file that speaks of the exchange app or
// of the confidential standard app has that app to itself while it runs. The others run side by side.
func TestWire(t *testing.T) {
	root := filepath.Join("testdata", "wire")
	scripts := map[string]script{}
	texts := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".txtar" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator))), ".txtar")
		s, err := parseScript(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		scripts[name], texts[name] = s, string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		return
	}

	demo := Start(t)
	var exchange, standard sync.Mutex
	speaksOf := func(app, text string) bool {
		return regexp.MustCompile(`\b` + app + `\.|-- consent ` + app + `\b`).MatchString(text)
	}
	for name, s := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if speaksOf("exchange", texts[name]) {
				exchange.Lock()
				defer exchange.Unlock()
			}
			if speaksOf("standard", texts[name]) {
				standard.Lock()
				defer standard.Unlock()
			}
			if err := s.run(t.Context(), demo); err != nil {
				t.Errorf("source: %s\nexpect: %s\n%v", s.source, s.expect, err)
			}
		})
	}
}
