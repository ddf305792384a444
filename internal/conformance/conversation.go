package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/net/html"
)

// conversation is one run of a script.
type conversation struct {
	demo Demo
	vars variables
	web  *browser
	last *answer
	// again sends the last request once more, until which the answer may be another than the expected one.
	again       func() error
	sent, until time.Time
}

// run holds the conversation and returns the first thing that was not as expected.
func (s script) run(ctx context.Context, demo Demo) error {
	var ids []string
	for _, store := range demo.Stores {
		ids = append(ids, store.ID)
	}
	web, err := newBrowser(demo.Issuer, ids)
	if err != nil {
		return err
	}
	c := &conversation{demo: demo, vars: demo.variables(), web: web}
	for i, st := range s.steps {
		if err := c.step(ctx, st); err != nil {
			err = fmt.Errorf("section %d (%s): %w", i+1, strings.Join(append([]string{st.verb}, st.words...), " "), err)
			if c.last != nil {
				err = fmt.Errorf("%w\nlast answer:\n%s", err, c.last)
			}
			return err
		}
	}
	return nil
}

func (c *conversation) step(ctx context.Context, st step) error {
	var err error
	words := make([]string, len(st.words))
	for i, w := range st.words {
		if words[i], err = c.vars.expand(w); err != nil {
			return err
		}
	}
	args := map[string]string{}
	for name, value := range st.args {
		if args[name], err = c.vars.expand(value); err != nil {
			return err
		}
	}
	text, err := c.vars.expand(st.text)
	if err != nil {
		return err
	}
	switch st.verb {
	case "request":
		return c.request(ctx, args, text)
	case "response":
		return c.eventually(ctx, text)
	case "jwt":
		return c.jwt(ctx, words, args, text)
	case "consent":
		return c.consent(ctx, words, args)
	case "returned":
		return c.returned(text)
	case "wait":
		return wait(ctx, args["seconds"])
	}
	switch st.verb {
	case "open":
		err = c.web.open(ctx, strings.Join(strings.Fields(text), ""))
	case "sign in":
		who := c.demo.User
		if len(words) == 1 {
			who = map[string]Person{"user": c.demo.User, "developer": c.demo.Developer, "operator": c.demo.Operator}[words[0]]
		}
		if password, ok := args["password"]; ok {
			who.Password = password
		}
		err = c.web.signIn(ctx, who)
	case "press":
		stores, storesErr := c.stores(args)
		if storesErr != nil {
			return storesErr
		}
		err = c.web.press(ctx, strings.Join(words, " "), args["near"], stores, args["header"])
	case "back":
		err = c.web.back()
	}
	return c.look(err)
}

