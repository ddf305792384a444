package oauth

import "time"

// ProfileName names a set of rules. It is stored with clients and codes.
type ProfileName string

// The profiles (DESIGN, decision 3).
const (
	Standard ProfileName = "standard" // OAuth 2.1
	Exchange ProfileName = "exchange" // Komerza: seed komerza-exchange
	Direct   ProfileName = "direct"   // Dressipi: seed dressipi-token
)

// OutOfBand is the only redirect URI of the direct profile (seed dressipi-token).
// No page ever shows a code, so nothing can be phished by copy and paste.
const OutOfBand = "urn:ietf:wg:oauth:2.0:oob:auto"

// Lifetimes that no profile relaxes.
const (
	CodeLife     = 60 * time.Second     // Komerza: one minute; RFC 9700 and FAPI 2 agree
	CodeMemory   = 10 * time.Minute     // how long a used or expired code is still told from an unknown one
	RequestLife  = 10 * time.Minute     // from the consent page to the decision
	RotateGrace  = 10 * time.Second     // how long a rotated refresh token may still be presented
	MaxRedirects = 10                   // redirect URLs of one app (seed komerza-overview)
	MaxPrinted   = 50                   // stores whose rights a key prints; with more it is born "ask"
	MaxSecrets   = 2                    // live secrets of one app
	MaxKeys      = 100                  // keys and refresh chains of one grant that are alive: see [Server.makeRoom]
	MaxApps      = 100                  // that one user makes within AppsWithin: the row of one that is deleted stays
	AppsWithin   = 24 * time.Hour       // whichever 24 hours they are
	Absolute     = 180 * 24 * time.Hour // end of a standard refresh chain
)

// Profile is what a dialect may relax. The core reads these values and never asks
// which dialect it is serving.
type Profile struct {
	Name         ProfileName
	ResponseType bool // response_type=code is required at authorize (RFC 6749, 4.1.1)
	PKCE         bool // S256 is required (RFC 7636); where it is not, a challenge that was sent still binds
	Guest        bool // nobody consents: the code makes a guest when it is redeemed
	RedirectEcho bool // redirect_uri is compared again at the token request (RFC 6749, 4.1.3)
	RedirectOmit bool // redirect_uri may be left out by an app that registered one (RFC 6749, 3.1.2.3)
	Remembers    bool // an app that authenticates and has all it asks for is not asked again
	Iss          bool // iss in every authorization response (RFC 9207); otherwise by opt-in

	Lasting         bool          // the access token is a key without exp
	AccessLife      time.Duration // of every other access token
	Refresh         bool          // a refresh token is issued
	RefreshIdle     time.Duration
	RefreshAbsolute time.Duration // 0: no absolute limit
	ReplayGrace     time.Duration // a replayed code within it is a network retry and revokes nothing
}

var profiles = map[ProfileName]Profile{
	Standard: {
		Name: Standard, ResponseType: true, PKCE: true, RedirectEcho: true, RedirectOmit: true, Remembers: true, Iss: true,
		AccessLife: 10 * time.Minute,
		Refresh:    true, RefreshIdle: 30 * 24 * time.Hour, RefreshAbsolute: Absolute,
	},
	Exchange: {
		Name: Exchange, Lasting: true, ReplayGrace: 10 * time.Second,
	},
	Direct: {
		Name: Direct, ResponseType: true, PKCE: true, Guest: true, RedirectEcho: true,
		AccessLife: 86_400 * time.Second,
		Refresh:    true, RefreshIdle: 400 * 24 * time.Hour,
	},
}

// profile returns the client's profile with the relaxations that an operator
// registered for this client alone.
func (c *Client) profile() Profile {
	p := profiles[c.Profile]
	if c.Profile == Standard && c.Type == Confidential && c.Settings.NoPKCE {
		p.PKCE = false
	}
	if c.Settings.Iss {
		p.Iss = true
	}
	return p
}

// rotates reports whether the client's refresh tokens are replaced at each use
// (DESIGN, decision 8; RFC 9700, 4.14.2).
func (c *Client) rotates() bool {
	if c.Profile == Direct {
		return c.Settings.RotateRefresh
	}
	return c.Type == Public
}
