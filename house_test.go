// Package grantway holds the tests about the code itself: who may import whom,
// what the papers promise, and why each dependency is there.
package grantway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/grantway/grantway"

type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Standard"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rules says what each package may import of ours ("internal/…") and of others
// (a module path). The standard library is free, except where banned names it.
var rules = map[string]struct{ ours, others, banned []string }{
	"resource":        {others: []string{"github.com/go-jose/go-jose/v4"}, banned: []string{"database/sql"}},
	"internal/oauth":  {others: []string{"github.com/go-jose/go-jose/v4"}, banned: []string{"net/http", "database/sql"}},
	"internal/people": {ours: []string{"internal/oauth"}, others: []string{"golang.org/x/crypto"}, banned: []string{"net/http", "database/sql"}},
	"internal/endpoint": {ours: []string{"internal/oauth"}, banned: []string{"database/sql"},
		others: []string{"github.com/maypok86/otter/v2", "golang.org/x/time"}},
	"internal/portal": {ours: []string{"internal/oauth", "internal/people"}, banned: []string{"database/sql"},
		others: []string{"github.com/nicksnyder/go-i18n/v2", "golang.org/x/text"}},
	"internal/sqlstore": {ours: []string{"internal/oauth", "internal/people"}, banned: []string{"net/http"},
		others: []string{"github.com/jackc/pgx/v5", "github.com/pressly/goose/v3", "golang.org/x/sys", "modernc.org/sqlite", "zombiezen.com/go/sqlite"}},
	"internal/config":      {ours: []string{"internal/oauth"}, others: []string{"github.com/goccy/go-yaml", "golang.org/x/text"}},
	"internal/demo":        {ours: []string{"internal/oauth", "internal/people", "resource"}},
	"internal/storagetest": {ours: []string{"internal/oauth", "internal/people"}, others: []string{"*"}},
	"internal/conformance": {others: []string{"*"}},
	"internal/chaos":       {ours: []string{"internal/storagetest", "resource"}, others: []string{"github.com/jackc/pgx/v5", "modernc.org/sqlite"}},
	"internal/bench":       {ours: []string{"internal/config", "internal/oauth", "internal/sqlstore", "internal/storagetest"}, others: []string{"*"}},
	"verifiers/node":       {},
	"internal/bench/floor": {others: []string{"github.com/jackc/pgx/v5", "modernc.org/sqlite"}},
}

func TestHouse_ImportsGoOneWay(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if strings.HasPrefix(name, "cmd/") || p.ImportPath == module {
			continue
		}
		rule, ok := rules[name]
		if !ok {
			if parent, found := rules[path.Dir(name)]; found && path.Base(path.Dir(name)) == "conformance" {
				rule = parent
			} else {
				t.Errorf("%s has no rule: say in house_test.go what it may import", name)
				continue
			}
		}
		for _, imported := range p.Imports {
			own, isOurs := strings.CutPrefix(imported, module+"/")
			switch {
			case isOurs && !slices.Contains(rule.ours, own):
				t.Errorf("%s imports %s", name, own)
			case slices.Contains(rule.banned, imported):
				t.Errorf("%s imports %s", name, imported)
			case !isOurs && strings.Contains(strings.SplitN(imported, "/", 2)[0], ".") && !allowed(rule.others, imported):
				t.Errorf("%s imports %s", name, imported)
			}
		}
	}
}

func allowed(modules []string, imported string) bool {
	return slices.ContainsFunc(modules, func(m string) bool {
		return m == "*" || imported == m || strings.HasPrefix(imported, m+"/")
	})
}

func TestHouse_Names(t *testing.T) {
	banned := regexp.MustCompile(`(Manager|Registry)$|^Core$`)
	walkGo(t, func(file string, f *ast.File) {
		switch f.Name.Name {
		case "pkg", "util", "utils", "common", "models", "mocks":
			t.Errorf("%s: a package is named for what it owns, not %q", file, f.Name.Name)
		}
		for _, d := range f.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, s := range g.Specs {
					if n := s.(*ast.TypeSpec).Name.Name; banned.MatchString(n) {
						t.Errorf("%s: the type %s says nothing of what it is", file, n)
					}
				}
			}
		}
	})
}

// Public names of the public package carry doc comments; so do those of the core,
// which everybody reads.
func TestHouse_PublicNamesAreDocumented(t *testing.T) {
	walkGo(t, func(file string, f *ast.File) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && d.Doc == nil && receiverExported(d) && !formality(d.Name.Name) {
					t.Errorf("%s: %s has no doc comment", file, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && d.Doc == nil {
						t.Errorf("%s: %s has no doc comment", file, ts.Name.Name)
					}
				}
			}
		}
	})
}

