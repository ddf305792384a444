package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

type storeCommands struct {
	Add  storeAdd  `cmd:"" help:"Add a store under the platform's own id, or change its name and domain."`
	List storeList `cmd:"" help:"List stores by name."`
}

// storeDoc is a store in JSON.
type storeDoc struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Domain  string       `json:"domain"`
	Status  oauth.Status `json:"status"`
	Created *time.Time   `json:"created,omitempty"`
}

type storeAdd struct {
	Admin
	ID     string `arg:"" help:"The platform's own id of the store."`
	Name   string `required:"" help:"Name, as pages show it."`
	Domain string `help:"Address shown beside the name."`
}

// Run adds or changes the store.
func (c *storeAdd) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		if err := o.server.PutStore(ctx, command, oauth.Store{ID: c.ID, Name: c.Name, Domain: c.Domain}); err != nil {
			return err
		}
		return o.show(storeDoc{ID: c.ID, Name: c.Name, Domain: c.Domain, Status: oauth.Active}, "The store %s is there.", c.ID)
	})
}

type storeList struct {
	Admin
	Query string `arg:"" optional:"" help:"Start of an id or domain, or of a word of the name."`
}

// Run lists the stores.
func (c *storeList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		found, err := o.server.Stores(ctx, command, c.Query, everything)
		if err != nil {
			return err
		}
		var docs []storeDoc
		for _, s := range found {
			docs = append(docs, storeDoc{s.ID, s.Name, s.Domain, s.Status, moment(s.Created)})
		}
		return list(o, docs, "id name domain status created", func(d storeDoc) []any {
			return []any{d.ID, d.Name, d.Domain, d.Status, d.Created}
		})
	})
}

type memberCommands struct {
	Add    memberAdd    `cmd:"" help:"Say what a user may do in a store. Keys follow at once."`
	Remove memberRemove `cmd:"" help:"End what a user may do in a store. Keys follow at once."`
	List   memberList   `cmd:"" help:"List the stores of a user and what they may do there."`
}

// memberDoc is a membership in JSON.
type memberDoc struct {
	UserID      string       `json:"user_id"`
	StoreID     string       `json:"store_id"`
	StoreName   string       `json:"store_name,omitempty"`
	StoreStatus oauth.Status `json:"store_status,omitempty"`
	Owner       bool         `json:"owner"`
	MayDelegate bool         `json:"may_delegate"`
	Scopes      []string     `json:"scopes"`
}

func docOfMember(m oauth.Membership) memberDoc {
	return memberDoc{m.UserID, m.StoreID, m.StoreName, m.StoreStatus, m.Owner, m.MayDelegate, texts(m.Scopes)}
}

type memberAdd struct {
	Admin
	User        string   `arg:"" help:"Id of the user."`
	Store       string   `arg:"" help:"Id of the store."`
	Owner       bool     `help:"May do everything in the store."`
	Scope       []string `help:"What else they may do: scopes of the catalogue, with commas between."`
	MayDelegate bool     `default:"true" negatable:"" help:"May connect apps to the store."`
}

// Run sets the membership.
func (c *memberAdd) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		m := oauth.Membership{UserID: c.User, StoreID: c.Store, Owner: c.Owner, Scopes: oauth.Scopes(c.Scope...), MayDelegate: c.MayDelegate}
		if err := o.server.SetMembership(ctx, command, m); err != nil {
			if oauth.ReasonOf(err) == oauth.NoSuch {
				return o.whatIsMissing(ctx, c.User, c.Store)
			}
			return about{"user " + cell(c.User) + " in store " + cell(c.Store), err}
		}
		return o.show(docOfMember(m), "The user %s is a member of %s.", c.User, c.Store)
	})
}

// whatIsMissing says which of a user and a store is not there.
func (o *office) whatIsMissing(ctx context.Context, user, store string) error {
	var missing []error
	switch _, err := o.server.User(ctx, command, user); {
	case oauth.ReasonOf(err) == oauth.NoSuch:
		missing = append(missing, fmt.Errorf("there is no user %s; grantway user list shows who is there", cell(user)))
	case err != nil:
		return err
	}
	stores, err := o.server.Stores(ctx, command, store, everything)
	switch {
	case err != nil:
		return err
	case !slices.ContainsFunc(stores, func(s *oauth.Store) bool { return s.ID == store }):
		missing = append(missing, fmt.Errorf("there is no store %s; grantway store add makes it", cell(store)))
	}
	return errors.Join(missing...)
}

type memberRemove struct {
	Ending
	User  string `arg:"" help:"Id of the user."`
	Store string `arg:"" help:"Id of the store."`
}

// Run drops the membership.
func (c *memberRemove) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		if err := o.server.DropMembership(ctx, command, c.User, c.Store); err != nil {
			return about{"user " + cell(c.User) + " in store " + cell(c.Store), err}
		}
		effect, say := o.effect(ctx)
		return o.show(struct {
			UserID    string     `json:"user_id"`
			StoreID   string     `json:"store_id"`
			Removed   bool       `json:"removed"`
			Effective *effectDoc `json:"effective,omitempty"`
		}{c.User, c.Store, true, effect}, "The user %s is no longer a member of %s.%s", c.User, c.Store, say)
	})
}

type memberList struct {
	Admin
	User string `arg:"" help:"Id of the user."`
}

// Run lists the memberships of a user.
func (c *memberList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		if _, err := o.server.User(ctx, command, c.User); err != nil {
			return about{"user " + cell(c.User), err}
		}
		found, err := o.server.Memberships(ctx, command, c.User)
		if err != nil {
			return err
		}
		var docs []memberDoc
		for _, m := range found {
			docs = append(docs, docOfMember(m))
		}
		return list(o, docs, "store name status owner may_delegate scopes", func(d memberDoc) []any {
			return []any{d.StoreID, d.StoreName, d.StoreStatus, d.Owner, d.MayDelegate, strings.Join(d.Scopes, " ")}
		})
	})
}
