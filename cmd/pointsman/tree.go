package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/rollout"
)

// Bounds on what is shown.
const (
	maxName    = 24 // characters of a colour or a node, beside other text
	maxTitle   = 48 // of a VirtualServer
	maxHistory = 3
	maxNamed   = 3 // nodes that a line names
	maxNodes   = 8 // lines of nodes below a colour, before those that say the same are put together
)

// server writes one VirtualServer as a tree: what the switch does, colours, nodes, what drains.
func (p painter) server(of *picture) {
	root := &limb{text: p.title(of)}
	p.notes(root, of)
	for _, v := range of.virtual {
		l := root.add("%s %s  %s", v.Key, v.Scheduler, plural(v.Serving, "real server", "real servers"))
		for _, at := range v.Steered {
			l.add("from %s", at)
		}
	}
	p.steering(root, of)
	p.colours(root, of)
	p.history(root, of)
	p.tree(root)
}

// title is the name, the phase and how far it is.
func (p painter) title(of *picture) string {
	s := &of.status
	text := p.paint(bold, shorten(of.key.String(), maxTitle)) + "  "
	nodes := func(n int32, what string) string {
		return fmt.Sprintf("%s%d of %s %s", p.bar(float64(n), float64(s.Nodes.Total)), n, plural(s.Nodes.Total, "node", "nodes"), what)
	}
	phase := func(format string, args ...any) string {
		colour := yellow
		switch {
		case s.Phase == v1alpha1.PhaseBlocked || s.Phase == v1alpha1.PhaseRolledBack:
			colour = red
		case s.Phase == v1alpha1.PhaseSteady && s.Nodes.Switched == s.Nodes.Total && s.Reason == "" && of.declared == s.Active:
			colour = green
		}
		return p.paint(colour, fmt.Sprintf(format, args...))
	}
	active, candidate := shorten(s.Active, maxName), shorten(s.Candidate, maxName)
	var parts []string
	due := func(what string) {
		if s.Deadline != nil {
			parts = append(parts, what+" "+p.at(s.Deadline.Time))
		}
	}
	switch s.Phase {
	case v1alpha1.PhaseStaging:
		parts = append(parts, phase("%s %s", s.Phase, candidate), nodes(s.Nodes.Staged, "staged"))
		due("blocked")
	case v1alpha1.PhaseStepping:
		step := fmt.Sprintf("step %d", s.Step)
		if of.spec != nil {
			step = fmt.Sprintf("%s of %d", step, len(of.spec.Switch.Steps))
		}
		parts = append(parts, phase("%s %s → %s", s.Phase, active, candidate), fmt.Sprintf("%s%s: %d %%", p.passed(s), step, s.Weight))
		if s.Since != nil {
			due("next")
		} else {
			parts = append(parts, fmt.Sprintf("given by %d of %s", s.Nodes.Staged, plural(s.Nodes.Total, "node", "nodes")))
			due("blocked")
		}
	case v1alpha1.PhaseSwitching:
		name := string(s.Phase)
		if s.Rollback {
			name = "Rolling back"
		}
		parts = append(parts, phase("%s %s → %s", name, shorten(s.Retiring, maxName), active), nodes(s.Nodes.Switched, "switched"))
		due("without the rest")
	case v1alpha1.PhaseObserving:
		parts = append(parts, phase("%s %s", s.Phase, active), p.passed(s)+"on "+plural(s.Nodes.Switched, "node", "nodes"))
		due("ends")
	case v1alpha1.PhaseRolledBack:
		parts = append(parts, phase("%s to %s", s.Phase, active), nodes(s.Nodes.Switched, "switched"))
	case v1alpha1.PhaseBlocked:
		parts = append(parts, phase("%s %s", s.Phase, shorten(cmp.Or(s.Target, of.declared), maxName)), active+" stays active")
		due("for good")
	case "":
		if of.declared == "" {
			parts = append(parts, p.paint(yellow, "no longer declared"))
			break
		}
		parts = append(parts, p.paint(yellow, "not served yet"))
	default:
		parts = append(parts, phase("%s %s", s.Phase, active), fmt.Sprintf("%d of %s", s.Nodes.Switched, plural(s.Nodes.Total, "node", "nodes")))
	}
	if of.spec != nil && of.spec.Switch.Paused {
		parts = append(parts, p.paint(yellow, "paused"))
	}
	return text + strings.Join(parts, "  ")
}

