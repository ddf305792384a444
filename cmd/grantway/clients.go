package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

type clientCommands struct {
	Add     clientAdd     `cmd:"" help:"Register an app and print its secret, once. It belongs to nobody, and nothing changes or deletes it afterwards: where a redirect was wrong, add a new app and suspend this one."`
	List    clientList    `cmd:"" help:"List apps by name."`
	Suspend clientSuspend `cmd:"" help:"Stop an app at once: no codes, no keys, and its keys are refused until it is resumed."`
	Resume  clientResume  `cmd:"" help:"Let a suspended app go on."`
	Verify  clientVerify  `cmd:"" help:"Vouch for an app: people see a badge."`
	Secret  secretCommand `cmd:"" help:"Add and revoke secrets, so that one can be replaced without an outage."`
}

// clientDoc is an app in JSON. The secret is there only when the app is added.
type clientDoc struct {
	ClientID     string            `json:"client_id"`
	ClientSecret string            `json:"client_secret,omitempty"`
	Name         string            `json:"name"`
	Type         oauth.ClientType  `json:"type"`
	Profile      oauth.ProfileName `json:"profile"`
	Owner        string            `json:"owner"`
	Status       oauth.Status      `json:"status"`
	Verified     bool              `json:"verified"`
	RedirectURIs []string          `json:"redirect_uris"`
	Scopes       []scopeDoc        `json:"scopes"`
	Secrets      []secretDoc       `json:"secrets"`
	Created      *time.Time        `json:"created"`
	Effective    *effectDoc        `json:"effective,omitempty"`
}

type scopeDoc struct {
	Name     string `json:"name"`
	Required bool   `json:"required"`
}

type secretDoc struct {
	Last4    string     `json:"last4"`
	Created  *time.Time `json:"created"`
	LastUsed *time.Time `json:"last_used"`
}

func docOfClient(c *oauth.Client, secret oauth.Secret) clientDoc {
	d := clientDoc{ClientID: c.ID, ClientSecret: secret.Reveal(), Name: c.Name, Type: c.Type, Profile: c.Profile, Owner: c.Owner, Status: c.Status,
		Verified: c.Settings.Verified, RedirectURIs: []string{}, Scopes: []scopeDoc{}, Secrets: []secretDoc{}, Created: moment(c.Created)}
	for _, r := range c.Redirects {
		d.RedirectURIs = append(d.RedirectURIs, string(r))
	}
	for _, s := range c.Scopes {
		d.Scopes = append(d.Scopes, scopeDoc{s.Name, s.Required})
	}
	for _, s := range c.Secrets {
		d.Secrets = append(d.Secrets, secretDoc{s.Last4, moment(s.Created), moment(s.LastUsed)})
	}
	return d
}

type clientAdd struct {
	Admin
	Name          string   `required:"" help:"Name, as people see it when they are asked."`
	Profile       string   `enum:"standard,exchange,direct" default:"standard" help:"standard (OAuth 2.1), exchange (lasting keys at /oauth2/{appId}/exchange) or direct (guests)."`
	Public        bool     `help:"The app can keep no secret: it runs in a browser or on a phone. A direct app always is."`
	Redirect      []string `sep:"none" placeholder:"URL" help:"Where people are sent back to; may be repeated."`
	Scope         []string `help:"Scopes that the app needs, with commas between."`
	OptionalScope []string `help:"Scopes that people may decline, with commas between."`
	ID            string   `name:"id" help:"Id that the app has already. One is made if there is none."`
	Homepage      string   `placeholder:"URL" help:"The app's home page."`
	Terms         string   `placeholder:"URL" help:"The app's terms of service."`
	Privacy       string   `placeholder:"URL" help:"The app's privacy policy."`
	NoPKCE        bool     `name:"no-pkce" help:"Standard apps with a secret: PKCE is not required."`
	Iss           bool     `help:"Exchange apps: send iss with each code (RFC 9207)."`
	RotateRefresh bool     `help:"Direct apps: each refresh token is replaced when used."`
	ContinueGuest bool     `help:"Direct apps: x-dressipi-jwt at authorize continues its guest."`
	APIKeyFile    string   `name:"api-key-file" placeholder:"FILE" help:"Direct apps: file with the x-api-key that requests must carry."`
}

