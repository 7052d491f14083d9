package probe

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Interval between two tests of an endpoint that is wanted.
const Interval = 2 * time.Second

// Target is what a Prober is to test.
type Target struct {
	Probe     *v1alpha1.Probe
	Endpoints []netip.AddrPort // in any order
}

// Result is what is known of a target as it is wanted now.
type Result struct {
	// Passed counts the endpoints that passed last time; Pending those that were not tested yet. With none pending
	// the result is complete. An endpoint that is no longer wanted is not in it.
	Passed, Pending int
	// Failures are those that failed last time, sorted.
	Failures []Failure
	// Oldest is when the oldest of these tests was begun; zero while there is none.
	Oldest time.Time
}

// Complete tells whether each endpoint was tested.
func (r *Result) Complete() bool { return r.Pending == 0 }

// same leaves out the time.
func (r *Result) same(s *Result) bool {
	return r.Passed == s.Passed && r.Pending == s.Pending && slices.EqualFunc(r.Failures, s.Failures, Failure.Same)
}

// Prober tests targets again and again, for as long as they are wanted. It may be used by many goroutines.
//
// Each target has a goroutine, which ends when the target is no longer wanted; so with nothing wanted there is none.
// All of them together have no more than [Parallel] tests under way.
type Prober struct {
	ctx      context.Context
	cancel   context.CancelFunc
	changed  chan struct{}
	slots    chan struct{}
	interval time.Duration
	timeout  time.Duration
	running  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	targets map[string]*target
}

// target is one that is wanted. Its fields are under the Prober's lock.
type target struct {
	cancel context.CancelFunc
	given  []netip.AddrPort // as Set was given them
	probe  *v1alpha1.Probe  // never changed: another probe is another target
	tests  map[netip.AddrPort]*test
	last   Result
	more   chan struct{} // of size one: there are endpoints not tested yet
}

// test is what came of the last test of one endpoint.
type test struct {
	begun time.Time // zero: not tested yet
	fault *Error
	since time.Time // when it began to fail
}

// NewProber starts with nothing wanted. It is over when the context is, or with Close.
func NewProber(ctx context.Context) *Prober {
	return newProber(ctx, Interval, Timeout)
}

func newProber(ctx context.Context, interval, timeout time.Duration) *Prober {
	p := &Prober{
		changed: make(chan struct{}, 1), slots: make(chan struct{}, Parallel),
		interval: interval, timeout: timeout, targets: map[string]*target{},
	}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

// Close ends all tests and waits until they have ended. Nothing is wanted any more, and Set does nothing.
func (p *Prober) Close() {
	p.cancel()
	p.mu.Lock()
	p.closed = true
	clear(p.targets)
	p.mu.Unlock()
	p.running.Wait()
}

// Changed gets a value when a result has changed by a test since the last value was taken: an endpoint passes or fails
// that did not, or fails in another way. What Set itself changes is not told.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

// Set says what is wanted from now on. A target whose probe is the same keeps what is known of the endpoints that stay;
// new endpoints are tested at once. To set the same again is cheap. Nothing that is handed over is kept.
func (p *Prober) Set(want map[string]Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for key, t := range p.targets {
		if w, ok := want[key]; !ok || !reflect.DeepEqual(t.probe, w.Probe) {
			t.cancel()
			delete(p.targets, key)
		}
	}
	for key, w := range want {
		t, ok := p.targets[key]
		if !ok {
			t = p.start(key, w.Probe.DeepCopy())
		}
		if !ok || !slices.Equal(t.given, w.Endpoints) {
			t.want(w.Endpoints)
		}
	}
}

// want makes the endpoints those that are tested.
func (t *target) want(endpoints []netip.AddrPort) {
	t.given = slices.Clone(endpoints)
	tests := make(map[netip.AddrPort]*test, len(endpoints))
	pending := false
	for _, e := range endpoints {
		if known, ok := t.tests[e]; ok {
			tests[e] = known
			continue
		}
		tests[e] = &test{}
		pending = true
	}
	t.tests = tests
	t.last = t.result()
	if pending {
		select {
		case t.more <- struct{}{}:
		default:
		}
	}
}

// Result gives what is known of a target; false when it is not wanted.
func (p *Prober) Result(key string) (Result, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.targets[key]
	if !ok {
		return Result{}, false
	}
	r := t.last
	r.Failures = slices.Clone(r.Failures)
	return r, true
}

func (p *Prober) start(key string, probe *v1alpha1.Probe) *target {
	ctx, cancel := context.WithCancel(p.ctx)
	t := &target{cancel: cancel, probe: probe, more: make(chan struct{}, 1)}
	p.targets[key] = t
	p.running.Go(func() { p.repeat(ctx, t) })
	return t
}

// repeat tests all endpoints of a target at each interval, and new ones between.
func (p *Prober) repeat(ctx context.Context, t *target) {
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.more:
			p.once(ctx, t, func(known *test) bool { return known.begun.IsZero() })
		case <-tick.C:
			p.once(ctx, t, func(*test) bool { return true })
		}
	}
}

// once makes one pass over those endpoints of a target that are chosen.
func (p *Prober) once(ctx context.Context, t *target, choose func(*test) bool) {
	var endpoints []netip.AddrPort
	var chosen []*test
	p.mu.Lock()
	for endpoint, known := range t.tests {
		if choose(known) {
			endpoints, chosen = append(endpoints, endpoint), append(chosen, known)
		}
	}
	p.mu.Unlock()
	begun := time.Now()
	faults := pass(ctx, t.probe, endpoints, p.timeout, p.slots)

	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil { // no longer wanted; the faults may be no more than that
		return
	}
	for i, endpoint := range endpoints {
		if known := chosen[i]; known == t.tests[endpoint] { // else it went, and perhaps another came to its address
			known.was(begun, faults[i])
		}
	}
	now := t.result()
	if changed := !now.same(&t.last); changed {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	t.last = now
}

func (k *test) was(begun time.Time, fault *Error) {
	switch {
	case fault == nil:
		k.since = time.Time{}
	case k.since.IsZero():
		k.since = begun
	}
	k.begun, k.fault = begun, fault
}

func (t *target) result() Result {
	var r Result
	for endpoint, known := range t.tests {
		if known.begun.IsZero() {
			r.Pending++
			continue
		}
		if r.Oldest.IsZero() || known.begun.Before(r.Oldest) {
			r.Oldest = known.begun
		}
		if known.fault == nil {
			r.Passed++
			continue
		}
		r.Failures = append(r.Failures, Failure{Endpoint: endpoint, Seen: known.fault.Seen, Detail: known.fault.Detail, Since: known.since})
	}
	slices.SortFunc(r.Failures, compareFailures)
	return r
}
