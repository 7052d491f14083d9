package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
	"github.com/pointsman/pointsman/sync"
)

func newRun(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "The node daemon",
		Long: `Watches a directory of manifests and keeps the kernel's IPVS table as they say, until SIGTERM,
which leaves the kernel as it is.`,
		Example: "  pointsman run --manifests /etc/pointsman/manifests --node-name mast01",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			if err := s.needManifests(); err != nil {
				return err
			}
			return s.run(c.Context())
		},
	}
	define(c, keyManifests, keyStateDir, keyNodeName, keyNodePorts, keyClusterCIDRs, keyLogFormat, keyLogLevel)
	return c
}

// run wires the daemon and waits for its end.
func (s *settings) run(ctx context.Context) error {
	unlock, err := sync.Lock(ctx, s.stateDir, s.log)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer unlock()
	source := endpoints.New(s.manifests, s.stateDir, s.log)
	r, closeKernel, err := newReconciler(s, source)
	if err != nil {
		return err
	}
	defer closeKernel()
	s.log.WithField("version", version).WithField("node", s.nodeName).Info("pointsman starts")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return r.Run(ctx) })
	err = group.Wait()
	s.log.Info("pointsman ends; the kernel stays as it is")
	return err
}

// newReconciler opens the kernel of the network namespace that the process is in.
func newReconciler(s *settings, source sync.Source) (*sync.Reconciler, func(), error) {
	if err := node.EnsureModules(node.Modules...); err != nil {
		return nil, nil, err
	}
	table, err := ipvs.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening IPVS: %w", err)
	}
	rules, err := nft.Open()
	if err != nil {
		_ = table.Close()
		return nil, nil, fmt.Errorf("opening nftables: %w", err)
	}
	n, err := node.Open()
	if err != nil {
		_ = rules.Close()
		_ = table.Close()
		return nil, nil, fmt.Errorf("opening the node: %w", err)
	}
	changed, err := n.Changed()
	if err != nil {
		err = errors.Join(err, n.Close(), rules.Close(), table.Close())
		return nil, nil, err
	}
	r := &sync.Reconciler{
		Config: sync.Config{
			NodeName: s.nodeName, StateDir: s.stateDir, NodePortsOn: s.nodePorts, ClusterCIDRs: s.clusterCIDRs,
		},
		IPVS: table, NFT: rules, Node: n, Source: source, NodeChanged: changed, Log: s.log,
	}
	changes, err := ipvs.OpenChanges()
	if err != nil {
		s.log.WithError(err).Warn("the whole table is read again and again instead, which costs time with many real servers")
	} else {
		r.Changes = changes
	}
	return r, func() {
		if changes != nil {
			_ = changes.Close()
		}
		_ = n.Close()
		_ = rules.Close()
		_ = table.Close()
	}, nil
}
