package sync

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/rollout"
)

// Target is what the kernel should hold.
type Target struct {
	Servers map[ipvs.Key]*VirtualServer
	// ByOwner are the keys of Servers by VirtualServer, sorted.
	ByOwner map[types.NamespacedName][]ipvs.Key
	// Rollouts is what each VirtualServer's new connections go to, and what is staged.
	Rollouts map[types.NamespacedName]*serving
	// Masquerade is the desired content of our nftables table.
	Masquerade nft.Ruleset
	// Addresses are those that the dummy device should hold where no interface does, sorted.
	Addresses []netip.Addr
	// Held are the owners that are declared in a way that cannot be served, and of which nothing
	// better is known: their virtual servers stay as they are.
	Held map[types.NamespacedName]bool
	// Coming are the virtual servers, without real servers, of Services that lack nothing but our label;
	// see [Reconciler.prepare].
	Coming []*VirtualServer
	// Problems are what could not be had, by VirtualServer.
	Problems map[types.NamespacedName][]string

	ipv6 bool // there is an IPv6 virtual server
}

// VirtualServer is one IPVS virtual server as it should be.
type VirtualServer struct {
	Owner   types.NamespacedName // the VirtualServer object
	Service ipvs.Service
	Reals   []ipvs.RealServer // of the colours of mix, sorted, each with weight > 0
	Drain   DrainPolicy
	// Masquerade is the class of the address in our nftables table; nil where packets are not
	// masqueraded.
	Masquerade *nft.Masquerade
	// OnDummy: the dummy device holds the address, unless an interface of the node does.
	OnDummy bool

	mix     mix
	preview bool // a way in of its own for the previewed colour: not switched with the others

	// What Service and Reals were derived from, and lanes are.
	declared   ipvs.Service
	port       string // the Service port's name
	from       []endpoints.Endpoint
	way        endpoints.Way
	forwarding v1alpha1.ForwardingMethod
	node       string
}

// Colour is the colour of a real server among all endpoints behind v, "" when it is none of them.
func (v *VirtualServer) Colour(key ipvs.RealKey) string {
	if v == nil {
		return ""
	}
	for i := range v.from {
		e := &v.from[i]
		if v.realKey(e) == key {
			return e.Colour
		}
	}
	return ""
}

// realKey is an endpoint as v has it for a real server.
func (v *VirtualServer) realKey(e *endpoints.Endpoint) ipvs.RealKey {
	key := realServer(e, v.way, v.forwarding).RealKey
	if v.Service.Mark != 0 && v.forwarding != v1alpha1.Masquerade {
		key.Port = 0
	}
	return key
}

// DrainPolicy says how long a real server may drain, and what then.
type DrainPolicy struct {
	Timeout time.Duration `json:"timeout"`
	Cut     bool          `json:"cut,omitempty"` // delete it then, which cuts its connections; else keep it
}

// Input is all that a Target follows from.
type Input struct {
	Snapshot *endpoints.Snapshot
	Rollouts map[types.NamespacedName]rollout.State
	NodeName string
	// NodeAddresses are those of this node's addresses that serve node ports.
	NodeAddresses []netip.Addr
	// ClusterCIDRs are the pod networks: a client from elsewhere that uses a ClusterIP is masqueraded.
	ClusterCIDRs []netip.Prefix
	// Steering is the node's way to key virtual servers, "" for Auto.
	Steering v1alpha1.Steering
}

// serving is what one VirtualServer's new connections go to, what is to be staged beside it, and how it is keyed.
type serving struct {
	mix
	staged   string // the colour that is staged; "" when none is
	previews string // the colour that clients of sources get; "" when none do
	sources  []netip.Prefix
	steering v1alpha1.Steering
}

// aside says whether real servers are held that no address-keyed virtual server has.
func (s serving) aside() bool { return s.staged != "" || s.previews != "" }

func (s serving) equal(o serving) bool {
	return s.mix == o.mix && s.staged == o.staged && s.previews == o.previews && s.steering == o.steering && slices.Equal(s.sources, o.sources)
}

func servingOf(s *endpoints.Server, state rollout.State, node v1alpha1.Steering) serving {
	out := serving{mix: mix{colour: state.Active}, steering: cmp.Or(s.Spec.Steering, node, v1alpha1.SteeringAuto)}
	if state.Candidate != "" && state.Candidate != state.Active {
		out.staged = state.Candidate
		if state.Weight > 0 {
			out.candidate, out.weight = state.Candidate, state.Weight
		}
	}
	if p := s.Spec.Preview; p != nil && p.Colour != state.Active {
		for _, text := range p.Sources {
			if source, err := netip.ParsePrefix(text); err == nil { // validation has parsed it already
				out.previews, out.sources = p.Colour, append(out.sources, source)
			}
		}
	}
	return out
}

// Desire derives the target. It is pure; its cost is linear in ways in × endpoints.
func Desire(in Input) Target { return new(deriving).next(in) }

var protocols = map[corev1.Protocol]ipvs.Protocol{
	corev1.ProtocolTCP: ipvs.TCP, corev1.ProtocolUDP: ipvs.UDP, corev1.ProtocolSCTP: ipvs.SCTP,
}

