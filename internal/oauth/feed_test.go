package oauth_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/grantway/grantway/internal/oauth"
)

// poll asks as the API of the world.
func (w *world) poll(s *oauth.Server, epoch, after int64) (*oauth.FeedPage, error) {
	return s.Revocations(context.Background(), w.api, oauth.FeedQuery{After: after, Epoch: epoch, Instance: "test"})
}

// begin is where a follower of a node begins.
func (w *world) begin(s *oauth.Server) *oauth.FeedPage {
	w.t.Helper()
	p, err := w.poll(s, 0, 0)
	w.must(err)
	if p.Epoch < 1 || p.Seq < 1 || p.More || len(p.Changes) > 0 {
		w.t.Fatalf("the beginning is %+v", p)
	}
	return p
}

// place is where a key stands in the lists, as it prints.
func (w *world) place(key oauth.Secret) oauth.StatusRef {
	w.t.Helper()
	var c oauth.Claims
	decodeSegment(w.t, strings.Split(key.Reveal(), ".")[1], &c)
	return c.Status.List
}

// bit reads a key's value from the list that it names, as any verifier would.
func (w *world) bit(s *oauth.Server, key oauth.Secret) (value byte, seq int64) {
	w.t.Helper()
	ref := w.place(key)
	token, err := s.StatusList(context.Background(), ref.URI[strings.LastIndex(ref.URI, "/")+1:])
	w.must(err)
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	w.must(err)
	set := s.PublicKeys(oauth.ForAccess)
	keys := set.Key(jws.Signatures[0].Protected.KeyID)
	if len(keys) != 1 || jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType] != "statuslist+jwt" {
		w.t.Fatalf("header %+v", jws.Signatures[0].Protected)
	}
	payload, err := jws.Verify(keys[0])
	w.must(err)
	var c struct {
		Iss, Sub      string
		Iat, Exp, TTL int64
		StatusList    struct {
			Bits int
			Lst  string
		} `json:"status_list"`
		Epoch, Seq int64
	}
	w.must(json.Unmarshal(payload, &c))
	if c.Iss != issuer || c.Sub != ref.URI || c.Iat != s.Now().Unix() || c.Exp != c.Iat+3600 || c.TTL != 60 || c.StatusList.Bits != 2 {
		w.t.Fatalf("claims %s", payload)
	}
	packed, err := base64.RawURLEncoding.DecodeString(c.StatusList.Lst)
	w.must(err)
	r, err := zlib.NewReader(bytes.NewReader(packed))
	w.must(err)
	list, err := io.ReadAll(r)
	w.must(err)
	if len(list) != 1<<18 {
		w.t.Fatalf("a list of %d bytes", len(list))
	}
	return list[ref.Index/4] >> (ref.Index % 4 * 2) & 3, c.Seq
}

func reason(err error) oauth.Reason {
	if err == nil {
		return ""
	}
	return oauth.AsError(err).Reason
}

