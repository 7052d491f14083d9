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
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Deadline of the present phase.
	// +optional
	Deadline *metav1.Time `json:"deadline,omitempty"`
	// +listType=map
	// +listMapKey=name
	// +optional
	Colours []ColourStatus `json:"colours,omitempty"`
	// +optional
	Nodes NodesStatus `json:"nodes,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// History holds the last switches, newest first.
	// +kubebuilder:validation:MaxItems=10
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
	Name      string `json:"name"`
	Endpoints int32  `json:"endpoints"`
	Ready     int32  `json:"ready"`
}

// NodesStatus counts the live nodes and how far each is.
type NodesStatus struct {
	Total    int32 `json:"total"`
	Staged   int32 `json:"staged"`
	Switched int32 `json:"switched"`
}

// SwitchRecord is one switch that ended.
type SwitchRecord struct {
	From    string        `json:"from"`
	To      string        `json:"to"`
	Started metav1.Time   `json:"started"`
	Ended   metav1.Time   `json:"ended"`
	Outcome SwitchOutcome `json:"outcome"`
	// Reason in CamelCase.
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
