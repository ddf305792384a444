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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	sqlitedriver "modernc.org/sqlite" // pure Go, so the binary stays static
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/grantway/grantway/internal/oauth"
)

// sqlite has one writer goroutine. It runs all waiting events in one transaction,
// a savepoint each, and syncs once for all of them: group commit.
type sqlite struct {
	counters
	path    string
	writer  *sql.DB // one connection
	readers *sql.DB
	conn    *sql.Conn // of the writer
	shared  *os.File  // the lock that keeps a restore away; nil where none is needed
	queue   chan *job
	limit   time.Duration // writeLimit
	done    chan struct{}

	closing   sync.RWMutex // held for reading while a job is put into the queue
	closed    bool
	readStmts sync.Map // SQL text → *sql.Stmt
}

// job is an event that waits for the writer. Its caller may take it back until it is
// begun; from then on only the writer knows what becomes of it.
type job struct {
	event []statement
	err   chan error
	state atomic.Int32 // waiting, then begun or withdrawn
}

const (
	waiting int32 = iota
	begun
	withdrawn
)

func newJob(event []statement) *job { return &job{event: event, err: make(chan error, 1)} }

// begin reports whether the event is still wanted.
func (j *job) begin() bool { return j.state.CompareAndSwap(waiting, begun) || j.state.Load() == begun }

func (j *job) withdraw() bool { return j.state.CompareAndSwap(waiting, withdrawn) }

const (
	groupMax    = 256 // events in one transaction
	readerConns = 4
)

// sqliteDSN opens path with full durability: a commit is synced before it is
// acknowledged. Another process (the command line) may hold the write lock, so
// everybody waits for it up to ten seconds, far longer than a group takes. What
// undoes one event of a group stays in memory: a file for it was nine tenths of all
// that a group of 64 wrote (measured). A log that a long reader let grow is cut to
// 16 MiB when it begins anew.
func sqliteDSN(path, more string) string {
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)&_pragma=temp_store(MEMORY)&_pragma=journal_size_limit(16777216)" + more
}

// openSQLite opens the file at an absolute path, which is there.
func openSQLite(ctx context.Context, abs string) (*sqlite, error) {
	writer, err := sql.Open("sqlite", sqliteDSN(abs, ""))
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	writer.SetMaxOpenConns(1)
	conn, err := writer.Conn(ctx)
	if err != nil { // its first pragma looks into the file
		writer.Close()
		return nil, fmt.Errorf("opening the database %s: %w%s", abs, err, remedy(err))
	}
	readers, err := sql.Open("sqlite", sqliteDSN(abs, "&_pragma=query_only(1)"))
	if err != nil {
		writer.Close()
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	readers.SetMaxOpenConns(readerConns)
	readers.SetMaxIdleConns(readerConns)
	s := &sqlite{path: abs, writer: writer, readers: readers, queue: make(chan *job, 4*groupMax), limit: writeLimit, done: make(chan struct{})}
	s.conn = conn
	go s.run(&writeConn{conn: conn, stmts: map[string]*sql.Stmt{}, counters: &s.counters})
	return s, nil
}

// remedy says what to do about a file that cannot be used, or a server.
func remedy(err error) string {
	// goose passes over what it may not make, and then misses it.
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && (refusal.Code == "42501" || strings.Contains(refusal.Message, "goose_db_version")) {
		return ": the user in the database URL must own the database (ALTER DATABASE … OWNER TO …)"
	}
	code := 0
	if e, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		code = e.Code() & 0xff
	}
	switch {
	case code == sqlite3.SQLITE_NOTADB:
		return ": it is another kind of file; name the right one"
	case code == sqlite3.SQLITE_CORRUPT:
		return ": it is damaged; put a backup in its place"
	case code == sqlite3.SQLITE_FULL, errors.Is(err, syscall.ENOSPC):
		return ": make room on that disk"
	case code == sqlite3.SQLITE_READONLY, code == sqlite3.SQLITE_CANTOPEN, errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return ": grantway must be able to write this file and its folder"
	case errors.Is(err, syscall.EISDIR):
		return ": name a file in it"
	}
	return ""
}

func (s *sqlite) lock(string, ...any) []statement { return nil }

func (s *sqlite) write(ctx context.Context, event []statement) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	limit := time.NewTimer(s.limit)
	defer limit.Stop()
	j := newJob(event)
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return unavailable(errors.New("the database is closed"))
	}
	var err error
	select {
	case s.queue <- j:
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = errOverloaded
	}
	s.closing.RUnlock()
	if err != nil {
		return unavailable(err)
	}
	// A caller that goes away does not take its event along: it may be done already.
	select {
	case err := <-j.err:
		return err
	case <-limit.C:
		if j.withdraw() {
			s.failed.Add(1)
			return unavailable(errOverloaded)
		}
	}
	select {
	case err := <-j.err: // at the same moment
		return err
	default:
		return fmt.Errorf("%w: the disk has not answered within %v", oauth.ErrUnknown, s.limit)
	}
}

