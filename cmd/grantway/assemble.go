package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/endpoint"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/portal"
	"github.com/grantway/grantway/internal/sqlstore"
)

// parts is what a node is assembled from.
type parts struct {
	store                              *sqlstore.Store
	issuer, pagesURL, apiURL, audience string
	ring                               *oauth.KeyRing
	catalogue                          *oauth.Catalogue
	brand                              portal.Brand
	log                                *slog.Logger
	proxies                            []netip.Prefix // whose X-Forwarded-For is believed
	unlimited                          bool           // no limit on sign-ins: the demo
	limits                             config.Limits
	eventsKept                         time.Duration // 0 means oauth.EventsKept
	known                              oauth.Position
	callURL                            string // where the platform's API is reached, for samples; "" means at its audience
}

// node is a server ready to be served: the one place where concrete types meet.
type node struct {
	server  *oauth.Server
	people  *people.Service
	front   *front
	metrics *metrics
}

func assemble(ctx context.Context, p parts) (*node, error) {
	m := newMetrics()
	server, err := oauth.New(ctx, oauth.Config{
		Issuer: p.issuer, PagesURL: p.pagesURL, APIURL: p.apiURL, Audience: p.audience, Platform: p.brand.Name, Sites: sites(p.issuer, p.pagesURL, p.apiURL),
		Catalogue: p.catalogue, Storage: p.store, Ring: p.ring, Log: p.log, Observe: m.outcome, EventsKept: p.eventsKept,
		Decisions: oauth.Bucket(p.limits.User), Known: p.known,
	})
	if err != nil {
		return nil, err
	}
	accounts := people.New(people.Config{Storage: p.store, Server: server, Unlimited: p.unlimited})
	pages, err := portal.New(portal.Config{Server: server, People: accounts, Brand: p.brand, CallURL: p.callURL, Log: p.log})
	if err != nil {
		return nil, err
	}
	issuer, err := url.Parse(p.issuer)
	if err != nil {
		return nil, err
	}
	f := &front{
		machines: endpoint.New(endpoint.Config{Server: server, Authorize: http.HandlerFunc(pages.Authorize), Limits: limitsOf(p.limits), Log: p.log}),
		people:   pages, busy: pages.Busy, intake: newIntake(), proxies: p.proxies, https: issuer.Scheme == "https", seen: m.request, log: p.log,
	}
	f.ready = func(ctx context.Context) (string, error) {
		if err := server.Behind(); err != nil {
			return "database: it has lost events", err
		}
		return "database", p.store.Ping(ctx)
	}
	m.watch(p.store, server, accounts, f.intake)
	return &node{server, accounts, f, m}, nil
}

// sites are the domains of whoever serves these addresses: what he registered, not the
// host alone, so that www.harbour.example is known for his where auth.harbour.example is.
func sites(addresses ...string) []string {
	var all []string
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" {
			continue
		}
		host := strings.ToLower(u.Hostname())
		if domain, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil && net.ParseIP(host) == nil {
			host = domain
		}
		all = append(all, host)
	}
	return all
}

// maxHeader is room for a request line of one megabyte: what is too long is then
// refused by the page that can say which parameter it is.
const maxHeader = 1<<20 + 256<<10

func httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 60 * time.Second,
		IdleTimeout: 120 * time.Second, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(quiet{log.Handler()}, slog.LevelWarn),
	}
}

// serve serves until ctx ends, then drains: readiness fails first, requests under
// way may finish within grace, and then the chores end.
func (n *node) serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		n.server.Run(work)
	}()
	server := httpServer(n.front, n.front.log)
	err := serve(ctx, server, n.front.intake, l, grace, func() { n.front.draining.Store(true) })
	stop()
	<-idle
	return err
}
