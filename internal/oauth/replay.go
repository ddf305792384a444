package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Restored databases are told what ended or narrowed after their backup was made.
// A replay carries the exported event itself into the database, with the same
// storage events as when it happened. What began after the backup (apps, users,
// grants, secrets, keys) cannot come back: its credentials are not in any event.

// replays says how each kind of the feed is replayed. Kinds that map to nil end
// nothing that a backup could hold.
var replays = map[Kind]func(*replay) (bool, error){
	EventGrantEdited:    (*replay).editGrant,
	EventGrantRevoked:   func(r *replay) (bool, error) { return r.s.RevokeGrant(r.ctx, r.e.GrantID, r.e) },
	EventGrantSuspended: func(r *replay) (bool, error) { return r.s.SuspendGrant(r.ctx, r.e.GrantID, r.e) },
	EventGrantResumed:   func(r *replay) (bool, error) { return r.s.ResumeGrant(r.ctx, r.e.GrantID, r.e) },
	EventCodeRedeemed:   nil,
	EventCodeReplayed:   (*replay).codeReplayed,
	EventRefreshReplay:  (*replay).revokeFamily,
	EventFamilyRevoked:  (*replay).revokeFamily,

	EventClientCreated:   nil,
	EventClientUpdated:   (*replay).updateClient,
	EventClientSuspended: func(r *replay) (bool, error) { return r.s.SetClientStatus(r.ctx, r.e.ClientID, Suspended, r.e) },
	EventClientResumed:   func(r *replay) (bool, error) { return r.s.SetClientStatus(r.ctx, r.e.ClientID, Active, r.e) },
	EventClientDeleted:   func(r *replay) (bool, error) { return r.s.SetClientStatus(r.ctx, r.e.ClientID, Deleted, r.e) },
	EventSecretAdded:     nil,
	EventSecretRevoked:   (*replay).revokeSecret,

	EventUserSuspended:     func(r *replay) (bool, error) { return r.s.SetUserStatus(r.ctx, r.e.UserID, Suspended, r.e) },
	EventUserResumed:       func(r *replay) (bool, error) { return r.s.SetUserStatus(r.ctx, r.e.UserID, Active, r.e) },
	EventStorePut:          (*replay).putStore,
	EventStoreRemoved:      (*replay).putStore,
	EventMembershipSet:     (*replay).setMembership,
	EventMembershipDropped: func(r *replay) (bool, error) { return r.s.DropMembership(r.ctx, r.e.UserID, r.e.StoreID, r.e) },
	EventAPIPut:            nil,
	EventAPISecretAdded:    nil,
	EventAPISecretRevoked:  (*replay).revokeAPISecret,
	EventKeyAdded:          nil,
	EventKeyCut:            (*replay).cutKey,
	EventEverythingCut:     func(r *replay) (bool, error) { return r.s.CutOff(r.ctx, RuleAll, "", r.e) },
	EventRuleFolded:        nil, // the event that set the rule is replayed, and folded anew
	EventRestored:          nil,
}

// ErrUnknownKind says that an exported event is of a kind of the feed that this
// program does not know, so it cannot tell what the event ended.
var ErrUnknownKind = errors.New("an event of a kind that only a newer grantway knows")

type replay struct {
	ctx  context.Context
	s    Storage
	e    Event
	now  time.Time
	rand io.Reader
}

// Replay carries out on a restored database what an exported event ended, narrowed
// or, where an operator undid that, resumed. changed is false for an event about
// something that the database does not know or that is so already, and for kinds
// that end nothing. e.Seq is that of the export; the database gives it another.
func Replay(ctx context.Context, s Storage, now time.Time, random io.Reader, e Event) (changed bool, err error) {
	r := &replay{ctx, s, e, now, random}
	f, known := replays[e.Kind]
	switch {
	case e.Kind == EventTokenRefreshed:
		f = (*replay).rotated
	case e.Kind == EventPasswordSet: // the one that was set is in no event, and the one before is not to live again
		f = func(r *replay) (bool, error) { return r.s.EndPassword(r.ctx, r.e.UserID, r.e) }
	case e.Seq == 0 && e.Kind != EventCodeReplayed: // only what the feed carries has ended anything else
		return false, nil
	case !known:
		return false, fmt.Errorf("%w: %s", ErrUnknownKind, e.Kind)
	}
	if f == nil {
		return false, nil
	}
	if changed, err = f(r); errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return changed, err
}

