package oauth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// plainText reports whether a text of the platform's can be stored and shown: valid
// UTF-8 of at most 500 bytes without control characters.
func plainText(s string) bool {
	return len(s) <= 500 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// notInCatalogue names the scopes that are not there to those who manage apps and
// stores; what requests ask for is never repeated (ScopeUnknown).
func notInCatalogue(names []string) *Error {
	e := refuse(ScopeNotInCatalogue)
	e.Description = fmt.Sprintf(e.Description, strings.Join(names, ", "))
	return e
}

// PutStore creates or changes a store under the platform's own id.
func (s *Server) PutStore(ctx context.Context, actor Actor, st Store) error {
	switch {
	case !actor.runs():
		return refuse(NotPermitted)
	case !OpaqueID(st.ID):
		return FieldErrors{"id": refuse(IDMalformed)}
	case st.Name == "":
		return FieldErrors{"name": refuse(FieldRequired)}
	case !plainText(st.Name):
		return FieldErrors{"name": refuse(FieldUnclean)}
	case !plainText(st.Domain):
		return FieldErrors{"domain": refuse(FieldUnclean)}
	}
	if st.Status == "" {
		st.Status = Active
	}
	kind := EventStorePut
	if st.Status != Active {
		kind = EventStoreRemoved
	}
	e, err := s.NewEvent(ctx, kind, actor, ofStore{st.Name, st.Domain, st.Status})
	if err != nil {
		return err
	}
	e.StoreID = st.ID
	return s.storage.PutStore(ctx, &st, e)
}

// Stores lists stores for who runs the platform; query matches the start of a word of id,
// name or domain.
func (s *Server) Stores(ctx context.Context, actor Actor, query string, p Page) ([]*Store, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Stores(ctx, query, p)
}

// Memberships lists what a user may do in which store: his own, or anybody's for
// who runs the platform.
func (s *Server) Memberships(ctx context.Context, actor Actor, userID string) ([]Membership, error) {
	if !actor.runs() && (actor.Kind != AsUser || actor.ID != userID) {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Memberships(ctx, userID)
}

// SetMembership says what a user may do in a store. Keys follow at once.
func (s *Server) SetMembership(ctx context.Context, actor Actor, m Membership) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	var missing []string
	for _, name := range m.Scopes {
		switch sc := s.catalogue.Scope(name); {
		case sc == nil:
			missing = append(missing, name)
		case sc.Kind != StoreScope:
			missing = append(missing, name+" (as a scope of stores)")
		}
	}
	if len(missing) > 0 {
		return FieldErrors{"scopes": notInCatalogue(missing)}
	}
	// Platforms say again and again what is so already; keys would be asked about for it.
	switch is, err := s.storage.Membership(ctx, m.UserID, m.StoreID); {
	case err == nil && m.same(*is):
		return nil
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	}
	e, err := s.NewEvent(ctx, EventMembershipSet, actor, ofMembership{m.Scopes, m.Owner, m.MayDelegate})
	if err != nil {
		return err
	}
	e.UserID, e.StoreID = m.UserID, m.StoreID
	won, err := s.storage.SetMembership(ctx, &m, e)
	if err == nil && !won {
		return refuse(NoSuch)
	}
	return err
}

// same reports whether two memberships allow the same in the same store.
func (m Membership) same(o Membership) bool {
	return m.StoreID == o.StoreID && m.Owner == o.Owner && m.MayDelegate == o.MayDelegate && m.Scopes.Equal(o.Scopes)
}

// DropMembership ends what a user may do in a store. Keys follow at once.
func (s *Server) DropMembership(ctx context.Context, actor Actor, userID, storeID string) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	e, err := s.NewEvent(ctx, EventMembershipDropped, actor, nil)
	if err != nil {
		return err
	}
	e.UserID, e.StoreID = userID, storeID
	won, err := s.storage.DropMembership(ctx, userID, storeID, e)
	if err == nil && !won {
		return refuse(NoSuch)
	}
	return err
}

