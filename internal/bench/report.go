package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The limits that are not ratios to the floor.
const (
	maxIdle   = 30 // MiB
	maxReady  = 100 * time.Millisecond
	maxGrowth = 1.3 // processor time with many live grants against the standard number
	minNodes  = 0.8 // throughput of three nodes against one
)

// floorFigures is what the floor cost on the machine that the bars were drawn up
// on: one of 2 cores (AMD EPYC). If it costs more than 1.3 times as much on such a
// machine it is wrong, not slow. Server and database together, µs.
var floorFigures = map[point]float64{
	{"/exchange", "sqlite", 8}: 266, {"/exchange", "sqlite", 64}: 223,
	{"/exchange", "postgres", 8}: 198 + 188, {"/exchange", "postgres", 64}: 183 + 153,
	{"/json", "sqlite", 8}: 46, {"/json", "sqlite", 64}: 46, {"/json", "postgres", 8}: 46, {"/json", "postgres", 64}: 46,
}

const maxFloor = 1.3

// verdict is one line of what must be so.
type verdict struct {
	must, measured string
	met            bool
	aside          string // if not "": not judged here, and why
}

// ratios returns what an operation costs in multiples of the floor: the server
// alone, and with the database.
func (r *result) ratios(at point) (server, both float64) {
	ours, floor := median(r.ours[at]), median(r.floor[at])
	return ours.server / floor.server, ours.both() / floor.both()
}

func (r *result) verdicts() (all []verdict) {
	for _, op := range operations {
		for _, engine := range r.plan.engines {
			v := verdict{must: fmt.Sprintf("%s, %s: ≤ %.1f × the floor", op.name, engineName(engine), op.bar), met: true}
			var said []string
			for _, conns := range r.plan.conns {
				server, both := r.ratios(point{op.name, engine, conns})
				text := fmt.Sprintf("%.2f at %d", server, conns)
				v.met = v.met && server <= op.bar
				if op.both && engine == "postgres" {
					text = fmt.Sprintf("%.2f (with the database %.2f) at %d", server, both, conns)
					v.met = v.met && both <= op.bar
				}
				said = append(said, text)
			}
			v.measured = strings.Join(said, ", ")
			all = append(all, v)
		}
	}
	all = append(all, verdict{must: "unstored JWT: ≤ 1.6 × the floor without a store", aside: "no grant issues one"})
	errors, first := r.errors()
	v := verdict{must: fmt.Sprintf("errors at %s and %d connections: 0", join(r.plan.conns), r.plan.crowd), measured: fmt.Sprint(errors), met: errors == 0}
	if first != nil {
		v.measured += fmt.Sprintf(" (%v)", first)
	}
	all = append(all, v)
	for _, engine := range r.plan.engines {
		all = append(all, r.sizeVerdict(engine),
			verdict{must: fmt.Sprintf("idle memory, %s: ≤ %d MiB", engineName(engine), maxIdle), measured: fmt.Sprintf("%.1f MiB", r.idle[engine]), met: r.idle[engine] <= maxIdle},
			verdict{must: fmt.Sprintf("start to ready on an existing schema, %s: ≤ %d ms", engineName(engine), maxReady.Milliseconds()),
				measured: fmt.Sprintf("%d ms (median of %d)", r.readyIn(engine).Milliseconds(), len(r.ready[engine])), met: r.readyIn(engine) <= maxReady})
	}
	if len(r.three) > 0 {
		one, three := median(r.one), median(r.three)
		all = append(all, verdict{must: fmt.Sprintf("three nodes on one PostgreSQL, same cores: ≥ %.1f × one node, no error", minNodes),
			measured: fmt.Sprintf("%.2f: %.0f against %.0f req/s, %d errors", three.rate/one.rate, three.rate, one.rate, three.errors+one.errors),
			met:      three.rate >= minNodes*one.rate && three.errors+one.errors == 0})
	}
	all = append(all, r.verifierVerdicts()...)
	return append(all,
		verdict{must: "a single node restarted under load by socket hand-over: 0 failed requests", aside: "`TestHandOver_UnderLoad` shows it"},
		r.floorVerdict())
}

