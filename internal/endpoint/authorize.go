package endpoint

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// serveAuthorize is /oauth/authorize and /api/oauth/authorize. The registered
// client decides: a direct one is answered here, in JSON, whatever its method; for
// the others the portal shows pages. Under /api, where only direct clients ask, a
// client that nobody knows gets JSON. One that cannot be looked up may be either:
// then whoever takes a page gets one, and the others JSON. Were it left to the
// portal, which looks again, a direct client could be told that it is wrong here.
func (h *handler) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("client_id")
	if r.Method == http.MethodPost && id == "" {
		id = postedClient(r)
	}
	profile, err := h.server.ProfileOf(r.Context(), id)
	outage := err != nil && !errors.Is(err, oauth.ErrNotFound)
	switch {
	case profile == oauth.Direct, err != nil && strings.HasPrefix(r.URL.Path, "/api/"):
		h.directAuthorize(w, r)
	case outage && !strings.Contains(r.Header.Get("Accept"), "text/html"):
		secure(w)
		h.refused(w, r, err, http.StatusBadRequest, r.URL.Query().Get("state"))
	default:
		h.authorize.ServeHTTP(w, r)
	}
}

// postedClient reads the client_id of a posted form, and leaves the form to be read.
func postedClient(r *http.Request) string {
	start, _ := io.ReadAll(io.LimitReader(r.Body, maxForm)) // who reads the rest meets the error, too
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), r.Body), r.Body}
	form, _ := url.ParseQuery(string(start))
	return form.Get("client_id")
}

type directAnswer struct {
	Code  string `json:"code"`
	State string `json:"state"`
}

// directAuthorize is the first half of Dressipi's contract (seed-contracts 1.6):
// the app itself asks, and gets a code for a guest.
func (h *handler) directAuthorize(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if !allow(w, r, http.MethodGet) {
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		h.refused(w, r, h.charge(r, "", bad(oauth.ParamMalformed, "", "The query cannot be read: check its percent-encoding.")), http.StatusBadRequest, "")
		return
	}
	if prefetched(r) {
		h.refused(w, r, h.charge(r, "", bad(oauth.Prefetch, "", "A profile is not begun by a prefetch or by opening a link.")), http.StatusBadRequest, query.Get("state"))
		return
	}
	auth := oauth.ClientAuth{ID: query.Get("client_id"), APIKey: oauth.Secret(r.Header.Get("X-Api-Key"))}
	if err := h.guarded(r, &auth); err != nil {
		h.refused(w, r, err, http.StatusBadRequest, "")
		return
	}
	answer, err := h.server.AuthorizeDirect(r.Context(), oauth.DirectRequest{Query: query, APIKey: auth.APIKey, Admit: auth.Admit, Guest: r.Header.Get("X-Dressipi-Jwt")})
	if err != nil {
		e := oauth.AsError(err)
		if e.Anonymous() || e.Reason != oauth.ParamMissing && (e.Param == "client_id" || e.Param == "state") { // the two that are read before
			err = h.charge(r, auth.ID, err)
		}
		h.refused(w, r, err, http.StatusBadRequest, answer.State)
		return
	}
	writeJSON(w, http.StatusOK, directAnswer{answer.Code.Reveal(), answer.State})
}
