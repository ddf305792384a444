package portal

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// Config is what the portal is made of. Server and People are required.
type Config struct {
	Server *oauth.Server
	People *people.Service
	Brand  Brand
	// CallURL is where the platform's API is reached, for the developer's samples; "" means that it is at its audience.
	CallURL string
	Log     *slog.Logger // nil: nothing is logged
}

// Portal serves people's pages.
type Portal struct {
	server    *oauth.Server
	people    *people.Service
	pages     *renderer
	log       *slog.Logger
	cookie    string // name of the session cookie
	https     bool
	samplesAt addresses
	handler   http.Handler
}

// New makes the portal. Its own forms are refused when another origin posts them; Authorize is not behind that check.
func New(c Config) (*Portal, error) {
	if c.Server == nil || c.People == nil {
		return nil, errors.New("portal: server and people are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	base, err := url.Parse(c.Server.PagesURL())
	if err != nil {
		return nil, err
	}
	p := &Portal{server: c.Server, samplesAt: addressesOf(c.Server, c.CallURL), people: c.People, log: c.Log, https: base.Scheme == "https"}
	p.cookie = cookieName(base)
	if p.pages, err = newRenderer(c.Brand, c.Server.Now, c.Log); err != nil {
		return nil, err
	}
	// Behind a proxy that rewrites Host, Origin is the public address and Host is not (libraries.md, trap 3).
	var origin http.CrossOriginProtection
	if err := origin.AddTrustedOrigin(base.Scheme + "://" + base.Host); err != nil {
		return nil, err
	}
	origin.SetDenyHandler(http.HandlerFunc(p.foreign))
	mux := http.NewServeMux()
	p.routes(mux)
	checked := origin.Handler(mux)
	// POST to authorize may come from any origin: it decides nothing (DESIGN, decision 11).
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/auth/authorize" {
			r.Pattern = r.URL.Path // as a ServeMux would: the access log names routes
			p.Authorize(w, r)
			return
		}
		checked.ServeHTTP(w, r)
	})
	return p, nil
}

func (p *Portal) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

func (p *Portal) routes(mux *http.ServeMux) {
	mux.Handle("GET /assets/", p.pages.assets)
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /{$}":                           func(w http.ResponseWriter, r *http.Request) { p.goTo(w, "/connected-apps") },
		"GET /sign-in":                       p.showSignIn,
		"POST /sign-in":                      p.signIn,
		"GET /sign-up":                       p.showSignUp,
		"POST /sign-up":                      p.signUp,
		"POST /sign-out":                     p.signOut,
		"GET /consent":                       func(w http.ResponseWriter, r *http.Request) { p.expired(w, r, "") },
		"POST /consent":                      p.decide,
		"GET /connected-apps":                p.signedIn(p.connectedApps),
		"POST /connected-apps/sign-out":      p.signedIn(p.signOutEverywhere),
		"POST /connected-apps/revoke":        p.signedIn(p.revokeApp),
		"POST /connected-apps/remove-store":  p.signedIn(p.removeStore),
		"GET /connected-apps/change":         p.signedIn(p.showChange),
		"POST /connected-apps/change":        p.change,
		"GET /connected-apps/others":         p.signedIn(p.others),
		"GET /connected-apps/others/remove":  p.signedIn(p.askRemoveOthers),
		"POST /connected-apps/others/remove": p.signedIn(p.removeOthers),
		"/":                                  p.lost,
	} {
		mux.HandleFunc(pattern, handler)
	}
	for _, known := range []string{"/sign-in", "/sign-up", "/sign-out", "/consent", "/connected-apps", "/connected-apps/sign-out", "/connected-apps/revoke", "/connected-apps/remove-store",
		"/connected-apps/change", "/connected-apps/others", "/connected-apps/others/remove"} {
		mux.HandleFunc(known, p.wrongMethod)
	}
	p.developerRoutes(mux)
	p.operatorRoutes(mux)
}

// goTo sends the browser to another page of ours, after which a reload repeats nothing.
func (p *Portal) goTo(w http.ResponseWriter, target string) {
	secure(w.Header())
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}

// say answers with a page that says one thing.
func (p *Portal) say(w http.ResponseWriter, r *http.Request, status int, body noticeBody) {
	p.pages.render(w, r, status, page{Name: "notice", Title: body.Heading, Frame: framePlain, Body: body})
}

// Busy is the page of who comes when the server has no room for another request.
func (p *Portal) Busy(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Retry-After", "1")
	p.say(w, r, http.StatusServiceUnavailable, noticeBody{Heading: "busy.heading", What: "busy.what"})
}

// lost is the page of an address where there is nothing, and of one that is not the visitor's, which says nothing else: whether
// there is anything is not told. Who is signed in may see that it is as somebody else.
func (p *Portal) lost(w http.ResponseWriter, r *http.Request) {
	view := lostView{}
	if v, err := p.visitor(r); err == nil && v != nil {
		view.Account = account(v.User)
		if r.Method == http.MethodGet {
			view.Next = ownPath(r.URL.RequestURI())
		}
	}
	p.pages.render(w, r, http.StatusNotFound, page{Name: "lost", Title: "lost.heading", Frame: framePlain, Body: view})
}

func (p *Portal) foreign(w http.ResponseWriter, r *http.Request) {
	p.say(w, r, http.StatusForbidden, noticeBody{Heading: "foreign.heading", What: "foreign.what"})
}

// wrongMethod answers where another method is wanted: a form's address opened as a page. It leads to the page of that section.
func (p *Portal) wrongMethod(w http.ResponseWriter, r *http.Request) {
	body := noticeBody{"method.heading", "method.what", "/connected-apps", "lost.label"}
	for _, section := range []string{"/developer", "/operator"} {
		if r.URL.Path == section || strings.HasPrefix(r.URL.Path, section+"/") {
			body.Link, body.Label = section, "back.label"
		}
	}
	p.say(w, r, http.StatusMethodNotAllowed, body)
}