func TestFeed_TellsAnAPIAboutItsKeys(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		ctx := context.Background()
		key := w.connect(w.exchange, "alice", "s1")
		ref := w.place(key.AccessToken)
		at := w.begin(w.Server)
		step := func(what string, act error, value oauth.StatusValue) {
			t.Helper()
			w.must(act)
			w.must(w.Follow(ctx))
			p, err := w.poll(w.Server, at.Epoch, at.Seq)
			w.must(err)
			if p == nil || p.Seq != at.Seq+1 || p.More || len(p.Rules) > 0 || len(p.Changes) != 1 || p.Changes[0].Value != value ||
				issuer+"/status/"+oauth.ListID(p.Changes[0].Index) != ref.URI || p.Changes[0].Index&(1<<20-1) != ref.Index {
				t.Fatalf("%s: %+v", what, p)
			}
			at = p
			if v, seq := w.bit(w.Server, key.AccessToken); v != byte(value) || seq != p.Seq {
				t.Errorf("%s: the list says %d as of %d", what, v, seq)
			}
		}
		step("suspended", w.SuspendGrant(ctx, command, key.GrantID), oauth.StatusSuspended)
		step("resumed", w.ResumeGrant(ctx, command, key.GrantID), oauth.StatusValid)
		step("narrowed by a membership", w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true}), oauth.StatusAsk)
		same := w.SetMembership(ctx, command, oauth.Membership{UserID: "alice", StoreID: "s1", Scopes: oauth.Scopes("stores.view"), MayDelegate: true})
		w.must(same)
		w.must(w.Follow(ctx))
		if w.FeedSeq() != at.Seq {
			t.Error("a membership that is as it was moves the feed")
		}
		step("revoked", w.RevokeGrant(ctx, command, key.GrantID), oauth.StatusInvalid)

		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.must(w.Follow(ctx))
		p, err := w.poll(w.Server, at.Epoch, at.Seq)
		w.must(err)
		if len(p.Changes) != 0 || len(p.Rules) != 1 || p.Rules[0] != (oauth.Rule{Seq: at.Seq + 1, Kind: oauth.RuleClient, Subject: w.other.id, Before: at.Seq + 1, Value: oauth.StatusSuspended}) {
			t.Errorf("an app is suspended: %+v", p)
		}
		if b := w.begin(w.Server); len(b.Rules) != 1 || b.Rules[0] != p.Rules[0] {
			t.Errorf("who begins now is told %+v", b)
		}

		// From the beginning again, the node being another one: what it did not see itself
		// it reads.
		later, _ := w.beside()
		w.must(later.Follow(ctx))
		p, err = w.poll(later.Server, at.Epoch, at.Seq-2)
		w.must(err)
		if p.Seq != at.Seq+1 || len(p.Changes) != 2 || len(p.Rules) != 1 {
			t.Errorf("a node that started since tells %+v", p)
		}
		if v, _ := w.bit(later.Server, key.AccessToken); v != 1 {
			t.Errorf("its list says %d", v)
		}
	})
}

// An answer is held while nothing happens, and given at once when something does.
func TestFeed_HoldsThePoll(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		defer func() { stop(); <-done }()
		at := w.begin(w.Server)
		sent := time.Now()
		p, err := w.poll(w.Server, at.Epoch, at.Seq)
		w.must(err)
		if took := time.Since(sent); p != nil || took < 190*time.Millisecond {
			t.Errorf("nothing happened, and after %v the answer is %+v", took, p)
		}
		held := make(chan struct{})
		answers := make(chan *oauth.FeedPage, 1)
		go func() {
			p, err := w.Revocations(context.Background(), w.api, oauth.FeedQuery{After: at.Seq, Epoch: at.Epoch, Instance: "test", Holding: func() { close(held) }})
			if err != nil {
				t.Error(err)
			}
			answers <- p
		}()
		<-held
		w.must(w.RevokeGrant(ctx, command, key.GrantID))
		sent = time.Now()
		if p := <-answers; p == nil || len(p.Changes) != 1 {
			t.Errorf("the answer is %+v", p)
		}
		t.Logf("%v from the commit to the answer", time.Since(sent))
	})
}