func (c *clientAdd) form() (oauth.ClientForm, error) {
	f := oauth.ClientForm{ID: c.ID, Name: c.Name, Type: oauth.Confidential, Profile: oauth.ProfileName(c.Profile), Redirects: c.Redirect,
		Homepage: c.Homepage, Terms: c.Terms, Privacy: c.Privacy,
		Settings: oauth.ClientSettings{NoPKCE: c.NoPKCE, Iss: c.Iss, RotateRefresh: c.RotateRefresh, ContinueGuest: c.ContinueGuest}}
	for _, x := range []struct {
		given, fits bool
		says        string
	}{
		{c.NoPKCE, f.Profile == oauth.Standard && !c.Public, "--no-pkce is for standard apps with a secret"},
		{c.Iss, f.Profile == oauth.Exchange, "--iss is for exchange apps"},
		{c.RotateRefresh, f.Profile == oauth.Direct, "--rotate-refresh is for direct apps"},
		{c.ContinueGuest, f.Profile == oauth.Direct, "--continue-guest is for direct apps"},
		{c.APIKeyFile != "", f.Profile == oauth.Direct, "--api-key-file is for direct apps"},
	} {
		if x.given && !x.fits {
			return f, misunderstanding{errors.New(x.says)}
		}
	}
	switch {
	case f.Profile == oauth.Direct:
		f.Type = oauth.Public
		if len(f.Redirects) == 0 {
			f.Redirects = []string{oauth.OutOfBand}
		}
	case f.Profile == oauth.Exchange && c.Public:
		return f, misunderstanding{errors.New("an exchange app authenticates with its secret; leave out --public")}
	case c.Public:
		f.Type = oauth.Public
	}
	for _, s := range c.Scope {
		f.Scopes = append(f.Scopes, oauth.ClientScope{Name: s, Required: true})
	}
	for _, s := range c.OptionalScope {
		f.Scopes = append(f.Scopes, oauth.ClientScope{Name: s})
	}
	if c.APIKeyFile != "" {
		data, err := os.ReadFile(c.APIKeyFile)
		if err != nil {
			return f, err
		}
		key := strings.TrimSpace(string(data))
		if key == "" {
			return f, misunderstanding{errors.New(c.APIKeyFile + " is empty")}
		}
		f.Settings.APIKeyHash = oauth.HashOf(oauth.Secret(key))
	}
	return f, nil
}

// Run registers the app.
func (c *clientAdd) Run(ctx context.Context, t terminal) error {
	f, err := c.form()
	if err != nil {
		return err
	}
	return c.run(ctx, t, func(o *office) error {
		client, secret, err := o.server.CreateClient(ctx, command, f)
		if err != nil {
			return err
		}
		if secret == "" {
			return o.show(docOfClient(client, ""), "Added the app %s.\nclient id  %s", client.Name, client.ID)
		}
		return o.show(docOfClient(client, secret), "Added the app %s. Its secret is shown this once.\nclient id  %s\nsecret     %s", client.Name, client.ID, secret.Reveal())
	})
}

type clientList struct{ Admin }

// Run lists the apps.
func (c *clientList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		found, err := o.server.Clients(ctx, command, true, everything)
		if err != nil {
			return err
		}
		var docs []clientDoc
		for _, client := range found {
			docs = append(docs, docOfClient(client, ""))
		}
		return list(o, docs, "client_id name profile type status verified owner created_utc", func(d clientDoc) []any {
			return []any{d.ClientID, d.Name, d.Profile, d.Type, d.Status, d.Verified, d.Owner, d.Created}
		})
	})
}

type clientSuspend struct {
	Ending
	ID string `arg:"" help:"Client id of the app."`
}

// Run suspends the app.
func (c *clientSuspend) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setClient(ctx, c.ID, oauth.Suspended, o.server.SuspendClient)
	})
}

type clientResume struct {
	Ending
	ID string `arg:"" help:"Client id of the app."`
}

// Run resumes the app.
func (c *clientResume) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		return o.setClient(ctx, c.ID, oauth.Active, o.server.ResumeClient)
	})
}

// setClient does nothing where it is so already.
func (o *office) setClient(ctx context.Context, id string, to oauth.Status, set func(context.Context, oauth.Actor, string) error) error {
	client, err := o.server.MyClient(ctx, command, id)
	if err == nil && client.Status != to {
		err = set(ctx, command, id)
	}
	if err != nil {
		return about{"app " + cell(id), err}
	}
	d := docOfClient(client, "")
	effect, say := o.effect(ctx)
	d.Status, d.Effective = to, effect
	return o.show(d, "The app %s is %s.%s", id, to, say)
}

type clientVerify struct {
	Admin
	ID       string `arg:"" help:"Client id of the app."`
	Withdraw bool   `help:"Take the badge away."`
}

