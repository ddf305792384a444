package main

import (
	"context"
	"database/sql"
	"net/url"

	_ "modernc.org/sqlite" // the driver that the server has
)

// sqlite commits in groups: whatever waits when a transaction ends makes the next
// one, with one sync for all.
type sqlite struct {
	db                            *sql.DB
	begin, update, insert, commit *sql.Stmt
	queue                         chan *job
	idle                          chan struct{}
}

type job struct {
	key, fresh [32]byte
	row        []byte
	err        chan error
}

const groupMax = 256

const schema = `
	CREATE TABLE codes (id BLOB PRIMARY KEY, used BIGINT NOT NULL, row BLOB NOT NULL);
	CREATE TABLE keys (id BLOB PRIMARY KEY, row BLOB NOT NULL);`

func openSQLite(ctx context.Context, path string) (store, error) {
	u := url.URL{Path: path}
	db, err := sql.Open("sqlite", "file:"+u.EscapedPath()+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	s := &sqlite{db: db, queue: make(chan *job, 4*groupMax), idle: make(chan struct{})}
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, err
	}
	for text, stmt := range map[string]**sql.Stmt{
		"BEGIN IMMEDIATE": &s.begin, "COMMIT": &s.commit,
		"UPDATE codes SET used = used + 1 WHERE id = ?": &s.update,
		"INSERT INTO keys (id, row) VALUES (?, ?)":      &s.insert,
	} {
		if *stmt, err = db.PrepareContext(ctx, text); err != nil {
			return nil, err
		}
	}
	go s.run()
	return s, nil
}

func (s *sqlite) fill(ctx context.Context, n int) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	row := make([]byte, 400)
	for i := range n {
		key := rowKey(uint64(i))
		if _, err := tx.ExecContext(ctx, "INSERT INTO codes (id, used, row) VALUES (?, 0, ?)", key[:], row); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (s *sqlite) use(_ context.Context, key, fresh [32]byte, row []byte) error {
	j := &job{key, fresh, row, make(chan error, 1)}
	s.queue <- j
	return <-j.err
}

func (s *sqlite) run() {
	defer close(s.idle)
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
		err := s.write(group)
		for _, j := range group {
			j.err <- err
		}
	}
}

func (s *sqlite) write(group []*job) error {
	if _, err := s.begin.Exec(); err != nil {
		return err
	}
	for _, j := range group {
		if _, err := s.update.Exec(j.key[:]); err != nil {
			return s.undo(err)
		}
		if _, err := s.insert.Exec(j.fresh[:], j.row); err != nil {
			return s.undo(err)
		}
	}
	if _, err := s.commit.Exec(); err != nil {
		return s.undo(err)
	}
	return nil
}

func (s *sqlite) undo(err error) error {
	s.db.Exec("ROLLBACK")
	return err
}

func (s *sqlite) close() {
	close(s.queue)
	<-s.idle
	s.db.Close()
}