// Silence is never taken for peace: a node that does not know says so.
func TestFeed_WhoDoesNotKnowSaysSo(t *testing.T) {
	ctx := context.Background()
	in := func(name string, do func(t *testing.T, w *world, at *oauth.FeedPage)) {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T) {
				w := newWorld(t)
				do(t, w, w.begin(w.Server))
			})
		})
	}
	in("another place in the feed, or no credentials", func(t *testing.T, w *world, at *oauth.FeedPage) {
		for what, c := range map[string]struct {
			epoch, after int64
			want         oauth.Reason
		}{
			"a sequence that is not here yet": {at.Epoch, at.Seq + 1, oauth.FeedUnknown},
			"an epoch that is not here yet":   {at.Epoch + 1, 1, oauth.FeedUnknown},
			"an older epoch":                  {at.Epoch - 1, at.Seq, oauth.FeedGone},
		} {
			if at.Epoch == 1 && c.epoch == 0 {
				c.epoch, c.want = -1, oauth.FeedGone
			}
			if p, err := w.poll(w.Server, c.epoch, c.after); reason(err) != c.want {
				t.Errorf("%s: %+v, %v", what, p, err)
			}
		}
		for what, auth := range map[string]oauth.ClientAuth{
			"no credentials":  {},
			"a wrong secret":  {ID: w.api.ID, Secret: "wrong"},
			"an app's secret": w.exchange.auth(),
		} {
			if p, err := w.Revocations(ctx, auth, oauth.FeedQuery{}); err == nil || oauth.AsError(err).Code != oauth.InvalidClient {
				t.Errorf("%s: %+v, %v", what, p, err)
			}
		}
	})
	in("removed", func(t *testing.T, w *world, at *oauth.FeedPage) {
		node, _ := w.beside()
		exec(t, w.raw(), "UPDATE heads SET seq = ? WHERE name = 'kept'", at.Seq-1)
		w.must(node.Follow(ctx))
		if _, err := w.poll(node.Server, at.Epoch, at.Seq-2); reason(err) != oauth.FeedGone {
			t.Errorf("what was removed is asked for: %v", err)
		}
		if p, err := w.poll(node.Server, at.Epoch, at.Seq-1); err != nil || p == nil || p.Seq != at.Seq {
			t.Errorf("the last that is kept: %+v, %v", p, err)
		}
	})
	in("the database does not answer", func(t *testing.T, w *world, at *oauth.FeedPage) {
		node, storage := w.slowNode(ctx)
		sent := time.Now()
		storage.hold = func(ctx context.Context) { <-ctx.Done() }
		p, err := w.poll(node, at.Epoch, at.Seq)
		if reason(err) != oauth.FeedUnknown {
			t.Errorf("%+v, %v", p, err)
		}
		if took := time.Since(sent); took > 2*time.Second {
			t.Errorf("that took %v", took)
		}
		if _, err := w.poll(node, 0, 0); reason(err) != oauth.FeedUnknown {
			t.Errorf("beginning: %v", err)
		}
		if _, err := node.Introspect(ctx, w.api, "x"); reason(err) != oauth.FeedUnknown {
			t.Errorf("introspection: %v", err)
		}
		if _, err := node.StatusList(ctx, "1-0"); reason(err) != oauth.FeedUnknown {
			t.Errorf("a list: %v", err)
		}
		if age := node.KeysAge(ctx); age <= 0 {
			t.Errorf("its keys are %v old", age)
		}
		if age := w.KeysAge(ctx); age != 0 {
			t.Errorf("the keys of one that knows are %v old", age)
		}
	})
	in("the database has lost events", func(t *testing.T, w *world, at *oauth.FeedPage) {
		node, _ := w.beside()
		asleep, _ := w.beside()
		raw := w.raw()
		exec(t, raw, "DELETE FROM events WHERE seq = (SELECT seq FROM heads WHERE name = 'feed')")
		exec(t, raw, "UPDATE heads SET seq = seq - 1 WHERE name = 'feed'")
		if err := node.Follow(ctx); err == nil {
			t.Error("they are not missed")
		}
		// The number that was told is given again, and the next one.
		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.must(w.ResumeClient(ctx, command, w.other.id))
		for what, node := range map[string]*oauth.Server{"who saw it": node.Server, "who did not look meanwhile": asleep.Server} {
			if err := node.Follow(ctx); err == nil {
				t.Errorf("%s takes other events for those that were lost", what)
			}
		}
		for what, err := range map[string]error{
			"poll":          errOf(w.poll(node.Server, at.Epoch, at.Seq-1)),
			"introspection": errOf(node.Introspect(ctx, w.api, "x")),
			"list":          errOf(node.StatusList(ctx, "1-0")),
		} {
			if reason(err) != oauth.FeedUnknown {
				t.Errorf("%s: %v", what, err)
			}
		}
		exec(t, raw, "UPDATE heads SET seq = seq + 5, epoch = epoch + 1 WHERE name = 'feed'")
		w.must(node.Follow(ctx))
		if _, err := w.poll(node.Server, at.Epoch, at.Seq); reason(err) != oauth.FeedGone {
			t.Errorf("in a new epoch: %v", err)
		}
	})
}

// deposed is a database that may answer reads after another took its place: its
// beats are committed only while it is the one.
type deposed struct {
	oauth.Storage
	mu   sync.Mutex
	beat int64
	deaf bool // beats are not committed any longer
}

func (d *deposed) set(deaf bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = deaf
}

// show shows a beat that was not made durable.
func (d *deposed) show() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beat++
}

func (d *deposed) News(ctx context.Context, after int64, limit int) (oauth.News, error) {
	n, err := d.Storage.News(ctx, after, limit)
	d.mu.Lock()
	defer d.mu.Unlock()
	n.Beats, n.Beat = true, d.beat
	return n, err
}

func (d *deposed) Beat(ctx context.Context, seen int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaf {
		return errors.New("no standby has acknowledged it")
	}
	if d.beat == seen {
		d.beat++
	}
	return nil
}

