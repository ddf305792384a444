package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver "sqlite": pure Go, so the binary stays static
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/grantway/grantway/internal/oauth"
)

// sqlite has one writer goroutine, which is the gatherer: it runs all waiting events in
// one transaction, a savepoint each, and syncs once for all of them (group commit). It
// also answers visits. Every commit empties the page caches of all connections but the
// one that made it, so that what they read anew was a quarter of an exchange (measured).
type sqlite struct {
	counters
	writer  *gatherer
	lookups *gatherer // of what is asked about keys
	path    string
	conn    *sqliteConn // of the writer
	readers readers
	shared  *os.File // the lock that keeps a restore away; nil where none is needed
}

const readerConns = 4

// sqlitePragmas give full durability: a commit is synced before it is acknowledged.
// Another process (the command line) may hold the write lock, so everybody waits for
// it up to ten seconds, far longer than a group takes. What undoes one event of a
// group stays in memory: a file for it was nine tenths of all that a group of 64
// wrote (measured). A log that a long reader let grow is cut to 16 MiB when it begins
// anew.
var sqlitePragmas = []string{"busy_timeout(10000)", "synchronous(FULL)", "temp_store(MEMORY)", "journal_size_limit(16777216)"}

// sqliteDSN is path for the driver.
func sqliteDSN(path, more string) string {
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?_pragma=" + strings.Join(sqlitePragmas, "&_pragma=") + more
}

// unsynced is for a file that is nobody's database yet. Whoever makes it one syncs it.
const unsynced = "synchronous(OFF)"

// openSQLite opens the file at an absolute path, which is there, with more pragmas than
// all have.
func openSQLite(abs string, more ...string) (*sqlite, error) {
	conn, err := openSQLiteConn(abs, slices.Concat(sqlitePragmas, more)...)
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w%s", abs, err, remedy(err))
	}
	s := &sqlite{path: abs, conn: conn, readers: readers{out: make(chan struct{}, readerConns)}}
	s.writer, s.lookups = newGatherer(&s.counters, writeLimit), newGatherer(&s.counters, writeLimit)
	w := &writeConn{conn: conn, counters: &s.counters}
	go s.writer.run(conn.answer, w.commit)
	go s.lookups.run(s.lookUp, nil)
	return s, nil
}

// remedy says what to do about a file that cannot be used, or a server.
func remedy(err error) string {
	// Whoever may not look into a schema is told that nothing is there (42P01), and goose
	// passes over what it may not make, and then misses it.
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && (refusal.Code == "42501" || refusal.Code == "42P01" || strings.Contains(refusal.Message, "goose_db_version")) {
		return ": the user in the database URL must own the database (ALTER DATABASE … OWNER TO …) and the tables in it"
	}
	code := sqliteCode(err)
	switch {
	case code == sqlite3.SQLITE_NOTADB:
		return ": it is another kind of file; name the right one"
	case code == sqlite3.SQLITE_CORRUPT:
		return ": it is damaged; put a backup in its place"
	case code == sqlite3.SQLITE_FULL, errors.Is(err, syscall.ENOSPC):
		return ": make room on that disk"
	case code == sqlite3.SQLITE_IOERR:
		return ": the disk is full or faulty; make room on it, and see what the system's log says"
	case errors.Is(err, fs.ErrPermission):
		return ": grantway must be able to write this file and its folder: chown them to the user that it runs as"
	case code == sqlite3.SQLITE_READONLY, code == sqlite3.SQLITE_CANTOPEN, errors.Is(err, syscall.EROFS):
		return ": grantway must be able to write this file and its folder"
	case errors.Is(err, fs.ErrNotExist):
		return ": name a file in a folder that is there"
	case errors.Is(err, syscall.EISDIR):
		return ": name a file in it"
	}
	return ""
}

func (s *sqlite) lock(string, ...any) []statement { return nil }

func (s *sqlite) write(ctx context.Context, event []statement) error {
	return s.writer.write(ctx, event)
}

func (s *sqlite) leave(v *visit) { s.writer.leave(v) }

type writeConn struct {
	*counters
	conn *sqliteConn
}

// answer reads what several ask, all in one view.
func (c *sqliteConn) answer(questions []*job) {
	together := len(questions) > 1 && c.exec("BEGIN") == nil
	for _, j := range questions {
		if j.begin() {
			j.err <- c.ask(j.sql, j.args, j.row)
		}
	}
	if together && c.exec("COMMIT") != nil {
		c.exec("ROLLBACK")
	}
}

