package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"grantway": main})
}

// TestScript runs testdata/script. Beside testscript's own commands there are
//
//	serve [flags]         start grantway serve on a free port, wait until it is ready; sets $ADDRESS, logs to serve.log
//	terminate             send SIGTERM and wait: it must exit with 0
//	keep VAR key          set $VAR to the value of key in the JSON object of the last standard output
//	code N program args   run a program, which must exit with N
//	lines N               the last standard error has N lines
//	mode NAME 0600        the file has exactly these permissions
//	damage FILE COPY      write a copy in which a page in the middle is full of ones
//	newer FILE COPY       write a copy of a backup with a schema that is newer than this program
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": scriptServe, "terminate": scriptTerminate, "keep": scriptKeep, "code": scriptCode, "lines": scriptLines, "mode": scriptMode, "damage": scriptDamage, "newer": scriptNewer,
		},
		Condition: func(cond string) (bool, error) { return cond == "root" && os.Geteuid() == 0, nil },
		Setup: func(e *testscript.Env) error {
			e.Values["server"] = new(*process)
			e.Setenv("CATALOGUE", catalogueFile(t))
			return nil
		},
	})
}

func catalogueFile(t *testing.T) string {
	name, err := filepath.Abs("../../internal/demo/catalogue.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func scriptServe(ts *testscript.TestScript, neg bool, args []string) {
	p, err := startServe(ts.MkAbs("."), nil, args...)
	ts.Check(err)
	*ts.Value("server").(**process) = p
	ts.Setenv("ADDRESS", strings.TrimPrefix(p.url, "http://"))
	ts.Defer(p.kill)
}

func scriptTerminate(ts *testscript.TestScript, neg bool, args []string) {
	p := *ts.Value("server").(**process)
	if p == nil {
		ts.Fatalf("nothing was started")
	}
	ts.Check(p.stop())
}

func scriptKeep(ts *testscript.TestScript, neg bool, args []string) {
	var doc map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
	value, ok := doc[args[1]].(string)
	if !ok || value == "" {
		ts.Fatalf("no text %s in %s", args[1], ts.ReadFile("stdout"))
	}
	if len(args) > 2 { // only its last characters
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		value = value[len(value)-n:]
	}
	ts.Setenv(args[0], value)
}

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit, ok := err.(*exec.ExitError); ok {
		got = strings.TrimPrefix(exit.String(), "exit status ")
	} else {
		ts.Check(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func scriptLines(ts *testscript.TestScript, neg bool, args []string) {
	text := ts.ReadFile("stderr")
	if got := strings.Count(text, "\n"); args[0] != string(rune('0'+got)) {
		ts.Fatalf("%d lines, want %s:\n%s", got, args[0], text)
	}
}

func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := info.Mode().Perm().String(); got != "-rw-------" || args[1] != "0600" {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

// scriptNewer makes of a backup one with a schema of after this program.
func scriptNewer(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	to := ts.MkAbs(args[1])
	ts.Check(os.WriteFile(to, data, 0o600))
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: to}).EscapedPath())
	ts.Check(err)
	_, err = db.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, TRUE)")
	ts.Check(errors.Join(err, db.Close()))
}

func scriptDamage(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	const page = 4096
	at := len(data) / 2 / page * page
	for i := range page {
		data[at+i] = 0xff
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o600))
}

// A command that a signal ends says so, and what remains, in one line.
func TestRun_Interrupted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := func(name string) string { return filepath.Join(s.dir, name) }
	ctx, end := context.WithCancel(t.Context())
	end()
	for _, x := range []struct{ words, want string }{
		{"init --dir " + at("a/b"), "interrupted: nothing is left of it"},
		{"init --dir " + at("a/b") + " --database postgres://someone:hunter2@127.0.0.1:1/x", "interrupted: no file is left, but tables may be in the database: make it anew if init refuses it"},
		{"backup --config " + at("config.yaml") + " " + at("one.backup"), "interrupted: no backup was written"},
		{"copy --from " + at("grantway.db") + " --to postgres://someone:hunter2@127.0.0.1:1/x", "interrupted: the same command goes on where it stood, and grantway copy --cancel gives the copy up"},
		{"restore --config " + at("config.yaml") + " " + at("one.backup") + " --replace --accept-revived-keys", "interrupted: what was there is as it was"},
		{"user list --config " + at("config.yaml"), "interrupted"},
	} {
		var said strings.Builder
		if code := run(ctx, strings.Fields(x.words), terminal{strings.NewReader(""), io.Discard, &said, nil}); code != failed || said.String() != "grantway: "+x.want+"\n" {
			t.Errorf("%s: exit code %d, %q", x.words, code, said.String())
		}
	}
	for _, name := range []string{"a", "one.backup"} {
		if _, err := os.Stat(at(name)); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", name, err)
		}
	}
}

