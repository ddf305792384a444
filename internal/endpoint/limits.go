package endpoint

import (
	"errors"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/grantway/grantway/internal/oauth"
)

// Limits are the buckets of this node; each node of several has its own.
type Limits struct {
	// Anonymous is an address's (oauth.AddressOf), shared by every endpoint. Only
	// requests that are refused before or at authentication are charged to it.
	Anonymous oauth.Bucket
	// Client is a client's, for exchanges with the right secret. Without it there is no
	// limit on families either.
	Client oauth.Bucket
}

// families is the bucket of a sign-in or a guest, for the access tokens after its first:
// each leaves an event that is kept for long. Who shows the right token pays, so nobody
// else can. When an access token ends, all workers of an app may refresh at once. Whoever
// lost the answer to a rotation has [oauth.RotateGrace] to ask again: he waits for half of
// it at most.
var families = oauth.Bucket{Size: 300, Refill: 2, Every: oauth.RotateGrace}

// reports is an API's bucket for what it saw: as many processes may report once an
// hour, and all of them at once when they are restarted. It is no setting, as a report
// that is lost costs nobody anything.
var reports = oauth.Bucket{Size: 1000, Refill: 1000, Every: time.Hour}

// bucketsMax bounds the buckets of one kind, about 20 MB. Beyond it those that are
// used least make room, and an address that comes again starts with a full one.
const bucketsMax = 1 << 16

// buckets hands out tokens by key; nil has no end of them.
type buckets struct {
	per  rate.Limit
	size int
	now  func() time.Time
	used *otter.Cache[string, *rate.Limiter]
}

func newBuckets(b oauth.Bucket, now func() time.Time) *buckets {
	if b == (oauth.Bucket{}) {
		return nil
	}
	per := rate.Limit(float64(b.Refill) / b.Every.Seconds())
	full := time.Duration(math.Ceil(float64(b.Size) / float64(per) * float64(time.Second)))
	return &buckets{per, b.Size, now, otter.Must(&otter.Options[string, *rate.Limiter]{
		MaximumSize: bucketsMax,
		// One that nobody took from for so long is full again: nothing is forgotten.
		ExpiryCalculator: otter.ExpiryAccessing[string, *rate.Limiter](full),
		Clock:            clock(now),
	})}
}

// take takes a token from the bucket of key, or says how long until there is one.
func (b *buckets) take(key string) (wait time.Duration, ok bool) {
	if b == nil {
		return 0, true
	}
	bucket, found := b.used.GetIfPresent(key)
	if !found {
		bucket, _ = b.used.SetIfAbsent(key, rate.NewLimiter(b.per, b.size))
	}
	now := b.now()
	if bucket.AllowN(now, 1) {
		return 0, true
	}
	return b.wait(bucket, now), false
}

// admit takes a token, or refuses.
func (b *buckets) admit(key string) error {
	if wait, ok := b.take(key); !ok {
		return limited(wait)
	}
	return nil
}

// empty says how long until the bucket of key has a token; 0 if it has one.
func (b *buckets) empty(key string) time.Duration {
	if b == nil {
		return 0
	}
	bucket, found := b.used.GetIfPresent(key)
	if !found {
		return 0
	}
	return b.wait(bucket, b.now())
}

func (b *buckets) wait(bucket *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - bucket.TokensAt(now)
	return time.Duration(math.Ceil(max(0, missing) / float64(b.per) * float64(time.Second)))
}

// clock is the server's time for otter. It never ticks: what has expired is removed
// by later calls.
type clock func() time.Time

// NowNano implements otter.Clock.
func (c clock) NowNano() int64 { return c().UnixNano() }

// Tick implements otter.Clock.
func (c clock) Tick(time.Duration) <-chan time.Time { return nil }

func limited(wait time.Duration) *oauth.Error {
	e := oauth.Refuse(oauth.RateLimited)
	e.RetryAfter = max(wait, time.Second)
	return e
}

// charge takes a token for a request that was refused before anybody had proved who
// asks, and returns what to answer: err, or, where the address has none left, that
// and nothing else. Faults of ours are charged to nobody.
//
// The secret was looked at all the same, or everybody behind one address could be
// kept out by any of them; the right one is never charged here. A guesser learns
// nothing by it that 432 random bits would not take him ages to find, and costs no
// more than a few reads by key: one where there is no such app, and of one that there is
// its secrets, too.
//
// A wrong secret of id, "" if nobody was named, is also counted over all nodes, but
// only while there are tokens: so many in a second, however many come. Where no limit
// is set on addresses each of them counts; and each wrong API key does, as they are
// looked at only while there are tokens (guarded), and many at once are many guesses.
func (h *handler) charge(r *http.Request, id string, err error) error {
	if _, theirs := errors.AsType[komerzaError](err); !theirs {
		switch oauth.AsError(err).Code {
		case oauth.TemporarilyUnavailable, oauth.ServerError:
			return err
		}
	}
	host := hostOf(r)
	wait, ok := h.anonymous.take(oauth.AddressOf(host))
	if reason := oauth.ReasonOf(err); reason == oauth.SecretWrong || reason == oauth.APIKeyWrong {
		switch closed := h.server.GuessesEnd(id, host); {
		case closed > 0:
			wait, ok = max(wait, closed), false
		case ok || reason == oauth.APIKeyWrong:
			h.server.CountWrongSecret(id, host)
		}
	}
	if !ok {
		return limited(wait)
	}
	return err
}

// guarded refuses who shows an API key, to an app that has one, from an address that has no
// token left, or that guessed too often. A key may be a short one that its app has had for years: heard then,
// the right one would be told from the others by its answer. So it is not looked at, where
// a secret is.
//
// Many that come at once are all looked at before the first wrong one has paid. So who
// turns out to have the right one is asked the same again (Admit): as each wrong one that
// is told so takes a token, no more keys are told apart than there were tokens. The right
// one needs one to be there and leaves it.
func (h *handler) guarded(r *http.Request, auth *oauth.ClientAuth) error {
	if auth.APIKey == "" || auth.Secret != "" { // no app has both: the key is not looked at
		return nil
	}
	host, id := hostOf(r), auth.ID
	auth.Admit = func(c *oauth.Client) error {
		if c != nil && c.Settings.APIKeyHash == nil {
			return nil
		}
		if wait := max(h.anonymous.empty(oauth.AddressOf(host)), h.server.GuessesEnd(id, host)); wait > 0 {
			return limited(wait)
		}
		return nil
	}
	c, _ := h.server.Client(r.Context(), id) // nil: there is none, or it cannot be told
	return auth.Admit(c)
}

// admit takes a token for a client that has proved itself.
func (h *handler) admit(c *oauth.Client) error { return h.clients.admit(c.ID) }

func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// retryAfter sets the header (RFC 9110, 10.2.3), in whole seconds, rounded up: who
// keeps to it is served.
func retryAfter(w http.ResponseWriter, d time.Duration) {
	seconds := int64(math.Ceil(max(d, time.Second).Seconds()))
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
}
