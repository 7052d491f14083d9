package cluster

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// The coordinator is killed in the middle of a switch: traffic switches all the same, another one takes over, and
// the status gets right and names the node that is not there.
func TestClusterCoordinator(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2), virtualServer)
	s.Endpoints("default", "myapp", 4)
	s.servesEverywhere("version=v1")
	s.counted(3)
	first := s.leader()
	runs, held := s.loads(20), s.holds(4)

	s.daemons[first].Kill()
	killed := time.Now()
	s.setActive("myapp", "v2")
	s.Eventually(Patience, "the nodes that live serve v2", func() error {
		var errs []error
		for _, n := range s.Nodes {
			if n != first {
				errs = append(errs, s.serves(n, n.nodePort(), "version=v2"))
			}
		}
		return errors.Join(errs...)
	})
	t.Logf("those that live serve v2 %v after the coordinator was killed", time.Since(killed).Round(time.Millisecond))
	second, _ := s.newLeader(first)
	t.Logf("%s took over from %s after %v", second.Name(), first.Name(), time.Since(killed).Round(time.Second))
	// The dead one still counts until its lease is over; then the rest is enough, and it is named.
	message := s.condition("myapp", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified", "not alive and not counted: "+first.Name())
	t.Logf("%v after: %s", time.Since(killed).Round(time.Second), message)
	vs, err := s.virtualServer("myapp")
	require.NoError(t, err)
	require.Equal(t, "v2", vs.Status.Active)
	require.Equal(t, v1alpha1.PhaseSteady, vs.Status.Phase)
	require.EqualValues(t, 2, vs.Status.Nodes.Total)
	require.Equal(t, v1alpha1.OutcomeSucceeded, vs.Status.History[0].Outcome)
	s.condition("myapp", v1alpha1.ConditionSafeToRetire, metav1.ConditionFalse, "Draining")
	require.NoError(t, s.serves(first, first.nodePort(), "version=v1"), "the kernel of a node without daemon is as it was")
	s.healthy(runs, "v1", "v2")
	s.intact(held)

	s.start(first)
	s.servesEverywhere("version=v2")
	s.counted(3)
	s.healthy(runs, "v1", "v2")
	s.intact(held)

	s.part("two daemons on a node", func(s *scene) { s.twoDaemons(second) })
	s.healthy(runs, "v1", "v2")
	s.intact(held)
	s.servesEverywhere("version=v2")
}

// counted waits until this many nodes count as live, and each was read back as declared. A node counts from its
// first report on: nobody knows of a daemon that was killed before it.
func (s *scene) counted(nodes int32) {
	s.t.Helper()
	s.Eventually(Patience, fmt.Sprintf("%d nodes count", nodes), func() error {
		vs, err := s.virtualServer("myapp")
		if err == nil && (vs.Status.Nodes.Total != nodes || vs.Status.Nodes.Switched != nodes) {
			err = fmt.Errorf("%+v", vs.Status.Nodes)
		}
		return err
	})
}

// twoDaemons starts a second daemon with a state directory of its own on the node, so that no lock keeps it from
// working. What the first one made serves the Service's endpoints, so that it takes them for its own; both want
// the same of the kernel and of the API server then, and write nothing against each other.
func (s *scene) twoDaemons(n *Node) {
	before, err := n.Table()
	require.NoError(s.t, err)
	writes := s.watchWrites()
	other := s.Pointsman(n, s.account, "--state-dir", filepath.Join(s.folder, "state-second"), "--health-address", "127.0.0.1:9968")
	s.Eventually(Patience, "the second one is ready, with the virtual servers of the first", func() error {
		if !strings.Contains(other.Output(), "taking over TCP "+n.nodePort().String()) {
			return fmt.Errorf("it said %q", other.Output())
		}
		_, err := n.Get("http://127.0.0.1:9968/readyz")
		return err
	})
	began, reports := time.Now(), s.reportWrites(n)
	time.Sleep(10 * time.Second)
	count := s.reportWrites(n) - reports
	s.t.Logf("%d writes of the node's report in %v by two daemons", count, time.Since(began).Round(time.Second))
	require.Less(s.t, count, 5, "the two fight over the node's report")
	// What drained may be deleted meanwhile; two that undo each other's writes would make hundreds.
	require.Less(s.t, len(writes()), 10, "written to the kernel by daemons that want what there is")
	now, err := n.Table()
	require.NoError(s.t, err)
	require.Equal(s.t, up(before), up(now))
	require.NoError(s.t, other.Terminate(Patience))
	s.condition("myapp", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified")
}

// up is the shape of what gets new connections.
func up(t lab.Table) map[string]int {
	out := shape(t)
	maps.DeleteFunc(out, func(_ string, weight int) bool { return weight == 0 })
	return out
}

// reportWrites counts how often a node's report was written, as the audit log has it.
func (s *scene) reportWrites(n *Node) (count int) {
	s.t.Helper()
	text, err := askFor("/audit")
	require.NoError(s.t, err)
	for line := range strings.Lines(text) {
		if strings.Contains(line, `"verb":"update"`) && strings.Contains(line, "/nodereports/"+n.Name()+"/status") {
			count++
		}
	}
	return count
}
