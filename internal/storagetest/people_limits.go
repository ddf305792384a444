package storagetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// The counters of people.Storage: how often somebody may guess.

func (a *accounts) try(limits []people.Limit, now time.Time) bool {
	a.t.Helper()
	won, err := a.db.Admit(a.ctx, fmt.Sprintf("at_%09d", peopleStep.Add(1)), limits, now)
	if err != nil {
		a.t.Fatalf("Admit: %v", err)
	}
	return won
}

func (a *accounts) admit(limits []people.Limit, now time.Time, want bool) {
	a.t.Helper()
	if a.try(limits, now) != want {
		a.t.Errorf("Admit at %s: want %v", now.Sub(peopleNow), want)
	}
}

func (a *accounts) closed(keys ...string) time.Time {
	a.t.Helper()
	until, err := a.db.ClosedUntil(a.ctx, keys)
	if err != nil {
		a.t.Fatal(err)
	}
	return until
}

func (a *accounts) testAdmit() {
	limits := []people.Limit{{Key: "k", Free: 3, First: 30 * time.Second, Max: 5 * time.Minute, Window: 24 * time.Hour}}
	a.want("never closed", a.closed("k").IsZero(), true)
	now := peopleNow
	for range 2 {
		a.admit(limits, now, true)
		a.want("closed while it has room", a.closed("k").IsZero(), true)
	}
	for _, wait := range []time.Duration{30, 60, 120, 240, 300, 300, 300} {
		wait *= time.Second
		a.admit(limits, now, true)
		a.want("closed until", a.closed("k"), now.Add(wait))
		a.admit(limits, now, false)
		a.admit(limits, now.Add(wait-time.Microsecond), false)
		a.want("closed until, after who was refused", a.closed("k"), now.Add(wait))
		now = now.Add(wait)
	}
	a.admit([]people.Limit{{Key: "other", Free: 3, Window: time.Hour}}, now, true)
}

func (a *accounts) testAdmitAll() {
	pair := people.Limit{Key: "z pair", Free: 2, First: time.Minute, Max: time.Minute, Window: time.Hour}
	mail := people.Limit{Key: "a mail", Free: 3, First: time.Hour, Max: time.Hour, Window: time.Hour}
	other := pair
	other.Key = "other pair"
	for range 3 {
		a.admit([]people.Limit{other, mail}, peopleNow, true)
		other.Key += "'"
	}
	a.want("closed until", a.closed("a mail"), peopleNow.Add(time.Hour))
	for range 5 {
		a.admit([]people.Limit{pair, mail}, peopleNow, false)
	}
	a.want("an attempt that the second limit refused counted for the first", a.closed("z pair").IsZero(), true)
	a.admit([]people.Limit{pair}, peopleNow, true)
	a.want("closed after one of two", a.closed("z pair").IsZero(), true)
	a.admit([]people.Limit{pair}, peopleNow, true)
	a.want("closed until, the later of the two", a.closed("z pair", "a mail"), peopleNow.Add(time.Hour))
	a.want("closed until, asked alone", a.closed("z pair"), peopleNow.Add(time.Minute))
}

func (a *accounts) testWindow() {
	limits := []people.Limit{{Key: "k", Free: 2, First: 15 * time.Minute, Max: 15 * time.Minute, Window: time.Hour}}
	a.admit(limits, peopleNow, true)
	a.admit(limits, peopleNow.Add(time.Hour-time.Microsecond), true) // the second within an hour
	until := peopleNow.Add(time.Hour - time.Microsecond + 15*time.Minute)
	a.want("closed until", a.closed("k"), until)
	a.admit(limits, peopleNow.Add(time.Hour), false) // the hour is over, the lock is not
	a.admit(limits, until, true)
	a.want("closed after the first of a new window", a.closed("k").After(until), false)
	a.admit(limits, until.Add(time.Hour), true)
	a.want("closed after an hour without an attempt", a.closed("k").After(until), false)
	a.admit(limits, until.Add(time.Hour+time.Minute), true) // the second within the new hour
	a.want("closed until, in a later window", a.closed("k"), until.Add(time.Hour+16*time.Minute))
	a.want("closed until, another key", a.closed("another").IsZero(), true)
}

// What is familiar is remembered with the session, or not at all, and for longer each time.
func (a *accounts) testFamiliar() {
	f := a.made("u1", "u1@example.com")
	is := func(key string, now time.Time) bool {
		a.t.Helper()
		is, err := a.db.Familiar(a.ctx, key, now)
		if err != nil {
			a.t.Fatal(err)
		}
		return is
	}
	start := func(selector, key string, until time.Time, want bool) {
		a.t.Helper()
		r := a.session(f, selector)
		r.Familiar = people.Familiar{Key: key, Until: until}
		won, err := a.db.StartSession(a.ctx, r)
		if err != nil || won != want {
			a.t.Errorf("StartSession: won %v, error %v", won, err)
		}
	}
	end := peopleNow.Add(time.Hour)
	a.want("familiar before", is("home", peopleNow), false)
	start("s1", "home", end, true)
	a.want("familiar", is("home", end.Add(-time.Microsecond)), true)
	a.want("familiar when its time is up", is("home", end), false)
	a.want("another is familiar", is("elsewhere", peopleNow), false)
	a.want("it is closed", a.closed("home").IsZero(), true)
	start("s2", "home", end.Add(time.Hour), true)
	start("s3", "", end, true)
	a.want("nothing is remembered", is("", peopleNow), false)
	a.want("familiar for longer", is("home", end), true)
	f.Login.Set = "another" // password, since it was read
	start("s4", "elsewhere", end, false)
	a.want("a sign-in that lost is remembered", is("elsewhere", peopleNow), false)
}

