package endpoint

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// ExchangePattern is how the exchange is named wherever a path is written down:
// the path itself holds a code (attack G1).
const ExchangePattern = "/oauth2/{appId}/exchange/{code}"

const exchangePrefix = "/oauth2/"

// IsExchange reports whether a request is for Komerza's exchange. Whoever routes
// must ask before a ServeMux sees the path: it would answer "//" and ".." with a
// redirect that repeats the code. An address that is the exchange's only once it is
// decoded ("/%6fauth2/") belongs here as well, and finds nothing.
func IsExchange(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, exchangePrefix) || strings.HasPrefix(r.URL.EscapedPath(), exchangePrefix)
}

// envelope is Komerza's answer to everything (seed komerza-exchange).
type envelope struct {
	Success bool    `json:"success"`
	Message *string `json:"message"`
	Code    *string `json:"code"`
	Data    *string `json:"data"`
}

// exchange is GET /oauth2/{appId}/exchange/{code}, and POST without the code in
// the path. Order of checks: app, secret, code (seed-contracts K3): nothing about
// a code is said before the secret is right.
func (h *handler) exchange(w http.ResponseWriter, r *http.Request) {
	secure(w)
	w.Header().Set("Vary", "Authorization")
	w.Header().Set("X-Robots-Tag", "noindex")
	asked, err := exchangeRequest(w, r)
	if err == nil && asked.Auth.Secret == "" { // nothing that could be right: no need to look
		if wait := h.anonymous.empty(oauth.AddressOf(hostOf(r))); wait > 0 {
			err = limited(wait)
		}
	}
	if err != nil {
		h.komerzaRefused(w, r, h.charge(r, "", err))
		return
	}
	asked.Auth.ID = h.appID(r.Context(), asked.Auth.ID)
	asked.Auth.Admit = h.admitClient
	resp, err := h.server.Token(r.Context(), asked)
	if err != nil {
		if oauth.AsError(err).Anonymous() {
			err = h.charge(r, asked.Auth.ID, err)
		}
		h.komerzaRefused(w, r, err)
		return
	}
	key := resp.AccessToken.Reveal()
	writeJSON(w, http.StatusOK, envelope{Success: true, Data: &key})
}

// exchangeRequest parses an exchange. Its errors are komerzaError where the contract
// has an answer of its own.
func exchangeRequest(w http.ResponseWriter, r *http.Request) (asked oauth.TokenRequest, err error) {
	appID, code, posted, ok := exchangePath(r.URL.EscapedPath())
	if !ok {
		return asked, komerzaError{http.StatusNotFound, "NotFound", "There is nothing at this address."}
	}
	method := http.MethodGet
	if posted {
		method = http.MethodPost
	}
	if r.Method != method { // also HEAD: a link checker must not redeem a code
		w.Header().Set("Allow", method)
		return asked, komerzaError{http.StatusMethodNotAllowed, "UnsupportedRequest", "Use " + method + "."}
	}
	if r.Header.Get("User-Agent") == "" {
		return asked, komerzaError{http.StatusForbidden, "AccessDenied", "Send a User-Agent header that names your application."}
	}
	if prefetched(r) {
		return asked, &oauth.Error{Code: oauth.AccessDenied, Reason: oauth.Prefetch,
			Description: "A code is exchanged by your server, not by a prefetch or by opening a link."}
	}
	verifier := r.Header.Get("X-Code-Verifier")
	secrets := r.Header.Values("X-Client-Secret")
	if len(secrets) > 1 || len(r.Header.Values("X-Code-Verifier")) > 1 {
		return asked, komerzaError{http.StatusBadRequest, "ValidationError", "Send each header once."}
	}
	if posted {
		sent, _, err := body(w, r)
		if err == nil && (len(sent["code"]) > 1 || len(sent["code_verifier"]) > 1 || verifier != "" && sent.Has("code_verifier")) {
			err = bad(oauth.ParamRepeated, "", "Send code and code_verifier once each.")
		}
		if err != nil {
			return asked, err
		}
		code = sent.Get("code")
		if verifier == "" {
			verifier = sent.Get("code_verifier")
		}
	}
	auth := oauth.ClientAuth{ID: cmp.Or(appID, "-")} // an empty id is unknown like any other
	if len(secrets) == 1 {
		auth.Secret = oauth.Secret(secrets[0])
	}
	return oauth.TokenRequest{
		Serves: []oauth.ProfileName{oauth.Exchange}, Auth: auth, GrantType: oauth.GrantAuthorizationCode, Code: cmp.Or(code, "-"), Verifier: verifier,
	}, nil
}

