package oauth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Storage is what the server needs of a database: reads named for their question,
// and events. Every event is atomic and durable when it returns without error,
// and its row in events is part of it. A method that returns won reports false,
// with no error and with nothing written, if its guard did not hold: somebody
// else was first, or the world has changed since it was read. The suite in
// storagetest proves each promise on every engine.
//
// Times are kept to the microsecond. No method calls a clock. The text in an event
// is valid UTF-8 without NUL: the use-cases see to it. A read may ask for any text.
type Storage interface {
	GrantStorage
	CodeStorage
	FamilyStorage
	ClientStorage
	PeopleStorage
	APIStorage
	EventStorage
	StatusStorage

	// Visit says that whoever asks with the context that it returns is about to write an
	// event that rests on the answers, with that same context and from one goroutine: such
	// callers may share what their questions and commits cost. It promises nothing about
	// the answers. leave ends it, whatever came of it.
	Visit(ctx context.Context) (visiting context.Context, leave func())
}

// ErrNotFound is returned by a read that names one thing that is not there.
var ErrNotFound = errors.New("not found")

// ErrUnavailable wraps every failure to reach or use the database.
var ErrUnavailable = errors.New("storage unavailable")

// ErrUnknown wraps the failure of an event that was sent: whether it took effect
// cannot be told. It is an ErrUnavailable, too.
var ErrUnknown = fmt.Errorf("%w, and the outcome is unknown", ErrUnavailable)

// ErrMoved wraps the failures of a database that has moved for good: every request has
// the same, until this process is replaced. It is an ErrUnavailable, too.
var ErrMoved = fmt.Errorf("%w, for good", ErrUnavailable)

// GrantStorage keeps grants.
type GrantStorage interface {
	// Standing reads a grant with everything that decides what its keys may print.
	Standing(ctx context.Context, grantID string) (*Standing, error)
	// DefaultGrant returns the id of the user's default grant of the client that is
	// not revoked, or ErrNotFound.
	DefaultGrant(ctx context.Context, userID, clientID string) (string, error)
	// GrantsOf lists the grants of a user that are live or suspended, newest first.
	GrantsOf(ctx context.Context, userID string, p Page) ([]Connection, error)
	// GrantOf reads a grant of a user, in whatever state, or ErrNotFound.
	GrantOf(ctx context.Context, userID, grantID string) (*Connection, error)
	// GrantsOfOthers lists, for the owner of stores, the live and suspended grants by
	// which other users gave apps access to them: one for each grant and store, with
	// nothing of it but that store, by store name, then newest first. storeID "" means
	// all of his stores. Where a grant leaves a store out of all, it has none there. A
	// suspended user's are among them: they are live again when he is.
	GrantsOfOthers(ctx context.Context, ownerID, storeID string, p Page) ([]Connection, error)
	// Grants lists grants in any state for operators, newest first. Of a store are those
	// that list it, and those of all stores whose user may open it to apps, unless they
	// leave it out.
	Grants(ctx context.Context, f GrantFilter) ([]Connection, error)

	// RecordDecision stores what a user decided: the grant as it shall be and the
	// code that redeems it. If d.Create, the grant must not exist and the user must
	// have no other default grant of this client, if it is to be that one. Otherwise
	// the stored grant must be at d.Rev and in d.Grant.Status, which stays, and, if
	// d.Unasked, the user must have let it go to d.Grant.Host last. Nothing is written unless
	// client and user are active, the client is at d.ClientVersion, the user may still connect each of d.Connecting,
	// and the request's code, if there is one, is unredeemed and unexpired; that code
	// is then replaced by this one and keeps its deadline. Nothing is written, either,
	// once so many decisions were made as d.Of lets pass, at d.Now; of calls that race
	// about different grants a few may pass that.
	RecordDecision(ctx context.Context, d DecisionRecord) (won bool, err error)
	// NoteDenial stores the event of a user who declined a request, and counts it as a
	// decision. A code that answered the request is void from then on, though the
	// request keeps its deadline. It loses if no decision is left, or if something came of
	// the request: its code is redeemed, or the grant of its code is live or suspended. Of a
	// denial and a redemption of that code one wins.
	NoteDenial(ctx context.Context, of Allowance, request string, e Event) (won bool, err error)
	// NextDecision returns from when on an allowance lets another decision pass. It may be
	// past.
	NextDecision(ctx context.Context, of Allowance) (time.Time, error)
	// EditGrant replaces the scopes and stores of a grant that is not revoked, if it
	// is at rev and its user may still connect each of connecting, and raises its rev.
	EditGrant(ctx context.Context, g *Grant, rev int64, connecting []string, e Event) (won bool, err error)
	// RevokeGrant ends a grant that is not revoked, and every family under it. It is
	// the user's default grant no longer.
	RevokeGrant(ctx context.Context, grantID string, e Event) (won bool, err error)
	// RevokeGrantAt is RevokeGrant for a grant that is at rev.
	RevokeGrantAt(ctx context.Context, grantID string, rev int64, e Event) (won bool, err error)
	// SuspendGrant suspends a pending or live grant.
	SuspendGrant(ctx context.Context, grantID string, e Event) (won bool, err error)
	// ResumeGrant makes a suspended grant live.
	ResumeGrant(ctx context.Context, grantID string, e Event) (won bool, err error)
}

