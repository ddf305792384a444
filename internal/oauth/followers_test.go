package oauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// noting is a storage that takes notes of followers alone.
type noting struct {
	Storage
	mu    sync.Mutex
	err   error
	noted []Follower
	most  int           // at once
	holds chan struct{} // if not nil: nothing is noted until it is closed
}

func (n *noting) PutFollowers(_ context.Context, list []Follower) ([]Follower, error) {
	if n.holds != nil {
		<-n.holds
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return nil, n.err
	}
	n.noted, n.most = append(n.noted, list...), max(n.most, len(list))
	return nil, nil
}

// fails has it refuse from now on, until err is nil.
func (n *noting) fails(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *noting) take() []Follower {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer func() { n.noted = nil }()
	return n.noted
}

// noter is a server that knows the present, and the storage in which it notes who follows.
func noter() (*Server, *noting) {
	n := &noting{}
	s := &Server{storage: n, now: time.Now, log: slog.New(slog.DiscardHandler), node: "here"}
	s.followers.init()
	s.feed.reading = make(chan struct{}, 1)
	s.cache.read.Store(math.MaxInt64) // no reading is sent later
	return s, n
}

// passes lets time pass in a bubble.
func passes(d time.Duration) { <-time.After(d) }

// asks is a poll of a process of the API.
func (s *Server) asks(t *testing.T, instance string, epoch, after int64) error {
	t.Helper()
	return s.follows(t.Context(), &API{ID: "api"}, FeedQuery{Instance: instance, Epoch: epoch, After: after})
}

// Who is not noted, or has not been for a while, is noted before he is told anything,
// and if that fails he is told nothing.
func TestFollows_NotedBeforeTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := noter()
		ask := func(after int64, wants bool) {
			t.Helper()
			if err := s.asks(t, "one", 7, after); err != nil {
				t.Fatal(err)
			}
			noted := n.take()
			if len(noted) > 0 != wants {
				t.Errorf("noted %+v", noted)
			} else if wants && noted[0] != (Follower{API: "api", Instance: "one", Epoch: 7, Seq: after, Seen: time.Now(), Node: "here"}) {
				t.Errorf("noted as %+v", noted[0])
			}
		}
		ask(1, true)
		ask(2, false) // a chore notes that
		passes(2 * presenceEvery)
		ask(2, false)
		passes(time.Nanosecond)
		ask(3, true) // no chore did: the clock of another node may be far ahead, and count him no longer
		ask(3, false)
		passes(followerGone)
		n.fails(errors.New("away"))
		for range 2 {
			if err := s.asks(t, "one", 7, 3); AsError(err).Reason != FeedUnknown {
				t.Errorf("he is told something: %v", err)
			}
		}
		n.fails(nil)
		ask(3, true)
	})
}

// Who asks a second time while he is being noted is not told anything before he is,
// whether a poll or the chore began to.
func TestFollows_NotedBeforeTheSecondIsTold(t *testing.T) {
	for what, begins := range map[string]func(*testing.T, *Server) error{
		"a poll":    func(t *testing.T, s *Server) error { return s.asks(t, "one", 7, 1) },
		"the chore": func(t *testing.T, s *Server) error { return s.putFollowers(t.Context()) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, n := noter()
				s.followers.known[followerKey{"api", "one"}] = &Follower{API: "api", Instance: "one", Epoch: 7, Seq: 1, Seen: time.Now(), Node: "here"}
				s.followers.of["api"]++
				n.holds = make(chan struct{})
				ended := make(chan error, 2)
				go func() { ended <- begins(t, s) }()
				synctest.Wait()
				go func() { ended <- s.asks(t, "one", 7, 1) }()
				synctest.Wait()
				if len(ended) > 0 {
					t.Error("he is told something, and no other node knows of him")
				}
				close(n.holds)
				for range 2 {
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}
				n.take()
				if err := s.asks(t, "one", 7, 1); err != nil || len(n.take()) > 0 {
					t.Errorf("he is noted once more, %v", err)
				}
			})
		})
	}
}

// A chore notes what is new, soon, and who is there, now and then; nothing else.
func TestFollows_TheChoreNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := noter()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.noteFollowers(ctx) }()
		defer func() { stop(); <-ended }()
		asks := func(epoch, after int64) {
			t.Helper()
			if err := s.asks(t, "one", epoch, after); err != nil {
				t.Fatal(err)
			}
		}
		notes := func(within time.Duration, wants ...int64) {
			t.Helper()
			passes(within)
			synctest.Wait()
			var got []int64
			for _, f := range n.take() {
				got = append(got, f.Seq)
			}
			if fmt.Sprint(got) != fmt.Sprint(wants) {
				t.Errorf("noted at %v, want %v", got, wants)
			}
		}
		asks(7, 1)
		notes(0, 1)
		asks(7, 2)
		asks(7, 3)
		notes(gather - 1)
		notes(1, 3) // the two together
		asks(8, 3)
		notes(gather, 3) // of another epoch
		asks(8, 3)
		asks(0, 0)              // begins anew, and has acknowledged nothing by it,
		notes(0, 0)             // but is there, whoever said that it left,
		notes(presenceEvery, 3) // where it was
		notes(presenceEvery)
		asks(8, 3)
		notes(presenceEvery, 3)  // he is there
		notes(2 * presenceEvery) // he has not asked since

		asks(8, 3)
		notes(0, 3)
		n.fails(errors.New("away"))
		asks(8, 9)
		notes(gather)
		n.fails(nil)
		notes(presenceEvery, 9)
	})
}

// Who is not seen for a minute makes room, and of many so many are noted at once.
func TestFollows_Many(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := noter()
		const many = 250
		for i := range many {
			if err := s.asks(t, fmt.Sprint(i), 7, 1); err != nil {
				t.Fatal(err)
			}
		}
		n.take()
		n.most = 0
		for i := range many {
			if err := s.asks(t, fmt.Sprint(i), 7, 2); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.putFollowers(t.Context()); err != nil {
			t.Fatal(err)
		}
		if noted := n.take(); len(noted) != many || n.most != 100 {
			t.Errorf("%d are noted, %d at once", len(noted), n.most)
		}
		fs := &s.followers
		passes(followerGone)
		if err := s.putFollowers(t.Context()); err != nil || len(fs.known) != many || fs.of["api"] != many {
			t.Errorf("after a minute %d are known and %d counted, %v", len(fs.known), fs.of["api"], err)
		}
		passes(time.Nanosecond)
		if err := s.putFollowers(t.Context()); err != nil || len(fs.known)+len(fs.noted)+fs.of["api"] != 0 {
			t.Errorf("after more than a minute %d are known, %d noted and %d counted, %v", len(fs.known), len(fs.noted), fs.of["api"], err)
		}
	})
}

// Those who were told of an event at the same moment are not answered at the same moment
// from then on; what happens in the middle of a hundred answers is told late.
func TestFollows_AfterNewsTheyAreSpread(t *testing.T) {
	s, _ := noter()
	s.feed.movedAt = time.Since(start) - holdPoll
	if held := s.feed.hold(); held != holdPoll {
		t.Errorf("where nothing has happened lately a poll is held for %v", held)
	}
	const each = 100
	var parts [4]int
	for range each * len(parts) {
		s.feed.movedAt = time.Since(start)
		held := s.feed.hold()
		if held < 0 || held >= holdPoll {
			t.Fatalf("held for %v", held)
		}
		parts[held*time.Duration(len(parts))/holdPoll]++
	}
	for _, n := range parts {
		if n < each/2 {
			t.Errorf("of the quarters of a hold one has few: %v", parts)
		}
	}
}
