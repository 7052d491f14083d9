package rollout

import (
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// take goes to a step, from 1; beyond the last one is the cut-over.
func (m *machine) take(step int32) {
	if int(step) > len(m.Spec.Switch.Steps) {
		m.commit(m.Candidate, false)
		return
	}
	m.Step, m.Weight = step, m.Spec.Switch.Steps[step-1].Weight
	m.Decision++
	m.Reason, m.Message = "", ""
	m.Since, m.Deadline = time.Time{}, m.Now.Add(m.Spec.Switch.Gate.Timeout.Duration)
}

// stepping holds the candidate's share, first until the nodes give it and then for as long as is declared.
func (m *machine) stepping() {
	m.Declaration = m.declaration
	switch {
	case m.Colours[m.Candidate].Ready == 0:
		m.block(ReasonNoReadyEndpoint, NoReadyEndpoint(m.Candidate, m.Active, m.Colours))
		return
	case int(m.Step) > len(m.Spec.Switch.Steps) && !m.Spec.Switch.Paused, m.Spec.Switch.Force == m.Candidate && !m.Spec.Switch.Paused:
		m.commit(m.Candidate, false)
		return
	}
	failed, reason, message := m.observe()
	if failed {
		if m.Spec.Switch.Observe.OnFailure == v1alpha1.FailureRollback {
			m.record(v1alpha1.OutcomeRolledBack, reason, message)
			m.rest(v1alpha1.PhaseRolledBack, reason, message+"; all new connections go to "+m.Active+" again; "+notAgain(m.Active))
			m.told()
			return
		}
		// Held here for as long as it fails. That ends by itself, or by hand.
		m.Reason, m.Message = reason, message+"; spec.switch.observe.onFailure: Hold keeps the share as it is until this ends"
		m.Since, m.Deadline = time.Time{}, time.Time{}
		return
	}
	if m.Spec.Switch.Paused {
		m.pause(message)
		return
	}
	m.unpause()
	if m.Since.IsZero() {
		waiting, why := m.await(ReasonNodesWaiting, func(n *Node) string {
			if n.Staged != m.Candidate || n.Weight != m.Weight {
				return "does not give the share yet"
			}
			return ""
		})
		if waiting != "" {
			m.Reason, m.Message = waiting, why
			if !m.Now.Before(m.Deadline) {
				m.block(waiting, why)
				return
			}
			m.due(m.Deadline)
			return
		}
		m.Since = m.Now
		m.Deadline = m.Now.Add(m.Spec.Switch.Steps[m.Step-1].Hold.Duration)
	}
	m.Reason, m.Message = reason, message
	if m.Now.Before(m.Deadline) {
		m.due(m.Deadline)
		return
	}
	if reason != "" {
		return // the observation fails, though not for long enough yet; observe has said when it will
	}
	m.take(m.Step + 1)
}

// switching waits until every live node was read back to serve the new colour only.
func (m *machine) switching() {
	m.Declaration = m.declaration
	if failed, reason, message := m.observe(); failed {
		m.failed(reason, message)
		return
	}
	waiting, why := m.awaitAll(func(n *Node) string {
		if n.Serving != m.Active {
			return "does not serve " + m.Active + " only yet"
		}
		return ""
	})
	if waiting != "" && m.Now.Before(m.Deadline) {
		m.Reason, m.Message = waiting, why
		m.due(m.Deadline)
		return
	}
	// A node that cannot follow does not keep the others from being watched; it is named by a condition.
	if m.Observed(m.Spec) == "" {
		m.done(v1alpha1.OutcomeSucceeded, waiting, why)
		return
	}
	m.Phase, m.Reason, m.Message = v1alpha1.PhaseObserving, "", ""
	m.Since, m.Deadline = m.Now, m.Now.Add(m.Spec.Switch.Observe.Window.Duration)
}

// awaitAll is await for every live node, whatever the gate asks for.
func (m *machine) awaitAll(lacks func(*Node) string) (reason, message string) {
	all := *m
	spec := *m.Spec
	spec.Switch.Gate.Nodes = v1alpha1.GateNodesAll
	all.Spec = &spec
	return all.await(ReasonNodesWaiting, lacks)
}

// observing watches the new colour for the window.
func (m *machine) observing() {
	m.Declaration = m.declaration
	if m.Observed(m.Spec) == "" { // not wanted any more
		m.done(v1alpha1.OutcomeSucceeded, "", "")
		return
	}
	m.Deadline = m.Since.Add(m.Spec.Switch.Observe.Window.Duration)
	failed, reason, message := m.observe()
	if failed {
		m.failed(reason, message)
		return
	}
	m.Reason, m.Message = reason, message
	switch {
	case m.Now.Before(m.Deadline):
		m.due(m.Deadline)
	case reason == "":
		m.done(v1alpha1.OutcomeSucceeded, "", "")
	}
}

// failed ends a switch whose observation failed after the cut-over.
func (m *machine) failed(reason, message string) {
	back := m.Previous
	switch {
	case m.Spec.Switch.Observe.OnFailure == v1alpha1.FailureHold:
		m.done(v1alpha1.OutcomeHeld, reason, message+"; spec.switch.observe.onFailure: Hold leaves "+m.Active+" active")
	case m.Colours[back].Ready == 0:
		// It may come back, and this one may recover; at the end of the window it is said, and left.
		m.Reason = ReasonRollbackImpossible
		m.Message = message + "; and " + back + ", where a rollback would go, has no ready endpoint on every port"
		end := m.Deadline.Add(forgiveness)
		if m.Now.Before(end) {
			m.due(end)
			return
		}
		m.done(v1alpha1.OutcomeHeld, m.Reason, m.Message)
	default:
		m.record(v1alpha1.OutcomeRolledBack, reason, message)
		bad := m.Active
		m.rest(v1alpha1.PhaseRolledBack, reason, message+"; "+back+" is active again; "+notAgain(back))
		m.Active, m.Previous, m.Retiring = back, "", bad
		m.Decision++
		m.told()
	}
}

func notAgain(active string) string {
	return "the switch is not tried again until spec.active or spec.switch changes (`pointsman abort` sets spec.active to " + active + ")"
}

// done ends a switch with the new colour active.
func (m *machine) done(outcome v1alpha1.SwitchOutcome, reason, message string) {
	m.record(outcome, reason, message)
	if outcome == v1alpha1.OutcomeSucceeded {
		reason, message = "", "" // conditions say what nodes lack now
	}
	m.rest(v1alpha1.PhaseSteady, reason, message)
	m.told()
}
