package sqlstore

import "context"

// room is how many connections to PostgreSQL are used at once, and by whom; the sessions
// of commands, and of a node's start, take theirs beside it. What is asked for anybody
// takes one of those of all. Some are kept: the feed reads its one sentence every 40 ms
// beside however many strangers ask, for when it is 100 ms old every cache is off, each of
// them asks more than before, and every verifier's lease ends. Whoever has a share may take
// a place of all as well.
type room struct {
	all  chan struct{}
	kept [shares]chan struct{}
}

// share names what connections are kept for. Each Store method says by it for whom it
// asks, and whoever does not say so asks for anybody.
type share int

const (
	// forFeed is what a node's knowledge of the present rests on. Of each such question
	// one is out at a time, so that no number of callers heaps them up.
	forFeed share = iota
	// forAPIs is asked by who has shown the secret of an API. A wrong one never is: how
	// it is told is [Store.Asked].
	forAPIs
	// forKeys is what such a one asks about a key, in company with all who do at that
	// moment. It has the connections of forAPIs.
	forKeys
	shares
)

const (
	allMost  = 16 // an uncapped pool runs the server out of clients under races (measured)
	feedMost = 3  // a beat that waits for its commit, or a rehearsal, and two for all that is over at once
	apisMost = 3
	poolMax  = allMost + feedMost + apisMost
)

func newRoom() room {
	apis := make(chan struct{}, apisMost)
	return room{make(chan struct{}, allMost), [shares]chan struct{}{forFeed: make(chan struct{}, feedMost), forAPIs: apis, forKeys: apis}}
}

type shareKey struct{}

// of marks what is asked with ctx as having the share.
func (s share) of(ctx context.Context) context.Context { return context.WithValue(ctx, shareKey{}, s) }

func (s share) has(ctx context.Context) bool { return ctx.Value(shareKey{}) == any(s) }

// take waits for a place, which is left by receiving from it.
func (r *room) take(ctx context.Context) (place chan struct{}, err error) {
	var own chan struct{} // nil is never free
	if s, has := ctx.Value(shareKey{}).(share); has {
		own = r.kept[s]
	}
	select {
	case own <- struct{}{}:
		return own, nil
	default:
	}
	select {
	case own <- struct{}{}:
		return own, nil
	case r.all <- struct{}{}:
		return r.all, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
