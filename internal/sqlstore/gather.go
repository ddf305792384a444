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
	done  chan struct{}

	closing sync.RWMutex // held for reading while a job is put into the queue
	closed  bool
}

const (
	groupMax = 256 // events in one group
	// gatherLimit is how long a group waits for visits at most. Mostly all of them have
	// written, or left, much sooner.
	gatherLimit = 10 * time.Millisecond
)

// job waits for the gatherer: an event, or a question if sql is not empty, or neither,
// which says that its visit is over. Its caller may take it back until it is begun; from
// then on only the gatherer knows what becomes of it.
type job struct {
	of    *visit // nil: of nobody who is waited for
	event []statement
	sql   string
	args  []any
	row   func(scan func(...any) error) error
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

// apart hides a visit: what is asked or written with it is not the visit's alone. So does
// a share.
func apart(ctx context.Context) context.Context { return context.WithValue(ctx, shareKey{}, nil) }

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
	return &gatherer{counters: c, queue: make(chan *job, 4*groupMax), limit: limit, done: make(chan struct{})}
}

var (
	errOverloaded = errors.New("the event was not begun in time: too many wait, or another process holds the database's write lock")
	errClosed     = errors.New("the database is closed")
)

// write queues an event of the caller with ctx.
func (g *gatherer) write(ctx context.Context, event []statement) error {
	j := newJob(event)
	if v := visitOf(ctx); v != nil && v.asked {
		v.asked, j.of = false, v
	}
	return g.through(ctx, j)
}

// ask queues a question; v is nil if it is no visit's.
func (g *gatherer) ask(ctx context.Context, v *visit, sql string, args []any, row func(func(...any) error) error) error {
	if v != nil {
		v.asked = true
	}
	return g.through(ctx, &job{of: v, sql: sql, args: args, row: row, err: make(chan error, 1)})
}

// leave says that a visit writes nothing any more.
func (g *gatherer) leave(v *visit) {
	if !v.asked {
		return
	}
	v.asked = false
	g.closing.RLock()
	defer g.closing.RUnlock()
	if !g.closed {
		g.queue <- &job{of: v}
	}
}

// through queues a job and waits for its outcome.
func (g *gatherer) through(ctx context.Context, j *job) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	limit := time.NewTimer(g.limit)
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
	// A caller that goes away does not take its event along: it may be done already.
	select {
	case err := <-j.err:
		return err
	case <-limit.C:
		if j.withdraw() {
			if j.sql == "" {
				g.failed.Add(1)
			}
			return unavailable(errOverloaded)
		}
	}
	if g.ends {
		return <-j.err
	}
	select {
	case err := <-j.err: // at the same moment
		return err
	default:
	}
	err = fmt.Errorf("the disk has not answered within %v", g.limit)
	if j.sql != "" {
		return unavailable(err)
	}
	return fmt.Errorf("%w: %w", oauth.ErrUnknown, err)
}

// run gathers until the queue is closed. answer is given questions, and commit events, one
// at least; what they send to each of them is what its caller is told.
func (g *gatherer) run(answer, commit func([]*job)) {
	defer close(g.done)
	var events, questions []*job
	awaited := map[*visit]struct{}{}
	hurry := false // somebody is no visit, or nobody comes any more
	sort := func(j *job) {
		switch {
		case j.sql != "":
			if j.of != nil {
				awaited[j.of] = struct{}{}
			}
			questions = append(questions, j)
		case j.event != nil:
			hurry = hurry || j.of == nil
			delete(awaited, j.of)
			events = append(events, j)
		default:
			delete(awaited, j.of)
		}
	}
	// gather sorts a job and what waits behind it, and has the questions answered.
	gather := func(j *job) {
		questions = questions[:0]
		for more := true; more; {
			sort(j)
			if len(events) == groupMax {
				break
			}
			select {
			case j, more = <-g.queue:
				hurry = hurry || !more
			default:
				more = false
			}
		}
		if len(questions) > 0 {
			answer(questions)
		}
	}
	patience := time.NewTimer(gatherLimit)
	for first := range g.queue {
		events, hurry = events[:0], false
		gather(first)
		patience.Reset(gatherLimit)
		for len(events) > 0 && len(events) < groupMax && len(awaited) > 0 && !hurry {
			select {
			case j, open := <-g.queue:
				if hurry = !open; open {
					gather(j)
				}
			case <-patience.C:
				clear(awaited) // whoever is so late does not keep the next group waiting
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
