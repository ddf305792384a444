// Command chaos breaks a running Grantway on purpose and holds it against a log
// that its clients kept.
//
//	make chaos                               20 rounds of every fault, about an hour; goes on where it was stopped; writes docs/faults.md
//	go run ./internal/chaos -only leader     the faults with this in their names
//	make revocation-report                   how soon a revoked key is refused, whatever happens; writes docs/revocation-report.md
//
// A round sets up an installation, drives it over HTTP as apps, customers and an
// operator would, breaks something under that load, mends it, and then asks for
// everything that was ever acknowledged: no code was redeemed twice; no key,
// grant, revocation, secret or rotation is missing; nothing that ended is alive;
// every request was answered or cleanly refused; and the service was ready at
// once, without a human. A good key that is refused counts as much as a dead one
// that is accepted.
//
// Each worker of the load owns what it makes (its customer, grants, chains, keys),
// and does one thing at a time, so it always knows what the server must answer:
// alive, dead, or either, after an answer was lost.
//
// It needs root, for a small disk and a network of its own, and the Debian packages
// postgresql, patroni, etcd-server and iproute2. All traffic stays on this machine.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 20, "rounds of every fault; with -revocations, of every restart")
	only := flag.String("only", "", "play only what has this `text` in its name")
	revocations := flag.Bool("revocations", false, "report how soon revoked keys are refused")
	quick := flag.Bool("quick", false, "with -revocations: a quarter of the repetitions")
	state := flag.String("state", "", "`file` that remembers the rounds that were played")
	out := flag.String("o", "", "`file` to write the report to, as Markdown")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var broken bool
	var err error
	if *revocations {
		broken, err = reach(ctx, *rounds, *quick, *only, *out)
	} else {
		broken, err = campaign(ctx, *rounds, *only, *state, *out)
	}
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	case broken:
		fmt.Fprintln(os.Stderr, "chaos: promises were broken; see the rounds above")
		os.Exit(1)
	}
}

// campaign plays what the state file does not have yet, one round of each fault
// after the other, and writes the report.
func campaign(ctx context.Context, rounds int, only, stateFile, out string) (broken bool, err error) {
	dir, err := os.MkdirTemp("", "grantway-chaos-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // the user postgres passes through
		return false, err
	}
	binary := filepath.Join(dir, "grantway")
	build, err := buildServer(ctx, binary)
	if err != nil {
		return false, err
	}
	s, err := openProgress(stateFile, build)
	if err != nil {
		return false, err
	}
	defer s.close()
	of := commit() // before the first report makes the tree differ from it
	for seed := range uint64(rounds) {
		for _, f := range faults() {
			if !strings.Contains(f.name, only) || s.has(f, seed) {
				continue
			}
			folder := filepath.Join(dir, fmt.Sprintf("%d", len(s.results)))
			if err := os.Mkdir(folder, 0o700); err != nil {
				return false, err
			}
			r, err := f.run(ctx, binary, folder, seed)
			if err != nil {
				return false, fmt.Errorf("%s on %s, round %d: %w", f.name, f.engine, seed, err)
			}
			fmt.Fprintln(os.Stderr, r.row())
			for _, v := range r.Violations {
				fmt.Fprintln(os.Stderr, "  ", v)
			}
			if err := errors.Join(s.add(r), write(out, s.results, of)); err != nil {
				return false, err
			}
			if len(r.Violations) > 0 {
				kept, err := os.MkdirTemp("", "grantway-chaos-kept-")
				if err != nil {
					return false, err
				}
				fmt.Fprintln(os.Stderr, "   what happened is in", kept)
				if err := os.Rename(folder, filepath.Join(kept, "round")); err != nil {
					return false, err
				}
			} else if err := os.RemoveAll(folder); err != nil {
				return false, err
			}
		}
	}
	fmt.Print(report(s.results, time.Now(), of))
	for _, r := range s.results {
		broken = broken || len(r.Violations) > 0
	}
	return broken, write(out, s.results, of)
}

// write writes the report, after every round: a campaign is long.
func write(out string, results []result, of string) error {
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(report(results, time.Now(), of)), 0o644)
}

// buildServer builds the server and returns a name of what was built: rounds of
// other code count for nothing.
func buildServer(ctx context.Context, binary string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", binary, "github.com/grantway/grantway/cmd/grantway")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the server: %w\n%s", err, out)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), os.Chmod(binary, 0o755)
}
