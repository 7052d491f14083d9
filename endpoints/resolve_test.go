package endpoints

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/pointsman/pointsman/api/v1alpha1"
	"github.com/pointsman/pointsman/endpoints/manifest"
)

// objects parses manifests, so that tests resolve what users write.
func objects(t testing.TB, text string) Objects {
	t.Helper()
	file, errs := manifest.Parse("m.yaml", []byte(text))
	require.Empty(t, errs)
	o := Objects{Services: file.Services}
	for _, vs := range file.VirtualServers {
		o.VirtualServers = append(o.VirtualServers, NewVirtualServer(vs, file.Digest))
	}
	for _, slice := range file.EndpointSlices {
		o.EndpointSlices = append(o.EndpointSlices, NewEndpointSlice(slice, "m.yaml"))
	}
	return o
}

const (
	server = `
---
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata: {name: %s}
spec: {service: {name: %s}, active: v1}
`
	service = `
---
apiVersion: v1
kind: Service
metadata: {name: %s, labels: {service.kubernetes.io/service-proxy-name: pointsman}}
spec: {%s}
`
	slice = `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, labels: {kubernetes.io/service-name: %s%s}}
addressType: %s
ports: [%s]
endpoints: [%s]
`
)

// describeServer is what a test compares: one line for each fact.
func describeServer(s Server) string {
	var b strings.Builder
	if s.Refused != nil {
		fmt.Fprintf(&b, "refused %s\n", s.Refused.Reason)
	}
	if s.Affinity > 0 {
		fmt.Fprintf(&b, "affinity %d\n", s.Affinity)
	}
	for _, p := range s.Ports {
		fmt.Fprintf(&b, "port %q %s\n", p.Name, p.Protocol)
		for _, w := range p.Ways {
			fmt.Fprintf(&b, "  %s %s", w.Kind, netip.AddrPortFrom(w.Addr, w.Port))
			if w.LocalOnly {
				b.WriteString(" local")
			}
			b.WriteString("\n")
		}
		for _, e := range p.Endpoints {
			fmt.Fprintf(&b, "  -> %s %s", netip.AddrPortFrom(e.Addr, e.Port), e.Colour)
			if !e.Ready {
				b.WriteString(" unready")
			}
			if !e.Serving {
				b.WriteString(" unserving")
			}
			if e.Terminating {
				b.WriteString(" terminating")
			}
			if e.Node != "" {
				b.WriteString(" on " + e.Node)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func TestResolve(t *testing.T) {
	vs := fmt.Sprintf(server, "myapp", "myapp")
	for name, c := range map[string]struct{ text, want string }{
		"scenario": {vs + fmt.Sprintf(service, "myapp", "type: NodePort, ports: [{port: 80, nodePort: 30080}]") +
			fmt.Sprintf(slice, "b", "myapp", ", version: v2", "IPv4", "{port: 8080}", "{addresses: [10.0.0.3], nodeName: node1}") +
			fmt.Sprintf(slice, "a", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}"),
			"port \"\" TCP\n  NodePort 0.0.0.0:30080\n  -> 10.0.0.1:80 v1\n  -> 10.0.0.2:80 v1\n  -> 10.0.0.3:8080 v2 on node1\n"},
		"named ports": {vs + fmt.Sprintf(service, "myapp", "clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: none, port: 9}]") +
			fmt.Sprintf(slice, "a", "myapp", ", version: v1", "IPv4", "{name: dns-tcp, port: 5353}, {name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}", "{addresses: [10.0.0.1]}") +
			fmt.Sprintf(slice, "b", "myapp", ", version: v2", "IPv4", "{name: http, port: 8081}, {name: dns, port: 54}", "{addresses: [10.0.0.2]}"),
			"port \"http\" TCP\n  ClusterIP 10.96.0.1:80\n  -> 10.0.0.1:8080 v1\n  -> 10.0.0.2:8081 v2\nport \"dns\" UDP\n  ClusterIP 10.96.0.1:53\n  -> 10.0.0.1:5353 v1\nport \"dns-tcp\" TCP\n  ClusterIP 10.96.0.1:53\n  -> 10.0.0.1:5353 v1\nport \"none\" TCP\n  ClusterIP 10.96.0.1:9\n"},
		"a name matches only itself": {vs + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
			fmt.Sprintf(slice, "a", "myapp", "", "IPv4", "{name: http, port: 80}", "{addresses: [10.0.0.1]}"), "port \"\" TCP\n"},
		"duplicates": {vs + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
			fmt.Sprintf(slice, "a", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1], conditions: {ready: false}}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}") +
			fmt.Sprintf(slice, "b", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false}}") +
			fmt.Sprintf(slice, "c", "myapp", "", "IPv4", "{port: 80}", "{addresses: [10.0.0.3], conditions: {ready: false}}"),
			"port \"\" TCP\n  -> 10.0.0.1:80 v1\n  -> 10.0.0.2:80 v1\n  -> 10.0.0.3:80 v1\n"},
		"a colour before none": {vs + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
			fmt.Sprintf(slice, "a", "myapp", "", "IPv4", "{port: 80}", "{addresses: [10.0.0.1]}") +
			fmt.Sprintf(slice, "b", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1], conditions: {ready: false}}"),
			"port \"\" TCP\n  -> 10.0.0.1:80 v1 unready\n"},
		"dual stack": {vs + fmt.Sprintf(service, "myapp", "type: LoadBalancer, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], externalIPs: [192.0.2.9, '2001:db8::9'], ports: [{port: 80, nodePort: 30080}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.9}, {ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: a.example}]}") +
			fmt.Sprintf(slice, "four", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1]}") +
			fmt.Sprintf(slice, "six", "myapp", ", version: v1", "IPv6", "{port: 80}", "{addresses: ['fd00:1::1']}"),
			"port \"\" TCP\n  NodePort 0.0.0.0:30080\n  NodePort [::]:30080\n  ClusterIP 10.96.0.1:80\n  ClusterIP [fd00::1]:80\n  ExternalIP 192.0.2.9:80\n  ExternalIP [2001:db8::9]:80\n  LoadBalancerIP 192.0.2.1:80\n  -> 10.0.0.1:80 v1\n  -> [fd00:1::1]:80 v1\n"},
		"families declared": {vs + fmt.Sprintf(service, "myapp", "type: NodePort, ipFamilies: [IPv6], ports: [{port: 80, nodePort: 30080}]"), "port \"\" TCP\n  NodePort [::]:30080\n"},
		"families of slices": {vs + fmt.Sprintf(service, "myapp", "type: NodePort, clusterIP: None, ports: [{port: 80, nodePort: 30080}]") +
			fmt.Sprintf(slice, "six", "myapp", "", "IPv6", "", ""), "port \"\" TCP\n  NodePort [::]:30080\n"},
		"policies": {vs + fmt.Sprintf(service, "myapp", "type: NodePort, clusterIP: 10.96.0.1, externalIPs: [192.0.2.9], externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]"),
			"port \"\" TCP\n  NodePort 0.0.0.0:30080 local\n  ClusterIP 10.96.0.1:80\n  ExternalIP 192.0.2.9:80 local\n"},
		"internal policy": {vs + fmt.Sprintf(service, "myapp", "clusterIP: 10.96.0.1, externalIPs: [192.0.2.9], internalTrafficPolicy: Local, ports: [{port: 80}]"),
			"port \"\" TCP\n  ClusterIP 10.96.0.1:80 local\n  ExternalIP 192.0.2.9:80\n"},
		"affinity":         {vs + fmt.Sprintf(service, "myapp", "sessionAffinity: ClientIP, ports: [{port: 80}]"), "affinity 10800\nport \"\" TCP\n"},
		"affinity timeout": {vs + fmt.Sprintf(service, "myapp", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, ports: [{port: 80}]"), "affinity 60\nport \"\" TCP\n"},
		"conditions": {vs + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
			fmt.Sprintf(slice, "a", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.0.0.2], conditions: {ready: false, serving: false}}"),
			"port \"\" TCP\n  -> 10.0.0.1:80 v1 unready terminating\n  -> 10.0.0.2:80 v1 unready unserving\n"},
		"slices of others": {vs + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
			fmt.Sprintf(slice, "a", "other", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1]}"), "port \"\" TCP\n"},
		"no Service":   {vs, "refused ServiceNotFound\n"},
		"no label":     {vs + strings.Replace(fmt.Sprintf(service, "myapp", "ports: [{port: 80}]"), ", labels: {service.kubernetes.io/service-proxy-name: pointsman}", "", 1), "refused ServiceNotLabelled\n"},
		"other label":  {vs + strings.Replace(fmt.Sprintf(service, "myapp", "ports: [{port: 80}]"), "pointsman", "kube-router", 1), "refused ServiceNotLabelled\n"},
		"ranges":       {vs + fmt.Sprintf(service, "myapp", "type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], ports: [{port: 80}]"), "refused ServiceNotServable\n"},
		"own preview":  {strings.Replace(vs, "active: v1", "active: v1, preview: {colour: v2, nodePort: 30080}", 1) + fmt.Sprintf(service, "myapp", "type: NodePort, ports: [{port: 80, nodePort: 30080}]"), "refused PortTaken\n"},
		"good preview": {strings.Replace(vs, "active: v1", "active: v1, preview: {colour: v2, nodePort: 31080}", 1) + fmt.Sprintf(service, "myapp", "type: NodePort, ports: [{port: 80, nodePort: 30080}]"), "port \"\" TCP\n  NodePort 0.0.0.0:30080\n"},
	} {
		t.Run(name, func(t *testing.T) {
			snap := Resolve(objects(t, c.text))
			require.Len(t, snap.Servers, 1)
			assert.Empty(t, snap.Errors)
			assert.Equal(t, c.want, describeServer(snap.Servers[0]))
		})
	}
}

