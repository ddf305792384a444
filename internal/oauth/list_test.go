package oauth_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// reading is a storage beside which something happens while it answers for a list:
// after it looked, and before its answer is there.
type reading struct {
	oauth.Storage
	happens func()
}

func (r *reading) StatusList(ctx context.Context, number, folded int64) (*oauth.StoredList, error) {
	stored, err := r.Storage.StatusList(ctx, number, folded)
	if f := r.happens; f != nil {
		r.happens = nil
		f()
	}
	return stored, err
}

// readingNode is another node of w, which has read no list yet.
func (w *world) readingNode() (*oauth.Server, *reading) {
	w.t.Helper()
	ring, err := oauth.ParseKeyRing(w.ring)
	w.must(err)
	storage := &reading{Storage: w.db}
	node, err := oauth.New(context.Background(), oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage,
		Ring: ring, Now: w.clock.now, Rand: newRand("reading " + w.t.Name())})
	w.must(err)
	return node, storage
}

// The log of a node holds 2^16 changes: these are more.
const floodEvents, floodEach = 9, 1 << 13

// flood has so many events happen to the API's keys in a list that nobody has that the
// log of a node that follows forgets some, and returns the feed's sequence.
func (w *world) flood() int64 {
	t := w.t.(*testing.T)
	t.Helper()
	raw := w.raw()
	seq, _, err := w.db.Head(context.Background())
	w.must(err)
	for range floodEvents {
		seq++
		_, err := raw.Exec(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
			INSERT INTO status_changes (seq, status_index, api, value, at) SELECT ?, ? + i, ?, 1, ? FROM n`, floodEach-1, seq, int64(2048)<<20, w.api.ID, start.UnixMicro())
		w.must(err)
		exec(t, raw, "INSERT INTO events (id, seq, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload) VALUES (?, ?, ?, 'user.suspended', '', '', '', '', '', '', '')",
			fmt.Sprint("flood", seq), seq, start.UnixMicro())
		exec(t, raw, "UPDATE heads SET seq = ? WHERE name = 'feed'", seq)
	}
	return seq
}

// What happens while a list is read for the first time is in it, though the reading
// did not see it.
func TestList_AnEventWhileItIsRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	ended, kept := w.connect(w.exchange, "alice", "s1"), w.connect(w.other, "alice", "s1")
	node, storage := w.readingNode()
	w.must(node.Follow(ctx))
	storage.happens = func() {
		w.must(w.SuspendGrant(ctx, command, ended.GrantID))
		w.must(w.RevokeGrant(ctx, command, ended.GrantID))
		w.must(w.SuspendGrant(ctx, command, kept.GrantID))
		w.must(w.ResumeGrant(ctx, command, kept.GrantID))
		w.must(node.Follow(ctx))
	}
	if v, seq := w.bit(node, ended.AccessToken); v != byte(oauth.StatusInvalid) || seq != node.FeedSeq() {
		t.Errorf("a key that ended meanwhile is %d as of %d, and the feed at %d", v, seq, node.FeedSeq())
	}
	if v, _ := w.bit(node, kept.AccessToken); v != byte(oauth.StatusValid) {
		t.Errorf("a key that was suspended and resumed meanwhile is %d", v)
	}
}

// Two who read a list for the first time at once have one list afterwards, which
// events find.
func TestList_ReadTwiceAtOnce(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1")
	node, storage := w.readingNode()
	w.must(node.Follow(ctx))
	storage.happens = func() {
		if v, _ := w.bit(node, key.AccessToken); v != byte(oauth.StatusValid) { // is quicker
			t.Errorf("%d", v)
		}
		w.must(w.RevokeGrant(ctx, command, key.GrantID))
		// The log forgets what the slower one would have to catch up with.
		w.flood()
		w.must(node.Follow(ctx))
	}
	for range 2 {
		if v, seq := w.bit(node, key.AccessToken); v != byte(oauth.StatusInvalid) || seq != node.FeedSeq() {
			t.Errorf("%d as of %d, and the feed at %d", v, seq, node.FeedSeq())
		}
	}
}

// When so much happens while a list is read that the log has forgotten some of it,
// nothing is said, and the next reading is right.
func TestList_TooMuchWhileItIsRead(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	key := w.connect(w.exchange, "alice", "s1")
	node, storage := w.readingNode()
	w.must(node.Follow(ctx))
	storage.happens = func() {
		w.must(w.RevokeGrant(ctx, command, key.GrantID))
		w.flood()
		w.must(node.Follow(ctx))
	}
	ref := w.place(key.AccessToken)
	if list, err := node.StatusList(ctx, ref.URI[strings.LastIndex(ref.URI, "/")+1:]); reason(err) != oauth.FeedUnknown {
		t.Errorf("it says %.20s, %v", list, err)
	}
	if v, _ := w.bit(node, key.AccessToken); v != byte(oauth.StatusInvalid) {
		t.Errorf("then %d", v)
	}
}

// A log that is full forgets whole events: from wherever a follower asks on, it is told
// each change once.
func TestFeed_TheLogIsFull(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := newWorld(t)
	at := w.begin(w.Server)
	last := w.flood()
	w.must(w.Follow(ctx))
	for after := at.Seq; after <= last; after++ {
		got, from := map[int64]int{}, after
		for more := true; more; {
			p, err := w.poll(w.Server, at.Epoch, from)
			w.must(err)
			if p == nil {
				break
			}
			for _, c := range p.Changes {
				got[c.Seq]++
			}
			if from, more = p.Seq, p.More; len(p.Changes)%floodEach != 0 {
				t.Fatalf("after %d: %d changes up to %d", after, len(p.Changes), p.Seq)
			}
		}
		for seq := after + 1; seq <= last; seq++ {
			if got[seq] != floodEach {
				t.Errorf("after %d: %d changes of %d", after, got[seq], seq)
			}
			delete(got, seq)
		}
		if len(got) > 0 || from != last {
			t.Errorf("after %d it is told of %v besides, up to %d", after, got, from)
		}
	}
}
