package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// A node that cannot reach the candidate keeps every node from it; a version that goes bad is left again, by every node.
func TestClusterGateAndObservation(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2), deployment("v3", 2), virtualServer)
	st := s.tell()
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	s.counted(3)
	runs, held := s.loads(12), s.holds(2)
	s.part("a node that cannot reach the candidate", func(s *scene) { s.blocked(st, runs) })
	s.part("forced", func(s *scene) { s.forced(st, runs) })
	s.part("not ready any more", func(s *scene) { s.goesBad(st, runs) })
	s.part("not reached any more by a node", func(s *scene) { s.losesWay(st, runs) })
	s.intact(held)
	s.noneLost(runs)
	st.forward("v1", "v2", "v3", "v1", "v3", "v1", "v3")
}

// cutOff drops what the node's own programs send to the pods of a version, until it is mended. What IPVS forwards passes
// the same hook, and belongs to no user.
func (s *scene) cutOff(n *Node, version string) (mend func()) {
	s.t.Helper()
	var pods []string
	for _, pod := range s.Pods("default", "version="+version) {
		pods = append(pods, pod.Status.PodIP)
	}
	_, err := n.Run("nft", fmt.Sprintf("table ip fault { chain out { type filter hook output priority 0; meta skuid 0 ip daddr { %s } drop; }; }", strings.Join(pods, ", ")))
	require.NoError(s.t, err)
	return func() {
		_, err := n.Run("nft", "delete table ip fault")
		require.NoError(s.t, err)
	}
}

// blocked has node02 not reach v2: v1 stays on every node, until that is mended and asked for anew.
func (s *scene) blocked(st *story, runs map[*Node]*lab.Run) {
	n := s.Node("node02")
	mend := s.cutOff(n, "v2")
	began := time.Now()
	s.declare(`{"active":"v2","switch":{"gate":{"probe":{"tcp":{}},"timeout":"15s"}}}`)
	m := st.phase(v1alpha1.PhaseBlocked, "v2")
	s.t.Logf("%s: %s", m.Status.Reason, m.Status.Message)
	require.Equal(s.t, "ProbeFailed", m.Status.Reason)
	for _, pod := range s.Pods("default", "version=v2") {
		require.Contains(s.t, m.Status.Message, pod.Status.PodIP)
	}
	for _, text := range []string{"1 of 3 nodes", n.Name(), "no connection in time", `"v1" stays active`} {
		require.Contains(s.t, m.Status.Message, text)
	}
	for _, other := range s.Nodes {
		if other != n {
			require.NotContains(s.t, m.Status.Message, other.Name())
		}
	}
	require.Equal(s.t, v1alpha1.OutcomeBlocked, m.Status.History[0].Outcome)
	s.condition("myapp", v1alpha1.ConditionSwitched, metav1.ConditionFalse, "ProbeFailed", n.Name())
	mend()
	// Nothing moves hours later because something was mended.
	time.Sleep(5 * time.Second)
	vs, err := s.virtualServer("myapp")
	require.NoError(s.t, err)
	require.Equal(s.t, m.Status.Decision, vs.Status.Decision)
	require.Equal(s.t, v1alpha1.PhaseBlocked, vs.Status.Phase)
	s.only(runs, began, "v1")

	began = time.Now()
	s.declare(`{"switch":{"gate":{"timeout":"2m"}}}`)
	st.succeeded("v2")
	s.oneTurn(runs, began, time.Now(), "v1", "v2")
	s.servesEverywhere("version=v2")
}

// forced has node02 not reach v3, and the switch made all the same by somebody who knows better.
func (s *scene) forced(st *story, runs map[*Node]*lab.Run) {
	n := s.Node("node02")
	mend := s.cutOff(n, "v3")
	defer mend()
	began := time.Now()
	s.declare(`{"active":"v3","switch":{"gate":{"timeout":"15s"}}}`)
	m := st.phase(v1alpha1.PhaseBlocked, "v3")
	require.Contains(s.t, m.Status.Message, n.Name())
	require.Contains(s.t, m.Status.Message, "spec.switch.force: v3")
	s.only(runs, began, "v2")
	s.declare(`{"switch":{"force":"v3"}}`)
	st.succeeded("v3")
	s.oneTurn(runs, began, time.Now(), "v2", "v3")
	s.servesEverywhere("version=v3")
}

