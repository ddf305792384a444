package resource

import (
	"log/slog"
	"time"
)

// OnStale is what happens to a request while it is not known here what was revoked in the last second.
type OnStale int64

const (
	// Introspect asks the issuer, and waits for the answer for 300 ms at most. Requests with one key share a question, but
	// not one that was out before they came: such a request waits for that one first, so for 600 ms at most. Beyond 1,024
	// keys at once, and where the issuer does not answer, the request is refused as Unavailable. It is the default.
	Introspect OnStale = iota + 1
	// Closed refuses the request as Unavailable.
	Closed
)

// Open admits by the last known state for at most d, whole milliseconds, after it ceased to be known to be that of now,
// and refuses like Closed from then on. It breaks the promise that a revoked key is refused within a second: it is for
// single routes that only read and must not fail. It is logged where it begins and where it ends, and counted.
// Open panics if d is less than a millisecond.
func Open(d time.Duration) OnStale {
	if s := OnStale(d.Truncate(time.Millisecond)); s.known() && s != 0 {
		return s
	}
	panic("resource: Open is for a millisecond or more")
}

func (s OnStale) known() bool {
	return s == 0 || s == Introspect || s == Closed || s >= OnStale(time.Millisecond)
}

// or returns s, or what a Verifier does where s does not say.
func (s OnStale) or(verifier OnStale) OnStale {
	switch {
	case s != 0:
		return s
	case verifier != 0:
		return verifier
	}
	return Introspect
}

// opened says whether Open lets in a request at a moment, by a lease that is not live.
func (s OnStale) opened(l *lease, now instant) bool {
	return s > Closed && l != nil && l.lapsed(now) <= time.Duration(s)
}

// What the log was told of the present lapse.
const (
	nothingOpen int32 = iota
	openBegun
	openOver
)

// opens counts a request that Open admitted.
func (v *Verifier) opens() {
	v.count.open.Add(1)
	if v.open.Load() == nothingOpen && v.open.CompareAndSwap(nothingOpen, openBegun) {
		slog.Error("resource: revocations are not followed, and Open admits requests by the last known state", "issuer", v.cfg.Issuer)
	}
}

// shuts is called where the time of an Open is over.
func (v *Verifier) shuts() {
	if v.open.Load() == openBegun && v.open.CompareAndSwap(openBegun, openOver) {
		slog.Error("resource: the time of Open is over and requests get 503", "issuer", v.cfg.Issuer, "admitted", v.count.open.Load())
	}
}

// closes is called when a lease begins after a lapse.
func (v *Verifier) closes() {
	if v.open.Swap(nothingOpen) != nothingOpen {
		slog.Warn("resource: revocations are followed again, Open admits nothing any more", "issuer", v.cfg.Issuer, "admitted", v.count.open.Load())
	}
}
