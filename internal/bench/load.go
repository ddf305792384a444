package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// kind is a customer with one grant, and what hangs off it.
type kind string

const (
	keyCode   kind = "key-code"   // exchange: connected a moment ago, with an unredeemed code
	booksCode kind = "books-code" // standard, confidential: the same
	liveKey   kind = "live-key"   // exchange: a lasting key is out
	liveChain kind = "live-chain" // standard, public: a refresh token is out
)

// template is every row of one customer, as the server's own use-cases wrote them.
// Loading copies it with fresh ids and credentials, so rows have their real shape
// whatever the schema becomes. Events are left out: no request reads them.
type template struct {
	tables []table
}

type table struct {
	name    string
	columns []string
	rows    [][]any
}

// owned says where the rows of a user are, and which column of each table is an id
// that a copy needs anew.
var owned = []struct{ table, id, where string }{
	{"users", "id", "id = $1"},
	{"stores", "id", "id IN (SELECT store_id FROM memberships WHERE user_id = $1)"},
	{"memberships", "", "user_id = $1"},
	{"grants", "id", "user_id = $1"},
	{"grant_stores", "", "grant_id IN (SELECT id FROM grants WHERE user_id = $1)"},
	{"authorization_codes", "selector", "redeemed_family IS NULL AND grant_id IN (SELECT id FROM grants WHERE user_id = $1)"},
	{"families", "id", "user_id = $1"},
	{"refresh_tokens", "selector", "family IN (SELECT id FROM families WHERE user_id = $1)"},
}

func (in *installation) open() (*sql.DB, error) {
	if sqlstore.IsPostgres(in.dsn) {
		return sql.Open("pgx", in.dsn)
	}
	// Millions of rows by random keys want a large cache, and need not survive a crash
	// half way.
	return sql.Open("sqlite", "file:"+(&url.URL{Path: in.dsn}).EscapedPath()+"?_pragma=busy_timeout(10000)&_pragma=synchronous(OFF)&_pragma=cache_size(-1000000)")
}

// read returns the rows of a user.
func (in *installation) read(ctx context.Context, user string) (*template, error) {
	db, err := in.open()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	t := &template{}
	for _, o := range owned {
		rows, err := db.QueryContext(ctx, "SELECT * FROM "+o.table+" WHERE "+o.where, user)
		if err != nil {
			return nil, err
		}
		one := table{name: o.table}
		if one.columns, err = rows.Columns(); err != nil {
			return nil, err
		}
		for rows.Next() {
			values, dest := make([]any, len(one.columns)), make([]any, len(one.columns))
			for i := range values {
				dest[i] = &values[i]
			}
			if err := rows.Scan(dest...); err != nil {
				return nil, err
			}
			one.rows = append(one.rows, values)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
		t.tables = append(t.tables, one)
	}
	return t, nil
}

// copier makes copies of a template.
type copier struct {
	*template
	now     time.Time
	indices func() (int64, error) // status indices that nobody else is given
}

// copy appends one more customer to into, whose tables stand as the template's,
// made at a time, and returns the code or refresh token, if there is one.
func (c *copier) copy(at time.Time, into [][][]any) (credential oauth.Secret, err error) {
	fresh := map[any]any{}
	var hash oauth.Hash
	for i, t := range c.tables {
		id := owned[i].id
		for _, row := range t.rows {
			for j, column := range t.columns {
				if column != id && column != "request" {
					continue
				}
				old := row[j].(string)
				switch {
				case column == "selector":
					a, err := oauth.NewArtefact(at, rand.Reader)
					if err != nil {
						return "", err
					}
					fresh[old], credential, hash = a.Selector, a.Secret, oauth.HashOf(a.Secret)
				case t.name == "users" || t.name == "stores":
					fresh[old] = old[:strings.IndexByte(old, '_')+1] + rand.Text() // the platform's ids, in no order
				default:
					if fresh[old], err = oauth.NewID(old[:strings.IndexByte(old, '_')+1], at, rand.Reader); err != nil {
						return "", err
					}
				}
			}
		}
	}
	for i, t := range c.tables {
		for _, row := range t.rows {
			copied := make([]any, len(row))
			for j, v := range row {
				switch column := t.columns[j]; {
				case column == "hash":
					v = []byte(hash)
				case column == "status_index":
					if v, err = c.indices(); err != nil {
						return "", err
					}
				case t.name == "authorization_codes" && column == "expires":
					v = c.now.Add(time.Hour).UnixMicro() // codes wait here for longer than a minute
				default:
					if text, ok := v.(string); ok {
						if other, ok := fresh[text]; ok {
							v = other
						} else if column == "standing" { // names stores amid other things
							for old, other := range fresh {
								text = strings.ReplaceAll(text, old.(string), other.(string))
							}
							v = text
						}
					}
				}
				copied[j] = v
			}
			into[i] = append(into[i], copied)
		}
	}
	return credential, nil
}

const chunk = 5_000 // copies in one transaction

// load copies n customers of a kind into the database and returns their codes or
// refresh tokens. They are as if made one each interval, the last one now.
func (in *installation) load(ctx context.Context, k kind, n int, interval time.Duration) (credentials []oauth.Secret, err error) {
	err = in.with(ctx, func(ctx context.Context, server *oauth.Server, store *sqlstore.Store) error {
		c := &copier{template: in.templates[k], now: server.Now()}
		var next, end int64
		c.indices = func() (int64, error) {
			if next == end {
				const block = 1 << 15
				first, err := store.AllotIndices(ctx, "bench", string(k), block, server.Now())
				if err != nil {
					return 0, err
				}
				next, end = first, first+block
			}
			next++
			return next - 1, nil
		}
		write, done, err := in.bulk(ctx)
		if err != nil {
			return err
		}
		for made := 0; made < n; {
			rows := make([][][]any, len(c.tables))
			for range min(chunk, n-made) {
				credential, err := c.copy(c.now.Add(-time.Duration(n-made)*interval), rows)
				if err != nil {
					return err
				}
				if credential != "" {
					credentials = append(credentials, credential)
				}
				made++
			}
			for i, t := range c.tables {
				if len(rows[i]) == 0 {
					continue
				}
				if err := write(t.name, t.columns, rows[i]); err != nil {
					return fmt.Errorf("loading %s: %w", t.name, err)
				}
			}
		}
		return done()
	})
	return credentials, err
}

// bulk returns how to write many rows of a table at once, and what to call at the
// end.
func (in *installation) bulk(ctx context.Context) (write func(table string, columns []string, rows [][]any) error, done func() error, err error) {
	if sqlstore.IsPostgres(in.dsn) {
		conn, err := pgx.Connect(ctx, in.dsn)
		if err != nil {
			return nil, nil, err
		}
		return func(table string, columns []string, rows [][]any) error {
			_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromRows(rows))
			return err
		}, func() error { return conn.Close(ctx) }, nil
	}
	db, err := in.open()
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1) // the cache is the connection's
	return func(table string, columns []string, rows [][]any) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		stmt, err := tx.PrepareContext(ctx, "INSERT INTO "+table+" ("+strings.Join(columns, ", ")+") VALUES (?"+strings.Repeat(", ?", len(columns)-1)+")")
		if err != nil {
			return err
		}
		for _, row := range rows {
			if _, err := stmt.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
		return tx.Commit()
	}, db.Close, nil
}
