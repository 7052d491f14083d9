// Package gen draws IPVS values for property tests: every field that the kernel lets one set, with the
// odd values more often than a uniform choice would give.
//
// What it draws is valid for [github.com/pointsman/pointsman/ipvs.Conn.Apply], unless a caller mixes
// drawn parts. It is for tests only.
package gen

import (
	"encoding/binary"
	"math"
	"net/netip"

	"github.com/pointsman/pointsman/ipvs"
	"pgregory.net/rapid"
)

// Limits keeps what is drawn within what another program can express.
type Limits struct {
	MaxWeight uint32 // 0: the kernel's
	// Schedulers to choose from; nil: all.
	Schedulers []string
	// Ipvsadm: only what ipvsadm's arguments can say: its weights, no one-packet TCP service, no third flag of
	// sh and mh.
	Ipvsadm bool
	// Engines to choose from beside none.
	Engines []string
	// NearKeys draws from few keys, so that an op often meets an earlier one's object.
	NearKeys bool
}

// Schedulers are the ones that Linux ships.
var Schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}

func v4(t *rapid.T, near bool) netip.Addr {
	if near {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 3).Draw(t, "host"))})
	}
	// Any first byte that is no multicast, loopback or "this network": sorting has quirks with far apart ones.
	b := [4]byte{byte(rapid.SampledFrom([]int{1, 10, 100, 126, 172, 192, 203, 223}).Draw(t, "net"))}
	b[1] = rapid.Byte().Draw(t, "b")
	b[2] = rapid.Byte().Draw(t, "c")
	b[3] = byte(rapid.IntRange(1, 254).Draw(t, "d"))
	return netip.AddrFrom4(b)
}

func v6(t *rapid.T, near bool) netip.Addr {
	var b [16]byte
	copy(b[:], netip.MustParseAddr("2001:db8::").AsSlice())
	if !near {
		binary.BigEndian.PutUint16(b[4:], uint16(rapid.SampledFrom([]int{0, 1, 0x8000, 0xffff}).Draw(t, "net")))
		binary.BigEndian.PutUint32(b[8:], rapid.SampledFrom([]uint32{0, 1, 0x80000000, 0xfffffffe}).Draw(t, "mid"))
		b[14] = rapid.Byte().Draw(t, "hi")
	}
	b[15] = byte(rapid.IntRange(1, 3).Draw(t, "lo"))
	return netip.AddrFrom16(b)
}

func addr(t *rapid.T, six, near bool) netip.Addr {
	if six {
		return v6(t, near)
	}
	return v4(t, near)
}

func port(t *rapid.T, near bool) uint16 {
	if near {
		return uint16(rapid.IntRange(80, 81).Draw(t, "port"))
	}
	return rapid.OneOf(rapid.SampledFrom([]uint16{1, 21, 53, 80, 443, 5060, 30080, 65535}), rapid.Uint16Min(1)).Draw(t, "port")
}

// Key draws a virtual server's identity.
func Key(t *rapid.T, l Limits) ipvs.Key {
	six := rapid.Bool().Draw(t, "ipv6")
	if rapid.IntRange(0, 3).Draw(t, "marked") == 0 {
		k := ipvs.Key{Addr: netip.IPv4Unspecified()}
		if six {
			k.Addr = netip.IPv6Unspecified()
		}
		if l.NearKeys {
			k.Mark = rapid.Uint32Range(1, 2).Draw(t, "mark")
		} else {
			k.Mark = rapid.OneOf(rapid.Uint32Range(1, 9), rapid.Uint32Min(1), rapid.SampledFrom([]uint32{math.MaxUint32, 1 << 31})).Draw(t, "mark")
		}
		return k
	}
	k := ipvs.Key{
		Protocol: rapid.SampledFrom([]ipvs.Protocol{ipvs.TCP, ipvs.UDP, ipvs.SCTP}).Draw(t, "protocol"),
		Addr:     addr(t, six, l.NearKeys), Port: port(t, l.NearKeys),
	}
	if rapid.IntRange(0, 9).Draw(t, "every port") == 0 {
		k.Port = 0
	}
	return k
}