// usable are the endpoints of a colour that may get new connections by this way: the ready ones;
// where no one is ready, those that still serve while they terminate, as kube-proxy does.
func usable(all []endpoints.Endpoint, colour string, way endpoints.Way, node string) []*endpoints.Endpoint {
	if colour == "" {
		return nil
	}
	pick := func(good func(*endpoints.Endpoint) bool) []*endpoints.Endpoint {
		out := make([]*endpoints.Endpoint, 0, len(all))
		for i := range all {
			e := &all[i]
			if e.Colour != colour || e.Addr.Is4() != way.Addr.Is4() || way.LocalOnly && e.Node != node {
				continue
			}
			if good(e) {
				out = append(out, e)
			}
		}
		return out
	}
	if ready := pick(func(e *endpoints.Endpoint) bool { return e.Ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(e *endpoints.Endpoint) bool { return e.Serving && e.Terminating })
}

// Ready counts, by colour, the ready endpoints of a server that could serve every one of its ports:
// the smallest number over them. A colour that lacks a port counts 0.
func Ready(s *endpoints.Server) map[string]int {
	var least map[string]int
	for i := range s.Ports {
		n := count(s.Ports[i].Endpoints, func(e *endpoints.Endpoint) bool { return e.Ready && e.Colour != "" })
		if least == nil {
			least = n
			continue
		}
		for c := range least {
			least[c] = min(least[c], n[c])
		}
	}
	return least
}

// count counts, by colour, the endpoints that are good. Those of a colour tend to come in a row, and a map is
// asked once for each row: this is done for every server at every change.
func count(all []endpoints.Endpoint, good func(*endpoints.Endpoint) bool) map[string]int {
	n := make(map[string]int, 2)
	colour, row := "", 0
	for i := range all {
		e := &all[i]
		if !good(e) {
			continue
		}
		if e.Colour != colour && row > 0 {
			n[colour] += row
			row = 0
		}
		colour = e.Colour
		row++
	}
	if row > 0 {
		n[colour] += row
	}
	return n
}

// service is the IPVS service of a key as its VirtualServer asks for it.
func service(key ipvs.Key, s *endpoints.Server) ipvs.Service {
	out := ipvs.Service{Key: key, Scheduler: s.Spec.Scheduler.Name, Netmask: fullNetmask(key.Addr)}
	// A scheduler that hashes refuses the clients whose slot is at weight 0 unless it may fall back.
	if s.Spec.Scheduler.Name == "sh" || s.Spec.Scheduler.Name == "mh" {
		out.Flags |= ipvs.Sched1
	}
	for _, f := range s.Spec.Scheduler.Flags {
		out.Flags |= schedulerFlags[f]
	}
	if s.Affinity > 0 {
		out.Flags |= ipvs.Persistent
		out.Timeout = s.Affinity
	}
	return out
}

// fullNetmask is the netmask of a service of an address's family that groups no clients.
func fullNetmask(family netip.Addr) uint32 {
	if family.Is6() {
		return 128
	}
	return 0xffffffff
}

// schedulerFlags are the names that ipvsadm -b knows (IP_VS_SVC_F_SCHED_SH_* and _MH_*, linux/ip_vs.h).
var schedulerFlags = map[string]ipvs.ServiceFlags{
	"flag-1": ipvs.Sched1, "flag-2": ipvs.Sched2, "flag-3": ipvs.Sched3,
	"sh-fallback": ipvs.Sched1, "sh-port": ipvs.Sched2,
	"mh-fallback": ipvs.Sched1, "mh-port": ipvs.Sched2,
}

// realServer is an endpoint as a real server. Only masquerading can translate the port.
func realServer(e *endpoints.Endpoint, way endpoints.Way, forwarding v1alpha1.ForwardingMethod) ipvs.RealServer {
	r := ipvs.RealServer{RealKey: ipvs.RealKey{Addr: e.Addr, Port: e.Port}, Weight: 1}
	switch forwarding {
	case v1alpha1.Tunnel:
		r.Forwarding, r.Port = ipvs.Tunnel, way.Port
	case v1alpha1.Direct:
		r.Forwarding, r.Port = ipvs.Direct, way.Port
	}
	return r
}

// masqueradeClass is how clients of a way are masqueraded, nil for not at all.
func masqueradeClass(way endpoints.Way, forwarding v1alpha1.ForwardingMethod) *nft.Masquerade {
	class := nft.Always
	switch {
	case forwarding != v1alpha1.Masquerade:
		return nil
	case way.Kind == endpoints.ClusterIP:
		class = nft.ClusterIP
	case way.LocalOnly:
		return nil // the client's own address must reach the backend
	}
	return &class
}

// MasqueradeElement is the element of our nftables table that stands for a virtual server.
func MasqueradeElement(k ipvs.Key) nft.Endpoint {
	return nft.Endpoint{Protocol: uint8(k.Protocol), Addr: k.Addr, Port: k.Port}
}

func sameFamily(addrs []netip.Addr, as netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a.Is4() == as.Is4() {
			out = append(out, a)
		}
	}
	return out
}
