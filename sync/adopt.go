package sync

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
)

// A Service changes hands when its label does. In ipvs mode kube-proxy has virtual servers of the very keys that
// ours have, so the change of hands is one of who knows them as his, not one of the kernel: nothing
// is deleted and made again, which would cut connections.

// adopt takes virtual servers that another program made where ours are to be, when they serve this
// Service already: the declaration and the Service's label are the user's word that they are to be
// ours. One that serves anything else stays a [Conflict].
func (r *Reconciler) adopt(what *touched) {
	r.table.each(what, func(s *ipvs.ServiceInfo) {
		want := r.target.Servers[s.Key]
		if want == nil || r.ledger.Owns(s.Key) || r.released[want.Owner] || !want.adopts(s) {
			return
		}
		r.ledger.Owned[s.Key] = &Owned{Owner: want.Owner, Drain: want.Drain, Draining: map[ipvs.RealKey]Draining{}}
		r.ledger.dirty = true
		r.Log.WithField("virtualserver", want.Owner.String()).Infof("taking over %s, which another program made and which serves this Service's endpoints", s.Key)
	})
}

// adopts says whether what is in v's place serves endpoints of v's Service and nothing else. What has no
// weight only drains. A virtual server that v would empty is not taken yet: its endpoints may be known
// later than its label.
func (v *VirtualServer) adopts(s *ipvs.ServiceInfo) bool {
	if len(v.Reals) == 0 {
		return false
	}
	known := v.colours()
	serving := 0
	for i := range s.Reals {
		if s.Reals[i].Weight == 0 {
			continue
		}
		if _, ours := known[s.Reals[i].RealKey]; !ours {
			return false
		}
		serving++
	}
	return serving > 0
}

// release gives virtual servers back to kube-proxy in ipvs mode when their Service has lost its label: they
// are no longer ours, whatever becomes of the declaration, and stay as they are until kube-proxy's next sync,
// which takes them as its own. Addresses and masquerade stay as long as the declaration does. In other modes
// kube-proxy's rules are before IPVS, so that ours go on until the declaration is deleted, and drain then.
func (r *Reconciler) release(kubeProxy bool) {
	r.released = map[types.NamespacedName]bool{}
	if !kubeProxy {
		return
	}
	for i := range r.snapshot.Servers {
		if s := &r.snapshot.Servers[i]; s.Refused != nil && s.Refused.Reason == endpoints.ReasonServiceNotLabelled {
			r.released[s.Key] = true
		}
	}
	if len(r.released) == 0 {
		return
	}
	for key, o := range r.ledger.Owned {
		if r.released[o.Owner] {
			delete(r.ledger.Owned, key)
			r.ledger.dirty = true
			r.Log.WithField("virtualserver", o.Owner.String()).Infof("leaving %s to kube-proxy: the Service has lost its label", key)
		}
	}
}

// coming are what can be prepared for a Service that gets its label.
func coming(in *Input, s *endpoints.Server) (out []*VirtualServer) {
	for _, p := range s.Coming {
		for _, way := range p.Ways {
			for _, addr := range in.addresses(way) {
				key := ipvs.Key{Protocol: protocols[p.Protocol], Addr: addr, Port: way.Port}
				out = append(out, &VirtualServer{
					Owner: s.Key, Service: ipvs.Service{Key: key}, OnDummy: way.Kind != endpoints.NodePort,
					Masquerade: masqueradeClass(way, s.Spec.Forwarding),
				})
			}
		}
	}
	return out
}

// prepare adds what has to be there at the moment when a Service that kube-proxy serves in ipvs mode gets our
// label: kube-proxy then takes the Service's addresses off its device and ends its masquerade, and may
// be faster than we are. Until then it is there twice, which changes nothing for anybody. An address is prepared
// that kube-proxy's device holds, and stays when that no longer does.
func prepare(t *Target, device node.Device, masquerade nft.Ruleset, addresses []netip.Addr) (nft.Ruleset, []netip.Addr) {
	if !device.KubeProxy || len(t.Coming) == 0 {
		return masquerade, addresses
	}
	addresses, masquerade.Virtual = slices.Clone(addresses), maps.Clone(masquerade.Virtual)
	for _, v := range t.Coming {
		addr := v.Service.Addr
		if v.OnDummy && (slices.Contains(device.Proxied, addr) || slices.Contains(device.Addresses, addr)) {
			addresses = append(addresses, addr)
		}
		if _, taken := masquerade.Virtual[MasqueradeElement(v.Service.Key)]; v.Masquerade != nil && !taken {
			masquerade.Virtual[MasqueradeElement(v.Service.Key)] = *v.Masquerade
		}
	}
	return masquerade, addresses
}
