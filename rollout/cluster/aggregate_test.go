package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func server(name, active string, generation int64) *v1alpha1.VirtualServer {
	vs := &v1alpha1.VirtualServer{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Generation: generation}}
	vs.Spec.Service.Name, vs.Spec.Active = name, active
	v1alpha1.Default(vs)
	return vs
}

// resolved is the VirtualServer in a snapshot, with that many endpoints of each colour, all ready.
func resolved(vs *v1alpha1.VirtualServer, counts map[string]int) *endpoints.Server {
	s := &endpoints.Server{Key: types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}, Spec: vs.Spec.DeepCopy(), UID: vs.UID, Generation: vs.Generation}
	port := endpoints.Port{Protocol: corev1.ProtocolTCP}
	for c, n := range counts {
		for range n {
			port.Endpoints = append(port.Endpoints, endpoints.Endpoint{Colour: c, Ready: true, Serving: true})
		}
	}
	s.Ports = []endpoints.Port{port}
	return s
}

func at(name, active string, generation int64) Node {
	return Node{Name: name, Entry: &v1alpha1.NodeVirtualServer{
		Namespace: "default", Name: "myapp", Generation: generation, Active: active, Verified: active != "", RealServers: 10,
		Decision: 99, // any that is made
	}}
}

func saying(name, active string, generation int64, reason, message string) Node {
	n := at(name, active, generation)
	n.Entry.Reason, n.Entry.Message = reason, message
	return n
}

func draining(name, active string, generation int64, colour string) Node {
	n := at(name, active, generation)
	n.Entry.Draining = []v1alpha1.ColourDrain{{Colour: colour, RealServers: 1, Connections: 3}}
	return n
}

// steady is the status of v1 on a, b and c, after a switch from v0 when previous is.
func steady(previous string) v1alpha1.VirtualServerStatus {
	vs := server("myapp", "v1", 1)
	for range 2 {
		vs.Status, _ = Aggregate(vs, resolved(vs, both), []Node{at("a", "v1", 1), at("b", "v1", 1), at("c", "v1", 1)}, nil, Outside{}, noon)
		vs.Status.Retiring = previous
	}
	return vs.Status
}

// switchedTo is the status after a switch of one node.
func switchedTo(from v1alpha1.VirtualServerStatus, colour string) v1alpha1.VirtualServerStatus {
	vs := server("myapp", colour, 2)
	vs.Status = from
	for range 3 {
		vs.Status, _ = Aggregate(vs, resolved(vs, both), []Node{staging("a", vs.Status.Active, 2, colour)}, nil, Outside{}, noon)
	}
	return vs.Status
}

func staging(name, active string, generation int64, candidate string) Node {
	n := at(name, active, generation)
	n.Entry.Staged = candidate
	return n
}

var both = map[string]int{"v1": 3, "v2": 2}

