package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/demo"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/portal"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/resource"
)

type demoCommand struct {
	Listen   string `help:"Address of the issuer. The store API and the example app take free ports." default:"127.0.0.1:8080"`
	Database string `help:"SQLite file or postgres:// address: empty, or made by a demo. Default: a temporary file."`
	Limits   bool   `help:"Limit requests and sign-ins as serve does unless it is told otherwise."`
	JSON     bool   `name:"json" help:"Print one line of JSON on standard output once ready; everything else goes to standard error."`
}

const demoGrace = 5 * time.Second

// Run starts issuer, store API and example app on loopback, and serves until ctx
// ends.
func (c *demoCommand) Run(ctx context.Context, t terminal) (err error) {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return misunderstanding{fmt.Errorf("--listen %s: write an address and a port, such as 127.0.0.1:8080", c.Listen)}
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return misunderstanding{fmt.Errorf("--listen %s: the demo's passwords are no secret, so it listens on loopback only", c.Listen)}
	}
	database := c.Database
	if database == "" {
		dir, err := os.MkdirTemp("", "grantway-demo-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		database = filepath.Join(dir, "demo.db")
	}
	level := slog.LevelWarn
	if c.JSON {
		level = slog.LevelInfo
	}
	log, flush := newLogger(t.err, config.Config{LogFormat: "text", LogLevel: level})
	defer flush()
	store, err := sqlstore.Open(ctx, database)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	state, fresh, err := demoState(ctx, store)
	if err != nil {
		return err
	}
	listeners, err := listenAll(c.Listen, net.JoinHostPort(host, "0"), net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	info := &state.Info
	info.Issuer, info.StoreAPI, info.ExampleApp = address(listeners[0]), address(listeners[1]), address(listeners[2])
	ring, err := oauth.ParseKeyRing(state.KeyRing)
	if err != nil {
		return err
	}
	catalogue, err := config.ParseCatalogue(demo.Catalogue)
	if err != nil {
		return err
	}
	var limits config.Limits
	if c.Limits {
		limits = config.DefaultLimits()
	}
	n, err := assemble(ctx, parts{store: store, issuer: info.Issuer, audience: demo.Audience, ring: ring, catalogue: catalogue,
		brand: portal.Brand{Name: demo.Brand}, unlimited: !c.Limits, limits: limits, callURL: info.StoreAPI, log: log})
	if err != nil {
		return err
	}
	if fresh {
		if err := demo.Seed(ctx, store, n.server, n.people, &state); err != nil {
			return err
		}
	}
	return c.serve(ctx, n, listeners, *info, t.out)
}

// demoState finds what an earlier demo left, or begins in an empty database. Any
// other database is refused before anything is written to it.
func demoState(ctx context.Context, store *sqlstore.Store) (state demo.State, fresh bool, err error) {
	empty, err := store.Empty(ctx)
	if err != nil {
		return state, false, err
	}
	if !empty {
		state, err = demo.Load(ctx, store)
		if err != nil {
			return state, false, err
		}
	}
	if err := begin(ctx, store); err != nil {
		return state, false, err
	}
	if empty {
		state, err = demo.Begin()
	}
	return state, empty, err
}

// serve runs the three servers; when one ends, the others do. The issuer ends last: what
// follows its revocations is no witness of an outage when the demo stops.
func (c *demoCommand) serve(ctx context.Context, n *node, listeners []net.Listener, info demo.Info, out io.Writer) error {
	issuing, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	run := func(f func() error) <-chan error {
		ended := make(chan error, 1)
		go func() {
			defer stop()
			ended <- f()
		}()
		return ended
	}
	issuer := run(func() error { return n.serve(issuing, listeners[0], demoGrace) })
	verifier, err := resource.New(ctx, resource.Config{Issuer: info.Issuer, Audience: demo.Audience,
		ClientID: info.ResourceServer.ClientID, ClientSecret: info.ResourceServer.ClientSecret, Errors: resource.Komerza})
	if err != nil {
		end()
		return errors.Join(err, <-issuer)
	}
	app := &demo.ExampleApp{Issuer: info.Issuer, StoreAPI: info.StoreAPI, Self: info.ExampleApp, App: info.Apps[0]}
	var others []<-chan error
	for i, h := range []http.Handler{demo.StoreAPI(verifier), app.Handler()} {
		others = append(others, run(func() error {
			return serve(ctx, httpServer(h, n.front.log), newIntake(), listeners[i+1], demoGrace, func() {})
		}))
	}
	if err := announce(c.JSON, info, out); err != nil {
		stop()
	}
	var all error
	for _, ended := range others {
		all = errors.Join(all, <-ended)
	}
	verifier.Close()
	end()
	return errors.Join(all, <-issuer)
}

func announce(asJSON bool, info demo.Info, out io.Writer) error {
	if asJSON {
		return json.NewEncoder(out).Encode(info)
	}
	_, err := fmt.Fprintf(out, `
The demo is ready. Everything is on this machine and made up.

  Connect an app to a store     %s
    sign in as                  %s  password  %s
    or, working in her store    %s  (password below)
  See and revoke it             %s/connected-apps
  Register an app of your own   %s/developer
    sign in as                  %s  password  %s
  Run the platform              %s/operator
    sign in as                  %s  password  %s
  The store API                 %s/stores

Press Ctrl-C to stop.
`, info.ExampleApp, info.User.Email, info.User.Password, info.Developer.Email, info.Issuer, info.Issuer, info.Developer.Email, info.Developer.Password,
		info.Issuer, info.Operator.Email, info.Operator.Password, info.StoreAPI)
	return err
}

func listenAll(addresses ...string) (list []net.Listener, err error) {
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			for _, open := range list {
				open.Close()
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				return nil, fmt.Errorf("another process listens on %s: end it, or take a free port with --listen 127.0.0.1:0", a)
			}
			return nil, fmt.Errorf("listening on %s: %w", a, err)
		}
		list = append(list, l)
	}
	return list, nil
}

func address(l net.Listener) string { return "http://" + l.Addr().String() }
