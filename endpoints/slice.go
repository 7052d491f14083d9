package endpoints

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// EndpointSlice is what matters of one, and the source that errors about it name. A node keeps all of them for as long as
// they exist; as [discoveryv1.EndpointSlice] they are three times the size, and five with Pods.
type EndpointSlice struct {
	Namespace, Name string
	Source          string
	Service         string  // that its label names; "" for none
	Labels          []Label // the others, of which there are few
	AddressType     discoveryv1.AddressType
	Ports           []SlicePort
	Endpoints       []SliceEndpoint
}

// Label is one of a slice.
type Label struct{ Key, Value string }

// SlicePort is a port that all endpoints of a slice have. One that is not a port number is not among them.
type SlicePort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
}

// SliceEndpoint is an endpoint of a slice that has an address.
type SliceEndpoint struct {
	Addr netip.Addr
	Node string
	Pod  string // that its targetRef names; "" for none
	// As in [Endpoint].
	Ready, Serving, Terminating bool
}

// NewEndpointSlice takes what matters of a slice.
func NewEndpointSlice(s *discoveryv1.EndpointSlice, source string) EndpointSlice {
	out := EndpointSlice{Namespace: s.Namespace, Name: s.Name, Source: source, AddressType: s.AddressType}
	for key, value := range s.Labels {
		out.AddLabel(key, value)
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		out.AddPort(valueOr(p.Name, ""), string(valueOr(p.Protocol, "")), int64(valueOr(p.Port, 0)))
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			continue
		}
		pod := ""
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			pod = e.TargetRef.Name
		}
		out.AddEndpoint(e.Addresses[0], SliceEndpoint{ // the API gives no meaning to further ones
			Node: valueOr(e.NodeName, ""), Pod: pod,
			Ready:       valueOr(e.Conditions.Ready, true),
			Serving:     valueOr(e.Conditions.Serving, true),
			Terminating: valueOr(e.Conditions.Terminating, false),
		})
	}
	return out
}

// label is the value of a label, "" for one that it has not.
func (s *EndpointSlice) label(key string) string {
	if key == discoveryv1.LabelServiceName {
		return s.Service
	}
	for _, l := range s.Labels {
		if l.Key == key {
			return l.Value
		}
	}
	return ""
}

// AddLabel adds a label that it has not.
func (s *EndpointSlice) AddLabel(key, value string) {
	if key == discoveryv1.LabelServiceName {
		s.Service = value
	} else {
		s.Labels = append(s.Labels, Label{key, value})
	}
}

// AddPort adds a port, of which the name and the protocol may be "" and the number be none.
func (s *EndpointSlice) AddPort(name, protocol string, port int64) {
	if port > 0 && port <= 65535 {
		s.Ports = append(s.Ports, SlicePort{name, protocolOr(corev1.Protocol(protocol)), uint16(port)})
	}
}

// AddEndpoint adds an endpoint at an address, unless that is none.
func (s *EndpointSlice) AddEndpoint(addr string, e SliceEndpoint) {
	var err error
	if e.Addr, err = netip.ParseAddr(addr); err == nil {
		e.Addr = e.Addr.Unmap()
		s.Endpoints = append(s.Endpoints, e)
	}
}