func TestAggregate(t *testing.T) {
	mend := "label it"
	cases := []struct {
		name       string
		before     v1alpha1.VirtualServerStatus
		declared   string
		counts     map[string]int // nil: not in the snapshot
		live, dead []Node
		active     string
		previous   string
		phase      v1alpha1.Phase
		nodes      v1alpha1.NodesStatus
		history    int
		conditions string // each as in Accepted=True/Accepted
		say        map[string]string
	}{
		{
			name: "first, all there", declared: "v1", counts: both, live: []Node{at("a", "v1", 2), at("b", "v1", 2)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 2, Switched: 2}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=True/Ready",
		},
		{
			name: "first, nobody has reported", declared: "v1", live: []Node{{Name: "a"}, {Name: "b"}},
			nodes:      v1alpha1.NodesStatus{Total: 2},
			conditions: "Accepted=Unknown/Pending Staged=False/Pending Switched=False/Pending Healthy=False/NothingServed",
		},
		{
			name: "first, nobody has reported, and endpoints are counted", declared: "v1", counts: both, live: []Node{{Name: "a"}, {Name: "b"}},
			active: "v1", phase: v1alpha1.PhaseSwitching, nodes: v1alpha1.NodesStatus{Total: 2},
			conditions: "Accepted=Unknown/Pending Staged=True/Staged Switched=False/NodesWaiting Healthy=True/Ready",
			say:        map[string]string{"Switched": "waiting for 2 of 2 nodes: a has not reported it yet, b has not reported it yet"},
		},
		{
			name: "staging", before: steady(""), declared: "v2", counts: both,
			live: []Node{staging("a", "v1", 2, "v2"), at("b", "v1", 2)}, active: "v1", phase: v1alpha1.PhaseStaging,
			nodes: v1alpha1.NodesStatus{Total: 2, Staged: 1, Switched: 2}, history: 1,
			conditions: "Accepted=True/Accepted Staged=False/NodesNotStaged Switched=False/NodesNotStaged Healthy=True/Ready",
			say:        map[string]string{"Staged": "waiting for 1 of 2 nodes: b has not staged v2 yet"},
		},
		{
			name: "committed", before: steady(""), declared: "v2", counts: both,
			live: []Node{staging("a", "v1", 2, "v2"), staging("b", "v1", 2, "v2")}, active: "v2", previous: "v1", phase: v1alpha1.PhaseSwitching,
			nodes: v1alpha1.NodesStatus{Total: 2}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=False/NodesWaiting Healthy=True/Ready SafeToRetire=False/NodesWaiting",
		},
		{
			name: "switched, draining", before: switchedTo(steady(""), "v2"), declared: "v2", counts: both, live: []Node{at("a", "v2", 2), draining("b", "v2", 2, "v1")},
			active: "v2", previous: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 2, Switched: 2}, history: 2,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=True/Ready SafeToRetire=False/Draining",
			say:        map[string]string{"SafeToRetire": "v1 still has connections on 1 of 2 nodes: b"},
		},
		{
			name: "drained", before: steady("v0"), declared: "v1", counts: both, live: []Node{at("a", "v1", 2), draining("b", "v1", 2, "v9")},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 2, Switched: 2}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=True/Ready SafeToRetire=True/Drained",
		},
		{
			name: "a dead node is named and not counted", before: steady("v0"), declared: "v1", counts: both,
			live: []Node{at("a", "v1", 2)}, dead: []Node{at("b", "v1", 1)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 1, Staged: 1, Switched: 1, Dead: []string{"b"}}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=True/Ready SafeToRetire=True/Drained",
			say:        map[string]string{"Switched": "not alive and not counted: b", "Healthy": "not alive and not counted: b"},
		},
		{
			name: "a dead node that may still use the previous colour", before: switchedTo(steady(""), "v2"), declared: "v2", counts: both,
			live: []Node{at("a", "v2", 2)}, dead: []Node{at("b", "v1", 1)},
			active: "v2", previous: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 1, Staged: 1, Switched: 1, Dead: []string{"b"}}, history: 2,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=True/Ready SafeToRetire=Unknown/NodeNotAlive",
			say:        map[string]string{"SafeToRetire": "does not run on b"},
		},
		{
			name: "blocked", before: steady(""), declared: "v9", counts: both, live: []Node{at("a", "v1", 2), at("b", "v1", 2)},
			active: "v1", phase: v1alpha1.PhaseBlocked, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 2, Switched: 2}, history: 1,
			conditions: "Accepted=True/Accepted Staged=False/NoReadyEndpoint Switched=False/NoReadyEndpoint Healthy=True/Ready",
			say:        map[string]string{"Switched": "ready now: v1, v2"},
		},
		{
			name: "refused by all", before: steady(""), declared: "v1", counts: both,
			live:   []Node{saying("a", "", 2, "ServiceNotLabelled", mend), saying("b", "", 2, "ServiceNotLabelled", mend)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2}, history: 1,
			conditions: "Accepted=False/ServiceNotLabelled Staged=True/Staged Switched=False/NotAccepted Healthy=False/NotAccepted",
			say:        map[string]string{"Accepted": mend},
		},
		{
			name: "an address taken on one node", before: steady(""), declared: "v1", counts: both, live: []Node{at("a", "v1", 2), saying("b", "", 2, "AddressTaken", "remove it")},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 1, Switched: 1}, history: 1,
			conditions: "Accepted=False/AddressTaken Staged=True/Staged Switched=False/NotAccepted Healthy=False/NotAccepted",
			say:        map[string]string{"Accepted": "on b: remove it"},
		},
		{
			name: "what a node said of an older declaration is no refusal", before: steady(""), declared: "v1", counts: both,
			live:   []Node{at("a", "v1", 2), saying("b", "", 1, "ServiceNotFound", "create it")},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 1, Switched: 1}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=False/NodesWaiting Healthy=True/Ready",
		},
		{
			name: "a node's pass failed", before: steady(""), declared: "v1", counts: both, live: []Node{at("a", "v1", 2), {Name: "b", Error: "no nftables", Entry: at("b", "", 2).Entry}},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 2, Staged: 1, Switched: 1}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=False/NodesWaiting Healthy=False/NodeError",
			say:        map[string]string{"Healthy": "1 of 2 nodes: b (no nftables)"},
		},
		{
			name: "active colour without endpoints", before: steady(""), declared: "v1", counts: map[string]int{"v2": 2}, live: []Node{at("a", "v1", 2)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 1, Staged: 1, Switched: 1}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=False/NoReadyEndpoint",
			say:        map[string]string{"Healthy": "set spec.active to a colour that has some"},
		},
		{
			name: "no endpoint of any colour", before: steady(""), declared: "v1", counts: map[string]int{"": 2}, live: []Node{at("a", "v1", 2)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Total: 1, Staged: 1, Switched: 1}, history: 1,
			conditions: "Accepted=True/Accepted Staged=True/Staged Switched=True/Verified Healthy=False/NoReadyEndpoint",
			say:        map[string]string{"Healthy": "needs the label version, and a slice that is made by hand the label service.kubernetes.io/service-proxy-name=pointsman too"},
		},
		{
			name: "nobody lives", before: steady("v0"), declared: "v2", counts: both, dead: []Node{at("a", "v1", 1)},
			active: "v1", phase: v1alpha1.PhaseSteady, nodes: v1alpha1.NodesStatus{Dead: []string{"a"}}, history: 1,
			conditions: "Accepted=True/Accepted Staged=Unknown/NoLiveNode Switched=Unknown/NoLiveNode Healthy=Unknown/NoLiveNode SafeToRetire=Unknown/NoLiveNode",
			say:        map[string]string{"Switched": "no node's daemon is alive"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			vs := server("myapp", c.declared, 2)
			vs.Status = c.before
			var s *endpoints.Server
			if c.counts != nil {
				s = resolved(vs, c.counts)
			}
			got, _ := Aggregate(vs, s, c.live, c.dead, Outside{}, noon.Add(time.Minute))
			assert.Equal(t, c.active, got.Active)
			assert.Equal(t, c.previous, got.Previous)
			assert.Equal(t, c.phase, got.Phase)
			assert.Equal(t, c.nodes, got.Nodes)
			assert.Len(t, got.History, c.history)
			var conditions []string
			for _, k := range got.Conditions {
				conditions = append(conditions, fmt.Sprintf("%s=%s/%s", k.Type, k.Status, k.Reason))
			}
			assert.Equal(t, c.conditions, strings.Join(conditions, " "))
			for kind, text := range c.say {
				assert.Contains(t, meta.FindStatusCondition(got.Conditions, kind).Message, text)
			}
			consistent(t, vs, &got)
		})
	}
}