func (a *accounts) testAdmitRaces() {
	lock := func(key string, free int64) people.Limit {
		return people.Limit{Key: key, Free: free, First: time.Minute, Max: time.Minute, Window: time.Hour}
	}
	try := func(limits ...people.Limit) func(int) (bool, error) {
		return func(int) (bool, error) {
			return a.db.Admit(a.ctx, fmt.Sprintf("at_%09d", peopleStep.Add(1)), limits, peopleNow)
		}
	}
	a.want("admitted of 100 on one key", a.race(100, try(lock("k", 5))), 5)
	a.want("admitted of 100 more", a.race(100, try(lock("k", 5))), 0)
	// Each from a network of its own, all for one address; keys in orders that differ.
	a.want("admitted of 100 on keys of their own and one in common", a.race(100, func(i int) (bool, error) {
		own := lock(fmt.Sprint(i%2*9, " own ", i), 5)
		return try(own, lock("5 mail", 30), lock("net "+fmt.Sprint(i%3), 1000))(i)
	}), 30)
}

// A guess at another key in common is counted while sign-ins take theirs back.
func (a *accounts) testAdmitForgives() {
	f := a.made("u1", "u1@example.com")
	mail := people.Limit{Key: "mail", Free: 21, First: time.Hour, Max: time.Hour, Window: time.Hour}
	records := make([]*people.SignInRecord, 60)
	for i := range records {
		records[i] = a.session(f, fmt.Sprint("s", i))
		records[i].Clear, records[i].Uncount = []string{fmt.Sprint("pair ", i)}, []string{"mail"}
	}
	admitted := a.race(len(records), func(i int) (bool, error) {
		pair := people.Limit{Key: fmt.Sprint("pair ", i), Free: 1, First: time.Hour, Max: time.Hour, Window: time.Hour}
		won, err := a.db.Admit(a.ctx, fmt.Sprintf("at_%09d", peopleStep.Add(1)), []people.Limit{pair, mail}, peopleNow)
		if err != nil || !won || i%3 == 0 { // a third guesses wrong
			return won, err
		}
		return a.db.StartSession(a.ctx, records[i])
	})
	if admitted < 21 {
		a.t.Errorf("admitted %d, want at least the 21 that there is room for", admitted)
	}
	left := 0
	for i := range records {
		if until := a.closed(fmt.Sprint("pair ", i)); !until.IsZero() {
			left++ // a wrong guess: its pair stays closed
			if i%3 != 0 {
				a.t.Errorf("the key of sign-in %d is not cleared", i)
			}
		}
	}
	// Exactly the wrong guesses still count: 21 less those fill the key.
	more := 0
	for more < 100 && a.try([]people.Limit{mail}, peopleNow) {
		more++
	}
	a.want("room left", more, 21-left)
}

func (a *accounts) testAccountsSweep() {
	f := a.made("u1", "u1@example.com") // its session lives for an hour
	a.putInvite("invite", peopleNow.Add(2*time.Hour))
	late := people.Limit{Key: "late", Free: 2, First: 3 * time.Hour, Max: 3 * time.Hour, Window: time.Hour}
	a.admit([]people.Limit{late}, peopleNow, true)
	a.admit([]people.Limit{late}, peopleNow, true)
	a.admit([]people.Limit{{Key: "open", Free: 2, Window: time.Hour}}, peopleNow, true)
	sweep := func(after time.Duration) int {
		a.t.Helper()
		n, err := a.house.Sweep(a.ctx, peopleNow.Add(after), oauth.EventsKept, 100)
		if err != nil {
			a.t.Fatal(err)
		}
		return n
	}
	a.want("swept before anything is over", sweep(time.Hour), 0)
	a.want("swept after an hour: session and open key", sweep(time.Hour+time.Microsecond), 2)
	if _, _, err := a.db.Session(a.ctx, f.Session.Selector); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("an expired session after the sweep: %v, want ErrNotFound", err)
	}
	a.want("a key is not swept while it is closed", a.closed("late"), peopleNow.Add(3*time.Hour))
	a.want("swept after two hours: the invite", sweep(2*time.Hour+time.Microsecond), 1)
	a.want("swept after three hours: the closed key", sweep(3*time.Hour+time.Microsecond), 1)
}
