package sync

import (
	"fmt"
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
	Rollouts map[types.NamespacedName]serving
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
	for _, e := range v.from {
		if v.realKey(e) == key {
			return e.Colour
		}
	}
	return ""
}

// realKey is an endpoint as v has it for a real server.
func (v *VirtualServer) realKey(e endpoints.Endpoint) ipvs.RealKey {
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

func servingOf(s *endpoints.Server, state rollout.State, node v1alpha1.Steering) serving {
	out := serving{mix: mix{colour: state.Active}, steering: steeringOf(s.Spec.Steering, node)}
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

// addPreview adds the node port that leads to one colour, whichever is active: for each protocol, to the first
// port of the Service that has it.
func (t *Target) addPreview(in Input, s *endpoints.Server, p *v1alpha1.Preview) {
	seen := map[corev1.Protocol]bool{}
	for i := range s.Ports {
		if port := &s.Ports[i]; !seen[port.Protocol] {
			seen[port.Protocol] = true
			for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
				t.addWay(in, s, port, endpoints.Way{Kind: endpoints.NodePort, Addr: family, Port: uint16(p.NodePort)}, mix{colour: p.Colour}, true)
			}
		}
	}
}

// Desire derives the target. It is pure; its cost is linear in ways in × endpoints.
func Desire(in Input) Target {
	t := Target{
		Servers:  map[ipvs.Key]*VirtualServer{},
		ByOwner:  map[types.NamespacedName][]ipvs.Key{},
		Rollouts: map[types.NamespacedName]serving{},
		Held:     map[types.NamespacedName]bool{},
		Problems: map[types.NamespacedName][]string{},
		Masquerade: nft.Ruleset{
			Virtual: map[nft.Endpoint]nft.Masquerade{}, Hairpin: map[netip.Addr]struct{}{}, ClusterCIDRs: in.ClusterCIDRs,
		},
	}
	for i := range in.Snapshot.Servers {
		s := &in.Snapshot.Servers[i]
		if s.Refused != nil {
			if !s.Refused.Gone {
				t.Held[s.Key] = true
			}
			t.addComing(in, s)
			continue
		}
		now := servingOf(s, in.Rollouts[s.Key], in.Steering)
		t.Rollouts[s.Key] = now
		for j := range s.Ports {
			t.addPort(in, s, &s.Ports[j], now.mix)
		}
		if p := s.Spec.Preview; p != nil && p.NodePort != 0 && len(s.Ports) > 0 {
			t.addPreview(in, s, p)
		}
		slices.SortFunc(t.ByOwner[s.Key], compareKeys)
	}
	for key, v := range t.Servers {
		if v.Masquerade != nil {
			t.Masquerade.Virtual[MasqueradeElement(key)] = *v.Masquerade
		}
		if v.OnDummy {
			t.Addresses = append(t.Addresses, key.Addr)
		}
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	return t
}

// addPort adds the virtual servers of every way in to one Service port, serving m.
func (t *Target) addPort(in Input, s *endpoints.Server, p *endpoints.Port, m mix) {
	for _, way := range p.Ways {
		t.addWay(in, s, p, way, m, false)
	}
	for _, e := range p.Endpoints {
		// A pod reaches itself by way of its own node only. Those of all colours: a switch changes nothing here.
		if s.Spec.Forwarding == v1alpha1.Masquerade && e.Colour != "" && (e.Node == "" || e.Node == in.NodeName) {
			t.Masquerade.Hairpin[e.Addr] = struct{}{}
		}
	}
}

// addWay adds the virtual servers of one way in.
func (t *Target) addWay(in Input, s *endpoints.Server, p *endpoints.Port, way endpoints.Way, m mix, preview bool) {
	addresses := []netip.Addr{way.Addr}
	if way.Kind == endpoints.NodePort {
		addresses = sameFamily(in.NodeAddresses, way.Addr)
	}
	each := VirtualServer{
		Owner:      s.Key,
		OnDummy:    way.Kind != endpoints.NodePort,
		Masquerade: masqueradeClass(way, s.Spec.Forwarding),
		Drain: DrainPolicy{
			Timeout: s.Spec.Switch.Drain.Timeout.Duration,
			Cut:     s.Spec.Switch.Drain.OnTimeout == v1alpha1.DrainCut,
		},
		mix: m, preview: preview, port: p.Name, from: p.Endpoints, way: way, forwarding: s.Spec.Forwarding, node: in.NodeName,
	}
	each.Reals = each.reals(m)
	for _, addr := range addresses {
		v := each
		key := ipvs.Key{Protocol: protocols[p.Protocol], Addr: addr, Port: way.Port}
		if other, taken := t.Servers[key]; taken {
			if other.Owner != s.Key || other.preview != preview {
				t.Problems[s.Key] = append(t.Problems[s.Key], fmt.Sprintf("%s is served for VirtualServer %s already; give one of them another port", key, other.Owner))
			}
			continue
		}
		v.declared = service(key, s)
		v.Service = v.scheduled(m)
		t.Servers[key] = &v
		t.ByOwner[s.Key] = append(t.ByOwner[s.Key], key)
	}
}

var protocols = map[corev1.Protocol]ipvs.Protocol{
	corev1.ProtocolTCP: ipvs.TCP, corev1.ProtocolUDP: ipvs.UDP, corev1.ProtocolSCTP: ipvs.SCTP,
}

// usable are the endpoints of a colour that may get new connections by this way: the ready ones;
// where no one is ready, those that still serve while they terminate, as kube-proxy does.
func usable(all []endpoints.Endpoint, colour string, way endpoints.Way, node string) []endpoints.Endpoint {
	pick := func(good func(endpoints.Endpoint) bool) (out []endpoints.Endpoint) {
		for _, e := range all {
			if e.Colour != colour || e.Colour == "" || e.Addr.Is4() != way.Addr.Is4() || way.LocalOnly && e.Node != node {
				continue
			}
			if good(e) {
				out = append(out, e)
			}
		}
		return out
	}
	if ready := pick(func(e endpoints.Endpoint) bool { return e.Ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(e endpoints.Endpoint) bool { return e.Serving && e.Terminating })
}

// Ready counts, by colour, the ready endpoints of a server that could serve every one of its ports:
// the smallest number over them. A colour that lacks a port counts 0.
func Ready(s *endpoints.Server) map[string]int {
	var least map[string]int
	for i := range s.Ports {
		n := map[string]int{}
		for _, e := range s.Ports[i].Endpoints {
			if e.Ready && e.Colour != "" {
				n[e.Colour]++
			}
		}
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

// service is the IPVS service of a key as its VirtualServer asks for it.
func service(key ipvs.Key, s *endpoints.Server) ipvs.Service {
	out := ipvs.Service{Key: key, Scheduler: s.Spec.Scheduler.Name, Netmask: 0xffffffff}
	if key.Addr.Is6() {
		out.Netmask = 128
	}
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

// schedulerFlags are the names that ipvsadm -b knows (IP_VS_SVC_F_SCHED_SH_* and _MH_*, linux/ip_vs.h).
var schedulerFlags = map[string]ipvs.ServiceFlags{
	"flag-1": ipvs.Sched1, "flag-2": ipvs.Sched2, "flag-3": ipvs.Sched3,
	"sh-fallback": ipvs.Sched1, "sh-port": ipvs.Sched2,
	"mh-fallback": ipvs.Sched1, "mh-port": ipvs.Sched2,
}

// realServer is an endpoint as a real server. Only masquerading can translate the port.
func realServer(e endpoints.Endpoint, way endpoints.Way, forwarding v1alpha1.ForwardingMethod) ipvs.RealServer {
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
