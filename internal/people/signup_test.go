package people_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

func (w *world) signUp(f people.SignUp) (*people.Session, error) {
	if f.IP == "" {
		f.IP = home
	}
	s, secret, err := w.Service.SignUp(w.context(), f)
	if err == nil {
		if again, err := w.Session(w.context(), secret.Reveal()); err != nil || again.ID != s.ID {
			w.t.Errorf("the cookie of a sign-up: session %v, %v", again, err)
		}
	}
	return s, err
}

// mistakes are the reasons of a form, by field.
func mistakes(err error) map[string]oauth.Reason {
	m := map[string]oauth.Reason{}
	fields, _ := errors.AsType[oauth.FieldErrors](err)
	for field, e := range fields {
		m[field] = e.Reason
	}
	return m
}

func TestSignUp(t *testing.T) {
	w := newWorld(t)
	s, err := w.signUp(people.SignUp{Name: " Ada Lovelace ", Email: " Ada@Example.COM ", Password: good})
	if err != nil {
		t.Fatal(err)
	}
	u, err := w.db.User(t.Context(), s.User.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := oauth.User{ID: s.User.ID, Kind: oauth.Person, Name: "Ada Lovelace", Email: address, Status: oauth.Active, Created: morning}
	if *u != want || *s.User != want || !strings.HasPrefix(u.ID, "usr_") {
		t.Errorf("user %+v, in the session %+v, want %+v", *u, *s.User, want)
	}
	if !s.AuthTime.Equal(morning) || !s.Expires.Equal(morning.Add(people.SessionLife)) {
		t.Errorf("session of %v until %v", s.AuthTime, s.Expires)
	}
	if s.Actor() != (oauth.Actor{Kind: oauth.AsUser, ID: u.ID}) {
		t.Errorf("actor %v", s.Actor())
	}
	w.want("ADA@example.com", good, home, "")
	if n, m := len(w.events(oauth.EventUserCreated)), len(w.events(oauth.EventSignedIn)); n != 1 || m != 2 {
		t.Errorf("%d events of creation, %d of sign-ins, want 1 and 2", n, m)
	}
}

func TestSignUp_Fields(t *testing.T) {
	w := newWorld(t)
	w.ada()
	for _, c := range []struct {
		name string
		form people.SignUp
		want map[string]oauth.Reason
	}{
		{"everything is reported at once", people.SignUp{}, map[string]oauth.Reason{"name": oauth.FieldRequired, "email": oauth.FieldRequired, "password": oauth.FieldRequired}},
		{"name of spaces", people.SignUp{Name: "  ", Email: "a@b.c", Password: good}, map[string]oauth.Reason{"name": oauth.FieldRequired}},
		{"name of 101 characters", people.SignUp{Name: strings.Repeat("é", 101), Email: "a@b.c", Password: good}, map[string]oauth.Reason{"name": oauth.FieldTooLong}},
		{"name that turns the line", people.SignUp{Name: "Ada\u202e", Email: "a@b.c", Password: good}, map[string]oauth.Reason{"name": oauth.FieldUnclean}},
		{"name with a line break", people.SignUp{Name: "A\nB", Email: "a@b.c", Password: good}, map[string]oauth.Reason{"name": oauth.FieldUnclean}},
		{"name that is not UTF-8", people.SignUp{Name: "A\xff", Email: "a@b.c", Password: good}, map[string]oauth.Reason{"name": oauth.FieldUnclean}},
		{"address without @", people.SignUp{Name: "Ada", Email: "ada", Password: good}, map[string]oauth.Reason{"email": people.ReasonEmailMalformed}},
		{"address that is taken", people.SignUp{Name: "Ada", Email: "ADA@example.com", Password: good}, map[string]oauth.Reason{"email": people.ReasonEmailTaken}},
		{"password of 7", people.SignUp{Name: "Ada", Email: "a@b.c", Password: "sevench"}, map[string]oauth.Reason{"password": people.ReasonPasswordShort}},
		{"password of 7 characters, 14 bytes", people.SignUp{Name: "Ada", Email: "a@b.c", Password: "ééééééé"}, map[string]oauth.Reason{"password": people.ReasonPasswordShort}},
		{"password of 257", people.SignUp{Name: "Ada", Email: "a@b.c", Password: strings.Repeat("x", 257)}, map[string]oauth.Reason{"password": people.ReasonPasswordLong}},
		{"password that is the address", people.SignUp{Name: "Ada", Email: "some@body.example", Password: "Some@Body.example"}, map[string]oauth.Reason{"password": people.ReasonPasswordEmail}},
		{"password of everybody", people.SignUp{Name: "Ada", Email: "a@b.c", Password: "Password1"}, map[string]oauth.Reason{"password": people.ReasonPasswordCommon}},
		{"password that is not UTF-8", people.SignUp{Name: "Ada", Email: "a@b.c", Password: "longenough\xff"}, map[string]oauth.Reason{"password": oauth.FieldUnclean}},
		{"8 characters and no composition", people.SignUp{Name: "Ada", Email: "eight@b.c", Password: "xkcdxkcd"}, map[string]oauth.Reason{}},
		{"256 characters", people.SignUp{Name: "Ada", Email: "long@b.c", Password: strings.Repeat("é", 256)}, map[string]oauth.Reason{}},
		{"a Persian name with its joiner", people.SignUp{Name: "علی\u200cرضا", Email: "ali@b.c", Password: good}, map[string]oauth.Reason{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := w.signUp(c.form)
			if got := mistakes(err); !maps.Equal(got, c.want) || err != nil && len(c.want) == 0 {
				t.Errorf("%v (%v), want %v", got, err, c.want)
			}
		})
	}
}

// A page may only say that an address is taken to so many who ask.
func TestSignUp_LimitedPerNetwork(t *testing.T) {
	w := newWorld(t)
	w.ada()
	for i := range 30 {
		email := address
		if i%2 == 0 {
			email = fmt.Sprintf("new%d@example.com", i)
		}
		if _, err := w.signUp(people.SignUp{Name: "X", Email: email, Password: good}); err != nil && mistakes(err)["email"] != people.ReasonEmailTaken {
			t.Fatal(err)
		}
	}
	_, err := w.signUp(people.SignUp{Name: "X", Email: address, Password: good})
	if locked, ok := errors.AsType[people.Locked](err); !ok || !locked.Until.Equal(morning.Add(time.Hour)) {
		t.Errorf("the 31st within an hour: %v", err)
	}
	if _, err := w.signUp(people.SignUp{Name: "X", Email: "x@example.com", Password: good, IP: "192.0.2.8"}); err != nil {
		t.Errorf("from another address: %v", err)
	}
	w.pass(time.Hour)
	if _, err := w.signUp(people.SignUp{Name: "X", Email: "y@example.com", Password: good}); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}

func TestSignUp_SameAddressTwiceAtOnce(t *testing.T) {
	w := newWorld(t)
	var won, taken atomic.Int64
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			_, err := w.signUp(people.SignUp{Name: "Ada", Email: address, Password: good})
			switch {
			case err == nil:
				won.Add(1)
			case mistakes(err)["email"] == people.ReasonEmailTaken:
				taken.Add(1)
			default:
				t.Errorf("a loser is told %v", err)
			}
		})
	}
	wait.Wait()
	if won.Load() != 1 || taken.Load() != 19 {
		t.Errorf("%d won, %d were told that it is taken", won.Load(), taken.Load())
	}
}

