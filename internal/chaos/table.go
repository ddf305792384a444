package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// row is the result of one round as a line.
func (r result) row() string {
	return fmt.Sprintf("%s, %s: %d requests, %d done, %d refused, %d met nobody, %d unknown; failover %v, longest gap %v, ready %v after; %d violations",
		r.Fault, r.Engine, r.Requests, r.Done, r.Refused, r.Away, r.Unknown,
		short(r.Failover), short(r.Gap), short(r.Ready), len(r.Violations))
}

func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// report is a table with a line for each fault, as of a moment and a commit.
func report(results []result, at time.Time, of string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Faults\n\n`make chaos` wrote this on %s, at commit %s.\n", at.Format("2 January 2006, 15:04"), of)
	b.WriteString(`
Each round drives a fresh installation over HTTP as customers, apps and an operator would, breaks
something under that load, mends it, and then asks for everything that was acknowledged, which a log beside the server
holds. Violations are: a code redeemed twice; an acknowledged key, grant, revocation, secret, rotation or session
that is missing; something ended that is alive; a request without an answer within 15 s or with a 500; half an event in the
database; not ready in time. "Met nobody" is a 503 or a refused connection, after which nothing may have been done; "unknown"
a connection that was cut, an answer the client no longer waited for, or a 503 that says so. "Gap" is the longest time in which nobody got any answer but 503, which
contains the fault itself. "Ready" counts from the fault's end (the database takes writes again, the packet passes, the disk has
room, the process is dead) until every node says it is ready and has written; 1 s is allowed, 2 s after a failover.

| fault | engine | rounds | requests | done | refused | met nobody | unknown | failover, median / longest | gap, median / longest | ready, median / longest | violations |
|---|---|---|---|---|---|---|---|---|---|---|---|
`)
	for _, f := range faults() {
		var sum result
		var rounds, violations int
		var failover, gap, ready []time.Duration
		for _, r := range results {
			if r.Fault != f.name || r.Engine != f.engine {
				continue
			}
			rounds++
			sum.Requests, sum.Done, sum.Refused, sum.Away, sum.Unknown = sum.Requests+r.Requests, sum.Done+r.Done, sum.Refused+r.Refused, sum.Away+r.Away, sum.Unknown+r.Unknown
			violations += len(r.Violations)
			gap, ready = append(gap, r.Gap), append(ready, r.Ready)
			if r.Failover > 0 {
				failover = append(failover, r.Failover)
			}
		}
		if rounds == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %d | %s | %s | %s | %d |\n", f.name, f.engine, rounds,
			sum.Requests, sum.Done, sum.Refused, sum.Away, sum.Unknown, spread(failover), spread(gap), spread(ready), violations)
	}
	return b.String()
}

// spread is the median and the longest of some times.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return fmt.Sprintf("%.2f / %.2f s", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
}
