// Command grantway is the authorization server, its demo, and what an operator
// does with them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type commands struct {
	Demo demoCommand `cmd:"" help:"Start an issuer, a store API and an example app on this machine, with made-up data."`
}

// terminal is where a command reads and prints.
type terminal struct {
	out, err io.Writer
	environ  []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], terminal{os.Stdout, os.Stderr, os.Environ()})
	stop()
	os.Exit(code)
}

// run carries out one command and returns the exit code: 0 done, 1 failed, 2 not
// understood.
func run(ctx context.Context, args []string, t terminal) int {
	var c commands
	parser, err := kong.New(&c, kong.Name("grantway"), kong.Description("An authorization server for platforms whose customers connect apps."),
		kong.UsageOnError(), kong.Writers(t.out, t.err))
	if err != nil {
		fmt.Fprintln(t.err, "grantway:", err)
		return 2
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(t.err, "grantway:", err)
		return 2
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	if err := parsed.Run(t); err != nil {
		fmt.Fprintln(t.err, "grantway:", err)
		return 1
	}
	return 0
}