// Where a database may have been deposed, a read proves nothing by itself.
func TestFeed_ADeposedDatabaseFallsSilent(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		ring, err := oauth.ParseKeyRing(w.ring)
		w.must(err)
		d := &deposed{Storage: w.db}
		node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: d, Ring: ring, Now: w.clock.now, Rand: newRand("deposed")})
		w.must(err)
		at := w.begin(node)
		if p, err := w.poll(node, at.Epoch, at.Seq); p != nil || err != nil {
			t.Fatalf("while it is the one: %+v, %v", p, err)
		}
		key := w.connect(w.exchange, "alice", "s1")
		if in, err := node.Introspect(ctx, w.api, key.AccessToken.Reveal()); err != nil || in == nil || in.Epoch != at.Epoch {
			t.Fatalf("introspection while it is the one: %+v, %v", in, err)
		}
		d.set(true)
		if p, err := w.poll(node, at.Epoch, at.Seq); reason(err) != oauth.FeedUnknown {
			t.Errorf("deposed: %+v, %v", p, err)
		}
		if in, err := node.Introspect(ctx, w.api, key.AccessToken.Reveal()); reason(err) != oauth.FeedUnknown {
			t.Errorf("introspection: %+v, %v", in, err)
		}
		// What did happen may be told, but not that it is all.
		w.must(w.RevokeGrant(ctx, command, key.GrantID))
		w.must(node.Follow(ctx))
		if p, err := w.poll(node, at.Epoch, at.Seq); err != nil || len(p.Changes) != 1 || !p.More {
			t.Errorf("an event of a deposed database: %+v, %v", p, err)
		}
		// It waits for its standby in vain, and shows the beat when the wait is cancelled.
		for began := time.Now(); time.Since(began) < 1100*time.Millisecond; {
			if p, err := w.poll(node, at.Epoch, at.Seq+1); reason(err) != oauth.FeedUnknown {
				t.Fatalf("while it waits: %+v, %v", p, err)
			}
		}
		d.show()
		w.must(node.Follow(ctx))
		if in, err := node.Introspect(ctx, w.api, "x"); reason(err) != oauth.FeedUnknown { // at once: a poll is held for longer than it would count
			t.Errorf("a beat that was given up: %+v, %v", in, err)
		}
		d.set(false)
		if p, err := w.poll(node, at.Epoch, at.Seq+1); p != nil || err != nil {
			t.Errorf("once beats are committed again: %+v, %v", p, err)
		}
	})
}

// A beat that has moved proves the moment of the reading before, when it had not: the
// database may have been deposed since.
func TestFeed_ABeatProvesTheReadingBefore(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		ring, err := oauth.ParseKeyRing(w.ring)
		w.must(err)
		d := &deposed{Storage: w.db, deaf: true, beat: 1}
		node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: d, Ring: ring, Now: w.clock.now, Rand: newRand("beat")})
		w.must(err)
		w.must(node.Follow(ctx))
		began := time.Now()
		d.mu.Lock()
		d.beat++ // and then it is deposed
		d.mu.Unlock()
		ages(node, 20*time.Millisecond)
		w.must(node.Follow(ctx))
		if since, lag := time.Since(began), node.FeedLag(); lag != since {
			t.Errorf("what is known is %v old, and the last reading that proves anything was %v ago", lag, since)
		}
	})
}

// Who begins is told every rule that is in force, as a node has it that saw them come
// and as one that reads them; and none that was lifted.
func TestFeed_WhoBeginsIsToldEveryRule(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		w.connect(w.other, "alice", "s1")
		w.must(w.SuspendClient(ctx, command, w.public.id))
		w.must(w.SuspendClient(ctx, command, w.standard.id))
		w.must(w.ResumeClient(ctx, command, w.standard.id))
		w.must(w.DeleteClient(ctx, command, w.other.id, w.other.Name))
		w.must(w.PutStore(ctx, command, oauth.Store{ID: "s1", Name: "Store s1", Status: oauth.Suspended}))
		w.must(w.CutEverything(ctx, command))
		w.must(w.Follow(ctx))
		later, _ := w.beside()
		for name, s := range map[string]*oauth.Server{"which saw them": w.Server, "which read them": later.Server} {
			got := map[string]oauth.StatusValue{}
			for _, r := range w.begin(s).Rules {
				got[string(r.Kind)+" "+r.Subject] = r.Value
			}
			want := map[string]oauth.StatusValue{"client " + w.public.id: oauth.StatusSuspended, "client " + w.other.id: oauth.StatusInvalid, "store s1": oauth.StatusInvalid, "all ": oauth.StatusInvalid}
			if !maps.Equal(got, want) {
				t.Errorf("a node %s tells %v, want %v", name, got, want)
			}
		}
	})
}

