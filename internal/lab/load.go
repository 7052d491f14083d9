package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Ending is how a client ends its connections.
type Ending int

const (
	// ClientEnds sends the end of the client's half and reads the backend's to its end. The source
	// port is then in TIME_WAIT at the client.
	ClientEnds Ending = iota
	// ServerEnds says bye and lets the backend close first, so that the source port is free at once.
	ServerEnds
	// Aborts sends a reset (SO_LINGER 0); the source port is free at once.
	Aborts
)

// Load is clients that open new connections, one after the other, and write down what became of each.
type Load struct {
	From   *Namespace
	Target netip.AddrPort
	// Local are the source addresses, used in turn; none: the kernel's choice.
	Local []netip.Addr
	// Ports, when there are any, are the only source ports used, each at once again as soon as its
	// last connection is over. They are shared out among the clients. Local must then be given.
	Ports   []uint16
	Rate    int  // new connections a second at most, of all clients together; default 200
	Clients int  // connections open at a time at most; default 16
	SCTP    bool // not TCP
	Ending  Ending
	Linger  time.Duration // how long a connection is held open after the answer
	Timeout time.Duration // for the answer, and again for an orderly end; default 15 s: a guest stalls for seconds on a busy machine, and what is lost stays lost
}

// Run is a load that runs.
type Run struct {
	load   Load
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	next time.Time // when the next connection is due
	turn int       // connections begun
	over []Connection
}

func (l *Load) setDefaults() {
	if l.Rate == 0 {
		l.Rate = 200
	}
	if l.Clients == 0 {
		l.Clients = 16
	}
	if l.Timeout == 0 {
		l.Timeout = 15 * time.Second
	}
}

// Once is a single connection of the load, from the first of its addresses and ports.
func (l Load) Once() Connection {
	l.setDefaults()
	var local netip.AddrPort
	if len(l.Local) > 0 {
		local = netip.AddrPortFrom(l.Local[0], 0)
	}
	if len(l.Ports) > 0 {
		local = netip.AddrPortFrom(local.Addr(), l.Ports[0])
	}
	return l.connect(context.Background(), local)
}

// Start starts the load; it runs until it is stopped or the lab closes.
func (l *Lab) Start(load Load) *Run {
	load.setDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	r := &Run{load: load, cancel: cancel, next: time.Now()}
	for i := range load.Clients {
		var ports []uint16 // this client's own
		for at := i; at < len(load.Ports); at += load.Clients {
			ports = append(ports, load.Ports[at])
		}
		if len(load.Ports) > 0 && len(ports) == 0 {
			break
		}
		r.done.Go(func() { r.client(ctx, ports) })
	}
	l.onClose(func() { r.Stop() })
	return r
}

// Stop ends the load, when the connections that are open have ended in their way.
func (r *Run) Stop() Report {
	r.cancel()
	r.done.Wait()
	return r.Report()
}

// Report is what became of the connections that are over by now.
func (r *Run) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return newReport(r.over)
}

// Count is how many connections are over by now.
func (r *Run) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.over)
}

// countSince is how many of them began at the time or later.
func (r *Run) countSince(t time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.over {
		if !r.over[i].Start.Before(t) {
			n++
		}
	}
	return n
}

// Await waits until n more connections are over, so that a count means something on a slow machine.
func (r *Run) Await(n int, timeout time.Duration) error {
	want := r.Count() + n
	for deadline := time.Now().Add(timeout); r.Count() < want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %d connections: only %d in %v", n, r.Count()-want+n, timeout)
		}
	}
	return nil
}

// AwaitSince waits until n connections are over that began since then: of those that were on their way there may be any
// number, and where they hang, no other is begun before they have ended.
func (r *Run) AwaitSince(since time.Time, n int, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; time.Sleep(20 * time.Millisecond) {
		have := r.countSince(since)
		if have >= n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %d connections that began since %v: only %d in %v", n, since.Format(time.TimeOnly), have, timeout)
		}
	}
}

