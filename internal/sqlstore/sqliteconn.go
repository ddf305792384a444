package sqlstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteConn is a connection to a SQLite file, for one goroutine at a time: it has no
// lock. It keeps every statement that it was ever given.
//
// It calls the library itself. The driver for database/sql asks for the name and the
// declared type of every column of every answer, for the name of every parameter
// each time, and gets memory for every argument: a third of what a question by key
// cost, and three quarters of what it allocated (measured). The driver stays in use
// where whole tables are copied.
type sqliteConn struct {
	tls   *libc.TLS
	db    uintptr
	stmts map[string]*sqliteStmt // by text
	// Memory that the library sees: the texts among the arguments of the statement
	// that runs, and a pointer that a call gives back.
	room    uintptr
	roomLen int
	back    uintptr
}

type sqliteStmt struct {
	handle  uintptr
	columns int
	params  []int // which argument each parameter is; $2 may come first
}

// sqliteError is what the library refused, and why.
type sqliteError struct {
	code int // extended result code
	text string
}

func (e *sqliteError) Error() string { return e.text }

// Code returns the extended result code, as that of the driver's errors does.
func (e *sqliteError) Code() int { return e.code }

// sqliteCode returns the primary result code of an error of the library, whoever
// called it; 0 of any other error.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// openSQLiteConn opens the file at path, and keeps to the pragmas.
func openSQLiteConn(path string, pragmas ...string) (*sqliteConn, error) {
	c := &sqliteConn{tls: libc.NewTLS(), stmts: map[string]*sqliteStmt{}}
	err := c.open(path)
	for i := 0; err == nil && i < len(pragmas); i++ {
		_, err = c.run("PRAGMA "+pragmas[i], nil, nil)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *sqliteConn) open(path string) (err error) {
	if c.back, err = c.alloc(strconv.IntSize / 8); err != nil {
		return err
	}
	if err := c.makeRoom(4096); err != nil {
		return err
	}
	name, err := c.zeroEnded(path)
	if err != nil {
		return err
	}
	defer sqlite3.Xsqlite3_free(c.tls, name)
	rc := sqlite3.Xsqlite3_open_v2(c.tls, name, c.back,
		sqlite3.SQLITE_OPEN_READWRITE|sqlite3.SQLITE_OPEN_CREATE|sqlite3.SQLITE_OPEN_NOMUTEX|sqlite3.SQLITE_OPEN_EXRESCODE, 0)
	c.db = c.given() // also where it failed, to say why
	if rc != sqlite3.SQLITE_OK {
		return c.failure(rc)
	}
	return nil
}

// close also works on a connection that was only half opened.
func (c *sqliteConn) close() error {
	for _, s := range c.stmts {
		sqlite3.Xsqlite3_finalize(c.tls, s.handle)
	}
	clear(c.stmts)
	var err error
	if rc := sqlite3.Xsqlite3_close_v2(c.tls, c.db); rc != sqlite3.SQLITE_OK {
		err = c.failure(rc)
	}
	sqlite3.Xsqlite3_free(c.tls, c.room)
	sqlite3.Xsqlite3_free(c.tls, c.back)
	c.tls.Close()
	return err
}

// failure is the error of a call that returned rc.
func (c *sqliteConn) failure(rc int32) error {
	text := libc.GoString(sqlite3.Xsqlite3_errstr(c.tls, rc))
	if c.db != 0 {
		if why := libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db)); why != text {
			text += ": " + why
		}
	}
	return &sqliteError{int(rc), fmt.Sprintf("%s (%d)", text, rc)}
}

func (c *sqliteConn) alloc(n int) (uintptr, error) {
	p := sqlite3.Xsqlite3_malloc(c.tls, int32(n))
	if p == 0 {
		return 0, c.failure(sqlite3.SQLITE_NOMEM)
	}
	return p, nil
}

// zeroEnded copies a text to where the library can read it. Free it.
func (c *sqliteConn) zeroEnded(text string) (uintptr, error) {
	p, err := c.alloc(len(text) + 1)
	if err == nil {
		b := libc.GoBytes(p, len(text)+1)
		b[copy(b, text)] = 0
	}
	return p, err
}

// given is the pointer that the last call gave back.
func (c *sqliteConn) given() uintptr {
	b := libc.GoBytes(c.back, strconv.IntSize/8)
	if len(b) == 4 {
		return uintptr(binary.NativeEndian.Uint32(b))
	}
	return uintptr(binary.NativeEndian.Uint64(b))
}

func (c *sqliteConn) prepare(text string) (*sqliteStmt, error) {
	if s, ok := c.stmts[text]; ok {
		return s, nil
	}
	p, err := c.zeroEnded(text)
	if err != nil {
		return nil, err
	}
	defer sqlite3.Xsqlite3_free(c.tls, p)
	if rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, p, int32(len(text)), sqlite3.SQLITE_PREPARE_PERSISTENT, c.back, 0); rc != sqlite3.SQLITE_OK {
		return nil, c.failure(rc)
	}
	s := &sqliteStmt{handle: c.given()}
	s.columns = int(sqlite3.Xsqlite3_column_count(c.tls, s.handle))
	for i := range sqlite3.Xsqlite3_bind_parameter_count(c.tls, s.handle) {
		name := libc.GoString(sqlite3.Xsqlite3_bind_parameter_name(c.tls, s.handle, i+1))
		n, err := strconv.Atoi(name[min(1, len(name)):])
		if err != nil || n < 1 {
			sqlite3.Xsqlite3_finalize(c.tls, s.handle)
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
		// What the reset returns is what the step did.
		sqlite3.Xsqlite3_reset(c.tls, s.handle)
		sqlite3.Xsqlite3_clear_bindings(c.tls, s.handle)
	}()
	if err := c.bind(s, args); err != nil {
		return 0, err
	}
	var scan func(dest ...any) error
	for {
		switch rc := sqlite3.Xsqlite3_step(c.tls, s.handle); rc {
		case sqlite3.SQLITE_DONE:
			return sqlite3.Xsqlite3_changes64(c.tls, c.db), nil
		case sqlite3.SQLITE_ROW:
			if row == nil {
				continue
			}
			if scan == nil {
				scan = func(dest ...any) error { return c.scan(s, dest) }
			}
			if err := row(scan); err != nil {
				return 0, err
			}
		default:
			return 0, c.failure(rc)
		}
	}
}

