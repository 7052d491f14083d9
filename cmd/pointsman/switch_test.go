package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// A switch by steps, observed, is followed to its end; and back.
func TestSwitchWaitsForTheEnd(t *testing.T) {
	inBoth(t, "{steps: [{weight: 10, hold: 1s}], observe: {window: 1s}}", func(t *testing.T, p place) {
		stdout, _ := does(t, p, 0, "switch", "myapp", "v2", "--wait")
		require.Contains(t, stdout, "Stepping to v2, step 1: 10 %")
		require.Contains(t, stdout, "Observing v2 until ")
		require.Contains(t, stdout, "default/myapp: new connections go to v2 only (was v1), read back from the kernel after ")
		require.Equal(t, v1alpha1.PhaseSteady, p.status().Phase)
		require.Equal(t, "v2", p.status().Active)
		stdout, _ = does(t, p, 0, "switch", "myapp", "v2", "--wait")
		require.Contains(t, stdout, "new connections go to v2 only (was v2)")
		stdout, _ = does(t, p, 0, "rollback", "myapp", "--wait")
		require.Contains(t, stdout, "new connections go to v1 only (was v2)")
		require.NotContains(t, stdout, "Observing", "a rollback is not observed")
		_, stderr := does(t, p, exitRefused, "rollback", "myapp", "--wait")
		require.Contains(t, stderr, "v2 was itself gone back from")
		stdout, _ = does(t, p, 0, "status", "myapp")
		require.Contains(t, stdout, "Steady v1")
		require.Contains(t, stdout, "v2 → v1  Succeeded")
	})
}

// A gate that does not hold; the ways out of it.
func TestSwitchBlocked(t *testing.T) {
	inBoth(t, "{gate: {timeout: 1s}}", func(t *testing.T, p place) {
		p.ready("v2", 1)
		require.Eventually(t, func() bool { return p.status().Colours[1].Ready == 1 }, soon, often)
		stdout, stderr := does(t, p, exitBlocked, "switch", "myapp", "v2", "--wait")
		require.Contains(t, stdout, "Staging v2, ")
		require.Contains(t, stderr, "v2 was blocked: NotReady: 1 of 2 endpoints")
		_, stderr = does(t, p, exitRefused, "switch", "myapp", "v2", "--wait")
		require.Contains(t, stderr, "its switch is Blocked")
		stdout, _, _ = statusOf(t, p)
		require.Contains(t, stdout, "Blocked v2  v1 stays active")

		stdout, _ = does(t, p, 0, "abort", "myapp", "--wait")
		require.Contains(t, stdout, "new connections go to v1 only (was v1)")
		require.Equal(t, v1alpha1.PhaseSteady, p.status().Phase)
		_, stderr = does(t, p, exitRefused, "abort", "myapp")
		require.Contains(t, stderr, "abort default/myapp refused, nothing was changed: no switch is under way; v1 is declared and active")

		_, _ = does(t, p, 0, "switch", "myapp", "v2", "--force", "--wait")
		require.Equal(t, "v2", p.status().Active)
		require.Equal(t, "v2", p.spec().Switch.Force)
		_, _ = does(t, p, 0, "switch", "myapp", "v1", "--wait")
		require.Empty(t, p.spec().Switch.Force)
		_, stderr = does(t, p, exitRefused, "switch", "myapp", "v3", "--force")
		require.Contains(t, stderr, "ready now: v1, v2")
	})
}

func statusOf(t *testing.T, p place, args ...string) (stdout, stderr string, status int) {
	status, stdout, stderr = call(t, append(append([]string{"status", "myapp"}, args...), p.args()...)...)
	return stdout, stderr, status
}

// An observation that fails ends the wait, and the status tells whether the new colour is left active.
func TestSwitchFailsItsObservation(t *testing.T) {
	for _, c := range []struct {
		how    string
		status int
		active string
		said   string
	}{
		{"Rollback", exitRolledBack, "v1", "v2 was rolled back: NoReadyEndpoint: v2 has no ready endpoint"},
		{"Hold", exitHeld, "v2", "v2 is active, and failed its observation: NoReadyEndpoint: v2 has no ready endpoint"},
	} {
		t.Run(c.how, func(t *testing.T) {
			inBoth(t, "{observe: {window: 10m, onFailure: "+c.how+"}}", func(t *testing.T, p place) {
				end := begin(t, p, "switch", "myapp", "v2", "--wait")
				comesTo(t, p, v1alpha1.PhaseObserving)
				p.ready("v2", 0)
				status, _, stderr := end()
				require.Equal(t, c.status, status, stderr)
				require.Contains(t, stderr, c.said)
				require.Equal(t, c.active, p.status().Active)
			})
		})
	}
}

