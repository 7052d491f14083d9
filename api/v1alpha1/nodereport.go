package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Bounds on the texts of a NodeReport. The API server refuses a report that breaks them, so whoever
// writes one clips to them first.
const (
	MaxReportError   = 4096
	MaxReportReason  = 1024
	MaxReportMessage = 4096

	MaxProbeFailures  = 3 // texts
	MaxProbeFailure   = 512
	MaxSigns          = 16
	MaxSignReason     = 128
	MaxSignMessage    = 512
	MaxSteeringReason = 1024
	MaxHookMessage    = 1024
	MaxHistoryMessage = 1024
)

// NodeReport is what one node was read back to serve. Its name is the node's.
//
// The node's own daemon writes it, and only when it changed: an old report is a node at rest, not a
// dead one. Whether the node is alive is told by its Lease.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=nodereports,scope=Cluster,shortName=nr
// +kubebuilder:printcolumn:name="VERSION",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="ERROR",type=string,JSONPath=`.status.error`
// +kubebuilder:printcolumn:name="AGE",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeReport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what was read back from the node's kernel.
	// +optional
	Status NodeReportStatus `json:"status,omitempty"`
}

// NodeReportList is a list of NodeReports.
//
// +kubebuilder:object:root=true
type NodeReportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeReport `json:"items"`
}

// NodeReportStatus is what was read back from the node's kernel, and how the daemon there fares.
type NodeReportStatus struct {
	// Version of pointsman on the node.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Version string `json:"version,omitempty"`
	// Error is why the last pass failed; empty when it did not.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Error string `json:"error,omitempty"`
	// VirtualServers that the node knows of.
	// +kubebuilder:validation:MaxItems=10000
	// +listType=map
	// +listMapKey=namespace
	// +listMapKey=name
	// +optional
	VirtualServers []NodeVirtualServer `json:"virtualServers,omitempty"`
}

// NodeVirtualServer is what one node has for one VirtualServer, whose spec may stand for several
// virtual servers of the kernel.
type NodeVirtualServer struct {
	// Namespace of the VirtualServer.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name of the VirtualServer.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Generation is the metadata.generation of the VirtualServer that the node acted on.
	// +kubebuilder:validation:Minimum=0
	Generation int64 `json:"generation"`
	// Active is the colour that the kernel was read back to serve; empty: none.
	// +kubebuilder:validation:MaxLength=63
	Active string `json:"active"`
	// Decision is the status.decision of the VirtualServer that the node acted on.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Decision int64 `json:"decision,omitempty"`
	// Staged is the colour that the kernel was read back to hold ready beside the active one; empty: none.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Staged string `json:"staged,omitempty"`
	// Weight is the share of new connections, in percent, that the kernel was read back to give to Staged.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	Weight int32 `json:"weight,omitempty"`
	// Steering is how the node keys its virtual servers.
	// +optional
	Steering Steering `json:"steering,omitempty"`
	// SteeringReason says why, when the node chose it.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	SteeringReason string `json:"steeringReason,omitempty"`
	// Probe is how the endpoints of a colour that is asked about fare from this node; absent: none is, or
	// not all were probed yet.
	// +optional
	Probe *ProbeReport `json:"probe,omitempty"`
	// Signs in the kernel's counters that a colour does not serve.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Signs []Sign `json:"signs,omitempty"`
	// Verified: the kernel was read back and holds Active and nothing else in every virtual server.
	Verified bool `json:"verified"`
	// RealServers with weight, the fewest over its virtual servers.
	// +kubebuilder:validation:Minimum=0
	RealServers int32 `json:"realServers"`
	// Draining colours, whose connections have yet to end.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=map
	// +listMapKey=colour
	// +optional
	Draining []ColourDrain `json:"draining,omitempty"`
	// Reason, in CamelCase, that keeps it from being served as declared; empty: nothing does.
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?)?$`
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message says the same to a person, with the mend.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Message string `json:"message,omitempty"`
}

// ProbeReport is how the ready endpoints of one colour fare from one node.
type ProbeReport struct {
	// Colour that was probed.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Colour string `json:"colour"`
	// Passed endpoints.
	// +kubebuilder:validation:Minimum=0
	Passed int32 `json:"passed"`
	// Failed endpoints.
	// +kubebuilder:validation:Minimum=0
	Failed int32 `json:"failed"`
	// Failures are some of them: the endpoint and why.
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=atomic
	// +optional
	Failures []string `json:"failures,omitempty"`
}

// Sign is something in the kernel's counters that says that a colour does not serve.
type Sign struct {
	// Colour that it is about.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Colour string `json:"colour"`
	// Reason in CamelCase.
	// +kubebuilder:validation:MaxLength=128
	Reason string `json:"reason"`
	// Message says the same to a person.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Message string `json:"message,omitempty"`
}

// ColourDrain is what is left of one colour on a node.
type ColourDrain struct {
	// Colour that drains.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Colour string `json:"colour"`
	// RealServers of it that are still in the kernel, at weight 0.
	// +kubebuilder:validation:Minimum=0
	RealServers int32 `json:"realServers"`
	// Connections to them, opening and closing ones included.
	// +kubebuilder:validation:Minimum=0
	Connections int64 `json:"connections"`
	// Deadline is when the last of these connections is cut; absent: none ever is.
	// +optional
	Deadline *metav1.Time `json:"deadline,omitempty"`
}
