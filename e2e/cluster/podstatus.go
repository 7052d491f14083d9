package cluster

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// report writes the Pod's status when it is not what its object says.
func (k *kubelet) report(ctx context.Context, pod *corev1.Pod, node *Node, s *sandbox) error {
	want := pod.DeepCopy()
	ready := pod.Annotations[ReadyAnnotation] != "false"
	setStatus(&want.Status, pod, node, s, ready)
	if equality.Semantic.DeepEqual(want.Status, pod.Status) {
		return nil
	}
	_, err := k.c.Kube.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	return err
}

// setStatus is what kubelet says of a Pod whose containers run.
func setStatus(status *corev1.PodStatus, pod *corev1.Pod, node *Node, s *sandbox, ready bool) {
	started := metav1.NewTime(s.started.Truncate(1e9)) // as it comes back
	status.Phase = corev1.PodRunning
	status.HostIP = node.Addr.String()
	status.HostIPs = []corev1.HostIP{{IP: status.HostIP}}
	status.PodIP = s.addr.String()
	status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	if s.ns != nil { // on the host's network it has what its node says of itself
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: sister(s.addr).String()})
	}
	status.StartTime = &started
	status.ContainerStatuses = nil
	for _, container := range pod.Spec.Containers {
		yes := true
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: ready, Started: &yes,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		})
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.PodReadyToStartContainers} {
		setCondition(status, kind, true)
	}
	setCondition(status, corev1.ContainersReady, ready)
	setCondition(status, corev1.PodReady, ready)
}

func setCondition(status *corev1.PodStatus, kind corev1.PodConditionType, holds bool) {
	want := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}
	if !holds {
		want.Status, want.Reason = corev1.ConditionFalse, "ContainersNotReady"
	}
	i := slices.IndexFunc(status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind })
	switch {
	case i < 0:
		status.Conditions = append(status.Conditions, want)
	case status.Conditions[i].Status != want.Status:
		status.Conditions[i] = want
	}
}
