package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/grantway/grantway/internal/oauth"
)

const (
	// rehearsals is one more than the five times for which PostgreSQL plans a prepared statement anew whenever it is sent.
	rehearsals = 6
	// rehearsalLimit is when a server that is slow, or far away, is left in peace.
	rehearsalLimit = 2 * time.Second
)

// Rehearse has each connection to PostgreSQL play revocations that end nothing, once its first user has given it back. A
// server process that never saw a statement reads what the catalogue says of its tables, and plans it, when it is needed:
// a revocation took 3.4 ms on a new connection and more than 1 ms the next five times, and then 0.2. They are rare, so that
// without this most would be among the first that their connection sees. A connection is away for some ten
// milliseconds meanwhile, once in its life.
func (s *Store) Rehearse() {
	if p, ok := s.engine.(*postgres); ok && p.pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		p.rehearses.Store(true)
	}
}

// release gives a connection back, after its rehearsal if it had none yet; one has it at a time.
func (p *postgres) release(conn placed) {
	if !p.rehearses.Load() || conn.Conn.Conn().IsClosed() {
		conn.Release()
		return
	}
	const rehearsed = "rehearsed"
	about := conn.Conn.Conn().PgConn().CustomData()
	if about[rehearsed] != nil || !p.rehearsing.TryLock() {
		conn.Release()
		return
	}
	about[rehearsed] = true
	go func() {
		defer p.rehearsing.Unlock()
		defer conn.Release()
		on := &Store{engine: stage{p, conn.Conn}, moved: make(chan struct{}, 1)}
		for began, n := time.Now(), 0; n < rehearsals && time.Since(began) < rehearsalLimit; n++ {
			if on.revokeNothing(context.Background()) != nil { // whoever takes the connection next finds out why
				return
			}
		}
		p.rehearsed.Add(1)
	}()
}

// revokeNothing is what an app's revocation asks of the database, and a grant's, about things that there are not.
func (s *Store) revokeNothing(ctx context.Context) error {
	e := oauth.Event{Kind: oauth.EventFamilyRevoked}
	for _, step := range []func() error{
		func() error { _, err := s.Client(ctx, ""); return err },
		func() error { _, err := s.ClientSecrets(ctx, ""); return err },
		func() error { _, _, _, err := s.Refresh(ctx, ""); return err },
		func() error { _, err := s.RevokeOwn(ctx, "", oauth.Proof{Secret: oauth.Hash{}}, "", e); return err },
		func() error { _, err := s.RevokeOwn(ctx, "", oauth.Proof{ClientVersion: 1}, "", e); return err },
		func() error { _, err := s.RevokeOwn(ctx, "", oauth.Proof{}, "", e); return err },
		func() error { _, err := s.RevokeFamily(ctx, "", e); return err },
		func() error { _, err := s.RevokeGrant(ctx, "", e); return err },
		func() error { _, err := s.News(ctx, 0, 0); return err },
	} {
		if err := step(); err != nil && !errors.Is(err, oauth.ErrNotFound) {
			return err
		}
	}
	return nil
}

// stage is the engine on one connection.
type stage struct {
	*postgres
	conn *pgxpool.Conn
}

func (s stage) write(ctx context.Context, event []statement) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	_, err := batch(ctx, s.conn, event)
	return err
}

func (s stage) query(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return ask(ctx, s.conn, sql, args, row)
}
