package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver; pure Go, so the binary stays static
)

// sqlite has one writer goroutine. It runs all waiting events in one transaction,
// a savepoint each, and syncs once for all of them: group commit.
type sqlite struct {
	counters
	path    string
	writer  *sql.DB // one connection
	readers *sql.DB
	conn    *sql.Conn // of the writer
	queue   chan *job
	done    chan struct{}

	closing   sync.RWMutex // held for reading while a job is put into the queue
	closed    bool
	readStmts sync.Map // SQL text → *sql.Stmt
}

type job struct {
	event []statement
	err   chan error
}

const (
	groupMax    = 256 // events in one transaction
	readerConns = 4
)

// sqliteDSN opens path with full durability: a commit is synced before it is
// acknowledged. Another process (the command line) may hold the write lock, so
// everybody waits for it up to ten seconds, far longer than a group takes.
func sqliteDSN(path, more string) string {
	u := url.URL{Path: path}
	return "file:" + u.EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=synchronous(FULL)" + more
}

func openSQLite(ctx context.Context, path string) (*sqlite, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// SQLite would make the file readable to all.
	f, err := os.OpenFile(abs, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	f.Close()
	writer, err := sql.Open("sqlite", sqliteDSN(abs, ""))
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	writer.SetMaxOpenConns(1)
	conn, err := writer.Conn(ctx)
	if err != nil {
		writer.Close()
		return nil, fmt.Errorf("opening the database %s: %w", path, err)
	}
	readers, err := sql.Open("sqlite", sqliteDSN(abs, "&_pragma=query_only(1)"))
	if err != nil {
		writer.Close()
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	readers.SetMaxOpenConns(readerConns)
	readers.SetMaxIdleConns(readerConns)
	s := &sqlite{path: abs, writer: writer, readers: readers, queue: make(chan *job, 4*groupMax), done: make(chan struct{})}
	s.conn = conn
	go s.run(&writeConn{conn: conn, stmts: map[string]*sql.Stmt{}, counters: &s.counters})
	return s, nil
}

func (s *sqlite) lock(string, ...any) []statement { return nil }

func (s *sqlite) write(ctx context.Context, event []statement) error {
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	j := &job{event, make(chan error, 1)}
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return unavailable(errors.New("the database is closed"))
	}
	select {
	case s.queue <- j:
		s.closing.RUnlock()
	case <-ctx.Done():
		s.closing.RUnlock()
		return unavailable(ctx.Err())
	}
	return <-j.err
}

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
	durable := 0
	for i := range group {
		if err == nil && errs[i] == nil {
			durable++
		}
	}
	c.committed(durable)
	c.failed.Add(uint64(len(group) - durable))
	for i, j := range group {
		switch {
		case err != nil:
			j.err <- unavailable(err)
		case errs[i] != nil:
			j.err <- unavailable(errs[i])
		default:
			j.err <- nil
		}
	}
}

// transaction returns the errors of single events, which were rolled back alone,
// and the error that ended them all; broken says that an event caused that one.
func (c *writeConn) transaction(group []*job) (each []error, broken bool, all error) {
	ctx := context.Background()
	if err := c.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return nil, false, err
	}
	each = make([]error, len(group))
	for i, j := range group {
		if err := c.savepoint(ctx, j.event, &each[i]); err != nil {
			c.exec(ctx, "ROLLBACK")
			return nil, true, err
		}
	}
	if err := c.exec(ctx, "COMMIT"); err != nil {
		c.exec(ctx, "ROLLBACK")
		return nil, false, err
	}
	return each, false, nil
}

func (c *writeConn) savepoint(ctx context.Context, event []statement, failed *error) error {
	if err := c.exec(ctx, "SAVEPOINT event"); err != nil {
		return err
	}
	for i := range event {
		if err := c.step(ctx, &event[i]); err != nil {
			*failed = err
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

func (s *sqlite) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	if !storable(args) {
		return nil
	}
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

func (s *sqlite) tables(ctx context.Context) (n int, err error) {
	err = s.query(ctx, "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'", nil, func(scan func(...any) error) error { return scan(&n) })
	return n, err
}

func (s *sqlite) has(ctx context.Context, table string) (there bool, err error) {
	err = s.query(ctx, "SELECT COUNT(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = $1", []any{table}, func(scan func(...any) error) error { return scan(&there) })
	return there, err
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
	p, err := goose.NewProvider(goose.DialectSQLite3, db, migrations)
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
	return errors.Join(s.readers.Close(), s.conn.Close(), s.writer.Close())
}