// fail answers with the page of an error that has no page of its own. Its cause goes to the log only.
func (p *Portal) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := oauth.AsError(err)
	switch {
	case e.Code == oauth.NotFound:
		p.lost(w, r)
	case e.Reason == oauth.NotSignedIn && r.Method == http.MethodPost:
		p.goTo(w, signInBecause(whyEnded, parent(r.URL.Path)))
	case e.Reason == oauth.NotSignedIn:
		p.goTo(w, signInPath(r.URL.RequestURI()))
	case e.Reason == oauth.UserSuspended:
		p.say(w, r, http.StatusForbidden, noticeBody{"suspended.heading", "suspended.what", "/sign-in", "suspended.label"})
	case e.Code == oauth.Conflict:
		p.say(w, r, http.StatusConflict, noticeBody{"changed.heading", "changed.what", "/connected-apps", "back.label"})
	case e.Code == oauth.TemporarilyUnavailable:
		w.Header().Set("Retry-After", "1")
		level := slog.LevelError
		if errors.Is(err, oauth.ErrMoved) { // who follows the feed tells of it, once
			level = slog.LevelInfo
		}
		p.log.Log(r.Context(), level, "storage", "reason", e.Reason, "error", err)
		p.say(w, r, http.StatusServiceUnavailable, failedView)
	case e.Code == oauth.ServerError:
		p.log.ErrorContext(r.Context(), "page", "reason", e.Reason, "error", err)
		p.say(w, r, http.StatusInternalServerError, failedView)
	default:
		p.log.InfoContext(r.Context(), "page refused", "reason", e.Reason)
		view := refusedView{Why: "refused.why_request"}
		if what, param := p.fault(e); what != "fault.other" { // which is about requests of apps
			view.Detail, view.Param = what, param
		}
		p.pages.render(w, r, http.StatusBadRequest, page{Name: "refused", Frame: framePlain, Body: view})
	}
}

// Forms of customers are small, but for the ticks of thousands of stores.
const (
	smallForm = 64 << 10
	storeForm = 8 << 20
)

const maxContentType = 256 // bytes

// form reads a posted form; on false the answer has been given. Handlers have a form by this alone: what net/http reads by
// itself when it is asked for a field is of any size and method, and its files stay on the disk (attack G5).
func (p *Portal) form(w http.ResponseWriter, r *http.Request, limit int64) (url.Values, bool) {
	r.Body = http.MaxBytesReader(w, r.Body, limit)
	// It names a type and a few parameters; to parse what fits into a head would take a fifth of a second.
	if len(r.Header.Get("Content-Type")) > maxContentType {
		r.Header.Del("Content-Type")
	}
	if err := r.ParseForm(); err != nil {
		status, body := http.StatusBadRequest, noticeBody{Heading: "failed.heading", What: "failed.what"}
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			status, body = http.StatusRequestEntityTooLarge, noticeBody{Heading: "too_big.heading", What: "too_big.what"}
		}
		p.say(w, r, status, body)
		return nil, false
	}
	return r.PostForm, true
}

// ownPath returns next if it is a page of ours that sign-in may lead to, else "". What is compared is exactly what the
// browser will read, so nothing that it could take for another origin passes.
func ownPath(next string) string {
	place, _, _ := strings.Cut(next, "?")
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(place, "\\") || len(next) > 16<<10 ||
		strings.ContainsFunc(next, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return ""
	}
	u, err := url.Parse(next)
	if err != nil || u.Host != "" || u.Scheme != "" || u.Opaque != "" || path.Clean(u.Path) != u.Path || u.EscapedPath() != u.Path {
		return ""
	}
	for _, own := range []string{"/oauth/authorize", "/api/oauth/authorize", "/auth/authorize", "/connected-apps", "/developer", "/operator"} {
		if u.Path == own || strings.HasPrefix(u.Path, own+"/") {
			return next
		}
	}
	return ""
}

func withNext(page, next string) string {
	if next == "" {
		return page
	}
	return page + "?next=" + url.QueryEscape(next)
}

func signInPath(next string) string { return withNext("/sign-in", ownPath(next)) }

// Why sign-in comes up where nobody opened it: the parameter why of its address, and the end of the message's id.
const (
	whyEnded      = "ended"      // a form came after the session was over
	whyKept       = "kept"       // so it did, and what was filled in comes back
	whyOut        = "out"        // the visitor has signed out
	whyEverywhere = "everywhere" // and on every device
	whySignedIn   = "signed_in"  // he has signed in, and is not: his browser kept no cookie
)

func signInBecause(why, next string) string {
	q := url.Values{"why": {why}}
	if next = ownPath(next); next != "" {
		q.Set("next", next)
	}
	return "/sign-in?" + q.Encode()
}

// waiting returns the app whose authorization request next is, or nil.
func (p *Portal) waiting(ctx context.Context, next string) *oauth.Client {
	u, err := url.Parse(next)
	if err != nil || !strings.HasSuffix(u.Path, "/authorize") {
		return nil
	}
	c, err := p.server.Client(ctx, u.Query().Get("client_id"))
	if err != nil {
		return nil
	}
	return c
}

// appOf shows an app as its users meet it.
func appOf(c *oauth.Client) appView {
	badge := "unverified"
	switch {
	case c.Status == oauth.Suspended:
		badge = "suspended"
	case c.Settings.Verified:
		badge = "verified"
	}
	return newAppView(c.ID, c.Name, oauth.HostOf(c.Settings.Homepage), badge)
}
