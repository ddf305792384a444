// Package resource guards an API whose callers hold access tokens and API keys issued by Grantway.
//
//	v, err := resource.New(ctx, resource.Config{Issuer: issuer, Audience: audience, ClientID: id, ClientSecret: secret})
//	store := func(r *http.Request) string { return r.PathValue("storeId") }
//	mux.Handle("GET /stores/{storeId}", v.Require(resource.Access{Scope: "stores.view", Store: store})(handler))
//
// A request is admitted when its token is one that the issuer signed for this API (RFC 9068, RFC 8725), it still stands,
// and its rights hold the scope in the store. All of it is checked here, without asking anybody: a Verifier follows the
// issuer's feed of revocations and holds two bits for every key there is. It goes by them only while it can prove to
// itself that they are those of now, by a lease that each answer of the feed renews, so that a revoked key is admitted
// nowhere later than 850 ms after its revocation was committed, whatever fails; mostly it takes milliseconds. When the
// lease ends without another, and for keys whose rights are not those that they print, the issuer is asked (RFC 7662);
// Access.OnStale says otherwise by route. Where nothing is known the answer is 503 and never 401: apps throw away a key
// after a 401.
//
// Tokens are taken from the Authorization header (RFC 6750 section 2.1) and from x-dressipi-jwt, never from a query or
// a form.
package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says whose tokens a Verifier admits. Everything but Nodes, OnStale and Errors is required.
type Config struct {
	// Issuer is the authorization server's issuer URL, compared byte for byte with the `iss` of tokens and of the
	// metadata found at Issuer + "/.well-known/oauth-authorization-server". Plain http is for loopback hosts only.
	Issuer string
	// Audience is this API's URI as the issuer knows it, compared byte for byte with `aud`. It is also the realm of
	// challenges.
	Audience string
	// ClientID and ClientSecret are the API's own credentials, with which it follows the feed and asks about tokens.
	ClientID     string
	ClientSecret string `json:"-"`
	// Nodes are base URLs under which single nodes of the issuer answer as it does, by the rules of Issuer's. Feed, lists
	// and introspection are asked of one of them at a time, and of the next when it fails, within one lease. Empty means
	// that there is only Issuer.
	Nodes []string
	// OnStale says what happens while the revocations are not known to be those of now, where Access.OnStale does not.
	OnStale OnStale
	// Errors is the form in which Require refuses.
	Errors ErrorStyle
}

// String leaves the secret out.
func (c Config) String() string {
	return fmt.Sprintf("resource.Config{Issuer:%q, Audience:%q, ClientID:%q}", c.Issuer, c.Audience, c.ClientID)
}

// GoString leaves the secret out.
func (c Config) GoString() string { return c.String() }

// ErrorStyle is the form of the answers with which Require refuses; its comment has the table.
type ErrorStyle int

const (
	// RFC6750 answers a Bearer challenge (RFC 6750 section 3) and the same words as JSON. It is the default.
	RFC6750 ErrorStyle = iota
	// Komerza answers Komerza's envelope, with the codes BadToken and AccessDenied.
	Komerza
)

const (
	// introspectTimeout bounds one question about a token. A request waits for two at most, see asker, and begins anew
	// only in its first 300 ms, where a node that is behind has answered.
	introspectTimeout = 300 * time.Millisecond
	// maxAsking bounds the tokens that are asked about at once, and the requests that wait for one key set.
	maxAsking = 1024
	// askTimeout bounds reading anything else of the issuer's.
	askTimeout = 2 * time.Second
	// loadEvery is how long a key that the issuer withdrew may stay known here. A token signed by it is refused by the
	// rule about the key, or by introspection, long before; where a new epoch ends the rule, the set is read anew.
	loadEvery = 10 * time.Minute
	// retryEvery paces attempts to reach an issuer that did not answer.
	retryEvery = time.Second
)

// Verifier checks tokens of one issuer for one API. It is safe for concurrent use. Make it with New, end it with Close.
type Verifier struct {
	cfg      Config
	nodes    []string // base URLs, one at least
	now      func() time.Time
	clock    clock
	http     *http.Client
	feedHTTP *http.Client
	patience time.Duration // introspectTimeout, but in tests of what is answered and not when

	endpoints atomic.Pointer[endpoints]
	access    keySet // typ at+jwt, from the metadata's jwks_uri
	lasting   keySet // typ apikey+jwt, from /oauth/jwks/lasting
	verified  cache[digest, token]
	follow    follower
	asking    asker
	outage    atomic.Bool
	open      atomic.Int32
	badLists  atomic.Bool
	seen      sightings
	count     counting

	unready atomic.Pointer[string] // why Ready is not nil; nil once everything was read

	ctx   context.Context
	close context.CancelFunc
	done  sync.WaitGroup
}

// New checks the configuration, reads the issuer's metadata, both key sets and the feed's first answer, and tries the
// credentials. It fails when the configuration is wrong: a missing or malformed field, metadata that names another
// issuer, credentials that the issuer refuses. An issuer that does not answer is no error, so that an API can start
// during an outage: Ready says so, requests get 503, and the Verifier goes on trying until Close. ctx bounds the first
// attempt only.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	return start(ctx, cfg, newClock(), newHTTPClient(), newHTTPClient())
}

