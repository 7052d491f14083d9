package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
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
	daemons := map[string]*lab.Daemon{}
	for _, n := range c.Nodes {
		daemons[n.Name()] = c.Pointsman(n, account)
	}
	c.Apply(virtualServer)
	c.Eventually(Patience, "the daemons say that the label is missing", func() error {
		for _, n := range c.Nodes {
			if r := c.Call(n, "status", "-o", "json", "--state-dir", c.stateDir(n)); !contains(r.Stdout, "ServiceNotLabelled") {
				return fmt.Errorf("on %s: %v", n.Name(), r)
			}
		}
		return nil
	})
	for _, n := range c.Nodes {
		c.served(n, "kube-proxy serves both", n.nodePort(), c.clusterIP("myapp"), c.clusterIP("other"))
	}

	drive := func() (all []*traffic) {
		for i, n := range c.Nodes {
			all = append(all, c.drive(n, c.ClientAddrs[i*2:i*2+2], 20, 10))
		}
		time.Sleep(2 * time.Second)
		return all
	}
	tell := func(what string, all []*traffic, since time.Time) {
		for _, f := range all {
			for way, lost := range f.lost(since) {
				t.Logf("LOST %s, from kube-proxy in %s mode, by %s: %v", what, modes[f.node.Name()], way, lost)
				for _, line := range splitLines(f.runs[way].Report().Since(since).Failed().Lines()) {
					t.Log("    " + line)
				}
				for _, s := range f.held[way].Report() {
					if !s.Alive() {
						t.Log("    held: " + s.String())
					}
				}
			}
		}
	}

	all := drive()
	labelledAt := time.Now()
	_, err := c.Kubectl("", "label", "service", "myapp", "service.kubernetes.io/service-proxy-name=pointsman")
	require.NoError(t, err)
	took := c.servesEverywhere("version=v1")
	t.Logf("every node's virtual server is pointsman's and serves v1 after %v", took.Round(time.Millisecond))
	time.Sleep(10 * time.Second)
	tell("adding the label", all, labelledAt)
	for _, n := range c.Nodes {
		t.Logf("on %s pointsman says:\n%s", n.Name(), tail(daemons[n.Name()].Output(), 12))
		r := c.Call(n, "list", "-n")
		t.Logf("%s", r.Stdout)
	}
	for _, f := range all {
		f.stop()
	}

	// And back.
	all = drive()
	unlabelledAt := time.Now()
	_, err = c.Kubectl("", "label", "service", "myapp", "service.kubernetes.io/service-proxy-name-")
	require.NoError(t, err)
	time.Sleep(8 * time.Second)
	tell("removing the label", all, unlabelledAt)
	deletedAt := time.Now()
	_, err = c.Kubectl("", "delete", "virtualserver", "myapp")
	require.NoError(t, err)
	time.Sleep(8 * time.Second)
	tell("deleting the VirtualServer then", all, deletedAt)
	for _, f := range all {
		f.stop()
	}
	for _, n := range c.Nodes {
		t.Logf("on %s pointsman says:\n%s", n.Name(), tail(daemons[n.Name()].Output(), 8))
		r := c.Call(n, "list", "-n")
		t.Logf("%s", r.Stdout)
		r = c.Call(n, "status", "--state-dir", c.stateDir(n))
		t.Logf("%s", r.Stdout)
		c.served(n, "kube-proxy serves both again", n.nodePort(), c.clusterIP("myapp"), c.clusterIP("other"))
	}
}
