package resource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// pollPatience is the longest that a healthy node lets us wait, and some: it holds an answer for 200 ms at most. After
	// it the next node is asked as well, so that a silent one costs less than a lease: the last lease began at most
	// 200 ms, a way and a pause before the poll that stays unanswered, and 200 + 10 + 250 + 200 are less than 700 with
	// two ways of 20 ms each.
	pollPatience = 250 * time.Millisecond
	// pollTimeout is when the answer must have begun. A later one would be worth no lease.
	pollTimeout = 600 * time.Millisecond
	// bodyTimeout is when it must have ended: a long one moves us on even if it is worth no lease.
	bodyTimeout = 2 * time.Second
	// maxFeed bounds one answer in bytes.
	maxFeed = 8 << 20
)

// change is what an event says of one key.
type change struct {
	seq   int64
	list  string
	idx   int32
	value value
}

type ruleChange struct {
	subject
	rule
}

// events is an answer of the feed.
type events struct {
	epoch, seq int64
	more       bool // seq is not the present yet
	changes    []change
	rules      []ruleChange
}

// position is how far the feed was followed. Before it is known a snapshot is asked for.
type position struct {
	known      bool
	epoch, seq int64
}

// reply is what came of one poll.
type reply struct {
	node  int
	after position
	sent  instant // from before it was sent
	said  *events // nil for 204
	gone  bool    // 410
	err   error
}

var errCredentials = &configError{"the issuer refuses this API's client id and secret; grantway api secret list shows which there are, and grantway api secret prints a new one"}

// poll asks one node what happened after a position.
func (f *follower) poll(node int, after position) (r reply) {
	r = reply{node: node, after: after, sent: f.v.clock()}
	ctx, cancel := context.WithCancel(f.v.ctx)
	defer cancel()
	late := time.AfterFunc(pollTimeout, cancel)
	defer late.Stop()
	q := url.Values{"instance": {f.instance}}
	if after.known {
		q.Set("after", strconv.FormatInt(after.seq, 10))
		q.Set("epoch", strconv.FormatInt(after.epoch, 10))
	}
	req, err := f.v.request(ctx, http.MethodGet, f.v.at(node, f.v.endpoints.Load().feed)+"?"+q.Encode(), nil)
	if err != nil {
		r.err = err
		return r
	}
	req.Header.Set("Cache-Control", "no-cache")
	f.polled.Store(true)
	resp, err := f.v.feedHTTP.Do(req)
	if err != nil {
		r.err = err
		return r
	}
	defer resp.Body.Close()
	late.Reset(bodyTimeout)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxFeed+1))
	switch {
	case err != nil:
		r.err = err
	case resp.Header.Get("Age") != "":
		r.err = errors.New("the feed's answer comes out of a cache")
	case len(body) > maxFeed:
		r.err = fmt.Errorf("the feed's answer has more than %d bytes", maxFeed)
	case resp.StatusCode == http.StatusOK:
		r.said, r.err = parseEvents(body, after)
	case resp.StatusCode == http.StatusNoContent && after.known:
	case resp.StatusCode == http.StatusGone && after.known:
		r.gone = true
	case resp.StatusCode == http.StatusUnauthorized:
		r.err = errCredentials
	default:
		r.err = fmt.Errorf("the feed answered %d", resp.StatusCode)
	}
	return r
}

// leave tells the issuer that nobody follows here any more. If that is not heard, whoever revokes waits for this process
// until it was not seen for a minute.
func (f *follower) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), lastReport)
	defer cancel()
	q := url.Values{"instance": {f.instance}}
	req, err := f.v.request(ctx, http.MethodDelete, f.v.at(f.current(), f.v.endpoints.Load().feed)+"?"+q.Encode(), nil)
	if err != nil {
		return
	}
	req.Header["Idempotency-Key"] = []string{} // as in post: where a kept connection was closed, it is said again
	_, _, _ = read(f.v.http, req)
}

// parseEvents reads an answer and holds it to what was asked. What it does not know it does not pass over: an event
// that has no effect here would be a key that lives on.
func parseEvents(body []byte, after position) (*events, error) {
	e := &events{}
	r := jsonReader{b: body}
	members := 0
	err := r.document(func(name []byte) (err error) {
		members++
		switch string(name) {
		case "epoch":
			e.epoch, err = r.integer()
		case "seq":
			e.seq, err = r.integer()
		case "more":
			e.more, err = r.boolean()
		case "changes":
			err = r.array(func() error { return e.readChange(&r) })
		case "rules":
			err = r.array(func() error { return e.readRule(&r) })
		default:
			err = errJSON
		}
		return err
	})
	if err != nil || members != 5 {
		return nil, errors.New("the feed's answer is not one we know")
	}
	snapshot := !after.known
	switch {
	case snapshot && len(e.changes) > 0:
		return nil, errors.New("the feed's snapshot has changes")
	case !snapshot && e.epoch != after.epoch:
		return nil, errors.New("the feed answers for another epoch")
	case e.seq < after.seq:
		return nil, errors.New("the feed goes backwards")
	case e.more && e.seq == after.seq:
		return nil, errors.New("the feed does not go on")
	}
	last := after.seq
	for _, c := range e.changes {
		if c.seq <= after.seq || c.seq < last || c.seq > e.seq {
			return nil, errors.New("the feed's changes are out of order")
		}
		last = c.seq
	}
	last = after.seq
	for _, c := range e.rules {
		if c.seq > e.seq || !snapshot && (c.seq <= after.seq || c.seq < last) {
			return nil, errors.New("the feed's rules are out of order")
		}
		last = c.seq
	}
	return e, nil
}

func (e *events) readChange(r *jsonReader) error {
	var c change
	members := 0
	err := r.object(func(name []byte) (err error) {
		members++
		var n int64
		switch string(name) {
		case "seq":
			c.seq, err = r.integer()
		case "list":
			var id []byte
			if id, err = r.bytes(); err == nil && !isListID(id) {
				err = errJSON
			}
			// Neighbours are mostly of one list.
			if k := len(e.changes); k > 0 && e.changes[k-1].list == string(id) {
				c.list = e.changes[k-1].list
			} else {
				c.list = string(id)
			}
		case "idx":
			if n, err = r.integer(); n >= listEntries {
				err = errJSON
			}
			c.idx = int32(n)
		case "value":
			if n, err = r.integer(); n > int64(ask) {
				err = errJSON
			}
			c.value = value(n)
		default:
			err = errJSON
		}
		return err
	})
	if err != nil || members != 4 {
		return errJSON
	}
	e.changes = append(e.changes, c)
	return nil
}

func (e *events) readRule(r *jsonReader) error {
	var c ruleChange
	members := 0
	err := r.object(func(name []byte) (err error) {
		members++
		var n int64
		switch string(name) {
		case "seq":
			c.seq, err = r.integer()
		case "kind":
			var kind string
			kind, err = r.str()
			c.kind = ruleKind(kind)
		case "id":
			c.id, err = r.str()
		case "before":
			c.before, err = r.integer()
		case "value":
			if n, err = r.integer(); n > int64(ask) {
				err = errJSON
			}
			c.value = value(n)
		default:
			err = errJSON
		}
		return err
	})
	if err != nil || members != 5 || !c.kind.known(c.value) || (c.id == "") != (c.kind == ruleAll) {
		return errJSON
	}
	e.rules = append(e.rules, c)
	return nil
}
