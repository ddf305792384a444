package resource

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Which grants were seen is reported once an hour, each once, and at Close.
func TestSeen(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		other := i.held(t, 10, object{"grant_id": "grant-2"})
		dead := i.held(t, 11, object{"grant_id": "grant-3"})
		i.feed.mark(11, invalid)
		settled(time.Second)
		for range 100 {
			check(t, v, token, 0, "")
			check(t, v, other, 0, "")
			check(t, v, dead, BadToken, "not_active")
		}
		i.feed.set(func() { i.feed.fail = status(401) }) // polls take time
		settled(50 * time.Minute)
		if len(i.feed.reports) > 0 {
			t.Errorf("reported within the hour: %q", i.feed.reports)
		}
		settled(2 * time.Hour)
		i.feed.set(func() { i.feed.fail = nil })
		settled(2 * time.Second)
		if len(i.feed.reports) != 1 || len(i.feed.reports[0]) != 2 {
			t.Errorf("reported %q", i.feed.reports)
		}
		check(t, v, token, 0, "")
		v.Close()
		if len(i.feed.reports) != 2 || !slices.Equal(i.feed.reports[1], []string{"grant-1"}) {
			t.Errorf("reported %q", i.feed.reports)
		}
	})
}

func TestSeen_bounded(t *testing.T) {
	var s sightings
	s.init()
	for n := range 3 * maxSeen {
		s.add(&token{grantID: fmt.Sprint(n)})
	}
	if n := len(s.take()); n != maxSeen {
		t.Errorf("%d grants", n)
	}
}
