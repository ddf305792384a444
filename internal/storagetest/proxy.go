package storagetest

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy stands between a server and its clients and can lose or delay what goes one way. A
// connection that has lost a byte stays silent in that direction for ever, for
// nothing behind the gap could be understood.
type Proxy struct {
	listener net.Listener
	to       string
	loses    [2]atomic.Bool
	delay    [2]atomic.Int64 // nanoseconds
	conns    sync.WaitGroup
	ctx      context.Context
	stop     context.CancelFunc
}

// Way is a direction through a [Proxy].
type Way int

// The ways.
const (
	Requests Way = 0
	Answers  Way = 1
)

// NewProxy listens on a free port of loopback and leads to an address.
func NewProxy(to string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, to: to}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.conns.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Lose says whether what goes this way is lost from now on.
func (p *Proxy) Lose(way Way, lost bool) { p.loses[way].Store(lost) }

// Delay holds back all that goes this way from now on, for so long or somewhat longer.
func (p *Proxy) Delay(way Way, d time.Duration) { p.delay[way].Store(int64(d)) }

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.conns.Go(func() {
			defer near.Close()
			far, err := net.Dial("tcp", p.to)
			if err != nil {
				return
			}
			defer far.Close()
			// Whoever hangs up first ends both: also the one who waits for nothing any more.
			ended, end := context.WithCancel(p.ctx)
			p.conns.Go(func() { defer end(); p.carry(far, near, Requests) })
			p.conns.Go(func() { defer end(); p.carry(near, far, Answers) })
			<-ended.Done()
		})
	}
}

func (p *Proxy) carry(to, from net.Conn, way Way) {
	silent := false
	for buffer := make([]byte, 64<<10); ; {
		n, err := from.Read(buffer)
		if d := p.delay[way].Load(); d > 0 && n > 0 {
			late := time.NewTimer(time.Duration(d))
			select {
			case <-late.C:
			case <-p.ctx.Done():
			}
		}
		if silent = silent || p.loses[way].Load(); !silent {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Close ends every connection.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.stop()
	p.conns.Wait()
	return err
}
