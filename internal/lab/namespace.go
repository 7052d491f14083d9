package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// errClosed is what a namespace answers after its lab was closed.
var errClosed = errors.New("the lab is closed")

// Namespace is one named network namespace, as `ip netns add` makes them, and a thread that lives
// in it. Sockets and processes are made on that thread; once made, a socket belongs to the namespace
// for good and any goroutine may use it.
type Namespace struct {
	name   string
	handle netns.NsHandle
	link   *netlink.Handle
	work   chan func()
	closed chan struct{}
}

// newNamespace makes the namespace with its loopback up. One that exists already is an error: it is
// somebody else's.
func newNamespace(name string) (*Namespace, error) {
	n := &Namespace{name: name, work: make(chan func()), closed: make(chan struct{})}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so nothing else ever runs in here.
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		n.handle = handle
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case f := <-n.work:
				f()
			case <-n.closed:
				return
			}
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("making the network namespace %s: %w", name, err)
	}
	link, err := netlink.NewHandleAt(n.handle, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netlink in %s: %w", name, err), n.close())
	}
	n.link = link
	if err := n.up("lo"); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// Name is what `ip netns` calls it.
func (n *Namespace) Name() string { return n.name }

// Do runs f on the namespace's thread. One f runs at a time, so f must not wait for anything.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	select {
	case n.work <- func() { done <- f() }:
		return <-done
	case <-n.closed:
		return fmt.Errorf("in namespace %s: %w", n.name, errClosed)
	}
}

// Start starts the command inside the namespace. It is killed when the lab closes, or when this
// process ends in whatever way.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// The kernel sends it when the parent *thread* ends: that is the namespace's own.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := n.Do(cmd.Start); err != nil {
		return fmt.Errorf("starting %s in %s: %w", cmd.Path, n.name, err)
	}
	return nil
}

// Run runs a program in the namespace to its end and gives back its standard output.
func (n *Namespace) Run(name string, args ...string) (string, error) {
	return n.Feed("", name, args...)
}

// Feed is [Namespace.Run] with input.
func (n *Namespace) Feed(input, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("in %s, %s: %w: %s", n.name, strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// ReadFile reads a file as a thread of this namespace sees it: /proc/net and /proc/sys/net differ.
func (n *Namespace) ReadFile(path string) (string, error) {
	path = strings.Replace(path, "/proc/net/", "/proc/thread-self/net/", 1)
	var text bytes.Buffer
	err := n.Do(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		// In one go, a page at least: reading on in /proc/net/ip_vs, kernels that hold all namespaces' virtual
		// servers in one table (up to 6.18 do) pass over as many of ours as there were of others before.
		for page := make([]byte, 64<<10); ; {
			n, err := f.Read(page)
			text.Write(page[:n])
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if err != nil {
		return "", fmt.Errorf("in %s: %w", n.name, err)
	}
	return text.String(), nil
}

// Sysctl sets a sysctl of the namespace, by its path below /proc/sys.
func (n *Namespace) Sysctl(key, value string) error {
	err := n.Do(func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("in %s, setting %s to %s: %w", n.name, key, value, err)
	}
	return nil
}

func (n *Namespace) close() error {
	close(n.closed)
	if n.link != nil {
		n.link.Close()
	}
	err := n.handle.Close()
	if err := errors.Join(err, netns.DeleteNamed(n.name)); err != nil {
		return fmt.Errorf("removing the network namespace %s: %w", n.name, err)
	}
	return nil
}
