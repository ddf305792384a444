package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type backupCommand struct {
	Admin
	File string `arg:"" help:"A new file to write to."`
}

// backupDoc is a backup in JSON.
type backupDoc struct {
	File    string    `json:"file"`
	Made    time.Time `json:"made"`
	Bytes   int64     `json:"bytes"`
	Schema  int64     `json:"schema"`
	KeyRing string    `json:"key_ring"` // fingerprint of the ring that belongs to it
}

// Run writes a backup.
func (c *backupCommand) Run(ctx context.Context, t terminal) (err error) {
	defer func() { err = interrupted(ctx, err, "no backup was written") }()
	return c.onStore(ctx, t, func(cfg config.Config, ring *oauth.KeyRing, store *sqlstore.Store) error {
		needs, err := needed(ctx, cfg, ring, store)
		if err != nil {
			return err
		}
		p := watched(t)
		made, err := store.Backup(ctx, c.File, archiveOf(cfg, needs, time.Now()), p.show)
		p.end()
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s is there already: a backup never replaces a file", c.File)
		}
		if err != nil {
			return err
		}
		info, err := os.Stat(c.File)
		if err != nil {
			return err
		}
		o := &office{json: c.JSON, out: t.out}
		return o.show(backupDoc{c.File, made.Made, info.Size(), made.Version, made.Ring}, `Wrote %s: the database as it was on %s.
The key ring is not in it, and without it the backup is of no use: keep a copy of
%s apart from the backup. Its fingerprint: %s`, c.File, both(made.Made), ringName(cfg), made.Ring)
	})
}

// both writes a moment in the zone of this machine and in UTC.
func both(t time.Time) string {
	const seconds = "2006-01-02 15:04:05"
	if _, offset := t.Local().Zone(); offset == 0 {
		return t.UTC().Format(seconds + " MST")
	}
	return fmt.Sprintf("%s (%s UTC)", t.Local().Format(seconds+" MST"), t.UTC().Format(seconds))
}

// absolute is a path as messages show it, whatever folder they are read in.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