func (r *result) sizeVerdict(engine string) verdict {
	large := cmp.Or(r.plan.large, 1_000_000)
	v := verdict{must: fmt.Sprintf("cost at %d live grants against %d, %s: ≤ %.1f × processor time, flat memory", large, standardSize, engineName(engine), maxGrowth)}
	if r.plan.large == 0 {
		v.aside = "only with `SIZE=1000000 make bench`"
		return v
	}
	v.met = true
	var said []string
	for _, conns := range r.plan.conns {
		at := point{opExchange, engine, conns}
		small, large := median(r.small[at]), median(r.large[at])
		said = append(said, fmt.Sprintf("%.2f (%s against %s µs) at %d", large.both()/small.both(), micros(large), micros(small), conns))
		v.met = v.met && large.both() <= maxGrowth*small.both() && large.errors+small.errors == 0
	}
	memory := r.sizes[engine]
	v.met = v.met && memory[1] <= maxGrowth*memory[0]
	v.measured = fmt.Sprintf("%s; %.0f against %.0f MiB", strings.Join(said, ", "), memory[1], memory[0])
	return v
}

func (r *result) floorVerdict() verdict {
	v := verdict{must: fmt.Sprintf("the floor itself: ≤ %.1f × what it cost on the machine of the bars", maxFloor), met: true}
	worst := 0.0
	for _, op := range operations {
		for _, engine := range r.plan.engines {
			for _, conns := range r.plan.conns {
				if figure, ok := floorFigures[point{op.route, engine, conns}]; ok {
					worst = max(worst, median(r.floor[point{op.name, engine, conns}]).both()/figure)
				}
			}
		}
	}
	v.measured, v.met = fmt.Sprintf("%.2f at the most", worst), worst <= maxFloor
	return v
}

func (r *result) errors() (n int, first error) {
	add := func(s sample) {
		n += s.errors
		if s.first != nil {
			first = s.first
		}
	}
	for _, of := range []map[point][]sample{r.ours, r.floor} {
		for _, runs := range of {
			add(median(runs))
		}
	}
	for _, runs := range r.signed {
		add(median(runs))
	}
	for _, s := range r.crowd {
		add(s)
	}
	return n, first
}

func (r *result) readyIn(engine string) time.Duration {
	all := slices.Clone(r.ready[engine])
	slices.Sort(all)
	return all[len(all)/2]
}

func engineName(engine string) string {
	return map[string]string{"sqlite": "SQLite", "postgres": "PostgreSQL"}[engine]
}

func join(numbers []int) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, ", ")
}

