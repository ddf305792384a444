package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// gatherer has answered together what several ask at about the same time, and committed
// together what they write, so that none of them pays alone for what all need: a snapshot
// with its locks and pages, a round trip, a commit. It does one after the other, and while
// it does, the next ones gather.
//
// Whoever has asked as a visit (oauth.Storage) is about to write, as soon as he has
// signed. A group of visits' events waits for those, and for nobody else: it is larger
// for that, and what keeps it waiting is work that the processors do meanwhile. With any
// other event it is committed at once.
type gatherer struct {
	*counters
	queue chan *job
	limit time.Duration // for a job to be begun
	ends  bool          // what is begun ends by itself, however long it takes
	waits time.Duration // of a group for visits: gatherLimit
	done  chan struct{}

	closing sync.RWMutex // held for reading while a job is put into the queue
	closed  bool
}

const (
	groupMax = 256 // events in one group, and questions that are answered before it
	// gatherLimit is how long a group waits for visits, but that it answers what it has
	// begun to. Mostly all of them have written, or left, much sooner.
	gatherLimit = 10 * time.Millisecond
)

// job waits for the gatherer: an event, or a question if sql is not empty, or the end of a
// visit. Its caller may take it back until it is begun; from then on only the gatherer
// knows what becomes of it.
type job struct {
	of    *visit // nil: of nobody who is waited for
	event []statement
	sql   string
	args  []any
	row   func(scan func(...any) error) error
	found bool // there was a row
	left  bool // the end of a visit
	err   chan error
	state atomic.Int32 // waiting, then begun or withdrawn
}

const (
	waiting int32 = iota
	begun
	withdrawn
)

func newJob(event []statement) *job { return &job{event: event, err: make(chan error, 1)} }

// begin reports whether the job is still wanted.
func (j *job) begin() bool { return j.state.CompareAndSwap(waiting, begun) || j.state.Load() == begun }

func (j *job) withdraw() bool { return j.state.CompareAndSwap(waiting, withdrawn) }

// visit is a caller who asks, and then writes.
type visit struct {
	asked bool // since he last wrote
}

// apart is ctx for what is asked or written for more than one visit, or is too much to be
// waited for in company: it is asked or written by itself.
func apart(ctx context.Context) context.Context {
	switch {
	case visitOf(ctx) != nil:
		return context.WithValue(ctx, shareKey{}, nil)
	case forKeys.has(ctx):
		return forAPIs.of(ctx)
	}
	return ctx
}

// company is which of an engine's gatherers takes what is asked with ctx; nil: none.
func company(ctx context.Context, visits, lookups *gatherer) *gatherer {
	switch {
	case visitOf(ctx) != nil:
		return visits
	case forKeys.has(ctx):
		return lookups
	}
	return nil
}

// Visit implements oauth.Storage.
func (s *Store) Visit(ctx context.Context) (visiting context.Context, leave func()) {
	v := &visit{}
	return context.WithValue(ctx, shareKey{}, v), func() { s.engine.leave(v) }
}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(shareKey{}).(*visit)
	return v
}

func newGatherer(c *counters, limit time.Duration) *gatherer {
	return &gatherer{counters: c, queue: make(chan *job, 4*groupMax), limit: limit, waits: gatherLimit, done: make(chan struct{})}
}

var (
	errOverloaded = errors.New("it was not begun in time: too many wait, or another process holds the write lock of the file")
	errClosed     = errors.New("the database is closed")
)

// write queues an event of the caller with ctx.
func (g *gatherer) write(ctx context.Context, event []statement) error {
	j := newJob(event)
	if v := visitOf(ctx); v != nil && v.asked {
		j.of = v
	}
	return g.through(ctx, j)
}

// ask queues a question of the caller with ctx.
func (g *gatherer) ask(ctx context.Context, sql string, args []any, row func(func(...any) error) error) error {
	v := visitOf(ctx)
	j := &job{of: v, sql: sql, args: args, err: make(chan error, 1)}
	j.row = func(scan func(...any) error) error {
		j.found = true
		return row(scan)
	}
	if v != nil {
		v.asked = true
	}
	return g.through(ctx, j)
}