// CodeStorage keeps authorization codes.
type CodeStorage interface {
	// Code reads a code with the standing of its grant (nil for a guest's), in which
	// stores may lack their names, as in those of FamilyStorage.
	Code(ctx context.Context, selector string) (*StoredCode, *Standing, error)
	// CodeOfRequest reads the code that answered an authorization request.
	CodeOfRequest(ctx context.Context, request string) (*StoredCode, error)
	// IssueGuestCode stores a code that carries no grant (direct profile), if the
	// client is active, its proof holds, and the family to continue, if any, is live.
	IssueGuestCode(ctx context.Context, c *StoredCode, p Proof, e Event) (won bool, err error)
	// RedeemCode marks a code as redeemed by r.Family and issues that family, its
	// refresh token if any and, for a guest, user and grant. At most one call wins a
	// code. It loses if the code is redeemed or expired, if client or user is not
	// active, if r.Proof does not hold, if the grant is not at r.Rev
	// or neither pending nor live, or if the index of a new family is of an older epoch.
	RedeemCode(ctx context.Context, r Redemption) (won bool, err error)
	// RevokeReplayed revokes family, if it is not "", because code was replayed. won
	// reports whether the family was alive until now. A replay that revokes nothing is
	// noted if none was before.
	RevokeReplayed(ctx context.Context, code, family string, e Event) (won bool, err error)
	// EndChain ends a chain of refresh tokens that is not over, and nothing else of its
	// family. Its idle limit is zero from then on.
	EndChain(ctx context.Context, selector string, e Event) (won bool, err error)
}

// FamilyStorage keeps keys, refresh chains and their tokens.
type FamilyStorage interface {
	// LeastUsedFamilies lists the families of a grant that are alive, but for keep of
	// them, the longest unused first: a chain was used when its newest token was issued or
	// refreshed, any other key when it was made. Of the chains that were ever refreshed,
	// half of keep stay, however many newer ones were never.
	LeastUsedFamilies(ctx context.Context, grantID string, keep int) ([]string, error)
	// Family reads a family with the standing of its grant.
	Family(ctx context.Context, id string) (*Family, *Standing, error)
	// Asked reads, in one question, all that introspection rests on: the active API
	// that has this live secret, or ErrNotFound, and the family with the standing of
	// its grant, or nil if there is none of this id.
	Asked(ctx context.Context, apiID string, secret Hash, family string) (*API, *Family, *Standing, error)
	// Refresh reads a chain of refresh tokens, its family and the standing.
	Refresh(ctx context.Context, selector string) (*StoredRefresh, *Family, *Standing, error)
	// RotateRefreshToken uses a refresh token: it puts r.Successor in the place of
	// r.Presented and moves the idle limit, or, for a token that does not rotate
	// (nil), only the latter; r.Again repeats a use within the grace, and changes
	// nothing. It loses if another use came first, if the chain is idle or over, the
	// family is not alive, r.Proof does not hold, client or user is not active, or
	// the grant is not at r.Rev.
	RotateRefreshToken(ctx context.Context, r Rotation) (won bool, err error)
	// RevokeFamily ends a family that is alive.
	RevokeFamily(ctx context.Context, family string, e Event) (won bool, err error)
	// RevokeOwn ends a family that is alive for its client. It loses, too, if the family is
	// another's, or if the client's proof does not hold.
	RevokeOwn(ctx context.Context, clientID string, p Proof, family string, e Event) (won bool, err error)
	// AllotIndices moves the high-water mark of the current status list of an API and
	// kind ("key", "family") by n, at now, and returns the first index, as
	// (epoch × 2^ListBits + list) × 2^IndexBits + place. No index is ever handed out
	// twice; a list that has no room for n, or is of an older epoch, is left as it is
	// and a new one begun.
	AllotIndices(ctx context.Context, api, kind string, n int64, now time.Time) (first int64, err error)
	// TouchUsed notes when grants and client secrets were last used, some at a
	// time, so that nobody who needs their rows waits long.
	TouchUsed(ctx context.Context, at time.Time, grants []string, secrets []Hash) error
	// TouchSeen is TouchUsed for those of the grants that have a family for this API
	// and were last noted before a time, not after at.
	TouchSeen(ctx context.Context, at, before time.Time, api string, grants []string) error
}

