package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/sync"
)

func newCleanup(e env) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove all that is ours from the kernel",
		Long: `Removes the virtual servers that the state directory's ledger knows as ours, our nftables table
and our dummy device, and puts back the sysctls that we changed. It cuts the
connections through them. What others made stays. Stop the daemon first.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			unlock, err := sync.TryLock(s.stateDir)
			if err != nil {
				return err
			}
			defer unlock()
			r, closeKernel, err := newReconciler(s, fixed{})
			if err != nil {
				return err
			}
			defer closeKernel()
			ops, err := r.Cleanup(c.Context(), dryRun)
			for _, op := range ops {
				fmt.Fprintln(e.stdout, op)
			}
			if err == nil && len(ops) == 0 {
				fmt.Fprintln(e.stderr, "pointsman: nothing of ours is in the kernel")
			}
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would be removed")
	define(c, keyStateDir)
	return c
}