// A status that was lost is made of where nodes were found to be, and then goes where it should by the way of a switch.
func TestLostStatus(t *testing.T) {
	vs := server("myapp", "v2", 2)
	got, _ := Aggregate(vs, resolved(vs, both), []Node{at("a", "v1", 2), at("b", "v1", 2)}, nil, Outside{}, noon)
	require.Equal(t, []string{"v1", "v2", "Staging"}, []string{got.Active, got.Candidate, string(got.Phase)})
}

// An older snapshot counts endpoints of an older declaration: no decision is made of them.
func TestOlderSnapshotDecidesNothing(t *testing.T) {
	vs := server("myapp", "v2", 2)
	vs.Status = steady("")
	s := resolved(vs, both)
	s.Generation = 1
	got, wants := Aggregate(vs, s, []Node{at("a", "v1", 2)}, nil, Outside{}, noon)
	require.Equal(t, v1alpha1.PhaseSteady, got.Phase)
	require.Zero(t, wants)
}

// The coordinator's snapshot refuses before any node has told, and only the declaration as it is.
func TestSnapshotRefuses(t *testing.T) {
	vs := server("myapp", "v1", 1)
	refused := &endpoints.Server{Spec: vs.Spec.DeepCopy(), Refused: &endpoints.Refusal{Reason: "ServiceNotFound", Message: "create it"}}
	got, _ := Aggregate(vs, refused, []Node{{Name: "a"}}, nil, Outside{}, noon)
	c := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionAccepted)
	require.Equal(t, []string{"False", "ServiceNotFound", "create it"}, []string{string(c.Status), c.Reason, c.Message})
	changed := vs.DeepCopy()
	changed.Generation, changed.Spec.Service.Name = 2, "other"
	got, _ = Aggregate(changed, refused, []Node{{Name: "a"}}, nil, Outside{}, noon)
	require.Equal(t, metav1.ConditionUnknown, meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionAccepted).Status)
}

