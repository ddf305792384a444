package oauth_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/endpoint"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
	"github.com/grantway/grantway/internal/storagetest"
	"github.com/grantway/grantway/resource"
)

// followed is a world of two nodes on one database, and a verifier that follows them
// over HTTP as an API server does. The clock stands still until a test moves it, and
// begins at the present, by which the verifier judges what expires.
type followed struct {
	world
	dsn      func() string // of an empty place for a database
	at       string        // where the database is
	epoch    int64
	nodes    [2]*node
	verifier *resource.Verifier

	behind time.Time // when somebody last looked and the verifier did not know the present

	mu    sync.Mutex
	acked oauth.FeedQuery // how far the verifier has come
}

// node is one of the nodes. Its address stays when it starts again.
type node struct {
	server *oauth.Server
	db     *sqlstore.Store
	stop   func()
	serves atomic.Pointer[http.Handler]
	down   atomic.Bool
	http   *httptest.Server
}

func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serves := n.serves.Load()
	if serves == nil || n.down.Load() && !strings.HasPrefix(r.URL.Path, "/.well-known/") && !strings.HasPrefix(r.URL.Path, "/oauth/jwks") {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	(*serves).ServeHTTP(w, r)
}

var engines = map[string]func(*testing.T) string{
	"SQLite":     func(t *testing.T) string { return filepath.Join(t.TempDir(), "grantway.db") },
	"PostgreSQL": func(t *testing.T) string { return storagetest.Postgres(t) },
}

func newFollowed(t *testing.T, dsn func(*testing.T) string) *followed {
	t.Helper()
	x := &followed{world: *newWorld(t), epoch: 1, dsn: func() string { return dsn(t) }}
	x.clock.at = time.Now().Truncate(time.Microsecond)
	for i := range x.nodes {
		n := &node{}
		n.http = httptest.NewServer(x.watch(n))
		t.Cleanup(n.http.Close)
		x.nodes[i] = n
	}
	exec(t, x.raw(), "UPDATE apis SET issuer = $1", x.nodes[0].http.URL) // the verifier asks there
	t.Cleanup(x.down)
	x.restore(x.backup(), nil)
	x.follow()
	return x
}

// watch notes what the verifier acknowledges.
func (x *followed) watch(n *node) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == endpoint.FeedPath && !n.down.Load() {
			q := r.URL.Query()
			epoch, _ := strconv.ParseInt(q.Get("epoch"), 10, 64)
			after, _ := strconv.ParseInt(q.Get("after"), 10, 64)
			x.mu.Lock()
			if x.acked.Epoch < epoch || x.acked.Epoch == epoch && x.acked.After < after {
				x.acked = oauth.FeedQuery{Epoch: epoch, After: after}
			}
			x.mu.Unlock()
		}
		n.ServeHTTP(w, r)
	})
}

// up starts a node.
func (x *followed) up(n *node) {
	x.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := sqlstore.Open(ctx, x.at)
	x.must(err)
	ring, err := oauth.ParseKeyRing(x.ring)
	x.must(err)
	var s *oauth.Server
	for deadline := time.Now().Add(30 * time.Second); s == nil; { // a busy machine may be too slow for one attempt
		s, err = oauth.New(ctx, oauth.Config{Issuer: x.nodes[0].http.URL, Audience: audience, Catalogue: catalogue(), Storage: db, Ring: ring, Now: x.clock.now})
		if time.Now().After(deadline) {
			x.must(err)
		}
	}
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	h := endpoint.New(endpoint.Config{Server: s, Authorize: http.NotFoundHandler()})
	n.server, n.db = s, db
	n.stop = func() {
		n.serves.Store(nil)
		cancel()
		running.Wait()
		db.Close()
	}
	n.serves.Store(&h)
	x.Server, x.db = s, db
}

func (x *followed) down() {
	if x.verifier != nil {
		x.verifier.Close()
	}
	for _, n := range x.nodes {
		if n.stop != nil {
			n.stop()
		}
	}
}

// restore puts a backup in the place of the database, while nodes and verifier are
// as they are, and lets the nodes start with it. log, if not nil, says what ended since
// the backup.
func (x *followed) restore(file string, log []byte) {
	x.t.Helper()
	ctx := context.Background()
	x.at = x.dsn()
	r, err := sqlstore.Restore(ctx, file, x.at, false)
	x.must(err)
	endAll := false
	if log != nil {
		rec, err := oauth.Recover(ctx, r.Store, x.Now(), newRand(fmt.Sprint("recover", x.epoch)), r.Made, bytes.NewReader(log))
		x.must(err)
		endAll = rec.EndedAll
	}
	x.epoch++
	e, err := oauth.NewRestored(x.Now(), newRand(fmt.Sprint("restored", x.epoch)), oauth.Restored{Epoch: x.epoch, FromEpoch: r.Epoch, FromSeq: r.Seq, Made: r.Made})
	x.must(err)
	_, err = r.Finish(ctx, x.epoch, endAll, e, nil)
	x.must(err)
	for _, n := range x.nodes {
		if n.stop != nil {
			n.stop()
		}
		x.up(n)
	}
}

// follow begins with a new verifier.
func (x *followed) follow() {
	x.t.Helper()
	if x.verifier != nil {
		x.verifier.Close()
	}
	x.mu.Lock()
	x.acked = oauth.FeedQuery{}
	x.mu.Unlock()
	var err error
	x.verifier, err = resource.New(context.Background(), resource.Config{Issuer: x.nodes[0].http.URL, Audience: audience,
		ClientID: x.api.ID, ClientSecret: x.api.Secret.Reveal(), Nodes: []string{x.nodes[0].http.URL, x.nodes[1].http.URL}})
	x.must(err)
}

