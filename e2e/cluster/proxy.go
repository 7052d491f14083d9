package cluster

import (
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/internal/lab"
)

// Run starts a program in the node's namespace and leaves it running, until the test ends at the
// latest. Where the test fails, the end of its output is printed.
func (c *Cluster) Run(n *Node, program string, args ...string) *lab.Daemon {
	c.t.Helper()
	d, err := n.Daemon(exec.Command(program, args...), nil)
	require.NoError(c.t, err)
	c.t.Cleanup(func() {
		if c.t.Failed() {
			c.t.Logf("on %s, the end of what %s said:\n%s", n.Name(), program, tail(d.Output(), 60))
		}
		d.Kill()
	})
	return d
}

// synced finds when kube-proxy last wrote all of its rules.
var synced = regexp.MustCompile(`(?m)^kubeproxy_sync_proxy_rules_last_timestamp_seconds\{ip_family="IPv4"\} (\S+)$`)

// KubeProxy starts kube-proxy on the node in a mode (ipvs, iptables or nftables) with more flags, and
// waits until it has written its rules once. It is the caller's to end, or the end of the test.
func (c *Cluster) KubeProxy(n *Node, mode string, flags ...string) *lab.Daemon {
	c.t.Helper()
	d := c.Run(n, Binary("kube-proxy"), slices.Concat([]string{
		"--kubeconfig=" + handed("kube-proxy.kubeconfig"), "--hostname-override=" + n.Name(),
		"--proxy-mode=" + mode, "--cluster-cidr=" + PodNetwork.String(),
		"--conntrack-max-per-core=0", "--conntrack-min=0", // a sysctl that only the first namespace has
	}, flags)...)
	c.Eventually(Patience, "kube-proxy has written its rules", func() error {
		// It says that it is healthy before that. Asking costs it time on the guest's one processor.
		time.Sleep(500 * time.Millisecond)
		metrics, err := n.Get("http://127.0.0.1:10249/metrics")
		if err != nil {
			return err
		}
		last := synced.FindStringSubmatch(metrics)
		if last == nil || last[1] == "0" {
			return errors.New("it has not")
		}
		return nil
	})
	return d
}
