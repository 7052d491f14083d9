package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Pointsman is the program under test: its binary and the arguments that all of its commands share.
type Pointsman struct {
	Binary    string
	Node      *Namespace
	NodeName  string
	Manifests string    // directory
	State     string    // directory
	Log       io.Writer // where the daemon's output goes; nil: only [Daemon.Output] has it
}

// Result is what a command of the program gave.
type Result struct {
	Stdout, Stderr string
	Status         int // exit status
	Took           time.Duration
}

// String is the output and the exit status, for a failure's message.
func (r Result) String() string {
	return fmt.Sprintf("exit status %d after %v\n%s%s", r.Status, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Call runs `pointsman ARGS --manifests … --state-dir …` in the node's namespace to its end. Only a
// program that could not be run is an error; a status that is not 0 is a result.
func (p *Pointsman) Call(args ...string) (Result, error) {
	return p.Exec(append(args, "--manifests", p.Manifests, "--state-dir", p.State)...)
}

// Exec runs `pointsman ARGS` in the node's namespace to its end.
func (p *Pointsman) Exec(args ...string) (Result, error) {
	cmd := p.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := p.Node.Start(cmd); err != nil {
		return Result{}, err
	}
	err := cmd.Wait()
	r := Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(began)}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// command is the program with this process's environment, but for what the test machinery put there:
// pointsman refuses a POINTSMAN_ variable that it does not know.
func (p *Pointsman) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.Binary, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "POINTSMAN_")
	})
	return cmd
}

// Run starts the daemon in the node's namespace.
func (p *Pointsman) Run(args ...string) (*Daemon, error) {
	all := []string{"run", "--manifests", p.Manifests, "--state-dir", p.State, "--node-name", p.NodeName}
	return p.Node.Daemon(p.command(slices.Concat(all, args)...), p.Log)
}
