package oauth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"
)

// GrantType is the wire parameter grant_type (RFC 6749, 4).
type GrantType string

// The grant types.
const (
	GrantAuthorizationCode GrantType = "authorization_code"
	GrantRefreshToken      GrantType = "refresh_token"
)

// ClientAuth is how a caller presented himself at a machine's endpoint. The
// dialect has refused two methods at once before it builds one.
type ClientAuth struct {
	ID     string
	Secret Secret // "" if none was sent
	APIKey Secret // x-api-key, "" if none was sent

	// Admit, if it is there, is asked once the client has proved itself and before
	// anything else is looked at: what it refuses burns nothing and reveals nothing.
	Admit func(*Client) error
}

// TokenRequest is a token request of any dialect, parsed once.
type TokenRequest struct {
	Serves       []ProfileName // the profiles of the endpoint that was asked
	Auth         ClientAuth
	GrantType    GrantType
	Code         string
	RedirectURI  string
	Verifier     string
	RefreshToken string
	Scope        string

	// AdmitFamily, if it is there, is asked before a family that there is gets another
	// access token: once all else was found right, and nothing is signed or written yet.
	AdmitFamily func(id string) error
}

// admitFamily asks once, however often the request begins anew because the world changed.
func (r *TokenRequest) admitFamily(id string) error {
	admit := r.AdmitFamily
	if admit == nil {
		return nil
	}
	r.AdmitFamily = nil
	return admit(id)
}

// TokenResponse is what a dialect prints.
type TokenResponse struct {
	AccessToken  Secret
	ExpiresIn    time.Duration // 0: it does not expire
	RefreshToken Secret        // "" if none is issued
	Scope        string        // of the access token, as its scope claim has it
	Profile      ProfileName
	ClientID     string
	GrantID      string
}

// Outcome is how one request ended, for counting. Neither field holds anything
// that a client could choose.
type Outcome struct {
	Grant  GrantType // "other" for one that there is not; "introspection", "feed"
	Reason Reason    // of the refusal; "" if there was none
}

// inactive is the Outcome of a question about a token that does not count. It is no
// refusal, so it has no row in the table of reasons.
const inactive Reason = "inactive"

// Token answers a token request.
func (s *Server) Token(ctx context.Context, r TokenRequest) (*TokenResponse, error) {
	resp, err := s.token(ctx, r)
	o := Outcome{Grant: r.GrantType}
	if o.Grant != GrantAuthorizationCode && o.Grant != GrantRefreshToken {
		o.Grant = "other"
	}
	if err != nil {
		o.Reason = AsError(err).Reason
	}
	s.observe(o)
	return resp, err
}

// token authenticates the client, once, before the switch on the grant type, so
// that no grant can forget it.
func (s *Server) token(ctx context.Context, r TokenRequest) (resp *TokenResponse, err error) {
	c, proof, err := s.authenticate(ctx, r.Auth, r.Serves)
	if err != nil {
		return nil, err
	}
	ctx, leave := s.storage.Visit(ctx)
	defer leave()
	switch r.GrantType {
	case GrantAuthorizationCode:
		resp, err = s.redeemCode(ctx, c, proof, r)
	case GrantRefreshToken:
		resp, err = s.refreshToken(ctx, c, proof, r)
	case "":
		err = refuseParam(ParamMissing, "grant_type")
	default:
		err = refuse(GrantTypeUnknown)
	}
	switch {
	case errors.Is(err, ErrUnavailable): // no verdict, so none on the secret; and what is unknown must be told as that
		return nil, err
	case err != nil:
		return nil, cmp.Or(s.confirm(ctx, c, proof), err)
	}
	return resp, nil
}

// nobody is compared with where a client is unknown, so that the answer takes as
// long (attack C7).
var nobody = Hash(make([]byte, sha256.Size))

