package sqlstore

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Who asks while a question is out shares the next one with all others, and is never
// told what was asked before he came.
func TestShared_TheNextQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h shared[int64]
		sent := int64(0)
		answer := make(chan error)
		read := func(ctx context.Context) (int64, error) {
			sent++
			seq := sent
			select {
			case err := <-answer:
				return seq, err
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		type got struct {
			seq int64
			err error
		}
		var mu sync.Mutex
		told := map[string][]got{}
		ask := func(ctx context.Context, who string, n int) {
			for range n {
				go func() {
					seq, err := h.ask(ctx, read)
					mu.Lock()
					told[who] = append(told[who], got{seq, err})
					mu.Unlock()
				}()
			}
			synctest.Wait()
		}
		want := func(what, who string, n int, seq int64, err error) {
			t.Helper()
			synctest.Wait()
			if len(told[who]) != n {
				t.Fatalf("%s: %d of %s are told", what, len(told[who]), who)
			}
			for _, one := range told[who] {
				if one.seq != seq || !errors.Is(one.err, err) {
					t.Errorf("%s: %s is told %+v", what, who, one)
				}
			}
		}
		gone, leave := context.WithCancel(t.Context())
		ask(t.Context(), "first", 1)
		ask(t.Context(), "second", 20)
		ask(gone, "gone", 1)
		leave()
		want("who goes away", "gone", 1, 0, oauth.ErrUnavailable)
		answer <- nil
		want("the first is answered", "first", 1, 1, nil)
		ask(t.Context(), "third", 5)
		want("while the second is out", "second", 0, 0, nil)
		answer <- nil
		want("the second is answered", "second", 20, 2, nil)
		fails := errors.New("not now")
		answer <- fails
		want("the third fails", "third", 5, 3, fails)
		ask(t.Context(), "fourth", 1)
		<-time.After(aliveLimit)
		want("nobody answers the fourth", "fourth", 1, 0, context.DeadlineExceeded)
		if sent != 4 || h.next != nil {
			t.Errorf("%d questions; %+v", sent, &h)
		}
	})
}

// One that fails with its caller, who is a request whose panic is caught, keeps nobody.
func TestShared_TheNextIsSentAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h shared[int]
		out := make(chan struct{})
		go func() {
			defer func() { recover() }()
			h.ask(t.Context(), func(context.Context) (int, error) {
				<-out
				panic("at the worst moment")
			})
		}()
		synctest.Wait()
		told := make(chan int, 1)
		go func() {
			n, err := h.ask(t.Context(), func(context.Context) (int, error) { return 7, nil })
			if err != nil {
				t.Error(err)
			}
			told <- n
		}()
		synctest.Wait()
		close(out)
		if n := <-told; n != 7 {
			t.Errorf("told %d", n)
		}
	})
}

// gated is an engine whose questions wait.
type gated struct {
	engine
	asked    int
	wrote    int // asked whether it takes writes
	gate     chan struct{}
	mayWrite chan struct{} // the gate of who asks whether it takes writes
}

func (g *gated) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	g.asked++ // one at a time, or the race detector says so
	<-g.gate
	return g.engine.query(ctx, text, args, row)
}

func (g *gated) writable(ctx context.Context) error {
	g.wrote++
	<-g.mayWrite
	return g.engine.writable(ctx)
}

// However many ask whether the node is well, one question is out.
func TestPing_OneQuestionIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "grantway.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		g := &gated{engine: s.engine, gate: make(chan struct{}), mayWrite: make(chan struct{})}
		s.engine = g
		var all sync.WaitGroup
		ask := func(n int) {
			for range n {
				all.Go(func() {
					if err := s.Ping(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
		}
		ask(1)
		ask(1000)
		if g.asked != 1 || g.wrote != 0 {
			t.Errorf("%d and %d questions are out", g.asked, g.wrote)
		}
		for range 2 { // then all of them wait to hear whether it takes writes
			g.gate <- struct{}{}
			synctest.Wait()
		}
		for range 2 {
			g.mayWrite <- struct{}{}
			synctest.Wait()
		}
		all.Wait()
		if g.asked != 2 || g.wrote != 2 {
			t.Errorf("%d and %d questions for 1,001 who asked in two moments", g.asked, g.wrote)
		}
	})
}

// However many wait for an event to be in effect, one question is out, and the feed
// beside them has all other connections.
func TestCountFollowers_OneQuestionIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), filepath.Join(t.TempDir(), "grantway.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		g := &gated{engine: s.engine, gate: make(chan struct{})}
		s.engine = g
		var all sync.WaitGroup
		ask := func(n int) {
			for range n {
				all.Go(func() {
					if f, err := s.CountFollowers(t.Context(), time.Now()); err != nil || f != (oauth.Followed{}) {
						t.Errorf("%+v, %v", f, err)
					}
				})
			}
			synctest.Wait()
		}
		ask(1)
		ask(1000)
		if g.asked != 1 {
			t.Errorf("%d questions are out", g.asked)
		}
		close(g.gate)
		all.Wait()
		if g.asked != 2 {
			t.Errorf("%d questions for 1,001 who asked in two moments", g.asked)
		}
	})
}
