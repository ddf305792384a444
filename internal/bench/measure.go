package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// target is a server under measurement with its database.
type target struct {
	*process
	db database
}

// sample is what one run of an operation cost. Times are per operation.
type sample struct {
	server, database float64 // µs of processor time
	bytes            float64 // written
	p50, p99         time.Duration
	rate             float64 // operations in a second
	errors           int
	first            error
	bodies           [][]byte
}

func (s sample) both() float64 { return s.server + s.database }

// warmup is the part of the requests that is sent before the counting starts.
const warmup = 10 // one in ten

// measure sends the requests over conns connections and counts what they cost,
// after the first tenth has warmed everything up.
func (t target) measure(conns int, requests [][]byte, keep bool, must string) (s sample, err error) {
	d, err := dial(conns, t.addr)
	if err != nil {
		return s, err
	}
	defer d.close()
	first := len(requests) / warmup
	warm := d.run(requests[:first], keep, must)
	before, err := t.count()
	if err != nil {
		return s, err
	}
	o := d.run(requests[first:], keep, must)
	after, err := t.count()
	if err != nil {
		return s, err
	}
	n := float64(len(requests) - first)
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / n }
	s = sample{
		server: micros(after.server - before.server), database: micros(after.database - before.database), bytes: float64(after.bytes-before.bytes) / n,
		p50: o.quantile(0.50), p99: o.quantile(0.99), rate: n / o.took.Seconds(), errors: o.errors + warm.errors, first: o.first,
		bodies: slices.Concat(warm.bodies, o.bodies),
	}
	if s.first == nil {
		s.first = warm.first
	}
	return s, nil
}

type counts struct {
	server, database time.Duration
	bytes            int64
}

func (t target) count() (c counts, err error) {
	if c.server, err = cpuOf(t.pid()); err != nil {
		return c, err
	}
	if c.database, err = t.db.cpu(); err != nil {
		return c, err
	}
	c.bytes, err = t.db.wrote(t.pid())
	return c, err
}

// median of the samples, each figure for itself; errors are added up.
func median(samples []sample) sample {
	pick := func(of func(sample) float64) float64 {
		all := make([]float64, len(samples))
		for i, s := range samples {
			all[i] = of(s)
		}
		slices.Sort(all)
		return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
	}
	m := sample{
		server: pick(func(s sample) float64 { return s.server }), database: pick(func(s sample) float64 { return s.database }),
		bytes: pick(func(s sample) float64 { return s.bytes }), rate: pick(func(s sample) float64 { return s.rate }),
		p50: time.Duration(pick(func(s sample) float64 { return float64(s.p50) })), p99: time.Duration(pick(func(s sample) float64 { return float64(s.p99) })),
	}
	for _, s := range samples {
		m.errors += s.errors
		if s.first != nil {
			m.first = s.first
		}
	}
	return m
}

// keysIn reads the keys out of the answers to exchanges.
func keysIn(s sample) (keys []string, err error) {
	for _, body := range s.bodies {
		if body == nil {
			continue // it failed, which is counted
		}
		var answer struct{ Data string }
		if err := json.Unmarshal(body, &answer); err != nil || answer.Data == "" {
			return nil, fmt.Errorf("an exchange answered %.200q", body)
		}
		keys = append(keys, answer.Data)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no exchange gave a key: %w", s.first)
	}
	return keys, nil
}
