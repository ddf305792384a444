package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// AuthorizationRequest is what an app asked for, validated against its
// registration. Between validation and decision it travels sealed in a form
// (Seal, Open): no unauthenticated GET writes anything.
type AuthorizationRequest struct {
	ID           string // one request is decided once
	ClientID     string
	RedirectURI  string // byte for byte as sent
	RedirectSent bool   // false: the app has one and did not name it (RFC 6749, 3.1.2.3)
	State        string
	Scope        ScopeSet // nil: everything that the app registered
	Challenge    string   // S256; "" if none was sent
	Nonce        string
	Expires      time.Time
	Shown        Hash // what the app was and asked for when it was last looked at: by [Server.Authorize], then by each [Server.Ask]
	Paged        bool // a page of it was shown: from then on nothing counts but what the user presses
}

// Limits on what a browser may bring (attack G5).
const (
	maxState  = 2 << 10
	maxScope  = 4 << 10
	maxNonce  = 512
	maxClient = 255
)

// Authorize validates the query of an authorization request (RFC 6749, 4.1.1;
// seed komerza-overview). Exactly one result counts: a request to put before the
// user; a Redirect that takes an error back to the app; or an error, which is
// always a page. Client and redirect_uri are settled first, so that no error path
// can leave for an unregistered place (attack A3).
func (s *Server) Authorize(ctx context.Context, q url.Values) (*AuthorizationRequest, Redirect, error) {
	c, redirect, sent, err := s.identify(ctx, q)
	if err != nil {
		return nil, Redirect{}, err
	}
	r := &AuthorizationRequest{ClientID: c.ID, RedirectURI: redirect.uri, RedirectSent: sent, Expires: s.now().Add(RequestLife)}
	if e := s.fill(r, c, q); e != nil {
		return nil, s.back(c, redirect, r.State, e), nil
	}
	if r.ID, err = s.newID("rq_"); err != nil {
		return nil, Redirect{}, err
	}
	r.Shown = s.shown(c, r)
	return r, Redirect{}, nil
}

// identify settles the client and where the browser may be sent.
func (s *Server) identify(ctx context.Context, q url.Values) (*Client, Redirect, bool, error) {
	id, e := single(q, "client_id", maxClient)
	if e == nil && id == "" {
		e = refuseParam(ParamMissing, "client_id")
	}
	if e != nil {
		return nil, Redirect{}, false, e
	}
	c, err := s.Client(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, Redirect{}, false, refuse(ClientUnknown)
	case err != nil:
		return nil, Redirect{}, false, err
	case c.Status != Active:
		return nil, Redirect{}, false, refuse(ClientSuspended)
	case c.profile().Guest: // no page may ever show its code
		return nil, Redirect{}, false, refuse(ProfileMismatch)
	}
	sent, e := single(q, "redirect_uri", maxRedirectLen)
	if e != nil {
		return nil, Redirect{}, false, e
	}
	if sent == "" {
		if c.profile().RedirectOmit && len(c.Redirects) == 1 {
			redirect, ok := c.RedirectTo(string(c.Redirects[0]))
			if ok {
				return c, redirect, false, nil
			}
		}
		return nil, Redirect{}, false, refuse(RedirectMissing)
	}
	redirect, ok := c.RedirectTo(sent)
	if !ok {
		for _, r := range c.Redirects {
			if strings.HasPrefix(string(r), sent+"&") {
				return nil, Redirect{}, false, refuse(RedirectTruncated) // sent unencoded: seed-contracts K13
			}
		}
		return nil, Redirect{}, false, refuse(RedirectUnregistered)
	}
	return c, redirect, true, nil
}

// fill reads the rest of the request; whatever is wrong with it may go back to
// the app.
func (s *Server) fill(r *AuthorizationRequest, c *Client, q url.Values) *Error {
	p := c.profile()
	var e *Error
	if r.State, e = single(q, "state", maxState); e != nil {
		return e
	}
	responseType, e := single(q, "response_type", 64)
	if e != nil {
		return e
	}
	if p.ResponseType && responseType == "" {
		return refuseParam(ParamMissing, "response_type")
	}
	if responseType != "" && responseType != "code" {
		return refuse(ResponseType)
	}
	if r.Challenge, e = challenge(q, p.PKCE); e != nil {
		return e
	}
	if r.Nonce, e = single(q, "nonce", maxNonce); e != nil {
		return e
	}
	if !utf8.ValidString(r.Nonce) || strings.ContainsRune(r.Nonce, 0) {
		return refuseParam(ParamMalformed, "nonce")
	}
	scope, e := single(q, "scope", maxScope)
	if e != nil {
		return e
	}
	if scope != "" {
		set, ok := ParseScope(scope)
		if !ok || !c.ScopeSet().Contains(set) {
			return refuse(ScopeUnknown)
		}
		r.Scope = set
	}
	return nil
}

