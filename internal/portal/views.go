package portal

import (
	"hash/fnv"
	"html/template"
	"slices"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// What the templates of the customer's pages receive. Times are UTC; Problem, Reason, Why and the like are message ids.

// appView is an app as its users meet it. Until the operator has verified it, all of it is the developer's claim.
type appView struct {
	Name     string
	Host     string // of its home page
	Badge    string // verified, unverified, own (the operator's), suspended; "" for none
	Initials string
	Colour   int // 0–7, by id: the same on every page
}

func newAppView(id, name, host, badge string) appView {
	h := fnv.New32a()
	h.Write([]byte(id))
	return appView{clean(name), clean(host), badge, initials(name), int(h.Sum32() % 8)}
}

// signView is sign-in and sign-up.
type signView struct {
	Next    string // the page of ours to go on to: an authorization request, perhaps
	Invite  string // sign-up: the secret of an operator's link
	Other   string // link to the other one of the two pages
	App     string // who is waiting, if somebody is
	Why     string // a message: why sign-in comes up
	Email   string
	Problem string            // about the whole form
	Minutes int               // until it is worth another try, if it is not now
	Errors  map[string]string // by field
}

// scopeView is one permission in words.
type scopeView struct {
	Name     string
	Sentence string
	Risks    []string // money, customers, deletion; anything else is marked "sensitive"
	Ticked   bool     // optional ones
	Partly   bool     // optional ones: the app has it in some stores
}

// scopeGroup is a resource with many permissions, folded.
type scopeGroup struct {
	Name   string
	Risks  []string
	Scopes []scopeView
}

// scopeSection is what an app may see, or what it may change.
type scopeSection struct {
	Verb   string // see, change
	Scopes []scopeView
	Groups []scopeGroup
}

// groupFrom is the number of permissions from which a section folds into groups: more than this is not read.
const groupFrom = 9

// askedScope is a scope before it is put in its section.
type askedScope struct {
	scopeView
	Group  string
	Change bool
}

// sections puts scopes under "see" and "change", and folds a long section into its groups, in the catalogue's order.
func sections(scopes []askedScope) []scopeSection {
	var out []scopeSection
	for _, verb := range []string{"see", "change"} {
		s := scopeSection{Verb: verb}
		for _, scope := range scopes {
			if scope.Change == (verb == "change") {
				s.Scopes = append(s.Scopes, scope.scopeView)
			}
		}
		if len(s.Scopes) >= groupFrom {
			s.Scopes = nil
			for _, scope := range scopes {
				if scope.Change != (verb == "change") {
					continue
				}
				i := slices.IndexFunc(s.Groups, func(g scopeGroup) bool { return g.Name == scope.Group })
				if i < 0 {
					i = len(s.Groups)
					s.Groups = append(s.Groups, scopeGroup{Name: scope.Group})
				}
				g := &s.Groups[i]
				g.Scopes = append(g.Scopes, scope.scopeView)
				for _, risk := range scope.Risks {
					if !slices.Contains(g.Risks, risk) {
						g.Risks = append(g.Risks, risk)
					}
				}
			}
		}
		if len(s.Scopes)+len(s.Groups) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// consentView is the question an app puts to a customer.
type consentView struct {
	App       appView
	Request   string // sealed
	Next      string // the page of ours that asks this again, should the sign-in end meanwhile
	Of        string // formFor
	Account   string // e-mail of who is signed in
	Picker    *picker
	Sections  []scopeSection // required; on a repeat visit only what is new
	Optional  []scopeView
	Held      []scopeSection // what the app may do already
	HeldCount int
	Host      string // where the browser goes next
	Days      int    // life of the access; 0 until revoked
	Privacy   string // URLs of the app's papers
	Terms     string
	Problem   string
}

// noStoresView is for a customer who has no store that an app could be given.
type noStoresView struct {
	App     appView
	Request string
	Next    string
	Account string
	Stores  []storeRow // those there are, each with the reason
}

// returningView hands the browser back to the app.
type returningView struct {
	App     appView
	Refusal string // why the app gets nothing; "" when it does
	Host    string
	Target  template.URL // a validated redirect
}

// alreadyView answers a form that was sent again after the app has taken its key.
type alreadyView struct{ App appView }

// expiredView is for a request that cannot be taken up again.
type expiredView struct {
	Why  string // expired: too old, or never ours; answered: allowed, and ended since
	App  string // "" when it cannot be read any more
	Home string // the app's home page
}

// refusedView is a request that cannot go on and must not be sent back.
type refusedView struct {
	App     string
	Why     string
	Compare *comparison
	Detail  string // for the developer: what the request got wrong, a message about Param
	Param   string
	SignIn  string // where the developer signs in, to see it
}

// lostView is for an address where there is nothing for who opened it.
type lostView struct {
	Account string // who is signed in, if anybody is
	Next    string // the address, to come back to as somebody else
}

// noticeBody is a page that says one thing.
type noticeBody struct {
	Heading, What string
	Link, Label   string
}

var failedView = noticeBody{Heading: "failed.heading", What: "failed.what"}

// connectedView is the list of apps that hold access.
type connectedView struct {
	Done   *doneView // what the last press did
	Apps   []connectedApp
	Pager  pagerView
	Others bool // other people connected apps to stores of the visitor
}

// doneView says what was done; ID is the message.
type doneView struct {
	ID, App, Store string
	Lines          []doneLine
}

type doneLine struct{ ID, Store, What string }

// changeView is a connection that its user changes: all of it, or what the app may do in one store.
type changeView struct {
	App         appView
	Grant, Rev  string
	Of          string // formFor
	Only, Store string // the one store, by id and name
	Problem     string
	Picker      *picker
	NoStore     bool           // something is left without a store, so that every one may be unticked
	Optional    []scopeView    // what can be taken away
	Mixed       []mixedScope   // what holds in some stores
	Fixed       []scopeSection // what the app always needs
	Each, More  []storeChip    // stores that have a page of their own
}

// mixedScope is a scope that the app has in some of its stores. Choice is "every", "stay" or "none".
type mixedScope struct {
	scopeView
	Field    string
	In, Of   int
	Required bool // it cannot be taken away
	Gone     bool // it cannot be given
	Choice   string
}

// othersView lists what other people connected to the stores of their owner.
type othersView struct {
	Done   *doneView
	Stores []othersStore
	Pager  pagerView
}

type othersStore struct {
	Name, Domain string
	Apps         []othersApp
}

// othersApp is an app in one store, as somebody else connected it.
type othersApp struct {
	Grant, Store string // ids
	App          appView
	Person       string // "" when no name is known
	Since        time.Time
	Sections     []scopeSection
	Paused       bool
}

// othersRemoveView asks before an owner takes a store from somebody else's app.
type othersRemoveView struct {
	othersApp
	StoreName string
}

type connectedApp struct {
	Grant     string
	App       appView
	Stores    []storeChip
	More      []storeChip // those beyond the first few, folded
	Rest      int         // how many there are beyond those, told of only
	Alone     bool        // the only store, and nothing beside it: removing it would be revoking
	AllStores bool        // also those that come later
	But       bool        // some of them were taken out
	Sections  []scopeSection
	Since     time.Time
	LastUsed  time.Time // zero when never
	Stale     bool      // not used for 90 days
	Keys      int       // keys that work now
	Paused    bool
}

type storeChip struct{ ID, Name string }

const chipsShown = 8

// Folded is how many stores stand behind the disclosure or beyond it.
func (a connectedApp) Folded() int { return len(a.More) + a.Rest }

// chipsMost bounds how many stores of an app stand on the page of all apps, each with a form of its own: of somebody
// with thousands of stores it would be megabytes an app.
const chipsMost = 100

// fold shows the first few stores, keeps more of them behind a disclosure, and counts the rest, which stand where the
// connection is changed.
func (a *connectedApp) fold() {
	if n := len(a.Stores); n > chipsMost {
		a.Stores, a.Rest = a.Stores[:chipsMost], n-chipsMost
	}
	if len(a.Stores) > chipsShown {
		a.Stores, a.More = a.Stores[:chipsShown], a.Stores[chipsShown:]
	}
}

// returningPage is the one way out of this origin. The target is a Redirect, which only matching against a registration
// builds; it may have any registered scheme, which is why the template does not filter it.
func returningPage(app appView, back oauth.Redirect, wait int) page {
	target := template.URL(back.URL())
	return page{
		Name: "returning", TitleOf: []any{"App", app.Name}, Frame: framePlain, NoSender: true, Refresh: target, Wait: wait,
		Body: returningView{App: app, Refusal: refusalMessage(back.Refusal()), Host: back.Host(), Target: target},
	}
}

// refusalMessage is what the visitor reads of an error that the app is told.
func refusalMessage(e *oauth.Error) string {
	switch {
	case e == nil:
		return ""
	case e.Reason == oauth.UserDenied:
		return "returning.refused"
	}
	return "returning.wrong"
}
