package endpoints

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// wayOrder is the order of kinds in Port.Ways, and which kind stands for an address given twice.
var wayOrder = map[WayKind]int{NodePort: 0, ClusterIP: 1, ExternalIP: 2, LoadBalancerIP: 3}

// ways are the addresses by which clients reach one port of a Service.
func ways(svc *corev1.Service, port corev1.ServicePort, families []corev1.IPFamily) []Way {
	s := &svc.Spec
	external := s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	internal := s.InternalTrafficPolicy != nil && *s.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	var out []Way
	add := func(kind WayKind, addr string, local bool) {
		if a, err := netip.ParseAddr(addr); err == nil {
			out = append(out, Way{Kind: kind, Addr: a.Unmap(), Port: uint16(port.Port), LocalOnly: local})
		}
	}
	if port.NodePort != 0 && (s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer) {
		for _, f := range families {
			addr := netip.IPv4Unspecified()
			if f == corev1.IPv6Protocol {
				addr = netip.IPv6Unspecified()
			}
			out = append(out, Way{Kind: NodePort, Addr: addr, Port: uint16(port.NodePort), LocalOnly: external})
		}
	}
	for _, ip := range clusterIPs(s) {
		add(ClusterIP, ip, internal)
	}
	for _, ip := range s.ExternalIPs {
		add(ExternalIP, ip, external)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			// In mode Proxy the load balancer rewrites the address before the node sees it.
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				add(LoadBalancerIP, in.IP, external)
			}
		}
	}
	slices.SortFunc(out, func(a, b Way) int {
		return cmp.Or(cmp.Compare(wayOrder[a.Kind], wayOrder[b.Kind]), a.Addr.Compare(b.Addr))
	})
	return withoutRepeatedAddresses(out)
}

// withoutRepeatedAddresses keeps the first of ways with the same address: the kernel can hold one
// virtual server there.
func withoutRepeatedAddresses(sorted []Way) []Way {
	seen := make(map[netip.AddrPort]bool, len(sorted))
	return slices.DeleteFunc(sorted, func(w Way) bool {
		at := netip.AddrPortFrom(w.Addr, w.Port)
		repeated := seen[at]
		seen[at] = true
		return repeated
	})
}

func clusterIPs(s *corev1.ServiceSpec) []string {
	if len(s.ClusterIPs) > 0 {
		return s.ClusterIPs
	}
	return []string{s.ClusterIP}
}

// families are the IP families of a Service: as declared, else those of its ClusterIPs, else those of
// its endpoints, else IPv4.
func families(svc *corev1.Service, of []EndpointSlice) []corev1.IPFamily {
	if len(svc.Spec.IPFamilies) > 0 {
		return svc.Spec.IPFamilies
	}
	var four, six bool
	for _, ip := range clusterIPs(&svc.Spec) {
		if addr, err := netip.ParseAddr(ip); err == nil {
			four, six = four || addr.Unmap().Is4(), six || addr.Unmap().Is6()
		}
	}
	if !four && !six {
		for _, slice := range of {
			four = four || slice.AddressType == discoveryv1.AddressTypeIPv4
			six = six || slice.AddressType == discoveryv1.AddressTypeIPv6
		}
	}
	switch {
	case four && six:
		return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	case six:
		return []corev1.IPFamily{corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}
