package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pointsman/pointsman/node"
)

func newPreflight(e env) *cobra.Command {
	return &cobra.Command{
		Use:   "preflight",
		Short: "What on this node would stop or weaken the daemon, and the mend for each",
		Long: `Looks at the kernel, its modules and sysctls, this process's capabilities, nftables and other
users of IPVS.

Exit status: 0 when the daemon can run, 1 when something would stop it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := node.Open()
			if err != nil {
				return err
			}
			defer n.Close()
			p := painter{w: e.stdout, colour: colourful(e.stdout)}
			marks := map[node.Level]string{
				node.OK: p.paint(green, "✓"), node.Warn: p.paint(yellow, "!"), node.Fail: p.paint(red, "✗"),
			}
			failed := 0
			for _, f := range n.Preflight(c.Context()) {
				p.line("%s %-22s %s", marks[f.Level], f.Subject, f.Detail)
				if f.Level != node.OK && f.Mend != "" {
					p.line("  %-22s → %s", "", f.Mend)
				}
				if f.Level == node.Fail {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%s", plural(failed, "thing would stop the daemon", "things would stop the daemon"))
			}
			return nil
		},
	}
}
