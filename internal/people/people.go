// Package people keeps the built-in accounts: users with e-mail and password,
// their sign-in sessions, and the limits on guessing. It knows neither HTTP nor
// SQL; what a page needs is one method of [Service].
package people

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Lives of what this package issues.
const (
	SessionLife = 14 * 24 * time.Hour // absolute; use does not extend it
	InviteLife  = 24 * time.Hour
)

// Config is what a service is made of. Storage and Server are required.
type Config struct {
	Storage Storage
	Server  *oauth.Server    // writes down what happened
	Now     func() time.Time // nil: the server's
	Rand    io.Reader        // nil: crypto/rand

	Unlimited bool // the demo: nobody is kept waiting after wrong passwords
}

// Service holds the accounts. Its methods are safe for concurrent use.
type Service struct {
	storage   Storage
	server    *oauth.Server
	now       func() time.Time
	rand      io.Reader
	unlimited bool
	hashes    hasher
}

// New makes a service.
func New(c Config) *Service {
	s := &Service{storage: c.Storage, server: c.Server, rand: c.Rand, unlimited: c.Unlimited, hashes: newHasher()}
	now := c.Now
	if now == nil {
		now = c.Server.Now
	}
	s.now = func() time.Time { return now().Truncate(time.Microsecond) } // what storage keeps
	if s.rand == nil {
		s.rand = rand.Reader
	}
	return s
}

// SignUp is the form of a new account.
type SignUp struct {
	Name     string
	Email    string
	Password string
	Invite   string // the secret of an operator link, or ""
	IP       string // where the form came from
}

// SignUp creates an account and signs it in; the secret is for the cookie. A live
// invite makes the account an operator, once.
//
// Errors: [oauth.FieldErrors] for name, email and password, email being also where
// one learns that the address has an account; [ReasonInviteSpent]; [Locked] after
// too many attempts from one network; [ReasonBusy].
func (s *Service) SignUp(ctx context.Context, f SignUp) (*Session, oauth.Secret, error) {
	now := s.now()
	invite, err := s.invite(ctx, f.Invite, now)
	if err != nil {
		return nil, "", err
	}
	u := &oauth.User{Kind: oauth.Person, Operator: invite != nil, Status: oauth.Active, Created: now}
	errs := oauth.FieldErrors{}
	u.Name = checkName(f.Name, errs)
	u.Email = checkEmail(f.Email, errs)
	checkPassword(f.Password, u.Email, errs)
	if len(errs) > 0 {
		return nil, "", errs
	}
	leave, err := s.hashes.enter()
	if err != nil {
		return nil, "", err
	}
	defer leave()
	if err := s.admit(ctx, now, []Limit{signUpLimit(f.IP)}); err != nil {
		return nil, "", err
	}
	if u.ID, err = oauth.NewID("usr_", now, s.rand); err != nil {
		return nil, "", err
	}
	a, err := s.account(ctx, u, f.Password, oauth.Actor{Kind: oauth.AsUser, ID: u.ID})
	if err != nil {
		return nil, "", err
	}
	a.Invite = invite
	session, secret, stored, err := s.newSession(u, now)
	if err != nil {
		return nil, "", err
	}
	a.Session = stored
	a.Familiar = Familiar{Key: familiarKey(u.Email, f.IP), Until: now.Add(familiarFor)}
	if a.SignedIn, err = s.signedIn(ctx, u, f.IP); err != nil {
		return nil, "", err
	}
	if err := s.create(ctx, a); err != nil {
		return nil, "", err
	}
	return session, secret, nil
}

// NewAccount is an account that the operator makes.
type NewAccount struct {
	ID       string // the platform's own; "" makes one
	Name     string
	Email    string
	Password string // "": nobody can sign in with a password
	Operator bool
}

