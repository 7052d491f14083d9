package cluster

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects are kept for as long as they exist, on every node, so what is not read is dropped at once.
// Each trim changes the object in place and may meet one that it has seen.

func trimMeta(m *metav1.ObjectMeta) {
	*m = metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, Labels: m.Labels, ResourceVersion: m.ResourceVersion,
		UID: m.UID, Generation: m.Generation,
	}
}

func trimService(obj any) (any, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		trimMeta(&svc.ObjectMeta)
		svc.Spec.Selector, svc.Status.Conditions = nil, nil
	}
	return obj, nil
}

var yes, no = true, false

// shared is one of two pointers, instead of one for each condition of each endpoint.
func shared(p *bool) *bool {
	switch {
	case p == nil:
		return nil
	case *p:
		return &yes
	}
	return &no
}

func trimSlice(obj any) (any, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return obj, nil
	}
	trimMeta(&slice.ObjectMeta)
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		c := e.Conditions
		*e = discoveryv1.Endpoint{
			Addresses: e.Addresses,
			NodeName:  e.NodeName,
			Conditions: discoveryv1.EndpointConditions{
				Ready: shared(c.Ready), Serving: shared(c.Serving), Terminating: shared(c.Terminating),
			},
			TargetRef: e.TargetRef,
		}
		if t := e.TargetRef; t != nil {
			*t = corev1.ObjectReference{Kind: t.Kind, Name: t.Name}
		}
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
