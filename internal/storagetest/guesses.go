package storagetest

import (
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// wrong counts n wrong secrets under key at a time, and returns until when it is
// closed, and whether this closed it.
func (w *world) wrong(key string, n int64, at time.Time) (until time.Time, closed bool) {
	w.t.Helper()
	e := w.event(oauth.EventSecretsRefused)
	got, err := w.s.CountWrongSecrets(w.ctx, at, []oauth.WrongSecrets{{Key: key, N: n, Event: e}})
	w.ok(err)
	if len(got) != 1 {
		w.t.Fatalf("%d answers for one key", len(got))
	}
	var kept int
	query := "SELECT COUNT(*) FROM events WHERE id = $1"
	w.ok(w.db.QueryRowContext(w.ctx, query, e.ID).Scan(&kept))
	return got[0], kept == 1
}

func guesses(w *world) {
	w.test("a key is closed by its hundredth wrong secret within an hour, with one event, for a quarter of an hour", func(w *world) {
		count := func(n int64, at, until time.Time, closes bool) {
			w.t.Helper()
			got, closed := w.wrong("k", n, at)
			if !got.Equal(until) || closed != closes {
				w.t.Errorf("%d more after %s: closed until %v by this one %v, want %v, %v", n, at.Sub(w.now), got, closed, until, closes)
			}
		}
		at, end := w.now, w.now.Add(oauth.GuessesClosed)
		count(oauth.GuessesMax-1, at, time.Time{}, false)
		got, closed := w.wrong("another", 1, at)
		w.same("another key", []any{got, closed}, []any{time.Time{}, false})
		count(1, at, end, true)
		count(5, at, end, false)
		count(1, end.Add(-time.Microsecond), end, false)
		count(1, end, end.Add(oauth.GuessesClosed), true) // the hour is not over
		at = w.now.Add(oauth.GuessesWindow)
		count(oauth.GuessesMax-1, at, time.Time{}, false) // it begins anew
		count(1, at.Add(oauth.GuessesWindow-time.Microsecond), at.Add(oauth.GuessesWindow-time.Microsecond+oauth.GuessesClosed), true)
	})
	w.test("closing a key closes no other again", func(w *world) {
		w.wrong("first", oauth.GuessesMax, w.now)
		open := w.now.Add(oauth.GuessesClosed)
		w.wrong("second", oauth.GuessesMax, open)
		w.same("the first was closed until", w.count("SELECT until FROM throttles WHERE key = 'first'"), int(open.UnixMicro()))
	})
	w.test("a key that is closed is not swept away", func(w *world) {
		late := w.now.Add(oauth.GuessesWindow - time.Microsecond)
		w.wrong("swept", oauth.GuessesMax-1, w.now)
		until, _ := w.wrong("swept", 1, late)
		_, err := w.s.Sweep(w.ctx, until.Add(-time.Microsecond), oauth.EventsKept, 1000)
		w.ok(err)
		if got, closed := w.wrong("swept", 1, until.Add(-time.Microsecond)); !got.Equal(until) || closed {
			w.t.Errorf("closed until %v, want %v", got, until)
		}
	})
}
