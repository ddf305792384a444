package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// notice is how long requests are still taken while readiness fails: 3 s of a
// grace of 30.
func notice(grace time.Duration) time.Duration { return min(grace/10, 5*time.Second) }

// serve serves until ctx ends, then drains within grace. Nobody's request may fail
// for it: each answer now says that it is the connection's last, and a connection
// on which nothing happens is left open, because its client may be writing to it
// this moment: one that was idle for long, too, for clients turn to those when the
// others end. Only one that stays idle for long is closed.
//
// When a successor serves already (the cause is [errHandedOver]) the listener is
// closed at once and idle connections may stay for most of the grace. Else whoever
// directs requests here must see first that this node is not ready: draining is
// called, and for a while nothing is refused yet.
func serve(ctx context.Context, s *http.Server, in *intake, l net.Listener, grace time.Duration, draining func()) error {
	l = in.guard(s, l)
	var last atomic.Bool
	handler := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if last.Load() {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	last.Store(true)
	from := time.Now()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	idle := grace - notice(grace) // so that they are closed in time
	if context.Cause(ctx) != errHandedOver {
		draining()
		idle = notice(grace)
		select {
		case err := <-failed:
			return err
		case <-time.After(idle):
		}
	}
	l.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		return err
	}
	in.wait(drain, from, idle)
	err := s.Shutdown(drain) // if the time is up, it closes those that are idle
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(errors.New("some requests did not finish in time"), s.Close())
	}
	return err
}
