package interop

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/grantway/grantway/internal/conformance"
	"github.com/grantway/grantway/internal/demo"
)

// Where the demo's apps are called back. Nobody listens there: the person reads the address and never follows it.
const callback = "https://client.example/callback"

// audience is the aud of the demo's keys, which an API server knows without asking.
const audience = demo.Audience

// leftOut skips t, saying what it needs; under "make test", which installs it, that is a failure.
func leftOut(t *testing.T, format string, args ...any) {
	t.Helper()
	reason := "LEFT OUT: " + fmt.Sprintf(format, args...)
	if os.Getenv("TEST_GRANTWAY_ALL") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// TestInterop starts one demo for all clients. They take turns, because all consents of one user to an app that
// authenticates are about one grant.
func TestInterop(t *testing.T) {
	w := &world{Demo: conformance.Start(t)}
	t.Run("golang.org/x/oauth2", w.xOAuth2)
	t.Run("golang-jwt", w.golangJWT)
	t.Run("curl", w.curl)
	t.Run("node", w.node)
}

type world struct{ conformance.Demo }

func (w *world) app(kind string) conformance.App {
	a, _ := w.App(kind) // that there is one of each kind, ReadDemo has checked
	return a
}

// allow is the person at the browser, who opens the first two stores.
func (w *world) allow(ctx context.Context, link string) (*url.URL, error) {
	return w.Allow(ctx, link, w.Stores[0].ID, w.Stores[1].ID)
}

// code has the exchange app connected and returns its code.
func (w *world) code(t *testing.T) string {
	t.Helper()
	link := w.Issuer + "/auth/authorize?" + url.Values{"client_id": {w.app("exchange").ClientID}, "redirect_uri": {callback}, "state": {"random123"}}.Encode()
	back, err := w.allow(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	if back.Query().Get("state") != "random123" || back.Query().Get("code") == "" {
		t.Fatalf("called back at %s", back)
	}
	return back.Query().Get("code")
}

// lastingKey exchanges a code for a key without end.
func (w *world) lastingKey(t *testing.T) string {
	t.Helper()
	a := w.app("exchange")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.Issuer+"/oauth2/"+a.ClientID+"/exchange/"+w.code(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Client-Secret", a.ClientSecret)
	var answer struct{ Data string }
	get(t, req, &answer)
	if payload := payload(t, answer.Data); strings.Contains(payload, `"exp"`) {
		t.Fatalf("a lasting key with an end: %s", payload)
	}
	return answer.Data
}

func payload(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT: %q", token)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func get(t *testing.T, req *http.Request, into any) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s (%v)", req.Method, req.URL.Path, resp.StatusCode, body, err)
	}
}

// metadata reads what the API server's or client's author would.
func (w *world) metadata(t *testing.T) (m struct {
	Issuer        string
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
	JWKS          string `json:"jwks_uri"`
}) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.Issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	get(t, req, &m)
	return m
}

// person answers a Node script for the person at the browser: a link goes in, the address of the callback comes out.
func (w *world) person(t *testing.T) string {
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		link, err := io.ReadAll(r.Body)
		if err == nil {
			ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
			defer cancel()
			var back *url.URL
			if back, err = w.allow(ctx, string(link)); err == nil {
				io.WriteString(rw, back.String())
				return
			}
		}
		http.Error(rw, err.Error(), http.StatusBadGateway)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
