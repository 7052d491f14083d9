package sync

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
)

// deriving derives one target after the other, and keeps of each what the next has in common with it: a Service
// of which nothing changed costs a comparison of pointers, and its VirtualServers are the same ones. Whatever
// came before, the target is what [Desire] makes of the input. Its zero value has derived nothing.
type deriving struct {
	in    Input // of the last target
	parts map[types.NamespacedName]*part
	last  Target
}

// part is what one server asks for, whatever others do.
type part struct {
	of     *endpoints.Server
	now    serving
	wanted []wanted
	held   bool
	coming []*VirtualServer
}

type wanted struct {
	*VirtualServer
	hairpin []netip.Addr // of the pods that may reach themselves by way of it
}

// next is the target of an input.
func (d *deriving) next(in Input) Target {
	alike := d.parts != nil && d.in.NodeName == in.NodeName &&
		slices.Equal(d.in.NodeAddresses, in.NodeAddresses) && slices.Equal(d.in.ClusterCIDRs, in.ClusterCIDRs)
	if !alike {
		d.parts = make(map[types.NamespacedName]*part, len(in.Snapshot.Servers))
	}
	whole := !alike // all of the target is to be made anew
	var changed [][2]*part
	for i := range in.Snapshot.Servers {
		s := &in.Snapshot.Servers[i]
		before, now := d.parts[s.Key], servingOf(s, in.Rollouts[s.Key], in.Steering)
		if before != nil && before.now.equal(now) && before.of.Same(s) {
			before.of = s // an older Snapshot is not kept for it
			continue
		}
		after := derivePart(&in, s, now)
		d.parts[s.Key] = after
		if changed = append(changed, [2]*part{before, after}); before == nil || !sameShape(before, after) {
			whole = true
		}
	}
	if len(d.parts) > len(in.Snapshot.Servers) {
		d.forget(in.Snapshot)
		whole = true
	}
	switch {
	case whole:
		d.last = d.assemble(in)
	case len(changed) > 0:
		d.last = exchange(d.last, changed)
	}
	d.in = Input{NodeName: in.NodeName, NodeAddresses: in.NodeAddresses, ClusterCIDRs: in.ClusterCIDRs}
	return d.last
}

// forget drops the parts of servers that are declared no more.
func (d *deriving) forget(snap *endpoints.Snapshot) {
	declared := make(map[types.NamespacedName]bool, len(snap.Servers))
	for i := range snap.Servers {
		declared[snap.Servers[i].Key] = true
	}
	maps.DeleteFunc(d.parts, func(key types.NamespacedName, _ *part) bool { return !declared[key] })
}

