package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/fakeapi"
)

func coordinator(t testing.TB, s *fakeapi.Server, node string) *Coordinator {
	log, _ := quietLog()
	c, err := NewCoordinator(s.Config(), Options{NodeName: node, Version: "v0.3", Log: log})
	require.NoError(t, err)
	c.leadFor, c.leadDeadline, c.leadRetry = 2*time.Second, time.Second, 100*time.Millisecond
	return c
}

func statusIn(t testing.TB, s *fakeapi.Server, name string) v1alpha1.VirtualServerStatus {
	var vs v1alpha1.VirtualServer
	s.Read(t, "virtualservers", "default", name, &vs)
	return vs.Status
}

// world has that many VirtualServers of v1, and live nodes that serve them.
func world(t testing.TB, s *fakeapi.Server, servers int, nodes ...string) *endpoints.Snapshot {
	var snapshot endpoints.Snapshot
	var entries []v1alpha1.NodeVirtualServer
	for i := range servers {
		vs := server(fmt.Sprintf("app%04d", i), "v1", 1)
		vs.UID = "u"
		s.Apply(t, "virtualservers", vs)
		entries = append(entries, entry(vs.Name, "v1"))
		snapshot.Servers = append(snapshot.Servers, *resolved(vs, both))
	}
	for _, n := range nodes {
		s.Apply(t, "nodereports", reportWith(n, entries...))
		s.Apply(t, "leases", leaseOf(n, time.Now().Add(time.Hour)))
	}
	return &snapshot
}

func eventuallyStatus(t testing.TB, s *fakeapi.Server, name string, ok func(v1alpha1.VirtualServerStatus) bool) {
	t.Helper()
	require.Eventually(t, func() bool { return ok(statusIn(t, s, name)) }, soon, often)
}

func allSwitched(s v1alpha1.VirtualServerStatus) bool {
	return s.Phase == v1alpha1.PhaseSteady && meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionSwitched)
}

func eventReasons(s *fakeapi.Server) (out []string) {
	for _, o := range s.All("events") {
		reason, _, _ := unstructured.NestedString(o.Object, "reason")
		out = append(out, reason)
	}
	slices.Sort(out)
	return out
}

// redeclare sets spec.active, by the user's hand.
func redeclare(t testing.TB, s *fakeapi.Server, name, active string) int64 {
	var vs v1alpha1.VirtualServer
	s.Read(t, "virtualservers", "default", name, &vs)
	vs.Spec.Active = active
	vs.Generation++
	s.Apply(t, "virtualservers", &vs)
	return vs.Generation
}

func report(t testing.TB, s *fakeapi.Server, node string, change func(*v1alpha1.NodeVirtualServer)) {
	var r v1alpha1.NodeReport
	require.True(t, s.Read(t, "nodereports", "", node, &r))
	change(&r.Status.VirtualServers[0])
	s.Apply(t, "nodereports", &r)
}

