package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// onServer is a PostgreSQL server and what is done to it.
type onServer struct {
	*server
	hit func(ctx context.Context, g *onServer, s *site, rng *rand.Rand) (time.Time, error)
}

func layServer(hit func(context.Context, *onServer, *site, *rand.Rand) (time.Time, error)) func(context.Context, string) (ground, error) {
	return func(ctx context.Context, dir string) (ground, error) {
		data, err := serverDir(dir)
		if err != nil {
			return nil, err
		}
		s, err := startServer(ctx, data, "127.0.0.1", nil)
		if err != nil {
			return nil, err
		}
		return &onServer{s, hit}, nil
	}
}

// serverDir makes a folder in dir for a server, whose user can reach nothing else
// of the round's.
func serverDir(dir string) (string, error) {
	path := filepath.Join(dir, "postgres")
	return path, errors.Join(os.Chmod(dir, 0o711), os.Mkdir(path, 0o700))
}

func (g *onServer) database() string { return g.url() }

func (g *onServer) strike(ctx context.Context, s *site, rng *rand.Rand) (time.Time, error) {
	return g.hit(ctx, g, s, rng)
}

func serverKilled(ctx context.Context, _ *onServer, s *site, rng *rand.Rand) (time.Time, error) {
	return killServer(ctx, s, rng)
}

// databaseKilled kills one of the database's processes, upon which it ends all and
// recovers, and then the postmaster, in this order or the other.
func databaseKilled(ctx context.Context, g *onServer, _ *site, rng *rand.Rand) (mended time.Time, err error) {
	first := rng.IntN(2)
	for i := range 2 {
		if err := g.signalOne(i == first, rng); err != nil {
			return mended, err
		}
		// Until it notices, it answers.
		wait(ctx, 50*time.Millisecond)
		if err := g.answers(ctx, time.Minute); err != nil {
			return mended, fmt.Errorf("the database does not come back: %w", err)
		}
		mended = time.Now()
		if i == 0 {
			wait(ctx, between(rng, 0, time.Second))
		}
	}
	return mended, nil
}

func (s *server) signalOne(postmaster bool, rng *rand.Rand) error {
	if postmaster {
		return s.signal(syscall.SIGKILL)
	}
	children, err := s.children()
	if err != nil || len(children) == 0 {
		return errors.Join(err, errors.New("the database has no processes"))
	}
	return syscall.Kill(children[rng.IntN(len(children))], syscall.SIGKILL)
}

// databaseFrozen stops every process of the database for some seconds: connections
// stay, and nothing answers.
func databaseFrozen(ctx context.Context, g *onServer, _ *site, rng *rand.Rand) (mended time.Time, err error) {
	if err := g.signal(syscall.SIGSTOP); err != nil { // first, so that there are no more of them
		return mended, err
	}
	children, err := g.children()
	if err != nil {
		return mended, err
	}
	each := func(sig syscall.Signal) (err error) {
		for _, pid := range children {
			if e := syscall.Kill(pid, sig); e != nil && !errors.Is(e, syscall.ESRCH) {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	err = each(syscall.SIGSTOP)
	wait(ctx, between(rng, 2*time.Second, 8*time.Second))
	err = errors.Join(err, each(syscall.SIGCONT), g.signal(syscall.SIGCONT))
	return time.Now(), err
}
