package rollout

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// observe says what of the observed colour is not as declared, if anything, and whether that has been so for
// long enough for the switch to fail.
func (m *machine) observe() (failed bool, reason, message string) {
	colour := m.Observed(m.Spec)
	if colour == "" {
		return false, "", ""
	}
	m.want.Query = m.Spec.Switch.Observe.Prometheus != nil
	reason, message, forgiven := m.wrong(colour)
	if reason == "" {
		m.Failing = time.Time{}
		return false, "", ""
	}
	if m.Failing.IsZero() {
		m.Failing = m.Now
	}
	until := m.Failing.Add(forgiven)
	if m.Now.Before(until) {
		m.due(until)
		return false, reason, message
	}
	return true, reason, message
}

// wrong is what is wrong with the observed colour now, and for how long that is forgiven.
func (m *machine) wrong(colour string) (reason, message string, forgiven time.Duration) {
	o := m.Spec.Switch.Observe
	n := m.Colours[colour]
	need := Needed(o.MinReady, n.All)
	switch {
	case n.Ready == 0:
		return ReasonNoReadyEndpoint, fmt.Sprintf("%s has no ready endpoint on every port", colour), 0
	case n.Ready < need:
		return ReasonNotReady, fmt.Sprintf("%d of %d endpoints of %s are ready on every port, and spec.switch.observe.minReady asks for %d", n.Ready, n.All, colour, need), forgiveness
	}
	if o.Probe != nil && len(m.Nodes) > 0 {
		var wrong []string
		for i := range m.Nodes {
			if node := &m.Nodes[i]; node.Decision >= m.Decision {
				if lack := m.probe(node, colour, o.MinReady, false); lack != "" {
					wrong = append(wrong, node.Name+" "+lack)
				}
			}
		}
		if len(m.Nodes)-len(wrong) < m.nodesNeeded() {
			return ReasonProbeFailed, fmt.Sprintf("%s does not pass spec.switch.observe.probe: %s", colour, Some(wrong, maxNamed)), forgiveness
		}
	}
	if o.Connections == nil || *o.Connections {
		var signs []string
		for _, node := range m.Nodes {
			if node.Decision < m.Decision {
				continue
			}
			for _, sign := range node.Signs {
				if sign.Colour == colour {
					signs = append(signs, fmt.Sprintf("%s: %s", node.Name, sign.Message))
				}
			}
		}
		if len(signs) > 0 {
			return ReasonConnectionsFail, fmt.Sprintf("connections to %s fail, by the kernel's counters: %s", colour, Some(signs, maxNamed)), forgiveness
		}
	}
	return m.queried(o.Prometheus)
}

// queried is what is wrong with the figure that was asked for.
func (m *machine) queried(q *v1alpha1.PrometheusQuery) (reason, message string, forgiven time.Duration) {
	if q == nil {
		return "", "", 0
	}
	if answer := m.Query; answer.Answered.After(m.Started) {
		if high := bound(q.Max, math.Inf(1)); answer.Value > high {
			return ReasonQueryBeyondBound, fmt.Sprintf("spec.switch.observe.prometheus: %s gave %g, above the max of %s", q.Query, answer.Value, q.Max), 0
		}
		if low := bound(q.Min, math.Inf(-1)); answer.Value < low {
			return ReasonQueryBeyondBound, fmt.Sprintf("spec.switch.observe.prometheus: %s gave %g, below the min of %s", q.Query, answer.Value, q.Min), 0
		}
		return "", "", 0
	}
	if m.Phase == v1alpha1.PhaseSwitching || m.Since.IsZero() || m.Now.Before(m.Deadline) {
		return "", "", 0
	}
	why := m.Query.Err
	if why == "" {
		why = "no answer yet"
	}
	return ReasonQueryUnanswered, fmt.Sprintf("spec.switch.observe.prometheus: %s could not be answered once: %s", q.Query, why), queryGrace
}

func bound(text string, none float64) float64 {
	if v, err := strconv.ParseFloat(text, 64); err == nil {
		return v
	}
	return none
}

// before is what the hook before the cut-over keeps waiting; "" when nothing.
func (m *machine) before() (reason, message string) {
	h := m.Spec.Switch.Hooks
	if h == nil || h.Before == nil {
		return "", ""
	}
	told := m.Hooks.Before
	if told != nil && told.Succeeded {
		return "", ""
	}
	m.call(false, told)
	if told == nil {
		return ReasonHookPending, "waiting for the answer of spec.switch.hooks.before, " + h.Before.URL
	}
	return ReasonHookFailed, fmt.Sprintf("spec.switch.hooks.before, %s, failed: %s; it is called again", h.Before.URL, told.Message)
}

// told has the hook after the switch called.
func (m *machine) told() {
	if h := m.Spec.Switch.Hooks; h != nil && h.After != nil {
		m.Hooks.After = &v1alpha1.HookStatus{}
	}
}

// after wants the call of the hook after a switch, while it is owed.
func (m *machine) after() {
	told, h := m.Hooks.After, m.Spec.Switch.Hooks
	if told == nil || told.Succeeded || told.Calls >= afterCalls || h == nil || h.After == nil || m.want.Call != nil {
		return
	}
	m.call(true, told)
}

// call wants the next call of a hook, when it is time for it.
func (m *machine) call(after bool, told *v1alpha1.HookStatus) {
	next := Call{After: after, Decision: m.Decision, Number: 1}
	if told != nil {
		next.Number = told.Calls + 1
		if told.Last != nil {
			if again := told.Last.Add(hookAgain); m.Now.Before(again) {
				m.due(again)
				return
			}
		}
	}
	m.want.Call = &next
}

// answers takes what came of calls into the State, each once.
func (m *machine) answers() {
	for _, a := range m.Answers {
		told := &m.Hooks.Before
		if a.After {
			told = &m.Hooks.After
		}
		calls := int32(0)
		if *told != nil {
			calls = (*told).Calls
		}
		owed := m.Phase == v1alpha1.PhaseStaging
		if a.After {
			owed = *told != nil
		}
		if !owed || a.Decision != m.Decision || a.Number != calls+1 {
			continue
		}
		at := stamp(a.At)
		*told = &v1alpha1.HookStatus{Succeeded: a.Err == "", Calls: a.Number, Last: &at, Message: clip(a.Err, v1alpha1.MaxHookMessage)}
	}
}
