package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const service = `
apiVersion: v1
kind: Service
metadata: {name: myapp, namespace: default}
spec:
  type: NodePort
  selector: {app: myapp}
  ports: [{port: 80, targetPort: 80, nodePort: 30080}]
`

// deployment is the scenario's, of a version.
func deployment(version string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: myapp-%[1]s, namespace: default}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: myapp, version: %[1]s}}
  template:
    metadata: {labels: {app: myapp, version: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 3
      containers: [{name: myapp, image: "myapp:%[1]s", ports: [{containerPort: 80}]}]
`, version, replicas)
}

// The real controllers make pods of a Deployment and endpoints of the pods; the stand-in runs and ends them.
func TestClusterDeployment(t *testing.T) {
	c := New(t)
	ctx := context.Background()
	c.Apply(service)
	c.Apply(deployment("v1", 10))
	t.Logf("10 ready endpoints after %v", c.Endpoints("default", "myapp", 10).Round(time.Millisecond))

	pods := c.Pods("default", "app=myapp")
	require.Len(t, pods, 10)
	nodes := map[string]int{}
	for _, pod := range pods {
		nodes[pod.Spec.NodeName]++
	}
	require.Equal(t, map[string]int{"node01": 5, "node02": 5}, nodes, "no pod tolerates the master's taint")

	// A pod that is not ready is no endpoint, and runs on.
	first := pods[0]
	annotate := func(value string) {
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, ReadyAnnotation, value)
		_, err := c.Kube.CoreV1().Pods("default").Patch(ctx, first.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	annotate("false")
	c.Endpoints("default", "myapp", 9)
	annotate("true")
	c.Endpoints("default", "myapp", 10)

	// A pod that is deleted serves for its grace, is replaced at once, and is gone after.
	asked := time.Now()
	require.NoError(t, c.Kube.CoreV1().Pods("default").Delete(ctx, first.Name, metav1.DeleteOptions{}))
	gone := func() error {
		_, err := c.Kube.CoreV1().Pods("default").Get(ctx, first.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	}
	c.Eventually(Patience, "its endpoint is terminating and serving", func() error {
		list, err := c.Kube.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				if e.TargetRef != nil && e.TargetRef.Name == first.Name && *e.Conditions.Terminating && *e.Conditions.Serving && !*e.Conditions.Ready {
					return nil
				}
			}
		}
		return gone()
	})
	require.Error(t, gone(), "it was gone before it was seen to terminate")
	c.Endpoints("default", "myapp", 10)
	c.Eventually(Patience, "the pod is gone", gone)
	require.GreaterOrEqual(t, time.Since(asked), 2500*time.Millisecond, "its grace was not kept")

	// Told to end, it ends before its grace is over.
	c.Apply(strings.Replace(deployment("v2", 1), "Seconds: 3", "Seconds: 300", 1))
	c.Endpoints("default", "myapp", 11)
	told := c.Pods("default", "version=v2")[0]
	require.NoError(t, c.Kube.AppsV1().Deployments("default").Delete(ctx, "myapp-v2", metav1.DeleteOptions{}))
	c.Eventually(Patience, "the pod of the deleted Deployment terminates", func() error {
		if pod := c.Pods("default", "version=v2"); len(pod) == 0 || pod[0].DeletionTimestamp == nil {
			return fmt.Errorf("%d pods, none deleted", len(pod))
		}
		return nil
	})
	c.EndPod(&told)
	c.Eventually(Patience, "the pod is gone", func() error {
		if n := len(c.Pods("default", "version=v2")); n != 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
}

// A kubeconfig of a ServiceAccount is that account's, with no right but those that RBAC gives.
func TestClusterServiceAccount(t *testing.T) {
	c := New(t)
	c.Apply(`{apiVersion: v1, kind: ServiceAccount, metadata: {name: someone, namespace: default}}`)
	path := c.AccountKubeconfig("default", "someone")
	out, err := run("", Binary("kubectl"), "--kubeconfig", path, "auth", "whoami")
	require.NoError(t, err)
	require.Contains(t, out, "system:serviceaccount:default:someone")
	_, err = run("", Binary("kubectl"), "--kubeconfig", path, "get", "services")
	require.ErrorContains(t, err, "Forbidden")
	// From a node's namespace, as a daemon there would.
	_, err = c.Nodes[0].Run(Binary("kubectl"), "--kubeconfig", path, "auth", "can-i", "list", "services")
	require.Error(t, err)
	c.Apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: someone}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: someone, namespace: default}]`)
	c.Eventually(Patience, "the account may list Services", func() error {
		_, err := c.Nodes[0].Run(Binary("kubectl"), "--kubeconfig", path, "auth", "can-i", "list", "services")
		return err
	})
}
