package ipvsadm

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pointsman/pointsman/ipvs"
)

// Resolver gives names. List calls Host from several goroutines at a time.
type Resolver interface {
	// Host is the name of an address, or "".
	Host(netip.Addr) string
	// Port is the name of a port of the protocol, or "".
	Port(uint16, ipvs.Protocol) string
}

// SystemResolver looks names up as the C library does with its default configuration: in /etc/hosts, then
// the DNS, and in /etc/services. The zero value is ready to use.
type SystemResolver struct {
	// Timeout is how long all look-ups in the DNS together may take, from the first on; 0: five seconds.
	Timeout time.Duration
	// ServicesFile is read for the names of ports; "": /etc/services.
	ServicesFile string

	start    sync.Once
	deadline time.Time
	read     sync.Once
	ports    map[portKey]string
}

type portKey struct {
	port     uint16
	protocol ipvs.Protocol
}

// Host is the address's first name.
func (r *SystemResolver) Host(a netip.Addr) string {
	r.start.Do(func() {
		timeout := r.Timeout
		if timeout == 0 {
			timeout = 5 * time.Second
		}
		r.deadline = time.Now().Add(timeout)
	})
	ctx, cancel := context.WithDeadline(context.Background(), r.deadline)
	defer cancel()
	list, err := net.DefaultResolver.LookupAddr(ctx, a.String())
	if err != nil || len(list) == 0 { // no name is no error to a listing
		return ""
	}
	return strings.TrimSuffix(list[0], ".")
}

// Port is the port's official name, the first that the file has.
func (r *SystemResolver) Port(port uint16, protocol ipvs.Protocol) string {
	r.read.Do(func() {
		path := r.ServicesFile
		if path == "" {
			path = "/etc/services"
		}
		r.ports = readServices(path)
	})
	return r.ports[portKey{port, protocol}]
}

// readServices reads services(5). A file that is not there is as one without names, as for the C library.
func readServices(path string) map[portKey]string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	protocols := map[string]ipvs.Protocol{"tcp": ipvs.TCP, "udp": ipvs.UDP, "sctp": ipvs.SCTP}
	ports := map[portKey]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, name, _ := strings.Cut(fields[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		protocol, known := protocols[name]
		key := portKey{uint16(port), protocol}
		if _, taken := ports[key]; err == nil && known && !taken {
			ports[key] = fields[0]
		}
	}
	return ports
}

// names writes addresses and ports for one listing.
type names struct {
	resolver Resolver // nil: numbers
	hosts    map[netip.Addr]string
}

// prepare looks all addresses up, many at a time: one after the other a dead DNS server would cost a
// time-out each.
func (n *names) prepare(opts Options, addrs map[netip.Addr]struct{}) {
	if opts.Numeric {
		return
	}
	n.resolver = opts.Resolver
	if n.resolver == nil {
		n.resolver = &SystemResolver{}
	}
	n.hosts = make(map[netip.Addr]string, len(addrs))
	var mu sync.Mutex
	var group sync.WaitGroup
	room := make(chan struct{}, 32)
	for a := range addrs {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			name := n.resolver.Host(a)
			mu.Lock()
			defer mu.Unlock()
			n.hosts[a] = name
		})
	}
	group.Wait()
}

func addresses(table []ipvs.ServiceInfo) map[netip.Addr]struct{} {
	set := map[netip.Addr]struct{}{}
	for i := range table {
		if table[i].Mark == 0 {
			set[table[i].Addr] = struct{}{}
		}
		for j := range table[i].Reals {
			set[table[i].Reals[j].Addr] = struct{}{}
		}
	}
	return set
}

// endpointMax is the longest address and port in bytes; a longer name is cut.
const endpointMax = 59

// endpoint is address:port, an IPv6 address (or the name of one) in brackets.
func (n *names) endpoint(a netip.Addr, port uint16, protocol ipvs.Protocol) string {
	host, service := "", ""
	if n.resolver != nil {
		host, service = n.hosts[a], n.resolver.Port(port, protocol)
	}
	if host == "" {
		host = numeric(a)
	}
	if service == "" {
		service = strconv.Itoa(int(port))
	}
	if a.Is6() {
		host = "[" + host + "]"
	}
	text := host + ":" + service
	return text[:min(len(text), endpointMax)]
}

// numeric is an address as inet_ntop(3) writes it: of an IPv6 one whose first 96 bits are zero the rest is
// written as IPv4, unless it is a small number.
func numeric(a netip.Addr) string {
	if a.Is6() {
		b := a.As16()
		if [12]byte(b[:12]) == [12]byte{} && (b[12] != 0 || b[13] != 0) {
			return fmt.Sprintf("::%d.%d.%d.%d", b[12], b[13], b[14], b[15])
		}
	}
	return a.String()
}
