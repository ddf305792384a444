package resource

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// in is a bubble with a Verifier and a key that it checks without asking.
func in(t *testing.T, do func(t *testing.T, i *issuer, v *Verifier, token string), edit ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		i.dated = true
		v, _ := i.wired(t, edit...)
		defer v.Close()
		token := i.held(t, 9, nil)
		i.loaded(t, v, token)
		settled(time.Second + time.Millisecond)
		i.asked.Store(0)
		do(t, i, v, token)
	})
}

// logged collects what is logged until the test is over.
func logged(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

func check(t *testing.T, v *Verifier, token string, kind Kind, reason string) {
	t.Helper()
	_, err := v.Check(context.Background(), token, Access{})
	if reason != "" {
		wantError(t, err, kind, reason)
	} else if err != nil {
		t.Error(err)
	}
}

// The four values, each as soon as its event is here, and back.
func TestFollow_values(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		other := i.held(t, 10, nil)
		for _, c := range []struct {
			value  value
			reason string
			asked  int64
		}{{valid, "", 0}, {suspended, "not_active", 0}, {valid, "", 0}, {ask, "", 1}, {invalid, "not_active", 0}, {ask, "", 1}, {valid, "", 0}} {
			i.feed.mark(9, c.value)
			heard()
			i.asked.Store(0)
			check(t, v, token, BadToken, c.reason)
			if n := i.asked.Load(); n != c.asked {
				t.Errorf("value %d: asked %d times", c.value, n)
			}
			check(t, v, other, 0, "")
		}
		if n := i.feed.lists.Load(); n != 1 {
			t.Errorf("the list was read %d times", n)
		}
		if c := v.Counters(); c.Events != 7 || c.Lapses != 0 || c.Refusals["not_active"] != 2 || c.LeaseAge < 0 || c.LeaseAge > 210*time.Millisecond {
			t.Errorf("%+v", c)
		}
	})
}

// What the key may do comes out of the key where its value is valid, and from the issuer where it is ask.
func TestFollow_rightsOfTheKey(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.stand(token, i.claims(), object{"jti": "key-9", "scope": "", "rights": []object{{"stores": []string{"shop-3"}, "scope": "stores.view"}}})
		caller, err := v.Check(t.Context(), token, Access{})
		if err != nil || !slices.Equal(caller.Stores("stores.view"), []string{"shop-1", "shop-2"}) || !caller.Has("user.view") || caller.Subject != "user-7" {
			t.Errorf("%+v, %v", caller, err)
		}
		caller.Scopes[0] = "changed by one handler"
		h := v.Require(Access{})(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if caller := FromContext(r.Context()); !caller.Has("user.view") || len(caller.Stores("")) != 2 {
				t.Errorf("two requests share a Caller: %+v", caller)
			} else {
				caller.Scopes[0] = "changed by one handler"
			}
		}))
		for range 2 {
			call(h, "GET", "/", "Authorization", "Bearer "+token)
		}
		i.feed.mark(9, ask)
		heard()
		caller, err = v.Check(t.Context(), token, Access{})
		if err != nil || !slices.Equal(caller.Stores("stores.view"), []string{"shop-3"}) || caller.Has("user.view") {
			t.Errorf("%+v, %v", caller, err)
		}
	})
}

// Keys that do not print what they may do, or where their bits are, are asked about whatever the bits say.
func TestFollow_keysThatMustBeAskedAbout(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		for name, edit := range map[string]object{
			"no rights": {"rights": nil}, "no iseq": {"iseq": nil}, "no status": {"status": nil}, "no list": {"status": object{}},
			"another's list":  {"status": object{"status_list": object{"idx": 9, "uri": "https://evil.example/status/1-0"}}},
			"no list's name":  {"status": object{"status_list": object{"idx": 9, "uri": i.URL + "/status/../x"}}},
			"list with query": {"status": object{"status_list": object{"idx": 9, "uri": i.URL + "/status/1-0?x"}}},
		} {
			token := i.held(t, 9, edit)
			i.asked.Store(0)
			check(t, v, token, 0, "")
			if i.asked.Load() != 1 {
				t.Errorf("%s: not asked about", name)
			}
		}
		if n := i.feed.lists.Load(); n != 1 {
			t.Errorf("%d lists were looked for", n)
		}
		token := i.held(t, 9, object{"rights": nil})
		i.feed.mark(9, invalid)
		heard()
		i.asked.Store(0)
		check(t, v, token, BadToken, "not_active")
		if i.asked.Load() != 0 {
			t.Error("asked about an invalid key")
		}
	})
}

