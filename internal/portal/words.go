package portal

import (
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// catalogue holds every sentence that people see, per language. English comes first: it is what those get whose
// languages are not there.
type catalogue struct {
	words   []words
	matcher language.Matcher
}

// words speak one language.
type words struct {
	tag     language.Tag
	loc     func() (*i18n.Localizer, error)
	numbers *message.Printer
	now     func() time.Time
	brand   string
}

// newCatalogue finds the message files of each folder: "messages/en.json", "messages/developer.en.json". They are read
// when the first sentence is wanted: a server that draws no page keeps none of them. store is the operator's word for a
// store.
func newCatalogue(brand, store string, now func() time.Time, folders ...fs.FS) (*catalogue, error) {
	type file struct {
		folder fs.FS
		name   string
	}
	var all []file
	tags := []language.Tag{language.English}
	for _, folder := range folders {
		names, err := fs.Glob(folder, "messages/*.json")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all = append(all, file{folder, name})
			parts := strings.Split(path.Base(name), ".")
			tag, err := language.Parse(parts[len(parts)-2])
			if err != nil {
				return nil, fmt.Errorf("portal: %s: %w", name, err)
			}
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	bundle := sync.OnceValues(func() (*i18n.Bundle, error) {
		b := i18n.NewBundle(language.English)
		b.RegisterUnmarshalFunc("json", func(data []byte, v any) error { return json.Unmarshal(callStore(data, store), v) })
		for _, f := range all {
			content, err := fs.ReadFile(f.folder, f.name)
			if err != nil {
				return nil, err
			}
			if _, err := b.ParseMessageFileBytes(content, path.Base(f.name)); err != nil {
				return nil, fmt.Errorf("portal: %s: %w", f.name, err)
			}
		}
		return b, nil
	})
	c := &catalogue{matcher: language.NewMatcher(tags)}
	for _, tag := range tags {
		loc := sync.OnceValues(func() (*i18n.Localizer, error) {
			b, err := bundle()
			return i18n.NewLocalizer(b, tag.String()), err
		})
		c.words = append(c.words, words{tag, loc, message.NewPrinter(tag), now, brand})
	}
	return c, nil
}

// mostAccept is how much of an Accept-Language header is read, in bytes. Browsers send some dozen languages; to parse what
// fits into a head would take each page a quarter of a second (attack G5).
const mostAccept = 256

// choose returns the index of the language that fits an Accept-Language header best.
func (c *catalogue) choose(accept string) int {
	if len(accept) > mostAccept {
		accept = accept[:max(0, strings.LastIndexByte(accept[:mostAccept+1], ','))]
	}
	wanted, _, err := language.ParseAcceptLanguage(accept)
	if err != nil {
		return 0
	}
	_, i, confidence := c.matcher.Match(wanted...)
	if confidence == language.No {
		return 0
	}
	return i
}

// direction is the value of the dir attribute.
func (w words) direction() string {
	script, _ := w.tag.Script()
	switch script.String() {
	case "Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm", "Rohg":
		return "rtl"
	}
	return "ltr"
}

// text is the message with the values put in; keys and values alternate. Count, an int, also picks the plural form and
// is printed with the reader's separators.
func (w words) text(id string, pairs ...any) (string, error) {
	config := i18n.LocalizeConfig{MessageID: id}
	data := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		key := pairs[i].(string)
		data[key] = pairs[i+1]
		if n, ok := pairs[i+1].(int); ok {
			data[key] = w.count(n)
			if key == "Count" {
				config.PluralCount = n
			}
		}
	}
	config.TemplateData = data
	loc, err := w.loc()
	if err != nil {
		return "", err
	}
	s, err := loc.Localize(&config)
	if s == "" { // a message that only English has still comes with an error
		return "", fmt.Errorf("portal: message %s: %w", id, err)
	}
	return s, nil
}

var strong = regexp.MustCompile(`\*\*(.+?)\*\*`)

// rich is text with other people's words in it. Each value is escaped and stands isolated in <bdi>, so that a name
// neither carries markup nor turns the sentence around.
func (w words) rich(id string, pairs ...any) (template.HTML, error) {
	const hole = 0xE000 // private use: a character that no message contains
	held := append([]any(nil), pairs...)
	var values []string
	for i := 1; i < len(held); i += 2 {
		if v, ok := held[i].(string); ok {
			held[i] = string(rune(hole + len(values)))
			values = append(values, v)
		}
	}
	s, err := w.text(id, held...)
	if err != nil {
		return "", err
	}
	s = strong.ReplaceAllString(html.EscapeString(s), "<strong>$1</strong>")
	for i, v := range values {
		s = strings.ReplaceAll(s, string(rune(hole+i)), "<bdi>"+html.EscapeString(clean(v))+"</bdi>")
	}
	return template.HTML(s), nil
}

// count prints a number with the reader's separators.
func (w words) count(n int) string { return w.numbers.Sprintf("%d", n) }

// day prints "22 Nov 2026".
func (w words) day(t time.Time) (string, error) {
	t = t.UTC()
	month, err := w.text("month." + strconv.Itoa(int(t.Month())))
	if err != nil {
		return "", err
	}
	return w.text("date.day", "Day", strconv.Itoa(t.Day()), "Month", month, "Year", strconv.Itoa(t.Year()))
}

// when prints "22 Nov 2026, 14:05 UTC": the server does not know the reader's zone.
func (w words) when(t time.Time) (string, error) { return w.clock(t, "15:04") }

// exact is when to the second.
func (w words) exact(t time.Time) (string, error) { return w.clock(t, "15:04:05") }

func (w words) clock(t time.Time, format string) (string, error) {
	day, err := w.day(t)
	if err != nil {
		return "", err
	}
	return w.text("date.when", "Day", day, "Clock", t.UTC().Format(format))
}

// ago says how long ago t was, to the day.
func (w words) ago(t time.Time) (string, error) {
	days := int(w.now().UTC().Truncate(24*time.Hour).Sub(t.UTC().Truncate(24*time.Hour)) / (24 * time.Hour))
	switch {
	case days <= 0:
		return w.text("ago.today")
	case days == 1:
		return w.text("ago.yesterday")
	case days < 14:
		return w.text("ago.days", "Count", days)
	case days < 61:
		return w.text("ago.weeks", "Count", days/7)
	}
	return w.text("ago.months", "Count", days/30)
}

// clean makes text of unknown people safe to stand in a sentence: no control, bidirectional or invisible characters,
// and no longer than 120 characters.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Cf, r), r == 0x2028, r == 0x2029, r >= 0xE000 && r <= 0xF8FF, r == 0x115F, r == 0x1160, r == 0x3164, r == 0xFFA0:
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if runes := []rune(s); len(runes) > 120 {
		s = string(runes[:119]) + "…"
	}
	return s
}
