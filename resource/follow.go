package resource

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pollEvery paces polls of a feed that does not hold its answers though nothing is new. It also passes before the
	// next poll once there is news, which the node tells a hundred others at this moment: who has heard does not get in
	// the way of who has not.
	pollEvery = 10 * time.Millisecond
	// pauseFirst and pauseLast pace polls where every node failed.
	pauseFirst = 50 * time.Millisecond
	pauseLast  = 250 * time.Millisecond
	// calm is how long nothing may go wrong until trouble is over for the log.
	calm = 5 * time.Second

	// maxLists bounds the lists that are held or looked for: keys by the thousand million.
	maxLists = 4096
	// maxFetches bounds the lists on their way. They go by the feed's connections, and it needs one or two.
	maxFetches = 8
	// listStale, listGone and listFailed pace fetching a list: again after one that was behind the feed, after 404, and
	// after anything else.
	listStale  = 40 * time.Millisecond
	listGone   = time.Second
	listFailed = 250 * time.Millisecond
	// maxMissed bounds the changes that are kept for a list on its way: half a megabyte of them.
	maxMissed = 1 << 14
)

// view is what checks read. It never changes, but for the bits of its lists: another one takes its place.
type view struct {
	epoch int64
	rules *rules
	lists map[string]*list
}

// follower keeps the view up to the feed. One goroutine polls and applies; fetched lists are put into its view under mu.
type follower struct {
	v        *Verifier
	instance string
	view     atomic.Pointer[view]
	lease    atomic.Pointer[lease]
	node     atomic.Int64 // which of the nodes is asked at present

	polled atomic.Bool   // the issuer was asked, and counts this process before it answers
	ready  atomic.Bool   // a snapshot was read once
	first  chan struct{} // closed when the first round of polls is over
	began  sync.Once

	mu      sync.RWMutex // held by whoever changes what is below, or the view
	at      position
	seen    position // the furthest ever: a feed that falls behind it is not ours
	fetches map[string]*fetching
	onWay   int // lists on their way, those of before a drop too
	answers asked

	// The poller's own.
	troubled bool
	failed   time.Duration // when something last went wrong
	leased   bool
}

// fetching is a list that somebody asked for and that is not in the view.
type fetching struct {
	busy bool
	next time.Duration // not before

	// While it is on its way: how new it must be, and what the feed has said of its keys after that.
	seq    int64
	missed []change
}

// miss keeps a change for a list on its way. Beyond the bound what was kept is forgotten, and the list must be as new as
// that.
func (w *fetching) miss(c change) {
	if len(w.missed) == maxMissed {
		w.seq, w.missed = w.missed[maxMissed-1].seq, w.missed[:0]
	}
	w.missed = append(w.missed, c)
}

func (f *follower) init(v *Verifier) {
	f.v, f.instance, f.first = v, instanceID(), make(chan struct{})
	f.fetches = map[string]*fetching{}
	f.view.Store(&view{rules: &rules{}})
	f.node.Store(rand.Int64N(int64(len(v.nodes))))
}

