package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/grantway/grantway/internal/oauth"
)

// postgres sends each event as one batch: one round trip and one implicit
// transaction. The server groups the flushes itself. What visits ask goes out together,
// and so do their events, in one transaction: a statement costs the server half as much
// there as one that comes alone (measured).
type postgres struct {
	counters
	pool    *pgxpool.Pool
	room    room
	line    *line
	visits  *gatherer
	lookups *gatherer // of what is asked about keys

	rehearses  atomic.Bool
	rehearsing sync.Mutex
}

const (
	retriesMax   = 10
	connectLimit = 3 * time.Second // for each host, unless the URL says otherwise
	acquireLimit = 2 * time.Second // for a connection to be free
	aliveLimit   = time.Second     // for a connection that lay idle to show that it is alive
)

func openPostgres(ctx context.Context, dsn string) (*postgres, error) {
	config, err := parseURL(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolMax
	config.PingTimeout = aliveLimit
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectLimit
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "grantway"
	}
	first, err := suit(ctx, config.ConnConfig)
	if err != nil {
		return nil, unreachable(config.ConnConfig, err)
	}
	line := newLine(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the database: %w", err), first.Close(ctx))
	}
	p := newPostgres(pool, line)
	if err := line.open(ctx, pool, first); err != nil {
		return nil, errors.Join(unreachable(config.ConnConfig, err), p.close())
	}
	return p, nil
}

func newPostgres(pool *pgxpool.Pool, line *line) *postgres {
	p := &postgres{pool: pool, room: newRoom(), line: line}
	p.visits, p.lookups = newGatherer(&p.counters, acquireLimit), newGatherer(&p.counters, acquireLimit)
	p.visits.ends, p.lookups.ends = true, true
	go p.visits.run(func(questions []*job) { p.answer(context.Background(), questions) }, p.commit)
	go p.lookups.run(func(questions []*job) { p.answer(forAPIs.of(context.Background()), questions) }, nil)
	return p
}

func parseURL(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading the database URL: %s", unreadable(dsn, err))
	}
	if spilt(dsn, config.ConnConfig) {
		return nil, errors.New("reading the database URL: " + urlForm)
	}
	return config, nil
}

const urlForm = "write postgres://user:password@host:5432/database, with %40 for an @ in the password, %2F for a / and %23 for a #"

// spilt reports whether a part of the password was taken for what follows it, and would be
// printed as that: it has a character that ends it in a URL.
func spilt(dsn string, c *pgx.ConnConfig) bool {
	parts := []string{c.Host, c.Database}
	for _, f := range c.Fallbacks {
		parts = append(parts, f.Host)
	}
	return strings.Contains(dsn, "#") || slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(s, "@") })
}

// CheckName reports what can be told to be wrong with the name of a database without
// opening it.
func CheckName(dsn string) error {
	if !IsPostgres(dsn) {
		return nil
	}
	_, err := parseURL(dsn)
	return err
}

// unreadable says what is wrong with a URL. pgx quotes it, with what looks like the
// password taken out: only what follows is passed on, and only where the password
// is known not to be in it.
func unreadable(dsn string, err error) string {
	u, bad := url.Parse(dsn)
	_, why, found := strings.Cut(err.Error(), "`: ")
	if bad == nil && found {
		if password, _ := u.User.Password(); password == "" || !strings.Contains(why, password) {
			if strings.Contains(why, "sslmode is invalid") {
				why = "sslmode is not one that there is: write disable, require, verify-ca or verify-full"
			}
			if strings.Contains(why, "CA file") || strings.Contains(why, "CA to cert pool") {
				why += ": sslrootcert names the file of the authority's certificate, in PEM"
			}
			return why
		}
	}
	return urlForm
}

func (p *postgres) leave(v *visit) { p.visits.leave(v) }

func (p *postgres) lock(sql string, args ...any) []statement {
	return []statement{do(sql+" FOR UPDATE", args...)}
}