// PutUser creates a user under the platform's own id, without a password.
func (s *Server) PutUser(ctx context.Context, actor Actor, u User) error {
	switch {
	case !actor.runs():
		return refuse(NotPermitted)
	case !OpaqueID(u.ID):
		return FieldErrors{"id": refuse(IDMalformed)}
	case !plainText(u.Name) || !plainText(u.Email):
		return FieldErrors{"name": refuse(FieldUnclean)}
	}
	u.Kind = Person
	e, err := s.NewEvent(ctx, EventUserCreated, actor, map[string]any{"operator": u.Operator})
	if err != nil {
		return err
	}
	e.UserID = u.ID
	won, err := s.storage.CreateUser(ctx, &u, e)
	if err == nil && !won {
		return FieldErrors{"id": refuse(IDTaken)}
	}
	return err
}

// User reads a user: oneself, or anybody for who runs the platform.
func (s *Server) User(ctx context.Context, actor Actor, id string) (*User, error) {
	if !actor.runs() && (actor.Kind != AsUser || actor.ID != id) {
		return nil, refuse(NotPermitted)
	}
	u, err := s.storage.User(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(NoSuch)
	}
	return u, err
}

// Users lists users for who runs the platform; query matches the start of a word of id,
// name or e-mail.
func (s *Server) Users(ctx context.Context, actor Actor, query string, p Page) ([]*User, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Users(ctx, query, p)
}

// SuspendUser refuses a user's sign-ins and every key that he allowed, until he is
// resumed. Nobody can suspend himself.
func (s *Server) SuspendUser(ctx context.Context, actor Actor, id string) error {
	return s.setUserStatus(ctx, actor, id, Suspended, EventUserSuspended)
}

// ResumeUser ends a suspension.
func (s *Server) ResumeUser(ctx context.Context, actor Actor, id string) error {
	return s.setUserStatus(ctx, actor, id, Active, EventUserResumed)
}

func (s *Server) setUserStatus(ctx context.Context, actor Actor, id string, to Status, kind Kind) error {
	if !actor.runs() || actor.ID == id {
		return refuse(NotPermitted)
	}
	e, err := s.NewEvent(ctx, kind, actor, nil)
	if err != nil {
		return err
	}
	e.UserID = id
	won, err := s.storage.SetUserStatus(ctx, id, to, e)
	if err != nil || won {
		return err
	}
	if _, err := s.User(ctx, actor, id); err != nil {
		return err
	}
	return refuse(Changed) // it was so already
}

// Events lists what happened, newest first, for who runs the platform.
func (s *Server) Events(ctx context.Context, actor Actor, f EventFilter) ([]Event, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.Events(ctx, f)
}

// APIs lists the audiences with their live secrets' last characters.
func (s *Server) APIs(ctx context.Context, actor Actor) ([]*API, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	return s.storage.APIs(ctx)
}

// AddAPISecret gives the API of this server a secret for introspection. It is
// returned here, with the API's id, and never again.
func (s *Server) AddAPISecret(ctx context.Context, actor Actor) (id string, secret Secret, err error) {
	if !actor.runs() {
		return "", "", refuse(NotPermitted)
	}
	secret, row, err := s.newSecret()
	if err != nil {
		return "", "", err
	}
	e, err := s.NewEvent(ctx, EventAPISecretAdded, actor, map[string]string{"api": s.api.ID, "last4": row.Last4})
	if err != nil {
		return "", "", err
	}
	won, err := s.storage.AddAPISecret(ctx, s.api.ID, row, e)
	switch {
	case err != nil:
		return "", "", err
	case !won:
		return "", "", refuse(TooMany)
	}
	return s.api.ID, secret, nil
}

// RevokeAPISecret ends the secret of the API of this server whose last four characters
// are last4. The only secret cannot be revoked. Whoever follows the feed with it, or
// asks, is refused from then on, on every node within 100 ms.
func (s *Server) RevokeAPISecret(ctx context.Context, actor Actor, last4 string) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	api, err := s.storage.API(ctx, s.api.ID)
	if err != nil {
		return err
	}
	hash, err := revocable(api.Secrets, last4)
	if err != nil {
		return err
	}
	e, err := s.NewEvent(ctx, EventAPISecretRevoked, actor, map[string]string{"api": s.api.ID, "last4": last4})
	if err != nil {
		return err
	}
	won, err := s.storage.RevokeAPISecret(ctx, s.api.ID, hash, e)
	if err == nil && !won {
		return refuse(Changed)
	}
	return err
}
