package people

import (
	"context"
	"errors"
	"time"

	"github.com/grantway/grantway/internal/oauth"
)

// Session is somebody who is signed in.
type Session struct {
	ID       string // names the session in sealed forms; of no use without the cookie
	User     *oauth.User
	AuthTime time.Time // OpenID Connect Core, 2: auth_time
	Expires  time.Time
}

// Actor returns who acts in this session.
func (s *Session) Actor() oauth.Actor {
	if s.User.Operator {
		return oauth.Actor{Kind: oauth.AsOperator, ID: s.User.ID}
	}
	return oauth.Actor{Kind: oauth.AsUser, ID: s.User.ID}
}

// newSession makes a session, its cookie and the row that is kept of it.
func (s *Service) newSession(u *oauth.User, now time.Time) (*Session, oauth.Secret, *StoredSession, error) {
	a, err := oauth.NewArtefact(now, s.rand)
	if err != nil {
		return nil, "", nil, err
	}
	stored := &StoredSession{Selector: a.Selector, Hash: oauth.HashOf(a.Secret), UserID: u.ID, AuthTime: now, AMR: "pwd", Expires: now.Add(SessionLife)}
	return &Session{ID: a.Selector, User: u, AuthTime: now, Expires: stored.Expires}, a.Secret, stored, nil
}

// Session returns the live session of a cookie. It writes nothing. Errors:
// [oauth.NotSignedIn]; [oauth.UserSuspended].
func (s *Service) Session(ctx context.Context, cookie string) (*Session, error) {
	a, ok := oauth.ParseArtefact(cookie)
	if !ok {
		return nil, oauth.Refuse(oauth.NotSignedIn)
	}
	stored, u, err := s.storage.Session(ctx, a.Selector)
	switch {
	case errors.Is(err, oauth.ErrNotFound):
		return nil, oauth.Refuse(oauth.NotSignedIn)
	case err != nil:
		return nil, err
	case !stored.Hash.Matches(a.Secret) || !s.now().Before(stored.Expires):
		return nil, oauth.Refuse(oauth.NotSignedIn)
	case u.Status != oauth.Active:
		return nil, oauth.Refuse(oauth.UserSuspended)
	}
	return &Session{ID: stored.Selector, User: u, AuthTime: stored.AuthTime, Expires: stored.Expires}, nil
}

// SignOut ends a session. One that has ended already is no error.
func (s *Service) SignOut(ctx context.Context, session *Session) error {
	e, err := s.server.NewEvent(ctx, EventSignedOut, session.Actor(), nil)
	if err != nil {
		return err
	}
	e.UserID = session.User.ID
	_, err = s.storage.EndSession(ctx, session.ID, e)
	return err
}

// EndSessions signs a user out everywhere: oneself, or anybody for who runs the
// platform.
func (s *Service) EndSessions(ctx context.Context, actor oauth.Actor, userID string) error {
	switch actor.Kind {
	case oauth.AsOperator, oauth.AsCommand, oauth.AsSystem:
	case oauth.AsUser:
		if actor.ID != userID {
			return oauth.Refuse(oauth.NotPermitted)
		}
	default:
		return oauth.Refuse(oauth.NotPermitted)
	}
	e, err := s.server.NewEvent(ctx, EventSessionsEnded, actor, nil)
	if err != nil {
		return err
	}
	e.UserID = userID
	_, err = s.storage.EndSessions(ctx, userID, e)
	return err
}
