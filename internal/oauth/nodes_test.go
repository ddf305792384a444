package oauth_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// slow is a storage whose questions about the feed are held up, as by a network:
// the answer is of the moment before.
type slow struct {
	oauth.Storage
	hold func(context.Context) // before the answer is given
}

func (s *slow) News(ctx context.Context, after int64, limit int) (n oauth.News, err error) {
	n, err = s.Storage.News(ctx, after, limit)
	if s.hold != nil {
		s.hold(ctx)
		err = ctx.Err()
	}
	return n, err
}

// slowNode is another node of w whose reads of the feed can be held up, and knows
// the standard app.
func (w *world) slowNode(ctx context.Context) (*oauth.Server, *slow) {
	w.t.Helper()
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	storage := &slow{Storage: w.db}
	node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage,
		Ring: ring, Now: w.clock.now, Rand: newRand("slow " + w.t.Name())})
	w.must(err)
	w.must(node.Follow(ctx))
	_, err = node.Client(ctx, w.standard.id)
	w.must(err)
	return node, storage
}

// The age of what is kept counts from when the question about the feed was sent: an
// answer that was under way for long makes nothing fresh.
func TestNodes_ASlowPollMakesNothingFresh(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	node, storage := w.slowNode(ctx)
	storage.hold = func(context.Context) {
		w.must(w.SuspendClient(ctx, command, w.standard.id))
		ages(node, 150*time.Millisecond)
	}
	w.must(node.Follow(ctx))
	if c, err := node.Client(ctx, w.standard.id); err != nil || c.Status != oauth.Suspended {
		t.Errorf("after an answer of long ago: %+v, %v", c, err)
	}
}

// A poll that hangs keeps nothing: what was kept ends 100 ms after the last good
// one was sent, and the poll itself ends, so that the next one can do better.
func TestNodes_APollThatHangs(t *testing.T) {
	w := newWorld(t)
	node, storage := w.slowNode(context.Background())
	hanging, sent := make(chan struct{}), time.Now()
	storage.hold = func(ctx context.Context) {
		close(hanging)
		<-ctx.Done()
	}
	ended := make(chan error, 1)
	go func() { ended <- node.Follow(context.Background()) }()
	<-hanging
	w.must(w.SuspendClient(context.Background(), command, w.standard.id))
	for {
		asked := time.Since(sent)
		c, err := node.Client(context.Background(), w.standard.id)
		w.must(err)
		if c.Status == oauth.Suspended {
			break
		}
		if asked > 100*time.Millisecond {
			t.Fatalf("still active when asked %v after the last poll", asked)
		}
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a poll without an answer counted")
		}
	case <-time.After(10 * time.Second):
		t.Error("the poll never ended")
	}
}

// Who waits for another's reading waits no longer than for one of its own.
func TestNodes_WaitingForAReadingThatHangs(t *testing.T) {
	w := newWorld(t)
	node, storage := w.slowNode(context.Background())
	hanging := make(chan struct{})
	hang := sync.OnceFunc(func() { close(hanging) })
	storage.hold = func(ctx context.Context) {
		hang()
		<-ctx.Done()
	}
	hangs, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- node.Follow(hangs) }()
	<-hanging
	waits, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := node.Follow(waits); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ends with %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("it waited until the reading had ended, with %v", err)
		stop()
	default:
		stop()
		<-ended
	}
	storage.hold = nil
	w.must(node.Follow(context.Background()))
}

