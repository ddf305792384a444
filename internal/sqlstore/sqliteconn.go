package sqlstore

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	zombiezen "zombiezen.com/go/sqlite"
)

// sqliteConn is a connection to a SQLite file, for one goroutine at a time.
//
// It is not that of the driver for database/sql, which asks for the name and the
// declared type of every column of every answer, and for the name of every parameter
// each time: a third of what a question by key cost, and three quarters of what it
// allocated (measured). The driver stays in use where whole tables are copied.
type sqliteConn struct {
	*zombiezen.Conn
	stmts map[string]*sqliteStmt // by text: all that it was ever given
}

type sqliteStmt struct {
	*zombiezen.Stmt
	columns int
	params  []int // which argument each parameter is; $2 may come first
}

// sqliteCode returns the primary result code of an error of SQLite, whoever called
// it; 0 of any other error.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok { // the driver's
		return e.Code() & 0xff
	}
	if code := zombiezen.ErrCode(err); code != zombiezen.ResultOK {
		return int(code.ToPrimary())
	}
	return 0
}

// bare is what SQLite said. The library puts the statement before it, which tells an
// operator nothing.
func bare(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}

// openSQLiteConn opens the file at path, and keeps to the pragmas.
func openSQLiteConn(path string, pragmas ...string) (*sqliteConn, error) {
	conn, err := zombiezen.OpenConn(path, zombiezen.OpenReadWrite|zombiezen.OpenCreate)
	if err != nil {
		return nil, bare(err)
	}
	c := &sqliteConn{conn, map[string]*sqliteStmt{}}
	for i := 0; err == nil && i < len(pragmas); i++ {
		_, err = c.run("PRAGMA "+pragmas[i], nil, nil)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *sqliteConn) close() error { return c.Close() }

// unpeeked are parameters that SQLite's planner looks into: it takes a statement for
// outdated as soon as another value is bound to one, and each run began with parsing
// it anew, which is most of what a small read costs (a decision took 0.35 ms of
// processor more by the one that it has). Nobody looks into an expression.
var unpeeked = regexp.MustCompile(`\b(LIMIT|OFFSET) (\$[0-9]+)`)

func (c *sqliteConn) prepare(text string) (*sqliteStmt, error) {
	if s, ok := c.stmts[text]; ok {
		return s, nil
	}
	stmt, err := c.Prepare(unpeeked.ReplaceAllString(text, "$1 CAST($2 AS INTEGER)"))
	if err != nil {
		return nil, bare(err)
	}
	s := &sqliteStmt{Stmt: stmt, columns: stmt.ColumnCount()}
	for i := range stmt.BindParamCount() {
		name := stmt.BindParamName(i + 1)
		n, err := strconv.Atoi(name[min(1, len(name)):])
		if err != nil || n < 1 {
			return nil, fmt.Errorf("a statement has a parameter %q; they are numbered: %s", name, text)
		}
		s.params = append(s.params, n-1)
	}
	c.stmts[text] = s
	return s, nil
}

// run runs a statement to its end, calls row for each row of its answer, and returns
// how many rows it changed.
func (c *sqliteConn) run(text string, args []any, row func(scan func(...any) error) error) (changed int64, err error) {
	s, err := c.prepare(text)
	if err != nil {
		return 0, err
	}
	defer func() {
		s.Reset() // what it returns is what the step did
		s.ClearBindings()
	}()
	if err := s.bind(args); err != nil {
		return 0, err
	}
	var scan func(dest ...any) error
	for {
		more, err := s.Step()
		switch {
		case err != nil:
			return 0, bare(err)
		case !more:
			return int64(c.Changes()), nil
		case row == nil:
			continue
		case scan == nil:
			scan = s.scan
		}
		if err := row(scan); err != nil {
			return 0, err
		}
	}
}

// bind gives a statement its arguments.
func (s *sqliteStmt) bind(args []any) error {
	for i, of := range s.params {
		if of >= len(args) {
			return fmt.Errorf("a statement has no argument $%d", of+1)
		}
		switch v := args[of].(type) {
		case nil:
			s.BindNull(i + 1)
		case string:
			s.BindText(i+1, v)
		case []byte:
			if v == nil {
				s.BindNull(i + 1)
			} else {
				s.BindBytes(i+1, v)
			}
		case int64:
			s.BindInt64(i+1, v)
		case int:
			s.BindInt64(i+1, int64(v))
		case bool:
			s.BindBool(i+1, v)
		default:
			return fmt.Errorf("an argument is a %T", v)
		}
	}
	return nil
}

// scan copies the row at which a statement stands. A column is read as what it holds:
// a number does not become a text.
func (s *sqliteStmt) scan(dest ...any) error {
	if len(dest) != s.columns {
		return fmt.Errorf("%d destinations for %d columns", len(dest), s.columns)
	}
	for i := range dest {
		kind := s.ColumnType(i)
		ok := true
		switch d := dest[i].(type) {
		case *string:
			if ok = kind == zombiezen.TypeText; ok {
				*d = s.ColumnText(i)
			}
		case **string:
			*d = nil
			if kind == zombiezen.TypeText {
				text := s.ColumnText(i)
				*d = &text
			} else {
				ok = kind == zombiezen.TypeNull
			}
		case *[]byte:
			*d = nil
			if kind == zombiezen.TypeBlob {
				*d = make([]byte, s.ColumnLen(i))
				s.ColumnBytes(i, *d)
			} else {
				ok = kind == zombiezen.TypeNull
			}
		case *int64:
			if ok = kind == zombiezen.TypeInteger; ok {
				*d = s.ColumnInt64(i)
			}
		case *int:
			if ok = kind == zombiezen.TypeInteger; ok {
				*d = int(s.ColumnInt64(i))
			}
		case *bool:
			if ok = kind == zombiezen.TypeInteger; ok {
				*d = s.ColumnBool(i)
			}
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("column %d holds what a %T cannot (%v)", i+1, dest[i], kind)
		}
	}
	return nil
}
