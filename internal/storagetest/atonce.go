package storagetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// atOnce proves what several meet who do other things at the same moment than [races] and
// [ends]. Of all groups only these, and that of the lease, are for the race detector: in
// the others one does one thing after another.
func atOnce(w *world) {
	w.test("of many decisions about one grant at once, and of many denials, as many pass as may", func(w *world) {
		user, app, most := w.person(), w.app(), oauth.Bucket{Size: 5, Refill: 1, Every: time.Hour}
		of, denials := oauth.Allowance{Of: w.id("allowance"), Most: most}, oauth.Allowance{Of: w.id("allowance"), Most: most}
		g, _ := w.granted(user, app)
		for what, run := range map[string]func() (bool, error){
			"decisions": func() (bool, error) {
				code := w.code(&g)
				return w.s.RecordDecision(w.ctx, oauth.DecisionRecord{Grant: g, ClientVersion: 1, Rev: 1, Unchanged: true, Code: code, Now: w.now, Of: of, Event: w.event(oauth.EventCodeIssued)})
			},
			"denials": func() (bool, error) {
				e := w.event(oauth.EventConsentDenied)
				return w.s.NoteDenial(w.ctx, denials, w.id("rq_"), e)
			},
		} {
			var won atomic.Int64
			var all sync.WaitGroup
			for range 4 * most.Size {
				all.Go(func() {
					switch ok, err := run(); {
					case err != nil:
						w.t.Errorf("%s: %v", what, err)
					case ok:
						won.Add(1)
					}
				})
			}
			all.Wait()
			w.same(what, int(won.Load()), most.Size)
		}
	})
	w.test("a chain ends once, whatever uses it at that moment", func(w *world) {
		app := w.app()
		for n := range w.rounds(100) {
			g, first, second := w.continued(app)
			use := w.rotation(g, second.Refresh)
			use.Event = w.event(oauth.EventTokenRefreshed)
			rotated := make(chan error, 1)
			go func() {
				_, err := w.rotates(use)
				rotated <- err
			}()
			w.one("the end of a chain", func(_ int, e oauth.Event) (bool, error) { return w.s.EndChain(w.ctx, second.Refresh.Selector, e) })
			w.ok(<-rotated)
			use.Presented, use.Successor = use.Successor, w.hash()
			w.loses(fmt.Sprintf("round %d: using what has ended", n), w.rotate(use))
			w.wins(issue, oauth.EventTokenRefreshed, w.rotate(w.rotation(g, first.Refresh)))
		}
	})
	w.test("of replays at once that revoke nothing one is noted", func(w *world) {
		_, r := w.live(w.person(), w.app())
		events := func() int {
			return w.count("SELECT COUNT(*) FROM events WHERE kind = $1", string(oauth.EventCodeReplayed))
		}
		before := events()
		var all sync.WaitGroup
		for range 24 {
			e := w.event(oauth.EventCodeReplayed)
			all.Go(func() {
				if won, err := w.s.RevokeReplayed(w.ctx, r.Selector, "", e); won || err != nil {
					w.t.Errorf("won %v, %v", won, err)
				}
			})
		}
		all.Wait()
		w.same("noted", events()-before, 1)
	})
	w.test("no index is handed out twice to 64 at once", func(w *world) {
		const block, each = 4097, 24 // 64 × 24 × 4,097 fill six lists
		var mu sync.Mutex
		blocks := map[int64]bool{}
		var group sync.WaitGroup
		for range 64 {
			group.Go(func() {
				for range each {
					first, err := w.s.AllotIndices(w.ctx, "busy", "key", block, w.now)
					if err != nil {
						w.t.Error(err)
						return
					}
					mu.Lock()
					if in := first % listSize; in%block != 0 || in+block > listSize {
						w.t.Errorf("a block at %d of its list overlaps another", in)
					}
					if blocks[first] {
						w.t.Errorf("the block at %d twice", first)
					}
					blocks[first] = true
					mu.Unlock()
				}
			})
		}
		group.Wait()
		w.same("blocks", len(blocks), 64*each)
		perList := listSize / block
		w.same("lists", w.count("SELECT COUNT(*) FROM status_lists WHERE api = 'busy'"), (64*each+perList-1)/perList)
	})
	w.test("TouchUsed of the same grants in many orders at once", func(w *world) {
		user, app := w.person(), w.app()
		ids := make([]string, 12)
		for i := range ids {
			g, _ := w.granted(user, app)
			ids[i] = g.ID
		}
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				mine := append(append([]string(nil), ids[i%12:]...), ids[:i%12]...)
				for n := range 10 {
					if err := w.s.TouchUsed(w.ctx, w.now.Add(time.Duration(n*16+i)*time.Second), mine, nil); err != nil {
						w.t.Error(err)
					}
				}
			})
		}
		group.Wait()
		for _, id := range ids {
			w.same("last use", w.grant(id).LastUsed, w.now.Add((9*16+15)*time.Second))
		}
	})
	w.test("of those who make an owner's last app at once, one does", func(w *world) {
		for range 20 {
			owner := w.person()
			create := func(most int) func(int, oauth.Event) (bool, error) {
				apps := make([]*oauth.Client, racers)
				for i := range apps {
					apps[i] = w.newApp()
					apps[i].Owner = owner
				}
				return func(racer int, e oauth.Event) (bool, error) { return w.s.CreateClient(w.ctx, apps[racer], most, e) }
			}
			w.one("the first", create(1))
			w.one("the last", create(2))
			if won, lost := w.race(create(5)); won != 3 || lost != racers-3 {
				w.t.Errorf("room for three: %d won and %d lost", won, lost)
			}
		}
	})
	w.test("of several who count at once each is counted, and one closes", func(w *world) {
		keys := []string{"a", "b", "c"}
		var closings, after atomic.Int64
		var all sync.WaitGroup
		for racer := range racers {
			var counts []oauth.WrongSecrets
			for i := range keys { // in another order each
				e := w.event(oauth.EventSecretsRefused)
				e.ID = fmt.Sprintf("ev_race_%d_%d", racer, i)
				counts = append(counts, oauth.WrongSecrets{Key: keys[(i+racer)%len(keys)], N: oauth.GuessesMax / racers, Event: e})
			}
			all.Go(func() {
				if _, err := w.s.CountWrongSecrets(w.ctx, w.now, counts); err != nil {
					w.t.Error(err)
				}
			})
		}
		all.Wait()
		for _, key := range keys {
			missing := int64(oauth.GuessesMax - oauth.GuessesMax/racers*racers)
			if got, _ := w.wrong(key, missing-1, w.now); !got.IsZero() {
				w.t.Errorf("%s is closed by fewer than %d", key, oauth.GuessesMax)
			}
			for range racers {
				all.Go(func() {
					if got, closed := w.wrong(key, 1, w.now); closed {
						closings.Add(1)
					} else if !got.IsZero() {
						after.Add(1)
					}
				})
			}
		}
		all.Wait()
		if closings.Load() != int64(len(keys)) || after.Load() != int64(len(keys)*(racers-1)) {
			w.t.Errorf("%d closings and %d more that found it closed, want %d and %d", closings.Load(), after.Load(), len(keys), len(keys)*(racers-1))
		}
	})
	w.test("of several that write the bits under a rule, one does each batch", func(w *world) {
		app := w.app()
		for range 12 {
			w.live(w.person(), app)
		}
		w.setApp(app, oauth.Deleted)
		for w.foldings() > 0 {
			list, err := w.s.Foldings(w.ctx)
			w.ok(err)
			w.one("a batch", func(_ int, e oauth.Event) (bool, error) { return w.s.FoldRule(w.ctx, list[0], 5, e) })
		}
		w.same("grants that live", w.count("SELECT COUNT(*) FROM grants WHERE client_id = $1 AND status <> 'revoked'", app), 0)
	})
}
