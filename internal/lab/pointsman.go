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
	"sync"
	"syscall"
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

// Daemon is `pointsman run`, running.
type Daemon struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// Run starts the daemon in the node's namespace.
func (p *Pointsman) Run(args ...string) (*Daemon, error) {
	all := []string{"run", "--manifests", p.Manifests, "--state-dir", p.State, "--node-name", p.NodeName}
	d := &Daemon{
		cmd:    p.command(slices.Concat(all, args)...),
		output: &lockedBuffer{also: p.Log},
		ended:  make(chan struct{}),
	}
	d.cmd.Stdout, d.cmd.Stderr = d.output, d.output
	if err := p.Node.Start(d.cmd); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

// Output is all that the daemon has printed so far.
func (d *Daemon) Output() string { return d.output.String() }

// Running says whether the daemon runs still.
func (d *Daemon) Running() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Kill ends the daemon as a crash does.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// Terminate asks the daemon to end (SIGTERM) and waits. An exit status other than 0, or none in
// time, is an error.
func (d *Daemon) Terminate(timeout time.Duration) error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping pointsman: %w", err)
	}
	select {
	case <-d.ended:
	case <-time.After(timeout):
		d.Kill()
		return fmt.Errorf("pointsman did not end within %v of SIGTERM:\n%s", timeout, d.Output())
	}
	if d.err != nil {
		return fmt.Errorf("pointsman ended with %w:\n%s", d.err, d.Output())
	}
	return nil
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
	also io.Writer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.also != nil {
		_, _ = b.also.Write(p)
	}
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
