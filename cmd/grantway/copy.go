package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/sqlstore"
)

type copyCommand struct {
	From   string `required:"" placeholder:"FILE" help:"SQLite file of the installation; serve may go on with it."`
	To     string `placeholder:"URL" help:"postgres:// address of an empty database, or of the unfinished copy. A password can also come from PGPASSWORD or ~/.pgpass."`
	Config string `short:"c" placeholder:"FILE" help:"Configuration of the installation: its key ring is then tried first."`
	Cancel bool   `help:"Give an unfinished copy up: drop it, and note no more in the file what changes."`
	JSON   bool   `name:"json" help:"Print JSON, a document a line: the progress, and last what was done."`
}

// copyDoc is a finished copy in JSON.
type copyDoc struct {
	Done    bool       `json:"done"`
	From    string     `json:"from"`
	To      string     `json:"to"` // host, port and database
	PauseMS int64      `json:"pause_ms"`
	Changed int        `json:"changed_in_pause"`
	Tables  []tableDoc `json:"tables"`
}

type tableDoc struct {
	Table    string `json:"table"`
	Rows     int64  `json:"rows"`
	Checksum string `json:"checksum"` // the same on both sides
}

// Run moves the installation, or gives an unfinished move up.
func (c *copyCommand) Run(ctx context.Context, t terminal) (err error) {
	defer func() {
		remains := "the same command goes on where it stood, and grantway copy --cancel gives the copy up"
		if errors.Is(err, sqlstore.ErrLastStep) {
			remains = sqlstore.ErrLastStep.Error()
		}
		err = interrupted(ctx, err, remains)
	}()
	if c.To != "" && !sqlstore.IsPostgres(c.To) {
		return misunderstanding{errors.New("--to is no postgres:// address: a copy goes from a SQLite file to PostgreSQL")}
	}
	if c.Cancel {
		if err := sqlstore.CancelMove(ctx, c.From, c.To); err != nil {
			return err
		}
		_, err := fmt.Fprintf(t.out, "The copy is given up; %s is as if there had been none.\n", c.From)
		return err
	}
	if c.To == "" {
		return misunderstanding{errors.New("--to is missing: the postgres:// address of an empty database")}
	}
	var opens func([]oauth.StoredKey) error
	if c.Config != "" {
		cfg, ring, err := load(c.Config, t.environ, nil)
		if err != nil {
			return err
		}
		opens = func(keys []oauth.StoredKey) error {
			_, err := ring.Fingerprint(keys)
			return wrongRing(cfg, ring, err)
		}
	}
	p := newProgress(t, c.JSON)
	moved, err := sqlstore.Move(ctx, c.From, c.To, opens, p.show)
	p.end()
	if err != nil {
		return err
	}
	doc := copyDoc{Done: true, From: c.From, To: moved.Place, PauseMS: moved.Pause.Milliseconds(), Changed: moved.Changed, Tables: []tableDoc{}}
	for _, s := range moved.Tables {
		doc.Tables = append(doc.Tables, tableDoc{s.Table, s.Rows, s.Checksum()})
	}
	if c.JSON {
		return printJSON(t.out, doc)
	}
	return doc.print(t)
}

func (d copyDoc) print(t terminal) error {
	until := `lasts until you have
1. set database to the new address; the key ring did not move: the same one must be configured there;
2. stopped the server that still runs on the file, which answers 503, and started grantway serve again.
`
	if len(d.Tables) == 0 { // the run that closed the file has the figures
		_, err := fmt.Fprintf(t.out, "%s has moved to %s: only the last step was left. The pause %s", d.From, d.To, until)
		return err
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tROWS\tCHECKSUM, THE SAME ON BOTH SIDES")
	for _, s := range d.Tables {
		fmt.Fprintf(w, "%s\t%d\t%.16s\n", s.Table, s.Rows, s.Checksum)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(t.out, "\n%s has moved to %s. The pause began %d ms ago (%d rows had changed) and %s", d.From, d.To, d.PauseMS, d.Changed, until)
	return err
}
