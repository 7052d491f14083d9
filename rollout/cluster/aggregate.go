package cluster

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/sync"
)

// Node is what one node last said, as far as it concerns one VirtualServer.
type Node struct {
	Name  string
	Error string                      // of its last pass; "" when it did not fail
	Entry *v1alpha1.NodeVirtualServer // nil: it has not reported the VirtualServer
}

// Outside is what calls that rollouts wanted have answered.
type Outside struct {
	Answers []rollout.Answer
	Query   rollout.Query
}

// Aggregate is the status of a VirtualServer of which live nodes reported as they did, and what its rollout wants. Both
// lists are sorted by name. server is the VirtualServer in the coordinator's own snapshot, from which endpoints
// are counted; nil when it is not there. Of dead nodes only what they last said is known: they do not
// count, are named, and one that may still send connections to the retiring colour keeps it from being
// called safe to retire.
//
// First the rollout goes on, which may change status.active: writing that is the commit. It does not while
// the declaration is refused, not seen in the snapshot yet, or no node lives. Then conditions say where
// nodes are by it.
//
// It is pure, and its own output as vs.Status changes nothing: what is there stays where nothing says
// otherwise, transition times included.
func Aggregate(vs *v1alpha1.VirtualServer, server *endpoints.Server, live, dead []Node, outside Outside, now time.Time) (v1alpha1.VirtualServerStatus, rollout.Wants) {
	a := aggregation{vs: vs, server: server, live: live, dead: dead, now: metav1.NewTime(now.UTC().Truncate(time.Second))}
	a.out = *vs.Status.DeepCopy()
	a.out.Nodes = v1alpha1.NodesStatus{Total: int32(len(live))}
	for i := range dead[:min(len(dead), v1alpha1.MaxDeadNodes)] {
		a.out.Nodes.Dead = append(a.out.Nodes.Dead, dead[i].Name)
	}
	if server != nil && server.Refused == nil {
		a.out.Colours = sync.Colours(server)
	}
	if len(live) == 0 {
		a.nobody()
		return a.out, rollout.Wants{}
	}
	a.roll(outside, now)
	a.sort()
	a.out.Nodes.Staged, a.out.Nodes.Switched = int32(a.stagedNodes), int32(a.there)
	a.accepted()
	a.staged()
	a.switched()
	a.healthy()
	a.safeToRetire()
	a.previewReady()
	return a.out, a.wants
}

type aggregation struct {
	vs         *v1alpha1.VirtualServer
	server     *endpoints.Server
	live, dead []Node
	now        metav1.Time

	out         v1alpha1.VirtualServerStatus
	wants       rollout.Wants
	there       int      // live nodes that serve what was decided, as the declaration has it
	stagedNodes int      // live nodes that hold the candidate; those that are there when there is none
	waiting     []string // what the others lack, a text each
	judged      bool     // some live node has acted on this generation
	refused     []said   // why it is not accepted
}

// said is a reason that a node gave.
type said struct{ node, reason, message string }

// roll lets the rollout go on.
func (a *aggregation) roll(outside Outside, now time.Time) {
	s := a.server
	if s == nil || s.Refused != nil || s.UID != a.vs.UID || s.Generation < a.vs.Generation {
		return
	}
	state := rollout.FromStatus(&a.out)
	if state.Active == "" {
		if serving := a.servedByAll(); serving != "" && serving != s.Spec.Active {
			state.Active = serving // where nodes were found to be: a status that was lost
		}
	}
	in := rollout.Input{Now: now, Spec: s.Spec, Colours: sync.Counts(s), Answers: outside.Answers, Query: outside.Query}
	for i := range a.live {
		in.Nodes = append(in.Nodes, nodeOf(&a.live[i]))
	}
	state, a.wants = rollout.Next(state, in)
	state.Into(&a.out)
}

func nodeOf(n *Node) rollout.Node {
	out := rollout.Node{Name: n.Name, Serving: serves(n)}
	if e := n.Entry; e != nil {
		out.Decision, out.Staged, out.Weight, out.Probe, out.Signs = e.Decision, e.Staged, e.Weight, e.Probe, e.Signs
		if e.Reason != "" {
			out.Trouble = "says " + e.Reason + ": " + e.Message
		}
	} else {
		out.Trouble, out.Decision = "has not reported it yet", -1
	}
	return out
}

// servedByAll is the colour that every live node serves, "" when there is none such.
func (a *aggregation) servedByAll() string {
	serving := serves(&a.live[0])
	for i := range a.live {
		if serves(&a.live[i]) != serving {
			return ""
		}
	}
	return serving
}

// sort puts each live node where it belongs.
func (a *aggregation) sort() {
	for i := range a.live {
		n := &a.live[i]
		if a.current(n) {
			a.judged = true
			if e := n.Entry; e.Reason != "" {
				a.refused = append(a.refused, said{n.Name, e.Reason, e.Message})
			}
		}
		lack := a.lack(n)
		if lack != "" {
			a.waiting = append(a.waiting, n.Name+" "+lack)
		} else {
			a.there++
		}
		candidate := a.out.Candidate
		if candidate == "" && lack == "" || candidate != "" && n.Entry != nil && n.Entry.Decision >= a.out.Decision && n.Entry.Staged == candidate {
			a.stagedNodes++
		}
	}
}

// current says whether a node has acted on the declaration as it is.
func (a *aggregation) current(n *Node) bool {
	return n.Entry != nil && n.Entry.Generation >= a.vs.Generation
}

// serves is the colour that a node was read back to serve, "" when that is not known.
func serves(n *Node) string {
	if n.Entry == nil || !n.Entry.Verified {
		return ""
	}
	return n.Entry.Active
}

// refusal is why the coordinator's own snapshot refuses the declaration as it is; nil when it does not.
func (a *aggregation) refusal() *endpoints.Refusal {
	if a.server == nil || a.server.Refused == nil {
		return nil
	}
	declared := a.vs.DeepCopy()
	v1alpha1.Default(declared)
	if !equality.Semantic.DeepEqual(a.server.Spec, &declared.Spec) {
		return nil // of an older declaration
	}
	return a.server.Refused
}
