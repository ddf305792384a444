package sqlstore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// asked counts what is read.
type asked struct {
	engine
	reads int
}

func (a *asked) query(ctx context.Context, text string, args []any, row func(func(...any) error) error) error {
	a.reads++
	return a.engine.query(ctx, text, args, row)
}

// Whatever an API asks about, and however often, is one read.
func TestAsked_IsOneRead(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			w := newWriter(t, s)
			d := w.decide(1)[0]
			r := w.redemption(&d, true)
			secret := oauth.HashOf("the secret of an API")
			api := oauth.API{ID: d.Code.API, URI: "https://api.example/", Name: "API", Status: oauth.Active, Secrets: []oauth.ClientSecret{{Hash: secret, Created: w.now}}}
			for _, done := range []func() (bool, error){
				func() (bool, error) { return s.RedeemCode(t.Context(), r) },
				func() (bool, error) { return s.CreateAPI(t.Context(), &api, w.event(oauth.EventAPIPut)) },
			} {
				if ok, err := done(); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			count := &asked{engine: s.engine}
			s = &Store{engine: count}
			for _, ask := range []struct {
				what, family string
				secret       oauth.Hash
				err          error
			}{
				{"first sight", r.Family.ID, secret, nil},
				{"again", r.Family.ID, secret, nil},
				{"a family that is not there", "fm_unknown", secret, nil},
				{"a token that is not ours", "", secret, nil},
				{"somebody else", r.Family.ID, oauth.HashOf("a guess"), oauth.ErrNotFound},
			} {
				count.reads = 0
				_, f, st, err := s.Asked(t.Context(), api.ID, ask.secret, ask.family)
				if !errors.Is(err, ask.err) || (f != nil) != (ask.family == r.Family.ID && err == nil) || (st != nil) != (f != nil) {
					t.Errorf("%s: %+v, %+v, %v", ask.what, f, st, err)
				}
				if count.reads != 1 {
					t.Errorf("%s: %d reads", ask.what, count.reads)
				}
			}
		})
	}
}

// What an API asks about keys is asked in company, once it has shown its secret: whoever
// tries secrets asks for himself.
func TestAsked_InCompany(t *testing.T) {
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			w := newWriter(t, s)
			secret := oauth.HashOf("the secret of an API")
			api := oauth.API{ID: "api", URI: "https://api.example/", Name: "API", Status: oauth.Active, Secrets: []oauth.ClientSecret{{Hash: secret, Created: w.now}}}
			if ok, err := s.CreateAPI(t.Context(), &api, w.event(oauth.EventAPIPut)); !ok || err != nil {
				t.Fatal(ok, err)
			}
			var together atomic.Int64
			count := func(lookups **gatherer, answer func([]*job)) {
				(*lookups).close()
				*lookups = newGatherer(&counters{}, readLimit)
				go (*lookups).run(func(questions []*job) {
					together.Add(int64(len(questions)))
					answer(questions)
				}, nil)
			}
			switch e := s.engine.(type) {
			case *sqlite:
				count(&e.lookups, e.lookUp)
			case *postgres:
				count(&e.lookups, func(questions []*job) { e.answer(forAPIs.of(context.Background()), questions) })
			}
			for _, ask := range []struct {
				what   string
				secret oauth.Hash
				err    error
				want   int64
			}{
				{"a guess", oauth.HashOf("a guess"), oauth.ErrNotFound, 0},
				{"not known yet", secret, nil, 0},
				{"known", secret, nil, 1},
				{"and again", secret, nil, 2},
				{"another guess", oauth.HashOf("another"), oauth.ErrNotFound, 2},
			} {
				if _, _, _, err := s.Asked(t.Context(), api.ID, ask.secret, "fm"); !errors.Is(err, ask.err) {
					t.Errorf("%s: %v", ask.what, err)
				}
				if n := together.Load(); n != ask.want {
					t.Errorf("%s: %d in company, want %d", ask.what, n, ask.want)
				}
			}
		})
	}
}
