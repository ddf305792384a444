package oauth

import (
	"context"
	"math"
	"time"
)

// Effective says what a grant allows now.
var Effective = effective

// Merge applies what was ticked of the stores that were offered to a grant.
func (s *Server) Merge(g *Grant, approved ScopeSet, offered, ticked, except []string, all bool) {
	s.merge(g, decided{aboutStores: true, approved: approved, offered: offered, stores: ticked, except: except, all: all})
}

// ParseListID reads the last part of a list's URI.
var ParseListID = parseListID

// PageMax is how much a page of the feed tells.
const PageMax = pageMax

// Mint signs an access token of a key that is out, as an exchange would.
func (s *Server) Mint(ctx context.Context, family string) (string, error) {
	f, st, err := s.storage.Family(ctx, family)
	if err != nil {
		return "", err
	}
	token, _, err := s.mint(profiles[Exchange], f, st, st.rights(), nil)
	return token, err
}

// VerifyOwn reports whether token is a JWT of this server, by the keys that it has read.
func (s *Server) VerifyOwn(token string) bool {
	p, ok := s.present(token)
	return ok && p.genuine(nil)
}

// Unseal opens a signing key at rest.
func (s *Server) Unseal(k StoredKey) ([]byte, error) { return s.ring.open(sealKeyPurpose, k.Sealed) }

// Follow, Flush, FlushGuesses, SweepRound, Fold, ForgetLists and NoteFollowers are the chores of Run, once each.
func (s *Server) Follow(ctx context.Context) error        { return s.follow(ctx, math.MaxInt64) }
func (s *Server) Flush(ctx context.Context) error         { return s.flushUsage(ctx) }
func (s *Server) SweepRound(ctx context.Context) error    { return s.sweep(ctx) }
func (s *Server) Fold(ctx context.Context) error          { return s.fold(ctx) }
func (s *Server) ForgetLists(ctx context.Context) error   { return s.forgetLists(ctx) }
func (s *Server) NoteFollowers(ctx context.Context) error { return s.putFollowers(ctx) }
func (s *Server) FlushGuesses(ctx context.Context) error  { return s.flushGuesses(ctx) }

// KeepWarm makes the cache count for d from now on, though nothing follows.
func (s *Server) KeepWarm(d time.Duration) {
	until := time.Since(start) + d
	s.cache.read.Store(int64(until))
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	s.feed.asOf = until
}

// UntilStart says how long it is in a bubble until an hour after the moment from which
// servers count.
func UntilStart() time.Duration { return time.Until(start) + time.Hour }

// Remembered says how many verified tokens are kept.
func (s *Server) Remembered() int { return s.keys.current.Load().seen.Len() }

// Remembered says how many ids of events are kept in mind.
func (end *LogEnd) Remembered() int { return len(end.recent) }

// Replayed reports whether a replay knows what to do about a kind.
func Replayed(k Kind) bool {
	_, known := replays[k]
	return known
}
