package storagetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// What people.Storage promises of a password that takes another's place.

func (a *accounts) login(email string) *people.Login {
	a.t.Helper()
	l, _, err := a.db.Login(a.ctx, "password", email)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

// set is the event that sets a password of the login as it was read.
func (a *accounts) set(was people.Login, credential string) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) { return a.db.SetPassword(a.ctx, &was, credential, e) }
}

// starting is the event of a sign-in.
func (a *accounts) starting(r people.SignInRecord) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) {
		r.Event = e
		return a.db.StartSession(a.ctx, &r)
	}
}

func (a *accounts) signedIn(selector string, want bool) {
	a.t.Helper()
	_, _, err := a.db.Session(a.ctx, selector)
	if err != nil && !errors.Is(err, oauth.ErrNotFound) {
		a.t.Fatal(err)
	}
	if (err == nil) != want {
		a.t.Errorf("%s is there: %v, want %v", selector, err == nil, want)
	}
}

func (a *accounts) testSetPassword() {
	f := a.made("u1", "u1@example.com")
	a.start(a.session(f, "s1"))
	other := a.made("u2", "u2@example.com")
	bare := a.form("u3", "u3@example.com")
	bare.Login, bare.Session = nil, nil
	a.create(bare)
	was, err := a.db.LoginOf(a.ctx, "password", "u1")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("login of a user", *was, *a.login("u1@example.com"))
	for _, key := range [][2]string{{"password", "u3"}, {"password", "unknown"}, {"other", "u1"}} {
		if _, err := a.db.LoginOf(a.ctx, key[0], key[1]); !errors.Is(err, oauth.ErrNotFound) {
			a.t.Errorf("login of %q: %v, want ErrNotFound", key, err)
		}
	}

	a.w.wins(issue, oauth.EventPasswordSet, a.set(*was, "new"))
	now := a.login("u1@example.com")
	a.want("credential", now.Credential, "new")
	a.want("is another password than before", now.Set != was.Set, true)
	a.signedIn("s1", false)
	a.signedIn("session of u1", false)
	a.want("another's login", *a.login("u2@example.com"), *other.Login)
	a.signedIn("session of u2", true)

	a.w.loses("of a login as it was", a.set(*was, "late"))
	for what, wrong := range map[string]func(*people.Login){
		"another issuer": func(l *people.Login) { l.Issuer = "other" }, "another address": func(l *people.Login) { l.Subject = "u2@example.com" },
		"another user": func(l *people.Login) { l.UserID = "u2" }, "a user without a login": func(l *people.Login) { l.UserID = "u3" },
	} {
		l := *now
		wrong(&l)
		a.w.loses(what, a.set(l, "late"))
	}
	a.w.wins(issue, oauth.EventPasswordSet, a.set(*now, "newer")) // also where nobody is signed in

	// A suspended user has it when he is resumed, and not before.
	a.setStatus("u1", oauth.Suspended)
	a.w.wins(issue, oauth.EventPasswordSet, a.set(*a.login("u1@example.com"), "newest"))
	f.Login = a.login("u1@example.com")
	a.w.loses("a sign-in of a suspended user", a.starting(*a.session(f, "s2")))
	a.setStatus("u1", oauth.Active)
	a.want("a sign-in by the new one", a.start(a.session(f, "s2")), true)
}

