package oauth_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/grantway/grantway/internal/oauth"
)

// Whatever a grant was, whatever was offered and whatever was ticked of it: each store
// ends as the page said, and nothing is given that was not there or approved.
func TestMerge_EveryStoreEndsAsThePageSaid(t *testing.T) {
	w := newWorld(t)
	ids := []string{"a", "b", "c", "d", "e"}
	some := func(t *rapid.T, of []string, what string) []string {
		if len(of) == 0 {
			return nil
		}
		return rapid.SliceOfDistinct(rapid.SampledFrom(of), rapid.ID[string]).Draw(t, what)
	}
	rapid.Check(t, func(t *rapid.T) {
		before := oauth.Grant{AllStores: rapid.Bool().Draw(t, "all before"), Scopes: oauth.Scopes(some(t, storeScopes, "scopes before")...)}
		if before.AllStores && len(before.Scopes) == 0 {
			t.Skip("no such grant")
		}
		for _, id := range some(t, ids, "rows before") {
			set := oauth.Scopes(some(t, storeScopes, "scopes of a row")...)
			switch {
			case len(set) > 0 || before.AllStores:
				before.Stores = append(before.Stores, oauth.GrantStore{StoreID: id, Scopes: append(oauth.ScopeSet{}, set...)})
			case len(before.Scopes) > 0: // it shares those of the grant
				before.Stores = append(before.Stores, oauth.GrantStore{StoreID: id})
			}
		}
		approved := oauth.Scopes(some(t, storeScopes, "approved")...)
		offered, all := some(t, ids, "offered"), rapid.Bool().Draw(t, "all")
		ticked := some(t, offered, "ticked")
		var except []string // shown without a tick, and not all of them offered any more
		if all {
			except = slices.DeleteFunc(some(t, ids, "shown"), func(id string) bool { return slices.Contains(ticked, id) })
		}
		after := before
		after.Stores = slices.Clone(before.Stores)
		w.Merge(&after, approved, offered, ticked, except, all)

		if want := all && (before.AllStores || len(approved) > 0); after.AllStores != want {
			t.Fatalf("all stores: %t, want %t", after.AllStores, want)
		}
		for _, id := range append(ids, "later") {
			had := before.ScopesIn(id)
			row := slices.ContainsFunc(before.Stores, func(x oauth.GrantStore) bool { return x.StoreID == id })
			on, want := slices.Contains(ticked, id), oauth.ScopeSet(nil)
			switch {
			case on:
				want = had.Or(approved)
			case slices.Contains(except, id):
			case !slices.Contains(offered, id) && row: // it could not be ticked
				if after.AllStores || !before.AllStores {
					want = had
				}
			case after.AllStores && before.AllStores && row && len(had) == 0: // taken out of all
			case after.AllStores:
				want = had.Or(approved)
			case all && row: // all, of which nothing was approved: a list stays
				want = had.Or(approved)
			}
			if got := after.ScopesIn(id); !got.Equal(want) {
				t.Fatalf("%s has %q, want %q: %+v became %+v", id, got, want, before, after)
			}
		}
	})
}
