package ipvs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Errors that a caller decides on.
var (
	// ErrNoModule: the kernel has no IPVS.
	ErrNoModule = errors.New("the kernel has no IPVS: modprobe ip_vs")
	// ErrInterrupted: the table changed under every attempt to read it.
	ErrInterrupted = errors.New("the IPVS table kept changing while it was read")
	// ErrUnknownOutcome: the kernel's answer was lost, so the op may have been done or not. Read.
	ErrUnknownOutcome = errors.New("outcome unknown")
)

const (
	// silence is how long to wait for the kernel's next datagram. It answers before the send has
	// returned, so a wait that is this long is a fault, not load.
	silence = 5 * time.Second
	// slice is how often a wait looks at its context.
	slice = 50 * time.Millisecond

	// receiveBuffer holds the largest datagram of a dump. The kernel makes the parts of a dump as
	// large as the buffer that it has seen a receive with, up to 32 KiB; that is about 80 real servers.
	receiveBuffer = 64 << 10
	// socketBuffer is asked for in both directions; see batchOps for what has to fit.
	socketBuffer = 1 << 20
)

// Conn reads and writes the IPVS table of one network namespace. It may be used by many goroutines:
// a lock is held for the length of each call.
type Conn struct {
	mu     sync.Mutex
	ns     netns.NsHandle // to open the socket again
	sock   *nl.NetlinkSocket
	family uint16 // generic netlink family number
	seq    uint32
	in     []byte // what was received last
	out    []byte // what is sent
	sent   []sentOp
	reals  []RealInfo
	closed bool
	// uncounted: what real servers have counted is left where it is.
	uncounted bool
}

// LeaveCounters has the counters of real servers not read any more. They are the half of what there is to read, and to keep, of a
// table. Those of services are read all the same.
func (c *Conn) LeaveCounters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uncounted = true
}

// Open connects to the network namespace of the calling thread. The namespace may change
// afterwards: the Conn stays where it was opened. A kernel without IPVS is [ErrNoModule].
func Open() (*Conn, error) {
	ns, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("ipvs: finding the network namespace: %w", err)
	}
	return open(ns)
}

// OpenAt connects to the given network namespace; the handle stays the caller's.
func OpenAt(ns netns.NsHandle) (*Conn, error) {
	fd, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("ipvs: keeping the network namespace: %w", err)
	}
	return open(netns.NsHandle(fd))
}

func open(ns netns.NsHandle) (*Conn, error) {
	c := &Conn{ns: ns, in: make([]byte, receiveBuffer)}
	if err := c.connect(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("ipvs: %w", err)
	}
	return c, nil
}

// Close frees the socket. What is called afterwards fails with [os.ErrClosed].
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return os.ErrClosed
	}
	c.closed = true
	c.disconnect()
	return c.ns.Close()
}

// begin takes the lock for one call and has a socket ready.
func (c *Conn) begin(ctx context.Context) error {
	c.mu.Lock()
	err := ctx.Err()
	if c.closed {
		err = os.ErrClosed
	}
	if err == nil && c.sock == nil {
		err = c.connect()
	}
	if err != nil {
		c.mu.Unlock()
	}
	return err
}

// connect opens a socket and finds the family.
func (c *Conn) connect() error {
	// Entering a namespace needs CAP_SYS_ADMIN. A daemon with CAP_NET_ADMIN alone can open the
	// socket where its threads are anyway.
	at := c.ns
	if here, err := netns.Get(); err == nil {
		if here.Equal(c.ns) {
			at = netns.None()
		}
		_ = here.Close()
	}
	sock, err := nl.GetNetlinkSocketAt(at, netns.None(), unix.NETLINK_GENERIC)
	if err != nil {
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	c.sock = sock
	fd := sock.GetFd()
	for _, opt := range []struct{ level, force, plain int }{
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		if unix.SetsockoptInt(fd, opt.level, opt.force, socketBuffer) != nil {
			// Without the privilege the kernel cuts it to net.core.*mem_max, which is enough too.
			_ = unix.SetsockoptInt(fd, opt.level, opt.plain, socketBuffer)
		}
	}
	// Both are wishes: an answer is understood with and without.
	_ = sock.SetExtAck(true)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	if c.family, err = c.findFamily(); err != nil {
		c.disconnect()
		return err
	}
	return nil
}

func (c *Conn) disconnect() {
	if c.sock != nil {
		c.sock.Close()
		c.sock = nil
	}
}

func (c *Conn) findFamily() (uint16, error) {
	var id uint16
	c.seq++
	c.out = appendFamilyRequest(c.out[:0], c.seq)
	err := c.ask(context.Background(), func(payload []byte) error {
		a := attrs{rest: payload}
		for a.next() {
			if a.kind == nl.GENL_CTRL_ATTR_FAMILY_ID {
				id = a.u16()
			}
		}
		if a.bad || id == 0 {
			return errMalformed
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, ErrNoModule
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the netlink family %s: %w", genlName, err)
	}
	return id, nil
}

// send hands the messages in c.out to the kernel, which has run them when send returns.
func (c *Conn) send() error {
	for {
		// A netlink socket that is not connected writes to the kernel.
		_, err := unix.Write(c.sock.GetFd(), c.out)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		return err
	}
}

// receive waits for one datagram of the kernel and gives a view of c.in.
func (c *Conn) receive(ctx context.Context) ([]byte, error) {
	var waited time.Duration
	for {
		n, from, err := unix.Recvfrom(c.sock.GetFd(), c.in, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if waited >= silence {
				return nil, fmt.Errorf("the kernel did not answer within %v: %w", silence, os.ErrDeadlineExceeded)
			}
			start := time.Now()
			fds := []unix.PollFd{{Fd: int32(c.sock.GetFd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, int(slice/time.Millisecond)); err != nil && err != unix.EINTR {
				return nil, fmt.Errorf("waiting for the kernel: %w", err)
			}
			waited += time.Since(start)
			continue
		case err != nil:
			return nil, err
		case n > len(c.in):
			return nil, fmt.Errorf("%w: %d bytes", errMalformed, n)
		}
		// Another process may write to this socket; only the kernel's port is 0.
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 {
			return c.in[:n], nil
		}
	}
}
