package portal

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"unicode"

	"github.com/grantway/grantway/internal/oauth"
)

// sampleData is what the samples of one app are filled with. No secret is among it: samples read it from the environment.
type sampleData struct {
	ClientID, Redirect, Agent string
	Authorize, Exchange       string // URLs; Exchange ends before the code
	Token, Stores             string
	Scope                     string
	Scopes                    []string
	Secret                    bool // the app authenticates
}

// addresses are what the samples point to.
type addresses struct{ issuer, pages, api, call string }

func addressesOf(s *oauth.Server, call string) addresses {
	return addresses{s.Issuer(), s.PagesURL(), s.APIURL(), cmp.Or(call, s.Audience())}
}

// samples are the published lines of each profile with an app's own values, in the languages that developers use most.
func samples(at addresses, c *oauth.Client) []sampleView {
	d := sampleData{ClientID: c.ID, Agent: agentOf(c.Name), Scopes: c.ScopeSet(), Scope: c.ScopeSet().String(), Secret: c.AuthMethod == oauth.BySecret,
		Token: at.issuer + "/oauth/token", Authorize: at.pages + "/oauth/authorize", Exchange: at.api + "/oauth2/" + url.PathEscape(c.ID) + "/exchange/"}
	switch c.Profile {
	case oauth.Exchange:
		d.Authorize = at.pages + "/auth/authorize"
	case oauth.Direct: // no page: a program asks
		d.Authorize = at.issuer + "/oauth/authorize"
	}
	if len(c.Redirects) > 0 {
		d.Redirect = string(c.Redirects[0])
	}
	d.Stores = at.api + "/stores"
	if strings.HasPrefix(at.call, "http") {
		d.Stores = strings.TrimSuffix(at.call, "/") + "/stores"
	}
	var views []sampleView
	for _, language := range sampleSets[kindOf(c)] {
		v := sampleView{Name: language.name, Open: len(views) == 0}
		for i, step := range language.steps {
			id := "sample-" + strings.ToLower(language.name) + "-" + strconv.Itoa(i+1)
			v.Steps = append(v.Steps, sampleStep{"step." + step.caption, step.caption == "authorize", copyView{id, step.code.text(d), "step." + step.caption}})
		}
		views = append(views, v)
	}
	return views
}

// agentOf makes a product token of an app's name (RFC 9110, 10.1.5).
func agentOf(name string) string {
	token := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return -1
	}, name)
	if token == "" {
		token = "MyApp"
	}
	return token + "/1.0"
}

type sampleSet struct {
	name  string
	steps []sampleCode
}

type sampleCode struct {
	caption string
	code    sampleText
}

type sampleText struct{ *template.Template }

func (t sampleText) text(d sampleData) string {
	var b bytes.Buffer
	if err := t.Execute(&b, d); err != nil {
		panic(err) // the texts are below, and a test fills each
	}
	return strings.TrimSpace(b.String())
}

// sample parses a text. q quotes for Go, JavaScript and Python alike, sh for a shell, enc for a query.
func sample(text string) sampleText {
	return sampleText{template.Must(template.New("").Funcs(template.FuncMap{
		"q": func(s string) (string, error) {
			var b bytes.Buffer
			e := json.NewEncoder(&b)
			e.SetEscapeHTML(false)
			err := e.Encode(s)
			return strings.TrimSpace(b.String()), err
		},
		"sh":  func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" },
		"enc": func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") },
	}).Parse(text))}
}

