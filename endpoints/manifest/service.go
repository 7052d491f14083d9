package manifest

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultAffinitySeconds is the API server's default for ClientIP session affinity.
const DefaultAffinitySeconds = int32(10800)

// maxAffinitySeconds is the API server's bound, one day.
const maxAffinitySeconds = 86400

// defaultService fills in what the API server would, of the fields that we rely on. It allocates
// neither addresses nor node ports.
func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	if s.Type == "" {
		s.Type = corev1.ServiceTypeClusterIP
	}
	if s.SessionAffinity == "" {
		s.SessionAffinity = corev1.ServiceAffinityNone
	}
	if s.SessionAffinity == corev1.ServiceAffinityClientIP && (s.SessionAffinityConfig == nil || s.SessionAffinityConfig.ClientIP == nil || s.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil) {
		seconds := DefaultAffinitySeconds
		s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if s.InternalTrafficPolicy == nil {
		policy := corev1.ServiceInternalTrafficPolicyCluster
		s.InternalTrafficPolicy = &policy
	}
	if s.ExternalTrafficPolicy == "" && s.Type != corev1.ServiceTypeClusterIP {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	for i := range s.Ports {
		if s.Ports[i].Protocol == "" {
			s.Ports[i].Protocol = corev1.ProtocolTCP
		}
	}
}

func validateService(svc *corev1.Service) field.ErrorList {
	errs := validateMeta(&svc.ObjectMeta, validation.IsDNS1123Label)
	spec := field.NewPath("spec")
	s := &svc.Spec
	switch s.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	case corev1.ServiceTypeExternalName:
		return append(errs, field.Invalid(spec.Child("type"), s.Type, "is a DNS alias with nothing to balance; use ClusterIP, NodePort or LoadBalancer"))
	default:
		return append(errs, field.Invalid(spec.Child("type"), s.Type, "must be one of ClusterIP, NodePort, LoadBalancer"))
	}
	errs = append(errs, validateServicePorts(spec.Child("ports"), s)...)
	errs = append(errs, validateServiceAddresses(spec, svc)...)
	return append(errs, validateServicePolicies(spec, s)...)
}

func validateServicePorts(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	if len(s.Ports) == 0 {
		return field.ErrorList{field.Required(path, "give at least one port, as in ports: [{port: 80}]")}
	}
	var errs field.ErrorList
	type number struct {
		port     int32
		protocol corev1.Protocol
	}
	names, ports, nodePorts := map[string]bool{}, map[number]bool{}, map[number]bool{}
	for i, p := range s.Ports {
		at := path.Index(i)
		errs = append(errs, validatePortName(at.Child("name"), p.Name, len(s.Ports), names)...)
		errs = append(errs, validateProtocol(at.Child("protocol"), p.Protocol)...)
		errs = append(errs, details(at.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
		if ports[number{p.Port, p.Protocol}] {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port, fmt.Sprintf("is given twice for %s; remove one", p.Protocol)))
		}
		ports[number{p.Port, p.Protocol}] = true

		node := at.Child("nodePort")
		switch {
		case p.NodePort != 0:
			errs = append(errs, details(node, p.NodePort, validation.IsValidPortNum(int(p.NodePort)))...)
			if s.Type == corev1.ServiceTypeClusterIP {
				errs = append(errs, field.Invalid(node, p.NodePort, "means nothing for type ClusterIP; set type: NodePort or remove it"))
			}
			if nodePorts[number{p.NodePort, p.Protocol}] {
				errs = append(errs, field.Invalid(node, p.NodePort, fmt.Sprintf("is given twice for %s; give each port a node port of its own", p.Protocol)))
			}
			nodePorts[number{p.NodePort, p.Protocol}] = true
		case s.Type == corev1.ServiceTypeNodePort:
			errs = append(errs, field.Required(node, "a manifest has no API server to allocate one; give a node port, as in nodePort: 30080"))
		}
	}
	return errs
}

func validateServiceAddresses(spec *field.Path, svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	s := &svc.Spec
	if s.ClusterIP != "" && s.ClusterIP != corev1.ClusterIPNone {
		errs = append(errs, virtualAddress(spec.Child("clusterIP"), s.ClusterIP)...)
	}
	for i, ip := range s.ClusterIPs {
		at := spec.Child("clusterIPs").Index(i)
		if i == 0 && s.ClusterIP != ip {
			errs = append(errs, field.Invalid(at, ip, fmt.Sprintf("must be the same as spec.clusterIP, which is %q", s.ClusterIP)))
		}
		if ip != corev1.ClusterIPNone {
			errs = append(errs, virtualAddress(at, ip)...)
		}
	}
	for i, ip := range s.ExternalIPs {
		errs = append(errs, virtualAddress(spec.Child("externalIPs").Index(i), ip)...)
	}
	for i, f := range s.IPFamilies {
		at := spec.Child("ipFamilies").Index(i)
		errs = append(errs, oneOf(at, f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(s.IPFamilies[:i], f) {
			errs = append(errs, field.Invalid(at, f, "is given twice; remove one"))
		}
	}
	for i, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			errs = append(errs, virtualAddress(field.NewPath("status", "loadBalancer", "ingress").Index(i).Child("ip"), in.IP)...)
		}
	}
	return errs
}

func validateServicePolicies(spec *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	errs := oneOf(spec.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if c := s.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t < 1 || t > maxAffinitySeconds {
			errs = append(errs, field.Invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), t, "must be from 1 to 86400 seconds"))
		}
	}
	if s.ExternalTrafficPolicy != "" {
		errs = append(errs, oneOf(spec.Child("externalTrafficPolicy"), s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	if s.InternalTrafficPolicy != nil {
		errs = append(errs, oneOf(spec.Child("internalTrafficPolicy"), *s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	}
	return errs
}

// virtualAddress refuses what cannot be an address of a virtual server.
func virtualAddress(path *field.Path, value string) field.ErrorList {
	return details(path, value, usable(value))
}

// usable says what keeps an address from being a virtual server's or an endpoint's.
func usable(value string) []string {
	addr, err := netip.ParseAddr(value)
	switch {
	case err != nil:
		return []string{"must be an IP address, as in 10.0.0.1 or 2001:db8::1"}
	case addr.Zone() != "":
		return []string{"must have no zone; remove the part from %"}
	case addr.Is4In6():
		return []string{fmt.Sprintf("is an IPv4 address in IPv6 form; write %s", addr.Unmap())}
	case addr.IsUnspecified():
		return []string{"is the unspecified address; give a single one"}
	case addr.IsLoopback():
		return []string{"is a loopback address, which other nodes cannot reach; give another"}
	case addr.IsLinkLocalUnicast():
		return []string{"is a link-local address; give a routable one"}
	case addr.IsMulticast():
		return []string{"is a multicast address; give a unicast one"}
	}
	return nil
}

func validateMeta(meta *metav1.ObjectMeta, valid func(string) []string) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata")
	if meta.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "give the object a name"))
	} else {
		errs = append(errs, details(path.Child("name"), meta.Name, valid(meta.Name))...)
	}
	errs = append(errs, details(path.Child("namespace"), meta.Namespace, validation.IsDNS1123Label(meta.Namespace))...)
	return append(errs, metav1validation.ValidateLabels(meta.Labels, path.Child("labels"))...)
}

func subdomain(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }
