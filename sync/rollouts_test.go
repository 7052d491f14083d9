package sync

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/probe"
)

// prober says of each endpoint what the test does.
type prober struct {
	set    map[string]probe.Target
	failed int
}

func (p *prober) Set(want map[string]probe.Target) { p.set = want }
func (p *prober) Changed() <-chan struct{}         { return nil }
func (p *prober) Result(key string) (probe.Result, bool) {
	target, ok := p.set[key]
	if !ok {
		return probe.Result{}, false
	}
	r := probe.Result{Passed: len(target.Endpoints) - p.failed}
	for _, e := range target.Endpoints[:p.failed] {
		r.Failures = append(r.Failures, probe.Failure{Endpoint: e, Seen: "connection refused"})
	}
	return r, true
}

// A gate's probe is made of the candidate while it is staged, and what fails is named.
func TestGateProbes(t *testing.T) {
	b := newBench(t, t.TempDir())
	p := &prober{failed: 1}
	b.Prober = p
	both := map[string]int{"v1": 2, "v2": 2}
	declared := func(active string) endpoints.Server {
		s := server(active, both)
		s.Spec.Switch.Gate.Probe = &v1alpha1.Probe{TCP: &v1alpha1.TCPProbe{}}
		return s
	}
	b.declare(t, declared("v1"))
	require.Empty(t, p.set, "nothing is probed at rest")
	s := b.declare(t, declared("v2")).Server(owner)
	assert.Equal(t, v1alpha1.PhaseStaging, s.Status.Phase)
	assert.Equal(t, "v2", s.Staged)
	assert.Contains(t, s.Status.Message, "passes 1 of 2 endpoints of v2")
	assert.Equal(t, map[string]uint32{"10.244.1.1:8080": 1, "10.244.1.2:8080": 1}, b.serving(t)["TCP 192.0.2.10:30080"])
	assert.True(t, b.rollouts.dueAt.After(time.Now()), "the gate's timeout has a pass made")
	p.failed = 0
	s = b.declare(t, declared("v2")).Server(owner)
	assert.Equal(t, v1alpha1.PhaseSteady, s.Status.Phase)
	assert.Equal(t, "v2", s.Status.Active)
	require.Empty(t, p.set)
}

// Steps give the candidate its share in the kernel, over a restart too, and an observation that fails takes it back.
func TestStepsAndRollback(t *testing.T) {
	b := newBench(t, t.TempDir())
	declared := func(active string, v2 int) endpoints.Server {
		s := server(active, map[string]int{"v1": 2, "v2": v2})
		s.Spec.Switch.Steps = []v1alpha1.Step{{Weight: 10, Hold: &metav1.Duration{Duration: time.Hour}}}
		s.Spec.Switch.Observe = &v1alpha1.Observe{}
		vs := v1alpha1.VirtualServer{Spec: *s.Spec}
		v1alpha1.Default(&vs)
		s.Spec = &vs.Spec
		return s
	}
	b.declare(t, declared("v1", 2))
	s := b.declare(t, declared("v2", 2)).Server(owner)
	assert.Equal(t, v1alpha1.PhaseStepping, s.Status.Phase, "%s", s.Status.Message)
	assert.Empty(t, s.Status.Reason, "%s", s.Status.Message)
	assert.EqualValues(t, 10, s.Weight)
	b.restart(t)
	s = b.declare(t, declared("v2", 2)).Server(owner)
	assert.Equal(t, v1alpha1.PhaseStepping, s.Status.Phase)
	assert.Equal(t, "v1", s.Status.Active)
	s = b.declare(t, declared("v2", 0)).Server(owner)
	assert.Equal(t, v1alpha1.PhaseBlocked, s.Status.Phase)
	assert.Zero(t, s.Weight)
	assert.Equal(t, map[string]uint32{"10.244.1.1:8080": 1, "10.244.1.2:8080": 1}, b.serving(t)["TCP 192.0.2.10:30080"])
}

// In a cluster the decision is followed, whatever is declared, and an older one is not gone back to.
func TestDecisionsAreFollowed(t *testing.T) {
	b := newBench(t, t.TempDir())
	both := map[string]int{"v1": 1, "v2": 1}
	decided := func(declared string, d *endpoints.Decision) endpoints.Server {
		s := server(declared, both)
		s.UID, s.Generation, s.Decision = "u1", 1, d
		return s
	}
	active := func(s endpoints.Server) string { return b.declare(t, s).Server(owner).Status.Active }
	assert.Equal(t, "v1", active(decided("v1", nil)), "the first decision")
	assert.Equal(t, "v1", active(decided("v2", nil)), "nothing is decided")
	s := b.declare(t, decided("v2", &endpoints.Decision{Number: 2, Active: "v1", Candidate: "v2", Phase: v1alpha1.PhaseStaging})).Server(owner)
	assert.Equal(t, []any{"v1", "v2", int64(2)}, []any{s.Status.Active, s.Staged, s.Decision})
	assert.Equal(t, "v2", active(decided("v2", &endpoints.Decision{Number: 3, Active: "v2"})))
	b.restart(t)
	assert.Equal(t, "v2", active(decided("v1", &endpoints.Decision{Number: 2, Active: "v1"})), "older")
	assert.False(t, b.rollouts.dueAt.IsZero(), "not for ever")
	b.rollouts.older[owner] = time.Now().Add(-olderFor)
	assert.Equal(t, "v1", active(decided("v1", &endpoints.Decision{Number: 2, Active: "v1"})), "the store was put back")
	again := decided("v2", &endpoints.Decision{Number: 1, Active: "v2"})
	again.UID = "u2"
	assert.Equal(t, "v2", active(again), "another object counts anew")
}

// A probe that names a port asks each address once, and what fails is named by that port.
func TestProbesAskTheirOwnPort(t *testing.T) {
	s := server("v1", map[string]int{"v1": 2, "v2": 1})
	other := s.Ports[0]
	other.Endpoints = slices.Clone(other.Endpoints)
	for i := range other.Endpoints {
		other.Endpoints[i].Port = 8443
	}
	s.Ports = append(s.Ports, other)
	text := func(how *v1alpha1.Probe) (out []string) {
		for _, at := range probed(&s, "v1", how) {
			out = append(out, at.String())
		}
		return out
	}
	port := int32(9000)
	assert.Equal(t, []string{"10.244.1.1:9000", "10.244.1.2:9000"}, text(&v1alpha1.Probe{HTTP: &v1alpha1.HTTPProbe{Port: &port}}))
	assert.Equal(t, []string{"10.244.1.1:8080", "10.244.1.1:8443", "10.244.1.2:8080", "10.244.1.2:8443"}, text(&v1alpha1.Probe{TCP: &v1alpha1.TCPProbe{}}))
}
