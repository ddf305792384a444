package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

type userCommands struct {
	Add     userAdd     `cmd:"" help:"Add a user. One with an e-mail signs in with the password that standard input or a file gives."`
	List    userList    `cmd:"" help:"List users, newest first."`
	Suspend userSuspend `cmd:"" help:"Refuse a user's sign-ins and every key that they allowed, until resumed."`
	Resume  userResume  `cmd:"" help:"End a suspension."`
	SignOut userSignOut `cmd:"" help:"End every sign-in of a user. The keys that they allowed go on."`

	Password userPassword `cmd:"" help:"Set a new password, which standard input or a file gives, for a user who forgot theirs, and end every sign-in of theirs. The keys that they allowed go on: a forgotten password is no theft."`
}

// userDoc is a user in JSON.
type userDoc struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Email    string       `json:"email"`
	Operator bool         `json:"operator"`
	Status   oauth.Status `json:"status"`
	Created  *time.Time   `json:"created"`

	Effective *effectDoc `json:"effective,omitempty"`
}

func docOfUser(u *oauth.User) userDoc {
	return userDoc{ID: u.ID, Name: u.Name, Email: u.Email, Operator: u.Operator, Status: u.Status, Created: moment(u.Created)}
}

type userAdd struct {
	Admin
	Name         string `required:"" help:"Name, as pages show it."`
	Email        string `help:"E-mail. With the password, it is what the user signs in with; without it nobody can sign in to this account."`
	ID           string `name:"id" help:"The platform's own id of this user. One is made if there is none."`
	Operator     bool   `help:"May run the platform: see and stop everything."`
	PasswordFile string `placeholder:"FILE" help:"File that holds the password, instead of standard input."`
	NoPassword   bool   `help:"Nobody can sign in to this account, and no password can be given later."`
}

// Run adds the user.
func (c *userAdd) Run(ctx context.Context, t terminal) error {
	f := people.NewAccount{ID: c.ID, Name: c.Name, Email: c.Email, Operator: c.Operator}
	switch {
	case c.Email != "" && !c.NoPassword:
		var err error
		f.Password, err = password(ctx, c.PasswordFile, t)
		if errors.Is(err, errNoPassword) {
			err = misunderstanding{fmt.Errorf("%w; --no-password makes an account that nobody signs in to", errNoPassword)}
		}
		if err != nil {
			return err
		}
	case c.PasswordFile != "" || piped(t.in):
		why, cure := "without --email", "add it, or leave the password out"
		if c.NoPassword {
			why, cure = "with --no-password", "leave out one of the two"
		}
		return misunderstanding{fmt.Errorf("a password is given, and %s nobody can sign in with it: %s (< /dev/null, where standard input is something else)", why, cure)}
	}
	return c.run(ctx, t, func(o *office) error {
		u, err := o.people.CreateAccount(ctx, command, f)
		if err != nil {
			return err
		}
		var rests string
		if f.Password == "" {
			rests = " Nobody can sign in to it."
		}
		return o.show(docOfUser(u), "Added the user %s.%s", u.ID, rests)
	})
}

type userList struct {
	Admin
	Query string `arg:"" optional:"" help:"Start of an id or e-mail, or of a word of the name."`
}

// Run lists the users.
func (c *userList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		found, err := o.server.Users(ctx, command, c.Query, everything)
		if err != nil {
			return err
		}
		var docs []userDoc
		for _, u := range found {
			docs = append(docs, docOfUser(u))
		}
		return list(o, docs, "id name email operator status created_utc", func(d userDoc) []any {
			return []any{d.ID, d.Name, d.Email, d.Operator, d.Status, d.Created}
		})
	})
}

type userSuspend struct {
	Ending
	ID string `arg:"" help:"Id of the user."`
}

// Run suspends the user.
func (c *userSuspend) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setUser(ctx, c.ID, oauth.Suspended, o.server.SuspendUser)
	})
}

type userResume struct {
	Ending
	ID string `arg:"" help:"Id of the user."`
}

// Run resumes the user.
func (c *userResume) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setUser(ctx, c.ID, oauth.Active, o.server.ResumeUser)
	})
}

type userSignOut struct {
	Admin
	ID string `arg:"" help:"Id of the user."`
}

// Run signs the user out everywhere.
func (c *userSignOut) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		u, err := o.server.User(ctx, command, c.ID)
		if err == nil {
			err = o.people.EndSessions(ctx, command, c.ID)
		}
		if err != nil {
			return about{"user " + cell(c.ID), err}
		}
		return o.show(docOfUser(u), "The user %s is signed out everywhere.", c.ID)
	})
}

type userPassword struct {
	Admin
	ID           string `arg:"" help:"Id of the user."`
	PasswordFile string `placeholder:"FILE" help:"File that holds the password, instead of standard input."`
}

// Run sets the password.
func (c *userPassword) Run(ctx context.Context, t terminal) error {
	secret, err := password(ctx, c.PasswordFile, t)
	if err != nil {
		return err
	}
	return c.run(ctx, t, func(o *office) error {
		u, err := o.people.SetPassword(ctx, command, c.ID, secret)
		if err != nil {
			return about{"user " + cell(c.ID), err}
		}
		var rests string
		if u.Status == oauth.Suspended {
			rests = "\nThe account is suspended: nobody signs in to it until grantway user resume."
		}
		return o.show(docOfUser(u), "The user %s has a new password, and is signed out everywhere.%s", c.ID, rests)
	})
}

// setUser does nothing where it is so already: a script may repeat itself.
func (o *office) setUser(ctx context.Context, id string, to oauth.Status, set func(context.Context, oauth.Actor, string) error) error {
	u, err := o.server.User(ctx, command, id)
	if err == nil && u.Status != to {
		err = set(ctx, command, id)
	}
	if err != nil {
		return about{"user " + cell(id), err}
	}
	u.Status = to
	d := docOfUser(u)
	effect, say := o.effect(ctx)
	d.Effective = effect
	return o.show(d, "The user %s is %s.%s", id, to, say)
}
