package storagetest

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"github.com/grantway/grantway/internal/oauth"
)

// world is a database, and helpers that put things into it.
type world struct {
	t   *testing.T
	s   oauth.Storage
	ctx context.Context
	db  *sql.DB // the same database, past the contract
	pg  bool
	now time.Time
	ids *atomic.Int64

	pooled     bool    // s goes through PgBouncer
	everything *string // what a dump asks
	everybody  bool    // the test is about the bystanders, too
}

func newWorld(t *testing.T, o Opened) *world {
	w := &world{t: t, s: o.Storage, ctx: t.Context(), ids: new(atomic.Int64), pooled: o.Pooled, everything: new(string),
		now: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)}
	w.pg = strings.HasPrefix(o.DSN, "postgres")
	var err error
	if w.pg {
		w.db, err = sql.Open("pgx", o.DSN)
	} else {
		w.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: o.DSN}).EscapedPath()+"?_pragma=busy_timeout(10000)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	return w
}

// test runs f as a subtest named by the promise that it proves.
func (w *world) test(promise string, f func(*world)) {
	w.t.Helper()
	w.t.Run(promise, func(t *testing.T) {
		sub := *w
		sub.t, sub.ctx = t, t.Context()
		untouched := sub.untouched()
		f(&sub)
		if !sub.everybody {
			untouched()
		}
	})
}

func (w *world) id(prefix string) string { return fmt.Sprintf("%s%06d", prefix, w.ids.Add(1)) }

