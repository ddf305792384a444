package portal

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestPicker_TicksAreKeptAcrossPagesAndSearches(t *testing.T) {
	stores := sampleStores(5000)
	first := newPicker(stores, pick{Ticked: []string{"s1", "s60", "s4999", "of somebody else"}, Page: 1})
	if first.Ticked != 3 || len(first.Rows) != 50 || !first.Rows[0].Ticked || !slices.Equal(first.Carried, []string{"s60", "s4999"}) {
		t.Fatalf("page 1: %d ticked, %d rows, carried %v", first.Ticked, len(first.Rows), first.Carried)
	}
	if first.Pages != 100 || first.Previous != 0 || first.Next != 2 || first.Whole || !first.Filter {
		t.Errorf("page 1: %+v", first)
	}
	search := newPicker(stores, pick{Ticked: []string{"s1", "s60"}, Query: "  LINDNER 4000", Page: 7})
	if search.Found != 1 || search.Page != 1 || search.Rows[0].ID != "s4000" || !slices.Equal(search.Carried, []string{"s1", "s60"}) {
		t.Errorf("search: %+v", search)
	}
	if last := newPicker(stores, pick{Page: 1000}); last.Page != 100 || last.Next != 0 || len(last.Rows) != 50 {
		t.Errorf("a page beyond the last: %d of %d", last.Page, last.Pages)
	}
}

// Where what has no tick is left out, every store that can be given is named once more than its box at most.
func TestPicker_EveryStoreIsNamed(t *testing.T) {
	stores := sampleStores(5000)
	stores[3].Reason = "reason.not_yours"
	for _, p := range []pick{{}, {Page: 7}, {Page: 100}, {All: true}, {Query: "lindner", All: true}, {Query: "zzz", Ticked: []string{"s1", "s2"}}} {
		p.But = true
		got := newPicker(stores, p)
		named := map[string]int{}
		for _, id := range append(slices.Clone(got.Carried), got.Shown...) {
			named[id]++
		}
		for _, s := range stores {
			if want := map[bool]int{true: 1}[s.Reason == ""]; named[s.ID] != want {
				t.Fatalf("%+v: %s is named %d times", p, s.ID, named[s.ID])
			}
		}
		p.But = false
		if plain := newPicker(stores, p); plain.Shown != nil || plain.Later == got.Later {
			t.Errorf("%+v: %q, and %d are named", p, plain.Later, len(plain.Shown))
		}
	}
}

func TestPicker_AllTicksWhatTheSearchFinds(t *testing.T) {
	stores := sampleStores(5000)
	stores[3].Reason = "reason.not_yours" // Tee & Gewürze Lindner, found but not to be given
	all := newPicker(stores, pick{Ticked: []string{"s1"}, Query: "lindner", All: true})
	if all.Found != 1250 || all.Ticked != 1+1249 || all.Rows[0].Ticked {
		t.Errorf("found %d, ticked %d", all.Found, all.Ticked)
	}
	if got := len(all.Carried) + 49; got != all.Ticked { // 49 of the 50 rows shown
		t.Errorf("%d of %d ticks are in the form", got, all.Ticked)
	}
	if none := newPicker(stores, pick{Ticked: []string{"s1", "s8"}, Query: "lindner", None: true}); none.Ticked != 1 || none.Carried[0] != "s1" {
		t.Errorf("none: %d ticked", none.Ticked)
	}
}

func TestPicker_StoresThatCannotBeGivenAreNeverTicked(t *testing.T) {
	p := newPicker([]storeRow{{ID: "a", Reason: "reason.not_yours"}, {ID: "b"}}, pick{Ticked: []string{"a", "b"}})
	if p.Rows[0].Ticked || !p.Rows[1].Ticked || p.Ticked != 1 || p.Open != 1 || p.Single {
		t.Errorf("%+v", p)
	}
	if one := newPicker([]storeRow{{ID: "b"}}, pick{}); !one.Single || one.Filter || !one.Whole {
		t.Errorf("one store: %+v", one)
	}
}

