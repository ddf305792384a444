package portal

import (
	"strconv"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// What the templates of the developer's pages receive. Times are UTC; labels, problems and results are message ids.

// railView is the menu beside the pages of developers and operators.
type railView struct {
	Label string
	App   *appView // the app that the page is about
	Items []railItem
}

type railItem struct {
	Href, Label string
	Current     bool
}

// pagerView leads through a list; "" for no link.
type pagerView struct{ Newer, Older string }

// resultView says what the last press did; ID is the message, Of the app, person or thing that it was done to.
type resultView struct{ Kind, ID, Of string }

// copyView is an id or a piece of code with a button that copies it. Label names it for those who cannot see it.
type copyView struct{ ID, Text, Label string }

// appsView is "My apps".
type appsView struct {
	Rail   railView
	Result *resultView
	Apps   []appRow
	Pager  pagerView
}

type appRow struct {
	ID, Href    string
	App         appView
	Type        string
	Status      oauth.Status
	Created     time.Time
	Connections int
}

// Kinds of apps, as the form offers them: a client type and a profile in one choice.
const (
	kindExchange = "exchange"
	kindServer   = "server"
	kindPublic   = "public"
	kindDirect   = "direct" // shown, never offered: only an operator makes one
)

func kindOf(c *oauth.Client) string {
	switch {
	case c.Profile == oauth.Exchange:
		return kindExchange
	case c.Profile == oauth.Direct:
		return kindDirect
	case c.Type == oauth.Public:
		return kindPublic
	}
	return kindServer
}

// appFormView is the form that makes or changes an app. Whatever was typed is kept.
type appFormView struct {
	Rail     railView
	Result   *resultView
	App      *appView // nil when it is made
	Reserved string   // the sealed id of the app that it makes
	Of       string   // formFor
	Action   string
	Back     string
	Version  int64
	Conflict bool // somebody else saved first
	Fixed    string
	Kinds    []kindChoice // what may be made; empty when it is changed
	Name     string
	Redirect []redirectRow
	Spare    []redirectRow // folded away
	Listed   bool          // the addresses can be changed: not those of a direct app
	Groups   []scopeGroupRow
	Nothing  bool // the platform has no scopes, so no app can be made
	Homepage string
	Privacy  string
	Terms    string
	IssShown bool
	Iss      bool
	Errors   map[string]string // message ids by element id
	Mistakes []mistake         // the same, in the order of the page
}

type kindChoice struct {
	Value   string
	Checked bool
}

type redirectRow struct {
	ID, Value string
	Number    int
	Problem   fieldProblem
}

// scopeGroupRow is a heading of the scope picker.
type scopeGroupRow struct {
	ID     string
	Title  string
	Asked  int
	Scopes []scopeRow
}

// scopeRow is a scope that an app may ask for. Use is "", "optional" or "required".
type scopeRow struct {
	scopeView
	ID  string
	Use string
}

// mistake links the summary above a form to the field, which Label names.
type mistake struct {
	Field, Label, Message string
	Number                int
}

// secretView is the only page that ever shows a secret.
type secretView struct {
	Rail   railView
	App    appView
	Href   string
	Client copyView
	Secret copyView
	Second bool // an older one works beside it
}

// appPageView is all there is to know of one app.
type appPageView struct {
	Rail      railView
	Result    *resultView
	App       appView
	Href      string
	Client    copyView
	Kind      string
	Status    oauth.Status
	Created   time.Time
	Homepage  string
	Privacy   string
	Terms     string
	Iss       bool
	Redirects []string
	Scopes    []scopeRow
	Secrets   []secretRow
	HasSecret bool
	Room      bool // for one more secret
	Samples   []sampleView
	Sections  []scopeSection
	Optional  []scopeView
	StoreAsk  bool   // consent shows a choice of stores
	Host      string // where consent leads
	Grants    int
	Users     int
	Typed     string
	Errors    map[string]string
}

type secretRow struct {
	Last4    string
	Created  time.Time
	LastUsed time.Time // exact to the hour, so shown to the day: an hour could begin before the secret did; zero when never
	Revoke   string    // link; "" for the only one
}

// sampleView is code in one language, in steps.
type sampleView struct {
	Name  string // a proper name
	Open  bool
	Steps []sampleStep
}

type sampleStep struct {
	Caption string // message id
	Wrap    bool   // one long line
	Code    copyView
}

// confirmView asks before something is done that matters.
type confirmView struct {
	Rail          railView
	Heading, What string
	Of, Detail    string // values of the two messages
	Facts         []confirmFact
	Small         string // an id, for who compares it
	When          time.Time
	Action, Back  string
	Fields        []formField
	Button        string
	Bad           bool // it ends something
}

// confirmFact is a line about what it is done to: Label is a message id. One of the others is set.
type confirmFact struct {
	Label  string
	Texts  []string
	Link   string
	Scopes []scopeView
	Say    string // a message id
}

type formField struct{ Name, Value string }

// Lists show this many rows.
const rowsPerPage = 50

// pageOf reads the number of a page, from 1.
func pageOf(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1_000_000 {
		return 1
	}
	return n
}
