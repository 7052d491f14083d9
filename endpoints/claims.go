package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claim is something that only one VirtualServer can have: its Service, or an address, port and
// protocol. A node port has no address: it is one number for all families, as in Kubernetes.
type claim struct {
	service  types.NamespacedName
	addr     netip.Addr
	port     uint16
	protocol corev1.Protocol
}

func (c claim) String() string {
	if c.addr.IsValid() {
		return fmt.Sprintf("%s %s", c.protocol, netip.AddrPortFrom(c.addr, c.port))
	}
	return fmt.Sprintf("the node port %d/%s", c.port, c.protocol)
}

// settleClaims refuses servers, which are sorted by key, whose claims another one has. Who had all of
// its claims before keeps them, so that a new object never takes traffic from one in force; then come
// those in force with new claims, then the new ones in the order of their keys.
func settleClaims(servers []Server, previous *Snapshot) {
	held, inForce := held(previous)
	rank := func(i int) int {
		s := &servers[i]
		if !inForce[s.Key] {
			return 2
		}
		for _, c := range claims(s) {
			if held[c] != s.Key {
				return 1
			}
		}
		return 0
	}
	order := make([]int, 0, len(servers))
	ranks := make([]int, len(servers))
	for i := range servers {
		if servers[i].Refused == nil {
			ranks[i] = rank(i)
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(ranks[a], ranks[b]) })

	taken := make(map[claim]types.NamespacedName, 4*len(order))
	var losers []int
	for _, i := range order {
		s := &servers[i]
		own := claims(s)
		if refuseClaims(own, taken) != nil {
			losers = append(losers, i)
			continue
		}
		for _, c := range own {
			taken[c] = s.Key
		}
	}
	// Only now, so that the reason given does not depend on the order above.
	for _, i := range losers {
		s := &servers[i]
		s.refuse(refuseClaims(claims(s), taken))
	}
}

func held(previous *Snapshot) (map[claim]types.NamespacedName, map[types.NamespacedName]bool) {
	held, inForce := map[claim]types.NamespacedName{}, map[types.NamespacedName]bool{}
	if previous == nil {
		return held, inForce
	}
	for i := range previous.Servers {
		s := &previous.Servers[i]
		if s.Refused != nil {
			continue
		}
		inForce[s.Key] = true
		for _, c := range claims(s) {
			held[c] = s.Key
		}
	}
	return held, inForce
}

// claims are those of a server that is not refused; the Service first, the preview last.
func claims(s *Server) []claim {
	size := 1
	for i := range s.Ports {
		size += len(s.Ports[i].Ways)
	}
	out := make([]claim, 1, size) // it is kept
	out[0] = claim{service: serviceOf(s)}
	for _, p := range s.Ports {
		node := false
		for _, w := range p.Ways {
			switch {
			case w.Kind != NodePort:
				out = append(out, claim{addr: w.Addr, port: w.Port, protocol: p.Protocol})
			case !node:
				node = true
				out = append(out, claim{port: w.Port, protocol: p.Protocol})
			}
		}
	}
	return append(out, previewClaims(s)...)
}

// previewClaims are a node port for each protocol of the Service.
func previewClaims(s *Server) []claim {
	if s.Spec.Preview == nil || s.Spec.Preview.NodePort == nil {
		return nil
	}
	var out []claim
	for _, p := range s.Ports {
		c := claim{port: uint16(*s.Spec.Preview.NodePort), protocol: p.Protocol}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

func serviceOf(s *Server) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Key.Namespace, Name: s.Spec.Service.Name}
}

func refuseClaims(own []claim, taken map[claim]types.NamespacedName) *Refusal {
	for i, c := range own {
		if slices.Contains(own[:i], c) {
			// Ways of one Service never meet, its ports differ; so this is its own preview.
			return &Refusal{Reason: ReasonPortTaken, Message: fmt.Sprintf("spec.preview.nodePort: %s is a node port of the Service itself; give the preview another", c)}
		}
		by, is := taken[c]
		switch {
		case !is:
		case i == 0:
			return &Refusal{Reason: ReasonServiceTaken, Message: fmt.Sprintf("spec.service.name: Service %s is served by VirtualServer %s already; name another Service, or delete one of the two VirtualServers", c.service, by)}
		default:
			return &Refusal{Reason: ReasonPortTaken, Message: fmt.Sprintf("%s is claimed by VirtualServer %s already; give one of them another port or address", c, by)}
		}
	}
	return nil
}
