package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/internal/lab"
)

// other is a Service that stays kube-proxy's.
const other = `
apiVersion: v1
kind: Service
metadata: {name: other, namespace: default}
spec:
  type: NodePort
  selector: {app: other}
  ports: [{port: 80, targetPort: 80, nodePort: 30090}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other, version: other}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: other, image: other, ports: [{containerPort: 80}]}]
`

// onMaster is a pod of a version on the master, where no Deployment's pod goes.
func onMaster(version string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: myapp-%[1]s-mast01, namespace: default, labels: {app: myapp, version: %[1]s}}
spec: {nodeName: mast01, containers: [{name: myapp, image: "myapp:%[1]s", ports: [{containerPort: 80}]}]}
`, version)
}

// modes are the modes of the nodes' kube-proxies: each has another.
var modes = map[string]string{Master: "ipvs", "node01": "iptables", "node02": "nftables"}

// service is an object of the API server.
func (c *Cluster) service(name string) *corev1.Service {
	c.t.Helper()
	svc, err := c.Kube.CoreV1().Services("default").Get(context.Background(), name, metav1.GetOptions{})
	require.NoError(c.t, err)
	return svc
}

// clusterIP is where the Service is to be had inside.
func (c *Cluster) clusterIP(name string) netip.AddrPort {
	c.t.Helper()
	return netip.AddrPortFrom(netip.MustParseAddr(c.service(name).Spec.ClusterIP), 80)
}

// exclusion is what an operator gives kube-proxy in ipvs mode on the node: all of the node's addresses
// that serve node ports, and the ClusterIPs of the Services that are pointsman's.
func (c *Cluster) exclusion(n *Node, services ...string) string {
	c.t.Helper()
	out, err := n.Run("ip", "-4", "-o", "address", "show", "scope", "global")
	require.NoError(c.t, err)
	var all []string
	for line := range strings.Lines(out) {
		words := strings.Fields(line) // 2: eth0 inet 192.0.2.10/24 …
		if strings.HasPrefix(words[1], "kube-ipvs0") {
			continue
		}
		prefix := netip.MustParsePrefix(words[3])
		all = append(all, netip.PrefixFrom(prefix.Addr(), 32).String())
	}
	for _, name := range services {
		all = append(all, netip.PrefixFrom(c.clusterIP(name).Addr(), 32).String())
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ",")
}

// kubeProxies starts a kube-proxy on each node, each in its mode, the one in ipvs mode with the exclusion.
func (c *Cluster) kubeProxies(services ...string) map[string]*lab.Daemon {
	c.t.Helper()
	out := map[string]*lab.Daemon{}
	for _, n := range c.Nodes {
		var flags []string
		if modes[n.Name()] == "ipvs" {
			exclusion := c.exclusion(n, services...)
			c.t.Logf("on %s, kube-proxy --proxy-mode=ipvs --ipvs-exclude-cidrs=%s", n.Name(), exclusion)
			flags = append(flags, "--ipvs-exclude-cidrs="+exclusion)
		}
		out[n.Name()] = c.KubeProxy(n, modes[n.Name()], flags...)
	}
	return out
}

// served waits until all of a Service's ways in on the node are answered as they should be.
func (c *Cluster) served(n *Node, what string, targets ...netip.AddrPort) time.Duration {
	c.t.Helper()
	return c.Eventually(Patience, what, func() error {
		var errs []error
		for _, target := range targets {
			if got := (lab.Load{From: n.Namespace, Target: target, Timeout: time.Second}).Once(); got.Class != lab.OK {
				errs = append(errs, fmt.Errorf("%v on %s: %v", target, n.Name(), got))
			}
		}
		return errors.Join(errs...)
	})
}

// traffic is what goes to one Service by one node's ways in, until it is stopped.
type traffic struct {
	node *Node
	runs map[string]*lab.Run
	held map[string]*lab.Sessions
}

// drive begins new connections, and keeps open ones, by the node port from outside and by the ClusterIP
// from a pod of the node.
func (c *Cluster) drive(n *Node, local []netip.Addr, rate, held int) *traffic {
	c.t.Helper()
	pod := c.PodNamespace(c.pod("client-" + n.Name()))
	f := &traffic{node: n, runs: map[string]*lab.Run{}, held: map[string]*lab.Sessions{}}
	for way, load := range map[string]lab.Load{
		"node port": {From: c.Client, Target: n.nodePort(), Local: local},
		"ClusterIP": {From: pod, Target: c.clusterIP("myapp")},
	} {
		if held > 0 {
			sessions, err := c.Lab.Hold(lab.Held{From: load.From, Target: load.Target, Local: load.Local, Count: held, Every: exchange, Timeout: stall})
			require.NoError(c.t, err)
			f.held[way] = sessions
		}
		load.Rate, load.Clients, load.Timeout = rate, 4, stall
		f.runs[way] = c.Lab.Start(load)
	}
	return f
}

// lost is what became of what began since a time.
type lost struct {
	total  int
	failed map[lab.Class]int
	slow   int // answered, but after a second or more: a SYN was lost
	cut    int // of the open ones
	held   int
}

func (l lost) none() bool { return len(l.failed) == 0 && l.cut == 0 }

func (l lost) String() string {
	return fmt.Sprintf("of %d new connections, failed %v, slower than 1 s %d; of %d open ones, cut %d", l.total, l.failed, l.slow, l.held, l.cut)
}

// lost says, by way in, what was lost of what began since then, open connections included.
func (f *traffic) lost(since time.Time) map[string]lost {
	out := map[string]lost{}
	for way, run := range f.runs {
		report := run.Report().Since(since)
		l := lost{total: len(report), failed: report.Lost().ByClass()}
		for _, c := range report {
			if c.Class == lab.OK && c.Answered.Sub(c.Start) >= time.Second {
				l.slow++
			}
		}
		if sessions := f.held[way]; sessions != nil {
			for _, s := range sessions.Report() {
				l.held++
				if !s.Alive() {
					l.cut++
				}
			}
		}
		out[way] = l
	}
	return out
}

// await waits until n more connections of each way in are over.
func (f *traffic) await(n int) error {
	var all errgroup.Group
	for way, run := range f.runs {
		all.Go(func() error {
			if err := run.Await(n, Patience); err != nil {
				return fmt.Errorf("on %s by %s: %w", f.node.Name(), way, err)
			}
			return nil
		})
	}
	return all.Wait()
}

// stop ends it all.
func (f *traffic) stop() {
	for _, run := range f.runs {
		run.Stop()
	}
	for _, sessions := range f.held {
		sessions.Close()
	}
}
