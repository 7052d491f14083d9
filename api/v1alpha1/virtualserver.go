package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// VirtualServer declares which colour of a Service gets its new connections, and how a change of
// colour is made.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=vs
// +kubebuilder:printcolumn:name="ACTIVE",type=string,JSONPath=`.status.active`
// +kubebuilder:printcolumn:name="PHASE",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].status`
// +kubebuilder:printcolumn:name="NODES",type=integer,JSONPath=`.status.nodes.switched`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec VirtualServerSpec `json:"spec"`
	// +optional
	Status VirtualServerStatus `json:"status,omitempty"`
}

// VirtualServerList is a list of VirtualServers.
//
// +kubebuilder:object:root=true
type VirtualServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VirtualServer `json:"items"`
}

// VirtualServerSpec is what the user wants.
//
// Optional numbers and durations are pointers, so that a zero somebody wrote is told apart from a
// field nobody wrote; after [Default] the ones with a default are not nil.
type VirtualServerSpec struct {
	// Service whose addresses and ports are the virtual servers.
	Service ServiceReference `json:"service"`

	// ColourLabel is the label whose value is an endpoint's colour.
	// +kubebuilder:default=version
	// +optional
	ColourLabel string `json:"colourLabel,omitempty"`

	// Active is the colour that gets users' new connections.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Active string `json:"active"`

	// Preview is a way to reach an idle colour for tests.
	// +optional
	Preview *Preview `json:"preview,omitempty"`

	// +kubebuilder:default={}
	// +optional
	Scheduler Scheduler `json:"scheduler,omitempty"`

	// Forwarding is how IPVS hands packets to real servers.
	// +kubebuilder:default=masquerade
	// +optional
	Forwarding ForwardingMethod `json:"forwarding,omitempty"`

	// Steering overrides the node's own setting; empty leaves it to the node.
	// +optional
	Steering Steering `json:"steering,omitempty"`

	// +kubebuilder:default={}
	// +optional
	Switch Switch `json:"switch,omitempty"`
}

// ServiceReference names a Service in the VirtualServer's namespace.
type ServiceReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
}

// Preview is a node port that leads to one colour, whichever is active.
type Preview struct {
	// Colour that the preview leads to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Colour string `json:"colour"`
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort"`
	// Sources are the CIDRs that may use it; empty: everyone.
	// +optional
	Sources []string `json:"sources,omitempty"`
}

// Scheduler is the kernel's way to choose a real server for a new connection.
type Scheduler struct {
	// +kubebuilder:default=rr
	// +kubebuilder:validation:Enum=rr;wrr;lc;wlc;lblc;lblcr;dh;sh;sed;nq;fo;ovf;mh;twos
	// +optional
	Name string `json:"name,omitempty"`
	// Flags as ipvsadm names them.
	// +kubebuilder:validation:items:Enum=flag-1;flag-2;flag-3;sh-fallback;sh-port;mh-fallback;mh-port
	// +optional
	Flags []string `json:"flags,omitempty"`
}

// ForwardingMethod is how IPVS hands a packet to a real server.
//
// +kubebuilder:validation:Enum=masquerade;tunnel;direct
type ForwardingMethod string

// The kernel's forwarding methods.
const (
	Masquerade ForwardingMethod = "masquerade"
	Tunnel     ForwardingMethod = "tunnel"
	Direct     ForwardingMethod = "direct"
)

// Steering is how a virtual server is keyed in the kernel.
//
// +kubebuilder:validation:Enum=Auto;Address;Mark
type Steering string

// Ways to key a virtual server.
const (
	SteeringAuto    Steering = "Auto"
	SteeringAddress Steering = "Address"
	SteeringMark    Steering = "Mark"
)

// Switch is how a change of the active colour is made.
type Switch struct {
	// +kubebuilder:default={}
	// +optional
	Gate Gate `json:"gate,omitempty"`
	// Steps hand over a growing share of new connections; empty: all at once.
	// +optional
	Steps []Step `json:"steps,omitempty"`
	// Observe watches the new colour after the cut-over; absent: it is not watched.
	// +optional
	Observe *Observe `json:"observe,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Drain Drain `json:"drain,omitempty"`
}

// Gate is what must hold before a switch cuts over.
type Gate struct {
	// MinReady is how many endpoints of the candidate must be ready, or which share of them.
	// +kubebuilder:default="100%"
	// +kubebuilder:validation:XIntOrString
	// +optional
	MinReady *intstr.IntOrString `json:"minReady,omitempty"`
	// Probe that the candidate's endpoints must pass from each node; absent: none.
	// +optional
	Probe *Probe `json:"probe,omitempty"`
	// Nodes that must be staged: All, or a percentage of the live ones.
	// +kubebuilder:default=All
	// +kubebuilder:validation:Pattern=`^(All|100%|[1-9][0-9]?%)$`
	// +optional
	Nodes string `json:"nodes,omitempty"`
	// Timeout after which a switch whose gate does not hold is Blocked.
	// +kubebuilder:default="2m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
}

// GateNodesAll is the value of Gate.Nodes that asks for every live node.
const GateNodesAll = "All"

// Step is one share of new connections and how long it is held.
type Step struct {
	// Weight is the candidate's share, in percent.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=99
	Weight int32 `json:"weight"`
	// Hold is how long before the next step.
	Hold *metav1.Duration `json:"hold"`
}

// Observe is the watch over a new colour after the cut-over.
type Observe struct {
	// +kubebuilder:default="10m"
	// +optional
	Window *metav1.Duration `json:"window,omitempty"`
	// MinReady below which the observation fails.
	// +kubebuilder:default="80%"
	// +kubebuilder:validation:XIntOrString
	// +optional
	MinReady *intstr.IntOrString `json:"minReady,omitempty"`
	// +kubebuilder:default=Rollback
	// +optional
	OnFailure FailureAction `json:"onFailure,omitempty"`
}

// FailureAction is what a failed observation does.
//
// +kubebuilder:validation:Enum=Rollback;Hold
type FailureAction string

// What a failed observation does: go back to the previous colour, or stay and say so.
const (
	FailureRollback FailureAction = "Rollback"
	FailureHold     FailureAction = "Hold"
)

// Drain lets connections to the previous colour end.
type Drain struct {
	// +kubebuilder:default="5m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// +kubebuilder:default=Keep
	// +optional
	OnTimeout DrainAction `json:"onTimeout,omitempty"`
}

// DrainAction is what happens to connections that outlive the drain's timeout.
//
// +kubebuilder:validation:Enum=Keep;Cut
type DrainAction string

// What happens at the drain's timeout: connections stay until they end, or are cut.
const (
	DrainKeep DrainAction = "Keep"
	DrainCut  DrainAction = "Cut"
)
