package endpoint

import (
	"net/http"
	"net/url"

	"github.com/grantway/grantway/internal/oauth"
)

// grantAnswer is what an app reads of a grant of its own. scopes is as Grant
// Management for OAuth 2.0 has it, a draft; stores are ours, as in a key.
type grantAnswer struct {
	ID        string        `json:"grant_id"`
	Status    string        `json:"status"` // pending, live, suspended
	Subject   string        `json:"sub"`
	Scopes    []grantScopes `json:"scopes"`
	Rights    []oauth.Right `json:"rights"`
	AllStores bool          `json:"all_stores"` // also those that come later
	Created   int64         `json:"created_at"` // seconds since 1970
}

// grantScopes are scopes that hold on the account and in every store, at an API.
type grantScopes struct {
	Scope    string   `json:"scope"`
	Resource []string `json:"resource"`
}

// grant is GET and DELETE /oauth/grants/{grant_id}, for the app whose grant it is.
// It proves itself by Basic alone. The one parameter is wait=effective of DELETE,
// as at /oauth/revoke.
func (h *handler) grant(w http.ResponseWriter, r *http.Request) {
	secure(w)
	if r.Method != http.MethodGet && r.Method != http.MethodDelete {
		w.Header().Set("Allow", "GET, DELETE")
		writeJSON(w, http.StatusMethodNotAllowed, oauthError{Error: string(oauth.InvalidRequest), Description: "Use GET or DELETE."})
		return
	}
	waits := r.Method == http.MethodDelete && r.URL.RawQuery == "wait=effective"
	if r.URL.RawQuery != "" && !waits {
		h.refused(w, r, h.charge(r, "", bad(oauth.ParamPlace, "", "This address takes no parameter but wait=effective, with DELETE. Authenticate by Basic.")), http.StatusUnauthorized, "")
		return
	}
	auth, err := credentials(r, url.Values{})
	if err != nil {
		h.refused(w, r, h.charge(r, "", err), http.StatusUnauthorized, "")
		return
	}
	if err := h.guarded(r, &auth); err != nil {
		h.refused(w, r, err, http.StatusUnauthorized, "")
		return
	}
	id := r.PathValue("grant")
	if r.Method == http.MethodDelete {
		if err := h.server.EndGrant(r.Context(), auth, id); err != nil {
			h.clientRefused(w, r, err, auth.ID)
			return
		}
		if waits {
			h.inEffect(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	g, err := h.server.QueryGrant(r.Context(), auth, id)
	if err != nil {
		h.clientRefused(w, r, err, auth.ID)
		return
	}
	answer := grantAnswer{ID: g.ID, Status: string(g.Status), Subject: g.UserID, Scopes: []grantScopes{}, Rights: g.Rights.Claim(), AllStores: g.AllStores, Created: g.Created.Unix()}
	if flat := g.Rights.Flat(); len(flat) > 0 {
		answer.Scopes = append(answer.Scopes, grantScopes{flat.String(), []string{g.Audience}})
	}
	writeJSON(w, http.StatusOK, answer)
}
