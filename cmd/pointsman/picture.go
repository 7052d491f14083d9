package main

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/rollout/cluster"
	"github.com/pointsman/pointsman/sync"
)

// picture is what there is to show of one VirtualServer, as plain values, wherever it came from.
type picture struct {
	key      types.NamespacedName
	declared string                      // spec.active; "": it is declared no more
	spec     *v1alpha1.VirtualServerSpec // nil: not known
	status   v1alpha1.VirtualServerStatus
	nodes    []nodePicture // by name
	virtual  []sync.VirtualStatus
}

// nodePicture is what one node has of a VirtualServer.
type nodePicture struct {
	name   string
	dead   bool                        // what it has is what it once said
	entry  *v1alpha1.NodeVirtualServer // nil: it has reported none
	drains map[string]drainPicture     // by colour
}

// drainPicture is what is left of a colour on a node.
type drainPicture struct {
	reals       int32
	connections int64
	open        int64     // of them; -1: not known
	deadline    time.Time // when they are cut; zero: never
}

// pictureOf is a VirtualServer as an API server has it.
func pictureOf(vs *v1alpha1.VirtualServer, reports []v1alpha1.NodeReport) picture {
	spec := *vs.DeepCopy()
	v1alpha1.Default(&spec)
	p := picture{
		key:      types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name},
		declared: vs.Spec.Active, spec: &spec.Spec, status: vs.Status,
	}
	for i := range reports {
		n := nodePicture{name: reports[i].Name, drains: map[string]drainPicture{}, dead: slices.Contains(vs.Status.Nodes.Dead, reports[i].Name)}
		for j := range reports[i].Status.VirtualServers {
			if e := &reports[i].Status.VirtualServers[j]; e.Namespace == vs.Namespace && e.Name == vs.Name {
				n.entry = e
			}
		}
		if n.entry != nil {
			for _, d := range n.entry.Draining {
				drain := drainPicture{reals: d.RealServers, connections: d.Connections, open: -1}
				if d.Deadline != nil {
					drain.deadline = d.Deadline.Time
				}
				n.drains[d.Colour] = drain
			}
		}
		p.nodes = append(p.nodes, n)
	}
	slices.SortFunc(p.nodes, func(a, b nodePicture) int { return strings.Compare(a.name, b.name) })
	return p
}

// picturesOf are the VirtualServers of one node's own status.
func picturesOf(status *sync.Status, specs map[types.NamespacedName]*v1alpha1.VirtualServerSpec) []picture {
	report := cluster.ReportOf(status, "")
	var out []picture
	for _, s := range status.Servers {
		p := picture{
			key:      types.NamespacedName{Namespace: s.Namespace, Name: s.Name},
			declared: s.Declared, status: s.Status, virtual: s.Virtual,
		}
		p.spec = specs[p.key]
		n := nodePicture{name: status.Node, drains: drainsOf(s.Draining)}
		for j := range report.VirtualServers {
			if e := &report.VirtualServers[j]; e.Namespace == s.Namespace && e.Name == s.Name {
				n.entry = e
			}
		}
		p.nodes = []nodePicture{n}
		out = append(out, p)
	}
	return out
}

// drainsOf sums up by colour; a real server that several virtual servers share counts once.
func drainsOf(all []sync.DrainStatus) map[string]drainPicture {
	type real struct{ colour, address string }
	seen, out := map[real]bool{}, map[string]drainPicture{}
	for _, d := range all {
		sum := out[d.Colour]
		if r := (real{d.Colour, d.Real}); !seen[r] {
			seen[r] = true
			sum.reals++
		}
		sum.open += int64(d.Active)
		sum.connections += int64(d.Active) + int64(d.Inactive)
		if d.Deadline != nil && d.Deadline.After(sum.deadline) {
			sum.deadline = *d.Deadline
		}
		out[d.Colour] = sum
	}
	return out
}