// event makes an event with every field filled in.
func (w *world) event(kind oauth.Kind) oauth.Event {
	id := w.id("ev_")
	return oauth.Event{ID: id, At: w.now, Kind: kind, Actor: "user:" + id, ClientID: "c-" + id, UserID: "u-" + id, GrantID: "g-" + id, StoreID: "s-" + id,
		Request: "rq-" + id, Payload: json.RawMessage(`{"b":1, "a":"é 😀 <>&\u0000"}`)}
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// follow notes followers, and returns those that have left.
func (w *world) follow(list ...oauth.Follower) []oauth.Follower {
	w.t.Helper()
	left, err := w.s.PutFollowers(w.ctx, list)
	w.ok(err)
	return left
}

func (w *world) same(what string, got, want any) {
	w.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		w.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (w *world) missing(what string, err error) {
	w.t.Helper()
	if !errors.Is(err, oauth.ErrNotFound) {
		w.t.Errorf("%s: error %v, want ErrNotFound", what, err)
	}
}

// feed and issue say what an event must do to the feed.
const (
	feed  = true
	issue = false
)

// wins runs an event and demands that it wins, that its row is kept as given, and
// that the feed moved by exactly one, or not at all.
func (w *world) wins(inFeed bool, kind oauth.Kind, run func(oauth.Event) (bool, error)) {
	w.t.Helper()
	before, _, err := w.s.Head(w.ctx)
	w.ok(err)
	skip := "" // what else may move
	if kind == oauth.EventStorePut || kind == oauth.EventStoreRemoved {
		skip = "stores"
	}
	heads := w.heads(skip)
	e := w.event(kind)
	won, err := run(e)
	if err != nil || !won {
		w.t.Fatalf("%s: won %v, error %v; want it to win", kind, won, err)
	}
	w.noted(inFeed, e, before)
	w.same("how far the rest is", w.heads(skip), heads)
}

// heads reads how far everything is but the feed, and what skip names.
func (w *world) heads(skip string) []string {
	w.t.Helper()
	return w.column("SELECT name || ' ' || CAST(seq AS TEXT) || ' ' || CAST(epoch AS TEXT) FROM heads WHERE name NOT IN ('feed', $1) ORDER BY name", skip)
}

// noted demands that e is the newest event, kept as given, and did to the feed
// what it must since its head was at before.
func (w *world) noted(inFeed bool, e oauth.Event, before int64) {
	w.t.Helper()
	after, _, err := w.s.Head(w.ctx)
	w.ok(err)
	var seq sql.NullInt64
	w.ok(w.db.QueryRowContext(w.ctx, "SELECT seq FROM events WHERE id = $1", e.ID).Scan(&seq))
	want := before
	if inFeed {
		want++
	}
	if after != want || seq.Valid != inFeed || inFeed && seq.Int64 != after {
		w.t.Errorf("%s: head went from %d to %d and the event's seq is %+v; in the feed: %v", e.Kind, before, after, seq, inFeed)
	}
	list, err := w.s.Events(w.ctx, oauth.EventFilter{Limit: 1})
	w.ok(err)
	e.Seq = seq.Int64
	w.same("the event's row", list, []oauth.Event{e})
	follow, err := w.s.FeedAfter(w.ctx, before, 10)
	w.ok(err)
	if inFeed {
		w.same("the feed", follow, []oauth.Event{e})
	} else if len(follow) > 0 {
		w.t.Errorf("%s is in the feed", e.Kind)
	}
}

// loses runs an event and demands that it loses without an error and without a
// change in any row of any table.
func (w *world) loses(why string, run func(oauth.Event) (bool, error)) {
	w.t.Helper()
	before := w.dump()
	won, err := run(w.event("lost"))
	if err != nil || won {
		w.t.Errorf("%s: won %v, error %v; want it to lose", why, won, err)
	}
	if d := cmp.Diff(before, w.dump()); d != "" {
		w.t.Errorf("%s: the lost event wrote (-before +after):\n%s", why, d)
	}
}

// dump reads every row of every table, as the database prints it: in one question, for
// the suite asks it around each event that must change nothing.
func (w *world) dump() map[string][]string {
	w.t.Helper()
	if *w.everything == "" {
		*w.everything = w.printed()
	}
	rows, err := w.db.QueryContext(w.ctx, *w.everything)
	w.ok(err)
	defer rows.Close()
	all := map[string][]string{}
	for rows.Next() {
		var table, row string
		w.ok(rows.Scan(&table, &row))
		all[table] = append(all[table], row)
	}
	w.ok(rows.Err())
	for _, rows := range all {
		slices.Sort(rows)
	}
	return all
}

// printed is the question for every table's name and rows.
func (w *world) printed() string {
	w.t.Helper()
	list := "SELECT name FROM sqlite_master WHERE type = 'table'"
	if w.pg {
		list = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
	}
	tables := w.column(list)
	if len(tables) < 10 {
		w.t.Fatalf("the dump sees only the tables %q", tables)
	}
	for i, table := range tables {
		row := "to_json(r)::text"
		if !w.pg {
			row = strings.Join(w.column("SELECT format('''%s='' || quote(r.%s)', name, name) FROM pragma_table_info($1)", table), " || ' ' || ")
		}
		tables[i] = fmt.Sprintf("SELECT '%s', %s FROM %[1]s r", table, row)
	}
	return strings.Join(tables, " UNION ALL ")
}

// column reads the first column of a query.
func (w *world) column(query string, args ...any) []string {
	w.t.Helper()
	rows, err := w.db.QueryContext(w.ctx, query, args...)
	w.ok(err)
	defer rows.Close()
	var list []string
	for rows.Next() {
		var v string
		w.ok(rows.Scan(&v))
		list = append(list, v)
	}
	w.ok(rows.Err())
	return list
}

func (w *world) count(query string, args ...any) int {
	w.t.Helper()
	var n int
	w.ok(w.db.QueryRowContext(w.ctx, query, args...).Scan(&n))
	return n
}

// must runs an event of the world's own making.
// changed changes one row past the store.
func (w *world) changed(query string, args ...any) {
	w.t.Helper()
	result, err := w.db.ExecContext(w.ctx, query, args...)
	w.ok(err)
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		w.t.Fatalf("%s: %d rows, %v", query, n, err)
	}
}

func (w *world) must(kind oauth.Kind, run func(oauth.Event) (bool, error)) {
	w.t.Helper()
	won, err := run(w.event(kind))
	if err != nil || !won {
		w.t.Fatalf("setting up %s: won %v, error %v", kind, won, err)
	}
}

func (w *world) person() string {
	w.t.Helper()
	u := &oauth.User{ID: w.id("usr_"), Kind: oauth.Person, Name: "Person", Status: oauth.Active}
	w.must(oauth.EventUserCreated, func(e oauth.Event) (bool, error) { return w.s.CreateUser(w.ctx, u, e) })
	return u.ID
}

func (w *world) setUser(id string, to oauth.Status) {
	w.t.Helper()
	w.must(oauth.EventUserSuspended, func(e oauth.Event) (bool, error) { return w.s.SetUserStatus(w.ctx, id, to, e) })
}

func (w *world) store(name string) string {
	w.t.Helper()
	s := &oauth.Store{ID: w.id("st_"), Name: name, Status: oauth.Active}
	w.ok(w.s.PutStore(w.ctx, s, w.event(oauth.EventStorePut)))
	return s.ID
}

func (w *world) setStore(id string, to oauth.Status) {
	w.t.Helper()
	s, err := w.s.Store(w.ctx, id)
	w.ok(err)
	s.Status = to
	w.ok(w.s.PutStore(w.ctx, s, w.event(oauth.EventStorePut)))
}

// member makes user an owner of each store who may delegate.
func (w *world) member(user string, stores ...string) {
	w.t.Helper()
	for _, id := range stores {
		w.must(oauth.EventMembershipSet, func(e oauth.Event) (bool, error) {
			return w.s.SetMembership(w.ctx, &oauth.Membership{UserID: user, StoreID: id, Owner: true, MayDelegate: true}, e)
		})
	}
}

func (w *world) secret() oauth.ClientSecret {
	id := w.id("secret")
	return oauth.ClientSecret{Hash: oauth.HashOf(oauth.Secret(id)), Last4: id[len(id)-4:], Created: w.now.Add(time.Duration(w.ids.Load()) * time.Microsecond)}
}

func (w *world) newApp() *oauth.Client {
	return &oauth.Client{ID: w.id("app-"), Name: "App", Type: oauth.Confidential, Profile: "standard", Origin: "portal", AuthMethod: oauth.BySecret,
		Status: oauth.Active, Version: 1, Created: w.now, Secrets: []oauth.ClientSecret{w.secret()}}
}

// create stores a new app, however many its owner has made.
func (w *world) create(c *oauth.Client) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) { return w.s.CreateClient(w.ctx, c, math.MaxInt, e) }
}

