package nft

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The table's layout: what is the same whatever the Ruleset.
const (
	// Table is the name of the one table that is ours; its family is inet.
	Table = "pointsman"

	postrouting = "postrouting"
	steerIn     = "steer_in"
	steerOut    = "steer_out"

	hairpin = "hairpin"

	tableComment = "made by pointsman; changes are undone"
)

// chain is one of the table's base chains.
type chain struct {
	kind     string
	hook     uint32
	hookName string
	priority int32
	comment  string
}

// chainOrder is the order in which chains are read and told of.
var chainOrder = append([]string{postrouting}, steeringChains...)

var chains = map[string]chain{
	// Source NAT has no other hook. The priority is NF_IP_PRI_NAT_SRC (linux/netfilter_ipv4.h), "srcnat" to nft.
	postrouting: {"nat", unix.NF_INET_POST_ROUTING, "postrouting", 100, "what IPVS forwards and needs the address of the node"},
	// IPVS takes its packets from the input hook at 98 and 99, and from the output hook at -99 and -98
	// (ip_vs_ops4 of net/netfilter/ipvs/ip_vs_core.c). Marking there, and not before, keeps the mark away from routing
	// and the reverse path filter. On output conntrack, at -200, comes first, as it does on input.
	steerIn:  {"filter", unix.NF_INET_LOCAL_IN, "input", 90, "what a virtual server of a mark takes, from outside and from pods"},
	steerOut: {"filter", unix.NF_INET_LOCAL_OUT, "output", -110, "what a virtual server of a mark takes, from this node"},
}

// steeringChains are there, both with the same rules, only while there is something to steer.
var steeringChains = []string{steerIn, steerOut}

// family is an address family, as NFPROTO_* (linux/netfilter.h).
type family uint8

const (
	ipv4 family = 2
	ipv6 family = 10
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// bytes is the length of an address.
func (f family) bytes() int {
	if f == ipv4 {
		return 4
	}
	return 16
}

// ip is the family's protocol in nft's language.
func (f family) ip() string {
	if f == ipv4 {
		return "ip"
	}
	return "ip6"
}

// set is one of the table's sets.
type set struct {
	name    string
	class   string // "masquerade", "clusterip", hairpin
	family  family
	key     nftables.SetDatatype
	parts   []nftables.SetDatatype
	comment string
}

func setName(class string, f family) string {
	if f == ipv4 {
		return class + "4"
	}
	return class + "6"
}

// setOrder is the order in which sets are made, listed and filled.
var setOrder = []string{"masquerade4", "masquerade6", "clusterip4", "clusterip6", "hairpin4", "hairpin6"}

var sets = func() map[string]set {
	all := make(map[string]set)
	for _, f := range []family{ipv4, ipv6} {
		addr := nftables.TypeIPAddr
		if f == ipv6 {
			addr = nftables.TypeIP6Addr
		}
		original := []nftables.SetDatatype{nftables.TypeInetProto, addr, nftables.TypeInetService}
		for _, s := range []set{
			{class: Always.String(), parts: original, comment: "virtual servers: every client"},
			{class: ClusterIP.String(), parts: original, comment: "virtual servers: clients that are no pods"},
			{class: hairpin, parts: []nftables.SetDatatype{addr, addr}, comment: "pods that may reach themselves"},
		} {
			s.name, s.family = setName(s.class, f), f
			s.key = nftables.MustConcatSetType(s.parts...)
			all[s.name] = s
		}
	}
	return all
}()

// encode is the element as the kernel keeps it: each part at a multiple of four bytes.
func (s set) encode(e Endpoint) []byte {
	addr := e.Addr.AsSlice()
	if s.class == hairpin {
		return append(addr, addr...)
	}
	key := append([]byte{e.Protocol, 0, 0, 0}, addr...)
	return append(key, byte(e.Port>>8), byte(e.Port), 0, 0)
}

// decode is the inverse of encode. An element that encode does not make is an error.
func (s set) decode(key []byte) (Endpoint, error) {
	n := s.family.bytes()
	if len(key) != int(s.key.Bytes) {
		return Endpoint{}, fmt.Errorf("an element of set %s has %d bytes, want %d", s.name, len(key), s.key.Bytes)
	}
	var e Endpoint
	if s.class == hairpin {
		e.Addr, _ = netip.AddrFromSlice(key[:n])
	} else {
		e.Protocol = key[0]
		e.Addr, _ = netip.AddrFromSlice(key[4 : 4+n])
		e.Port = uint16(key[4+n])<<8 | uint16(key[5+n])
	}
	if !slices.Equal(s.encode(e), key) {
		return e, fmt.Errorf("set %s has the foreign element %x", s.name, key)
	}
	return e, nil
}

// text is the element in nft's language.
func (s set) text(e Endpoint) string {
	if s.class == hairpin {
		return fmt.Sprintf("%s . %s", e.Addr, e.Addr)
	}
	return e.String()
}

// typeText is the set's type in nft's language.
func (s set) typeText() string {
	names := make([]string, len(s.parts))
	for i, p := range s.parts {
		names[i] = p.Name
	}
	return strings.Join(names, " . ")
}
