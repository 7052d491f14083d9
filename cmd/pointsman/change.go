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
)

const exitHelp = `
Exit status:
  0  done; without --wait: declared
  1  failed: the message says why
  2  wrong usage
  3  refused, with nothing changed
and with --wait, of what was declared:
  4  timed out: not seen done within --timeout; it may be yet
  5  blocked: its gate did not hold; the colour before stays active
  6  rolled back: it failed its observation, and the colour before is active again
  7  held: it failed its observation, and spec.switch.observe.onFailure: Hold left it active
  8  superseded: somebody aborted it, or declared another colour, before it was done`

// mover is what commands share that declare another colour.
type mover struct {
	namespace string
	wait      bool
	timeout   time.Duration
}

func (m *mover) define(c *cobra.Command) {
	defineNamespace(c, &m.namespace)
	c.Flags().BoolVar(&m.wait, "wait", false, "follow it to its end, when the kernel of every node was read back as right")
	c.Flags().DurationVar(&m.timeout, "timeout", 0, "how long --wait waits (default: longer than the declared gate, steps and observation take)")
	define(c, keyManifests, keyStateDir, keyKubeconfig)
}

func defineNamespace(c *cobra.Command, namespace *string) {
	c.Flags().StringVarP(namespace, "namespace", "n", "default", "namespace of the VirtualServer")
}

// intent is what a command declares, and what it says then.
type intent struct {
	change endpoints.Change
	said   string   // without --wait
	notes  []string // that somebody should know either way
}

// run declares what decide gives for a VirtualServer, and follows it when that is asked for.
func (m *mover) run(e env, c *cobra.Command, arg string, decide func(*declared) (*intent, error)) error {
	ctx := c.Context()
	h, d, err := find(e, c, arg, m.namespace)
	if err != nil {
		return err
	}
	i, err := decide(d)
	if err != nil {
		return refused(c, d.key, err)
	}
	started := time.Now()
	written, err := h.change(ctx, d, i.change)
	if err != nil {
		return err
	}
	for _, note := range i.notes {
		fmt.Fprintf(e.stderr, "%s: note: %s\n", d.key, note)
	}
	if !m.wait {
		fmt.Fprintf(e.stdout, "%s: %s\n", d.key, i.said)
		return nil
	}
	w := waiting{
		env: e, verb: c.Name(), key: d.key, was: d.state.Active, started: started,
		attempt: attemptOf(written), follower: h.follower(written), timeout: m.timeout, notice: m.timeout,
	}
	if m.timeout == 0 {
		w.timeout, w.notice = patience(written.spec), noticed
	}
	return w.follow(ctx)
}

// find gives a VirtualServer that an argument names, and where it is declared.
func find(e env, c *cobra.Command, arg, namespace string) (home, *declared, error) {
	s, err := configure(e, c)
	if err != nil {
		return nil, nil, err
	}
	key := types.NamespacedName{Namespace: namespace, Name: arg}
	if of, name, qualified := strings.Cut(arg, "/"); qualified {
		if c.Flags().Changed("namespace") && of != namespace {
			return nil, nil, usage("%s and --namespace %s name different namespaces", arg, namespace)
		}
		key = types.NamespacedName{Namespace: of, Name: name}
	}
	h, err := s.home()
	if err != nil {
		return nil, nil, err
	}
	d, err := h.look(c.Context(), key)
	if errors.Is(err, endpoints.ErrNotFound) {
		return nil, nil, &exitError{exitRefused, err}
	}
	return h, d, err
}

func refused(c *cobra.Command, key types.NamespacedName, err error) error {
	return &exitError{exitRefused, fmt.Errorf("%s %s refused, nothing was changed: %w", c.Name(), key, err)}
}

// completeNames completes the names of VirtualServers, then, for switch, their colours.
func completeNames(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
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
			for colour := range d.colours {
				out = append(out, colour)
			}
		}
	}
	return out, none
}
