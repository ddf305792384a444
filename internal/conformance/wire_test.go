package conformance

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
)

func TestMain(m *testing.M) { Main(m) }

// conversations reads testdata/wire; the names are paths without their ending.
func conversations(t *testing.T) (scripts map[string]script, texts map[string]string) {
	t.Helper()
	root := filepath.Join("testdata", "wire")
	scripts, texts = map[string]script{}, map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".txtar" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s, err := parseScript(data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		name := strings.TrimSuffix(filepath.ToSlash(strings.TrimPrefix(path, root+string(filepath.Separator))), ".txtar")
		scripts[name], texts[name] = s, string(data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return scripts, texts
}

// captures are the places where a file names a value for later sections.
var captures = regexp.MustCompile(`<<(?:any|string|number|jwt):([A-Za-z0-9_]+)>>|\(\?<([A-Za-z0-9_]+)>`)

// TestFiles reads every file without a server: names are known where they are used, requests can be sent, and what is
// expected is JSON or a regular expression where it looks like one.
func TestFiles(t *testing.T) {
	scripts, _ := conversations(t)
	demo := Demo{Issuer: "http://127.0.0.1:1", StoreAPI: "http://127.0.0.1:2"}
	for range 4 {
		demo.Stores = append(demo.Stores, Store{ID: "id", Name: "name"})
	}
	for _, profile := range []string{"exchange", "direct", "standard"} {
		demo.Apps = append(demo.Apps, App{Profile: profile, ClientID: "client", ClientSecret: "secret", Name: "name"})
	}
	demo.Apps = append(demo.Apps, App{Profile: "standard", ClientID: "client"})
	demo.User = Person{"user@example", "password"}
	for name, s := range scripts {
		t.Run(name, func(t *testing.T) {
			vars := variables(demo.variables())
			for i, st := range s.steps {
				for _, m := range captures.FindAllStringSubmatch(st.text, -1) {
					vars[m[1]+m[2]] = "100000" // an integer and long enough to mutate
				}
				if st.verb == "consent" {
					code := st.args["capture"]
					if code == "" {
						code = "code"
					}
					vars[code] = "100000"
				}
				texts := []string{st.text}
				for _, value := range st.args {
					texts = append(texts, value)
				}
				for _, text := range texts {
					if _, err := vars.expand(text); err != nil {
						t.Fatalf("section %d: %v", i+1, err)
					}
				}
				text, _ := vars.expand(st.text)
				if err := checkText(st.verb, text); err != nil {
					t.Fatalf("section %d (%s): %v", i+1, st.verb, err)
				}
			}
		})
	}
}

func checkText(verb, text string) error {
	switch verb {
	case "request":
		_, err := parseRequest(text)
		return err
	case "jwt":
		values, err := decodeAllJSON(text)
		if err == nil && len(values) != 2 {
			err = fmt.Errorf("%d JSON values, want two", len(values))
		}
		return err
	case "response", "returned":
		for line := range strings.Lines(text) {
			_, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if value == "" {
				value = strings.TrimSpace(line)
			}
			if len(value) > 1 && value[0] == '~' && value[len(value)-1] == '~' {
				if _, err := regexp.Compile(value[1 : len(value)-1]); err != nil {
					return err
				}
			}
		}
		if _, body, _ := strings.Cut(strings.Trim(text, "\n"), "\n\n"); strings.HasPrefix(strings.TrimSpace(body), "{") {
			_, err := decodeJSON(body)
			return err
		}
	}
	return nil
}

// onEachDatabase runs f with a demo on each of the databases that a server may stand on, or with the one that runs
// already.
func onEachDatabase(t *testing.T, f func(t *testing.T, database string, demo Demo)) {
	if Live() {
		f(t, "live", Start(t))
		return
	}
	for database, urls := range map[string]func(t *testing.T) (direct, url string){
		"SQLite":     func(*testing.T) (string, string) { return "", "" },
		"PostgreSQL": func(t *testing.T) (string, string) { url := storagetest.Postgres(t); return url, url },
		"PgBouncer":  func(t *testing.T) (string, string) { return storagetest.PgBouncer(t) },
	} {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			direct, url := urls(t)
			demo := startDemo(t, build(t), "--database", url)
			if direct != "" {
				standsOn(t, direct, demo)
			}
			f(t, database, demo)
		})
	}
}

