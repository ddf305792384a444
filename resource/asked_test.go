package resource

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// An answer is kept for as long as nothing that came later may make it wrong.
func TestAsked_onceUntilAnEventNamesTheKey(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		other := i.held(t, 10, nil)
		want := func(n int64, what string) {
			t.Helper()
			heard()
			i.asked.Store(0)
			for range 5 {
				check(t, v, token, 0, "")
			}
			if got := i.asked.Load(); got != n {
				t.Errorf("%s: asked %d times about 5 checks, want %d", what, got, n)
			}
		}
		i.feed.mark(9, ask)
		i.feed.mark(10, ask)
		want(1, "edited")
		check(t, v, other, 0, "")
		i.feed.mark(10, ask)
		i.feed.mark(11, invalid)
		i.feed.rule(ruleClient, "another-app", invalid)
		want(0, "events about others")
		i.feed.mark(9, ask)
		want(1, "edited again")
		i.feed.rule(ruleStore, "shop-2", ask)
		want(1, "a store of it changed")
		i.feed.rule(ruleStore, "shop-9", ask)
		want(0, "another store changed")
		i.feed.event([]ruleChange{{subject{ruleStore, "shop-1"}, rule{before: 50, value: ask}}})
		want(0, "a rule about older keys")
		i.feed.set(func() { i.feed.fail = status(503) })
		settled(time.Second)
		want(5, "no lease")
		i.feed.set(func() { i.feed.fail = nil })
		settled(time.Second)
		want(0, "the lease is back and nothing happened")
		i.feed.rule(ruleClient, "app-1", suspended)
		heard()
		check(t, v, token, BadToken, "not_active")
		i.feed.rule(ruleClient, "app-1", valid)
		want(0, "suspended and resumed by a rule")
	})
}

// A key that prints no stores may have any: what was answered about it holds no longer once a store is suspended or
// resumed, though no event names the key, and not again when the rule is lifted.
func TestAsked_aStoreOfAKeyThatPrintsNone(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		token := i.held(t, 10, object{"rights": nil})
		answer := func(stores ...string) {
			i.stand(token, i.claims(), object{"jti": "key-10", "scope": "", "rights": []object{{"stores": stores, "scope": "stores.view"}}})
		}
		want := func(what string, asked int64, stores ...string) {
			t.Helper()
			heard()
			i.asked.Store(0)
			if c, err := v.Check(t.Context(), token, Access{}); err != nil || !slices.Equal(c.Stores(""), stores) {
				t.Errorf("%s: %v, %v, want %v", what, c.Stores(""), err, stores)
			}
			if n := i.asked.Load(); n != asked {
				t.Errorf("%s: asked %d times, want %d", what, n, asked)
			}
		}
		answer("shop-1", "shop-9")
		want("at first", 1, "shop-1", "shop-9")
		want("again", 0, "shop-1", "shop-9")
		answer("shop-1")
		i.feed.rule(ruleStore, "shop-9", invalid)
		i.feed.rule(ruleStore, "shop-9", valid) // the bits of those that print it were written
		want("suspended, and nobody looked meanwhile", 1, "shop-1")
		want("and again", 0, "shop-1")
		answer("shop-1", "shop-9")
		i.feed.rule(ruleStore, "shop-9", ask)
		want("resumed", 1, "shop-1", "shop-9")
		i.feed.rule(ruleStore, "shop-9", valid)
		want("the rule is lifted", 0, "shop-1", "shop-9")
	})
}

// An event that is applied while the question is out: the answer may be from before it.
func TestAsked_eventWhileTheQuestionIsOut(t *testing.T) {
	for name, c := range map[string]struct {
		event  func(i *issuer)
		reason string
		asked  int64 // with one more check
	}{
		"unrelated":         {func(i *issuer) { i.feed.mark(10, ask) }, "", 1},
		"about the key":     {func(i *issuer) { i.feed.mark(9, ask) }, "", 2},
		"revoked":           {func(i *issuer) { i.feed.mark(9, invalid) }, "not_active", 1},
		"its app":           {func(i *issuer) { i.feed.rule(ruleClient, "app-1", invalid) }, "not_active", 1},
		"a store is denied": {func(i *issuer) { i.feed.rule(ruleStore, "shop-2", invalid) }, "", 2},
	} {
		in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
			i.feed.mark(9, ask)
			heard()
			arrived, release := i.holdAnswer(t, token)
			got := make(chan error)
			go func() {
				caller, err := v.Check(context.Background(), token, Access{})
				if name == "a store is denied" && !slices.Equal(caller.Stores(""), []string{"shop-1"}) {
					t.Errorf("%s: stores %q", name, caller.Stores(""))
				}
				got <- err
			}()
			<-arrived
			c.event(i)
			heard()
			close(release)
			err := <-got
			if c.reason != "" {
				wantError(t, err, BadToken, c.reason)
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			check(t, v, token, BadToken, c.reason)
			if n := i.asked.Load(); n != c.asked {
				t.Errorf("%s: asked %d times, want %d", name, n, c.asked)
			}
		})
	}
}

// holdAnswer has the issuer make its first answer about a token when it is asked for it, and give it when it is released.
func (i *issuer) holdAnswer(t *testing.T, token string) (arrived <-chan struct{}, release chan<- struct{}) {
	out, over := make(chan struct{}), make(chan struct{})
	answer := func(epoch, seq int64) string {
		return marshal(t, edited(i.table[token], object{"epoch": epoch, "iseq": seq}))
	}
	i.asked.Store(0)
	i.set(func() {
		i.fail = func(w http.ResponseWriter, _ *http.Request) {
			text := answer(i.feed.now())
			if i.asked.Load() == 1 {
				close(out)
				<-over
			}
			fmt.Fprint(w, text)
		}
	})
	return out, over
}

