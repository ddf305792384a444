package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/storagetest"
)

// The section "PostgreSQL" of docs/operating.md, line by line on a server of its own.
func TestOperating_PostgreSQL(t *testing.T) {
	t.Parallel()
	server := storagetest.StartServer(t, storagetest.Setup{
		Files:   map[string]string{"hba": "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"},
		Options: []string{"hba_file=hba"},
	})
	paper, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(paper), "\n## PostgreSQL\n")
	section, _, _ = strings.Cut(section, "\n## ")
	lines := func(language string) []string {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)\n```").FindStringSubmatch(section)
		if m == nil {
			t.Fatalf("the section has no block of %s", language)
		}
		return strings.Split(m[1], "\n")
	}

	conn, err := pgx.Connect(t.Context(), server.URL+"postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, line := range lines("sql") {
		if _, err := conn.Exec(t.Context(), line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	s := &site{t, t.TempDir()}
	commands := lines("sh")
	if len(commands) != 3 || commands[2] != "grantway serve --config config.yaml" {
		t.Fatalf("the commands are %q", commands)
	}
	setUp := strings.NewReplacer("db.example:5432", server.Addr, "sslmode=verify-full", "sslmode=disable").Replace(strings.Join(commands[:2], "\n"))
	cmd := exec.Command("sh", "-e", "-c", setUp)
	cmd.Dir, cmd.Env = s.dir, []string{"PATH=" + os.Getenv("PATH")}
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	name, address, _ := strings.Cut(strings.TrimPrefix(strings.SplitN(setUp, "\n", 2)[0], "export "), "=")
	written, err := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
	if err != nil || strings.Contains(string(written), "secret@") || !strings.Contains(string(written), name+" held it") {
		t.Errorf("the file does not say where the address is, or holds it: %v\n%s", err, written)
	}
	// Without the variable it is no server on another database.
	if said, err := grantway(s.dir, "", "serve", "--config", "config.yaml", "--listen", "127.0.0.1:0"); err == nil || strings.Count(err.Error(), "\n") > 2 ||
		!strings.Contains(err.Error(), "the configuration has one mistake: database is not set") {
		t.Errorf("without %s: %s %v", name, said, err)
	}
	// Set up once more it would be two servers, with two rings, on one database.
	again := strings.Replace(setUp, "--dir .", "--dir again", 1)
	cmd = exec.Command("sh", "-e", "-c", again)
	cmd.Dir, cmd.Env = s.dir, []string{"PATH=" + os.Getenv("PATH")}
	if said, err := cmd.CombinedOutput(); err == nil || again == setUp || !strings.HasPrefix(string(said), "grantway: the database is set up already") || strings.Count(string(said), "\n") != 1 {
		t.Errorf("init once more: %v %s", err, said)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "again")); !os.IsNotExist(err) {
		t.Errorf("it left a folder: %v", err)
	}
	// The third line, on a free port.
	p, err := startServe(s.dir, []string{name + "=" + strings.Trim(address, "'")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	if status, said := p.get("/readyz"); status != 200 {
		t.Errorf("readiness: %d %s", status, said)
	}
	var tables int
	other, err := pgx.Connect(t.Context(), strings.Replace(server.URL, "postgres@", "grantway:secret@", 1)+"grantway?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	if err := other.QueryRow(t.Context(), "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'public'").Scan(&tables); err != nil || tables < 10 {
		t.Errorf("%d tables in the role's database, %v", tables, err)
	}
	var names int
	if err := other.QueryRow(t.Context(), "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'grantway' AND usename = 'grantway'").Scan(&names); err != nil || names == 0 {
		t.Errorf("%d sessions are called grantway, %v", names, err)
	}
}
