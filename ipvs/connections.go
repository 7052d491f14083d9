package ipvs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// ConnKey is what the connections to one real server through one virtual server have in common.
//
// Virtual is what the client connected to. That is the Key of an address-keyed virtual server; of a mark-keyed one, or
// one for every port, the kernel does not tell which it was, so that its connections are known by real server only.
type ConnKey struct {
	Protocol Protocol // TCP, UDP, SCTP
	Virtual  netip.AddrPort
	Real     netip.AddrPort
}

// TCPState is the state that IPVS keeps of a TCP connection (IP_VS_TCP_S_*, net/ip_vs.h). It follows the packets that
// pass: with Masquerade those of both directions, else the client's alone.
type TCPState uint8

// The states, in the kernel's order. TCPOther is any that has another name.
const (
	TCPOther TCPState = iota
	TCPEstablished
	TCPSynSent
	TCPSynRecv
	TCPFinWait
	TCPTimeWait
	TCPClose
	TCPCloseWait
	TCPLastAck
	TCPListen
	TCPSynAck
	tcpStates
)

// tcpStateNames are as the kernel writes them (tcp_state_name_table, ip_vs_proto_tcp.c).
var tcpStateNames = [tcpStates]string{"NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "SYNACK"}

func (s TCPState) String() string {
	if s < tcpStates {
		return tcpStateNames[s]
	}
	return fmt.Sprintf("TCPState(%d)", uint8(s))
}

// ConnCount counts connections.
type ConnCount struct {
	Total uint32
	// TCP counts by state; of other protocols there is only Total.
	TCP [tcpStates]uint32
	// Waiting are those in SYN_RECV that had no packet for more than a second: longer than a handshake takes
	// that goes well.
	Waiting uint32
}

// synRecvTimeout is how many seconds an entry in SYN_RECV lives without a packet (tcp_timeouts, ip_vs_proto_tcp.c).
// Nothing sets it.
const synRecvTimeout = 60

// Connections counts the connections that IPVS has in its table, without the templates of session affinity.
//
// It reads /proc/net/ip_vs_conn, which costs memory for the counts alone and time for each connection. Before 6.8 the
// kernel walks its table from the start again for each page of about 50 connections, and the table is that of all
// namespaces: the time goes by the square of their number there. Give ctx a deadline; when it is over, so is the
// reading, with its error and no counts.
//
// The kernel gives the table page by page and lets it change between them. So a connection that comes or goes
// meanwhile may be missing, and others be missing or counted twice for it. The counts are a sign of what goes on, and
// no more; what must be right is in [Counters] and [RealInfo].
func (c *Conn) Connections(ctx context.Context) (map[ConnKey]*ConnCount, error) {
	counts, err := c.connections(ctx)
	if err != nil {
		return nil, fmt.Errorf("ipvs: counting connections: %w", err)
	}
	return counts, nil
}

func (c *Conn) connections(ctx context.Context) (map[ConnKey]*ConnCount, error) {
	file, err := c.openConnections()
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoModule
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return countConnections(untilDone{ctx, file})
}

// openConnections opens the file in the Conn's namespace; an open file stays in its own. /proc/net is that of the
// process's first thread, so the file is looked for under this one.
func (c *Conn) openConnections() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, os.ErrClosed
	}
	type opened struct {
		file *os.File
		err  error
	}
	done := make(chan opened, 1)
	open := func() opened {
		file, err := os.Open("/proc/thread-self/net/ip_vs_conn")
		return opened{file, err}
	}
	// As in connect: entering a namespace takes a privilege that a daemon at home does not need.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if here, err := netns.Get(); err == nil {
		home := here.Equal(c.ns)
		_ = here.Close()
		if home {
			o := open()
			return o.file, o.err
		}
	}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(c.ns); err != nil {
			done <- opened{err: fmt.Errorf("entering the network namespace: %w", err)}
			return
		}
		done <- open()
	}()
	o := <-done
	return o.file, o.err
}

