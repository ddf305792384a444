package portal

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/grantway/grantway/internal/oauth"
)

const policy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Frames: a page is one narrow card, a column, or as wide as tables need.
const (
	framePlain = "plain"
	frameWide  = "wide"
)

// page is what a handler gives to render.
type page struct {
	Name     string       // the template
	Title    string       // message id of the title; default title.NAME
	TitleOf  []any        // keys and values of the title's message
	Frame    string       // framePlain, frameWide or "" for a column
	Section  string       // which link of the header is the current one: connected, developer, operator
	Account  *accountView // who is signed in, for the header; nil on pages that stand alone
	Refresh  template.URL // where the browser goes by itself; only ever a validated redirect
	Wait     int          // after how many seconds
	Wrong    bool         // the form on it was refused; the title says so first
	NoSender bool         // the page carries a code: not even our own origin is told where a click came from
	Body     any
}

// accountView is who the header says is signed in.
type accountView struct {
	Email    string
	Operator bool // shows the operator's pages
}

// layout is what the layout template receives.
type layout struct {
	page
	Lang, Dir, Heading, Logo string
	Reference                string // the request's id, as the log has it: what somebody tells who asks for help
	Brand                    Brand
}

// renderer draws pages in every language of the catalogue.
type renderer struct {
	brand     Brand
	assets    *assets
	catalogue *catalogue
	sets      []map[string]func() (*template.Template, error) // by language, by page: parsed when it is first drawn
	log       *slog.Logger
}

func newRenderer(brand Brand, now func() time.Time, log *slog.Logger, folders ...fs.FS) (*renderer, error) {
	if brand.Name == "" {
		brand.Name = "Grantway"
	}
	if brand.Accent == "" {
		brand.Accent = defaultAccent
	}
	brand.Name = clean(brand.Name)
	a, err := newAssets(brand)
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		folders = []fs.FS{files}
	}
	c, err := newCatalogue(brand.Name, brand.Store, now, folders...)
	if err != nil {
		return nil, err
	}
	r := &renderer{brand: brand, assets: a, catalogue: c, log: log}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return nil, err
	}
	base := sync.OnceValues(func() (*template.Template, error) {
		return template.New("").Funcs(r.funcs(c.words[0])).ParseFS(files, "templates/layout.html", "templates/icons.html", "templates/*_parts.html")
	})
	for _, w := range c.words {
		set := map[string]func() (*template.Template, error){}
		for _, file := range names {
			name := strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")
			if name == "layout" || name == "icons" || strings.HasSuffix(name, "_parts") {
				continue
			}
			// Most servers draw a few of the pages, in a language or two: to parse them all
			// would cost half the start and half the memory.
			set[name] = sync.OnceValues(func() (*template.Template, error) {
				parts, err := base()
				if err != nil {
					return nil, err
				}
				t, err := parts.Clone()
				if err != nil {
					return nil, err
				}
				return t.Funcs(r.funcs(w)).ParseFS(files, file)
			})
		}
		r.sets = append(r.sets, set)
	}
	return r, nil
}

// What partials receive: a message in a box, one beside a field, a store of a grant.
type (
	noticeView struct {
		Kind string
		Text template.HTML
	}
	fieldProblem struct{ Field, Message string }
	chipView     struct {
		Grant, ID, Name string
		Alone           bool // the only store: removing it is revoking
	}
)

func (r *renderer) funcs(w words) template.FuncMap {
	return template.FuncMap{
		"t":       w.text,
		"rich":    w.rich,
		"count":   w.count,
		"day":     w.day,
		"when":    w.when,
		"exact":   w.exact,
		"ago":     w.ago,
		"stamp":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"brand":   func() string { return w.brand },
		"support": func() string { return r.brand.Support },
		"asset": func(name string) (string, error) {
			if p, ok := r.assets.path[name]; ok {
				return p, nil
			}
			return "", fmt.Errorf("portal: no asset %s", name)
		},
		"initial": initials,
		"chip":    func(grant string, s storeChip, alone bool) chipView { return chipView{grant, s.ID, s.Name, alone} },
		"notice": func(kind, id string, pairs ...any) (noticeView, error) {
			text, err := w.rich(id, pairs...)
			return noticeView{kind, text}, err
		},
		"problem": func(field string, problems map[string]string) fieldProblem {
			return fieldProblem{field, problems[field]}
		},
	}
}

// render answers with a page, drawn into a buffer first: a page that fails half-way is a 500 and never half a page.
func (r *renderer) render(w http.ResponseWriter, req *http.Request, status int, p page) {
	language := r.catalogue.choose(req.Header.Get("Accept-Language"))
	p.Wrong = status == http.StatusUnprocessableEntity || status == http.StatusTooManyRequests
	reference := oauth.RequestID(req.Context())
	body, err := r.draw(language, reference, p)
	if err != nil {
		r.log.ErrorContext(req.Context(), "page failed", "page", p.Name, "error", err)
		status = http.StatusInternalServerError
		body, err = r.draw(language, reference, page{Name: "notice", Frame: framePlain, Body: failedView, Title: failedView.Heading})
		if err != nil {
			body = nil
		}
	}
	h := w.Header()
	secure(h)
	if p.NoSender {
		h.Set("Referrer-Policy", "no-referrer")
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", r.catalogue.words[language].tag.String())
	h.Add("Vary", "Accept-Language")
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// language is the reader's, as a tag.
func (r *renderer) language(req *http.Request) string {
	return r.catalogue.words[r.catalogue.choose(req.Header.Get("Accept-Language"))].tag.String()
}

// secure sets the headers of every answer that a person gets, redirects included.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

func (r *renderer) draw(language int, reference string, p page) ([]byte, error) {
	parsed, ok := r.sets[language][p.Name]
	if !ok {
		return nil, errors.New("portal: no page " + p.Name)
	}
	t, err := parsed()
	if err != nil {
		return nil, err
	}
	w := r.catalogue.words[language]
	if p.Title == "" {
		p.Title = "title." + p.Name
	}
	title, err := w.text(p.Title, p.TitleOf...)
	if err != nil {
		return nil, err
	}
	if p.Wrong {
		if title, err = w.text("title.wrong", "Title", title); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, "layout", layout{
		page: p, Lang: w.tag.String(), Dir: w.direction(), Heading: clean(title), Logo: r.assets.path["logo"], Reference: reference, Brand: r.brand,
	})
	return b.Bytes(), err
}

// initials are the one or two letters of an app without a logo.
func initials(name string) string {
	var letters []rune
	for _, word := range strings.Fields(clean(name)) {
		for _, c := range word {
			if unicode.IsLetter(c) || unicode.IsDigit(c) {
				letters = append(letters, unicode.ToUpper(c))
				break
			}
		}
		if len(letters) == 2 {
			break
		}
	}
	if len(letters) == 0 {
		return "?"
	}
	return string(letters)
}
