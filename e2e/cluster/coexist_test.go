package cluster

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/internal/lab"
)

// Beside kube-proxy in each of its modes, a mode a node: a Service of kube-proxy's and one of pointsman's
// are both served by every way in, a switch loses nothing, and preflight names the mode. The one in
// nftables mode starts again then, which flushes all of IPVS.
func TestClusterBesideKubeProxy(t *testing.T) {
	c := New(t)
	account := c.install()
	c.Apply(labelled)
	c.Apply(other)
	c.Apply(deployment("v1", 4))
	c.Apply(onMaster("v1"))
	for _, n := range c.Nodes {
		c.Apply(client(n.Name()))
	}
	c.Endpoints("default", "myapp", 5)
	c.Endpoints("default", "other", 2)
	proxies := c.kubeProxies("myapp")
	c.Apply(virtualServer)
	daemons := map[string]*lab.Daemon{}
	for _, n := range c.Nodes {
		daemons[n.Name()] = c.Pointsman(n, account)
	}
	c.servesEverywhere("version=v1")
	// No pod of v2 is to be told apart from one of v1 by where it is.
	c.Apply(deployment("v2", 4))
	c.Apply(onMaster("v2"))
	c.Endpoints("default", "myapp", 10)
	c.servesEverywhere("version=v1")

	for _, n := range c.Nodes {
		t.Run(modes[n.Name()], func(t *testing.T) { c.In(t).beside(n) })
	}

	var all []*traffic
	for i, n := range c.Nodes {
		all = append(all, c.drive(n, c.ClientAddrs[i*2:i*2+2], 2, 5))
	}
	began := time.Now()
	for _, turn := range []struct{ to, selector string }{{"v2", "version=v2"}, {"v1", "version=v1"}} {
		awaitAll(t, all, 10)
		c.switchTo("myapp", turn.to)
		done := time.Now()
		for _, n := range c.Nodes {
			require.NoError(t, c.serves(n, n.nodePort(), turn.selector))
			require.NoError(t, c.serves(n, c.clusterIP("myapp"), turn.selector))
		}
		awaitAll(t, all, 30) // with those that were on their way
		for _, f := range all {
			for way, run := range f.runs {
				require.Equal(t, []string{turn.to}, keys(run.Report().Since(done).ByColour()), "on %s by %s", f.node.Name(), way)
			}
		}
	}
	for _, f := range all {
		for way, l := range f.lost(began) {
			require.True(t, l.none(), "on %s by %s: %v\n%s", f.node.Name(), way, l, f.runs[way].Report().Lost().Lines())
			t.Logf("switched twice beside kube-proxy in %s mode, by %s: %v", modes[f.node.Name()], way, l)
		}
		f.stop()
	}

	t.Run("nftables, started again", func(t *testing.T) {
		c, n := c.In(t), c.Node("node02")
		f := c.drive(n, c.ClientAddrs[:2], 6, 10)
		require.NoError(t, f.await(20))
		// Somebody else's virtual server, which nobody but a flush takes away.
		canary := netip.MustParseAddrPort("203.0.113.1:81")
		_, err := n.Run("ipvsadm", "-A", "-t", canary.String())
		require.NoError(t, err)
		proxies[n.Name()].Kill()
		began := time.Now()
		c.KubeProxy(n, "nftables")
		// How long the table was empty is for e2e/drift_test.go: a look at it takes longer here than its repair.
		c.Eventually(Patience, "kube-proxy flushes IPVS at its start, and pointsman fills it again", func() error {
			table, err := n.Table()
			if err != nil {
				return err
			}
			if _, there := table.Find("TCP", canary); there {
				return errors.New("it is not flushed")
			}
			return errors.Join(c.serves(n, n.nodePort(), "version=v1"), c.serves(n, c.clusterIP("myapp"), "version=v1"))
		})
		for way, l := range f.lost(began) {
			t.Logf("kube-proxy in nftables mode started again, by %s: %v", way, l)
		}
		f.stop()
		c.beside(n)
	})
	// The price of the exclusion: what kube-proxy made at an excluded address it does not remove either.
	require.NoError(t, c.Kube.CoreV1().Services("default").Delete(context.Background(), "other", metav1.DeleteOptions{}))
	time.Sleep(5 * time.Second)
	table, err := c.Node(Master).Table()
	require.NoError(t, err)
	left, ok := table.Find("TCP", netip.AddrPortFrom(c.Node(Master).Addr, 30090))
	require.True(t, ok, "kube-proxy removes its own at an excluded address after all; docs/coexistence.md says otherwise")
	t.Logf("kube-proxy's own virtual server, 5 s after its Service was deleted: %+v", left)
	for _, n := range c.Nodes {
		require.NotContains(t, daemons[n.Name()].Output(), "another program deletes", "on %s", n.Name())
	}
}

// awaitAll waits until n more connections of each are over.
func awaitAll(t *testing.T, all []*traffic, n int) {
	t.Helper()
	var each errgroup.Group
	for _, f := range all {
		each.Go(func() error { return f.await(n) })
	}
	require.NoError(t, each.Wait())
}

// beside checks every way in to both Services on the node, and what preflight says.
func (c *Cluster) beside(n *Node) {
	c.t.Helper()
	pod := c.PodNamespace(c.pod("client-" + n.Name()))
	own := netip.MustParseAddr(c.pod("client-" + n.Name()).Status.PodIP)
	from := map[string]lab.Load{
		"outside": {From: c.Client, Local: c.ClientAddrs},
		"a pod":   {From: pod},
		"node":    {From: n.Namespace},
	}
	for _, s := range []struct {
		name, colour, selector string
		port                   uint16
	}{{"myapp", "v1", "app=myapp,version=v1", 30080}, {"other", "other", "app=other", 30090}} {
		var pods []netip.Addr
		for _, pod := range c.Pods("default", s.selector) {
			pods = append(pods, netip.MustParseAddr(pod.Status.PodIP))
		}
		for who, load := range from {
			for _, target := range []netip.AddrPort{netip.AddrPortFrom(n.Addr, s.port), c.clusterIP(s.name)} {
				if who == "outside" && target.Addr() != n.Addr {
					continue // nobody routes ClusterIPs
				}
				load.Target = target
				report := c.reach(60, load)
				require.Equal(c.t, map[string]int{s.colour: len(report)}, report.ByColour(), "%s by %v from %s", s.name, target, who)
				require.ElementsMatch(c.t, pods, report.Backends(), "%s by %v from %s", s.name, target, who)
				if who == "a pod" && target.Addr() != n.Addr {
					for _, connection := range report {
						require.Equal(c.t, own, connection.SeenAs, "the pod's own address is not what %v saw", connection.Backend)
					}
				}
			}
		}
	}
	// A pod that serves reaches itself.
	for _, pod := range c.Pods("default", "app=myapp,version=v1") {
		if pod.Spec.NodeName == n.Name() {
			report := c.reach(60, lab.Load{From: c.PodNamespace(&pod), Target: c.clusterIP("myapp")})
			require.Contains(c.t, report.Backends(), netip.MustParseAddr(pod.Status.PodIP), "a pod does not reach itself")
			break
		}
	}
	r := c.Call(n, "preflight")
	require.Contains(c.t, r.Stdout, "in "+modes[n.Name()]+" mode", "%v", r)
}