func TestNotLabelledMessage(t *testing.T) {
	snap := Resolve(objects(t, fmt.Sprintf(server, "myapp", "myapp")+strings.Replace(fmt.Sprintf(service, "myapp", "ports: [{port: 80}]"), ", labels: {service.kubernetes.io/service-proxy-name: pointsman}", "", 1)))
	assert.Equal(t, "Service default/myapp lacks the label by which kube-proxy leaves it to pointsman; add to its metadata.labels the line `service.kubernetes.io/service-proxy-name: pointsman`, or run: kubectl label service -n default myapp --overwrite service.kubernetes.io/service-proxy-name=pointsman", snap.Servers[0].Refused.Message)
}

func TestColourConflict(t *testing.T) {
	text := fmt.Sprintf(server, "myapp", "myapp") + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
		fmt.Sprintf(slice, "b", "myapp", ", version: v2", "IPv4", "{port: 80}", "{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}") +
		fmt.Sprintf(slice, "a", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.1], conditions: {ready: false}}, {addresses: [10.0.0.2]}")
	snap := Resolve(objects(t, text))
	assert.Equal(t, "port \"\" TCP\n  -> 10.0.0.1:80 v1 unready\n  -> 10.0.0.2:80 v1\n", describeServer(snap.Servers[0]))
	assert.Equal(t, []SourceError{{"m.yaml", "EndpointSlice default/b: 10.0.0.1:80 (and 1 more) has colour v2 here but v1 in EndpointSlice a, which sorts first and is used for VirtualServer default/myapp; remove it from one of them"}}, snap.Errors)
}

