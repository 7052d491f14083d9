// Package calls makes the calls that rollouts want: hooks before and after a switch, and the query that an
// observation asks for.
//
// It decides nothing, and keeps nothing over a restart: what a hook answered is in the State once it was
// taken, and a hook whose answer was not is called again.
//
// A caller may rely on this: nothing here blocks but [Calls.Close]; no call is made twice at once; and what is no
// longer wanted is forgotten.
package calls

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/probe"
	"github.com/pointsman/pointsman/rollout"
)

// minInterval is the least time between two queries, whatever is declared.
const minInterval = time.Second

// queryTimeout bounds one query.
const queryTimeout = 10 * time.Second

// Calls are those of all VirtualServers.
type Calls struct {
	told    func(types.NamespacedName)
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu  sync.Mutex
	all map[types.NamespacedName]*calls
}

type calls struct {
	call   *rollout.Call // under way, or answered
	answer *rollout.Answer
	asking bool
	asked  v1alpha1.PrometheusQuery
	query  rollout.Query
}

// New calls told, from any goroutine, when there is an answer for a VirtualServer.
func New(ctx context.Context, told func(types.NamespacedName)) *Calls {
	c := &Calls{told: told, all: map[types.NamespacedName]*calls{}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// Close ends all calls and waits until they have ended.
func (c *Calls) Close() {
	c.cancel()
	c.running.Wait()
}

// Body is what a hook is sent.
type Body struct {
	Namespace string                       `json:"namespace"`
	Name      string                       `json:"name"`
	Status    v1alpha1.VirtualServerStatus `json:"status"`
}

// Want makes what is wanted now, as far as it is not under way, and says when the next query is due; the
// zero time when none is.
func (c *Calls) Want(key types.NamespacedName, want rollout.Wants, spec *v1alpha1.VirtualServerSpec, status *v1alpha1.VirtualServerStatus) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.all[key]
	if want.Call == nil && !want.Query {
		if o != nil && !o.asking && (o.call == nil || o.answer != nil) {
			delete(c.all, key)
		}
		return time.Time{}
	}
	if o == nil {
		o = &calls{}
		c.all[key] = o
	}
	if want.Call != nil && (o.call == nil || *o.call != *want.Call) && c.ctx.Err() == nil {
		c.post(key, o, *want.Call, spec.Switch.Hooks, Body{key.Namespace, key.Name, *status.DeepCopy()})
	}
	if !want.Query {
		return time.Time{}
	}
	q := *spec.Switch.Observe.Prometheus.DeepCopy()
	if o.asked.URL != q.URL || o.asked.Query != q.Query {
		o.query = rollout.Query{} // another question
	}
	next := o.query.Asked.Add(max(minInterval, q.Interval.Duration))
	if o.asking {
		return time.Time{}
	}
	if now := time.Now(); now.Before(next) || c.ctx.Err() != nil {
		return next
	}
	o.asking, o.asked = true, q
	c.running.Go(func() { c.ask(key, o, q) })
	return time.Time{}
}

func (c *Calls) post(key types.NamespacedName, o *calls, call rollout.Call, hooks *v1alpha1.Hooks, body Body) {
	hook := hooks.Before
	if call.After {
		hook = hooks.After
	}
	o.call, o.answer = &call, nil
	c.running.Go(func() {
		ctx, cancel := context.WithTimeout(c.ctx, hook.Timeout.Duration)
		defer cancel()
		answer := rollout.Answer{Call: call}
		if err := probe.Post(ctx, hook.URL, body); err != nil {
			answer.Err = err.Error()
		}
		answer.At = time.Now()
		c.mu.Lock()
		if o.call == &call {
			o.answer = &answer
		}
		c.mu.Unlock()
		if c.ctx.Err() == nil {
			c.told(key)
		}
	})
}

func (c *Calls) ask(key types.NamespacedName, o *calls, q v1alpha1.PrometheusQuery) {
	ctx, cancel := context.WithTimeout(c.ctx, queryTimeout)
	defer cancel()
	value, err := probe.Value(ctx, q.URL, q.Query)
	now := time.Now()
	c.mu.Lock()
	o.asking = false
	if o.query.Asked = now; err != nil {
		o.query.Err = err.Error()
	} else {
		o.query = rollout.Query{Asked: now, Value: value, Answered: now}
	}
	c.mu.Unlock()
	if c.ctx.Err() == nil {
		c.told(key)
	}
}

// Answers are what is known for a VirtualServer.
func (c *Calls) Answers(key types.NamespacedName) ([]rollout.Answer, rollout.Query) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.all[key]
	if o == nil {
		return nil, rollout.Query{}
	}
	var answers []rollout.Answer
	if o.answer != nil {
		answers = append(answers, *o.answer)
	}
	return answers, o.query
}
