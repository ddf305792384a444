package people_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// An unknown address, one without a password and a wrong password get one answer,
// after one call of the hash function with the same parameters (attack C7).
func TestSignIn_UnknownAddressLooksLikeWrongPassword(t *testing.T) {
	w := newWorld(t)
	w.ada()
	w.account(people.NewAccount{Name: "Bare", Email: "bare@example.com"})
	params := w.RecordParams()
	var said []string
	for _, email := range []string{address, "nobody@example.com", "bare@example.com"} {
		_, _, err := w.SignIn(t.Context(), people.SignIn{Email: email, Password: "wrong password", IP: home})
		e, ok := errors.AsType[*oauth.Error](err)
		if !ok || e.Reason != people.ReasonCredentials {
			t.Fatalf("%s: %v", email, err)
		}
		said = append(said, fmt.Sprintf("%+v", *e))
	}
	if said[0] != said[1] || said[0] != said[2] {
		t.Errorf("three answers: %q", said)
	}
	if len(*params) != 3 || (*params)[0] != (*params)[1] || (*params)[0] != (*params)[2] {
		t.Errorf("the hash function was called with %q, want three times the same", *params)
	}
	refused := w.events(oauth.EventSignInRefused)
	if len(refused) != 3 {
		t.Errorf("%d events of refusal, want 3", len(refused))
	}
	if got := w.try("not an address", good, home); got != people.ReasonCredentials {
		t.Errorf("what is no address: %q", got)
	}
}

func TestSignIn_EachSessionIsNew(t *testing.T) {
	w := newWorld(t)
	w.ada()
	a, first := w.signedIn(address)
	w.pass(time.Hour)
	b, second := w.signedIn(address)
	if a.ID == b.ID || first == second {
		t.Error("two sign-ins share a session")
	}
	if !b.AuthTime.Equal(morning.Add(time.Hour)) {
		t.Errorf("auth time %v", b.AuthTime)
	}
	for _, cookie := range []string{first, second} {
		if _, err := w.Session(t.Context(), cookie); err != nil {
			t.Error(err)
		}
	}
}

func TestSignIn_Suspended(t *testing.T) {
	w := newWorld(t)
	u := w.ada()
	_, cookie := w.signedIn(address)
	if err := w.house.SuspendUser(t.Context(), command, u.ID); err != nil {
		t.Fatal(err)
	}
	w.want(address, good, home, oauth.UserSuspended)
	w.want(address, "a guess", home, people.ReasonCredentials)
	if _, err := w.Session(t.Context(), cookie); oauth.ReasonOf(err) != oauth.NotSignedIn {
		t.Errorf("session of a suspended user: %v", err)
	}
	if err := w.house.ResumeUser(t.Context(), command, u.ID); err != nil {
		t.Fatal(err)
	}
	w.want(address, good, home, "")
}

// Five failures, then waits that double from 30 s up to a quarter of an hour. While
// one waits no password is looked at.
func TestSignIn_WaitsDouble(t *testing.T) {
	w := newWorld(t)
	w.ada()
	hashes := w.CountHashes()
	for range 4 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	for _, wait := range []time.Duration{30, 60, 120, 240, 480, 900, 900, 900} {
		w.want(address, "a guess", home, people.ReasonCredentials)
		before, events := hashes.Load(), len(w.events(""))
		w.wantLocked(address, home, wait*time.Second)
		w.wantLocked(address, "192.0.2.200", wait*time.Second) // the same /24
		w.pass(wait*time.Second - time.Microsecond)
		w.wantLocked(address, home, time.Microsecond)
		if hashes.Load() != before || len(w.events("")) != events {
			t.Fatal("somebody who waits was hashed for, or written down")
		}
		w.pass(time.Microsecond)
	}
	// Never for ever: the right password opens, and everything is forgotten.
	w.want(address, good, home, "")
	for range 4 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.want(address, good, home, "")
}

// A day after the first failure the count begins anew.
func TestSignIn_FailuresAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.ada()
	for range 4 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.pass(24 * time.Hour)
	for range 5 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.wantLocked(address, home, 30*time.Second)
}

// Who guesses from elsewhere does not keep the owner out.
func TestSignIn_AttackerDoesNotLockTheOwnerOut(t *testing.T) {
	w := newWorld(t)
	w.ada()
	for range 5 {
		w.want(address, "a guess", "203.0.113.66", people.ReasonCredentials)
	}
	w.wantLocked(address, "203.0.113.66", 30*time.Second)
	w.want(address, good, home, "")
	w.wantLocked(address, "203.0.113.66", 30*time.Second)
}

