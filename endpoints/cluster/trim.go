package cluster

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/endpoints"
)

// Objects are kept for as long as they exist, on every node, so what is not read is dropped at once.
// Each trim changes the object in place.

// ourLabel is what every Service has that is ours: once in memory, and not to be changed.
var ourLabel = map[string]string{endpoints.ServiceProxyLabel: endpoints.ServiceProxyName}

func (c *client) trimService(obj any) (any, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		m := metav1.ObjectMeta{Name: svc.Name, Namespace: c.names.ofString(svc.Namespace)}
		switch value, ok := svc.Labels[endpoints.ServiceProxyLabel]; {
		case ok && value == endpoints.ServiceProxyName:
			m.Labels = ourLabel
		case ok:
			m.Labels = map[string]string{endpoints.ServiceProxyLabel: value}
		}
		svc.ObjectMeta = m
		svc.Spec.Selector, svc.Spec.IPFamilyPolicy, svc.Status.Conditions = nil, nil, nil
	}
	return obj, nil
}

// podLabel is what is kept of a Pod, already while a list of tens of thousands comes in.
type podLabel struct {
	*metav1.ObjectMeta // an empty one, the same for all: a store asks for no more than the key

	namespace, name, colour string
}

var noMeta metav1.ObjectMeta

func (p *podLabel) GetNamespace() string { return p.namespace }
func (p *podLabel) GetName() string      { return p.name }

// trimPod leaves one label.
func trimPod(label string) func(any) (any, error) {
	return func(obj any) (any, error) {
		if pod, ok := obj.(*metav1.PartialObjectMetadata); ok {
			return &podLabel{ObjectMeta: &noMeta, namespace: pod.Namespace, name: pod.Name, colour: pod.Labels[label]}, nil
		}
		return obj, nil
	}
}
