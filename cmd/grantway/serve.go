package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/endpoint"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/portal"
	"github.com/grantway/grantway/internal/sqlstore"
)

type serveCommand struct{ Settings }

// thrifty lets the collector work harder rather than let a flood's garbage pile up beyond
// what docs/operating.md promises: 200 MiB, several times what lives in a node, and 19 for
// each core, which hashes passwords. Who sets GOMEMLIMIT has his own goal.
func thrifty() {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit((200 + 19*int64(runtime.GOMAXPROCS(0))) << 20)
	}
}

// Run serves until ctx ends and every request under way is answered.
func (c *serveCommand) Run(ctx context.Context, t terminal) (err error) {
	cfg, ring, err := c.load(t)
	if err != nil {
		return err
	}
	thrifty()
	log, flush := newLogger(t.err, cfg)
	defer flush()
	if info, err := os.Stat(cfg.KeyRingPath); err == nil && info.Mode()&0o027 != 0 { // a group that may read it is a usual layout
		log.Warn("the key ring, which opens every signing key, may be written by its group, or read or written by everybody on this machine: chmod 600 it, or 640", "key_ring", cfg.KeyRingPath)
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR2)
	defer signal.Stop(again)
	sockets, err := inherit(t.environ)
	if err != nil {
		return err
	}
	store, err := openNamed(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	schema, err := store.Schema(ctx)
	if err != nil {
		return err
	}
	// Before anybody can connect: a start that is refused would reset whoever did, and a
	// proxy does not repeat a POST.
	if err := usable(schema, cfg); err != nil {
		return err
	}
	if schema.Have == schema.Want { // an older one may lack what this asks
		if _, err := needed(ctx, cfg, ring, store); err != nil {
			return err
		}
	}
	// Before anything is written: a start that ends at a port that is taken leaves the
	// database as it was. Who connects meanwhile waits.
	l, err := sockets.listen("listen", cfg.Listen)
	if err != nil {
		return err
	}
	defer l.Close()
	var m net.Listener
	if cfg.MetricsListen != "" {
		if m, err = sockets.listen("metrics_listen", cfg.MetricsListen); err != nil {
			return err
		}
		defer m.Close()
	}
	if schema.Have < schema.Want {
		if err := upgrade(ctx, store, schema, cfg, ring, t); err != nil {
			return err
		}
	}
	p := partsOf(cfg, ring, store)
	p.log = log
	if p.known, err = sockets.known(); err != nil {
		return err
	}
	n, err := assemble(ctx, p)
	if err != nil {
		return wrongRing(cfg, ring, err)
	}
	sockets.knows = n.server.Known
	store.Rehearse()
	serving, end := context.WithCancelCause(ctx)
	defer end(nil)
	if m != nil {
		counters := n.metrics.serve(m, log)
		defer counters.Close()
		// While one drains, the figures are its successor's.
		context.AfterFunc(serving, func() {
			if context.Cause(serving) == errHandedOver {
				counters.Close()
			}
		})
		log.Info("metrics", "listen", m.Addr().String())
	}
	log.Info("serving", "version", version().Version, "listen", l.Addr().String(), "issuer", cfg.Issuer)
	fmt.Fprintf(t.out, "Ready: listening on %s for %s\n", l.Addr(), cfg.Issuer)
	if err := sockets.ready(); err != nil {
		return err
	}
	// The collector runs when the heap has doubled, which of a heap as small as ours it
	// does many times in a second under load. Counting this as heap, it lets 32 MiB more
	// gather; a tenth of an exchange was collecting (measured). It is never written to,
	// so that it takes no memory, and a server at rest stays small.
	room := make([]byte, 32<<20)
	defer runtime.KeepAlive(room)
	go debug.FreeOSMemory() // what the start left behind; nobody who asks waits for it
	var succession sync.WaitGroup
	succession.Go(func() { succeed(serving, end, again, sockets, log) })
	err = n.serve(serving, l, cfg.ShutdownGrace)
	end(nil)
	succession.Wait() // a successor that is not ready yet ends before this process does
	log.Info("stopped")
	return err
}

func partsOf(c config.Config, ring *oauth.KeyRing, store *sqlstore.Store) parts {
	return parts{
		store: store, ring: ring, catalogue: c.Catalogue,
		issuer: c.Issuer, pagesURL: c.PagesURL, apiURL: c.APIURL, audience: c.APIAudience,
		proxies: c.TrustedProxies, eventsKept: c.EventsKept,
		limits: c.Limits,
		brand:  portal.Brand{Name: c.Brand.Name, Logo: c.Brand.Logo, Accent: c.Brand.Accent, Support: c.Brand.Support, Privacy: c.Brand.Privacy, Terms: c.Brand.Terms, Store: c.StoreWord},
	}
}

func limitsOf(l config.Limits) endpoint.Limits {
	return endpoint.Limits{Anonymous: oauth.Bucket(l.Anonymous), Client: oauth.Bucket(l.Client)}
}
