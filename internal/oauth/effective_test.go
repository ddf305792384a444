package oauth_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// begins makes a follower that has all there is, and returns how it asks on.
func (w *world) begins(node *oauth.Server, instance string) func() {
	w.t.Helper()
	ctx := context.Background()
	p, err := node.Revocations(ctx, w.api, oauth.FeedQuery{Instance: instance})
	w.must(err)
	seq, epoch := p.Seq, p.Epoch
	return func() {
		w.t.Helper()
		p, err := node.Revocations(ctx, w.api, oauth.FeedQuery{Instance: instance, After: seq, Epoch: epoch})
		w.must(err)
		if p != nil {
			seq = p.Seq
		}
	}
}

// note has another node note followers.
func (w *world) note(list ...oauth.Follower) {
	w.t.Helper()
	_, err := w.db.PutFollowers(context.Background(), list)
	w.must(err)
}

// runs does the chores of a node until the test ends.
func (w *world) runs(node *oauth.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); node.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended })
}

// office is another process on the same database, which runs no chores: a command.
func (w *world) office(storage oauth.Storage) *oauth.Server {
	w.t.Helper()
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	s, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage, Ring: ring,
		Now: w.clock.now, Rand: newRand("office " + w.t.Name())})
	w.must(err)
	return s
}

const bound = 850 * time.Millisecond

// What happened is in effect when every follower has asked for what comes after it, on
// whichever node; a process without chores sees that, too.
func TestEffective_Acknowledged(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		command := w.office(w.db)
		if e, err := command.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 0 {
			t.Errorf("without followers: %+v, %v", e, err)
		}
		w.runs(w.Server)
		polls := []func(){w.begins(w.Server, "one"), w.begins(w.Server, "two")}
		key := w.connect(w.exchange, "alice", "s1")
		w.must(command.RevokeGrant(ctx, oauth.Actor{Kind: oauth.AsCommand}, claims(t, key.AccessToken).GrantID))
		waited := make(chan oauth.Effect, 1)
		go func() {
			e, err := command.Effective(ctx)
			if err != nil {
				t.Error(err)
			}
			waited <- e
		}()
		for _, poll := range polls {
			poll() // hears of it,
		}
		select {
		case e := <-waited:
			t.Fatalf("%+v, and nobody has acknowledged it", e)
		case <-time.After(50 * time.Millisecond):
		}
		var held sync.WaitGroup
		for _, poll := range polls {
			held.Go(poll) // asks on
		}
		if e := <-waited; !e.Everywhere || e.Followers != 2 || e.After < 50*time.Millisecond || e.After >= bound {
			t.Errorf("%+v", e)
		}
		w.must(w.SuspendClient(ctx, oauth.Actor{Kind: oauth.AsCommand}, w.standard.id))
		held.Wait() // for the next event
		if e, at := command.LastEffect(); !e.Everywhere || e.Followers != 2 || at.IsZero() {
			t.Errorf("the last one: %+v, %v", e, at)
		}
	})
}

// Who says that it ends is not waited for any more; whoever comes back counts again.
func TestEffective_WhoLeavesIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		counts := func(followers int, everywhere bool) {
			t.Helper()
			if e, err := w.Effective(ctx); err != nil || e.Everywhere != everywhere || e.Followers != followers {
				t.Errorf("%+v, %v; want %d, %v", e, err, followers, everywhere)
			}
		}
		goesOn := func(node *oauth.Server, instance string) { // as what it asked, and gave up, before it left may be read after that
			t.Helper()
			w.clock.advance(time.Millisecond)
			if _, err := node.Revocations(ctx, w.api, oauth.FeedQuery{Instance: instance, After: 1, Epoch: 1}); err == nil || oauth.AsError(err).Reason != oauth.FeedGone {
				t.Errorf("%s left, and is told what happened: %v", instance, err)
			}
		}
		w.begins(w.Server, "one")
		w.begins(w.Server, "two")
		w.must(w.Unfollow(ctx, w.api, "one"))
		counts(1, false)
		goesOn(w.Server, "one")
		counts(1, false)
		if err := w.Unfollow(ctx, oauth.ClientAuth{ID: w.api.ID, Secret: "wrong"}, "two"); err == nil || oauth.AsError(err).Code != oauth.InvalidClient {
			t.Error(err)
		}
		other, _ := w.beside()
		poll := w.begins(other.Server, "two")
		w.clock.advance(6 * time.Second)
		poll() // noted by a chore only
		w.must(w.Unfollow(ctx, w.api, "two"))
		w.must(other.NoteFollowers(ctx)) // which comes after it left elsewhere
		goesOn(other.Server, "two")
		counts(0, true)
		w.clock.advance(-time.Minute)          // another node's clock
		again := w.begins(other.Server, "two") // by the same name, where it seems to be noted
		counts(1, false)
		again()
		w.must(other.NoteFollowers(ctx))
		counts(1, true)
	})
}