// TestColourConflictMany has more endpoints than a sort keeps in order by chance.
func TestColourConflictMany(t *testing.T) {
	var all []string
	for i := range 60 {
		all = append(all, fmt.Sprintf("{addresses: [10.0.0.%d]}", i+1))
	}
	list := strings.Join(all, ", ")
	text := fmt.Sprintf(server, "myapp", "myapp") + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]")
	for _, name := range []string{"d", "c", "b", "a"} {
		text += fmt.Sprintf(slice, name, "myapp", ", version: of-"+name, "IPv4", "{port: 80}", list)
	}
	snap := Resolve(objects(t, text))
	require.Len(t, snap.Servers[0].Ports[0].Endpoints, 60)
	for _, e := range snap.Servers[0].Ports[0].Endpoints {
		assert.Equal(t, "of-a", e.Colour)
	}
	assert.Len(t, snap.Errors, 3)
}

// TestPodColour: the slice's label comes before the Pod's.
func TestPodColour(t *testing.T) {
	text := fmt.Sprintf(server, "myapp", "myapp") + fmt.Sprintf(service, "myapp", "ports: [{port: 80}]") +
		fmt.Sprintf(slice, "a", "myapp", "", "IPv4", "{port: 80}", "{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p1, namespace: elsewhere}}, {addresses: [10.0.0.2], targetRef: {kind: Node, name: p1}}, {addresses: [10.0.0.3]}") +
		fmt.Sprintf(slice, "b", "myapp", ", version: v1", "IPv4", "{port: 80}", "{addresses: [10.0.0.4], targetRef: {kind: Pod, name: p1}}")
	o := objects(t, text)
	o.PodColour = func(pod types.NamespacedName, label string) string {
		return map[string]string{"default/p1 version": "v2"}[pod.String()+" "+label]
	}
	assert.Equal(t, "port \"\" TCP\n  -> 10.0.0.1:80 v2\n  -> 10.0.0.2:80 \n  -> 10.0.0.3:80 \n  -> 10.0.0.4:80 v1\n", describeServer(Resolve(o).Servers[0]))
}