// What happens after a quiet while is heard at once. The next question waits for a moment, which is all that what
// happens meanwhile waits.
func TestFollow_asksAgainAMomentAfterNews(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		polls := i.feed.polls.Load()
		i.feed.mark(9, invalid)
		synctest.Wait()
		check(t, v, token, BadToken, "not_active")
		i.feed.mark(9, valid)
		settled(pollEvery - time.Nanosecond)
		check(t, v, token, BadToken, "not_active")
		if n := i.feed.polls.Load() - polls; n != 0 {
			t.Errorf("it asked %d times", n)
		}
		settled(time.Nanosecond)
		check(t, v, token, 0, "")
	})
}

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
			arrived, release := make(chan struct{}), make(chan struct{})
			answer := func(epoch, seq int64) string {
				return marshal(t, edited(i.table[token], object{"epoch": epoch, "iseq": seq}))
			}
			i.set(func() {
				i.fail = func(w http.ResponseWriter, _ *http.Request) {
					text := answer(i.feed.now()) // as of now
					if i.asked.Load() == 1 {
						close(arrived)
						<-release
					}
					fmt.Fprint(w, text)
				}
			})
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

// Rules cover keys by their iseq, refuse, lift, and one of them takes the place of another.
func TestRules(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		old := i.held(t, 20, object{"iseq": 100})
		later := i.held(t, 21, object{"iseq": 1000})
		other := i.held(t, 22, object{"iseq": 100, "client_id": "app-2"})
		want := func(what string, reasons ...string) {
			t.Helper()
			heard()
			for k, token := range []string{old, later, other} {
				_, err := v.Check(t.Context(), token, Access{})
				if got := ""; err != nil {
					got = asError(t, err).Reason
					if got != reasons[k] {
						t.Errorf("%s: key %d: %v, want %q", what, k, err, reasons[k])
					}
				} else if reasons[k] != "" {
					t.Errorf("%s: key %d was admitted", what, k)
				}
			}
		}
		const no = "not_active"
		for _, s := range []subject{{ruleClient, "app-1"}, {ruleKey, "lasting-1"}, {ruleAll, ""}} {
			i.feed.event([]ruleChange{{s, rule{before: 100, value: invalid}}})
			want(string(s.kind)+" before it", "", "", "")
			i.feed.event([]ruleChange{{s, rule{before: 1000, value: invalid}}})
			if s.kind == ruleClient {
				want("client", no, "", "")
			} else {
				want(string(s.kind), no, "", no)
			}
			i.feed.event([]ruleChange{{s, rule{value: valid}}})
			want(string(s.kind)+" lifted", "", "", "")
		}
		i.feed.rule(ruleKey, "access-1", invalid)
		want("another signing key", "", "", "")
		if n := i.asked.Load(); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
}

// Of two rules about one subject the later counts, in whatever order they come.
func TestRules_theLaterCounts(t *testing.T) {
	s := subject{ruleClient, "app-1"}
	r := new(rules).with([]ruleChange{{s, rule{seq: 9, before: 9, value: invalid}}, {s, rule{seq: 5, before: 5, value: suspended}}})
	if got := r.one[s]; got.seq != 9 || len(r.one) != 1 {
		t.Errorf("%+v", r.one)
	}
}

