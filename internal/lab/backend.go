package lab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Bye is the line upon which a backend closes the connection itself, as an HTTP/1.0 server would.
const Bye = "bye\n"

// Mood is how a backend treats who comes.
type Mood int

// Moods of a backend that is started.
const (
	Answering Mood = iota
	Paused         // takes connections and says nothing, nor on the ones that it has
	Resetting      // resets each new connection
)

// Backend is a listener in a pod network. It answers each connection with "COLOUR POD CLIENT\n" (the
// client's address as it sees it) and then each line with the same, a space and the line.
type Backend struct {
	Colour string
	Addr   netip.AddrPort
	Addr6  netip.AddrPort // zero without Config.DualStack; see NewBackend

	pods *Namespace
	udp  bool
	sctp bool

	mu        sync.Mutex
	mood      Mood
	changed   chan struct{} // closed when the mood changes
	listeners []interface{ Close() error }
	conns     map[net.Conn]struct{}
	running   sync.WaitGroup
}

// makeBackends makes the backends of each colour, spread over the pod networks, and starts them.
func (l *Lab) makeBackends() error {
	used := make([]int, len(l.Config.Networks)) // addresses, by network
	for _, colour := range l.Config.Colours {
		for i := range colour.Backends {
			// The colour's first half on the first network and so on, as if one a node.
			at := i * len(used) / colour.Backends
			b := &Backend{Colour: colour.Name, pods: l.Pods[at], udp: l.Config.UDP, sctp: l.Config.SCTP}
			networks := []netip.Prefix{l.Config.Networks[at]}
			if l.Config.DualStack {
				networks = append(networks, sister(networks[0]))
			}
			for _, network := range networks {
				addr, err := nth(network, firstBackendHost+used[at])
				if err != nil {
					return err
				}
				if err := b.pods.address("eth0", addr); err != nil {
					return err
				}
				if addr.Addr().Is4() {
					b.Addr = netip.AddrPortFrom(addr.Addr(), l.Config.Port)
				} else {
					b.Addr6 = netip.AddrPortFrom(addr.Addr(), l.Config.Port)
				}
			}
			used[at]++
			if err := b.Start(); err != nil {
				return err
			}
			l.Backends = append(l.Backends, b)
		}
	}
	return nil
}

// Start starts the listeners; a backend that runs is left alone.
func (b *Backend) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners != nil {
		return nil
	}
	b.mood, b.changed, b.conns = Answering, make(chan struct{}), map[net.Conn]struct{}{}
	for _, at := range []netip.AddrPort{b.Addr, b.Addr6} {
		if !at.IsValid() {
			continue
		}
		listens := []func(netip.AddrPort) (net.Listener, error){b.pods.listen}
		if b.sctp {
			listens = append(listens, b.pods.listenSCTP)
		}
		for _, listen := range listens {
			l, err := listen(at)
			if err != nil {
				return fmt.Errorf("starting the backend %v: %w", at, err)
			}
			b.listeners = append(b.listeners, l)
			b.running.Go(func() { b.accept(l, at.Addr()) })
		}
		if !b.udp {
			continue
		}
		udp, err := b.pods.listenUDP(at)
		if err != nil {
			return fmt.Errorf("starting the backend %v: %w", at, err)
		}
		b.listeners = append(b.listeners, udp)
		b.running.Go(func() { b.echo(udp, at.Addr()) })
	}
	return nil
}

// Stop closes the listeners and all connections, as the death of a pod's process does.
func (b *Backend) Stop() {
	b.mu.Lock()
	for _, l := range b.listeners {
		_ = l.Close()
	}
	for c := range b.conns {
		_ = c.Close()
	}
	if b.listeners != nil {
		close(b.changed)
	}
	b.listeners, b.conns = nil, nil
	b.mu.Unlock()
	b.running.Wait()
}

// Set changes how the backend treats who comes.
func (b *Backend) Set(mood Mood) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		return
	}
	b.mood = mood
	close(b.changed)
	b.changed = make(chan struct{})
}

// awake waits while the backend is paused, and gives its mood then; false means stopped.
func (b *Backend) awake() (Mood, bool) {
	for {
		b.mu.Lock()
		mood, changed, running := b.mood, b.changed, b.listeners != nil
		b.mu.Unlock()
		if !running || mood != Paused {
			return mood, running
		}
		<-changed
	}
}

func (b *Backend) accept(l net.Listener, own netip.Addr) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a connection that was gone before it was taken, or no file descriptor left
			time.Sleep(time.Millisecond)
			continue
		}
		b.mu.Lock()
		if b.listeners == nil {
			b.mu.Unlock()
			_ = c.Close()
			return
		}
		b.conns[c] = struct{}{}
		b.mu.Unlock()
		b.running.Go(func() {
			b.serve(c, own)
			b.mu.Lock()
			delete(b.conns, c)
			b.mu.Unlock()
		})
	}
}

// serve is one connection, until the client ends its half or says bye.
func (b *Backend) serve(c net.Conn, own netip.Addr) {
	defer c.Close()
	mood, running := b.awake()
	if !running {
		return
	}
	if mood == Resetting {
		_ = c.(*net.TCPConn).SetLinger(0)
		return
	}
	prefix := b.prefix(own, c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if _, err := c.Write([]byte(prefix + "\n")); err != nil {
		return
	}
	lines := bufio.NewReaderSize(c, 512)
	for {
		line, err := lines.ReadString('\n')
		if err != nil || line == Bye {
			return
		}
		if _, running := b.awake(); !running {
			return
		}
		if _, err := c.Write([]byte(prefix + " " + line)); err != nil {
			return
		}
	}
}

// echo answers datagrams.
func (b *Backend) echo(pc *net.UDPConn, own netip.Addr) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		if _, running := b.awake(); !running {
			return
		}
		_, _ = pc.WriteToUDPAddrPort([]byte(b.prefix(own, from)+" "+string(buf[:n])), from)
	}
}

func (b *Backend) prefix(own netip.Addr, client netip.AddrPort) string {
	return fmt.Sprintf("%s %v %v", b.Colour, own, client.Addr().Unmap())
}