func TestSortByName_NumbersAndUmlauts(t *testing.T) {
	names := []string{"Store 10", "Zürich 1", "store 2", "Äpfel", "Store 1", "Apfel", "Zürich", "متجر", "Store 2b"}
	sortByName(names, "de", func(s string) string { return s })
	if want := []string{"Apfel", "Äpfel", "Store 1", "store 2", "Store 2b", "Store 10", "Zürich", "Zürich 1", "متجر"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

func TestSections_LongListsFoldIntoGroupsWithCounts(t *testing.T) {
	short := sections(sampleScopes("en"))
	if len(short) != 2 || short[0].Verb != "see" || len(short[0].Scopes) != 3 || len(short[1].Scopes) != 2 {
		t.Errorf("short: %+v", short)
	}
	total := 0
	for _, s := range sections(manyScopes()) {
		if len(s.Groups) == 0 || len(s.Scopes) > 0 {
			t.Errorf("%s is not folded", s.Verb)
		}
		for _, g := range s.Groups {
			total += len(g.Scopes)
		}
	}
	if total != len(manyScopes()) {
		t.Errorf("%d of %d scopes are on the page", total, len(manyScopes()))
	}
}

func TestCompare_NearestAddressAndWhatDiffers(t *testing.T) {
	registered := []string{"https://app.example/callback", "http://127.0.0.1/cb"}
	for _, tc := range []struct{ sent, nearest, hint, differs string }{
		{"https://app.example/callback/", registered[0], "differs.slash", "/"},
		{"http://app.example/callback", registered[0], "differs.scheme", ""},
		{"https://app.example.evil/callback", registered[0], "differs.host", ".evil"},
		{"https://app.example:8443/callback", registered[0], "differs.port", ":8443"},
		{"https://app.example/Callback", registered[0], "differs.case", "C"},
		{"https://app.example/callback2", registered[0], "differs.path", "2"},
		{"https://app.example/callback?a=1", registered[0], "differs.query", "?a=1"},
		{"https://app.example/callback#x", registered[0], "differs.fragment", "#x"},
		{"HTTPS://app.example/callback", registered[0], "differs.case", "HTTPS"},
		{"https://app.example", registered[0], "differs.path", ""},
		{"http://127.0.0.1:8080/cc", registered[1], "differs.path", "c"}, // the port is free (RFC 8252, 7.3)
		{"http://127.0.0.1:8080/cb/", registered[1], "differs.slash", "/"},
		{"http://127.0.0.1:8080/CB", registered[1], "differs.case", "CB"},
		{"http://127.0.0.1:8080/cb?x=1", registered[1], "differs.query", "?x=1"},
		{"http://[::1]:8080/cb", registered[1], "differs.host", "[::1]"},
		{"http://127.0.0.1:99999/cb", registered[1], "differs.port", ":99999"},
		{"https://127.0.0.1:5000/cb", registered[1], "differs.scheme", "s"},
		{"http://localhost:5000/cb", registered[1], "differs.host", "localhost:5000"}, // a name, whose port counts
		{"", registered[1], "differs.empty", ""},
		{"callback", registered[1], "differs.unreadable", "callback"},
	} {
		c := compare(tc.sent, registered)
		nearest := c.Nearest.Before + c.Nearest.Differs + c.Nearest.After
		if c.Hint != tc.hint || c.Sent.Differs != tc.differs || tc.sent != "" && nearest != tc.nearest {
			t.Errorf("%s: nearest %s, %s, differs %q", tc.sent, nearest, c.Hint, c.Sent.Differs)
		}
	}
	// Wherever it is cut, the whole of what was sent stands there.
	for _, sent := range []string{"https://app.example/cä", "https://app.example/cã", "http://[::1", "a:b:c", "https://", "://", "http://127.0.0.1:5000", "/x//y:z@?#"} {
		c := compare(sent, []string{"https://app.example/cå", "http://127.0.0.1"})
		if got := c.Sent.Before + c.Sent.Differs + c.Sent.After; got != sent {
			t.Errorf("%q became %q", sent, got)
		}
	}
	if c := compare("https://127.0.0.1:5000", []string{"http://127.0.0.1"}); c.Hint != "differs.scheme" || c.Sent != (marked{"http", "s", "://127.0.0.1:5000"}) || *c.Nearest != (marked{"http", "", "://127.0.0.1"}) {
		t.Errorf("scheme: %+v, nearest %+v", c, c.Nearest)
	}
	// Where neither is near, what is looked at still ranks: the host of the second differs less.
	long := strings.Repeat("/path", 100)
	if c := compare("https://shelfmate.example"+long, []string{"https://ledger.test/" + strings.Repeat("x", 490), "https://shelfmade.example/x" + long}); !strings.Contains(c.Nearest.Before, "shelfma") {
		t.Errorf("nearest: %+v", c.Nearest)
	}
	if c := compare("https://x.example/", nil); c.Nearest != nil || c.Hint != "differs.none" {
		t.Errorf("none registered: %+v", c)
	}
}

// hostileAddresses are as long as addresses may be, and as far apart.
func hostileAddresses() (sent string, registered []string) {
	for i := range 10 {
		registered = append(registered, fmt.Sprintf("https://%d.example/%s", i, strings.Repeat("ab", 240)))
	}
	return "https://x.example/" + strings.Repeat("ba", 240), registered
}

// TestCompare_G5_AFewStepsHoweverLong: anybody may have a long address compared with ten that he registered.
func TestCompare_G5_AFewStepsHoweverLong(t *testing.T) {
	sent, registered := hostileAddresses()
	for _, r := range append(registered, "", sent, sent+"/", "x"+sent, strings.Repeat("é", 500)) {
		a, b, _ := differing([]rune(sent), []rune(r))
		if steps := len(a) * len(b); steps > mostCompared*mostCompared {
			t.Errorf("%d steps for %.40s…", steps, r)
		}
	}
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"kitten", "sitting", 3}, {"abc", "", 3}, {"aaa", "aa", 1}, {"xay", "xby", 1},
		{"/" + strings.Repeat("a", 500), "/" + strings.Repeat("a", 500) + "/", 1},
		{strings.Repeat("a", 500), strings.Repeat("b", 400), 500},
	} {
		if got := distance([]rune(tc.a), []rune(tc.b)); got != tc.want {
			t.Errorf("%.20s and %.20s: %d apart, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	sent, registered := hostileAddresses()
	for b.Loop() {
		compare(sent, registered)
	}
}
