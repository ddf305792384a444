package sqlstore

import (
	"context"
	"errors"
	"runtime"
	"sync"
)

// shared lets those who ask the same at about the same time share one question. Nobody
// is told what was asked before he came: while a question is out, whoever comes waits
// for the next one.
type shared[T any] struct {
	mu   sync.Mutex
	out  *sharing[T] // the last that was sent, answered or not
	next *sharing[T] // is sent when that was answered; nil: nobody waits
}

type sharing[T any] struct {
	is       T
	err      error
	answered chan struct{}
}

var errNotSent = errors.New("whoever asked has failed")

// send reads the answer. Whatever becomes of it, those who wait are told.
func (q *sharing[T]) send(ctx context.Context, read func(context.Context) (T, error)) {
	defer close(q.answered)
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), aliveLimit)
	defer cancel()
	q.is, q.err = read(limited)
}

// ask sends a question that is given up after aliveLimit, so that a connection gone silent
// keeps nobody for long, or waits for one that somebody else sends. Whoever came first
// sends it, and does not leave before it is answered: a goroutine of its own would cost
// as much as a short question.
func (s *shared[T]) ask(ctx context.Context, read func(context.Context) (T, error)) (is T, err error) {
	s.mu.Lock()
	mine, before, first := s.next, s.out, s.next == nil
	if first {
		mine = &sharing[T]{err: unavailable(errNotSent), answered: make(chan struct{})}
		s.next = mine
	}
	s.mu.Unlock()
	if first {
		if before != nil {
			<-before.answered
		}
		runtime.Gosched() // who is about to ask comes along: a file has answered before he can
		s.mu.Lock()
		s.out, s.next = mine, nil
		s.mu.Unlock()
		mine.send(ctx, read)
	}
	select {
	case <-mine.answered:
		return mine.is, mine.err
	case <-ctx.Done():
		return is, unavailable(ctx.Err())
	}
}