// write retries what the server gave up for the sake of another transaction
// (serialization failure, deadlock), and what it refused because it takes no writes
// any more, on a new connection: nothing of those was kept.
func (p *postgres) write(ctx context.Context, event []statement) error {
	if v := visitOf(ctx); v != nil {
		if !groupable(event) {
			p.leave(v)
		} else if err := p.visits.write(ctx, event); !errors.Is(err, errAlone) {
			return err
		} else {
			ctx = context.WithoutCancel(ctx) // it was queued
		}
	}
	err := p.send(ctx, event)
	if err != nil {
		p.failed.Add(1)
		return err
	}
	p.committed(1)
	return nil
}

func (p *postgres) send(ctx context.Context, event []statement) error {
	// A caller that goes away does not stop an event half way: its outcome would
	// then be unknown.
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
	defer cancel()
	for try := 0; ; try++ {
		conn, err := p.acquire(ctx)
		if err != nil { // nobody there, or none free: nothing was sent
			return unavailable(err)
		}
		committing, err := batch(ctx, conn.Conn, event)
		if err == nil {
			p.release(conn)
			return nil
		}
		conn.Release()
		state, refused := errors.AsType[*pgconn.PgError](err)
		switch {
		case unknown(err, committing):
			return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
		case !refused, try == retriesMax:
			return unavailable(err)
		}
		switch {
		case gaveUp(err):
		case state.Code == readOnly:
			p.pool.Reset()
		default:
			return unavailable(err)
		}
		p.retries.Add(1)
		if err := pause(ctx, try); err != nil {
			return unavailable(err)
		}
	}
}

// errAlone tells a caller to ask, or to write, by himself.
var errAlone = errors.New("not in company")

// groupable reports whether an event may share a transaction: its first lock is that of
// one grant, which a group takes in the order of all. The row of the feed is not held for
// a whole group.
func groupable(event []statement) bool {
	return len(event) > 0 && event[0].grant != "" && !slices.ContainsFunc(event, func(st statement) bool { return st.feed })
}

// Whoever waits for a row has his whole group wait along. So a group waits for no grant,
// and for other rows (a code, which a new epoch holds for long) less than it takes the
// server to look for a deadlock, which it may be in: if one is locked, each event is left
// to wait for its own.
const (
	lockGrants  = "SELECT id FROM grants WHERE id = ANY($1) ORDER BY id FOR UPDATE NOWAIT"
	lockBriefly = "SELECT set_config('lock_timeout', '50ms', TRUE)"
)

// commit writes the events of visits in one transaction. If it keeps nothing, each is sent
// by itself, which tries again what is worth it, and finds out which of them is at fault.
func (p *postgres) commit(group []*job) {
	if group = wanted(group); len(group) == 0 {
		return
	}
	err := p.together(group)
	switch {
	case err == nil:
		p.committed(len(group))
	case !errors.Is(err, errAlone):
		p.failed.Add(uint64(len(group)))
	}
	for _, j := range group {
		j.err <- err
	}
}

// wanted are the jobs that nobody has taken back.
func wanted(jobs []*job) []*job {
	return slices.DeleteFunc(slices.Clone(jobs), func(j *job) bool { return !j.begin() })
}

// together sends a group. errAlone says that nothing of it was kept.
func (p *postgres) together(group []*job) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeLimit)
	defer cancel()
	conn, err := p.acquire(ctx)
	if err != nil { // nobody there, or none free: nothing was sent
		return unavailable(err)
	}
	ids := make([]string, len(group))
	all := make([]statement, 2, 2+4*len(group))
	for i, j := range group {
		ids[i] = j.event[0].grant
		all = append(all, j.event[1:]...)
	}
	all[0], all[1] = do(lockBriefly), do(lockGrants, ids)
	committing, err := batch(ctx, conn.Conn, all)
	if err == nil {
		p.release(conn)
		return nil
	}
	conn.Release()
	if unknown(err, committing) {
		return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
	}
	p.retries.Add(uint64(len(group)))
	return errAlone
}

// answer asks several questions in one round trip.
func (p *postgres) answer(ctx context.Context, questions []*job) {
	if questions = wanted(questions); len(questions) == 0 {
		return
	}
	left, err := p.askTogether(ctx, questions)
	for _, j := range left {
		j.err <- err
	}
}

