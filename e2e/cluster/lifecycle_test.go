package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/lab"
)

// grace is how long pods of these tests serve on after they were told to end: twice what a connection took from its SYN
// to its answer on a machine that had much else to do.
const grace = 10 * time.Second

// labelledBoth is the scenario's Service with a UDP port beside the TCP one.
var labelledBoth = strings.Replace(labelled, "ports: [{port: 80, targetPort: 80, nodePort: 30080}]",
	"ports: [{name: web, port: 80, targetPort: 80, nodePort: 30080}, {name: udp, protocol: UDP, port: 80, targetPort: 80, nodePort: 30080}]", 1)

// living is a Deployment whose pods also answer over UDP, and say says when that is not "".
func living(version string, replicas int, says string) string {
	out := strings.NewReplacer(
		"ports: [{containerPort: 80}]", "ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]",
		"Seconds: 3", fmt.Sprintf("Seconds: %d", grace/time.Second),
	).Replace(deployment(version, replicas))
	if says != "" {
		out = strings.Replace(out, "metadata: {labels: {app: myapp,", fmt.Sprintf("metadata: {annotations: {%s: %s}, labels: {app: myapp,", SaysAnnotation, says), 1)
	}
	return out
}

// The life of what is served, with load running on every node all the time.
func TestClusterLifecycle(t *testing.T) {
	s := newScene(t, labelledBoth, living("v1", 6, ""), living("v2", 2, ""), virtualServer)
	s.Endpoints("default", "myapp", 8)
	s.servesEverywhere("version=v1")
	master := s.Node(Master)
	// These first: what is drained must have no connection, and pods that end leave some closing for minutes.
	s.part("the Service goes and comes", func(s *scene) {
		s.goesAndComes(func() { s.kubectl("delete", "service", "myapp") }, func() {
			s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionFalse, endpoints.ReasonServiceNotFound, "create it")
			s.Apply(labelledBoth)
		})
		s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Accepted")
	})
	s.part("the VirtualServer goes and comes", func(s *scene) {
		s.goesAndComes(func() { s.kubectl("delete", "vs", "myapp") }, func() {
			require.NotContains(s.t, s.kubectl("get", "nodereport", master.Name(), "-o", "yaml"), "name: myapp")
			s.Apply(virtualServer)
		})
	})
	s.part("rolling", (*scene).rolling)
	s.part("to zero and back", (*scene).toZeroAndBack)
	s.part("a pod moves to another colour", (*scene).podMoves)
}