// A list that nothing happens to is signed anew before it expires.
func TestFeed_AListIsSignedAnew(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		for range 3 {
			w.bit(w.Server, key.AccessToken) // says that it was issued now
			w.clock.advance(time.Hour)
		}
	})
}

// meanwhile is a storage beside which something happens once, before it answers what is
// new or which keys changed.
type meanwhile struct {
	oauth.Storage
	beforeNews, beforeChanges func()
	read                      int // how many changes at once, at most
}

func (m *meanwhile) News(ctx context.Context, after int64, limit int) (oauth.News, error) {
	happen(&m.beforeNews)
	return m.Storage.News(ctx, after, limit)
}

func (m *meanwhile) ChangesFor(ctx context.Context, api string, after, upto int64, limit int) ([]oauth.StatusChange, error) {
	happen(&m.beforeChanges)
	list, err := m.Storage.ChangesFor(ctx, api, after, upto, limit)
	m.read = max(m.read, len(list))
	return list, err
}

func happen(once *func()) {
	if does := *once; does != nil {
		*once = nil
		does()
	}
}

// What the last look before "nothing" finds is told, and "nothing" is not.
func TestFeed_WhatTheLastLookFinds(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		ring, err := oauth.ParseKeyRing(w.ring)
		w.must(err)
		storage := &meanwhile{Storage: w.db}
		node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: storage, Ring: ring, Now: w.clock.now, Rand: newRand("early")})
		w.must(err)
		key := w.connect(w.exchange, "alice", "s1")
		w.must(node.Follow(ctx))
		at := w.begin(node)
		storage.beforeNews = func() { w.must(w.RevokeGrant(ctx, command, key.GrantID)) }
		if p, err := w.poll(node, at.Epoch, at.Seq); err != nil || p == nil || len(p.Changes) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// A page is as of when it was begun: that the node has heard more since makes it no
// newer.
func TestFeed_WhatAPageIsAsOf(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		at := w.begin(w.Server)
		w.must(w.SuspendClient(ctx, command, w.other.id))
		storage := &meanwhile{Storage: w.db}
		node := w.office(storage) // it has not seen that itself
		storage.beforeChanges = func() {
			w.must(w.RevokeGrant(ctx, command, key.GrantID))
			ages(node, 101*time.Millisecond) // by then what the node knows is too old
			w.must(node.Follow(ctx))
		}
		p, err := w.poll(node, at.Epoch, at.Seq)
		w.must(err)
		if p.Seq >= node.FeedSeq() || !p.More {
			t.Errorf("the node is at %d, and what was over 100 ms old says that it is all: %+v", node.FeedSeq(), p)
		}
		if p, err = w.poll(node, at.Epoch, p.Seq); err != nil || len(p.Changes) != 1 || p.More {
			t.Errorf("then: %+v, %v", p, err)
		}
	})
}

// ends puts an event into the feed by which as many keys end: those at a place and after.
func (w *world) ends(raw *sql.DB, seq, place int64, keys int) {
	w.t.Helper()
	_, err := raw.Exec(`WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ? - 1)
		INSERT INTO status_changes (seq, status_index, api, value, at) SELECT ?, ? + i, ?, 1, ? FROM n`, keys, seq, place, w.api.ID, start.UnixMicro())
	w.must(err)
	_, err = raw.Exec("INSERT INTO events (id, seq, at, kind, actor, client_id, user_id, grant_id, store_id, request_id, payload) VALUES (?, ?, ?, 'grant.revoked', '', '', '', '', '', '', '')",
		fmt.Sprint("many", seq), seq, start.UnixMicro())
	w.must(err)
	_, err = raw.Exec("UPDATE heads SET seq = ? WHERE name = 'feed'", seq)
	w.must(err)
}