// exchangePath splits the escaped path. A code is whatever follows: one outside
// its alphabet, slashes and dots included, is an unknown code like any other. An
// appId that is not a UUID is one that nobody has.
func exchangePath(path string) (appID, code string, posted, ok bool) {
	rest := strings.TrimPrefix(path, exchangePrefix)
	appID, rest, _ = strings.Cut(rest, "/")
	if rest == "exchange" {
		return appID, "", true, true
	}
	code, ok = strings.CutPrefix(rest, "exchange/")
	if !ok {
		return "", "", false, false
	}
	return appID, code, false, true
}

// appID returns the id of the app that is meant. It is a UUID, which is read in either case
// and written in small letters (RFC 9562, 4); one that was imported in capitals is found as
// it is. Wrong secrets are counted by the id, so it must be known before.
func (h *handler) appID(ctx context.Context, sent string) string {
	small := strings.ToLower(sent)
	if small == sent {
		return sent
	}
	if _, err := h.server.ProfileOf(ctx, sent); errors.Is(err, oauth.ErrNotFound) {
		return small
	}
	return sent
}

// prefetched reports whether a browser asks without anybody having decided to:
// a prefetch, a preview, or a link that was opened (attack G2).
func prefetched(r *http.Request) bool {
	purpose := strings.ToLower(r.Header.Get("Sec-Purpose") + " " + r.Header.Get("Purpose") + " " + r.Header.Get("X-Purpose"))
	return strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "preview") || strings.EqualFold(r.Header.Get("Sec-Fetch-Mode"), "navigate")
}

// komerzaRefused maps a refusal to the four codes of the exchange (seed
// komerza-exchange; statuses of seed-contracts 1.2) and to the platform-wide ones
// for what the seed does not name.
func (h *handler) komerzaRefused(w http.ResponseWriter, r *http.Request, err error) {
	if own, ok := errors.AsType[komerzaError](err); ok {
		komerza(w, own.status, own.code, own.message)
		return
	}
	e := machine(err)
	h.logRefusal(r, e)
	switch {
	case e.Reason == oauth.ClientUnknown, e.Reason == oauth.ProfileMismatch:
		komerza(w, http.StatusNotFound, "app_not_found", "No application has this id, or it uses another endpoint: see its page in the developer portal.")
	case e.Code == oauth.InvalidClient:
		w.Header().Set("WWW-Authenticate", `ClientSecret realm="oauth"`) // RFC 9110, 15.5.2; the scheme is ours, so no browser asks for a password
		komerza(w, http.StatusUnauthorized, "invalid_client_secret", "The X-Client-Secret header is missing or is not this application's secret.")
	case e.Reason == oauth.CodeExpired:
		komerza(w, http.StatusForbidden, "code_expired", e.Description)
	case e.Code == oauth.InvalidGrant:
		komerza(w, http.StatusForbidden, "invalid_code", e.Description)
	case e.Code == oauth.UnauthorizedClient, e.Code == oauth.AccessDenied:
		komerza(w, http.StatusForbidden, "AccessDenied", e.Description)
	case e.Reason == tooLarge:
		komerza(w, http.StatusRequestEntityTooLarge, "ValidationError", e.Description)
	case e.Reason == oauth.RateLimited:
		retryAfter(w, e.RetryAfter)
		komerza(w, http.StatusTooManyRequests, "RateLimited", e.Description)
	case e.Code == oauth.TemporarilyUnavailable:
		retryAfter(w, e.RetryAfter)
		komerza(w, http.StatusServiceUnavailable, "InternalServerError", e.Description)
	case e.Code == oauth.ServerError:
		komerza(w, http.StatusInternalServerError, "InternalServerError", e.Description)
	default:
		komerza(w, http.StatusBadRequest, "ValidationError", e.Description)
	}
}

// komerzaError is a refusal in the words of the contract itself.
type komerzaError struct {
	status        int
	code, message string
}

func (e komerzaError) Error() string { return e.code }

func komerza(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, envelope{Message: &message, Code: &code})
}