// markdown is the report.
func (r *result) markdown() string {
	var b bytes.Buffer
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("# Performance\n")
	say("`make bench` wrote this on %s, in %s, at commit %s.\n", r.began.Format("2 January 2006, 15:04"), time.Since(r.began).Round(time.Second), r.of)
	say("Machine: %s.\n", machine())
	say("What counts is the **ratio to the floor**: a program that does in one request what no token endpoint can do without (net/http, one row updated and one")
	say("of 400 bytes inserted by random keys in one durable commit, one ES256 signature; `internal/bench/floor`). It runs beside ours, on the same database, under")
	say("the same load generator, in turn with it, and gets the same requests; each figure is the median of %d rounds of %d operations.\n", r.plan.rounds, r.plan.ops-r.plan.ops/warmup)
	say("## What must be so\n")
	say("| | measured | |\n|---|---|---|")
	for _, v := range r.verdicts() {
		word := "met"
		switch {
		case v.aside != "":
			word, v.measured = "–", v.aside
		case !v.met:
			word = "**not met**"
		}
		say("| %s | %s | %s |", v.must, v.measured, word)
	}
	say("\n## Processor time\n")
	say("Microseconds for one operation, server + database. The ratio's range is over the rounds.\n")
	say("| operation | database | connections | ours | floor | ratio, server | ratio, both | range, both |\n|---|---|---|---|---|---|---|---|")
	r.each(func(op operation, engine string, at point) {
		ours, floor := median(r.ours[at]), median(r.floor[at])
		server, both := r.ratios(at)
		low, high := r.spread(at)
		say("| %s | %s | %d | %s | %s | %.2f | %.2f | %.2f–%.2f |", op.name, engineName(engine), at.conns, micros(ours), micros(floor), server, both, low, high)
	})
	for _, conns := range r.plan.conns {
		say("| one signature, no store | | %d | | %s | | | |", conns, micros(median(r.signed[conns])))
	}
	say("\n## Time, throughput, bytes\n")
	say("The load generator takes its share of the same cores. Bytes written are those of the server's process with its log (SQLite: `write_bytes` of /proc, counted")
	say("when a page becomes dirty) or of the write-ahead log (PostgreSQL).\n")
	say("| operation | database | connections | p50 / p99 ms | req/s | errors | KiB written | floor: p50 / p99 ms | req/s | errors | KiB written |\n|---|---|---|---|---|---|---|---|---|---|---|")
	r.each(func(op operation, engine string, at point) {
		ours, floor := median(r.ours[at]), median(r.floor[at])
		say("| %s | %s | %d | %s | %.0f | %d | %.1f | %s | %.0f | %d | %.1f |", op.name, engineName(engine), at.conns, times(ours), ours.rate, ours.errors, ours.bytes/1024,
			times(floor), floor.rate, floor.errors, floor.bytes/1024)
	})
	for _, op := range operations {
		for _, engine := range r.plan.engines {
			s := r.crowd[point{op.name, engine, r.plan.crowd}]
			say("| %s | %s | %d | %s | %.0f | %d | %.1f | | | | |", op.name, engineName(engine), r.plan.crowd, times(s), s.rate, s.errors, s.bytes/1024)
		}
	}
	say("\n## Memory and start\n")
	say("| database | idle MiB | after the load | at most | start to ready |\n|---|---|---|---|---|")
	for _, engine := range r.plan.engines {
		say("| %s | %.1f | %.1f | %.1f | %d ms |", engineName(engine), r.idle[engine], r.loaded[engine][0], r.loaded[engine][1], r.readyIn(engine).Milliseconds())
	}
	say("\n## How\n")
	for _, op := range operations {
		say("- %s: %s.", op.name, op.how)
	}
	say("- The server is `grantway serve` as `grantway init` sets it up, with metrics, limits too high to refuse, and every request logged to a file. Its database holds %d live", r.plan.grants)
	say("  grants. Codes and refresh tokens are loaded before; what is measured goes over HTTP, on keep-alive connections, after a warm-up of a tenth. Users and stores")
	say("  have ids in no order.")
	say("- PostgreSQL is Debian's at its defaults but for 64 MB of shared buffers, on the same machine, every commit synced; its figure is that of all its processes.")
	say("- A server's processor time is exact; its database's to 10 ms, %.0f µs for one operation.", 1e4/float64(r.plan.ops-r.plan.ops/warmup))
	say("- Idle memory is read %v after the start.", r.plan.idle)
	return b.String()
}

func (r *result) each(f func(op operation, engine string, at point)) {
	for _, op := range operations {
		for _, engine := range r.plan.engines {
			for _, conns := range r.plan.conns {
				f(op, engine, point{op.name, engine, conns})
			}
		}
	}
}

// spread is the least and the greatest ratio of a round.
func (r *result) spread(at point) (low, high float64) {
	var all []float64
	for i, s := range r.ours[at] {
		all = append(all, s.both()/r.floor[at][i].both())
	}
	return slices.Min(all), slices.Max(all)
}

func micros(s sample) string {
	if s.database == 0 {
		return fmt.Sprintf("%.0f", s.server)
	}
	return fmt.Sprintf("%.0f + %.0f", s.server, s.database)
}

func times(s sample) string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.1f / %.1f", ms(s.p50), ms(s.p99))
}

// machine says what this ran on.
func machine() string {
	cpu := "unknown processor"
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", cpu, runtime.NumCPU(), cmp.Or(strings.TrimSpace(string(kernel)), "of unknown version"), runtime.Version())
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return "`" + strings.TrimSpace(string(out)) + "`"
}
