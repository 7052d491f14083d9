package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

const (
	steady     = v1alpha1.PhaseSteady
	staging    = v1alpha1.PhaseStaging
	stepping   = v1alpha1.PhaseStepping
	switching  = v1alpha1.PhaseSwitching
	observing  = v1alpha1.PhaseObserving
	rolledBack = v1alpha1.PhaseRolledBack
	blocked    = v1alpha1.PhaseBlocked

	first = "→v1 Succeeded "
)

const observe = `{observe: {window: 1m}}`

// TestTransitions walks each way through the machine.
func TestTransitions(t *testing.T) {
	for name, walk := range map[string]struct {
		spec string
		do   func(t *testing.T, w *world)
	}{
		"first decision with nothing ready": {"{}", func(t *testing.T, w *world) {
			w.s, w.in.Colours = State{}, nil
			w.in.Nodes = []Node{{Name: "node1"}}
			w.ask().at(switching, "v1", "", ReasonNodesWaiting).follow().at(steady, "v1", "", "").outcomes(first)
		}},
		"switch": {"{}", func(t *testing.T, w *world) {
			w.declare("v2").at(staging, "v1", "v2", ReasonNodesNotStaged)
			assert.Equal(t, epoch.Add(2*time.Minute), w.want.Due)
			w.obey(&w.in.Nodes[0])
			w.obey(&w.in.Nodes[1])
			w.ask().at(staging, "v1", "v2", ReasonNodesNotStaged)
			assert.Contains(t, w.s.Message, "node3")
			w.obey(&w.in.Nodes[2])
			w.ask().at(switching, "v2", "", ReasonNodesWaiting)
			assert.Equal(t, "v1", w.s.Previous)
			w.follow().at(steady, "v2", "", "").outcomes("v1→v2 Succeeded ", first)
			assert.Zero(t, w.want)
		}},
		"active colour lost its endpoints": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v1"] = Colour{}
			w.ask().at(steady, "v1", "", "")
		}},
		"nothing ready, and nothing comes": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{3, 0}
			w.declare("v2").at(blocked, "v1", "", ReasonNoReadyEndpoint)
			w.later(2*time.Minute).at(blocked, "v1", "", ReasonNoReadyEndpoint).outcomes("v1→v2 Blocked NoReadyEndpoint", first)
			w.in.Colours["v2"] = Colour{3, 3}
			w.later(time.Hour).at(blocked, "v1", "", ReasonNoReadyEndpoint)
			assert.Zero(t, w.want)
			assert.Contains(t, w.s.Message, "not tried again")
			w.spec("v2", "{gate: {timeout: 1m}}").ask().at(staging, "v1", "v2", ReasonNodesNotStaged)
		}},
		"nothing ready at first": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{}
			w.declare("v2").at(blocked, "v1", "", ReasonNoReadyEndpoint)
			w.in.Colours["v2"] = Colour{1, 1}
			w.later(time.Minute).at(staging, "v1", "v2", ReasonNodesNotStaged).follow().at(steady, "v2", "", "").outcomes("v1→v2 Succeeded ", first)
		}},
		"out of blocked by declaring the active colour": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{}
			w.declare("v2").declare("v1").at(steady, "v1", "", "").outcomes("v1→v2 Blocked NoReadyEndpoint", first)
		}},
		"too few ready": {"{gate: {minReady: 100%}}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{3, 2}
			w.declare("v2").follow().at(staging, "v1", "v2", ReasonNotReady)
			w.later(2*time.Minute).at(blocked, "v1", "", ReasonNotReady).outcomes("v1→v2 Blocked NotReady", first)
		}},
		"enough ready": {"{gate: {minReady: 2}}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{3, 2}
			w.declare("v2").follow().at(steady, "v2", "", "")
		}},
		"a share of the nodes": {"{gate: {nodes: 60%}}", func(t *testing.T, w *world) {
			w.declare("v2")
			w.obey(&w.in.Nodes[0])
			w.ask().at(staging, "v1", "v2", ReasonNodesNotStaged)
			w.obey(&w.in.Nodes[1])
			w.ask().at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"a node that cannot stage": {"{}", func(t *testing.T, w *world) {
			w.declare("v2")
			w.in.Nodes[1].Trouble = "says AddressTaken"
			w.obey(&w.in.Nodes[0])
			w.obey(&w.in.Nodes[2])
			w.later(2*time.Minute).at(blocked, "v1", "", ReasonNodesNotStaged)
			assert.Contains(t, w.s.Message, "node2 says AddressTaken")
		}},
		"no live node": {"{}", func(t *testing.T, w *world) {
			w.in.Nodes = nil
			w.declare("v2").at(staging, "v1", "v2", ReasonNoLiveNode)
		}},
		"a dead node does not count": {"{}", func(t *testing.T, w *world) {
			w.in.Nodes = w.in.Nodes[:2]
			w.declare("v2").follow().at(steady, "v2", "", "")
		}},
		"a node joins while it stages": {"{}", func(t *testing.T, w *world) {
			w.declare("v2")
			w.obey(&w.in.Nodes[0])
			w.obey(&w.in.Nodes[1])
			w.in.Nodes = append(w.in.Nodes, Node{Name: "node4"})
			w.ask().at(staging, "v1", "v2", ReasonNodesNotStaged).follow().at(steady, "v2", "", "")
		}},
		"a node that cannot reach the candidate": {"{gate: {probe: {tcp: {}}}}", func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.in.Nodes[2].Probe = nil
			w.ask().at(staging, "v1", "v2", ReasonProbeFailed)
			w.in.Nodes[2].Probe = &v1alpha1.ProbeReport{Colour: "v2", Passed: 2, Failed: 1, Failures: []string{"10.0.0.7:80: connection refused"}}
			w.ask().at(staging, "v1", "v2", ReasonProbeFailed)
			assert.Contains(t, w.s.Message, "node3 passes 2 of 3")
			assert.Contains(t, w.s.Message, "10.0.0.7:80: connection refused")
			w.later(2*time.Minute).at(blocked, "v1", "", ReasonProbeFailed)
		}},
		"abort while it stages": {"{}", func(t *testing.T, w *world) {
			decision := w.s.Decision
			w.declare("v2").declare("v1").at(steady, "v1", "", "").outcomes("v1→v2 Aborted ", first)
			assert.Greater(t, w.s.Decision, decision+1, "nodes must unstage it")
		}},
		"superseded while it stages": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v3"] = Colour{1, 1}
			w.declare("v2").declare("v3").at(staging, "v1", "v3", ReasonNodesNotStaged).follow().at(steady, "v3", "", "")
			w.outcomes("v1→v3 Succeeded ", "v1→v2 Superseded ", first)
		}},
		"superseded while it switches": {"{}", func(t *testing.T, w *world) {
			w.in.Colours["v3"] = Colour{1, 1}
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.ask().at(switching, "v2", "", ReasonNodesWaiting).declare("v3").at(staging, "v2", "v3", ReasonNodesNotStaged)
			w.outcomes("v1→v2 Superseded ", first)
		}},
		"stale report of the candidate": {"{}", func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			staged := w.in.Nodes
			w.in.Nodes = nil
			w.declare("v1").declare("v2")
			w.in.Nodes = staged // they have unstaged since, and not told yet
			w.ask().at(staging, "v1", "v2", ReasonNodesNotStaged)
		}},
		"a node never switches": {"{}", func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.ask()
			w.obey(&w.in.Nodes[0])
			w.obey(&w.in.Nodes[1])
			w.ask().at(switching, "v2", "", ReasonNodesWaiting)
			assert.Contains(t, w.s.Message, "node3")
			w.later(2*time.Minute).at(steady, "v2", "", "").outcomes("v1→v2 Succeeded NodesWaiting", first)
		}},
		"pause, resume": {"{}", func(t *testing.T, w *world) {
			w.spec("v1", "{paused: true}").declare("v2").follow().at(staging, "v1", "v2", ReasonPaused)
			w.later(time.Hour).at(staging, "v1", "v2", ReasonPaused)
			assert.Zero(t, w.want.Due)
			w.spec("v2", "{}").ask().at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"paused, a rollback goes": {"{}", func(t *testing.T, w *world) {
			w.declare("v2").follow().spec("v1", "{paused: true}").ask().at(switching, "v1", "", ReasonNodesWaiting)
		}},
		"force": {"{gate: {probe: {tcp: {}}}, steps: [{weight: 10, hold: 1m}]}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{3, 1}
			w.declare("v2").follow().at(staging, "v1", "v2", ReasonNotReady)
			w.later(2*time.Minute).at(blocked, "v1", "", ReasonNotReady)
			w.in.Spec = w.in.Spec.DeepCopy()
			w.in.Spec.Switch.Force = "v2"
			w.ask().at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"force of another colour": {"{gate: {nodes: All}, force: v3}", func(t *testing.T, w *world) {
			w.declare("v2").at(staging, "v1", "v2", ReasonNodesNotStaged)
		}},
		"force of nothing ready": {"{force: v2}", func(t *testing.T, w *world) {
			w.in.Colours["v2"] = Colour{3, 0}
			w.declare("v2").at(blocked, "v1", "", ReasonNoReadyEndpoint)
		}},
		"rollback": {"{gate: {probe: {tcp: {}}}, steps: [{weight: 10, hold: 1m}], observe: {}}", func(t *testing.T, w *world) {
			w.declare("v2").follow().later(time.Minute).follow().later(10*time.Minute).at(steady, "v2", "", "")
			w.in.Colours["v1"] = Colour{3, 1}
			w.declare("v1").at(switching, "v1", "", ReasonNodesWaiting)
			assert.True(t, w.s.Rollback)
			assert.Empty(t, w.s.Previous, "what was gone back from goes through the gate")
			assert.Equal(t, "v2", w.s.Retiring)
			w.follow().at(steady, "v1", "", "").outcomes("v2→v1 Succeeded ", "v1→v2 Succeeded ", first)
			w.declare("v2").at(staging, "v1", "v2", ReasonNodesNotStaged)
		}},
		"rollback to nothing ready": {"{}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v1"] = Colour{3, 0}
			w.declare("v1").at(blocked, "v2", "", ReasonNoReadyEndpoint)
			w.in.Colours["v1"] = Colour{3, 1}
			w.later(time.Minute).at(switching, "v1", "", ReasonNodesWaiting)
		}},
		"a retired colour is no rollback": {"{}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v1"] = Colour{}
			w.ask().at(steady, "v2", "", "")
			assert.Empty(t, w.s.Previous)
			assert.Equal(t, "v1", w.s.Retiring)
			w.in.Colours["v1"] = Colour{3, 3}
			w.declare("v1").at(staging, "v2", "v1", ReasonNodesNotStaged)
		}},
		"rollback while it is observed": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow().at(observing, "v2", "", "").declare("v1").at(switching, "v1", "", ReasonNodesWaiting)
			w.follow().at(steady, "v1", "", "").outcomes("v2→v1 Succeeded ", "v1→v2 Superseded ", first)
		}},
		"steps": {"{steps: [{weight: 10, hold: 2m}, {weight: 50, hold: 1m}]}", func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.ask().at(stepping, "v1", "v2", ReasonNodesWaiting)
			assert.Equal(t, []int32{1, 10}, []int32{w.s.Step, w.s.Weight})
			w.later(time.Minute).follow().at(stepping, "v1", "v2", "")
			assert.Equal(t, w.in.Now.Add(2*time.Minute), w.want.Due, "held from when every node gives the share")
			w.later(2*time.Minute-time.Second).at(stepping, "v1", "v2", "")
			assert.EqualValues(t, 10, w.s.Weight)
			w.later(time.Second).follow()
			assert.Equal(t, []int32{2, 50}, []int32{w.s.Step, w.s.Weight})
			w.later(time.Minute).at(switching, "v2", "", ReasonNodesWaiting)
			assert.Zero(t, w.s.Weight)
			w.follow().at(steady, "v2", "", "").outcomes("v1→v2 Succeeded ", first)
		}},
		"a step that a node does not take": {"{steps: [{weight: 10, hold: 2m}]}", func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.ask().later(2*time.Minute).at(blocked, "v1", "", ReasonNodesWaiting)
			assert.Zero(t, w.s.Weight)
		}},
		"abort while it steps": {"{steps: [{weight: 10, hold: 2m}]}", func(t *testing.T, w *world) {
			w.declare("v2").follow().at(stepping, "v1", "v2", "").declare("v1").at(steady, "v1", "", "").outcomes("v1→v2 Aborted ", first)
			assert.Zero(t, w.s.Weight)
		}},
		"pause while it steps": {"{steps: [{weight: 10, hold: 2m}]}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Spec = w.in.Spec.DeepCopy()
			w.in.Spec.Switch.Paused = true
			w.ask().at(stepping, "v1", "v2", ReasonPaused).later(time.Hour).at(stepping, "v1", "v2", ReasonPaused)
			w.in.Spec = w.in.Spec.DeepCopy()
			w.in.Spec.Switch.Paused = false
			w.ask().at(stepping, "v1", "v2", "").later(time.Minute).at(stepping, "v1", "v2", "").later(time.Minute).at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"fewer steps on the way": {"{steps: [{weight: 10, hold: 2m}, {weight: 20, hold: 2m}]}", func(t *testing.T, w *world) {
			w.declare("v2").follow().later(2*time.Minute).follow().spec("v2", "{}").ask().at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"the candidate dies while it steps": {"{steps: [{weight: 10, hold: 2m}]}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{3, 0}
			w.ask().at(blocked, "v1", "", ReasonNoReadyEndpoint).outcomes("v1→v2 Blocked NoReadyEndpoint", first)
		}},
		"a step that fails": {"{steps: [{weight: 10, hold: 2m}], observe: {}}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{3, 1}
			w.ask().at(stepping, "v1", "v2", ReasonNotReady)
			assert.Equal(t, w.in.Now.Add(forgiveness), w.want.Due)
			w.later(forgiveness).at(rolledBack, "v1", "", ReasonNotReady).outcomes("v1→v2 RolledBack NotReady", first)
			w.in.Colours["v2"] = Colour{3, 3}
			w.later(time.Hour).follow().at(rolledBack, "v1", "", ReasonNotReady)
		}},
		"a step that fails, held": {"{steps: [{weight: 10, hold: 2m}], observe: {onFailure: Hold}}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{3, 1}
			w.ask().later(time.Hour).at(stepping, "v1", "v2", ReasonNotReady)
			w.in.Colours["v2"] = Colour{3, 3}
			w.ask().at(stepping, "v1", "v2", "").later(2*time.Minute).at(switching, "v2", "", ReasonNodesWaiting)
		}},
		"observed, and good": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow().at(observing, "v2", "", "")
			assert.Equal(t, w.in.Now.Add(time.Minute), w.want.Due)
			w.later(time.Minute).at(steady, "v2", "", "").outcomes("v1→v2 Succeeded ", first)
			assert.Equal(t, "v1", w.s.Previous)
		}},
		"a moment is forgiven": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{3, 1}
			w.ask().at(observing, "v2", "", ReasonNotReady)
			w.in.Colours["v2"] = Colour{3, 3}
			w.later(time.Second).at(observing, "v2", "", "")
			w.in.Colours["v2"] = Colour{3, 1}
			w.later(forgiveness).at(observing, "v2", "", ReasonNotReady)
		}},
		"rolled back by itself": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			decision := w.s.Decision
			w.in.Colours["v2"] = Colour{3, 1}
			w.ask().later(forgiveness).at(rolledBack, "v1", "", ReasonNotReady).outcomes("v1→v2 RolledBack NotReady", first)
			assert.Greater(t, w.s.Decision, decision)
			assert.Empty(t, w.s.Previous)
			assert.Equal(t, "v2", w.s.Retiring)
			w.in.Colours["v2"] = Colour{3, 3}
			w.later(time.Hour).follow().at(rolledBack, "v1", "", ReasonNotReady)
			w.in.Spec = w.in.Spec.DeepCopy()
			w.in.Spec.Switch.Paused = true
			w.ask().at(rolledBack, "v1", "", ReasonNotReady) // a pause is no new try
			w.spec("v1", observe).ask().at(steady, "v1", "", "").declare("v2").at(staging, "v1", "v2", ReasonNodesNotStaged)
		}},
		"all endpoints gone is not forgiven": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{}
			w.ask().at(rolledBack, "v1", "", ReasonNoReadyEndpoint)
		}},
		"bad already while it switches": {observe, func(t *testing.T, w *world) {
			w.declare("v2")
			for i := range w.in.Nodes {
				w.obey(&w.in.Nodes[i])
			}
			w.ask().at(switching, "v2", "", ReasonNodesWaiting)
			w.in.Colours["v2"] = Colour{3, 0}
			w.ask().at(rolledBack, "v1", "", ReasonNoReadyEndpoint)
		}},
		"held": {"{observe: {onFailure: Hold}}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"] = Colour{3, 0}
			w.ask().at(steady, "v2", "", ReasonNoReadyEndpoint).outcomes("v1→v2 Held NoReadyEndpoint", first)
		}},
		"nowhere to roll back to": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Colours["v2"], w.in.Colours["v1"] = Colour{3, 1}, Colour{3, 0}
			w.ask().later(forgiveness).at(observing, "v2", "", ReasonRollbackImpossible)
			w.later(time.Minute).at(steady, "v2", "", ReasonRollbackImpossible).outcomes("v1→v2 Held RollbackImpossible", first)
		}},
		"probe fails while it is observed": {"{observe: {probe: {http: {}}}}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Nodes[1].Probe = &v1alpha1.ProbeReport{Colour: "v2", Passed: 1, Failed: 2, Failures: []string{"10.0.0.7:80: HTTP status 500, want 200"}}
			w.ask().at(observing, "v2", "", ReasonProbeFailed).later(forgiveness).at(rolledBack, "v1", "", ReasonProbeFailed)
			assert.Contains(t, w.s.Message, "node2 passes 1 of 3")
		}},
		"connections fail": {observe, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Nodes[1].Signs = []v1alpha1.Sign{{Colour: "v1", Reason: "HalfOpen", Message: "of another colour"}}
			w.ask().at(observing, "v2", "", "")
			w.in.Nodes[1].Signs[0] = v1alpha1.Sign{Colour: "v2", Reason: "HalfOpen", Message: "10.0.0.7:80 accepts nothing"}
			w.ask().later(forgiveness).at(rolledBack, "v1", "", ReasonConnectionsFail)
			assert.Contains(t, w.s.Message, "node2: 10.0.0.7:80 accepts nothing")
		}},
		"connections are not looked at": {"{observe: {connections: false}}", func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Nodes[1].Signs = []v1alpha1.Sign{{Colour: "v2", Reason: "HalfOpen", Message: "10.0.0.7:80 accepts nothing"}}
			w.ask().later(forgiveness).at(observing, "v2", "", "")
		}},
		"the figure is good": {`{observe: {window: 1m, prometheus: {url: "http://a", query: errors, max: "0.01"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow().at(observing, "v2", "", "")
			assert.True(t, w.want.Query)
			w.in.Query = Query{Asked: w.in.Now.Add(time.Second), Answered: w.in.Now.Add(time.Second), Value: 0.01}
			w.later(time.Minute).at(steady, "v2", "", "")
			assert.False(t, w.want.Query)
		}},
		"the figure is bad": {`{observe: {prometheus: {url: "http://a", query: errors, max: "0.01", min: "-1"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Query = Query{Answered: w.in.Now.Add(time.Second), Value: 0.02}
			w.later(time.Second).at(rolledBack, "v1", "", ReasonQueryBeyondBound)
			assert.Contains(t, w.s.Message, "errors gave 0.02, above the max of 0.01")
		}},
		"the figure is low": {`{observe: {prometheus: {url: "http://a", query: rate, min: "1"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Query = Query{Answered: w.in.Now.Add(time.Second), Value: 0.5}
			w.later(time.Second).at(rolledBack, "v1", "", ReasonQueryBeyondBound)
		}},
		"the figure is of before": {`{observe: {window: 1m, prometheus: {url: "http://a", query: errors, max: "0.01"}}}`, func(t *testing.T, w *world) {
			w.in.Query = Query{Answered: w.in.Now, Value: 5}
			w.later(time.Minute).declare("v2").follow().at(observing, "v2", "", "")
		}},
		"the figure is not to be had": {`{observe: {window: 1m, prometheus: {url: "http://a", query: errors, max: "0.01"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Query.Err = "connection refused"
			w.later(time.Minute).at(observing, "v2", "", ReasonQueryUnanswered)
			assert.Contains(t, w.s.Message, "connection refused")
			w.later(queryGrace).at(rolledBack, "v1", "", ReasonQueryUnanswered)
		}},
		"hooks": {`{hooks: {before: {url: "http://a/before"}, after: {url: "http://a/after"}}}`, func(t *testing.T, w *world) {
			w.declare("v2")
			assert.Nil(t, w.want.Call, "not before the nodes have staged")
			w.follow().at(staging, "v1", "v2", ReasonHookPending)
			assert.Equal(t, &Call{Decision: w.s.Decision, Number: 1}, w.want.Call)
			w.answer("503 Service Unavailable").at(staging, "v1", "v2", ReasonHookFailed)
			assert.Contains(t, w.s.Message, "503 Service Unavailable")
			assert.Nil(t, w.want.Call)
			assert.Equal(t, w.in.Now.Add(hookAgain), w.want.Due)
			w.later(hookAgain)
			assert.EqualValues(t, 2, w.want.Call.Number)
			w.answer("").follow().at(steady, "v2", "", "")
			assert.Equal(t, &Call{After: true, Decision: w.s.Decision, Number: 1}, w.want.Call)
			w.answer("refused").later(hookAgain).answer("refused").later(hookAgain).answer("refused").later(hookAgain)
			assert.Nil(t, w.want.Call, "three times are enough")
			assert.EqualValues(t, 3, w.s.Hooks.After.Calls)
			w.outcomes("v1→v2 Succeeded ", first)
		}},
		"a hook that does not let it": {`{gate: {timeout: 15s}, hooks: {before: {url: "http://a/before"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow().answer("no").later(15*time.Second).at(blocked, "v1", "", ReasonHookFailed)
		}},
		"an answer of another switch": {`{hooks: {before: {url: "http://a/before"}}}`, func(t *testing.T, w *world) {
			w.declare("v2").follow()
			w.in.Answers = []Answer{{Call: *w.want.Call}}
			w.declare("v1").declare("v2").follow().at(staging, "v1", "v2", ReasonHookPending)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			walk.do(t, newWorld(t, walk.spec))
		})
	}
}

// TestAnotherGateOnTheWay: a longer timeout is taken over, counted from the same start.
func TestAnotherGateOnTheWay(t *testing.T) {
	w := newWorld(t, "{}")
	w.declare("v2").later(time.Minute).spec("v2", "{gate: {timeout: 10m}}").ask().at(staging, "v1", "v2", ReasonNodesNotStaged)
	require.Equal(t, epoch.Add(10*time.Minute), w.want.Due)
}

func TestHistoryHolds(t *testing.T) {
	w := newWorld(t, "{}")
	for range 8 {
		w.declare("v2").follow().declare("v1").follow()
	}
	assert.Len(t, w.s.History, v1alpha1.MaxHistory)
	assert.Equal(t, "v1", w.s.History[0].To)
}

func TestDeclaration(t *testing.T) {
	w := newWorld(t, "{}")
	base := Declaration(w.in.Spec)
	for spec, same := range map[string]bool{
		"{}": true, "{paused: true}": true, "{drain: {timeout: 1m}}": true, "{force: v9}": true,
		"{force: v1}": false, "{gate: {timeout: 1m}}": false, "{steps: [{weight: 1, hold: 1m}]}": false, "{observe: {}}": false,
		`{hooks: {after: {url: "http://a"}}}`: false,
	} {
		assert.Equal(t, same, base == Declaration(w.spec("v1", spec).in.Spec), spec)
	}
	assert.NotEqual(t, base, Declaration(w.spec("v2", "{}").in.Spec))
}