func (r *replay) payload(into any) error {
	if err := json.Unmarshal(r.e.Payload, into); err != nil {
		return fmt.Errorf("event %s: %w", r.e.ID, err)
	}
	return nil
}

// ofFamily is in the payload of every event about one family.
type ofFamily struct {
	Family  string `json:"family"`
	Rotated bool   `json:"rotated,omitempty"` // token.refreshed: the token was replaced by another
	Why     Reason `json:"why,omitempty"`     // family.revoked by the server itself
}

func (r *replay) revokeFamily() (bool, error) {
	var p ofFamily
	if err := r.payload(&p); err != nil {
		return false, err
	}
	return r.s.RevokeFamily(r.ctx, p.Family, r.e)
}

// codeReplayed ends what the replay of a code ended: nothing, where a retry was taken for
// one, a chain, of which the feed need not tell, or a family.
func (r *replay) codeReplayed() (bool, error) {
	var p codeReplayed
	if err := r.payload(&p); err != nil {
		return false, err
	}
	switch {
	case p.Chain != "":
		return r.s.EndChain(r.ctx, p.Chain, r.e)
	case r.e.Seq == 0:
		return false, nil
	}
	return r.s.RevokeFamily(r.ctx, p.Family, r.e)
}

// rotated ends a family whose refresh token was replaced after the backup. The one
// that replaced it is not in the database, so its holder has to ask anew in any
// case; the one that is there was spent, and whoever has it still is no honest app.
func (r *replay) rotated() (bool, error) {
	var p ofFamily
	if err := r.payload(&p); err != nil || !p.Rotated {
		return false, err
	}
	id, err := NewID("ev_", r.now, r.rand)
	if err != nil {
		return false, err
	}
	e := r.e
	e.ID, e.At, e.Kind, e.Actor = id, r.now, EventFamilyRevoked, Actor{Kind: AsSystem}.String()
	return r.s.RevokeFamily(r.ctx, p.Family, e)
}

// grantAfter is in the payload of grant.edited: what the grant was from then on.
type grantAfter struct {
	Scopes    ScopeSet     `json:"scopes"`
	Account   ScopeSet     `json:"account_scopes"`
	AllStores bool         `json:"all_stores"`
	Stores    []storeAfter `json:"stores"`
}

type storeAfter struct {
	ID     string   `json:"id"`
	Scopes ScopeSet `json:"scopes"` // null: the grant's
}

func afterOf(g *Grant) *grantAfter {
	a := &grantAfter{Scopes: g.Scopes, Account: g.Account, AllStores: g.AllStores}
	for _, st := range g.Stores {
		a.Stores = append(a.Stores, storeAfter{st.StoreID, st.Scopes})
	}
	return a
}

func (r *replay) editGrant() (bool, error) {
	var p struct {
		After *grantAfter `json:"after"`
	}
	if err := r.payload(&p); err != nil {
		return false, err
	}
	if p.After == nil {
		return false, fmt.Errorf("event %s does not say what became of the grant", r.e.ID)
	}
	st, err := r.s.Standing(r.ctx, r.e.GrantID)
	if err != nil {
		return false, err
	}
	g := st.Grant
	g.Scopes, g.Account, g.AllStores, g.Stores = p.After.Scopes, p.After.Account, p.After.AllStores, nil
	for _, x := range p.After.Stores {
		g.Stores = append(g.Stores, GrantStore{x.ID, x.Scopes})
	}
	return r.s.EditGrant(r.ctx, &g, g.Rev, nil, r.e)
}

// clientView is in the payload of client.updated, before and after. What is kept
// of credentials is not in it, so that what an app must send as x-api-key stays as
// the backup has it.
type clientView struct {
	Name      string
	Redirects []RedirectURI
	Scopes    []ClientScope
	Settings  ClientSettings
}

func viewOf(c *Client) clientView {
	return clientView{c.Name, c.Redirects, c.Scopes, c.Settings.public()}
}

