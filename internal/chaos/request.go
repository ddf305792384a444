package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// client is one worker's way to the nodes: each request goes to another one.
type client struct {
	site    *site
	name    string
	rng     *rand.Rand
	patient bool // never gives up early
}

// fork returns a client beside c, for a request at the same time.
func (c *client) fork() *client {
	return &client{c.site, c.name, rand.New(rand.NewPCG(c.rng.Uint64(), 1)), c.patient}
}

// reply is an answer, or what became of the request.
type reply struct {
	outcome   outcome
	status    int
	header    http.Header
	body      string
	doc       map[string]any // nil if the body is no JSON object
	sent, end time.Time
}

func (r reply) text(key string) string {
	s, _ := r.doc[key].(string)
	return s
}

// request is what a worker asks. Answers with the status want are acknowledged.
type request struct {
	what, of     string
	method, path string
	form         url.Values
	header       map[string]string
	cookie       string
	want         int
	page         bool // answered with a page, which does not say whether a 503 did anything
}

const (
	impatience = 1500 * time.Millisecond // of clients that give up early
	unknownSay = "cannot tell whether"   // the words of a 503 that may have taken effect
)

// send asks one node, waits for the answer and writes both down. One request in
// eight is given up early, as apps do.
func (c *client) send(ctx context.Context, q request) reply {
	n := c.site.nodes[c.rng.IntN(len(c.site.nodes))]
	limit := patience
	if !c.patient && c.rng.IntN(8) == 0 {
		limit = impatience
	}
	r := reply{sent: time.Now()}
	err := r.exchange(ctx, n, q, limit)
	r.end = time.Now()
	took := r.end.Sub(r.sent)
	e := entry{At: r.sent, Took: took, Worker: c.name, Node: n.number, What: q.what, Of: q.of, Status: r.status}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		r.outcome = unavailable
	case err != nil:
		r.outcome = unknown
		if took >= patience {
			c.site.ledger.violation("%s had no answer from node %d within %v", q.what, n.number, patience)
		}
	case r.status == q.want:
		r.outcome = acknowledged
	case r.status == http.StatusServiceUnavailable && (q.page || strings.Contains(r.body, unknownSay)):
		r.outcome = unknown
	case r.status == http.StatusServiceUnavailable, r.status == http.StatusTooManyRequests:
		r.outcome = unavailable
	case r.status >= 300 && r.status < 500:
		r.outcome = refused
	default:
		r.outcome = failed
	}
	e.Outcome = r.outcome
	switch {
	case err != nil:
		e.Detail = err.Error()
	case r.outcome != acknowledged && !q.page:
		e.Detail = r.body
	}
	c.site.ledger.note(e)
	return r
}

func (r *reply) exchange(ctx context.Context, n *node, q request, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// net/http sends a request again by itself if it may: not one with a form.
	req, err := http.NewRequestWithContext(ctx, q.method, n.site.issuer+q.path, strings.NewReader(q.form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "grantway-chaos")
	if q.form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if q.page {
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if q.cookie != "" {
		req.AddCookie(n.site.cookie(q.cookie))
	}
	for k, v := range q.header {
		req.Header.Set(k, v)
	}
	resp, err := n.wire.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	r.status, r.header, r.body = resp.StatusCode, resp.Header, string(body)
	if json.Unmarshal(body, &r.doc) != nil {
		r.doc = nil
	}
	return nil
}
