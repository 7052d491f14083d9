package cluster

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
)

// Timing of the election: a leader that dies is followed after leadFor at most; one that ends, at once.
const (
	leadFor      = 15 * time.Second
	leadDeadline = 10 * time.Second
	leadRetry    = 5 * time.Second
)

// retryJitter keeps candidates from asking at the same moments.
const retryJitter = 1.2

// election is over a Lease, as client-go's is and by the same rules, so that either may follow the other: clocks
// of nodes differ, so a Lease is held for as long as it says after *we* saw it change; and who leads gives up by
// its own clock, earlier than that, when it cannot renew. It belongs to one goroutine.
type election struct {
	leases     *leaseClient
	identity   string
	term       time.Duration // of the Lease; in whole seconds
	deadline   time.Duration // after which a leader that could not renew is none any more
	retry      time.Duration
	health     *health
	lease      *coordinationv1.Lease // as last seen; nil: there was none, or it is to be read
	record     coordinationv1.LeaseSpec
	recordedAt time.Time // when record was first seen
}

// stand stands for election until ctx ends or leadership was lost, and runs lead in between. At the
// end of ctx lead ends first and the Lease is given up after, so that the next leader meets nobody.
func (c *Coordinator) stand(ctx context.Context, lead func(context.Context)) {
	e := &election{
		leases: c.clients.leases(c.opts.Namespace), identity: c.identity, health: &c.health,
		term: c.leadFor, deadline: c.leadDeadline, retry: c.leadRetry,
	}
	since, won := e.acquire(ctx)
	if !won {
		return
	}
	term, end := context.WithCancel(ctx)
	defer end()
	// Renewed until the term has ended, not only until it is told to.
	renewing, ended := context.WithCancel(context.WithoutCancel(ctx))
	defer ended()
	go func() {
		defer ended()
		lead(term)
	}()
	e.hold(renewing, since)
	end()
	<-renewing.Done()
	e.release(context.WithoutCancel(ctx))
}

// acquire tries until the Lease is ours, and says since when, or until ctx ends.
func (e *election) acquire(ctx context.Context) (since time.Time, won bool) {
	for ctx.Err() == nil {
		since = time.Now()
		ours, err := e.attempt(ctx, requestTimeout)
		e.health.set(ctx, "standing for election as coordinator", err)
		if ours && err == nil {
			return since, true
		}
		pause(ctx, wait.Jitter(e.retry, retryJitter))
	}
	return since, false
}

// hold renews the Lease, which is ours since a moment, until ctx ends, or it is lost.
func (e *election) hold(ctx context.Context, since time.Time) {
	for {
		pause(ctx, min(e.retry, time.Until(since.Add(e.deadline))))
		now := time.Now()
		left := since.Add(e.deadline).Sub(now)
		if ctx.Err() != nil || left <= 0 {
			return
		}
		ours, err := e.attempt(ctx, min(left, requestTimeout))
		e.health.set(ctx, "standing for election as coordinator", err)
		switch {
		case err != nil:
		case !ours:
			return // somebody else's
		default:
			since = now
		}
	}
}

// attempt takes the Lease or renews it, and says whether it is ours. Who holds it writes over what it wrote last, without
// reading.
func (e *election) attempt(ctx context.Context, patience time.Duration) (ours bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var lost error
	for range 2 { // what changed meanwhile is read, at once
		if e.lease == nil || ptr.Deref(e.lease.Spec.HolderIdentity, "") != e.identity {
			if err := e.read(ctx); err != nil {
				return false, err
			}
		}
		now := time.Now()
		if holder := ptr.Deref(e.record.HolderIdentity, ""); e.lease != nil && holder != "" && holder != e.identity &&
			now.Before(e.recordedAt.Add(time.Duration(ptr.Deref(e.record.LeaseDurationSeconds, 0))*time.Second)) {
			return false, nil
		}
		err := e.write(ctx, now)
		if err == nil {
			return true, nil
		}
		e.lease = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			return false, err
		}
		lost = err
	}
	if apierrors.IsNotFound(lost) {
		return false, lost // the namespace is
	}
	return false, nil
}

// read looks at the Lease, and takes the time when it is another than before.
func (e *election) read(ctx context.Context) error {
	lease, err := e.leases.Get(ctx, coordinatorLease, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		e.lease = nil
		return nil
	case err != nil:
		return fmt.Errorf("reading the coordinator's lease: %w", err)
	}
	e.lease = lease
	if e.recordedAt.IsZero() || !sameRecord(&e.record, &lease.Spec) {
		e.record, e.recordedAt = lease.Spec, time.Now()
	}
	return nil
}

func sameRecord(a, b *coordinationv1.LeaseSpec) bool {
	return ptr.Equal(a.HolderIdentity, b.HolderIdentity) && ptr.Equal(a.LeaseDurationSeconds, b.LeaseDurationSeconds) &&
		ptr.Equal(a.LeaseTransitions, b.LeaseTransitions) && a.RenewTime.Equal(b.RenewTime) && a.AcquireTime.Equal(b.AcquireTime)
}

// write makes the Lease ours, over the version that was seen.
func (e *election) write(ctx context.Context, now time.Time) error {
	at := metav1.NewMicroTime(now)
	spec := coordinationv1.LeaseSpec{
		HolderIdentity: &e.identity, LeaseDurationSeconds: ptr.To(int32(e.term / time.Second)),
		AcquireTime: &at, RenewTime: &at, LeaseTransitions: ptr.To[int32](0),
	}
	if e.lease == nil {
		made, err := e.leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: coordinatorLease}, Spec: spec}, metav1.CreateOptions{})
		return e.wrote(made, err)
	}
	before := &e.lease.Spec
	if spec.LeaseTransitions = ptr.To(ptr.Deref(before.LeaseTransitions, 0)); ptr.Deref(before.HolderIdentity, "") == e.identity {
		spec.AcquireTime = before.AcquireTime
	} else {
		*spec.LeaseTransitions++
	}
	next := e.lease.DeepCopy()
	next.Spec = spec
	made, err := e.leases.Update(ctx, next, metav1.UpdateOptions{})
	return e.wrote(made, err)
}

func (e *election) wrote(lease *coordinationv1.Lease, err error) error {
	if err != nil {
		return fmt.Errorf("writing the coordinator's lease: %w", err)
	}
	e.lease, e.record, e.recordedAt = lease, lease.Spec, time.Now()
	return nil
}

// release gives the Lease up, if it is still ours. A renewal that was cut off may have been made or not, so the Lease is read
// then; one that is yet to arrive is refused, since it was made over a version that is gone.
func (e *election) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for range 2 {
		if e.lease == nil && e.read(ctx) != nil || e.lease == nil || ptr.Deref(e.lease.Spec.HolderIdentity, "") != e.identity {
			return
		}
		at := metav1.NowMicro()
		next := e.lease.DeepCopy()
		next.Spec = coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To(""), LeaseDurationSeconds: ptr.To[int32](1), AcquireTime: &at, RenewTime: &at, LeaseTransitions: e.lease.Spec.LeaseTransitions,
		}
		if _, err := e.leases.Update(ctx, next, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			return // else it runs out
		}
		e.lease = nil
	}
}

// pause returns after a while, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
