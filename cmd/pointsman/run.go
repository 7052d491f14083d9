package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	gosync "sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/ipvs"
	"github.com/pointsman/pointsman/nft"
	"github.com/pointsman/pointsman/node"
	"github.com/pointsman/pointsman/probe"
	"github.com/pointsman/pointsman/rollout/calls"
	"github.com/pointsman/pointsman/rollout/cluster"
	"github.com/pointsman/pointsman/sync"
)

func newRun(e env) *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "The node daemon",
		Long: `Watches a cluster's API server, or with --manifests a directory of manifests, and keeps the
kernel's IPVS table as they say, until SIGTERM, which leaves the kernel as it is.`,
		Example: `  pointsman run                                        # in a Pod of a DaemonSet
  pointsman run --kubeconfig FILE --node-name mast01   # beside a cluster
  pointsman run --manifests /etc/pointsman/manifests   # without one`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := configure(e, c)
			if err != nil {
				return err
			}
			return s.run(c.Context())
		},
	}
	define(c, keyManifests, keyKubeconfig, keyStateDir, keyNodeName, keyNodePorts, keyClusterCIDRs, keySteering, keyMarks, keyHealthAddress, keyLogFormat, keyLogLevel)
	return c
}

// task is one of those that the daemon is made of.
type task interface{ Run(context.Context) error }

// after is a task that begins when something has happened: traffic comes before talk of it.
type after struct {
	begin <-chan struct{}
	task
}

func (a after) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.begin:
		return a.task.Run(ctx)
	}
}

// quietPath is after how many seconds without a word client-go asks whether a connection to the API server is alive, and
// how many it waits for the answer. A path that died without a word (a host that lost power, a firewall that forgot it) is found by
// nothing else, and until then a node does not hear of a commit; client-go itself would take 45 s. At rest this costs nothing, since the
// Lease's renewal is a word each ten seconds.
var quietPath = map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "15", "HTTP2_PING_TIMEOUT_SECONDS": "5"}

// run wires the daemon and waits for its end.
func (s *settings) run(ctx context.Context) error {
	for name, seconds := range quietPath {
		if os.Getenv(name) == "" {
			if err := os.Setenv(name, seconds); err != nil {
				return err
			}
		}
	}
	src, err := s.source(s.log)
	if err != nil {
		return err
	}
	unlock, err := sync.Lock(ctx, s.stateDir, s.log)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return src.Run(ctx) }) // what it has to wait for comes while the kernel is opened
	group.Go(func() error { return s.serve(ctx, src) })
	return group.Wait()
}

// serve makes the kernel as the source says, and tells of it, until ctx ends.
func (s *settings) serve(ctx context.Context, src source) error {
	r, closeKernel, err := newReconciler(s, src)
	if err != nil {
		return err
	}
	defer closeKernel()
	unwatch, err := s.watchKernel(r)
	if err != nil {
		return err
	}
	defer unwatch()
	prober := probe.NewProber(ctx)
	defer prober.Close()
	r.Prober = prober
	if s.manifests != "" {
		answered := make(chan struct{}, 1)
		made := calls.New(ctx, func(types.NamespacedName) {
			select {
			case answered <- struct{}{}:
			default:
			}
		})
		defer made.Close()
		r.Calls, r.CallsAnswered = made, answered
	}
	served := make(chan struct{})
	begin := gosync.OnceFunc(func() { close(served) })
	tasks := []task{r, newCollector(served)}
	observers := []func(*sync.Status){func(*sync.Status) { begin() }}
	if s.manifests == "" {
		reporter, coordinator, err := s.meet()
		if err != nil {
			return err
		}
		observers = append(observers, reporter.Post, func(*sync.Status) { coordinator.Observe(src.Snapshot()) })
		tasks = append(tasks, after{served, reporter}, after{served, coordinator})
	}
	if s.healthAddress != "" {
		h := newHealth(s.healthAddress, r)
		tasks, observers = append(tasks, h), append(observers, h.observe)
	}
	r.Observed = func(status *sync.Status) {
		for _, observe := range observers {
			observe(status)
		}
	}
	s.log.WithField("version", version).WithField("node", s.nodeName).Infof("pointsman starts, over the %s", src)
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		group.Go(func() error { return t.Run(ctx) })
	}
	err = group.Wait()
	s.log.Info("pointsman ends; the kernel stays as it is")
	return err
}

// meet are this node's parts in what the nodes do together, by way of the API server.
func (s *settings) meet() (*cluster.Reporter, *cluster.Coordinator, error) {
	config, err := s.restConfig()
	if err != nil {
		return nil, nil, err
	}
	options := cluster.Options{NodeName: s.nodeName, Version: version, Log: s.log}
	reporter, err := cluster.NewReporter(config, options)
	if err != nil {
		return nil, nil, err
	}
	coordinator, err := cluster.NewCoordinator(config, options)
	return reporter, coordinator, err
}

// newReconciler opens the kernel of the network namespace that the process is in.
func newReconciler(s *settings, source sync.Source) (*sync.Reconciler, func(), error) {
	var opened closers
	fail := func(what string, err error) (*sync.Reconciler, func(), error) {
		opened.close()
		return nil, nil, fmt.Errorf("opening %s: %w", what, err)
	}
	if err := node.EnsureModules(node.Modules...); err != nil {
		return nil, nil, err
	}
	table, err := ipvs.Open()
	if err != nil {
		return fail("IPVS", err)
	}
	opened.add(table)
	table.LeaveCounters()
	counters, err := ipvs.Open()
	if err != nil {
		return fail("IPVS", err)
	}
	opened.add(counters)
	var rules sync.NFT
	switch open, err := nft.Open(); {
	case errors.Is(err, nft.ErrUnsupported):
		rules = nft.Missing{} // what needs them fails, the rest goes on
	case err != nil:
		return fail("nftables", err)
	default:
		opened.add(open)
		rules = open
	}
	n, err := node.Open()
	if err != nil {
		return fail("the node", err)
	}
	opened.add(n)
	return &sync.Reconciler{
		Config: sync.Config{
			NodeName: s.nodeName, StateDir: s.stateDir, NodePortsOn: s.nodePorts, ClusterCIDRs: s.clusterCIDRs,
			Steering: s.steering, Marks: s.marks,
		},
		IPVS: table, NFT: rules, Node: n, Source: source, Connections: counters, Log: s.log,
	}, opened.close, nil
}

// watchKernel has the reconciler told of changes, so that it need not look for them all the time.
func (s *settings) watchKernel(r *sync.Reconciler) (func(), error) {
	var opened closers
	var err error
	if r.NodeChanged, err = r.Node.Changed(); err != nil {
		return nil, err
	}
	r.Listen = func() error {
		if _, missing := r.NFT.(nft.Missing); !missing {
			rules, err := nft.OpenWatch()
			if err != nil {
				return err
			}
			opened.add(rules)
			r.RulesChanged = rules.Changed()
		}
		changes, err := ipvs.OpenChanges()
		if err != nil {
			s.log.WithError(err).Warn("changes of IPVS are not told by the kernel, so its table is read again and again, which costs time with many real servers")
			return nil
		}
		opened.add(changes)
		r.Changes = changes
		return nil
	}
	return opened.close, nil
}

// closers are closed in the reverse of the order in which they were added.
type closers []io.Closer

func (c *closers) add(one io.Closer) { *c = append(*c, one) }

func (c *closers) close() {
	for _, one := range slices.Backward(*c) {
		_ = one.Close()
	}
}
