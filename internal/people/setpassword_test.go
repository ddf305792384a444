package people_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

const other = "another horse battery"

func (w *world) set(actor oauth.Actor, user, password string) oauth.Reason {
	w.t.Helper()
	_, err := w.SetPassword(w.context(), actor, user, password)
	if m := mistakes(err); len(m) == 1 {
		return m["password"]
	}
	if err != nil && oauth.ReasonOf(err) == "" {
		w.t.Fatal(err)
	}
	return oauth.ReasonOf(err)
}

// beside is another program on the same database: what one of them hashes, the other
// does not wait for.
func (w *world) beside() *world {
	b := &world{t: w.t, db: w.db, house: w.house, now: w.now, Service: people.New(people.Config{Storage: w.db, Server: w.house})}
	b.Cheap(8)
	return b
}

func TestSetPassword(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	w.account(people.NewAccount{Name: "Bob", Email: "bob@example.com", Password: good})
	_, cookie := w.signedIn(address)
	_, bobs := w.signedIn("bob@example.com")
	if got := w.set(command, u.ID, other); got != "" {
		t.Fatal(got)
	}
	if a, b := w.session(cookie), w.session(bobs); a != oauth.NotSignedIn || b != "" {
		t.Errorf("a session of before %q, another user's %q", a, b)
	}
	w.want(address, good, home, people.ReasonCredentials)
	w.want(address, other, home, "")
	w.want("bob@example.com", good, home, "")
	list := w.events(oauth.EventPasswordSet)
	if len(list) != 1 || list[0].UserID != u.ID || list[0].Actor != "command" || list[0].Payload != nil || list[0].Seq != 0 {
		t.Errorf("events: %+v", list)
	}
	// By the hash of before nobody can tell what it is now.
	l, err := w.db.LoginOf(t.Context(), people.ByPassword, u.ID)
	if err != nil || !strings.HasPrefix(l.Credential, "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Errorf("stored %+v, %v", l, err)
	}
}

// Whoever guessed himself out is let in by the new password at once, wherever he sits and
// whoever guesses beside him. What one network guessed at all accounts still counts.
func TestSetPassword_GuessesAtTheOldOneCountNoMore(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	for i := range 50 {
		w.want(address, "a guess", fmt.Sprintf("198.51.%d.1", i), people.ReasonCredentials)
	}
	w.wantLocked(address, home, 15*time.Minute)
	if got := w.set(command, u.ID, other); got != "" {
		t.Fatal(got)
	}
	w.want(address, other, home, "")
	for range 5 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.wantLocked(address, home, 30*time.Second)
	if got := w.set(command, u.ID, good); got != "" {
		t.Fatal(got)
	}
	w.want(address, good, home, "")
	for i := range 95 {
		w.want(fmt.Sprintf("somebody%d@example.com", i), "a guess", home, people.ReasonCredentials)
	}
	if got := w.set(command, u.ID, other); got != "" {
		t.Fatal(got)
	}
	w.wantLocked(address, home, time.Hour)
}

