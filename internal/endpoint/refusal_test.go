package endpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// Every reason there is has a status and a wire code in each dialect, and none is
// left to a default (RFC 6749, 5.2; seed-contracts 1.2; standards, section 9). The
// codes of the management use-cases never reach the wire.
func TestRefusal_EveryReason(t *testing.T) {
	type want struct {
		status        int
		code          string
		komerzaStatus int
		komerzaCode   string
	}
	byCode := map[oauth.Code]want{
		oauth.InvalidRequest:          {400, "invalid_request", 400, "ValidationError"},
		oauth.InvalidClient:           {401, "invalid_client", 401, "invalid_client_secret"},
		oauth.InvalidGrant:            {400, "invalid_grant", 403, "invalid_code"},
		oauth.UnauthorizedClient:      {400, "unauthorized_client", 403, "AccessDenied"},
		oauth.UnsupportedGrantType:    {400, "unsupported_grant_type", 400, "ValidationError"},
		oauth.UnsupportedResponseType: {400, "unsupported_response_type", 400, "ValidationError"},
		oauth.InvalidScope:            {400, "invalid_scope", 400, "ValidationError"},
		oauth.InvalidGrantID:          {404, "invalid_grant_id", 400, "ValidationError"},
		oauth.AccessDenied:            {400, "access_denied", 403, "AccessDenied"},
		oauth.ServerError:             {500, "server_error", 500, "InternalServerError"},
		oauth.TemporarilyUnavailable:  {503, "temporarily_unavailable", 503, "InternalServerError"},
		// Somebody changed it meanwhile, time and again: worth another try.
		oauth.Conflict: {503, "temporarily_unavailable", 503, "InternalServerError"},
		// No machine's request can meet these: a mistake of ours.
		oauth.NotFound:  {500, "server_error", 500, "InternalServerError"},
		oauth.Forbidden: {500, "server_error", 500, "InternalServerError"},
		oauth.Incorrect: {500, "server_error", 500, "InternalServerError"},
	}
	byReason := map[oauth.Reason]want{
		oauth.ClientUnknown:   {401, "invalid_client", 404, "app_not_found"},
		oauth.ProfileMismatch: {400, "unauthorized_client", 404, "app_not_found"},
		oauth.CodeExpired:     {400, "invalid_grant", 403, "code_expired"},
		oauth.FeedGone:        {410, "invalid_request", 400, "ValidationError"},
		oauth.RateLimited:     {429, "temporarily_unavailable", 429, "RateLimited"},
	}
	h := &handler{log: slog.New(slog.DiscardHandler)}
	reasons := oauth.Reasons()
	if len(reasons) < 70 {
		t.Fatalf("only %d reasons", len(reasons))
	}
	for reason, code := range reasons {
		w, ok := byReason[reason]
		if !ok {
			if w, ok = byCode[code]; !ok {
				t.Errorf("%s: no dialect says how %s looks", reason, code)
				continue
			}
		}
		r := httptest.NewRequest(http.MethodPost, "/oauth/token", nil)
		rec := httptest.NewRecorder()
		h.refused(rec, r, fmt.Errorf("wrapped: %w", oauth.Refuse(reason)), http.StatusUnauthorized, "")
		check(t, "token, "+string(reason), rec, w.status, w.code)

		rec = httptest.NewRecorder()
		h.komerzaRefused(rec, r, fmt.Errorf("wrapped: %w", oauth.Refuse(reason)))
		check(t, "exchange, "+string(reason), rec, w.komerzaStatus, w.komerzaCode)
	}
}