// standsOn fails if the demo is not on the database at this URL.
func standsOn(t *testing.T, url string, demo Demo) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	app, _ := demo.App("exchange")
	var name string
	if err := conn.QueryRow(t.Context(), "SELECT name FROM clients WHERE id = $1", app.ClientID).Scan(&name); err != nil || name != app.Name {
		t.Fatalf("the demo is not on this database: %q, %v", name, err)
	}
}

// TestWire holds every conversation of testdata/wire with a running server, on each database.
//
// All consents of one user to an app that authenticates update one grant, so a file that speaks of the exchange app or
// of the confidential standard app has that app to itself while it runs. The others run side by side.
func TestWire(t *testing.T) {
	scripts, texts := conversations(t)
	onEachDatabase(t, func(t *testing.T, database string, demo Demo) {
		var exchange, standard sync.Mutex
		for name, s := range scripts {
			if s.limits || s.guard || s.epoch {
				continue // TestWire_Limits, TestGuard, TestWire_AnotherEpoch
			}
			// What waits a minute waits for the clock, which no database has a part in.
			if s.waits() && (database == "PostgreSQL" || database == "PgBouncer") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s.leaveOut(t)
				// One that waits asks about one code, whatever becomes of the grant meanwhile, so it
				// need not keep the app to itself.
				if speaksOf("exchange", texts[name]) && !s.waits() {
					exchange.Lock()
					defer exchange.Unlock()
				}
				if speaksOf("standard", texts[name]) && !s.waits() {
					standard.Lock()
					defer standard.Unlock()
				}
				if err := s.run(t.Context(), demo); err != nil {
					t.Errorf("source: %s\nexpect: %s\n%v", s.source, s.expect, err)
				}
			})
		}
	})
}

func speaksOf(app, text string) bool {
	return regexp.MustCompile(`\b` + app + `\.|-- consent ` + app + `\b`).MatchString(text)
}

// leaveOut leaves a conversation that waits to make test.
func (s script) leaveOut(t *testing.T) {
	if s.waits() && !storagetest.All() {
		t.Skip("LEFT OUT: this conversation waits for seconds or a minute; make test runs it")
	}
}

// alone holds each conversation with the heading against a server of its own.
func alone(t *testing.T, heading string, has func(script) bool, start func(t *testing.T, binary string) Demo) {
	if os.Getenv("GRANTWAY_DEMO_JSON") != "" {
		t.Skip("LEFT OUT: conversations headed " + heading + " need a demo each, which they start")
	}
	scripts, _ := conversations(t)
	binary, held := build(t), 0
	for name, s := range scripts {
		if !has(s) {
			continue
		}
		held++
		t.Run(name, func(t *testing.T) {
			s.leaveOut(t)
			if err := s.run(t.Context(), start(t, binary)); err != nil {
				t.Errorf("source: %s\nexpect: %s\n%v", s.source, s.expect, err)
			}
		})
	}
	if held == 0 {
		t.Error("no conversation is headed " + heading)
	}
}

// Everybody here has one address, and with it one bucket.
func TestWire_Limits(t *testing.T) {
	alone(t, "limits: on", func(s script) bool { return s.limits }, func(t *testing.T, binary string) Demo {
		return startDemo(t, binary, "--limits")
	})
}

// An epoch is begun on the database of a server that runs, as `grantway new-epoch` does.
func TestWire_AnotherEpoch(t *testing.T) {
	alone(t, "epoch: another", func(s script) bool { return s.epoch }, func(t *testing.T, binary string) Demo {
		file := filepath.Join(t.TempDir(), "demo.db")
		d := startDemo(t, binary, "--database", file)
		store, err := sqlstore.Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		now := time.Now()
		err = store.NewEpoch(t.Context(), now.Unix(), func(from, seq int64) (oauth.Event, error) {
			return oauth.NewRestored(now, rand.Reader, oauth.Restored{Epoch: now.Unix(), Made: now, FromEpoch: from, FromSeq: seq})
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