// A store that a rule denies is gone from what the key may do at once, whatever the issuer answers.
func TestRules_deniedStore(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.rule(ruleStore, "shop-2", invalid)
		heard()
		for range 2 {
			c, err := v.Check(t.Context(), token, Access{Scope: "stores.view"})
			if err != nil || !slices.Equal(c.Stores(""), []string{"shop-1"}) || c.HasIn("shop-2", "stores.view") || !c.Has("stores.view") {
				t.Errorf("%+v, %v", c, err)
			}
		}
		if n := i.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		later := i.held(t, 12, object{"iseq": 1000})
		i.feed.mark(12, ask)
		heard()
		if c, err := v.Check(t.Context(), later, Access{}); err != nil || len(c.Stores("")) != 2 {
			t.Errorf("a key that the rule does not cover: %+v, %v", c, err)
		}
		i.feed.rule(ruleStore, "shop-1", invalid)
		heard()
		c, err := v.Check(t.Context(), token, Access{Scope: "stores.view"})
		wantError(t, err, Denied, "scope")
		if len(c.Stores("")) > 0 || c.Has("stores.view") || !c.Has("user.view") {
			t.Errorf("%+v", c)
		}
		i.feed.rule(ruleStore, "shop-1", valid)
		i.feed.rule(ruleStore, "shop-2", valid)
		heard()
		i.asked.Store(0)
		if c, err := v.Check(t.Context(), token, Access{}); err != nil || len(c.Stores("")) != 2 || i.asked.Load() > 0 {
			t.Errorf("lifted: %+v, %v, asked %d times", c, err, i.asked.Load())
		}
	})
}

// 410 drops what is known, and a restored database begins an epoch.
func TestFollow_410(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		// Too old: revoked, and the event is not among those that the node still has.
		i.feed.set(func() { i.feed.fail = status(503) })
		settled(time.Second)
		i.feed.mark(9, invalid)
		i.feed.rule(ruleClient, "app-2", invalid)
		i.feed.set(func() { i.feed.fail, i.feed.changes, i.feed.oldest = nil, nil, i.feed.seq })
		settled(time.Second)
		check(t, v, i.held(t, 10, object{"client_id": "app-2"}), BadToken, "not_active")
		check(t, v, i.held(t, 11, nil), 0, "")
		settled(time.Second)
		check(t, v, token, BadToken, "not_active")
		i.asked.Store(0)
		check(t, v, i.held(t, 11, nil), 0, "")
		if n := i.asked.Load(); n != 0 || i.feed.lists.Load() != 2 {
			t.Errorf("asked %d times, read %d lists", n, i.feed.lists.Load())
		}
		i.feed.set(func() { i.feed.put("1-0", 9, valid) })
		i.feed.restore()
		settled(time.Second)
		check(t, v, i.held(t, 11, nil), 0, "")
		settled(time.Second)
		i.stand(token, i.claims(), object{"jti": "key-9"})
		i.asked.Store(0)
		check(t, v, token, 0, "")
		if c := v.Counters(); i.asked.Load() != 0 || c.Epoch != 2 || c.Lists != 1 {
			t.Errorf("%+v", c)
		}
	})
}

// Many pages are one answer: only the last one extends the lease.
func TestFollow_pages(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.set(func() { i.feed.page, i.feed.fail = 3, status(503) })
		settled(100 * time.Millisecond)
		for n := range 20 {
			i.feed.mark(int32(n), invalid)
		}
		i.feed.set(func() { i.feed.fail = nil })
		settled(300 * time.Millisecond)
		for n := range 20 {
			check(t, v, i.held(t, n, nil), BadToken, "not_active")
		}
		check(t, v, i.held(t, 20, nil), 0, "")
	})
}

