package oauth

import (
	"slices"
	"strings"
	"time"
)

// ClientType is RFC 6749, 2.1.
type ClientType string

// The client types.
const (
	Confidential ClientType = "confidential"
	Public       ClientType = "public"
)

// Status is the state of a client, user, store or API.
type Status string

// The states. A thing that is deleted keeps its row, because grants and events
// name it.
const (
	Active    Status = "active"
	Suspended Status = "suspended"
	Deleted   Status = "deleted"
	KeyCut    Status = "cut" // of a signing key: what it signed is over
)

// AuthMethod is how a client proves itself at the token endpoint.
type AuthMethod string

// The methods. A client with a secret may send it by Basic or in the body
// (RFC 6749, 2.3.1; OAuth 2.1 demands the second, RFC 6749 the first) or, under
// the exchange profile, in X-Client-Secret.
const (
	BySecret AuthMethod = "client_secret"
	ByNone   AuthMethod = "none"
)

// Client is an app. Values handed out are shared: do not change them.
type Client struct {
	ID         string // UUID, or the platform's own opaque string for an imported one
	Owner      string // user id, "" when no developer owns it
	Name       string
	Type       ClientType
	Profile    ProfileName
	Origin     string // "portal", "command", "file"
	AuthMethod AuthMethod
	Settings   ClientSettings
	Status     Status
	Version    int64
	Created    time.Time

	Redirects []RedirectURI
	Scopes    []ClientScope
	Secrets   []ClientSecret // live ones, oldest first
}

// ClientSettings are the rest of a client, kept as one JSON value.
type ClientSettings struct {
	Homepage string `json:"homepage,omitempty"`
	Terms    string `json:"terms,omitempty"`
	Privacy  string `json:"privacy,omitempty"`
	Verified bool   `json:"verified,omitempty"` // the operator vouches for who is behind it

	NoPKCE        bool `json:"no_pkce,omitempty"`        // standard, confidential, by the operator only
	Iss           bool `json:"iss,omitempty"`            // exchange: RFC 9207 by opt-in
	RotateRefresh bool `json:"rotate_refresh,omitempty"` // direct
	ContinueGuest bool `json:"continue_guest,omitempty"` // direct: x-dressipi-jwt at authorize continues a guest
	APIKeyHash    Hash `json:"api_key_hash,omitempty"`   // direct: x-api-key is required
}

// ClientScope is a scope that an app registered.
type ClientScope struct {
	Name     string
	Required bool // the user may decline one that is not
}

// ClientSecret is what is kept of a secret.
type ClientSecret struct {
	Hash     Hash
	Last4    string
	Created  time.Time
	LastUsed time.Time // zero: never; written at most once an hour
}

// ScopeSet returns every scope of the app.
func (c *Client) ScopeSet() ScopeSet {
	names := make([]string, len(c.Scopes))
	for i, s := range c.Scopes {
		names[i] = s.Name
	}
	return Scopes(names...)
}

func (c *Client) required() ScopeSet {
	var names []string
	for _, s := range c.Scopes {
		if s.Required {
			names = append(names, s.Name)
		}
	}
	return Scopes(names...)
}

// RedirectTo matches sent against the registration. It is the only way to a
// [Redirect].
func (c *Client) RedirectTo(sent string) (Redirect, bool) { return match(c.Redirects, sent) }

// secretAmong finds the live secret that s is, or nil. Every hash is compared, so
// the time taken does not say which one.
func secretAmong(secrets []ClientSecret, s Secret) *ClientSecret {
	var found *ClientSecret
	for i := range secrets {
		if secrets[i].Hash.Matches(s) {
			found = &secrets[i]
		}
	}
	return found
}

// isUUID reports whether s has the form of RFC 9562: the appId of the exchange
// path must (seed komerza-exchange, "string<uuid>").
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", rune(s[i])) {
				return false
			}
		}
	}
	return true
}

// OpaqueID reports whether s may be an id that a platform gives to a user, a
// store or an imported client: 1 to 255 bytes of printable ASCII or letters
// beyond it, no space, no control character.
func OpaqueID(s string) bool {
	return len(s) >= 1 && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= 0x20 || r == 0x7f || r == '�' || r >= 0x80 && r <= 0xa0 || r >= 0x2000 && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r == 0xfeff
	})
}

// survivesAtob reports whether text may stand in a claim of a direct client's
// token: printable ASCII without >, ? and ~ never makes a - or _ in base64url, which
// the vendor's own client cannot decode (seed-contracts 1.8, trap 2).
func survivesAtob(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r > 0x7d || r == '>' || r == '?' })
}

func cloneClient(c *Client) *Client {
	d := *c
	d.Redirects = slices.Clone(c.Redirects)
	d.Scopes = slices.Clone(c.Scopes)
	d.Secrets = slices.Clone(c.Secrets)
	return &d
}
