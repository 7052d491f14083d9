package sync

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pointsman/pointsman/ipvs"
)

// lane is a mark-keyed virtual server: the real servers of one colour behind one port of a VirtualServer, for
// all ways in that share them, and the addresses whose packets a rule can put onto it.
type lane struct {
	// id is what a lane is made for. It stays when real servers come and go, which are edited in place; anything
	// else is another lane.
	id       string
	protocol ipvs.Protocol
	family   netip.Addr // the unspecified address of the family
	keys     []ipvs.Key // address-keyed, sorted
	want     VirtualServer
}

// mix is which colours a lane serves: one, or two in shares while a switch goes by steps.
type mix struct {
	colour, candidate string
	weight            int32 // the candidate's share, in percent; 0: all to colour
}

func (m mix) String() string {
	if m.weight > 0 {
		return m.colour + "+" + m.candidate
	}
	return m.colour
}

// has says whether a colour is one of the mix.
func (m mix) has(colour string) bool {
	return colour == m.colour || m.weight > 0 && colour == m.candidate
}

// lanesOf are the lanes for the address-keyed virtual servers of one VirtualServer, serving m. They are pure; keys
// have to be sorted, and the lanes come in the order of their first keys.
func lanesOf(t *Target, keys []ipvs.Key, m mix) []*lane {
	var lanes []*lane
	byID := map[string]*lane{}
	for _, key := range keys {
		v := t.Servers[key]
		id := laneID(key, v, m)
		l := byID[id]
		if l == nil {
			family := unspecified(key.Addr)
			l = &lane{id: id, protocol: key.Protocol, family: family, want: *v}
			l.want.Service = laneService(v.scheduled(m), family)
			l.want.Reals = laneReals(v.reals(m))
			l.want.Masquerade, l.want.OnDummy, l.want.mix = nil, false, m
			byID[id] = l
			lanes = append(lanes, l)
		}
		l.keys = append(l.keys, key)
	}
	return lanes
}

func laneID(key ipvs.Key, v *VirtualServer, m mix) string {
	family := "4"
	if key.Addr.Is6() {
		family = "6"
	}
	s := laneService(v.scheduled(m), netip.Addr{})
	parts := []string{strings.ToLower(key.Protocol.String()) + family, v.port, m.String(), s.Scheduler, fmt.Sprintf("%x", uint32(s.Flags))}
	if v.way.LocalOnly {
		parts = append(parts, "local")
	}
	return strings.Join(parts, " ")
}

// laneService is a service keyed by a mark, which is yet to be given, that schedules as s does. One that is
// persistent would not translate ports (ip_vs_sched_persist of net/netfilter/ipvs/ip_vs_core.c takes the
// port of the packet for a mark's), so a client keeps its real server by the hash of its address instead.
func laneService(s ipvs.Service, family netip.Addr) ipvs.Service {
	s.Key = ipvs.Key{Addr: family}
	if s.Flags&ipvs.Persistent != 0 {
		s.Scheduler = "sh"
		s.Flags = ipvs.Sched1 // sh-fallback: not to refuse whose real server is at weight 0
		s.Timeout = 0
		s.Netmask = fullNetmask(family)
	}
	return s
}

// laneReals are real servers of a mark-keyed virtual server: without port translation the packet's own port
// is kept, which is port 0.
func laneReals(reals []ipvs.RealServer) []ipvs.RealServer {
	out := slices.Clone(reals)
	for i := range out {
		if out[i].Forwarding != ipvs.Masquerade {
			out[i].Port = 0
		}
	}
	return slices.CompactFunc(out, func(a, b ipvs.RealServer) bool { return a.RealKey == b.RealKey })
}

// reals are v's real servers when it serves m, sorted. In shares, the weights give each colour its
// percentage whatever the numbers of its endpoints.
func (v *VirtualServer) reals(m mix) []ipvs.RealServer {
	of := func(colour string) (out []ipvs.RealServer) {
		all := usable(v.from, colour, v.way, v.node)
		out = slices.Grow(out, len(all)) // no more than that: it is kept
		for _, e := range all {
			r := realServer(e, v.way, v.forwarding)
			// Without port translation, two ports of one address are one real server.
			if n := len(out); n == 0 || out[n-1].RealKey != r.RealKey {
				out = append(out, r)
			}
		}
		return out
	}
	reals := of(m.colour)
	if m.weight == 0 {
		return reals
	}
	more := of(m.candidate)
	if len(reals) == 0 || len(more) == 0 {
		return append(reals, more...)
	}
	rest, share := uint32(len(more))*uint32(100-m.weight), uint32(len(reals))*uint32(m.weight)
	divisor := gcd(rest, share)
	for i := range reals {
		reals[i].Weight = rest / divisor
	}
	for i := range more {
		more[i].Weight = share / divisor
	}
	reals = append(reals, more...)
	slices.SortFunc(reals, func(a, b ipvs.RealServer) int { return compareReals(a.RealKey, b.RealKey) })
	return reals
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// scheduled is v's service as it has to be to serve m: shares need a scheduler that goes by weights.
func (v *VirtualServer) scheduled(m mix) ipvs.Service {
	s := v.declared
	if m.weight > 0 {
		if by, ok := weighted[s.Scheduler]; ok {
			s.Scheduler = by
		}
	}
	return s
}

// weighted are the schedulers that go by weights, of those that do not (net/netfilter/ipvs/ip_vs_rr.c, _lc.c).
var weighted = map[string]string{"rr": "wrr", "lc": "wlc"}

// colours are the colours of all endpoints behind v, as real servers of it.
func (v *VirtualServer) colours() map[ipvs.RealKey]string {
	colours := make(map[ipvs.RealKey]string, len(v.from))
	for i := range v.from {
		colours[v.realKey(&v.from[i])] = v.from[i].Colour
	}
	return colours
}