// A list is used when the feed is not further than it; until then its keys are asked about.
func TestList_olderThanTheFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, _ := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		old, seq := i.feed.now()
		i.feed.mark(10, invalid)
		settled(300 * time.Millisecond) // or the first list would not be older yet
		for name, edit := range map[string]object{"older": {"seq": seq}, "another epoch": {"epoch": old + 1}, "an earlier epoch": {"epoch": old - 1}} {
			i.feed.set(func() { i.feed.editList = edit })
			i.asked.Store(0)
			i.feed.lists.Store(0)
			for range 10 {
				check(t, v, token, 0, "")
				settled(20 * time.Millisecond)
			}
			if n := i.asked.Load(); n != 10 {
				t.Errorf("%s: asked %d times about 10 checks", name, n)
			}
			if n := i.feed.lists.Load(); n < 4 || n > 6 {
				t.Errorf("%s: the list was read %d times in 200 ms", name, n)
			}
		}
		// One that is ahead of the feed is used, and what it has already is passed over.
		_, seq = i.feed.now()
		i.feed.set(func() { i.feed.editList = object{"seq": seq + 1} })
		i.loaded(t, v, token)
		i.feed.mark(9, ask)
		heard()
		i.asked.Store(0)
		check(t, v, token, 0, "")
		if i.asked.Load() != 0 {
			t.Error("an event that the list had was applied")
		}
	})
}

// Whatever is wrong with a list, its keys are asked about, and the log says so once.
func TestList_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logged(t)
		i := quietIssuer(t)
		i.feed.set(func() { i.feed.bits["1-1"] = make([]byte, listBytes) })
		v, _ := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		signed := func(key any, kid, typ string, edit object) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, signNow(key, kid, typ, edited(object{"iss": i.URL, "sub": i.URL + "/status/1-0", "iat": 1, "exp": time.Now().Unix() + 3600,
					"status_list": object{"bits": 2, "lst": pack(make([]byte, listBytes))}, "epoch": 1, "seq": 1 << 40}, edit)))
			}
		}
		with := func(edit object) http.HandlerFunc { return signed(i.accessKey, "access-1", "statuslist+jwt", edit) }
		packed := func(bits int, raw []byte) http.HandlerFunc {
			return with(object{"status_list": object{"bits": bits, "lst": pack(raw)}})
		}
		for name, answer := range map[string]http.HandlerFunc{
			"typ":             signed(i.accessKey, "access-1", "JWT", nil),
			"an access token": signed(i.accessKey, "access-1", "at+jwt", nil),
			"application/typ": signed(i.accessKey, "access-1", "application/statuslist+jwt", nil),
			"other key":       signed(newKey(t), "access-1", "statuslist+jwt", nil),
			"unknown key":     signed(i.accessKey, "access-9", "statuslist+jwt", nil),
			"the lasting key": signed(i.lastingKey, "lasting-1", "statuslist+jwt", nil),
			"sub":             with(object{"sub": i.URL + "/status/1-1"}), "no sub": with(object{"sub": nil}),
			"iss": with(object{"iss": "https://evil.example"}), "no iss": with(object{"iss": nil}),
			"expired": with(object{"exp": time.Now().Unix()}), "no exp": with(object{"exp": nil}),
			"no epoch": with(object{"epoch": nil}), "no seq": with(object{"seq": nil}), "seq text": with(object{"seq": "1"}),
			"no list": with(object{"status_list": nil}), "one bit": packed(1, make([]byte, listBytes)),
			"shrunk": packed(2, make([]byte, listBytes-1)), "grown": packed(2, make([]byte, listBytes+1)), "a bomb": packed(2, make([]byte, 64<<20)),
			"not zlib":   with(object{"status_list": object{"bits": 2, "lst": "AAAA"}}),
			"not base64": with(object{"status_list": object{"bits": 2, "lst": "*"}}),
			"empty":      says(""), "a page": says("<html>"), "500": status(500), "503": status(503), "404": status(404), "redirect": status(302),
			"too long": says(strings.Repeat("a", maxBody+1)),
		} {
			i.feed.set(func() { i.feed.failList = answer })
			log.Reset()
			i.asked.Store(0)
			for range 5 {
				check(t, v, token, 0, "")
				settled(time.Second)
			}
			if n := i.asked.Load(); n != 5 || v.Counters().Lists != 0 {
				t.Errorf("%s: asked %d times about 5 checks, %d lists", name, n, v.Counters().Lists)
			}
			if n := strings.Count(log.String(), "a status list cannot be used"); n != 1 && name != "503" {
				t.Errorf("%s: %d lines\n%s", name, n, log)
			}
			v.badLists.Store(false)
		}
		i.feed.set(func() { i.feed.failList = nil })
		i.loaded(t, v, token)
	})
}