// TestRefusals_SayWhatIsTrue: what is said of a client at one endpoint holds at the others, and one text stands for an id
// that nobody has and for one of the other kind, so that none tells the two apart (attack C7).
func TestRefusals_SayWhatIsTrue(t *testing.T) {
	w := newWorld(t)
	app := []string{"Authorization", basic(w.standard.id, w.standard.secret.Reveal())}
	api := []string{"Authorization", basic(w.api.ID, w.api.Secret.Reveal())}
	nobody := []string{"Authorization", basic("nobody", "nothing")}
	code := url.Values{"grant_type": {"authorization_code"}, "code": {"x"}}
	token := url.Values{"token": {"x"}}
	exchange := func(id string) answer {
		return w.get("/oauth2/"+id+"/exchange/x", "User-Agent", "Exporter/1.0", "X-Client-Secret", "x")
	}
	const noApp, noAPI = "No app has this client id. The id of an API does not work here.", "No API has this client id. The id and secret of an app do not work here."
	const noExchange = "No application has this id, or it uses another endpoint: see its page in the developer portal."
	for name, c := range map[string]struct {
		got  answer
		want string
	}{
		"token, no client id":            {w.post("/oauth/token", code), "The parameter client_id is required."},
		"revoke, no client id":           {w.post("/oauth/revoke", token), "The parameter client_id is required."},
		"token, an app without a secret": {w.post("/oauth/token", url.Values{"grant_type": {"authorization_code"}, "code": {"x"}, "client_id": {w.standard.id}}), "Authenticate with the client id and its secret."},
		"introspect, nobody":             {w.post("/oauth/introspect", token), "Authenticate with the client id and its secret."},
		"token, an API":                  {w.post("/oauth/token", code, api...), noApp},
		"token, unknown":                 {w.post("/oauth/token", code, nobody...), noApp},
		"revoke, an API":                 {w.post("/oauth/revoke", token, api...), noApp},
		"introspect, an app":             {w.post("/oauth/introspect", token, app...), noAPI},
		"introspect, unknown":            {w.post("/oauth/introspect", token, nobody...), noAPI},
		"feed, an app":                   {w.get("/revocations?instance=i-1", app...), noAPI},
		"introspect, a wrong secret":     {w.post("/oauth/introspect", token, "Authorization", basic(w.api.ID, "wrong")), "The client secret does not belong to this client id."},
		"exchange, a standard app":       {exchange(w.standard.id), noExchange},
		"exchange, unknown":              {exchange("7d9f0e5c-4b1a-4c1e-9a55-0f6a3f1d2b7c"), noExchange},
	} {
		if text := description(c.got); text != c.want {
			t.Errorf("%s: %d %q, want %q", name, c.got.status, text, c.want)
		}
	}
}

func check(t *testing.T, what string, rec *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	got := answer{rec.Code, rec.Header(), rec.Body.String()}
	if got.status != status || got.refusal() != code {
		t.Errorf("%s: %d %s, want %d %s", what, got.status, got.body, status, code)
	}
	if retry := got.header.Get("Retry-After"); (retry != "") != (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
		t.Errorf("%s: %d with Retry-After %q", what, status, retry)
	}
	if challenge := got.header.Get("WWW-Authenticate"); (challenge != "") != (status == http.StatusUnauthorized) {
		t.Errorf("%s: %d with WWW-Authenticate %q", what, status, challenge)
	}
	if text := description(got); text == "" || strings.ContainsFunc(text, outsideDescription) {
		t.Errorf("%s: error_description %q (RFC 6749, 5.2)", what, text)
	}
}

func description(a answer) string {
	var e struct {
		Description string `json:"error_description"`
		Message     string
	}
	json.Unmarshal([]byte(a.body), &e)
	return e.Description + e.Message
}

// outsideDescription tells what RFC 6749, 5.2 keeps out of error_description.
func outsideDescription(r rune) bool { return r < 0x20 || r == '"' || r == '\\' || r > 0x7e }

