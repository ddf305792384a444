package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// intake bounds what a node takes in, so that no number of clients makes it fall
// over: open connections, requests in work, and requests that are large. Whoever
// finds no room is told to come again (503 with Retry-After) and costs little.
//
// A request is in work only once all of it has come and until its answer begins.
// Who sends slowly or reads slowly holds a connection, never a place in work; and
// when connections run out, the one gives way that has been at it for longest, if none was refused already.
// So it is with the places for large requests.
type intake struct {
	connsMax int
	work     working
	kept     working       // for what verifiers ask, so that what others ask takes none of it
	shed     atomic.Uint64 // requests and connections that found no room

	largeMax    int
	wholeWithin time.Duration // for a large body to come
	readWithin  time.Duration // for the answer to a large request to be read, before its place is wanted
	largeMu     sync.Mutex
	large       []*conn // that hold a place for a large request, the longest first

	mu    sync.Mutex
	conns map[*conn]struct{}
}

const (
	// An idle connection takes some 10 KB, one that receives up to smallMost more.
	connsMost = 4096
	// As many are answered within a quarter of a second, at 4,000 requests a second.
	workMost = 1024
	// A poll is in work for a moment at its beginning and one at its end, not while it is held.
	keptMost = 256
	// smallMost is the size of a head, and of a body, that needs no place for large
	// ones: no honest request has a longer head, and few a longer body.
	smallMost = 16 << 10
	// A head of 1 MB takes about 5 MB until its page is drawn (measured).
	largeMost = 12
	// wholeMost is what is read of a body before it is in work: more than any handler takes.
	wholeMost = 1 << 20
	// wholeWithin is enough for the largest, 640 KB of what an API saw, at 1 Mbit/s.
	wholeWithin = 5 * time.Second
	// readWithin is enough for who reads: his answer is under way, and is not cut off for
	// the sake of another.
	readWithin = time.Second
)

func newIntake() *intake {
	return &intake{connsMax: connsMost, work: working{most: workMost}, kept: working{most: keptMost}, largeMax: largeMost, wholeWithin: wholeWithin, readWithin: readWithin, conns: map[*conn]struct{}{}}
}

// working is places in work.
type working struct {
	most  int64
	taken atomic.Int64
}

func (w *working) take() bool {
	if w.taken.Add(1) > w.most {
		w.taken.Add(-1)
		return false
	}
	return true
}

// takeWork takes a place in work, or returns nil. What verifiers ask has those of all
// as well.
func (in *intake) takeWork(verifier bool) *working {
	switch {
	case verifier && in.kept.take():
		return &in.kept
	case in.work.take():
		return &in.work
	}
	return nil
}

// What a connection is doing. It may be closed for the sake of another unless a
// request of its own is in work; one that was refused before others.
const (
	isIdle      int32 = iota
	isReceiving       // a head
	isSending         // a body, which the front reads
	isInWork
	isAnswering
	isRefused // what it still sends is thrown away until it is closed
	isGone
)

// conn is a connection of which the intake knows what it is doing.
type conn struct {
	net.Conn
	in    *intake
	doing atomic.Int32
	since atomic.Int64 // when it began that, in nanoseconds since start
	head  int          // bytes of the head so far; net/http reads in one goroutine at a time
	large atomic.Bool  // holds a place for large requests; written under largeMu
	drain sync.Once
	once  sync.Once
}

var start = time.Now()

// begin notes what the connection does from now on, unless it was closed or refused
// meanwhile.
func (c *conn) begin(doing int32) bool {
	for {
		was := c.doing.Load()
		if was == isGone || was == isRefused {
			return false
		}
		if c.doing.CompareAndSwap(was, doing) {
			c.since.Store(int64(time.Since(start)))
			return true
		}
	}
}

// Read refuses a head that is large when there is no place for one.
func (c *conn) Read(b []byte) (int, error) {
	if c.doing.Load() == isRefused {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b)
	switch c.doing.Load() {
	case isIdle:
		if n > 0 {
			c.begin(isReceiving)
		}
	case isReceiving:
	case isRefused: // meanwhile, for the sake of another
		return 0, io.EOF
	default:
		return n, err
	}
	c.head += n
	if c.head <= smallMost || c.large.Load() {
		return n, err
	}
	if c.takeLarge() {
		return n, err
	}
	if c.begin(isRefused) {
		c.turnAway()
	}
	return 0, io.EOF
}

