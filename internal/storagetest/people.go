package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// People proves the promises of people.Storage. open returns a fresh, migrated
// database, which must keep the contract of oauth as well.
func People(t *testing.T, open func(t *testing.T) Opened) {
	for name, test := range map[string]func(*accounts){
		"CreateAccount": (*accounts).testCreate, "CreateAccount loses": (*accounts).testCreateLoses,
		"CreateAccount races": (*accounts).testCreateRaces, "Invite": (*accounts).testInvite, "Invite races": (*accounts).testInviteRaces,
		"StartSession": (*accounts).testStart, "StartSession replaces the credential": (*accounts).testCredential,
		"SetPassword": (*accounts).testSetPassword, "SetPassword and sign-ins": (*accounts).testSetPasswordSignIns,
		"SetPassword races": (*accounts).testSetPasswordRaces, "EndPassword": (*accounts).testEndPassword,
		"EndSession": (*accounts).testEnd, "EndSessions": (*accounts).testEndAll,
		"Suspending ends the sessions": (*accounts).testSuspend, "Suspending races with sign-ins": (*accounts).testSuspendRaces,
		"Admit": (*accounts).testAdmit, "Admit counts all or none": (*accounts).testAdmitAll, "Admit begins anew": (*accounts).testWindow,
		"Familiar": (*accounts).testFamiliar, "Admit races": (*accounts).testAdmitRaces, "Admit races with sign-ins": (*accounts).testAdmitForgives,
		"Sweep": (*accounts).testAccountsSweep,
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t)
			db, ok := o.Storage.(people.Storage)
			if !ok {
				t.Fatal("the storage of people must be that of oauth too: an account is a user")
			}
			test(&accounts{t, db, o.Storage, newWorld(t, o), t.Context()})
		})
	}
}

type accounts struct {
	t     *testing.T
	db    people.Storage
	house oauth.Storage
	w     *world // what the contract does not show
	ctx   context.Context
}

var (
	peopleNow  = time.Date(2026, 3, 2, 9, 30, 0, 123_456_000, time.UTC)
	peopleStep atomic.Int64
)

func (a *accounts) event(kind oauth.Kind, user string) oauth.Event {
	return oauth.Event{ID: a.w.id("ev_"), At: peopleNow, Kind: kind, UserID: user, Actor: "system"}
}

// form is an account with everything in it but an invite.
func (a *accounts) form(id, email string) *people.Account {
	created := a.event(oauth.EventUserCreated, id)
	return &people.Account{
		User:  oauth.User{ID: id, Kind: oauth.Person, Name: "Name of " + id, Email: email, Operator: true, Status: oauth.Active, Created: peopleNow},
		Login: &people.Login{Issuer: "password", Subject: email, UserID: id, Credential: "credential of " + id, Set: created.ID},
		Session: &people.StoredSession{Selector: "session of " + id, Hash: oauth.HashOf(oauth.Secret(id)), UserID: id, AuthTime: peopleNow, AMR: "pwd",
			Expires: peopleNow.Add(time.Hour)},
		Now: peopleNow, Created: created, SignedIn: a.event(oauth.EventSignedIn, id),
	}
}

func (a *accounts) create(f *people.Account) bool {
	a.t.Helper()
	won, err := a.db.CreateAccount(a.ctx, f)
	if err != nil {
		a.t.Fatalf("CreateAccount: %v", err)
	}
	return won
}

func (a *accounts) made(id, email string) *people.Account {
	a.t.Helper()
	f := a.form(id, email)
	if !a.create(f) {
		a.t.Fatalf("CreateAccount of %s lost on a fresh database", id)
	}
	return f
}

