package oauth

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Config is what a server is made of. Issuer, Storage, Ring, Catalogue and
// Audience are required.
type Config struct {
	Issuer   string   // RFC 8414; iss of every token, byte for byte
	PagesURL string   // where people's pages are; "" means Issuer
	APIURL   string   // where the exchange is, for documents and snippets; "" means Issuer
	Audience string   // aud of keys: the URI of the platform's API
	Platform string   // the operator's name, with which no word of an app's may begin; "" reserves none
	Sites    []string // the operator's domains: no app has its home or its papers there

	Catalogue  *Catalogue
	Storage    Storage
	Decisions  Bucket        // of one user, over all nodes: Allow and Cancel, and at each app where he is not asked
	EventsKept time.Duration // how long events, and revoked grants, are kept; 0 means [EventsKept]
	Ring       *KeyRing
	Known      Position // what the process that hands over to this one was told; zero: there is none
	Log        *slog.Logger
	Observe    func(Outcome)    // nil: nobody counts
	Now        func() time.Time // nil: the wall clock
	Rand       io.Reader        // nil: crypto/rand
}

// Server is the authorization server. Its methods are safe for concurrent use.
type Server struct {
	issuer, pages, apiURL string
	platform              string   // the operator's name
	sites                 []string // and domains
	catalogue             *Catalogue
	storage               Storage
	ring                  *KeyRing
	log                   *slog.Logger
	observe               func(Outcome)
	now                   func() time.Time
	rand                  io.Reader
	node                  string // who holds a lease
	eventsKept            time.Duration
	decisions             Bucket

	api     *API     // the audience of every key
	refresh [][]byte // makes refresh tokens; the first for new ones
	keys    keySet
	cache   clientCache
	feed    feed
	effects effects

	followers followers
	indices   allotment
	usage     usage
	guesses   guesses
}

// New makes a server on a migrated database. It creates what a fresh database
// lacks: the audience and the signing keys.
func New(ctx context.Context, c Config) (*Server, error) {
	switch {
	case c.Issuer == "" || strings.HasSuffix(c.Issuer, "/"):
		return nil, errors.New("oauth: an issuer without a trailing slash is required")
	case !survivesAtob(c.Issuer) || !survivesAtob(c.Audience):
		return nil, errors.New("oauth: issuer and audience are plain ASCII without >, ? and ~")
	case c.Storage == nil || c.Ring == nil || c.Catalogue == nil || c.Audience == "":
		return nil, errors.New("oauth: storage, key ring, catalogue and audience are required")
	}
	s := &Server{
		issuer: c.Issuer, pages: cmp.Or(c.PagesURL, c.Issuer), apiURL: cmp.Or(c.APIURL, c.Issuer),
		platform: c.Platform, sites: c.Sites, catalogue: c.Catalogue, storage: c.Storage, ring: c.Ring, log: c.Log, now: c.Now, rand: c.Rand,
		refresh: c.Ring.deriveAll("refresh tokens"),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.observe = c.Observe; s.observe == nil {
		s.observe = func(Outcome) {}
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.rand == nil {
		s.rand = rand.Reader
	}
	s.eventsKept, s.decisions = cmp.Or(c.EventsKept, EventsKept), c.Decisions
	var err error
	if s.node, err = s.newID("node_"); err != nil {
		return nil, err
	}
	s.usage.init()
	s.guesses.init()
	s.cache.clients = map[string]*Client{}
	// First of all, so that in another installation's database nothing is written.
	stored, err := s.storage.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.ring.Fingerprint(stored); err != nil {
		return nil, err
	}
	apis, err := s.storage.APIs(ctx)
	if err != nil {
		return nil, err
	}
	if err := CheckIssuer(apis, c.Issuer); err != nil {
		return nil, err
	}
	if s.api, err = s.ensureAPI(ctx, c.Audience); err != nil {
		return nil, err
	}
	s.nameOtherAPIs(apis)
	// The feed is followed from here on, so that no key added meanwhile is missed.
	s.feed.reading, s.feed.changed, s.feed.beaten = make(chan struct{}, 1), make(chan struct{}), make(chan struct{}, 1)
	s.followers.init()
	// A database that lacks what is known already has nothing that it could begin with.
	s.cache.epoch.Store(c.Known.Epoch)
	s.cache.seq.Store(c.Known.Seq)
	s.cache.shown = new(Recent[showing, *API])
	s.feed.base, s.feed.last, s.feed.lists = c.Known.Seq, c.Known.Last, map[int64]*list{}
	n, err := s.storage.News(ctx, c.Known.Seq, 1)
	if err != nil {
		return nil, err
	}
	if err := s.hear(ctx, n); err != nil && !errors.Is(err, ErrBehind) {
		return nil, err
	}
	s.feed.folded, s.feed.kept = n.Folded, n.Kept
	s.cache.keys.Store(false)
	if err := s.loadKeys(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Issuer returns the issuer identifier (RFC 8414, 2).
func (s *Server) Issuer() string { return s.issuer }

// PagesURL returns the base of people's pages.
func (s *Server) PagesURL() string { return s.pages }

// APIURL returns the base of the exchange, as developers see it.
func (s *Server) APIURL() string { return s.apiURL }

// Audience returns the URI that keys are for.
func (s *Server) Audience() string { return s.api.URI }

// Catalogue returns every scope there is.
func (s *Server) Catalogue() *Catalogue { return s.catalogue }

// Now returns the server's time.
func (s *Server) Now() time.Time { return s.now() }

// CheckIssuer refuses the audiences of a database whose keys another issuer issued: none
// of them would be known any more, and apps throw away what is refused.
func CheckIssuer(apis []*API, issuer string) error {
	for _, a := range apis {
		if a.Issuer != issuer {
			return fmt.Errorf("the database was made for the issuer %s, which every key carries for ever, and here issuer is %s: set it as it was, or name another database; grantway init makes a new one", a.Issuer, issuer)
		}
	}
	return nil
}

// ensureAPI finds the audience or creates it.
func (s *Server) ensureAPI(ctx context.Context, uri string) (*API, error) {
	for range 2 { // another node may create it first
		a, err := s.storage.APIByURI(ctx, uri)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return a, err
		}
		id, err := s.newID("api_")
		if err != nil {
			return nil, err
		}
		e, err := s.NewEvent(ctx, EventAPIPut, Actor{Kind: AsSystem}, map[string]string{"uri": uri})
		if err != nil {
			return nil, err
		}
		if _, err := s.storage.CreateAPI(ctx, &API{ID: id, URI: uri, Issuer: s.issuer, Name: uri}, e); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("oauth: the audience %s could not be created", uri)
}

// nameOtherAPIs says so where the database knows another audience than this server's:
// nothing else would show it but refused keys. It is no warning: rows of APIs stay, and
// whoever moved on to another one meant it.
func (s *Server) nameOtherAPIs(known []*API) {
	for _, a := range known {
		if a.ID != s.api.ID {
			s.log.Info("the database has served another audience: API servers that are set to that one refuse the keys issued from now on; if this was not meant, set api_audience as it was",
				"audience", s.api.URI, "other", a.URI)
		}
	}
}
