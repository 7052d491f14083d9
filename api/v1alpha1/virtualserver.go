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
// +kubebuilder:resource:path=virtualservers,shortName=vs
// +kubebuilder:printcolumn:name="ACTIVE",type=string,JSONPath=`.status.active`
// +kubebuilder:printcolumn:name="PHASE",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="READY",type=string,JSONPath=`.status.conditions[?(@.type=="Healthy")].status`
// +kubebuilder:printcolumn:name="NODES",type=integer,JSONPath=`.status.nodes.switched`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type VirtualServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the user wants.
	Spec VirtualServerSpec `json:"spec"`
	// Status is what was seen; pointsman writes it.
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
// field nobody wrote; after [Default] the ones with a default are not nil. An empty string is a field
// that nobody wrote, as everywhere in Kubernetes, so the schema allows "" wherever a string is optional.
type VirtualServerSpec struct {
	// Service whose addresses and ports are the virtual servers.
	Service ServiceReference `json:"service"`

	// ColourLabel is the label whose value is an endpoint's colour.
	// +kubebuilder:default=version
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self == '' || !format.qualifiedName().validate(self).hasValue()",message="must be a label key, as in version or example.com/colour"
	// +optional
	ColourLabel string `json:"colourLabel,omitempty"`

	// Active is the colour that gets users' new connections.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="!format.labelValue().validate(self).hasValue()",message="must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
	Active string `json:"active"`

	// Preview is a way to reach an idle colour for tests.
	// +optional
	Preview *Preview `json:"preview,omitempty"`

	// Scheduler chooses a real server for each new connection.
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

	// Switch is how a change of the active colour is made.
	// +kubebuilder:default={}
	// +optional
	Switch Switch `json:"switch,omitempty"`
}

// ServiceReference names a Service in the VirtualServer's namespace.
type ServiceReference struct {
	// Name of the Service.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="!format.dns1123Label().validate(self).hasValue()",message="must be the name of a Service, a lowercase RFC 1123 label: letters, digits and '-', with a letter or digit at both ends"
	Name string `json:"name"`
}

// Preview leads to one colour, whichever is active: everybody by a node port of its own, and chosen clients by the
// addresses of production.
type Preview struct {
	// Colour that the preview leads to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="!format.labelValue().validate(self).hasValue()",message="must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
	Colour string `json:"colour"`
	// NodePort that leads there; no Service may use it.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort"`
	// Sources are the CIDRs whose clients get the previewed colour at the Service's own addresses and ports too.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self)",message="must be a CIDR, as in 192.0.2.0/24 or 2001:db8::/64"
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",message="has bits set beyond its length; write the network's address, as in 192.0.2.0/24 for 192.0.2.1/24"
	// +listType=atomic
	// +optional
	Sources []string `json:"sources,omitempty"`
}

// Scheduler is the kernel's way to choose a real server for a new connection.
//
// +kubebuilder:validation:XValidation:rule="self.name == 'sh' || !has(self.flags) || !self.flags.exists(f, f.startsWith('sh-'))",message="sh-fallback and sh-port are flags of scheduler sh; remove them or set scheduler.name: sh",fieldPath=".flags"
// +kubebuilder:validation:XValidation:rule="self.name == 'mh' || !has(self.flags) || !self.flags.exists(f, f.startsWith('mh-'))",message="mh-fallback and mh-port are flags of scheduler mh; remove them or set scheduler.name: mh",fieldPath=".flags"
type Scheduler struct {
	// Name as the kernel and ipvsadm know it.
	// +kubebuilder:default=rr
	// +kubebuilder:validation:Enum="";rr;wrr;lc;wlc;lblc;lblcr;dh;sh;sed;nq;fo;ovf;mh;twos
	// +optional
	Name string `json:"name,omitempty"`
	// Flags as ipvsadm names them.
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:XValidation:rule="self.all(f, self.exists_one(g, g == f))",message="a flag is given twice; remove one"
	// +kubebuilder:validation:items:MaxLength=11
	// +listType=atomic
	// +kubebuilder:validation:items:Enum=flag-1;flag-2;flag-3;sh-fallback;sh-port;mh-fallback;mh-port
	// +optional
	Flags []string `json:"flags,omitempty"`
}

// ForwardingMethod is how IPVS hands a packet to a real server.
//
// +kubebuilder:validation:Enum="";masquerade;tunnel;direct
type ForwardingMethod string

// The kernel's forwarding methods.
const (
	Masquerade ForwardingMethod = "masquerade"
	Tunnel     ForwardingMethod = "tunnel"
	Direct     ForwardingMethod = "direct"
)

