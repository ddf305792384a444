package resource

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// vectorWorld is testdata/vectors/world.json.
type vectorWorld struct {
	About, Issuer, Audience string
	ClientID                string `json:"client_id"`
	ClientSecret            string `json:"client_secret"`
	Starts, Epoch, Seq      int64
	Access, Lasting         []string
	Keys                    map[string]jose.JSONWebKey
	Header, Claims          object
}

type vectorToken struct {
	Header, Claims object
	HeaderText     string `json:"header_text"`
	ClaimsText     string `json:"claims_text"`
	By, Text, List string
	Idx            *int64
}

type vectorList struct {
	Status         int
	Seq, Epoch     *int64
	Values         map[string]int
	Bytes          *int
	Header, Claims object
	By             string
}

// scenario is one of the vectors; testdata/vectors/README.md says what its members mean.
type scenario struct {
	Name          string
	Tokens        map[string]vectorToken
	Lists         map[string]vectorList
	Snapshot      object
	Introspection map[string]object
	Steps         []json.RawMessage
}

type step struct {
	Load, Check, Scope string
	Store              *string
	OnStale            any `json:"on_stale"`
	Want               string
	Asks, Reads        *int64
	Within             *time.Duration // in milliseconds
	Stores             []string

	Polled        *struct{ Epoch, After int64 }
	Feed, Always  object
	Wait, Jump    time.Duration // in milliseconds
	Lists         map[string]vectorList
	Snapshot      object
	Introspection map[string]object
	Lasting       []string
	In, Slow      time.Duration // in milliseconds
	Age           int
}

// TestVectors holds the Verifier to what verifiers in every language are held to.
func TestVectors(t *testing.T) {
	const folder = "testdata/vectors"
	var world vectorWorld
	readVectors(t, filepath.Join(folder, "world.json"), &world)
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(files) < 7 {
		t.Fatalf("%d files of vectors (%v)", len(files), err)
	}
	for _, file := range files {
		if filepath.Base(file) == "world.json" {
			continue
		}
		var all []scenario
		readVectors(t, file, &all)
		for _, s := range all {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".json")+"/"+s.Name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { s.play(t, &world) })
			})
		}
	}
}

