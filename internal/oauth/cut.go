package oauth

import (
	"context"
	"time"
)

// SigningKeys lists the signing keys there are, oldest first, without their private
// parts.
func (s *Server) SigningKeys(ctx context.Context, actor Actor) ([]StoredKey, error) {
	if !actor.runs() {
		return nil, refuse(NotPermitted)
	}
	list, err := s.storage.SigningKeys(ctx)
	for i := range list {
		list[i].Sealed = nil
	}
	return list, err
}

// CutKey ends all that a signing key has signed, for when its private part may be in
// other hands, and makes another in its place; when it returns, every node goes by
// that. Grants and refresh tokens live on: an
// app with a refresh token gets a new access token by it. A lasting key has none.
func (s *Server) CutKey(ctx context.Context, actor Actor, kid string) error {
	list, err := s.SigningKeys(ctx, actor)
	if err != nil {
		return err
	}
	for _, k := range list {
		if k.Kid != kid {
			continue
		}
		e, err := s.NewEvent(ctx, EventKeyCut, actor, ofKey{k.Kid, k.Use})
		if err != nil {
			return err
		}
		won, err := s.storage.CutOff(ctx, RuleKey, kid, e)
		if err == nil && !won {
			err = refuse(Changed)
		}
		if err != nil {
			return err
		}
		if err := s.loadKeys(ctx); err != nil {
			return err
		}
		// Other nodes do so when they read of it, and go by nothing that they read longer
		// ago than this.
		read := time.NewTimer(staleAfter)
		defer read.Stop()
		select {
		case <-read.C:
		case <-ctx.Done(): // it is cut all the same
		}
		return nil
	}
	return refuse(NoSuch)
}

// CutEverything ends every key and every refresh token there is. Grants stay: what an
// app gets by a new code counts.
func (s *Server) CutEverything(ctx context.Context, actor Actor) error {
	if !actor.runs() {
		return refuse(NotPermitted)
	}
	e, err := s.NewEvent(ctx, EventEverythingCut, actor, nil)
	if err != nil {
		return err
	}
	_, err = s.storage.CutOff(ctx, RuleAll, "", e)
	return err
}