func TestCoordinatorFollowsASwitch(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 1, "a", "b")
	c := coordinator(t, s, "a")
	c.Observe(snapshot)
	stop := start(t, c.Run)
	eventuallyStatus(t, s, "app0000", allSwitched)
	require.Equal(t, 1, s.Count("update virtualservers/status"))
	stays(t, 1, func() int { return s.Count("update virtualservers/status") }, "nothing changed")
	c.Observe(&endpoints.Snapshot{Servers: slices.Clone(snapshot.Servers)})
	report(t, s, "a", func(*v1alpha1.NodeVirtualServer) {})
	stays(t, 1, func() int { return s.Count("update virtualservers/status") }, "an equal snapshot and report")

	generation := redeclare(t, s, "app0000", "v2")
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return meta.IsStatusConditionFalse(v.Conditions, v1alpha1.ConditionSwitched)
	})
	require.Equal(t, v1alpha1.PhaseSteady, statusIn(t, s, "app0000").Phase, "nothing is decided of an older snapshot")
	see := func(counts map[string]int) {
		var vs v1alpha1.VirtualServer
		s.Read(t, "virtualservers", "default", "app0000", &vs)
		c.Observe(&endpoints.Snapshot{Servers: []endpoints.Server{*resolved(&vs, counts)}})
	}
	see(both)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return v.Phase == v1alpha1.PhaseStaging && v.Active == "v1" && v.Candidate == "v2"
	})
	stage := func(e *v1alpha1.NodeVirtualServer) { e.Generation, e.Staged = generation, "v2" }
	report(t, s, "a", stage)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Active == "v1" && v.Nodes.Staged == 1 })
	report(t, s, "b", stage)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return v.Phase == v1alpha1.PhaseSwitching && v.Active == "v2" && v.Previous == "v1"
	})
	to := func(e *v1alpha1.NodeVirtualServer) {
		e.Active, e.Staged = "v2", ""
		e.Draining = []v1alpha1.ColourDrain{{Colour: "v1", RealServers: 1, Connections: 4}}
	}
	report(t, s, "a", to)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Nodes.Switched == 1 })
	report(t, s, "b", to)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return allSwitched(v) && v.Active == "v2" && v.Previous == "v1" && len(v.History) == 2
	})
	for _, n := range []string{"a", "b"} {
		report(t, s, n, func(e *v1alpha1.NodeVirtualServer) { e.Draining = nil })
	}
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return meta.IsStatusConditionTrue(v.Conditions, v1alpha1.ConditionSafeToRetire)
	})
	require.Eventually(t, func() bool {
		return slices.Equal([]string{"Accepted", "SafeToRetire", "Staging", "Switched", "Switched", "Switching"}, eventReasons(s))
	}, soon, often)
	time.Sleep(10 * settle) // so that nothing but the snapshot leads to it
	see(map[string]int{"v1": 3})
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
		return meta.IsStatusConditionFalse(v.Conditions, v1alpha1.ConditionHealthy)
	})
	require.NoError(t, c.Healthy())
	// Events are written after the status, by a goroutine of the recorder.
	require.Eventually(t, func() bool { return slices.Contains(eventReasons(s), "Unhealthy") }, soon, often)

	// A new leader over right statuses.
	stop()
	before := s.Writes()
	next := coordinator(t, s, "b")
	next.Observe(c.snapshot.Load())
	start(t, next.Run)
	require.Eventually(t, next.Leading, soon, often, "the first one gave leadership up")
	stays(t, before, s.Writes, "a new leader writes nothing")
}

// One entry of a thousand changes: one status is written, and no other looked at.
func TestCoordinatorCost(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 1000, "a", "b", "c", "d", "e")
	c := coordinator(t, s, "a")
	c.Observe(snapshot)
	start(t, c.Run)
	require.Eventually(t, func() bool { return s.Count("update virtualservers/status") >= 1000 }, 60*time.Second, 10*often)
	stays(t, 1000, func() int { return s.Count("update virtualservers/status") }, "one write each")
	report(t, s, "b", func(e *v1alpha1.NodeVirtualServer) { e.Active, e.Verified = "", false })
	require.Eventually(t, func() bool { return statusIn(t, s, "app0000").Nodes.Switched == 4 }, soon, often)
	stays(t, 1001, func() int { return s.Count("update virtualservers/status") }, "one write")
}

func TestCoordinatorConflictAndOutage(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 2, "a")
	c := coordinator(t, s, "a")
	c.Observe(snapshot)
	var conflicts atomic.Int32
	s.SetRefuse(func(verb, resource string) error {
		if verb+" "+resource == "update virtualservers/status" && conflicts.Add(1) <= 3 {
			return apierrors.NewConflict(schema.GroupResource{}, "x", fmt.Errorf("changed"))
		}
		return nil
	})
	start(t, c.Run)
	eventuallyStatus(t, s, "app0000", allSwitched)
	eventuallyStatus(t, s, "app0001", allSwitched)
	require.NoError(t, c.Healthy(), "a conflict is no failure")

	s.SetDown(true)
	require.Eventually(t, func() bool { return c.Healthy() != nil }, soon, often)
	require.Eventually(t, func() bool { return !c.Leading() }, soon, often, "leadership is lost")
	before := s.Count("update virtualservers/status")
	report(t, s, "a", func(e *v1alpha1.NodeVirtualServer) { e.Verified = false })
	s.SetDown(false)
	require.Eventually(t, c.Leading, soon, often, "and regained")
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Nodes.Switched == 0 })
	stays(t, before+1, func() int { return s.Count("update virtualservers/status") }, "one write of what changed")
	require.Eventually(t, func() bool { return c.Healthy() == nil }, soon, often)
}

