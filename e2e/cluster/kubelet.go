package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Annotations of a Pod by which a test plays its container.
const (
	// ReadyAnnotation "false" makes the Pod not ready, as a failing readiness probe does.
	ReadyAnnotation = "e2e.pointsman.io/ready"
	// SaysAnnotation is what the Pod's listeners answer with; without it the value of its label
	// version, and without that its name.
	SaysAnnotation = "e2e.pointsman.io/says"
)

// kubelet stands in for the kubelets of all nodes and for the scheduler: it binds Pods, runs them as
// listeners in namespaces of their own, and tells the API server what became of them.
type kubelet struct {
	c     *Cluster
	queue workqueue.TypedRateLimitingInterface[types.NamespacedName]
	turn  atomic.Int64 // the scheduler's
	end   context.CancelFunc
	done  sync.WaitGroup

	mu      sync.Mutex
	pods    corelisters.PodLister
	unwatch func()
	running map[types.UID]*sandbox
	names   map[types.NamespacedName]types.UID // of those that run
	next    map[*Node]int                      // host part of the next address to try
	used    map[string]bool                    // addresses
	ended   map[netip.Addr]time.Time           // when what had the address last began to end
	links   int
}

// startKubelet starts it; it works when its cache has synced.
func startKubelet(c *Cluster) (*kubelet, error) {
	ctx, cancel := context.WithCancel(context.Background())
	k := &kubelet{
		c: c, end: cancel,
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](50*time.Millisecond, 2*time.Second)),
		running: map[types.UID]*sandbox{}, names: map[types.NamespacedName]types.UID{},
		next: map[*Node]int{}, used: map[string]bool{}, ended: map[netip.Addr]time.Time{},
	}
	if err := k.watch(); err != nil {
		cancel()
		return nil, err
	}
	for range 8 {
		k.done.Go(func() {
			for k.work(ctx) {
			}
		})
	}
	return k, nil
}

// watch watches Pods, instead of how it did before. After an outage a watch comes back by itself, but
// in its own time: a reflector waits up to a minute between two attempts.
func (k *kubelet) watch() error {
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(k.c.Kube, 0)
	informer := factory.Core().V1().Pods().Informer()
	changed := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		pod := object.(*corev1.Pod)
		k.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, DeleteFunc: changed, UpdateFunc: func(_, object any) { changed(object) },
	})
	if err != nil {
		cancel()
		return err
	}
	factory.Start(ctx.Done())
	timeout, done := context.WithTimeout(ctx, Patience)
	defer done()
	if !cache.WaitForCacheSync(timeout.Done(), informer.HasSynced) {
		cancel()
		return errors.New("the pods' cache did not sync")
	}
	k.mu.Lock()
	unwatch := k.unwatch
	k.pods = factory.Core().V1().Pods().Lister()
	k.unwatch = func() { cancel(); factory.Shutdown() }
	for name := range k.names {
		k.queue.Add(name) // it may be gone, which the new watch does not say
	}
	k.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	// What the new watch brought may have been judged by the old cache.
	all, err := k.pods.List(labels.Everything())
	for _, pod := range all {
		changed(pod)
	}
	return err
}

// stop ends it, and the pods with it.
func (k *kubelet) stop() {
	k.end()
	k.unwatch()
	k.queue.ShutDown()
	k.done.Wait()
	for _, s := range k.running {
		s.stop()
	}
}

func (k *kubelet) work(ctx context.Context) bool {
	name, shutdown := k.queue.Get()
	if shutdown {
		return false
	}
	defer k.queue.Done(name)
	err := k.sync(ctx, name)
	if err == nil {
		k.queue.Forget(name)
		return true
	}
	// A conflict, or an API server that is not there, is what happens; the rest should be seen.
	if ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && k.queue.NumRequeues(name) == 3 {
		fmt.Fprintf(os.Stderr, "cluster: pod %v: %v\n", name, err)
	}
	k.queue.AddRateLimited(name)
	return true
}

// sync makes one Pod what its object says, and its object what it is.
func (k *kubelet) sync(ctx context.Context, name types.NamespacedName) error {
	k.mu.Lock()
	pods := k.pods
	k.mu.Unlock()
	pod, err := pods.Pods(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		k.remove(name, "")
		return nil
	}
	if err != nil {
		return err
	}
	k.remove(name, pod.UID) // a Pod of the same name that was before
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp != nil {
			return nil
		}
		return k.bind(ctx, pod)
	}
	node := k.c.find(pod.Spec.NodeName)
	if node == nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	s := k.find(pod.UID)
	if pod.DeletionTimestamp != nil {
		return k.terminate(ctx, pod, s)
	}
	if s == nil {
		if s, err = k.start(node, pod); err != nil {
			return fmt.Errorf("starting it on %s: %w", node.Name(), err)
		}
	}
	return k.report(ctx, pod, node, s)
}

// terminate lets the Pod serve until its grace is over, and then removes it and its object. While it
// serves it is as ready as before, like a Pod whose readiness probe goes on to succeed: that its
// endpoints are terminating, and so not ready, is the EndpointSlice controller's to say.
func (k *kubelet) terminate(ctx context.Context, pod *corev1.Pod, s *sandbox) error {
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	if s != nil {
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if pod.DeletionGracePeriodSeconds != nil {
			grace = *pod.DeletionGracePeriodSeconds
		}
		if left := s.left(time.Duration(grace) * time.Second); left > 0 {
			k.queue.AddAfter(name, left)
			return k.report(ctx, pod, k.c.find(pod.Spec.NodeName), s)
		}
		k.remove(name, "")
	}
	now := int64(0)
	err := k.c.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (k *kubelet) find(uid types.UID) *sandbox {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running[uid]
}

// remove stops what runs under the name, unless it is the Pod of that UID.
func (k *kubelet) remove(name types.NamespacedName, except types.UID) {
	k.mu.Lock()
	uid, ok := k.names[name]
	if !ok || uid == except {
		k.mu.Unlock()
		return
	}
	s := k.running[uid]
	delete(k.running, uid)
	delete(k.names, name)
	k.ended[s.addr] = time.Now()
	k.mu.Unlock()
	s.stop()
	k.mu.Lock()
	delete(k.used, s.addr.String())
	k.mu.Unlock()
}

// endedAt is when the Pod that last had the address was ended; zero when none was.
func (k *kubelet) endedAt(addr netip.Addr) time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ended[addr]
}

// find gives the node of the name; nil when there is none.
func (c *Cluster) find(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name() == name {
			return n
		}
	}
	return nil
}
