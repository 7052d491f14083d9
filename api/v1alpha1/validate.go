package v1alpha1

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Schedulers are the kernel's (net/netfilter/ipvs/ip_vs_*.c, as of 7.2).
var Schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

// schedulerFlags maps each flag, as ipvsadm names it, to the one scheduler that knows it; "" stands
// for any.
var schedulerFlags = map[string]string{
	"flag-1": "", "flag-2": "", "flag-3": "",
	"sh-fallback": "sh", "sh-port": "sh",
	"mh-fallback": "mh", "mh-port": "mh",
}

// Bounds that keep an object, and what the API server spends on checking it, small. The kubebuilder
// markers repeat them.
const (
	MaxPreviewSources  = 64
	MaxProbePath       = 2048
	MaxProbeHost       = 259 // a DNS name, a colon and a port
	MaxProbeBody       = 1024
	MaxProbeServerName = 253
	MaxProbeService    = 253
	MaxURL             = 2048
	MaxQuery           = 4096
	MaxBoundText       = 32 // of a Prometheus query's max and min
	MaxDurationText    = 64 // characters; checked where the text is read
)

// Validate returns all that is wrong with a VirtualServer on which [Default] was called. Each message
// names the field, its value and the mend.
func Validate(vs *VirtualServer) field.ErrorList {
	errs := validateMeta(vs)
	spec := field.NewPath("spec")
	s := &vs.Spec

	service := spec.Child("service", "name")
	if s.Service.Name == "" {
		errs = append(errs, field.Required(service, "name the Service whose addresses and ports are served, as in service: {name: myapp}"))
	} else {
		errs = append(errs, details(service, s.Service.Name, validation.IsDNS1123Label(s.Service.Name))...)
	}
	errs = append(errs, details(spec.Child("colourLabel"), s.ColourLabel, validation.IsQualifiedName(s.ColourLabel))...)
	errs = append(errs, colour(spec.Child("active"), s.Active, "the colour that gets users' new connections, as in active: v1")...)
	errs = append(errs, validatePreview(spec.Child("preview"), s.Preview)...)
	errs = append(errs, validateScheduler(spec.Child("scheduler"), s.Scheduler)...)
	errs = append(errs, oneOf(spec.Child("forwarding"), s.Forwarding, Masquerade, Tunnel, Direct)...)
	if s.Steering != "" {
		errs = append(errs, oneOf(spec.Child("steering"), s.Steering, SteeringAuto, SteeringAddress, SteeringMark)...)
	}
	return append(errs, validateSwitch(spec.Child("switch"), &s.Switch)...)
}

// validateMeta is what the API server asks of every object's metadata.
func validateMeta(vs *VirtualServer) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata")
	meta := vs.ObjectMeta
	if meta.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "give the object a name"))
		meta.Name = "unnamed" // said once is enough
	}
	return append(errs, apivalidation.ValidateObjectMeta(&meta, true, apivalidation.NameIsDNSSubdomain, path)...)
}

func validatePreview(path *field.Path, p *Preview) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := colour(path.Child("colour"), p.Colour, "the colour that the preview leads to, as in colour: v2")
	if p.NodePort != nil {
		errs = append(errs, details(path.Child("nodePort"), *p.NodePort, validation.IsValidPortNum(int(*p.NodePort)))...)
	} else if len(p.Sources) == 0 {
		errs = append(errs, field.Invalid(path, p.Colour, "leads nowhere; give a nodePort, or the sources that get the colour on the production addresses, or both"))
	}
	if len(p.Sources) > MaxPreviewSources {
		errs = append(errs, field.TooMany(path.Child("sources"), len(p.Sources), MaxPreviewSources))
	}
	for i, s := range p.Sources {
		prefix, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(path.Child("sources").Index(i), s, "must be a CIDR, as in 192.0.2.0/24 or 2001:db8::/64"))
		case prefix.Addr().Is4In6():
			errs = append(errs, field.Invalid(path.Child("sources").Index(i), s, "must be a CIDR, as in 192.0.2.0/24; this is an IPv4 one in IPv6 form"))
		case prefix != prefix.Masked():
			errs = append(errs, field.Invalid(path.Child("sources").Index(i), s, fmt.Sprintf("has bits set beyond its length; write %s", prefix.Masked())))
		}
	}
	return errs
}

func validateScheduler(path *field.Path, s Scheduler) field.ErrorList {
	errs := oneOf(path.Child("name"), s.Name, Schedulers...)
	for i, flag := range s.Flags {
		at := path.Child("flags").Index(i)
		only, known := schedulerFlags[flag]
		switch {
		case !known:
			errs = append(errs, oneOf(at, flag, "flag-1", "flag-2", "flag-3", "sh-fallback", "sh-port", "mh-fallback", "mh-port")...)
		case only != "" && only != s.Name:
			errs = append(errs, field.Invalid(at, flag, fmt.Sprintf("is a flag of scheduler %s, not of %s; remove it or set scheduler.name: %s", only, s.Name, only)))
		case slices.Contains(s.Flags[:i], flag):
			errs = append(errs, field.Invalid(at, flag, "is given twice; remove one"))
		}
	}
	return errs
}

// ValidateColour returns what is wrong with a colour, in words that follow its name, or nothing.
func ValidateColour(value string) []string {
	if value == "" {
		return []string{"must not be empty"}
	}
	if len(validation.IsValidLabelValue(value)) > 0 {
		return []string{"must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"}
	}
	return nil
}

func colour(path *field.Path, value, want string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "give "+want)}
	}
	return details(path, value, ValidateColour(value))
}

// atMost bounds a text as the schema does, in characters.
func atMost(path *field.Path, value string, limit int) field.ErrorList {
	if n := utf8.RuneCountInString(value); n > limit {
		return field.ErrorList{field.Invalid(path, string([]rune(value)[:32])+"…", fmt.Sprintf("has %d characters; at most %d may be given", n, limit))}
	}
	return nil
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
