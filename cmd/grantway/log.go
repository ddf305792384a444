package main

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
)

func newLogger(w io.Writer, c config.Config) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "text" {
		return slog.New(named{slog.NewTextHandler(w, options)})
	}
	return slog.New(named{slog.NewJSONHandler(w, options)})
}

// named gives every line the id of the request that it belongs to.
type named struct{ slog.Handler }

func (n named) Handle(ctx context.Context, r slog.Record) error {
	if id := oauth.RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	return n.Handler.Handle(ctx, r)
}

func (n named) WithAttrs(attrs []slog.Attr) slog.Handler { return named{n.Handler.WithAttrs(attrs)} }

func (n named) WithGroup(name string) slog.Handler { return named{n.Handler.WithGroup(name)} }

// quiet keeps net/http's own messages, which may quote what a client sent, down to
// the fact that there was one.
type quiet struct{ slog.Handler }

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	what, _, _ := strings.Cut(r.Message, ":")
	plain := slog.NewRecord(r.Time, r.Level, "http server: "+what, r.PC)
	return q.Handler.Handle(ctx, plain)
}
