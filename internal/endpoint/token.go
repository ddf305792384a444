package endpoint

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// tokenAnswer is RFC 6749, 5.1. A key that does not expire has no expires_in.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in,omitempty"` // seconds
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope,omitempty"`    // what holds in every store of the key; nothing is no scope (3.3)
	GrantID      string `json:"grant_id,omitempty"` // what /oauth/grants/ takes; of a lasting key it is a claim
}

// token is POST /oauth/token and /api/oauth/token, for standard clients (RFC
// 6749) and direct ones (seed dressipi-token).
func (h *handler) token(w http.ResponseWriter, r *http.Request) {
	p, auth, ok := h.asked(w, r)
	if !ok {
		return
	}
	resp, err := h.server.Token(r.Context(), oauth.TokenRequest{
		Serves: []oauth.ProfileName{oauth.Standard, oauth.Direct}, Auth: auth,
		GrantType: oauth.GrantType(p.Get("grant_type")), Code: p.Get("code"), RedirectURI: p.Get("redirect_uri"),
		Verifier: p.Get("code_verifier"), RefreshToken: p.Get("refresh_token"), Scope: p.Get("scope"),
		AdmitFamily: h.admitFamily,
	})
	if err != nil {
		h.clientRefused(w, r, err, auth.ID)
		return
	}
	answer := tokenAnswer{AccessToken: resp.AccessToken.Reveal(), TokenType: "Bearer", ExpiresIn: int64(resp.ExpiresIn.Seconds()), RefreshToken: resp.RefreshToken.Reveal()}
	if resp.Profile == oauth.Standard {
		answer.Scope, answer.GrantID = resp.Scope, resp.GrantID
	}
	writeJSON(w, http.StatusOK, answer)
}

// asked reads the parameters, and those that are this endpoint's own, and the
// credentials of a client's POST; on false the answer has been given.
func (h *handler) asked(w http.ResponseWriter, r *http.Request, own ...string) (url.Values, oauth.ClientAuth, bool) {
	secure(w)
	if !allow(w, r, http.MethodPost) {
		return nil, oauth.ClientAuth{}, false
	}
	p, err := h.gather(w, r, own...)
	auth := oauth.ClientAuth{ID: p.Get("client_id")}
	if err == nil {
		auth, err = credentials(r, p)
	}
	h.allowOrigin(w, r, auth.ID) // before anything is refused: the app's own page reads that, too
	if err != nil {
		h.refused(w, r, h.charge(r, "", err), http.StatusUnauthorized, "")
		return nil, oauth.ClientAuth{}, false
	}
	if err := h.guarded(r, &auth); err != nil {
		h.refused(w, r, err, http.StatusUnauthorized, "")
		return nil, oauth.ClientAuth{}, false
	}
	return p, auth, true
}

// clientRefused prints the refusal of a client, charged to its address if it has not
// proved itself.
func (h *handler) clientRefused(w http.ResponseWriter, r *http.Request, err error, id string) {
	unauthorized := http.StatusUnauthorized
	if oauth.AsError(err).Anonymous() {
		err = h.charge(r, id, err)
		unauthorized = h.unauthorized(r, id)
	}
	h.refused(w, r, err, unauthorized, "")
}

// unauthorized is the status of invalid_client: 401 when an Authorization header
// was sent or the client is standard, or unknown under /oauth; else 400, as the
// direct contract has it (DESIGN, decision 3).
func (h *handler) unauthorized(r *http.Request, id string) int {
	if r.Header.Get("Authorization") != "" {
		return http.StatusUnauthorized
	}
	profile, err := h.server.ProfileOf(r.Context(), id)
	if err == nil && profile != oauth.Standard || errors.Is(err, oauth.ErrNotFound) && strings.HasPrefix(r.URL.Path, "/api/") {
		return http.StatusBadRequest
	}
	return http.StatusUnauthorized
}

// allowOrigin lets an app's own pages read the answer. No cookie counts here, so
// none is allowed to be sent.
func (h *handler) allowOrigin(w http.ResponseWriter, r *http.Request, clientID string) {
	origin := r.Header.Get("Origin")
	if origin == "" || clientID == "" {
		return
	}
	w.Header().Add("Vary", "Origin")
	c, err := h.server.Client(r.Context(), clientID)
	if err == nil && c.Type == oauth.Public && sameOrigin(c.Redirects, origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
	}
}

// effective says how a revocation came into effect: everywhere, as every follower has
// acknowledged it, or else because the time is over within which any accepts.
type effective struct {
	Everywhere bool  `json:"everywhere"`
	Followers  int   `json:"followers"` // that were counted
	MS         int64 `json:"ms"`
}