// CreateAccount makes an account for the command line and the server itself.
// Errors: [oauth.FieldErrors] for id, name, email and password.
func (s *Service) CreateAccount(ctx context.Context, actor oauth.Actor, f NewAccount) (*oauth.User, error) {
	if actor.Kind != oauth.AsCommand && actor.Kind != oauth.AsSystem {
		return nil, oauth.Refuse(oauth.NotPermitted)
	}
	now := s.now()
	u := &oauth.User{ID: f.ID, Kind: oauth.Person, Operator: f.Operator, Status: oauth.Active, Created: now}
	errs := oauth.FieldErrors{}
	u.Name = checkName(f.Name, errs)
	if f.Email != "" || f.Password != "" {
		u.Email = checkEmail(f.Email, errs)
	}
	if f.Password != "" {
		checkPassword(f.Password, u.Email, errs)
	}
	if f.ID == "" {
		var err error
		if u.ID, err = oauth.NewID("usr_", now, s.rand); err != nil {
			return nil, err
		}
	} else if !oauth.OpaqueID(f.ID) {
		errs["id"] = oauth.Refuse(oauth.IDMalformed)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	leave, err := s.hashes.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	a, err := s.account(ctx, u, f.Password, actor)
	if err != nil {
		return nil, err
	}
	if err := s.create(ctx, a); err != nil {
		return nil, err
	}
	return u, nil
}

// SetPassword gives a user another password, for who forgot his, and ends every
// sign-in of his, also one that is under way by the password that was. Guesses at that
// one count no more. What he allowed apps goes on.
//
// Errors: [oauth.NoSuch]; [ReasonNoPassword]; [oauth.FieldErrors] for the password;
// [ReasonPasswordSet]; [ReasonBusy].
func (s *Service) SetPassword(ctx context.Context, actor oauth.Actor, userID, password string) (*oauth.User, error) {
	if actor.Kind != oauth.AsCommand {
		return nil, oauth.Refuse(oauth.NotPermitted)
	}
	u, err := s.server.User(ctx, actor, userID)
	if err != nil {
		return nil, err
	}
	login, err := s.storage.LoginOf(ctx, ByPassword, userID)
	if errors.Is(err, oauth.ErrNotFound) {
		return nil, refuse(ReasonNoPassword)
	}
	if err != nil {
		return nil, err
	}
	errs := oauth.FieldErrors{}
	if checkPassword(password, login.Subject, errs); len(errs) > 0 {
		return nil, errs
	}
	leave, err := s.hashes.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	credential, err := s.hashes.hash(ctx, password, s.rand)
	if err != nil {
		return nil, err
	}
	e, err := s.server.NewEvent(ctx, oauth.EventPasswordSet, actor, nil)
	if err != nil {
		return nil, err
	}
	e.UserID = userID
	won, err := s.storage.SetPassword(ctx, login, credential, e)
	switch {
	case err != nil:
		return nil, err
	case !won:
		return nil, refuse(ReasonPasswordSet)
	}
	return u, nil
}

// account prepares the record of a new user; password "" gives no login.
func (s *Service) account(ctx context.Context, u *oauth.User, password string, actor oauth.Actor) (*Account, error) {
	a := &Account{User: *u, Now: u.Created}
	var err error
	if a.Created, err = s.server.NewEvent(ctx, oauth.EventUserCreated, actor, map[string]bool{"operator": u.Operator}); err != nil {
		return nil, err
	}
	a.Created.UserID = u.ID
	if password == "" {
		return a, nil
	}
	// Hashing costs 28 ms: not for an address that is taken.
	if err := s.free(ctx, u.Email); err != nil {
		return nil, err
	}
	credential, err := s.hashes.hash(ctx, password, s.rand)
	if err != nil {
		return nil, err
	}
	a.Login = &Login{Issuer: ByPassword, Subject: u.Email, UserID: u.ID, Credential: credential}
	return a, nil
}

func (s *Service) free(ctx context.Context, email string) error {
	_, _, err := s.storage.Login(ctx, ByPassword, email)
	switch {
	case err == nil:
		return oauth.FieldErrors{"email": refuse(ReasonEmailTaken)}
	case errors.Is(err, oauth.ErrNotFound):
		return nil
	}
	return err
}

// create stores an account, and finds out why if it lost.
func (s *Service) create(ctx context.Context, a *Account) error {
	won, err := s.storage.CreateAccount(ctx, a)
	if err != nil || won {
		return err
	}
	if a.Login != nil {
		if err := s.free(ctx, a.Login.Subject); err != nil {
			return err
		}
	}
	if a.Invite != nil {
		return refuse(ReasonInviteSpent)
	}
	return oauth.FieldErrors{"id": oauth.Refuse(oauth.IDTaken)}
}

// OperatorLink makes the secret of a link whose sign-up becomes an operator: once,
// and within [InviteLife].
func (s *Service) OperatorLink(ctx context.Context, actor oauth.Actor) (oauth.Secret, error) {
	now := s.now()
	a, err := oauth.NewArtefact(now, s.rand)
	if err != nil {
		return "", err
	}
	e, err := s.server.NewEvent(ctx, EventOperatorLinkMade, actor, nil)
	if err != nil {
		return "", err
	}
	return a.Secret, s.storage.PutInvite(ctx, a.Selector, oauth.HashOf(a.Secret), now.Add(InviteLife), e)
}

// LookAtInvite tells whether the secret of an operator's link would make one now. It spends nothing. No secret is no error.
// Errors: [ReasonInviteSpent].
func (s *Service) LookAtInvite(ctx context.Context, secret string) error {
	_, err := s.invite(ctx, secret, s.now())
	return err
}

// invite reads the invite that a link brought; nil if it brought none.
func (s *Service) invite(ctx context.Context, secret string, now time.Time) (*Invite, error) {
	if secret = strings.TrimSpace(secret); secret == "" {
		return nil, nil
	}
	a, ok := oauth.ParseArtefact(secret)
	if !ok {
		return nil, refuse(ReasonInviteSpent)
	}
	i, err := s.storage.Invite(ctx, a.Selector)
	switch {
	case errors.Is(err, oauth.ErrNotFound):
		return nil, refuse(ReasonInviteSpent)
	case err != nil:
		return nil, err
	case !i.Hash.Matches(a.Secret) || i.Used || !now.Before(i.Expires):
		return nil, refuse(ReasonInviteSpent)
	}
	return i, nil
}
