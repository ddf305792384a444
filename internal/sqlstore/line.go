package sqlstore

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// line is the way to the server that takes writes: which of the hosts that is, and
// whether it still answers. One connection of its own is asked every beat.
//
// A server that was stopped, or a network that swallows packets, keeps connections
// open and answers nothing. An event may take long for a good reason (its row is
// locked, the disk is busy), so its limit is of no use to tell; a question that
// needs neither row nor disk is. When it has had no answer within beatLimit, every
// connection is cut: whoever waits is told at once, nobody else begins to, and the
// first moment in which the server answers again finds no connection in use that
// is dead.
//
// All connections of a node lead to one host, the one of the line, so a node never
// reads from a server that was demoted beside one that writes to its successor.
type line struct {
	hosts []*pgx.ConnConfig
	reset func() // drops the idle connections of the pool

	mu      sync.Mutex
	at      *pgx.ConnConfig
	up      chan struct{} // closed while the server answers
	since   time.Time     // when it ceased to
	why     error         // what is said of it meanwhile
	sockets map[*socket]bool

	stop context.CancelFunc
	done chan struct{}
}

const (
	beatEvery = 200 * time.Millisecond
	beatLimit = time.Second
	findEvery = 200 * time.Millisecond // between two attempts at every host
	// starved is how late we may notice that an answer is late before we doubt
	// ourselves rather than the server: the process got no time.
	starved = 250 * time.Millisecond
)

var (
	errSilent  = errors.New("the database does not answer")
	errStandby = errors.New(errReadOnly.Error()) // for good, as far as is known: nobody tries again
	errMoved   = errors.New("another server of the database takes the writes now")
)

// newLine makes the line of a pool, which it leads from then on.
func newLine(config *pgxpool.Config) *line {
	l := &line{hosts: hostsOf(config.ConnConfig), up: make(chan struct{}), since: time.Now(), why: errSilent, sockets: map[*socket]bool{}, done: make(chan struct{})}
	config.BeforeConnect, config.AfterConnect, config.ConnConfig.DialFunc = l.lead, l.follows, l.dial
	return l
}

// open finds the server and follows it until the line is closed. first leads to one
// of the hosts, it is not known to which.
func (l *line) open(ctx context.Context, pool *pgxpool.Pool, first *pgx.Conn) (err error) {
	l.reset = pool.Reset
	if len(l.hosts) == 1 {
		l.follow(ctx, l.hosts[0], first)
		return nil
	}
	first.Close(ctx)
	for _, host := range l.hosts {
		var conn *pgx.Conn
		if conn, err = pgx.ConnectConfig(ctx, host); err == nil {
			l.follow(ctx, host, conn)
			return nil
		}
	}
	return err
}

// follow asks the server on conn until the line is closed.
func (l *line) follow(ctx context.Context, host *pgx.ConnConfig, conn *pgx.Conn) {
	l.take(host)
	var beating context.Context
	beating, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	go l.beat(beating, conn)
}

// hostsOf splits a configuration into one for each host. What pgx calls fallbacks
// are other hosts, and other ways to one (sslmode=prefer).
func hostsOf(config *pgx.ConnConfig) (hosts []*pgx.ConnConfig) {
	all := append([]*pgconn.FallbackConfig{{Host: config.Host, Port: config.Port, TLSConfig: config.TLSConfig}}, config.Fallbacks...)
	for _, way := range all {
		if n := len(hosts); n > 0 && hosts[n-1].Host == way.Host && hosts[n-1].Port == way.Port {
			hosts[n-1].Fallbacks = append(hosts[n-1].Fallbacks, way)
			continue
		}
		one := config.Copy()
		one.Host, one.Port, one.TLSConfig, one.Fallbacks = way.Host, way.Port, way.TLSConfig, nil
		hosts = append(hosts, one)
	}
	return hosts
}

