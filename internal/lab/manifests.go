package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Manifests writes a workload of the lab's backends as Kubernetes objects: the VirtualServer, its
// Service and one EndpointSlice a colour, a file each, so that each can be changed by itself.
type Manifests struct {
	Dir       string
	Name      string     // default myapp
	Namespace string     // default default
	Protocol  string     // default TCP
	NodePort  uint16     // default 30080
	ClusterIP netip.Addr // optional
	Port      uint16     // of the backends; default 80
	Switch    string     // YAML of spec.switch in flow style, optional
	Affinity  bool       // session affinity by client address
	DualStack bool       // IPv6 too, for a lab that has it
	Scheduler string     // YAML of spec.scheduler in flow style, optional
	Steering  string     // spec.steering, optional
	Preview   string     // YAML of spec.preview in flow style, optional
}

func (m Manifests) withDefaults() Manifests {
	if m.Name == "" {
		m.Name = "myapp"
	}
	if m.Namespace == "" {
		m.Namespace = "default"
	}
	if m.Protocol == "" {
		m.Protocol = "TCP"
	}
	if m.NodePort == 0 {
		m.NodePort = 30080
	}
	if m.Port == 0 {
		m.Port = 80
	}
	return m
}

// Paths of the files.
func (m Manifests) VirtualServerFile() string { return m.file("virtualserver") }
func (m Manifests) ServiceFile() string       { return m.file("service") }
func (m Manifests) SliceFile(colour string) string {
	return m.file("endpointslice-" + colour)
}

func (m Manifests) file(kind string) string {
	return filepath.Join(m.Dir, m.withDefaults().Name+"-"+kind+".yaml")
}

// WriteAll writes the whole workload, with each colour's backends ready.
func (m Manifests) WriteAll(l *Lab, active string) error {
	if err := m.WriteService(); err != nil {
		return err
	}
	for _, colour := range l.Config.Colours {
		if err := m.WriteSlice(colour.Name, Ready(l.Colour(colour.Name))...); err != nil {
			return err
		}
	}
	if m.DualStack {
		for _, colour := range l.Config.Colours {
			var endpoints []Endpoint
			for _, b := range l.Colour(colour.Name) {
				endpoints = append(endpoints, Endpoint{b.Addr6.Addr(), true})
			}
			if err := m.writeSlice(colour.Name+"-6", m.withDefaults().Port, endpoints); err != nil {
				return err
			}
		}
	}
	return m.WriteVirtualServer(active)
}

// WriteVirtualServer writes the VirtualServer.
func (m Manifests) WriteVirtualServer(active string) error {
	m = m.withDefaults()
	var b strings.Builder
	fmt.Fprintf(&b, `# Which colour of the workload gets users' new connections.
apiVersion: pointsman.io/v1alpha1
kind: VirtualServer
metadata:
  name: %[1]s
  namespace: %[2]s
spec:
  service:
    name: %[1]s
  colourLabel: version
  active: %[3]s # pointsman switch %[1]s COLOUR changes this line
`, m.Name, m.Namespace, active)
	if m.Scheduler != "" {
		fmt.Fprintf(&b, "  scheduler: %s\n", m.Scheduler)
	}
	if m.Steering != "" {
		fmt.Fprintf(&b, "  steering: %s\n", m.Steering)
	}
	if m.Preview != "" {
		fmt.Fprintf(&b, "  preview: %s\n", m.Preview)
	}
	if m.Switch != "" {
		fmt.Fprintf(&b, "  switch: %s\n", m.Switch)
	}
	return replaceFile(m.VirtualServerFile(), b.String())
}

// WriteService writes the Service.
func (m Manifests) WriteService() error {
	m = m.withDefaults()
	var b strings.Builder
	fmt.Fprintf(&b, `# The user's own Service: its node port is where users come in.
apiVersion: v1
kind: Service
metadata:
  name: %[1]s
  namespace: %[2]s
  labels:
    # Makes kube-proxy leave this Service to pointsman.
    service.kubernetes.io/service-proxy-name: pointsman
spec:
  type: NodePort
`, m.Name, m.Namespace)
	if m.ClusterIP.IsValid() {
		fmt.Fprintf(&b, "  clusterIP: %v\n", m.ClusterIP)
	}
	if m.Affinity {
		fmt.Fprintf(&b, "  sessionAffinity: ClientIP\n")
	}
	if m.DualStack {
		fmt.Fprintf(&b, "  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n")
	}
	fmt.Fprintf(&b, `  selector:
    app: %s
  ports:
  - protocol: %s
    port: 80
    targetPort: %d
    nodePort: %d
`, m.Name, m.Protocol, m.Port, m.NodePort)
	return replaceFile(m.ServiceFile(), b.String())
}

// Endpoint is one endpoint of an EndpointSlice.
type Endpoint struct {
	Addr  netip.Addr
	Ready bool
}

// Ready are the backends as ready endpoints.
func Ready(backends []*Backend) []Endpoint {
	endpoints := make([]Endpoint, len(backends))
	for i, b := range backends {
		endpoints[i] = Endpoint{b.Addr.Addr(), true}
	}
	return endpoints
}

// WriteSlice writes the EndpointSlice of one colour.
func (m Manifests) WriteSlice(colour string, endpoints ...Endpoint) error {
	return m.writeSlice(colour, m.withDefaults().Port, endpoints)
}

// WriteSliceOn writes one more EndpointSlice of a colour, whose endpoints are on another port.
func (m Manifests) WriteSliceOn(colour string, port uint16, endpoints ...Endpoint) error {
	return m.writeSlice(fmt.Sprintf("%s-%d", colour, port), port, endpoints)
}

// writeSlice writes a slice; its colour is the first part of its name.
func (m Manifests) writeSlice(name string, port uint16, endpoints []Endpoint) error {
	m = m.withDefaults()
	colour, _, _ := strings.Cut(name, "-")
	family := "IPv4"
	if len(endpoints) > 0 && endpoints[0].Addr.Is6() {
		family = "IPv6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# The pods of %[3]s, as Kubernetes would list them.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-%[6]s
  namespace: %[2]s
  labels:
    kubernetes.io/service-name: %[1]s
    version: %[3]s # the colour
addressType: %[7]s
ports:
- protocol: %[4]s
  port: %[5]d
`, m.Name, m.Namespace, colour, m.Protocol, port, name, family)
	if len(endpoints) == 0 {
		b.WriteString("endpoints: []\n")
	} else {
		b.WriteString("endpoints:\n")
	}
	for _, e := range endpoints {
		fmt.Fprintf(&b, "- {addresses: [%v], conditions: {ready: %v}}\n", e.Addr, e.Ready)
	}
	return replaceFile(m.SliceFile(name), b.String())
}

// replaceFile puts the text in the file's place at once, so that a watcher never sees half of it.
func replaceFile(path, text string) error {
	// A watcher of the directory takes what ends in .yaml.
	part := path + ".new"
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing a manifest: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return fmt.Errorf("writing a manifest: %w", err)
	}
	return nil
}
