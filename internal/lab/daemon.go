package lab

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Daemon is a program that runs in a namespace until it is ended.
type Daemon struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	ended  chan struct{}
	err    error // of Wait, once ended is closed
}

// Daemon starts the command in the namespace and leaves it running. Log, if not nil, gets all that
// it prints, as [Daemon.Output] does. It ends with the lab at the latest.
func (n *Namespace) Daemon(cmd *exec.Cmd, log io.Writer) (*Daemon, error) {
	d := &Daemon{cmd: cmd, output: &lockedBuffer{also: log}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = d.output, d.output
	if err := n.Start(cmd); err != nil {
		return nil, err
	}
	go func() {
		d.err = cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

func (d *Daemon) name() string { return filepath.Base(d.cmd.Path) }

// Pid is the daemon's process.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

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
		return fmt.Errorf("stopping %s: %w", d.name(), err)
	}
	select {
	case <-d.ended:
	case <-time.After(timeout):
		d.Kill()
		return fmt.Errorf("%s did not end within %v of SIGTERM:\n%s", d.name(), timeout, d.Output())
	}
	if d.err != nil {
		return fmt.Errorf("%s ended with %w:\n%s", d.name(), d.err, d.Output())
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