// StatusStorage keeps what the feed and the status lists are made of. Every event of
// the feed that is about keys writes, in its own transaction, the status of each:
// computed from its grant, so valid only while the grant is at the revision whose
// rights the key prints. Numbers of the feed have no gaps, and are in the order in
// which their events were committed.
type StatusStorage interface {
	// Present reads where everything stands, in one question.
	Present(ctx context.Context) (Present, error)
	// News is Present with what the feed holds after a sequence, of at most limit
	// events, all as it is at one moment, in one question.
	News(ctx context.Context, after int64, limit int) (News, error)
	// Beat moves the beat, if it is at seen, as durably as a revocation.
	Beat(ctx context.Context, seen int64) error
	// Moved is sent to after an event of this process has moved the feed.
	Moved() <-chan struct{}
	// StatusChanges lists what changed after one sequence and up to another, in order.
	StatusChanges(ctx context.Context, after, upto int64) ([]StatusChange, error)
	// ChangesFor lists the first of them that are about an API's keys, at most limit.
	ChangesFor(ctx context.Context, api string, after, upto int64, limit int) ([]StatusChange, error)
	// RuleChanges lists which rules were set or lifted in between, in order.
	RuleChanges(ctx context.Context, after, upto int64) ([]Rule, error)
	// Rules lists the rules of now.
	Rules(ctx context.Context) ([]Rule, error)
	// StatusList reads a list by its number (epoch × 2^ListBits + list), with the
	// changes after folded, or ErrNotFound.
	StatusList(ctx context.Context, number, folded int64) (*StoredList, error)
	// GoneLists lists the numbers of lists that were dropped: there is one for each
	// 2^IndexBits sign-ins that are long over.
	GoneLists(ctx context.Context) ([]int64, error)
	// CutOff ends all that a signing key has signed, and the key with it, or all keys
	// and refresh tokens that there are (RuleAll, ""). It loses if the key is cut.
	CutOff(ctx context.Context, kind RuleKind, subject string, e Event) (won bool, err error)
	// Foldings lists the rules whose bits are not written yet, or which can be lifted.
	Foldings(ctx context.Context) ([]Folding, error)
	// FoldRule writes the bits of at most limit grants under a rule, or lifts it if it
	// is done: a deleted app's grants end, those in a store raise their revision, and
	// families issued before everything ended end. It loses if another was first.
	FoldRule(ctx context.Context, f Folding, limit int, e Event) (won bool, err error)
	// Chunk reads the bits of one chunk, or ErrNotFound if they are all valid.
	Chunk(ctx context.Context, list, chunk int64) ([]byte, error)
	// FoldChunks puts chunks as they are at upto in the place of those at from. It
	// loses if another folded meanwhile.
	FoldChunks(ctx context.Context, from, upto int64, chunks []StatusChunk) (won bool, err error)
	// PutFollowers notes how far followers have come; none goes back. One of epoch 0 has
	// begun: where it is known already, only that it was seen is noted. Those that have
	// left are returned, and count no more, unless they have begun.
	PutFollowers(ctx context.Context, list []Follower) (left []Follower, err error)
	// RemoveFollower counts one no more, which has left at that time. It is no error if it
	// is not there.
	RemoveFollower(ctx context.Context, api, instance string, at time.Time) error
	// CountFollowers counts those that were seen since, and says how far the last of them
	// has come. Those who ask at the same time may share a question that is sent after
	// they asked, with the since of who asked first.
	CountFollowers(ctx context.Context, since time.Time) (Followed, error)
	// Followers lists those that were seen since.
	Followers(ctx context.Context, since time.Time) ([]Follower, error)
}

