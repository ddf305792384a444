package portal

import (
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// What the templates of the operator's pages receive.

// searchView is the search above a list.
type searchView struct {
	Action, Label, Query string
	Narrowed             []narrowed // what else the list is limited to
	Clear                string
}

// narrowed is a limit that a list stands under: Label is a message id, Text what it is limited to.
type narrowed struct{ Label, Name, Text string }

// pressView is a button in a row. One that ends something is a link to the page that asks first.
type pressView struct {
	Label, Href, Action string // Href or Action is set
	Fields              []formField
	For                 string // names the row for those who cannot see it
	Bad                 bool
}

type operatorAppsView struct {
	Rail   railView
	Result *resultView
	Search searchView
	Rows   []operatorApp
	Pager  pagerView
}

type operatorApp struct {
	ID      string
	App     appView
	Owner   personView
	Type    string
	Status  oauth.Status
	Created time.Time
	Grants  string // links
	Events  string
	Presses []pressView
}

// personView is a user in a list: Text is what is known, at least the id.
type personView struct{ Text, Href string }

type operatorUsersView struct {
	Rail   railView
	Result *resultView
	Search searchView
	Rows   []operatorUser
	Pager  pagerView
}

type operatorUser struct {
	ID, Name, Email string
	Operator, Self  bool
	Status          oauth.Status
	Created         time.Time
	Grants          string
	Events          string
	Presses         []pressView
}

type operatorStoresView struct {
	Rail   railView
	Search searchView
	Rows   []operatorStore
	Pager  pagerView
}

type operatorStore struct {
	ID, Name, Domain string
	Status           oauth.Status
	Created          time.Time
	Grants           string
}

type operatorGrantsView struct {
	Rail   railView
	Result *resultView
	Search searchView
	Live   bool // only live ones are shown
	Toggle string
	Rows   []operatorGrant
	Pager  pagerView
}

type operatorGrant struct {
	ID       string
	App      appView
	AppHref  string
	User     personView
	All      bool
	Stores   []string
	More     int // stores beyond those
	Scopes   int
	Keys     int
	Status   oauth.GrantStatus
	Created  time.Time
	LastUsed time.Time
	Events   string
	Presses  []pressView
}

type operatorEventsView struct {
	Rail   railView
	Search searchView
	Rows   []operatorEvent
	Pager  pagerView
}

type operatorEvent struct {
	ID       string
	At       time.Time
	Words    string // message id
	Kind     string
	Bad      bool   // ends or refuses something
	Actor    string // message id, or "" for a person or app
	Who      subjectView
	Subjects []subjectView
	Request  string
	Payload  string
}

// subjectView is what an event is about: Label is a message id.
type subjectView struct{ Label, Text, Href, ID string }