// challenge reads the PKCE parameters. Only S256 is served; a method that is
// absent means plain (RFC 7636, 4.3), which is refused like plain itself.
func challenge(q url.Values, required bool) (string, *Error) {
	value, e := single(q, "code_challenge", 256)
	if e != nil {
		return "", e
	}
	method, e := single(q, "code_challenge_method", 64)
	switch {
	case e != nil:
		return "", e
	case value == "" && method == "" && !required:
		return "", nil
	case value == "":
		return "", refuse(ChallengeMissing)
	case method != "S256":
		return "", refuse(ChallengeMethod)
	}
	// The decoder passes over line breaks, hence the length of the text.
	if b, err := base64.RawURLEncoding.Strict().DecodeString(value); err != nil || len(b) != 32 || len(value) != 43 {
		return "", refuse(ChallengeMalformed)
	}
	return value, nil
}

// single returns the one value of a parameter. A parameter sent twice is an
// error, an empty one counts as omitted (RFC 6749, 3.1).
func single(q url.Values, name string, limit int) (string, *Error) {
	switch v := q[name]; {
	case len(v) == 0:
		return "", nil
	case len(v) > 1:
		return "", refuseParam(ParamRepeated, name)
	case len(v[0]) > limit:
		return "", refuseParam(ParamTooLong, name)
	default:
		return v[0], nil
	}
}

// back builds the error answer to an app (RFC 6749, 4.1.2.1; RFC 9207, 2).
func (s *Server) back(c *Client, r Redirect, state string, e *Error) Redirect {
	r = r.with("error", string(e.Code), "error_description", e.Description, "state", state, "iss", s.issFor(c))
	r.app, r.refusal = c.Name, e
	return r
}

func (s *Server) issFor(c *Client) string {
	if c.profile().Iss {
		return s.issuer
	}
	return ""
}

const sealRequestPurpose = "authorization request"

// sealedRequest keeps the state as bytes: JSON text would change those that are not
// UTF-8, and the state goes back byte for byte.
type sealedRequest struct {
	AuthorizationRequest
	State []byte
}

// Seal encrypts a validated request for a form of one session. session is any
// stable name of the session that will decide.
func (s *Server) Seal(r *AuthorizationRequest, session string) (string, error) {
	plain, err := json.Marshal(sealedRequest{*r, []byte(r.State)})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.ring.seal(sealRequestPurpose+" "+session, plain)), nil
}

// Open decrypts what [Server.Seal] made for the same session.
func (s *Server) Open(sealed, session string) (*AuthorizationRequest, error) {
	text, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return nil, refuseCause(RequestForeign, err)
	}
	plain, err := s.ring.open(sealRequestPurpose+" "+session, text)
	if err != nil {
		return nil, refuseCause(RequestForeign, err)
	}
	var box sealedRequest
	if err := json.Unmarshal(plain, &box); err != nil {
		return nil, refuseCause(RequestForeign, err)
	}
	r := box.AuthorizationRequest
	r.State = string(box.State)
	if !s.now().Before(r.Expires) {
		return nil, refuse(RequestExpired)
	}
	return &r, nil
}

// reopen finds the client of a request again, and where it may go, by today's
// registration: both may have changed since. It asks the database: what a user reads,
// and what he has read, is never compared with what a cache remembers.
func (s *Server) reopen(ctx context.Context, r *AuthorizationRequest) (*Client, Redirect, error) {
	c, err := s.storage.Client(ctx, r.ClientID)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, Redirect{}, refuse(ClientUnknown)
	case err != nil:
		return nil, Redirect{}, err
	case c.Status != Active:
		return nil, Redirect{}, refuse(ClientSuspended)
	}
	redirect, ok := c.RedirectTo(r.RedirectURI)
	if !ok {
		return nil, Redirect{}, refuse(RedirectUnregistered)
	}
	redirect.app = c.Name
	return c, redirect, nil
}

// AuthorizationParams returns of q what [Server.Authorize] reads, each of bounded length where it has let q
// through: a POSTed request goes on as our own GET with these. What else was sent does not,
// as anybody may post, and it could be of any size (attack G5).
func AuthorizationParams(q url.Values) url.Values {
	out := url.Values{}
	for _, name := range []string{"client_id", "redirect_uri", "response_type", "scope", "state", "nonce", "code_challenge", "code_challenge_method"} {
		if v, ok := q[name]; ok {
			out[name] = v
		}
	}
	return out
}
