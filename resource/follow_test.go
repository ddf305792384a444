package resource

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
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
			"no rights": {"rights": nil}, "no iseq": {"iseq": nil}, "no status": {"status": nil},
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

// Whoever closes says so, once nothing is accepted here any more, and does not wait long
// to be heard.
func TestFollow_leaves(t *testing.T) {
	for _, stale := range []OnStale{Introspect, Closed, Open(time.Hour)} {
		in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
			var left []string
			i.feed.set(func() {
				i.feed.leaves = func(instance string) {
					left = append(left, instance)
					if _, err := v.Check(context.Background(), token, Access{}); err == nil {
						t.Error("it still accepts")
					}
				}
			})
			v.Close()
			v.Close() // follows nothing
			var followed []string
			i.feed.set(func() { followed = slices.Collect(maps.Keys(i.feed.acked)) })
			if len(left) != 1 || !slices.Equal(left, followed) {
				t.Errorf("%q left, %q followed", left, followed)
			}
		}, func(c *Config) { c.OnStale = stale })
	}
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) { // where it was just told to begin anew, too
		left := 0
		i.feed.set(func() { i.feed.fail, i.feed.leaves = status(http.StatusGone), func(string) { left++ } })
		settled(time.Second)
		v.Close()
		if left != 1 {
			t.Errorf("it left %d times", left)
		}
	})
	synctest.Test(t, func(t *testing.T) { // who was never answered, but may be counted
		i := quietIssuer(t)
		var asked, left []string
		i.feed.fail = func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Query().Get("instance"))
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		i.feed.leaves = func(instance string) { left = append(left, instance) }
		v, _ := i.wired(t)
		v.Close()
		if len(asked) == 0 || !slices.Equal(left, asked[:1]) {
			t.Errorf("%q left, %q asked", left, asked)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and who asked nothing has nothing to say
		i := quietIssuer(t)
		i.feed.leaves = func(instance string) { t.Errorf("%q left", instance) }
		delete(i.meta, "revocation_feed_endpoint")
		v, _ := i.wired(t)
		v.Close()
	})
	in(t, func(t *testing.T, i *issuer, v *Verifier, token string) {
		over := make(chan struct{})
		i.feed.set(func() { i.feed.leaves = func(string) { <-over } })
		began := time.Now()
		v.Close()
		if took := time.Since(began); took != lastReport {
			t.Errorf("it waited for %v", took)
		}
		close(over)
	})
}
