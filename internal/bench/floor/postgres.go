package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// postgres sends both statements as one batch, which is one implicit transaction
// and one round trip; the server groups the flushes.
type postgres struct {
	pool *pgxpool.Pool
}

const poolMax = 16

func openPostgres(ctx context.Context, dsn string) (store, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolMax
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `
		CREATE TABLE codes (id BYTEA PRIMARY KEY, used BIGINT NOT NULL, row BYTEA NOT NULL);
		CREATE TABLE keys (id BYTEA PRIMARY KEY, row BYTEA NOT NULL);`)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &postgres{pool}, nil
}

func (p *postgres) fill(ctx context.Context, n int) error {
	row := make([]byte, 400)
	_, err := p.pool.CopyFrom(ctx, pgx.Identifier{"codes"}, []string{"id", "used", "row"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		key := rowKey(uint64(i))
		return []any{key[:], int64(0), row}, nil
	}))
	if err != nil {
		return err
	}
	_, err = p.pool.Exec(ctx, "VACUUM ANALYZE codes")
	return err
}

func (p *postgres) use(ctx context.Context, key, fresh [32]byte, row []byte) error {
	b := &pgx.Batch{}
	b.Queue("UPDATE codes SET used = used + 1 WHERE id = $1", key[:])
	b.Queue("INSERT INTO keys (id, row) VALUES ($1, $2)", fresh[:], row)
	results := p.pool.SendBatch(ctx, b)
	for range 2 {
		tag, err := results.Exec()
		if err == nil && tag.RowsAffected() != 1 {
			err = errors.New("no row was changed")
		}
		if err != nil {
			results.Close()
			return err
		}
	}
	return results.Close()
}

func (p *postgres) close() { p.pool.Close() }
