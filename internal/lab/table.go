package lab

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Table is a namespace's IPVS table as the kernel itself prints it (/proc/net/ip_vs): a second
// opinion that shares no code with pointsman and is cheap enough to poll.
type Table []VirtualServer

// VirtualServer is one virtual server of a [Table].
type VirtualServer struct {
	Protocol  string         // TCP, UDP or SCTP; "FWM" for one that is keyed by a mark
	Addr      netip.AddrPort // zero for one that is keyed by a mark
	Mark      uint32
	Scheduler string
	Flags     string // what follows the scheduler
	Real      []RealServer
}

// RealServer is one real server of a [VirtualServer].
type RealServer struct {
	Addr             netip.AddrPort
	Forward          string // Masq, Route, Tunnel or Local
	Weight           int
	Active, Inactive int // connections
}

// Table reads the namespace's IPVS table.
func (n *Namespace) Table() (Table, error) {
	text, err := n.ReadFile("/proc/net/ip_vs")
	if err != nil {
		return nil, err
	}
	return parseTable(text)
}

func parseTable(text string) (Table, error) {
	var t Table
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		var err error
		switch {
		case len(words) == 0, i < 3: // the version and two lines of headings
			continue
		case words[0] == "->" && len(words) == 6 && len(t) > 0:
			r := RealServer{Forward: words[2]}
			r.Addr, err = parseHexAddr(words[1])
			for at, n := range []*int{&r.Weight, &r.Active, &r.Inactive} {
				if err == nil {
					*n, err = strconv.Atoi(words[3+at])
				}
			}
			last := &t[len(t)-1]
			last.Real = append(last.Real, r)
		case words[0] == "FWM" && len(words) >= 3:
			v := VirtualServer{Protocol: words[0], Scheduler: words[2], Flags: strings.Join(words[3:], " ")}
			var mark uint64
			mark, err = strconv.ParseUint(words[1], 16, 32)
			v.Mark = uint32(mark)
			t = append(t, v)
		case len(words) >= 3:
			v := VirtualServer{Protocol: words[0], Scheduler: words[2], Flags: strings.Join(words[3:], " ")}
			v.Addr, err = parseHexAddr(words[1])
			t = append(t, v)
		default:
			err = fmt.Errorf("not understood")
		}
		if err != nil {
			return nil, fmt.Errorf("/proc/net/ip_vs, line %d %q: %w", i+1, line, err)
		}
	}
	return t, nil
}

// parseHexAddr reads "C000020A:7580" and "[2001:0db8:…]:7580".
func parseHexAddr(s string) (netip.AddrPort, error) {
	at := strings.LastIndexByte(s, ':')
	if at < 0 {
		return netip.AddrPort{}, fmt.Errorf("no address and port: %q", s)
	}
	port, err := strconv.ParseUint(s[at+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var addr netip.Addr
	if bracketed := s[:at]; strings.HasPrefix(bracketed, "[") {
		addr, err = netip.ParseAddr(strings.Trim(bracketed, "[]"))
	} else {
		var four []byte
		if four, err = hex.DecodeString(s[:at]); err == nil {
			var ok bool
			if addr, ok = netip.AddrFromSlice(four); !ok {
				err = fmt.Errorf("not an address: %q", s)
			}
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), err
}

// Find gives the virtual server at the address; false when there is none.
func (t Table) Find(protocol string, addr netip.AddrPort) (VirtualServer, bool) {
	for _, v := range t {
		if v.Protocol == protocol && v.Addr == addr {
			return v, true
		}
	}
	return VirtualServer{}, false
}

// Serving are the real servers that get new connections, sorted.
func (v VirtualServer) Serving() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, r := range v.Real {
		if r.Weight > 0 {
			addrs = append(addrs, r.Addr)
		}
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return addrs
}

// Draining are the real servers that keep the connections they have and get no new ones, sorted.
func (v VirtualServer) Draining() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, r := range v.Real {
		if r.Weight == 0 {
			addrs = append(addrs, r.Addr)
		}
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return addrs
}

// Addrs are the backends' addresses, sorted: what [VirtualServer.Serving] should say when they serve.
func Addrs(backends []*Backend) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, b := range backends {
		addrs = append(addrs, b.Addr)
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	return addrs
}
