package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// answer is what the issuer says of a token at this moment (RFC 7662 section 2.2).
type answer struct {
	active                                bool
	iss, aud, sub, clientID, jti, grantID string
	powers

	// at is the place in the feed as of which the answer is true at least.
	at position
}

var (
	errOtherToken = errors.New("the issuer answered about another token")
	errOldAnswer  = errors.New("the issuer's answers are older than the feed")
)

// about says whether an answer is about the token it was asked for.
func (a *answer) about(t *token) bool {
	return a.iss == t.iss && a.aud == t.aud && a.sub == t.sub && a.clientID == t.clientID && a.grantID == t.grantID &&
		(a.jti == "" || a.jti == t.jti)
}

func parseAnswer(body []byte) (*answer, error) {
	a, said, epoch, seq := &answer{}, false, false, false
	r := jsonReader{b: body}
	err := r.document(func(name []byte) (err error) {
		if string(name) != "active" && r.word("null") {
			return nil
		}
		switch string(name) {
		case "active":
			said = true
			a.active, err = r.boolean()
		case "iss":
			a.iss, err = r.str()
		case "aud":
			a.aud, err = r.str()
		case "sub":
			a.sub, err = r.str()
		case "client_id":
			a.clientID, err = r.str()
		case "jti":
			a.jti, err = r.str()
		case "grant_id":
			a.grantID, err = r.str()
		case "scope":
			err = r.scopes(&a.scopes)
		case "rights":
			err = r.rights(&a.rights)
		case "epoch":
			epoch = true
			a.at.epoch, err = r.integer()
		case "iseq":
			seq = true
			a.at.seq, err = r.integer()
		default:
			err = r.skip()
		}
		return err
	})
	if err != nil || !said {
		return nil, errors.New("the answer is not an introspection response")
	}
	a.at.known = epoch && seq
	return a, nil
}

func (r *jsonReader) rights(all *[]right) error {
	return r.array(func() error {
		var one right
		if err := r.right(&one); err != nil {
			return err
		}
		*all = append(*all, one)
		return nil
	})
}

func (r *jsonReader) right(one *right) error {
	return r.object(func(name []byte) (err error) {
		switch string(name) {
		case "stores":
			err = r.array(func() error {
				id, err := r.str()
				one.stores = append(one.stores, id)
				return err
			})
		case "scope":
			err = r.scopes(&one.scopes)
		default:
			err = r.skip()
		}
		return err
	})
}

func (r *jsonReader) scopes(all *[]string) error {
	s, err := r.str()
	*all = strings.Fields(s)
	return err
}

// asker asks about one token once at a time, however many requests carry it. A request that comes while a question is
// out waits for the next one, which all that came meanwhile share: the question that is out may have been answered
// before a revocation that this request comes after. Each question has its whole time: one deadline around both would
// refuse most requests with a busy key as soon as the issuer takes more than half of it. Beyond a number of tokens asked about at once the answer is no: an
// issuer that is slow would hold up every request there is.
type asker struct {
	do func(token string) (*answer, error)

	mu  sync.Mutex
	out map[digest]*question // at most maxAsking; by token: the question to ask when the present one is answered, or nil
}

type question struct {
	done chan struct{}
	ans  *answer
	err  error
}

func (a *asker) init(do func(string) (*answer, error)) {
	a.do, a.out = do, map[digest]*question{}
}

func (a *asker) ask(ctx context.Context, id digest, token string) (*answer, error) {
	a.mu.Lock()
	q, busy := a.out[id]
	if !busy && len(a.out) >= maxAsking {
		a.mu.Unlock()
		return nil, unavailable("shed", nil)
	}
	if q == nil {
		q = &question{done: make(chan struct{})}
		if busy {
			a.out[id] = q
		} else {
			a.out[id] = nil
			go a.run(id, token, q)
		}
	}
	a.mu.Unlock()
	select {
	case <-q.done:
		return q.ans, q.err
	case <-ctx.Done():
		return nil, unavailable("no_answer", ctx.Err())
	}
}

func (a *asker) run(id digest, token string, q *question) {
	for q != nil {
		q.ans, q.err = a.do(token)
		close(q.done)
		a.mu.Lock()
		if q = a.out[id]; q != nil {
			a.out[id] = nil
		} else {
			delete(a.out, id)
		}
		a.mu.Unlock()
	}
}

// ask asks the issuer what a key may do now, and holds the answer against what the feed says. An answer that is older
// than an event that named the key comes of a node that is behind, and is asked for again. However that goes, a request
// waits for no longer than two questions take.
func (v *Verifier) ask(ctx context.Context, id digest, text string, t *token, why string) (powers, error) {
	v.count.asked(why)
	ctx, cancel := context.WithTimeout(ctx, 2*v.patience)
	defer cancel()
	for last := v.clock().mono + v.patience - listStale; ; {
		v.follow.asks(t)
		ans, err := v.asking.ask(ctx, id, text)
		switch {
		case err != nil:
			return powers{}, err
		case !ans.active:
			return powers{}, refused("not_active")
		case !ans.about(t):
			return powers{}, unavailable("bad_answer", errOtherToken)
		}
		if may, ok, err := v.follow.answered(id, t, ans); ok {
			return may, err
		}
		if v.clock().mono > last {
			return powers{}, unavailable("no_answer", errOldAnswer)
		}
		select {
		case <-ctx.Done():
			return powers{}, unavailable("no_answer", ctx.Err())
		case <-time.After(listStale):
		}
	}
}

// introspect asks the issuer about a token. Whatever is not an answer is an outage, logged once when it begins and once
// when it ends.
func (v *Verifier) introspect(token string) (*answer, error) {
	ctx, cancel := context.WithTimeout(v.ctx, v.patience)
	defer cancel()
	ans, err := v.postAnywhere(ctx, token)
	if out := err != nil; v.outage.CompareAndSwap(!out, out) && v.ctx.Err() == nil {
		if out {
			slog.Error("resource: the issuer cannot be asked about tokens, requests get 503", "issuer", v.cfg.Issuer, "error", err)
		} else {
			slog.Info("resource: the issuer answers again", "issuer", v.cfg.Issuer)
		}
	}
	if err != nil {
		return nil, unavailable("no_answer", err)
	}
	return ans, nil
}

// postAnywhere asks the present node and, where it fails or keeps silent for half of the time, the next one.
func (v *Verifier) postAnywhere(ctx context.Context, token string) (*answer, error) {
	node := v.follow.current()
	if len(v.nodes) == 1 {
		return v.post(ctx, node, token)
	}
	half, cancel := context.WithTimeout(ctx, v.patience/2)
	defer cancel()
	ans, err := v.post(half, node, token)
	if err != nil && ctx.Err() == nil {
		v.follow.moveOn(node)
		ans, err = v.post(ctx, v.follow.current(), token)
	}
	return ans, err
}

// tryCredentials asks about a text that is no token, to learn of wrong credentials before the first request does.
func (v *Verifier) tryCredentials(ctx context.Context) error {
	ans, err := v.post(ctx, v.follow.current(), "no-token")
	if err == nil && ans.active {
		err = fmt.Errorf("the issuer called a text that is no token active")
	}
	return err
}
