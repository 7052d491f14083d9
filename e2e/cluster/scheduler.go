package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// bind gives the Pod a node: the one that its affinity names, as the DaemonSet controller asks for
// one, or the next whose taints it tolerates and whose labels it selects.
func (k *kubelet) bind(ctx context.Context, pod *corev1.Pod) error {
	var fit []string
	for _, n := range k.c.Nodes {
		node, err := k.c.Kube.CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // not registered yet
		}
		if err != nil {
			return err
		}
		if fits(pod, node) {
			fit = append(fit, n.Name())
		}
	}
	if len(fit) == 0 {
		return fmt.Errorf("no node fits it")
	}
	to := fit[int(k.turn.Add(1)-1)%len(fit)]
	return k.c.Kube.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: to},
	}, metav1.CreateOptions{})
}

func fits(pod *corev1.Pod, node *corev1.Node) bool {
	if node.Spec.Unschedulable || !named(pod, node.Name) {
		return false
	}
	for key, value := range pod.Spec.NodeSelector {
		if node.Labels[key] != value {
			return false
		}
	}
	for _, taint := range node.Spec.Taints {
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return t.ToleratesTaint(klog.Background(), &taint, false)
		}) {
			return false
		}
	}
	return true
}

// named says whether the Pod's affinity allows the node of the name.
func named(pod *corev1.Pod, node string) bool {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && slices.Contains(field.Values, node) {
				return true
			}
		}
	}
	return false
}