// assemble makes a target of the parts. Who comes first has an address.
func (d *deriving) assemble(in Input) Target {
	t := Target{
		Servers:  make(map[ipvs.Key]*VirtualServer, len(in.Snapshot.Servers)),
		ByOwner:  make(map[types.NamespacedName][]ipvs.Key, len(in.Snapshot.Servers)),
		Rollouts: make(map[types.NamespacedName]*serving, len(in.Snapshot.Servers)),
		Held:     map[types.NamespacedName]bool{},
		Problems: map[types.NamespacedName][]string{},
		Masquerade: nft.Ruleset{
			Virtual: make(map[nft.Endpoint]nft.Masquerade, len(in.Snapshot.Servers)), Hairpin: map[netip.Addr]struct{}{}, ClusterCIDRs: in.ClusterCIDRs,
		},
	}
	for i := range in.Snapshot.Servers {
		p := d.parts[in.Snapshot.Servers[i].Key]
		if p.held {
			t.Held[p.of.Key] = true
		}
		if p.of.Refused == nil {
			t.Rollouts[p.of.Key] = &p.now
		}
		t.Coming = append(t.Coming, p.coming...)
		for _, v := range p.wanted {
			t.add(v)
		}
		slices.SortFunc(t.ByOwner[p.of.Key], compareKeys)
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	return t
}

func (t *Target) add(v wanted) {
	key := v.Service.Key
	if other, taken := t.Servers[key]; taken {
		if other.Owner != v.Owner || other.preview != v.preview {
			t.Problems[v.Owner] = append(t.Problems[v.Owner], fmt.Sprintf("%s is served for VirtualServer %s already; give one of them another port", key, other.Owner))
		}
		return
	}
	t.Servers[key] = v.VirtualServer
	t.ByOwner[v.Owner] = append(t.ByOwner[v.Owner], key)
	t.ipv6 = t.ipv6 || key.Addr.Is6()
	for _, addr := range v.hairpin {
		t.Masquerade.Hairpin[addr] = struct{}{}
	}
	if v.Masquerade != nil {
		t.Masquerade.Virtual[MasqueradeElement(key)] = *v.Masquerade
	}
	if v.OnDummy {
		t.Addresses = append(t.Addresses, key.Addr)
	}
}

// exchange puts parts in the place of others of the same shape: all that differs are virtual servers and what they serve.
func exchange(t Target, changed [][2]*part) Target {
	t.Servers, t.Rollouts = maps.Clone(t.Servers), maps.Clone(t.Rollouts)
	for _, c := range changed {
		if c[1].of.Refused == nil {
			t.Rollouts[c[1].of.Key] = &c[1].now
		} else {
			delete(t.Rollouts, c[1].of.Key)
		}
		for i, v := range c[0].wanted {
			if key := v.Service.Key; t.Servers[key] == v.VirtualServer {
				t.Servers[key] = c[1].wanted[i].VirtualServer
			}
		}
	}
	return t
}

// sameShape is whether all of a target but its virtual servers is the same with either of two parts of a server.
func sameShape(a, b *part) bool {
	return a.held == b.held && len(a.coming) == 0 && len(b.coming) == 0 &&
		slices.EqualFunc(a.wanted, b.wanted, func(a, b wanted) bool {
			return a.Service.Key == b.Service.Key && a.OnDummy == b.OnDummy && (a.Masquerade == nil) == (b.Masquerade == nil) &&
				(a.Masquerade == nil || *a.Masquerade == *b.Masquerade) && slices.Equal(a.hairpin, b.hairpin)
		})
}

func derivePart(in *Input, s *endpoints.Server, now serving) *part {
	p := &part{of: s, now: now}
	if s.Refused != nil {
		p.held, p.coming = !s.Refused.Gone, coming(in, s)
		return p
	}
	for i := range s.Ports {
		port := &s.Ports[i]
		hairpin := hairpins(in, s, port)
		for _, way := range port.Ways {
			p.addWay(in, port, way, now.mix, hairpin)
		}
	}
	if preview := s.Spec.Preview; preview != nil && preview.NodePort != nil {
		p.addPreview(in, preview)
	}
	return p
}

// hairpins are the pods behind a port that may reach themselves: by way of their own node only. Those of all
// colours, so that a switch changes nothing here.
func hairpins(in *Input, s *endpoints.Server, port *endpoints.Port) (hairpin []netip.Addr) {
	if s.Spec.Forwarding != v1alpha1.Masquerade {
		return nil
	}
	for i := range port.Endpoints {
		if e := &port.Endpoints[i]; e.Colour != "" && (e.Node == "" || e.Node == in.NodeName) {
			hairpin = append(hairpin, e.Addr)
		}
	}
	return hairpin
}

// addWay adds the virtual servers of one way in to a Service port, serving m.
func (p *part) addWay(in *Input, port *endpoints.Port, way endpoints.Way, m mix, hairpin []netip.Addr) {
	s := p.of
	each := VirtualServer{
		Owner:      s.Key,
		OnDummy:    way.Kind != endpoints.NodePort,
		Masquerade: masqueradeClass(way, s.Spec.Forwarding),
		Drain: DrainPolicy{
			Timeout: s.Spec.Switch.Drain.Timeout.Duration,
			Cut:     s.Spec.Switch.Drain.OnTimeout == v1alpha1.DrainCut,
		},
		mix: m, port: port.Name, from: port.Endpoints, way: way, forwarding: s.Spec.Forwarding, node: in.NodeName,
	}
	if each.Masquerade == nil {
		hairpin = nil
	}
	each.Reals = each.reals(m)
	for _, addr := range in.addresses(way) {
		v := each
		v.declared = service(ipvs.Key{Protocol: protocols[port.Protocol], Addr: addr, Port: way.Port}, s)
		v.Service = v.scheduled(m)
		p.wanted = append(p.wanted, wanted{&v, hairpin})
	}
}

// addPreview adds the node port that leads to one colour, whichever is active: for each protocol, to the first
// port of the Service that has it.
func (p *part) addPreview(in *Input, preview *v1alpha1.Preview) {
	seen := map[corev1.Protocol]bool{}
	for i := range p.of.Ports {
		port := &p.of.Ports[i]
		if seen[port.Protocol] {
			continue
		}
		seen[port.Protocol] = true
		for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			first := len(p.wanted)
			p.addWay(in, port, endpoints.Way{Kind: endpoints.NodePort, Addr: family, Port: uint16(*preview.NodePort)}, mix{colour: preview.Colour}, nil)
			for _, w := range p.wanted[first:] {
				w.preview = true
			}
		}
	}
}

// addresses are those of this node at which a way is.
func (in *Input) addresses(way endpoints.Way) []netip.Addr {
	if way.Kind == endpoints.NodePort {
		return sameFamily(in.NodeAddresses, way.Addr)
	}
	return []netip.Addr{way.Addr}
}
