package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

const virtualServer = `
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: myapp, namespace: default}
spec: {service: {name: myapp}, active: v1}
`

const labelled = `
apiVersion: v1
kind: Service
metadata:
  name: myapp
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  selector: {app: myapp}
  ports: [{port: 80, targetPort: 80, nodePort: 30080}]
`

// install applies the deploy folder, as an operator does, and gives a kubeconfig of the daemon's account.
func (c *Cluster) install() (account string) {
	c.t.Helper()
	root, err := checkout()
	require.NoError(c.t, err)
	_, err = c.Kubectl("", "apply", "-k", root+"/deploy")
	require.NoError(c.t, err)
	_, err = c.Kubectl("", "wait", "--for=condition=Established", "crd", "--all", "--timeout="+Patience.String())
	require.NoError(c.t, err)
	return c.AccountKubeconfig("pointsman-system", "pointsman")
}

// admin runs a command of the program with an administrator's kubeconfig.
func (c *Cluster) admin(args ...string) lab.Result {
	c.t.Helper()
	args = append(args, "--kubeconfig", handed("admin.kubeconfig"))
	if slices.Contains(args, "--wait") {
		args = append(args, "--timeout", Patience.String())
	}
	return c.Call(c.Node(Master), args...)
}

// switchTo switches as soon as the status says that the colour can be switched to, which is some time after its
// endpoints are ready, and waits until that is done.
func (c *Cluster) switchTo(name, colour string) lab.Result {
	c.t.Helper()
	c.Eventually(Patience, fmt.Sprintf("VirtualServer %s has ready endpoints of %s", name, colour), func() error {
		vs, err := c.virtualServer(name)
		if err == nil && !slices.ContainsFunc(vs.Status.Colours, func(s v1alpha1.ColourStatus) bool { return s.Name == colour && s.Ready > 0 }) {
			err = fmt.Errorf("the colours are %+v", vs.Status.Colours)
		}
		return err
	})
	r := c.admin("switch", name, colour, "--wait")
	require.Zero(c.t, r.Status, "%v", r)
	return r
}

// The scenario: v1 serves, v2 runs beside it and gets nobody, a switch, and back.
func TestClusterScenario(t *testing.T) {
	c := New(t)
	account := c.install()
	c.Apply(labelled)
	c.Apply(deployment("v1", 10))
	c.Endpoints("default", "myapp", 10)
	c.Apply(virtualServer)
	for _, n := range c.Nodes {
		c.Pointsman(n, account)
	}
	t.Logf("every node serves v1 after %v", c.servesEverywhere("version=v1").Round(time.Millisecond))
	c.Apply(deployment("v2", 10))
	c.Endpoints("default", "myapp", 20)
	time.Sleep(time.Second)
	c.servesEverywhere("version=v1")

	var targets []netip.AddrPort
	for _, n := range c.Nodes {
		targets = append(targets, n.nodePort())
	}
	var runs []*lab.Run
	for i, target := range targets {
		runs = append(runs, c.Lab.Start(lab.Load{From: c.Client, Target: target, Local: c.ClientAddrs[i*2 : i*2+2], Rate: 10, Clients: 4}))
	}
	for _, turn := range []struct{ to, selector string }{{"v2", "version=v2"}, {"v1", "version=v1"}} {
		asked := time.Now()
		r := c.switchTo("myapp", turn.to)
		done := time.Now()
		t.Log(strings.TrimSpace(r.Stdout))
		for _, n := range c.Nodes {
			require.NoError(t, c.serves(n, n.nodePort(), turn.selector))
		}
		for _, run := range runs {
			require.NoError(t, run.AwaitSince(done, 20, Patience))
			report := run.Report()
			require.Empty(t, report.Lost().Lines())
			require.Equal(t, []string{turn.to}, keys(report.Since(done).ByColour()), "since %v", done.Sub(asked))
		}
	}
	for _, run := range runs {
		require.Empty(t, run.Stop().Lost().Lines())
	}
	r := c.admin("status", "myapp")
	require.Zero(t, r.Status, "%v", r)
	t.Log("\n" + r.Stdout)
	out, err := c.Kubectl("", "get", "vs,nr", "-A")
	require.NoError(t, err)
	t.Log("\n" + out)
	out, err = c.Kubectl("", "get", "events", "-A", "--field-selector", "involvedObject.kind=VirtualServer")
	require.NoError(t, err)
	t.Log("\n" + out)
	for _, n := range c.Nodes {
		text, err := n.Get("http://" + healthAddress + "/readyz")
		require.NoError(t, err)
		require.Equal(t, "ok\n", text)
	}
}

func keys(m map[string]int) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}
