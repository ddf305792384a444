package people

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// SignIn is the form of a sign-in.
type SignIn struct {
	Email    string
	Password string
	IP       string // where the form came from
}

// SignIn checks a password and starts a session with a new id; the secret is for
// the cookie. An unknown address and a wrong password take as long and get the same
// answer.
//
// Errors: [ReasonCredentials]; [oauth.UserSuspended], to who knows the password;
// [Locked], without a look at the password; [ReasonBusy].
func (s *Service) SignIn(ctx context.Context, f SignIn) (*Session, oauth.Secret, error) {
	email, ok := normaliseEmail(f.Email)
	if !ok {
		return nil, "", refuse(ReasonCredentials) // nobody has it
	}
	// A place in the queue comes first: who is sent away for want of one has made no
	// attempt.
	leave, err := s.hashes.enter()
	if err != nil {
		return nil, "", err
	}
	defer leave()
	now := s.now()
	login, u, err := s.storage.Login(ctx, ByPassword, email)
	if errors.Is(err, oauth.ErrNotFound) {
		login, err = &Login{}, nil
	}
	if err != nil {
		return nil, "", err
	}
	here := Familiar{Key: familiarKey(email, f.IP), Until: now.Add(familiarFor)}
	familiar, err := s.storage.Familiar(ctx, here.Key, now)
	if err != nil {
		return nil, "", err
	}
	limits := signInLimits(email, login.Set, f.IP, familiar)
	if err := s.admit(ctx, now, limits); err != nil {
		return nil, "", err
	}
	if login.Credential == "" {
		if err := s.hashes.waste(ctx, f.Password); err != nil {
			return nil, "", err
		}
		return nil, "", s.refused(ctx, u, f.IP, refuse(ReasonCredentials))
	}
	right, stale, err := s.hashes.verify(ctx, login.Credential, f.Password)
	switch {
	case err != nil:
		return nil, "", err
	case !right:
		return nil, "", s.refused(ctx, u, f.IP, refuse(ReasonCredentials))
	case u.Status != oauth.Active:
		return nil, "", s.refused(ctx, u, f.IP, oauth.Refuse(oauth.UserSuspended))
	}
	r := &SignInRecord{Login: *login}
	if !s.unlimited {
		r.Clear, r.Familiar = []string{limits[0].Key}, here
		for _, l := range limits[1:] {
			r.Uncount = append(r.Uncount, l.Key)
		}
	}
	if stale {
		if r.Credential, err = s.hashes.hash(ctx, f.Password, s.rand); err != nil {
			return nil, "", err
		}
	}
	session, secret, stored, err := s.newSession(u, now)
	if err != nil {
		return nil, "", err
	}
	r.Session = *stored
	if r.Event, err = s.signedIn(ctx, u, f.IP); err != nil {
		return nil, "", err
	}
	won, err := s.storage.StartSession(ctx, r)
	switch {
	case err != nil:
		return nil, "", err
	case !won:
		return nil, "", s.refusedLate(ctx, login, u, f.IP)
	}
	return session, secret, nil
}

// refusedLate notes and returns what ended a sign-in while its password was checked:
// another one was set, or the user was suspended, which is said only to who knows the
// password of now.
func (s *Service) refusedLate(ctx context.Context, was *Login, u *oauth.User, ip string) error {
	login, _, err := s.storage.Login(ctx, was.Issuer, was.Subject)
	if err != nil {
		return err
	}
	why := oauth.Refuse(oauth.UserSuspended)
	if login.Set != was.Set {
		why = refuse(ReasonCredentials)
	}
	return s.refused(ctx, u, ip, why)
}

func (s *Service) signedIn(ctx context.Context, u *oauth.User, ip string) (oauth.Event, error) {
	e, err := s.server.NewEvent(ctx, oauth.EventSignedIn, oauth.Actor{Kind: oauth.AsUser, ID: u.ID}, map[string]string{"amr": "pwd", "network": oauth.NetworkOf(ip)})
	e.UserID = u.ID
	return e, err
}

// refused notes a sign-in that failed and returns why. The event holds nothing that
// was typed: people type passwords into the wrong field.
func (s *Service) refused(ctx context.Context, u *oauth.User, ip string, why *oauth.Error) error {
	e, err := s.server.NewEvent(ctx, oauth.EventSignInRefused, oauth.Actor{}, map[string]string{"reason": string(why.Reason), "network": oauth.NetworkOf(ip)})
	if err != nil {
		return err
	}
	if u != nil {
		e.UserID = u.ID
	}
	if err := s.storage.NoteEvent(ctx, e); err != nil {
		return err
	}
	return why
}

func familiarKey(email, ip string) string { return limitKey("signed in", email, oauth.NetworkOf(ip)) }

// familiarFor is how long a network is one from which somebody has signed in.
const familiarFor = 90 * 24 * time.Hour

// signInLimits are the limits on guessing, the one of address and network first:
// it alone closes early, so that an attacker elsewhere does not lock the owner out.
// The one of the address over all networks never closes for longer than a quarter
// of an hour at a time, but whoever has many networks closes it again and again; so it
// is not asked where the owner is familiar: from there he has signed in of late, be it
// by another password. These two count guesses at one password: set names it, so that
// where another is set they begin anew with the event that sets it.
func signInLimits(email, set, ip string, familiar bool) []Limit {
	from := oauth.NetworkOf(ip)
	limits := []Limit{
		{Key: limitKey("sign-in", email, set, from), Free: 5, First: 30 * time.Second, Max: 15 * time.Minute, Window: 24 * time.Hour},
		{Key: limitKey("sign-in from", oauth.AddressOf(ip)), Free: 100, First: time.Hour, Max: time.Hour, Window: time.Hour},
	}
	if !familiar {
		limits = append(limits, Limit{Key: limitKey("sign-in to", email, set), Free: 50, First: 15 * time.Minute, Max: 15 * time.Minute, Window: time.Hour})
	}
	return limits
}

// signUpLimit also bounds how many addresses can be asked about, since sign-up must
// tell that one is taken.
func signUpLimit(ip string) Limit {
	return Limit{Key: limitKey("sign-up from", oauth.AddressOf(ip)), Free: 30, First: time.Hour, Max: time.Hour, Window: time.Hour}
}

// limitKey hashes its parts, since an address may be a password typed into the
// wrong field.
func limitKey(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// admit counts an attempt, or refuses it with [Locked].
func (s *Service) admit(ctx context.Context, now time.Time, limits []Limit) error {
	if s.unlimited {
		return nil
	}
	keys := make([]string, len(limits))
	for i, l := range limits {
		keys[i] = l.Key
	}
	for range 3 { // the sweeper may take a row away in between
		until, err := s.storage.ClosedUntil(ctx, keys)
		if err != nil {
			return err
		}
		if until.After(now) {
			return Locked{until}
		}
		op, err := oauth.NewID("at_", now, s.rand)
		if err != nil {
			return err
		}
		won, err := s.storage.Admit(ctx, op, limits, now)
		if err != nil || won {
			return err
		}
	}
	return Locked{now.Add(time.Second)}
}