// A pause holds what is under way, as often as it is said, and the wait goes on with it.
func TestPauseAndResume(t *testing.T) {
	inBoth(t, "", func(t *testing.T, p place) {
		stdout, _ := does(t, p, 0, "resume", "myapp")
		require.Contains(t, stdout, "was not paused: no switch is under way, v1 is active")
		stdout, _ = does(t, p, 0, "pause", "myapp")
		require.Contains(t, stdout, "paused: no switch is under way, v1 is active; the next one is held at its gate")
		_, stderr := does(t, p, exitTimeout, "switch", "myapp", "v2", "--wait", "--timeout", "3s")
		require.Contains(t, stderr, "note: spec.switch.paused holds it; `pointsman resume` lets it go on")
		require.Contains(t, stderr, "v2 is declared, but was not seen done within 3s: spec.switch.paused holds the switch here")
		stdout, _ = does(t, p, 0, "pause", "myapp")
		require.Contains(t, stdout, "was paused already: Staging v2 while v1 is active: spec.switch.paused holds")
		stdout, _, _ = statusOf(t, p)
		require.Contains(t, stdout, "Staging v2  ")
		require.Contains(t, stdout, "paused")
		end := begin(t, p, "switch", "myapp", "v2", "--wait")
		stdout, _ = does(t, p, 0, "resume", "myapp")
		require.Equal(t, "default/myapp: goes on: Staging v2 while v1 is active\n", stdout)
		status, _, stderr := end()
		require.Zero(t, status, stderr)
		require.False(t, p.spec().Switch.Paused)
	})
}

// Who waits is told when somebody else takes the switch back; and after the cut-over that is a rollback.
func TestSwitchIsAborted(t *testing.T) {
	inBoth(t, "{paused: true, observe: {window: 10m}}", func(t *testing.T, p place) {
		end := begin(t, p, "switch", "myapp", "v2", "--wait")
		comesTo(t, p, v1alpha1.PhaseStaging)
		stdout, stderr := does(t, p, 0, "abort", "myapp")
		require.Contains(t, stdout, "gave up v2; v1 stays active (it was: Staging v2 while v1 is active")
		require.Contains(t, stderr, "spec.switch.paused stays set")
		status, _, stderr := end()
		require.Equal(t, exitSuperseded, status, stderr)
		comesTo(t, p, v1alpha1.PhaseSteady)
		does(t, p, 0, "resume", "myapp")

		end = begin(t, p, "switch", "myapp", "v2", "--wait")
		comesTo(t, p, v1alpha1.PhaseObserving)
		stdout, _ = does(t, p, 0, "abort", "myapp", "--wait")
		require.Contains(t, stdout, "new connections go to v1 only (was v2)")
		status, _, stderr = end()
		require.Equal(t, exitSuperseded, status, stderr)
		require.Equal(t, "v1", p.status().Active)
		require.Equal(t, v1alpha1.OutcomeSucceeded, p.status().History[0].Outcome)
	})
}

// Without a daemon it is declared, and not done.
func TestSwitchWithNobodyThere(t *testing.T) {
	inBoth(t, "", func(t *testing.T, p place) {
		p.stop()
		_, stderr := does(t, p, exitTimeout, "switch", "myapp", "v2", "--wait", "--timeout", "1s")
		require.Contains(t, stderr, "v2 is declared, but was not seen done within 1s")
		require.Regexp(t, "the daemon has not seen the change yet|no daemon has seen the change yet", stderr)
		require.Equal(t, "v2", p.spec().Active)
		stdout, _ := does(t, p, 0, "abort", "myapp")
		require.Contains(t, stdout, "gave up v2; v1 stays active (it was: v2 is declared and not begun, v1 is active)")
		p.start()
	})
}