// trace returns what is left of an account: its user, login, session and events.
func (a *accounts) trace(id, email string) (left []string) {
	a.t.Helper()
	found := func(what string, err error) {
		if err == nil {
			left = append(left, what)
		} else if !errors.Is(err, oauth.ErrNotFound) {
			a.t.Fatal(err)
		}
	}
	_, err := a.house.User(a.ctx, id)
	found("user", err)
	l, _, err := a.db.Login(a.ctx, "password", email)
	if err == nil && l.UserID != id {
		err = oauth.ErrNotFound
	}
	found("login", err)
	_, _, err = a.db.Session(a.ctx, "session of "+id)
	found("session", err)
	for _, e := range a.events(id) {
		left = append(left, string(e.Kind))
	}
	return left
}

// events lists the events of a user, oldest first.
func (a *accounts) events(id string) []oauth.Event {
	a.t.Helper()
	list, err := a.house.Events(a.ctx, oauth.EventFilter{UserID: id, Limit: 1000})
	if err != nil {
		a.t.Fatal(err)
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list
}

func (a *accounts) want(what string, got, want any) {
	a.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		a.t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func (a *accounts) testCreate() {
	f := a.made("u1", "u1@example.com")
	l, u, err := a.db.Login(a.ctx, "password", "u1@example.com")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("login", *l, *f.Login)
	a.want("its user", *u, f.User)
	s, u, err := a.db.Session(a.ctx, "session of u1")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("session", *s, *f.Session)
	a.want("its user", *u, f.User)
	a.want("trace", a.trace("u1", "u1@example.com"), []string{"user", "login", "session", "user.created", "user.signed_in"})
	for _, e := range a.events("u1") {
		a.want("seq of an event that only issues", e.Seq, 0)
	}
	for _, key := range [][2]string{{"password", "U1@example.com"}, {"other", "u1@example.com"}, {"password", ""}} {
		if _, _, err := a.db.Login(a.ctx, key[0], key[1]); !errors.Is(err, oauth.ErrNotFound) {
			a.t.Errorf("login %q: %v, want ErrNotFound", key, err)
		}
	}
	bare := a.form("u2", "u2@example.com")
	bare.Login, bare.Session = nil, nil
	if !a.create(bare) {
		a.t.Fatal("an account without a login lost")
	}
	a.want("trace of an account without login", a.trace("u2", "u2@example.com"), []string{"user", "user.created"})
}

func (a *accounts) testCreateLoses() {
	first := a.made("u1", "u1@example.com")
	if a.create(a.form("u2", "u1@example.com")) {
		a.t.Error("a second account won a login that is taken")
	}
	a.want("trace of the loser", a.trace("u2", "u1@example.com"), []string(nil))
	same := a.form("u1", "other@example.com")
	same.Session.Selector = "another"
	if a.create(same) {
		a.t.Error("a second account won an id that is taken")
	}
	bare := a.form("u1", "")
	bare.Login, bare.Session = nil, nil
	if a.create(bare) {
		a.t.Error("an account without login won an id that is taken")
	}
	u, err := a.house.User(a.ctx, "u1")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("the first user", *u, first.User)
	if _, _, err := a.db.Login(a.ctx, "password", "other@example.com"); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("the loser's login: %v, want ErrNotFound", err)
	}
	a.want("events", len(a.events("u1")), 2)
}

// race runs n calls at once and counts the winners.
func (a *accounts) race(n int, call func(i int) (bool, error)) int {
	a.t.Helper()
	var won atomic.Int64
	var wait sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wait.Go(func() {
			<-start
			ok, err := call(i)
			if err != nil {
				a.t.Errorf("call %d: a lost race must not be an error: %v", i, err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	close(start)
	wait.Wait()
	return int(won.Load())
}

func (a *accounts) testCreateRaces() {
	forms := make([]*people.Account, 40)
	for i := range forms {
		forms[i] = a.form(fmt.Sprint("u", i), "one@example.com")
	}
	a.want("winners", a.race(len(forms), func(i int) (bool, error) { return a.db.CreateAccount(a.ctx, forms[i]) }), 1)
	users, err := a.house.Users(a.ctx, "", oauth.Page{Limit: 100})
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("users", len(users), 1)
	for i := range forms {
		if id := fmt.Sprint("u", i); id != users[0].ID {
			a.want("trace of a loser", a.trace(id, "one@example.com"), []string(nil))
		}
	}
}

func (a *accounts) putInvite(selector string, expires time.Time) *people.Invite {
	a.t.Helper()
	h := oauth.HashOf(oauth.Secret(selector))
	if err := a.db.PutInvite(a.ctx, selector, h, expires, a.event(people.EventOperatorLinkMade, "maker of "+selector)); err != nil {
		a.t.Fatal(err)
	}
	a.want("events of the invite", len(a.events("maker of "+selector)), 1)
	i, err := a.db.Invite(a.ctx, selector)
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("invite", *i, people.Invite{Selector: selector, Hash: h, Expires: expires})
	return i
}

func (a *accounts) testInvite() {
	if _, err := a.db.Invite(a.ctx, "none"); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("an unknown invite: %v, want ErrNotFound", err)
	}
	live := a.putInvite("live", peopleNow.Add(time.Microsecond))
	over := a.putInvite("over", peopleNow)
	// A sealed request of another kind is no invite, whoever knows its selector.
	if err := a.house.PutPending(a.ctx, "request", "authorize", []byte(oauth.HashOf("request")), peopleNow.Add(time.Hour)); err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.db.Invite(a.ctx, "request"); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("a request read as an invite: %v, want ErrNotFound", err)
	}
	request := &people.Invite{Selector: "request", Hash: oauth.HashOf("request"), Expires: peopleNow.Add(time.Hour)}
	never := &people.Invite{Selector: "never", Hash: oauth.HashOf("never"), Expires: peopleNow.Add(time.Hour)}
	for i, c := range []struct {
		invite *people.Invite
		won    bool
	}{{over, false}, {never, false}, {live, true}, {live, false}, {request, false}} {
		id := fmt.Sprint("u", i)
		f := a.form(id, id+"@example.com")
		f.Invite = c.invite
		if won := a.create(f); won != c.won {
			a.t.Errorf("case %d, invite %q: won %v, want %v", i, c.invite.Selector, won, c.won)
		}
		if !c.won {
			a.want("trace of the loser", a.trace(id, id+"@example.com"), []string(nil))
		}
	}
	i, err := a.db.Invite(a.ctx, "live")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("used", i.Used, true)

	// A form that loses for its login does not spend the invite.
	kept := a.putInvite("kept", peopleNow.Add(time.Hour))
	f := a.form("u9", "u2@example.com")
	f.Invite = kept
	if a.create(f) {
		a.t.Error("an invite won a login that is taken")
	}
	taken := a.form("u2", "u9@example.com")
	taken.Invite = kept
	if a.create(taken) {
		a.t.Error("an invite won an id that is taken")
	}
	f = a.form("u9", "u9@example.com")
	f.Invite = kept
	if !a.create(f) {
		a.t.Error("an invite that lost for a taken login or id was spent by it")
	}
}

func (a *accounts) testInviteRaces() {
	invite := a.putInvite("one", peopleNow.Add(time.Hour))
	forms := make([]*people.Account, 40)
	for i := range forms {
		id := fmt.Sprint("u", i)
		forms[i] = a.form(id, id+"@example.com")
		forms[i].Invite = invite
	}
	a.want("winners", a.race(len(forms), func(i int) (bool, error) { return a.db.CreateAccount(a.ctx, forms[i]) }), 1)
	users, err := a.house.Users(a.ctx, "", oauth.Page{Limit: 100})
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("users", len(users), 1)
}

func (a *accounts) session(f *people.Account, selector string) *people.SignInRecord {
	s := *f.Session
	s.Selector = selector
	return &people.SignInRecord{Session: s, Login: *f.Login, Event: a.event(oauth.EventSignedIn, f.User.ID)}
}

func (a *accounts) start(r *people.SignInRecord) bool {
	a.t.Helper()
	won, err := a.db.StartSession(a.ctx, r)
	if err != nil {
		a.t.Fatalf("StartSession: %v", err)
	}
	return won
}

func (a *accounts) setStatus(id string, to oauth.Status) {
	a.t.Helper()
	if _, err := a.house.SetUserStatus(a.ctx, id, to, a.event(oauth.EventUserSuspended, "")); err != nil {
		a.t.Fatal(err)
	}
}

func (a *accounts) testStart() {
	a.made("u0", "u0@example.com")
	f := a.made("u1", "u1@example.com")
	a.made("u2", "u2@example.com")
	lock := []people.Limit{{Key: "k", Free: 1, First: time.Hour, Max: time.Hour, Window: time.Hour}}
	others := []people.Limit{{Key: "another's", Free: 1, First: time.Hour, Max: time.Hour, Window: time.Hour}}
	a.admit(lock, peopleNow, true)
	a.admit(others, peopleNow, true)
	cleared := a.session(f, "s1")
	cleared.Clear = []string{"k"}
	if !a.start(cleared) {
		a.t.Fatal("StartSession lost for an active user")
	}
	a.want("closed until, what was cleared", a.closed("k").IsZero(), true)
	a.want("closed until, what was not", a.closed("another's"), peopleNow.Add(time.Hour))
	s, u, err := a.db.Session(a.ctx, "s1")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("its user", u.ID, "u1")
	want := *f.Session
	want.Selector = "s1"
	a.want("session", *s, want)

	// What is taken back is one for each, and never what was not counted.
	shared := []people.Limit{{Key: "shared", Free: 3, First: time.Hour, Max: time.Hour, Window: time.Hour}}
	a.admit(shared, peopleNow, true)
	for i := range 3 {
		back := a.session(f, fmt.Sprint("back", i))
		back.Uncount = []string{"shared"}
		a.want("won", a.start(back), true)
	}
	for range 3 {
		a.admit(shared, peopleNow, true)
	}
	a.admit(shared, peopleNow, false)

	a.setStatus("u1", oauth.Suspended)
	refused := a.session(f, "s2")
	refused.Credential, refused.Clear, refused.Uncount = "new", []string{"k"}, []string{"another's"}
	a.admit(lock, peopleNow, true)
	if a.start(refused) {
		a.t.Error("StartSession won for a suspended user")
	}
	if _, _, err := a.db.Session(a.ctx, "s2"); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("the loser's session: %v, want ErrNotFound", err)
	}
	a.want("closed until, after the loser", a.closed("k"), peopleNow.Add(time.Hour))
	a.want("closed until, what the loser would take back", a.closed("another's"), peopleNow.Add(time.Hour))
	l, u, err := a.db.Login(a.ctx, "password", "u1@example.com")
	if err != nil {
		a.t.Fatal(err)
	}
	a.want("user of a login", u.ID, "u1")
	a.want("credential, after the loser", l.Credential, f.Login.Credential)
	a.want("status as a login shows it", u.Status, oauth.Suspended)
	a.want("events", len(a.events("u1")), 6)
}

func (a *accounts) testCredential() {
	f := a.made("u1", "u1@example.com")
	a.made("u2", "u2@example.com")
	credential := func(email string) string {
		a.t.Helper()
		l, _, err := a.db.Login(a.ctx, "password", email)
		if err != nil {
			a.t.Fatal(err)
		}
		return l.Credential
	}
	r := a.session(f, "s1")
	r.Credential = "new"
	a.want("won", a.start(r), true)
	a.want("credential", credential("u1@example.com"), "new")
	a.want("credential of another", credential("u2@example.com"), "credential of u2")
	r = a.session(f, "s2") // read before the replacement
	r.Credential = "late"
	a.want("won", a.start(r), true)
	a.want("credential, after one who read the old one", credential("u1@example.com"), "new")
}

func (a *accounts) testEnd() {
	f := a.made("u1", "u1@example.com")
	a.start(a.session(f, "s1"))
	for _, want := range []bool{true, false} {
		won, err := a.db.EndSession(a.ctx, "s1", a.event(people.EventSignedOut, "u1"))
		if err != nil {
			a.t.Fatal(err)
		}
		a.want("EndSession won", won, want)
	}
	if _, _, err := a.db.Session(a.ctx, "s1"); !errors.Is(err, oauth.ErrNotFound) {
		a.t.Errorf("an ended session: %v, want ErrNotFound", err)
	}
	if _, _, err := a.db.Session(a.ctx, "session of u1"); err != nil {
		a.t.Errorf("the user's other session: %v", err)
	}
	a.want("events", len(a.events("u1")), 4)
}

func (a *accounts) testSuspend() {
	f := a.made("u1", "u1@example.com")
	a.start(a.session(f, "s1"))
	a.made("u2", "u2@example.com")
	for _, to := range []oauth.Status{oauth.Suspended, oauth.Active} {
		a.setStatus("u1", to)
		for _, selector := range []string{"s1", "session of u1"} {
			if _, _, err := a.db.Session(a.ctx, selector); !errors.Is(err, oauth.ErrNotFound) {
				a.t.Errorf("%s, a session from before: %v, want ErrNotFound", to, err)
			}
		}
	}
	a.want("a new sign-in", a.start(a.session(f, "s2")), true)
	a.setStatus("u1", oauth.Active) // it is
	for _, selector := range []string{"s2", "session of u2"} {
		if _, _, err := a.db.Session(a.ctx, selector); err != nil {
			a.t.Errorf("%s: %v", selector, err)
		}
	}
}

// A sign-in that read the user as active does not outlive the suspension.
func (a *accounts) testSuspendRaces() {
	const users = 64
	var all sync.WaitGroup
	var started atomic.Int64
	for i := range users {
		id := fmt.Sprint("u", i)
		f := a.form(id, id+"@example.com")
		f.Session = nil
		a.create(f)
		f.Session = a.form(id, id+"@example.com").Session
		r, suspended := a.session(f, "new session of "+id), a.event(oauth.EventUserSuspended, id)
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
			if won, err := a.house.SetUserStatus(a.ctx, id, oauth.Suspended, suspended); err != nil || !won {
				a.t.Errorf("suspending: won %v, error %v", won, err)
			}
		}
		// Who is started last tends to run first, so both orders are asked for.
		first, second := in, out
		if i%2 == 0 {
			first, second = out, in
		}
		all.Go(first)
		all.Go(second)
	}
	all.Wait()
	a.t.Logf("%d of %d sign-ins came before the suspension", started.Load(), users)
	for i := range users {
		if _, _, err := a.db.Session(a.ctx, fmt.Sprint("new session of u", i)); !errors.Is(err, oauth.ErrNotFound) {
			a.t.Errorf("a session of u%d, who is suspended: %v, want ErrNotFound", i, err)
		}
	}
}

func (a *accounts) testEndAll() {
	f := a.made("u1", "u1@example.com")
	a.start(a.session(f, "s1"))
	a.made("u2", "u2@example.com")
	for _, want := range []bool{true, false} {
		won, err := a.db.EndSessions(a.ctx, "u1", a.event(people.EventSessionsEnded, "u1"))
		if err != nil {
			a.t.Fatal(err)
		}
		a.want("EndSessions won", won, want)
	}
	for _, selector := range []string{"s1", "session of u1"} {
		if _, _, err := a.db.Session(a.ctx, selector); !errors.Is(err, oauth.ErrNotFound) {
			a.t.Errorf("an ended session: %v, want ErrNotFound", err)
		}
	}
	if _, _, err := a.db.Session(a.ctx, "session of u2"); err != nil {
		a.t.Errorf("another user's session: %v", err)
	}
	a.want("events", len(a.events("u1")), 4)
}
