package cluster

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints"
	"github.com/pointsman/pointsman/internal/lab"
)

// track is a Deployment whose colour label is another than the usual, with two ports that have names.
func track(colour string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-%[1]s, namespace: default}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: shop, example.com/track: %[1]s}}
  template:
    metadata:
      labels: {app: shop, example.com/track: %[1]s}
      annotations: {%[3]s: %[1]s}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: shop
        image: shop
        ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 8081}]
`, colour, replicas, SaysAnnotation)
}

const shop = `
apiVersion: v1
kind: Service
metadata:
  name: shop
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  selector: {app: shop}
  ports:
  - {name: web, port: 80, targetPort: http, nodePort: 30090}
  - {name: operators, port: 9000, targetPort: admin, nodePort: 30091}
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: shop, namespace: default}
spec: {service: {name: shop}, colourLabel: example.com/track, active: blue}
`

// byHand is a Service without a selector, and slices that a controller of the operator's own writes.
const byHand = `
apiVersion: v1
kind: Service
metadata:
  name: legacy
  namespace: default
  labels: {service.kubernetes.io/service-proxy-name: pointsman}
spec:
  type: NodePort
  ports: [{name: web, port: 80, nodePort: 30092}]
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: legacy, namespace: default}
spec: {service: {name: legacy}, active: v1}
`

func sliceByHand(colour string, addrs []string, port int) string {
	var each []string
	for _, addr := range addrs {
		each = append(each, fmt.Sprintf("{addresses: [%q], conditions: {ready: true}}", addr))
	}
	return fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: legacy-%[1]s
  namespace: default
  labels:
    kubernetes.io/service-name: legacy
    endpointslice.kubernetes.io/managed-by: legacy.example.com
    service.kubernetes.io/service-proxy-name: pointsman
    version: %[1]s
addressType: IPv4
ports: [{name: web, protocol: TCP, port: %[3]d}]
endpoints: [%[2]s]
`, colour, strings.Join(each, ", "), port)
}