// client opens one connection after the other.
func (r *Run) client(ctx context.Context, ports []uint16) {
	for i := 0; ; i++ {
		turn, ok := r.pace(ctx)
		if !ok {
			return
		}
		var local netip.AddrPort
		if n := len(r.load.Local); n > 0 {
			local = netip.AddrPortFrom(r.load.Local[turn%n], 0)
			if len(ports) > 0 {
				// Each address with each port: as many different sources as there can be.
				local = netip.AddrPortFrom(r.load.Local[i/len(ports)%n], ports[i%len(ports)])
			}
		}
		c := r.load.connect(ctx, local)
		r.mu.Lock()
		r.over = append(r.over, c)
		r.mu.Unlock()
	}
}

// pace waits for this client's turn. A load that falls behind does not catch up: the rate is a bound.
func (r *Run) pace(ctx context.Context) (int, bool) {
	r.mu.Lock()
	due := r.next
	if now := time.Now(); due.Before(now) {
		due = now
	}
	r.next = due.Add(time.Second / time.Duration(r.load.Rate))
	turn := r.turn
	r.turn++
	r.mu.Unlock()
	return turn, sleep(ctx, time.Until(due))
}

// connect is one connection from its SYN to its end.
func (l *Load) connect(ctx context.Context, local netip.AddrPort) Connection {
	r := Connection{Source: local, Start: time.Now()}
	c, err := l.dial(dialOptions{local: local, sctp: l.SCTP, abort: l.Ending == Aborts, began: &r.Start})
	if err == nil {
		r.Connected, r.Source = time.Now(), c.local()
		err = l.talk(ctx, c, &r)
		if closing := c.Close(); err == nil {
			err = closing
		}
	}
	r.Ended, r.Err, r.Class = time.Now(), err, classify(err)
	return r
}

// dial connects. A source port whose last connection is not quite over (the peer's last ACK is on
// its way) is tried again: that is this client's doing, not the network's.
func (l *Load) dial(o dialOptions) (*conn, error) {
	for deadline := time.Now().Add(l.Timeout); ; {
		c, err := l.From.dial(l.Target, l.Timeout, o)
		if !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EADDRINUSE) {
			return c, err
		}
		if o.local.Port() == 0 || time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// talk reads the answer, and ends the connection in the load's way.
func (l *Load) talk(ctx context.Context, c *conn, r *Connection) error {
	lines := bufio.NewReaderSize(c, 128)
	line, err := lines.ReadString('\n')
	if err != nil {
		return noEOF(err)
	}
	r.Answered = time.Now()
	if r.Colour, r.Backend, r.SeenAs, err = parseAnswer(line); err != nil {
		return err
	}
	if l.Linger > 0 {
		sleep(ctx, l.Linger)
	}
	if l.Ending == Aborts {
		return nil
	}
	if err := c.SetDeadline(time.Now().Add(l.Timeout)); err != nil {
		return err
	}
	if l.Ending == ServerEnds {
		_, err = c.WriteString(Bye)
	} else {
		err = c.closeWrite()
	}
	if err != nil {
		return err
	}
	rest, err := lines.ReadString('\n')
	if err == nil {
		return fmt.Errorf("a line that nobody asked for: %q", rest)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// parseAnswer reads "COLOUR POD CLIENT", and what follows it on the line is not its business.
func parseAnswer(line string) (colour string, pod, client netip.Addr, err error) {
	words := strings.Fields(line)
	if len(words) >= 3 {
		pod, err = netip.ParseAddr(words[1])
		if err == nil {
			client, err = netip.ParseAddr(words[2])
		}
	}
	if len(words) < 3 || err != nil {
		return "", pod, client, fmt.Errorf("an answer that no backend gives: %q", line)
	}
	return words[0], pod, client, nil
}

// noEOF makes the end of the stream, where there must be none yet, an error of its own.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("closed before the answer")
	}
	return err
}

// sleep waits; false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
