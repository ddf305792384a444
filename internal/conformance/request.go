package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answer is what came back, from a raw request or to the browser.
type answer struct {
	url    *url.URL // what was asked for; nil for a raw request
	status int
	header http.Header
	body   []byte
}

func (a *answer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", a.status)
	a.header.Write(&b)
	body := a.body
	if len(body) > 3000 {
		body = append(body[:3000:3000], "…"...)
	}
	fmt.Fprintf(&b, "\n%s", body)
	return b.String()
}

// patience bounds one request.
const patience = 15 * time.Second

// rawRequest is a request as a file writes it.
type rawRequest struct {
	method, target string
	header         [][2]string
	body           string
}

// parseRequest reads `METHOD target`, whose target goes on over indented lines, then headers, a blank line and a body.
func parseRequest(text string) (rawRequest, error) {
	head, body, _ := strings.Cut(strings.Trim(text, "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	method, target, ok := strings.Cut(lines[0], " ")
	if !ok {
		return rawRequest{}, fmt.Errorf("a request begins `METHOD target`, not %q", lines[0])
	}
	r := rawRequest{method: method, target: target}
	lines = lines[1:]
	for len(lines) > 0 && strings.HasPrefix(lines[0], " ") {
		r.target += strings.TrimSpace(lines[0])
		lines = lines[1:]
	}
	if strings.ContainsAny(r.target, " \t") {
		return rawRequest{}, fmt.Errorf("a space in the target %q", r.target)
	}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return rawRequest{}, fmt.Errorf("%q is not a header", line)
		}
		r.header = append(r.header, [2]string{name, strings.TrimSpace(value)})
	}
	r.body = body
	if body != "" && !r.names("Content-Type") {
		r.header = append(r.header, [2]string{"Content-Type", "application/x-www-form-urlencoded"})
	}
	if strings.HasPrefix(r.value("Content-Type"), "application/x-www-form-urlencoded") {
		r.body = strings.ReplaceAll(body, "\n", "&")
	}
	return r, nil
}

func (r rawRequest) names(header string) bool {
	for _, h := range r.header {
		if strings.EqualFold(h[0], header) {
			return true
		}
	}
	return false
}

func (r rawRequest) value(header string) string {
	for _, h := range r.header {
		if strings.EqualFold(h[0], header) {
			return h[1]
		}
	}
	return ""
}

// send writes the request to base as it stands, so that no library cleans the target, and reads one answer.
func (r rawRequest) send(ctx context.Context, base string) (*answer, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", r.method, strings.TrimSuffix(u.EscapedPath(), "/")+r.target)
	for _, h := range [][2]string{
		{"Host", u.Host}, {"User-Agent", "grantway-wire/1"}, {"Content-Length", fmt.Sprint(len(r.body))}, {"Connection", "close"},
	} {
		if !r.names(h[0]) && (h[0] != "Content-Length" || r.body != "" || r.method == http.MethodPost) {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	}
	for _, h := range r.header {
		if h[1] != "!absent" {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
	}
	b.WriteString("\r\n" + r.body)

	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := dial(ctx, u)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	// A server may answer before it has read everything (1 MB of state), so a failed write decides nothing.
	go conn.Write(b.Bytes())
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.method})
	if err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

func dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	address := u.Host
	if u.Port() == "" {
		address = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	if u.Scheme == "https" {
		return (&tls.Dialer{}).DialContext(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}
