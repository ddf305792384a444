package oauth

import (
	"context"
	"encoding/json"
	"time"
)

// Kind names what happened. Kinds are never renamed.
type Kind string

// The kinds. Those marked "feed" end, suspend, resume or edit something that keys
// and caches rest on, or give a key a status that its place does not have by itself:
// they move the feed's sequence. The others issue or note, and never touch it (DESIGN,
// decision 6).
const (
	EventGrantMade      Kind = "grant.made"
	EventGrantEdited    Kind = "grant.edited"    // feed
	EventGrantRevoked   Kind = "grant.revoked"   // feed
	EventGrantSuspended Kind = "grant.suspended" // feed
	EventGrantResumed   Kind = "grant.resumed"   // feed
	EventConsentDenied  Kind = "consent.denied"
	EventCodeIssued     Kind = "code.issued"
	EventCodeRedeemed   Kind = "code.redeemed" // feed when the key is to be asked about from the first
	EventCodeReplayed   Kind = "code.replayed" // feed when it revoked a family
	EventTokenRefreshed Kind = "token.refreshed"
	EventRefreshReplay  Kind = "refresh.replayed" // feed
	EventFamilyRevoked  Kind = "family.revoked"   // feed

	EventClientCreated   Kind = "client.created"   // feed
	EventClientUpdated   Kind = "client.updated"   // feed
	EventClientSuspended Kind = "client.suspended" // feed
	EventClientResumed   Kind = "client.resumed"   // feed
	EventClientDeleted   Kind = "client.deleted"   // feed
	EventSecretAdded     Kind = "secret.added"     // feed
	EventSecretRevoked   Kind = "secret.revoked"   // feed
	EventSecretsRefused  Kind = "secret.refused"   // so many wrong ones that their network is closed

	EventUserCreated       Kind = "user.created"
	EventUserSuspended     Kind = "user.suspended" // feed
	EventUserResumed       Kind = "user.resumed"   // feed
	EventSignedIn          Kind = "user.signed_in"
	EventSignInRefused     Kind = "user.sign_in_refused"
	EventPasswordSet       Kind = "user.password_set"  // no payload; sign-ins, and what counted guesses, ended with it
	EventStorePut          Kind = "store.put"          // feed
	EventStoreRemoved      Kind = "store.removed"      // feed
	EventMembershipSet     Kind = "membership.set"     // feed
	EventMembershipDropped Kind = "membership.dropped" // feed
	EventAPIPut            Kind = "api.put"            // feed
	EventAPISecretAdded    Kind = "api.secret_added"   // feed
	EventAPISecretRevoked  Kind = "api.secret_revoked" // feed
	EventKeyAdded          Kind = "key.added"          // feed
	EventKeyCut            Kind = "key.cut"            // feed; all that it has signed is over
	EventEverythingCut     Kind = "everything.cut"     // feed; every key and refresh token is over
	EventRuleFolded        Kind = "rule.folded"        // feed; bits were written in the place of a rule
	EventRestored          Kind = "database.restored"  // feed; the first of an epoch
)

// Event is one row of what happened. It is written in the transaction that made
// it true. It never holds a credential.
type Event struct {
	ID       string
	Seq      int64 // the feed's sequence; 0 for events that only issue
	At       time.Time
	Kind     Kind
	Actor    string // "user:…", "client:…", "command", "system"
	ClientID string
	UserID   string
	GrantID  string
	StoreID  string
	Request  string // request id, as logs and pages show it
	Payload  json.RawMessage
}

// EventsKept is how long events are kept unless the operator says otherwise: a year
// and what it takes to look back on it.
const EventsKept = 400 * 24 * time.Hour

// ActorKind says in what capacity somebody acts.
type ActorKind string

// The capacities.
const (
	AsNobody   ActorKind = ""
	AsUser     ActorKind = "user"     // a customer or developer, for what is theirs
	AsOperator ActorKind = "operator" // a user who runs the platform
	AsCommand  ActorKind = "command"  // the command line on the server's own database
	AsClient   ActorKind = "client"   // an app that has authenticated
	AsSystem   ActorKind = "system"   // the server itself
)

// Actor is who acts. Every management use-case takes one and checks it first, so
// that no page or command can skip the check.
type Actor struct {
	Kind ActorKind
	ID   string // user or client id
}

func (a Actor) String() string {
	if a.ID == "" {
		return string(a.Kind)
	}
	return string(a.Kind) + ":" + a.ID
}

// runs reports whether the actor may do what the operator may.
func (a Actor) runs() bool {
	return a.Kind == AsOperator || a.Kind == AsCommand || a.Kind == AsSystem
}

type requestIDKey struct{}

// WithRequestID returns a context whose events and errors carry id.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id put by [WithRequestID], or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewEvent starts an event of this moment; the caller fills in its subjects.
// payload, if not nil, must marshal and must hold no credential.
func (s *Server) NewEvent(ctx context.Context, kind Kind, actor Actor, payload any) (Event, error) {
	id, err := s.newID("ev_")
	if err != nil {
		return Event{}, err
	}
	e := Event{ID: id, At: s.now(), Kind: kind, Actor: actor.String(), Request: RequestID(ctx)}
	if payload != nil {
		if e.Payload, err = json.Marshal(payload); err != nil {
			return Event{}, err
		}
	}
	return e, nil
}