// leave says that a visit writes nothing any more. If there is no room to say it, a group
// finds out by waiting.
func (g *gatherer) leave(v *visit) {
	if !v.asked {
		return
	}
	v.asked = false
	g.closing.RLock()
	defer g.closing.RUnlock()
	if g.closed {
		return
	}
	select {
	case g.queue <- &job{of: v, left: true}:
	default:
	}
}

// through queues a job and waits for its outcome.
func (g *gatherer) through(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	event, within, gone := j.sql == "", g.limit, (<-chan struct{})(nil)
	if !event { // it may be given up at any time; an event that was queued is not
		within, gone = min(within, readLimit), ctx.Done()
	}
	limit := time.NewTimer(within)
	defer limit.Stop()
	g.closing.RLock()
	if g.closed {
		g.closing.RUnlock()
		return unavailable(errClosed)
	}
	var err error
	select {
	case g.queue <- j:
	case <-ctx.Done():
		err = ctx.Err()
	case <-limit.C:
		err = errOverloaded
	}
	g.closing.RUnlock()
	if err != nil {
		return unavailable(err)
	}
	if event && j.of != nil {
		j.of.asked = false // whoever has not come so far leaves
	}
	select {
	case err := <-j.err:
		return err
	case <-gone:
		err = ctx.Err()
	case <-limit.C:
		err = errOverloaded
	}
	if j.withdraw() {
		if event {
			g.failed.Add(1)
		}
		return unavailable(err)
	}
	if g.ends || !event {
		return <-j.err
	}
	select {
	case err := <-j.err: // at the same moment
		return err
	default:
		return fmt.Errorf("%w: the disk has not answered within %v", oauth.ErrUnknown, g.limit)
	}
}

// run gathers until the queue is closed. answer is given questions, and commit events, one
// at least; what they send to each of them is what its caller is told.
func (g *gatherer) run(answer, commit func([]*job)) {
	defer close(g.done)
	queue := g.queue // whatever a test puts in its place
	var events, questions []*job
	awaited := map[*visit]struct{}{}
	var since time.Time // of the first event
	hurry := false      // somebody is no visit, or nobody comes any more
	place := func(j *job) {
		delete(awaited, j.of)
		switch {
		case j.left:
		case j.sql != "":
			questions = append(questions, j)
		default:
			if len(events) == 0 {
				since = time.Now()
			}
			hurry = hurry || j.of == nil
			events = append(events, j)
		}
	}
	// gather takes a job and what waits behind it, and has the questions answered. Whoever
	// asks about what is not there writes nothing.
	gather := func(j *job) {
		questions = questions[:0]
		for more := true; more; {
			place(j)
			if max(len(events), len(questions)) == groupMax {
				break
			}
			select {
			case j, more = <-queue:
				hurry = hurry || !more
			default:
				more = false
			}
		}
		if len(questions) == 0 {
			return
		}
		answer(questions)
		for _, j := range questions {
			if j.of != nil && j.found {
				awaited[j.of] = struct{}{}
			}
		}
	}
	patience := time.NewTimer(0)
	for first := range queue {
		events, hurry = events[:0], false
		gather(first)
		for len(events) > 0 && len(events) < groupMax && len(awaited) > 0 && !hurry {
			left := g.waits - time.Since(since)
			if left <= 0 {
				clear(awaited) // so that whoever is late does not keep the next group waiting, too
				break
			}
			patience.Reset(left)
			select {
			case j, open := <-queue:
				if hurry = !open; open {
					gather(j)
				}
			case <-patience.C:
			}
		}
		if len(events) > 0 {
			commit(events)
		}
	}
}

// close waits for what is in the queue. It reports whether it was open.
func (g *gatherer) close() bool {
	g.closing.Lock()
	if g.closed {
		g.closing.Unlock()
		return false
	}
	g.closed = true
	close(g.queue)
	g.closing.Unlock()
	<-g.done
	return true
}
