package oauth

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
)

// flooded is a node to whose log more happens than it holds.
type flooded struct {
	*Server
	*history
}

// history is a storage that has all of it.
type history struct {
	Storage
	happened []StatusChange
	happens  func() // once, while a list is read
}

const (
	floodEach  = 1 << 13              // changes of one event
	floodTimes = logMax/floodEach + 1 // events that are too many
	ended      = 1<<IndexBits + 5     // a key of the list 1 that ends before all of them
)

func newFlooded() *flooded {
	f := &flooded{&Server{}, &history{}}
	f.storage = f.history
	f.cache.clients = map[string]*Client{}
	f.cache.seq.Store(1)
	f.cache.epoch.Store(1)
	f.feed.changed = make(chan struct{})
	f.feed.rules, f.feed.lists = map[about]Rule{}, map[int64]*list{}
	f.feed.base, f.feed.asOf = 1, math.MaxInt64
	return f
}

// flood ends the key, and then has so many events happen to others, of which the node
// reads so many at once.
func (f *flooded) flood(at int) {
	var events []FeedEvent
	from := len(f.happened)
	for n := range 1 + floodTimes {
		e := FeedEvent{ID: fmt.Sprint(n), Seq: f.cache.seq.Load() + int64(len(events)) + 1}
		events = append(events, e)
		if n == 0 {
			f.happened = append(f.happened, StatusChange{Seq: e.Seq, API: "api", Index: ended, Value: StatusInvalid})
		} else {
			for i := range int64(floodEach) {
				f.happened = append(f.happened, StatusChange{Seq: e.Seq, API: "api", Index: 2<<IndexBits + i, Value: StatusInvalid})
			}
		}
		if len(events) == at || n == floodTimes {
			f.apply(News{Events: events, Changes: f.happened[from:]})
			events, from = nil, len(f.happened)
		}
	}
}

func (h *history) StatusChanges(_ context.Context, after, upto int64) (list []StatusChange, err error) {
	for _, c := range h.happened {
		if c.Seq > after && c.Seq <= upto {
			list = append(list, c)
		}
	}
	return list, nil
}

func (h *history) ChangesFor(ctx context.Context, api string, after, upto int64, limit int) ([]StatusChange, error) {
	list, err := h.StatusChanges(ctx, after, upto)
	list = slices.DeleteFunc(list, func(c StatusChange) bool { return c.API != api })
	return list[:min(len(list), limit)], err
}

func (h *history) RuleChanges(context.Context, int64, int64) ([]Rule, error) { return nil, nil }

func (h *history) Present(context.Context) (Present, error) {
	return Present{Epoch: 1, Kept: 1}, nil
}

// StatusList looks, and answers when what happens meanwhile has happened.
func (h *history) StatusList(_ context.Context, number, _ int64) (*StoredList, error) {
	l := &StoredList{API: "api", Changes: slices.Clone(h.happened)}
	l.Changes = slices.DeleteFunc(l.Changes, func(c StatusChange) bool { return c.Index>>IndexBits != number })
	if does := h.happens; does != nil {
		h.happens = nil
		does()
	}
	return l, nil
}

// A log that is full forgets whole events: from wherever a follower asks on, it is told
// each change once.
func TestFeed_TheLogIsFull(t *testing.T) {
	for _, at := range []int{1, 3, 1 + floodTimes} {
		f := newFlooded()
		f.flood(at)
		last := f.cache.seq.Load()
		if len(f.feed.log) > logMax || f.feed.base == 1 {
			t.Fatalf("the log holds %d after %d", len(f.feed.log), f.feed.base)
		}
		for after := int64(1); after <= last; after++ {
			told, from := map[int64]int{}, after
			for more := true; more; {
				p, err := f.page(t.Context(), &API{ID: "api"}, from)
				if err != nil || p.Seq <= from && p.More {
					t.Fatalf("after %d: %+v, %v", from, p, err)
				}
				for _, c := range p.Changes {
					told[c.Seq]++
				}
				from, more = p.Seq, p.More
			}
			for seq := after + 1; seq <= last; seq++ {
				want := floodEach
				if seq == 2 {
					want = 1
				}
				if told[seq] != want {
					t.Errorf("%d at once, after %d: %d changes of %d, want %d", at, after, told[seq], seq, want)
				}
				delete(told, seq)
			}
			if len(told) > 0 || from != last {
				t.Errorf("%d at once, after %d: %v besides, up to %d", at, after, told, from)
			}
		}
	}
}

// value is what the list 1 says of the key that ended.
func (l *list) value() StatusValue {
	c := l.chunks[ended&(1<<IndexBits-1)/ChunkValues]
	if c == nil {
		return StatusValid
	}
	return StatusValue(c.bits[ended%ChunkValues/4] >> (ended % 4 * 2) & 3)
}

// When so much happens while a list is read that the log has forgotten some of it,
// nothing is said, and the next reading is right.
func TestList_TooMuchWhileItIsRead(t *testing.T) {
	f := newFlooded()
	f.happens = func() { f.flood(1) }
	if l, err := f.list(t.Context(), 1); AsError(err).Reason != FeedUnknown {
		t.Errorf("%v, %v", l, err)
	}
	if l, err := f.list(t.Context(), 1); err != nil || l.value() != StatusInvalid {
		t.Errorf("then %v, %v", l, err)
	}
}

// Two who read a list for the first time at once have one list afterwards, which
// events find, though the slower one cannot catch up any more.
func TestList_ReadTwiceAtOnce(t *testing.T) {
	f := newFlooded()
	var quick *list
	f.happens = func() {
		var err error
		if quick, err = f.list(t.Context(), 1); err != nil || quick.value() != StatusValid {
			t.Fatal(err)
		}
		f.flood(1)
	}
	if slow, err := f.list(t.Context(), 1); err != nil || slow != quick || slow.value() != StatusInvalid {
		t.Errorf("%p and %p, %v", quick, slow, err)
	}
}
