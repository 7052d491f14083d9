package cluster

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// maxNote is what the API server takes of an Event's note.
const maxNote = 1024

// event is something an operator should see. All of it is in the status too.
type event struct{ kind, reason, action, note string }

// eventsBetween tells what happened between two statuses of a VirtualServer, in the order in which it did.
func eventsBetween(vs *v1alpha1.VirtualServer, before, after *v1alpha1.VirtualServerStatus) []event {
	var out []event
	add := func(kind, reason, action, format string, args ...any) {
		out = append(out, event{kind, reason, action, clipBytes(fmt.Sprintf(format, args...), maxNote)})
	}
	turned := func(kind string, to metav1.ConditionStatus) *metav1.Condition {
		was, is := meta.FindStatusCondition(before.Conditions, kind), meta.FindStatusCondition(after.Conditions, kind)
		if is == nil || is.Status != to || was != nil && was.Status == is.Status && (was.Reason == is.Reason || to == metav1.ConditionTrue) {
			return nil
		}
		return is
	}
	if turned(v1alpha1.ConditionAccepted, metav1.ConditionTrue) != nil {
		add(corev1.EventTypeNormal, "Accepted", "Accept", "the declaration is accepted")
	}
	if c := turned(v1alpha1.ConditionAccepted, metav1.ConditionFalse); c != nil {
		add(corev1.EventTypeWarning, c.Reason, "Refuse", "%s", c.Message)
	}
	from := ""
	if after.Retiring != "" {
		from = " from " + after.Retiring
	}
	entered := func(phase v1alpha1.Phase) bool { return after.Phase == phase && before.Phase != phase }
	made := len(after.History) > 0 && (len(before.History) == 0 || before.History[0] != after.History[0])
	if after.Active != before.Active && !entered(v1alpha1.PhaseRolledBack) && after.Phase == v1alpha1.PhaseSwitching {
		add(corev1.EventTypeNormal, "Switching", "Switch", "switching%s to %s", from, after.Active)
	}
	switch {
	case entered(v1alpha1.PhaseStaging):
		add(corev1.EventTypeNormal, "Staging", "Switch", "staging %s beside %s", after.Candidate, after.Active)
	case after.Phase == v1alpha1.PhaseStepping && after.Weight != before.Weight:
		add(corev1.EventTypeNormal, "Stepping", "Switch", "%s gets %d %% of new connections", after.Candidate, after.Weight)
	case entered(v1alpha1.PhaseObserving):
		add(corev1.EventTypeNormal, "Observing", "Switch", "switched%s to %s on every live node; it is observed now", from, after.Active)
	case entered(v1alpha1.PhaseRolledBack):
		add(corev1.EventTypeWarning, "RolledBack", "Switch", "%s", after.Message)
	case entered(v1alpha1.PhaseBlocked):
		add(corev1.EventTypeWarning, "Blocked", "Switch", "%s", after.Message)
	case entered(v1alpha1.PhaseSteady) && made:
		switch last := after.History[0]; last.Outcome {
		case v1alpha1.OutcomeSucceeded:
			add(corev1.EventTypeNormal, "Switched", "Switch", "switched%s to %s on every live node", from, after.Active)
		case v1alpha1.OutcomeHeld:
			add(corev1.EventTypeWarning, "Held", "Switch", "%s", after.Message)
		default:
			add(corev1.EventTypeNormal, "SwitchGivenUp", "Switch", "spec.active is %s again; the switch to %s was given up", after.Active, last.To)
		}
	case entered(v1alpha1.PhaseSteady) && (before.Phase == v1alpha1.PhaseBlocked || before.Phase == v1alpha1.PhaseRolledBack):
		add(corev1.EventTypeNormal, "SwitchGivenUp", "Switch", "spec.active is %s again", after.Active)
	}
	if h := after.Hooks; h != nil && h.After != nil && h.After.Calls > 0 && !h.After.Succeeded &&
		(before.Hooks == nil || before.Hooks.After == nil || before.Hooks.After.Calls < h.After.Calls) {
		add(corev1.EventTypeWarning, "HookFailed", "Switch", "spec.switch.hooks.after: %s", h.After.Message)
	}
	if c := turned(v1alpha1.ConditionHealthy, metav1.ConditionFalse); c != nil && c.Reason != reasonNotAccepted && c.Reason != reasonNothingServed {
		add(corev1.EventTypeWarning, "Unhealthy", "Serve", "%s", c.Message)
	}
	if c := turned(v1alpha1.ConditionSafeToRetire, metav1.ConditionTrue); c != nil {
		add(corev1.EventTypeNormal, "SafeToRetire", "Drain", "%s", c.Message)
	}
	return out
}

// clipBytes cuts s to a number of bytes, between characters.
func clipBytes(s string, most int) string {
	if len(s) <= most {
		return s
	}
	cut := most - len("…")
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + "…"
}