// bind gives a statement its arguments. Texts are copied into the room, where they
// stay until the next statement runs.
func (c *sqliteConn) bind(s *sqliteStmt, args []any) (err error) {
	size := 0
	for _, of := range s.params {
		if of >= len(args) {
			return fmt.Errorf("a statement has no argument $%d", of+1)
		}
		switch v := args[of].(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		}
	}
	if size > c.roomLen {
		if err := c.makeRoom(2 * size); err != nil {
			return err
		}
	}
	at := c.room // never 0, or an empty text would be NULL
	for i, of := range s.params {
		var rc int32
		n := int32(i + 1)
		switch v := args[of].(type) {
		case nil:
			rc = sqlite3.Xsqlite3_bind_null(c.tls, s.handle, n)
		case string:
			copy(libc.GoBytes(at, len(v)), v)
			rc = sqlite3.Xsqlite3_bind_text(c.tls, s.handle, n, at, int32(len(v)), sqliteStatic)
			at += uintptr(len(v))
		case []byte:
			if v == nil {
				rc = sqlite3.Xsqlite3_bind_null(c.tls, s.handle, n)
				break
			}
			copy(libc.GoBytes(at, len(v)), v)
			rc = sqlite3.Xsqlite3_bind_blob(c.tls, s.handle, n, at, int32(len(v)), sqliteStatic)
			at += uintptr(len(v))
		case int64:
			rc = sqlite3.Xsqlite3_bind_int64(c.tls, s.handle, n, v)
		case int:
			rc = sqlite3.Xsqlite3_bind_int64(c.tls, s.handle, n, int64(v))
		case bool:
			rc = sqlite3.Xsqlite3_bind_int(c.tls, s.handle, n, libc.Bool32(v))
		default:
			return fmt.Errorf("an argument is a %T", v)
		}
		if rc != sqlite3.SQLITE_OK {
			return c.failure(rc)
		}
	}
	return nil
}

// sqliteStatic says that what is bound stays where it is (SQLITE_STATIC).
const sqliteStatic = 0

func (c *sqliteConn) makeRoom(n int) error {
	room, err := c.alloc(n)
	if err != nil {
		return err
	}
	sqlite3.Xsqlite3_free(c.tls, c.room)
	c.room, c.roomLen = room, n
	return nil
}

// scan copies the row at which a statement stands. A column is read as what it holds:
// a number does not become a text.
func (c *sqliteConn) scan(s *sqliteStmt, dest []any) error {
	if len(dest) != s.columns {
		return fmt.Errorf("%d destinations for %d columns", len(dest), s.columns)
	}
	for i := range dest {
		n := int32(i)
		kind := sqlite3.Xsqlite3_column_type(c.tls, s.handle, n)
		ok := true
		switch d := dest[i].(type) {
		case *string:
			if ok = kind == sqlite3.SQLITE_TEXT; ok {
				*d = string(c.bytes(s, n))
			}
		case **string:
			*d = nil
			if kind == sqlite3.SQLITE_TEXT {
				text := string(c.bytes(s, n))
				*d = &text
			} else {
				ok = kind == sqlite3.SQLITE_NULL
			}
		case *[]byte:
			*d = nil
			if kind == sqlite3.SQLITE_BLOB {
				*d = append([]byte{}, c.bytes(s, n)...)
			} else {
				ok = kind == sqlite3.SQLITE_NULL
			}
		case *int64:
			if ok = kind == sqlite3.SQLITE_INTEGER; ok {
				*d = sqlite3.Xsqlite3_column_int64(c.tls, s.handle, n)
			}
		case *int:
			if ok = kind == sqlite3.SQLITE_INTEGER; ok {
				*d = int(sqlite3.Xsqlite3_column_int64(c.tls, s.handle, n))
			}
		case *bool:
			if ok = kind == sqlite3.SQLITE_INTEGER; ok {
				*d = sqlite3.Xsqlite3_column_int64(c.tls, s.handle, n) != 0
			}
		default:
			ok = false
		}
		if !ok {
			return fmt.Errorf("column %d holds what a %T cannot (%d)", i+1, dest[i], kind)
		}
	}
	return nil
}

// bytes are those of a text or a blob. They are the library's, until it goes on.
func (c *sqliteConn) bytes(s *sqliteStmt, column int32) []byte {
	p := sqlite3.Xsqlite3_column_blob(c.tls, s.handle, column)
	n := sqlite3.Xsqlite3_column_bytes(c.tls, s.handle, column)
	if p == 0 {
		return nil
	}
	return libc.GoBytes(p, int(n))
}