const (
	// promised is from an acknowledgement to the last check that may begin and go by what
	// was before it.
	promised = 850 * time.Millisecond
	// comesBack is how long a verifier may need at most until it knows the present, and admits
	// again, where a node answers. It is long for the machine's sake: nodes, databases and
	// verifier share it. What comes late is refused meanwhile, or asked about. It is to be
	// rare, see [seldomLate].
	comesBack = patience
)

// looks are the moments at which a condition is looked at again.
func looks() *time.Ticker { return time.NewTicker(2 * time.Millisecond) }

// ages waits until what a node that does not follow knows is older by d.
func ages(node *oauth.Server, d time.Duration) {
	again := looks()
	defer again.Stop()
	for d += node.FeedLag(); node.FeedLag() < d; {
		<-again.C
	}
}

// settle waits until all that has happened is in effect at the verifier.
func (x *followed) settle() {
	x.t.Helper()
	ctx := context.Background()
	x.settleNodes()
	seq, epoch, err := x.nodes[0].db.Head(ctx)
	x.must(err)
	again := looks()
	defer again.Stop()
	for began := time.Now(); ; <-again.C {
		looked := time.Now()
		x.mu.Lock()
		acked := x.acked
		x.mu.Unlock()
		if acked.Epoch == epoch && acked.After >= seq {
			return
		}
		x.behind = looked
		if time.Since(began) > comesBack {
			x.t.Fatalf("the verifier has come to %d of epoch %d, the feed is at %d of %d", acked.After, acked.Epoch, seq, epoch)
		}
	}
}

// settleNodes lets the nodes follow.
func (x *followed) settleNodes() {
	x.t.Helper()
	for _, n := range x.nodes {
		x.must(n.server.Follow(context.Background()))
	}
}

// ask is what the verifier makes of a key now: its rights in one line, or "refused"
// with the reason. It may not know, and then says so.
func (x *followed) ask(key oauth.Secret, stores []string) (says string, knows bool) {
	c, err := x.verifier.Check(context.Background(), key.Reveal(), resource.Access{})
	switch e, _ := err.(*resource.Error); {
	case err == nil:
		return rightsOf(c, stores), true
	case e != nil && e.Kind == resource.BadToken:
		return "refused: " + e.Reason, true
	case e != nil && e.Kind == resource.Unavailable:
		return err.Error(), false
	}
	return err.Error(), true
}

// rightsOf prints what a caller may do in stores as [line] does.
func rightsOf(c resource.Caller, stores []string) string {
	rows := map[string]int{}
	var rights []oauth.Right
	for _, store := range stores {
		var may []string
		for _, scope := range storeScopes {
			if c.HasIn(store, scope) {
				may = append(may, scope)
			}
		}
		if len(may) == 0 {
			continue
		}
		text := strings.Join(names(of(may...)), " ")
		if i, there := rows[text]; there {
			rights[i].Stores = append(rights[i].Stores, store)
			continue
		}
		rows[text] = len(rights)
		rights = append(rights, oauth.Right{Stores: []string{store}, Scope: text})
	}
	if got := c.Stores(""); len(got) > 0 && len(got) != reached(line(rights, "")) {
		return fmt.Sprintf("in stores that nobody knows: %v", got)
	}
	return line(rights, strings.Join(names(of(c.Scopes...)), " "))
}

// lists fetches the lists that keys name, as a verifier does that knows of them
// alone, each once; nil is one that is not there.
type lists map[string][]byte

func (x *followed) bit(from lists, key oauth.Secret) oauth.StatusValue {
	x.t.Helper()
	ref := claims(x.t, key).Status.List
	bits, known := from[ref.URI]
	if !known {
		bits = x.list(ref.URI)
		from[ref.URI] = bits
	}
	if bits == nil {
		return oauth.StatusInvalid
	}
	return oauth.StatusValue(bits[ref.Index/4] >> (ref.Index % 4 * 2) & 3)
}

func (x *followed) list(uri string) []byte {
	x.t.Helper()
	n := x.nodes[0]
	if n.down.Load() {
		n = x.nodes[1]
	}
	var resp *http.Response
	var body []byte
	for deadline := time.Now().Add(patience); resp == nil || resp.StatusCode == http.StatusServiceUnavailable && time.Now().Before(deadline); { // on a busy machine a node may not know for a moment
		var err error
		resp, err = http.Get(n.http.URL + strings.TrimPrefix(uri, x.nodes[0].http.URL))
		x.must(err)
		body, err = io.ReadAll(resp.Body)
		x.must(errors.Join(err, resp.Body.Close()))
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	if resp.StatusCode != http.StatusOK {
		x.t.Fatalf("%s: %d %s", uri, resp.StatusCode, body)
	}
	var c struct {
		List struct{ Lst string } `json:"status_list"`
	}
	payload, err := rawURL(strings.Split(string(body), ".")[1])
	x.must(err)
	x.must(json.Unmarshal(payload, &c))
	packed, err := base64.RawURLEncoding.DecodeString(c.List.Lst)
	x.must(err)
	r, err := zlib.NewReader(bytes.NewReader(packed))
	x.must(err)
	bits, err := io.ReadAll(r)
	x.must(err)
	return bits
}
