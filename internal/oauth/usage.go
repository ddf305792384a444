package oauth

import (
	"context"
	"sync"
	"time"
)

// usage gathers when grants and secrets were used. Nothing is written on a
// verify or introspect path; a chore writes batches, each thing at most once an
// hour, so "last used" is exact to the hour.
type usage struct {
	mu      sync.Mutex
	written map[string]time.Time // key → last noted
	grants  map[string]struct{}
	secrets map[string]struct{} // hash
}

const (
	usagePrecision = time.Hour
	usageMax       = 100_000 // remembered keys; beyond it memory begins anew
)

func (u *usage) init() {
	u.written, u.grants, u.secrets = map[string]time.Time{}, map[string]struct{}{}, map[string]struct{}{}
}

func (u *usage) note(set map[string]struct{}, key string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.written[key]) < usagePrecision {
		return
	}
	if len(u.written) >= usageMax {
		clear(u.written)
	}
	u.written[key] = now
	set[key] = struct{}{}
}

func (s *Server) usedGrant(id string)    { s.usage.note(s.usage.grants, id, s.now()) }
func (s *Server) usedSecret(hash string) { s.usage.note(s.usage.secrets, hash, s.now()) }

func (s *Server) flushUsage(ctx context.Context) error {
	s.usage.mu.Lock()
	var grants []string
	var secrets []Hash
	for id := range s.usage.grants {
		grants = append(grants, id)
	}
	for h := range s.usage.secrets {
		secrets = append(secrets, Hash(h))
	}
	clear(s.usage.grants)
	clear(s.usage.secrets)
	s.usage.mu.Unlock()
	return s.storage.TouchUsed(ctx, s.now(), grants, secrets)
}
