package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Times that are no declaration's.
const (
	hookAgain   = 10 * time.Second // between two calls of a hook that failed
	afterCalls  = 3                // of the hook after a switch, at most
	forgiveness = 5 * time.Second  // that an observation may fail before the switch does
	queryGrace  = 30 * time.Second // beyond the window, for a first answer
)

// Reasons of a State.
const (
	ReasonNoReadyEndpoint    = "NoReadyEndpoint"
	ReasonNotReady           = "NotReady"
	ReasonNoLiveNode         = "NoLiveNode"
	ReasonNodesNotStaged     = "NodesNotStaged"
	ReasonProbeFailed        = "ProbeFailed"
	ReasonPaused             = "Paused"
	ReasonHookPending        = "HookPending"
	ReasonHookFailed         = "HookFailed"
	ReasonNodesWaiting       = "NodesWaiting"
	ReasonConnectionsFail    = "ConnectionsFail"
	ReasonQueryBeyondBound   = "QueryBeyondBound"
	ReasonQueryUnanswered    = "QueryUnanswered"
	ReasonRollbackImpossible = "RollbackImpossible"
)

// Next is the State after s, and what it wants. Asked again with what it returned it returns the same.
func Next(s State, in Input) (State, Wants) {
	if s.atRest(in) {
		return s, Wants{} // nearly all are, nearly always
	}
	in.Now = in.Now.UTC().Round(0) // comparable
	m := machine{State: s, Input: in, declaration: Declaration(in.Spec)}
	m.History = slices.Clone(s.History)
	m.answers()
	for range 16 { // far more than transitions follow one another
		before := m.State
		m.want = Wants{}
		m.step()
		if m.State.Equal(before) {
			break
		}
	}
	m.after()
	return m.State, m.want
}

// atRest is whether Next would change nothing and want nothing, where that is cheap to tell.
func (s *State) atRest(in Input) bool {
	h := s.Hooks.After
	return s.Phase == v1alpha1.PhaseSteady && s.Active == in.Spec.Active && (s.Previous == "" || in.Colours[s.Previous].All > 0) &&
		(h == nil || h.Succeeded || h.Calls >= afterCalls)
}

type machine struct {
	State
	Input
	declaration string
	want        Wants
}

// step makes at most one transition.
func (m *machine) step() {
	want := m.Spec.Active
	if m.Phase == "" {
		m.Phase = v1alpha1.PhaseSteady // a State of before there were phases
	}
	if m.Active == "" {
		// Whatever is ready: there is nothing to keep.
		m.Target, m.Started, m.Declaration = want, stamp(m.Now).Time, m.declaration
		m.commit(want, false)
		return
	}
	switch m.Phase {
	case v1alpha1.PhaseStaging, v1alpha1.PhaseStepping:
		switch {
		case want == m.Active:
			m.record(v1alpha1.OutcomeAborted, "", "")
			m.rest(v1alpha1.PhaseSteady, "", "")
		case want != m.Candidate:
			m.record(v1alpha1.OutcomeSuperseded, "", "")
			m.begin(want)
		case m.Phase == v1alpha1.PhaseStaging:
			m.staging()
		default:
			m.stepping()
		}
	case v1alpha1.PhaseSwitching, v1alpha1.PhaseObserving:
		switch {
		case want != m.Active:
			m.record(v1alpha1.OutcomeSuperseded, "", "")
			m.begin(want)
		case m.Phase == v1alpha1.PhaseSwitching:
			m.switching()
		default:
			m.observing()
		}
	default:
		m.resting(want)
	}
}

// resting is Steady, RolledBack and Blocked.
func (m *machine) resting(want string) {
	if m.Previous != "" && m.Colours[m.Previous].All == 0 {
		m.Previous = "" // retired: what comes under its name is new, and goes through the gate
	}
	switch {
	case want == m.Active:
		if m.Phase != v1alpha1.PhaseSteady {
			m.gaveUp()
			m.rest(v1alpha1.PhaseSteady, "", "")
		}
	case m.Phase == v1alpha1.PhaseSteady || m.Declaration != m.declaration:
		m.gaveUp()
		m.begin(want)
	case !m.Deadline.IsZero(): // Blocked for want of an endpoint, and not for good yet
		switch {
		case m.Colours[want].Ready > 0:
			m.begin(want)
		case m.Now.Before(m.Deadline):
			m.noEndpoint(want)
			m.due(m.Deadline)
		default:
			m.block(m.Reason, m.Message)
		}
	}
}