// While the question about a key that prints no stores is out, a store is suspended and the rule lifted again, the bits of
// those that print it being written: no event names the key, and no rule is left that would take the store out.
func TestAsked_aStoreIsSuspendedWhileTheQuestionIsOut(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		token := i.held(t, 10, object{"rights": nil})
		stores := func(ids ...string) {
			i.stand(token, i.claims(), object{"jti": "key-10", "scope": "", "rights": []object{{"stores": ids, "scope": "stores.view"}}})
		}
		stores("shop-1", "shop-9")
		arrived, release := i.holdAnswer(t, token)
		got := make(chan []string)
		go func() {
			caller, err := v.Check(context.Background(), token, Access{})
			if err != nil {
				t.Error(err)
			}
			got <- caller.Stores("")
		}()
		<-arrived
		stores("shop-1")
		i.feed.rule(ruleStore, "shop-9", invalid)
		heard()
		i.feed.rule(ruleStore, "shop-9", valid)
		heard()
		close(release)
		if ids := <-got; !slices.Equal(ids, []string{"shop-1"}) {
			t.Errorf("stores %q", ids)
		}
	})
}

// An answer of a node that is behind what is known here is not kept, nor one without a place in the feed.
func TestAsked_olderAnswers(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.dated = false
		idx := 30
		for name, at := range map[string]func(epoch, seq int64) object{
			"older":         func(epoch, seq int64) object { return object{"epoch": epoch, "iseq": seq - 1} },
			"no place":      func(int64, int64) object { return object{} },
			"half a place":  func(_, seq int64) object { return object{"iseq": seq} },
			"a later epoch": func(epoch, seq int64) object { return object{"epoch": epoch + 1, "iseq": seq} },
		} {
			idx++
			token := i.held(t, idx, nil)
			i.feed.mark(int32(idx), ask)
			heard()
			i.stand(token, i.claims(), edited(at(i.feed.now()), object{"jti": fmt.Sprint("key-", idx)}))
			i.asked.Store(0)
			check(t, v, token, 0, "")
			check(t, v, token, 0, "")
			if n := i.asked.Load(); n != 2 {
				t.Errorf("%s: asked %d times about 2 checks", name, n)
			}
		}
		// One that is older than an event about the key, or of an earlier epoch, says nothing of now.
		epoch, seq := i.feed.now()
		i.stand(token, i.claims(), object{"jti": "key-9", "epoch": epoch - 1, "iseq": seq + 9})
		i.feed.mark(9, ask)
		heard()
		began := time.Now()
		check(t, v, token, Unavailable, "no_answer")
		if d := time.Since(began); d > introspectTimeout {
			t.Errorf("waited %v", d)
		}
		go func() {
			passes(100 * time.Millisecond)
			i.stand(token, i.claims(), object{"jti": "key-9", "epoch": epoch, "iseq": seq + 1})
		}()
		check(t, v, token, 0, "")
	})
}

// A request that got an old answer, and then finds a question of another one out, waits for no longer than two questions take.
func TestAsked_anOldAnswerAndThenNone(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.mark(9, ask)
		heard()
		epoch, seq := i.feed.now()
		old := marshal(t, edited(i.table[token], object{"epoch": epoch - 1, "iseq": seq}))
		i.set(func() {
			i.fail = func(w http.ResponseWriter, r *http.Request) {
				if i.asked.Load() > 1 {
					<-r.Context().Done()
					return
				}
				passes(255 * time.Millisecond)
				fmt.Fprint(w, old)
			}
		})
		var other sync.WaitGroup
		other.Go(func() {
			passes(260 * time.Millisecond)
			check(t, v, token, Unavailable, "no_answer")
		})
		if took := elapsed(func() { check(t, v, token, Unavailable, "no_answer") }); took != 2*introspectTimeout {
			t.Errorf("waited %v", took)
		}
		other.Wait()
	})
}

// 10^5 edited keys, 100 unrelated events a second: at most one introspection a key.
func TestAsked_manyEditedKeys(t *testing.T) {
	n := 100_000
	if os.Getenv("TEST_GRANTWAY_ALL") == "" {
		n = 10_000
		t.Log("LEFT OUT: nine tenths of the keys; make test has them all")
	}
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		tokens := make([]*token, n)
		var changes []change
		for k := range tokens {
			tokens[k] = &token{sub: "u", place: place{"1-0", int32(k)}, has: hasRights | hasISeq, iseq: 100, jti: fmt.Sprint(k)}
			changes = append(changes, change{list: "1-0", idx: int32(k), value: ask})
		}
		i.feed.event(nil, changes...)
		heard()
		asked := 0
		v.asking.do = func(string) (*answer, error) {
			asked++
			epoch, seq := i.feed.now()
			passes(100 * time.Microsecond)
			return &answer{active: true, sub: "u", at: position{true, epoch, seq}}, nil
		}
		for round := range 2 {
			for k, tok := range tokens {
				if k%100 == 0 {
					i.feed.mark(int32(n+k), invalid) // 100 a second, at 100 µs a question
				}
				if _, err := v.powersOf(t.Context(), digest{byte(k), byte(k >> 8), byte(k >> 16)}, "", tok, Introspect); err != nil {
					t.Fatal(err)
				}
			}
			if asked > n {
				t.Fatalf("round %d: %d introspections of %d keys", round, asked, n)
			}
		}
	})
}
