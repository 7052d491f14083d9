package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultEndpointSlice fills in what the API server would.
func defaultEndpointSlice(slice *discoveryv1.EndpointSlice) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}

func validateEndpointSlice(slice *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateMeta(&slice.ObjectMeta, subdomain)
	labels := field.NewPath("metadata", "labels")
	if slice.Labels[discoveryv1.LabelServiceName] == "" {
		errs = append(errs, field.Required(labels, fmt.Sprintf("name the Service that the endpoints belong to, as in labels: {%s: myapp}", discoveryv1.LabelServiceName)))
	}
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), "give IPv4 or IPv6"))
	case discoveryv1.AddressTypeFQDN:
		errs = append(errs, field.Invalid(field.NewPath("addressType"), slice.AddressType, "names cannot be real servers; use IPv4 or IPv6 with addresses"))
	default:
		errs = append(errs, field.Invalid(field.NewPath("addressType"), slice.AddressType, "must be IPv4 or IPv6"))
	}
	errs = append(errs, validateSlicePorts(slice.Ports)...)
	for i := range slice.Endpoints {
		errs = append(errs, validateEndpoint(field.NewPath("endpoints").Index(i), slice.AddressType, &slice.Endpoints[i])...)
		if len(errs) > maxErrors {
			break
		}
	}
	return errs
}

func validateSlicePorts(ports []discoveryv1.EndpointPort) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i, p := range ports {
		at := field.NewPath("ports").Index(i)
		errs = append(errs, validatePortName(at.Child("name"), *p.Name, len(ports), names)...)
		errs = append(errs, validateProtocol(at.Child("protocol"), *p.Protocol)...)
		if p.Port == nil {
			errs = append(errs, field.Required(at.Child("port"), "give the port that the endpoints listen on"))
		} else {
			errs = append(errs, details(at.Child("port"), *p.Port, validation.IsValidPortNum(int(*p.Port)))...)
		}
	}
	return errs
}

func validateEndpoint(path *field.Path, family discoveryv1.AddressType, e *discoveryv1.Endpoint) field.ErrorList {
	addresses := path.Child("addresses")
	switch len(e.Addresses) {
	case 1:
	case 0:
		return field.ErrorList{field.Required(addresses, "give the endpoint's address")}
	default:
		return field.ErrorList{field.Invalid(addresses, strings.Join(e.Addresses, ", "), "has more than one address, of which only the first would be used; give each an endpoint of its own")}
	}
	value := e.Addresses[0]
	at := addresses.Index(0)
	errs := details(at, value, usable(value))
	if len(errs) == 0 {
		addr := netip.MustParseAddr(value)
		if family == discoveryv1.AddressTypeIPv4 && !addr.Is4() || family == discoveryv1.AddressTypeIPv6 && !addr.Is6() {
			errs = append(errs, field.Invalid(at, value, fmt.Sprintf("is not of addressType %s; put it in an EndpointSlice of its own family", family)))
		}
	}
	if e.NodeName != nil {
		errs = append(errs, details(path.Child("nodeName"), *e.NodeName, subdomain(*e.NodeName))...)
	}
	return errs
}

// validatePortName holds for Services and EndpointSlices: a port is matched by its name, so several
// must have one each.
func validatePortName(path *field.Path, name string, ports int, seen map[string]bool) field.ErrorList {
	var errs field.ErrorList
	switch {
	case name == "" && ports > 1:
		errs = append(errs, field.Required(path, "with several ports each needs a name, as in name: http"))
	case name != "" && seen[name]:
		errs = append(errs, field.Invalid(path, name, "is the name of another port too; give each a name of its own"))
	case name != "":
		errs = details(path, name, validation.IsDNS1123Label(name))
	}
	seen[name] = true
	return errs
}

func validateProtocol(path *field.Path, protocol corev1.Protocol) field.ErrorList {
	return oneOf(path, protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	names := make([]string, len(supported))
	for i, s := range supported {
		names[i] = string(s)
	}
	return field.ErrorList{field.Invalid(path, value, "must be one of "+strings.Join(names, ", "))}
}

func details(path *field.Path, value any, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}
