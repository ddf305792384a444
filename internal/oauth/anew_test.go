package oauth

import (
	"context"
	"testing"
	"time"
)

// A list that was read before the feed began anew is not signed as of after it.
func TestPrint_AListOfBefore(t *testing.T) {
	s := &Server{now: time.Now}
	l := &list{number: 1}
	s.feed.lists = map[int64]*list{1: {number: 1}}
	if printed, err := s.print(l); err == nil || AsError(err).Reason != FeedUnknown {
		t.Errorf("%q, %v", printed, err)
	}
}

// An API whose processes are too many gets no more of them, and takes no room of others.
func TestFollows_Bounded(t *testing.T) {
	s := &Server{now: time.Now}
	s.followers.init()
	for range followersMax {
		s.followers.of["api"]++
	}
	if err := s.follows(context.Background(), &API{ID: "api"}, FeedQuery{Instance: "one more"}); err == nil || AsError(err).Reason != FeedUnknown {
		t.Error(err)
	}
}