// find asks every host again and again until one takes writes, and takes the line
// there. It returns nil if ctx ends first. An attempt into silence does not keep
// the next one from beginning.
func (l *line) find(ctx context.Context) *pgx.Conn {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		conn *pgx.Conn
		host *pgx.ConnConfig
		err  error
	}
	answers := make(chan answer)
	try := func(host *pgx.ConnConfig) {
		conn, err := pgx.ConnectConfig(ctx, host)
		select {
		case answers <- answer{conn, host, err}:
		case <-ctx.Done():
			if err == nil {
				conn.Close(ctx)
			}
		}
	}
	tick := time.NewTicker(findEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		for _, host := range l.hosts {
			go try(host)
		}
	listen:
		for {
			select {
			case a := <-answers:
				if a.err == nil {
					l.take(a.host)
					return a.conn
				}
				if len(l.hosts) == 1 { // of several some are standbys, whatever is wrong
					l.mu.Lock()
					if l.why = errSilent; errors.Is(a.err, errReadOnly) {
						l.why = errStandby
					}
					l.mu.Unlock()
				}
				if _, answered := errors.AsType[*pgconn.PgError](a.err); answered && a.host == l.at {
					began = time.Now() // it is there, and has no room for us or is starting
				}
			case <-tick.C:
				break listen
			case <-ctx.Done():
				return nil
			}
		}
		if time.Since(began) > beatLimit {
			l.cut()
		}
	}
}

// take moves the line to a host that takes writes.
func (l *line) take(host *pgx.ConnConfig) {
	l.mu.Lock()
	moved := l.at != host
	l.at = host
	close(l.up)
	l.mu.Unlock()
	if moved {
		l.cut()
	}
}

// lost is what is told to who needs the server while it is looked for.
func (l *line) lost() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// lose says that the server is looked for.
func (l *line) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.since, l.why = make(chan struct{}), time.Now(), errSilent
}

// cut closes every connection, also under whoever waits for an answer.
func (l *line) cut() {
	l.mu.Lock()
	for s := range l.sockets {
		s.Conn.Close()
	}
	clear(l.sockets)
	l.mu.Unlock()
	l.reset()
}

// beat asks the server until ctx ends, and finds it again when it is lost.
func (l *line) beat(ctx context.Context, conn *pgx.Conn) {
	defer close(l.done)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for conn != nil {
		select {
		case <-ctx.Done():
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), beatLimit)
			defer cancel()
			conn.Close(limited)
			return
		case <-tick.C:
		}
		if l.answers(ctx, conn) {
			continue
		}
		l.lose()
		conn = l.find(ctx)
	}
}

// answers asks once. If no answer came, the connections are cut; on an error they
// are left alone, for each of them learns by itself what became of it.
func (l *line) answers(ctx context.Context, conn *pgx.Conn) bool {
	sent := time.Now()
	limited, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	_, err := askPeer(limited, conn.PgConn())
	if err == nil {
		return true
	}
	if limited.Err() != nil && ctx.Err() == nil && time.Since(sent) < beatLimit+starved {
		l.cut()
	}
	if errors.Is(err, errReadOnly) {
		l.reset()
	}
	cancel() // a silence gets no farewell
	conn.Close(limited)
	return false
}

// lead points a new connection of the pool to where the server is. If the server is
// being looked for, it waits as long as a silence may last, and no longer: then
// everybody is refused at once.
func (l *line) lead(ctx context.Context, config *pgx.ConnConfig) error {
	l.mu.Lock()
	up, since := l.up, l.since
	l.mu.Unlock()
	select {
	case <-up:
	default:
		limit := time.NewTimer(time.Until(since.Add(beatLimit)))
		defer limit.Stop()
		select {
		case <-up:
		case <-limit.C:
			return l.lost()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	config.Host, config.Port, config.TLSConfig, config.Fallbacks = l.at.Host, l.at.Port, l.at.TLSConfig, l.at.Fallbacks
	return nil
}

// follows refuses a connection that was on its way while the line moved: it leads to
// the server of before. One that is dialled before the move is cut by it.
func (l *line) follows(_ context.Context, conn *pgx.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to := conn.Config(); to.Host != l.at.Host || to.Port != l.at.Port {
		return errMoved
	}
	return nil
}

// dial makes the connections of the pool, and those on which it asks the server to
// give up a statement: none while the server is silent.
func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
	default:
		return nil, l.lost()
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s := &socket{conn, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sockets[s] = true
	return s, nil
}

// close ends what open began.
func (l *line) close() {
	if l.stop != nil {
		l.stop()
		<-l.done
	}
}

// socket is a connection that the line can cut.
type socket struct {
	net.Conn
	line *line
}

func (s *socket) Close() error {
	s.line.mu.Lock()
	delete(s.line.sockets, s)
	s.line.mu.Unlock()
	return s.Conn.Close()
}
