package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"

	"github.com/pointsman/pointsman/endpoints"
)

// Intervals of a Coordinator.
const (
	settle    = 50 * time.Millisecond // nodes report a switch one after the other; one status is made of what came meanwhile
	expiry    = 10 * time.Second      // between looks for Leases that ran out, at the latest
	workers   = 4                     // that write statuses
	retryFrom = 100 * time.Millisecond
	retryTo   = 30 * time.Second
)

// Coordinator writes the status of every VirtualServer while it leads. Each node's daemon runs one; they
// elect the leader.
type Coordinator struct {
	opts     Options
	clients  *clients
	health   health
	identity string

	snapshot atomic.Pointer[endpoints.Snapshot]
	wake     chan struct{}
	leading  atomic.Bool
	recorder *recorder

	leadFor, leadDeadline, leadRetry time.Duration
}

// NewCoordinator makes the coordinator of a node's daemon.
func NewCoordinator(config *rest.Config, opts Options) (*Coordinator, error) {
	c, err := newClients(config)
	if err != nil {
		return nil, err
	}
	if opts.Namespace == "" {
		opts.Namespace = DefaultNamespace
	}
	return &Coordinator{
		opts: opts, clients: c, health: health{log: opts.Log}, wake: make(chan struct{}, 1),
		// Two daemons of one node, while the second takes over from the first, are not one candidate.
		identity: opts.NodeName + "_" + string(uuid.NewUUID()),
		leadFor:  leadFor, leadDeadline: leadDeadline, leadRetry: leadRetry,
	}, nil
}

func (c *Coordinator) String() string { return "coordinator" }

// Observe hands over what this node's own snapshot holds now; endpoints are counted there. It never blocks.
func (c *Coordinator) Observe(s *endpoints.Snapshot) {
	c.snapshot.Store(s)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Leading says whether this one writes the statuses.
func (c *Coordinator) Leading() bool { return c.leading.Load() }

// Healthy is nil, or what the coordinator cannot do now.
func (c *Coordinator) Healthy() error { return c.health.err() }

// Run stands for election, and leads when it is elected, until ctx ends. Leadership is given up then.
func (c *Coordinator) Run(ctx context.Context) error {
	ctx = quiet(ctx)
	c.recorder = newRecorder(c.clients, c.opts)
	var recording sync.WaitGroup
	recording.Go(func() { c.recorder.run(ctx) })
	defer recording.Wait()
	for ctx.Err() == nil {
		c.stand(ctx, c.lead)
	}
	return nil
}

// lead is one term.
func (c *Coordinator) lead(ctx context.Context) {
	c.opts.Log.Info("leads: writes the status of VirtualServers")
	c.leading.Store(true)
	defer func() {
		c.leading.Store(false)
		c.health.forget()
		c.opts.Log.Info("leads no more")
	}()
	newTerm(c).run(ctx)
}

func nodeLeasesOnly(o *metav1.ListOptions) { o.LabelSelector = leaseLabel + "=" + leaseLabelNode }

func everything(*metav1.ListOptions) {}
