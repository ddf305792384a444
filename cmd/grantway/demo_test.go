package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/grantway/grantway/internal/demo"
	"github.com/grantway/grantway/internal/storagetest"
)

// demonstration is a grantway demo in a process of its own, whose temporary files
// go to temp.
type demonstration struct {
	*testing.T
	cmd  *exec.Cmd
	said *bufio.Reader // standard output
	errs *bytes.Buffer
	temp string
	demo.Info
}

func demoProcess(t *testing.T, args ...string) *demonstration {
	d := &demonstration{T: t, errs: new(bytes.Buffer), temp: t.TempDir()}
	d.cmd = exec.Command("grantway", append([]string{"demo"}, args...)...)
	d.cmd.Dir = d.temp
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + d.temp}
	d.cmd.Stderr = d.errs
	return d
}

// startDemo starts a demo with --json and waits until it is ready.
func startDemo(t *testing.T, args ...string) *demonstration {
	t.Helper()
	d := demoProcess(t, append([]string{"--json"}, args...)...)
	d.start()
	line, err := d.said.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &d.Info)
	}
	if err != nil {
		t.Fatalf("the demo did not become ready: %v, %q", err, line)
	}
	return d
}

func (d *demonstration) start() {
	d.Helper()
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		d.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		d.Fatal(err)
	}
	d.said = bufio.NewReader(out)
	d.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.cmd.Process.Kill()
			d.cmd.Wait()
		}
	})
}

// stop sends SIGTERM: the demo must exit with 0 and have printed no more.
func (d *demonstration) stop() {
	d.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.Fatal(err)
	}
	hung := time.AfterFunc(20*time.Second, func() { d.cmd.Process.Kill() })
	defer hung.Stop()
	more, err := io.ReadAll(d.said)
	if err != nil || len(more) > 0 {
		d.Errorf("on standard output follows %q, %v", more, err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.Errorf("after SIGTERM: %v\n%s", err, d.errs)
	}
	if strings.Contains(d.errs.String(), "following revocations fails") {
		d.Errorf("the store API outlived the issuer:\n%s", d.errs)
	}
}

// refused demands that a demo ends at once with this exit code and says why.
func refused(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	d := demoProcess(t, args...)
	var out bytes.Buffer
	d.cmd.Stdout = &out
	hung := time.AfterFunc(20*time.Second, func() { d.cmd.Process.Kill() })
	defer hung.Stop()
	err := d.cmd.Run()
	exit, _ := errors.AsType[*exec.ExitError](err)
	if exit == nil || exit.ExitCode() != code || !strings.Contains(d.errs.String(), says) || out.Len() > 0 {
		t.Errorf("demo %s: %v\n%s%s", strings.Join(args, " "), err, d.errs, &out)
	}
	if left := d.temporary(); len(left) > 0 {
		t.Errorf("demo %s left %q", strings.Join(args, " "), left)
	}
}

// temporary lists what lies in the folder for temporary files.
func (d *demonstration) temporary() []string {
	d.Helper()
	left, err := filepath.Glob(filepath.Join(d.temp, "*"))
	if err != nil {
		d.Fatal(err)
	}
	return left
}

func TestDemo_ListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.7:8080", "example.com:8080", "127.0.0.1.example:0"} {
		refused(t, notUnderstood, "on loopback only", "--listen", listen)
	}
	refused(t, notUnderstood, "write an address and a port", "--listen", "127.0.0.1")
}

// A database of somebody else is refused, and stays as it is: DESIGN, "The demo".
func TestDemo_RefusesAForeignSQLiteFile(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"DELETE", "WAL"} {
		name := filepath.Join(t.TempDir(), "books.db")
		db, err := sql.Open("sqlite", name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"PRAGMA journal_mode=" + mode, "CREATE TABLE invoices (id INTEGER, total TEXT)", "INSERT INTO invoices VALUES (1, '12.50')"} {
			if _, err := db.Exec(text); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		untouched(t, name)
	}
}

func TestDemo_RefusesADatabaseOfServe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	untouched(t, filepath.Join(s.dir, "grantway.db"))
}

