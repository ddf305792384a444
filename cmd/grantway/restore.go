package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type restoreCommand struct {
	Admin
	File    string `arg:"" help:"A file that grantway backup wrote, or one that has moved to PostgreSQL (grantway copy)."`
	Replace bool   `help:"Replace the file that is there; it is kept under another name. A PostgreSQL database must be empty."`

	RevokedSince           string `placeholder:"FILE" help:"Replay what ended after the backup from the log that events export keeps."`
	RevokeAllBeforeRestore bool   `help:"End every grant and key that is in the backup: apps and users stay, and everybody connects again."`
	AcceptRevivedKeys      bool   `help:"Let live again what was revoked after the backup and stands in no log."`
}

// restoreDoc is a restore in JSON.
type restoreDoc struct {
	Database string     `json:"database,omitempty"` // of SQLite; an address may hold a password
	Made     time.Time  `json:"backup_made"`
	Epoch    int64      `json:"epoch"`
	Replayed int        `json:"replayed"`  // events of the log that changed something
	LogUntil *time.Time `json:"log_until"` // null without a log
	EndedAll bool       `json:"ended_all"`
	Kept     string     `json:"kept,omitempty"` // what the database that was there is called now
}

// Run restores a backup.
func (c *restoreCommand) Run(ctx context.Context, t terminal) (err error) {
	remains := "what was there is as it was"
	defer func() { err = interrupted(ctx, err, remains) }()
	a, err := sqlstore.ReadArchive(ctx, c.File)
	if err != nil {
		return c.explain(err, "")
	}
	cfg, ring, err := c.load(t)
	if err != nil && a.Moved == "" {
		err = fmt.Errorf("%w; the backup belongs to the key ring with the fingerprint %s", err, a.Ring)
	}
	if err != nil {
		return err
	}
	was := "was made"
	if a.Moved != "" {
		was = "moved to " + a.Moved
	} else if a.Issuer != cfg.Issuer || a.Audience != cfg.APIAudience {
		return fmt.Errorf("%s is a backup of another installation: its issuer is %s and its audience %s, here they are %s and %s", c.File, a.Issuer, a.Audience, cfg.Issuer, cfg.APIAudience)
	}
	if place(cfg) == "" {
		remains = "a part of the backup may be in the database: the same command begins anew"
	}
	now := time.Now()
	if c.RevokedSince == "" && !c.RevokeAllBeforeRestore && !c.AcceptRevivedKeys {
		return misunderstanding{fmt.Errorf("%s %s on %s: what was revoked from then until now, %s, would be alive again. Say what to do about it: --revoked-since FILE replays the log that grantway events export keeps, --revoke-all-before-restore ends every grant, --accept-revived-keys lets them live", c.File, was, both(a.Made), both(now))}
	}
	r, err := sqlstore.Restore(ctx, c.File, cfg.Database.Reveal(), c.Replace)
	if err != nil {
		return c.explain(err, place(cfg))
	}
	p := watched(t)
	doc, err := c.restore(ctx, t, r, cfg, ring, now, p.show)
	p.end()
	if err != nil {
		return errors.Join(c.explain(err, place(cfg)), r.Abandon())
	}
	o := &office{json: c.JSON, out: t.out}
	text := fmt.Sprintf("Restored the database as it was on %s.\nKeys issued after that are refused. People sign in again.", both(doc.Made))
	if c.RevokedSince != "" {
		events, reaches := "events", "does not say until when it is complete"
		if doc.Replayed == 1 {
			events = "event"
		}
		if doc.LogUntil != nil {
			reaches = "reaches until " + both(*doc.LogUntil)
		}
		text += fmt.Sprintf("\nReplayed %d %s from the log, which %s.", doc.Replayed, events, reaches)
	}
	if doc.EndedAll {
		text += "\nEvery grant has ended: people connect their apps again."
	}
	if doc.Kept != "" {
		text += "\nThe database that was there is kept as " + doc.Kept + "."
	}
	return o.show(doc, "%s", text)
}

