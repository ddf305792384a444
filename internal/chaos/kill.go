package main

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"time"
)

// file is an SQLite database under a server that is killed.
type file struct{ path string }

func layFile(_ context.Context, dir string) (ground, error) {
	return file{filepath.Join(dir, "grantway.db")}, nil
}

func (f file) database() string { return f.path }
func (f file) close() error     { return nil }

func (f file) strike(ctx context.Context, s *site, rng *rand.Rand) (time.Time, error) {
	return killServer(ctx, s, rng)
}

// killServer ends a server with SIGKILL three times, also while it starts.
func killServer(ctx context.Context, s *site, rng *rand.Rand) (mended time.Time, err error) {
	for range 3 {
		wait(ctx, between(rng, 0, 700*time.Millisecond))
		if err := s.nodes[rng.IntN(len(s.nodes))].kill(); err != nil {
			return mended, err
		}
		mended = time.Now()
	}
	return mended, nil
}