func TestSetPassword_Refuses(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	_, cookie := w.signedIn(address)
	bare := w.account(people.NewAccount{Name: "Bare", Email: "bare@example.com"})
	guest := &oauth.User{ID: "guest", Kind: oauth.Guest, Status: oauth.Active}
	if won, err := w.db.CreateUser(t.Context(), guest, oauth.Event{ID: "ev_guest", At: morning, Kind: oauth.EventUserCreated}); err != nil || !won {
		t.Fatal(won, err)
	}
	before := len(w.events(""))
	for name, c := range map[string]struct {
		actor          oauth.Actor
		user, password string
		want           oauth.Reason
	}{
		"nobody":              {oauth.Actor{}, u.ID, other, oauth.NotPermitted},
		"oneself":             {oauth.Actor{Kind: oauth.AsUser, ID: u.ID}, u.ID, other, oauth.NotPermitted},
		"an operator":         {oauth.Actor{Kind: oauth.AsOperator, ID: "op"}, u.ID, other, oauth.NotPermitted},
		"a client":            {oauth.Actor{Kind: oauth.AsClient, ID: u.ID}, u.ID, other, oauth.NotPermitted},
		"an unknown user":     {command, "unknown", other, oauth.NoSuch},
		"an address":          {command, address, other, oauth.NoSuch},
		"one without any":     {command, bare.ID, other, people.ReasonNoPassword},
		"a guest":             {command, guest.ID, other, people.ReasonNoPassword},
		"none":                {command, u.ID, "", oauth.FieldRequired},
		"a short one":         {command, u.ID, "1234567", people.ReasonPasswordShort},
		"a long one":          {command, u.ID, strings.Repeat("x", 257), people.ReasonPasswordLong},
		"his own e-mail":      {command, u.ID, strings.ToUpper(address), people.ReasonPasswordEmail},
		"a common one":        {command, u.ID, "Password123", people.ReasonPasswordCommon},
		"what is no text":     {command, u.ID, "\xff\xff\xff\xff\xff\xff\xff\xff", oauth.FieldUnclean},
		"of a name like SQL%": {command, "%", other, oauth.NoSuch},
	} {
		if got := w.set(c.actor, c.user, c.password); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if got := w.session(cookie); got != "" || len(w.events("")) != before {
		t.Errorf("a refusal ended a session (%q), or is an event", got)
	}
	w.want(address, good, home, "")
}

// A suspended user has the new password when he is resumed.
func TestSetPassword_OfASuspendedUser(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	if err := w.house.SuspendUser(t.Context(), command, u.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.set(command, u.ID, other); got != "" {
		t.Fatal(got)
	}
	w.want(address, other, home, oauth.UserSuspended)
	w.want(address, good, home, people.ReasonCredentials)
	if err := w.house.ResumeUser(t.Context(), command, u.ID); err != nil {
		t.Fatal(err)
	}
	w.want(address, other, home, "")
}

// Who is signing in by the old password when another is set is told that it is wrong.
func TestSetPassword_BesideASignIn(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(w *world, id string)
		want      oauth.Reason
	}{
		"another is set": {func(w *world, id string) { w.set(command, id, other) }, people.ReasonCredentials},
		"another is set, and he is suspended": {func(w *world, id string) {
			w.set(command, id, other)
			if err := w.house.SuspendUser(w.context(), command, id); err != nil {
				w.t.Error(err)
			}
		}, people.ReasonCredentials},
		"he is suspended": {func(w *world, id string) {
			if err := w.house.SuspendUser(w.context(), command, id); err != nil {
				w.t.Error(err)
			}
		}, oauth.UserSuspended},
		"it is hashed anew": {func(w *world, _ string) {
			w.Cheap(16)
			w.want(address, good, home, "")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			u := w.ada()
			beside := w.beside()
			entered, release := w.HoldHashes(1)
			done := make(chan oauth.Reason)
			go func() {
				_, _, err := w.SignIn(t.Context(), people.SignIn{Email: address, Password: good, IP: home})
				done <- oauth.ReasonOf(err)
			}()
			<-entered
			c.meanwhile(beside, u.ID)
			close(release)
			if got := <-done; got != c.want {
				t.Errorf("the sign-in: %q, want %q", got, c.want)
			}
			if refused := w.events(oauth.EventSignInRefused); (len(refused) == 1) != (c.want != "") || c.want != "" && refused[0].UserID != u.ID {
				t.Errorf("refusals: %+v", refused)
			}
		})
	}
}

// Of two who set one at once the first wins, and the other is told.
func TestSetPassword_OneWinner(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	beside := w.beside()
	entered, release := w.HoldHashes(1)
	done := make(chan oauth.Reason)
	go func() {
		_, err := w.SetPassword(t.Context(), command, u.ID, "the second of two")
		done <- oauth.ReasonOf(err)
	}()
	<-entered
	if got := w.set(command, u.ID, other); got != people.ReasonBusy { // the queue is full
		t.Errorf("beyond the queue: %q", got)
	}
	if got := beside.set(command, u.ID, other); got != "" {
		t.Error(got)
	}
	close(release)
	if got := <-done; got != people.ReasonPasswordSet {
		t.Errorf("the second: %q", got)
	}
	beside.want(address, "the second of two", home, people.ReasonCredentials)
	beside.want(address, other, home, "")
	if n := len(w.events(oauth.EventPasswordSet)); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

// After a restore from a backup of before, the old password does not live again where
// the log is replayed. The one that was set is in no log: nobody knows any, until one is set.
func TestSetPassword_Restored(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	u := w.ada()
	w.account(people.NewAccount{Name: "Bob", Email: "bob@example.com", Password: good})
	file, log := filepath.Join(t.TempDir(), "backup"), new(bytes.Buffer)
	if _, err := w.db.Backup(ctx, file, sqlstore.Archive{Made: w.time()}, nil); err != nil {
		t.Fatal(err)
	}
	w.pass(5 * time.Second)
	w.set(command, u.ID, other)
	end, err := oauth.ReadLog(log, nil)
	if err != nil {
		t.Fatal(err)
	}
	x, err := w.house.ExportAfter(ctx, command, end)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Next(ctx, log, true); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), other) || strings.Contains(log.String(), "argon2id") {
		t.Errorf("the log holds a password: %s", log)
	}
	r, err := sqlstore.Restore(ctx, file, filepath.Join(t.TempDir(), "restored.db"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Abandon()
	rec, err := oauth.Recover(ctx, r.Store, w.time(), bytes.NewReader(make([]byte, 1<<10)), r.Made, log)
	if err != nil || rec.Changed != 1 {
		t.Fatalf("replayed %+v, %v", rec, err)
	}
	back := w.beside()
	back.db, back.Service = r.Store, people.New(people.Config{Storage: r.Store, Server: w.house})
	back.Cheap(8)
	hashes := back.CountHashes()
	for i, password := range []string{good, other, ""} {
		back.want(address, password, home, people.ReasonCredentials)
		if n := hashes.Load(); n != int64(i+1) {
			t.Errorf("%d passwords were hashed for, of %d", n, i+1)
		}
	}
	back.want("bob@example.com", good, home, "")
	l, err := r.Store.LoginOf(ctx, people.ByPassword, u.ID)
	if err != nil {
		t.Fatal(err)
	}
	if won, err := r.Store.SetPassword(ctx, l, "x", oauth.Event{ID: "ev_x", At: w.time(), Kind: oauth.EventPasswordSet}); err != nil || !won {
		t.Errorf("another cannot be set: %v, %v", won, err)
	}
}
