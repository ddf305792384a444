package portal

import (
	"bytes"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/grantway/grantway/internal/oauth"
)

var update = flag.Bool("update", false, "write the golden pages")

// reference is the id of the request that every page drawn here answers.
const reference = "REQ4F1A9C"

func drawn(t *testing.T, r *renderer, language string, p page) (http.Header, *html.Node, string) {
	t.Helper()
	req := httptest.NewRequest("GET", "/", nil)
	req = req.WithContext(oauth.WithRequestID(req.Context(), reference))
	req.Header.Set("Accept-Language", language)
	rec := httptest.NewRecorder()
	r.render(rec, req, http.StatusOK, p)
	if rec.Code != http.StatusOK {
		t.Fatalf("%s: status %d", p.Name, rec.Code)
	}
	doc, err := html.Parse(bytes.NewReader(rec.Body.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return rec.Header(), doc, rec.Body.String()
}

// each calls f for every element, in document order.
func each(n *html.Node, f func(*html.Node)) {
	if n.Type == html.ElementNode {
		f(n)
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		each(c, f)
	}
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

// textOf is what one reads, with single spaces.
func textOf(n *html.Node) string {
	var b strings.Builder
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(n)
	return strings.Join(strings.Fields(b.String()), " ")
}

func titleOf(doc *html.Node) (title string) {
	each(doc, func(n *html.Node) {
		if n.Data == "title" {
			title = textOf(n)
		}
	})
	return title
}

// TestPages_Golden keeps the HTML of each state, so that a change of a page is a change that somebody looks at.
// go test ./internal/portal -run Golden -update writes them.
func TestPages_Golden(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, p := range previews("en") {
		if strings.HasPrefix(p.name, "consent-5000") || p.name == "consent-40" {
			continue // as consent-3, and long; the picker's own tests cover them
		}
		_, _, got := drawn(t, r, "en", p.page)
		file := filepath.Join("testdata", "golden", p.name+".html")
		// Asset hashes change with every touch of the stylesheet.
		for name, path := range r.assets.path {
			got = strings.ReplaceAll(got, path, "/assets/"+name)
		}
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", p.name, diff)
		}
	}
}

// Whoever asks for help can say which request it was: every page shows the id that the log has.
func TestPages_ShowTheRequestID(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, p := range previews("en") {
		_, doc, _ := drawn(t, r, "en", p.page)
		found := 0
		each(doc, func(n *html.Node) {
			if n.Data == "footer" && strings.Contains(textOf(n), "Reference "+reference) {
				found++
			}
		})
		if found != 1 {
			t.Errorf("%s shows the request's id %d times", p.name, found)
		}
	}
}

func TestPages_SecurityHeaders(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, p := range previews("en") {
		h, _, body := drawn(t, r, "en", p.page)
		want := map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Frame-Options":         "DENY", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
			"Content-Type": "text/html; charset=utf-8", "Referrer-Policy": "same-origin", "Content-Language": "en",
		}
		if p.page.NoSender {
			want["Referrer-Policy"] = "no-referrer"
		}
		for name, value := range want {
			if h.Get(name) != value {
				t.Errorf("%s: %s is %q, want %q", p.name, name, h.Get(name), value)
			}
		}
		if strings.Contains(body, "ZgotmplZ") {
			t.Errorf("%s: a value was refused by the template", p.name)
		}
	}
}

// TestPages_Accessible checks what can be read off the HTML: one h1, landmarks, a language and direction, a name for
// every control, unique ids and titles, references that lead somewhere, nothing inline that the policy would drop.
func TestPages_Accessible(t *testing.T) {
	r := sampleRenderer(t, shop)
	titles := map[string]string{}
	for _, language := range []string{"en", "de", "ar"} {
		for _, p := range previews(language) {
			_, doc, _ := drawn(t, r, language, p.page)
			count := map[string]int{}
			ids := map[string]bool{}
			labelled := map[string]bool{}
			var refs []string
			each(doc, func(n *html.Node) {
				count[n.Data]++
				if id, ok := attr(n, "id"); ok {
					if ids[id] {
						t.Errorf("%s: id %s twice", p.name, id)
					}
					ids[id] = true
				}
				if f, ok := attr(n, "for"); ok {
					labelled[f] = true
					refs = append(refs, f)
				}
				for _, name := range []string{"aria-describedby", "aria-labelledby"} {
					v, _ := attr(n, name)
					refs = append(refs, strings.Fields(v)...)
				}
			})
			for _, ref := range refs {
				if !ids[ref] {
					t.Errorf("%s: nothing has the id %s", p.name, ref)
				}
			}
			for element, n := range map[string]int{"h1": 1, "main": 1, "header": 1, "title": 1} {
				if count[element] != n {
					t.Errorf("%s: %d × <%s>", p.name, count[element], element)
				}
			}
			each(doc, func(n *html.Node) {
				for _, a := range n.Attr {
					if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
						t.Errorf("%s: <%s %s> is inline", p.name, n.Data, a.Key)
					}
				}
				switch n.Data {
				case "html":
					wantDir := map[string]string{"en": "ltr", "de": "ltr", "ar": "rtl"}[language]
					lang, _ := attr(n, "lang")
					dir, _ := attr(n, "dir")
					if lang != language || dir != wantDir {
						t.Errorf("%s: lang %s dir %s", p.name, lang, dir)
					}
				case "title":
					if language == "en" && titles[textOf(n)] != p.page.Name && titles[textOf(n)] != "" {
						t.Errorf("%s has the title of %s: %s", p.name, titles[textOf(n)], textOf(n))
					}
					if language == "en" {
						titles[textOf(n)] = p.page.Name
					}
				case "form":
					role, _ := attr(n, "role")
					if m, _ := attr(n, "method"); m != "post" && role != "search" {
						t.Errorf("%s: a form with method %q", p.name, m)
					}
				case "input":
					kind, _ := attr(n, "type")
					id, _ := attr(n, "id")
					inside := false
					for up := n.Parent; up != nil; up = up.Parent {
						inside = inside || up.Data == "label"
					}
					if kind != "hidden" && !inside && !labelled[id] {
						t.Errorf("%s: an input of type %s has no label", p.name, kind)
					}
				case "button", "a", "legend", "h1", "h2", "h3", "summary":
					if textOf(n) == "" {
						t.Errorf("%s: an empty <%s>", p.name, n.Data)
					}
				case "svg":
					if hidden, _ := attr(n, "aria-hidden"); hidden != "true" {
						t.Errorf("%s: an icon that is read out", p.name)
					}
					for _, name := range []string{"width", "height", "fill", "stroke"} { // else it fills the page where the stylesheet is missing
						if _, ok := attr(n, name); !ok {
							t.Errorf("%s: an icon without %s", p.name, name)
						}
					}
				case "img":
					if _, ok := attr(n, "alt"); !ok {
						t.Errorf("%s: an image without alt", p.name)
					}
				}
			})
		}
	}
}

