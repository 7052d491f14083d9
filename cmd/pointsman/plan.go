package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/endpoints"
)

func newPlan(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "plan",
		Short: "The ops that a pass would run now, as the commands that they equal; runs none",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			snap, err := s.load(c.Context())
			if err != nil {
				return err
			}
			r, closeKernel, err := newReconciler(s, fixed{snap})
			if err != nil {
				return err
			}
			defer closeKernel()
			ops, warnings, err := r.Plan(c.Context())
			if err != nil {
				return err
			}
			for _, op := range ops {
				fmt.Fprintln(e.stdout, op)
			}
			for _, w := range warnings {
				fmt.Fprintln(e.stderr, "pointsman: warning:", w)
			}
			for _, problem := range snap.Errors {
				fmt.Fprintln(e.stderr, "pointsman: warning:", problem.Message)
			}
			if len(ops) == 0 {
				fmt.Fprintln(e.stderr, "pointsman: nothing to do")
			}
			return nil
		},
	}
	define(c, keyManifests, keyKubeconfig, keyStateDir, keyNodeName, keyNodePorts, keyClusterCIDRs, keySteering, keyMarks)
	return c
}

// fixed is a source that never changes.
type fixed struct{ snap *endpoints.Snapshot }

func (f fixed) Snapshot() *endpoints.Snapshot { return f.snap }
func (f fixed) Changed() <-chan struct{}      { return nil }
func (f fixed) Failures() uint64              { return uint64(len(f.snap.Errors)) }
