package cluster

import (
	"context"
	"fmt"

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
