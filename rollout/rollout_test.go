package rollout

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

func TestNext(t *testing.T) {
	steady := State{Active: "v1", Previous: "v0", Phase: v1alpha1.PhaseSteady}
	cases := []struct {
		name     string
		from     State
		declared string
		ready    map[string]int
		active   string
		previous string
		phase    v1alpha1.Phase
	}{
		{"first decision", State{}, "v1", map[string]int{"v1": 3}, "v1", "", v1alpha1.PhaseSteady},
		{"first decision with nothing ready", State{}, "v1", nil, "v1", "", v1alpha1.PhaseSteady},
		{"nothing asked", steady, "v1", map[string]int{"v1": 3}, "v1", "v0", v1alpha1.PhaseSteady},
		{"active colour lost its endpoints", steady, "v1", map[string]int{"v2": 3}, "v1", "v0", v1alpha1.PhaseSteady},
		{"switch", steady, "v2", map[string]int{"v1": 3, "v2": 1}, "v2", "v1", v1alpha1.PhaseSteady},
		{"switch to nothing ready", steady, "v2", map[string]int{"v1": 3}, "v1", "v0", v1alpha1.PhaseBlocked},
		{"out of blocked by declaring the active colour", State{Active: "v1", Phase: v1alpha1.PhaseBlocked, Reason: "NoReadyEndpoint"}, "v1", nil, "v1", "", v1alpha1.PhaseSteady},
		{"out of blocked by endpoints", State{Active: "v1", Phase: v1alpha1.PhaseBlocked}, "v2", map[string]int{"v2": 1}, "v2", "v1", v1alpha1.PhaseSteady},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := Next(c.from, c.declared, c.ready)
			assert.Equal(t, c.active, got.Active)
			assert.Equal(t, c.previous, got.Previous)
			assert.Equal(t, c.phase, got.Phase)
			assert.Equal(t, c.phase == v1alpha1.PhaseBlocked, got.Reason != "" && got.Message != "")
		})
	}
}

// However it is driven, a rollout never moves to a colour that cannot serve, settles at once, and
// never sticks: declaring a colour that is ready always leads to it.
func TestNextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		colour := rapid.SampledFrom([]string{"v1", "v2", "v3"})
		var s State
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			declared := colour.Draw(t, "declared")
			ready := rapid.MapOf(colour, rapid.IntRange(0, 3)).Draw(t, "ready")
			next := Next(s, declared, ready)
			if s.Active != "" && next.Active != s.Active && ready[next.Active] == 0 {
				t.Fatalf("moved to %q, which has nothing ready", next.Active)
			}
			assert.Equal(t, next, Next(next, declared, ready))
			s = next
		}
		assert.Equal(t, State{Active: "v2", Previous: Next(s, "v2", map[string]int{"v2": 1}).Previous, Phase: v1alpha1.PhaseSteady},
			Next(s, "v2", map[string]int{"v2": 1}))
	})
}
