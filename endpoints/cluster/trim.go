package cluster

import (
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects are kept for as long as they exist, on every node, so what is not read is dropped at once.
// Each trim changes the object in place.

// trimMeta says whether it has seen the object before: while the first lists are streamed, each object is given
// to a trim twice.
func trimMeta(m *metav1.ObjectMeta) (seen bool) {
	if m.ManagedFields != nil && len(m.ManagedFields) == 0 {
		return true
	}
	*m = metav1.ObjectMeta{
		Name: m.Name, Namespace: interned(m.Namespace), Labels: internedMap(m.Labels), ResourceVersion: m.ResourceVersion,
		UID: m.UID, Generation: m.Generation,
		ManagedFields: []metav1.ManagedFieldsEntry{}, // which no object has that was decoded
	}
	return false
}

// interned is a string of which there is one in memory, however many objects have it.
func interned(s string) string { return unique.Make(s).Value() }

func internedMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[interned(k)] = interned(v)
	}
	return out
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
	if trimMeta(&slice.ObjectMeta) {
		return obj, nil
	}
	// Decoding leaves room to grow in each list, and an allocation for each string.
	all := make([]discoveryv1.Endpoint, len(slice.Endpoints))
	addresses := packed(slice.Endpoints)
	var node *string
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		if e.NodeName != nil && (node == nil || *node != *e.NodeName) {
			name := interned(*e.NodeName)
			node = &name
		}
		c := e.Conditions
		all[i] = discoveryv1.Endpoint{
			Addresses: addresses[:len(e.Addresses):len(e.Addresses)],
			Conditions: discoveryv1.EndpointConditions{
				Ready: shared(c.Ready), Serving: shared(c.Serving), Terminating: shared(c.Terminating),
			},
			TargetRef: e.TargetRef,
		}
		addresses = addresses[len(e.Addresses):]
		if e.NodeName != nil {
			all[i].NodeName = node
		}
		if t := e.TargetRef; t != nil {
			*t = corev1.ObjectReference{Kind: interned(t.Kind), Name: t.Name}
		}
	}
	slice.Endpoints = all
	return obj, nil
}

// packed are the addresses of all endpoints, one after the other, in one piece of memory.
func packed(all []discoveryv1.Endpoint) []string {
	var text strings.Builder
	n := 0
	for i := range all {
		n += len(all[i].Addresses)
		for _, a := range all[i].Addresses {
			text.WriteString(a)
		}
	}
	out, rest := make([]string, 0, n), text.String()
	for i := range all {
		for _, a := range all[i].Addresses {
			out, rest = append(out, rest[:len(a)]), rest[len(a):]
		}
	}
	return out
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
