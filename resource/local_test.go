package resource

import (
	"net/http"
	"testing"
)

// nowhere takes an answer and keeps nothing of it.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

// guarded returns a request with a key that is checked without asking, and the guarded handler.
func guarded(t testing.TB, v *Verifier, token string) (http.Handler, *http.Request) {
	h := v.Require(Access{Scope: "stores.products.update", Store: func(*http.Request) string { return "shop-1" }})(
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r, err := http.NewRequest("GET", "https://api.example/stores/shop-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return h, r
}

// A check of a key seen before costs two pieces of memory: the copy of the request and the context in it.
func TestRequire_allocations(t *testing.T) {
	in(t, func(t *testing.T, _ *issuer, v *Verifier, token string) {
		h, r := guarded(t, v, token)
		w := nowhere{http.Header{}}
		if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n > 2 {
			t.Errorf("%v allocations a request", n)
		}
		if len(w.header) > 0 {
			t.Errorf("refused: %v", w.header)
		}
	})
}

// What a request costs whose key was seen before: everything, up to the handler.
func BenchmarkRequireCached(b *testing.B) {
	i := newIssuer(b)
	v := i.verifier(b)
	token := i.held(b, 9, nil)
	i.loaded(b, v, token)
	h, r := guarded(b, v, token)
	w := nowhere{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
