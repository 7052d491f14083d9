package cluster

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// A VirtualServer that names a Service which the watch does not show waits that long for the Service
	// to be looked up. After that it is refused as without Service.
	lookupPatience = 2 * time.Second
	lookupTimeout  = 2 * time.Second
	// The label being added is seen by the watch. Asking again is for the text of the refusal only.
	lookupFirst, lookupMost = time.Second, 5 * time.Minute
	// Lookups a second, and at once: every node makes them.
	lookupRate, lookupBurst = 5, 20
)

// lookup is a Service that is named but not shown by the watch, which sees labelled ones only: asked for
// by name, it turns out not to be there, or not to be labelled.
type lookup struct {
	asked    time.Time // first time
	due      time.Time // next time
	delay    time.Duration
	answered bool
}

// lookups asks for Services until ctx ends.
func (s *Source) lookups(ctx context.Context) {
	limit := rate.NewLimiter(lookupRate, lookupBurst)
	for ctx.Err() == nil {
		name, due := s.nextLookup()
		if now := time.Now(); due.After(now) {
			timer := time.NewTimer(due.Sub(now))
			select {
			case <-ctx.Done():
			case <-s.lookupWanted:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		if limit.Wait(ctx) != nil {
			return
		}
		call, cancel := context.WithTimeout(ctx, lookupTimeout)
		svc, err := s.client.service(call, name)
		cancel()
		s.lookedUp(name, svc, err)
	}
}

// nextLookup is the one that is due first; in an hour, if there is none.
func (s *Source) nextLookup() (name types.NamespacedName, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	due = time.Now().Add(time.Hour)
	for n, l := range s.missing {
		if l.due.Before(due) {
			name, due = n, l.due
		}
	}
	return name, due
}

// lookedUp takes the answer.
func (s *Source) lookedUp(name types.NamespacedName, svc *corev1.Service, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.missing[name]
	if l == nil {
		return // the watch was faster
	}
	now := time.Now()
	l.delay = min(2*l.delay, lookupMost)
	l.due = now.Add(l.delay)
	const call = "services by name"
	if apierrors.IsForbidden(err) {
		s.health.answered(call, "get", err, now)
		s.wake()
		return
	}
	delete(s.health.refused, call)
	switch {
	case err == nil:
		_, _ = s.client.trimService(svc)
		s.resolver.SetService(svc)
	case apierrors.IsNotFound(err):
		s.resolver.ServiceGone(name)
	default:
		return // the watches tell of an API server that does not answer
	}
	l.answered, s.unsettled = true, true
	s.wake()
}
