package cluster

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// store is where a reflector puts one kind of object: straight into what the source knows. It keeps the
// keys only.
type store struct {
	s       *Source
	name    string
	have    map[types.NamespacedName]struct{}
	trim    cache.TransformFunc
	set     func(key types.NamespacedName, obj any)
	remove  func(key types.NamespacedName)
	synced  bool // was filled once
	stopped bool // what still comes is of no interest
}

// Add, Update, Delete, Replace, Resync and Transformer make it a cache.TransformingStore.

func (st *store) Add(obj any) error    { return st.change(func() error { return st.put(obj) }) }
func (st *store) Update(obj any) error { return st.Add(obj) }
func (st *store) Resync() error        { return nil }

func (st *store) Transformer() cache.TransformFunc { return st.trim }

func (st *store) Delete(obj any) error {
	return st.change(func() error {
		key, err := keyOf(obj)
		if err == nil {
			st.drop(key)
		}
		return err
	})
}

func (st *store) Replace(list []any, _ string) error {
	return st.change(func() error {
		gone := make(map[types.NamespacedName]struct{}, len(st.have))
		for key := range st.have {
			gone[key] = struct{}{}
		}
		for _, obj := range list {
			key, err := keyOf(obj)
			if err != nil {
				return err
			}
			delete(gone, key)
			if err := st.put(obj); err != nil {
				return err
			}
		}
		for key := range gone {
			st.drop(key)
		}
		if !st.synced {
			st.synced, st.s.unsettled = true, true
		}
		st.s.health.caughtUp(st.name, time.Now())
		st.s.wake()
		return nil
	})
}

func (st *store) change(f func() error) error {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.stopped {
		return nil
	}
	return f()
}

func (st *store) put(obj any) error {
	key, err := keyOf(obj)
	if err != nil {
		return err
	}
	if obj, err = st.trim(obj); err != nil {
		return err
	}
	st.have[key] = struct{}{}
	st.set(key, obj)
	return nil
}

func (st *store) drop(key types.NamespacedName) {
	if _, had := st.have[key]; had {
		delete(st.have, key)
		st.remove(key)
	}
}

func keyOf(obj any) (types.NamespacedName, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return types.NamespacedName{}, fmt.Errorf("an object of type %T without metadata: %w", obj, err)
	}
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}, nil
}

// A watch that fails is tried again after 0.25 s, then later and later, up to 3 to 6 s. After an outage it
// may take two tries, one to go on and one to list anew; both are well within maxHold.
func backoff() *wait.Backoff {
	return &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Cap: 3 * time.Second, Jitter: 1, Steps: math.MaxInt32}
}

// listWatch tells client-go how to get what there is.
type listWatch struct {
	list bool
	*cache.ListWatch
}

// IsWatchListSemanticsUnSupported is what client-go asks before it has all that there is sent as events of a watch.
func (l listWatch) IsWatchListSemanticsUnSupported() bool { return l.list }

// run fills the store until ctx ends.
func (st *store) run(ctx context.Context, r reader, example runtime.Object) {
	lw := listWatch{!r.streamed, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" {
				// Of any age, from a cache that may be behind: a daemon that starts is not to go back to what was.
				o.ResourceVersion, o.Limit = "", 0
			}
			st.note(func(h *health, now time.Time) { h.asked(st.name, now) })
			list, err := r.list(ctx, o)
			st.note(func(h *health, now time.Time) { h.answered(st.name, "list", err, now) })
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			st.note(func(h *health, now time.Time) { h.asked(st.name, now) })
			w, err := r.watch(ctx, o)
			st.note(func(h *health, now time.Time) {
				h.answered(st.name, "watch", err, now)
				if err == nil && o.SendInitialEvents == nil {
					h.caughtUp(st.name, now) // goes on where it was
				}
			})
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, st.observe), nil
		},
	}}
	// The health says what matters, once; client-go would say it at each attempt.
	logger := klog.Logger(logr.Discard())
	reflector := cache.NewReflectorWithOptions(lw, example, st, cache.ReflectorOptions{
		Name: st.name, Logger: &logger, Backoff: backoff(),
	})
	reflector.RunWithContext(klog.NewContext(ctx, logger))
}

// observe looks at what a watch brings: an answer to the health, or the end of the server's memory.
func (st *store) observe(e watch.Event) (watch.Event, bool) {
	if status, ok := e.Object.(*metav1.Status); ok && e.Type == watch.Error {
		st.note(func(h *health, now time.Time) { h.answered(st.name, "watch", statusError(status), now) })
		return e, true
	}
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if !st.stopped {
		st.s.health.alive(time.Now())
	}
	return e, true
}

func (st *store) note(f func(*health, time.Time)) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if !st.stopped {
		f(&st.s.health, time.Now())
		st.s.wake()
	}
}
