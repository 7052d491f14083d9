package cluster

import (
	"errors"
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
	for _, n := range c.Nodes {
		c.kubeProxyHas(n, false, "30080", c.clusterIP("myapp").Addr().String())
	}
	t.Logf("and no kube-proxy's after %v", time.Since(asked).Round(10*time.Millisecond))
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
	for _, n := range c.Nodes {
		c.kubeProxyHas(n, true, "30080", c.clusterIP("myapp").Addr().String())
	}
	c.lostLittle("removing the label", all, asked)
	all = c.driveAll()
	asked = time.Now()
	_, err = c.Kubectl("", "delete", "virtualserver", "myapp")
	require.NoError(t, err)
	c.lostLittle("deleting the VirtualServer then", all, asked)
	// In the other modes it drains for as long as IPVS remembers a connection.
	c.Eventually(Patience, "it is pointsman's no more, beside kube-proxy in ipvs mode", func() error {
		if c.owns(c.Node(Master), c.Node(Master).nodePort()) == nil {
			return errors.New("it is still")
		}
		return nil
	})
	for _, n := range c.Nodes {
		c.served(n, "kube-proxy serves both again", n.nodePort(), c.clusterIP("myapp"), c.clusterIP("other"))
	}
}

// driveAll begins traffic by each node.
func (c *Cluster) driveAll() (all []*traffic) {
	c.t.Helper()
	for i, n := range c.Nodes {
		all = append(all, c.drive(n, c.ClientAddrs[i*2:i*2+2], 6, 10))
	}
	awaitAll(c.t, all, 10)
	return all
}

// calm is for how long nothing may be lost any more before a change of hands is called over. kube-proxy takes up to
// 8 s to come to it here, software emulation on one processor.
const calm = 9 * time.Second

// lostLittle waits until nothing more is lost, ends the traffic and checks what was lost of it since a time: nothing
// that was open, nothing by the node port of the node in ipvs mode, whose virtual server only changes its owner, and
// elsewhere only the little that kube-proxy's own steps cost: whether it or pointsman is told first is chance, and in
// ipvs mode it rejects a ClusterIP for as long as it has changed one of two ipsets. How much that is depends on how
// long it takes for a step; docs/coexistence.md has figures.
func (c *Cluster) lostLittle(step string, all []*traffic, since time.Time) {
	c.t.Helper()
	time.Sleep(calm)
	c.Eventually(Patience, step+": nothing is lost any more", func() error {
		var errs []error
		for _, f := range all {
			for way, run := range f.runs {
				lately := run.Report().Since(time.Now().Add(-calm / 3))
				if lost := lately.Lost(); len(lost) > 0 || len(lately) == 0 {
					errs = append(errs, fmt.Errorf("kube-proxy in %s mode, by %s, of %d: %s", modes[f.node.Name()], way, len(lately), lost.Lines()))
				}
			}
		}
		return errors.Join(errs...)
	})
	for _, f := range all {
		mode := modes[f.node.Name()]
		for way, l := range f.lost(since) {
			c.t.Logf("%s, kube-proxy in %s mode, by %s: %v", step, mode, way, l)
			failed := f.runs[way].Report().Since(since).Lost()
			require.Zero(c.t, l.cut, "%s, kube-proxy in %s mode, by %s", step, mode, way)
			if mode == "ipvs" && way == "node port" {
				require.Empty(c.t, failed.Lines(), "%s, kube-proxy in %s mode, by %s", step, mode, way)
			}
			require.Less(c.t, share(l), 0.5, "%s, kube-proxy in %s mode, by %s:\n%s", step, mode, way, failed.Lines())
		}
		f.stop()
	}
}

// kubeProxyHas waits until kube-proxy's own rules on the node, which it writes last, have all of the texts, and it serves; or
// none of them, and it does not. Connections don't tell, since pointsman serves before and after.
func (c *Cluster) kubeProxyHas(n *Node, has bool, texts ...string) {
	c.t.Helper()
	show := map[string]string{"ipvs": "ipset list", "iptables": "iptables-save -t nat", "nftables": "nft list table ip kube-proxy"}[modes[n.Name()]]
	words := strings.Fields(show)
	c.Eventually(Patience, fmt.Sprintf("that kube-proxy has the Service on %s is %t", n.Name(), has), func() error {
		time.Sleep(500 * time.Millisecond) // asking costs it time
		out, err := n.Run(words[0], words[1:]...)
		for _, text := range texts {
			if err == nil && strings.Contains(out, text) != has {
				err = fmt.Errorf("that %s shows %s is %t", show, text, !has)
			}
		}
		return err
	})
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