// untilDone reads no further than the context lasts.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// connLine is longer than any line: the addresses, and the data of a persistence engine.
const connLine = 4 << 10

// countConnections reads what ip_vs_conn_seq_show (ip_vs_conn.c) writes.
func countConnections(r io.Reader) (map[ConnKey]*ConnCount, error) {
	counts := map[ConnKey]*ConnCount{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, connLine), connLine)
	if lines.Scan() && !bytes.HasPrefix(lines.Bytes(), []byte("Pro FromIP")) {
		return nil, fmt.Errorf("%w: its head is %q", errMalformed, lines.Bytes())
	}
	for lines.Scan() {
		if !countConnection(counts, lines.Bytes()) {
			return nil, fmt.Errorf("%w: line %q", errMalformed, lines.Bytes())
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return counts, nil
}

// countConnection adds one line; false when it does not parse. It allocates for a new key only.
func countConnection(counts map[ConnKey]*ConnCount, line []byte) bool {
	protocol, line := word(line)
	_, line = word(line) // the client's address
	clientPort, line := word(line)
	virtualAddr, line := word(line)
	virtualPort, line := word(line)
	realAddr, line := word(line)
	realPort, line := word(line)
	state, line := word(line)
	expires, _ := word(line)

	client, ok := hexNumber(clientPort)
	virtual, virtualOK := hexEndpoint(virtualAddr, virtualPort)
	to, realOK := hexEndpoint(realAddr, realPort)
	seconds, secondsOK := decimal(expires)
	if !ok || !virtualOK || !realOK || !secondsOK {
		return false
	}
	key := ConnKey{Virtual: virtual, Real: to}
	switch string(protocol) {
	case "TCP":
		key.Protocol = TCP
	case "UDP":
		key.Protocol = UDP
	case "SCTP":
		key.Protocol = SCTP
	default: // "IP": a template of a mark-keyed virtual server
		return true
	}
	if client == 0 { // a template
		return true
	}
	count := counts[key]
	if count == nil {
		count = new(ConnCount)
		counts[key] = count
	}
	count.Total++
	if key.Protocol == TCP {
		s := tcpState(state)
		count.TCP[s]++
		if s == TCPSynRecv && seconds < synRecvTimeout-1 {
			count.Waiting++
		}
	}
	return true
}

func tcpState(name []byte) TCPState {
	for s, n := range tcpStateNames {
		if string(name) == n {
			return TCPState(s)
		}
	}
	return TCPOther
}

// word gives the first word and what follows it.
func word(line []byte) (first, rest []byte) {
	line = bytes.TrimLeft(line, " ")
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], line[i+1:]
	}
	return line, nil
}

// hexEndpoint reads an address as %08X or %pI6 writes it (C0000201; 2001:0db8:…, eight groups of four digits),
// and a port as %04X.
func hexEndpoint(addr, port []byte) (netip.AddrPort, bool) {
	p, ok := hexNumber(port)
	if !ok || len(port) != 4 {
		return netip.AddrPort{}, false
	}
	if len(addr) == 8 {
		n, ok := hexNumber(addr)
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), uint16(p)), ok
	}
	if len(addr) != 39 {
		return netip.AddrPort{}, false
	}
	var a [16]byte
	for i := range 8 {
		n, ok := hexNumber(addr[5*i : 5*i+4])
		if !ok || i > 0 && addr[5*i-1] != ':' {
			return netip.AddrPort{}, false
		}
		a[2*i], a[2*i+1] = byte(n>>8), byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a), uint16(p)), true
}

func hexNumber(digits []byte) (uint32, bool) {
	var n uint32
	for _, d := range digits {
		switch {
		case '0' <= d && d <= '9':
			d -= '0'
		case 'a' <= d && d <= 'f':
			d -= 'a' - 10
		case 'A' <= d && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint32(d)
	}
	return n, 0 < len(digits) && len(digits) <= 8
}

func decimal(digits []byte) (uint64, bool) {
	var n uint64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + uint64(d-'0')
	}
	return n, 0 < len(digits) && len(digits) <= 10
}
