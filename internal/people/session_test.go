package people_test

import (
	"os"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

func (w *world) session(cookie string) oauth.Reason {
	w.t.Helper()
	_, err := w.Session(w.context(), cookie)
	if err != nil && oauth.ReasonOf(err) == "" {
		w.t.Fatal(err)
	}
	return oauth.ReasonOf(err)
}

func TestSession(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	made, cookie := w.signedIn(address)
	w.pass(time.Hour)
	s, err := w.Session(t.Context(), cookie)
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != made.ID || *s.User != *u || !s.AuthTime.Equal(morning) || !s.Expires.Equal(made.Expires) {
		t.Errorf("session %+v of %+v, want %+v of %+v", *s, *s.User, *made, *u)
	}
	last := cookie[len(cookie)-1]
	for name, c := range map[string]string{
		"none": "", "selector alone": cookie[:22], "another verifier": cookie[:22] + cookie[23:] + "A", "last character": cookie[:64] + string(last^1),
		"unknown": "B" + cookie[1:], "too long": cookie + "A", "the session's name": s.ID,
	} {
		if got := w.session(c); got != oauth.NotSignedIn {
			t.Errorf("%s: %q, want %s", name, got, oauth.NotSignedIn)
		}
	}
}

// Fourteen days from the sign-in, used or not.
func TestSession_Life(t *testing.T) {
	w := newWorld(t)
	w.ada()
	_, cookie := w.signedIn(address)
	w.pass(14*24*time.Hour - time.Microsecond)
	if got := w.session(cookie); got != "" {
		t.Errorf("just before its end: %q", got)
	}
	w.pass(time.Microsecond)
	if got := w.session(cookie); got != oauth.NotSignedIn {
		t.Errorf("at its end: %q, want %s", got, oauth.NotSignedIn)
	}
}

// Looking at a session leaves the database's files as they are.
func TestSession_WritesNothing(t *testing.T) {
	w := newWorld(t)
	w.ada()
	_, cookie := w.signedIn(address)
	size := func() (n int64) {
		t.Helper()
		for _, file := range []string{w.path, w.path + "-wal"} {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			n += info.Size()
		}
		return n
	}
	before := size()
	for range 50 {
		w.session(cookie)
		w.session("B" + cookie[1:])
	}
	if size() != before {
		t.Error("the files grew")
	}
	w.signedIn(address)
	if size() == before {
		t.Error("this test cannot see a write")
	}
}

func TestSignOut(t *testing.T) {
	w := newWorld(t)
	w.ada()
	s, cookie := w.signedIn(address)
	_, other := w.signedIn(address)
	for range 2 { // the second time it has ended already
		if err := w.SignOut(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := w.session(cookie), w.session(other); a != oauth.NotSignedIn || b != "" {
		t.Errorf("the session %q, the other %q", a, b)
	}
	if n := len(w.events(people.EventSignedOut)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

func TestEndSessions(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	w.account(people.NewAccount{Name: "Bob", Email: "bob@example.com", Password: good})
	_, bobs := w.signedIn("bob@example.com")
	for _, c := range []struct {
		actor oauth.Actor
		may   bool
	}{
		{oauth.Actor{}, false},
		{oauth.Actor{Kind: oauth.AsUser, ID: "bob"}, false},
		{oauth.Actor{Kind: oauth.AsClient, ID: u.ID}, false},
		{oauth.Actor{Kind: oauth.AsUser, ID: u.ID}, true},
		{oauth.Actor{Kind: oauth.AsOperator, ID: "op"}, true},
		{command, true},
	} {
		_, cookie := w.signedIn(address)
		err := w.EndSessions(t.Context(), c.actor, u.ID)
		want := oauth.Reason("")
		if !c.may {
			want = oauth.NotPermitted
		}
		if oauth.ReasonOf(err) != want || err != nil && c.may {
			t.Errorf("as %v: %v, want %q", c.actor, err, want)
		}
		if ended := w.session(cookie) == oauth.NotSignedIn; ended != c.may {
			t.Errorf("as %v: ended %v, want %v", c.actor, ended, c.may)
		}
	}
	if got := w.session(bobs); got != "" {
		t.Errorf("another user's session: %q", got)
	}
}
