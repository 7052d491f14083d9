// Pointsman manages IPVS virtual servers for blue-green: see the packages that it wires together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit statuses, for scripts. Also in the README and in `pointsman switch --help`.
const (
	exitFailed     = 1 // something went wrong; the message says what
	exitUsage      = 2 // unknown command, flag, argument or configuration key
	exitRefused    = 3 // cannot be done; nothing was changed
	exitTimeout    = 4 // declared, and not seen done in time
	exitBlocked    = 5 // declared, and its gate did not hold
	exitRolledBack = 6 // it failed its observation; the colour before is active again
	exitHeld       = 7 // it failed its observation; the new colour stays active (onFailure: Hold)
	exitSuperseded = 8 // somebody else declared another colour, or took it back, before it was done
)

// env is what a command may use of the process, so that tests run commands in-process.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

// exitError is an error with the exit status that it asks for.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, env{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run runs one command line and gives its exit status.
func run(ctx context.Context, e env, args []string) int {
	root := newRoot(e)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(e.stderr, "pointsman: %v\n", err)
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}
