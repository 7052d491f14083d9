package cluster

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/pointsman/pointsman/internal/fakeapi"
)

func candidate(t *testing.T, s *fakeapi.Server, identity string) *election {
	log, _ := quietLog()
	c, err := newClients(s.Config())
	require.NoError(t, err)
	return &election{leases: c.leases(DefaultNamespace), identity: identity, term: 2 * time.Second, deadline: time.Second, retry: 20 * time.Millisecond, health: &health{log: log}}
}

func (e *election) try(t *testing.T) bool {
	t.Helper()
	ours, err := e.attempt(context.Background(), soon)
	require.NoError(t, err)
	return ours
}

func coordinatorsLease(t *testing.T, s *fakeapi.Server) coordinationv1.LeaseSpec {
	var l coordinationv1.Lease
	require.True(t, s.Read(t, "leases", DefaultNamespace, coordinatorLease, &l))
	return l.Spec
}

func held(holder string, at time.Time, seconds int32) *coordinationv1.Lease {
	when := metav1.NewMicroTime(at)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: DefaultNamespace, Name: coordinatorLease},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &when, RenewTime: &when, LeaseTransitions: ptr.To[int32](7),
		},
	}
}

// Whatever time a Lease names, it is held for its duration from when we saw it change.
func TestElectionGoesByItsOwnClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"slow by a day": -24 * time.Hour, "fast by a day": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := fakeapi.New(t)
			s.Apply(t, "leases", held("a", time.Now().Add(skew), 3600))
			e := candidate(t, s, "b")
			require.False(t, e.try(t), "it was just seen")
			e.recordedAt = time.Now().Add(-3599 * time.Second)
			require.False(t, e.try(t))
			s.Apply(t, "leases", held("a", time.Now().Add(skew+time.Second), 3600))
			require.False(t, e.try(t))
			e.recordedAt = e.recordedAt.Add(-time.Minute)
			require.False(t, e.try(t), "it was renewed, which counts anew")
			e.recordedAt = e.recordedAt.Add(-time.Hour)
			require.True(t, e.try(t), "it was not renewed for as long as it said")
			got := coordinatorsLease(t, s)
			require.Equal(t, "b", *got.HolderIdentity)
			require.Equal(t, int32(2), *got.LeaseDurationSeconds)
			require.Equal(t, int32(8), *got.LeaseTransitions)
		})
	}
}

// Of two that see it free at once, one gets it.
func TestElectionOfTwo(t *testing.T) {
	s := fakeapi.New(t)
	s.Apply(t, "leases", held("", time.Now(), 1))
	a, b := candidate(t, s, "a"), candidate(t, s, "b")
	ctx := context.Background()
	require.NoError(t, a.read(ctx))
	require.NoError(t, b.read(ctx))
	require.NoError(t, a.write(ctx, time.Now()))
	require.Error(t, b.write(ctx, time.Now()), "over a version that is gone")
	require.False(t, b.try(t))
	before := coordinatorsLease(t, s)
	reads := s.Count("get leases")
	require.True(t, a.try(t))
	require.Equal(t, reads, s.Count("get leases"), "who leads does not read")
	after := coordinatorsLease(t, s)
	require.True(t, before.AcquireTime.Equal(after.AcquireTime))
	require.Equal(t, before.LeaseTransitions, after.LeaseTransitions)
	require.True(t, before.RenewTime.Before(after.RenewTime))
	a.release(ctx)
	require.True(t, b.try(t), "given up")
	a.release(ctx)
	require.Equal(t, "b", *coordinatorsLease(t, s).HolderIdentity, "and not ours to give up any more")
}

// A leader whose Lease is another's ends its term at once; so it does when it cannot renew for its deadline.
func TestElectionLost(t *testing.T) {
	cases := map[string]func(t *testing.T, s *fakeapi.Server){
		"taken": func(t *testing.T, s *fakeapi.Server) { s.Apply(t, "leases", held("b", time.Now(), 3600)) },
		"refused": func(t *testing.T, s *fakeapi.Server) {
			s.SetRefuse(func(string, string) error { return apierrors.NewInternalError(errors.New("etcd is gone")) })
		},
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			s := fakeapi.New(t)
			c := coordinator(t, s, "a")
			var ended error
			c.stand(context.Background(), func(term context.Context) {
				lose(t, s)
				<-term.Done()
				ended = term.Err()
			})
			require.ErrorIs(t, ended, context.Canceled)
			if name == "taken" {
				require.Equal(t, "b", *coordinatorsLease(t, s).HolderIdentity)
			}
			s.SetRefuse(nil)
		})
	}
}

// A Lease that was deleted, or never was, is made.
func TestElectionMakesItsLease(t *testing.T) {
	s := fakeapi.New(t)
	e := candidate(t, s, "a")
	require.True(t, e.try(t))
	s.Remove("leases", DefaultNamespace, coordinatorLease)
	require.True(t, e.try(t))
	require.Equal(t, "a", *coordinatorsLease(t, s).HolderIdentity)
	require.Equal(t, 2, s.Count("create leases"))
}

// An API server that does not answer is asked again, and loses nothing to a nameless error.
func TestElectionWithoutAnswer(t *testing.T) {
	s := fakeapi.New(t)
	e := candidate(t, s, "a")
	s.SetDown(true)
	_, err := e.attempt(context.Background(), soon)
	require.Error(t, err)
	s.SetDown(false)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, won := e.acquire(ctx)
	require.True(t, won)
	cancel()
	_, won = e.acquire(ctx)
	require.False(t, won)
	require.False(t, errors.Is(e.health.err(), context.Canceled))
}

// cutOff has a renewal under way when its context ends, of which the answer never comes.
type cutOff struct {
	through http.RoundTripper
	arrives bool
	begun   chan struct{}
	once    sync.Once
}

func (c *cutOff) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	cut := false
	if r.Method == http.MethodPut {
		c.once.Do(func() { cut = true })
	}
	if !cut {
		return c.through.RoundTrip(r)
	}
	if c.arrives {
		if answer, err = c.through.RoundTrip(r); err == nil {
			_ = answer.Body.Close()
		}
	}
	close(c.begun)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A renewal that is cut off by the end of the term does not keep the Lease from being given up.
func TestLeaseIsGivenUpInTheMiddleOfARenewal(t *testing.T) {
	for name, arrives := range map[string]bool{"that has arrived": true, "that has not": false} {
		t.Run(name, func(t *testing.T) {
			s := fakeapi.New(t)
			cut := &cutOff{arrives: arrives, begun: make(chan struct{})}
			config := s.Config()
			config.Wrap(func(through http.RoundTripper) http.RoundTripper { cut.through = through; return cut })
			log, _ := quietLog()
			c, err := NewCoordinator(config, Options{NodeName: "a", Log: log})
			require.NoError(t, err)
			c.leadRetry = 10 * time.Millisecond
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-cut.begun
				cancel()
			}()
			c.stand(ctx, func(term context.Context) { <-term.Done() })
			require.Empty(t, *coordinatorsLease(t, s).HolderIdentity)
		})
	}
}
