package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

type exportCommand struct {
	Admin
	File   string `arg:"" help:"File to append to; a new one begins with the oldest event."`
	Follow bool   `help:"Go on until interrupted, and append each event within a second."`
}

const (
	followEvery = time.Second
	markEvery   = 10 * time.Second
)

// exportDoc is what an export did, in JSON.
type exportDoc struct {
	File   string    `json:"file"`
	Events int       `json:"events"`
	Until  time.Time `json:"complete_until"`
}

// Run appends events, and brings each batch to the disk.
func (c *exportCommand) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) (err error) {
		f, err := openLog(c.File)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		end, err := oauth.ReadLog(f, nil)
		if err != nil {
			return about{c.File, err}
		}
		export, err := o.server.ExportAfter(ctx, command, end)
		if err != nil {
			return about{c.File, err}
		}
		// What a crash cut off is written again.
		if err := f.Truncate(end.Size); err != nil {
			return err
		}
		if _, err := f.Seek(end.Size, 0); err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		doc := exportDoc{File: c.File}
		batch := func(ctx context.Context, late bool) error {
			n, failed := export.Next(ctx, w, late)
			doc.Events += n
			if n > 0 || late {
				failed = errors.Join(failed, w.Flush(), f.Sync())
			}
			return failed
		}
		if err := batch(ctx, true); err != nil {
			return err
		}
		if c.Follow {
			if err := follow(ctx, t, batch); err != nil {
				return err
			}
		}
		doc.Until = end.Until
		return o.show(doc, "Appended %d events to %s. It is complete until %s.", doc.Events, c.File, both(doc.Until))
	})
}

// follow exports until ctx ends, and then once more. A database that cannot be
// reached is asked again, and so is one that has lost events: the operator says when it
// is the right one.
func follow(ctx context.Context, t terminal, batch func(ctx context.Context, late bool) error) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	marked := time.Now()
	var failing error // of which kind; each is told once
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return batch(last, true)
		case <-tick.C:
		}
		late := time.Since(marked) >= markEvery
		err := batch(ctx, late)
		var kind error
		switch {
		case err == nil && late:
			marked = time.Now()
		case err == nil:
		case errors.Is(err, oauth.ErrBehind):
			kind = oauth.ErrBehind
		case errors.Is(err, oauth.ErrUnavailable):
			kind = oauth.ErrUnavailable
		default:
			return err
		}
		if kind != nil && kind != failing && ctx.Err() == nil {
			fmt.Fprintf(t.err, "grantway: %v; trying again\n", err)
		}
		failing = kind
	}
}

// openLog opens an event log for one writer.
func openLog(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another export is writing to it", name), f.Close())
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// So that a new file's name is on the disk, too.
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