// authenticate finds the client and proves it. serves nil admits every profile,
// admit nil everybody.
//
// The secret by which a client is known here, mostly from the cache, is still a
// question to the database: the event that issues, or revokes, asks it in its guard, and
// whoever refuses first asks [Server.confirm]. So a secret is never decided
// from a cache (DESIGN, decision 14), and costs no read of its own. An x-api-key stands in
// the app's settings, so its version is asked for; that an app has none yet is known by
// the cache alone, for 100 ms at most after it got its first.
func (s *Server) authenticate(ctx context.Context, a ClientAuth, serves []ProfileName) (c *Client, proof Proof, err error) {
	if a.ID == "" {
		return nil, Proof{}, refuse(ClientIDMissing)
	}
	c, err = s.Client(ctx, a.ID)
	if errors.Is(err, ErrNotFound) {
		nobody.Matches(a.Secret)
		return nil, Proof{}, refuse(ClientUnknown)
	}
	if err != nil {
		return nil, Proof{}, err
	}
	if serves != nil && !slices.Contains(serves, c.Profile) {
		return nil, Proof{}, refuse(ProfileMismatch)
	}
	switch {
	case c.AuthMethod == ByNone:
		if a.Secret != "" {
			return nil, Proof{}, refuse(ClientAuthMethod)
		}
		if c.Settings.APIKeyHash != nil {
			c, err = s.storage.Client(ctx, a.ID) // read anew, as secrets are
			switch {
			case errors.Is(err, ErrNotFound): // deleted since the cache read it
				return nil, Proof{}, refuse(ClientUnknown)
			case err != nil:
				return nil, Proof{}, err
			}
			if c.Settings.APIKeyHash != nil && !c.Settings.APIKeyHash.Matches(a.APIKey) {
				return nil, Proof{}, refuse(APIKeyWrong)
			}
			proof.ClientVersion = c.Version
		}
	case a.Secret == "":
		return nil, Proof{}, refuse(ClientAuthMissing)
	default:
		found := secretAmong(c.Secrets, a.Secret)
		if found == nil { // it may be newer than the cache
			secrets, err := s.storage.ClientSecrets(ctx, c.ID)
			if err != nil {
				return nil, Proof{}, err
			}
			if found = secretAmong(secrets, a.Secret); found == nil {
				return nil, Proof{}, refuse(SecretWrong)
			}
		}
		proof.Secret = found.Hash
		s.usedSecret(string(found.Hash))
	}
	if a.Admit != nil {
		if err := a.Admit(c); err != nil {
			return nil, Proof{}, err
		}
	}
	if c.Status != Active {
		return nil, Proof{}, cmp.Or(s.confirm(ctx, c, proof), error(refuse(ClientSuspended)))
	}
	return c, proof, nil
}

// confirm asks the database whether a secret is still the client's. A key needs no asking:
// this request has read it anew.
func (s *Server) confirm(ctx context.Context, c *Client, proof Proof) error {
	if proof.Secret == nil {
		return nil
	}
	secrets, err := s.storage.ClientSecrets(ctx, c.ID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(secrets, func(live ClientSecret) bool { return bytes.Equal(live.Hash, proof.Secret) }) {
		return refuse(SecretWrong)
	}
	return nil
}

// unproved is asked when an event that asks for a proof has lost: it refuses who is not the
// client any longer. Of an app that was edited since its key was compared that is not
// known: who comes again is compared anew.
func (s *Server) unproved(ctx context.Context, c *Client, proof Proof) error {
	if proof.ClientVersion != 0 {
		now, err := s.storage.Client(ctx, c.ID)
		switch {
		case err != nil && !errors.Is(err, ErrNotFound):
			return err
		case err != nil || now.Version != proof.ClientVersion:
			return refuse(Changed)
		}
	}
	return s.confirm(ctx, c, proof)
}

// again is unproved for an event that may be tried once more. It reads the feed, too,
// because the key that signed may have been cut off.
func (s *Server) again(ctx context.Context, c *Client, proof Proof) error {
	if err := s.unproved(ctx, c, proof); err != nil {
		return err
	}
	return s.follow(ctx, time.Since(start))
}

// ProfileOf returns the profile of a client, or ErrNotFound. A dialect asks it to
// choose its own form of answer; it decides nothing.
func (s *Server) ProfileOf(ctx context.Context, clientID string) (ProfileName, error) {
	if clientID == "" || len(clientID) > maxClient {
		return "", ErrNotFound
	}
	c, err := s.Client(ctx, clientID)
	if err != nil {
		return "", err
	}
	return c.Profile, nil
}
