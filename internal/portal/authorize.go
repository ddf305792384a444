package portal

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/grantway/grantway/internal/oauth"
)

// Authorize serves /auth/authorize, and /oauth/authorize for every client with a sign-in. GET shows a page; POST leads the
// validated request to our own GET, so that a form of any origin decides nothing (OIDC Core, 3.1.2.1).
func (p *Portal) Authorize(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			p.refuse(w, r, nil, &oauth.Error{Code: oauth.InvalidRequest, Reason: oauth.ParamMalformed})
			return
		}
		p.authorize(w, r, q)
	case http.MethodPost:
		p.passOn(w, r)
	default:
		w.Header().Set("Allow", "GET, POST")
		p.wrongMethod(w, r)
	}
}

// passOn leads a posted request to our own GET. Nothing is written for it: anybody may post any number of them (attack G8).
func (p *Portal) passOn(w http.ResponseWriter, r *http.Request) {
	if _, ok := p.form(w, r, smallForm); !ok {
		return
	}
	_, back, err := p.server.Authorize(r.Context(), r.Form)
	switch {
	case err != nil:
		p.refuse(w, r, r.Form, err)
	case !back.IsZero():
		p.returnRefused(w, r, r.Form.Get("client_id"), back)
	default:
		p.goTo(w, r.URL.Path+"?"+oauth.AuthorizationParams(r.Form).Encode())
	}
}

