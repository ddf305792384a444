package sqlstore

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

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

// What is remembered of grants stays small, however many stores they are for.
func TestStanding_OfManyStoresIsNotRemembered(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "g.db"))
	for id, stores := range map[string]int{"large": knownMax + 1, "small": knownMax} {
		ev := []statement{do(`INSERT INTO grants (id, user_id, client_id, is_default, scopes, account_scopes, all_stores, status, rev, op, created, last_used)
			VALUES ($1, 'u', 'c', FALSE, '', '', FALSE, 'live', 1, '', 0, 0)`, id),
			do(`INSERT INTO families (id, grant_id, client_id, user_id, api, status_index, status, op, created)
				VALUES ($1, $1, 'c', 'u', 'api', $2, 'valid', '', 0)`, id, stores)}
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
