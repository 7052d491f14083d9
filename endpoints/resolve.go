package endpoints

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ServiceProxyLabel is the standard label that makes kube-proxy leave a Service alone; with the value
// ServiceProxyName the Service is ours to serve.
const (
	ServiceProxyLabel = "service.kubernetes.io/service-proxy-name"
	ServiceProxyName  = "pointsman"
)

// Reasons of a Refusal.
const (
	ReasonServiceNotFound    = "ServiceNotFound"
	ReasonServiceNotLabelled = "ServiceNotLabelled"
	ReasonServiceNotServable = "ServiceNotServable" // ExternalName, or source ranges that we would not enforce
	ReasonServiceTaken       = "ServiceTaken"
	ReasonPortTaken          = "PortTaken"
	ReasonInvalid            = "Invalid" // got past the CRD; a manifest that is not valid is a SourceError
)

// Resolve joins VirtualServers with their Services and endpoints. It is pure.
func Resolve(o Objects) *Snapshot {
	r := NewResolver(o.PodColour, o.Previous)
	for _, svc := range o.Services {
		r.SetService(svc)
	}
	for _, slice := range o.EndpointSlices {
		r.SetSlice(slice)
	}
	for _, vs := range o.VirtualServers {
		r.SetVirtualServer(vs)
	}
	return r.Snapshot()
}

// refuseService says why a Service is not ours to serve, or nil.
func refuseService(name types.NamespacedName, svc *corev1.Service, gone bool) *Refusal {
	switch {
	case svc == nil:
		return &Refusal{Reason: ReasonServiceNotFound, Message: fmt.Sprintf("spec.service.name: there is no Service %s; create it, or name another of the namespace %s", name, name.Namespace), Gone: gone}
	case svc.Labels[ServiceProxyLabel] != ServiceProxyName:
		has := "lacks the label"
		if value, ok := svc.Labels[ServiceProxyLabel]; ok {
			has = fmt.Sprintf("has %q in the label", value)
		}
		return &Refusal{Reason: ReasonServiceNotLabelled, Message: fmt.Sprintf(
			"Service %s %s by which kube-proxy leaves it to pointsman; add to its metadata.labels the line `%s: %s`, or run: kubectl label service -n %s %s --overwrite %s=%s",
			name, has, ServiceProxyLabel, ServiceProxyName, name.Namespace, name.Name, ServiceProxyLabel, ServiceProxyName)}
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return &Refusal{Reason: ReasonServiceNotServable, Message: fmt.Sprintf("Service %s has type ExternalName, a DNS alias with nothing to balance; set its type to ClusterIP, NodePort or LoadBalancer", name)}
	case svc.Spec.Type == corev1.ServiceTypeLoadBalancer && len(svc.Spec.LoadBalancerSourceRanges) > 0:
		return &Refusal{Reason: ReasonServiceNotServable, Message: fmt.Sprintf("Service %s limits its clients with spec.loadBalancerSourceRanges, which pointsman does not enforce, so serving it would open it to everyone; remove the field and filter before the node", name)}
	}
	return nil
}

// coming are the ways in to a Service that has no service proxy's label yet and would be ours with it.
func coming(svc *corev1.Service) []Port {
	if svc == nil {
		return nil
	}
	if _, labelled := svc.Labels[ServiceProxyLabel]; labelled {
		return nil // another proxy's
	}
	ours := svc.DeepCopy()
	ours.Labels = map[string]string{ServiceProxyLabel: ServiceProxyName}
	if refuseService(types.NamespacedName{}, ours, false) != nil {
		return nil
	}
	out, _ := ports(svc, nil, nil, types.NamespacedName{})
	return out
}

func affinity(svc *corev1.Service) uint32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
		return uint32(*c.ClientIP.TimeoutSeconds)
	}
	return uint32(corev1.DefaultClientIPServiceAffinitySeconds)
}

func ports(svc *corev1.Service, of []EndpointSlice, colour colourFunc, server types.NamespacedName) ([]Port, []SourceError) {
	var errs []SourceError
	families := families(svc, of)
	out := make([]Port, 0, len(svc.Spec.Ports))
	for _, sp := range svc.Spec.Ports {
		p := Port{Name: sp.Name, Protocol: protocolOr(sp.Protocol), Ways: ways(svc, sp, families)}
		var conflicts []SourceError
		p.Endpoints, conflicts = portEndpoints(of, p.Name, p.Protocol, colour, server)
		errs = append(errs, conflicts...)
		out = append(out, p)
	}
	return out, errs
}

func protocolOr(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}
