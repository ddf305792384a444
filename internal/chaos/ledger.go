package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// outcome is what the sender of a request knows about it.
type outcome string

const (
	acknowledged outcome = "acknowledged" // it was done
	refused      outcome = "refused"      // a clean no: nothing was done
	unavailable  outcome = "unavailable"  // a 503, or nobody was there: nothing was done
	unknown      outcome = "unknown"      // cut, given up, or a 503 that says so: it was done or not
	failed       outcome = "failed"       // an answer that nobody may get, such as a 500
)

// entry is one line of the ledger.
type entry struct {
	At      time.Time     `json:"at"` // when it was sent
	Took    time.Duration `json:"took"`
	Worker  string        `json:"worker"`
	Node    int           `json:"node"`
	What    string        `json:"what"`
	Of      string        `json:"of,omitempty"` // the code, key, token, grant or secret
	Outcome outcome       `json:"outcome"`
	Status  int           `json:"status,omitempty"`
	Detail  string        `json:"detail,omitempty"`
}

// ledger is the clients' log, in a file beside the server's database and not in it.
type ledger struct {
	mu         sync.Mutex
	file       *os.File
	out        *bufio.Writer
	count      map[outcome]int
	answered   time.Time // when the last answer came that was not a 503
	gap        time.Duration
	failover   time.Duration // until another database took over
	strict     bool          // nothing is broken: whoever is cut or turned away was wronged
	cut        int           // of them
	violations []string
}

func newLedger(path string) (*ledger, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &ledger{file: f, out: bufio.NewWriter(f), count: map[outcome]int{}}, nil
}

func (l *ledger) note(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[e.Outcome]++
	if e.Outcome == acknowledged || e.Outcome == refused {
		end := e.At.Add(e.Took)
		if !l.answered.IsZero() {
			l.gap = max(l.gap, end.Sub(l.answered))
		}
		if end.After(l.answered) {
			l.answered = end
		}
	}
	l.write(e)
	switch e.Outcome {
	case unavailable, unknown:
		if l.strict {
			l.cut++
			l.violate(fmt.Sprintf("%s met nobody, was cut or turned away: %d %s", e.What, e.Status, e.Detail))
		}
	case failed:
		l.violate(fmt.Sprintf("%s of %s was answered with %d: %s", e.What, e.Of, e.Status, e.Detail))
	}
}

// judge says whether whoever meets nobody, is cut or is turned away is wronged from now on.
func (l *ledger) judge(strict bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strict = strict
}

// requests counts what was sent.
func (l *ledger) requests() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, some := range l.count {
		n += some
	}
	return n
}

func (l *ledger) write(e any) {
	line, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain data
	}
	l.out.Write(append(line, '\n'))
}

// violation notes a broken promise.
func (l *ledger) violation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.violate(fmt.Sprintf(format, args...))
}

func (l *ledger) violate(what string) {
	what = time.Now().Format("15:04:05.000 ") + what
	l.violations = append(l.violations, what)
	l.write(map[string]string{"violation": what})
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.out.Flush(), l.file.Close())
}
