package endpoint

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/grantway/grantway/internal/oauth"
)

// FuzzBasic: whatever id and secret are, encoded as RFC 6749, 2.3.1 has it they
// come back as they were, however much of them was encoded; and text that nobody
// encoded is read as a form would be, or refused (attack C8).
func FuzzBasic(f *testing.F) {
	for _, s := range [][2]string{{"id", "secret"}, {"a:b", "c:d"}, {"ümläut", "100%"}, {"a+b", "c d"}, {"%41", "&="}, {"", "x"}, {"x", ""}, {"\x00", "\xff"},
		{"s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, id, secret string) {
		for _, encode := range []func(string) string{url.QueryEscape, encodeAll} {
			encoded := base64.StdEncoding.EncodeToString([]byte(encode(id) + ":" + encode(secret)))
			gotID, gotSecret, ok := parseBasic(encoded)
			if want := id != "" && len(encoded) <= 4<<10; ok != want {
				t.Fatalf("parseBasic(%q): ok %v, want %v", encoded, ok, want)
			}
			if ok && (gotID != id || gotSecret != secret) {
				t.Fatalf("%q:%q came back as %q:%q", id, secret, gotID, gotSecret)
			}
		}
		if gotID, gotSecret, ok := parseBasic(base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))); ok {
			rawID, rawSecret, _ := strings.Cut(id+":"+secret, ":")
			form, err := url.ParseQuery("i=" + strings.NewReplacer("&", "%26", ";", "%3B").Replace(rawID) + "&s=" + strings.NewReplacer("&", "%26", ";", "%3B").Replace(rawSecret))
			if err != nil || gotID == "" || form.Get("i") != gotID || form.Get("s") != gotSecret {
				t.Fatalf("%q read as %q:%q, a form reads %v (%v)", id+":"+secret, gotID, gotSecret, form, err)
			}
		}
		parseBasic(id)
	})
}

// FuzzExchangePath: no path below /oauth2/ makes the handler panic or redirect, and
// a code stands in no header, no body and no line of the log (attacks G1, G4).
func FuzzExchangePath(f *testing.F) {
	w := newWorld(f)
	const canary = "AZpW3bqEc8SxK1v9QmT7yJ0uHgR5dLfN2oXiC6aBwVeYzUtPnMkOrIsDjGhFlQ4E3"
	for _, s := range []string{"@ID/exchange/@CODE", "@ID/exchange/@CODE/", "@ID/exchange//@CODE", "@ID/exchange/../@CODE", "@ID/../@CODE", "@CODE", "@ID/exchange/%2e%2e/@CODE",
		"@ID/exchange/@CODE%2f", "@ID/exchange/@CODE;a=b", "@ID/exchange/@CODE?x=@CODE", "@ID/exchange/@CODE#@CODE", "@CODE/exchange/@CODE", "/@ID/exchange/@CODE", "./@ID/exchange/@CODE",
		"@ID/exchange", "@ID/exchange/", "@ID/exchange/%00@CODE", "@ID/exchange/@CODE%0d%0aLocation:%20x", "@ID\\exchange\\@CODE", "@ID/Exchange/@CODE", "%2e%2e/token?code=@CODE", "@ID/exchange/@CODE%"} {
		f.Add(s, "GET", true)
	}
	f.Add("@ID/exchange?code=@CODE", "POST", true)
	f.Add("@ID/exchange/@CODE", "HEAD", true)
	f.Add("@ID/exchange/@CODE", "GET", false)
	f.Fuzz(func(t *testing.T, path, method string, secret bool) {
		target := exchangePrefix + strings.NewReplacer("@ID", w.exchange.id, "@CODE", canary).Replace(path)
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http answers 400 to it
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{}, Body: http.NoBody, Host: "id.example", RequestURI: target}
		r.Header.Set("User-Agent", "x")
		if secret {
			r.Header.Set("X-Client-Secret", w.exchange.secret.Reveal())
		}
		got := w.do(r)
		if got.status < 400 || got.status > 499 || got.header.Get("Location") != "" {
			t.Errorf("%s %q: %d %v", method, target, got.status, got.header)
		}
		if got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %q: %v", method, target, got.header)
		}
		if strings.Contains(got.body+fmt.Sprint(got.header), canary) {
			t.Errorf("%s %q: the answer repeats the code: %v", method, target, got)
		}
		if log := w.log.take(); strings.Contains(log, canary) {
			t.Errorf("%s %q: the log repeats the code: %s", method, target, log)
		}
	})
}

