package portal

import (
	"cmp"
	"errors"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// visitor is who is signed in. As an operator, Actor says so; actor never does.
type visitor struct{ *people.Session }

// actor is the visitor as the owner of what is theirs, whatever else they may do here.
func (v *visitor) actor() oauth.Actor { return oauth.Actor{Kind: oauth.AsUser, ID: v.User.ID} }

// account is what the header of a page shows of the visitor.
func (v *visitor) account() *accountView {
	return &accountView{Email: account(v.User), Operator: v.User.Operator}
}

// cookieName is distinct for each program on one host, because cookies ignore ports (libraries.md, trap 9). __Host- binds
// a cookie to the host that set it, and needs https (DESIGN, decision 11).
func cookieName(base *url.URL) string {
	name := "grantway"
	if port := base.Port(); port != "" {
		name += "-" + port
	}
	if base.Scheme == "https" {
		return "__Host-" + name
	}
	return name
}

func (p *Portal) setCookie(w http.ResponseWriter, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: p.cookie, Value: value, Path: "/", MaxAge: int(life.Seconds()), HttpOnly: true, Secure: p.https, SameSite: http.SameSiteLaxMode,
	})
}

// visitor reads who is signed in, or nil.
func (p *Portal) visitor(r *http.Request) (*visitor, error) {
	cookie, err := r.Cookie(p.cookie)
	if err != nil {
		return nil, nil
	}
	session, err := p.people.Session(r.Context(), cookie.Value)
	switch {
	case oauth.ReasonOf(err) == oauth.NotSignedIn:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &visitor{session}, nil
}

// endSession ends the visitor's session on the server, if there is one.
func (p *Portal) endSession(r *http.Request) error {
	v, err := p.visitor(r)
	if err != nil || v == nil {
		return err
	}
	return p.people.SignOut(r.Context(), v.Session)
}

// signedIn makes a handler of a page about an account: a stranger is sent to sign in, and on to it.
func (p *Portal) signedIn(h func(http.ResponseWriter, *http.Request, *visitor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := p.visitor(r)
		switch {
		case err != nil:
			p.fail(w, r, err)
		case v == nil && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			p.goTo(w, signInPath(r.URL.RequestURI()))
		case v == nil: // a form cannot be sent again after the sign-in
			p.goTo(w, signInBecause(whyEnded, parent(r.URL.Path)))
		default:
			h(w, r, v)
		}
	}
}

// parent is the page that a form stands on: forms post to an address below it.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return path
}

func (p *Portal) showSignIn(w http.ResponseWriter, r *http.Request) {
	view := signView{Next: ownPath(r.URL.Query().Get("next"))}
	switch why := r.URL.Query().Get("why"); why {
	case whySignedIn:
		view.Problem = "problem.no_cookie"
	case whyEnded, whyKept, whyOut, whyEverywhere:
		view.Why = "sign_in." + why
	}
	v, err := p.visitor(r)
	switch {
	case err != nil && oauth.ReasonOf(err) != oauth.UserSuspended:
		p.fail(w, r, err)
	case v != nil:
		p.goTo(w, cmp.Or(view.Next, "/connected-apps"))
	default:
		p.signPage(w, r, http.StatusOK, "sign_in", view)
	}
}

func (p *Portal) showSignUp(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch err := p.people.LookAtInvite(r.Context(), q.Get("invite")); {
	case oauth.ReasonOf(err) == people.ReasonInviteSpent: // said before anything is filled in
		p.say(w, r, http.StatusGone, noticeBody{"invite.heading", "problem.invite", "/sign-in", "sign_up.to_sign_in"})
		return
	case err != nil:
		p.fail(w, r, err)
		return
	}
	p.signPage(w, r, http.StatusOK, "sign_up", signView{Next: ownPath(q.Get("next")), Invite: q.Get("invite")})
}

// signPage shows sign-in or sign-up, with who is waiting for it.
func (p *Portal) signPage(w http.ResponseWriter, r *http.Request, status int, name string, view signView) {
	view.Other = withNext(map[string]string{"sign_in": "/sign-up", "sign_up": "/sign-in"}[name], view.Next)
	if c := p.waiting(r.Context(), view.Next); c != nil {
		view.App = c.Name
	}
	p.pages.render(w, r, status, page{Name: name, Frame: framePlain, Body: view})
}

func (p *Portal) signIn(w http.ResponseWriter, r *http.Request) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	view := signView{Next: ownPath(f.Get("next")), Email: strings.TrimSpace(f.Get("email")), Errors: map[string]string{}}
	if view.Email == "" {
		view.Errors["email"] = "problem.email_empty"
	}
	if f.Get("password") == "" {
		view.Errors["password"] = "problem.password_empty"
	}
	if len(view.Errors) > 0 {
		p.signPage(w, r, http.StatusUnprocessableEntity, "sign_in", view)
		return
	}
	_, cookie, err := p.people.SignIn(r.Context(), people.SignIn{Email: view.Email, Password: f.Get("password"), IP: address(r)})
	p.signed(w, r, "sign_in", view, cookie, err)
}