// When the database loses its last events (a restored backup, a failover to a
// standby that was not in step), their numbers are given again to other events; and
// old events are removed, perhaps before a node read them that was cut off. Then
// whatever it knew is dropped.
func TestNodes_TheFeedIsBroken(t *testing.T) {
	ctx := context.Background()
	for name, breaks := range map[string]func(*world, *sql.DB){
		"fewer events":  func(w *world, raw *sql.DB) { exec(t, raw, "UPDATE heads SET seq = seq - 3 WHERE name = 'feed'") },
		"another epoch": func(w *world, raw *sql.DB) { exec(t, raw, "UPDATE heads SET epoch = epoch + 1 WHERE name = 'feed'") },
		"all removed unread": func(w *world, raw *sql.DB) {
			exec(t, raw, "UPDATE heads SET seq = seq + 7 WHERE name = 'feed'")
		},
		"one removed unread": func(w *world, raw *sql.DB) {
			w.must(w.SuspendClient(ctx, command, w.public.id))
			w.must(w.ResumeClient(ctx, command, w.public.id))
			exec(t, raw, "DELETE FROM events WHERE seq = (SELECT seq - 1 FROM heads WHERE name = 'feed')")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			node, _ := w.slowNode(ctx)
			raw := w.raw()
			breaks(w, raw)
			exec(t, raw, "UPDATE clients SET status = 'suspended' WHERE id = ?", w.standard.id) // no event says so
			if err := node.Follow(ctx); name == "fewer events" {
				// Nobody is told anything until it is sure which events there are.
				if err == nil {
					t.Error("events that were lost are not missed")
				}
				_, err = node.Introspect(ctx, w.api, "any")
				if e := oauth.AsError(err); e.Reason != oauth.FeedUnknown {
					t.Errorf("introspection meanwhile: %v", err)
				}
				exec(t, raw, "UPDATE heads SET epoch = epoch + 1 WHERE name = 'feed'")
				w.must(node.Follow(ctx))
			} else {
				w.must(err)
			}
			node.KeepWarm(time.Hour)
			if c, err := node.Client(ctx, w.standard.id); err != nil || c.Status != oauth.Suspended {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// A process that hands over tells its successor how far it was told the feed: so the
// successor misses what it has never read itself, and begins when that is over, be it
// by a new epoch or because the events are there after all.
func TestNodes_ASuccessorMissesWhatWasLost(t *testing.T) {
	ctx := context.Background()
	for name, c := range map[string]struct {
		lose, end string // of the head of the feed
		others    bool   // other events have got the numbers
	}{
		"a new epoch":            {"seq = seq - 1", "seq = seq + 5, epoch = epoch + 1", false},
		"the events are back":    {"seq = seq - 1", "seq = seq + 1", false},
		"other events, an epoch": {"seq = seq - 1", "seq = seq + 5, epoch = epoch + 1", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key := w.connect(w.exchange, "alice", "s1").AccessToken
			node, _ := w.beside()
			raw := w.raw()
			if c.others {
				exec(t, raw, "DELETE FROM events WHERE seq = (SELECT seq FROM heads WHERE name = 'feed')")
			}
			exec(t, raw, "UPDATE heads SET "+c.lose+" WHERE name = 'feed'")
			if c.others {
				w.must(w.SuspendClient(ctx, command, w.other.id))
				w.must(w.ResumeClient(ctx, command, w.other.id))
			}
			start := func(known oauth.Position) *oauth.Server {
				t.Helper()
				ring, err := oauth.ParseKeyRing(w.ring)
				w.must(err)
				s, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: w.db, Ring: ring, Known: known, Now: w.clock.now, Rand: newRand("successor")})
				w.must(err)
				return s
			}
			if err := start(oauth.Position{}).Behind(); err != nil {
				t.Errorf("who knows nothing: %v", err)
			}
			first := start(node.Known())
			second := start(first.Known()) // handed over once more meanwhile
			for what, s := range map[string]*oauth.Server{"first": first, "second": second} {
				if err := s.Behind(); !errors.Is(err, oauth.ErrBehind) {
					t.Errorf("%s: %v", what, err)
				}
				if err := s.Follow(ctx); !errors.Is(err, oauth.ErrBehind) {
					t.Errorf("%s follows: %v", what, err)
				}
				if _, err := s.Introspect(ctx, w.api, key.Reveal()); reason(err) != oauth.FeedUnknown {
					t.Errorf("%s at introspection: %v", what, err)
				}
				for after := range node.Known().Seq + 1 {
					if p, err := w.poll(s, node.Known().Epoch, after); reason(err) != oauth.FeedUnknown && (after > 0 || reason(err) != oauth.FeedGone) {
						t.Errorf("%s, to who asks after %d: %+v, %v", what, after, p, err)
					}
				}
				if p, err := w.poll(s, 0, 0); reason(err) != oauth.FeedUnknown {
					t.Errorf("%s, to who begins: %+v, %v", what, p, err)
				}
			}
			exec(t, raw, "UPDATE heads SET "+c.end+" WHERE name = 'feed'")
			for what, s := range map[string]*oauth.Server{"first": first, "second": second} {
				w.must(s.Follow(ctx))
				if i, err := s.Introspect(ctx, w.api, key.Reveal()); err != nil || i == nil || s.Behind() != nil {
					t.Errorf("%s afterwards: %v, %v, %v", what, i, err, s.Behind())
				}
			}
		})
	}
}
