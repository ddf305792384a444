package sqlstore

import "sync/atomic"

// GroupSizes are the upper bounds by which [Stats] counts commits: how many events
// one of them made durable.
var GroupSizes = [...]int{1, 2, 4, 8, 16, 32, 64, 128, groupMax}

// Stats is what a store has done since it was opened, for metrics.
type Stats struct {
	Events  uint64                  // made durable
	Commits uint64                  // transactions that made them so
	Groups  [len(GroupSizes)]uint64 // commits, by the first bound in GroupSizes that holds their events
	Failed  uint64                  // events that came to nothing, or whose outcome is unknown
	Retries uint64                  // sent again after a serialization failure, a deadlock, or in vain with others (PostgreSQL)
	Waiting int64                   // events and questions that wait for the writer, or for a connection

	Rehearsed uint64 // connections that have played revocations (PostgreSQL)
}

// Stats returns the counts so far. They are read one by one, so that they may be
// an event apart.
func (s *Store) Stats() Stats { return s.engine.stats() }

// counters are what both engines count.
type counters struct {
	events, commits, failed, retries, rehearsed atomic.Uint64
	groups                                      [len(GroupSizes)]atomic.Uint64
	waiting                                     atomic.Int64
}

// committed counts a transaction that made n events durable.
func (c *counters) committed(n int) {
	if n == 0 {
		return
	}
	c.events.Add(uint64(n))
	c.commits.Add(1)
	for i, bound := range GroupSizes {
		if n <= bound {
			c.groups[i].Add(1)
			return
		}
	}
}

func (c *counters) stats() Stats {
	s := Stats{Events: c.events.Load(), Commits: c.commits.Load(), Failed: c.failed.Load(), Retries: c.retries.Load(), Waiting: c.waiting.Load(), Rehearsed: c.rehearsed.Load()}
	for i := range s.Groups {
		s.Groups[i] = c.groups[i].Load()
	}
	return s
}
