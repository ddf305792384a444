package sqlstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// An epoch that begins on a database at work holds no chain while it reads and writes
// the lists; one that is given up half way is begun anew, and keys that live need no
// asking.
func TestNewEpoch_HoldsNoChain(t *testing.T) {
	const n = 2*askBatch + 500
	for engine, dsn := range dsns() {
		t.Run(engine, func(t *testing.T) {
			s := openAt(t, dsn(t))
			lade(t, s, n, 0)
			if err := s.engine.write(t.Context(), one(do("UPDATE families SET due = NULL WHERE status_index % 5 = 0"))); err != nil {
				t.Fatal(err)
			}
			number := func(sql string) (n int) {
				if err := s.row(t.Context(), sql, nil, &n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			givenUp := errors.New("given up")
			err := s.NewEpoch(t.Context(), 100, func(int64, int64) (oauth.Event, error) {
				if _, pg := s.engine.(*postgres); pg { // a file has one writer at a time
					if free := number("SELECT COUNT(*) FROM (SELECT id FROM families FOR UPDATE SKIP LOCKED) free"); free != n {
						t.Errorf("the epoch holds %d of %d families", n-free, n)
					}
				}
				return oauth.Event{}, givenUp
			})
			if !errors.Is(err, givenUp) {
				t.Fatal(err)
			}
			for round := range int64(2) { // the first time after the one that was given up
				at := time.Now()
				err := s.NewEpoch(t.Context(), 100+round, func(epoch, seq int64) (oauth.Event, error) {
					if round == 0 && epoch != 1 {
						t.Errorf("what was given up began the epoch %d", epoch)
					}
					return oauth.Event{ID: fmt.Sprint("ev_", round), At: at, Kind: oauth.EventRestored}, nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if ask, valid := number("SELECT COUNT(*) FROM families WHERE status = 'ask'"), number("SELECT COUNT(*) FROM families WHERE status = 'valid'"); ask != n-n/5 || valid != n/5 {
					t.Errorf("%d chains are asked about and %d keys valid, of %d", ask, valid, n)
				}
			}
		})
	}
}