// askTogether returns the questions that it has not answered, and what to tell them. One
// that fails takes those that come after it along, so each of them is asked by itself.
func (p *postgres) askTogether(ctx context.Context, questions []*job) ([]*job, error) {
	ctx, cancel := context.WithTimeout(ctx, acquireLimit) // whoever comes meanwhile waits no longer either
	defer cancel()
	conn, err := p.acquire(ctx)
	if err != nil {
		return questions, unavailable(err)
	}
	defer p.release(conn)
	b := &pgx.Batch{}
	for _, j := range questions {
		b.Queue(j.sql, j.args...)
	}
	results := conn.SendBatch(ctx, b)
	defer results.Close()
	for i, j := range questions {
		rows, err := results.Query()
		switch {
		case ctx.Err() != nil:
			return questions[i:], unavailable(ctx.Err())
		case err != nil:
			return questions[i:], errAlone
		}
		if err = eachRow(rows, j.row); err != nil && rows.Err() != nil {
			j.err <- err // some of its rows may have been taken
			return questions[i+1:], errAlone
		}
		j.err <- err
	}
	return nil, nil
}

// gaveUp reports whether the server gave up a transaction for the sake of another.
func gaveUp(err error) bool {
	state, refused := errors.AsType[*pgconn.PgError](err)
	return refused && (state.Code == "40001" || state.Code == "40P01") // serialization failure, deadlock
}

// pause is what lies between two tries.
func pause(ctx context.Context, try int) error {
	select {
	case <-time.After(time.Duration(rand.Int64N(int64(time.Millisecond) << min(try, 6)))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unknown reports whether an event that failed may have been kept all the same.
func unknown(err error, committing bool) bool {
	if _, unsent := errors.AsType[pgx.ErrPreprocessingBatch](err); unsent {
		return false
	}
	if state, refused := errors.AsType[*pgconn.PgError](err); refused {
		return !keptNothing(state, committing)
	}
	return !pgconn.SafeToRetry(err)
}

// keptNothing reports whether the server's refusal shows that it has kept nothing of
// an event. An error does. The end of a session does unless every statement was
// answered, since the commit may then have been done. A panic never does: the server
// failed to write its log, and the record of the commit may be in it. Class 08 is
// what a pooler says that has lost its server, and 40003 what CockroachDB says of a
// commit that it does not know the outcome of.
func keptNothing(e *pgconn.PgError, committing bool) bool {
	severity := e.SeverityUnlocalized
	if severity == "" {
		severity = e.Severity
	}
	return !strings.HasPrefix(e.Code, "08") && e.Code != "40003" && (severity == "ERROR" || severity == "FATAL" && !committing)
}

// placed is a connection with the place of its user.
type placed struct {
	*pgxpool.Conn
	place chan struct{}
}

// Release gives back both.
func (c placed) Release() {
	c.Conn.Release()
	<-c.place
}

// acquire waits for a place and a connection no longer than acquireLimit: when the
// server is slower than its callers are many, they are refused rather than heaped up.
func (p *postgres) acquire(ctx context.Context) (c placed, err error) {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, acquireLimit)
	defer cancel()
	if c.place, err = p.room.take(ctx); err != nil {
		return c, err
	}
	if c.Conn, err = p.connect(ctx); err != nil {
		<-c.place
	}
	return c, err
}

// connect takes a connection from the pool.
func (p *postgres) connect(ctx context.Context) (*pgxpool.Conn, error) {
	for began := time.Now(); ; {
		conn, err := p.pool.Acquire(ctx)
		switch {
		case err == nil, ctx.Err() != nil:
			return conn, err
		case wasCut(err):
			// A socket that was cut here because its server was silent says nothing of the
			// server that the next one leads to.
		case errors.Is(err, errReadOnly) && len(p.line.hosts) > 1 && time.Since(began) < beatEvery+beatLimit:
			// It has just become a standby, and the line finds its successor.
			select {
			case <-time.After(beatEvery / 10):
			case <-ctx.Done():
			}
		default:
			return nil, err
		}
	}
}

// wasCut reports whether a connection was closed at this end before it could be used:
// under whoever waited for an answer, or, in pgx's words, between two questions.
func wasCut(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed)
}

// batch sends an event. committing says that every statement was answered, so that
// an error is one of the commit.
func batch(ctx context.Context, conn *pgxpool.Conn, event []statement) (committing bool, err error) {
	b := &pgx.Batch{}
	for i := range event {
		b.Queue(event[i].sql, event[i].args...)
	}
	results := conn.SendBatch(ctx, b)
	for i := range event {
		st := &event[i]
		if st.scan != nil {
			if err := results.QueryRow().Scan(st.scan...); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				results.Close()
				return false, err
			}
			continue
		}
		tag, err := results.Exec()
		if err != nil {
			results.Close()
			return false, err
		}
		if st.rows != nil {
			*st.rows = tag.RowsAffected()
		}
	}
	return true, results.Close()
}