// Write keeps from who was refused what net/http says of a request that ended too soon.
func (c *conn) Write(b []byte) (int, error) {
	if c.doing.Load() == isRefused {
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// noRoom is the answer to a request that was not read far enough to have a dialect.
const noRoom = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// turnAway writes the answer of a connection that is given up.
func (c *conn) turnAway() {
	c.in.shed.Add(1)
	c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // who reads what he was sent before has room for it at once
	io.WriteString(c.Conn, noRoom)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// Close closes the connection. Of one that was refused it reads for a while what is
// still sent, or the answer would be lost with that; net/http has forgotten it by then,
// and what it had read of the request.
func (c *conn) Close() error {
	if c.doing.Load() != isRefused {
		return c.close()
	}
	c.drain.Do(func() {
		go func() {
			defer c.close()
			c.limit(5 * time.Second)
			io.Copy(io.Discard, c.Conn)
		}()
	})
	return nil
}

// limit sets how long what is read from now on may take; 0: as long as it does.
func (c *conn) limit(d time.Duration) {
	var until time.Time
	if d != 0 {
		until = time.Now().Add(d)
	}
	c.Conn.SetReadDeadline(until)
}

// close closes the connection and leaves its places.
func (c *conn) close() error {
	c.once.Do(func() {
		c.doing.Store(isGone)
		c.in.largeMu.Lock() // it may be taking a place this moment
		c.in.without(c)
		c.in.largeMu.Unlock()
		c.in.mu.Lock()
		delete(c.in.conns, c)
		c.in.mu.Unlock()
	})
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer before it closes the connection.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// takeLarge takes a place for a large request. Where there is none, the one gives way
// that has held his for longest, unless his request is in work, or his answer has just
// begun. Who is closed gets none, and who is closed meanwhile leaves it.
func (c *conn) takeLarge() bool {
	in := c.in
	in.largeMu.Lock()
	defer in.largeMu.Unlock()
	switch {
	case c.large.Load():
		return true
	case c.doing.Load() == isGone, len(in.large) >= in.largeMax && !slices.ContainsFunc(in.large, (*conn).makeWay):
		return false
	}
	in.large = append(in.large, c)
	c.large.Store(true)
	return true
}

// makeWay takes the place of c, and refuses it, unless its request is in work or it may
// be reading its answer. The caller holds largeMu.
func (c *conn) makeWay() bool {
	was := c.doing.Load()
	switch {
	case (was == isReceiving || was == isSending) && c.doing.CompareAndSwap(was, isRefused):
		c.limit(-1)     // who reads the request hears of it
		go c.turnAway() // nobody else waits for a client that does not read
	case was == isAnswering && time.Since(start)-time.Duration(c.since.Load()) > c.in.readWithin && c.doing.CompareAndSwap(was, isGone):
		go c.close()
	default:
		return false
	}
	c.in.without(c)
	return true
}

// without takes the place of c. The caller holds largeMu.
func (in *intake) without(c *conn) {
	if c.large.CompareAndSwap(true, false) {
		i := slices.Index(in.large, c)
		in.large = slices.Delete(in.large, i, i+1)
	}
}

func (c *conn) leaveLarge() {
	if !c.large.Load() { // mostly
		return
	}
	c.in.largeMu.Lock()
	defer c.in.largeMu.Unlock()
	c.in.without(c)
}

// guard makes a server take in no more than there is room for, and returns the
// listener to serve.
func (in *intake) guard(s *http.Server, l net.Listener) net.Listener {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.ConnState = func(nc net.Conn, state http.ConnState) {
		if c := nc.(*conn); state == http.StateIdle {
			c.leaveLarge()
			c.head = 0
			c.begin(isIdle)
		}
	}
	return listener{l, in}
}

type connKey struct{}

type listener struct {
	net.Listener
	in *intake
}

// Accept takes a connection, and closes another where there are too many.
func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, in: l.in}
	c.since.Store(int64(time.Since(start)))
	l.in.mu.Lock()
	full := len(l.in.conns) >= l.in.connsMax
	var oldest *conn
	if full {
		oldest = l.in.oldest()
	}
	l.in.conns[c] = struct{}{}
	l.in.mu.Unlock()
	if full {
		l.in.giveWay(oldest, c)
	}
	return c, nil
}

// looked is how many connections are compared to find an old one. A map is walked
// from a random place, so among them is one of the oldest twentieth with 96 %.
const looked = 64

func (in *intake) oldest() (found *conn) {
	n := 0
	for c := range in.conns {
		if n++; n > looked {
			break
		}
		switch doing := c.doing.Load(); {
		case doing == isRefused:
			return c
		case doing != isInWork && doing != isGone && (found == nil || c.since.Load() < found.since.Load()):
			found = c
		}
	}
	return found
}

// giveWay closes old in favour of fresh; or fresh, if all others are in work.
func (in *intake) giveWay(old, fresh *conn) {
	if old == nil {
		old = fresh
	}
	was := old.doing.Load()
	if was == isInWork || was == isGone || !old.doing.CompareAndSwap(was, isGone) {
		return // its turn came this moment: one more than there may be, for that long
	}
	go func() { // nobody else waits for a client that does not read
		if was == isReceiving || was == isSending || old == fresh {
			old.turnAway()
		}
		old.close()
	}()
}

// wait returns when no connection is left, or ctx has ended. Meanwhile it closes
// those that were idle for longer than idle since from.
func (in *intake) wait(ctx context.Context, from time.Time, idle time.Duration) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		left, over := in.over(from, idle)
		if left == 0 {
			return
		}
		for _, c := range over {
			if c.doing.CompareAndSwap(isIdle, isGone) {
				c.close()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// over lists which of the connections that are left were idle for longer than idle
// since from.
func (in *intake) over(from time.Time, idle time.Duration) (left int, over []*conn) {
	since := from.Sub(start)
	in.mu.Lock()
	defer in.mu.Unlock()
	for c := range in.conns {
		if c.doing.Load() == isIdle && time.Since(start)-max(since, time.Duration(c.since.Load())) > idle {
			over = append(over, c)
		}
	}
	return len(in.conns), over
}

// turn is one request's time in work.
type turn struct {
	in   *intake
	c    *conn    // nil in tests that have no connection
	held *working // where it has a place
}

// attend serves a request that needs no place.
func (in *intake) attend(r *http.Request, t *turn) {
	t.in = in
	t.c, _ = r.Context().Value(connKey{}).(*conn)
	t.move(isInWork)
}

// admit waits for the whole request and then takes a place in work for it. It reports
// false if there is none, or no place for a request as large as this, or if that did
// not come as soon as it must.
func (in *intake) admit(r *http.Request, t *turn, verifier bool) bool {
	t.in = in
	t.c, _ = r.Context().Value(connKey{}).(*conn)
	fits := true
	if r.Body != nil && r.Body != http.NoBody {
		t.move(isSending)
		fits = t.receive(r)
	}
	if fits {
		t.held = in.takeWork(verifier)
	}
	if t.held == nil {
		in.shed.Add(1)
		t.move(isAnswering)
		return false
	}
	t.move(isInWork)
	return true
}

// receive reads a body whole, a large one if there is a place for it and it comes soon.
// What could not be read the handler finds out as it would have.
func (t *turn) receive(r *http.Request) bool {
	body, err := begun(r)
	switch {
	case err == nil && len(body) <= smallMost:
		r.Body = received{bytes.NewReader(body), r.Body}
		return true
	case err == nil && t.c != nil:
		t.c.limit(t.in.wholeWithin) // before it can be told to make way, which has its own limit
		if !t.c.takeLarge() {
			return false
		}
		if err = whole(r, &body); errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		t.c.limit(0)
	}
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failing{err}
	}
	r.Body = received{io.MultiReader(bytes.NewReader(body), rest), r.Body}
	return true
}

// whole reads on in a body, to its end or beyond what any handler takes.
func whole(r *http.Request, body *[]byte) error {
	all := bytes.NewBuffer(*body)
	if r.ContentLength > 0 {
		all.Grow(int(min(r.ContentLength, wholeMost)) - all.Len() + bytes.MinRead)
	}
	_, err := io.Copy(all, io.LimitReader(r.Body, int64(wholeMost-all.Len())))
	*body = all.Bytes()
	return err
}

// begun reads a body up to one byte more than is small. Of one whose length the head
// has told, the room is that from the first.
func begun(r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > smallMost {
		return io.ReadAll(io.LimitReader(r.Body, smallMost+1))
	}
	first := make([]byte, r.ContentLength)
	n, err := io.ReadFull(r.Body, first)
	return first[:n], err
}

type received struct {
	io.Reader
	io.Closer
}

// WriteTo lets io.Copy do without a buffer between.
func (b received) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, b.Reader) }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// answer ends the time in work: what remains is for the client to read.
func (t *turn) answer() {
	if t.held != nil {
		t.held.taken.Add(-1)
		t.held = nil
		t.move(isAnswering)
	}
}

// end leaves whatever the request still holds. answer comes last: it panics where the
// connection was closed.
func (t *turn) end() {
	if t.c != nil {
		t.c.leaveLarge()
	}
	t.answer()
}

func (t *turn) move(doing int32) {
	if t.c != nil && !t.c.begin(doing) {
		panic(http.ErrAbortHandler) // closed for the sake of another
	}
}
