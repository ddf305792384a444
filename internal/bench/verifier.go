package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
)

// The bars of package resource, and its benchmarks that show them.
const (
	maxCached = 1500 // ns
	maxFirst  = 1.3  // of a bare signature check

	benchCached = "BenchmarkVerifyCached"
	benchFirst  = "BenchmarkVerifyFirstSight"
	benchBare   = "BenchmarkBareSignature"
)

// cost is what a benchmark beside the code says of one operation.
type cost struct {
	ns     float64
	allocs int64
}

var benchLine = regexp.MustCompile(`(?m)^(Benchmark\w+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*\s(\d+) allocs/op$`)

// verifying runs the benchmarks of resource some times and takes the median of each.
func verifying(ctx context.Context, times int, benchtime string) (map[string]cost, error) {
	names := []string{benchCached, benchFirst, benchBare}
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", fmt.Sprintf("^(%s|%s|%s)$", names[0], names[1], names[2]),
		"-benchmem", "-count", strconv.Itoa(times), "-benchtime", benchtime, "github.com/grantway/grantway/resource").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("the benchmarks of resource: %w\n%s", err, out)
	}
	runs := map[string][]cost{}
	for _, m := range benchLine.FindAllStringSubmatch(string(out), -1) {
		var c cost
		c.ns, _ = strconv.ParseFloat(m[2], 64)
		c.allocs, _ = strconv.ParseInt(m[3], 10, 64)
		runs[m[1]] = append(runs[m[1]], c)
	}
	costs := map[string]cost{}
	for _, name := range names {
		all := runs[name]
		if len(all) != times {
			return nil, fmt.Errorf("%s ran %d times, not %d:\n%s", name, len(all), times, out)
		}
		slices.SortFunc(all, func(a, b cost) int { return int(a.ns - b.ns) })
		costs[name] = all[len(all)/2]
	}
	return costs, nil
}

func (r *result) verifierVerdicts() []verdict {
	cached, first, bare := r.verifier[benchCached], r.verifier[benchFirst], r.verifier[benchBare]
	return []verdict{
		{must: fmt.Sprintf("an API server verifies a cached key: ≤ %.1f µs, no allocation", maxCached/1000.),
			measured: fmt.Sprintf("%.2f µs, %d allocations", cached.ns/1000, cached.allocs), met: cached.ns <= maxCached && cached.allocs == 0},
		{must: fmt.Sprintf("an API server sees an ES256 key for the first time: ≤ %.1f × a bare signature check", maxFirst),
			measured: fmt.Sprintf("%.2f: %.0f against %.0f µs", first.ns/bare.ns, first.ns/1000, bare.ns/1000), met: first.ns <= maxFirst*bare.ns},
	}
}
