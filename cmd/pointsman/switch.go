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
	define(c, keyManifests, keyStateDir)
}

func newSwitch(e env) *cobra.Command {
	var f change
	c := &cobra.Command{
		Use:   "switch [NAMESPACE/]NAME COLOUR",
		Short: "Send a virtual server's new connections to another colour",
		Long: `Sets spec.active in the manifest that declares the VirtualServer, and nothing else in it;
the daemon does the rest. A colour without a ready endpoint is refused.
` + exitHelp,
		Example: "  pointsman switch myapp v2 --wait",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return f.run(c.Context(), e, c, args[0], func(*endpoints.Server, rollout.State) (string, error) { return args[1], nil })
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
			return f.run(c.Context(), e, c, args[0], func(s *endpoints.Server, state rollout.State) (string, error) {
				if s.Spec.Active != state.Active && state.Active != "" {
					return state.Active, nil // a switch that has not been made yet is taken back
				}
				if state.Previous == "" {
					return "", errors.New("there is no previous colour to go back to: it was never switched here")
				}
				return state.Previous, nil
			})
		},
		ValidArgsFunction: completeSwitch,
	}
	f.define(c)
	return c
}

// run switches a virtual server to the colour that choose gives.
func (f *change) run(ctx context.Context, e env, c *cobra.Command, arg string, choose func(*endpoints.Server, rollout.State) (string, error)) error {
	s, err := configure(e, c)
	if err != nil {
		return err
	}
	if err := s.needManifests(); err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: f.namespace, Name: arg}
	if namespace, name, qualified := strings.Cut(arg, "/"); qualified {
		if c.Flags().Changed("namespace") && namespace != f.namespace {
			return usage("%s and --namespace %s name different namespaces", arg, f.namespace)
		}
		key = types.NamespacedName{Namespace: namespace, Name: name}
	}
	snap, err := endpoints.Load(s.manifests, s.stateDir)
	if err != nil {
		return err
	}
	server, err := find(snap, key)
	if err != nil {
		return &exitError{exitRefused, err}
	}
	ledger, err := sync.LoadLedger(s.stateDir)
	if err != nil {
		return err
	}
	state := ledger.Rollouts[key]
	colour, err := choose(server, state)
	if err != nil {
		return refused(key, err)
	}
	if ready := sync.Ready(server); ready[colour] == 0 && server.Refused == nil && colour != state.Active {
		return refused(key, errors.New(rollout.NoReadyEndpoint(colour, server.Spec.Active, ready)))
	}
	if server.Refused != nil {
		return refused(key, fmt.Errorf("%s: %s", server.Refused.Reason, server.Refused.Message))
	}
	before, digest, err := endpoints.SetActive(s.manifests, key, colour)
	if err != nil {
		return err
	}
	if !f.wait {
		fmt.Fprintf(e.stdout, "%s: declared %s (was %s); `pointsman status` tells when it is done\n", key, colour, before)
		return nil
	}
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	err = sync.AwaitActive(ctx, s.stateDir, key, colour, digest)
	var blocked *sync.BlockedError
	switch {
	case err == nil:
		fmt.Fprintf(e.stdout, "%s: new connections go to %s only (was %s), read back from the kernel after %s\n",
			key, colour, before, time.Since(started).Round(time.Millisecond))
		return nil
	case errors.As(err, &blocked):
		// The endpoints went away between our look and the daemon's: nothing is to stay changed.
		if _, _, undo := endpoints.SetActive(s.manifests, key, before); undo != nil {
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

// find is the server of a snapshot; the error says which there are.
func find(snap *endpoints.Snapshot, key types.NamespacedName) (*endpoints.Server, error) {
	var names []string
	for i := range snap.Servers {
		if snap.Servers[i].Key == key {
			return &snap.Servers[i], nil
		}
		names = append(names, snap.Servers[i].Key.String())
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return nil, fmt.Errorf("there is no VirtualServer %s; declared: %s", key, strings.Join(names, ", "))
}

// completeSwitch completes the names of VirtualServers, then their colours.
func completeSwitch(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	none := cobra.ShellCompDirectiveNoFileComp
	s, err := configure(env{stderr: c.ErrOrStderr(), stdout: c.OutOrStdout()}, c)
	if err != nil || s.manifests == "" {
		return nil, none
	}
	snap, err := endpoints.Load(s.manifests, s.stateDir)
	if err != nil {
		return nil, none
	}
	var out []string
	for i := range snap.Servers {
		key := snap.Servers[i].Key
		name := key.String()
		if key.Namespace == "default" {
			name = key.Name
		}
		switch {
		case len(args) == 0:
			out = append(out, name)
		case len(args) == 1 && (args[0] == name || args[0] == key.String()) && c.Name() == "switch":
			for colour := range sync.Ready(&snap.Servers[i]) {
				out = append(out, colour)
			}
		}
	}
	return out, none
}