// readVectors refuses members that nothing here reads.
func readVectors(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		err = unmarshalStrict(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func unmarshalStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func (w *vectorWorld) claims(v vectorToken) object {
	idx, list := int64(5), "1-0"
	if v.Idx != nil {
		idx = *v.Idx
	}
	if v.List != "" {
		list = v.List
	}
	status := object{"status_list": object{"idx": idx, "uri": w.Issuer + "/status/" + list}}
	return edited(edited(w.Claims, object{"status": status}), v.Claims)
}

func (w *vectorWorld) token(t *testing.T, v vectorToken) string {
	if v.Text != "" {
		return v.Text
	}
	header := edited(w.Header, v.Header)
	if v.HeaderText == "" {
		v.HeaderText = marshal(t, header)
	}
	if v.ClaimsText == "" {
		v.ClaimsText = marshal(t, w.claims(v))
	}
	if v.By == "" {
		v.By = header["kid"].(string)
	}
	return forge(t, w.Keys[v.By].Key.(*ecdsa.PrivateKey), v.HeaderText, v.ClaimsText)
}

func (w *vectorWorld) list(t *testing.T, id string, v vectorList) string {
	size, epoch, seq := listBytes, w.Epoch, w.Seq
	if v.Bytes != nil {
		size = *v.Bytes
	}
	if v.Epoch != nil {
		epoch = *v.Epoch
	}
	if v.Seq != nil {
		seq = *v.Seq
	}
	bits := make([]byte, size)
	for at, value := range v.Values {
		i, err := strconv.Atoi(at)
		if err != nil {
			t.Fatal(err)
		}
		bits[i/4] |= byte(value) << (i % 4 * 2)
	}
	header := edited(object{"alg": "ES256", "kid": "access-1", "typ": "statuslist+jwt"}, v.Header)
	claims := edited(object{
		"iss": w.Issuer, "sub": w.Issuer + "/status/" + id, "iat": w.Starts, "exp": w.Starts + 3600, "ttl": 60,
		"status_list": object{"bits": 2, "lst": pack(bits)}, "epoch": epoch, "seq": seq,
	}, v.Claims)
	if v.By == "" {
		v.By = header["kid"].(string)
	}
	return forge(t, w.Keys[v.By].Key.(*ecdsa.PrivateKey), marshal(t, header), marshal(t, claims))
}

// stage is the issuer of one scenario, and the network to it.
type stage struct {
	t *testing.T
	w *vectorWorld
	v *Verifier

	mu     sync.Mutex
	s      *scenario
	texts  map[string]string
	always object
	held   []heldPoll
	asked  int64
	reads  int64
	jumped time.Duration
	keys   []string
	slow   time.Duration
	age    int
}

type heldPoll struct {
	query  url.Values
	answer chan object
}

func (s scenario) play(t *testing.T, w *vectorWorld) {
	if now := time.Now().Unix(); now != w.Starts {
		t.Fatalf("the vectors start at %d, and it is %d", w.Starts, now)
	}
	st := &stage{t: t, w: w, s: &s, texts: map[string]string{}, keys: w.Lasting}
	for name, v := range s.Tokens {
		st.texts[name] = w.token(t, v)
	}
	cfg := Config{Issuer: w.Issuer, Audience: w.Audience, ClientID: w.ClientID, ClientSecret: w.ClientSecret}
	inner := newClock()
	skewed := func() instant {
		now := inner()
		st.mu.Lock()
		defer st.mu.Unlock()
		now.wall += st.jumped
		return now
	}
	client := &http.Client{Transport: st}
	var err error
	if st.v, err = start(context.Background(), cfg, skewed, client, client); err != nil {
		t.Fatal(err)
	}
	defer st.v.Close()
	for i, raw := range s.Steps {
		synctest.Wait()
		var one step
		if err := unmarshalStrict(raw, &one); err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
		if wrong := st.step(one, raw); wrong != "" {
			t.Fatalf("step %d, %s: %s", i+1, raw, wrong)
		}
	}
}

func (st *stage) set(f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	f()
}

// serve makes it so from now on, or in so many milliseconds.
func (st *stage) serve(in time.Duration, it func()) {
	if in == 0 {
		st.set(it)
	} else {
		time.AfterFunc(in*time.Millisecond, func() { st.set(it) })
	}
}

func (st *stage) counts() (asked, reads int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.asked, st.reads
}

func (st *stage) step(s step, raw json.RawMessage) string {
	switch {
	case s.Check != "":
		return st.check(s)
	case s.Load != "":
		for n := range 100 {
			before, _ := st.counts()
			st.v.Check(context.Background(), st.texts[s.Load], Access{})
			synctest.Wait()
			if after, _ := st.counts(); after == before {
				return ""
			}
			if n > 0 {
				<-time.After(10 * time.Millisecond)
			}
		}
		return "the list is never used"
	case s.Polled != nil:
		p := st.poll()
		want := url.Values{"epoch": {strconv.FormatInt(s.Polled.Epoch, 10)}, "after": {strconv.FormatInt(s.Polled.After, 10)}, "instance": p.query["instance"]}
		if !maps.EqualFunc(p.query, want, slices.Equal) {
			return "it polls " + p.query.Encode()
		}
	case s.Feed != nil && s.In > 0:
		time.AfterFunc(s.In*time.Millisecond, func() {
			st.mu.Lock()
			held := slices.Clone(st.held)
			st.mu.Unlock()
			if len(held) != 1 {
				st.t.Errorf("%d polls are held for %s", len(held), raw)
				return
			}
			held[0].answer <- s.Feed
		})
	case s.Feed != nil:
		st.poll().answer <- s.Feed
	case s.Wait > 0:
		<-time.After(s.Wait * time.Millisecond)
	case s.Jump != 0:
		st.set(func() { st.jumped += s.Jump * time.Millisecond })
	case s.Lists != nil:
		st.set(func() { st.s.Lists = s.Lists })
	case s.Snapshot != nil:
		st.set(func() { st.s.Snapshot = s.Snapshot })
	case s.Lasting != nil:
		st.serve(s.In, func() { st.keys, st.age, st.slow = s.Lasting, s.Age, s.Slow*time.Millisecond })
	case s.Introspection != nil:
		st.serve(s.In, func() { st.s.Introspection = s.Introspection })
	case bytes.Contains(raw, []byte(`"always"`)):
		st.mu.Lock()
		st.always = s.Always
		held := slices.Clone(st.held)
		st.mu.Unlock()
		if s.Always != nil {
			for _, p := range held {
				p.answer <- s.Always
			}
		}
	default:
		return "unknown"
	}
	return ""
}

func (st *stage) check(s step) string {
	a := Access{Scope: s.Scope}
	if s.Store != nil {
		a.Store = func(*http.Request) string { return *s.Store }
	}
	switch p := s.OnStale.(type) {
	case string:
		a.OnStale = map[string]OnStale{"introspect": Introspect, "closed": Closed}[p]
	case float64:
		a.OnStale = Open(time.Duration(p) * time.Millisecond)
	}
	asked, reads := st.counts()
	began := time.Now()
	caller, err := st.v.Check(context.Background(), st.texts[s.Check], a)
	took := time.Since(began)
	got := "accepted"
	var e *Error
	if errors.As(err, &e) {
		got = map[Kind]string{BadToken: "invalid_token", Denied: "insufficient_scope", Unavailable: "unavailable"}[e.Kind]
	}
	if got != s.Want {
		return got + ", " + marshal(st.t, err)
	}
	if s.Within != nil && took > *s.Within*time.Millisecond {
		return "that took " + took.String()
	}
	synctest.Wait()
	nowAsked, nowReads := st.counts()
	if want := s.Asks; want != nil && nowAsked-asked != *want {
		return strconv.FormatInt(nowAsked-asked, 10) + " questions"
	}
	if want := s.Reads; want != nil && nowReads-reads != *want {
		return strconv.FormatInt(nowReads-reads, 10) + " lists read"
	}
	if s.Stores != nil && !slices.Equal(caller.Stores(s.Scope), s.Stores) {
		return strings.Join(caller.Stores(s.Scope), " ")
	}
	return ""
}

// poll waits for the poll that is held, where the follower pauses.
func (st *stage) poll() heldPoll {
	for range 200 {
		synctest.Wait()
		st.mu.Lock()
		held := slices.Clone(st.held)
		st.mu.Unlock()
		if len(held) > 0 {
			return held[0]
		}
		<-time.After(10 * time.Millisecond)
	}
	st.t.Fatal("it does not poll")
	panic("unreachable")
}

// RoundTrip serves the issuer.
func (st *stage) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.URL.Path
	id, secret, _ := r.BasicAuth()
	if (path == "/revocations" || r.Method == http.MethodPost) && (id != url.QueryEscape(st.w.ClientID) || secret != url.QueryEscape(st.w.ClientSecret)) {
		return respond(http.StatusUnauthorized, ""), nil
	}
	set := func(ids []string) *http.Response {
		var keys jose.JSONWebKeySet
		for _, id := range ids {
			k := st.w.Keys[id]
			keys.Keys = append(keys.Keys, jose.JSONWebKey{Key: k.Public().Key, KeyID: id})
		}
		return respond(http.StatusOK, marshal(st.t, keys))
	}
	switch {
	case path == "/.well-known/oauth-authorization-server":
		at := st.w.Issuer
		return respond(http.StatusOK, marshal(st.t, object{"issuer": at, "jwks_uri": at + "/jwks", "introspection_endpoint": at + "/introspect", "revocation_feed_endpoint": at + "/revocations"})), nil
	case path == "/jwks":
		return set(st.w.Access), nil
	case path == "/oauth/jwks/lasting":
		st.mu.Lock()
		resp, slow := set(st.keys), st.slow
		if st.age > 0 {
			resp.Header.Set("Age", strconv.Itoa(st.age))
		}
		st.mu.Unlock()
		<-time.After(slow)
		return resp, nil
	case path == "/introspect":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, err
		}
		resp, slow := st.introspect(form.Get("token"))
		<-time.After(slow)
		return resp, nil
	case strings.HasPrefix(path, "/status/"):
		st.mu.Lock()
		defer st.mu.Unlock()
		st.reads++
		list, ok := st.s.Lists[path[len("/status/"):]]
		if !ok {
			list.Status = http.StatusNotFound
		}
		if list.Status != 0 {
			return respond(list.Status, ""), nil
		}
		return respond(http.StatusOK, st.w.list(st.t, path[len("/status/"):], list)), nil
	case path == "/revocations":
		return st.revocations(r)
	}
	return respond(http.StatusNotFound, ""), nil
}

