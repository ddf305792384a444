package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress says how far a long command is: on a terminal in one line that is
// written over, with --json as documents on standard output, else in a line on
// standard error for each tenth.
type progress struct {
	t        terminal
	json     bool
	terminal bool
	step     string
	percent  int64 // as last said
	said     time.Time
}

// progressDoc is a line of --json.
type progressDoc struct {
	Step    string `json:"step"`
	Rows    int64  `json:"rows"`
	Of      int64  `json:"of"`
	Percent int64  `json:"percent"`
}

func newProgress(t terminal, asJSON bool) *progress {
	return &progress{t: t, json: asJSON, terminal: isTerminal(t.err)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// show takes note of rows out of about so many. It need not be called for each row.
func (p *progress) show(step string, rows, of int64) {
	of = max(of, rows) // rows may come while they are counted
	doc := progressDoc{step, rows, of, 100}
	if of > 0 {
		doc.Percent = 100 * rows / of
	}
	fresh := step != p.step
	switch {
	case p.json:
		if fresh || doc.Percent > p.percent {
			printJSON(p.t.out, doc)
		}
	case p.terminal:
		if fresh && p.step != "" {
			fmt.Fprintln(p.t.err)
		}
		if fresh || doc.Percent == 100 || time.Since(p.said) > 100*time.Millisecond {
			fmt.Fprintf(p.t.err, "\r%s: %3d %% (%d of %d rows)\x1b[K", step, doc.Percent, rows, of)
			p.said = time.Now()
		}
	case fresh || doc.Percent/10 > p.percent/10:
		fmt.Fprintf(p.t.err, "%s: %d %% (%d of %d rows)\n", step, doc.Percent, rows, of)
	}
	p.step, p.percent = step, doc.Percent
}

// end leaves the line that was written over.
func (p *progress) end() {
	if p.terminal && !p.json && p.step != "" {
		fmt.Fprintln(p.t.err)
	}
}