var errOverloaded = errors.New("the event was not begun in time: too many wait, or another process holds the database's write lock")

// run is the writer: whatever waits when a transaction ends makes the next one.
func (s *sqlite) run(c *writeConn) {
	defer func() {
		for _, stmt := range c.stmts {
			stmt.Close()
		}
		close(s.done)
	}()
	group := make([]*job, 0, groupMax)
	for first := range s.queue {
		group = append(group[:0], first)
	fill:
		for len(group) < groupMax {
			select {
			case j, ok := <-s.queue:
				if !ok {
					break fill
				}
				group = append(group, j)
			default:
				break fill
			}
		}
		c.commit(group)
	}
}

type writeConn struct {
	*counters
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
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
	ctx := context.Background()
	if err := c.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		// Were a transaction left open, no later one could begin.
		c.exec(ctx, "ROLLBACK")
		return nil, false, unavailable(err)
	}
	each = make([]error, len(group))
	for i, j := range group {
		if !j.begin() {
			continue
		}
		if err := c.savepoint(ctx, j.event, &each[i]); err != nil {
			c.exec(ctx, "ROLLBACK")
			return nil, true, unavailable(err)
		}
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		c.exec(ctx, "ROLLBACK")
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
	if e, ok := errors.AsType[*sqlitedriver.Error](err); ok {
		if primary := e.Code() & 0xff; primary == sqlite3.SQLITE_FULL || primary == sqlite3.SQLITE_BUSY {
			return unavailable(err)
		}
	}
	return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
}

func (c *writeConn) savepoint(ctx context.Context, event []statement, failed *error) error {
	if err := c.exec(ctx, "SAVEPOINT event"); err != nil {
		return err
	}
	for i := range event {
		if err := c.step(ctx, &event[i]); err != nil {
			*failed = unavailable(err)
			if err := c.exec(ctx, "ROLLBACK TO event"); err != nil {
				return err
			}
			break
		}
	}
	return c.exec(ctx, "RELEASE event")
}

func (c *writeConn) step(ctx context.Context, st *statement) error {
	stmt, err := c.prepare(ctx, st.sql)
	if err != nil {
		return err
	}
	if st.scan != nil {
		err := stmt.QueryRowContext(ctx, st.args...).Scan(st.scan...)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	}
	result, err := stmt.ExecContext(ctx, st.args...)
	if err != nil {
		return err
	}
	if st.rows != nil {
		*st.rows, err = result.RowsAffected()
	}
	return err
}

func (c *writeConn) exec(ctx context.Context, text string) error {
	stmt, err := c.prepare(ctx, text)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx)
	return err
}

func (c *writeConn) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	if stmt, ok := c.stmts[text]; ok {
		return stmt, nil
	}
	stmt, err := c.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("preparing a statement: %w", err)
	}
	c.stmts[text] = stmt
	return stmt, nil
}

// query does not watch ctx while it reads. What it reads is bounded and waits for
// nobody, and to watch a context that can end costs two goroutines for each query,
// one here and one of the driver: more than a read by key (measured).
func (s *sqlite) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	if !storable(args) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	ctx = context.WithoutCancel(ctx)
	cached, ok := s.readStmts.Load(text)
	if !ok {
		stmt, err := s.readers.PrepareContext(ctx, text)
		if err != nil {
			return unavailable(err)
		}
		var raced bool
		if cached, raced = s.readStmts.LoadOrStore(text, stmt); raced {
			stmt.Close()
		}
	}
	rows, err := cached.(*sql.Stmt).QueryContext(ctx, args...)
	if err != nil {
		return unavailable(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return unavailable(err)
	}
	return nil
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

func (s *sqlite) close() error {
	s.closing.Lock()
	if s.closed {
		s.closing.Unlock()
		return nil
	}
	s.closed = true
	close(s.queue)
	s.closing.Unlock()
	<-s.done
	// The writer last: whoever closes last folds the write-ahead log into the file,
	// and the readers may not write.
	s.readStmts.Range(func(_, stmt any) bool { stmt.(*sql.Stmt).Close(); return true })
	err := errors.Join(s.readers.Close(), s.conn.Close(), s.writer.Close())
	if s.shared != nil {
		err = errors.Join(err, releaseLock(s.shared))
	}
	return err
}

// keyedTable finds every table in the migrations. It is kept in the order of its key:
// by default SQLite keeps a table by numbers of its own and the key in an index
// beside it, so that each row costs a second tree (8 % of an exchange, measured).
var keyedTable = regexp.MustCompile(`(?m)^(CREATE TABLE [a-z_]+ \([^;]*\bPRIMARY KEY\b[^;]*\n\));`)
