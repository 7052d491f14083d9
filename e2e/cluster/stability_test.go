package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// watchWrites sees what pointsman writes to the kernel, in the kernel.
func (c *Cluster) watchWrites() (writes func() []string) {
	c.t.Helper()
	w, err := lab.WatchWrites(filepath.Base(os.Getenv(lab.ProgramVariable)))
	require.NoError(c.t, err)
	c.t.Cleanup(func() { require.NoError(c.t, w.Close()) })
	return func() []string {
		c.t.Helper()
		lines, err := w.Writes()
		require.NoError(c.t, err)
		return lines
	}
}

// Daemons end, crash and are upgraded on all nodes, under load: nothing is lost, and the next one, which finds
// the kernel as it should be, writes nothing to it.
func TestClusterRestart(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 4), deployment("v2", 2), virtualServer)
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	writes := s.watchWrites()
	s.switchTo("myapp", "v2")
	r := s.admin("rollback", "myapp", "--wait")
	require.Zero(t, r.Status, "%v", r)
	require.NotEmpty(t, writes(), "the watch has to see the writes that there are")
	s.drained()
	s.ready()
	runs, held := s.loads(8), s.holds(4)
	s.healthy(runs, "v1")

	for _, way := range []struct {
		name    string
		replace func(*scene, *Node)
	}{
		{"ended", func(s *scene, n *Node) {
			require.NoError(s.t, s.daemons[n].Terminate(Patience))
			s.start(n)
		}},
		{"killed", func(s *scene, n *Node) {
			s.daemons[n].Kill()
			s.start(n)
		}},
		{"upgraded", func(s *scene, n *Node) {
			first := s.daemons[n]
			s.start(n)
			s.Eventually(Patience, "the second daemon waits for the first", func() error {
				if out := s.daemons[n].Output(); !strings.Contains(out, "waiting for its end") {
					return fmt.Errorf("it said %q", out)
				}
				return nil
			})
			time.Sleep(time.Second)
			require.True(s.t, first.Running())
			require.NoError(s.t, first.Terminate(Patience))
		}},
	} {
		s.part(way.name, func(s *scene) {
			before := len(writes())
			for _, n := range s.Nodes {
				way.replace(s, n)
			}
			took := s.ready()
			time.Sleep(3 * time.Second) // some more passes
			require.Empty(s.t, writes()[before:], "written to the kernel by daemons that had nothing to write")
			s.healthy(runs, "v1")
			s.intact(held)
			s.servesEverywhere("version=v1")
			s.t.Logf("ready %v after the last start; 0 writes", took.Round(time.Millisecond))
		})
	}

	// They do live.
	s.Apply(deployment("v1", 5))
	s.Endpoints("default", "myapp", 7)
	s.servesEverywhere("version=v1")
	s.healthy(runs, "v1")
	s.intact(held)

	s.part("two on a node", func(s *scene) { s.twoDaemons(s.Nodes[1], writes) })
	s.healthy(runs, "v1")
	s.intact(held)
	s.servesEverywhere("version=v1")
}