// Run gives or takes the badge.
func (c *clientVerify) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		client, err := o.server.MyClient(ctx, command, c.ID)
		if err == nil {
			err = o.server.VerifyClient(ctx, command, c.ID, client.Version, !c.Withdraw)
		}
		if err != nil {
			return about{"app " + cell(c.ID), err}
		}
		d := docOfClient(client, "") // as it was read, which is what was vouched for
		d.Verified = !c.Withdraw
		if c.Withdraw {
			return o.show(d, "The app %s, %s, has no badge.", c.ID, cell(client.Name))
		}
		return o.show(d, "The app %s, %s, has the badge.", c.ID, cell(client.Name))
	})
}

type secretCommand struct {
	Add    secretAdd    `cmd:"" help:"Give an app a second secret and print it, once."`
	Revoke secretRevoke `cmd:"" help:"End the secret with these last four characters."`
}

type secretAdd struct {
	Admin
	ID string `arg:"" help:"Client id of the app."`
}

// credentials are a fresh secret in JSON.
type credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// Run adds a secret.
func (c *secretAdd) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		secret, err := o.server.AddSecret(ctx, command, c.ID)
		if err != nil {
			return about{"app " + cell(c.ID), err}
		}
		return o.show(credentials{c.ID, secret.Reveal()}, "The new secret, shown this once:\n%s", secret.Reveal())
	})
}

type secretRevoke struct {
	Admin
	ID    string `arg:"" help:"Client id of the app."`
	Last4 string `arg:"" help:"Last four characters of the secret; -- goes before them if they begin with a dash."`
}

// Run revokes a secret.
func (c *secretRevoke) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		if err := o.server.RevokeSecret(ctx, command, c.ID, c.Last4); err != nil {
			return about{"secret of the app " + cell(c.ID), err}
		}
		return o.show(struct {
			ClientID string `json:"client_id"`
			Last4    string `json:"last4"`
			Revoked  bool   `json:"revoked"`
		}{c.ID, c.Last4, true}, "The secret that ends in %s is revoked.", c.Last4)
	})
}

type apiCommands struct {
	Secret apiSecret `cmd:"" help:"Add, list and revoke secrets of the platform's API, with which it introspects keys and follows revocations."`
}

type apiSecret struct {
	Add    apiSecretAdd    `cmd:"" default:"withargs" help:"Give the API a new secret and print it, once. Two at most."`
	List   apiSecretList   `cmd:"" help:"List the secrets by their last four characters, with the API's id and audience."`
	Revoke apiSecretRevoke `cmd:"" help:"End the secret with these last four characters."`
}

type apiSecretAdd struct{ Admin }

// Run adds a secret of the API.
func (c *apiSecretAdd) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		id, secret, err := o.server.AddAPISecret(ctx, command)
		if oauth.ReasonOf(err) == oauth.TooMany {
			return refusal("the API has two secrets already; grantway api secret list shows which, and grantway api secret revoke ends one")
		}
		if err != nil {
			return err
		}
		return o.show(struct {
			credentials
			Audience string `json:"audience"`
		}{credentials{id, secret.Reveal()}, o.server.Audience()}, "Credentials of the API %s. The secret is shown this once.\nclient id  %s\nsecret     %s", o.server.Audience(), id, secret.Reveal())
	})
}

type apiSecretList struct{ Admin }

// apiSecretDoc is a secret of an API in JSON. Nothing notes when one was used last.
type apiSecretDoc struct {
	Last4    string     `json:"last4"`
	Created  *time.Time `json:"created"`
	ClientID string     `json:"client_id"`
	Audience string     `json:"audience"`
}

// Run lists the secrets of the API.
func (c *apiSecretList) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		apis, err := o.server.APIs(ctx, command)
		if err != nil {
			return err
		}
		var docs []apiSecretDoc
		for _, a := range apis {
			if a.URI != o.server.Audience() {
				continue // of an audience that was configured once: nothing here acts on it
			}
			for _, s := range a.Secrets {
				docs = append(docs, apiSecretDoc{s.Last4, moment(s.Created), a.ID, a.URI})
			}
		}
		return list(o, docs, "last4 created_utc client_id audience", func(d apiSecretDoc) []any {
			return []any{d.Last4, d.Created, d.ClientID, d.Audience}
		})
	})
}

type apiSecretRevoke struct {
	Admin
	Last4 string `arg:"" help:"Last four characters of the secret; -- goes before them if they begin with a dash."`
}

// Run revokes a secret of the API.
func (c *apiSecretRevoke) Run(ctx context.Context, t terminal) error {
	return c.run(ctx, t, func(o *office) error {
		if err := o.server.RevokeAPISecret(ctx, command, c.Last4); err != nil {
			return about{"secret of the API", err}
		}
		return o.show(struct {
			Audience string `json:"audience"`
			Last4    string `json:"last4"`
			Revoked  bool   `json:"revoked"`
		}{o.server.Audience(), c.Last4, true}, "The secret that ends in %s is revoked.", c.Last4)
	})
}
