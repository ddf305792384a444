package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grantway/grantway/internal/config"
)

// written is what came, a write each.
type written struct {
	mu     sync.Mutex
	writes []string
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func (w *written) take() (writes []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	writes, w.writes = w.writes, nil
	return writes
}

func request(log *slog.Logger, text string) {
	requestLog(log).Handle(context.Background(), slog.NewRecord(time.Time{}, slog.LevelInfo, text, 0))
}

// passes lets time pass in a bubble.
func passes(d time.Duration) { <-time.After(d) }

// Lines about requests go out together, soon; any other at once, after what came before
// it; and none is left when the process ends.
func TestLog_RequestsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w written
		log, flush := newLogger(&w, config.Config{LogFormat: "text"})
		wants := func(writes ...string) {
			t.Helper()
			var got []string
			for _, write := range w.take() {
				var texts []string
				for line := range strings.Lines(write) {
					_, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "msg=")
					texts = append(texts, text)
				}
				got = append(got, strings.Join(texts, " "))
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", writes) {
				t.Errorf("%q; want %q", got, writes)
			}
		}
		request(log, "1")
		passes(lateBy - 1)
		request(log, "2")
		wants()
		passes(1)
		synctest.Wait()
		wants("1 2")
		passes(lateBy)
		request(log, "3")
		log.Info("4")
		wants("3", "4")
		request(log, "5") // due anew, whenever 3 was
		passes(lateBy - 1)
		wants()
		passes(1)
		synctest.Wait()
		wants("5")
		request(log, "6")
		flush()
		wants("6")
		passes(time.Minute)
		synctest.Wait()
		wants()
	})
}

// No write is longer than a pipe takes as a whole, unless a line is; each ends with a
// line; and nothing is lost or said twice, however many write at once.
func TestLog_WholeLines(t *testing.T) {
	const writers, each = 8, 500
	for _, format := range []string{"text", "json"} {
		var w written
		log, flush := newLogger(&w, config.Config{LogFormat: format})
		var all sync.WaitGroup
		for n := range writers {
			all.Go(func() {
				for i := range each {
					text := fmt.Sprintf("<%d.%d>", n, i) + strings.Repeat("x", i*i%300)
					if i%100 == 99 {
						log.Info(text + strings.Repeat("y", 2*heldMost))
					} else {
						request(log, text)
					}
				}
			})
		}
		all.Wait()
		flush()
		var whole strings.Builder
		for _, write := range w.take() {
			if !strings.HasSuffix(write, "\n") || len(write) > heldMost && strings.Count(write, "\n") > 1 {
				t.Errorf("%s: a write of %d bytes: %.200q", format, len(write), write)
			}
			whole.WriteString(write)
		}
		for n := range writers {
			last := -1
			for i := range each {
				at := strings.Index(whole.String(), fmt.Sprintf("<%d.%d>", n, i))
				if at < last || strings.Count(whole.String(), fmt.Sprintf("<%d.%d>", n, i)) != 1 {
					t.Errorf("%s: line %d of %d is lost, twice there or before the one before it", format, i, n)
				}
				last = at
			}
		}
	}
}

// A line about a request, and the same written at once, into a pipe that is read.
func BenchmarkLog(b *testing.B) {
	for name, say := range map[string]func(*slog.Logger){
		"request": func(log *slog.Logger) { request(log, "request") },
		"at once": func(log *slog.Logger) { log.Info("request") },
	} {
		b.Run(name, func(b *testing.B) {
			r, w, err := os.Pipe()
			if err != nil {
				b.Fatal(err)
			}
			var read sync.WaitGroup
			read.Go(func() { io.Copy(io.Discard, r) })
			log, flush := newLogger(w, config.Config{})
			b.ReportAllocs()
			for b.Loop() {
				say(log)
			}
			flush()
			w.Close()
			read.Wait()
			r.Close()
		})
	}
}
