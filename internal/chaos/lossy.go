package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/grantway/grantway/internal/storagetest"
)

// lossy is a PostgreSQL server behind a proxy.
type lossy struct {
	*onServer
	proxy *storagetest.Proxy
}

func layProxy(ctx context.Context, dir string) (ground, error) {
	data, err := serverDir(dir)
	if err != nil {
		return nil, err
	}
	s, err := startServer(ctx, data, "127.0.0.1", nil)
	if err != nil {
		return nil, err
	}
	p, err := storagetest.NewProxy(net.JoinHostPort(s.host, s.port))
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return lossy{&onServer{server: s}, p}, nil
}

func (l lossy) database() string {
	return "postgres://postgres@" + l.proxy.Addr() + "/postgres?sslmode=disable"
}

// strike loses what goes one way for a while, and then what goes the other way.
func (l lossy) strike(ctx context.Context, _ *site, rng *rand.Rand) (time.Time, error) {
	first := storagetest.Way(rng.IntN(2))
	for _, way := range []storagetest.Way{first, 1 - first} {
		wait(ctx, between(rng, 0, time.Second))
		l.proxy.Lose(way, true)
		wait(ctx, between(rng, 2*time.Second, 5*time.Second))
		l.proxy.Lose(way, false)
	}
	return time.Now(), nil
}

func (l lossy) close() error { return errors.Join(l.proxy.Close(), l.server.close()) }
