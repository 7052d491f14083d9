package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
)

func newSwitch(e env) *cobra.Command {
	var m mover
	var force bool
	c := &cobra.Command{
		Use:   "switch [NAMESPACE/]NAME COLOUR",
		Short: "Send a virtual server's new connections to another colour",
		Long: `Sets spec.active where the VirtualServer is declared, in the manifest or at the API server; the daemons
do the rest: stage it, wait for its gate, take its steps, cut over and observe it, as spec.switch says. A colour without a
ready endpoint is refused.

--force has it skip the gate and the steps, whatever they would find, by spec.switch.force: COLOUR, written with
spec.active at once. A switch without --force takes a force that is declared back.

--wait follows this switch to its end and tells the outcome by its exit status; on a terminal it shows the tree of
` + "`pointsman status`" + ` meanwhile, elsewhere a line for each change.
` + exitHelp,
		Example: "  pointsman switch myapp v2 --wait",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return m.run(e, c, args[0], func(d *declared) (*intent, error) { return toSwitch(d, args[1], force) })
		},
		ValidArgsFunction: completeNames,
	}
	m.define(c)
	c.Flags().BoolVar(&force, "force", false, "skip the gate and the steps; the colour needs a ready endpoint all the same")
	return c
}

func newRollback(e env) *cobra.Command {
	var m mover
	c := &cobra.Command{
		Use:   "rollback [NAMESPACE/]NAME",
		Short: "Send a virtual server's new connections back to the previous colour, at once",
		Long: `Switches to status.previous, the colour that was active before the present one; that is neither gated nor
observed. It is refused when there is none, or when it has no ready endpoint. While a switch has not cut over
yet, it is taken back, as abort does.
` + exitHelp,
		Example: "  pointsman rollback myapp --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return m.run(e, c, args[0], toRollback)
		},
		ValidArgsFunction: completeNames,
	}
	m.define(c)
	return c
}

// toSwitch is what `switch` declares.
func toSwitch(d *declared, colour string, force bool) (*intent, error) {
	if err := d.canBecome(colour); err != nil {
		return nil, err
	}
	forced := ""
	if force && colour != d.state.Active {
		forced = colour
	}
	i := d.toward(colour, forced)
	i.said = fmt.Sprintf("declared %s (was %s); `pointsman status` tells when it is done", colour, d.spec.Active)
	then := d.spec.DeepCopy()
	i.change.To(then)
	if notAgain(then, d.state) {
		return nil, fmt.Errorf("%s is declared already, and its switch is %s: %s; to try it again as it is: `pointsman abort %s --wait`, then this again, or --force",
			colour, d.state.Phase, d.state.Message, d.key)
	}
	if d.spec.Switch.Paused && colour != d.state.Active && colour != d.state.Previous {
		i.notes = append(i.notes, "spec.switch.paused holds it; `pointsman resume` lets it go on")
	}
	return i, nil
}

// toRollback is what `rollback` declares.
func toRollback(d *declared) (*intent, error) {
	s := &d.state
	to := s.Previous
	switch {
	case s.Active != "" && d.spec.Active != s.Active: // not cut over yet, or gone back from by itself
		to = s.Active
	case s.Rollback && s.Committed():
		return nil, fmt.Errorf("the rollback to %s is under way already", s.Active)
	case to == "" && s.Retiring == "":
		return nil, errors.New("there is no previous colour to go back to: it was never switched here")
	case to == "":
		return nil, fmt.Errorf("there is no previous colour to go back to: %s was itself gone back from, or had no endpoint left since; `pointsman switch %s %s` goes there by way of its gate",
			s.Retiring, d.key, s.Retiring)
	}
	if err := d.canBecome(to); err != nil {
		return nil, err
	}
	i := d.toward(to, "")
	i.said = fmt.Sprintf("declared %s (was %s); `pointsman status` tells when it is done", to, d.spec.Active)
	return i, nil
}

// toward is the declaration of a colour, and of a force or of none.
func (d *declared) toward(colour, force string) *intent {
	return &intent{change: endpoints.Change{Active: &colour, Force: &force}}
}

// canBecome is nil, or why a colour cannot become the active one.
func (d *declared) canBecome(colour string) error {
	if d.refused != nil {
		return fmt.Errorf("%s: %s", d.refused.Reason, d.refused.Message)
	}
	if d.colours[colour].Ready == 0 && colour != d.state.Active {
		return errors.New(rollout.NoReadyEndpoint(colour, d.state.Active, d.colours))
	}
	return nil
}

// standing says where a switch is, in a few words.
func (d *declared) standing() string {
	s := &d.state
	why := ""
	if s.Message != "" {
		why = ": " + s.Message
	}
	switch s.Phase {
	case v1alpha1.PhaseStaging:
		return fmt.Sprintf("%s %s while %s is active%s", s.Phase, s.Candidate, s.Active, why)
	case v1alpha1.PhaseStepping:
		return fmt.Sprintf("%s from %s to %s, step %d of %d with %d %%%s", s.Phase, s.Active, s.Candidate, s.Step, len(d.spec.Switch.Steps), s.Weight, why)
	case v1alpha1.PhaseSwitching:
		return fmt.Sprintf("%s from %s to %s, which is decided%s", s.Phase, s.Retiring, s.Active, why)
	case v1alpha1.PhaseObserving:
		return fmt.Sprintf("%s %s, which is active%s", s.Phase, s.Active, why)
	case v1alpha1.PhaseBlocked, v1alpha1.PhaseRolledBack:
		return fmt.Sprintf("%s, %s is active%s", s.Phase, s.Active, why)
	case "":
		return "no daemon has served it yet"
	}
	if d.spec.Active != s.Active {
		return fmt.Sprintf("%s is declared and not begun, %s is active", d.spec.Active, s.Active)
	}
	return fmt.Sprintf("no switch is under way, %s is active", s.Active)
}
