package sqlstore

import (
	"context"
	"errors"
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