// run polls until Close.
func (f *follower) run() {
	pause, failures := pauseFirst, 0
	for f.v.ctx.Err() == nil {
		wait := time.Duration(0)
		if at := f.v.endpoints.Load(); at == nil {
			wait = pauseLast
		} else if at.feed == "" {
			f.ready.Store(true)
			f.began.Do(func() { close(f.first) })
			wait = retryEvery
		} else if r := f.round(); f.take(r) == nil {
			pause, failures = pauseFirst, 0
			switch {
			case r.said == nil || r.said.seq == r.after.seq:
				wait = pollEvery - (f.v.clock().mono - r.sent.mono)
			case r.after.known && !r.said.more:
				wait = pollEvery
			}
			f.began.Do(func() { close(f.first) })
		} else if failures++; failures%len(f.v.nodes) == 0 {
			f.began.Do(func() { close(f.first) })
			wait = pause
			if pause = min(2*pause, pauseLast); errors.Is(r.err, errCredentials) {
				wait = retryEvery
			}
		}
		if wait > 0 {
			select {
			case <-f.v.ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// round polls the present node, and the next one too where the answer is late. The first good answer counts; one that
// comes later is dropped.
func (f *follower) round() reply {
	f.mu.RLock()
	after := f.at
	f.mu.RUnlock()
	const most = 2
	replies := make(chan reply, most)
	sent := 0
	send := func() {
		node := f.current()
		sent++
		f.v.done.Go(func() { replies <- f.poll(node, after) })
	}
	send()
	late := time.NewTimer(pollPatience)
	defer late.Stop()
	for got := 1; ; got++ {
		select {
		case r := <-replies:
			if r.err == nil {
				f.node.Store(int64(r.node))
				return r
			}
			f.moveOn(r.node)
			if got == sent {
				return r
			}
		case <-late.C:
			f.moveOn(f.current())
			send()
			got--
		}
	}
}

func (f *follower) current() int { return int(f.node.Load()) }

// moveOn goes to the node after one that failed, if nobody did before.
func (f *follower) moveOn(from int) {
	f.node.CompareAndSwap(int64(from), int64((from+1)%len(f.v.nodes)))
}

// take applies a reply. What it refuses changes nothing, so that the lease runs out.
func (f *follower) take(r reply) error {
	err := r.err
	if err == nil {
		err = f.apply(r)
	}
	now := f.v.clock()
	f.watch(now, err)
	return err
}

func (f *follower) apply(r reply) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := r.said; {
	case r.gone:
		f.drop()
		return nil
	case e == nil:
	case !f.at.known && (e.epoch < f.seen.epoch || e.epoch == f.seen.epoch && e.seq < f.seen.seq):
		return errors.New("the feed is behind what it was")
	case !f.at.known:
		f.view.Store(&view{epoch: e.epoch, rules: new(rules).with(e.rules)})
	default:
		f.changed(e)
	}
	if e := r.said; e != nil {
		f.at = position{true, e.epoch, e.seq}
		f.ready.Store(true)
		f.seen = f.at
		if e.more {
			return nil
		}
	}
	// Last, when everything up to then is in effect.
	if l := f.lease.Load(); l == nil || l.sent.mono < r.sent.mono {
		f.lease.Store(&lease{r.sent})
	}
	return nil
}

// changed puts events into effect.
func (f *follower) changed(e *events) {
	now := f.view.Load()
	for _, c := range e.changes {
		if l := now.lists[c.list]; l != nil {
			l.follow(c)
		} else if w := f.fetches[c.list]; w != nil && w.busy {
			w.miss(c)
		}
		f.answers.forget(place{c.list, c.idx}, c.seq)
	}
	if len(e.rules) > 0 {
		f.view.Store(&view{epoch: now.epoch, rules: now.rules.with(e.rules), lists: now.lists})
	}
	f.v.count.events.Add(uint64(len(e.changes) + len(e.rules)))
}

func instanceID() string {
	var b [16]byte
	_, _ = crand.Read(b[:]) // never fails
	return b64.EncodeToString(b[:])
}

// listTrouble tells the log where lists begin to fail, and where they work again.
func (v *Verifier) listTrouble(id string, err error) {
	if bad := err != nil; v.ctx.Err() == nil && v.badLists.CompareAndSwap(!bad, bad) {
		if bad {
			slog.Warn("resource: a status list cannot be used, its keys are asked about", "issuer", v.cfg.Issuer, "list", id, "error", err)
		} else {
			slog.Info("resource: status lists can be used again", "issuer", v.cfg.Issuer)
		}
	}
}

// drop forgets everything that came of the feed, and what another epoch may make otherwise. The lease goes first: what is
// left is no state to go by.
func (f *follower) drop() {
	f.lease.Store(nil)
	f.v.access.forget()
	f.v.lasting.forget()
	f.view.Store(&view{rules: &rules{}})
	f.at = position{}
	f.fetches = map[string]*fetching{}
	f.answers = asked{}
}

// watch tells the log where trouble and lapses begin and end, and counts.
func (f *follower) watch(now instant, err error) {
	if f.v.ctx.Err() != nil {
		return
	}
	if err != nil {
		f.failed = now.mono
		if !f.troubled {
			f.troubled = true
			slog.Warn("resource: following revocations fails", "issuer", f.v.cfg.Issuer, "error", err)
		}
	} else if f.troubled && now.mono-f.failed >= calm {
		f.troubled = false
		slog.Info("resource: following revocations works again", "issuer", f.v.cfg.Issuer)
	}
	live := f.lease.Load().live(now)
	switch {
	case f.leased && !live:
		f.v.count.lapses.Add(1)
	case live && !f.leased:
		f.v.closes()
	}
	f.leased = live
}

// value is what the view says of a key; why is "" where it is not the issuer that must say.
func (w *view) value(t *token) (is value, why string) {
	if w.rules.refuses(t) {
		return invalid, ""
	}
	l := w.lists[t.list]
	if l == nil {
		return ask, "no_list"
	}
	// A key that does not print what it may do, or is covered by a rule about a store that it prints, is asked about
	// whatever its bits say, unless they say no.
	if is = l.value(t.idx); is == valid && (t.has&(hasRights|hasISeq) != hasRights|hasISeq || w.rules.asks(t, -1)) {
		is = ask
	}
	if is == ask {
		why = "ask"
	}
	return is, why
}

// want has a list fetched that a check asked for and did not find.
func (f *follower) want(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.at.known: // there is nothing to hold it against
		return
	case f.view.Load().lists[id] != nil: // it came after the check had looked
		return
	case f.onWay >= maxFetches: // the next check wants it again
		return
	}
	w := f.fetches[id]
	if w == nil {
		if len(f.fetches) >= maxLists {
			return
		}
		w = &fetching{}
		f.fetches[id] = w
	}
	if w.busy || f.v.clock().mono < w.next || f.v.ctx.Err() != nil {
		return
	}
	w.busy, w.seq = true, f.at.seq
	f.onWay++
	f.v.count.listFetches.Add(1)
	f.v.done.Go(func() {
		pause, err := f.fetch(id, w)
		f.mu.Lock()
		w.busy, w.next, w.missed = false, f.v.clock().mono+pause, nil
		f.onWay--
		f.mu.Unlock()
		f.v.listTrouble(id, err)
	})
}

var errNoList = errors.New("there is no such list")

// fetch reads a list and puts it into the view, with what the feed has said of it meanwhile: while events come faster than
// lists travel, every list is behind when it is here. It is not used where it lacks what was known when the fetch began, or
// where the feed has begun anew since.
func (f *follower) fetch(id string, w *fetching) (pause time.Duration, err error) {
	uri := base(f.v.cfg.Issuer) + "/status/" + id
	node := f.current()
	status, body, err := f.v.fetchList(f.v.at(node, uri))
	switch {
	case err != nil || status == http.StatusServiceUnavailable:
		f.moveOn(node)
		return listFailed, err
	case status == http.StatusNotFound:
		return listGone, errNoList
	case status != http.StatusOK:
		return listFailed, fmt.Errorf("the issuer answered %d for a list", status)
	}
	l, err := f.v.readList(uri, body)
	if err != nil {
		return listFailed, err
	}
	made := newList(l.seq, l.bits)
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.view.Load(); f.fetches[id] == w && l.epoch == f.at.epoch && l.seq >= w.seq {
		for _, c := range w.missed {
			made.follow(c)
		}
		lists := maps.Clone(now.lists)
		if lists == nil {
			lists = map[string]*list{}
		}
		lists[id] = made
		f.view.Store(&view{epoch: now.epoch, rules: now.rules, lists: lists})
	}
	return listStale, nil
}