// ClientStorage keeps apps.
type ClientStorage interface {
	// Client reads an app that is not deleted, or ErrNotFound.
	Client(ctx context.Context, id string) (*Client, error)
	// ClientSecrets lists the live secrets of an app, oldest first.
	ClientSecrets(ctx context.Context, clientID string) ([]ClientSecret, error)
	// Clients lists apps that are not deleted, by name; owner "" lists all.
	Clients(ctx context.Context, owner string, p Page) ([]*Client, error)
	// VerifiedClients lists id, owner and name of the apps that carry the badge and are not
	// deleted.
	VerifiedClients(ctx context.Context) ([]*Client, error)
	// CreateClient stores a new app with its first secret, if it has one. It loses if the
	// id was ever taken, or if its owner has made as many as most in the AppsWithin before
	// e, deleted ones included. Of calls that race a few may pass that.
	CreateClient(ctx context.Context, c *Client, most int, e Event) (won bool, err error)
	// CountClients says how many apps an owner has made since, deleted ones included, and
	// when the first of these.
	CountClients(ctx context.Context, owner string, since time.Time) (n int, first time.Time, err error)
	// UpdateClient replaces owner, name, settings, redirects and scopes, if the stored
	// app is at c.Version, which is raised. What kind of app it is never changes.
	UpdateClient(ctx context.Context, c *Client, e Event) (won bool, err error)
	// SetClientStatus changes the state of an app that is not deleted.
	SetClientStatus(ctx context.Context, id string, to Status, e Event) (won bool, err error)
	// AddSecret stores one more secret, if there are fewer than MaxSecrets.
	AddSecret(ctx context.Context, clientID string, s ClientSecret, e Event) (won bool, err error)
	// RevokeSecret removes a secret, unless it is the only one.
	RevokeSecret(ctx context.Context, clientID string, h Hash, e Event) (won bool, err error)
	// CountWrongSecrets adds to the counts of wrong secrets, and returns until when
	// each is closed, the zero time if it is not. One that reaches GuessesMax within
	// GuessesWindow, counted from the first, is closed for GuessesClosed, and its event
	// stored; the next one after that closes it again while the window lasts. However
	// many calls race, each wrong secret counts and each closing has one event.
	CountWrongSecrets(ctx context.Context, now time.Time, counts []WrongSecrets) (closed []time.Time, err error)
	// CountGrants says how many grants of the app are live and how many users gave
	// them: what deleting it would end.
	CountGrants(ctx context.Context, clientID string) (grants, users int, err error)
}

// PeopleStorage keeps users, stores and memberships. Passwords and sessions are
// kept by the people package's own contract.
type PeopleStorage interface {
	User(ctx context.Context, id string) (*User, error)
	// Users lists users that are not guests, newest first; a query matches the start
	// of a word of id, name or e-mail.
	Users(ctx context.Context, query string, p Page) ([]*User, error)
	// CreateUser stores a user whose id is free.
	CreateUser(ctx context.Context, u *User, e Event) (won bool, err error)
	// SetUserStatus suspends or resumes a user, whose sign-in sessions end either way:
	// who got in by a stolen one is not let in again by the end of the suspension.
	SetUserStatus(ctx context.Context, id string, to Status, e Event) (won bool, err error)
	// EndPassword puts a password that nobody knows in the place of a user's, and ends
	// his sign-in sessions. It loses if he has none.
	EndPassword(ctx context.Context, userID string, e Event) (won bool, err error)

	Store(ctx context.Context, id string) (*Store, error)
	// Stores lists stores by name; a query matches the start of a word of id, name or
	// domain.
	Stores(ctx context.Context, query string, p Page) ([]*Store, error)
	// PutStore stores a store, new or changed. Grants follow by reading it.
	PutStore(ctx context.Context, s *Store, e Event) error
	// Memberships lists what a user may do, by store name.
	Memberships(ctx context.Context, userID string) ([]Membership, error)
	// Membership is what a user may do in one store, or [ErrNotFound].
	Membership(ctx context.Context, userID, storeID string) (*Membership, error)
	// SetMembership stores a membership, new or changed, and raises the rev of the
	// user's grants. It loses if user or store is not there.
	SetMembership(ctx context.Context, m *Membership, e Event) (won bool, err error)
	// DropMembership removes a membership and raises the rev of the user's grants.
	DropMembership(ctx context.Context, userID, storeID string, e Event) (won bool, err error)
}