// requests are one of every kind that needs the database, each in order.
func (w *world) requests() map[string]*http.Request {
	post := func(target string, form url.Values, header ...string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return with(r, header...)
	}
	get := func(target string, header ...string) *http.Request {
		return with(httptest.NewRequest(http.MethodGet, target, nil), header...)
	}
	secret := w.exchange.secret.Reveal()
	authorization := basic(w.standard.id, w.standard.secret.Reveal())
	key, refresh := w.key(w.standard)
	ended, _ := w.key(w.standard) // the requests come in any order
	direct := url.Values{"client_id": {w.direct.id}, "redirect_uri": {oauth.OutOfBand}, "response_type": {"code"}, "state": {"xyz"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	redeem := url.Values{"grant_type": {"authorization_code"}, "code_verifier": {verifier}}
	and := func(v url.Values, pairs ...string) url.Values {
		out := url.Values{}
		for name := range v {
			out[name] = v[name]
		}
		for i := 0; i < len(pairs); i += 2 {
			out.Set(pairs[i], pairs[i+1])
		}
		return out
	}
	return map[string]*http.Request{
		"exchange, GET":     get("/oauth2/"+w.exchange.id+"/exchange/"+w.code(w.exchange), "X-Client-Secret", secret, "User-Agent", "x"),
		"exchange, POST":    post("/oauth2/"+w.exchange.id+"/exchange", url.Values{"code": {w.code(w.exchange)}}, "X-Client-Secret", secret, "User-Agent", "x"),
		"authorize, direct": get("/oauth/authorize?" + direct.Encode()),
		"token, standard":   post("/oauth/token", and(redeem, "code", w.code(w.standard), "redirect_uri", callback), "Authorization", authorization),
		"token, public":     post("/oauth/token", and(redeem, "code", w.code(w.public), "client_id", w.public.id)),
		"token, direct, query": post("/api/oauth/token?"+and(redeem, "code", w.code(w.direct), "client_id", w.direct.id, "redirect_uri", oauth.OutOfBand).Encode(),
			nil),
		"refresh":          post("/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, "Authorization", authorization),
		"revoke":           post("/oauth/revoke", url.Values{"token": {ended}}, "Authorization", authorization),
		"grant":            get("/oauth/grants/"+w.grantOf("alice", w.standard), "Authorization", authorization),
		"introspect":       post("/oauth/introspect", url.Values{"token": {key}}, "Authorization", basic(w.api.ID, w.api.Secret.Reveal())),
		"direct authorize": get("/api/oauth/authorize?" + direct.Encode()),
		"direct authorize, an app that nobody knows": get("/api/oauth/authorize?" + and(direct, "client_id", "nobody").Encode()),
	}
}

// A database that does not answer is 503 with Retry-After everywhere, never a
// verdict about code, token or client (RFC 7009, 2.2.1; RFC 6749, 4.1.2.1).
func TestRefusal_StorageDown(t *testing.T) {
	w := newWorld(t)
	requests := w.requests()
	if err := w.db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, r := range requests {
		got := w.do(r)
		want := "temporarily_unavailable"
		if strings.HasPrefix(name, "exchange") {
			want = "InternalServerError"
		}
		if got.status != http.StatusServiceUnavailable || got.refusal() != want || got.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s, Retry-After %q", name, got.status, got.body, got.header.Get("Retry-After"))
		}
		if strings.Contains(strings.ToLower(got.body), "sql") {
			t.Errorf("%s: the answer tells of the database: %s", name, got.body)
		}
	}
	if !strings.Contains(w.log.String(), `"reason":"storage_unavailable"`) {
		t.Error("the log does not tell")
	}
	// Nobody knows whose client it is: a person gets the portal's page.
	if got := w.get("/oauth/authorize?client_id="+w.standard.id, "Accept", "text/html"); got.body != "a page for people" {
		t.Errorf("authorize in a browser: %d %s", got.status, got.body)
	}
	// What needs no database goes on, so that API servers can still verify keys.
	for _, path := range []string{"/oauth/jwks", "/oauth/jwks/lasting", "/.well-known/oauth-authorization-server"} {
		if got := w.get(path); got.status != http.StatusOK {
			t.Errorf("%s: %d", path, got.status)
		}
	}
}

// An error of the server's own is server_error with one sentence. Its cause is
// logged and never sent, and the code is not burned (attack G10; DESIGN, 4).
func TestRefusal_ServerError(t *testing.T) {
	w := newWorld(t)
	for _, a := range []app{w.exchange, w.standard, w.direct} {
		code := w.code(a)
		w.random.fail = errors.New("cause-canary")
		got := w.redeem(a, code)
		w.random.fail = nil
		want := "server_error"
		if a.client.Profile == oauth.Exchange {
			want = "InternalServerError"
		}
		if got.status != http.StatusInternalServerError || got.refusal() != want {
			t.Errorf("%s: %d %s", a.client.Profile, got.status, got.body)
		}
		if strings.Contains(got.body+fmt.Sprint(got.header), "canary") {
			t.Errorf("%s: the cause was sent: %s", a.client.Profile, got.body)
		}
		if got := w.redeem(a, code); got.status != http.StatusOK {
			t.Errorf("%s: the code was burned: %s", a.client.Profile, got.body)
		}
	}
	if !strings.Contains(w.log.String(), "cause-canary") {
		t.Error("the cause is not in the log")
	}
}

// Every answer that is not a public document says no-store: successes, refusals,
// wrong methods and addresses where nothing is (RFC 6749, 5.1; attack C15).
func TestNoStore_RFC6749_5_1(t *testing.T) {
	w := newWorld(t)
	public := []string{"/oauth/jwks", "/oauth/jwks/lasting", "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"}
	see := func(what string, got answer) {
		t.Helper()
		if got.header.Get("Cache-Control") != "no-store" || got.header.Get("Pragma") != "no-cache" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s (%d): %v", what, got.status, got.header)
		}
		if !strings.HasPrefix(got.header.Get("Content-Type"), "application/json") {
			t.Errorf("%s (%d): Content-Type %q", what, got.status, got.header.Get("Content-Type"))
		}
		if got.header.Get("Set-Cookie") != "" {
			t.Errorf("%s (%d): a cookie", what, got.status)
		}
	}
	for name, r := range w.requests() {
		got := w.do(r)
		if ok := name != "direct authorize, an app that nobody knows"; ok != (got.status == http.StatusOK) {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		see(name, got)
	}
	paths := append([]string{"/oauth/token", "/api/oauth/token", "/oauth/revoke", "/oauth/introspect", "/oauth/grants/gr_x", "/oauth/grants/", "/oauth/token/x", "/oauth/", "/oauth2/", "/api/oauth/x",
		"/.well-known/x", "/oauth2/" + w.exchange.id + "/exchange/x", "/oauth2/" + w.exchange.id + "/exchange", "/oauth2/" + w.exchange.id + "/nothing/x",
		"/%6fauth2/" + w.exchange.id + "/exchange/x", "/%6fauth2/" + w.exchange.id + "/exchange/../x",
		"/api/oauth/authorize?client_id=" + w.direct.id}, public...)
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if slices.Contains(public, path) && (method == "GET" || method == "HEAD") {
				continue
			}
			if strings.Contains(path, "authorize") && method != "GET" {
				continue // the portal's
			}
			got := w.do(httptest.NewRequest(method, path, nil))
			if got.status < 400 {
				t.Errorf("%s %s: %d", method, path, got.status)
			}
			see(method+" "+path, got)
		}
	}
}