// rolledBack waits until the switch from v3 to v1 was undone, and requires that nothing of it comes by itself.
func (s *scene) rolledBack(st *story, reason string, says ...string) {
	s.t.Helper()
	m := st.phase(v1alpha1.PhaseRolledBack, "v1")
	s.t.Logf("%s: %s", m.Status.Reason, m.Status.Message)
	require.Equal(s.t, reason, m.Status.Reason)
	require.Equal(s.t, "v3", m.Status.Active)
	for _, text := range append(says, "v3 is active again", "not tried again until") {
		require.Contains(s.t, m.Status.Message, text)
	}
	require.Equal(s.t, v1alpha1.OutcomeRolledBack, m.Status.History[0].Outcome)
	require.Equal(s.t, reason, m.Status.History[0].Reason)
	s.servesEverywhere("version=v3")
}

// stays requires that what was rolled back is not tried again, and that spec was left alone.
func (s *scene) stays() {
	s.t.Helper()
	before, err := s.virtualServer("myapp")
	require.NoError(s.t, err)
	require.Equal(s.t, v1alpha1.PhaseRolledBack, before.Status.Phase)
	require.Equal(s.t, "v1", before.Spec.Active)
	time.Sleep(8 * time.Second)
	now, err := s.virtualServer("myapp")
	require.NoError(s.t, err)
	require.Equal(s.t, before.Generation, now.Generation, "somebody wrote spec")
	require.Equal(s.t, before.Spec, now.Spec)
	require.Equal(s.t, before.Status.Decision, now.Status.Decision)
	require.Equal(s.t, v1alpha1.PhaseRolledBack, now.Status.Phase)
}

// goesBad has half of v1's pods become unready while v1 is observed.
func (s *scene) goesBad(st *story, runs map[*Node]*lab.Run) {
	began := time.Now()
	s.declare(`{"active":"v1","switch":{"force":"","gate":{"probe":null,"timeout":"2m"},"observe":{"window":"10m","minReady":"80%"}}}`)
	st.phase(v1alpha1.PhaseObserving, "v1")
	s.servesEverywhere("version=v1")
	s.oneTurn(runs, began, time.Now(), "v3", "v1")

	began = time.Now()
	pod := s.Pods("default", "version=v1")[0].Name
	s.readiness(pod, "false")
	s.rolledBack(st, "NotReady", "1 of 2 endpoints of v1 are ready")
	s.t.Logf("every node serves v3 again %v after a pod of v1 became unready", time.Since(began).Round(time.Millisecond))
	s.readiness(pod, "true")
	s.stays()
	s.oneTurn(runs, began, time.Now(), "v1", "v3")
}

// losesWay tries again, and has node02 lose its way to v1's pods while v1 is observed.
func (s *scene) losesWay(st *story, runs map[*Node]*lab.Run) {
	began := time.Now()
	s.declare(`{"switch":{"observe":{"probe":{"tcp":{}}}}}`)
	st.phase(v1alpha1.PhaseObserving, "v1")
	s.servesEverywhere("version=v1")
	s.oneTurn(runs, began, time.Now(), "v3", "v1")

	began = time.Now()
	mend := s.cutOff(s.Node("node02"), "v1")
	s.rolledBack(st, "ProbeFailed", "node02", "no connection in time")
	mend()
	s.stays()
	s.oneTurn(runs, began, time.Now(), "v1", "v3")
	s.declare(`{"active":"v3"}`)
	st.next("it is given up", func(m moment) bool { return m.Spec.Active == "v3" && m.Status.Phase == v1alpha1.PhaseSteady })
}

// readiness plays the pod's readiness probe.
func (c *Cluster) readiness(pod, value string) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, ReadyAnnotation, value)
	_, err := c.Kube.CoreV1().Pods("default").Patch(context.Background(), pod, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	require.NoError(c.t, err)
}