// twoDaemons starts a second daemon with a state directory of its own on the node, so that no lock keeps it from
// working. What the first one made serves the Service's endpoints, so that it takes them for its own; both want
// the same of the kernel and of the API server then, and write nothing against each other.
func (s *scene) twoDaemons(n *Node, writes func() []string) {
	before, err := n.Table()
	require.NoError(s.t, err)
	wrote := len(writes())
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
	require.Less(s.t, len(writes())-wrote, 10, "written to the kernel by daemons that want what there is")
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

// drained waits until no real server drains on any node.
func (c *Cluster) drained() {
	c.t.Helper()
	c.Eventually(2*Patience, "nothing drains", func() error {
		for _, n := range c.Nodes {
			table, err := n.Table()
			if err != nil {
				return err
			}
			for _, v := range table {
				if d := v.Draining(); len(d) > 0 {
					return fmt.Errorf("on %s, %v drains %v", n.Name(), v.Addr, d)
				}
			}
		}
		return nil
	})
}

// Without an API server traffic goes on, what somebody takes away is put back, a restart changes nothing, and a
// node that was booted anew has what it had.
func TestClusterStability(t *testing.T) {
	s := newScene(t, labelled, deployment("v1", 4), deployment("v2", 2), virtualServer)
	s.Endpoints("default", "myapp", 6)
	s.servesEverywhere("version=v1")
	s.ready()
	writes := s.watchWrites()
	master, restarted, rebooted := s.Nodes[0], s.Nodes[1], s.Nodes[2]
	time.Sleep(2 * time.Second) // the last known state is on disk a second after it changed
	runs, held := s.loads(8), s.holds(4)
	s.healthy(runs, "v1")
	table, err := master.Table()
	require.NoError(t, err)
	before := len(writes())

	s.StopAPIServer()
	stopped := time.Now()
	time.Sleep(5 * time.Second)
	s.healthy(runs, "v1")
	require.Empty(t, writes()[before:], "written when the API server went")

	s.part("a real server that somebody deleted is put back", func(s *scene) {
		// It is one of no connections: deleting it is somebody's way to cut what it has.
		runs[master].Stop()
		v, _ := table.Find("TCP", master.nodePort())
		taken := v.Serving()[0]
		for _, one := range held[master].Abort() {
			require.NoError(s.t, one.Err)
		}
		_, err := master.Run("ipvsadm", "-d", "-t", master.nodePort().String(), "-r", taken.String())
		require.NoError(s.t, err)
		took := s.Eventually(Patience, "it is back", func() error {
			now, err := master.Table()
			if err != nil {
				return err
			}
			if v, _ := now.Find("TCP", master.nodePort()); len(v.Serving()) != 4 {
				return fmt.Errorf("%v", v)
			}
			return nil
		})
		repaired := len(writes()) - before
		s.t.Logf("repaired after %v, by %d writes", took.Round(time.Millisecond), repaired)
		require.NotZero(s.t, repaired)
		require.LessOrEqual(s.t, repaired, 2)
		runs[master] = s.load(master, 20, stall)
		delete(held, master)
	})

	s.part("a restart changes nothing", func(s *scene) {
		before := len(writes())
		s.daemons[restarted].Kill()
		s.start(restarted)
		s.Eventually(Patience, "it holds the last known state", func() error {
			out := s.daemons[restarted].Output()
			if !strings.Contains(out, "is held") {
				return fmt.Errorf("it said:\n%s", out)
			}
			return nil
		})
		time.Sleep(3 * time.Second)
		require.Empty(s.t, writes()[before:], "written by a daemon that had nothing to write")
		s.healthy(runs, "v1")
		s.intact(held)
	})

	s.part("a node that was booted anew", func(s *scene) {
		report := runs[rebooted].Stop()
		require.Empty(s.t, report.Lost().Lines())
		for _, one := range held[rebooted].Abort() {
			require.NoError(s.t, one.Err)
		}
		delete(held, rebooted)
		was, err := rebooted.Table()
		require.NoError(s.t, err)
		s.daemons[rebooted].Kill()
		s.forgetKernel(rebooted)
		one := lab.Load{From: s.Client, Target: rebooted.nodePort(), Timeout: time.Second}.Once()
		require.Equal(s.t, lab.Refused, one.Class)
		began := time.Now()
		s.start(rebooted)
		s.answers(rebooted.nodePort(), "v1")
		s.t.Logf("served %v after the start, without an API server", time.Since(began).Round(time.Millisecond))
		now, err := rebooted.Table()
		require.NoError(s.t, err)
		require.Equal(s.t, shape(was), shape(now))
		addrs, err := rebooted.Run("ip", "-4", "addr", "show", "dev", "pointsman0")
		require.NoError(s.t, err)
		require.Contains(s.t, addrs, "inet 10.96.")
		runs[rebooted] = s.load(rebooted, 20, stall)
		s.healthy(runs, "v1")
	})

	if left := 30*time.Second - time.Since(stopped); left > 0 {
		time.Sleep(left)
	}
	s.healthy(runs, "v1")
	before = len(writes())
	s.StartAPIServer()
	s.condition("myapp", "Switched", "True", "Verified", "every live node")
	took := s.ready()
	time.Sleep(5 * time.Second)
	resync := writes()[before:]
	t.Logf("the API server was gone for %v; all ready %v after it was back; the resync made %d writes",
		time.Since(stopped).Round(time.Second), took.Round(time.Millisecond), len(resync))
	require.Empty(t, resync, "nothing had changed")
	s.healthy(runs, "v1")
	s.intact(held)

	// They follow again.
	s.Apply(deployment("v1", 5))
	s.Endpoints("default", "myapp", 7)
	t.Logf("another pod is served %v after it was ready", s.servesEverywhere("version=v1").Round(time.Millisecond))
	s.switchTo("myapp", "v2")
	s.servesEverywhere("version=v2")
	s.healthy(runs, "v1", "v2")
	s.intact(held)
}

// shape is a table without its connections.
func shape(t lab.Table) map[string]int {
	out := map[string]int{}
	for _, v := range t {
		for _, r := range v.Real {
			out[fmt.Sprintf("%s %v %s -> %v %s", v.Protocol, v.Addr, v.Scheduler, r.Addr, r.Forward)] = r.Weight
		}
	}
	return out
}

// forgetKernel leaves of the node what a reboot leaves: its disk, with a ledger of another boot.
func (c *Cluster) forgetKernel(n *Node) {
	c.t.Helper()
	for _, command := range []string{"ipvsadm -C", "nft flush ruleset", "ip link delete pointsman0"} {
		words := strings.Fields(command)
		_, err := n.Run(words[0], words[1:]...)
		require.NoError(c.t, err)
	}
	path := filepath.Join(c.stateDir(n), "state.json")
	text, err := os.ReadFile(path)
	require.NoError(c.t, err)
	var ledger map[string]json.RawMessage
	require.NoError(c.t, json.Unmarshal(text, &ledger))
	require.Contains(c.t, ledger, "boot")
	ledger["boot"] = json.RawMessage(`"11111111-2222-3333-4444-555555555555"`)
	text, err = json.Marshal(ledger)
	require.NoError(c.t, err)
	require.NoError(c.t, os.WriteFile(path, text, 0o644))
}
