package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
)

func newAbort(e env) *cobra.Command {
	var m mover
	c := &cobra.Command{
		Use:   "abort [NAMESPACE/]NAME",
		Short: "Give up the switch that is under way",
		Long: `Gives up the switch that is under way, whatever it is at, and says what that was:

  before its cut-over (Staging, Stepping), and when it is Blocked or RolledBack: sets spec.active back to the
  colour that is active; a share that the candidate had goes back at once;
  after its cut-over (Switching, Observing): goes back to the colour before at once, as rollback does.

A spec.switch.force is taken back too. It is refused when nothing is under way.
` + exitHelp,
		Example: "  pointsman abort myapp --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return m.run(e, c, args[0], toAbort)
		},
		ValidArgsFunction: completeNames,
	}
	m.define(c)
	return c
}

// toAbort is what `abort` declares.
func toAbort(d *declared) (*intent, error) {
	s := &d.state
	var i *intent
	switch {
	case s.Active == "":
		return nil, errors.New("no daemon has served it yet, so there is nothing to give up")
	case d.spec.Active != s.Active:
		i = d.toward(s.Active, "")
		i.said = fmt.Sprintf("gave up %s; %s stays active (it was: %s)", d.spec.Active, s.Active, d.standing())
	case s.Candidate != "":
		i = d.toward(s.Active, "")
		i.said = fmt.Sprintf("is being given up already; %s stays active", s.Active)
	case !s.Committed():
		return nil, fmt.Errorf("no switch is under way; %s is declared and active", s.Active)
	case s.Rollback:
		return nil, fmt.Errorf("what is under way is the rollback to %s, which is decided; `pointsman switch %s COLOUR` goes elsewhere", s.Active, d.key)
	case s.Previous == "":
		return nil, fmt.Errorf("%s is the first colour, and there is none before it to go back to", s.Active)
	case d.colours[s.Previous].Ready == 0:
		return nil, fmt.Errorf("it has cut over, and there is no way back: %s", rollout.NoReadyEndpoint(s.Previous, s.Active, d.colours))
	default:
		i = d.toward(s.Previous, "")
		i.said = fmt.Sprintf("gave up %s after its cut-over; new connections go back to %s (it was: %s)", s.Active, s.Previous, d.standing())
	}
	if d.spec.Switch.Paused {
		i.notes = append(i.notes, "spec.switch.paused stays set and holds the next switch; `pointsman resume` takes it back")
	}
	return i, nil
}

func newPause(e env) *cobra.Command {
	return pausing(e, true, &cobra.Command{
		Use:   "pause [NAMESPACE/]NAME",
		Short: "Hold a switch where it is: no step, no cut-over",
		Long: `Sets spec.switch.paused: a switch that is under way takes no step and does not cut over, and the time of its
gate does not run. A share that the candidate has stays, and is observed: a failed observation still rolls back. When nothing
is under way the next switch is held at its gate. What has cut over is not held, nor is a rollback.

Exit status: 0 paused, also when it was, 1 failed, 2 wrong usage, 3 refused, with nothing changed.`,
		Example: "  pointsman pause myapp",
	})
}

func newResume(e env) *cobra.Command {
	return pausing(e, false, &cobra.Command{
		Use:   "resume [NAMESPACE/]NAME",
		Short: "Let a switch that is paused go on",
		Long: `Takes spec.switch.paused back: the gate's time, and that of the step, begin anew.

Exit status: 0 not paused, also when it was not, 1 failed, 2 wrong usage, 3 refused, with nothing changed.`,
		Example: "  pointsman resume myapp",
	})
}

// pausing makes pause or resume of a command.
func pausing(e env, paused bool, c *cobra.Command) *cobra.Command {
	var namespace string
	c.Args, c.ValidArgsFunction = cobra.ExactArgs(1), completeNames
	c.RunE = func(c *cobra.Command, args []string) error {
		h, d, err := find(e, c, args[0], namespace)
		if err != nil {
			return err
		}
		said := map[bool]string{true: "paused", false: "goes on"}[paused]
		if d.spec.Switch.Paused == paused {
			said = map[bool]string{true: "was paused already", false: "was not paused"}[paused]
		} else if _, err := h.change(c.Context(), d, endpoints.Change{Paused: &paused}); err != nil {
			return err
		}
		held := ""
		switch s := &d.state; {
		case !paused && s.Reason == rollout.ReasonPaused:
			s.Message = "" // of before
		case !paused:
		case s.Committed():
			held = "; what has cut over is not held, the next switch is"
		case d.spec.Active == s.Active && s.Candidate == "":
			held = "; the next one is held at its gate"
		}
		fmt.Fprintf(e.stdout, "%s: %s: %s%s\n", d.key, said, d.standing(), held)
		return nil
	}
	defineNamespace(c, &namespace)
	define(c, keyManifests, keyStateDir, keyKubeconfig)
	return c
}