// Lists that are not there cost a request a second each, and a bounded number of them anything at all.
func TestList_bounded(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		i.feed.lists.Store(0)
		none := i.held(t, 9, object{"status": object{"status_list": object{"idx": 1, "uri": i.URL + "/status/1-7"}}})
		i.set(func() { delete(i.table, none) })
		for range 100 {
			check(t, v, none, BadToken, "not_active")
			settled(10 * time.Millisecond)
		}
		if n := i.feed.lists.Load(); n != 1 && n != 2 {
			t.Errorf("a list that is not there was asked for %d times in a second", n)
		}
		for n := range 2 * maxLists {
			v.follow.want(fmt.Sprint("7-", n))
		}
		settled(time.Second)
		if n := i.feed.lists.Load(); n > maxLists+2 {
			t.Errorf("%d lists were asked for", n)
		}
	})
}

// Whatever is wrong with the feed's answer, nothing of it is taken, the log says so once, and the lease runs out.
func TestFeed_refused(t *testing.T) {
	event := func(change string) string {
		return `{"epoch":1,"seq":102,"more":false,"changes":[` + change + `],"rules":[]}`
	}
	ruled := func(rule string) string {
		return `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[` + rule + `]}`
	}
	big := strings.Repeat(`{"seq":102,"list":"1-0","idx":9,"value":1},`, (10<<20)/43)
	for name, answer := range map[string]string{
		"empty": "", "array": "[]", "null": "null", "a page": "<html>", "cut": `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[`,
		"twice":          `{"epoch":1,"epoch":1,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"no more":        `{"epoch":1,"seq":102,"changes":[],"rules":[]}`,
		"a new member":   `{"epoch":1,"seq":102,"more":false,"changes":[],"rules":[],"kills":[]}`,
		"backwards":      `{"epoch":1,"seq":100,"more":false,"changes":[],"rules":[]}`,
		"an older epoch": `{"epoch":0,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"a later epoch":  `{"epoch":2,"seq":102,"more":false,"changes":[],"rules":[]}`,
		"seq text":       `{"epoch":1,"seq":"102","more":false,"changes":[],"rules":[]}`,
		"no progress":    `{"epoch":1,"seq":101,"more":true,"changes":[],"rules":[]}`,
		"out of range":   event(`{"seq":102,"list":"1-0","idx":1048576,"value":1}`),
		"negative":       event(`{"seq":102,"list":"1-0","idx":-1,"value":1}`),
		"value":          event(`{"seq":102,"list":"1-0","idx":9,"value":4}`),
		"no value":       event(`{"seq":102,"list":"1-0","idx":9}`),
		"more of it":     event(`{"seq":102,"list":"1-0","idx":9,"value":1,"unless":7}`),
		"list":           event(`{"seq":102,"list":"../1-0","idx":9,"value":1}`),
		"seq passed":     event(`{"seq":101,"list":"1-0","idx":9,"value":1}`),
		"seq to come":    event(`{"seq":103,"list":"1-0","idx":9,"value":1}`),
		"not ascending":  `{"epoch":1,"seq":103,"more":false,"changes":[{"seq":103,"list":"1-0","idx":9,"value":1},{"seq":102,"list":"1-0","idx":8,"value":1}],"rules":[]}`,
		"good, then bad": event(`{"seq":102,"list":"1-0","idx":9,"value":1},{"seq":102,"list":"1-0","idx":9,"value":9}`),
		"10 MB":          event(big[:len(big)-1]),
		"kind":           ruled(`{"seq":102,"kind":"tenant","id":"x","before":9,"value":1}`),
		"rule's value":   ruled(`{"seq":102,"kind":"store","id":"x","before":9,"value":2}`),
		"client asks":    ruled(`{"seq":102,"kind":"client","id":"x","before":9,"value":3}`),
		"no id":          ruled(`{"seq":102,"kind":"client","id":"","before":9,"value":1}`),
		"all, with id":   ruled(`{"seq":102,"kind":"all","id":"x","before":9,"value":1}`),
		"no before":      ruled(`{"seq":102,"kind":"client","id":"x","value":1}`),
		"rule to come":   ruled(`{"seq":103,"kind":"client","id":"app-1","before":999,"value":1}`),
		"rule passed":    ruled(`{"seq":101,"kind":"client","id":"app-1","before":999,"value":1}`),
	} {
		t.Run(name, func(t *testing.T) {
			log := logged(t)
			in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
				log.Reset()
				i.feed.set(func() { i.feed.fail = says(answer) })
				settled(600 * time.Millisecond)
				check(t, v, token, 0, "") // nothing of it was taken
				settled(400 * time.Millisecond)
				check(t, v, token, Unavailable, "stale")
				settled(2 * time.Second)
				if n := strings.Count(log.String(), "\n"); n != 1 || name == "10 MB" && !strings.Contains(log.String(), "more than 8388608 bytes") {
					t.Errorf("%d lines:\n%s", n, log)
				}
				if c := v.Counters(); c.Seq != 101 || c.Lapses != 1 {
					t.Errorf("%+v", c)
				}
				i.feed.set(func() { i.feed.fail = nil })
				settled(time.Second)
				check(t, v, token, 0, "")
				settled(calm + time.Second)
				if n := strings.Count(log.String(), "\n"); n != 2 {
					t.Errorf("%d lines:\n%s", n, log)
				}
			}, func(c *Config) { c.OnStale = Closed })
		})
	}
}

