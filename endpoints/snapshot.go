package endpoints

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pointsman/pointsman/api/v1alpha1"
)

// Snapshot is all that could get traffic, at one moment. It is immutable: whoever holds one may read
// it from any goroutine and must not change it.
type Snapshot struct {
	Servers []Server // sorted by Key; accepted ones and refused ones
	// Errors are the sources that could not be used as they are now (a manifest that does not parse,
	// say), sorted. What they last declared rightly is still part of Servers.
	Errors []SourceError
}

// WithErrors is the Snapshot with further errors. It shares Servers.
func (s *Snapshot) WithErrors(errs ...SourceError) *Snapshot {
	if len(errs) == 0 {
		return s
	}
	out := &Snapshot{Servers: s.Servers, Errors: slices.Concat(s.Errors, errs)}
	out.sortErrors()
	return out
}

// sortErrors sorts and drops repetitions: two VirtualServers may find the same fault.
func (s *Snapshot) sortErrors() {
	slices.SortFunc(s.Errors, func(a, b SourceError) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Message, b.Message))
	})
	s.Errors = slices.Compact(s.Errors)
}

// SourceError says why a source is not in force as it stands.
type SourceError struct {
	Source  string // file path, or the API server
	Message string // object, field, value and the mend, with file and line
}

// Server is one VirtualServer, resolved against its Service and EndpointSlices.
type Server struct {
	Key types.NamespacedName
	// Spec is what the user declared, with defaults filled in. Never nil.
	Spec *v1alpha1.VirtualServerSpec
	// Digest identifies the declaration of the VirtualServer: hex SHA-256 of the manifest file's bytes, or
	// UID/Generation in the API server. `switch --wait` knows by it that its edit was seen.
	Digest string
	// Generation and UID are those of the object in the API server; zero for one from a manifest.
	Generation int64
	UID        types.UID
	// Decision is what was decided for it in the cluster; nil for a manifest, and before the first one.
	Decision *Decision `json:",omitempty"`
	// Refused, when not nil, says why the VirtualServer is not in force; Ports is then empty.
	Refused *Refusal
	// Affinity is the session affinity timeout in seconds (Service.spec.sessionAffinity ClientIP); 0: none.
	Affinity uint32
	Ports    []Port // in the Service's order
	// Coming are the ways in, without endpoints, to a Service that lacks nothing but our label: what can be
	// prepared for the moment that it gets the label.
	Coming []Port `json:",omitempty"`
}

// Decision is which colour gets a VirtualServer's new connections, as its status in the API server has it. It
// is told of as it changes, whether the declaration is in force or refused.
type Decision struct {
	Number    int64 // counts them; a node that knows one does not go back
	Active    string
	Previous  string
	Retiring  string
	Candidate string
	Weight    int32
	Phase     v1alpha1.Phase
	Rollback  bool
}

// refuse takes everything from the server that only an accepted one has.
func (s *Server) refuse(why *Refusal) { s.Refused, s.Ports, s.Affinity, s.Coming = why, nil, 0, nil }

// Same says that s is o, as two Snapshots share it. It looks at what they share, not at what they hold, so
// that it costs next to nothing; of equal ones that share nothing, and of one without a Digest, it says no.
func (s *Server) Same(o *Server) bool {
	return s.Digest != "" && s.Digest == o.Digest && s.Key == o.Key && s.Generation == o.Generation && s.UID == o.UID &&
		s.Refused == o.Refused && s.Affinity == o.Affinity && samePorts(s.Ports, o.Ports) && samePorts(s.Coming, o.Coming)
}

func samePorts(a, b []Port) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// Refusal is the reason and the mend, as in the condition Accepted=False.
type Refusal struct {
	Reason  string // CamelCase: ServiceNotFound, ServiceNotLabelled, ServiceTaken, PortTaken…
	Message string
	// Gone: the Service is known not to be there, which is as good a declaration as any. What was served
	// before is not held, as it is under any other refusal.
	Gone bool `json:",omitempty"`
}

// Port is one port of the Service: the ways in to it, and the endpoints behind it.
type Port struct {
	Name      string // Service port name; may be ""
	Protocol  corev1.Protocol
	Ways      []Way      // sorted, without duplicates
	Endpoints []Endpoint // of every colour, sorted by Addr, Port; no two with the same Addr and Port
}

// WayKind is the kind of address by which clients reach a port.
type WayKind string

// Ways in to a Service.
const (
	NodePort       WayKind = "NodePort"
	ClusterIP      WayKind = "ClusterIP"
	ExternalIP     WayKind = "ExternalIP"
	LoadBalancerIP WayKind = "LoadBalancerIP"
)

// Way is one address and port by which clients reach a Service port.
type Way struct {
	Kind WayKind
	// Addr is the virtual address. For NodePort it is the unspecified address of the family (0.0.0.0
	// or ::), and stands for every address of the node in that family.
	Addr netip.Addr
	Port uint16
	// LocalOnly: only endpoints on this node may be used and the client's address is kept
	// (externalTrafficPolicy or internalTrafficPolicy Local).
	LocalOnly bool
}

// Endpoint is one address and port behind a Service port.
type Endpoint struct {
	// In an order that leaves no gap: a node keeps tens of thousands.
	Addr   netip.Addr
	Colour string // value of the colour label; "" when the endpoint has none
	Node   string // nodeName of the endpoint, or ""
	Port   uint16
	// As in discovery.k8s.io/v1 EndpointConditions, with nil resolved (Ready and Serving default to
	// true, Terminating to false).
	Ready, Serving, Terminating bool
}
