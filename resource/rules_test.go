package resource

import (
	"slices"
	"testing"
)

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
		for _, s := range []subject{{ruleClient, "app-1"}, {ruleAll, ""}} {
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

// A key that was cut off is in other hands, and what it signs says of itself what they like: its rule covers all of that,
// though the key id is in the key set that was read before. Nothing is asked about it.
func TestRules_aSigningKey(t *testing.T) {
	in(t, func(t *testing.T, i *issuer, v *Verifier, _ string) {
		forged := i.held(t, 20, object{"iseq": int64(1 << 40)})
		unseen := i.held(t, 21, object{"iseq": int64(1 << 40)})
		access := i.accessToken(t, object{"status": object{"status_list": object{"idx": 22, "uri": i.URL + "/status/1-0"}}})
		check := func(what string, tokens ...string) {
			t.Helper()
			for _, token := range tokens {
				if _, err := v.Check(t.Context(), token, Access{}); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		check("before", forged, access)
		i.feed.rule(ruleKey, "lasting-1", invalid)
		heard()
		for _, token := range []string{forged, unseen} {
			_, err := v.Check(t.Context(), token, Access{})
			wantError(t, err, BadToken, "not_active")
		}
		check("of another signing key", access)
		i.feed.event([]ruleChange{{subject{ruleKey, "lasting-1"}, rule{value: valid}}})
		heard()
		check("lifted", forged, unseen)
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
