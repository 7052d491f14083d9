package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// VirtualServerStatus is what was seen.
type VirtualServerStatus struct {
	// Active is the colour that the nodes serve; it differs from spec.active while a switch runs and
	// after a rollback.
	// +optional
	Active string `json:"active,omitempty"`
	// Previous is the colour that a rollback goes to, at once. There is none after a rollback, nor when the
	// colour has had no endpoint since: what comes under its name then goes through the gate.
	// +optional
	Previous string `json:"previous,omitempty"`
	// Retiring is the colour that was active before; the condition SafeToRetire is about it.
	// +optional
	Retiring string `json:"retiring,omitempty"`
	// Target of the switch that runs, or that was the last.
	// +optional
	Target string `json:"target,omitempty"`
	// Rollback: the switch that runs goes back to the colour before; it is neither gated nor observed.
	// +optional
	Rollback bool `json:"rollback,omitempty"`
	// Candidate is the colour that a switch is moving to: nodes hold it ready beside the active one.
	// +optional
	Candidate string `json:"candidate,omitempty"`
	// Weight is the candidate's share of new connections, in percent.
	// +optional
	Weight int32 `json:"weight,omitempty"`
	// Decision counts the changes of active, candidate and weight. Nodes report the one that they acted on,
	// and go back to none before it.
	// +optional
	Decision int64 `json:"decision,omitempty"`
	// Phase of the switch.
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Step of spec.switch.steps that the phase Stepping is at, from 1.
	// +optional
	Step int32 `json:"step,omitempty"`
	// Reason, in CamelCase, of what keeps the present phase from going on, or led to it.
	// +optional
	Reason string `json:"reason,omitempty"`
	// Message says what the present phase waits for, or why it was come to, with the mend.
	// +optional
	Message string `json:"message,omitempty"`
	// Declaration identifies what of the spec the present phase answers. One that was rolled back or
	// blocked is not tried again while it is the same.
	// +optional
	Declaration string `json:"declaration,omitempty"`
	// Started is when the switch that runs, or that was the last, began.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
	// Since is when the present phase began to run: a step, when every node gives its share; the
	// observation, when every node has switched. Absent as long as it does not.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Deadline of the present phase.
	// +optional
	Deadline *metav1.Time `json:"deadline,omitempty"`
	// Failing is since when the observation fails; absent when it does not. A few seconds are forgiven.
	// +optional
	Failing *metav1.Time `json:"failing,omitempty"`
	// Hooks of the switch that runs, or that was the last.
	// +optional
	Hooks *HooksStatus `json:"hooks,omitempty"`
	// Colours that have endpoints, and how many.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=map
	// +listMapKey=name
	// +optional
	Colours []ColourStatus `json:"colours,omitempty"`
	// Nodes that serve it, and how far each is.
	// +optional
	Nodes NodesStatus `json:"nodes,omitempty"`
	// Conditions: Accepted, Staged, Switched, Healthy, SafeToRetire, PreviewReady.
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
// +kubebuilder:validation:Enum=Steady;Staging;Stepping;Switching;Observing;RolledBack;Blocked
type Phase string

// Phases of a switch.
const (
	PhaseSteady     Phase = "Steady"     // no switch runs
	PhaseStaging    Phase = "Staging"    // the candidate is made ready, until the gate holds
	PhaseStepping   Phase = "Stepping"   // the candidate gets a share of new connections
	PhaseSwitching  Phase = "Switching"  // decided: each node cuts over
	PhaseObserving  Phase = "Observing"  // every node has cut over; the new colour is watched
	PhaseRolledBack Phase = "RolledBack" // the observation failed, and the previous colour is active again
	PhaseBlocked    Phase = "Blocked"    // the gate did not hold in time; traffic stays where it was
)

// Condition types of a VirtualServer.
const (
	ConditionAccepted     = "Accepted"
	ConditionStaged       = "Staged"
	ConditionSwitched     = "Switched"
	ConditionHealthy      = "Healthy"
	ConditionSafeToRetire = "SafeToRetire"
	ConditionPreviewReady = "PreviewReady" // only where a preview is declared
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
	// Dead are nodes that have reported and whose Lease has run out: the first of them by name. Their kernels may
	// still serve, as they last said or otherwise.
	// +kubebuilder:validation:MaxItems=32
	// +listType=set
	// +optional
	Dead []string `json:"dead,omitempty"`
}

// MaxDeadNodes is how many status.nodes.dead names.
const MaxDeadNodes = 32

// HooksStatus is how the hooks of a switch fared; one that is absent was not called.
type HooksStatus struct {
	// Before the cut-over.
	// +optional
	Before *HookStatus `json:"before,omitempty"`
	// After the switch.
	// +optional
	After *HookStatus `json:"after,omitempty"`
}

// HookStatus is how a hook fared.
type HookStatus struct {
	// Succeeded: the last call was answered with 2xx.
	Succeeded bool `json:"succeeded"`
	// Calls that were made.
	// +kubebuilder:validation:Minimum=0
	Calls int32 `json:"calls"`
	// Last is when the last one ended.
	// +optional
	Last *metav1.Time `json:"last,omitempty"`
	// Message is why the last one failed.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
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
	// Message says the same to a person.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// SwitchOutcome is how a switch ended.
//
// +kubebuilder:validation:Enum=Succeeded;Held;RolledBack;Blocked;Aborted;Superseded
type SwitchOutcome string

// How a switch ended.
const (
	OutcomeSucceeded  SwitchOutcome = "Succeeded"
	OutcomeHeld       SwitchOutcome = "Held"       // the observation failed, and onFailure: Hold left the new colour active
	OutcomeRolledBack SwitchOutcome = "RolledBack" // the observation failed, and the colour before is active again
	OutcomeBlocked    SwitchOutcome = "Blocked"    // the gate did not hold in time
	OutcomeAborted    SwitchOutcome = "Aborted"    // spec.active was set back before the cut-over
	OutcomeSuperseded SwitchOutcome = "Superseded" // spec.active was changed again before it was done
)