// TestPages_EverySentenceIsInTheCatalogue draws every page with the pseudo-locale. Letters outside its brackets are
// either other people's (in bdi, code, dd.compare or an option they typed) or a sentence somebody left in a template.
func TestPages_EverySentenceIsInTheCatalogue(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, p := range previews("en") {
		_, doc, _ := drawn(t, r, "en-XA", p.page)
		var walk func(*html.Node, bool)
		depth := 0
		check := func(s string, what string) {
			for _, c := range s {
				switch {
				case c == '⟦':
					depth++
				case c == '⟧':
					depth--
				case depth == 0 && unicode.IsLetter(c):
					t.Errorf("%s: %s outside the catalogue: %q", p.name, what, strings.TrimSpace(s))
					return
				}
			}
		}
		walk = func(n *html.Node, foreign bool) {
			if n.Type == html.ElementNode {
				switch n.Data {
				case "bdi", "code", "script", "style":
					foreign = true
				case "title":
					check(strings.TrimSuffix(textOf(n), shop.Name), "title")
					return
				}
				class, _ := attr(n, "class")
				if strings.HasPrefix(class, "mark mark-") || class == "seal" {
					foreign = true
				}
				for _, name := range []string{"aria-label", "placeholder", "alt", "data-words", "data-sole", "data-done"} {
					if v, ok := attr(n, name); ok {
						check(strings.ReplaceAll(v, "{n}", ""), name)
					}
				}
			}
			if n.Type == html.TextNode && !foreign {
				check(n.Data, "text")
			}
			for c := n.FirstChild; c != nil; c = c.NextSibling {
				walk(c, foreign)
			}
		}
		walk(doc, false)
		if depth != 0 {
			t.Errorf("%s: brackets do not match", p.name)
		}
	}
}

func TestPages_HostileNamesStayText(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, p := range previews("en") {
		_, doc, _ := drawn(t, r, "en", p.page)
		each(doc, func(n *html.Node) {
			if n.Data == "b" || n.Data == "script" && n.FirstChild != nil {
				t.Errorf("%s: a name became <%s>", p.name, n.Data)
			}
		})
	}
}

func TestReturning_AnyRegisteredScheme(t *testing.T) {
	r := sampleRenderer(t, shop)
	for _, target := range []string{
		"https://app.example/callback?code=a%2Bb&state=x%22%27%3B", "com.example.app:/callback?code=1", "http://127.0.0.1:53123/?code=1&state=%3Cb%3E",
	} {
		view, refresh := returningPage(appView{Name: "App"}, registered(target), 0), ""
		_, doc, _ := drawn(t, r, "en", view)
		link := ""
		each(doc, func(n *html.Node) {
			if v, _ := attr(n, "http-equiv"); v == "refresh" {
				refresh, _ = attr(n, "content")
			}
			if rel, _ := attr(n, "rel"); n.Data == "a" && rel == "noreferrer" {
				link, _ = attr(n, "href")
			}
		})
		if link != target || refresh != "0;url="+target {
			t.Errorf("%s: link %s, refresh %s", target, link, refresh)
		}
	}
}

