package cluster

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/fakeapi"
	"github.com/pointsman/pointsman/sync"
)

// start runs what until the test ends or stop is called, which waits.
func start(t testing.TB, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(2 * soon):
			require.Fail(t, "does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

func quietLog() (*logrus.Logger, *logtest.Hook) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log, logtest.NewLocal(log)
}

func reporter(t testing.TB, s *fakeapi.Server, node string) (*Reporter, *logtest.Hook) {
	log, hook := quietLog()
	r, err := NewReporter(s.Config(), Options{NodeName: node, Version: "v0.3", Log: log})
	require.NoError(t, err)
	r.renewEvery = 50 * time.Millisecond
	return r, hook
}

func statusOf(servers ...sync.ServerStatus) *sync.Status {
	status := &sync.Status{}
	for i := range servers {
		status.Servers = append(status.Servers, &servers[i])
	}
	return status
}

func reportedActive(t testing.TB, s *fakeapi.Server, node string) string {
	var r v1alpha1.NodeReport
	if !s.Read(t, "nodereports", "", node, &r) || len(r.Status.VirtualServers) == 0 {
		return ""
	}
	return r.Status.VirtualServers[0].Active
}

func eventuallyReports(t testing.TB, s *fakeapi.Server, node, active string) {
	t.Helper()
	require.Eventually(t, func() bool { return reportedActive(t, s, node) == active }, soon, often)
}

func TestReporterWritesWhatChangedAndNothingElse(t *testing.T) {
	s := fakeapi.New(t)
	s.Apply(t, "nodes", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "mast01", UID: "uid-1"}})
	r, _ := reporter(t, s, "mast01")
	stop := start(t, r.Run)
	stays(t, 0, func() int { return s.Writes() + len(s.All("leases")) }, "nothing is known yet")
	r.Post(statusOf(serving("myapp", "v1", 1)))
	eventuallyReports(t, s, "mast01", "v1")
	var report v1alpha1.NodeReport
	s.Read(t, "nodereports", "", "mast01", &report)
	require.Equal(t, []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "mast01", UID: "uid-1"}}, report.OwnerReferences)
	require.Equal(t, 2, s.Writes(), "create, and its status")

	r.Post(statusOf(serving("myapp", "v1", 1)))
	stays(t, 2, s.Writes, "an equal status")
	r.Post(statusOf(serving("myapp", "v2", 2)))
	eventuallyReports(t, s, "mast01", "v2")
	require.Equal(t, 3, s.Writes())
	require.NoError(t, r.Healthy())
	stop()

	// A restarted daemon over an equal report.
	again, _ := reporter(t, s, "mast01")
	again.Post(statusOf(serving("myapp", "v2", 2)))
	renewed := s.Count("update leases")
	start(t, again.Run)
	require.Eventually(t, func() bool { return s.Count("update leases") > renewed+2 }, soon, often)
	require.Equal(t, 3, s.Writes())

	// Somebody's hand is put right.
	s.Read(t, "nodereports", "", "mast01", &report)
	report.Status.VirtualServers[0].Active = "v7"
	s.Apply(t, "nodereports", &report)
	eventuallyReports(t, s, "mast01", "v2")
	s.Remove("nodereports", "", "mast01")
	eventuallyReports(t, s, "mast01", "v2")
	stays(t, 6, s.Writes, "one write, then two")
}

func TestReporterPacesCounts(t *testing.T) {
	s := fakeapi.New(t)
	r, _ := reporter(t, s, "mast01")
	start(t, r.Run)
	drains := func(active string, n uint32) *sync.Status {
		st := serving("myapp", active, 1)
		st.Draining = []sync.DrainStatus{{Real: "10.0.0.1:80", Colour: "v0", Active: n}}
		return statusOf(st)
	}
	r.Post(drains("v1", 1000))
	eventuallyReports(t, s, "mast01", "v1")
	began, first := time.Now(), s.Writes()
	for n := uint32(999); s.Writes() == first; n-- {
		r.Post(drains("v1", n))
		time.Sleep(10 * time.Millisecond)
	}
	require.Greater(t, time.Since(began), countsEvery/2, "counts alone")
	// Just after counts were written the next ones have all of countsEvery to wait.
	r.Post(drains("v2", 5))
	require.Eventually(t, func() bool { return reportedActive(t, s, "mast01") == "v2" }, countsEvery*3/4, often, "anything else does not wait")
	r.Post(statusOf(serving("myapp", "v2", 1)))
	require.Eventually(t, func() bool { return s.Writes() == first+3 }, countsEvery*3/4, often, "nor does the end of a drain")
}

