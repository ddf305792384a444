package oauth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// Consent is what is put before a user: who asks, for what, and what he has to
// choose from.
type Consent struct {
	Request    *AuthorizationRequest // to be sealed into the form: it holds what is shown now
	Changed    bool                  // what is shown now is not what was shown before
	Client     *Client
	User       *User
	Redirect   Redirect // where the browser goes next
	Stores     []StoreChoice
	Scopes     []ScopeChoice
	NeedsStore bool // a store must be chosen, unless every optional store scope is declined
	Repeat     bool // the app is connected already: choices show what it has
	AllStores  bool // it has all stores, also future ones
	Lasting    bool // the key works until it is revoked
}

// StoreChoice is one store on the consent page.
type StoreChoice struct {
	Membership
	May    bool // false: the user may not connect apps to it
	Ticked bool
	Stays  bool // the app has it, and nothing that the user ticks is about it
}

// ScopeChoice is one scope on the consent page.
type ScopeChoice struct {
	Scope
	Required bool
	Held     bool // granted before: on the account, or in every store that it has
	Partly   bool // granted before in some of the stores
}

// Delegable returns the stores that may be ticked.
func (c *Consent) Delegable() int {
	n := 0
	for _, s := range c.Stores {
		if s.May {
			n++
		}
	}
	return n
}

// Ask prepares the consent of a user. If the app authenticates, is standard, and
// has everything already that it asks for, the second result is where to go at
// once (DESIGN, decision 1), if it is to the host to which the user last let it go:
// whoever takes over a developer's account does not get his users' codes unseen
// (attack B10). A profile whose keys do not expire always asks. Asked are
// also who was shown a page of this request, and who has gone there unasked as often as
// he may: what he presses is counted apart, and no website can press it.
func (s *Server) Ask(ctx context.Context, r *AuthorizationRequest, userID string, authTime time.Time) (*Consent, Redirect, error) {
	c, redirect, err := s.reopen(ctx, r)
	if err != nil {
		return nil, Redirect{}, err
	}
	if c.profile().Guest {
		return nil, Redirect{}, refuse(ProfileMismatch)
	}
	user, err := s.activeUser(ctx, userID)
	if err != nil {
		return nil, Redirect{}, err
	}
	members, err := s.storage.Memberships(ctx, userID)
	if err != nil {
		return nil, Redirect{}, err
	}
	held, err := s.held(ctx, c, userID)
	if err != nil {
		return nil, Redirect{}, err
	}
	asked := s.asked(c, r)
	stores, _ := s.catalogue.split(asked)
	now := *r
	now.Shown, now.Paged = s.shown(c, r), true
	if held != nil && !r.Paged && c.profile().Remembers && held.Grant.Status == Live && held.Grant.Host == redirect.place() && held.covers(asked) {
		back, err := s.decide(ctx, r, c, redirect, user, held, decided{unchanged: true, approved: asked, authTime: authTime})
		if !errors.Is(err, &Error{Reason: DecidedTooOften}) {
			return nil, back, err
		}
	}
	if held != nil && held.Grant.Status == Pending {
		held = nil // allowed once, but never taken up: nothing is connected yet
	}
	q := &Consent{Request: &now, Changed: !bytes.Equal(now.Shown, r.Shown), Client: c, User: user, Redirect: redirect, NeedsStore: len(stores) > 0, Repeat: held != nil, AllStores: held != nil && held.Grant.AllStores, Lasting: c.profile().Lasting}
	for _, m := range members {
		if m.StoreStatus != Active {
			continue
		}
		choice := StoreChoice{Membership: m, May: m.MayDelegate}
		if held != nil && held.Grant.has(m.StoreID) {
			choice.Ticked, choice.Stays = choice.May, !choice.May && !held.Grant.AllStores
		}
		q.Stores = append(q.Stores, choice)
	}
	if held == nil && q.Delegable() == 1 { // one store: shown and chosen
		for i := range q.Stores {
			q.Stores[i].Ticked = q.Stores[i].May
		}
	}
	for _, choice := range s.choices(c, r) {
		if held != nil {
			choice.Held = held.Grant.holds(choice.Name)
			choice.Partly = !choice.Held && slices.ContainsFunc(held.Grant.Stores, func(x GrantStore) bool { return held.Grant.ScopesIn(x.StoreID).Has(choice.Name) })
		}
		q.Scopes = append(q.Scopes, choice)
	}
	return q, Redirect{}, nil
}

