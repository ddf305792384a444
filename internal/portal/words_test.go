package portal

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// messageFiles reads every file of a language: en.json, developer.en.json.
func messageFiles(t *testing.T, language string) (contents [][]byte) {
	t.Helper()
	names, err := fs.Glob(files, "messages/*"+language+".json")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		content, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, content)
	}
	return contents
}

// testMessages makes two languages out of the English file: en-XA, whose sentences stand in brackets with accents, so
// that one left in a template is seen; and ar, English spelt in Arabic letters, which runs from right to left.
func testMessages(t *testing.T) fs.FS {
	t.Helper()
	english := map[string]any{}
	for _, content := range messageFiles(t, "en") {
		if err := json.Unmarshal(content, &english); err != nil {
			t.Fatal(err)
		}
	}
	out := fstest.MapFS{}
	for language, turn := range map[string]func(string) string{"en-XA": accented, "ar": arabic} {
		turned := map[string]any{}
		for id, m := range english {
			switch m := m.(type) {
			case string:
				turned[id] = turn(m)
			case map[string]any:
				forms := map[string]any{}
				for form, s := range m {
					forms[form] = turn(s.(string))
				}
				for _, form := range []string{"zero", "two", "few", "many"} {
					if language == "ar" {
						forms[form] = turn(m["other"].(string))
					}
				}
				turned[id] = forms
			}
		}
		b, err := json.Marshal(turned)
		if err != nil {
			t.Fatal(err)
		}
		out["messages/"+language+".json"] = &fstest.MapFile{Data: b}
	}
	return out
}

var placeholder = regexp.MustCompile(`\{\{[^}]*\}\}`)

// outside applies turn to what stands between the placeholders of a message.
func outside(s string, turn func(string) string) string {
	var b strings.Builder
	end := 0
	for _, at := range placeholder.FindAllStringIndex(s, -1) {
		b.WriteString(turn(s[end:at[0]]) + s[at[0]:at[1]])
		end = at[1]
	}
	return b.String() + turn(s[end:])
}

func accented(s string) string {
	r := strings.NewReplacer("a", "á", "e", "é", "i", "í", "o", "ó", "u", "ú", "A", "Á", "E", "É", "O", "Ó", "U", "Ú")
	return "⟦" + outside(s, r.Replace) + "⟧"
}

func arabic(s string) string {
	const latin, letters = "abcdefghijklmnopqrstuvwxyz", "ابكدهفغحيجقلمنوپكرستوفوخيز"
	to := []rune(letters)
	return outside(s, func(part string) string {
		return strings.Map(func(r rune) rune {
			if i := strings.IndexRune(latin, r|0x20); i >= 0 && r < 128 {
				return to[i]
			}
			return r
		}, part)
	})
}

func TestMessages_LanguagesAreComplete(t *testing.T) {
	type forms = map[string]string
	read := func(name string) map[string]forms {
		raw := map[string]any{}
		for _, content := range messageFiles(t, name) {
			if err := json.Unmarshal(content, &raw); err != nil {
				t.Fatal(err)
			}
		}
		out := map[string]forms{}
		for id, m := range raw {
			out[id] = forms{}
			switch m := m.(type) {
			case string:
				out[id]["other"] = m
			case map[string]any:
				for form, s := range m {
					out[id][form] = s.(string)
				}
			}
		}
		return out
	}
	holes := func(s string) []string {
		found := placeholder.FindAllString(s, -1)
		slices.Sort(found)
		return slices.Compact(found)
	}
	en, de := read("en"), read("de")
	customers, err := files.ReadFile("messages/en.json") // who read of no protocol
	if err != nil {
		t.Fatal(err)
	}
	for id, english := range en {
		german, ok := de[id]
		if !ok {
			t.Errorf("German has no %s", id)
			continue
		}
		for form, s := range english {
			if !slices.Equal(holes(s), holes(german[form])) {
				t.Errorf("%s (%s): placeholders %v in English, %v in German", id, form, holes(s), holes(german[form]))
			}
			lower := strings.ToLower(s)
			words := []string{"please", "oops", "invalid", "!"}
			if bytes.Contains(customers, []byte(strconv.Quote(id)+":")) {
				words = append(words, "oauth")
			}
			for _, word := range words {
				if strings.Contains(lower, word) {
					t.Errorf("%s says %q", id, word)
				}
			}
		}
	}
	for id := range de {
		if _, ok := en[id]; !ok {
			t.Errorf("German has %s, which English does not", id)
		}
	}
}

