package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Schema says how the tables of a database stand to this program.
type Schema struct {
	Have int64 // the newest migration that the database has had; 0: none
	Want int64 // the newest that this program knows
	// Unready says that the database is a backup, or a copy or a restore that was not
	// finished: what makes it so goes away last of all.
	Unready bool
	Foreign bool // there are tables, but none of ours
	Clash   bool // there are ours, and somebody else's that has the name of a backup's mark
}

// Migration is a step of the schema.
type Migration struct {
	Version int64
	Name    string
}

// Migrations lists the steps that this program knows, oldest first.
func Migrations() []Migration {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		panic(err) // only for a malformed pattern
	}
	list := make([]Migration, len(files))
	for i, name := range files {
		number, rest, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql"), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic("sqlstore: migration " + name + " has no number")
		}
		list[i] = Migration{version, rest}
	}
	return list
}

func newestMigration() int64 {
	known := Migrations()
	return known[len(known)-1].Version
}

var tableMade = regexp.MustCompile(`(?m)^CREATE TABLE (\w+) \(`)

// schemaTables names every table that a migration makes.
var schemaTables = sync.OnceValue(func() map[string]bool {
	made := map[string]bool{}
	for _, m := range Migrations() {
		text, err := fs.ReadFile(migrations, fmt.Sprintf("migrations/%05d_%s.sql", m.Version, m.Name))
		if err != nil {
			panic(err) // it was listed
		}
		for _, found := range tableMade.FindAllSubmatch(text, -1) {
			made[string(found[1])] = true
		}
	}
	return made
})

// isOurs reports whether a table is one that we made, or goose for us. Beside them there may
// be others.
func isOurs(name string) bool {
	return schemaTables()[name] || name == "goose_db_version" || name == "goose_lock"
}

// Schema reads how the tables stand. It changes nothing.
func (s *Store) Schema(ctx context.Context) (Schema, error) {
	schema := Schema{Want: newestMigration()}
	tables, err := s.engine.tables(ctx)
	if err != nil {
		return schema, err
	}
	for _, name := range tables {
		if name == "goose_db_version" {
			err = s.row(ctx, "SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied", nil, &schema.Have)
			if err != nil {
				return schema, fmt.Errorf("reading the schema: %w%s", err, remedy(err))
			}
		}
		if !strings.HasPrefix(name, "goose_") && !strings.HasPrefix(name, "sqlite_") && name != markTable && !strings.Contains(name, ".") {
			schema.Foreign = true
		}
	}
	if slices.Contains(tables, markTable) {
		if schema.Unready, schema.Clash, err = s.marked(ctx); err != nil {
			return schema, fmt.Errorf("reading the schema: %w%s", err, remedy(err))
		}
	}
	schema.Foreign = (schema.Foreign || schema.Clash) && schema.Have == 0
	schema.Clash = schema.Clash && schema.Have > 0
	return schema, nil
}

// marked reports whether the table of the mark's name is the mark, or somebody else's.
// It is neither if a restore has ended since we looked.
func (s *Store) marked(ctx context.Context) (ours, theirs bool, err error) {
	own, err := s.engine.session(ctx)
	if err != nil {
		return false, false, err
	}
	defer func() { err = errors.Join(err, own.close()) }()
	there, err := own.tables(ctx)
	if err != nil {
		return false, false, err
	}
	for _, t := range there {
		if t.name == markTable {
			ours = slices.Equal(t.columns, markColumns)
			return ours, !ours, nil
		}
	}
	all, err := s.engine.tables(ctx) // also what this user may not touch
	return false, slices.Contains(all, markTable), err
}

// texts reads a column.
func texts(ctx context.Context, e engine, sql string) (list []string, err error) {
	err = e.query(ctx, sql, nil, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return unavailable(err)
		}
		list = append(list, text)
		return nil
	})
	return list, err
}
