package endpoint

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// serveAuthorize is /oauth/authorize and /api/oauth/authorize. The registered
// client decides: a direct one is answered here, in JSON; for the others the
// portal shows pages. A client that nobody knows gets JSON under /api.
func (h *handler) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		profile, err := h.server.ProfileOf(r.Context(), r.URL.Query().Get("client_id"))
		switch {
		case profile == oauth.Direct, errors.Is(err, oauth.ErrNotFound) && strings.HasPrefix(r.URL.Path, "/api/"):
			h.directAuthorize(w, r)
		default:
			h.authorize.ServeHTTP(w, r)
		}
	case http.MethodPost:
		h.postAuthorize(w, r)
	default:
		w.Header().Set("Allow", "GET, POST")
		writeJSON(w, http.StatusMethodNotAllowed, oauthError{Error: string(oauth.InvalidRequest), Description: "Use GET or POST."})
	}
}

type directAnswer struct {
	Code  string `json:"code"`
	State string `json:"state"`
}

// directAuthorize is the first half of Dressipi's contract (seed-contracts 1.6):
// the app itself asks, and gets a code for a guest.
func (h *handler) directAuthorize(w http.ResponseWriter, r *http.Request) {
	secure(w)
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		h.refused(w, r, bad(oauth.ParamMalformed, "", "The query cannot be read: check its percent-encoding."), http.StatusBadRequest, "")
		return
	}
	if prefetched(r) {
		h.refused(w, r, bad(oauth.Prefetch, "", "A profile is not begun by a prefetch or by opening a link."), http.StatusBadRequest, query.Get("state"))
		return
	}
	answer, err := h.server.AuthorizeDirect(r.Context(), oauth.DirectRequest{
		Query: query, APIKey: oauth.Secret(r.Header.Get("X-Api-Key")), Guest: r.Header.Get("X-Dressipi-Jwt"),
	})
	if err != nil {
		h.refused(w, r, err, http.StatusBadRequest, answer.State)
		return
	}
	writeJSON(w, http.StatusOK, directAnswer{answer.Code.Reveal(), answer.State})
}

// postAuthorize takes an authorization request by POST (RFC 6749, 3.1). It comes
// from another origin, so it decides nothing: a request that is good is kept, and
// the browser goes on with our own GET; anything else is shown as it would be
// after a GET.
func (h *handler) postAuthorize(w http.ResponseWriter, r *http.Request) {
	secure(w)
	sent, fromJSON, err := body(w, r)
	if err == nil && fromJSON {
		err = bad(oauth.ParamPlace, "", "Send application/x-www-form-urlencoded.")
	}
	if err != nil {
		h.refused(w, r, err, http.StatusBadRequest, "")
		return
	}
	request, _, err := h.server.Authorize(r.Context(), sent)
	if err != nil || request == nil {
		get := r.Clone(r.Context())
		get.Method, get.Body = http.MethodGet, http.NoBody
		get.URL.RawQuery = sent.Encode()
		get.Header.Del("Content-Type")
		h.authorize.ServeHTTP(w, get)
		return
	}
	handle, err := h.server.Keep(r.Context(), sent)
	if err != nil {
		h.refused(w, r, err, http.StatusBadRequest, "")
		return
	}
	http.Redirect(w, r, h.server.PagesURL()+"/oauth/authorize?kept="+url.QueryEscape(handle), http.StatusSeeOther)
}
