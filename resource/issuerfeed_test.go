package resource

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"context"

	"github.com/go-jose/go-jose/v4"
)

// askedIndex is a key of the list 1-0 whose value is ask.
const askedIndex = 5

// feed is an issuer's feed and lists as the wire says. Every event has a sequence number; those that concern nothing
// here are only counted.
type feed struct {
	issuer *issuer

	mu         sync.Mutex
	epoch, seq int64
	oldest     int64 // what is older is 410
	changes    []change
	rules      []ruleChange
	bits       map[string][]byte
	moved      chan struct{} // closed by the next event
	hold       time.Duration
	page       int // changes in one answer, 0 for all
	fail       http.HandlerFunc
	failList   http.HandlerFunc
	editList   object
	reports    [][]string
	acked      map[string]int64
	leaves     func(instance string) // called with who follows no more

	polls, lists atomic.Int64
}

func (f *feed) init(i *issuer, mux *http.ServeMux) {
	f.issuer, f.epoch, f.seq, f.hold = i, 1, 101, 200*time.Millisecond
	f.bits = map[string][]byte{"1-0": make([]byte, listBytes)}
	f.acked = map[string]int64{}
	f.put("1-0", askedIndex, ask)
	mux.HandleFunc("GET /revocations", f.serve)
	mux.HandleFunc("DELETE /revocations", func(w http.ResponseWriter, r *http.Request) {
		if !i.knows(w, r) {
			return
		}
		f.mu.Lock()
		leaves := f.leaves
		f.mu.Unlock()
		if leaves != nil {
			leaves(r.URL.Query().Get("instance"))
		}
		w.WriteHeader(204)
	})
	mux.HandleFunc("GET /status/{id}", f.serveList)
	mux.HandleFunc("POST /revocations/seen", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Grants []string }
		if !i.knows(w, r) {
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			w.WriteHeader(400)
			return
		}
		f.set(func() { f.reports = append(f.reports, body.Grants) })
		w.WriteHeader(204)
	})
}

func (f *feed) set(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *feed) now() (epoch, seq int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch, f.seq
}

func (f *feed) put(list string, idx int, v value) {
	b := &f.bits[list][idx/4]
	*b = *b&^(3<<(idx%4*2)) | byte(v)<<(idx%4*2)
}

// event moves the feed by one, with changes and rules in it. It returns the sequence number.
func (f *feed) event(rules []ruleChange, changes ...change) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	for _, c := range changes {
		c.seq = f.seq
		f.changes = append(f.changes, c)
		f.put(c.list, int(c.idx), c.value)
	}
	for _, r := range rules {
		r.seq = f.seq
		f.rules = append(f.rules, r)
	}
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
	return f.seq
}

// mark sets the value of a key.
func (f *feed) mark(idx int32, v value) int64 {
	return f.event(nil, change{list: "1-0", idx: idx, value: v})
}

// rule makes a rule that covers every key of now.
func (f *feed) rule(kind ruleKind, id string, v value) int64 {
	_, seq := f.now()
	return f.event([]ruleChange{{subject{kind, id}, rule{before: seq + 1, value: v}}})
}

// restore begins an epoch, in which only what the bits say is true.
func (f *feed) restore() {
	f.set(func() { f.epoch++; f.changes, f.rules, f.oldest = nil, nil, f.seq })
	f.event(nil)
}

