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

// disk is a small file system of its own.
type disk struct{ path string }

// newDisk mounts a tmpfs at path, which needs root.
func newDisk(path string, megabytes int) (*disk, error) {
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%dm,mode=0700", megabytes)); err != nil {
		return nil, fmt.Errorf("mounting a small disk, which needs root: %w", err)
	}
	return &disk{path}, nil
}

// close unmounts the disk, also if somebody still has a file open there.
func (d *disk) close() error { return syscall.Unmount(d.path, syscall.MNT_DETACH) }

// full leaves no free byte on the disk for a while; what is freed meanwhile is taken
// as well.
func (d *disk) full(ctx context.Context, rng *rand.Rand) error {
	ballast := filepath.Join(d.path, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return err
	}
	for end := time.Now().Add(between(rng, 1500*time.Millisecond, 4*time.Second)); err == nil && time.Now().Before(end); wait(ctx, 20*time.Millisecond) {
		err = fill(f)
	}
	return errors.Join(err, f.Close(), os.Remove(ballast))
}

func fill(f *os.File) error {
	for size := 1 << 20; size > 0; {
		switch _, err := f.Write(make([]byte, size)); {
		case errors.Is(err, syscall.ENOSPC):
			size /= 16
		case err != nil:
			return err
		}
	}
	return nil
}

// fileOnDisk is an SQLite database on a small disk.
type fileOnDisk struct{ *disk }

func layFileOnDisk(_ context.Context, dir string) (ground, error) {
	d, err := newDisk(filepath.Join(dir, "disk"), 24)
	if err != nil {
		return nil, err
	}
	return fileOnDisk{d}, nil
}

func (f fileOnDisk) database() string { return filepath.Join(f.path, "grantway.db") }

func (f fileOnDisk) strike(ctx context.Context, _ *site, rng *rand.Rand) (time.Time, error) {
	err := f.full(ctx, rng)
	return time.Now(), err
}

// serverOnDisk is a PostgreSQL server whose data and log of writes lie on a small
// disk: it gives up when it cannot write the one, and refuses when the other.
type serverOnDisk struct {
	*onServer
	disk *disk
}

func layServerOnDisk(ctx context.Context, dir string) (ground, error) {
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	d, err := newDisk(filepath.Join(dir, "disk"), 64)
	if err != nil {
		return nil, err
	}
	s, err := startServer(ctx, d.path, "127.0.0.1", nil)
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return &serverOnDisk{&onServer{server: s}, d}, nil
}

func (g *serverOnDisk) strike(ctx context.Context, _ *site, rng *rand.Rand) (mended time.Time, err error) {
	if err := g.disk.full(ctx, rng); err != nil {
		return mended, err
	}
	err = g.answers(ctx, time.Minute) // it may have to recover first
	return time.Now(), err
}

func (g *serverOnDisk) close() error { return errors.Join(g.server.close(), g.disk.close()) }
