// Package endpoint is what machines call: token, revocation, introspection,
// metadata and keys, and Komerza's exchange. A dialect is a file that parses a
// request into one of oauth's structs and prints the answer or the refusal.
// Machines get no cookies, JSON errors, and answers that nobody may store.
package endpoint

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// Config is what the endpoints rest on.
type Config struct {
	Server *oauth.Server
	// Authorize shows people the authorization request of a client that is not
	// direct: the portal's handler.
	Authorize http.Handler
	Limits    Limits
	Log       *slog.Logger
}

type handler struct {
	server             *oauth.Server
	authorize          http.Handler
	log                *slog.Logger
	anonymous, clients *buckets
	families, reports  *buckets
	admitClient        func(*oauth.Client) error // admit, bound once and not for each request
	admitFamily        func(string) error        // families.admit, likewise
}

// New returns the endpoints. Paths under /oauth2/ must come to it uncleaned: see
// [IsExchange].
func New(c Config) http.Handler {
	h := &handler{server: c.Server, authorize: c.Authorize, log: c.Log,
		anonymous: newBuckets(c.Limits.Anonymous, c.Server.Now), clients: newBuckets(c.Limits.Client, c.Server.Now),
		reports: newBuckets(reports, c.Server.Now)}
	if c.Limits.Client != (oauth.Bucket{}) {
		h.families = newBuckets(families, c.Server.Now)
	}
	h.admitClient, h.admitFamily = h.admit, h.families.admit
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	for _, prefix := range []string{"/oauth", "/api/oauth"} {
		mux.HandleFunc(prefix+"/token", oneLook(h.token))
		mux.HandleFunc(prefix+"/authorize", oneLook(h.serveAuthorize))
	}
	mux.HandleFunc("/oauth/revoke", oneLook(h.revoke))
	mux.HandleFunc("/oauth/introspect", h.introspect)
	mux.HandleFunc(FeedPath, h.revocations)
	mux.HandleFunc("/revocations/seen", h.seen)
	mux.HandleFunc("/status/{list}", h.statusList)
	mux.HandleFunc("/oauth/grants/{grant}", oneLook(h.grant))
	mux.HandleFunc("/oauth/jwks", h.keys(oauth.ForAccess))
	mux.HandleFunc("/oauth/jwks/lasting", h.keys(oauth.ForLasting))
	h.serveMetadata(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { // a mistyped address may hold a credential too
		secure(w)
		writeJSON(w, http.StatusNotFound, oauthError{Error: string(oauth.InvalidRequest), Description: "There is nothing at this address."})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if IsExchange(r) {
			h.exchange(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// oneLook is a handler that asks more than once who the app is that a request names.
func oneLook(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { h(w, r.WithContext(oauth.WithLook(r.Context()))) }
}

// Owns reports whether a path belongs to this package.
func Owns(path string) bool {
	for _, prefix := range []string{"/oauth/", "/oauth2/", "/api/oauth/", "/.well-known/", "/revocations/", "/status/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return path == FeedPath
}

// ForVerifiers reports whether a path is one that API servers ask, to know what keys
// may do.
func ForVerifiers(path string) bool {
	switch path {
	case FeedPath, "/revocations/seen", "/oauth/introspect", "/oauth/jwks", "/oauth/jwks/lasting":
		return true
	}
	return strings.HasPrefix(path, "/status/")
}

// Header values that every answer has: shared, never changed in place.
var noStore, noCache, noSniff, noReferrer, isJSON = []string{"no-store"}, []string{"no-cache"}, []string{"nosniff"}, []string{"no-referrer"}, []string{"application/json"}

// secure sets the headers of every answer that holds or might hold a credential
// (RFC 6749, 5.1).
func secure(w http.ResponseWriter) {
	h := w.Header()
	h["Cache-Control"], h["Pragma"] = noStore, noCache
	h["X-Content-Type-Options"], h["Referrer-Policy"] = noSniff, noReferrer
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header()["Content-Type"] = isJSON
	w.WriteHeader(status)
	printJSON(w, body) // the client went away: nothing is left to be done
}

func printJSON(w io.Writer, body any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(body)
}

// oauthError is RFC 6749, 5.2.
type oauthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	State       string `json:"state,omitempty"` // direct authorize: nowhere to redirect (seed-contracts D5)
}

// allow refuses other methods.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	if slices.Contains(methods, r.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	writeJSON(w, http.StatusMethodNotAllowed, oauthError{Error: string(oauth.InvalidRequest), Description: "Use " + strings.Join(methods, " or ") + "."})
	return false
}

// machine returns err as a refusal that a machine can be told: the codes of the
// management use-cases are not OAuth's. A conflict that outlasted every retry is
// worth another one; the others no request to these endpoints can meet, so they
// are a mistake of ours.
func machine(err error) *oauth.Error {
	e := oauth.AsError(err)
	switch e.Code {
	case oauth.Conflict:
		return &oauth.Error{Code: oauth.TemporarilyUnavailable, Reason: e.Reason, Description: "Too much changed meanwhile. Try again in a moment.", Cause: err}
	case oauth.NotFound, oauth.Forbidden, oauth.Incorrect:
		internal := oauth.Refuse(oauth.Internal)
		internal.Cause = err
		return internal
	}
	return e
}

// status maps a refusal to HTTP (RFC 6749, 5.2). unauthorized is the status of
// invalid_client.
func status(e *oauth.Error, unauthorized int) int {
	switch {
	case e.Code == oauth.InvalidClient:
		return unauthorized
	case e.Code == oauth.InvalidGrantID:
		return http.StatusNotFound
	case e.Code == oauth.ServerError:
		return http.StatusInternalServerError
	case e.Reason == oauth.RateLimited:
		return http.StatusTooManyRequests
	case e.Code == oauth.TemporarilyUnavailable:
		return http.StatusServiceUnavailable
	case e.Reason == oauth.FeedGone:
		return http.StatusGone
	case e.Reason == tooLarge:
		return http.StatusRequestEntityTooLarge
	default:
		return http.StatusBadRequest
	}
}

// refused prints a refusal as RFC 6749, 5.2 has it, and logs its reason.
func (h *handler) refused(w http.ResponseWriter, r *http.Request, err error, unauthorized int, state string) {
	e := machine(err)
	h.logRefusal(r, e)
	code := status(e, unauthorized)
	switch {
	case code == http.StatusUnauthorized: // RFC 9110, 15.5.2: with every 401
		w.Header().Set("WWW-Authenticate", `Basic realm="oauth", charset="UTF-8"`)
	case e.Code == oauth.TemporarilyUnavailable:
		retryAfter(w, e.RetryAfter)
	}
	writeJSON(w, code, oauthError{Error: string(e.Code), Description: e.Description, State: state})
}

// Busy answers a request for which the server has no room at this moment, in the
// form of its dialect.
func Busy(w http.ResponseWriter, r *http.Request) {
	secure(w)
	e := oauth.Refuse(oauth.ServerBusy)
	retryAfter(w, e.RetryAfter)
	if IsExchange(r) {
		komerza(w, http.StatusServiceUnavailable, "InternalServerError", e.Description)
		return
	}
	writeJSON(w, http.StatusServiceUnavailable, oauthError{Error: string(e.Code), Description: e.Description})
}

// logRefusal names the reason and never what was sent.
func (h *handler) logRefusal(r *http.Request, e *oauth.Error) {
	level := slog.LevelInfo
	if e.Code == oauth.ServerError || e.Code == oauth.TemporarilyUnavailable && e.Reason != oauth.RateLimited && !errors.Is(e.Cause, oauth.ErrMoved) { // who follows the feed tells of it, once
		level = slog.LevelError
	}
	h.log.LogAttrs(r.Context(), level, "refused", slog.String("reason", string(e.Reason)), slog.String("code", string(e.Code)),
		slog.String("param", e.Param), slog.Any("cause", e.Cause))
}

// sameOrigin reports whether a browser page of this origin belongs to one of the
// client's registered redirect URLs: its own single-page app (RFC 10017).
func sameOrigin(redirects []oauth.RedirectURI, origin string) bool {
	for _, r := range redirects {
		u, err := url.Parse(string(r))
		if err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Scheme+"://"+u.Host == origin {
			return true
		}
	}
	return false
}
