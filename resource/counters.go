package resource

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Counters is what happened since New, and how things stand. A program that publishes it, by expvar.Func or in the form
// of its own metrics, should watch LeaseAge (over a second: the feed is out of reach) and Introspections["lapsed"].
type Counters struct {
	// Epoch and Seq are how far the feed was followed, zero before the first snapshot.
	Epoch, Seq int64
	// LeaseAge is the time since the moment up to which everything revoked is in effect here; negative where there is
	// none. A lease is good for 700 ms of it.
	LeaseAge time.Duration
	// Lapses counts leases that ended before the next one began.
	Lapses uint64
	// Events counts changes and rules that the feed brought, snapshots aside.
	Events uint64
	// Lists is how many status lists are held, 256 KiB each at most; ListFetches counts attempts to read one.
	Lists       int
	ListFetches uint64
	// Introspections counts checks for which the issuer was asked, by why: lapsed (no lease), ask (the key's rights are not
	// those it prints), no_list (not read yet, or none we may go by).
	Introspections map[string]uint64
	// Refusals counts checks that did not admit, by Error.Reason.
	Refusals map[string]uint64
	// Shed counts checks refused because too many were asking: it is Refusals["shed"].
	Shed uint64
	// Open counts requests that Open admitted without a lease.
	Open uint64
}

type counting struct {
	lapses, events, listFetches, open atomic.Uint64

	mu             sync.Mutex
	introspections map[string]uint64
	refusals       map[string]uint64
}

func (c *counting) init() {
	c.introspections, c.refusals = map[string]uint64{}, map[string]uint64{}
}

func (c *counting) asked(why string) {
	c.mu.Lock()
	c.introspections[why]++
	c.mu.Unlock()
}

func (c *counting) refused(reason string) {
	c.mu.Lock()
	c.refusals[reason]++
	c.mu.Unlock()
}

// Counters returns the counters as they are now.
func (v *Verifier) Counters() Counters {
	f := &v.follow
	f.mu.RLock()
	c := Counters{Epoch: f.at.epoch, Seq: f.at.seq, LeaseAge: -1}
	f.mu.RUnlock()
	if l := f.lease.Load(); l != nil {
		c.LeaseAge = v.clock().mono - l.sent.mono
	}
	c.Lists = len(f.view.Load().lists)
	c.Lapses, c.Events, c.ListFetches, c.Open = v.count.lapses.Load(), v.count.events.Load(), v.count.listFetches.Load(), v.count.open.Load()
	v.count.mu.Lock()
	c.Introspections, c.Refusals = maps.Clone(v.count.introspections), maps.Clone(v.count.refusals)
	v.count.mu.Unlock()
	c.Shed = c.Refusals["shed"]
	return c
}
