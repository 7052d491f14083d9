package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/cluster"
)

// writeClusterStatus writes what an API server knows: virtual server → colours → nodes → drain. The error
// says what is unhealthy.
func writeClusterStatus(ctx context.Context, w io.Writer, s *settings, args []string, output string, colour bool) error {
	config, err := s.restConfig()
	if err != nil {
		return err
	}
	d, err := cluster.NewDeclarations(config)
	if err != nil {
		return err
	}
	list, err := d.List(ctx, "")
	if err != nil {
		return err
	}
	if len(args) == 1 {
		name := qualified(args[0])
		list = slices.DeleteFunc(list, func(vs v1alpha1.VirtualServer) bool { return vs.Namespace+"/"+vs.Name != name })
		if len(list) == 0 {
			return fmt.Errorf("there is no VirtualServer %s", name)
		}
	}
	reports, err := d.Reports(ctx)
	if err != nil {
		return err
	}
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(map[string]any{"virtualServers": list, "nodeReports": reports}); err != nil {
			return err
		}
	} else {
		p := painter{w, colour}
		if len(list) == 0 {
			p.line("no virtual server is declared")
		}
		for i := range list {
			if i > 0 {
				p.line("")
			}
			p.clusterServer(&list[i], reports)
		}
	}
	var bad []string
	for i := range list {
		for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionSwitched, v1alpha1.ConditionHealthy} {
			if meta.IsStatusConditionFalse(list[i].Status.Conditions, kind) {
				bad = append(bad, list[i].Namespace+"/"+list[i].Name)
				break
			}
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("not as declared: %s", strings.Join(bad, ", "))
	}
	return nil
}

func (p painter) clusterServer(vs *v1alpha1.VirtualServer, reports []v1alpha1.NodeReport) {
	phase := p.paint(green, string(vs.Status.Phase))
	if vs.Status.Phase != v1alpha1.PhaseSteady {
		phase = p.paint(yellow, string(vs.Status.Phase))
	}
	p.line("%s  %s  %d of %d nodes", p.paint(bold, vs.Namespace+"/"+vs.Name), phase, vs.Status.Nodes.Switched, vs.Status.Nodes.Total)
	for _, c := range vs.Status.Conditions {
		if c.Status != "True" && c.Type != v1alpha1.ConditionSafeToRetire {
			p.line("  %s %s: %s", p.paint(yellow, "!"), c.Reason, c.Message)
		}
	}
	for _, c := range vs.Status.Colours {
		role := "idle"
		switch c.Name {
		case vs.Status.Active:
			role = p.paint(green, "active")
		case vs.Status.Previous:
			role = "previous"
		}
		p.line("  %s %-12s %3d of %d ready  %s", p.branch(), c.Name, c.Ready, c.Endpoints, role)
		for i := range reports {
			n := onNode(&reports[i], vs)
			if n == nil {
				continue
			}
			if n.Active == c.Name && n.Verified {
				p.line("      %-14s serves, %s", reports[i].Name, plural(int(n.RealServers), "real server", "real servers"))
			}
			for _, d := range n.Draining {
				if d.Colour == c.Name {
					p.line("      %-14s drains, %s left on %s", reports[i].Name,
						plural(int(d.Connections), "connection", "connections"), plural(int(d.RealServers), "real server", "real servers"))
				}
			}
		}
	}
	if c := meta.FindStatusCondition(vs.Status.Conditions, v1alpha1.ConditionSafeToRetire); c != nil && c.Status == "True" {
		p.line("  %s %s: safe to retire", p.paint(green, "✓"), c.Message)
	}
}

// onNode is what a node has of a VirtualServer, or nil.
func onNode(report *v1alpha1.NodeReport, vs *v1alpha1.VirtualServer) *v1alpha1.NodeVirtualServer {
	for i := range report.Status.VirtualServers {
		if n := &report.Status.VirtualServers[i]; n.Namespace == vs.Namespace && n.Name == vs.Name {
			return n
		}
	}
	return nil
}