// commit runs a group in one transaction and answers each of its jobs. If the
// transaction cannot be begun or committed, all get that error. If one event broke
// it, so that its neighbours would fail with it, each is tried again alone.
func (c *writeConn) commit(group []*job) {
	errs, broken, err := c.transaction(group)
	if broken && len(group) > 1 {
		for _, j := range group {
			c.commit([]*job{j})
		}
		return
	}
	if err != nil {
		errs = slices.Repeat([]error{err}, len(group))
	}
	durable, failed := 0, 0
	for i, j := range group {
		switch {
		case j.state.Load() == withdrawn: // its caller has said so, and counted it
		case errs[i] == nil:
			durable++
		default:
			failed++
		}
	}
	// Counted first: who has an answer finds it in the counts.
	c.committed(durable)
	c.failed.Add(uint64(failed))
	for i, j := range group {
		j.err <- errs[i]
	}
}

// transaction returns the errors of single events, which were rolled back alone,
// and the error that ended them all; broken says that an event caused that one.
func (c *writeConn) transaction(group []*job) (each []error, broken bool, all error) {
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		// Were a transaction left open, no later one could begin.
		c.exec("ROLLBACK")
		return nil, false, unavailable(err)
	}
	each = make([]error, len(group))
	for i, j := range group {
		if !j.begin() {
			continue
		}
		if err := c.savepoint(j.event, &each[i]); err != nil {
			c.exec("ROLLBACK")
			return nil, true, unavailable(err)
		}
	}
	if err := c.exec("COMMIT"); err != nil {
		c.exec("ROLLBACK")
		return nil, false, uncommitted(err)
	}
	return each, false, nil
}

// uncommitted says what a failed COMMIT means. On a full disk the record that ends
// the transaction was not written whole, so nothing of it counts. After any other
// fault, such as a failed fdatasync, that record may be on the disk: this process
// does not look at it and writes the next transaction over it, but if it ends before
// that, whoever opens the file next finds the transaction there. So the outcome is
// unknown.
func uncommitted(err error) error {
	switch sqliteCode(err) {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY:
		return unavailable(err)
	}
	return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
}

func (c *writeConn) savepoint(event []statement, failed *error) error {
	if err := c.exec("SAVEPOINT event"); err != nil {
		return err
	}
	for i := range event {
		if err := c.step(&event[i]); err != nil {
			*failed = c.conn.failed(err)
			if err := c.exec("ROLLBACK TO event"); err != nil {
				return err
			}
			break
		}
	}
	return c.exec("RELEASE event")
}

func (c *writeConn) step(st *statement) error {
	if st.scan != nil {
		_, err := c.conn.run(st.sql, st.args, func(scan func(...any) error) error { return scan(st.scan...) })
		return err
	}
	changed, err := c.conn.run(st.sql, st.args, nil)
	if err == nil && st.rows != nil {
		*st.rows = changed
	}
	return err
}

func (c *writeConn) exec(text string) error { return c.conn.exec(text) }

func (c *sqliteConn) exec(text string) error {
	_, err := c.run(text, nil, nil)
	return err
}

// query does not look at ctx while it reads: what it reads is bounded and waits for
// nobody.
func (s *sqlite) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	if !storable(args) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	if g := company(ctx, s.writer, s.lookups); g != nil {
		return g.ask(ctx, text, args, row)
	}
	c, err := s.reader(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer s.readers.back(c)
	return c.ask(text, args, row)
}

// lookUp answers on one connection for all: what one of them reads is there for the next.
func (s *sqlite) lookUp(questions []*job) {
	c, err := s.reader(context.Background())
	if err != nil {
		for _, j := range questions {
			j.err <- unavailable(err)
		}
		return
	}
	defer s.readers.back(c)
	c.answer(questions)
}

func (c *sqliteConn) ask(text string, args []any, row func(func(...any) error) error) error {
	var refused error
	_, err := c.run(text, args, func(scan func(...any) error) error {
		refused = row(scan)
		return refused
	})
	if err != nil && refused == nil {
		return c.failed(err)
	}
	return err
}

