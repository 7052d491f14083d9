package probe

import (
	"fmt"
	"net/netip"
	"slices"
)

// Reading is what the kernel had counted for one real server's TCP connections at one moment, summed over the virtual
// servers that it stands in. Leave those of other protocols out: nothing can be said of them.
type Reading struct {
	// Counted since the real server was made: connections, packets in both directions, bytes of the packets back
	// with their IP headers.
	Conns, InPackets, OutPackets, OutBytes uint64
	// Established now.
	Established uint32
	// Waiting are the connections in SYN_RECV now that had no packet for a second or more; 0 where they were not read.
	Waiting uint32
	// Masquerade tells that the packets back pass through this node. With other forwarding they do not, and their
	// counters stay zero.
	Masquerade bool
}

// SignKind is what is wrong with a real server.
type SignKind string

// What is wrong.
const (
	// Silent: connections were made to it and nothing came back.
	Silent SignKind = "Silent"
	// Refusing: all that came back were resets.
	Refusing SignKind = "Refusing"
	// Stuck: connections to it wait for their handshake.
	Stuck SignKind = "Stuck"
)

// Sign is one real server that looks broken.
type Sign struct {
	Server netip.AddrPort
	Kind   SignKind
	Seen   string // in words, with the numbers
}

// String is the real server and what was seen.
func (s Sign) String() string { return s.Server.String() + ": " + s.Seen }

const (
	// signConns is the least number of connections that anything is concluded from.
	signConns = 5
	// A reset carries no TCP option, so its length is that of the headers; the answer to a SYN always carries some.
	resetBytes4, resetBytes6 = 40, 60
)

// Signs compares two readings of a colour's real servers, some seconds apart, and gives those that look broken,
// sorted. A real server that was not read before was made since, so it counted from zero.
//
//   - Silent: five connections or more were made since, and not one packet came back. Since the last of them may
//     have begun this instant, some client must have waited for a second: it has sent its SYN again, or its
//     connection is Waiting.
//   - Refusing: five or more were made, and what came back were bare headers, about one for each: resets, and no
//     answer to a SYN. (A client may try a refused connection up to three times.)
//   - Stuck: five or more are Waiting, and those are half as many as were made since. This is the only one that
//     speaks without Masquerade. A flood of forged SYNs looks the same, on every real server alike.
//
// An idle real server gives no sign, nor does one of which all that fails is one client in two. Connections that are
// accepted and then reset or left without an answer are not seen: the kernel's counters do not tell them from
// others. A probe does.
func Signs(before, now map[netip.AddrPort]Reading) []Sign {
	var signs []Sign
	for server, n := range now {
		if kind, text := sign(server.Addr(), before[server], n); kind != "" {
			signs = append(signs, Sign{Server: server, Kind: kind, Seen: text})
		}
	}
	slices.SortFunc(signs, func(a, b Sign) int { return a.Server.Compare(b.Server) })
	return signs
}

func sign(server netip.Addr, b, n Reading) (SignKind, string) {
	if n.Conns < b.Conns || n.InPackets < b.InPackets || n.OutPackets < b.OutPackets || n.OutBytes < b.OutBytes {
		b = Reading{} // made anew since
	}
	conns, in, out, bytes := n.Conns-b.Conns, n.InPackets-b.InPackets, n.OutPackets-b.OutPackets, n.OutBytes-b.OutBytes
	reset := uint64(resetBytes4)
	if server.Is6() && !server.Is4In6() {
		reset = resetBytes6
	}
	waiting := uint64(n.Waiting)
	switch {
	case n.Masquerade && conns >= signConns && out == 0 && n.Established <= b.Established && (in > conns || waiting >= signConns):
		return Silent, fmt.Sprintf("%d connections were made and nothing came back", conns)
	case n.Masquerade && conns >= signConns && 4*out >= 3*conns && out <= 4*conns && bytes <= out*reset && n.Established <= b.Established:
		return Refusing, fmt.Sprintf("%d connections were made and all were refused", conns)
	case waiting >= signConns && waiting*2 >= conns:
		return Stuck, fmt.Sprintf("%d connections wait for their handshake, %d were made since", waiting, conns)
	}
	return "", ""
}