func (w *world) app() string {
	w.t.Helper()
	c := w.newApp()
	w.must(oauth.EventClientCreated, w.create(c))
	return c.ID
}

func (w *world) setApp(id string, to oauth.Status) {
	w.t.Helper()
	w.must(oauth.EventClientSuspended, func(e oauth.Event) (bool, error) { return w.s.SetClientStatus(w.ctx, id, to, e) })
}

// edited raises the version of an app.
func (w *world) edited(id string) {
	w.t.Helper()
	c, err := w.s.Client(w.ctx, id)
	w.ok(err)
	w.must(oauth.EventClientUpdated, func(e oauth.Event) (bool, error) { return w.s.UpdateClient(w.ctx, c, e) })
}

func (w *world) hash() oauth.Hash { return oauth.HashOf(oauth.Secret(w.id("artefact"))) }

// decision makes the record that creates a grant of user for client.
func (w *world) decision(user, client string, stores ...string) oauth.DecisionRecord {
	g := oauth.Grant{ID: w.id("gr_"), UserID: user, ClientID: client, Scopes: oauth.Scopes("orders.read", "orders.write"), Account: oauth.Scopes("user.name"),
		Host: "client.example", Status: oauth.Pending, Rev: 1, Created: w.now}
	for _, id := range stores {
		g.Stores = append(g.Stores, oauth.GrantStore{StoreID: id})
	}
	return oauth.DecisionRecord{Grant: g, ClientVersion: 1, Create: true, Connecting: stores, Code: w.code(&g), Now: w.now}
}