// Fifty failures an hour from anywhere, then a quarter of an hour at a time.
func TestSignIn_CapOfTheAddress(t *testing.T) {
	w := newWorld(t)
	w.ada()
	w.account(people.NewAccount{Name: "Bob", Email: "bob@example.com", Password: good})
	from := 0
	guess := func() {
		t.Helper()
		from++
		w.want(address, "a guess", fmt.Sprintf("198.51.%d.1", from), people.ReasonCredentials)
	}
	hotels := 0
	hotel := func() string { hotels++; return fmt.Sprintf("203.0.%d.1", hotels) } // where she never was
	for range 49 {
		guess()
	}
	w.want(address, good, hotel(), "") // a success is not the fiftieth failure
	guess()
	w.wantLocked(address, hotel(), 15*time.Minute)
	w.want("bob@example.com", good, hotel(), "")
	w.pass(15 * time.Minute)
	guess() // the fifty-first within the hour
	w.wantLocked(address, hotel(), 15*time.Minute)
	w.pass(15 * time.Minute)
	w.want(address, good, hotel(), "") // open, and it stays so for the next
	w.want(address, good, hotel(), "")
	w.pass(30 * time.Minute) // the hour is over
	for range 49 {
		guess()
	}
	w.want(address, good, hotel(), "")
}

// Whoever guesses from ever more networks, day and night, closes an address to those
// that are new to it, and never to the one from where its owner signs in.
func TestSignIn_ManyNetworksDoNotLockTheOwnerOut(t *testing.T) {
	w := newWorld(t)
	w.ada()
	w.want(address, good, home, "")
	from, shut := 0, 0
	const days = 2
	for range days * 24 * 4 {
		for range 50 {
			from++
			if w.try(address, "a guess", fmt.Sprintf("2001:db8:%x:%x::1", from>>8, from&255<<8)) != people.ReasonCredentials {
				break
			}
		}
		if w.try(address, good, "203.0.113.1") == people.ReasonLocked {
			shut++
		}
		w.want(address, good, "192.0.2.200", "") // his /24
		w.pass(15 * time.Minute)
	}
	if shut < days*24*4-10 {
		t.Errorf("the address was closed to others %d times only: this shows nothing", shut)
	}
	// There, too, guessing is slowed.
	for range 5 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.wantLocked(address, home, 30*time.Second)
	// Where somebody else has signed in, she is as new as anywhere.
	w.account(people.NewAccount{Name: "Bob", Email: "bob@example.com", Password: good})
	w.want("bob@example.com", good, "203.0.113.1", "")
	for range 50 {
		from++
		w.try(address, "a guess", fmt.Sprintf("2001:db8:%x:%x::1", from>>8, from&255<<8))
	}
	if got := w.try(address, good, "203.0.113.1"); got != people.ReasonLocked {
		t.Errorf("from where another has signed in: %q", got)
	}
}

// From where he signed up, or in by a password that is another by now, too: whoever is
// under attack is given a new one.
func TestSignIn_FamiliarBeforeAnotherPassword(t *testing.T) {
	w := newWorld(t)
	session, _, err := w.SignUp(t.Context(), people.SignUp{Name: "Ada", Email: address, Password: good, IP: home})
	if err != nil {
		t.Fatal(err)
	}
	attacked := func() {
		t.Helper()
		for i := range 50 {
			w.want(address, "a guess", fmt.Sprintf("198.51.%d.1", i), people.ReasonCredentials)
		}
		w.wantLocked(address, "203.0.113.1", 15*time.Minute)
	}
	attacked()
	w.want(address, good, home, "")
	const another = "another horse battery"
	if _, err := w.SetPassword(t.Context(), oauth.Actor{Kind: oauth.AsCommand}, session.User.ID, another); err != nil {
		t.Fatal(err)
	}
	attacked()
	w.want(address, another, home, "")
}

// Where he was last more than 90 days ago he is a stranger again.
func TestSignIn_FamiliarForNinetyDays(t *testing.T) {
	for days, want := range map[int]oauth.Reason{89: "", 90: people.ReasonLocked} {
		w := newWorld(t)
		w.ada()
		w.want(address, good, home, "")
		w.pass(time.Hour)
		w.want(address, good, home, "") // it counts from the last time
		w.pass(time.Duration(days) * 24 * time.Hour)
		for i := range 50 {
			w.want(address, "a guess", fmt.Sprintf("198.51.%d.1", i), people.ReasonCredentials)
		}
		if got := w.try(address, good, home); got != want {
			t.Errorf("after %d days: %q, want %q", days, got, want)
		}
	}
}

// A hundred failures an hour from one address, whoever they are for.
func TestSignIn_CapOfTheNetwork(t *testing.T) {
	w := newWorld(t)
	w.ada()
	for i := range 100 {
		w.want(fmt.Sprintf("somebody%d@example.com", i), "a guess", home, people.ReasonCredentials)
		if i == 50 {
			w.want(address, good, home, "") // a success does not count, nor does it clear
		}
	}
	w.wantLocked(address, home, time.Hour)
	w.want(address, good, "192.0.2.8", "") // a neighbour in the same /24
	w.pass(time.Hour)
	w.want(address, good, home, "")
}