func start(ctx context.Context, cfg Config, c clock, client, feed *http.Client) (*Verifier, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg, now: time.Now, clock: c, http: client, feedHTTP: feed, patience: introspectTimeout}
	for _, node := range cfg.Nodes {
		v.nodes = append(v.nodes, base(node))
	}
	if len(v.nodes) == 0 {
		v.nodes = []string{base(cfg.Issuer)}
	}
	v.ctx, v.close = context.WithCancel(context.Background())
	now := func() time.Time { return v.now() }
	v.access.init(v.ctx, now, func() (keyTable, bool, error) { return v.fetchKeys(v.endpoints.Load().jwks) })
	v.lasting.init(v.ctx, now, func() (keyTable, bool, error) { return v.fetchKeys(base(cfg.Issuer) + "/oauth/jwks/lasting") })
	v.verified.half = cacheHalf
	v.count.init()
	v.seen.init()
	v.asking.init(v.introspect)
	v.follow.init(v)

	err := v.load(ctx)
	if wrong := (*configError)(nil); errors.As(err, &wrong) {
		v.Close()
		return nil, err
	}
	if err != nil {
		slog.Warn("resource: the issuer does not answer yet", "issuer", cfg.Issuer, "error", err)
	}
	v.done.Go(func() { v.keepLoading(err) })
	v.done.Go(v.follow.run)
	v.done.Go(v.keepReporting)
	if err == nil {
		select {
		case <-v.follow.first:
		case <-ctx.Done():
		}
	}
	return v, nil
}

// Ready returns nil once the issuer's metadata, both key sets and the feed were read and the credentials tried, and stays
// nil from then on: an API taken out of service during an outage could not answer 503. Before, it says what is missing.
func (v *Verifier) Ready() error {
	if why := v.unready.Load(); why != nil {
		return errors.New("resource: " + *why)
	}
	if !v.follow.ready.Load() {
		return errors.New("resource: the feed of revocations was not read yet")
	}
	return nil
}

// Close ends background work and closes connections. Checks after it are refused as Unavailable. It may take a second, to
// tell the issuer which grants were seen, and that whoever revokes need not wait for this process any more.
func (v *Verifier) Close() {
	v.follow.mu.Lock() // nobody begins to fetch a list from now on
	v.close()
	v.follow.mu.Unlock()
	v.done.Wait()
	v.follow.mu.Lock()
	v.follow.drop()
	v.follow.mu.Unlock()
	if v.follow.polled.Swap(false) {
		v.follow.leave() // nothing is accepted here from now on
	}
	v.http.CloseIdleConnections()
	v.feedHTTP.CloseIdleConnections()
}

// load reads all that checks need. What was read before stays in use where an attempt fails.
func (v *Verifier) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 4*askTimeout)
	defer cancel()
	first := v.endpoints.Load() == nil || v.unready.Load() != nil
	err := func() error {
		if err := v.discover(ctx); err != nil {
			return err
		}
		if err := v.access.load(ctx); err != nil {
			return fmt.Errorf("read the access token keys: %w", err)
		}
		if err := v.lasting.load(ctx); err != nil {
			return fmt.Errorf("read the API key keys: %w", err)
		}
		if first {
			return v.tryCredentials(ctx)
		}
		return nil
	}()
	if err == nil {
		v.unready.Store(nil)
		return nil
	}
	if first {
		why := err.Error()
		v.unready.Store(&why)
	}
	return fmt.Errorf("resource: %w", err)
}

func (v *Verifier) keepLoading(err error) {
	for {
		wait := loadEvery
		if err != nil {
			wait = retryEvery
		}
		select {
		case <-v.ctx.Done():
			return
		case <-time.After(wait):
		}
		err = v.load(v.ctx)
	}
}

// configError is a mistake that waiting does not mend.
type configError struct{ text string }

func (e *configError) Error() string { return e.text }

func (c Config) check() error {
	var wrong []error
	bad := func(format string, args ...any) {
		wrong = append(wrong, &configError{"resource: " + fmt.Sprintf(format, args...)})
	}
	if err := checkURL(c.Issuer, true); err != nil {
		bad("the issuer %q %v", c.Issuer, err)
	}
	for _, node := range c.Nodes {
		if err := checkURL(node, true); err != nil {
			bad("the node %q %v", node, err)
		}
	}
	if !quotable(c.Audience) {
		bad("the audience %q must be this API's URI", c.Audience)
	}
	if c.ClientID == "" || c.ClientSecret == "" {
		bad("the client id and the client secret must be set")
	}
	if !c.OnStale.known() {
		bad("OnStale %d is unknown", c.OnStale)
	}
	if c.Errors != RFC6750 && c.Errors != Komerza {
		bad("Errors %d is unknown", c.Errors)
	}
	return errors.Join(wrong...)
}

// checkURL holds the issuer and what its metadata names to https (RFC 8414 section 2), with http for loopback hosts
// where that is allowed.
func checkURL(s string, loopback bool) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return errors.New("is not an absolute URL")
	case u.User != nil || u.Fragment != "" || u.RawQuery != "" || strings.ContainsAny(s, "?#"):
		return errors.New("must have no user, query or fragment")
	case u.Scheme == "https", u.Scheme == "http" && loopback && isLoopback(u.Hostname()):
		return nil
	}
	return errors.New("must be https (http is for loopback hosts only)")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func base(issuer string) string { return strings.TrimSuffix(issuer, "/") }

// quotable says whether s may stand in a quoted string of a challenge as it is (RFC 9110 section 5.6.4).
func quotable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return s != ""
}
