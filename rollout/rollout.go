// Package rollout decides which colour of a virtual server gets new connections: it is the switch, as a
// state machine.
//
// [Next] is pure. It reads no clock, writes nothing and knows no kernel; it says when it wants to be asked
// again, and which calls it wants made, and whoever asks it (the coordinator in a cluster, package sync with
// manifests) keeps the State, makes the calls and feeds the answers back. All that it knows of the past is in
// the State, so whoever asks may be killed between any two calls of it.
//
// A caller may rely on this: it never moves a virtual server to a colour that has nothing ready, but for the
// first decision; an input that has not changed does not change the State before the due time; a phase
// that waits has a deadline or names in Message what it waits for; and setting spec.active back to the
// active colour leads to rest from every phase.
//
// To look inside: a State is what VirtualServer.status shows, and state.json with manifests.
package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// State is where the rollout of one virtual server stands. The zero value is before its first
// decision. It is kept on disk, so that a restarted daemon goes on from it.
type State struct {
	Active    string `json:"active"`              // the colour that gets new connections
	Previous  string `json:"previous,omitempty"`  // where a rollback goes; "" when there is no such colour
	Retiring  string `json:"retiring,omitempty"`  // the colour that was active before; its connections end
	Target    string `json:"target,omitempty"`    // of the switch that runs, or was the last
	Candidate string `json:"candidate,omitempty"` // being staged or getting a share; "" when none
	Weight    int32  `json:"weight,omitempty"`    // the candidate's share in percent while steps run; 0: staged only
	// Decision counts the changes of Active, Candidate and Weight.
	Decision int64          `json:"decision,omitempty"`
	Phase    v1alpha1.Phase `json:"phase"`
	Step     int32          `json:"step,omitempty"` // of spec.switch.steps, from 1
	// Rollback: the switch that runs goes back to the colour before. It is neither gated nor observed.
	Rollback bool   `json:"rollback,omitempty"`
	Reason   string `json:"reason,omitempty"`  // CamelCase: what the phase waits for, or what led to it
	Message  string `json:"message,omitempty"` // for a person, with the mend
	// Declaration is what the phase answers; see [Declaration].
	Declaration string    `json:"declaration,omitempty"`
	Started     time.Time `json:"started,omitzero"`  // of the switch that runs, or was the last
	Since       time.Time `json:"since,omitzero"`    // the step or the observation; zero: it does not run yet
	Deadline    time.Time `json:"deadline,omitzero"` // of the phase; zero: it has none
	// Failing is since when the observation fails, zero when it does not: a moment is forgiven.
	Failing time.Time               `json:"failing,omitzero"`
	Hooks   v1alpha1.HooksStatus    `json:"hooks,omitzero"`
	History []v1alpha1.SwitchRecord `json:"history,omitempty"` // newest first
	// Of is the object that the State was decided for, where there are several over time under one name.
	Of string `json:"of,omitempty"`
}

// Equal says whether two States are the same.
func (s State) Equal(o State) bool { return s.shares(&o) || reflect.DeepEqual(s, o) }

// shares says whether two States are the same by what they hold in common, which nearly all that are compared do; it costs
// next to nothing. Of others it says no.
func (s *State) shares(o *State) bool {
	return s.Active == o.Active && s.Previous == o.Previous && s.Retiring == o.Retiring && s.Target == o.Target && s.Candidate == o.Candidate &&
		s.Weight == o.Weight && s.Decision == o.Decision && s.Phase == o.Phase && s.Step == o.Step && s.Rollback == o.Rollback &&
		s.Reason == o.Reason && s.Message == o.Message && s.Declaration == o.Declaration && s.Of == o.Of &&
		s.Started == o.Started && s.Since == o.Since && s.Deadline == o.Deadline && s.Failing == o.Failing &&
		s.Hooks == o.Hooks && len(s.History) == len(o.History) && (len(s.History) == 0 && (s.History == nil) == (o.History == nil) || len(s.History) > 0 && &s.History[0] == &o.History[0])
}

// Committed is whether a switch runs whose cut-over was decided.
func (s State) Committed() bool {
	return s.Phase == v1alpha1.PhaseSwitching || s.Phase == v1alpha1.PhaseObserving
}

// Observed is the colour that the declared observation is about now, "" when none is.
func (s State) Observed(spec *v1alpha1.VirtualServerSpec) string {
	switch {
	case spec.Switch.Observe == nil || s.Rollback:
		return ""
	case s.Phase == v1alpha1.PhaseStepping:
		return s.Candidate
	case s.Committed() && s.Previous != "":
		return s.Active
	}
	return ""
}

// Probing is what nodes are to probe now: a colour and how; "" when nothing.
func (s State) Probing(spec *v1alpha1.VirtualServerSpec) (colour string, probe *v1alpha1.Probe) {
	if s.Phase == v1alpha1.PhaseStaging && spec.Switch.Gate.Probe != nil {
		return s.Candidate, spec.Switch.Gate.Probe
	}
	if colour = s.Observed(spec); colour != "" && spec.Switch.Observe.Probe != nil {
		return colour, spec.Switch.Observe.Probe
	}
	return "", nil
}

// Input is all that a decision is made of.
type Input struct {
	Now     time.Time
	Spec    *v1alpha1.VirtualServerSpec // with defaults
	Colours map[string]Colour
	Nodes   []Node   // the live ones, sorted by name
	Answers []Answer // of calls that were wanted; one that is not, or not any more, is not looked at
	Query   Query
}

// Colour counts the endpoints of a colour that do not terminate, and those of them that serve every port.
type Colour struct{ All, Ready int }

// Node is what a live node last said.
type Node struct {
	Name     string
	Decision int64  // that it acted on
	Serving  string // the colour that its kernel was read back to serve, and no other; "" when that is not known
	Staged   string // the colour that it was read back to hold ready beside it
	Weight   int32  // the share of it that was read back
	Trouble  string // what keeps it, in its own words; "" when nothing does
	Probe    *v1alpha1.ProbeReport
	Signs    []v1alpha1.Sign
}

// Call is one call of a hook that is wanted. It names the switch by its decision, and counts.
type Call struct {
	After    bool // the hook after the switch; else the one before
	Decision int64
	Number   int32
}

// Answer is what became of a Call.
type Answer struct {
	Call
	At  time.Time
	Err string // "" when it succeeded
}

// Query is what is known of the figure that the observation asks for.
type Query struct {
	Asked    time.Time // when it was last asked for; zero: never
	Err      string    // why that had no answer; "" when it had one
	Value    float64   // the last answer
	Answered time.Time // when that came; zero: never
}

// Wants is what a State wants of whoever keeps it.
type Wants struct {
	Due   time.Time // when to ask again though nothing has changed; zero: never
	Call  *Call
	Query bool // that the declared query be asked at its interval
}

// Declaration identifies what of a spec decides about a switch. A switch that was rolled back or blocked is
// not tried again under the same; pausing, and what has nothing to do with switching, do not change it.
func Declaration(spec *v1alpha1.VirtualServerSpec) string {
	s := &spec.Switch
	of := struct {
		Active  string
		Gate    *v1alpha1.Gate
		Steps   []v1alpha1.Step   `json:",omitempty"`
		Observe *v1alpha1.Observe `json:",omitempty"`
		Hooks   *v1alpha1.Hooks   `json:",omitempty"`
		Force   bool              `json:",omitempty"`
	}{spec.Active, &s.Gate, s.Steps, s.Observe, s.Hooks, s.Force == spec.Active}
	text, err := json.Marshal(of)
	if err != nil { // plain values; none fails
		panic(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