func receiverExported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	x := d.Recv.List[0].Type
	if star, ok := x.(*ast.StarExpr); ok {
		x = star.X
	}
	id, ok := x.(*ast.Ident)
	return ok && id.IsExported()
}

// formality names methods whose meaning an interface of the standard library fixes.
func formality(name string) bool {
	return slices.Contains([]string{"Error", "Unwrap", "String", "GoString", "Format", "MarshalText", "ServeHTTP", "Write", "WriteHeader", "Handle", "Is"}, name)
}

func walkGo(t *testing.T, visit func(file string, f *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	for _, file := range tracked(t, "*.go") {
		f, err := parser.ParseFile(fset, file, nil, parser.ParseComments)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		visit(file, f)
	}
}

// tracked lists the files of the tree that match, without what tools leave behind.
func tracked(t *testing.T, pattern string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if ok, _ := path.Match(pattern, d.Name()); ok && !d.IsDir() {
			files = append(files, filepath.ToSlash(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Every direct dependency stands in CONTRIBUTING.md with its reason, and nothing
// stands there that is not one.
func TestHouse_DependenciesHaveReasons(t *testing.T) {
	mod := read(t, "go.mod")
	papers := read(t, "CONTRIBUTING.md")
	direct := map[string]bool{}
	for _, line := range strings.Split(mod, "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		fields := strings.Fields(line)
		if len(fields) >= 2 && strings.HasPrefix(fields[1], "v") && !strings.Contains(line, "// indirect") {
			direct[fields[0]] = true
		}
	}
	if len(direct) < 5 {
		t.Fatalf("only %d direct dependencies read from go.mod", len(direct))
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9.-]+\\.[a-z]+/[^`]+)` \\|[^|]*\\|\\s*(\\S[^|]*)\\|")
	found := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(papers, -1) {
		found[m[1]] = true
		if !direct[m[1]] {
			t.Errorf("CONTRIBUTING.md names %s, which go.mod does not require directly", m[1])
		}
	}
	for d := range direct {
		if !found[d] {
			t.Errorf("%s has no row with its reason in CONTRIBUTING.md", d)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// specRow is a row of SPEC.md: a requirement, where it is met, what shows it.
type specRow struct{ id, what, code, proof string }

func specRows(t *testing.T) []specRow {
	t.Helper()
	var rows []specRow
	for _, line := range strings.Split(read(t, "SPEC.md"), "\n") {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(cells[0], "---") || strings.TrimSpace(cells[0]) == "id" {
			continue
		}
		if len(cells) != 4 {
			t.Errorf("SPEC.md: a row has %d cells, not 4: %s", len(cells), line)
			continue
		}
		rows = append(rows, specRow{strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])})
	}
	if len(rows) < 50 {
		t.Fatalf("only %d rows read from SPEC.md", len(rows))
	}
	return rows
}

var quoted = regexp.MustCompile("`([^`]+)`")

// Every requirement in SPEC.md names code that is there (`file.go:Name`) and a
// proof that is there: a test function, or a wire file under
// internal/conformance/testdata/wire (without its ending).
func TestHouse_SpecHasCodeAndTest(t *testing.T) {
	defined := map[string]map[string]bool{} // file → names
	tests := map[string]bool{}
	walkGo(t, func(file string, f *ast.File) {
		names := map[string]bool{}
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				names[d.Name.Name] = true
				if strings.HasSuffix(file, "_test.go") && regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)`).MatchString(d.Name.Name) {
					tests[d.Name.Name] = true
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						names[s.Name.Name] = true
					case *ast.ValueSpec:
						for _, n := range s.Names {
							names[n.Name] = true
						}
					}
				}
			}
		}
		defined[file] = names
	})
	seen := map[string]bool{}
	for _, r := range specRows(t) {
		if seen[r.id] {
			t.Errorf("%s stands twice", r.id)
		}
		seen[r.id] = true
		code, proof := quoted.FindAllStringSubmatch(r.code, -1), quoted.FindAllStringSubmatch(r.proof, -1)
		if len(code) == 0 || len(proof) == 0 {
			t.Errorf("%s names no code or no test", r.id)
		}
		for _, c := range code {
			file, name, _ := strings.Cut(c[1], ":")
			switch names := defined[file]; {
			case names == nil:
				if _, err := os.Stat(file); err != nil || name != "" {
					t.Errorf("%s: there is no file %s", r.id, file)
				}
			case name != "" && !names[name]:
				t.Errorf("%s: %s defines no %s", r.id, file, name)
			}
		}
		for _, p := range proof {
			if tests[p[1]] {
				continue
			}
			if matches, _ := filepath.Glob("internal/conformance/testdata/wire/" + p[1] + ".txtar"); len(matches) > 0 {
				continue
			}
			if _, err := os.Stat(p[1]); err == nil && strings.HasSuffix(p[1], ".txtar") {
				continue
			}
			t.Errorf("%s: there is no test or wire file %s", r.id, p[1])
		}
	}
	for _, id := range attacks {
		if !seen[id] {
			t.Errorf("the attack %s has no row in SPEC.md", id)
		}
	}
}

// attacks are the ids of the attack catalogue (threats to an authorization server,
// collected from RFC 6749, 6819, 9700 and published faults) that apply to what is
// built.
var attacks = func() (ids []string) {
	for letter, numbers := range map[string][]int{
		"A": {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 16, 17},
		"B": {1, 2, 3, 4, 5, 6, 8, 9, 10, 12},
		"C": {1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16},
		"D": {1, 2, 3, 4, 5, 6, 7, 8, 9, 13},
		"G": {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13},
	} {
		for _, n := range numbers {
			ids = append(ids, fmt.Sprintf("%s%d", letter, n))
		}
	}
	return ids
}()

// Nothing that is left for later may look as if it were there.
func TestHouse_NothingStandsForWhatIsNotThere(t *testing.T) {
	words := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|not (yet )?imple` + `mented|in a real (sys` + `tem|deploy` + `ment)`)
	for _, pattern := range []string{"*.go", "*.html", "*.css", "*.js", "*.mjs", "*.sh", "*.sql", "*.md", "*.json"} {
		for _, file := range tracked(t, pattern) {
			if strings.HasSuffix(file, "package-lock.json") {
				continue
			}
			for i, line := range strings.Split(read(t, file), "\n") {
				if m := words.FindString(line); m != "" {
					t.Errorf("%s:%d says %q", file, i+1, m)
				}
			}
		}
	}
}

// Tests do not sleep for luck. Time passes by the injected clock, in a bubble of
// testing/synctest, or until a condition is met; [time.After] is the limit of a select.
func TestHouse_TestsDoNotSleep(t *testing.T) {
	for _, file := range tracked(t, "*_test.go") {
		if why := sleeps(read(t, file)); why != "" {
			t.Errorf("%s %s: use the injected clock, testing/synctest or a condition", file, why)
		}
	}
	for text, want := range map[string]bool{
		"\ttime.Sl" + "eep(d)":                                                     true,
		"\t<-time.Af" + "ter(d)":                                                   true,
		"func passes(d time.Duration) { <-time.Af" + "ter(d) }":                    true,
		"import \"testing/synctest\"\nfunc passes() { <-time.Af" + "ter(d) }":      false,
		"import \"testing/synctest\"\nfunc passes() { time.Sl" + "eep(d) }":        true,
		"\tselect {\n\tcase <-time.Af" + "ter(time.Second):\n\tcase <-ended:\n\t}": false,
		"\tcase at := <-time.Af" + "ter(time.Second):":                             false,
	} {
		if got := sleeps(text) != ""; got != want {
			t.Errorf("%q sleeps: %v, want %v", text, got, want)
		}
	}
}

// A form is read in one place a package, after it was bounded (attack G5). What net/http
// offers beside reads a body of any method and size when it is asked for one field, and
// its files stay on the disk where a handler before has copied the request.
func TestHouse_G5_NobodyReadsAFormUnbounded(t *testing.T) {
	banned := []string{"FormValue", "PostFormValue", "FormFile", "MultipartReader", "ParseMultipartForm"}
	walkGo(t, func(file string, f *ast.File) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		for _, d := range f.Decls {
			bounded := false
			ast.Inspect(d, func(n ast.Node) bool { // in the order of the text
				s, ok := n.(*ast.SelectorExpr)
				switch {
				case !ok:
				case s.Sel.Name == "MaxBytesReader":
					bounded = true
				case slices.Contains(banned, s.Sel.Name), s.Sel.Name == "ParseForm" && !bounded:
					t.Errorf("%s: %s reads a form that nobody has bounded", file, s.Sel.Name)
				}
				return true
			})
		}
	})
}

// waited is a line that waits for a time, and for nothing else. The limit of a select
// is a case of it.
var waited = regexp.MustCompile(`(?m)^[^\n]*<-time\.Af` + `ter\(.*$`)

// sleeps says how a test sleeps, if it does.
func sleeps(text string) string {
	if strings.Contains(text, "time.Sl"+"eep(") {
		return "sleeps"
	}
	if strings.Contains(text, `"testing/synctest"`) {
		return ""
	}
	for _, line := range waited.FindAllString(text, -1) {
		if !strings.HasPrefix(strings.TrimSpace(line), "case ") {
			return "waits for a time to pass (" + strings.TrimSpace(line) + ")"
		}
	}
	return ""
}