func TestClaims(t *testing.T) {
	nodePort := func(name string, port int) string {
		return fmt.Sprintf(service, name, fmt.Sprintf("type: NodePort, ports: [{port: 80, nodePort: %d}]", port))
	}
	a, b := fmt.Sprintf(server, "a", "sa"), fmt.Sprintf(server, "b", "sb")
	refused := func(s *Snapshot) string {
		var out []string
		for _, server := range s.Servers {
			if server.Refused != nil {
				assert.Empty(t, server.Ports)
				out = append(out, server.Key.Name+" "+server.Refused.Reason)
			}
		}
		return strings.Join(out, ", ")
	}
	only := func(text string) *Snapshot { return Resolve(objects(t, text)) }
	same := a + fmt.Sprintf(server, "b", "sa") + nodePort("sa", 30080)
	ports := a + b + nodePort("sa", 30080) + nodePort("sb", 30080)
	preview := a + strings.Replace(b, "active: v1", "active: v1, preview: {colour: v2, nodePort: 30080}", 1) + nodePort("sa", 30080) + nodePort("sb", 30081)
	addresses := a + b + fmt.Sprintf(service, "sa", "externalIPs: [192.0.2.1], ports: [{port: 80}]") + fmt.Sprintf(service, "sb", "clusterIP: 192.0.2.1, ports: [{port: 80}]")
	for name, c := range map[string]struct {
		text     string
		previous *Snapshot
		want     string
	}{
		"first in order has the Service":  {same, nil, "b ServiceTaken"},
		"who had the Service keeps it":    {same, only(fmt.Sprintf(server, "b", "sa") + nodePort("sa", 30080)), "a ServiceTaken"},
		"keys alone tell who had it":      {same, &Snapshot{Servers: []Server{{Key: types.NamespacedName{Namespace: "default", Name: "b"}, Spec: &v1alpha1.VirtualServerSpec{}}}}, "a ServiceTaken"},
		"first in order has the port":     {ports, nil, "b PortTaken"},
		"who had the port keeps it":       {ports, only(a + b + nodePort("sa", 30081) + nodePort("sb", 30080)), "a PortTaken"},
		"preview":                         {preview, nil, "b PortTaken"},
		"preview had it first":            {preview, only(strings.Replace(preview, "nodePort: 30080}]", "nodePort: 30082}]", 1)), "a PortTaken"},
		"addresses":                       {addresses, nil, "b PortTaken"},
		"another protocol":                {strings.Replace(addresses, "clusterIP: 192.0.2.1, ports: [{port: 80}]", "clusterIP: 192.0.2.1, ports: [{port: 80, protocol: UDP}]", 1), nil, ""},
		"refused for other reasons":       {b + a + nodePort("sb", 30080), nil, "a ServiceNotFound"},
		"who was refused before has none": {ports, only(ports), "b PortTaken"},
	} {
		t.Run(name, func(t *testing.T) {
			o := objects(t, c.text)
			o.Previous = c.previous
			assert.Equal(t, c.want, refused(Resolve(o)))
		})
	}
}

