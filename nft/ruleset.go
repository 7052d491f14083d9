package nft

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Endpoint is where a connection was sent by its client, before anything translated it: an IP
// protocol number (IPPROTO_* of linux/in.h: 6 is TCP, 17 UDP, 132 SCTP), an address and a port.
type Endpoint struct {
	Protocol uint8
	Addr     netip.Addr // never a 4-in-6 address, never with a zone
	Port     uint16
}

// String is how an element of a set reads in nft's language: "tcp . 192.0.2.10 . 30080".
func (e Endpoint) String() string {
	return fmt.Sprintf("%s . %s . %d", protocolName(e.Protocol), e.Addr, e.Port)
}

func (e Endpoint) compare(o Endpoint) int {
	return cmp.Or(e.Addr.Compare(o.Addr), cmp.Compare(e.Port, o.Port), cmp.Compare(e.Protocol, o.Protocol))
}

// protocolName is the name that nft knows from its own tables, not from /etc/protocols, else the number.
func protocolName(p uint8) string {
	switch p {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(p)
}

// Masquerade says whose connections to an [Endpoint] get the node's address as their source.
type Masquerade uint8

const (
	// Always: every client's. For node ports, external and load-balancer addresses whose traffic
	// policy is Cluster: the reply must come back through this node.
	Always Masquerade = iota
	// ClusterIP: those of the node's own processes (their source may be the virtual address
	// itself, which the backend's node would answer to itself), and those from outside
	// [Ruleset.ClusterCIDRs]. A pod's connections keep the pod's own address: network policies go by it.
	ClusterIP
)

// String is the class as the sets' names begin: "masquerade", "clusterip".
func (m Masquerade) String() string {
	if m == ClusterIP {
		return "clusterip"
	}
	return "masquerade"
}

// Ruleset is everything that the table holds, as a value. The zero Ruleset is a table that
// masquerades nothing and steers nothing.
type Ruleset struct {
	// Virtual has the virtual servers' addresses. One that is not here (traffic policy Local)
	// is not masqueraded, but for Hairpin.
	Virtual map[Endpoint]Masquerade
	// Hairpin has the addresses of pods that are backends: a pod that reaches itself through a
	// virtual server has to see another source than itself. Only the pods of this node matter. An
	// address of the node itself has no effect here.
	Hairpin map[netip.Addr]struct{}
	// ClusterCIDRs are the networks of the cluster's pods. Where a family has none, no source counts
	// as outside.
	ClusterCIDRs []netip.Prefix
	// Steering are in order: the first that matches a packet decides.
	Steering []Steer
}

// Clone is a copy that shares nothing with r.
func (r Ruleset) Clone() Ruleset {
	return Ruleset{maps.Clone(r.Virtual), maps.Clone(r.Hairpin), slices.Clone(r.ClusterCIDRs), slices.Clone(r.Steering)}
}

// Equal is whether both make the same table; the order of ClusterCIDRs does not matter, that of Steering does.
func (r Ruleset) Equal(o Ruleset) bool {
	return maps.Equal(r.Virtual, o.Virtual) && maps.Equal(r.Hairpin, o.Hairpin) &&
		slices.Equal(canonicalCIDRs(r.ClusterCIDRs), canonicalCIDRs(o.ClusterCIDRs)) &&
		slices.Equal(canonicalSteering(r.Steering), canonicalSteering(o.Steering))
}

// without is what of r's elements o has not; what is in rules (ClusterCIDRs, Steering) is not among it. Its cost is linear, and it sorts nothing: most often
// there is no difference among tens of thousands.
func (r Ruleset) without(o Ruleset) Ruleset {
	var out Ruleset
	for e, class := range r.Virtual {
		if other, ok := o.Virtual[e]; !ok || other != class {
			if out.Virtual == nil {
				out.Virtual = make(map[Endpoint]Masquerade)
			}
			out.Virtual[e] = class
		}
	}
	for a := range r.Hairpin {
		if _, ok := o.Hairpin[a]; !ok {
			if out.Hairpin == nil {
				out.Hairpin = make(map[netip.Addr]struct{})
			}
			out.Hairpin[a] = struct{}{}
		}
	}
	return out
}

func expressible(a netip.Addr) bool { return a.IsValid() && !a.Is4In6() && a.Zone() == "" }

// Validate says what no table can express; errors name the address.
func (r Ruleset) Validate() error {
	for e, class := range r.Virtual {
		if !expressible(e.Addr) {
			return fmt.Errorf("virtual server %s: want an IPv4 or IPv6 address without a zone", e)
		}
		if class != Always && class != ClusterIP {
			return fmt.Errorf("virtual server %s: no such class of masquerade: %d", e, class)
		}
	}
	for a := range r.Hairpin {
		if !expressible(a) {
			return fmt.Errorf("hairpin address %s: want an IPv4 or IPv6 address without a zone", a)
		}
	}
	for _, p := range r.ClusterCIDRs {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("cluster CIDR %s: want an IPv4 or IPv6 prefix", p)
		}
	}
	for _, s := range r.Steering {
		if err := s.validate(); err != nil {
			return err
		}
	}
	return nil
}

// canonicalCIDRs are sorted, masked and each there once.
func canonicalCIDRs(in []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}

// chain are the rules of one of the table's chains, in order; nil for one that is not there.
func (r Ruleset) chain(name string) []Rule {
	if name == postrouting {
		return r.rules()
	}
	return r.steeringRules()
}

// elements are the sets' contents, sorted: the one place that knows which element goes into which set.
func (r Ruleset) elements() map[string][]Endpoint {
	sets := make(map[string][]Endpoint)
	for e, class := range r.Virtual {
		name := setName(class.String(), familyOf(e.Addr))
		sets[name] = append(sets[name], e)
	}
	for a := range r.Hairpin {
		name := setName(hairpin, familyOf(a))
		sets[name] = append(sets[name], Endpoint{Addr: a})
	}
	for _, elements := range sets {
		slices.SortFunc(elements, Endpoint.compare)
	}
	return sets
}

// insert is the inverse of elements, for one element.
func (r *Ruleset) insert(set string, e Endpoint) {
	switch s := sets[set]; s.class {
	case hairpin:
		if r.Hairpin == nil {
			r.Hairpin = make(map[netip.Addr]struct{})
		}
		r.Hairpin[e.Addr] = struct{}{}
	default:
		if r.Virtual == nil {
			r.Virtual = make(map[Endpoint]Masquerade)
		}
		class := Always
		if s.class == ClusterIP.String() {
			class = ClusterIP
		}
		r.Virtual[e] = class
	}
}
