package main

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// The section "Somebody forgot the password" of docs/operating.md, line by line, while a
// server runs: it knows the new password at once, and neither the old one nor a session of before.
func TestOperating_ForgottenPassword(t *testing.T) {
	t.Parallel()
	paper, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(paper), "\n## Somebody forgot the password\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var lines []string
	for line := range strings.Lines(section) {
		if command, found := strings.CutPrefix(line, "    grantway "); found {
			lines = append(lines, command)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("the commands are %q", lines)
	}
	for engine, flags := range map[string]func(t *testing.T) []string{
		"SQLite":   func(t *testing.T) []string { return nil },
		"Postgres": func(t *testing.T) []string { return []string{"--database", storagetest.Postgres(t)} },
	} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := &site{t, t.TempDir()}
			s.run("", nil, append([]string{"init", "--dir", s.dir, "--catalogue", catalogueFile(t)}, flags(t)...)...)
			p := s.serve()
			const old, fresh = "correct horse battery", "another horse battery"
			var mara userDoc
			s.run(old, &mara, "user", "add", "--name", "Mara", "--email", "mara@shop.example")
			signIn := func(password string, want int) (cookie string) {
				t.Helper()
				a, err := send("POST", p.url+"/sign-in", formType, url.Values{"email": {mara.Email}, "password": {password}}.Encode())
				if err != nil || a.status != want {
					t.Fatalf("sign-in: %v %d, want %d: %s", err, a.status, want, a.body)
				}
				cookie, _, _ = strings.Cut(a.header.Get("Set-Cookie"), ";")
				return cookie
			}
			page := func(cookie string) int {
				t.Helper()
				client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
				req, err := http.NewRequest("GET", p.url+"/connected-apps", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Cookie", cookie)
				a, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer a.Body.Close()
				return a.StatusCode
			}
			before := signIn(old, http.StatusSeeOther)
			for range 5 {
				signIn("a wrong guess", http.StatusUnprocessableEntity)
			}
			signIn(old, http.StatusTooManyRequests)
			if got := page(before); got != http.StatusOK {
				t.Fatalf("the session is not one: %d", got)
			}
			for _, line := range lines {
				cmd := exec.Command("grantway", strings.Fields(strings.Replace(line, "ID", mara.ID, 1))...)
				cmd.Dir, cmd.Stdin = s.dir, strings.NewReader(fresh+"\n")
				said, err := cmd.CombinedOutput()
				if err != nil || !strings.Contains(string(said), mara.ID) {
					t.Fatalf("%s: %v %s", line, err, said)
				}
			}
			if got := page(before); got != http.StatusSeeOther {
				t.Errorf("a session of before: %d", got)
			}
			signIn(old, http.StatusUnprocessableEntity)
			if got := page(signIn(fresh, http.StatusSeeOther)); got != http.StatusOK {
				t.Errorf("by the new password: %d", got)
			}
			var events []eventDoc
			s.run("", &events, "events", "--kind", string(oauth.EventPasswordSet), "--user", mara.ID)
			if len(events) != 1 || events[0].Actor != "command" || events[0].Seq != 0 {
				t.Errorf("events: %+v", events)
			}
		})
	}
}
