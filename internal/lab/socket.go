package lab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a client's socket. Not a net.Conn: those can only be made by a thread that stays in the
// namespace until the handshake is over, and this lab opens thousands a second.
type conn struct {
	*os.File
	raw syscall.RawConn
}

// dialOptions are what a client may ask of its socket.
type dialOptions struct {
	local netip.AddrPort // zero: the kernel's choice; port 0: any port of the address
	abort bool           // close sends a reset
	sctp  bool           // not TCP: SCTP's one-to-one sockets behave alike
	began *time.Time     // if not nil, gets the time just before the SYN
}

// socket makes a socket in the namespace and begins to connect it; [conn.connected] says when it is.
func (n *Namespace) socket(kind int, to netip.AddrPort, o dialOptions) (*conn, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, protocol := -1, 0
	if o.sctp {
		protocol = unix.IPPROTO_SCTP
	}
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := prepare(fd, to, o); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	c := &conn{File: os.NewFile(uintptr(fd), to.String())}
	if c.raw, err = c.SyscallConn(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func prepare(fd int, to netip.AddrPort, o dialOptions) error {
	if o.abort {
		if err := setAbort(fd); err != nil {
			return err
		}
	}
	if o.local.IsValid() {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("SO_REUSEADDR", err)
		}
		if o.local.Port() == 0 {
			// The port is chosen by connect, which knows the other end and finds many more free.
			_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		if err := unix.Bind(fd, sockaddr(o.local)); err != nil {
			return os.NewSyscallError("bind", err)
		}
	}
	if o.began != nil {
		*o.began = time.Now()
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

// setAbort makes close send a reset.
func setAbort(fd int) error {
	return os.NewSyscallError("SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

// setAbort makes Close send a reset.
func (c *conn) setAbort() {
	_ = c.raw.Control(func(fd uintptr) { _ = setAbort(int(fd)) })
}

// connected waits for the end of the handshake, until the file's deadline.
func (c *conn) connected() error {
	var failed error
	err := c.raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err == nil {
			// No error may mean not yet.
			if _, err = unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
				return false
			}
		}
		failed = os.NewSyscallError("connect", err)
		return true
	})
	return errors.Join(err, failed)
}

// closeWrite sends the end of our half.
func (c *conn) closeWrite() error {
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = os.NewSyscallError("shutdown", unix.Shutdown(int(fd), unix.SHUT_WR))
	})
	return errors.Join(err, failed)
}

// local is the socket's own address.
func (c *conn) local() netip.AddrPort {
	var own netip.AddrPort
	_ = c.raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			own = addrPort(sa)
		}
	})
	return own
}

// dial connects within the time-out.
func (n *Namespace) dial(to netip.AddrPort, timeout time.Duration, o dialOptions) (*conn, error) {
	c, err := n.socket(unix.SOCK_STREAM, to, o)
	if err != nil {
		return nil, err
	}
	err = c.SetDeadline(time.Now().Add(timeout))
	if err == nil {
		err = c.connected()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func (n *Namespace) listen(at netip.AddrPort) (listener net.Listener, err error) {
	err = n.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", at.String())
		return err
	})
	return listener, err
}

// listenSCTP is a net.Listener whose connections package net takes for TCP's: of a stream socket it asks no more.
func (n *Namespace) listenSCTP(at netip.AddrPort) (net.Listener, error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd := -1
	err := n.Do(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), at.String())
	defer f.Close() // the listener has a copy
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("SO_REUSEADDR", err)
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, 128); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(f)
}

func (n *Namespace) listenUDP(at netip.AddrPort) (pc *net.UDPConn, err error) {
	err = n.Do(func() (err error) {
		pc, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	return pc, err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
