package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// keeper changes the secrets of one app with the operator's commands, beside the
// servers, and shows each secret to the servers.
type keeper struct {
	client
	app     *app
	secrets []*secret // that it was given, newest last
}

type secret struct {
	text  string
	state state
	since time.Time // when state was acknowledged
}

func (s *secret) last4() string { return s.text[len(s.text)-4:] }

// cached is how long a node may go by an app as it was (DESIGN, decision 14).
const cached = 100 * time.Millisecond

func (k *keeper) run(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(8 * pace)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if n%4 == 0 {
			k.change(ctx)
		}
		for _, s := range k.secrets[max(0, len(k.secrets)-6):] {
			k.probe(ctx, s)
		}
	}
}

// command runs a command of the operator's and writes down what became of it.
func (k *keeper) command(ctx context.Context, doc any, args ...string) outcome {
	limit, cancel := context.WithTimeout(ctx, patience+startWithin)
	defer cancel()
	sent := time.Now()
	out, err := k.site.command(limit, "", args...)
	e := entry{At: sent, Took: time.Since(sent), Worker: k.name, Node: -1, What: fmt.Sprint(args), Outcome: acknowledged}
	switch {
	case limit.Err() != nil && ctx.Err() == nil:
		e.Outcome = unknown
		k.site.ledger.violation("%v did not end within %v", args, patience+startWithin)
	case err != nil:
		e.Outcome, e.Detail = unknown, err.Error()
	case json.Unmarshal(out, doc) != nil:
		e.Outcome, e.Detail = failed, string(out)
	}
	k.site.ledger.note(e)
	return e.Outcome
}

// change looks at the secrets that there are, and adds or revokes one.
func (k *keeper) change(ctx context.Context) {
	live, ok := k.list(ctx)
	if !ok {
		return
	}
	if len(live) < 2 {
		var doc struct {
			Secret string `json:"client_secret"`
		}
		if k.command(ctx, &doc, "client", "secret", "add", k.app.id) == acknowledged {
			k.secrets = append(k.secrets, &secret{text: doc.Secret, since: time.Now()})
		}
		return
	}
	// One whose answer was lost is nobody's; else the older one goes.
	oldest := live[0]
	for _, last4 := range live {
		if !slices.ContainsFunc(k.secrets, func(s *secret) bool { return s.last4() == last4 }) {
			oldest = last4
		}
	}
	s := k.find(oldest)
	var doc struct{}
	switch k.command(ctx, &doc, "client", "secret", "revoke", "--", k.app.id, oldest) {
	case acknowledged:
		if s != nil {
			s.state, s.since = dead, time.Now()
		}
	case unknown:
		if s != nil {
			s.state = unsure
		}
	}
}

func (k *keeper) find(last4 string) *secret {
	for _, s := range slices.Backward(k.secrets) {
		if s.last4() == last4 && s.state != dead {
			return s
		}
	}
	return nil
}

// list reads which secrets there are, and holds them against what is known.
func (k *keeper) list(ctx context.Context) (live []string, ok bool) {
	var docs []struct {
		ID      string `json:"client_id"`
		Secrets []struct {
			Last4 string `json:"last4"`
		} `json:"secrets"`
	}
	if k.command(ctx, &docs, "client", "list") != acknowledged {
		return nil, false
	}
	for _, d := range docs {
		for _, s := range d.Secrets {
			if d.ID == k.app.id {
				live = append(live, s.Last4)
			}
		}
	}
	for _, s := range k.secrets {
		switch there := slices.Contains(live, s.last4()); {
		case !there && s.state == alive:
			k.site.ledger.violation("the secret that ends in %s was acknowledged and is not listed", s.last4())
		case !there && s.state == unsure:
			s.state, s.since = dead, time.Now()
		case there && s.state == dead && k.find(s.last4()) == nil:
			k.site.ledger.violation("the secret that ends in %s was revoked and is listed", s.last4())
		}
	}
	return live, true
}

// probe shows a secret with a code that nobody has: the answer says whether the
// secret is right.
func (k *keeper) probe(ctx context.Context, s *secret) reply {
	r := k.send(ctx, request{what: "show a secret", of: s.last4(), method: "POST", path: "/oauth2/" + k.app.id + "/exchange", want: http.StatusForbidden,
		form: url.Values{"code": {"nobody-has-this"}}, header: map[string]string{"X-Client-Secret": s.text}})
	if r.sent.Sub(s.since) < cached || r.outcome != acknowledged && r.outcome != refused {
		return r
	}
	switch {
	case r.outcome == acknowledged && s.state == dead:
		k.site.ledger.violation("the secret that ends in %s was revoked and is taken", s.last4())
	case r.outcome == refused && s.state == alive:
		k.site.ledger.violation("the secret that ends in %s was acknowledged and is refused: %d %s", s.last4(), r.status, r.body)
	}
	return r
}
