package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// taken is a node's front, over real connections, whose handler tells each request
// and answers when it may.
type taken struct {
	*testing.T
	*front
	address string
	came    chan string   // the path of a request that is in work
	may     chan struct{} // closed: handlers answer
}

func takeIn(t *testing.T, set func(*intake)) *taken {
	k := &taken{T: t, came: make(chan string, 100), may: make(chan struct{})}
	k.front = testNode(t, io.Discard).front
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.came <- r.URL.Path
		io.Copy(io.Discard, r.Body)
		if r.URL.Path != "/free" {
			<-k.may
		}
		fmt.Fprint(w, "done")
	})
	k.machines, k.people = h, h
	set(k.intake)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpServer(k.front, slog.New(slog.DiscardHandler))
	go s.Serve(k.intake.guard(s, l))
	t.Cleanup(func() {
		select {
		case <-k.may:
		default:
			close(k.may)
		}
		s.Close()
	})
	k.address = l.Addr().String()
	return k
}

// dial opens a connection and sends text over it.
func (k *taken) dial(text string) (net.Conn, *bufio.Reader) {
	k.Helper()
	c, err := net.Dial("tcp", k.address)
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		k.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func (k *taken) answer(r *bufio.Reader) answer {
	k.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		k.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		k.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

func (k *taken) busy(a answer) {
	k.Helper()
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "1" {
		k.Errorf("%d %s, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
	}
}

func (k *taken) works(path string) {
	k.Helper()
	select {
	case got := <-k.came:
		if got != path {
			k.Fatalf("%s is in work, want %s", got, path)
		}
	case <-time.After(10 * time.Second):
		k.Fatalf("%s never came to be in work", path)
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n" }

// Who finds no room is told in his dialect when to come again; who asks how the node
// is always hears.
func TestIntake_NoRoomInWork(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.work.most, in.kept.most = 2, 0 })
	var waiting []*bufio.Reader
	for range 2 {
		_, r := k.dial(get("/page"))
		k.works("/page")
		waiting = append(waiting, r)
	}
	for path, want := range map[string]string{
		"/oauth2/11111111-2222-4333-8444-555555555555/exchange/x": `{"success":false,"message":"The server is busy. Try again in a moment.","code":"InternalServerError","data":null}`,
		"/oauth/introspect":  `{"error":"temporarily_unavailable","error_description":"The server is busy. Try again in a moment."}`,
		"/oauth//introspect": `{"error":"temporarily_unavailable","error_description":"The server is busy. Try again in a moment."}`,
		"/sign-in":           "Very many people are here right now",
	} {
		_, r := k.dial(get(path))
		a := k.answer(r)
		k.busy(a)
		if !strings.Contains(a.body, want) {
			t.Errorf("%s: %s", path, a.body)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		_, r := k.dial(get(path))
		if a := k.answer(r); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	close(k.may)
	for _, r := range waiting {
		if a := k.answer(r); a.status != http.StatusOK || a.body != "done" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for range 3 { // the places are free again
		_, r := k.dial(get("/free"))
		if a := k.answer(r); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if n := k.intake.work.taken.Load(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// What verifiers ask has room that nobody else takes, and where that is full the rest of it.
func TestIntake_RoomForVerifiers(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.work.most, in.kept.most = 2, 2 })
	var waiting []*bufio.Reader
	work := func(path string) {
		t.Helper()
		_, r := k.dial(get(path))
		k.works(path)
		waiting = append(waiting, r)
	}
	refused := func(path string) {
		t.Helper()
		_, r := k.dial(get(path))
		k.busy(k.answer(r))
	}
	work("/oauth/introspect")
	work("/revocations")
	work("/status/1")
	work("/oauth/token")
	refused("/oauth/token")
	refused("/revocations")
	for range 4 {
		k.may <- struct{}{}
	}
	for _, r := range waiting {
		k.answer(r)
	}
	waiting = nil
	work("/oauth/token")
	work("/oauth/authorize")
	refused("/sign-in")
	work("/revocations")
	work("/oauth/jwks")
	refused("/revocations/seen")
	close(k.may)
	for _, r := range waiting {
		if a := k.answer(r); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if n := k.intake.work.taken.Load() + k.intake.kept.taken.Load(); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

const slowPost = "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\nabc"

// A body that comes slowly takes no place in work.
func TestIntake_SlowBody(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.work.most = 1 })
	close(k.may)
	slow, r := k.dial(slowPost)
	for range 3 {
		_, r := k.dial(get("/free"))
		if a := k.answer(r); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
		k.works("/free")
	}
	if len(k.came) > 0 {
		t.Error("the slow request is in work before all of it came")
	}
	io.WriteString(slow, "defghij")
	if a := k.answer(r); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// An answer that is read slowly takes no place in work, however it begins.
func TestIntake_SlowReader(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"body":   func(w http.ResponseWriter) { w.Write([]byte("x")) },
		"status": func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
	} {
		t.Run(name, func(t *testing.T) {
			k := takeIn(t, func(in *intake) { in.work.most = 1 })
			began := make(chan struct{})
			ended := atomic.Bool{}
			k.people = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/large" {
					defer ended.Store(true)
					begin(w)
					close(began)
					w.Write(bytes.Repeat([]byte("x"), 64<<20))
				}
			})
			k.dial(get("/large"))
			<-began
			for range 3 {
				_, r := k.dial(get("/free"))
				if a := k.answer(r); a.status != http.StatusOK {
					t.Fatalf("%d %s", a.status, a.body)
				}
			}
			if ended.Load() {
				t.Error("the reader was not slow")
			}
		})
	}
}

// When connections run out, one that has been at it for longest gives way, and is
// told so if it had asked for something; one whose request is in work does not.
func TestIntake_OldestConnectionGivesWay(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.connsMax = 4 })
	_, working := k.dial(get("/working"))
	k.works("/working")
	begin := func(text string, doing int32, n int) *bufio.Reader {
		t.Helper()
		_, r := k.dial(text)
		if err := until(10*time.Second, func() bool { return k.intake.count(doing) == n }); err != nil {
			t.Fatalf("%d connections do %d, want %d", k.intake.count(doing), doing, n)
		}
		return r
	}
	head := begin("GET /slow HTT", isReceiving, 1)
	body := begin(slowPost, isSending, 1)
	idle := begin("", isIdle, 1)
	k.busy(k.answer(func() *bufio.Reader { begin("", isIdle, 2); return head }()))
	k.busy(k.answer(func() *bufio.Reader { begin("", isIdle, 3); return body }()))
	_, r := k.dial(get("/free"))
	if a := k.answer(r); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	if b, err := idle.ReadByte(); err != io.EOF {
		t.Errorf("the oldest idle connection reads %q, %v", b, err)
	}
	close(k.may)
	if a := k.answer(working); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// Who was refused for a large head and goes on sending gives way to everybody else.
func TestIntake_RefusedConnectionGivesWay(t *testing.T) {
	const most = 4
	k := takeIn(t, func(in *intake) { in.connsMax, in.largeMax = most, 0 })
	k.dial("") // has been there for longer
	for n := range most - 1 {
		_, r := k.dial("GET /free?state=" + strings.Repeat("s", smallMost))
		k.busy(k.answer(r))
		if got := k.intake.count(isRefused); got != n+1 {
			t.Fatalf("%d are refused, want %d", got, n+1)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/free"} {
		_, r := k.dial(get(path))
		if a := k.answer(r); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if err := until(10*time.Second, func() bool { return k.intake.count(isIdle) == most }); err != nil {
		t.Errorf("%d of %d that were not refused are still there", k.intake.count(isIdle), most)
	}
}

// count is how many connections do something.
func (in *intake) count(doing int32) (n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for c := range in.conns {
		if c.doing.Load() == doing {
			n++
		}
	}
	return n
}

// When every connection is in work, the new one is told to come again.
func TestIntake_AllConnectionsInWork(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.connsMax = 2 })
	for range 2 {
		k.dial(get("/working"))
		k.works("/working")
	}
	_, r := k.dial("")
	k.busy(k.answer(r))
}

// holding is how many places for large requests are taken.
func (in *intake) holding() int {
	in.largeMu.Lock()
	defer in.largeMu.Unlock()
	return len(in.large)
}

func (k *taken) hold(n int) {
	k.Helper()
	if err := until(10*time.Second, func() bool { return k.intake.holding() == n }); err != nil {
		k.Fatalf("%d places for large requests are taken, want %d", k.intake.holding(), n)
	}
}

// Of requests with a large head only so many may be in work at once; others go on beside
// them.
func TestIntake_LargeHeads(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.largeMax = 1 })
	long := func(path string) string { return get(path + "?state=" + strings.Repeat("s", 1<<20)) }
	first, r := k.dial(long("/large"))
	k.works("/large")
	_, second := k.dial(long("/free"))
	k.busy(k.answer(second))
	_, small := k.dial(get("/free"))
	if a := k.answer(small); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	close(k.may)
	if a := k.answer(r); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	// And once more over the same connection, which had to leave its place.
	k.hold(0)
	io.WriteString(first, long("/free"))
	if a := k.answer(r); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	k.hold(0)
	last, _ := k.dial(long("/free")[:100<<10])
	k.hold(1)
	last.Close()
	k.hold(0)
}

const stalled = "POST /stalled HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 61440\r\n\r\n"

// Who stops in the midst of a large request keeps nobody out: he is not in work, and the
// one that has held a place for longest gives way and is told so.
func TestIntake_StalledLargeRequestsGiveWay(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.largeMax, in.wholeWithin = 3, time.Minute })
	_, working := k.dial(get("/working?state=" + strings.Repeat("s", smallMost)))
	k.works("/working")
	part := strings.Repeat("s", smallMost+1<<10)
	_, body := k.dial(stalled + part)
	k.hold(2)
	_, head := k.dial("GET /stalled?state=" + part)
	k.hold(3)
	if n := k.intake.work.taken.Load(); n != 1 {
		t.Errorf("%d requests are in work, want 1", n)
	}
	whole := strings.Replace(strings.Replace(stalled, "61440", "20480", 1), "/stalled", "/free", 1) + strings.Repeat("b", 20480)
	for _, old := range []*bufio.Reader{body, head} {
		kept, r := k.dial(whole)
		if a := k.answer(r); a.status != http.StatusOK {
			t.Errorf("a large request that came whole: %d %s", a.status, a.body)
		}
		k.works("/free")
		k.busy(k.answer(old))
		k.hold(2)
		// Another takes what this one left, so that the next has to ask.
		io.WriteString(kept, stalled+part)
		k.hold(3)
	}
	close(k.may)
	if a := k.answer(working); a.status != http.StatusOK {
		t.Errorf("what was in work: %d %s", a.status, a.body)
	}
}