// What is previewed has a readiness of its own, and none is told where nothing is.
func TestPreviewReady(t *testing.T) {
	vs := server("myapp", "v1", 1)
	vs.Spec.Preview = &v1alpha1.Preview{Colour: "v2", NodePort: new(int32(31080)), Sources: []string{"192.0.2.0/24"}}
	told := func(counts map[string]int) *metav1.Condition {
		vs.Status, _ = Aggregate(vs, resolved(vs, counts), []Node{at("a", "v1", 1)}, nil, Outside{}, noon)
		return meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionPreviewReady)
	}
	c := told(both)
	require.Equal(t, metav1.ConditionTrue, c.Status)
	require.Equal(t, "v2, with 2 ready endpoints, is what is reached on node port 31080 and from 192.0.2.0/24 on the production addresses", c.Message)
	c = told(map[string]int{"v1": 1})
	require.Equal(t, []string{"False", "NoReadyEndpoint"}, []string{string(c.Status), c.Reason})
	require.True(t, meta.IsStatusConditionTrue(vs.Status.Conditions, v1alpha1.ConditionHealthy), "the active colour is not concerned")
	vs.Spec.Preview = nil
	require.Nil(t, told(both))
}

// consistent holds a status to what can never be true at once.
func consistent(t require.TestingT, vs *v1alpha1.VirtualServer, s *v1alpha1.VirtualServerStatus) {
	is := func(kind string) bool { return meta.IsStatusConditionTrue(s.Conditions, kind) }
	not := func(a, b bool, what string) { require.False(t, a && b, "%s: %+v", what, s) }
	switched, safe := is(v1alpha1.ConditionSwitched), is(v1alpha1.ConditionSafeToRetire)
	not(switched, !is(v1alpha1.ConditionStaged), "switched and not staged")
	not(switched, !is(v1alpha1.ConditionAccepted), "switched and not accepted")
	not(switched, s.Active != vs.Spec.Active, "switched and another colour active")
	not(switched, s.Candidate != "", "switched and a candidate")
	not(switched, s.Nodes.Switched != s.Nodes.Total || s.Nodes.Total == 0, "switched and nodes are not")
	not(safe, s.Nodes.Switched != s.Nodes.Total, "safe to retire and nodes are not there")
	not(safe, s.Retiring == "" || s.Retiring == s.Active, "safe to retire what is active")
	not(is(v1alpha1.ConditionHealthy), meta.IsStatusConditionFalse(s.Conditions, v1alpha1.ConditionAccepted), "healthy and refused")
	not(s.Nodes.Switched > s.Nodes.Total, true, "more switched than there are")
	not(s.Previous != "", s.Previous == s.Active, "previous is active")
}