func TestOperatorLink(t *testing.T) {
	w := newWorld(t)
	link, err := w.OperatorLink(t.Context(), oauth.Actor{Kind: oauth.AsCommand})
	if err != nil {
		t.Fatal(err)
	}
	form := people.SignUp{Name: "Op", Email: "op@example.com", Password: good, Invite: link.Reveal()}
	spoilt := form
	spoilt.Invite = link.Reveal()[:64] + string(link.Reveal()[64]^1)
	for name, invite := range map[string]string{"spoilt": spoilt.Invite, "short": "x", "another": strings.Repeat("a", 65)} {
		f := form
		f.Invite = invite
		if _, err := w.signUp(f); oauth.ReasonOf(err) != people.ReasonInviteSpent {
			t.Errorf("%s: %v, want %s", name, err, people.ReasonInviteSpent)
		}
	}
	// A mistake in the form does not spend it.
	f := form
	f.Password = "short"
	if _, err := w.signUp(f); mistakes(err)["password"] == "" {
		t.Errorf("a short password: %v", err)
	}
	w.pass(people.InviteLife - time.Microsecond)
	s, err := w.signUp(form)
	if err != nil {
		t.Fatal(err)
	}
	if !s.User.Operator || s.Actor().Kind != oauth.AsOperator {
		t.Errorf("who signed up by an operator link acts as %v", s.Actor())
	}
	form.Email = "second@example.com"
	if _, err := w.signUp(form); oauth.ReasonOf(err) != people.ReasonInviteSpent {
		t.Errorf("the second use: %v, want %s", err, people.ReasonInviteSpent)
	}
	w.want("second@example.com", good, home, people.ReasonCredentials)
	if n := len(w.events(people.EventOperatorLinkMade)); n != 1 {
		t.Errorf("%d events of the link, want 1", n)
	}

	if link, err = w.OperatorLink(t.Context(), oauth.Actor{Kind: oauth.AsCommand}); err != nil {
		t.Fatal(err)
	}
	w.pass(people.InviteLife)
	form.Invite = link.Reveal()
	if _, err := w.signUp(form); oauth.ReasonOf(err) != people.ReasonInviteSpent {
		t.Errorf("a day later: %v, want %s", err, people.ReasonInviteSpent)
	}
}