func (r *replay) updateClient() (bool, error) {
	var p struct {
		After *clientView `json:"after"`
	}
	if err := r.payload(&p); err != nil {
		return false, err
	}
	if p.After == nil {
		return false, fmt.Errorf("event %s does not say what became of the app", r.e.ID)
	}
	c, err := r.s.Client(r.ctx, r.e.ClientID)
	if err != nil {
		return false, err
	}
	key := c.Settings.APIKeyHash
	c.Name, c.Redirects, c.Scopes, c.Settings = p.After.Name, p.After.Redirects, p.After.Scopes, p.After.Settings
	c.Settings.APIKeyHash = key
	return r.s.UpdateClient(r.ctx, c, r.e)
}

// ofSecret is in the payload of events about a secret.
type ofSecret struct {
	API   string `json:"api,omitempty"` // whose it is, if it is not an app's
	Last4 string `json:"last4"`
}

func (r *replay) revokeSecret() (bool, error) {
	var p ofSecret
	if err := r.payload(&p); err != nil {
		return false, err
	}
	secrets, err := r.s.ClientSecrets(r.ctx, r.e.ClientID)
	if err != nil {
		return false, err
	}
	return r.endSecret(r.e.ClientID, secrets, p, EventSecretAdded, r.s.AddSecret, r.s.RevokeSecret)
}

func (r *replay) revokeAPISecret() (bool, error) {
	var p ofSecret
	if err := r.payload(&p); err != nil {
		return false, err
	}
	api, err := r.s.API(r.ctx, p.API)
	if err != nil {
		return false, err
	}
	return r.endSecret(p.API, api.Secrets, p, EventAPISecretAdded, r.s.AddAPISecret, r.s.RevokeAPISecret)
}

// endSecret ends the secret of owner that the event names by its last characters. If
// it is the only one that the database knows, because the one that replaced it came
// after the backup, a secret that nobody knows takes its place first: an app, or an
// API, always has one.
func (r *replay) endSecret(owner string, secrets []ClientSecret, of ofSecret, added Kind,
	add func(context.Context, string, ClientSecret, Event) (bool, error), revoke func(context.Context, string, Hash, Event) (bool, error)) (bool, error) {
	i := ending(secrets, of.Last4)
	if i < 0 {
		return false, nil
	}
	if len(secrets) == 1 {
		secret, err := NewClientSecret(r.rand)
		if err != nil {
			return false, err
		}
		e := r.e
		if e.ID, err = NewID("ev_", r.now, r.rand); err != nil {
			return false, err
		}
		of.Last4 = "none"
		e.Kind, e.At, e.Actor = added, r.now, Actor{Kind: AsSystem}.String()
		if e.Payload, err = json.Marshal(of); err != nil {
			return false, err
		}
		if _, err := add(r.ctx, owner, ClientSecret{Hash: HashOf(secret), Last4: of.Last4, Created: r.now}, e); err != nil {
			return false, err
		}
	}
	return revoke(r.ctx, owner, secrets[i].Hash, r.e)
}

// ofKey is in the payload of events about a signing key.
type ofKey struct {
	Kid string `json:"kid"`
	Use KeyUse `json:"use,omitempty"`
}

// cutKey cuts off a signing key. One that was made after the backup is not there, and
// what it signed is not trusted.
func (r *replay) cutKey() (bool, error) {
	var p ofKey
	if err := r.payload(&p); err != nil {
		return false, err
	}
	return r.s.CutOff(r.ctx, RuleKey, p.Kid, r.e)
}

// ofStore is in the payload of events about a store.
type ofStore struct {
	Name   string `json:"name"`
	Domain string `json:"domain"`
	Status Status `json:"status"`
}

func (r *replay) putStore() (bool, error) {
	var p ofStore
	if err := r.payload(&p); err != nil {
		return false, err
	}
	return true, r.s.PutStore(r.ctx, &Store{ID: r.e.StoreID, Name: p.Name, Domain: p.Domain, Status: p.Status}, r.e)
}

// ofMembership is in the payload of membership.set.
type ofMembership struct {
	Scopes      ScopeSet `json:"scopes"`
	Owner       bool     `json:"owner"`
	MayDelegate bool     `json:"may_delegate"`
}

func (r *replay) setMembership() (bool, error) {
	var p ofMembership
	if err := r.payload(&p); err != nil {
		return false, err
	}
	return r.s.SetMembership(r.ctx, &Membership{UserID: r.e.UserID, StoreID: r.e.StoreID, Scopes: p.Scopes, Owner: p.Owner, MayDelegate: p.MayDelegate}, r.e)
}
