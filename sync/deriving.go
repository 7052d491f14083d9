package sync

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

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
	active string
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
		before, active := d.parts[s.Key], in.Rollouts[s.Key].Active
		if before != nil && before.active == active && before.of.Same(s) {
			before.of = s // an older Snapshot is not kept for it
			continue
		}
		now := derivePart(&in, s, active)
		d.parts[s.Key] = now
		if changed = append(changed, [2]*part{before, now}); before == nil || !sameShape(before, now) {
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
		t.Coming = append(t.Coming, p.coming...)
		for _, v := range p.wanted {
			t.add(v)
		}
	}
	slices.SortFunc(t.Addresses, netip.Addr.Compare)
	t.Addresses = slices.Compact(t.Addresses)
	return t
}

func (t *Target) add(v wanted) {
	key := v.Service.Key
	if other, taken := t.Servers[key]; taken {
		if other.Owner != v.Owner {
			t.Problems[v.Owner] = append(t.Problems[v.Owner], fmt.Sprintf("%s is served for VirtualServer %s already; give one of them another port", key, other.Owner))
		}
		return
	}
	t.Servers[key] = v.VirtualServer
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

// exchange puts parts in the place of others of the same shape: all that differs are virtual servers.
func exchange(t Target, changed [][2]*part) Target {
	t.Servers = maps.Clone(t.Servers)
	for _, c := range changed {
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

func derivePart(in *Input, s *endpoints.Server, active string) *part {
	p := &part{of: s, active: active}
	if s.Refused != nil {
		p.held, p.coming = !s.Refused.Gone, coming(in, s)
		return p
	}
	for i := range s.Ports {
		p.addPort(in, &s.Ports[i])
	}
	return p
}

// addPort adds the virtual servers of every way in to one Service port.
func (p *part) addPort(in *Input, port *endpoints.Port) {
	s := p.of
	for _, way := range port.Ways {
		usable := usable(port.Endpoints, p.active, way, in.NodeName)
		reals := make([]ipvs.RealServer, 0, len(usable))
		for _, e := range usable {
			r := realServer(e, way, s.Spec.Forwarding)
			// Without port translation, two ports of one address are one real server.
			if n := len(reals); n == 0 || reals[n-1].RealKey != r.RealKey {
				reals = append(reals, r)
			}
		}
		masquerade := masqueradeClass(way, s.Spec.Forwarding)
		var hairpin []netip.Addr
		if masquerade != nil {
			for _, e := range usable {
				// A pod reaches itself by way of its own node only.
				if e.Node == "" || e.Node == in.NodeName {
					hairpin = append(hairpin, e.Addr)
				}
			}
		}
		for _, addr := range in.addresses(way) {
			v := &VirtualServer{
				Owner:   s.Key,
				Service: service(ipvs.Key{Protocol: protocols[port.Protocol], Addr: addr, Port: way.Port}, s),
				OnDummy: way.Kind != endpoints.NodePort,
				Drain: DrainPolicy{
					Timeout: s.Spec.Switch.Drain.Timeout.Duration,
					Cut:     s.Spec.Switch.Drain.OnTimeout == v1alpha1.DrainCut,
				},
				Masquerade: masquerade,
				from:       port.Endpoints, way: way, forwarding: s.Spec.Forwarding,
			}
			if len(reals) > 0 {
				v.Reals = reals
			}
			p.wanted = append(p.wanted, wanted{v, hairpin})
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
