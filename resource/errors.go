package resource

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// Kind is the class of a refusal: what the caller can do about it.
type Kind int

const (
	// NoToken: the request carries none.
	NoToken Kind = iota + 1
	// Malformed: the header cannot be read as a token.
	Malformed
	// TwoTokens: the request carries two different ones.
	TwoTokens
	// BadToken: not a token of this issuer for this API, or expired, or revoked.
	BadToken
	// Denied: the token stands and does not hold what was asked for.
	Denied
	// Unavailable: the issuer could not be asked, so nothing is known against the token. Try again.
	Unavailable
)

// Error is every error that Check returns. Neither it nor its cause ever contains the token.
type Error struct {
	Kind Kind
	// Reason is a stable word for logs and metrics: no_token, malformed, two_tokens; not_a_token, wrong_type,
	// wrong_issuer, wrong_audience, wrong_claims, unknown_key, wrong_algorithm, bad_signature, expired, not_yet,
	// not_active; scope, other_store (the scope is held, in other stores), store; no_keys, no_answer, bad_answer, stale, shed.
	Reason string
	// Scope and Store are what was asked for, where Kind is Denied.
	Scope, Store string
	// Cause says more, for logs. It may be nil.
	Cause error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return "resource: " + e.Reason + ": " + e.Cause.Error()
	}
	return "resource: " + e.Reason
}

func (e *Error) Unwrap() error { return e.Cause }

func refused(reason string) *Error { return &Error{Kind: BadToken, Reason: reason} }

func unavailable(reason string, cause error) *Error {
	return &Error{Kind: Unavailable, Reason: reason, Cause: cause}
}

// answers maps refusals to HTTP: RFC 6750 section 3.1 on the left, Komerza's published statuses and codes on the right.
// What Komerza calls BadToken includes malformed ones. Two different tokens are 400 under both.
var answers = map[Kind]struct {
	status int
	code   string

	komerzaStatus int
	komerzaCode   string
}{
	NoToken:     {401, "", 401, "BadToken"},
	Malformed:   {400, "invalid_request", 401, "BadToken"},
	TwoTokens:   {400, "invalid_request", 400, "ValidationError"},
	BadToken:    {401, "invalid_token", 401, "BadToken"},
	Denied:      {403, "insufficient_scope", 403, "AccessDenied"},
	Unavailable: {503, "temporarily_unavailable", 503, "InternalServerError"},
}

// refuse answers for err. A refusal must not be stored, nor be given to somebody with another token (RFC 9111 section 3.5).
func (v *Verifier) refuse(w http.ResponseWriter, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = unavailable("no_answer", err)
	}
	a := answers[e.Kind]
	status := a.status
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Authorization")
	h.Set("Content-Type", "application/json")
	var body any
	if v.cfg.Errors == Komerza {
		status = a.komerzaStatus
		body = struct {
			Success bool    `json:"success"`
			Message string  `json:"message"`
			Code    string  `json:"code"`
			Data    *string `json:"data"`
		}{Message: e.words("API key"), Code: a.komerzaCode}
	} else {
		body = struct {
			Error       string `json:"error,omitempty"`
			Description string `json:"error_description"`
		}{a.code, e.words("access token")}
	}
	if e.Kind == Unavailable {
		h.Set("Retry-After", "1")
	} else {
		h.Set("WWW-Authenticate", v.challenge(e, a.code))
	}
	text, _ := json.Marshal(body)
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// challenge writes RFC 6750 section 3. A request without a token gets no error code (section 3.1).
func (v *Verifier) challenge(e *Error, code string) string {
	s := `Bearer realm="` + v.cfg.Audience + `"`
	if code == "" {
		return s
	}
	s += `, error="` + code + `"`
	if text := e.words("access token"); printable(text) {
		s += `, error_description="` + text + `"`
	}
	if e.Kind == Denied && e.Scope != "" {
		s += `, scope="` + e.Scope + `"`
	}
	return s
}

func printable(s string) bool { return quotable(strings.ReplaceAll(s, " ", "")) }

// words is the sentence for the app's developer. thing is what the style calls a token.
func (e *Error) words(thing string) string {
	switch e.Kind {
	case NoToken:
		return "Send your " + thing + " in the Authorization header, after the word Bearer"
	case Malformed:
		return "The " + thing + " could not be read: send it in the Authorization header, after the word Bearer"
	case TwoTokens:
		return "Send one " + thing + ", not two different ones"
	case BadToken:
		if e.Reason == "expired" {
			return "Your " + thing + " has expired"
		}
		return "Your " + thing + " does not work for this API: it was changed, revoked or made for something else"
	case Denied:
		switch {
		case e.Scope == "":
			return "Your " + thing + " does not have access to this store"
		case e.Reason == "other_store":
			return "Your " + thing + " does not have permission to " + action(e.Scope) + " in this store"
		}
		return "Your " + thing + " does not have permission to " + action(e.Scope)
	}
	return "We cannot check your " + thing + " right now. Try again in a moment"
}

// action turns a scope into words: stores.products.update says "update products". The last segment is the verb, the
// first the family, which is named only where nothing stands between them.
func action(scope string) string {
	parts := strings.FieldsFunc(scope, func(r rune) bool { return r == '.' || r == ':' || r == '/' })
	if len(parts) < 2 {
		return "use " + scope
	}
	words := camel(parts[len(parts)-1])
	things := parts[1 : len(parts)-1]
	if len(things) == 0 {
		things = parts[:1]
	}
	for i := len(things) - 1; i >= 0; i-- {
		words = append(words, camel(things[i])...)
	}
	return strings.Join(words, " ")
}

func camel(s string) (words []string) {
	start := 0
	for i := 1; i < len(s); i++ {
		if s[i] >= 'A' && s[i] <= 'Z' {
			words = append(words, strings.ToLower(s[start:i]))
			start = i
		}
	}
	return append(words, strings.ToLower(s[start:]))
}
