package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/rollout"
)

const byStepsObserved = "{steps: [{weight: 10, hold: 1m}], observe: {window: 5m}, gate: {timeout: 1m}}"

// at plays until a phase is come to.
func at(t *testing.T, phase v1alpha1.Phase) *game {
	g := newGame(t, byStepsObserved)
	if phase == v1alpha1.PhaseSteady {
		return g
	}
	if phase == v1alpha1.PhaseBlocked {
		g.d.colours["v2"] = rollout.Colour{All: 2, Ready: 1}
	}
	g.to("v2", phase == v1alpha1.PhaseSwitching)
	g.stuck = phase == v1alpha1.PhaseStaging || phase == v1alpha1.PhaseSwitching
	if phase == v1alpha1.PhaseRolledBack {
		g.pass(2 * time.Minute)
		g.d.colours["v2"] = rollout.Colour{All: 2, Ready: 1}
	}
	for range 600 {
		if g.d.state.Phase == phase && (phase != v1alpha1.PhaseBlocked || g.d.state.Deadline.IsZero()) {
			return g
		}
		g.pass(time.Second)
	}
	require.FailNow(t, "it did not come to it", "%s: %+v", phase, g.d.state)
	return nil
}

// From every phase an abort comes to rest at the colour that had users before, with no force left.
func TestAbortFromEveryPhase(t *testing.T) {
	for phase, said := range map[v1alpha1.Phase]string{
		v1alpha1.PhaseStaging:    "gave up v2; v1 stays active (it was: Staging v2 while v1 is active",
		v1alpha1.PhaseStepping:   "gave up v2; v1 stays active (it was: Stepping from v1 to v2, step 1 of 1 with 10 %",
		v1alpha1.PhaseSwitching:  "gave up v2 after its cut-over; new connections go back to v1",
		v1alpha1.PhaseObserving:  "gave up v2 after its cut-over; new connections go back to v1 (it was: Observing v2, which is active",
		v1alpha1.PhaseBlocked:    "gave up v2; v1 stays active (it was: Blocked, v1 is active: 1 of 2 endpoints",
		v1alpha1.PhaseRolledBack: "gave up v2; v1 stays active (it was: RolledBack, v1 is active: ",
	} {
		t.Run(string(phase), func(t *testing.T) {
			g := at(t, phase)
			g.stuck = false
			g.d.spec.Switch.Force = "v2"
			i, err := toAbort(g.d)
			require.NoError(t, err)
			require.Contains(t, i.said, said)
			a := g.change(i.change)
			require.Equal(t, "v1", g.d.spec.Active)
			require.Empty(t, g.d.spec.Switch.Force)
			g.is(running, a, "")
			g.pass(10*time.Second).is(done, a, "")
			require.Equal(t, v1alpha1.PhaseSteady, g.d.state.Phase)
			require.Equal(t, "v1", g.d.state.Active)
			_, err = toAbort(g.d)
			require.ErrorContains(t, err, "no switch is under way; v1 is declared and active")
		})
	}
}

func TestAbortRefusals(t *testing.T) {
	g := at(t, v1alpha1.PhaseSteady)
	_, err := toAbort(g.d)
	require.ErrorContains(t, err, "no switch is under way; v1 is declared and active")
	_, err = toAbort(&declared{spec: g.d.spec})
	require.ErrorContains(t, err, "no daemon has served it yet")

	g = at(t, v1alpha1.PhaseObserving)
	g.d.colours["v1"] = rollout.Colour{All: 2}
	_, err = toAbort(g.d)
	require.ErrorContains(t, err, `there is no way back: colour "v1" has no ready endpoint`)

	g.d.colours["v1"] = rollout.Colour{All: 2, Ready: 2}
	g.stuck = true
	g.declare(toAbort(g.d))
	g.pass(time.Second)
	require.True(t, g.d.state.Rollback)
	_, err = toAbort(g.d)
	require.ErrorContains(t, err, "the rollback to v1, which is decided")
	_, err = toRollback(g.d)
	require.ErrorContains(t, err, "the rollback to v1 is under way already")

	first := newGame(t, "{observe: {window: 5m}}")
	first.d.state = rollout.State{}
	first.stuck, first.serving = true, ""
	first.pass(0)
	require.True(t, first.d.state.Committed())
	_, err = toAbort(first.d)
	require.ErrorContains(t, err, "v1 is the first colour")

	g = at(t, v1alpha1.PhaseStaging)
	g.d.spec.Switch.Paused = true
	i, err := toAbort(g.d)
	require.NoError(t, err)
	require.Contains(t, i.notes[0], "spec.switch.paused stays set")
}

func TestRollbackGoesBackOrSaysWhyNot(t *testing.T) {
	back := func(g *game) string {
		i, err := toRollback(g.d)
		if err != nil {
			return err.Error()
		}
		return *i.change.Active
	}
	g := newGame(t, "{}")
	assert.Contains(t, back(g), "it was never switched here")
	g.to("v2", false)
	assert.Equal(t, "v1", back(g), "a switch that has not cut over is taken back")
	g.pass(time.Minute)
	require.Equal(t, "v2", g.d.state.Active)
	assert.Equal(t, "v1", back(g))
	g.d.colours["v1"] = rollout.Colour{All: 2}
	assert.Contains(t, back(g), `colour "v1" has no ready endpoint on every port, so "v2" stays active`)
	delete(g.d.colours, "v1")
	g.pass(time.Second)
	require.Empty(t, g.d.state.Previous)
	assert.Contains(t, back(g), "v1 was itself gone back from, or had no endpoint left since; `pointsman switch default/myapp v1`")
}

// A force goes with the colour that it is for, and no further.
func TestForceIsTakenBack(t *testing.T) {
	g := newGame(t, "{steps: [{weight: 10, hold: 1h}]}")
	a := g.to("v2", true)
	require.Equal(t, "v2", g.d.spec.Switch.Force)
	g.pass(time.Second).is(done, a, "")
	g.to("v2", true)
	require.Empty(t, g.d.spec.Switch.Force, "v2 is active, and nothing is left to force")
	g.to("v3", true)
	g.to("v1", false)
	require.Empty(t, g.d.spec.Switch.Force)
	_, err := toSwitch(g.d, "v9", true)
	require.ErrorContains(t, err, "has no ready endpoint")
	g.d.spec.Switch.Paused = true
	i, err := toSwitch(g.d, "v3", false)
	require.NoError(t, err)
	require.Contains(t, i.notes[0], "`pointsman resume`")
}
