package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pointsman/pointsman/ipvs"
)

// ListTimeouts writes what ipvsadm -L --timeout does.
func ListTimeouts(w io.Writer, t ipvs.Timeouts) error {
	seconds := func(d time.Duration) int64 { return int64(d / time.Second) }
	_, err := fmt.Fprintf(w, "Timeout (tcp tcpfin udp): %d %d %d\n", seconds(t.TCP), seconds(t.TCPFin), seconds(t.UDP))
	return err
}

// ListDaemons writes what ipvsadm -L --daemon does: one line for each daemon, nothing without any.
func ListDaemons(w io.Writer, daemons []ipvs.Daemon) error {
	b := bufio.NewWriter(w)
	for _, d := range daemons {
		kind := "backup"
		if d.State&ipvs.Master != 0 {
			kind = "master"
		}
		fmt.Fprintf(b, "%s sync daemon (mcast=%s, syncid=%d", kind, d.Interface, d.SyncID)
		if d.MaxLen != 0 {
			fmt.Fprintf(b, ", maxlen=%d", d.MaxLen)
		}
		if d.Group.IsValid() {
			fmt.Fprintf(b, ", group=%s", numeric(d.Group))
		}
		if d.Port != 0 {
			fmt.Fprintf(b, ", port=%d", d.Port)
		}
		if d.TTL != 0 {
			fmt.Fprintf(b, ", ttl=%d", d.TTL)
		}
		b.WriteString(")\n")
	}
	return b.Flush()
}

// connection is a line of /proc/net/ip_vs_conn.
type connection struct {
	protocol, state              string
	client, virtual, destination netip.AddrPort
	expires                      uint64 // seconds
	engine, data                 string // persistence engine and what it keeps
}

// ListConnections writes what ipvsadm -L -c does, from the text of /proc/net/ip_vs_conn of the network
// namespace. Of opts it looks at Numeric, Resolver and PersistentConn, which adds the persistence
// engine's columns.
func ListConnections(w io.Writer, proc io.Reader, opts Options) error {
	var list []connection
	lines := bufio.NewScanner(proc)
	lines.Scan() // the title
	for lines.Scan() {
		c, err := parseConnection(lines.Text())
		if err != nil {
			return fmt.Errorf("connection entry %q: %w", lines.Text(), err)
		}
		list = append(list, c)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("connection entries: %w", err)
	}
	var n names
	addrs := map[netip.Addr]struct{}{}
	for _, c := range list {
		for _, a := range []netip.AddrPort{c.client, c.virtual, c.destination} {
			addrs[a.Addr()] = struct{}{}
		}
	}
	n.prepare(opts, addrs)

	b := bufio.NewWriter(w)
	b.WriteString("IPVS connection entries\n")
	fmt.Fprintf(b, "pro expire %-11s %-18s %-18s ", "state", "source", "virtual")
	if opts.PersistentConn {
		fmt.Fprintf(b, "%-18s %-16s %s\n", "destination", "pe name", "pe_data")
	} else {
		b.WriteString("destination\n")
	}
	for _, c := range list {
		protocol := map[string]ipvs.Protocol{"TCP": ipvs.TCP, "UDP": ipvs.UDP, "SCTP": ipvs.SCTP}[c.protocol]
		name := func(a netip.AddrPort) string { return n.endpoint(a.Addr(), a.Port(), protocol) }
		fmt.Fprintf(b, "%-3s %-6s %-11s %-18s %-18s ", c.protocol, fmt.Sprintf("%02d:%02d", c.expires/60, c.expires%60),
			c.state, name(c.client), name(c.virtual))
		// The destination's column is narrower here than its title.
		if opts.PersistentConn && c.data != "" {
			fmt.Fprintf(b, "%-16s %-18s %s\n", name(c.destination), c.engine, c.data)
		} else {
			fmt.Fprintf(b, "%s\n", name(c.destination))
		}
	}
	return b.Flush()
}

func parseConnection(line string) (c connection, err error) {
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return c, fmt.Errorf("%d fields", len(fields))
	}
	c.protocol, c.state = fields[0], fields[7]
	for i, at := range []*netip.AddrPort{&c.client, &c.virtual, &c.destination} {
		if *at, err = parseEndpoint(fields[1+2*i], fields[2+2*i]); err != nil {
			return c, err
		}
	}
	if c.expires, err = strconv.ParseUint(fields[8], 10, 32); err != nil {
		return c, err
	}
	if len(fields) > 10 {
		c.engine, c.data = fields[9], fields[10]
	}
	return c, nil
}

// parseEndpoint reads an IPv4 address as eight hexadecimal digits or an IPv6 one in its own notation, and
// a port of four digits.
func parseEndpoint(host, service string) (netip.AddrPort, error) {
	port, err := strconv.ParseUint(service, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		n, err := strconv.ParseUint(host, 16, 32)
		if err != nil {
			return netip.AddrPort{}, err
		}
		a = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}
