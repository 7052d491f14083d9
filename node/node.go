package node

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Node is one network namespace: for the daemon the host's. It is safe for concurrent use.
type Node struct {
	ns   netns.NsHandle
	link *netlink.Handle

	mu      sync.Mutex
	watcher *watcher
	sysctls map[string]int // files that are open, by key

	// writing is held while the device is changed, so that the watcher does not look at each step of it.
	writing sync.Mutex
}

// Open is the node of the calling thread's network namespace.
func Open() (*Node, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	link, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a socket to rtnetlink: %w", err), ns.Close())
	}
	return &Node{ns: ns, link: link}, nil
}

// Close ends the watching of addresses, if there is one, and gives the sockets back. What was made stays.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var err error
	if n.watcher != nil {
		err = n.watcher.close()
	}
	for _, fd := range n.sysctls {
		_ = unix.Close(fd)
	}
	n.sysctls = nil
	n.link.Close()
	return errors.Join(err, n.ns.Close())
}

// in runs f on a thread in the node's namespace: the present one when it is there, which in the daemon
// it always is; else one of its own (that takes CAP_SYS_ADMIN). /proc/sys/net shows the namespace of the
// task that opens a file in it, not that of the reader.
func (n *Node) in(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var here, own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return fmt.Errorf("looking at the thread's network namespace: %w", os.NewSyscallError("stat", err))
	}
	if err := unix.Fstat(int(n.ns), &own); err != nil {
		return fmt.Errorf("looking at the node's network namespace: %w", os.NewSyscallError("fstat", err))
	}
	if here.Dev == own.Dev && here.Ino == own.Ino {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so a failed return home can't leak.
		runtime.LockOSThread()
		if err := netns.Set(n.ns); err != nil {
			done <- fmt.Errorf("entering the node's network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
