package main

import (
	"os"
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
	if len(commands) != 2 || commands[1] != "grantway serve --config config.yaml" {
		t.Fatalf("the commands are %q", commands)
	}
	before := commands[0]
	here := strings.NewReplacer("db.example:5432", server.Addr, "sslmode=verify-full", "sslmode=disable", "'", "").Replace(before)
	s.run("", nil, strings.Fields(here)[1:]...)
	p := s.serve() // the second line, on a free port
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
