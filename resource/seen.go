package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// seenEvery is how often the issuer is told which grants were seen, for its "last used".
	seenEvery = time.Hour
	// maxSeen bounds the grants of one report. Those beyond it have their turn in a later hour.
	maxSeen = 10_000
	// lastReport bounds each of the two things that are said at Close.
	lastReport = 500 * time.Millisecond
)

// sightings collects the grants whose keys were admitted since the last report.
type sightings struct {
	round  atomic.Int64 // which report the grants are collected for, from 1
	mu     sync.Mutex
	grants map[string]struct{}
}

func (s *sightings) init() {
	s.grants = map[string]struct{}{}
	s.round.Store(1)
}

// add costs a comparison where the token was seen since the last report.
func (s *sightings) add(t *token) {
	round := s.round.Load()
	if t.seen.Load() == round {
		return
	}
	t.seen.Store(round)
	s.mu.Lock()
	if len(s.grants) < maxSeen {
		s.grants[t.grantID] = struct{}{}
	}
	s.mu.Unlock()
}

func (s *sightings) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.grants))
	for id := range s.grants {
		ids = append(ids, id)
	}
	clear(s.grants)
	s.round.Add(1)
	return ids
}

// keepReporting reports once an hour and at Close. A report that does not arrive is lost: "last used" is then as old as
// it was.
func (v *Verifier) keepReporting() {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.report(v.ctx, askTimeout)
		case <-v.ctx.Done():
			v.report(context.Background(), lastReport)
			return
		}
	}
}

func (v *Verifier) report(ctx context.Context, wait time.Duration) {
	ids, at := v.seen.take(), v.endpoints.Load()
	if len(ids) == 0 || at == nil || at.feed == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	body, _ := json.Marshal(map[string][]string{"grants": ids})
	req, err := v.request(ctx, http.MethodPost, v.at(v.follow.current(), at.feed)+"/seen", bytes.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	_, _, _ = read(v.http, req)
}