// signUp asks for no name, since no page shows one: it is what stands before the @ until the platform says better.
func (p *Portal) signUp(w http.ResponseWriter, r *http.Request) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	view := signView{Next: ownPath(f.Get("next")), Invite: f.Get("invite"), Email: strings.TrimSpace(f.Get("email")), Errors: map[string]string{}}
	name, _, _ := strings.Cut(view.Email, "@")
	_, cookie, err := p.people.SignUp(r.Context(), people.SignUp{Name: name, Email: view.Email, Password: f.Get("password"), Invite: view.Invite, IP: address(r)})
	p.signed(w, r, "sign_up", view, cookie, err)
}

// address is where a request came from. Behind a proxy, the caller of the portal has put the visitor's own there.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// signed ends sign-in and sign-up. The session is always a new one, so that nobody can have planted it (attack B8), and
// the one before it ends.
func (p *Portal) signed(w http.ResponseWriter, r *http.Request, name string, view signView, cookie oauth.Secret, err error) {
	if err == nil {
		if err := p.endSession(r); err != nil && oauth.ReasonOf(err) != oauth.UserSuspended {
			p.fail(w, r, err)
			return
		}
		p.setCookie(w, cookie.Reveal(), people.SessionLife)
		home := "/connected-apps"
		if view.Invite != "" {
			home = "/operator" // which the account may see from now on
		}
		p.goTo(w, signInBecause(whySignedIn, cmp.Or(view.Next, home))) // which goes on at once if the cookie is there
		return
	}
	status := http.StatusUnprocessableEntity
	if fields, ok := errors.AsType[oauth.FieldErrors](err); ok {
		for field, e := range fields {
			if field == "name" { // made of the e-mail
				field = "email"
			}
			view.Errors[field] = fieldMessage(field, e.Reason)
			if view.Invite != "" && e.Reason == people.ReasonEmailTaken { // who signs in instead leaves the link
				view.Errors[field] = "problem.email_taken_invite"
			}
		}
	} else if locked, ok := errors.AsType[people.Locked](err); ok {
		status, view.Problem = http.StatusTooManyRequests, "problem.too_many"
		wait := locked.Until.Sub(p.server.Now())
		view.Minutes = max(1, int(math.Ceil(wait.Minutes())))
		retryAfter(w, wait)
	} else {
		switch oauth.ReasonOf(err) {
		case people.ReasonCredentials:
			view.Problem = "problem.sign_in"
		case people.ReasonInviteSpent:
			view.Problem = "problem.invite"
		case people.ReasonBusy:
			status, view.Problem = http.StatusServiceUnavailable, "problem.busy"
			retryAfter(w, people.RetryAfter)
		default:
			p.fail(w, r, err)
			return
		}
	}
	p.signPage(w, r, status, name, view)
}

// fieldMessage is the message of a mistake in a field of sign-up.
func fieldMessage(field string, reason oauth.Reason) string {
	switch {
	case reason == oauth.FieldRequired && field == "email":
		return "problem.email_empty"
	case reason == people.ReasonEmailTaken:
		return "problem.email_taken"
	case field == "email":
		return "problem.email_form"
	case reason == oauth.FieldRequired:
		return "problem.password_empty"
	case reason == people.ReasonPasswordShort:
		return "problem.password_short"
	case reason == people.ReasonPasswordLong:
		return "problem.password_long"
	}
	return "problem.password_common"
}

// signOut ends the session on the server too. With next, somebody else may sign in for the same request.
func (p *Portal) signOut(w http.ResponseWriter, r *http.Request) {
	f, ok := p.form(w, r, smallForm)
	if !ok {
		return
	}
	if err := p.endSession(r); err != nil && oauth.ReasonOf(err) != oauth.UserSuspended {
		p.fail(w, r, err)
		return
	}
	p.setCookie(w, "", -time.Second)
	p.goTo(w, signInBecause(whyOut, f.Get("next")))
}

// signOutEverywhere ends every session of the visitor, also this one: it is for who fears that somebody else is signed in.
func (p *Portal) signOutEverywhere(w http.ResponseWriter, r *http.Request, v *visitor) {
	if _, ok := p.form(w, r, smallForm); !ok {
		return
	}
	if err := p.people.EndSessions(r.Context(), v.actor(), v.User.ID); err != nil {
		p.fail(w, r, err)
		return
	}
	p.setCookie(w, "", -time.Second)
	p.goTo(w, signInBecause(whyEverywhere, ""))
}

// retryAfter says when it is worth another try: in whole seconds, and no sooner.
func retryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))))
}
