package config

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/grantway/grantway/internal/oauth"
)

func TestParseCatalogue_whole(t *testing.T) {
	c, err := ParseCatalogue([]byte(`
scopes:
  - {name: orders.refund, group: orders, kind: store, verb: change, risk: high, touches: [money, customers], text: {en: Refund orders., "no": Refundere bestillinger.}}
  - name: profile
    group: me
    kind: account
    verb: see
    risk: low
    text:
      en: |-
        See your name.
groups:   # below the scopes that name them, and in this order
  me: {en: You}
  orders: {en: Orders, "no": Bestillinger}
`))
	if err != nil {
		t.Fatal(err)
	}
	scopes := []oauth.Scope{
		{Name: "orders.refund", Group: "orders", Kind: oauth.StoreScope, Verb: "change", Risk: "high", Touches: []string{"money", "customers"},
			Text: map[string]string{"en": "Refund orders.", "no": "Refundere bestillinger."}},
		{Name: "profile", Group: "me", Kind: oauth.AccountScope, Verb: "see", Risk: "low", Text: map[string]string{"en": "See your name."}},
	}
	groups := []oauth.ScopeGroup{
		{ID: "me", Title: map[string]string{"en": "You"}},
		{ID: "orders", Title: map[string]string{"en": "Orders", "no": "Bestillinger"}},
	}
	if d := cmp.Diff(scopes, c.Scopes); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(groups, c.Groups); d != "" {
		t.Error(d)
	}
	if c.Scope("profile") == nil {
		t.Error("the catalogue is not indexed")
	}
}

