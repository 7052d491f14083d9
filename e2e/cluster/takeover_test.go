package cluster

import (
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// The coordinator is killed in each phase of a switch: another one goes on, and it ends as it should. The killed
// daemon comes back as its DaemonSet has it do, after another one leads.
func TestClusterCoordinatorKilled(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2), deployment("v3", 2), virtualServer)
	st := s.tell()
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	s.counted(3)
	runs, held := s.loads(12), s.holds(2)
	kill := func(s *scene) (before *Node) {
		before = s.leader()
		s.daemons[before].Kill()
		after, took := s.newLeader(before)
		s.t.Logf("%s follows %s, killed, after %v", after.Name(), before.Name(), took.Round(100*time.Millisecond))
		return before
	}

	s.part("Staging", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v2","switch":{"paused":true}}`)
		st.waits("v2", 3)
		killed := kill(s)
		s.only(runs, began, "v1")
		s.declare(`{"switch":{"paused":false}}`)
		s.start(killed)
		st.succeeded("v2")
		s.oneTurn(runs, began, time.Now(), "v1", "v2")
	})
	s.part("Stepping", func(s *scene) {
		s.declare(`{"active":"v3","switch":{"steps":[{"weight":30,"hold":"1h"}]}}`)
		st.next("v3 gets its share on every node", func(m moment) bool {
			return m.Status.Target == "v3" && m.Status.Phase == v1alpha1.PhaseStepping && m.Status.Since != nil
		})
		killed := kill(s)
		began := time.Now()
		for n, run := range runs {
			require.NoError(s.t, run.Await(40, Patience))
			require.Equal(s.t, 2, len(run.Report().Since(began).ByColour()), "on %s, %v: the share is as it was", n.Name(), run.Report().Since(began))
		}
		began = time.Now()
		s.declare(`{"switch":{"steps":[]}}`)
		s.start(killed)
		st.succeeded("v3")
		done := time.Now()
		s.only(runs, done, "v3")
		for n, run := range runs {
			require.Empty(s.t, run.Report().Since(began).Lost().Lines(), "on %s", n.Name())
		}
	})
	s.part("Switching", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v1","switch":{"paused":true}}`)
		st.waits("v1", 3)
		leader := s.leader()
		frozen := s.Nodes[0] // cannot follow, so that the phase lasts
		if frozen == leader {
			frozen = s.Nodes[1]
		}
		s.signal(frozen, syscall.SIGSTOP)
		s.declare(`{"switch":{"paused":false}}`)
		st.next("two nodes have switched", func(m moment) bool {
			return m.Status.Target == "v1" && m.Status.Phase == v1alpha1.PhaseSwitching && m.Status.Nodes.Switched == 2
		})
		killed := kill(s)
		s.signal(frozen, syscall.SIGCONT)
		s.start(killed)
		st.succeeded("v1")
		s.oneTurn(runs, began, time.Now(), "v3", "v1")
		s.servesEverywhere("version=v1")
	})
	s.part("Observing", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v2","switch":{"observe":{"window":"1h"}}}`)
		st.phase(v1alpha1.PhaseObserving, "v2")
		killed := kill(s)
		s.declare(`{"switch":{"observe":null}}`)
		s.start(killed)
		st.succeeded("v2")
		s.oneTurn(runs, began, time.Now(), "v1", "v2")
		s.servesEverywhere("version=v2")
	})
	s.counted(3)
	s.intact(held)
	s.noneLost(runs)
	st.forward("v1", "v2", "v3", "v1", "v2")
	vs, err := s.virtualServer("myapp")
	require.NoError(t, err)
	require.Len(t, vs.Status.History, 5, "each switch is told once, the first decision included")
}

// signal sends a signal to the node's daemon.
func (s *scene) signal(n *Node, signal syscall.Signal) {
	s.t.Helper()
	require.NoError(s.t, syscall.Kill(s.daemons[n].Pid(), signal))
}

// The coordinator is frozen in the middle of a switch for longer than its lease, and comes to itself while another one
// leads: what it then believes does no harm.
func TestClusterTwoCoordinators(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 2), deployment("v2", 2), deployment("v3", 2), virtualServer)
	st := s.tell()
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	s.counted(3)
	runs, held := s.loads(12), s.holds(2)
	freeze := func(s *scene, before func()) (frozen *Node) {
		frozen = s.leader()
		s.signal(frozen, syscall.SIGSTOP)
		before()
		after, took := s.newLeader(frozen)
		s.t.Logf("%s follows %s, frozen, after %v", after.Name(), frozen.Name(), took.Round(100*time.Millisecond))
		return frozen
	}
	// thaw lets it go on, which it does with what it knew.
	thaw := func(s *scene, frozen *Node) {
		at := len(s.daemons[frozen].Output())
		s.signal(frozen, syscall.SIGCONT)
		s.Eventually(Patience, frozen.Name()+" says that it leads no more", func() error {
			return contains(s.daemons[frozen].Output()[at:], "leads no more")
		})
	}

	s.part("while it is staged", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v2","switch":{"paused":true}}`)
		st.waits("v2", 3)
		// The gate would hold for the frozen one too, and that is the first that it will hear.
		frozen := freeze(s, func() { s.declare(`{"switch":{"paused":false}}`) })
		st.next("the two others have switched", func(m moment) bool {
			return m.Status.Active == "v2" && m.Status.Phase == v1alpha1.PhaseSwitching && m.Status.Nodes.Switched == 2
		})
		s.only(map[*Node]*lab.Run{frozen: runs[frozen]}, began, "v1")
		thaw(s, frozen)
		st.succeeded("v2")
		s.oneTurn(runs, began, time.Now(), "v1", "v2")
		s.servesEverywhere("version=v2")
	})
	s.part("while it is observed, and the next switch is made without it", func(s *scene) {
		began := time.Now()
		s.declare(`{"active":"v3","switch":{"observe":{"window":"1h"}}}`)
		st.phase(v1alpha1.PhaseObserving, "v3")
		frozen := freeze(s, func() { s.declare(`{"switch":{"observe":null}}`) })
		st.succeeded("v3")
		s.oneTurn(runs, began, time.Now(), "v2", "v3")
		began = time.Now()
		s.declare(`{"active":"v1"}`)
		m := st.succeeded("v1") // once its lease is over
		require.EqualValues(s.t, 2, m.Status.Nodes.Total)
		s.only(map[*Node]*lab.Run{frozen: runs[frozen]}, began, "v3")
		thaw(s, frozen)
		s.counted(3)
		s.oneTurn(runs, began, time.Now(), "v3", "v1")
		s.servesEverywhere("version=v1")
	})
	time.Sleep(3 * time.Second) // for what one might still write
	s.counted(3)
	s.intact(held)
	s.noneLost(runs)
	st.forward("v1", "v2", "v3", "v1")
	vs, err := s.virtualServer("myapp")
	require.NoError(t, err)
	t.Logf("%d stale writes of the status were refused", s.refusedWrites())
	require.Len(t, vs.Status.History, 4, "each switch is told once, the first decision included")
}