// restore does what remains between the copy and its place.
func (c *restoreCommand) restore(ctx context.Context, t terminal, r *sqlstore.Restoration, cfg config.Config, ring *oauth.KeyRing, now time.Time, progress func(sqlstore.Progress)) (doc restoreDoc, err error) {
	rows, err := r.Store.SigningKeys(ctx)
	if err != nil {
		return doc, err
	}
	_, err = ring.Fingerprint(rows)
	if _, wrong := errors.AsType[*oauth.WrongRing](err); wrong && r.Moved == "" {
		return doc, fmt.Errorf("%s (%s) does not open this backup's signing keys: it needs the ring with the fingerprint %s", ringName(cfg), ring.Fingerprints(), r.Ring)
	} else if err != nil {
		return doc, fmt.Errorf("%s does not open this backup's signing keys: %w", ringName(cfg), err)
	}
	apis, err := r.Store.APIs(ctx)
	if err != nil {
		return doc, err
	}
	if err := oauth.CheckIssuer(apis, cfg.Issuer); err != nil {
		return doc, about{c.File, err}
	}
	if r.Target != nil && len(r.Target.Kids) > 0 && !slices.ContainsFunc(rows, func(k oauth.StoredKey) bool { return slices.Contains(r.Target.Kids, k.Kid) }) {
		return doc, fmt.Errorf("the database that is there is another installation's: it signs with other keys than %s. Move it away first", c.File)
	}
	what := oauth.Restored{FromEpoch: r.Epoch, FromSeq: r.Seq, Made: r.Made, EndedAll: c.RevokeAllBeforeRestore}
	if c.RevokedSince != "" {
		rec, err := c.recover(ctx, r, now, progress)
		if err != nil {
			return doc, err
		}
		what.EndedAll = what.EndedAll || rec.EndedAll
		what.LogUntil = rec.Until
		doc.Replayed, doc.LogUntil = rec.Changed, moment(rec.Until)
	}
	if what.Epoch, err = r.Begin(now); err != nil {
		return doc, err
	}
	warnAhead(t, what.Epoch, now)
	e, err := oauth.NewRestored(now, rand.Reader, what)
	if err != nil {
		return doc, err
	}
	if file := place(cfg); file != "" {
		doc.Database = absolute(file)
	}
	doc.Made, doc.Epoch, doc.EndedAll = r.Made, what.Epoch, what.EndedAll
	doc.Kept, err = r.Finish(ctx, what.Epoch, what.EndedAll, e, progress)
	return doc, err
}

// recover replays the log, and demands a word about what it does not cover.
func (c *restoreCommand) recover(ctx context.Context, r *sqlstore.Restoration, now time.Time, progress func(sqlstore.Progress)) (*oauth.Recovered, error) {
	log, err := os.Open(c.RevokedSince)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		return nil, err
	}
	rec, err := oauth.Recover(ctx, r.Store, now, rand.Reader, r.Made, &replaying{log, sqlstore.Progress{Step: "replaying", Of: info.Size()}, progress})
	if missing, ok := errors.AsType[*oauth.Missing](err); ok {
		return nil, fmt.Errorf("%s: %w, so it cannot say what was revoked after the backup: use --revoke-all-before-restore, or leave the log out and use --accept-revived-keys", c.RevokedSince, missing)
	}
	if err != nil {
		return nil, about{c.RevokedSince, err}
	}
	// Where the database that is replaced can be read, it says whether anything
	// happened after the log's end.
	whole := r.Target != nil && r.Target.Epoch == rec.Epoch && r.Target.Seq == rec.Seq && rec.Holds(r.Target.Outside)
	if !whole && !c.AcceptRevivedKeys && !c.RevokeAllBeforeRestore {
		revived := fmt.Sprintf("is complete until %s: what was revoked from then until now, %s,", both(rec.Until), both(now))
		if rec.Until.IsZero() { // the export was killed before its first mark
			revived = fmt.Sprintf("does not say until when it is complete: what was revoked from the backup until now, %s, and does not stand in it", both(now))
		}
		return nil, misunderstanding{fmt.Errorf("%s %s would be alive again. Add --accept-revived-keys to accept that, or --revoke-all-before-restore to end every grant", c.RevokedSince, revived)}
	}
	return rec, nil
}

// warnAhead says that an epoch, which is named by the clock, lies in the future.
func warnAhead(t terminal, epoch int64, now time.Time) {
	if epoch > now.Unix() {
		fmt.Fprintf(t.err, "grantway: the epoch %d lies in the future, as does the one before it: the clock of this machine, which says %s, is behind, or another was ahead then. It counts all the same\n", epoch, both(now))
	}
}

// replaying tells how much of a log was read.
type replaying struct {
	log  io.Reader
	at   sqlstore.Progress // in bytes
	tell func(sqlstore.Progress)
}

func (r *replaying) Read(p []byte) (int, error) {
	n, err := r.log.Read(p)
	r.at.Rows += int64(n)
	r.tell(r.at)
	return n, err
}

// place names a file; an address may hold a password.
func place(c config.Config) string {
	if database := c.Database.Reveal(); !sqlstore.IsPostgres(database) {
		return database
	}
	return ""
}

// explain says what to do about a restore that cannot begin.
func (c *restoreCommand) explain(err error, database string) error {
	switch {
	case errors.Is(err, sqlstore.ErrNoArchive):
		return fmt.Errorf("%s: %w", c.File, err)
	case errors.Is(err, sqlstore.ErrNewerSchema):
		return fmt.Errorf("%s: %w: restore it with that one", c.File, err)
	case errors.Is(err, sqlstore.ErrRestoring):
		return fmt.Errorf("%s: %w: wait until that has ended", c.File, err)
	case errors.Is(err, sqlstore.ErrCorrupt):
		return fmt.Errorf("%s: %w; use another backup", c.File, err)
	case errors.Is(err, sqlstore.ErrInUse):
		return fmt.Errorf("the database %s is in use: stop the server, and whatever else works on it, first", database)
	case errors.Is(err, sqlstore.ErrOccupied) && database == "":
		return errors.New("the PostgreSQL database is not empty: name a new one, and the one that is there stays as it is")
	case errors.Is(err, sqlstore.ErrOccupied):
		return fmt.Errorf("there is a database at %s already: with --replace the backup takes its place, and it is kept under another name", database)
	}
	return err
}
