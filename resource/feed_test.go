package resource

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Whatever is wrong with the feed's answer, nothing of it is taken, the log says so once, and the lease runs out.
func TestFeed_refused(t *testing.T) {
	event := func(change string) string {
		return `{"epoch":1,"seq":102,"more":false,"changes":[` + change + `],"rules":[]}`
	}
	ruled := func(rule string) string {
		return `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[` + rule + `]}`
	}
	big := strings.Repeat(`{"seq":102,"list":"1-0","idx":9,"value":1},`, (10<<20)/43)
	for name, answer := range map[string]string{
		"empty": "", "array": "[]", "null": "null", "a page": "<html>", "cut": `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[`,
		"twice":          `{"epoch":1,"epoch":1,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"no more":        `{"epoch":1,"seq":102,"changes":[],"rules":[]}`,
		"a new member":   `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[],"kills":[]}`,
		"backwards":      `{"epoch":1,"seq":100,"more":false,"changes":[],"rules":[]}`,
		"an older epoch": `{"epoch":0,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"a later epoch":  `{"epoch":2,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"seq text":       `{"epoch":1,"seq":"102","more":false,"changes":[],"rules":[]}`,
		"no progress":    `{"epoch":1,"seq":101,"more":true,"changes":[],"rules":[]}`,
		"out of range":   event(`{"seq":102,"list":"1-0","idx":1048576,"value":1}`),
		"negative":       event(`{"seq":102,"list":"1-0","idx":-1,"value":1}`),
		"value":          event(`{"seq":102,"list":"1-0","idx":9,"value":4}`),
		"no value":       event(`{"seq":102,"list":"1-0","idx":9}`),
		"more of it":     event(`{"seq":102,"list":"1-0","idx":9,"value":1,"unless":7}`),
		"list":           event(`{"seq":102,"list":"../1-0","idx":9,"value":1}`),
		"seq passed":     event(`{"seq":101,"list":"1-0","idx":9,"value":1}`),
		"seq to come":    event(`{"seq":103,"list":"1-0","idx":9,"value":1}`),
		"not ascending":  `{"epoch":1,"seq":103,"more":false,"changes":[{"seq":103,"list":"1-0","idx":9,"value":1},{"seq":102,"list":"1-0","idx":8,"value":1}],"rules":[]}`,
		"good, then bad": event(`{"seq":102,"list":"1-0","idx":9,"value":1},{"seq":102,"list":"1-0","idx":9,"value":9}`),
		"10 MB":          event(big[:len(big)-1]),
		"kind":           ruled(`{"seq":102,"kind":"tenant","id":"x","before":9,"value":1}`),
		"rule's value":   ruled(`{"seq":102,"kind":"store","id":"x","before":9,"value":2}`),
		"client asks":    ruled(`{"seq":102,"kind":"client","id":"x","before":9,"value":3}`),
		"no id":          ruled(`{"seq":102,"kind":"client","id":"","before":9,"value":1}`),
		"all, with id":   ruled(`{"seq":102,"kind":"all","id":"x","before":9,"value":1}`),
		"no before":      ruled(`{"seq":102,"kind":"client","id":"x","value":1}`),
		"rule to come":   ruled(`{"seq":103,"kind":"client","id":"app-1","before":999,"value":1}`),
		"rule passed":    ruled(`{"seq":101,"kind":"client","id":"app-1","before":999,"value":1}`),
	} {
		t.Run(name, func(t *testing.T) {
			log := logged(t)
			in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
				log.Reset()
				i.feed.set(func() { i.feed.fail = says(answer) })
				settled(600 * time.Millisecond)
				check(t, v, token, 0, "") // nothing of it was taken
				settled(400 * time.Millisecond)
				check(t, v, token, Unavailable, "stale")
				settled(2 * time.Second)
				if n := strings.Count(log.String(), "\n"); n != 1 || name == "10 MB" && !strings.Contains(log.String(), "more than 8388608 bytes") {
					t.Errorf("%d lines:\n%s", n, log)
				}
				if c := v.Counters(); c.Seq != 101 || c.Lapses != 1 {
					t.Errorf("%+v", c)
				}
				i.feed.set(func() { i.feed.fail = nil })
				settled(time.Second)
				check(t, v, token, 0, "")
				settled(calm + time.Second)
				if n := strings.Count(log.String(), "\n"); n != 2 {
					t.Errorf("%d lines:\n%s", n, log)
				}
			}, func(c *Config) { c.OnStale = Closed })
		})
	}
}

// A snapshot that is behind what was seen is another feed's.
func TestFeed_snapshotOfAnother(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.set(func() {
			i.feed.fail = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("after") {
					w.WriteHeader(410)
					return
				}
				fmt.Fprint(w, `{"epoch":1,"seq":7,"more":false,"changes":[],"rules":[]}`)
			}
		})
		settled(time.Second)
		check(t, v, token, Unavailable, "stale")
		if err := v.Ready(); err != nil {
			t.Error(err)
		}
	}, func(c *Config) { c.OnStale = Closed })
}

// Wrong credentials: refused, and not tried five times a second.
func TestFeed_withoutCredentials(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.set(func() { i.feed.fail = status(401) })
		settled(time.Second)
		check(t, v, token, Unavailable, "stale")
		before := i.feed.polls.Load()
		settled(10 * time.Second)
		if n := i.feed.polls.Load() - before; n > 11 {
			t.Errorf("%d polls in 10 s", n)
		}
	}, func(c *Config) { c.OnStale = Closed })
}
