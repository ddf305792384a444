package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/storagetest"
)

// Of two who put one store at once, the second sees what the first made of it:
// whoever has read the store between them must read it again, or a suspended store
// would stay open where it was read.
func TestPostgres_StoresPutAtOnceAreBothCounted(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, other := openAt(t, dsn), direct(t, dsn)
	n := 0
	put := func(to oauth.Status) error {
		n++
		return s.PutStore(t.Context(), &oauth.Store{ID: "s1", Name: "One", Status: to}, oauth.Event{ID: fmt.Sprint("ev_", n), Kind: oauth.EventStorePut})
	}
	changes := func() (seq int64) {
		if err := s.row(t.Context(), "SELECT seq FROM heads WHERE name = 'stores'", nil, &seq); err != nil {
			t.Fatal(err)
		}
		return seq
	}
	if err := put(oauth.Suspended); err != nil {
		t.Fatal(err)
	}
	before := changes()
	run(t, other, "BEGIN")
	run(t, other, "UPDATE heads SET seq = seq + 1 WHERE name = 'stores'")
	run(t, other, "UPDATE stores SET status = 'active' WHERE id = 's1'")
	done := make(chan error, 1)
	go func() { done <- put(oauth.Suspended) }()
	awaitLock(t, dsn)
	run(t, other, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := changes() - before; got != 2 {
		t.Errorf("%d changes of state are counted, want 2", got)
	}
}

// To note when very many were used never holds more than a few rows at a time.
func TestTouchUsed_SomeAtATime(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	ids := make([]string, 2*touchBatch+1)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	before := s.engine.stats().Events
	if err := s.TouchUsed(t.Context(), time.Now(), ids, []oauth.Hash{{1}}); err != nil {
		t.Fatal(err)
	}
	if got := s.engine.stats().Events - before; got != 3 {
		t.Errorf("%d events", got)
	}
}

// A counter that begins anew while the sweeper waits for it stays.
func TestPostgres_WhatIsUsedAgainIsNotSwept(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, other := openAt(t, dsn), direct(t, dsn)
	run(t, other, "INSERT INTO throttles (key, count, until, expires, op) VALUES ('k', 9, 0, 1, '')")
	run(t, other, "BEGIN")
	run(t, other, "UPDATE throttles SET count = 1, expires = $1", time.Now().Add(time.Hour).UnixMicro())
	done := make(chan error, 1)
	go func() {
		_, err := s.Sweep(t.Context(), time.Now(), oauth.EventsKept, 100)
		done <- err
	}()
	awaitLock(t, dsn)
	run(t, other, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "throttles"); n != 1 {
		t.Errorf("%d counters are left of one that counts", n)
	}
}

// What a grant's stores allow is read with its row as long as nothing has changed,
// and in full otherwise, until it is noted anew; whatever the row says, what is
// answered is what the tables say.
func TestStanding_IsNotedInTheGrant(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			w := newWriter(t, s)
			d := w.decision()
			d.Grant.Stores = nil
			member := func(id string, m oauth.Membership) {
				t.Helper()
				m.UserID, m.StoreID = d.Grant.UserID, id
				if won, err := s.SetMembership(t.Context(), &m, w.event(oauth.EventMembershipSet)); !won || err != nil {
					t.Fatal(won, err)
				}
			}
			for i, m := range []oauth.Membership{{Owner: true, MayDelegate: true}, {Scopes: oauth.Scopes("stores.view", "x")}, {Scopes: oauth.ScopeSet{}, MayDelegate: true}} {
				id := fmt.Sprint("|,;st=\\ö", i)
				if err := s.PutStore(t.Context(), &oauth.Store{ID: id, Name: "N", Status: oauth.Active}, w.event(oauth.EventStorePut)); err != nil {
					t.Fatal(err)
				}
				member(id, m)
				own := []oauth.ScopeSet{nil, {}, oauth.Scopes("stores.view", "y")}[i]
				d.Grant.Stores = append(d.Grant.Stores, oauth.GrantStore{StoreID: id, Scopes: own})
			}
			d.Grant.Stores = append(d.Grant.Stores, oauth.GrantStore{StoreID: "of which he is no member"})
			if won, err := s.RecordDecision(t.Context(), d); !won || err != nil {
				t.Fatal(won, err)
			}
			count := &asked{engine: s.engine}
			s = &Store{engine: count}
			read := func(what string, reads int) {
				t.Helper()
				count.reads = 0
				_, got, err := s.Code(t.Context(), d.Code.Selector)
				if err != nil || count.reads != reads {
					t.Errorf("%s: %d reads, want %d, %v", what, count.reads, reads, err)
				}
				want, err := s.Standing(t.Context(), d.Grant.ID)
				if err != nil {
					t.Fatal(err)
				}
				for i := range want.Members {
					want.Members[i].StoreName = ""
				}
				for i := range got.Members {
					got.Members[i].StoreName = ""
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
			read("as it was decided", 1)
			member(d.Grant.Stores[0].StoreID, oauth.Membership{Scopes: oauth.Scopes("x")})
			read("once the user may do less", 2)
			read("again", 1)
			if err := s.TouchUsed(t.Context(), w.now, []string{d.Grant.ID}, nil); err != nil {
				t.Fatal(err)
			}
			s = &Store{engine: count} // which remembers nothing
			read("noted anew when it was used", 1)
			if err := s.PutStore(t.Context(), &oauth.Store{ID: d.Grant.Stores[1].StoreID, Name: "N", Status: oauth.Suspended}, w.event(oauth.EventStorePut)); err != nil {
				t.Fatal(err)
			}
			read("with a store suspended", 2)
			g := d.Grant
			g.Stores, g.Account = g.Stores[1:3], oauth.Scopes("account.view")
			if won, err := s.EditGrant(t.Context(), &g, 2, nil, w.event(oauth.EventGrantEdited)); !won || err != nil {
				t.Fatal(won, err)
			}
			read("edited", 1)
			for _, text := range []string{"", "1", "$\n", "$\nst", "$\nst\t=\t=\td", "$\n\t\t\t\tactive", "$\nst\t\t\t\tactive\t"} {
				var was string
				if err := s.row(t.Context(), "SELECT standing FROM grants WHERE id = $1", []any{g.ID}, &was); err != nil {
					t.Fatal(err)
				}
				basis, _, _ := strings.Cut(was, "\n")
				if err := s.engine.write(t.Context(), one(do("UPDATE grants SET standing = $1 WHERE id = $2", strings.Replace(text, "$", basis, 1), g.ID))); err != nil {
					t.Fatal(err)
				}
				s = &Store{engine: count}
				read(fmt.Sprintf("%q", text), 2)
				if err := s.engine.write(t.Context(), one(do("UPDATE grants SET standing = $1 WHERE id = $2", was, g.ID))); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// What changes beside a decision is never taken for what was noted with it.
func TestPostgres_AChangeBesideADecisionIsSeen(t *testing.T) {
	dsn := storagetest.Postgres(t)
	s, other := openAt(t, dsn), direct(t, dsn)
	w := newWriter(t, s)
	d := w.decision()
	run(t, other, "INSERT INTO stores (id, name, domain, status, created) VALUES ($1, '', '', 'active', 0)", d.Grant.Stores[0].StoreID)
	run(t, other, "INSERT INTO memberships (user_id, store_id, scopes, may_delegate, is_owner, op) VALUES ($1, $2, '', TRUE, TRUE, '')", d.Grant.UserID, d.Grant.Stores[0].StoreID)
	run(t, other, "BEGIN") // as DropMembership does
	run(t, other, "UPDATE users SET members_rev = members_rev + 1 WHERE id = $1", d.Grant.UserID)
	run(t, other, "DELETE FROM memberships WHERE user_id = $1", d.Grant.UserID)
	done := make(chan error, 1)
	go func() {
		won, err := s.RecordDecision(t.Context(), d)
		if err == nil && !won {
			err = errors.New("the decision lost")
		}
		done <- err
	}()
	awaitLock(t, dsn)
	run(t, other, "COMMIT")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, st, err := s.Code(t.Context(), d.Code.Selector); err != nil || len(st.Members) != 0 {
		t.Errorf("%d memberships, want 0, %v", len(st.Members), err)
	}
}

// What is remembered of grants stays small, however many stores they are for.
func TestStanding_OfManyStoresIsNotRemembered(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	for id, stores := range map[string]int{"large": knownMax + 1, "small": knownMax} {
		ev := []statement{do(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
			VALUES ($1, 'u', 'c', FALSE, '', '', FALSE, 'live', 1, '', 0, 0)`, id),
			do(`INSERT INTO families (id, grant_id, client_id, user_id, api, status_index, status, rev, iseq, op, created)
				VALUES ($1, $1, 'c', 'u', 'api', $2, 'valid', 1, 1, '', 0)`, id, stores)}
		for n := range stores {
			ev = append(ev, do("INSERT INTO grant_stores (grant_id, store_id) VALUES ($1, $2)", id, fmt.Sprint(n)))
		}
		if err := s.engine.write(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		_, st, err := s.Family(t.Context(), id)
		if err != nil || len(st.Grant.Stores) != stores {
			t.Fatalf("%d stores, %v", len(st.Grant.Stores), err)
		}
		if _, remembered := s.known.Get(id); remembered != (stores <= knownMax) {
			t.Errorf("a grant for %d stores is remembered: %v", stores, remembered)
		}
	}
}

// A list of grants is whole though the sweeper removes some while it is read.
func TestGrants_SweptWhileTheyAreRead(t *testing.T) {
	const grants = 60
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	ev := []statement{do(`INSERT INTO clients (id, owner, name, type, profile, origin, auth_method, settings, status, version, op, created)
		VALUES ('c', '', '', '', '', '', '', '{}', 'active', 1, '', 0)`)}
	for n := range grants {
		ev = append(ev, do(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
			VALUES ($1, 'u', 'c', FALSE, '', '', FALSE, 'revoked', 1, '', $2, 0)`, fmt.Sprint(n), n))
	}
	if err := s.engine.write(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
	swept := make(chan error, 1)
	go func() {
		for n := range grants { // the oldest, which are read last
			if err := s.engine.write(context.Background(), one(do("DELETE FROM grants WHERE id = $1", fmt.Sprint(n)))); err != nil {
				swept <- err
				return
			}
		}
		swept <- nil
	}()
	for {
		list, err := s.Grants(t.Context(), oauth.GrantFilter{Page: oauth.Page{Limit: grants}})
		if err != nil {
			t.Error(err)
			break
		}
		if len(list) == 0 {
			break
		}
	}
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
}
