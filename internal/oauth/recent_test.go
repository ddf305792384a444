package oauth_test

import (
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// What is asked for again and again stays, whatever else comes by, and memory is
// bounded.
func TestRecent(t *testing.T) {
	var r oauth.Recent[int, int]
	r.Put(-1, 7)
	for i := range 20 * oauth.RecentMax {
		r.Put(i, i)
		if i%1000 == 0 {
			if v, ok := r.Get(-1); !ok || v != 7 {
				t.Fatalf("forgotten after %d others", i)
			}
		}
		if n := r.Len(); n > 2*oauth.RecentMax {
			t.Fatalf("%d are remembered", n)
		}
	}
	if _, ok := r.Get(0); ok {
		t.Error("what nobody asked for was kept")
	}
	r.Put(-1, 8)
	if v, _ := r.Get(-1); v != 8 {
		t.Errorf("%d in the place of 8", v)
	}
}