// A follower counts from before it is told anything, and again when it comes back:
// else something could be said to be in effect that it has not heard of.
func TestEffective_CountsWhoHasJustBegun(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		poll := w.begins(w.Server, "one") // no chore has noted it
		began := time.Now()
		if e, err := w.Effective(ctx); err != nil || e.Everywhere || e.Followers != 1 || time.Since(began) < bound {
			t.Errorf("before its first poll: %+v, %v, after %v", e, err, time.Since(began))
		}
		w.clock.advance(2 * time.Minute)
		if e, err := w.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 0 {
			t.Errorf("when it was away for minutes: %+v, %v", e, err)
		}
		poll()
		w.must(w.SuspendClient(ctx, command, w.standard.id))
		if e, err := w.Effective(ctx); err != nil || e.Everywhere || e.Followers != 1 {
			t.Errorf("back, and behind: %+v, %v", e, err)
		}
	})
}

// joined is a storage beside which something happens before a follower is noted.
type joined struct {
	oauth.Storage
	happens func()
}

func (j *joined) PutFollowers(ctx context.Context, list []oauth.Follower) ([]oauth.Follower, error) {
	happen(&j.happens)
	return j.Storage.PutFollowers(ctx, list)
}

// Who waited for an event before a follower was noted did not count him. So he is told
// of it, however lately the node has looked.
func TestEffective_WhoJoinsHearsWhatCameBefore(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		storage := &joined{Storage: w.db}
		node := w.office(storage)
		storage.happens = func() {
			w.must(w.SuspendClient(ctx, command, w.other.id))
			if e, err := w.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 0 {
				t.Errorf("%+v, %v", e, err)
			}
		}
		w.must(node.Follow(ctx))
		if p := w.begin(node); len(p.Rules) != 1 {
			t.Errorf("it is told %+v", p)
		}
	})
}

// What operators see of a follower: how far it is, and how long it took over the last
// event, if it was there for it.
func TestFollowers_Lag(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		at := w.begin(w.Server)
		ask := func(instance string, after int64) {
			t.Helper()
			q := oauth.FeedQuery{Instance: instance, After: after, Epoch: at.Epoch}
			if after == 0 {
				q.Epoch = 0
			}
			if _, err := w.Revocations(ctx, w.api, q); err != nil {
				t.Fatal(err)
			}
		}
		lags := func() map[string]time.Duration {
			t.Helper()
			w.must(w.NoteFollowers(ctx))
			list, err := w.Followers(ctx, command)
			w.must(err)
			all := map[string]time.Duration{}
			for _, f := range list {
				all[f.Instance] = f.Lag
			}
			return all
		}
		if _, err := w.Followers(ctx, alice); reason(err) != oauth.NotPermitted {
			t.Errorf("a user sees the followers: %v", err)
		}
		began := time.Now()
		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.must(w.Follow(ctx))
		ask("test", at.Seq)
		ages(w.Server, 20*time.Millisecond)
		ask("test", at.Seq+1)
		ask("since", 0)
		ask("since", at.Seq+1)
		if got, most := lags(), time.Since(began); got["test"] < 20*time.Millisecond || got["test"] > most || got["since"] != 0 {
			t.Errorf("%v, within %v", got, most)
		}
		began = time.Now()
		w.must(w.ResumeClient(ctx, command, w.other.id))
		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.must(w.Follow(ctx))
		ages(w.Server, time.Millisecond)
		ask("test", at.Seq+2) // of the two events the first: it came with the second
		if got := lags(); got["test"] <= 0 || got["test"] > time.Since(began) {
			t.Errorf("%v", got)
		}
		// It is late with one event, and another has come since.
		w.must(w.ResumeClient(ctx, command, w.other.id))
		w.must(w.Follow(ctx))
		ages(w.Server, 20*time.Millisecond)
		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.must(w.Follow(ctx))
		ask("test", at.Seq+4)
		if got := lags(); got["test"] < 20*time.Millisecond {
			t.Errorf("%v", got)
		}
		w.clock.advance(2 * time.Minute)
		if list, err := w.Followers(ctx, command); err != nil || len(list) != 0 {
			t.Errorf("those that are gone: %+v, %v", list, err)
		}
	})
}