// Who reads the answer to a large request slowly gives way, too.
func TestIntake_SlowReaderOfALargeRequestGivesWay(t *testing.T) {
	for _, slow := range []bool{true, false} {
		k := takeIn(t, func(in *intake) {
			in.largeMax = 1
			if in.readWithin = time.Hour; slow {
				in.readWithin = -1
			}
		})
		const size = 64 << 20
		began := make(chan struct{})
		k.people = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				w.WriteHeader(http.StatusOK)
				close(began)
				w.Write(bytes.Repeat([]byte("x"), size))
			}
		})
		query := "?state=" + strings.Repeat("s", smallMost)
		_, first := k.dial(get("/large" + query))
		<-began
		_, r := k.dial(get("/free" + query))
		a := k.answer(r)
		if slow {
			if a.status != http.StatusOK {
				t.Errorf("%d %s", a.status, a.body)
			}
			continue
		}
		// Who reads has his answer, and the other is to come again.
		k.busy(a)
		if a := k.answer(first); a.status != http.StatusOK || len(a.body) != size {
			t.Errorf("%d, %d bytes", a.status, len(a.body))
		}
	}
}

// A large body that does not come is refused soon, though nobody wants its place.
func TestIntake_LargeBodyThatDoesNotCome(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.wholeWithin = 10 * time.Millisecond })
	_, r := k.dial(strings.Replace(stalled, "/stalled", "/oauth/token", 1) + strings.Repeat("b", smallMost+1))
	a := k.answer(r)
	k.busy(a)
	if !strings.Contains(a.body, "temporarily_unavailable") {
		t.Error(a.body)
	}
	k.hold(0)
}

