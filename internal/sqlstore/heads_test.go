package sqlstore

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Who asks while a question is out shares the next one with all others, and is never
// told what was asked before he came.
func TestHeads_ShareTheNextQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heads
		sent := int64(0)
		answer := make(chan error)
		read := func(ctx context.Context) head {
			sent++
			seq := sent
			select {
			case err := <-answer:
				return head{seq, 1, err}
			case <-ctx.Done():
				return head{0, 0, ctx.Err()}
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
					seq, _, err := h.ask(ctx, read)
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
		if sent != 4 || h.out || h.next != nil {
			t.Errorf("%d questions; %+v", sent, &h)
		}
	})
}
