package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/grantway/grantway/internal/storagetest"
)

// database is where one server under measurement keeps its rows, and what can be
// counted of it.
type database interface {
	// cpu is the processor time used outside the server's own process.
	cpu() (time.Duration, error)
	// wrote counts the bytes written so far for the server with this pid.
	wrote(pid int) (int64, error)
	// settle does now what the database would else do during the measurement.
	settle(ctx context.Context) error
	close()
}

// file is an SQLite file: all its work is done by the server's process.
type file struct{ path string }

func (file) cpu() (time.Duration, error)  { return 0, nil }
func (file) wrote(pid int) (int64, error) { return written(pid) }
func (file) settle(context.Context) error { return nil }
func (file) close()                       {}
func sqliteIn(dir string) (string, database) {
	path := filepath.Join(dir, "grantway.db")
	return path, file{path}
}

// cluster is a database on the PostgreSQL server that this process runs.
type cluster struct {
	conn *pgx.Conn
	root int // process id of the server
}

// postgresNamed makes a database on a PostgreSQL server that runs for as long as
// this process does, started as for the tests: every commit synced.
func postgresNamed(ctx context.Context, name string) (dsn string, _ database, err error) {
	base, err := storagetest.StartPostgres()
	if err != nil {
		return "", nil, err
	}
	admin, err := pgx.Connect(ctx, base+"postgres?sslmode=disable")
	if err != nil {
		return "", nil, err
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, err
	}
	dsn = base + name + "?sslmode=disable"
	c := &cluster{}
	if c.conn, err = pgx.Connect(ctx, dsn); err != nil {
		return "", nil, err
	}
	var backend int
	if err := c.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return "", nil, err
	}
	s, err := statOf(backend)
	c.root = s.parent
	return dsn, c, err
}

func (c *cluster) cpu() (time.Duration, error) { return cpuOfTree(c.root) }

func (c *cluster) wrote(int) (n int64, err error) {
	err = c.conn.QueryRow(context.Background(), "SELECT CAST(pg_current_wal_lsn() - '0/0'::pg_lsn AS BIGINT)").Scan(&n)
	return n, err
}

func (c *cluster) settle(ctx context.Context) error {
	for _, sql := range []string{"VACUUM ANALYZE", "CHECKPOINT"} {
		if _, err := c.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func (c *cluster) close() { c.conn.Close(context.Background()) }
