package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/sync"
)

func newStatus(e env) *cobra.Command {
	var output string
	var watch bool
	c := &cobra.Command{
		Use:   "status [[NAMESPACE/]NAME]",
		Short: "Each virtual server as a tree: phase, colours, nodes, what drains",
		Long: `Shows what the daemon of the state directory saw at its last pass: where a switch stands and what it
waits for, the colours, what drains, and what is wrong. With --kubeconfig it shows what the API server
knows of all nodes. --watch shows it as it changes: in place on a terminal, elsewhere a block each time.

Exit status: 0 healthy, 1 not: a pass failed, a manifest is bad or no daemon runs.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			if output != "" && output != "json" {
				return usage("--output %q: want json", output)
			}
			name := ""
			if len(args) == 1 {
				name = qualified(args[0])
			}
			look, interval := s.localStatus, localInterval
			if s.kubeconfig != "" {
				look, interval = s.clusterStatus, clusterInterval
			}
			if watch {
				return watchStatus(c.Context(), e, look, name, output, interval)
			}
			r, err := look(c.Context(), name)
			if err != nil {
				return err
			}
			if output == "json" {
				if err := r.encode(e.stdout); err != nil {
					return err
				}
			} else {
				p := painterFor(e.stdout)
				if p.now.IsZero() {
					p.now = time.Now() // shown once: how long is left says more than until when
				}
				p.report(r)
			}
			return r.unhealthy
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json: everything, for programs")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again as it changes, until interrupted")
	define(c, keyManifests, keyKubeconfig, keyStateDir)
	return c
}

// How often is looked while somebody watches.
const (
	localInterval   = 200 * time.Millisecond
	clusterInterval = time.Second
)

// statusReport is what a look gave.
type statusReport struct {
	head      []string // about the node
	headMark  string   // its colour
	servers   []picture
	json      any
	unhealthy error // nil: healthy
}

func (r *statusReport) encode(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r.json)
}

func watchStatus(ctx context.Context, e env, look func(context.Context, string) (*statusReport, error), name, output string, interval time.Duration) error {
	view, last := live{env: e}, &statusReport{}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		r, err := look(ctx, name)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			gone := *last // what was seen last stands above why there is nothing newer
			gone.unhealthy = err
			r = &gone
		}
		last = r
		if output == "json" {
			var b strings.Builder
			if err != nil {
				fmt.Fprintf(e.stderr, "pointsman: %v\n", err)
			} else if err := r.encode(&b); err != nil {
				return err
			}
			if text := b.String(); text != "" && text != view.last {
				fmt.Fprint(e.stdout, text)
				view.last = text
			}
		} else {
			view.show(func(p painter) {
				p.report(r)
				if r.unhealthy != nil {
					for _, line := range wrap(r.unhealthy.Error(), p.width-2) {
						p.line("%s %s", p.paint(red, "✗"), line)
					}
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// report writes what a look gave.
func (p painter) report(r *statusReport) {
	for i, line := range r.head {
		if i == 0 {
			p.line("%s", line+": "+p.paint(map[bool]string{true: green, false: red}[r.headMark == "healthy"], r.headMark))
			continue
		}
		p.tree(&limb{text: "  " + p.paint(red, "✗") + " " + line})
	}
	if len(r.servers) == 0 && r.json != nil {
		p.line("no virtual server is declared")
	}
	for i := range r.servers {
		if i > 0 || len(r.head) > 0 {
			p.line("")
		}
		p.server(&r.servers[i])
	}
}

// localStatus is what the daemon of the state directory saw at its last pass.
func (s *settings) localStatus(_ context.Context, name string) (*statusReport, error) {
	status, err := sync.LoadStatus(s.stateDir)
	if err != nil {
		if sync.NoStatus(err) {
			return nil, fmt.Errorf("no daemon has written a status to %s (`pointsman run --state-dir %s` does): %w", s.stateDir, s.stateDir, err)
		}
		return nil, err
	}
	if name != "" {
		var only []*sync.ServerStatus
		for _, of := range status.Servers {
			if of.Namespace+"/"+of.Name == name {
				only = append(only, of)
			}
		}
		if only == nil {
			return nil, fmt.Errorf("there is no VirtualServer %s in the status", name)
		}
		status.Servers = only
	}
	running, err := sync.Running(s.stateDir)
	if err != nil {
		return nil, err
	}
	r := &statusReport{
		head: []string{"node " + status.Node}, headMark: "healthy",
		servers: picturesOf(status, s.specs()),
		json: struct {
			*sync.Status
			Running bool `json:"running"`
			Healthy bool `json:"healthy"`
		}{status, running, running && status.Healthy()},
	}
	switch {
	case !running:
		r.headMark = "not running"
	case !status.Healthy():
		r.headMark = "unhealthy"
	}
	if status.Error != "" {
		r.head = append(r.head, status.Error)
	}
	for _, e := range status.Errors {
		r.head = append(r.head, e.Message)
	}
	switch {
	case !running:
		r.unhealthy = fmt.Errorf("no daemon runs over %s; this is what the last one saw", s.stateDir)
	case status.Error != "":
		r.unhealthy = fmt.Errorf("the last pass failed: %s", status.Error)
	case len(status.Errors) > 0:
		r.unhealthy = fmt.Errorf("%s", plural(len(status.Errors), "manifest is bad", "manifests are bad"))
	}
	return r, nil
}

// specs are the declarations in the manifests, where it is said which they are; the tree is good without.
func (s *settings) specs() map[types.NamespacedName]*v1alpha1.VirtualServerSpec {
	if s.manifests == "" {
		return nil
	}
	snap, err := endpoints.Load(s.manifests, s.stateDir)
	if err != nil {
		return nil
	}
	out := map[types.NamespacedName]*v1alpha1.VirtualServerSpec{}
	for i := range snap.Servers {
		out[snap.Servers[i].Key] = snap.Servers[i].Spec
	}
	return out
}

// qualified is NAMESPACE/NAME of what may be a name alone.
func qualified(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return "default/" + name
}