func TestReporterConflict(t *testing.T) {
	s := fakeapi.New(t)
	r, _ := reporter(t, s, "mast01")
	start(t, r.Run)
	r.Post(statusOf(serving("myapp", "v1", 1)))
	eventuallyReports(t, s, "mast01", "v1")
	conflicts := 0
	s.SetRefuse(func(verb, resource string) error {
		if verb+" "+resource == "update nodereports/status" && conflicts < 2 {
			conflicts++
			return apierrors.NewConflict(schema.GroupResource{}, "mast01", errors.New("changed"))
		}
		return nil
	})
	r.Post(statusOf(serving("myapp", "v2", 2)))
	eventuallyReports(t, s, "mast01", "v2")
	require.Equal(t, 2, s.Count("get nodereports"))
	require.NoError(t, r.Healthy())
}

// The API server gone for a while, with many changes meanwhile: red at once, logged once, one write after.
func TestReporterOutlivesTheAPIServer(t *testing.T) {
	s := fakeapi.New(t)
	r, hook := reporter(t, s, "mast01")
	start(t, r.Run)
	r.Post(statusOf(serving("myapp", "v1", 1)))
	eventuallyReports(t, s, "mast01", "v1")
	require.Eventually(t, func() bool { return s.Count("update leases") > 0 }, soon, often)
	before := s.Count("update nodereports/status")
	s.SetDown(true)
	for i := range int64(50) {
		r.Post(statusOf(serving("myapp", "v2", 2+i)))
		time.Sleep(20 * time.Millisecond)
	}
	require.ErrorContains(t, r.Healthy(), "NodeReport mast01")
	require.ErrorContains(t, r.Healthy(), "lease pointsman-system/node-mast01")
	s.SetDown(false)
	eventuallyReports(t, s, "mast01", "v2")
	require.Eventually(t, func() bool { return r.Healthy() == nil }, soon, often)
	require.Equal(t, before+1, s.Count("update nodereports/status"))
	said := map[string]int{}
	for _, e := range hook.AllEntries() {
		said[strings.SplitN(e.Message, ";", 2)[0]]++
	}
	require.Equal(t, 1, said["writing the node's report fails"], said)
	require.Equal(t, 1, said["writing the node's report works again"], said)
	require.Equal(t, 1, said["renewing the node's lease fails"], said)
}

// Post never waits, whatever the API server does, and the last status counts.
func TestPostNeverBlocks(t *testing.T) {
	s := fakeapi.New(t)
	r, _ := reporter(t, s, "mast01")
	hold := make(chan struct{})
	s.SetRefuse(func(verb, resource string) error {
		if verb == "create" && resource == "nodereports" {
			<-hold
		}
		return nil
	})
	start(t, r.Run)
	for i := range int64(10000) {
		r.Post(statusOf(serving("myapp", "v1", i)))
	}
	r.Post(statusOf(serving("myapp", "v2", 1)))
	close(hold) // which nobody would if Post had waited
	eventuallyReports(t, s, "mast01", "v2")
}

func TestLease(t *testing.T) {
	s := fakeapi.New(t)
	r, _ := reporter(t, s, "mast01")
	r.opts.NodeUID = "uid-2"
	r.Post(statusOf(serving("myapp", "v1", 1)))
	start(t, r.Run)
	var lease coordinationv1.Lease
	require.Eventually(t, func() bool { return s.Read(t, "leases", DefaultNamespace, "node-mast01", &lease) }, soon, often)
	require.Equal(t, "mast01", *lease.Spec.HolderIdentity)
	require.EqualValues(t, 40, *lease.Spec.LeaseDurationSeconds)
	require.Equal(t, map[string]string{leaseLabel: leaseLabelNode}, lease.Labels)
	require.EqualValues(t, "uid-2", lease.OwnerReferences[0].UID)
	require.Zero(t, s.Count("get nodes"), "the UID was given")
	reads := s.Count("get leases")
	renewed := s.Count("update leases")
	require.Eventually(t, func() bool { return s.Count("update leases") > renewed+3 }, soon, often)
	require.Equal(t, reads, s.Count("get leases"), "renewing reads nothing")

	s.Apply(t, "leases", &lease) // a conflict: another daemon of the node renewed it
	s.Remove("leases", DefaultNamespace, "node-mast01")
	require.Eventually(t, func() bool { return s.Read(t, "leases", DefaultNamespace, "node-mast01", &lease) }, soon, often)
	require.NoError(t, r.Healthy())
}

const (
	soon  = time.Minute // a slow machine is no failure
	often = 10 * time.Millisecond
)

// stays fails when what changes within a while.
func stays[T comparable](t testing.TB, want T, what func() T, message string) {
	t.Helper()
	require.Never(t, func() bool { return what() != want }, 500*time.Millisecond, often, message)
}
