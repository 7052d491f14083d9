package cluster

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/internal/lab"
)

// The API server goes and comes back: what runs goes on running, and the stand-in and the controllers
// take up their work again.
func TestClusterOutage(t *testing.T) {
	c := New(t)
	c.Apply(service)
	c.Apply(deployment("v1", 10))
	c.Endpoints("default", "myapp", 10)
	master := c.Node(Master)
	c.KubeProxy(master, "ipvs")
	before := c.Pods("default", "app=myapp")
	sessions, err := c.Lab.Hold(lab.Held{From: c.Client, Target: netip.AddrPortFrom(master.Addr, 30080), Local: c.ClientAddrs, Count: 20, Every: exchange, Timeout: stall})
	require.NoError(t, err)
	load := c.Lab.Start(lab.Load{From: c.Client, Target: netip.AddrPortFrom(master.Addr, 30080), Local: c.ClientAddrs, Rate: 20, Timeout: stall})
	defer load.Stop()

	c.StopAPIServer()
	_, err = c.Kube.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	require.Error(t, err, "the API server answers")
	time.Sleep(10 * time.Second)
	began := time.Now()
	c.StartAPIServer()
	t.Logf("the API server is back after %v", time.Since(began).Round(10*time.Millisecond))

	began = time.Now()
	c.Apply(deployment("v1", 12))
	c.Endpoints("default", "myapp", 12)
	t.Logf("two more pods are ready %v later", time.Since(began).Round(10*time.Millisecond))
	// Nothing that ran was started anew or cut.
	names := map[string]string{}
	for _, pod := range c.Pods("default", "app=myapp") {
		names[pod.Name] = pod.Status.PodIP
	}
	for _, pod := range before {
		require.Equal(t, pod.Status.PodIP, names[pod.Name], pod.Name)
	}
	require.NoError(t, sessions.Await(Patience))
	report := load.Stop()
	require.Empty(t, report.Failed().Lines(), "of %d connections", len(report))
	require.NotEmpty(t, report)
}