var (
	verifierStep = sampleCode{"verifier", sample(`
VERIFIER=$(openssl rand -base64 32 | tr '+/' '-_' | tr -d '=')
CHALLENGE=$(printf %s "$VERIFIER" | openssl dgst -sha256 -binary | openssl base64 | tr '+/' '-_' | tr -d '=')`)}

	callStep = sampleCode{"call", sample(`
curl {{sh .Stores}} \
  -H "Authorization: Bearer $API_KEY" \
  -H {{sh (print "User-Agent: " .Agent)}}`)}

	standardSamples = []sampleSet{
		{"curl", []sampleCode{
			verifierStep,
			{"authorize", sample(`
echo "{{.Authorize}}?response_type=code&client_id={{enc .ClientID}}&redirect_uri={{enc .Redirect}}&scope={{enc .Scope}}&state=random123&code_challenge=$CHALLENGE&code_challenge_method=S256"`)},
			{"token", sample(`
curl {{sh .Token}} \
{{- if .Secret}}
  -u {{sh .ClientID}}":$CLIENT_SECRET" \
{{- else}}
  --data-urlencode {{sh (print "client_id=" .ClientID)}} \
{{- end}}
  -d grant_type=authorization_code \
  --data-urlencode {{sh (print "redirect_uri=" .Redirect)}} \
  -d "code=$CODE" \
  -d "code_verifier=$VERIFIER"`)},
			callStep,
			{"refresh", sample(`
curl {{sh .Token}} \
{{- if .Secret}}
  -u {{sh .ClientID}}":$CLIENT_SECRET" \
{{- else}}
  --data-urlencode {{sh (print "client_id=" .ClientID)}} \
{{- end}}
  -d grant_type=refresh_token \
  -d "refresh_token=$REFRESH_TOKEN"`)},
		}},
		{"Go", []sampleCode{{"functions", sample(`
package connect

import (
	"context"
	"net/http"
{{- if .Secret}}
	"os"
{{- end}}

	"golang.org/x/oauth2"
)

{{- $pad := ""}}{{if .Secret}}{{$pad = " "}}{{end}}

var config = oauth2.Config{
	ClientID:    {{$pad}}{{q .ClientID}},
{{- if .Secret}}
	ClientSecret: os.Getenv("CLIENT_SECRET"),
{{- end}}
	RedirectURL: {{$pad}}{{q .Redirect}},
	Scopes:      {{$pad}}[]string{ {{- range $i, $s := .Scopes}}{{if $i}}, {{end}}{{q $s}}{{end -}} },
	Endpoint: oauth2.Endpoint{
		AuthURL:   {{q .Authorize}},
		TokenURL:  {{q .Token}},
		AuthStyle: oauth2.{{if .Secret}}AuthStyleInHeader{{else}}AuthStyleInParams{{end}},
	},
}

// AuthorizeURL is where the browser goes. Keep state and verifier (from
// oauth2.GenerateVerifier) in the session; in the callback, compare state.
func AuthorizeURL(state, verifier string) string {
	return config.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier))
}

// Exchange swaps the code for tokens. The client renews them when they expire.
func Exchange(ctx context.Context, code, verifier string) (*http.Client, error) {
	token, err := config.Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, err
	}
	return config.Client(ctx, token), nil
}

// Stores calls the API.
func Stores(client *http.Client) (*http.Response, error) {
	return client.Get({{q .Stores}})
}`)}}},
		{"Node", []sampleCode{{"functions", sample(`
import { createHash, randomBytes } from "node:crypto";

const clientId = {{q .ClientID}};
const redirectUri = {{q .Redirect}};

export const newVerifier = () => randomBytes(32).toString("base64url");

// Keep state and verifier in the session; in the callback, compare state.
export function authorizeUrl(state, verifier) {
  const url = new URL({{q .Authorize}});
  url.search = new URLSearchParams({
    response_type: "code",
    client_id: clientId,
    redirect_uri: redirectUri,
    scope: {{q .Scope}},
    state,
    code_challenge: createHash("sha256").update(verifier).digest("base64url"),
    code_challenge_method: "S256",
  });
  return url.href;
}

async function token(form) {
  const response = await fetch({{q .Token}}, {
    method: "POST",
{{- if .Secret}}
    headers: { Authorization: "Basic " + btoa(clientId + ":" + process.env.CLIENT_SECRET) },
    body: new URLSearchParams(form),
{{- else}}
    body: new URLSearchParams({ client_id: clientId, ...form }),
{{- end}}
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error + ": " + answer.error_description);
  return answer; // access_token, expires_in, refresh_token
}

export const exchange = (code, verifier) =>
  token({ grant_type: "authorization_code", code, redirect_uri: redirectUri, code_verifier: verifier });

export const refresh = (refreshToken) =>
  token({ grant_type: "refresh_token", refresh_token: refreshToken });

export const stores = (accessToken) =>
  fetch({{q .Stores}}, {
    headers: { Authorization: "Bearer " + accessToken, "User-Agent": {{q .Agent}} },
  });`)}}},
		{"Python", []sampleCode{{"functions", sample(`
import base64
import hashlib
{{- if .Secret}}
import os
{{- end}}
import secrets
from urllib.parse import urlencode

import requests

CLIENT_ID = {{q .ClientID}}
REDIRECT_URI = {{q .Redirect}}
TOKEN_URL = {{q .Token}}


def new_verifier():
    return secrets.token_urlsafe(32)


def authorize_url(state, verifier):
    """Keep state and verifier in the session; in the callback, compare state."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return {{q (print .Authorize "?")}} + urlencode({
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": {{q .Scope}},
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    })


def token(**form):
{{- if .Secret}}
    auth = (CLIENT_ID, os.environ["CLIENT_SECRET"])
    response = requests.post(TOKEN_URL, data=form, auth=auth, timeout=10)
{{- else}}
    response = requests.post(TOKEN_URL, data={"client_id": CLIENT_ID, **form}, timeout=10)
{{- end}}
    response.raise_for_status()
    return response.json()  # access_token, expires_in, refresh_token


def exchange(code, verifier):
    return token(grant_type="authorization_code", code=code,
                 redirect_uri=REDIRECT_URI, code_verifier=verifier)


def refresh(refresh_token):
    return token(grant_type="refresh_token", refresh_token=refresh_token)


def stores(access_token):
    return requests.get({{q .Stores}}, timeout=10, headers={
        "Authorization": "Bearer " + access_token,
        "User-Agent": {{q .Agent}},
    }).json()`)}}},
	}

	sampleSets = map[string][]sampleSet{
		kindServer: standardSamples,
		kindPublic: standardSamples,
		kindExchange: {
			{"curl", []sampleCode{
				{"authorize", sample(`{{.Authorize}}?client_id={{enc .ClientID}}&redirect_uri={{enc .Redirect}}&state=random123`)},
				{"exchange", sample(`
curl "{{.Exchange}}$CODE" \
  -H "X-Client-Secret: $CLIENT_SECRET" \
  -H {{sh (print "User-Agent: " .Agent)}}`)},
				callStep,
			}},
			{"Go", []sampleCode{{"functions", sample(`
package connect

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
)

// AuthorizeURL is where the browser goes. Keep state in the session; in the
// callback, compare it.
func AuthorizeURL(state string) string {
	return {{q (print .Authorize "?")}} + url.Values{
		"client_id":    {{"{"}}{{q .ClientID}}},
		"redirect_uri": {{"{"}}{{q .Redirect}}},
		"state":        {state},
	}.Encode()
}

// Exchange swaps the code for a key, which works until the person revokes it.
func Exchange(ctx context.Context, code string) (key string, err error) {
	r, err := http.NewRequestWithContext(ctx, "GET", {{q .Exchange}}+url.PathEscape(code), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Client-Secret", os.Getenv("CLIENT_SECRET"))
	r.Header.Set("User-Agent", {{q .Agent}})
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Success    bool
		Code, Data string
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return "", err
	}
	if !answer.Success {
		return "", errors.New(answer.Code)
	}
	return answer.Data, nil
}

// Stores calls the API.
func Stores(ctx context.Context, key string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", {{q .Stores}}, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("User-Agent", {{q .Agent}})
	return http.DefaultClient.Do(r)
}`)}}},
			{"Node", []sampleCode{{"functions", sample(`
const agent = {{q .Agent}};

// Keep state in the session; in the callback, compare it.
export function authorizeUrl(state) {
  const url = new URL({{q .Authorize}});
  url.search = new URLSearchParams({
    client_id: {{q .ClientID}},
    redirect_uri: {{q .Redirect}},
    state,
  });
  return url.href;
}

// The key works until the person revokes it.
export async function exchange(code) {
  const response = await fetch({{q .Exchange}} + encodeURIComponent(code), {
    headers: { "X-Client-Secret": process.env.CLIENT_SECRET, "User-Agent": agent },
  });
  const answer = await response.json();
  if (!answer.success) throw new Error(answer.code);
  return answer.data;
}

export const stores = (key) =>
  fetch({{q .Stores}}, {
    headers: { Authorization: "Bearer " + key, "User-Agent": agent },
  });`)}}},
			{"Python", []sampleCode{{"functions", sample(`
import os
from urllib.parse import quote, urlencode

import requests

AGENT = {{q .Agent}}


def authorize_url(state):
    """Keep state in the session; in the callback, compare it."""
    return {{q (print .Authorize "?")}} + urlencode({
        "client_id": {{q .ClientID}},
        "redirect_uri": {{q .Redirect}},
        "state": state,
    })


def exchange(code):
    """The key works until the person revokes it."""
    answer = requests.get(
        {{q .Exchange}} + quote(code, safe=""),
        headers={"X-Client-Secret": os.environ["CLIENT_SECRET"], "User-Agent": AGENT},
        timeout=10,
    ).json()
    if not answer["success"]:
        raise RuntimeError(answer["code"])
    return answer["data"]


def stores(key):
    return requests.get({{q .Stores}}, timeout=10, headers={
        "Authorization": "Bearer " + key,
        "User-Agent": AGENT,
    }).json()`)}}},
		},
		kindDirect: {
			{"curl", []sampleCode{
				verifierStep,
				{"code", sample(`
curl -G {{sh .Authorize}} \
  -d response_type=code \
  --data-urlencode {{sh (print "client_id=" .ClientID)}} \
  --data-urlencode {{sh (print "redirect_uri=" .Redirect)}} \
  -d state=random123 \
  -d "code_challenge=$CHALLENGE" \
  -d code_challenge_method=S256`)},
				{"token", sample(`
curl {{sh .Token}} \
  --data-urlencode {{sh (print "client_id=" .ClientID)}} \
  -d grant_type=authorization_code \
  --data-urlencode {{sh (print "redirect_uri=" .Redirect)}} \
  -d "code=$CODE" \
  -d "code_verifier=$VERIFIER"`)},
				{"refresh", sample(`
curl {{sh .Token}} \
  --data-urlencode {{sh (print "client_id=" .ClientID)}} \
  -d grant_type=refresh_token \
  --data-urlencode {{sh (print "redirect_uri=" .Redirect)}} \
  -d "refresh_token=$REFRESH_TOKEN"`)},
			}},
		},
	}
)
