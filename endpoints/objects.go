package endpoints

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Objects are what [Resolve] resolves. It changes none of them.
type Objects struct {
	VirtualServers []VirtualServer
	Services       []*corev1.Service
	EndpointSlices []EndpointSlice
	// PodColour is the value of a label of a Pod, or "". It is asked about the targetRef of an endpoint
	// whose slice carries no colour label; nil where there are no Pods to ask about.
	PodColour func(pod types.NamespacedName, label string) string
	// Previous is the Snapshot in force, or nil. Of two VirtualServers that claim one Service or port,
	// the one that held it there keeps it.
	Previous *Snapshot
}

// VirtualServer is a defaulted and valid VirtualServer and the digest of the text that declared it.
type VirtualServer struct {
	*v1alpha1.VirtualServer
	Digest string
}

// EndpointSlice is a slice and the source that errors about it name.
type EndpointSlice struct {
	*discoveryv1.EndpointSlice
	Source string
}

// index finds Services by name, and the slices of a Service in the order of their names.
type index struct {
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName][]EndpointSlice
}

func newIndex(o *Objects) *index {
	ix := &index{
		services: make(map[types.NamespacedName]*corev1.Service, len(o.Services)),
		slices:   make(map[types.NamespacedName][]EndpointSlice, len(o.Services)),
	}
	for _, svc := range o.Services {
		ix.services[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = svc
	}
	for _, slice := range o.EndpointSlices {
		if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
			key := types.NamespacedName{Namespace: slice.Namespace, Name: name}
			ix.slices[key] = append(ix.slices[key], slice)
		}
	}
	for _, of := range ix.slices {
		slices.SortFunc(of, func(a, b EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	}
	return ix
}

func keyOf(vs VirtualServer) types.NamespacedName {
	return types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}
}

func compareKeys(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
