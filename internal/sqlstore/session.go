package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// session is a connection of its own, on which whole tables are read and written.
// Transactions are the caller's: view begins one that sees the database as it is
// at this moment, for as long as it lasts; BEGIN, COMMIT and ROLLBACK go through
// exec.
type session interface {
	view(ctx context.Context) error
	exec(ctx context.Context, text string, args ...any) (rows int64, err error)
	query(ctx context.Context, text string, args []any, row func(scan func(...any) error) error) error
	// insert adds rows whose values are in the order of t's columns.
	insert(ctx context.Context, t table, rows [][]any) error
	// tables lists every table with its columns, whoever made it, by name.
	tables(ctx context.Context) ([]table, error)
	close() error
}

// table is a table as the database itself describes it.
type table struct {
	name    string
	columns []column
}

type column struct {
	name string
	kind string // text, bigint, boolean or bytea
	null bool   // may be NULL
	key  int    // its place in the primary key, from 1 on; 0: not in it
}

// names lists the columns, for SQL.
func (t table) names() string { return strings.Join(columnNames(t.columns), ", ") }

func columnNames(columns []column) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	return names
}

// key lists the columns of the primary key, in its order.
func (t table) key() []column {
	key := slices.DeleteFunc(slices.Clone(t.columns), func(c column) bool { return c.key == 0 })
	slices.SortFunc(key, func(a, b column) int { return a.key - b.key })
	return key
}

// seeded reports whether the schema itself begins with rows in the table.
func (t table) seeded() bool { return t.name == "heads" || t.name == "leases" }

// unseeded keeps the tables that the schema leaves empty: rows in them are somebody's.
func unseeded(all []table) []table { return slices.DeleteFunc(slices.Clone(all), table.seeded) }

// keyOf picks the values of the primary key out of a row.
func (t table) keyOf(row []any) []any {
	key := make([]any, 0, 2)
	for _, k := range t.key() {
		key = append(key, row[slices.Index(t.columns, k)])
	}
	return key
}

