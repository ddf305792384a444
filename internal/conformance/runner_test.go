package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const head = "source: test\nexpect: test\n"

// TestScript_Refusals: a file with a mistake in it must not pass as a conversation.
func TestScript_Refusals(t *testing.T) {
	for name, text := range map[string]string{
		"no head":                 "-- request --\nGET /\n-- response --\n200\n",
		"no expect":               "source: x\n-- request --\nGET /\n-- response --\n200\n",
		"unknown head":            head + "note: x\n-- request --\nGET /\n-- response --\n200\n",
		"no sections":             head,
		"unknown section":         head + "-- reqest --\nGET /\n-- response --\n200\n",
		"unknown argument":        head + "-- consent public store=1 --\n-- returned --\nto: x\n",
		"word after argument":     head + "-- press stores=1 Allow --\n-- returned --\nto: x\n",
		"unclosed braces":         head + "-- press Allow near={{a --\n-- returned --\nto: x\n",
		"request without answer":  head + "-- request --\nGET /\n-- request --\nGET /\n-- response --\n200\n",
		"request without the end": head + "-- request --\nGET /\n",
		"ends without looking":    head + "-- open --\n/\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseScript([]byte(text)); err == nil {
				t.Error("was accepted")
			}
		})
	}
}

func TestExpand(t *testing.T) {
	v := variables{"id": "a b", "secret": "c:d", "n": "10", "token": "abcdefgh"}
	for in, want := range map[string]string{
		"x":                   "x",
		"<{{id}}>":            "<a b>",
		"{{urlencode id}}":    "a+b",
		"{{basic id secret}}": "Basic YStiOmMlM0Fk", // a+b:c%3Ad
		"{{add n 600}}":       "610",
		"{{repeat ab 3}}":     "ababab",
		"{{mutate token}}":    "abcdefAh",
	} {
		if got, err := v.expand(in); err != nil || got != want {
			t.Errorf("%s: got %q (%v), want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"{{nobody}}", "{{urlencode nobody}}", "{{frobnicate id}}", "{{add id 1}}", "{{}}"} {
		if got, err := v.expand(in); err == nil {
			t.Errorf("%s became %q, want an error", in, got)
		}
	}
	// The vector of the vendor's authorize page: seed-contracts 1.6.
	v["pkce_verifier v"] = "1tBnEmtSImyCykPHxHYBdzpSFhKEj0Q1LuiHd4fdDlY"
	if got, err := v.expand("{{pkce_challenge v}}"); err != nil || got != "p7CN1Zi4o5ARn1mYNvNFvj2r5cKkr2k6y7a573eHJXQ" {
		t.Errorf("challenge %q (%v)", got, err)
	}
}

func TestMatchJSON(t *testing.T) {
	for _, c := range []struct {
		want, got string
		ok        bool
	}{
		{`{"a":1}`, `{"a":1}`, true},
		{`{"a":1}`, `{"a":1,"b":2}`, false},
		{`{"a":1,"...":0}`, `{"a":1,"b":2}`, true},
		{`{"a":1}`, `{}`, false},
		{`{"a":null}`, `{}`, false},
		{`{"a":null}`, `{"a":null}`, true},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":1}`, `{"a":1.0}`, false},
		{`{"a":"<<absent>>","...":0}`, `{"b":1}`, true},
		{`{"a":"<<absent>>","...":0}`, `{"a":null}`, false},
		{`{"a":"<<any>>"}`, `{"a":null}`, true},
		{`{"a":"<<any>>"}`, `{}`, false},
		{`{"a":"<<number>>"}`, `{"a":"1"}`, false},
		{`{"a":"<<string>>"}`, `{"a":1}`, false},
		{`{"a":"<<jwt>>"}`, `{"a":"x.y.z"}`, false},
		{`{"a":"<<jwt>>"}`, `{"a":"e30.e30.c2ln"}`, true},
		{`{"a":"<<~x|y~>>"}`, `{"a":"xy"}`, false},
		{`{"a":"<<~x|y~>>"}`, `{"a":"y"}`, true},
		{`{"a":"<<not x>>"}`, `{"a":"x"}`, false},
		{`{"a":"<<not x>>"}`, `{"a":1}`, false},
		{`{"a":"<<not x>>"}`, `{"a":"y"}`, true},
		{`["a","b"]`, `["b","a"]`, false},
		{`["<<unordered>>","a","b"]`, `["b","a"]`, true},
		{`["<<unordered>>","a","b"]`, `["b","a","c"]`, false},
		{`["<<unordered>>","a","a"]`, `["a","b"]`, false},
		{`["a","..."]`, `["b","a"]`, true},
		{`["a","..."]`, `["b"]`, false},
		{`[]`, `["b"]`, false},
		{`[]`, `{}`, false},
		{`{}`, `[]`, false},
	} {
		want, err1 := decodeJSON(c.want)
		got, err2 := decodeJSON(c.got)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if err := (variables{}).matchJSON(want, got, "body"); (err == nil) != c.ok {
			t.Errorf("%s against %s: %v", c.got, c.want, err)
		}
	}
	v := variables{}
	want, _ := decodeJSON(`{"a":"<<string:one>>","b":"<<number:two>>","c":"<<~(?<three>.)y~>>"}`)
	got, _ := decodeJSON(`{"a":"x","b":7,"c":"zy"}`)
	if err := v.matchJSON(want, got, "body"); err != nil || v["one"] != "x" || v["two"] != "7" || v["three"] != "z" {
		t.Errorf("captured %v (%v)", v, err)
	}
	if _, err := decodeJSON(`{} {}`); err == nil {
		t.Error("two values passed as one")
	}
}

// sample is a server just good enough to be talked to: a sign-in, a consent page, and an echo of raw requests.
func sample(t *testing.T) Demo {
	t.Helper()
	mux := http.NewServeMux()
	html := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, body)
	}
	mux.HandleFunc("GET /oauth/authorize", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("scope") == "wrong" {
			http.Redirect(w, r, callback+"?error=invalid_scope", http.StatusSeeOther)
			return
		}
		if _, err := r.Cookie("who"); err != nil {
			html(w, `<form method=post action="/sign-in?`+strings.ReplaceAll(r.URL.RawQuery, "&", "&amp;")+`"><input type=email name=e><input type=password name=p><button>Sign in</button></form>`)
			return
		}
		html(w, `<head><title>hidden</title></head><form method=post action=/consent><input type=hidden name=state value="`+r.FormValue("state")+`">
			<input type=checkbox name=store value=s0 checked>A &amp; B<input type=checkbox name=store value=s1>
			<button name=decision value=yes>Allow</button><button name=decision value=no>Cancel</button></form>`)
	})
	mux.HandleFunc("POST /sign-in", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("e") != "u@example" || r.FormValue("p") != "pw" {
			html(w, "wrong")
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "who", Value: "u", HttpOnly: r.FormValue("state") != "open", SameSite: http.SameSiteLaxMode})
		http.Redirect(w, r, "/oauth/authorize?"+r.URL.RawQuery, http.StatusSeeOther)
	})
	mux.HandleFunc("POST /consent", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "https://evil.example" || r.Header.Get("Cookie") == "" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		r.ParseForm()
		to := callback + "?code=" + strings.Join(r.Form["store"], "_") + "-" + r.FormValue("decision") + "&state=" + r.FormValue("state")
		if r.FormValue("state") == "leave" {
			http.Redirect(w, r, to, http.StatusSeeOther)
			return
		}
		to = strings.ReplaceAll(to, "&", "&amp;")
		html(w, `<meta http-equiv="refresh" content="0; url=`+to+`"><a href="`+to+`">Continue</a>`)
	})
	mux.HandleFunc("GET /many", func(w http.ResponseWriter, r *http.Request) {
		html(w, `<ul><li>One app<form action=/one method=post><button>Revoke</button></form></li><li>Two app<form action=/two method=post><button>Revoke</button></form></li></ul>`)
	})
	mux.HandleFunc("GET /astray", func(w http.ResponseWriter, r *http.Request) {
		html(w, `<meta http-equiv=refresh content="0;url=https://client.example/"><a href="https://evil.example/">Continue</a>`)
	})
	mux.HandleFunc("POST /two", func(w http.ResponseWriter, r *http.Request) { html(w, "two is gone") })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/echo") {
			mux.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "target": r.RequestURI, "agent": r.Header["User-Agent"],
			"type": r.Header["Content-Type"], "host": r.Host, "body": string(body)})
	}))
	t.Cleanup(server.Close)
	return Demo{
		Issuer: server.URL, StoreAPI: server.URL, User: Person{"u@example", "pw"},
		Stores: []Store{{"s0", "A", true}, {"s1", "B", true}, {"s2", "C", false}},
		Apps:   []App{{Profile: "standard", ClientID: "pub"}},
	}
}