func (p *Portal) authorize(w http.ResponseWriter, r *http.Request, q url.Values) {
	request, back, err := p.server.Authorize(r.Context(), q)
	switch {
	case err != nil:
		p.refuse(w, r, q, err)
		return
	case !back.IsZero():
		p.returnRefused(w, r, q.Get("client_id"), back)
		return
	}
	v, err := p.visitor(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	next := r.URL.RequestURI()
	if v == nil {
		p.goTo(w, signInPath(next))
		return
	}
	asked, status := question{next: next}, http.StatusOK
	if f := p.takeForm(w, r, v, next); f != nil {
		request.Paged = true
		asked.posted, asked.pick.Ticked, asked.unticked, asked.scopes, asked.every = !f.Has("anew"), f["store"], f["shown"], f["scope"], f.Has("all_stores")
		if problem := f.Get("problem"); p.pages.says(problem) {
			asked.problem = problem
		}
		if asked.problem != "" && asked.posted {
			status = http.StatusUnprocessableEntity
		}
	}
	p.ask(w, r, status, v, request, asked)
}

// askAgain leads back to the question with what is ticked and what is wrong with it, and reports whether it could. No browser
// can go Back to the answer of a form.
func (p *Portal) askAgain(w http.ResponseWriter, v *visitor, q question) bool {
	f := url.Values{"of": {formFor(v, q.next)}, "problem": {q.problem}, "store": q.pick.Ticked, "shown": q.unticked, "scope": q.scopes}
	if q.every {
		f.Set("all_stores", "1")
	}
	if !q.posted {
		f.Set("anew", "1")
	}
	if q.next == "" || p.keepForm(w, f, func(string) bool { return true }) != whyKept {
		return false
	}
	p.goTo(w, q.next)
	return true
}

// askAfresh asks once more what began at q.next, by a request of its own.
func (p *Portal) askAfresh(w http.ResponseWriter, r *http.Request, v *visitor, q question) {
	if p.askAgain(w, v, q) {
		return
	}
	// More is ticked than a cookie holds, so the page is the answer to the form.
	place, err := url.Parse(q.next)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	query := place.Query()
	request, back, err := p.server.Authorize(r.Context(), query)
	switch {
	case err != nil:
		p.refuse(w, r, query, err)
	case !back.IsZero():
		p.returnRefused(w, r, query.Get("client_id"), back)
	default:
		request.Paged = true
		p.ask(w, r, http.StatusUnprocessableEntity, v, request, q)
	}
}

// refuse answers a request that must not go back to the app: the client or the address is not known (RFC 6749,
// 4.1.2.1). The page never redirects. What is wrong with it is told to those who manage the app, signed in: to anybody else
// it is of no use, and what an app has registered is not theirs to read. They have the reference that the log has.
func (p *Portal) refuse(w http.ResponseWriter, r *http.Request, q url.Values, err error) {
	e := oauth.AsError(err)
	if e.Code == oauth.ServerError || e.Code == oauth.TemporarilyUnavailable {
		p.fail(w, r, err)
		return
	}
	view := refusedView{Why: "refused.why_request"}
	client := &oauth.Client{}
	if ids := q["client_id"]; len(ids) == 1 {
		if found, err := p.server.Client(r.Context(), ids[0]); err == nil {
			client = found
			view.App = found.Name
		}
	}
	v, _ := p.visitor(r)
	tell := v != nil && p.manages(r.Context(), v, client)
	switch {
	case tell:
		view.Detail, view.Param = p.fault(e)
	case v == nil && client.ID != "" && r.Method == http.MethodGet:
		view.SignIn = signInPath(r.URL.RequestURI())
	}
	switch e.Reason {
	case oauth.ClientUnknown:
		view.Why = "refused.why_app"
	case oauth.ClientSuspended:
		view.Why, view.Detail, view.SignIn = "refused.why_suspended", "", ""
	case oauth.RedirectUnregistered, oauth.RedirectTruncated, oauth.RedirectMissing:
		view.Why = "refused.why_redirect"
		if e.Reason == oauth.RedirectMissing {
			view.Why = "refused.why_no_redirect"
		}
		if !tell {
			break
		}
		registered := make([]string, len(client.Redirects))
		for i, uri := range client.Redirects {
			registered[i] = string(uri)
		}
		view.Compare = compare(q.Get("redirect_uri"), registered)
		if e.Reason == oauth.RedirectTruncated {
			view.Compare.Hint = "differs.truncated"
		}
	}
	p.log.InfoContext(r.Context(), "authorization request refused", "reason", e.Reason, "client", client.ID)
	p.pages.render(w, r, http.StatusBadRequest, page{Name: "refused", Frame: framePlain, Body: view})
}

// fault says of a refusal, by a message and the parameter that it is about, what its developer has to mend. A reason that is
// new here still gets a sentence.
func (p *Portal) fault(e *oauth.Error) (message, param string) {
	message = "fault." + string(e.Reason)
	if e.Reason == oauth.ParamMalformed && e.Param == "" {
		message = "fault.query"
	}
	if !p.pages.says(message) {
		message = "fault.other"
	}
	return message, e.Param
}

// manages reports whether what is wrong with requests of an app is for the visitor to know.
func (p *Portal) manages(ctx context.Context, v *visitor, c *oauth.Client) bool {
	if v.User.Operator {
		return true
	}
	_, err := p.server.MyClient(ctx, oauth.Actor{Kind: oauth.AsUser, ID: v.User.ID}, c.ID)
	return err == nil
}

// readingTime is how long a page stands before the browser leaves for an app that nobody vouches for, in seconds.
const readingTime = 5

// returnTo hands the browser back to the app.
func (p *Portal) returnTo(w http.ResponseWriter, r *http.Request, clientID string, back oauth.Redirect) {
	app := newAppView(clientID, back.App(), "", "")
	p.pages.render(w, r, http.StatusOK, returningPage(app, back, 0))
}

// returnRefused does so with a request that was refused before anybody was asked. A stranger may have followed a link
// that somebody sent him, so he is shown where it leads before the browser goes there, unless the operator vouches for
// the app (RFC 9700, 4.11.2).
func (p *Portal) returnRefused(w http.ResponseWriter, r *http.Request, clientID string, back oauth.Redirect) {
	wait := readingTime
	if v, err := p.visitor(r); err == nil && v != nil {
		wait = 0
	} else if c, err := p.server.Client(r.Context(), clientID); err == nil && c.Settings.Verified {
		wait = 0
	}
	app := newAppView(clientID, back.App(), "", "")
	p.pages.render(w, r, http.StatusOK, returningPage(app, back, wait))
}

// expired is the page of a request that is too old or was never ours; next, if it is known, is where it began.
func (p *Portal) expired(w http.ResponseWriter, r *http.Request, next string) {
	p.over(w, r, "expired", p.waiting(r.Context(), next))
}

// over is the page of a request that cannot be taken up again, of an app if it is known.
func (p *Portal) over(w http.ResponseWriter, r *http.Request, why string, c *oauth.Client) {
	view := expiredView{Why: why}
	if c != nil {
		view.App, view.Home = c.Name, c.Settings.Homepage
	}
	p.pages.render(w, r, http.StatusBadRequest, page{Name: "expired", Title: why + ".heading", Frame: framePlain, Body: view})
}

// question is a consent page as its form stands.
type question struct {
	next     string
	posted   bool     // the form's ticks count, not those of the grant
	pick     pick     // of stores
	unticked []string // of an app that has all stores: those that were shown without a tick
	every    bool     // also stores that come later
	scopes   []string // optional ones that are ticked
	problem  string
}

// ask puts a request before the visitor. What is sealed into the form is what this page shows, not what an earlier one did
// (attack B2).
func (p *Portal) ask(w http.ResponseWriter, r *http.Request, status int, v *visitor, request *oauth.AuthorizationRequest, q question) {
	c, back, err := p.server.Ask(r.Context(), request, v.User.ID, v.AuthTime)
	switch {
	case err != nil:
		p.refuseDecision(w, r, v, request, q, err)
		return
	case !back.IsZero():
		p.returnTo(w, r, request.ClientID, back)
		return
	}
	sealed, err := p.server.Seal(c.Request, v.ID)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	if c.Changed && q.posted {
		q.problem = "problem.app_changed"
	}
	app := appOf(c.Client)
	known := setOf(slices.Concat(q.pick.Ticked, q.unticked))
	rows := make([]storeRow, 0, len(c.Stores))
	for _, s := range c.Stores {
		row := storeRow{ID: s.StoreID, Name: s.StoreName, Domain: s.StoreDomain}
		if !s.May {
			row.Reason = "reason.not_yours"
		}
		if s.Ticked && c.Repeat || s.Stays {
			row.Note = "stores.has"
		}
		// One of all that came since the page was drawn was left unticked by nobody.
		if s.Ticked && (!q.posted || c.AllStores && q.every && !known[s.StoreID]) {
			q.pick.Ticked = append(q.pick.Ticked, s.StoreID)
		}
		rows = append(rows, row)
	}
	sortByName(rows, p.pages.language(r), func(s storeRow) string { return s.Name })
	if c.NeedsStore && c.Delegable() == 0 && needsStore(c) {
		p.pages.render(w, r, status, page{Name: "no_stores", Frame: framePlain, Body: noStoresView{
			App: app, Request: sealed, Next: q.next, Account: account(c.User), Stores: rows}})
		return
	}
	view := consentView{
		App: app, Request: sealed, Next: q.next, Of: formFor(v, q.next), Account: account(c.User), Host: c.Redirect.Host(), Problem: q.problem,
		Privacy: c.Client.Settings.Privacy, Terms: c.Client.Settings.Terms,
	}
	if !c.Lasting {
		view.Days = int(oauth.Absolute.Hours() / 24)
	}
	p.describeAsked(&view, c, r, q)
	if c.NeedsStore && c.Delegable() > 0 {
		q.pick.But = c.AllStores
		view.Picker = newPicker(rows, q.pick)
		view.Picker.Every = q.every || c.AllStores && !q.posted
		if slices.ContainsFunc(c.Stores, func(s oauth.StoreChoice) bool { return s.Stays }) {
			view.Picker.Later = "stores.every_mine"
		}
	}
	p.pages.render(w, r, status, page{Name: "consent", TitleOf: []any{"App", app.Name}, Frame: framePlain, Body: view})
}

// needsStore reports whether nothing is left to ask for without a store.
func needsStore(c *oauth.Consent) bool {
	return !slices.ContainsFunc(c.Scopes, func(s oauth.ScopeChoice) bool { return s.Kind == oauth.AccountScope }) ||
		slices.ContainsFunc(c.Scopes, func(s oauth.ScopeChoice) bool { return s.Kind == oauth.StoreScope && s.Required })
}

// describeAsked fills in what the app may do: required, optional, and on a repeat visit only what is new, beside what it
// has already.
func (p *Portal) describeAsked(view *consentView, c *oauth.Consent, r *http.Request, q question) {
	var required, optional, held, partly []string
	for _, s := range c.Scopes {
		switch {
		case s.Held:
			held = append(held, s.Name)
		case s.Required:
			required = append(required, s.Name)
		case s.Kind == oauth.StoreScope && c.Delegable() == 0: // there is nothing to hold it for
		default:
			optional = append(optional, s.Name)
			if s.Partly {
				partly = append(partly, s.Name)
			}
		}
	}
	if len(required)+len(optional) == 0 { // nothing is new: all of it is shown again
		required, held = held, nil
	}
	language := p.pages.language(r)
	say := func(names []string) []askedScope {
		return describe(p.server.Catalogue(), language, oauth.Scopes(names...))
	}
	view.Sections, view.Held, view.HeldCount = sections(say(required)), sections(say(held)), len(held)
	for _, s := range say(optional) {
		s.Ticked, s.Partly = slices.Contains(q.scopes, s.Name), slices.Contains(partly, s.Name)
		view.Optional = append(view.Optional, s.scopeView)
	}
}

func account(u *oauth.User) string {
	if u.Email != "" {
		return u.Email
	}
	return u.Name
}

// decide takes the consent form: Allow, Cancel, or a turn of the store list, which keeps what is ticked.
func (p *Portal) decide(w http.ResponseWriter, r *http.Request) {
	f, ok := p.form(w, r, storeForm)
	if !ok {
		return
	}
	f["shown"] = without(f["shown"], f["store"])
	next := ownPath(f.Get("next"))
	v, err := p.visitor(r)
	switch {
	case err != nil:
		p.fail(w, r, err)
		return
	case v == nil && next == "":
		p.expired(w, r, "")
		return
	case v == nil: // signed out halfway: sign in, and the request goes on
		why := p.keepForm(w, f, ticks)
		if why != whyKept { // too many ticks: kept is that a page was shown
			p.keepForm(w, url.Values{"of": f["of"], "anew": {"1"}}, func(string) bool { return true })
		}
		p.goTo(w, signInBecause(why, next))
		return
	}
	request, err := p.server.Open(f.Get("request"), v.ID)
	switch {
	// Sealed for another sign-in, in another tab perhaps: whoever is signed in now is asked afresh, and told so.
	case errors.Is(err, &oauth.Error{Reason: oauth.RequestForeign}) && next != "":
		p.askAgain(w, v, question{next: next, problem: "problem.signed_in_as"})
		return
	// Who took longer than a request may wait loses nothing by it (WCAG 2.2.1): he is asked afresh, with what he ticked.
	case errors.Is(err, &oauth.Error{Reason: oauth.RequestExpired}) && next != "":
		late := questionOf(f, next)
		late.problem = "problem.too_late"
		p.askAfresh(w, r, v, late)
		return
	case err != nil:
		p.expired(w, r, next)
		return
	}
	q := questionOf(f, next)
	switch f.Get("decision") {
	case "allow", "cancel":
		back, err := p.server.Decide(r.Context(), v.User.ID, request, oauth.Decision{
			Allow: f.Get("decision") == "allow", Stores: f["store"], AllStores: f.Has("all_stores"), Except: f["shown"], Scopes: f["scope"], AuthTime: v.AuthTime})
		if err != nil {
			p.refuseDecision(w, r, v, request, q, err)
			return
		}
		p.returnTo(w, r, request.ClientID, back)
	default:
		p.ask(w, r, http.StatusOK, v, request, q)
	}
}

// without returns what of list is not in other.
func without(list, other []string) []string {
	in := setOf(other)
	return slices.DeleteFunc(list, func(x string) bool { return in[x] })
}

func setOf(list []string) map[string]bool {
	in := make(map[string]bool, len(list))
	for _, x := range list {
		in[x] = true
	}
	return in
}

// questionOf reads a consent page out of its form.
func questionOf(f url.Values, next string) question {
	return question{next: next, posted: true, scopes: f["scope"], pick: readPick(f), unticked: f["shown"], every: f.Has("all_stores")}
}

// readPick reads what was done with the store list.
func readPick(f url.Values) pick {
	number := func(name string) int {
		n := 0
		for _, c := range f.Get(name) {
			if c < '0' || c > '9' || n > 1<<20 {
				return 1
			}
			n = n*10 + int(c-'0')
		}
		return n
	}
	out := pick{Ticked: f["store"], Query: f.Get("q"), Page: number("at"), All: f.Get("tick") == "all", None: f.Get("tick") == "none"}
	switch {
	case f.Has("search"):
		out.Page = 1
	case f.Has("page"):
		out.Page = number("page")
	}
	return out
}

// refuseDecision answers a decision that did not come about: what the visitor can mend goes back on the page with
// everything that was ticked.
func (p *Portal) refuseDecision(w http.ResponseWriter, r *http.Request, v *visitor, request *oauth.AuthorizationRequest, q question, err error) {
	again := func(problem string) {
		if q.problem != "" { // asking failed as well
			p.fail(w, r, err)
			return
		}
		q.problem = problem
		p.ask(w, r, http.StatusUnprocessableEntity, v, request, q)
	}
	mend := func(problem string) {
		mistake := q
		mistake.problem = problem
		if q.problem != "" || !p.askAgain(w, v, mistake) {
			again(problem)
		}
	}
	switch oauth.ReasonOf(err) {
	case oauth.StoreNone:
		mend("problem.no_store")
	case oauth.StoreForeign, oauth.Changed:
		again("problem.changed")
	case oauth.NothingToGrant:
		mend("problem.nothing")
	case oauth.DecidedTooOften:
		retryAfter(w, oauth.AsError(err).RetryAfter)
		q.problem = "problem.decisions"
		p.ask(w, r, http.StatusTooManyRequests, v, request, q)
	case oauth.RequestSpent, oauth.RequestOver:
		c, failed := p.server.Client(r.Context(), request.ClientID)
		if failed != nil {
			p.fail(w, r, failed)
			return
		}
		if oauth.ReasonOf(err) == oauth.RequestOver {
			p.over(w, r, "answered", c)
			return
		}
		app := appOf(c)
		p.pages.render(w, r, http.StatusOK, page{Name: "already", TitleOf: []any{"App", app.Name}, Frame: framePlain, Body: alreadyView{app}})
	case oauth.RequestExpired:
		if q.next == "" {
			p.expired(w, r, q.next)
			return
		}
		q.problem = "problem.too_late"
		p.askAfresh(w, r, v, q)
	case oauth.ClientUnknown, oauth.ClientSuspended, oauth.RedirectUnregistered, oauth.ProfileMismatch:
		p.refuse(w, r, url.Values{"client_id": {request.ClientID}, "redirect_uri": {request.RedirectURI}}, err)
	default:
		p.fail(w, r, err)
	}
}
