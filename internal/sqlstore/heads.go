package sqlstore

import (
	"context"
	"runtime"
	"sync"
)

// heads lets those who ask at about the same time how far the feed is share one question.
// Nobody is told what was asked before he came: while a question is out, whoever comes
// waits for the next one.
type heads struct {
	mu   sync.Mutex
	next *headRead // is sent when the one that is out was answered; nil: nobody waits
	out  bool
}

type head struct {
	seq, epoch int64
	err        error
}

type headRead struct {
	head
	answered chan struct{}
}

func (h *heads) ask(ctx context.Context, read func(context.Context) head) (seq, epoch int64, err error) {
	h.mu.Lock()
	if h.next == nil {
		h.next = &headRead{answered: make(chan struct{})}
	}
	mine := h.next
	if !h.out {
		h.out = true
		go h.run(context.WithoutCancel(ctx), read)
	}
	h.mu.Unlock()
	select {
	case <-mine.answered:
		return mine.seq, mine.epoch, mine.err
	case <-ctx.Done():
		return 0, 0, unavailable(ctx.Err())
	}
}

// run sends one question after the other while somebody waits. One that is not answered
// within aliveLimit is given up, so that a connection gone silent keeps nobody for long.
func (h *heads) run(ctx context.Context, read func(context.Context) head) {
	for {
		runtime.Gosched() // who is about to ask comes along: a file has answered before he can
		h.mu.Lock()
		now := h.next
		h.next, h.out = nil, now != nil
		h.mu.Unlock()
		if now == nil {
			return
		}
		limited, cancel := context.WithTimeout(ctx, aliveLimit)
		now.head = read(limited)
		cancel()
		close(now.answered)
	}
}