// Steering is how a virtual server is keyed in the kernel.
//
// +kubebuilder:validation:Enum="";Auto;Address;Mark
type Steering string

// Ways to key a virtual server.
const (
	SteeringAuto    Steering = "Auto"
	SteeringAddress Steering = "Address"
	SteeringMark    Steering = "Mark"
)

// Switch is how a change of the active colour is made.
type Switch struct {
	// Gate is what must hold before the cut-over.
	// +kubebuilder:default={}
	// +optional
	Gate Gate `json:"gate,omitempty"`
	// Steps hand over a growing share of new connections; empty: all at once.
	// +kubebuilder:validation:MaxItems=99
	// +kubebuilder:validation:XValidation:rule="self.map(s, s.weight).isSorted() && self.all(s, self.exists_one(t, t.weight == s.weight))",message="the weight of each step must be above that of the step before"
	// +listType=atomic
	// +optional
	Steps []Step `json:"steps,omitempty"`
	// Observe watches the new colour after the cut-over; absent: it is not watched.
	// +optional
	Observe *Observe `json:"observe,omitempty"`
	// Drain is what becomes of connections to the previous colour.
	// +kubebuilder:default={}
	// +optional
	Drain Drain `json:"drain,omitempty"`
}

// Gate is what must hold before a switch cuts over.
type Gate struct {
	// MinReady is how many endpoints of the candidate must be ready, or which share of them.
	// +kubebuilder:default="100%"
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 2147483647 : self.matches('^(100|[1-9][0-9]?)%$')",message=`must be a number of endpoints from 1, or a percentage from "1%" to "100%"`
	// +optional
	MinReady *intstr.IntOrString `json:"minReady,omitempty"`
	// Probe that the candidate's endpoints must pass from each node; absent: none.
	// +optional
	Probe *Probe `json:"probe,omitempty"`
	// Nodes that must be staged: All, or a percentage of the live ones.
	// +kubebuilder:default=All
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:XValidation:rule="self.matches('^(All|(100|[1-9][0-9]?)%)?$')",message=`must be All or a percentage from "1%" to "100%"`
	// +optional
	Nodes string `json:"nodes,omitempty"`
	// Timeout after which a switch whose gate does not hold is Blocked.
	// +kubebuilder:default="2m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)([nuµμm]?s|m|h))+$') && duration(self) > duration('0s')",message="must be a duration above zero, as in 30s or 5m"
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
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)([nuµμm]?s|m|h))+$') && duration(self) > duration('0s')",message="must be a duration above zero, as in 30s or 5m"
	Hold *metav1.Duration `json:"hold"`
}

// Observe is the watch over a new colour after the cut-over.
type Observe struct {
	// Window is how long the new colour is watched.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)([nuµμm]?s|m|h))+$') && duration(self) > duration('0s')",message="must be a duration above zero, as in 30s or 5m"
	// +optional
	Window *metav1.Duration `json:"window,omitempty"`
	// MinReady below which the observation fails.
	// +kubebuilder:default="80%"
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 1 && self <= 2147483647 : self.matches('^(100|[1-9][0-9]?)%$')",message=`must be a number of endpoints from 1, or a percentage from "1%" to "100%"`
	// +optional
	MinReady *intstr.IntOrString `json:"minReady,omitempty"`
	// OnFailure is what a failed observation does: go back to the previous colour, or stay and say so.
	// +kubebuilder:default=Rollback
	// +optional
	OnFailure FailureAction `json:"onFailure,omitempty"`
}

// FailureAction is what a failed observation does.
//
// +kubebuilder:validation:Enum="";Rollback;Hold
type FailureAction string

// What a failed observation does: go back to the previous colour, or stay and say so.
const (
	FailureRollback FailureAction = "Rollback"
	FailureHold     FailureAction = "Hold"
)

// Drain lets connections to the previous colour end.
type Drain struct {
	// Timeout after which OnTimeout is done to the connections that are left.
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)([nuµμm]?s|m|h))+$') && duration(self) > duration('0s')",message="must be a duration above zero, as in 30s or 5m"
	// +optional
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// OnTimeout is what happens to connections that outlive the timeout: they stay until they end, or are cut.
	// +kubebuilder:default=Keep
	// +optional
	OnTimeout DrainAction `json:"onTimeout,omitempty"`
}

// DrainAction is what happens to connections that outlive the drain's timeout.
//
// +kubebuilder:validation:Enum="";Keep;Cut
type DrainAction string

// What happens at the drain's timeout: connections stay until they end, or are cut.
const (
	DrainKeep DrainAction = "Keep"
	DrainCut  DrainAction = "Cut"
)