// wait lets real time pass: the server has no clock that a stranger could move.
func wait(ctx context.Context, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil || n < 1 || n > 120 {
		return fmt.Errorf("wait seconds=%q: from 1 to 120", seconds)
	}
	select {
	case <-time.After(time.Duration(n) * time.Second):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look makes the page on screen the last answer.
func (c *conversation) look(err error) error {
	c.again = nil
	if p, none := c.web.page(); none == nil {
		c.last = p.answer
	}
	return err
}

// stores reads stores=0,2,other: a number is the demo's store of that place, anything else an id as it stands; nil when
// the argument is not given, none when it is empty.
func (c *conversation) stores(args map[string]string) ([]string, error) {
	list, given := args["stores"]
	if !given {
		return nil, nil
	}
	ids := []string{}
	for id := range strings.SplitSeq(list, ",") {
		if i, err := strconv.Atoi(id); err == nil {
			if i < 0 || i >= len(c.demo.Stores) {
				return nil, fmt.Errorf("the demo has no store %d", i)
			}
			id = c.demo.Stores[i].ID
		}
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (c *conversation) request(ctx context.Context, args map[string]string, text string) error {
	base := c.demo.Issuer
	switch args["base"] {
	case "":
	case "store_api":
		base = c.demo.StoreAPI
	case "guard":
		base = c.demo.Guard
	default:
		return fmt.Errorf("base is store_api, guard or not given")
	}
	r, err := parseRequest(text)
	if err != nil {
		return err
	}
	var within time.Duration
	if args["within"] != "" {
		if within, err = time.ParseDuration(args["within"]); err != nil || within > 10*time.Second {
			return fmt.Errorf("within=%q: a time like 850ms, 10 s at most", args["within"])
		}
	}
	c.until = time.Now().Add(within)
	c.again = func() (err error) {
		c.sent = time.Now()
		c.last, err = r.send(ctx, base)
		return err
	}
	return c.again()
}

// eventually holds the last answer against what it must be. A request that says within= is sent again as long as it is
// not, every 10 ms: the last of them begins when the time is over.
func (c *conversation) eventually(ctx context.Context, text string) error {
	for {
		err := c.response(text)
		if err == nil || c.again == nil || !c.sent.Before(c.until) {
			return err
		}
		select {
		case <-time.After(min(10*time.Millisecond, max(0, time.Until(c.until)))):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := c.again(); err != nil {
			return err
		}
	}
}

func (c *conversation) response(text string) error {
	if c.last == nil {
		return fmt.Errorf("nothing was asked yet")
	}
	head, body, _ := strings.Cut(strings.Trim(text, "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	if err := c.vars.matchText(lines[0], strconv.Itoa(c.last.status), true); err != nil {
		return fmt.Errorf("status %w", err)
	}
	for _, line := range lines[1:] {
		name, want, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("%q is not a header", line)
		}
		values := c.last.header.Values(name)
		if err := c.vars.matchText(strings.TrimSpace(want), strings.Join(values, ", "), len(values) > 0); err != nil {
			return fmt.Errorf("%s %w", name, err)
		}
	}
	body = strings.TrimSpace(body)
	if strings.HasPrefix(body, "{") || strings.HasPrefix(body, "[") {
		want, err := decodeJSON(body)
		if err != nil {
			return fmt.Errorf("the expectation: %w", err)
		}
		got, err := decodeJSON(string(c.last.body))
		if err != nil {
			return fmt.Errorf("the body: %w", err)
		}
		return c.vars.matchJSON(want, got, "body")
	}
	return c.words(body)
}

// words checks the lines `contains: text`, `lacks: text`, `match: regex` and `empty`. Of a page, contains looks at what
// a reader sees; the others look at the source.
func (c *conversation) words(body string) error {
	source := string(c.last.body)
	seen := source
	if strings.HasPrefix(c.last.header.Get("Content-Type"), "text/html") {
		doc, err := html.Parse(strings.NewReader(source))
		if err != nil {
			return err
		}
		seen = text(doc)
	}
	for line := range strings.Lines(body) {
		kind, want, _ := strings.Cut(strings.TrimSpace(line), ":")
		want = strings.TrimSpace(want)
		switch kind {
		case "":
		case "empty":
			if source != "" {
				return fmt.Errorf("the body is not empty")
			}
		case "contains":
			if !strings.Contains(seen, want) {
				return fmt.Errorf("the body lacks %q", want)
			}
		case "lacks":
			if strings.Contains(source, want) {
				return fmt.Errorf("the body contains %q", want)
			}
		case "match":
			if err := c.vars.matchRegexp(want, source); err != nil {
				return fmt.Errorf("the body: %w", err)
			}
		default:
			return fmt.Errorf("no expectation is called %q", kind)
		}
	}
	return nil
}

// returned holds the address at which the app gets control back against `to:` and one line per query parameter. A
// parameter without a line must not be there.
func (c *conversation) returned(text string) error {
	p, err := c.web.page()
	if err != nil {
		return err
	}
	u, err := p.returned()
	if err != nil {
		return err
	}
	query := u.Query()
	bare := *u
	bare.RawQuery = ""
	for line := range strings.Lines(strings.TrimSpace(text)) {
		name, want, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			return fmt.Errorf("%q is not `name: value`", line)
		}
		want = strings.TrimSpace(want)
		got, present := strings.Join(query[name], ", "), query.Has(name)
		if name == "to" {
			got, present = bare.String(), true
		}
		if err := c.vars.matchText(want, got, present); err != nil {
			return fmt.Errorf("%s in %s %w", name, u, err)
		}
		query.Del(name)
	}
	if len(query) > 0 {
		return fmt.Errorf("the address %s carries %v, which nothing expects", u, slices.Sorted(maps.Keys(query)))
	}
	return nil
}

// consent walks from the app's link to the code: authorize, sign in, tick, Allow, "Returning you to APP".
func (c *conversation) consent(ctx context.Context, words []string, args map[string]string) error {
	if len(words) != 1 {
		return fmt.Errorf("consent wants one app: exchange, standard or public")
	}
	app, path := words[0], "/oauth/authorize"
	query := url.Values{"client_id": {c.vars[app+".client_id"]}, "redirect_uri": {callback}, "state": {"wire"}}
	switch app {
	case "exchange":
		path = "/auth/authorize"
	case "standard", "public":
		query.Set("response_type", "code")
		query.Set("scope", "stores.view")
		if args["pkce"] == "" {
			args["pkce"] = "code"
		}
	default:
		return fmt.Errorf("no consent page for %q", app)
	}
	if name := args["pkce"]; name != "" {
		query.Set("code_challenge", s256(c.vars.verifier(name)))
		query.Set("code_challenge_method", "S256")
	}
	for argument, parameter := range map[string]string{"state": "state", "scope": "scope", "redirect": "redirect_uri"} {
		if value, ok := args[argument]; ok {
			query.Set(parameter, strings.ReplaceAll(value, ",", " "))
		}
	}
	target := path + "?" + query.Encode()
	if more := args["query"]; more != "" {
		target += "&" + more
	}
	if err := c.look(c.web.open(ctx, target)); err != nil {
		return err
	}
	if err := c.look(c.web.signIn(ctx, c.demo.User)); err != nil {
		return err
	}
	if _, given := args["stores"]; !given {
		args["stores"] = "0"
	}
	stores, err := c.stores(args)
	if err != nil {
		return err
	}
	p, err := c.web.page()
	if err != nil {
		return err
	}
	// An authenticated standard client that asks for nothing new may be sent back without a question (decision 1).
	if _, back := p.returned(); back != nil || app != "standard" {
		if err := c.look(c.web.press(ctx, "Allow", "", stores, "")); err != nil {
			return err
		}
		if p, err = c.web.page(); err != nil {
			return err
		}
	}
	u, err := p.returned()
	if err != nil {
		return err
	}
	code := u.Query().Get("code")
	if code == "" || u.Query().Get("state") != query.Get("state") {
		return fmt.Errorf("returned to %s: no code, or another state", u)
	}
	name := args["capture"]
	if name == "" {
		name = "code"
	}
	c.vars[name] = code
	return nil
}

// jwt holds a captured token's header and claims against two JSON values, and its signature against a published key
// set; keys=!path demands that the set lacks the key.
func (c *conversation) jwt(ctx context.Context, words []string, args map[string]string, text string) error {
	if len(words) != 1 {
		return fmt.Errorf("jwt wants the name of a captured token")
	}
	token, err := c.vars.get(words[0])
	if err != nil {
		return err
	}
	header, claims, err := splitJWT(token)
	if err != nil {
		return err
	}
	want, err := decodeAllJSON(text)
	if err != nil || len(want) != 2 {
		return fmt.Errorf("the expectation is a header and claims, two JSON values (%v)", err)
	}
	if err := c.vars.matchJSON(want[0], header, "header"); err != nil {
		return err
	}
	if err := c.vars.matchJSON(want[1], claims, "claims"); err != nil {
		return err
	}
	path, given := args["keys"]
	if !given {
		return nil
	}
	path, absent := strings.CutPrefix(path, "!")
	if c.last, err = (rawRequest{method: http.MethodGet, target: path}).send(ctx, c.demo.Issuer); err != nil {
		return err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(c.last.body, &set); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	found, err := verifyJWT(token, set)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case found == absent:
		return fmt.Errorf("%s holds the token's key: %t", path, found)
	}
	return nil
}
