package sqlstore

import (
	"context"
	"runtime"
	"sync"
)

// shared lets those who ask the same at about the same time share one question. Nobody
// is told what was asked before he came: while a question is out, whoever comes waits
// for the next one.
type shared[T any] struct {
	mu   sync.Mutex
	next *sharing[T] // is sent when the one that is out was answered; nil: nobody waits
	out  bool
}

type sharing[T any] struct {
	read     func(context.Context) (T, error) // of who came first
	is       T
	err      error
	answered chan struct{}
}

func (s *shared[T]) ask(ctx context.Context, read func(context.Context) (T, error)) (is T, err error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &sharing[T]{read: read, answered: make(chan struct{})}
	}
	mine := s.next
	if !s.out {
		s.out = true
		go s.run(context.WithoutCancel(ctx))
	}
	s.mu.Unlock()
	select {
	case <-mine.answered:
		return mine.is, mine.err
	case <-ctx.Done():
		return is, unavailable(ctx.Err())
	}
}

// run sends one question after the other while somebody waits. One that is not answered
// within aliveLimit is given up, so that a connection gone silent keeps nobody for long.
func (s *shared[T]) run(ctx context.Context) {
	for {
		runtime.Gosched() // who is about to ask comes along: a file has answered before he can
		s.mu.Lock()
		now := s.next
		s.next, s.out = nil, now != nil
		s.mu.Unlock()
		if now == nil {
			return
		}
		limited, cancel := context.WithTimeout(ctx, aliveLimit)
		now.is, now.err = now.read(limited)
		cancel()
		close(now.answered)
	}
}
