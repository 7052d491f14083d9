package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Defaults that [Default] fills in; the kubebuilder markers repeat them for the API server.
const (
	DefaultColourLabel     = "version"
	DefaultScheduler       = "rr"
	DefaultForwarding      = Masquerade
	DefaultGateMinReady    = "100%"
	DefaultGateTimeout     = 2 * time.Minute
	DefaultObserveWindow   = 10 * time.Minute
	DefaultObserveMinReady = "80%"
	DefaultDrainTimeout    = 5 * time.Minute
	DefaultProbePath       = "/"
	DefaultProbeScheme     = "HTTP"
	DefaultProbeStatus     = 200
)

// Default fills in what the user left out. It never changes what the user wrote.
func Default(vs *VirtualServer) {
	s := &vs.Spec
	fill(&s.ColourLabel, DefaultColourLabel)
	fill(&s.Scheduler.Name, DefaultScheduler)
	fill(&s.Forwarding, DefaultForwarding)

	gate := &s.Switch.Gate
	fillPointer(&gate.MinReady, intstr.FromString(DefaultGateMinReady))
	fill(&gate.Nodes, GateNodesAll)
	fillPointer(&gate.Timeout, metav1.Duration{Duration: DefaultGateTimeout})
	if gate.Probe != nil && gate.Probe.HTTP != nil {
		http := gate.Probe.HTTP
		fill(&http.Scheme, DefaultProbeScheme)
		fill(&http.Path, DefaultProbePath)
		fillPointer(&http.Status, DefaultProbeStatus)
	}

	if o := s.Switch.Observe; o != nil {
		fillPointer(&o.Window, metav1.Duration{Duration: DefaultObserveWindow})
		fillPointer(&o.MinReady, intstr.FromString(DefaultObserveMinReady))
		fill(&o.OnFailure, FailureRollback)
	}

	drain := &s.Switch.Drain
	fillPointer(&drain.Timeout, metav1.Duration{Duration: DefaultDrainTimeout})
	fill(&drain.OnTimeout, DrainKeep)
}

func fill[T comparable](to *T, value T) {
	var zero T
	if *to == zero {
		*to = value
	}
}

func fillPointer[T any](to **T, value T) {
	if *to == nil {
		*to = &value
	}
}