// All mistakes of a file are in one answer, in lines that say where and what to do.
func TestParseCatalogue_allErrorsAtOnce(t *testing.T) {
	_, err := ParseCatalogue([]byte(`groups:
  Orders: {en: Orders}
  me: {de: Du}
scopes:
  - name: orders.view
    group: shop
    kind: store
    verb: see
    risk: elevated
    touches: [money, money, stock]
    text: {en: See your orders., de: " Bestellungen", xx-: X, EN-us: Y}
    color: red
  - name: orders.view
    group: me
    kind: store
    verb: see
    risk: low
    text: {en: Again.}
  - name: Orders view
    grup: me
    kind: shop
    verb: view
    risk: some
    text: {de: Nur deutsch.}
  - just text
  - name: empty
    text:
`))
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`line 2: group "Orders": write its id in small letters, digits and hyphens, such as orders`,
		"line 3: group me has no text in English; add en:",
		"line 10: orders.view touches money twice; keep one of the two",
		`line 10: orders.view: touches is "stock"; write money, customers or deletion`,
		"line 11: orders.view: the text in de holds a line break, a control character or a space at an end; write one plain line",
		`line 11: orders.view: "xx-" is not a language; write its code, such as en, de or pt-BR`,
		"line 11: orders.view: write the language EN-us as en-US",
		"line 12: orders.view: color is not a part of a scope; remove it; there are name, group, kind, verb, risk, touches, text",
		"line 13: orders.view is listed twice, first in line 5; remove one of the two",
		`line 19: "Orders view" is not a scope name; write words joined by dots, each beginning with a small letter, such as orders.view, at most 100 characters`,
		"line 20: scope 3: grup is not a part of a scope; write group or remove it",
		`line 21: scope 3: kind is "shop"; write store or account`,
		`line 22: scope 3: verb is "view"; write see or change`,
		`line 23: scope 3: risk is "some"; write low, elevated or high`,
		"line 24: scope 3 has no text in English; add en:",
		"line 19: scope 3 has no group; add it",
		"line 25: scope 4 is a single value; write key: value pairs",
		"line 27: empty in words is empty; write key: value pairs",
		"line 26: empty has no group; add it",
		"line 26: empty has no kind; add it",
		"line 26: empty has no verb; add it",
		"line 26: empty has no risk; add it",
		"line 6: orders.view: there is no group shop; add it under groups",
	}
	got := strings.Split(err.Error(), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseCatalogue_refuses(t *testing.T) {
	const scope = "{name: a, group: g, kind: store, verb: see, risk: low, text: {en: A.}}"
	for _, x := range []struct{ yaml, want string }{
		{"", "line 1: there are no scopes"},
		{"scopes: []", "line 1: there are no scopes"},
		{"scopes: {a: b}", "line 1: scopes is a mapping; write a list"},
		{"groups: [g]", "line 1: groups is a list; write key: value pairs"},
		{"groups: {g: {en: G}}\ngroups: {g: {en: G}}\nscopes: [" + scope + "]", "line 2: groups is given twice"},
		{"groups: {g: {en: G}, g: {en: G}}\nscopes: [" + scope + "]", "line 1: g is given twice"},
		{"groups: {g: {en: ''}}\nscopes: [" + scope + "]", "line 1: en is empty"},
		{"groups: {g: Title}\nscopes: [" + scope + "]", "line 1: group g in words is a single value"},
		{"groups: {g: {en: G}}\nscopes:\n- " + strings.Replace(scope, "A.", strings.Repeat("A", 201), 1), "line 3: a: the text in en is longer"},
		{"groups: {g: {en: G}}\nscopes:\n- " + strings.Replace(scope, "A.", `"A\nB"`, 1), "line 3: a: the text in en holds a line break"},
		{"groups: {g: {en: &g G}}\nscopes: [" + scope + "]", "line 1: en is an anchor"},
	} {
		_, err := ParseCatalogue([]byte(x.yaml))
		if err == nil || !strings.HasPrefix(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s\ngot  %v\nwant %s…, alone", x.yaml, err, x.want)
		}
	}
	for _, name := range []string{"Orders", "orders.", ".orders", "orders..view", "orders.View", "orders view", `orders"`, "bücher", "orders_view", "orders:view", "1a", strings.Repeat("a", 101)} {
		yaml := "groups: {g: {en: G}}\nscopes:\n- " + strings.Replace(scope, "name: a", "name: '"+name+"'", 1)
		if _, err := ParseCatalogue([]byte(yaml)); err == nil || !strings.Contains(err.Error(), "is not a scope name") {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// The names of seed-contracts.md 1.5, in its order and its short form.
const seedScopes = `
stores.view stores.update stores.create stores.analytics.view
stores.categories.{view,create,update,delete} stores.products.{view,create,update,delete}
stores.customers.{view,create,update} stores.orders.{view,create,deliver,refund}
stores.coupons.{view,create,update,delete} stores.affiliates.{view,update}
stores.tickets.{view,update,delete} stores.reviews.flagged.create
user.view user.crypto.viewEnabled user.webhooks.{view,create,update,delete}
stores.blacklist.{view,create,update,delete} stores.blog.{view,create,update,delete} stores.discountdialogs.{view,create,update,delete}
stores.emailmarketing.{view,update} stores.subscriptions.{view,update} stores.tax.{view,update}
`

func demoCatalogue(t *testing.T) *oauth.Catalogue {
	t.Helper()
	data, err := os.ReadFile("../demo/catalogue.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCatalogue(data)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDemoCatalogue_seedContracts_1_5(t *testing.T) {
	var want []string
	for _, word := range strings.Fields(seedScopes) {
		stem, verbs, many := strings.Cut(strings.TrimSuffix(word, "}"), "{")
		if !many {
			want = append(want, word)
			continue
		}
		for _, verb := range strings.Split(verbs, ",") {
			want = append(want, stem+verb)
		}
	}
	if len(want) != 53 {
		t.Fatalf("the list above has %d names", len(want))
	}
	c := demoCatalogue(t)
	var got []string
	for _, s := range c.Scopes {
		got = append(got, s.Name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(c.Groups) != 10 {
		t.Errorf("%d groups, the published page has 10", len(c.Groups))
	}
	for _, g := range c.Groups {
		if !slices.ContainsFunc(c.Scopes, func(s oauth.Scope) bool { return s.Group == g.ID }) || len(g.Title) != 2 {
			t.Errorf("group %s is without scopes or without a title in both languages", g.ID)
		}
	}
}

func TestDemoCatalogue_sentences(t *testing.T) {
	seen := map[string]string{}
	for _, s := range demoCatalogue(t).Scopes {
		if len(s.Text) != 2 {
			t.Errorf("%s: %d languages", s.Name, len(s.Text))
		}
		for _, lang := range []string{"en", "de"} {
			text := s.Text[lang]
			if first, _ := utf8.DecodeRuneInString(text); !unicode.IsUpper(first) {
				t.Errorf("%s: %q does not begin with a capital", s.Name, text)
			}
			if !strings.HasSuffix(text, ".") || strings.ContainsAny(strings.TrimSuffix(text, "."), ".!?") {
				t.Errorf("%s: %q is not one sentence with a full stop", s.Name, text)
			}
			if n := utf8.RuneCountInString(text); n > 90 {
				t.Errorf("%s: %q has %d characters", s.Name, text, n)
			}
			if other, dup := seen[text]; dup {
				t.Errorf("%s and %s say the same: %q", s.Name, other, text)
			}
			seen[text] = s.Name
		}
	}
}

// What a scope is marked with follows from its name where the name says it.
func TestDemoCatalogue_marks(t *testing.T) {
	c := demoCatalogue(t)
	for _, s := range c.Scopes {
		last := s.Name[strings.LastIndexByte(s.Name, '.')+1:]
		if got, want := s.Verb == "see", strings.HasPrefix(last, "view"); got != want {
			t.Errorf("%s: verb is %s", s.Name, s.Verb)
		}
		if got, want := s.Kind == oauth.StoreScope, strings.HasPrefix(s.Name, "stores.") && s.Name != "stores.create"; got != want {
			t.Errorf("%s: kind is %s", s.Name, s.Kind)
		}
		if got, want := slices.Contains(s.Touches, "deletion"), last == "delete"; got != want {
			t.Errorf("%s: marked as deletion: %v", s.Name, got)
		}
		if len(s.Touches) > 0 && s.Risk == "low" {
			t.Errorf("%s touches %v at a low risk", s.Name, s.Touches)
		}
	}
	for name, mark := range map[string]string{
		"stores.orders.refund": "money", "stores.orders.create": "money", "stores.coupons.create": "money",
		"stores.customers.view": "customers", "stores.orders.view": "customers", "stores.tickets.view": "customers", "user.webhooks.create": "customers",
	} {
		if !slices.Contains(c.Scope(name).Touches, mark) {
			t.Errorf("%s is not marked with %s", name, mark)
		}
	}
}

// Whatever the bytes are, there is a catalogue without a fault or an error with lines.
func FuzzParseCatalogue(f *testing.F) {
	demo, err := os.ReadFile("../demo/catalogue.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(demo[:3000])
	f.Add([]byte(smallCatalogue))
	f.Add([]byte("scopes: [{name: a, text: {en: |\n  x\n}}]"))
	f.Add([]byte("groups: &a {<<: *a}\n---\n? x\n: !!str y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCatalogue(data)
		if (c == nil) == (err == nil) {
			t.Fatalf("catalogue %v, error %v", c, err)
		}
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "line ") {
					t.Fatalf("a line without its place: %q", line)
				}
			}
			return
		}
		for _, s := range c.Scopes {
			if parsed, ok := oauth.ParseScope(s.Name); !ok || len(parsed) != 1 || s.Text["en"] == "" || s.Group == "" || s.Risk == "" || s.Verb == "" || s.Kind == "" {
				t.Fatalf("accepted %+v", s)
			}
		}
	})
}
