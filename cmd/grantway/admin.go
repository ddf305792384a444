package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/grantway/grantway/internal/config"
	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
	"github.com/grantway/grantway/internal/sqlstore"
)

// Admin is shared by the commands that act on a server's database, whether the
// server runs or not. A running one follows the feed and sees each change within
// 100 ms.
type Admin struct {
	Settings
	JSON bool `name:"json" help:"Print one JSON document."`
}

// Ending is shared by the commands that end, suspend or resume something.
type Ending struct {
	Admin
	Wait bool `help:"Return when every API server goes by it: as soon as all have acknowledged it, at the latest after 850 ms."`
}

// office is the database with the use-cases on it, and how to print.
type office struct {
	server *oauth.Server
	people *people.Service
	json   bool
	wait   bool // what was done is to be in effect
	out    io.Writer
	err    io.Writer // where a list says what is odd about it
}

// command is who acts.
var command = oauth.Actor{Kind: oauth.AsCommand}

// everything is a whole list in one read, so that it is of one moment and nothing
// falls between two pages.
var everything = oauth.Page{Limit: math.MaxInt32}

// onStore opens the database for act, and closes it.
func (a *Admin) onStore(ctx context.Context, t terminal, act func(config.Config, *oauth.KeyRing, *sqlstore.Store) error) (err error) {
	cfg, ring, err := a.load(t)
	if err != nil {
		return err
	}
	store, err := openThere(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return act(cfg, ring, store)
}

func (a *Admin) run(ctx context.Context, t terminal, act func(*office) error) error {
	return a.onStore(ctx, t, func(cfg config.Config, ring *oauth.KeyRing, store *sqlstore.Store) error {
		o, err := newOffice(ctx, cfg, ring, store)
		if err != nil {
			return err
		}
		o.json, o.out, o.err = a.JSON, t.out, t.err
		return act(o)
	})
}

func (c *Ending) run(ctx context.Context, t terminal, act func(*office) error) error {
	return c.Admin.run(ctx, t, func(o *office) error {
		o.wait = c.Wait
		return act(o)
	})
}

// effectDoc says in JSON how what was done came into effect: everywhere, as each of so
// many followers acknowledged it, or else because the time is over within which any
// goes by what was before.
type effectDoc struct {
	Everywhere bool  `json:"everywhere"`
	Followers  int   `json:"followers"`
	MS         int64 `json:"ms"`
}

// effect waits, if that was asked for, until what was done is in effect, and says so
// in a line of its own. What was done is done, whatever becomes of the waiting.
func (o *office) effect(ctx context.Context) (*effectDoc, string) {
	if !o.wait {
		return nil, ""
	}
	e, err := o.server.Effective(ctx)
	if err != nil {
		return nil, "\nWhether every API server goes by it already was not waited for."
	}
	doc := &effectDoc{e.Everywhere, e.Followers, e.After.Milliseconds()}
	switch {
	case !e.Everywhere:
		return doc, fmt.Sprintf("\nIn effect now: not every API server has acknowledged it, and none goes by what it knew %d ms ago.", doc.MS)
	case e.Followers == 0:
		return doc, "\nIn effect now: no API server follows revocations."
	case e.Followers == 1:
		return doc, fmt.Sprintf("\nIn effect now: the API server that follows acknowledged it within %d ms.", doc.MS)
	}
	return doc, fmt.Sprintf("\nIn effect now: all %d API servers that follow acknowledged it within %d ms.", e.Followers, doc.MS)
}

func newOffice(ctx context.Context, c config.Config, ring *oauth.KeyRing, store *sqlstore.Store) (*office, error) {
	server, err := oauth.New(ctx, oauth.Config{Issuer: c.Issuer, PagesURL: c.PagesURL, APIURL: c.APIURL, Audience: c.APIAudience,
		Catalogue: c.Catalogue, Storage: store, Ring: ring})
	if err != nil {
		return nil, wrongRing(c, ring, err)
	}
	return &office{server: server, people: people.New(people.Config{Storage: store, Server: server})}, nil
}

// show prints doc as JSON, or the text for people.
func (o *office) show(doc any, text string, args ...any) error {
	if o.json {
		return printJSON(o.out, doc)
	}
	_, err := fmt.Fprintf(o.out, text+"\n", args...)
	return err
}

func printJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}

// list prints rows as one JSON array, or as a table whose last column ends its line.
func list[T any](o *office, rows []T, head string, cells func(T) []any) error {
	if o.json {
		if rows == nil {
			rows = []T{}
		}
		return printJSON(o.out, rows)
	}
	t := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.ReplaceAll(head, " ", "\t")))
	for _, row := range rows {
		line := make([]string, 0, 8)
		for _, c := range cells(row) {
			line = append(line, cell(c))
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	return t.Flush()
}

// cell writes a value so that a name from outside can neither break the table nor
// steer the terminal. Times are in UTC, as in the log, in JSON and on the pages: the rows of
// a table in the zone of this machine would be of two zones, winter's and summer's.
func cell(v any) string {
	var s string
	switch v := v.(type) {
	case *time.Time:
		if v != nil {
			s = v.UTC().Format("2006-01-02 15:04")
		}
	case time.Time:
		s = v.UTC().Format("2006-01-02 15:04:05")
	case bool:
		s = map[bool]string{true: "yes", false: "no"}[v]
	default:
		s = fmt.Sprint(v)
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s
}

// moment is nil for a time that never was, so that JSON says null.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.Truncate(time.Microsecond) // what the database keeps
	return &t
}

func texts[T ~[]string](s T) []string { return append([]string{}, s...) }

// password reads a password from a file, or else from the first line of standard
// input: a flag would show it to everybody on the machine.
func password(ctx context.Context, file string, t terminal) (string, error) {
	var secret string
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		secret = string(data)
	} else {
		line, err := unseen(ctx, t, "Password, not shown as you type: ")
		if err != nil {
			return "", err
		}
		secret = line
	}
	secret = strings.TrimRight(secret, "\r\n")
	if secret == "" {
		return "", errNoPassword
	}
	return secret, nil
}

var errNoPassword = misunderstanding{errors.New("a password is expected on standard input or in --password-file")}