// APIStorage keeps audiences and signing keys.
type APIStorage interface {
	// API reads an audience by id, or ErrNotFound.
	API(ctx context.Context, id string) (*API, error)
	// APIByURI reads an audience by its URI, or ErrNotFound.
	APIByURI(ctx context.Context, uri string) (*API, error)
	// APIs lists all audiences.
	APIs(ctx context.Context) ([]*API, error)
	// CreateAPI stores an audience whose id and URI are free.
	CreateAPI(ctx context.Context, a *API, e Event) (won bool, err error)
	// AddAPISecret stores one more secret of an audience, if there are fewer than
	// MaxSecrets.
	AddAPISecret(ctx context.Context, apiID string, s ClientSecret, e Event) (won bool, err error)
	// RevokeAPISecret removes a secret of an audience, unless it is the only one.
	RevokeAPISecret(ctx context.Context, apiID string, h Hash, e Event) (won bool, err error)
	// SigningKeys lists every signing key there is, oldest first.
	SigningKeys(ctx context.Context) ([]StoredKey, error)
	// AddSigningKey stores a key, unless one of its use is active.
	AddSigningKey(ctx context.Context, k StoredKey, e Event) (won bool, err error)
}

// EventStorage keeps events, short-lived requests, and the ends of things.
type EventStorage interface {
	// Head returns the feed's sequence and epoch.
	Head(ctx context.Context) (seq, epoch int64, err error)
	// FeedAfter lists the feed's events after seq, in order, at most limit.
	FeedAfter(ctx context.Context, seq int64, limit int) ([]Event, error)
	// EventsOutside lists the events that are not in the feed and whose ids come after
	// id, by id, at most limit.
	EventsOutside(ctx context.Context, id string, limit int) ([]Event, error)
	// Restores lists the events that began an epoch, oldest first. It costs nothing that
	// grows with the other events.
	Restores(ctx context.Context) ([]Event, error)
	// Events lists events of every kind, newest first. Where few of many events match it
	// takes as long as it takes to read them all, in bounded steps, until ctx ends.
	Events(ctx context.Context, f EventFilter) ([]Event, error)
	// NoteEvent stores an event that changes nothing else.
	NoteEvent(ctx context.Context, e Event) error
	// PutPending keeps what is sealed until expires.
	PutPending(ctx context.Context, selector, kind string, sealed []byte, expires time.Time) error
	// Pending reads what was kept and has not expired at now, or ErrNotFound.
	Pending(ctx context.Context, selector, kind string, now time.Time) ([]byte, error)
	// Lease takes the lease of a name until a time, or renews it. It loses if another
	// holds it at now; of several that want it at once one wins. A holder may lose it
	// half way, by time alone, so what it guards must do no harm when two do it.
	Lease(ctx context.Context, name, holder string, now, until time.Time) (won bool, err error)
	// Sweep removes at most limit rows of each kind that are over at now, with what
	// hangs off them, and puts off as many that are not over after all, in as many events
	// as it takes for none to hold a lock for 10 ms. It returns how many rows that were;
	// less than a quarter of limit says that little is left.
	// Events, and grants that were revoked, are kept for that long. A lasting key that
	// is alive never goes, nor does a grant that consent comes back to.
	Sweep(ctx context.Context, now time.Time, kept time.Duration, limit int) (int, error)
}

// Page is a window on a list.
type Page struct {
	Offset, Limit int
}

// GrantFilter selects grants for operators. Empty fields match everything.
type GrantFilter struct {
	ID, UserID, ClientID, StoreID string
	OnlyLive                      bool
	Page
}

// EventFilter selects events. Empty fields match everything.
type EventFilter struct {
	ClientID, UserID, GrantID string
	Kind                      Kind   // or what stands before its dot, for all of those
	Before                    string // event id: only older ones
	Limit                     int
}

// Connection is a grant as lists show it.
type Connection struct {
	Grant
	Client Client // without redirects, scopes and secrets
	Stores []Membership
	Keys   int // families that are alive: how many keys are out
	// Of its user, in GrantsOfOthers.
	Person     string // his name
	UserStatus Status
}