// Objects of many shapes, and what is said of those that cannot be served.
func TestClusterObjects(t *testing.T) {
	s := newScene(t, track("blue", 2), track("green", 1), shop)
	s.Endpoints("default", "shop", 3)
	node := s.Node("node01")
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(node.Addr, port) }
	backends := func(port uint16) (out []string) {
		run := s.Lab.Start(lab.Load{From: s.Client, Target: at(port), Local: s.ClientAddrs})
		require.NoError(s.t, run.Await(20, Patience))
		report := run.Stop()
		require.Empty(s.t, report.Failed().Lines())
		for _, addr := range report.Backends() {
			out = append(out, addr.String())
		}
		return out
	}
	ips := func(selector string) (out []string) {
		for _, pod := range s.Pods("default", selector) {
			out = append(out, pod.Status.PodIP)
		}
		return out
	}

	s.part("named ports, two of them, another colour label", func(s *scene) {
		s.answers(at(30090), "blue")
		s.answers(at(30091), "blue")
		require.ElementsMatch(s.t, ips("example.com/track=blue"), backends(30090))
		require.ElementsMatch(s.t, ips("example.com/track=blue"), backends(30091))
		s.switchTo("shop", "green")
		require.ElementsMatch(s.t, ips("example.com/track=green"), backends(30090))
		require.ElementsMatch(s.t, ips("example.com/track=green"), backends(30091))
		r := s.admin("rollback", "shop", "--wait")
		require.Zero(s.t, r.Status, "%v", r)
	})

	s.part("target ports by name, TCP and UDP, a well-known colour label", (*scene).namedPorts)
	s.part("both IP families", (*scene).dualStack)
	s.part("externalTrafficPolicy Local", (*scene).localPolicy)

	s.part("slices by hand", func(s *scene) {
		s.Apply(byHand)
		const seen = "service.kubernetes.io/service-proxy-name: pointsman"
		s.Apply(strings.Replace(sliceByHand("v1", ips("example.com/track=blue"), 8080), seen, "", 1))
		s.condition("legacy", v1alpha1.ConditionHealthy, metav1.ConditionFalse, "NoReadyEndpoint", "made by hand", endpoints.ServiceProxyLabel+"="+endpoints.ServiceProxyName)
		s.kubectl("label", "endpointslice", "legacy-v1", endpoints.ServiceProxyLabel+"="+endpoints.ServiceProxyName)
		s.Apply(sliceByHand("v2", ips("example.com/track=green"), 8080))
		s.answers(at(30092), "blue")
		require.ElementsMatch(s.t, ips("example.com/track=blue"), backends(30092))
		s.switchTo("legacy", "v2")
		require.ElementsMatch(s.t, ips("example.com/track=green"), backends(30092))
		s.kubectl("delete", "endpointslice", "legacy-v2")
		s.Eventually(Patience, "nobody is left", func() error {
			if one := (lab.Load{From: s.Client, Target: at(30092), Timeout: time.Second}).Once(); one.Class != lab.Refused {
				return fmt.Errorf("%v", one)
			}
			return nil
		})
	})

	s.part("two VirtualServers on one Service", func(s *scene) {
		s.Apply(strings.NewReplacer("{name: myapp, namespace", "{name: another, namespace", "{name: myapp}", "{name: shop}", "active: v1", "active: green").Replace(virtualServer))
		s.condition("another", v1alpha1.ConditionAccepted, metav1.ConditionFalse, endpoints.ReasonServiceTaken, "default/shop", "delete one of the two")
		s.answers(at(30090), "blue")
		s.kubectl("delete", "vs", "another")
	})

	s.part("a Service without the label", func(s *scene) {
		s.Apply(deployment("v1", 1))
		s.Apply(service)
		s.Apply(virtualServer)
		message := s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionFalse, endpoints.ReasonServiceNotLabelled)
		s.condition("myapp", v1alpha1.ConditionHealthy, metav1.ConditionFalse, "NotAccepted")
		command := regexp.MustCompile(`kubectl (label service [^;]+)`).FindStringSubmatch(message)
		require.NotNil(s.t, command, message)
		s.kubectl(strings.Fields(command[1])...)
		s.condition("myapp", v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Accepted")
		s.answers(at(30080), "v1")
	})

	s.part("a colour that nobody has", func(s *scene) {
		r := s.admin("switch", "shop", "purple", "--wait")
		require.Equal(s.t, 3, r.Status, "%v", r)
		require.Contains(s.t, r.Stderr, "nothing was changed")
		vs, err := s.virtualServer("shop")
		require.NoError(s.t, err)
		require.Equal(s.t, "blue", vs.Spec.Active)
		s.setActive("shop", "purple")
		s.condition("shop", v1alpha1.ConditionSwitched, metav1.ConditionFalse, "NoReadyEndpoint", "purple", "blue")
		s.phase("shop", v1alpha1.PhaseBlocked)
		s.answers(at(30090), "blue")
		s.setActive("shop", "blue")
		s.phase("shop", v1alpha1.PhaseSteady)
		s.condition("shop", v1alpha1.ConditionSwitched, metav1.ConditionTrue, "Verified")
	})

	s.part("a preview port that is taken", func(s *scene) {
		s.kubectl("patch", "vs", "shop", "--type=merge", "-p", `{"spec":{"preview":{"colour":"green","nodePort":30080}}}`)
		s.condition("shop", v1alpha1.ConditionAccepted, metav1.ConditionFalse, endpoints.ReasonPortTaken, "30080", "default/myapp", "another port")
		s.answers(at(30090), "blue")
		s.answers(at(30080), "v1")
		s.kubectl("patch", "vs", "shop", "--type=merge", "-p", `{"spec":{"preview":null}}`)
		s.condition("shop", v1alpha1.ConditionAccepted, metav1.ConditionTrue, "Accepted")
	})

	events := s.kubectl("get", "events", "--field-selector", "involvedObject.kind=VirtualServer")
	for _, reason := range []string{endpoints.ReasonServiceTaken, endpoints.ReasonServiceNotLabelled, endpoints.ReasonPortTaken, "Blocked", "Switched"} {
		require.Contains(t, events, reason)
	}
}

// phase waits until the VirtualServer is in the phase.
func (c *Cluster) phase(name string, want v1alpha1.Phase) {
	c.t.Helper()
	c.Eventually(Patience, fmt.Sprintf("VirtualServer %s is %s", name, want), func() error {
		vs, err := c.virtualServer(name)
		if err == nil && vs.Status.Phase != want {
			err = fmt.Errorf("it is %s", vs.Status.Phase)
		}
		return err
	})
}
