package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/sync"
)

const exitHelp = `
Exit status: 0 done (without --wait: declared), 1 failed, 2 wrong usage,
3 refused, with nothing changed, 4 declared but not seen done within --timeout.`

// change are the flags that switch and rollback share.
type change struct {
	namespace string
	wait      bool
	timeout   time.Duration
}

func (f *change) define(c *cobra.Command) {
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "namespace of the VirtualServer")
	c.Flags().BoolVar(&f.wait, "wait", false, "return when the kernel was read back as right")
	c.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "how long --wait waits")
	define(c, keyManifests, keyStateDir, keyKubeconfig)
}

func newSwitch(e env) *cobra.Command {
	var f change
	c := &cobra.Command{
		Use:   "switch [NAMESPACE/]NAME COLOUR",
		Short: "Send a virtual server's new connections to another colour",
		Long: `Sets spec.active where the VirtualServer is declared, in the manifest or at the API server, and
nothing else; the daemons do the rest. A colour without a ready endpoint is refused.
` + exitHelp,
		Example: "  pointsman switch myapp v2 --wait",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c.Context(), e, c, args[0], func(*declared) (string, error) { return args[1], nil })
		},
		ValidArgsFunction: completeSwitch,
	}
	f.define(c)
	return c
}

func newRollback(e env) *cobra.Command {
	var f change
	c := &cobra.Command{
		Use:   "rollback [NAMESPACE/]NAME",
		Short: "Send a virtual server's new connections back to the previous colour",
		Long: `Switches to the colour that was active before the present one.
` + exitHelp,
		Example: "  pointsman rollback myapp --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c.Context(), e, c, args[0], func(d *declared) (string, error) {
				if d.active != d.state.Active && d.state.Active != "" {
					return d.state.Active, nil // a switch that has not been made yet is taken back
				}
				if d.state.Previous == "" {
					return "", errors.New("there is no previous colour to go back to: it was never switched here")
				}
				return d.state.Previous, nil
			})
		},
		ValidArgsFunction: completeSwitch,
	}
	f.define(c)
	return c
}

// run switches a virtual server to the colour that choose gives.
func (f *change) run(ctx context.Context, e env, c *cobra.Command, arg string, choose func(*declared) (string, error)) error {
	s, err := configure(e, c)
	if err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: f.namespace, Name: arg}
	if namespace, name, qualified := strings.Cut(arg, "/"); qualified {
		if c.Flags().Changed("namespace") && namespace != f.namespace {
			return usage("%s and --namespace %s name different namespaces", arg, f.namespace)
		}
		key = types.NamespacedName{Namespace: namespace, Name: name}
	}
	h, err := s.home()
	if err != nil {
		return err
	}
	d, err := h.look(ctx, key)
	if errors.Is(err, endpoints.ErrNotFound) {
		return &exitError{exitRefused, err}
	}
	if err != nil {
		return err
	}
	colour, err := choose(d)
	if err != nil {
		return refused(key, err)
	}
	if d.refused != nil {
		return refused(key, fmt.Errorf("%s: %s", d.refused.Reason, d.refused.Message))
	}
	if d.ready[colour] == 0 && colour != d.state.Active {
		return refused(key, errors.New(rollout.NoReadyEndpoint(colour, d.state.Active, d.colours())))
	}
	before := d.active
	await, err := h.set(ctx, d, colour)
	if err != nil {
		return err
	}
	if !f.wait {
		fmt.Fprintf(e.stdout, "%s: declared %s (was %s); `pointsman status` tells when it is done\n", key, colour, before)
		return nil
	}
	started := time.Now()
	waiting, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	err = await(waiting)
	var blocked *sync.BlockedError
	switch {
	case err == nil:
		fmt.Fprintf(e.stdout, "%s: new connections go to %s only (was %s), read back from the kernel after %s\n",
			key, colour, before, time.Since(started).Round(time.Millisecond))
		return nil
	case errors.As(err, &blocked):
		// The endpoints went away between our look and the daemon's: nothing is to stay changed.
		if _, undo := h.set(ctx, d, before); undo != nil {
			err = errors.Join(err, fmt.Errorf("taking the declaration back: %w", undo))
		}
		return refused(key, err)
	case errors.Is(err, context.DeadlineExceeded):
		return &exitError{exitTimeout, fmt.Errorf("switch %s: %s is declared, but was not seen done within %s: %w", key, colour, f.timeout, err)}
	}
	return err
}

func refused(key types.NamespacedName, err error) error {
	return &exitError{exitRefused, fmt.Errorf("switch %s refused, nothing was changed: %w", key, err)}
}

// completeSwitch completes the names of VirtualServers, then their colours.
func completeSwitch(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	none := cobra.ShellCompDirectiveNoFileComp
	s, err := configure(env{stderr: c.ErrOrStderr(), stdout: c.OutOrStdout()}, c)
	if err != nil {
		return nil, none
	}
	h, err := s.home()
	if err != nil {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Second)
	defer cancel()
	all, err := h.all(ctx)
	if err != nil {
		return nil, none
	}
	var out []string
	for _, d := range all {
		name := d.key.String()
		if d.key.Namespace == "default" {
			name = d.key.Name
		}
		switch {
		case len(args) == 0:
			out = append(out, name)
		case len(args) == 1 && (args[0] == name || args[0] == d.key.String()) && c.Name() == "switch":
			for colour := range d.ready {
				out = append(out, colour)
			}
		}
	}
	return out, none
}
