package cluster

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/sync"
)

// Intervals of a Reporter.
const (
	renewEvery    = 10 * time.Second
	leaseDuration = 40 * time.Second
	countsEvery   = 2 * time.Second  // how often counts of what drains are written when nothing else changed
	contestEvery  = 10 * time.Second // how often the report is written while somebody else writes it too
)

// writeShare bounds what writing the report costs while much of it changes, as at the first start with a thousand
// VirtualServers: it is written whole, and everybody who watches it reads it whole. One that takes a while is written again
// after so many times that while.
const writeShare = 4

// backoff of what failed, jittered by a half: up to 30 s.
var backoff = wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 30 * time.Second}

// Reporter writes the node's NodeReport, when it differs from what the API server has, and keeps the node's
// Lease. It watches the report's version too, so that one that somebody deleted or changed is put right.
type Reporter struct {
	opts    Options
	clients *clients
	health  health

	posted atomic.Pointer[sync.Status]
	wake   chan struct{}
	known  latest

	// Owned by the goroutine that writes.
	converted  *sync.Status
	want       v1alpha1.NodeReportStatus
	wrote      time.Time
	took       time.Duration             // until it was written
	last       v1alpha1.NodeReportStatus // that was written then
	notBefore  time.Time
	retry      wait.Backoff
	first      chan struct{} // closed when the first report is at the API server
	reported   bool
	renewEvery time.Duration
}

// NewReporter makes the reporter of a node.
func NewReporter(config *rest.Config, opts Options) (*Reporter, error) {
	c, err := newClients(config)
	if err != nil {
		return nil, err
	}
	if opts.Namespace == "" {
		opts.Namespace = DefaultNamespace
	}
	return &Reporter{
		opts: opts, clients: c, health: health{log: opts.Log}, wake: make(chan struct{}, 1), first: make(chan struct{}),
		retry: backoff, renewEvery: renewEvery,
	}, nil
}

func (r *Reporter) String() string { return "reporter" }

// Post hands over the latest status; of those that were not written yet only the last one counts. It
// never blocks, and the status must not change afterwards.
func (r *Reporter) Post(status *sync.Status) {
	r.posted.Store(status)
	r.poke()
}

func (r *Reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Healthy is nil, or what the reporter cannot do now.
func (r *Reporter) Healthy() error { return r.health.err() }

// Run reports until ctx ends. The report and the Lease stay: the kernel goes on as they say, and whoever
// starts next on the node takes them over.
func (r *Reporter) Run(ctx context.Context) error {
	ctx = quiet(ctx)
	only := fields.OneTermEqualSelector("metadata.name", r.opts.NodeName).String()
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: watching(r.clients.reportVersions(), "the node's report", &r.health, func(o *metav1.ListOptions) { o.FieldSelector = only }),
		ObjectType:    &metav1.PartialObjectMetadata{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { r.known.told(o.(*metav1.PartialObjectMetadata).ResourceVersion); r.poke() },
			UpdateFunc: func(_, o any) { r.known.told(o.(*metav1.PartialObjectMetadata).ResourceVersion); r.poke() },
			DeleteFunc: func(o any) {
				if report, ok := o.(*metav1.PartialObjectMetadata); ok {
					r.known.gone(report.ResourceVersion)
				} else {
					r.known.forget() // went while nobody watched
				}
				r.poke()
			},
		},
	})
	var group errgroup.Group
	group.Go(func() error { informer.RunWithContext(ctx); return nil })
	group.Go(func() error {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			r.write(ctx)
		}
		return nil
	})
	group.Go(func() error {
		// Not before the report is there: a live node without one keeps every switch waiting.
		select {
		case <-ctx.Done():
		case <-r.first:
			r.renew(ctx)
		}
		return nil
	})
	return group.Wait()
}

// write makes the API server have what was posted last, until ctx ends.
func (r *Reporter) write(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		if again := r.step(ctx, time.Now()); again > 0 {
			timer.Reset(again)
		}
	}
}