func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	f.polls.Add(1)
	if !f.issuer.knows(w, r) {
		return
	}
	q := r.URL.Query()
	after, err1 := strconv.ParseInt(q.Get("after"), 10, 64)
	epoch, err2 := strconv.ParseInt(q.Get("epoch"), 10, 64)
	poll := q.Has("after")
	if q.Has("after") != q.Has("epoch") || poll && (err1 != nil || err2 != nil) || len(q.Get("instance")) < 16 {
		w.WriteHeader(400)
		return
	}
	f.mu.Lock()
	if poll {
		f.acked[q.Get("instance")] = after
	}
	if f.fail != nil {
		fail := f.fail
		f.mu.Unlock()
		fail(w, r)
		return
	}
	held := time.After(f.hold)
	for poll && epoch == f.epoch && after == f.seq {
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-held:
			f.mu.Lock()
			if after == f.seq && epoch == f.epoch {
				f.mu.Unlock()
				w.WriteHeader(204)
				return
			}
			f.mu.Unlock()
		case <-r.Context().Done():
			return
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if poll && (epoch != f.epoch || after < f.oldest || after > f.seq) {
		w.WriteHeader(410)
		return
	}
	seq, more := f.seq, false
	changes, rules := []object{}, []object{}
	if poll {
		for n, c := range f.changes {
			if c.seq <= after {
				continue
			}
			if f.page > 0 && len(changes) >= f.page && c.seq != f.changes[n-1].seq {
				seq, more = f.changes[n-1].seq, true
				break
			}
			changes = append(changes, object{"seq": c.seq, "list": c.list, "idx": c.idx, "value": c.value})
		}
	}
	latest := map[subject]int64{}
	for _, c := range f.rules {
		latest[c.subject] = c.seq
	}
	for _, c := range f.rules {
		if poll && c.seq > after && c.seq <= seq || !poll && latest[c.subject] == c.seq && c.value != valid {
			rules = append(rules, object{"seq": c.seq, "kind": c.kind, "id": c.id, "before": c.before, "value": c.value})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(object{"epoch": f.epoch, "seq": seq, "more": more, "changes": changes, "rules": rules})
}

func (f *feed) serveList(w http.ResponseWriter, r *http.Request) {
	f.lists.Add(1)
	f.mu.Lock()
	if fail := f.failList; fail != nil {
		f.mu.Unlock()
		fail(w, r)
		return
	}
	defer f.mu.Unlock()
	id := r.PathValue("id")
	bits := f.bits[id]
	if bits == nil {
		w.WriteHeader(404)
		return
	}
	w.Header().Set("Content-Type", "application/statuslist+jwt")
	fmt.Fprint(w, f.signed(id, bits, f.editList))
}

// signed is a list as it is served; it needs f.mu.
func (f *feed) signed(id string, bits []byte, edit object) string {
	claims := edited(object{
		"iss": f.issuer.URL, "sub": f.issuer.URL + "/status/" + id, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 3600, "ttl": 60,
		"status_list": object{"bits": 2, "lst": pack(bits)}, "epoch": f.epoch, "seq": f.seq,
	}, edit)
	return signNow(f.issuer.accessKey, "access-1", "statuslist+jwt", claims)
}

func pack(bits []byte) string {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	z.Write(bits)
	z.Close()
	return base64.RawURLEncoding.EncodeToString(b.Bytes())
}

func signNow(key any, kid, typ string, claims object) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		panic(err)
	}
	return must(must(signer.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

// wire is a network that carries requests to a handler, in a bubble or not.
type wire struct {
	mu      sync.Mutex
	hosts   map[string]http.Handler // by host
	there   time.Duration           // how long a request takes
	back    time.Duration           // and an answer
	silent  map[string]bool         // hosts whose packets are dropped
	refused map[string]bool         // hosts that nobody listens on
	sent    []string
}

var errRefused = errors.New("connection refused")

func (w *wire) set(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	w.mu.Lock()
	handler, there, back, silent, gone := w.hosts[host], w.there, w.back, w.silent[host], w.refused[host]
	w.sent = append(w.sent, host+" "+r.URL.Path)
	w.mu.Unlock()
	ctx := r.Context()
	wait := func(d time.Duration) error {
		if d == 0 {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
	switch {
	case gone || handler == nil:
		return nil, errRefused
	case silent:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := wait(there); err != nil {
		return nil, err
	}
	done, rec := make(chan struct{}), httptest.NewRecorder()
	go func() { handler.ServeHTTP(rec, r.Clone(ctx)); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := wait(back); err != nil {
		return nil, err
	}
	w.mu.Lock()
	silent = w.silent[host]
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return rec.Result(), nil
}

// wired is a Verifier that reaches its issuer by a wire.
func (i *issuer) wired(t testing.TB, edit ...func(*Config)) (*Verifier, *wire) {
	t.Helper()
	w := &wire{hosts: map[string]http.Handler{"auth.example": i.handler}, silent: map[string]bool{}, refused: map[string]bool{}}
	return i.over(t, w, newClock(), edit...), w
}

func (i *issuer) over(t testing.TB, w *wire, c clock, edit ...func(*Config)) *Verifier {
	t.Helper()
	cfg := i.config()
	for _, e := range edit {
		e(&cfg)
	}
	for _, node := range cfg.Nodes {
		w.hosts[node[len("https://"):]] = cmp.Or(w.hosts[node[len("https://"):]], i.handler)
	}
	v, err := start(context.Background(), cfg, c, &http.Client{Transport: w}, &http.Client{Transport: w})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	i.asked.Store(0)
	return v
}

// held issues a lasting key that prints its rights, with a value in the list 1-0.
func (i *issuer) held(t testing.TB, idx int, edit object) string {
	all := object{"iseq": 100, "jti": fmt.Sprint("key-", idx), "status": object{"status_list": object{"idx": idx, "uri": i.URL + "/status/1-0"}}}
	maps.Copy(all, edit)
	return i.lasting(t, all)
}

// loaded waits until a Verifier answers for a key without asking.
func (i *issuer) loaded(t testing.TB, v *Verifier, token string) {
	t.Helper()
	for range 1000 {
		before := i.asked.Load()
		if _, err := v.Check(context.Background(), token, Access{}); err == nil && i.asked.Load() == before {
			i.asked.Store(0)
			return
		}
		passes(time.Millisecond)
	}
	t.Fatal("the list is never loaded")
}
