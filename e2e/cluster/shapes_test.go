package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/internal/lab"
)

// A Service whose colour label is a well-known one, with a prefix and a slash; with a TCP and a UDP port
// that share a node port's number, and target ports by name, whose number differs from colour to colour:
// the real controller makes a slice for each set of numbers.
const resolverService = `
apiVersion: v1
kind: Service
metadata:
  name: resolver
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  selector: {app.kubernetes.io/name: resolver}
  ports:
  - {name: web, port: 53, targetPort: http, nodePort: 30053}
  - {name: query, protocol: UDP, port: 53, targetPort: query, nodePort: 30053}
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: resolver, namespace: default}
spec: {service: {name: resolver}, colourLabel: app.kubernetes.io/version, active: "1.9"}
`

// resolver is its Deployment of a version.
func resolver(name, version string, http, query int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: resolver-%[1]s, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app.kubernetes.io/name: resolver, app.kubernetes.io/version: %[2]q}}
  template:
    metadata:
      labels: {app.kubernetes.io/name: resolver, app.kubernetes.io/version: %[2]q}
      annotations: {%[5]s: %[2]q}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: resolver
        image: resolver
        ports: [{name: http, containerPort: %[3]d}, {name: query, protocol: UDP, containerPort: %[4]d}]
`, name, version, http, query, SaysAnnotation)
}

// namedPorts switches TCP and UDP at once, on every node.
func (s *scene) namedPorts() {
	s.Apply(resolver("old", "1.9", 8080, 5353))
	s.Apply(resolver("new", "1.10", 9090, 5454))
	s.Apply(resolverService)
	s.Endpoints("default", "resolver", 4)
	at := func(n *Node) netip.AddrPort { return netip.AddrPortFrom(n.Addr, 30053) }
	for _, n := range s.Nodes {
		s.answers(at(n), "1.9")
	}
	runs := map[*Node]*lab.Run{}
	flows := map[*Node]*lab.FlowRun{}
	for _, n := range s.Nodes {
		runs[n] = s.Lab.Start(lab.Load{From: s.Client, Target: at(n), Local: s.ClientAddrs[:2], Rate: 8, Clients: 4, Ending: lab.Aborts})
		var err error
		flows[n], err = s.Lab.Flow(lab.Flows{From: s.Client, Target: at(n), Local: s.ClientAddrs[2:4], Count: 4})
		require.NoError(s.t, err)
	}
	s.healthy(runs, "1.9")
	r := s.switchTo("resolver", "1.10")
	done := time.Now()
	for _, n := range s.Nodes {
		require.NoError(s.t, runs[n].AwaitSince(done, 20, Patience))
		report := runs[n].Stop()
		require.Empty(s.t, report.Lost().Lines(), "on %s", n.Name())
		require.Equal(s.t, []string{"1.10"}, keys(report.Since(done).ByColour()), "on %s", n.Name())
		datagrams := flows[n].Stop()
		require.Equal(s.t, []string{"1.9"}, keys(datagrams.Between(time.Time{}, done.Add(-r.Took)).ByColour()), "on %s, by UDP", n.Name())
		require.Equal(s.t, []string{"1.10"}, keys(datagrams.Between(done, time.Time{}).ByColour()), "on %s, by UDP", n.Name())
	}
	table, err := s.Nodes[0].Table()
	require.NoError(s.t, err)
	for protocol, port := range map[string]uint16{"TCP": 9090, "UDP": 5454} {
		v, ok := table.Find(protocol, at(s.Nodes[0]))
		require.True(s.t, ok, protocol)
		var want []netip.AddrPort
		for _, pod := range s.Pods("default", "app.kubernetes.io/version=1.10") {
			want = append(want, netip.AddrPortFrom(netip.MustParseAddr(pod.Status.PodIP), port))
		}
		require.ElementsMatch(s.t, want, v.Serving(), protocol)
	}
}

// placed is a Pod of a colour on a node of the test's choice.
func placed(node, version string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: local-%[2]s, namespace: default, labels: {app: local, version: %[2]s}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: local, image: local, ports: [{containerPort: 80}]}]
`, node, version)
}

const localService = `
apiVersion: v1
kind: Service
metadata:
  name: local
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: local}
  ports: [{port: 80, nodePort: 30095}]
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: local, namespace: default}
spec: {service: {name: local}, active: v1}
`