func (p *postgres) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	if !storable(args) {
		return nil
	}
	if g := company(ctx, p.visits, p.lookups); g != nil {
		if err := g.ask(ctx, sql, args, row); !errors.Is(err, errAlone) {
			return err
		}
	}
	// A server that has fallen silent must not keep a caller who sets no limit.
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	conn, err := p.acquire(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer p.release(conn)
	return ask(ctx, conn.Conn, sql, args, row)
}

func ask(ctx context.Context, conn *pgxpool.Conn, sql string, args []any, row func(func(...any) error) error) error {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return unavailable(err)
	}
	return eachRow(rows, row)
}

// eachRow takes the rows of an answer.
func eachRow(rows pgx.Rows, row func(func(...any) error) error) error {
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

func (*postgres) listed(arg int) string {
	return fmt.Sprintf("SELECT jsonb_array_elements_text(CAST(CAST($%d AS TEXT) AS JSONB)) AS id", arg)
}

// writable also drops the connections to a server that takes no writes any more, so
// that the next ones find the one that does.
func (p *postgres) writable(ctx context.Context) error {
	var only string
	err := p.query(ctx, "SELECT current_setting('transaction_read_only')", nil, func(scan func(...any) error) error { return scan(&only) })
	if err == nil && only == "on" {
		p.pool.Reset()
		err = unavailable(errReadOnly)
	}
	return err
}

func (p *postgres) deposable() bool { return true }

func (p *postgres) tables(ctx context.Context) ([]string, error) {
	// information_schema hides what the user may not touch: tables of somebody else's would
	// look like none. Who may not even look into the schema is in none, and ours is public.
	return texts(ctx, p, `SELECT CASE WHEN n.nspname = COALESCE(CURRENT_SCHEMA, 'public') THEN '' ELSE n.nspname || '.' END || c.relname
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND substr(n.nspname, 1, 3) <> 'pg_'`)
}

func (p *postgres) migrator(migrations fs.FS) (*goose.Provider, func() error, error) {
	// A lock table, not an advisory lock: distributed SQL has none. One that was
	// killed keeps the lock for the rest of its lease.
	locker, err := lock.NewPostgresTableLocker(lock.WithTableLockTimeout(100*time.Millisecond, 600),
		lock.WithTableLeaseDuration(5*time.Second), lock.WithTableHeartbeatInterval(time.Second))
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDBFromPool(p.pool)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, rewritten{migrations, textColumn, `${1}TEXT COLLATE "C"`}, goose.WithLocker(locker))
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return provider, db.Close, nil
}

// textColumn finds every text column in the migrations. It is compared byte by byte,
// as SQLite does: what one engine sorts first, the other must, whatever language the
// database was created for.
var textColumn = regexp.MustCompile(`(?m)^(    [a-z0-9_]+ +)TEXT\b`)

// place names the database for people: without user and password.
func (p *postgres) place() string {
	c := p.pool.Config().ConnConfig
	return fmt.Sprintf("%s/%s", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), c.Database)
}

func (p *postgres) close() error {
	p.visits.close()
	p.lookups.close()
	p.pool.Close()
	p.line.close()
	return nil
}

// archive copies the rows into a SQLite file, in one view of the database, and
// compares counts and checksums in that same view.
func (p *postgres) archive(ctx context.Context, to string, progress func(Progress)) (err error) {
	e, err := openSQLite(to)
	if err != nil {
		return err
	}
	target := &Store{engine: e}
	defer func() { err = errors.Join(err, target.Close()) }()
	if err := target.Migrate(ctx); err != nil {
		return err
	}
	_, err = copyTables(ctx, &Store{engine: p}, target, nil, progress)
	return err
}