// A snapshot that is behind what was seen is another feed's.
func TestFeed_snapshotOfAnother(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.set(func() {
			i.feed.fail = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("after") {
					w.WriteHeader(410)
					return
				}
				fmt.Fprint(w, `{"epoch":1,"seq":7,"more":false,"changes":[],"rules":[]}`)
			}
		})
		settled(time.Second)
		check(t, v, token, Unavailable, "stale")
		if err := v.Ready(); err != nil {
			t.Error(err)
		}
	}, func(c *Config) { c.OnStale = Closed })
}

// Wrong credentials: refused, and not tried five times a second.
func TestFeed_withoutCredentials(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		i.feed.set(func() { i.feed.fail = status(401) })
		settled(time.Second)
		check(t, v, token, Unavailable, "stale")
		before := i.feed.polls.Load()
		settled(10 * time.Second)
		if n := i.feed.polls.Load() - before; n > 11 {
			t.Errorf("%d polls in 10 s", n)
		}
	}, func(c *Config) { c.OnStale = Closed })
}

// The policy of a route, where it has one, holds against the Verifier's.
func TestOnStale_byRoute(t *testing.T) {
	for _, verifier := range []OnStale{0, Introspect, Closed, Open(time.Second)} {
		in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
			last := v.follow.lease.Load
			i.feed.set(func() { i.feed.fail = status(503) })
			settled(time.Second) // lapsed about 500 ms ago
			ends := last().sent.mono + leaseLife
			status := func(route OnStale) int {
				h := v.Require(Access{OnStale: route})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				r := call(h, "GET", "/", "Authorization", "Bearer "+token)
				if r.StatusCode == 503 && (r.Header.Get("Retry-After") == "" || r.Header.Get("WWW-Authenticate") != "") {
					t.Errorf("503 with %v", r.Header)
				}
				return r.StatusCode
			}
			want := map[OnStale]int{Introspect: 200, Closed: 503, Open(10 * time.Millisecond): 503, Open(time.Second): 200, Open(time.Hour): 200}
			want[0] = map[OnStale]int{0: 200, Introspect: 200, Closed: 503, Open(time.Second): 200}[verifier]
			for route, code := range want {
				if got := status(route); got != code {
					t.Errorf("Verifier %d, route %d: %d, want %d", verifier, route, got, code)
				}
			}
			passes(ends + time.Second - v.clock().mono)
			if got := status(Open(time.Second)); got != 200 {
				t.Errorf("at the end of Open: %d", got)
			}
			passes(1)
			if got := status(Open(time.Second)); got != 503 {
				t.Errorf("after the end of Open: %d", got)
			}
			i.asked.Store(0)
			i.feed.set(func() { i.feed.fail = nil })
			settled(time.Second)
			i.feed.mark(9, invalid)
			settled(time.Second)
			for route := range want {
				if got := status(route); got != 401 {
					t.Errorf("revoked, route %d: %d", route, got)
				}
			}
		}, func(c *Config) { c.OnStale = verifier })
	}
}

