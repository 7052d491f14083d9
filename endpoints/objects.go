package endpoints

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Objects are what [Resolve] resolves. It changes none of them.
type Objects struct {
	VirtualServers []*VirtualServer
	Services       []*corev1.Service
	EndpointSlices []EndpointSlice
	// PodColour is as in [NewResolver].
	PodColour PodColour
	// Previous is the Snapshot in force, or nil. Of two VirtualServers that claim one Service or port,
	// the one that held it there keeps it.
	Previous *Snapshot
}

// PodColour is the value of a label of a Pod, or "".
type PodColour func(pod types.NamespacedName, label string) string

// VirtualServer is a defaulted and valid VirtualServer and what identifies the declaration, as in
// [Server]. Generation and UID stand here by themselves, since a manifest may carry those that the
// object had in some cluster.
type VirtualServer struct {
	Namespace, Name string
	Spec            *v1alpha1.VirtualServerSpec

	Digest     string
	Generation int64
	UID        types.UID
	// Invalid, when not nil, says what is wrong with it. It is refused so, and need not be valid then.
	Invalid *Refusal
}

// NewVirtualServer takes what matters of one from a manifest.
func NewVirtualServer(vs *v1alpha1.VirtualServer, digest string) *VirtualServer {
	return &VirtualServer{Namespace: vs.Namespace, Name: vs.Name, Spec: &vs.Spec, Digest: digest}
}

// Key is the VirtualServer's name.
func (vs *VirtualServer) Key() types.NamespacedName {
	return types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}
}

// ServiceKey is the name of the Service that it names.
func (vs *VirtualServer) ServiceKey() types.NamespacedName {
	return types.NamespacedName{Namespace: vs.Namespace, Name: vs.Spec.Service.Name}
}

func compareKeys(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
