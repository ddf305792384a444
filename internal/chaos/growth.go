package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// growth is an installation that moves from its file to PostgreSQL under load,
// while the program that copies is killed again and again.
type growth struct {
	from file
	to   *server
}

func layGrowth(ctx context.Context, dir string) (ground, error) {
	data, err := serverDir(dir)
	if err != nil {
		return nil, err
	}
	to, err := startServer(ctx, data, "127.0.0.1", nil)
	if err != nil {
		return nil, err
	}
	return &growth{file{filepath.Join(dir, "grantway.db")}, to}, nil
}

func (g *growth) database() string { return g.from.path }
func (g *growth) close() error     { return g.to.close() }

// strike moves the installation, and starts the nodes again on PostgreSQL as the
// operator would: until then those that run on the file refuse everybody.
func (g *growth) strike(ctx context.Context, s *site, rng *rand.Rand) (mended time.Time, err error) {
	from, to := g.from.path, g.to.url()
	const kills = 8
	for n := 0; ; n++ {
		running, kill := context.WithCancel(ctx)
		cmd := exec.CommandContext(running, s.binary, "copy", "--from", from, "--to", to)
		cmd.Dir, cmd.Env = s.dir, s.environ()
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			kill()
			return mended, err
		}
		if n < kills {
			time.AfterFunc(between(rng, 0, 700*time.Millisecond), kill)
		}
		err := cmd.Wait()
		killed := running.Err() != nil
		kill()
		if err == nil || strings.Contains(said.String(), "has moved to") { // killed after its last step
			break
		}
		if !killed {
			return mended, fmt.Errorf("grantway copy: %w: %s", err, &said)
		}
	}
	for _, n := range s.nodes {
		if n.ready(ctx) {
			s.ledger.violation("node %d is ready on a file that has moved", n.number)
		}
	}
	wait(ctx, between(rng, 0, 500*time.Millisecond))
	config := filepath.Join(s.dir, "config.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		return mended, err
	}
	if err := os.WriteFile(config, bytes.ReplaceAll(text, []byte(from), []byte(to)), 0o600); err != nil {
		return mended, err
	}
	s.database = to
	for _, n := range s.nodes {
		if err := n.kill(); err != nil {
			return mended, err
		}
	}
	return time.Now(), nil
}