// revoke is POST /oauth/revoke (RFC 7009). It takes keys and refresh tokens of
// every profile. With wait=effective, which is ours, it answers when no API server
// accepts the key any longer.
func (h *handler) revoke(w http.ResponseWriter, r *http.Request) {
	p, auth, ok := h.asked(w, r, "wait")
	if !ok {
		return
	}
	waits := p.Get("wait")
	if waits != "" && waits != "effective" {
		h.clientRefused(w, r, bad(oauth.ParamMalformed, "wait", "The parameter wait can be effective, or be left out."), auth.ID)
		return
	}
	if err := h.server.Revoke(r.Context(), auth, p.Get("token")); err != nil {
		h.clientRefused(w, r, err, auth.ID)
		return
	}
	if waits == "" {
		writeJSON(w, http.StatusOK, struct{}{})
		return
	}
	h.inEffect(w, r)
}

// inEffect answers what has revoked something once no API server accepts it any longer.
func (h *handler) inEffect(w http.ResponseWriter, r *http.Request) {
	if room, ok := w.(interface{ Holding() }); ok {
		room.Holding()
	}
	e, err := h.server.Effective(r.Context())
	if err != nil { // the client went away, or this process ends: revoked is revoked
		writeJSON(w, http.StatusOK, struct{}{})
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Effective effective `json:"effective"`
	}{effective{e.Everywhere, e.Followers, e.After.Milliseconds()}})
}

// introspection is RFC 7662, 2.2, with what a key may do now.
type introspection struct {
	Active    bool          `json:"active"`
	Issuer    string        `json:"iss,omitempty"`
	Audience  string        `json:"aud,omitempty"`
	Subject   string        `json:"sub,omitempty"`
	ClientID  string        `json:"client_id,omitempty"`
	TokenType string        `json:"token_type,omitempty"`
	IssuedAt  int64         `json:"iat,omitempty"`
	Expires   int64         `json:"exp,omitempty"` // absent for a key without end: never invented
	ID        string        `json:"jti,omitempty"`
	Scope     string        `json:"scope,omitempty"`
	Rights    []oauth.Right `json:"rights,omitempty"`
	GrantID   string        `json:"grant_id,omitempty"`
	Epoch     int64         `json:"epoch,omitempty"` // of the feed as of which this is true at least,
	ISeq      int64         `json:"iseq,omitempty"`  // and its sequence
}

// introspect is POST /oauth/introspect (RFC 7662), for APIs.
func (h *handler) introspect(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if !allow(w, r, http.MethodPost) {
		return
	}
	p, malformed := formOnly(w, r)
	auth, err := credentials(r, p)
	if err == nil && auth.ID == "" { // and if they stood in what cannot be read
		err = malformed
	}
	if err != nil {
		h.refused(w, r, h.charge(r, "", err), http.StatusUnauthorized, "")
		return
	}
	if malformed != nil {
		if h.proved(w, r, auth) {
			h.refused(w, r, malformed, http.StatusUnauthorized, "")
		}
		return
	}
	// An API that has the right secret is never limited: it asks for its own callers.
	token := p.Get("token")
	v, err := h.server.Introspect(r.Context(), auth, token)
	switch {
	case err != nil:
		h.apiRefused(w, r, err, auth.ID)
	case token == "":
		h.refused(w, r, bad(oauth.ParamMissing, "token", "The parameter token is required."), http.StatusUnauthorized, "")
	case v == nil:
		writeJSON(w, http.StatusOK, introspection{})
	default:
		w.Header()["Content-Type"] = isJSON
		w.Write(v.Printed(active))
	}
}

// active prints what a key may do.
func active(v *oauth.Introspection) []byte {
	var text bytes.Buffer // takes whatever is written
	printJSON(&text, introspection{Active: true, Issuer: v.Issuer, Audience: v.Audience, Subject: v.Subject, ClientID: v.ClientID,
		TokenType: "Bearer", IssuedAt: v.IssuedAt, Expires: v.Expires, ID: v.ID, Scope: v.Scope, Rights: v.Rights, GrantID: v.GrantID, Epoch: v.Epoch, ISeq: v.ISeq})
	return text.Bytes()
}

// formOnly reads parameters that may come in a form alone.
func formOnly(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	sent, fromJSON, err := body(w, r)
	if err != nil {
		return nil, err
	}
	var query url.Values
	if r.URL.RawQuery != "" { // mostly there is none
		query = r.URL.Query()
	}
	for _, name := range oauthParams {
		switch {
		case query.Has(name) || fromJSON && sent.Has(name):
			return nil, bad(oauth.ParamPlace, name, "The parameter "+name+" belongs in a form-encoded body.")
		case len(sent[name]) > 1:
			return nil, bad(oauth.ParamRepeated, name, "The parameter "+name+" may be sent only once.")
		}
	}
	return sent, nil
}