// TestResolveProperties draws small worlds and holds the Snapshot to what its documentation promises,
// whatever the order of the objects.
func TestResolveProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var text strings.Builder
		for i := range rapid.IntRange(1, 4).Draw(rt, "servers") {
			fmt.Fprintf(&text, server, fmt.Sprintf("vs%d", i), fmt.Sprintf("s%d", rapid.IntRange(0, 4).Draw(rt, "service")))
		}
		for i := range 4 {
			fmt.Fprintf(&text, service, fmt.Sprintf("s%d", i), fmt.Sprintf("type: NodePort, externalIPs: [192.0.2.%d], ports: [{port: 80, nodePort: %d}]", rapid.IntRange(1, 3).Draw(rt, "ip"), rapid.IntRange(30000, 30003).Draw(rt, "port")))
		}
		for i := range rapid.IntRange(0, 6).Draw(rt, "slices") {
			colour := rapid.SampledFrom([]string{"", ", version: v1", ", version: v2"}).Draw(rt, "colour")
			var eps []string
			for range rapid.IntRange(0, 5).Draw(rt, "endpoints") {
				eps = append(eps, fmt.Sprintf("{addresses: [10.0.0.%d], conditions: {ready: %v}}", rapid.IntRange(1, 6).Draw(rt, "addr"), rapid.Bool().Draw(rt, "ready")))
			}
			fmt.Fprintf(&text, slice, fmt.Sprintf("e%d", i), fmt.Sprintf("s%d", rapid.IntRange(0, 3).Draw(rt, "of")), colour, "IPv4", "{port: 80}", strings.Join(eps, ", "))
		}
		o := objects(t, text.String())
		snap := Resolve(o)
		shuffled := Objects{
			VirtualServers: rapid.Permutation(o.VirtualServers).Draw(rt, "p1"),
			Services:       rapid.Permutation(o.Services).Draw(rt, "p2"),
			EndpointSlices: rapid.Permutation(o.EndpointSlices).Draw(rt, "p3"),
		}
		assert.Equal(rt, snap, Resolve(shuffled))
		shuffled.Previous = snap
		assert.Equal(rt, snap, Resolve(shuffled), "resolving again must change nothing")

		claimed := map[claim]types.NamespacedName{}
		for i := range snap.Servers {
			s := &snap.Servers[i]
			assert.True(rt, i == 0 || compareKeys(snap.Servers[i-1].Key, s.Key) < 0, "sorted")
			if s.Refused != nil {
				assert.Empty(rt, s.Ports)
				continue
			}
			for _, c := range claims(s) {
				assert.NotContains(rt, claimed, c)
				claimed[c] = s.Key
			}
			for _, p := range s.Ports {
				for j := 1; j < len(p.Endpoints); j++ {
					assert.Negative(rt, p.Endpoints[j-1].Addr.Compare(p.Endpoints[j].Addr), "sorted, once each")
				}
			}
		}
	})
}

func world(services, endpoints int) Objects {
	var o Objects
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		file, errs := manifest.Parse("m.yaml", []byte(fmt.Sprintf(server, name, name)+
			fmt.Sprintf(service, name, fmt.Sprintf("type: NodePort, clusterIP: 10.96.%d.%d, ports: [{port: 80, nodePort: %d}]", i/250, 1+i%250, 20000+i))))
		if len(errs) > 0 {
			panic(errs[0])
		}
		o.VirtualServers = append(o.VirtualServers, NewVirtualServer(file.VirtualServers[0], file.Digest))
		o.Services = append(o.Services, file.Services...)
		for c := range 2 {
			port := int32(80)
			s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}}}
			s.Namespace, s.Name = "default", fmt.Sprintf("%s-v%d", name, c+1)
			s.Labels = map[string]string{discoveryv1.LabelServiceName: name, "version": fmt.Sprintf("v%d", c+1)}
			for e := range endpoints / 2 {
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250, 1+c*100+e)}})
			}
			o.EndpointSlices = append(o.EndpointSlices, NewEndpointSlice(s, "m.yaml"))
		}
	}
	return o
}

func BenchmarkResolve(b *testing.B) {
	o := world(1000, 20)
	o.Previous = Resolve(o)
	require.Len(b, o.Previous.Servers, 1000)
	require.Len(b, o.Previous.Servers[999].Ports[0].Endpoints, 20)
	b.ReportAllocs()
	for b.Loop() {
		Resolve(o)
	}
}
