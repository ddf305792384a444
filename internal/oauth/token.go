package oauth

import (
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

	// Admit, if it is there, is asked once the client has proved itself and before
	// anything else is looked at: what it refuses burns nothing and reveals nothing.
	Admit func(*Client) error
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
	Grant  GrantType // "other" for one that there is not; "introspection"
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
func (s *Server) token(ctx context.Context, r TokenRequest) (*TokenResponse, error) {
	c, err := s.authenticate(ctx, r.Auth, r.Serves, r.Admit)
	if err != nil {
		return nil, err
	}
	switch r.GrantType {
	case GrantAuthorizationCode:
		return s.redeemCode(ctx, c, r)
	case GrantRefreshToken:
		return s.refreshToken(ctx, c, r)
	case "":
		return nil, refuseParam(ParamMissing, "grant_type")
	default:
		return nil, refuse(GrantTypeUnknown)
	}
}

// nobody is compared with where a client is unknown, so that the answer takes as
// long (attack C7).
var nobody = Hash(make([]byte, sha256.Size))

// authenticate finds the client and proves it. serves nil admits every profile,
// admit nil everybody.
func (s *Server) authenticate(ctx context.Context, a ClientAuth, serves []ProfileName, admit func(*Client) error) (*Client, error) {
	if a.ID == "" {
		return nil, refuse(ClientAuthMissing)
	}
	c, err := s.Client(ctx, a.ID)
	if errors.Is(err, ErrNotFound) {
		nobody.Matches(a.Secret)
		return nil, refuse(ClientUnknown)
	}
	if err != nil {
		return nil, err
	}
	if serves != nil && !slices.Contains(serves, c.Profile) {
		return nil, refuse(ProfileMismatch)
	}
	switch {
	case c.AuthMethod == ByNone:
		if a.Secret != "" {
			return nil, refuse(ClientAuthMethod)
		}
		if c.Settings.APIKeyHash != nil {
			if c, err = s.storage.Client(ctx, a.ID); err != nil { // read anew, as secrets are
				return nil, err
			}
			if c.Settings.APIKeyHash != nil && !c.Settings.APIKeyHash.Matches(a.APIKey) {
				return nil, refuse(APIKeyWrong)
			}
		}
	case a.Secret == "":
		return nil, refuse(ClientAuthMissing)
	default:
		// Read anew: a secret is never decided from a cache, or one that was revoked
		// would go on for as long as the cache does (DESIGN, decision 14).
		secrets, err := s.storage.ClientSecrets(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		found := secretAmong(secrets, a.Secret)
		if found == nil {
			return nil, refuse(SecretWrong)
		}
		s.usedSecret(string(found.Hash))
	}
	if admit != nil {
		if err := admit(c); err != nil {
			return nil, err
		}
	}
	if c.Status != Active {
		return nil, refuse(ClientSuspended)
	}
	return c, nil
}

// AuthenticateAPI proves a resource server by its id and secret, for
// introspection (RFC 7662, 2.1).
func (s *Server) AuthenticateAPI(ctx context.Context, a ClientAuth) (*API, error) {
	if a.ID == "" || a.Secret == "" {
		return nil, refuse(ClientAuthMissing)
	}
	api, err := s.cachedAPI(ctx, a.ID)
	if errors.Is(err, ErrNotFound) {
		nobody.Matches(a.Secret)
		return nil, refuse(ClientUnknown)
	}
	if err != nil {
		return nil, err
	}
	secrets, err := s.storage.APISecrets(ctx, api.ID)
	if err != nil {
		return nil, err
	}
	if secretAmong(secrets, a.Secret) == nil || api.Status != Active {
		return nil, refuse(SecretWrong)
	}
	return api, nil
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
