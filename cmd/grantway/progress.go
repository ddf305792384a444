package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/grantway/grantway/internal/sqlstore"
)

// progress says how far a long command is: on a terminal in one line that is
// written over, with --json as documents on standard output, else in a line on
// standard error for each tenth.
type progress struct {
	t        terminal
	json     bool
	terminal bool
	brief    bool // percent alone, and nothing where nobody watches
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

// watched is for a backup: it counts the pages of a file or the rows of a server,
// and runs every night with nobody there.
func watched(t terminal) *progress {
	return &progress{t: t, terminal: isTerminal(t.err), brief: true}
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
func (p *progress) show(at sqlstore.Progress) {
	step, rows, of := at.Step, at.Rows, max(at.Of, at.Rows) // rows may come while they are counted
	doc := progressDoc{step, rows, of, 100}
	if of > 0 {
		doc.Percent = 100 * rows / of
	}
	fresh := step != p.step
	counts := fmt.Sprintf(" (%d of %d rows)", rows, of)
	if p.brief {
		counts = ""
	}
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
			fmt.Fprintf(p.t.err, "\r%s: %3d %%%s\x1b[K", step, doc.Percent, counts)
			p.said = time.Now()
		}
	case !p.brief && (fresh || doc.Percent/10 > p.percent/10):
		fmt.Fprintf(p.t.err, "%s: %d %%%s\n", step, doc.Percent, counts)
	}
	p.step, p.percent = step, doc.Percent
}

// end leaves the line that was written over.
func (p *progress) end() {
	if p.terminal && !p.json && p.step != "" {
		fmt.Fprintln(p.t.err)
	}
}
