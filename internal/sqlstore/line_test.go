package sqlstore

import (
	"context"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// A server whose answers, or whom our requests, do not reach keeps nobody waiting:
// who asked before is told within two seconds, for an event that its outcome is
// unknown; who asks later, at once. When the network is whole again the first call
// succeeds, though more calls were under way than there are connections.
func TestPostgres_SilenceIsNoticed(t *testing.T) {
	for way, name := range map[storagetest.Way]string{storagetest.Requests: "requests are lost", storagetest.Answers: "answers are lost"} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(storagetest.Postgres(t))
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := storagetest.NewProxy(u.Host)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { proxy.Close() })
			u.Host = proxy.Addr()
			s := openAt(t, u.String())
			if err := s.engine.write(t.Context(), put(0)); err != nil {
				t.Fatal(err)
			}

			proxy.Lose(way, true)
			began := time.Now()
			var group sync.WaitGroup
			for i := 1; i <= 2*poolMax; i++ {
				group.Go(func() {
					if err := s.engine.write(t.Context(), put(i)); !errors.Is(err, oauth.ErrUnavailable) {
						t.Errorf("an event into the silence: %v", err)
					}
				})
			}
			group.Go(func() {
				if err := s.Ping(t.Context()); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
					t.Errorf("a read into the silence: %v", err)
				}
			})
			group.Wait()
			if took := time.Since(began); took > beatEvery+2*beatLimit+starved {
				t.Errorf("the last one was told after %v", took)
			}
			began = time.Now()
			if err := s.engine.write(t.Context(), put(1000)); !errors.Is(err, oauth.ErrUnavailable) || errors.Is(err, oauth.ErrUnknown) {
				t.Errorf("an event in a silence that is known: %v", err)
			}
			if took := time.Since(began); took > beatLimit+starved { // what waits for an answer waits for so long, or longer
				t.Errorf("in a silence that is known, told after %v", took)
			}

			proxy.Lose(way, false)
			if err := within(20*time.Second, func() bool { return s.Ping(t.Context()) == nil }); err != nil {
				t.Fatal("after the silence:", err)
			}
			if err := s.engine.write(t.Context(), put(1001)); err != nil {
				t.Errorf("after the silence: %v", err)
			}
		})
	}
}

// within asks again and again until it is so, or the time is over.
func within(limit time.Duration, so func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !so(); <-tick.C {
		if time.Now().After(end) {
			return errors.New("not within " + limit.String())
		}
	}
	return nil
}

// Each host of a URL is tried by itself, with and without TLS where both may be.
func TestLine_Hosts(t *testing.T) {
	config, err := pgx.ParseConfig("postgres://u@a:1,b:2,c:3/d?sslmode=prefer&target_session_attrs=read-write")
	if err != nil {
		t.Fatal(err)
	}
	hosts := hostsOf(config)
	if len(hosts) != 3 {
		t.Fatalf("%d hosts", len(hosts))
	}
	for i, h := range hosts {
		if h.Host != string(rune('a'+i)) || h.Port != uint16(i+1) || h.TLSConfig == nil || len(h.Fallbacks) != 1 || h.Fallbacks[0].TLSConfig != nil || h.User != "u" || h.Database != "d" {
			t.Errorf("%s:%d, TLS %t, %d fallbacks", h.Host, h.Port, h.TLSConfig != nil, len(h.Fallbacks))
		}
	}
}

// A connection that was on its way to one server while the line moved to another is
// not used: what that server shows may be of before.
func TestLine_AConnectionThatTheMoveOvertook(t *testing.T) {
	config, err := pgxpool.ParseConfig(storagetest.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	l := newLine(config)
	lead, overtaken := config.BeforeConnect, false
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		err := lead(ctx, c)
		if overtaken {
			elsewhere := c.Copy()
			elsewhere.Host = "elsewhere.invalid"
			l.mu.Lock()
			l.at = elsewhere
			l.mu.Unlock()
		}
		return err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	p := newPostgres(pool, l)
	defer p.close()
	first, err := pgx.ConnectConfig(t.Context(), l.hosts[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := l.open(t.Context(), pool, first); err != nil {
		t.Fatal(err)
	}
	for _, overtaken = range []bool{false, true} {
		pool.Reset()
		conn, err := p.acquire(t.Context())
		if err == nil {
			conn.Release()
		}
		if (err != nil) != overtaken || err != nil && !errors.Is(err, errMoved) {
			t.Errorf("overtaken %v: %v", overtaken, err)
		}
	}
}

// Opening makes two connections, each of which costs the server a process: one to
// find out what stands there, which is then asked every beat, and the pool's first.
func TestPostgres_OpensWithTwoConnections(t *testing.T) {
	p, through := newProxy(t, storagetest.Postgres(t))
	s, err := Open(t.Context(), through)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if within(3*beatEvery, func() bool { return s.engine.writable(t.Context()) != nil }) == nil {
		t.Error("it does not answer")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.conns) / 2; n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A connection that was cut at this end is another one's, whenever that was: while an
// answer was waited for, or before the next question. One that the server ended is not.
func TestPostgres_AConnectionThatWasCut(t *testing.T) {
	dsn := storagetest.Postgres(t)
	for what, end := range map[string]func(*pgx.Conn){
		"under a question": func(c *pgx.Conn) { c.PgConn().Conn().Close() },
		"before one":       func(c *pgx.Conn) { c.PgConn().Conn().Close(); askPeer(t.Context(), c.PgConn()) },
	} {
		conn := direct(t, dsn)
		end(conn)
		if _, err := askPeer(t.Context(), conn.PgConn()); !wasCut(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended := direct(t, dsn)
	run(t, direct(t, dsn), "SELECT pg_terminate_backend($1)", ended.PgConn().PID())
	if _, err := askPeer(t.Context(), ended.PgConn()); err == nil || wasCut(err) {
		t.Errorf("by the server: %v", err)
	}
}