func TestOperatorLink_OneWinner(t *testing.T) {
	w := newWorld(t)
	link, err := w.OperatorLink(t.Context(), oauth.Actor{Kind: oauth.AsCommand})
	if err != nil {
		t.Fatal(err)
	}
	var won, told atomic.Int64
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			_, err := w.signUp(people.SignUp{Name: "Op", Email: fmt.Sprintf("op%d@example.com", i), Password: good, Invite: link.Reveal()})
			switch {
			case err == nil:
				won.Add(1)
			case oauth.ReasonOf(err) == people.ReasonInviteSpent:
				told.Add(1)
			default:
				t.Errorf("a loser is told %v", err)
			}
		})
	}
	wait.Wait()
	users, err := w.db.Users(t.Context(), "", oauth.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	if won.Load() != 1 || told.Load() != 19 || len(users) != 1 {
		t.Errorf("%d won, %d were told, %d users", won.Load(), told.Load(), len(users))
	}
}

func TestCreateAccount(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for _, kind := range []oauth.ActorKind{oauth.AsNobody, oauth.AsUser, oauth.AsOperator, oauth.AsClient} {
		if _, err := w.CreateAccount(ctx, oauth.Actor{Kind: kind, ID: "x"}, people.NewAccount{Name: "X"}); oauth.ReasonOf(err) != oauth.NotPermitted {
			t.Errorf("as %q: %v, want %s", kind, err, oauth.NotPermitted)
		}
	}
	u := w.account(people.NewAccount{ID: "platform/7", Name: "Ada", Email: "Ada@example.com", Password: good, Operator: true})
	if u.ID != "platform/7" || u.Email != address || !u.Operator {
		t.Errorf("user %+v", u)
	}
	if s, _ := w.signedIn(address); s.Actor() != (oauth.Actor{Kind: oauth.AsOperator, ID: "platform/7"}) {
		t.Errorf("actor %v", s.Actor())
	}
	w.account(people.NewAccount{Name: "Bare", Email: "bare@example.com"})
	w.account(people.NewAccount{Name: "Barer"})
	w.want("bare@example.com", "", home, people.ReasonCredentials)
	for name, c := range map[string]struct {
		form people.NewAccount
		want map[string]oauth.Reason
	}{
		"taken id":                    {people.NewAccount{ID: "platform/7", Name: "X", Email: "x@example.com", Password: good}, map[string]oauth.Reason{"id": oauth.IDTaken}},
		"taken id without a password": {people.NewAccount{ID: "platform/7", Name: "X"}, map[string]oauth.Reason{"id": oauth.IDTaken}},
		"taken address":               {people.NewAccount{Name: "X", Email: address, Password: good}, map[string]oauth.Reason{"email": people.ReasonEmailTaken}},
		"id with a space":             {people.NewAccount{ID: "a b", Name: "X"}, map[string]oauth.Reason{"id": oauth.IDMalformed}},
		"password without address":    {people.NewAccount{Name: "X", Password: good}, map[string]oauth.Reason{"email": oauth.FieldRequired}},
		"all of it": {people.NewAccount{ID: " ", Email: "x", Password: "x"}, map[string]oauth.Reason{"id": oauth.IDMalformed, "name": oauth.FieldRequired,
			"email": people.ReasonEmailMalformed, "password": people.ReasonPasswordShort}},
	} {
		if _, err := w.CreateAccount(ctx, command, c.form); !maps.Equal(mistakes(err), c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if n := len(w.events(oauth.EventUserCreated)); n != 3 {
		t.Errorf("%d events of creation, want 3", n)
	}
}

// Each reason has one code and one sentence: none is oauth's too, and none is
// written in words that pages avoid.
func TestReasons(t *testing.T) {
	house := oauth.Reasons()
	for r, code := range people.Reasons() {
		if _, twice := house[r]; twice || code == "" {
			t.Errorf("%s: of oauth too %v, code %q", r, twice, code)
		}
	}
}