// A page is full at the end of an event, and says that there is more.
func TestFeed_PagesOfMany(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		at := w.begin(w.Server)
		raw := w.raw()
		const events, each, fit = 6, 10_000, oauth.PageMax / 10_000 // more than a page, less than the log holds
		for e := range int64(events) {
			w.ends(raw, at.Seq+e+1, 2048<<20+e*each, each)
		}
		for name, node := range map[string]func() *oauth.Server{
			"from memory":       func() *oauth.Server { w.must(w.Follow(ctx)); return w.Server },
			"from the database": func() *oauth.Server { n, _ := w.beside(); w.must(n.Follow(ctx)); return n.Server },
		} {
			t.Log(name)
			{
				s := node()
				after, got := at.Seq, 0
				for pages := 1; ; pages++ {
					p, err := w.poll(s, at.Epoch, after)
					w.must(err)
					if p == nil { // the page before was right, but a moment old
						break
					}
					if pages == 1 && (p.Seq != at.Seq+fit || !p.More) {
						t.Errorf("%d events fit, and the first page ends at %d of %d, more: %v", fit, p.Seq-at.Seq, events, p.More)
					}
					if int64(len(p.Changes)) != (p.Seq-after)*each || len(p.Changes) > oauth.PageMax {
						t.Fatalf("from %d to %d there are %d changes", after-at.Seq, p.Seq-at.Seq, len(p.Changes))
					}
					for i, c := range p.Changes {
						if c.Seq != after+int64(i/each)+1 || c.Index != 2048<<20+int64(got+i) {
							t.Fatalf("the change %d is %+v", got+i, c)
						}
					}
					got += len(p.Changes)
					after = p.Seq
					if !p.More {
						break
					}
					if pages > events {
						t.Fatal("no end")
					}
				}
				if got != events*each || after != at.Seq+events {
					t.Errorf("%d changes up to %d", got, after)
				}
			}
		}
	})
}

// An event that is more than a page holds is told to nobody: whoever has not got it begins
// anew, after it, and the lists have what it says. It takes no more than that to find out.
func TestFeed_AnEventLargerThanAPage(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		before := w.connect(w.exchange, "bob", "b1")
		at := w.begin(w.Server)
		w.must(w.RevokeGrant(ctx, command, before.GrantID))
		key := w.connect(w.exchange, "alice", "s1")
		ref := w.place(key.AccessToken)
		raw := w.raw()
		w.ends(raw, at.Seq+2, 2048<<20+ref.Index, oauth.PageMax+1)
		storage := &meanwhile{Storage: w.db}
		for name, s := range map[string]*oauth.Server{"from memory": w.Server, "from the database": w.office(storage)} {
			t.Log(name)
			{
				w.must(s.Follow(ctx))
				p, err := w.poll(s, at.Epoch, at.Seq)
				w.must(err)
				if p.Seq != at.Seq+1 || len(p.Changes) != 1 || !p.More {
					t.Fatalf("what happened before it: %d changes up to %d of %d", len(p.Changes), p.Seq-at.Seq, 2)
				}
				if p, err := w.poll(s, at.Epoch, p.Seq); reason(err) != oauth.FeedGone {
					t.Fatalf("the event: %v, and told: %v", err, p != nil)
				}
				anew := w.begin(s)
				if anew.Seq != at.Seq+2 {
					t.Errorf("who begins anew is at %d of %d", anew.Seq-at.Seq, 2)
				}
				if v, seq := w.bit(s, key.AccessToken); v != byte(oauth.StatusInvalid) || seq < anew.Seq {
					t.Errorf("the list says %d as of %d", v, seq-at.Seq)
				}
				if p, err := w.poll(s, anew.Epoch, anew.Seq); err != nil || p != nil {
					t.Errorf("then: %+v, %v", p, err)
				}
			}
		}
		if storage.read != oauth.PageMax+1 {
			t.Errorf("%d changes were read at once", storage.read)
		}
	})
}

// A list that nobody has is not one, whatever it is called.
func TestFeed_ListsByName(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		w.connect(w.exchange, "alice", "s1")
		for _, id := range []string{"", "1", "1-", "-0", "1-0-0", "01-0", "1-00", "+1-0", "1-2047", "1-2048", "2-0", "9223372036854775807-0", "4398046511104-0", "1-0 ", "a-b"} {
			if _, err := w.StatusList(context.Background(), id); !errors.Is(err, oauth.ErrNoList) {
				t.Errorf("%q: %v", id, err)
			}
		}
	})
}