// take returns what was logged since it was last asked.
func (s *sink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.buf.Reset()
	return s.buf.String()
}

// FuzzFlatJSON: flatJSON takes exactly the flat objects of strings that
// encoding/json takes, reads the same in them, and refuses a key that stands twice,
// however it is written (attack D7).
func FuzzFlatJSON(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":"b"}`, `{"a":"b","c":null}`, `{"a":"b","a":"c"}`, `{"a":"b","\u0061":"c"}`, `{"a":1}`, `{"a":{}}`, `{"a":["b"]}`, `[]`, `null`, ``, `{"a":"b"`, `{"a":"b"}{}`,
		`{"a":"b"} x`, ` {"a" : "\ud83d\ude00" } `, "{\"\xff\":\"\xfe\"}", `{"a":"b",}`, `{,}`, `{"a"}`, `{"a":"b"}]`, `{"a":true}`, `{"":""}`, "{\"a\":\"\x01\"}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := flatJSON(text)
		var want map[string]*string
		valid := json.Unmarshal([]byte(text), &want) == nil && want != nil
		keys := 0
		if valid { // a flat object: tokens are {, then keys and values in turn, then }
			dec := json.NewDecoder(strings.NewReader(text))
			for dec.Token(); dec.More(); keys++ {
				dec.Token()
				dec.Token()
			}
		}
		if once := valid && keys == len(want); once != (err == nil) {
			t.Fatalf("%q: %v; encoding/json takes it: %v, with %d keys of %d", text, err, valid, len(want), keys)
		}
		if err != nil {
			if reason := oauth.ReasonOf(err); (reason == oauth.ParamRepeated) != valid && valid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%q: %v, want %v", text, got, want)
		}
		for name, v := range want {
			text := ""
			if v != nil {
				text = *v
			}
			if len(got[name]) != 1 || got.Get(name) != text {
				t.Fatalf("%q: %q is %q, want %q", text, name, got[name], text)
			}
		}
	})
}

