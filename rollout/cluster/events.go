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
	running := before.Phase == v1alpha1.PhaseSwitching || before.Phase == v1alpha1.PhaseBlocked
	switch {
	case after.Active != before.Active && after.Active == vs.Spec.Active:
		from := ""
		if before.Active != "" {
			from = " from " + before.Active
		}
		add(corev1.EventTypeNormal, "Switched", "Switch", "switched%s to %s on every live node", from, after.Active)
	case after.Phase == v1alpha1.PhaseSwitching && before.Phase != after.Phase:
		from := ""
		if before.Active != "" {
			from = " from " + before.Active
		}
		add(corev1.EventTypeNormal, "Switching", "Switch", "switching%s to %s", from, vs.Spec.Active)
	case after.Phase == v1alpha1.PhaseSteady && running && after.Active == vs.Spec.Active && stagedFalse(before):
		add(corev1.EventTypeNormal, "SwitchGivenUp", "Switch", "spec.active is %s again; every live node serves it", after.Active)
	}
	if c := turned(v1alpha1.ConditionSwitched, metav1.ConditionFalse); c != nil && after.Phase == v1alpha1.PhaseBlocked && c.Reason != reasonNotAccepted {
		add(corev1.EventTypeWarning, "Blocked", "Switch", "%s", c.Message)
	}
	if c := turned(v1alpha1.ConditionHealthy, metav1.ConditionFalse); c != nil && c.Reason != reasonNotAccepted && c.Reason != reasonNothingServed {
		add(corev1.EventTypeWarning, "Unhealthy", "Serve", "%s", c.Message)
	}
	if c := turned(v1alpha1.ConditionSafeToRetire, metav1.ConditionTrue); c != nil {
		add(corev1.EventTypeNormal, "SafeToRetire", "Drain", "%s", c.Message)
	}
	return out
}

func stagedFalse(s *v1alpha1.VirtualServerStatus) bool {
	return meta.IsStatusConditionFalse(s.Conditions, v1alpha1.ConditionStaged)
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
