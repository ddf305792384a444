package people

import (
	"context"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Storage is what accounts need of a database. Its methods keep the promises of
// [oauth.Storage]: an event is atomic and durable, its row in events is part of
// it, and a method that returns won reports false, with nothing written, if its
// guard did not hold. The suite in storagetest proves each promise on every
// engine.
type Storage interface {
	// Login reads a way to sign in with its user, or [oauth.ErrNotFound].
	Login(ctx context.Context, issuer, subject string) (*Login, *oauth.User, error)
	// LoginOf reads a user's way to sign in, or [oauth.ErrNotFound].
	LoginOf(ctx context.Context, issuer, userID string) (*Login, error)
	// SetPassword replaces the credential of a login as it was read, and ends every
	// session of its user. It loses if a password was set since; of several calls with
	// one login one wins. Beside a sign-in that was proved by the password that was,
	// either that loses or its session has ended.
	SetPassword(ctx context.Context, was *Login, credential string, e oauth.Event) (won bool, err error)
	// CreateAccount stores a user and, if they are there, the login and the first
	// session, and spends the invite. It loses if user or login exists, or if the
	// invite is spent or over. Of several calls for one login or invite one wins.
	CreateAccount(ctx context.Context, a *Account) (won bool, err error)
	// StartSession stores a session of an active user, forgives the attempt that led
	// to it, remembers what is familiar from now on, and replaces the credential if a new one is given and the old one is
	// still there. It loses if the user is not active, or if a password was set since the
	// login was read; a credential that was replaced by a sign-in is the same password.
	// Beside his suspension, either it loses or its session has ended.
	StartSession(ctx context.Context, r *SignInRecord) (won bool, err error)
	// NoteEvent stores the event of a sign-in that was refused.
	NoteEvent(ctx context.Context, e oauth.Event) error

	// Session reads a session and its user, in whatever state, or
	// [oauth.ErrNotFound].
	Session(ctx context.Context, selector string) (*StoredSession, *oauth.User, error)
	// EndSession removes a session.
	EndSession(ctx context.Context, selector string, e oauth.Event) (won bool, err error)
	// EndSessions removes every session of a user. It loses if there is none.
	EndSessions(ctx context.Context, userID string, e oauth.Event) (won bool, err error)

	// Admit counts an attempt against each of the limits, or against none: it loses
	// if one of them is closed at now. However many calls race, no more are admitted
	// than the limits have room for. op is a fresh id.
	Admit(ctx context.Context, op string, limits []Limit, now time.Time) (won bool, err error)
	// ClosedUntil returns until when the limits of these keys are closed, at the
	// latest; the zero time if none was ever.
	ClosedUntil(ctx context.Context, keys []string) (time.Time, error)
	// Familiar reports whether what has this key was remembered, by StartSession, until
	// a time after now.
	Familiar(ctx context.Context, key string, now time.Time) (bool, error)

	// PutInvite keeps an operator's invite.
	PutInvite(ctx context.Context, selector string, h oauth.Hash, expires time.Time, e oauth.Event) error
	// Invite reads an invite, or [oauth.ErrNotFound].
	Invite(ctx context.Context, selector string) (*Invite, error)
}

// Login is one way to sign in.
type Login struct {
	Issuer     string // "password", or who vouches for the subject
	Subject    string // for a password: the normalised e-mail
	UserID     string
	Credential string // PHC string; "": a password that nobody knows
	Set        string // id of the event that set it, as it was read
}

// ByPassword is the issuer of a login by e-mail and password.
const ByPassword = "password"

// StoredSession is a sign-in session at rest.
type StoredSession struct {
	Selector string
	Hash     oauth.Hash
	UserID   string
	AuthTime time.Time
	AMR      string // RFC 8176: how the user proved himself
	Expires  time.Time
}

// Invite is an operator link at rest.
type Invite struct {
	Selector string
	Hash     oauth.Hash
	Expires  time.Time
	Used     bool // read only
}

// Account is the argument of CreateAccount.
type Account struct {
	User     oauth.User
	Login    *Login         // nil: none
	Session  *StoredSession // nil: nobody is signed in by this; needs Login
	Familiar Familiar       // with Session, as of [SignInRecord]
	Invite   *Invite        // nil: none; needs Login
	Now      time.Time
	Created  oauth.Event
	SignedIn oauth.Event // with Session
}

// SignInRecord is the argument of StartSession.
type SignInRecord struct {
	Session    StoredSession
	Login      Login    // as it was read
	Credential string   // what replaces Login.Credential; "" keeps it
	Clear      []string // keys of limits whose count ends
	Uncount    []string // keys of limits from which this attempt is taken back
	Familiar   Familiar // from where he has signed in; no key: nothing is remembered
	Event      oauth.Event
}

// Familiar names a network from which somebody has signed in, and until when that counts.
type Familiar struct {
	Key   string
	Until time.Time
}

// Limit bounds attempts under one key. Up to Free of them pass within Window,
// counted from the first; the Free-th and each later one closes the key, for First
// and then for twice as long each time, at most Max. A key whose window is over and
// which is not closed begins anew.
type Limit struct {
	Key    string
	Free   int64
	First  time.Duration
	Max    time.Duration
	Window time.Duration
}

// Doublings returns how often First doubles before it reaches Max.
func (l Limit) Doublings() int64 {
	n := int64(0)
	for d := l.First; d < l.Max; d *= 2 {
		n++
	}
	return n
}
