package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Real credentials are sent in every place of a request where somebody might put
// one by mistake. None of them may then be in a log line, in an event or in the
// clear in a file of the database (attack G1; DESIGN, decision 9).
func TestServe_CanariesAreNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.serve("--log-level", "debug")
	password := "canary-" + rand.Text()
	var guests, exchange clientDoc
	s.run("", &guests, "client", "add", "--name", "Style Finder", "--profile", "direct")
	s.run("", &exchange, "client", "add", "--name", "Shop Pilot", "--profile", "exchange", "--redirect", "https://app.example/cb", "--scope", "stores.view")
	s.run(password+"\n", nil, "user", "add", "--name", "Mara", "--email", "mara@shop.example")
	var api credentials
	s.run("", &api, "api", "secret")
	var link linkDoc
	s.run("", &link, "operator-link")
	used, err := p.guestCode(guests.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := p.redeem(guests.ClientID, used)
	if err != nil {
		t.Fatal(err)
	}
	unused, err := p.guestCode(guests.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	signedIn, err := send("POST", p.url+"/sign-in", formType, url.Values{"email": {"mara@shop.example"}, "password": {password}}.Encode())
	if err != nil || signedIn.status != http.StatusSeeOther {
		t.Fatalf("sign-in: %v %d %s", err, signedIn.status, signedIn.body)
	}
	cookie, _, _ := strings.Cut(signedIn.header.Get("Set-Cookie"), ";")
	_, session, _ := strings.Cut(cookie, "=")
	ring, err := os.ReadFile(filepath.Join(s.dir, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	_, ringLine, _ := strings.Cut(strings.TrimSpace(string(ring)), "\n")
	invite := link.URL[strings.LastIndex(link.URL, "=")+1:]

	canaries := map[string]string{
		"used code": used, "code": unused, "access token": tokens.text("access_token"), "refresh token": tokens.text("refresh_token"),
		"client secret": exchange.ClientSecret, "API secret": api.ClientSecret, "password": password, "key ring line": ringLine,
		"session": session, "operator link": invite,
	}
	for name, c := range canaries {
		if len(c) < 20 {
			t.Fatalf("no %s: %q", name, c)
		}
		p.sendEverywhere(t, c, exchange.ClientID, exchange.ClientSecret, guests.ClientID, cookie)
	}
	var events []eventDoc
	s.run("", &events, "events", "--limit", "0")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}

	log, err := os.ReadFile(p.log)
	if err != nil {
		t.Fatal(err)
	}
	all, err := json.Marshal(events)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string]string{"the log": string(log), "the events": string(all)}
	files, err := filepath.Glob(filepath.Join(s.dir, "grantway.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		places[filepath.Base(name)] = string(data)
	}
	for name, c := range canaries {
		// The last 43 characters of a code are what proves it; its first 22 are the
		// key of its row.
		for _, form := range []string{c, c[max(0, len(c)-43):], url.QueryEscape(c), base64.StdEncoding.EncodeToString([]byte(c + ":" + c))} {
			for place, text := range places {
				if at := strings.Index(text, form); at >= 0 {
					t.Errorf("the %s is in %s: …%q", name, place, text[max(0, at-200):min(len(text), at+len(form)+20)])
				}
			}
		}
	}
	// The log is one of requests that came through, each named by its template.
	for _, want := range []string{`"route":"/oauth2/{appId}/exchange/{code}"`, `"route":"/oauth/token"`, `"route":"/sign-in"`, `"status":401`, `"status":403`, `"status":404`, `"status":405`, `"reason":"secret_wrong"`} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
	routes := map[string]bool{}
	for line := range strings.Lines(string(log)) {
		var entry struct{ Msg, Route, Remote string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not a JSON line: %q", line)
		}
		routes[entry.Route] = true
	}
	if len(routes) > 40 {
		t.Errorf("%d different routes: paths are logged, not templates", len(routes))
	}
}

// sendEverywhere sends c in each place of a request. What is answered is no matter
// here, but everything must be answered, and no server error.
func (p *process) sendEverywhere(t *testing.T, c, appID, secret, guestApp, cookie string) {
	t.Helper()
	q := url.QueryEscape(c)
	agent := func(more ...string) map[string]string {
		h := map[string]string{"User-Agent": "test"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	every := url.Values{}
	for _, name := range []string{"grant_type", "code", "code_verifier", "client_id", "client_secret", "redirect_uri", "refresh_token", "scope", "token", "state",
		"response_type", "code_challenge", "nonce", "email", "password", "invite", "name", "next", "request", "store", "anything"} {
		every.Set(name, c)
	}
	inForm := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v.Encode()
	}
	asJSON, err := json.Marshal(map[string]string{"grant_type": "authorization_code", "client_id": guestApp, "code": c, c: c})
	if err != nil {
		t.Fatal(err)
	}
	jsonType := map[string]string{"Content-Type": "application/json"}
	exchange := "/oauth2/" + appID + "/exchange"
	requests := []struct {
		method, path string
		header       map[string]string
		body         string
	}{
		// paths: the exchange's, wrong ones, and methods that are not there
		{"GET", exchange + "/" + c, agent("X-Client-Secret", secret), ""},
		{"GET", exchange + "/" + c, agent("X-Client-Secret", c), ""},
		{"GET", exchange + "/" + c, agent(), ""},
		{"GET", exchange + "/" + c, map[string]string{"User-Agent": ""}, ""},
		{"GET", exchange + "/" + c, agent("Purpose", "prefetch", "X-Client-Secret", secret), ""},
		{"GET", exchange + "/" + c + "/" + c, agent("X-Client-Secret", secret), ""},
		{"GET", exchange + "/x?code=" + q, agent("X-Client-Secret", secret), ""},
		{"GET", exchange + "/" + c, agent("X-Client-Secret", secret, "X-Code-Verifier", c), ""},
		{"GET", "/oauth2/" + c + "/exchange/x", agent("X-Client-Secret", secret), ""},
		{"GET", "/oauth2/" + c, agent(), ""},
		{"DELETE", exchange + "/" + c, agent(), ""},
		{"HEAD", exchange + "/" + c, agent("X-Client-Secret", secret), ""},
		{"GET", "/" + c, nil, ""}, {"GET", "//" + c, nil, ""}, {"GET", "/a/../" + c, nil, ""},
		{"GET", "/oauth/" + c, nil, ""}, {"GET", "/.well-known/" + c, nil, ""}, {"GET", "/assets/" + c, nil, ""},
		{"GET", "/developer/" + c, nil, ""}, {"GET", "/operator/" + c, nil, ""}, {"GET", "/connected-apps/" + c, agent("Cookie", cookie), ""},
		{"PUT", "/sign-in?" + q, nil, ""}, {"DELETE", "/oauth/token?code=" + q, nil, ""},
		// queries
		{"GET", "/auth/authorize?" + every.Encode(), nil, ""}, {"GET", "/oauth/authorize?" + every.Encode(), nil, ""},
		{"GET", "/auth/authorize?client_id=" + appID + "&redirect_uri=" + q + "&state=" + q, nil, ""},
		{"GET", "/auth/authorize?client_id=" + appID + "&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=" + q, nil, ""},
		{"GET", "/auth/authorize?client_id=" + appID + "&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&state=" + q, agent("Cookie", cookie), ""},
		{"POST", "/oauth/token?" + every.Encode(), formType, ""}, {"GET", "/sign-in?" + every.Encode(), nil, ""}, {"GET", "/sign-up?invite=" + q, nil, ""},
		{"GET", "/readyz?" + q, nil, ""}, {"GET", "/oauth/jwks?" + q, nil, ""},
		// headers
		{"GET", "/connected-apps", agent("Cookie", c+"="+c, "Referer", "https://x.example/"+c, "User-Agent", c), ""},
		{"GET", "/connected-apps", agent("Cookie", strings.SplitN(cookie, "=", 2)[0]+"="+c), ""},
		{"POST", "/sign-in", agent("Origin", "https://"+strings.ToLower(c)+".example", "X-Request-Id", c, "Traceparent", c), ""},
		{"POST", "/oauth/token", agent("Authorization", "Bearer "+c, "X-Api-Key", c, "X-Dressipi-Jwt", c, "Content-Type", c), "x"},
		{"POST", "/oauth/token", agent("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(c+":"+c)), "Content-Type", formType["Content-Type"]), "grant_type=authorization_code&code=x"},
		{"POST", "/oauth/introspect", agent("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(appID+":"+c)), "Content-Type", formType["Content-Type"]), "token=" + q},
		// forms
		{"POST", "/oauth/token", formType, every.Encode()},
		{"POST", "/oauth/token", formType, inForm("grant_type", "authorization_code", "client_id", guestApp, "code", c, "redirect_uri", c, "code_verifier", c)},
		{"POST", "/oauth/token", formType, inForm("grant_type", "refresh_token", "client_id", guestApp, "refresh_token", c)},
		{"POST", "/oauth/token", formType, inForm("grant_type", "refresh_token", "client_id", appID, "client_secret", c, "refresh_token", c)},
		{"POST", "/oauth/revoke", formType, inForm("client_id", guestApp, "token", c+"x")},
		{"POST", "/oauth/introspect", formType, inForm("client_id", c, "client_secret", c, "token", c)},
		{"POST", exchange, agent("X-Client-Secret", secret, "Content-Type", formType["Content-Type"]), inForm("code", c, "code_verifier", c)},
		{"POST", "/sign-in", formType, inForm("email", "mara@shop.example", "password", c+"x")},
		{"POST", "/sign-in", formType, inForm("email", c, "password", c)},
		{"POST", "/sign-in", formType, inForm("email", c+"@shop.example", "password", "wrong password")},
		{"POST", "/sign-up", formType, inForm("name", "", "email", c, "password", c, "invite", c+"x")},
		{"POST", "/consent", agent("Cookie", cookie, "Content-Type", formType["Content-Type"]), every.Encode()},
		{"POST", "/connected-apps/revoke", agent("Cookie", cookie, "Content-Type", formType["Content-Type"]), every.Encode()},
		// JSON
		{"POST", "/oauth/token", jsonType, string(asJSON)}, {"POST", "/oauth/token", jsonType, "{" + c}, {"POST", "/oauth/token", jsonType, string(asJSON[:len(asJSON)-1]) + `,"code":"` + c + `"}`},
		{"POST", "/api/oauth/token", jsonType, string(asJSON)},
		{"POST", exchange, agent("X-Client-Secret", secret, "Content-Type", "application/json"), string(asJSON)},
		{"POST", "/oauth/token", jsonType, `{"code":"` + c + strings.Repeat("x", 1<<20) + `"}`},
	}
	for _, r := range requests {
		a, err := send(r.method, p.url+strings.ReplaceAll(r.path, " ", "%20"), r.header, r.body)
		if err != nil || a.status >= 500 {
			t.Errorf("%s %s: %v %d %s", r.method, strings.ReplaceAll(r.path, c, "…"), err, a.status, a.body)
		}
		if err == nil && len(a.header["X-Request-Id"]) != 1 {
			t.Errorf("%s %s: %d with the request ids %q", r.method, strings.ReplaceAll(r.path, c, "…"), a.status, a.header["X-Request-Id"])
		}
	}
	// What net/http itself refuses.
	for _, r := range []struct {
		status int
		raw    string
	}{
		{431, "GET /" + c + " HTTP/1.1\r\nHost: x\r\nX-Large: " + c + strings.Repeat("a", 2<<20) + "\r\n\r\n"},
		{400, "GET /%zz" + c + " HTTP/1.1\r\nHost: x\r\n\r\n"},
		{505, "GET /" + c + " HTTP/9.9\r\nHost: x\r\n\r\n"},
		{400, "GET /" + c + " HTTP/1.1\r\nHost: " + c + "\r\n" + "-\x01" + c + "\r\n\r\n"},
		{501, "POST /oauth/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + c + "\r\n\r\n"},
		{400, "POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: " + c + "\r\n\r\n"},
		{404, "CANARY-" + c + " /" + c + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}, // a method that is a credential
	} {
		if strings.HasPrefix(r.raw, "CANARY-") && strings.ContainsAny(c, ":/") {
			r.status = 400 // not a method's letters
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		go fmt.Fprint(conn, r.raw) // refused before all of it is read
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != r.status {
			t.Errorf("%.60q: %v, want %d: %v", strings.ReplaceAll(r.raw, c, "…"), resp, r.status, err)
		}
		conn.Close()
	}
}
