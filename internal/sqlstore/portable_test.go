package sqlstore

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// absent is what CockroachDB or YugabyteDB lack, or take for another thing than
// PostgreSQL does, each with a line that it must find.
var absent = []struct{ what, pattern, example string }{
	{"LISTEN and NOTIFY", `\b(LISTEN|NOTIFY|UNLISTEN)\s+[a-z_]|\bpg_notify\b`, "LISTEN feed"},
	{"advisory locks", `\bpg_(try_)?advisory_`, "SELECT pg_try_advisory_xact_lock(1)"},
	{"writes inside WITH", `\bAS\s+(NOT\s+)?(MATERIALIZED\s+)?\(\s*(INSERT|UPDATE|DELETE)\b`, "WITH w AS (UPDATE grants SET rev = 1 RETURNING id) SELECT 1"},
	{"shared row locks", `\bFOR\s+(KEY\s+)?SHARE\b`, "SELECT 1 FROM grants FOR SHARE"},
	// NOWAIT both have (YugabyteDB under READ COMMITTED), say their papers.
	{"rows passed over because they are locked", `\bSKIP\s+LOCKED\b`, "SELECT 1 FROM leases FOR UPDATE SKIP LOCKED"},
	{"locks of tables", `\bLOCK\s+TABLE\b`, "LOCK TABLE grants"},
	{"triggers and rules", `\bCREATE\s+(OR\s+REPLACE\s+)?(CONSTRAINT\s+)?(TRIGGER|RULE)\b`, "CREATE TRIGGER t AFTER INSERT ON grants"},
	{"stored code", `\bCREATE\s+(OR\s+REPLACE\s+)?(FUNCTION|PROCEDURE|AGGREGATE)\b|\bDO\s+\$\$|\bCALL\s+[a-z_]+\(`, "CREATE OR REPLACE FUNCTION f() RETURNS INT"},
	{"sequences", `\b(BIG|SMALL)?SERIAL\b|\bSEQUENCE\b|\bnextval\b|\bGENERATED\b`, "CREATE TABLE t (id BIGSERIAL)"},
	{"temporary tables", `\b(TEMP|TEMPORARY|UNLOGGED)\s+TABLE\b`, "CREATE TEMP TABLE t (id TEXT)"},
	{"other indexes than ordered ones", `\bUSING\s+(GIN|GIST|BRIN|SPGIST|HASH)\b`, "CREATE INDEX i ON t USING gin (a)"},
	{"extensions and types", `\bCREATE\s+(EXTENSION|TYPE|DOMAIN)\b`, "CREATE EXTENSION pgcrypto"},
	{"constraints checked at the end", `\bDEFERRABLE\b|\bEXCLUDE\s+USING\b`, "REFERENCES t DEFERRABLE"},
	{"conflicts by a constraint's name", `\bON\s+CONFLICT\s+ON\s+CONSTRAINT\b`, "ON CONFLICT ON CONSTRAINT c DO NOTHING"},
	{"columns of the system", `\b(ctid|xmin|xmax|rowid)\b`, "SELECT ctid FROM grants"},
	{"the server's clock", `\b(now|clock_timestamp|statement_timestamp)\s*\(|\bCURRENT_TIMESTAMP\b`, "SELECT now()"},
	{"statistics of the whole database", `\bANALYZE(;|$)`, "ANALYZE"},
	{"MERGE", `\bMERGE\s+INTO\b`, "MERGE INTO t USING s ON t.id = s.id"},
}

// The SQL rests on nothing that distributed databases with PostgreSQL's protocol
// lack. They were not tried: this only keeps the way open.
func TestSQL_NothingThatDistributedSQLLacks(t *testing.T) {
	texts := sqlTexts(t)
	if len(texts) < 100 {
		t.Fatalf("only %d statements found", len(texts))
	}
	for _, a := range absent {
		pattern := regexp.MustCompile(`(?i)` + a.pattern)
		if !pattern.MatchString(a.example) {
			t.Errorf("%s: the pattern does not find its own example", a.what)
		}
		for where, text := range texts {
			if found := pattern.FindString(text); found != "" {
				t.Errorf("%s uses %s: %q", where, a.what, found)
			}
		}
	}
}

// onFilesOnly are functions whose SQL only ever runs in a SQLite file: the triggers
// by which a copy follows the file that it leaves.
var onFilesOnly = map[string]bool{"noting": true}

// sqlTexts collects every text of this package's code that is SQL, by its place, and
// the migrations without their comments.
func sqlTexts(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	isSQL := regexp.MustCompile(`(?is)^\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|BEGIN|COMMIT|SET|LOCK|COPY|TRUNCATE|LISTEN|NOTIFY|CALL|DO|MERGE|VACUUM|ANALYZE|AND|OR|WHERE|FROM|EXISTS|ON|ORDER|FOR|UNION|VALUES|RETURNING)\b|\b(SELECT|WHERE|FROM|VALUES)\b.*[=$(]`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if f, ok := n.(*ast.FuncDecl); ok && onFilesOnly[f.Name.Name] {
				return false
			}
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && isSQL.MatchString(text) {
					texts[fset.Position(lit.Pos()).String()] = text
				}
			}
			return true
		})
	}
	comment := regexp.MustCompile(`(?m)--.*$`)
	err = fs.WalkDir(migrations, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(migrations, path)
		texts[path] = comment.ReplaceAllString(string(text), "")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// What an engine needs said otherwise is said of every table: SQLite keeps each in
// the order of its key, and PostgreSQL compares texts byte by byte.
func TestMigrate_WhatEachEngineNeeds(t *testing.T) {
	for engine, odd := range map[string]string{
		"SQLite":   "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%' AND sql NOT LIKE '%WITHOUT ROWID'",
		"Postgres": "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = CURRENT_SCHEMA AND table_name NOT LIKE 'goose%' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'",
	} {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsns()[engine](t))
			if n := count(t, s, "grants"); n != 0 {
				t.Fatalf("%d grants", n)
			}
			list, err := texts(t.Context(), s.engine, odd)
			if err != nil || len(list) > 0 {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}