// A sign-in that was proved by the password of before is none, in whatever order the
// two meet. One that only hashed the password anew has set no other.
func (a *accounts) testSetPasswordSignIns() {
	f := a.made("u1", "u1@example.com")
	was := *f.Login
	rehashed := a.session(f, "rehashed")
	rehashed.Credential = "hashed anew"
	a.want("a sign-in that hashes anew", a.start(rehashed), true)
	a.want("it is the same password", a.login("u1@example.com").Set, was.Set)
	a.want("a sign-in by the hash of before", a.start(a.session(f, "beside")), true)

	// The sign-in is asked for while the password is being set.
	late := a.session(f, "late")
	late.Credential, late.Clear = "late", []string{"k"}
	a.admit([]people.Limit{{Key: "k", Free: 1, First: 1, Max: 1, Window: 1}}, peopleNow, true)
	user := []string{"SELECT id FROM users WHERE id = $1"}
	commit := a.w.uncommitted("u1", user, "UPDATE logins SET credential = 'new', op = 'set beside' WHERE user_id = $1", "DELETE FROM sessions WHERE user_id = $1")
	won := a.w.waits("the sign-in", func() (bool, error) { return a.db.StartSession(a.ctx, late) })
	commit()
	a.want("a sign-in that the new password was waited for: won", won(), false)
	a.signedIn("late", false)
	a.want("credential", a.login("u1@example.com").Credential, "new")
	a.want("what the loser would clear", a.closed("k").IsZero(), false)
	a.w.loses("a sign-in by the password of before", a.starting(*late))

	// The password is set while the sign-in is being written.
	was, e := *a.login("u1@example.com"), a.event(oauth.EventPasswordSet, "u1")
	commit = a.w.uncommitted("u1", user, "INSERT INTO sessions (selector, hash, user_id, auth_time, amr, expires, op) VALUES ('early', '', $1, 1, 'pwd', 9000000000000000, 'sign-in')")
	won = a.w.waits("setting the password", func() (bool, error) { return a.set(was, "newer")(e) })
	commit()
	a.want("setting a password while somebody signed in: won", won(), true)
	a.signedIn("early", false)

	// One password is set while another is.
	was, e = *a.login("u1@example.com"), a.event(oauth.EventPasswordSet, "u1")
	commit = a.w.uncommitted("u1", user, "UPDATE logins SET credential = 'first', op = 'first' WHERE user_id = $1")
	won = a.w.waits("setting the password", func() (bool, error) { return a.set(was, "second")(e) })
	commit()
	a.want("the second of two: won", won(), false)
	a.want("credential", a.login("u1@example.com").Credential, "first")

	// And while the user is being suspended.
	was, e = *a.login("u1@example.com"), a.event(oauth.EventPasswordSet, "u1")
	commit = a.w.uncommitted("u1", user, "UPDATE users SET status = 'suspended' WHERE id = $1")
	won = a.w.waits("setting the password", func() (bool, error) { return a.set(was, "of the suspended")(e) })
	commit()
	a.want("setting the password of one who is suspended: won", won(), true)
	f.Login = a.login("u1@example.com")
	a.want("credential", f.Login.Credential, "of the suspended")
	a.w.loses("a sign-in of a suspended user", a.starting(*a.session(f, "suspended")))
}

func (a *accounts) testSetPasswordRaces() {
	f := a.made("u0", "u0@example.com")
	events := make([]oauth.Event, 40)
	for i := range events {
		events[i] = a.event(oauth.EventPasswordSet, "u0")
	}
	a.want("winners", a.race(len(events), func(i int) (bool, error) { return a.set(*f.Login, fmt.Sprint("new ", i))(events[i]) }), 1)
	a.want("events", len(a.events("u0")), 3)

	// Sign-ins beside it: half of them are asked for first.
	const users = 64
	var all sync.WaitGroup
	var started atomic.Int64
	for i := range users {
		f := a.made(fmt.Sprint("user ", i), fmt.Sprint("user", i, "@example.com"))
		r, e := a.session(f, fmt.Sprint("new session ", i)), a.event(oauth.EventPasswordSet, f.User.ID)
		in := func() {
			won, err := a.db.StartSession(a.ctx, r)
			if err != nil {
				a.t.Error(err)
			}
			if won {
				started.Add(1)
			}
		}
		out := func() {
			if won, err := a.set(*f.Login, "new")(e); err != nil || !won {
				a.t.Errorf("setting a password: won %v, error %v", won, err)
			}
		}
		first, second := in, out
		if i%2 == 0 {
			first, second = out, in
		}
		all.Go(first)
		all.Go(second)
	}
	all.Wait()
	a.t.Logf("%d of %d sign-ins came before the new password", started.Load(), users)
	for i := range users {
		a.signedIn(fmt.Sprint("new session ", i), false)
	}
}

func (a *accounts) testEndPassword() {
	f := a.made("u1", "u1@example.com")
	other := a.made("u2", "u2@example.com")
	bare := a.form("u3", "u3@example.com")
	bare.Login, bare.Session = nil, nil
	a.create(bare)
	end := func(user string) func(oauth.Event) (bool, error) {
		return func(e oauth.Event) (bool, error) { return a.house.EndPassword(a.ctx, user, e) }
	}
	a.w.wins(issue, oauth.EventPasswordSet, end("u1"))
	now := a.login("u1@example.com")
	a.want("credential", now.Credential, "")
	a.signedIn("session of u1", false)
	a.w.loses("a sign-in by the password of before", a.starting(*a.session(f, "s1")))
	a.w.loses("a password that was read before", a.set(*f.Login, "late"))
	a.w.loses("of a user without one", end("u3"))
	a.w.loses("of nobody", end("unknown"))
	a.want("another's login", *a.login("u2@example.com"), *other.Login)
	a.signedIn("session of u2", true)
	a.w.wins(issue, oauth.EventPasswordSet, a.set(*now, "new"))
}