// Service draws what can be set of the virtual server.
func Service(t *rapid.T, key ipvs.Key, l Limits) ipvs.Service {
	names := l.Schedulers
	if names == nil {
		names = Schedulers
	}
	s := ipvs.Service{Key: key, Scheduler: rapid.SampledFrom(names).Draw(t, "scheduler"), Netmask: math.MaxUint32}
	if key.Addr.Is6() {
		s.Netmask = 128
	}
	for _, flag := range []ipvs.ServiceFlags{ipvs.Sched1, ipvs.Sched2, ipvs.Sched3} {
		third := flag == ipvs.Sched3 && (s.Scheduler == "sh" || s.Scheduler == "mh")
		if rapid.IntRange(0, 2).Draw(t, "flag") == 0 && !(third && l.Ipvsadm) {
			s.Flags |= flag
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "one packet") == 0 && (!l.Ipvsadm || key.Mark != 0 || key.Protocol == ipvs.UDP) {
		s.Flags |= ipvs.OnePacket
	}
	if key.Mark == 0 && key.Port == 0 || rapid.IntRange(0, 2).Draw(t, "persistent") == 0 {
		s.Flags |= ipvs.Persistent
		s.Timeout = rapid.SampledFrom([]uint32{1, 300, 10800, 31 * 86400}).Draw(t, "timeout")
		if key.Addr.Is6() {
			s.Netmask = rapid.SampledFrom([]uint32{1, 64, 127, 128}).Draw(t, "prefix")
		} else {
			s.Netmask = rapid.SampledFrom([]uint32{math.MaxUint32, 0xffffff00, 0xff000000, 0xfffffffe, 0xff00ff00, 0}).Draw(t, "mask")
		}
		if len(l.Engines) > 0 && rapid.Bool().Draw(t, "engine") {
			s.PersistenceEngine = rapid.SampledFrom(l.Engines).Draw(t, "engine name")
		}
	}
	return s
}

// Real draws a real server for the virtual server.
func Real(t *rapid.T, key ipvs.Key, l Limits) ipvs.RealServer {
	maxWeight := l.MaxWeight
	if maxWeight == 0 {
		maxWeight = math.MaxInt32
	}
	if l.Ipvsadm {
		maxWeight = min(maxWeight, 65535)
	}
	r := ipvs.RealServer{
		Forwarding: rapid.SampledFrom([]ipvs.Forwarding{ipvs.Masquerade, ipvs.Tunnel, ipvs.Direct}).Draw(t, "forwarding"),
		Weight:     rapid.OneOf(rapid.Uint32Range(0, min(3, maxWeight)), rapid.Uint32Max(maxWeight), rapid.Just(maxWeight)).Draw(t, "weight"),
	}
	if rapid.IntRange(0, 2).Draw(t, "thresholds") == 0 {
		r.Upper = rapid.OneOf(rapid.Uint32Max(9), rapid.Uint32Max(math.MaxInt32)).Draw(t, "upper")
		r.Lower = rapid.Uint32Max(r.Upper).Draw(t, "lower")
	}
	six := key.Addr.Is6()
	if r.Forwarding == ipvs.Tunnel {
		six = six != (rapid.IntRange(0, 3).Draw(t, "other family") == 0)
		r.TunnelType = rapid.SampledFrom([]ipvs.TunnelType{ipvs.IPIP, ipvs.GUE, ipvs.GRE}).Draw(t, "tunnel")
		switch r.TunnelType {
		case ipvs.GUE:
			r.TunnelPort = rapid.Uint16Min(1).Draw(t, "tunnel port")
			r.TunnelFlags = rapid.Uint16Max(2).Draw(t, "tunnel flags")
		case ipvs.GRE:
			r.TunnelFlags = rapid.Uint16Max(1).Draw(t, "tunnel flags")
		}
	}
	r.Addr = addr(t, six, l.NearKeys)
	switch {
	case r.Forwarding == ipvs.Masquerade || key.Mark != 0:
		r.Port = port(t, l.NearKeys)
		if rapid.IntRange(0, 4).Draw(t, "no port") == 0 {
			r.Port = 0
		}
	default:
		r.Port = key.Port
	}
	return r
}

// Table draws a table of up to services virtual servers with up to reals real servers each, as the ops
// that make it.
func Table(t *rapid.T, services, reals int, l Limits) []ipvs.Op {
	var ops []ipvs.Op
	seen := map[ipvs.Key]bool{}
	for range rapid.IntRange(0, services).Draw(t, "services") {
		key := Key(t, l)
		if seen[key] {
			continue
		}
		seen[key] = true
		ops = append(ops, ipvs.Op{Verb: ipvs.AddService, Service: Service(t, key, l)})
		there := map[ipvs.RealKey]bool{}
		for range rapid.IntRange(0, reals).Draw(t, "reals") {
			r := Real(t, key, l)
			if !there[r.RealKey] {
				there[r.RealKey] = true
				ops = append(ops, ipvs.Op{Verb: ipvs.AddReal, Service: ipvs.Service{Key: key}, Real: r})
			}
		}
	}
	return ops
}

// Op draws an op that may or may not fit the table that it meets.
func Op(t *rapid.T, l Limits) ipvs.Op {
	key := Key(t, l)
	op := ipvs.Op{Verb: rapid.SampledFrom([]ipvs.Verb{
		ipvs.AddService, ipvs.AddService, ipvs.EditService, ipvs.DelService,
		ipvs.AddReal, ipvs.AddReal, ipvs.AddReal, ipvs.AddReal, ipvs.EditReal, ipvs.EditReal, ipvs.DelReal,
	}).Draw(t, "verb"), Service: ipvs.Service{Key: key}}
	switch op.Verb {
	case ipvs.AddService, ipvs.EditService:
		op.Service = Service(t, key, l)
		if rapid.IntRange(0, 19).Draw(t, "bad scheduler") == 0 {
			op.Service.Scheduler = "nonesuch"
		}
	case ipvs.AddReal, ipvs.EditReal:
		op.Real = Real(t, key, l)
		switch rapid.IntRange(0, 19).Draw(t, "bad real") {
		case 0:
			op.Real.Lower = op.Real.Upper + 1
		case 1:
			op.Real.Addr = addr(t, rapid.Bool().Draw(t, "six"), true)
		case 2:
			op.Real.Addr = rapid.SampledFrom([]netip.Addr{
				netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255"),
				netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1"), netip.MustParseAddr("::"),
			}).Draw(t, "bad address")
		}
	case ipvs.DelReal:
		op.Real.RealKey = Real(t, key, l).RealKey
	}
	return op
}
