package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
)

// newLogger writes to w. Whoever ends calls flush, after which nothing waits.
func newLogger(w io.Writer, c config.Config) (log *slog.Logger, flush func()) {
	l := &lines{w: w}
	to := func(w io.Writer) slog.Handler {
		options := &slog.HandlerOptions{Level: c.LogLevel}
		if c.LogFormat == "text" {
			return slog.NewTextHandler(w, options)
		}
		return slog.NewJSONHandler(w, options)
	}
	return slog.New(named{to(l), named{to(heldLines{l}), nil}}), l.flush
}

// requestLog is where the lines about requests go.
func requestLog(log *slog.Logger) slog.Handler {
	h := log.Handler()
	if n, ok := h.(named); ok && n.requests != nil {
		return n.requests
	}
	return h
}

// named gives every line the id of the request that it belongs to.
type named struct {
	slog.Handler
	requests slog.Handler // nil: this one
}

func (n named) Handle(ctx context.Context, r slog.Record) error {
	if id := oauth.RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	return n.Handler.Handle(ctx, r)
}

func (n named) WithAttrs(attrs []slog.Attr) slog.Handler {
	return named{n.Handler.WithAttrs(attrs), nil}
}

func (n named) WithGroup(name string) slog.Handler { return named{n.Handler.WithGroup(name), nil} }

const (
	// lateBy is how long a line about a request waits for others, to go out with them in
	// one write: a write for each was up to a tenth of what a request cost (measured). Who
	// is killed takes so much of them along.
	lateBy = 5 * time.Millisecond
	// heldMost bytes are what a pipe takes as a whole (PIPE_BUF in limits.h): processes
	// that share one, as during a hand-over, do not write into each other's lines.
	heldMost = 4096
)

// lines writes lines in the order in which they came, those that were held before any
// that is not.
type lines struct {
	mu   sync.Mutex
	w    io.Writer
	held []byte
	due  *time.Timer // flushes; nil before the first line was held
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out()
	return l.w.Write(line)
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out()
}

// out is called with mu held, and so holds up whoever has a line where nobody takes them.
// A log that cannot be written to is no reason not to go on.
func (l *lines) out() {
	if len(l.held) > 0 {
		l.w.Write(l.held)
		l.held = l.held[:0]
	}
}

// heldLines are lines that may wait.
type heldLines struct{ *lines }

func (l heldLines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.held)+len(line) > heldMost {
		l.out()
	}
	if len(l.held) == 0 {
		if l.due == nil {
			l.due = time.AfterFunc(lateBy, l.flush)
		} else {
			l.due.Reset(lateBy)
		}
	}
	l.held = append(l.held, line...)
	return len(line), nil
}

// quiet keeps net/http's own messages, which may quote what a client sent, down to
// the fact that there was one.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	what, _, _ := strings.Cut(r.Message, ":")
	plain := slog.NewRecord(r.Time, r.Level, "http server: "+what, r.PC)
	return q.Handler.Handle(ctx, plain)
}