// DecisionRecord is the argument of RecordDecision.
type DecisionRecord struct {
	Grant         Grant
	ClientVersion int64 // of the app as it was decided on
	Create        bool
	Unchanged     bool // the grant stays as it is, but for its host: only a code is issued
	Unasked       bool // Unchanged, and nobody was asked: the host stays, too
	Rev           int64
	Connecting    []string // stores that the grant did not have
	Of            Allowance
	Code          StoredCode
	Now           time.Time
	Event         Event
}

// StoredCode is an authorization code at rest.
type StoredCode struct {
	Selector       string
	Hash           Hash
	Request        string // id of the authorization request; unique
	ClientID       string
	GrantID        string // "" for a guest's
	FamilyID       string // the guest family that it continues, or ""
	Profile        ProfileName
	API            string
	Narrowing      ScopeSet
	Redirect       string
	RedirectSent   bool // the authorization request named it
	Challenge      string
	Nonce          string
	AuthTime       time.Time
	Expires        time.Time
	RedeemedFamily string
	RedeemedAt     time.Time
}

// Proof is what an app was known by when it asked. The events that rest on it ask for it
// once more; the zero Proof, of an app that proves nothing, asks for nothing.
type Proof struct {
	Secret        Hash  // to be live still
	ClientVersion int64 // at which the app's x-api-key was compared, to be of now still
}

// Redemption is the argument of RedeemCode.
type Redemption struct {
	Selector string
	ClientID string
	Proof           // of the client
	GrantID  string // "" for a guest's code
	Rev      int64
	ISeq     int64  // of the feed, as printed in the key
	Kid      string // of what signed it
	Activate bool   // the grant was pending when it was read
	Family   Family
	Continue bool // Family exists: a guest is continued
	Refresh  *StoredRefresh
	Guest    *Grant // with Guest.UserID: user and grant to create
	Now      time.Time
	Event    Event
}

// StoredRefresh is a chain of refresh tokens at rest: one token, or each with its
// successors.
type StoredRefresh struct {
	Selector      string // of the code that began it
	Family        string
	Hash          Hash      // of the newest token
	Previous      Hash      // of the one that it replaced, nil if it is the first
	RotatedAt     time.Time // when it did, zero if it is the first
	IdleUntil     time.Time
	AbsoluteUntil time.Time // zero: no absolute limit
}

// Rotation is the argument of RotateRefreshToken.
type Rotation struct {
	Selector  string
	Family    string
	ClientID  string
	Proof     // of the client
	GrantID   string
	Rev       int64
	ISeq      int64  // of the feed, as printed in the access token
	Kid       string // of what signed it
	Presented Hash   // the token that is used
	Successor Hash   // nil: the token stays the same
	Again     bool   // Presented is the one before the newest, which is handed out again
	IdleUntil time.Time
	Now       time.Time
	Event     Event
}

// UserKind tells accounts from guests.
type UserKind string

// The kinds of users.
const (
	Person UserKind = "person"
	Guest  UserKind = "guest" // made by a direct client; nobody signs in as one
)

// User is a resource owner.
type User struct {
	ID       string
	Kind     UserKind
	Name     string
	Email    string
	Operator bool
	Status   Status
	Created  time.Time
}

// Store is what users own and open to apps.
type Store struct {
	ID      string
	Name    string
	Domain  string // shown beside the name, "" if it has none
	Status  Status
	Created time.Time
}

// API is an audience: what keys are for, and who may introspect them.
type API struct {
	ID      string
	URI     string // the aud claim; RFC 8707 resource
	Issuer  string // the iss claim of its keys
	Name    string
	Status  Status
	Secrets []ClientSecret
}

// KeyUse tells the keys of lasting keys from all others. The two sets never mix.
type KeyUse string

// The uses of a signing key.
const (
	ForAccess  KeyUse = "access"  // at+jwt; published in jwks_uri
	ForLasting KeyUse = "lasting" // apikey+jwt; never in jwks_uri
)

// StoredKey is a signing key at rest.
type StoredKey struct {
	Kid     string
	Alg     string
	Use     KeyUse
	Sealed  []byte // PKCS#8, sealed by the key ring
	Public  []byte // PKIX
	Status  Status
	Created time.Time
}
