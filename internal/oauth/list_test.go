package oauth_test

import (
	"context"
	"errors"
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
	happen(&r.happens)
	return stored, err
}

// What happens while a list is read for the first time is in it, though the reading
// did not see it.
func TestList_AnEventWhileItIsRead(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		ended, kept := w.connect(w.exchange, "alice", "s1"), w.connect(w.other, "alice", "s1")
		storage := &reading{Storage: w.db}
		node := w.office(storage)
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
	})
}

// What the database has dropped no node serves or keeps for long.
func TestList_GoneFromTheDatabase(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		stays, goes := w.place(w.connect(w.exchange, "alice", "s1").AccessToken), w.place(w.connect(w.standard, "alice", "s1").AccessToken)
		has := func(ref oauth.StatusRef, want error) {
			t.Helper()
			if _, err := w.StatusList(ctx, ref.URI[strings.LastIndex(ref.URI, "/")+1:]); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", ref.URI, err, want)
			}
		}
		has(stays, nil)
		has(goes, nil)
		w.must(w.ForgetLists(ctx))
		has(goes, nil)
		exec(t, w.raw(), "UPDATE status_lists SET kind = 'gone' WHERE kind = 'family'")
		w.must(w.ForgetLists(ctx))
		has(stays, nil)
		has(goes, oauth.ErrNoList)
	})
}
