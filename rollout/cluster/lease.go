package cluster

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Leases of nodes carry a label, which tells them from the coordinator's and lets watches ask for
// them alone. Their holder is the node's name.
const (
	leaseLabel       = "pointsman.io/lease"
	leaseLabelNode   = "node"
	coordinatorLease = "coordinator"
)

func nodeLeaseName(node string) string { return "node-" + node }

// renew keeps the node's Lease until ctx ends: this is how others know that the daemon lives.
func (r *Reporter) renew(ctx context.Context) {
	var lease *coordinationv1.Lease
	retry := backoff
	for {
		var err error
		lease, err = r.renewOnce(ctx, lease)
		r.health.set(ctx, "renewing the node's lease", err)
		pause := wait.Jitter(r.renewEvery, 0.04)
		if err != nil {
			pause = min(retry.Step(), pause)
		} else {
			retry = backoff
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// renewOnce renews the lease as it was last seen, or makes one; it returns nil for one to be read again.
func (r *Reporter) renewOnce(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	leases, name := r.clients.leases(r.opts.Namespace), nodeLeaseName(r.opts.NodeName)
	for range 3 { // a lease that changed or went is read, and made, at once
		var err error
		if lease == nil {
			lease, err = leases.Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				made := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
					Name: name, Namespace: r.opts.Namespace, Labels: map[string]string{leaseLabel: leaseLabelNode}, OwnerReferences: r.owner(ctx),
				}}
				r.hold(made)
				if lease, err = leases.Create(ctx, made, metav1.CreateOptions{}); err == nil {
					return lease, nil
				}
			}
		}
		if err == nil {
			next := lease.DeepCopy()
			r.hold(next)
			if lease, err = leases.Update(ctx, next, metav1.UpdateOptions{}); err == nil {
				return lease, nil
			}
		}
		lease = nil
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("lease %s/%s: %w", r.opts.Namespace, name, err)
		}
	}
	return nil, fmt.Errorf("lease %s/%s changes all the time; does a second daemon run on this node?", r.opts.Namespace, name)
}

func (r *Reporter) hold(lease *coordinationv1.Lease) {
	seconds, now := int32(leaseDuration/time.Second), metav1.NowMicro()
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels[leaseLabel] = leaseLabelNode
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &r.opts.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}
}
