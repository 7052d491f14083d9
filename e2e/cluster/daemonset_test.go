package cluster

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A DaemonSet that tolerates everything has a Pod on each node, on the host's network; kubectl, as an
// operator has it, sees it rolled out.
func TestClusterDaemonSet(t *testing.T) {
	c := New(t)
	_, err := c.Kubectl(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: agent, image: agent}]
`, "apply", "-f", "-")
	require.NoError(t, err)
	out, err := c.Kubectl("", "rollout", "status", "-n", "kube-system", "daemonset/agent", "--timeout="+Patience.String())
	require.NoError(t, err)
	require.Contains(t, out, "successfully rolled out")
	at := map[string]string{}
	for _, pod := range c.Pods("kube-system", "app=agent") {
		at[pod.Spec.NodeName] = pod.Status.PodIP
	}
	want := map[string]string{}
	for _, n := range c.Nodes {
		want[n.Name()] = fmt.Sprint(n.Addr)
	}
	require.Equal(t, want, at)
}
