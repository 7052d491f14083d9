package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VirtualServerStatus is what was seen.
type VirtualServerStatus struct {
	// Active is the colour that the nodes serve; it differs from spec.active while a switch runs and
	// after a rollback.
	// +optional
	Active string `json:"active,omitempty"`
	// Previous is the colour that a rollback goes to.
	// +optional
	Previous string `json:"previous,omitempty"`
	// Phase of the switch.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Deadline of the present phase.
	// +optional
	Deadline *metav1.Time `json:"deadline,omitempty"`
	// Colours that have endpoints, and how many.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=map
	// +listMapKey=name
	// +optional
	Colours []ColourStatus `json:"colours,omitempty"`
	// Nodes that serve it, and how far each is.
	// +optional
	Nodes NodesStatus `json:"nodes,omitempty"`
	// Conditions: Accepted, Staged, Switched, Healthy, SafeToRetire.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// History holds the last switches, newest first.
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	// +optional
	History []SwitchRecord `json:"history,omitempty"`
}

// MaxHistory is how many switches status.history keeps.
const MaxHistory = 10

// Phase is where a VirtualServer is in a switch.
//
// +kubebuilder:validation:Enum=Steady;Staging;Switching;Observing;RolledBack;Blocked
type Phase string

// Phases of a switch.
const (
	PhaseSteady     Phase = "Steady"
	PhaseStaging    Phase = "Staging"
	PhaseSwitching  Phase = "Switching"
	PhaseObserving  Phase = "Observing"
	PhaseRolledBack Phase = "RolledBack"
	PhaseBlocked    Phase = "Blocked"
)

// Condition types of a VirtualServer.
const (
	ConditionAccepted     = "Accepted"
	ConditionStaged       = "Staged"
	ConditionSwitched     = "Switched"
	ConditionHealthy      = "Healthy"
	ConditionSafeToRetire = "SafeToRetire"
)

// ColourStatus counts the endpoints of one colour.
type ColourStatus struct {
	// Name of the colour.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Endpoints of the colour, ready or not.
	// +kubebuilder:validation:Minimum=0
	Endpoints int32 `json:"endpoints"`
	// Ready ones among them.
	// +kubebuilder:validation:Minimum=0
	Ready int32 `json:"ready"`
}

// NodesStatus counts the live nodes and how far each is.
type NodesStatus struct {
	// Total of live nodes.
	// +kubebuilder:validation:Minimum=0
	Total int32 `json:"total"`
	// Staged: those that hold the candidate.
	// +kubebuilder:validation:Minimum=0
	Staged int32 `json:"staged"`
	// Switched: those that were read back to serve the active colour and no other.
	// +kubebuilder:validation:Minimum=0
	Switched int32 `json:"switched"`
}

// SwitchRecord is one switch that ended.
type SwitchRecord struct {
	// From is the colour before, "" for the first.
	// +kubebuilder:validation:MaxLength=63
	From string `json:"from"`
	// To is the colour that was asked for.
	// +kubebuilder:validation:MaxLength=63
	To string `json:"to"`
	// Started when the change was seen.
	Started metav1.Time `json:"started"`
	// Ended when its outcome was known.
	Ended metav1.Time `json:"ended"`
	// Outcome of it.
	Outcome SwitchOutcome `json:"outcome"`
	// Reason in CamelCase.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Reason string `json:"reason,omitempty"`
}

// SwitchOutcome is how a switch ended.
//
// +kubebuilder:validation:Enum=Succeeded;RolledBack;Blocked;Superseded
type SwitchOutcome string

// How a switch ended. Superseded: spec.active changed again before it was done.
const (
	OutcomeSucceeded  SwitchOutcome = "Succeeded"
	OutcomeRolledBack SwitchOutcome = "RolledBack"
	OutcomeBlocked    SwitchOutcome = "Blocked"
	OutcomeSuperseded SwitchOutcome = "Superseded"
)
