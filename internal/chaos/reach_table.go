package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// bars that the report judges by.
const (
	crowdBar = 20 * time.Millisecond // 99 of 100 of a hundred followers refuse within it
	crowdFor = 100
)

// broken says what a situation showed that must not be.
func (r *reached) broken() (all []string) {
	if r.Late > 0 {
		all = append(all, fmt.Sprintf("%d checks admitted a revoked key past the bound", r.Late))
	}
	if len(r.Violations) > 0 {
		for _, v := range r.Violations[:min(3, len(r.Violations))] {
			all = append(all, strings.Join(strings.Fields(v), " ")) // a line, whatever page came as an answer
		}
	}
	return all
}

// slow reports whether the bar is missed. Only a report that is made in full, on a
// machine that does nothing else, is judged by it.
func (r *reached) slow() bool { return r.isCrowd() && percentile(r.First, 99) > crowdBar }

func (r *reached) isCrowd() bool { return r.Title == isHealthy && r.Followers == crowdFor }

// percentile is the least duration that so many of 100 do not exceed.
func percentile(all []time.Duration, of100 int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(1, (len(sorted)*of100+99)/100)-1]
}

// quantiles are p50 / p99 / max, in ms.
func quantiles(all []time.Duration) string {
	return ms(percentile(all, 50)) + " / " + ms(percentile(all, 99)) + " / " + ms(percentile(all, 100))
}