// passed is how much of a phase's time has.
func (p painter) passed(s *v1alpha1.VirtualServerStatus) string {
	if s.Since == nil || s.Deadline == nil {
		return ""
	}
	return p.bar(p.now.Sub(s.Since.Time).Seconds(), s.Deadline.Sub(s.Since.Time).Seconds())
}

// notes say what is waited for and what is wrong, each once.
func (p painter) notes(root *limb, of *picture) {
	s := &of.status
	var said []string
	reasons := map[string]bool{}
	note := func(reason, message string) {
		if reason != "" {
			reasons[reason] = true
		}
		if message != "" && slices.ContainsFunc(said, func(before string) bool { return strings.Contains(before, message) }) {
			return
		}
		said = append(said, message)
		text := reason
		if reason != "" && message != "" {
			text += ": "
		}
		root.add("%s %s", p.paint(yellow, "!"), text+message)
	}
	if s.Message != "" || s.Reason != "" {
		note(s.Reason, s.Message)
	}
	if s.Failing != nil {
		root.add("%s the observation fails %s", p.paint(red, "✗"), p.since(s.Failing.Time))
	}
	for _, c := range s.Conditions {
		switch {
		case c.Status == metav1.ConditionTrue || c.Type == v1alpha1.ConditionSafeToRetire:
		case reasons[c.Reason] && (c.Type == v1alpha1.ConditionStaged || c.Type == v1alpha1.ConditionSwitched): // as the phase says
		default:
			note(c.Reason, c.Message)
		}
	}
	if s.Hooks != nil {
		for _, h := range []struct {
			name string
			hook *v1alpha1.HookStatus
		}{{"before", s.Hooks.Before}, {"after", s.Hooks.After}} {
			if h.hook != nil && !h.hook.Succeeded && h.hook.Calls > 0 {
				note("", fmt.Sprintf("hook %s the switch failed %s: %s", h.name, plural(h.hook.Calls, "time", "times"), h.hook.Message))
			}
		}
	}
	if of.spec != nil && of.spec.Switch.Paused && s.Reason != rollout.ReasonPaused {
		note("", "spec.switch.paused is set: a switch waits at its gate until `pointsman resume`")
	}
	if dead := s.Nodes.Dead; len(dead) > 0 {
		note("", fmt.Sprintf("not alive, and not counted: %s; what is shown of such a node is what it said last", rollout.Some(dead, maxNamed)))
	}
}

// steering says how nodes key their virtual servers, where that needs a word.
func (p painter) steering(root *limb, of *picture) {
	type how struct {
		steering v1alpha1.Steering
		reason   string
	}
	nodes := map[how][]string{}
	for _, n := range of.nodes {
		if e := n.entry; e != nil && e.SteeringReason != "" && e.SteeringReason != "declared" {
			nodes[how{e.Steering, e.SteeringReason}] = append(nodes[how{e.Steering, e.SteeringReason}], n.name)
		}
	}
	var lines []string
	for h, names := range nodes {
		on := ""
		if len(names) < len(of.nodes) {
			on = " on " + rollout.Some(names, maxNamed)
		}
		lines = append(lines, fmt.Sprintf("steering: %s%s, since %s", h.steering, on, h.reason))
	}
	slices.Sort(lines)
	for _, line := range lines {
		root.add("%s %s", p.paint(dim, "i"), line)
	}
}

// history shows the last switches.
func (p painter) history(root *limb, of *picture) {
	all := of.status.History
	if len(all) == 0 {
		return
	}
	h := root.add("%s", p.paint(dim, "last switches"))
	for _, r := range all[:min(len(all), maxHistory)] {
		colour := green
		switch r.Outcome {
		case v1alpha1.OutcomeAborted, v1alpha1.OutcomeSuperseded:
			colour = yellow
		case v1alpha1.OutcomeBlocked, v1alpha1.OutcomeHeld, v1alpha1.OutcomeRolledBack:
			colour = red
		}
		from := ""
		if r.From != "" {
			from = shorten(r.From, maxName) + " → "
		}
		text := fmt.Sprintf("%s  %s%s  %s after %s", stampText(r.Ended.Time), from, shorten(r.To, maxName),
			p.paint(colour, string(r.Outcome)), short(r.Ended.Sub(r.Started.Time)))
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		h.add("%s", text)
	}
}

// safeToRetire is the condition, when it holds.
func safeToRetire(s *v1alpha1.VirtualServerStatus) *metav1.Condition {
	if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionSafeToRetire); c != nil && c.Status == metav1.ConditionTrue {
		return c
	}
	return nil
}
