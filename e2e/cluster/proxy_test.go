package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/internal/lab"
)

// client is a Pod that listens on nothing, on a node of the test's choice.
func client(node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: client-%[1]s, namespace: default}
spec: {nodeName: %[1]s, containers: [{name: client, image: client}]}`, node)
}

// pod waits until the Pod is ready.
func (c *Cluster) pod(name string) *corev1.Pod {
	c.t.Helper()
	var pod *corev1.Pod
	c.Eventually(Patience, "the pod "+name+" is ready", func() (err error) {
		if pod, err = c.Kube.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %q", pod.Status.Phase)
		}
		return nil
	})
	return pod
}

// reach makes n connections.
func (c *Cluster) reach(n int, load lab.Load) lab.Report {
	c.t.Helper()
	load.Rate = 400
	r := c.Lab.Start(load)
	require.NoError(c.t, r.Await(n, Patience))
	report := r.Stop()
	require.Empty(c.t, report.Failed().Lines(), "of %d connections to %v", len(report), load.Target)
	return report
}

// The released kube-proxy serves a NodePort Service over the real controllers' EndpointSlices, a mode a
// node: the network, the stand-in and the objects are such that it cannot tell them from a cluster's.
func TestClusterKubeProxy(t *testing.T) {
	c := New(t)
	c.Apply(service)
	c.Apply(deployment("v1", 10))
	c.Endpoints("default", "myapp", 10)
	modes := map[string]string{Master: "ipvs", "node01": "iptables", "node02": "nftables"}
	for node := range modes {
		c.Apply(client(node))
	}
	object, err := c.Kube.CoreV1().Services("default").Get(context.Background(), "myapp", metav1.GetOptions{})
	require.NoError(t, err)
	clusterIP := netip.AddrPortFrom(netip.MustParseAddr(object.Spec.ClusterIP), 80)

	var pods []netip.Addr
	for _, pod := range c.Pods("default", "app=myapp") {
		pods = append(pods, netip.MustParseAddr(pod.Status.PodIP))
	}
	for _, n := range c.Nodes {
		nodePort := netip.AddrPortFrom(n.Addr, 30080)
		before := lab.Load{From: c.Client, Target: nodePort, Timeout: time.Second}.Once()
		require.Equal(t, lab.Refused, before.Class, "something serves it already: %v", before)
		began := time.Now()
		proxy := c.KubeProxy(n, modes[n.Name()])
		t.Logf("in mode %s, kube-proxy has its rules after %v", modes[n.Name()], time.Since(began).Round(10*time.Millisecond))

		t.Run(modes[n.Name()], func(t *testing.T) {
			c := c.In(t)
			report := c.reach(200, lab.Load{From: c.Client, Target: nodePort, Local: c.ClientAddrs})
			require.ElementsMatch(t, pods, report.Backends(), "by the node port")
			require.Equal(t, map[string]int{"v1": len(report)}, report.ByColour())

			pod := c.pod("client-" + n.Name())
			own := netip.MustParseAddr(pod.Status.PodIP)
			report = c.reach(200, lab.Load{From: c.PodNamespace(pod), Target: clusterIP})
			require.ElementsMatch(t, pods, report.Backends(), "by the ClusterIP")
			for _, connection := range report {
				require.Equal(t, own, connection.SeenAs, "the pod's own address is not what %v saw", connection.Backend)
			}

			// The node's own processes.
			report = c.reach(200, lab.Load{From: n.Namespace, Target: clusterIP})
			require.ElementsMatch(t, pods, report.Backends(), "from the node")
			require.True(t, proxy.Running())
		})
	}

	// A pod reaches itself by its own Service, and one on its own node.
	for _, pod := range c.Pods("default", "app=myapp")[:2] {
		report := c.reach(200, lab.Load{From: c.PodNamespace(&pod), Target: clusterIP})
		require.ElementsMatch(t, pods, report.Backends(), "from a pod that serves, on %s", pod.Spec.NodeName)
	}

	// The kernel follows the Deployment.
	c.Apply(deployment("v1", 4))
	c.Endpoints("default", "myapp", 4)
	c.Eventually(Patience, "the virtual server has four real servers", func() error {
		table, err := c.Node(Master).Table()
		if err != nil {
			return err
		}
		v, _ := table.Find("TCP", netip.AddrPortFrom(c.Node(Master).Addr, 30080))
		if n := len(v.Serving()); n != 4 {
			return fmt.Errorf("it has %d", n)
		}
		return nil
	})
}
