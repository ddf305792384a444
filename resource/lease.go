package resource

import "time"

const (
	// leaseLife is how long what the feed said may be gone by. The bound of 850 ms from a revocation's commit to the last
	// check that admits the key is a sum of it and of the issuer's part: a node that answers 204, or 200 with nothing
	// more to come, read its database at most 100 ms before, so whatever was committed by 100 ms before the poll was sent
	// is in effect here when the lease begins, and 700 + 100 = 800. The 50 ms that are left are for clocks that run at
	// different speeds (NTP slews one by 0.05 % at most, of 800 ms less than half of one) and for the time between the
	// look at the clock and the end of a check. Delays on the way cost nothing: the lease is counted from before the
	// poll was sent, so a slow answer only shortens what is left of it.
	leaseLife = 700 * time.Millisecond
	// maxJump is how far the two clocks may come apart during one lease. The monotonic clock of Linux stands still while
	// the machine is suspended and the wall clock does not; a slewed clock comes apart by less than a millisecond. A
	// suspension that is too short to show is in the age, which is that of the clock that says more.
	maxJump = 100 * time.Millisecond
)

// instant is one look at both clocks.
type instant struct {
	mono time.Duration // since the Verifier was made
	wall time.Duration // since 1970, as somebody set it
}

type clock func() instant

func newClock() clock {
	start := time.Now()
	return func() instant {
		now := time.Now()
		return instant{now.Sub(start), time.Duration(now.UnixNano())}
	}
}

// lease says that everything up to the moment sent was known and in effect here. It never changes: a newer one takes its
// place.
type lease struct{ sent instant }

// live says whether the lease may be gone by. A nil one may not.
func (l *lease) live(now instant) bool {
	if l == nil {
		return false
	}
	mono, wall := now.mono-l.sent.mono, now.wall-l.sent.wall
	return max(mono, wall) <= leaseLife && wall-mono <= maxJump && mono-wall <= maxJump
}

// lapsed returns how long ago a lease ended, by the clock that says longer.
func (l *lease) lapsed(now instant) time.Duration {
	return max(now.mono-l.sent.mono, now.wall-l.sent.wall) - leaseLife
}
