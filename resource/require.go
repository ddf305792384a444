package resource

import (
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
)

// Require returns middleware that admits requests whose token has the access asked for; handlers find who calls with
// FromContext. Others are refused in the form that Config.Errors chose:
//
//	                       RFC6750                    Komerza
//	no token               401, no error code         401 BadToken
//	unreadable token       400 invalid_request        401 BadToken
//	two different tokens   400 invalid_request        400 ValidationError
//	bad, expired, revoked  401 invalid_token          401 BadToken
//	scope or store lacking 403 insufficient_scope     403 AccessDenied
//	nothing is known       503, Retry-After           503 InternalServerError, Retry-After
//
// Require panics if a.Scope is more than one scope or a.OnStale is none of ours, as http.ServeMux does on a pattern that
// cannot be.
func (v *Verifier) Require(a Access) func(http.Handler) http.Handler {
	if a.Scope != "" && !quotable(a.Scope) {
		panic("resource: Access.Scope must be one scope")
	}
	if !a.OnStale.known() {
		panic("resource: Access.OnStale must be Introspect, Closed or an Open")
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			caller, err := v.admit(r, a)
			if err != nil {
				v.refuse(w, err)
				return
			}
			next.ServeHTTP(w, r.WithContext(&admitted{r.Context(), caller}))
		})
	}
}

func (v *Verifier) admit(r *http.Request, a Access) (Caller, error) {
	token, err := tokenOf(r)
	if err != nil {
		return Caller{}, v.counted(err)
	}
	caller, err := v.authenticate(r.Context(), token, a.OnStale)
	if err == nil {
		err = caller.allow(a, r)
	} else if e, ok := err.(*Error); ok && e.Reason == "not_a_token" && !isB64Token(token) {
		err = malformed() // asked now, because what is a token has this grammar too
	}
	return caller, v.counted(err)
}

// Check is Require without HTTP, for other transports. Every error it returns is an *Error. Where Kind is Denied, the
// Caller is returned with the error.
func (v *Verifier) Check(ctx context.Context, token string, a Access) (Caller, error) {
	caller, err := v.authenticate(ctx, token, a.OnStale)
	if err == nil {
		err = caller.allow(a, nil)
	}
	caller.Scopes = slices.Clone(caller.Scopes)
	return caller, v.counted(err)
}

func (v *Verifier) counted(err error) error {
	if e, ok := err.(*Error); ok {
		v.count.refused(e.Reason)
	}
	return err
}

// authenticate checks all that verify does, then the lease, the rules and the bits, in this order: what was read under a
// lease is at least as new as it. Scopes of the Caller are shared.
func (v *Verifier) authenticate(ctx context.Context, text string, onStale OnStale) (Caller, error) {
	if len(text) > maxToken {
		return Caller{}, refused("not_a_token")
	}
	var buf [2048]byte // on the stack, for most keys there are
	id := digest(sha256.Sum256(append(buf[:0], text...)))
	t, err := v.verify(ctx, id, text)
	if err != nil {
		return Caller{}, err
	}
	may, err := v.powersOf(ctx, id, text, t, onStale.or(v.cfg.OnStale))
	if err != nil {
		return Caller{}, err
	}
	v.seen.add(t)
	return callerOf(t, may), nil
}

// powersOf returns what a key may do now.
func (v *Verifier) powersOf(ctx context.Context, id digest, text string, t *token, onStale OnStale) (powers, error) {
	f := &v.follow
	now, lease := v.clock(), f.lease.Load()
	live := lease.live(now)
	switch {
	case live:
	case onStale == Introspect || !v.hasFeed():
		return v.ask(ctx, id, text, t, "lapsed")
	case !onStale.opened(lease, now):
		if onStale != Closed {
			v.shuts()
		}
		return powers{}, unavailable("stale", nil)
	}
	is, why := f.view.Load().value(t)
	switch {
	case is == valid:
		if !live {
			v.opens()
		}
		return t.powers, nil
	case is != ask:
		return powers{}, refused("not_active")
	case why == "no_list" && t.list != "":
		f.want(t.list)
	}
	if live {
		if may, ok := f.kept(id, t); ok {
			return may, nil
		}
	}
	return v.ask(ctx, id, text, t, why)
}

// tokenOf takes the token from the request (RFC 6750 section 2.1, or x-dressipi-jwt). Credentials of another scheme are
// no token. Forms and queries are never read: section 2.3 tells why.
func tokenOf(r *http.Request) (string, error) {
	var token string
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 {
		// Not a list (RFC 9110 section 11.6.2): a proxy and this API could each read another one.
		return "", malformed()
	}
	for _, h := range headers {
		scheme, rest, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		if err := oneToken(&token, strings.TrimLeft(rest, " ")); err != nil {
			return "", err
		}
	}
	for _, h := range r.Header.Values("X-Dressipi-Jwt") {
		if err := oneToken(&token, h); err != nil {
			return "", err
		}
	}
	if token == "" {
		return "", &Error{Kind: NoToken, Reason: "no_token"}
	}
	return token, nil
}

// oneToken adds a token found in the request to what was found before. The grammar of one alone is not asked for here.
func oneToken(have *string, found string) error {
	switch {
	case found == "" || *have != "" && !(isB64Token(*have) && isB64Token(found)):
		return malformed()
	case *have != "" && *have != found:
		return &Error{Kind: TwoTokens, Reason: "two_tokens"}
	}
	*have = found
	return nil
}

func malformed() error { return &Error{Kind: Malformed, Reason: "malformed"} }

// isB64Token is the grammar of RFC 6750 section 2.1.
func isB64Token(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !b64Token[s[i]] {
			return false
		}
	}
	return s != ""
}

// b64Token has the characters of that grammar. A table takes a quarter of the time, on every request.
var b64Token = func() (t [256]bool) {
	for c := range t {
		t[c] = isBase64URL(byte(c)) || strings.IndexByte(".~+/", byte(c)) >= 0
	}
	return t
}()
