package rollout

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// TestRandomWalk: whatever comes in whatever order, nothing is moved to that cannot serve, nothing waits
// for ever without saying for what, and there is always a way to rest.
func TestRandomWalk(t *testing.T) {
	seen := map[v1alpha1.Phase]int{}
	rapid.Check(t, func(rt *rapid.T) {
		for range 30 { // the checks of one run are few, and a walk is cheap
			walk(rt, seen)
		}
	})
	for _, phase := range []v1alpha1.Phase{steady, staging, stepping, switching, observing, rolledBack, blocked} {
		require.NotZero(t, seen[phase], "the walk never came to %s", phase)
	}
}

func walk(rt *rapid.T, seen map[v1alpha1.Phase]int) {
	w := newWorld(rt, "{}")
	colours := []string{"v1", "v2", "v3"}
	specs := []string{
		"{}", "{paused: true}", "{gate: {timeout: 30s, minReady: 1}}", "{gate: {probe: {tcp: {}}, nodes: 50%}}",
		"{steps: [{weight: 10, hold: 20s}, {weight: 50, hold: 20s}]}", "{observe: {window: 30s}}", "{observe: {window: 30s, onFailure: Hold}}",
		"{steps: [{weight: 10, hold: 20s}], observe: {window: 30s, probe: {tcp: {}}}}", "{force: v2}",
		`{hooks: {before: {url: "http://a"}, after: {url: "http://a"}}, observe: {window: 30s, prometheus: {url: "http://a", query: up, min: "1"}}}`,
	}
	for range rapid.IntRange(1, 60).Draw(rt, "events") {
		before := w.s
		switch rapid.IntRange(0, 9).Draw(rt, "event") {
		case 0:
			w.declare(rapid.SampledFrom(colours).Draw(rt, "colour"))
		case 1:
			w.spec(w.in.Spec.Active, rapid.SampledFrom(specs).Draw(rt, "spec")).ask()
		case 2:
			all := rapid.IntRange(0, 3).Draw(rt, "all")
			w.in.Colours[rapid.SampledFrom(colours).Draw(rt, "of")] = Colour{all, rapid.IntRange(0, all).Draw(rt, "ready")}
			w.ask()
		case 3, 4, 5:
			w.follow()
		case 6:
			for i := range w.in.Nodes {
				if rapid.Bool().Draw(rt, "obeys") {
					w.obey(&w.in.Nodes[i])
				}
			}
			w.ask()
		case 7:
			w.later(time.Duration(rapid.IntRange(1, 130).Draw(rt, "seconds")) * time.Second)
		case 8:
			if w.want.Call != nil {
				w.answer(rapid.SampledFrom([]string{"", "refused"}).Draw(rt, "answer"))
			}
			w.in.Query = Query{Asked: w.in.Now, Answered: w.in.Now, Value: float64(rapid.IntRange(0, 1).Draw(rt, "value"))}
			w.ask()
		case 9:
			if len(w.in.Nodes) > 0 && rapid.Bool().Draw(rt, "signs") {
				n := &w.in.Nodes[0]
				n.Signs = []v1alpha1.Sign{{Colour: rapid.SampledFrom(colours).Draw(rt, "sign"), Reason: "HalfOpen", Message: "half open"}}
			} else {
				w.in.Nodes = w.in.Nodes[:rapid.IntRange(0, len(w.in.Nodes)).Draw(rt, "live")]
			}
			w.ask()
		}
		seen[w.s.Phase]++
		w.sound(before)
	}
	// However it came here, declaring what can serve leads to rest there.
	w.in.Nodes = []Node{{Name: "node1"}, {Name: "node2"}}
	w.in.Colours = map[string]Colour{"v1": {2, 2}, "v2": {2, 2}, "v3": {2, 2}}
	last := rapid.SampledFrom(colours).Draw(rt, "last")
	w.spec(last, `{gate: {timeout: 24h}, hooks: {before: {url: "http://b"}}}`).ask()
	for range 8 {
		w.follow()
		if w.want.Call != nil {
			w.answer("")
		}
		if !w.want.Due.IsZero() {
			w.later(max(0, w.want.Due.Sub(w.in.Now)))
		}
	}
	require.Equal(rt, []string{"Steady", last}, []string{string(w.s.Phase), w.s.Active}, "%s: %s", w.s.Reason, w.s.Message)
	require.Zero(rt, w.want)
}

// sound is what holds in every state that was come to from before.
func (w *world) sound(before State) {
	s := w.s
	if s.Active != before.Active {
		require.NotZero(w.t, w.in.Colours[s.Active].Ready, "moved to %s, which has nothing ready", s.Active)
	}
	if s.Active != before.Active || s.Candidate != before.Candidate || s.Weight != before.Weight {
		require.Greater(w.t, s.Decision, before.Decision)
	} else {
		require.GreaterOrEqual(w.t, s.Decision, before.Decision)
	}
	require.NotEqual(w.t, s.Active, s.Candidate)
	require.Equal(w.t, s.Phase == staging || s.Phase == stepping, s.Candidate != "", s.Phase)
	require.Equal(w.t, s.Phase == stepping, s.Weight > 0, s.Phase)
	require.LessOrEqual(w.t, len(s.History), v1alpha1.MaxHistory)
	if w.in.Spec.Switch.Paused {
		require.True(w.t, s.Active == before.Active || s.Rollback || s.Phase == rolledBack, "a paused switch was made")
	}
	switch s.Phase {
	case staging, stepping, switching, observing:
		require.True(w.t, !w.want.Due.IsZero() || s.Reason != "" && s.Message != "", "%s waits for nothing", s.Phase)
	case blocked, rolledBack:
		require.NotEmpty(w.t, s.Reason)
		require.NotEmpty(w.t, s.Message)
	}
	if len(s.History) > 0 && len(before.History) > 0 && !slices.Equal(before.History, s.History) {
		r := s.History[0]
		require.NotEqual(w.t, r.From, r.To)
		require.False(w.t, r.Ended.Before(&r.Started))
		if r.Outcome == v1alpha1.OutcomeSucceeded {
			require.Equal(w.t, s.Active == r.To || s.Target != r.To, true)
		}
	}
	require.False(w.t, !w.want.Due.IsZero() && !w.want.Due.After(w.in.Now), "due at once, again and again")
}
