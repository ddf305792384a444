// Command grantway is the authorization server, its demo, and what an operator
// does with them.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/grantway/grantway/internal/oauth"
	"github.com/grantway/grantway/internal/people"
)

type commands struct {
	Demo  demoCommand  `cmd:"" help:"Start an issuer, a store API and an example app on this machine, with made-up data."`
	Init  initCommand  `cmd:"" help:"Write a configuration and a key ring, set up the database, and print a link for the first operator."`
	Serve serveCommand `cmd:"" help:"Run the server."`
	Guard guardCommand `cmd:"" help:"Verify keys for an API that a reverse proxy stands before: nginx, Caddy, Traefik or Envoy asks at each request."`

	User   userCommands   `cmd:"" help:"Add, list, suspend and resume users, and set a new password."`
	Store  storeCommands  `cmd:"" help:"Add and list stores."`
	Member memberCommands `cmd:"" help:"Say what a user may do in a store."`
	Client clientCommands `cmd:"" help:"Add, list, suspend, resume and verify apps, and change their secrets."`
	Grant  grantCommands  `cmd:"" help:"List, revoke, suspend and resume what users allowed."`
	API    apiCommands    `cmd:"" name:"api" help:"Credentials with which an API server asks about keys."`
	Key    keyCommands    `cmd:"" help:"List the keys that the server signs with, and cut one off that may be in other hands."`

	RevokeEverything revokeEverythingCommand `cmd:"" help:"End every key and every refresh token of every app."`

	Migrate migrateCommands `cmd:"" help:"Bring the database up to date, or show how it stands."`
	Backup  backupCommand   `cmd:"" help:"Copy the database into a file, while the server runs."`
	Restore restoreCommand  `cmd:"" help:"Put a backup in the database's place."`

	NewEpoch newEpochCommand `cmd:"" help:"Go on with a database that has lost events: recovered to an earlier moment, or failed over."`

	Events       eventsCommands      `cmd:"" help:"Show what happened lately, newest first, or export it."`
	OperatorLink operatorLinkCommand `cmd:"" help:"Print a link whose sign-up becomes an operator, once."`

	Copy copyCommand `cmd:"" help:"Move a live installation from a SQLite file to PostgreSQL."`

	Config  configCommands `cmd:"" help:"Check, print and explain the configuration."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// terminal is where a command reads and prints.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
}

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals // a second one does not wait
		os.Exit(failed)
	}()
	os.Exit(run(ctx, os.Args[1:], terminal{os.Stdin, os.Stdout, os.Stderr, os.Environ()}))
}

// The exit codes.
const (
	done          = 0
	failed        = 1
	notUnderstood = 2
)

// misunderstanding is an error of what was typed or configured.
type misunderstanding struct{ error }

func (m misunderstanding) Unwrap() error { return m.error }

// run carries out one command and returns the exit code.
func run(ctx context.Context, args []string, t terminal) int {
	args = habit(args)
	parser, err := kong.New(newCommands(args), kong.Name("grantway"),
		kong.Description("An authorization server for platforms whose customers connect apps."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}), kong.Writers(t.out, t.err))
	if err != nil {
		panic(err) // the commands themselves are wrong
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		if flag, _, missing := strings.Cut(err.Error(), `: expected string value but got "EOL"`); missing {
			err = fmt.Errorf("%s needs a value", flag)
		}
		remedy := "grantway --help shows what there is"
		if strings.HasPrefix(err.Error(), "unknown flag") { // the end of a secret may look like one
			remedy += ", and -- goes before a value that begins with a dash"
		}
		fmt.Fprintf(t.err, "grantway: %v; %s\n", err, remedy)
		return notUnderstood
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(t)
	if err == nil {
		return done
	}
	if errors.Is(err, context.Canceled) {
		err = interrupted(ctx, err, "")
	}
	fmt.Fprintln(t.err, "grantway: "+describe(err))
	if _, ok := errors.AsType[misunderstanding](err); ok {
		return notUnderstood
	}
	return failed
}

// habit takes two things that people try first for what they mean.
func habit(args []string) []string {
	switch {
	case len(args) > 0 && args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "--version":
		return []string{"version"}
	}
	return args
}

// interrupted says in one line that a signal has ended a command, and what remains, in
// place of what the command met with on its way out.
func interrupted(ctx context.Context, err error, remains string) error {
	switch {
	case err == nil || ctx.Err() == nil:
		return err
	case remains == "":
		return errors.New("interrupted")
	}
	return errors.New("interrupted: " + remains)
}

// about is an error with the thing that it is about.
type about struct {
	what string
	error
}

func (a about) Unwrap() error { return a.error }

// describe says an error in the words of the reason table, for people.
func describe(err error) string {
	if a, ok := errors.AsType[about](err); ok {
		if reason := oauth.ReasonOf(a.error); reason == oauth.NoSuch || reason == oauth.NotPermitted {
			return missing(a.what)
		}
		return a.what + ": " + describe(a.error)
	}
	if fields, ok := errors.AsType[oauth.FieldErrors](err); ok {
		lines := make([]string, 0, len(fields))
		for field, e := range fields {
			lines = append(lines, describeField(field, e))
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n  ")
	}
	if e, ok := errors.AsType[*oauth.Error](err); ok {
		return e.Description
	}
	return withAdvice(err)
}

// flagOf is the flag that fills a field of a form. An id may be an argument as well.
var flagOf = map[string]string{"name": "--name", "email": "--email", "domain": "--domain", "homepage": "--homepage", "terms": "--terms", "privacy": "--privacy",
	"redirect_uri": "--redirect", "scope": "--scope", "scopes": "--scope"}

func describeField(field string, e *oauth.Error) string {
	name, index, listed := strings.Cut(strings.TrimSuffix(field, "]"), "[")
	flag := cmp.Or(flagOf[name], field)
	switch e.Reason {
	case oauth.FieldRequired:
		return flag + " is needed"
	case people.ReasonEmailTaken:
		return flag + ": there is an account with this e-mail already; grantway user list shows which"
	}
	if n, err := strconv.Atoi(index); listed && err == nil {
		flag += ", number " + strconv.Itoa(n+1)
	}
	return flag + ": " + e.Description
}

// shownBy says, for each kind of thing that an error may be about, which command shows those that there are.
var shownBy = []struct{ kind, says string }{
	{"app", "there is no %s; grantway client list shows which there are"},
	{"grant", "there is no %s; grantway grant list shows which there are"},
	{"membership", "there is no %s; grantway member list shows the stores of a user"},
	{"secret of the API", "there is no %s that ends so; grantway api secret list shows which there are"},
	{"secret of the app", "there is no %s that ends so; grantway client list --json shows which there are"},
	{"signing key", "there is no %s; grantway key list shows which there are"},
	{"store", "there is no %s; grantway store list shows which there are, and grantway store add makes one"},
	{"user", "there is no %s; grantway user list shows who is there"},
}

// missing says that something is not there: to who runs the platform nothing is hidden.
func missing(what string) string {
	for _, kind := range shownBy {
		if strings.HasPrefix(what, kind.kind) {
			return fmt.Sprintf(kind.says, what)
		}
	}
	return "there is no " + what
}

// withAdvice says an error, each of its causes once, and what to do where it ends in what
// the system said of a file.
func withAdvice(err error) string {
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if !slices.Contains(lines, line) { // what failed when it was written fails again when it is closed
			lines = append(lines, line)
		}
	}
	said := strings.Join(lines, "\n")
	file, ok := errors.AsType[*fs.PathError](err)
	if !ok || !strings.HasSuffix(said, file.Err.Error()) {
		return said
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		said += ": name one that is there"
	case errors.Is(err, fs.ErrPermission):
		said += ": let this user do that, or name another"
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTDIR):
		said += ": name another"
	case errors.Is(err, syscall.ENOSPC):
		said += ": make room on that disk"
	}
	return said
}
