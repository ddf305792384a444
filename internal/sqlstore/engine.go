package sqlstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing/fstest"
	"time"
	"unicode/utf8"

	"github.com/pressly/goose/v3"
	sqlite3 "modernc.org/sqlite/lib"
)

// engine is everything in which SQLite and PostgreSQL differ.
type engine interface {
	// write runs the statements as one atomic, durable event. It waits for the
	// outcome, whatever becomes of ctx once the event was queued; if that cannot be
	// known (the connection was lost at the commit), it says so: oauth.ErrUnknown.
	write(ctx context.Context, event []statement) error
	// query calls row for each row of the answer.
	query(ctx context.Context, sql string, args []any, row func(scan func(...any) error) error) error
	// leave ends a visit.
	leave(*visit)
	// lock returns the statement that locks the rows of a SELECT until the event
	// ends, or nothing where there is one writer anyway.
	lock(sql string, args ...any) []statement
	// listed is a SELECT of the texts, named id, in the JSON array that the argument $arg is.
	listed(arg int) string
	// writable returns an error if the database has turned into one that takes no
	// writes.
	writable(ctx context.Context) error
	// tables lists the tables that the database has, whoever made them. Those that are
	// not in our schema carry the name of theirs, and a dot.
	tables(ctx context.Context) ([]string, error)
	// archive copies every table, as they are at one moment, into the empty file to.
	archive(ctx context.Context, to string, progress func(Progress)) error
	// migrator returns goose on this engine, and how to release what it needs.
	migrator(migrations fs.FS) (*goose.Provider, func() error, error)
	// deposable reports whether a server may go on answering reads after another took
	// its place, so that only a write that became durable shows that it has not.
	deposable() bool
	stats() Stats
	// begin is how a transaction that writes is begun in a session.
	begin() string
	// session is a connection on which whole tables are copied.
	session(ctx context.Context) (session, error)
	close() error
}

// How long a caller waits at most, whatever has become of the database.
const (
	writeLimit = 10 * time.Second
	readLimit  = 5 * time.Second
)

// storable reports whether every text among the arguments of a query could stand
// in a row. PostgreSQL takes no NUL and no broken UTF-8, and SQLite reads a pattern
// as far as its first NUL. Ids come from outside, so asking for such a text is a
// question whose answer is no row; it is not a fault.
func storable(args []any) bool {
	for _, a := range args {
		if text, ok := a.(string); ok && (strings.ContainsRune(text, 0) || !utf8.ValidString(text)) {
			return false
		}
	}
	return true
}

//go:embed migrations/*.sql
var migrations embed.FS

// Migrate brings the schema up to what this program knows. Several nodes may call
// it at once.
func (s *Store) Migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, release, err := s.engine.migrator(dir)
	if err != nil {
		return fmt.Errorf("preparing the migration: %w", err)
	}
	// Each step is a transaction of its own. Where no lock keeps two nodes apart
	// (SQLite), the one that comes second fails on what is there already, without a
	// trace, and finds nothing left to do when it looks again. A file turns to a
	// write-ahead log only while nobody else writes it, and SQLite does not wait for that.
	_, err = provider.Up(ctx)
	began := time.Now()
	for again := 0; err != nil && ctx.Err() == nil && (again < 3 || sqliteCode(err) == sqlite3.SQLITE_BUSY && time.Since(began) < writeLimit); again++ {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
			_, err = provider.Up(ctx)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("migrating the database: %w%s", err, remedy(err)), ctx.Err(), release())
	}
	return release()
}

// rewritten reads the migrations with what an engine says otherwise.
type rewritten struct {
	fs.FS
	find *regexp.Regexp
	with string
}

func (r rewritten) Open(name string) (fs.File, error) {
	raw, err := fs.ReadFile(r.FS, name)
	if err != nil {
		return r.FS.Open(name) // a directory, or an error that says which
	}
	return fstest.MapFS{name: {Data: r.find.ReplaceAll(raw, []byte(r.with))}}.Open(name)
}
