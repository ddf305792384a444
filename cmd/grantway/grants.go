package main

import (
	"context"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

type grantCommands struct {
	List    grantList    `cmd:"" help:"List what users allowed, newest first; last_used is to the hour."`
	Revoke  grantRevoke  `cmd:"" help:"End a grant and every key under it, for ever."`
	Suspend grantSuspend `cmd:"" help:"Refuse the keys of a grant until it is resumed."`
	Resume  grantResume  `cmd:"" help:"Let a suspended grant go on."`
}

// grantDoc is a grant in JSON.
type grantDoc struct {
	ID         string            `json:"id"`
	UserID     string            `json:"user_id"`
	ClientID   string            `json:"client_id"`
	ClientName string            `json:"client_name"`
	Status     oauth.GrantStatus `json:"status"`
	Scopes     []string          `json:"scopes"`
	Account    []string          `json:"account_scopes"`
	AllStores  bool              `json:"all_stores"`
	Stores     []grantStoreDoc   `json:"stores"`
	Keys       int               `json:"keys"`
	Created    *time.Time        `json:"created"`
	LastUsed   *time.Time        `json:"last_used"`
}

type grantStoreDoc struct {
	ID     string   `json:"id"`
	Scopes []string `json:"scopes"`
}

func docOfGrant(c oauth.Connection) grantDoc {
	d := grantDoc{c.ID, c.UserID, c.ClientID, c.Client.Name, c.Status, texts(c.Scopes), texts(c.Account), c.AllStores,
		[]grantStoreDoc{}, c.Keys, moment(c.Created), moment(c.LastUsed)}
	for _, s := range c.Grant.Stores {
		if s.Scopes == nil {
			s.Scopes = c.Scopes
		}
		d.Stores = append(d.Stores, grantStoreDoc{s.StoreID, texts(s.Scopes)})
	}
	return d
}

type grantList struct {
	Admin
	User   string `placeholder:"ID" help:"Only those of a user."`
	Client string `placeholder:"ID" help:"Only those to an app."`
	Store  string `placeholder:"ID" help:"Only those that name a store."`
	Live   bool   `help:"Only those that are live or suspended."`
}

// Run lists the grants.
func (c *grantList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		found, err := o.server.Grants(ctx, command, oauth.GrantFilter{UserID: c.User, ClientID: c.Client, StoreID: c.Store, OnlyLive: c.Live, Page: everything})
		if err != nil {
			return err
		}
		for _, x := range [][2]string{{"user", c.User}, {"app", c.Client}, {"store", c.Store}} {
			if err := o.checkFilter(ctx, len(found), x[0], x[1]); err != nil {
				return err
			}
		}
		var docs []grantDoc
		for _, g := range found {
			docs = append(docs, docOfGrant(g))
		}
		return list(o, docs, "id user app status keys stores created_utc last_used_utc", func(d grantDoc) []any {
			var stores []string
			for _, s := range d.Stores {
				stores = append(stores, s.ID)
			}
			if d.AllStores {
				stores = []string{"all"}
			}
			return []any{d.ID, d.UserID, d.ClientName, d.Status, d.Keys, strings.Join(stores, " "), d.Created, d.LastUsed}
		})
	})
}

type grantRevoke struct {
	Ending
	ID string `arg:"" help:"Id of the grant."`
}

// Run revokes the grant.
func (c *grantRevoke) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setGrant(ctx, c.ID, oauth.GrantIsRevoked, o.server.RevokeGrant)
	})
}

type grantSuspend struct {
	Ending
	ID string `arg:"" help:"Id of the grant."`
}

// Run suspends the grant.
func (c *grantSuspend) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setGrant(ctx, c.ID, oauth.GrantOnHold, o.server.SuspendGrant)
	})
}

type grantResume struct {
	Ending
	ID string `arg:"" help:"Id of the grant."`
}

// Run resumes the grant.
func (c *grantResume) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setGrant(ctx, c.ID, oauth.Live, o.server.ResumeGrant)
	})
}

func (o *office) setGrant(ctx context.Context, id string, to oauth.GrantStatus, set func(context.Context, oauth.Actor, string) error) error {
	if err := set(ctx, command, id); err != nil {
		if oauth.ReasonOf(err) == oauth.Changed {
			found, err := o.server.Grants(ctx, command, oauth.GrantFilter{ID: id, Page: everything})
			if err != nil {
				return err
			}
			if len(found) == 1 && found[0].Status == to {
				return refusal("grant " + cell(id) + " is " + string(to) + " already")
			}
			return refusal("grant " + cell(id) + " is not in a state from which it could be " + string(to) + "; see grant list")
		}
		return about{"grant " + cell(id), err}
	}
	effect, say := o.effect(ctx)
	return o.show(struct {
		ID        string            `json:"id"`
		Status    oauth.GrantStatus `json:"status"`
		Effective *effectDoc        `json:"effective,omitempty"`
	}{id, to, effect}, "The grant %s is %s.%s", id, to, say)
}

type refusal string

func (r refusal) Error() string { return string(r) }
