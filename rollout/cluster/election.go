package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Timing of the election: a leader that dies is followed after leadFor at most; one that ends, at once.
const (
	leadFor      = 15 * time.Second
	leadDeadline = 10 * time.Second
	leadRetry    = 5 * time.Second
)

// stand stands for election until ctx ends or leadership was lost, and runs lead in between. At the
// end of ctx lead ends first and the Lease is given up after, so that the next leader meets nobody.
func (c *Coordinator) stand(ctx context.Context, lead func(context.Context)) error {
	election, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var (
		mu    sync.Mutex
		over  bool // no term may begin any more
		began bool
		ended = make(chan struct{})
	)
	finish := func() {
		mu.Lock()
		over = true
		wait := began
		mu.Unlock()
		if wait {
			<-ended
		}
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: watchedLock{&resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.opts.Namespace, Name: coordinatorLease},
			Client:     c.clients.leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.identity},
		}, &c.health},
		LeaseDuration: c.leadFor, RenewDeadline: c.leadDeadline, RetryPeriod: c.leadRetry,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(election context.Context) {
				mu.Lock()
				began = !over
				mu.Unlock()
				if !began {
					return
				}
				defer close(ended)
				term, cancel := context.WithCancel(election)
				defer cancel()
				defer context.AfterFunc(ctx, cancel)()
				lead(term)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("standing for election as coordinator: %w", err)
	}
	defer context.AfterFunc(ctx, func() { finish(); stop() })()
	elector.Run(election)
	stop()
	finish()
	return nil
}

// watchedLock tells health how it goes with the coordinator's Lease, which client-go only logs.
type watchedLock struct {
	resourcelock.Interface
	health *health
}

func (l watchedLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	return record, raw, l.tell(ctx, err)
}

func (l watchedLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.tell(ctx, l.Interface.Create(ctx, record))
}

func (l watchedLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.tell(ctx, l.Interface.Update(ctx, record))
}

func (l watchedLock) tell(ctx context.Context, err error) error {
	failed := err
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		failed = nil // answers that an election is made of
	}
	l.health.set(ctx, "standing for election as coordinator", failed)
	return err
}
