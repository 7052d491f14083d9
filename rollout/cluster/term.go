package cluster

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/rollout"
	"github.com/pointsman/pointsman/rollout/calls"
)

// term is one time of leadership. A queue holds the VirtualServers whose status may have to change;
// what comes in is compared entry by entry, so a changed report costs as much as changed in it.
type term struct {
	c       *Coordinator
	board   *board
	arrived chan struct{} // a node came alive
	queue   workqueue.TypedRateLimitingInterface[types.NamespacedName]

	servers cache.Store
	written cache.MutationCache // servers, and what we wrote that the watch has yet to bring

	calls *calls.Calls

	mu      sync.Mutex
	seen    map[types.NamespacedName]*endpoints.Server // of the last snapshot
	failing map[types.NamespacedName]error
}

func newTerm(c *Coordinator) *term {
	return &term{
		c: c, board: newBoard(), arrived: make(chan struct{}, 1), failing: map[types.NamespacedName]error{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](retryFrom, retryTo)),
	}
}

// run writes statuses until ctx ends, and not before everything was read once.
func (t *term) run(ctx context.Context) {
	t.calls = calls.New(ctx, t.add)
	defer t.calls.Close()
	var group sync.WaitGroup
	defer group.Wait()
	defer t.queue.ShutDown()
	var synced []cache.InformerSynced
	common := common{}
	inform := func(from cache.ListerWatcher, object runtime.Object, put func(any), gone func(any)) cache.Store {
		store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
			ListerWatcher: from, ObjectType: object, Transform: func(o any) (any, error) {
				if vs, ok := o.(*v1alpha1.VirtualServer); ok {
					common.share(vs)
				}
				return withoutManagedFields(o)
			},
			Handler: cache.ResourceEventHandlerFuncs{
				AddFunc:    put,
				UpdateFunc: func(_, o any) { put(o) },
				DeleteFunc: func(o any) {
					if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
						o = last.Obj
					}
					gone(o)
				},
			},
		})
		synced = append(synced, informer.HasSynced)
		group.Go(func() { informer.RunWithContext(ctx) })
		return store
	}
	h, clients := &t.c.health, t.c.clients

	enqueue := func(o any) { t.add(keyOfServer(o.(*v1alpha1.VirtualServer))) }
	t.servers = inform(watching(clients.servers(metav1.NamespaceAll), "VirtualServers", h, everything), &v1alpha1.VirtualServer{}, enqueue, enqueue)
	t.written = cache.NewIntegerResourceVersionMutationCache(klog.FromContext(ctx), t.servers, nil, time.Minute, false)
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return // the handlers below ask for all VirtualServers
	}
	inform(watching(clients.reports(), "NodeReports", h, everything), &v1alpha1.NodeReport{},
		func(o any) { t.reported(o.(*v1alpha1.NodeReport).Name, o.(*v1alpha1.NodeReport)) },
		func(o any) { t.reported(o.(*v1alpha1.NodeReport).Name, nil) })
	inform(watching(clients.leases(t.c.opts.Namespace), "the nodes' leases", h, nodeLeasesOnly), &coordinationv1.Lease{},
		func(o any) { t.renewed(o.(*coordinationv1.Lease)) },
		func(o any) { t.addAllIf(t.board.released(o.(*coordinationv1.Lease))) })
	t.observe(t.c.snapshot.Load())
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return
	}
	for range workers {
		group.Go(func() { t.work(ctx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.c.wake:
			t.observe(t.c.snapshot.Load())
		case <-t.arrived:
			timer.Reset(t.board.calm(time.Now(), expiry))
		case now := <-timer.C:
			t.addAllIf(t.board.expire(now))
			timer.Reset(t.board.calm(now, expiry))
		}
	}
}

func (t *term) add(key types.NamespacedName) { t.queue.AddAfter(key, settle) }

func (t *term) addAllIf(changed bool) {
	if !changed {
		return
	}
	for _, o := range t.servers.List() {
		t.add(keyOfServer(o.(*v1alpha1.VirtualServer)))
	}
}

func (t *term) renewed(lease *coordinationv1.Lease) {
	if !t.board.renewed(lease, time.Now()) {
		return
	}
	t.addAllIf(true)
	select { // its Lease may run out before those that were there
	case t.arrived <- struct{}{}:
	default:
	}
}

func (t *term) reported(node string, report *v1alpha1.NodeReport) {
	changed, all := t.board.report(node, report)
	t.addAllIf(all)
	for _, key := range changed {
		t.add(key)
	}
}

// observe takes the servers of a snapshot, and looks again at those that count otherwise.
func (t *term) observe(s *endpoints.Snapshot) {
	if s == nil {
		return
	}
	seen := make(map[types.NamespacedName]*endpoints.Server, len(s.Servers))
	for i := range s.Servers {
		seen[s.Servers[i].Key] = &s.Servers[i]
	}
	t.mu.Lock()
	before := t.seen
	t.seen = seen
	t.mu.Unlock()
	for key, server := range seen {
		if last := before[key]; last == nil || last.Generation != server.Generation || last.UID != server.UID || !countsAlike(last, server) {
			t.add(key)
		}
	}
	for key := range before {
		if seen[key] == nil {
			t.add(key)
		}
	}
}

func (t *term) work(ctx context.Context) {
	for {
		key, ended := t.queue.Get()
		if ended {
			return
		}
		if ctx.Err() == nil {
			t.settleOne(ctx, key)
		}
		t.queue.Done(key)
	}
}

// settleOne brings the status of one VirtualServer up to date.
func (t *term) settleOne(ctx context.Context, key types.NamespacedName) {
	err := t.write(ctx, key)
	if err == nil || apierrors.IsNotFound(err) {
		t.queue.Forget(key)
		t.fail(ctx, key, nil)
		return
	}
	if !apierrors.IsConflict(err) { // which the watch brings the cure for
		t.fail(ctx, key, fmt.Errorf("VirtualServer %s: %w", key, err))
	}
	t.queue.AddRateLimited(key)
}

func (t *term) write(ctx context.Context, key types.NamespacedName) error {
	o, exists, err := t.written.GetByKey(key.String())
	if err != nil || !exists {
		return err
	}
	vs := o.(*v1alpha1.VirtualServer)
	if vs.DeletionTimestamp != nil {
		return nil
	}
	live, dead := t.board.view(key)
	t.mu.Lock()
	server := t.seen[key]
	t.mu.Unlock()
	var outside Outside
	outside.Answers, outside.Query = t.calls.Answers(key)
	now := time.Now()
	status, wants := Aggregate(vs, server, live, dead, outside, now)
	if equality.Semantic.DeepEqual(vs.Status, status) {
		t.want(key, wants, server, &status, now)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	next := vs.DeepCopy()
	next.Status = status
	if err := t.c.clients.servers(key.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return err
	}
	t.written.Mutation(next)
	t.want(key, wants, server, &status, now)
	// Only of what this one wrote, so that each is told once.
	for _, e := range eventsBetween(vs, &vs.Status, &status) {
		t.c.recorder.tell(next, e)
	}
	return nil
}

// want sees to what a rollout wants, of the status that is at the API server: calls, and to be looked at again.
func (t *term) want(key types.NamespacedName, wants rollout.Wants, server *endpoints.Server, status *v1alpha1.VirtualServerStatus, now time.Time) {
	due := wants.Due
	if server != nil {
		if next := t.calls.Want(key, wants, server.Spec, status); due.IsZero() || !next.IsZero() && next.Before(due) {
			due = next
		}
	}
	if !due.IsZero() {
		// A status has whole seconds, so what is due may be a part of one later.
		t.queue.AddAfter(key, max(0, due.Sub(now))+settle)
	}
}

// fail keeps health red while any status cannot be written.
func (t *term) fail(ctx context.Context, key types.NamespacedName, err error) {
	t.mu.Lock()
	delete(t.failing, key)
	if err != nil {
		t.failing[key] = err
	}
	for _, err = range t.failing {
		break
	}
	t.mu.Unlock()
	t.c.health.set(ctx, "writing the status of VirtualServers", err)
}

func keyOfServer(vs *v1alpha1.VirtualServer) types.NamespacedName {
	return types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}
}

// common has once in memory what many VirtualServers have in common, of which there may be thousands. It belongs to the one
// goroutine that takes them in. Nobody changes what is taken in.
type common struct {
	texts map[string]string // of conditions

	// Of the last one.
	spec       v1alpha1.VirtualServerSpec
	conditions []metav1.Condition
	colours    []v1alpha1.ColourStatus
}

const maxTexts = 1 << 12

// share puts what is known in the place of what was just decoded, and leaves no room in lists. Most that come together have
// the same spec beside the Service, and conditions of one second.
func (c *common) share(vs *v1alpha1.VirtualServer) {
	// All that is sent to an API server with a status, and counts there, is which object it is for.
	vs.Annotations, vs.Labels, vs.OwnerReferences, vs.Finalizers = nil, nil, nil, nil
	if len(c.texts) > maxTexts || c.texts == nil {
		c.texts = map[string]string{}
	}
	one := func(s *string) {
		if known, ok := c.texts[*s]; ok {
			*s = known
		} else {
			c.texts[*s] = *s
		}
	}
	s := &vs.Status
	for i := range s.Conditions {
		condition := &s.Conditions[i]
		one(&condition.Type)
		one((*string)(&condition.Status))
		one(&condition.Reason)
		one(&condition.Message)
	}
	c.conditions, c.colours = shareList(s.Conditions, c.conditions), shareList(s.Colours, c.colours)
	s.Conditions, s.Colours, s.History = c.conditions, c.colours, slices.Clone(s.History)
	if c.spec.Service = vs.Spec.Service; !reflect.DeepEqual(c.spec, vs.Spec) {
		c.spec = vs.Spec
	}
	vs.Spec = c.spec
}

// shareList is the known list, or else the new one without room.
func shareList[T comparable](list, known []T) []T {
	if slices.Equal(list, known) {
		return known
	}
	return slices.Clone(list)
}

// withoutManagedFields drops who set which field, often the larger part of an object, which nobody
// reads here. The API server keeps them when an object comes without.
func withoutManagedFields(o any) (any, error) {
	if object, err := meta.Accessor(o); err == nil {
		object.SetManagedFields(nil)
	}
	return o, nil
}