// choices are the scopes that a request asks for, in the catalogue's order.
func (s *Server) choices(c *Client, r *AuthorizationRequest) (list []ScopeChoice) {
	asked, required := s.asked(c, r), c.required()
	for _, sc := range s.catalogue.Scopes {
		if asked.Has(sc.Name) {
			list = append(list, ScopeChoice{Scope: sc, Required: required.Has(sc.Name)})
		}
	}
	return list
}

// shown is the digest of what a user reads before he allows a request (attack B2):
// who asks, by name, home, papers and badge, and for what, in which words, and what of
// it he cannot decline. Where the browser goes stands in the request itself. Stores are
// not in it: none is connected but those that he ticks, and each of these is checked
// when he does.
func (s *Server) shown(c *Client, r *AuthorizationRequest) Hash {
	// Texts and lists of them: this cannot fail.
	text, _ := json.Marshal([]any{c.Name, c.Settings.Homepage, c.Settings.Privacy, c.Settings.Terms, c.Settings.Verified, s.choices(c, r)})
	sum := sha256.Sum256(text)
	return sum[:]
}

// asked is what the request asks for: everything registered, or the subset that
// it named. A scope that left the catalogue cannot be asked for.
func (s *Server) asked(c *Client, r *AuthorizationRequest) ScopeSet {
	all := c.ScopeSet()
	if r.Scope != nil {
		all = all.And(r.Scope)
	}
	store, account := s.catalogue.split(all)
	return store.Or(account)
}