func (w *world) code(g *oauth.Grant) oauth.StoredCode {
	return oauth.StoredCode{Selector: w.id("code"), Hash: w.hash(), Request: w.id("rq_"), ClientID: g.ClientID, GrantID: g.ID, Profile: "standard", API: "api",
		Redirect: "https://client.example/callback", RedirectSent: true, Challenge: "challenge", Nonce: "nonce", AuthTime: w.now.Add(-time.Hour), Expires: w.now.Add(time.Minute)}
}

func (w *world) record(d oauth.DecisionRecord) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) {
		d.Event = e
		return w.s.RecordDecision(w.ctx, d)
	}
}

// granted stores a pending grant and its code.
func (w *world) granted(user, client string, stores ...string) (oauth.Grant, oauth.StoredCode) {
	w.t.Helper()
	d := w.decision(user, client, stores...)
	w.must(oauth.EventGrantMade, w.record(d))
	return d.Grant, d.Code
}

// redemption makes the record that redeems code for a new family with a refresh
// token.
func (w *world) redemption(g oauth.Grant, code oauth.StoredCode) oauth.Redemption {
	w.t.Helper()
	st, err := w.s.Standing(w.ctx, g.ID)
	if errors.Is(err, oauth.ErrNotFound) { // a guest's
		st = &oauth.Standing{}
		st.Seq, _, err = w.s.Head(w.ctx)
	}
	w.ok(err)
	f := oauth.Family{ID: w.id("fam_"), GrantID: g.ID, ClientID: g.ClientID, UserID: g.UserID, API: "api", Status: oauth.Valid,
		StatusIndex: 1<<(oauth.IndexBits+oauth.ListBits+1) - 1<<oauth.IndexBits + w.ids.Add(1), // in the last list of the first epoch
		Rev:         g.Rev, ISeq: st.Seq, Created: w.now, Token: w.hash()}
	return oauth.Redemption{ISeq: st.Seq, Kid: "kid", Selector: code.Selector, ClientID: g.ClientID, GrantID: g.ID, Rev: g.Rev, Activate: g.Status == oauth.Pending, Family: f,
		Refresh: w.refreshOf(f.ID), Now: w.now}
}

func (w *world) refreshOf(family string) *oauth.StoredRefresh {
	return &oauth.StoredRefresh{Selector: w.id("refresh"), Family: family, Hash: w.hash(), IdleUntil: w.now.Add(30 * 24 * time.Hour), AbsoluteUntil: w.now.Add(180 * 24 * time.Hour)}
}

func (w *world) redeem(r oauth.Redemption) func(oauth.Event) (bool, error) {
	return func(e oauth.Event) (bool, error) {
		r.Event = e
		return w.redeems(r)
	}
}

// redeems redeems a code as a token request does: in a visit, and having asked what it is.
func (w *world) redeems(r oauth.Redemption) (won bool, err error) {
	ctx, leave := w.s.Visit(w.ctx)
	defer leave()
	if _, _, err := w.s.Code(ctx, r.Selector); err != nil && !errors.Is(err, oauth.ErrNotFound) {
		return false, err
	}
	return w.s.RedeemCode(ctx, r)
}

// rotates uses a refresh token in the same way.
func (w *world) rotates(r oauth.Rotation) (won bool, err error) {
	ctx, leave := w.s.Visit(w.ctx)
	defer leave()
	if _, _, _, err := w.s.Refresh(ctx, r.Selector); err != nil && !errors.Is(err, oauth.ErrNotFound) {
		return false, err
	}
	return w.s.RotateRefreshToken(ctx, r)
}

// live stores a grant that was redeemed, with its family and refresh token.
func (w *world) live(user, client string, stores ...string) (oauth.Grant, oauth.Redemption) {
	w.t.Helper()
	g, code := w.granted(user, client, stores...)
	r := w.redemption(g, code)
	w.must(oauth.EventCodeRedeemed, w.redeem(r))
	g.Status = oauth.Live
	return g, r
}

func (w *world) grant(id string) *oauth.Grant {
	w.t.Helper()
	st, err := w.s.Standing(w.ctx, id)
	w.ok(err)
	return &st.Grant
}

func (w *world) family(id string) *oauth.Family {
	w.t.Helper()
	f, _, err := w.s.Family(w.ctx, id)
	w.ok(err)
	return f
}