// Two that both believe to lead, over one API server: they agree, and do not write in turns.
func TestTwoLeadersDoNoHarm(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 20, "a", "b")
	one, two := coordinator(t, s, "a"), coordinator(t, s, "b")
	two.opts.Namespace = "elsewhere" // an election of its own
	for _, n := range []string{"a", "b"} {
		l := leaseOf(n, time.Now().Add(time.Hour))
		l.Namespace = "elsewhere"
		s.Apply(t, "leases", l)
	}
	one.Observe(snapshot)
	two.Observe(snapshot)
	start(t, one.Run)
	start(t, two.Run)
	require.Eventually(t, func() bool { return one.Leading() && two.Leading() }, soon, often)
	for i := range 20 {
		eventuallyStatus(t, s, fmt.Sprintf("app%04d", i), allSwitched)
	}
	generation := redeclare(t, s, "app0000", "v2")
	var vs v1alpha1.VirtualServer
	s.Read(t, "virtualservers", "default", "app0000", &vs)
	again := &endpoints.Snapshot{Servers: slices.Clone(snapshot.Servers)}
	again.Servers[0] = *resolved(&vs, both)
	one.Observe(again)
	two.Observe(again)
	for _, n := range []string{"a", "b"} {
		report(t, s, n, func(e *v1alpha1.NodeVirtualServer) { e.Generation, e.Staged = generation, "v2" })
	}
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Active == "v2" })
	for _, n := range []string{"a", "b"} {
		report(t, s, n, func(e *v1alpha1.NodeVirtualServer) { e.Active, e.Staged = "v2", "" })
	}
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return allSwitched(v) && v.Active == "v2" })
	time.Sleep(time.Second)
	settled := s.Writes()
	stays(t, settled, s.Writes, "no ping-pong")
	require.Len(t, statusIn(t, s, "app0000").History, 2, "nothing told twice")
}

func TestCoordinatorOneLeads(t *testing.T) {
	s := fakeapi.New(t)
	one, two := coordinator(t, s, "a"), coordinator(t, s, "b")
	for _, c := range []*Coordinator{one, two} {
		c.leadFor, c.leadDeadline = 10*time.Minute, 9*time.Minute
	}
	stop := start(t, one.Run)
	require.Eventually(t, one.Leading, soon, often)
	start(t, two.Run)
	stays(t, false, two.Leading, "one leads")
	stop()
	require.Eventually(t, two.Leading, soon, often, "given up, not run out")
}

// The Lease is given up after the term has ended, not before.
func TestTermEndsBeforeItsLease(t *testing.T) {
	s := fakeapi.New(t)
	c := coordinator(t, s, "a")
	holder := func() string {
		var l coordinationv1.Lease
		require.True(t, s.Read(t, "leases", DefaultNamespace, coordinatorLease, &l))
		return *l.Spec.HolderIdentity
	}
	ctx, cancel := context.WithCancel(context.Background())
	var atEnd string
	c.stand(ctx, func(term context.Context) {
		cancel()
		<-term.Done()
		time.Sleep(300 * time.Millisecond) // a write that takes long
		atEnd = holder()
	})
	require.Equal(t, c.identity, atEnd)
	require.Empty(t, holder())
}

func TestDeadNodeIsFound(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 1, "a", "b")
	s.Apply(t, "leases", leaseOf("b", time.Now().Add(-38*time.Second)))
	c := coordinator(t, s, "a")
	c.Observe(snapshot)
	start(t, c.Run)
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Nodes.Total == 2 })
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Nodes.Total == 1 && allSwitched(v) })
	s.Apply(t, "leases", leaseOf("b", time.Now()))
	eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool { return v.Nodes.Total == 2 && allSwitched(v) })
}