// Nothing that was sent stands in the log: no code, verifier, secret or token, on
// any path, right or wrong (attack G1).
func TestLog_Canary(t *testing.T) {
	w := newWorld(t)
	const canary = "CANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARYCANARYCANAR"
	for name, r := range w.requests() {
		w.do(r)
		for _, secret := range []string{w.exchange.secret.Reveal(), w.standard.secret.Reveal(), w.api.Secret.Reveal(), verifier, challenge} {
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("%s: a credential stands in the log", name)
			}
		}
	}
	for _, path := range []string{"/oauth2/" + w.exchange.id + "/exchange/" + canary, "/oauth2/" + canary + "/exchange/" + canary, "/oauth2/" + canary,
		"/oauth/token?code=" + canary, "/oauth/authorize?client_id=" + w.direct.id + "&redirect_uri=" + canary + "&state=" + canary,
		"/api/oauth/authorize?client_id=" + canary, "/oauth/revoke?token=%zz" + canary} {
		for _, method := range []string{"GET", "POST"} {
			for _, kind := range []string{"application/x-www-form-urlencoded", "application/json", "text/" + canary, "canary/" + canary + "; ="} {
				for _, body := range []string{"token=" + canary + "&client_id=" + canary + "&code=" + canary, `{"` + canary + `":"` + canary + `"}`, "%" + canary} {
					r := httptest.NewRequest(method, path, strings.NewReader(body))
					got := w.do(with(r, "Content-Type", kind, "Authorization", "Basic "+canary, "X-Client-Secret", canary, "User-Agent", canary,
						"X-Code-Verifier", canary, "X-Api-Key", canary, "X-Dressipi-Jwt", canary))
					if strings.Contains(got.body, canary) && !strings.Contains(got.body, `"state":"`+canary) && !strings.Contains(got.body, "page for people") {
						t.Errorf("%s %s repeats what was sent: %s", method, path, got.body)
					}
				}
			}
		}
	}
	if text := w.log.String(); strings.Contains(text, canary) {
		t.Errorf("in the log: …%s", text[max(0, strings.Index(text, canary)-200):][:200])
	}
	if !strings.Contains(w.log.String(), "client_unknown") {
		t.Error("nothing was logged, so nothing was tested")
	}
}