// Open is loud, counted, goes by the last known state, and by none that was dropped.
func TestOnStale_open(t *testing.T) {
	log := logged(t)
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		log.Reset()
		dead, edited := i.held(t, 10, nil), i.held(t, 11, nil)
		i.feed.mark(10, invalid)
		i.feed.mark(11, ask)
		heard()
		check(t, v, edited, 0, "")
		open := Access{OnStale: Open(2 * time.Second)}
		i.feed.set(func() { i.feed.fail = status(503) })
		settled(time.Second)
		log.Reset()
		for range 5 {
			if _, err := v.Check(t.Context(), token, open); err != nil {
				t.Error(err)
			}
			_, err := v.Check(t.Context(), dead, open)
			wantError(t, err, BadToken, "not_active")
		}
		i.asked.Store(0)
		if _, err := v.Check(t.Context(), edited, open); err != nil || i.asked.Load() != 1 {
			t.Errorf("an answer from before the lapse: %v, asked %d times", err, i.asked.Load())
		}
		settled(3 * time.Second)
		for range 5 {
			_, err := v.Check(t.Context(), token, open)
			wantError(t, err, Unavailable, "stale")
		}
		i.feed.set(func() { i.feed.fail = nil })
		settled(time.Second)
		text := log.String()
		if strings.Count(text, "\n") != 3 || strings.Count(text, "Open admits requests") != 1 || strings.Count(text, "time of Open is over") != 1 || strings.Count(text, "admitted=5") != 2 {
			t.Errorf("the log:\n%s", text)
		}
		if c := v.Counters(); c.Open != 5 {
			t.Errorf("%+v", c)
		}
		i.feed.set(func() {
			i.feed.fail = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(map[bool]int{true: 410, false: 503}[r.URL.Query().Has("after")])
			}
		})
		settled(300 * time.Millisecond)
		_, err := v.Check(t.Context(), token, open)
		wantError(t, err, Unavailable, "stale")
	})
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond - 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Open(%v) was taken", d)
				}
			}()
			Open(d)
		}()
	}
}

// Beyond a number of keys asked about at once, requests are refused at once, as Unavailable.
func TestAsker_sheds(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		stuck := make(chan struct{})
		v.asking.do = func(string) (*answer, error) { <-stuck; return nil, unavailable("no_answer", nil) }
		for n := range maxAsking {
			go v.asking.ask(context.Background(), digest{1, byte(n), byte(n >> 8)}, "t")
		}
		heard()
		i.feed.mark(9, ask)
		heard()
		check(t, v, token, Unavailable, "shed")
		if c := v.Counters(); c.Shed != 1 {
			t.Errorf("%+v", c)
		}
		close(stuck)
		heard()
		check(t, v, token, Unavailable, "no_answer")
	})
}

// A question that is not answered within 300 ms is one that cannot be asked.
func TestIntrospect_timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := quietIssuer(t)
		v, w := i.wired(t)
		defer v.Close()
		token := i.held(t, 9, nil)
		i.loaded(t, v, token)
		w.set(func() { w.silent["auth.example"] = true })
		settled(time.Second)
		began := time.Now()
		check(t, v, token, Unavailable, "no_answer")
		if d := time.Since(began); d != introspectTimeout {
			t.Errorf("waited %v", d)
		}
	})
}

