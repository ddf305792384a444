package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// known refuses tables that this program must not touch.
func known(s sqlstore.Schema) error {
	switch {
	case s.Unready:
		return errors.New("the database is a backup, or a restore that was cut off: grantway restore makes a database of a backup")
	case s.Clash:
		return errors.New("the database has a table named backup that grantway did not make, and grantway needs the name: drop that table, or rename it")
	case s.Have > s.Want:
		return fmt.Errorf("the database was made by a newer grantway (schema %d, this one knows %d): use that one, or restore a backup that was made before the upgrade", s.Have, s.Want)
	case s.Foreign:
		return errors.New("the database holds tables that grantway did not make: name an empty one")
	}
	return nil
}

// begin sets up an empty database, on either engine, for init and the demo. One
// that is there already must be at this program's schema.
func begin(ctx context.Context, store *sqlstore.Store) error {
	s, err := store.Schema(ctx)
	if err != nil {
		return err
	}
	if err := known(s); err != nil || s.Have == s.Want {
		return err
	}
	if s.Have > 0 {
		return older(s)
	}
	return store.Migrate(ctx)
}

func older(s sqlstore.Schema) error {
	return fmt.Errorf("the database was made by an older grantway (schema %d, this one needs %d): run grantway migrate up", s.Have, s.Want)
}

// usable refuses what serve can do nothing with: an older file it brings up to date,
// after its old state was put beside it; an older server is not touched, because other
// nodes work on it.
func usable(s sqlstore.Schema, c config.Config) error {
	if err := known(s); err != nil || s.Have == s.Want {
		return err
	}
	switch {
	case s.Have == 0:
		return noTables(c)
	case sqlstore.IsPostgres(c.Database.Reveal()):
		return older(s)
	}
	return nil
}

// noTables says how an empty database becomes one of ours. A file does not by migrate up:
// where one is empty something went wrong, and a new server in its place would know nobody.
func noTables(c config.Config) error {
	if file := c.Database.Reveal(); !sqlstore.IsPostgres(file) {
		return fmt.Errorf("the database %s is empty: restore a backup, or name the right file; grantway init makes a new one", file)
	}
	return errors.New("the database has no tables of grantway: run grantway migrate up")
}

// upgrade migrates a database that is not newer than this program.
func upgrade(ctx context.Context, store *sqlstore.Store, s sqlstore.Schema, c config.Config, ring *oauth.KeyRing, t terminal) error {
	if path := c.Database.Reveal(); s.Have > 0 && !sqlstore.IsPostgres(path) {
		// Where the old schema can be read, a wrong ring is seen before anything is done.
		if rows, err := store.SigningKeys(ctx); err == nil {
			if _, err := ring.Fingerprint(rows); err != nil {
				return wrongRing(c, ring, err)
			}
		}
		now := time.Now()
		file := fmt.Sprintf("%s.schema-%d.%s.backup", path, s.Have, now.UTC().Format("20060102T150405.000Z"))
		p := watched(t)
		_, err := store.Backup(ctx, file, archiveOf(c, ring.Fingerprints(), now), p.show)
		p.end()
		if err != nil {
			return fmt.Errorf("before the upgrade: %w", err)
		}
		fmt.Fprintf(t.err, "Kept the database as it was before the upgrade from schema %d to %d in %s\n", s.Have, s.Want, file)
	}
	return store.Migrate(ctx)
}

type migrateCommands struct {
	Up     migrateUpCommand     `cmd:"" help:"Bring the database up to this program's schema. An older SQLite file serve upgrades, too."`
	Status migrateStatusCommand `cmd:"" help:"Show which steps of the schema the database has had."`
}

type migrateUpCommand struct{ Admin }

type migrateStatusCommand struct{ Admin }

// schemaDoc is how a database stands, in JSON.
type schemaDoc struct {
	Schema     int64          `json:"schema"` // 0: no tables yet
	Known      int64          `json:"known"`  // the newest that this program knows
	Migrations []migrationDoc `json:"migrations"`
}

