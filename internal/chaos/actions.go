package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The lives that the server promises, as far as this package counts on them.
const (
	codeLife    = 60 * time.Second
	rotateGrace = 10 * time.Second // a lost rotation may be asked for again
	replayGrace = 10 * time.Second // an exchange code presented again revokes nothing
)

var (
	sealedRequest = regexp.MustCompile(`name="request" value="([^"]+)"`)
	returnsTo     = regexp.MustCompile(`http-equiv="refresh" content="[0-9]+;url=([^"]+)"`)
)

// authorizeGuest gets a code of the direct app.
func (w *worker) authorizeGuest(ctx context.Context) {
	r := w.send(ctx, request{what: "guest code", method: "GET", path: w.site.guestPath(), want: 200})
	if r.outcome == refused {
		w.violation("a guest's code was refused: %d %s", r.status, r.body)
	}
	if r.outcome == acknowledged {
		w.codes = append(w.codes, &code{app: &w.site.direct, value: r.text("code"), until: r.sent.Add(codeLife)})
	}
}

// consent walks through the consent page of an app and allows one store.
func (w *worker) consent(ctx context.Context, a *app) {
	q := url.Values{"client_id": {a.id}, "redirect_uri": {callback}, "response_type": {"code"}, "state": {"st"}, "scope": {"orders.view"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	path := "/oauth/authorize?"
	if a.lasting {
		path = "/auth/authorize?"
	}
	ask := w.send(ctx, request{what: "consent page", of: w.who.id, method: "GET", path: path + q.Encode(), cookie: w.session, want: 200, page: true})
	sealed := sealedRequest.FindStringSubmatch(ask.body)
	if ask.outcome != acknowledged || sealed == nil {
		if ask.outcome == refused || ask.outcome == acknowledged {
			w.violation("the consent page is missing: %d %s", ask.status, ask.header.Get("Location"))
		}
		return
	}
	store := storeOf(*w.who, w.rng.IntN(storesEach))
	r := w.send(ctx, request{what: "decide", of: w.who.id, method: "POST", path: "/consent", cookie: w.session, want: 200, page: true,
		form: url.Values{"request": {html.UnescapeString(sealed[1])}, "next": {path + q.Encode()}, "store": {store}, "decision": {"allow"}}})
	back := returnsTo.FindStringSubmatch(r.body)
	if r.outcome != acknowledged || back == nil {
		if r.outcome == refused || r.outcome == acknowledged {
			w.violation("the consent was refused: %d %s", r.status, r.header.Get("Location"))
		}
		return
	}
	to, err := url.Parse(html.UnescapeString(back[1]))
	if err != nil || to.Query().Get("code") == "" {
		w.violation("the consent leads to no code: %s", back[1])
		return
	}
	c := &code{app: a, value: to.Query().Get("code"), until: ask.sent.Add(codeLife)}
	if a.lasting && w.held != nil { // an app that authenticates has one grant of each customer
		switch w.held.state {
		case alive:
			c.grant = w.held
		case unsure:
			c.shaky = true
		}
	}
	w.codes = append(w.codes, c)
}

// redeemOne redeems a code: mostly the latest one, sometimes one that waited; and
// one time in five by two requests at once, of which one may win.
func (w *worker) redeemOne(ctx context.Context) {
	for i := len(w.codes) - 1; i >= 0; i-- {
		c := w.codes[i]
		if i > 0 && w.rng.IntN(4) == 0 {
			continue
		}
		if w.rng.IntN(5) == 0 && c.state == alive {
			w.race(ctx, c)
		} else {
			w.redeemed(c, w.redeem(ctx, c))
		}
		if c.state == dead || time.Now().After(c.until) {
			w.codes = append(w.codes[:i], w.codes[i+1:]...)
		}
		return
	}
}

func (c *client) redeem(ctx context.Context, of *code) reply {
	if of.app.lasting {
		return c.send(ctx, request{what: "exchange", of: of.value, method: "POST", path: "/oauth2/" + of.app.id + "/exchange", want: 200,
			form: url.Values{"code": {of.value}, "code_verifier": {verifier}}, header: map[string]string{"X-Client-Secret": of.app.secret}})
	}
	redirect := callback
	if of.app.guests {
		redirect = outOfBand
	}
	return c.send(ctx, request{what: "redeem", of: of.value, method: "POST", path: "/oauth/token", want: 200,
		form: url.Values{"grant_type": {"authorization_code"}, "client_id": {of.app.id}, "code": {of.value}, "code_verifier": {verifier}, "redirect_uri": {redirect}}})
}

// redeemed draws the conclusions from an answer to a redemption.
func (w *worker) redeemed(c *code, r reply) *key {
	switch r.outcome {
	case acknowledged:
		if c.state == dead {
			w.violation("the code %s was redeemed twice", c.value)
		}
		c.state = dead
		return w.keep(c, r)
	case refused:
		if c.state == alive && r.end.Before(c.until) && !c.shaky && (c.grant == nil || c.grant.state == alive) {
			w.violation("the code %s was acknowledged and is refused: %d %s", c.value, r.status, r.body)
		}
		c.state = dead
	case unknown:
		if c.state == alive {
			c.state = unsure
		}
	}
	return nil
}

// keep adds the key of an answer.
func (w *worker) keep(c *code, r reply) *key {
	k := &key{app: c.app, access: r.text("access_token"), refresh: r.text("refresh_token")}
	if c.app.lasting {
		k.access = r.text("data")
	}
	id := claim(k.access, "grant_id")
	if id == "" {
		w.violation("the code %s gave no key: %s", c.value, r.body)
		return nil
	}
	if k.grant = w.grants[id]; k.grant == nil {
		k.grant = &grant{id: id}
		w.grants[id] = k.grant
	}
	switch {
	case k.grant.state == dead:
		w.violation("the grant %s had ended and gave a key", id)
	case c.grant != nil && c.grant != k.grant && c.grant.state == alive:
		w.violation("the grant %s was acknowledged, and %s is in its place", c.grant.id, id)
	}
	if c.app.lasting && k.grant.state == alive {
		w.held = k.grant
		for _, other := range w.codes {
			if other.app == c.app && other.grant == nil && !other.shaky {
				other.grant = k.grant
			}
		}
	}
	w.keys = append(w.keys, k)
	return k
}

// race redeems a code twice at once. A replay revokes what the code issued, at
// once; only of an exchange it is taken for a network retry at first.
func (w *worker) race(ctx context.Context, c *code) {
	var replies [2]reply
	var both sync.WaitGroup
	for i := range replies {
		other := w.fork()
		both.Go(func() { replies[i] = other.redeem(ctx, c) })
	}
	both.Wait()
	first, second := replies[0], replies[1]
	if second.outcome == acknowledged || first.outcome == refused && second.outcome != refused {
		first, second = second, first
	}
	if first.outcome == refused && second.outcome == refused {
		w.redeemed(c, first)
		return
	}
	k := w.redeemed(c, first)
	switch second.outcome {
	case acknowledged:
		w.violation("the code %s was redeemed twice at once", c.value)
	case unknown:
		if k != nil && (!c.app.lasting || second.end.Sub(first.sent) > replayGrace) {
			k.state = unsure
		}
		if c.state == alive {
			c.state = unsure
		}
	case refused:
		switch {
		case k == nil: // the other one took it, or not
			c.state = unsure
		case !c.app.lasting:
			k.state = dead
		case second.end.Sub(first.sent) > replayGrace:
			k.state = unsure
		}
	}
}

// rotate refreshes a chain.
func (w *worker) rotate(ctx context.Context, k *key) {
	r := w.send(ctx, request{what: "refresh", of: k.refresh, method: "POST", path: "/oauth/token", want: 200,
		form: url.Values{"grant_type": {"refresh_token"}, "client_id": {k.app.id}, "refresh_token": {k.refresh}}})
	switch r.outcome {
	case acknowledged:
		if k.expected() == dead {
			w.violation("the chain %s had ended and was refreshed", k.refresh)
		}
		k.access, k.refresh, k.lost = r.text("access_token"), r.text("refresh_token"), time.Time{}
	case refused:
		late := !k.lost.IsZero() && r.end.Sub(k.lost) > rotateGrace
		if k.expected() == alive && !late {
			w.violation("the refresh token %s was acknowledged and is refused: %d %s", k.refresh, r.status, r.body)
		}
		if late && k.state == alive { // taken for a replay: the family has ended
			k.state = unsure
		}
	case unknown:
		if k.lost.IsZero() {
			k.lost = r.sent
		}
	}
}

// revoke ends a key at the revocation endpoint.
func (w *worker) revoke(ctx context.Context, k *key) {
	form := url.Values{"token": {k.access}}
	if k.app.secret == "" {
		form.Set("client_id", k.app.id)
	}
	r := w.send(ctx, request{what: "revoke", of: k.access, method: "POST", path: "/oauth/revoke", want: 200, form: form, header: basic(k.app)})
	w.conclude(&k.state, r, "the revocation of "+k.access)
}

// conclude draws the conclusions from an answer to a request that ends something.
func (w *worker) conclude(s *state, r reply, what string) {
	switch r.outcome {
	case acknowledged:
		*s = dead
	case unknown:
		if *s == alive {
			*s = unsure
		}
	case refused:
		w.violation("%s was refused: %d %s", what, r.status, r.body)
	}
}

// revokeGrant ends a grant on the page of connected apps.
func (w *worker) revokeGrant(ctx context.Context) {
	k := w.some(func(k *key) bool { return !k.app.guests && k.grant.id != "" })
	if k == nil {
		return
	}
	r := w.send(ctx, request{what: "revoke grant", of: k.grant.id, method: "POST", path: "/connected-apps/revoke", cookie: w.session,
		form: url.Values{"grant": {k.grant.id}}, want: http.StatusSeeOther, page: true})
	switch to := r.header.Get("Location"); {
	case r.outcome == acknowledged && strings.HasPrefix(to, "/sign-in"):
		w.violation("signed out without having asked for it")
	case r.outcome == acknowledged && strings.Contains(to, "done=gone") && k.grant.state == alive:
		w.violation("the grant %s was acknowledged and is gone", k.grant.id)
	case r.outcome == acknowledged:
		k.grant.state = dead
	default:
		w.conclude(&k.grant.state, r, "the revocation of the grant "+k.grant.id)
	}
}

// introspect asks whether a key is alive, and holds the answer against what is known.
func (w *worker) introspect(ctx context.Context, k *key) reply {
	r := w.send(ctx, request{what: "introspect", of: k.access, method: "POST", path: "/oauth/introspect", want: 200,
		form: url.Values{"token": {k.access}}, header: basic(&w.site.api)})
	if r.outcome == refused {
		w.violation("the API's secret was acknowledged and is refused: %d %s", r.status, r.body)
	}
	if r.outcome != acknowledged {
		return r
	}
	active, said := r.doc["active"].(bool)
	switch expected := k.expected(); {
	case !said:
		w.violation("introspection says neither active nor not: %s", r.body)
	case active && expected == dead:
		w.violation("the key %s has ended and is active", k.access)
	case !active && expected == alive:
		w.violation("the key %s was acknowledged and is not active", k.access)
	case !active:
		k.state = dead // for good
	}
	return r
}

func (w *worker) signIn(ctx context.Context) {
	r := w.send(ctx, request{what: "sign-in", of: w.who.id, method: "POST", path: "/sign-in", page: true,
		form: url.Values{"email": {w.who.email}, "password": {password}}, want: http.StatusSeeOther})
	if r.outcome == refused {
		w.violation("%s cannot sign in: %d", w.who.id, r.status)
	}
	if r.outcome != acknowledged {
		return
	}
	for _, c := range (&http.Response{Header: r.header}).Cookies() {
		if c.Name == w.site.cookie("").Name {
			w.session, w.state = c.Value, alive
		}
	}
	if w.state != alive {
		w.violation("signed in without a cookie")
	}
}

func (w *worker) signOut(ctx context.Context) {
	r := w.send(ctx, request{what: "sign-out", of: w.who.id, method: "POST", path: "/sign-out", cookie: w.session, form: url.Values{}, want: http.StatusSeeOther, page: true})
	w.conclude(&w.state, r, "the sign-out")
	if r.outcome == acknowledged {
		w.ended = w.session
	}
}

// look opens the list of connected apps, with the session that should work and with
// one that has ended.
func (w *worker) look(ctx context.Context) {
	open := func(cookie string) reply {
		return w.send(ctx, request{what: "connected apps", of: w.who.id, method: "GET", path: "/connected-apps", cookie: cookie, want: 200, page: true})
	}
	if r := open(w.session); r.outcome == refused && w.state == alive {
		w.violation("the session of %s was acknowledged and is over: %d", w.who.id, r.status)
	}
	if w.ended == "" {
		return
	}
	if r := open(w.ended); r.outcome == acknowledged {
		w.violation("a session of %s that was signed out is alive", w.who.id)
	}
}

func basic(a *app) map[string]string {
	if a.secret == "" {
		return nil
	}
	return map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte(a.id+":"+a.secret))}
}

// claim reads a claim that is text, of a key, without checking it.
func claim(token, name string) string {
	s, _ := claimOf(token, name).(string)
	return s
}

func claimOf(token, name string) any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims map[string]any
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	return claims[name]
}
