package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// Five nodes, of which two join in the middle of a switch; then switches under load on all of them; then one without
// a node whose daemon is dead.
func TestClusterFiveNodes(t *testing.T) {
	c := New(t, "node03", "node04")
	s := &scene{Cluster: c, whole: c, account: c.install(), daemons: map[*Node]*lab.Daemon{}}
	for _, o := range []string{labelled, deployment("v1", 3), deployment("v2", 3), deployment("v3", 3), virtualServer} {
		c.Apply(o)
	}
	early, staging, observing := c.Nodes[:3], c.Nodes[3], c.Nodes[4]
	for _, n := range early {
		s.start(n)
	}
	st := c.tell()
	s.Endpoints("default", "myapp", 9)
	s.counted(3)
	s.part("two join in the middle", func(s *scene) { s.join(st, staging, observing) })
	s.part("with no load", func(s *scene) { s.skew(st, nil, "v2", "v3", "v1", "v2") })
	runs, held := s.loads(6), s.holds(1)
	s.part("under load", func(s *scene) { s.skew(st, runs, "v2", "v3", "v1") })
	s.part("without a dead node", func(s *scene) { s.withoutDead(st, runs, staging) })
	s.intact(held)
	s.noneLost(runs)
	st.forward("v1", "v2", "v3", "v1", "v2", "v3", "v1", "v2", "v3")
}

// join starts the daemon of one node while v2 is being staged, and that of another while it is observed.
func (s *scene) join(st *story, staging, observing *Node) {
	s.declare(`{"active":"v2","switch":{"paused":true,"observe":{"window":"1h"}}}`)
	st.waits("v2", 3)
	s.start(staging)
	m := st.waits("v2", 4)
	require.Equal(s.t, "v1", m.Status.Active)
	require.NoError(s.t, s.serves(staging, staging.nodePort(), "version=v1"))
	began := time.Now()
	load := map[*Node]*lab.Run{staging: s.load(staging, 20, stall)}
	require.NoError(s.t, load[staging].Await(10, Patience))

	s.declare(`{"switch":{"paused":false}}`)
	st.phase(v1alpha1.PhaseObserving, "v2")
	s.start(observing)
	st.next("five nodes serve v2", func(m moment) bool {
		return m.Status.Phase == v1alpha1.PhaseObserving && m.Status.Nodes.Total == 5 && m.Status.Nodes.Switched == 5
	})
	require.NoError(s.t, s.serves(observing, observing.nodePort(), "version=v2"))
	for _, e := range st.reported(observing) {
		require.Contains(s.t, []string{"", "v2"}, e.Active, "%s went to another colour first", observing.Name())
	}
	s.declare(`{"switch":{"observe":null}}`) // it has been long enough
	require.EqualValues(s.t, 5, st.succeeded("v2").Status.Nodes.Total)
	s.oneTurn(load, began, time.Now(), "v1", "v2")
	load[staging].Stop()
	s.servesEverywhere("version=v2")
}

// skew switches from one colour to others, and prints how long after the coordinator's write of status.active each node's
// kernel had cut over. All five daemons, the pods and the load share one emulated processor, so that these times are
// theirs more than pointsman's.
func (s *scene) skew(st *story, runs map[*Node]*lab.Run, old string, then ...string) {
	w := s.watchCommits()
	type turn struct {
		old, new string
		told     moment
		ended    time.Time
	}
	var turns []turn
	for _, next := range then {
		began := time.Now()
		s.declare(fmt.Sprintf(`{"active":%q}`, next))
		told := st.phase(v1alpha1.PhaseSwitching, next)
		st.succeeded(next)
		ended := time.Now()
		for _, n := range s.Nodes {
			require.NoError(s.t, s.serves(n, n.nodePort(), "version="+next))
		}
		s.only(runs, ended, next)
		s.oneTurn(runs, began, time.Now(), old, next)
		turns = append(turns, turn{old, next, told, ended})
		old = next
	}
	for _, turn := range turns {
		wrote, precision := s.commitOf(turn.told.Status.Decision)
		var kernels, firsts []time.Time
		for _, n := range s.Nodes {
			at, err := w.after(n, wrote.Add(-precision))
			require.NoError(s.t, err)
			kernels = append(kernels, at)
			if runs[n] == nil {
				continue
			}
			report := runs[n].Report().Since(wrote.Add(-time.Second)).Until(turn.ended)
			first, ok := report.Turned(turn.new)
			require.True(s.t, ok, "on %s, %v", n.Name(), report)
			firsts = append(firsts, first)
		}
		ms := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
		text := fmt.Sprintf("%s to %s, five nodes, since the API server was asked to write status.active (known to %v): a watch told of it after %v; "+
			"the kernels' nftables transactions, by their notifications, after %v", turn.old, turn.new, ms(precision), ms(turn.told.seen.Sub(wrote)), span(wrote, kernels))
		if len(firsts) > 0 {
			text += fmt.Sprintf("; the first answers of the new colour after %v", span(wrote, firsts))
		}
		s.t.Log(text)
	}
}

// withoutDead switches without a node whose daemon is dead, and whose kernel goes on as it was; the daemon, when it is
// back, goes straight to what is active.
func (s *scene) withoutDead(st *story, runs map[*Node]*lab.Run, dead *Node) {
	if s.leader() == dead { // that is another test's
		require.NoError(s.t, s.daemons[dead].Terminate(Patience))
		s.newLeader(dead)
		s.start(dead)
		s.counted(5)
	}
	began := time.Now()
	s.daemons[dead].Kill()
	st.next("four nodes live", func(m moment) bool { return m.Status.Active == "v1" && m.Status.Nodes.Total == 4 })
	s.t.Logf("%s counts no more %v after its daemon was killed", dead.Name(), time.Since(began).Round(time.Second))
	began = time.Now()
	s.declare(`{"active":"v2"}`)
	m := st.succeeded("v2")
	require.EqualValues(s.t, 4, m.Status.Nodes.Total)
	require.Equal(s.t, []string{dead.Name()}, m.Status.Nodes.Dead)
	s.condition("myapp", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified", "not alive and not counted: "+dead.Name())
	s.condition("myapp", v1alpha1.ConditionHealthy, metav1.ConditionTrue, "Ready", "not alive and not counted: "+dead.Name())
	for _, n := range s.Nodes {
		want := "version=v2"
		if n == dead {
			want = "version=v1"
		}
		require.NoError(s.t, s.serves(n, n.nodePort(), want))
	}
	s.declare(`{"active":"v3"}`) // and once more, so that there is a decision that it has never seen
	st.succeeded("v3")
	require.NoError(s.t, s.serves(dead, dead.nodePort(), "version=v1"))

	back := time.Now()
	s.start(dead)
	took := s.Eventually(Patience, "the node that is back serves v3", func() error {
		return s.serves(dead, dead.nodePort(), "version=v3")
	})
	s.t.Logf("it serves what is active %v after its daemon was started", took.Round(time.Millisecond))
	s.counted(5)
	for n, run := range runs {
		if n != dead {
			require.Empty(s.t, run.Report().Since(began).Lost().Lines(), "on %s", n.Name())
		}
	}
	report := runs[dead].Report()
	require.Empty(s.t, report.Since(began).To("v2").Lines(), "it went to v2 on its way")
	s.oneTurn(map[*Node]*lab.Run{dead: runs[dead]}, back, time.Now(), "v1", "v3")
	s.servesEverywhere("version=v3")
}