type migrationDoc struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
}

// Run migrates.
func (c *migrateUpCommand) Run(ctx context.Context, t terminal) error {
	return c.withSchema(ctx, t, func(cfg config.Config, ring *oauth.KeyRing, store *sqlstore.Store, s sqlstore.Schema) error {
		if err := known(s); err != nil {
			return err
		}
		if s.Have == 0 && !sqlstore.IsPostgres(cfg.Database.Reveal()) {
			return noTables(cfg)
		}
		before := s.Have
		if s.Have < s.Want {
			if err := upgrade(ctx, store, s, cfg, ring, t); err != nil {
				return err
			}
			s.Have = s.Want
		}
		o := &office{json: c.JSON, out: t.out}
		if before == s.Have {
			return o.show(docOf(s), "The database is at schema %d already.", s.Have)
		}
		return o.show(docOf(s), "The database is at schema %d now; it was at %d.", s.Have, before)
	})
}

// Run shows how the database stands, and changes nothing.
func (c *migrateStatusCommand) Run(ctx context.Context, t terminal) error {
	return c.withSchema(ctx, t, func(_ config.Config, _ *oauth.KeyRing, _ *sqlstore.Store, s sqlstore.Schema) error {
		if s.Unready || s.Foreign || s.Clash {
			return known(s)
		}
		o, doc := &office{json: c.JSON, out: t.out}, docOf(s)
		if c.JSON {
			return o.show(doc, "")
		}
		fmt.Fprintf(t.out, "The database has schema %d; this grantway knows %d.\n", doc.Schema, doc.Known)
		return list(o, doc.Migrations, "version name applied_utc", func(m migrationDoc) []any { return []any{m.Version, m.Name, m.Applied} })
	})
}

func (a *Admin) withSchema(ctx context.Context, t terminal, act func(config.Config, *oauth.KeyRing, *sqlstore.Store, sqlstore.Schema) error) (err error) {
	cfg, ring, err := a.load(t)
	if err != nil {
		return err
	}
	store, err := openNamed(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	s, err := store.Schema(ctx)
	if err != nil {
		return err
	}
	return act(cfg, ring, store, s)
}

func docOf(s sqlstore.Schema) schemaDoc {
	doc := schemaDoc{Schema: s.Have, Known: s.Want}
	for _, m := range sqlstore.Migrations() {
		doc.Migrations = append(doc.Migrations, migrationDoc{m.Version, m.Name, m.Version <= s.Have})
	}
	return doc
}

// openNamed opens the database, and makes no file: a path with a typing mistake
// would else be a new, empty server.
func openNamed(ctx context.Context, c config.Config) (*sqlstore.Store, error) {
	if err := thereIs(c); err != nil {
		return nil, err
	}
	return sqlstore.Open(ctx, c.Database.Reveal())
}

// thereIs looks whether the file of a database is there; a server is not asked.
func thereIs(c config.Config) error {
	dsn := c.Database.Reveal()
	if _, err := os.Stat(dsn); !sqlstore.IsPostgres(dsn) && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the database %s is not there: name the right file; grantway init makes a new one", dsn)
	}
	return nil
}

// openThere opens a database that init or migrate has set up, at this program's
// schema.
func openThere(ctx context.Context, c config.Config) (*sqlstore.Store, error) {
	store, err := openNamed(ctx, c)
	if err != nil {
		return nil, err
	}
	s, err := store.Schema(ctx)
	if err == nil {
		err = known(s)
	}
	switch {
	case err != nil:
	case s.Have == 0:
		err = noTables(c)
	case s.Have < s.Want:
		err = older(s)
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}

func archiveOf(c config.Config, ring string, now time.Time) sqlstore.Archive {
	return sqlstore.Archive{Made: now, Issuer: c.Issuer, Audience: c.APIAudience, Ring: ring}
}
