package cluster

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/sync"
)

// Node is what one node last said, as far as it concerns one VirtualServer.
type Node struct {
	Name  string
	Error string                      // of its last pass; "" when it did not fail
	Entry *v1alpha1.NodeVirtualServer // nil: it has not reported the VirtualServer
}

// Aggregate is the status of a VirtualServer of which live nodes reported as they did. Both lists are
// sorted by name. server is the VirtualServer in the coordinator's own snapshot, from which endpoints
// are counted; nil when it is not there. Of dead nodes only what they last said is known: they do not
// count, are named, and one that may still send connections to the previous colour keeps it from being
// called safe to retire.
//
// It is pure, and its own output as vs.Status changes nothing: what is there stays where nothing says
// otherwise, transition times included.
func Aggregate(vs *v1alpha1.VirtualServer, server *endpoints.Server, live, dead []Node, now time.Time) v1alpha1.VirtualServerStatus {
	a := aggregation{vs: vs, server: server, live: live, dead: dead, now: metav1.NewTime(now.UTC().Truncate(time.Second))}
	a.out = *vs.Status.DeepCopy()
	a.out.Nodes = v1alpha1.NodesStatus{Total: int32(len(live))}
	if server != nil && server.Refused == nil {
		a.out.Colours = sync.Colours(server)
	}
	if len(live) == 0 {
		a.nobody()
		return a.out
	}
	a.sort()
	a.out.Nodes.Staged, a.out.Nodes.Switched = int32(a.there), int32(a.there)
	a.follow()
	a.phase()
	a.accepted()
	a.staged()
	a.switched()
	a.healthy()
	a.safeToRetire()
	return a.out
}

type aggregation struct {
	vs         *v1alpha1.VirtualServer
	server     *endpoints.Server
	live, dead []Node
	now        metav1.Time

	out     v1alpha1.VirtualServerStatus
	there   int      // live nodes that are where the declaration wants them
	waiting []string // what the others lack, a text each
	judged  bool     // some live node has acted on this generation
	refused []said   // why it is not accepted
	blocked []said   // why a switch cannot be made
}

// said is a reason that a node gave.
type said struct{ node, reason, message string }

// switchReasons are the reasons of nodes that keep a switch from being made. Any other is one for
// which the declaration as such is not accepted.
var switchReasons = map[string]bool{reasonNoReadyEndpoint: true}

// sort puts each live node where it belongs.
func (a *aggregation) sort() {
	for i := range a.live {
		n := &a.live[i]
		if a.current(n) {
			a.judged = true
			if e := n.Entry; e.Reason != "" {
				s := said{n.Name, e.Reason, e.Message}
				if switchReasons[e.Reason] {
					a.blocked = append(a.blocked, s)
				} else {
					a.refused = append(a.refused, s)
				}
			}
		}
		if lack := a.lack(n); lack != "" {
			a.waiting = append(a.waiting, n.Name+" "+lack)
		} else {
			a.there++
		}
	}
}

// current says whether a node has acted on the declaration as it is.
func (a *aggregation) current(n *Node) bool {
	return n.Entry != nil && n.Entry.Generation >= a.vs.Generation
}

// follow takes over the colour that all live nodes serve.
func (a *aggregation) follow() {
	serving := serves(&a.live[0])
	for i := range a.live {
		if serves(&a.live[i]) != serving {
			return
		}
	}
	before := a.out.Active
	if serving == "" || serving == before {
		return
	}
	a.out.Active = serving
	if before != "" {
		a.out.Previous = before
	}
	if a.out.Previous == serving {
		a.out.Previous = ""
	}
	if serving != a.vs.Spec.Active {
		return // where nodes were found to be; nobody asked for it
	}
	a.out.History = append([]v1alpha1.SwitchRecord{{
		From: before, To: serving, Started: a.started(), Ended: a.now, Outcome: v1alpha1.OutcomeSucceeded,
	}}, a.out.History...)
	a.out.History = a.out.History[:min(len(a.out.History), v1alpha1.MaxHistory)]
}

// started is when the switch that ends now was first seen: Staged is False for as long as one runs.
func (a *aggregation) started() metav1.Time {
	out := a.now
	if c := meta.FindStatusCondition(a.out.Conditions, v1alpha1.ConditionStaged); c != nil && c.Status == metav1.ConditionFalse {
		out = c.LastTransitionTime
	}
	if h := a.out.History; len(h) > 0 && out.Before(&h[0].Ended) {
		out = h[0].Ended
	}
	return out
}

// serves is the colour that a node was read back to serve, "" when that is not known.
func serves(n *Node) string {
	if n.Entry == nil || !n.Entry.Verified {
		return ""
	}
	return n.Entry.Active
}

func (a *aggregation) phase() {
	switch {
	case a.there == len(a.live):
		a.out.Phase = v1alpha1.PhaseSteady
	case len(a.refused)+len(a.blocked) > 0:
		a.out.Phase = v1alpha1.PhaseBlocked
	case a.out.Active == a.vs.Spec.Active: // a node joins, or repairs itself
		a.out.Phase = v1alpha1.PhaseSteady
	default:
		a.out.Phase = v1alpha1.PhaseSwitching
	}
}

// refusal is why the coordinator's own snapshot refuses the declaration as it is; nil when it does not.
func (a *aggregation) refusal() *endpoints.Refusal {
	if a.server == nil || a.server.Refused == nil {
		return nil
	}
	declared := a.vs.DeepCopy()
	v1alpha1.Default(declared)
	if !equality.Semantic.DeepEqual(a.server.Spec, declared.Spec) {
		return nil // of an older declaration
	}
	return a.server.Refused
}
