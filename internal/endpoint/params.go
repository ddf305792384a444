package endpoint

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/grantway/grantway/internal/oauth"
)

// What a machine may send at most (attack G5).
const (
	maxForm = 64 << 10
	maxJSON = 16 << 10
	// A type and a few parameters; to parse what fits into a head would take a fifth of a second.
	maxContentType = 256
)

// tooLarge is the reason of a body beyond the limit.
const tooLarge oauth.Reason = "body_too_large"

func bad(reason oauth.Reason, param, text string) *oauth.Error {
	return &oauth.Error{Code: oauth.InvalidRequest, Reason: reason, Param: param, Description: text}
}

// oauthParams are the parameters that have a meaning at these endpoints. Unknown
// ones are ignored (RFC 6749, 3.2).
var oauthParams = []string{"grant_type", "code", "redirect_uri", "client_id", "client_secret", "code_verifier", "refresh_token", "scope", "token", "token_type_hint"}

// body reads the parameters of a POST. fromJSON tells that they came as a JSON
// object. A request without a body has no parameters.
func body(w http.ResponseWriter, r *http.Request) (values url.Values, fromJSON bool, err error) {
	kind := ""
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if len(ct) > maxContentType {
			return nil, false, bad(oauth.ParamMalformed, "Content-Type", "The Content-Type header is longer than it may be.")
		}
		if kind, _, err = mime.ParseMediaType(ct); err != nil {
			return nil, false, bad(oauth.ParamMalformed, "Content-Type", "The Content-Type header cannot be read.")
		}
	}
	limit := int64(maxForm)
	if kind == "application/json" {
		limit = maxJSON
	}
	raw, err := read(w, r, limit)
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, false, bad(tooLarge, "", "The request is larger than it may be.")
		}
		return nil, false, bad(oauth.ParamMalformed, "", "The request ended before its body did.")
	}
	switch {
	case len(raw) == 0:
		return url.Values{}, false, nil
	case kind == "application/json":
		values, err = flatJSON(raw)
		return values, true, err
	case kind == "application/x-www-form-urlencoded":
		if values, err = url.ParseQuery(raw); err != nil {
			return nil, false, bad(oauth.ParamMalformed, "", "The form cannot be read: check its percent-encoding.")
		}
		return values, false, nil
	}
	return nil, false, bad(oauth.ParamMalformed, "Content-Type", "Send application/x-www-form-urlencoded.")
}

// read reads a body of at most limit bytes. Of one whose length the head has told,
// the room is that from the first.
func read(w http.ResponseWriter, r *http.Request, limit int64) (string, error) {
	if r.ContentLength <= 0 || r.ContentLength > limit {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
		return string(raw), err
	}
	var text strings.Builder
	text.Grow(int(r.ContentLength))
	_, err := io.Copy(&text, r.Body)
	return text.String(), err
}

// flatJSON reads one flat object of strings. A key that stands twice is an error:
// two readers could take different ones (attack D7).
func flatJSON(raw string) (url.Values, error) {
	malformed := bad(oauth.ParamMalformed, "", "Send one JSON object whose values are strings.")
	dec := json.NewDecoder(strings.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed
	}
	values := url.Values{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, malformed
		}
		value, err := dec.Token()
		name, isName := key.(string)
		text, isText := value.(string)
		if err != nil || !isName || !isText && value != nil {
			return nil, malformed
		}
		if values.Has(name) {
			return nil, bad(oauth.ParamRepeated, "", "A parameter may be sent only once.")
		}
		values.Set(name, text) // null counts as omitted
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, malformed
	}
	return values, nil
}

// gather reads the parameters of a token, revocation or introspection request.
// Query and JSON are first searched for client_id alone. If it names a direct
// client, each parameter may come from query, form or JSON, from one place only;
// for everybody else parameters come in a form (DESIGN, decision 3). own are those
// that this endpoint has beside the ones of all. With an error it returns client_id
// alone, as far as it could be read.
func (h *handler) gather(w http.ResponseWriter, r *http.Request, own ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, bad(oauth.ParamMalformed, "", "The query cannot be read: check its percent-encoding.")
	}
	sent, fromJSON, err := body(w, r)
	if err != nil {
		return nil, err
	}
	id := sent.Get("client_id")
	if id == "" {
		id = query.Get("client_id")
	}
	profile, err := h.server.ProfileOf(r.Context(), id)
	switch {
	case errors.Is(err, oauth.ErrNotFound):
		profile = "" // refused later, as a client that nobody knows
	case err != nil:
		return nil, err
	}
	loose := profile == oauth.Direct || profile == "" && id != ""
	out := url.Values{}
	for _, name := range slices.Concat(oauthParams, own) {
		if !loose && (query.Has(name) || fromJSON && sent.Has(name)) {
			return url.Values{"client_id": {id}}, bad(oauth.ParamPlace, name, "The parameter "+name+" belongs in a form-encoded body.")
		}
		values := append(query[name], sent[name]...)
		switch {
		case len(values) > 1:
			return url.Values{"client_id": {id}}, bad(oauth.ParamRepeated, name, "The parameter "+name+" may be sent only once.")
		case len(values) == 1 && values[0] != "":
			out.Set(name, values[0])
		}
	}
	return out, nil
}

// credentials reads how the caller presents himself: Basic, or parameters, never
// both (RFC 6749, 2.3).
func credentials(r *http.Request, p url.Values) (oauth.ClientAuth, error) {
	auth := oauth.ClientAuth{ID: p.Get("client_id"), Secret: oauth.Secret(p.Get("client_secret"))}
	if keys := r.Header.Values("X-Api-Key"); len(keys) > 1 {
		return auth, bad(oauth.ParamRepeated, "x-api-key", "The header x-api-key may be sent only once.")
	} else if len(keys) == 1 {
		auth.APIKey = oauth.Secret(keys[0])
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return auth, nil
	}
	if len(headers) > 1 {
		return auth, bad(oauth.ClientAuthTwice, "", "Authenticate by one method only.")
	}
	scheme, encoded, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return auth, nil // a bearer token says nothing here
	}
	id, secret, ok := parseBasic(strings.TrimLeft(encoded, " "))
	if !ok {
		return auth, &oauth.Error{Code: oauth.InvalidClient, Reason: oauth.ClientAuthMethod,
			Description: "The Basic credentials cannot be read: form-encode id and secret, join them by a colon, and base64 the result."}
	}
	if auth.Secret != "" || auth.ID != "" && auth.ID != id {
		return auth, bad(oauth.ClientAuthTwice, "", "Authenticate by one method only.")
	}
	auth.ID, auth.Secret = id, oauth.Secret(secret)
	return auth, nil
}