func TestSignIn_Networks(t *testing.T) {
	for _, c := range []struct {
		name, a, b string
		same       bool
	}{
		{"one /24", "192.0.2.1", "192.0.2.254", true},
		{"two /24", "192.0.2.1", "192.0.3.1", false},
		{"one /56", "2001:db8:1:ff00::1", "2001:db8:1:ffff::2", true},
		{"two /56", "2001:db8:1:ff00::1", "2001:db8:1:fe00::1", false},
		{"IPv4 written as IPv6", "::ffff:192.0.2.1", "192.0.2.1", true},
		{"with a zone", "fe80::1%eth0", "fe80::1", true},
		{"what is no address", "", "somewhere", true},
		{"what is no address, and one", "", "192.0.2.1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.ada()
			for range 5 {
				w.want(address, "a guess", c.a, people.ReasonCredentials)
			}
			if got := w.try(address, good, c.b) == people.ReasonLocked; got != c.same {
				t.Errorf("after five failures from %q, locked from %q: %v, want %v", c.a, c.b, got, c.same)
			}
		})
	}
}

// A hundred guesses at once: five are looked at.
func TestSignIn_RacingGuesses(t *testing.T) {
	w := newWorld(t)
	w.ada()
	hashes := w.CountHashes()
	var wrong, locked, busy atomic.Int64
	var wait sync.WaitGroup
	for i := range 100 {
		wait.Go(func() {
			_, _, err := w.SignIn(t.Context(), people.SignIn{Email: address, Password: fmt.Sprint("guess ", i), IP: home})
			switch oauth.ReasonOf(err) {
			case people.ReasonCredentials:
				wrong.Add(1)
			case people.ReasonLocked:
				locked.Add(1)
			case people.ReasonBusy:
				busy.Add(1)
			default:
				t.Errorf("guess %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	if wrong.Load() != 5 || hashes.Load() != 5 || locked.Load()+busy.Load() != 95 {
		t.Errorf("%d were told that they are wrong, %d hashed, %d told to wait, %d sent away; want 5, 5 and 95 in all",
			wrong.Load(), hashes.Load(), locked.Load(), busy.Load())
	}
	w.wantLocked(address, home, 30*time.Second)
}

// Who finds the queue full is sent away and has made no attempt.
func TestSignIn_Busy(t *testing.T) {
	w := newWorld(t)
	w.ada()
	entered, release := w.HoldHashes(1)
	done := make(chan oauth.Reason)
	go func() {
		_, _, err := w.SignIn(t.Context(), people.SignIn{Email: address, Password: good, IP: home})
		done <- oauth.ReasonOf(err)
	}()
	<-entered
	for range 20 {
		_, _, err := w.SignIn(t.Context(), people.SignIn{Email: address, Password: good, IP: home})
		if e, ok := errors.AsType[*oauth.Error](err); !ok || e.Reason != people.ReasonBusy || e.Code != oauth.TemporarilyUnavailable {
			t.Fatalf("beyond the queue: %v", err)
		}
	}
	if _, _, err := w.Service.SignUp(t.Context(), people.SignUp{Name: "X", Email: "x@example.com", Password: good, IP: home}); oauth.ReasonOf(err) != people.ReasonBusy {
		t.Errorf("a sign-up beyond the queue: %v", err)
	}
	close(release)
	if reason := <-done; reason != "" {
		t.Errorf("who was in the queue: %q", reason)
	}
	w.want(address, good, home, "")
}

// A password hashed with other parameters is hashed again when it is next proven.
func TestSignIn_Rehash(t *testing.T) {
	w := newWorld(t)
	w.ada()
	stored := func() string {
		t.Helper()
		l, _, err := w.db.Login(t.Context(), "password", address)
		if err != nil {
			t.Fatal(err)
		}
		return l.Credential
	}
	old := stored()
	w.Cheap(16)
	w.want(address, "a guess", home, people.ReasonCredentials)
	if stored() != old {
		t.Error("a wrong password replaced the stored one")
	}
	w.want(address, good, home, "")
	if now := stored(); !strings.HasPrefix(now, "$argon2id$v=19$m=16,t=1,p=1$") {
		t.Errorf("after a sign-in the stored password is %s", now)
	}
	current := stored()
	w.want(address, good, home, "")
	if stored() != current {
		t.Error("a password with today's parameters was hashed again")
	}
}

func TestSignIn_Unlimited(t *testing.T) {
	w := newWorld(t)
	w.ada()
	w.Service = people.New(people.Config{Storage: w.db, Server: w.house, Unlimited: true})
	w.Cheap(8)
	for range 20 {
		w.want(address, "a guess", home, people.ReasonCredentials)
	}
	w.want(address, good, home, "")
}

// What was typed, and what proves somebody, is in no event.
func TestSignIn_EventsHoldNoSecret(t *testing.T) {
	w := newWorld(t)
	w.ada()
	link, err := w.OperatorLink(t.Context(), oauth.Actor{Kind: oauth.AsCommand})
	if err != nil {
		t.Fatal(err)
	}
	const canary = "canary-typed-here"
	w.try(canary+"@example.com", canary, home)
	w.try(address, canary, home)
	s, cookie := w.signedIn(address)
	if err := w.SignOut(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	events := w.events("")
	if len(events) < 5 {
		t.Fatalf("%d events", len(events))
	}
	for _, e := range events {
		for _, secret := range []string{canary, good, cookie, link.Reveal(), cookie[22:]} {
			if text := fmt.Sprintf("%+v %s", e, e.Payload); strings.Contains(text, secret) {
				t.Errorf("%q stands in %s", secret, text)
			}
		}
	}
}
