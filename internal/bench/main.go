// Command bench measures what our server costs beside the floor program, with the
// same load generator in the same run, on SQLite and on PostgreSQL, and says which
// of our bars are met:
//
//	make bench                    everything; writes docs/performance.md
//	SIZE=1000000 make bench       with so many live grants, against 10,000
//	go run ./internal/bench -quick
//
// The figure to compare is the processor time of the server for one operation, from
// /proc, and its ratio to the floor's. Time and throughput on a shared machine vary
// more.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// plan is how much is measured.
type plan struct {
	ops, rounds int
	grants      int   // live ones beside those that are measured
	large       int   // the same, for the comparison of sizes; 0: none
	conns       []int // at which everything is measured
	crowd       int   // connections at which only errors count
	engines     []string
	starts      int           // of which the median is taken
	idle        time.Duration // how long a fresh server is left alone before its memory is read
	times       int           // the benchmarks of the verifier are run
	benchtime   string        // each, as go test takes it
}

func main() {
	p := plan{conns: []int{8, 64}, crowd: 512, starts: 5, idle: 3 * time.Second, times: 5, benchtime: "1s"}
	ops := flag.Int("ops", 4000, "operations in a run, a tenth of them to warm up")
	rounds := flag.Int("rounds", 3, "rounds; in each, floor and server take turns, and medians are taken over them")
	size := flag.Int("n", standardSize, "live grants; more than the default adds a comparison with the default")
	engines := flag.String("db", "sqlite,postgres", "databases")
	quick := flag.Bool("quick", false, "a tenth of everything, for a first look")
	out := flag.String("o", "", "`file` to write the report to, as Markdown")
	flag.Parse()
	p.ops, p.rounds, p.grants, p.engines = *ops, *rounds, min(*size, standardSize), strings.Split(*engines, ",")
	if *size > standardSize {
		p.large = *size
	}
	if *quick {
		p.ops, p.rounds, p.grants, p.starts, p.times, p.benchtime = p.ops/10, 1, p.grants/10, 1, 1, "100x"
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := p.report(ctx, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

const standardSize = 10_000

func (p plan) report(ctx context.Context, out string) error {
	dir, err := os.MkdirTemp("", "grantway-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := p.run(ctx, dir, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	text := r.markdown()
	fmt.Print(text)
	if out == "" {
		return nil
	}
	return os.WriteFile(out, []byte(text), 0o644)
}