// gaveUp records a switch that was Blocked, though not for good, and is not asked for any more.
func (m *machine) gaveUp() {
	if m.Phase == v1alpha1.PhaseBlocked && !m.Deadline.IsZero() {
		m.record(v1alpha1.OutcomeBlocked, m.Reason, m.Message)
	}
}

// begin starts a switch.
func (m *machine) begin(to string) {
	retried := m.Phase == v1alpha1.PhaseBlocked && !m.Deadline.IsZero() && m.Declaration == m.declaration
	m.rest(v1alpha1.PhaseSteady, "", "")
	if !retried {
		m.Started = stamp(m.Now).Time
	}
	m.Target, m.Declaration, m.Hooks = to, m.declaration, v1alpha1.HooksStatus{}
	deadline := m.Now.Add(m.Spec.Switch.Gate.Timeout.Duration)
	switch {
	case m.Colours[to].Ready == 0:
		m.Phase, m.Deadline = v1alpha1.PhaseBlocked, deadline
		m.noEndpoint(to)
	case to == m.Previous:
		m.commit(to, true)
	default:
		m.Phase, m.Candidate, m.Deadline = v1alpha1.PhaseStaging, to, deadline
		m.Decision++
	}
}

func (m *machine) noEndpoint(colour string) {
	m.Reason = ReasonNoReadyEndpoint
	m.Message = NoReadyEndpoint(colour, m.Active, m.Colours)
}

// commit is the decision: from now on nodes send new connections to colour only.
func (m *machine) commit(colour string, rollback bool) {
	retiring := m.Active
	m.rest(v1alpha1.PhaseSwitching, "", "")
	m.Previous, m.Retiring, m.Active, m.Rollback = retiring, retiring, colour, rollback
	if rollback {
		m.Previous = "" // it was gone back from: it goes through the gate the next time
	}
	m.Decision++
	m.Deadline = m.Now.Add(m.Spec.Switch.Gate.Timeout.Duration)
}

// rest drops what belongs to a switch that runs, the candidate included.
func (m *machine) rest(phase v1alpha1.Phase, reason, message string) {
	if m.Candidate != "" {
		m.Decision++
	}
	m.Phase, m.Candidate, m.Weight, m.Step, m.Rollback = phase, "", 0, 0, false
	m.Reason, m.Message = reason, message
	m.Since, m.Deadline, m.Failing = time.Time{}, time.Time{}, time.Time{}
}

// block ends a switch whose gate did not hold.
func (m *machine) block(reason, message string) {
	to := m.Target
	m.record(v1alpha1.OutcomeBlocked, reason, message)
	m.rest(v1alpha1.PhaseBlocked, reason, message+fmt.Sprintf("; %q stays active and the switch is not tried again by itself: "+
		"mend it and change spec.switch, force it with spec.switch.force: %s, or set spec.active back to %s", m.Active, to, m.Active))
}

// record puts a switch that ended into the history.
func (m *machine) record(outcome v1alpha1.SwitchOutcome, reason, message string) {
	from := m.Active
	if m.Committed() {
		from = m.Retiring
	}
	m.History = slices.Insert(m.History, 0, v1alpha1.SwitchRecord{
		From: from, To: m.Target, Started: stamp(m.Started), Ended: stamp(m.Now), Outcome: outcome, Reason: reason, Message: clip(message, v1alpha1.MaxHistoryMessage),
	})
	m.History = m.History[:min(len(m.History), v1alpha1.MaxHistory)]
}

func (m *machine) due(at time.Time) {
	if !at.IsZero() && (m.want.Due.IsZero() || at.Before(m.want.Due)) {
		m.want.Due = at
	}
}

// NoReadyEndpoint says why colour cannot become active while active is, and what to do.
func NoReadyEndpoint(colour, active string, colours map[string]Colour) string {
	var others []string
	for c, n := range colours {
		if c != "" && n.Ready > 0 {
			others = append(others, c)
		}
	}
	slices.Sort(others)
	can := "no colour has one now"
	if len(others) > 0 {
		can = "ready now: " + strings.Join(others, ", ")
	}
	return fmt.Sprintf("colour %q has no ready endpoint on every port, so %q stays active; make its endpoints ready or declare another colour (%s)",
		colour, active, can)
}
