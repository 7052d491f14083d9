package lab

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
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

// Table reads the namespace's IPVS table from the file, which is right only as long as no other namespace
// has virtual servers: where the kernel takes up the next piece of the file it goes on after the number of
// those of all namespaces that it has passed, counted among those of this one, and so leaves some out. Where others have
// some, one that was deleted and is not gone yet too, it is the printed table.
func (n *Namespace) Table() (Table, error) {
	text, err := n.ReadFile("/proc/net/ip_vs")
	if err != nil {
		return nil, err
	}
	t, err := parseTable(text, 16)
	if err == nil && len(t) < servers() {
		return n.PrintedTable()
	}
	return t, err
}

// servers counts the virtual servers of all namespaces: each uses the module of its scheduler.
func servers() (all int) {
	for _, scheduler := range []string{"rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "fo", "ovf", "lblc", "lblcr", "sed", "nq", "twos"} {
		text, err := os.ReadFile("/sys/module/ip_vs_" + scheduler + "/refcnt")
		if err != nil {
			continue // not loaded
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			all += n
		}
	}
	return all
}

// PrintedTable is the table as ipvsadm prints it, which shares no code with pointsman either. It costs a
// process, and is right whatever other namespaces have.
func (n *Namespace) PrintedTable() (Table, error) {
	text, err := n.Run("ipvsadm", "-Ln")
	if err != nil {
		return nil, err
	}
	return parseTable(text, 10)
}

// parseTable reads the file, whose numbers have base 16, or what ipvsadm makes of it, with base 10. Weights
// and connections have base 10 in both.
func parseTable(text string, base int) (Table, error) {
	var t Table
	for i, line := range strings.Split(text, "\n") {
		words := strings.Fields(line)
		var err error
		switch {
		case len(words) == 0, i < 3: // the version and two lines of headings
			continue
		case words[0] == "->" && len(words) == 6 && len(t) > 0:
			r := RealServer{Forward: words[2]}
			r.Addr, err = parseAddr(words[1], base)
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
			mark, err = strconv.ParseUint(words[1], base, 32)
			v.Mark = uint32(mark)
			t = append(t, v)
		case len(words) >= 3:
			v := VirtualServer{Protocol: words[0], Scheduler: words[2], Flags: strings.Join(words[3:], " ")}
			v.Addr, err = parseAddr(words[1], base)
			t = append(t, v)
		default:
			err = fmt.Errorf("not understood")
		}
		if err != nil {
			return nil, fmt.Errorf("the IPVS table, line %d %q: %w", i+1, line, err)
		}
	}
	return t, nil
}

// parseAddr reads "C000020A:7580" and "[2001:0db8:…]:7580", or with base 10 as an AddrPort prints itself.
func parseAddr(s string, base int) (netip.AddrPort, error) {
	if base == 10 {
		return netip.ParseAddrPort(s)
	}
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
