package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// drivers are a fixed number of keep-alive connections to one or more servers. Each
// sends its next request when the answer to the last one is there. They speak
// HTTP/1.1 themselves, because the generator shares the machine with what it
// measures.
type drivers []*driver

type driver struct {
	addr string
	conn net.Conn
	r    *bufio.Reader
}

const answerLimit = 30 * time.Second

// dial opens n connections, in turn to each of addrs.
func dial(n int, addrs ...string) (drivers, error) {
	d := make(drivers, n)
	for i := range d {
		d[i] = &driver{addr: addrs[i%len(addrs)]}
		if err := d[i].connect(); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *driver) connect() (err error) {
	d.conn, err = net.DialTimeout("tcp", d.addr, answerLimit)
	if err == nil {
		d.r = bufio.NewReader(d.conn)
	}
	return err
}

func (d drivers) close() {
	for _, one := range d {
		if one != nil && one.conn != nil {
			one.conn.Close()
		}
	}
}

// outcome is what a run of requests came to.
type outcome struct {
	took      time.Duration
	latencies []time.Duration // sorted
	errors    int
	first     error    // one of them
	bodies    [][]byte // by request, where they were asked for
}

func (o outcome) quantile(q float64) time.Duration {
	return o.latencies[min(len(o.latencies)-1, int(q*float64(len(o.latencies))))]
}

// run sends every request once. Whatever is not answered with 200, and with what an
// answer must hold, is an error.
func (d drivers) run(requests [][]byte, keep bool, must string) outcome {
	o := outcome{latencies: make([]time.Duration, len(requests))}
	if keep {
		o.bodies = make([][]byte, len(requests))
	}
	var next atomic.Int64
	var failed sync.Mutex
	var all sync.WaitGroup
	began := time.Now()
	for _, one := range d {
		all.Go(func() {
			must := []byte(must)
			var body bytes.Buffer
			for i := int(next.Add(1)) - 1; i < len(requests); i = int(next.Add(1)) - 1 {
				sent := time.Now()
				err := one.ask(requests[i], &body, must)
				o.latencies[i] = time.Since(sent)
				if err != nil {
					failed.Lock()
					o.errors++
					o.first = err
					failed.Unlock()
				} else if keep {
					o.bodies[i] = bytes.Clone(body.Bytes())
				}
			}
		})
	}
	all.Wait()
	o.took = time.Since(began)
	slices.Sort(o.latencies)
	return o
}

func (d *driver) ask(request []byte, body *bytes.Buffer, must []byte) error {
	if d.conn == nil {
		if err := d.connect(); err != nil {
			return err
		}
	}
	resp, err := d.exchange(request, body)
	if err != nil || resp.Close {
		d.conn.Close()
		d.conn = nil
	}
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(body.Bytes(), must)) {
		err = fmt.Errorf("%s: %.200s", resp.Status, body)
	}
	return err
}

func (d *driver) exchange(request []byte, body *bytes.Buffer) (*http.Response, error) {
	d.conn.SetDeadline(time.Now().Add(answerLimit))
	if _, err := d.conn.Write(request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(d.r, nil)
	if err != nil {
		return nil, err
	}
	body.Reset()
	_, err = io.Copy(body, resp.Body)
	return resp, errors.Join(err, resp.Body.Close())
}
