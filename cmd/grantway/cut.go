package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type keyCommands struct {
	List keyList `cmd:"" help:"List the keys that the server signs with, oldest first."`
	Cut  keyCut  `cmd:"" help:"End all that a signing key has signed, and sign with a new one from now on."`
}

// keyDoc is a signing key in JSON.
type keyDoc struct {
	Kid     string       `json:"kid"`
	Use     oauth.KeyUse `json:"use"`
	Status  oauth.Status `json:"status"`
	Created *time.Time   `json:"created"`
}

type keyList struct{ Admin }

// Run lists the signing keys.
func (c *keyList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		keys, err := o.server.SigningKeys(ctx, command)
		if err != nil {
			return err
		}
		var docs []keyDoc
		for _, k := range keys {
			docs = append(docs, keyDoc{k.Kid, k.Use, k.Status, moment(k.Created)})
		}
		return list(o, docs, "kid use status created_utc", func(d keyDoc) []any { return []any{d.Kid, d.Use, d.Status, d.Created} })
	})
}

// Sure is for commands that nothing takes back: they say what they mean to do, and ask.
type Sure struct {
	Yes bool `help:"Do not ask."`
}

func (s Sure) asked(ctx context.Context, t terminal, what string) error {
	if s.Yes {
		return nil
	}
	fmt.Fprint(t.err, what+"\nThis cannot be taken back. Type yes to go on: ")
	line, err := typed(ctx, t.in)
	if err != nil {
		fmt.Fprintln(t.err) // the question ends no line
		return interrupted(ctx, err, "nothing was done")
	}
	if strings.TrimSpace(line) != "yes" {
		return refusal("nothing was done; with --yes nobody is asked")
	}
	return nil
}

type keyCut struct {
	Ending
	Sure
	Kid string `arg:"" help:"Id of the key, as key list prints it."`
}

// what its end means, by the use of a key.
var cutMeans = map[oauth.KeyUse]string{
	oauth.ForAccess:  "Every access token that it signed is refused from now on. Apps get new ones by their refresh tokens.",
	oauth.ForLasting: "Every lasting key that it signed is refused from now on, for ever. There is no refresh: each app has to send people through consent again.",
}

// Run cuts the key off.
func (c *keyCut) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		keys, err := o.server.SigningKeys(ctx, command)
		if err != nil {
			return err
		}
		means := ""
		for _, k := range keys {
			if k.Kid == c.Kid && k.Status != oauth.KeyCut {
				means = cutMeans[k.Use]
			}
		}
		if means == "" {
			return refusal("there is no signing key " + cell(c.Kid) + " that is not cut off yet; see key list")
		}
		if err := c.asked(ctx, t, means); err != nil {
			return err
		}
		if err := o.server.CutKey(ctx, command, c.Kid); err != nil {
			return about{"signing key " + cell(c.Kid), err}
		}
		effect, say := o.effect(ctx)
		return o.show(struct {
			Kid       string       `json:"kid"`
			Status    oauth.Status `json:"status"`
			Effective *effectDoc   `json:"effective,omitempty"`
		}{c.Kid, oauth.KeyCut, effect}, "The signing key %s is cut off, and another signs.%s", c.Kid, say)
	})
}

type revokeEverythingCommand struct {
	Ending
	Sure
}

// Run ends every key and refresh token.
func (c *revokeEverythingCommand) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		err := c.asked(ctx, t, "Every key and every refresh token of every app ends. What people allowed stays, and each app has to send them through consent again to get a key.")
		if err != nil {
			return err
		}
		if err := o.server.CutEverything(ctx, command); err != nil {
			return err
		}
		effect, say := o.effect(ctx)
		return o.show(struct {
			Revoked   bool       `json:"revoked"`
			Effective *effectDoc `json:"effective,omitempty"`
		}{true, effect}, "Every key and every refresh token has ended.%s", say)
	})
}

type newEpochCommand struct {
	Admin
	Sure
}

// Run begins an epoch on the database as it is.
func (c *newEpochCommand) Run(ctx context.Context, t terminal) error {
	return c.onStore(ctx, t, func(cfg config.Config, ring *oauth.KeyRing, store *sqlstore.Store) error {
		if err := ours(ctx, cfg, ring, store); err != nil {
			return err
		}
		err := c.asked(ctx, t, "The database as it is now becomes the truth. Keys issued in what it has lost are refused, and what was revoked there counts again. People sign in again.")
		if err != nil {
			return err
		}
		now := time.Now()
		_, seen, err := store.Head(ctx)
		if err != nil {
			return err
		}
		what := oauth.Restored{Made: now}
		if what.Epoch, err = sqlstore.NextEpoch(now, seen, 0); err != nil {
			return err
		}
		warnAhead(t, what.Epoch, now)
		err = store.NewEpoch(ctx, what.Epoch, func(fromEpoch, fromSeq int64) (oauth.Event, error) {
			what.FromEpoch, what.FromSeq = fromEpoch, fromSeq
			return oauth.NewRestored(now, rand.Reader, what)
		})
		if err != nil {
			return err
		}
		o := &office{json: c.JSON, out: t.out}
		return o.show(struct {
			Epoch int64 `json:"epoch"`
			From  int64 `json:"from_epoch"`
		}{what.Epoch, what.FromEpoch}, "The epoch %d has begun. Nodes and API servers follow by themselves.", what.Epoch)
	})
}

// ours refuses the database of another installation, as its keys and its audiences show.
func ours(ctx context.Context, cfg config.Config, ring *oauth.KeyRing, store *sqlstore.Store) error {
	if _, err := needed(ctx, cfg, ring, store); err != nil {
		return err
	}
	apis, err := store.APIs(ctx)
	if err != nil {
		return err
	}
	var known []string
	for _, a := range apis {
		if a.URI == cfg.APIAudience {
			return nil
		}
		known = append(known, cell(a.URI))
	}
	return fmt.Errorf("the database is another installation's: it has issued keys for %s, and here api_audience is %s: name the right database and the configuration that was made with it", strings.Join(known, " and "), cfg.APIAudience)
}