// untouched demands that the demo refuses a SQLite file, which no byte shows.
func untouched(t *testing.T, name string) {
	t.Helper()
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, failed, "was not made by a demo", "--listen", "127.0.0.1:0", "--database", name)
	after, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("%s was %d bytes and is %d, not the same", filepath.Base(name), len(before), len(after))
	}
	if beside, _ := filepath.Glob(name + "-*"); len(beside) > 0 {
		t.Errorf("the demo left %q", beside)
	}
}

func TestDemo_RefusesAForeignPostgreSQLDatabase(t *testing.T) {
	t.Parallel()
	dsn := storagetest.Postgres(t)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("CREATE TABLE invoices AS SELECT 1 AS id, '12.50' AS total"); err != nil {
		t.Fatal(err)
	}
	refused(t, failed, "was not made by a demo", "--listen", "127.0.0.1:0", "--database", dsn)
	var all string
	if err := db.QueryRow(`SELECT string_agg(relkind::text || ':' || relname, ' ' ORDER BY relname) FROM pg_class
		WHERE relnamespace = 'public'::regnamespace`).Scan(&all); err != nil || all != "r:invoices" {
		t.Errorf("the database now holds %q, %v", all, err)
	}
	if err := db.QueryRow("SELECT string_agg(i::text, ' ') FROM invoices i").Scan(&all); err != nil || all != "(1,12.50)" {
		t.Errorf("the table now holds %q, %v", all, err)
	}
}

// A demo on its own database finds everything again: ids, secrets, passwords,
// and, on the same port, the keys that are out.
func TestDemo_StartsAgainOnItsOwnDatabase(t *testing.T) {
	t.Parallel()
	for engine, dsn := range map[string]func(*testing.T) string{
		"SQLite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "demo.db") },
		"Postgres": func(t *testing.T) string { return storagetest.Postgres(t) },
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			database := dsn(t)
			first := startDemo(t, "--listen", "127.0.0.1:0", "--database", database)
			key := first.connect()
			if got := first.stores(key); got != first.Stores[0].ID {
				t.Fatalf("the key opens %q", got)
			}
			first.stop()
			again := startDemo(t, "--listen", strings.TrimPrefix(first.Issuer, "http://"), "--database", database)
			if got := again.stores(key); got != first.Stores[0].ID {
				t.Errorf("started again, the key opens %q", got)
			}
			if again.connect() == key {
				t.Error("a second consent gave the first key")
			}
			again.stop()
			if first.User.Password == "" || first.Apps[0].ClientSecret == "" || first.ResourceServer.ClientSecret == "" || len(first.Stores) < 4 {
				t.Errorf("the first line lacks things: %+v", first.Info)
			}
			again.StoreAPI, again.ExampleApp = first.StoreAPI, first.ExampleApp // free ports
			if d := cmp.Diff(first.Info, again.Info); d != "" {
				t.Errorf("the second line differs (-first +second):\n%s", d)
			}
		})
	}
}

// Without --json it tells a person where to click.
func TestDemo_SaysWhereToClick(t *testing.T) {
	t.Parallel()
	d := demoProcess(t, "--listen", "127.0.0.1:0")
	d.start()
	var text strings.Builder
	for !strings.Contains(text.String(), "Ctrl-C") {
		line, err := d.said.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, &text)
		}
		text.WriteString(line)
	}
	seen := 0
	for line := range strings.Lines(text.String()) {
		at := strings.Index(line, "http://")
		if at < 0 {
			continue
		}
		seen++
		address := strings.TrimSpace(line[at:])
		want := http.StatusOK
		switch u, err := url.Parse(address); {
		case err != nil:
			t.Fatal(err)
		case u.Path == "/stores":
			want = http.StatusUnauthorized // a key is asked for
		case u.Path == "/developer" || u.Path == "/operator" || u.Path == "/connected-apps":
			want = http.StatusSeeOther // to sign in
		}
		a, err := send("GET", address, map[string]string{"User-Agent": "test"}, "")
		if err != nil || a.status != want && !(a.status == http.StatusOK && strings.HasSuffix(address, "/developer")) {
			t.Errorf("%s answers %d, %v", address, a.status, err)
		}
	}
	if seen != 5 {
		t.Errorf("%d addresses in\n%s", seen, &text)
	}
	issuer := regexp.MustCompile(`(http://\S+)/operator`).FindStringSubmatch(text.String())
	people := regexp.MustCompile(`sign in as +(\S+) +password +(\S+)`).FindAllStringSubmatch(text.String(), -1)
	if len(issuer) == 0 || len(people) != 3 {
		t.Fatalf("no issuer, or not three people, in\n%s", &text)
	}
	for _, p := range people {
		a, err := send("POST", issuer[1]+"/sign-in", formType, url.Values{"email": {p[1]}, "password": {p[2]}}.Encode())
		if err != nil || a.status != http.StatusSeeOther {
			t.Errorf("%s cannot sign in: %d, %v", p[1], a.status, err)
		}
	}
	if list := d.temporary(); len(list) != 1 {
		t.Errorf("while it runs, the temporary files are %q", list)
	}
	d.stop()
	if list := d.temporary(); len(list) != 0 {
		t.Errorf("left behind: %q", list)
	}
}