// counting is a storage beside which something happens after followers were counted.
type counting struct {
	oauth.Storage
	happens func()
}

func (c *counting) CountFollowers(ctx context.Context, since time.Time) (oauth.Followed, error) {
	f, err := c.Storage.CountFollowers(ctx, since)
	happen(&c.happens)
	return f, err
}

// It is waited for what had happened when the wait began, and not for what happens
// since; and for a follower of which a node heard last whose clock is behind by most
// of a minute.
func TestEffective_WhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		at := w.begin(w.Server)
		acks := func(seq int64) {
			t.Helper()
			w.note(oauth.Follower{API: w.api.ID, Instance: "test", Epoch: at.Epoch, Seq: seq, Seen: w.Now().Add(-59 * time.Second), Node: "behind"})
		}
		w.must(w.SuspendClient(ctx, command, w.other.id))
		storage := &counting{Storage: w.db}
		storage.happens = func() {
			w.must(w.ResumeClient(ctx, command, w.other.id))
			acks(at.Seq + 1)
		}
		s := w.office(storage)
		acks(at.Seq)
		if e, err := s.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 1 {
			t.Errorf("%+v, %v", e, err)
		}
		if e, err := s.Effective(ctx); err != nil || e.Everywhere || e.Followers != 1 {
			t.Errorf("the second event: %+v, %v", e, err)
		}
	})
}

// silent is a storage that takes events, and then does not say who follows.
type silent struct {
	oauth.Storage
	down   bool
	counts int // how often it still says who follows
}

func (s *silent) Head(ctx context.Context) (int64, int64, error) {
	if s.down {
		return 0, 0, oauth.ErrUnavailable
	}
	return s.Storage.Head(ctx)
}

func (s *silent) CountFollowers(ctx context.Context, since time.Time) (oauth.Followed, error) {
	if s.counts--; s.counts < 0 {
		<-ctx.Done()
		return oauth.Followed{}, ctx.Err()
	}
	return s.Storage.CountFollowers(ctx, since)
}

// A count that fails, as the last one does when the bound ends it, says nothing of
// those that were counted before.
func TestEffective_TheLastCountFails(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		w.begins(w.Server, "one")
		s := w.office(&silent{Storage: w.db, counts: 2})
		if e, err := s.Effective(context.Background()); err != nil || e.Everywhere || e.Followers != 1 {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// What was revoked stays revoked though the database is away when it is asked who has
// acknowledged it: the bound holds without it.
func TestEffective_DatabaseAway(t *testing.T) {
	t.Parallel()
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.office(&silent{Storage: w.db, down: true})
		began := time.Now()
		if e, err := s.Effective(context.Background()); err != nil || e.Everywhere || time.Since(began) < bound {
			t.Errorf("%+v, %v, after %v", e, err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if e, err := s.Effective(ctx); !errors.Is(err, context.Canceled) || e.Everywhere {
			t.Errorf("nobody waits any longer: %+v, %v", e, err)
		}
	})
}