// rolling gives the active colour's Deployment a new template: the controller replaces its pods one after the other.
func (s *scene) rolling() {
	runs, held := s.loads(8), s.holds(8)
	flows, err := s.Lab.Flow(lab.Flows{From: s.Client, Target: s.Nodes[0].nodePort(), Local: s.ClientAddrs, Count: 8, Every: 200 * time.Millisecond, Patience: 5 * time.Second})
	require.NoError(s.t, err)
	began := time.Now()
	s.Apply(living("v1", 6, "v1-new"))
	s.kubectl("rollout", "status", "deployment/myapp-v1", "--timeout="+Patience.String())
	s.Eventually(Patience, "the pods before are gone", func() error {
		if n := len(s.Pods("default", "version=v1")); n != 6 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	s.servesEverywhere("version=v1")
	after := time.Now()
	for n, run := range runs {
		require.NoError(s.t, run.AwaitSince(after, 6, Patience))
		report := run.Stop()
		require.Empty(s.t, report.Lost().Lines(), "on %s, of %d", n.Name(), len(report))
		require.Equal(s.t, []string{"v1-new"}, keys(report.Since(after).ByColour()))
		require.Empty(s.t, report.To("v2").Lines())
		s.t.Logf("%s, while rolling for %v: %v", n.Name(), after.Sub(began).Round(time.Millisecond), report)
	}
	for n, sessions := range held {
		for _, one := range sessions.Close() {
			if one.Alive() {
				continue // its pod ended between two lines of it
			}
			ended := s.kubelet.endedAt(one.Backend)
			require.False(s.t, ended.IsZero(), "on %s, %v: its pod was never ended", n.Name(), one)
			failed := one.Failed
			if one.Class == lab.Timeout {
				failed = one.Sent.Add(grace) // nobody may have been there to say that it is over
			}
			require.False(s.t, failed.Before(ended), "on %s, %v: cut %v before its pod ended", n.Name(), one, ended.Sub(failed))
		}
	}
	datagrams := flows.Stop()
	s.t.Logf("UDP: %v of %d", datagrams, len(datagrams))
	require.Zero(s.t, datagrams.ByColour()["v2"])
	// Each move of a flow costs what it sends until the kernel has dropped its entry: one datagram, or some more
	// where timers are late. Then it goes on.
	require.Less(s.t, datagrams.Lost(), len(datagrams)/5)
	last := map[int]lab.Datagram{}
	for _, d := range datagrams {
		last[d.Flow] = d
	}
	require.Len(s.t, last, 8)
	for _, d := range last {
		require.Equal(s.t, "v1-new", d.Colour, "%+v", d)
	}
}

// toZeroAndBack scales the active colour to nothing: its clients are refused, and nobody is sent to the other colour.
//
// IPVS refuses with an ICMP message, of which the kernel sends a client six at once and then one a second
// (net.ipv4.icmp_ratelimit), whoever manages the table. A client that opens more connections than that has
// some refused a second or more later, when it sends its SYN again, or answered, when somebody is there then.
func (s *scene) toZeroAndBack() {
	runs := s.loadsFor(8, 5*time.Second)
	flows, err := s.Lab.Flow(lab.Flows{From: s.Client, Target: s.Nodes[0].nodePort(), Local: s.ClientAddrs, Count: 4, Every: 200 * time.Millisecond, Patience: 5 * time.Second})
	require.NoError(s.t, err)
	s.kubectl("scale", "deployment/myapp-v1", "--replicas=0")
	s.servesEverywhere("version=v1,nobody") // nothing, but the virtual servers are there
	s.condition("myapp", v1alpha1.ConditionHealthy, metav1.ConditionFalse, "NoReadyEndpoint", "make its endpoints ready")
	empty := time.Now()
	time.Sleep(2 * time.Second)
	scaled := time.Now()
	s.kubectl("scale", "deployment/myapp-v1", "--replicas=4")
	s.Endpoints("default", "myapp", 6)
	ready := time.Now()
	s.servesEverywhere("version=v1")
	served := time.Now()
	time.Sleep(time.Second)
	calm := time.Now()
	s.t.Logf("in the kernel at most %v after the endpoints were seen ready", served.Sub(ready).Round(time.Millisecond))
	tried := 0
	for n, run := range runs {
		require.NoError(s.t, run.AwaitSince(calm, 6, Patience))
		report := run.Stop()
		require.Empty(s.t, report.To("v2").Lines(), "on %s", n.Name())
		none := report.Since(empty).Until(scaled)
		tried += len(none)
		answered := none.Where(func(c lab.Connection) bool { return !c.Answered.IsZero() && c.Answered.Before(scaled) })
		require.Empty(s.t, answered.Lines(), "on %s, while there is nobody", n.Name())
		require.NotZero(s.t, report.ByClass()[lab.Refused], "on %s: %v", n.Name(), report)
		back := report.Since(calm)
		require.NotEmpty(s.t, back)
		require.Empty(s.t, back.Failed().Lines(), "on %s, of %d from a second after the pods were served", n.Name(), len(back))
		s.t.Logf("%s: %v", n.Name(), report)
	}
	require.NotZero(s.t, tried)
	refused := flows.Refused()
	datagrams := flows.Stop()
	back := datagrams.Between(calm, time.Time{})
	s.t.Logf("UDP: %v, told %d times that nobody is there; from a second after: %v", datagrams, refused, back)
	require.Zero(s.t, datagrams.ByColour()["v2"])
	require.NotEmpty(s.t, back)
	require.Zero(s.t, back.Lost())
	s.condition("myapp", v1alpha1.ConditionHealthy, metav1.ConditionTrue, "Ready")
}

// podMoves gives a pod of the active colour the label of the other one.
func (s *scene) podMoves() {
	runs := s.loads(8)
	pod := s.Pods("default", "version=v1")[0]
	s.kubectl("label", "pod", pod.Name, "--overwrite", "version=v2")
	s.Endpoints("default", "myapp", 7) // the ReplicaSet, one short, makes another
	s.servesEverywhere("version=v1")
	moved := time.Now()
	s.healthy(runs, "v1-new")
	for n, run := range runs {
		for _, addr := range run.Stop().Since(moved).Backends() {
			require.NotEqual(s.t, pod.Status.PodIP, addr.String(), "on %s", n.Name())
		}
	}
	s.switchTo("myapp", "v2")
	require.Len(s.t, s.Pods("default", "version=v2"), 3)
	s.servesEverywhere("version=v2")
	r := s.admin("rollback", "myapp", "--wait")
	require.Zero(s.t, r.Status, "%v", r)
	s.servesEverywhere("version=v1")
}

// goesAndComes takes away what makes the Service served, while it is used, and brings it back.
func (s *scene) goesAndComes(goes, comes func()) {
	held, runs := s.holds(4), s.loadsFor(8, 5*time.Second)
	s.healthy(runs, "v1")
	object, err := s.Kube.CoreV1().Services("default").Get(context.Background(), "myapp", metav1.GetOptions{})
	require.NoError(s.t, err)
	clusterIP := object.Spec.ClusterIP
	goes()
	s.Eventually(Patience, "new connections are answered on no node", func() error {
		var errs []error
		for _, n := range s.Nodes {
			one := lab.Load{From: s.Client, Target: n.nodePort(), Local: s.ClientAddrs[7:], Timeout: 500 * time.Millisecond, Ending: lab.Aborts}.Once()
			if one.Class != lab.Refused && one.Class != lab.Timeout { // see toZeroAndBack
				errs = append(errs, fmt.Errorf("on %s: %v", n.Name(), one))
			}
		}
		return errors.Join(errs...)
	})
	refused := time.Now()
	time.Sleep(2 * time.Second)
	s.intact(held)
	for n, run := range runs {
		report := run.Stop().Since(refused)
		require.NotEmpty(s.t, report)
		require.Empty(s.t, report.ByColour(), "on %s", n.Name())
		require.NotZero(s.t, report.ByClass()[lab.Refused], "on %s: %v", n.Name(), report)
	}
	for n, sessions := range held {
		table, err := n.Table()
		require.NoError(s.t, err)
		v, ok := table.Find("TCP", n.nodePort())
		require.True(s.t, ok, "on %s the virtual server went under its connections", n.Name())
		require.Empty(s.t, v.Serving())
		for _, one := range sessions.Abort() {
			require.NoError(s.t, one.Err, "on %s", n.Name())
		}
	}
	took := s.Eventually(2*Patience, "nothing of it is left", func() error {
		var errs []error
		for _, n := range s.Nodes {
			table, err := n.Table()
			errs = append(errs, err)
			if len(table) != 0 {
				errs = append(errs, fmt.Errorf("on %s are the virtual servers %v", n.Name(), table))
			}
			rules, err := n.Run("nft", "list", "table", "inet", "pointsman")
			if err == nil && (strings.Contains(rules, "30080") || strings.Contains(rules, clusterIP)) {
				errs = append(errs, fmt.Errorf("on %s is masqueraded: %s", n.Name(), rules))
			}
			addrs, err := n.Run("ip", "-4", "addr", "show")
			errs = append(errs, err)
			if strings.Contains(addrs, clusterIP+"/") {
				errs = append(errs, fmt.Errorf("on %s is the address %s", n.Name(), clusterIP))
			}
		}
		return errors.Join(errs...)
	})
	s.t.Logf("drained and gone %v after the last connection was closed", took.Round(time.Millisecond))
	comes()
	s.servesEverywhere("version=v1")
	s.ready()
	again := s.loads(8)
	s.healthy(again, "v1")
	for _, run := range again {
		run.Stop()
	}
}