// localPolicy has a colour on one node each: with externalTrafficPolicy Local its node alone answers at the node
// port, and the backend sees the client; by the ClusterIP, inside, every node does.
func (s *scene) localPolicy() {
	nodes := map[string]*Node{"v1": s.Node("node01"), "v2": s.Node("node02")}
	for version, n := range nodes {
		s.Apply(placed(n.Name(), version))
	}
	s.Apply(localService)
	s.Endpoints("default", "local", 2)
	client := s.ClientAddrs[0] // what a connection comes from that is given no other
	serves := func(active string) {
		s.t.Helper()
		s.Eventually(Patience, "only the node with "+active+" answers", func() error {
			var errs []error
			for _, n := range s.Nodes {
				one := lab.Load{From: s.Client, Target: netip.AddrPortFrom(n.Addr, 30095), Timeout: time.Second, Ending: lab.Aborts}.Once()
				switch {
				case n != nodes[active] && one.Class == lab.OK, n == nodes[active] && one.Class != lab.OK:
					errs = append(errs, fmt.Errorf("%s: %v", n.Name(), one))
				case one.Class == lab.OK && (one.Colour != active || one.SeenAs != client):
					errs = append(errs, fmt.Errorf("%s: %v, seen as %v", n.Name(), one, one.SeenAs))
				}
				one = lab.Load{From: n.Namespace, Target: s.clusterIP("local"), Timeout: 2 * time.Second, Ending: lab.Aborts}.Once()
				if one.Class != lab.OK || one.Colour != active {
					errs = append(errs, fmt.Errorf("%s, by the ClusterIP: %v", n.Name(), one))
				}
			}
			return errors.Join(errs...)
		})
	}
	serves("v1")
	s.condition("local", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified")
	s.switchTo("local", "v2")
	serves("v2")
	r := s.admin("rollback", "local", "--wait")
	require.Zero(s.t, r.Status, "%v", r)
	serves("v1")
}

// dual is a Service of both families over the resolver's pods.
const dual = `
apiVersion: v1
kind: Service
metadata:
  name: dual
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app.kubernetes.io/name: resolver}
  ports: [{name: web, port: 80, targetPort: http, nodePort: 30096}]
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: dual, namespace: default}
spec: {service: {name: dual}, colourLabel: app.kubernetes.io/version, active: "1.9"}
`

// dualStack switches IPv4 and IPv6 at once, by the node port and by the ClusterIP, from outside, from a pod, whose
// own address the backend sees, and from the node.
func (s *scene) dualStack() {
	s.Apply(dual)
	ips := s.service("dual").Spec.ClusterIPs
	require.Len(s.t, ips, 2)
	s.Apply(client("node01"))
	from := s.pod("client-node01")
	serves := func(colour string) {
		s.t.Helper()
		one := func(load lab.Load, seenAs netip.Addr) error {
			load.Timeout, load.Ending = 2*time.Second, lab.Aborts
			got := load.Once()
			if got.Class != lab.OK || got.Colour != colour || seenAs.IsValid() && got.SeenAs != seenAs {
				return fmt.Errorf("%v from %s: %v, seen as %v", load.Target, load.From.Name(), got, got.SeenAs)
			}
			return nil
		}
		s.Eventually(Patience, "IPv4 and IPv6 are answered by "+colour, func() error {
			var errs []error
			for _, n := range s.Nodes {
				for _, addr := range []netip.Addr{n.Addr, sister(n.Addr)} {
					errs = append(errs, one(lab.Load{From: s.Client, Target: netip.AddrPortFrom(addr, 30096)}, netip.Addr{}))
				}
			}
			for _, ip := range ips {
				at := netip.AddrPortFrom(netip.MustParseAddr(ip), 80)
				own := netip.MustParseAddr(from.Status.PodIP)
				if at.Addr().Is6() {
					own = sister(own)
				}
				errs = append(errs, one(lab.Load{From: s.Nodes[0].Namespace, Target: at}, netip.Addr{}),
					one(lab.Load{From: s.PodNamespace(from), Target: at}, own))
			}
			return errors.Join(errs...)
		})
	}
	serves("1.9")
	s.switchTo("dual", "1.10")
	serves("1.10")
}