// failed says what the failure of a statement means. The tables of a file that has moved
// have other names, which is no fault of the statement.
func (c *sqliteConn) failed(err error) error {
	var moved error
	if sqliteCode(err) == sqlite3.SQLITE_ERROR {
		c.run("SELECT place FROM copy_state WHERE role = 'moved'", nil, func(scan func(...any) error) error { // without such a table it is another's file
			var place string
			err := scan(&place)
			if err == nil {
				moved = movedTo(place)
			}
			return err
		})
	}
	if moved != nil {
		return fmt.Errorf("%w: %w", oauth.ErrMoved, moved)
	}
	return unavailable(err)
}

// readers are the connections that read. The one that came back last goes out first:
// every commit empties their caches, and what few of them have read anew serves more
// questions.
type readers struct {
	out  chan struct{} // one for each that is in use
	mu   sync.Mutex
	idle []*sqliteConn
}

// reader lends a connection, which must be given back.
func (s *sqlite) reader(ctx context.Context) (c *sqliteConn, err error) {
	r := &s.readers
	select {
	case r.out <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.writer.done:
		return nil, errClosed
	}
	r.mu.Lock()
	if n := len(r.idle); n > 0 {
		c, r.idle = r.idle[n-1], r.idle[:n-1]
	}
	r.mu.Unlock()
	if c == nil {
		if c, err = openSQLiteConn(s.path, append(slices.Clip(sqlitePragmas), "query_only(1)")...); err != nil {
			<-r.out
		}
	}
	return c, err
}

func (r *readers) back(c *sqliteConn) {
	r.mu.Lock()
	r.idle = append(r.idle, c)
	r.mu.Unlock()
	<-r.out
}

// close waits for those that are in use, and lets none out any more.
func (r *readers) close() (err error) {
	for range readerConns {
		r.out <- struct{}{}
	}
	for _, c := range r.idle {
		err = errors.Join(err, c.close())
	}
	return err
}

func (*sqlite) listed(arg int) string {
	return fmt.Sprintf("SELECT value AS id FROM json_each($%d)", arg)
}

// writable: a file that may not be written is refused when it is opened.
func (s *sqlite) writable(context.Context) error { return nil }

func (s *sqlite) deposable() bool { return false }

func (s *sqlite) tables(ctx context.Context) ([]string, error) {
	return texts(ctx, s, "SELECT name FROM sqlite_master WHERE type = 'table'")
}

func (s *sqlite) migrator(migrations fs.FS) (*goose.Provider, func() error, error) {
	// A connection of its own: goose wants a pool, and the writer's one is taken. WAL
	// is a property of the file, so it is set here: a file that is only opened, and
	// perhaps not ours, is left as it is.
	db, err := sql.Open("sqlite", sqliteDSN(s.path, "&_pragma=journal_mode(WAL)&_txlock=immediate"))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, rewritten{migrations, keyedTable, "${1} WITHOUT ROWID;"})
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return p, db.Close, nil
}

// logsAhead gives a file that is at our schema its write-ahead log back, if somebody
// took it away, as an earlier restore did from what it put aside. Nobody would notice:
// without it a commit may be undone by a loss of power, because SQLite does not sync
// the folder after the journal was removed, and whoever reads for long, such as a
// backup, keeps all others from writing.
func (s *Store) logsAhead(ctx context.Context) error {
	if _, ok := s.engine.(*sqlite); !ok {
		return nil
	}
	var mode string
	if err := s.row(ctx, "PRAGMA journal_mode", nil, &mode); err != nil || mode == "wal" {
		return err
	}
	schema, err := s.Schema(ctx)
	if err != nil || schema.Unready || schema.Have != schema.Want {
		return err
	}
	return s.Migrate(ctx)
}

func (s *sqlite) close() error {
	if !s.writer.close() {
		return nil
	}
	s.lookups.close()
	// The writer last: whoever closes last folds the write-ahead log into the file,
	// and the readers may not write.
	err := errors.Join(s.readers.close(), s.conn.close())
	if s.shared != nil {
		err = errors.Join(err, releaseLock(s.shared))
	}
	return err
}

// keyedTable finds every table in the migrations. It is kept in the order of its key:
// by default SQLite keeps a table by numbers of its own and the key in an index
// beside it, so that each row costs a second tree (8 % of an exchange, measured).
var keyedTable = regexp.MustCompile(`(?m)^(CREATE TABLE [a-z_]+ \([^;]*\bPRIMARY KEY\b[^;]*\n\));`)