// scan reads a row. What the engines give back differently for one value is made
// the same: string, int64, bool, []byte that is never nil, or nil for NULL.
func (t table) scan(scan func(...any) error) ([]any, error) {
	row := make([]any, len(t.columns))
	dest := make([]any, len(row))
	for i := range row {
		dest[i] = &row[i]
	}
	if err := scan(dest...); err != nil {
		return nil, err
	}
	for i, c := range t.columns {
		v, err := c.value(row[i])
		if err != nil {
			return nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		row[i] = v
	}
	return row, nil
}

func (c column) value(v any) (any, error) {
	switch v := v.(type) {
	case nil:
		if c.null {
			return nil, nil
		}
	case string:
		if c.kind == "text" {
			return v, nil
		}
	case int64:
		if c.kind == "boolean" {
			return v != 0, nil
		}
		if c.kind == "bigint" {
			return v, nil
		}
	case bool:
		if c.kind == "boolean" {
			return v, nil
		}
	case []byte:
		if c.kind == "bytea" {
			if v == nil {
				return []byte{}, nil
			}
			return v, nil
		}
	}
	return nil, fmt.Errorf("column %s holds a %T where a %s belongs", c.name, v, c.kind)
}

// readTables collects the answer to an engine's question for its columns: table,
// column, type, whether it may be NULL, place in the key.
func readTables(ctx context.Context, s session, text string) ([]table, error) {
	var all []table
	err := s.query(ctx, text, nil, func(scan func(...any) error) error {
		var name string
		var c column
		if err := scan(&name, &c.name, &c.kind, &c.null, &c.key); err != nil {
			return err
		}
		c.kind = strings.ToLower(c.kind)
		c.null = c.null && c.key == 0
		if n := len(all); n == 0 || all[n-1].name != name {
			all = append(all, table{name: name})
		}
		last := &all[len(all)-1]
		last.columns = append(last.columns, c)
		return nil
	})
	slices.SortFunc(all, func(a, b table) int { return strings.Compare(a.name, b.name) })
	return all, err
}

// ours keeps the tables that the migrations made and that hold the installation: none of
// goose, of a copy under way, of a backup, nor of anybody else, who may have his beside.
func ours(all []table) []table {
	return slices.DeleteFunc(slices.Clone(all), func(t table) bool { return !schemaTables()[t.name] || t.name == "copy_state" })
}

type sqliteSession struct {
	db   *sql.DB
	conn *sql.Conn
}

func (s *sqlite) session(ctx context.Context) (session, error) {
	db, err := sql.Open("sqlite", sqliteDSN(s.path, ""))
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sqliteSession{db, conn}, nil
}

func (*sqlite) begin() string { return "BEGIN IMMEDIATE" }

// view reads once, because SQLite takes its view of the file at the first read.
func (s *sqliteSession) view(ctx context.Context) error {
	if _, err := s.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	var n int
	return s.conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM sqlite_master").Scan(&n)
}

func (s *sqliteSession) exec(ctx context.Context, text string, args ...any) (int64, error) {
	result, err := s.conn.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (s *sqliteSession) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	rows, err := s.conn.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	return each(rows, row)
}

func (s *sqliteSession) insert(ctx context.Context, t table, rows [][]any) error {
	places := make([]string, len(t.columns))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+1)
	}
	stmt, err := s.conn.PrepareContext(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", t.name, t.names(), strings.Join(places, ", ")))
	if err != nil {
		return err
	}
	defer stmt.Close()
	for _, row := range rows {
		if _, err := stmt.ExecContext(ctx, row...); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqliteSession) tables(ctx context.Context) ([]table, error) {
	return readTables(ctx, s, `SELECT m.name, p.name, p.type, p."notnull" = 0, p.pk FROM sqlite_master m JOIN pragma_table_info(m.name) p
		WHERE m.type = 'table' ORDER BY m.name, p.cid`)
}

func (s *sqliteSession) close() error { return errors.Join(s.conn.Close(), s.db.Close()) }

// each calls row for every row of an answer of either driver.
func each(rows interface {
	Next() bool
	Scan(...any) error
	Err() error
}, row func(func(...any) error) error) error {
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

type postgresSession struct{ conn *pgxpool.Conn }

func (p *postgres) session(ctx context.Context) (session, error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &postgresSession{conn}, nil
}

func (*postgres) begin() string { return "BEGIN" }

func (s *postgresSession) view(ctx context.Context) error {
	_, err := s.exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	return err
}

func (s *postgresSession) exec(ctx context.Context, text string, args ...any) (int64, error) {
	tag, err := s.conn.Exec(ctx, text, args...)
	return tag.RowsAffected(), err
}

func (s *postgresSession) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	rows, err := s.conn.Query(ctx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	return each(rows, row)
}

func (s *postgresSession) insert(ctx context.Context, t table, rows [][]any) error {
	_, err := s.conn.CopyFrom(ctx, pgx.Identifier{t.name}, columnNames(t.columns), pgx.CopyFromRows(rows))
	return err
}

func (s *postgresSession) tables(ctx context.Context) ([]table, error) {
	return readTables(ctx, s, `SELECT c.table_name::TEXT, c.column_name::TEXT, c.data_type::TEXT, c.is_nullable = 'YES', COALESCE(k.ordinal_position, 0)::BIGINT
		FROM information_schema.columns c
		LEFT JOIN information_schema.table_constraints p
			ON p.table_schema = c.table_schema AND p.table_name = c.table_name AND p.constraint_type = 'PRIMARY KEY'
		LEFT JOIN information_schema.key_column_usage k
			ON k.constraint_schema = p.constraint_schema AND k.constraint_name = p.constraint_name AND k.table_name = c.table_name AND k.column_name = c.column_name
		WHERE c.table_schema = CURRENT_SCHEMA ORDER BY c.table_name, c.ordinal_position`)
}

// close ends what a failed copy left open before the connection goes back.
func (s *postgresSession) close() error {
	var err error
	if s.conn.Conn().PgConn().TxStatus() != 'I' {
		err = s.conn.Conn().Close(context.Background())
	}
	s.conn.Release()
	return err
}