// Whatever nodes report, in whatever order: no conditions that contradict, no change over one's own
// output, a transition time that moves exactly with its status, and what the API server takes.
func TestAggregateProperties(t *testing.T) {
	validate := crdValidator(t, "pointsman.io_virtualservers.yaml")
	colour := rapid.SampledFrom([]string{"v1", "v2", "v3"})
	rapid.Check(t, func(t *rapid.T) {
		vs := server("myapp", colour.Draw(t, "first"), 1)
		now := noon
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "declare") {
				vs.Generation++
				vs.Spec.Active = colour.Draw(t, "declared")
			}
			var live, dead []Node
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				n := Node{Name: name, Error: rapid.SampledFrom([]string{"", "", "", "failed"}).Draw(t, "error")}
				if rapid.IntRange(0, 5).Draw(t, "reported") > 0 {
					generation := max(1, vs.Generation-rapid.Int64Range(0, 1).Draw(t, "lag"))
					// Often what is declared, so that switches do end.
					active := rapid.SampledFrom([]string{vs.Spec.Active, vs.Spec.Active, vs.Spec.Active, "v1", ""}).Draw(t, "active")
					n.Entry = at(name, active, generation).Entry
					n.Entry.Staged = rapid.SampledFrom([]string{vs.Status.Candidate, ""}).Draw(t, "staged")
					n.Entry.Reason = rapid.SampledFrom([]string{"", "", "", "", "", "AddressTaken", "ServiceNotFound"}).Draw(t, "reason")
					if rapid.IntRange(0, 3).Draw(t, "drains") == 0 {
						n.Entry.Draining = []v1alpha1.ColourDrain{{Colour: colour.Draw(t, "draining"), RealServers: 1}}
					}
				}
				switch rapid.IntRange(0, 3).Draw(t, "alive") {
				case 0:
					dead = append(dead, n)
				case 1, 2:
					live = append(live, n)
				}
			}
			var s *endpoints.Server
			switch rapid.IntRange(0, 3).Draw(t, "snapshot") {
			case 0:
				s = &endpoints.Server{Spec: vs.Spec.DeepCopy(), Refused: &endpoints.Refusal{Reason: "PortTaken", Message: "m"}}
			case 1, 2:
				s = resolved(vs, map[string]int{"v1": rapid.IntRange(0, 1).Draw(t, "v1"), "v2": 1})
			}
			now = now.Add(time.Minute)
			before := vs.DeepCopy()
			got, _ := Aggregate(vs, s, live, dead, Outside{}, now)
			require.True(t, equality.Semantic.DeepEqual(before, vs), "the input was changed")
			consistent(t, vs, &got)
			for _, c := range got.Conditions {
				was := meta.FindStatusCondition(vs.Status.Conditions, c.Type)
				if was != nil && was.Status == c.Status {
					require.True(t, was.LastTransitionTime.Equal(&c.LastTransitionTime), "%s: transition time moved", c.Type)
				} else {
					require.True(t, c.LastTransitionTime.Time.Equal(now), "%s: transition time stayed", c.Type)
				}
			}
			if len(live) == 0 {
				require.Equal(t, vs.Status.Active, got.Active)
				require.Equal(t, vs.Status.Phase, got.Phase)
			}
			vs.Status = got
			require.NoError(t, validate(vs))
			again, _ := Aggregate(vs, s, live, dead, Outside{}, now)
			require.True(t, equality.Semantic.DeepEqual(got, again), "not idempotent:\n%+v\n%+v", got, again)
		}
	})
}