func TestWords_LanguageIsChosenByAcceptLanguage(t *testing.T) {
	c, err := newCatalogue("Kaufhaus", "", time.Now, files)
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"": "en", "de": "de", "de-AT,de;q=0.9,en;q=0.8": "de", "fr-FR, de;q=0.5": "de", "fr": "en", "en-GB": "en",
		"*": "en", "q=0.5;;;": "en", "de;q=0, en": "en",
		// Of a long one whole languages at its beginning are read, and no more (attack G5).
		"de," + strings.Repeat("en,", 1<<18): "de", strings.Repeat("fr,", 84) + "de-AT,en": "en",
		strings.Repeat("fr,", 83) + "de-DE,en": "de", strings.Repeat("fr,", 83) + "de,fr-FR": "de", strings.Repeat("fr,", 84) + "de-1996": "en",
		strings.Repeat("x", 300): "en",
	} {
		if got := c.words[c.choose(header)].tag.String(); got != want {
			t.Errorf("Accept-Language %.300q: %s, want %s", header, got, want)
		}
	}
}

func TestWords_DatesNumbersAndAges(t *testing.T) {
	c, err := newCatalogue("Kaufhaus", "", func() time.Time { return noon }, files, testMessages(t))
	if err != nil {
		t.Fatal(err)
	}
	en, de := c.words[c.choose("en")], c.words[c.choose("de")]
	for _, tc := range []struct {
		got  func() (string, error)
		want string
	}{
		{func() (string, error) { return en.when(noon) }, "22 Nov 2026, 14:05 UTC"},
		{func() (string, error) { return de.when(noon) }, "22. Nov. 2026, 14:05 UTC"},
		{func() (string, error) { return en.count(5000), nil }, "5,000"},
		{func() (string, error) { return de.count(5000), nil }, "5.000"},
		{func() (string, error) { return en.ago(noon.Add(-14 * time.Hour)) }, "today"},
		{func() (string, error) { return en.ago(noon.Add(-15 * time.Hour)) }, "yesterday"},
		{func() (string, error) { return en.ago(noon.AddDate(0, 0, -5)) }, "5 days ago"},
		{func() (string, error) { return de.ago(noon.AddDate(0, 0, -20)) }, "vor 2 Wochen"},
		{func() (string, error) { return en.ago(noon.AddDate(-1, 0, 0)) }, "12 months ago"},
		{func() (string, error) { return en.text("connected.keys_out", "Count", 1) }, "1 key"},
	} {
		if got, err := tc.got(); err != nil || got != tc.want {
			t.Errorf("%q, %v; want %q", got, err, tc.want)
		}
	}
}

func TestWords_OtherPeoplesTextIsIsolated(t *testing.T) {
	c, err := newCatalogue("Kaufhaus", "", time.Now, files)
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.words[0].rich("consent.heading", "App", "<b>\u202Eevil\u200B**x**{{.Brand}}", "Brand", "Kauf & Haus")
	if err != nil {
		t.Fatal(err)
	}
	want := "<strong><bdi>&lt;b&gt;evil**x**{{.Brand}}</bdi></strong> wants access to your <strong><bdi>Kauf &amp; Haus</bdi></strong> account"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The operator's word for a store reaches every sentence, and no field or key.
func TestWords_OperatorsWordForAStore(t *testing.T) {
	for _, c := range []struct{ word, in, want string }{
		{"shop", `{"stores.legend": "Which stores may {{.Store}} use? Stores, a store."}`, `{"stores.legend": "Which shops may {{.Store}} use? Shops, a shop."}`},
		{"workspace", `{"a.store": {"one": "{{.Count}} Shop", "other": "{{.Count}} Shops, restored"}}`, `{"a.store": {"one": "{{.Count}} Workspace", "other": "{{.Count}} Workspaces, restored"}}`},
		{"workspace", `{"a": "Shop-ID \"store\""}`, `{"a": "Workspace-ID \"workspace\""}`},
		{"store", `{"a": "store, Shop"}`, `{"a": "store, Shop"}`},
	} {
		if got := string(callStore([]byte(c.in), c.word)); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.word, got, c.want)
		}
	}
	for _, word := range []string{"shop", "workspace"} {
		c, err := newCatalogue("Kaufhaus", word, time.Now, files)
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.words {
			heading, err := c.words[i].text("no_stores.heading")
			if err != nil || !strings.Contains(strings.ToLower(heading), word) {
				t.Errorf("%s: %q, %v", word, heading, err)
			}
		}
	}
}

// Message files are read late: what is wrong with one is an error of the page then.
func TestWords_AFileThatCannotBeRead(t *testing.T) {
	broken := fstest.MapFS{"messages/en.json": {Data: []byte(`{"a": `)}}
	c, err := newCatalogue("Kaufhaus", "", time.Now, broken)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.words[0].text("a"); err == nil || !strings.Contains(err.Error(), "messages/en.json") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := newCatalogue("Kaufhaus", "", time.Now, fstest.MapFS{"messages/nowhere!.json": {}}); err == nil {
		t.Error("a file of no language was taken")
	}
}
