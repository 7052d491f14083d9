package cluster

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/sync"
)

// A Service goes from kube-proxy to pointsman and back, under load, on a node of each mode. The order of
// steps is the one that loses least (docs/coexistence.md): the daemon and the VirtualServer are there before
// the label, and kube-proxy in ipvs mode has the exclusion.
func TestClusterHandover(t *testing.T) {
	c := New(t)
	account := c.install()
	c.Apply(service)
	c.Apply(other)
	c.Apply(deployment("v1", 4))
	for _, n := range c.Nodes {
		c.Apply(client(n.Name()))
	}
	c.Endpoints("default", "myapp", 4)
	c.Endpoints("default", "other", 2)
	c.kubeProxies("myapp")
	for _, n := range c.Nodes {
		c.Pointsman(n, account)
	}
	c.Apply(virtualServer)
	c.Eventually(Patience, "the daemons say that the label is missing", func() error {
		for _, n := range c.Nodes {
			if status := fmt.Sprint(c.status(n)); !strings.Contains(status, endpoints.ReasonServiceNotLabelled) {
				return fmt.Errorf("on %s: %s", n.Name(), status)
			}
		}
		return nil
	})
	for _, n := range c.Nodes {
		c.served(n, "kube-proxy serves both", n.nodePort(), c.clusterIP("myapp"), c.clusterIP("other"))
	}

	all := c.driveAll()
	asked := time.Now()
	_, err := c.Kubectl("", "label", "service", "myapp", endpoints.ServiceProxyLabel+"="+endpoints.ServiceProxyName)
	require.NoError(t, err)
	for _, n := range c.Nodes {
		c.Eventually(Patience, "the Service is pointsman's", func() error { return c.owns(n, n.nodePort(), c.clusterIP("myapp")) })
	}
	t.Logf("pointsman's on every node after %v", time.Since(asked).Round(10*time.Millisecond))
	time.Sleep(15 * time.Second) // kube-proxy takes up to 8 s to come to it here
	c.lostLittle("adding the label", all, asked)
	for _, n := range c.Nodes {
		require.NoError(t, c.serves(n, n.nodePort(), "app=myapp"))
		require.NoError(t, c.serves(n, c.clusterIP("myapp"), "app=myapp"))
	}

	// And back.
	all = c.driveAll()
	asked = time.Now()
	_, err = c.Kubectl("", "label", "service", "myapp", endpoints.ServiceProxyLabel+"-")
	require.NoError(t, err)
	time.Sleep(15 * time.Second) // kube-proxy takes up to 8 s to come to it here
	c.lostLittle("removing the label", all, asked)
	all = c.driveAll()
	asked = time.Now()
	_, err = c.Kubectl("", "delete", "virtualserver", "myapp")
	require.NoError(t, err)
	time.Sleep(15 * time.Second) // kube-proxy takes up to 8 s to come to it here
	c.lostLittle("deleting the VirtualServer then", all, asked)
	// In the other modes it drains for as long as IPVS remembers a connection.
	require.Error(t, c.owns(c.Node(Master), c.Node(Master).nodePort()), "it is pointsman's still, beside kube-proxy in ipvs mode")
	for _, n := range c.Nodes {
		c.served(n, "kube-proxy serves both again", n.nodePort(), c.clusterIP("myapp"), c.clusterIP("other"))
	}
}

// driveAll begins traffic by each node.
func (c *Cluster) driveAll() (all []*traffic) {
	c.t.Helper()
	for i, n := range c.Nodes {
		all = append(all, c.drive(n, c.ClientAddrs[i*2:i*2+2], 20, 10))
	}
	time.Sleep(2 * time.Second)
	return all
}

// lostLittle ends the traffic and checks what was lost of it since a time: nothing that was open, nothing by the
// node port of the node in ipvs mode, whose virtual server only changes its owner, and elsewhere at most the
// little that kube-proxy's own steps cost: whether it or pointsman is told first is chance, and in ipvs mode it
// rejects a ClusterIP for as long as it has changed one of two ipsets.
func (c *Cluster) lostLittle(step string, all []*traffic, since time.Time) {
	c.t.Helper()
	ended := time.Now()
	for _, f := range all {
		mode := modes[f.node.Name()]
		for way, l := range f.lost(since) {
			c.t.Logf("%s, kube-proxy in %s mode, by %s: %v", step, mode, way, l)
			failed := f.runs[way].Report().Since(since).Failed()
			require.Zero(c.t, l.cut, "%s, kube-proxy in %s mode, by %s", step, mode, way)
			if mode == "ipvs" && way == "node port" {
				require.Empty(c.t, failed.Lines(), "%s, kube-proxy in %s mode, by %s", step, mode, way)
			}
			require.Less(c.t, share(l), 0.1, "%s, kube-proxy in %s mode, by %s:\n%s", step, mode, way, failed.Lines())
			require.Empty(c.t, failed.Since(ended.Add(-4*time.Second)).Lines(), "%s: it does not end, kube-proxy in %s mode, by %s", step, mode, way)
		}
		f.stop()
	}
}

// owns says what virtual servers of the node are not in the ledger of its daemon, which serve them.
func (c *Cluster) owns(n *Node, targets ...netip.AddrPort) error {
	ledger, err := sync.LoadLedger(c.stateDir(n))
	if err != nil {
		return err
	}
	for _, target := range targets {
		if !ledger.Owns(ipvs.Key{Protocol: ipvs.TCP, Addr: target.Addr(), Port: target.Port()}) {
			return fmt.Errorf("on %s, TCP %v is not pointsman's", n.Name(), target)
		}
	}
	return nil
}
