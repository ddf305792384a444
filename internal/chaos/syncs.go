package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// syncs is how long the disk takes for the least that a commit waits for. What a server
// cannot know, whoever reads its figures must: that the disk stood still.
type syncs struct {
	n       int
	longest time.Duration
	at      time.Time // when that one began
	err     error
}

const syncEvery = 100 * time.Millisecond

// watchSyncs writes and syncs one page of a file in dir, again and again, until what it
// returns is called.
func watchSyncs(ctx context.Context, dir string) (stop func() syncs) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var s syncs
	go func() {
		defer close(done)
		s.err = s.watch(ctx, filepath.Join(dir, "page"))
	}()
	return func() syncs {
		cancel()
		<-done
		return s
	}
}

func (s *syncs) watch(ctx context.Context, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	page := make([]byte, 4096)
	if _, err := f.Write(page); err != nil {
		return err
	}
	if err := f.Sync(); err != nil { // from now on no block is new
		return err
	}
	for {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		s.n++
		if took := time.Since(began); took > s.longest {
			s.longest, s.at = took, began
		}
		if wait(ctx, syncEvery); ctx.Err() != nil {
			return nil
		}
	}
}

func (s syncs) String() string {
	switch {
	case s.err != nil:
		return fmt.Sprintf("How long the disk took for a bare sync is not known: %v.", s.err)
	case s.n == 0:
		return ""
	}
	return fmt.Sprintf("The longest of %d bare syncs of one page beside it took %s ms, at %s.", s.n, ms(s.longest), s.at.Format("15:04:05.0"))
}