// FuzzTokenBody drives the token endpoint with any query, body and media type. For
// a direct client a token is given if and only if each parameter stands in one
// place and is right; for a public standard client, never out of a query or JSON.
// Whatever else was sent, the answer is a refusal in JSON that repeats nothing.
func FuzzTokenBody(f *testing.F) {
	w := newWorld(f)
	_, fixed := w.key(w.direct) // the same in every answer, so it can be used again and again
	kinds := []string{"", formType, jsonType, "text/plain", "application/json; charset=utf-8", "multipart/form-data; boundary=x", ";"}
	const full = "client_id=@ID&grant_type=refresh_token&refresh_token=@RT"
	for _, s := range []struct {
		query, body string
		kind        byte
	}{
		{full, "", 0}, {"", full, 1}, {full, full, 1}, {"client_id=@ID", "grant_type=refresh_token&refresh_token=@RT", 1},
		{"", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"@RT"}`, 2}, {"refresh_token=@RT", `{"client_id":"@ID","grant_type":"refresh_token"}`, 4},
		{"", `{"client_id":"@ID","grant_type":"refresh_token","refresh_token":"@RT","refresh_token":"@RT"}`, 2}, {full + "&scope=", "", 0}, {full + "&x=1&x=2", "", 0},
		{full + "&redirect_uri=urn%3Aietf%3Awg%3Aoauth%3A2.0%3Aoob%3Aauto", "", 0}, {full + "&client_secret=x", "", 0}, {"%zz", "", 0}, {full + ";a=b", "", 0}, {"", full, 3}, {"", full, 6},
		{full, "{}", 2}, {full, "null", 2}, {full + "&scope=stores.view", "", 0}, {full + "&code=x", "", 0},
	} {
		f.Add(s.query, s.body, s.kind, true)
		f.Add(s.query, s.body, s.kind, false)
	}
	f.Fuzz(func(t *testing.T, query, body string, kind byte, direct bool) {
		a := w.public
		if direct {
			a = w.direct
		}
		fill := strings.NewReplacer("@ID", a.id, "@RT", fixed)
		query, body = fill.Replace(query), fill.Replace(body)
		contentType := kinds[int(kind)%len(kinds)]
		r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/oauth/token", RawQuery: query}, Header: http.Header{}, Host: "id.example",
			Body: io.NopCloser(strings.NewReader(body))}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		got := answer{rec.Code, rec.Header(), rec.Body.String()}
		if !json.Valid([]byte(got.body)) || got.header.Get("Cache-Control") != "no-store" {
			t.Fatalf("%d %q %v", got.status, got.body, got.header)
		}
		want := direct && model(query, body, contentType, a.id, fixed)
		switch {
		case want != (got.status == http.StatusOK):
			t.Fatalf("query %q, body %q of %q: %d %s, the model says %v", query, body, contentType, got.status, got.body, want)
		case got.status == http.StatusOK:
		case got.status != 400 && got.status != 401 && got.status != 413, got.refusal() == "":
			t.Fatalf("%d %s", got.status, got.body)
		case strings.Contains(got.body, fixed), strings.ContainsFunc(description(got), outsideDescription):
			t.Fatalf("what is said: %s", got.body)
		}
	})
}

// model says independently whether a refresh by the direct client is in order.
func model(query, body, contentType, id, token string) bool {
	sent, err := url.ParseQuery(query)
	if err != nil || contentType == ";" || len(body) > maxForm {
		return false
	}
	var more url.Values
	kind, _, _ := strings.Cut(contentType, ";")
	switch {
	case body == "":
	case kind == formType:
		if more, err = url.ParseQuery(body); err != nil {
			return false
		}
	case kind == jsonType:
		if more, err = flatJSON(body); err != nil || len(body) > maxJSON {
			return false
		}
	default:
		return false
	}
	one := func(name string) string {
		if all := append(sent[name], more[name]...); len(all) == 1 {
			return all[0]
		}
		return ""
	}
	for _, name := range oauthParams {
		if len(sent[name])+len(more[name]) > 1 {
			return false
		}
	}
	// The guest has no scope at all, so whatever is asked for is too wide.
	return one("client_id") == id && one("grant_type") == "refresh_token" && one("refresh_token") == token && one("client_secret") == "" &&
		one("scope") == "" && (one("redirect_uri") == "" || one("redirect_uri") == oauth.OutOfBand)
}

// FuzzFeedQuery: a follower's question is read as it stands, or refused as one.
func FuzzFeedQuery(f *testing.F) {
	for _, s := range []string{"", "after=1&epoch=2", "after=1&epoch=2&instance=a_B-9", "after=1", "epoch=1", "after=0&epoch=1", "after=-1&epoch=1", "after=1&after=1&epoch=1",
		"after=9223372036854775807&epoch=9223372036854775808", "after=+1&epoch=1", "after=%2b1&epoch=1", "after=01&epoch=1", "instance=", "instance=a%20b", "after=1;epoch=2", "%zz", "x=1&after=1&epoch=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := &http.Request{URL: &url.URL{Path: FeedPath, RawQuery: query}}
		q, err := feedQuery(r)
		if err != nil {
			if e := oauth.AsError(err); e.Code != oauth.InvalidRequest {
				t.Fatalf("%q is refused as %v", query, err)
			}
			return
		}
		asked := r.URL.Query()
		if (q.Epoch > 0) != asked.Has("epoch") || (q.After > 0) != asked.Has("after") || (q.Epoch > 0) != (q.After > 0) || q.Epoch < 0 || q.After < 0 {
			t.Fatalf("%q is read as %+v", query, q)
		}
		if q.Instance != asked.Get("instance") || len(q.Instance) > 64 || strings.ContainsAny(q.Instance, " \n\"'<&=") {
			t.Fatalf("%q: instance %q", query, q.Instance)
		}
	})
}