// Of large bodies, too.
func TestIntake_LargeBodies(t *testing.T) {
	k := takeIn(t, func(in *intake) { in.largeMax = 1 })
	post := func(path string, n int) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n", path, n)
	}
	_, first := k.dial(post("/large", 100<<10) + strings.Repeat("b", 100<<10))
	k.works("/large")
	_, second := k.dial(post("/oauth/token", 100<<10) + strings.Repeat("b", 100<<10))
	a := k.answer(second)
	k.busy(a)
	if !strings.Contains(a.body, "temporarily_unavailable") {
		t.Error(a.body)
	}
	_, small := k.dial(post("/free", smallMost) + strings.Repeat("b", smallMost))
	if a := k.answer(small); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	close(k.may)
	if a := k.answer(first); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
	k.hold(0)
}

// Whose connection is closed for the sake of another while he takes a place leaves it.
func TestIntake_ClosedConnectionLeavesPlaces(t *testing.T) {
	in := newIntake()
	left := func(what string) {
		t.Helper()
		if large, work := in.holding(), in.work.taken.Load()+in.kept.taken.Load(); large != 0 || work != 0 {
			t.Errorf("%s: %d places for large requests and %d in work are still taken", what, large, work)
		}
	}
	theirs, ours := net.Pipe()
	defer theirs.Close()
	c := &conn{Conn: ours, in: in}
	r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader(strings.Repeat("b", smallMost)), closing{c}))
	r = r.WithContext(context.WithValue(r.Context(), connKey{}, c))
	func() {
		defer func() {
			if got := recover(); got != http.ErrAbortHandler {
				t.Errorf("it ends by %v", got)
			}
		}()
		var x turn
		defer x.end() // as the front does
		in.admit(r, &x, false)
	}()
	left("a large body")
	if c.takeLarge() { // Read had seen that it was there
		t.Error("a connection that is closed has a place")
	}
	left("a large head")
}

