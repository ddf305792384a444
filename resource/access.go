package resource

import (
	"context"
	"net/http"
	"slices"
)

// Access is what a route asks of its caller.
type Access struct {
	// Scope is one scope; empty admits every token that stands.
	Scope string
	// Store returns the id of the store that the request is about. The scope must then hold in that store, or, where
	// Scope is empty, any scope must. A function that returns "" names no store and admits nobody, so that a misspelt path
	// value cannot open a route.
	//
	// Nil means that the handler looks after stores, by Caller.Stores or Caller.HasIn: a caller is admitted who holds the
	// scope for the account, or in one store at least.
	//
	// Check has no request and calls Store with nil: give it a function that returns the store you mean.
	Store func(*http.Request) string
	// OnStale says what happens on this route while the revocations are not known to be those of now; zero means what
	// Config.OnStale says.
	OnStale OnStale
}

// Caller is who calls and what they may do now. The zero value may do nothing.
type Caller struct {
	// Subject is the user, by the platform's own id (`sub`).
	Subject string
	// ClientID is the app.
	ClientID string
	// GrantID names the connection between the two, which the user can revoke.
	GrantID string
	// Scopes are those that act on the account, and those that hold in every store of the token. Ask HasIn or Stores
	// about a store scope: this list does not say which stores there are.
	Scopes []string

	rights []right
}

// right is one entry of the `rights` member: scopes that hold in each of the stores.
type right struct {
	stores, scopes []string
}

// powers is what a key may do: what it prints, or what the issuer answered.
type powers struct {
	scopes []string
	rights []right
}

// callerOf returns a Caller that shares p with others: clone Scopes before a handler gets it.
func callerOf(t *token, p powers) Caller {
	return Caller{Subject: t.sub, ClientID: t.clientID, GrantID: t.grantID, Scopes: p.scopes, rights: p.rights}
}

// Has says whether the caller holds an account scope. For a store scope use HasIn.
func (c Caller) Has(scope string) bool { return slices.Contains(c.Scopes, scope) }

// HasIn says whether the caller holds a scope in one store. It goes by `rights` alone: a scope in Scopes says nothing
// about a store that the token does not cover.
func (c Caller) HasIn(store, scope string) bool {
	for _, r := range c.rights {
		if slices.Contains(r.scopes, scope) && slices.Contains(r.stores, store) {
			return true
		}
	}
	return false
}

// Stores returns the ids of the stores in which the caller holds the scope, each once; with an empty scope, of all that
// the token covers. A token for all stores, future ones included, gets those there are now.
func (c Caller) Stores(scope string) []string {
	var ids []string
	seen := map[string]bool{}
	for _, r := range c.rights {
		if scope != "" && !slices.Contains(r.scopes, scope) {
			continue
		}
		for _, id := range r.stores {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// allow decides whether a caller has what a route asks for.
func (c Caller) allow(a Access, r *http.Request) error {
	if a.Store == nil {
		if a.Scope == "" || c.Has(a.Scope) || somewhere(c.rights, a.Scope) {
			return nil
		}
		return &Error{Kind: Denied, Reason: "scope", Scope: a.Scope}
	}
	store := a.Store(r)
	switch {
	case store == "":
	case a.Scope != "" && c.HasIn(store, a.Scope):
		return nil
	case a.Scope == "" && slices.ContainsFunc(c.rights, func(r right) bool { return slices.Contains(r.stores, store) }):
		return nil
	}
	e := &Error{Kind: Denied, Reason: "scope", Scope: a.Scope, Store: store}
	switch {
	case a.Scope == "":
		e.Reason = "store"
	case somewhere(c.rights, a.Scope):
		e.Reason = "other_store"
	}
	return e
}

// somewhere says whether a scope holds in one store at least.
func somewhere(rights []right, scope string) bool {
	return slices.ContainsFunc(rights, func(r right) bool {
		return len(r.stores) > 0 && slices.Contains(r.scopes, scope)
	})
}

// admitted is the context of a request that Require admitted. A type of its own carries the Caller without a piece of
// memory for each of the two.
type admitted struct {
	context.Context
	caller Caller
}

type callerKey struct{}

func (a *admitted) Value(key any) any {
	if _, ok := key.(callerKey); ok {
		return &a.caller
	}
	return a.Context.Value(key)
}

// FromContext returns the caller that Require admitted, and the zero Caller outside such a request.
func FromContext(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	if c == nil {
		return Caller{}
	}
	own := *c
	own.Scopes = slices.Clone(c.Scopes)
	return own
}
