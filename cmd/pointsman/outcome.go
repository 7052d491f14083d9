package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/rollout"
)

// What becomes of a switch that was declared, judged by what is seen of it. Pure: no clock, no home.

// outcome is how a switch that was declared ended.
type outcome int

const (
	running outcome = iota
	done
	blocked
	rolledBack
	held
	superseded // or aborted: by somebody else
)

// attempt is the switch that was declared.
type attempt struct {
	to     string        // spec.active
	before rollout.State // how it stood at that moment
	other  bool          // what before answered was another declaration
}

// attemptOf is the switch that a declaration makes.
func attemptOf(written *declared) attempt {
	return attempt{
		to: written.spec.Active, before: written.state,
		other: written.state.Declaration != rollout.Declaration(written.spec),
	}
}

// sighting is what is seen of it at one moment.
type sighting struct {
	declared string // spec.active now
	answered bool   // the machine has taken note of the declaration
	state    rollout.State
	verified bool   // every live node was read back to serve as declared, and no other colour
	lacks    string // why not

	total, staged, switched int // nodes
}

// judge says how the switch ended, or what it waits for.
func (a attempt) judge(s sighting) (outcome, string) {
	if record, ended := a.record(s.state.History); ended && s.answered {
		why := record.Reason
		if record.Message != "" {
			why += ": " + record.Message
		}
		switch record.Outcome {
		case v1alpha1.OutcomeHeld:
			return held, why
		case v1alpha1.OutcomeRolledBack:
			return rolledBack, why
		case v1alpha1.OutcomeBlocked:
			return blocked, why
		case v1alpha1.OutcomeAborted:
			return superseded, fmt.Sprintf("the switch was aborted: spec.active was set back to %s", s.declared)
		case v1alpha1.OutcomeSuperseded:
			return superseded, fmt.Sprintf("spec.active was changed again before it was done, to %s", s.declared)
		}
		if s.declared != a.to || s.state.Active != a.to { // it was done, whatever came after
			return done, ""
		}
	}
	switch {
	case s.declared == "":
		return superseded, "the VirtualServer was deleted"
	case s.declared != a.to:
		return superseded, fmt.Sprintf("spec.active was changed again before it was done, to %s", s.declared)
	case !s.answered:
		return running, s.lacks
	case s.state.Phase == v1alpha1.PhaseBlocked && s.state.Deadline.IsZero():
		return blocked, s.state.Reason + ": " + s.state.Message
	case s.state.Phase == v1alpha1.PhaseRolledBack:
		return rolledBack, s.state.Reason + ": " + s.state.Message
	case s.state.Phase == v1alpha1.PhaseSteady && s.state.Active == a.to && s.verified:
		return done, ""
	case s.state.Phase == v1alpha1.PhaseSteady:
		return running, s.lacks
	}
	return running, cmp.Or(s.state.Message, s.lacks)
}

// record is the entry of the history that is this switch's, once it has ended.
func (a attempt) record(history []v1alpha1.SwitchRecord) (v1alpha1.SwitchRecord, bool) {
	added := newer(a.before.History, history)
	replaced := a.other && a.before.Phase == v1alpha1.PhaseBlocked && !a.before.Deadline.IsZero() && a.before.Target == a.to
	for _, r := range slices.Backward(added) { // oldest first
		if r.To != a.to {
			continue
		}
		if replaced && r.Outcome == v1alpha1.OutcomeBlocked && r.Started.Time.Equal(a.before.Started.Truncate(time.Second)) {
			replaced = false // the try of before, which this declaration ended
			continue
		}
		return r, true
	}
	return v1alpha1.SwitchRecord{}, false
}

// newer are the entries of a history that it has more than before, newest first.
func newer(before, now []v1alpha1.SwitchRecord) []v1alpha1.SwitchRecord {
	for n := range now {
		if rest := now[n:]; len(rest) <= len(before) && slices.EqualFunc(rest, before[:len(rest)], sameRecord) {
			return now[:n]
		}
	}
	return now
}

func sameRecord(a, b v1alpha1.SwitchRecord) bool {
	return a.From == b.From && a.To == b.To && a.Outcome == b.Outcome && a.Reason == b.Reason &&
		a.Started.Time.Equal(b.Started.Time) && a.Ended.Time.Equal(b.Ended.Time)
}

// settled is whether a state needs no change to answer what is declared: it rests there, or is on the way.
func settled(spec *v1alpha1.VirtualServerSpec, s rollout.State) bool {
	switch s.Phase {
	case v1alpha1.PhaseSteady:
		return s.Active == spec.Active
	case v1alpha1.PhaseStaging, v1alpha1.PhaseStepping:
		return s.Candidate == spec.Active && s.Declaration == rollout.Declaration(spec)
	case v1alpha1.PhaseSwitching, v1alpha1.PhaseObserving:
		return s.Active == spec.Active && s.Declaration == rollout.Declaration(spec)
	case v1alpha1.PhaseBlocked, v1alpha1.PhaseRolledBack:
		return s.Target == spec.Active && s.Declaration == rollout.Declaration(spec)
	}
	return false
}

// notAgain is whether a declaration is one that was blocked or rolled back, and is not tried again as it is.
func notAgain(spec *v1alpha1.VirtualServerSpec, s rollout.State) bool {
	over := s.Phase == v1alpha1.PhaseRolledBack || s.Phase == v1alpha1.PhaseBlocked && s.Deadline.IsZero()
	return over && settled(spec, s)
}

// patience is longer than the machine takes for a switch, whatever becomes of it: each of its waits has an end, but
// for a pause.
func patience(spec *v1alpha1.VirtualServerSpec) time.Duration {
	sw := &spec.Switch
	gate := sw.Gate.Timeout.Duration
	whole := 3*gate + noticed // for an endpoint, for the gate, for the nodes to switch
	for _, step := range sw.Steps {
		whole += gate + step.Hold.Duration
	}
	if sw.Observe != nil {
		whole += sw.Observe.Window.Duration + noticed
	}
	return whole
}

// noticed is how long a daemon may take to notice a declaration.
const noticed = 30 * time.Second