// held reads what an authenticating app has already of this user, or nil. What
// was granted to a public app never counts: anybody could be asking in its name.
func (s *Server) held(ctx context.Context, c *Client, userID string) (*Standing, error) {
	if c.Type != Confidential {
		return nil, nil
	}
	id, err := s.storage.DefaultGrant(ctx, userID, c.ID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, err := s.storage.Standing(ctx, id)
	if err != nil || st.Grant.Status == GrantIsRevoked {
		return nil, err
	}
	return st, nil
}

// covers reports whether every asked scope holds now, store scopes in every store
// of the grant that its user decides about. A store that is paused, that he has left or
// that he may connect nothing to is not his to tick: a page would come up again and
// again, and change nothing. Where the grant has no other, all count.
func (s *Standing) covers(asked ScopeSet) bool {
	rights := s.rights()
	if rights.empty() {
		return false
	}
	his := Rights{Account: rights.Account, Stores: map[string]ScopeSet{}}
	for _, m := range s.Members {
		if !m.offered() || !s.Grant.has(m.StoreID) {
			continue
		}
		switch set := rights.Stores[m.StoreID]; {
		case set != nil:
			his.Stores[m.StoreID] = set
		case !s.Grant.AllStores:
			return false
		}
	}
	if len(his.Stores) == 0 {
		his = rights
	}
	return his.Flat().Contains(asked)
}

func (s *Server) activeUser(ctx context.Context, id string) (*User, error) {
	u, err := s.storage.User(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, refuse(NotSignedIn)
	case err != nil:
		return nil, err
	case u.Status != Active || u.Kind == Guest:
		return nil, refuse(UserSuspended)
	}
	return u, nil
}

// Decision is what a user pressed and ticked. Ids come from a form: none is
// trusted.
type Decision struct {
	Allow     bool
	Stores    []string
	AllStores bool     // also stores that come later
	Except    []string // with AllStores: those that were shown without a tick, to be left out
	Scopes    []string // the optional ones that were ticked
	AuthTime  time.Time
}

// Decide carries out a user's decision on a request that [Server.Open] returned
// for his session, and returns where the browser goes with it. Errors of code
// [Incorrect] are the user's to mend on the same page; Changed says that there is
// another page to read, because the app is not what he was shown (attack B2);
// RequestSpent says that the app is connected already, RequestOver that it was.
// Pressing Allow twice gives a second code of the same deadline, and the first is void.
func (s *Server) Decide(ctx context.Context, userID string, r *AuthorizationRequest, d Decision) (Redirect, error) {
	c, redirect, err := s.reopen(ctx, r)
	if err != nil {
		return Redirect{}, err
	}
	if c.profile().Guest {
		return Redirect{}, refuse(ProfileMismatch)
	}
	user, err := s.activeUser(ctx, userID)
	if err != nil {
		return Redirect{}, err
	}
	if !d.Allow {
		return s.deny(ctx, r, c, redirect, user)
	}
	// Somebody else's edit between our read and our write, of the grant or of the app,
	// is seen as a lost guard: read again, decide again.
	for range 5 {
		if !bytes.Equal(s.shown(c, r), r.Shown) {
			return Redirect{}, refuse(Changed)
		}
		held, err := s.held(ctx, c, userID)
		if err != nil {
			return Redirect{}, err
		}
		choice, err := s.choice(ctx, r, c, userID, held, d)
		if err != nil {
			return Redirect{}, err
		}
		if held == nil {
			held, err = s.grantOfRequest(ctx, r)
			if err != nil {
				return Redirect{}, err
			}
		}
		back, err := s.decide(ctx, r, c, redirect, user, held, choice)
		if !errors.Is(err, &Error{Reason: Changed}) {
			return back, err
		}
		if c, redirect, err = s.reopen(ctx, r); err != nil {
			return Redirect{}, err
		}
	}
	return Redirect{}, refuse(Changed)
}

// choice checks a decision against the app, the grant that it changes, if there is
// one, and the user's stores. What the app has already it has not to be given again.
func (s *Server) choice(ctx context.Context, r *AuthorizationRequest, c *Client, userID string, held *Standing, d Decision) (decided, error) {
	asked, required := s.asked(c, r), c.required()
	choice := decided{stores: Scopes(d.Stores...), all: d.AllStores, authTime: d.AuthTime}
	except := setOf(d.Except)
	for _, id := range d.Stores {
		delete(except, id)
	}
	if held != nil && held.Grant.Status != Pending {
		choice.held = asked.filter(held.Grant.holds)
	}
	given := asked.filter(func(name string) bool { return required.Has(name) || slices.Contains(d.Scopes, name) })
	choice.approved = given.Or(choice.held)
	storeScopes, _ := s.catalogue.split(given)
	askedStores, _ := s.catalogue.split(asked)
	choice.aboutStores = len(askedStores) > 0
	if len(choice.approved) == 0 {
		return decided{}, refuse(NothingToGrant)
	}
	if !choice.aboutStores {
		choice.stores, choice.all = nil, false
		return choice, nil
	}
	members, err := s.storage.Memberships(ctx, userID)
	if err != nil {
		return decided{}, err
	}
	for _, m := range members {
		if m.offered() {
			choice.offered = append(choice.offered, m.StoreID)
		}
		if choice.all && except[m.StoreID] {
			choice.except = append(choice.except, m.StoreID)
		}
	}
	// Who declines all that is about stores may untick them all, or leave those ticked
	// that have something already.
	if len(storeScopes) > 0 || len(choice.stores) > 0 || choice.all {
		if e := choice.checkStores(); e != nil {
			return decided{}, e
		}
	}
	return choice, nil
}

// checkStores compares posted ids with those that could be ticked at this moment.
// Foreign ids are refused, not dropped (attack B3).
func (d *decided) checkStores() *Error {
	switch may := setOf(d.offered); {
	case len(may) == 0:
		return refuse(NothingToGrant)
	case len(d.stores) == 0 && !d.all:
		return refuse(StoreNone)
	case slices.ContainsFunc(d.stores, func(id string) bool { return !may[id] }):
		return refuse(StoreForeign)
	}
	return nil
}

func setOf(ids []string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// decided is a decision after all checks that need no guard.
type decided struct {
	unchanged bool // nobody was asked: the grant covers the request already
	approved  ScopeSet
	held      ScopeSet // those of approved that the app had already, so that nobody was asked
	stores    []string
	all       bool
	except    []string // of all
	authTime  time.Time

	aboutStores bool     // the request asked for something in stores
	offered     []string // stores that could be ticked
}

// requestGrant is the id of the grant that a request makes, so that a second Allow
// meets the same row.
func requestGrant(r *AuthorizationRequest) string { return "gr_" + strings.TrimPrefix(r.ID, "rq_") }

// grantOfRequest reads the grant that this request has made already, or nil. One
// that was revoked since stays revoked: the app has to ask anew.
func (s *Server) grantOfRequest(ctx context.Context, r *AuthorizationRequest) (*Standing, error) {
	st, err := s.storage.Standing(ctx, requestGrant(r))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err == nil && st.Grant.Status == GrantIsRevoked:
		return nil, refuse(RequestOver)
	}
	return st, err
}

// decide writes one decision: grant, code and event together. It returns Changed
// if it lost against another write.
func (s *Server) decide(ctx context.Context, r *AuthorizationRequest, c *Client, redirect Redirect, u *User, held *Standing, d decided) (Redirect, error) {
	if err := s.unspent(ctx, r); err != nil {
		return Redirect{}, err
	}
	code, err := s.newArtefact()
	if err != nil {
		return Redirect{}, err
	}
	now := s.now()
	rec := DecisionRecord{Now: now, ClientVersion: c.Version, Unchanged: d.unchanged, Unasked: d.unchanged, Of: s.allowance(u, c, d.unchanged)}
	kind := EventGrantEdited
	switch {
	case held == nil:
		rec.Create, kind = true, EventGrantMade
		rec.Grant = Grant{ID: requestGrant(r), UserID: u.ID, ClientID: c.ID, Default: c.Type == Confidential, Status: Pending, Rev: 1, Created: now}
		s.merge(&rec.Grant, d)
	case d.unchanged:
		kind = EventCodeIssued
		rec.Grant, rec.Rev = held.Grant, held.Grant.Rev
	default:
		rec.Grant, rec.Rev = held.Grant, held.Grant.Rev
		if held.Grant.Status == Pending { // nothing came of what was decided before
			rec.Grant.Account, rec.Grant.Scopes, rec.Grant.Stores, rec.Grant.AllStores = nil, nil, nil, false
		}
		s.merge(&rec.Grant, d)
		// Who allows again what is allowed wants another key, and the ones that are out
		// need not be asked about for it.
		if held.Grant.Status != GrantOnHold && rec.Grant.same(&held.Grant) {
			rec.Grant, rec.Unchanged, kind = held.Grant, true, EventCodeIssued
		}
	}
	rec.Grant.Host = redirect.place()
	for _, id := range d.stores {
		if held == nil || !held.Grant.has(id) {
			rec.Connecting = append(rec.Connecting, id)
		}
	}
	rec.Code = StoredCode{
		Selector: code.Selector, Hash: HashOf(code.Secret), Request: r.ID, ClientID: c.ID, GrantID: rec.Grant.ID, Profile: c.Profile, API: s.api.ID,
		Redirect: r.RedirectURI, RedirectSent: r.RedirectSent, Challenge: r.Challenge, Nonce: r.Nonce, AuthTime: d.authTime, Expires: now.Add(CodeLife),
	}
	if r.Scope != nil {
		rec.Code.Narrowing = d.approved
	}
	// What was shown stands in the event, so that a dispute can be settled.
	shown := map[string]any{
		"request": r.ID, "app": c.Name, "host": redirect.Host(), "asked": s.asked(c, r), "offered": d.offered[:min(len(d.offered), 100)],
		"held": d.held, "approved": d.approved, "stores": d.stores, "all_stores": d.all, "except": d.except,
	}
	if kind == EventGrantEdited {
		shown["after"] = afterOf(&rec.Grant)
	}
	if rec.Event, err = s.NewEvent(ctx, kind, Actor{AsUser, u.ID}, shown); err != nil {
		return Redirect{}, err
	}
	rec.Event.ClientID, rec.Event.UserID, rec.Event.GrantID = c.ID, u.ID, rec.Grant.ID
	won, err := s.storage.RecordDecision(ctx, rec)
	switch {
	case err != nil:
		return Redirect{}, err
	case !won:
		return Redirect{}, s.whyNotDecided(ctx, rec.Of)
	}
	if held != nil {
		s.makeRoom(ctx, &rec.Grant)
	}
	back := redirect.with("code", code.Secret.Reveal(), "state", r.State, "iss", s.issFor(c))
	return back, nil
}

// unspent refuses a request whose code was redeemed or has run out.
func (s *Server) unspent(ctx context.Context, r *AuthorizationRequest) error {
	code, err := s.storage.CodeOfRequest(ctx, r.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	case code.RedeemedFamily != "":
		return s.cameOf(ctx, code)
	case !s.now().Before(code.Expires):
		return refuse(RequestExpired)
	}
	return nil
}

// taken refuses a request of which something came.
func (s *Server) taken(ctx context.Context, r *AuthorizationRequest) error {
	code, err := s.storage.CodeOfRequest(ctx, r.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return s.cameOf(ctx, code)
}

// cameOf says what came of an Allow: the app is connected, or was, and then only a new
// request can connect it again. It returns nil if nothing came of it.
func (s *Server) cameOf(ctx context.Context, code *StoredCode) error {
	st, err := s.storage.Standing(ctx, code.GrantID)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && (st.Grant.Status == Live || st.Grant.Status == GrantOnHold):
		return refuse(RequestSpent)
	case code.RedeemedFamily != "":
		return refuse(RequestOver)
	}
	return nil
}

// merge applies a decision to a grant (DESIGN, decision 1): a store that stays
// ticked keeps its scopes and gains those approved now, a newly ticked one gets
// only those approved now, an unticked one leaves, be it out of "all". What could not be
// ticked stays as it is, unless it was one of "all" and is not any more.
func (s *Server) merge(g *Grant, d decided) {
	stores, account := s.catalogue.split(d.approved)
	g.Account = g.Account.Or(account)
	if !d.aboutStores {
		return // what is connected stays
	}
	before, offered, ticked, except := *g, setOf(d.offered), setOf(d.stores), setOf(d.except)
	g.Scopes, g.Stores, g.AllStores = stores, nil, d.all && (before.AllStores || len(stores) > 0)
	for _, st := range before.Stores {
		set := append(ScopeSet{}, before.ScopesIn(st.StoreID)...)
		if !offered[st.StoreID] && !except[st.StoreID] && (g.AllStores || !before.AllStores && len(set) > 0) {
			g.Stores = append(g.Stores, GrantStore{st.StoreID, set})
		}
	}
	keep := func(id string) {
		// Who ticks again what he took out of "all", and allows nothing now, gives nothing.
		if set := before.ScopesIn(id).Or(stores); len(set) > 0 || g.AllStores {
			g.Stores = append(g.Stores, GrantStore{id, append(ScopeSet{}, set...)})
		}
	}
	if d.all {
		if before.AllStores {
			g.Scopes = before.Scopes.Or(stores)
		}
		out := slices.Clone(d.except)
		for _, st := range before.Stores {
			switch {
			case !offered[st.StoreID] || except[st.StoreID]:
			case before.AllStores && !before.has(st.StoreID) && !ticked[st.StoreID]:
				out = append(out, st.StoreID)
			default:
				keep(st.StoreID)
			}
		}
		if g.AllStores {
			for _, id := range out {
				g.Stores = append(g.Stores, GrantStore{id, ScopeSet{}})
			}
		}
		return
	}
	for _, id := range d.stores {
		keep(id)
	}
	g.normalise()
}

// deny tells the app, and takes back an Allow of which nothing has come. One that has
// taken effect stands, also one that changed what a connected app may do and whose code
// is still out: what was allowed holds from the moment it was, so "you allowed nothing"
// would not be true (attack B12).
func (s *Server) deny(ctx context.Context, r *AuthorizationRequest, c *Client, redirect Redirect, u *User) (Redirect, error) {
	e, err := s.NewEvent(ctx, EventConsentDenied, Actor{AsUser, u.ID}, map[string]string{"request": r.ID})
	if err != nil {
		return Redirect{}, err
	}
	e.ClientID, e.UserID = c.ID, u.ID
	of := s.allowance(u, c, false)
	won, err := s.storage.NoteDenial(ctx, of, r.ID, e)
	switch {
	case err != nil:
		return Redirect{}, err
	case !won:
		if err := s.taken(ctx, r); err != nil {
			return Redirect{}, err
		}
		return Redirect{}, s.whyNotDecided(ctx, of)
	}
	return s.back(c, redirect, r.State, refuse(UserDenied)), nil
}