// Nobody is kept waiting in a demo (people.Config.Unlimited).
func TestDemo_SignInIsNotLimited(t *testing.T) {
	t.Parallel()
	d := startDemo(t, "--listen", "127.0.0.1:0")
	signIn := func(password string) (int, error) {
		a, err := send("POST", d.Issuer+"/sign-in", formType, url.Values{"email": {d.User.Email}, "password": {password}}.Encode())
		return a.status, err
	}
	for i := range 20 {
		if status, err := signIn("a wrong guess"); err != nil || status != http.StatusUnprocessableEntity {
			t.Fatalf("wrong password %d: %d, %v", i+1, status, err)
		}
	}
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			if status, err := signIn(d.User.Password); err != nil || status != http.StatusSeeOther {
				t.Errorf("right password: %d, %v", status, err)
			}
		})
	}
	all.Wait()
	d.stop()
}

var (
	hidden  = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`)
	refresh = regexp.MustCompile(`<meta http-equiv="refresh" content="[^"]*url=([^"]*)"`)
)

// connect connects the first app to the first store on the pages, and returns the
// lasting key that the app then gets.
func (d *demonstration) connect() string {
	d.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		d.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	read := func(resp *http.Response, err error) string {
		d.Helper()
		if err != nil {
			d.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			d.Fatalf("%s: %d, %v\n%s", resp.Request.URL, resp.StatusCode, err, body)
		}
		return string(body)
	}
	app := d.Apps[0]
	read(browser.PostForm(d.Issuer+"/sign-in", url.Values{"email": {d.User.Email}, "password": {d.User.Password}}))
	consent := read(browser.Get(d.Issuer + "/auth/authorize?" + url.Values{"client_id": {app.ClientID}, "redirect_uri": {"https://client.example/callback"}, "state": {"st"}}.Encode()))
	decision := url.Values{"decision": {"allow"}, "store": {d.Stores[0].ID}}
	for _, field := range hidden.FindAllStringSubmatch(consent, -1) {
		decision.Set(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	returning := refresh.FindStringSubmatch(read(browser.PostForm(d.Issuer+"/consent", decision)))
	if returning == nil {
		d.Fatal("the consent does not lead back to the app")
	}
	back, err := url.Parse(html.UnescapeString(returning[1]))
	if err != nil {
		d.Fatal(err)
	}
	a, err := send("GET", d.Issuer+"/oauth2/"+app.ClientID+"/exchange/"+back.Query().Get("code"),
		map[string]string{"X-Client-Secret": app.ClientSecret, "User-Agent": "test"}, "")
	if err != nil || a.text("data") == "" {
		d.Fatalf("exchange: %v, %d %s", err, a.status, a.body)
	}
	return a.text("data")
}

// stores asks the store API which stores a key opens.
func (d *demonstration) stores(key string) string {
	d.Helper()
	a, err := send("GET", d.StoreAPI+"/stores", map[string]string{"Authorization": "Bearer " + key, "User-Agent": "test"}, "")
	if err != nil {
		d.Fatal(err)
	}
	list, ok := a.doc["data"].([]any)
	if !ok {
		return fmt.Sprintf("%d %s", a.status, a.body)
	}
	var ids []string
	for _, entry := range list {
		fields, _ := entry.(map[string]any)
		ids = append(ids, fmt.Sprint(fields["id"]))
	}
	return strings.Join(ids, " ")
}