// What is left in the events of an app that is gone is shown, with a line that says so: only
// an id that finds nothing is refused. And a list goes on at the last of its events.
func TestEvents_OfWhatIsGone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var app clientDoc
	s.run("", &app, "client", "add", "--name", "Gone", "--redirect", "https://app.example/cb", "--scope", "stores.view")
	s.run("", nil, "client", "verify", app.ClientID)
	db, err := sql.Open("sqlite", filepath.Join(s.dir, "grantway.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("DELETE FROM clients WHERE id = $1", app.ClientID)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	list := func(more ...string) (events []eventDoc, said string) {
		t.Helper()
		var out, told strings.Builder
		args := append([]string{"events", "--json", "--config", filepath.Join(s.dir, "config.yaml"), "--client", app.ClientID}, more...)
		if code := run(t.Context(), args, terminal{strings.NewReader(""), &out, &told, nil}); code != done {
			t.Fatalf("exit code %d, %s", code, &told)
		}
		if err := json.Unmarshal([]byte(out.String()), &events); err != nil {
			t.Fatal(err)
		}
		return events, told.String()
	}
	all, said := list()
	if want := "grantway: there is no app " + app.ClientID + "; grantway client list shows which there are; this is what is left of it\n"; said != want || len(all) != 2 {
		t.Fatalf("%d events, %q", len(all), said)
	}
	if rest, _ := list("--before", all[0].ID); len(rest) != 1 || rest[0].ID != all[1].ID {
		t.Errorf("before %s: %+v", all[0].ID, rest)
	}
}

// The head of a column of times says UTC, wherever the machine is.
func TestCell_TimesAreInUTC(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 7, 1, 23, 30, 5, 0, time.FixedZone("EDT", -4*60*60))
	for _, x := range []struct {
		v    any
		want string
	}{{at, "2026-07-02 03:30:05"}, {&at, "2026-07-02 03:30"}, {(*time.Time)(nil), "-"}} {
		if got := cell(x.v); got != x.want {
			t.Errorf("%v: %q, want %q", x.v, got, x.want)
		}
	}
}

// A program that was built here is not on the path: what init says to start is the path by which it was started itself.
func TestInit_NamesTheProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out strings.Builder
	if code := run(t.Context(), []string{"init", "--dir", dir}, terminal{strings.NewReader(""), &out, io.Discard, nil}); code != done {
		t.Fatalf("exit code %d", code)
	}
	if want := "Start it:             " + os.Args[0] + " serve --config " + filepath.Join(dir, "config.yaml") + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("%s\nwithout %s", &out, want)
	}
	for word, want := range map[string]string{"./grantway": "./grantway", "/usr/bin/grantway": "/usr/bin/grantway", "-x": "'-x'", "a b": "'a b'", "it's": `'it'\''s'`} {
		if got := shellWord(word); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
}

// onText calls off once what was written ends with text.
type onText struct {
	text, said string
	off        func()
}

func (o *onText) Write(p []byte) (int, error) {
	if o.said += string(p); strings.HasSuffix(o.said, o.text) {
		o.off()
	}
	return len(p), nil
}

// One signal is enough while a question waits for an answer.
func TestRun_InterruptedAtAPrompt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for words, prompt := range map[string]string{
		"revoke-everything": "Type yes to go on: ", "new-epoch": "Type yes to go on: ",
	} {
		ctx, end := context.WithCancel(t.Context())
		in, never := io.Pipe()
		said := &onText{text: prompt, off: end}
		hung := time.AfterFunc(20*time.Second, func() { never.Close() })
		code := run(ctx, append(strings.Fields(words), "--config", filepath.Join(s.dir, "config.yaml")), terminal{in, io.Discard, said, nil})
		if !hung.Stop() || code != failed || !strings.HasSuffix(said.said, prompt+"\ngrantway: interrupted: nothing was done\n") {
			t.Errorf("%s: exit code %d, %q", words, code, said.said)
		}
		never.Close()
	}
}