func ms(d time.Duration) string {
	v := float64(d.Microseconds()) / 1000
	if v < 10 && v > -10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// row is what a situation showed as a line, for whoever waits.
func (r *reached) row() string {
	var last, good []string
	for p, name := range r.Policies {
		if r.Least != nil {
			last = append(last, fmt.Sprintf("%s %s–%s", name, ms(r.Least[p]), ms(r.Most[p])))
		}
		good = append(good, name+" "+r.refusals(p))
	}
	return fmt.Sprintf("%s, %s: %d revocations, %d followers; revoking call %s, first refusal %s ms (p50 / p99 / max); last acceptance %s ms; good keys refused: %s; %d of %d checks introspected, %d shed; %d late",
		r.Name, r.Engine, r.Revocations, r.Followers, quantiles(r.Trip), quantiles(r.First),
		strings.Join(last, ", "), strings.Join(good, ", "), r.Questions, r.Checks, r.Shed, r.Late)
}

// last is the last check that admitted a revoked key, from the latest moment at which it
// can have been committed to the earliest.
func (r *reached) last(p int) string {
	switch {
	case p >= len(r.Policies) || r.Least == nil || r.Most[p] <= 0:
		return "–"
	case r.Least[p] <= 0:
		return "≤ " + ms(r.Most[p])
	}
	return ms(r.Least[p]) + "–" + ms(r.Most[p])
}

func (r *reached) refusals(p int) string {
	switch {
	case p >= len(r.Policies):
		return "–"
	case r.Refused[p] == 0:
		return "0"
	}
	return fmt.Sprintf("%.1f %%, %.1f s (%d of %d)", 100*r.Without[p], r.Stretch[p].Seconds(), r.Refused[p], r.Good[p])
}

func reachReport(all []*reached, began time.Time, of, took string, rounds int) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	say("# Revocation within a second\n\n")
	say("`make revocation-report` wrote this on %s, in %v, at commit %s.\n\n", began.Format("2 January 2006, 15:04"), time.Since(began).Round(time.Second), of)
	say("Machine: %s. Servers, databases, proxies, followers and callers share it; load at the end %s.\n", machine(), loadAverage())
	if took != "" {
		say("%s\n", took)
	}
	b.WriteString(`
Real ` + "`grantway serve`" + ` processes, on SQLite or PostgreSQL with every commit synced; followers are ` + "`resource.Verifier`" + `s of one process, each with
its own connections. To each of them callers show, all the time and under each policy beside each other, a key that stands and the key that is
revoked next, every 10 ms (100 followers: 100 ms, 1,000: 1 s), and the latter from when its revocation is sent every millisecond (100 followers: 10 ms,
1,000: 100 ms) until it is refused. At 100 and more one caller shows it to all of them in turn besides, every 2 ms (1,000: 20 ms), and goes by what
they were told (Closed). A thousand are more than this machine serves beside what they do themselves: their leases lapse, and what must hold is
that none admits late. *Admitted* is the instant of the check.

The commit lies between the moment at which the revoking call was sent and its acknowledgement. So a figure "a–b" is at least a and at most
b; "late" counts checks that **began** more than 850 ms after the acknowledgement and admitted the key (under Open(1s), which gives that
second away: 1,850 ms): those were late however short the commit was. First refusals count from when the call was sent, so that the call and its commit
are in them: they are at most what is printed. Where nothing is broken, a first refusal is the first that calls the key bad (401); elsewhere a 503, which
admits nobody either, counts as well. A refusal of a key that stands is 503; one that says the key is bad fails the report.

`)
	verdict(&b, all)
	say("## %s\n\n", isHealthy)
	b.WriteString("| | engine | revocations | revoking call, p50 / p99 / max | first refusal (401), p50 / p99 / max | last acceptance | late | good keys refused, of checks | checks by introspection | shed |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range all {
		if r.Title == isHealthy {
			refused, good := int64(0), int64(0)
			for p := range r.Policies {
				refused, good = refused+r.Refused[p], good+r.Good[p]
			}
			say("| %s | %s | %d | %s ms | %s ms | %s ms | %d | %d of %d | %.2f %% | %d |\n", r.Name, r.Engine, r.Revocations, quantiles(r.Trip), quantiles(r.First), r.last(0), r.Late, refused, good,
				100*float64(r.Questions)/float64(max(1, r.Checks)), r.Shed)
		}
	}
	for _, title := range []string{isBroken, isReplaced} {
		say("\n## %s\n\n", title)
		if title == isBroken {
			b.WriteString("By turns the key is revoked up to 60 ms after the fault began, or the fault comes at once behind the acknowledgement; it lasts two seconds. Where nothing\n" +
				"else is said the followers know only the node that suffers, and keys are revoked at another one.\n\n")
		} else {
			say("%d times each; a key is revoked at some moment of each.\n\n", rounds)
		}
		b.WriteString("| | engine | revocations | first refusal (401 or 503), p50 / max | last acceptance: Introspect | Closed | Open(1s) | late | good keys refused, share of the time and longest (checks): Introspect | Closed | Open(1s) | checks by introspection |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
		for _, r := range all {
			if r.Title == title {
				say("| %s | %s | %d | %s / %s ms | %s ms | %s ms | %s ms | %d | %s | %s | %s | %d of %d |\n", r.Name, r.Engine, r.Revocations,
					ms(percentile(r.First, 50)), ms(percentile(r.First, 100)), r.last(0), r.last(1), r.last(2), r.Late,
					r.refusals(0), r.refusals(1), r.refusals(2), r.Questions, r.Checks)
			}
		}
	}
	b.WriteString("\n## Notes\n\n")
	for _, r := range all {
		if r.isCrowd() && r.Took != "" {
			say("- %s, %s: %s In the %v behind %d of the %d revocations they had none that the kernel could tell: first refusal %s ms in these.\n",
				r.Name, r.Engine, r.Took, window, r.Undisturbed, r.Revocations, quantiles(r.Alone))
		}
		if (r.isCrowd() || r.Title == isReplaced) && r.Disk != "" {
			say("- %s, %s: %s\n", r.Name, r.Engine, r.Disk)
		}
		for _, n := range r.Notes {
			say("- %s\n", n)
		}
	}
	for _, r := range all {
		for _, v := range r.broken() {
			say("- **%s, %s: %s**\n", r.Name, r.Engine, v)
		}
	}
	return b.String()
}

// verdict says what must be so.
func verdict(b *strings.Builder, all []*reached) {
	met := func(ok bool) string {
		if ok {
			return "met"
		}
		return "**not met**"
	}
	var late int64
	var sent, cut int
	worst, p99, alone, seen := time.Duration(0), time.Duration(0), time.Duration(0), false
	var restarts, away int64
	for _, r := range all {
		late += r.Late
		for p, name := range r.Policies {
			if r.Least != nil && name != policies[2].name {
				worst = max(worst, r.Most[p])
			}
		}
		if r.isCrowd() {
			p99, alone, seen = max(p99, percentile(r.First, 99)), max(alone, percentile(r.Alone, 99)), true
		}
		if r.Title == isReplaced {
			restarts += int64(r.Revocations)
			sent, cut = sent+r.Requests, cut+r.Cut
			for _, n := range r.Refused {
				away += n
			}
		}
	}
	// The commit is somewhere between the call and its acknowledgement: only what is in
	// time counted from the call is shown to be.
	inTime := met(late == 0)
	if late == 0 && worst > bound {
		inTime = "**not shown**"
	}
	b.WriteString("| must be | measured | |\n|---|---|---|\n")
	fmt.Fprintf(b, "| no check admits a revoked key later than 850 ms after the commit | %d late; the last one at most %s ms after, counted from the revoking call | %s |\n", late, ms(worst), inTime)
	if seen {
		undisturbed := ""
		if alone > 0 {
			undisturbed = "; " + ms(alone) + " ms where the kernel could tell of no other guest at work meanwhile (below, *Notes*)"
		}
		fmt.Fprintf(b, "| 99 of 100 of 100 followers refuse within %s ms | %s ms, the revoking call included%s | %s |\n", ms(crowdBar), ms(p99), undisturbed, met(p99 <= crowdBar))
	}
	if restarts > 0 {
		fmt.Fprintf(b, "| hand-over and rolling restart: no good request refused or cut | %d checks under any policy, and %d of %d requests of apps and customers, in %d rounds | %s |\n", away, cut, sent, restarts, met(away == 0 && cut == 0))
	}
	b.WriteString("\n")
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
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", cpu, runtime.NumCPU(), strings.TrimSpace(string(kernel)), runtime.Version())
}

// processor is time of all cores, in ticks: what was used, and what was wanted while
// other guests of the host had it (proc_stat(5): steal).
type processor struct{ used, stolen int64 }

func processorTime() (p processor) {
	text, _ := os.ReadFile("/proc/stat")
	var user, nice, system, idle, iowait, irq, softirq int64
	fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &p.stolen)
	p.used = user + nice + system + irq + softirq
	return p
}

// since says how much of the machine others had; "" where the kernel does not tell.
func (p processor) since() string {
	now := processorTime()
	used, stolen := now.used-p.used, now.stolen-p.stolen
	if used <= 0 {
		return ""
	}
	return fmt.Sprintf("Other guests of its host had %.0f %% of the processor time that was wanted meanwhile.", 100*float64(stolen)/float64(used+stolen))
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return "`" + strings.TrimSpace(string(out)) + "`"
}