// After a restore nothing of what was lost lives: neither a key that was issued after
// the backup, nor an access token of a chain that the backup has, once a rule of the
// new epoch is about it.
func TestFeed_ARestoredDatabase(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		kept, dead := w.connect(w.exchange, "alice", "s1"), w.connect(w.other, "alice", "s2")
		w.must(w.RevokeGrant(ctx, command, dead.GrantID))
		chain := w.connect(w.standard, "alice", "s1")
		file := w.backup()
		log := w.export()
		for range 3 { // the feed goes on
			w.must(w.SuspendClient(ctx, command, w.nopkce.id))
			w.must(w.ResumeClient(ctx, command, w.nopkce.id))
		}
		lost := w.connect(w.exchange, "bob", "b1")
		token, err := w.Token(ctx, refresh(w.standard, chain.RefreshToken.Reveal()))
		w.must(err)
		lastSeq := w.begin(w.Server).Seq

		back, _ := w.restore(file, log)
		for what, c := range map[string]struct {
			key  oauth.Secret
			want byte
		}{
			"a key that the backup has":              {kept.AccessToken, 0},
			"a key that was revoked before it":       {dead.AccessToken, 1},
			"a key that was issued after it":         {lost.AccessToken, 1},
			"a token of a chain that the backup has": {token.AccessToken, 3}, // what it prints may be of what was lost
		} {
			if v, _ := back.bit(back.Server, c.key); v != c.want {
				t.Errorf("%s: %d, want %d", what, v, c.want)
			}
		}
		if seq := back.begin(back.Server).Seq; seq <= lastSeq {
			t.Errorf("the new epoch begins at %d; %d was told before", seq, lastSeq)
		}
		w.clock.advance(time.Second) // the randomness of a world is the same each time
		again := back.connect(w.exchange, "bob", "b1")
		if a, b := w.place(lost.AccessToken), w.place(again.AccessToken); a == b || a.URI == b.URI {
			t.Errorf("the place %+v is handed out twice", a)
		}
	})
}

// Effective waits for every follower, on whichever node it asks, and for the bound if
// one does not come.
func TestFeed_Effective(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		e, err := w.Effective(ctx)
		if err != nil || !e.Everywhere || e.Followers != 0 {
			t.Errorf("nobody follows: %+v, %v", e, err)
		}
		seq, epoch, err := w.db.Head(ctx)
		w.must(err)
		at := oauth.FeedPage{Seq: seq, Epoch: epoch}
		follower := func(instance string, seq int64) oauth.Follower {
			return oauth.Follower{API: w.api.ID, Instance: instance, Epoch: at.Epoch, Seq: seq, Seen: w.Now(), Node: "another"}
		}
		w.note(follower("a", at.Seq), follower("b", at.Seq))
		if e, err := w.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 2 {
			t.Errorf("all have it: %+v, %v", e, err)
		}
		w.must(w.SuspendClient(ctx, command, w.other.id))
		w.note(follower("a", at.Seq+1))
		e, err = w.Effective(ctx)
		if err != nil || e.Everywhere || e.Followers != 2 || e.After < 850*time.Millisecond {
			t.Errorf("one has not: %+v, %v", e, err)
		}
		done := make(chan oauth.Effect, 1)
		go func() {
			e, err := w.Effective(ctx)
			if err != nil {
				t.Error(err)
			}
			done <- e
		}()
		w.note(follower("b", at.Seq+1))
		if e := <-done; !e.Everywhere {
			t.Errorf("then it has: %+v", e)
		}
		if last, when := w.LastEffect(); !last.Everywhere || when.IsZero() {
			t.Errorf("the last effect: %+v at %v", last, when)
		}
		w.must(w.ResumeClient(ctx, command, w.other.id))
		w.clock.advance(2 * time.Minute)
		if e, err := w.Effective(ctx); err != nil || !e.Everywhere || e.Followers != 0 {
			t.Errorf("those that are gone: %+v, %v", e, err)
		}
	})
}

