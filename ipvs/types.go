package ipvs

import (
	"fmt"
	"net/netip"
)

// Protocol is the IP protocol number of an address-keyed virtual server; 0 for a mark-keyed one.
type Protocol uint8

// The protocols that IPVS balances (IPPROTO_*, linux/in.h).
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// String is the name in ipvsadm's listing: TCP, UDP, SCTP.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// Key identifies a virtual server. It is comparable, and the whole identity: two virtual servers of
// one network namespace never share one.
//
// Either Protocol, Addr and Port say which packets it takes (Port 0 takes every port), or Mark does;
// then Protocol and Port are 0 and Addr is the unspecified address of the family (0.0.0.0 or ::).
type Key struct {
	Mark     uint32 // firewall mark; 0 for an address-keyed virtual server
	Protocol Protocol
	Addr     netip.Addr // never a 4-in-6 address
	Port     uint16
}

// Service is a virtual server without its real servers, as a comparable value: everything that
// the kernel lets one set, nothing that it counts.
type Service struct {
	Key
	Scheduler string // "rr", "wrr", "mh"…: the kernel module is ip_vs_<name>
	Flags     ServiceFlags
	// Timeout is the persistence timeout in seconds; 0 unless Flags has Persistent.
	Timeout uint32
	// Netmask groups clients for persistence. IPv4: the mask as a number (0xffffff00 is /24);
	// IPv6: the prefix length in bits. A service without persistence has the full mask.
	Netmask uint32
	// PersistenceEngine is the name of the persistence engine ("sip"), or "".
	PersistenceEngine string
}

// ServiceFlags are IP_VS_SVC_F_* of linux/ip_vs.h, without IP_VS_SVC_F_HASHED, which is the kernel's own.
type ServiceFlags uint32

// Flags of a service. Sched1 to Sched3 mean what the scheduler says: for sh they are sh-fallback and
// sh-port, for mh mh-fallback and mh-port.
const (
	Persistent ServiceFlags = 0x01 // IP_VS_SVC_F_PERSISTENT
	OnePacket  ServiceFlags = 0x04 // IP_VS_SVC_F_ONEPACKET
	Sched1     ServiceFlags = 0x08 // IP_VS_SVC_F_SCHED1
	Sched2     ServiceFlags = 0x10 // IP_VS_SVC_F_SCHED2
	Sched3     ServiceFlags = 0x20 // IP_VS_SVC_F_SCHED3
)

// Forwarding is how packets get to a real server (IP_VS_CONN_F_FWD_MASK of linux/ip_vs.h).
type Forwarding uint32

// Forwarding methods. Local and Bypass are the kernel's own and cannot be asked for.
const (
	Masquerade Forwarding = 0 // IP_VS_CONN_F_MASQ
	Local      Forwarding = 1 // IP_VS_CONN_F_LOCALNODE
	Tunnel     Forwarding = 2 // IP_VS_CONN_F_TUNNEL
	Direct     Forwarding = 3 // IP_VS_CONN_F_DROUTE
	Bypass     Forwarding = 4 // IP_VS_CONN_F_BYPASS
)

// TunnelType is the encapsulation of forwarding method Tunnel (IP_VS_CONN_F_TUNNEL_TYPE_*).
type TunnelType uint8

// Tunnel types.
const (
	IPIP TunnelType = 0
	GUE  TunnelType = 1
	GRE  TunnelType = 2
)

// RealKey identifies a real server within its virtual server.
type RealKey struct {
	Addr netip.Addr // never a 4-in-6 address; its family may differ from the service's with Tunnel
	Port uint16     // 0 for a port-0 or mark-keyed service with Direct or Tunnel
}

// RealServer is a real server as a comparable value: what can be set, not what is counted.
type RealServer struct {
	RealKey
	Forwarding Forwarding
	Weight     uint32 // 0: no new connections
	// Upper and Lower are the connection thresholds of overload; 0: none.
	Upper, Lower uint32
	TunnelType   TunnelType
	TunnelPort   uint16 // GUE only
	TunnelFlags  uint16 // IP_VS_TUNNEL_ENCAP_FLAG_*: checksum options of GUE and GRE
}

// Counters are what the kernel counted for a service or a real server since it was made, 64 bits
// wide where the kernel has them (since 4.1), and its estimates of the present rates.
type Counters struct {
	Conns, InPackets, OutPackets, InBytes, OutBytes uint64
	// Per second.
	ConnRate, InPacketRate, OutPacketRate, InByteRate, OutByteRate uint64
}

// ServiceInfo is a virtual server as read from the kernel.
type ServiceInfo struct {
	Service
	Counters Counters
	Reals    []RealInfo // in the kernel's order
}

// RealInfo is a real server as read from the kernel.
type RealInfo struct {
	RealServer
	// Active connections are established; Inactive ones are opening, closing or closed and not yet
	// forgotten; Persistent ones are templates of session affinity.
	Active, Inactive, Persistent uint32
	Counters                     *Counters // nil when they were left; see [Conn.LeaveCounters]
}

// Verb is what an Op does.
type Verb uint8

// The verbs, each one netlink command.
const (
	AddService Verb = iota
	EditService
	DelService
	AddReal
	EditReal
	DelReal
)

// Op is one change of the kernel's table, as a comparable value. DelService uses only the Key of
// Service; the verbs on real servers use the Key of Service and Real (DelReal only its RealKey).
type Op struct {
	Verb    Verb
	Service Service
	Real    RealServer
}
