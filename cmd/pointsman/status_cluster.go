package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/cluster"
)

// clusterStatus is what an API server knows.
func (s *settings) clusterStatus(ctx context.Context, name string) (*statusReport, error) {
	config, err := s.restConfig()
	if err != nil {
		return nil, err
	}
	d, err := cluster.NewDeclarations(config)
	if err != nil {
		return nil, err
	}
	list, err := d.List(ctx, "")
	if err != nil {
		return nil, err
	}
	if name != "" {
		list = slices.DeleteFunc(list, func(vs v1alpha1.VirtualServer) bool { return vs.Namespace+"/"+vs.Name != name })
		if len(list) == 0 {
			return nil, fmt.Errorf("there is no VirtualServer %s", name)
		}
	}
	reports, err := d.Reports(ctx)
	if err != nil {
		return nil, err
	}
	r := &statusReport{json: map[string]any{"virtualServers": list, "nodeReports": reports}}
	var bad []string
	for i := range list {
		r.servers = append(r.servers, pictureOf(&list[i], reports))
		for _, kind := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionSwitched, v1alpha1.ConditionHealthy} {
			if meta.IsStatusConditionFalse(list[i].Status.Conditions, kind) {
				bad = append(bad, list[i].Namespace+"/"+list[i].Name)
				break
			}
		}
	}
	if len(bad) > 0 {
		r.unhealthy = fmt.Errorf("not as declared: %s", strings.Join(bad, ", "))
	}
	return r, nil
}