// step writes what there is to write and says after how long to look again; 0: when something happens.
func (r *Reporter) step(ctx context.Context, now time.Time) time.Duration {
	status := r.posted.Load()
	if status == nil {
		return 0
	}
	if status != r.converted {
		r.converted, r.want = status, ReportOf(status, r.opts.Version)
	}
	have, stale := r.known.get()
	if stale {
		if now.Before(r.notBefore) {
			return r.notBefore.Sub(now)
		}
		if err := r.reread(ctx); err != nil {
			return r.failed(ctx, err)
		}
		have, _ = r.known.get()
	}
	if have != nil && equality.Semantic.DeepEqual(have.Status, r.want) {
		r.done(ctx)
		return 0
	}
	due := r.notBefore
	if rested := r.wrote.Add(writeShare * r.took); rested.After(due) {
		due = rested
	}
	if have != nil && sameReportButCounts(&have.Status, &r.want) && r.wrote.Add(countsEvery).After(due) {
		due = r.wrote.Add(countsEvery)
	}
	if have != nil && !r.wrote.IsZero() && !equality.Semantic.DeepEqual(have.Status, r.last) {
		// Two that put each other's writes right at once would do nothing else any more.
		r.health.set(ctx, "writing the node's report", fmt.Errorf("NodeReport %s was written by somebody else; does a second daemon run on this node?", r.opts.NodeName))
		if r.wrote.Add(contestEvery).After(due) {
			due = r.wrote.Add(contestEvery)
		}
	}
	if now.Before(due) {
		return due.Sub(now)
	}
	began := time.Now()
	conflict, err := r.put(ctx, have)
	if err == nil && !conflict {
		r.wrote, r.last = time.Now(), r.want
		r.took = r.wrote.Sub(began)
		r.done(ctx)
		return 0
	}
	return r.failed(ctx, err)
}

// failed says after how long to try again what failed, or met a report that somebody else had written: nil.
func (r *Reporter) failed(ctx context.Context, err error) time.Duration {
	if err != nil {
		r.health.set(ctx, "writing the node's report", err)
	}
	wait := r.retry.Step()
	r.notBefore = time.Now().Add(wait)
	return wait
}

func (r *Reporter) done(ctx context.Context) {
	r.retry, r.notBefore = backoff, time.Time{}
	r.health.set(ctx, "writing the node's report", nil)
	if !r.reported {
		r.reported = true
		close(r.first)
	}
}

// put writes the wanted status over have, or anew. After a conflict what is there was read again.
func (r *Reporter) put(ctx context.Context, have *v1alpha1.NodeReport) (conflict bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reports := r.clients.reports()
	if have == nil {
		have, err = reports.Create(ctx, &v1alpha1.NodeReport{
			ObjectMeta: metav1.ObjectMeta{Name: r.opts.NodeName, OwnerReferences: r.owner(ctx)},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return true, r.reread(ctx)
		}
		if err != nil {
			return false, fmt.Errorf("creating NodeReport %s: %w", r.opts.NodeName, err)
		}
		r.known.see(have)
	}
	next := &v1alpha1.NodeReport{ObjectMeta: *have.ObjectMeta.DeepCopy(), Status: r.want}
	next.ManagedFields = nil // of half a megabyte; the API server keeps them
	err = reports.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return true, r.reread(ctx)
	case err != nil:
		return false, fmt.Errorf("writing the status of NodeReport %s: %w", r.opts.NodeName, err)
	}
	r.known.see(next)
	return false, nil
}

func (r *Reporter) reread(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	got, err := r.clients.reports().Get(ctx, r.opts.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		r.known.forget()
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading NodeReport %s: %w", r.opts.NodeName, err)
	}
	r.known.see(got)
	return nil
}

// owner refers to the Node, so that what the node wrote goes with it. Without an answer there is no
// owner: what the node has to say matters more.
func (r *Reporter) owner(ctx context.Context) []metav1.OwnerReference {
	uid := r.opts.NodeUID
	if uid == "" {
		var err error
		if uid, err = r.clients.nodeUID(ctx, r.opts.NodeName); err != nil {
			r.opts.Log.WithError(err).WithField("node", r.opts.NodeName).Debug("the Node object cannot be had; nothing goes with it")
			return nil
		}
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.opts.NodeName, UID: uid}}
}