// An API is told of its own keys only, though the sequence is that of all.
func TestFeed_NothingOfAnotherAudience(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		e, err := w.NewEvent(ctx, oauth.EventAPIPut, command, nil)
		w.must(err)
		won, err := w.db.CreateAPI(ctx, &oauth.API{ID: "api_second", URI: "https://second.example", Name: "Second",
			Secrets: []oauth.ClientSecret{{Hash: oauth.HashOf("second"), Last4: "cond", Created: w.Now()}}}, e)
		if err != nil || !won {
			t.Fatal(won, err)
		}
		w.must(w.Follow(ctx))
		second := oauth.ClientAuth{ID: "api_second", Secret: "second"}
		at, err := w.Revocations(ctx, second, oauth.FeedQuery{Instance: "second"})
		w.must(err)
		w.must(w.RevokeGrant(ctx, command, key.GrantID))
		w.must(w.Follow(ctx))
		p, err := w.Revocations(ctx, second, oauth.FeedQuery{Instance: "second", Epoch: at.Epoch, After: at.Seq})
		w.must(err)
		if p == nil || p.Seq != at.Seq+1 || len(p.Changes) > 0 {
			t.Errorf("another audience is told %+v", p)
		}
		if p, err := w.poll(w.Server, at.Epoch, at.Seq); err != nil || p == nil || len(p.Changes) != 1 { // the same question
			t.Errorf("and ours %+v, %v", p, err)
		}
		if in, err := w.Introspect(ctx, second, w.connect(w.other, "alice", "s1").AccessToken.Reveal()); in != nil || err != nil {
			t.Errorf("and that a key of the first is %+v, %v", in, err)
		}
		w.must(w.Seen(ctx, second, []string{key.GrantID}))
		if g := w.grant(key.GrantID); !g.LastUsed.IsZero() {
			t.Errorf("it has used a grant of the first at %v", g.LastUsed)
		}
	})
}

// What a report says is written once in the hour that it is exact to, however many
// processes of an API say it, and every hour though reports come a moment early.
func TestSeen_NothingNewIsNotWritten(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		w.clock.advance(time.Hour)
		for _, c := range []struct {
			after time.Duration // the report before
			notes bool
		}{{0, true}, {time.Second, false}, {29 * time.Minute, false}, {59*time.Minute + 59*time.Second, true}, {time.Hour - time.Second, true}} {
			w.clock.advance(c.after)
			w.must(w.Seen(ctx, w.api, []string{key.GrantID}))
			if got := w.grant(key.GrantID).LastUsed; got.Equal(w.Now()) != c.notes {
				t.Errorf("%v after the report before: last used %v, and it is %v", c.after, got, w.Now())
			}
		}
	})
}

// behind answers for a key as a server that was deposed would.
type behind struct{ oauth.Storage }

func (b behind) Asked(ctx context.Context, api string, secret oauth.Hash, family string) (*oauth.API, *oauth.Family, *oauth.Standing, error) {
	a, f, st, err := b.Storage.Asked(ctx, api, secret, family)
	if st != nil {
		st.Seq--
	}
	return a, f, st, err
}

// An answer of a server that knows less of the feed than this node is none.
func TestIntrospect_OfAServerThatIsBehind(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t)
		key := w.connect(w.exchange, "alice", "s1")
		ring, err := oauth.ParseKeyRing(w.ring)
		w.must(err)
		node, err := oauth.New(ctx, oauth.Config{Issuer: issuer, Audience: audience, Catalogue: catalogue(), Storage: behind{w.db}, Ring: ring, Now: w.clock.now, Rand: newRand("behind")})
		w.must(err)
		w.must(node.Follow(ctx))
		if in, err := node.Introspect(ctx, w.api, key.AccessToken.Reveal()); reason(err) != oauth.FeedUnknown {
			t.Errorf("%+v, %v", in, err)
		}
	})
}

// Who allows again what is allowed gets another key; the ones that are out stand as
// they are, and the feed has nothing to tell.
func TestFeed_ARepeatConsentThatChangesNothing(t *testing.T) {
	bubbled(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.connect(w.exchange, "alice", "s1", "s2")
		at := w.begin(w.Server)
		second := w.connect(w.exchange, "alice", "s1", "s2")
		w.must(w.Follow(context.Background()))
		if first.GrantID != second.GrantID || w.FeedSeq() != at.Seq {
			t.Errorf("grants %s and %s, and the feed went from %d to %d", first.GrantID, second.GrantID, at.Seq, w.FeedSeq())
		}
		third := w.connect(w.exchange, "alice", "s1")
		for what, c := range map[string]struct {
			key  oauth.Secret
			want byte
		}{"the first": {first.AccessToken, 3}, "the second": {second.AccessToken, 3}, "one of what is allowed now": {third.AccessToken, 0}} {
			if v, _ := w.bit(w.Server, c.key); v != c.want {
				t.Errorf("once less is allowed, %s: %d, want %d", what, v, c.want)
			}
		}
	})
}
