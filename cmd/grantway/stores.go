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
		return list(o, docs, "id name domain status created_utc", func(d storeDoc) []any {
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
				return errors.Join(o.known(ctx, "user", c.User), o.known(ctx, "store", c.Store))
			}
			return about{"user " + cell(c.User) + " in store " + cell(c.Store), err}
		}
		return o.show(docOfMember(m), "The user %s is a member of %s.", c.User, c.Store)
	})
}

// known is nil where there is a user, an app, a grant or a store of this id.
func (o *office) known(ctx context.Context, kind, id string) error {
	there := true
	var err error
	switch kind {
	case "user":
		_, err = o.server.User(ctx, command, id)
	case "app":
		if _, err = o.server.MyClient(ctx, command, id); oauth.ReasonOf(err) == oauth.NoSuch {
			// An API, whose wrong secrets are told of like those of an app.
			var apis []*oauth.API
			apis, err = o.server.APIs(ctx, command)
			there = slices.ContainsFunc(apis, func(a *oauth.API) bool { return a.ID == id })
		}
	case "grant":
		var found []oauth.Connection
		found, err = o.server.Grants(ctx, command, oauth.GrantFilter{ID: id, Page: everything})
		there = len(found) > 0
	case "store":
		var found []*oauth.Store
		found, err = o.server.Stores(ctx, command, id, everything)
		there = slices.ContainsFunc(found, func(s *oauth.Store) bool { return s.ID == id })
	}
	switch {
	case oauth.ReasonOf(err) == oauth.NoSuch, err == nil && !there:
		return refusal(missing(kind + " " + cell(id)))
	}
	return err
}

// checkFilter refuses an id that nothing has where nothing was found by it, as if nothing had
// happened. What is left of a thing that is gone is shown, with a line that says so.
func (o *office) checkFilter(ctx context.Context, found int, kind, id string) error {
	if id == "" {
		return nil
	}
	err := o.known(ctx, kind, id)
	if _, gone := errors.AsType[refusal](err); gone && found > 0 {
		_, err = fmt.Fprintf(o.err, "grantway: %v; this is what is left of it\n", err)
	}
	return err
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
			return about{"membership of the user " + cell(c.User) + " in the store " + cell(c.Store), err}
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
