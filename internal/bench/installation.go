package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

// The pair of RFC 7636, appendix B.
const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	callback  = "https://client.example/callback"
)

// installation is our server with apps and customers, made as an operator makes
// one: by "grantway init", and by the use-cases that its pages call.
type installation struct {
	program, dir string
	dsn          string
	db           database

	keys   app // exchange profile: lasting keys
	books  app // standard, confidential
	pocket app // standard, public: its refresh tokens rotate
	api    oauth.ClientAuth

	templates map[kind]*template
}

type app struct {
	id     string
	secret oauth.Secret
}

var command = oauth.Actor{Kind: oauth.AsCommand}

// install makes an installation in dir, which is empty, with its database at dsn.
func install(ctx context.Context, program, dir, dsn string, db database) (*installation, error) {
	in := &installation{program: program, dir: dir, dsn: dsn, db: db, templates: map[kind]*template{}}
	said, err := exec.CommandContext(ctx, program, "init", "--dir", dir, "--database", dsn, "--issuer", "http://127.0.0.1:8080").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("grantway init: %w\n%s", err, said)
	}
	return in, in.with(ctx, in.populate)
}

// with runs f on the installation's use-cases, in this process.
func (in *installation) with(ctx context.Context, f func(context.Context, *oauth.Server, *sqlstore.Store) error) (err error) {
	c, err := config.Load(filepath.Join(in.dir, "config.yaml"), nil, nil)
	if err != nil {
		return err
	}
	ring, err := oauth.ParseKeyRing(c.KeyRing.Reveal())
	if err != nil {
		return err
	}
	store, err := sqlstore.Open(ctx, in.dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	server, err := oauth.New(ctx, oauth.Config{Issuer: c.Issuer, Audience: c.APIAudience, Platform: c.Brand.Name, Catalogue: c.Catalogue, Storage: store, Ring: ring})
	if err != nil {
		return err
	}
	return f(ctx, server, store)
}

// populate registers the apps, and makes one customer of each kind.
func (in *installation) populate(ctx context.Context, server *oauth.Server, _ *sqlstore.Store) (err error) {
	scopes := []oauth.ClientScope{{Name: "orders.view", Required: true}, {Name: "orders.refund", Required: true}, {Name: "account.view", Required: true}}
	for _, a := range []struct {
		app     *app
		name    string
		profile oauth.ProfileName
		kind    oauth.ClientType
	}{
		{&in.keys, "Exporter", oauth.Exchange, oauth.Confidential},
		{&in.books, "Books", oauth.Standard, oauth.Confidential},
		{&in.pocket, "Pocket", oauth.Standard, oauth.Public},
	} {
		form := oauth.ClientForm{Name: a.name, Profile: a.profile, Type: a.kind, Redirects: []string{callback}, Scopes: scopes}
		c, secret, err := server.CreateClient(ctx, command, form)
		if err != nil {
			return fmt.Errorf("registering %s: %w", a.name, err)
		}
		*a.app = app{c.ID, secret}
	}
	if in.api.ID, in.api.Secret, err = server.AddAPISecret(ctx, command); err != nil {
		return err
	}
	for k, asked := range map[kind]app{keyCode: in.keys, booksCode: in.books, liveKey: in.keys, liveChain: in.pocket} {
		user, err := in.connect(ctx, server, asked, string(k), k == liveKey || k == liveChain)
		if err != nil {
			return fmt.Errorf("connecting a customer for %s: %w", k, err)
		}
		if in.templates[k], err = in.read(ctx, user); err != nil {
			return fmt.Errorf("reading the rows of %s: %w", k, err)
		}
	}
	return nil
}

// connect has a new customer with two stores allow an app everything it asks for,
// and redeems the code if redeem is set.
func (in *installation) connect(ctx context.Context, server *oauth.Server, a app, name string, redeem bool) (user string, err error) {
	user = "usr_" + name
	if err := server.PutUser(ctx, command, oauth.User{ID: user, Name: "Customer", Email: "customer@shop.example"}); err != nil {
		return "", err
	}
	stores := []string{"st_" + name + "_1", "st_" + name + "_2"}
	for _, id := range stores {
		if err := server.PutStore(ctx, command, oauth.Store{ID: id, Name: "A shop"}); err != nil {
			return "", err
		}
		if err := server.SetMembership(ctx, command, oauth.Membership{UserID: user, StoreID: id, Owner: true, MayDelegate: true}); err != nil {
			return "", err
		}
	}
	q := url.Values{"client_id": {a.id}, "redirect_uri": {callback}, "state": {"s"}}
	if a != in.keys {
		q.Set("response_type", "code")
		q.Set("code_challenge", challenge)
		q.Set("code_challenge_method", "S256")
	}
	r, refused, err := server.Authorize(ctx, q)
	if err != nil {
		return "", err
	}
	if r == nil {
		return "", fmt.Errorf("refused: %s", refused.URL())
	}
	back, err := server.Decide(ctx, user, r, oauth.Decision{Allow: true, Stores: stores, AuthTime: server.Now()})
	if err != nil || !redeem {
		return user, err
	}
	u, err := url.Parse(back.URL())
	if err != nil {
		return "", err
	}
	t := oauth.TokenRequest{Auth: oauth.ClientAuth{ID: a.id, Secret: a.secret}, GrantType: oauth.GrantAuthorizationCode, Code: u.Query().Get("code")}
	if a != in.keys {
		t.RedirectURI, t.Verifier = callback, verifier
	}
	_, err = server.Token(ctx, t)
	return user, err
}

// unlimited is a bucket that is counted like any other and never empty.
const unlimited = "999999, then 999999 every 1ms"

// serve starts a node, with everything on that costs.
func (in *installation) serve() (*process, error) {
	return start(filepath.Join(in.dir, "serve.log"), "/readyz", in.program, "serve", "--config", filepath.Join(in.dir, "config.yaml"),
		"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--shutdown-grace", "1s",
		"--limits-anonymous", unlimited, "--limits-client", unlimited)
}

// The requests, as they go over the wire.

func (in *installation) exchange(code oauth.Secret) []byte {
	return fmt.Appendf(nil, "GET /oauth2/%s/exchange/%s HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\nX-Client-Secret: %s\r\n\r\n",
		in.keys.id, code.Reveal(), in.keys.secret.Reveal())
}

func (in *installation) standard(code oauth.Secret) []byte {
	return post("/oauth/token", in.books, url.Values{"grant_type": {"authorization_code"}, "code": {code.Reveal()}, "redirect_uri": {callback}, "code_verifier": {verifier}})
}

func (in *installation) rotate(token oauth.Secret) []byte {
	return post("/oauth/token", app{}, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.Reveal()}, "client_id": {in.pocket.id}})
}

func (in *installation) introspect(key string) []byte {
	return post("/oauth/introspect", app{in.api.ID, in.api.Secret}, url.Values{"token": {key}})
}

// post is a form, sent with HTTP Basic by whoever has a secret (RFC 6749, 2.3.1).
func post(path string, a app, form url.Values) []byte {
	auth := ""
	if a.secret != "" {
		pair := url.QueryEscape(a.id) + ":" + url.QueryEscape(a.secret.Reveal())
		auth = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) + "\r\n"
	}
	body := form.Encode()
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n%sContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s",
		path, auth, len(body), body)
}
