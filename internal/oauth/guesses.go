package oauth

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// How many wrong secrets of one client, or one API, a network may send, and what
// follows: until the time is over each further one from there is answered by how
// long that is, an event tells the operator, and the right one works as ever.
const (
	GuessesMax    = 100
	GuessesWindow = time.Hour
	GuessesClosed = 15 * time.Minute
)

// guesses gathers wrong secrets until a chore adds them to the database's count,
// where all nodes' come together. One cheap request must not become one durable
// write.
type guesses struct {
	mu      sync.Mutex
	waiting map[guess]int64
	closed  map[guess]time.Time
	dropped int64 // found no room
}

// guess is who was guessed at, and from where.
type guess struct{ id, network string }

const (
	guessesWait  = 10_000 // different ones that wait to be counted
	guessesBatch = 20     // counted in one event, so that no lock is held for long
)

func (g *guesses) init() { g.waiting, g.closed = map[guess]int64{}, map[guess]time.Time{} }

// CountWrongSecret notes that ip sent a wrong secret of the client or API id. It is
// counted within seconds. Whoever calls it bounds how often an address may, if anybody
// does: what waits is bounded here.
func (s *Server) CountWrongSecret(id, ip string) {
	s.addGuesses(guess{id, NetworkOf(ip)}, 1)
}

// GuessesEnd returns for how long the network of ip has been closed to wrong secrets
// of the client or API id; 0: it is not.
func (s *Server) GuessesEnd(id, ip string) time.Duration {
	g := &s.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.closed[guess{id, NetworkOf(ip)}].Sub(s.now()))
}

func (s *Server) addGuesses(key guess, n int64) {
	g := &s.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.waiting[key]; !known && len(g.waiting) >= guessesWait {
		g.dropped += n
		return
	}
	g.waiting[key] += n
}

// WrongSecrets is how many wrong secrets came under one key. Event is stored if they
// close it.
type WrongSecrets struct {
	Key   string
	N     int64
	Event Event
}

// flushGuesses adds what has gathered to the database's counts, and learns which
// networks are closed. What could not be counted is, next time.
func (s *Server) flushGuesses(ctx context.Context) error {
	g, now := &s.guesses, s.now()
	g.mu.Lock()
	waiting, dropped := g.waiting, g.dropped
	g.waiting, g.dropped = map[guess]int64{}, 0
	for key, until := range g.closed {
		if !until.After(now) {
			delete(g.closed, key)
		}
	}
	g.mu.Unlock()
	if dropped > 0 {
		s.log.LogAttrs(ctx, slog.LevelWarn, "wrong secrets from too many networks: some are not counted", slog.Int64("wrong", dropped))
	}
	keys := make([]guess, 0, len(waiting))
	for key := range waiting {
		keys = append(keys, key)
	}
	// In one order on all nodes, so that none waits for another that waits for it.
	slices.SortFunc(keys, func(a, b guess) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.network, b.network)) })
	for batch := range slices.Chunk(keys, guessesBatch) {
		if err := s.countGuesses(ctx, now, batch, waiting); err != nil {
			for key, n := range waiting {
				s.addGuesses(key, n)
			}
			return err
		}
		for _, key := range batch {
			delete(waiting, key)
		}
	}
	return nil
}

func (s *Server) countGuesses(ctx context.Context, now time.Time, batch []guess, waiting map[guess]int64) error {
	counts := make([]WrongSecrets, len(batch))
	for i, key := range batch {
		e, err := s.NewEvent(ctx, EventSecretsRefused, Actor{}, map[string]any{"network": key.network, "closed_until": now.Add(GuessesClosed).UTC().Format(time.RFC3339)})
		if err != nil {
			return err
		}
		e.ClientID = key.id
		counts[i] = WrongSecrets{"wrong secrets of " + key.id + " from " + key.network, waiting[key], e}
	}
	closed, err := s.storage.CountWrongSecrets(ctx, now, counts)
	if err != nil {
		return err
	}
	s.guesses.mu.Lock()
	defer s.guesses.mu.Unlock()
	for i, until := range closed {
		if !until.After(now) {
			continue
		}
		s.guesses.closed[batch[i]] = until
		s.log.LogAttrs(ctx, slog.LevelWarn, "a network is closed to wrong secrets", slog.String("client", batch[i].id),
			slog.String("network", batch[i].network), slog.Time("until", until))
	}
	return nil
}