// closing is the last byte of a body, with which its connection is closed.
type closing struct{ c *conn }

func (b closing) Read(p []byte) (int, error) {
	b.c.Close()
	p[0] = 'b'
	return 1, nil
}

// A handler reads the body that was sent, whatever its size, and hears of one that
// stopped.
func TestIntake_BodiesArriveWhole(t *testing.T) {
	in := newIntake()
	_, ours := net.Pipe()
	c := &conn{Conn: ours, in: in}
	defer c.Close()
	for _, n := range []int{0, 1, smallMost - 1, smallMost, smallMost + 1, 200 << 10, wholeMost, wholeMost + 1, 2 * wholeMost} {
		sent := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
		r := httptest.NewRequest("POST", "/", bytes.NewReader(sent))
		r = r.WithContext(context.WithValue(r.Context(), connKey{}, c))
		var x turn
		if !in.admit(r, &x, false) {
			t.Fatal("no place")
		}
		got, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes sent, %d read, %v", n, len(got), err)
		}
		x.end()
	}
	r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("abc"), failing{io.ErrUnexpectedEOF}))
	var x turn
	if !in.admit(r, &x, false) {
		t.Fatal("no place")
	}
	if got, err := io.ReadAll(r.Body); string(got) != "abc" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v", got, err)
	}
}