// Of several nodes, one that is silent or fails costs no request that the issuer must answer.
func TestIntrospect_nextNode(t *testing.T) {
	for name, fault := range map[string]func(w *wire){
		"silent": func(w *wire) { w.silent["one.example"] = true }, "nobody listens": func(w *wire) { w.refused["one.example"] = true },
		"503": func(w *wire) { w.hosts["one.example"] = status(503) },
	} {
		synctest.Test(t, func(t *testing.T) {
			i := quietIssuer(t)
			v, w := i.wired(t, func(c *Config) { c.Nodes = []string{"https://one.example/", "https://two.example"} })
			defer v.Close()
			w.set(func() { w.hosts["one.example"], w.hosts["two.example"] = i.handler, i.handler })
			token := i.lasting(t, nil)
			settled(time.Second)
			v.follow.node.Store(0)
			w.set(func() { fault(w) })
			check(t, v, token, 0, "")
			_ = name
		})
	}
}

// Which grants were seen is reported once an hour, each once, and at Close.
func TestSeen(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		other := i.held(t, 10, object{"grant_id": "grant-2"})
		dead := i.held(t, 11, object{"grant_id": "grant-3"})
		i.feed.mark(11, invalid)
		settled(time.Second)
		for range 100 {
			check(t, v, token, 0, "")
			check(t, v, other, 0, "")
			check(t, v, dead, BadToken, "not_active")
		}
		i.feed.set(func() { i.feed.fail = status(401) }) // polls take time
		settled(50 * time.Minute)
		if len(i.feed.reports) > 0 {
			t.Errorf("reported within the hour: %q", i.feed.reports)
		}
		settled(2 * time.Hour)
		i.feed.set(func() { i.feed.fail = nil })
		settled(2 * time.Second)
		if len(i.feed.reports) != 1 || len(i.feed.reports[0]) != 2 {
			t.Errorf("reported %q", i.feed.reports)
		}
		check(t, v, token, 0, "")
		v.Close()
		if len(i.feed.reports) != 2 || !slices.Equal(i.feed.reports[1], []string{"grant-1"}) {
			t.Errorf("reported %q", i.feed.reports)
		}
	})
}

func TestSeen_bounded(t *testing.T) {
	var s sightings
	s.init()
	for n := range 3 * maxSeen {
		s.add(&token{grantID: fmt.Sprint(n)})
	}
	if n := len(s.take()); n != maxSeen {
		t.Errorf("%d grants", n)
	}
}

// The values of a list are those that were packed, and a list takes memory only where a key is not valid.
func TestList_memory(t *testing.T) {
	bits := make([]byte, listBytes)
	r := rand.New(rand.NewSource(1))
	r.Read(bits)
	l := newList(1, bits)
	for i := range int32(listEntries) {
		if want := value(bits[i/4] >> (i % 4 * 2) & 3); l.value(i) != want {
			t.Fatalf("entry %d is %d, want %d", i, l.value(i), want)
		}
	}
	for range 100_000 {
		i, v := r.Int31n(listEntries), value(r.Intn(4))
		if l.set(i, v); l.value(i) != v {
			t.Fatalf("entry %d is not %d", i, v)
		}
	}
	var before, after runtime.MemStats
	taken := func(make func() *list) uint64 {
		runtime.ReadMemStats(&before)
		l := make()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(l)
		return after.TotalAlloc - before.TotalAlloc
	}
	empty := taken(func() *list { return newList(1, make([]byte, listBytes)) }) - listBytes
	full := taken(func() *list { return newList(1, bits) })
	const lists8 = (100_000_000 + listEntries - 1) / listEntries
	t.Logf("a list of 2^20 keys: %d bytes where all are valid, %d at most; 10^8 keys are %d lists, %d MB at most", empty, full, lists8, lists8*full>>20)
	if full >= 1_000_000 || empty > 8<<10 || unsafe.Sizeof(chunk{}) != 1<<10 || lists8*full > 26<<20 {
		t.Error("that is more than was promised")
	}
}
