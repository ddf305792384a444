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
)

// endpoints is what the issuer's metadata says about where to ask.
type endpoints struct{ jwks, introspect string }

// newHTTPClient returns a client of our own: its time limits hold whatever the program did to the default one, and it
// follows no redirect, which would carry credentials and tokens to a place nobody configured. HTTP/1.1, so that maxConns
// is also the number of questions on their way.
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
	body, err := v.get(ctx, base(v.cfg.Issuer)+"/.well-known/oauth-authorization-server")
	if err != nil {
		return fmt.Errorf("read the issuer's metadata: %w", err)
	}
	var meta struct {
		Issuer        string `json:"issuer"`
		JWKS          string `json:"jwks_uri"`
		Introspection string `json:"introspection_endpoint"`
	}
	if json.Unmarshal(body, &meta) != nil {
		return errors.New("read the issuer's metadata: the answer is not JSON")
	}
	if meta.Issuer != v.cfg.Issuer {
		return &configError{fmt.Sprintf("the metadata found under Issuer %q names another issuer, %q", v.cfg.Issuer, meta.Issuer)}
	}
	loopback := strings.HasPrefix(v.cfg.Issuer, "http:")
	for name, s := range map[string]string{"jwks_uri": meta.JWKS, "introspection_endpoint": meta.Introspection} {
		if err := checkURL(s, loopback); err != nil {
			return &configError{fmt.Sprintf("the issuer's metadata: %s %q %v", name, s, err)}
		}
	}
	v.endpoints.Store(&endpoints{meta.JWKS, meta.Introspection})
	return nil
}

func (v *Verifier) fetchKeys(from string) (keyTable, error) {
	ctx, cancel := context.WithTimeout(v.ctx, askTimeout)
	defer cancel()
	body, err := v.get(ctx, from)
	if err != nil {
		return nil, err
	}
	return parseKeys(body)
}

func (v *Verifier) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	return v.send(req)
}

// post asks the issuer about a token (RFC 7662 section 2.1), with HTTP Basic as RFC 6749 section 2.3.1 writes it.
func (v *Verifier) post(ctx context.Context, token string) (*answer, error) {
	at := v.endpoints.Load()
	if at == nil {
		return nil, errors.New("the issuer's metadata was not read yet")
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.introspect, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(url.QueryEscape(v.cfg.ClientID), url.QueryEscape(v.cfg.ClientSecret))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// Asking changes nothing. An empty list tells net/http so, which may then ask again where the issuer closed a
	// kept connection, as it does on every upgrade. It is not sent.
	req.Header["Idempotency-Key"] = []string{}
	body, err := v.send(req)
	if err != nil {
		return nil, err
	}
	return parseAnswer(body)
}

func (v *Verifier) send(req *http.Request) ([]byte, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "grantway-resource")
	resp, err := v.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusUnauthorized && req.Method == http.MethodPost:
		return nil, &configError{"the issuer refuses ClientID and ClientSecret"}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %d", req.URL.Redacted(), resp.StatusCode)
	case len(body) > maxBody:
		return nil, fmt.Errorf("%s answered more than %d bytes", req.URL.Redacted(), maxBody)
	}
	return body, nil
}
