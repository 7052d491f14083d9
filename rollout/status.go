package rollout

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Times of a status have whole seconds. What is past is cut to them, and a deadline is the next one, so that a
// State read from a status never ends earlier than it should.

func stamp(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

func optional(t time.Time, up bool) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	whole := stamp(t)
	if up && whole.Time.Before(t) {
		whole.Time = whole.Add(time.Second)
	}
	return &whole
}

func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}

// Into puts a State into a status, and leaves the rest of that as it is.
func (s State) Into(out *v1alpha1.VirtualServerStatus) {
	out.Active, out.Previous, out.Retiring, out.Target = s.Active, s.Previous, s.Retiring, s.Target
	out.Candidate, out.Weight, out.Decision = s.Candidate, s.Weight, s.Decision
	out.Phase, out.Step, out.Rollback, out.Reason, out.Declaration = s.Phase, s.Step, s.Rollback, s.Reason, s.Declaration
	out.Message = clip(s.Message, v1alpha1.MaxReportMessage)
	out.Started, out.Since, out.Failing = optional(s.Started, false), optional(s.Since, false), optional(s.Failing, false)
	out.Deadline = optional(s.Deadline, true)
	out.Hooks = nil
	if s.Hooks != (v1alpha1.HooksStatus{}) {
		out.Hooks = s.Hooks.DeepCopy()
	}
	out.History = nil
	for i := range s.History {
		out.History = append(out.History, *s.History[i].DeepCopy())
	}
}

// FromStatus is the State that a status shows.
func FromStatus(in *v1alpha1.VirtualServerStatus) State {
	in = in.DeepCopy()
	s := State{
		Active: in.Active, Previous: in.Previous, Retiring: in.Retiring, Target: in.Target,
		Candidate: in.Candidate, Weight: in.Weight, Decision: in.Decision,
		Phase: in.Phase, Step: in.Step, Rollback: in.Rollback, Reason: in.Reason, Message: in.Message, Declaration: in.Declaration,
		Started: timeOf(in.Started), Since: timeOf(in.Since), Deadline: timeOf(in.Deadline), Failing: timeOf(in.Failing),
		History: in.History,
	}
	if in.Hooks != nil {
		s.Hooks = *in.Hooks
	}
	return s
}

// clip cuts s to a number of characters, as the API server counts them.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}
