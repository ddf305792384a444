// Package demo is a platform in one process: sample users and stores, an app of
// each kind, a store API that the resource package guards, and a third-party app
// that connects to it. Black-box tests stand on it.
package demo

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

// Catalogue is the scope catalogue of the demo: the 53 scopes that Komerza
// publishes (seed-contracts 1.5), in words for people.
//
//go:embed catalogue.yaml
var Catalogue []byte

// Audience is the URI of the demo's store API. It does not depend on a port, so
// that a database outlives one run.
const Audience = "https://api.harbour.example"

// Brand is the platform that the demo plays.
const Brand = "Harbour"

// Person is an account that one can sign in with.
type Person struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// StoreInfo is one of the demo user's stores.
type StoreInfo struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Delegable bool   `json:"delegable"`
}

// App is a registered app with its secret, "" for a public one.
type App struct {
	Name         string   `json:"name"`
	Profile      string   `json:"profile"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	RedirectURIs []string `json:"redirect_uris"`
}

// Credentials are those of the store API at introspection.
type Credentials struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

// Info is the line that `grantway demo --json` prints once it is ready. All keys
// are always there.
type Info struct {
	Issuer         string      `json:"issuer"`
	StoreAPI       string      `json:"store_api"`
	ExampleApp     string      `json:"example_app"`
	User           Person      `json:"user"`
	Developer      Person      `json:"developer"`
	Operator       Person      `json:"operator"`
	APIToken       string      `json:"api_token"` // of the management API
	Stores         []StoreInfo `json:"stores"`
	Apps           []App       `json:"apps"` // exchange, direct, standard confidential, standard public
	ResourceServer Credentials `json:"resource_server"`
}

// State is what the demo keeps in its database so that the next run finds the
// same credentials: nothing in a demo is secret. It also marks the database as
// one that a demo made.
type State struct {
	KeyRing string
	Info    Info
}

const (
	stateKind     = "demo"
	stateSelector = "demo-state"
	forEver       = 100 * 365 * 24 * time.Hour
)

// Load reads the state of a database that a demo made. Any other is refused.
func Load(ctx context.Context, storage oauth.Storage) (state State, err error) {
	saved, err := storage.Pending(ctx, stateSelector, stateKind, time.Now())
	if err != nil {
		return state, errors.New("this database was not made by a demo: name an empty one")
	}
	return state, json.Unmarshal(saved, &state)
}

// Begin makes the state of a new demo, which [Seed] completes and saves.
func Begin() (state State, err error) {
	state.KeyRing, err = oauth.NewKeyRing(rand.Reader)
	return state, err
}

var system = oauth.Actor{Kind: oauth.AsSystem}

// Seed fills an empty database and saves the state in it.
func Seed(ctx context.Context, storage oauth.Storage, server *oauth.Server, accounts *people.Service, state *State) error {
	info := &state.Info
	for _, a := range []struct {
		id, name, email string
		operator        bool
		to              *Person
	}{
		{customerID, "Mara Lindqvist", "mara@harbour.example", false, &info.User},
		{developerID, "Dev Patel", "dev@parcelpilot.example", false, &info.Developer},
		{operatorID, "Olu Adeyemi", "ops@harbour.example", true, &info.Operator},
	} {
		*a.to = Person{a.email, rand.Text()[:14]}
		if _, err := accounts.CreateAccount(ctx, system, people.NewAccount{ID: a.id, Name: a.name, Email: a.email, Password: a.to.Password, Operator: a.operator}); err != nil {
			return fmt.Errorf("making the account %s: %w", a.email, err)
		}
	}
	for _, st := range stores {
		if err := server.PutStore(ctx, system, oauth.Store{ID: st.ID, Name: st.Name, Domain: st.Domain + ".harbour.example"}); err != nil {
			return fmt.Errorf("making the store %s: %w", st.ID, err)
		}
		m := oauth.Membership{UserID: customerID, StoreID: st.ID, Owner: st.delegable, MayDelegate: st.delegable}
		if !st.delegable {
			m.Scopes = oauth.Scopes("stores.view", "stores.orders.view")
		}
		if err := server.SetMembership(ctx, system, m); err != nil {
			return fmt.Errorf("opening the store %s: %w", st.ID, err)
		}
		info.Stores = append(info.Stores, StoreInfo{st.ID, st.Name, st.delegable})
	}
	// The developer works in the customer's first store, and may connect apps to it: she sees what he has connected.
	staff := oauth.Membership{UserID: developerID, StoreID: stores[0].ID, MayDelegate: true, Scopes: oauth.Scopes("stores.view", "stores.orders.view")}
	if err := server.SetMembership(ctx, system, staff); err != nil {
		return fmt.Errorf("letting the developer into %s: %w", stores[0].Name, err)
	}
	for _, app := range apps {
		by := oauth.Actor{Kind: oauth.AsUser, ID: developerID}
		if app.Profile == oauth.Direct { // which makes guests unasked, so it is the operator's to register
			by = oauth.Actor{Kind: oauth.AsOperator, ID: operatorID}
		}
		c, secret, err := server.CreateClient(ctx, by, app)
		if err != nil {
			return fmt.Errorf("registering %s: %w", app.Name, err)
		}
		if len(info.Apps) == 0 {
			if err := server.VerifyClient(ctx, system, c.ID, c.Version, true); err != nil {
				return err
			}
		}
		info.Apps = append(info.Apps, App{Name: c.Name, Profile: string(c.Profile), ClientID: c.ID, ClientSecret: secret.Reveal(), RedirectURIs: app.Redirects})
	}
	id, secret, err := server.AddAPISecret(ctx, system)
	if err != nil {
		return err
	}
	info.ResourceServer = Credentials{id, secret.Reveal()}
	saved, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return storage.PutPending(ctx, stateSelector, stateKind, saved, time.Now().Add(forEver))
}

const (
	customerID  = "usr_demo_customer"
	developerID = "usr_demo_developer"
	operatorID  = "usr_demo_operator"
)

var callbacks = []string{"http://127.0.0.1/callback", "https://client.example/callback"}

func required(names ...string) (list []oauth.ClientScope) {
	for _, n := range names {
		list = append(list, oauth.ClientScope{Name: n, Required: true})
	}
	return list
}

func optional(list []oauth.ClientScope, names ...string) []oauth.ClientScope {
	for _, n := range names {
		list = append(list, oauth.ClientScope{Name: n})
	}
	return list
}

// apps are one of each kind, in the order that the demo's line promises.
var apps = []oauth.ClientForm{
	{
		Name: "Parcel Pilot", Type: oauth.Confidential, Profile: oauth.Exchange, Redirects: callbacks,
		Scopes:   optional(required("stores.view", "stores.orders.view", "user.view"), "stores.orders.deliver", "stores.customers.view"),
		Homepage: "https://parcelpilot.example", Terms: "https://parcelpilot.example/terms", Privacy: "https://parcelpilot.example/privacy",
	},
	{
		Name: "Style Finder", Type: oauth.Public, Profile: oauth.Direct, Redirects: []string{oauth.OutOfBand},
		Settings: oauth.ClientSettings{RotateRefresh: true},
	},
	{
		Name: "Ledgerline", Type: oauth.Confidential, Profile: oauth.Standard, Redirects: callbacks,
		Scopes: optional(required("stores.view", "stores.orders.view"), "stores.tax.view"), Homepage: "https://ledgerline.example",
	},
	{
		Name: "Shelf Check", Type: oauth.Public, Profile: oauth.Standard, Redirects: callbacks,
		Scopes: optional(required("stores.view"), "stores.products.view", "stores.products.update"), Homepage: "https://shelfcheck.example",
	},
}
