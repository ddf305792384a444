package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxConns bounds connections, and with them questions on their way, to one host of the issuer.
	maxConns = 64
	// maxBody bounds an answer in bytes: the stores of a very large account, or the keys of many years.
	maxBody = 1 << 20

	userAgent = "grantway-resource"
)

// endpoints is what the issuer's metadata says about where to ask. An issuer of an earlier version has no feed, and is
// asked about every token.
type endpoints struct{ jwks, introspect, feed string }

func (v *Verifier) hasFeed() bool {
	at := v.endpoints.Load()
	return at == nil || at.feed != ""
}

// newHTTPClient returns a client of our own: its time limits hold whatever the program did to the default one, and it
// follows no redirect, which would carry credentials and tokens to a place nobody configured. HTTP/1.1, so that maxConns
// is also the number of questions on their way, and a lost packet holds up one of them. The feed has a client of
// its own, of which lists take maxFetches connections at most: a poll that waited for one would cost the lease.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:   askTimeout,
			ResponseHeaderTimeout: askTimeout,
			MaxConnsPerHost:       maxConns,
			MaxIdleConnsPerHost:   maxConns,
			IdleConnTimeout:       time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// discover reads the issuer's metadata (RFC 8414 section 3) and holds it to section 3.3: it must name the issuer.
func (v *Verifier) discover(ctx context.Context) error {
	_, body, err := v.get(ctx, base(v.cfg.Issuer)+"/.well-known/oauth-authorization-server")
	if err != nil {
		return fmt.Errorf("read the issuer's metadata: %w", err)
	}
	var meta struct {
		Issuer        string `json:"issuer"`
		JWKS          string `json:"jwks_uri"`
		Introspection string `json:"introspection_endpoint"`
		Feed          string `json:"revocation_feed_endpoint"`
	}
	if json.Unmarshal(body, &meta) != nil {
		return errors.New("read the issuer's metadata: the answer is not JSON")
	}
	if meta.Issuer != v.cfg.Issuer {
		return &configError{fmt.Sprintf("the metadata found under the issuer %q names another issuer, %q", v.cfg.Issuer, meta.Issuer)}
	}
	loopback := strings.HasPrefix(v.cfg.Issuer, "http:")
	for name, s := range map[string]string{"jwks_uri": meta.JWKS, "introspection_endpoint": meta.Introspection, "revocation_feed_endpoint": meta.Feed} {
		if name == "revocation_feed_endpoint" && s == "" {
			continue
		}
		if err := checkURL(s, loopback); err != nil {
			return &configError{fmt.Sprintf("the issuer's metadata: %s %q %v", name, s, err)}
		}
	}
	v.endpoints.Store(&endpoints{meta.JWKS, meta.Introspection, meta.Feed})
	return nil
}

// fetchKeys reads a key set. It is old where it says how old: a node that does not know the present says so, and a cache.
func (v *Verifier) fetchKeys(from string) (t keyTable, old bool, err error) {
	ctx, cancel := context.WithTimeout(v.ctx, askTimeout)
	defer cancel()
	header, body, err := v.get(ctx, from)
	if err != nil {
		return nil, false, err
	}
	t, err = parseKeys(body)
	return t, header.Get("Age") != "", err
}

// at returns where a node serves what the issuer's metadata places under the issuer. What it places elsewhere is there.
func (v *Verifier) at(node int, url string) string {
	path, ok := strings.CutPrefix(url, base(v.cfg.Issuer)+"/")
	if !ok {
		return url
	}
	return v.nodes[node] + "/" + path
}

func (v *Verifier) get(ctx context.Context, from string) (http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Cache-Control", "no-cache") // what a cache has kept may lack the key that is looked for
	return v.send(req)
}

// request makes one with the API's credentials, HTTP Basic as RFC 6749 section 2.3.1 writes it.
func (v *Verifier) request(ctx context.Context, method, to string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(url.QueryEscape(v.cfg.ClientID), url.QueryEscape(v.cfg.ClientSecret))
	req.Header.Set("User-Agent", userAgent)
	return req, nil
}

// post asks a node about a token (RFC 7662 section 2.1).
func (v *Verifier) post(ctx context.Context, node int, token string) (*answer, error) {
	at := v.endpoints.Load()
	if at == nil {
		return nil, errors.New("the issuer's metadata was not read yet")
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	req, err := v.request(ctx, http.MethodPost, v.at(node, at.introspect), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// Asking changes nothing. An empty list tells net/http so, which may then ask again where the issuer closed a
	// kept connection, as it does on every upgrade. It is not sent.
	req.Header["Idempotency-Key"] = []string{}
	_, body, err := v.send(req)
	if err != nil {
		return nil, err
	}
	return parseAnswer(body)
}

func (v *Verifier) send(req *http.Request) (http.Header, []byte, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	resp, body, err := read(v.http, req)
	switch {
	case err != nil:
		return nil, nil, err
	case resp.StatusCode == http.StatusUnauthorized && req.Method == http.MethodPost:
		return nil, nil, errCredentials
	case resp.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("%s answered %d", req.URL.Redacted(), resp.StatusCode)
	}
	return resp.Header, body, nil
}

func (v *Verifier) fetchList(from string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(v.ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Accept", "application/statuslist+jwt")
	req.Header.Set("User-Agent", userAgent)
	resp, body, err := read(v.feedHTTP, req)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, body, nil
}

// read returns an answer whose body was read.
func read(client *http.Client, req *http.Request) (resp *http.Response, body []byte, err error) {
	if resp, err = client.Do(req); err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1)); err == nil && len(body) > maxBody {
		err = fmt.Errorf("%s answered more than %d bytes", req.URL.Redacted(), maxBody)
	}
	return resp, body, err
}