// TestRun_Holds are conversations that must pass.
func TestRun_Holds(t *testing.T) {
	demo := sample(t)
	for name, text := range map[string]string{
		"the target is sent as it stands": "-- request --\nGET /echo/%2f/../x;y//z\n  ?a=b\n-- response --\n200\nCache-Control: no-store\nLocation: !absent\n\n" +
			`{"method":"GET","target":"/echo/%2f/../x;y//z?a=b","agent":["grantway-wire/1"],"type":null,"host":"<<string>>","body":""}`,
		"a form, a line a pair": "-- request --\nPOST /echo\nUser-Agent: !absent\nHost: evil.example\n\na=1\nb=2\n-- response --\n200\n\n" +
			`{"agent":null,"type":["application/x-www-form-urlencoded"],"body":"a=1&b=2","host":"evil.example","...":0}`,
		"captures go on": "-- request --\nPOST /echo\nContent-Type: text/x\n\nhello\n-- response --\n200\n\n{\"body\":\"<<string:said>>\",\"...\":0}\n" +
			"-- request --\nGET /echo?{{said}}\n-- response --\n200\nContent-Type: ~text/(?<kind>plain).*~\n\n{\"target\":\"/echo?hello\",\"...\":0}\n" +
			"-- request --\nGET /echo?{{kind}}\n-- response --\n200\n\n{\"target\":\"/echo?plain\",\"...\":0}\n",
		"consent": "-- consent public stores=1 --\n-- request --\nGET /echo?{{code}}\n-- response --\n200\n\n{\"target\":\"/echo?s1-yes\",\"...\":0}\n",
		"by hand": "-- open --\n/oauth/authorize?\n state=x\n-- sign in --\n-- response --\n200\n\ncontains: A & B\nlacks: nobody\nmatch: name=store\n" +
			"-- press Cancel --\n-- returned --\nto: {{redirect_uri}}\ncode: ~(?<code>.*)~\nstate: x\niss: !absent\n",
		"ids that are not offered": "-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- press Allow stores=0,other --\n-- returned --\nto: {{redirect_uri}}\ncode: s0_other-yes\nstate: x\n",
		"back": "-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- press Allow --\n-- returned --\nto: {{redirect_uri}}\ncode: s0-yes\nstate: x\n" +
			"-- back --\n-- press Allow stores=1 --\n-- returned --\nto: {{redirect_uri}}\ncode: s1-yes\nstate: x\n",
		"another origin":      "-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- press Allow header=Origin:https://evil.example --\n-- response --\n403\n",
		"no cookies":          "-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- press Allow header=Cookie:!absent --\n-- response --\n403\n",
		"an error redirected": "-- open --\n/oauth/authorize?scope=wrong\n-- returned --\nto: {{redirect_uri}}\nerror: invalid_scope\nerror_description: ~.*~\n",
		"the nearest button":  "-- open --\n/many\n-- press Revoke near={{two}} --\n-- response --\n200\n\ncontains: two is gone\n",
	} {
		t.Run(name, func(t *testing.T) {
			text = strings.ReplaceAll(text, "{{two}}", "Two")
			s, err := parseScript([]byte(head + text))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.run(t.Context(), demo); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRun_Breaks are conversations in which the server does not do what the file says.
func TestRun_Breaks(t *testing.T) {
	demo := sample(t)
	for name, c := range map[string]struct{ text, want string }{
		"status":           {"-- request --\nGET /echo\n-- response --\n201\n", `status is "200", want "201"`},
		"header":           {"-- request --\nGET /echo\n-- response --\n200\nCache-Control: !absent\n", "must be absent"},
		"part of a header": {"-- request --\nGET /echo\n-- response --\n200\nCache-Control: ~no~\n", "does not match"},
		"links disagree":   {"-- open --\n/astray\n-- returned --\nto: x\n", "no link on the page"},
		"missing header":   {"-- request --\nGET /echo\n-- response --\n200\nPragma: no-cache\n", "is absent"},
		"body":             {"-- request --\nGET /echo\n-- response --\n200\n\n{\"method\":\"GET\"}\n", "which nothing expects"},
		"text":             {"-- request --\nGET /echo\n-- response --\n200\n\nlacks: method\n", `contains "method"`},
		"unknown name":     {"-- request --\nGET /{{nobody}}\n-- response --\n200\n", "not known here"},
		"form leaves":      {"-- consent public state=leave --\n-- returned --\nto: x\n", "leaves the origin"},
		"cookie":           {"-- consent public state=open --\n-- returned --\nto: x\n", "HttpOnly false"},
		"wrong password":   {"-- open --\n/oauth/authorize\n-- sign in password=x --\n-- response --\n200\n\ncontains: A & B\n", "lacks"},
		"extra parameter":  {"-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- press Allow --\n-- returned --\nto: {{redirect_uri}}\ncode: s0-yes\n", "[state], which nothing expects"},
		"no such button":   {"-- open --\n/many\n-- press Destroy --\n-- response --\n200\n", "no button"},
		"does not return":  {"-- open --\n/many\n-- returned --\nto: x\n", "no meta refresh"},
		"header not shown": {"-- open --\n/oauth/authorize?state=x\n-- sign in --\n-- response --\n200\n\ncontains: hidden\n", "lacks"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := parseScript([]byte(head + c.text))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.run(t.Context(), demo); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestReadDemo: a demo that does not keep its contract is refused before the first conversation.
func TestReadDemo(t *testing.T) {
	app := func(profile, secret string) string {
		return fmt.Sprintf(`{"name":"n","profile":%q,"client_id":"c","client_secret":%q,"redirect_uris":[]}`, profile, secret)
	}
	line := func(apps ...string) string {
		return `{"issuer":"http://127.0.0.1:1","store_api":"http://127.0.0.1:2","user":{"email":"e","password":"p"},"resource_server":{"client_id":"r","client_secret":"s"},
			"stores":[{"id":"0","delegable":true},{"id":"1","delegable":true},{"id":"2","delegable":true},{"id":"3","delegable":false}],"apps":[` + strings.Join(apps, ",") + `]}`
	}
	good := line(app("exchange", "s"), app("direct", ""), app("standard", "s"), app("standard", ""))
	d, err := ReadDemo([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	v := d.variables()
	if v["store.last"] != "3" || v["standard.client_secret"] != "s" || v["public.client_secret"] != "" {
		t.Errorf("variables %v", v)
	}
	for _, bad := range []string{
		"ready",
		line(app("exchange", "s"), app("direct", ""), app("standard", "s")),
		strings.Replace(good, `{"id":"2","delegable":true},`, "", 1),
		strings.Replace(good, `"delegable":false`, `"delegable":true`, 1),
		strings.Replace(good, `"http://127.0.0.1:2"`, `""`, 1),
	} {
		if _, err := ReadDemo([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}
