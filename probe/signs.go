package probe

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Window is what the kernel counted over some seconds, up to [WindowMost], of the TCP connections to one real server, or
// to several.
type Window struct {
	// Counted in the window: connections; packets in both directions; and of the packets back, the bytes that
	// their TCP headers and data had, without the IP header, so that both families compare.
	Conns, InPackets, OutPackets, OutBytes uint64
	// In the connection table at its end: established ones, those that had a FIN, those closed by a reset, which
	// are kept for ten seconds, and half-open ones. Of the half-open, Waiting had no packet for a second or more.
	Established, Ended, Closed, HalfOpen, Waiting int
	// How many more there are than at its beginning; negative: fewer.
	MoreEstablished, MoreEnded int
	// Masquerade tells that the packets back pass through this node. With other forwarding they do not, and their
	// counters stay zero.
	Masquerade bool
}

// WindowLeast and WindowMost are the seconds that a window is to span: long enough that a client whose SYN was lost has sent it
// again, and short enough that every connection that was made in it is still in the kernel's table, however it ended.
const (
	WindowLeast = 3
	WindowMost  = 9
)

// And adds up windows of the same span.
func (w Window) And(o Window) Window {
	return Window{
		w.Conns + o.Conns, w.InPackets + o.InPackets, w.OutPackets + o.OutPackets, w.OutBytes + o.OutBytes,
		w.Established + o.Established, w.Ended + o.Ended, w.Closed + o.Closed, w.HalfOpen + o.HalfOpen, w.Waiting + o.Waiting,
		w.MoreEstablished + o.MoreEstablished, w.MoreEnded + o.MoreEnded, w.Masquerade && o.Masquerade,
	}
}

// SignKind is what is wrong.
type SignKind string

// What is wrong, from the worst.
const (
	// Silent: connections were made and nothing came back.
	Silent SignKind = "Silent"
	// Refusing: all that came back were resets.
	Refusing SignKind = "Refusing"
	// Resetting: connections are accepted and reset, without a byte of an answer.
	Resetting SignKind = "Resetting"
	// Stuck: not one connection gets beyond its handshake, though clients try again.
	Stuck SignKind = "Stuck"
)

var signWords = map[SignKind]string{
	Silent:    "connections are made and nothing comes back",
	Refusing:  "connections are refused",
	Resetting: "connections are accepted and at once reset",
	Stuck:     "connections stay half open",
}

// SignConns is the least number of connections that anything is concluded from, and signConnsAll the least where they went to
// several real servers, each of which had fewer: a handful may be of one client that is odd.
const (
	SignConns    = 5
	signConnsAll = 10
)

// TCP headers. A reset that answers no connection carries no option; the answer to a SYN carries some, 20 bytes at
// most; a packet of a connection without data carries a timestamp at most.
const (
	resetBytes    = 20
	answerBytes   = 40
	datalessBytes = 32
)

// Kind is what looks wrong with a real server; "" when nothing does, or nothing can be said. The tests are strict, since
// healthy traffic must pass all of them, and a version that is bad fails one of them with all of its connections.
//
// With Masquerade:
//
//   - Silent: not half of the connections had a single packet back, and clients have waited for a second: so
//     long that they sent their SYN again. A healthy real server answers each SYN at once, also one of a scanner or of a
//     flood; and packets to other connections can only add to those that came back.
//   - Refusing: what came back were bare headers, about one for each connection (a client may try three times).
//     The answer to a SYN is never that short.
//   - Resetting: nearly all of the connections were closed by a reset, hardly one by a FIN or kept; what came back
//     are two packets each or a few more, without data; and not the client reset them, since then it would have sent two
//     packets more than it got. So a client that aborts after its answer, a health check that connects and
//     leaves, in order or not, and a scanner are none.
//
// Without it nothing is known of what came back. Then only this is told:
//
//   - Stuck: there is no connection but half-open ones, and each had its SYN sent again, and again. That a flood and a
//     scanner don't do: theirs are one packet, or two.
//
// What is not seen: a real server that answers older connections and drops new SYNs, or resets new ones (the packets
// of the others hide it), connections that are accepted and left without an answer, and refused ones without
// Masquerade. A probe sees all of these.
func (w Window) Kind() SignKind {
	n := w.Conns
	if n < SignConns {
		return ""
	}
	if !w.Masquerade {
		if w.Established+w.Ended+w.Closed == 0 && uint64(w.HalfOpen) >= n && 2*w.InPackets >= 5*n {
			return Stuck
		}
		return ""
	}
	tried := w.OutPackets == 0 && w.InPackets > n || w.Waiting >= SignConns && uint64(4*w.Waiting) >= n
	switch {
	case 2*w.OutPackets < n && tried && w.MoreEstablished <= 0:
		return Silent
	case 4*w.OutPackets >= 3*n && w.OutPackets <= 4*n && w.OutBytes <= w.OutPackets*resetBytes && w.MoreEstablished <= 0:
		return Refusing
	case uint64(10*w.Closed) >= 9*n && 10*w.MoreEnded <= int(n) && 10*w.MoreEstablished <= int(n) &&
		10*w.OutPackets >= 18*n && w.OutPackets <= 5*n && 2*w.InPackets <= 2*w.OutPackets+3*n &&
		w.OutBytes <= n*answerBytes+(w.OutPackets-n)*datalessBytes:
		return Resetting
	}
	return ""
}

// Sign is what looks wrong with a colour.
type Sign struct {
	Kind    SignKind
	Servers []netip.AddrPort // those that show it, sorted; none: all of them together
	Of      int              // addresses of the colour that were looked at
}

// maxServers is how many real servers a Sign's text names.
const maxServers = 3

// String says it to a person. It has no number that changes while the sign stays.
func (s Sign) String() string {
	if len(s.Servers) == 0 {
		return fmt.Sprintf("%s, at all of its %d addresses", signWords[s.Kind], s.Of)
	}
	var names []string
	for _, server := range s.Servers[:min(len(s.Servers), maxServers)] {
		names = append(names, server.String())
	}
	if more := len(s.Servers) - maxServers; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf("%s, at %s", signWords[s.Kind], strings.Join(names, ", "))
}

// Signs gives what looks wrong with a colour, by the windows of all its real servers, idle ones included. Of its
// endpoints, spare are more than have to serve.
//
// A broken real server is no sign that the version is, where as many as have to are left: they are counted as those that
// are not ready, or do not pass a probe. Neither is an idle one. But where nothing that is connected to answers, that is
// one, whatever is spare; and where each gets too few connections to say anything of it, what they do together
// tells, since a bad version is bad everywhere.
func Signs(windows map[netip.AddrPort]Window, spare int) []Sign {
	all, bad := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	var sum Window
	byKind := map[SignKind][]netip.AddrPort{}
	first := true
	for server, w := range windows {
		all[server.Addr()] = true
		if first {
			sum, first = w, false
		} else {
			sum = sum.And(w)
		}
		if kind := w.Kind(); kind != "" {
			byKind[kind] = append(byKind[kind], server)
			bad[server.Addr()] = true
		}
	}
	var signs []Sign
	switch {
	case len(bad) > max(0, spare):
		for _, kind := range slices.Sorted(maps.Keys(byKind)) {
			servers := byKind[kind]
			slices.SortFunc(servers, func(a, b netip.AddrPort) int {
				return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
			})
			signs = append(signs, Sign{Kind: kind, Servers: servers, Of: len(all)})
		}
	case sum.Conns >= signConnsAll && sum.Kind() != "":
		signs = []Sign{{Kind: sum.Kind(), Of: len(all)}}
	}
	return signs
}
