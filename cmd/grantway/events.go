package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/portal"
)

type eventsCommands struct {
	List   eventsCommand `cmd:"" default:"withargs" help:"Show what happened lately, newest first."`
	Export exportCommand `cmd:"" help:"Append every event to a file, from which a restore learns what ended after its backup."`
}

type eventsCommand struct {
	Admin
	Limit  int    `default:"50" help:"How many at most; 0 shows all."`
	User   string `placeholder:"ID" help:"Only those about a user."`
	Client string `placeholder:"ID" help:"Only those about an app."`
	Grant  string `placeholder:"ID" help:"Only those about a grant."`
	Kind   string `placeholder:"KIND" help:"Only those of a kind, such as client.created, or client for all about apps."`
	Before string `placeholder:"ID" help:"Only those older than this event."`
}

// eventDoc is an event in JSON. seq is 0 for events that only issue.
type eventDoc struct {
	ID       string          `json:"id"`
	Seq      int64           `json:"seq"`
	At       time.Time       `json:"at"`
	Kind     oauth.Kind      `json:"kind"`
	Actor    string          `json:"actor"`
	ClientID string          `json:"client_id"`
	UserID   string          `json:"user_id"`
	GrantID  string          `json:"grant_id"`
	StoreID  string          `json:"store_id"`
	Request  string          `json:"request_id"`
	Payload  json.RawMessage `json:"payload"`
}

// Run lists events.
func (c *eventsCommand) Run(ctx context.Context, t terminal) error {
	if c.Limit < 0 {
		return misunderstanding{errors.New("--limit is a number from 0 on")}
	}
	if err := c.checkKind(); err != nil {
		return err
	}
	return c.run(ctx, t, func(o *office) error {
		if err := o.checkBefore(ctx, c.Before); err != nil {
			return err
		}
		f := oauth.EventFilter{UserID: c.User, ClientID: c.Client, GrantID: c.Grant, Kind: oauth.Kind(c.Kind), Before: c.Before, Limit: c.Limit}
		if f.Limit == 0 {
			f.Limit = everything.Limit
		}
		found, err := o.server.Events(ctx, command, f)
		if err != nil {
			return err
		}
		for _, x := range [][2]string{{"user", c.User}, {"app", c.Client}, {"grant", c.Grant}} {
			if err := o.checkFilter(ctx, len(found), x[0], x[1]); err != nil {
				return err
			}
		}
		var docs []eventDoc
		for _, e := range found {
			docs = append(docs, eventDoc{e.ID, e.Seq, e.At, e.Kind, e.Actor, e.ClientID, e.UserID, e.GrantID, e.StoreID, e.Request, e.Payload})
		}
		return list(o, docs, "at_utc kind actor app user grant store details", func(d eventDoc) []any {
			return []any{d.At, d.Kind, d.Actor, d.ClientID, d.UserID, d.GrantID, d.StoreID, string(d.Payload)}
		})
	})
}

// checkKind refuses a kind that there is not: it would find nothing, as if nothing had happened.
func (c *eventsCommand) checkKind() error {
	kinds, err := portal.EventKinds()
	if err != nil || c.Kind == "" {
		return err
	}
	var groups []string
	for _, kind := range kinds {
		group, _, _ := strings.Cut(string(kind), ".")
		if c.Kind == string(kind) || c.Kind == group {
			return nil
		}
		if !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return misunderstanding{fmt.Errorf("--kind %s: no event is of this kind; write one such as client.created, or all of one of %s", cell(c.Kind), strings.Join(groups, ", "))}
}

// checkBefore refuses the id of no event: whatever it is, some events come before it, or none.
func (o *office) checkBefore(ctx context.Context, id string) error {
	if id == "" {
		return nil
	}
	found, err := o.server.Events(ctx, command, oauth.EventFilter{Before: id + "0", Limit: 1}) // all ids are as long
	if err == nil && (len(found) == 0 || found[0].ID != id) {
		err = refusal("there is no event " + cell(id) + "; grantway events --json shows their ids")
	}
	return err
}

type operatorLinkCommand struct{ Admin }

// linkDoc is an operator link in JSON.
type linkDoc struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// until is the moment in the zone of this machine, which is named: the link is for
// somebody who may sit in another.
func (l linkDoc) until() string { return l.Expires.Local().Format("2 January 15:04 MST") }

// Run prints a fresh link.
func (c *operatorLinkCommand) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		link, err := o.operatorLink(ctx)
		if err != nil {
			return err
		}
		return o.show(link, "Whoever signs up here becomes an operator, once, before %s:\n%s", link.until(), link.URL)
	})
}

func (o *office) operatorLink(ctx context.Context) (linkDoc, error) {
	expires := o.server.Now().Add(people.InviteLife)
	secret, err := o.people.OperatorLink(ctx, command)
	if err != nil {
		return linkDoc{}, err
	}
	return linkDoc{o.server.PagesURL() + "/sign-up?" + url.Values{"invite": {secret.Reveal()}}.Encode(), expires}, nil
}