// What is used is what the rules grant, to the verb.
func TestRules(t *testing.T) {
	s := fakeapi.New(t)
	snapshot := world(t, s, 1, "b")
	r, _ := reporter(t, s, "a")
	r.Post(statusOf(serving("app0000", "v1", 1)))
	c := coordinator(t, s, "a")
	c.Observe(snapshot)
	stop := start(t, c.Run)
	stopReporter := start(t, r.Run)
	refuse := func(message string) {
		report(t, s, "b", func(e *v1alpha1.NodeVirtualServer) { e.Reason, e.Message, e.Verified = "PortTaken", message, false })
		eventuallyStatus(t, s, "app0000", func(v v1alpha1.VirtualServerStatus) bool {
			return meta.IsStatusConditionFalse(v.Conditions, v1alpha1.ConditionAccepted)
		})
		report(t, s, "b", func(e *v1alpha1.NodeVirtualServer) { e.Reason, e.Message, e.Verified = "", "", true })
		eventuallyStatus(t, s, "app0000", allSwitched)
	}
	refuse("m")
	refuse("m") // the same again is an Event of its own
	require.Eventually(t, func() bool {
		reasons := eventReasons(s)
		at := slices.Index(reasons, "PortTaken")
		return at >= 0 && len(reasons) > at+1 && reasons[at+1] == "PortTaken"
	}, soon, often)
	s.Remove("nodereports", "", "a") // while we write: read again
	s.SetRefuse(func(verb, resource string) error {
		if verb+" "+resource == "update nodereports/status" && s.Count("get nodereports") == 0 {
			return apierrors.NewConflict(schema.GroupResource{}, "a", fmt.Errorf("changed"))
		}
		return nil
	})
	r.Post(statusOf(serving("app0000", "v2", 1)))
	eventuallyReports(t, s, "a", "v2")
	stop()
	stopReporter()

	granted := map[string]bool{}
	for _, rule := range append(slices.Clone(ClusterRules), NamespaceRules...) {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				granted[verb+" "+resource] = true
			}
		}
	}
	used := map[string]bool{}
	for what := range s.Counts() {
		used[what] = true
	}
	delete(used, "list virtualservers") // streamed lists watch; older servers are asked for lists
	delete(used, "list nodereports")
	delete(used, "list leases")
	for _, resource := range []string{"virtualservers", "nodereports", "leases"} {
		require.True(t, granted["list "+resource])
		delete(granted, "list "+resource)
	}
	require.Equal(t, granted, used)
	require.Equal(t, rbacv1.PolicyRule{APIGroups: []string{coordinationv1.GroupName}, Resources: []string{"leases"}, Verbs: []string{"get", "list", "watch", "create", "update"}}, NamespaceRules[0])
}

func TestEvents(t *testing.T) {
	reasons := func(vs *v1alpha1.VirtualServer, live ...Node) string {
		var out []string
		after, _ := Aggregate(vs, resolved(vs, both), live, nil, Outside{}, noon.Add(time.Hour))
		for _, e := range eventsBetween(vs, &vs.Status, &after) {
			out = append(out, e.kind[:1]+":"+e.reason)
			require.LessOrEqual(t, len(e.note), maxNote)
			require.NotEmpty(t, e.action)
		}
		vs.Status = after
		return strings.Join(out, " ")
	}
	vs := server("myapp", "v1", 1)
	require.Equal(t, "N:Accepted N:Switched", reasons(vs, at("a", "v1", 1), at("b", "v1", 1)))
	require.Empty(t, reasons(vs, at("a", "v1", 1), at("b", "v1", 1)))
	vs.Generation, vs.Spec.Active = 2, "v2"
	require.Equal(t, "N:Staging", reasons(vs, at("a", "v1", 2), at("b", "v1", 1)))
	require.Equal(t, "N:Switching", reasons(vs, staging("a", "v1", 2, "v2"), staging("b", "v1", 2, "v2")))
	require.Equal(t, "N:Switched", reasons(vs, at("a", "v2", 2), draining("b", "v2", 2, "v1")))
	require.Equal(t, "N:SafeToRetire", reasons(vs, at("a", "v2", 2), at("b", "v2", 2)))
	vs.Generation, vs.Spec.Active = 3, "v9"
	require.Equal(t, "W:Blocked", reasons(vs, at("a", "v2", 3), at("b", "v2", 3)))
	require.Empty(t, reasons(vs, at("a", "v2", 3), at("b", "v2", 3)))
	vs.Generation, vs.Spec.Active = 4, "v2"
	long := strings.Repeat("é", 2000)
	require.Equal(t, "N:SwitchGivenUp", reasons(vs, at("a", "v2", 4), at("b", "v2", 4)))
	require.Equal(t, "W:ServiceNotFound", reasons(vs, saying("a", "", 4, "ServiceNotFound", long), at("b", "v2", 4)))
	require.Equal(t, "N:Accepted N:SafeToRetire", reasons(vs, at("a", "v2", 4), at("b", "v2", 4)))
	failed := at("b", "v2", 4)
	failed.Error = "no netlink"
	require.Equal(t, "W:Unhealthy", reasons(vs, at("a", "v2", 4), failed))
}
