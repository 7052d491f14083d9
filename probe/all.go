package probe

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

const (
	// Timeout of one test. An endpoint that takes longer to open a connection and answer fails.
	Timeout = 2 * time.Second
	// Parallel is how many tests are under way at a time.
	Parallel = 128
)

// Failure is an endpoint that did not pass.
type Failure struct {
	Endpoint netip.AddrPort
	// Seen and Detail are those of [Error].
	Seen, Detail string
	// Since is when it was first seen to fail, with no pass since; zero from All.
	Since time.Time
}

// String is the endpoint and what was seen, as in "10.244.1.2:80: HTTP status 503, want 200: body begins …".
func (f Failure) String() string {
	return f.Endpoint.String() + ": " + (&Error{Seen: f.Seen, Detail: f.Detail}).Error()
}

// Same tells whether f says the same of the same endpoint as g; Detail and Since are not compared.
func (f Failure) Same(g Failure) bool { return f.Endpoint == g.Endpoint && f.Seen == g.Seen }

// All tests each endpoint once and gives back those that failed, sorted by endpoint. It is done at the latest after
// [Timeout] for each [Parallel] endpoints or part of them, 8 s for 500 that do not answer, and when the context is:
// those that were not tested by then have failed, and say so.
func All(ctx context.Context, p *v1alpha1.Probe, endpoints []netip.AddrPort) []Failure {
	var failures []Failure
	for i, fault := range pass(ctx, p, endpoints, Timeout, make(chan struct{}, Parallel)) {
		if fault != nil {
			failures = append(failures, Failure{Endpoint: endpoints[i], Seen: fault.Seen, Detail: fault.Detail})
		}
	}
	slices.SortFunc(failures, compareFailures)
	return failures
}

func compareFailures(a, b Failure) int {
	if c := a.Endpoint.Compare(b.Endpoint); c != 0 {
		return c
	}
	return strings.Compare(a.Seen, b.Seen)
}

// pass tests each endpoint once; slots bounds the tests of all passes that share it.
func pass(ctx context.Context, p *v1alpha1.Probe, endpoints []netip.AddrPort, timeout time.Duration, slots chan struct{}) []*Error {
	faults := make([]*Error, len(endpoints))
	var done sync.WaitGroup
	for i := range endpoints {
		select {
		case <-ctx.Done():
		case slots <- struct{}{}:
		}
		if ctx.Err() != nil { // also where both were possible
			for j := i; j < len(endpoints); j++ {
				faults[j] = seen(ctx.Err(), "not tested: no time left")
			}
			break
		}
		done.Go(func() {
			defer func() { <-slots }()
			one, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			faults[i] = run(one, p, endpoints[i])
		})
	}
	done.Wait()
	return faults
}