func (st *stage) introspect(token string) (resp *http.Response, slow time.Duration) {
	if token == "no-token" {
		return respond(http.StatusOK, `{"active":false}`), 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.asked++
	for name, text := range st.texts {
		answer := st.s.Introspection[name]
		status, refused := answer["status"].(float64)
		ms, _ := answer["slow"].(float64)
		slow = time.Duration(ms) * time.Millisecond
		switch {
		case text != token || answer == nil:
			continue
		case refused:
			return respond(int(status), ""), slow
		case answer["active"] == true:
			claims := st.w.claims(st.s.Tokens[name])
			about := object{"epoch": st.w.Epoch, "iseq": st.w.Seq}
			for _, member := range []string{"iss", "aud", "sub", "client_id", "jti", "grant_id", "scope", "rights"} {
				about[member] = claims[member]
			}
			answer = edited(edited(object{}, about), answer)
		}
		return respond(http.StatusOK, marshal(st.t, edited(answer, object{"slow": nil}))), slow
	}
	return respond(http.StatusServiceUnavailable, ""), 0
}

func (st *stage) revocations(r *http.Request) (*http.Response, error) {
	st.mu.Lock()
	switch {
	case st.always != nil:
		defer st.mu.Unlock()
		return st.reply(st.always), nil
	case !r.URL.Query().Has("after"):
		defer st.mu.Unlock()
		return st.reply(st.s.Snapshot), nil
	}
	p := heldPoll{r.URL.Query(), make(chan object)}
	st.held = append(st.held, p)
	st.mu.Unlock()
	defer st.set(func() {
		st.held = slices.DeleteFunc(st.held, func(other heldPoll) bool { return other.answer == p.answer })
	})
	select {
	case answer := <-p.answer:
		return st.reply(answer), nil
	case <-time.After(200 * time.Millisecond):
		return respond(http.StatusNoContent, ""), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (st *stage) reply(answer object) *http.Response {
	status := http.StatusOK
	if s, ok := answer["status"].(float64); ok {
		status = int(s)
	}
	text, ok := answer["text"].(string)
	if !ok && status == http.StatusOK {
		body := edited(object{"epoch": st.w.Epoch, "seq": st.w.Seq, "more": false, "changes": []any{}, "rules": []any{}}, answer)
		delete(body, "age")
		text = marshal(st.t, body)
	}
	resp := respond(status, text)
	if age, ok := answer["age"].(float64); ok {
		resp.Header.Set("Age", strconv.Itoa(int(age)))
	}
	return resp
}

func respond(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}