func TestBrand_EveryAccentStaysReadable(t *testing.T) {
	for _, accent := range []string{"#ffd400", "#ffffff", "#000000", "#0b5a7a", "#ff0000", "#808080", "#00ff88", "#777777", "#7f00ff"} {
		css, err := Brand{Accent: accent}.stylesheet()
		if err != nil {
			t.Fatal(err)
		}
		light, dark, _ := strings.Cut(css, "@media")
		for name, mode := range map[string]struct {
			css     string
			grounds []colour
		}{"light": {light, lightGrounds}, "dark": {dark, darkGrounds}} {
			get := func(property string) colour {
				_, rest, _ := strings.Cut(mode.css, property+":")
				return mustColour(rest[:7])
			}
			if c := contrast(get("--accent"), get("--accent-text")); c < 4.5 {
				t.Errorf("%s %s: words on a button have %.2f:1", accent, name, c)
			}
			for _, ground := range mode.grounds {
				if c := contrast(get("--link"), ground); c < 4.5 {
					t.Errorf("%s %s: links have %.2f:1 on %s", accent, name, c, ground)
				}
			}
		}
	}
	if _, err := (Brand{Accent: "red;}"}).stylesheet(); err == nil {
		t.Error("an accent that is no colour was accepted")
	}
}

// TestStylesheet_RolesAreReadable reads the colours off the stylesheet: 4.5:1 for words, 3:1 for the edges of controls.
func TestStylesheet_RolesAreReadable(t *testing.T) {
	css, err := files.ReadFile("assets/style.css")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(css), ":root {")
	light, rest, _ := strings.Cut(rest, "prefers-color-scheme: dark")
	dark, _, _ := strings.Cut(rest, "*, *::before")
	for name, block := range map[string]string{"light": light, "dark": dark} {
		get := func(role string) colour {
			_, value, ok := strings.Cut(block, "--"+role+": ")
			if !ok {
				t.Fatalf("%s has no %s", name, role)
			}
			return mustColour(value[:7])
		}
		for _, tc := range []struct {
			fore, ground string
			least        float64
		}{
			{"text", "surface", 7}, {"text", "raised", 7}, {"muted", "surface", 4.5}, {"muted", "raised", 4.5},
			{"good", "raised", 4.5}, {"warn", "raised", 4.5}, {"bad", "raised", 4.5}, {"good", "good-soft", 4.5}, {"warn", "warn-soft", 4.5}, {"bad", "bad-soft", 4.5},
			{"text", "good-soft", 7}, {"text", "warn-soft", 7}, {"text", "bad-soft", 7}, {"edge", "raised", 3}, {"edge", "surface", 3},
		} {
			if c := contrast(get(tc.fore), get(tc.ground)); c < tc.least {
				t.Errorf("%s: %s on %s has %.2f:1, want %.1f", name, tc.fore, tc.ground, c, tc.least)
			}
		}
	}
}

func TestAssets_NamesCarryTheContentsHash(t *testing.T) {
	r := sampleRenderer(t, shop)
	for name, path := range r.assets.path {
		rec := httptest.NewRecorder()
		r.assets.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != 200 || rec.Body.Len() == 0 || !strings.Contains(rec.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, %q", name, rec.Code, rec.Header().Get("Cache-Control"))
		}
	}
	other, err := newAssets(Brand{Accent: "#ffd400"})
	if err != nil {
		t.Fatal(err)
	}
	if other.path["brand.css"] == r.assets.path["brand.css"] {
		t.Error("another accent has the same name")
	}
	script, err := files.ReadFile("assets/portal.js")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(script, []byte("\n")); lines >= 200 {
		t.Errorf("portal.js has %d lines", lines)
	}
}

// A browser takes no stylesheet and no script of another type (nosniff).
func TestAssets_EachHasItsType(t *testing.T) {
	for logo, want := range map[string]string{
		"\x89PNG\r\n\x1a\n": "image/png", "\xff\xd8\xff": "image/jpeg", "RIFF....WEBPVP": "image/webp", "<svg xmlns=\"http://www.w3.org/2000/svg\"/>": "image/svg+xml",
	} {
		a, err := newAssets(Brand{Accent: defaultAccent, Logo: []byte(logo)})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"style.css": "text/css; charset=utf-8", "portal.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml", "logo": want} {
			if got := a.body[a.path[name]].mimeType; got != want {
				t.Errorf("%s has the type %q, want %q", name, got, want)
			}
		}
		for p, asset := range a.body {
			if asset.mimeType == "" {
				t.Errorf("%s has no type", p)
			}
		}
	}
}
